//! A release where it is published: a mirror's tree in a directory, or behind HTTP.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::files::{FileError, read_at_most};
use super::http::{BadCa, BadProxy, Get, Http, Patience, Proxies};
use crate::fetch::Fault;
use crate::release::{BadUrl, MirrorPath, MirrorUrl};

/// How long one file may take, however large.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where a release is.
#[derive(Debug)]
pub enum Published {
    /// A mirror's tree on a local disk.
    Directory(PathBuf),
    /// A mirror's URL.
    Url(MirrorUrl, Box<Http>),
}

/// Why a published file can't be had.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    /// Not a URL of a mirror.
    #[error(transparent)]
    Url(#[from] BadUrl),
    /// `http_proxy` and the like.
    #[error(transparent)]
    Proxy(#[from] BadProxy),
    /// No client can be made.
    #[error("no HTTP client can be made")]
    Http(#[from] BadCa),
    /// A local file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of a mirror.
    #[error("{url}: {fault}")]
    Fetch {
        /// The file.
        url: String,
        /// Why. Part of the message, as it is one fact, not a cause.
        fault: Fault,
    },
}

impl Published {
    /// What begins with `http://` or `https://` is a mirror's URL, anything else a directory. A build's output
    /// directory stands for the `mirror/` in it.
    ///
    /// # Errors
    /// [`PublishedError`].
    pub fn open(place: &Path) -> Result<Self, PublishedError> {
        match place.to_str().filter(|text| text.starts_with("http://") || text.starts_with("https://")) {
            Some(text) => {
                let http = Http::new(Proxies::from_env()?, None, 1, Patience::default())?;
                Ok(Published::Url(MirrorUrl::typed(text)?, Box::new(http)))
            }
            None => {
                let inner = place.join("mirror");
                Ok(Published::Directory(if inner.is_dir() { inner } else { place.into() }))
            }
        }
    }

    /// Where one of its files is.
    pub fn locate(&self, path: &MirrorPath) -> PathBuf {
        match self {
            Published::Directory(root) => root.join(path.to_string()),
            Published::Url(base, _) => format!("{base}{path}").into(),
        }
    }

    /// Reads a file; `None` when it is not there. Nothing is known about its contents.
    ///
    /// # Errors
    /// [`PublishedError`]; also when it is longer than files of its kind may be.
    pub fn read(&self, path: &MirrorPath) -> Result<Option<Vec<u8>>, PublishedError> {
        match self {
            Published::Directory(_) => match read_at_most(self.locate(path), path.limit()) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            },
            Published::Url(base, http) => {
                let url = format!("{base}{path}");
                let until = Instant::now() + PATIENCE;
                let fresh = *path == MirrorPath::Latest;
                match http.get(Get { fresh, ..Get::new(&url, path.limit(), until) }) {
                    Ok(answer) => Ok(Some(answer.bytes)),
                    Err(Fault::Missing(404 | 410)) => Ok(None),
                    Err(fault) => Err(PublishedError::Fetch { url, fault }),
                }
            }
        }
    }
}
