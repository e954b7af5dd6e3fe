//! Who stands where: the [`Allocator`] and what it answers with.
//!
//! [`Sequential`] is for a first layout. [`IncrementalAllocator`] keeps the positions of the layout before, which a [`LayoutMap`]
//! describes, so that an update changes few blocks of the disk. docs/layout.md has its cost model.

mod changes;
mod codec;
mod map;
mod order;
mod read;
mod sequential;
mod incremental;
mod times;
mod update;

use super::blockmap::Run;
use super::demand::Demand;
use super::dirent::DirentSlot;
use super::geometry::Geometry;

pub use changes::{Cause, ChangedBlock, Changes};
pub use codec::LayoutError;
pub use incremental::IncrementalAllocator;
pub use map::{Label, LayoutMap, Mapped, MappedEntry, MappedKind, PreviousLayout};
pub use read::Fragmentation;
pub use sequential::{Align, Sequential};
pub use times::keep_times;

/// Chooses every position of an image: its size, inode numbers, blocks, places of directory entries. It is
/// asked once and sees all at once, so it may keep, move or pack as it likes; [`super::ImagePlan::new`] checks
/// what it answers.
pub trait Allocator {
    /// Places everything in `demand`.
    ///
    /// # Errors
    /// [`PlaceError`].
    fn place(&mut self, demand: &Demand<'_>) -> Result<Placement, PlaceError>;
}

/// Why an allocator found no place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlaceError {
    /// More than 2 TiB, or more inodes than there may be.
    #[error(
        "{blocks} blocks of contents, {free} bytes of free space, a minimum of {minimum} bytes and {inodes} inodes need more than the 2 TiB that an image may have"
    )]
    TooLarge {
        /// Blocks of 4 KiB of data, directories, indirect blocks and attributes.
        blocks: u64,
        /// Free space, bytes.
        free: u64,
        /// Minimum size, bytes.
        minimum: u64,
        inodes: u64,
    },
    /// The layout before can't be built upon.
    #[error("the previous layout can't be kept: {why}")]
    Relayout { why: &'static str },
}

/// Where everything of a [`Demand`] stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub geometry: Geometry,
    /// One for each of [`Demand::wanted`].
    pub inodes: Vec<PlacedInode>,
    /// Block of each of [`Demand::xattr_blocks`].
    pub xattr_blocks: Vec<u32>,
}

/// Where one inode and its blocks stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacedInode {
    /// Inode number: 2 for the root, from 11 on for others.
    pub ino: u32,
    /// The body's blocks, ascending in the file. A directory's blocks have no holes.
    pub data: Vec<Run>,
    /// Blocks of [`needed`] for the body's runs, in that order.
    pub indirect: Vec<u32>,
    /// For a directory, its entries in each of its blocks.
    pub slots: Vec<Vec<DirentSlot>>,
}
