//! Contents page by page: the names by which a layout knows what lies where.
//!
//! A page is a block of 4 KiB of the image. What decides whether a page may stay where it lies, whether one that
//! was freed is wanted again, and whether a block of the disk has changed at all, is its [`PageHash`].

use std::fmt;
use std::ops::Range;

use super::demand::file_runs;
use super::geometry::BLOCK;
use super::layout::{Mapped, MappedKind, PreviousLayout};
use super::ondisk::FAST_SYMLINK;
use super::shown;
use super::writer::WriteError;
use crate::parallel::{cores, each};
use crate::tree::{Content, Contents, Kind, NodeId, Tree};

/// Bytes of a page, for slices.
const PAGE: usize = BLOCK as usize;

/// Pages that one thread reads at once, and that have one sum: 1 MiB.
const PIECE: u32 = 256;

/// The sum of what is known page by page alone.
const UNKNOWN: PageHash = PageHash::ZERO;

/// A file of fewer pages has no sums: to hash its pages takes no longer.
const SUMMED: usize = 8;

/// The first 80 bits of the BLAKE3 of a page, or [`PageHash::ZERO`] for a page of zeros.
///
/// It decides what is taken for unchanged, so it must not fail by accident nor by a stranger's will. Among 2^20
/// pages of an update and 2^20 old ones an accident has odds of 1 in 2^40. Who wants page B of somebody else to be
/// taken for page A needs a second preimage: 2^80 tries, less the number of pages that would do. (Two pages of
/// one's own can be made to collide in 2^40; that harms one's own file, which one could have shipped broken.)
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageHash(pub [u8; PageHash::LEN]);

impl PageHash {
    /// The length of a page hash in bytes.
    pub const LEN: usize = 10;

    /// That of zeros, whose own BLAKE3 it is not.
    pub const ZERO: PageHash = PageHash([0; PageHash::LEN]);

    /// Of the bytes of one page.
    pub fn of(page: &[u8]) -> Self {
        static ZEROS: [u8; PAGE] = [0; PAGE];
        if page == &ZEROS[..page.len().min(PAGE)] {
            return PageHash::ZERO;
        }
        PageHash::of_any(page)
    }

    /// Of some bytes, whatever they are.
    fn of_any(bytes: &[u8]) -> Self {
        let mut first = [0; PageHash::LEN];
        first.copy_from_slice(&blake3::hash(bytes).as_bytes()[..PageHash::LEN]);
        PageHash(first)
    }
}

impl fmt::Display for PageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How many sums a file has: one for each MiB of it, the last perhaps shorter. None if it is small or has holes.
pub(super) fn sums_of(len: u64, pages: u64) -> usize {
    let summed = pages >= SUMMED as u64 && pages == len.div_ceil(BLOCK.into());
    let sums = if summed { pages.div_ceil(PIECE.into()) } else { 0 };
    usize::try_from(sums).unwrap_or(usize::MAX)
}

/// The hashes of all pages of a tree's files and long symlinks.
///
/// Large files have a hash of each MiB besides, its *sum*: what has the sum that it had before has the pages that it
/// had, and one hash of a MiB takes less than half the time of 256 of pages. One whose first page an update has changed
/// has none: it is likely to change again, and then both would be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Where each node's hashes and sums are, by [`NodeId::index`].
    nodes: Vec<HashRanges>,
    hashes: Vec<PageHash>,
    sums: Vec<PageHash>,
}

/// Where a node's hashes and sums are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HashRanges {
    hashes: Range<usize>,
    sums: Range<usize>,
}

/// Some pages of a file that one thread reads.
struct PageBatch<'t> {
    content: &'t Content,
    /// A node, for messages.
    node: usize,
    /// Pages of the file.
    logical: Range<u32>,
    /// Where their hashes belong.
    at: usize,
    /// Where their sum belongs, if they have one.
    sum: Option<usize>,
    /// The sum that the file had there, whose pages are expected where their hashes belong.
    before: Option<PageHash>,
}

