//! The split step: a disk becomes block files in a store and an index.
//!
//! One thread a core takes the next block of the disk, until there are no more: reads it (or renders it, no image need
//! exist), names and proves it (MD5, SHA-256), and, if it is new, has the store compress and write it, all while it is
//! in that core's cache. Blocks of zeros, and those that are known without their bytes, end before. Compressing is
//! nearly all of the work, so what a store has is never compressed again. The index is put together from block numbers
//! when all is done: it does not depend on which thread was first.
//!
//! # Collisions of MD5
//!
//! Two blocks with one MD5 and different SHA-256 can't both have a file: the name is the MD5. Such blocks are made
//! on purpose (anybody can, since 2004) and may come with any package. They are found here, by comparing with
//! each block of this build, with the releases that the store knows, and with the store's files; nothing that
//! names them has been published then. The image is cut again in blocks of another size, whose boundaries meet the
//! old ones as rarely as can be (260 KiB instead of 256: once in 65 blocks). What collided now lies behind other
//! bytes in its block, and no MD5 collision outlives a change of the bytes before it. Should others turn up, the
//! next size is tried. It costs a second pass and, for
//! clients, one image without blocks in common with its last release. The other ways were worse: bytes of the
//! file system that nothing uses can be changed only by a writer that knows them, and a block full of file
//! contents has none; another name for a block would need another index format and another client.

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod wang;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::compress::Compressor;
use crate::ext2::ReadAt;
use crate::parallel::{cores, each};
use crate::repository::store::{BlockOrigin, Offered, Store, StoreError};
use crate::sys::progress::{Progress, Task, Unit};
use formats::block::{Block, BlockName, Codec, Object};
use formats::digest::Sha256;
use formats::index::{Header, Index, IndexFault};
use formats::names::{BlockSize, ImageName};

/// How many other block sizes are tried.
const OTHER_SIZES: usize = 8;

/// A disk of which any part can be had, in any order, from several threads at once.
pub trait SplitInput: Sync {
    /// Why the contents can't be read.
    type Error: Error + Send + 'static;

    /// Fills `raw` with the bytes from `at` on.
    ///
    /// # Errors
    /// What makes them fails.
    fn read(&self, at: u64, raw: &mut [u8]) -> Result<(), Self::Error>;

    /// What is known of a block before it is read, if the disk is cut in blocks of this size.
    fn known(&self, _number: u32, _size: BlockSize) -> Known {
        Known::Nothing
    }
}

impl<R: ReadAt + Sync> SplitInput for R {
    type Error = io::Error;

    fn read(&self, at: u64, raw: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(at, raw)
    }
}

/// What is known of a block whose bytes nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it has to be read.
    Nothing,
    Zeros,
    /// It is that one, of an index that the store trusts.
    Object(Object),
}

/// Why an image could not be split. `E` is what its source says.
#[derive(Debug, thiserror::Error)]
pub enum SplitError<E: Error + 'static> {
    /// The image could not be read.
    #[error(transparent)]
    Image(E),
    #[error(transparent)]
    Store(StoreError),
    /// There is no such index.
    #[error("image `{image}`")]
    Index {
        image: ImageName,
        /// What is wrong with it.
        source: IndexFault,
    },
    /// Blocks collide, however the image is cut. Somebody works hard at it.
    #[error(
        "image `{image}`: blocks with one MD5 and different contents, in each of {tries} block sizes: {}; \
         find the files that contain these blocks, and remove them from the image",
        join(found)
    )]
    Collisions {
        image: ImageName,
        tries: usize,
        /// All that was found, in all sizes.
        found: Vec<Collision>,
    },
}

/// Blocks that have one MD5 and different contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    pub name: BlockName,
    /// Where each content was met first, two places at least.
    pub places: Vec<BlockOrigin>,
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<_> = self.places.iter().map(BlockOrigin::to_string).collect();
        write!(f, "{} have one MD5, {}, and different contents", places.join(" and "), self.name)
    }
}

fn join(found: &[Collision]) -> String {
    found.iter().map(Collision::to_string).collect::<Vec<_>>().join("; ")
}

/// An image in blocks.
#[derive(Clone, Debug)]
pub struct Split {
    pub index: Index,
    pub figures: SplitStatistics,
    /// Collisions that were met and are no more, because the image was cut in another size than asked for.
    pub collisions: Vec<Collision>,
}

/// Blocks by what became of them; they add up to the blocks of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitStatistics {
    /// Blocks of zeros, for which there is nothing to store.
    pub zero: u64,
    /// Blocks that are those of the release before, proved so by the layout: nobody had their bytes.
    pub carried: u64,
    /// Blocks that repeat another of the image.
    pub repeated: u64,
    /// Blocks that the store had, from another image, another release or a build that did not finish.
    pub found: u64,
    /// Blocks that were compressed and written.
    pub written: u64,
    /// Bytes of their files.
    pub written_bytes: u64,
}

