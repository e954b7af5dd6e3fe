//! Step: a KNOPPIX medium, or the compressed file system in it, as a disk or as a tree.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::downloads::third_party::ThirdPartySources;
use crate::ext2::{ImageReadError, ReadAt, Reader};
use crate::foreign::cloop::{Cloop, CloopError};
use crate::foreign::iso9660::{Iso, Iso9660Error, ZisofsError};
use crate::foreign::sums::Sum;
use crate::pipeline::Request;
use crate::pipeline::steps::disks::{DiskFault, inflated};
use crate::recipe::Origins;
use crate::sys::image_file::ImageFile;
use crate::sys::process::Tool;
use crate::sys::progress::Unit;
use crate::sys::spool::Spools;
use crate::tree::{Content, ContentSource, Extent, Kind, Tree, TreeError, tar};
use system::files::{FileError, Scratch};

/// Where a medium has its compressed file system.
const ON_MEDIUM: &str = "KNOPPIX/KNOPPIX";
/// Magic of squashfs, at the start.
const SQUASHFS: [u8; 4] = *b"hsqs";

/// Why a KNOPPIX can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KnoppixFault {
    /// Its compressed file system.
    #[error("{file}")]
    Cloop {
        /// The file.
        file: String,
        /// What is wrong.
        source: CloopError,
    },
    /// The ISO 9660 in it, or around it.
    #[error("{file}")]
    Iso {
        /// The file.
        file: String,
        /// What is wrong.
        source: Iso9660Error,
    },
    /// The ext2 in it.
    #[error("{file}")]
    Ext2 {
        /// The file.
        file: String,
        /// What is wrong.
        source: ImageReadError,
    },
    /// A packed file in it.
    #[error("{file}: /{path}")]
    Zisofs {
        /// The file.
        file: String,
        /// The file in it.
        path: String,
        /// What is wrong.
        source: ZisofsError,
    },
    /// Neither.
    #[error(
        "{file}: {what}; an ISO with {ON_MEDIUM}, a cloop file, or an ISO 9660 or ext2 file system is wanted"
    )]
    Unknown {
        /// The file.
        file: String,
        /// What it is.
        what: &'static str,
    },
    /// A name in it.
    #[error("{file}")]
    Tree {
        /// The file.
        file: String,
        /// What is wrong.
        source: TreeError,
    },
}

/// A part of a file.
struct Part<'f> {
    file: &'f ImageFile,
    at: u64,
    len: u64,
}

impl Part<'_> {
    /// Writes it to `out`. `path` is the file that it is a part of.
    fn copy(&self, path: &Path, out: &mut dyn Write) -> Result<(), DiskFault> {
        let mut at = 0;
        let mut bytes = vec![0; 1 << 20];
        while at < self.len {
            let some = usize::try_from(self.len - at).unwrap_or(usize::MAX).min(bytes.len());
            let piece = &mut bytes[..some];
            let copied = self.read_exact_at(at, piece).and_then(|()| out.write_all(piece));
            copied.map_err(|error| FileError::new(path, "copy", error))?;
            at += some as u64;
        }
        Ok(())
    }
}

impl ReadAt for Part<'_> {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        ReadAt::read_exact_at(self.file, self.at + offset, buf)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}

/// The file system, unpacked, as a file of the cache.
///
/// # Errors
/// [`DiskFault`].
pub fn device(
    request: &Request<'_>,
    sources: &ThirdPartySources<'_>,
    origins: &Origins,
) -> Result<PathBuf, DiskFault> {
    Ok(known_device(request, sources, origins)?.0)
}

fn known_device(
    request: &Request<'_>,
    sources: &ThirdPartySources<'_>,
    origins: &Origins,
) -> Result<(PathBuf, Sum), DiskFault> {
    let (path, sum) = inflated(request, sources, origins)?;
    let file = origins.urls[0].file_name().to_owned();
    let image = ImageFile::open(&path)?;
    let size = image.size().map_err(|error| FileError::new(&path, "look at", error))?;
    let of_iso = |source| KnoppixFault::Iso { file: file.clone(), source };
    let whole = Part { file: &image, at: 0, len: size };
    let part = match Iso::open(&image) {
        Ok(iso) => match iso.find(ON_MEDIUM).map_err(of_iso)? {
            Some(found) => {
                let (at, _) = found.pieces[0];
                Part { file: &image, at, len: found.len() }
            }
            // The file system of a KNOPPIX that somebody has unpacked already.
            None => return Ok((path, sum)),
        },
        Err(_) => whole,
    };
    let cloop = match Cloop::open(&part) {
        Ok(cloop) => cloop,
        Err(CloopError::NotCloop) if part.at == 0 && Reader::open(&image).is_ok() => return Ok((path, sum)),
        Err(CloopError::NotCloop) if starts_with(&part, &SQUASHFS) && part.at == 0 => return Ok((path, sum)),
        Err(CloopError::NotCloop) if starts_with(&part, &SQUASHFS) => {
            let own = sources
                .derived(&format!("{}-{}.device", sum.algorithm(), sum.hex()), |out| part.copy(&path, out))?;
            return Ok((own, sum));
        }
        Err(CloopError::NotCloop) if part.at == 0 => {
            return Err(KnoppixFault::Unknown { file, what: "neither of KNOPPIX's formats" }.into());
        }
        Err(source) => return Err(KnoppixFault::Cloop { file, source }.into()),
    };
    let unpacked = sources.derived(&format!("{}-{}.device", sum.algorithm(), sum.hex()), |out| {
        let task = request.progress.start(&format!("unpacking {file}"), cloop.size(), Unit::Bytes);
        for block in 0..cloop.blocks() {
            let raw =
                cloop.block(block).map_err(|source| KnoppixFault::Cloop { file: file.clone(), source })?;
            out.write_all(&raw).map_err(|error| FileError::new(&path, "unpack", error))?;
            task.advance(raw.len() as u64);
        }
        Ok::<(), DiskFault>(())
    })?;
    Ok((unpacked, sum))
}

