//! A demand and a placement that are known to agree, and what follows from them: counts, maps, who owns which
//! block.

use std::ops::Range;

use super::blockmap::{BlockMap, needed};
use super::demand::{Body, Demand, DemandError, DemandedInode, ImageOptions, Profile};
use super::dirent::{self, DOTS};
use super::geometry::{BLOCKS_PER_GROUP, Geometry};
use super::layout::{Allocator, PlaceError, PlacedInode, Placement};
use super::ondisk::{
    COMPAT_EXT_ATTR, GroupDesc, INCOMPAT_FILETYPE, MAGIC, RO_COMPAT_LARGE_FILE, RO_COMPAT_SPARSE_SUPER,
    Superblock,
};
use super::{FIRST_INO, ROOT_INO, shown};
use crate::tree::{FileTime, Meta, Tree};

/// Why there is no plan.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImagePlanError {
    /// ext2 can't hold the tree.
    #[error(transparent)]
    Demand(#[from] DemandError),
    /// The allocator found no place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The allocator's answer does not fit the demand: a fault in it, or in the layout map it went by.
    #[error("{place}: the allocator {what}")]
    Misplaced {
        /// Path, or what else it concerns.
        place: String,
        what: &'static str,
    },
}

/// What a run of blocks that is not group metadata has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunContents {
    /// The body of an inode, from its block `logical` on.
    Data {
        inode: u32,
        logical: u32,
    },
    /// An indirect block of an inode: `nth` in its map.
    Indirect {
        inode: u32,
        nth: u32,
    },
    Xattrs {
        nth: u32,
    },
}

/// Blocks in use that lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub start: u32,
    pub count: u32,
    pub piece: RunContents,
}

impl Used {
    /// The page after the last.
    pub fn end(&self) -> u32 {
        self.start + self.count
    }
}

/// A file system that is decided in every position and not yet written. No contents were read for it.
#[derive(Debug)]
pub struct ImagePlan<'t> {
    pub(crate) demand: Demand<'t>,
    pub(crate) placement: Placement,
    /// Block map of each inode wanted.
    pub(crate) maps: Vec<BlockMap>,
    /// Inode numbers in use and whose they are, ascending.
    pub(crate) inodes: Vec<(u32, u32)>,
    /// Blocks in use, without group metadata, ascending.
    pub(crate) used: Vec<Used>,
    pub(crate) groups: Vec<GroupDesc>,
}

impl<'t> ImagePlan<'t> {
    /// Plans an image of `tree`, all positions chosen by `allocator`.
    ///
    /// # Errors
    /// [`ImagePlanError`]. An allocator can't make a plan that would be a damaged file system.
    pub fn new(
        tree: &'t Tree,
        options: &ImageOptions,
        allocator: &mut dyn Allocator,
    ) -> Result<Self, ImagePlanError> {
        let demand = Demand::new(tree, options)?;
        let placement = allocator.place(&demand)?;
        ImagePlan::check(demand, placement)
    }

    fn check(demand: Demand<'t>, mut placement: Placement) -> Result<Self, ImagePlanError> {
        let geometry = placement.geometry;
        if !geometry.is_sound() || geometry.inode_size != demand.options.inode_size {
            return Err(misplaced("size", "chose a size without room for its own groups"));
        }
        if placement.inodes.len() != demand.wanted.len()
            || placement.xattr_blocks.len() != demand.xattr_blocks.len()
        {
            return Err(misplaced("inodes", "placed more or fewer than were wanted"));
        }
        let inodes = check_numbers(&demand, &placement)?;

        let mut maps = vec![];
        let mut used = vec![];
        for (inode, wanted) in (0..).zip(&demand.wanted) {
            let map = take_map(wanted, &mut placement.inodes[inode as usize])?;
            used.extend(map.data.iter().map(|run| Used {
                start: run.physical,
                count: run.count,
                piece: RunContents::Data { inode, logical: run.logical },
            }));
            used.extend((0..).zip(&map.indirect).map(|(nth, &(_, start))| Used {
                start,
                count: 1,
                piece: RunContents::Indirect { inode, nth },
            }));
            maps.push(map);
        }
        used.extend((0..).zip(&placement.xattr_blocks).map(|(nth, &start)| Used {
            start,
            count: 1,
            piece: RunContents::Xattrs { nth },
        }));
        used.sort_unstable_by_key(|used| used.start);
        check_blocks(&demand, geometry, &used)?;

        let groups = descriptors(&demand, geometry, &inodes, &used);
        Ok(ImagePlan { demand, placement, maps, inodes, used, groups })
    }

    /// The geometry of the planned image.
    pub fn geometry(&self) -> Geometry {
        self.placement.geometry
    }