/// How an image is split into blocks and compressed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub codec: Codec,
    /// Threads that hash and compress.
    pub threads: NonZeroUsize,
}

impl Options {
    /// With one thread for each core.
    pub fn new(codec: Codec) -> Self {
        Options { codec, threads: cores() }
    }
}

/// Splits one image. `header` says its size, and the block size to cut it in unless blocks collide. `source` is asked
/// for each byte once, and once more for each further block size; it must then say the same.
///
/// # Errors
/// [`SplitError`]. What was written by then stays in the store; the next build finds it.
pub fn split<S: SplitInput>(
    header: &Header,
    options: Options,
    store: &mut Store,
    progress: &dyn Progress,
    source: &S,
) -> Result<Split, SplitError<S::Error>> {
    let mut collisions = Vec::new();
    let mut tries = 0;
    for block_size in [header.block_size].into_iter().chain(other_sizes(header.block_size).take(OTHER_SIZES))
    {
        let header = Header { block_size, ..header.clone() };
        tries += 1;
        let what = format!("blocks of image `{}`", header.image);
        let task = progress.start(&what, header.size, Unit::Bytes);
        let attempt = Attempt::run(&header, options, store, task.as_ref(), source)?;
        drop(task);
        let found = attempt.collisions(&header);
        if found.is_empty() {
            let image = header.image.clone();
            let mut split = attempt.finish(header).map_err(|source| SplitError::Index { image, source })?;
            split.collisions = collisions;
            return Ok(split);
        }
        attempt.take_back(store).map_err(SplitError::Store)?;
        for collision in found {
            progress.say(&format!("{collision}; splitting the image into blocks of another size"));
            collisions.push(collision);
        }
    }
    Err(SplitError::Collisions { image: header.image.clone(), tries, found: collisions })
}

