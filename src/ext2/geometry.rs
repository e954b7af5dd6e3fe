//! Where superblocks, descriptors, bitmaps and inode tables stand: arithmetic on three numbers.
//!
//! Each group of 32,768 blocks begins with its metadata: in groups 0, 1 and powers of 3, 5 and 7 a superblock
//! and all group descriptors, then in every group the block bitmap, the inode bitmap and the inode table.

use super::ondisk::{GroupDesc, OLD_INODE_SIZE};

/// Bytes of a block of the images that are written.
pub const BLOCK: u32 = 4096;

/// Blocks of a group: as many as one bitmap block has bits.
pub const BLOCKS_PER_GROUP: u32 = 8 * BLOCK;

/// Most blocks of an image: 2 TiB.
pub const MAX_BLOCKS: u32 = 1 << 29;

/// Bytes of free space for which one inode is kept free, as in Debian's mke2fs.conf.
const BYTES_PER_FREE_INODE: u64 = 16384;

/// Fewest blocks of data in the last group, as in mke2fs: less is not worth its metadata.
const LAST_GROUP_DATA: u64 = 50;

/// Bytes of an inode on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InodeSize {
    /// 128: times to 2038 in whole seconds, every attribute in a block of its own.
    Small,
    /// 256, what `mke2fs -t ext2` makes: times to 2310 with nanoseconds, short attributes in the inode.
    #[default]
    Large,
}

impl InodeSize {
    /// Both sizes, the smaller first.
    pub const ALL: [InodeSize; 2] = [InodeSize::Small, InodeSize::Large];

    /// Bytes: 128 or 256.
    pub fn bytes(self) -> usize {
        match self {
            InodeSize::Small => OLD_INODE_SIZE,
            InodeSize::Large => 256,
        }
    }

    /// Bytes in use beyond the 128 of old, before attributes (`i_extra_isize`).
    pub fn extra(self) -> u16 {
        match self {
            InodeSize::Small => 0,
            InodeSize::Large => 32,
        }
    }

    fn per_block(self) -> u32 {
        match self {
            InodeSize::Small => 32,
            InodeSize::Large => 16,
        }
    }
}

/// Size and shape of a file system; everything else about its groups follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks of 4,096 bytes in the image.
    pub blocks: u32,
    /// Inodes of each group: a multiple of 16 (of 32 for small inodes), 32,768 at most.
    pub inodes_per_group: u32,
    /// Bytes of an inode.
    pub inode_size: InodeSize,
}

/// What a file system must hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    /// Blocks of data, directories, attributes and indirect blocks.
    pub blocks: u64,
    /// Inodes, the ten reserved ones too.
    pub inodes: u64,
    /// Bytes of space to leave free.
    pub free: u64,
    /// Bytes that the image has at least.
    pub minimum: u64,
}

impl Geometry {
    /// The smallest file system that holds `need`; `None` if none of at most 2 TiB does.
    pub(crate) fn fit(need: &Need, inode_size: InodeSize) -> Option<Geometry> {
        let block = u64::from(BLOCK);
        let group = u64::from(BLOCKS_PER_GROUP);
        let inodes = need.inodes + need.free.div_ceil(BYTES_PER_FREE_INODE);
        let data = need.blocks.checked_add(need.free.div_ceil(block))?;
        let minimum = need.minimum.div_ceil(block);
        let least = inodes.max(data).max(minimum).div_ceil(group).max(1);
        for groups in least..=u64::from(MAX_BLOCKS / BLOCKS_PER_GROUP) {
            let inodes_per_group =
                inodes.div_ceil(groups).max(1).next_multiple_of(u64::from(inode_size.per_block()));
            let full = Geometry {
                blocks: u32::try_from(groups * group).expect("at most 2^29"),
                inodes_per_group: u32::try_from(inodes_per_group).expect("groups >= inodes / 32768"),
                inode_size,
            };
            let last = full.groups() - 1;
            let before = u64::from(last) * group;
            let rest = data.saturating_sub(before - full.overhead_before(last)).max(LAST_GROUP_DATA);
            let blocks = (before + u64::from(full.overhead(last)) + rest).max(minimum);
            if blocks <= u64::from(full.blocks) {
                let blocks = u32::try_from(blocks).expect("at most 2^29");
                return Some(Geometry { blocks, ..full });
            }
        }
        None
    }

