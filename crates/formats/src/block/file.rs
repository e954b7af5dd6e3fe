//! Block files: bytes from a mirror become a [`Block`] in two steps that can fail, or not at all.

use md5::{Digest, Md5};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_COMPUTE_ADLER32, TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::BlockName;
use super::MAX_BLOCK_SIZE;
use crate::digest::Sha256;

/// Longest block file for `raw_len` raw bytes: what zlib's `compressBound` gives, never less than what its
/// stored form takes. 262,237 for a block of 256 KiB.
pub const fn max_file_len(raw_len: u32) -> u32 {
    // 5 bytes for each stored deflate block of at most 16,383 bytes, 13 around it all (RFC 1950 and zlib's
    // compress.c: n + n/2^12 + n/2^14 + n/2^25 + 13).
    raw_len + (raw_len >> 12) + (raw_len >> 14) + (raw_len >> 25) + 13
}

/// What an index says of one block file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// The file's name: MD5 of the raw bytes.
    pub name: BlockName,
    /// The proof: SHA-256 of the raw bytes.
    pub sha256: Sha256,
    /// Raw bytes, 1 to 4 MiB.
    pub raw_len: u32,
    /// Bytes of the block file.
    pub file_len: u32,
}

/// Bytes that came for a block file. Nothing of them is checked yet.
#[derive(Clone, Debug)]
pub struct FetchedFile<B> {
    claim: Object,
    bytes: B,
}

/// Bytes that a block file inflated to, as many as the index says. Their name and SHA-256 are not checked yet.
#[derive(Clone, Debug)]
pub struct Inflated {
    claim: Object,
    bytes: Vec<u8>,
}

/// Raw bytes known to have this name and this SHA-256. Private fields: [`Block::seal`] and
/// [`Inflated::verify`] are the only ways in.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    name: BlockName,
    sha256: Sha256,
    bytes: Vec<u8>,
}

/// Why some bytes are not the block that an index names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockDamage {
    /// The file has another length than the index says.
    #[error("block {name}: the file has {found} bytes; the index says {want}")]
    FileLength {
        name: BlockName,
        /// The length that was received, in bytes.
        found: u64,
        /// Bytes in the index.
        want: u32,
    },
    /// Not zlib, or damaged inside.
    #[error("block {name}: not a zlib stream, or damaged inside")]
    Stream { name: BlockName },
    /// zlib's own checksum of the raw bytes is wrong.
    #[error("block {name}: the zlib checksum at its end is wrong")]
    Checksum { name: BlockName },
    /// The stream stops before its end.
    #[error("block {name}: the zlib stream is truncated")]
    MissingEnd { name: BlockName },
    /// The stream ends before the last byte of the file.
    #[error("block {name}: {extra} bytes follow the end of the zlib stream")]
    TrailingBytes { name: BlockName, extra: usize },
    /// The stream has fewer raw bytes than the index says.
    #[error("block {name}: inflates to {found} bytes; the index says {want}")]
    TooShort {
        name: BlockName,
        /// Raw bytes in the stream.
        found: usize,
        /// Raw bytes in the index.
        want: u32,
    },
    /// The stream has more raw bytes than the index says; inflating stopped there.
    #[error("block {name}: inflates to more than the {want} bytes that the index says")]
    TooLong {
        name: BlockName,
        /// Raw bytes in the index.
        want: u32,
    },
    /// Other contents than the name says.
    #[error("block {name}: holds another block, whose MD5 is {found}")]
    WrongName {
        /// The name asked for.
        name: BlockName,
        /// The MD5 of what came.
        found: BlockName,
    },
    /// The MD5 is right and the SHA-256 is not: it is a collision made on purpose, or the index is of another build.
    #[error("block {name}: forged: its MD5 is right, but its SHA-256 is {found}; the index says {want}")]
    WrongProof {
        name: BlockName,
        /// SHA-256 of what came.
        found: Sha256,
        /// SHA-256 in the index.
        want: Sha256,
    },
}

impl<B: AsRef<[u8]>> FetchedFile<B> {
    /// Bytes that ought to be the file of this object.
    pub fn new(claim: Object, bytes: B) -> Self {
        FetchedFile { claim, bytes }
    }

