//! The recipe as it is written: every key, its type, its description. `imgfactory schema` prints these, and
//! `docs/recipe.md` says more about each.

use formats::block::CodecKind;
use formats::names::{BlockSize, ImageName};
use formats::url::MirrorUrl;

use super::choices::{Architecture, Archive, MenuEntry, OnFailure, Variant};
use super::guests::RawGuest;
use super::guests::knoppix::RawKnoppix;
use super::target::Target;
use super::values::{
    Component, HostName, Line, Module, OverlayName, Package, ProjectPath, Seconds, Size, Suite,
};
use crate::ext2::InodeSize;
use crate::yaml::findings::Located;
use crate::yaml::shape::{Switch, section};

/// Values of a list, each with its place.
pub type List<T> = Vec<Located<T>>;

section! {
    /// A live distribution: the host, its guests, how it boots, where it is fetched from.
    pub struct RawRecipe as "Recipe" {
        /// Name of the distribution, its ISO and its releases.
        name (required): ImageName,
        /// A description, in one line. Default: empty.
        description: Line,
        /// Mirrors from which the booted machine fetches, in order; `mirror=` at boot overrides them. Default: none.
        mirrors: List<MirrorUrl>,
        /// The signing key: KEY.key (secret) and KEY.pub. Default: keys/NAME.
        key: ProjectPath,
        /// The system that the machine boots.
        host (required): RawHost,
        /// The boot menu, kernels and miniroot.
        boot: RawBoot,
        /// Systems that run below Xen beside the host. Default: none.
        guests: List<RawGuest>,
        /// How images are split into block files.
        blocks: RawBlocks,
        /// The smallest machine that can run the system. `run` and `test` start one like it.
        machine: RawMachine,
        /// The output that `test` waits for on the console.
        expect: RawExpect,
        /// Where releases are published, and how long they are kept there.
        publish: RawPublish,
    }

    /// The system that the machine boots.
    pub struct RawHost as "Host" one of "host" { debian, knoppix } {
        /// A Debian system.
        debian: RawDebian,
        /// A KNOPPIX medium or its compressed file system, whose files become the host's.
        knoppix: RawKnoppix,
        /// Directories below overlays/ that are merged into the system, in order. Default: none.
        overlays: List<OverlayName>,
        /// Its host name. Default: the recipe's name.
        hostname: HostName,
        /// Properties of its file system.
        image: RawFileSystem,
    }

    /// A Debian system.
    pub struct RawDebian as "Debian" {
        /// The release. Default: trixie.
        suite: Suite,
        /// The packages that are always installed (mmdebstrap's variant). Default: minbase.
        variant: Variant,
        /// Default: main.
        components: List<Component>,
        /// Default, and so far the only one: amd64.
        architecture: Architecture,
        /// Additional archives: security updates, backports. Default: none.
        sources: List<RawDebianSource>,
        /// Packages to install, with their dependencies. Default: none.
        packages: List<Package>,
        /// Whether recommended packages are installed too. Default: false.
        recommends: bool,
        /// Scripts that run after all packages are installed, with the tree's path as their argument.
        /// Default: none.
        customise: List<ProjectPath>,
    }

    /// An additional archive.
    pub struct RawDebianSource as "DebianSource" {
        /// Its suite, such as trixie-security.
        suite (required): Suite,
        /// The archive whose mirror it is fetched from. Default: debian.
        archive: Archive,
        /// Its URL, instead of `archive`.
        uri: MirrorUrl,
        /// Default: those of the system.
        components: List<Component>,
    }

    /// Properties of a file system.
    pub struct RawFileSystem as "Image" {
        /// Free space, for files that the running system writes. Default: 64MiB.
        free: Size,
        /// Size of an inode in bytes: 128 or 256. Default: 256.
        inode_size: InodeSize,
        /// Whether an update overwrites unused space with zeros. Default: false.
        zero_freed: bool,
    }

    /// The boot menu, kernels and miniroot.
    pub struct RawBoot as "Boot" {
        /// Xen below the host; `true` for all defaults. Default: false.
        xen: Switch<RawXen>,
        /// Appended to the host's kernel command line. Default: nothing.
        cmdline: Line,
        /// Kernel modules of the miniroot, single ones or groups: `net` (common network cards), `net-usb`,
        /// `net-server`, `disk`, `keyboard`. What they depend on comes along, and what the root file system
        /// needs. Default: net, disk, keyboard.
        modules: List<Module>,
        /// The boot menu; the first is the default. Default: xen if there is `xen`, linux, rescue.
        entries: List<MenuEntry>,
        /// How long the menu waits before it starts the default entry. Default: 3s.
        timeout: Seconds,
    }

    /// Xen below the host.
    pub struct RawXen as "Xen" {
        /// Memory of the host; the guests get the rest. Default: 900MiB.
        memory: Size,
        /// Appended to Xen's command line. Default: nothing.
        cmdline: Line,
    }

    /// How images are split into block files.
    pub struct RawBlocks as "Blocks" {
        /// Size of a block: a multiple of 4KiB, from 4KiB to 4MiB. Default: 256KiB.
        size: BlockSize,
        /// The library that compresses the blocks. Default: libdeflate.
        codec: CodecKind,
        /// The compression level. Default: 5 with libdeflate, 6 with zlib.
        level: u32,
    }

    /// The smallest machine that this is for.
    pub struct RawMachine as "Machine" {
        /// Its memory. Default: 2GiB.
        memory: Size,
        /// Its processors. Default: 2.
        cpus: u32,
    }

    /// Where releases are published, and how long they are kept there.
    pub struct RawPublish as "Publish" {
        /// The targets of `publish`. Default: none.
        targets: List<RawPublishTarget>,
        /// What `publish` does with the other targets when one fails: continue or stop. Default: continue.
        on_failure: OnFailure,
        /// The least time that the blocks of a release are kept. Default: 90d.
        retain: Seconds,
        /// How long `latest` is valid after it is signed. Default: 7d.
        fresh: Seconds,
        /// How many of the newest releases `gc` keeps, regardless of age. Default: 3.
        keep: u32,
        /// The grace period: the time between marking a file for removal and removing it. Default: 14d.
        grace: Seconds,
        /// Releases that `gc` never removes. Default: none.
        pin: List<u32>,
    }

    /// A publish target.
    pub struct RawPublishTarget as "PublishTarget" {
        /// A directory, `user@host:path`, `rsync://host/module/path`, `http(s)://host/path` or `s3://bucket/prefix`.
        to (required): Target,
        /// The URL of clients; `publish` checks some blocks there before it replaces `latest`. Default: no check.
        url: MirrorUrl,
    }

    /// The output that `test` waits for on the console.
    pub struct RawExpect as "Expect" {
        /// How long `test` waits. Default: 5min.
        timeout: Seconds,
        /// Texts that must all appear, in any order; `{{ token }}` is a random word for each boot. Default:
        /// none.
        lines: List<Line>,
    }
}
