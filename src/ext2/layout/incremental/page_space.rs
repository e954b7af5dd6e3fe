//! Where new pages go: into blocks of the disk that nothing else would change.

use std::ops::Range;

use crate::ext2::geometry::{Geometry, MAX_BLOCKS};
use crate::ext2::layout::PlaceError;

/// Least share of pages in use, in hundredths, of the blocks of the disk that have any. Below it new data fills
/// holes, and the rest of those blocks is sent again for it.
pub(super) const LEAST_USE: u64 = 60;

/// Blocks below this share of holes don't count: small images have few blocks, none of them typical.
const SLACK: u64 = 64;

/// Pages of an image that are given away.
pub(super) struct PageSpace {
    pub geometry: Geometry,
    /// Pages of a block of the disk.
    unit: u32,
    /// By page: metadata, or given to somebody.
    taken: Vec<bool>,
}

/// What a search for room needs to know.
pub(super) struct SpaceRequest {
    pub pages: u32,
    /// Pages to leave free.
    pub free: u64,
    /// Blocks of 4 KiB that the image has at least.
    pub minimum: u64,
    /// The highest inode number.
    pub inodes: u32,
    /// Groups from which something was freed: their bitmaps change anyway.
    pub touched: Vec<bool>,
}

impl PageSpace {
    /// All pages free but those of metadata.
    pub fn new(geometry: Geometry, unit: u32) -> Self {
        let mut space = PageSpace { geometry, unit, taken: vec![] };
        space.metadata();
        space
    }

    /// Whether a page may be had.
    pub fn is_free(&self, page: u32) -> bool {
        self.taken.get(page as usize).is_some_and(|taken| !taken)
    }

    /// Takes a page, if it may be had.
    pub fn take(&mut self, page: u32) -> bool {
        self.is_free(page) && {
            self.taken[page as usize] = true;
            true
        }
    }

    /// Free pages of one block of the disk, ascending.
    pub fn free_in(&self, block: u32) -> Vec<u32> {
        self.pages_of(block).filter(|&page| self.is_free(page)).collect()
    }

    /// Room for new pages, in the order in which it is best given away; grows the image if it has to. None of it
    /// is taken yet.
    ///
    /// # Errors
    /// [`PlaceError`], when the image can't grow in place.
    pub fn find(&mut self, room: &SpaceRequest) -> Result<Vec<Range<u32>>, PlaceError> {
        loop {
            let survey = self.survey();
            let holes = survey.holes(room.pages, self.unit).min(survey.free_in_holes);
            let fresh = u64::from(room.pages) - holes;
            let short = (fresh.saturating_sub(survey.fresh_pages))
                .max((u64::from(room.pages) + room.free).saturating_sub(survey.free))
                .max(room.minimum.saturating_sub(self.geometry.blocks.into()));
            let inodes_fit = room.inodes <= self.geometry.inodes();
            if short == 0 && inodes_fit {
                let mut found = survey.pick(fresh, self.unit, &room.touched);
                found.extend(self.holes(&survey, holes));
                return Ok(found);
            }
            self.grow(short, room.inodes)?;
        }
    }

    fn metadata(&mut self) {
        let blocks = self.geometry.blocks as usize;
        self.taken.resize(blocks, false);
        for group in 0..self.geometry.groups() {
            let start = self.geometry.start(group) as usize;
            self.taken[start..start + self.geometry.overhead(group) as usize].fill(true);
        }
    }

    fn pages_of(&self, block: u32) -> Range<u32> {
        let first = block * self.unit;
        first..first.saturating_add(self.unit).min(self.geometry.blocks)
    }

