//! `imgfactory iso --with-blocks`: a finished medium unpacked and repacked with a mirror's tree on it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::ext2::ReadAt;
use crate::foreign::iso9660::{self, Iso};
use crate::iso::esp::{self, EspError, REMOVABLE_BOOT};
use crate::iso::gpt::{self, SECTOR, TableError};
use crate::iso::grub::{CONFIG, Grub, MARKER};
use crate::iso::offline::{BlockSelection, Disc, Graft, MIRROR, MediumSelection, room};
use crate::iso::plan::{BIOS_IMAGE, IsoParts, KERNEL, MINIROOT, MediumContents, XEN};
use crate::pipeline::steps::iso::{self, MakeIsoError};
use crate::publish::{MirrorFiles, ReleaseState, RemoteError};
use crate::repository::targets::LocalTree;
use crate::sys::image_file::ImageFile;
use crate::sys::progress::{Progress, Unit};
use formats::block::{BlockDamage, BlockName, FetchedFile};
use formats::names::Serial;
use formats::release::MirrorPath;
use formats::report::size;
use system::files::{FileError, OutputPath};

/// A boot file of a medium is not larger than this.
const MAX_FILE: u64 = 1 << 30;

/// Which medium to extend with which blocks of which mirror.
pub struct OfflineMediumRequest<'a> {
    /// The medium of a build.
    pub iso: &'a Path,
    /// The root of a mirror's tree.
    pub mirror: &'a Path,
    pub state: &'a ReleaseState,
    pub blocks: BlockSelection,
    /// The medium to be.
    pub target: &'a Path,
    /// What it must fit.
    pub disc: Option<Disc>,
    pub log: &'a Path,
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
}

