//! Which parts of which blocks make up a read.

use super::ObjectId;
use formats::index::{BlockContents as Target, Index};

/// A part of a read that lies in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The block; `None`: zeros.
    pub object: Option<ObjectId>,
    /// Where it begins in the block.
    pub from: usize,
    /// Where it begins in the read.
    pub at: usize,
    /// Length in bytes.
    pub len: usize,
}

/// The pieces of `len` bytes of the disk at `offset`, without gaps; less at the end of the disk, none past it.
pub fn pieces(index: &Index, offset: u64, len: u32) -> Vec<Piece> {
    let block_size = u64::from(index.header().block_size.get());
    let end = offset.saturating_add(len.into()).min(index.header().size);
    let (mut pieces, mut at) = (Vec::new(), offset);
    while at < end {
        let block = at / block_size;
        let from = at % block_size;
        let len = (block_size - from).min(end - at);
        // Inside the disk, so the number fits and the block has a target.
        let target = u32::try_from(block).ok().and_then(|block| index.target(block));
        let object = match target {
            Some(Target::Object(id)) => Some(id),
            Some(Target::Zero) | None => None,
        };
        // Each of these is at most `len`, a u32.
        pieces.push(Piece { object, from: from as usize, at: (at - offset) as usize, len: len as usize });
        at += len;
    }
    pieces
}
