//! Results of steps that are kept in the cache, each by what it depends on.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use formats::digest::Sha256;
use system::files::{self, FileError, write_atomic};

/// How many results of one name are kept: this one and the one before.
const KEPT: usize = 2;
/// Bytes of a digest in front of a result.
const SUM: usize = 32;
/// No result that is kept whole in memory is longer.
const LIMIT: u64 = 1 << 30;

/// A directory of results of one kind.
pub struct Kept {
    dir: PathBuf,
    ending: &'static str,
}

impl Kept {
    /// Below the cache, made if it is not there.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(cache: &Path, kind: &str, ending: &'static str) -> Result<Self, FileError> {
        let dir = cache.join(kind);
        files::create_dir_all(&dir)?;
        Ok(Kept { dir, ending })
    }

    /// The file of a result. `name` is of letters, digits and `-`; `key` is a digest in hex.
    pub fn path(&self, name: &str, key: &str) -> PathBuf {
        self.dir.join(format!("{name}-{}.{}", &key[..16], self.ending))
    }

    /// A result that [`Kept::put`] has kept, if it is there and whole.
    pub fn get(&self, name: &str, key: &str) -> Option<Vec<u8>> {
        let path = self.path(name, key);
        let bytes = files::read_at_most(&path, LIMIT).ok()?;
        let (sum, result) = bytes.split_at_checked(SUM)?;
        if Sha256::of(result).0 != sum {
            return None;
        }
        touch(&path);
        Some(result.to_vec())
    }

    /// Keeps a result, with its digest before it, and removes the oldest of that name.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn put(&self, name: &str, key: &str, result: &[u8]) -> Result<(), FileError> {
        let sum = Sha256::of(result);
        write_atomic(self.path(name, key), &[&sum.0[..], result].concat())?;
        self.prune(name)
    }

    /// Removes the oldest results of a name, all but [`KEPT`]. Who still reads one, holds it open.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn prune(&self, name: &str) -> Result<(), FileError> {
        let entries = fs::read_dir(&self.dir).map_err(|error| FileError::new(&self.dir, "read", error))?;
        let mut results: Vec<(SystemTime, PathBuf)> = entries
            .flatten()
            .filter(|entry| self.is_of(name, &entry.file_name().to_string_lossy()))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        results.sort();
        results.reverse();
        for (_, path) in results.into_iter().skip(KEPT) {
            fs::remove_file(&path).map_err(|error| FileError::new(&path, "remove", error))?;
        }
        Ok(())
    }

    /// `NAME-<16 hex digits>.ENDING`; `a-b` is no result of `a`.
    fn is_of(&self, name: &str, file: &str) -> bool {
        let key = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        let key = key.and_then(|rest| rest.strip_suffix(self.ending)).and_then(|rest| rest.strip_suffix('.'));
        key.is_some_and(|key| key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }
}

/// The newest are kept. Not being able to say so costs a build at worst.
pub fn touch(path: &Path) {
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use system::files::Scratch;

    #[test]
    fn only_the_oldest_of_the_same_name_go() {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let kept = Kept::open(dir.path(), "trees", "tar").unwrap();
        let names = [
            "a-0000000000000001.tar",
            "a-0000000000000002.tar",
            "a-0000000000000003.tar",
            "a-b-0000000000000001.tar",
            "a-notes.tar",
        ];
        for (age, name) in names.iter().enumerate() {
            let file = File::create(kept.dir.join(name)).unwrap();
            let age = std::time::Duration::from_secs(100 * age as u64);
            file.set_modified(SystemTime::UNIX_EPOCH + age).unwrap();
        }
        kept.prune("a").unwrap();
        let mut left: Vec<_> = fs::read_dir(&kept.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, &names[1..]);
    }

    #[test]
    fn a_damaged_result_is_none() {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let kept = Kept::open(dir.path(), "miniroots", "xz").unwrap();
        let key = "0123456789abcdef0123456789abcdef";
        assert_eq!(kept.get("host", key), None);
        kept.put("host", key, b"result").unwrap();
        assert_eq!(kept.get("host", key).unwrap(), b"result");
        fs::write(kept.path("host", key), b"torn").unwrap();
        assert_eq!(kept.get("host", key), None);
        kept.put("host", key, b"result").unwrap();
        let mut bytes = fs::read(kept.path("host", key)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(kept.path("host", key), bytes).unwrap();
        assert_eq!(kept.get("host", key), None);
    }
}
