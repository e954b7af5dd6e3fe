//! The root file system as data: directories, inodes and where their contents lie.
//!
//! A [`Tree`] is what a tar archive, an overlay or a guest's set becomes, and what the ext2 writer reads. File
//! contents stay where they were spooled: a [`Content`] only says which bytes of which spool they are. Names
//! are bytes, not text: Unix file names need not be UTF-8.

pub mod dump;
pub mod glob;
pub mod normalise;
pub mod overlay;
pub mod tar;

pub(crate) mod names;
mod pyc;
mod resolve;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Index of a [`Node`] in its [`Tree`]. Two directory entries with one `NodeId` are hard links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// Position of the node in [`Tree::nodes`], dense from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Time of last modification: seconds since 1970 (may be negative) and nanoseconds below 10^9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Seconds since the epoch.
    pub secs: i64,
    /// Nanoseconds, 0..1_000_000_000.
    pub nanos: u32,
}

/// What every inode has, whatever its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky: 0o7777 at most. The type is in [`Kind`].
    pub mode: u16,
    /// Numeric user ID of the owner.
    pub uid: u32,
    pub gid: u32,
    /// Modification time; the writers use it for all of an inode's times.
    pub mtime: FileTime,
    /// Extended attributes by full name (`security.capability`, `system.posix_acl_access` in the kernel's
    /// binary form, `user.x`), sorted.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Which spooled stream holds some bytes. The caller of a writer knows what file that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolId(pub u32);

/// Where the bytes of one [`Extent`] are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentSource {
    /// From `offset` on in a spool.
    Spool {
        /// The spool file that holds the bytes.
        spool: SpoolId,
        /// First byte in it.
        offset: u64,
    },
    /// In memory, from `offset` on: generated files.
    Inline {
        /// The buffer, shared by the pieces cut from it.
        bytes: Arc<[u8]>,
        /// First byte in it.
        offset: usize,
    },
}

/// A run of bytes of a file. What no extent covers is a hole and reads as zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the file.
    pub at: u64,
    /// Length in bytes, not 0.
    pub len: u64,
    /// Where the bytes are.
    pub source: ContentSource,
}

/// Contents of a regular file by reference: extents in ascending order, not overlapping, within `len`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Length of the file in bytes.
    pub len: u64,
    /// What is not a hole.
    pub extents: Vec<Extent>,
}

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Entries by name; `.` and `..` are not among them.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    File(Content),
    /// Symbolic link with its target, 1 to 4,095 bytes.
    Symlink(Vec<u8>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
    Socket,
}

/// An inode; hard links are several names of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Owner, mode, time, attributes.
    pub meta: Meta,
    pub kind: Kind,
}

