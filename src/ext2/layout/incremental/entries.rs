//! Directory entries: kept where they are, new ones in the gaps.

use std::mem;

use crate::ext2::demand::DemandedEntry;
use crate::ext2::dirent::{DOTS, DirentSlot, fits, pack, record_len};
use crate::ext2::layout::map::MappedEntry;

/// End of a block.
const END: u16 = 4096;

/// Places of a directory's entries, ascending by name, when `old` are those that it had, block by block. Names that were
/// there stay in place. New ones go into the first gap of a block that has lost an entry, or else of any; then come new
/// blocks. Blocks at the end that have nothing left are dropped, down to `least`.
pub(super) fn keep(
    old: &[Vec<MappedEntry>],
    entries: &[DemandedEntry<'_>],
    least: usize,
) -> Vec<Vec<DirentSlot>> {
    // By their names, as they stand in it.
    let mut left: Vec<bool> = vec![true; entries.len()];
    let mut blocks: Vec<Vec<DirentSlot>> = Vec::with_capacity(old.len());
    let mut lost = Vec::with_capacity(old.len());
    for block in old {
        let kept: Vec<DirentSlot> = block
            .iter()
            .filter_map(|entry| {
                let nth = entries.binary_search_by(|now| now.name.cmp(&entry.name)).ok()?;
                let nth = mem::take(&mut left[nth]).then_some(nth)?;
                Some(DirentSlot {
                    offset: entry.offset,
                    entry: u32::try_from(nth).expect("one of 2^29 inodes"),
                })
            })
            .collect();
        lost.push(kept.len() < block.len());
        blocks.push(kept);
    }
    let name = |nth: u32| entries[nth as usize].name;
    let sound = blocks.iter().enumerate().all(|(nth, slots)| fits(slots, first(nth), |at| Some(name(at))));
    if !sound || blocks.is_empty() {
        // What the map says can't be: then the directory is as good as new.
        let mut blocks = pack(entries.iter().map(|entry| entry.name));
        blocks.resize(blocks.len().max(least), vec![]);
        return blocks;
    }

    let new = (0..).zip(left).filter_map(|(entry, left)| left.then_some(entry));
    let mut search: Vec<usize> = (0..blocks.len()).collect();
    search.sort_by_key(|&nth| !lost[nth]);
    for entry in new {
        let len = record_len(name(entry));
        let found = search.iter().find_map(|&nth| Some((nth, gap(&blocks[nth], first(nth), len, name)?)));
        let (nth, at, offset) = match found {
            Some((nth, (at, offset))) => (nth, at, offset),
            None => {
                blocks.push(vec![]);
                search.push(blocks.len() - 1);
                (blocks.len() - 1, 0, 0)
            }
        };
        blocks[nth].insert(at, DirentSlot { offset, entry });
    }
    while blocks.len() > least.max(1) && blocks.last().is_some_and(Vec::is_empty) {
        blocks.pop();
    }
    blocks.resize(blocks.len().max(least), vec![]);
    blocks
}

fn first(block: usize) -> u16 {
    if block == 0 { DOTS } else { 0 }
}

/// The first gap of `len` bytes in a block: which slot it comes before, and its offset.
fn gap<'n>(
    slots: &[DirentSlot],
    first: u16,
    len: u16,
    name: impl Fn(u32) -> &'n [u8],
) -> Option<(usize, u16)> {
    let mut free = first;
    for (at, slot) in slots.iter().enumerate() {
        if slot.offset - free >= len {
            return Some((at, free));
        }
        free = slot.offset + record_len(name(slot.entry));
    }
    (END - free >= len).then_some((slots.len(), free))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries<'n>(names: &[&'n str]) -> Vec<DemandedEntry<'n>> {
        names.iter().map(|name| DemandedEntry { name: name.as_bytes(), target: 0 }).collect()
    }

    /// `name@offset` of each entry, blocks apart.
    fn shown(blocks: &[Vec<DirentSlot>], entries: &[DemandedEntry<'_>]) -> String {
        let one = |slot: &DirentSlot| {
            format!("{}@{}", String::from_utf8_lossy(entries[slot.entry as usize].name), slot.offset)
        };
        blocks
            .iter()
            .map(|slots| slots.iter().map(one).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
            .join(" | ")
    }

    fn old(blocks: &[Vec<DirentSlot>], entries: &[DemandedEntry<'_>]) -> Vec<Vec<MappedEntry>> {
        let one = |slot: &DirentSlot| MappedEntry {
            offset: slot.offset,
            ino: 12,
            name: entries[slot.entry as usize].name.to_vec(),
        };
        blocks.iter().map(|slots| slots.iter().map(one).collect()).collect()
    }

    #[test]
    fn names_stay_and_new_ones_fill_gaps() {
        let before = entries(&["bin", "etc", "lib", "usr"]);
        let blocks = pack(before.iter().map(|entry| entry.name));
        assert_eq!(shown(&blocks, &before), "bin@24 etc@36 lib@48 usr@60");
        let cases: [(&[&str], &str); 5] = [
            (&["bin", "etc", "lib", "usr"], "bin@24 etc@36 lib@48 usr@60"),
            (&["bin", "lib", "usr"], "bin@24 lib@48 usr@60"),
            (&["bin", "lib", "sys", "usr"], "bin@24 sys@36 lib@48 usr@60"),
            (&["bin", "libraries", "usr"], "bin@24 libraries@36 usr@60"),
            (
                &["a-name-of-20-letters", "bin", "etc", "lib", "usr"],
                "bin@24 etc@36 lib@48 usr@60 a-name-of-20-letters@72",
            ),
        ];
        for (names, expected) in cases {
            let after = entries(names);
            assert_eq!(shown(&keep(&old(&blocks, &before), &after, 1), &after), expected);
        }
    }

    #[test]
    fn blocks_come_when_all_are_full_and_go_when_the_last_is_empty() {
        let names: Vec<String> = (0..700).map(|nth| format!("{nth:04}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let before = entries(&names);
        let blocks = pack(before.iter().map(|entry| entry.name));
        assert_eq!(blocks.len(), 3);
        let was = old(&blocks, &before);
        let fewer = entries(&names[..600]);
        assert_eq!(keep(&was, &fewer, 1).len(), 2);
        assert_eq!(keep(&was, &fewer, 4).len(), 4, "lost+found has four whatever is in it");
        let without_first = entries(&names[1..]);
        let kept = keep(&was, &without_first, 1);
        assert_eq!((kept.len(), kept[0].len()), (3, 338));
        let long = "x".repeat(255);
        let mut more: Vec<&str> = names.clone();
        let longs: Vec<String> = (0..20).map(|nth| format!("{}{nth:02}", &long[2..])).collect();
        more.extend(longs.iter().map(String::as_str));
        more.sort_unstable();
        let more = entries(&more);
        let kept = keep(&was, &more, 1);
        let all: usize = kept.iter().map(Vec::len).sum();
        assert_eq!((kept.len(), all), (4, 720));
    }

    #[test]
    fn a_map_that_can_not_be_is_not_believed() {
        let after = entries(&["a", "b"]);
        let overlapping = vec![vec![
            MappedEntry { offset: 24, ino: 12, name: b"a".to_vec() },
            MappedEntry { offset: 28, ino: 13, name: b"b".to_vec() },
        ]];
        assert_eq!(shown(&keep(&overlapping, &after, 1), &after), "a@24 b@36");
        assert_eq!(shown(&keep(&[], &after, 1), &after), "a@24 b@36");
    }
}
