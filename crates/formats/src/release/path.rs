//! Paths below a mirror's root, as types. A path from outside is read into one of these and written from it.

use std::fmt;
use std::str::FromStr;

use super::Document as _;
use super::KeyId;
use crate::block::BlockName;
use crate::block::{MAX_BLOCK_SIZE, max_file_len};
use crate::index;
use crate::names::{ImageName, Serial, clip};

/// A file of the mirror tree (docs/formats.md, section 1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MirrorPath {
    /// `blk/<first 2 hex>/<32 hex>`
    Block(BlockName),
    /// `images/<image>/<serial>/<leaf>`
    Image(ImageName, Serial, Leaf),
    /// `releases/<serial>.txt`
    Release(Serial),
    /// `keys/<key ID>.txt`
    Keys(KeyId),
    /// `mirrors.txt`
    Mirrors,
    /// `latest`
    Latest,
}

/// A file of one image in one release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leaf {
    /// `index.idx`: the index.
    Index,
    /// `dlahead`: the prefetch list.
    Dlahead,
    /// `layout.z`: for the next build.
    Layout,
}

impl Leaf {
    /// The file name below the image's directory.
    pub const fn file(self) -> &'static str {
        match self {
            Leaf::Index => "index.idx",
            Leaf::Dlahead => "dlahead",
            Leaf::Layout => "layout.z",
        }
    }
}

impl MirrorPath {
    /// Bytes of such a file at most.
    pub fn limit(&self) -> u64 {
        match self {
            MirrorPath::Block(_) => max_file_len(MAX_BLOCK_SIZE).into(),
            MirrorPath::Image(_, _, Leaf::Index) => index::MAX_FILE,
            MirrorPath::Image(_, _, Leaf::Dlahead) => super::MAX_DLAHEAD,
            MirrorPath::Image(_, _, Leaf::Layout) => super::MAX_LAYOUT,
            MirrorPath::Release(_) => super::MAX_RELEASE,
            MirrorPath::Keys(_) => super::Successors::LIMIT,
            MirrorPath::Mirrors => super::MAX_MIRRORS,
            MirrorPath::Latest => super::MAX_LATEST,
        }
    }
}

impl fmt::Display for MirrorPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MirrorPath::Block(name) => f.write_str(&name.path()),
            MirrorPath::Image(image, serial, leaf) => write!(f, "images/{image}/{serial}/{}", leaf.file()),
            MirrorPath::Release(serial) => write!(f, "releases/{serial}.txt"),
            MirrorPath::Keys(key) => write!(f, "keys/{key}.txt"),
            MirrorPath::Mirrors => f.write_str("mirrors.txt"),
            MirrorPath::Latest => f.write_str("latest"),
        }
    }
}

/// Text that is not a path of a mirror.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a path of a mirror", clip(.0))]
pub struct BadPath(String);

impl FromStr for MirrorPath {
    type Err = BadPath;
    fn from_str(text: &str) -> Result<Self, BadPath> {
        let path = match text.split('/').collect::<Vec<_>>()[..] {
            ["latest"] => Some(MirrorPath::Latest),
            ["mirrors.txt"] => Some(MirrorPath::Mirrors),
            ["releases", file] => {
                file.strip_suffix(".txt").and_then(|serial| serial.parse().ok()).map(MirrorPath::Release)
            }
            ["keys", file] => file.strip_suffix(".txt").and_then(KeyId::parse).map(MirrorPath::Keys),
            ["blk", _, name] => name.parse().ok().map(MirrorPath::Block),
            ["images", image, serial, file] => {
                let leaf =
                    [Leaf::Index, Leaf::Dlahead, Leaf::Layout].into_iter().find(|leaf| leaf.file() == file);
                match (image.parse(), serial.parse(), leaf) {
                    (Ok(image), Ok(serial), Some(leaf)) => Some(MirrorPath::Image(image, serial, leaf)),
                    _ => None,
                }
            }
            _ => None,
        };
        // Written out again it must be the same text: this also compares the two digits after `blk/`.
        path.filter(|path| path.to_string() == text).ok_or_else(|| BadPath(text.into()))
    }
}
