//! Names below a target's root: the files of the mirror tree, and what publishers leave there for each other.

use std::fmt;

use formats::release::MirrorPath;

/// A file on a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RemotePath {
    /// Of the mirror tree: clients read it.
    File(MirrorPath),
    /// A file of the publishers in `.imgfactory/`, which clients never read.
    Control(Control),
}

/// What publishers and the garbage collector tell each other. Clients never read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Control {
    /// The lease of a publication.
    Publishing,
    /// The lease of `gc`.
    Collecting,
    /// What is going to be removed, and since when that is known.
    Tombstones,
}

/// The directory of [`Control`] files.
pub const CONTROL_DIR: &str = ".imgfactory";

/// Longest control file that is read: tombstones of 2^24 files.
const MAX_CONTROL: u64 = 2 << 30;

impl RemotePath {
    /// Bytes at most that are read of it.
    pub fn limit(&self) -> u64 {
        match self {
            RemotePath::File(path) => path.limit(),
            RemotePath::Control(Control::Tombstones) => MAX_CONTROL,
            RemotePath::Control(_) => 4096,
        }
    }

    /// Whether it is written once and never changes.
    pub fn is_immutable(&self) -> bool {
        match self {
            RemotePath::File(MirrorPath::Latest | MirrorPath::Mirrors) | RemotePath::Control(_) => false,
            RemotePath::File(_) => true,
        }
    }
}

impl From<MirrorPath> for RemotePath {
    fn from(path: MirrorPath) -> Self {
        RemotePath::File(path)
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemotePath::File(path) => path.fmt(f),
            RemotePath::Control(Control::Publishing) => write!(f, "{CONTROL_DIR}/publishing"),
            RemotePath::Control(Control::Collecting) => write!(f, "{CONTROL_DIR}/collecting"),
            RemotePath::Control(Control::Tombstones) => write!(f, "{CONTROL_DIR}/tombstones"),
        }
    }
}
