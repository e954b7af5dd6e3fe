//! The layout of an update: what did not change stays where it is, byte for byte.
//!
//! # The rule
//!
//! A page that keeps its place costs nothing. A page that changes costs its whole block of the disk (64 pages), so
//! what is new goes where everything is new: into blocks of which nothing is in use, packed. Only metadata is
//! changed in place, as its place is given: inodes, bitmaps, directories. Freed pages are left as they are; they
//! are a store out of which new files take what they need, where it lies. docs/layout.md has the cost model.

mod entries;
mod inode_numbers;
mod page_space;

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use self::inode_numbers::InodeNumbers;
use self::page_space::{PageSpace, SpaceRequest};
use super::map::{MappedKind, PreviousLayout};
use super::order::positions;
use super::{Allocator, PlaceError, PlacedInode, Placement};
use crate::ext2::blockmap::{BlockMap, Indirect, Run, needed};
use crate::ext2::demand::{Body, Demand, InodeOrigin};
use crate::ext2::geometry::{BLOCK, BLOCKS_PER_GROUP};
use crate::ext2::pages::{PageHash, Pages};
use crate::ext2::xattr;

/// Keeps the positions of the layout before.
#[derive(Debug)]
pub struct IncrementalAllocator<'a> {
    pub previous: &'a PreviousLayout<'a>,
    /// What the tree's files hold.
    pub pages: &'a Pages,
    /// Pages of a block of the disk, e.g. 64 for 256 KiB.
    pub unit: u32,
    /// Fewest freed pages that lie together to be used again where they lie. Shorter runs save less than they cost
    /// who reads the file, a block to fetch for each run, unless the file has other pages in that block.
    pub least_run: u32,
}

/// A page that has no place yet.
const NOWHERE: u32 = 0;

impl Allocator for IncrementalAllocator<'_> {
    fn place(&mut self, demand: &Demand<'_>) -> Result<Placement, PlaceError> {
        if self.previous.geometry.inode_size != demand.options.inode_size {
            return Err(PlaceError::Relayout { why: "its inodes have another size" });
        }
        let numbers = InodeNumbers::choose(demand, self.previous, self.pages, self.unit);
        let mut work = IncrementalUpdate::new(self, demand, &numbers);
        work.directories();
        work.keep();
        let touched = work.touched();
        work.reuse();
        work.keep_indirect();
        work.place_new(touched)?;
        Ok(work.finish())
    }
}

/// Pages of an inode.
#[derive(Default)]
struct PlacedFile<'a> {
    /// Which blocks of it they are, ascending.
    runs: Cow<'a, [Range<u32>]>,
    /// Where each of them is.
    at: Vec<u32>,
    /// Indirect blocks and where they are.
    indirect: Vec<(Indirect, u32)>,
}

impl PlacedFile<'_> {
    /// How many pages lie before a block of the inode.
    fn before(&self, logical: u32) -> usize {
        let count = |run: &Range<u32>| (run.end.min(logical).saturating_sub(run.start)) as usize;
        self.runs.iter().map(count).sum()
    }

    /// Pages that follow each other in file and image, as runs. Those that have no place are left out.
    fn placed(&self) -> Vec<Run> {
        let mut placed: Vec<Run> = vec![];
        for (logical, &physical) in logical(&self.runs).zip(&self.at).filter(|(_, at)| **at != NOWHERE) {
            match placed.last_mut() {
                Some(run) if run.logical_end() == logical && run.physical + run.count == physical => {
                    run.count += 1;
                }
                _ => placed.push(Run { logical, physical, count: 1 }),
            }
        }
        placed
    }
}

/// Which block of an inode each of its pages is.
fn logical(runs: &[Range<u32>]) -> impl Iterator<Item = u32> + '_ {
    runs.iter().cloned().flatten()
}

struct IncrementalUpdate<'a> {
    allocator: &'a IncrementalAllocator<'a>,
    demand: &'a Demand<'a>,
    numbers: &'a InodeNumbers,
    space: PageSpace,
    slots: Vec<Vec<Vec<crate::ext2::dirent::DirentSlot>>>,
    pieces: Vec<PlacedFile<'a>>,
    xattr_blocks: Vec<u32>,
    /// Positions in the order in which new pages are placed.
    order: Vec<usize>,
}

impl<'a> IncrementalUpdate<'a> {
    fn new(
        allocator: &'a IncrementalAllocator<'a>,
        demand: &'a Demand<'a>,
        numbers: &'a InodeNumbers,
    ) -> Self {
        IncrementalUpdate {
            allocator,
            demand,
            numbers,
            space: PageSpace::new(allocator.previous.geometry, allocator.unit),
            slots: vec![],
            pieces: vec![],
            xattr_blocks: vec![NOWHERE; demand.xattr_blocks.len()],
            order: positions(demand),
        }
    }

