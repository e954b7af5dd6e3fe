//! Threads around the fetch core: they do what it says and tell it what came of it.
//!
//! ```text
//! read -> RAM? -> Core -> load  (disk threads)  -> Block -> RAM, readers
//!                      -> fetch (net threads)   -> Block -> RAM, readers -> cache (one thread)
//! ```
//!
//! One mutex guards the core and the RAM cache; nothing that can block is done while it is held, so reads find
//! their deadline, if they have one, and the status socket its answer whatever the network and the disk do.

mod status_text;
mod recorded;
mod snapshot;
mod state;

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

pub use snapshot::{Counters, MirrorState, Snapshot, millis};
use state::{ArrivedBlock, EngineState, FinishedReads, JobQueues};

use crate::cache::{Cache, Loaded};
use crate::scheduler::{
    Arrived, BlockFetch, Config, LookupResult, MirrorId, ObjectId, Piece, SPARE, Time, pieces,
};
use crate::threads::{Queue, start};
use formats::block::{Block, BlockName, FetchedFile as Fetched, Object};
use formats::fetch_fault::FailureScope;
use formats::fetch_fault::FetchFault as Fault;
use formats::index::Index;
use formats::release::{MAX_LATEST, MirrorPath};
use formats::url::MirrorUrl;
use system::http::{Get, Http, RequestHandle};

/// Bytes that may wait to be written to the cache. What comes when there are more is served and not kept.
const MAX_UNWRITTEN: usize = 8 << 20;

/// How often requests are looked at that take longer than this: is the link still there?
const LINK: Duration = Duration::from_millis(500);

/// How long the end waits for the cache's disk.
const SETTLE: Duration = Duration::from_secs(5);

/// What the engine works with.
#[derive(Debug)]
pub struct EngineSetup {
    pub index: Arc<Index>,
    /// From where; at least one, at most 64.
    pub mirrors: Vec<MirrorUrl>,
    pub http: Arc<Http>,
    pub cache: Option<Arc<Cache>>,
    /// Limits of the core.
    pub config: Config,
    /// Bytes of inflated blocks to keep in RAM.
    pub ram: usize,
    /// What is to be expected of the mirrors, in their order.
    pub estimates: Vec<MirrorEstimate>,
    /// Whether to fetch what follows on the disk.
    pub read_ahead: bool,
}

impl EngineSetup {
    /// Blocks got ahead that may lie in RAM: they must not drive out what is read now.
    fn unread_in_ram(&self) -> usize {
        self.ram / 2 / (self.index.header().block_size.get() as usize).max(1)
    }
}

/// What is to be expected of a mirror before the first block.
#[derive(Clone, Debug, Default)]
pub struct MirrorEstimate {
    /// Most requests at once.
    pub most: Option<u32>,
    /// Time until the first byte of an answer, when it gave one.
    pub first_byte: Option<Duration>,
    /// Bytes a second, when it sent enough to tell.
    pub rate: Option<u64>,
    /// What it did wrong.
    pub blame: Option<FailureScope>,
}

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The deadline has passed.
    #[error("block {name}: not received within {} s; {reason}", deadline.as_secs())]
    Deadline {
        name: BlockName,
        /// How long was waited.
        deadline: Duration,
        /// The last fault and its mirror, or that no answer came.
        reason: String,
    },
    /// The engine was stopped.
    #[error("the client is being stopped")]
    Stopped,
}

/// Where the bytes of a read go, or why there are none.
pub type Reply = Box<dyn FnOnce(Result<&[u8], &ReadError>) + Send>;

/// Reads of the virtual disk.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    setup: EngineSetup,
    /// Zero of the core's time.
    start: Instant,
    state: Mutex<EngineState>,
    timer: Condvar,
    unwritten: AtomicUsize,
}

/// One look into the cache.
struct CacheLookup {
    id: ObjectId,
    peek: bool,
}

/// A request for one block file, on its way to a thread.
struct BlockRequest {
    fetch: BlockFetch,
    handle: Arc<RequestHandle>,
}

/// One question whether a mirror is back.
struct Probe {
    mirror: MirrorId,
    until: Time,
}

