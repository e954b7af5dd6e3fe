//! Command line -> parsed arguments. Opens no files.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

use crate::status::Form;
use formats::names::{ImageName, Serial};
use formats::url::MirrorUrl;
use system::http::RedirectScope;

#[derive(Debug)]
pub(super) enum Command {
    Mount(Mount),
    Cat(SourceArgs),
    Status {
        sockets: Vec<PathBuf>,
        form: Form,
        watch: bool,
    },
    Netselect(Netselect),
    Cache(CacheMaintenance),
    /// Something to print: help, version.
    Text(String),
}

/// Where an image comes from; common to all commands that read one.
#[derive(Debug)]
pub(super) struct SourceArgs {
    pub(super) mirrors: Vec<MirrorUrl>,
    pub(super) mirrors_file: Option<PathBuf>,
    /// File names, or keys in base64.
    pub(super) keys: Vec<String>,
    pub(super) image: ImageName,
    pub(super) name: Option<ImageName>,
    pub(super) release: Option<Serial>,
    pub(super) strict: bool,
    pub(super) cache: Option<PathBuf>,
    pub(super) cache_max: Option<u64>,
    pub(super) medium: Option<PathBuf>,
    pub(super) ram: usize,
    pub(super) connections: usize,
    /// `None`: reads wait for as long as it takes.
    pub(super) deadline: Option<Duration>,
    pub(super) start_within: Duration,
    pub(super) prefetch: bool,
    /// Whether also what the release says that a boot reads.
    pub(super) list: bool,
    /// All mirrors at once, the signed list's too; the order given; `None`: those given, at once.
    pub(super) netselect: Option<bool>,
    /// `none` for no proxy whatever the environment says.
    pub(super) proxy: Option<String>,
    pub(super) redirects: RedirectScope,
    pub(super) ca: Option<PathBuf>,
    pub(super) verbose: bool,
}

/// The arguments of `imgfetch mount`.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) source: SourceArgs,
    pub(super) mountpoint: PathBuf,
    pub(super) status: Option<PathBuf>,
    pub(super) no_status: bool,
    pub(super) record: Option<PathBuf>,
    pub(super) record_reads: Option<PathBuf>,
    pub(super) foreground: bool,
    pub(super) report_ready: bool,
    pub(super) root_daemon: bool,
    pub(super) allow_other: bool,
    /// The words themselves, for the process in the background.
    pub(super) words: Vec<OsString>,
}

/// The arguments of `imgfetch cache`.
#[derive(Debug)]
pub(super) struct CacheMaintenance {
    pub(super) what: MaintenanceCommand,
    pub(super) root: PathBuf,
}

/// What to do with a cache.
#[derive(Debug)]
pub(super) enum MaintenanceCommand {
    Fsck,
    Stats {
        json: bool,
    },
    Pin(ImageName),
    Unpin,
    /// Down to so many bytes.
    Evict(u64),
}

/// The arguments of `imgfetch netselect`.
#[derive(Debug)]
pub(super) struct Netselect {
    pub(super) mirrors: Vec<MirrorUrl>,
    pub(super) mirrors_file: Option<PathBuf>,
    pub(super) keys: Vec<String>,
    pub(super) budget: Duration,
    pub(super) json: bool,
}

