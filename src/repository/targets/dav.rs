//! HTTP PUT, GET, HEAD and DELETE: WebDAV servers, and nginx with `dav_methods`.
//!
//! A server that writes a body beside its name and renames it (nginx does) makes each PUT one step. One that does
//! not may leave half a file when it is cut; its length gives it away, and the next attempt sends it again.

use std::sync::{Mutex, PoisonError};

use super::objects::{ObjectStore, Objects};
use super::wire::{ServerRequest, ServerResponse, Wire};
use crate::publish::{Listed, RemoteError, RemotePath};

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

impl Dav {
    /// A tree below this URL, which ends with `/`.
    ///
    /// # Errors
    /// [`RemoteError`] when half of the credentials is missing.
    pub fn open(url: &str, jobs: usize) -> Result<Objects<Self>, RemoteError> {
        let var = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        let authorization = match (var(TOKEN), var(USER), var(PASSWORD)) {
            (Some(token), ..) => Some(format!("Bearer {token}")),
            (None, Some(user), Some(password)) => {
                Some(format!("Basic {}", base64(format!("{user}:{password}").as_bytes())))
            }
            (None, None, None) => None,
            _ => return Err(RemoteError::new(url, format!("set both {USER} and {PASSWORD}, or neither"))),
        };
        let dav = Dav { url: url.into(), wire: Wire::new(jobs), authorization, making: Mutex::new(()) };
        Ok(Objects::new(dav, jobs))
    }

    fn ask_url(
        &self,
        method: &'static str,
        url: &str,
        body: &[u8],
        limit: u64,
    ) -> Result<ServerResponse, RemoteError> {
        let headers = self.authorization.iter().map(|value| ("authorization", value.clone()));
        let headers = headers.chain([("cache-control", "no-cache".to_owned())]).collect();
        self.wire.ask(&ServerRequest { method, url, headers, body, limit }, url)
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

    fn ask(
        &self,
        method: &'static str,
        place: &RemotePath,
        limit: u64,
    ) -> Result<ServerResponse, RemoteError> {
        self.ask_url(method, &format!("{}{place}", self.url), &[], limit)
    }

    fn send(&self, place: &RemotePath, bytes: &[u8]) -> Result<ServerResponse, RemoteError> {
        let url = format!("{}{place}", self.url);
        let said = self.ask_url("PUT", &url, bytes, 4096)?;
        // Servers that make no directories by themselves say so in one of these ways. Another, which puts a file
        // beside this one, may have made them meanwhile.
        if matches!(said.status, 403 | 404 | 409) && self.make_directories(place)? {
            return self.ask_url("PUT", &url, bytes, 4096);
        }
        Ok(said)
    }

    fn is_missing(&self, said: &ServerResponse) -> bool {
        matches!(said.status, 404 | 410)
    }

    fn list(&self) -> Result<Option<Vec<Listed>>, RemoteError> {
        // nginx has no PROPFIND, and directory listings are off on a mirror.
        Ok(None)
    }
}

/// RFC 4648 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let shown = digit <= chunk.len();
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if shown { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(text.as_bytes()), coded);
        }
    }
}
