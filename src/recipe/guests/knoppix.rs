//! KNOPPIX as a guest or as the host: its compressed file system, or the files in it.

use super::{KindRules, KindSection, ThirdPartySource};
use crate::recipe::check::{Checker, or};
use crate::recipe::choices::{KnoppixForm, Virt};
use crate::recipe::raw::{List, RawDebian};
use crate::recipe::types::HostSystem;
use crate::recipe::values::FileUrl;
use crate::yaml::findings::Located;
use crate::yaml::shape::section;
use formats::digest::Sha256;

section! {
    /// A KNOPPIX medium or its compressed file system.
    pub struct RawKnoppix as "Knoppix" {
        /// URLs of the file: an ISO, or the file KNOPPIX/KNOPPIX from one. All must have the same file.
        urls (required): List<FileUrl>,
        /// SHA-256 of the file as it is fetched. Default: that of the recipe's lock.
        sha256: Sha256,
        /// Whether its file system is used unchanged, or its files are copied into a new one. Default: tree.
        form: KnoppixForm,
    }
}

/// A host or guest that is read from a KNOPPIX medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knoppix {
    /// Where it is fetched from.
    pub source: ThirdPartySource,
    /// What becomes of it.
    pub form: KnoppixForm,
}

impl KindSection for RawKnoppix {
    type Settings = Knoppix;

    fn check(
        section: Located<Self>,
        virt: Option<&Located<Virt>>,
        checker: &mut Checker<'_>,
    ) -> Option<Knoppix> {
        let RawKnoppix { urls, sha256, form } = section.value;
        let form = or(form, || KnoppixForm::Tree);
        if let (KnoppixForm::Tree, Some(virt)) = (form, virt.filter(|virt| virt.value == Virt::Hvm)) {
            let what = "a tree of files has no boot loader, which a whole PC would want";
            checker.findings.add(&virt.span, what, "write `pv` or `pvh`, or `form: device`");
        }
        Some(Knoppix { source: checker.third_party(urls, sha256)?, form })
    }
}

impl KindRules for Knoppix {
    fn is_tree(&self) -> bool {
        self.form == KnoppixForm::Tree
    }

    fn default_virt(&self) -> Virt {
        if self.is_tree() { Virt::Pv } else { Virt::Hvm }
    }
}

/// Checks the section of a host, for which a Debian system supplies GRUB and busybox.
pub(in crate::recipe) fn check_host(
    section: Located<RawKnoppix>,
    checker: &mut Checker<'_>,
) -> Option<HostSystem> {
    if let Some(form) = section.value.form.as_ref().filter(|form| form.value == KnoppixForm::Device) {
        let what = "a device as the host, whose kernel could not be found";
        checker.findings.add(&form.span, what, "write `form: tree`, or make a guest of it");
    }
    let boot_tools = Box::new(checker.debian(RawDebian::default()));
    Some(HostSystem::Knoppix(KindSection::check(section, None, checker)?, boot_tools))
}
