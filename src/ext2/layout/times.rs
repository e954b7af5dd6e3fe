//! Times that mean nothing: an update that changes only them changes nothing.

use std::collections::HashMap;

use super::map::{LayoutMap, Mapped, MappedKind, PreviousLayout};
use crate::ext2::pages::Pages;
use crate::tree::{FileTime, Kind, NodeId, Tree};

/// Gives files their time of the release before, if they differ from it by nothing but `made`: the time that a
/// build gives to what no package dates (generated files, directories that packages were unpacked into). That time
/// is the newest date of the archives used, so without this each release would change nearly every inode block.
pub fn keep_times(tree: &mut Tree, pages: &Pages, previous: &PreviousLayout<'_>, made: FileTime) {
    let mut kept: HashMap<NodeId, FileTime> = HashMap::new();
    for (id, old) in previous.at_paths_of(tree) {
        let (node, old) = (tree.node(id), &previous.inodes[old]);
        if node.meta.mtime != made {
            continue;
        }
        let mut meta = node.meta.clone();
        meta.mtime = old.meta.mtime;
        if meta == old.meta && same_contents(&node.kind, pages, id, previous, old) {
            kept.insert(id, old.meta.mtime);
        }
    }
    for (id, time) in kept {
        tree.node_mut(id).meta.mtime = time;
    }
}

fn same_contents(kind: &Kind, pages: &Pages, id: NodeId, previous: &LayoutMap, old: &Mapped) -> bool {
    match (kind, &old.kind) {
        (Kind::Directory(entries), MappedKind::Directory(_)) => {
            let mut names: Vec<&[u8]> = old.entries().map(|entry| &entry.name[..]).collect();
            names.sort_unstable();
            // The one that the writer adds may be there and not here.
            let added = |name: &&[u8]| old.ino == crate::ext2::ROOT_INO && *name == b"lost+found";
            names
                .into_iter()
                .filter(|name| !added(name))
                .eq(entries.keys().map(Vec::as_slice).filter(|name| !added(name)))
        }
        (Kind::File(content), MappedKind::File(len)) => {
            content.len == *len && previous.held(old).eq(pages.of(id).iter().copied())
        }
        (Kind::Symlink(target), MappedKind::Symlink(before)) => target == before,
        (&Kind::CharDevice { major, minor }, &MappedKind::CharDevice(a, b))
        | (&Kind::BlockDevice { major, minor }, &MappedKind::BlockDevice(a, b)) => (major, minor) == (a, b),
        (Kind::Fifo, MappedKind::Fifo) | (Kind::Socket, MappedKind::Socket) => true,
        _ => false,
    }
}
