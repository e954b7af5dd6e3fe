//! Looking at mirrors: whether what a release names is there and right, and how mirrors stand beside each other.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{Expected, WebTree, read_each};
use crate::publish::{
    Listed, MirrorFiles, ReleaseState, ReleaseStateError, RemoteError, block_item, read_latest, read_state,
};
use formats::names::{Serial, UnixTime};
use formats::release::{MirrorPath, TrustedKeys};
use formats::url::MirrorUrl;
use system::clock;
use system::http::Http;

/// What to look at.
pub struct Verify<'a> {
    pub files: &'a dyn MirrorFiles,
    /// All files that it has, when it can tell.
    pub listed: Option<Vec<Listed>>,
    /// Who may have signed it.
    pub keys: &'a TrustedKeys,
    /// Files at a time.
    pub jobs: usize,
    /// Of the blocks, so many percent are read; 100: all.
    pub percent: f64,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorDefect {
    /// It is named and not there.
    Missing(MirrorPath),
    /// It is there and not what is named.
    Wrong(MirrorPath, String),
    /// It is there, and no release in sight names it.
    Extra(String),
    /// `latest` has expired.
    Stale(UnixTime),
}

impl std::fmt::Display for MirrorDefect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MirrorDefect::Missing(path) => write!(f, "missing  {path}"),
            MirrorDefect::Wrong(path, fault) => write!(f, "wrong    {path}: {fault}"),
            MirrorDefect::Extra(path) => write!(f, "extra    {path}"),
            MirrorDefect::Stale(expires) => {
                write!(f, "stale    latest: expired on {}", expires.date())
            }
        }
    }
}

/// Result of a check.
#[derive(Clone, Debug)]
pub struct Report {
    /// Serial of the newest release.
    pub serial: Serial,
    /// Files that were read and are right.
    pub right: usize,
    /// Blocks that were not read.
    pub unread: usize,
    /// Bytes that were read.
    pub bytes: u64,
    pub findings: Vec<MirrorDefect>,
}

/// Reads a tree's newest release. `told` learns how many files there are, and then that one more is done.
///
/// # Errors
/// [`ReleaseStateError`] when there is no release that could be believed.
pub fn verify(
    verify: &Verify<'_>,
    told: &dyn Fn(u64) -> Box<dyn Fn(u64) + Sync>,
) -> Result<Option<Report>, ReleaseStateError> {
    let Some(state) = read_state(verify.files, verify.keys)? else { return Ok(None) };
    let expected = Expected::of(&state);
    let objects = state.objects();
    let chosen: Vec<_> = objects
        .iter()
        .enumerate()
        .filter(|(at, _)| {
            // Every so many, evenly: at least one as soon as anything is asked for.
            let share = (verify.percent / 100.0).clamp(0.0, 1.0);
            (*at as f64 * share).ceil() < ((*at + 1) as f64 * share).ceil()
        })
        .map(|(_, object)| block_item(object))
        .collect();
    let unread = objects.len() - chosen.len();
    let mut items = chosen;
    items.extend(state.files());
    let done = told(items.len() as u64);
    let looked = read_each(verify.files, &items, verify.jobs, |item, bytes| {
        done(1);
        Ok(match bytes {
            Ok(None) => (0, Some(MirrorDefect::Missing(item.path.clone()))),
            Ok(Some(bytes)) => {
                let fault = expected.fault(&item.path, &bytes);
                (bytes.len() as u64, fault.map(|fault| MirrorDefect::Wrong(item.path.clone(), fault)))
            }
            Err(error) => (0, Some(MirrorDefect::Wrong(item.path.clone(), worded(&error)))),
        })
    })?;
    let bytes = looked.iter().map(|(bytes, _)| bytes).sum();
    let mut findings: Vec<_> = looked.into_iter().filter_map(|(_, finding)| finding).collect();
    let right = items.len() - findings.len();
    if !state.mirrors_fit {
        findings.push(MirrorDefect::Wrong(
            MirrorPath::Mirrors,
            "differs from the list that `latest` names".into(),
        ));
    }
    if clock::now() > state.latest.expires {
        findings.push(MirrorDefect::Stale(state.latest.expires));
    }
    if let Some(listed) = &verify.listed {
        findings.extend(missing_and_extra(&state, listed, verify));
    }
    Ok(Some(Report { serial: state.latest.serial, right, unread, bytes, findings }))
}

