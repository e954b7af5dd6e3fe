//! Contents over files: what a tree's [`Source`](crate::tree::ContentSource) refers to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::tree::{Contents, SpoolId};
use system::files::FileError;

/// The files that hold a tree's contents. They stay open, so what happens to their names does not matter.
#[derive(Debug, Default)]
pub struct ContentFiles {
    files: Vec<(PathBuf, File)>,
}

impl ContentFiles {
    /// Returns an empty set: no file is open.
    pub fn new() -> Self {
        ContentFiles::default()
    }

    /// Opens a file and gives the name by which contents refer to it.
    ///
    /// # Errors
    /// [`FileError`] when it can't be opened.
    pub fn open(&mut self, path: impl AsRef<Path>) -> Result<SpoolId, FileError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| FileError::new(path, "open", error))?;
        Ok(self.add(path, file))
    }

    /// Takes an open file, and gives the name by which contents refer to it. `path` is for messages.
    pub fn add(&mut self, path: &Path, file: File) -> SpoolId {
        // The system runs out of open files long before.
        let id = SpoolId(u32::try_from(self.files.len()).expect("fewer than 2^32 open files"));
        self.files.push((path.into(), file));
        id
    }
}

impl Contents for ContentFiles {
    fn read_exact_at(&self, spool: SpoolId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (path, file) = self.files.get(spool.0 as usize).ok_or(io::ErrorKind::NotFound)?;
        file.read_exact_at(buf, offset).map_err(|error| FileError::new(path, "read", error).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use system::files::Scratch;

    #[test]
    fn reads_come_from_the_right_file_and_say_which_one_is_short() {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "first").unwrap();
        std::fs::write(&two, "second").unwrap();
        let mut spools = ContentFiles::new();
        let ids = [spools.open(&one).unwrap(), spools.open(&two).unwrap()];
        let mut buf = [0; 3];
        spools.read_exact_at(ids[1], 2, &mut buf).unwrap();
        assert_eq!(&buf, b"con");
        let error = spools.read_exact_at(ids[0], 3, &mut buf).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(error.to_string(), format!("{}: can't read", one.display()));
        assert_eq!(
            spools.open(dir.path().join("three")).unwrap_err().to_string(),
            format!("{}: can't open", dir.path().join("three").display())
        );
    }
}
