//! `index.idx`: which block file holds which block of one image's disk (docs/formats.md, section 3).
//!
//! An [`Index`] is a list of [`Object`]s (block files, numbered by first use on the disk) and a map from blocks
//! to objects or to zeros, kept as runs. Its text is canonical: for each index there is one sequence of bytes,
//! so its SHA-256 names it. Private fields: [`Index::decode`] and [`Index::assemble`] check the same rules.

mod decode;
mod draft;
pub mod plain;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::{self, Write};

pub use draft::IndexFault;

use crate::block::Object;
use crate::digest::Sha256;
use crate::names::{BlockSize, ImageName, Serial, UnixTime};
use crate::text::At;

/// Longest `index.idx` that is read: 256 MiB.
pub const MAX_FILE: u64 = 256 << 20;
/// Most blocks on a disk: 4 TiB in blocks of 256 KiB.
pub const MAX_BLOCKS: u32 = 1 << 24;
/// Longest line, LF included.
const MAX_LINE: usize = 256;

/// Why a text is no index: line and fault.
pub type IndexError = At<IndexFault>;

/// An object's number in its index: line order, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub u32);

impl ObjectId {
    /// Its place in [`Index::objects`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a block of the disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockContents {
    /// Zeros; there is nothing to fetch.
    Zero,
    /// What this object's block file inflates to.
    Object(ObjectId),
}

/// The index that this one follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its serial, lower than ours.
    pub serial: Serial,
    /// SHA-256 of its text.
    pub sha256: Sha256,
}

/// What an index says before its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose disk it is.
    pub image: ImageName,
    /// The release that it was made for.
    pub serial: Serial,
    /// Raw bytes of a block.
    pub block_size: BlockSize,
    /// Bytes of the disk, not 0.
    pub size: u64,
    /// When it was made.
    pub published: UnixTime,
    /// The image's index before this one.
    pub parent: Option<Parent>,
}

impl Header {
    /// Blocks on the disk, the last one perhaps shorter; `None` when there are none, or more than
    /// [`MAX_BLOCKS`].
    pub fn block_count(&self) -> Option<u32> {
        draft::block_count(self.size, self.block_size).ok()
    }

    /// Raw bytes of block `number`, when the disk has `count` blocks.
    fn raw_len(&self, number: u32, count: u32) -> u32 {
        let size = self.block_size.get();
        // The rest of a division by a u32 fits in one.
        match (self.size % u64::from(size)) as u32 {
            rest if rest != 0 && number + 1 == count => rest,
            _ => size,
        }
    }
}

/// Blocks in a row whose targets follow one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IndexRun {
    first: u32,
    count: u32,
    rule: Rule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// `-`
    Zero,
    /// `7`: one object for each block. Every run of one block that is not zero has this form.
    Same(u32),
    /// `7+`: objects 7, 8, 9, ...
    Ascending(u32),
}

impl IndexRun {
    /// Target of the block `offset` after the first.
    fn target(&self, offset: u32) -> BlockContents {
        match self.rule {
            Rule::Zero => BlockContents::Zero,
            Rule::Same(id) => BlockContents::Object(ObjectId(id)),
            Rule::Ascending(id) => BlockContents::Object(ObjectId(id + offset)),
        }
    }

    /// This run with one block more, if one run can say that.
    fn with(&self, next: BlockContents) -> Option<IndexRun> {
        let rule = match (self.rule, next) {
            (Rule::Zero, BlockContents::Zero) => Rule::Zero,
            (Rule::Same(id), BlockContents::Object(next)) if next.0 == id => Rule::Same(id),
            (Rule::Same(id), BlockContents::Object(next))
                if self.count == 1 && Some(next.0) == id.checked_add(1) =>
            {
                Rule::Ascending(id)
            }
            (Rule::Ascending(id), BlockContents::Object(next))
                if Some(next.0) == id.checked_add(self.count) =>
            {
                Rule::Ascending(id)
            }
            _ => return None,
        };
        Some(IndexRun { first: self.first, count: self.count + 1, rule })
    }
}

/// The index of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    header: Header,
    objects: Vec<Object>,
    /// Without gaps from block 0 to the last, each as long as it can be.
    runs: Vec<IndexRun>,
    block_count: u32,
}

