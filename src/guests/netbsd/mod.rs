//! NetBSD: a release's sets become a tree that a guest can start from.
//!
//! [`release`] names the files, and [`image`] makes the guest's tree of them. The sets are unpacked by [`crate::tree::tar::read_onto`]; [`configure`] does what NetBSD's own installer would do
//! then: owners and modes by the release's specifications, directories that no set has, device nodes, the
//! files that the first boot asks for. Names are resolved by the sets' own passwd and group, never this
//! machine's. Sources: NetBSD's install(8) scripts (`distrib/utils/sysinst`), rc.conf(5), fstab(5), ttys(5).

mod devices;
mod image;
pub mod mtree;
pub mod release;
mod setup;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;

use crate::foreign::elf::{self, ElfError, ElfKernel};
use crate::recipe::{NetBsd, Virt};
use crate::tree::names;
use crate::tree::{Content, Contents, FileTime, Kind, Meta, Node, NodeId, Tree, TreeError};
use mtree::{MtreeEntry, MtreeError};

pub use devices::MAKEDEV;
pub use image::NetBsdFault;
pub use release::{kernel_file, set_file};

/// passwd, group, rc.conf and the like of more than this are refused.
const MAX_TEXT: u64 = 4 << 20;

/// Why sets do not become a system.
#[derive(Debug, thiserror::Error)]
pub enum NetBsdError {
    /// The checksum file has no such set.
    #[error(
        "the release has no set `{set}`, neither as .tar.xz nor as .tgz; it has {}",
        crate::yaml::findings::listed(known.iter().map(String::as_str))
    )]
    NoSet { set: String, known: Vec<String> },
    /// The checksum file has no such kernel.
    #[error(
        "the release has no kernel `{kernel}`; it has {}",
        crate::yaml::findings::listed(known.iter().map(String::as_str))
    )]
    NoKernel { kernel: String, known: Vec<String> },
    /// The file is no kernel of a PC.
    #[error("kernel {kernel}")]
    Elf { kernel: String, source: ElfError },
    /// The kernel can't be started so.
    #[error("kernel {kernel} can't be started as {virt}: {why}")]
    Start { kernel: String, virt: Virt, why: &'static str },
    /// A file that every release has is missing.
    #[error(
        "/{path}: missing from the sets; check that the recipe lists `{set}` and that the file is complete"
    )]
    Missing {
        path: &'static str,
        /// Where it ought to be.
        set: &'static str,
    },
    /// A file of a set can't be read.
    #[error("/{path}: can't read it")]
    Read { path: String, source: io::Error },
    /// A specification is wrong.
    #[error("{spec}")]
    Spec { spec: String, source: MtreeError },
    /// A specification names an unknown user or group.
    #[error("{spec}: line {line}: no {what} `{name}` in the files that the sets contain")]
    Name {
        spec: String,
        line: usize,
        /// `user` or `group`.
        what: &'static str,
        name: String,
    },
    /// Something can't be put into the tree.
    #[error("can't write the project's files into it")]
    Place(#[from] TreeError),
}

/// Whether a kernel, no longer compressed, can be started as the recipe says.
///
/// # Errors
/// [`NetBsdError::Elf`], [`NetBsdError::Start`].
pub fn check_kernel(name: &str, bytes: &[u8], virt: Virt) -> Result<(), NetBsdError> {
    let found = elf::inspect(bytes).map_err(|source| NetBsdError::Elf { kernel: name.to_owned(), source })?;
    let why = match (virt, found) {
        (Virt::Pv, ElfKernel { pv: false, .. }) => "it is not made for Xen; XEN3_DOMU is",
        (Virt::Pv, ElfKernel { wide: false, .. }) => "Debian's Xen is built without 32-bit pv guests",
        (Virt::Pvh, ElfKernel { pvh: false, .. }) => {
            "it has no entry for that; GENERIC of NetBSD 10 and later has"
        }
        (Virt::Hvm, _) => "it has no boot loader",
        _ => return Ok(()),
    };
    Err(NetBsdError::Start { kernel: name.to_owned(), virt, why })
}

/// What a system needs beside its sets.
#[derive(Clone, Debug)]
pub struct NetBsdConfig<'a> {
    /// What the recipe says.
    pub recipe: &'a NetBsd,
    pub hostname: &'a str,
    /// Whether its disk can be written.
    pub writable: bool,
    /// The machine that it starts in.
    pub virt: Virt,
    /// Its kernel, no longer compressed.
    pub kernel: Content,
    /// What `sh dev/MAKEDEV -s all` prints, if the recipe wants all devices.
    pub makedev: Option<&'a [u8]>,
    /// Keys of who may log in, as lines.
    pub ssh_keys: &'a str,
    /// The date of what is generated.
    pub time: FileTime,
}

/// Makes unpacked sets a system.
///
/// # Errors
/// [`NetBsdError`].
pub fn configure(
    tree: &mut Tree,
    contents: &dyn Contents,
    config: &NetBsdConfig<'_>,
) -> Result<(), NetBsdError> {
    let owners = SetOwners::read(tree, contents)?;
    for spec in specifications(tree) {
        let name = format!("/{spec}");
        let text = text(tree, contents, &spec)?.unwrap_or_default();
        let entries = read_spec(&name, &text)?;
        let makes = spec == "etc/mtree/NetBSD.dist" || spec.starts_with("etc/mtree/NetBSD.dist.");
        for entry in &entries {
            apply(tree, &owners, &name, entry, makes, config.time)?;
        }
    }
    devices::make(tree, &owners, config)?;
    setup::write(tree, contents, config)?;
    Ok(())
}

