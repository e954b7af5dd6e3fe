//! One block of a virtual disk: its name, its proof and its file (docs/formats.md, section 2).
//!
//! A block file is one zlib stream (RFC 1950) named by the MD5 of what it inflates to. The name is a claim;
//! the SHA-256 from the signed index is the proof. Bytes from the network pass through a chain of types,
//! [`Fetched`] -> [`Inflated`] -> [`Block`], and only a [`Block`] reaches the device.

#[cfg(feature = "builder")]
mod codec;
mod file;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use md5::{Digest, Md5};

#[cfg(feature = "builder")]
pub use codec::{BadLevel, Codec, Compressor, Level};
pub use file::{Block, Damage, Fetched, Inflated, Object, max_file_len};

/// Raw bytes in a block unless an index says otherwise: 256 KiB (the paper, section 3.2).
pub const DEFAULT_BLOCK_SIZE: u32 = 256 * 1024;
/// Most raw bytes in a block: 4 MiB.
pub const MAX_BLOCK_SIZE: u32 = 4 * 1024 * 1024;

/// Name of a block: MD5 of its raw bytes, 32 hex digits; `FromStr` is the inverse. A name is a claim.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockName(pub [u8; 16]);

/// SHA-256 of some bytes, shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

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

impl Sha256 {
    /// The SHA-256 of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Sha256(sha2::Sha256::digest(bytes).into())
    }
}

/// Text that is not the hex digits it ought to be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not {digits} lower-case hex digits")]
pub struct BadHex {
    text: String,
    digits: usize,
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn read_hex<const N: usize>(text: &str) -> Result<[u8; N], BadHex> {
    let bad = || BadHex { text: text.chars().take(80).collect(), digits: 2 * N };
    let digit = |c: u8| match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        _ => Err(bad()),
    };
    if text.len() != 2 * N {
        return Err(bad());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

macro_rules! hex_id {
    ($id:ident) => {
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }
        impl FromStr for $id {
            type Err = BadHex;
            fn from_str(text: &str) -> Result<Self, BadHex> {
                read_hex(text).map($id)
            }
        }
    };
}
hex_id!(BlockName);
hex_id!(Sha256);
