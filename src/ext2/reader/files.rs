//! What an inode holds: its blocks, its contents, its attributes.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use super::{ImageDamage, ImageReadError, RawInode, Reader, damaged};
use crate::ext2::blockmap::{DIRECT, Run};
use crate::ext2::ondisk::{
    FAST_SYMLINK, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, decode_device,
    decode_time,
};
use crate::ext2::xattr::{self, Attr};
use crate::tree::{Content, ContentSource, Extent, Kind, Meta, Node, SpoolId};

/// Bytes that [`Reader::cat`] reads at once.
const CHUNK: usize = 1 << 18;

/// Where the blocks of an inode lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InodeBlocks {
    /// Data, ascending in the file.
    pub data: Vec<Run>,
    /// Indirect blocks, each before those below it.
    pub indirect: Vec<u32>,
}

/// A walk through a block map.
struct MapWalk {
    blocks: InodeBlocks,
    seen: HashSet<u32>,
    /// Data blocks so far.
    count: u32,
    /// Blocks of the file, from its size.
    limit: u64,
}

impl RawInode {
    /// Type bits of the mode.
    pub fn file_type(&self) -> u16 {
        self.inode.i_mode & S_IFMT
    }

    fn place(&self) -> String {
        format!("inode {}", self.ino)
    }

    fn damaged(&self, damage: ImageDamage) -> ImageReadError {
        damaged(self.place(), damage)
    }
}

