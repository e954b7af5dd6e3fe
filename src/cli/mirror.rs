//! `imgfactory mirror pull|verify|list`.

use std::path::{Path, PathBuf};

use super::publish::{Tree, http, jobs_here};
use super::{Failure, Session, print};
use crate::host::clock;
use crate::host::mirror::{Pull, Verify, WebTree, pull, standing, trusted, verify};
use crate::host::progress::Unit;
use crate::host::remote::{Directory, LocalTree};
use crate::publish::{Files, Remote, State, follow, read_state};
use crate::release::{Latest, MirrorPath, MirrorUrl, TrustedKeys};
use crate::report::{Exit, size};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Copy the newest release of a mirror into a directory: blocks first, `latest` last
    Pull(PullArgs),
    /// Look whether a mirror or a directory has what its release names: missing, wrong, extra, stale
    Verify(VerifyArgs),
    /// Show how the mirrors of a release stand: serial, lag, latency, throughput, faults
    List(ListArgs),
}

#[derive(Debug, clap::Args)]
struct Key {
    /// Public key that signs the releases: a file, or base64 [default: that of the build in DIR]
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Files at a time
    #[arg(long, value_name = "N", default_value_t = 8)]
    jobs: usize,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Run it from cron as often as you like; it fetches only what lacks, and can be killed at any \
moment. Releases that are no longer wanted are removed by `imgfactory gc DIR`."
)]
struct PullArgs {
    /// The mirror
    url: String,
    /// Where to; becomes a tree that any web server can serve
    dir: PathBuf,
    /// Leave the blocks out: enough to build upon, to refresh and to roll back
    #[arg(long)]
    no_blocks: bool,
    #[command(flatten)]
    key: Key,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 if something is missing, wrong or stale.")]
struct VerifyArgs {
    /// URL of a mirror, or a directory
    #[arg(value_name = "URL|DIR")]
    tree: String,
    /// Read so many of the blocks: 5%, evenly spread [default: 5% of a URL, all of a directory]
    #[arg(long, value_name = "N%")]
    sample: Option<String>,
    /// Read all blocks
    #[arg(long, conflicts_with = "sample")]
    full: bool,
    #[command(flatten)]
    key: Key,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// URL of a mirror, or a directory: its mirrors.txt is asked for the others
    #[arg(value_name = "URL|DIR")]
    tree: String,
    #[command(flatten)]
    key: Key,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    match args.command {
        Command::Pull(args) => run_pull(&args, session),
        Command::Verify(args) => run_verify(&args, session),
        Command::List(args) => run_list(&args, session),
    }
}

fn url_of(text: &str) -> Result<MirrorUrl, Failure> {
    MirrorUrl::typed(text).map_err(|error| Failure::Usage(error.to_string()))
}

fn is_url(text: &str) -> bool {
    text.contains("://")
}

fn keys_of(key: &Key, dir: Option<&Path>) -> Result<TrustedKeys, Failure> {
    match dir {
        Some(dir) => Tree::find(dir)?.keys(&key.key),
        None if key.key.is_empty() => Err(Failure::Usage("give the public key with --key".into())),
        None => Ok(trusted(&key.key)?),
    }
}

fn run_pull(args: &PullArgs, session: &Session) -> Result<Exit, Failure> {
    let url = url_of(&args.url)?;
    let keys = keys_of(&args.key, None)?;
    let http = http(args.key.jobs)?;
    let from = WebTree { http: &http, url: &url };
    let keys = follow(&from, &keys);
    let job = Pull { from, dir: &args.dir, keys: &keys, jobs: args.key.jobs, blocks: !args.no_blocks };
    let told = |bytes| -> Box<dyn Fn(u64) + Sync> {
        let task = session.progress.start(&url.to_string(), bytes, Unit::Bytes);
        Box::new(move |n| task.advance(n))
    };
    let done = pull(&job, &told)?;
    print(&format!(
        "{}: release {}: {} files, {} bytes came\n",
        args.dir.display(),
        done.serial,
        done.files,
        done.bytes
    ))?;
    Ok(Exit::Done)
}

fn percent(args: &VerifyArgs) -> Result<f64, Failure> {
    let Some(text) = &args.sample else {
        return Ok(if args.full || !is_url(&args.tree) { 100.0 } else { 5.0 });
    };
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok();
    let number = number.filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| Failure::Usage(format!("--sample {text}: give a percentage from 0% to 100%")))
}

