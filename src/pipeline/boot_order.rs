//! Which files a boot reads, in order: what `imgfactory profile --files` saw, kept beside the build, for its next fresh
//! layout. Paths and not places, so that it outlives every layout.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::ext2::{self, LayoutMap};
use crate::pipeline::prefetch::DIR;
use formats::index::{BlockContents, Index};
use formats::names::ImageName;
use formats::release::Reads;
use system::files::{FileError, create_dir_all, read_at_most, write_atomic};

/// The longest file that is read, in bytes.
const LIMIT: u64 = 64 << 20;
const HEADING: &[u8] = b"imgfactory-order 1";

/// Why an order can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// It is none, or of another image.
    #[error(
        "{}:{line}: {what}; correct it, remove the file, or record it again with `imgfactory profile --files`",
        path.display()
    )]
    Damaged { path: PathBuf, line: usize, what: String },
    #[error(transparent)]
    File(#[from] FileError),
}

/// What a boot was seen to read of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whose pages they are, in order of first read ([`LayoutMap::paths_of`]).
    pub paths: Vec<Vec<u8>>,
    /// Bytes of the disk that were read, in pages.
    pub read_bytes: u64,
    /// Block files that have them.
    pub blocks: usize,
    pub block_bytes: u64,
}

impl Seen {
    /// Finds out by the image's map and layout. Pages that it does not have are passed over.
    pub fn of(reads: &Reads, index: &Index, layout: &LayoutMap) -> Self {
        let runs = || reads.runs.iter().map(|run| run.start..run.end.min(layout.geometry.blocks));
        let unit = index.header().block_size.get() / ext2::BLOCK;
        let pages: u64 = runs().map(|run| run.len() as u64).sum();
        let targets = runs().flatten().filter_map(|page| index.target(page / unit));
        let objects: BTreeSet<_> = targets
            .filter_map(|target| match target {
                BlockContents::Object(id) => Some(id),
                BlockContents::Zero => None,
            })
            .collect();
        let files = objects.iter().filter_map(|&id| index.object(id));
        Seen {
            paths: layout.paths_of(runs()),
            read_bytes: pages * u64::from(ext2::BLOCK),
            blocks: objects.len(),
            block_bytes: files.map(|object| u64::from(object.file_len)).sum(),
        }
    }
}

/// Where the order of an image is kept.
pub fn path(out: &Path, image: &ImageName) -> PathBuf {
    out.join(DIR).join(format!("{image}.order"))
}

/// Keeps an order for the next build. Paths are without leading `/`; those with a line's end in them are left out.
///
/// # Errors
/// [`FileError`].
pub fn save(out: &Path, image: &ImageName, paths: &[Vec<u8>]) -> Result<(), FileError> {
    create_dir_all(out.join(DIR))?;
    write_atomic(self::path(out, image), &encode(image, paths))
}

/// The order of an image, if there is one.
///
/// # Errors
/// [`OrderError`].
pub fn read(out: &Path, image: &ImageName) -> Result<Vec<Vec<u8>>, OrderError> {
    let path = path(out, image);
    let text = match read_at_most(&path, LIMIT) {
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        text => text?,
    };
    decode(image, &text).map_err(|(line, what)| OrderError::Damaged { path, line, what })
}

fn encode(image: &ImageName, paths: &[Vec<u8>]) -> Vec<u8> {
    let mut text =
        [HEADING, format!("\nimage: {image}\n# what is read first, in this order\n").as_bytes()].concat();
    for path in paths.iter().filter(|path| !path.contains(&b'\n')) {
        text.push(b'/');
        text.extend(path);
        text.push(b'\n');
    }
    text
}

