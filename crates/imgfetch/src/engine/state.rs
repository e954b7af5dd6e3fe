//! What the engine's mutex guards: the decisions of the engine, without I/O.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::recorded::RecordedReads;
use super::snapshot::{Counters, InFlight, LastError, MirrorState, Snapshot, millis};
use super::{BlockRequest, CacheLookup, EngineSetup, Probe, ReadError, Reply};
use crate::scheduler::{
    Arrived, BlockScheduler, LastFault, LookupResult, MirrorId, ObjectId, Piece, Ram, ReadAhead,
    ReadAheadGuess, ReadId, SchedulerAction, Ticket, Time,
};
use crate::threads::Queue;
use formats::block::{Block, BlockName};
use formats::fetch_fault::FetchFault as Fault;
use formats::index::BlockContents as Target;
use formats::url::MirrorUrl;
use system::http::RequestHandle;

/// A block that has just come.
pub(super) type ArrivedBlock = (ObjectId, Arc<Block>);
/// Reads that are over, to be answered when the mutex is free.
pub(super) type FinishedReads = Vec<(Reply, Result<Vec<u8>, ReadError>)>;

/// Errors that the status shows.
const ERRORS: usize = 8;
/// No more than one line of a mirror in the log in this time.
const QUIET: Duration = Duration::from_secs(5);
/// While it is down this time doubles, up to this.
const QUIET_MAX: Duration = Duration::from_secs(600);

/// The queues from which the threads take jobs.
#[derive(Clone, Default)]
pub(super) struct JobQueues {
    pub(super) loads: Arc<Queue<CacheLookup>>,
    pub(super) requests: Arc<Queue<BlockRequest>>,
    pub(super) probes: Arc<Queue<Probe>>,
    pub(super) writes: Arc<Queue<(BlockName, Vec<u8>)>>,
}

/// A read that waits for blocks.
struct PendingRead {
    pieces: Vec<Piece>,
    out: Vec<u8>,
    reply: Reply,
}

impl std::fmt::Debug for PendingRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PendingRead({} bytes)", self.out.len())
    }
}

/// The scheduler's core, the RAM cache, the reads that wait, and what the status shows.
///
/// # Contract
/// It is only used while the engine's mutex is held, and never blocks. After each call that changes something
/// ([`EngineState::begin_read`], [`EngineState::ram_hit`] with news, [`EngineState::prefetch`], [`EngineState::loaded`],
/// [`EngineState::fetched`], [`EngineState::probed`], [`EngineState::written`], [`EngineState::hold_prefetch`],
/// [`EngineState::wait_no_longer`]) the caller calls [`EngineState::step`] once before it lets go of the mutex; with the
/// block that has just arrived, if there is one, for the reads that wait for it. `step` puts what is to be done into the
/// [`JobQueues`] and gives the reads that are over, whose replies are called when the mutex is free. Then the timer is
/// woken if [`EngineState::wakeup_is_sooner`]; the timer itself calls `step` and sleeps until
/// [`EngineState::next_wakeup`]. Whoever takes a job reports it once.
///
/// A read that was begun is given back exactly once: by `begin_read`, by `step` or by [`EngineState::stop`], after which
/// nothing is handed out any more.
#[derive(Debug)]
pub(super) struct EngineState {
    core: BlockScheduler,
    ram: Ram<Arc<Block>>,
    /// Whether what RAM drops is kept elsewhere: there is a cache that takes blocks.
    keeps: bool,
    unwritten: HashSet<BlockName>,
    /// Bytes of a block file, on average.
    typical: u64,
    pending: HashMap<ReadId, PendingRead>,
    read_ahead: ReadAhead,
    /// Requests under way, with the time they began.
    handles: HashMap<Ticket, (Time, Arc<RequestHandle>)>,
    /// First reads: when, how often.
    recorded: Option<RecordedReads>,
    /// Blocks of the prefetch list.
    listed: usize,
    /// `None` once stopped.
    jobs: Option<JobQueues>,
    counters: Counters,
    errors: VecDeque<LastError>,
    /// Until when each mirror is not spoken of, and how long that was. When a failed read was last spoken of.
    quiet: Vec<(Time, Duration)>,
    /// Whether the log has a fault of each mirror, and not yet that it is back.
    told: Vec<bool>,
    spoke_of_reads: Option<Time>,
    /// When the timer wakes by itself.
    wakes_at: Option<Time>,
}

