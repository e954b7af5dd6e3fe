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
        /// Name of the distribution; the ISO and the release have it.
        name (required): ImageName,
        /// What it is, in a line.
        description: Line,
        /// Where the booted machine fetches from, in order, unless it is told `mirror=`. Default: none.
        mirrors: List<MirrorUrl>,
        /// The signing key: KEY.key (secret) and KEY.pub. Default: keys/NAME.
        key: ProjectPath,
        /// The system that the machine boots.
        host (required): RawHost,
        /// The boot menu, kernels and miniroot.
        boot: RawBoot,
        /// Systems that run below Xen beside the host. Default: none.
        guests: List<RawGuest>,
        /// How images are cut into block files.
        blocks: RawBlocks,
        /// The smallest machine that this is for. `run` and `test` make one like it.
        machine: RawMachine,
        /// What `test` waits for on the console.
        expect: RawExpect,
        /// Where releases go, and how long they stay there.
        publish: RawPublish,
    }

    /// The system that the machine boots.
    pub struct RawHost as "Host" one of "host" { debian, knoppix } {
        /// A Debian system.
        debian: RawDebian,
        /// A KNOPPIX medium or its compressed file system, whose files become the host's.
        knoppix: RawKnoppix,
        /// Directories below overlays/ that are laid over the system, in order. Default: none.
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
        /// What goes in to begin with. Default: minbase.
        variant: Variant,
        /// Default: main.
        components: List<Component>,
        /// Default, and so far the only one: amd64.
        architecture: Architecture,
        /// Archives beside that of the suite: security updates, backports. Default: none.
        sources: List<RawDebianSource>,
        /// Packages to install, with what they depend on. Default: none.
        packages: List<Package>,
        /// Whether recommended packages come along too. Default: false.
        recommends: bool,
        /// Scripts that are run when all packages are installed, with the tree's path as their argument.
        /// Default: none.
        customise: List<ProjectPath>,
    }

    /// An archive beside that of the suite.
    pub struct RawDebianSource as "DebianSource" {
        /// Its suite: trixie-security.
        suite (required): Suite,
        /// Whose mirror it is taken from. Default: debian.
        archive: Archive,
        /// Its URL, instead of `archive`.
        uri: MirrorUrl,
        /// Default: those of the system.
        components: List<Component>,
    }

    /// Properties of a file system.
    pub struct RawFileSystem as "Image" {
        /// Free space for what the system writes. Default: 64MiB.
        free: Size,
        /// Bytes of an inode: 128 or 256. Default: 256.
        inode_size: InodeSize,
        /// Whether an update overwrites with zeros what it no longer uses. Default: false.
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
        /// How long the menu waits. Default: 3s.
        timeout: Seconds,
    }

    /// Xen below the host.
    pub struct RawXen as "Xen" {
        /// Memory of the host; the rest is for the guests. Default: 900MiB.
        memory: Size,
        /// Appended to Xen's command line. Default: nothing.
        cmdline: Line,
    }

    /// How images are cut into block files.
    pub struct RawBlocks as "Blocks" {
        /// Bytes of a block: a multiple of 4KiB from 4KiB to 4MiB. Default: 256KiB.
        size: BlockSize,
        /// What compresses them. Default: libdeflate.
        codec: CodecKind,
        /// How hard it tries. Default: 5 of libdeflate, 6 of zlib.
        level: u32,
    }

    /// The smallest machine that this is for.
    pub struct RawMachine as "Machine" {
        /// Its memory. Default: 2GiB.
        memory: Size,
        /// Its processors. Default: 2.
        cpus: u32,
    }

    /// Where releases go, and how long they stay there.
    pub struct RawPublish as "Publish" {
        /// Where `publish` sends them. Default: none.
        targets: List<RawPublishTarget>,
        /// What becomes of the other targets when one fails: continue or stop. Default: continue.
        on_failure: OnFailure,
        /// How long the blocks of a release stay at least. Default: 90d.
        retain: Seconds,
        /// How long clients take `latest` for fresh. Default: 7d.
        fresh: Seconds,
        /// How many of the newest releases `gc` keeps whatever their age. Default: 3.
        keep: u32,
        /// How long `gc` waits between condemning a file and removing it. Default: 14d.
        grace: Seconds,
        /// Releases that `gc` keeps for ever. Default: none.
        pin: List<u32>,
    }

    /// A place to publish to.
    pub struct RawPublishTarget as "PublishTarget" {
        /// A directory, `user@host:path`, `rsync://host/module/path`, `http(s)://host/path` or `s3://bucket/prefix`.
        to (required): Target,
        /// Where clients fetch from there: some blocks are fetched back before `latest` moves. Default: not done.
        url: MirrorUrl,
    }

    /// What `test` waits for on the console.
    pub struct RawExpect as "Expect" {
        /// How long. Default: 5min.
        timeout: Seconds,
        /// Texts that must all appear, in any order; `{{ token }}` is a word made up at each boot. Default:
        /// none.
        lines: List<Line>,
    }
}
