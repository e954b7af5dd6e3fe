//! `layout.z`: a [`LayoutMap`] as bytes, and back.
//!
//! One zlib stream (RFC 1950). In it, after the line `imgfactory-layout 2`, come numbers of variable length (seven
//! bits a byte, lowest first, the eighth says that more follow; signed ones zigzag), byte strings (length, bytes)
//! and page hashes; docs/formats.md has the table. Positions are given as differences, which are small.
//!
//! Page hashes don't compress, so a map that differs little from one that is published is written as what it changes
//! of that ([`super::update`]).

use libdeflater::{CompressionLvl, Compressor, DecompressionError, Decompressor};

use super::map::{Label, LayoutMap, Mapped, MappedEntry, MappedKind};
use crate::ext2::blockmap::{Run, needed};
use crate::ext2::geometry::{Geometry, InodeSize};
use crate::ext2::pages::{PageHash, sums_of};
use crate::tree::{FileTime, Meta};

/// First line of what the stream holds.
const MAGIC: &[u8] = b"imgfactory-layout 2\n";
/// The same of an update to a map.
pub(super) const UPDATE_MAGIC: &[u8] = b"imgfactory-layout-update 2\n";
/// The last bytes of every layout map.
const END: &[u8] = b"end\n";
/// Most bytes that the stream may hold: 2^29 pages of 10 bytes would be more, but such an image is built anew.
const MAX_INFLATED: usize = 1 << 30;
/// A file inflates to no more than this many times its length, and [`SLACK`]: hashes don't compress, so real maps have
/// small ratios. What is written keeps within it.
const MAX_RATIO: usize = 32;
/// Bytes that any file may inflate to.
const SLACK: usize = 1 << 20;
/// Pages that any map may say that the image has: 64 GiB, which take 160 MiB of memory. A map of more pages describes one
/// of [`EMPTY_SHARE`] at least, so that a small file can't ask for much memory.
const EMPTY_PAGES: usize = 1 << 24;
/// Pages of a large image for each that its map describes.
const EMPTY_SHARE: usize = 32;
/// Inodes that room is made for before they are read. Each has 10 bytes in the file at least, and some 200 in memory.
const INODES_AHEAD: usize = 1 << 12;

/// Why some bytes are no layout map. Images are then laid out anew.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Not a zlib stream, or a torn one.
    #[error("the layout map is not a complete zlib stream")]
    Stream,
    /// Longer than any, or than any of a file of this length.
    #[error("the layout map inflates to more than {most} bytes, which no map of that length does")]
    TooLong {
        /// Bytes that it may have.
        most: usize,
    },
    /// Another version, or something else.
    #[error("not a layout map of version 2")]
    Version,
    /// What changes a map, without that map.
    #[error("the layout map is a delta, but its base is not given")]
    NoBase,
    /// What changes a map, with another map.
    #[error("the layout map is a delta of a base that differs from the given one")]
    OtherBase,
    /// Something in it can't be.
    #[error("byte {at} of the layout map: {what}")]
    Damaged {
        /// Where, in the inflated bytes.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

impl LayoutMap {
    /// As `layout.z`. The same map gives the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MapEncoder(MAGIC.to_vec());
        out.head(self);
        out.number(self.labels.len() as u64);
        self.labels.iter().for_each(|label| out.label(label));
        out.number(self.inodes.len() as u64);
        let mut near = Near::default();
        self.inodes.iter().for_each(|mapped| out.inode(mapped, &mut near));
        let mut rest = &self.pages[..];
        while !rest.is_empty() {
            let zeros = rest.iter().take_while(|page| **page == PageHash::ZERO).count();
            let (_, after) = rest.split_at(zeros);
            let count = after.iter().take_while(|page| **page != PageHash::ZERO).count();
            let (some, after) = after.split_at(count);
            out.number(zeros as u64);
            out.number(count as u64);
            some.iter().for_each(|page| out.0.extend(page.0));
            rest = after;
        }
        out.deflate()
    }

    /// From `layout.z`, when that is a whole map.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn decode(file: &[u8]) -> Result<Self, LayoutError> {
        let bytes = inflate(file)?;
        if bytes.starts_with(UPDATE_MAGIC) {
            return Err(LayoutError::NoBase);
        }
        if !bytes.starts_with(MAGIC) {
            return Err(LayoutError::Version);
        }
        MapDecoder { bytes: &bytes, at: MAGIC.len() }.map()
    }
}