/// A command line that can't be used; exit code 2.
#[derive(Debug, thiserror::Error)]
pub(super) enum UsageError {
    #[error(transparent)]
    Word(#[from] lexopt::Error),
    #[error("no command; use mount, cat, status, netselect or cache")]
    NoCommand,
    #[error("no command `{0}`; use mount, cat, status, netselect or cache")]
    UnknownCommand(String),
    #[error("{option}: {text}")]
    Value { option: &'static str, text: String },
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("`{0}`: unexpected after MOUNTPOINT")]
    Extra(String),
}

const MINUTE: Duration = Duration::from_secs(60);

const HELP: &str = "\
imgfetch: serve an image as a virtual disk, fetched block by block over HTTP

Boot:
  imgfetch mount [options] --mirror URL --key KEY --image NAME MOUNTPOINT
                             serve the disk as MOUNTPOINT/disk; returns when it can be read
Look:
  imgfetch status [--text | --watch | --metrics] [--socket PATH]...
                             show each running client: as JSON, as text, as text every second, for Prometheus
  imgfetch status --phase NAME [--socket PATH]...
                             name the phase (login, desktop ...) that --record notes from now on
  imgfetch netselect [--key KEY] [--within TIME] [--json] URL... | --mirrors FILE
                             query all mirrors at once and list them, the best first [within 5s]
Cache:
  imgfetch cache fsck DIR    check every block, remove damaged ones
  imgfetch cache stats DIR [--json]
                             show the contents
  imgfetch cache pin DIR --image NAME
                             evict this image's blocks last
  imgfetch cache unpin DIR   unpin all blocks
  imgfetch cache evict DIR [--keep SIZE]
                             remove the least recently used blocks until SIZE is left [0]
Low level:
  imgfetch cat [options] --mirror URL --key KEY --image NAME
                             write the whole disk to standard output

Source:
  --mirror URL[,URL...]      mirrors in order of preference; may be repeated
  --mirrors FILE             more mirrors, one a line; `#` begins a comment
  --netselect                use the nearest mirror, also of those on the release's own list
  --no-netselect             use mirrors in the order given [query all given ones, use the nearest]
  --key KEY                  minisign public key: a file or base64; may be repeated
  --image NAME               image of the release
  --name NAME                accept releases of this distribution only; for keys that sign several
  --release N                use this release only, even if it is older than the last one used
  --strict                   refuse a release that may be stale [warn]
  --proxy URL|none           proxy for all mirrors [http_proxy, https_proxy, no_proxy]
  --redirects any|mirrors    whether redirects may lead to hosts that are none of the mirrors [mirrors]
  --ca FILE                  certificate authorities (PEM) in addition to the built-in ones

Blocks:
  --cache DIR                keep blocks here, and remember the release: no older one is accepted
  --medium DIR               mirror tree on a disc or stick, read before the network; requires --cache
  --cache-max SIZE           size limit of the cache (64MiB, 2GiB) [80 % of its file system]
  --ram SIZE                 decompressed blocks in memory [32MiB]
  --connections N            most connections, 1 to 64 [32]
  --deadline TIME|none       fail a read with EIO if no bytes come for this long (60s, 5m); none: wait
                             forever [60s; none with --root-daemon]
  --start-within TIME        give up if no release is found in this time [the deadline, or 60s]
  --no-prefetch              fetch only what is read: no prefetch list, no read-ahead
  --no-list                  do not use the prefetch list
  --verbose                  report every failure

Mount:
  --foreground               stay in the foreground
  --root-daemon              serve the root file system: systemd leaves the client alone, signals are ignored
  --record FILE              write the blocks read, in order: a prefetch list for the next build
  --record-reads DIR         write the pages read, in order, to DIR/NAME, and turn the kernel's cache off, so that
                             every read is seen (`imgfactory profile --files`)
  --allow-other              let every user read the disk
  --status PATH|none         status socket [/run/imgfetch/NAME.sock]

[ ] shows the default. Exit code: 0 done, 1 failed, 2 wrong usage
";

pub(super) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let all: Vec<OsString> = words.into_iter().collect();
    let mut parser = lexopt::Parser::from_iter(&all);
    let command = match parser.next()? {
        None => return Err(UsageError::NoCommand),
        Some(Long("help") | Short('h')) => return Ok(Command::Text(HELP.into())),
        Some(Long("version") | Short('V')) => {
            return Ok(Command::Text(concat!("imgfetch ", env!("CARGO_PKG_VERSION"), "\n").into()));
        }
        Some(Value(command)) => command.string()?,
        Some(other) => return Err(other.unexpected().into()),
    };
    match command.as_str() {
        "mount" | "cat" => {}
        "status" => return status(parser),
        "netselect" => return netselect(parser),
        "cache" => return cache(parser),
        "help" => return Ok(Command::Text(HELP.into())),
        _ => return Err(UsageError::UnknownCommand(command)),
    }
    let mut raw = raw(parser, command == "mount")?;
    if raw.help {
        return Ok(Command::Text(HELP.into()));
    }
    if command == "cat" {
        return Ok(Command::Cat(source(raw)?));
    }
    let words = all.into_iter().skip(1).collect();
    let (mountpoint, status) = (raw.mountpoint.take(), raw.status.take());
    let (foreground, report_ready) = (raw.foreground, raw.report_ready);
    let (record, record_reads) = (raw.record.take(), raw.record_reads.take());
    let (root_daemon, allow_other) = (raw.root_daemon, raw.allow_other);
    let no_status = status.as_ref().is_some_and(|path| path.as_os_str() == "none");
    Ok(Command::Mount(Mount {
        source: source(raw)?,
        mountpoint: mountpoint.ok_or(UsageError::Missing("MOUNTPOINT"))?,
        status: status.filter(|_| !no_status),
        no_status,
        record,
        record_reads,
        foreground,
        report_ready,
        root_daemon,
        allow_other,
        words,
    }))
}

