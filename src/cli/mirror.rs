//! `imgfactory mirror pull|verify|list`.

use std::path::PathBuf;

use super::publish::jobs_here;
use super::tree::published;
use super::{Failure, Session, print};
use crate::publish::{MirrorFiles, ReleaseState, read_state};
use crate::repository::mirror::{MirrorDefect, Pull, Verify, pull, standing, verify};
use crate::repository::published::Published;
use crate::sys::progress::Unit;
use formats::release::{Latest, MirrorPath, TrustedKeys};
use formats::report::{Exit, counted, size};
use formats::url::MirrorUrl;
use system::clock;
use system::http::{Http, Timeouts};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Copy the newest release of a mirror into a directory, verified
    Pull(PullArgs),
    /// Check that a mirror has all files of its newest release, intact
    Verify(VerifyArgs),
    /// Show each mirror's serial, lag, latency, rate and failures
    List(ListArgs),
}

#[derive(Debug, clap::Args)]
struct KeyArg {
    /// Public key of the releases: a file or base64; may be repeated [default: the build's]
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Number of files to handle at the same time
    #[arg(long, value_name = "N", default_value_t = 8)]
    jobs: usize,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Suitable for cron: only missing files are fetched, and the command may be killed at any time. \
`imgfactory gc DIR` removes old releases."
)]
struct PullArgs {
    /// The mirror to copy: its URL, a directory, or a publish target
    #[arg(value_name = "URL|DIR|TARGET")]
    from: String,
    /// Directory to write to; any web server can serve it
    dir: PathBuf,
    /// Copy no blocks; that is enough to build on the release, to refresh it and to roll back
    #[arg(long)]
    no_blocks: bool,
    #[command(flatten)]
    key: KeyArg,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 if a file is missing or wrong, or if `latest` has expired.")]
struct VerifyArgs {
    /// The mirror to check: its URL, a directory, or a publish target
    #[arg(value_name = "URL|DIR|TARGET")]
    tree: String,
    /// Share of the blocks to read, evenly spread [default: 100% of a directory, 5% of other mirrors]
    #[arg(long, value_name = "N%")]
    sample: Option<String>,
    /// Read all blocks
    #[arg(long, conflicts_with = "sample")]
    full: bool,
    #[command(flatten)]
    key: KeyArg,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// A mirror whose mirrors.txt lists the others: its URL, a directory, or a publish target
    #[arg(value_name = "URL|DIR|TARGET")]
    tree: String,
    #[command(flatten)]
    key: KeyArg,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    match args.command {
        Command::Pull(args) => run_pull(&args, session),
        Command::Verify(args) => run_verify(&args, session),
        Command::List(args) => run_list(&args, session),
    }
}

fn run_pull(args: &PullArgs, session: &Session) -> Result<Exit, Failure> {
    let jobs = args.key.jobs;
    let (from, keys) = published(&args.from, &args.key.key, jobs, &session.web)?;
    let name = from.to_string();
    let job = Pull { from: &from, name: &name, dir: &args.dir, keys: &keys, jobs, blocks: !args.no_blocks };
    let told = |bytes| -> Box<dyn Fn(u64) + Sync> {
        let task = session.progress.start(&name, bytes, Unit::Bytes);
        Box::new(move |n| task.advance(n))
    };
    let done = pull(&job, &told)?;
    if done.expires < clock::now() {
        session.progress.say(&format!(
            "{name}: `latest` of release {} expired on {}; the publisher has stopped, or the mirror withholds a newer one",
            done.serial,
            done.expires.date()
        ));
    }
    print(&format!(
        "{}: release {}: {} fetched, {} bytes\n",
        args.dir.display(),
        done.serial,
        counted(done.files, "file"),
        done.bytes
    ))?;
    Ok(Exit::Done)
}

fn is_here(files: &Published) -> bool {
    matches!(files, Published::Directory(_))
}

fn percent(args: &VerifyArgs, here: bool) -> Result<f64, Failure> {
    let Some(text) = &args.sample else {
        return Ok(if args.full || here { 100.0 } else { 5.0 });
    };
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok();
    let number = number.filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| Failure::Usage(format!("--sample {text}: give a percentage from 0% to 100%")))
}

