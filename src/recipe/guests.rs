//! Guests as they are meant: their kinds, checked, with every default in place.

use formats::digest::Sha256;
use formats::names::ImageName;
use formats::url::MirrorUrl;

use super::choices::{
    BsdArchitecture, ConsoleDevice, Cow, Devices, DiskFormat, Flavour, GuestNetwork, KnoppixForm, Start, Virt,
};
use super::types::{Debian, FileSystemOptions};
use super::values::{BsdVersion, FileUrl, HostName, KernelName, Line, OverlayName, ProjectPath, SetName};

/// A system below Xen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its name, and its image's.
    pub name: ImageName,
    /// What it is made of.
    pub kind: GuestKind,
    /// Overlays, in the order in which they are laid over the system; none for a disk that is taken as it is.
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

/// What a guest is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestKind {
    /// Debian packages.
    Debian(Debian),
    /// A NetBSD release's sets.
    NetBsd(NetBsd),
    /// A Plan 9 ISO.
    Plan9(Plan9),
    /// A disk.
    Disk(Disk),
    /// KNOPPIX.
    Knoppix(Knoppix),
}

/// A NetBSD system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetBsd {
    /// The release.
    pub version: BsdVersion,
    /// The processor.
    pub architecture: BsdArchitecture,
    /// Where releases are, in the order in which they are asked; at least one.
    pub mirrors: Vec<MirrorUrl>,
    /// The sets, in the order in which they are unpacked; `base` and `etc` are among them.
    pub sets: Vec<SetName>,
    /// The kernel.
    pub kernel: KernelName,
    /// Device nodes.
    pub devices: Devices,
    /// Files with keys for root's authorized_keys; they exist.
    pub ssh_keys: Vec<ProjectPath>,
}

/// A Plan 9 system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan9 {
    /// Which one.
    pub flavour: Flavour,
    /// Its ISO, or a disk that it is installed on.
    pub origins: Origins,
    /// Where it talks.
    pub console: ConsoleDevice,
    /// Bytes of a second disk; 0 for none.
    pub data: u64,
    /// What stands in plan9.ini instead of our lines; `None` for ours.
    pub ini: Option<Vec<Line>>,
}

impl DiskFormat {
    /// What a file's name says: what it ends with, compressed or not.
    pub fn of(name: &str) -> Self {
        let name = [".gz", ".bz2", ".xz"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        match name.rsplit_once('.') {
            Some((_, "qcow2")) => DiskFormat::Qcow2,
            Some((_, "vmdk")) => DiskFormat::Vmdk,
            _ => DiskFormat::Raw,
        }
    }
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Where it is.
    pub origins: Origins,
    /// What it is.
    pub format: DiskFormat,
}

/// A KNOPPIX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knoppix {
    /// Where it is.
    pub origins: Origins,
    /// What becomes of it.
    pub form: KnoppixForm,
}

/// A file of others: where it is, and what it is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    /// Where it is, in the order in which they are asked; at least one.
    pub urls: Vec<FileUrl>,
    /// What it is known by; `None` to ask the recipe's lock.
    pub sha256: Option<Sha256>,
}

/// Where NetBSD's releases are, current ones and old ones.
pub const NETBSD_MIRRORS: [&str; 2] =
    ["https://cdn.netbsd.org/pub/NetBSD/", "https://archive.netbsd.org/pub/NetBSD-archive/"];

impl GuestKind {
    /// The word in the recipe.
    pub fn word(&self) -> &'static str {
        match self {
            GuestKind::Debian(_) => "debian",
            GuestKind::NetBsd(_) => "netbsd",
            GuestKind::Plan9(_) => "plan9",
            GuestKind::Disk(_) => "disk",
            GuestKind::Knoppix(_) => "knoppix",
        }
    }

    /// Whether it becomes a tree, which overlays can be laid over; otherwise its disk is taken as it is.
    pub fn is_tree(&self) -> bool {
        match self {
            GuestKind::Debian(_) | GuestKind::NetBsd(_) => true,
            GuestKind::Plan9(_) | GuestKind::Disk(_) => false,
            GuestKind::Knoppix(knoppix) => knoppix.form == KnoppixForm::Tree,
        }
    }
}
