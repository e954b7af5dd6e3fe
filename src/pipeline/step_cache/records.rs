//! What each recipe's newest builds used: a text file for each recipe, a line for each result, the newest first.
//!
//! ```text
//! trees/host-0123456789abcdef.tar trees/host
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use system::files::{FileError, create_dir_all, read_at_most, write_atomic};

/// No record is longer.
const LIMIT: u64 = 1 << 20;
/// The file whose lock is that of all records.
const LOCK: &str = ".lock";

/// The records of all recipes, locked against other builds.
#[derive(Debug)]
pub(super) struct Records {
    dir: PathBuf,
    _lock: File,
}

impl Records {
    /// Waits for the lock, which is never held for long.
    pub fn lock(dir: &Path) -> Result<Self, FileError> {
        create_dir_all(dir)?;
        let path = dir.join(LOCK);
        let failed = |error| FileError::new(&path, "lock", error);
        let lock = File::options().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Records { dir: dir.into(), _lock: lock })
    }

    /// Puts a recipe's newest result of a step first, and gives the results that no recipe has among its `kept`
    /// newest any more.
    pub fn keep(&self, recipe: &str, step: &str, file: &str, kept: usize) -> Result<Vec<String>, FileError> {
        let path = self.dir.join(recipe);
        let old = read(&path)?;
        let mut lines = vec![(file.to_owned(), step.to_owned())];
        lines.extend(old.iter().filter(|(known, _)| known != file).cloned());
        let mut seen = 0;
        let mut dropped = Vec::new();
        lines.retain(|(known, of)| {
            seen += usize::from(of == step);
            let keep = of != step || seen <= kept;
            if !keep {
                dropped.push(known.clone());
            }
            keep
        });
        if lines != old {
            let text: String = lines.iter().map(|(file, step)| format!("{file} {step}\n")).collect();
            write_atomic(&path, text.as_bytes())?;
        }
        if !dropped.is_empty() {
            let used = self.used_by_others(recipe)?;
            dropped.retain(|file| !used.contains(file));
        }
        Ok(dropped)
    }

    fn used_by_others(&self, recipe: &str) -> Result<Vec<String>, FileError> {
        let failed = |error| FileError::new(&self.dir, "read", error);
        let mut used = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // Names of recipes have no dots; the lock and unfinished files begin with one.
            if name != recipe && !name.to_string_lossy().starts_with('.') {
                used.extend(read(&self.dir.join(name))?.into_iter().map(|(file, _)| file));
            }
        }
        Ok(used)
    }
}

/// The lines of a record: file and step. A line that can't be understood is passed over.
fn read(path: &Path) -> Result<Vec<(String, String)>, FileError> {
    let bytes = match read_at_most(path, LIMIT) {
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        bytes => bytes?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let line = |line: &str| line.split_once(' ').map(|(file, step)| (file.to_owned(), step.to_owned()));
    Ok(text.lines().filter_map(line).collect())
}
