//! HTTP PUT, GET, HEAD and DELETE: WebDAV servers, and nginx with `dav_methods`.
//!
//! A server that writes a body beside its name and renames it (nginx does) makes each PUT one step. One that does
//! not may leave half a file when it is cut; its length gives it away, and the next attempt sends it again.

use std::sync::{Mutex, PoisonError};

use super::objects::{ObjectStore, Objects};
use super::wire::Wire;
use crate::publish::{Listed, RemoteError, RemotePath};
use system::http::{Exchange, HttpOptions, Reply, basic};

/// Environment variables that hold credentials.
const USER: &str = "IMGFACTORY_HTTP_USER";
const PASSWORD: &str = "IMGFACTORY_HTTP_PASSWORD";
const TOKEN: &str = "IMGFACTORY_HTTP_TOKEN";

/// A tree below a URL.
#[derive(Debug)]
pub struct Dav {
    url: String,
    wire: Wire,
    authorization: Option<String>,
    /// Held by whom makes directories.
    making: Mutex<()>,
}

/// Whether the environment has a password or a token.
pub(super) fn has_credentials() -> bool {
    [TOKEN, PASSWORD].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

impl Dav {
    /// A tree below this URL, which ends with `/`.
    ///
    /// # Errors
    /// [`RemoteError`] when half of the credentials is missing.
    pub fn open(url: &str, jobs: usize, web: &HttpOptions) -> Result<Objects<Self>, RemoteError> {
        let var = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let authorization = match (var(TOKEN), var(USER), var(PASSWORD)) {
            (Some(token), ..) => Some(format!("Bearer {token}")),
            (None, Some(user), Some(password)) => Some(basic(&user, &password)),
            (None, None, None) => None,
            _ => return Err(RemoteError::new(url, format!("set both {USER} and {PASSWORD}, or neither"))),
        };
        let dav =
            Dav { url: url.into(), wire: Wire::open(web, jobs, url)?, authorization, making: Mutex::new(()) };
        Ok(Objects::new(dav, jobs))
    }

    fn ask_url(
        &self,
        method: &'static str,
        url: &str,
        body: &[u8],
        limit: u64,
    ) -> Result<Reply, RemoteError> {
        let headers = self.authorization.iter().map(|value| ("authorization", value.clone()));
        let headers = headers.chain([("cache-control", "no-cache".to_owned())]).collect();
        self.wire.ask(&Exchange { method, url, headers, body, limit }, url)
    }

    /// Whether all are there now.
    fn make_directories(&self, place: &RemotePath) -> Result<bool, RemoteError> {
        // One at a time: Apache refuses the second of two that make the same directory at once.
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let path = place.to_string();
        let mut there = true;
        for (at, _) in path.match_indices('/') {
            let url = format!("{}{}/", self.url, &path[..at]);
            // 405: it is there already (RFC 4918, 9.3.1).
            there &= matches!(self.ask_url("MKCOL", &url, &[], 4096)?.status, 201 | 405);
        }
        Ok(there)
    }
}

impl ObjectStore for Dav {
    fn name(&self) -> &str {
        &self.url
    }

    fn ask(&self, method: &'static str, place: &RemotePath, limit: u64) -> Result<Reply, RemoteError> {
        self.ask_url(method, &format!("{}{place}", self.url), &[], limit)
    }

    fn send(&self, place: &RemotePath, bytes: &[u8]) -> Result<Reply, RemoteError> {
        let url = format!("{}{place}", self.url);
        let said = self.ask_url("PUT", &url, bytes, 4096)?;
        // Servers that make no directories by themselves say so in one of these ways. Another, which puts a file
        // beside this one, may have made them meanwhile.
        if matches!(said.status, 403 | 404 | 409) && self.make_directories(place)? {
            return self.ask_url("PUT", &url, bytes, 4096);
        }
        Ok(said)
    }

    fn is_missing(&self, said: &Reply) -> bool {
        matches!(said.status, 404 | 410)
    }

    fn list(&self) -> Result<Option<Vec<Listed>>, RemoteError> {
        // nginx has no PROPFIND, and directory listings are off on a mirror.
        Ok(None)
    }
}
