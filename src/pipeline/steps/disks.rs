//! Step: disks of others, taken as they are.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::downloads::third_party::{ThirdPartyError, ThirdPartySources};
use crate::ext2::ReadAt;
use crate::foreign::sums::Sum;
use crate::guests::plan9::{self, Plan9Error};
use crate::pipeline::Request;
use crate::pipeline::steps::knoppix::{self, KnoppixFault};
use crate::recipe::{DiskFormat, Guest, GuestKind, Origins};
use crate::sys::image_file::ImageFile;
use crate::sys::process::{Tool, ToolError};
use crate::tree::tar::TarError;
use formats::names::ImageName;
use system::files::{FileError, Scratch};

/// Bytes of a sector: what a disk is a multiple of.
const SECTOR: u64 = 512;
/// A file that inflates to more than this is none.
const MAX_DISK: u64 = 1 << 41;
/// Bytes copied at a time.
const BUFFER: usize = 1 << 20;

/// A disk that is to be split as it is.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Name of its image.
    pub name: ImageName,
    /// Its bytes, sector after sector.
    pub path: PathBuf,
    /// How many they are.
    pub len: u64,
    /// What stands in place of some of them: where, and what.
    pub patches: Vec<(u64, Vec<u8>)>,
}

/// A disk that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("guest `{guest}`")]
pub struct DiskError {
    /// The guest.
    pub guest: String,
    /// Why.
    pub source: Box<DiskFault>,
}

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskFault {
    /// Nothing says what the file is known by.
    #[error("{url}: its sum is not known; write `sha256: HEX` beside it, or run: imgfactory lock RECIPE")]
    Unpinned {
        /// The first URL.
        url: String,
    },
    /// The file can't be had.
    #[error(transparent)]
    Source(#[from] ThirdPartyError),
    /// It can't be inflated.
    #[error("{file}: can't be inflated; it was cut off, or it is another file than its name says")]
    Inflate {
        /// Its name.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// It refers to other files.
    #[error(
        "{file}: refers to another file ({what}); a disk in one piece is wanted: qemu-img convert makes one"
    )]
    Refers {
        /// Its name.
        file: String,
        /// How.
        what: &'static str,
    },
    /// qemu-img or sqfs2tar failed, or is missing.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// There is nothing in it.
    #[error("{file}: empty")]
    Empty {
        /// Its name.
        file: String,
    },
    /// Something with files.
    #[error(transparent)]
    File(#[from] FileError),
    /// A Plan 9 medium can't be changed.
    #[error("{file}")]
    Plan9 {
        /// Its name.
        file: String,
        /// Why.
        source: Plan9Error,
    },
    /// Something that no Plan 9 has on a medium.
    #[error(
        "/{path}: neither a directory, a file nor a symbolic link, which is all that a Plan 9 medium holds"
    )]
    Plan9Kind {
        /// The path.
        path: String,
    },
    /// What a squashfs holds can't be a tree.
    #[error("{file}")]
    Squashfs {
        /// The file.
        file: String,
        /// What is wrong.
        source: TarError,
    },
    /// A KNOPPIX can't be unpacked.
    #[error(transparent)]
    Knoppix(#[from] KnoppixFault),
}

impl Disk {
    /// Bytes of the disk: whole sectors.
    pub fn size(&self) -> u64 {
        self.len.next_multiple_of(SECTOR)
    }

    /// Opens it.
    ///
    /// # Errors
    /// When its file can't be read.
    pub fn open(&self) -> io::Result<OpenDisk<'_>> {
        let file = File::open(&self.path).map_err(|error| FileError::new(&self.path, "read", error))?;
        Ok(OpenDisk { disk: self, file })
    }
}

/// A disk that is being read, with its patches.
#[derive(Debug)]
pub struct OpenDisk<'a> {
    disk: &'a Disk,
    file: File,
}

