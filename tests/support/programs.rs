//! Where the programs under test are, for tests and benches.
#![allow(dead_code, reason = "each binary uses a part")]

use std::path::{Path, PathBuf};

/// The builder.
pub fn imgfactory() -> PathBuf {
    env!("CARGO_BIN_EXE_imgfactory").into()
}

/// The client, looked for beside the builder: it need not be of this package, and cargo names and builds for tests only
/// programs of their own.
pub fn imgfetch() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_imgfactory")).with_file_name("imgfetch");
    assert!(
        path.is_file(),
        "{}: not there; run `cargo build --workspace --bins` first, for benches with `--release`",
        path.display()
    );
    path
}
