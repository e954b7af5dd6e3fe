//! The client's cache on disk (docs/formats.md, section 7): block files as they were fetched, and what must be
//! remembered about releases.
//!
//! ```text
//! VERSION  lock  blk/<xx>/<md5>  tmp/  state/<name>.serial  state/<name>/<image>.idx
//! ```
//!
//! Others may have prepared the directory, or the stick that it is on: every file in it is opened by
//! [`ConfinedDir`], which follows no link.
//!
//! There is no database, and blocks are not synced: every load checks the SHA-256 from the signed index, and
//! what does not fit is removed. So it does not matter who else writes there, or where a crash cut. Several
//! clients may share a cache; `lock` is held shared by each, and exclusively only to sweep `tmp/`.

mod maintenance;
mod evict;
mod medium;
mod state;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use evict::CacheInventory;
use formats::block::{Block, BlockDamage as Damage, BlockName, FetchedFile as Fetched, Object};
pub use maintenance::{Checked, ImageStats, Stats};
use system::files::{ConfinedDir, FileError};

/// What `VERSION` says.
const VERSION: &str = "imgfactory-cache 1\n";
/// The file that has it.
const VERSION_FILE: &str = "VERSION";
/// Where files are written before they get their names.
const SCRATCH: &str = "tmp";
/// After an error of the disk, nothing is written for this long.
const PAUSE: Duration = Duration::from_secs(30);

/// Why a directory can't be the cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Written by another version.
    #[error("{}: not a cache that this program supports (VERSION is `{found}`); choose another directory, or \
             empty this one", path.display())]
    Version {
        path: PathBuf,
        /// The first line of the file.
        found: String,
    },
    #[error(transparent)]
    File(#[from] FileError),
}

/// What was found in the cache.
#[derive(Debug)]
pub enum Loaded {
    Hit(Block),
    Miss,
    /// A file that was not the block; it is removed, unless it is on a medium.
    Damaged(Damage),
}

/// The cache. Threads share it.
#[derive(Debug)]
pub struct Cache {
    dir: ConfinedDir,
    /// A mirror's tree that is looked into when a block is not here.
    medium: Option<ConfinedDir>,
    inventory: Mutex<CacheInventory>,
    // Held, shared, for as long as we live.
    _lock: Option<File>,
    count: AtomicU64,
    /// Others have filled the file system.
    full: AtomicBool,
    writing: Mutex<Writing>,
}

/// The state of writes to the cache's disk.
#[derive(Debug, Default)]
struct Writing {
    paused_until: Option<Instant>,
    warned: bool,
    errors: u64,
}