    /// What the tree asked for.
    pub fn demand(&self) -> &Demand<'t> {
        &self.demand
    }

    /// Each inode wanted with its number and its block map, in the order of [`Demand::wanted`].
    pub fn inodes(&self) -> impl Iterator<Item = (&DemandedInode<'t>, u32, &BlockMap)> {
        let numbers = self.placement.inodes.iter().map(|placed| placed.ino);
        self.demand.wanted.iter().zip(numbers).zip(&self.maps).map(|((wanted, ino), map)| (wanted, ino, map))
    }

    /// Where the entries of a directory stand, block by block, by the directory's position in
    /// [`Demand::wanted`].
    pub fn slots(&self, position: usize) -> &[Vec<dirent::DirentSlot>] {
        &self.placement.inodes[position].slots
    }

    /// Runs of blocks that are in use, group metadata aside, ascending.
    pub fn used(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.used.iter().map(|used| used.start..used.end())
    }

    /// Blocks that are free.
    pub fn free_blocks(&self) -> u32 {
        self.groups.iter().map(|group| u32::from(group.bg_free_blocks_count)).sum()
    }

    /// Inodes that are free.
    pub fn free_inodes(&self) -> u32 {
        self.groups.iter().map(|group| u32::from(group.bg_free_inodes_count)).sum()
    }

    /// Metadata of a lost+found that the tree did not have.
    pub(crate) fn lost_found(&self) -> Meta {
        let secs = i64::try_from(self.demand.options.epoch).unwrap_or(i64::MAX);
        Meta { mode: 0o700, mtime: FileTime { secs, nanos: 0 }, ..Meta::default() }
    }

    /// The superblock's copy in `group`. Only the first has counts and the mark of a clean file system: copies are
    /// for e2fsck, which counts anew, and so they need not change with every update.
    pub fn superblock(&self, group: u32) -> Superblock {
        let options = &self.demand.options;
        let geometry = self.geometry();
        let [epoch @ .., epoch_hi, _, _, _] = options.epoch.to_le_bytes();
        let epoch = u32::from_le_bytes(epoch);
        let reserved = u64::from(geometry.blocks) * u64::from(options.reserved_percent.min(50)) / 100;
        let extra = options.inode_size.extra();
        let linux = options.profile == Profile::Linux;
        let mut s_volume_name = [0; 16];
        let label = options.name.as_bytes();
        let label = &label[..label.len().min(s_volume_name.len())];
        s_volume_name[..label.len()].copy_from_slice(label);
        Superblock {
            s_inodes_count: geometry.inodes(),
            s_blocks_count: geometry.blocks,
            s_r_blocks_count: u32::try_from(reserved).expect("at most half of the blocks"),
            s_free_blocks_count: if group == 0 { self.free_blocks() } else { 0 },
            s_free_inodes_count: if group == 0 { self.free_inodes() } else { 0 },
            s_log_block_size: 2,
            s_log_frag_size: 2,
            s_blocks_per_group: BLOCKS_PER_GROUP,
            s_frags_per_group: BLOCKS_PER_GROUP,
            s_inodes_per_group: geometry.inodes_per_group,
            s_wtime: epoch,
            s_max_mnt_count: u16::MAX,
            s_magic: MAGIC,
            s_state: u16::from(group == 0),
            s_errors: 1,
            s_lastcheck: epoch,
            s_rev_level: 1,
            s_first_ino: FIRST_INO,
            s_inode_size: u16::try_from(options.inode_size.bytes()).expect("128 or 256"),
            // As in mke2fs and the kernel: cut to 16 bits, which 16,384 groups fit.
            s_block_group_nr: u16::try_from(group).unwrap_or(u16::MAX),
            s_feature_compat: if linux { COMPAT_EXT_ATTR } else { 0 },
            s_feature_incompat: if options.profile == Profile::Legacy9 { 0 } else { INCOMPAT_FILETYPE },
            s_feature_ro_compat: RO_COMPAT_SPARSE_SUPER | RO_COMPAT_LARGE_FILE,
            s_uuid: derived(&options.name, "uuid"),
            s_volume_name,
            s_hash_seed: derived(&options.name, "hash-seed"),
            s_def_hash_version: 1,
            s_default_mount_opts: if linux { 0x4 | 0x8 } else { 0 },
            s_mkfs_time: epoch,
            s_min_extra_isize: extra,
            s_want_extra_isize: extra,
            s_flags: 1,
            s_overhead_blocks: geometry.total_overhead(),
            s_wtime_hi: epoch_hi,
            s_mkfs_time_hi: epoch_hi,
            s_lastcheck_hi: epoch_hi,
            ..Superblock::default()
        }
    }
}

/// A UUID (version 5) that follows from the image's name and what it is for.
fn derived(name: &str, purpose: &str) -> [u8; 16] {
    let url = format!("imgfactory:image/{name}/{purpose}");
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, url.as_bytes()).into_bytes()
}

fn misplaced(place: &str, what: &'static str) -> ImagePlanError {
    ImagePlanError::Misplaced { place: place.to_owned(), what }
}

