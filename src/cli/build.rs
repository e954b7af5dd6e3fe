//! `imgfactory build RECIPE`.

use std::path::{Path, PathBuf};

use super::doctor::CacheArg;
use super::tree::NewestArgs;
use super::{Failure, Session, print};
use crate::debian::{ArchiveMirrors, MmdebstrapMode};
use crate::downloads::apt;
use crate::pipeline::build_record::StepRecord;
use crate::pipeline::last_signed::LastSigned;
use crate::pipeline::step_cache::DEFAULT_LIMIT;
use crate::pipeline::{self, Built, ReleaseSigner, Request};
use crate::project::client_program;
use crate::project::folder::{self, Project};
use crate::project::keys::KeyFiles;
use crate::project::preflight::{self, PreflightScope};
use crate::recipe::lock::Lock;
use crate::recipe::{Recipe, Size};
use crate::repository::published::Published;
use crate::yaml::Scalar;
use formats::report::{Exit, counted, size};
use system::clock;

#[derive(Debug, clap::Args)]
#[command(after_help = ENVIRONMENT)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
}

/// What `build` and `plan` have in common.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// The recipe, a YAML file
    recipe: PathBuf,
    /// Directory to write to: mirror/, the ISO, upload.txt [default: out/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Signing key: NAME for the file NAME.key; env:VARIABLE; command:COMMAND, which prints the key; or
    /// sign:PUBLIC:COMMAND, which signs. `plan` needs NAME.pub only [default: the recipe's `key`]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Mirror of the Debian archive, or of the security archive if URL ends in debian-security; once for each
    /// [default: this machine's apt sources]
    #[arg(long, value_name = "URL")]
    debian_mirror: Vec<String>,
    /// The client, a static program, for the miniroot [default: imgfetch beside this program]
    #[arg(long, value_name = "FILE")]
    imgfetch: Option<PathBuf>,
    /// Previous release, which keeps the upload small: a mirror's URL or directory, of which indexes and layouts
    /// are read, but no blocks [default: mirror/ in the output directory]
    #[arg(long, value_name = "DIR|URL")]
    previous: Option<PathBuf>,
    #[command(flatten)]
    newest: NewestArgs,
    /// Ignore the previous release's layouts and make fresh ones: a large upload, but no dead space
    #[arg(long)]
    repack: bool,
    /// Directory of third-party files (NetBSD sets, ISOs, disks), searched before downloading
    #[arg(long, value_name = "DIR")]
    sources: Option<PathBuf>,
    /// Use no network: take every file from the cache or from --sources
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    cache: CacheArg,
    /// Largest size of the cache, e.g. 20GiB or 500MiB; at its end, a build removes what was used longest ago
    /// [default: 20GiB]
    #[arg(long, value_name = "SIZE", value_parser = cache_size)]
    cache_max: Option<u64>,
}

pub(super) const ENVIRONMENT: &str = "\
Environment:
  IMGFACTORY_DEBIAN_MIRROR  same as --debian-mirror; several URLs with spaces between them
  IMGFACTORY_IMGFETCH       same as --imgfetch
  IMGFACTORY_KEY_PASSWORD   password of the signing key [default: asked for on the terminal]
  SOURCE_DATE_EPOCH         latest time of any file, in seconds since 1970
                            [default: the date of the newest InRelease]";

/// The arguments, as they are meant.
pub(super) struct ResolvedArgs {
    project: Project,
    pub recipe: Recipe,
    pub out: PathBuf,
    pub cache: PathBuf,
    mirrors: ArchiveMirrors,
    epoch: Option<i64>,
    pub key: String,
    public: String,
    sources: Option<PathBuf>,
    lock: Lock,
    imgfetch: Option<PathBuf>,
    pub previous: Option<Published>,
    last_signed: LastSigned,
    repack: bool,
    offline: bool,
    cache_limit: u64,
}

impl ResolvedArgs {
    /// Loads the project and the recipe, and checks the arguments against them.
    pub fn by(args: Common, session: &Session) -> Result<Self, Failure> {
        let (project, recipe) = Project::load(&args.recipe)?;
        let lock = folder::lock(&args.recipe)?;
        let out = args.out.unwrap_or_else(|| out_of(&recipe));
        let cache = args.cache.directory()?;
        let mirrors = mirrors(&args.debian_mirror)?;
        let epoch = epoch()?;
        preflight::require(PreflightScope::Build, &out, &cache)?;
        let key = args.key.unwrap_or_else(|| project.path(&recipe.key).display().to_string());
        let public = KeyFiles::public_of(&key)?;
        let previous = args.previous.as_deref();
        let previous = previous.map(|place| Published::open(place, 1, &session.web)).transpose()?;
        let last_signed = args.newest.last_signed(&out)?;
        let (repack, offline) = (args.repack, args.offline);
        let cache_limit = args.cache_max.unwrap_or(DEFAULT_LIMIT);
        Ok(ResolvedArgs {
            project,
            recipe,
            out,
            cache,
            mirrors,
            epoch,
            key,
            public,
            sources: args.sources,
            lock,
            imgfetch: args.imgfetch,
            previous,
            last_signed,
            repack,
            offline,
            cache_limit,
        })
    }

