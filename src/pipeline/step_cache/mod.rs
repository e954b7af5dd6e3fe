//! Results of steps that are kept between builds, each under the hash of its step's inputs.
//!
//! A result is found by its hash alone, so recipes that share a tree share its file, and a recipe that was moved finds
//! its own. What is *kept* is decided by recipe and step: of each step of each recipe the results of the two newest
//! builds, and two recipes that are built by turns keep theirs. A recipe is known by its `name:`, as mirrors know it;
//! where its file is has no part, so a pipeline that checks out into a new directory each time does not fill the disk.
//!
//! Over all, with what was downloaded, the cache has a size limit (`--cache-max`). At the end of a build
//! [`StepCache::shrink`] removes what was used longest ago. A result that a running build uses is never removed
//! ([`InUse`]), and each removal is reported.
//!
//! Builds may share a cache. A change of what is kept is made under a lock of [`RECORDS`], which is held for an
//! instant.

mod in_use;
mod records;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::sys::progress::Progress;
use formats::digest::Sha256;
use formats::report::{date, size};
use in_use::InUse;
use records::Records;
use system::files::{self, FileError, PREFIX, Scratch};

/// Results of one step that are kept for a recipe: the newest, and the one before.
const KEPT: usize = 2;
/// The size limit where the user gives none: 20 GiB.
pub const DEFAULT_LIMIT: u64 = 20 << 30;
/// Directory with the records of what the recipes use.
const RECORDS: &str = "recipes";
/// Directory of downloads, which count too.
const DOWNLOADS: &str = "sources";
/// Bytes of a digest in front of a result that is read at once.
const SUM: usize = 32;
/// No result that is read at once is longer.
const LIMIT: u64 = 1 << 30;

/// A kind of results: a directory, and what its files' names end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultKind {
    directory: &'static str,
    ending: &'static str,
}

/// Archives that mmdebstrap made.
pub const TREES: ResultKind = ResultKind { directory: "trees", ending: "tar" };
/// Miniroots, packed as cpio archives and compressed with xz.
pub const MINIROOTS: ResultKind = ResultKind { directory: "miniroots", ending: "cpio.xz" };

/// The cache, for one build of one recipe.
pub struct StepCache<'a> {
    dir: PathBuf,
    recipe: String,
    limit: u64,
    progress: &'a dyn Progress,
    in_use: RefCell<Vec<InUse>>,
}

/// A file of the cache that may be removed.
struct Entry {
    used: SystemTime,
    path: PathBuf,
    bytes: u64,
}

impl<'a> StepCache<'a> {
    /// The cache in `dir` for the recipe of this name. It may take `limit` bytes.
    pub fn new(dir: &Path, recipe: &str, limit: u64, progress: &'a dyn Progress) -> Self {
        StepCache { dir: dir.into(), recipe: recipe.into(), limit, progress, in_use: RefCell::default() }
    }