impl Reader<'_> {
    /// Whether a symlink's target is in `i_block`: it has no blocks but one of attributes.
    fn is_fast_symlink(&self, raw: &RawInode) -> bool {
        let attributes = if raw.inode.i_file_acl == 0 { 0 } else { self.block_size / 512 };
        raw.file_type() == S_IFLNK && raw.inode.i_blocks == attributes
    }

    /// The blocks of a file, directory or long symlink; none for anything else. Blocks beyond its size are
    /// left out.
    ///
    /// # Errors
    /// [`ImageDamage::BlockOutside`], [`ImageDamage::MapLoop`], [`ImageDamage::TooManyBlocks`], [`ImageDamage::Size`].
    pub fn blocks(&self, raw: &RawInode) -> Result<InodeBlocks, ImageReadError> {
        let kind = match raw.file_type() {
            S_IFREG => "file",
            S_IFDIR => "directory",
            S_IFLNK if !self.is_fast_symlink(raw) => "symlink",
            _ => return Ok(InodeBlocks::default()),
        };
        let size = raw.inode.size();
        let pointers = u64::from(self.block_size / 4);
        let limit = size.div_ceil(u64::from(self.block_size));
        let reach = u64::from(DIRECT) + pointers + pointers.pow(2) + pointers.pow(3);
        if limit > reach.min(u64::from(u32::MAX)) {
            return Err(raw.damaged(ImageDamage::Size { kind, size }));
        }
        let mut walk = MapWalk { blocks: InodeBlocks::default(), seen: HashSet::new(), count: 0, limit };
        for (logical, &block) in (0..).zip(&raw.inode.i_block[..12]) {
            self.add_block(raw, &mut walk, block, logical)?;
        }
        let mut first = u64::from(DIRECT);
        for (level, &block) in (1..).zip(&raw.inode.i_block[12..]) {
            self.add_tree(raw, &mut walk, block, level, first)?;
            first += pointers.pow(level);
        }
        Ok(walk.blocks)
    }

    fn add_tree(
        &self,
        raw: &RawInode,
        walk: &mut MapWalk,
        block: u32,
        level: u32,
        first: u64,
    ) -> Result<(), ImageReadError> {
        if level == 0 {
            return self.add_block(raw, walk, block, first);
        }
        if block == 0 || first >= walk.limit {
            return Ok(());
        }
        if !walk.seen.insert(block) {
            return Err(raw.damaged(ImageDamage::MapLoop { block }));
        }
        walk.blocks.indirect.push(block);
        let bytes = self.block(block, || raw.place())?;
        let covers = u64::from(self.block_size / 4).pow(level - 1);
        for (nth, le) in (0..).zip(bytes.as_chunks().0) {
            self.add_tree(raw, walk, u32::from_le_bytes(*le), level - 1, first + nth * covers)?;
        }
        Ok(())
    }

    fn add_block(
        &self,
        raw: &RawInode,
        walk: &mut MapWalk,
        block: u32,
        logical: u64,
    ) -> Result<(), ImageReadError> {
        if block == 0 || logical >= walk.limit {
            return Ok(());
        }
        if block >= self.superblock.s_blocks_count {
            return Err(raw.damaged(ImageDamage::BlockOutside { block }));
        }
        walk.count += 1;
        if walk.count >= self.superblock.s_blocks_count {
            return Err(raw.damaged(ImageDamage::TooManyBlocks));
        }
        let logical = u32::try_from(logical).expect("below the limit, which has 32 bits");
        match walk.blocks.data.last_mut() {
            Some(last) if last.logical_end() == logical && last.physical + last.count == block => {
                last.count += 1;
            }
            _ => walk.blocks.data.push(Run { logical, physical: block, count: 1 }),
        }
        Ok(())
    }

    /// Writes the contents of a regular file; holes as zeros.
    ///
    /// # Errors
    /// Those of [`Reader::blocks`], [`ImageReadError::NotFile`], [`ImageReadError::Output`].
    pub fn cat(&self, raw: &RawInode, out: &mut dyn Write) -> Result<(), ImageReadError> {
        if raw.file_type() != S_IFREG {
            return Err(ImageReadError::NotFile { path: raw.place() });
        }
        let size = raw.inode.size();
        let block_size = u64::from(self.block_size);
        let mut chunk = vec![0; CHUNK];
        let mut at = 0;
        let mut zeros_until = |out: &mut dyn Write, at: &mut u64, until: u64| {
            chunk.fill(0);
            while *at < until {
                let len = usize::try_from(until - *at).unwrap_or(CHUNK).min(CHUNK);
                out.write_all(&chunk[..len]).map_err(ImageReadError::Output)?;
                *at += len as u64;
            }
            Ok::<(), ImageReadError>(())
        };
        let mut data = vec![0; CHUNK];
        for run in self.blocks(raw)?.data {
            zeros_until(out, &mut at, u64::from(run.logical) * block_size)?;
            let start = u64::from(run.physical) * block_size;
            let len = (u64::from(run.count) * block_size).min(size - at);
            let mut done = 0;
            while done < len {
                let part = usize::try_from(len - done).unwrap_or(CHUNK).min(CHUNK);
                self.read(start + done, &mut data[..part])?;
                out.write_all(&data[..part]).map_err(ImageReadError::Output)?;
                done += part as u64;
            }
            at += len;
        }
        zeros_until(out, &mut at, size)
    }

    /// Contents of a regular file by reference: the image itself is the spool.
    fn content(&self, raw: &RawInode, spool: SpoolId) -> Result<Content, ImageReadError> {
        let len = raw.inode.size();
        let block_size = u64::from(self.block_size);
        let extents = self.blocks(raw)?.data.into_iter().map(|run| {
            let at = u64::from(run.logical) * block_size;
            Extent {
                at,
                // The last block of a file may be longer than what the file has of it.
                len: (u64::from(run.count) * block_size).min(len - at),
                source: ContentSource::Spool { spool, offset: u64::from(run.physical) * block_size },
            }
        });
        Ok(Content { len, extents: extents.collect() })
    }

    /// The target of a symlink.
    fn target(&self, raw: &RawInode) -> Result<Vec<u8>, ImageReadError> {
        let size = raw.inode.size();
        let bytes = if self.is_fast_symlink(raw) {
            raw.inode.i_block.iter().flat_map(|word| word.to_le_bytes()).collect()
        } else {
            match self.blocks(raw)?.data.first() {
                Some(run) if run.logical == 0 => self.block(run.physical, || raw.place())?,
                _ => return Err(raw.damaged(ImageDamage::NoTarget)),
            }
        };
        let room = if self.is_fast_symlink(raw) { FAST_SYMLINK } else { bytes.len() };
        let target = usize::try_from(size).ok().filter(|&size| size > 0 && size < room);
        let target = target.and_then(|size| bytes.get(..size));
        let target = target.ok_or_else(|| raw.damaged(ImageDamage::Size { kind: "symlink", size }))?;
        if target.contains(&0) {
            return Err(raw.damaged(ImageDamage::NoTarget));
        }
        Ok(target.to_vec())
    }

    /// Attributes as they are on disk: those in the inode, and those in a block.
    ///
    /// # Errors
    /// [`ImageDamage::Xattrs`], [`ImageDamage::BlockOutside`].
    pub fn attrs(&self, raw: &RawInode) -> Result<(Vec<Attr>, Vec<Attr>), ImageReadError> {
        let bad = |bad| raw.damaged(ImageDamage::Xattrs(bad));
        let inline = xattr::decode_inline(&raw.rest).map_err(bad)?;
        let block = match raw.inode.i_file_acl {
            0 => vec![],
            block => xattr::decode_block(&self.block(block, || raw.place())?).map_err(bad)?,
        };
        Ok((inline, block))
    }

    /// Attributes by full name, values as system calls give them.
    fn xattrs(&self, raw: &RawInode) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, ImageReadError> {
        let (inline, block) = self.attrs(raw)?;
        let mut xattrs = BTreeMap::new();
        for attr in inline.iter().chain(&block) {
            let (name, value) = attr.to_system().map_err(|bad| raw.damaged(ImageDamage::Xattrs(bad)))?;
            if xattrs.contains_key(&name) {
                let name = String::from_utf8_lossy(&name).into_owned();
                return Err(raw.damaged(ImageDamage::XattrTwice { name }));
            }
            xattrs.insert(name, value);
        }
        Ok(xattrs)
    }

    /// An inode in use as the tree has it; a directory without its entries, and contents of files as places
    /// in the image, which is called `spool`.
    ///
    /// # Errors
    /// [`ImageDamage`] of all it consists of; [`ImageDamage::Unused`], [`ImageDamage::Type`].
    pub fn node(&self, raw: &RawInode, spool: SpoolId) -> Result<Node, ImageReadError> {
        let inode = &raw.inode;
        if inode.i_links_count == 0 {
            return Err(raw.damaged(ImageDamage::Unused));
        }
        let (major, minor) = decode_device(inode.i_block[0], inode.i_block[1]);
        let kind = match raw.file_type() {
            S_IFDIR => Kind::Directory(BTreeMap::new()),
            S_IFREG => Kind::File(self.content(raw, spool)?),
            S_IFLNK => Kind::Symlink(self.target(raw)?),
            S_IFCHR => Kind::CharDevice { major, minor },
            S_IFBLK => Kind::BlockDevice { major, minor },
            S_IFIFO => Kind::Fifo,
            S_IFSOCK => Kind::Socket,
            _ => return Err(raw.damaged(ImageDamage::Type { i_mode: inode.i_mode })),
        };
        let meta = Meta {
            mode: inode.i_mode & 0o7777,
            uid: inode.uid(),
            gid: inode.gid(),
            mtime: decode_time(inode.i_mtime, inode.i_mtime_extra),
            xattrs: self.xattrs(raw)?,
        };
        Ok(Node { meta, kind })
    }
}
