//! From a plan to bytes: any range of blocks, or all of them in one forward pass.

use std::io::{self, Write};

use super::blockmap::BlockMap;
use super::demand::{Body, DemandedInode, InodeOrigin, Profile};
use super::dirent::{self, DOTS, FT_DIR, Written};
use super::geometry::{BLOCK, BLOCKS_PER_GROUP, has_superblock};
use super::ondisk::{
    FAST_SYMLINK, GroupDesc, Inode, OLD_INODE_SIZE, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG,
    S_IFSOCK, Superblock, encode_device, encode_netbsd_device, encode_time,
};
use super::plan::{ImagePlan, RunContents, Used};
use super::{FIRST_INO, shown, xattr};
use crate::tree::{Contents, Kind, Meta};

/// Bytes of a block, for slices.
const BLOCK_BYTES: usize = BLOCK as usize;

/// Bytes that [`write`] renders at once.
const CHUNK: usize = 1 << 20;

/// Where the primary superblock begins.
const SUPERBLOCK_OFFSET: usize = 1024;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The contents of a file could not be read.
    #[error("{path}: can't read its contents")]
    Contents {
        /// Path of the file in the tree.
        path: String,
        /// What the medium said.
        source: io::Error,
    },
    /// The image could not be written.
    #[error("can't write the image at byte {at}")]
    Output {
        /// Offset in the image.
        at: u64,
        /// What the medium said.
        source: io::Error,
    },
}

/// Writes the image: exactly [`super::Geometry::blocks`] times 4,096 bytes, from the first to the last.
///
/// # Errors
/// [`WriteError`].
pub fn write(plan: &ImagePlan<'_>, contents: &dyn Contents, out: &mut impl Write) -> Result<(), WriteError> {
    let image = PlannedImage::new(plan, contents);
    let mut chunk = vec![0; CHUNK];
    let blocks = plan.geometry().blocks;
    let mut at = 0;
    while at < blocks {
        let count = (blocks - at).min(u32::try_from(CHUNK / BLOCK_BYTES).expect("256"));
        let part = &mut chunk[..count as usize * BLOCK_BYTES];
        image.fill(at, part)?;
        out.write_all(part)
            .map_err(|source| WriteError::Output { at: u64::from(at) * u64::from(BLOCK), source })?;
        at += count;
    }
    Ok(())
}

/// A planned image and its contents: any of its blocks can be had, in any order, from several threads.
pub struct PlannedImage<'p> {
    plan: &'p ImagePlan<'p>,
    contents: &'p dyn Contents,
}

impl<'p> PlannedImage<'p> {
    /// The image of `plan`, whose tree refers to `contents`.
    pub fn new(plan: &'p ImagePlan<'p>, contents: &'p dyn Contents) -> Self {
        PlannedImage { plan, contents }
    }

    /// Fills `buf`, a multiple of 4,096 bytes, with the blocks from `first` on. Data that lies together is
    /// read in one piece.
    ///
    /// # Errors
    /// [`WriteError::Contents`].
    ///
    /// # Panics
    /// If that is not whole blocks within the image.
    pub fn fill(&self, first: u32, buf: &mut [u8]) -> Result<(), WriteError> {
        let geometry = self.plan.geometry();
        assert!(buf.len().is_multiple_of(BLOCK_BYTES), "{} bytes are not whole blocks", buf.len());
        let count = u32::try_from(buf.len() / BLOCK_BYTES).expect("no more than the image has");
        let end = first.checked_add(count).filter(|&end| end <= geometry.blocks);
        let end = end.expect("blocks within the image");

        let mut at = first;
        let mut rest = buf;
        let mut next = self.plan.used.partition_point(|used| used.end() <= first);
        while at < end {
            let group = at / BLOCKS_PER_GROUP;
            let within = at - geometry.start(group);
            let used = self.plan.used.get(next);
            let until = if within < geometry.overhead(group) {
                let (block, _) = rest.split_at_mut(BLOCK_BYTES);
                block.fill(0);
                self.metadata(group, within, block);
                at + 1
            } else if let Some(used) = used.filter(|used| used.start <= at) {
                let until = used.end().min(end);
                if until == used.end() {
                    next += 1;
                }
                let (part, _) = rest.split_at_mut((until - at) as usize * BLOCK_BYTES);
                self.piece(used, at - used.start, part)?;
                until
            } else {
                // Free, up to what comes next: blocks in use, or the next group's metadata.
                let until = used.map_or(end, |used| used.start).min(end);
                let until = until.min(geometry.start(group) + geometry.len(group));
                rest[..(until - at) as usize * BLOCK_BYTES].fill(0);
                until
            };
            rest = &mut rest[(until - at) as usize * BLOCK_BYTES..];
            at = until;
        }
        Ok(())
    }