impl Index {
    /// Whether both describe the same bytes, in blocks of one size. Which release each was made for does not
    /// matter.
    pub fn same_disk(&self, other: &Index) -> bool {
        self.header.block_size == other.header.block_size
            && self.header.size == other.header.size
            && self.objects == other.objects
            && self.runs == other.runs
    }

    /// Whose disk, how large, which release.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Block files in order of first use on the disk.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// The object of this number, if it is one of this index.
    pub fn object(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(id.index())
    }

    /// Blocks on the disk.
    pub fn block_count(&self) -> u32 {
        self.block_count
    }

    /// Raw bytes of a block: the block size, or less for the last one. `None` past the end.
    pub fn raw_len(&self, block: u32) -> Option<u32> {
        (block < self.block_count).then(|| self.header.raw_len(block, self.block_count))
    }

    /// What a block holds; `None` past the end. Takes the logarithm of the number of runs.
    pub fn target(&self, block: u32) -> Option<BlockContents> {
        if block >= self.block_count {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first <= block);
        let run = self.runs.get(after.checked_sub(1)?)?;
        Some(run.target(block - run.first))
    }

    /// What each block holds, in order.
    pub fn targets(&self) -> impl Iterator<Item = BlockContents> + '_ {
        self.runs.iter().flat_map(|run| (0..run.count).map(|offset| run.target(offset)))
    }

    /// Writes the canonical text.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn encode(&self, out: &mut impl Write) -> io::Result<()> {
        let Header { image, serial, block_size, size, published, parent } = &self.header;
        let blocks = self.objects.len();
        writeln!(out, "imgfactory-index 1\nimage: {image}\nserial: {serial}\nblock-size: {block_size}")?;
        writeln!(out, "size: {size}\npublished: {published}")?;
        match parent {
            Some(Parent { serial, sha256 }) => writeln!(out, "parent: {serial} {sha256}")?,
            None => writeln!(out, "parent: -")?,
        }
        writeln!(out, "blocks: {blocks}")?;
        for Object { name, sha256, raw_len, file_len } in &self.objects {
            writeln!(out, "object {name} {sha256} {raw_len} {file_len}")?;
        }
        for IndexRun { first, count, rule } in &self.runs {
            match rule {
                Rule::Zero => writeln!(out, "map {first} {count} -")?,
                Rule::Same(id) => writeln!(out, "map {first} {count} {id}")?,
                Rule::Ascending(id) => writeln!(out, "map {first} {count} {id}+")?,
            }
        }
        writeln!(out, "end {blocks} {}", self.block_count)
    }

    /// The canonical text in memory.
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.encode(&mut text).expect("a Vec takes all that is written");
        text
    }

    /// For people: sizes, shares, and how blocks lie.
    pub fn dump(&self) -> String {
        let Header { image, serial, size, published, .. } = &self.header;
        let count = |wanted: fn(&BlockContents) -> bool| self.targets().filter(wanted).count();
        let zero = count(|target| *target == BlockContents::Zero);
        let used = count(|target| *target != BlockContents::Zero);
        let raw: u64 = self.objects.iter().map(|object| u64::from(object.raw_len)).sum();
        let files = self.objects.iter().map(|object| u64::from(object.file_len));
        let sum: u64 = files.clone().sum();
        let unique = self.objects.len();
        let average = sum.checked_div(unique as u64).unwrap_or(0);
        let mut text = String::new();
        let mut line = |what: &str, value: String| {
            writeln!(text, "{what:<12} {value}").expect("a String takes all that is written");
        };
        line("image", format!("{image}, serial {serial}, published {published}"));
        line("disk", format!("{size} bytes in {} blocks of {}", self.block_count, self.header.block_size));
        line("zero", format!("{zero} blocks"));
        line("shared", format!("{} blocks repeat another", used - unique));
        line("files", format!("{unique} of {sum} bytes, from {raw} raw"));
        line(
            "file bytes",
            format!(
                "min {}, average {average}, max {}",
                files.clone().min().unwrap_or(0),
                files.max().unwrap_or(0)
            ),
        );
        line("runs", self.runs.len().to_string());
        text
    }
}
