//! Plan 9 as a guest: 9legacy or 9front, from an ISO or an installed disk.

use super::{KindRules, KindSection, ThirdPartySource};
use crate::recipe::check::{Checker, GIB, or};
use crate::recipe::choices::{ConsoleDevice, Flavour, Virt};
use crate::recipe::raw::List;
use crate::recipe::values::{FileUrl, Line, Size};
use crate::yaml::findings::Located;
use crate::yaml::shape::section;
use formats::digest::Sha256;

section! {
    /// Plan 9, from its bootable ISO.
    pub struct RawPlan9 as "Plan9" {
        /// The version of Plan 9.
        flavour (required): Flavour,
        /// URLs of its ISO, which may be compressed (.gz, .bz2, .xz). All must have the same file.
        urls (required): List<FileUrl>,
        /// SHA-256 of the file as it is fetched. Default: that of the recipe's lock.
        sha256: Sha256,
        /// Its console. Default: serial.
        console: ConsoleDevice,
        /// Size of a second disk, ext2 and writable; 0 for none. Default: 0.
        data: Size,
        /// The entry of its boot menu to start, by its name in plan9.ini. Default: the one that boots the system on it.
        entry: Line,
        /// Lines for plan9.ini, after those for the console, instead of the built-in ones. Default: the built-in ones.
        plan9_ini: List<Line>,
    }
}

/// A Plan 9 system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan9 {
    /// The distribution of Plan 9.
    pub flavour: Flavour,
    /// Where its ISO is fetched from, or a disk that it is installed on.
    pub source: ThirdPartySource,
    /// The console that it uses.
    pub console: ConsoleDevice,
    /// Bytes of a second disk; 0 for none.
    pub data: u64,
    /// The entry of the medium's boot menu; `None` for the one that boots its system.
    pub entry: Option<Line>,
    /// The recipe's lines for plan9.ini; `None` for ours.
    pub ini: Option<Vec<Line>>,
}

impl KindSection for RawPlan9 {
    type Settings = Plan9;

    const UNSUITABLE: &'static [(Virt, &'static str, &'static str)] = &[
        (Virt::Pv, "Plan 9's port to Xen was of 32 bits, which Debian's Xen no longer starts", "write `hvm`"),
        (Virt::Pvh, "no Plan 9 kernel starts as pvh", "write `hvm`"),
    ];

    fn check(section: Located<Self>, _: Option<&Located<Virt>>, checker: &mut Checker<'_>) -> Option<Plan9> {
        let section = section.value;
        let source = checker.third_party(section.urls, section.sha256);
        let data = checker.size_within(section.data, 0, 0, 1024 * GIB, "a second disk");
        Some(Plan9 {
            flavour: section.flavour?.value,
            source: source?,
            console: or(section.console, || ConsoleDevice::Serial),
            data: data?,
            entry: section.entry.map(|entry| entry.value),
            ini: section.plan9_ini.map(|lines| lines.value.into_iter().map(|line| line.value).collect()),
        })
    }
}

impl KindRules for Plan9 {
    fn is_tree(&self) -> bool {
        false
    }

    /// With overlays a new ISO is made of its files.
    fn takes_overlays(&self) -> bool {
        true
    }

    fn default_virt(&self) -> Virt {
        Virt::Hvm
    }
}
