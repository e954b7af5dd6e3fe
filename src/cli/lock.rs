//! `imgfactory lock RECIPE`.

use std::path::PathBuf;

use super::doctor::CacheArg;
use super::{Failure, Session, print};
use crate::downloads::third_party::ThirdPartySources;
use crate::pipeline::steps::netbsd;
use crate::project::folder::{Project, lock_path};
use crate::recipe::lock::Lock;
use crate::recipe::{GuestKind, HostSystem, Origins};
use formats::report::Exit;
use system::files::write_atomic;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The lock lies beside the recipe, RECIPE.lock for RECIPE.yaml, and belongs into version control: a build then
takes the same files, or fails. Files that are new are fetched once, and are in the cache afterwards.")]
pub(super) struct Args {
    /// The recipe
    recipe: PathBuf,
    /// Directory of mirrored files of others, asked before the network
    #[arg(long, value_name = "DIR")]
    sources: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArg,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let (_, recipe) = Project::load(&args.recipe)?;
    let cache = args.cache.directory()?;
    let sources = ThirdPartySources::new(args.sources.as_deref(), &cache, false, session.progress.as_ref());
    let mut lock = Lock::default();
    if let HostSystem::Knoppix(knoppix, _) = &recipe.host.system {
        pin(&knoppix.origins, &sources, &mut lock)?;
    }
    for guest in &recipe.guests {
        match &guest.kind {
            GuestKind::Debian(_) => {}
            GuestKind::NetBsd(recipe) => {
                for file in netbsd::files(recipe, &Lock::default(), &sources)? {
                    lock.sums.extend(file.urls.into_iter().next().map(|url| (url, file.sum)));
                }
            }
            GuestKind::Plan9(plan9) => pin(&plan9.origins, &sources, &mut lock)?,
            GuestKind::Disk(disk) => pin(&disk.origins, &sources, &mut lock)?,
            GuestKind::Knoppix(knoppix) => pin(&knoppix.origins, &sources, &mut lock)?,
        }
    }
    let path = lock_path(&args.recipe);
    write_atomic(&path, lock.text().as_bytes())?;
    if !session.quiet {
        let count = match lock.sums.len() {
            1 => "1 file".to_owned(),
            n => format!("{n} files"),
        };
        print(&format!("{}: {count} of others\n", path.display()))?;
    }
    Ok(Exit::Done)
}

/// What the recipe itself knows a file by needs no lock.
fn pin(origins: &Origins, sources: &ThirdPartySources<'_>, lock: &mut Lock) -> Result<(), Failure> {
    if origins.sha256.is_some() {
        return Ok(());
    }
    let urls: Vec<String> = origins.urls.iter().map(ToString::to_string).collect();
    let (_, sum) = sources.get_unknown(&urls)?;
    lock.sums.extend(urls.into_iter().next().map(|url| (url, sum)));
    Ok(())
}