/// Reads spooled bytes. The host implements it over files; tests over memory.
pub trait Contents: Sync {
    /// Fills `buf` from `offset` of `spool`.
    ///
    /// # Errors
    /// Whatever the medium says; `UnexpectedEof` if the spool is shorter.
    fn read_exact_at(&self, spool: SpoolId, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

impl Contents for Vec<Vec<u8>> {
    fn read_exact_at(&self, spool: SpoolId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.get(spool.0 as usize).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Content {
    /// Contents held in memory, without holes.
    pub fn inline(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let len = bytes.len() as u64;
        let extents = if len == 0 {
            vec![]
        } else {
            vec![Extent { at: 0, len, source: ContentSource::Inline { bytes, offset: 0 } }]
        };
        Content { len, extents }
    }

    /// The whole file, for small ones.
    ///
    /// # Errors
    /// Those of [`Contents::read_exact_at`]; `FileTooLarge` beyond the memory of this machine.
    pub fn read_all(&self, contents: &dyn Contents) -> io::Result<Vec<u8>> {
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let len = usize::try_from(self.len).map_err(|_| too_large())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| too_large())?;
        bytes.resize(len, 0);
        self.read_at(contents, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `buf` with the file's bytes from `at`; holes, and what lies beyond the end, read as zeros.
    ///
    /// # Errors
    /// Those of [`Contents::read_exact_at`].
    pub fn read_at(&self, contents: &dyn Contents, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = at.saturating_add(buf.len() as u64).min(self.len);
        let first = self.extents.partition_point(|extent| extent.at + extent.len <= at);
        // What is behind this is not filled yet.
        let mut filled = 0;
        for extent in &self.extents[first..] {
            if extent.at >= end {
                break;
            }
            // Both lie within `buf`, so they fit a usize.
            let from = (extent.at.max(at) - at) as usize;
            let to = ((extent.at + extent.len).min(end) - at) as usize;
            if let Some(gap) = buf.get_mut(filled..from) {
                gap.fill(0);
            }
            filled = to;
            let part = &mut buf[from..to];
            let skip = at.saturating_sub(extent.at);
            match &extent.source {
                ContentSource::Spool { spool, offset } => {
                    contents.read_exact_at(*spool, offset + skip, part)?;
                }
                ContentSource::Inline { bytes, offset } => {
                    let start = offset + skip as usize;
                    part.copy_from_slice(&bytes[start..start + part.len()]);
                }
            }
        }
        buf[filled..].fill(0);
        Ok(())
    }
}

/// What is wrong with a path given to a [`Tree`]. Paths are shown as text, lossily.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TreeError {
    /// A component that no directory entry can have.
    #[error("{path}: `{name}` can't be a file name")]
    BadName {
        /// The path asked for.
        path: String,
        name: String,
    },
    /// The tree has no file of this path.
    #[error("{path}: no such file in the tree")]
    Missing {
        /// The path asked for.
        path: String,
    },
    /// Something on the way, or at the end, must be a directory.
    #[error("{path}: not a directory")]
    NotDirectory {
        /// The path that is something else.
        path: String,
    },
    /// A directory can't take part in this.
    #[error("{path}: is a directory")]
    IsDirectory {
        /// The path that is a directory.
        path: String,
    },
}

/// A root file system. Paths are bytes separated by `/`; a leading `/` or `./` and empty components are
/// ignored. Symbolic links are never followed: a path means the entry itself.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// An empty root directory.
    pub fn new(root: Meta) -> Self {
        Tree { nodes: vec![Node { meta: root, kind: Kind::Directory(BTreeMap::new()) }] }
    }

    /// The root directory, which every tree has.
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// A node. Ids of another tree give another node, or panic.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// A node, to change what is not the directory structure.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// All nodes by [`NodeId::index`], also those that no directory refers to any more.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The entries of a directory, `None` for anything else.
    pub fn entries(&self, id: NodeId) -> Option<&BTreeMap<Vec<u8>, NodeId>> {
        match &self.node(id).kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// What is at `path`, if anything.
    pub fn lookup(&self, path: &[u8]) -> Option<NodeId> {
        let mut at = self.root();
        for name in components(path) {
            at = *self.entries(at)?.get(name)?;
        }
        Some(at)
    }

    /// Puts `node` at `path`, in place of anything there that is not a directory. Parents that are missing
    /// are made as directories of root with mode 0755 and the node's time. A directory put over a directory
    /// changes its metadata and keeps its entries.
    ///
    /// # Errors
    /// [`TreeError::BadName`], [`TreeError::NotDirectory`] for a parent, [`TreeError::IsDirectory`] when a
    /// file would replace a directory.
    pub fn insert(&mut self, path: &[u8], node: Node) -> Result<NodeId, TreeError> {
        let Some((parent, name)) = self.parent_of(path, node.meta.mtime)? else {
            return match node.kind {
                Kind::Directory(_) => {
                    self.nodes[0].meta = node.meta;
                    Ok(self.root())
                }
                _ => Err(TreeError::IsDirectory { path: shown(path) }),
            };
        };
        let old = self.entries(parent).and_then(|entries| entries.get(name)).copied();
        if let Some(old) = old.filter(|&old| self.entries(old).is_some()) {
            if !matches!(node.kind, Kind::Directory(_)) {
                return Err(TreeError::IsDirectory { path: shown(path) });
            }
            self.node_mut(old).meta = node.meta;
            return Ok(old);
        }
        let id = NodeId(u32::try_from(self.nodes.len()).expect("a tree has fewer than 2^32 nodes"));
        self.nodes.push(node);
        self.enter(parent, name, id);
        Ok(id)
    }

    /// Makes `path` another name of `target`.
    ///
    /// # Errors
    /// As [`Tree::insert`]; [`TreeError::IsDirectory`] also when `target` is one.
    pub fn link(&mut self, path: &[u8], target: NodeId) -> Result<(), TreeError> {
        if self.entries(target).is_some() {
            return Err(TreeError::IsDirectory { path: shown(path) });
        }
        let mtime = self.node(target).meta.mtime;
        let Some((parent, name)) = self.parent_of(path, mtime)? else {
            return Err(TreeError::IsDirectory { path: shown(path) });
        };
        let old = self.entries(parent).and_then(|entries| entries.get(name)).copied();
        if old.is_some_and(|old| self.entries(old).is_some()) {
            return Err(TreeError::IsDirectory { path: shown(path) });
        }
        self.enter(parent, name, target);
        Ok(())
    }

    /// Takes the entry at `path` out, with all below it; says whether there was one. The root stays.
    pub fn remove(&mut self, path: &[u8]) -> bool {
        let names: Vec<&[u8]> = components(path).collect();
        let Some((name, parents)) = names.split_last() else { return false };
        let mut at = self.root();
        for name in parents {
            match self.entries(at).and_then(|entries| entries.get(*name)) {
                Some(&next) => at = next,
                None => return false,
            }
        }
        match &mut self.node_mut(at).kind {
            Kind::Directory(entries) => entries.remove(*name).is_some(),
            _ => false,
        }
    }

    /// Every entry with its path, the root first as an empty path, parents before children, names in byte
    /// order. Paths have no leading `/`. A node with several links comes once for each.
    pub fn walk(&self) -> Walk<'_> {
        self.walk_below(b"", usize::MAX)
    }

    /// What [`Tree::walk`] gives of `path` and what is up to `depth` directories below it; nothing if that is not
    /// there.
    pub fn walk_below(&self, path: &[u8], depth: usize) -> Walk<'_> {
        let path = components(path).collect::<Vec<_>>().join(&b'/');
        let stack = self.lookup(&path).map(|id| (path, id, depth));
        Walk { tree: self, stack: stack.into_iter().collect() }
    }

    /// Link count of each node, by [`NodeId::index`], as a file system counts: entries that refer to it, and
    /// for a directory 2 and one for each subdirectory. 0 for nodes that were removed.
    pub fn link_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.nodes.len()];
        counts[0] = 2;
        for (path, id) in self.walk() {
            if path.is_empty() {
                continue;
            }
            counts[id.index()] += 1;
            if self.entries(id).is_some() {
                counts[id.index()] += 1;
                let parent =
                    path.iter().rposition(|&byte| byte == b'/').map_or(&path[..0], |end| &path[..end]);
                let parent = self.lookup(parent).expect("walk gave the parent before");
                counts[parent.index()] += 1;
            }
        }
        counts
    }

