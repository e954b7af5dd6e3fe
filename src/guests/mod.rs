//! Guests: what the host needs to start them, and what a guest's image carries for its own start.
//!
//! In the host, `imgfactory-image@NAME.service` runs a second client that serves the guest's virtual disk, and
//! `imgfactory-guest@NAME.service` gives it to `xl`. A kernel (and initrd) lies in the guest's own image, below
//! [`BOOT`], so that an update of a guest changes nothing in the host's image; the host reads it through the
//! verified disk before it starts the guest. A disk that is taken as it is boots itself: by the firmware of a
//! whole PC, or by Debian's GRUB for Xen, which reads the disk's own grub.cfg.
//!
//! Where guests come from: [`netbsd`] from a release's sets, [`plan9`] from an ISO whose settings are changed in
//! place, or its files, KNOPPIX from [`cloop`] and [`iso9660`]; [`sums`] and [`lock`] are what files of others are known by,
//! [`elf`] is what a kernel can be started as.

pub mod netbsd;
pub mod plan9;

use minijinja::Value;

use crate::recipe::{self, Cow, GuestKind, GuestNetwork, KnoppixForm, Start, Virt};
use crate::templates::{TemplateError, Templates, context};
use crate::tree::{Content, Kind, Meta, Node, Time, Tree, TreeError};

/// Directory in a guest's image with what it starts from: Linux's `vmlinuz` and `initrd`, or another `kernel`.
pub const BOOT: &str = "boot/imgfactory";
/// The script behind the units and the command `guest`, in the host.
const SCRIPT: &str = "usr/lib/imgfactory/guest";
/// What shows the guest that the boot menu named, in the host's desktop if it has one.
const WATCH: &str = "etc/xdg/autostart/imgfactory-guest.desktop";
/// What moves the host's link below a bridge, in the host.
const BRIDGE: &str = "usr/lib/imgfactory/bridge";
/// What sets up networks in the host; Debian's package iproute2 has it.
const IP: [&str; 3] = ["usr/bin/ip", "bin/ip", "sbin/ip"];
/// Units of the host.
const UNITS: [&str; 5] = [
    "imgfactory-image@.service",
    "imgfactory-guest@.service",
    "imgfactory-recover@.service",
    "imgfactory-bridge.service",
    "imgfactory-chosen.service",
];
/// What gives a guest a disk that it can write, in the host; Debian's package dmsetup has it.
const DMSETUP: [&str; 2] = ["usr/sbin/dmsetup", "sbin/dmsetup"];
/// GRUB for Xen in the host, below Debian's package grub-xen-host: for pv and for pvh.
const GRUB: [(Virt, &str); 2] = [
    (Virt::Pv, "usr/lib/grub-xen/grub-x86_64-xen.bin"),
    (Virt::Pvh, "usr/lib/grub-xen/grub-i386-xen_pvh.bin"),
];