fn read_spec(name: &str, text: &[u8]) -> Result<Vec<MtreeEntry>, NetBsdError> {
    mtree::parse(text).map_err(|source| NetBsdError::Spec { spec: name.to_owned(), source })
}

/// The specifications that the sets have brought: first the directories, then set by set.
fn specifications(tree: &Tree) -> Vec<String> {
    let names = tree.lookup(b"etc/mtree").and_then(|dir| tree.entries(dir));
    let mut specs: Vec<String> = names
        .into_iter()
        .flat_map(BTreeMap::keys)
        .filter_map(|name| std::str::from_utf8(name).ok())
        .filter(|name| *name == "NetBSD.dist" || name.starts_with("NetBSD.dist.") || name.starts_with("set."))
        .map(|name| format!("etc/mtree/{name}"))
        .collect();
    specs.sort();
    specs
}

/// Users and groups of the system itself.
struct SetOwners {
    users: BTreeMap<Vec<u8>, u32>,
    groups: BTreeMap<Vec<u8>, u32>,
}

impl SetOwners {
    fn read(tree: &Tree, contents: &dyn Contents) -> Result<Self, NetBsdError> {
        let read = |paths: [&'static str; 2]| -> Result<_, NetBsdError> {
            for path in paths {
                if let Some(text) = text(tree, contents, path)? {
                    return Ok(names::ids(&text));
                }
            }
            Err(NetBsdError::Missing { path: paths[0], set: "etc" })
        };
        Ok(SetOwners {
            users: read(["etc/master.passwd", "etc/passwd"])?,
            groups: read(["etc/group", "etc/group"])?,
        })
    }

    fn of(&self, spec: &str, entry: &MtreeEntry) -> Result<(Option<u32>, Option<u32>), NetBsdError> {
        let fault = |source| NetBsdError::Spec { spec: spec.to_owned(), source };
        let find = |ids: &BTreeMap<Vec<u8>, u32>, keyword, what| match entry.word(keyword) {
            None => Ok(None),
            Some(name) => match ids.get(name) {
                Some(&id) => Ok(Some(id)),
                None => Err(NetBsdError::Name {
                    spec: spec.to_owned(),
                    line: entry.line,
                    what,
                    name: String::from_utf8_lossy(name).into_owned(),
                }),
            },
        };
        let user = match entry.uid().map_err(fault)? {
            Some(uid) => Some(uid),
            None => find(&self.users, "uname", "user")?,
        };
        let group = match entry.gid().map_err(fault)? {
            Some(gid) => Some(gid),
            None => find(&self.groups, "gname", "group")?,
        };
        Ok((user, group))
    }
}

/// Gives an entry's node what the entry says. Nothing is there of a set that was not unpacked; directories and
/// links of the base specification (`makes`) are made then.
fn apply(
    tree: &mut Tree,
    owners: &SetOwners,
    spec: &str,
    entry: &MtreeEntry,
    makes: bool,
    time: FileTime,
) -> Result<(), NetBsdError> {
    let kind = entry.word("type").unwrap_or_default();
    let id = match tree.lookup(&entry.path) {
        Some(id) => id,
        None if makes && kind == b"dir" => directory(tree, &entry.path, 0o755, time)?,
        None if makes && kind == b"link" => {
            let fault = |source| NetBsdError::Spec { spec: spec.to_owned(), source };
            let Some(target) = entry.link().map_err(fault)? else { return Ok(()) };
            let meta = Meta { mode: 0o755, mtime: time, ..Meta::default() };
            tree.insert(&entry.path, Node { meta, kind: Kind::Symlink(target) })?
        }
        None => return Ok(()),
    };
    let fits = match &tree.node(id).kind {
        Kind::Directory(_) => kind == b"dir",
        Kind::File(_) => kind == b"file",
        Kind::Symlink(_) => kind == b"link",
        _ => false,
    };
    if !fits {
        // A user of the system may have put something else there; an overlay can't yet.
        return Ok(());
    }
    let (user, group) = owners.of(spec, entry)?;
    let mode = entry.mode().map_err(|source| NetBsdError::Spec { spec: spec.to_owned(), source })?;
    let meta = &mut tree.node_mut(id).meta;
    meta.uid = user.unwrap_or(meta.uid);
    meta.gid = group.unwrap_or(meta.gid);
    meta.mode = mode.unwrap_or(meta.mode);
    Ok(())
}

fn directory(tree: &mut Tree, path: &[u8], mode: u16, mtime: FileTime) -> Result<NodeId, TreeError> {
    let meta = Meta { mode, mtime, ..Meta::default() };
    tree.insert(path, Node { meta, kind: Kind::Directory(BTreeMap::new()) })
}

/// A small file of the tree; `None` if there is none.
fn text(tree: &Tree, contents: &dyn Contents, path: &str) -> Result<Option<Vec<u8>>, NetBsdError> {
    let Some(id) = tree.lookup(path.as_bytes()) else { return Ok(None) };
    let Kind::File(content) = &tree.node(id).kind else { return Ok(None) };
    let fault = |source| NetBsdError::Read { path: path.to_owned(), source };
    let limit = if path.starts_with("etc/mtree/") { mtree::LIMIT } else { MAX_TEXT };
    if content.len > limit {
        return Err(fault(io::ErrorKind::FileTooLarge.into()));
    }
    content.read_all(contents).map(Some).map_err(fault)
}