impl EngineState {
    pub(super) fn new(setup: &EngineSetup, jobs: JobQueues) -> Self {
        let mut core = BlockScheduler::new(setup.config, setup.mirrors.len());
        let objects = setup.index.objects();
        let total: u64 = objects.iter().map(|object| u64::from(object.file_len)).sum();
        let typical = total / (objects.len() as u64).max(1);
        for (id, estimate) in (0..=MirrorId::MAX.0).map(MirrorId).zip(&setup.estimates) {
            if let Some(most) = estimate.most {
                core.cap(id, most);
            }
            if let Some(first_byte) = estimate.first_byte {
                core.introduce(id, first_byte, estimate.rate, typical);
            }
            if let Some(blame) = estimate.blame {
                core.warn_of(id, blame);
            }
        }
        EngineState {
            core,
            read_ahead: ReadAhead::default(),
            handles: HashMap::new(),
            recorded: None,
            listed: 0,
            ram: Ram::new(setup.ram),
            keeps: setup.cache.is_some(),
            unwritten: HashSet::new(),
            typical,
            pending: HashMap::new(),
            jobs: Some(jobs),
            counters: Counters::default(),
            errors: VecDeque::new(),
            quiet: vec![(Time::ZERO, Duration::ZERO); setup.mirrors.len()],
            told: vec![false; setup.mirrors.len()],
            spoke_of_reads: None,
            wakes_at: None,
        }
    }

    /// The blocks of a read, if RAM has them all, and whether there is something new to fetch ahead.
    pub(super) fn ram_hit(
        &mut self,
        setup: &EngineSetup,
        now: Time,
        offset: u64,
        pieces: &[Piece],
    ) -> Option<(Vec<Option<Arc<Block>>>, bool)> {
        let held = |piece: &Piece| piece.object.is_none_or(|id| self.ram.contains(id));
        if !pieces.iter().all(held) {
            return None;
        }
        let blocks = pieces.iter().map(|piece| self.ram.get(piece.object?)).collect();
        let len = pieces.last().map_or(0, |last| last.at + last.len);
        self.counters.reads += 1;
        self.counters.read_bytes += len as u64;
        let mut news = false;
        for id in pieces.iter().filter_map(|piece| piece.object) {
            self.counters.ram_hits += 1;
            news |= self.touch(now, id);
        }
        // A guess that was right leads on.
        if news {
            self.look_ahead(setup, offset, len, pieces);
        }
        Some((blocks, news))
    }

    /// Takes what RAM has and asks the core for the rest. Gives the read back if there is none.
    pub(super) fn begin_read(
        &mut self,
        setup: &EngineSetup,
        now: Time,
        offset: u64,
        pieces: Vec<Piece>,
        reply: Reply,
    ) -> FinishedReads {
        let len = pieces.last().map_or(0, |last| last.at + last.len);
        let mut pending = PendingRead { pieces: Vec::new(), out: vec![0; len], reply };
        self.counters.reads += 1;
        self.counters.read_bytes += len as u64;
        for piece in pieces {
            let Some(id) = piece.object else { continue };
            self.touch(now, id);
            if let Some(block) = self.ram.get(id) {
                self.counters.ram_hits += 1;
                copy(&piece, &block, &mut pending.out);
            } else {
                pending.pieces.push(piece);
            }
        }
        if pending.pieces.is_empty() {
            return vec![(pending.reply, Ok(pending.out))];
        }
        self.look_ahead(setup, offset, len, &pending.pieces);
        let id = self.core.read(now, pending.pieces.iter().filter_map(|piece| piece.object));
        self.pending.insert(id, pending);
        FinishedReads::new()
    }

