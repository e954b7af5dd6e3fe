//! The rules of an index, checked as it grows, whether from a text or from a build.

use crate::names::clip;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{BlockContents, BlockSize, Header, Index, IndexRun, MAX_BLOCKS, ObjectId, Parent, Rule, Serial};
use crate::block::{BlockName, Object, max_file_len};
use crate::digest::Sha256;
use crate::text::TextFault;

/// What is wrong with an index.
#[derive(Debug, thiserror::Error)]
pub enum IndexFault {
    /// Not even a text of the right shape.
    #[error(transparent)]
    Text(#[from] TextFault),
    /// No such block size.
    #[error("block size {found}: must be a multiple of 4096, from 4096 to {}", BlockSize::MAX)]
    BlockSize { found: u64 },
    /// A disk of nothing, or too large.
    #[error("a disk of {size} bytes: must have 1 to {MAX_BLOCKS} blocks of {block_size}")]
    Size {
        /// Bytes of the disk.
        size: u64,
        /// Raw bytes of a block.
        block_size: BlockSize,
    },
    /// The parent does not come before.
    #[error("parent {parent} of serial {serial}: a parent has a lower serial")]
    Parent { parent: Serial, serial: Serial },
    #[error("object {id}: object {other} already has block {name}")]
    DuplicateName { id: u32, other: u32, name: BlockName },
    /// One content under two names, which a digest can't have.
    #[error("object {id}: block {other}, which has another MD5, already has SHA-256 {sha256}")]
    DuplicateProof {
        id: u32,
        /// Name of the first.
        other: BlockName,
        sha256: Sha256,
    },
    /// Not the length of a block of this disk.
    #[error("object {id}: {found} raw bytes; blocks of this disk have {want}")]
    RawLength {
        id: u32,
        found: u32,
        /// What it may be.
        want: String,
    },
    /// No zlib stream of that many raw bytes is so long, or so short.
    #[error("object {id}: a file of {found} bytes; for {raw_len} raw bytes it has 9 to {}", max_file_len(*raw_len))]
    FileLength { id: u32, found: u32, raw_len: u32 },
    /// More objects than announced, or fewer.
    #[error("{found} objects; `blocks:` says {want}")]
    ObjectCount {
        found: usize,
        /// What the header says.
        want: u64,
    },
    /// Blocks without a target.
    #[error("the map continues at block {found}; block {want} has no target")]
    Gap {
        /// Where the line starts.
        found: u32,
        /// Where it ought to.
        want: u32,
    },
    /// Blocks with two targets.
    #[error("a map line starts at block {found} instead of {want}")]
    Overlap {
        /// Where the line starts.
        found: u32,
        /// Where it ought to.
        want: u32,
    },
    /// A map line of nothing.
    #[error("a map line of 0 blocks")]
    EmptyRun,
    /// More blocks than the disk has.
    #[error("the map line at block {first} with {count} blocks ends after the disk, which has {blocks}")]
    PastEnd {
        /// First block of the line.
        first: u32,
        /// Blocks of the line.
        count: u32,
        /// Blocks of the disk.
        blocks: u32,
    },
    /// Not `-`, a number, or a number and `+`.
    #[error("target `{}`: must be `-`, an object's number, or a number and `+`", clip(found))]
    Target { found: String },
    #[error("object {id} does not exist: the index has {objects} objects, numbered from 0")]
    NoSuchObject { id: u64, objects: usize },
    /// Objects are numbered as they are first used.
    #[error("object {id} is used before object {want}; objects are numbered by first use")]
    UseOrder {
        id: u32,
        /// The one whose turn it is.
        want: u32,
    },
    /// An object that no block uses.
    #[error("object {id} is used by no block")]
    Unused { id: u32 },
    /// Two map lines that one line can say, or the wrong form of a single block.
    #[error("the map line at block {first} is not canonical: {why}")]
    NotCanonical {
        first: u32,
        /// What the canonical form would be.
        why: &'static str,
    },
    /// The last block is shorter than its object, or another block is longer.
    #[error("block {block} has {want} bytes; object {id} has {found}")]
    BlockLength {
        block: u32,
        id: u32,
        /// Raw bytes of the object.
        found: u32,
        /// Raw bytes of the block.
        want: u32,
    },
    /// The map stops too early.
    #[error("the map ends at block {found}; the disk has {want}")]
    MapEnd {
        found: u32,
        /// Blocks of the disk.
        want: u32,
    },
    /// The figures of the last line.
    #[error("`end {objects} {blocks}`: there are {found_objects} objects and {found_blocks} blocks")]
    EndCounts { objects: u64, blocks: u64, found_objects: usize, found_blocks: u32 },
}

/// An index that grows, first by objects, then by runs.
pub(super) struct IndexDraft {
    header: Header,
    block_count: u32,
    objects: Vec<Object>,
    runs: Vec<IndexRun>,
    ids: HashMap<BlockName, u32>,
    proofs: HashMap<Sha256, u32>,
    /// Objects below this have been used.
    used: u32,
    /// Blocks below this have a target.
    mapped: u32,
}

/// Blocks of a disk.
pub(super) fn block_count(size: u64, block_size: BlockSize) -> Result<u32, IndexFault> {
    let count = u32::try_from(size.div_ceil(block_size.get().into())).ok();
    count.filter(|count| (1..=MAX_BLOCKS).contains(count)).ok_or(IndexFault::Size { size, block_size })
}

impl IndexDraft {
    pub(super) fn new(header: Header) -> Result<Self, IndexFault> {
        let Header { size, block_size, serial, parent, .. } = &header;
        let block_count = block_count(*size, *block_size)?;
        if let Some(Parent { serial: parent, .. }) = parent
            && parent >= serial
        {
            return Err(IndexFault::Parent { parent: *parent, serial: *serial });
        }
        Ok(IndexDraft {
            header,
            block_count,
            objects: Vec::new(),
            runs: Vec::new(),
            ids: HashMap::new(),
            proofs: HashMap::new(),
            used: 0,
            mapped: 0,
        })
    }

