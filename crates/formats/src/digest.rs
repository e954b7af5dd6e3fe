//! SHA-256, the proof of every file of a mirror, and SHA-512, which others publish of theirs; written in
//! lower-case hex digits.

use std::fmt;

use sha2::Digest as _;

/// SHA-256 of some bytes, shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The SHA-256 of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Sha256(sha2::Sha256::digest(bytes).into())
    }
}

/// SHA-512 of some bytes, shown as 128 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha512(pub [u8; 64]);

/// What a file must be: its length and its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// SHA-256 of the whole file.
    pub sha256: Sha256,
    /// Bytes of the whole file.
    pub len: u64,
}

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Digest { sha256: Sha256::of(bytes), len: bytes.len() as u64 }
    }
}

/// Text that is not the hex digits it ought to be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not {digits} lower-case hex digits")]
pub struct BadHex {
    text: String,
    digits: usize,
}

/// Bytes as lower-case hex digits, two for each.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

pub(crate) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

pub(crate) fn read_hex<const N: usize>(text: &str) -> Result<[u8; N], BadHex> {
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
        impl std::fmt::Display for $id {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::digest::write_hex(&self.0, f)
            }
        }
        impl std::fmt::Debug for $id {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::digest::write_hex(&self.0, f)
            }
        }
        impl std::str::FromStr for $id {
            type Err = $crate::digest::BadHex;
            fn from_str(text: &str) -> Result<Self, $crate::digest::BadHex> {
                $crate::digest::read_hex(text).map($id)
            }
        }
    };
}
pub(crate) use hex_id;

hex_id!(Sha256);
hex_id!(Sha512);
