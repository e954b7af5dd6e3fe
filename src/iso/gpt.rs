//! Partition tables over a finished ISO: a GPT, a backup of it at the end, and the protective MBR before it.
//!
//! ```text
//! sector  0        MBR: GRUB's code, which knows where the BIOS core lies, and the protective partition
//!         1        GPT header                                     the ISO's system area: 64 sectors
//!         2..=33   128 partition entries                          that ISO 9660 leaves free
//!         64       partition 1: the ISO from its second volume descriptors on, so it mounts by itself
//!         ...      partition 2: the ESP
//!         ...      room for the backup: entries, and the header as the last sector
//! ```
//!
//! xorriso makes the ISO, reserves the room and says in an MBR of its own where things are; [`lay`] takes that
//! MBR as the plan and replaces it. Sectors are of 512 bytes. Partitions are aligned to 2,048 bytes, CD sectors.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{Read, Seek, Write};
use std::ops::Range;

use gpt::disk::LogicalBlockSize::Lb512;
use gpt::mbr::{MBRError, PartRecord, ProtectiveMBR};
use gpt::partition::Partition;
use gpt::partition_types::{BASIC, EFI, Type};
use gpt::{GptConfig, GptError};
use uuid::Uuid;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Where partition 1 begins: after the 32 KiB of the system area.
pub const ISO_START: u64 = 64;
/// Sectors that the backup needs at the end: 32 of entries and a header, rounded up to CD sectors.
pub const BACKUP_SECTORS: u64 = 36;
/// Partition number, in xorriso's MBR and in the GPT, of the ESP.
pub const ESP_NUMBER: usize = 2;
/// Partition number, in xorriso's MBR only, of the room for the backup.
pub const BACKUP_NUMBER: usize = 3;

/// Where the parts of an ISO lie, in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partitions {
    /// The ISO, from [`ISO_START`] on.
    pub iso: Range<u64>,
    /// Sectors of the EFI system partition.
    pub esp: Range<u64>,
}

/// Identities of a medium, all derived from one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The GPT's disk GUID.
    pub disk: Uuid,
    /// GUID of partition 1, the ISO 9660 file system.
    pub iso: Uuid,
    /// GUID of partition 2, the EFI system partition.
    pub esp: Uuid,
}

impl Identity {
    /// The same name gives the same identities, everywhere and always.
    pub fn of(name: &str) -> Self {
        let root = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"urn:imgfactory:medium");
        let of = |part: &str| Uuid::new_v5(&root, format!("{name}/{part}").as_bytes());
        Identity { disk: of("disk"), iso: of("iso"), esp: of("esp") }
    }

    /// A number for file systems that have no room for more: the first 32 bits of the ESP's.
    pub fn volume_id(&self) -> u32 {
        self.esp.as_fields().0
    }
}

