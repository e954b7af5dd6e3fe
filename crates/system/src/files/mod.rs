//! Files that appear whole or not at all, scratch that goes away, and locks on directories.
//!
//! Everything unfinished has a name that starts with [`PREFIX`] and is held by a `flock` for as long as its
//! process lives. It is removed when its owner is dropped and when a signal ends the process ([`Ending`]);
//! what a `kill -9` left behind is recognised by the lock, which no process holds, and [`sweep`] removes it.

mod atomic;
mod confined;
mod lock;
mod output;
mod temporary;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use atomic::AtomicFile;
pub use confined::ConfinedDir;
pub use lock::DirLock;
pub use output::{Output, OutputPath, regular_output, write_output};
pub use temporary::{Ending, PREFIX, Scratch, sweep};

use formats::report;

/// Why a file operation failed. The path comes first.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Anything the system says, apart from a full file system.
    #[error("{}: can't {doing}", path.display())]
    Io {
        path: PathBuf,
        /// What was tried: `read`, `create`, ...
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No space left, or the user's quota is used up.
    #[error(
        "{}: no space left: the file system at {} has {} free of {}{}",
        path.display(), mount.display(), report::size(*free), report::size(*total),
        if *quota { ", but your quota is used up" } else { "; free some space, or choose another directory" }
    )]
    NoSpace {
        path: PathBuf,
        /// Where the file system is mounted.
        mount: PathBuf,
        /// Bytes an ordinary user may still write.
        free: u64,
        /// Size of the file system in bytes.
        total: u64,
        /// Whether a quota, not the file system, is the limit.
        quota: bool,
    },
    /// Another process works in the directory.
    #[error("{}: in use by process {owner}; wait until it has ended, or choose another directory", path.display())]
    Locked {
        path: PathBuf,
        /// Its process id, or `unknown`.
        owner: String,
    },
}

impl FileError {
    /// Puts the path, and for a full file system its figures, to what the system said.
    pub fn new(path: &Path, doing: &'static str, source: io::Error) -> Self {
        let quota = source.kind() == io::ErrorKind::QuotaExceeded;
        if quota || source.kind() == io::ErrorKind::StorageFull {
            // Without the figures the plain error still names the path and says what happened.
            if let Ok(FileSystem { mount, free, total }) = FileSystem::of(path) {
                return FileError::NoSpace { path: path.into(), mount, free, total, quota };
            }
        }
        FileError::Io { path: path.into(), doing, source }
    }

    /// Whether it is the disk that takes nothing, and not a path or an owner that is wrong.
    pub fn is_of_the_disk(&self) -> bool {
        match self {
            FileError::NoSpace { .. } => true,
            FileError::Io { source, .. } => {
                source.kind() == io::ErrorKind::ReadOnlyFilesystem
                    || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            }
            FileError::Locked { .. } => false,
        }
    }
}

/// For code that writes through [`io::Write`]: the path stays in the error.
impl From<FileError> for io::Error {
    fn from(error: FileError) -> io::Error {
        let kind = match &error {
            FileError::Io { source, .. } => source.kind(),
            FileError::NoSpace { .. } => io::ErrorKind::StorageFull,
            FileError::Locked { .. } => io::ErrorKind::ResourceBusy,
        };
        io::Error::new(kind, error)
    }
}

/// The file system that holds a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Bytes an ordinary user may still write.
    pub free: u64,
    /// Its size in bytes.
    pub total: u64,
}

impl FileSystem {
    /// Looks at the file system of `path`, or of its nearest parent that exists.
    ///
    /// # Errors
    /// [`FileError::Io`] when it can't be looked at.
    pub fn of(path: &Path) -> Result<Self, FileError> {
        let failed = |source| FileError::Io { path: path.into(), doing: "inspect its file system", source };
        let mut at = std::path::absolute(path).map_err(failed)?;
        while !at.exists() && at.pop() {}
        let at = fs::canonicalize(&at).map_err(failed)?;
        let device = fs::metadata(&at).map_err(failed)?.dev();
        let mount = at
            .ancestors()
            .take_while(|above| fs::metadata(above).is_ok_and(|found| found.dev() == device))
            .last()
            .unwrap_or(&at);
        let figures = rustix::fs::statvfs(&at).map_err(|errno| failed(errno.into()))?;
        Ok(FileSystem {
            mount: mount.into(),
            free: figures.f_bavail.saturating_mul(figures.f_frsize),
            total: figures.f_blocks.saturating_mul(figures.f_frsize),
        })
    }
}

/// Writes a small file so that it appears whole or not at all. Not synced.
///
/// # Errors
/// [`FileError`].
pub fn write_atomic(target: impl AsRef<Path>, bytes: &[u8]) -> Result<(), FileError> {
    let target = target.as_ref();
    let mut file = AtomicFile::create(target)?;
    file.write_all(bytes).map_err(|error| FileError::new(target, "write", error))?;
    file.commit()
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// [`FileError::Io`]; kind `FileTooLarge` when there is more.
pub fn read_at_most(path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, FileError> {
    let path = path.as_ref();
    let failed = |error| FileError::new(path, "read", error);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    within(bytes.len() as u64, limit).map_err(failed)?;
    Ok(bytes)
}

/// Kind `FileTooLarge` for more than `limit` bytes.
fn within(len: u64, limit: u64) -> io::Result<()> {
    if len <= limit {
        return Ok(());
    }
    let text = format!("it is larger than {}", report::size(limit));
    Err(io::Error::new(io::ErrorKind::FileTooLarge, text))
}

/// Makes a directory and its parents.
///
/// # Errors
/// [`FileError`].
pub fn create_dir_all(path: impl AsRef<Path>) -> Result<(), FileError> {
    let path = path.as_ref();
    fs::create_dir_all(path).map_err(|error| FileError::new(path, "create", error))
}