impl ReadAt for OpenDisk<'_> {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = buf.len();
        let there = usize::try_from(self.disk.len.saturating_sub(offset)).map_or(len, |left| left.min(len));
        let (there, beyond) = buf.split_at_mut(there);
        let read = self.file.read_exact_at(there, offset);
        read.map_err(|error| FileError::new(&self.disk.path, "read", error))?;
        beyond.fill(0);
        self.disk.patches.iter().for_each(|(start, bytes)| overlay(buf, offset, *start, bytes));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.size())
    }
}

/// Puts the bytes that belong at `start` over those of a part that begins at `at`.
fn overlay(part: &mut [u8], at: u64, start: u64, bytes: &[u8]) {
    let (from, to) = (start.max(at), (start + bytes.len() as u64).min(at + part.len() as u64));
    if from < to {
        let fits = |at: u64| usize::try_from(at).expect("within a part");
        part[fits(from - at)..fits(to - at)].copy_from_slice(&bytes[fits(from - start)..fits(to - start)]);
    }
}

/// The disk of a guest.
///
/// # Errors
/// [`DiskError`].
pub fn make(
    request: &Request<'_>,
    sources: &ThirdPartySources<'_>,
    guest: &Guest,
) -> Result<Disk, DiskError> {
    let fault = |fault| DiskError { guest: guest.name.to_string(), source: Box::new(fault) };
    let (path, patches) = match &guest.kind {
        GuestKind::Disk(disk) => (raw(request, sources, &disk.origins, disk.format).map_err(fault)?, vec![]),
        GuestKind::Plan9(plan9) => {
            let format = DiskFormat::of(plan9.origins.urls[0].file_name());
            let path = raw(request, sources, &plan9.origins, format).map_err(fault)?;
            let iso = ImageFile::open(&path).map_err(|error| fault(error.into()))?;
            let file = plan9.origins.urls[0].file_name().to_owned();
            let patches =
                plan9::patches(&iso, plan9).map_err(|source| fault(DiskFault::Plan9 { file, source }))?;
            (path, patches)
        }
        GuestKind::Knoppix(knoppix) => {
            (knoppix::device(request, sources, &knoppix.origins).map_err(fault)?, vec![])
        }
        GuestKind::Debian(_) | GuestKind::NetBsd(_) => unreachable!("these have a tree"),
    };
    let len = path.metadata().map_err(|error| fault(FileError::new(&path, "look at", error).into()))?.len();
    if len == 0 {
        return Err(fault(DiskFault::Empty { file: path.display().to_string() }));
    }
    Ok(Disk { name: guest.name.clone(), path, len, patches })
}

/// A file of others by what the recipe or its lock knows it by.
///
/// # Errors
/// [`DiskFault::Unpinned`] and those of fetching.
pub fn fetch(
    request: &Request<'_>,
    sources: &ThirdPartySources<'_>,
    origins: &Origins,
) -> Result<(PathBuf, Sum), DiskFault> {
    let urls: Vec<String> = origins.urls.iter().map(ToString::to_string).collect();
    let sum = match &origins.sha256 {
        Some(sha256) => Some(Sum::Sha256(*sha256)),
        None => urls.iter().find_map(|url| request.lock.sums.get(url)).cloned(),
    };
    let sum = sum.ok_or_else(|| DiskFault::Unpinned { url: urls.first().cloned().unwrap_or_default() })?;
    Ok((sources.get(&urls, &sum)?, sum))
}

