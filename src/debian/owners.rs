//! Which package a file belongs to, as dpkg in the tree has it: what is updated together lies together.

use std::collections::{BTreeMap, HashMap};
use std::io;

use crate::ext2::Label;
use crate::tree::{Contents, NodeId, Tree};

/// Where dpkg keeps its records.
const INFO: &[u8] = b"var/lib/dpkg/info";
/// dpkg's list of installed packages.
const STATUS: &[u8] = b"var/lib/dpkg/status";

/// A package as it is installed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstalledPackage {
    /// The source package that it was built from: these are updated together.
    pub source: String,
    /// Its name, with `:amd64` where dpkg's records have it.
    pub name: String,
    /// As dpkg has it.
    pub version: String,
}

/// The packages of a tree and what belongs to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// By source, then by name.
    pub packages: Vec<InstalledPackage>,
    owner: HashMap<NodeId, u32>,
}

impl Owners {
    /// Reads dpkg's records in a tree. One without them has no packages.
    ///
    /// # Errors
    /// Those of `contents`.
    pub fn read(tree: &Tree, contents: &dyn Contents) -> io::Result<Self> {
        let mut owners = Owners::default();
        let (Some(status), Some(info)) = (tree.lookup(STATUS), tree.lookup(INFO)) else { return Ok(owners) };
        let status = text(tree, contents, status)?;
        let described = stanzas(&status);
        let Some(entries) = tree.entries(info) else { return Ok(owners) };
        let mut lists: BTreeMap<InstalledPackage, (NodeId, &[u8])> = BTreeMap::new();
        for (file, &id) in entries {
            let Some(stem) = file.strip_suffix(b".list") else { continue };
            let name = String::from_utf8_lossy(stem).into_owned();
            let plain = name.split(':').next().unwrap_or_default();
            let (source, version) =
                described.get(plain).cloned().unwrap_or_else(|| (plain.to_owned(), String::new()));
            lists.insert(InstalledPackage { source, name, version }, (id, stem));
        }
        for ((package, (list, stem)), number) in lists.into_iter().zip(0..) {
            owners.packages.push(package);
            // Files of a directory follow each other.
            let mut last = ("", Some(tree.root()));
            for path in text(tree, contents, list)?.lines() {
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                if parent != last.0 {
                    // Packages name /lib/x; the file is usr/lib/x.
                    last = (parent, tree.resolve(parent.as_bytes()));
                }
                let found = last.1.and_then(|dir| tree.entries(dir)?.get(name.as_bytes()).copied());
                if let Some(id) = found.filter(|&id| tree.entries(id).is_none()) {
                    owners.owner.entry(id).or_insert(number);
                }
            }
            let records = entries.range(stem.to_vec()..).take_while(|(file, _)| file.starts_with(stem));
            for (_, &id) in records.filter(|(file, _)| file.get(stem.len()) == Some(&b'.')) {
                owners.owner.insert(id, number);
            }
        }
        owners.compiled(tree);
        Ok(owners)
    }

    /// `__pycache__/x.cpython-312.pyc` belongs to whom `x.py` does.
    fn compiled(&mut self, tree: &Tree) {
        for (path, id) in tree.walk() {
            if !path.ends_with(b".pyc") || self.owner.contains_key(&id) {
                continue;
            }
            let path = String::from_utf8_lossy(&path);
            let source = path.split_once("/__pycache__/").and_then(|(dir, file)| {
                let stem = file.split(".cpython-").next()?;
                tree.lookup(format!("{dir}/{stem}.py").as_bytes())
            });
            if let Some(&number) = source.and_then(|source| self.owner.get(&source)) {
                self.owner.insert(id, number);
            }
        }
    }

    /// The packages, as a layout map names them.
    pub fn labels(&self) -> Vec<Label> {
        let label = |package: &InstalledPackage| Label {
            name: package.name.clone(),
            version: package.version.clone(),
        };
        self.packages.iter().map(label).collect()
    }

    /// The label of a file, by its place in [`Owners::labels`].
    pub fn label(&self, node: NodeId) -> Option<u32> {
        self.owner.get(&node).copied()
    }
}

fn text(tree: &Tree, contents: &dyn Contents, id: NodeId) -> io::Result<String> {
    match &tree.node(id).kind {
        crate::tree::Kind::File(content) => {
            Ok(String::from_utf8_lossy(&content.read_all(contents)?).into_owned())
        }
        _ => Ok(String::new()),
    }
}

/// Source and version of each package in dpkg's status.
fn stanzas(status: &str) -> HashMap<&str, (String, String)> {
    let mut found = HashMap::new();
    for stanza in status.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
        };
        let Some(package) = field("Package") else { continue };
        // `Source: glibc (2.41-12)` when the versions differ.
        let source = field("Source").and_then(|source| source.split(' ').next()).unwrap_or(package);
        found.insert(package, (source.to_owned(), field("Version").unwrap_or_default().to_owned()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Kind, Meta, Node};

    #[test]
    fn files_belong_to_whom_dpkg_says_and_sources_lie_together() {
        let mut tree = Tree::new(Meta::default());
        let mut put =
            |path: &str, kind| tree.insert(path.as_bytes(), Node { meta: Meta::default(), kind }).unwrap();
        let file = |text: &str| Kind::File(Content::inline(text.as_bytes()));
        put("lib", Kind::Symlink(b"usr/lib".to_vec()));
        let libz = put("usr/lib/libz.so", file("z"));
        let module = put("usr/lib/python3/x.py", file("x"));
        let compiled = put("usr/lib/python3/__pycache__/x.cpython-313.pyc", file("c"));
        let machine = put("etc/hostname", file("host"));
        let status = "Package: zlib1g\nArchitecture: amd64\nSource: zlib\nVersion: 1.3\n\nPackage: python3-x\nVersion: 2\n\n\
                      Package: zlib-doc\nSource: zlib (1.2)\nVersion: 1.3\n";
        put("var/lib/dpkg/status", file(status));
        let list = put("var/lib/dpkg/info/zlib1g:amd64.list", file("/.\n/lib/libz.so\n"));
        let sums = put("var/lib/dpkg/info/zlib1g:amd64.md5sums", file(""));
        put("var/lib/dpkg/info/python3-x.list", file("/usr/lib/python3/x.py\n"));
        put("var/lib/dpkg/info/zlib-doc.list", file("/usr\n"));

        let owners = Owners::read(&tree, &Vec::<Vec<u8>>::new()).unwrap();
        let names: Vec<_> =
            owners.packages.iter().map(|p| format!("{} {} {}", p.source, p.name, p.version)).collect();
        assert_eq!(names, ["python3-x python3-x 2", "zlib zlib-doc 1.3", "zlib zlib1g:amd64 1.3"]);
        let of = [libz, list, sums, module, compiled, machine].map(|id| owners.label(id));
        assert_eq!(of, [Some(2), Some(2), Some(2), Some(0), Some(0), None]);
        assert_eq!(
            Owners::read(&Tree::new(Meta::default()), &Vec::<Vec<u8>>::new()).unwrap(),
            Owners::default()
        );
    }
}
