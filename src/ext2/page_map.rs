//! What each page of a planned image holds, and so which blocks of the disk an update changes.

use super::demand::InodeOrigin;
use super::geometry::BLOCK;
use super::layout::LayoutMap;
use super::pages::{PageHash, Pages};
use super::plan::{ImagePlan, RunContents};
use super::writer::{PlannedImage, WriteError};
use crate::parallel::{cores, each};
use crate::tree::{Contents, Kind};

/// What each page of a planned image holds. Pages that nothing uses may hold anything.
#[derive(Clone, Debug)]
pub struct PageMap {
    /// By page of the image; zeros for those that are free.
    pages: Vec<PageHash>,
    /// Whether a page is in use.
    live: Vec<bool>,
}

impl PageMap {
    /// The map of a planned image. Metadata is rendered; files are known from `pages`.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn take(plan: &ImagePlan<'_>, contents: &dyn Contents, pages: &Pages) -> Result<Self, WriteError> {
        let geometry = plan.geometry();
        let mut map = PageMap {
            pages: vec![PageHash::ZERO; geometry.blocks as usize],
            live: vec![false; geometry.blocks as usize],
        };
        let image = PlannedImage::new(plan, contents);
        let page = || vec![0; BLOCK as usize];
        let rendered = |page: &mut Vec<u8>, at: u32| {
            image.fill(at, page)?;
            Ok::<_, WriteError>(PageHash::of(page))
        };
        let group = |page: &mut Vec<u8>, group: usize| {
            let group = u32::try_from(group).expect("a number of a group");
            let (start, count) = (geometry.start(group), geometry.overhead(group));
            let hashes = (start..start + count).map(|at| rendered(page, at));
            Ok((start, hashes.collect::<Result<Vec<_>, WriteError>>()?))
        };
        for (start, hashes) in each(geometry.groups() as usize, cores(), page, group)? {
            (start..).zip(hashes).for_each(|(at, hash)| map.set(at, hash));
        }
        let mut page = page();
        let mut render = |map: &mut PageMap, at: u32| {
            map.set(at, rendered(&mut page, at)?);
            Ok::<_, WriteError>(())
        };
        for (wanted, blocks_of) in plan.demand.wanted.iter().zip(&plan.maps) {
            let hashes: &[PageHash] = match wanted.origin {
                InodeOrigin::Node(node)
                    if !matches!(plan.demand.tree.node(node).kind, Kind::Directory(_)) =>
                {
                    pages.of(node)
                }
                _ => &[],
            };
            let blocks = blocks_of.data.iter().flat_map(|run| run.physical..run.physical + run.count);
            if hashes.len() == blocks_of.data.iter().map(|run| run.count as usize).sum::<usize>() {
                for (at, hash) in blocks.zip(hashes) {
                    map.set(at, *hash);
                }
            } else {
                for at in blocks {
                    render(&mut map, at)?;
                }
            }
        }
        for used in &plan.used {
            if let RunContents::Indirect { .. } | RunContents::Xattrs { .. } = used.piece {
                for at in used.start..used.end() {
                    render(&mut map, at)?;
                }
            }
        }
        Ok(map)
    }

    fn set(&mut self, at: u32, hash: PageHash) {
        self.pages[at as usize] = hash;
        self.live[at as usize] = true;
    }

    /// The number of pages in use.
    pub fn live(&self) -> u64 {
        self.live.iter().filter(|live| **live).count() as u64
    }

    /// Whether a page is in use.
    pub fn is_live(&self, page: u32) -> bool {
        self.live[page as usize]
    }

    /// What a page holds.
    pub fn page(&self, page: u32) -> PageHash {
        self.pages[page as usize]
    }

    /// Whether a page is in use and differs from the previous image's.
    pub fn differs(&self, page: u32, previous: &LayoutMap) -> bool {
        let before = previous.pages.get(page as usize).copied().unwrap_or_default();
        self.live[page as usize] && self.pages[page as usize] != before
    }

    /// For each block of `unit` pages of the disk, whether it must be made anew. One that has every page in use as
    /// the previous image had it is the previous one, bytes that nothing uses included.
    pub fn changed(&self, previous: &LayoutMap, unit: u32) -> Vec<bool> {
        let blocks = u32::try_from(self.pages.len()).expect("2^29 at most");
        let last = |blocks: u32| blocks - (blocks % unit);
        (0..blocks)
            .step_by(unit as usize)
            .map(|first| {
                let end = first.saturating_add(unit).min(blocks);
                // The last block of a disk may be shorter; it can't become a longer one.
                let other_length = previous.geometry.blocks != blocks
                    && (first == last(blocks) && !blocks.is_multiple_of(unit)
                        || first == last(previous.geometry.blocks)
                            && !previous.geometry.blocks.is_multiple_of(unit));
                other_length || (first..end).any(|page| self.differs(page, previous))
            })
            .collect()
    }

    /// For each block of `unit` pages of the disk, whether the previous image has something in it that nothing uses.
    pub fn freed(&self, previous: &LayoutMap, unit: u32) -> Vec<bool> {
        let freed: Vec<bool> = previous
            .pages
            .iter()
            .zip(&self.live)
            .map(|(before, live)| !live && *before != PageHash::ZERO)
            .collect();
        let unit = unit as usize;
        let block = |first| freed.iter().skip(first).take(unit).any(|freed| *freed);
        (0..self.pages.len()).step_by(unit).map(block).collect()
    }

    /// What each page holds when the blocks of `changed` have been made anew, with zeros where nothing is in use,
    /// and the others left.
    pub fn after(self, previous: &LayoutMap, changed: &[bool], unit: u32) -> Vec<PageHash> {
        let mut pages = self.pages;
        for (block, part) in pages.chunks_mut(unit as usize).enumerate() {
            if !changed[block] {
                let first = block * unit as usize;
                for (page, before) in part.iter_mut().zip(previous.pages.iter().skip(first)) {
                    *page = *before;
                }
            }
        }
        pages
    }

    /// What each page holds when all of the image has been made anew.
    pub fn into_pages(self) -> Vec<PageHash> {
        self.pages
    }
}