    /// One block of a group's metadata, `within` blocks into the group; zeros before.
    fn metadata(&self, group: u32, within: u32, block: &mut [u8]) {
        let geometry = self.plan.geometry();
        let copy = if has_superblock(group) { 1 + geometry.descriptor_blocks() } else { 0 };
        if within < copy {
            if within == 0 {
                let offset = if group == 0 { SUPERBLOCK_OFFSET } else { 0 };
                let superblock = self.plan.superblock(group).encode();
                block[offset..offset + Superblock::SIZE].copy_from_slice(&superblock);
            } else {
                let per_block = BLOCK_BYTES / GroupDesc::SIZE;
                let descriptors = self.plan.groups.iter().skip((within - 1) as usize * per_block);
                for (descriptor, part) in descriptors.zip(block.chunks_exact_mut(GroupDesc::SIZE)) {
                    let copied = match group {
                        0 => descriptor.encode(),
                        _ => descriptor.without_counts().encode(),
                    };
                    part.copy_from_slice(&copied);
                }
            }
            return;
        }
        match within - copy {
            0 => self.block_bitmap(group, block),
            1 => self.inode_bitmap(group, block),
            table => self.inode_table(group, table - 2, block),
        }
    }

    fn block_bitmap(&self, group: u32, bitmap: &mut [u8]) {
        let geometry = self.plan.geometry();
        let start = geometry.start(group);
        let end = start + geometry.len(group);
        set_bits(bitmap, 0, geometry.overhead(group));
        let first = self.plan.used.partition_point(|used| used.end() <= start);
        for used in self.plan.used[first..].iter().take_while(|used| used.start < end) {
            set_bits(bitmap, used.start - start, used.end() - start);
        }
        // Blocks that the last group does not have.
        set_bits(bitmap, end - start, BLOCKS_PER_GROUP);
    }

    fn inode_bitmap(&self, group: u32, bitmap: &mut [u8]) {
        let per_group = self.plan.geometry().inodes_per_group;
        // Inode numbers begin at 1, so bit 0 of group 0 is inode 1.
        let first = group * per_group + 1;
        for ino in (1..FIRST_INO).filter(|&ino| (first..first + per_group).contains(&ino)) {
            set_bits(bitmap, ino - first, ino - first + 1);
        }
        for &(ino, _) in self.in_use(first, per_group) {
            set_bits(bitmap, ino - first, ino - first + 1);
        }
        set_bits(bitmap, per_group, 8 * BLOCK);
    }

    fn inode_table(&self, group: u32, nth: u32, block: &mut [u8]) {
        let geometry = self.plan.geometry();
        let size = geometry.inode_size.bytes();
        let first = group * geometry.inodes_per_group + nth * geometry.inodes_per_block() + 1;
        for &(ino, position) in self.in_use(first, geometry.inodes_per_block()) {
            let part = &mut block[(ino - first) as usize * size..][..size];
            self.inode(position as usize, part);
        }
    }

    /// The inodes in use among `count` from `first` on: number, position.
    fn in_use(&self, first: u32, count: u32) -> &[(u32, u32)] {
        let inodes = &self.plan.inodes;
        let from = inodes.partition_point(|&(ino, _)| ino < first);
        let to = inodes.partition_point(|&(ino, _)| ino - 1 < first - 1 + count);
        &inodes[from..to]
    }