pub(super) fn inflate(file: &[u8]) -> Result<Vec<u8>, LayoutError> {
    let mut decompressor = Decompressor::new();
    let most = most_inflated(file.len());
    // Most of it are hashes, which don't compress.
    let mut room = file.len().saturating_mul(2).clamp(1 << 16, most);
    loop {
        let mut bytes = vec![0; room];
        match decompressor.zlib_decompress(file, &mut bytes) {
            Ok(len) => {
                bytes.truncate(len);
                return Ok(bytes);
            }
            Err(DecompressionError::InsufficientSpace) if room < most => {
                room = room.saturating_mul(4).min(most);
            }
            Err(DecompressionError::InsufficientSpace) => return Err(LayoutError::TooLong { most }),
            Err(DecompressionError::BadData) => return Err(LayoutError::Stream),
        }
    }
}

/// Bytes that a file of `len` bytes may inflate to.
fn most_inflated(len: usize) -> usize {
    len.saturating_mul(MAX_RATIO).saturating_add(SLACK).min(MAX_INFLATED)
}

/// What numbers of inodes are given as differences to: what the inode before in the file had.
#[derive(Default)]
pub(super) struct Near {
    ino: u32,
    secs: i64,
    physical: u32,
}

fn deflate(bytes: &[u8], level: CompressionLvl) -> Vec<u8> {
    let mut compressor = Compressor::new(level);
    let mut file = vec![0; compressor.zlib_compress_bound(bytes.len())];
    let len = compressor.zlib_compress(bytes, &mut file).expect("there is room for as much as it can be");
    file.truncate(len);
    file
}

/// A map on its way to a file.
pub(super) struct MapEncoder(pub(super) Vec<u8>);

impl MapEncoder {
    /// The layout map as a zlib stream.
    pub(super) fn deflate(mut self) -> Vec<u8> {
        self.0.extend(END);
        let file = deflate(&self.0, CompressionLvl::default());
        if self.0.len() <= most_inflated(file.len()) {
            return file;
        }
        // So uniform that a reader would refuse it: as it is.
        deflate(&self.0, CompressionLvl::iter().next().unwrap_or_default())
    }

    pub(super) fn head(&mut self, map: &LayoutMap) {
        let Geometry { blocks, inodes_per_group, inode_size } = map.geometry;
        self.number(blocks);
        self.number(inodes_per_group);
        self.number(inode_size.bytes() as u64);
        self.number(map.epoch);
    }

    pub(super) fn label(&mut self, label: &Label) {
        self.bytes(label.name.as_bytes());
        self.bytes(label.version.as_bytes());
    }

    pub(super) fn number(&mut self, value: impl Into<u64>) {
        let mut value: u64 = value.into();
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn signed(&mut self, value: i64) {
        self.number((value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }

    pub(super) fn inode(&mut self, mapped: &Mapped, near: &mut Near) {
        self.number(mapped.ino - near.ino);
        near.ino = mapped.ino;
        let Meta { mode, uid, gid, mtime, xattrs } = &mapped.meta;
        let kind = match mapped.kind {
            MappedKind::Directory(_) => 0_u8,
            MappedKind::File(_) => 1,
            MappedKind::Symlink(_) => 2,
            MappedKind::CharDevice(..) => 3,
            MappedKind::BlockDevice(..) => 4,
            MappedKind::Fifo => 5,
            MappedKind::Socket => 6,
        };
        self.number(kind);
        self.number(*mode);
        self.number(*uid);
        self.number(*gid);
        self.signed(mtime.secs.wrapping_sub(near.secs));
        near.secs = mtime.secs;
        self.number(mtime.nanos);
        self.number(xattrs.len() as u64);
        for (name, value) in xattrs {
            self.bytes(name);
            self.bytes(value);
        }
        match &mapped.kind {
            MappedKind::Directory(blocks) => {
                self.number(blocks.len() as u64);
                for entries in blocks {
                    self.number(entries.len() as u64);
                    for entry in entries {
                        self.number(entry.offset);
                        self.signed(i64::from(entry.ino) - i64::from(mapped.ino));
                        self.bytes(&entry.name);
                    }
                }
            }
            MappedKind::File(len) => self.number(*len),
            MappedKind::Symlink(target) => self.bytes(target),
            &MappedKind::CharDevice(major, minor) | &MappedKind::BlockDevice(major, minor) => {
                self.number(major);
                self.number(minor);
            }
            MappedKind::Fifo | MappedKind::Socket => {}
        }
        self.number(mapped.data.len() as u64);
        let mut logical = 0;
        for run in &mapped.data {
            self.number(run.logical - logical);
            self.signed(i64::from(run.physical) - i64::from(near.physical));
            self.number(run.count);
            logical = run.logical_end();
            near.physical = run.physical + run.count;
        }
        for &at in &mapped.indirect {
            self.signed(i64::from(at) - i64::from(near.physical));
            near.physical = at;
        }
        debug_assert_eq!(
            mapped.sums.len(),
            sums(&mapped.kind, &mapped.data),
            "a file's pages say how many it has"
        );
        mapped.sums.iter().for_each(|sum| self.0.extend(sum.0));
        self.number(mapped.label.map_or(0, |label| label + 1));
    }
}

/// How many sums an inode has.
fn sums(kind: &MappedKind, data: &[Run]) -> usize {
    match kind {
        MappedKind::File(len) => sums_of(*len, data.iter().map(|run| u64::from(run.count)).sum()),
        _ => 0,
    }
}

/// A map on its way from a file.
pub(super) struct MapDecoder<'b> {
    pub(super) bytes: &'b [u8],
    pub(super) at: usize,
}

impl MapDecoder<'_> {
    pub(super) fn damaged<T>(&self, what: &'static str) -> Result<T, LayoutError> {
        Err(LayoutError::Damaged { at: self.at, what })
    }

    pub(super) fn number(&mut self) -> Result<u64, LayoutError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else { return self.damaged("it ends early") };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        self.damaged("a number of more than 64 bits")
    }

