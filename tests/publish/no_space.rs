//! A full file system. Mounts a small tmpfs, so it needs root.

use std::fs;
use std::io::Write;
use std::path::Path;

use formats::report::report;
use imgfactory::sys::process::Tool;
use system::files::{AtomicFile, Scratch};

/// A tmpfs of 64 KiB.
struct Small(Scratch);

impl Small {
    fn mount() -> Self {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        Tool::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "small"]).arg(dir.path()).run().unwrap();
        Small(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        Tool::new("umount").arg(self.0.path()).run().unwrap();
    }
}

#[test]
fn a_full_file_system_is_named_and_the_half_written_file_is_gone() {
    let small = Small::mount();
    let target = small.path().join("demo.iso");
    let mut file = AtomicFile::create(&target).unwrap();
    let error = file.write_all(&[1; 100_000]).unwrap_err();
    assert_eq!(
        report(&error),
        format!(
            "error: {}: no space left: the file system at {} has 0 B free of 64 KiB; free some space, or choose \
             another directory",
            target.display(),
            small.path().display()
        )
    );
    drop(file);
    assert_eq!(fs::read_dir(small.path()).unwrap().count(), 0);
}
