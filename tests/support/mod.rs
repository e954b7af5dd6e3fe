//! What several tests share. Each test file uses a part of it.
#![allow(dead_code, clippy::single_range_in_vec_init)]

pub mod hosts;
pub mod judges;
pub mod plan9;
pub mod release;
pub mod requests;
pub mod scattered;
pub mod trees;

use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use imgfactory::ext2::{Allocator, Geometry, ImageOptions, ImagePlan, ReadAt, write};
use imgfactory::tree::{Contents, SpoolId, Tree};

/// An image in memory.
pub fn packed(
    tree: &Tree,
    contents: &dyn Contents,
    options: &ImageOptions,
    allocator: &mut dyn Allocator,
) -> Vec<u8> {
    let plan = ImagePlan::new(tree, options, allocator).unwrap();
    let mut image = vec![];
    write(&plan, contents, &mut image).unwrap();
    assert_eq!(image.len() as u64, u64::from(plan.geometry().blocks) * 4096);
    image
}

/// Writes a file and leaves out what is zeros, in pieces of 4 KiB: large images stay sparse.
pub struct SparseFile(std::fs::File);

impl SparseFile {
    pub fn create(path: &Path) -> Self {
        SparseFile(std::fs::File::create(path).unwrap())
    }

    /// Gives the file its length, with what was left out at its end.
    pub fn finish(mut self) {
        let len = self.0.stream_position().unwrap();
        self.0.set_len(len).unwrap();
    }
}

impl Write for SparseFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(4096);
        if bytes[..len] == [0; 4096][..len] {
            self.0.seek_relative(i64::try_from(len).unwrap())?;
            Ok(len)
        } else {
            self.0.write(&bytes[..len])
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An image in a file; gives back the plan's geometry.
pub fn packed_to(
    path: &Path,
    tree: &Tree,
    contents: &dyn Contents,
    options: &ImageOptions,
    allocator: &mut dyn Allocator,
) -> Geometry {
    let plan = ImagePlan::new(tree, options, allocator).unwrap();
    let mut out = SparseFile::create(path);
    write(&plan, contents, &mut out).unwrap();
    out.finish();
    let len = std::fs::metadata(path).unwrap().len();
    assert_eq!(len, u64::from(plan.geometry().blocks) * 4096);
    plan.geometry()
}

/// An image file for the reader.
pub struct ImageFile(std::fs::File);

impl ImageFile {
    pub fn open(path: &Path) -> Self {
        ImageFile(std::fs::File::open(path).unwrap())
    }
}

impl ReadAt for ImageFile {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

impl Contents for ImageFile {
    fn read_exact_at(&self, _: SpoolId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}
