//! One process at a time in a directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use super::{FileError, create_dir_all};

/// The right to work in a directory, until dropped or the process ends. Held by a `flock` on the file `.lock`
/// in it, which stays.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Makes the directory if it is missing and locks it, at once or not at all.
    ///
    /// # Errors
    /// [`FileError::Locked`] names the process that has it.
    pub fn take(dir: impl AsRef<Path>) -> Result<Self, FileError> {
        let dir = dir.as_ref();
        create_dir_all(dir)?;
        let path = dir.join(".lock");
        let failed = |error| FileError::new(&path, "lock", error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Its owner may not have written its id yet.
                let known = file.take(20).read_to_string(&mut owner).is_ok_and(|_| !owner.trim().is_empty());
                let owner = if known { owner.trim().into() } else { "unknown".into() };
                return Err(FileError::Locked { path: dir.into(), owner });
            }
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(DirLock { _file: file })
    }
}
