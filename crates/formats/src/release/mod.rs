//! What a mirror publishes about itself: `latest` -> `releases/N.txt` -> indexes, `mirrors.txt`, the upload
//! manifest, prefetch lists (docs/formats.md, sections 1 and 4 to 6).
//!
//! A client goes down a chain in which each link is checked by the one above it: trusted keys sign
//! [`Latest`], which names a [`Release`] by length and SHA-256, which names every index so, which names every
//! block. One signature covers all. [`Verified`] is the only way to a [`Latest`] that came from outside.

mod dlahead;
mod fault;
mod latest;
mod mirrors;
mod numbered;
mod path;
mod reads;
mod signed;
mod successors;
mod upload;

pub use dlahead::{Dlahead, Phase, PrefetchBlock, merge};
pub use fault::ReleaseTextFault;
pub use latest::Latest;
pub use mirrors::{Mirror, Mirrors};
pub use numbered::{ImageFiles, Release, Stored};
pub use path::{BadPath, Leaf, MirrorPath};
pub use reads::{Reading, Reads};
pub use signed::{BadKey, Document, DocumentError, KeyId, TrustedKeys, Verified, base64};
pub use successors::{MAX_HOPS, Successors};
pub use upload::{Put, Upload};

use crate::digest::{Digest, Sha256};

/// Longest line of these texts, LF included. The longest that can be valid is an `image` line of some 270 bytes.
const MAX_LINE: usize = 512;
/// Longest `latest`: 16 KiB.
pub const MAX_LATEST: u64 = 16 << 10;
/// Longest `releases/N.txt`: 1 MiB.
pub(crate) const MAX_RELEASE: u64 = 1 << 20;
/// Longest `mirrors.txt`: 64 KiB.
pub const MAX_MIRRORS: u64 = 64 << 10;
/// Longest prefetch list: 64 MiB.
pub(crate) const MAX_DLAHEAD: u64 = 64 << 20;
/// Longest list of what a boot read: 16 MiB.
pub const MAX_READS: u64 = 16 << 20;
/// Longest `layout.z`: 256 MiB.
pub const MAX_LAYOUT: u64 = 256 << 20;

impl Digest {
    /// Compares: first the length, which costs nothing.
    ///
    /// # Errors
    /// [`DocumentError::Length`], [`DocumentError::Digest`]; `by` is who says what the file must be.
    fn check(&self, file: &MirrorPath, bytes: &[u8], by: &'static str) -> Result<(), DocumentError> {
        let found = bytes.len() as u64;
        if found != self.len {
            return Err(DocumentError::Length { file: file.to_string(), found, by, want: self.len });
        }
        let found = Sha256::of(bytes);
        if found != self.sha256 {
            return Err(DocumentError::Digest { file: file.to_string(), found, by, want: self.sha256 });
        }
        Ok(())
    }
}
