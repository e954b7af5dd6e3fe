//! `imgfactory publish OUT`.

use std::any::Any;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::tree::ReleaseTree;
use super::{Failure, Session, print, print_error};
use crate::pipeline::build_record::RecordedTarget;
use crate::publish::{
    self, FileToSend, Job, LeaseToken, MirrorFiles, PublishOptions, PublishPlan, PublishResult, ReleaseState,
    Target,
};
use crate::repository::mirror::{CheckedTree, Expected, WebTree, prove};
use crate::repository::targets::{self, LocalTree, WallClock};
use crate::sys::progress::Unit;
use formats::release::{MirrorPath, TrustedKeys};
use formats::report::{Exit, counted, elapsed, size};
use formats::url::MirrorUrl;
use system::files::{AtomicFile, DirLock, FileError, read_at_most};
use system::http::{Http, Timeouts};

/// File in the output directory with the lease token and the measured rates.
const STATE: &str = ".publish.json";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Targets:
  /PATH or ./PATH                   a directory on this computer
  USER@HOST:PATH                    rsync over ssh
  rsync://HOST/MODULE/PATH          an rsync server
  http://HOST/PATH, https://...     WebDAV
  s3://BUCKET/PREFIX?endpoint=URL&region=NAME&style=path|host

Environment:
  IMGFACTORY_HTTP_USER, IMGFACTORY_HTTP_PASSWORD, IMGFACTORY_HTTP_TOKEN      for WebDAV
  AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN                for S3
  RSYNC_RSH, RSYNC_PASSWORD                                                  for rsync; see rsync(1)

If the command is interrupted, run it again: it continues where it stopped.
Clients use the old release until all files of the new one are in place.")]
pub(super) struct Args {
    /// The output directory of a build, or a mirror tree
    out: PathBuf,
    /// Target to publish to; may be repeated [default: the recipe's targets]
    #[arg(long, value_name = "TARGET")]
    to: Vec<String>,
    /// URL at which clients see the target: the first --url for the first --to, and so on. Some files are fetched from
    /// it as a check before `latest` is replaced
    #[arg(long, value_name = "URL", requires = "to")]
    url: Vec<String>,
    /// Public key of the release: a file or base64; may be repeated [default: the build's]
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Only print what would be sent
    #[arg(long)]
    dry_run: bool,
    /// Check that every block is on the target, instead of relying on the target's release
    #[arg(long)]
    verify: bool,
    /// Number of files to send at the same time
    #[arg(long, value_name = "N", default_value_t = 8)]
    jobs: usize,
    /// Seconds to wait while another publication or `gc` holds the target's lease
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// Ignore another publisher's lease on the target; use it only if you know that the publisher has ended
    #[arg(long)]
    take_over: bool,
    /// Publish to the targets one by one and stop at the first failure [default: the recipe's `on-failure`]
    #[arg(long)]
    stop: bool,
}

/// What one publication records for the next.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Memory {
    /// Identifies our leases, so that a second attempt takes over its own.
    token: String,
    /// Bytes a second, by target.
    rates: std::collections::BTreeMap<String, u64>,
}

/// The name of this machine.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A random token for leases: 32 hex digits.
pub(super) fn new_token() -> Result<LeaseToken, FileError> {
    use std::io::Read;
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| FileError::new(path, "read", error))?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(LeaseToken::new(&text).expect("32 hex digits"))
}