    pub(super) fn number_as<T: TryFrom<u64>>(&mut self) -> Result<T, LayoutError> {
        let value = self.number()?;
        T::try_from(value).or_else(|_| self.damaged("a number that is too large"))
    }

    fn signed(&mut self) -> Result<i64, LayoutError> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// A number given as the difference to another.
    fn near(&mut self, base: u32) -> Result<u32, LayoutError> {
        let value = self.signed()?.checked_add(i64::from(base));
        value
            .and_then(|value| u32::try_from(value).ok())
            .map_or_else(|| self.damaged("a position outside"), Ok)
    }

    /// How many of something follow, each of which takes `least` bytes at least: bounds what is allocated.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, LayoutError> {
        let count = self.number_as()?;
        self.all_there(count, least)
    }

    /// `count`, unless so many things of `least` bytes don't follow.
    fn all_there(&self, count: usize, least: usize) -> Result<usize, LayoutError> {
        let bytes = count.checked_mul(least).filter(|&bytes| bytes <= self.bytes.len() - self.at);
        bytes.map_or_else(|| self.damaged("it has fewer bytes than it says"), |_| Ok(count))
    }

    fn bytes(&mut self) -> Result<Vec<u8>, LayoutError> {
        let count = self.count(1)?;
        let bytes = self.bytes[self.at..self.at + count].to_vec();
        self.at += count;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String, LayoutError> {
        String::from_utf8(self.bytes()?).or_else(|_| self.damaged("a name that is not UTF-8"))
    }

    /// Reads the head: the geometry, and the superblock's time.
    pub(super) fn head(&mut self) -> Result<(Geometry, u64), LayoutError> {
        let blocks = self.number_as()?;
        let inodes_per_group = self.number_as()?;
        let inode_size = match self.number()? {
            128 => InodeSize::Small,
            256 => InodeSize::Large,
            _ => return self.damaged("inodes of neither 128 nor 256 bytes"),
        };
        let geometry = Geometry { blocks, inodes_per_group, inode_size };
        if !geometry.is_sound() {
            return self.damaged("a size without room for its own groups");
        }
        Ok((geometry, self.number()?))
    }

    pub(super) fn label(&mut self) -> Result<Label, LayoutError> {
        Ok(Label { name: self.text()?, version: self.text()? })
    }

    /// So many page hashes.
    pub(super) fn hashes(&mut self, count: usize, into: &mut Vec<PageHash>) {
        let part = &self.bytes[self.at..self.at + count * PageHash::LEN];
        into.extend(part.as_chunks().0.iter().map(|hash| PageHash(*hash)));
        self.at += part.len();
    }

    pub(super) fn end(&self) -> Result<(), LayoutError> {
        if self.bytes[self.at..] == *END { Ok(()) } else { self.damaged("it does not end where it should") }
    }

    fn map(&mut self) -> Result<LayoutMap, LayoutError> {
        let (geometry, epoch) = self.head()?;
        let count = self.count(2)?;
        let labels = (0..count).map(|_| self.label()).collect::<Result<Vec<_>, LayoutError>>()?;
        let count = self.count(10)?;
        let mut inodes = Vec::with_capacity(count.min(INODES_AHEAD));
        let mut near = Near::default();
        for _ in 0..count {
            inodes.push(self.inode(geometry, labels.len(), &mut near)?);
        }
        let whole = geometry.blocks as usize;
        let described = (self.bytes.len() - self.at) / PageHash::LEN;
        if whole > EMPTY_PAGES.max(described.saturating_mul(EMPTY_SHARE)) {
            return self.damaged("far more pages than it describes");
        }
        // As many as there may be, unless most of them are zeros.
        let mut pages = Vec::with_capacity(whole.min(2 * (self.bytes.len() - self.at) / PageHash::LEN));
        while pages.len() < whole {
            let zeros: usize = self.number_as()?;
            let count = self.count(PageHash::LEN)?;
            if zeros > whole - pages.len() || count > whole - pages.len() - zeros || zeros + count == 0 {
                return self.damaged("more pages than the image has");
            }
            pages.resize(pages.len() + zeros, PageHash::ZERO);
            self.hashes(count, &mut pages);
        }
        self.end()?;
        Ok(LayoutMap { geometry, epoch, inodes, labels, pages })
    }

    pub(super) fn inode(
        &mut self,
        geometry: Geometry,
        labels: usize,
        near: &mut Near,
    ) -> Result<Mapped, LayoutError> {
        let more = self.number_as()?;
        let next = near.ino.checked_add(more).filter(|&next| next > near.ino && next <= geometry.inodes());
        let ino = next.map_or_else(|| self.damaged("an inode that the image does not have"), Ok)?;
        near.ino = ino;
        let kind = self.number()?;
        let (mode, uid, gid) = (self.number_as()?, self.number_as()?, self.number_as()?);
        near.secs = near.secs.wrapping_add(self.signed()?);
        let mtime = FileTime { secs: near.secs, nanos: self.number_as()? };
        let count = self.count(2)?;
        let xattrs =
            (0..count).map(|_| Ok((self.bytes()?, self.bytes()?))).collect::<Result<_, LayoutError>>()?;
        let meta = Meta { mode, uid, gid, mtime, xattrs };
        let kind = match kind {
            0 => {
                let blocks = self.count(1)?;
                let block = |input: &mut Self| {
                    let count = input.count(4)?;
                    let entry = |_| {
                        let (offset, ino, name) = (input.number_as()?, input.near(ino)?, input.bytes()?);
                        Ok(MappedEntry { offset, ino, name })
                    };
                    (0..count).map(entry).collect::<Result<Vec<_>, LayoutError>>()
                };
                MappedKind::Directory((0..blocks).map(|_| block(self)).collect::<Result<_, _>>()?)
            }
            1 => MappedKind::File(self.number()?),
            2 => MappedKind::Symlink(self.bytes()?),
            3 => MappedKind::CharDevice(self.number_as()?, self.number_as()?),
            4 => MappedKind::BlockDevice(self.number_as()?, self.number_as()?),
            5 => MappedKind::Fifo,
            6 => MappedKind::Socket,
            _ => return self.damaged("no such type of file"),
        };
        let count = self.count(3)?;
        let mut data = Vec::with_capacity(count);
        let mut logical = 0_u32;
        let inside = |first: u32, count: u32| {
            geometry.data_from(first).is_some_and(|(start, run)| start == first && count <= run)
        };
        for _ in 0..count {
            let skip: u32 = self.number_as()?;
            let run = Run {
                logical: logical
                    .checked_add(skip)
                    .map_or_else(|| self.damaged("a file that is too long"), Ok)?,
                physical: self.near(near.physical)?,
                count: self.number_as()?,
            };
            let end = run.logical.checked_add(run.count).filter(|_| run.count > 0);
            logical = end.map_or_else(|| self.damaged("a file that is too long"), Ok)?;
            if !inside(run.physical, run.count) {
                return self.damaged("a block that is metadata or outside");
            }
            near.physical = run.physical + run.count;
            data.push(run);
        }
        let runs: Vec<_> = data.iter().map(|run| run.logical..run.logical_end()).collect();
        let mut indirect = vec![];
        for _ in needed(&runs) {
            let at = self.near(near.physical)?;
            if !inside(at, 1) {
                return self.damaged("a block that is metadata or outside");
            }
            near.physical = at;
            indirect.push(at);
        }
        let count = self.all_there(sums(&kind, &data), PageHash::LEN)?;
        let mut sums = Vec::with_capacity(count);
        self.hashes(count, &mut sums);
        let label = self.number_as::<u32>()?.checked_sub(1);
        if label.is_some_and(|label| label as usize >= labels) {
            return self.damaged("a package that is not in the list");
        }
        Ok(Mapped { ino, meta, kind, data, indirect, sums, label })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of an image without a single file, and with so many pages.
    fn empty(blocks: u32) -> Vec<u8> {
        let inodes_per_group = 1024;
        let geometry = Geometry { blocks, inodes_per_group, inode_size: InodeSize::Large };
        let map = LayoutMap { geometry, epoch: 0, inodes: vec![], labels: vec![], pages: vec![] };
        let mut out = MapEncoder(MAGIC.to_vec());
        out.head(&map);
        for number in [0, 0, blocks, 0] {
            out.number(number);
        }
        out.deflate()
    }

    #[test]
    fn a_small_file_can_not_ask_for_much_memory() {
        assert_eq!(LayoutMap::decode(&empty(1 << 16)).unwrap().pages.len(), 1 << 16);
        let file = empty(1 << 28);
        assert!(file.len() < 100);
        let refused = LayoutMap::decode(&file).unwrap_err().to_string();
        assert!(refused.ends_with("far more pages than it describes"), "{refused}");
    }
}