    fn old(&self, position: usize) -> Option<&'a super::map::Mapped> {
        self.numbers.old[position].map(|old| &self.allocator.previous.inodes[old])
    }

    /// What a page of the previous image holds.
    fn held(&self, page: u32) -> PageHash {
        self.allocator.previous.pages.get(page as usize).copied().unwrap_or_default()
    }

    /// What the pages of a wanted inode are to hold; nothing for a directory.
    fn hashes(&self, position: usize) -> &'a [PageHash] {
        match self.demand.wanted[position].origin {
            InodeOrigin::Node(node) => self.allocator.pages.of(node),
            InodeOrigin::LostFound => &[],
        }
    }

    /// Places directory entries, and with them says how many blocks directories have.
    fn directories(&mut self) {
        for (position, wanted) in self.demand.wanted.iter().enumerate() {
            let mut slots = vec![];
            let runs: Cow<'a, [Range<u32>]> = match &wanted.body {
                Body::None => Cow::default(),
                Body::Blocks(runs) => runs.into(),
                Body::Directory { entries, blocks } => {
                    let old: &[_] = match self.old(position).map(|old| &old.kind) {
                        Some(MappedKind::Directory(old)) => old,
                        _ => &[],
                    };
                    slots = entries::keep(old, entries, *blocks as usize);
                    vec![0..u32::try_from(slots.len()).expect("2^29 entries of 264 bytes at most")].into()
                }
            };
            let indirect = needed(&runs).into_iter().map(|indirect| (indirect, NOWHERE)).collect();
            let at = vec![NOWHERE; runs.iter().map(Range::len).sum()];
            self.pieces.push(PlacedFile { runs, at, indirect });
            self.slots.push(slots);
        }
    }

    /// Leaves in place what was there: directories, and pages of files that hold what they held.
    fn keep(&mut self) {
        for position in 0..self.demand.wanted.len() {
            let Some(old) = self.old(position) else { continue };
            let hashes = self.hashes(position);
            let is_directory = matches!(self.demand.wanted[position].body, Body::Directory { .. });
            let mut runs = old.data.iter().peekable();
            let mut pieces = std::mem::take(&mut self.pieces[position]);
            for (nth, (logical, at)) in logical(&pieces.runs).zip(&mut pieces.at).enumerate() {
                while runs.peek().is_some_and(|run| run.logical_end() <= logical) {
                    runs.next();
                }
                let Some(run) = runs.peek().filter(|run| run.logical <= logical) else { continue };
                let page = run.physical + (logical - run.logical);
                let same = is_directory || hashes.get(nth) == Some(&self.held(page));
                if same && self.space.take(page) {
                    *at = page;
                }
            }
            self.pieces[position] = pieces;
        }
    }

    /// Groups from which pages were freed.
    fn touched(&self) -> Vec<bool> {
        let geometry = self.allocator.previous.geometry;
        let mut touched = vec![false; geometry.groups() as usize];
        for (page, used) in (0..).zip(self.allocator.previous.in_use()) {
            if used && self.space.is_free(page) {
                touched[(page / BLOCKS_PER_GROUP) as usize] = true;
            }
        }
        touched
    }

    /// Finds pages among those that were freed, now or earlier, and takes them where they lie.
    fn reuse(&mut self) {
        let pages = (0..self.allocator.previous.geometry.blocks).zip(&self.allocator.previous.pages);
        let freed = pages.filter(|(page, hash)| **hash != PageHash::ZERO && self.space.is_free(*page));
        let mut pool = Pool::new(freed.map(|(page, hash)| (*hash, page)).collect());
        for (nth, block) in self.demand.xattr_blocks.iter().enumerate() {
            let mut page = vec![0; BLOCK as usize];
            xattr::encode_block(&block.attrs, block.refcount, &mut page);
            if let Some(page) = pool.first_free(PageHash::of(&page), &self.space) {
                self.space.take(page);
                self.xattr_blocks[nth] = page;
            }
        }
        for position in self.order.clone() {
            let hashes = self.hashes(position);
            let mut pieces = std::mem::take(&mut self.pieces[position]);
            if pieces.at.contains(&NOWHERE) && hashes.len() == pieces.at.len() {
                self.reuse_for(&mut pieces.at, hashes, &mut pool);
            }
            self.pieces[position] = pieces;
        }
    }

    fn reuse_for(&mut self, at: &mut [u32], hashes: &[PageHash], pool: &mut Pool) {
        let unit = self.allocator.unit;
        // Blocks of the disk that are read for this file anyway.
        let mut read: HashSet<u32> = at.iter().filter(|at| **at != NOWHERE).map(|at| at / unit).collect();
        let mut nth = 0;
        while nth < at.len() {
            if at[nth] != NOWHERE {
                nth += 1;
                continue;
            }
            // After the page before it, if that one holds it; otherwise where it is found first.
            let next = nth.checked_sub(1).map(|before| at[before]).filter(|&before| before != NOWHERE);
            let next = next.map(|before| before + 1).filter(|&page| self.wanted(page, hashes[nth]));
            let (found, follows) = match next {
                Some(page) => (Some(page), true),
                None => (pool.first_free(hashes[nth], &self.space), false),
            };
            let Some(first) = found else {
                nth += 1;
                continue;
            };
            let run = (0..)
                .zip(&hashes[nth..])
                .zip(&at[nth..])
                .take_while(|((more, hash), at)| **at == NOWHERE && self.wanted(first + more, **hash))
                .count();
            let whole = run == at.len();
            let read_anyway = (first..).take(run).all(|page| read.contains(&(page / unit)));
            if follows || whole || read_anyway || run >= self.allocator.least_run as usize {
                for (page, at) in (first..).zip(&mut at[nth..nth + run]) {
                    self.space.take(page);
                    read.insert(page / unit);
                    *at = page;
                }
            }
            nth += run.max(1);
        }
    }

    fn wanted(&self, page: u32, hash: PageHash) -> bool {
        hash != PageHash::ZERO && self.space.is_free(page) && self.held(page) == hash
    }

    /// Leaves indirect blocks in place that hold what they held. Others go along with the data that moved: to
    /// change them where they are would cost a block of the disk each.
    fn keep_indirect(&mut self) {
        for position in 0..self.demand.wanted.len() {
            let Some(old) = self.old(position) else { continue };
            if self.pieces[position].indirect.is_empty() || old.indirect.is_empty() {
                continue;
            }
            let before = old.map();
            let pieces = &self.pieces[position];
            let mut now = BlockMap { data: pieces.placed(), indirect: pieces.indirect.clone() };
            let (mut was, mut is) = (vec![0; BLOCK as usize], vec![0; BLOCK as usize]);
            // From the leaves up: what points to a block that moves changes too.
            for level in 1..=3 {
                for nth in 0..now.indirect.len() {
                    let (indirect, _) = now.indirect[nth];
                    let Some(&(_, page)) = before.indirect.iter().find(|(other, _)| *other == indirect)
                    else {
                        continue;
                    };
                    if indirect.level != level {
                        continue;
                    }
                    was.fill(0);
                    is.fill(0);
                    before.fill_indirect(indirect, &mut was);
                    now.fill_indirect(indirect, &mut is);
                    if was == is && self.is_complete(&now, indirect, position) && self.space.take(page) {
                        now.indirect[nth].1 = page;
                    }
                }
            }
            self.pieces[position].indirect = now.indirect;
        }
    }

    /// Whether all that an indirect block points to has its place.
    fn is_complete(&self, map: &BlockMap, indirect: Indirect, position: usize) -> bool {
        let covered = indirect.first..indirect.first.saturating_add(indirect.covers());
        if indirect.level > 1 {
            let below = map.indirect.iter().filter(|(below, _)| covered.contains(&below.first));
            return below.into_iter().all(|(below, at)| below.level + 1 != indirect.level || *at != NOWHERE);
        }
        let pieces = &self.pieces[position];
        !pieces.at[pieces.before(covered.start)..pieces.before(covered.end)].contains(&NOWHERE)
    }

    /// Places all that has no place yet.
    fn place_new(&mut self, touched: Vec<bool>) -> Result<(), PlaceError> {
        self.place_new_directories();
        let nowhere = |at: &&u32| **at == NOWHERE;
        let pages: usize = self
            .pieces
            .iter()
            .map(|pieces| {
                let indirect = pieces.indirect.iter().filter(|(_, at)| *at == NOWHERE).count();
                pieces.at.iter().filter(nowhere).count() + indirect
            })
            .sum();
        let xattrs = self.xattr_blocks.iter().filter(nowhere).count();
        let options = &self.demand.options;
        let room = SpaceRequest {
            pages: u32::try_from(pages + xattrs).unwrap_or(u32::MAX),
            free: options.free.div_ceil(BLOCK.into()),
            minimum: options.minimum.div_ceil(BLOCK.into()),
            inodes: self.numbers.ino.iter().copied().max().unwrap_or(0),
            touched,
        };
        let found = self.space.find(&room)?;
        let mut fresh = found.into_iter().flatten();
        let space = &mut self.space;
        let mut next = || {
            let page = fresh.next().expect("room was found for all pages");
            let taken = space.take(page);
            debug_assert!(taken, "room is free");
            page
        };
        let mut fill = |pieces: &mut PlacedFile| {
            pieces.indirect.iter_mut().filter(|(_, at)| *at == NOWHERE).for_each(|(_, at)| *at = next());
            pieces.at.iter_mut().filter(|at| **at == NOWHERE).for_each(|at| *at = next());
        };
        for &position in &self.order {
            fill(&mut self.pieces[position]);
        }
        self.xattr_blocks.iter_mut().filter(|at| **at == NOWHERE).for_each(|at| *at = next());
        Ok(())
    }

    /// New blocks of directories go beside directories that change anyway.
    fn place_new_directories(&mut self) {
        let unit = self.allocator.unit;
        let mut blocks: Vec<u32> = (0..self.demand.wanted.len())
            .filter(|&position| self.is_directory(position) && self.directory_changes(position))
            .flat_map(|position| {
                self.pieces[position].at.iter().filter(|at| **at != NOWHERE).map(|at| at / unit)
            })
            .collect();
        blocks.sort_unstable();
        blocks.dedup();
        let mut free =
            blocks.into_iter().flat_map(|block| self.space.free_in(block)).collect::<Vec<_>>().into_iter();
        for position in self.order.clone() {
            if !self.is_directory(position) {
                continue;
            }
            for at in self.pieces[position].at.iter_mut().filter(|at| **at == NOWHERE) {
                let Some(page) = free.next() else { return };
                self.space.take(page);
                *at = page;
            }
        }
    }

    fn is_directory(&self, position: usize) -> bool {
        matches!(self.demand.wanted[position].body, Body::Directory { .. })
    }

    /// Whether some entry of a directory that was there has gone, come, moved, or another inode.
    fn directory_changes(&self, position: usize) -> bool {
        let (Some(old), Body::Directory { entries, .. }) =
            (self.old(position), &self.demand.wanted[position].body)
        else {
            return true;
        };
        let now = self.slots[position].iter().flatten().map(|slot| {
            let entry = &entries[slot.entry as usize];
            (slot.offset, self.numbers.ino[entry.target], entry.name)
        });
        !old.entries().map(|entry| (entry.offset, entry.ino, &entry.name[..])).eq(now)
    }

    fn finish(self) -> Placement {
        let placed =
            self.pieces.into_iter().zip(self.slots).zip(&self.numbers.ino).map(|((pieces, slots), &ino)| {
                let data = pieces.placed();
                let indirect = pieces.indirect.into_iter().map(|(_, at)| at).collect();
                PlacedInode { ino, data, indirect, slots }
            });
        Placement { geometry: self.space.geometry, inodes: placed.collect(), xattr_blocks: self.xattr_blocks }
    }
}