fn parsed(target: &RecordedTarget) -> Result<(Target, Option<MirrorUrl>), Failure> {
    let usage = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
    let to = target.to.parse::<Target>().map_err(|error| usage(&error))?;
    let url = target.url.as_deref().map(MirrorUrl::typed).transpose().map_err(|error| usage(&error))?;
    Ok((to, url))
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let tree = ReleaseTree::find(&args.out)?;
    let given: Vec<RecordedTarget> = args
        .to
        .iter()
        .enumerate()
        .map(|(at, to)| RecordedTarget { to: to.clone(), url: args.url.get(at).cloned() })
        .collect();
    if args.url.len() > given.len() {
        return Err(Failure::Usage("more --url than --to; give at most one URL for each target".into()));
    }
    let targets = if given.is_empty() { tree.publish.targets.clone() } else { given };
    if targets.is_empty() {
        return Err(Failure::Usage(
            "no target: give one with --to, or write `publish: targets:` into the recipe".into(),
        ));
    }
    let targets = targets.iter().map(parsed).collect::<Result<Vec<_>, _>>()?;
    let keys = publish::follow(&LocalTree(tree.root.clone()), &tree.keys(&args.key)?);
    let ours = tree.state(&keys)?;
    let _lock = DirLock::take(&args.out)?;
    let file = args.out.join(STATE);
    let mut memory: Memory = read_at_most(&file, 1 << 16)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let token = match LeaseToken::new(&memory.token) {
        Some(token) => token,
        None => new_token()?,
    };
    memory.token = token.as_str().into();
    if !args.dry_run {
        // Before our lease can be anywhere.
        remember(&file, &memory)?;
    }
    let options = PublishOptions {
        token,
        host: host_name(),
        verify: args.verify,
        wait: Duration::from_secs(args.wait),
        take_over: args.take_over,
    };
    let expected = Expected::of(&ours);
    let local = LocalTree(tree.root.clone());
    let checked = CheckedTree { tree: &local, expected: &expected, jobs: jobs_here() };
    let extra = statements(&tree.root)?;
    let round = Round {
        extra: &extra,
        args: &args,
        session,
        ours: &ours,
        keys: &keys,
        tree: &checked,
        expected: &expected,
        options,
    };

    let stop = args.stop || tree.publish.stop;
    let memory = Mutex::new(memory);
    let results: Vec<Option<Result<(), Failure>>> = if stop || args.dry_run {
        let mut failed = false;
        let one = |(to, url): &(Target, Option<MirrorUrl>)| {
            let result = (!failed || args.dry_run).then(|| round.one(to, url.as_ref(), &memory));
            failed |= matches!(result, Some(Err(_)));
            result
        };
        targets.iter().map(one).collect()
    } else {
        std::thread::scope(|scope| {
            let begun: Vec<_> = targets
                .iter()
                .map(|(to, url)| scope.spawn(|| round.one(to, url.as_ref(), &memory)))
                .collect();
            let ended =
                |one: ScopedJoinHandle<'_, _>| one.join().unwrap_or_else(|panic| Err(panicked(&*panic)));
            begun.into_iter().map(|one| Some(ended(one))).collect()
        })
    };
    if !args.dry_run {
        remember(&file, &memory.into_inner().unwrap_or_default())?;
    }
    let mut exit = Exit::Done;
    for ((to, _), result) in targets.iter().zip(results) {
        match result {
            Some(Ok(())) => {}
            Some(Err(failure)) => {
                exit = session.fail(&failure);
                print_error(&format!("{to}: not published; the target still has its previous release"));
            }
            None => {
                exit = Exit::Failed;
                print_error(&format!("{to}: not started, because another target failed"));
            }
        }
    }
    Ok(exit)
}

/// What a thread said when it panicked: a fault of this program.
fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let said = said.unwrap_or("unknown");
    Failure::Failed(format!("a fault of this program, please report it: {said}").into())
}

fn remember(file: &Path, memory: &Memory) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(memory)?;
    let mut out = AtomicFile::create_with_mode(file, 0o600)?;
    out.write_all(&text).map_err(|error| FileError::new(file, "write", error))?;
    Ok(out.commit_synced()?)
}

/// Files hashed and inflated at a time.
pub(super) fn jobs_here() -> usize {
    crate::parallel::cores().get()
}

/// What all targets of one command have in common.
struct Round<'a> {
    args: &'a Args,
    session: &'a Session,
    ours: &'a ReleaseState,
    keys: &'a TrustedKeys,
    tree: &'a CheckedTree<'a>,
    expected: &'a Expected,
    extra: &'a [FileToSend],
    options: PublishOptions,
}