    /// Somebody reads a block. Whether it had been got ahead.
    fn touch(&mut self, now: Time, id: ObjectId) -> bool {
        if let Some(recorded) = &mut self.recorded {
            recorded.add(now, id);
        }
        self.core.touched(id)
    }

    /// What follows on the disk on a read of `len` bytes at `offset`. What the prefetch list foresees it fetches by
    /// itself, and knows better what is read after it; but who goes on reading there is to find it in RAM.
    fn look_ahead(&mut self, setup: &EngineSetup, offset: u64, len: usize, pieces: &[Piece]) {
        if !setup.read_ahead {
            return;
        }
        let foreseen = pieces.iter().all(|piece| piece.object.is_none_or(|id| self.core.foresees(id)));
        let free = if foreseen { 0 } else { self.core.room(self.typical) };
        let block_size = u64::from(setup.index.header().block_size.get());
        let number = |at: u64| u32::try_from(at / block_size).unwrap_or(u32::MAX);
        let last = offset + (len as u64).saturating_sub(1);
        let ReadAheadGuess { next, near } = self.read_ahead.read(number(offset), number(last), free);
        let lacking = |block: u32| match setup.index.target(block) {
            Some(Target::Object(id)) if !self.ram.contains(id) => Some(id),
            _ => None,
        };
        self.core.read_on(next.into_iter().filter_map(lacking), !foreseen);
        self.core.read_ahead(near.into_iter().filter_map(lacking));
    }

    pub(super) fn record(&mut self) {
        self.recorded.get_or_insert_default();
    }

    pub(super) fn recorded(&self, setup: &EngineSetup) -> Vec<(BlockName, u32, u32)> {
        let reads = self.recorded.iter().flat_map(|recorded| &recorded.reads);
        let named = reads.filter_map(|&(id, at, count)| {
            let millis = u32::try_from(at.as_millis()).unwrap_or(u32::MAX);
            Some((setup.index.object(id)?.name, millis, count))
        });
        named.collect()
    }

    /// Handles of requests that are under way for longer than this.
    pub(super) fn old_requests(&self, now: Time, than: Duration) -> Vec<Arc<RequestHandle>> {
        let old = self.handles.values().filter(|(began, _)| *began + than <= now);
        old.map(|(_, handle)| Arc::clone(handle)).collect()
    }

    pub(super) fn prefetch(&mut self, list: Vec<ObjectId>) {
        self.listed += list.len();
        // It comes a while after the first reads.
        self.core.prefetch(list.into_iter().filter(|&id| !self.ram.contains(id)));
    }

    pub(super) fn cap(&mut self, setup: &EngineSetup, caps: &[(MirrorUrl, u32)]) {
        for (id, url) in (0..=MirrorId::MAX.0).map(MirrorId).zip(&setup.mirrors) {
            if let Some((_, most)) = caps.iter().find(|(of, _)| of == url) {
                self.core.cap(id, *most);
            }
        }
    }

    pub(super) fn hold_prefetch(&mut self, held: bool) {
        self.core.hold_prefetch(held);
    }

    pub(super) fn not_kept(&mut self) {
        self.counters.not_kept += 1;
    }

    pub(super) fn write(&mut self, name: BlockName, file: Vec<u8>) {
        if let Some(jobs) = &self.jobs {
            self.unwritten.insert(name);
            jobs.writes.put((name, file));
        }
    }

    /// It is in the cache now, or never will be. A cache that takes nothing is none: what is fetched ahead must then
    /// fit into RAM.
    pub(super) fn written(&mut self, setup: &EngineSetup, name: BlockName, kept: bool) {
        self.unwritten.remove(&name);
        self.counters.not_kept += u64::from(!kept);
        if self.keeps != kept {
            self.keeps = kept;
            self.core.limit_unread(if kept { usize::MAX } else { setup.unread_in_ram() });
        }
    }

