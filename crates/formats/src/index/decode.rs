//! Text -> [`Index`], line by line: memory grows with what has been read, not with what a number announces.

use std::io::BufRead;

use super::draft::{IndexDraft, IndexFault, block_count};
use super::{BlockSize, Header, Index, IndexError, IndexRun, MAX_BLOCKS, MAX_FILE, MAX_LINE, Parent, Rule};
use crate::block::Object;
use crate::text::{At, Lines, TextFault, number, number32, words};

const OBJECT: &str = "object <md5> <sha256> <raw length> <compressed length>";
const MAP: &str = "map <first block> <count> <target>";
const END: &str = "end <objects> <blocks>";

impl Index {
    /// Reads the canonical text; what it was read from is then `encode`d again to the same bytes.
    ///
    /// # Errors
    /// [`IndexError`] with the line: each rule of the format has its own [`IndexFault`].
    pub fn decode(text: impl BufRead) -> Result<Index, IndexError> {
        let mut lines = Lines::new(text, MAX_FILE, MAX_LINE);
        decode(&mut lines).map_err(|fault| At { file: "index.idx", line: lines.number(), fault })
    }
}

fn decode(lines: &mut Lines<impl BufRead>) -> Result<Index, IndexFault> {
    lines.heading("imgfactory-index")?;
    let image = lines.name("image:")?;
    let serial = lines.serial("serial:")?;
    let block_size = lines.number_field("block-size:", u64::MAX)?;
    let block_size = u32::try_from(block_size)
        .ok()
        .and_then(BlockSize::new)
        .ok_or(IndexFault::BlockSize { found: block_size })?;
    let size = lines.number_field("size:", u64::MAX)?;
    block_count(size, block_size)?;
    let published = lines.time("published:")?;
    let parent = match lines.field("parent:")? {
        "-" => None,
        parent => {
            let [serial, sha256] = words(parent, "parent: <serial> <sha256>")?;
            Some(Parent {
                serial: serial.parse().map_err(TextFault::from)?,
                sha256: sha256.parse().map_err(TextFault::from)?,
            })
        }
    };
    let mut draft = IndexDraft::new(Header { image, serial, block_size, size, published, parent })?;
    let announced = lines.number_field("blocks:", MAX_BLOCKS.into())?;

    let mut line = lines.need("end")?;
    while line.starts_with("object ") {
        draft.push_object(object(line)?)?;
        line = lines.need("end")?;
    }
    if draft.object_count() as u64 != announced {
        return Err(IndexFault::ObjectCount { found: draft.object_count(), want: announced });
    }
    while line.starts_with("map ") {
        draft.push_run(run(line)?)?;
        line = lines.need("end")?;
    }
    if !line.starts_with("end ") {
        return Err(TextFault::Shape { found: line.into(), want: "map` or `end" }.into());
    }
    let [_, objects, blocks] = words(line, END)?;
    let objects = number("objects", objects, u64::MAX)?;
    let blocks = number("blocks", blocks, u64::MAX)?;
    let index = draft.finish()?;
    let (found_objects, found_blocks) = (index.objects.len(), index.block_count);
    if (objects, blocks) != (found_objects as u64, found_blocks.into()) {
        return Err(IndexFault::EndCounts { objects, blocks, found_objects, found_blocks });
    }
    lines.finish()?;
    Ok(index)
}

fn object(line: &str) -> Result<Object, TextFault> {
    let [_, name, sha256, raw_len, file_len] = words(line, OBJECT)?;
    Ok(Object {
        name: name.parse()?,
        sha256: sha256.parse()?,
        raw_len: number32("raw length", raw_len, u32::MAX)?,
        file_len: number32("compressed length", file_len, u32::MAX)?,
    })
}

fn run(line: &str) -> Result<IndexRun, IndexFault> {
    let [_, first, count, target] = words(line, MAP)?;
    let first = number32("first block", first, u32::MAX)?;
    let count = number32("count", count, u32::MAX)?;
    let id =
        |text| number32("target", text, u32::MAX).map_err(|_| IndexFault::Target { found: target.into() });
    let rule = match target.strip_suffix('+') {
        Some(text) => Rule::Ascending(id(text)?),
        None if target == "-" => Rule::Zero,
        None => Rule::Same(id(target)?),
    };
    Ok(IndexRun { first, count, rule })
}