fn run_verify(args: &VerifyArgs, session: &Session) -> Result<Exit, Failure> {
    let told = |files| -> Box<dyn Fn(u64) + Sync> {
        let task = session.progress.start(&args.tree, files, Unit::Things("files"));
        Box::new(move |n| task.advance(n))
    };
    let (files, keys) = published(&args.tree, &args.key.key, args.key.jobs, &session.web)?;
    // Local files are limited by processors, remote ones by latency.
    let jobs = if is_here(&files) { jobs_here() } else { args.key.jobs };
    let percent = percent(args, is_here(&files))?;
    let listed = files.list()?;
    let report = verify(&Verify { files: &files, listed, keys: &keys, jobs, percent }, &told)?;
    let Some(report) = report else {
        return Err(Failure::Failed(format!("{}: contains no release", args.tree).into()));
    };
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&format!("{finding}\n"));
    }
    let unread =
        if report.unread > 0 { format!(", {} blocks not read", report.unread) } else { String::new() };
    text.push_str(&format!(
        "{}: release {}: {} of {} correct{unread}; {}\n",
        args.tree,
        report.serial,
        counted(report.right as u64, "file"),
        size(report.bytes),
        counted(report.findings.len() as u64, "finding")
    ));
    print(&text)?;
    let bad = report.findings.iter().any(|finding| !matches!(finding, MirrorDefect::Extra(_)));
    Ok(if bad { Exit::Failed } else { Exit::Done })
}

fn run_list(args: &ListArgs, session: &Session) -> Result<Exit, Failure> {
    let http = Http::open(&session.web, args.key.jobs, Timeouts::default())?;
    let (files, keys) = published(&args.tree, &args.key.key, args.key.jobs, &session.web)?;
    let (state, mut mirrors) = newest(&files, &keys, &args.tree)?;
    if let Published::Url(url, _) = &files
        && !mirrors.contains(url)
    {
        mirrors.insert(0, url.clone());
    }
    let mut all_good = true;
    let mut text = String::from("serial  behind  latency       rate  mirror\n");
    for url in &mirrors {
        let found = standing(&http, url, &keys, &state);
        let (serial, behind) = match &found.serial {
            Ok((serial, _, true)) => (serial.to_string(), "-".to_owned()),
            Ok((serial, published, false)) => {
                let hours = state.latest.published.0.saturating_sub(published.0) / 3600;
                (serial.to_string(), format!("{hours} h"))
            }
            Err(_) => ("?".into(), "?".into()),
        };
        let rate = found.rate.map_or("-".into(), |rate| format!("{}/s", size(rate)));
        let latency = format!("{} ms", found.latency.as_millis());
        text.push_str(&format!("{serial:>6}  {behind:>6}  {latency:>7} {rate:>10}  {url}\n"));
        let faults = found.serial.err().into_iter().chain(found.faults);
        for fault in faults {
            all_good = false;
            text.push_str(&format!("{:36}{fault}\n", ""));
        }
    }
    text.push_str(&format!("newest: release {} of {}\n", state.latest.serial, state.latest.published.date()));
    print(&text)?;
    Ok(if all_good { Exit::Done } else { Exit::Failed })
}

fn newest(
    files: &dyn MirrorFiles,
    keys: &TrustedKeys,
    shown: &str,
) -> Result<(ReleaseState, Vec<MirrorUrl>), Failure> {
    let missing = || Failure::Failed(format!("{shown}: contains no release").into());
    let state = read_state(files, keys)?.ok_or_else(missing)?;
    let file = files.read(&MirrorPath::Mirrors, formats::release::MAX_MIRRORS)?.unwrap_or_default();
    let latest: &Latest = &state.latest;
    let mirrors = latest.open_mirrors(&file, keys)?;
    let urls = mirrors.mirrors.iter().map(|mirror| mirror.url.clone()).collect();
    Ok((state, urls))
}
