//! `imgfactory gc TARGET`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::publish::{host_name, new_token};
use super::tree::ReleaseTree;
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
use system::clock;
use system::files::DirLock;

/// Between two looks whether a target is free.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A release is kept until its `retain` time is over, and longer if it is pinned or among the newest \
                  (--keep). The first `gc` marks the files that no kept release needs; a later `gc` removes them after \
                  the grace period. `gc` waits while a publication is running, and stops when one begins."
)]
pub(super) struct Args {
    /// A publish target, or the output directory of a build
    target: String,
    /// Public key of the releases: a file or base64; may be repeated [default: the build's]
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Only print what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Grace period between mark and removal, e.g. 14d or 36h [default: the build's, or 14d]
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// Number of newest releases to keep in any case [default: the build's, or 3]
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Keep this release; may be repeated [default: the build's pins]
    #[arg(long, value_name = "SERIAL")]
    pin: Vec<u64>,
    /// Number of files to handle at the same time
    #[arg(long, value_name = "N", default_value_t = 8)]
    jobs: usize,
    /// Seconds to wait while another publication or `gc` holds the target's lease
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// Believe this computer's clock, even if the target's clock or the dates of its release contradict it
    #[arg(long)]
    trust_clock: bool,
    /// Output directory of the build that supplies the key, grace period and pins
    #[arg(long, value_name = "OUT")]
    of: Option<PathBuf>,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    // A relative path of an output directory is fine too.
    let as_path = PathBuf::from(&args.target);
    let tree = match &args.of {
        Some(out) => Some(ReleaseTree::find(out)?),
        None if as_path.is_dir() => Some(ReleaseTree::find(&as_path)?),
        None => None,
    };
    let target = if as_path.is_dir() {
        Target::Directory(ReleaseTree::find(&as_path)?.root)
    } else {
        args.target.parse().map_err(|error: crate::publish::BadTarget| Failure::Usage(error.to_string()))?
    };
    let keys = match &tree {
        Some(tree) => tree.keys(&args.key)?,
        None if args.key.is_empty() => {
            return Err(Failure::Usage(
                "give the public key with --key, or the build that records it with --of OUT".into(),
            ));
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
    let policy = Policy { grace, keep, pinned, trust_clock: args.trust_clock };
    if let Some(warning) = targets::warning(&target) {
        session.progress.say(&warning);
    }
    let remote = targets::open(&target, args.jobs, &session.web)?;
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
        if let Err(doubt) = plan.unconfirmed(clock::now()) {
            log::warn!("{}: {doubt}", remote.name());
        }
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
