//! The hypervisor out of the host's tree.

use crate::tree::{Kind, NodeId, Tree};

/// Why there is no hypervisor to boot.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum XenError {
    /// The tree has none.
    #[error(
        "the host has no /boot/xen-*.gz, but its boot menu has an entry for Xen; add Xen to its packages \
         (xen-hypervisor-4.20-amd64 and xen-utils-4.20 in trixie), or remove `xen` from `boot`"
    )]
    None,
}

/// The newest `/boot/xen-VERSION-amd64.gz`, as Debian names it.
///
/// # Errors
/// [`XenError::None`].
pub fn find(tree: &Tree) -> Result<NodeId, XenError> {
    let boot = tree.lookup(b"boot").and_then(|boot| tree.entries(boot)).ok_or(XenError::None)?;
    let newest = boot
        .iter()
        .filter_map(|(name, &node)| {
            let name = std::str::from_utf8(name).ok()?;
            let version = name.strip_prefix("xen-")?.strip_suffix(".gz")?;
            matches!(tree.node(node).kind, Kind::File(_)).then(|| (numbers(version), node))
        })
        .max_by(|(a, _), (b, _)| a.cmp(b));
    newest.map(|(_, node)| node).ok_or(XenError::None)
}

/// `4.20-amd64` -> 4, 20, 64: enough to order versions by.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().unwrap_or(u32::MAX))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Meta, Node};

    fn tree(files: &[&str]) -> Tree {
        let mut tree = Tree::new(Meta::default());
        for path in files {
            let kind = Kind::File(Content::inline(path.as_bytes()));
            tree.insert(path.as_bytes(), Node { meta: Meta::default(), kind }).unwrap();
        }
        tree
    }

    #[test]
    fn the_newest_version_is_found() {
        let tree = tree(&[
            "boot/xen-4.9-amd64.gz",
            "boot/xen-4.20-amd64.gz",
            "boot/xen-4.20-amd64.efi",
            "boot/vmlinuz-6",
        ]);
        assert_eq!(find(&tree), Ok(tree.lookup(b"boot/xen-4.20-amd64.gz").unwrap()));
    }

    #[test]
    fn a_host_without_xen_is_told_which_packages_have_it() {
        for tree in [tree(&[]), tree(&["boot/vmlinuz-6"])] {
            assert_eq!(find(&tree), Err(XenError::None));
        }
    }
}
