//! From blocks of a file to blocks of the image: 12 direct ones, then trees of one, two and three levels.
//!
//! An indirect block has 1,024 block numbers, 0 for a hole. Which indirect blocks a file has follows from
//! which of its blocks are not holes, so they are named by what they cover ([`Indirect`]).

use std::ops::Range;

/// Blocks that the inode itself points to (`EXT2_NDIR_BLOCKS`).
pub const DIRECT: u32 = 12;

/// Block numbers in an indirect block of 4 KiB.
pub const POINTERS: u32 = 1024;

/// Blocks below an indirect block of level 0 (a data block) to 3.
const COVERS: [u32; 4] = [1, POINTERS, POINTERS * POINTERS, POINTERS * POINTERS * POINTERS];

/// First block of a file below `i_block[12]`, `[13]` and `[14]`.
const ROOTS: [u32; 3] = [DIRECT, DIRECT + COVERS[1], DIRECT + COVERS[1] + COVERS[2]];

/// Blocks that the map reaches.
pub const REACH: u32 = ROOTS[2] + COVERS[3];

/// Most blocks of a file. `i_blocks` counts sectors in 32 bits, with the indirect blocks, so a full file ends
/// before the map does; the kernel's `ext4_max_bitmap_size` comes to the same number.
pub const MAX_FILE_BLOCKS: u32 = max_file_blocks();

const fn max_file_blocks() -> u32 {
    let sectors = u32::MAX / 8;
    let below_triple = sectors - ROOTS[2];
    let indirect =
        1 + (1 + POINTERS) + 1 + below_triple.div_ceil(COVERS[1]) + below_triple.div_ceil(COVERS[2]);
    sectors - indirect
}

/// A run of blocks of a file that lie one after the other in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First block in the file.
    pub logical: u32,
    /// First block in the image.
    pub physical: u32,
    /// Number of blocks, not 0.
    pub count: u32,
}

impl Run {
    /// Block of the file after the last one.
    pub fn logical_end(&self) -> u32 {
        self.logical + self.count
    }
}

/// An indirect block by what it covers. Sorted, a block comes before those below it, and what covers the
/// start of a file before what covers its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indirect {
    /// First block of the file below it.
    pub first: u32,
    /// 1 if it points to data, 2 and 3 above that.
    pub level: u8,
}

impl Indirect {
    fn key(self) -> (u32, std::cmp::Reverse<u8>) {
        (self.first, std::cmp::Reverse(self.level))
    }

    /// Blocks of a file that it may have below it.
    pub fn covers(self) -> u32 {
        COVERS[usize::from(self.level.min(3))]
    }

    /// The indirect blocks on the way to a block of a file, from the inode down. Empty for direct blocks.
    fn above(block: u32) -> impl Iterator<Item = Indirect> {
        let root = ROOTS.iter().rposition(|&root| block >= root);
        let (base, levels) = root.map_or((0, 0..0), |root| (ROOTS[root], 0..root + 1));
        levels.rev().map(move |below| {
            let covers = COVERS[below + 1];
            let level = [1, 2, 3][below];
            Indirect { first: base + (block - base) / covers * covers, level }
        })
    }
}

/// The indirect blocks that a file with these blocks has, in their order.
pub fn needed(runs: &[Range<u32>]) -> Vec<Indirect> {
    let mut needed: Vec<Indirect> = vec![];
    for run in runs {
        let mut at = run.start.max(DIRECT);
        while at < run.end {
            let mut leaf_end = at;
            for indirect in Indirect::above(at) {
                leaf_end = indirect.first + COVERS[1];
                if needed.last().is_none_or(|last| last.key() < indirect.key()) {
                    needed.push(indirect);
                }
            }
            at = leaf_end;
        }
    }
    needed
}

