//! Guests: what the host needs to start them, and what a guest's image carries for its own start.
//!
//! In the host, `imgfactory-image@NAME.service` runs a second client that serves the guest's virtual disk, and
//! `imgfactory-guest@NAME.service` gives it to `xl`. Kernel and initrd lie in the guest's own image, below
//! [`BOOT`], so that an update of a guest changes nothing in the host's image; the host reads them through the
//! verified disk before it starts the guest.

use serde::Serialize;

use crate::recipe::{TemplateError, Templates};
use crate::tree::{Content, Kind, Meta, Node, Time, Tree, TreeError};

/// Directory in a guest's image with its kernel, `vmlinuz`, and initrd, `initrd`.
pub const BOOT: &str = "boot/imgfactory";
/// The script behind the units and the command `guest`, in the host.
const SCRIPT: &str = "usr/lib/imgfactory/guest";

/// A guest as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// Name of its image, its domain and its units.
    pub name: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Whether it starts with the host.
    pub at_boot: bool,
}

/// Why guests could not be put into a tree.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A template is missing or wrong.
    #[error("guest {guest}: its files can't be made from the templates")]
    Template {
        /// The guest's name.
        guest: String,
        /// What is wrong with the template.
        source: TemplateError,
    },
    /// The tree has something else where a file of ours belongs.
    #[error("guest support can't be put into the tree")]
    Tree(#[from] TreeError),
}

/// Puts units, configurations and the command `guest` into the host's tree. Does nothing without guests.
///
/// # Errors
/// [`GuestError`].
pub fn install_in_host(
    host: &mut Tree,
    guests: &[Guest],
    templates: &Templates,
    mtime: Time,
) -> Result<(), GuestError> {
    let Some(first) = guests.first() else { return Ok(()) };
    let mut files = Files { tree: host, mtime };
    let render = |name: &str, guest: &Guest| {
        templates
            .render(&format!("guest/{name}"), minijinja::context! { guest })
            .map(|text| Content::inline(text.into_bytes()))
            .map_err(|source| GuestError::Template { guest: guest.name.clone(), source })
    };
    for unit in ["imgfactory-image@.service", "imgfactory-guest@.service"] {
        files.put(&format!("usr/lib/systemd/system/{unit}"), 0o644, render(unit, first)?)?;
    }
    files.put(
        "usr/lib/systemd/system/xen.service.d/imgfactory.conf",
        0o644,
        render("xen.service.conf", first)?,
    )?;
    files.put(SCRIPT, 0o755, render("guest", first)?)?;
    files.symlink("usr/bin/guest", "../lib/imgfactory/guest")?;
    for guest in guests {
        files.put(&format!("etc/imgfactory/guests/{}.cfg", guest.name), 0o644, render("xl.cfg", guest)?)?;
        if guest.at_boot {
            files.symlink(
                &format!("etc/systemd/system/multi-user.target.wants/imgfactory-guest@{}.service", guest.name),
                "/usr/lib/systemd/system/imgfactory-guest@.service",
            )?;
        }
    }
    Ok(())
}

/// Puts a guest's kernel and initrd where the host looks for them.
///
/// # Errors
/// [`GuestError::Tree`].
pub fn install_in_guest(
    guest: &mut Tree,
    kernel: Content,
    initrd: Content,
    mtime: Time,
) -> Result<(), GuestError> {
    let mut files = Files { tree: guest, mtime };
    files.put(&format!("{BOOT}/vmlinuz"), 0o644, kernel)?;
    files.put(&format!("{BOOT}/initrd"), 0o644, initrd)?;
    Ok(())
}

/// Files of root's, of one time.
struct Files<'t> {
    tree: &'t mut Tree,
    mtime: Time,
}

impl Files<'_> {
    fn put(&mut self, path: &str, mode: u16, content: Content) -> Result<(), TreeError> {
        let meta = Meta { mode, mtime: self.mtime, ..Meta::default() };
        self.tree.insert(path.as_bytes(), Node { meta, kind: Kind::File(content) })?;
        Ok(())
    }

    fn symlink(&mut self, path: &str, target: &str) -> Result<(), TreeError> {
        let meta = Meta { mode: 0o777, mtime: self.mtime, ..Meta::default() };
        self.tree.insert(path.as_bytes(), Node { meta, kind: Kind::Symlink(target.into()) })?;
        Ok(())
    }
}
