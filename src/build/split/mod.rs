//! The split step: an image's bytes, as they are written, become block files in a store and an index.
//!
//! The writer of the image fills one block after the other; blocks of zeros end there. The others go through a
//! short queue to one thread a core, which names and proves a block (MD5, SHA-256), and, if it is new, has the
//! store compress and write it. Compressing is nearly all of the work, so what a store has is never compressed
//! again. The index is put together from block numbers when all is done: it does not depend on which thread was
//! first.
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
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::block::{Block, BlockName, Codec, Compressor, Object, Sha256};
use crate::host::progress::{Progress, Task, Unit};
use crate::host::store::{Offered, Origin, Store, StoreError};
use crate::index::{BlockSize, Fault, Header, ImageName, Index};

/// Raw bytes that wait for a thread, at most. Each thread has one block more, and its file.
const QUEUE_BYTES: u32 = 32 << 20;
/// Blocks that wait for a thread, at most.
const QUEUE_BLOCKS: u32 = 64;
/// How many other block sizes are tried.
const OTHER_SIZES: usize = 8;

/// Why an image could not be split. `E` is what its writer says.
#[derive(Debug, thiserror::Error)]
pub enum SplitError<E: Error + 'static> {
    /// The image could not be written.
    #[error(transparent)]
    Image(E),
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
    /// The writer wrote less than it said.
    #[error("image `{image}`: {found} bytes written; {want} announced")]
    Length {
        /// The image.
        image: ImageName,
        /// Bytes written.
        found: u64,
        /// Bytes announced.
        want: u64,
    },
    /// There is no such index.
    #[error("image `{image}`")]
    Index {
        /// The image.
        image: ImageName,
        /// What is wrong with it.
        source: Fault,
    },
    /// Blocks collide, however the image is cut. Somebody works hard at it.
    #[error(
        "image `{image}`: blocks with one MD5 and different contents, in each of {tries} block sizes: {}; \
         find out which files these are, and leave them out",
        join(found)
    )]
    Collisions {
        /// The image.
        image: ImageName,
        /// Block sizes tried.
        tries: usize,
        /// All that was found, in all sizes.
        found: Vec<Collision>,
    },
}

/// Blocks that have one MD5 and different contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// Their name.
    pub name: BlockName,
    /// Where each content was met first, two places at least.
    pub places: Vec<Origin>,
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<_> = self.places.iter().map(Origin::to_string).collect();
        write!(f, "{} have one MD5, {}, and different contents", places.join(" and "), self.name)
    }
}

fn join(found: &[Collision]) -> String {
    found.iter().map(Collision::to_string).collect::<Vec<_>>().join("; ")
}

/// An image in blocks.
#[derive(Clone, Debug)]
pub struct Split {
    /// Its map.
    pub index: Index,
    /// What was done.
    pub figures: Figures,
    /// Collisions that were met and are no more, because the image was cut in another size than asked for.
    pub collisions: Vec<Collision>,
}

/// Blocks by what became of them; they add up to the blocks of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
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

/// How to split.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Who compresses.
    pub codec: Codec,
    /// Threads that hash and compress.
    pub threads: NonZeroUsize,
}

impl Options {
    /// With one thread for each core.
    pub fn new(codec: Codec) -> Self {
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Options { codec, threads }
    }
}

/// Splits one image. `header` says its size, and the block size to cut it in unless blocks collide. `write` writes
/// the whole image; it is called again for each further block size, and must then write the same bytes.
///
/// # Errors
/// [`SplitError`]. What was written by then stays in the store; the next build finds it.
pub fn split<E: Error + 'static>(
    header: &Header,
    options: Options,
    store: &mut Store,
    progress: &dyn Progress,
    mut write: impl FnMut(&mut Cutter<'_>) -> Result<(), E>,
) -> Result<Split, SplitError<E>> {
    let mut collisions = Vec::new();
    let mut tries = 0;
    for block_size in [header.block_size].into_iter().chain(other_sizes(header.block_size).take(OTHER_SIZES))
    {
        let header = Header { block_size, ..header.clone() };
        tries += 1;
        let what = format!("blocks of image `{}`", header.image);
        let task = progress.start(&what, header.size, Unit::Bytes);
        let attempt = Attempt::run(&header, options, store, task.as_ref(), &mut write)?;
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
            progress.say(&format!("{collision}; cutting the image in blocks of another size"));
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

/// A block on its way to a thread.
struct Job {
    number: u32,
    raw: Vec<u8>,
}

/// Takes the image as it is written, and cuts it.
pub struct Cutter<'a> {
    queue: SyncSender<Job>,
    task: &'a dyn Task,
    size: BlockSize,
    block_size: usize,
    /// Bytes that may still come.
    left: u64,
    /// The block that is being filled.
    raw: Vec<u8>,
    number: u32,
    /// Blocks that were carried over.
    carried: Vec<(u32, Option<Object>)>,
}

impl Cutter<'_> {
    /// Raw bytes of a block.
    pub fn block_size(&self) -> BlockSize {
        self.size
    }

    /// Takes a whole block as known, without its bytes; `None` for zeros. The object must be one of an index that
    /// the store trusts.
    ///
    /// # Errors
    /// When another block is only half written, or the image is longer than its header says.
    pub fn carry(&mut self, object: Option<Object>) -> io::Result<()> {
        let len = self.left.min(self.block_size as u64);
        if !self.raw.is_empty() || len == 0 {
            return Err(io::Error::other("a block can be carried over only as a whole"));
        }
        self.left -= len;
        self.carried.push((self.number, object));
        self.number += 1;
        self.task.advance(len);
        Ok(())
    }

    /// The block is full, or the image ends: passes it on, unless it is all zeros.
    fn cut(&mut self) -> io::Result<()> {
        let len = self.raw.len();
        if is_zero(&self.raw) {
            self.raw.clear();
            self.task.advance(len as u64);
        } else {
            let raw = std::mem::replace(&mut self.raw, Vec::with_capacity(self.block_size));
            let job = Job { number: self.number, raw };
            // The other end is gone when a thread has failed; what it says matters, not this.
            self.queue.send(job).map_err(|_| io::Error::other("the threads that store blocks have ended"))?;
        }
        self.number += 1;
        Ok(())
    }
}

