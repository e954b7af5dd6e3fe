//! Guests: what the host needs to start them, and what a guest's image carries for its own start.
//!
//! In the host, `imgfactory-image@NAME.service` runs a second client that serves the guest's virtual disk, and
//! `imgfactory-guest@NAME.service` gives it to `xl`. Kernel and initrd lie in the guest's own image, below
//! [`BOOT`], so that an update of a guest changes nothing in the host's image; the host reads them through the
//! verified disk before it starts the guest.

use minijinja::Value;

use crate::recipe::templates::{TemplateError, Templates, context};
use crate::recipe::{self, Start};
use crate::tree::{Content, Kind, Meta, Node, Time, Tree, TreeError};

/// Directory in a guest's image with its kernel, `vmlinuz`, and initrd, `initrd`.
pub const BOOT: &str = "boot/imgfactory";
/// The script behind the units and the command `guest`, in the host.
const SCRIPT: &str = "usr/lib/imgfactory/guest";

/// A guest as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Name of its image, its domain and its units.
    pub name: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// What is appended to its kernel's command line; may be empty.
    pub cmdline: String,
    /// Whether it starts with the host.
    pub at_boot: bool,
}

impl Guest {
    /// What a recipe says of it.
    pub fn of(guest: &recipe::Guest) -> Self {
        Guest {
            name: guest.name.to_string(),
            memory_mib: guest.memory >> 20,
            vcpus: guest.vcpus,
            cmdline: guest.cmdline.to_string(),
            at_boot: guest.start == Start::Boot,
        }
    }

    /// What templates may use as `guest`.
    fn values(&self) -> Value {
        context! { name => self.name.as_str(), memory_mib => self.memory_mib, vcpus => self.vcpus }
    }
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
            .render(&format!("guest/{name}"), context! { guest => guest.values() })
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
        let config = format!("etc/imgfactory/guests/{}", guest.name);
        files.put(&format!("{config}.cfg"), 0o644, render("xl.cfg", guest)?)?;
        // For the script to read as it is: a text of any characters has no place in a script or in xl's syntax.
        let cmdline = Content::inline(format!("{}\n", guest.cmdline).into_bytes());
        files.put(&format!("{config}.cmdline"), 0o644, cmdline)?;
        if guest.at_boot {
            files.symlink(
                &format!(
                    "etc/systemd/system/multi-user.target.wants/imgfactory-guest@{}.service",
                    guest.name
                ),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(name: &str, at_boot: bool) -> Guest {
        Guest { name: name.into(), memory_mib: 192, vcpus: 2, cmdline: "quiet".into(), at_boot }
    }

    fn text(tree: &Tree, path: &str) -> String {
        let id = tree.lookup(path.as_bytes()).unwrap_or_else(|| panic!("{path} is in the tree"));
        match &tree.node(id).kind {
            Kind::File(content) => {
                let mut bytes = vec![0; usize::try_from(content.len).unwrap()];
                content.read_at(&Vec::<Vec<u8>>::new(), 0, &mut bytes).unwrap();
                String::from_utf8(bytes).unwrap()
            }
            Kind::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn the_host_gets_units_and_a_configuration_for_each_guest() {
        let mut host = Tree::new(Meta::default());
        let guests = [guest("web", true), guest("plan9", false)];
        install_in_host(&mut host, &guests, &Templates::built_in(), Time::default()).unwrap();

        let config = text(&host, "etc/imgfactory/guests/web.cfg");
        for line in ["name = \"web\"", "type = \"pv\"", "memory = 192", "vcpus = 2"] {
            assert!(config.lines().any(|found| found == line), "{line} in\n{config}");
        }
        assert_eq!(text(&host, "etc/imgfactory/guests/web.cmdline"), "quiet\n");
        let wants = "etc/systemd/system/multi-user.target.wants";
        assert_eq!(
            text(&host, &format!("{wants}/imgfactory-guest@web.service")),
            "-> /usr/lib/systemd/system/imgfactory-guest@.service"
        );
        assert_eq!(host.lookup(format!("{wants}/imgfactory-guest@plan9.service").as_bytes()), None);
        let script = host.lookup(SCRIPT.as_bytes()).unwrap();
        assert_eq!(host.node(script).meta.mode, 0o755);
        assert_eq!(text(&host, "usr/bin/guest"), "-> ../lib/imgfactory/guest");
    }

    #[test]
    fn a_host_without_guests_stays_as_it_was() {
        let mut host = Tree::new(Meta::default());
        install_in_host(&mut host, &[], &Templates::built_in(), Time::default()).unwrap();
        assert_eq!(host.nodes().len(), 1);
    }

    #[test]
    fn a_template_of_the_project_is_taken_and_its_fault_is_told() {
        let mut host = Tree::new(Meta::default());
        let templates = Templates::new(|name| {
            Ok((name == "guest/xl.cfg").then(|| "memory = {{ guest.ram }}\n".to_owned()))
        });
        let error =
            install_in_host(&mut host, &[guest("web", true)], &templates, Time::default()).unwrap_err();
        assert_eq!(error.to_string(), "guest web: its files can't be made from the templates");
    }
}
