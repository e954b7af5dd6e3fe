//! What a tree asks of a file system: its inodes in an order, and what each needs.

use std::collections::HashMap;
use std::ops::Range;

use super::blockmap::MAX_FILE_BLOCKS;
use super::dirent::NAME_MAX;
use super::geometry::{BLOCK, InodeSize};
use super::ondisk::{FAST_SYMLINK, OLD_INODE_SIZE, encode_device};
use super::shown;
use super::xattr::{self, Attr, BadXattr, REFCOUNT_MAX};
use crate::tree::{Content, Kind, NodeId, Tree};

/// Bytes that `mke2fs` gives lost+found, so that e2fsck can use it without allocating.
const LOST_FOUND_BLOCKS: u32 = 4;

/// Links of a file, and 2 + subdirectories of a directory, at most (`EXT2_LINK_MAX` of e2fsprogs).
const LINK_MAX: u32 = 65_000;

/// Which system reads the image, and so what may be in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Linux, and all that read what `mke2fs -t ext2` makes.
    #[default]
    Linux,
    /// NetBSD's ext2fs, which has no extended attributes, and device numbers of its own in `i_block`.
    NetBsd,
    /// 9legacy's ext2srv, which has no extended attributes either, writes directory entries without a type, and
    /// damages inodes of more than 128 bytes.
    Legacy9,
}

impl Profile {
    /// The system that reads it, for messages; `None` for one that knows all we write.
    fn lacks_xattrs(self) -> Option<&'static str> {
        match self {
            Profile::Linux => None,
            Profile::NetBsd => Some("NetBSD's ext2fs"),
            Profile::Legacy9 => Some("9legacy's ext2srv"),
        }
    }
}

/// What a recipe may say of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// Name of the image: UUID and hash seed follow from it, and it is the label, cut to 16 bytes.
    pub name: String,
    /// Time of making, seconds since 1970: in the superblock, and of a lost+found that the tree lacks.
    pub epoch: u64,
    /// Bytes of free space.
    pub free: u64,
    /// Bytes that the image has at least.
    pub minimum: u64,
    /// Bytes of an inode.
    pub inode_size: InodeSize,
    /// Blocks that only root may take, in percent of all; 50 at most.
    pub reserved_percent: u8,
    /// Which system reads it.
    pub profile: Profile,
    /// Paths, without leading `/`, of what is read first, in that order: a layout places it together, before all else.
    pub first: Vec<Vec<u8>>,
}

impl ImageOptions {
    /// No free space, inodes of 256 bytes, nothing reserved.
    pub fn new(name: &str, epoch: u64) -> Self {
        ImageOptions {
            name: name.to_owned(),
            epoch,
            free: 0,
            minimum: 0,
            inode_size: InodeSize::default(),
            reserved_percent: 0,
            profile: Profile::default(),
            first: vec![],
        }
    }
}

/// Why a tree can't become an ext2 file system. Paths are shown with a leading `/`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DemandError {
    /// A name that no directory entry can have.
    #[error(
        "{dir}: `{name}` can't be a file name: it must be 1 to 255 bytes without `/` or NUL, not `.` or `..`"
    )]
    Name { dir: String, name: String },
    /// A directory with two names, or above itself.
    #[error("{path}: this directory has another name already; only files can have several")]
    DirectoryTwice {
        /// One of its names.
        path: String,
    },
    /// More links than the link count counts.
    #[error("{path}: {links} links (a directory has one for each subdirectory); at most 65000 are possible")]
    Links {
        /// Path of the inode.
        path: String,
        /// What it would have.
        links: u32,
    },
    /// A target that a symlink can't have.
    #[error("{path}: a symlink's target of {len} bytes{nul}; 1 to 4095 bytes without NUL are possible",
        nul = if *.nul { " with a NUL" } else { "" })]
    Symlink {
        /// Path of the symlink.
        path: String,
        /// Length of its target.
        len: usize,
        /// Whether the target has a NUL.
        nul: bool,
    },
    /// A device number of more than 12 and 20 bits.
    #[error("{path}: device {major}:{minor}; at most 4095:1048575 is possible")]
    Device {
        /// Path of the device.
        path: String,
        major: u32,
        minor: u32,
    },
    /// A file that is longer than 2 TiB less its indirect blocks.
    #[error("{path}: {len} bytes; a file may have {max}", max = u64::from(MAX_FILE_BLOCKS) * u64::from(BLOCK))]
    FileTooLarge {
        /// Path of the file.
        path: String,
        len: u64,
    },
    /// Extents that overlap, descend or go beyond the end.
    #[error("{path}: the extent at byte {at} overlaps the previous one or ends after the file's {len} bytes")]
    Extents {
        /// Path of the file.
        path: String,
        /// First byte of the extent.
        at: u64,
        /// Length of the file.
        len: u64,
    },
    #[error("{path}: {bad}")]
    Xattr {
        /// Path of the inode.
        path: String,
        /// What is wrong with it. Part of the message, as it is one fact, not a cause.
        bad: BadXattr,
    },
    /// An attribute where nothing reads it.
    #[error("{path}: has the extended attribute `{name}`, but {system} has none; remove it")]
    NoXattrs {
        /// What reads the image.
        system: &'static str,
        /// Path of the inode.
        path: String,
        name: String,
    },
    /// lost+found has to be a directory.
    #[error(
        "/lost+found: must be a directory, because e2fsck stores recovered files in it; remove or rename this file"
    )]
    LostFound,
    /// More inodes than 32 bits count.
    #[error("{inodes} files; at most 2^29 are possible")]
    TooManyInodes {
        /// How many there are.
        inodes: usize,
    },
}

