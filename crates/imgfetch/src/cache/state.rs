//! What must be remembered: the highest serial that was accepted, and the indexes of the images. Synced.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

use formats::index::MAX_FILE;
use formats::names::{ImageName, Serial};
use system::files::{AtomicFile, FileError, create_dir_all, read_at_most};

use super::Cache;
use formats::release::{Document, KeyId, Release, Successors};

impl Cache {
    fn serial_path(&self, name: &ImageName) -> PathBuf {
        self.root.join(format!("state/{name}.serial"))
    }

    fn index_path(&self, name: &ImageName, image: &ImageName) -> PathBuf {
        self.root.join(format!("state/{name}/{image}.idx"))
    }

    /// The highest serial of this distribution that was ever accepted here.
    ///
    /// # Errors
    /// [`FileError`] when there is something that can't be read, or that is no serial: what was accepted is then
    /// unknown, and the person must decide.
    pub fn accepted_serial(&self, name: &ImageName) -> Result<Option<Serial>, FileError> {
        let path = self.serial_path(name);
        let text = match read_at_most(&path, 64) {
            Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let serial = std::str::from_utf8(&text).ok().and_then(|text| text.strip_suffix('\n'));
        match serial.and_then(|text| text.parse().ok()) {
            Some(serial) => Ok(Some(serial)),
            None => {
                let text = "no serial in it; remove the file to accept any release";
                let source = io::Error::new(io::ErrorKind::InvalidData, text);
                Err(FileError::Io { path, doing: "read", source })
            }
        }
    }

    /// Remembers an accepted serial on the disk itself, unless a higher one is there.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn accept_serial(&self, name: &ImageName, serial: Serial) -> Result<(), FileError> {
        // Two clients that share the cache must not write the lower one last.
        let dir = self.root.join("state");
        let failed = |error: io::Error| FileError::new(&dir, "lock", error);
        let lock = File::open(&dir).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        if self.accepted_serial(name)? >= Some(serial) {
            return Ok(());
        }
        self.write_synced(self.serial_path(name), format!("{serial}\n").as_bytes())
    }

    /// The distribution of which this cache knows a release, if there is just one.
    pub fn only_name(&self) -> Option<ImageName> {
        let entries = std::fs::read_dir(self.root.join("state")).ok()?;
        let mut names = entries.flatten().filter(|entry| entry.path().join("release").exists());
        let name = names.next()?.file_name().to_str()?.parse().ok()?;
        names.next().is_none().then_some(name)
    }

    /// The release that was used last, with its signature, whatever it is: the caller verifies it.
    pub fn saved_release(&self, name: &ImageName) -> Option<Vec<u8>> {
        read_at_most(self.root.join(format!("state/{name}/release")), Release::LIMIT).ok()
    }

    /// Keeps a release, so that it can be used without a network.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_release(&self, name: &ImageName, text: &[u8]) -> Result<(), FileError> {
        if self.saved_release(name).as_deref() == Some(text) {
            return Ok(());
        }
        create_dir_all(self.root.join(format!("state/{name}")))?;
        self.write_synced(self.root.join(format!("state/{name}/release")), text)
    }

    /// The index kept for an image, whatever it is: the caller compares its SHA-256.
    pub fn saved_index(&self, name: &ImageName, image: &ImageName) -> Option<Vec<u8>> {
        read_at_most(self.index_path(name, image), MAX_FILE).ok()
    }

    /// Keeps the index of an image, so that it need not be fetched again.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_index(&self, name: &ImageName, image: &ImageName, text: &[u8]) -> Result<(), FileError> {
        create_dir_all(self.root.join(format!("state/{name}")))?;
        self.write_synced(self.index_path(name, image), text)
    }

    /// What a key said about its successors, whatever it is: the caller verifies it.
    pub fn saved_keys(&self, key: KeyId) -> Option<Vec<u8>> {
        read_at_most(self.root.join(format!("state/{key}.keys")), Successors::LIMIT).ok()
    }

    /// Keeps what a key said about its successors.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_keys(&self, key: KeyId, text: &[u8]) -> Result<(), FileError> {
        self.write_synced(self.root.join(format!("state/{key}.keys")), text)
    }

    fn write_synced(&self, path: PathBuf, bytes: &[u8]) -> Result<(), FileError> {
        let mut file = AtomicFile::create(&path)?;
        file.write_all(bytes).map_err(|error| FileError::new(&path, "write", error))?;
        file.commit_synced()
    }
}