    /// Whether it is on its way into the cache.
    pub(super) fn is_unwritten(&self, name: BlockName) -> bool {
        self.unwritten.contains(&name)
    }

    pub(super) fn loaded(
        &mut self,
        now: Time,
        id: ObjectId,
        peek: bool,
        found: LookupResult,
        damaged: bool,
        ready: Option<&ArrivedBlock>,
    ) {
        let counter = match (peek, found) {
            (true, _) => &mut self.counters.cache_peeks,
            (false, LookupResult::Hit) => &mut self.counters.cache_hits,
            (false, LookupResult::Miss) => &mut self.counters.cache_misses,
        };
        *counter += 1;
        self.counters.cache_damaged += u64::from(damaged);
        self.keep_in_ram(ready);
        self.core.loaded(now, id, peek, found);
    }

    fn keep_in_ram(&mut self, ready: Option<&ArrivedBlock>) {
        if let Some((id, block)) = ready {
            for gone in self.ram.insert(*id, block.bytes().len(), Arc::clone(block)) {
                self.core.dropped(gone, self.keeps);
            }
        }
    }

    pub(super) fn fetched(
        &mut self,
        setup: &EngineSetup,
        now: Time,
        job: &BlockRequest,
        result: Result<Arrived, Fault>,
        ready: Option<&ArrivedBlock>,
    ) {
        self.handles.remove(&job.fetch.ticket);
        match &result {
            Ok(Arrived { bytes, .. }) => {
                self.counters.fetched_blocks += 1;
                self.counters.fetched_bytes += bytes;
                let raw = setup.index.object(job.fetch.block).map_or(0, |object| object.raw_len);
                self.counters.fetched_raw_bytes += u64::from(raw);
                self.counters.prefetched_blocks += u64::from(job.fetch.prefetch);
                // What may be read much later lies in the cache, and does not drive out what is read now.
                let later = job.fetch.prefetch && job.fetch.listed && self.keeps;
                if !later || self.ram.has_room(raw as usize) {
                    self.keep_in_ram(ready);
                }
            }
            Err(_) if job.handle.is_over() => {}
            Err(fault) => {
                self.counters.faults += 1;
                let name = setup.index.object(job.fetch.block).map(|object| object.name);
                self.remember_fault(setup, now, job.fetch.mirror, name, fault);
            }
        }
        let was_down = self.is_down(job.fetch.mirror);
        self.core.fetched(now, job.fetch.ticket, result);
        self.say_if_back(setup, job.fetch.mirror, was_down);
    }

    pub(super) fn probed(
        &mut self,
        setup: &EngineSetup,
        now: Time,
        mirror: MirrorId,
        result: Result<Duration, Fault>,
    ) {
        let was_down = self.is_down(mirror);
        if let Err(fault) = &result {
            detail!("{}: still: {fault}", url(setup, mirror));
        }
        self.core.probed(now, mirror, result);
        self.say_if_back(setup, mirror, was_down);
    }

    fn is_down(&self, mirror: MirrorId) -> bool {
        self.core.mirrors().get(usize::from(mirror.0)).is_some_and(|health| health.failures > 0)
    }

    /// Of one that only lost races nobody was told.
    fn say_if_back(&mut self, setup: &EngineSetup, mirror: MirrorId, was_down: bool) {
        let is_back = was_down && !self.is_down(mirror);
        if is_back && self.told.get_mut(usize::from(mirror.0)).is_some_and(std::mem::take) {
            log::info!("{}: the mirror answers again", url(setup, mirror));
        }
    }

