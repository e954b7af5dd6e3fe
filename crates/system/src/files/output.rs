//! Files that the user names for a result: whatever has that name stays what it is.
//!
//! A regular file is replaced as a whole ([`AtomicFile`]), where a symbolic link leads. A block device is written in
//! place, if it is large enough and not in use. What takes a stream (FIFO, terminal, `/dev/null`, `/dev/stdout`) is
//! written to. The rest is refused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::temporary::directory_of;
use super::{AtomicFile, FileError};
use formats::report::size;

/// Most symbolic links followed, as the kernel's MAXSYMLINKS.
const MAX_LINKS: usize = 40;
/// Bytes copied at a time.
const BUFFER: usize = 1 << 20;

/// What is at the end of the links of a name.
enum Found {
    /// A regular file, or nothing: the name without links.
    File(PathBuf),
    Device,
    /// Takes bytes one after another. `open`: it is an open file of a process, to which is appended.
    Stream {
        open: bool,
    },
}

fn refused(path: &Path, why: &str) -> FileError {
    FileError::new(path, "write to it", io::Error::new(io::ErrorKind::InvalidInput, why.to_owned()))
}

fn look_up(path: &Path) -> Result<Found, FileError> {
    let failed = |error| FileError::new(path, "look at", error);
    let mut at = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let mut found = match fs::symlink_metadata(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::File(at)),
            found => found.map_err(failed)?.file_type(),
        };
        let mut open = false;
        if found.is_symlink() {
            let dir = directory_of(&at);
            // These lead to what a process has open, which may have no name: /dev/stdout ends in one.
            open = fs::canonicalize(dir).map_err(failed)?.starts_with("/proc");
            if !open {
                at = dir.join(fs::read_link(&at).map_err(failed)?);
                continue;
            }
            found = fs::metadata(&at).map_err(failed)?.file_type();
        }
        return match found {
            _ if found.is_dir() => Err(refused(path, "it is a directory; name a file in it")),
            _ if found.is_socket() => {
                Err(refused(path, "it is a socket; name a file, or a pipe to a program"))
            }
            _ if found.is_block_device() => Ok(Found::Device),
            _ if found.is_file() && !open => Ok(Found::File(at)),
            _ => Ok(Found::Stream { open }),
        };
    }
    Err(refused(path, "it is a symbolic link that leads to itself"))
}

/// The regular file that a name leads to, for what is written again and again.
///
/// # Errors
/// [`FileError`] when the name is that of something else.
pub fn regular_output(path: &Path) -> Result<PathBuf, FileError> {
    match look_up(path)? {
        Found::File(file) => Ok(file),
        _ => Err(refused(path, "it is written to many times, and needs a regular file; name one")),
    }
}

/// The name of a result, looked up before the work that leads to it.
#[derive(Debug)]
pub struct OutputPath {
    given: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File(PathBuf),
    /// Open, so that nothing else uses it, and how many bytes it has.
    Device(File, u64),
    Stream {
        open: bool,
    },
}

impl OutputPath {
    /// Looks up what has the name. A block device is opened, and must not be in use.
    ///
    /// # Errors
    /// [`FileError`] when nothing can be written there.
    pub fn find(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let given = path.as_ref();
        let kind = match look_up(given)? {
            Found::File(file) => Kind::File(file),
            Found::Device => {
                let failed = |error| FileError::new(given, "open", error);
                // Without O_CREAT, O_EXCL asks for a device that no mount and no other device uses: open(2).
                let flags = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
                let mut file = match rustix::fs::open(given, flags, rustix::fs::Mode::empty()) {
                    Err(Errno::BUSY) => {
                        return Err(refused(
                            given,
                            "it is in use: mounted, or part of another device; lsblk shows it",
                        ));
                    }
                    opened => File::from(opened.map_err(|errno| failed(errno.into()))?),
                };
                let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
                file.rewind().map_err(failed)?;
                Kind::Device(file, len)
            }
            Found::Stream { open } => Kind::Stream { open },
        };
        Ok(OutputPath { given: given.into(), kind })
    }

    /// A directory in which a part of the result can be made, if it is to be a file.
    pub fn directory(&self) -> Option<&Path> {
        match &self.kind {
            Kind::File(path) => Some(directory_of(path)),
            _ => None,
        }
    }