/// Why there are no partition tables.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// xorriso's MBR does not show what it was asked to make.
    #[error("the ISO's MBR: {what}")]
    Unexpected { what: String },
    /// The MBR could not be read or written.
    #[error("the ISO's MBR: can't read or write it")]
    Mbr(#[from] MBRError),
    /// The GPT could not be written.
    #[error("the ISO's GPT: can't write it")]
    Gpt(#[from] GptError),
}

/// Replaces the MBR that xorriso wrote by a protective one and a GPT; gives what is where.
///
/// # Errors
/// [`TableError`].
pub fn lay<D: Read + Write + Seek + Debug>(
    mut iso: D,
    identity: &Identity,
) -> Result<Partitions, TableError> {
    let mut mbr = ProtectiveMBR::from_disk(&mut iso, Lb512)?;
    let length = iso.seek(std::io::SeekFrom::End(0)).map_err(GptError::Io)?;
    let partitions = planned(&mbr, length)?;

    let sectors = length / SECTOR;
    // A disk larger than the field has all of it set.
    let protected = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    // There are BIOSes that start a disk only if some partition is active. The protective one must not be (UEFI
    // 2.10, table 5.4), so an empty one of no type is.
    let active = PartRecord { boot_indicator: 0x80, lb_size: 1, ..PartRecord::zero() };
    let records =
        [PartRecord::new_protective(Some(protected)), active, PartRecord::zero(), PartRecord::zero()];
    for (at, record) in records.into_iter().enumerate() {
        mbr.set_partition(at, record);
    }
    let [a, b, c, d, ..] = *identity.disk.as_bytes();
    mbr.set_disk_signature([a, b, c, d]);
    mbr.overwrite_lba0(&mut iso)?;

    let mut table = GptConfig::new()
        .writable(true)
        .change_partition_count(true)
        .logical_block_size(Lb512)
        .create_from_device(iso, Some(identity.disk))?;
    table.update_partitions(BTreeMap::from([
        (1, partition("imgfactory ISO", BASIC, identity.iso, &partitions.iso)),
        (2, partition("imgfactory ESP", EFI, identity.esp, &partitions.esp)),
    ]))?;
    table.write()?.flush().map_err(GptError::Io)?;
    Ok(partitions)
}

/// What is where on a medium that [`lay`] has been at.
///
/// # Errors
/// [`TableError`].
pub fn read<D: Read + Write + Seek + Debug>(iso: D) -> Result<Partitions, TableError> {
    let table = GptConfig::new().writable(false).logical_block_size(Lb512).open_from_device(iso)?;
    let range = |number| {
        let found = table.partitions().get(&number);
        let found = found.and_then(|found| Some(found.first_lba..found.last_lba.checked_add(1)?));
        found.ok_or_else(|| TableError::Unexpected { what: format!("no partition {number}") })
    };
    Ok(Partitions { iso: range(1)?, esp: range(2)? })
}

fn partition(name: &str, part_type_guid: Type, part_guid: Uuid, at: &Range<u64>) -> Partition {
    let name = name.to_owned();
    Partition { part_type_guid, part_guid, first_lba: at.start, last_lba: at.end - 1, flags: 0, name }
}

/// What xorriso's MBR says of a medium of `length` bytes, checked against what it was asked for.
fn planned(mbr: &ProtectiveMBR, length: u64) -> Result<Partitions, TableError> {
    let unexpected = |what: String| TableError::Unexpected { what };
    // Partition `number`, from 1; the MBR has four.
    let range = |number: usize| {
        let record = mbr.partition(number - 1).unwrap_or(PartRecord::zero());
        let start = u64::from(record.lb_start);
        start..start + u64::from(record.lb_size)
    };
    let (iso, esp, backup) = (range(1), range(ESP_NUMBER), range(BACKUP_NUMBER));
    for (name, part) in [("ISO", &iso), ("ESP", &esp), ("backup", &backup)] {
        if part.is_empty() || part.start % 4 != 0 {
            return Err(unexpected(format!(
                "the {name} has sectors {part:?}; expected some that begin at a multiple of 4"
            )));
        }
    }
    if iso.start != ISO_START || iso.end > esp.start || esp.end > backup.start {
        return Err(unexpected(format!(
            "ISO {iso:?}, ESP {esp:?} and backup {backup:?} are not one after the other from {ISO_START} on"
        )));
    }
    if backup.end * SECTOR != length || backup.end - backup.start != BACKUP_SECTORS {
        return Err(unexpected(format!(
            "the backup has sectors {backup:?}; expected the last {BACKUP_SECTORS} of {length} bytes"
        )));
    }
    Ok(Partitions { iso, esp })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A medium of `sectors` with an MBR that has these ranges.
    fn medium(parts: [Range<u32>; 3], sectors: usize) -> Vec<u8> {
        let mut mbr = ProtectiveMBR::new();
        mbr.set_bootcode([0xfa; 440]);
        for (at, part) in parts.into_iter().enumerate() {
            let (lb_start, lb_size) = (part.start, part.end - part.start);
            mbr.set_partition(at, PartRecord { lb_start, lb_size, os_type: 0xcd, ..PartRecord::zero() });
        }
        let mut bytes = vec![0xaa; sectors * 512];
        bytes[..512].copy_from_slice(&mbr.to_bytes());
        bytes
    }

    #[test]
    fn both_tables_say_what_is_where_and_boot_code_and_contents_stay() {
        let mut bytes = medium([64..200, 200..264, 264..300], 300);
        let identity = Identity::of("demo");
        let partitions = lay(Cursor::new(&mut bytes), &identity).unwrap();
        assert_eq!(partitions, Partitions { iso: 64..200, esp: 200..264 });

        let table =
            GptConfig::new().only_valid_headers(true).open_from_device(Cursor::new(&mut bytes)).unwrap();
        let found: Vec<_> = table
            .partitions()
            .values()
            .map(|part| (part.part_type_guid.clone(), part.part_guid, part.first_lba, part.last_lba))
            .collect();
        assert_eq!(found, [(BASIC, identity.iso, 64, 199), (EFI, identity.esp, 200, 263)]);
        assert_eq!(*table.guid(), identity.disk);
        let (primary, backup) = (table.primary_header().unwrap(), table.backup_header().unwrap());
        assert_eq!((primary.current_lba, primary.backup_lba, primary.num_parts), (1, 299, 128));
        assert_eq!((backup.current_lba, backup.part_start), (299, 267));

        let mbr = ProtectiveMBR::from_bytes(&bytes[..512], Lb512).unwrap();
        assert_eq!(mbr.bootcode(), &[0xfa; 440]);
        assert_eq!(mbr.partition(0), Some(PartRecord::new_protective(Some(299))));
        assert!(bytes[34 * 512..264 * 512].iter().all(|&byte| byte == 0xaa));
    }

    #[test]
    fn an_mbr_that_is_not_as_planned_is_refused_and_left_alone() {
        for (parts, sectors, said) in [
            (
                [0..0, 200..264, 264..300],
                300,
                "the ISO has sectors 0..0; expected some that begin at a multiple of 4",
            ),
            (
                [64..200, 0..0, 264..300],
                300,
                "the ESP has sectors 0..0; expected some that begin at a multiple of 4",
            ),
            (
                [64..200, 202..264, 264..300],
                300,
                "the ESP has sectors 202..264; expected some that begin at a multiple of 4",
            ),
            (
                [64..204, 200..264, 264..300],
                300,
                "ISO 64..204, ESP 200..264 and backup 264..300 are not one after the other from 64 on",
            ),
            (
                [64..200, 200..264, 264..300],
                304,
                "the backup has sectors 264..300; expected the last 36 of 155648 bytes",
            ),
        ] {
            let bytes = medium(parts, sectors);
            let mut after = bytes.clone();
            let error = lay(Cursor::new(&mut after), &Identity::of("demo")).unwrap_err();
            assert_eq!(error.to_string(), format!("the ISO's MBR: {said}"));
            assert_eq!(after, bytes);
        }
    }

    #[test]
    fn names_and_nothing_else_make_identities() {
        assert_eq!(Identity::of("demo"), Identity::of("demo"));
        assert_ne!(Identity::of("demo"), Identity::of("demo2"));
        // Fixed for good: what an earlier version made must stay the same disk.
        assert_eq!(Identity::of("demo").disk.to_string(), "23a09891-b5a2-5e5c-9549-add0bdb6803e");
    }
}
