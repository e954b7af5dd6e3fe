//! cloop files: KNOPPIX's compressed block device, formats V0.x to V4.0.
//!
//! ```text
//! 0    128 bytes  text, a shell script that mounts the file; at 11 the format: V0.x, V1.0, V2.0, V3.0, V4.0
//! 128  u32        bytes of a block
//! 132  u32        blocks
//! 136  index      blocks + 1 offsets of 4 bytes (old ones) or 8; in V4 the upper 4 bits say how a block is packed
//!                 blocks, each packed by itself; zlib up to V3
//! ```
//!
//! All numbers are big-endian, offsets begin at the file's start. A V4 file may have text, sizes and index at its
//! end, the index first. How wide an offset is follows from the first, which is where the index ends. Source:
//! cloop.h of Debian's cloop-src and KNOPPIX's own files.

use std::io::{self, Read};

use crate::ext2::ReadAt;

/// Bytes of the text.
const TEXT: u64 = 128;
/// Bytes of text and sizes.
const HEAD: u64 = TEXT + 8;
/// Larger blocks are not made: the kernel module takes 4 MiB at most.
const MAX_BLOCK: u32 = 4 << 20;
/// More blocks are no device: 1 TiB in blocks of 64 KiB.
const MAX_BLOCKS: u32 = 1 << 24;
/// A block that does not shrink grows by a few bytes.
const MAX_GROWTH: u64 = 64 << 10;
/// Memory that unpacking a block by xz may take, bytes: twice the dictionary of `xz -9`.
const XZ_MEMORY: u64 = 128 << 20;
/// Offset of the format's name in the text.
const FORMAT_AT: usize = 11;

/// What is wrong with a cloop file.
#[derive(Debug, thiserror::Error)]
pub enum CloopError {
    /// It can't be read.
    #[error("can't read at byte {at}")]
    Read { at: u64, source: io::Error },
    #[error("not a cloop file: neither its start nor its end has the text of format V0 to V4")]
    NotCloop,
    /// Sizes beyond all reason.
    #[error(
        "{blocks} blocks of {block_size} bytes; supported are multiples of 512 up to 4 MiB, and up to 2^24 blocks"
    )]
    Sizes {
        /// Bytes of a block.
        block_size: u32,
        blocks: u32,
    },
    #[error("truncated: the file has {found} bytes instead of {want}")]
    Truncated {
        /// Bytes it must have.
        want: u64,
        /// Bytes it has.
        found: u64,
    },
    /// The index does not begin where blocks could follow it.
    #[error("damaged index: it places the first block at byte {first}")]
    IndexStart {
        /// Where the index says the first block is.
        first: u64,
    },
    /// Offsets that descend, or lie too far apart.
    #[error("damaged index: it places block {block} from byte {from} to byte {to}")]
    Index {
        block: u32,
        from: u64,
        /// The byte behind its last.
        to: u64,
    },
    /// Packed in a way that is not known here.
    #[error("block {block}: compression method {how} is not supported; supported are zlib, xz and none")]
    Packing { block: u32, how: &'static str },
    /// A block that can't be unpacked.
    #[error("block {block} at byte {at} is damaged")]
    Block { block: u32, at: u64, source: io::Error },
    /// A block of another length.
    #[error("block {block} at byte {at} is damaged: it unpacks to {found} bytes or more, not {want}")]
    Length {
        block: u32,
        at: u64,
        /// Bytes that came.
        found: usize,
        /// Bytes of a block.
        want: usize,
    },
}

/// A compressed block device.
pub struct Cloop<'f> {
    file: &'f dyn ReadAt,
    block_size: u32,
    /// Where each block begins, and its upper 4 bits; one more for the end.
    index: Vec<u64>,
    flagged: bool,
}

impl<'f> Cloop<'f> {
    /// Reads the index.
    ///
    /// # Errors
    /// [`CloopError`].
    pub fn open(file: &'f dyn ReadAt) -> Result<Self, CloopError> {
        let size = file.size().map_err(|source| CloopError::Read { at: 0, source })?;
        let at_end = size.checked_sub(HEAD);
        let (head_at, format) = match format(file, 0)? {
            Some(format) => (0, format),
            None => match at_end.map(|at| Ok((at, self::format(file, at)?))).transpose()? {
                Some((at, Some(b'4'))) => (at, b'4'),
                _ => return Err(CloopError::NotCloop),
            },
        };
        let sizes: [u8; 8] = array(file, head_at + TEXT)?;
        let [a, b, c, d, e, f, g, h] = sizes;
        let (block_size, blocks) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        let possible = (512..=MAX_BLOCK).contains(&block_size) && block_size.is_multiple_of(512);
        if !possible || blocks == 0 || blocks > MAX_BLOCKS {
            return Err(CloopError::Sizes { block_size, blocks });
        }
        let entries = u64::from(blocks) + 1;
        let (index_at, wide) = if head_at == 0 {
            (HEAD, width(file, entries, size)?)
        } else {
            let short = CloopError::Truncated { want: entries * 8 + HEAD, found: size };
            (head_at.checked_sub(entries * 8).ok_or(short)?, true)
        };
        let width = if wide { 8 } else { 4 };
        let index_end = index_at + entries * width;
        if index_end > size {
            return Err(CloopError::Truncated { want: index_end, found: size });
        }
        let mut bytes = vec![0; usize::try_from(entries * width).expect("at most 128 MiB")];
        file.read_exact_at(index_at, &mut bytes)
            .map_err(|source| CloopError::Read { at: index_at, source })?;
        let index: Vec<u64> = match wide {
            true => bytes.as_chunks().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect(),
            false => bytes.as_chunks().0.iter().map(|entry| u32::from_be_bytes(*entry).into()).collect(),
        };
        let cloop = Cloop { file, block_size, index, flagged: format == b'4' };
        cloop.check(size)?;
        Ok(cloop)
    }

