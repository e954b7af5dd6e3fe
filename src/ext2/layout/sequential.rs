//! The first layout: everything one after the other.

use std::ops::Range;

use super::order::positions;
use super::{Allocator, PlaceError, PlacedInode, Placement};
use crate::ext2::blockmap::{Run, needed};
use crate::ext2::demand::{Body, Demand, DemandedInode, InodeOrigin, NOT_FIRST};
use crate::ext2::dirent::pack;
use crate::ext2::geometry::{Geometry, Need};
use crate::ext2::{FIRST_INO, ROOT_INO};
use crate::tree::Kind;

/// When large files begin on a multiple of some blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Align {
    /// Blocks of 4 KiB, e.g. 64 for the 256 KiB that are fetched at once. Not 0.
    pub blocks: u32,
    /// Fewest blocks of a file that is aligned.
    pub from: u32,
}

/// A first layout. Inodes are numbered and blocks given out first to all directories, then to attributes and
/// symlinks, then to files, each directory by directory, but for what is read first ([`crate::ext2::ImageOptions::first`]). Gaps between
/// that stay empty: who reads it should not have to fetch anything else. A file's indirect blocks stand right before its data, which is in one
/// piece but for the metadata at the start of groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequential {
    /// Aligns large files, as far as free space allows. Smaller ones fill the gaps.
    pub align: Option<Align>,
}

impl Allocator for Sequential {
    fn place(&mut self, demand: &Demand<'_>) -> Result<Placement, PlaceError> {
        let order = positions(demand);
        let mut inodes = vec![PlacedInode::default(); demand.wanted.len()];
        let mut bodies: Vec<Vec<Range<u32>>> = vec![vec![]; demand.wanted.len()];
        let attributes = u32::try_from(demand.xattr_blocks.len()).expect("fewer than inodes");
        let mut blocks = u64::from(attributes);
        let mut next_ino = FIRST_INO;
        for &position in &order {
            let placed = &mut inodes[position];
            placed.ino = if position == 0 {
                ROOT_INO
            } else if position == demand.lost_found {
                FIRST_INO
            } else {
                next_ino += 1;
                next_ino
            };
            let runs = match &demand.wanted[position].body {
                Body::None => vec![],
                Body::Blocks(runs) => runs.clone(),
                Body::Directory { entries, blocks } => {
                    placed.slots = pack(entries.iter().map(|entry| entry.name));
                    placed.slots.resize(placed.slots.len().max(*blocks as usize), vec![]);
                    vec![0..u32::try_from(placed.slots.len()).expect("2^29 entries of 264 bytes at most")]
                }
            };
            placed.indirect = vec![0; needed(&runs).len()];
            blocks += u64::from(length(&runs)) + placed.indirect.len() as u64;
            bodies[position] = runs;
        }

        let need = Need {
            blocks,
            inodes: u64::from(FIRST_INO) - 1 + demand.wanted.len() as u64,
            free: demand.options.free,
            minimum: demand.options.minimum,
        };
        let geometry = Geometry::fit(&need, demand.options.inode_size).ok_or(PlaceError::TooLarge {
            blocks: need.blocks,
            free: need.free,
            minimum: need.minimum,
            inodes: need.inodes,
        })?;

        let room = u64::from(geometry.blocks - geometry.total_overhead());
        let mut space = UnusedBlocks { geometry, next: 0, room, need: blocks, gaps: vec![] };
        let mut xattr_blocks = vec![0; demand.xattr_blocks.len()];
        for zone in [Zone::Directories, Zone::Symlinks, Zone::Files] {
            let align = self.align.filter(|_| zone == Zone::Files);
            let mut follows_first = false;
            for &position in &order {
                if Zone::of(demand, &demand.wanted[position]) == zone {
                    let is_first = demand.rank[position] != NOT_FIRST;
                    if follows_first && !is_first {
                        space.leave(align);
                    }
                    follows_first = is_first;
                    space.place(&mut inodes[position], &bodies[position], align);
                }
            }
            if zone == Zone::Directories {
                space.fill(&mut xattr_blocks);
            }
        }
        Ok(Placement { geometry, inodes, xattr_blocks })
    }
}

/// What stands together. Attribute blocks come after the directories.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zone {
    Directories,
    Symlinks,
    Files,
}

