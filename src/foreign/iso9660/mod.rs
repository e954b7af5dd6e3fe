//! ISO 9660 with Rock Ridge, Plan 9's own attributes or zisofs, for reading: where a file's bytes are, and a whole file
//! system as a tree.
//!
//! Sources: ECMA-119 (offsets here are its "BP" less one), IEEE P1282 (Rock Ridge), P1281 (SUSP), and zisofs'
//! header as mkisofs and the kernel have it.

mod rock;
mod zisofs;

use std::collections::BTreeSet;
use std::io;

use crate::ext2::ReadAt;
use crate::tree::{
    Content, ContentSource, Extent, FileTime, Kind, Meta, Node, NodeId, SpoolId, Tree, TreeError,
};
use rock::Rock;

pub use zisofs::{ZisofsError, ZisofsFile};

/// Bytes of a logical block; others are not made.
const BLOCK: u64 = 2048;
/// The first volume descriptor.
const DESCRIPTORS: u64 = 16;
/// Volume descriptors looked at.
const MAX_DESCRIPTORS: u64 = 32;
/// Larger directories are not made: 64 MiB have some 500,000 entries.
const MAX_DIRECTORY: u64 = 64 << 20;
/// Deeper trees are loops.
const MAX_DEPTH: usize = 64;
/// More files are no medium.
const MAX_NODES: usize = 1 << 24;

/// What is wrong with an ISO.
#[derive(Debug, thiserror::Error)]
pub enum Iso9660Error {
    /// It can't be read.
    #[error("can't read at byte {at}")]
    Read { at: u64, source: io::Error },
    #[error("not ISO 9660: block 16 is not a volume descriptor")]
    NotIso,
    /// Blocks of another size.
    #[error("logical blocks of {0} bytes; only 2048 are supported")]
    BlockSize(u16),
    /// A directory record that can't be.
    #[error("{path}: damaged directory at byte {at}: {what}")]
    Record { path: String, at: u64, what: &'static str },
    /// A file that lies outside.
    #[error("{path}: beyond the end of the medium, which is truncated")]
    Outside { path: String },
    /// A directory in itself.
    #[error("{path}: directories form a loop, or are nested more than {MAX_DEPTH} deep")]
    Circle { path: String },
    /// A directory with two names, from which a small medium would have many files.
    #[error("{path}: another path leads to this directory too")]
    Twice { path: String },
    #[error("more than {MAX_NODES} files")]
    TooMany,
    /// A name that can't be in a tree.
    #[error("a name can't be used")]
    Name(#[from] TreeError),
}

/// An ISO 9660 file system, with Rock Ridge where it has that.
pub struct Iso<'m> {
    medium: &'m dyn ReadAt,
    size: u64,
    root: DirectoryRecord,
    /// Bytes to skip at the start of each system use area (SUSP's SP).
    skip: Option<usize>,
    /// Whether system use areas are as Plan 9 writes them.
    plan9: bool,
}

/// What the firmware of a PC starts from a medium: El Torito's default entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElToritoEntry {
    /// First byte of the program on the medium.
    pub at: u64,
    /// What it is taken for: 0 for a program, 1 to 3 for a floppy disk of 1.2, 1.44 or 2.88 MB, 4 for a disk.
    pub media: u8,
    /// Sectors of 512 bytes that are loaded.
    pub sectors: u16,
}

/// Where a file's bytes are, and what the directory says of it.
#[derive(Clone, Debug)]
pub struct DirectoryRecord {
    /// Its name as systems with Rock Ridge see it; else in lower case, without version and final dot.
    pub name: Vec<u8>,
    /// Where the record itself is on the medium.
    pub at: u64,
    /// First byte on the medium, and length, of each piece.
    pub pieces: Vec<(u64, u64)>,
    directory: bool,
    time: FileTime,
    rock: Rock,
}

