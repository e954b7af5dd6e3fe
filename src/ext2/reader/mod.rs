//! Reads images: ours, and those of `mke2fs -t ext2` with blocks of 1, 2 and 4 KiB and any size of inode.
//!
//! Nothing is believed: each number from the image is checked before it is used, memory stays in proportion to
//! the image, and a walk ends however the image refers to itself. What contradicts the format is
//! [`ImageReadError::Damaged`]; features of ext4 are [`ImageReadError::Unsupported`].

mod damage;
mod files;
mod walk;

use std::io;

pub use damage::{ImageDamage, ImageReadError};
pub use files::InodeBlocks;
pub use walk::DirEntry;

use super::ondisk::{
    GroupDesc, INCOMPAT_FILETYPE, INCOMPAT_NAMES, Inode, MAGIC, OLD_INODE_SIZE, Superblock, UNREADABLE_FLAGS,
};

/// Something that can be read anywhere: a file, a buffer.
pub trait ReadAt {
    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// Whatever the medium says; `UnexpectedEof` beyond the end.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn size(&self) -> io::Result<u64>;
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// An image whose superblock is in order. Everything else is checked when it is read.
pub struct Reader<'i> {
    image: &'i dyn ReadAt,
    superblock: Superblock,
    /// 1024, 2048 or 4096.
    block_size: u32,
    /// Bytes of an inode: a power of two from 128 to the block size.
    inode_size: u32,
    groups: u32,
}

/// An inode as it is in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawInode {
    pub ino: u32,
    /// Its fields; those beyond `i_extra_isize` are 0.
    pub inode: Inode,
    /// What is behind `i_extra_isize`: attributes.
    pub rest: Vec<u8>,
}

impl<'i> Reader<'i> {
    /// Reads the superblock.
    ///
    /// # Errors
    /// [`ImageReadError::Io`], [`ImageReadError::Damaged`], [`ImageReadError::Unsupported`].
    pub fn open(image: &'i dyn ReadAt) -> Result<Self, ImageReadError> {
        let have = image.size().map_err(|source| ImageReadError::Io { at: 0, source })?;
        if have < 2048 {
            return Err(in_superblock(ImageDamage::Short { have }));
        }
        let mut bytes = [0; Superblock::SIZE];
        image.read_exact_at(1024, &mut bytes).map_err(|source| ImageReadError::Io { at: 1024, source })?;
        let superblock = Superblock::decode(&bytes);
        if superblock.s_magic != MAGIC {
            return Err(in_superblock(ImageDamage::Magic { found: superblock.s_magic }));
        }
        check_known(&superblock)?;
        let (block_size, inode_size, groups) = check_sizes(&superblock, have).map_err(in_superblock)?;
        Ok(Reader { image, superblock, block_size, inode_size, groups })
    }

    /// The primary superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Bytes of a block: 1024, 2048 or 4096.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// The number of block groups.
    pub fn groups(&self) -> u32 {
        self.groups
    }

    /// The descriptor of a group below [`Reader::groups`].
    ///
    /// # Errors
    /// [`ImageDamage::BlockOutside`].
    pub fn group(&self, group: u32) -> Result<GroupDesc, ImageReadError> {
        let place = || format!("group {group}");
        let table = self.superblock.s_first_data_block + 1;
        let at = u64::from(table) * u64::from(self.block_size) + u64::from(group) * GroupDesc::SIZE as u64;
        let mut bytes = [0; GroupDesc::SIZE];
        self.read(at, &mut bytes)?;
        let descriptor = GroupDesc::decode(&bytes);
        let table_blocks = u64::from(self.superblock.s_inodes_per_group) * u64::from(self.inode_size);
        let table_blocks = table_blocks.div_ceil(u64::from(self.block_size));
        let last = u64::from(descriptor.bg_inode_table) + table_blocks - 1;
        let last = u32::try_from(last).unwrap_or(u32::MAX);
        for block in [descriptor.bg_block_bitmap, descriptor.bg_inode_bitmap, descriptor.bg_inode_table, last]
        {
            if block == 0 || block >= self.superblock.s_blocks_count {
                return Err(damaged(place(), ImageDamage::BlockOutside { block }));
            }
        }
        Ok(descriptor)
    }

    /// An inode, in use or not.
    ///
    /// # Errors
    /// [`ImageDamage::InodeOutside`], [`ImageDamage::ExtraSize`], those of [`Reader::group`];
    /// [`ImageReadError::Unsupported`] for inodes with extents, inline data, encryption or compression.
    pub fn inode(&self, ino: u32) -> Result<RawInode, ImageReadError> {
        let place = || format!("inode {ino}");
        if ino == 0 || ino > self.superblock.s_inodes_count {
            return Err(damaged(place(), ImageDamage::InodeOutside { ino }));
        }
        let per_group = self.superblock.s_inodes_per_group;
        let table = self.group((ino - 1) / per_group)?.bg_inode_table;
        let at = u64::from(table) * u64::from(self.block_size)
            + u64::from((ino - 1) % per_group) * u64::from(self.inode_size);
        let mut bytes = vec![0; self.inode_size as usize];
        self.read(at, &mut bytes)?;

        let mut fixed = [0; Inode::SIZE];
        let len = fixed.len().min(bytes.len());
        fixed[..len].copy_from_slice(&bytes[..len]);
        let i_extra_isize = Inode::decode(&fixed).i_extra_isize;
        let end = OLD_INODE_SIZE + usize::from(i_extra_isize);
        if end > bytes.len() || !i_extra_isize.is_multiple_of(4) {
            return Err(damaged(place(), ImageDamage::ExtraSize { i_extra_isize }));
        }
        fixed[end.min(Inode::SIZE)..].fill(0);
        let inode = Inode::decode(&fixed);
        if inode.i_flags & UNREADABLE_FLAGS != 0 {
            return Err(ImageReadError::Unsupported {
                place: place(),
                what: format!("flags {:#x}: contents are kept as in ext4, not in block maps", inode.i_flags),
            });
        }
        let rest = if bytes.len() > OLD_INODE_SIZE { bytes.split_off(end) } else { vec![] };
        Ok(RawInode { ino, inode, rest })
    }