fn worded(error: &RemoteError) -> String {
    format!("{error}: {}", error.source)
}

/// What a list of the tree's files tells beyond those that were read.
fn missing_and_extra(state: &ReleaseState, listed: &[Listed], verify: &Verify<'_>) -> Vec<MirrorDefect> {
    let mut named: HashSet<String> =
        [MirrorPath::Latest, MirrorPath::Mirrors].iter().map(ToString::to_string).collect();
    let mut add = |state_files: Vec<crate::publish::FileToSend>, objects: Vec<formats::block::Object>| {
        named.extend(state_files.iter().map(|item| item.path.to_string()));
        named.extend(objects.iter().map(|object| MirrorPath::Block(object.name).to_string()));
    };
    add(state.files(), state.objects());
    // Earlier releases that are there may name more.
    for listed in listed {
        let Ok(path @ MirrorPath::Release(_)) = listed.path.parse() else { continue };
        let Ok(Some(bytes)) = verify.files.read(&path, path.limit()) else { continue };
        let Ok(release) = formats::release::Verified::<formats::release::Release>::open(&bytes, verify.keys)
        else {
            continue;
        };
        let Ok(indexes) = crate::publish::read_indexes(verify.files, &release, None) else { continue };
        let mut files = crate::publish::image_files(&release);
        files.push(crate::publish::FileToSend { path, len: 0 });
        add(files, crate::publish::objects(&indexes));
    }
    let hidden = |path: &str| path.starts_with('.') || matches!(path.parse(), Ok(MirrorPath::Keys(_)));
    let extra = listed.iter().filter(|listed| !named.contains(&listed.path) && !hidden(&listed.path));
    extra.map(|listed| MirrorDefect::Extra(listed.path.clone())).collect()
}

/// How a mirror stands.
#[derive(Clone, Debug)]
pub struct MirrorStatus {
    pub url: MirrorUrl,
    /// What it has, or why that is unknown.
    pub serial: Result<(Serial, UnixTime, bool), String>,
    /// From the question for `latest` to its last byte.
    pub latency: Duration,
    /// Bytes a second over some blocks of the newest release; `None` when they did not come.
    pub rate: Option<u64>,
    /// What is wrong with it.
    pub faults: Vec<String>,
}

/// Asks a mirror for `latest` and for a few blocks of `state`.
pub fn standing(http: &Http, url: &MirrorUrl, keys: &TrustedKeys, state: &ReleaseState) -> MirrorStatus {
    const BLOCKS: usize = 8;
    let web = WebTree { http, url };
    let start = Instant::now();
    let latest = read_latest(&web, keys);
    let latency = start.elapsed();
    let now = clock::now();
    let mut faults = Vec::new();
    let serial = match latest {
        Ok(Some((latest, _))) => {
            if now > latest.expires {
                faults.push(format!("expired on {}", latest.expires.date()));
            }
            Ok((latest.serial, latest.published, latest.serial >= state.latest.serial))
        }
        Ok(None) => Err("no `latest` there".into()),
        Err(error) => {
            Err(formats::report::report(&error).trim_start_matches("error: ").replace("\n  caused by", ""))
        }
    };
    let mut rate = None;
    if serial.is_ok() {
        let expected = Expected::of(state);
        let objects = state.objects();
        let step = objects.len().div_ceil(BLOCKS).max(1);
        let (start, mut bytes) = (Instant::now(), 0);
        for object in objects.iter().step_by(step) {
            let path = MirrorPath::Block(object.name);
            match web.read(&path, object.file_len.into()) {
                Ok(Some(file)) => {
                    bytes += file.len() as u64;
                    faults.extend(expected.fault(&path, &file));
                }
                Ok(None) => faults.push(format!("{path} is missing")),
                Err(error) => faults.push(worded(&error)),
            }
        }
        let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        rate = (bytes > 0).then(|| bytes.saturating_mul(1000) / millis);
    }
    MirrorStatus { url: url.clone(), serial, latency, rate, faults }
}