/// How many indirect blocks a file without holes of `blocks` blocks has.
pub fn needed_for(blocks: u32) -> u32 {
    let below = |start: u32, end: u32| blocks.clamp(start, end) - start;
    let [single, double, triple] =
        [below(ROOTS[0], ROOTS[1]), below(ROOTS[1], ROOTS[2]), below(ROOTS[2], REACH)];
    let leaves = single.div_ceil(COVERS[1]) + double.div_ceil(COVERS[1]) + triple.div_ceil(COVERS[1]);
    leaves + double.div_ceil(COVERS[2]) + triple.div_ceil(COVERS[2]) + triple.div_ceil(COVERS[3])
}

/// Where all blocks of a file lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockMap {
    /// Blocks of data, ascending in the file.
    pub data: Vec<Run>,
    /// Indirect blocks and their positions, in their order.
    pub indirect: Vec<(Indirect, u32)>,
}

impl BlockMap {
    /// The block of the image that has a block of the file, 0 for a hole.
    pub fn block(&self, logical: u32) -> u32 {
        let next = self.data.partition_point(|run| run.logical <= logical);
        match next.checked_sub(1).map(|at| self.data[at]) {
            Some(run) if logical < run.logical_end() => run.physical + (logical - run.logical),
            _ => 0,
        }
    }

    /// Position of an indirect block, 0 if the file does not have it.
    fn indirect_block(&self, wanted: Indirect) -> u32 {
        let found = self.indirect.binary_search_by_key(&wanted.key(), |(indirect, _)| indirect.key());
        found.map_or(0, |at| self.indirect[at].1)
    }

    /// `i_block` of the inode.
    pub fn i_block(&self) -> [u32; 15] {
        let mut i_block = [0; 15];
        for (logical, block) in (0..DIRECT).zip(&mut i_block) {
            *block = self.block(logical);
        }
        for ((block, first), level) in i_block[12..].iter_mut().zip(ROOTS).zip(1..) {
            *block = self.indirect_block(Indirect { first, level });
        }
        i_block
    }

    /// Contents of an indirect block, which is zeros before.
    pub fn fill_indirect(&self, indirect: Indirect, block: &mut [u8]) {
        let covers = COVERS[usize::from(indirect.level) - 1];
        if indirect.level == 1 {
            let end = indirect.first + POINTERS;
            let from = self.data.partition_point(|run| run.logical_end() <= indirect.first);
            for run in self.data[from..].iter().take_while(|run| run.logical < end) {
                for logical in run.logical.max(indirect.first)..run.logical_end().min(end) {
                    let pointer = run.physical + (logical - run.logical);
                    put_pointer(block, logical - indirect.first, pointer);
                }
            }
        } else {
            let end = indirect.first + COVERS[usize::from(indirect.level)];
            let from = self.indirect.partition_point(|(below, _)| below.key() <= indirect.key());
            let below = self.indirect[from..].iter().take_while(|(below, _)| below.first < end);
            for (child, at) in below.filter(|(below, _)| below.level + 1 == indirect.level) {
                put_pointer(block, (child.first - indirect.first) / covers, *at);
            }
        }
    }

    /// Blocks of the image that the file has, indirect ones too.
    pub fn blocks(&self) -> u64 {
        self.data.iter().map(|run| u64::from(run.count)).sum::<u64>() + self.indirect.len() as u64
    }
}

