//! Directories: entries, paths, and the image as a tree.

use std::collections::{HashMap, HashSet};

use super::{ImageDamage, ImageReadError, RawInode, Reader, damaged};
use crate::ext2::dirent;
use crate::ext2::ondisk::S_IFDIR;
use crate::ext2::{ROOT_INO, shown};
use crate::tree::{Kind, Meta, NodeId, SpoolId, Tree};

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: Vec<u8>,
    /// Its inode, within the file system.
    pub ino: u32,
    /// `file_type`, as the directory has it; 0 in file systems without `filetype`.
    pub file_type: u8,
    /// Block of the directory that it is in.
    pub logical: u32,
    /// Where in that block its record begins.
    pub offset: usize,
}

impl DirEntry {
    /// Whether it is `.` or `..`.
    pub fn is_dot(&self) -> bool {
        self.name == b"." || self.name == b".."
    }
}

impl Reader<'_> {
    /// All entries of a directory in their order on disk, `.` and `..` too.
    ///
    /// # Errors
    /// [`ImageReadError::NotDirectory`]; [`ImageDamage::Size`], [`ImageDamage::DirectoryHole`], [`ImageDamage::Record`],
    /// [`ImageDamage::InodeOutside`] and those of [`Reader::blocks`].
    pub fn entries(&self, raw: &RawInode) -> Result<Vec<DirEntry>, ImageReadError> {
        let place = || format!("inode {}", raw.ino);
        if raw.file_type() != S_IFDIR {
            return Err(ImageReadError::NotDirectory { path: place() });
        }
        let size = raw.inode.size();
        if size == 0 || !size.is_multiple_of(u64::from(self.block_size)) {
            return Err(damaged(place(), ImageDamage::Size { kind: "directory", size }));
        }
        let mut entries = vec![];
        let mut logical = 0;
        let mut seen = HashSet::new();
        for run in self.blocks(raw)?.data {
            if run.logical != logical {
                return Err(damaged(place(), ImageDamage::DirectoryHole { logical }));
            }
            for physical in run.physical..run.physical + run.count {
                // One block many times would be many entries from a small image.
                if !seen.insert(physical) {
                    return Err(damaged(place(), ImageDamage::TooManyBlocks));
                }
                let block = self.block(physical, place)?;
                for record in dirent::decode_block(&block) {
                    let record =
                        record.map_err(|bad| damaged(place(), ImageDamage::Record { logical, bad }))?;
                    let ino = record.inode;
                    if ino > self.superblock.s_inodes_count {
                        return Err(damaged(place(), ImageDamage::InodeOutside { ino }));
                    }
                    let name = record.name.to_vec();
                    let (file_type, offset) = (record.file_type, record.offset);
                    entries.push(DirEntry { name, ino, file_type, logical, offset });
                }
                logical += 1;
            }
        }
        if u64::from(logical) * u64::from(self.block_size) != size {
            return Err(damaged(place(), ImageDamage::DirectoryHole { logical }));
        }
        Ok(entries)
    }

    /// The inode at `path`, whose components are separated by `/`; symlinks are not followed.
    ///
    /// # Errors
    /// [`ImageReadError::Missing`], [`ImageReadError::NotDirectory`], those of [`Reader::entries`].
    pub fn lookup(&self, path: &[u8]) -> Result<RawInode, ImageReadError> {
        let mut at = self.inode(ROOT_INO)?;
        let mut walked = vec![];
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            if at.file_type() != S_IFDIR {
                return Err(ImageReadError::NotDirectory { path: shown(&walked) });
            }
            if !walked.is_empty() {
                walked.push(b'/');
            }
            walked.extend_from_slice(name);
            let found = self.entries(&at)?.into_iter().find(|entry| entry.name == name);
            let found = found.ok_or_else(|| ImageReadError::Missing { path: shown(&walked) })?;
            at = self.inode(found.ino)?;
        }
        Ok(at)
    }

    /// The whole image as a tree. Files refer to their bytes in the image, which is called `spool`; the
    /// caller's [`crate::tree::Contents`] reads them from there.
    ///
    /// # Errors
    /// [`ImageDamage`] of all it consists of, [`ImageDamage::DirectoryTwice`], [`ImageDamage::NameTwice`].
    pub fn tree(&self, spool: SpoolId) -> Result<Tree, ImageReadError> {
        let root = self.inode(ROOT_INO)?;
        if root.file_type() != S_IFDIR {
            return Err(ImageReadError::NotDirectory { path: "/".to_owned() });
        }
        let mut tree = Tree::new(Meta::default());
        tree.node_mut(tree.root()).meta = self.node(&root, spool)?.meta;
        let mut nodes: HashMap<u32, NodeId> = HashMap::from([(ROOT_INO, tree.root())]);
        let mut directories = vec![(Vec::new(), root)];
        // A block belongs to one file. Were many to share their blocks, a small image would be a tree without bounds.
        let mut left = u64::from(self.superblock.s_blocks_count) * u64::from(self.block_size);
        while let Some((path, dir)) = directories.pop() {
            let mut names = HashSet::new();
            for entry in self.entries(&dir)?.into_iter().filter(|entry| !entry.is_dot()) {
                let mut below: Vec<u8> = path.clone();
                below.push(b'/');
                below.extend_from_slice(&entry.name);
                if !names.insert(entry.name.clone()) {
                    let name = String::from_utf8_lossy(&entry.name).into_owned();
                    return Err(damaged(format!("inode {}", dir.ino), ImageDamage::NameTwice { name }));
                }
                let impossible = "names were checked, parents come first";
                if let Some(&known) = nodes.get(&entry.ino) {
                    if tree.entries(known).is_some() {
                        let damage = ImageDamage::DirectoryTwice { path: shown(&below[1..]) };
                        return Err(damaged(format!("inode {}", entry.ino), damage));
                    }
                    tree.link(&below, known).expect(impossible);
                    continue;
                }
                let raw = self.inode(entry.ino)?;
                let node = self.node(&raw, spool)?;
                if let Kind::File(content) = &node.kind {
                    let taken = content.extents.iter().map(|extent| extent.len).sum();
                    let more = || damaged(format!("inode {}", raw.ino), ImageDamage::TooManyBlocks);
                    left = left.checked_sub(taken).ok_or_else(more)?;
                }
                let is_directory = matches!(node.kind, Kind::Directory(_));
                nodes.insert(entry.ino, tree.insert(&below, node).expect(impossible));
                if is_directory {
                    directories.push((below, raw));
                }
            }
        }
        Ok(tree)
    }
}
