//! Tar archive -> [`Tree`]. Nothing is unpacked: a file's contents are bytes of the archive, and are not even read.
//!
//! Headers are taken apart with the `tar` crate's structs, but walked here: its iterator hides where the
//! pieces of a sparse file lie, and loses PAX records that hold a newline, as capabilities and ACLs may.
//! Read: V7, ustar, GNU (`L`, `K`, `S`) and PAX, with `SCHILY.xattr.*`, `SCHILY.acl.*` and `GNU.sparse.*`.
//! The result is what GNU tar unpacks: of entries of one name the last one stands, and a name that leads through a
//! symbolic link is put where the link leads, with the tree as the root directory. Source: GNU tar's manual, tar(5).

mod acl;
mod blocks;
mod pax;
mod problem;
mod sparse;

use std::io::{Read, Seek};

use super::{Content, ContentSource, Extent, FileTime, Kind, Meta, Node, NodeId, SpoolId, Tree, names};
use acl::AclNames;
use blocks::{BLOCK, TarBlocks, number, padding, signed};
use pax::PaxRecords;
pub use problem::{Problem, TarError};

/// Longest name: the kernel's PATH_MAX, with the final NUL.
const NAME_LIMIT: u64 = 4096;
/// Longest PAX header: room for every attribute an inode can have (64 KiB a value) and a long sparse map.
const PAX_LIMIT: u64 = 16 << 20;
/// Most that global PAX headers may say: it is kept with every entry after them.
const GLOBAL_LIMIT: u64 = 4096;
/// Directories that no entry names: so many for each entry, and some more. Real archives have less than one.
const DIRECTORIES_EACH: usize = 4;
const DIRECTORIES_MORE: usize = 1 << 16;
/// Longest /etc/passwd or /etc/group looked at, for the names in ACLs.
const NAMES_LIMIT: u64 = 1 << 20;

/// Reads an archive up to its end mark. It is what `spool` holds, from the start.
///
/// Without an entry for the root itself, the root is a directory of root, mode 0755, time 0.
///
/// # Errors
/// The first thing wrong, with the entry's name and offset.
pub fn read(archive: impl Read + Seek, spool: SpoolId) -> Result<Tree, TarError> {
    read_onto(Tree::new(Meta { mode: 0o755, ..Meta::default() }), archive, spool)
}

/// Reads an archive onto what earlier ones have left, as when tar unpacks one after the other: what is there
/// already is replaced, and hard links may lead to it.
///
/// # Errors
/// As [`read`].
pub fn read_onto(tree: Tree, archive: impl Read + Seek, spool: SpoolId) -> Result<Tree, TarError> {
    let blocks = TarBlocks::new(archive);
    let mut reader = TarReader {
        blocks: blocks.map_err(|error| TarError { entry: None, at: 0, problem: Problem::Read(error) })?,
        spool,
        tree,
        global: PaxRecords::default(),
        names: AclNames::default(),
        acls: Vec::new(),
        entries: 0,
        directories: 0,
    };
    while reader.entry()? {}
    reader.set_acls()?;
    Ok(reader.tree)
}

struct TarReader<R> {
    blocks: TarBlocks<R>,
    spool: SpoolId,
    tree: Tree,
    /// PAX records of `g` headers.
    global: PaxRecords,
    names: AclNames,
    /// ACLs as text until /etc/passwd and /etc/group have come by.
    acls: Vec<PendingAcl>,
    entries: usize,
    /// Those that names have made, and no entry.
    directories: usize,
}

struct PendingAcl {
    node: NodeId,
    attribute: &'static [u8],
    text: Vec<u8>,
    entry_at: u64,
    entry: Option<Vec<u8>>,
}

/// A member's own header, with what the extended headers before it say.
struct Member {
    header: tar::Header,
    records: PaxRecords,
    path: Vec<u8>,
    link: Vec<u8>,
    /// Bytes stored in the archive.
    size: u64,
}

