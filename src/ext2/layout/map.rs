//! What the next build has to know of this one: the layout map.

use std::ops::Deref;

use crate::ext2::blockmap::{BlockMap, Run, needed};
use crate::ext2::demand::{Body, InodeOrigin};
use crate::ext2::geometry::Geometry;
use crate::ext2::pages::{PageHash, Pages};
use crate::ext2::plan::ImagePlan;
use crate::tree::{Kind, Meta, NodeId, Tree};

/// Where everything of an image stands and what its pages hold: the image without its contents. It is published
/// with a release as `layout.z`, signed like the rest of it, and is all that the next build needs of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutMap {
    pub geometry: Geometry,
    /// The time in the superblock, seconds since 1970: that of the first layout.
    pub epoch: u64,
    /// Inodes in use, ascending by number; the reserved ones aside, but for the root.
    pub inodes: Vec<Mapped>,
    /// Whom files belong to, e.g. packages.
    pub labels: Vec<Label>,
    /// What each page of the image holds, in use or not.
    pub pages: Vec<PageHash>,
}

/// The layout of the release before, and what it has under each name.
#[derive(Debug)]
pub struct PreviousLayout<'a> {
    map: &'a LayoutMap,
    /// By place in [`LayoutMap::inodes`]: the entries of a directory, ascending by name, and the places of what they
    /// name.
    names: Vec<Vec<(&'a [u8], usize)>>,
}

impl<'a> PreviousLayout<'a> {
    /// Of a map. Entries of inodes that it does not have are left out.
    pub fn new(map: &'a LayoutMap) -> Self {
        let numbers: Vec<u32> = map.inodes.iter().map(|mapped| mapped.ino).collect();
        let place = |entry: &'a MappedEntry| Some((&entry.name[..], numbers.binary_search(&entry.ino).ok()?));
        let names = map.inodes.iter().map(|mapped| {
            let mut names: Vec<_> = mapped.entries().filter_map(place).collect();
            names.sort_unstable();
            names
        });
        PreviousLayout { map, names: names.collect() }
    }

    /// Place of the root in [`LayoutMap::inodes`].
    pub(crate) fn root(&self) -> Option<usize> {
        self.map.place(crate::ext2::ROOT_INO)
    }

    /// Place of what a directory has under a name. Nothing for what is no directory.
    pub(crate) fn child(&self, dir: usize, name: &[u8]) -> Option<usize> {
        let names = &self.names[dir];
        Some(names[names.binary_search_by(|(had, _)| (*had).cmp(name)).ok()?].1)
    }

    /// Nodes of a tree with the places of what the layout has at their paths, in the order of [`Tree::walk`].
    pub(crate) fn at_paths_of(&self, tree: &Tree) -> Vec<(NodeId, usize)> {
        let mut found = Vec::with_capacity(self.map.inodes.len());
        let mut next: Vec<_> = self.root().map(|root| (tree.root(), root)).into_iter().collect();
        while let Some((node, place)) = next.pop() {
            found.push((node, place));
            let entries = tree.entries(node).into_iter().flatten().rev();
            next.extend(entries.filter_map(|(name, &child)| Some((child, self.child(place, name)?))));
        }
        found
    }
}

impl Deref for PreviousLayout<'_> {
    type Target = LayoutMap;

    fn deref(&self) -> &LayoutMap {
        self.map
    }
}

/// Whom files belong to: a package and its version. It only explains; nothing is placed by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// Name of the package.
    pub name: String,
    pub version: String,
}

/// An inode of a [`LayoutMap`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    pub ino: u32,
    /// Owner, mode, time, attributes.
    pub meta: Meta,
    pub kind: MappedKind,
    /// Its blocks, ascending.
    pub data: Vec<Run>,
    /// Positions of its indirect blocks, in the order of [`needed`].
    pub indirect: Vec<u32>,
    /// What each MiB of a large file holds ([`Pages::sums`]).
    pub sums: Vec<PageHash>,
    /// Whom it belongs to, by place in [`LayoutMap::labels`].
    pub label: Option<u32>,
}

/// What an inode of a [`LayoutMap`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MappedKind {
    /// Its entries without `.` and `..`, block by block.
    Directory(Vec<Vec<MappedEntry>>),
    /// Regular file of some length in bytes.
    File(u64),
    /// Symbolic link and its target.
    Symlink(Vec<u8>),
    /// Character device, major and minor number.
    CharDevice(u32, u32),
    /// Block device, major and minor number.
    BlockDevice(u32, u32),
    Fifo,
    Socket,
}

/// An entry of a directory of a [`LayoutMap`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedEntry {
    /// Offset in its block.
    pub offset: u16,
    pub ino: u32,
    pub name: Vec<u8>,
}

