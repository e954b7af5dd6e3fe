//! `imgfactory lock RECIPE`.

use std::path::PathBuf;

use super::doctor::CacheArg;
use super::{Failure, Session, print};
use crate::downloads::third_party::ThirdPartySources;
use crate::guests::{self, FileToLock};
use crate::project::folder::{Project, lock_path};
use crate::recipe::HostSystem;
use crate::recipe::lock::Lock;
use formats::report::Exit;
use system::files::write_output;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Writes RECIPE.lock beside RECIPE.yaml; keep it in version control. A build then uses exactly these \
                  files, or fails. Files that are not in the cache are downloaded."
)]
pub(super) struct Args {
    /// The recipe, a YAML file
    recipe: PathBuf,
    /// Directory of third-party files (NetBSD sets, ISOs, disks), searched before downloading
    #[arg(long, value_name = "DIR")]
    sources: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArg,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let (_, recipe) = Project::load(&args.recipe)?;
    let cache = args.cache.directory()?;
    let (progress, web) = (session.progress.as_ref(), &session.web);
    let sources = ThirdPartySources::new(args.sources.as_deref(), &cache, false, progress, web);
    let mut lock = Lock::default();
    let mut files = match &recipe.host.system {
        HostSystem::Debian(_) => vec![],
        HostSystem::Knoppix(knoppix, _) => guests::third_party::to_lock(&knoppix.source),
    };
    for guest in &recipe.guests {
        let kind = guests::builder(&guest.kind);
        files.extend(kind.files_to_lock(&sources).map_err(Failure::Failed)?);
    }
    for FileToLock { urls, sum } in files {
        let sum = match sum {
            Some(sum) => sum,
            None => sources.get_unknown(&urls)?.1,
        };
        lock.sums.extend(urls.into_iter().next().map(|url| (url, sum)));
    }
    let path = lock_path(&args.recipe);
    write_output(&path, lock.text().as_bytes())?;
    if !session.quiet {
        let count = match lock.sums.len() {
            1 => "1 file".to_owned(),
            n => format!("{n} files"),
        };
        print(&format!("{}: recorded {count}\n", path.display()))?;
    }
    Ok(Exit::Done)
}
