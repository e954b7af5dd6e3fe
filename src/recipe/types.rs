//! The checked recipe: every value has its type, every default is filled in. [`Recipe::parse`](super::Recipe::parse) is
//! the way in.

use std::time::Duration;

use formats::block::Codec;
use formats::names::{BlockSize, ImageName};
use formats::url::MirrorUrl;

use super::target::Target;
use crate::ext2::InodeSize;

pub use super::choices::{
    Architecture, Archive, BsdArchitecture, ConsoleDevice, Cow, Devices, DiskFormat, Flavour, GuestNetwork,
    KnoppixForm, MenuEntry, OnFailure, Start, Variant, Virt,
};
pub use super::guests::disk::DiskGuest;
pub use super::guests::knoppix::Knoppix;
pub use super::guests::netbsd::NetBsd;
pub use super::guests::plan9::Plan9;
pub use super::guests::{Guest, GuestKind, KindRules, ThirdPartySource};
pub use super::values::{
    BsdVersion, Component, FileUrl, HostName, KernelName, Line, Module, OverlayName, Package, ProjectPath,
    SetName, Suite,
};

/// A checked recipe: every value has its type, and every default is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Name of the distribution, the ISO and the release.
    pub name: ImageName,
    /// What it is, in a line; may be empty.
    pub description: Line,
    /// Where the client fetches from, in order; may be empty.
    pub mirrors: Vec<MirrorUrl>,
    /// The signing key without `.key` (secret) or `.pub`, from the project root.
    pub key: ProjectPath,
    /// The system that the machine boots.
    pub host: Host,
    /// Boot menu, kernels, miniroot.
    pub boot: Boot,
    /// Systems beside the host, each with a name of its own, none of them `host`.
    pub guests: Vec<Guest>,
    /// How images are split into block files.
    pub blocks: Blocks,
    /// The smallest machine on which the system runs.
    pub machine: Machine,
    /// What `test` waits for.
    pub expect: Expect,
    /// The targets of `publish`, and how long releases are kept.
    pub publish: Publish,
}

/// Name of the host's image.
pub const HOST_IMAGE: &str = "host";

impl Host {
    /// Name of its image, [`HOST_IMAGE`].
    ///
    /// # Panics
    /// Never: the constant follows the rules of names.
    pub fn image_name() -> ImageName {
        HOST_IMAGE.parse().expect("`host` follows the rules of names")
    }
}

/// Where the contents of a system come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostSystem {
    /// A system of Debian packages.
    Debian(Debian),
    /// KNOPPIX, as a tree; with the Debian system that GRUB and busybox are taken from.
    Knoppix(Knoppix, Box<Debian>),
}

impl HostSystem {
    /// The Debian system that GRUB and busybox are taken from.
    pub fn boot_tools(&self) -> &Debian {
        match self {
            HostSystem::Debian(debian) => debian,
            HostSystem::Knoppix(_, boot_tools) => boot_tools,
        }
    }
}

/// The system that the machine boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// What it is made of.
    pub system: HostSystem,
    /// Overlays, in the order in which they are laid over the system.
    pub overlays: Vec<OverlayName>,
    pub hostname: HostName,
    pub image: FileSystemOptions,
    /// Packages that its recipe does not list and that Xen or a guest needs; they are among those of `system`.
    pub added_packages: Vec<AddedPackage>,
}

/// A package that was added to those of a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedPackage {
    pub name: Package,
    /// What does not start without it, in words.
    pub needed_by: String,
}

/// A Debian system, as mmdebstrap makes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Debian {
    pub suite: Suite,
    /// The set of packages that mmdebstrap starts from.
    pub variant: Variant,
    /// Components of the archive, at least one.
    pub components: Vec<Component>,
    /// The processor that its packages are for.
    pub architecture: Architecture,
    /// Archives beside that of `suite`.
    pub sources: Vec<DebianSource>,
    /// Packages, in the recipe's order.
    pub packages: Vec<Package>,
    /// Whether recommended packages come along.
    pub recommends: bool,
    /// Scripts to run in the end, in order; they exist and may be executed.
    pub customise: Vec<ProjectPath>,
}

/// An archive beside that of the suite.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DebianSource {
    pub suite: Suite,
    pub origin: ArchiveLocation,
    /// Components of the archive, at least one.
    pub components: Vec<Component>,
}

/// Where an archive is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ArchiveLocation {
    /// On the mirror that the build is told to use.
    Archive(Archive),
    /// At a URL.
    Uri(MirrorUrl),
}

/// Properties of the ext2 that an image is made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystemOptions {
    /// Bytes free for what the system writes.
    pub free: u64,
    /// Bytes of an inode.
    pub inode_size: InodeSize,
    /// Whether an update overwrites with zeros what it no longer uses.
    pub zero_freed: bool,
}

/// Boot menu, kernels, miniroot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Xen below the host; there is one if and only if `entries` has [`MenuEntry::Xen`].
    pub xen: Option<Xen>,
    /// What is appended to the host's kernel command line; may be empty.
    pub cmdline: Line,
    /// Modules that the miniroot is to have, without what they depend on.
    pub modules: Vec<Module>,
    /// The menu, none twice; the first is the default.
    pub entries: Vec<MenuEntry>,
    /// How long the menu waits, in seconds.
    pub timeout: u32,
}

/// Xen below the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xen {
    /// Memory of the host in bytes, whole MiB.
    pub memory: u64,
    /// What is appended to Xen's command line; may be empty.
    pub cmdline: Line,
}

/// How images are split into block files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Raw bytes of a block.
    pub size: BlockSize,
    /// The codec of the block files.
    pub codec: Codec,
}

/// The smallest machine that the distribution is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Memory in bytes, whole MiB.
    pub memory: u64,
    /// Processors, 1 to 255.
    pub cpus: u32,
}

/// What `test` waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// How long a boot may take.
    pub timeout: Duration,
    /// Templates of what must appear on the console; they may use `token`.
    pub lines: Vec<Line>,
}

/// Where releases go, and how long they stay there. Times are in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Places, in order.
    pub targets: Vec<PublishTarget>,
    /// What becomes of the others when one fails.
    pub on_failure: OnFailure,
    /// How long blocks stay at least.
    pub retain: u64,
    /// How long clients accept `latest` as fresh, in seconds.
    pub fresh: u64,
    /// How many of the newest releases stay whatever their age; at least 1.
    pub keep: u32,
    /// How long a condemned file stays before it is removed, in seconds.
    pub grace: u64,
    /// Releases that stay for ever.
    pub pin: Vec<u32>,
}

/// A place to publish to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishTarget {
    pub to: Target,
    /// Where clients fetch from there.
    pub url: Option<MirrorUrl>,
}

impl Debian {
    /// Its packages' names as text.
    pub fn package_names(&self) -> impl Iterator<Item = &str> {
        self.packages.iter().map(Package::as_str)
    }
}

/// Modules of the miniroot when the recipe says nothing: groups that the miniroot knows (`miniroot::GROUPS`).
pub const DEFAULT_MODULES: &[&str] = &["net", "disk", "keyboard"];