    /// The number of block groups.
    pub fn groups(&self) -> u32 {
        groups(self.blocks)
    }

    /// Number of inodes, reserved ones too. At most 2^29.
    pub fn inodes(&self) -> u32 {
        self.groups() * self.inodes_per_group
    }

    /// Blocks of one copy of the group descriptors.
    pub fn descriptor_blocks(&self) -> u32 {
        (self.groups() * 32).div_ceil(BLOCK)
    }

    /// Blocks of one group's inode table.
    pub fn table_blocks(&self) -> u32 {
        self.inodes_per_group / self.inode_size.per_block()
    }

    /// Inodes in a block of an inode table.
    pub fn inodes_per_block(&self) -> u32 {
        self.inode_size.per_block()
    }

    /// The block of an inode table that an inode is in.
    pub fn inode_page(&self, ino: u32) -> u32 {
        let (group, nth) = ((ino - 1) / self.inodes_per_group, (ino - 1) % self.inodes_per_group);
        self.descriptor(group).bg_inode_table + nth / self.inodes_per_block()
    }

    /// First block of a group.
    pub fn start(&self, group: u32) -> u32 {
        group * BLOCKS_PER_GROUP
    }

    /// Blocks of a group; the last may have fewer than the others.
    pub fn len(&self, group: u32) -> u32 {
        (self.blocks - self.start(group)).min(BLOCKS_PER_GROUP)
    }

    /// Blocks of metadata at the start of a group.
    pub fn overhead(&self, group: u32) -> u32 {
        let copy = if has_superblock(group) { 1 + self.descriptor_blocks() } else { 0 };
        copy + 2 + self.table_blocks()
    }

    /// Blocks of metadata in all groups.
    pub fn total_overhead(&self) -> u32 {
        u32::try_from(self.overhead_before(self.groups())).expect("less than all blocks")
    }

    /// Blocks of metadata in the groups below `group`.
    fn overhead_before(&self, group: u32) -> u64 {
        let mut copies = u64::from(group > 0) + u64::from(group > 1);
        for base in [3u64, 5, 7] {
            let powers = std::iter::successors(Some(base), |power| Some(power * base));
            copies += powers.take_while(|&power| power < u64::from(group)).map(|_| 1).sum::<u64>();
        }
        copies * u64::from(1 + self.descriptor_blocks())
            + u64::from(group) * u64::from(2 + self.table_blocks())
    }

    /// Positions of a group's metadata; the counts are left 0.
    pub fn descriptor(&self, group: u32) -> GroupDesc {
        let copy = if has_superblock(group) { 1 + self.descriptor_blocks() } else { 0 };
        let bg_block_bitmap = self.start(group) + copy;
        GroupDesc {
            bg_block_bitmap,
            bg_inode_bitmap: bg_block_bitmap + 1,
            bg_inode_table: bg_block_bitmap + 2,
            ..GroupDesc::default()
        }
    }

    /// First block at or after `block` that is not group metadata, and how many such blocks follow it, itself
    /// included, before the next metadata or the end; `None` past the end.
    pub fn data_from(&self, block: u32) -> Option<(u32, u32)> {
        let mut group = block / BLOCKS_PER_GROUP;
        let mut at = block;
        while group < self.groups() {
            let end = self.start(group) + self.len(group);
            at = at.max(self.start(group) + self.overhead(group));
            if at < end {
                return Some((at, end - at));
            }
            group += 1;
        }
        None
    }

    /// Whether the numbers describe a file system at all: each group has room for its metadata.
    pub(crate) fn is_sound(&self) -> bool {
        let per_group = self.inodes_per_group;
        let last = self.groups().saturating_sub(1);
        (1..=MAX_BLOCKS).contains(&self.blocks)
            && (1..=BLOCKS_PER_GROUP).contains(&per_group)
            && per_group.is_multiple_of(self.inode_size.per_block())
            && self.overhead(0) <= self.len(0)
            && self.overhead(last) <= self.len(last)
    }
}