/// What keys say of their successors: `keys/` of our tree.
fn statements(root: &Path) -> Result<Vec<FileToSend>, Failure> {
    let dir = root.join("keys");
    let Ok(entries) = fs::read_dir(&dir) else { return Ok(vec![]) };
    let mut items = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| FileError::new(&dir, "read", error))?;
        let path = format!("keys/{}", entry.file_name().to_string_lossy());
        if let Ok(path @ MirrorPath::Keys(_)) = path.parse() {
            let len =
                entry.metadata().map_err(|error| FileError::new(&entry.path(), "inspect", error))?.len();
            items.push(FileToSend { path, len });
        }
    }
    Ok(items)
}

impl Round<'_> {
    fn one(&self, to: &Target, url: Option<&MirrorUrl>, memory: &Mutex<Memory>) -> Result<(), Failure> {
        if let Some(warning) = targets::warning(to) {
            self.session.progress.say(&warning);
        }
        let remote = targets::open(to, self.args.jobs, &self.session.web)?;
        let http = Http::open(&self.session.web, self.args.jobs, Timeouts::default())?;
        let prove = |plan: &PublishPlan| match url {
            Some(url) => prove(WebTree { http: &http, url }, self.ours, self.expected, plan, self.args.jobs)
                .map_err(Into::into),
            None => Ok(()),
        };
        let mut job = Job {
            remote: remote.as_ref(),
            tree: self.tree as &dyn MirrorFiles,
            ours: self.ours,
            keys: self.keys,
            extra: self.extra,
            options: &self.options,
            clock: &WallClock,
            begin: &|_| {},
            sent: &|_| {},
            prove: &prove,
        };
        if self.args.dry_run {
            let plan = publish::survey(&job)?;
            let rate = memory.lock().ok().and_then(|memory| memory.rates.get(&to.to_string()).copied());
            print(&format!("{to}: {plan}{}\n", estimate(&plan, rate)))?;
            if self.session.quiet {
                return Ok(());
            }
            for item in plan.items() {
                print(&format!("  {} {}\n", item.path, item.len))?;
            }
            return Ok(());
        }
        let task = OnceLock::new();
        let begin = |bytes| {
            let _ = task.set(self.session.progress.start(&to.to_string(), bytes, Unit::Bytes));
        };
        let sent = |bytes| {
            if let Some(task) = task.get() {
                task.advance(bytes);
            }
        };
        (job.begin, job.sent) = (&begin, &sent);
        let start = Instant::now();
        let done = publish::publish(&job)?;
        drop(task);
        let took = start.elapsed();
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        // A few small files don't measure a connection's rate.
        if done.bytes > 1 << 20
            && let Ok(mut memory) = memory.lock()
        {
            memory.rates.insert(to.to_string(), done.bytes.saturating_mul(1000) / millis);
        }
        print(&said(to, &done, took))?;
        Ok(())
    }
}

fn said(to: &Target, done: &PublishResult, took: Duration) -> String {
    let PublishResult { plan, files, bytes, found } = done;
    if *files == 0 {
        return format!("{to}: already has release {}; 0 blocks sent\n", plan.serial);
    }
    let found = if *found > 0 { format!("; {found} blocks were already there") } else { String::new() };
    format!(
        "{to}: release {}: {}, {bytes} bytes sent in {}{found}\n",
        plan.serial,
        counted(*files, "file"),
        elapsed(took)
    )
}

fn estimate(plan: &PublishPlan, rate: Option<u64>) -> String {
    match rate {
        _ if plan.is_done() => String::new(),
        Some(rate) if rate > 0 => {
            let time = Duration::from_millis(plan.bytes().saturating_mul(1000) / rate);
            format!("; about {} at {}/s, the rate of the last publication", elapsed(time), size(rate))
        }
        _ => {
            let time = Duration::from_millis(plan.bytes().saturating_mul(1000) >> 20);
            format!("; {} at 1 MiB/s", elapsed(time))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_target_s_thread_is_told_as_what_it_is() {
        let told = |panic: fn()| {
            let ended = std::thread::spawn(panic).join().unwrap_err();
            let Failure::Failed(error) = panicked(&*ended) else { panic!("no failure") };
            error.to_string()
        };
        let said = "a fault of this program, please report it: no provider";
        assert_eq!(told(|| panic!("no provider")), said);
        assert_eq!(told(|| panic!("no {}", "provider")), said);
    }
}
