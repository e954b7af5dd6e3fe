//! Copying a mirror: blocks first, `latest` last, nothing unchecked.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Expected, read_each};
use crate::publish::{
    FileToSend, MirrorFiles, ReleaseStateError, Remote, RemoteError, RemotePath, block_item, read_latest,
    read_named,
};
use crate::repository::targets::{DirectoryTarget, LocalTree, parallel};
use formats::names::{ImageName, Serial, UnixTime};
use formats::release::{Latest, MAX_HOPS, MirrorPath, Successors, TrustedKeys, Verified};
use system::files::{DirLock, FileError, sweep};

/// What to copy from where to where.
#[derive(Clone, Copy)]
pub struct Pull<'a> {
    pub from: &'a dyn MirrorFiles,
    /// Its name, for people; ends with `/`.
    pub name: &'a str,
    /// Directory that becomes a mirror.
    pub dir: &'a Path,
    /// Who may have signed it.
    pub keys: &'a TrustedKeys,
    /// Files at a time.
    pub jobs: usize,
    /// Whether blocks are copied: a build needs only the rest.
    pub blocks: bool,
}

/// Result of a pull.
#[derive(Clone, Copy, Debug)]
pub struct Pulled {
    /// The release that is there now.
    pub serial: Serial,
    /// When its `latest` expires.
    pub expires: UnixTime,
    /// Number of files that were fetched.
    pub files: u64,
    /// Sum of their lengths in bytes.
    pub bytes: u64,
}

/// Why nothing was copied. What was there is there still.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The mirror has no release.
    #[error("{0}latest: missing; check that this is the URL of a mirror")]
    Empty(String),
    /// What one side has can't be believed.
    #[error("{place}: can't be used")]
    State { place: String, source: ReleaseStateError },
    /// The directory has a later release.
    #[error(
        "{dir}: has release {ours}; {url} has only the older {theirs}; an older release never replaces a newer one"
    )]
    Older { dir: String, ours: Serial, url: String, theirs: Serial },
    #[error("{dir}: is a mirror of `{ours}`; {url} has `{theirs}`; pull it into another directory")]
    OtherName { dir: String, ours: ImageName, url: String, theirs: ImageName },
    /// A file came damaged.
    #[error("{url}{path}: {fault}")]
    Damaged { url: String, path: MirrorPath, fault: String },
    /// A file or the network.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Copies what the directory lacks of the newest release. `told` learns how many bytes there are to get, and then