    /// Inflates into a buffer of exactly the raw length that the index gives.
    ///
    /// # Errors
    /// [`BlockDamage`] for a wrong length of the file, a damaged or cut stream, bytes after it, and for as little as
    /// one raw byte too few or too many.
    pub fn inflate(self) -> Result<Inflated, BlockDamage> {
        let Object { name, raw_len, file_len, .. } = self.claim;
        let file = self.bytes.as_ref();
        if file.len() != file_len as usize {
            return Err(BlockDamage::FileLength { name, found: file.len() as u64, want: file_len });
        }
        let mut bytes = vec![0; raw_len as usize];
        let (status, read, written) = inflate_into(&mut bytes, file);
        match status {
            TINFLStatus::Done if read < file.len() => {
                Err(BlockDamage::TrailingBytes { name, extra: file.len() - read })
            }
            TINFLStatus::Done if written < bytes.len() => {
                Err(BlockDamage::TooShort { name, found: written, want: raw_len })
            }
            TINFLStatus::Done => Ok(Inflated { claim: self.claim, bytes }),
            TINFLStatus::HasMoreOutput => Err(BlockDamage::TooLong { name, want: raw_len }),
            TINFLStatus::FailedCannotMakeProgress | TINFLStatus::NeedsMoreInput => {
                Err(BlockDamage::MissingEnd { name })
            }
            TINFLStatus::Adler32Mismatch => Err(BlockDamage::Checksum { name }),
            _ => Err(BlockDamage::Stream { name }),
        }
    }
}

/// Inflates one zlib stream into a buffer, in one call: how that ended, bytes read, bytes written.
///
/// miniz_oxide, because it has no unsafe code and these bytes come from the network, before their proof is
/// checked. zlib-rs would save 0.2 ms of 0.75 ms a block (measured) and cost 48 KB.
fn inflate_into(raw: &mut [u8], file: &[u8]) -> (TINFLStatus, usize, usize) {
    let flags =
        TINFL_FLAG_PARSE_ZLIB_HEADER | TINFL_FLAG_COMPUTE_ADLER32 | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    decompress(&mut DecompressorOxide::new(), file, raw, 0, flags)
}

impl Inflated {
    /// Makes a block of the bytes, if they have the name and the SHA-256 that the index gives.
    ///
    /// # Errors
    /// [`BlockDamage::WrongName`], [`BlockDamage::WrongProof`].
    pub fn verify(self) -> Result<Block, BlockDamage> {
        let Object { name, sha256: want, .. } = self.claim;
        let sha256 = Sha256::of(&self.bytes);
        if sha256 == want {
            // The index was made from a block with this SHA-256 and this name: the MD5 needs no second look.
            return Ok(Block { name, sha256, bytes: self.bytes });
        }
        match BlockName::of(&self.bytes) {
            found if found == name => Err(BlockDamage::WrongProof { name, found: sha256, want }),
            found => Err(BlockDamage::WrongName { name, found }),
        }
    }
}

impl Block {
    /// The block of raw bytes that did not come from a mirror.
    pub fn seal(bytes: Vec<u8>) -> Self {
        let (mut md5, mut sha256) = (Md5::new(), sha2::Sha256::new());
        // Neither keeps a core busy alone: by turns they take a sixth less time (measured).
        for part in bytes.chunks(64) {
            md5.update(part);
            sha256.update(part);
        }
        Block { name: BlockName(md5.finalize().into()), sha256: Sha256(sha256.finalize().into()), bytes }
    }

    /// The block that a file holds, whichever it is: for stores and for lists of names, where there is no index to
    /// check it against. `None` when the file is not one whole zlib stream of at most 4 MiB.
    pub fn of_file(file: &[u8]) -> Option<Self> {
        let mut bytes = vec![0; MAX_BLOCK_SIZE as usize];
        let (status, read, written) = inflate_into(&mut bytes, file);
        bytes.truncate(written);
        bytes.shrink_to_fit();
        (status == TINFLStatus::Done && read == file.len()).then(|| Block::seal(bytes))
    }

    /// MD5 of the raw bytes.
    pub fn name(&self) -> BlockName {
        self.name
    }

    /// SHA-256 of the raw bytes.
    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// The verified raw bytes, at most one block's length.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The raw bytes, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({}, {} bytes)", self.name, self.bytes.len())
    }
}
