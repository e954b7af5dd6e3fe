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
        /// URLs of the file, which may be compressed (.gz, .bz2, .xz). All must have the same file.
        urls (required): List<FileUrl>,
        /// SHA-256 of the file as it is fetched. Default: that of the recipe's lock.
        sha256: Sha256,
        /// Format of the file after decompression. Default: from the end of its name.
        format: DiskFormat,
    }
}

/// A guest that starts from a ready-made disk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskGuest {
    /// Where it is fetched from.
    pub source: ThirdPartySource,
    /// What the file is, when it is no longer compressed.
    pub format: DiskFormat,
}

impl KindSection for RawDisk {
    type Settings = DiskGuest;

    fn check(
        section: Located<Self>,
        _: Option<&Located<Virt>>,
        checker: &mut Checker<'_>,
    ) -> Option<DiskGuest> {
        let RawDisk { urls, sha256, format } = section.value;
        let format = format.map(|format| format.value).or_else(|| {
            let first = urls.as_ref()?.value.first()?;
            Some(DiskFormat::of(first.value.file_name()))
        });
        Some(DiskGuest { source: checker.third_party(urls, sha256)?, format: format? })
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

impl DiskFormat {
    /// The format by a file's name: its last ending, that of a compressor left aside.
    pub fn of(name: &str) -> Self {
        let name = [".gz", ".bz2", ".xz"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        match name.rsplit_once('.') {
            Some((_, "qcow2")) => DiskFormat::Qcow2,
            Some((_, "vmdk")) => DiskFormat::Vmdk,
            _ => DiskFormat::Raw,
        }
    }
}