/// A person may have written it: comments, empty lines and a last line without its end are fine.
fn decode(image: &ImageName, text: &[u8]) -> Result<Vec<Vec<u8>>, (usize, String)> {
    let mut lines = (1..).zip(text.split(|&byte| byte == b'\n'));
    if lines.next().map(|(_, line)| line) != Some(HEADING) {
        return Err((1, format!("an order of files begins with `{}`", String::from_utf8_lossy(HEADING))));
    }
    let of = format!("image: {image}");
    if lines.next().map(|(_, line)| line) != Some(of.as_bytes()) {
        return Err((2, format!("expected `{of}`")));
    }
    let mut paths = Vec::new();
    for (number, line) in lines {
        match line {
            [] | [b'#', ..] => {}
            [b'/', path @ ..] => paths.push(path.to_vec()),
            other => {
                let found = String::from_utf8_lossy(other);
                return Err((number, format!("`{found}`: a path begins with `/`, a comment with `#`")));
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext2::blockmap::Run;
    use crate::ext2::{Geometry, InodeSize, Mapped, MappedEntry, MappedKind};
    use crate::tree::Meta;
    use formats::block::{BlockName, Object};
    use formats::digest::Sha256;
    use formats::index::Header;
    use formats::names::{BlockSize, Serial, UnixTime};

    fn host() -> ImageName {
        "host".parse().unwrap()
    }

    #[test]
    fn an_order_is_kept_but_for_paths_that_no_line_can_hold() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), &host()).unwrap(), Vec::<Vec<u8>>::new());
        let paths = [&b""[..], b"usr/sbin/init", b"two\nlines", b"\xff#", b"a b"].map(<[u8]>::to_vec);
        save(dir.path(), &host(), &paths).unwrap();
        let kept: Vec<_> = paths.iter().filter(|path| !path.contains(&b'\n')).cloned().collect();
        assert_eq!(read(dir.path(), &host()).unwrap(), kept);
    }

    #[test]
    fn pages_that_were_read_are_told_by_whose_they_are_and_what_they_cost() {
        let object = |byte: u8| {
            let name = BlockName([byte; 16]);
            Some(Object { name, sha256: Sha256([byte; 32]), raw_len: 8192, file_len: 100 + u32::from(byte) })
        };
        let header = Header {
            image: host(),
            serial: Serial::FIRST,
            block_size: BlockSize::new(8192).unwrap(),
            size: 16 << 12,
            published: UnixTime(1),
            parent: None,
        };
        let blocks = [object(1), object(2), None, object(2), object(3), object(4), object(5), object(6)];
        let index = Index::assemble(header, blocks).unwrap();
        let geometry = Geometry { blocks: 16, inodes_per_group: 16, inode_size: InodeSize::Large };
        let inode = |ino, kind, physical, count| Mapped {
            ino,
            meta: Meta::default(),
            kind,
            data: vec![Run { logical: 0, physical, count }],
            indirect: vec![],
            sums: vec![],
            label: None,
        };
        let entry = MappedEntry { offset: 24, ino: 12, name: b"init".to_vec() };
        let inodes = vec![
            inode(2, MappedKind::Directory(vec![vec![entry]]), 8, 1),
            inode(12, MappedKind::File(8192), 5, 2),
        ];
        let layout = LayoutMap { geometry, epoch: 0, inodes, labels: vec![], pages: vec![] };
        // Nobody's, twice the same block, zeros, and what the disk does not have.
        let reads = Reads { image: host(), serial: Serial::FIRST, runs: vec![0..2, 4..9, 15..u32::MAX] };
        assert_eq!(
            Seen::of(&reads, &index, &layout),
            Seen {
                paths: vec![b"init".to_vec(), vec![]],
                read_bytes: 8 * 4096,
                blocks: 4,
                block_bytes: 101 + 102 + 103 + 106
            }
        );
    }

    #[test]
    fn a_damaged_order_says_where_and_what() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &host(), &[]).unwrap();
        let remedy = "; correct it, remove the file, or record it again with `imgfactory profile --files`";
        for (text, said) in [
            (&b""[..], "1: an order of files begins with `imgfactory-order 1`"),
            (b"imgfactory-order 2\n", "1: an order of files begins with `imgfactory-order 1`"),
            (b"imgfactory-order 1\nimage: guest\n", "2: expected `image: host`"),
            (
                b"imgfactory-order 1\nimage: host\n\n# x\n/ok\nusr/bin",
                "6: `usr/bin`: a path begins with `/`, a comment with `#`",
            ),
        ] {
            std::fs::write(path(dir.path(), &host()), text).unwrap();
            let found = read(dir.path(), &host()).unwrap_err().to_string();
            assert!(found.ends_with(&format!("profile/host.order:{said}{remedy}")), "{found}");
        }
        let text = b"imgfactory-order 1\nimage: host\n/usr/bin";
        assert_eq!(decode(&host(), text), Ok(vec![b"usr/bin".to_vec()]));
    }
}
