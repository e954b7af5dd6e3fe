//! That a build uses a file of the cache: a shared `flock` on it, which ends with the process at the latest.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

/// The mark. Who removes a file needs its lock exclusively, and does not get it while this exists.
#[derive(Debug)]
pub(super) struct InUse {
    _file: File,
}

impl InUse {
    /// Marks a file, and dates it as used now. `None` when it is not there.
    pub fn take(path: &Path) -> Option<Self> {
        loop {
            let file = File::open(path).ok()?;
            // A file system without locks has no concurrent builds that could be told apart.
            let _ = file.lock_shared();
            // Between the opening and the lock it may have been removed, or replaced.
            let (Ok(locked), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return None };
            if (locked.dev(), locked.ino()) == (named.dev(), named.ino()) {
                // The date decides what is removed first. A file of another user keeps its own.
                let _ = file.set_modified(SystemTime::now());
                return Some(InUse { _file: file });
            }
        }
    }
}
