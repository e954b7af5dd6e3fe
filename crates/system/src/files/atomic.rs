//! Files that appear whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use super::FileError;
use super::temporary::{Temporary, directory_of};

/// A file that gets its name when it is complete: written beside the target, renamed by
/// [`commit`](AtomicFile::commit), removed when dropped before. Buffered.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    // Before `temporary`: the buffer must be gone when the file is removed.
    writer: BufWriter<File>,
    temporary: Temporary,
}

impl AtomicFile {
    /// Starts a file that everybody may read, as far as the umask allows. Its directory must exist.
    ///
    /// # Errors
    /// [`FileError`] when no file can be made in the target's directory.
    pub fn create(target: impl AsRef<Path>) -> Result<Self, FileError> {
        Self::create_with_mode(target, 0o666)
    }

    /// Starts a file with the given permission bits, less the umask: 0o600 for secrets.
    ///
    /// # Errors
    /// As [`AtomicFile::create`].
    pub fn create_with_mode(target: impl AsRef<Path>, mode: u32) -> Result<Self, FileError> {
        let target = target.as_ref();
        let temporary = Temporary::file(directory_of(target), mode)?;
        let file = temporary
            .lock
            .try_clone()
            .map_err(|error| FileError::new(&temporary.path, "open again", error))?;
        Ok(AtomicFile { target: target.into(), writer: BufWriter::new(file), temporary })
    }

    /// The name it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The open file, for who writes here and there; nothing is buffered on this way.
    pub fn as_file(&self) -> &File {
        self.writer.get_ref()
    }

    /// Where it is until then, for a program that reads it early.
    ///
    /// # Errors
    /// [`FileError`] when the buffer can't be written out.
    pub fn flushed(&mut self) -> Result<&Path, FileError> {
        self.flush_buffer()?;
        Ok(&self.temporary.path)
    }

    /// Has the system begin to write what is there to the disk, without waiting for it: a sync later has less to do.
    ///
    /// # Errors
    /// [`FileError`] when the buffer can't be written out.
    pub fn start_sync(&mut self) -> Result<(), FileError> {
        self.flush_buffer()?;
        // On Linux this begins the writing of what is dirty, and keeps that in memory. Where it does nothing, the sync
        // does it all.
        let _ = rustix::fs::fadvise(self.writer.get_ref(), 0, None, rustix::fs::Advice::DontNeed);
        Ok(())
    }

    /// Makes the file `len` bytes long; what was not written reads as zeros and takes no space.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn set_len(&mut self, len: u64) -> Result<(), FileError> {
        self.flush_buffer()?;
        let file = self.writer.get_ref();
        file.set_len(len).map_err(|error| FileError::new(&self.target, "resize", error))
    }

    /// Puts the file in place. After a power cut it may be missing or, on some file systems, empty.
    ///
    /// # Errors
    /// [`FileError`]; the target is then as it was before.
    pub fn commit(mut self) -> Result<(), FileError> {
        self.flush_buffer()?;
        self.temporary.rename(&self.target)
    }

    /// As [`AtomicFile::commit`], under a name in the same directory that was not known before.
    ///
    /// # Errors
    /// As [`AtomicFile::commit`].
    pub fn commit_as(mut self, target: &Path) -> Result<(), FileError> {
        self.target = target.into();
        self.commit()
    }

    /// Puts the file in place so that it survives a power cut: file and directory are synced.
    ///
    /// # Errors
    /// As [`AtomicFile::commit`].
    pub fn commit_synced(mut self) -> Result<(), FileError> {
        self.flush_buffer()?;
        let synced = self.writer.get_ref().sync_all();
        synced.map_err(|error| FileError::new(&self.target, "sync", error))?;
        self.temporary.rename(&self.target)?;
        let dir = directory_of(&self.target);
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| FileError::new(dir, "sync", error))
    }

    fn flush_buffer(&mut self) -> Result<(), FileError> {
        self.writer.flush().map_err(|error| FileError::new(&self.target, "write", error))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes).map_err(|error| FileError::new(&self.target, "write", error).into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.flush_buffer()?)
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.writer.seek(to).map_err(|error| FileError::new(&self.target, "seek", error).into())
    }
}
