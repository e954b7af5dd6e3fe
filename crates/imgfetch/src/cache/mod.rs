//! The client's cache on disk (docs/formats.md, section 7): block files as they were fetched, and what must be
//! remembered about releases.
//!
//! ```text
//! VERSION  lock  blk/<xx>/<md5>  tmp/  state/<name>.serial  state/<name>/<image>.idx
//! ```
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

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};

use evict::CacheInventory;
use formats::block::{Block, BlockDamage as Damage, BlockName, FetchedFile as Fetched, Object};
pub use maintenance::{Checked, ImageStats, Stats};
use system::files::{FileError, create_dir_all, read_at_most, write_atomic};

/// What `VERSION` says.
const VERSION: &str = "imgfactory-cache 1\n";
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
    root: PathBuf,
    /// A mirror's tree that is looked into when a block is not here.
    medium: Option<PathBuf>,
    shelf: Mutex<CacheInventory>,
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
        let version = root.join("VERSION");
        let lock = match Self::prepare(root, &version) {
            Ok(lock) => Some(lock),
            Err(CacheError::File(FileError::Io { source, .. }))
                if source.kind() == io::ErrorKind::ReadOnlyFilesystem && version.exists() =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        let found = read_at_most(&version, 256)?;
        if found != VERSION.as_bytes() {
            let found = String::from_utf8_lossy(&found).lines().next().unwrap_or_default().to_owned();
            return Err(CacheError::Version { path: root.into(), found: formats::names::clip(&found) });
        }
        Ok(Cache {
            root: root.into(),
            medium: None,
            shelf: Mutex::new(CacheInventory::new(max)),
            _lock: lock,
            count: AtomicU64::new(0),
            full: AtomicBool::new(false),
            writing: Mutex::default(),
        })
    }

    /// Makes what is missing, takes the lock, and removes what a crash left in `tmp`.
    fn prepare(root: &Path, version: &Path) -> Result<File, CacheError> {
        for dir in ["blk", "tmp", "state"] {
            create_dir_all(root.join(dir))?;
        }
        if !version.exists() {
            write_atomic(version, VERSION.as_bytes())?;
        }
        let path = root.join("lock");
        let failed = |doing| move |error: io::Error| FileError::new(&root.join("lock"), doing, error);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let lock = options.map_err(failed("open"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let tmp = root.join("tmp");
            for entry in fs::read_dir(&tmp).map_err(|error| FileError::new(&tmp, "read", error))?.flatten() {
                // One that stays does no harm: names are not used twice.
                let _ = fs::remove_file(entry.path());
            }
        }
        flock(&lock, FlockOperation::LockShared).map_err(|errno| failed("lock")(errno.into()))?;
        Ok(lock)
    }

    fn path(&self, name: BlockName) -> PathBuf {
        self.root.join(name.path())
    }

    /// Loads and verifies a block. Never an error: what can't be read is not there.
    pub fn load(&self, object: &Object) -> Loaded {
        let Some(bytes) = read_file(&self.path(object.name), object.file_len) else {
            return self.load_from_medium(object);
        };
        match Fetched::new(*object, bytes).inflate().and_then(|inflated| inflated.verify()) {
            Ok(block) => {
                self.shelf().used(object.name, u64::from(object.file_len));
                Loaded::Hit(block)
            }
            Err(damage) => {
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
        let there = |path: &Path| {
            let found = fs::symlink_metadata(path);
            found.is_ok_and(|found| found.is_file() && found.len() == u64::from(object.file_len))
        };
        there(&self.path(object.name)) || self.medium_path(object.name).is_some_and(|path| there(&path))
    }

    fn remove(&self, name: BlockName) {
        // Where it can't be removed it is found damaged again, and fetched again.
        let _ = fs::remove_file(self.path(name));
        self.shelf().removed(name);
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
                self.shelf().used(name, len);
                let mut writing = self.writing();
                writing.paused_until = None;
                true
            }
            Err(error) => {
                let mut writing = self.writing();
                writing.errors += 1;
                writing.paused_until = Some(Instant::now() + PAUSE);
                if !std::mem::replace(&mut writing.warned, true) {
                    let root = self.root.display();
                    log::warn!("{root}: can't keep blocks: {error}; continuing without the cache");
                }
                false
            }
        }
    }

    fn write(&self, name: BlockName, file: &[u8]) -> io::Result<()> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let temporary = self.root.join(format!("tmp/{}-{count}", std::process::id()));
        let target = self.path(name);
        let written = self.write_new(&temporary, file).and_then(|()| match fs::rename(&temporary, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(target.parent().unwrap_or(&self.root))?;
                fs::rename(&temporary, &target)
            }
            renamed => renamed,
        });
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn write_new(&self, path: &Path, file: &[u8]) -> io::Result<()> {
        let create = || OpenOptions::new().write(true).create_new(true).open(path);
        let mut out = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody removed the cache under us.
                fs::create_dir_all(self.root.join("tmp"))?;
                create()?
            }
            // A client of our number, in another chroot or before a crash.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.count.fetch_add(1 << 32, Ordering::Relaxed);
                return Err(error);
            }
            created => created?,
        };
        out.write_all(file)
    }

    /// Blocks that could not be kept.
    pub fn write_errors(&self) -> u64 {
        self.writing().errors
    }

    /// The directory of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn shelf(&self) -> std::sync::MutexGuard<'_, CacheInventory> {
        // Its counts are whole after every statement.
        self.shelf.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn writing(&self) -> std::sync::MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A regular file of exactly `len` bytes. Nothing else is opened in a way that could block: the cache may be on
/// a stick that somebody else prepared.
fn read_file(path: &Path, len: u32) -> Option<Vec<u8>> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).ok()?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let found = file.metadata().ok()?;
    if !found.is_file() {
        return None;
    }
    // A file of another length is read too, up to one byte more: it is damaged, and the caller removes it.
    let mut bytes = Vec::with_capacity(len as usize + 1);
    file.take(u64::from(len) + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
