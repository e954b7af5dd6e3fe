//! `dlahead`: the blocks that a boot reads, in order of first read, for a client to fetch ahead of need
//! (DLAHEAD in the paper, section 4.4). By name and not by number, so that it outlives a release in which they
//! did not change.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, BufRead, Write};
use std::str::FromStr;

use super::{MAX_DLAHEAD, MAX_LINE, ReleaseTextFault};
use crate::block::BlockName;
use crate::index::{BlockContents, Index};
use crate::names::{ImageName, Serial};
use crate::text::{At, Lines, TextFault, number32, words};

/// The comment below the header, for people.
const LEGEND: &str = "# phase  md5  first read after start (ms)  reads";

/// A prefetch list (`dlahead`): the blocks that a boot reads, in order of first read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dlahead {
    pub image: ImageName,
    /// The release that it was made for.
    pub serial: Serial,
    /// Each block once, in order of first read.
    pub entries: Vec<PrefetchBlock>,
}

/// One block of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefetchBlock {
    /// During what it is read.
    pub phase: Phase,
    pub name: BlockName,
    /// First read, milliseconds after the start.
    pub first_read_ms: u32,
    /// How often it was read.
    pub reads: u32,
}

/// What was going on: `boot`, `login`, ...; 1 to 16 of `a-z`, `0-9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Phase(String);

impl Phase {
    /// From the start on.
    pub fn boot() -> Phase {
        Phase("boot".into())
    }

    /// From the first prompt for a login on.
    pub fn login() -> Phase {
        Phase("login".into())
    }
}