    /// A plan needs no client: it makes no medium.
    pub fn request<'a>(&'a self, out: &'a Path, imgfetch: &'a [u8], session: &'a Session) -> Request<'a> {
        Request {
            recipe: &self.recipe,
            project: &self.project,
            out,
            cache: &self.cache,
            cache_limit: self.cache_limit,
            mirrors: &self.mirrors,
            mode: if rustix::process::geteuid().is_root() {
                MmdebstrapMode::Root
            } else {
                MmdebstrapMode::Unshare
            },
            epoch: self.epoch,
            sources: self.sources.as_deref(),
            lock: &self.lock,
            offline: self.offline,
            previous: self.previous.as_ref(),
            last_signed: self.last_signed.clone(),
            repack: self.repack,
            public: &self.public,
            imgfetch,
            now: clock::now(),
            progress: session.progress.as_ref(),
            web: &session.web,
        }
    }
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let meant = ResolvedArgs::by(args.common, session)?;
    let key = KeyFiles::sign_with(&meant.key)?;
    let variable = || std::env::var_os("IMGFACTORY_IMGFETCH").map(Into::into);
    let imgfetch = client_program::read(meant.imgfetch.clone().or_else(variable))?;
    let signer = ReleaseSigner { key: &key, name: &meant.key };
    let built = pipeline::build(&meant.request(&meant.out, &imgfetch, session), &signer)?;
    if !session.quiet {
        print(&summary(&built, &meant.out))?;
    }
    Ok(Exit::Done)
}

/// Where a recipe is built unless another place is named.
pub(super) fn out_of(recipe: &Recipe) -> PathBuf {
    Path::new("out").join(recipe.name.as_str())
}

/// `--cache-max`: a number of bytes, or with a unit.
fn cache_size(text: &str) -> Result<u64, String> {
    Size::read(text).map(|size| size.0).map_err(|wrong| format!("{}; {}", wrong.what, wrong.instead))
}

fn mirrors(given: &[String]) -> Result<ArchiveMirrors, Failure> {
    let mut mirrors = ArchiveMirrors::default();
    let wrong = |text: &str, error| Failure::Usage(format!("--debian-mirror {text}: {error}"));
    for text in given {
        mirrors = mirrors.or(ArchiveMirrors::from_option(text).map_err(|error| wrong(text, error))?);
    }
    if let Ok(text) = std::env::var("IMGFACTORY_DEBIAN_MIRROR") {
        let more = ArchiveMirrors::from_option(&text)
            .map_err(|error| Failure::Usage(format!("IMGFACTORY_DEBIAN_MIRROR={text}: {error}")))?;
        mirrors = mirrors.or(more);
    }
    Ok(if mirrors.is_complete() { mirrors } else { mirrors.or(apt::own_mirrors()) })
}

fn epoch() -> Result<Option<i64>, Failure> {
    let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") else { return Ok(None) };
    match text.parse() {
        Ok(epoch) if epoch >= 0 => Ok(Some(epoch)),
        _ => Err(Failure::Usage(format!("SOURCE_DATE_EPOCH={text}: not a number of seconds since 1970"))),
    }
}

fn summary(built: &Built, out: &Path) -> String {
    let record = &built.record;
    let mut text = format!("{}: release {}\n\n", record.name, record.serial);
    for StepRecord { name, seconds, cached, .. } in &record.steps {
        text.push_str(&format!("{name:24} {seconds:6.1} s{}\n", if *cached { "  cached" } else { "" }));
    }
    text.push_str("\nimage           on disk     blocks      files  compressed\n");
    for image in &record.images {
        text.push_str(&format!(
            "{:12} {:>10} {:>10} {:>10} {:>11}\n",
            image.name,
            size(image.bytes),
            image.blocks,
            image.objects,
            size(image.compressed)
        ));
    }
    text.push_str(&format!("\n{}\n{}\n", built.iso.display(), record.parts));
    let files = counted(built.upload.steps().count() as u64, "file");
    let bytes = size(built.upload.bytes());
    text.push_str(&format!("{}: {files}, {bytes} to send\n", out.join("upload.txt").display()));
    text.push_str(&format!("boot it with: imgfactory run {}\n", out.display()));
    text
}
