//! `imgfactory gc TARGET`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::publish::{host_name, new_token};
use super::tree::Tree;
use super::{Failure, Session, print};
use crate::publish::gc::{self, GcError, GcJob, Policy};
use crate::publish::{OfRemote, Target, follow};
use crate::recipe::Seconds;
use crate::repository::mirror::trusted;
use crate::repository::targets::{self, WallClock};
use crate::sys::progress::Unit;
use crate::yaml::Scalar;
use formats::names::Serial;
use formats::report::Exit;
use system::files::DirLock;

/// Between two looks whether a target is free.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Releases stay as long as they say themselves (the recipe's `retain`), the newest few always, and those that are
pinned. What only other releases name is condemned first, and removed by a later `gc` after the grace. A publication
that runs is waited for; one that begins makes it stop.")]
pub(super) struct Args {
    /// A target as `publish` knows it, or the output directory of a build
    target: String,
    /// Public key that signs its releases: a file, or base64 [default: the build's]
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Between condemning and removing: 14d, 36h [default: the build's, or 14d]
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// The newest so many releases stay [default: the build's, or 3]
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// This release stays; may be given several times [default: the build's]
    #[arg(long, value_name = "SERIAL")]
    pin: Vec<u64>,
    /// Files at a time
    #[arg(long, value_name = "N", default_value_t = 8)]
    jobs: usize,
    /// Wait so many seconds while somebody publishes or collects garbage there
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// The output directory of the build whose keys and times are taken
    #[arg(long, value_name = "OUT")]
    of: Option<PathBuf>,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    // A relative path of an output directory is fine too.
    let as_path = PathBuf::from(&args.target);
    let tree = match &args.of {
        Some(out) => Some(Tree::find(out)?),
        None if as_path.is_dir() => Some(Tree::find(&as_path)?),
        None => None,
    };
    let target = if as_path.is_dir() {
        Target::Directory(Tree::find(&as_path)?.root)
    } else {
        args.target.parse().map_err(|error: crate::publish::BadTarget| Failure::Usage(error.to_string()))?
    };
    let keys = match &tree {
        Some(tree) => tree.keys(&args.key)?,
        None if args.key.is_empty() => {
            return Err(Failure::Usage("give the public key with --key, or the build with --of OUT".into()));
        }
        None => trusted(&args.key)?,
    };
    let default = tree.map(|tree| tree.publish).unwrap_or_default();
    let grace = match &args.grace {
        Some(text) => {
            Seconds::read(text)
                .map_err(|wrong| Failure::Usage(format!("--grace: {}; {}", wrong.what, wrong.instead)))?
                .0
        }
        None => default.grace,
    };
    let mut pinned = std::collections::BTreeSet::new();
    for serial in args.pin.iter().copied().chain(default.pin.iter().map(|pin| u64::from(*pin))) {
        let serial = Serial::new(serial)
            .ok_or_else(|| Failure::Usage(format!("--pin {serial}: serials begin at 1")))?;
        pinned.insert(serial);
    }
    let keep = args.keep.unwrap_or(default.keep as usize);
    let policy = Policy { grace, keep, pinned };
    let remote = targets::open(&target, args.jobs)?;
    let keys = follow(&OfRemote(remote.as_ref()), &keys);
    let token = new_token()?;
    let host = host_name();
    let mut job = GcJob {
        remote: remote.as_ref(),
        keys: &keys,
        policy: &policy,
        clock: &WallClock,
        token: &token,
        host: &host,
        gone: &|_| {},
    };
    // A build in the same output directory writes blocks that no release names yet.
    let _lock = if as_path.is_dir() && !args.dry_run { Some(DirLock::take(&as_path)?) } else { None };
    let plan = gc::plan(&job)?;
    if args.dry_run {
        print(&format!("{plan}\n"))?;
        if !session.quiet {
            for item in &plan.due {
                print(&format!("remove {} {}\n", item.path, item.len))?;
            }
        }
        return Ok(Exit::Done);
    }
    let due = plan.due.len() as u64;
    let task = (due > 0).then(|| session.progress.start("removing", due, Unit::Things("files")));
    let gone = |n| task.iter().for_each(|task| task.advance(n));
    job.gone = &gone;
    let end = Instant::now() + Duration::from_secs(args.wait);
    let done = loop {
        match gc::collect(&job) {
            Err(GcError::Busy { .. }) if Instant::now() < end => std::thread::sleep(PAUSE),
            done => break done?,
        }
    };
    drop(task);
    print(&format!("{done}\n"))?;
    Ok(Exit::Done)
}
