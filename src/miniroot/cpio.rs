//! newc cpio, the kernel's initramfs format (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! One entry is a header of 110 bytes, all numbers as 8 hex digits, the name with its NUL padded so that the
//! data begins at a multiple of 4, the data padded to a multiple of 4. Extended attributes have no place in it.

use std::io::{self, Write};

use crate::tree::{Contents, Kind, Node, NodeId, Tree};

/// Bytes of file data read at a time.
const CHUNK: usize = 256 << 10;
/// The archive's length is a multiple of this, as cpio(1) writes it.
const BLOCK: u64 = 512;

/// Why a tree can't be written as cpio.
#[derive(Debug, thiserror::Error)]
pub enum CpioError {
    /// A file of 4 GiB or more.
    #[error("/{path}: {len} bytes, but newc cpio files have less than 4 GiB")]
    TooLarge {
        path: String,
        /// Its length in bytes.
        len: u64,
    },
    /// Contents could not be read.
    #[error("/{path}: can't read it")]
    Read { path: String, source: io::Error },
    /// The archive could not be written.
    #[error("can't write the cpio archive")]
    Write(#[from] io::Error),
}

/// Writes everything below the root of `tree`, parents first, names in byte order. Inode numbers count from 1
/// in that order; of several links to one file the first carries the data, which the format permits. `entry`
/// is told each path before its bytes are written.
///
/// # Errors
/// [`CpioError`].
pub fn write<W: Write>(
    tree: &Tree,
    contents: &dyn Contents,
    out: &mut W,
    mut entry: impl FnMut(&[u8], &mut W) -> io::Result<()>,
) -> Result<(), CpioError> {
    let links = tree.link_counts();
    let mut numbers = vec![0_u32; tree.nodes().len()];
    let mut next = 0;
    let mut written = 0;
    for (path, id) in tree.walk().filter(|(path, _)| !path.is_empty()) {
        entry(&path, out)?;
        let number = &mut numbers[id.index()];
        let first = *number == 0;
        if first {
            next += 1;
            *number = next;
        }
        let header = CpioHeader::of(tree.node(id), *number, links[id.index()]);
        written += header.write(&path, Data { tree, contents, id, again: !first }, out)?;
    }
    written +=
        CpioHeader { links: 1, ..CpioHeader::default() }.write_around(b"TRAILER!!!", 0, out, |_| Ok(()))?;
    Ok(out.write_all(&vec![0; (written.next_multiple_of(BLOCK) - written) as usize])?)
}

/// The numbers of an entry that do not follow from its data.
#[derive(Default)]
struct CpioHeader {
    number: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    mtime: u32,
    device: (u32, u32),
}

/// The data of an entry: a file's contents, a link's target.
struct Data<'t> {
    tree: &'t Tree,
    contents: &'t dyn Contents,
    id: NodeId,
    /// An earlier entry had it.
    again: bool,
}

impl CpioHeader {
    fn of(node: &Node, number: u32, links: u32) -> Self {
        let (kind, device) = match node.kind {
            Kind::Directory(_) => (0o040_000, (0, 0)),
            Kind::File(_) => (0o100_000, (0, 0)),
            Kind::Symlink(_) => (0o120_000, (0, 0)),
            Kind::CharDevice { major, minor } => (0o020_000, (major, minor)),
            Kind::BlockDevice { major, minor } => (0o060_000, (major, minor)),
            Kind::Fifo => (0o010_000, (0, 0)),
            Kind::Socket => (0o140_000, (0, 0)),
        };
        let meta = &node.meta;
        // Times that 32 bits can't hold become the nearest that they can.
        let mtime = meta.mtime.secs.clamp(0, i64::from(u32::MAX)) as u32;
        CpioHeader {
            number,
            mode: kind | u32::from(meta.mode),
            uid: meta.uid,
            gid: meta.gid,
            links,
            mtime,
            device,
        }
    }

