//! What a target must be able to do. `host::remote` does it for directories, rsync, HTTP and S3; tests do it in
//! memory, with faults and with every order of events.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::RemotePath;
use formats::names::UnixTime;
use formats::release::MirrorPath;

/// Why an operation on a target failed: where, and what it said.
#[derive(Debug)]
pub struct RemoteError {
    /// The target or one of its files, and what was tried.
    pub what: String,
    /// The cause, which is shown below.
    pub source: Box<dyn Error + Send + Sync>,
}

impl RemoteError {
    /// `what` is the file and what was tried: `s3://x/latest: can't write`.
    pub fn new(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        RemoteError { what: what.into(), source: source.into() }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for RemoteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// The files of a mirror tree, wherever they are.
pub trait MirrorFiles: Sync {
    /// Reads a whole file, `limit` bytes at most; `None` when it is not there.
    ///
    /// # Errors
    /// [`RemoteError`]; also when it is longer.
    fn read(&self, path: &MirrorPath, limit: u64) -> Result<Option<Vec<u8>>, RemoteError>;

    /// Reads several files, each of its length at most.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn read_all(&self, items: &[FileToSend]) -> Result<Vec<Option<Vec<u8>>>, RemoteError> {
        items.iter().map(|item| self.read(&item.path, item.len)).collect()
    }

    /// How many files [`MirrorFiles::read_all`] is best asked for: 1 where it saves nothing.
    fn together(&self) -> usize {
        1
    }

    /// Looks whether these, which are going to be sent, are what the release says.
    ///
    /// # Errors
    /// [`RemoteError`] names the first that is not.
    fn check(&self, _items: &[FileToSend]) -> Result<(), RemoteError> {
        Ok(())
    }

    /// Where they are on a disk of this machine, for programs that copy from there.
    fn root(&self) -> Option<&Path> {
        None
    }
}

/// A file to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileToSend {
    pub path: MirrorPath,
    /// Length in bytes.
    pub len: u64,
}

/// A file that is on a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its path below the root; perhaps none of a mirror's.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
}

/// The bytes of a file, and when it was written, if that is known.
pub type DatedFile = (Vec<u8>, Option<UnixTime>);

/// A place to publish to.
pub trait Remote: Sync {
    /// Its name, for people.
    fn name(&self) -> String;

    /// Reads a whole file, its [`RemotePath::limit`] at most; `None` when it is not there.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn get(&self, place: &RemotePath) -> Result<Option<Vec<u8>>, RemoteError>;

    /// Reads a file as [`Remote::get`] does, with the time at which it was written by the clock of the target, where a
    /// target has a clock of its own and shows it.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn get_dated(&self, place: &RemotePath) -> Result<Option<DatedFile>, RemoteError> {
        Ok(self.get(place)?.map(|bytes| (bytes, None)))
    }

    /// Reads several files, as [`Remote::get`] does.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn get_all(&self, places: &[RemotePath]) -> Result<Vec<Option<Vec<u8>>>, RemoteError> {
        places.iter().map(|place| self.get(place)).collect()
    }

    /// How many files [`Remote::get_all`] is best asked for: 1 where it saves nothing.
    fn together(&self) -> usize {
        1
    }

    /// The length of each of these files; `None` for those that are not there.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn lengths(&self, items: &[FileToSend]) -> Result<Vec<Option<u64>>, RemoteError>;

    /// Copies files from a tree, in any order, each in one step as far as the target can do that. When it returns,
    /// all are there, and on a disk of ours synced. `sent` is called with bytes as they go.
    ///
    /// # Errors
    /// [`RemoteError`]; some may have been copied.
    fn put(
        &self,
        tree: &dyn MirrorFiles,
        items: &[FileToSend],
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RemoteError>;

    /// Writes one file in one step.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn write(&self, place: &RemotePath, bytes: &[u8]) -> Result<(), RemoteError>;

    /// Removes files. That one is not there is no error.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn remove(&self, places: &[RemotePath]) -> Result<(), RemoteError>;

    /// Everything there is, unfinished files aside; `None` when the target can't tell.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn list(&self) -> Result<Option<Vec<Listed>>, RemoteError>;

    /// Whether reading back costs no more than reading our own tree: all of what a broken attempt left is read then.
    fn is_near(&self) -> bool {
        false
    }

    /// Bytes that can still be written, where that is known.
    fn free(&self) -> Option<u64> {
        None
    }
}

/// The clock, as an argument.
pub trait Clock: Sync {
    /// The current time; leases are compared with it.
    fn now(&self) -> UnixTime;
    /// Blocks the thread for `time`.
    fn sleep(&self, time: Duration);
}
