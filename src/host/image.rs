//! Image files: written without the zeros in them, read anywhere.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::files::{AtomicFile, FileError};
use crate::ext2::ReadAt;
use crate::tree::{Contents, SpoolId};

/// What is left out if it is zeros, at multiples of this many bytes: a block of most file systems.
const PIECE: usize = 4096;

/// An image that appears under its name when it is complete, and takes no space for zeros until then.
#[derive(Debug)]
pub struct SparseFile {
    file: AtomicFile,
    len: u64,
    /// Whether the file's position is behind `len`: zeros came last.
    behind: bool,
}

impl SparseFile {
    /// Starts an image.
    ///
    /// # Errors
    /// Those of [`AtomicFile::create`].
    pub fn create(target: impl AsRef<Path>) -> Result<Self, FileError> {
        Ok(SparseFile { file: AtomicFile::create(target)?, len: 0, behind: false })
    }

    /// Puts the image in place.
    ///
    /// # Errors
    /// [`FileError`]; the target is then as it was before.
    pub fn commit(mut self) -> Result<(), FileError> {
        self.file.set_len(self.len)?;
        self.file.commit()
    }
}

impl Write for SparseFile {
    /// Takes the zeros that `bytes` begins with, or what there is before the next zeros.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Pieces lie at multiples of PIECE in the file, so the first may be short.
        let first = PIECE - usize::try_from(self.len % PIECE as u64).expect("less than PIECE");
        let (first, rest) = bytes.split_at(first.min(bytes.len()));
        let zero = is_zero(first);
        let same = rest.chunks(PIECE).take_while(|piece| is_zero(piece) == zero);
        let count = first.len() + same.map(<[u8]>::len).sum::<usize>();
        if !zero {
            if std::mem::take(&mut self.behind) {
                self.file.seek(SeekFrom::Start(self.len))?;
            }
            self.file.write_all(&bytes[..count])?;
        }
        self.behind |= zero;
        self.len += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
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
    /// Opens it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| FileError::new(path, "open", error))?;
        Ok(ImageFile { file })
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
    use crate::host::files::Scratch;

    #[test]
    fn zeros_take_no_space_and_all_else_is_written_as_it_is() {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let target = dir.path().join("image");
        let mut expected = vec![0; 3 << 20];
        expected[..5].fill(1);
        expected[1_000_000..1_000_100].fill(2);
        expected[2_500_000..2_500_001].fill(3);
        for pieces in [1usize, 4096, 5000, 1 << 20, 3 << 20] {
            // One byte at a time only for the start.
            let (slow, fast) = expected.split_at(if pieces == 1 { 10_000 } else { 0 });
            let mut file = SparseFile::create(&target).unwrap();
            slow.iter().for_each(|byte| file.write_all(&[*byte]).unwrap());
            fast.chunks(pieces.max(4096)).for_each(|piece| file.write_all(piece).unwrap());
            assert!(fs::metadata(&target).is_err() || pieces > 1, "it has its name when it is complete");
            file.commit().unwrap();
            assert!(fs::read(&target).unwrap() == expected, "{pieces}");
            let blocks = fs::metadata(&target).unwrap().blocks();
            assert!(blocks * 512 < 200_000, "{blocks} blocks in pieces of {pieces}");
        }
        let image = ImageFile::open(&target).unwrap();
        assert_eq!(image.size().unwrap(), 3 << 20);
        let mut buf = [0; 3];
        ReadAt::read_exact_at(&image, 2_499_999, &mut buf).unwrap();
        assert_eq!(buf, [0, 3, 0]);
        let beyond = ReadAt::read_exact_at(&image, (3 << 20) - 1, &mut buf).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }
}
