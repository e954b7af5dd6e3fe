//! The kernel of a root file system: its release, its image, its modules and what depmod wrote about them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use liblzma::read::XzDecoder;
use liblzma::stream::Stream;

use crate::tree::{Contents, Kind, NodeId, Tree};

/// Largest text file of depmod's, and largest module, that is read. Debian's are below 2 MiB and 10 MiB.
const LIMIT: u64 = 64 << 20;
/// Memory that a module's decompression may take; xz -9 needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// What is wrong with the kernel of a tree, or with what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No kernel at all.
    #[error(
        "the tree has no kernel: no directory below /usr/lib/modules has a modules.dep and a /boot/vmlinuz; \
         add a kernel to the packages, such as linux-image-amd64"
    )]
    None,
    /// A file of the kernel's that must be there.
    #[error("/{path}: not a file of the tree")]
    NotFile { path: String },
    /// Too large to be what it claims to be.
    #[error("/{path}: {len} bytes; the limit is {LIMIT}")]
    TooLarge { path: String, len: u64 },
    /// Contents could not be read or decompressed.
    #[error("/{path}: can't read it")]
    Read { path: String, source: io::Error },
    /// A line that is not what depmod writes.
    #[error("/{path}:{line}: `{text}` is not a line as depmod writes them")]
    Malformed {
        path: String,
        /// Number of the line, from 1.
        line: usize,
        text: String,
    },
    /// A module in a format that is not known.
    #[error("/{path}: unknown compression of a module; known: .ko, .ko.xz, .ko.gz")]
    Packed { path: String },
    /// Modules that the kernel doesn't have.
    #[error("kernel {release} has no module {}", unknown.join("; no module "))]
    Unknown {
        release: String,
        /// Each as `name` with names that are near.
        unknown: Vec<String>,
    },
}

/// One module, as modules.dep has it.
#[derive(Debug)]
pub(super) struct ModuleDep {
    /// Path below the modules' directory: `kernel/fs/ext4/ext4.ko.xz`.
    pub path: String,
    /// Names of the modules it needs, all of them, the last to be loaded first.
    pub needs: Vec<String>,
}

/// A kernel found in a tree.
#[derive(Debug)]
pub struct Kernel<'t> {
    /// What `uname -r` will say.
    pub release: String,
    /// /boot/vmlinuz-RELEASE in the tree.
    pub vmlinuz: NodeId,
    tree: &'t Tree,
    /// Directory of its modules in the tree, `usr/lib/modules/RELEASE`.
    dir: String,
    pub(super) modules: BTreeMap<String, ModuleDep>,
    pub(super) builtin: BTreeSet<String>,
    /// Pattern and module, as in modules.alias.
    pub(super) aliases: Vec<(String, String)>,
    /// Modules, or aliases of them, that a module wants but does without.
    pub(super) soft: BTreeMap<String, Vec<String>>,
}

/// A module's name as the kernel shows it: of a path the last component without suffixes, `_` for `-`.
pub fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