    /// Whether the bytes are written one after another, to something that is no file: maybe to where messages are printed.
    pub fn is_stream(&self) -> bool {
        matches!(self.kind, Kind::Stream { .. })
    }

    /// Starts to write `len` bytes.
    ///
    /// # Errors
    /// [`FileError`]; also when a device is too small.
    pub fn create(self, len: u64) -> Result<Output, FileError> {
        let OutputPath { given, kind } = self;
        let to = match kind {
            Kind::File(path) => To::File(AtomicFile::create(path)?),
            Kind::Device(file, has) => {
                if has < len {
                    let why = format!("it has {}, and the result {}; use a larger one", size(has), size(len));
                    return Err(refused(&given, &why));
                }
                log::warn!("{}: overwriting {} of this device of {}", given.display(), size(len), size(has));
                To::Device(BufWriter::new(file))
            }
            Kind::Stream { open } => {
                let file = OpenOptions::new().write(true).append(open).open(&given);
                To::Stream(BufWriter::new(file.map_err(|error| FileError::new(&given, "open", error))?))
            }
        };
        Ok(Output { given, to: Some(to) })
    }

    /// Makes a finished file the result: gives it the name, or copies it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn take(self, made: &Path) -> Result<(), FileError> {
        if let Kind::File(path) = &self.kind {
            return fs::rename(made, path).map_err(|error| FileError::new(path, "put in place", error));
        }
        let failed = |error| FileError::new(made, "read", error);
        let file = File::open(made).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut out = self.create(len)?;
        let mut buffer = vec![0; BUFFER];
        let mut at = 0;
        while at < len {
            let part = usize::try_from(len - at).map_or(BUFFER, |left| left.min(BUFFER));
            file.read_exact_at(&mut buffer[..part], at).map_err(failed)?;
            out.write_all(&buffer[..part])?;
            at += part as u64;
        }
        out.commit()
    }
}

/// A result that is being written.
#[derive(Debug)]
pub struct Output {
    given: PathBuf,
    /// Nothing after [`Output::commit`].
    to: Option<To>,
}

#[derive(Debug)]
enum To {
    File(AtomicFile),
    Device(BufWriter<File>),
    Stream(BufWriter<File>),
}

impl Output {
    /// The name as it was given.
    pub fn path(&self) -> &Path {
        &self.given
    }

    /// The regular file that is to have the name.
    pub fn as_regular(&mut self) -> Option<&mut AtomicFile> {
        match &mut self.to {
            Some(To::File(file)) => Some(file),
            _ => None,
        }
    }

    /// The open file, to be written here and there, if it is one; nothing is buffered on this way.
    pub fn as_file(&self) -> Option<&File> {
        match self.to.as_ref()? {
            To::File(file) => Some(file.as_file()),
            To::Device(file) => Some(file.get_ref()),
            To::Stream(_) => None,
        }
    }

    /// Whether what is not written has old contents.
    pub fn is_device(&self) -> bool {
        matches!(self.to, Some(To::Device(_)))
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self.to.as_mut().expect("it is there until commit, which takes it") {
            To::File(file) => file,
            To::Device(file) | To::Stream(file) => file,
        }
    }

    /// Writes some bytes after those before.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let written = self.writer().write_all(bytes);
        written.map_err(|error| FileError::new(&self.given, "write", error))
    }

    /// Puts a regular file in place; writes all that is still in memory to a device or a stream.
    ///
    /// # Errors
    /// [`FileError`]; a regular file is then as it was before.
    pub fn commit(mut self) -> Result<(), FileError> {
        let failed = |error| FileError::new(&self.given, "write", error);
        if let Some(To::Device(file) | To::Stream(file)) = &mut self.to {
            file.flush().map_err(failed)?;
        }
        if let Some(To::Device(file)) = &self.to {
            file.get_ref().sync_all().map_err(failed)?;
        }
        match self.to.take() {
            Some(To::File(file)) => file.commit(),
            _ => Ok(()),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.is_device() {
            log::warn!("{}: what is on this device is incomplete now", self.given.display());
        }
    }
}

/// Writes a small result to a file that the user named.
///
/// # Errors
/// [`FileError`].
pub fn write_output(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), FileError> {
    let mut out = OutputPath::find(path)?.create(bytes.len() as u64)?;
    out.write_all(bytes)?;
    out.commit()
}