/// Where an inode comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InodeOrigin {
    /// A node of the tree.
    Node(NodeId),
    /// The lost+found that the tree did not have: empty, mode 0700, root's.
    LostFound,
}

/// An entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemandedEntry<'t> {
    pub name: &'t [u8],
    /// The inode, by its position in [`Demand::wanted`].
    pub target: usize,
}

/// What an inode keeps in blocks of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'t> {
    /// Nothing: devices, empty files, short symlinks.
    None,
    /// A file or a long symlink. Which blocks of it are not holes: ascending, apart from each other.
    Blocks(Vec<Range<u32>>),
    Directory {
        /// Its entries without `.` and `..`, in the order of their names.
        entries: Vec<DemandedEntry<'t>>,
        /// Blocks that it has at least.
        blocks: u32,
    },
}

/// An inode that the tree asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemandedInode<'t> {
    pub origin: InodeOrigin,
    /// First path of it, without leading `/`; empty for the root.
    pub path: Vec<u8>,
    /// The directory of that path, by its position in [`Demand::wanted`]; the root is its own.
    pub parent: usize,
    pub links: u16,
    /// Its blocks, but not indirect ones: [`super::blockmap::needed`].
    pub body: Body<'t>,
    /// Attributes that are in the inode.
    pub xattrs: Vec<Attr>,
    /// The block with the others, by its position in [`Demand::xattr_blocks`].
    pub xattr_block: Option<usize>,
}

/// A block of attributes that inodes with the same ones share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrBlock {
    /// What is in it.
    pub attrs: Vec<Attr>,
    /// How many inodes refer to it.
    pub refcount: u32,
}

/// All that a tree asks for. Inodes are in this order: the root, lost+found if the tree has none, then
/// directory by directory, each before those below it, its entries in the order of their names; so the files
/// of a directory stand together.
#[derive(Clone, Debug)]
pub struct Demand<'t> {
    pub tree: &'t Tree,
    pub options: ImageOptions,
    pub wanted: Vec<DemandedInode<'t>>,
    pub xattr_blocks: Vec<XattrBlock>,
    /// Position of lost+found in `wanted`.
    pub lost_found: usize,
    /// By position: which of [`ImageOptions::first`] it is, [`NOT_FIRST`] if none.
    pub rank: Vec<u32>,
}

/// The rank of what is not read first.
pub const NOT_FIRST: u32 = u32::MAX;

impl<'t> Demand<'t> {
    /// What `tree` asks for. Nodes that no directory refers to are left out.
    ///
    /// # Errors
    /// [`DemandError`] for a tree that ext2 can't hold.
    pub fn new(tree: &'t Tree, options: &ImageOptions) -> Result<Self, DemandError> {
        let mut survey = TreeSurvey {
            demand: Demand {
                tree,
                options: options.clone(),
                wanted: Vec::with_capacity(tree.nodes().len() + 1),
                xattr_blocks: vec![],
                lost_found: 0,
                rank: vec![],
            },
            seen: vec![None; tree.nodes().len()],
            links: vec![],
            shared: HashMap::new(),
        };
        survey.root()?;
        survey.rank();
        Ok(survey.demand)
    }
}

