//! Image files: written without the zeros in them, read anywhere.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::ext2::ReadAt;
use crate::parallel::{cores, each};
use crate::tree::{Contents, SpoolId};
use system::files::{FileError, Output, OutputPath};

/// What is left out if it is zeros, at multiples of this many bytes: a block of most file systems.
const PIECE: usize = 4096;

/// What is made and written at once: it stays in a core's cache.
const PART: usize = 256 << 10;

/// An image that is written: to a file, which appears under its name when it is complete and in which zeros take no
/// space; to a block device; or to a stream, in its order.
#[derive(Debug)]
pub struct ImageOutput {
    out: Mutex<Output>,
    /// The same, where bytes can be written anywhere.
    file: Option<File>,
    /// Whether what is not written is zeros.
    fresh: bool,
    target: PathBuf,
    /// Bytes that a stream got.
    sent: Mutex<u64>,
    len: u64,
}

impl ImageOutput {
    /// Starts an image of `len` bytes.
    ///
    /// # Errors
    /// Those of [`OutputPath::create`].
    pub fn create(target: OutputPath, len: u64) -> Result<Self, FileError> {
        let mut out = target.create(len)?;
        let target = out.path().to_path_buf();
        let fresh = !out.is_device();
        if let Some(file) = out.as_regular() {
            file.set_len(len)?;
        }
        let clone =
            |file: &File| file.try_clone().map_err(|error| FileError::new(&target, "open again", error));
        let file = out.as_file().map(clone).transpose()?;
        Ok(ImageOutput { out: Mutex::new(out), file, fresh, target, sent: Mutex::new(0), len })
    }

    /// Writes some bytes of it, from `at` on, a multiple of 4,096. A stream takes them in their order only.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), FileError> {
        let Some(file) = &self.file else { return self.send(at, bytes) };
        let mut from = 0;
        while from < bytes.len() {
            let zero = self.fresh && is_zero(&bytes[from..bytes.len().min(from + PIECE)]);
            let same = |piece: &&[u8]| !self.fresh || is_zero(piece) == zero;
            let same = bytes[from..].chunks(PIECE).take_while(same).count();
            let to = bytes.len().min(from + same * PIECE);
            if !zero {
                let written = file.write_all_at(&bytes[from..to], at + from as u64);
                written.map_err(|error| FileError::new(&self.target, "write", error))?;
            }
            from = to;
        }
        Ok(())
    }

    /// Makes `len` bytes from `at` on zeros.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn write_zeros(&self, at: u64, len: u64) -> Result<(), FileError> {
        if self.file.is_some() && self.fresh {
            return Ok(());
        }
        let zeros = vec![0; PART];
        let mut done = 0;
        while done < len {
            let part = usize::try_from(len - done).map_or(PART, |left| left.min(PART));
            self.write_at(at + done, &zeros[..part])?;
            done += part as u64;
        }
        Ok(())
    }

    fn send(&self, at: u64, bytes: &[u8]) -> Result<(), FileError> {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(at, *sent, "one thread writes to a stream, part after part");
        self.out.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes)?;
        *sent += bytes.len() as u64;
        Ok(())
    }

    /// Writes all of it, on all cores: `fill` makes the part of it that begins at some byte.
    ///
    /// # Errors
    /// [`FileError`], and those of `fill`.
    pub fn write_all<E: From<FileError> + Send>(
        &self,
        fill: impl Fn(u64, &mut [u8]) -> Result<(), E> + Sync,
    ) -> Result<(), E> {
        let parts = usize::try_from(self.len.div_ceil(PART as u64))
            .expect("a file has fewer parts than memory bytes");
        let part = |buffer: &mut Vec<u8>, number: usize| {
            let at = number as u64 * PART as u64;
            let len = usize::try_from(self.len - at).map_or(PART, |left| left.min(PART));
            fill(at, &mut buffer[..len])?;
            Ok(self.write_at(at, &buffer[..len])?)
        };
        let threads = if self.file.is_some() { cores() } else { NonZeroUsize::MIN };
        each(parts, threads, || vec![0; PART], part).map(drop)
    }

    /// Puts the image in place.
    ///
    /// # Errors
    /// [`FileError`]; a regular file is then as it was before.
    pub fn commit(self) -> Result<(), FileError> {
        self.out.into_inner().unwrap_or_else(PoisonError::into_inner).commit()
    }
}

fn is_zero(piece: &[u8]) -> bool {
    static ZEROS: [u8; PIECE] = [0; PIECE];
    piece == &ZEROS[..piece.len()]
}

/// A file that holds an image, or any other bytes, for reading.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
}

impl ImageFile {
    /// Opens the image file for reading.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| FileError::new(path, "open", error))?;
        Ok(ImageFile { file })
    }
}

/// A file that is open already.
impl From<File> for ImageFile {
    fn from(file: File) -> Self {
        ImageFile { file }
    }
}

impl ReadAt for ImageFile {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// Also of a block device, whose metadata says 0.
    fn size(&self) -> io::Result<u64> {
        (&self.file).seek(SeekFrom::End(0))
    }
}

/// So that a tree which was read from the image has its contents.
impl Contents for ImageFile {
    fn read_exact_at(&self, _: SpoolId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use system::files::Scratch;

    #[test]
    fn zeros_take_no_space_and_all_else_is_written_as_it_is() {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let target = dir.path().join("image");
        let mut expected = vec![0; 3 << 20];
        expected[..5].fill(1);
        expected[1_000_000..1_000_100].fill(2);
        expected[2_500_000..2_500_001].fill(3);
        for pieces in [4096, 8192, 1 << 20, 3 << 20] {
            let file =
                ImageOutput::create(OutputPath::find(&target).unwrap(), expected.len() as u64).unwrap();
            // The last parts first.
            for (number, piece) in expected.chunks(pieces).enumerate().rev() {
                file.write_at((number * pieces) as u64, piece).unwrap();
            }
            assert!(fs::metadata(&target).is_err(), "it has its name when it is complete");
            file.commit().unwrap();
            assert!(fs::read(&target).unwrap() == expected, "{pieces}");
            let blocks = fs::metadata(&target).unwrap().blocks();
            assert!(blocks * 512 < 200_000, "{blocks} blocks in pieces of {pieces}");
            fs::remove_file(&target).unwrap();
        }
        let odd = expected.len() - 1000;
        let file = ImageOutput::create(OutputPath::find(&target).unwrap(), odd as u64).unwrap();
        let copy = |at: u64, part: &mut [u8]| {
            part.copy_from_slice(&expected[at as usize..][..part.len()]);
            Ok::<_, FileError>(())
        };
        file.write_all(copy).unwrap();
        file.commit().unwrap();
        assert!(fs::read(&target).unwrap() == expected[..odd]);
        fs::write(&target, &expected).unwrap();
        let image = ImageFile::open(&target).unwrap();
        assert_eq!(image.size().unwrap(), 3 << 20);
        let mut buf = [0; 3];
        ReadAt::read_exact_at(&image, 2_499_999, &mut buf).unwrap();
        assert_eq!(buf, [0, 3, 0]);
        let beyond = ReadAt::read_exact_at(&image, (3 << 20) - 1, &mut buf).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }
}