impl<R: Read + Seek> TarReader<R> {
    /// Reads one entry with the extended headers before it; false at the end mark, or where the archive ends in its
    /// place: old writers make none.
    fn entry(&mut self) -> Result<bool, TarError> {
        self.blocks.entry_at = self.blocks.position();
        self.blocks.entry = None;
        let (mut long_name, mut long_link) = (None, None);
        let mut records = self.global.clone();
        if self.blocks.at_end() {
            return match self.blocks.position() {
                0 => Err(self.blocks.error(Problem::Empty)),
                _ => Ok(false),
            };
        }
        loop {
            let block = self.blocks.next()?;
            if block == [0; BLOCK as usize] {
                return match self.blocks.position() - BLOCK == self.blocks.entry_at {
                    true => Ok(false),
                    false => Err(self.blocks.error(Problem::Truncated)),
                };
            }
            let header = tar::Header::from_byte_slice(&block).clone();
            self.check_sum(&header)?;
            let size = self.field("size", &header.as_old().size)?;
            match header.as_old().linkflag[0] {
                b'L' => long_name = Some(self.long_text(size)?),
                b'K' => long_link = Some(self.long_text(size)?),
                // Solaris has a letter of its own for the same.
                b'x' | b'X' => {
                    let bytes = self.blocks.take(size, PAX_LIMIT)?;
                    records.apply(&bytes).map_err(|problem| self.blocks.error(problem))?;
                }
                b'g' => {
                    let bytes = self.blocks.take(size, PAX_LIMIT)?;
                    self.global.apply(&bytes).map_err(|problem| self.blocks.error(problem))?;
                    let len = self.global.memory();
                    if len > GLOBAL_LIMIT {
                        return Err(self.blocks.error(Problem::GlobalTooLong { len }));
                    }
                    records = self.global.clone();
                }
                _ => {
                    let path = (records.sparse.name.take().or(records.path.take()).or(long_name))
                        .unwrap_or_else(|| header.path_bytes().into_owned());
                    let link = (records.linkpath.take().or(long_link))
                        .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
                    // One component more is a directory more.
                    if let Some(len) =
                        [path.len(), link.len()].into_iter().find(|&len| len as u64 > NAME_LIMIT)
                    {
                        let problem = Problem::TooLong { len: len as u64, limit: NAME_LIMIT };
                        return Err(self.blocks.error(problem));
                    }
                    self.blocks.entry = Some(path.clone());
                    let size = records.size.unwrap_or(size);
                    self.member(Member { header, records, path, link, size })?;
                    return Ok(true);
                }
            }
        }
    }

    fn member(&mut self, member: Member) -> Result<(), TarError> {
        let flag = member.header.as_old().linkflag[0];
        if member.size > i64::MAX as u64 {
            let value = member.size.to_string();
            return Err(self.blocks.error(Problem::Field { field: "size", value }));
        }
        self.entries += 1;
        let kind = match flag {
            b'1' => {
                self.pass_data(member.size)?;
                return self.hard_link(&member);
            }
            b'2' => {
                self.pass_data(member.size)?;
                self.symlink(member.link.clone())?
            }
            b'3' | b'4' => {
                self.pass_data(member.size)?;
                self.device(&member.header)?
            }
            b'5' => {
                self.pass_data(member.size)?;
                Kind::Directory(Default::default())
            }
            b'6' => {
                self.pass_data(member.size)?;
                Kind::Fifo
            }
            // A directory of an incremental dump; its data are the names that it had.
            b'D' => {
                self.blocks.skip(member.size)?;
                self.blocks.skip(padding(member.size))?;
                Kind::Directory(Default::default())
            }
            // The label of a volume is no file.
            b'V' => return self.pass_data(member.size),
            b'M' => return Err(self.blocks.error(Problem::Continued)),
            // Old archives have directories as files whose name ends in a slash.
            _ if member.path.ends_with(b"/") => {
                self.pass_data(member.size)?;
                Kind::Directory(Default::default())
            }
            // Types that are not known are files, as POSIX has it.
            _ => Kind::File(self.file(&member)?),
        };
        let Member { header, records, path, .. } = member;
        let meta = self.meta(&header, &records)?;
        let path = self.place(&path, !matches!(kind, Kind::Directory(_)));
        let before = self.tree.nodes().len();
        let placed = self.tree.insert(&path, Node { meta, kind });
        let node = placed.map_err(|error| self.blocks.error(Problem::Place(error)))?;
        self.count_directories((self.tree.nodes().len() - before).saturating_sub(1))?;
        let texts = [
            (&b"system.posix_acl_access"[..], records.acl_access),
            (b"system.posix_acl_default", records.acl_default),
        ];
        for (attribute, text) in texts {
            if let Some(text) = text {
                let (entry_at, entry) = (self.blocks.entry_at, self.blocks.entry.clone());
                self.acls.push(PendingAcl { node, attribute, text, entry_at, entry });
            }
        }
        Ok(())
    }

