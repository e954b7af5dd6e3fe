//! Sparse files: which regions of a file the archive holds, in old GNU headers and in PAX 0.0, 0.1 and 1.0.
//!
//! Source: GNU tar, *Storing Sparse Files*. Every region begins on a block of 512 bytes in the archive, so
//! only the last may have a length that does not fill its blocks.

use std::io::{Read, Seek};

use super::blocks::{BLOCK, TarBlocks, number};
use super::pax::{self, decimal};
use super::{Problem, TarError};
use crate::tree::{Content, ContentSource, Extent, SpoolId};

/// Longest map before the data, bytes: half a million regions.
const MAP_LIMIT: u64 = 16 << 20;

/// Regions in the file: offset and length in turn.
pub(super) type SparseMap = Vec<(u64, u64)>;

/// Where the file's stored bytes are, and how long it is with its holes.
pub(super) struct SparseContents {
    pub spool: SpoolId,
    /// Position of the first stored byte in the spool.
    pub offset: u64,
    /// Stored bytes, before the padding to whole blocks.
    pub stored: u64,
    /// Length of the file.
    pub len: u64,
}

impl SparseContents {
    /// The file's contents: regions of `map`, laid one after another in the archive.
    pub fn content(&self, map: &[(u64, u64)]) -> Result<Content, Problem> {
        let mut extents = Vec::new();
        let (mut end, mut used) = (0u64, 0u64);
        for &(at, len) in map {
            let next = at.checked_add(len).filter(|&next| at >= end && next <= self.len);
            end = next.ok_or(Problem::SparseMap("regions overlap or are beyond the end of the file"))?;
            if len == 0 {
                continue;
            }
            if used % BLOCK != 0 {
                return Err(Problem::SparseMap("a region before the last does not fill its blocks"));
            }
            // In the archive's own position arithmetic: `used` stays within `stored`, checked below.
            let source = ContentSource::Spool { spool: self.spool, offset: self.offset + used };
            extents.push(Extent { at, len, source });
            used = used.checked_add(len).filter(|&used| used <= self.stored).ok_or(SHORT)?;
        }
        if used != self.stored {
            return Err(SHORT);
        }
        Ok(Content { len: self.len, extents })
    }
}

const SHORT: Problem = Problem::SparseMap("the regions' lengths do not add up to the bytes stored");

/// The map in an old GNU header (type `S`) and in the extension blocks that follow it, which are read here.
pub(super) fn old_gnu(
    header: &tar::GnuHeader,
    blocks: &mut TarBlocks<impl Read + Seek>,
) -> Result<SparseMap, TarError> {
    let mut map = SparseMap::new();
    let mut more = header.is_extended();
    push_regions(&mut map, &header.sparse).map_err(|problem| blocks.error(problem))?;
    while more {
        let mut extension = tar::GnuExtSparseHeader::new();
        extension.as_mut_bytes().copy_from_slice(&blocks.next()?);
        push_regions(&mut map, extension.sparse()).map_err(|problem| blocks.error(problem))?;
        more = extension.is_extended();
    }
    Ok(map)
}

fn push_regions(map: &mut SparseMap, regions: &[tar::GnuSparseHeader]) -> Result<(), Problem> {
    for region in regions.iter().filter(|region| region.offset[0] != 0 && region.numbytes[0] != 0) {
        map.push((number("sparse offset", &region.offset)?, number("sparse length", &region.numbytes)?));
    }
    Ok(())
}

/// The map in the records of PAX 0.0 and 0.1.
pub(super) fn in_records(sparse: &pax::Sparse) -> Result<SparseMap, Problem> {
    if !sparse.map.len().is_multiple_of(2) || sparse.regions.is_some_and(|n| n != sparse.map.len() as u64 / 2)
    {
        return Err(Problem::SparseMap("the number of regions is not the one announced"));
    }
    Ok(sparse.map.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// The map of PAX 1.0, which precedes the stored bytes: numbers in lines, padded to whole blocks. Gives the
/// map and the bytes it took.
pub(super) fn before_data(
    blocks: &mut TarBlocks<impl Read + Seek>,
    stored: u64,
) -> Result<(SparseMap, u64), TarError> {
    const BAD: Problem = Problem::SparseMap("the map before the data is not decimal numbers in lines");
    let start = blocks.position();
    let (mut announced, mut numbers, mut digits) = (None, Vec::new(), Vec::new());
    while announced.is_none_or(|n: u64| (numbers.len() as u64) < n) {
        if blocks.position() - start >= stored.min(MAP_LIMIT) {
            return Err(blocks.error(BAD));
        }
        for byte in blocks.next()? {
            if announced.is_some_and(|n| numbers.len() as u64 == n) {
                break;
            }
            match byte {
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                b'\n' => {
                    let value = decimal(&digits).ok_or_else(|| blocks.error(BAD))?;
                    digits.clear();
                    match announced {
                        None => {
                            announced = Some(value.checked_mul(2).ok_or_else(|| blocks.error(BAD))?);
                        }
                        Some(_) => numbers.push(value),
                    }
                }
                _ => return Err(blocks.error(BAD)),
            }
        }
    }
    let map = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    Ok((map, blocks.position() - start))
}
