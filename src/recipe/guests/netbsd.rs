//! NetBSD as a guest: a release, its sets and a kernel that Xen starts.

use super::{KindRules, KindSection, NO_BOOT_LOADER};
use crate::ext2::InodeSize;
use crate::recipe::check::{Checker, at, known, or};
use crate::recipe::choices::{BsdArchitecture, Devices, Virt};
use crate::recipe::raw::List;
use crate::recipe::values::{BsdVersion, KernelName, ProjectPath, SetName};
use crate::yaml::findings::Located;
use crate::yaml::shape::section;
use formats::url::MirrorUrl;

/// NetBSD's mirrors of releases: current ones, and old ones.
pub const NETBSD_MIRRORS: [&str; 2] =
    ["https://cdn.netbsd.org/pub/NetBSD/", "https://archive.netbsd.org/pub/NetBSD-archive/"];
/// Bytes of a command line that NetBSD keeps.
const CMDLINE: usize = 255;
/// Bytes of the options that the host adds, and of a word of `test`.
const OWN_OPTIONS: usize = 96;
/// The first release whose kernels start as pvh.
const FIRST_PVH: u32 = 10;

section! {
    /// A NetBSD system, made from the sets of a release.
    pub struct RawNetBsd as "NetBsd" {
        /// The release, such as 10.1.
        version (required): BsdVersion,
        /// Default: amd64.
        architecture: BsdArchitecture,
        /// URLs of directories that have `NetBSD-VERSION/ARCHITECTURE/binary/sets/`. Default: NetBSD's own CDN,
        /// then its archive of old releases.
        mirrors: List<MirrorUrl>,
        /// The sets to unpack. Default: base, etc; and modules with a kernel that is not made for Xen.
        sets: List<SetName>,
        /// The kernel. Default: XEN3_DOMU for pv, GENERIC for pvh.
        kernel: KernelName,
        /// Which device nodes are in /dev. Default: minimal.
        devices: Devices,
        /// Files with the ssh public keys that may log in as root. Default: none.
        ssh_keys: List<ProjectPath>,
    }
}

/// A NetBSD system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetBsd {
    /// The release, such as `10.1`.
    pub version: BsdVersion,
    /// The processor that its sets are for.
    pub architecture: BsdArchitecture,
    /// Mirrors of releases, in the order in which they are tried; at least one.
    pub mirrors: Vec<MirrorUrl>,
    /// The sets, in the order in which they are unpacked; `base` and `etc` are among them.
    pub sets: Vec<SetName>,
    /// The kernel file below `binary/kernel`.
    pub kernel: KernelName,
    /// The device nodes below `/dev`.
    pub devices: Devices,
    /// Files with keys for root's authorized_keys; they exist.
    pub ssh_keys: Vec<ProjectPath>,
}

impl KindSection for RawNetBsd {
    type Settings = NetBsd;

    const UNSUITABLE: &'static [(Virt, &'static str, &'static str)] = &[NO_BOOT_LOADER];

    fn check(
        section: Located<Self>,
        virt: Option<&Located<Virt>>,
        checker: &mut Checker<'_>,
    ) -> Option<NetBsd> {
        let Located { span, value: section } = section;
        let pvh = virt.is_some_and(|virt| virt.value == Virt::Pvh);
        let virt_at = virt.map_or(span, at);
        let architecture_at = section.architecture.as_ref().map(at).unwrap_or_default();
        let architecture = or(section.architecture, || BsdArchitecture::Amd64);
        let mirrors = mirrors(section.mirrors, checker);
        let kernel_at = section.kernel.as_ref().map(at);
        let kernel: KernelName = or(section.kernel, || known(if pvh { "GENERIC" } else { "XEN3_DOMU" }));
        let version = section.version?;
        if architecture == BsdArchitecture::I386 && !pvh {
            checker.findings.add(
                &architecture_at,
                "i386 as pv: Debian's Xen is built without 32-bit pv guests",
                "write `amd64`, or `xen: pvh`",
            );
        }
        if pvh && version.value.major() < FIRST_PVH {
            let what = format!("NetBSD {} as pvh: its kernels can't start so before 10", version.value);
            checker.findings.add(&virt_at, what, "write `xen: pv`");
        }
        if let Some((span, (what, instead))) = kernel_at.zip(wrong_kernel(&kernel, pvh)) {
            checker.findings.add(&span, what, instead);
        }
        let sets = sets(section.sets, !kernel.as_str().starts_with("XEN"), checker);
        Some(NetBsd {
            version: version.value,
            architecture,
            mirrors,
            sets,
            kernel,
            devices: or(section.devices, || Devices::Minimal),
            ssh_keys: checker.files(section.ssh_keys, "a file with a public key"),
        })
    }
}

impl KindRules for NetBsd {
    fn is_tree(&self) -> bool {
        true
    }

    fn default_virt(&self) -> Virt {
        Virt::Pv
    }

    /// Every release reads inodes of 128 bytes, and NetBSD would not use what larger ones have.
    fn default_inode_size(&self) -> InodeSize {
        InodeSize::Small
    }

    fn longest_cmdline(&self) -> Option<(usize, &'static str)> {
        Some((CMDLINE - OWN_OPTIONS, "NetBSD"))
    }
}

fn mirrors(given: Option<Located<List<MirrorUrl>>>, checker: &mut Checker<'_>) -> Vec<MirrorUrl> {
    match given {
        None => NETBSD_MIRRORS.iter().map(|url| known(url)).collect(),
        Some(given) if given.value.is_empty() => {
            checker.findings.add(&given.span, "no mirror", "leave out `mirrors` for NetBSD's own");
            Vec::new()
        }
        Some(given) => checker.distinct(Some(given)),
    }
}

/// Why a kernel can't be started, by its name, and what to write instead.
fn wrong_kernel(kernel: &KernelName, pvh: bool) -> Option<(&'static str, &'static str)> {
    Some(match (kernel.as_str(), pvh) {
        (name, _) if name.contains("MICROVM") => {
            ("MICROVM has neither Xen's disk nor its network", "write `XEN3_DOMU` for pv, `GENERIC` for pvh")
        }
        (name, _) if name.contains("DOM0") => {
            ("a DOM0 kernel is for the host, not for a guest", "write `XEN3_DOMU`")
        }
        (name, true) if name.starts_with("XEN") => {
            ("this kernel starts as pv, not as pvh", "write `GENERIC`")
        }
        (name, false) if name.starts_with("GENERIC") => {
            ("GENERIC starts as pvh, not as pv", "write `XEN3_DOMU`, or `xen: pvh`")
        }
        _ => return None,
    })
}

fn sets(raw: Option<Located<List<SetName>>>, with_modules: bool, checker: &mut Checker<'_>) -> Vec<SetName> {
    let Some(given) = &raw else {
        let names: &[&str] = if with_modules { &["base", "etc", "modules"] } else { &["base", "etc"] };
        return names.iter().map(|name| known(name)).collect();
    };
    for needed in ["base", "etc"] {
        if !given.value.iter().any(|set| set.value.as_str() == needed) {
            let what = format!("the set `{needed}` is missing");
            checker.findings.add(&given.span, what, "the sets must include base and etc");
        }
    }
    if let Some(kernel) = given.value.iter().find(|set| set.value.as_str().starts_with("kern")) {
        checker.findings.add(
            &kernel.span,
            "a kernel set can't be listed here",
            "choose the kernel with `kernel`",
        );
    }
    checker.distinct(raw)
}
