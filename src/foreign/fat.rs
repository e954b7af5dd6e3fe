//! A FAT volume on a medium that is only read: what is written to it stays beside it, sector by sector.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use fatfs::{Date, DateTime, FileSystem, FsOptions, Time, TimeProvider};

use crate::ext2::ReadAt;

/// Bytes of a sector: what a FAT volume is made of here.
pub const SECTOR: u64 = 512;
/// A text of more than this is refused.
const MAX_TEXT: u64 = 64 << 10;
/// Where the first sector has the number of sectors, if 16 bits are enough for it, and else.
const TOTAL_SECTORS_16: Range<usize> = 19..21;
const TOTAL_SECTORS_32: Range<usize> = 32..36;
/// Bytes that may be read and written for each byte of the volume, and for any: a chain of clusters that leads in a circle
/// has no end.
const WORK: (u64, u64) = (16, 16 << 20);

/// Bytes that stand in place of a medium's own: where, and what.
pub type Patches = Vec<(u64, Vec<u8>)>;

/// A part of a medium as a file of its own.
struct Volume<'a> {
    medium: &'a dyn ReadAt,
    start: u64,
    len: u64,
    at: u64,
    written: BTreeMap<u64, Vec<u8>>,
    /// Bytes that may still be read and written.
    work: u64,
}

/// Puts a text in place of that of a file in the root of the FAT volume at `start`, `len` bytes long: `text`
/// makes the new one of the old. What then has to stand on the medium, or `None` if the volume has no such file.
///
/// # Errors
/// No FAT volume, a damaged one, no room, or the medium's own errors.
pub fn rewrite(
    medium: &dyn ReadAt,
    (start, len): (u64, u64),
    name: &str,
    text: impl FnOnce(&[u8]) -> String,
) -> io::Result<Option<Patches>> {
    let work = len.saturating_mul(WORK.0).saturating_add(WORK.1);
    let mut volume = Volume { medium, start, len, at: 0, written: BTreeMap::new(), work };
    volume.check()?;
    {
        let options = FsOptions::new().update_accessed_date(false).time_provider(&Epoch);
        let fat = FileSystem::new(&mut volume, options)?;
        let mut file = match fat.root_dir().open_file(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut old = Vec::new();
        (&mut file).take(MAX_TEXT).read_to_end(&mut old)?;
        file.rewind()?;
        file.truncate()?;
        file.write_all(text(&old).as_bytes())?;
        file.flush()?;
    }
    volume.patches().map(Some)
}

impl Volume<'_> {
    fn patches(self) -> io::Result<Patches> {
        let mut patches = Patches::new();
        for (sector, bytes) in self.written {
            let at = self.start + sector * SECTOR;
            let mut old = vec![0; bytes.len()];
            self.medium.read_exact_at(at, &mut old)?;
            if old != bytes {
                patches.push((at, bytes));
            }
        }
        Ok(patches)
    }

    /// Whether the numbers at the start of the volume can be: `fatfs` calculates with them in 32 bits. (Offsets and names:
    /// Microsoft's *FAT: General Overview of On-Disk Format*.)
    fn check(&self) -> io::Result<()> {
        let bpb = self.sector(0)?;
        let bytes =
            |at: usize| bpb.get(at..at + 4).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        let word = |at| u64::from(u32::from_le_bytes(bytes(at)));
        let half = |at| word(at) & 0xffff;
        let (sector, per_cluster, reserved, fats) = (half(11), word(13) & 0xff, half(14), word(16) & 0xff);
        let root_entries = half(17);
        let sectors = if half(19) == 0 { word(32) } else { half(19) };
        let per_fat = if half(22) == 0 { word(36) } else { half(22) };
        let damaged = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
        if !matches!(sector, 512 | 1024 | 2048 | 4096) || !per_cluster.is_power_of_two() {
            return damaged("no FAT volume: sectors or clusters of a size that none has");
        }
        let data = reserved + fats * per_fat + (root_entries * 32).div_ceil(sector);
        if per_fat == 0 || sectors <= data || per_fat * sector * 8 > u64::from(u32::MAX) {
            return damaged("damaged FAT volume: its tables take more sectors than it has");
        }
        Ok(())
    }

    /// Takes account of so many bytes read or written.
    fn spend(&mut self, len: usize) -> io::Result<()> {
        let what = "damaged FAT volume: its clusters lead in a circle";
        let left = self.work.checked_sub(len as u64);
        self.work = left.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, what))?;
        Ok(())
    }

    /// The sector at hand, where in it we are, and how many of `want` bytes it has from there.
    fn here(&self, want: usize) -> (u64, usize, usize) {
        let (sector, within) = (self.at / SECTOR, usize::try_from(self.at % SECTOR).unwrap_or(0));
        let left = usize::try_from(self.len.saturating_sub(self.at).min(SECTOR)).unwrap_or(0);
        (sector, within, want.min(512 - within).min(left))
    }

    /// A sector as `fatfs` takes it. Plan 9's disk/format writes the number of sectors into both fields that there are for
    /// it, where others leave that of 32 bits empty; `fatfs` takes that for damage. What is written is not changed.
    fn readable_sector(&self, number: u64) -> io::Result<Vec<u8>> {
        let mut bytes = self.sector(number)?;
        if number == 0
            && bytes.get(TOTAL_SECTORS_16).is_some_and(|field| field != [0, 0])
            && let Some(field) = bytes.get_mut(TOTAL_SECTORS_32)
        {
            field.fill(0);
        }
        Ok(bytes)
    }

    fn sector(&self, number: u64) -> io::Result<Vec<u8>> {
        if let Some(written) = self.written.get(&number) {
            return Ok(written.clone());
        }
        let len = (self.len - number * SECTOR).min(SECTOR);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.medium.read_exact_at(self.start + number * SECTOR, &mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Volume<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (sector, within, len) = self.here(buf.len());
        if len > 0 {
            self.spend(len)?;
            let bytes = self.readable_sector(sector)?;
            buf[..len].copy_from_slice(&bytes[within..within + len]);
            self.at += len as u64;
        }
        Ok(len)
    }
}

impl Write for Volume<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let (sector, within, len) = self.here(buf.len());
        if len > 0 {
            self.spend(len)?;
            let mut bytes = self.sector(sector)?;
            bytes[within..within + len].copy_from_slice(&buf[..len]);
            self.written.insert(sector, bytes);
            self.at += len as u64;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Volume<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// The beginning of FAT's calendar: no output depends on the clock.
#[derive(Debug)]
pub struct Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}
