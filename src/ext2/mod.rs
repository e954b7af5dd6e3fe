//! ext2 images: a tree goes in, the bytes of a file system come out (docs/ext2.md).
//!
//! Revision 1, 4 KiB blocks, features `sparse_super`, `filetype`, `large_file` and `ext_attr`, as the kernel's
//! Documentation/filesystems/ext2 and e2fsprogs' `ext2_fs.h` have them; fields keep their names there. The way
//! through is
//!
//! ```text
//! Tree + Options -> Demand -> Allocator::place -> Placement -> Plan -> Image::fill, write
//! ```
//!
//! [`Demand`] is what the tree asks for, [`Placement`] where an [`Allocator`] puts it, and [`ImagePlan`] the two
//! once they are known to agree: arithmetic, no contents read. An [`PlannedImage`] gives any range of the planned
//! blocks; [`write`] asks for all of them in one forward pass. [`Reader`] reads images, also those of
//! `mke2fs -t ext2`, and [`dump`] shows them as text.
//!
//! [`Profile`] keeps an image within what another system reads: NetBSD mounts one for reading and writing.
//!
//! Each on-disk concept has a file: superblock, group descriptor and inode in [`ondisk`], then [`blockmap`],
//! [`dirent`] and [`xattr`].

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
// Lists of runs of blocks are lists of ranges, also when there is one.
#![allow(clippy::single_range_in_vec_init)]

pub mod blockmap;
mod page_map;
mod demand;
pub mod dirent;
mod dump;
mod geometry;
mod layout;
pub mod ondisk;
mod pages;
mod plan;
mod reader;
mod writer;
pub mod xattr;

pub use demand::{
    Body, Demand, DemandError, DemandedEntry, DemandedInode, ImageOptions, InodeOrigin, Profile, XattrBlock,
};
pub use dump::{dump, stat};
pub use geometry::{BLOCK, BLOCKS_PER_GROUP, Geometry, InodeSize, MAX_BLOCKS};
pub use layout::{
    Align, Allocator, Cause, ChangedBlock, Changes, Fragmentation, IncrementalAllocator, Label, LayoutError,
    LayoutMap, Mapped, MappedEntry, MappedKind, PlaceError, PlacedInode, Placement, PreviousLayout,
    Sequential, keep_times,
};
pub use page_map::PageMap;
pub use pages::{PageHash, Pages};
pub use plan::{ImagePlan, ImagePlanError};
pub use reader::{DirEntry, ImageDamage, ImageReadError, InodeBlocks, RawInode, ReadAt, Reader};
pub use writer::{PlannedImage, WriteError, write};

/// Inode of the root directory (`EXT2_ROOT_INO`).
pub const ROOT_INO: u32 = 2;

/// First inode that is not reserved (`EXT2_GOOD_OLD_FIRST_INO`); `mke2fs` gives it to lost+found.
pub const FIRST_INO: u32 = 11;

/// A path as messages show it: with a leading `/`, lossily.
fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