fn status(mut parser: lexopt::Parser) -> Result<Command, UsageError> {
    let mut sockets = Vec::new();
    let (mut form, mut watch) = (Form::Json, false);
    while let Some(word) = parser.next()? {
        match word {
            Long("metrics") => form = Form::Metrics,
            Long("text") => form = Form::Text,
            Long("watch") => (form, watch) = (Form::Text, true),
            Long("phase") => {
                let phase = text(&mut parser)?.parse();
                form = Form::Phase(phase.map_err(|error| value("--phase", &error))?);
            }
            Long("socket") => sockets.push(path(&mut parser)?),
            Long("help") | Short('h') => return Ok(Command::Text(HELP.into())),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Command::Status { sockets, form, watch })
}

fn cache(mut parser: lexopt::Parser) -> Result<Command, UsageError> {
    let mut words = Vec::new();
    let (mut json, mut image, mut keep) = (false, None, 0);
    while let Some(word) = parser.next()? {
        match word {
            Long("json") => json = true,
            Long("image") => {
                let text = text(&mut parser)?;
                image = Some(text.parse::<ImageName>().map_err(|error| value("--image", &error))?);
            }
            Long("keep") => keep = size("--keep", &text(&mut parser)?)?,
            Long("help") | Short('h') => return Ok(Command::Text(HELP.into())),
            Value(word) if words.len() < 2 => words.push(word),
            other => return Err(other.unexpected().into()),
        }
    }
    let mut words = words.into_iter();
    let what = words.next().unwrap_or_default();
    let what = match (what.to_string_lossy().as_ref(), image) {
        ("fsck", None) => MaintenanceCommand::Fsck,
        ("stats", None) => MaintenanceCommand::Stats { json },
        ("pin", Some(image)) => MaintenanceCommand::Pin(image),
        ("pin", None) => return Err(UsageError::Missing("--image NAME")),
        ("unpin", None) => MaintenanceCommand::Unpin,
        ("evict", None) => MaintenanceCommand::Evict(keep),
        (other, _) => {
            let text = format!("`{other}`: use fsck, stats, pin, unpin or evict");
            return Err(UsageError::Value { option: "cache", text });
        }
    };
    let root = words.next().map(PathBuf::from).ok_or(UsageError::Missing("DIR"))?;
    Ok(Command::Cache(CacheMaintenance { what, root }))
}

fn netselect(mut parser: lexopt::Parser) -> Result<Command, UsageError> {
    let budget = Duration::from_secs(5);
    let mut args =
        Netselect { mirrors: Vec::new(), mirrors_file: None, keys: Vec::new(), budget, json: false };
    while let Some(word) = parser.next()? {
        match word {
            Long("mirrors") => args.mirrors_file = Some(path(&mut parser)?),
            Long("key") => args.keys.push(text(&mut parser)?),
            Long("within") => args.budget = duration("--within", &text(&mut parser)?)?,
            Long("json") => args.json = true,
            Long("help") | Short('h') => return Ok(Command::Text(HELP.into())),
            Value(url) => {
                let url = MirrorUrl::typed(&url.string()?).map_err(|error| value("netselect", &error))?;
                args.mirrors.push(url);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if args.mirrors.is_empty() && args.mirrors_file.is_none() {
        return Err(UsageError::Missing("URL"));
    }
    Ok(Command::Netselect(args))
}

/// The words, sorted by option.
#[derive(Default)]
struct Raw {
    mirrors: Vec<String>,
    mirrors_file: Option<PathBuf>,
    keys: Vec<String>,
    image: Option<String>,
    name: Option<String>,
    release: Option<String>,
    strict: bool,
    cache: Option<PathBuf>,
    cache_max: Option<String>,
    medium: Option<PathBuf>,
    ram: Option<String>,
    connections: Option<String>,
    deadline: Option<String>,
    start_within: Option<String>,
    no_prefetch: bool,
    no_list: bool,
    netselect: Option<bool>,
    record: Option<PathBuf>,
    record_reads: Option<PathBuf>,
    proxy: Option<String>,
    redirects: Option<String>,
    ca: Option<PathBuf>,
    verbose: bool,
    mountpoint: Option<PathBuf>,
    status: Option<PathBuf>,
    foreground: bool,
    report_ready: bool,
    root_daemon: bool,
    allow_other: bool,
    help: bool,
}

fn raw(mut parser: lexopt::Parser, mount: bool) -> Result<Raw, UsageError> {
    let mut raw = Raw::default();
    while let Some(word) = parser.next()? {
        match word {
            Long("mirror") => {
                let urls = text(&mut parser)?;
                raw.mirrors.extend(urls.split(',').filter(|url| !url.is_empty()).map(Into::into));
            }
            Long("mirrors") => raw.mirrors_file = Some(path(&mut parser)?),
            Long("key") => raw.keys.push(text(&mut parser)?),
            Long("image") => raw.image = Some(text(&mut parser)?),
            Long("name") => raw.name = Some(text(&mut parser)?),
            Long("release") => raw.release = Some(text(&mut parser)?),
            Long("strict") => raw.strict = true,
            Long("cache") => raw.cache = Some(path(&mut parser)?),
            Long("cache-max") => raw.cache_max = Some(text(&mut parser)?),
            Long("medium") => raw.medium = Some(path(&mut parser)?),
            Long("ram") => raw.ram = Some(text(&mut parser)?),
            Long("connections") => raw.connections = Some(text(&mut parser)?),
            Long("deadline") => raw.deadline = Some(text(&mut parser)?),
            Long("start-within") => raw.start_within = Some(text(&mut parser)?),
            Long("no-prefetch") => raw.no_prefetch = true,
            Long("no-list") => raw.no_list = true,
            Long("netselect") => raw.netselect = Some(true),
            Long("no-netselect") => raw.netselect = Some(false),
            Long("record") if mount => raw.record = Some(path(&mut parser)?),
            Long("record-reads") if mount => raw.record_reads = Some(path(&mut parser)?),
            Long("proxy") => raw.proxy = Some(text(&mut parser)?),
            Long("redirects") => raw.redirects = Some(text(&mut parser)?),
            Long("ca") => raw.ca = Some(path(&mut parser)?),
            Long("verbose") | Short('v') => raw.verbose = true,
            Long("help") | Short('h') => raw.help = true,
            Long("status") if mount => raw.status = Some(path(&mut parser)?),
            Long("foreground") if mount => raw.foreground = true,
            Long("report-ready") if mount => raw.report_ready = true,
            Long("root-daemon") if mount => raw.root_daemon = true,
            Long("allow-other") if mount => raw.allow_other = true,
            Value(path) if mount && raw.mountpoint.is_none() => raw.mountpoint = Some(path.into()),
            Value(extra) if mount => return Err(UsageError::Extra(extra.to_string_lossy().into())),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(raw)
}

fn source(raw: Raw) -> Result<SourceArgs, UsageError> {
    let mirrors = raw.mirrors.iter().map(|url| MirrorUrl::typed(url));
    let mirrors = mirrors.collect::<Result<_, _>>().map_err(|error| value("--mirror", &error))?;
    if raw.mirrors.is_empty() && raw.mirrors_file.is_none() {
        return Err(UsageError::Missing("--mirror URL"));
    }
    if raw.keys.is_empty() {
        return Err(UsageError::Missing("--key KEY"));
    }
    if raw.medium.is_some() && raw.cache.is_none() {
        return Err(UsageError::Missing("--cache DIR, which --medium needs,"));
    }
    let name = |option, text: &str| text.parse::<ImageName>().map_err(|error| value(option, &error));
    let image = raw.image.as_deref().ok_or(UsageError::Missing("--image NAME"))?;
    let serial = |text: String| text.parse::<Serial>().map_err(|error| value("--release", &error));
    let connections = raw.connections.as_deref().map_or(Ok(32), |text| {
        let number = text.parse().ok().filter(|number| (1..=64).contains(number));
        number.ok_or_else(|| value("--connections", &format!("`{text}` is not a number from 1 to 64")))
    })?;
    let bytes = |option, text: Option<String>| text.map(|text| size(option, &text)).transpose();
    let ram = bytes("--ram", raw.ram)?.unwrap_or(32 << 20);
    let deadline = match raw.deadline.as_deref() {
        Some("none") => None,
        Some(text) => Some(duration("--deadline", text)?),
        None => Some(MINUTE).filter(|_| !raw.root_daemon),
    };
    let redirects = match raw.redirects.as_deref() {
        None | Some("mirrors") => RedirectScope::KnownHosts,
        Some("any") => RedirectScope::AnyHost,
        Some(other) => return Err(value("--redirects", &format!("`{other}` is neither any nor mirrors"))),
    };
    let start_within = raw.start_within.map(|text| duration("--start-within", &text)).transpose()?;
    Ok(SourceArgs {
        mirrors,
        mirrors_file: raw.mirrors_file,
        keys: raw.keys,
        image: name("--image", image)?,
        name: raw.name.as_deref().map(|text| name("--name", text)).transpose()?,
        release: raw.release.map(serial).transpose()?,
        strict: raw.strict,
        cache: raw.cache,
        cache_max: bytes("--cache-max", raw.cache_max)?,
        medium: raw.medium,
        ram: usize::try_from(ram).unwrap_or(usize::MAX),
        connections,
        deadline,
        start_within: start_within.or(deadline).unwrap_or(MINUTE),
        prefetch: !raw.no_prefetch,
        list: !raw.no_list && !raw.no_prefetch,
        netselect: raw.netselect,
        proxy: raw.proxy,
        redirects,
        ca: raw.ca,
        verbose: raw.verbose,
    })
}

/// The value of the option that was read last, as UTF-8.
fn text(parser: &mut lexopt::Parser) -> Result<String, UsageError> {
    Ok(parser.value()?.string()?)
}

/// The option's value, a file or a directory.
fn path(parser: &mut lexopt::Parser) -> Result<PathBuf, UsageError> {
    Ok(parser.value()?.into())
}

fn value(option: &'static str, error: &dyn std::fmt::Display) -> UsageError {
    UsageError::Value { option, text: error.to_string() }
}

/// `64MiB`, `2GiB`, `512KiB`, or bytes.
fn size(option: &'static str, text: &str) -> Result<u64, UsageError> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("", 0)];
    let parsed = units.into_iter().find_map(|(unit, shift)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(1 << shift)
    });
    parsed.ok_or_else(|| value(option, &format!("`{text}` is not a size: give 64MiB, 2GiB or bytes")))
}

/// `60s`, `5m`, or seconds.
fn duration(option: &'static str, text: &str) -> Result<Duration, UsageError> {
    let parsed =
        [("ms", 1), ("s", 1000), ("m", 60_000), ("", 1000)].into_iter().find_map(|(unit, millis)| {
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            number.checked_mul(millis).map(Duration::from_millis)
        });
    let most = Duration::from_secs(86_400);
    let parsed = parsed.filter(|time| (Duration::from_millis(100)..=most).contains(time));
    parsed
        .ok_or_else(|| value(option, &format!("`{text}` is not a time from 100ms to a day: give 60s or 5m")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, UsageError> {
        parse(line.split(' ').map(OsString::from))
    }

    const SOURCE: &str = "--mirror http://a.example,http://b.example/x/ --key RWQ --image host";

    #[test]
    fn a_whole_line_is_understood() {
        let line = format!(
            "imgfetch mount {SOURCE} --mirror http://c.example --release 41 --cache-max 2GiB --ram 1MiB \
             --deadline 5m --root-daemon /mnt"
        );
        let Command::Mount(mount) = parse_line(&line).unwrap() else { panic!("{line}") };
        let source = &mount.source;
        let mirrors: Vec<_> = source.mirrors.iter().map(MirrorUrl::as_str).collect();
        assert_eq!(mirrors, ["http://a.example/", "http://b.example/x/", "http://c.example/"]);
        assert_eq!((source.cache_max, source.ram), (Some(2 << 30), 1 << 20));
        let five_minutes = Duration::from_secs(300);
        assert_eq!((source.deadline, source.start_within), (Some(five_minutes), five_minutes));
        assert_eq!(source.connections, 32);
        assert_eq!(source.release, Serial::new(41));
        assert!(mount.root_daemon && !mount.foreground && source.prefetch);
        assert_eq!(mount.words.len(), line.split(' ').count() - 1, "all but the program's name");
    }

    #[test]
    fn a_root_waits_for_its_bytes_but_a_start_never_does_for_long() {
        let seconds = Duration::from_secs;
        for (words, deadline, start_within) in [
            ("", Some(60), 60),
            (" --root-daemon", None, 60),
            (" --deadline none", None, 60),
            (" --root-daemon --deadline 90s", Some(90), 90),
            (" --deadline none --start-within 5s", None, 5),
            (" --deadline 2s --start-within 30", Some(2), 30),
        ] {
            let line = format!("imgfetch mount {SOURCE}{words} /mnt");
            let Command::Mount(mount) = parse_line(&line).unwrap() else { panic!("{line}") };
            let found = (mount.source.deadline, mount.source.start_within);
            assert_eq!(found, (deadline.map(seconds), seconds(start_within)), "{line}");
        }
    }

    #[test]
    fn each_mistake_is_told_with_what_would_be_right() {
        for (line, said) in [
            ("imgfetch", "no command; use mount, cat, status, netselect or cache"),
            ("imgfetch mont", "no command `mont`; use mount, cat, status, netselect or cache"),
            ("imgfetch cat --key RWQ --image host", "--mirror URL is missing"),
            ("imgfetch cat --mirror http://a.example --image host", "--key KEY is missing"),
            ("imgfetch cat --mirror http://a.example --key RWQ", "--image NAME is missing"),
            ("imgfetch mount SOURCE", "MOUNTPOINT is missing"),
            ("imgfetch cat SOURCE --medium /mnt", "--cache DIR, which --medium needs, is missing"),
            ("imgfetch mount SOURCE /a /b", "`/b`: unexpected after MOUNTPOINT"),
            ("imgfetch cat SOURCE --foreground", "invalid option '--foreground'"),
            ("imgfetch cat SOURCE --connections 0", "--connections: `0` is not a number from 1 to 64"),
            ("imgfetch cat SOURCE --ram 1MB", "--ram: `1MB` is not a size: give 64MiB, 2GiB or bytes"),
            (
                "imgfetch cat SOURCE --deadline 0",
                "--deadline: `0` is not a time from 100ms to a day: give 60s or 5m",
            ),
            (
                "imgfetch cat SOURCE --start-within none",
                "--start-within: `none` is not a time from 100ms to a day: give 60s or 5m",
            ),
            (
                "imgfetch cat SOURCE --release 0",
                "--release: `0` is not a serial: 1 to 9223372036854775807, without leading zeros",
            ),
            ("imgfetch status --soket x", "invalid option '--soket'"),
        ] {
            let error = parse_line(&line.replace("SOURCE", SOURCE)).unwrap_err();
            assert_eq!(error.to_string(), said, "{line}");
        }
    }
}
