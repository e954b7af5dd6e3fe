//! Debian: packages become a tree, which starts with a kernel and a miniroot of ours.

use super::kind::{FileToLock, GuestBuilder, GuestContents, GuestTree, Starter};
use super::services::{BoxError, BuildServices, Inputs, ServiceError, ThirdPartyFiles};
use crate::ext2::Profile;
use crate::recipe::{Debian, Guest, HostName};
use crate::tree::{Content, FileTime, Kind, Meta, Node, Tree, TreeError};

impl GuestBuilder for Debian {
    fn starter(&self) -> Starter {
        Starter::Linux
    }

    fn summary(&self) -> String {
        let sources: String = self.sources.iter().map(|source| format!(" + {}", source.suite)).collect();
        let packages = match self.packages.len() {
            1 => "1 package".to_owned(),
            n => format!("{n} packages"),
        };
        format!("Debian {}{sources} ({}), {packages}", self.suite, self.variant)
    }

    /// apt verifies packages by the archive's signature.
    fn files_to_lock(&self, _: &dyn ThirdPartyFiles) -> Result<Vec<FileToLock>, BoxError> {
        Ok(Vec::new())
    }

    /// Those of the packages' tree: the host name is written over it each time, as overlays are.
    fn inputs(&self, guest: &Guest, services: &mut dyn BuildServices) -> Result<Inputs, BoxError> {
        Ok(services.debian_inputs(guest.name.as_str(), self)?)
    }

    fn build(&self, guest: &Guest, services: &mut dyn BuildServices) -> Result<GuestContents, BoxError> {
        let tree = tree(guest.name.as_str(), self, &guest.hostname, services)?;
        Ok(GuestContents::Tree(tree))
    }
}

/// The tree of a system, the host or a guest, with its host name.
///
/// # Errors
/// [`ServiceError`].
pub fn tree(
    image: &str,
    debian: &Debian,
    hostname: &HostName,
    services: &mut dyn BuildServices,
) -> Result<GuestTree, ServiceError> {
    let mut made = services.debian_tree(image, debian)?;
    let time = FileTime { secs: made.newest, nanos: 0 };
    set_hostname(&mut made.tree, hostname, time)
        .map_err(|source| ServiceError::new(HostNameError { image: image.to_owned(), source }))?;
    Ok(GuestTree {
        tree: made.tree,
        newest: made.newest,
        profile: Profile::Linux,
        linux: true,
        cached: Some(made.cached),
    })
}

/// Something else is where the host name belongs.
#[derive(Debug, thiserror::Error)]
#[error("system `{image}`: can't write its host name into the tree")]
struct HostNameError {
    image: String,
    source: TreeError,
}

fn set_hostname(tree: &mut Tree, name: &HostName, mtime: FileTime) -> Result<(), TreeError> {
    let hosts = format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    );
    for (path, text) in [("etc/hostname", format!("{name}\n")), ("etc/hosts", hosts)] {
        let meta = Meta { mode: 0o644, mtime, ..Meta::default() };
        let kind = Kind::File(Content::inline(text.into_bytes()));
        tree.insert(path.as_bytes(), Node { meta, kind })?;
    }
    Ok(())
}