    /// Returns the directory of the cache.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file of a result, if it is there. It stays until the cache is dropped. `name` is of letters, digits and
    /// `-`.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn find(&self, kind: ResultKind, name: &str, key: Sha256) -> Result<Option<PathBuf>, FileError> {
        let file = file_name(kind, name, key);
        let path = self.dir.join(&file);
        if !self.hold(&path) {
            return Ok(None);
        }
        self.keep(kind, name, &file)?;
        Ok(Some(path))
    }

    /// A file for a result that is being made, which gets its name by [`StepCache::insert`].
    ///
    /// # Errors
    /// [`FileError`].
    pub fn begin(&self, kind: ResultKind) -> Result<Scratch, FileError> {
        let dir = self.dir.join(kind.directory);
        files::create_dir_all(&dir)?;
        Scratch::file(dir)
    }

    /// Keeps a result, in place of a damaged one, and removes the oldest of the same recipe and name.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn insert(
        &self,
        kind: ResultKind,
        name: &str,
        key: Sha256,
        made: Scratch,
    ) -> Result<PathBuf, FileError> {
        let file = file_name(kind, name, key);
        let path = self.dir.join(&file);
        let open = made.as_file();
        let failed = |error| FileError::new(made.path(), "finish", error);
        open.set_permissions(Permissions::from_mode(0o644)).map_err(failed)?;
        let open = open.try_clone().map_err(failed)?;
        let records = Records::lock(&self.dir.join(RECORDS))?;
        made.persist(&path)?;
        // A program that has written it may still have it open, and the lock of what is unfinished with it.
        let _ = open.unlock();
        self.hold(&path);
        self.keep_locked(&records, kind, name, &file)?;
        Ok(path)
    }

    /// A result that [`StepCache::put`] has kept, if it is there and undamaged.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn get(&self, kind: ResultKind, name: &str, key: Sha256) -> Result<Option<Vec<u8>>, FileError> {
        let Some(path) = self.find(kind, name, key)? else { return Ok(None) };
        let Ok(bytes) = files::read_at_most(&path, LIMIT) else { return Ok(None) };
        let Some((sum, result)) = bytes.split_at_checked(SUM) else { return Ok(None) };
        Ok((Sha256::of(result).0 == sum).then(|| result.to_vec()))
    }

    /// As [`StepCache::insert`], of bytes; their digest is written before them.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn put(&self, kind: ResultKind, name: &str, key: Sha256, result: &[u8]) -> Result<(), FileError> {
        let made = self.begin(kind)?;
        let mut file = made.as_file();
        let written = file.write_all(&Sha256::of(result).0).and_then(|()| file.write_all(result));
        written.map_err(|error| FileError::new(made.path(), "write", error))?;
        self.insert(kind, name, key, made)?;
        Ok(())
    }

    /// Marks a file of the cache as used, if it is there: until the cache is dropped, no build removes it.
    pub fn hold(&self, path: &Path) -> bool {
        let held = InUse::take(path);
        let there = held.is_some();
        self.in_use.borrow_mut().extend(held);
        there
    }

    fn keep(&self, kind: ResultKind, name: &str, file: &str) -> Result<(), FileError> {
        self.keep_locked(&Records::lock(&self.dir.join(RECORDS))?, kind, name, file)
    }

    /// Records that the recipe's newest build uses `file`, and removes what neither it nor another recipe keeps now.
    fn keep_locked(
        &self,
        records: &Records,
        kind: ResultKind,
        name: &str,
        file: &str,
    ) -> Result<(), FileError> {
        let step = format!("{}/{name}", kind.directory);
        for old in records.keep(&self.recipe, &step, file, KEPT)? {
            let path = self.dir.join(&old);
            let Some(bytes) = remove_unused(&path)? else { continue };
            self.progress.say(&format!(
                "cache: removed {old}, {}: the {KEPT} newest of {step} of recipe `{}` are kept",
                size(bytes),
                self.recipe
            ));
        }
        Ok(())
    }

    /// Removes what was used longest ago until the cache is within its limit. What a running build uses stays. A file
    /// that can't be removed is no reason for a finished build to fail, so that is reported only.
    pub fn shrink(&self) {
        if let Err(error) = self.try_shrink() {
            self.progress.say(&format!("cache: can't reduce it to its limit: {error}"));
        }
    }

    fn try_shrink(&self) -> Result<(), FileError> {
        let _records = Records::lock(&self.dir.join(RECORDS))?;
        let mut entries = Vec::new();
        for directory in [TREES.directory, MINIROOTS.directory, DOWNLOADS] {
            self.list(directory, &mut entries)?;
        }
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
        for Entry { used, path, bytes } in entries {
            if total <= self.limit {
                return Ok(());
            }
            if remove_unused(&path)?.is_none() {
                continue;
            }
            total -= bytes;
            let used = used.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            self.progress.say(&format!(
                "cache: removed {}, {}, last used {}: the limit is {} (--cache-max)",
                path.strip_prefix(&self.dir).unwrap_or(&path).display(),
                size(bytes),
                date(i64::try_from(used).unwrap_or(i64::MAX)),
                size(self.limit)
            ));
        }
        if total > self.limit {
            self.progress.say(&format!(
                "cache: {} are in use by running builds; the limit is {} (--cache-max)",
                size(total),
                size(self.limit)
            ));
        }
        Ok(())
    }

    /// The files of a directory, but for those that are being written.
    fn list(&self, directory: &str, entries: &mut Vec<Entry>) -> Result<(), FileError> {
        let dir = self.dir.join(directory);
        let found = match fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(|error| FileError::new(&dir, "read", error))?,
        };
        for entry in found {
            let entry = entry.map_err(|error| FileError::new(&dir, "read", error))?;
            // Another build may have removed it.
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_file() || entry.file_name().to_string_lossy().starts_with(PREFIX) {
                continue;
            }
            entries.push(Entry {
                used: metadata.modified().unwrap_or(UNIX_EPOCH),
                path: entry.path(),
                // Disks have holes.
                bytes: metadata.blocks() * 512,
            });
        }
        Ok(())
    }
}

/// Where a result is, from the cache's directory: `trees/host-0123456789abcdef.tar`.
fn file_name(kind: ResultKind, name: &str, key: Sha256) -> String {
    let ResultKind { directory, ending } = kind;
    format!("{directory}/{name}-{}.{ending}", &key.to_string()[..16])
}

/// Removes a file unless a build uses it, and gives the bytes that it took; `None` when it stays, or was not there.
fn remove_unused(path: &Path) -> Result<Option<u64>, FileError> {
    // Locking may need the right to write.
    let Ok(file) = File::options().read(true).write(true).open(path) else { return Ok(None) };
    if file.try_lock().is_err() {
        return Ok(None);
    }
    let bytes = file.metadata().map_or(0, |found| found.blocks() * 512);
    fs::remove_file(path).map_err(|error| FileError::new(path, "remove", error))?;
    Ok(Some(bytes))
}
