//! A release where it is published: a mirror's tree in a directory, behind HTTP, or on any other target of `publish`.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::publish::{BadTarget, FileToSend, Listed, MirrorFiles, OfRemote, Remote, RemoteError, Target};
use crate::repository::mirror::WebTree;
use crate::repository::targets::{self, LocalTree};
use formats::release::MirrorPath;
use formats::url::{BadUrl, MirrorUrl};
use system::http::{BadHttp, Http, HttpOptions, Timeouts};

/// The directory of a build's output with the tree for mirrors.
pub const MIRROR: &str = "mirror";

/// Where a release is.
pub enum Published {
    /// A mirror's tree on a local disk.
    Directory(LocalTree),
    /// A mirror's URL, as clients know it.
    Url(MirrorUrl, Box<Http>),
    /// What publishers alone reach: rsync, an object store.
    Target(Target, Box<dyn Remote>),
}

/// Why there can be no release at a place.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    /// Not a URL of a mirror.
    #[error(transparent)]
    Url(#[from] BadUrl),
    #[error(transparent)]
    Target(#[from] BadTarget),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// `http_proxy`, `--ca` and the like.
    #[error(transparent)]
    Http(#[from] BadHttp),
}

impl Published {
    /// What begins with `http://` or `https://` is a mirror's URL; `rsync://`, `s3://` and `user@host:path` are
    /// targets of `publish`; anything else is a directory. A build's output directory stands for the `mirror/` in
    /// it. `jobs`: files read at a time; `web`: how web servers are reached.
    ///
    /// # Errors
    /// [`PublishedError`].
    pub fn open(place: &Path, jobs: usize, web: &HttpOptions) -> Result<Self, PublishedError> {
        let text = place.to_str().unwrap_or_default();
        if text.starts_with("http://") || text.starts_with("https://") {
            let http = Http::open(web, jobs, Timeouts::default())?;
            return Ok(Published::Url(MirrorUrl::typed(text)?, Box::new(http)));
        }
        let target = match text.parse() {
            // A word that is no target may still be a directory's name.
            Ok(Target::Directory(_)) => None,
            Err(_) if !text.contains("://") => None,
            target => Some(target?),
        };
        match target {
            Some(target) if !place.is_dir() => {
                let remote = targets::open(&target, jobs, web)?;
                Ok(Published::Target(target, remote))
            }
            _ => {
                let inner = place.join(MIRROR);
                Ok(Published::Directory(LocalTree(if inner.is_dir() { inner } else { place.into() })))
            }
        }
    }

    /// Where one of its files is.
    pub fn locate(&self, path: &MirrorPath) -> PathBuf {
        match self {
            Published::Directory(tree) => tree.0.join(path.to_string()),
            Published::Url(base, _) => format!("{base}{path}").into(),
            Published::Target(target, _) => format!("{target}{path}").into(),
        }
    }

    /// All files that it has, when it can tell.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn list(&self) -> Result<Option<Vec<Listed>>, RemoteError> {
        match self {
            Published::Directory(tree) => targets::DirectoryTarget::new(&tree.0, 1).list(),
            Published::Url(..) => Ok(None),
            Published::Target(_, remote) => remote.list(),
        }
    }
}

impl MirrorFiles for Published {
    fn read(&self, path: &MirrorPath, limit: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        match self {
            Published::Directory(tree) => tree.read(path, limit),
            Published::Url(url, http) => WebTree { http, url }.read(path, limit),
            Published::Target(_, remote) => OfRemote(remote.as_ref()).read(path, limit),
        }
    }

    fn read_all(&self, items: &[FileToSend]) -> Result<Vec<Option<Vec<u8>>>, RemoteError> {
        match self {
            Published::Target(_, remote) => OfRemote(remote.as_ref()).read_all(items),
            _ => items.iter().map(|item| self.read(&item.path, item.len)).collect(),
        }
    }

    fn together(&self) -> usize {
        match self {
            Published::Target(_, remote) => remote.together(),
            _ => 1,
        }
    }
}

/// Its name, for people; of a tree of files with a `/` at its end.
impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Published::Directory(tree) => write!(f, "{}/", tree.0.display()),
            Published::Url(url, _) => url.fmt(f),
            Published::Target(target, _) => target.fmt(f),
        }
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Published({self})")
    }
}