    fn remember_fault(
        &mut self,
        setup: &EngineSetup,
        now: Time,
        mirror: MirrorId,
        name: Option<BlockName>,
        fault: &Fault,
    ) {
        // Faults of a block name it themselves.
        let text = match (fault, name) {
            (Fault::Damaged(_), _) | (_, None) => format!("{}: {fault}", url(setup, mirror)),
            (_, Some(name)) => format!("{}: block {name}: {fault}", url(setup, mirror)),
        };
        let is_down = self.is_down(mirror);
        let quiet = self.quiet.get_mut(usize::from(mirror.0));
        if let Some((until, length)) = quiet.filter(|(until, _)| now >= *until) {
            *length = if is_down { (2 * *length).clamp(QUIET, QUIET_MAX) } else { QUIET };
            *until = now + *length;
            self.told.iter_mut().skip(mirror.0.into()).take(1).for_each(|told| *told = true);
            log::warn!("{text}; trying again, or the next mirror");
        } else {
            detail!("{text}");
        }
        self.remember(now, text);
    }

    fn remember(&mut self, now: Time, text: String) {
        if self.errors.len() == ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(LastError { at_ms: millis(now), text });
    }

    /// Lets the core say all it has to say.
    pub(super) fn step(
        &mut self,
        setup: &EngineSetup,
        now: Time,
        ready: Option<ArrivedBlock>,
    ) -> FinishedReads {
        let mut done = Vec::new();
        while let Some(action) = self.core.poll(now) {
            match action {
                SchedulerAction::Deliver { read, block } => {
                    let pending = self.pending.get_mut(&read);
                    if let (Some(pending), Some((id, bytes))) = (pending, &ready)
                        && *id == block
                    {
                        let PendingRead { pieces, out, .. } = pending;
                        let of_block = pieces.iter().filter(|piece| piece.object == Some(block));
                        of_block.for_each(|piece| copy(piece, bytes, out));
                    }
                }
                SchedulerAction::Finish { read } => {
                    if let Some(PendingRead { out, reply, .. }) = self.pending.remove(&read) {
                        done.push((reply, Ok(out)));
                    }
                }
                SchedulerAction::Fail { read, block, last } => {
                    let error = self.read_failed(setup, now, block, last);
                    if let Some(PendingRead { reply, .. }) = self.pending.remove(&read) {
                        done.push((reply, Err(error)));
                    }
                }
                action => self.hand_out(now, action),
            }
        }
        done
    }

    fn hand_out(&mut self, now: Time, action: SchedulerAction) {
        let Some(jobs) = &self.jobs else { return };
        match action {
            SchedulerAction::Load { block, peek } => jobs.loads.put(CacheLookup { id: block, peek }),
            SchedulerAction::Fetch(fetch) => {
                self.counters.requests += 1;
                let handle = Arc::new(RequestHandle::default());
                self.handles.insert(fetch.ticket, (now, Arc::clone(&handle)));
                jobs.requests.put(BlockRequest { fetch, handle });
            }
            SchedulerAction::Cancel { ticket } => {
                if let Some((_, handle)) = self.handles.get(&ticket) {
                    handle.end();
                }
            }
            SchedulerAction::Hold { ticket, until } => {
                if let Some((_, handle)) = self.handles.get(&ticket) {
                    handle.hold_up(until.saturating_sub(now));
                }
            }
            SchedulerAction::Probe { mirror, until } => jobs.probes.put(Probe { mirror, until }),
            SchedulerAction::Deliver { .. }
            | SchedulerAction::Finish { .. }
            | SchedulerAction::Fail { .. } => {}
        }
    }

    fn read_failed(&mut self, setup: &EngineSetup, now: Time, block: ObjectId, last: LastFault) -> ReadError {
        self.counters.reads_failed += 1;
        let reason = match last {
            Some((mirror, fault)) => format!("last, {}: {fault}", url(setup, mirror)),
            None => "no mirror has answered yet".into(),
        };
        // An object of the index, or there would be no read of it.
        let name = setup.index.object(block).map_or(BlockName([0; 16]), |object| object.name);
        let deadline = self.core.deadline().unwrap_or_default();
        let error = ReadError::Deadline { name, deadline, reason };
        if self.spoke_of_reads.is_none_or(|at| now >= at + QUIET) {
            self.spoke_of_reads = Some(now);
            log::error!("{error}; the read ends with EIO ({} so far)", self.counters.reads_failed);
        }
        self.remember(now, error.to_string());
        error
    }

