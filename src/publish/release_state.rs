//! The newest release of a tree, read down the chain: `latest` -> release -> indexes.

use std::collections::HashMap;

use super::remote::{MirrorFiles, Remote, RemoteError};
use super::{FileToSend, RemotePath};
use formats::block::{BlockName, Object};
use formats::index::Index;
use formats::release::{
    DocumentError as Untrusted, ImageFiles, Latest, MAX_HOPS, MirrorPath, Release, Successors, TrustedKeys,
    Verified,
};

/// A release of a tree, each link checked by the one above it. Its blocks were not looked at.
#[derive(Clone, Debug)]
pub struct ReleaseState {
    /// What `latest` says.
    pub latest: Latest,
    /// The file, with its signature.
    pub latest_file: Vec<u8>,
    /// The release that it names.
    pub release: Release,
    /// The map of each image, in the release's order.
    pub indexes: Vec<Index>,
    /// Whether mirrors.txt is the one that `latest` names.
    pub mirrors_fit: bool,
}

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseStateError {
    /// A file that is named above it is not there.
    #[error("{path}: missing, but {by} names it")]
    Missing { path: MirrorPath, by: &'static str },
    /// A file is not what it should be.
    #[error("{0}: can't be verified")]
    Untrusted(MirrorPath, #[source] Untrusted),
    /// It can't be read.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

impl ReleaseState {
    /// Each block file of the release once, in order of first use.
    pub fn objects(&self) -> Vec<Object> {
        objects(&self.indexes)
    }

    /// Files of the release that are no blocks, in the order in which they are written: images' files, then the
    /// release itself.
    pub fn files(&self) -> Vec<FileToSend> {
        let mut files = image_files(&self.release);
        files.push(FileToSend { path: self.latest.release_path(), len: self.latest.release.len });
        files
    }
}

/// Each block file of these maps once, in order of first use.
pub fn objects(indexes: &[Index]) -> Vec<Object> {
    let mut seen = HashMap::new();
    let mut all = Vec::new();
    for object in indexes.iter().flat_map(Index::objects) {
        if seen.insert(object.name, ()).is_none() {
            all.push(*object);
        }
    }
    all
}

/// The files of a release's images: maps, prefetch lists, layouts.
pub fn image_files(release: &Release) -> Vec<FileToSend> {
    let files = release.images.iter().flat_map(ImageFiles::files);
    files.map(|(path, digest)| FileToSend { path, len: digest.len }).collect()
}

/// Reads `latest`, checks its signature; `None` when there is none.
///
/// # Errors
/// [`ReleaseStateError`].
pub fn read_latest(
    files: &dyn MirrorFiles,
    keys: &TrustedKeys,
) -> Result<Option<(Latest, Vec<u8>)>, ReleaseStateError> {
    let Some(file) = files.read(&MirrorPath::Latest, MirrorPath::Latest.limit())? else { return Ok(None) };
    let latest = Verified::<Latest>::open(&file, keys)
        .map_err(|source| ReleaseStateError::Untrusted(MirrorPath::Latest, source))?
        .into_inner();
    Ok(Some((latest, file)))
}

/// The keys that may have signed a tree: these, and when its `latest` is of none of them, those that they name as their
/// successors there.
pub fn follow(files: &dyn MirrorFiles, keys: &TrustedKeys) -> TrustedKeys {
    match read_latest(files, keys) {
        Err(ReleaseStateError::Untrusted(_, Untrusted::UnknownKey { .. })) => {}
        _ => return keys.clone(),
    }
    let mut known = keys.clone();
    let mut asked = Vec::new();
    for _ in 0..MAX_HOPS {
        let Some(id) = known.ids().find(|id| !asked.contains(id)) else { break };
        asked.push(id);
        let path = MirrorPath::Keys(id);
        // What can't be read or verified names no successor.
        let Ok(Some(file)) = files.read(&path, path.limit()) else { continue };
        match Verified::<Successors>::open(&file, &known) {
            Ok(next) if next.key() == id => known = known.with(&next.trusted()),
            _ => {}
        }
    }
    known
}

/// Reads what `latest` names. Files that `near` has, and that are right, are taken from there.
///
/// # Errors
/// [`ReleaseStateError`].
pub fn read_named(
    files: &dyn MirrorFiles,
    (latest, latest_file): (Latest, Vec<u8>),
    keys: &TrustedKeys,
    near: Option<&dyn MirrorFiles>,
) -> Result<ReleaseState, ReleaseStateError> {
    let path = latest.release_path();
    let open = |bytes: &[u8]| latest.open_release(bytes, keys).map(Verified::into_inner);
    let release = read_either(files, near, &path, latest.release.len, "latest", open)?;
    let indexes = read_indexes(files, &release, near)?;
    let mirrors = files.read(&MirrorPath::Mirrors, MirrorPath::Mirrors.limit())?;
    let mirrors_fit = mirrors.is_some_and(|file| latest.open_mirrors(&file, keys).is_ok());
    Ok(ReleaseState { latest, latest_file, release, indexes, mirrors_fit })
}

/// Reads the map of each image of a release.
///
/// # Errors
/// [`ReleaseStateError`].
pub fn read_indexes(
    files: &dyn MirrorFiles,
    release: &Release,
    near: Option<&dyn MirrorFiles>,
) -> Result<Vec<Index>, ReleaseStateError> {
    let read = |image: &formats::release::ImageFiles| {
        let (path, len) = (image.index_path(), image.index.digest.len);
        read_either(files, near, &path, len, "the release", |bytes| image.open_index(bytes))
    };
    release.images.iter().map(read).collect()
}

/// Reads the newest release of a tree; `None` when the tree has none.
///
/// # Errors
/// [`ReleaseStateError`].
pub fn read_state(
    files: &dyn MirrorFiles,
    keys: &TrustedKeys,
) -> Result<Option<ReleaseState>, ReleaseStateError> {
    match read_latest(files, keys)? {
        Some(latest) => read_named(files, latest, keys, None).map(Some),
        None => Ok(None),
    }
}

fn read_either<T>(
    files: &dyn MirrorFiles,
    near: Option<&dyn MirrorFiles>,
    path: &MirrorPath,
    len: u64,
    by: &'static str,
    open: impl Fn(&[u8]) -> Result<T, Untrusted>,
) -> Result<T, ReleaseStateError> {
    if let Some(near) = near
        && let Ok(Some(bytes)) = near.read(path, len)
        && let Ok(opened) = open(&bytes)
    {
        return Ok(opened);
    }
    let missing = || ReleaseStateError::Missing { path: path.clone(), by };
    let bytes = files.read(path, len)?.ok_or_else(missing)?;
    open(&bytes).map_err(|source| ReleaseStateError::Untrusted(path.clone(), source))
}

/// A second tree has what the first does not: the mirror of a build that knows the previous release only by its name has
/// what is new, and nothing else.
#[derive(Clone, Copy)]
pub struct Either<'a>(pub &'a dyn MirrorFiles, pub &'a dyn MirrorFiles);

impl MirrorFiles for Either<'_> {
    fn read(&self, path: &MirrorPath, limit: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        match self.0.read(path, limit)? {
            Some(bytes) => Ok(Some(bytes)),
            None => self.1.read(path, limit),
        }
    }
}

/// The tree of a target.
#[derive(Clone, Copy)]
pub struct OfRemote<'a>(pub &'a dyn Remote);

impl MirrorFiles for OfRemote<'_> {
    fn read(&self, path: &MirrorPath, _: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        self.0.get(&RemotePath::File(path.clone()))
    }

    fn read_all(&self, items: &[FileToSend]) -> Result<Vec<Option<Vec<u8>>>, RemoteError> {
        let places: Vec<_> = items.iter().map(|item| RemotePath::File(item.path.clone())).collect();
        self.0.get_all(&places)
    }

    fn together(&self) -> usize {
        self.0.together()
    }
}

/// The block of a path.
pub(super) fn block_of(path: &MirrorPath) -> Option<BlockName> {
    match path {
        MirrorPath::Block(name) => Some(*name),
        _ => None,
    }
}