impl Engine {
    /// Starts the threads that fetch blocks and answer reads.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn start(mut setup: EngineSetup) -> io::Result<Self> {
        setup.config.ready = setup.unread_in_ram();
        if setup.cache.is_none() {
            setup.config.loaders = 0;
            setup.config.unread = setup.unread_in_ram();
        }
        let jobs = JobQueues::default();
        let JobQueues { loads, requests, probes, writes } = jobs.clone();
        let (connections, loaders) = (setup.config.connections + SPARE, setup.config.loaders);
        let state = EngineState::new(&setup, jobs);
        let shared = Arc::new(Shared {
            setup,
            start: Instant::now(),
            state: Mutex::new(state),
            timer: Condvar::new(),
            unwritten: AtomicUsize::new(0),
        });
        workers(&shared, "net", connections, requests, Shared::request)?;
        workers(&shared, "disk", loaders, loads, Shared::load)?;
        workers(&shared, "probe", 1, probes, Shared::probe)?;
        workers(&shared, "write", 1, writes, Shared::write)?;
        let watching = Arc::downgrade(&shared);
        start("link", move || watch_link(&watching))?;
        let timed = Arc::clone(&shared);
        start("timer", move || timed.keep_time())?;
        Ok(Engine { shared })
    }

    /// Reads `len` bytes of the disk at `offset`, fewer at its end; `reply` is called once, at the deadline at the
    /// latest if there is one, here or in another thread.
    pub fn read(&self, offset: u64, len: u32, reply: Reply) {
        let pieces = pieces(&self.shared.setup.index, offset, len);
        let shared = &self.shared;
        let mut state = shared.lock();
        if let Some((blocks, news)) = state.ram_hit(&shared.setup, shared.now(), offset, &pieces) {
            if news {
                shared.step(state, None);
            } else {
                drop(state);
            }
            return reply_from_ram(&pieces, &blocks, reply);
        }
        let whole = state.begin_read(&shared.setup, shared.now(), offset, pieces, reply);
        shared.step(state, None);
        finish(whole);
    }

    /// As [`Engine::read`]; the result comes through a channel.
    pub fn read_later(&self, offset: u64, len: u32) -> Arc<Queue<Result<Vec<u8>, ReadError>>> {
        let coming = Arc::<Queue<_>>::default();
        let there = Arc::clone(&coming);
        let reply = move |result: Result<&[u8], &ReadError>| {
            there.put(result.map(<[u8]>::to_vec).map_err(Clone::clone));
        };
        self.read(offset, len, Box::new(reply));
        coming
    }

    /// As [`Engine::read`], waiting for it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_now(&self, offset: u64, len: u32) -> Result<Vec<u8>, ReadError> {
        self.read_later(offset, len).take().unwrap_or(Err(ReadError::Stopped))
    }

    /// Fetches these blocks when nobody reads, in this order; names that the image does not have are passed
    /// over. Without a cache never more of them lie unread than half of the RAM cache holds.
    pub fn prefetch(&self, names: impl IntoIterator<Item = BlockName>) {
        let setup = &self.shared.setup;
        let ids: std::collections::HashMap<BlockName, u32> =
            setup.index.objects().iter().map(|object| object.name).zip(0..).collect();
        let list = names.into_iter().filter_map(|name| ids.get(&name).map(|&id| ObjectId(id)));
        let list: Vec<ObjectId> = list.collect();
        let mut state = self.shared.lock();
        state.prefetch(list);
        self.shared.step(state, None);
    }

    /// Mirrors that take no more than so many requests at once, which is not known yet: `find` may take a while.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn cap_when_known(
        &self,
        find: impl FnOnce() -> Vec<(MirrorUrl, u32)> + Send + 'static,
    ) -> io::Result<()> {
        let shared = Arc::downgrade(&self.shared);
        start("caps", move || {
            let caps = find();
            let Some(shared) = shared.upgrade() else { return };
            shared.lock().cap(&shared.setup, &caps);
        })
    }

    /// The first reads of blocks from now on: which, how long after the start, how often, in the order of their
    /// first read.
    pub fn record(&self) {
        self.shared.lock().record();
    }

    /// What was recorded: block, milliseconds after the start, reads.
    pub fn recorded(&self) -> Vec<(BlockName, u32, u32)> {
        self.shared.lock().recorded(&self.shared.setup)
    }

    /// How things stand. Never waits for network or disk.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        let cache = shared.setup.cache.as_deref().map(|cache| (cache.contents(), cache.write_errors()));
        shared.lock().snapshot(&shared.setup, shared.now(), cache)
    }

    /// For who wants to end: if no mirror is up, reads wait no longer than this from now on, those too that wait
    /// already. Whether it is so.
    pub fn wait_no_longer(&self, than: Duration) -> bool {
        let mut state = self.shared.lock();
        let is_cut_off = state.wait_no_longer(than);
        self.shared.step(state, None);
        is_cut_off
    }

    /// Waits until what came is kept in the cache, but not for ever.
    pub fn settle(&self) {
        let until = Instant::now() + SETTLE;
        while self.shared.unwritten.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The index of the served disk.
    pub fn index(&self) -> &Arc<Index> {
        &self.shared.setup.index
    }
}

