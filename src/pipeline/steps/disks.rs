//! Disks that are taken as they are: the bytes of a file, with patches over them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::ext2::ReadAt;
use crate::guests::DiskContents;
use formats::names::ImageName;
use system::files::FileError;

/// Bytes of a sector: what a disk is a multiple of.
const SECTOR: u64 = 512;

/// A disk that is to be split as it is.
#[derive(Clone, Debug)]
pub struct GuestDisk {
    pub name: ImageName,
    pub contents: DiskContents,
}

impl GuestDisk {
    /// Bytes of the disk: whole sectors.
    pub fn size(&self) -> u64 {
        self.contents.len.next_multiple_of(SECTOR)
    }

    /// Opens the disk image for reading.
    ///
    /// # Errors
    /// When its file can't be opened.
    pub fn open(&self) -> io::Result<OpenDisk<'_>> {
        let path = &self.contents.path;
        let file = File::open(path).map_err(|error| FileError::new(path, "read", error))?;
        Ok(OpenDisk { disk: self, file })
    }
}

/// A disk that is being read.
#[derive(Debug)]
pub struct OpenDisk<'a> {
    disk: &'a GuestDisk,
    file: File,
}

impl ReadAt for OpenDisk<'_> {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let DiskContents { path, len, patches } = &self.disk.contents;
        let want = buf.len();
        let there = usize::try_from(len.saturating_sub(offset)).map_or(want, |left| left.min(want));
        let (there, beyond) = buf.split_at_mut(there);
        let read = self.file.read_exact_at(there, offset);
        read.map_err(|error| FileError::new(path, "read", error))?;
        beyond.fill(0);
        patches.iter().for_each(|(start, bytes)| patch(buf, offset, *start, bytes));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.size())
    }
}

/// Puts the bytes that belong at `start` over those of a part that begins at `at`.
fn patch(part: &mut [u8], at: u64, start: u64, bytes: &[u8]) {
    let (from, to) = (start.max(at), (start + bytes.len() as u64).min(at + part.len() as u64));
    if from < to {
        let fits = |at: u64| usize::try_from(at).expect("within a part");
        part[fits(from - at)..fits(to - at)].copy_from_slice(&bytes[fits(from - start)..fits(to - start)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use system::files::Scratch;

    #[test]
    fn a_disk_has_whole_sectors_and_its_patches_wherever_it_is_read_from() {
        let scratch = Scratch::directory(std::env::temp_dir()).unwrap();
        let path = scratch.path().join("disk");
        std::fs::write(&path, vec![b'.'; 1000]).unwrap();
        let patches = vec![(0, b"head".to_vec()), (510, b"over".to_vec()), (998, b"tail".to_vec())];
        let contents = DiskContents { path, len: 1000, patches };
        let disk = GuestDisk { name: "d".parse().unwrap(), contents };
        let mut whole = vec![b'.'; 1000];
        whole.resize(1024, 0);
        for (at, bytes) in &disk.contents.patches {
            let at = usize::try_from(*at).unwrap();
            whole[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let open = disk.open().unwrap();
        assert_eq!(open.size().unwrap(), 1024);
        for (from, to) in [(0, 1024), (0, 512), (2, 3), (511, 513), (512, 1024), (999, 1001), (1000, 1024)] {
            let mut read = vec![1; to - from];
            open.read_exact_at(from as u64, &mut read).unwrap();
            assert!(read == whole[from..to], "{from} to {to}");
        }
    }
}
