//! What benches of the client have in common: it serves the disk of image `host`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A client that serves until this is dropped.
pub struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Mounts at `at`, which is made. `words` are more options.
    pub fn new<W: AsRef<OsStr>>(
        client: &Path,
        mirror: &str,
        key: impl AsRef<OsStr>,
        at: PathBuf,
        words: &[W],
    ) -> Self {
        fs::create_dir_all(&at).unwrap();
        let status = Command::new(client)
            .args(["mount", "--image", "host", "--mirror", mirror, "--key"])
            .arg(key)
            .args(words)
            .arg(&at)
            .stdin(Stdio::null())
            // It stays open for as long as the client runs.
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{} can't mount {mirror}: {status}", client.display());
        Mounted { at }
    }

    /// The disk.
    pub fn disk(&self) -> File {
        File::open(self.at.join("disk")).unwrap()
    }

    /// The disk, of which the kernel reads nothing ahead.
    #[allow(dead_code, reason = "not every bench reads here and there")]
    pub fn disk_at_random(&self) -> File {
        let disk = self.disk();
        rustix::fs::fadvise(&disk, 0, None, rustix::fs::Advice::Random).unwrap();
        disk
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..50 {
            if Command::new("umount").arg(&self.at).status().is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
