//! Directory entries in the linear format: records that fill each block to its end.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | u32 | `inode`, 0 for an empty record |
//! | 4 | u16 | `rec_len`, to the next record, a multiple of 4 |
//! | 6 | u8 | `name_len` |
//! | 7 | u8 | `file_type` |
//! | 8 | bytes | `name` |

use super::geometry::BLOCK;

/// Longest name (`EXT2_NAME_LEN`).
pub const NAME_MAX: usize = 255;

/// Bytes of `.` and `..` at the start of a directory.
pub const DOTS: u16 = 24;

/// End of a block as an offset in it.
const BLOCK_END: u16 = 4096;

const _: () = assert!(BLOCK == BLOCK_END as u32);

/// `file_type` of a directory.
pub const FT_DIR: u8 = 2;

/// Place of one entry in a block of a directory. Its record goes to the next one, or to the end of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirentSlot {
    /// Offset in the block, a multiple of 4; below 24 in the first block are `.` and `..`.
    pub offset: u16,
    /// Which of the directory's entries, in the order of their names.
    pub entry: u32,
}

/// Bytes that an entry with such a name takes.
///
/// # Panics
/// If the name is longer than [`NAME_MAX`].
pub fn record_len(name: &[u8]) -> u16 {
    assert!(name.len() <= NAME_MAX, "names were checked");
    u16::try_from((8 + name.len()).next_multiple_of(4)).expect("at most 264")
}

/// Entries one after the other in their order, a new block when one is full: as a directory is that was
/// filled once.
pub fn pack<'n>(names: impl Iterator<Item = &'n [u8]>) -> Vec<Vec<DirentSlot>> {
    let mut blocks = vec![vec![]];
    let mut offset = DOTS;
    for (name, entry) in names.zip(0..) {
        let len = record_len(name);
        if offset + len > BLOCK_END {
            blocks.push(vec![]);
            offset = 0;
        }
        blocks.last_mut().expect("never empty").push(DirentSlot { offset, entry });
        offset += len;
    }
    blocks
}

/// Whether a block's slots ascend, are aligned, and leave room for their entries' records. `first` is where
/// the first may be: 24 in a directory's first block, 0 in others.
pub fn fits<'n>(slots: &[DirentSlot], first: u16, name: impl Fn(u32) -> Option<&'n [u8]>) -> bool {
    let mut free = first;
    for slot in slots {
        let Some(name) = name(slot.entry) else { return false };
        if slot.offset < free || !slot.offset.is_multiple_of(4) || slot.offset >= BLOCK_END {
            return false;
        }
        // An empty record at the start of a block needs 12 bytes for its own header and 4 more.
        if free == 0 && (1..12).contains(&slot.offset) {
            return false;
        }
        free = slot.offset + record_len(name);
    }
    free <= BLOCK_END
}

/// What [`encode_block`] writes for one record.
pub struct Written<'n> {
    /// Offset in the block.
    pub offset: u16,
    pub inode: u32,
    /// `file_type`.
    pub file_type: u8,
    pub name: &'n [u8],
}

/// Writes a block, zeros before. Records ascend and fit, see [`fits`]; a gap before the first, or a block
/// without any, becomes an empty record.
pub fn encode_block<'n>(block: &mut [u8], records: impl Iterator<Item = Written<'n>>) {
    let mut open: u16 = 0;
    for record in records {
        if record.offset > 0 {
            put_u16(block, open + 4, record.offset - open);
        }
        open = record.offset;
        let at = usize::from(record.offset);
        block[at..at + 4].copy_from_slice(&record.inode.to_le_bytes());
        block[at + 6] = u8::try_from(record.name.len()).expect("names were checked");
        block[at + 7] = record.file_type;
        block[at + 8..at + 8 + record.name.len()].copy_from_slice(record.name);
    }
    put_u16(block, open + 4, BLOCK_END - open);
}

fn put_u16(block: &mut [u8], offset: u16, value: u16) {
    block[usize::from(offset)..][..2].copy_from_slice(&value.to_le_bytes());
}

/// A record as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirentRecord<'b> {
    /// Offset in the block.
    pub offset: usize,
    pub inode: u32,
    /// `file_type`; the high byte of the name's length in file systems without `filetype`, hence 0.
    pub file_type: u8,
    /// Name, 1 to 255 bytes without `/` or NUL.
    pub name: &'b [u8],
}

/// What is wrong with a record; `offset` is where it is in its block.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadRecord {
    /// `rec_len` is not aligned, too short for the name, or goes beyond the block.
    #[error("the record at {offset} has length {rec_len}")]
    Length { offset: usize, rec_len: u16 },
    /// The name is empty, or has a byte that no name has.
    #[error("the record at {offset} has an impossible name")]
    Name { offset: usize },
}