/// Why there is no medium with blocks.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// It is no ISO 9660.
    #[error("{}", path.display())]
    Iso { path: PathBuf, source: iso9660::Iso9660Error },
    /// A part is missing.
    #[error("{}: has no {part}; give a medium that `imgfactory build` made", path.display())]
    NotOurs { path: PathBuf, part: &'static str },
    /// The medium is of another distribution than the mirror.
    #[error("{}: the medium is of `{medium}`, but the mirror is of `{mirror}`", path.display())]
    OtherName { path: PathBuf, medium: String, mirror: String },
    #[error("{}", path.display())]
    Table { path: PathBuf, source: TableError },
    #[error(transparent)]
    Esp(#[from] EspError),
    /// No list says what a boot reads.
    #[error(
        "release {0} has no prefetch list for any image; record one with `imgfactory profile`, or take all blocks: \
         --with-blocks=all"
    )]
    NoLists(Serial),
    /// A file of the release.
    #[error(
        "{}: missing, but release {serial} needs it; `imgfactory mirror verify` lists all that is missing",
        path.display()
    )]
    Missing { path: PathBuf, serial: Serial },
    /// A block that is not what it ought to be.
    #[error("{}: damaged; fetch it again with `imgfactory mirror pull`, or build again", path.display())]
    Damaged { path: PathBuf, source: BlockDamage },
    /// A list that is not what the release says.
    #[error("{}", path.display())]
    List { path: PathBuf, source: formats::release::DocumentError },
    #[error(
        "{} would have {}; {disc} has {}, which is {} too little. Fewer blocks: {}; more room: {}",
        path.display(), size(*bytes), size(disc.bytes()), size(bytes.saturating_sub(disc.bytes())),
        fewer(*blocks), larger(*bytes)
    )]
    TooLarge {
        /// The medium to be.
        path: PathBuf,
        bytes: u64,
        blocks: BlockSelection,
        /// What it must fit.
        disc: Disc,
    },
    /// A file of the mirror.
    #[error(transparent)]
    Mirror(#[from] RemoteError),
    #[error(transparent)]
    File(#[from] FileError),
    /// It can't be made.
    #[error(transparent)]
    Make(#[from] MakeIsoError),
}

fn fewer(blocks: BlockSelection) -> &'static str {
    match blocks {
        BlockSelection::All => "--with-blocks=prefetch",
        BlockSelection::Prefetch => "a recipe with fewer packages or guests",
    }
}

fn larger(bytes: u64) -> String {
    match Disc::for_bytes(bytes) {
        Some(disc) => format!("--fits {}, or a USB stick", disc.name()),
        None => "a USB stick".into(),
    }
}

/// A finished medium with blocks, and its figures.
#[derive(Debug)]
pub struct OfflineMedium {
    /// Bytes of it, by part.
    pub parts: IsoParts,
    /// How many blocks are on it.
    pub blocks: usize,
    /// How many the release has.
    pub of: usize,
}

/// Makes the medium; it appears when it is complete. Every block is read and compared with the signed index.
///
/// # Errors
/// [`OfflineError`].
pub fn make(request: &OfflineMediumRequest<'_>) -> Result<OfflineMedium, OfflineError> {
    let ReleaseState { release, .. } = request.state;
    // Before the work: a name to which nothing can be written makes it useless.
    let target = OutputPath::find(request.target)?;
    let medium = UnpackedMedium::read(request.iso)?;
    if medium.name != release.name.as_str() {
        return Err(OfflineError::OtherName {
            path: request.iso.into(),
            medium: medium.name,
            mirror: release.name.to_string(),
        });
    }
    let ahead = prefetch_lists(request)?;
    let chosen = MediumSelection::of(request.state, &ahead, request.blocks);
    let grafts = grafts(request, &chosen)?;

    let bytes = medium.size + room(grafts.iter().map(|graft| graft.len));
    if let Some(disc) = request.disc.filter(|disc| bytes > disc.bytes()) {
        let (path, blocks) = (request.target.into(), request.blocks);
        return Err(OfflineError::TooLarge { path, bytes, blocks, disc });
    }
    check_blocks(request, &chosen)?;
    let parts = iso::make(&medium.contents(&grafts), target, request.log)?;
    Ok(OfflineMedium { parts, blocks: chosen.blocks.len(), of: request.state.objects().len() })
}

/// Names of all prefetch lists: the host's first.
fn prefetch_lists(request: &OfflineMediumRequest<'_>) -> Result<Vec<BlockName>, OfflineError> {
    let ReleaseState { release, .. } = request.state;
    let tree = LocalTree(request.mirror.into());
    let mut names = Vec::new();
    let mut any = false;
    for image in &release.images {
        let Some(path) = image.dlahead_path() else {
            if request.blocks == BlockSelection::Prefetch {
                let say =
                    format!("image {}: no prefetch list; none of its blocks is on the medium", image.name);
                request.progress.say(&say);
            }
            continue;
        };
        let at = request.mirror.join(path.to_string());
        let missing = || OfflineError::Missing { path: at.clone(), serial: release.serial };
        let bytes = tree.read(&path, path.limit())?.ok_or_else(missing)?;
        let list = image.open_dlahead(&bytes).map_err(|source| OfflineError::List { path: at, source })?;
        any = true;
        names.extend(list.iter().flat_map(|list| &list.entries).map(|entry| entry.name));
    }
    if !any && request.blocks == BlockSelection::Prefetch {
        return Err(OfflineError::NoLists(release.serial));
    }
    Ok(names)
}

/// Files of the mirror, which all have to be there.
fn grafts(request: &OfflineMediumRequest<'_>, chosen: &MediumSelection) -> Result<Vec<Graft>, OfflineError> {
    let serial = request.state.release.serial;
    let mirror =
        std::path::absolute(request.mirror).map_err(|error| FileError::new(request.mirror, "find", error))?;
    let blocks = chosen.blocks.iter().map(|object| MirrorPath::Block(object.name));
    let mut grafts = Vec::new();
    for path in chosen.files.iter().cloned().chain(blocks) {
        let from = mirror.join(path.to_string());
        match fs::metadata(&from) {
            Ok(found) => grafts.push(Graft { path: format!("{MIRROR}/{path}"), from, len: found.len() }),
            // A mirror may have no list of others.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path == MirrorPath::Mirrors => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OfflineError::Missing { path: from, serial });
            }
            Err(error) => return Err(FileError::new(&from, "look at", error).into()),
        }
    }
    Ok(grafts)
}