    /// One block, on behalf of `place`.
    fn block(&self, block: u32, place: impl FnOnce() -> String) -> Result<Vec<u8>, ImageReadError> {
        if block == 0 || block >= self.superblock.s_blocks_count {
            return Err(damaged(place(), ImageDamage::BlockOutside { block }));
        }
        let mut bytes = vec![0; self.block_size as usize];
        self.read(u64::from(block) * u64::from(self.block_size), &mut bytes)?;
        Ok(bytes)
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), ImageReadError> {
        self.image.read_exact_at(at, buf).map_err(|source| ImageReadError::Io { at, source })
    }

    /// The bitmap of a group's blocks or inodes.
    ///
    /// # Errors
    /// Those of [`Reader::group`].
    pub fn bitmap(&self, group: u32, inodes: bool) -> Result<Vec<u8>, ImageReadError> {
        let descriptor = self.group(group)?;
        let block = if inodes { descriptor.bg_inode_bitmap } else { descriptor.bg_block_bitmap };
        self.block(block, || format!("group {group}"))
    }
}

fn damaged(place: String, damage: ImageDamage) -> ImageReadError {
    ImageReadError::Damaged { place, damage }
}

fn in_superblock(damage: ImageDamage) -> ImageReadError {
    damaged("superblock".to_owned(), damage)
}

/// Refuses revisions, features and block sizes that are not ext2's.
fn check_known(superblock: &Superblock) -> Result<(), ImageReadError> {
    let unsupported = |what| Err(ImageReadError::Unsupported { place: "superblock".to_owned(), what });
    if superblock.s_rev_level > 1 {
        return unsupported(format!("revision {}; 0 and 1 are known", superblock.s_rev_level));
    }
    let unknown = superblock.s_feature_incompat & !INCOMPAT_FILETYPE;
    if superblock.s_rev_level == 1 && unknown != 0 {
        let named = INCOMPAT_NAMES.iter().filter(|(bit, _)| unknown & bit != 0).map(|(_, name)| *name);
        let named: Vec<&str> = named.collect();
        let unnamed = INCOMPAT_NAMES.iter().fold(unknown, |rest, (bit, _)| rest & !bit);
        let names =
            if unnamed == 0 { named.join(", ") } else { format!("{} {unnamed:#x}", named.join(", ")) };
        return unsupported(format!("features {}; ext2 has only filetype", names.trim_start()));
    }
    if (3..=6).contains(&superblock.s_log_block_size) {
        let size = 1u32 << superblock.s_log_block_size;
        return unsupported(format!("blocks of {size} KiB; 1, 2 and 4 KiB are known"));
    }
    Ok(())
}

/// Block size, inode size and number of groups, once they are possible and within an image of `have` bytes.
fn check_sizes(superblock: &Superblock, have: u64) -> Result<(u32, u32, u32), ImageDamage> {
    let field =
        |field, value: u32, right: String| ImageDamage::Field { field, value: u64::from(value), right };
    let block_size = match superblock.s_log_block_size {
        log @ 0..=2 => 1024u32 << log,
        log => return Err(field("s_log_block_size", log, "0 to 2".to_owned())),
    };
    let first = u32::from(block_size == 1024);
    if superblock.s_first_data_block != first {
        return Err(field("s_first_data_block", superblock.s_first_data_block, first.to_string()));
    }
    let inode_size = match superblock.s_rev_level {
        0 => 128,
        _ => u32::from(superblock.s_inode_size),
    };
    if !inode_size.is_power_of_two() || inode_size < 128 || inode_size > block_size {
        let right = format!("a power of two from 128 to {block_size}");
        return Err(field("s_inode_size", inode_size, right));
    }
    let bits = 8 * block_size;
    for (name, value) in [
        ("s_blocks_per_group", superblock.s_blocks_per_group),
        ("s_inodes_per_group", superblock.s_inodes_per_group),
    ] {
        if value == 0 || value > bits {
            return Err(field(name, value, format!("1 to {bits}")));
        }
    }
    let blocks = superblock.s_blocks_count;
    if blocks <= first {
        return Err(field("s_blocks_count", blocks, format!("more than {first}")));
    }
    let wanted = u64::from(blocks) * u64::from(block_size);
    if wanted > have {
        return Err(ImageDamage::Truncated { wanted, have });
    }
    let groups = (blocks - first).div_ceil(superblock.s_blocks_per_group);
    let inodes = u64::from(groups) * u64::from(superblock.s_inodes_per_group);
    if u64::from(superblock.s_inodes_count) > inodes {
        let right = format!("{inodes} at most");
        return Err(field("s_inodes_count", superblock.s_inodes_count, right));
    }
    Ok((block_size, inode_size, groups))
}
