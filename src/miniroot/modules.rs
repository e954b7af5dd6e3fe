//! Which kernel modules a miniroot has: groups and names -> all that they need -> files and modprobe's tables.

use std::collections::{BTreeMap, BTreeSet};

use super::kernel::{Kernel, KernelError, module_name, unpacked};
use crate::tree::Contents;

/// Modules under one name. A kernel need not have all of them.
#[derive(Debug)]
pub struct Group {
    /// The name, which no module has.
    pub name: &'static str,
    pub what: &'static str,
    /// The modules, which the kernel or the tree may lack.
    pub modules: &'static [&'static str],
}

/// What a recipe names instead of single modules. `root` is in every miniroot.
pub const GROUPS: &[Group] = &[
    Group {
        name: "root",
        what: "a root file system on a loop device, with a writable layer",
        modules: &["loop", "ext4", "overlay", "fuse", "af_packet"],
    },
    Group {
        name: "net",
        what: "common wired network cards and virtual ones",
        modules: &[
            "virtio_pci",
            "virtio_net",
            "xen_netfront",
            "vmxnet3",
            "hv_netvsc",
            "hv_vmbus",
            "e1000",
            "e1000e",
            "igb",
            "igc",
            "r8169",
            "realtek",
            "8139cp",
            "8139too",
            "tg3",
            "broadcom",
            "sky2",
            "atl1c",
            "alx",
            "forcedeth",
        ],
    },
    Group {
        name: "net-usb",
        what: "USB network adapters, with the host controllers they need",
        modules: &[
            "xhci_pci",
            "ehci_pci",
            "r8152",
            "r8153_ecm",
            "ax88179_178a",
            "asix",
            "smsc95xx",
            "cdc_ether",
            "cdc_ncm",
        ],
    },
    Group {
        name: "net-server",
        what: "network cards of servers and clouds",
        modules: &["ixgbe", "i40e", "ice", "bnxt_en", "mlx5_core", "mlx4_en", "ena", "atlantic"],
    },
    Group {
        name: "disk",
        what: "disks, discs and USB sticks, for cache=, cow= and blocks=",
        modules: &[
            "virtio_blk",
            "virtio_scsi",
            "xen_blkfront",
            "ahci",
            "ata_piix",
            "nvme",
            "sd_mod",
            "sr_mod",
            "isofs",
            "usb_storage",
            "uas",
            "xhci_pci",
            "ehci_pci",
        ],
    },
    Group { name: "guest", what: "disks of virtual machines", modules: &["virtio_pci", "virtio_blk"] },
    Group {
        name: "keyboard",
        what: "USB keyboards, for the rescue shell; others are built into Debian's kernels",
        modules: &["xhci_pci", "ehci_pci", "uhci_hcd", "ohci_pci", "usbhid", "hid_generic"],
    },
];

/// Near names that an unknown module's error lists.
const SUGGESTIONS: usize = 3;

/// Modules of one kernel that belong together: with each, all that it needs.
#[derive(Debug)]
pub struct Selection<'k> {
    kernel: &'k Kernel<'k>,
    names: BTreeSet<String>,
}

impl<'k> Selection<'k> {
    /// The modules that `wanted` names, by group or by module with `-` or `_`, those of group `root`, all that
    /// they need, and what they ask modprobe for (soft dependencies) where the kernel has it.
    ///
    /// # Errors
    /// [`KernelError::Unknown`] with every name that is neither a group, a module nor built in.
    pub fn new<'w>(
        kernel: &'k Kernel<'k>,
        wanted: impl IntoIterator<Item = &'w str>,
    ) -> Result<Self, KernelError> {
        let mut selection = Selection { kernel, names: BTreeSet::new() };
        let mut unknown = Vec::new();
        for name in std::iter::once("root").chain(wanted) {
            if let Some(group) = GROUPS.iter().find(|group| group.name == name) {
                group.modules.iter().for_each(|module| selection.add(module));
            } else if selection.known(name) {
                selection.add(&module_name(name));
            } else {
                unknown.push(near(name, kernel));
            }
        }
        if unknown.is_empty() {
            Ok(selection)
        } else {
            Err(KernelError::Unknown { release: kernel.release.clone(), unknown })
        }
    }

    /// The kernel they are of.
    pub fn kernel(&self) -> &Kernel<'k> {
        self.kernel
    }

    /// The modules' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Path below `/lib/modules/RELEASE` and bytes of each module, unpacked: the miniroot is compressed as a
    /// whole, and better so.
    ///
    /// # Errors
    /// Those of reading and unpacking.
    pub fn files(&self, contents: &dyn Contents) -> Result<Vec<(String, Vec<u8>)>, KernelError> {
        self.names.iter().map(|name| self.kernel.module(&self.kernel.modules[name], contents)).collect()
    }

    /// modules.dep of these modules, with the names that [`Selection::files`] gives.
    pub fn dep(&self) -> String {
        let plain = |name: &String| unpacked(&self.kernel.modules[name].path).0;
        let mut text = String::new();
        for name in &self.names {
            text.push_str(plain(name));
            text.push(':');
            let needs = self.kernel.modules[name].needs.iter();
            for needed in needs.filter(|needed| self.names.contains(*needed)) {
                text.push(' ');
                text.push_str(plain(needed));
            }
            text.push('\n');
        }
        text
    }

    /// modules.alias of these modules.
    pub fn alias(&self) -> String {
        let mine = self.kernel.aliases.iter().filter(|(_, module)| self.names.contains(module));
        mine.map(|(pattern, module)| format!("alias {pattern} {module}\n")).collect()
    }

    /// modules.builtin, so that asking for what the kernel has built in is no fault.
    pub fn builtin(&self) -> String {
        self.kernel.builtin.iter().map(|name| format!("kernel/{name}.ko\n")).collect()
    }

    fn known(&self, name: &str) -> bool {
        let name = module_name(name);
        self.kernel.modules.contains_key(&name) || self.kernel.builtin.contains(&name)
    }

    /// Adds a module and what it needs; what the kernel lacks or has built in is passed over.
    fn add(&mut self, name: &str) {
        let Some((name, module)) = self.kernel.modules.get_key_value(name) else { return };
        if !self.names.insert(name.clone()) {
            return;
        }
        for needed in &module.needs {
            self.add(needed);
        }
        for wanted in self.kernel.soft.get(name).into_iter().flatten() {
            self.add(&module_name(wanted));
            // `crypto-crc32c` is no module but an alias of several.
            let kernel = self.kernel;
            for (_, module) in kernel.aliases.iter().filter(|(pattern, _)| pattern == wanted) {
                self.add(module);
            }
        }
    }
}

/// `name` with the names of the kernel's modules, and of groups, that are nearest to it.
fn near(name: &str, kernel: &Kernel) -> String {
    let asked = module_name(name);
    let mut by_distance: BTreeMap<(usize, &str), ()> = BTreeMap::new();
    let modules = kernel.modules.keys().chain(&kernel.builtin).map(String::as_str);
    for known in modules.chain(GROUPS.iter().map(|group| group.name)) {
        let distance = strsim::damerau_levenshtein(&asked, known);
        if distance <= 1 + asked.len() / 4 {
            by_distance.insert((distance, known), ());
        }
    }
    let near: Vec<String> =
        by_distance.keys().take(SUGGESTIONS).map(|(_, known)| format!("`{known}`")).collect();
    if near.is_empty() {
        let groups: Vec<_> = GROUPS.iter().map(|group| group.name).collect();
        format!("`{name}` (groups of modules: {})", groups.join(", "))
    } else {
        format!("`{name}` (near: {})", near.join(", "))
    }
}