/// how many came.
///
/// # Errors
/// [`PullError`].
pub fn pull(pull: &Pull<'_>, told: &dyn Fn(u64) -> Box<dyn Fn(u64) + Sync>) -> Result<Pulled, PullError> {
    let url = pull.name.to_owned();
    let _lock = DirLock::take(pull.dir)?;
    // What an attempt that was killed left unfinished.
    sweep(pull.dir)?;
    let here = LocalTree(pull.dir.into());
    let there = |source| PullError::State { place: url.clone(), source };
    let latest =
        read_latest(pull.from, pull.keys).map_err(there)?.ok_or_else(|| PullError::Empty(url.clone()))?;
    let own = read_latest(&here, pull.keys)
        .map_err(|source| PullError::State { place: pull.dir.display().to_string(), source })?;
    if let Some((own, _)) = &own {
        let (dir, theirs) = (pull.dir.display().to_string(), &latest.0);
        if own.name != theirs.name {
            let (ours, theirs) = (own.name.clone(), theirs.name.clone());
            return Err(PullError::OtherName { dir, ours, url, theirs });
        }
        if own.serial > theirs.serial {
            return Err(PullError::Older { dir, ours: own.serial, url, theirs: theirs.serial });
        }
    }
    // What our own release names was whole before its `latest` was written. The rest may be of an attempt that a power
    // cut ended, with the right length and the wrong contents.
    let proven: HashSet<MirrorPath> = own
        .and_then(|own| read_named(&here, own, pull.keys, None).ok())
        .map(|state| {
            state.objects().iter().map(block_item).chain(state.files()).map(|item| item.path).collect()
        })
        .unwrap_or_default();
    let state = read_named(pull.from, latest, pull.keys, Some(&here)).map_err(there)?;
    let expected = Expected::of(&state);
    let target = DirectoryTarget::new(pull.dir, pull.jobs);

    let mut steps: Vec<Vec<FileToSend>> = Vec::new();
    if pull.blocks {
        steps.push(state.objects().iter().map(block_item).collect());
    }
    let (release, images): (Vec<_>, Vec<_>) =
        state.files().into_iter().partition(|item| matches!(item.path, MirrorPath::Release(_)));
    steps.extend([images, release]);
    let mut lacking = Vec::new();
    for step in steps {
        let lengths = target.lengths(&step)?;
        let found: Vec<(FileToSend, bool)> =
            step.into_iter().zip(lengths).map(|(item, len)| (item.clone(), len == Some(item.len))).collect();
        let right = parallel(&found, pull.jobs, |(item, there)| {
            if !there || proven.contains(&item.path) {
                return Ok(*there);
            }
            let bytes = here.read(&item.path, item.len)?;
            Ok(bytes.is_some_and(|bytes| expected.fault(&item.path, &bytes).is_none()))
        })?;
        let lack = found.into_iter().zip(right).filter(|(_, right)| !right);
        lacking.push(lack.map(|((item, _), _)| item).collect::<Vec<_>>());
    }
    let came = told(lacking.iter().flatten().map(|item| item.len).sum());
    let (files, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    for step in &lacking {
        let faults = read_each(pull.from, step, pull.jobs, |item, file| {
            let name = || format!("{url}{}", item.path);
            let file = file?.ok_or_else(|| RemoteError::new(name(), "missing, but the release names it"))?;
            if let Some(fault) = expected.fault(&item.path, &file) {
                return Ok(Some(fault).map(|fault| (item.path.clone(), fault)));
            }
            target.put_one(&RemotePath::File(item.path.clone()), &file)?;
            files.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(item.len, Ordering::Relaxed);
            came(item.len);
            Ok(None)
        })?;
        if let Some((path, fault)) = faults.into_iter().flatten().next() {
            return Err(PullError::Damaged { url, path, fault });
        }
        target.sync_all()?;
    }
    // For boot media that know an old key only. Their failure costs nothing here.
    let mut asked = Vec::new();
    let mut keys = pull.keys.clone();
    for _ in 0..MAX_HOPS {
        let Some(id) = keys.ids().find(|id| !asked.contains(id)) else { break };
        asked.push(id);
        let path = MirrorPath::Keys(id);
        let open = |file: &[u8]| {
            let next = Verified::<Successors>::open(file, &keys).ok()?;
            (next.key() == id && next.name == state.latest.name).then(|| next.trusted())
        };
        // A key makes its statement once, so ours stays if it is one.
        if let Some(next) = here.read(&path, path.limit())?.and_then(|ours| open(&ours)) {
            keys = keys.with(&next);
            continue;
        }
        let Some(file) = pull.from.read(&path, path.limit())? else { continue };
        if let Some(next) = open(&file) {
            keys = keys.with(&next);
            target.write(&RemotePath::File(path), &file)?;
            files.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(file.len() as u64, Ordering::Relaxed);
        }
    }
    for (path, file) in [
        (MirrorPath::Mirrors, pull.from.read(&MirrorPath::Mirrors, MirrorPath::Mirrors.limit())?),
        (MirrorPath::Latest, Some(state.latest_file)),
    ] {
        // A list of mirrors that does not fit is one that is being replaced: the next time.
        let Some(file) = file.filter(|file| expected.fault(&path, file).is_none()) else { continue };
        if here.read(&path, path.limit())?.as_ref() != Some(&file) {
            target.write(&RemotePath::File(path), &file)?;
            files.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(file.len() as u64, Ordering::Relaxed);
        }
    }
    let Latest { serial, expires, .. } = state.latest;
    Ok(Pulled { serial, expires, files: files.into_inner(), bytes: bytes.into_inner() })
}
