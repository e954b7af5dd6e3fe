//! `dlahead`: the blocks that a boot reads, in order of first read, for a client to fetch ahead of need
//! (DLAHEAD in the paper, section 4.4). By name and not by number, so that it outlives a release in which they
//! did not change.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, BufRead, Write};
use std::str::FromStr;

use super::{Fault, MAX_DLAHEAD, MAX_LINE};
use crate::block::BlockName;
use crate::index::{At, ImageName, Lines, Serial, TextFault, number32, words};

/// The comment below the header, for people.
const LEGEND: &str = "# phase  md5  first read after start (ms)  reads";

/// A prefetch list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dlahead {
    /// Whose blocks.
    pub image: ImageName,
    /// The release that it was made for.
    pub serial: Serial,
    /// Each block once, in order of first read.
    pub entries: Vec<Ahead>,
}

/// One block of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// During what it is read.
    pub phase: Phase,
    /// Which block.
    pub name: BlockName,
    /// First read, milliseconds after the start.
    pub first_read_ms: u32,
    /// How often it was read.
    pub reads: u32,
}

/// What was going on: `boot`, `login`, ...; 1 to 16 of `a-z`, `0-9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Phase(String);

impl FromStr for Phase {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        let plain = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if plain && (1..=16).contains(&text.len()) {
            Ok(Phase(text.into()))
        } else {
            Err(Fault::Phase(text.into()))
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
        self.entries.iter().try_for_each(|Ahead { phase, name, first_read_ms, reads }| {
            writeln!(out, "{phase} {name} {first_read_ms} {reads}")
        })
    }

    /// Reads the text. Lines that begin with `#` are skipped: people write into this file.
    ///
    /// # Errors
    /// The line and its [`Fault`].
    pub fn decode(text: impl BufRead) -> Result<Dlahead, At<Fault>> {
        let mut lines = Lines::new(text, MAX_DLAHEAD, MAX_LINE);
        decode(&mut lines).map_err(|fault| At { file: "dlahead", line: lines.number(), fault })
    }
}

fn decode(lines: &mut Lines<impl BufRead>) -> Result<Dlahead, Fault> {
    lines.heading("imgfactory-dlahead")?;
    let image = lines.name("image:")?;
    let serial = lines.serial("serial:")?;
    let (mut entries, mut seen, mut before) = (Vec::new(), HashSet::new(), 0);
    while let Some(line) = lines.next()? {
        if line.starts_with('#') {
            continue;
        }
        let [phase, name, first_read, reads] = words(line, "<phase> <md5> <milliseconds> <reads>")?;
        let phase = phase.parse()?;
        let name: BlockName = name.parse().map_err(TextFault::from)?;
        let first_read_ms = number32("milliseconds", first_read, u32::MAX)?;
        let reads = number32("reads", reads, u32::MAX)?;
        if first_read_ms < before {
            return Err(Fault::Unordered { found: first_read_ms, before });
        }
        before = first_read_ms;
        if !seen.insert(name) {
            return Err(Fault::DuplicateBlock(name));
        }
        entries.push(Ahead { phase, name, first_read_ms, reads });
    }
    Ok(Dlahead { image, serial, entries })
}
