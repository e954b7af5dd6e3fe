//! `imgfetch cat`: the whole disk, in order, every block verified.

use std::collections::VecDeque;
use std::io::{self, Write};

use super::Failure;
use super::args::SourceArgs;
use super::source::Opened;
use crate::engine::ReadError;

pub(super) fn run(source: &SourceArgs) -> Result<(), Failure> {
    let opened = Opened::open(source)?;
    let chosen = opened.choose()?;
    // What is read next is asked for here.
    let engine = opened.start(&chosen, false)?;
    let index = engine.index();
    let header = index.header();
    let step = header.block_size.get();
    let mut offsets = (0..index.block_count()).map(|block| u64::from(block) * u64::from(step));
    let mut out = io::stdout().lock();
    // Enough that every connection has something to do while one block is late.
    let mut coming = VecDeque::new();
    loop {
        while coming.len() < 2 * source.connections
            && let Some(offset) = offsets.next()
        {
            coming.push_back(engine.read_later(offset, step));
        }
        let Some(next) = coming.pop_front() else { break };
        let bytes = next.take().unwrap_or(Err(ReadError::Stopped))?;
        match out.write_all(&bytes) {
            // The reader closed the pipe.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    engine.settle();
    Ok(out.flush()?)
}
