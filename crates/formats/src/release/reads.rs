//! What a boot reads of an image, page by page, in order: what `imgfetch mount --record-reads` notes and
//! `imgfactory profile --files` turns into files. Never part of a release.

use std::collections::HashSet;
use std::io::{self, BufRead, Write};
use std::ops::Range;

use super::{MAX_LINE, MAX_READS, ReleaseTextFault};
use crate::names::{ImageName, Serial};
use crate::text::{At, Lines, number32, words};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// The comment below the header, for people.
const LEGEND: &str = "# first page of 4096 bytes, pages";

/// Pages of an image in the order of their first read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reads {
    pub image: ImageName,
    /// The release that was read.
    pub serial: Serial,
    pub runs: Vec<Range<u32>>,
}

impl Reads {
    /// Writes the text.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn encode(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "imgfactory-reads 1\nimage: {}\nserial: {}\n{LEGEND}", self.image, self.serial)?;
        self.runs.iter().try_for_each(|run| writeln!(out, "{} {}", run.start, run.end - run.start))?;
        writeln!(out, "end")
    }

    /// Reads the text. Lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// The line and its [`ReleaseTextFault`].
    pub fn decode(text: impl BufRead) -> Result<Reads, At<ReleaseTextFault>> {
        let mut lines = Lines::new(text, MAX_READS, MAX_LINE);
        decode(&mut lines).map_err(|fault| At { file: "reads", line: lines.number(), fault })
    }
}

fn decode(lines: &mut Lines<impl BufRead>) -> Result<Reads, ReleaseTextFault> {
    lines.heading("imgfactory-reads")?;
    let image = lines.name("image:")?;
    let serial = lines.serial("serial:")?;
    let mut runs = Vec::new();
    loop {
        let line = lines.need("end")?;
        if line == "end" {
            break;
        }
        if line.starts_with('#') {
            continue;
        }
        let [first, count] = words(line, "<first page> <pages>")?;
        let first = number32("first page", first, u32::MAX)?;
        let count = number32("pages", count, u32::MAX - first)?;
        runs.push(first..first + count);
    }
    lines.finish()?;
    Ok(Reads { image, serial, runs })
}

/// Notes pages as they are read, each once.
#[derive(Debug, Default)]
pub struct Reading {
    seen: HashSet<u32>,
    runs: Vec<Range<u32>>,
}

impl Reading {
    /// `len` bytes at `offset` are read.
    pub fn add(&mut self, offset: u64, len: u32) {
        let page = |at: u64| u32::try_from(at / PAGE).unwrap_or(u32::MAX);
        for page in page(offset)..page((offset + u64::from(len)).next_multiple_of(PAGE)) {
            if !self.seen.insert(page) {
                continue;
            }
            match self.runs.last_mut() {
                Some(run) if run.end == page => run.end += 1,
                _ => self.runs.push(page..page + 1),
            }
        }
    }

    /// What was read up to now.
    pub fn runs(&self) -> &[Range<u32>] {
        &self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(runs: &[Range<u32>]) -> Reads {
        Reads { image: "host".parse().unwrap(), serial: Serial::FIRST, runs: runs.to_vec() }
    }

    #[test]
    fn pages_are_noted_once_in_the_order_in_which_they_are_read() {
        let mut reading = Reading::default();
        for (offset, len) in [
            (40_960, 8192),
            (4095, 2),
            (49_152, 1),
            (40_960, 16_384),
            (0, 0),
            (u64::from(u32::MAX) * 4096, 1),
        ] {
            reading.add(offset, len);
        }
        assert_eq!(reading.runs(), [10..12, 0..2, 12..14]);
    }

    #[test]
    fn a_text_is_what_was_read() {
        let reads = reads(&[10..12, 0..2, 12..14]);
        let mut text = Vec::new();
        reads.encode(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(
            text,
            "imgfactory-reads 1\nimage: host\nserial: 1\n# first page of 4096 bytes, pages\n10 2\n0 2\n12 2\nend\n"
        );
        assert_eq!(Reads::decode(text.as_bytes()).unwrap(), reads);
    }

    #[test]
    fn decode_rejects_each_damage_by_name() {
        let head = "imgfactory-reads 1\nimage: host\nserial: 1\n";
        for (text, said) in [
            (String::new(), "reads:1: begins with ``; a file of this kind begins with `imgfactory-reads 1`"),
            (format!("{head}10 2\n"), "reads:5: the file is truncated: no `end` line"),
            (format!("{head}10\nend\n"), "reads:4: `10` instead of `<first page> <pages>`"),
            (
                format!("{head}10 4294967286\nend\n"),
                "reads:4: pages: `4294967286` is not a number: digits, without sign or leading zeros, at most \
                 4294967285",
            ),
            (format!("{head}end\n1 1\n"), "reads:5: more lines follow the `end` line"),
        ] {
            assert_eq!(Reads::decode(text.as_bytes()).unwrap_err().to_string(), said, "{text}");
        }
    }
}