    /// An inode into its place in the table, zeros before.
    fn inode(&self, position: usize, part: &mut [u8]) {
        let demand = &self.plan.demand;
        let wanted = &demand.wanted[position];
        let map = &self.plan.maps[position];
        let large = demand.options.inode_size.extra() > 0;
        let lost_found = self.plan.lost_found();
        let meta = self.meta(wanted).unwrap_or(&lost_found);
        let (time, time_extra) = encode_time(meta.mtime, large);
        let (i_mode, size, i_block) = self.kind(position, wanted, map);
        let blocks = map.blocks() + u64::from(wanted.xattr_block.is_some());
        let inode = Inode {
            i_mode: i_mode | meta.mode & 0o7777,
            i_uid: low(meta.uid),
            i_size: low32(size),
            i_atime: time,
            i_ctime: time,
            i_mtime: time,
            i_gid: low(meta.gid),
            i_links_count: wanted.links,
            i_blocks: u32::try_from(blocks * u64::from(BLOCK / 512)).expect("files end before i_blocks does"),
            i_block,
            // NetBSD gives an inode without one a number as soon as it is looked at, and writes it.
            i_generation: u32::from(demand.options.profile == Profile::NetBsd),
            i_file_acl: wanted.xattr_block.map_or(0, |nth| self.plan.placement.xattr_blocks[nth]),
            i_size_high: low32(size >> 32),
            i_uid_high: low(meta.uid >> 16),
            i_gid_high: low(meta.gid >> 16),
            i_extra_isize: demand.options.inode_size.extra(),
            i_ctime_extra: time_extra,
            i_mtime_extra: time_extra,
            i_atime_extra: time_extra,
            i_crtime: if large { time } else { 0 },
            i_crtime_extra: time_extra,
            ..Inode::default()
        };
        if large {
            let (fixed, xattrs) = part.split_at_mut(Inode::SIZE);
            fixed.copy_from_slice(&inode.encode());
            xattr::encode_inline(&wanted.xattrs, xattrs);
        } else {
            part.copy_from_slice(&inode.encode()[..OLD_INODE_SIZE]);
        }
    }

    fn meta(&self, wanted: &DemandedInode<'_>) -> Option<&Meta> {
        match wanted.origin {
            InodeOrigin::Node(id) => Some(&self.plan.demand.tree.node(id).meta),
            InodeOrigin::LostFound => None,
        }
    }

    /// Type bits, size and `i_block` of an inode.
    fn kind(&self, position: usize, wanted: &DemandedInode<'_>, map: &BlockMap) -> (u16, u64, [u32; 15]) {
        let directory = || {
            let blocks = self.plan.placement.inodes[position].slots.len() as u64;
            (S_IFDIR, blocks * u64::from(BLOCK), map.i_block())
        };
        let InodeOrigin::Node(id) = wanted.origin else { return directory() };
        match &self.plan.demand.tree.node(id).kind {
            Kind::Directory(_) => directory(),
            Kind::File(content) => (S_IFREG, content.len, map.i_block()),
            Kind::Symlink(target) if target.len() >= FAST_SYMLINK => {
                (S_IFLNK, target.len() as u64, map.i_block())
            }
            Kind::Symlink(target) => {
                let mut bytes = [0; FAST_SYMLINK];
                bytes[..target.len()].copy_from_slice(target);
                let mut i_block = [0; 15];
                for (word, le) in i_block.iter_mut().zip(bytes.as_chunks().0) {
                    *word = u32::from_le_bytes(*le);
                }
                (S_IFLNK, target.len() as u64, i_block)
            }
            &Kind::CharDevice { major, minor } => (S_IFCHR, 0, self.device(major, minor)),
            &Kind::BlockDevice { major, minor } => (S_IFBLK, 0, self.device(major, minor)),
            Kind::Fifo => (S_IFIFO, 0, [0; 15]),
            Kind::Socket => (S_IFSOCK, 0, [0; 15]),
        }
    }

    /// `i_block` of a device, in the numbers of the system that reads the image.
    fn device(&self, major: u32, minor: u32) -> [u32; 15] {
        let encode = match self.plan.demand.options.profile {
            Profile::Linux | Profile::Legacy9 => encode_device,
            Profile::NetBsd => |major, minor| Some((encode_netbsd_device(major, minor)?, 0)),
        };
        let mut i_block = [0; 15];
        (i_block[0], i_block[1]) = encode(major, minor).expect("the demand refused others");
        i_block
    }