fn starts_with(part: &Part<'_>, magic: &[u8; 4]) -> bool {
    let mut head = [0; 4];
    part.read_exact_at(0, &mut head).is_ok() && head == *magic
}

/// The files, as a tree, and the newest time in it.
///
/// # Errors
/// [`DiskFault`].
pub fn tree(
    request: &Request<'_>,
    sources: &ThirdPartySources<'_>,
    origins: &Origins,
    spools: &mut Spools,
) -> Result<(Tree, i64), DiskFault> {
    let (path, sum) = known_device(request, sources, origins)?;
    let file = origins.urls[0].file_name().to_owned();
    let image = ImageFile::open(&path)?;
    let spool = spools.open(&path)?;
    let len = image.size().map_err(|error| FileError::new(&path, "look at", error))?;
    let squashed = starts_with(&Part { file: &image, at: 0, len }, &SQUASHFS);
    let mut tree = match Iso::open(&image) {
        _ if squashed => squashfs(request, sources, &path, &sum, spools)?,
        Ok(iso) => {
            let imported =
                iso.import(spool).map_err(|source| KnoppixFault::Iso { file: file.clone(), source })?;
            unpack(imported, &image, &sum, &file, sources, spools)?
        }
        Err(Iso9660Error::NotIso) => {
            let of_ext2 = |source| KnoppixFault::Ext2 { file: file.clone(), source };
            Reader::open(&image).and_then(|reader| reader.tree(spool)).map_err(of_ext2)?
        }
        Err(source) => return Err(KnoppixFault::Iso { file, source }.into()),
    };
    // A file system has it, a tree does not.
    tree.remove(b"lost+found");
    let newest = tree.walk().map(|(_, id)| tree.node(id).meta.mtime.secs).max().unwrap_or(0);
    Ok((tree, newest))
}

/// The files of a squashfs, as Debian's sqfs2tar (package squashfs-tools-ng) reads them.
fn squashfs(
    request: &Request<'_>,
    sources: &ThirdPartySources<'_>,
    path: &Path,
    sum: &Sum,
    spools: &mut Spools,
) -> Result<Tree, DiskFault> {
    let log = request.out.join(crate::pipeline::facts::LOGS).join("sqfs2tar.log");
    let archive = sources.derived(&format!("{}-{}.tar", sum.algorithm(), sum.hex()), |out| {
        let scratch = Scratch::directory(request.cache)?;
        let to = scratch.path().join("tar");
        let failed = |doing| {
            let to = to.clone();
            move |error| FileError::new(&to, doing, error)
        };
        let file = File::create(&to).map_err(failed("create"))?;
        Tool::new("sqfs2tar").arg(path).stdout_to(file).log(log).run()?;
        let mut made = File::open(&to).map_err(failed("open"))?;
        io::copy(&mut made, out).map_err(failed("copy"))?;
        Ok::<(), DiskFault>(())
    })?;
    let spool = spools.open(&archive)?;
    let file = File::open(&archive).map_err(|error| FileError::new(&archive, "open", error))?;
    let read = tar::read(file, spool);
    read.map_err(|source| DiskFault::Squashfs { file: path.display().to_string(), source })
}

/// Unpacks what zisofs has packed into one file of the cache.
fn unpack(
    imported: crate::foreign::iso9660::Imported,
    image: &ImageFile,
    sum: &Sum,
    file: &str,
    sources: &ThirdPartySources<'_>,
    spools: &mut Spools,
) -> Result<Tree, DiskFault> {
    let mut tree = imported.tree;
    if imported.packed.is_empty() {
        return Ok(tree);
    }
    let unpacked =
        sources.derived(&format!("{}-{}.unpacked", sum.algorithm(), sum.hex()), |out: &mut dyn Write| {
            for (id, packed) in &imported.packed {
                packed.unpack(image, out).map_err(|source| {
                    let path =
                        tree.walk().find(|(_, found)| found == id).map(|(path, _)| path).unwrap_or_default();
                    let path = String::from_utf8_lossy(&path).into_owned();
                    DiskFault::Knoppix(KnoppixFault::Zisofs { file: file.to_owned(), path, source })
                })?;
            }
            Ok::<(), DiskFault>(())
        })?;
    let spool = spools.open(&unpacked)?;
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
    let whole = File::open(&unpacked).and_then(|file| file.metadata()).map(|found| found.len());
    debug_assert_eq!(whole.ok(), Some(offset), "every packed file is in it once");
    Ok(tree)
}
