//! The seam between the pipeline and the kinds of guests.

use std::path::PathBuf;

use super::services::{BoxError, BuildServices, Inputs, ThirdPartyFiles};
use crate::ext2::{InodeSize, Profile};
use crate::foreign::sums::Sum;
use crate::recipe::Guest;
use crate::tree::Tree;

/// A kind of guest: how its image is made, and what starts it. What the recipe may say of it is in
/// [`crate::recipe::KindRules`]; what the host needs to start it follows from [`Starter`] and the guest's other keys
/// ([`super::host`]).
pub trait GuestBuilder {
    /// Returns what the host starts the guest with: a kernel from its image, or a boot loader.
    fn starter(&self) -> Starter;

    /// What its image holds, in a few words, for `imgfactory check`.
    fn summary(&self) -> String;

    /// The release that it is made of, for error messages.
    fn release(&self) -> Option<String> {
        None
    }

    /// The third-party files that a lock is to have.
    ///
    /// # Errors
    /// When a list of files can't be had.
    fn files_to_lock(&self, files: &dyn ThirdPartyFiles) -> Result<Vec<FileToLock>, BoxError>;

    /// What its image's contents depend on, without the overlays that the pipeline applies: names and values, in order. A
    /// third-party file is known by its checksum: where it was fetched has no part. The pipeline asks for them before it
    /// calls [`GuestBuilder::build`].
    ///
    /// # Errors
    /// The kind's own, without the guest's name.
    fn inputs(&self, guest: &Guest, services: &mut dyn BuildServices) -> Result<Inputs, BoxError>;

    /// Makes its image's contents. The pipeline applies overlays to a tree; a kind that makes a disk of files applies
    /// them itself, by [`BuildServices::apply_overlays`].
    ///
    /// # Errors
    /// The kind's own, without the guest's name.
    fn build(&self, guest: &Guest, services: &mut dyn BuildServices) -> Result<GuestContents, BoxError>;

    /// An empty second disk, the image `NAME-data`.
    fn data_disk(&self) -> Option<DataDisk> {
        None
    }
}

/// What a guest starts from. The host's script `guest` has a case for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starter {
    /// Linux, with an initrd, in the image.
    Linux,
    /// NetBSD's kernel, in the image.
    NetBsd,
    /// The disk's own boot loader, or GRUB for Xen.
    Disk,
    /// Likewise, from a CD.
    Cd,
}

impl Starter {
    /// The word in a guest's configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Starter::Linux => "linux",
            Starter::NetBsd => "netbsd",
            Starter::Disk => "disk",
            Starter::Cd => "cd",
        }
    }

    /// Whether a boot loader reads the disk; otherwise the host takes a kernel out of the image.
    pub fn reads_the_disk(self) -> bool {
        matches!(self, Starter::Disk | Starter::Cd)
    }
}

/// The contents of a guest's image.
#[derive(Clone, Debug)]
pub enum GuestContents {
    /// Files, of which we make a file system.
    Tree(GuestTree),
    /// A disk that is taken as it is.
    Disk(DiskContents),
}

/// A guest's files, without overlays.
#[derive(Clone, Debug)]
pub struct GuestTree {
    pub tree: Tree,
    /// The newest time in them, seconds since 1970.
    pub newest: i64,
    /// The file system's reader.
    pub profile: Profile,
    /// Whether it starts with a Linux kernel and a miniroot of ours.
    pub linux: bool,
    /// Whether they came out of the cache as a whole; `None` of a kind that is not kept there.
    pub cached: Option<bool>,
}

/// The contents of a disk that a guest's kind has made.
#[derive(Clone, Debug)]
pub struct DiskContents {
    /// The file with them.
    pub path: PathBuf,
    /// How many they are.
    pub len: u64,
    /// Bytes that replace some of them: offset, and bytes.
    pub patches: Vec<(u64, Vec<u8>)>,
}

/// An empty ext2 for what a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataDisk {
    /// Bytes free in it.
    pub free: u64,
    /// Bytes of an inode.
    pub inode_size: InodeSize,
    pub profile: Profile,
}

/// A third-party file that a lock is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileToLock {
    /// Its URLs; the lock has the first.
    pub urls: Vec<String>,
    /// Its checksum, if a list of its publisher has it.
    pub sum: Option<Sum>,
}

/// Name of the image with a guest's second disk.
pub fn data_image_name(guest: &str) -> String {
    format!("{guest}-data")
}

/// The newest time in a tree, seconds since 1970.
pub fn newest(tree: &Tree) -> i64 {
    tree.walk().map(|(_, id)| tree.node(id).meta.mtime.secs).max().unwrap_or(0)
}