    /// Writes header, name and data; gives the bytes written.
    fn write(&self, path: &[u8], data: Data<'_>, out: &mut impl Write) -> Result<u64, CpioError> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        match &data.tree.node(data.id).kind {
            Kind::Symlink(target) => {
                self.write_around(path, target.len() as u64, out, |out| Ok(out.write_all(target)?))
            }
            Kind::File(content) if !data.again => {
                if content.len > u64::from(u32::MAX) {
                    return Err(CpioError::TooLarge { path: shown(), len: content.len });
                }
                self.write_around(path, content.len, out, |out| {
                    let mut chunk = vec![0; CHUNK.min(content.len as usize)];
                    let mut at = 0;
                    while at < content.len {
                        let part = &mut chunk[..CHUNK.min((content.len - at) as usize)];
                        content
                            .read_at(data.contents, at, part)
                            .map_err(|source| CpioError::Read { path: shown(), source })?;
                        out.write_all(part)?;
                        at += part.len() as u64;
                    }
                    Ok(())
                })
            }
            _ => self.write_around(path, 0, out, |_| Ok(())),
        }
    }

    /// Writes the header, the name, what `data` writes, and the padding of both. `len` is below 2^32.
    fn write_around<W: Write>(
        &self,
        name: &[u8],
        len: u64,
        out: &mut W,
        data: impl FnOnce(&mut W) -> Result<(), CpioError>,
    ) -> Result<u64, CpioError> {
        let CpioHeader { number, mode, uid, gid, links, mtime, device: (major, minor) } = self;
        let name_len = name.len() + 1;
        write!(
            out,
            "070701{number:08X}{mode:08X}{uid:08X}{gid:08X}{links:08X}{mtime:08X}{len:08X}\
             {:08X}{:08X}{major:08X}{minor:08X}{name_len:08X}{:08X}",
            0, 0, 0
        )?;
        out.write_all(name)?;
        let head = 110 + name_len;
        out.write_all(&[0; 4][..1 + head.next_multiple_of(4) - head])?;
        data(out)?;
        let padding = len.next_multiple_of(4) - len;
        out.write_all(&[0; 4][..padding as usize])?;
        Ok(head.next_multiple_of(4) as u64 + len + padding)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::{Content, ContentSource, Extent, FileTime, Meta, SpoolId};

    fn node(mode: u16, kind: Kind) -> Node {
        Node {
            meta: Meta { mode, mtime: FileTime { secs: 1_700_000_000, nanos: 5 }, ..Meta::default() },
            kind,
        }
    }

    fn file(bytes: &[u8]) -> Kind {
        Kind::File(Content::inline(bytes))
    }

    fn archive(tree: &Tree, contents: &dyn Contents) -> Vec<u8> {
        let mut out = Vec::new();
        write(tree, contents, &mut out, |_, _| Ok(())).unwrap();
        out
    }

    /// An entry as the cpio crate reads it: name, inode, mode, links, device, data.
    type Entry = (String, u32, u32, u32, (u32, u32), Vec<u8>);

    /// What the cpio crate reads.
    fn read_by_peer(mut bytes: &[u8]) -> Vec<Entry> {
        let mut found = Vec::new();
        loop {
            let mut reader = cpio::NewcReader::new(bytes).unwrap();
            let entry = reader.entry().clone();
            if entry.is_trailer() {
                return found;
            }
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut data).unwrap();
            let device = (entry.rdev_major(), entry.rdev_minor());
            found.push((entry.name().to_owned(), entry.ino(), entry.mode(), entry.nlink(), device, data));
            bytes = reader.finish().unwrap();
        }
    }

    #[test]
    fn a_peer_reads_what_was_written() {
        let mut tree = Tree::new(Meta::default());
        let spooled = Content {
            len: 9,
            extents: vec![Extent {
                at: 2,
                len: 5,
                source: ContentSource::Spool { spool: SpoolId(0), offset: 1 },
            }],
        };
        let first = tree.insert(b"bin/sh", node(0o755, file(b"shell"))).unwrap();
        tree.link(b"bin/zsh", first).unwrap();
        tree.insert(b"dev/console", node(0o600, Kind::CharDevice { major: 5, minor: 1 })).unwrap();
        tree.insert(b"init", node(0o4755, Kind::Symlink(b"bin/sh".to_vec()))).unwrap();
        tree.insert(b"holes", node(0o644, Kind::File(spooled))).unwrap();
        let bytes = archive(&tree, &vec![b"xhello".to_vec()]);
        assert_eq!(bytes.len() % 512, 0);
        let none = (0, 0);
        let expected: Vec<Entry> = [
            ("bin", 1, 0o040_755, 2, none, &b""[..]),
            ("bin/sh", 2, 0o100_755, 2, none, b"shell"),
            ("bin/zsh", 2, 0o100_755, 2, none, b""),
            ("dev", 3, 0o040_755, 2, none, b""),
            ("dev/console", 4, 0o020_600, 1, (5, 1), b""),
            ("holes", 5, 0o100_644, 1, none, b"\0\0hello\0\0"),
            ("init", 6, 0o124_755, 1, none, b"bin/sh"),
        ]
        .map(|(name, ino, mode, links, device, data)| (name.into(), ino, mode, links, device, data.to_vec()))
        .into();
        assert_eq!(read_by_peer(&bytes), expected);
    }

    #[test]
    fn a_file_of_4_gib_is_refused_by_name() {
        let mut tree = Tree::new(Meta::default());
        let huge = Content { len: 1 << 32, extents: vec![] };
        tree.insert(b"a/huge", node(0o644, Kind::File(huge))).unwrap();
        let error = write(&tree, &Vec::<Vec<u8>>::new(), &mut io::sink(), |_, _| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "/a/huge: 4294967296 bytes, but newc cpio files have less than 4 GiB");
    }

    proptest! {
        #[test]
        fn any_names_and_lengths_are_read_back(
            files in proptest::collection::btree_map("[a-z]{1,40}", proptest::collection::vec(any::<u8>(), 0..50), 0..20)
        ) {
            let mut tree = Tree::new(Meta::default());
            for (name, bytes) in &files {
                tree.insert(name.as_bytes(), node(0o644, file(bytes))).unwrap();
            }
            let read: Vec<_> = read_by_peer(&archive(&tree, &Vec::<Vec<u8>>::new()))
                .into_iter().map(|(name, .., data)| (name, data)).collect();
            prop_assert_eq!(read, files.into_iter().collect::<Vec<_>>());
        }
    }
}
