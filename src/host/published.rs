//! A release where it is published: a mirror's tree in a directory, or behind HTTP.

use std::path::{Path, PathBuf};

use super::http::{BadCa, BadProxy, Http, Patience, Proxies};
use super::mirror::WebTree;
use super::remote::LocalTree;
use crate::publish::{Files, RemoteError};
use crate::release::{BadUrl, MirrorPath, MirrorUrl};

/// Where a release is.
#[derive(Debug)]
pub enum Published {
    /// A mirror's tree on a local disk.
    Directory(LocalTree),
    /// A mirror's URL.
    Url(MirrorUrl, Box<Http>),
}

/// Why there can be no release at a place.
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
                Ok(Published::Directory(LocalTree(if inner.is_dir() { inner } else { place.into() })))
            }
        }
    }

    /// Where one of its files is.
    pub fn locate(&self, path: &MirrorPath) -> PathBuf {
        match self {
            Published::Directory(tree) => tree.0.join(path.to_string()),
            Published::Url(base, _) => format!("{base}{path}").into(),
        }
    }
}

impl Files for Published {
    fn read(&self, path: &MirrorPath, limit: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        match self {
            Published::Directory(tree) => tree.read(path, limit),
            Published::Url(url, http) => WebTree { http, url }.read(path, limit),
        }
    }
}
