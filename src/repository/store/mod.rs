//! A mirror's tree on a local disk, as a build sees it: which blocks are there, and how new ones get in.
//!
//! # What is believed, and why
//!
//! A block file's name is the MD5 of its raw bytes, so a block that is there need not be compressed again. But a
//! name in a directory proves nothing. A power cut can leave a file empty, short or full of zeros under its final
//! name, because block files are renamed into place without a sync (one sync of the file system ends a build; a
//! sync for each block would take fifteen times as long). So a file that lies there is used only when
//!
//! * an index of a finished release names it, with this SHA-256, and the file has the length that the index gives
//!   ([`Store::trust`]). Indexes are written after everything was synced ([`Store::sync`] gives the only way to
//!   write them), so what they name was on the disk, whole; or
//! * it inflates, here and now, to the very bytes that the build has in hand. This is how an interrupted build
//!   goes on. It takes half the time that compressing takes.
//!
//! Anything else under that name is damage and is written again, with one exception: a whole zlib stream whose raw
//! bytes have this MD5 and are not ours. That is a collision. It is reported, and the file stays: there is never a
//! second content under one name.
//!
//! A file that an index names is never changed: should it be lost, and the compressor make another length now,
//! the clients of that release would refuse the file. That is an error, not a repair.
//!
//! The writer holds the lock of the directory above ([`system::files::DirLock`]); a store takes none.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::compress::Compressor;
use formats::block::{
    Block, BlockDamage, BlockName, FetchedFile, Inflated, MAX_BLOCK_SIZE, Object, max_file_len,
};
use formats::digest::Digest;
use formats::index::{BlockContents, Index, ObjectId};
use formats::names::{ImageName, Serial};
use formats::release::{MirrorPath, Put};
use system::files::{AtomicFile, FileError, create_dir_all, read_at_most, sweep};

/// Why a store can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that a release names is gone or damaged, and can't be made again to the byte.
    #[error(
        "{}: missing or damaged: {origin} records {want} bytes, but compressing the block again gives {found}; \
         restore the file, or build with the compressor of that release",
        path.display()
    )]
    Lost {
        path: PathBuf,
        origin: BlockOrigin,
        /// Its length in the index.
        want: u32,
        /// The length it would have.
        found: usize,
    },
    /// A block file is not what an index says.
    #[error("{}: damaged", path.display())]
    Damaged {
        path: PathBuf,
        /// In which way.
        source: BlockDamage,
    },
}

/// Where some content was met.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockOrigin {
    /// In an image of this build.
    Image {
        image: ImageName,
        /// Number of the block.
        block: u32,
        /// Its first byte on the disk.
        at: u64,
    },
    /// In the index of a finished release.
    Release {
        image: ImageName,
        serial: Serial,
        /// Number of the first such block.
        block: u32,
    },
    /// In the file of that name; no known index speaks of it.
    File,
}

impl fmt::Display for BlockOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockOrigin::Image { image, block, at } => {
                write!(f, "block {block} of image `{image}` (from byte {at})")
            }
            BlockOrigin::Release { image, serial, block } => {
                write!(f, "block {block} of image `{image}` in release {serial}")
            }
            BlockOrigin::File => write!(f, "a block file of the mirror that no known release names"),
        }
    }
}

/// What became of a block that was offered to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It was compressed and written.
    Written(Object),
    /// It is there already.
    Found(Object),
    /// Other raw bytes with the same MD5 are there. Nothing was written.
    Collides(BlockOrigin),
}

/// What is known of a name.
#[derive(Clone, Debug)]
struct KnownName {
    object: Object,
    origin: BlockOrigin,
    /// Whether the file was seen, by this build, to be there, or is known to be where it is published.
    seen: bool,
    /// SHA-256 of the file, if it was written by this build.
    file: Option<Digest>,
}

/// A mirror's tree on a local disk.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    known: Mutex<HashMap<BlockName, KnownName>>,
}