impl Drop for Engine {
    /// Reads that wait fail; threads end as soon as what they do is done.
    fn drop(&mut self) {
        let done = self.shared.lock().stop();
        self.shared.timer.notify_all();
        finish(done);
    }
}

/// Starts threads that do jobs as they come, until the other end is gone.
fn workers<J: Send + 'static>(
    shared: &Arc<Shared>,
    name: &str,
    count: usize,
    jobs: Arc<Queue<J>>,
    run: fn(&Shared, J),
) -> io::Result<()> {
    for number in 0..count {
        let (shared, jobs) = (Arc::clone(shared), Arc::clone(&jobs));
        start(&format!("{name}-{number}"), move || {
            while let Some(job) = jobs.take() {
                run(&shared, job);
            }
        })?;
    }
    Ok(())
}

/// An address of ours that goes takes its connections with it without a word. Requests that still wait for them
/// are sent again over new ones.
fn watch_link(shared: &std::sync::Weak<Shared>) {
    loop {
        thread::sleep(LINK);
        let Some(shared) = shared.upgrade() else { return };
        let handles = shared.lock().old_requests(shared.now(), LINK);
        if handles.iter().filter(|handle| handle.drop_if_dead()).count() > 0 {
            log::warn!("this machine lost a network address; closing the connections that used it");
        }
    }
}

