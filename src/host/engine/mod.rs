//! Threads around the fetch core: they do what it says and tell it what came of it.
//!
//! ```text
//! read -> RAM? -> Core -> load  (disk threads)  -> Block -> RAM, readers
//!                      -> fetch (net threads)   -> Block -> RAM, readers -> cache (one thread)
//! ```
//!
//! One mutex guards the core and the RAM cache; nothing that can block is done while it is held, so reads find
//! their deadline and the status socket its answer whatever the network and the disk do.

mod snapshot;
mod state;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::{io, thread};

pub use snapshot::{Counters, MirrorState, Snapshot, millis};
use state::{Done, Jobs, Ready, State};

use crate::block::{Block, BlockName, Fetched, Object};
use crate::fetch::{Config, Fault, Found, MirrorId, ObjectId, Ticket, Time, pieces};
use crate::host::cache::{Cache, Loaded};
use crate::host::http::{Get, Http};
use crate::index::Index;
use crate::release::{MAX_LATEST, MirrorPath, MirrorUrl};

/// Bytes that may wait to be written to the cache. What comes when there are more is served and not kept.
const MAX_UNWRITTEN: usize = 8 << 20;

/// What the engine works with.
#[derive(Debug)]
pub struct Parts {
    /// The disk.
    pub index: Arc<Index>,
    /// From where; at least one, at most 64.
    pub mirrors: Vec<MirrorUrl>,
    /// How.
    pub http: Arc<Http>,
    /// What is kept.
    pub cache: Option<Arc<Cache>>,
    /// Limits of the core.
    pub config: Config,
    /// Bytes of inflated blocks to keep in RAM.
    pub ram: usize,
}

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The deadline has passed.
    #[error("block {name}: not to be had within {} s; {reason}", deadline.as_secs())]
    Deadline {
        /// The block.
        name: BlockName,
        /// How long was waited.
        deadline: std::time::Duration,
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
    parts: Parts,
    /// Zero of the core's time.
    start: Instant,
    state: Mutex<State>,
    timer: Condvar,
    unwritten: AtomicUsize,
}

/// One look into the cache.
struct Load {
    id: ObjectId,
    peek: bool,
}

/// One request.
struct Request {
    ticket: Ticket,
    id: ObjectId,
    mirror: MirrorId,
    until: Time,
    fresh: bool,
    prefetch: bool,
}

/// One question whether a mirror is back.
struct Probe {
    mirror: MirrorId,
    until: Time,
}

impl Engine {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub fn start(mut parts: Parts) -> io::Result<Self> {
        if parts.cache.is_none() {
            parts.config.loaders = 0;
        }
        let (loads, loads_in) = mpsc::channel();
        let (requests, requests_in) = mpsc::channel();
        let (probes, probes_in) = mpsc::channel();
        let (writes, writes_in) = mpsc::channel();
        let jobs = Jobs { loads, requests, probes, writes };
        let (connections, loaders) = (parts.config.connections, parts.config.loaders);
        let state = State::new(&parts, jobs);
        let shared = Arc::new(Shared {
            parts,
            start: Instant::now(),
            state: Mutex::new(state),
            timer: Condvar::new(),
            unwritten: AtomicUsize::new(0),
        });
        workers(&shared, "net", connections, requests_in, Shared::request)?;
        workers(&shared, "disk", loaders, loads_in, Shared::load)?;
        workers(&shared, "probe", 1, probes_in, Shared::probe)?;
        workers(&shared, "write", 1, writes_in, Shared::write)?;
        let timed = Arc::clone(&shared);
        thread::Builder::new().name("timer".into()).spawn(move || timed.keep_time())?;
        Ok(Engine { shared })
    }

    /// Reads `len` bytes of the disk at `offset`, fewer at its end; `reply` is called once, at the deadline at the
    /// latest, here or in another thread.
    pub fn read(&self, offset: u64, len: u32, reply: Reply) {
        let pieces = pieces(&self.shared.parts.index, offset, len);
        let shared = &self.shared;
        if let [piece] = pieces[..]
            && let Some(id) = piece.object
        {
            let hit = shared.lock().ram_hit(id, len);
            if let Some(block) = hit {
                return reply(Ok(block.bytes().get(piece.from..piece.from + piece.len).unwrap_or_default()));
            }
        }
        let mut state = shared.lock();
        let whole = state.begin_read(shared.now(), pieces, reply);
        shared.step(state, None);
        finish(whole);
    }

