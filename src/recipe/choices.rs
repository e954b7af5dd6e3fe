//! The words of a recipe of which there are a few: what is written is one of them.

use crate::yaml::shape::choice;

choice! {
    /// What `publish` does with the other targets when one fails.
    pub enum OnFailure as "what to do after a failure" {
        /// Publish to them.
        Continue = "continue",
        /// Do not start those that have not started.
        Stop = "stop",
    }

    /// The packages that a Debian tree always has: mmdebstrap's variants.
    pub enum Variant as "a variant" {
        /// Only the recipe's packages, unpacked but not configured.
        Extract = "extract",
        /// Only the recipe's packages.
        Custom = "custom",
        /// Essential packages.
        Essential = "essential",
        /// Essential packages and apt.
        Apt = "apt",
        /// The same, and packages of priority required.
        Required = "required",
        /// The same; mmdebstrap's other name for it.
        Minbase = "minbase",
        /// The same, and build-essential.
        Buildd = "buildd",
        /// Priority important and above.
        Important = "important",
        /// The same; mmdebstrap's other name for it.
        Debootstrap = "debootstrap",
        /// Priority standard and above.
        Standard = "standard",
    }

    /// A processor family.
    pub enum Architecture as "an architecture that can be built" {
        /// 64-bit PC.
        Amd64 = "amd64",
    }

    /// The archive whose mirror is used when the recipe gives no URL.
    pub enum Archive as "an archive" {
        /// The archive with the releases themselves.
        Debian = "debian",
        /// The archive with security updates.
        Security = "security",
    }

    /// An entry of the boot menu.
    pub enum MenuEntry as "a menu entry" {
        /// The host below Xen, which the guests need.
        Xen = "xen",
        /// The host's kernel without Xen.
        Linux = "linux",
        /// A shell in the miniroot.
        Rescue = "rescue",
    }

    /// When a guest is started.
    pub enum Start as "a start" {
        /// With the host.
        Boot = "boot",
        /// By hand.
        Demand = "demand",
    }

    /// How a guest reaches the network.
    pub enum GuestNetwork as "a network of a guest" {
        /// Through a bridge on the host's network interface; it gets its own address from the DHCP server there.
        Bridge = "bridge",
        /// No network.
        None = "none",
    }

    /// The kind of virtual machine that Xen creates for a guest.
    pub enum Virt as "a kind of machine" {
        /// Paravirtual: a kernel made for Xen, on any machine.
        Pv = "pv",
        /// Paravirtual devices on a processor with virtualisation.
        Pvh = "pvh",
        /// A whole PC, on a processor with virtualisation.
        Hvm = "hvm",
    }

    /// Where a guest's changes to its disk are kept.
    pub enum Cow as "a place for changes" {
        /// Nowhere: the disk is read-only.
        None = "none",
        /// In the host's memory, until the guest stops.
        Tmpfs = "tmpfs",
        /// Where the host keeps its own changes: on a disk if `cow=` is given at boot.
        Disk = "disk",
    }

    /// NetBSD's name of a processor family.
    pub enum BsdArchitecture as "an architecture that can be a guest" {
        /// 64-bit PC.
        Amd64 = "amd64",
        /// 32-bit PC.
        I386 = "i386",
    }

    /// Which device nodes a NetBSD system has.
    pub enum Devices as "a choice of device nodes" {
        /// Those that init and a first login need.
        Minimal = "minimal",
        /// All that the release's MAKEDEV creates.
        All = "all",
        /// None; init creates them in memory.
        None = "none",
    }

    /// A version of Plan 9.
    pub enum Flavour as "a Plan 9" {
        /// Bell Labs' fourth edition with patches.
        Legacy = "9legacy",
        /// The fork 9front.
        Front = "9front",
    }

    /// Where a system has its console.
    pub enum ConsoleDevice as "a console" {
        /// On the first serial line.
        Serial = "serial",
        /// On a screen.
        Vga = "vga",
    }

    /// The format of a disk image.
    pub enum DiskFormat as "a disk format" {
        /// Raw: the sectors of the disk, one after another.
        Raw = "raw",
        /// QEMU's qcow2.
        Qcow2 = "qcow2",
        /// VMware's vmdk.
        Vmdk = "vmdk",
    }

    /// How KNOPPIX becomes an image.
    pub enum KnoppixForm as "a form" {
        /// Its file system, no longer compressed, as it is.
        Device = "device",
        /// Its files, in a new ext2.
        Tree = "tree",
    }
}

#[cfg(test)]
mod tests {
    use super::super::values::tests::said;
    use super::*;
    use crate::yaml::Scalar;

    #[test]
    fn a_choice_lists_its_words() {
        for &word in Variant::WORDS {
            assert_eq!(Variant::read(word).unwrap().as_str(), word);
        }
        assert_eq!(
            said::<MenuEntry>("linx"),
            "`linx` is not a menu entry; did you mean `linux`? allowed: `xen`, `linux`, `rescue`"
        );
        assert_eq!(
            said::<Architecture>("arm64"),
            "`arm64` is not an architecture that can be built; allowed: `amd64`"
        );
    }
}