impl Mapped {
    /// The block map of the inode: which page holds which part of the file.
    pub fn map(&self) -> BlockMap {
        let runs: Vec<_> = self.data.iter().map(|run| run.logical..run.logical_end()).collect();
        BlockMap {
            data: self.data.clone(),
            indirect: needed(&runs).into_iter().zip(self.indirect.iter().copied()).collect(),
        }
    }

    /// Entries of a directory, in the order of their places.
    pub fn entries(&self) -> impl Iterator<Item = &MappedEntry> {
        let blocks: &[Vec<MappedEntry>] = match &self.kind {
            MappedKind::Directory(blocks) => blocks,
            _ => &[],
        };
        blocks.iter().flatten()
    }
}

impl LayoutMap {
    /// The map of a plan. `held` says what files hold, `pages` what each page of the image holds once it is written
    /// ([`crate::ext2::PageMap::after`]); `label` whom a node belongs to, by place in `labels`.
    pub fn of(
        plan: &ImagePlan<'_>,
        held: &Pages,
        pages: Vec<PageHash>,
        labels: Vec<Label>,
        label: impl Fn(NodeId) -> Option<u32>,
    ) -> Self {
        let placed = &plan.placement.inodes;
        let mapped = |&(ino, position): &(u32, u32)| {
            let position = position as usize;
            let wanted = &plan.demand.wanted[position];
            let map = &plan.maps[position];
            let (meta, kind) = match wanted.origin {
                InodeOrigin::LostFound => (plan.lost_found(), None),
                InodeOrigin::Node(id) => {
                    let node = plan.demand.tree.node(id);
                    (node.meta.clone(), Some(&node.kind))
                }
            };
            let kind = match kind {
                Some(Kind::File(content)) => MappedKind::File(content.len),
                Some(Kind::Symlink(target)) => MappedKind::Symlink(target.clone()),
                Some(&Kind::CharDevice { major, minor }) => MappedKind::CharDevice(major, minor),
                Some(&Kind::BlockDevice { major, minor }) => MappedKind::BlockDevice(major, minor),
                Some(Kind::Fifo) => MappedKind::Fifo,
                Some(Kind::Socket) => MappedKind::Socket,
                Some(Kind::Directory(_)) | None => {
                    let entries: &[_] = match &wanted.body {
                        Body::Directory { entries, .. } => entries,
                        _ => &[],
                    };
                    let entry = |slot: &crate::ext2::dirent::DirentSlot| {
                        let entry = &entries[slot.entry as usize];
                        MappedEntry {
                            offset: slot.offset,
                            ino: placed[entry.target].ino,
                            name: entry.name.to_vec(),
                        }
                    };
                    let blocks = placed[position].slots.iter();
                    MappedKind::Directory(blocks.map(|slots| slots.iter().map(entry).collect()).collect())
                }
            };
            let indirect = map.indirect.iter().map(|&(_, at)| at).collect();
            let (label, sums) = match wanted.origin {
                InodeOrigin::Node(id) => {
                    (label(id).filter(|&label| (label as usize) < labels.len()), held.sums(id).to_vec())
                }
                InodeOrigin::LostFound => (None, vec![]),
            };
            Mapped { ino, meta, kind, data: map.data.clone(), indirect, sums, label }
        };
        LayoutMap {
            geometry: plan.geometry(),
            epoch: plan.demand.options.epoch,
            inodes: plan.inodes.iter().map(mapped).collect(),
            labels,
            pages,
        }
    }

    /// The inode of that number.
    pub fn inode(&self, ino: u32) -> Option<&Mapped> {
        self.place(ino).map(|place| &self.inodes[place])
    }

    /// Place in [`LayoutMap::inodes`] of the inode of that number.
    pub(super) fn place(&self, ino: u32) -> Option<usize> {
        self.inodes.binary_search_by_key(&ino, |mapped| mapped.ino).ok()
    }

    /// What the pages of one of the inodes hold, in their order.
    pub(crate) fn held<'a>(&'a self, mapped: &'a Mapped) -> impl Iterator<Item = PageHash> + 'a {
        let blocks = mapped.data.iter().flat_map(|run| run.physical..run.physical + run.count);
        blocks.map(|at| self.pages.get(at as usize).copied().unwrap_or_default())
    }

    /// Which pages of the image are in use: group metadata, data, indirect blocks. Attribute blocks are not known
    /// here, so they count as free.
    pub fn in_use(&self) -> Vec<bool> {
        let mut used = vec![false; self.geometry.blocks as usize];
        for group in 0..self.geometry.groups() {
            let start = self.geometry.start(group) as usize;
            used[start..start + self.geometry.overhead(group) as usize].fill(true);
        }
        let blocks = self.inodes.iter().flat_map(|mapped| {
            let data = mapped.data.iter().flat_map(|run| run.physical..run.physical + run.count);
            data.chain(mapped.indirect.iter().copied())
        });
        for block in blocks {
            if let Some(used) = used.get_mut(block as usize) {
                *used = true;
            }
        }
        used
    }
}