/// Sizes whose boundaries meet those of `size` as rarely as can be (no common divisor but the 4 KiB step), near
/// ones first.
fn other_sizes(size: BlockSize) -> impl Iterator<Item = BlockSize> {
    let steps = size.get() / BlockSize::STEP;
    let most = BlockSize::MAX.get() / BlockSize::STEP;
    (1..=most)
        .flat_map(move |distance| [steps.checked_add(distance), steps.checked_sub(distance)])
        .flatten()
        .filter(move |&other| gcd(steps, other) == 1)
        .filter_map(|other| other.checked_mul(BlockSize::STEP).and_then(BlockSize::new))
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn is_zero(raw: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    raw.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// One name within one image.
#[derive(Debug)]
struct Seen {
    /// SHA-256 of each content with this MD5, and the first block that has it. One, but for collisions.
    contents: Vec<(Sha256, u32)>,
    /// What the store did with the content that came first in time.
    offered: Option<Offered>,
}

/// What the threads share.
struct SplitState<'a, S: SplitInput> {
    header: &'a Header,
    source: &'a S,
    store: &'a Store,
    task: &'a dyn Task,
    seen: Mutex<HashMap<BlockName, Seen>>,
    /// Blocks collide: look for more of that, but store nothing more.
    collided: AtomicBool,
}

/// What a thread works with.
struct Room {
    /// The bytes of a block.
    raw: Vec<u8>,
    compressor: Compressor,
}

/// What a block of the disk turned out to be.
#[derive(Clone, Copy)]
enum BlockPlacement {
    Zero,
    Made(BlockName),
    Carried(Object),
}

/// The image cut in one size.
struct Attempt {
    blocks: Vec<BlockPlacement>,
    seen: HashMap<BlockName, Seen>,
}

impl Attempt {
    fn run<S: SplitInput>(
        header: &Header,
        options: Options,
        store: &Store,
        task: &dyn Task,
        source: &S,
    ) -> Result<Self, SplitError<S::Error>> {
        let (size, block_size) = (header.size, header.block_size);
        let count = header.block_count().ok_or_else(|| SplitError::Index {
            image: header.image.clone(),
            source: IndexFault::Size { size, block_size },
        })?;
        let (seen, collided) = (Mutex::default(), AtomicBool::new(false));
        let shared = SplitState { header, source, store, task, seen, collided };
        let room = || Room { raw: Vec::new(), compressor: Compressor::new(options.codec) };
        let blocks = each(count as usize, options.threads, room, |room, number| {
            shared.place(u32::try_from(number).expect("at most `count`"), room)
        })?;
        Ok(Attempt { blocks, seen: shared.seen.into_inner().unwrap_or_else(PoisonError::into_inner) })
    }

    fn collisions(&self, header: &Header) -> Vec<Collision> {
        let mut found = BTreeMap::new();
        for (&name, Seen { contents, offered }) in &self.seen {
            let mut blocks: Vec<_> = contents.iter().map(|(_, block)| *block).collect();
            blocks.sort_unstable();
            let mut places: Vec<_> = blocks.iter().map(|&block| origin(header, block)).collect();
            if let Some(Offered::Collides(other)) = offered {
                places.push(other.clone());
            }
            if places.len() > 1 {
                found.insert(blocks, Collision { name, places });
            }
        }
        found.into_values().collect()
    }

    /// Removes the files that this attempt added to the store.
    fn take_back(self, store: &mut Store) -> Result<(), StoreError> {
        let written =
            self.seen.into_iter().filter(|(_, seen)| matches!(seen.offered, Some(Offered::Written(_))));
        written.map(|(name, _)| name).try_for_each(|name| store.take_back(name))
    }

    /// Puts the index together. There are no collisions.
    fn finish(self, header: Header) -> Result<Split, IndexFault> {
        let mut figures = SplitStatistics::default();
        for seen in self.seen.values() {
            match seen.offered {
                Some(Offered::Written(object)) => {
                    figures.written += 1;
                    figures.written_bytes += u64::from(object.file_len);
                }
                _ => figures.found += 1,
            }
        }
        let mut made = 0;
        for place in &self.blocks {
            match place {
                BlockPlacement::Zero => figures.zero += 1,
                BlockPlacement::Carried(_) => figures.carried += 1,
                BlockPlacement::Made(_) => made += 1,
            }
        }
        figures.repeated = made - self.seen.len() as u64;
        let object = |name: &BlockName| -> Object {
            match self.seen.get(name).and_then(|seen| seen.offered.as_ref()) {
                Some(Offered::Written(object) | Offered::Found(object)) => *object,
                Some(Offered::Collides(_)) | None => {
                    unreachable!(
                        "each name was offered to the store, and an image with collisions has no index"
                    )
                }
            }
        };
        let index = Index::assemble(
            header,
            self.blocks.iter().map(|place| match place {
                BlockPlacement::Zero => None,
                BlockPlacement::Made(name) => Some(object(name)),
                BlockPlacement::Carried(object) => Some(*object),
            }),
        )?;
        Ok(Split { index, figures, collisions: Vec::new() })
    }
}

impl<S: SplitInput> SplitState<'_, S> {
    /// Puts one block of the disk where it belongs.
    fn place(&self, number: u32, room: &mut Room) -> Result<BlockPlacement, SplitError<S::Error>> {
        let Room { raw, compressor } = room;
        let size = self.header.block_size;
        let at = u64::from(number) * u64::from(size.get());
        let len = (self.header.size - at).min(size.get().into());
        let place = match self.source.known(number, size) {
            Known::Zeros => BlockPlacement::Zero,
            Known::Object(object) => BlockPlacement::Carried(object),
            Known::Nothing => {
                raw.resize(usize::try_from(len).expect("at most a block"), 0);
                self.source.read(at, raw).map_err(SplitError::Image)?;
                if is_zero(raw) {
                    BlockPlacement::Zero
                } else {
                    let block = Block::seal(std::mem::take(raw));
                    self.store(&block, number, compressor).map_err(SplitError::Store)?;
                    let name = block.name();
                    *raw = block.into_bytes();
                    BlockPlacement::Made(name)
                }
            }
        };
        self.task.advance(len);
        Ok(place)
    }

    /// Stores a block whose name is new in this image.
    fn store(&self, block: &Block, number: u32, compressor: &mut Compressor) -> Result<(), StoreError> {
        let (name, sha256) = (block.name(), block.sha256());
        {
            let mut seen = lock(&self.seen);
            if let Some(Seen { contents, .. }) = seen.get_mut(&name) {
                match contents.iter_mut().find(|(other, _)| *other == sha256) {
                    Some((_, first)) => *first = number.min(*first),
                    None => {
                        contents.push((sha256, number));
                        self.collided.store(true, Ordering::Relaxed);
                    }
                }
                return Ok(());
            }
            seen.insert(name, Seen { contents: vec![(sha256, number)], offered: None });
        }
        if self.collided.load(Ordering::Relaxed) {
            return Ok(());
        }
        let offered = self.store.offer(block, || origin(self.header, number), compressor)?;
        if matches!(offered, Offered::Collides(_)) {
            self.collided.store(true, Ordering::Relaxed);
        }
        if let Some(seen) = lock(&self.seen).get_mut(&name) {
            seen.offered = Some(offered);
        }
        Ok(())
    }
}

fn origin(header: &Header, block: u32) -> BlockOrigin {
    let at = u64::from(block) * u64::from(header.block_size.get());
    BlockOrigin::Image { image: header.image.clone(), block, at }
}

/// What these locks guard is whole after every statement, so a panic of another thread does no harm to it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
