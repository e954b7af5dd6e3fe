//! What no way of updating can go below.

use std::collections::{HashMap, HashSet};

use formats::block::Codec;
use imgfactory::compress::Compressor;
use imgfactory::ext2::PageHash;
use imgfactory::tree::Kind;

use super::{BLOCK, Result, Side, files};

/// Adds up what blocks of what it is given compress to.
struct Floor {
    compressor: Compressor,
    raw: Vec<u8>,
    bytes: u64,
}

impl Floor {
    fn new() -> Result<Self> {
        Ok(Floor { compressor: Compressor::new(Codec::zlib(6)?), raw: vec![], bytes: 0 })
    }

    fn add(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        while self.raw.len() >= BLOCK {
            let rest = self.raw.split_off(BLOCK);
            self.end();
            self.raw = rest;
        }
    }

    fn end(&mut self) {
        if !self.raw.is_empty() {
            self.bytes += self.compressor.compress(&self.raw).len() as u64;
            self.raw.clear();
        }
    }
}

/// Bytes of all files that are not as they were, compressed in blocks.
pub fn changed_files(before: &Side, after: &Side) -> Result<u64> {
    let old: HashMap<_, _> =
        files(before).map(|(path, id, len)| (path, (len, before.pages.of(id)))).collect();
    let mut floor = Floor::new()?;
    let mut buffer = vec![0; 1 << 20];
    for (path, id, len) in files(after) {
        let Kind::File(content) = &after.tree.node(id).kind else { continue };
        if old.get(&path) == Some(&(len, after.pages.of(id))) {
            continue;
        }
        let mut at = 0;
        while at < len {
            let part = (len - at).min(buffer.len() as u64) as usize;
            content.read_at(&after.spools, at, &mut buffer[..part])?;
            floor.add(&buffer[..part]);
            at += part as u64;
        }
    }
    floor.end();
    Ok(floor.bytes)
}

/// Bytes of all pages that were in no file, compressed in blocks, and how many there are.
pub fn new_pages(before: &Side, after: &Side) -> Result<(u64, u64)> {
    let mut known: HashSet<PageHash> =
        files(before).flat_map(|(_, id, _)| before.pages.of(id).iter().copied()).collect();
    known.insert(PageHash::ZERO);
    let mut floor = Floor::new()?;
    let mut count = 0;
    let mut page = vec![0; 4096];
    for (_, id, _) in files(after) {
        let Kind::File(content) = &after.tree.node(id).kind else { continue };
        let runs = content
            .extents
            .iter()
            .flat_map(|extent| extent.at / 4096..(extent.at + extent.len).div_ceil(4096));
        let mut last = None;
        let logical = runs.filter(|page| last.replace(*page) != Some(*page));
        for (logical, hash) in logical.zip(after.pages.of(id)) {
            // The same new page twice has to be there twice: ext2 shares nothing.
            if !known.contains(hash) {
                content.read_at(&after.spools, logical * 4096, &mut page)?;
                floor.add(&page);
                count += 1;
            }
        }
    }
    floor.end();
    Ok((floor.bytes, count))
}
