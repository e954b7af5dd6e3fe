//! What is unfinished: named [`PREFIX`]..., locked while its process lives, gone at its end.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::FileError;
use formats::report::report;

/// What every temporary name of ours starts with.
pub const PREFIX: &str = ".imgfactory-tmp-";

/// What is to be removed if the process ends early.
struct Register {
    paths: Vec<PathBuf>,
    ending: bool,
}

static REGISTER: Mutex<Register> = Mutex::new(Register { paths: Vec::new(), ending: false });

/// The list is whole after every statement, so a panic of another thread does no harm to it.
fn register() -> MutexGuard<'static, Register> {
    REGISTER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes a path before it is made, so that no signal falls between.
fn enter(path: &Path) {
    loop {
        let mut register = register();
        if !register.ending {
            register.paths.push(path.into());
            return;
        }
        drop(register);
        // The process ends as soon as what exists is removed; nothing new must appear meanwhile.
        std::thread::park();
    }
}

fn leave(path: &Path) {
    register().paths.retain(|entered| entered != path);
}

/// The end of the process by a signal: from here on no scratch can be made.
pub struct Ending(());

impl Ending {
    /// Stops the making of scratch; threads that ask for some wait for the end.
    pub fn begin() -> Self {
        register().ending = true;
        Ending(())
    }

    /// Whether it has begun: what fails now fails because of it, and is not worth a report.
    pub fn begun() -> bool {
        register().ending
    }

    /// Removes all that is unfinished; gives what could not be removed.
    pub fn remove_all(&self) -> Vec<FileError> {
        let paths = std::mem::take(&mut register().paths);
        paths.iter().filter_map(|path| remove(path).err()).collect()
    }
}

/// Removes a file or a directory with all below it; nothing there is fine.
fn remove(path: &Path) -> Result<(), FileError> {
    let result = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::new(path, "remove", error)),
        _ => Ok(()),
    }
}

/// A new name in `dir`, unlike any other of this process.
fn temporary_name(dir: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    dir.join(format!("{PREFIX}{}-{count}", std::process::id()))
}

/// The directory a file lies in; `.` for a bare name.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A temporary file or directory: path on disk, entry in the register, lock.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) path: PathBuf,
    pub(super) lock: File,
}

impl Temporary {
    pub(super) fn file(dir: &Path, mode: u32) -> Result<Self, FileError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(mode);
        Self::make(dir, |path| options.open(path))
    }

    fn directory(dir: &Path) -> Result<Self, FileError> {
        Self::make(dir, |path| {
            fs::DirBuilder::new().mode(0o700).create(path)?;
            File::open(path)
        })
    }

    fn make(dir: &Path, open: impl Fn(&Path) -> io::Result<File>) -> Result<Self, FileError> {
        let dir = std::path::absolute(dir).map_err(|error| FileError::new(dir, "find", error))?;
        loop {
            let path = temporary_name(&dir);
            enter(&path);
            let lock = match open(&path) {
                Ok(lock) => lock,
                // A dead process had our id.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    leave(&path);
                    continue;
                }
                Err(error) => {
                    leave(&path);
                    return Err(FileError::new(&path, "create", error));
                }
            };
            let made = Temporary { path, lock };
            // A sweep that came between has locked, and removes what it locked.
            match made.lock.try_lock() {
                Ok(()) if made.path.exists() => return Ok(made),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(FileError::new(&made.path, "lock", error)),
            }
        }
    }

    /// Gives the thing its final name, in place of a file (or an empty directory) that has it.
    pub(super) fn rename(mut self, target: &Path) -> Result<(), FileError> {
        fs::rename(&self.path, target).map_err(|error| FileError::new(target, "put in place", error))?;
        leave(&self.path);
        self.path = PathBuf::new();
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            if let Err(error) = remove(&self.path) {
                log::warn!("{}", report(&error));
            }
            leave(&self.path);
        }
    }
}

/// A file or directory for work in progress: removed when dropped and when a signal ends the process.
#[derive(Debug)]
pub struct Scratch {
    temporary: Temporary,
}

impl Scratch {
    /// A new, empty directory in `parent`, for the owner only.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn directory(parent: impl AsRef<Path>) -> Result<Self, FileError> {
        Ok(Scratch { temporary: Temporary::directory(parent.as_ref())? })
    }

    /// A new, empty file in `parent`, for the owner only.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn file(parent: impl AsRef<Path>) -> Result<Self, FileError> {
        Ok(Scratch { temporary: Temporary::file(parent.as_ref(), 0o600)? })
    }

    /// Where it is; absolute.
    pub fn path(&self) -> &Path {
        &self.temporary.path
    }

    /// The open file (read and write), or the open directory.
    pub fn as_file(&self) -> &File {
        &self.temporary.lock
    }

    /// Gives it a final name in the same file system, in place of a file or an empty directory of that name.
    ///
    /// # Errors
    /// [`FileError`]; the scratch is then removed.
    pub fn persist(self, target: impl AsRef<Path>) -> Result<(), FileError> {
        self.temporary.rename(target.as_ref())
    }
}

/// Removes what processes that are gone left unfinished in `dir` and below it, and gives the paths. Names that
/// are not ours are left alone, and so is what a living process holds.
///
/// # Errors
/// [`FileError`] when a directory can't be read or a leftover can't be removed.
pub fn sweep(dir: impl AsRef<Path>) -> Result<Vec<PathBuf>, FileError> {
    let mut swept = Vec::new();
    let mut todo = vec![dir.as_ref().to_path_buf()];
    while let Some(dir) = todo.pop() {
        let failed = |error| FileError::new(&dir, "read", error);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                if is_abandoned(&path) {
                    remove(&path)?;
                    swept.push(path);
                }
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(path);
            }
        }
    }
    swept.sort();
    Ok(swept)
}

/// Whether no process holds the lock. One that can't be opened is another user's, or just gone.
fn is_abandoned(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}
