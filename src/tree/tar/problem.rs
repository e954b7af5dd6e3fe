//! What can be wrong with an archive.

use std::fmt;
use std::io;

use super::GLOBAL_LIMIT;
use crate::tree::TreeError;

/// What is wrong with an archive, and at which entry.
#[derive(Debug)]
pub struct TarError {
    /// Name of the entry, lossily; `None` before its name is known.
    pub entry: Option<String>,
    /// Offset of the entry's first header in the archive, bytes.
    pub at: u64,
    /// The damage, shown after the position.
    pub problem: Problem,
}

/// What can be wrong with one entry.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("can't be read")]
    Read(#[source] io::Error),
    #[error("truncated: the archive ends in the middle of an entry; copy or download it again")]
    Truncated,
    #[error("damaged: the bytes of its header add up to {computed}, but the header says {stored}")]
    Checksum {
        /// Sum of the header's bytes.
        computed: u64,
        /// What its field says.
        stored: u64,
    },
    /// A numeric field that is no number, or out of range.
    #[error("damaged: `{value}` in the field for its {field}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Its bytes, escaped.
        value: String,
    },
    /// A name or PAX header beyond all reason.
    #[error("its name or its extended header has {len} bytes; at most {limit} are read")]
    TooLong {
        /// Length announced, bytes.
        len: u64,
        /// Largest accepted, bytes.
        limit: u64,
    },
    /// Global headers with more than makes sense to repeat in each entry.
    #[error(
        "its global PAX headers have {len} bytes of records, which every later entry would get; at most {GLOBAL_LIMIT} \
         are read"
    )]
    GlobalTooLong {
        /// Bytes they take for each entry.
        len: u64,
    },
    /// A PAX record that can't be split.
    #[error("PAX record `{start}` is not `LENGTH KEY=VALUE`")]
    PaxRecord {
        /// Its first bytes, lossily.
        start: String,
    },
    /// A PAX record with an impossible value.
    #[error("PAX record `{key}`: `{value}` can't be its value")]
    PaxValue { key: String, value: String },
    /// An ACL in text form that can't be understood.
    #[error(
        "ACL entry `{entry}` is not `TAG:NAME:PERMISSIONS` with a name in the archive's /etc/passwd or /etc/group"
    )]
    Acl {
        /// The entry of the ACL.
        entry: String,
    },
    /// A sparse file whose map does not fit.
    #[error("sparse map: {0}")]
    SparseMap(&'static str),
    /// A hard link to nothing before it.
    #[error("hard link to `{target}`, which is not an earlier entry")]
    DanglingLink { target: String },
    /// A symbolic link no file system would take.
    #[error("symbolic link with a target of {0} bytes; 1 to 4095 without NUL are allowed")]
    LinkTarget(usize),
    /// The continuation of a file that began in another volume.
    #[error(
        "its beginning is in another volume; join the volumes first: unpack them with tar --multi-volume"
    )]
    Continued,
    /// A sparse file in a header that has no room for a map.
    #[error("a sparse file of type `S` without the header of GNU tar")]
    NoSparseHeader,
    /// There is no archive.
    #[error("empty: a tar archive has at least one block of 512 bytes")]
    Empty,
    /// Names that make directories, far more than there are entries.
    #[error(
        "the names up to here need {directories} directories that no entry names, in {entries} entries; such an archive \
         is made to fill the memory of the machine that reads it"
    )]
    Directories { directories: usize, entries: usize },
    /// The entry's path can't be put into the tree.
    #[error("can't be placed")]
    Place(#[source] TreeError),
}

impl fmt::Display for TarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(entry) = &self.entry {
            write!(f, "entry `{entry}` at ")?;
        }
        write!(f, "byte {}: {}", self.at, self.problem)
    }
}

impl std::error::Error for TarError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}