/// Likewise, no longer compressed.
///
/// # Errors
/// [`DiskFault`].
pub fn inflated(
    request: &Request<'_>,
    sources: &ThirdPartySources<'_>,
    origins: &Origins,
) -> Result<(PathBuf, Sum), DiskFault> {
    let (path, sum) = fetch(request, sources, origins)?;
    let name = origins.urls[0].file_name();
    let Some((_, ending)) = name.rsplit_once('.').filter(|(_, end)| ["gz", "xz", "bz2"].contains(end)) else {
        return Ok((path, sum));
    };
    let derived = format!("{}-{}.inflated", sum.algorithm(), sum.hex());
    let log = request.out.join(crate::pipeline::facts::LOGS).join("bzip2.log");
    let path = sources.derived(&derived, |out| {
        let opened = File::open(&path).map_err(|error| FileError::new(&path, "open", error))?;
        let reader = BufReader::with_capacity(BUFFER, opened);
        match ending {
            "gz" => copy(&mut flate2::read::MultiGzDecoder::new(reader), out, name),
            "xz" => copy(&mut liblzma::read::XzDecoder::new_multi_decoder(reader), out, name),
            _ => {
                let scratch = Scratch::file(std::env::temp_dir())?;
                let failed = |error| FileError::new(scratch.path(), "open", error);
                let to = scratch.as_file().try_clone().map_err(failed)?;
                Tool::new("bzip2").args(["-dc", "--"]).arg(&path).log(log).stdout_to(to).run()?;
                copy(&mut File::open(scratch.path()).map_err(failed)?, out, name)
            }
        }
    })?;
    Ok((path, sum))
}

/// A disk, sector after sector.
fn raw(
    request: &Request<'_>,
    sources: &ThirdPartySources<'_>,
    origins: &Origins,
    format: DiskFormat,
) -> Result<PathBuf, DiskFault> {
    let (path, sum) = inflated(request, sources, origins)?;
    if format == DiskFormat::Raw {
        return Ok(path);
    }
    let name = origins.urls[0].file_name();
    refuse_references(&path, name, format)?;
    let derived = format!("{}-{}.raw", sum.algorithm(), sum.hex());
    let log = request.out.join(crate::pipeline::facts::LOGS).join("qemu-img.log");
    sources.derived(&derived, |out| {
        let scratch = Scratch::directory(request.cache)?;
        let to = scratch.path().join("disk");
        let from = std::path::absolute(&path).map_err(|error| FileError::new(&path, "find", error))?;
        Tool::new("qemu-img")
            .args(["convert", "-f", format.as_str(), "-O", "raw"])
            .args([&from, &to])
            .log(log)
            .run()?;
        copy(&mut File::open(&to).map_err(|error| FileError::new(&to, "open", error))?, out, name)
    })
}

/// A disk may say that parts of it are in other files, of this machine: those are none of its business.
fn refuse_references(path: &Path, name: &str, format: DiskFormat) -> Result<(), DiskFault> {
    let failed = |error| FileError::new(path, "read", error);
    let mut head = Vec::new();
    File::open(path).map_err(failed)?.take(104).read_to_end(&mut head).map_err(failed)?;
    let word = |at: usize| {
        head.get(at..at + 8).map_or(0, |part| part.iter().fold(0u64, |sum, &b| sum << 8 | u64::from(b)))
    };
    let refers = |what| Err(DiskFault::Refers { file: name.to_owned(), what });
    match format {
        // docs/interop/qcow2.txt of QEMU: backing_file_offset at 8; bit 2 of incompatible_features at 72.
        DiskFormat::Qcow2 if head.starts_with(b"QFI\xfb") && word(8) != 0 => refers("a backing file"),
        DiskFormat::Qcow2 if head.starts_with(b"QFI\xfb") && head.get(7) == Some(&3) && word(72) & 4 != 0 => {
            refers("an external data file")
        }
        // A text that names the files with the sectors, instead of a sparse disk in one piece.
        DiskFormat::Vmdk if !head.starts_with(b"KDMV") => refers("a descriptor without sectors of its own"),
        _ => Ok(()),
    }
}

fn copy(from: &mut dyn Read, to: &mut dyn Write, name: &str) -> Result<(), DiskFault> {
    let fault = |source: io::Error| match source.downcast::<FileError>() {
        Ok(file) => DiskFault::File(file),
        Err(source) => DiskFault::Inflate { file: name.to_owned(), source },
    };
    let len = io::copy(&mut from.take(MAX_DISK), to).map_err(fault)?;
    if len == MAX_DISK { Err(fault(io::ErrorKind::FileTooLarge.into())) } else { Ok(()) }
}