impl Pages {
    /// Reads every file of `tree` once, on all cores. `previous` spares work, as files are the same at the same paths:
    /// nothing is taken from it but the hashes of pages whose sum is found to be the same. `read` is told of bytes as
    /// they are done.
    ///
    /// # Errors
    /// [`WriteError::Contents`] for a file that can't be read.
    pub fn read(
        tree: &Tree,
        contents: &dyn Contents,
        previous: Option<&PreviousLayout<'_>>,
        read: &(dyn Fn(u64) + Sync),
    ) -> Result<Self, WriteError> {
        let (mut pages, mut pieces) = Pages::empty(tree);
        if let Some(previous) = previous {
            pages.expect(&mut pieces, tree, previous);
        }
        let hash = |bytes: &mut Vec<u8>, nth: usize| {
            let PageBatch { content, node, logical, at, sum, before } = &pieces[nth];
            let part = &mut bytes[..logical.len() * PAGE];
            let done = content.read_at(contents, u64::from(logical.start) * u64::from(BLOCK), part);
            done.map_err(|error| (*node, error))?;
            read(part.len() as u64);
            let hashes = || part.chunks_exact(PAGE).map(PageHash::of).collect::<Vec<_>>();
            let whole = || PageHash::of_any(part);
            Ok(match before {
                None => (sum.map(|_| whole()), Some(hashes())),
                Some(UNKNOWN) => (Some(UNKNOWN), Some(hashes())),
                Some(_) if PageHash::of(&part[..PAGE]) != pages.hashes[*at] => {
                    (Some(UNKNOWN), Some(hashes()))
                }
                Some(before) => {
                    let sum = whole();
                    (Some(sum), (sum != *before).then(hashes))
                }
            })
        };
        let done = each(pieces.len(), cores(), || vec![0; PIECE as usize * PAGE], hash);
        let done = done.map_err(|(node, source)| {
            let path = tree.walk().find(|(_, id)| id.index() == node).map_or_else(Vec::new, |(path, _)| path);
            WriteError::Contents { path: shown(&path), source }
        })?;
        for (piece, (sum, hashes)) in pieces.into_iter().zip(done) {
            if let Some((at, sum)) = piece.sum.zip(sum) {
                pages.sums[at] = sum;
            }
            if let Some(hashes) = hashes {
                pages.hashes[piece.at..piece.at + hashes.len()].copy_from_slice(&hashes);
            }
        }
        Ok(pages)
    }

    /// Room for the hashes of all that `tree` holds, with those of symlinks in it, and the pieces to be read for the
    /// rest.
    fn empty(tree: &Tree) -> (Self, Vec<PageBatch<'_>>) {
        let mut pages = Pages::default();
        let mut pieces = vec![];
        let (mut count, mut sums) = (0, 0);
        for (nth, node) in tree.nodes().iter().enumerate() {
            let (from, sums_from) = (count, sums);
            match &node.kind {
                Kind::File(content) => {
                    let runs = file_runs(content);
                    let all = runs.iter().map(|run| u64::from(run.end - run.start)).sum();
                    let summed = sums_of(content.len, all) > 0;
                    for logical in runs.into_iter().flat_map(pieces_of) {
                        let (at, sum) = (count, summed.then_some(sums));
                        count += logical.len();
                        sums += usize::from(summed);
                        pieces.push(PageBatch { content, node: nth, logical, at, sum, before: None });
                    }
                }
                Kind::Symlink(target) if target.len() >= FAST_SYMLINK => count += 1,
                _ => {}
            }
            pages.nodes.push(HashRanges { hashes: from..count, sums: sums_from..sums });
        }
        pages.hashes.resize(count, PageHash::ZERO);
        pages.sums.resize(sums, PageHash::ZERO);
        pages.link(tree);
        (pages, pieces)
    }

    /// Hashes what symlinks hold.
    fn link(&mut self, tree: &Tree) {
        for (node, held) in tree.nodes().iter().zip(&self.nodes) {
            if let Kind::Symlink(target) = &node.kind
                && !held.hashes.is_empty()
            {
                let mut page = [0; PAGE];
                // A longer one is refused when the demand is made.
                let len = target.len().min(PAGE);
                page[..len].copy_from_slice(&target[..len]);
                self.hashes[held.hashes.start] = PageHash::of(&page);
            }
        }
    }