    /// Where an entry of this name is put: symbolic links on the way to it are followed. An empty directory makes way
    /// for what is none.
    fn place(&mut self, path: &[u8], replaces: bool) -> Vec<u8> {
        // What is no path, or leads to nothing or in a circle, is refused as it is.
        let place = match self.tree.leads_through_link(path) {
            true => self.tree.path_through_links(path).unwrap_or_else(|| path.to_vec()),
            false => path.to_vec(),
        };
        let there = self.tree.lookup(&place).filter(|_| replaces);
        if there.and_then(|id| self.tree.entries(id)).is_some_and(|entries| entries.is_empty()) {
            self.tree.remove(&place);
        }
        place
    }

    fn count_directories(&mut self, made: usize) -> Result<(), TarError> {
        self.directories += made;
        if self.directories <= DIRECTORIES_MORE + DIRECTORIES_EACH * self.entries {
            return Ok(());
        }
        let (directories, entries) = (self.directories, self.entries);
        Err(self.blocks.error(Problem::Directories { directories, entries }))
    }

    /// Passes over the data of an entry that has none: most writers give a size there and write no data, some do write
    /// it. What follows tells: another header, the end, or data.
    fn pass_data(&mut self, size: u64) -> Result<(), TarError> {
        if size == 0 || self.blocks.at_end() {
            return Ok(());
        }
        let next = self.blocks.peek()?;
        if next == [0; BLOCK as usize] || self.check_sum(tar::Header::from_byte_slice(&next)).is_ok() {
            return Ok(());
        }
        self.blocks.skip(size)?;
        self.blocks.skip(padding(size))
    }

    fn meta(&self, header: &tar::Header, records: &PaxRecords) -> Result<Meta, TarError> {
        let old = header.as_old();
        let id = |field, given: Option<u64>, bytes: &[u8]| {
            let id = given.map_or_else(|| self.field(field, bytes), Ok)?;
            u32::try_from(id).map_err(|_| self.blocks.error(Problem::Field { field, value: id.to_string() }))
        };
        let mtime = match records.mtime {
            Some(mtime) => mtime,
            None => {
                let secs = signed("mtime", &old.mtime).map_err(|problem| self.blocks.error(problem))?;
                let value = secs.to_string();
                let secs = i64::try_from(secs);
                let secs = secs.map_err(|_| self.blocks.error(Problem::Field { field: "mtime", value }))?;
                FileTime { secs, nanos: 0 }
            }
        };
        Ok(Meta {
            // Some writers put the file type above the permissions.
            mode: (self.field("mode", &old.mode)? & 0o7777) as u16,
            uid: id("uid", records.uid, &old.uid)?,
            gid: id("gid", records.gid, &old.gid)?,
            mtime,
            xattrs: records.xattrs.clone(),
        })
    }

    /// A regular file: notes where its bytes are, and passes over them.
    fn file(&mut self, member: &Member) -> Result<Content, TarError> {
        let sparse = &member.records.sparse;
        let mut stored = sparse::SparseContents {
            spool: self.spool,
            offset: self.blocks.position(),
            stored: member.size,
            len: sparse.size.unwrap_or(member.size),
        };
        let map = if member.header.as_old().linkflag[0] == b'S' {
            let gnu = member.header.as_gnu().ok_or_else(|| self.blocks.error(Problem::NoSparseHeader))?;
            stored.len = self.field("real size", &gnu.realsize)?;
            let map = sparse::old_gnu(gnu, &mut self.blocks)?;
            stored.offset = self.blocks.position();
            Some(map)
        } else if sparse.major.is_some_and(|major| major != 0) {
            if (sparse.major, sparse.minor) != (Some(1), Some(0)) {
                let problem = Problem::SparseMap("its format is neither 0.0, 0.1 nor 1.0");
                return Err(self.blocks.error(problem));
            }
            let (map, taken) = sparse::before_data(&mut self.blocks, stored.stored)?;
            stored.offset += taken;
            let left = stored.stored.checked_sub(taken);
            let short = || self.blocks.error(Problem::SparseMap("it is longer than the entry"));
            stored.stored = left.ok_or_else(short)?;
            Some(map)
        } else if sparse.mapped {
            Some(sparse::in_records(sparse).map_err(|problem| self.blocks.error(problem))?)
        } else {
            None
        };
        let content = match map {
            Some(map) => stored.content(&map).map_err(|problem| self.blocks.error(problem))?,
            None if member.size == 0 => Content::default(),
            None => {
                let source = ContentSource::Spool { spool: self.spool, offset: stored.offset };
                let extents = vec![Extent { at: 0, len: member.size, source }];
                Content { len: member.size, extents }
            }
        };
        let known = match path_within(&member.path) {
            b"etc/passwd" => Some(&mut self.names.users),
            b"etc/group" => Some(&mut self.names.groups),
            _ => None,
        };
        match known.filter(|_| stored.stored <= NAMES_LIMIT) {
            Some(known) => *known = names::ids(&self.blocks.take(stored.stored, NAMES_LIMIT)?),
            None => {
                self.blocks.skip(stored.stored)?;
                self.blocks.skip(padding(stored.stored))?;
            }
        }
        Ok(content)
    }

