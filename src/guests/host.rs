//! The host's files for its guests: units, configurations, and the command `guest`.
//!
//! # Units
//! The units of a guest are instances of template units: `imgfactory-guest@NAME.service`. Each is rendered for each
//! guest, with the guest's own values. As long as the texts are equal, one file serves all guests: that is so for the
//! built-in templates, which use systemd's `%i` and leave values to `NAME.conf`, `NAME.cfg` and drop-ins. A guest whose
//! text differs from the first one's, because a project's template uses `guest`, gets a unit file of its own,
//! `imgfactory-guest@NAME.service`, which systemd prefers to the template unit.

use super::RootFiles;
use super::config::GuestConfig;
use super::kind::data_image_name;
use crate::templates::{TemplateError, Templates, context};
use crate::tree::{Content, FileTime, Tree, TreeError};

/// The script behind the units and the command `guest`.
const SCRIPT: &str = "usr/lib/imgfactory/guest";
/// Moves the host's link below a bridge.
const BRIDGE: &str = "usr/lib/imgfactory/bridge";
/// Shows the guest that the boot menu named, in the host's desktop if it has one.
const WATCH: &str = "etc/xdg/autostart/imgfactory-guest.desktop";
/// Names the guests to people who log in.
const GREETING: &str = "etc/motd.d/imgfactory-guests";
/// Directory of the guests' configurations.
const CONFIGS: &str = "etc/imgfactory/guests";
/// Directory of unit files.
const UNITS: &str = "usr/lib/systemd/system";
/// Directory of what belongs to this host alone: drop-ins, masks, what is enabled.
const LOCAL_UNITS: &str = "etc/systemd/system";
/// Template units of which each guest has an instance.
const GUEST_UNITS: [&str; 3] = ["imgfactory-image", "imgfactory-guest", "imgfactory-recover"];
/// Shows on the host's console what guests print there of which a test waits for lines.
const CONSOLES_UNIT: &str = "imgfactory-consoles.service";
/// Units for all guests together.
const HOST_UNITS: [&str; 2] = ["imgfactory-bridge.service", "imgfactory-chosen.service"];

/// Why guests could not be put into a tree.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A template of a guest's files is missing or wrong.
    #[error("guest {guest}: can't make its files from the templates")]
    Template {
        guest: String,
        /// What is wrong with the template.
        source: TemplateError,
    },
    /// A template of a file for all guests is missing or wrong.
    #[error("can't make the host's files for guests from the templates")]
    HostTemplate {
        /// What is wrong with the template.
        source: TemplateError,
    },
    /// A program is missing in the host.
    #[error("guest {guest}: {what}; add `{package}` to the host's packages, or {instead}")]
    HostLacks {
        guest: String,
        what: &'static str,
        /// Which Debian package has it.
        package: &'static str,
        /// How to do without.
        instead: &'static str,
    },
    /// The tree has something else where a file of ours belongs.
    #[error("can't write the guest support files into the tree")]
    Tree(#[from] TreeError),
}

/// Puts units, configurations and the command `guest` into the host's tree. Does nothing without guests.
///
/// # Errors
/// [`GuestError`].
pub fn install_in_host(
    host: &mut Tree,
    guests: &[GuestConfig],
    templates: &Templates,
    mtime: FileTime,
) -> Result<(), GuestError> {
    if guests.is_empty() {
        return Ok(());
    }
    guests.iter().try_for_each(|guest| check_host(host, guest))?;
    let mut installer = Installer { files: RootFiles { tree: host, mtime }, templates };
    for unit in GUEST_UNITS {
        installer.unit(unit, guests)?;
    }
    installer.shared_files(guests)?;
    guests.iter().try_for_each(|guest| installer.configuration(guest))
}

/// Whether the host has what a guest needs there.
fn check_host(host: &Tree, guest: &GuestConfig) -> Result<(), GuestError> {
    // Through links: /sbin is one.
    let has = |paths: &[&str]| paths.iter().any(|path| host.lookup(path.as_bytes()).is_some());
    match guest.host_needs().find(|need| !has(need.paths)) {
        None => Ok(()),
        Some(need) => Err(GuestError::HostLacks {
            guest: guest.name.clone(),
            what: need.what,
            package: need.package,
            instead: need.instead,
        }),
    }
}

/// Writes the host's files for guests.
struct Installer<'t, 'p> {
    files: RootFiles<'t>,
    templates: &'p Templates<'p>,
}

impl Installer<'_, '_> {
    /// Renders a template with a guest's values.
    fn for_guest(&self, template: &str, guest: &GuestConfig) -> Result<String, GuestError> {
        self.templates
            .render(&format!("guest/{template}"), context! { guest => guest.values() })
            .map_err(|source| GuestError::Template { guest: guest.name.clone(), source })
    }

