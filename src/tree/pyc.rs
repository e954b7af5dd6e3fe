//! Compiled Python (`.pyc`) tied to its source by time, not by hash.
//!
//! Where SOURCE_DATE_EPOCH is set, Python ties what it compiles to a hash of the source, and from then on reads
//! the source at every import to check it: twice the bytes of a disk that comes over the network. Tied by the
//! source's time and length, as it is without SOURCE_DATE_EPOCH, it reads none. The header is all that
//! differs. Source: PEP 552; `importlib._bootstrap_external` (`_classify_pyc`, `_validate_timestamp_pyc`).

use std::io;

use super::{Content, ContentSource, Contents, Extent, Kind, Tree};

/// Magic number, flags, then the hash of the source, or its time and length.
const HEADER: usize = 16;
/// Flags (u32, little-endian): tied by hash, and to be checked.
const CHECKED_HASH: u32 = 0b11;

/// Rewrites the headers of all `__pycache__/NAME.TAG.pyc` that are tied by hash and whose source lies above.
/// Sources must have their final times. Says how many it changed.
///
/// # Errors
/// Those of reading contents.
pub fn tie_by_time(tree: &mut Tree, contents: &dyn Contents) -> io::Result<usize> {
    let compiled: Vec<_> = tree.walk().filter_map(|(path, id)| Some((id, source_of(&path)?))).collect();
    let mut changed = 0;
    for (id, source) in compiled {
        let Some((mtime, len)) = tree.resolve(&source).and_then(|id| {
            let node = tree.node(id);
            match &node.kind {
                Kind::File(content) => Some((node.meta.mtime, content.len)),
                _ => None,
            }
        }) else {
            continue;
        };
        let Kind::File(content) = &mut tree.node_mut(id).kind else { continue };
        let mut header = [0; HEADER];
        if content.len < HEADER as u64 {
            continue;
        }
        content.read_at(contents, 0, &mut header)?;
        if header[4..8] != CHECKED_HASH.to_le_bytes() {
            continue;
        }
        header[4..8].fill(0);
        // Python compares the lower 32 bits of both.
        header[8..12].copy_from_slice(&mtime.secs.to_le_bytes()[..4]);
        header[12..].copy_from_slice(&len.to_le_bytes()[..4]);
        replace_start(content, &header);
        changed += 1;
    }
    Ok(changed)
}

/// `a/b.py` of `a/__pycache__/b.cpython-313.pyc`.
fn source_of(path: &[u8]) -> Option<Vec<u8>> {
    let name_at = path.iter().rposition(|&byte| byte == b'/')? + 1;
    let dir = path[..name_at].strip_suffix(b"__pycache__/")?;
    let stem = path[name_at..].strip_suffix(b".pyc")?;
    // Module names have no dot; an optimisation level may follow the tag: `b.cpython-313.opt-1.pyc`.
    let tag = stem.iter().position(|&byte| byte == b'.')?;
    Some([dir, &stem[..tag], b".py"].concat())
}

/// Puts `bytes` over the first bytes of a file that is at least as long.
fn replace_start(content: &mut Content, bytes: &[u8]) {
    let len = bytes.len() as u64;
    let mut extents =
        vec![Extent { at: 0, len, source: ContentSource::Inline { bytes: bytes.into(), offset: 0 } }];
    for extent in content.extents.drain(..) {
        let cut = len.saturating_sub(extent.at).min(extent.len);
        if cut == extent.len {
            continue;
        }
        let source = match extent.source {
            ContentSource::Spool { spool, offset } => ContentSource::Spool { spool, offset: offset + cut },
            // At most as long as `bytes`, so it fits.
            ContentSource::Inline { bytes, offset } => {
                ContentSource::Inline { bytes, offset: offset + cut as usize }
            }
        };
        extents.push(Extent { at: extent.at + cut, len: extent.len - cut, source });
    }
    content.extents = extents;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{FileTime, Meta, Node, SpoolId};

    #[test]
    fn hashes_become_times_and_all_else_stays() {
        let magic = b"\xf3\x0d\x0d\x0a";
        let hashed = [&magic[..], &[3, 0, 0, 0], b"hashhash", b"code"].concat();
        let unchecked = [&magic[..], &[1, 0, 0, 0], b"hashhash", b"code"].concat();
        let expected =
            [&magic[..], &[0; 4], &0x6a79_bee3u32.to_le_bytes(), &6u32.to_le_bytes(), b"code"].concat();
        let spools = vec![hashed.clone()];
        let mut tree = Tree::new(Meta::default());
        let meta = Meta { mtime: FileTime { secs: 0x6a79_bee3, nanos: 5 }, ..Meta::default() };
        let spooled = Content {
            len: 20,
            extents: vec![Extent {
                at: 0,
                len: 20,
                source: ContentSource::Spool { spool: SpoolId(0), offset: 0 },
            }],
        };
        for (path, content) in [
            ("a/m.py", Content::inline(*b"source")),
            ("a/__pycache__/m.cpython-313.pyc", spooled),
            ("a/__pycache__/m.cpython-313.opt-1.pyc", Content::inline(hashed.clone())),
            ("a/__pycache__/gone.cpython-313.pyc", Content::inline(hashed.clone())),
            ("b/m.py", Content::inline(*b"source")),
            ("b/__pycache__/m.cpython-313.pyc", Content::inline(unchecked.clone())),
            ("b/__pycache__/m.x.pyc", Content::inline(*b"short")),
            ("b/m.x.pyc", Content::inline(hashed.clone())),
        ] {
            tree.insert(path.as_bytes(), Node { meta: meta.clone(), kind: Kind::File(content) }).unwrap();
        }
        assert_eq!(tie_by_time(&mut tree, &spools).unwrap(), 2);
        for (path, expected) in [
            ("a/__pycache__/m.cpython-313.pyc", &expected),
            ("a/__pycache__/m.cpython-313.opt-1.pyc", &expected),
            ("a/__pycache__/gone.cpython-313.pyc", &hashed),
            ("b/__pycache__/m.cpython-313.pyc", &unchecked),
            ("b/m.x.pyc", &hashed),
        ] {
            let Kind::File(content) = &tree.node(tree.lookup(path.as_bytes()).unwrap()).kind else {
                panic!()
            };
            let mut bytes = vec![0; 20];
            content.read_at(&spools, 0, &mut bytes).unwrap();
            assert_eq!(&bytes, expected, "{path}");
        }
    }
}