struct TreeSurvey<'t> {
    demand: Demand<'t>,
    /// Position in `wanted` of each node of the tree.
    seen: Vec<Option<usize>>,
    /// Link count of each inode, before it is known to fit.
    links: Vec<u32>,
    /// Attribute blocks that more inodes may refer to.
    shared: HashMap<Vec<Attr>, usize>,
}

impl<'t> TreeSurvey<'t> {
    /// Finds what is read first. Paths that the tree does not have are of an earlier one.
    fn rank(&mut self) {
        let Demand { tree, options, wanted, rank, .. } = &mut self.demand;
        *rank = vec![NOT_FIRST; wanted.len()];
        for (nth, path) in (0..NOT_FIRST).zip(&options.first) {
            if let Some(position) = tree.lookup(path).and_then(|node| self.seen[node.index()]) {
                rank[position] = rank[position].min(nth);
            }
        }
    }

    fn root(&mut self) -> Result<(), DemandError> {
        let tree = self.demand.tree;
        let root = self.add(tree.root(), vec![], 0)?;
        let lost_found = match tree.lookup(b"lost+found") {
            Some(node) if tree.entries(node).is_none() => return Err(DemandError::LostFound),
            Some(_) => None,
            None => {
                self.links.push(0);
                self.demand.wanted.push(DemandedInode {
                    origin: InodeOrigin::LostFound,
                    path: b"lost+found".to_vec(),
                    parent: root,
                    links: 0,
                    body: Body::Directory { entries: vec![], blocks: LOST_FOUND_BLOCKS },
                    xattrs: vec![],
                    xattr_block: None,
                });
                Some(root + 1)
            }
        };
        self.links[root] = 1;
        let mut directories = vec![root];
        while let Some(dir) = directories.pop() {
            let added = if dir == root { lost_found } else { None };
            let mut below = self.directory(dir, added)?;
            below.reverse();
            directories.append(&mut below);
        }
        if self.demand.wanted.len() >= 1 << 29 {
            return Err(DemandError::TooManyInodes { inodes: self.demand.wanted.len() });
        }
        self.demand.lost_found = match lost_found {
            Some(position) => position,
            None => tree.lookup(b"lost+found").and_then(|node| self.seen[node.index()]).unwrap_or(root),
        };
        for (wanted, &links) in self.demand.wanted.iter_mut().zip(&self.links) {
            wanted.links = u16::try_from(links)
                .ok()
                .filter(|_| links <= LINK_MAX)
                .ok_or_else(|| DemandError::Links { path: shown(&wanted.path), links })?;
        }
        Ok(())
    }

    /// Adds the entries of a directory, and `added` as lost+found; returns the directories among them.
    fn directory(&mut self, dir: usize, added: Option<usize>) -> Result<Vec<usize>, DemandError> {
        let InodeOrigin::Node(node) = self.demand.wanted[dir].origin else { return Ok(vec![]) };
        let path = self.demand.wanted[dir].path.clone();
        let mut entries = vec![];
        let mut below = vec![];
        // `.`; the entry that refers to it counts where that is.
        self.links[dir] += 1;
        for (name, &child) in self.demand.tree.entries(node).into_iter().flatten() {
            let impossible = name.is_empty() || name == b"." || name == b".." || name.len() > NAME_MAX;
            if impossible || name.contains(&b'/') || name.contains(&0) {
                let name = String::from_utf8_lossy(name).into_owned();
                return Err(DemandError::Name { dir: shown(&path), name });
            }
            let is_directory = self.demand.tree.entries(child).is_some();
            let target = match self.seen[child.index()] {
                Some(_) if is_directory => {
                    return Err(DemandError::DirectoryTwice { path: shown(&joined(&path, name)) });
                }
                Some(target) => target,
                None => self.add(child, joined(&path, name), dir)?,
            };
            self.links[target] += 1;
            if is_directory {
                self.links[dir] += 1;
                below.push(target);
            }
            entries.push(DemandedEntry { name, target });
        }
        if let Some(target) = added {
            self.links[target] += 2;
            self.links[dir] += 1;
            let at = entries.partition_point(|entry| entry.name < b"lost+found".as_slice());
            entries.insert(at, DemandedEntry { name: b"lost+found", target });
        }
        self.demand.wanted[dir].body = Body::Directory { entries, blocks: 1 };
        Ok(below)
    }

