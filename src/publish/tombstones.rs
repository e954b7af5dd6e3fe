//! `.imgfactory/tombstones`: files of a target that no release in retention names, and since when that is known.
//! They are removed after a grace, unless a release names them again by then.

use std::collections::BTreeMap;
use std::io::{BufRead, Write as _};

use formats::names::UnixTime;
use formats::release::{BadPath, MirrorPath};
use formats::text::{At, Lines, TextFault, number, words};

/// Files that are going to be removed, with the time at which each was marked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tombstones(pub BTreeMap<MirrorPath, UnixTime>);

/// What is wrong with the text.
#[derive(Debug, thiserror::Error)]
pub enum TombstoneFault {
    /// Not even a text of the right shape.
    #[error(transparent)]
    Text(#[from] TextFault),
    /// Not a path of a mirror.
    #[error(transparent)]
    Path(#[from] BadPath),
    #[error("`{0}` is listed twice")]
    Duplicate(MirrorPath),
    /// A number of lines that is not that of the lines.
    #[error("`end {said}`: there are {found} lines")]
    Count { said: u64, found: u64 },
}

impl Tombstones {
    /// Contents of `.imgfactory/tombstones`.
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = Vec::from(*b"imgfactory-tombstones 1\n");
        for (path, since) in &self.0 {
            writeln!(text, "{path} {since}").expect("a Vec takes all that is written");
        }
        writeln!(text, "end {}", self.0.len()).expect("a Vec takes all that is written");
        text
    }

    /// Reads the canonical text.
    ///
    /// # Errors
    /// The line and its [`TombstoneFault`].
    pub fn decode(text: impl BufRead) -> Result<Self, At<TombstoneFault>> {
        let mut lines = Lines::new(text, u64::MAX, 512);
        decode(&mut lines).map_err(|fault| At { file: "tombstones", line: lines.number(), fault })
    }
}

fn decode(lines: &mut Lines<impl BufRead>) -> Result<Tombstones, TombstoneFault> {
    lines.heading("imgfactory-tombstones")?;
    let mut paths = BTreeMap::new();
    loop {
        let [path, time] = words(lines.need("end")?, "<path> <time>")?;
        if path == "end" {
            let (said, found) = (number("lines", time, u64::MAX)?, paths.len() as u64);
            if said != found {
                return Err(TombstoneFault::Count { said, found });
            }
            lines.finish()?;
            return Ok(Tombstones(paths));
        }
        let path: MirrorPath = path.parse()?;
        let time = UnixTime(number("time", time, i64::MAX.unsigned_abs())?);
        if paths.insert(path.clone(), time).is_some() {
            return Err(TombstoneFault::Duplicate(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tombstones_are_read_as_they_were_written_and_nothing_else_is() {
        let text =
            "imgfactory-tombstones 1\nblk/ec/ec87a838931d4d5d2e94a04644788a55 7\nreleases/1.txt 9\nend 2\n";
        let read = Tombstones::decode(text.as_bytes()).unwrap();
        assert_eq!(read.0.values().map(|time| time.0).collect::<Vec<_>>(), [7, 9]);
        assert_eq!(read.to_text(), text.as_bytes());
        for (from, to, said) in [
            ("releases/1.txt", "../etc", "tombstones:3: `../etc` is not a path of a mirror"),
            ("releases/1.txt", "blk/ec/ec87a838931d4d5d2e94a04644788a55", {
                "tombstones:3: `blk/ec/ec87a838931d4d5d2e94a04644788a55` is listed twice"
            }),
            ("end 2", "end 3", "tombstones:4: `end 3`: there are 2 lines"),
            ("end 2\n", "", "tombstones:4: the file is truncated: no `end` line"),
        ] {
            let error = Tombstones::decode(text.replace(from, to).as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), said);
        }
    }
}