impl FromStr for Phase {
    type Err = ReleaseTextFault;
    fn from_str(text: &str) -> Result<Self, ReleaseTextFault> {
        let plain = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if plain && (1..=16).contains(&text.len()) {
            Ok(Phase(text.into()))
        } else {
            Err(ReleaseTextFault::Phase(text.into()))
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Dlahead {
    /// Writes the text.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn encode(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "imgfactory-dlahead 1\nimage: {}\nserial: {}\n{LEGEND}", self.image, self.serial)?;
        self.entries.iter().try_for_each(|PrefetchBlock { phase, name, first_read_ms, reads }| {
            writeln!(out, "{phase} {name} {first_read_ms} {reads}")
        })
    }

    /// Reads the text. Lines that begin with `#` are skipped: people write into this file.
    ///
    /// # Errors
    /// The line and its [`ReleaseTextFault`].
    pub fn decode(text: impl BufRead) -> Result<Dlahead, At<ReleaseTextFault>> {
        let mut lines = Lines::new(text, MAX_DLAHEAD, MAX_LINE);
        decode(&mut lines).map_err(|fault| At { file: "dlahead", line: lines.number(), fault })
    }
}

/// Several boots -> one list: the blocks that at least half of them read, in the order of the median of their first
/// reads. `reads` is then the number of boots.
pub fn merge(runs: &[Vec<PrefetchBlock>]) -> Vec<PrefetchBlock> {
    let mut all: HashMap<BlockName, (Phase, Vec<u32>)> = HashMap::new();
    for ahead in runs.iter().flatten() {
        let (_, times) = all.entry(ahead.name).or_insert_with(|| (ahead.phase.clone(), Vec::new()));
        times.push(ahead.first_read_ms);
    }
    let mut entries: Vec<PrefetchBlock> = all
        .into_iter()
        .filter(|(_, (_, times))| 2 * times.len() >= runs.len())
        .map(|(name, (phase, mut times))| {
            times.sort_unstable();
            let reads = u32::try_from(times.len()).unwrap_or(u32::MAX);
            PrefetchBlock { phase, name, first_read_ms: times[times.len() / 2], reads }
        })
        .collect();
    entries.sort_unstable_by_key(|ahead| (ahead.first_read_ms, ahead.name));
    entries
}

impl Dlahead {
    /// The same list for another disk. A block that is still there stays; one that changed is replaced by what lies
    /// now where it lay; what is no longer there goes.
    pub fn carried(&self, from: Option<&Index>, to: &Index) -> Dlahead {
        let known: HashMap<BlockName, u32> = to.objects().iter().map(|object| object.name).zip(0..).collect();
        // Where each block lay first.
        let mut places: HashMap<BlockName, u32> = HashMap::new();
        for (block, target) in (0..).zip(from.into_iter().flat_map(Index::targets)) {
            if let (BlockContents::Object(id), Some(from)) = (target, from)
                && let Some(object) = from.object(id)
            {
                places.entry(object.name).or_insert(block);
            }
        }
        let now = |name: BlockName| {
            if known.contains_key(&name) {
                return Some(name);
            }
            match to.target(*places.get(&name)?)? {
                BlockContents::Object(id) => to.object(id).map(|object| object.name),
                BlockContents::Zero => None,
            }
        };
        let mut seen = HashSet::new();
        let entries = self.entries.iter().filter_map(|ahead| {
            let name = now(ahead.name).filter(|name| seen.insert(*name))?;
            Some(PrefetchBlock { name, ..ahead.clone() })
        });
        let header = to.header();
        Dlahead { image: header.image.clone(), serial: header.serial, entries: entries.collect() }
    }
}

fn decode(lines: &mut Lines<impl BufRead>) -> Result<Dlahead, ReleaseTextFault> {
    lines.heading("imgfactory-dlahead")?;
    let image = lines.name("image:")?;
    let serial = lines.serial("serial:")?;
    let (mut entries, mut seen, mut before) = (Vec::new(), HashSet::new(), 0);
    while let Some(line) = lines.next_line()? {
        if line.starts_with('#') {
            continue;
        }
        let [phase, name, first_read, reads] = words(line, "<phase> <md5> <milliseconds> <reads>")?;
        let phase = phase.parse()?;
        let name: BlockName = name.parse().map_err(TextFault::from)?;
        let first_read_ms = number32("milliseconds", first_read, u32::MAX)?;
        let reads = number32("reads", reads, u32::MAX)?;
        if first_read_ms < before {
            return Err(ReleaseTextFault::Unordered { found: first_read_ms, before });
        }
        before = first_read_ms;
        if !seen.insert(name) {
            return Err(ReleaseTextFault::DuplicateBlock(name));
        }
        entries.push(PrefetchBlock { phase, name, first_read_ms, reads });
    }
    Ok(Dlahead { image, serial, entries })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Object;
    use crate::digest::Sha256;
    use crate::index::Header;
    use crate::names::{BlockSize, UnixTime};

    fn name(byte: u8) -> BlockName {
        BlockName([byte; 16])
    }

    fn run(reads: &[(u8, u32)]) -> Vec<PrefetchBlock> {
        let ahead = |&(byte, first_read_ms)| PrefetchBlock {
            phase: "boot".parse().unwrap(),
            name: name(byte),
            first_read_ms,
            reads: 1,
        };
        reads.iter().map(ahead).collect()
    }

    fn index(serial: u64, blocks: &[u8]) -> Index {
        let object = |&byte: &u8| {
            let sha256 = Sha256::of(&[byte]);
            (byte > 0).then(|| Object { name: name(byte), sha256, raw_len: 4096, file_len: 9 })
        };
        let header = Header {
            image: "host".parse().unwrap(),
            serial: Serial::new(serial).unwrap(),
            block_size: BlockSize::new(4096).unwrap(),
            size: 4096 * blocks.len() as u64,
            published: UnixTime(1),
            parent: None,
        };
        Index::assemble(header, blocks.iter().map(object)).unwrap()
    }

    #[test]
    fn boots_are_merged_by_the_median_and_what_only_one_read_goes() {
        let runs = [
            run(&[(1, 0), (2, 10), (3, 20)]),
            run(&[(2, 0), (1, 30), (3, 40)]),
            run(&[(1, 5), (9, 7), (2, 8)]),
        ];
        let merged: Vec<_> = merge(&runs).iter().map(|a| (a.name, a.first_read_ms, a.reads)).collect();
        assert_eq!(merged, [(name(1), 5, 3), (name(2), 8, 3), (name(3), 40, 2)]);
        assert_eq!(merge(&[run(&[(7, 1)])]).len(), 1);
    }

    #[test]
    fn a_list_follows_the_blocks_through_an_update() {
        let old = index(1, &[1, 2, 0, 3, 2, 4]);
        // 2 has become 20 in one place and 21 in the other, 3 zeros, 4 has moved.
        let new = index(2, &[1, 20, 4, 0, 21, 5]);
        let list = Dlahead {
            image: "host".parse().unwrap(),
            serial: Serial::FIRST,
            entries: run(&[(4, 0), (3, 1), (2, 2), (1, 3)]),
        };
        let names = |list: &Dlahead| list.entries.iter().map(|ahead| ahead.name).collect::<Vec<_>>();
        let carried = list.carried(Some(&old), &new);
        assert_eq!((names(&carried), carried.serial.get()), ([4, 20, 1].map(name).to_vec(), 2));
        assert_eq!(
            names(&list.carried(None, &new)),
            [4, 1].map(name),
            "without the old map only what is the same"
        );
    }
}
