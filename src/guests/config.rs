//! A guest as the host is configured with it, and what the host needs to start it.

use minijinja::Value;

use super::builder;
use super::kind::Starter;
use crate::recipe::{Cow, Guest, GuestNetwork, Start, Virt};
use crate::templates::context;

/// GRUB for Xen in the host, of Debian's package grub-xen-host: for pv and for pvh.
const GRUB: [(Virt, &str); 2] = [
    (Virt::Pv, "usr/lib/grub-xen/grub-x86_64-xen.bin"),
    (Virt::Pvh, "usr/lib/grub-xen/grub-i386-xen_pvh.bin"),
];

/// A guest as the host is configured with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestConfig {
    /// Name of its image, its domain and its units.
    pub name: String,
    pub memory_mib: u64,
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
    /// Whether a test waits for lines of its console.
    pub expects: bool,
}

/// Something that the host must have to start a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostNeed {
    pub what: &'static str,
    /// Its paths, of which one must exist.
    pub paths: &'static [&'static str],
    /// The Debian package that has it.
    pub package: &'static str,
    /// What to write in the recipe to do without it.
    pub instead: &'static str,
}

const DMSETUP: HostNeed = HostNeed {
    what: "changes to its disk are kept with dmsetup",
    paths: &["usr/sbin/dmsetup", "sbin/dmsetup"],
    package: "dmsetup",
    instead: "write `cow: none`",
};
const IP: HostNeed = HostNeed {
    what: "its network is set up with ip",
    paths: &["usr/bin/ip", "bin/ip", "sbin/ip"],
    package: "iproute2",
    instead: "write `network: none`",
};
const GRUB_PV: HostNeed = HostNeed {
    what: "GRUB for Xen starts what is on its disk",
    paths: &[GRUB[0].1],
    package: "grub-xen-host",
    instead: "write `xen: hvm`",
};
const GRUB_PVH: HostNeed = HostNeed { paths: &[GRUB[1].1], ..GRUB_PV };

impl GuestConfig {
    /// Of a recipe's guest.
    pub fn of(guest: &Guest) -> Self {
        let kind = builder(&guest.kind);
        GuestConfig {
            name: guest.name.to_string(),
            memory_mib: guest.memory >> 20,
            vcpus: guest.vcpus,
            cmdline: guest.cmdline.to_string(),
            at_boot: guest.start == Start::Boot,
            virt: guest.virt,
            starter: kind.starter(),
            cow: guest.cow,
            network: guest.network == GuestNetwork::Bridge,
            data: kind.data_disk().is_some(),
            expects: !guest.expect.is_empty(),
        }
    }

    /// What the host must have to start it.
    pub fn host_needs(&self) -> impl Iterator<Item = HostNeed> {
        let grub = match self.virt {
            Virt::Pv => Some(GRUB_PV),
            Virt::Pvh => Some(GRUB_PVH),
            Virt::Hvm => None,
        };
        let needs = [
            (self.cow != Cow::None).then_some(DMSETUP),
            self.network.then_some(IP),
            grub.filter(|_| self.starter.reads_the_disk()),
        ];
        needs.into_iter().flatten()
    }

    /// The Debian packages that the host must have to start it below Xen, beside Xen.
    pub fn host_packages(&self) -> impl Iterator<Item = &'static str> {
        // It makes the devices of whole machines.
        let model = (self.virt == Virt::Hvm).then_some("qemu-system-xen");
        self.host_needs().map(|need| need.package).chain(model)
    }

    /// What templates may use as `guest`.
    pub(super) fn values(&self) -> Value {
        context! {
            name => self.name.as_str(),
            memory_mib => self.memory_mib,
            vcpus => self.vcpus,
            virt => self.virt.as_str(),
            cow => self.cow.as_str(),
            starter => self.starter.as_str(),
            device => self.device(),
            grub => GRUB.iter().find(|(virt, _)| *virt == self.virt).map_or("", |(_, path)| *path),
            network => if self.network { "yes" } else { "no" },
            data => if self.data { "yes" } else { "no" },
            expects => self.expects,
        }
    }

    /// The guest's name for its disk, as xl takes it.
    fn device(&self) -> &'static str {
        match (self.virt, self.starter) {
            (Virt::Hvm, Starter::Cd) => "hdc:cdrom",
            (Virt::Hvm, _) => "hda",
            _ => "xvda",
        }
    }
}
