//! URLs of mirrors: of the project's own, and of the archives that a recipe takes systems from.

use std::fmt;
use std::str::FromStr;

use crate::names::clip;

/// URL of the root of a tree of files: `http://` or `https://`, a host, and a path that ends with `/`.
///
/// A recipe, in which people write URLs, is stricter about the host (`recipe::values`); what it accepts is one of
/// these.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MirrorUrl(String);

impl MirrorUrl {
    /// Longest URL in bytes.
    pub const MAX: usize = 256;

    /// The URL as text; it ends with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As people type it: the `/` at the end may be missing.
    ///
    /// # Errors
    /// [`BadUrl`].
    pub fn typed(text: &str) -> Result<Self, BadUrl> {
        if text.ends_with('/') { text.parse() } else { format!("{text}/").parse() }
    }
}

/// Text that is no URL of a mirror.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not the URL of a mirror: http:// or https://, a host, a path that ends with /; no user, no ? and no #, \
     at most 256 bytes",
    clip(.0)
)]
pub struct BadUrl(String);

impl AsRef<str> for MirrorUrl {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for MirrorUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let fits = rest.is_some_and(|rest| !rest.starts_with(['/', ':']) && rest.ends_with('/'));
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#@\\\"<>^`{|}".contains(&byte));
        if fits && plain && text.len() <= Self::MAX {
            Ok(MirrorUrl(text.into()))
        } else {
            Err(BadUrl(text.into()))
        }
    }
}

impl fmt::Display for MirrorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MirrorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