    fn hard_link(&mut self, member: &Member) -> Result<(), TarError> {
        let target = || String::from_utf8_lossy(&member.link).into_owned();
        let link = match self.tree.leads_through_link(&member.link) {
            true => self.tree.path_through_links(&member.link).unwrap_or_default(),
            false => member.link.clone(),
        };
        let node = self.tree.lookup(&link).filter(|_| !path_within(&link).is_empty());
        let node = node.ok_or_else(|| self.blocks.error(Problem::DanglingLink { target: target() }))?;
        let path = self.place(&member.path, self.tree.entries(node).is_none());
        let before = self.tree.nodes().len();
        let linked = self.tree.link(&path, node);
        linked.map_err(|error| self.blocks.error(Problem::Place(error)))?;
        self.count_directories(self.tree.nodes().len() - before)
    }

    fn symlink(&self, target: Vec<u8>) -> Result<Kind, TarError> {
        if target.is_empty() || target.len() > 4095 || target.contains(&0) {
            return Err(self.blocks.error(Problem::LinkTarget(target.len())));
        }
        Ok(Kind::Symlink(target))
    }

    fn device(&self, header: &tar::Header) -> Result<Kind, TarError> {
        // Both have the fields at the same place; V7 headers have none.
        let ustar = header.as_ustar().map(|ustar| (ustar.dev_major, ustar.dev_minor));
        let gnu = header.as_gnu().map(|gnu| (gnu.dev_major, gnu.dev_minor));
        let (major, minor) = ustar.or(gnu).unwrap_or_default();
        let part = |field, bytes: &[u8]| {
            let part = self.field(field, bytes)?;
            u32::try_from(part)
                .map_err(|_| self.blocks.error(Problem::Field { field, value: part.to_string() }))
        };
        let (major, minor) = (part("major number", &major)?, part("minor number", &minor)?);
        Ok(match header.as_old().linkflag[0] {
            b'3' => Kind::CharDevice { major, minor },
            _ => Kind::BlockDevice { major, minor },
        })
    }

    fn set_acls(&mut self) -> Result<(), TarError> {
        for acl in std::mem::take(&mut self.acls) {
            self.blocks.entry_at = acl.entry_at;
            self.blocks.entry = acl.entry;
            let binary = acl::to_binary(&acl.text, &self.names)
                .map_err(|entry| self.blocks.error(Problem::Acl { entry }))?;
            if let Some(binary) = binary {
                self.tree.node_mut(acl.node).meta.xattrs.insert(acl.attribute.to_vec(), binary);
            }
        }
        Ok(())
    }

    fn check_sum(&self, header: &tar::Header) -> Result<(), TarError> {
        // The checksum's own field (8 bytes from 148 on) counts as spaces.
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        let computed = sum(header.as_bytes()) - sum(&header.as_old().cksum) + 8 * 32;
        // Some old writers took the bytes for signed.
        let large = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte > 0x7f).count() as u64;
        let as_signed = 256 * (large(header.as_bytes()) - large(&header.as_old().cksum));
        let stored = self.field("checksum", &header.as_old().cksum)?;
        if computed != stored && computed.checked_sub(as_signed) != Some(stored) {
            return Err(self.blocks.error(Problem::Checksum { computed, stored }));
        }
        Ok(())
    }

    fn field(&self, name: &'static str, bytes: &[u8]) -> Result<u64, TarError> {
        number(name, bytes).map_err(|problem| self.blocks.error(problem))
    }

    /// The name in an `L` or `K` entry, up to its NUL.
    fn long_text(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut text = self.blocks.take(size, NAME_LIMIT)?;
        text.truncate(text.iter().position(|&byte| byte == 0).unwrap_or(text.len()));
        Ok(text)
    }
}

/// A path without its leading `./` and `/`.
fn path_within(path: &[u8]) -> &[u8] {
    let mut rest = path;
    while let Some(tail) = rest.strip_prefix(b"./").or_else(|| rest.strip_prefix(b"/")) {
        rest = tail;
    }
    if rest == b"." { b"" } else { rest }
}

#[cfg(test)]
mod tests;
