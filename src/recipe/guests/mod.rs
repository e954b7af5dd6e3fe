//! Guests: what a recipe says of one, whatever its kind; and the table of kinds.
//!
//! A kind is a file here: its section as it is written ([`KindSection`]), its settings as they are meant, and the rules
//! by which the rest of the guest follows from them ([`KindRules`]). A new kind adds that file, its key in
//! [`RawGuest`], and a line to `kinds!`. How its image is made is in [`crate::guests`].

mod debian;
pub mod disk;
pub mod knoppix;
pub mod netbsd;
pub mod plan9;

use super::check::Checker;
use super::choices::{Cow, GuestNetwork, Start, Virt};
use super::raw::{List, RawDebian, RawFileSystem};
use super::types::{Debian, FileSystemOptions};
use super::values::{FileUrl, HostName, Line, OverlayName, Size};
use crate::ext2::InodeSize;
use crate::yaml::findings::Located;
use crate::yaml::shape::section;
use disk::{DiskGuest, RawDisk};
use knoppix::{Knoppix, RawKnoppix};
use netbsd::{NetBsd, RawNetBsd};
use plan9::{Plan9, RawPlan9};

use formats::digest::Sha256;
use formats::names::ImageName;

section! {
    /// A guest: a system in a virtual machine of Xen.
    pub struct RawGuest as "Guest" one of "guest" { debian, netbsd, plan9, disk, knoppix } {
        /// Name of the guest and of its image.
        name (required): ImageName,
        /// A Debian system.
        debian: RawDebian,
        /// A NetBSD system, made from the sets of a release.
        netbsd: RawNetBsd,
        /// Plan 9, from its bootable ISO.
        plan9: RawPlan9,
        /// A disk image, used unchanged.
        disk: RawDisk,
        /// A KNOPPIX medium or its compressed file system.
        knoppix: RawKnoppix,
        /// Directories below overlays/ that are merged into the system, in order. Default: none.
        overlays: List<OverlayName>,
        /// Its host name. Default: the guest's name.
        hostname: HostName,
        /// Properties of its file system.
        image: RawFileSystem,
        /// The kind of virtual machine. Default: pv; hvm for plan9, disk, and knoppix as a device.
        xen: Virt,
        /// Where its changes to its disk are kept. Default: none for debian, tmpfs for others.
        cow: Cow,
        /// Its network. Default: bridge.
        network: GuestNetwork,
        /// Its memory. Default: 256MiB.
        memory: Size,
        /// Its processors. Default: 1.
        vcpus: u32,
        /// Appended to its kernel's command line. Default: nothing.
        cmdline: Line,
        /// When it starts. Default: boot.
        start: Start,
        /// Texts that `test` waits for in addition to those of `expect`, if Xen is booted. Default: none.
        expect: List<Line>,
    }
}

/// A system below Xen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its name, and its image's.
    pub name: ImageName,
    /// What it is made of.
    pub kind: GuestKind,
    /// Overlays, in the order in which they are applied; none for a disk that is taken as it is.
    pub overlays: Vec<OverlayName>,
    /// Its host name.
    pub hostname: HostName,
    /// Its file system, if we make one.
    pub image: FileSystemOptions,
    /// The machine that Xen makes for it; the kind can be started in it.
    pub virt: Virt,
    /// Where what it writes is kept.
    pub cow: Cow,
    /// How it reaches the network.
    pub network: GuestNetwork,
    /// Its memory in bytes, whole MiB.
    pub memory: u64,
    /// Its processors, 1 to 128.
    pub vcpus: u32,
    /// What is appended to its kernel's command line; may be empty.
    pub cmdline: Line,
    /// When it starts.
    pub start: Start,
    /// Templates of what must appear on the console when the machine boots with Xen; they may use `token`.
    pub expect: Vec<Line>,
}

/// A file that is fetched from elsewhere: its URLs and its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThirdPartySource {
    /// Its URLs, in the order in which they are tried; at least one.
    pub urls: Vec<FileUrl>,
    /// Its SHA-256; `None` if the recipe's lock has it.
    pub sha256: Option<Sha256>,
}

