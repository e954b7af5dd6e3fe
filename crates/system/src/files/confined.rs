//! Files below a directory that others may have prepared: a stick, a partition with caches of an earlier system.
//!
//! Nothing below the directory is trusted but the names that we open: no symbolic link is followed, not even one in the
//! middle of a path (openat2(2) with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`, Linux 5.6), only regular files are
//! read, and opening one never waits, as it would for a FIFO.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

use super::{FileError, within};

/// A directory below which no link is followed. Names are relative to it, with `/` between their parts.
#[derive(Clone, Debug)]
pub struct ConfinedDir {
    root: PathBuf,
}

/// Bytes that are read before they are looked at.
const PART: u64 = 64 << 10;

/// Gives each file that is being written a name of its own.
static COUNT: AtomicU64 = AtomicU64::new(0);

impl ConfinedDir {
    /// The directory of this path. The path itself may have links in it: the user gave it. It is opened again for each
    /// file, so that a directory that is removed and made again is the same.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        ConfinedDir { root: root.into() }
    }

    /// The path that was given.
    pub fn path(&self) -> &Path {
        &self.root
    }

    fn open(&self, name: &OsStr, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let root =
            rustix::fs::open(&self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(root, name, flags, mode, resolve)?)
    }

    fn directory(&self, name: &OsStr) -> io::Result<OwnedFd> {
        self.open(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// The directory that has the last part of `name`, and that part.
    fn parent<'n>(&self, name: &'n OsStr) -> io::Result<(OwnedFd, &'n OsStr)> {
        let path = Path::new(name);
        let last = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok((self.directory(parent.map_or(OsStr::new("."), Path::as_os_str))?, last))
    }

    fn failed(&self, name: &str, doing: &'static str, error: io::Error) -> FileError {
        let error = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            Some(rustix::io::Errno::LOOP | rustix::io::Errno::XDEV) => {
                io::Error::new(error.kind(), "a symbolic link is in its path; links are not followed there")
            }
            _ => error,
        };
        FileError::new(&self.root.join(name), doing, error)
    }

    /// Reads a regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`FileError::Io`]; kind `FileTooLarge` when there is more, `InvalidInput` when it is not a regular file.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, FileError> {
        let read = || {
            let (file, len) = self.open_regular(name, limit)?;
            let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0) + 1);
            file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
            within(bytes.len() as u64, limit)?;
            Ok(bytes)
        };
        read().map_err(|error| self.failed(name, "read", error))
    }

    /// Reads a text of at most `limit` bytes. A hole in the file, which costs whoever made it nothing, ends the reading:
    /// it costs no memory either.
    ///
    /// # Errors
    /// As [`ConfinedDir::read`]; kind `InvalidData` when there is a NUL in it.
    pub fn read_text(&self, name: &str, limit: u64) -> Result<Vec<u8>, FileError> {
        let read = || {
            let (file, _) = self.open_regular(name, limit)?;
            let mut bytes = Vec::new();
            loop {
                let before = bytes.len();
                if (&file).take(PART).read_to_end(&mut bytes)? == 0 {
                    return Ok(bytes);
                }
                // A file that grows meanwhile is too large as well.
                within(bytes.len() as u64, limit)?;
                if bytes[before..].contains(&0) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a text"));
                }
            }
        };
        read().map_err(|error| self.failed(name, "read", error))
    }

    /// A regular file of at most `limit` bytes, and how many it has.
    fn open_regular(&self, name: &str, limit: u64) -> io::Result<(File, u64)> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(self.open(name.as_ref(), flags, Mode::empty())?);
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        within(found.len(), limit)?;
        Ok((file, found.len()))
    }

    /// What is there under the name, if it is a regular file.
    pub fn regular(&self, name: impl AsRef<OsStr>) -> Option<Stat> {
        let (parent, last) = self.parent(name.as_ref()).ok()?;
        let found = rustix::fs::statat(parent, last, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (FileType::from_raw_mode(found.st_mode) == FileType::RegularFile).then_some(found)
    }

    /// Whether there is anything under the name; a link counts as itself.
    pub fn exists(&self, name: &str) -> bool {
        let found = self.parent(name.as_ref());
        found.is_ok_and(|(parent, last)| rustix::fs::statat(parent, last, AtFlags::SYMLINK_NOFOLLOW).is_ok())
    }

    /// The names in a directory, in no order.
    ///
    /// # Errors
    /// What the system says; `NotADirectory` or a loop of links when it is something else.
    pub fn names(&self, name: impl AsRef<OsStr>) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.directory(name.as_ref())?)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Makes a directory and those above it that are missing.
    ///
    /// # Errors
    /// [`FileError::Io`], also when something else has its name.
    pub fn create_dir(&self, name: &str) -> Result<(), FileError> {
        let made = || {
            std::fs::create_dir_all(&self.root)?;
            let mut path = PathBuf::new();
            for part in Path::new(name) {
                path.push(part);
                let (parent, last) = self.parent(path.as_os_str())?;
                match rustix::fs::mkdirat(&parent, last, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            self.directory(path.as_os_str()).map(drop)
        };
        made().map_err(|error| self.failed(name, "create", error))
    }

    /// Opens a file for locking, and makes it if it is missing.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn lock_file(&self, name: &str) -> Result<File, FileError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = self.open(name.as_ref(), flags, Mode::from_raw_mode(0o666));
        opened.map(File::from).map_err(|error| self.failed(name, "open", error))
    }

    /// Writes a file of a name that is not there yet.
    ///
    /// # Errors
    /// `AlreadyExists`; what the system says.
    pub fn create_new(&self, name: &str, bytes: &[u8]) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = File::from(self.open(name.as_ref(), flags, Mode::from_raw_mode(0o666))?);
        file.write_all(bytes)?;
        Ok(file)
    }

    /// Gives a file another name; what had that name is gone, if it was no directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let ((from, old), (to, new)) = (self.parent(from.as_ref())?, self.parent(to.as_ref())?);
        Ok(rustix::fs::renameat(from, old, to, new)?)
    }

    /// Removes what has the name, if it is no directory: of a link the link.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let (parent, last) = self.parent(name.as_ref())?;
        Ok(rustix::fs::unlinkat(parent, last, AtFlags::empty())?)
    }

    /// Puts a file in place so that it survives a power cut. It is written in `scratch`, a directory below this one.
    ///
    /// # Errors
    /// [`FileError`]; what was there before stays.
    pub fn replace(&self, scratch: &str, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let temporary = format!("{scratch}/{pid}-s{count}");
        let put = || {
            let _ = self.remove(&temporary);
            self.create_new(&temporary, bytes)?.sync_all()?;
            self.rename(&temporary, name)?;
            let (parent, _) = self.parent(name.as_ref())?;
            Ok(rustix::fs::fsync(parent.as_fd())?)
        };
        put().map_err(|error| {
            let _ = self.remove(&temporary);
            self.failed(name, "write", error)
        })
    }
}
