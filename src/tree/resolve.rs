//! Symbolic links followed within a tree, as a process with the tree as its root would.

use std::collections::VecDeque;

use super::{Kind, NodeId, Tree, components};

/// Most links followed on one path, as the kernel's MAXSYMLINKS.
const MAX_LINKS: usize = 40;

impl Tree {
    /// What `path` leads to when every symbolic link on it is followed, also the last; `None` if nothing is
    /// there, or links go in a circle. `..` above the root is the root.
    pub fn resolve(&self, path: &[u8]) -> Option<NodeId> {
        self.lookup(&self.follow(path, true, false)?)
    }

    /// `path` with the links among its parents followed, so that [`Tree::insert`] puts an entry where `cp`
    /// would: with /lib -> usr/lib, `lib/x` gives `usr/lib/x`. Parents need not exist. `None` for links in a
    /// circle.
    pub fn real_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.follow(path, false, false)
    }

    /// Likewise, but `None` also if a link on the way leads to nothing.
    pub(super) fn path_through_links(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.follow(path, false, true)
    }

    /// Whether a parent of `path` is a symbolic link; false for a path with `..`.
    pub(super) fn leads_through_link(&self, path: &[u8]) -> bool {
        let mut at = self.root();
        let mut names = components(path).peekable();
        if components(path).any(|name| name == b"..") {
            return false;
        }
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                break;
            }
            match self.entries(at).and_then(|entries| entries.get(name)) {
                Some(&next) if matches!(self.node(next).kind, Kind::Symlink(_)) => return true,
                Some(&next) => at = next,
                None => break,
            }
        }
        false
    }

    /// `last`: whether the last name is followed, too. `strict`: whether what links lead to must be there.
    fn follow(&self, path: &[u8], last: bool, strict: bool) -> Option<Vec<u8>> {
        let mut ahead: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        // Each name with what is there, if anything.
        let mut done: Vec<(Vec<u8>, Option<NodeId>)> = Vec::new();
        let mut links = 0;
        // How many names are ahead when the target of a link has been walked.
        let mut targets: Vec<usize> = Vec::new();
        while let Some(name) = ahead.pop_front() {
            while targets.pop_if(|after| ahead.len() < *after).is_some() {
                if strict && done.last().is_some_and(|(_, at)| at.is_none()) {
                    return None;
                }
            }
            if name == b".." {
                done.pop();
                continue;
            }
            let above = done.last().map_or(Some(self.root()), |(_, at)| *at);
            let at = above.and_then(|above| self.entries(above)?.get(&name).copied());
            done.push((name, at));
            if ahead.is_empty() && !last {
                break;
            }
            if let Some(Kind::Symlink(target)) = at.map(|id| &self.node(id).kind) {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                done.pop();
                targets.push(ahead.len());
                if target.starts_with(b"/") {
                    done.clear();
                }
                for name in components(target).collect::<Vec<_>>().into_iter().rev() {
                    ahead.push_front(name.to_vec());
                }
            }
        }
        Some(done.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(&b'/'))
    }
}

#[cfg(test)]
mod tests {
    use crate::tree::{Content, Kind, Meta, Node, Tree};

    fn tree() -> Tree {
        let mut tree = Tree::new(Meta::default());
        let file = Kind::File(Content::default());
        let link = |target: &str| Kind::Symlink(target.into());
        for (path, kind) in [
            ("usr/lib/a", file),
            ("lib", link("usr/lib")),
            ("up", link("../../lib/a")),
            ("usr/lib/abs", link("/lib/b")),
            ("loop", link("loop/x")),
            ("dangling", link("nowhere")),
        ] {
            tree.insert(path.as_bytes(), Node { meta: Meta::default(), kind }).unwrap();
        }
        tree
    }

    #[test]
    fn links_are_followed_within_the_tree() {
        let tree = tree();
        let file = tree.lookup(b"usr/lib/a");
        for (path, expected) in
            [("lib/a", file), ("/up", file), ("lib/abs", None), ("dangling", None), ("loop", None)]
        {
            assert_eq!(tree.resolve(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn real_paths_keep_the_last_component_and_need_not_exist() {
        for (path, expected) in [
            ("lib/new/file", Some("usr/lib/new/file")),
            ("lib", Some("lib")),
            ("usr/lib/abs/x", Some("usr/lib/b/x")),
            ("lib/../etc", Some("usr/etc")),
            ("loop/a", None),
        ] {
            let real = tree().real_path(path.as_bytes()).map(|path| String::from_utf8(path).unwrap());
            assert_eq!(real.as_deref(), expected, "{path}");
        }
    }
}
