//! What must be remembered: the highest serial that was accepted, and the indexes of the images. Synced.

use std::fs::File;
use std::io;

use rustix::fs::{FlockOperation, flock};

use super::{Cache, SCRATCH};
use formats::index::MAX_FILE;
use formats::names::{ImageName, Serial};
use formats::release::{Document, KeyId, Latest, Release, Successors};
use system::files::FileError;

fn serial_file(name: &ImageName) -> String {
    format!("state/{name}.serial")
}

fn release_file(name: &ImageName) -> String {
    format!("state/{name}/release")
}

fn latest_file(name: &ImageName) -> String {
    format!("state/{name}/latest")
}

fn index_file(name: &ImageName, image: &ImageName) -> String {
    format!("state/{name}/{image}.idx")
}

fn keys_file(key: KeyId) -> String {
    format!("state/{key}.keys")
}

impl Cache {
    /// The highest serial of this distribution that was ever accepted here.
    ///
    /// # Errors
    /// [`FileError`] when there is something that can't be read, or that is no serial: what was accepted is then
    /// unknown, and the person must decide.
    pub fn accepted_serial(&self, name: &ImageName) -> Result<Option<Serial>, FileError> {
        let file = serial_file(name);
        let text = match self.dir.read(&file, 64) {
            Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let serial = std::str::from_utf8(&text).ok().and_then(|text| text.strip_suffix('\n'));
        match serial.and_then(|text| text.parse().ok()) {
            Some(serial) => Ok(Some(serial)),
            None => {
                let text = "no serial in it; remove the file to accept any release";
                let source = io::Error::new(io::ErrorKind::InvalidData, text);
                Err(FileError::Io { path: self.root().join(file), doing: "read", source })
            }
        }
    }

    /// Remembers an accepted serial on the disk itself, unless a higher one is there. With `restart` in its place too.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn accept_serial(&self, name: &ImageName, serial: Serial, restart: bool) -> Result<(), FileError> {
        // Two clients that share the cache must not write the lower one last.
        let lock = self.dir.lock_file("state/lock")?;
        lock_for_a_while(&lock);
        if !restart && self.accepted_serial(name)? >= Some(serial) {
            return Ok(());
        }
        self.dir.replace(SCRATCH, &serial_file(name), format!("{serial}\n").as_bytes())
    }

    /// The distribution of which this cache knows a release, if there is just one.
    pub fn only_name(&self) -> Option<ImageName> {
        let entries = self.dir.names("state").ok()?;
        let names = entries.iter().filter_map(|name| name.to_str()?.parse().ok());
        let mut names = names.filter(|name| self.dir.regular(release_file(name)).is_some());
        let name = names.next()?;
        names.next().is_none().then_some(name)
    }

    /// The release that was used last, with its signature, whatever it is: the caller verifies it.
    pub fn saved_release(&self, name: &ImageName) -> Option<Vec<u8>> {
        self.dir.read_text(&release_file(name), Release::LIMIT).ok()
    }

    /// Keeps a release, so that it can be used without a network.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_release(&self, name: &ImageName, text: &[u8]) -> Result<(), FileError> {
        self.keep(name, &release_file(name), self.saved_release(name), text)
    }

    /// The newest `latest` that was accepted, with its signature, whatever it is: the caller verifies it.
    pub fn saved_latest(&self, name: &ImageName) -> Option<Vec<u8>> {
        self.dir.read_text(&latest_file(name), Latest::LIMIT).ok()
    }

    /// Keeps a `latest`: what it revokes stays revoked, and another release of its serial is noticed.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_latest(&self, name: &ImageName, text: &[u8]) -> Result<(), FileError> {
        self.keep(name, &latest_file(name), self.saved_latest(name), text)
    }

    /// The index kept for an image, whatever it is: the caller compares its SHA-256.
    pub fn saved_index(&self, name: &ImageName, image: &ImageName) -> Option<Vec<u8>> {
        self.dir.read_text(&index_file(name, image), MAX_FILE).ok()
    }

    /// Keeps the index of an image, so that it need not be fetched again.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_index(&self, name: &ImageName, image: &ImageName, text: &[u8]) -> Result<(), FileError> {
        self.keep(name, &index_file(name, image), None, text)
    }

    /// What a key said about its successors, whatever it is: the caller verifies it.
    pub fn saved_keys(&self, key: KeyId) -> Option<Vec<u8>> {
        self.dir.read(&keys_file(key), Successors::LIMIT).ok()
    }

    /// Keeps what a key said about its successors.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save_keys(&self, key: KeyId, text: &[u8]) -> Result<(), FileError> {
        self.dir.replace(SCRATCH, &keys_file(key), text)
    }

    /// Puts a file into the directory of a distribution, unless it is `there` already.
    fn keep(
        &self,
        name: &ImageName,
        file: &str,
        there: Option<Vec<u8>>,
        text: &[u8],
    ) -> Result<(), FileError> {
        if there.as_deref() == Some(text) {
            return Ok(());
        }
        self.dir.create_dir(&format!("state/{name}"))?;
        self.dir.replace(SCRATCH, file, text)
    }
}

/// Waits a second at most for a client that has the lock: it writes some bytes. A file system without locks (`ENOLCK`),
/// and a process that keeps the lock, must not keep a boot waiting.
fn lock_for_a_while(lock: &File) {
    for _ in 0..50 {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            _ => return,
        }
    }
}