impl ThirdPartySource {
    /// The file's name, from the first URL.
    pub fn file_name(&self) -> &str {
        self.urls.first().map_or("", FileUrl::file_name)
    }
}

/// A kind of guest as the recipe has it: a section with the kind's key.
pub(super) trait KindSection: Sized {
    /// What a checked section becomes.
    type Settings;

    /// Xen's machines that can't start this kind: which one, why, what to write instead.
    const UNSUITABLE: &'static [(Virt, &'static str, &'static str)] = &[];

    /// Checks the section. `virt` is the guest's key `xen`, if it is given. `None` after at least one finding.
    fn check(
        section: Located<Self>,
        virt: Option<&Located<Virt>>,
        checker: &mut Checker<'_>,
    ) -> Option<Self::Settings>;
}

/// What follows for the rest of a guest from the settings of its kind.
pub trait KindRules {
    /// Whether it becomes a tree, of which we make the file system; otherwise its disk is taken as it is.
    fn is_tree(&self) -> bool;

    /// Whether overlays can be applied.
    fn takes_overlays(&self) -> bool {
        self.is_tree()
    }

    /// The machine that it gets unless the recipe names one.
    fn default_virt(&self) -> Virt;

    /// Where what it writes is kept unless the recipe says so.
    fn default_cow(&self) -> Cow {
        Cow::Tmpfs
    }

    /// Bytes of an inode unless the recipe says so.
    fn default_inode_size(&self) -> InodeSize {
        InodeSize::Large
    }

    /// The longest command line that the recipe may give it, in bytes, and what cuts off the rest.
    fn longest_cmdline(&self) -> Option<(usize, &'static str)> {
        None
    }
}

/// Why a kind that Xen starts by its kernel can't be a whole PC.
const NO_BOOT_LOADER: (Virt, &str, &str) =
    (Virt::Hvm, "it has no boot loader, which a whole PC would want", "write `pv` or `pvh`");

/// Declares the kinds, a line each: the variant with its settings, and its key in [`RawGuest`].
macro_rules! kinds {
    ($( $(#[$doc:meta])* $Variant:ident($Settings:ty) = $key:ident, $Section:ty; )*) => {
        /// What a guest is made of.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum GuestKind {
            $( $(#[$doc])* $Variant($Settings), )*
        }

        impl GuestKind {
            /// Its key in the recipe.
            pub fn word(&self) -> &'static str {
                match self { $( GuestKind::$Variant(_) => stringify!($key), )* }
            }

            /// What follows from it for the rest of the guest.
            pub fn rules(&self) -> &dyn KindRules {
                match self { $( GuestKind::$Variant(settings) => settings, )* }
            }

            /// Takes the section of the kind out of the guest's, and checks it.
            pub(super) fn take(
                guest: &mut RawGuest,
                virt: Option<&Located<Virt>>,
                checker: &mut Checker<'_>,
            ) -> Option<Self> {
                $(
                    if let Some(section) = guest.$key.take() {
                        checker.suitable(virt, <$Section as KindSection>::UNSUITABLE);
                        return KindSection::check(section, virt, checker).map(GuestKind::$Variant);
                    }
                )*
                None
            }
        }
    };
}

kinds! {
    /// Debian packages.
    Debian(Debian) = debian, RawDebian;
    /// A NetBSD release's sets.
    NetBsd(NetBsd) = netbsd, RawNetBsd;
    /// A Plan 9 ISO.
    Plan9(Plan9) = plan9, RawPlan9;
    /// A disk.
    Disk(DiskGuest) = disk, RawDisk;
    /// KNOPPIX.
    Knoppix(Knoppix) = knoppix, RawKnoppix;
}

impl GuestKind {
    /// Whether it becomes a tree, of which we make the file system; otherwise its disk is taken as it is.
    pub fn is_tree(&self) -> bool {
        self.rules().is_tree()
    }
}
