//! What can be wrong with an image that is read.

use std::io;

use crate::ext2::dirent::BadRecord;
use crate::ext2::xattr::BadEntry;

/// Why something could not be read from an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageReadError {
    #[error("can't read the image at byte {at}")]
    Io {
        /// Offset in the image.
        at: u64,
        /// What the medium said.
        source: io::Error,
    },
    /// The image contradicts itself, or the format.
    #[error("{place}: {damage}")]
    Damaged {
        place: String,
        /// What is wrong there. Part of the message, as it is one fact, not a cause.
        damage: ImageDamage,
    },
    /// The image is sound as far as can be seen, but has something that this reader does not know.
    #[error("{place}: {what}")]
    Unsupported {
        place: String,
        /// What it has, and what would be possible.
        what: String,
    },
    /// The path leads nowhere.
    #[error("{path}: no such file in the image")]
    Missing {
        /// The path asked for, lossily.
        path: String,
    },
    /// Something on the way, or at the end, ought to be a directory.
    #[error("{path}: not a directory")]
    NotDirectory {
        /// The path that is something else.
        path: String,
    },
    /// Only regular files have contents.
    #[error("{path}: not a regular file")]
    NotFile {
        /// The path that is something else.
        path: String,
    },
    /// The reader's output could not be written.
    #[error("can't write what was read")]
    Output(#[source] io::Error),
}

/// One thing that is wrong with an image.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImageDamage {
    /// Too short for a superblock.
    #[error("the image has {have} bytes; a file system has at least 2048")]
    Short { have: u64 },
    /// Not an ext2 file system.
    #[error("magic number {found:#06x} where 0xef53 should be: not an ext2 file system")]
    Magic { found: u16 },
    /// A number that no file system has.
    #[error("{field} is {value}; it must be {right}")]
    Field {
        field: &'static str,
        value: u64,
        /// What would be right.
        right: String,
    },
    /// The image ends before the file system does.
    #[error("the file system has {wanted} bytes, the image {have}: it is truncated")]
    Truncated {
        /// Length of the file system.
        wanted: u64,
        /// Length of the image.
        have: u64,
    },
    /// A block number that the file system does not have.
    #[error("refers to block {block}, which is outside the file system")]
    BlockOutside { block: u32 },
    /// An inode number that the file system does not have.
    #[error("the file system has no inode {ino}")]
    InodeOutside { ino: u32 },
    /// A directory refers to an inode that is free.
    #[error("is referred to, but not in use")]
    Unused,
    #[error("mode {i_mode:#o} has no known type")]
    Type { i_mode: u16 },
    /// `i_extra_isize` goes beyond the inode, or is not a multiple of 4.
    #[error("i_extra_isize is {i_extra_isize}, which its inode can't have")]
    ExtraSize { i_extra_isize: u16 },
    /// A size that no such inode has.
    #[error("a {kind} can't have {size} bytes")]
    Size { kind: &'static str, size: u64 },
    /// An indirect block is met a second time.
    #[error("block {block} is an indirect block twice: the map is a loop")]
    MapLoop { block: u32 },
    /// A map with more blocks than there are.
    #[error("has more blocks than the file system")]
    TooManyBlocks,
    /// A directory has a hole.
    #[error("the directory has no block {logical}")]
    DirectoryHole { logical: u32 },
    /// A record of a directory.
    #[error("block {logical} of the directory: {bad}")]
    Record {
        /// Which block of the directory.
        logical: u32,
        bad: BadRecord,
    },
    /// Two entries with one name.
    #[error("the directory has the name `{name}` twice")]
    NameTwice { name: String },
    /// A directory is met a second time: a loop, or a second name of it.
    #[error("the directory has a second name, {path}")]
    DirectoryTwice { path: String },
    /// A symlink's target has a NUL, or its block is a hole.
    #[error("the symlink has no target")]
    NoTarget,
    #[error("{0}")]
    Xattrs(BadEntry),
    /// The same attribute in the inode and in its block, or twice in one.
    #[error("has the attribute `{name}` twice")]
    XattrTwice { name: String },
}
