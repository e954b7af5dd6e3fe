//! Overlays: what a project lays over a tree, and the rules beside it.
//!
//! An overlay is a directory, so it says nothing of owners and little of modes: all is root's, directories and
//! executable files have mode 0755, other files 0644, times are SOURCE_DATE_EPOCH. Directories that the tree
//! has keep their own owner and mode. Links among the parents are followed as `cp` would: with /lib ->
//! usr/lib, `lib/x` becomes /usr/lib/x. Anything else is a matter of the [`Rules`] in `NAME.yaml`.

mod capabilities;
mod rules;

use std::collections::BTreeMap;
use std::io;

use super::glob::Glob;
use super::{Content, Contents, FileTime, Kind, Meta, Node, NodeId, Tree, TreeError};
use crate::yaml::Findings;
use crate::yaml::findings::{Located, did_you_mean};

pub use capabilities::Capabilities;
pub use rules::{Make, Owner, PathRule, Rules};

/// Something in an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayEntry {
    /// Its path in the tree, without a leading `/`.
    pub path: Vec<u8>,
    /// Type, and contents or target.
    pub kind: EntryKind,
}

/// What an overlay can have in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Directory,
    File {
        content: Content,
        /// Whether it may be run.
        executable: bool,
    },
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
}

/// A directory to be laid over a tree, and its rules.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    /// What people call it: `overlays/common`.
    pub name: String,
    /// What is in it, parents before children.
    pub entries: Vec<OverlayEntry>,
    pub rules: Rules,
}

/// Why an overlay does not fit a tree.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// Something can't be put where it belongs.
    #[error("{name}/{path}: can't be merged into the tree")]
    Place {
        name: String,
        /// The path in it.
        path: String,
        source: TreeError,
    },
    /// A directory here, something else there.
    #[error(
        "{name}/{path}: a directory in the overlay, but not in the tree; `remove` it from the tree first"
    )]
    NotDirectory {
        name: String,
        /// The path in it.
        path: String,
    },
    /// Links in the tree lead in a circle.
    #[error("{name}/{path}: symbolic links of the tree form a loop on the way to it")]
    Circle {
        name: String,
        /// The path in it.
        path: String,
    },
    /// Rules that do not fit this tree.
    #[error(transparent)]
    Rules(Findings),
    /// /etc/passwd or /etc/group of the tree can't be read.
    #[error("{name}: can't read the tree's /etc/passwd or /etc/group")]
    Names { name: String, source: io::Error },
}

impl Overlay {
    /// Lays the overlay over `tree`: takes out what the rules remove, puts the entries in with the time
    /// `epoch` (seconds since 1970), then goes through the rules for paths in their order.
    ///
    /// # Errors
    /// [`OverlayError`]; of rules all findings at once.
    pub fn apply(&self, tree: &mut Tree, contents: &dyn Contents, epoch: i64) -> Result<(), OverlayError> {
        let mut findings = Findings::new(&self.rules.name, &self.rules.text);
        self.remove(tree, &mut findings);
        let mtime = FileTime { secs: epoch, nanos: 0 };
        for entry in &self.entries {
            self.put(tree, entry, mtime)?;
        }
        let names = OwnerIds::of(tree, contents)
            .map_err(|source| OverlayError::Names { name: self.name.clone(), source })?;
        for (pattern, rule) in &self.rules.paths {
            follow(tree, pattern, rule, &names, mtime, &mut findings);
        }
        findings.none_or().map_err(OverlayError::Rules)
    }

    fn remove(&self, tree: &mut Tree, findings: &mut Findings) {
        for pattern in &self.rules.remove {
            let matching = matching(tree, &pattern.value);
            if matching.is_empty() {
                findings.add(&pattern.span, "the tree has nothing of that name", "");
            }
            for (path, _) in matching {
                tree.remove(&path);
            }
        }
    }

    fn put(&self, tree: &mut Tree, entry: &OverlayEntry, mtime: FileTime) -> Result<(), OverlayError> {
        let (name, shown) = (&self.name, || String::from_utf8_lossy(&entry.path).into_owned());
        let circle = || OverlayError::Circle { name: name.clone(), path: shown() };
        let path = tree.real_path(&entry.path).ok_or_else(circle)?;
        let meta = |mode| Meta { mode, mtime, ..Meta::default() };
        let node = match &entry.kind {
            EntryKind::Directory => match tree.resolve(&path).filter(|_| tree.lookup(&path).is_some()) {
                // It keeps what it has, also through a link.
                Some(there) if tree.entries(there).is_some() => return Ok(()),
                None if tree.lookup(&path).is_none() => {
                    Node { meta: meta(0o755), kind: Kind::Directory(BTreeMap::new()) }
                }
                _ => return Err(OverlayError::NotDirectory { name: name.clone(), path: shown() }),
            },
            EntryKind::File { content, executable } => {
                let mode = if *executable { 0o755 } else { 0o644 };
                Node { meta: meta(mode), kind: Kind::File(content.clone()) }
            }
            EntryKind::Symlink(target) => Node { meta: meta(0o777), kind: Kind::Symlink(target.clone()) },
        };
        let placed = tree.insert(&path, node);
        placed.map_err(|source| OverlayError::Place { name: name.clone(), path: shown(), source })?;
        Ok(())
    }
}