    pub(super) fn object_count(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn push_object(&mut self, object: Object) -> Result<(), IndexFault> {
        let Object { name, sha256, raw_len, file_len } = object;
        // Each object is used by a block, and there are at most 2^24 of those.
        let id = u32::try_from(self.objects.len()).unwrap_or(u32::MAX);
        if id >= self.block_count {
            return Err(IndexFault::Unused { id });
        }
        let full = self.header.block_size.get();
        let last = self.header.raw_len(self.block_count - 1, self.block_count);
        if raw_len != full && raw_len != last {
            let want = if full == last { full.to_string() } else { format!("{full}, the last one {last}") };
            return Err(IndexFault::RawLength { id, found: raw_len, want });
        }
        // The shortest stream: 2 bytes of header, 3 of deflate for anything at all, 4 of checksum.
        if !(9..=max_file_len(raw_len)).contains(&file_len) {
            return Err(IndexFault::FileLength { id, found: file_len, raw_len });
        }
        match self.ids.entry(name) {
            Entry::Occupied(other) => {
                return Err(IndexFault::DuplicateName { id, other: *other.get(), name });
            }
            Entry::Vacant(place) => place.insert(id),
        };
        match self.proofs.entry(sha256) {
            Entry::Occupied(other) => {
                let other = self.objects[*other.get() as usize].name;
                return Err(IndexFault::DuplicateProof { id, other, sha256 });
            }
            Entry::Vacant(place) => place.insert(id),
        };
        self.objects.push(object);
        Ok(())
    }

    pub(super) fn push_run(&mut self, run: IndexRun) -> Result<(), IndexFault> {
        let IndexRun { first, count, rule } = run;
        let want = self.mapped;
        if first > want {
            return Err(IndexFault::Gap { found: first, want });
        }
        if first < want {
            return Err(IndexFault::Overlap { found: first, want });
        }
        if count == 0 {
            return Err(IndexFault::EmptyRun);
        }
        let after = first
            .checked_add(count)
            .filter(|after| *after <= self.block_count)
            .ok_or(IndexFault::PastEnd { first, count, blocks: self.block_count })?;
        if count == 1 && matches!(rule, Rule::Ascending(_)) {
            return Err(IndexFault::NotCanonical { first, why: "one block has no `+`" });
        }
        if self.runs.last().is_some_and(|before| before.with(run.target(0)).is_some()) {
            return Err(IndexFault::NotCanonical { first, why: "the line before it goes on here" });
        }
        match rule {
            Rule::Zero => {}
            Rule::Same(id) => self.use_objects(id, 1)?,
            Rule::Ascending(id) => self.use_objects(id, count)?,
        }
        self.runs.push(run);
        self.check_lengths(run)?;
        self.mapped = after;
        Ok(())
    }

    /// Objects `id` to `id + count - 1` are used, each new one in its turn.
    fn use_objects(&mut self, id: u32, count: u32) -> Result<(), IndexFault> {
        let after = u64::from(id) + u64::from(count);
        if after > self.objects.len() as u64 {
            let id = after - 1;
            return Err(IndexFault::NoSuchObject { id, objects: self.objects.len() });
        }
        if id > self.used {
            return Err(IndexFault::UseOrder { id, want: self.used });
        }
        // `after` is at most the number of objects, a u32.
        self.used = self.used.max(after as u32);
        Ok(())
    }

    /// The last block of a disk may be shorter than the others; then only it, and always it, has an object of
    /// that length. All other lengths were refused with the object.
    fn check_lengths(&self, run: IndexRun) -> Result<(), IndexFault> {
        let full = self.header.block_size.get();
        let last = self.block_count - 1;
        if self.header.raw_len(last, self.block_count) == full {
            return Ok(());
        }
        let check = |block: u32, id: u32| {
            let want = self.header.raw_len(block, self.block_count);
            match self.objects[id as usize].raw_len {
                found if found == want => Ok(()),
                found => Err(IndexFault::BlockLength { block, id, found, want }),
            }
        };
        match run.rule {
            Rule::Zero => Ok(()),
            // Only the first and the last block of the run can differ from one another.
            Rule::Same(id) => check(run.first, id).and_then(|()| check(run.first + run.count - 1, id)),
            Rule::Ascending(id) => (0..run.count).try_for_each(|at| check(run.first + at, id + at)),
        }
    }

    pub(super) fn finish(self) -> Result<Index, IndexFault> {
        if self.mapped < self.block_count {
            return Err(IndexFault::MapEnd { found: self.mapped, want: self.block_count });
        }
        if (self.used as usize) < self.objects.len() {
            return Err(IndexFault::Unused { id: self.used });
        }
        let IndexDraft { header, objects, runs, block_count, .. } = self;
        Ok(Index { header, objects, runs, block_count })
    }
}

impl Index {
    /// Makes an index of what each block of the disk holds, in order; `None` for zeros. Objects are numbered and
    /// the map is cut into runs here.
    ///
    /// # Errors
    /// [`IndexFault`], when the blocks do not make a disk of this header's size, or break a rule of the format.
    pub fn assemble(
        header: Header,
        blocks: impl IntoIterator<Item = Option<Object>>,
    ) -> Result<Index, IndexFault> {
        let mut draft = IndexDraft::new(header)?;
        let mut runs: Vec<IndexRun> = Vec::new();
        for (number, block) in blocks.into_iter().enumerate() {
            let blocks = draft.block_count;
            let first = u32::try_from(number).ok().filter(|number| *number < blocks);
            let first = first.ok_or(IndexFault::PastEnd { first: blocks, count: 1, blocks })?;
            let target = match block {
                None => BlockContents::Zero,
                Some(object) => match draft.ids.get(&object.name) {
                    Some(&id) if draft.objects[id as usize] == object => BlockContents::Object(ObjectId(id)),
                    _ => {
                        draft.push_object(object)?;
                        // There are at most 2^24 objects, as `push_object` has just checked.
                        BlockContents::Object(ObjectId((draft.objects.len() - 1) as u32))
                    }
                },
            };
            if let Some(last) = runs.last_mut()
                && let Some(longer) = last.with(target)
            {
                *last = longer;
                continue;
            }
            let rule = match target {
                BlockContents::Zero => Rule::Zero,
                BlockContents::Object(id) => Rule::Same(id.0),
            };
            runs.push(IndexRun { first, count: 1, rule });
        }
        runs.into_iter().try_for_each(|run| draft.push_run(run))?;
        draft.finish()
    }
}