/// What a guest starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starter {
    /// Linux, with an initrd, in the image.
    Linux,
    /// NetBSD's kernel, in the image.
    NetBsd,
    /// The disk's own boot loader, or GRUB for Xen.
    Disk,
    /// Likewise, from a CD.
    Cd,
}

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
    /// The machine that Xen makes.
    pub virt: Virt,
    /// What it starts from.
    pub starter: Starter,
    /// Where what it writes is kept.
    pub cow: Cow,
    /// Whether it reaches the network outside, by a bridge.
    pub network: bool,
    /// Whether there is an image `NAME-data` for a second disk.
    pub data: bool,
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
            virt: guest.virt,
            starter: match &guest.kind {
                GuestKind::Debian(_) => Starter::Linux,
                GuestKind::NetBsd(_) => Starter::NetBsd,
                GuestKind::Plan9(_) => Starter::Cd,
                GuestKind::Knoppix(knoppix) if knoppix.form == KnoppixForm::Tree => Starter::Linux,
                GuestKind::Disk(_) | GuestKind::Knoppix(_) => Starter::Disk,
            },
            cow: guest.cow,
            network: guest.network == GuestNetwork::Bridge,
            data: matches!(&guest.kind, GuestKind::Plan9(plan9) if plan9.data > 0),
        }
    }

    /// What templates may use as `guest`.
    fn values(&self) -> Value {
        let starter = match self.starter {
            Starter::Linux => "linux",
            Starter::NetBsd => "netbsd",
            Starter::Disk => "disk",
            Starter::Cd => "cd",
        };
        context! {
            name => self.name.as_str(),
            memory_mib => self.memory_mib,
            vcpus => self.vcpus,
            virt => self.virt.as_str(),
            cow => self.cow.as_str(),
            starter => starter,
            device => self.device(),
            grub => GRUB.iter().find(|(virt, _)| *virt == self.virt).map_or("", |(_, path)| *path),
            network => if self.network { "yes" } else { "no" },
            data => if self.data { "yes" } else { "no" },
        }
    }

    /// What its disk is for it, as xl writes that.
    fn device(&self) -> &'static str {
        match (self.virt, self.starter) {
            (Virt::Hvm, Starter::Cd) => "hdc:cdrom",
            (Virt::Hvm, _) => "hda",
            _ => "xvda",
        }
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
    /// A program is missing in the host.
    #[error("guest {guest}: {what}; add `{package}` to the host's packages{}", if instead.is_empty() { String::new() } else { format!(", or {instead}") })]
    HostLacks {
        /// The guest's name.
        guest: String,
        /// What it needs.
        what: &'static str,
        /// Which Debian package has it.
        package: &'static str,
        /// How to do without.
        instead: &'static str,
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
    guests.iter().try_for_each(|guest| require(host, guest))?;
    let mut files = Files { tree: host, mtime };
    let render = |name: &str, guest: &Guest| {
        templates
            .render(&format!("guest/{name}"), context! { guest => guest.values() })
            .map(|text| Content::inline(text.into_bytes()))
            .map_err(|source| GuestError::Template { guest: guest.name.clone(), source })
    };
    for unit in UNITS {
        files.put(&format!("usr/lib/systemd/system/{unit}"), 0o644, render(unit, first)?)?;
    }
    files.put(
        "usr/lib/systemd/system/xen.service.d/imgfactory.conf",
        0o644,
        render("xen.service.conf", first)?,
    )?;
    files.symlink(
        "etc/systemd/system/multi-user.target.wants/imgfactory-chosen.service",
        "/usr/lib/systemd/system/imgfactory-chosen.service",
    )?;
    // Debian's own way to start and stop guests, which would stop ours a second time, one after the other.
    files.symlink("etc/systemd/system/xendomains.service", "/dev/null")?;
    files.put("etc/motd.d/imgfactory-guests", 0o644, Content::inline(greeting(guests).into_bytes()))?;
    files.put(WATCH, 0o644, render("watch.desktop", first)?)?;
    files.put(SCRIPT, 0o755, render("guest", first)?)?;
    files.put(BRIDGE, 0o644, render("bridge", first)?)?;
    files.symlink("usr/bin/guest", "../lib/imgfactory/guest")?;
    for guest in guests {
        let config = format!("etc/imgfactory/guests/{}", guest.name);
        files.put(&format!("{config}.cfg"), 0o644, render("xl.cfg", guest)?)?;
        files.put(&format!("{config}.conf"), 0o644, render("guest.conf", guest)?)?;
        // For the script to read as it is: a text of any characters has no place in a script or in xl's syntax.
        let cmdline = Content::inline(format!("{}\n", guest.cmdline).into_bytes());
        files.put(&format!("{config}.cmdline"), 0o644, cmdline)?;
        if guest.data {
            let unit = format!("etc/systemd/system/imgfactory-guest@{}.service.d/data.conf", guest.name);
            let disk = format!("imgfactory-image@{}-data.service", guest.name);
            let text = format!("[Unit]\nBindsTo={disk}\nAfter={disk}\n");
            files.put(&unit, 0o644, Content::inline(text.into_bytes()))?;
        }
        if guest.network {
            let unit = format!("etc/systemd/system/imgfactory-guest@{}.service.d/network.conf", guest.name);
            let text = b"[Unit]\nWants=imgfactory-bridge.service\n";
            files.put(&unit, 0o644, Content::inline(text.to_vec()))?;
        }
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

/// Whether the host has what a guest needs there.
fn require(host: &Tree, guest: &Guest) -> Result<(), GuestError> {
    // Through links: /sbin is one.
    let has = |paths: &[&str]| paths.iter().any(|path| host.lookup(path.as_bytes()).is_some());
    let lacks = |what, package, instead| {
        Err(GuestError::HostLacks { guest: guest.name.clone(), what, package, instead })
    };
    if guest.cow != Cow::None && !has(&DMSETUP) {
        return lacks("changes to its disk are kept with dmsetup", "dmsetup", "write `cow: none`");
    }
    if guest.network && !has(&IP) {
        return lacks("its network is set up with ip", "iproute2", "write `network: none`");
    }
    let own_loader = matches!(guest.starter, Starter::Disk | Starter::Cd);
    let grub = GRUB.iter().find(|(virt, _)| *virt == guest.virt);
    if let Some((_, path)) = grub.filter(|(_, path)| own_loader && !has(&[path])) {
        let _ = path;
        return lacks("GRUB for Xen starts what is on its disk", "grub-xen-host", "write `xen: hvm`");
    }
    Ok(())
}

/// What people see when they log in.
fn greeting(guests: &[Guest]) -> String {
    let names: Vec<&str> = guests.iter().map(|guest| guest.name.as_str()).collect();
    format!("Guests below Xen: {}. Start and stop them with the command `guest`.\n", names.join(", "))
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
        Guest {
            name: name.into(),
            memory_mib: 192,
            vcpus: 2,
            cmdline: "quiet".into(),
            at_boot,
            virt: Virt::Pv,
            starter: Starter::Linux,
            cow: Cow::None,
            network: false,
            data: false,
        }
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
        let conf = text(&host, "etc/imgfactory/guests/web.conf");
        for line in ["STARTER=linux", "VIRT=pv", "COW=none", "DEVICE=xvda", "DATA=no"] {
            assert!(conf.lines().any(|found| found == line), "{line} in\n{conf}");
        }
        assert_eq!(text(&host, "etc/systemd/system/xendomains.service"), "-> /dev/null");
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
    fn what_the_host_lacks_for_a_guest_is_said_before_anything_boots() {
        let refused = |change: &dyn Fn(&mut Guest)| {
            let mut host = Tree::new(Meta::default());
            let mut one = guest("bsd", true);
            change(&mut one);
            install_in_host(&mut host, &[one], &Templates::built_in(), Time::default())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused(&|guest| guest.cow = Cow::Tmpfs),
            "guest bsd: changes to its disk are kept with dmsetup; add `dmsetup` to the host's packages, or write \
             `cow: none`"
        );
        assert_eq!(
            refused(&|guest| guest.starter = Starter::Disk),
            "guest bsd: GRUB for Xen starts what is on its disk; add `grub-xen-host` to the host's packages, or \
             write `xen: hvm`"
        );
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