    /// Renders a template of a file that there is once, whatever the guests are.
    fn for_host(&self, template: &str, guests: &[GuestConfig]) -> Result<Content, GuestError> {
        let guests: Vec<_> = guests.iter().map(GuestConfig::values).collect();
        self.templates
            .render(&format!("guest/{template}"), context! { guests })
            .map(|text| Content::inline(text.into_bytes()))
            .map_err(|source| GuestError::HostTemplate { source })
    }

    /// A template unit, and units of their own for guests that need another text.
    fn unit(&mut self, unit: &str, guests: &[GuestConfig]) -> Result<(), GuestError> {
        let mut shared: Option<String> = None;
        for guest in guests {
            let text = self.for_guest(&format!("{unit}@.service"), guest)?;
            match &shared {
                None => {
                    self.files.put_text(&format!("{UNITS}/{unit}@.service"), text.clone())?;
                    shared = Some(text);
                }
                Some(shared) if *shared == text => {}
                Some(_) => {
                    let data = guest.data.then(|| data_image_name(&guest.name));
                    for instance in std::iter::once(guest.name.clone()).chain(data) {
                        self.files.put_text(&format!("{UNITS}/{unit}@{instance}.service"), text.clone())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Files that there are once.
    fn shared_files(&mut self, guests: &[GuestConfig]) -> Result<(), GuestError> {
        for unit in HOST_UNITS {
            let text = self.for_host(unit, guests)?;
            self.files.put(&format!("{UNITS}/{unit}"), 0o644, text)?;
        }
        if guests.iter().any(|guest| guest.expects) {
            let text = self.for_host(CONSOLES_UNIT, guests)?;
            self.files.put(&format!("{UNITS}/{CONSOLES_UNIT}"), 0o644, text)?;
            let link = format!("{LOCAL_UNITS}/multi-user.target.wants/{CONSOLES_UNIT}");
            self.files.symlink(&link, &format!("/{UNITS}/{CONSOLES_UNIT}"))?;
        }
        let xen = self.for_host("xen.service.conf", guests)?;
        self.files.put(&format!("{UNITS}/xen.service.d/imgfactory.conf"), 0o644, xen)?;
        self.files.symlink(
            &format!("{LOCAL_UNITS}/multi-user.target.wants/imgfactory-chosen.service"),
            &format!("/{UNITS}/imgfactory-chosen.service"),
        )?;
        // Debian's own way to start and stop guests, which would stop ours a second time, one after the other.
        self.files.symlink(&format!("{LOCAL_UNITS}/xendomains.service"), "/dev/null")?;
        self.files.put_text(GREETING, greeting(guests))?;
        for (path, mode, template) in
            [(WATCH, 0o644, "watch.desktop"), (SCRIPT, 0o755, "guest"), (BRIDGE, 0o644, "bridge")]
        {
            let text = self.for_host(template, guests)?;
            self.files.put(path, mode, text)?;
        }
        self.files.symlink("usr/bin/guest", "../lib/imgfactory/guest")?;
        Ok(())
    }

    /// A guest's configuration, drop-ins, and whether it starts with the host.
    fn configuration(&mut self, guest: &GuestConfig) -> Result<(), GuestError> {
        let name = &guest.name;
        for (ending, template) in [("cfg", "xl.cfg"), ("conf", "guest.conf")] {
            let text = self.for_guest(template, guest)?;
            self.files.put_text(&format!("{CONFIGS}/{name}.{ending}"), text)?;
        }
        // A file of its own: any character may be in it, also those that mean something to a shell or to xl.
        self.files.put_text(&format!("{CONFIGS}/{name}.cmdline"), format!("{}\n", guest.cmdline))?;
        let unit = format!("imgfactory-guest@{name}.service");
        if guest.data {
            let disk = format!("imgfactory-image@{}.service", data_image_name(name));
            let text = format!("[Unit]\nBindsTo={disk}\nAfter={disk}\n");
            self.files.put_text(&format!("{LOCAL_UNITS}/{unit}.d/data.conf"), text)?;
        }
        if guest.network {
            let text = "[Unit]\nWants=imgfactory-bridge.service\n";
            self.files.put_text(&format!("{LOCAL_UNITS}/{unit}.d/network.conf"), text)?;
        }
        if guest.at_boot {
            self.files.symlink(
                &format!("{LOCAL_UNITS}/multi-user.target.wants/{unit}"),
                &format!("/{UNITS}/imgfactory-guest@.service"),
            )?;
        }
        Ok(())
    }
}

/// What people read when they log in.
fn greeting(guests: &[GuestConfig]) -> String {
    let names: Vec<&str> = guests.iter().map(|guest| guest.name.as_str()).collect();
    format!("Guests below Xen: {}. Start and stop them with the command `guest`.\n", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guests::kind::Starter;
    use crate::recipe::{Cow, Virt};
    use crate::tree::{Kind, Meta};

    fn guest(name: &str, at_boot: bool) -> GuestConfig {
        GuestConfig {
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
            expects: false,
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
        install_in_host(&mut host, &guests, &Templates::built_in(), FileTime::default()).unwrap();

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
    fn guests_whose_lines_a_test_waits_for_are_heard_on_the_hosts_console() {
        let made = |expects: bool| {
            let mut host = Tree::new(Meta::default());
            let guests = [
                GuestConfig { expects, ..guest("web", true) },
                guest("db", true),
                GuestConfig { expects, ..guest("bsd", true) },
            ];
            install_in_host(&mut host, &guests, &Templates::built_in(), FileTime::default()).unwrap();
            host
        };
        let (unit, wants) = ("usr/lib/systemd/system", "etc/systemd/system/multi-user.target.wants");
        let host = made(true);
        let unit_text = text(&host, &format!("{unit}/imgfactory-consoles.service"));
        for line in [
            "ExecStart=/usr/lib/imgfactory/guest consoles web bsd",
            "StandardOutput=tty",
            "TTYPath=/dev/console",
            "ConditionKernelCommandLine=imgfactory.token",
        ] {
            assert!(unit_text.lines().any(|found| found == line), "{line} in\n{unit_text}");
        }
        assert_eq!(
            text(&host, &format!("{wants}/imgfactory-consoles.service")),
            "-> /usr/lib/systemd/system/imgfactory-consoles.service"
        );
        assert_eq!(made(false).lookup(format!("{unit}/imgfactory-consoles.service").as_bytes()), None);
    }

    #[test]
    fn a_host_without_guests_stays_as_it_was() {
        let mut host = Tree::new(Meta::default());
        install_in_host(&mut host, &[], &Templates::built_in(), FileTime::default()).unwrap();
        assert_eq!(host.nodes().len(), 1);
    }

    #[test]
    fn what_the_host_lacks_for_a_guest_is_said_before_anything_boots() {
        let refused = |change: &dyn Fn(&mut GuestConfig)| {
            let mut host = Tree::new(Meta::default());
            let mut one = guest("bsd", true);
            change(&mut one);
            install_in_host(&mut host, &[one], &Templates::built_in(), FileTime::default())
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
            install_in_host(&mut host, &[guest("web", true)], &templates, FileTime::default()).unwrap_err();
        assert_eq!(error.to_string(), "guest web: can't make its files from the templates");
    }

    #[test]
    fn units_have_the_values_of_their_guest_if_a_template_uses_them() {
        let mut host = Tree::new(Meta::default());
        let templates = Templates::new(|name| {
            Ok((name == "guest/imgfactory-image@.service")
                .then(|| "[Service]\nMemoryMax={{ guest.memory_mib * 2 }}M\n".to_owned()))
        });
        let guests = [
            guest("web", true),
            guest("db", true),
            GuestConfig { memory_mib: 1024, data: true, ..guest("plan9", false) },
        ];
        install_in_host(&mut host, &guests, &templates, FileTime::default()).unwrap();
        let unit = |instance: &str| format!("usr/lib/systemd/system/imgfactory-image@{instance}.service");
        assert_eq!(text(&host, &unit("")), "[Service]\nMemoryMax=384M\n");
        for (instance, own) in [("web", false), ("db", false), ("plan9", true), ("plan9-data", true)] {
            assert_eq!(host.lookup(unit(instance).as_bytes()).is_some(), own, "{instance}");
        }
        assert_eq!(text(&host, &unit("plan9")), "[Service]\nMemoryMax=2048M\n");
        let own = host.lookup(b"usr/lib/systemd/system/imgfactory-guest@plan9.service");
        assert_eq!(own, None, "its text is that of the others");
    }

    #[test]
    fn the_built_in_units_serve_every_guest() {
        let mut host = Tree::new(Meta::default());
        let guests = [guest("web", true), GuestConfig { memory_mib: 1024, ..guest("plan9", false) }];
        install_in_host(&mut host, &guests, &Templates::built_in(), FileTime::default()).unwrap();
        let units = host.lookup(b"usr/lib/systemd/system").and_then(|dir| host.entries(dir)).unwrap();
        let units: Vec<_> = units.keys().map(|name| String::from_utf8_lossy(name)).collect();
        assert_eq!(
            units,
            [
                "imgfactory-bridge.service",
                "imgfactory-chosen.service",
                "imgfactory-guest@.service",
                "imgfactory-image@.service",
                "imgfactory-recover@.service",
                "xen.service.d",
            ]
        );
    }
}