    /// As [`Engine::read`]; the result comes through a channel.
    pub fn read_later(&self, offset: u64, len: u32) -> Receiver<Result<Vec<u8>, ReadError>> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let reply = move |result: Result<&[u8], &ReadError>| {
            // Whoever asked may not want it any more.
            let _ = sender.send(result.map(<[u8]>::to_vec).map_err(Clone::clone));
        };
        self.read(offset, len, Box::new(reply));
        receiver
    }

    /// As [`Engine::read`], waiting for it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_now(&self, offset: u64, len: u32) -> Result<Vec<u8>, ReadError> {
        self.read_later(offset, len).recv().unwrap_or(Err(ReadError::Stopped))
    }

    /// Fetches these blocks when nobody reads, in this order; names that the image does not have are passed
    /// over. Without a cache only as many as half of the RAM cache holds.
    pub fn prefetch(&self, names: impl IntoIterator<Item = BlockName>) {
        let parts = &self.shared.parts;
        let ids: std::collections::HashMap<BlockName, u32> =
            parts.index.objects().iter().map(|object| object.name).zip(0..).collect();
        let mut room = if parts.cache.is_some() { usize::MAX } else { parts.ram / 2 };
        let fits = |id: &ObjectId| {
            let len = parts.index.object(*id).map_or(0, |object| object.raw_len as usize);
            let fits = len <= room;
            room = room.saturating_sub(len);
            fits
        };
        let list = names.into_iter().filter_map(|name| ids.get(&name).map(|&id| ObjectId(id)));
        let list: Vec<ObjectId> = list.take_while(fits).collect();
        let mut state = self.shared.lock();
        state.prefetch(list);
        self.shared.step(state, None);
    }

    /// How things stand. Never waits for network or disk.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.shared;
        let cache = shared.parts.cache.as_deref().map(|cache| (cache.contents(), cache.write_errors()));
        shared.lock().snapshot(&shared.parts, shared.now(), cache)
    }

    /// The disk.
    pub fn index(&self) -> &Arc<Index> {
        &self.shared.parts.index
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
    jobs: Receiver<J>,
    run: fn(&Shared, J),
) -> io::Result<()> {
    let jobs = Arc::new(Mutex::new(jobs));
    for number in 0..count {
        let (shared, jobs) = (Arc::clone(shared), Arc::clone(&jobs));
        let next = move || jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
            while let Ok(job) = next() {
                run(&shared, job);
            }
        })?;
    }
    Ok(())
}

fn finish(done: Done) {
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

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code between lock and unlock panics but by a bug; serving on is better than hanging every reader.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what the core wants done; `ready` is the block that has just come.
    fn step(&self, mut state: MutexGuard<'_, State>, ready: Option<Ready>) {
        let done = state.step(&self.parts, self.now(), ready);
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
            let done = state.step(&self.parts, self.now(), None);
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
        self.parts.index.object(id)
    }

    fn load(&self, Load { id, peek }: Load) {
        let (Some(cache), Some(object)) = (&self.parts.cache, self.object(id)) else { return };
        let mut found = Found::No;
        let mut ready = None;
        let mut damage = None;
        if peek {
            if cache.has(object) {
                found = Found::Yes;
            }
        } else {
            match cache.load(object) {
                Loaded::Hit(block) => {
                    found = Found::Yes;
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

    fn request(&self, job: Request) {
        let Some(object) = self.object(job.id) else { return };
        let result = self.fetch(&job, object);
        let (kept, result) = match result {
            Ok((block, file)) => {
                let len = file.len() as u64;
                (Some((object.name, file)), Ok((len, Arc::new(block))))
            }
            Err(fault) => (None, Err(fault)),
        };
        let ready = result.as_ref().ok().map(|(_, block)| (job.id, Arc::clone(block)));
        let mut state = self.lock();
        state.fetched(&self.parts, self.now(), &job, result.map(|(len, _)| len), ready.as_ref());
        if let (Some(kept), Some(_)) = (kept, &self.parts.cache) {
            self.keep(&mut state, kept);
        }
        self.step(state, ready);
    }

    /// One request, and what it brought proved.
    fn fetch(&self, job: &Request, object: &Object) -> Result<(Block, Vec<u8>), Fault> {
        let Some(mirror) = self.parts.mirrors.get(usize::from(job.mirror.0)) else {
            return Err(Fault::Unreachable("no such mirror".into()));
        };
        let url = format!("{mirror}{}", MirrorPath::Block(object.name));
        let len = u64::from(object.file_len);
        let until = self.start + job.until;
        let get = Get { url: &url, limit: len, len: Some(len), until, fresh: job.fresh };
        let answer = self.parts.http.get(get)?;
        match Fetched::new(*object, &answer.bytes).inflate().and_then(|inflated| inflated.verify()) {
            Ok(block) => Ok((block, answer.bytes)),
            Err(_) if answer.web_page => Err(Fault::WebPage),
            Err(damage) => Err(damage.into()),
        }
    }

    /// Hands a block file to the thread that writes, if it keeps up.
    fn keep(&self, state: &mut State, (name, file): (BlockName, Vec<u8>)) {
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
        if let Some(cache) = &self.parts.cache {
            cache.store(name, &file);
        }
        let before = self.unwritten.fetch_sub(file.len(), Ordering::Relaxed);
        let low = MAX_UNWRITTEN / 4;
        if before > low && before - file.len() <= low {
            let mut state = self.lock();
            state.hold_prefetch(false);
            self.step(state, None);
        }
    }

    fn probe(&self, Probe { mirror, until }: Probe) {
        let Some(url) = self.parts.mirrors.get(usize::from(mirror.0)) else { return };
        let url = format!("{url}{}", MirrorPath::Latest);
        let until = self.start + until;
        let get = Get { url: &url, limit: MAX_LATEST, len: None, until, fresh: true };
        let result = self.parts.http.get(get).map(drop);
        let mut state = self.lock();
        state.probed(&self.parts, self.now(), mirror, result);
        self.step(state, None);
    }
}

/// For `Debug` of what holds one.
impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Jobs")
    }
}

impl Jobs {
    fn send<J>(sender: &Sender<J>, job: J) {
        // The threads live as long as the senders.
        let _ = sender.send(job);
    }
}