impl DirectoryRecord {
    /// Bytes of the file, as it lies on the medium.
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|(_, len)| len).sum()
    }

    /// When it was changed.
    pub fn time(&self) -> FileTime {
        self.time
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// First bytes of directories that were met.
#[derive(Default)]
struct Met {
    /// On the way down to where we are.
    above: BTreeSet<u64>,
    /// Anywhere; those without a byte aside.
    all: BTreeSet<u64>,
}

/// A medium's files as a tree.
#[derive(Debug)]
pub struct Imported {
    /// Its contents are the medium's own bytes, in the spool given, except for [`Imported::packed`].
    pub tree: Tree,
    /// Files that zisofs has packed: their contents are still to be unpacked.
    pub packed: Vec<(NodeId, ZisofsFile)>,
}

impl<'m> Iso<'m> {
    /// Looks for the primary volume descriptor.
    ///
    /// # Errors
    /// [`Iso9660Error`].
    pub fn open(medium: &'m dyn ReadAt) -> Result<Self, Iso9660Error> {
        let size = medium.size().map_err(|source| Iso9660Error::Read { at: 0, source })?;
        for nth in DESCRIPTORS..DESCRIPTORS + MAX_DESCRIPTORS {
            let mut block = vec![0; 2048];
            match medium.read_exact_at(nth * BLOCK, &mut block) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(Iso9660Error::NotIso);
                }
                read => read.map_err(|source| Iso9660Error::Read { at: nth * BLOCK, source })?,
            }
            match (&block[1..6], block[0]) {
                (b"CD001", 1) => {
                    let block_size = u16::from_le_bytes([block[128], block[129]]);
                    if u64::from(block_size) != BLOCK {
                        return Err(Iso9660Error::BlockSize(block_size));
                    }
                    let plan9 = block[8..].starts_with(b"PLAN 9");
                    let mut iso = Iso { medium, size, root: DirectoryRecord::empty(), skip: None, plan9 };
                    iso.root = iso.record("/", nth * BLOCK + 156, &block[156..190])?;
                    iso.find_susp()?;
                    return Ok(iso);
                }
                (b"CD001", 255) => return Err(Iso9660Error::NotIso),
                (b"CD001", _) => {}
                _ => return Err(Iso9660Error::NotIso),
            }
        }
        Err(Iso9660Error::NotIso)
    }

    /// Rock Ridge announces itself in the root's own record.
    fn find_susp(&mut self) -> Result<(), Iso9660Error> {
        let (at, _) = self.root.pieces[0];
        let mut first = [0; 255];
        self.read(at, &mut first)?;
        let area = first.get(34..usize::from(first[0])).unwrap_or_default();
        if let [b'S', b'P', 7, 1, 0xbe, 0xef, skip, ..] = *area {
            self.skip = Some(usize::from(skip));
        }
        Ok(())
    }

    /// What a PC's firmware starts; `None` for a medium that does not boot.
    ///
    /// # Errors
    /// [`Iso9660Error::Read`].
    pub fn boot(&self) -> Result<Option<ElToritoEntry>, Iso9660Error> {
        let mut descriptor = [0; 2048];
        self.read((DESCRIPTORS + 1) * BLOCK, &mut descriptor)?;
        if !descriptor.starts_with(b"\0CD001\x01EL TORITO SPECIFICATION") {
            return Ok(None);
        }
        let mut catalog = [0; 64];
        let at = u32::from_le_bytes([descriptor[71], descriptor[72], descriptor[73], descriptor[74]]);
        self.read(u64::from(at) * BLOCK, &mut catalog)?;
        // A validation entry, then the default entry.
        let entry = &catalog[32..];
        if catalog[0] != 1 || entry[0] != 0x88 {
            return Ok(None);
        }
        let block = u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]]);
        let sectors = u16::from_le_bytes([entry[6], entry[7]]);
        Ok(Some(ElToritoEntry { at: u64::from(block) * BLOCK, media: entry[1] & 0xf, sectors }))
    }

    /// The file at `path`, without links. Names are compared without case if the medium has no Rock Ridge.
    ///
    /// # Errors
    /// [`Iso9660Error`].
    pub fn find(&self, path: &str) -> Result<Option<DirectoryRecord>, Iso9660Error> {
        let mut at = self.root.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if !at.directory {
                return Ok(None);
            }
            let entries = self.entries("/", &at)?;
            let found = entries.into_iter().find(|entry| entry.name.eq_ignore_ascii_case(name.as_bytes()));
            match found {
                Some(entry) => at = entry,
                None => return Ok(None),
            }
        }
        Ok((!at.directory).then_some(at))
    }

    /// What is in a file, of `limit` bytes at most; `None` when there is none at `path`.
    ///
    /// # Errors
    /// [`Iso9660Error`].
    pub fn file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Iso9660Error> {
        let Some(found) = self.find(path)? else { return Ok(None) };
        if found.len() > limit {
            return Err(self.fault(path, found.at, "is not a file of this length"));
        }
        let mut bytes = Vec::new();
        for &(at, len) in &found.pieces {
            let mut piece = vec![0; usize::try_from(len).expect("at most `limit`")];
            self.read(at, &mut piece)?;
            bytes.append(&mut piece);
        }
        Ok(Some(bytes))
    }

    /// All files as a tree, whose contents are the bytes of the medium as `spool`.
    ///
    /// # Errors
    /// [`Iso9660Error`].
    pub fn import(&self, spool: SpoolId) -> Result<Imported, Iso9660Error> {
        let rock = self.rock_of_root()?;
        let root = rock.meta(0o755, self.root.time);
        let mut imported = Imported { tree: Tree::new(root), packed: Vec::new() };
        let mut met = Met::default();
        self.directory(&self.root, b"", spool, &mut imported, &mut met)?;
        Ok(imported)
    }

    /// The root's attributes are in its `.` entry.
    fn rock_of_root(&self) -> Result<Rock, Iso9660Error> {
        let (at, _) = self.root.pieces[0];
        let mut first = vec![0; 255];
        self.read(at, &mut first)?;
        first.truncate(usize::from(first[0]).max(34));
        Ok(self.record("/", at, &first)?.rock)
    }

    fn directory(
        &self,
        record: &DirectoryRecord,
        path: &[u8],
        spool: SpoolId,
        imported: &mut Imported,
        met: &mut Met,
    ) -> Result<(), Iso9660Error> {
        let shown = || format!("/{}", String::from_utf8_lossy(path));
        let start = record.pieces.first().map_or(0, |(at, _)| *at);
        if met.above.len() >= MAX_DEPTH || !met.above.insert(start) {
            return Err(Iso9660Error::Circle { path: shown() });
        }
        if !record.is_empty() && !met.all.insert(start) {
            return Err(Iso9660Error::Twice { path: shown() });
        }
        for entry in self.entries(&shown(), record)? {
            if imported.tree.nodes().len() >= MAX_NODES {
                return Err(Iso9660Error::TooMany);
            }
            let mut below = path.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend(&entry.name);
            let default = if entry.directory { 0o755 } else { 0o644 };
            let meta = entry.rock.meta(default, entry.time);
            if entry.directory {
                imported.tree.insert(&below, Node { meta, kind: Kind::Directory(Default::default()) })?;
                self.directory(&entry, &below, spool, imported, met)?;
                continue;
            }
            let kind = entry.rock.kind().unwrap_or_else(|| Kind::File(entry.content(spool)));
            let is_file = matches!(kind, Kind::File(_));
            let id = imported.tree.insert(&below, Node { meta, kind })?;
            if let Some((header, block, len)) = entry.rock.zisofs.filter(|_| is_file && !entry.is_empty()) {
                let (at, stored) = entry.pieces[0];
                imported.packed.push((id, ZisofsFile { at, stored, header, block, len }));
            }
        }
        met.above.remove(&start);
        Ok(())
    }

    /// The entries of a directory, without itself and the one above, and without what Rock Ridge has moved.
    fn entries(&self, path: &str, record: &DirectoryRecord) -> Result<Vec<DirectoryRecord>, Iso9660Error> {
        let mut entries: Vec<DirectoryRecord> = Vec::new();
        let mut unfinished = false;
        for &(start, len) in &record.pieces {
            if len > MAX_DIRECTORY {
                return Err(self.fault(path, start, "larger than 64 MiB"));
            }
            let mut bytes = vec![0; usize::try_from(len).expect("at most 64 MiB")];
            self.read(start, &mut bytes)?;
            let mut at = 0;
            while at < bytes.len() {
                let place = start + at as u64;
                let size = usize::from(bytes[at]);
                if size == 0 {
                    // Records do not cross blocks.
                    at = (at / 2048 + 1) * 2048;
                    continue;
                }
                let part = bytes.get(at..at + size).filter(|part| part.len() >= 34);
                let part = part.ok_or_else(|| self.fault(path, place, "a record extends past its end"))?;
                at += size;
                let dots = part[32] == 1 && part[33] <= 1;
                if dots {
                    continue;
                }
                let mut entry = self.record(path, place, part)?;
                let more = part[25] & 0x80 != 0;
                if unfinished {
                    let last = entries.last_mut().expect("unfinished after one");
                    last.pieces.append(&mut entry.pieces);
                } else if !entry.rock.moved {
                    entries.push(entry);
                } else {
                    continue;
                }
                unfinished = more;
            }
        }
        Ok(entries)
    }

    /// Reads one directory record (ECMA-119, 9.1) from `bytes`, which begin at `at`.
    fn record(&self, path: &str, at: u64, bytes: &[u8]) -> Result<DirectoryRecord, Iso9660Error> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let name_len = usize::from(bytes[32]);
        let name = bytes.get(33..33 + name_len);
        let name = name.ok_or_else(|| self.fault(path, at, "a name extends past its record"))?;
        let after = 33 + name_len + usize::from(name_len.is_multiple_of(2));
        let area = self.skip.and_then(|skip| bytes.get(after + skip..)).unwrap_or_default();
        let mut rock = Rock::default();
        if self.skip.is_some() {
            let read = |at, buf: &mut [u8]| self.read(at, buf).is_ok();
            rock.read(area, &read).map_err(|what| self.fault(path, at, what))?;
        } else if self.plan9 {
            rock.plan9(bytes.get(after..).unwrap_or_default());
        }
        let directory = bytes[25] & 2 != 0 || rock.child.is_some();
        let start = u64::from(rock.child.unwrap_or(word(2))) * BLOCK;
        let mut len = u64::from(word(10));
        if rock.child.is_some() {
            // The directory was moved: its own `.` says how long it is.
            let mut own = [0; 14];
            self.read(start, &mut own)?;
            len = u64::from(u32::from_le_bytes([own[10], own[11], own[12], own[13]]));
        }
        let name = rock.name.clone().unwrap_or_else(|| plain_name(name));
        if len > 0 && start.checked_add(len).is_none_or(|end| end > self.size) {
            let path = format!("{}/{}", path.trim_end_matches('/'), String::from_utf8_lossy(&name));
            return Err(Iso9660Error::Outside { path });
        }
        let time = rock.time.unwrap_or_else(|| rock::short_time(&bytes[18..25]));
        Ok(DirectoryRecord { name, at, pieces: vec![(start, len)], directory, time, rock })
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), Iso9660Error> {
        self.medium.read_exact_at(at, buf).map_err(|source| Iso9660Error::Read { at, source })
    }

    fn fault(&self, path: &str, at: u64, what: &'static str) -> Iso9660Error {
        Iso9660Error::Record { path: path.to_owned(), at, what }
    }
}

