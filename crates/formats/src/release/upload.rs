//! `upload.txt`: what a build adds to a mirror, in the order in which it must arrive. Applied from the top, and
//! cut anywhere, a client sees the old release or the new one, whole.

use crate::digest::Digest;
use std::collections::HashSet;
use std::io::{self, BufRead, Write};

use super::{MAX_LINE, MirrorPath, ReleaseTextFault};
use crate::names::{ImageName, Serial};
use crate::text::{At, Lines, TextFault, number, words};

/// Longest manifest that is read: room for 2^24 blocks.
const MAX_FILE: u64 = 4 << 30;

/// An upload manifest (`upload.txt`): what a build adds to a mirror, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub name: ImageName,
    /// The release that it brings.
    pub serial: Serial,
    /// The release whose files the mirror holds; `None` for an empty mirror. Equal to `serial` when only
    /// `latest` is made anew.
    pub base: Option<Serial>,
    /// Files that are new and never change again, in order: blocks, then images' files, then the release.
    pub puts: Vec<Put>,
    /// `mirrors.txt`, when it changed.
    pub mirrors: Option<Digest>,
    /// `latest`, which publishes all the rest.
    pub latest: Digest,
}

/// A file to be put on the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    pub path: MirrorPath,
    /// What, as a file: of a block it is the compressed form.
    pub digest: Digest,
}

impl Upload {
    /// Every file in order, those that are replaced at the end.
    pub fn steps(&self) -> impl Iterator<Item = Put> + '_ {
        let replaced = |path, digest: &Digest| Put { path, digest: *digest };
        let mirrors = self.mirrors.iter().map(move |digest| replaced(MirrorPath::Mirrors, digest));
        let latest = std::iter::once(replaced(MirrorPath::Latest, &self.latest));
        self.puts.iter().cloned().chain(mirrors).chain(latest)
    }

    /// Sum of the files' lengths in bytes.
    pub fn bytes(&self) -> u64 {
        self.steps().map(|put| put.digest.len).sum()
    }

    /// Writes the canonical text.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn encode(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "imgfactory-upload 1\nname: {}\nserial: {}", self.name, self.serial)?;
        match self.base {
            Some(base) => writeln!(out, "base: {base}")?,
            None => writeln!(out, "base: -")?,
        }
        let mut count = 0_u64;
        for Put { path, digest: Digest { sha256, len } } in self.steps() {
            let verb = verb_of(&path);
            writeln!(out, "{verb} {path} {len} {sha256}")?;
            count += 1;
        }
        writeln!(out, "end {count} {}", self.bytes())
    }

    /// Reads the canonical text.
    ///
    /// # Errors
    /// The line and its [`ReleaseTextFault`].
    pub fn decode(text: impl BufRead) -> Result<Upload, At<ReleaseTextFault>> {
        let mut lines = Lines::new(text, MAX_FILE, MAX_LINE);
        decode(&mut lines).map_err(|fault| At { file: "upload.txt", line: lines.number(), fault })
    }
}

/// What is written once is `put`; the two files that change are `replace`d.
fn verb_of(path: &MirrorPath) -> &'static str {
    match path {
        MirrorPath::Mirrors | MirrorPath::Latest => "replace",
        MirrorPath::Block(_) | MirrorPath::Image(..) | MirrorPath::Keys(_) | MirrorPath::Release(_) => "put",
    }
}

/// Place of a kind of file in the manifest: what names something comes after it.
fn rank(path: &MirrorPath) -> u8 {
    match path {
        MirrorPath::Block(_) => 0,
        MirrorPath::Image(..) | MirrorPath::Keys(_) => 1,
        MirrorPath::Release(_) => 2,
        MirrorPath::Mirrors => 3,
        MirrorPath::Latest => 4,
    }
}

fn decode(lines: &mut Lines<impl BufRead>) -> Result<Upload, ReleaseTextFault> {
    lines.heading("imgfactory-upload")?;
    let name = lines.name("name:")?;
    let serial = lines.serial("serial:")?;
    let base = match lines.field("base:")? {
        "-" => None,
        base => Some(base.parse::<Serial>().map_err(TextFault::from)?),
    };
    if let Some(base) = base
        && base > serial
    {
        return Err(ReleaseTextFault::Base { base, serial });
    }
    let (mut puts, mut seen) = (Vec::new(), HashSet::new());
    let (mut mirrors, mut latest) = (None, None);
    let (mut last_rank, mut count, mut bytes) = (0, 0_u64, 0_u64);
    let line = loop {
        let line = lines.need("end")?;
        if line.starts_with("end ") {
            break line;
        }
        let shape = "put|replace <path> <length> <sha256>";
        let [verb, path, len, sha256] = words(line, shape)?;
        let verb = ["put", "replace"].into_iter().find(|known| *known == verb);
        let verb = verb.ok_or_else(|| TextFault::Shape { found: line.into(), want: shape })?;
        let path: MirrorPath = path.parse()?;
        let digest =
            Digest { len: number("length", len, 1 << 40)?, sha256: sha256.parse().map_err(TextFault::from)? };
        if verb != verb_of(&path) {
            let rule = "`latest` and `mirrors.txt` are replaced, all else is put";
            return Err(ReleaseTextFault::Order { verb, path, rule });
        }
        if rank(&path) < last_rank {
            let rule = "blocks come first, then images' files, the release, `mirrors.txt`, `latest`";
            return Err(ReleaseTextFault::Order { verb, path, rule });
        }
        last_rank = rank(&path);
        if !seen.insert(path.clone()) {
            return Err(ReleaseTextFault::DuplicatePath(path));
        }
        count += 1;
        // At most 2^24 lines or so of at most 2^40 each.
        bytes = bytes.saturating_add(digest.len);
        match path {
            MirrorPath::Latest => latest = Some(digest),
            MirrorPath::Mirrors => mirrors = Some(digest),
            path => puts.push(Put { path, digest }),
        }
    };
    let [_, lines_said, bytes_said] = words(line, "end <lines> <bytes>")?;
    let (said, sum) = (number("lines", lines_said, u64::MAX)?, number("bytes", bytes_said, u64::MAX)?);
    let latest = latest.ok_or(ReleaseTextFault::NoLatest)?;
    if (said, sum) != (count, bytes) {
        return Err(ReleaseTextFault::EndCounts {
            lines: said,
            bytes: sum,
            found_lines: count,
            found_bytes: bytes,
        });
    }
    lines.finish()?;
    Ok(Upload { name, serial, base, puts, mirrors, latest })
}