    /// Adds a node that was not seen before; a directory's entries come later.
    fn add(&mut self, id: NodeId, path: Vec<u8>, parent: usize) -> Result<usize, DemandError> {
        let node = self.demand.tree.node(id);
        let options = &self.demand.options;
        let room = options.inode_size.bytes() - OLD_INODE_SIZE - usize::from(options.inode_size.extra());
        let body = body(&node.kind, &path)?;
        if let (Some(system), Some(name)) = (options.profile.lacks_xattrs(), node.meta.xattrs.keys().next()) {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(DemandError::NoXattrs { system, path: shown(&path), name });
        }
        let placed = xattr::place(&node.meta.xattrs, room, BLOCK as usize)
            .map_err(|bad| DemandError::Xattr { path: shown(&path), bad })?;
        let xattr_block = (!placed.block.is_empty()).then(|| self.share(placed.block));
        let position = self.demand.wanted.len();
        self.seen[id.index()] = Some(position);
        self.links.push(0);
        self.demand.wanted.push(DemandedInode {
            origin: InodeOrigin::Node(id),
            path,
            parent,
            links: 0,
            body,
            xattrs: placed.inline,
            xattr_block,
        });
        Ok(position)
    }

    fn share(&mut self, attrs: Vec<Attr>) -> usize {
        let blocks = &mut self.demand.xattr_blocks;
        if let Some(&at) = self.shared.get(&attrs)
            && blocks[at].refcount < REFCOUNT_MAX
        {
            blocks[at].refcount += 1;
            return at;
        }
        blocks.push(XattrBlock { attrs: attrs.clone(), refcount: 1 });
        self.shared.insert(attrs, blocks.len() - 1);
        blocks.len() - 1
    }
}

fn body<'t>(kind: &Kind, path: &[u8]) -> Result<Body<'t>, DemandError> {
    match kind {
        Kind::Directory(_) => Ok(Body::Directory { entries: vec![], blocks: 1 }),
        Kind::File(content) => blocks(content, path),
        Kind::Symlink(target) => {
            let nul = target.contains(&0);
            match target.len() {
                1..FAST_SYMLINK if !nul => Ok(Body::None),
                FAST_SYMLINK..4096 if !nul => Ok(Body::Blocks(vec![0..1])),
                len => Err(DemandError::Symlink { path: shown(path), len, nul }),
            }
        }
        &Kind::CharDevice { major, minor } | &Kind::BlockDevice { major, minor } => {
            match encode_device(major, minor) {
                Some(_) => Ok(Body::None),
                None => Err(DemandError::Device { path: shown(path), major, minor }),
            }
        }
        Kind::Fifo | Kind::Socket => Ok(Body::None),
    }
}

/// The blocks that a file's extents touch.
fn blocks<'t>(content: &Content, path: &[u8]) -> Result<Body<'t>, DemandError> {
    if content.len > u64::from(MAX_FILE_BLOCKS) * u64::from(BLOCK) {
        return Err(DemandError::FileTooLarge { path: shown(path), len: content.len });
    }
    let mut before = 0;
    for extent in &content.extents {
        let end = extent.at.checked_add(extent.len).filter(|&end| end <= content.len && extent.at >= before);
        before =
            end.ok_or_else(|| DemandError::Extents { path: shown(path), at: extent.at, len: content.len })?;
    }
    let runs = file_runs(content);
    Ok(if runs.is_empty() { Body::None } else { Body::Blocks(runs) })
}

/// The blocks of a file that are not holes, as far as a file can have them.
pub(super) fn file_runs(content: &Content) -> Vec<Range<u32>> {
    let block = u64::from(BLOCK);
    let number = |block: u64| u32::try_from(block).unwrap_or(u32::MAX).min(MAX_FILE_BLOCKS);
    let mut runs: Vec<Range<u32>> = vec![];
    for extent in &content.extents {
        let first = number(extent.at / block);
        let end = number(extent.at.saturating_add(extent.len).div_ceil(block));
        match runs.last_mut() {
            Some(last) if first <= last.end => last.end = last.end.max(end),
            _ if first < end => runs.push(first..end),
            _ => {}
        }
    }
    runs
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}
