//! One block of a virtual disk: its name, its proof and its file (docs/formats.md, section 2).
//!
//! A block file is one zlib stream (RFC 1950) named by the MD5 of what it inflates to. The name identifies the block;
//! the SHA-256 from the signed index is the proof. Bytes from the network pass through a chain of types,
//! [`FetchedFile`] -> [`Inflated`] -> [`Block`], and only a [`Block`] reaches the device.

mod codec;
mod file;

use md5::{Digest, Md5};

use crate::digest::hex_id;
use crate::names::BlockSize;

pub use codec::{BadLevel, Codec, CodecKind};
pub use file::{Block, BlockDamage, FetchedFile, Inflated, Object, max_file_len};

/// Most raw bytes in a block: 4 MiB.
pub const MAX_BLOCK_SIZE: u32 = BlockSize::MAX.get();

/// Name of a block: MD5 of its raw bytes, 32 hex digits; `FromStr` is the inverse. A name
/// identifies a block; it proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockName(pub [u8; 16]);

impl BlockName {
    /// The name of these raw bytes.
    pub fn of(raw: &[u8]) -> Self {
        BlockName(Md5::digest(raw).into())
    }

    /// The name of `len` zeros. The map of an index has no object for them.
    pub fn of_zeros(len: usize) -> Self {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut md5 = Md5::new();
        let mut left = len;
        while left > 0 {
            let now = left.min(ZEROS.len());
            md5.update(&ZEROS[..now]);
            left -= now;
        }
        BlockName(md5.finalize().into())
    }

    /// Path below the mirror: `blk/<first 2 hex>/<32 hex>`.
    pub fn path(&self) -> String {
        format!("blk/{:02x}/{self}", self.0[0])
    }
}

hex_id!(BlockName);
