//! Tar archives that a user names: as they are, compressed, or out of a pipe.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::image_file::ImageFile;
use super::process::{Tool, ToolError};
use crate::foreign::magic::{self, Compression, FileKind};
use system::files::{FileError, Scratch};

/// Bytes copied at a time.
const BUFFER: usize = 1 << 20;
/// An archive that decompresses to more than this is refused.
const MAX_ARCHIVE: u64 = 1 << 41;
/// How long a program may decompress it.
const DECOMPRESSION_TIME: Duration = Duration::from_secs(6 * 3600);

/// Why a file is no archive that can be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is something else.
    #[error("{}: {what}, not a tar archive; {remedy}", path.display())]
    Other { path: PathBuf, what: String, remedy: &'static str },
    /// It can't be decompressed.
    #[error("{}: can't decompress it; it is truncated or damaged", path.display())]
    Inflate { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Opens an archive to be read anywhere; `-` is standard input. What is compressed or comes out of a pipe is copied to a
/// file in `scratch` that has no name any more.
///
/// # Errors
/// [`ArchiveError`].
pub fn open(path: &Path, scratch: &Path) -> Result<File, ArchiveError> {
    let failed = |error| FileError::new(path, "read", error);
    let given = if path == Path::new("-") { None } else { Some(File::open(path).map_err(failed)?) };
    let regular = given.as_ref().is_some_and(|file| file.metadata().is_ok_and(|found| found.is_file()));
    let (file, at, _copy) = match given {
        Some(file) if regular => (file, std::path::absolute(path).map_err(failed)?, None),
        given => {
            let copy = Scratch::file(scratch)?;
            match given {
                Some(mut pipe) => fill(&mut pipe, &copy, &failed)?,
                None => fill(&mut io::stdin().lock(), &copy, &failed)?,
            }
            (reopened(&copy)?, copy.path().to_path_buf(), Some(copy))
        }
    };
    let image = ImageFile::from(file.try_clone().map_err(failed)?);
    let compression = match magic::identify(&image).map_err(failed)? {
        FileKind::Compressed(compression) => compression,
        kind => return is_tar(path, kind, file),
    };
    let inflated = Scratch::file(scratch)?;
    // To look at it has moved its position.
    (&file).rewind().map_err(failed)?;
    let damaged = |source| ArchiveError::Inflate { path: path.into(), source };
    let mut from = BufReader::with_capacity(BUFFER, file);
    match compression {
        Compression::Gzip => fill(&mut flate2::read::MultiGzDecoder::new(from), &inflated, &damaged)?,
        Compression::Xz => {
            fill(&mut liblzma::read::XzDecoder::new_multi_decoder(&mut from), &inflated, &damaged)?;
        }
        _ => Tool::new(compression.program())
            .arg("-dc")
            .arg(at)
            .stdout_to(reopened(&inflated)?)
            .limit(DECOMPRESSION_TIME)
            .file_limit(MAX_ARCHIVE)
            .run()?,
    }
    let file = reopened(&inflated)?;
    let image = ImageFile::from(file.try_clone().map_err(failed)?);
    is_tar(path, magic::identify(&image).map_err(failed)?, file)
}

fn is_tar(path: &Path, kind: FileKind, file: File) -> Result<File, ArchiveError> {
    let other = |what: String, remedy| Err(ArchiveError::Other { path: path.into(), what, remedy });
    match kind {
        FileKind::Tar => Ok(file),
        // An archive of nothing is all zeros.
        FileKind::Plain if is_empty(&file).map_err(|error| FileError::new(path, "read", error))? => Ok(file),
        FileKind::Plain => other("a file of no known format".into(), "give a tar archive or a directory"),
        FileKind::Compressed(compression) => {
            other(format!("compressed twice, at last by {}", compression.program()), "decompress it first")
        }
        FileKind::Disk(container) => {
            let remedy = "use it as a guest of kind `disk`, or convert it and use `image split`";
            other(format!("a disk in the format {}", container.as_str()), remedy)
        }
        FileKind::Foreign(what, remedy) => other(what.into(), remedy),
        FileKind::FileSystem(what) => other(what.into(), "mount it and give the directory"),
    }
}

/// Whether the first block is zeros, which is the end mark of an archive, or there is none.
fn is_empty(file: &File) -> io::Result<bool> {
    let mut block = Vec::new();
    let mut from = file;
    from.rewind()?;
    from.take(512).read_to_end(&mut block)?;
    from.rewind()?;
    Ok(block.iter().all(|&byte| byte == 0))
}

/// The file of some scratch, to be read from its start.
fn reopened(scratch: &Scratch) -> Result<File, FileError> {
    let failed = |error| FileError::new(scratch.path(), "open", error);
    let mut file = scratch.as_file();
    file.rewind().map_err(failed)?;
    file.try_clone().map_err(failed)
}

/// Copies all that `from` gives; `unreadable` is what an error of it means.
fn fill<E>(from: &mut dyn Read, to: &Scratch, unreadable: &dyn Fn(io::Error) -> E) -> Result<(), ArchiveError>
where
    ArchiveError: From<E>,
{
    let mut buffer = vec![0; BUFFER];
    let mut left = MAX_ARCHIVE;
    let mut out = to.as_file();
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error).into()),
        };
        left = left.checked_sub(len as u64).ok_or_else(|| unreadable(io::ErrorKind::FileTooLarge.into()))?;
        io::Write::write_all(&mut out, &buffer[..len])
            .map_err(|error| FileError::new(to.path(), "write", error))?;
    }
}
