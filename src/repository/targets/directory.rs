//! A directory of this machine as a target.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Once;

use walkdir::WalkDir;

use super::{local, parallel, read_file, send_all};
use crate::publish::{FileToSend, Listed, MirrorFiles, Remote, RemoteError, RemotePath};
use system::files::{AtomicFile, FileError, FileSystem, PREFIX, create_dir_all, sweep};

/// A directory. Files are written beside their names and renamed; everything is synced before it counts.
#[derive(Debug)]
pub struct DirectoryTarget {
    root: PathBuf,
    jobs: usize,
    swept: Once,
}

impl DirectoryTarget {
    /// A directory, which need not be there yet.
    pub fn new(root: impl Into<PathBuf>, jobs: usize) -> Self {
        DirectoryTarget { root: root.into(), jobs, swept: Once::new() }
    }

    fn path(&self, place: &RemotePath) -> PathBuf {
        // A `Place` has neither `..` nor a leading `/` in it, by its type.
        self.root.join(place.to_string())
    }

    /// Removes, once, what a killed publisher left unfinished: recognised by the lock, which no process holds.
    fn sweep(&self) {
        self.swept.call_once(|| {
            if let Err(error) = sweep(&self.root) {
                log::warn!("{error}");
            }
        });
    }

    fn begin(&self, place: &RemotePath, bytes: &[u8]) -> Result<AtomicFile, FileError> {
        let path = self.path(place);
        if let Some(dir) = path.parent() {
            create_dir_all(dir)?;
        }
        let mut file = AtomicFile::create(&path)?;
        file.write_all(bytes).map_err(|error| FileError::new(&path, "write", error))?;
        Ok(file)
    }

    /// Writes a file in one step; it may not yet survive a power cut.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn put_one(&self, place: &RemotePath, bytes: &[u8]) -> Result<(), RemoteError> {
        self.begin(place, bytes).and_then(AtomicFile::commit).map_err(local)
    }

    /// Waits until all that was written is on the disk.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn sync_all(&self) -> Result<(), RemoteError> {
        self.sync().map_err(local)
    }

    fn sync(&self) -> Result<(), FileError> {
        let failed = |error| FileError::new(&self.root, "sync", error);
        let dir = File::open(&self.root).map_err(failed)?;
        rustix::fs::syncfs(&dir).map_err(|errno| failed(errno.into()))
    }
}

impl Remote for DirectoryTarget {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn get(&self, place: &RemotePath) -> Result<Option<Vec<u8>>, RemoteError> {
        read_file(&self.path(place), place.limit()).map_err(local)
    }

    fn lengths(&self, items: &[FileToSend]) -> Result<Vec<Option<u64>>, RemoteError> {
        parallel(items, self.jobs, |item| {
            let path = self.path(&RemotePath::File(item.path.clone()));
            match fs::symlink_metadata(&path) {
                Ok(found) => Ok(found.is_file().then_some(found.len())),
                Err(error) if is_missing(&error) => Ok(None),
                Err(error) => Err(local(FileError::new(&path, "inspect", error))),
            }
        })
    }

    fn put(
        &self,
        tree: &dyn MirrorFiles,
        items: &[FileToSend],
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RemoteError> {
        self.sweep();
        send_all(tree, items, self.jobs, sent, |place, bytes| self.put_one(place, bytes))?;
        self.sync().map_err(local)
    }

    fn write(&self, place: &RemotePath, bytes: &[u8]) -> Result<(), RemoteError> {
        self.begin(place, bytes).and_then(AtomicFile::commit_synced).map_err(local)
    }

    fn remove(&self, places: &[RemotePath]) -> Result<(), RemoteError> {
        for place in places {
            let path = self.path(place);
            match fs::remove_file(&path) {
                Err(error) if !is_missing(&error) => {
                    return Err(local(FileError::new(&path, "remove", error)));
                }
                _ => {}
            }
            // The directory of a release's image is of no use without its files; not empty, it stays.
            if let (RemotePath::File(formats::release::MirrorPath::Image(..)), Some(dir)) =
                (place, path.parent())
            {
                let _ = fs::remove_dir(dir);
            }
        }
        Ok(())
    }

    fn list(&self) -> Result<Option<Vec<Listed>>, RemoteError> {
        if !self.root.exists() {
            return Ok(Some(vec![]));
        }
        self.sweep();
        list(&self.root).map(Some).map_err(local)
    }

    fn is_near(&self) -> bool {
        true
    }

    fn free(&self) -> Option<u64> {
        FileSystem::of(&self.root).ok().map(|found| found.free)
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Every file of a tree, unfinished ones and publishers' own aside.
pub(super) fn list(root: &Path) -> Result<Vec<Listed>, FileError> {
    let mut found = Vec::new();
    let ours = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        name.starts_with(PREFIX) || name == crate::publish::CONTROL_DIR
    };
    for entry in WalkDir::new(root).into_iter().filter_entry(|entry| !ours(entry.file_name())) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(root).to_path_buf();
            FileError::new(
                &path,
                "read",
                error.into_io_error().unwrap_or_else(|| io::ErrorKind::Other.into()),
            )
        })?;
        if !entry.file_type().is_file() {
            continue;
        }
        let metadata = entry.metadata().map_err(|error| {
            FileError::new(
                entry.path(),
                "inspect",
                error.into_io_error().unwrap_or_else(|| io::ErrorKind::Other.into()),
            )
        })?;
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_string_lossy().into_owned();
        found.push(Listed { path, len: metadata.len() });
    }
    Ok(found)
}