/// The records in use of a block of 1 to 4 KiB; ends after the first bad one.
pub fn decode_block(block: &[u8]) -> impl Iterator<Item = Result<DirentRecord<'_>, BadRecord>> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        while let Some(header) = block.get(offset..).and_then(<[u8]>::first_chunk::<8>) {
            let at = offset;
            let rec_len = u16::from_le_bytes([header[4], header[5]]);
            let inode = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            let record = block.get(at..at.saturating_add(usize::from(rec_len))).unwrap_or_default();
            let name = record.get(8..8 + usize::from(header[6]));
            let Some(name) = name.filter(|_| rec_len.is_multiple_of(4)) else {
                offset = block.len();
                return Some(Err(BadRecord::Length { offset: at, rec_len }));
            };
            offset = at.saturating_add(record.len());
            if inode == 0 {
                continue;
            }
            if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
                offset = block.len();
                return Some(Err(BadRecord::Name { offset: at }));
            }
            return Some(Ok(DirentRecord { offset: at, inode, file_type: header[7], name }));
        }
        if offset < block.len() {
            let bad = BadRecord::Length { offset, rec_len: 0 };
            offset = block.len();
            return Some(Err(bad));
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(offset: u16, name: &[u8]) -> Written<'_> {
        Written { offset, inode: 11, file_type: 1, name }
    }

    fn names(block: &[u8]) -> Result<Vec<(usize, Vec<u8>)>, BadRecord> {
        decode_block(block).map(|record| record.map(|record| (record.offset, record.name.to_vec()))).collect()
    }

    #[test]
    fn records_reach_to_the_next_and_the_last_to_the_end() {
        let mut block = vec![0; 4096];
        encode_block(&mut block, [written(16, b"a"), written(40, b"bc")].into_iter());
        assert_eq!(names(&block), Ok(vec![(16, b"a".to_vec()), (40, b"bc".to_vec())]));
        assert_eq!(block[..6], [0, 0, 0, 0, 16, 0], "an empty record before the first");
        assert_eq!(block[16..25], [11, 0, 0, 0, 24, 0, 1, 1, b'a']);
        assert_eq!(u16::from_le_bytes([block[44], block[45]]), 4096 - 40);

        let mut empty = vec![0; 4096];
        encode_block(&mut empty, std::iter::empty());
        assert_eq!(names(&empty), Ok(vec![]));
        assert_eq!(empty[..6], [0, 0, 0, 0, 0, 16]);
    }

    #[test]
    fn packing_fills_blocks_to_the_last_byte() {
        // 24 bytes of dots, then records of 8 + 4 = 12, 339 of which leave 4 bytes.
        let names: Vec<[u8; 4]> = (0..1000).map(|nth: u32| nth.to_be_bytes()).collect();
        let blocks = pack(names.iter().map(|name| &name[..]));
        assert_eq!(blocks.iter().map(Vec::len).collect::<Vec<_>>(), [339, 341, 320]);
        for (nth, slots) in blocks.iter().enumerate() {
            let first = if nth == 0 { DOTS } else { 0 };
            assert!(fits(slots, first, |entry| names.get(entry as usize).map(|name| &name[..])));
        }
        assert_eq!(pack(std::iter::empty()), [vec![]]);
    }

    #[test]
    fn slots_that_do_not_fit_are_seen() {
        let slot = |offset, entry| DirentSlot { offset, entry };
        let long = [b'x'; 255];
        let name = |entry| [&b"a"[..], &long].get(entry as usize).copied();
        let cases: [(&[DirentSlot], u16, bool); 10] = [
            (&[], 0, true),
            (&[slot(0, 0), slot(12, 1)], 0, true),
            (&[slot(0, 0), slot(12, 1)], DOTS, false),
            (&[slot(0, 0), slot(8, 1)], 0, false),
            (&[slot(8, 0)], 0, false),
            (&[slot(12, 0)], 0, true),
            (&[slot(26, 0)], DOTS, false),
            (&[slot(3832, 1)], 0, true),
            (&[slot(3836, 1)], 0, false),
            (&[slot(0, 2)], 0, false),
        ];
        for (slots, first, fit) in cases {
            assert_eq!(fits(slots, first, name), fit, "{slots:?} from {first}");
        }
    }

    #[test]
    fn decode_rejects_each_damage_by_name() {
        let mut good = vec![0; 1024];
        encode_block(&mut vec![0; 4096], std::iter::empty());
        good[..12].copy_from_slice(&[5, 0, 0, 0, 12, 0, 1, 1, b'a', 0, 0, 0]);
        good[12..24].copy_from_slice(&[6, 0, 0, 0, 0xf4, 3, 2, 1, b'b', b'c', 0, 0]);
        assert_eq!(names(&good), Ok(vec![(0, b"a".to_vec()), (12, b"bc".to_vec())]));
        let length = |offset, rec_len| BadRecord::Length { offset, rec_len };
        let cases: [(usize, &[u8], BadRecord); 8] = [
            (4, &[0, 0], length(0, 0)),
            (4, &[8, 0], length(0, 8)),
            (4, &[13, 0], length(0, 13)),
            (16, &[0xf8, 3], length(12, 0x3f8)),
            (16, &[0xf0, 3], length(1020, 0)),
            (6, &[0], BadRecord::Name { offset: 0 }),
            (8, b"/", BadRecord::Name { offset: 0 }),
            (21, &[0], BadRecord::Name { offset: 12 }),
        ];
        for (at, bytes, expected) in cases {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(names(&bad), Err(expected), "{bytes:?} at {at}");
        }
    }
}
