//! Plan 9: an ISO or a disk that boots by itself becomes one that asks nothing, by its plan9.ini alone ([`settings`]).
//!
//! The medium stays as it is, byte for byte, but for that file. With overlays a new ISO is made of its files
//! ([`repack`]), which boots as the old one did ([`boot_chain`]).

pub mod boot_chain;
pub mod ini;
mod repack;
pub mod settings;

use std::io;

use super::kind::{DataDisk, FileToLock, GuestBuilder, GuestContents, Starter};
use super::services::{BoxError, BuildServices, Inputs, ThirdPartyFiles};
use super::third_party::{disk_contents, raw_disk, source_inputs, to_lock};
use crate::ext2::{InodeSize, Profile};
use crate::foreign::iso9660::Iso9660Error;
use crate::recipe::{Flavour, Guest, Plan9};

pub use boot_chain::{BootChain, arguments, chain, relocated};
pub use settings::patches;

/// Bytes of a block of the ISO.
const BLOCK: u64 = 2048;

/// Why a medium can't be changed.
#[derive(Debug, thiserror::Error)]
pub enum Plan9Error {
    /// It is no ISO, or damaged.
    #[error(transparent)]
    Iso(#[from] Iso9660Error),
    /// It is another system's.
    #[error("it has no `{path}`; check that it is an ISO or a disk of {flavour}")]
    Missing {
        path: &'static str,
        /// What the recipe says it is.
        flavour: Flavour,
    },
    /// The settings do not fit.
    #[error("plan9.ini of {want} bytes; the medium has space for {room} bytes")]
    TooLong {
        /// Bytes of the settings.
        want: usize,
        /// Bytes that there is room for.
        room: u64,
    },
    /// The recipe's entry is not in the menu.
    #[error(
        "its plan9.ini has no entry `{entry}`; the menu has {}",
        crate::yaml::findings::listed(known.iter().map(String::as_str))
    )]
    Entry { entry: String, known: Vec<String> },
    /// The recipe names an entry, and there is no menu.
    #[error("its plan9.ini has no menu, so no entry `{entry}`; remove `entry` from the recipe")]
    NoMenu { entry: String },
    /// Nothing says how it boots.
    #[error("the medium does not boot from one of its files, so a disk made from its files would not boot")]
    NoBoot,
    /// The volume with its settings is damaged, or full.
    #[error("`{volume}`: can't change it")]
    Volume { volume: &'static str, source: io::Error },
    /// Its settings can't be read.
    #[error("`{path}`: can't read it")]
    Read { path: &'static str, source: io::Error },
}

/// A medium that can't be changed, or of which no new one can be made.
#[derive(Debug, thiserror::Error)]
pub enum Plan9Fault {
    /// It can't be changed.
    #[error("{file}")]
    Medium { file: String, source: Plan9Error },
    /// Overlays have something that no Plan 9 has on a medium.
    #[error("/{path}: not a directory, a file or a symbolic link; a Plan 9 medium has only these")]
    Kind { path: String },
}

impl Plan9Fault {
    fn medium(plan9: &Plan9, source: Plan9Error) -> Self {
        Plan9Fault::Medium { file: plan9.source.file_name().to_owned(), source }
    }
}

impl GuestBuilder for Plan9 {
    fn starter(&self) -> Starter {
        Starter::Cd
    }

    fn summary(&self) -> String {
        format!("{} as it is, with our plan9.ini", self.flavour)
    }

    fn files_to_lock(&self, _: &dyn ThirdPartyFiles) -> Result<Vec<FileToLock>, BoxError> {
        Ok(to_lock(&self.source))
    }

    /// With those of the overlays, which are applied here.
    fn inputs(&self, guest: &Guest, services: &mut dyn BuildServices) -> Result<Inputs, BoxError> {
        let mut inputs = source_inputs(&self.source, services);
        inputs.extend([
            ("flavour".into(), self.flavour.to_string()),
            ("console".into(), format!("{:?}", self.console)),
            ("second disk".into(), (self.data > 0).to_string()),
        ]);
        inputs.extend(self.entry.iter().map(|entry| ("entry".into(), entry.to_string())));
        inputs.extend(self.ini.iter().flatten().map(|line| ("plan9.ini".into(), line.to_string())));
        inputs.extend(services.overlay_inputs(guest)?);
        Ok(inputs)
    }

    fn build(&self, guest: &Guest, services: &mut dyn BuildServices) -> Result<GuestContents, BoxError> {
        let (path, patches) = if guest.overlays.is_empty() {
            let path = raw_disk(&self.source, None, services)?;
            let medium = services.open_at(&path)?;
            let patches =
                patches(medium.as_ref(), self).map_err(|source| Plan9Fault::medium(self, source))?;
            (path, patches)
        } else {
            repack::repacked(self, guest, services)?
        };
        Ok(GuestContents::Disk(disk_contents(path, patches, services)?))
    }

    fn data_disk(&self) -> Option<DataDisk> {
        let (inode_size, profile) = match self.flavour {
            // Its ext2srv damages a file system with inodes of 256 bytes.
            Flavour::Legacy => (InodeSize::Small, Profile::Legacy9),
            // Its ext4srv writes the types of entries, and NetBSD's limits suit it.
            Flavour::Front => (InodeSize::Large, Profile::NetBsd),
        };
        (self.data > 0).then_some(DataDisk { free: self.data, inode_size, profile })
    }
}
