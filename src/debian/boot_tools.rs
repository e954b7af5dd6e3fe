//! The boot tools: GRUB, busybox and CA certificates out of the recipe's own suite, in a small tree of its own.
//!
//! Nothing of the building machine's GRUB is used: grub-mkimage of the suite runs in the tree, whose packages
//! are only extracted, not installed, which takes seconds.

use std::io;

use super::{PackageSet, Script, more_sources, names};
use crate::recipe;
use crate::tree::{Contents, Kind, NodeId, Tree};

/// What is extracted. base-files has the links (/lib64) without which nothing in the tree would run.
const PACKAGES: [&str; 6] =
    ["base-files", "busybox-static", "ca-certificates", "grub-common", "grub-efi-amd64-bin", "grub-pc-bin"];

/// Where the images are in the tree.
const DIRECTORY: &str = "imgfactory";

/// Where the tree has certificates, a file each.
const CERTIFICATES: &[u8] = b"usr/share/ca-certificates/mozilla";

/// An image for grub-mkimage to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrubImage {
    /// `i386-pc-eltorito`, `x86_64-efi`, ...: grub-mkimage's `--format`.
    pub format: String,
    /// Modules to build in.
    pub modules: Vec<String>,
    /// Where GRUB looks for its files: `/boot/grub`.
    pub prefix: String,
    /// The configuration that runs first; empty for none.
    pub config: String,
}

/// The packages of the boot tools for the system `debian`: of its suite and sources, so that they are updated with
/// it.
pub fn set(debian: &recipe::Debian, images: &[GrubImage]) -> PackageSet {
    PackageSet {
        suite: debian.suite.as_str().into(),
        variant: recipe::Variant::Extract.as_str().into(),
        components: names(&debian.components),
        sources: more_sources(debian),
        packages: PACKAGES.map(String::from).into(),
        apt_options: vec![],
        scripts: vec![Script { name: "grub-mkimage".into(), text: script(images).into() }],
    }
}

/// The script that makes the images: each is `imgfactory/FORMAT` in the tree.
fn script(images: &[GrubImage]) -> String {
    let mut script = format!("#!/bin/sh\nset -eu\nmkdir \"$1/{DIRECTORY}\"\n");
    for GrubImage { format, modules, prefix, config } in images {
        let mut end = "END".to_owned();
        while config.lines().any(|line| line == end) {
            end.push('_');
        }
        let newline = if config.is_empty() || config.ends_with('\n') { "" } else { "\n" };
        let file = quoted(&format!("/{DIRECTORY}/{format}.cfg"));
        script.push_str(&format!("cat > \"$1\"{file} <<'{end}'\n{config}{newline}{end}\n"));
        script.push_str(&format!(
            "chroot \"$1\" grub-mkimage --format={} --prefix={} --output={}",
            quoted(format),
            quoted(prefix),
            quoted(&format!("/{DIRECTORY}/{format}")),
        ));
        if !config.is_empty() {
            script.push_str(&format!(" --config={file}"));
        }
        for module in modules {
            script.push(' ');
            script.push_str(&quoted(module));
        }
        script.push('\n');
    }
    script
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A file that the tree of the boot tools lacks, or that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum BootToolsError {
    /// It is not there, or not a file.
    #[error("boot tools: /{0} is missing; use a Debian suite of 2017 or later")]
    Missing(String),
    #[error("boot tools: can't read /{path}")]
    Read { path: String, source: io::Error },
}

/// The boot tools: a tree, and where its contents are.
#[derive(Clone, Copy)]
pub struct BootTools<'t> {
    pub tree: &'t Tree,
    /// Where its files' contents are.
    pub contents: &'t dyn Contents,
}

impl BootTools<'_> {
    /// The image made for a format.
    ///
    /// # Errors
    /// [`BootToolsError`].
    pub fn image(&self, format: &str) -> Result<Vec<u8>, BootToolsError> {
        self.read(&format!("{DIRECTORY}/{format}"))
    }

    /// A file of `/usr/lib/grub/PLATFORM/`: `boot_hybrid.img` and `eltorito.img` of `i386-pc`, modules.
    ///
    /// # Errors
    /// [`BootToolsError`].
    pub fn grub_file(&self, platform: &str, name: &str) -> Result<Vec<u8>, BootToolsError> {
        self.read(&format!("usr/lib/grub/{platform}/{name}"))
    }

    /// The statically linked busybox.
    ///
    /// # Errors
    /// [`BootToolsError`].
    pub fn busybox(&self) -> Result<Vec<u8>, BootToolsError> {
        // In /bin until bookworm.
        self.read("usr/bin/busybox").or_else(|_| self.read("bin/busybox"))
    }

    /// All of Mozilla's certificates in one PEM text, by file name: what update-ca-certificates makes.
    ///
    /// # Errors
    /// [`BootToolsError`].
    pub fn certificates(&self) -> Result<Vec<u8>, BootToolsError> {
        let missing = || BootToolsError::Missing(String::from_utf8_lossy(CERTIFICATES).into_owned());
        let directory = self.tree.lookup(CERTIFICATES).ok_or_else(missing)?;
        let mut bundle = Vec::new();
        for (name, &file) in self.tree.entries(directory).ok_or_else(missing)? {
            bundle.extend(self.read_node(&String::from_utf8_lossy(name), file)?);
            if !bundle.ends_with(b"\n") {
                bundle.push(b'\n');
            }
        }
        Ok(bundle)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, BootToolsError> {
        let node = self.tree.resolve(path.as_bytes());
        self.read_node(path, node.ok_or_else(|| BootToolsError::Missing(path.to_owned()))?)
    }

    fn read_node(&self, path: &str, node: NodeId) -> Result<Vec<u8>, BootToolsError> {
        let Kind::File(content) = &self.tree.node(node).kind else {
            return Err(BootToolsError::Missing(path.to_owned()));
        };
        content
            .read_all(self.contents)
            .map_err(|source| BootToolsError::Read { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_quotes_what_it_is_given() {
        let image = GrubImage {
            format: "x86_64-efi".into(),
            modules: vec!["fat".into(), "a'b".into()],
            prefix: "(cd0)/boot".into(),
            config: "search $root\nEND\nEND_".into(),
        };
        assert_eq!(
            script(&[image]),
            r#"#!/bin/sh
set -eu
mkdir "$1/imgfactory"
cat > "$1"'/imgfactory/x86_64-efi.cfg' <<'END__'
search $root
END
END_
END__
chroot "$1" grub-mkimage --format='x86_64-efi' --prefix='(cd0)/boot' --output='/imgfactory/x86_64-efi' --config='/imgfactory/x86_64-efi.cfg' 'fat' 'a'\''b'
"#
        );
    }
}