impl Write for Cutter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.block_size - self.raw.len());
        self.left = self
            .left
            .checked_sub(len as u64)
            .ok_or_else(|| io::Error::other("the image is longer than its header says"))?;
        self.raw.extend_from_slice(&bytes[..len]);
        if self.raw.len() == self.block_size {
            self.cut()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
struct Shared<'a> {
    header: &'a Header,
    store: &'a Store,
    task: &'a dyn Task,
    seen: Mutex<HashMap<BlockName, Seen>>,
    /// Blocks collide: look for more of that, but store nothing more.
    collided: AtomicBool,
    /// The first failure ends all threads.
    failure: Mutex<Option<StoreError>>,
}

/// What a block of the disk turned out to be.
#[derive(Clone, Copy)]
enum Place {
    Zero,
    Made(BlockName),
    Carried(Object),
}

/// The image cut in one size.
struct Attempt {
    blocks: Vec<Place>,
    seen: HashMap<BlockName, Seen>,
}

impl Attempt {
    fn run<E: Error + 'static>(
        header: &Header,
        options: Options,
        store: &Store,
        task: &dyn Task,
        write: &mut impl FnMut(&mut Cutter<'_>) -> Result<(), E>,
    ) -> Result<Self, SplitError<E>> {
        let (size, block_size) = (header.size, header.block_size);
        let count = header.block_count().ok_or_else(|| SplitError::Index {
            image: header.image.clone(),
            source: Fault::Size { size, block_size },
        })?;
        let shared = Shared {
            header,
            store,
            task,
            seen: Mutex::default(),
            collided: AtomicBool::new(false),
            failure: Mutex::default(),
        };
        let waiting = (QUEUE_BYTES / block_size.get()).min(QUEUE_BLOCKS);
        let (queue, jobs) = sync_channel(waiting as usize);
        let mut blocks = vec![Place::Zero; count as usize];
        let written = thread::scope(|scope| {
            let jobs = Arc::new(Mutex::new(jobs));
            let threads: Vec<_> = (0..options.threads.get())
                .map(|_| {
                    let (jobs, shared) = (jobs.clone(), &shared);
                    scope.spawn(move || shared.work(&jobs, &mut Compressor::new(options.codec)))
                })
                .collect();
            // Only the threads hold the receiving end now: when they are gone, sending fails and does not wait.
            drop(jobs);
            let mut cutter = Cutter {
                queue,
                task,
                size: block_size,
                block_size: block_size.get() as usize,
                left: size,
                raw: Vec::with_capacity(block_size.get() as usize),
                number: 0,
                carried: Vec::new(),
            };
            let written = write(&mut cutter).map_err(SplitError::Image).and_then(|()| match cutter.left {
                0 => Ok(()),
                left => {
                    Err(SplitError::Length { image: header.image.clone(), found: size - left, want: size })
                }
            });
            if written.is_ok() && !cutter.raw.is_empty() {
                // It fails only when a thread has failed, and what that says is asked for below.
                let _ = cutter.cut();
            }
            // Ends the queue, and so the threads.
            let carried = std::mem::take(&mut cutter.carried);
            drop(cutter);
            for (number, object) in carried {
                blocks[number as usize] = match object {
                    Some(object) => Place::Carried(object),
                    None => Place::Zero,
                };
            }
            for named in threads {
                let named = named.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                for (number, name) in named {
                    blocks[number as usize] = Place::Made(name);
                }
            }
            written
        });
        let Shared { seen, failure, .. } = shared;
        if let Some(failure) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(SplitError::Store(failure));
        }
        written?;
        Ok(Attempt { blocks, seen: seen.into_inner().unwrap_or_else(PoisonError::into_inner) })
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
    fn finish(self, header: Header) -> Result<Split, Fault> {
        let mut figures = Figures::default();
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
                Place::Zero => figures.zero += 1,
                Place::Carried(_) => figures.carried += 1,
                Place::Made(_) => made += 1,
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
                Place::Zero => None,
                Place::Made(name) => Some(object(name)),
                Place::Carried(object) => Some(*object),
            }),
        )?;
        Ok(Split { index, figures, collisions: Vec::new() })
    }
}

impl Shared<'_> {
    /// What a thread does: names blocks until there are no more, or something failed. Gives number and name of
    /// those that it had.
    fn work(&self, jobs: &Mutex<Receiver<Job>>, compressor: &mut Compressor) -> Vec<(u32, BlockName)> {
        let mut named = Vec::new();
        loop {
            let job = lock(jobs).recv();
            let Ok(Job { number, raw }) = job else { return named };
            if lock(&self.failure).is_some() {
                return named;
            }
            let block = Block::seal(raw);
            named.push((number, block.name()));
            if let Err(error) = self.store(&block, number, compressor) {
                lock(&self.failure).get_or_insert(error);
                return named;
            }
            self.task.advance(block.bytes().len() as u64);
        }
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

fn origin(header: &Header, block: u32) -> Origin {
    let at = u64::from(block) * u64::from(header.block_size.get());
    Origin::Image { image: header.image.clone(), block, at }
}

/// What these locks guard is whole after every statement, so a panic of another thread does no harm to it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
