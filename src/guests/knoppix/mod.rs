//! KNOPPIX: a medium, or the compressed file system in it, becomes a disk or a tree.
//!
//! A medium is an ISO with the file `KNOPPIX/KNOPPIX`, which is a cloop file around an ISO 9660 or an ext2, or a
//! squashfs. A recipe may name such a file alone, or the file system in it.

mod device;

use std::io::Write;

use super::kind::{DiskContents, FileToLock, GuestBuilder, GuestContents, GuestTree, Starter, newest};
use super::services::{Argument, BoxError, BuildServices, Inputs, ProgramRun, ThirdPartyFiles};
use super::third_party::{CachedFile, disk_contents, source_inputs, to_lock};
use crate::ext2::{ImageReadError, Profile, ReadAt, Reader};
use crate::foreign::cloop::CloopError;
use crate::foreign::iso9660::{Imported, Iso, Iso9660Error, ZisofsError};
use crate::recipe::{Guest, Knoppix, KnoppixForm, ThirdPartySource};
use crate::tree::tar::TarError;
use crate::tree::{Content, ContentSource, Extent, Kind, Tree, tar};
use device::{FileRange, ON_MEDIUM, is_squashfs};

/// A squashfs whose files take more than this is refused.
const MAX_FILES: u64 = 256 << 30;

/// Why a KNOPPIX can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KnoppixFault {
    /// Its compressed file system is damaged.
    #[error("{file}")]
    Cloop { file: String, source: CloopError },
    /// The ISO 9660 in it, or around it, is damaged.
    #[error("{file}")]
    Iso { file: String, source: Iso9660Error },
    /// The ext2 in it is damaged.
    #[error("{file}")]
    Ext2 { file: String, source: ImageReadError },
    /// The files of the squashfs in it can't be a tree.
    #[error("{file}")]
    Squashfs { file: String, source: TarError },
    /// A packed file in it is damaged.
    #[error("{file}: /{path}")]
    Zisofs { file: String, path: String, source: ZisofsError },
    /// It is something else.
    #[error(
        "{file}: {what}; use an ISO that has {ON_MEDIUM}, a cloop file, or an ISO 9660 or ext2 file system"
    )]
    Unknown { file: String, what: &'static str },
}

impl GuestBuilder for Knoppix {
    fn starter(&self) -> Starter {
        match self.form {
            KnoppixForm::Tree => Starter::Linux,
            KnoppixForm::Device => Starter::Disk,
        }
    }

    fn summary(&self) -> String {
        format!("KNOPPIX as a {}", self.form)
    }

    fn files_to_lock(&self, _: &dyn ThirdPartyFiles) -> Result<Vec<FileToLock>, BoxError> {
        Ok(to_lock(&self.source))
    }

    fn inputs(&self, _: &Guest, services: &mut dyn BuildServices) -> Result<Inputs, BoxError> {
        Ok(inputs(self, services))
    }

    fn build(&self, _: &Guest, services: &mut dyn BuildServices) -> Result<GuestContents, BoxError> {
        Ok(match self.form {
            KnoppixForm::Tree => GuestContents::Tree(tree(&self.source, services)?),
            KnoppixForm::Device => GuestContents::Disk(disk(&self.source, services)?),
        })
    }
}

/// What the files of a KNOPPIX depend on, of the host or of a guest.
pub fn inputs(knoppix: &Knoppix, files: &dyn ThirdPartyFiles) -> Inputs {
    let mut inputs = source_inputs(&knoppix.source, files);
    inputs.push(("form".into(), knoppix.form.to_string()));
    inputs
}

fn disk(source: &ThirdPartySource, services: &dyn BuildServices) -> Result<DiskContents, BoxError> {
    let device = device::unpacked(source, services)?;
    Ok(disk_contents(device.path, vec![], services)?)
}

/// The files as a tree. It keeps its own host name.
///
/// # Errors
/// [`KnoppixFault`], and those of fetching.
pub fn tree(source: &ThirdPartySource, services: &mut dyn BuildServices) -> Result<GuestTree, BoxError> {
    let device = device::unpacked(source, services)?;
    let file = source.file_name().to_owned();
    let image = services.open_at(&device.path)?;
    let image = image.as_ref();
    let mut tree = match Iso::open(image) {
        _ if is_squashfs(&FileRange::whole(image)?) => squashfs(&device, services)?,
        Ok(iso) => {
            let spool = services.spool(&device.path)?;
            let imported =
                iso.import(spool).map_err(|source| KnoppixFault::Iso { file: file.clone(), source })?;
            unpack_files(imported, image, &device, &file, services)?
        }
        Err(Iso9660Error::NotIso) => {
            let spool = services.spool(&device.path)?;
            let of_ext2 = |source| KnoppixFault::Ext2 { file: file.clone(), source };
            Reader::open(image).and_then(|reader| reader.tree(spool)).map_err(of_ext2)?
        }
        Err(source) => return Err(KnoppixFault::Iso { file, source }.into()),
    };
    // Every ext2 that we write has one of its own.
    tree.remove(b"lost+found");
    let newest = newest(&tree);
    Ok(GuestTree { tree, newest, profile: Profile::Linux, linux: true, cached: None })
}

/// The files of a squashfs, as Debian's sqfs2tar (package squashfs-tools-ng) reads them.
fn squashfs(device: &CachedFile, services: &mut dyn BuildServices) -> Result<Tree, BoxError> {
    let arguments = vec![Argument::Path(device.path.clone())];
    let program = ProgramRun::new("sqfs2tar", arguments, "sqfs2tar.log");
    let program = ProgramRun { max_bytes: MAX_FILES, ..program };
    let archive = services.derive_by(&device.derived_name(".tar"), &program)?;
    let spool = services.spool(&archive)?;
    let file = device.path.display().to_string();
    let read = tar::read(services.open(&archive)?, spool);
    Ok(read.map_err(|source| KnoppixFault::Squashfs { file, source })?)
}

/// Unpacks what zisofs has packed, into one file of the cache.
fn unpack_files(
    imported: Imported,
    image: &dyn ReadAt,
    device: &CachedFile,
    file: &str,
    services: &mut dyn BuildServices,
) -> Result<Tree, BoxError> {
    let mut tree = imported.tree;
    if imported.packed.is_empty() {
        return Ok(tree);
    }
    let unpacked = services.derive(&device.derived_name(".unpacked"), &mut |out: &mut dyn Write| {
        for (id, packed) in &imported.packed {
            packed.unpack(image, out).map_err(|source| {
                let path = tree.walk().find(|(_, found)| found == id).map(|(path, _)| path);
                let path = String::from_utf8_lossy(&path.unwrap_or_default()).into_owned();
                KnoppixFault::Zisofs { file: file.to_owned(), path, source }
            })?;
        }
        Ok(())
    })?;
    let spool = services.spool(&unpacked)?;
    let mut offset = 0;
    for (id, packed) in &imported.packed {
        let len = u64::from(packed.len);
        let extents = match len {
            0 => vec![],
            _ => vec![Extent { at: 0, len, source: ContentSource::Spool { spool, offset } }],
        };
        tree.node_mut(*id).kind = Kind::File(Content { len, extents });
        offset += len;
    }
    Ok(tree)
}