    /// Whether offsets ascend and end within the file.
    fn check(&self, size: u64) -> Result<(), CloopError> {
        for block in 0..self.blocks() {
            let (from, to) = self.range(block);
            if to < from || to - from > u64::from(self.block_size) + MAX_GROWTH {
                return Err(CloopError::Index { block, from, to });
            }
        }
        let (_, want) = self.range(self.blocks() - 1);
        if want > size { Err(CloopError::Truncated { want, found: size }) } else { Ok(()) }
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> u32 {
        u32::try_from(self.index.len() - 1).expect("at most 2^24")
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Bytes of the device.
    pub fn size(&self) -> u64 {
        u64::from(self.blocks()) * u64::from(self.block_size)
    }

    fn offset(&self, entry: usize) -> u64 {
        if self.flagged { self.index[entry] & !(0xf << 60) } else { self.index[entry] }
    }

    fn range(&self, block: u32) -> (u64, u64) {
        let nth = usize::try_from(block).expect("32 bits");
        (self.offset(nth), self.offset(nth + 1))
    }

    /// A block, unpacked: exactly [`Cloop::block_size`] bytes.
    ///
    /// # Errors
    /// [`CloopError`].
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block(&self, block: u32) -> Result<Vec<u8>, CloopError> {
        let (at, to) = self.range(block);
        let want = usize::try_from(self.block_size).expect("32 bits");
        let mut packed = vec![0; usize::try_from(to - at).expect("a block and its growth")];
        self.file.read_exact_at(at, &mut packed).map_err(|source| CloopError::Read { at, source })?;
        let how = if self.flagged { self.index[usize::try_from(block).expect("32 bits")] >> 60 } else { 0 };
        let mut raw = Vec::with_capacity(want);
        let most = u64::from(self.block_size) + 1;
        let unpacked = match how {
            0 => flate2::read::ZlibDecoder::new(&packed[..]).take(most).read_to_end(&mut raw),
            1 => (&packed[..]).take(most).read_to_end(&mut raw),
            2 => unxz(&packed).and_then(|xz| xz.take(most).read_to_end(&mut raw)),
            3 => return Err(CloopError::Packing { block, how: "lz4" }),
            4 => return Err(CloopError::Packing { block, how: "lzo" }),
            _ => return Err(CloopError::Packing { block, how: "an unknown method" }),
        };
        unpacked.map_err(|source| CloopError::Block { block, at, source })?;
        if raw.len() != want {
            return Err(CloopError::Length { block, at, found: raw.len(), want });
        }
        Ok(raw)
    }
}

/// A decoder for an xz stream. The stream says how much memory it takes: not more than [`XZ_MEMORY`].
fn unxz(packed: &[u8]) -> io::Result<impl Read> {
    let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0).map_err(io::Error::other)?;
    Ok(liblzma::read::XzDecoder::new_stream(packed, stream))
}

/// The digit of the format named in a text, if it is one of cloop's.
fn format(file: &dyn ReadAt, at: u64) -> Result<Option<u8>, CloopError> {
    let text: [u8; 16] = match array(file, at) {
        Err(CloopError::Read { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(None);
        }
        read => read?,
    };
    let [v, digit @ b'0'..=b'4', b'.', ..] = text[FORMAT_AT..] else { return Ok(None) };
    Ok((text[0] == b'#' && v == b'V').then_some(digit))
}

/// Whether offsets have 8 bytes: the first says where the index ends.
fn width(file: &dyn ReadAt, entries: u64, size: u64) -> Result<bool, CloopError> {
    let short = |_| CloopError::Truncated { want: HEAD + entries * 4, found: size };
    let first: [u8; 8] = array(file, HEAD).map_err(short)?;
    let wide = u64::from_be_bytes(first) & !(0xf << 60);
    let narrow = u64::from_be_bytes(first) >> 32;
    if wide == HEAD + entries * 8 {
        Ok(true)
    } else if narrow == HEAD + entries * 4 {
        Ok(false)
    } else {
        Err(CloopError::IndexStart { first: wide })
    }
}

fn array<const N: usize>(file: &dyn ReadAt, at: u64) -> Result<[u8; N], CloopError> {
    let mut bytes = [0; N];
    file.read_exact_at(at, &mut bytes).map_err(|source| CloopError::Read { at, source })?;
    Ok(bytes)
}