impl Store {
    /// Opens a tree; makes it if there is none, and removes what a killed build left unfinished in it.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        create_dir_all(&root)?;
        sweep(&root)?;
        Ok(Store { root, known: Mutex::new(HashMap::new()) })
    }

    /// The directory that holds `blk/`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file of it is.
    pub fn locate(&self, path: &MirrorPath) -> PathBuf {
        // A `MirrorPath` has neither `..` nor a leading `/` in it, by its type.
        self.root.join(path.to_string())
    }

    /// Learns what an index of a finished release of this tree names.
    pub fn trust(&mut self, index: &Index) {
        self.learn(index, false);
    }

    /// Learns what an index of a release names that is published elsewhere: its block files are there, and are not
    /// needed here. The index's signature says so.
    pub fn trust_published(&mut self, index: &Index) {
        self.learn(index, true);
    }

    fn learn(&mut self, index: &Index, elsewhere: bool) {
        let known = self.known.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut next = ObjectId(0);
        for (target, block) in index.targets().zip(0_u32..) {
            // Objects are numbered by first use, so each is met first when its turn has come.
            if target != BlockContents::Object(next) {
                continue;
            }
            if let Some(&object) = index.object(next) {
                let header = index.header();
                let origin =
                    BlockOrigin::Release { image: header.image.clone(), serial: header.serial, block };
                known.entry(object.name).or_insert(KnownName { object, origin, seen: elsewhere, file: None });
            }
            next = ObjectId(next.0 + 1);
        }
    }

    /// Makes sure that this block's file is there. Several threads may offer, each name once at a time.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn offer(
        &self,
        block: &Block,
        origin: impl FnOnce() -> BlockOrigin,
        compressor: &mut Compressor,
    ) -> Result<Offered, StoreError> {
        let name = block.name();
        let known = self.lock().get(&name).cloned();
        if let Some(known) = &known {
            if known.object.sha256 != block.sha256() {
                return Ok(Offered::Collides(known.origin.clone()));
            }
            if known.seen || self.file_len(name)? == Some(known.object.file_len.into()) {
                self.note(KnownName { seen: true, ..known.clone() });
                return Ok(Offered::Found(known.object));
            }
        }
        // Nothing that a release names lies there, or not as it was.
        match self.examine(block)? {
            Examined::Ours(object) if known.is_none() => {
                self.note(KnownName { object, origin: origin(), seen: true, file: None });
                return Ok(Offered::Found(object));
            }
            Examined::Other => return Ok(Offered::Collides(BlockOrigin::File)),
            Examined::Ours(_) | Examined::Nothing => {}
        }
        let file = compressor.compress(block.bytes());
        if let Some(KnownName { object, origin, .. }) = &known
            && file.len() != object.file_len as usize
        {
            let path = self.locate(&MirrorPath::Block(name));
            return Err(StoreError::Lost {
                path,
                origin: origin.clone(),
                want: object.file_len,
                found: file.len(),
            });
        }
        self.write(&MirrorPath::Block(name), &file)?;
        let object = object_of(block, file.len());
        let origin = known.map_or_else(origin, |known| known.origin);
        self.note(KnownName { object, origin, seen: true, file: Some(Digest::of(&file)) });
        Ok(Offered::Written(object))
    }

    /// Takes back what was written by this build and is not wanted after all.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn take_back(&mut self, name: BlockName) -> Result<(), StoreError> {
        let known = self.known.get_mut().unwrap_or_else(PoisonError::into_inner);
        if known.get(&name).is_some_and(|known| known.file.is_some()) {
            known.remove(&name);
            let path = self.locate(&MirrorPath::Block(name));
            fs::remove_file(&path).map_err(|error| FileError::new(&path, "remove", error))?;
        }
        Ok(())
    }

    /// Reads a block back.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the file is not what the index says.
    pub fn block(&self, object: &Object) -> Result<Block, StoreError> {
        let path = self.locate(&MirrorPath::Block(object.name));
        let file = read_at_most(&path, max_file_len(MAX_BLOCK_SIZE).into())?;
        let block = FetchedFile::new(*object, file).inflate().and_then(Inflated::verify);
        block.map_err(|source| StoreError::Damaged { path, source })
    }

    /// Looks what the file of this name holds, when no index says: for lists of names.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when it is no block, or a block of another name.
    pub fn identify(&self, name: BlockName) -> Result<Object, StoreError> {
        let path = self.locate(&MirrorPath::Block(name));
        let file = read_at_most(&path, max_file_len(MAX_BLOCK_SIZE).into())?;
        let source = match Block::of_file(&file) {
            Some(block) if block.name() == name => return Ok(object_of(&block, file.len())),
            Some(block) => BlockDamage::WrongName { name, found: block.name() },
            None => BlockDamage::Stream { name },
        };
        Err(StoreError::Damaged { path, source })
    }

    /// The `put` lines for these blocks, in their order: length and SHA-256 of each file. Files that this build
    /// did not write are read.
    ///
    /// # Errors
    /// [`StoreError`]; `Damaged` when a file has not the length that its object says.
    pub fn puts(&self, objects: &[Object]) -> Result<Vec<Put>, StoreError> {
        let put = |object: &Object| {
            let path = MirrorPath::Block(object.name);
            let written = self.lock().get(&object.name).and_then(|known| known.file);
            let digest = match written {
                Some(digest) => digest,
                None => Digest::of(&read_at_most(self.locate(&path), max_file_len(MAX_BLOCK_SIZE).into())?),
            };
            if digest.len != u64::from(object.file_len) {
                let source =
                    BlockDamage::FileLength { name: object.name, found: digest.len, want: object.file_len };
                return Err(StoreError::Damaged { path: self.locate(&path), source });
            }
            Ok(Put { path, digest })
        };
        objects.iter().map(put).collect()
    }

    /// Reads a file of the tree that is no block; `None` when it is not there.
    ///
    /// # Errors
    /// [`StoreError::File`]; also when it is longer than files of its kind may be.
    pub fn read(&self, path: &MirrorPath) -> Result<Option<Vec<u8>>, StoreError> {
        match read_at_most(self.locate(path), path.limit()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until all blocks are on the disk; after that, files that name them can be written.
    ///
    /// # Errors
    /// [`StoreError::File`]: something could not be written, now or earlier.
    pub fn sync(&self) -> Result<Synced<'_>, StoreError> {
        let failed = |error| FileError::new(&self.root, "sync", error);
        let dir = File::open(&self.root).map_err(failed)?;
        rustix::fs::syncfs(&dir).map_err(|errno| failed(errno.into()))?;
        Ok(Synced { store: self })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BlockName, KnownName>> {
        // The map is whole after every statement, so a panic of another thread does no harm to it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, known: KnownName) {
        self.lock().insert(known.object.name, known);
    }

    /// Length of a block's file; `None` when there is none.
    fn file_len(&self, name: BlockName) -> Result<Option<u64>, StoreError> {
        let path = self.locate(&MirrorPath::Block(name));
        match fs::metadata(&path) {
            Ok(found) if found.is_file() => Ok(Some(found.len())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::new(&path, "inspect", error).into()),
        }
    }

    /// Looks into the file that has a block's name.
    fn examine(&self, block: &Block) -> Result<Examined, StoreError> {
        match self.file_len(block.name())? {
            None => return Ok(Examined::Nothing),
            Some(len) if len > u64::from(max_file_len(MAX_BLOCK_SIZE)) => return Ok(Examined::Nothing),
            Some(_) => {}
        }
        let path = self.locate(&MirrorPath::Block(block.name()));
        let file = read_at_most(&path, max_file_len(MAX_BLOCK_SIZE).into())?;
        let object = object_of(block, file.len());
        match FetchedFile::new(object, &file).inflate().and_then(Inflated::verify) {
            Ok(_) => return Ok(Examined::Ours(object)),
            Err(damage) => log::debug!("{}: {damage}", path.display()),
        }
        // Not our bytes. If it is a whole block of this name all the same, of whatever length, it stays.
        match Block::of_file(&file) {
            Some(other) if other.name() == block.name() => Ok(Examined::Other),
            _ => {
                log::warn!("{}: damaged, perhaps by a power failure; writing it again", path.display());
                Ok(Examined::Nothing)
            }
        }
    }

    /// Writes a file in one step; it may not yet survive a power cut. The disk has work meanwhile, so that little is
    /// left for [`Store::sync`].
    fn write(&self, path: &MirrorPath, bytes: &[u8]) -> Result<(), StoreError> {
        let mut file = self.begin(path, bytes)?;
        file.start_sync()?;
        file.commit().map_err(StoreError::from)
    }

    fn begin(&self, path: &MirrorPath, bytes: &[u8]) -> Result<AtomicFile, StoreError> {
        let target = self.locate(path);
        if let Some(dir) = target.parent() {
            create_dir_all(dir)?;
        }
        let mut file = AtomicFile::create(&target)?;
        file.write_all(bytes).map_err(|error| FileError::new(&target, "write", error))?;
        Ok(file)
    }
}

/// What lies under a block's name.
enum Examined {
    /// No file, or nothing worth keeping.
    Nothing,
    /// The file was compressed by this build.
    Ours(Object),
    /// Other bytes with the same MD5.
    Other,
}

fn object_of(block: &Block, file_len: usize) -> Object {
    let number = |len: usize| u32::try_from(len).expect("a block has at most 4 MiB, its file little more");
    Object {
        name: block.name(),
        sha256: block.sha256(),
        raw_len: number(block.bytes().len()),
        file_len: number(file_len),
    }
}

/// A store whose blocks are all on the disk. The files that name them come after that, each synced in turn:
/// images' files, the release, `mirrors.txt`, and `latest` last.
#[derive(Debug)]
pub struct Synced<'a> {
    store: &'a Store,
}

impl Synced<'_> {
    /// Writes a file in one step, so that it survives a power cut.
    ///
    /// # Errors
    /// [`StoreError::File`]; the file is then as it was before.
    pub fn write(&self, path: &MirrorPath, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.begin(path, bytes)?.commit_synced().map_err(StoreError::from)
    }
}