/// Whether a group begins with a copy of superblock and descriptors (`ext2fs_bg_has_super`).
pub fn has_superblock(group: u32) -> bool {
    let power_of = |base: u32| {
        let mut rest = group;
        while rest > 1 && rest.is_multiple_of(base) {
            rest /= base;
        }
        rest == 1
    };
    group <= 1 || power_of(3) || power_of(5) || power_of(7)
}

fn groups(blocks: u32) -> u32 {
    blocks.div_ceil(BLOCKS_PER_GROUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(blocks: u64, inodes: u64, free: u64, minimum: u64) -> Option<Geometry> {
        Geometry::fit(&Need { blocks, inodes, free, minimum }, InodeSize::Large)
    }

    /// Blocks that are not metadata.
    fn usable(geometry: &Geometry) -> u64 {
        u64::from(geometry.blocks) - u64::from(geometry.total_overhead())
    }

    #[test]
    fn groups_with_copies_are_0_1_and_powers_of_3_5_and_7() {
        let copies: Vec<u32> = (0..400).filter(|&group| has_superblock(group)).collect();
        assert_eq!(copies, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
    }

    #[test]
    fn overhead_in_closed_form_is_the_sum_over_groups() {
        let geometry =
            Geometry { blocks: MAX_BLOCKS - 7, inodes_per_group: 1024, inode_size: InodeSize::Small };
        let sum: u64 = (0..geometry.groups()).map(|group| u64::from(geometry.overhead(group))).sum();
        assert_eq!(u64::from(geometry.total_overhead()), sum);
        assert_eq!(geometry.groups(), 16384);
        assert_eq!(geometry.descriptor_blocks(), 128);
        assert_eq!(geometry.table_blocks(), 32);
    }

    #[test]
    fn the_image_holds_what_is_needed_and_no_more() {
        for blocks in
            [0, 1, 49, 50, 51, 30000, 32000, 32500, 32700, 32768, 33000, 65400, 1_000_000, 300_000_000]
        {
            for inodes in [11, 12, 16, 17, 30000, 32768, 32769, 1_000_000] {
                for free in [0, 1, 4096, 64 << 20] {
                    let geometry = fit(blocks, inodes, free, 0).unwrap();
                    let wanted = blocks + free.div_ceil(4096);
                    assert!(geometry.is_sound(), "{geometry:?}");
                    assert!(usable(&geometry) >= wanted, "{blocks} {inodes} {free}: {geometry:?}");
                    // Nothing more, but for the least that a last group has.
                    let last = geometry.groups() - 1;
                    let in_last = u64::from(geometry.len(last) - geometry.overhead(last));
                    assert!(
                        usable(&geometry) == wanted || in_last == LAST_GROUP_DATA,
                        "{blocks} {inodes} {free}: {geometry:?}"
                    );
                    assert!(u64::from(geometry.inodes()) >= inodes + free / 16384);
                }
            }
        }
    }

    #[test]
    fn a_minimum_is_kept_and_hardly_exceeded() {
        for minimum in [0u64, 1 << 20, (128 << 20) - 4096, 128 << 20, (128 << 20) + 4096, 300 << 20, 1 << 40]
        {
            let geometry = fit(1000, 100, 0, minimum).unwrap();
            let bytes = u64::from(geometry.blocks) * 4096;
            assert!(bytes >= minimum, "{minimum}: {geometry:?}");
            assert!(minimum < 8 << 20 || bytes <= minimum + (1 << 20), "{minimum}: {geometry:?}");
        }
    }

    #[test]
    fn two_tebibytes_are_the_end() {
        let full = fit(0, 11, 0, 2 << 40).unwrap();
        assert_eq!(full.blocks, MAX_BLOCKS);
        assert_eq!(fit(0, 11, 0, (2 << 40) + 1), None);
        assert_eq!(fit(u64::from(MAX_BLOCKS), 11, 0, 0), None);
        assert_eq!(fit(0, 1 << 30, 0, 0), None);
        assert_eq!(fit(0, 11, u64::MAX, 0), None);
    }
}