/// A medium can't be repaired: what goes onto it has to be right.
fn check_blocks(request: &OfflineMediumRequest<'_>, chosen: &MediumSelection) -> Result<(), OfflineError> {
    let total = chosen.blocks.iter().map(|object| u64::from(object.file_len)).sum();
    let task = request.progress.start("blocks", total, Unit::Bytes);
    for object in &chosen.blocks {
        let path = request.mirror.join(object.name.path());
        let bytes = fs::read(&path).map_err(|error| FileError::new(&path, "read", error))?;
        let checked = FetchedFile::new(*object, bytes).inflate().and_then(|inflated| inflated.verify());
        checked.map_err(|source| OfflineError::Damaged { path, source })?;
        task.advance(object.file_len.into());
    }
    Ok(())
}

/// A medium of a build, in parts.
struct UnpackedMedium {
    name: String,
    size: u64,
    epoch: i64,
    config: String,
    grub: Grub,
    xen: Option<Vec<u8>>,
    kernel: Vec<u8>,
    miniroot: Vec<u8>,
}

impl UnpackedMedium {
    fn read(path: &Path) -> Result<Self, OfflineError> {
        let image = ImageFile::open(path)?;
        let damaged = |source| OfflineError::Iso { path: path.into(), source };
        let iso = Iso::open(&image).map_err(damaged)?;
        let lacks = |part| OfflineError::NotOurs { path: path.into(), part };
        let optional = |part: &str| iso.file(part, MAX_FILE).map_err(damaged);
        let file = |part: &'static str| optional(part)?.ok_or_else(|| lacks(part));
        let text = |part| Ok::<_, OfflineError>(String::from_utf8_lossy(&file(part)?).into_owned());
        let marker = iso.find(MARKER).map_err(damaged)?.ok_or_else(|| lacks(MARKER))?;

        let broken = |source| OfflineError::Table { path: path.into(), source };
        let failed = |error| FileError::new(path, "read", error);
        let partitions = gpt::read(File::open(path).map_err(failed)?).map_err(broken)?;
        let read = |at: u64, len: u64| -> Result<Vec<u8>, OfflineError> {
            // The table may say anything.
            if len > MAX_FILE {
                return Err(lacks("ESP of a length that we make"));
            }
            let mut bytes = vec![0; usize::try_from(len).expect("at most MAX_FILE")];
            image.read_exact_at(at, &mut bytes).map_err(failed)?;
            Ok(bytes)
        };
        let partition = partitions.esp;
        let mut part = read(partition.start * SECTOR, (partition.end - partition.start) * SECTOR)?;
        let uefi = esp::read(&mut part, REMOVABLE_BOOT)?;
        Ok(UnpackedMedium {
            name: text(MARKER)?.trim().to_owned(),
            size: image.size().map_err(failed)?,
            epoch: marker.time().secs,
            config: text(CONFIG)?,
            grub: Grub { bios: file(BIOS_IMAGE)?, uefi, mbr: read(0, SECTOR)? },
            xen: optional(XEN)?,
            kernel: file(KERNEL)?,
            miniroot: file(MINIROOT)?,
        })
    }

    fn contents<'a>(&'a self, grafts: &'a [Graft]) -> MediumContents<'a> {
        MediumContents {
            name: &self.name,
            epoch: self.epoch,
            config: &self.config,
            grub: &self.grub,
            xen: self.xen.as_deref(),
            kernel: &self.kernel,
            miniroot: &self.miniroot,
            grafts,
        }
    }
}
