//! zisofs: files packed block by block with zlib, after a header of their own.
//!
//! ```text
//! 0   8 bytes  magic
//! 8   u32      bytes of the file when unpacked, little-endian like all else
//! 12  u8       bytes of this header / 4
//! 13  u8       block size is 1 << this
//! header size: (blocks + 1) u32, where each block begins, from the file's start; a block without bytes is zeros
//! ```

use std::io::{self, Read, Write};

use crate::ext2::ReadAt;

const MAGIC: [u8; 8] = [0x37, 0xe4, 0x53, 0x96, 0xc9, 0xdb, 0xd6, 0x07];

/// A packed file on a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZisofsFile {
    pub at: u64,
    /// Bytes on the medium.
    pub stored: u64,
    /// Bytes of its header / 4.
    pub header: u8,
    /// Its blocks have 1 << this bytes.
    pub block: u8,
    /// Bytes when unpacked.
    pub len: u32,
}

/// Why a file can't be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ZisofsError {
    /// Its header is another than the directory says.
    #[error("damaged zisofs header at byte {at}")]
    Header {
        /// Where the file begins.
        at: u64,
    },
    /// A block is damaged.
    #[error("zisofs block {block} of the file at byte {at} is damaged")]
    Block {
        /// Where the file begins.
        at: u64,
        block: u32,
    },
    /// The medium or the output failed.
    #[error("can't be copied")]
    Copy(#[source] io::Error),
}

impl ZisofsFile {
    /// Decompresses the file, block by block.
    ///
    /// # Errors
    /// [`ZisofsError`].
    pub fn unpack(&self, medium: &dyn ReadAt, out: &mut dyn Write) -> Result<(), ZisofsError> {
        let fault = || ZisofsError::Header { at: self.at };
        let mut head = [0; 16];
        if self.stored < 16 || !(15..=17).contains(&self.block) {
            return Err(fault());
        }
        medium.read_exact_at(self.at, &mut head).map_err(ZisofsError::Copy)?;
        let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if head[..8] != MAGIC || len != self.len || head[12] != self.header || head[13] != self.block {
            return Err(fault());
        }
        let size = 1u64 << self.block;
        let blocks = u64::from(self.len).div_ceil(size);
        let table = u64::from(self.header) * 4;
        if table + (blocks + 1) * 4 > self.stored {
            return Err(fault());
        }
        let mut pointers = vec![0; usize::try_from((blocks + 1) * 4).map_err(|_| fault())?];
        medium.read_exact_at(self.at + table, &mut pointers).map_err(ZisofsError::Copy)?;
        let pointers: Vec<u64> =
            pointers.as_chunks().0.iter().map(|entry| u32::from_le_bytes(*entry).into()).collect();
        let mut left = u64::from(self.len);
        for (block, pair) in (0u32..).zip(pointers.windows(2)) {
            let damaged = || ZisofsError::Block { at: self.at, block };
            let want = left.min(size);
            left -= want;
            let want = usize::try_from(want).map_err(|_| damaged())?;
            let (from, to) = (pair[0], pair[1]);
            if to < from || to > self.stored || to - from > 2 * size {
                return Err(damaged());
            }
            let mut packed = vec![0; usize::try_from(to - from).map_err(|_| damaged())?];
            medium.read_exact_at(self.at + from, &mut packed).map_err(ZisofsError::Copy)?;
            let mut raw = Vec::with_capacity(want);
            if packed.is_empty() {
                raw.resize(want, 0);
            } else {
                let most = want as u64 + 1;
                let inflated = flate2::read::ZlibDecoder::new(&packed[..]).take(most).read_to_end(&mut raw);
                inflated.map_err(|_| damaged())?;
            }
            if raw.len() != want {
                return Err(damaged());
            }
            out.write_all(&raw).map_err(ZisofsError::Copy)?;
        }
        Ok(())
    }
}
