//! Which files pages belong to, and which pages files have.

use std::collections::HashSet;
use std::ops::Range;

use super::map::{LayoutMap, Mapped};
use crate::ext2::ROOT_INO;

/// In how many blocks of the disk something lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragmentation {
    /// Blocks that have some of it.
    pub blocks: u32,
    /// Blocks that would hold it.
    pub least: u32,
}

impl LayoutMap {
    /// Paths, without leading `/`, of the files, directories and symlinks whose blocks are among these pages of the
    /// image, indirect ones too: each once, in the order of the pages. Of several paths the one that a walk comes to
    /// first, directory by directory. Pages of nobody, and of metadata, are passed over.
    pub fn paths_of(&self, pages: impl IntoIterator<Item = Range<u32>>) -> Vec<Vec<u8>> {
        const NOBODY: usize = usize::MAX;
        let mut owners = vec![NOBODY; self.geometry.blocks as usize];
        for (place, mapped) in self.inodes.iter().enumerate() {
            let data = mapped.data.iter().flat_map(|run| run.physical..run.physical + run.count);
            for page in data.chain(mapped.indirect.iter().copied()) {
                if let Some(owner) = owners.get_mut(page as usize) {
                    *owner = place;
                }
            }
        }
        let paths = self.paths();
        let mut told = vec![false; self.inodes.len()];
        let mut found = vec![];
        for page in pages.into_iter().flatten() {
            match owners.get(page as usize) {
                None | Some(&NOBODY) => {}
                Some(&owner) if std::mem::replace(&mut told[owner], true) => {}
                Some(&owner) => found.extend(paths[owner].clone()),
            }
        }
        found
    }

    /// What there is at a path, which is without leading `/`.
    pub fn lookup(&self, path: &[u8]) -> Option<&Mapped> {
        let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        names.try_fold(self.inode(ROOT_INO)?, |dir, name| {
            self.inode(dir.entries().find(|entry| entry.name == name)?.ino)
        })
    }

    /// How spread out what these paths have is, inodes and data, over blocks of `unit` pages. Files of a block and more are
    /// left out, as they have blocks of their own, and so are paths that lead nowhere.
    pub fn spread(&self, paths: &[Vec<u8>], unit: u32) -> Fragmentation {
        let (mut pages, mut tables) = (HashSet::new(), HashSet::new());
        let mut inodes = HashSet::new();
        for mapped in paths.iter().filter_map(|path| self.lookup(path)) {
            let data = mapped.data.iter().flat_map(|run| run.physical..run.physical + run.count);
            let data: Vec<u32> = data.chain(mapped.indirect.iter().copied()).collect();
            if data.len() < unit as usize {
                pages.extend(data);
                inodes.insert(mapped.ino);
                tables.insert(self.geometry.inode_page(mapped.ino));
            }
        }
        let count = |count: usize| u32::try_from(count).expect("an image has at most 2^29 pages");
        let table_pages = count(inodes.len()).div_ceil(self.geometry.inodes_per_block());
        let blocks: HashSet<u32> = pages.iter().chain(&tables).map(|page| page / unit).collect();
        Fragmentation {
            blocks: count(blocks.len()),
            least: count(pages.len()).div_ceil(unit) + table_pages.div_ceil(unit),
        }
    }

    /// A path of each inode; none of those that no directory names.
    fn paths(&self) -> Vec<Option<Vec<u8>>> {
        let mut paths = vec![None; self.inodes.len()];
        let mut next: Vec<usize> = self.place(ROOT_INO).into_iter().collect();
        if let Some(&root) = next.first() {
            paths[root] = Some(vec![]);
        }
        while let Some(dir) = next.pop() {
            let above = paths[dir].clone().unwrap_or_default();
            let mut entries: Vec<_> = self.inodes[dir].entries().collect();
            entries.sort_unstable_by_key(|entry| &entry.name);
            let mut below = vec![];
            for entry in entries {
                let Some(place) = self.place(entry.ino).filter(|&place| paths[place].is_none()) else {
                    continue;
                };
                let mut path = above.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend(&entry.name);
                paths[place] = Some(path);
                below.push(place);
            }
            next.extend(below.into_iter().rev());
        }
        paths
    }
}
