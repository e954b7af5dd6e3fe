//! The file system of a KNOPPIX, no longer compressed.

use std::io::{self, Write};

use super::KnoppixFault;
use crate::ext2::{ReadAt, Reader};
use crate::foreign::cloop::{Cloop, CloopError};
use crate::foreign::iso9660::Iso;
use crate::guests::services::{BoxError, BuildServices};
use crate::guests::third_party::{CachedFile, decompressed};
use crate::recipe::ThirdPartySource;

/// The compressed file system's path on a medium.
pub(super) const ON_MEDIUM: &str = "KNOPPIX/KNOPPIX";
/// Magic of squashfs, at the start.
const SQUASHFS: [u8; 4] = *b"hsqs";
/// Bytes copied at a time.
const BUFFER: usize = 1 << 20;

/// A range of a file.
pub(super) struct FileRange<'f> {
    file: &'f dyn ReadAt,
    at: u64,
    len: u64,
}

impl<'f> FileRange<'f> {
    /// The whole file as one device.
    pub(super) fn whole(file: &'f dyn ReadAt) -> io::Result<Self> {
        Ok(FileRange { file, at: 0, len: file.size()? })
    }

    fn is_whole(&self) -> bool {
        self.at == 0
    }

    fn copy(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut at = 0;
        let mut bytes = vec![0; BUFFER];
        while at < self.len {
            let some = usize::try_from(self.len - at).unwrap_or(usize::MAX).min(bytes.len());
            let piece = &mut bytes[..some];
            self.read_exact_at(at, piece)?;
            out.write_all(piece)?;
            at += some as u64;
        }
        Ok(())
    }
}

impl ReadAt for FileRange<'_> {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(self.at + offset, buf)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}

pub(super) fn is_squashfs(file: &FileRange<'_>) -> bool {
    let mut head = [0; 4];
    file.read_exact_at(0, &mut head).is_ok() && head == SQUASHFS
}

/// The file system as a file of the cache: an ISO 9660, an ext2, or a squashfs, which stays compressed.
pub(super) fn unpacked(
    source: &ThirdPartySource,
    services: &dyn BuildServices,
) -> Result<CachedFile, BoxError> {
    let fetched = decompressed(source, services)?;
    let file = source.file_name().to_owned();
    let image = services.open_at(&fetched.path)?;
    let image = image.as_ref();
    let range = match Iso::open(image) {
        Ok(iso) => {
            let of_iso = |source| KnoppixFault::Iso { file: file.clone(), source };
            match iso.find(ON_MEDIUM).map_err(of_iso)? {
                Some(found) => FileRange { file: image, at: found.pieces[0].0, len: found.len() },
                // The file system itself.
                None => return Ok(fetched),
            }
        }
        Err(_) => FileRange::whole(image)?,
    };
    let derived = fetched.derived_name(".device");
    let cloop = match Cloop::open(&range) {
        Ok(cloop) => cloop,
        Err(CloopError::NotCloop) if range.is_whole() && Reader::open(image).is_ok() => {
            return Ok(fetched);
        }
        Err(CloopError::NotCloop) if is_squashfs(&range) && range.is_whole() => return Ok(fetched),
        Err(CloopError::NotCloop) if is_squashfs(&range) => {
            let path = services.derive(&derived, &mut |out| Ok(range.copy(out)?))?;
            return Ok(CachedFile { path, ..fetched });
        }
        Err(CloopError::NotCloop) if range.is_whole() => {
            return Err(KnoppixFault::Unknown { file, what: "neither of KNOPPIX's formats" }.into());
        }
        Err(source) => return Err(KnoppixFault::Cloop { file, source }.into()),
    };
    let path = services.derive(&derived, &mut |out| {
        let advance = services.progress(&format!("unpacking {file}"), cloop.size());
        for block in 0..cloop.blocks() {
            let raw =
                cloop.block(block).map_err(|source| KnoppixFault::Cloop { file: file.clone(), source })?;
            out.write_all(&raw)?;
            advance(raw.len() as u64);
        }
        Ok(())
    })?;
    Ok(CachedFile { path, ..fetched })
}
