//! What the builder does to the machine that it runs on, beside files and HTTP: processes, signals, the terminal.

pub mod archive;
pub mod directory;
pub mod image_file;
pub mod process;
pub mod progress;
pub mod signals;
pub mod spool;
pub mod terminal;
pub mod traffic;

/// Where programs of this machine put temporary files: TMPDIR, or /tmp.
pub fn temporary_directory() -> std::path::PathBuf {
    std::env::temp_dir()
}