thread_local! {
    /// Where a read that does not lie in one block is put together. Fresh memory for each would cost more than all
    /// the copying.
    static WHOLE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn reply_from_ram(pieces: &[Piece], blocks: &[Option<Arc<Block>>], reply: Reply) {
    // Pieces are cut by the index, whose lengths a `Block` is proved against.
    let part =
        |piece: &Piece, block: &'_ Block| piece.from..(piece.from + piece.len).min(block.bytes().len());
    if let ([piece], [Some(block)]) = (pieces, blocks) {
        return reply(Ok(block.bytes().get(part(piece, block)).unwrap_or_default()));
    }
    WHOLE.with_borrow_mut(|whole| {
        whole.clear();
        for (piece, block) in pieces.iter().zip(blocks) {
            match block {
                Some(block) => {
                    whole.extend_from_slice(block.bytes().get(part(piece, block)).unwrap_or_default());
                }
                None => whole.resize(whole.len() + piece.len, 0),
            }
        }
        reply(Ok(whole));
    });
}

fn finish(done: FinishedReads) {
    for (reply, result) in done {
        match result {
            Ok(bytes) => reply(Ok(&bytes)),
            Err(error) => reply(Err(&error)),
        }
    }
}

impl Shared {
    fn now(&self) -> Time {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, EngineState> {
        // No code between lock and unlock panics but by a bug; serving on is better than hanging every reader.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what the core wants done; `ready` is the block that has just come.
    fn step(&self, mut state: MutexGuard<'_, EngineState>, ready: Option<ArrivedBlock>) {
        let done = state.step(&self.setup, self.now(), ready);
        let sooner = state.wakeup_is_sooner();
        drop(state);
        if sooner {
            self.timer.notify_all();
        }
        finish(done);
    }

    fn keep_time(&self) {
        let mut state = self.lock();
        while !state.stopped() {
            let done = state.step(&self.setup, self.now(), None);
            if !done.is_empty() {
                drop(state);
                finish(done);
                state = self.lock();
                continue;
            }
            state = match state.next_wakeup() {
                Some(time) => {
                    let wait = time.saturating_sub(self.now());
                    self.timer.wait_timeout(state, wait).map_or_else(|p| p.into_inner().0, |woken| woken.0)
                }
                None => self.timer.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn object(&self, id: ObjectId) -> Option<&Object> {
        self.setup.index.object(id)
    }

    fn load(&self, CacheLookup { id, peek }: CacheLookup) {
        let (Some(cache), Some(object)) = (&self.setup.cache, self.object(id)) else { return };
        let mut found = LookupResult::Miss;
        let mut ready = None;
        let mut damage = None;
        if peek {
            if self.lock().is_unwritten(object.name) || cache.has(object) {
                found = LookupResult::Hit;
            }
        } else {
            match cache.load(object) {
                Loaded::Hit(block) => {
                    found = LookupResult::Hit;
                    ready = Some((id, Arc::new(block)));
                }
                Loaded::Miss => {}
                Loaded::Damaged(what) => damage = Some(what),
            }
        }
        if let Some(damage) = &damage {
            log::warn!("cache: {damage}; removed, and fetched again");
        }
        let mut state = self.lock();
        state.loaded(self.now(), id, peek, found, damage.is_some(), ready.as_ref());
        self.step(state, ready);
    }

    fn request(&self, job: BlockRequest) {
        let Some(object) = self.object(job.fetch.block) else { return };
        let (kept, result) = match self.fetch(&job, object) {
            Ok((block, file, first_byte)) => {
                let arrived = Arrived { bytes: file.len() as u64, first_byte };
                (Some((object.name, file)), Ok((arrived, Arc::new(block))))
            }
            Err(fault) => (None, Err(fault)),
        };
        let ready = result.as_ref().ok().map(|(_, block)| (job.fetch.block, Arc::clone(block)));
        let mut state = self.lock();
        let arrived = result.map(|(arrived, _)| arrived);
        state.fetched(&self.setup, self.now(), &job, arrived, ready.as_ref());
        if let (Some(kept), Some(_)) = (kept, &self.setup.cache) {
            self.keep(&mut state, kept);
        }
        self.step(state, ready);
    }

    /// One request, and what it brought proved.
    fn fetch(&self, job: &BlockRequest, object: &Object) -> Result<(Block, Vec<u8>, Duration), Fault> {
        let BlockFetch { mirror, until, fresh, new_connection, .. } = job.fetch;
        let Some(mirror) = self.setup.mirrors.get(usize::from(mirror.0)) else {
            return Err(Fault::Unreachable("no such mirror".into()));
        };
        let url = format!("{mirror}{}", MirrorPath::Block(object.name));
        let len = u64::from(object.file_len);
        let until = self.start + until;
        let get = Get {
            len: Some(len),
            fresh,
            new_connection,
            handle: Some(&job.handle),
            ..Get::new(&url, len, until)
        };
        let answer = self.setup.http.get(get)?;
        match Fetched::new(*object, &answer.bytes).inflate().and_then(|inflated| inflated.verify()) {
            Ok(block) => Ok((block, answer.bytes, answer.first_byte)),
            Err(damage) => Err(answer.instead.unwrap_or(damage.into())),
        }
    }

    /// Hands a block file to the thread that writes, if it keeps up.
    fn keep(&self, state: &mut EngineState, (name, file): (BlockName, Vec<u8>)) {
        let len = file.len();
        let waiting = self.unwritten.load(Ordering::Relaxed);
        if waiting > 0 && waiting + len > MAX_UNWRITTEN {
            state.not_kept();
            return;
        }
        self.unwritten.fetch_add(len, Ordering::Relaxed);
        state.write(name, file);
        state.hold_prefetch(waiting + len > MAX_UNWRITTEN / 2);
    }

    fn write(&self, (name, file): (BlockName, Vec<u8>)) {
        let kept = self.setup.cache.as_ref().is_some_and(|cache| cache.store(name, &file));
        let before = self.unwritten.fetch_sub(file.len(), Ordering::Relaxed);
        let low = MAX_UNWRITTEN / 4;
        let mut state = self.lock();
        state.written(&self.setup, name, kept);
        if before > low && before - file.len() <= low {
            state.hold_prefetch(false);
            self.step(state, None);
        }
    }

    fn probe(&self, Probe { mirror, until }: Probe) {
        let Some(url) = self.setup.mirrors.get(usize::from(mirror.0)) else { return };
        let url = format!("{url}{}", MirrorPath::Latest);
        let until = self.start + until;
        let get = Get { fresh: true, ..Get::new(&url, MAX_LATEST, until) };
        let result = self.setup.http.get(get).map(|answer| answer.first_byte);
        let mut state = self.lock();
        state.probed(&self.setup, self.now(), mirror, result);
        self.step(state, None);
    }
}

/// For `Debug` of what holds one.
impl std::fmt::Debug for JobQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JobQueues")
    }
}
