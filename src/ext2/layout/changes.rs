//! Why an update sends what it sends: the blocks of the disk that differ between two layouts, and which pages make
//! them differ.

use std::collections::HashSet;

use super::map::{LayoutMap, MappedKind};
use crate::ext2::BLOCKS_PER_GROUP;
use crate::ext2::pages::PageHash;

/// What a page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A file's bytes, a long symlink, or where they stand (indirect blocks, attributes).
    Data,
    Directories,
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

    /// The kind of change in words, for reports.
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
    pub number: u32,
    /// Pages that differ, by cause in the order of [`Cause::ALL`].
    pub pages: [u32; 5],
    /// Inodes whose data or entries differ in it, by their place in [`LayoutMap::inodes`] of the new layout, and how
    /// many pages.
    pub inodes: Vec<(usize, u32)>,
    /// Pages in use that are sent again though they did not change.
    pub again: u32,
    /// Pages of files that the old image did not have anywhere.
    pub new: u32,
}

impl ChangedBlock {
    /// The weightiest cause. `None` for a block that only got another length, or lost what nobody used.
    pub fn cause(&self) -> Option<Cause> {
        Cause::ALL.into_iter().zip(self.pages).find(|(_, pages)| *pages > 0).map(|(cause, _)| cause)
    }
}

/// All that differs between two layouts of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Numbers of blocks, ascending.
    pub blocks: Vec<ChangedBlock>,
    /// Pages in use, in the new one.
    pub live: u64,
    /// Pages that nothing uses and that are not zeros: freed, and left in place.
    pub dead: u64,
    /// Pages of the blocks of the disk that hold anything.
    pub held: u64,
    /// Pages of files that the old image did not have anywhere: what any way of updating must send.
    pub new: u64,
}

impl Changes {
    /// What `new` changes of `old`; `unit` is the number of pages in a block of the disk.
    pub fn between(old: &LayoutMap, new: &LayoutMap, unit: u32) -> Self {
        let had: HashSet<PageHash> = old.pages.iter().copied().collect();
        let used = new.in_use();
        let owners = owners(new);
        let mut changes = Changes::default();
        for (number, pages) in (0_u32..).zip(new.pages.chunks(unit as usize)) {
            let first = number * unit;
            let mut held = false;
            let mut block = ChangedBlock { number, pages: [0; 5], inodes: vec![], again: 0, new: 0 };
            let mut differs = false;
            for (page, &now) in (first..).zip(pages) {
                let live = used[page as usize];
                changes.live += u64::from(live);
                changes.dead += u64::from(!live && now != PageHash::ZERO);
                held |= live || now != PageHash::ZERO;
                if old.pages.get(page as usize).copied().unwrap_or_default() == now {
                    block.again += u32::from(live);
                    continue;
                }
                differs = true;
                if !live && now == PageHash::ZERO {
                    continue;
                }
                let (cause, inode) = cause(new, &owners, page);
                let at = Cause::ALL.iter().position(|each| *each == cause).expect("ALL has all");
                block.pages[at] += 1;
                block.new += u32::from(cause == Cause::Data && !had.contains(&now));
                if let Some(inode) = inode {
                    match block.inodes.last_mut() {
                        Some((last, pages)) if *last == inode => *pages += 1,
                        _ => block.inodes.push((inode, 1)),
                    }
                }
            }
            changes.held += if held { pages.len() as u64 } else { 0 };
            changes.new += u64::from(block.new);
            if differs {
                changes.blocks.push(block);
            }
        }
        changes
    }

    /// Share of the pages in blocks that hold anything that are in use: 1 for an image without dead space.
    pub fn in_use(&self) -> f64 {
        if self.held == 0 { 1.0 } else { self.live as f64 / self.held as f64 }
    }
}

/// Place in [`LayoutMap::inodes`] of the inode that has a page, and one more; 0 for none.
fn owners(map: &LayoutMap) -> Vec<u32> {
    let mut owners = vec![0; map.geometry.blocks as usize];
    for (mapped, number) in map.inodes.iter().zip(1..) {
        let data = mapped.data.iter().flat_map(|run| run.physical..run.physical + run.count);
        for page in data.chain(mapped.indirect.iter().copied()) {
            if let Some(owner) = owners.get_mut(page as usize) {
                *owner = number;
            }
        }
    }
    owners
}

/// What a page in use is, and whose.
fn cause(map: &LayoutMap, owners: &[u32], page: u32) -> (Cause, Option<usize>) {
    let geometry = map.geometry;
    if geometry.data_from(page).is_none_or(|(start, _)| start != page) {
        let descriptor = geometry.descriptor(page / BLOCKS_PER_GROUP);
        return match page {
            page if page >= descriptor.bg_inode_table => (Cause::Inodes, None),
            page if page >= descriptor.bg_block_bitmap => (Cause::Bitmaps, None),
            _ => (Cause::Superblock, None),
        };
    }
    match owners[page as usize].checked_sub(1).map(|owner| owner as usize) {
        Some(owner) if matches!(map.inodes[owner].kind, MappedKind::Directory(_)) => {
            (Cause::Directories, Some(owner))
        }
        owner => (Cause::Data, owner),
    }
}
