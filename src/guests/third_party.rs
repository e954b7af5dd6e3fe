//! A single third-party file that becomes a guest's disk, or what its files are read from: fetched by its checksum,
//! decompressed, converted.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::services::{Argument, BoxError, BuildServices, Inputs, ProgramRun, ServiceError, ThirdPartyFiles};
use super::{DiskContents, FileToLock};
use crate::foreign::magic::{self, Compression, DiskContainer, FileKind};
use crate::foreign::sums::Sum;
use crate::recipe::{DiskFormat, ThirdPartySource};

/// A file that decompresses to more than this is refused.
const MAX_DISK: u64 = 1 << 41;
/// How long qemu-img may look at a disk.
const INFO_TIME: Duration = Duration::from_secs(60);
/// Bytes copied at a time.
const BUFFER: usize = 1 << 20;

/// Why a file gives no disk.
#[derive(Debug, thiserror::Error)]
pub enum SourceFault {
    /// Neither the recipe nor its lock has the checksum.
    #[error(
        "{url}: no checksum for it; add `sha256: HEX` beside the URL in the recipe, or run: imgfactory lock RECIPE"
    )]
    Unpinned { url: String },
    /// It can't be decompressed.
    #[error("{file}: can't decompress it; it is truncated or damaged")]
    Inflate { file: String, source: io::Error },
    /// It refers to other files.
    #[error(
        "{file}: the disk image needs another file ({what}); convert it to a single file with `qemu-img convert`"
    )]
    Refers { file: String, what: &'static str },
    /// It is no disk.
    #[error("{file}: {what}; {remedy}")]
    NoDisk { file: String, what: String, remedy: &'static str },
    /// The recipe says something else of it.
    #[error("{file}: the recipe says `format: {said}`, but the file is {found}; leave `format` out")]
    OtherFormat { file: String, said: &'static str, found: String },
    /// What qemu-img says of it can't be understood.
    #[error("{file}: can't understand what qemu-img info prints")]
    Info { file: String, source: serde_json::Error },
    #[error("{file}: can't read it")]
    Read { file: String, source: io::Error },
    /// There is nothing in it.
    #[error("{file}: empty")]
    Empty { file: String },
    /// The file can't be had, or a program failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// A file in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedFile {
    pub path: PathBuf,
    /// The checksum of the file as it was fetched.
    pub sum: Sum,
}

impl CachedFile {
    /// The cache's name of what is made of it.
    pub fn derived_name(&self, ending: &str) -> String {
        format!("{}-{}{ending}", self.sum.algorithm(), self.sum.hex())
    }
}

/// What the lock has to have of a file.
pub fn to_lock(source: &ThirdPartySource) -> Vec<FileToLock> {
    // The recipe itself pins the others.
    source.sha256.is_none().then(|| FileToLock { urls: urls(source), sum: None }).into_iter().collect()
}

fn urls(source: &ThirdPartySource) -> Vec<String> {
    source.urls.iter().map(ToString::to_string).collect()
}

/// The checksum of the recipe, or of its lock.
fn known_sum(source: &ThirdPartySource, files: &dyn ThirdPartyFiles) -> Option<Sum> {
    match &source.sha256 {
        Some(sha256) => Some(Sum::Sha256(*sha256)),
        None => urls(source).iter().find_map(|url| files.locked(url)),
    }
}

/// What is made of the file depends on: its name, which messages have, and its checksum.
pub fn source_inputs(source: &ThirdPartySource, files: &dyn ThirdPartyFiles) -> Inputs {
    // Without a checksum the step fails.
    let sum = known_sum(source, files).map_or_else(|| "none".to_owned(), |sum| sum.to_string());
    vec![("file".into(), source.file_name().into()), ("checksum".into(), sum)]
}

/// Fetches the file, by the checksum of the recipe or of its lock.
///
/// # Errors
/// [`SourceFault::Unpinned`], [`SourceFault::Service`].
pub fn fetched(source: &ThirdPartySource, services: &dyn BuildServices) -> Result<CachedFile, SourceFault> {
    let urls = urls(source);
    let sum = known_sum(source, services)
        .ok_or_else(|| SourceFault::Unpinned { url: urls.first().cloned().unwrap_or_default() })?;
    Ok(CachedFile { path: services.fetch(&urls, &sum)?, sum })
}

/// Likewise, decompressed. Its contents tell how: names lie.
///
/// # Errors
/// [`SourceFault`].
pub fn decompressed(
    source: &ThirdPartySource,
    services: &dyn BuildServices,
) -> Result<CachedFile, SourceFault> {
    let file = fetched(source, services)?;
    let name = source.file_name();
    let FileKind::Compressed(compression) = identify(&file.path, name, services)? else { return Ok(file) };
    let derived = file.derived_name(".inflated");
    let inflate = |make: &mut dyn FnMut(&mut dyn Write) -> Result<(), BoxError>| {
        services.derive(&derived, make).map_err(SourceFault::from)
    };
    let open = || services.open(&file.path).map(|opened| io::BufReader::with_capacity(BUFFER, opened));
    let path = match compression {
        Compression::Gzip => {
            inflate(&mut |out| copy(&mut flate2::read::MultiGzDecoder::new(open()?), out, name))?
        }
        Compression::Xz => {
            inflate(&mut |out| copy(&mut liblzma::read::XzDecoder::new_multi_decoder(open()?), out, name))?
        }
        other => {
            let arguments = vec![Argument::Text("-dc".into()), Argument::Path(file.path.clone())];
            services.derive_by(&derived, &ProgramRun::new(other.program(), arguments, other.log()))?
        }
    };
    if let FileKind::Compressed(twice) = identify(&path, name, services)? {
        let what = format!("compressed twice, at last by {}", twice.program());
        return Err(SourceFault::NoDisk { file: name.to_owned(), what, remedy: "decompress it once" });
    }
    Ok(CachedFile { path, sum: file.sum })
}

fn identify(path: &Path, name: &str, services: &dyn BuildServices) -> Result<FileKind, SourceFault> {
    let kind = magic::identify(services.open_at(path)?.as_ref());
    kind.map_err(|source| SourceFault::Read { file: name.to_owned(), source })
}

/// The disk in the file, sector after sector. `format` is what the recipe says that it is; if it says nothing, the
/// contents decide alone.
///
/// # Errors
/// [`SourceFault`].
pub fn raw_disk(
    source: &ThirdPartySource,
    format: Option<DiskFormat>,
    services: &dyn BuildServices,
) -> Result<PathBuf, SourceFault> {
    let file = decompressed(source, services)?;
    let name = source.file_name();
    let kind = identify(&file.path, name, services)?;
    let found = match kind {
        FileKind::Disk(container) => container.as_str(),
        _ => DiskFormat::Raw.as_str(),
    };
    if let Some(said) = format.map(DiskFormat::as_str).filter(|said| *said != found) {
        let found = if found == "raw" { "no such disk".to_owned() } else { format!("a {found} disk") };
        return Err(SourceFault::OtherFormat { file: name.to_owned(), said, found });
    }
    let container = match kind {
        FileKind::Disk(container) => container,
        // Who says that it is raw wants it as it is, also if it is encrypted.
        _ if format == Some(DiskFormat::Raw) => return Ok(file.path),
        FileKind::Foreign(what, remedy) => {
            let suffix = if what.starts_with("a disk") { "" } else { ", not a disk" };
            let what = format!("{what}{suffix}");
            return Err(SourceFault::NoDisk { file: name.to_owned(), what, remedy });
        }
        FileKind::Tar => {
            let (what, remedy) =
                ("a tar archive, not a disk".to_owned(), "unpack it, and give the disk that is in it");
            return Err(SourceFault::NoDisk { file: name.to_owned(), what, remedy });
        }
        FileKind::Plain if format.is_none() && names_a_container(name) => {
            if is_disk(&file.path, name, services)? {
                return Ok(file.path);
            }
            let (what, remedy) = ("neither what its name says nor a disk with a partition table", SAY_RAW);
            return Err(SourceFault::NoDisk { file: name.to_owned(), what: what.to_owned(), remedy });
        }
        _ => return Ok(file.path),
    };
    refuse_references(&file.path, name, container, services)?;
    refuse_damage(&file.path, container, services)?;
    let mut arguments = Argument::texts(["convert", "-f", container.as_str(), "-O", "raw"]);
    arguments.push(Argument::Path(file.path.clone()));
    arguments.push(Argument::Scratch { before: "", path: "disk" });
    let program = ProgramRun::new("qemu-img", arguments, "qemu-img.log");
    let program = ProgramRun { result: Some("disk"), ..program };
    Ok(services.derive_by(&file.derived_name(".raw"), &program)?)
}

const SAY_RAW: &str = "fetch it again, or add `format: raw` if it is meant to be taken as it is";

/// Whether the end of a name, that of a compressor left aside, is that of a format which has a magic.
fn names_a_container(name: &str) -> bool {
    const COMPRESSED: [&str; 8] = [".gz", ".xz", ".zst", ".bz2", ".lz4", ".lz", ".lzo", ".Z"];
    let name = COMPRESSED.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    ["qcow", "qcow2", "qed", "vmdk", "vdi", "vhdx", "vhd", "hds", "dmg"].contains(&ending)
}

/// Whether the first sector has the mark of a partition table or of a boot loader.
fn is_disk(path: &Path, name: &str, services: &dyn BuildServices) -> Result<bool, SourceFault> {
    let mut mark = [0; 2];
    match services.open_at(path)?.read_exact_at(510, &mut mark) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => {
            read.map_err(|source| SourceFault::Read { file: name.to_owned(), source })?;
            Ok(mark == [0x55, 0xaa])
        }
    }
}

/// The contents of a disk that is taken as it is, with `patches` over it.
///
/// # Errors
/// [`SourceFault::Empty`], [`SourceFault::Service`].
pub fn disk_contents(
    path: PathBuf,
    patches: Vec<(u64, Vec<u8>)>,
    services: &dyn BuildServices,
) -> Result<DiskContents, SourceFault> {
    let file = || path.display().to_string();
    let size = services.open_at(&path)?.size();
    let len = size.map_err(|source| SourceFault::Read { file: file(), source })?;
    if len == 0 {
        return Err(SourceFault::Empty { file: file() });
    }
    Ok(DiskContents { path, len, patches })
}

/// Refuses a disk that has parts of it in other files: they would be files of this machine.
fn refuse_references(
    path: &Path,
    name: &str,
    container: DiskContainer,
    services: &dyn BuildServices,
) -> Result<(), SourceFault> {
    let failed = |source| SourceFault::Read { file: name.to_owned(), source };
    let disk = services.open_at(path)?;
    let len = usize::try_from(disk.size().map_err(failed)?).unwrap_or(usize::MAX).min(104);
    let mut head = vec![0; len];
    disk.read_exact_at(0, &mut head).map_err(failed)?;
    let word = |at: usize| {
        head.get(at..at + 8).map_or(0, |part| part.iter().fold(0u64, |sum, &b| sum << 8 | u64::from(b)))
    };
    let refers = |what| Err(SourceFault::Refers { file: name.to_owned(), what });
    // What qemu-img would open before it tells of it.
    match container {
        // docs/interop/qcow2.txt of QEMU: backing_file_offset at 8; bit 2 of incompatible_features at 72.
        DiskContainer::Qcow | DiskContainer::Qcow2 if word(8) != 0 => return refers("a backing file"),
        DiskContainer::Qcow2 if head.get(7) == Some(&3) && word(72) & 4 != 0 => {
            return refers("an external data file");
        }
        // A text that names the files with the sectors, alone or in a header without a capacity, instead of a sparse
        // disk in one piece.
        DiskContainer::Vmdk if head.starts_with(b"# ") || head.starts_with(b"KDMV") && word(12) == 0 => {
            return refers("a descriptor without sectors of its own");
        }
        _ => {}
    }
    let mut arguments = Argument::texts(["info", "--output=json", "-f", container.as_str()]);
    arguments.push(Argument::Path(path.to_path_buf()));
    let program =
        ProgramRun { limit: INFO_TIME, ..ProgramRun::new("qemu-img", arguments, "qemu-img-info.log") };
    let printed = services.output_of(&program)?;
    let info: serde_json::Value = serde_json::from_slice(&printed)
        .map_err(|source| SourceFault::Info { file: name.to_owned(), source })?;
    if ["backing-filename", "full-backing-filename"].iter().any(|key| info.get(key).is_some()) {
        return refers("a backing file");
    }
    let of_format = &info["format-specific"]["data"];
    if of_format.get("data-file").is_some() {
        return refers("an external data file");
    }
    let extents = of_format["extents"].as_array().map_or(0, Vec::len);
    if extents > 1 {
        return refers("several extents");
    }
    Ok(())
}

/// Refuses a disk of which qemu-img finds that something is missing. Converting it would give zeros there.
fn refuse_damage(
    path: &Path,
    container: DiskContainer,
    services: &dyn BuildServices,
) -> Result<(), SourceFault> {
    // 3: space that nothing uses any more; 63: the format has no check.
    const CHECK: &str = "qemu-img check -f \"$1\" \"$2\"; case $? in 0|3|63) ;; *) \
                         echo 'qemu-img check says that the disk is truncated or damaged' >&2; exit 1 ;; esac";
    let mut arguments = Argument::texts(["-c", CHECK, "sh", container.as_str()]);
    arguments.push(Argument::Path(path.to_path_buf()));
    services.output_of(&ProgramRun::new("sh", arguments, "qemu-img-check.log"))?;
    Ok(())
}

fn copy(from: &mut dyn Read, to: &mut dyn Write, name: &str) -> Result<(), BoxError> {
    copy_limited(from, to, MAX_DISK, &|source| SourceFault::Inflate { file: name.to_owned(), source }.into())
}

/// Copies what a decoder gives, of which `limit` bytes are too many. `unreadable` is what an error of the decoder means.
pub(super) fn copy_limited(
    from: &mut dyn Read,
    to: &mut dyn Write,
    limit: u64,
    unreadable: &dyn Fn(io::Error) -> BoxError,
) -> Result<(), BoxError> {
    let mut left = limit;
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        to.write_all(&buffer[..len])?;
        left = left.saturating_sub(len as u64);
        if left == 0 {
            return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
        }
    }
}