impl<'t> Kernel<'t> {
    /// The newest kernel of `tree` that has both an image and modules.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn find(tree: &'t Tree, contents: &dyn Contents) -> Result<Self, KernelError> {
        // Without the usr merge modules are below /lib; with it /lib is a link.
        let mut found: Vec<(String, String, NodeId)> = ["usr/lib/modules", "lib/modules"]
            .into_iter()
            .filter_map(|above| Some((above, tree.entries(tree.lookup(above.as_bytes())?)?)))
            .flat_map(|(above, entries)| entries.keys().map(move |name| (above, name)))
            .filter_map(|(above, name)| {
                let release = String::from_utf8(name.clone()).ok()?;
                let vmlinuz = tree.lookup(format!("boot/vmlinuz-{release}").as_bytes())?;
                let dir = format!("{above}/{release}");
                tree.lookup(format!("{dir}/modules.dep").as_bytes())?;
                Some((release, dir, vmlinuz))
            })
            .collect();
        found.sort_by(|(a, ..), (b, ..)| by_version(a, b));
        let (release, dir, vmlinuz) = found.pop().ok_or(KernelError::None)?;
        let mut kernel = Kernel {
            release,
            vmlinuz,
            tree,
            dir,
            modules: BTreeMap::new(),
            builtin: BTreeSet::new(),
            aliases: Vec::new(),
            soft: BTreeMap::new(),
        };
        kernel.read_tables(contents)?;
        Ok(kernel)
    }

    fn read_tables(&mut self, contents: &dyn Contents) -> Result<(), KernelError> {
        let path = format!("{}/modules.dep", self.dir);
        for (number, line) in self.text(&path, contents)?.lines().enumerate() {
            let Some((module, needs)) = line.split_once(':') else {
                let text = line.chars().take(80).collect();
                return Err(KernelError::Malformed { path, line: number + 1, text });
            };
            let needs = needs.split_whitespace().map(module_name).collect();
            self.modules.insert(module_name(module), ModuleDep { path: module.to_owned(), needs });
        }
        // The others may be missing: a kernel can be built without any of them.
        let builtin = self.optional_text("modules.builtin", contents)?;
        self.builtin = builtin.lines().map(module_name).collect();
        for line in self.optional_text("modules.alias", contents)?.lines() {
            if let Some((pattern, module)) =
                line.strip_prefix("alias ").and_then(|rest| rest.rsplit_once(' '))
            {
                self.aliases.push((pattern.to_owned(), module_name(module)));
            }
        }
        for line in self.optional_text("modules.softdep", contents)?.lines() {
            let mut words = line.split_whitespace();
            if let (Some("softdep"), Some(module)) = (words.next(), words.next()) {
                let wants = words.filter(|word| !matches!(*word, "pre:" | "post:")).map(str::to_owned);
                self.soft.entry(module_name(module)).or_default().extend(wants);
            }
        }
        Ok(())
    }

    fn optional_text(&self, name: &str, contents: &dyn Contents) -> Result<String, KernelError> {
        let path = format!("{}/{name}", self.dir);
        match self.tree.lookup(path.as_bytes()) {
            Some(_) => self.text(&path, contents),
            None => Ok(String::new()),
        }
    }

    fn text(&self, path: &str, contents: &dyn Contents) -> Result<String, KernelError> {
        // depmod writes ASCII; what is not would match nothing.
        Ok(String::from_utf8_lossy(&self.file(path, contents)?).into_owned())
    }

    fn file(&self, path: &str, contents: &dyn Contents) -> Result<Vec<u8>, KernelError> {
        let node = self.tree.lookup(path.as_bytes()).map(|id| &self.tree.node(id).kind);
        let Some(Kind::File(content)) = node else {
            return Err(KernelError::NotFile { path: path.to_owned() });
        };
        if content.len > LIMIT {
            return Err(KernelError::TooLarge { path: path.to_owned(), len: content.len });
        }
        let mut bytes = vec![0; content.len as usize];
        content
            .read_at(contents, 0, &mut bytes)
            .map_err(|source| KernelError::Read { path: path.to_owned(), source })?;
        Ok(bytes)
    }

    /// Path below the modules' directory, without compression suffix, and the module's bytes, unpacked.
    pub(super) fn module(
        &self,
        module: &ModuleDep,
        contents: &dyn Contents,
    ) -> Result<(String, Vec<u8>), KernelError> {
        let path = format!("{}/{}", self.dir, module.path);
        let packed = self.file(&path, contents)?;
        let (plain, suffix) = unpacked(&module.path);
        let bytes = match suffix {
            "" => Ok(packed),
            ".xz" => Stream::new_stream_decoder(XZ_MEMORY, 0)
                .map_err(io::Error::from)
                .and_then(|stream| read_limited(XzDecoder::new_stream(&*packed, stream))),
            ".gz" => read_limited(flate2::read::GzDecoder::new(&*packed)),
            _ => return Err(KernelError::Packed { path }),
        };
        Ok((plain.to_owned(), bytes.map_err(|source| KernelError::Read { path, source })?))
    }
}

/// `kernel/fs/a.ko.xz` -> `kernel/fs/a.ko` and `.xz`.
pub(super) fn unpacked(path: &str) -> (&str, &str) {
    let end = path.rfind(".ko").map_or(path.len(), |at| at + ".ko".len());
    path.split_at(end)
}

fn read_limited(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it unpacks to more than {LIMIT} bytes"),
        ));
    }
    Ok(bytes)
}

/// Compares releases as people read them: runs of digits as numbers, the rest as text.
fn by_version(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (x, rest_a) = leading_number(a);
                let (y, rest_b) = leading_number(b);
                match x.len().cmp(&y.len()).then_with(|| x.cmp(y)) {
                    Ordering::Equal => (a, b) = (rest_a, rest_b),
                    unequal => return unequal,
                }
            }
            (Some(x), Some(y)) if x == y => (a, b) = (&a[1..], &b[1..]),
            (Some(x), Some(y)) => return x.cmp(y),
        }
    }
}

/// The digits at the start, without leading zeros, and the rest.
fn leading_number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let start = text[..end].iter().position(|&byte| byte != b'0').unwrap_or(end);
    (&text[start..end], &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_as_people_read_them() {
        let ordered =
            ["6.1.0-9-amd64", "6.1.0-10-amd64", "6.12.9+deb13-amd64", "6.12.010-amd64", "6.12.11-amd64"];
        for pair in ordered.windows(2) {
            assert_eq!(by_version(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(by_version(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(by_version("6.12", "6.12"), Ordering::Equal);
    }

    #[test]
    fn module_names_come_from_paths() {
        for (path, name) in [
            ("kernel/net/9p/9pnet_virtio.ko.xz", "9pnet_virtio"),
            ("kernel/drivers/net/xen-netfront.ko", "xen_netfront"),
            ("crc32c-intel", "crc32c_intel"),
        ] {
            assert_eq!(module_name(path), name);
        }
    }
}