    /// By an eighth at least, so that it happens seldom: each time the copies of superblock and descriptors change.
    fn grow(&mut self, short: u64, inodes: u32) -> Result<(), PlaceError> {
        let Geometry { blocks, inodes_per_group, inode_size } = self.geometry;
        let group = u64::from(crate::ext2::BLOCKS_PER_GROUP);
        let overhead = u64::from(2 + self.geometry.table_blocks() + 1 + self.geometry.descriptor_blocks());
        // Each group that is added has metadata of its own.
        let more = short + (short / (group - overhead).max(1) + 1) * overhead;
        let groups = u64::from(inodes.div_ceil(inodes_per_group));
        let least =
            (u64::from(blocks) + more.max(u64::from(blocks) / 8)).max((groups.saturating_sub(1)) * group + 1);
        let mut wanted = least.next_multiple_of(self.unit.into());
        let rest = wanted % group;
        if rest != 0 && rest < overhead + 64 {
            wanted = (wanted - rest + overhead + 64).next_multiple_of(self.unit.into());
        }
        let wanted = u32::try_from(wanted).ok().filter(|&wanted| wanted <= MAX_BLOCKS);
        let relayout = |why| PlaceError::Relayout { why };
        let blocks = wanted.ok_or(relayout("the image would grow beyond 2 TiB"))?;
        let grown = Geometry { blocks, inodes_per_group, inode_size };
        if grown.descriptor_blocks() != self.geometry.descriptor_blocks() {
            return Err(relayout(
                "the group descriptors would need another block, and everything behind them moves",
            ));
        }
        self.geometry = grown;
        self.metadata();
        Ok(())
    }

    fn survey(&self) -> BlockUsage {
        let mut survey = BlockUsage::default();
        for block in 0..self.geometry.blocks.div_ceil(self.unit) {
            let pages = self.pages_of(block);
            let all = pages.len() as u64;
            let free = pages.clone().filter(|&page| self.is_free(page)).count() as u64;
            survey.free += free;
            if free == all {
                survey.fresh_pages += all;
                match survey.fresh.last_mut() {
                    Some(last) if last.end == pages.start => last.end = pages.end,
                    _ => survey.fresh.push(pages),
                }
            } else {
                survey.used += all - free;
                survey.in_blocks += all;
                survey.free_in_holes += free;
                if free > 0 {
                    survey.partly.push((all - free, block));
                }
            }
        }
        survey.partly.sort_unstable();
        survey
    }

    /// `pages` free ones out of the blocks with the fewest pages in use.
    fn holes(&self, survey: &BlockUsage, pages: u64) -> Vec<Range<u32>> {
        let mut found: Vec<Range<u32>> = vec![];
        let all = survey.partly.iter().flat_map(|&(_, block)| self.free_in(block));
        for page in all.take(usize::try_from(pages).unwrap_or(usize::MAX)) {
            match found.last_mut() {
                Some(last) if last.end == page => last.end += 1,
                _ => found.push(page..page + 1),
            }
        }
        found
    }
}

/// How the blocks of the disk are filled.
#[derive(Default)]
struct BlockUsage {
    /// Free pages in all.
    free: u64,
    /// Runs of blocks of which nothing is in use, as pages.
    fresh: Vec<Range<u32>>,
    fresh_pages: u64,
    /// Blocks that are partly in use: pages in use, and number.
    partly: Vec<(u64, u32)>,
    /// Free pages of those.
    free_in_holes: u64,
    /// Pages in use, and all pages, of blocks in use.
    used: u64,
    in_blocks: u64,
}

impl BlockUsage {
    /// How many of `pages` new ones must go into holes, so that blocks in use stay filled by [`LEAST_USE`].
    fn holes(&self, pages: u32, unit: u32) -> u64 {
        let pages = u64::from(pages);
        let blocks = self.in_blocks + pages;
        let most = (self.used + pages) * 100 / LEAST_USE + SLACK * u64::from(unit);
        blocks.saturating_sub(most).min(pages)
    }

    /// Fresh pages: a run that takes all, rather in a group whose bitmap changes anyway; otherwise the first ones.
    fn pick(&self, pages: u64, unit: u32, touched: &[bool]) -> Vec<Range<u32>> {
        let is_touched = |run: &Range<u32>| {
            touched.get((run.start / crate::ext2::BLOCKS_PER_GROUP) as usize).copied().unwrap_or(false)
        };
        let fits = |run: &&Range<u32>| run.len() as u64 >= pages;
        let one = self
            .fresh
            .iter()
            .filter(fits)
            .find(|run| is_touched(run))
            .or_else(|| self.fresh.iter().find(fits));
        let mut found = vec![];
        let mut left = pages;
        for run in one.map_or(&self.fresh[..], std::slice::from_ref) {
            if left == 0 {
                break;
            }
            let count = left.min(run.len() as u64);
            let end = run.start + u32::try_from(count).expect("part of a run");
            // Blocks are taken whole: what is left of the last one is of no use to the next update.
            found.push(run.start..end.next_multiple_of(unit).min(run.end));
            left -= count;
        }
        found
    }
}