    /// The directory that holds the last component of `path`, made if missing; `None` for the root itself.
    fn parent_of<'p>(
        &mut self,
        path: &'p [u8],
        mtime: FileTime,
    ) -> Result<Option<(NodeId, &'p [u8])>, TreeError> {
        let names: Vec<&[u8]> = components(path).collect();
        for name in &names {
            if *name == b".." || name.len() > 255 || name.contains(&0) {
                let name = String::from_utf8_lossy(name).into_owned();
                return Err(TreeError::BadName { path: shown(path), name });
            }
        }
        let Some((last, parents)) = names.split_last() else { return Ok(None) };
        let mut at = self.root();
        for (depth, name) in parents.iter().enumerate() {
            let next = match self.entries(at) {
                None => return Err(TreeError::NotDirectory { path: shown(&names[..depth].join(&b'/')) }),
                Some(entries) => entries.get(*name).copied(),
            };
            at = match next {
                Some(next) => next,
                None => {
                    let meta = Meta { mode: 0o755, mtime, ..Meta::default() };
                    let id =
                        NodeId(u32::try_from(self.nodes.len()).expect("a tree has fewer than 2^32 nodes"));
                    self.nodes.push(Node { meta, kind: Kind::Directory(BTreeMap::new()) });
                    self.enter(at, name, id);
                    id
                }
            };
        }
        if self.entries(at).is_none() {
            return Err(TreeError::NotDirectory { path: shown(&parents.join(&b'/')) });
        }
        Ok(Some((at, last)))
    }

    fn enter(&mut self, parent: NodeId, name: &[u8], id: NodeId) {
        match &mut self.node_mut(parent).kind {
            Kind::Directory(entries) => entries.insert(name.to_vec(), id),
            _ => unreachable!("callers looked the directory up"),
        };
    }
}

/// Iterator of [`Tree::walk`].
pub struct Walk<'t> {
    tree: &'t Tree,
    /// Entries that are still to come, and how many levels of directories with them.
    stack: Vec<(Vec<u8>, NodeId, usize)>,
}

impl Iterator for Walk<'_> {
    type Item = (Vec<u8>, NodeId);

    fn next(&mut self) -> Option<Self::Item> {
        let (path, id, depth) = self.stack.pop()?;
        let entries = self.tree.entries(id);
        if let Some((entries, depth)) = entries.zip(depth.checked_sub(1)) {
            for (name, &child) in entries.iter().rev() {
                let mut below = Vec::with_capacity(path.len() + 1 + name.len());
                below.extend_from_slice(&path);
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(name);
                self.stack.push((below, child, depth));
            }
        }
        Some((path, id))
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path).trim_start_matches('/'))
}
