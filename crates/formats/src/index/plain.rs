//! The plain block list of 2005: `<block number, 8 hex digits> <md5>`, a line for every block of the disk. It has no
//! proofs, no lengths and no signature; old tools read it.

use std::io::{self, BufRead, Write};

use super::{BlockContents, Index, MAX_BLOCKS, MAX_FILE, MAX_LINE};
use crate::block::BlockName;
use crate::text::{At, Lines, TextFault, words};

const SHAPE: &str = "<block number in 8 hex digits> <md5>";

/// What is wrong with a plain block list.
#[derive(Debug, thiserror::Error)]
pub enum PlainFault {
    /// Not even a text of the right shape.
    #[error(transparent)]
    Text(#[from] TextFault),
    /// A number left out, repeated or out of order.
    #[error("block `{found}` instead of {want:08x}")]
    Number { found: String, want: u32 },
    /// More blocks than a disk may have.
    #[error("more than {MAX_BLOCKS} blocks")]
    TooMany,
    /// The list is empty.
    #[error("contains no block")]
    Empty,
}

/// Writes the list of an index. Blocks of zeros are named too: there, they have no file.
///
/// # Errors
/// Those of `out`.
pub fn export(index: &Index, out: &mut impl Write) -> io::Result<()> {
    let zeros = |block| BlockName::of_zeros(index.raw_len(block).unwrap_or(0) as usize);
    let full = zeros(0);
    for (target, block) in index.targets().zip(0_u32..) {
        let name = match target {
            BlockContents::Zero if index.raw_len(block) == index.raw_len(0) => full,
            BlockContents::Zero => zeros(block),
            BlockContents::Object(id) => match index.object(id) {
                Some(object) => object.name,
                None => continue,
            },
        };
        writeln!(out, "{block:08x} {name}")?;
    }
    Ok(())
}

/// Reads a list: the name of each block, from block 0.
///
/// # Errors
/// The line and its [`PlainFault`].
pub fn import(text: impl BufRead) -> Result<Vec<BlockName>, At<PlainFault>> {
    let mut lines = Lines::new(text, MAX_FILE, MAX_LINE);
    decode(&mut lines).map_err(|fault| At { file: "block list", line: lines.number(), fault })
}

fn decode(lines: &mut Lines<impl BufRead>) -> Result<Vec<BlockName>, PlainFault> {
    let mut names = Vec::new();
    while let Some(line) = lines.next_line()? {
        let [number, name] = words(line, SHAPE)?;
        let want = u32::try_from(names.len()).ok().filter(|number| *number < MAX_BLOCKS);
        let want = want.ok_or(PlainFault::TooMany)?;
        if number != format!("{want:08x}") {
            return Err(PlainFault::Number { found: crate::names::clip(number), want });
        }
        names.push(name.parse().map_err(TextFault::from)?);
    }
    if names.is_empty() { Err(PlainFault::Empty) } else { Ok(names) }
}
