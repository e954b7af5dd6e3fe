//! Packages that Xen and guests need in a host of Debian packages, and that its recipe does not list.

use super::config::GuestConfig;
use crate::recipe::{AddedPackage, HostSystem, Package, Recipe};
use crate::yaml::Scalar;

/// Debian's package of Xen with its tools, in the version that the suite has.
const XEN: &str = "xen-system-amd64";

/// Adds to the host's packages those that are needed. One that the recipe lists stays as it is written there.
pub fn add_host_packages(recipe: &mut Recipe) {
    let guests: Vec<GuestConfig> = recipe.guests.iter().map(GuestConfig::of).collect();
    let HostSystem::Debian(debian) = &mut recipe.host.system else { return };
    let mut needs: Vec<(&str, String)> = Vec::new();
    if recipe.boot.xen.is_some() && !has_xen(debian.package_names(), !guests.is_empty()) {
        needs.push((XEN, "Xen".to_owned()));
    }
    for guest in &guests {
        needs.extend(guest.host_packages().map(|package| (package, format!("guest `{}`", guest.name))));
    }
    for (package, needed_by) in needs {
        if debian.package_names().any(|listed| base_name(listed) == package) {
            continue;
        }
        // The names are constants of this program.
        if let Ok(name) = Package::read(package) {
            debian.packages.push(name.clone());
            recipe.host.added_packages.push(AddedPackage { name, needed_by });
        }
    }
}

/// Whether a list has Xen, of whatever version, and with `guests` the tools that start them.
fn has_xen<'p>(packages: impl Iterator<Item = &'p str>, guests: bool) -> bool {
    let (mut hypervisor, mut tools) = (false, false);
    for name in packages.map(base_name) {
        let has_version =
            |rest: Option<&str>| rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        hypervisor |= has_version(name.strip_prefix("xen-hypervisor-")) || name.starts_with("xen-system-");
        tools |= has_version(name.strip_prefix("xen-utils-")) || name.starts_with("xen-system-");
    }
    hypervisor && (tools || !guests)
}

/// A package without its architecture, version or suite.
fn base_name(package: &str) -> &str {
    package.split([':', '=', '/']).next().unwrap_or(package)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{ProjectFile, ProjectFiles, ProjectPath};

    struct Nothing;

    impl ProjectFiles for Nothing {
        fn overlays(&self) -> Vec<String> {
            Vec::new()
        }

        fn file(&self, _: &ProjectPath) -> ProjectFile {
            ProjectFile::Missing
        }
    }

    /// What is added to the host's `packages` for Xen and guests.
    fn added(packages: &str, boot: &str, guests: &[&str]) -> Vec<String> {
        let mut text = format!("name: x\nhost: {{debian: {{packages: [{packages}]}}}}\nboot: {{{boot}}}\n");
        if !guests.is_empty() {
            text.push_str("machine: {memory: 4GiB}\nguests:\n");
            guests.iter().for_each(|guest| text.push_str(&format!("- {guest}\n")));
        }
        let mut recipe = Recipe::parse("x.yaml", &text, &Nothing).unwrap_or_else(|found| panic!("{found}"));
        let listed = match &recipe.host.system {
            HostSystem::Debian(debian) => debian.packages.clone(),
            HostSystem::Knoppix(..) => unreachable!("the host is of packages"),
        };
        add_host_packages(&mut recipe);
        let HostSystem::Debian(debian) = &recipe.host.system else { unreachable!("it stays so") };
        assert_eq!(debian.packages[..listed.len()], listed, "the recipe's own come first");
        let added = &recipe.host.added_packages;
        assert!(debian.packages[listed.len()..].iter().eq(added.iter().map(|added| &added.name)));
        added.iter().map(|added| format!("{} for {}", added.name, added.needed_by)).collect()
    }

    #[test]
    fn xen_and_each_guest_bring_what_they_need_and_the_recipe_does_not_list() {
        let quiet = "{name: a, debian: {}, network: none}";
        let plan9 = "{name: nine, plan9: {flavour: 9front, urls: ['http://a.example/x.iso']}, network: none}";
        let disk = "{name: d, disk: {urls: ['http://a.example/d.img']}, xen: pv, cow: none}";
        let bsd = "{name: bsd, netbsd: {version: '10.1'}}";
        let (xen, none) = ("xen: true", [""; 0]);
        for (packages, boot, guests, wanted) in [
            ("systemd-sysv", "", &[][..], &none[..]),
            ("", xen, &[], &["xen-system-amd64 for Xen"]),
            ("xen-hypervisor-4.20-amd64", xen, &[], &none),
            ("xen-hypervisor-4.20-amd64", xen, &[quiet], &["xen-system-amd64 for Xen"]),
            ("xen-hypervisor-common, xen-utils-common", xen, &[], &["xen-system-amd64 for Xen"]),
            ("xen-hypervisor-4.17-amd64, xen-utils-4.17", xen, &[quiet], &none),
            ("'xen-system-amd64:amd64', 'dmsetup=2:1.02.205-1', qemu-system-xen/sid", xen, &[plan9], &none),
            (
                "xen-system-amd64",
                xen,
                &[plan9],
                &["dmsetup for guest `nine`", "qemu-system-xen for guest `nine`"],
            ),
            ("xen-system-amd64", xen, &[disk], &["iproute2 for guest `d`", "grub-xen-host for guest `d`"]),
            (
                "",
                xen,
                &[bsd, plan9],
                &[
                    "xen-system-amd64 for Xen",
                    "dmsetup for guest `bsd`",
                    "iproute2 for guest `bsd`",
                    "qemu-system-xen for guest `nine`",
                ],
            ),
        ] {
            assert_eq!(added(packages, boot, guests), wanted, "{packages} {guests:?}");
        }
    }
}
