//! Inode numbers: kept by path, then by contents; new files take freed ones.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::ext2::demand::{Body, Demand, DemandedEntry, InodeOrigin};
use crate::ext2::geometry::Geometry;
use crate::ext2::layout::map::{LayoutMap, Mapped, MappedKind, PreviousLayout};
use crate::ext2::layout::order::positions;
use crate::ext2::pages::{PageHash, Pages};
use crate::ext2::{FIRST_INO, ROOT_INO};
use crate::tree::Kind;

/// The number of each inode wanted, and which inode it was.
pub(super) struct InodeNumbers {
    /// Inode number by position in [`Demand::wanted`]. May be more than the image has inodes for: then it grows.
    pub ino: Vec<u32>,
    /// Place in [`LayoutMap::inodes`] of the inode that it was, by the same position.
    pub old: Vec<Option<usize>>,
}

impl InodeNumbers {
    /// Chooses them. `unit` is the number of pages in a block of the disk.
    pub fn choose(demand: &Demand<'_>, previous: &PreviousLayout<'_>, pages: &Pages, unit: u32) -> Self {
        let mut matching =
            Matching { demand, previous, pages, old: vec![None; demand.wanted.len()], taken: vec![] };
        matching.taken = vec![false; previous.inodes.len()];
        matching.by_path();
        matching.by_contents();
        let Matching { old, taken, .. } = matching;

        let geometry = previous.geometry;
        let mut ino: Vec<u32> =
            old.iter().map(|old| old.map_or(0, |old: usize| previous.inodes[old].ino)).collect();
        let dirty = dirty_units(demand, previous, pages, &old, unit);
        let mut used = vec![false; geometry.inodes() as usize + 1];
        used[..FIRST_INO.min(geometry.inodes() + 1) as usize].fill(true);
        for (mapped, taken) in previous.inodes.iter().zip(&taken) {
            used[mapped.ino as usize] |= taken;
        }
        // Freed ones first: their blocks change anyway. Then others in blocks that change.
        let freed =
            previous.inodes.iter().zip(&taken).filter(|(_, taken)| !**taken).map(|(mapped, _)| mapped.ino);
        let mut free: Vec<u32> = freed.filter(|&ino| ino >= FIRST_INO).collect();
        free.iter().for_each(|&ino| used[ino as usize] = true);
        let others = (FIRST_INO..=geometry.inodes()).filter(|&ino| !used[ino as usize]);
        let (near, far): (Vec<u32>, Vec<u32>) =
            others.partition(|&ino| dirty.contains(&unit_of(geometry, ino, unit)));
        free.extend(near);
        free.extend(far);
        let mut free = free.into_iter().chain(geometry.inodes() + 1..);
        for position in positions(demand) {
            if ino[position] == 0 {
                ino[position] = if position == 0 { ROOT_INO } else { free.next().expect("numbers go on") };
            }
        }
        InodeNumbers { ino, old }
    }
}

/// Whether a mapped inode is of a wanted one's kind.
fn same_kind(demand: &Demand<'_>, position: usize, mapped: &Mapped) -> bool {
    let InodeOrigin::Node(node) = demand.wanted[position].origin else {
        return matches!(mapped.kind, MappedKind::Directory(_));
    };
    matches!(
        (&demand.tree.node(node).kind, &mapped.kind),
        (Kind::Directory(_), MappedKind::Directory(_))
            | (Kind::File(_), MappedKind::File(_))
            | (Kind::Symlink(_), MappedKind::Symlink(_))
            | (Kind::CharDevice { .. }, MappedKind::CharDevice(..))
            | (Kind::BlockDevice { .. }, MappedKind::BlockDevice(..))
            | (Kind::Fifo, MappedKind::Fifo)
            | (Kind::Socket, MappedKind::Socket)
    )
}

struct Matching<'a> {
    demand: &'a Demand<'a>,
    previous: &'a PreviousLayout<'a>,
    pages: &'a Pages,
    old: Vec<Option<usize>>,
    /// Which inodes of the previous layout have found theirs.
    taken: Vec<bool>,
}