fn put_pointer(block: &mut [u8], nth: u32, pointer: u32) {
    block[nth as usize * 4..][..4].copy_from_slice(&pointer.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_be_as_long_as_the_kernel_lets_it() {
        // What ext4_max_bitmap_size(12, 0) of Linux 6.12 comes to.
        assert_eq!(u64::from(MAX_FILE_BLOCKS) * 4096, 2_196_873_666_560);
        let all = u64::from(MAX_FILE_BLOCKS) + u64::from(needed_for(MAX_FILE_BLOCKS));
        assert!(all <= u64::from(u32::MAX / 8), "i_blocks would overflow: {all} blocks");
    }

    #[test]
    fn indirect_blocks_are_those_of_the_tree() {
        // Trees begin at blocks 12, 12 + 1024 = 1036 and 1036 + 1024^2 = 1,049,612.
        type Case<'a> = (&'a [Range<u32>], &'a [(u32, u8)]);
        let cases: [Case<'_>; 8] = [
            (&[], &[]),
            (&[0..12], &[]),
            (&[0..13], &[(12, 1)]),
            (&[5..6, 1035..1036], &[(12, 1)]),
            (&[1035..1037], &[(12, 1), (1036, 2), (1036, 1)]),
            (&[2060..2061], &[(1036, 2), (2060, 1)]),
            (
                &[1_049_611..1_049_613],
                &[(1036, 2), (1_048_588, 1), (1_049_612, 3), (1_049_612, 2), (1_049_612, 1)],
            ),
            (
                &[3_000_000..3_000_001, 3_000_002..3_000_003, 4_194_305..4_194_306],
                &[(1_049_612, 3), (2_098_188, 2), (2_999_308, 1), (3_146_764, 2), (4_193_292, 1)],
            ),
        ];
        for (runs, expected) in cases {
            let expected: Vec<Indirect> =
                expected.iter().map(|&(first, level)| Indirect { first, level }).collect();
            assert_eq!(needed(runs), expected, "{runs:?}");
        }
    }

    #[test]
    fn the_number_of_indirect_blocks_is_known_without_listing_them() {
        for blocks in [0, 1, 12, 13, 1036, 1037, 2060, 2061, 1_049_612, 1_049_613, 1_050_637, 5_000_000] {
            let listed = if blocks == 0 { 0 } else { needed(&[0..blocks]).len() };
            assert_eq!(listed, needed_for(blocks) as usize, "{blocks}");
        }
    }

    /// Looks a block up as the kernel does, through the rendered blocks.
    fn walk(map: &BlockMap, logical: u32) -> u32 {
        let pointer =
            |block: &[u8], nth: u32| u32::from_le_bytes(block[nth as usize * 4..][..4].try_into().unwrap());
        let rendered = |at: u32| {
            let (indirect, _) = *map.indirect.iter().find(|(_, position)| *position == at).unwrap();
            let mut block = vec![0; 4096];
            map.fill_indirect(indirect, &mut block);
            block
        };
        if logical < DIRECT {
            return map.i_block()[logical as usize];
        }
        let root = ROOTS.iter().rposition(|&root| logical >= root).unwrap();
        let mut at = map.i_block()[12 + root];
        for level in (0..=root).rev() {
            if at == 0 {
                return 0;
            }
            at = pointer(&rendered(at), (logical - ROOTS[root]) / COVERS[level] % POINTERS);
        }
        at
    }

    #[test]
    fn every_block_is_found_through_the_rendered_indirect_blocks() {
        let runs = [
            Run { logical: 3, physical: 100, count: 2 },
            Run { logical: 11, physical: 200, count: 3 },
            Run { logical: 1030, physical: 5000, count: 3000 },
            Run { logical: 1_049_000, physical: 10_000, count: 2000 },
            Run { logical: 2_098_187, physical: 20_000, count: 2 },
            Run { logical: REACH - 1, physical: 7, count: 1 },
        ];
        let ranges: Vec<Range<u32>> = runs.iter().map(|run| run.logical..run.logical_end()).collect();
        let indirect = needed(&ranges).into_iter().zip(1_000_000..).collect();
        let map = BlockMap { data: runs.to_vec(), indirect };
        for run in runs {
            let edges = [0, 1, run.count / 2, run.count - 1].map(|nth| nth.min(run.count - 1));
            for nth in edges {
                assert_eq!(walk(&map, run.logical + nth), run.physical + nth, "{run:?} {nth}");
            }
            let before = run.logical - 1;
            assert_eq!(walk(&map, before), map.block(before), "{run:?}");
        }
        for hole in [0, 10, 14, 500, 1029, 4030, 1_048_999, 1_051_000, 2_098_189, REACH - 2] {
            assert_eq!((walk(&map, hole), map.block(hole)), (0, 0), "{hole}");
        }
    }
}