impl Zone {
    fn of(demand: &Demand<'_>, wanted: &DemandedInode<'_>) -> Zone {
        match wanted.origin {
            InodeOrigin::LostFound => Zone::Directories,
            InodeOrigin::Node(id) => match demand.tree.node(id).kind {
                Kind::Directory(_) => Zone::Directories,
                Kind::Symlink(_) => Zone::Symlinks,
                _ => Zone::Files,
            },
        }
    }
}

fn length(runs: &[Range<u32>]) -> u32 {
    runs.iter().map(|run| run.end - run.start).sum()
}

/// Blocks not given out yet: those from `next` on, and the gaps that alignment left below it.
struct UnusedBlocks {
    geometry: Geometry,
    next: u32,
    /// Blocks from `next` on that are not metadata. Never fewer than `need`.
    room: u64,
    /// Blocks that are still to be placed.
    need: u64,
    /// First block and count, ascending.
    gaps: Vec<(u32, u32)>,
}

impl UnusedBlocks {
    /// Places an inode's indirect blocks and, behind them, its data.
    fn place(&mut self, placed: &mut PlacedInode, runs: &[Range<u32>], align: Option<Align>) {
        let above = u32::try_from(placed.indirect.len()).expect("fewer than the data's blocks");
        let data = length(runs);
        match align {
            Some(align) if data >= align.from => self.align(above, align.blocks),
            Some(_) => {
                if let Some(start) = self.gap(above + data) {
                    // A file that is in a gap is in one piece.
                    for (indirect, at) in placed.indirect.iter_mut().zip(start..) {
                        *indirect = at;
                    }
                    let mut physical = start + above;
                    for run in runs {
                        let count = run.end - run.start;
                        placed.data.push(Run { logical: run.start, physical, count });
                        physical += count;
                    }
                    return;
                }
            }
            None => {}
        }
        self.fill(&mut placed.indirect);
        for run in runs {
            let mut logical = run.start;
            while logical < run.end {
                let (physical, count) = self.take(run.end - logical);
                placed.data.push(Run { logical, physical, count });
                logical += count;
            }
        }
    }

    fn fill(&mut self, blocks: &mut [u32]) {
        for block in blocks {
            (*block, _) = self.take(1);
        }
    }

    /// Takes up to `count` blocks that lie together; returns the first and how many they are.
    fn take(&mut self, count: u32) -> (u32, u32) {
        let (start, run) = self.geometry.data_from(self.next).expect("room is not below need");
        let count = count.min(run);
        self.next = start + count;
        self.room -= u64::from(count);
        self.need -= u64::from(count);
        (start, count)
    }

    /// Takes `count` blocks out of the first gap that has them.
    fn gap(&mut self, count: u32) -> Option<u32> {
        let at = self.gaps.iter().position(|&(_, blocks)| blocks >= count)?;
        let (start, blocks) = self.gaps[at];
        if blocks == count {
            self.gaps.remove(at);
        } else {
            self.gaps[at] = (start + count, blocks - count);
        }
        self.need -= u64::from(count);
        Some(start)
    }

    /// Begins anew where a block begins; what was left out before stays so.
    fn leave(&mut self, align: Option<Align>) {
        if let Some(align) = align {
            self.align(0, align.blocks);
        }
        self.gaps.clear();
    }

    /// Moves on so that the block after `above` more is a multiple of `multiple`. Stays where it is if what
    /// is still to be placed would not fit behind that: gaps come out of the free space.
    fn align(&mut self, above: u32, multiple: u32) {
        let mut gaps = vec![];
        let mut skipped = 0;
        let mut at = self.next;
        while let Some((start, count)) = self.geometry.data_from(at) {
            let data = start + above;
            let skip = data.next_multiple_of(multiple) - data;
            let fits = skip + above < count;
            // Metadata comes before: try behind it.
            let skip = if fits { skip } else { count };
            skipped += u64::from(skip);
            if self.room < self.need + skipped {
                return;
            }
            if skip > 0 {
                gaps.push((start, skip));
            }
            at = start + skip;
            if fits {
                self.gaps.append(&mut gaps);
                self.room -= skipped;
                self.next = at;
                return;
            }
        }
    }
}