/// Freed pages by what they hold. What is taken stays taken.
struct Pool {
    /// In ascending order of hashes.
    pages: Vec<(PageHash, u32)>,
    /// By the first two bytes of a hash: where those of its kind begin, and at the end how many pages there are.
    begin: Vec<u32>,
    /// By the place of the first page of a hash: how many of them are known to be taken.
    taken: Vec<u32>,
}

impl Pool {
    fn new(mut pages: Vec<(PageHash, u32)>) -> Self {
        pages.sort_unstable();
        let mut begin = vec![0; KINDS + 1];
        pages.iter().for_each(|(hash, _)| begin[kind(*hash) + 1] += 1);
        for at in 0..KINDS {
            begin[at + 1] += begin[at];
        }
        Pool { taken: vec![0; pages.len()], begin, pages }
    }

    /// The first page of the image that holds this and is free.
    fn first_free(&mut self, hash: PageHash, space: &PageSpace) -> Option<u32> {
        let [from, to] = [0, 1].map(|more| self.begin[kind(hash) + more] as usize);
        let pages = &self.pages[from..to];
        let before = pages.partition_point(|(held, _)| *held < hash);
        let held = pages[before..].iter().take_while(|(held, _)| *held == hash);
        let taken = self.taken.get_mut(from + before)?;
        let mut left = held.skip(*taken as usize).map(|(_, page)| *page);
        left.find(|&page| {
            let is_free = space.is_free(page);
            *taken += u32::from(!is_free);
            is_free
        })
    }
}

/// How many kinds of hashes there are for [`Pool::begin`].
const KINDS: usize = 1 << 16;

fn kind(hash: PageHash) -> usize {
    usize::from(u16::from_be_bytes([hash.0[0], hash.0[1]]))
}
