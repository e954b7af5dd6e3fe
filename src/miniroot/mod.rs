//! The miniroot: the initramfs that fetches the root file system. Also the smaller one that a guest starts with.
//!
//! [`Kernel`] finds the kernel of a tree, [`Selection`] the modules a recipe asks for, [`plan`] puts them, the
//! programs and the scripts into a [`Tree`], and [`pack`] makes that one compressed cpio archive. Nothing in it
//! depends on anything but what was given: the same inputs, the same bytes.

pub mod cpio;
mod kernel;
mod modules;
mod pack;
mod scripts;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use cpio::CpioError;
pub use kernel::{Kernel, KernelError, module_name};
pub use modules::{GROUPS, Group, Selection};
pub use pack::{MinirootPackError, MinirootPart, PackedMiniroot, pack};
pub use scripts::{ScriptValues, scripts};

use crate::tree::{Content, Contents, FileTime, Kind, Meta, Node, Tree, TreeError};

/// Why a miniroot can't be put together.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A module can't be had.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A file has no place in it.
    #[error("miniroot")]
    Tree(#[from] TreeError),
}

/// A file that is put into a miniroot as it is: a rendered template, a key, the list of mirrors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Path from the root, `/` between components.
    pub path: String,
    pub mode: u16,
    /// Contents of the file.
    pub bytes: Arc<[u8]>,
}

/// What a miniroot is made of.
#[derive(Debug)]
pub struct MinirootInputs<'a> {
    /// Modules; their kernel is the one that has to be booted with it.
    pub modules: &'a Selection<'a>,
    pub busybox: Arc<[u8]>,
    /// The client, statically linked; a guest's has none.
    pub imgfetch: Option<Arc<[u8]>>,
    /// Everything else, `init` among it. One that is put where another is replaces it.
    pub files: Vec<File>,
    /// Time of everything in it.
    pub mtime: FileTime,
}

/// Names under which busybox is called by other than its own shell, which finds all applets in itself, by way
/// of /proc: scripts begin with #!/bin/sh, /proc itself has to be mounted, the kernel runs /sbin/modprobe.
const BUSYBOX_NAMES: &[&str] = &["bin/mount", "bin/sh", "sbin/modprobe"];

/// Directories that are mounted on.
const DIRECTORIES: &[(&str, u16)] =
    &[("dev", 0o755), ("proc", 0o755), ("run", 0o755), ("sys", 0o755), ("sysroot", 0o755), ("tmp", 0o1777)];

/// Lays a miniroot out: /init and what `files` has, /bin/busybox, /bin/imgfetch, /lib/modules. `contents` reads
/// the tree that the kernel was found in. All contents of the result are in memory.
///
/// # Errors
/// [`PlanError`].
pub fn plan(ingredients: &MinirootInputs, contents: &dyn Contents) -> Result<Tree, PlanError> {
    let MinirootInputs { modules, busybox, imgfetch, files, mtime } = ingredients;
    let meta = |mode| Meta { mode, mtime: *mtime, ..Meta::default() };
    let mut tree = Tree::new(meta(0o755));
    let mut put = |path: &str, mode, kind| tree.insert(path.as_bytes(), Node { meta: meta(mode), kind });

    for (path, mode) in DIRECTORIES {
        put(path, *mode, Kind::Directory(Default::default()))?;
    }
    // What the kernel gives to /init as its standard input and output.
    put("dev/console", 0o600, Kind::CharDevice { major: 5, minor: 1 })?;
    put("bin/busybox", 0o755, Kind::File(Content::inline(busybox.clone())))?;
    for path in BUSYBOX_NAMES {
        put(path, 0o777, Kind::Symlink(b"/bin/busybox".to_vec()))?;
    }
    if let Some(imgfetch) = imgfetch {
        put("bin/imgfetch", 0o755, Kind::File(Content::inline(imgfetch.clone())))?;
    }
    let dir = format!("lib/modules/{}", modules.kernel().release);
    for (path, bytes) in modules.files(contents)? {
        put(&format!("{dir}/{path}"), 0o644, Kind::File(Content::inline(bytes)))?;
    }
    for (name, text) in [("dep", modules.dep()), ("alias", modules.alias()), ("builtin", modules.builtin())] {
        put(&format!("{dir}/modules.{name}"), 0o644, Kind::File(Content::inline(text.into_bytes())))?;
    }
    for File { path, mode, bytes } in files {
        put(path, *mode, Kind::File(Content::inline(bytes.clone())))?;
    }
    Ok(tree)
}