fn run_verify(args: &VerifyArgs, session: &Session) -> Result<Exit, Failure> {
    let percent = percent(args)?;
    let told = |files| -> Box<dyn Fn(u64) + Sync> {
        let task = session.progress.start(&args.tree, files, Unit::Things("files"));
        Box::new(move |n| task.advance(n))
    };
    let report = if is_url(&args.tree) {
        let (url, http) = (url_of(&args.tree)?, http(args.key.jobs)?);
        let keys = keys_of(&args.key, None)?;
        let files = &WebTree { http: &http, url: &url };
        let keys = follow(files, &keys);
        verify(&Verify { files, listed: None, keys: &keys, jobs: args.key.jobs, percent }, &told)?
    } else {
        let dir = Path::new(&args.tree);
        let keys = keys_of(&args.key, Some(dir))?;
        let root = Tree::find(dir)?.root;
        let listed = Directory::new(&root, 1).list()?;
        let keys = follow(&LocalTree(root.clone()), &keys);
        // More threads than processors only wait for each other.
        verify(&Verify { files: &LocalTree(root), listed, keys: &keys, jobs: jobs_here(), percent }, &told)?
    };
    let Some(report) = report else {
        return Err(Failure::Failed(format!("{}: no release there", args.tree).into()));
    };
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&format!("{finding}\n"));
    }
    let unread =
        if report.unread > 0 { format!(", {} blocks not read", report.unread) } else { String::new() };
    text.push_str(&format!(
        "{}: release {}: {} files of {} are right{unread}; {} findings\n",
        args.tree,
        report.serial,
        report.right,
        size(report.bytes),
        report.findings.len()
    ));
    print(&text)?;
    let bad =
        report.findings.iter().any(|finding| !matches!(finding, crate::host::mirror::Finding::Extra(_)));
    Ok(if bad { Exit::Failed } else { Exit::Done })
}

fn run_list(args: &ListArgs, _: &Session) -> Result<Exit, Failure> {
    let http = http(args.key.jobs)?;
    let (state, mirrors, keys) = if is_url(&args.tree) {
        let url = url_of(&args.tree)?;
        let web = WebTree { http: &http, url: &url };
        let keys = follow(&web, &keys_of(&args.key, None)?);
        let (state, mut mirrors) = newest(&web, &keys, &args.tree)?;
        if !mirrors.contains(&url) {
            mirrors.insert(0, url.clone());
        }
        (state, mirrors, keys)
    } else {
        let dir = Path::new(&args.tree);
        let tree = LocalTree(Tree::find(dir)?.root);
        let keys = follow(&tree, &keys_of(&args.key, Some(dir))?);
        let (state, mirrors) = newest(&tree, &keys, &args.tree)?;
        (state, mirrors, keys)
    };
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
    text.push_str(&format!(
        "newest: release {} of {}\n",
        state.latest.serial,
        clock::date(state.latest.published)
    ));
    print(&text)?;
    Ok(if all_good { Exit::Done } else { Exit::Failed })
}

fn newest(files: &dyn Files, keys: &TrustedKeys, shown: &str) -> Result<(State, Vec<MirrorUrl>), Failure> {
    let missing = || Failure::Failed(format!("{shown}: no release there").into());
    let state = read_state(files, keys)?.ok_or_else(missing)?;
    let file = files.read(&MirrorPath::Mirrors, crate::release::MAX_MIRRORS)?.unwrap_or_default();
    let latest: &Latest = &state.latest;
    let mirrors = latest.open_mirrors(&file, keys)?;
    let urls = mirrors.mirrors.iter().map(|mirror| mirror.url.clone()).collect();
    Ok((state, urls))
}
