//! Contents page by page: the names by which a layout knows what lies where.
//!
//! A page is a block of 4 KiB of the image. What decides whether a page may stay where it lies, whether one that
//! was freed is wanted again, and whether a block of the disk has changed at all, is its [`PageHash`].

use std::fmt;
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::demand::file_runs;
use super::geometry::BLOCK;
use super::ondisk::FAST_SYMLINK;
use super::shown;
use super::writer::WriteError;
use crate::parallel::{cores, each};
use crate::tree::{Content, Contents, Kind, NodeId, Tree};

/// Bytes of a page, for slices.
const PAGE: usize = BLOCK as usize;

/// Pages that one thread reads at once: 1 MiB.
const PIECE: u32 = 256;

/// The first 80 bits of the SHA-256 of a page, or [`PageHash::ZERO`] for a page of zeros.
///
/// It decides what is taken for unchanged, so it must not fail by accident nor by a stranger's will. Among 2^20
/// pages of an update and 2^20 old ones an accident has odds of 1 in 2^40. Who wants page B of somebody else to be
/// taken for page A needs a second preimage: 2^80 tries, less the number of pages that would do. (Two pages of
/// one's own can be made to collide in 2^40; that harms one's own file, which one could have shipped broken.)
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageHash(pub [u8; PageHash::LEN]);

impl PageHash {
    /// Bytes of one.
    pub const LEN: usize = 10;

    /// That of zeros, whose own SHA-256 it is not.
    pub const ZERO: PageHash = PageHash([0; PageHash::LEN]);

    /// Of the bytes of one page.
    pub fn of(page: &[u8]) -> Self {
        static ZEROS: [u8; PAGE] = [0; PAGE];
        if page == &ZEROS[..page.len().min(PAGE)] {
            return PageHash::ZERO;
        }
        let mut first = [0; PageHash::LEN];
        first.copy_from_slice(&Sha256::digest(page)[..PageHash::LEN]);
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

/// The hashes of all pages of a tree's files and long symlinks.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    /// Range in `hashes` of each node, by [`NodeId::index`].
    nodes: Vec<Range<usize>>,
    hashes: Vec<PageHash>,
}

/// Some pages of a file that one thread reads.
struct Piece<'t> {
    content: &'t Content,
    /// A node, for messages.
    node: usize,
    /// Pages of the file.
    logical: Range<u32>,
    /// Where their hashes belong.
    at: usize,
}

impl Pages {
    /// Reads every file of `tree` once, on all cores. `read` is told of bytes as they are done.
    ///
    /// # Errors
    /// [`WriteError::Contents`] for a file that can't be read.
    pub fn read(
        tree: &Tree,
        contents: &dyn Contents,
        read: &(dyn Fn(u64) + Sync),
    ) -> Result<Self, WriteError> {
        let mut pages = Pages::default();
        let mut pieces = vec![];
        let mut count = 0;
        for (nth, node) in tree.nodes().iter().enumerate() {
            let from = count;
            match &node.kind {
                Kind::File(content) => {
                    for run in file_runs(content) {
                        let mut first = run.start;
                        while first < run.end {
                            let end = run.end.min(first.saturating_add(PIECE));
                            pieces.push(Piece { content, node: nth, logical: first..end, at: count });
                            count += (end - first) as usize;
                            first = end;
                        }
                    }
                }
                Kind::Symlink(target) if target.len() >= FAST_SYMLINK => count += 1,
                _ => {}
            }
            pages.nodes.push(from..count);
        }
        pages.hashes.resize(count, PageHash::ZERO);
        for (node, range) in tree.nodes().iter().zip(&pages.nodes) {
            if let Kind::Symlink(target) = &node.kind
                && !range.is_empty()
            {
                let mut page = [0; PAGE];
                // A longer one is refused when the demand is made.
                let len = target.len().min(PAGE);
                page[..len].copy_from_slice(&target[..len]);
                pages.hashes[range.start] = PageHash::of(&page);
            }
        }
        let hash = |bytes: &mut Vec<u8>, nth: usize| {
            let Piece { content, node, logical, .. } = &pieces[nth];
            let part = &mut bytes[..logical.len() * PAGE];
            let done = content.read_at(contents, u64::from(logical.start) * u64::from(BLOCK), part);
            done.map_err(|error| (*node, error))?;
            read(part.len() as u64);
            Ok(part.chunks_exact(PAGE).map(PageHash::of).collect::<Vec<_>>())
        };
        let done = each(pieces.len(), cores(), || vec![0; PIECE as usize * PAGE], hash);
        let done = done.map_err(|(node, source)| {
            let path = tree.walk().find(|(_, id)| id.index() == node).map_or_else(Vec::new, |(path, _)| path);
            WriteError::Contents { path: shown(&path), source }
        })?;
        for (piece, hashes) in pieces.iter().zip(done) {
            pages.hashes[piece.at..piece.at + hashes.len()].copy_from_slice(&hashes);
        }
        Ok(pages)
    }

    /// The pages of a node that are not holes, in their order. None for what has no pages.
    pub fn of(&self, node: NodeId) -> &[PageHash] {
        self.nodes.get(node.index()).map_or(&[], |range| &self.hashes[range.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Extent, Meta, Node, Source, SpoolId};

    #[test]
    fn a_page_is_named_by_the_start_of_its_sha256_and_zeros_by_zeros() {
        // sha256sum of 4,096 bytes `a`.
        assert_eq!(PageHash::of(&[b'a'; PAGE]).to_string(), "c93eee2d0db02f10acc7");
        assert_eq!(PageHash::of(&[0; PAGE]), PageHash::ZERO);
    }

    #[test]
    fn every_page_that_is_no_hole_has_its_hash_in_order() {
        let spool: Vec<u8> =
            (0..3 * PIECE as usize * PAGE).map(|at| u8::try_from(at / PAGE % 251).unwrap()).collect();
        let long = spool.len() as u64;
        let extent =
            |at, len, offset| Extent { at, len, source: Source::Spool { spool: SpoolId(0), offset } };
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

        let pages = Pages::read(&tree, &vec![spool.clone()], &|_| {}).unwrap();
        let expected: Vec<_> = spool.chunks(PAGE).map(PageHash::of).collect();
        assert!(pages.of(big) == expected);
        let mut short = [0; PAGE];
        short[..10].fill(1);
        assert_eq!(pages.of(holes), [PageHash::of(&short), PageHash::of(&[5; PAGE])]);
        assert_eq!(pages.of(empty), []);
        let mut target = [0; PAGE];
        target[..70].fill(b'x');
        assert_eq!(pages.of(link), [PageHash::of(&target)]);

        let failed = Pages::read(&tree, &vec![vec![0; 100]], &|_| {}).unwrap_err();
        assert!(failed.to_string().starts_with("/big: its contents"), "{failed}");
    }
}
