//! Why an update sends what it sends: the blocks of the disk that change, and the pages that make them change.

use super::census::Census;
use super::demand::Body;
use super::layout::LayoutMap;
use super::pages::PageHash;
use super::plan::{Piece, Plan};

/// What a page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A file's bytes, a long symlink, or where they stand (indirect blocks, attributes).
    Data,
    /// Entries of directories.
    Directories,
    /// Inode tables.
    Inodes,
    /// Block and inode bitmaps.
    Bitmaps,
    /// Superblock and group descriptors.
    Superblock,
}

impl Cause {
    /// All, the weightiest first: a block counts for the first of them that it has.
    pub const ALL: [Cause; 5] =
        [Cause::Data, Cause::Directories, Cause::Inodes, Cause::Bitmaps, Cause::Superblock];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Data => "data",
            Cause::Directories => "directories",
            Cause::Inodes => "inode tables",
            Cause::Bitmaps => "bitmaps",
            Cause::Superblock => "superblock",
        }
    }
}

/// A block of the disk that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedBlock {
    /// Its number.
    pub number: u32,
    /// Pages that differ, by cause in the order of [`Cause::ALL`].
    pub pages: [u32; 5],
    /// Inodes whose data differs in it, by their position in [`super::Demand::wanted`], and how many pages.
    pub files: Vec<(usize, u32)>,
    /// Pages in use that are sent again though they did not change.
    pub again: u32,
}

impl ChangedBlock {
    /// The weightiest cause. `None` for a block that only got another length.
    pub fn cause(&self) -> Option<Cause> {
        Cause::ALL.into_iter().zip(self.pages).find(|(_, pages)| *pages > 0).map(|(cause, _)| cause)
    }
}

/// All that an update changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Blocks, ascending.
    pub blocks: Vec<ChangedBlock>,
    /// Pages in use in the whole image.
    pub live: u64,
    /// Pages that nothing uses and that are not zeros, in blocks that stay: freed, and left in place.
    pub dead: u64,
    /// Pages of the blocks of the disk that have any in use, or left in place.
    pub in_blocks: u64,
    /// Pages of files that the previous image did not have anywhere.
    pub new: u64,
}

impl Changes {
    /// What changes, when `changed` says which blocks of `unit` pages do.
    pub fn of(plan: &Plan<'_>, census: &Census, previous: &LayoutMap, changed: &[bool], unit: u32) -> Self {
        let had: std::collections::HashSet<PageHash> = previous.pages.iter().copied().collect();
        let mut changes = Changes { live: census.live(), ..Changes::default() };
        let blocks = plan.geometry().blocks;
        for (number, &changed) in (0..).zip(changed) {
            let first = number * unit;
            let pages = first..first.saturating_add(unit).min(blocks);
            let before = |page: u32| previous.pages.get(page as usize).copied().unwrap_or_default();
            let any =
                pages.clone().any(|page| census.is_live(page) || !changed && before(page) != PageHash::ZERO);
            changes.in_blocks += if any { u64::from(pages.end - pages.start) } else { 0 };
            if !changed {
                let dead = pages.filter(|&page| !census.is_live(page) && before(page) != PageHash::ZERO);
                changes.dead += dead.count() as u64;
                continue;
            }
            let mut block = ChangedBlock { number, pages: [0; 5], files: vec![], again: 0 };
            for page in pages {
                if !census.differs(page, previous) {
                    block.again += u32::from(census.is_live(page));
                    continue;
                }
                let (cause, inode) = cause(plan, page);
                let at = Cause::ALL.iter().position(|each| *each == cause).expect("ALL has all");
                block.pages[at] += 1;
                if cause == Cause::Data {
                    changes.new += u64::from(!had.contains(&census.page(page)));
                    match (inode, block.files.last_mut()) {
                        (Some(inode), Some((last, pages))) if *last == inode => *pages += 1,
                        (Some(inode), _) => block.files.push((inode, 1)),
                        (None, _) => {}
                    }
                }
            }
            changes.blocks.push(block);
        }
        changes
    }
}

/// What a page in use is, and whose data.
fn cause(plan: &Plan<'_>, page: u32) -> (Cause, Option<usize>) {
    let geometry = plan.geometry();
    if geometry.data_from(page).is_none_or(|(start, _)| start != page) {
        let descriptor = geometry.descriptor(page / super::BLOCKS_PER_GROUP);
        return match page {
            page if page >= descriptor.bg_inode_table => (Cause::Inodes, None),
            page if page >= descriptor.bg_block_bitmap => (Cause::Bitmaps, None),
            _ => (Cause::Superblock, None),
        };
    }
    let at = plan.used.partition_point(|used| used.end() <= page);
    match plan.used.get(at).map(|used| used.piece) {
        Some(Piece::Data { inode, .. } | Piece::Indirect { inode, .. }) => {
            let inode = inode as usize;
            match plan.demand.wanted[inode].body {
                Body::Directory { .. } => (Cause::Directories, Some(inode)),
                _ => (Cause::Data, Some(inode)),
            }
        }
        _ => (Cause::Data, None),
    }
}