/// Inode numbers, sorted, once they are known to be possible and different.
fn check_numbers(demand: &Demand<'_>, placement: &Placement) -> Result<Vec<(u32, u32)>, ImagePlanError> {
    let mut numbers: Vec<(u32, u32)> = placement.inodes.iter().map(|placed| placed.ino).zip(0..).collect();
    numbers.sort_unstable();
    let count = placement.geometry.inodes();
    for (at, &(ino, position)) in numbers.iter().enumerate() {
        let what = if position == 0 && ino != ROOT_INO {
            "gave the root a number that is not 2"
        } else if position != 0 && ino < FIRST_INO {
            "gave a reserved inode away"
        } else if ino > count {
            "gave an inode that the image does not have"
        } else if at > 0 && numbers[at - 1].0 == ino {
            "gave one inode twice"
        } else {
            continue;
        };
        return Err(misplaced(&shown(&demand.wanted[position as usize].path), what));
    }
    Ok(numbers)
}

/// The map of one inode, once its blocks and slots are known to be those wanted.
fn take_map(wanted: &DemandedInode<'_>, placed: &mut PlacedInode) -> Result<BlockMap, ImagePlanError> {
    let fault = |what| Err(misplaced(&shown(&wanted.path), what));
    let whole;
    let runs: &[Range<u32>] = match &wanted.body {
        Body::None => &[],
        Body::Blocks(runs) => runs,
        Body::Directory { entries, blocks } => {
            let mut seen = vec![false; entries.len()];
            for (nth, slots) in placed.slots.iter().enumerate() {
                let first = if nth == 0 { DOTS } else { 0 };
                if !dirent::fits(slots, first, |at| entries.get(at as usize).map(|entry| entry.name)) {
                    return fault("placed directory entries over each other");
                }
                for slot in slots {
                    if std::mem::replace(&mut seen[slot.entry as usize], true) {
                        return fault("placed a directory entry twice");
                    }
                }
            }
            if seen.contains(&false) {
                return fault("left out a directory entry");
            }
            match u32::try_from(placed.slots.len()) {
                // `i_size` of a directory has 32 bits.
                Ok(len) if len >= *blocks && len < 1 << 20 => whole = [0..len],
                _ => return fault("gave a directory too few or too many blocks"),
            }
            &whole
        }
    };
    let data = std::mem::take(&mut placed.data);
    let mut rest = data.iter();
    for run in runs {
        let mut at = run.start;
        while at < run.end {
            match rest.next() {
                Some(next) if next.logical == at && next.count > 0 && next.count <= run.end - at => {
                    at += next.count;
                }
                _ => return fault("placed other blocks than were wanted"),
            }
        }
    }
    if rest.next().is_some() {
        return fault("placed more blocks than were wanted");
    }
    let indirect = needed(runs);
    if indirect.len() != placed.indirect.len() {
        return fault("placed more or fewer indirect blocks than were wanted");
    }
    let positions = std::mem::take(&mut placed.indirect);
    Ok(BlockMap { data, indirect: indirect.into_iter().zip(positions).collect() })
}

/// Blocks may not overlap, be group metadata or lie outside.
fn check_blocks(demand: &Demand<'_>, geometry: Geometry, used: &[Used]) -> Result<(), ImagePlanError> {
    let mut free_from = 0;
    for run in used {
        let place = || match run.piece {
            RunContents::Data { inode, .. } | RunContents::Indirect { inode, .. } => {
                shown(&demand.wanted[inode as usize].path)
            }
            RunContents::Xattrs { nth } => format!("attribute block {nth}"),
        };
        let inside = geometry
            .data_from(run.start)
            .is_some_and(|(start, count)| start == run.start && run.count <= count);
        if !inside {
            return Err(misplaced(&place(), "gave blocks that are metadata or outside"));
        }
        if run.start < free_from {
            return Err(misplaced(&place(), "gave a block twice"));
        }
        free_from = run.end();
    }
    Ok(())
}

/// Group descriptors with their counts.
fn descriptors(
    demand: &Demand<'_>,
    geometry: Geometry,
    inodes: &[(u32, u32)],
    used: &[Used],
) -> Vec<GroupDesc> {
    let groups = geometry.groups() as usize;
    let mut free: Vec<u32> =
        (0..geometry.groups()).map(|group| geometry.len(group) - geometry.overhead(group)).collect();
    let mut free_inodes = vec![geometry.inodes_per_group; groups];
    let mut directories = vec![0u32; groups];
    // No run goes beyond its group: the next one begins with metadata.
    for run in used {
        free[(run.start / BLOCKS_PER_GROUP) as usize] -= run.count;
    }
    for ino in 1..FIRST_INO {
        if ino != ROOT_INO {
            free_inodes[((ino - 1) / geometry.inodes_per_group) as usize] -= 1;
        }
    }
    for &(ino, position) in inodes {
        let group = ((ino - 1) / geometry.inodes_per_group) as usize;
        free_inodes[group] -= 1;
        if let Body::Directory { .. } = demand.wanted[position as usize].body {
            directories[group] += 1;
        }
    }
    let count = |count: u32| u16::try_from(count).expect("a group has at most 32768 of anything");
    (0..geometry.groups())
        .zip(free.into_iter().zip(free_inodes).zip(directories))
        .map(|(group, ((free, free_inodes), directories))| GroupDesc {
            bg_free_blocks_count: count(free),
            bg_free_inodes_count: count(free_inodes),
            bg_used_dirs_count: count(directories),
            ..geometry.descriptor(group)
        })
        .collect()
}
