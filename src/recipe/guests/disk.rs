//! A disk as a guest: taken as it is.

use super::{KindRules, KindSection, ThirdPartySource};
use crate::recipe::check::Checker;
use crate::recipe::choices::{DiskFormat, Virt};
use crate::recipe::raw::List;
use crate::recipe::values::FileUrl;
use crate::yaml::findings::Located;
use crate::yaml::shape::section;
use formats::digest::Sha256;

section! {
    /// A disk image, used unchanged.
    pub struct RawDisk as "Disk" {
        /// URLs of the file, which may be compressed. All must have the same file.
        urls (required): List<FileUrl>,
        /// SHA-256 of the file as it is fetched. Default: that of the recipe's lock.
        sha256: Sha256,
        /// Format of the file after decompression. Default: by its contents.
        format: DiskFormat,
    }
}

/// A guest that starts from a ready-made disk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskGuest {
    /// Where it is fetched from.
    pub source: ThirdPartySource,
    /// What the recipe says that the file is, when it is no longer compressed; its contents decide.
    pub format: Option<DiskFormat>,
}

impl KindSection for RawDisk {
    type Settings = DiskGuest;

    fn check(
        section: Located<Self>,
        _: Option<&Located<Virt>>,
        checker: &mut Checker<'_>,
    ) -> Option<DiskGuest> {
        let RawDisk { urls, sha256, format } = section.value;
        let format = format.map(|format| format.value);
        Some(DiskGuest { source: checker.third_party(urls, sha256)?, format })
    }
}

impl KindRules for DiskGuest {
    fn is_tree(&self) -> bool {
        false
    }

    fn default_virt(&self) -> Virt {
        Virt::Hvm
    }
}