impl Matching<'_> {
    fn try_match(&mut self, position: usize, old: usize) {
        let mapped = &self.previous.inodes[old];
        let root = (position == 0) == (mapped.ino == ROOT_INO);
        if self.old[position].is_none()
            && !self.taken[old]
            && root
            && same_kind(self.demand, position, mapped)
        {
            self.old[position] = Some(old);
            self.taken[old] = true;
        }
    }

    fn by_path(&mut self) {
        let demand = self.demand;
        // What the layout has where a directory is; which inodes have been met; what it has at their other paths.
        let mut places = vec![None; demand.wanted.len()];
        let mut seen = vec![false; demand.wanted.len()];
        let mut others = vec![];
        places[0] = self.previous.root();
        if let Some(root) = places[0] {
            self.try_match(0, root);
        }
        for (dir, wanted) in demand.wanted.iter().enumerate() {
            let (Body::Directory { entries, .. }, Some(place)) = (&wanted.body, places[dir]) else {
                continue;
            };
            for &DemandedEntry { name, target } in entries {
                let is_first = !std::mem::replace(&mut seen[target], true);
                let Some(old) = self.previous.child(place, name) else { continue };
                places[target] = Some(old);
                if is_first {
                    self.try_match(target, old);
                } else {
                    others.push((target, old));
                }
            }
        }
        // Another link may have been there before.
        others.into_iter().for_each(|(target, old)| self.try_match(target, old));
    }

    /// Files that moved: the same contents under another name.
    fn by_contents(&mut self) {
        let mut gone: HashMap<u64, Vec<usize>> = HashMap::new();
        for (old, mapped) in self.previous.inodes.iter().enumerate().rev() {
            if let (MappedKind::File(len), false) = (&mapped.kind, self.taken[old])
                && *len > 0
            {
                gone.entry(digest(*len, self.previous.held(mapped))).or_default().push(old);
            }
        }
        if gone.is_empty() {
            return;
        }
        for position in positions(self.demand) {
            let InodeOrigin::Node(node) = self.demand.wanted[position].origin else { continue };
            let (Kind::File(content), None) = (&self.demand.tree.node(node).kind, self.old[position]) else {
                continue;
            };
            let now = self.pages.of(node);
            let Some(candidates) = gone.get_mut(&digest(content.len, now.iter().copied())) else { continue };
            if let Some(old) = candidates.pop() {
                let mapped = &self.previous.inodes[old];
                if self.previous.held(mapped).eq(now.iter().copied()) {
                    self.try_match(position, old);
                }
            }
        }
    }
}

fn digest(len: u64, pages: impl Iterator<Item = PageHash>) -> u64 {
    let mut hasher = DefaultHasher::new();
    len.hash(&mut hasher);
    pages.for_each(|page| page.hash(&mut hasher));
    hasher.finish()
}

/// Block of the disk that has an inode.
fn unit_of(geometry: Geometry, ino: u32, unit: u32) -> u32 {
    geometry.inode_page(ino) / unit
}

/// Blocks of the disk with inodes that will change, as far as is known before anything is placed.
fn dirty_units(
    demand: &Demand<'_>,
    previous: &LayoutMap,
    pages: &Pages,
    old: &[Option<usize>],
    unit: u32,
) -> std::collections::HashSet<u32> {
    let mut kept = vec![false; previous.inodes.len()];
    for (wanted, old) in demand.wanted.iter().zip(old) {
        let (Some(old), InodeOrigin::Node(node)) = (*old, wanted.origin) else { continue };
        let mapped = &previous.inodes[old];
        let same = match (&demand.tree.node(node).kind, &mapped.kind) {
            (Kind::File(content), MappedKind::File(len)) => {
                content.len == *len && previous.held(mapped).eq(pages.of(node).iter().copied())
            }
            _ => true,
        };
        kept[old] = same && demand.tree.node(node).meta == mapped.meta;
    }
    let changed = previous.inodes.iter().zip(&kept).filter(|(_, kept)| !**kept);
    changed.map(|(mapped, _)| unit_of(previous.geometry, mapped.ino, unit)).collect()
}
