//! Patterns for paths in a tree, as overlays and the rules of [`super::normalise`] use them.

use super::{NodeId, Tree};

/// A path with `*` and `?` within a component and `**` for any number of components, also none.
///
/// `/var/log/*.log`, `usr/share/doc/**`, `**/__pycache__`: a leading `/` makes no difference, a pattern
/// always begins at the root. Names are compared byte by byte; `\` takes a special character literally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    components: Vec<Vec<u8>>,
}

impl Glob {
    /// Takes a pattern apart; anything is one.
    pub fn new(pattern: &[u8]) -> Self {
        let components = super::components(pattern).map(<[u8]>::to_vec).collect();
        Glob { components }
    }

    /// All that is meant in a tree, in the order of [`Tree::walk`].
    pub fn find(&self, tree: &Tree) -> Vec<(Vec<u8>, NodeId)> {
        // Everything is below what has no special character in it, and not deeper than the pattern.
        let literal = |part: &&Vec<u8>| !part.iter().any(|byte| b"*?\\".contains(byte));
        let fixed = self.components.iter().take_while(literal).count();
        let top = self.components[..fixed].join(&b'/');
        let rest = &self.components[fixed..];
        let depth = if rest.iter().any(|part| part == b"**") { usize::MAX } else { rest.len() };
        tree.walk_below(&top, depth).filter(|(path, _)| self.matches(path)).collect()
    }

    /// Whether `path`, in the form of [`super::Tree::walk`], is meant.
    pub fn matches(&self, path: &[u8]) -> bool {
        let names: Vec<&[u8]> = super::components(path).collect();
        match_components(&self.components, &names)
    }
}

fn match_components(pattern: &[Vec<u8>], names: &[&[u8]]) -> bool {
    match_sequence(pattern, names, |part| part == b"**", |part, name| match_name(part, name))
}

fn match_name(pattern: &[u8], name: &[u8]) -> bool {
    let mut tokens = Vec::new();
    let mut rest = pattern.iter();
    while let Some(&byte) = rest.next() {
        tokens.push(match byte {
            b'*' => GlobToken::Any,
            b'?' => GlobToken::One,
            b'\\' => GlobToken::Byte(*rest.next().unwrap_or(&b'\\')),
            byte => GlobToken::Byte(byte),
        });
    }
    match_sequence(
        &tokens,
        name,
        |token| *token == GlobToken::Any,
        |token, byte| *token == GlobToken::One || *token == GlobToken::Byte(*byte),
    )
}

#[derive(PartialEq, Eq)]
enum GlobToken {
    Any,
    One,
    Byte(u8),
}

/// Matches greedily with one place to come back to, so the time is at most the product of the lengths.
fn match_sequence<P, T>(
    pattern: &[P],
    items: &[T],
    is_star: impl Fn(&P) -> bool,
    is_match: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut p, mut i) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while i < items.len() {
        match pattern.get(p) {
            Some(part) if is_star(part) => {
                back = Some((p + 1, i));
                p += 1;
            }
            Some(part) if is_match(part, &items[i]) => {
                p += 1;
                i += 1;
            }
            _ => match &mut back {
                None => return false,
                Some((after, from)) => {
                    *from += 1;
                    (p, i) = (*after, *from);
                }
            },
        }
    }
    pattern[p..].iter().all(is_star)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Kind, Meta, Node};

    #[test]
    fn stars_stay_within_a_component_and_double_stars_cross_them() {
        for (pattern, path, expected) in [
            ("/var/log/*.log", "var/log/dpkg.log", true),
            ("var/log/*.log", "var/log/apt/term.log", false),
            ("var/log/**", "var/log/apt/term.log", true),
            ("var/log/**", "var/log", true),
            ("var/log/**", "var/logs", false),
            ("**/__pycache__/*.pyc", "usr/lib/a/__pycache__/b.c.pyc", true),
            ("**/__pycache__/*.pyc", "__pycache__/b.pyc", true),
            ("**/a/**/b", "a/x/a/y/z/b", true),
            ("**/a/**/b", "a/x/a/y/z/c", false),
            ("etc/passwd-", "etc/passwd", false),
            ("etc/?h*-", "etc/shadow-", true),
            (r"etc/a\*", "etc/a*", true),
            (r"etc/a\*", "etc/ab", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("*", "", false),
            ("", "", true),
        ] {
            assert_eq!(Glob::new(pattern.as_bytes()).matches(path.as_bytes()), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn all_that_matches_in_a_tree_is_found_and_in_its_order() {
        let mut tree = Tree::new(Meta::default());
        for path in
            ["a*b", "etc/passwd-", "etc/ssl/certs/x", "run/a/b", "run/c", "usr/f/.uuid", "usr/f/g/.uuid"]
        {
            let node = Node { meta: Meta::default(), kind: Kind::Fifo };
            tree.insert(path.as_bytes(), node).unwrap();
        }
        for pattern in [
            "run/*",
            "run/**",
            "run",
            "/",
            "*",
            "**",
            "**/.uuid",
            "usr/f/**/.uuid",
            "usr/?/.uuid",
            "etc/passwd-/*",
            "no/such/*",
            "etc//ssl/./*",
            r"a\*b",
            "*/*/*",
        ] {
            let glob = Glob::new(pattern.as_bytes());
            let expected: Vec<_> = tree.walk().filter(|(path, _)| glob.matches(path)).collect();
            assert_eq!(glob.find(&tree), expected, "{pattern}");
        }
    }
}