impl Cache {
    /// Opens a cache, or makes one. `max` is its size in bytes at most; without it the file system's size counts
    /// (80 %). A cache on a medium that can't be written is read.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn open(root: &Path, max: Option<u64>) -> Result<Self, CacheError> {
        let dir = ConfinedDir::new(root);
        let lock = match Self::prepare(&dir) {
            Ok(lock) => lock,
            Err(FileError::Io { source, .. })
                if source.kind() == io::ErrorKind::ReadOnlyFilesystem && dir.exists(VERSION_FILE) =>
            {
                None
            }
            Err(error) => return Err(error.into()),
        };
        let found = dir.read(VERSION_FILE, 256)?;
        if found != VERSION.as_bytes() {
            let found = String::from_utf8_lossy(&found).lines().next().unwrap_or_default().to_owned();
            return Err(CacheError::Version { path: root.into(), found: formats::names::clip(&found) });
        }
        Ok(Cache {
            dir,
            medium: None,
            inventory: Mutex::new(CacheInventory::new(max)),
            _lock: lock,
            count: AtomicU64::new(0),
            full: AtomicBool::new(false),
            writing: Mutex::default(),
        })
    }

    /// Makes what is missing, takes the lock, and removes what a crash left in `tmp`. Where the file system has no
    /// locks, nothing is removed.
    fn prepare(dir: &ConfinedDir) -> Result<Option<File>, FileError> {
        for name in ["blk", SCRATCH, "state"] {
            dir.create_dir(name)?;
        }
        if !dir.exists(VERSION_FILE) {
            dir.replace(SCRATCH, VERSION_FILE, VERSION.as_bytes())?;
        }
        let lock = dir.lock_file("lock")?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            for name in dir.names(SCRATCH).into_iter().flatten() {
                // One that stays does no harm: names are not used twice.
                let _ = dir.remove(Path::new(SCRATCH).join(name));
            }
        }
        Ok(flock(&lock, FlockOperation::NonBlockingLockShared).is_ok().then_some(lock))
    }

    /// Loads and verifies a block. Never an error: what can't be read is not there.
    pub fn load(&self, object: &Object) -> Loaded {
        match load_from(&self.dir, object) {
            Loaded::Hit(block) => {
                self.inventory().used(object.name, u64::from(object.file_len));
                Loaded::Hit(block)
            }
            Loaded::Miss => self.load_from_medium(object),
            Loaded::Damaged(damage) => {
                self.remove(object.name);
                match self.load_from_medium(object) {
                    Loaded::Hit(block) => Loaded::Hit(block),
                    Loaded::Miss | Loaded::Damaged(_) => Loaded::Damaged(damage),
                }
            }
        }
    }

    /// Whether a file of the right length is there. Its contents are not looked at.
    pub fn has(&self, object: &Object) -> bool {
        let there = |dir: &ConfinedDir| {
            let found = dir.regular(object.name.path());
            found.is_some_and(|found| found.st_size == i64::from(object.file_len))
        };
        there(&self.dir) || self.medium.as_ref().is_some_and(there)
    }

    fn remove(&self, name: BlockName) {
        // Where it can't be removed it is found damaged again, and fetched again.
        let _ = self.dir.remove(name.path());
        self.inventory().removed(name);
    }

    /// Keeps the file of a block, if there is room. A disk that fails is written to again after a pause, and
    /// complained of once.
    pub fn store(&self, name: BlockName, file: &[u8]) -> bool {
        if self.writing().paused_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let len = file.len() as u64;
        if !self.make_room(len) {
            return false;
        }
        match self.write(name, file) {
            Ok(()) => {
                self.inventory().used(name, len);
                let mut writing = self.writing();
                writing.paused_until = None;
                true
            }
            Err(error) => {
                let mut writing = self.writing();
                writing.errors += 1;
                writing.paused_until = Some(Instant::now() + PAUSE);
                if !std::mem::replace(&mut writing.warned, true) {
                    let root = self.root().display();
                    log::warn!("{root}: can't keep blocks: {error}; continuing without the cache");
                }
                false
            }
        }
    }

    fn write(&self, name: BlockName, file: &[u8]) -> io::Result<()> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{SCRATCH}/{}-{count}", std::process::id());
        let target = name.path();
        let written =
            self.write_new(&temporary, file).and_then(|()| match self.dir.rename(&temporary, &target) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let (parent, _) = target.rsplit_once('/').unwrap_or((".", ""));
                    self.dir.create_dir(parent)?;
                    self.dir.rename(&temporary, &target)
                }
                renamed => renamed,
            });
        if written.is_err() {
            let _ = self.dir.remove(&temporary);
        }
        written
    }

    fn write_new(&self, name: &str, file: &[u8]) -> io::Result<()> {
        match self.dir.create_new(name, file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The cache was removed while we use it.
                self.dir.create_dir(SCRATCH)?;
                self.dir.create_new(name, file).map(drop)
            }
            // A client of our number, in another chroot or before a crash.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.count.fetch_add(1 << 32, Ordering::Relaxed);
                Err(error)
            }
            created => created.map(drop),
        }
    }

    /// Blocks that could not be kept.
    pub fn write_errors(&self) -> u64 {
        self.writing().errors
    }

    /// The directory of the cache.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    fn inventory(&self) -> std::sync::MutexGuard<'_, CacheInventory> {
        // Its counts are whole after every statement.
        self.inventory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn writing(&self) -> std::sync::MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Loads and verifies a block of a directory. A file of another length is damaged.
fn load_from(dir: &ConfinedDir, object: &Object) -> Loaded {
    let (path, want) = (object.name.path(), object.file_len);
    let loaded = match dir.read(&path, u64::from(want)) {
        Ok(bytes) => Fetched::new(*object, bytes).inflate().and_then(|inflated| inflated.verify()),
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::FileTooLarge => {
            let found = dir.regular(&path).map_or(0, |found| found.st_size.max(0).cast_unsigned());
            Err(Damage::FileLength { name: object.name, found, want })
        }
        Err(_) => return Loaded::Miss,
    };
    loaded.map_or_else(Loaded::Damaged, Loaded::Hit)
}