    /// Blocks of a run in use, from its block `skip` on.
    fn piece(&self, used: &Used, skip: u32, part: &mut [u8]) -> Result<(), WriteError> {
        match used.piece {
            RunContents::Data { inode, logical } => return self.data(inode as usize, logical + skip, part),
            RunContents::Indirect { inode, nth } => {
                let map = &self.plan.maps[inode as usize];
                part.fill(0);
                map.fill_indirect(map.indirect[nth as usize].0, part);
            }
            RunContents::Xattrs { nth } => {
                let block = &self.plan.demand.xattr_blocks[nth as usize];
                part.fill(0);
                xattr::encode_block(&block.attrs, block.refcount, part);
            }
        }
        Ok(())
    }

    /// The body of an inode, from its block `logical` on.
    fn data(&self, position: usize, logical: u32, part: &mut [u8]) -> Result<(), WriteError> {
        let wanted = &self.plan.demand.wanted[position];
        let kind = match wanted.origin {
            InodeOrigin::Node(id) => Some(&self.plan.demand.tree.node(id).kind),
            InodeOrigin::LostFound => None,
        };
        match kind {
            Some(Kind::File(content)) => {
                let at = u64::from(logical) * u64::from(BLOCK);
                return content
                    .read_at(self.contents, at, part)
                    .map_err(|source| WriteError::Contents { path: shown(&wanted.path), source });
            }
            Some(Kind::Symlink(target)) => {
                part.fill(0);
                part[..target.len()].copy_from_slice(target);
            }
            _ => {
                for (block, nth) in part.chunks_exact_mut(BLOCK_BYTES).zip(logical as usize..) {
                    block.fill(0);
                    self.directory(position, nth, block);
                }
            }
        }
        Ok(())
    }

    /// One block of a directory, zeros before.
    fn directory(&self, position: usize, nth: usize, block: &mut [u8]) {
        let placed = &self.plan.placement.inodes;
        let wanted = &self.plan.demand.wanted[position];
        let dots = [(0, position, &b"."[..]), (DOTS / 2, wanted.parent, b"..")];
        let dots = dots.into_iter().filter(|_| nth == 0).map(|(offset, target, name)| Written {
            offset,
            inode: placed[target].ino,
            file_type: self.file_type(target),
            name,
        });
        let entries: &[_] = match &wanted.body {
            Body::Directory { entries, .. } => entries,
            _ => &[],
        };
        let slots = placed[position].slots[nth].iter().map(|slot| {
            let entry = &entries[slot.entry as usize];
            let file_type = self.file_type(entry.target);
            Written { offset: slot.offset, inode: placed[entry.target].ino, file_type, name: entry.name }
        });
        dirent::encode_block(block, dots.chain(slots));
    }

    /// `file_type` of a directory entry; 0 without the feature.
    fn file_type(&self, position: usize) -> u8 {
        if self.plan.demand.options.profile == Profile::Legacy9 {
            return 0;
        }
        let InodeOrigin::Node(id) = self.plan.demand.wanted[position].origin else { return FT_DIR };
        match self.plan.demand.tree.node(id).kind {
            Kind::File(_) => 1,
            Kind::Directory(_) => FT_DIR,
            Kind::CharDevice { .. } => 3,
            Kind::BlockDevice { .. } => 4,
            Kind::Fifo => 5,
            Kind::Socket => 6,
            Kind::Symlink(_) => 7,
        }
    }
}

/// Bits 0 to 15.
fn low(value: u32) -> u16 {
    let [a, b, ..] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// Bits 0 to 31.
fn low32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Sets the bits `from..to`, bit 0 being the lowest of the first byte.
fn set_bits(bitmap: &mut [u8], from: u32, to: u32) {
    let mut bit = from;
    while bit < to {
        let byte = (bit / 8) as usize;
        if bit.is_multiple_of(8) && to - bit >= 8 {
            bitmap[byte] = 0xff;
            bit += 8;
        } else {
            bitmap[byte] |= 1 << (bit % 8);
            bit += 1;
        }
    }
}