/// Paths and nodes that a pattern means; without `*` and `?`, links among its parents are followed.
fn matching(tree: &Tree, pattern: &str) -> Vec<(Vec<u8>, NodeId)> {
    if !pattern.contains(['*', '?', '\\']) {
        let path = tree.real_path(pattern.as_bytes());
        return path.and_then(|path| tree.lookup(&path).map(|id| (path, id))).into_iter().collect();
    }
    let glob = Glob::new(pattern.as_bytes());
    glob.find(tree).into_iter().filter(|(path, _)| !path.is_empty()).collect()
}

/// Makes what one rule makes and sets what it sets.
fn follow(
    tree: &mut Tree,
    pattern: &Located<String>,
    rule: &PathRule,
    names: &OwnerIds,
    mtime: FileTime,
    findings: &mut Findings,
) {
    if let Some(make) = &rule.make
        && let Err(why) = made(tree, pattern.value.as_bytes(), make.value, mtime)
    {
        findings.add(&pattern.span, why, "");
        return;
    }
    let nodes = matching(tree, &pattern.value);
    if nodes.is_empty() {
        let help = "`make: directory` would create one; rules apply to the tree after the overlay's files";
        findings.add_with_help(&pattern.span, "neither the tree nor the overlay has it", "", help);
    }
    let id =
        |owner: &Option<Located<Owner>>, known: &BTreeMap<String, u32>, file, findings: &mut Findings| {
            owner.as_ref().and_then(|owner| match &owner.value {
                Owner::Id(id) => Some(*id),
                Owner::Name(name) => {
                    let id = known.get(name).copied();
                    if id.is_none() {
                        let meant = did_you_mean(name, known.keys().map(String::as_str));
                        findings.add(&owner.span, format!("the tree's {file} has no `{name}`"), meant);
                    }
                    id
                }
            })
        };
    let uid = id(&rule.owner, &names.users, "/etc/passwd", findings);
    let gid = id(&rule.group, &names.groups, "/etc/group", findings);
    for (_, node) in nodes {
        let node = tree.node_mut(node);
        let is_file = matches!(node.kind, Kind::File(_));
        let meta = &mut node.meta;
        meta.uid = uid.unwrap_or(meta.uid);
        meta.gid = gid.unwrap_or(meta.gid);
        // A symbolic link has no mode of its own.
        if let Some(mode) = rule.mode.as_ref().filter(|_| !matches!(node.kind, Kind::Symlink(_))) {
            meta.mode = mode.value;
        }
        for (name, value) in &rule.xattrs {
            meta.xattrs.insert(name.as_bytes().to_vec(), value.as_bytes().to_vec());
        }
        if let Some(capabilities) = &rule.capabilities {
            if is_file {
                meta.xattrs.insert(b"security.capability".to_vec(), capabilities.value.to_xattr());
            } else {
                findings.add(&capabilities.span, "only regular files have capabilities", "");
            }
        }
    }
}

/// Puts something new into the tree; a directory may be there already.
fn made(tree: &mut Tree, path: &[u8], make: Make, mtime: FileTime) -> Result<(), String> {
    let path = tree.real_path(path).ok_or("symbolic links of the tree form a loop on the way to it")?;
    let there = tree.lookup(&path);
    if there.is_some_and(|there| make == Make::Directory && tree.entries(there).is_some()) {
        return Ok(());
    }
    if there.is_some() {
        return Err("the tree already has it, so it can't be made; `remove` it first".into());
    }
    let (mode, kind) = match make {
        Make::Directory => (0o755, Kind::Directory(BTreeMap::new())),
        Make::Fifo => (0o644, Kind::Fifo),
        Make::CharDevice { major, minor } => (0o600, Kind::CharDevice { major, minor }),
        Make::BlockDevice { major, minor } => (0o600, Kind::BlockDevice { major, minor }),
    };
    let node = Node { meta: Meta { mode, mtime, ..Meta::default() }, kind };
    tree.insert(&path, node).map(|_| ()).map_err(|error| error.to_string())
}

/// Ids by name, as the tree's own files have them.
struct OwnerIds {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl OwnerIds {
    fn of(tree: &Tree, contents: &dyn Contents) -> io::Result<Self> {
        let read = |path: &[u8]| -> io::Result<BTreeMap<String, u32>> {
            let Some(id) = tree.resolve(path) else { return Ok(BTreeMap::new()) };
            let Kind::File(content) = &tree.node(id).kind else { return Ok(BTreeMap::new()) };
            let ids = super::names::ids(&content.read_all(contents)?);
            Ok(ids.into_iter().map(|(name, id)| (String::from_utf8_lossy(&name).into_owned(), id)).collect())
        };
        Ok(OwnerIds { users: read(b"etc/passwd")?, groups: read(b"etc/group")? })
    }
}

#[cfg(test)]
mod tests;