    /// Puts what the file at a piece's path had there where the hashes of the piece belong, and tells the piece its sum.
    fn expect(&mut self, pieces: &mut [PageBatch<'_>], tree: &Tree, previous: &PreviousLayout<'_>) {
        let mut old: Vec<Option<&Mapped>> = vec![None; self.nodes.len()];
        for (id, place) in previous.at_paths_of(tree) {
            let (held, old) = (&self.nodes[id.index()], &mut old[id.index()]);
            if held.sums.is_empty() || old.is_some() {
                continue;
            }
            let mapped = old.insert(&previous.inodes[place]);
            let hashes = &mut self.hashes[held.hashes.clone()];
            hashes.iter_mut().zip(previous.held(mapped)).for_each(|(hash, held)| *hash = held);
        }
        for piece in pieces {
            let (Some(sum), Some(mapped)) = (piece.sum, old[piece.node]) else { continue };
            let HashRanges { hashes, sums } = &self.nodes[piece.node];
            let had: usize = mapped.data.iter().map(|run| run.count as usize).sum();
            let is_file = matches!(mapped.kind, MappedKind::File(_));
            if is_file && piece.at - hashes.start + piece.logical.len() <= had {
                piece.before = mapped.sums.get(sum - sums.start).copied();
            }
        }
    }

    /// The pages of a node that are not holes, in their order. None for what has no pages.
    pub fn of(&self, node: NodeId) -> &[PageHash] {
        self.nodes.get(node.index()).map_or(&[], |held| &self.hashes[held.hashes.clone()])
    }

    /// The sums of a node: of each MiB, the last page filled up with zeros; zeros where it is not known.
    pub fn sums(&self, node: NodeId) -> &[PageHash] {
        self.nodes.get(node.index()).map_or(&[], |held| &self.sums[held.sums.clone()])
    }
}

/// The pages of a run, as many at once as one thread reads.
fn pieces_of(run: Range<u32>) -> impl Iterator<Item = Range<u32>> {
    let end = run.end;
    run.step_by(PIECE as usize).map(move |first| first..end.min(first.saturating_add(PIECE)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{ContentSource, Extent, Meta, Node, SpoolId};

    #[test]
    fn a_page_is_named_by_the_start_of_its_blake3_and_zeros_by_zeros() {
        // b3sum of 4,096 bytes `a`.
        assert_eq!(PageHash::of(&[b'a'; PAGE]).to_string(), "cf657d3fd42311a258af");
        assert_eq!(PageHash::of(&[0; PAGE]), PageHash::ZERO);
    }

    #[test]
    fn every_page_that_is_no_hole_has_its_hash_in_order() {
        let spool: Vec<u8> =
            (0..3 * PIECE as usize * PAGE).map(|at| u8::try_from(at / PAGE % 251).unwrap()).collect();
        let long = spool.len() as u64;
        let extent =
            |at, len, offset| Extent { at, len, source: ContentSource::Spool { spool: SpoolId(0), offset } };
        let mut tree = Tree::new(Meta::default());
        let mut file = |name: &[u8], len, extents| {
            let kind = Kind::File(Content { len, extents });
            tree.insert(name, Node { meta: Meta::default(), kind }).unwrap()
        };
        let big = file(b"big", long, vec![extent(0, long, 0)]);
        let holes =
            file(b"holes", 20 * 4096, vec![extent(4096, 10, 4096), extent(16 * 4096, 4096, 5 * 4096)]);
        let empty = file(b"empty", 0, vec![]);
        let link = vec![b'x'; 70];
        let link = tree.insert(b"link", Node { meta: Meta::default(), kind: Kind::Symlink(link) }).unwrap();

        let pages = Pages::read(&tree, &vec![spool.clone()], None, &|_| {}).unwrap();
        let expected: Vec<_> = spool.chunks(PAGE).map(PageHash::of).collect();
        assert!(pages.of(big) == expected);
        let mut short = [0; PAGE];
        short[..10].fill(1);
        assert_eq!(pages.of(holes), [PageHash::of(&short), PageHash::of(&[5; PAGE])]);
        assert_eq!(pages.of(empty), []);
        let mut target = [0; PAGE];
        target[..70].fill(b'x');
        assert_eq!(pages.of(link), [PageHash::of(&target)]);

        let failed = Pages::read(&tree, &vec![vec![0; 100]], None, &|_| {}).unwrap_err();
        assert!(failed.to_string().starts_with("/big: can't read its contents"), "{failed}");
    }
}
