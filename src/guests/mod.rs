//! Guests: how each kind's image is made, what starts it, and what the host needs for that.
//!
//! In the host, `imgfactory-image@NAME.service` runs a second client that serves the guest's virtual disk, and
//! `imgfactory-guest@NAME.service` gives it to `xl`. A kernel (and initrd) is in the guest's own image, below
//! [`BOOT`], so that an update of a guest changes nothing in the host's image; the host reads it through the
//! verified disk before it starts the guest. A disk that is taken as it is boots itself: by the firmware of a
//! whole PC, or by Debian's GRUB for Xen, which reads the disk's own grub.cfg.
//!
//! Each kind is a folder, which implements [`GuestBuilder`] and knows nothing of the system but [`BuildServices`]:
//!
//! | folder | its image |
//! |---|---|
//! | [`debian`] | a tree of packages |
//! | [`netbsd`] | a tree of a release's sets |
//! | [`plan9`] | an ISO or a disk whose settings are changed in place, or a new ISO of its files |
//! | [`knoppix`] | the file system of a medium, as it is or as a tree |
//! | [`disk`] | a disk as it is |
//!
//! A new kind is such a folder and two lines here, its module and that in [`builder`]; and in the recipe its section, a file in
//! `src/recipe/guests/` with a line in the table of its `mod.rs`.

pub mod config;
pub mod debian;
pub mod disk;
pub mod host;
pub mod host_packages;
pub mod kind;
pub mod knoppix;
pub mod netbsd;
pub mod plan9;
pub mod services;
pub mod third_party;

pub use config::GuestConfig;
pub use host::{GuestError, install_in_host};
pub use host_packages::add_host_packages;
pub use kind::{DataDisk, DiskContents, FileToLock, GuestBuilder, GuestContents, GuestTree, Starter};
pub use services::{BoxError, BuildServices, Inputs, ServiceError, ThirdPartyFiles};

use crate::recipe::GuestKind;
use crate::tree::{Content, FileTime, Kind, Meta, Node, Tree, TreeError};

/// The kinds, a line each.
pub fn builder(kind: &GuestKind) -> &dyn GuestBuilder {
    match kind {
        GuestKind::Debian(debian) => debian,
        GuestKind::NetBsd(netbsd) => netbsd,
        GuestKind::Plan9(plan9) => plan9,
        GuestKind::Disk(disk) => disk,
        GuestKind::Knoppix(knoppix) => knoppix,
    }
}

/// Directory in a guest's image with what it starts from: Linux's `vmlinuz` and `initrd`, or another `kernel`.
pub const BOOT: &str = "boot/imgfactory";

/// Puts a guest's kernel and initrd where the host looks for them.
///
/// # Errors
/// [`GuestError::Tree`].
pub fn install_in_guest(
    guest: &mut Tree,
    kernel: Content,
    initrd: Content,
    mtime: FileTime,
) -> Result<(), GuestError> {
    let mut files = RootFiles { tree: guest, mtime };
    files.put(&format!("{BOOT}/vmlinuz"), 0o644, kernel)?;
    files.put(&format!("{BOOT}/initrd"), 0o644, initrd)?;
    Ok(())
}

/// Puts files of root's into a tree, all with one time.
struct RootFiles<'t> {
    tree: &'t mut Tree,
    mtime: FileTime,
}

impl RootFiles<'_> {
    fn put(&mut self, path: &str, mode: u16, content: Content) -> Result<(), TreeError> {
        let meta = Meta { mode, mtime: self.mtime, ..Meta::default() };
        self.tree.insert(path.as_bytes(), Node { meta, kind: Kind::File(content) })?;
        Ok(())
    }

    fn put_text(&mut self, path: &str, text: impl Into<String>) -> Result<(), TreeError> {
        self.put(path, 0o644, Content::inline(text.into().into_bytes()))
    }

    fn symlink(&mut self, path: &str, target: &str) -> Result<(), TreeError> {
        let meta = Meta { mode: 0o777, mtime: self.mtime, ..Meta::default() };
        self.tree.insert(path.as_bytes(), Node { meta, kind: Kind::Symlink(target.into()) })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