    pub(super) fn next_wakeup(&mut self) -> Option<Time> {
        self.wakes_at = self.core.next_wakeup();
        self.wakes_at
    }

    /// Whether the timer sleeps for too long.
    pub(super) fn wakeup_is_sooner(&self) -> bool {
        match (self.core.next_wakeup(), self.wakes_at) {
            (Some(next), Some(planned)) => next < planned,
            (next, planned) => next.is_some() && planned.is_none(),
        }
    }

    /// If no mirror is up, reads wait no longer than this from now on, those too that wait already. Whether it is so.
    pub(super) fn wait_no_longer(&mut self, than: Duration) -> bool {
        let is_cut_off = self.core.mirrors().iter().all(|health| health.failures > 0);
        if is_cut_off {
            self.core.set_deadline(Some(self.core.deadline().map_or(than, |deadline| deadline.min(than))));
        }
        is_cut_off
    }

    pub(super) fn stopped(&self) -> bool {
        self.jobs.is_none()
    }

    pub(super) fn stop(&mut self) -> FinishedReads {
        if let Some(jobs) = self.jobs.take() {
            jobs.loads.close();
            jobs.requests.close();
            jobs.probes.close();
            jobs.writes.close();
        }
        self.handles.values().for_each(|(_, handle)| handle.end());
        self.pending.drain().map(|(_, pending)| (pending.reply, Err(ReadError::Stopped))).collect()
    }

    pub(super) fn snapshot(
        &self,
        setup: &EngineSetup,
        now: Time,
        cache: Option<((usize, u64), u64)>,
    ) -> Snapshot {
        let mirrors = setup.mirrors.iter().zip(self.core.mirrors());
        let mirrors = mirrors.map(|(url, health)| MirrorState::of(url, health, now)).collect();
        let in_flight = self.core.flights().map(|(block, mirror, since)| InFlight {
            block: setup.index.object(block).map(|object| object.name.to_string()).unwrap_or_default(),
            mirror: url(setup, mirror).to_string(),
            for_ms: millis(now.saturating_sub(since)),
        });
        let counters = Counters {
            prefetched_read: self.core.useful(),
            hedged: self.core.hedged(),
            ..self.counters.clone()
        };
        Snapshot {
            uptime_ms: millis(now),
            mirrors,
            counters,
            reads_waiting: self.core.waiting(),
            waiting_ms: self.core.waiting_since().map_or(0, |since| millis(now.saturating_sub(since))),
            deadline_ms: self.core.deadline().map(millis),
            prefetch_left: self.core.prefetch_left(),
            prefetch_total: self.listed,
            prefetch_stale: self.core.list_is_stale(),
            connections: self.core.limit(),
            rate: self.core.rate(),
            in_flight: in_flight.collect(),
            ram_bytes: self.ram.used(),
            ram_limit: self.ram.limit(),
            cache_blocks: cache.map(|((blocks, _), _)| blocks),
            cache_bytes: cache.map(|((_, bytes), _)| bytes),
            cache_full: setup.cache.as_ref().map(|cache| cache.is_full()),
            cache_write_errors: cache.map(|(_, errors)| errors),
            last_errors: self.errors.iter().cloned().collect(),
        }
    }
}

fn url(setup: &EngineSetup, mirror: MirrorId) -> &str {
    setup.mirrors.get(usize::from(mirror.0)).map_or("?", |url| url.as_str())
}

/// Puts a piece of a block where it belongs in a read.
fn copy(piece: &Piece, block: &Block, out: &mut [u8]) {
    let from = block.bytes().get(piece.from..piece.from + piece.len);
    let to = out.get_mut(piece.at..piece.at + piece.len);
    // Pieces are cut by the index, whose lengths a `Block` is proved against.
    if let (Some(from), Some(to)) = (from, to) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests;
