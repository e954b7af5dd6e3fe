//! The words of a recipe of which there are a few: what is written is one of them.

use crate::yaml::shape::{Scalar, Wrong, choice};

choice! {
    /// What becomes of the other targets when one fails.
    pub enum OnFailure as "what to do after a failure" {
        /// They go on.
        Continue = "continue",
        /// Those that have not begun don't begin.
        Stop = "stop",
    }

    /// What goes into a Debian tree to begin with: mmdebstrap's variants.
    pub enum Variant as "a variant" {
        /// Only what the recipe lists, unpacked and not set up.
        Extract = "extract",
        /// Only what the recipe lists.
        Custom = "custom",
        /// Essential packages.
        Essential = "essential",
        /// Essential packages and apt.
        Apt = "apt",
        /// The same and priority required.
        Required = "required",
        /// The same; mmdebstrap's other name for it.
        Minbase = "minbase",
        /// The same and build-essential.
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

    /// Whose mirror an archive's suites come from, when the recipe names no URL.
    pub enum Archive as "an archive" {
        /// The archive with the releases themselves.
        Debian = "debian",
        /// The archive with security updates.
        Security = "security",
    }

    /// An entry of the boot menu.
    pub enum Entry as "a menu entry" {
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
        /// By a bridge to the link of the host: it has an address of its own from the DHCP server outside.
        Bridge = "bridge",
        /// It has none.
        None = "none",
    }

    /// The machine that Xen makes for a guest.
    pub enum Virt as "a kind of machine" {
        /// Paravirtual: a kernel made for Xen, on any machine.
        Pv = "pv",
        /// Paravirtual devices on a processor with virtualisation.
        Pvh = "pvh",
        /// A whole PC, on a processor with virtualisation.
        Hvm = "hvm",
    }

    /// Where what a guest writes to its disk is kept.
    pub enum Cow as "a place for changes" {
        /// Nowhere: the disk can't be written.
        None = "none",
        /// In the host's memory, until the guest stops.
        Tmpfs = "tmpfs",
        /// Where the host keeps its own changes: on a disk, if `cow=` at boot says so.
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
        /// What init and a first login need.
        Minimal = "minimal",
        /// All that the release's MAKEDEV makes.
        All = "all",
        /// None; init makes them in memory.
        None = "none",
    }

    /// A Plan 9.
    pub enum Flavour as "a Plan 9" {
        /// Bell Labs' fourth edition with patches.
        Legacy = "9legacy",
        /// The fork.
        Front = "9front",
    }

    /// Where a system talks.
    pub enum Console as "a console" {
        /// On the first serial line.
        Serial = "serial",
        /// On a screen.
        Vga = "vga",
    }

    /// What a file with a disk is.
    pub enum DiskFormat as "a disk format" {
        /// Sector after sector.
        Raw = "raw",
        /// QEMU's.
        Qcow2 = "qcow2",
        /// VMware's.
        Vmdk = "vmdk",
    }

    /// How KNOPPIX becomes an image.
    pub enum KnoppixForm as "a form" {
        /// Its file system, no longer compressed, as it is.
        Device = "device",
        /// Its files, in a new ext2.
        Tree = "tree",
    }

    /// What compresses the blocks. Both write zlib streams.
    pub enum Codec as "a codec" {
        /// Fast; levels 1 to 12.
        Libdeflate = "libdeflate",
        /// The original: its level 6 gives the sizes of the paper's table 2; levels 1 to 9.
        Zlib = "zlib",
    }
}

impl Codec {
    /// The level that a recipe has if it says none. docs/layout.md says what others cost.
    pub fn usual_level(self) -> u8 {
        match self {
            Codec::Libdeflate => 5,
            Codec::Zlib => 6,
        }
    }

    /// The highest level; the lowest is 1.
    pub fn highest_level(self) -> u8 {
        match self {
            Codec::Libdeflate => 12,
            Codec::Zlib => 9,
        }
    }
}

/// Bytes of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InodeSize {
    /// For systems that read nothing else; times end in 2038.
    B128,
    /// As `mke2fs` makes them.
    B256,
}

impl InodeSize {
    /// 128 or 256.
    pub fn bytes(self) -> u16 {
        match self {
            InodeSize::B128 => 128,
            InodeSize::B256 => 256,
        }
    }
}

impl Scalar for InodeSize {
    const KIND: &str = "an inode size";

    fn read(text: &str) -> Result<Self, Wrong> {
        match text {
            "128" => Ok(InodeSize::B128),
            "256" => Ok(InodeSize::B256),
            _ => Err(Wrong::new(format!("`{text}` is not an inode size"), "allowed: `128`, `256`")),
        }
    }
}

impl schemars::JsonSchema for InodeSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "InodeSize".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": [128, 256] })
    }
}

#[cfg(test)]
mod tests {
    use super::super::values::tests::said;
    use super::*;

    #[test]
    fn a_choice_lists_its_words() {
        for &word in Variant::WORDS {
            assert_eq!(Variant::read(word).unwrap().as_str(), word);
        }
        assert_eq!(
            said::<Entry>("linx"),
            "`linx` is not a menu entry; did you mean `linux`? allowed: `xen`, `linux`, `rescue`"
        );
        assert_eq!(
            said::<Architecture>("arm64"),
            "`arm64` is not an architecture that can be built; allowed: `amd64`"
        );
    }
}