impl DirectoryRecord {
    fn empty() -> Self {
        let rock = Rock::default();
        DirectoryRecord {
            name: vec![],
            at: 0,
            pieces: vec![],
            directory: true,
            time: FileTime::default(),
            rock,
        }
    }

    fn content(&self, spool: SpoolId) -> Content {
        let mut at = 0;
        let mut extents = Vec::new();
        for &(offset, len) in self.pieces.iter().filter(|(_, len)| *len > 0) {
            extents.push(Extent { at, len, source: ContentSource::Spool { spool, offset } });
            at += len;
        }
        Content { len: at, extents }
    }
}

/// `README.TXT;1` is `readme.txt`, `FILE.;1` is `file`.
fn plain_name(name: &[u8]) -> Vec<u8> {
    let name = name.split(|&byte| byte == b';').next().unwrap_or_default();
    name.strip_suffix(b".").unwrap_or(name).to_ascii_lowercase()
}

impl Rock {
    fn meta(&self, default: u16, mtime: FileTime) -> Meta {
        let (mode, uid, gid) = self.owner.map_or((default, 0, 0), |(mode, uid, gid)| {
            // The lowest 12 bits, so it fits.
            (u16::try_from(mode & 0o7777).unwrap_or(default), uid, gid)
        });
        Meta { mode, uid, gid, mtime, ..Meta::default() }
    }

    /// What it is, if that is no file with contents.
    fn kind(&self) -> Option<Kind> {
        let (major, minor) = self.device.unwrap_or_default();
        match self.owner?.0 & 0o170_000 {
            0o120_000 => self.target.clone().filter(|target| !target.is_empty()).map(Kind::Symlink),
            0o020_000 => Some(Kind::CharDevice { major, minor }),
            0o060_000 => Some(Kind::BlockDevice { major, minor }),
            0o010_000 => Some(Kind::Fifo),
            0o140_000 => Some(Kind::Socket),
            _ => None,
        }
    }
}
