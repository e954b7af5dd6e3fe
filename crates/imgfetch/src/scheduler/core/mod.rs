//! The state machine: what it is asked for (here), what happens (`events`), what it wants done
//! (`poll`), and how what is fetched ahead makes room for what is read (`hold`).

mod events;
mod hold;
mod poll;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::concurrency::ConcurrencyController;
use super::{Backoff, FailureScope, Fault, Health, Hedge, MirrorId, ObjectId, ReadId, Ticket, Time};
use crate::jitter::Jitter;

/// Limits of the core.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Requests at once at the start.
    pub begin: usize,
    /// Requests at once at most, those aside that are made because another one hangs: [`SPARE`] more.
    pub connections: usize,
    /// Looks into the cache at once; 0: there is no cache.
    pub loaders: usize,
    /// A read ends within this; `None`: it waits for as long as it takes.
    pub deadline: Option<Duration>,
    /// A request ends within this.
    pub attempt: Duration,
    /// A look into the cache that takes longer is not waited for.
    pub load: Duration,
    /// Before all mirrors are asked for a block again; doubled each time.
    pub pause: Duration,
    /// The longest such pause.
    pub pause_max: Duration,
    /// How long mirrors rest.
    pub backoff: Backoff,
    /// Spreads rests and pauses, so that the clients of a mirror do not ask it all at once.
    pub jitter: Jitter,
    /// When a second request is made beside the first.
    pub hedge: Hedge,
    /// Blocks fetched ahead that may lie unread: as many as the shell can keep.
    pub unread: usize,
    /// Blocks loaded from the cache ahead that may lie unread in RAM.
    pub ready: usize,
}

/// Requests that may be made beside those that hang.
pub const SPARE: usize = 8;

impl Default for Config {
    fn default() -> Self {
        Config {
            begin: 4,
            connections: 32,
            loaders: 2,
            deadline: Some(Duration::from_secs(60)),
            attempt: Duration::from_secs(30),
            load: Duration::from_secs(2),
            pause: Duration::from_millis(200),
            pause_max: Duration::from_secs(1),
            backoff: Backoff::default(),
            jitter: Jitter::NONE,
            hedge: Hedge::default(),
            unread: usize::MAX,
            ready: 64,
        }
    }
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum SchedulerAction {
    /// Look for the block in the cache and say [`BlockScheduler::loaded`].
    Load {
        block: ObjectId,
        /// Only whether it is there: nobody wants its bytes now.
        peek: bool,
    },
    /// Ask the mirror for the block and say [`BlockScheduler::fetched`], at `until` at the latest.
    Fetch(BlockFetch),
    /// Nobody wants what this request brings any more: end it.
    Cancel { ticket: Ticket },
    /// Take no more of what this request brings before then: somebody waits for something else. In the past: go on.
    Hold { ticket: Ticket, until: Time },
    /// Ask the mirror for anything small and say [`BlockScheduler::probed`]: is it back?
    Probe {
        mirror: MirrorId,
        /// When to give up.
        until: Time,
    },
    /// Give the read the block that has just come.
    Deliver { read: ReadId, block: ObjectId },
    /// The read has all it waited for.
    Finish { read: ReadId },
    /// The read's time is over.
    Fail {
        read: ReadId,
        /// What it still waited for.
        block: ObjectId,
        /// The last fault in fetching it; `None` when no answer came at all.
        last: LastFault,
    },
}

/// A request for a block file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockFetch {
    /// To be given back.
    pub ticket: Ticket,
    pub block: ObjectId,
    pub mirror: MirrorId,
    /// When to give up.
    pub until: Time,
    /// Past caches on the way: wrong bytes came before.
    pub fresh: bool,
    /// Whether nobody waits for it yet.
    pub prefetch: bool,
    /// Whether it is the prefetch list that names it: it may be long until it is read.
    pub listed: bool,
    /// Not over a connection that was used before: the mirror has not answered on one of those.
    pub new_connection: bool,
}

/// The last fault in fetching a block, and whose it was.
pub type LastFault = Option<(MirrorId, Fault)>;

/// What a look into the cache found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// The block, verified, or, for a peek, its file.
    Hit,
    /// Nothing, or nothing that could be used.
    Miss,
}

/// What a request has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Bytes over the network.
    pub bytes: u64,
    /// From the request to the first byte of the answer.
    pub first_byte: Duration,
}

/// A block that is being got.
#[derive(Debug, Default)]
struct Work {
    step: WorkStep,
    /// From the prefetch list.
    listed: bool,
    /// While nobody reads it: it is got from the cache or not at all.
    only_load: bool,
    readers: Vec<ReadId>,
    // Mirrors that failed in this round, and how many rounds have failed.
    tried: u64,
    rounds: u32,
    not_before: Time,
    last: LastFault,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum WorkStep {
    #[default]
    ToLoad,
    Loading,
    ToFetch,
    Fetching,
}

#[derive(Debug)]
struct Read {
    began: Time,
    /// In order, each once.
    missing: Vec<ObjectId>,
}

#[derive(Debug)]
struct Flight {
    block: ObjectId,
    mirror: MirrorId,
    started: Time,
    until: Time,
    /// Nobody waited for it when it began.
    ahead: bool,
    /// What it was to bring has come from elsewhere.
    given_up: bool,
    /// There is another request for the same block.
    raced: bool,
    /// Nothing of it is taken until then, and how long that was in all.
    held_until: Time,
    held: Duration,
}

impl Flight {
    /// When it would have begun had nobody held it up.
    fn began(&self) -> Time {
        self.started + self.held
    }
}

/// Schedules the requests for blocks.
///
/// # Contract
/// Every call that has a `now` is given the time since whatever moment the caller chose; it never goes back. After a call
/// that reports or changes something ([`BlockScheduler::read`], [`BlockScheduler::touched`], [`BlockScheduler::loaded`], [`BlockScheduler::fetched`],
/// [`BlockScheduler::probed`], [`BlockScheduler::prefetch`], [`BlockScheduler::read_on`], [`BlockScheduler::read_ahead`], [`BlockScheduler::hold_prefetch`],
/// [`BlockScheduler::limit_unread`], [`BlockScheduler::set_deadline`], [`BlockScheduler::dropped`]), and whenever [`BlockScheduler::next_wakeup`] has come:
///
/// 1. call [`BlockScheduler::poll`] until it gives `None`, and carry out each action in this order;
/// 2. then wait for the next event, but no longer than until [`BlockScheduler::next_wakeup`], which is to be asked for again each
///    time; `None` there means: until the next event.
///
/// Several reports may come between two drains. What an action asks for is reported once: [`SchedulerAction::Load`] by
/// [`BlockScheduler::loaded`], [`SchedulerAction::Fetch`] by [`BlockScheduler::fetched`] with its ticket, a cancelled one too, [`SchedulerAction::Probe`] by
/// [`BlockScheduler::probed`]. A report that is late, or never comes, costs time and no more: the core writes the request off. After
/// `Ok` or [`LookupResult::Hit`] the block's bytes must be at hand until the drain that follows is over, as
/// [`SchedulerAction::Deliver`] wants them.
///
/// # Promises
/// Whatever mirrors and the cache do: a block has at most one request in flight, or two when a read waits for it and the
/// first takes too long; a demand read starts before any prefetch; each read gets exactly one [`SchedulerAction::Finish`] or
/// [`SchedulerAction::Fail`], by its deadline if there is one; before its `Finish` each of its blocks was delivered once.
#[derive(Debug)]
pub struct BlockScheduler {
    config: Config,
    mirrors: Vec<Health>,
    work: HashMap<ObjectId, Work>,
    // The one that waits longest is the first.
    reads: BTreeMap<ReadId, Read>,
    // Blocks to load or to fetch: those that are read first, in the order in which they were asked for.
    demanded: VecDeque<ObjectId>,
    prefetched: VecDeque<ObjectId>,
    // Not yet work; only their fronts are looked at. What follows on the disk goes before what a boot reads. With a
    // cache, what is next goes into RAM: whether it is fetched when the cache does not have it.
    next_blocks: VecDeque<(ObjectId, bool)>,
    read_ahead: VecDeque<ObjectId>,
    prefetch_list: VecDeque<ObjectId>,
    // Blocks that came while there is a list: they need not be prefetched.
    came: HashSet<ObjectId>,
    prefetch_held: bool,
    // Nothing is fetched ahead before then.
    hold_until: Time,
    // When a block was last asked for that is read and that nobody foresaw.
    unforeseen_at: Option<Time>,
    // Blocks of which wrong bytes came: they are asked for past caches on the way.
    suspect: HashSet<ObjectId>,
    list: ListUse,
    // Fetched ahead, or loaded into RAM ahead, and not read yet.
    unread: HashSet<ObjectId>,
    ready: HashSet<ObjectId>,
    useful: u64,
    concurrency: ConcurrencyController,
    // Tenths of second requests that may still be made: blocks that come add to them.
    hedges: u32,
    hedged: u64,
    /// Looks into the cache under way, and when each began. No more than there are loaders.
    loading: Vec<(ObjectId, Time)>,
    flights: BTreeMap<Ticket, Flight>,
    outputs: VecDeque<SchedulerAction>,
    next: u64,
    polled_at: Time,
}

/// How well the prefetch list tells what is read.
#[derive(Debug, Default)]
struct ListUse {
    listed: HashSet<ObjectId>,
    asked: HashSet<ObjectId>,
    asked_listed: usize,
    stale: bool,
}

/// A list is not judged before so many blocks were read.
const JUDGED: usize = 48;
/// What follows on the disk is not remembered beyond so many blocks.
const READ_AHEAD: usize = 64;
/// A mirror is far when it takes so long to the first byte of an answer.
const FAR: Duration = Duration::from_millis(10);
/// How long somebody may wait for what the line carries of others.
const MOMENT: Duration = Duration::from_millis(20);
/// Second requests that may be made at once, in tenths: a burst, then one for each ten blocks.
const HEDGES: u32 = 80;

/// Whoever reads where the first of them stand has gone on without.
fn keep_last<T>(queue: &mut VecDeque<T>) {
    queue.drain(..queue.len().saturating_sub(READ_AHEAD));
}

impl BlockScheduler {
    /// A core for the given number of mirrors, at most [`MirrorId::MAX`] + 1.
    pub fn new(config: Config, mirrors: usize) -> Self {
        let mirrors = mirrors.min(usize::from(MirrorId::MAX.0) + 1);
        BlockScheduler {
            config,
            mirrors: (0..mirrors as u64)
                .map(|mirror| Health { jitter: config.jitter.numbered(mirror), ..Health::default() })
                .collect(),
            work: HashMap::new(),
            reads: BTreeMap::new(),
            demanded: VecDeque::new(),
            prefetched: VecDeque::new(),
            next_blocks: VecDeque::new(),
            read_ahead: VecDeque::new(),
            prefetch_list: VecDeque::new(),
            came: HashSet::new(),
            prefetch_held: false,
            hold_until: Time::ZERO,
            unforeseen_at: None,
            suspect: HashSet::new(),
            list: ListUse::default(),
            unread: HashSet::new(),
            ready: HashSet::new(),
            useful: 0,
            concurrency: ConcurrencyController::new(config.begin.min(config.connections), config.connections),
            hedges: HEDGES,
            hedged: 0,
            loading: Vec::new(),
            flights: BTreeMap::new(),
            outputs: VecDeque::new(),
            next: 0,
            polled_at: Time::ZERO,
        }
    }

    /// This mirror takes no more than so many requests at once.
    pub fn cap(&mut self, mirror: MirrorId, most: u32) {
        if let Some(health) = self.mirrors.get_mut(usize::from(mirror.0)) {
            health.most = Some(most.max(1));
        }
    }

    /// This mirror has answered before there was a core: `rate` in bytes a second, if it is known.
    pub fn introduce(&mut self, mirror: MirrorId, first_byte: Duration, rate: Option<u64>, typical: u64) {
        let Some(health) = self.mirrors.get_mut(usize::from(mirror.0)) else { return };
        health.answered(Time::ZERO, 0, first_byte);
        if let Some(rate) = rate {
            health.rate = rate;
            self.concurrency.expect(first_byte, rate, typical);
        }
    }

    /// This mirror has failed before there was a core.
    pub fn warn_of(&mut self, mirror: MirrorId, blame: FailureScope) {
        let backoff = self.config.backoff;
        if let Some(health) = self.mirrors.get_mut(usize::from(mirror.0)) {
            health.failed(Time::ZERO, Time::ZERO, blame, &backoff);
        }
    }

    /// Somebody reads these blocks, none of which the shell has in RAM. At least one.
    pub fn read(&mut self, now: Time, blocks: impl IntoIterator<Item = ObjectId>) -> ReadId {
        self.next += 1;
        let id = ReadId(self.next);
        let mut missing = Vec::new();
        // A few: a read is not much longer than a block.
        for block in blocks {
            if let Err(place) = missing.binary_search(&block) {
                missing.insert(place, block);
            }
        }
        for &block in &missing {
            self.demand(now, block, id);
        }
        self.reads.insert(id, Read { began: now, missing });
        id
    }

    /// Somebody reads a block, wherever it comes from. Whether it was got ahead and is read for the first time.
    pub fn touched(&mut self, block: ObjectId) -> bool {
        let fetched_ahead = self.unread.remove(&block);
        let loaded_ahead = self.ready.remove(&block);
        self.useful += u64::from(fetched_ahead);
        self.judge_list(block);
        fetched_ahead || loaded_ahead
    }

    /// Whether the prefetch list names this block: it will come, and so will what is read after it.
    pub fn foresees(&self, block: ObjectId) -> bool {
        self.list.listed.contains(&block)
    }

    /// RAM no longer has a block, and nothing else has if it is not `kept`.
    pub fn dropped(&mut self, block: ObjectId, kept: bool) {
        self.ready.remove(&block);
        if !kept {
            self.unread.remove(&block);
        }
    }

    /// Blocks that are read and are not in the list: when that is most of them, the list is of another disk.
    fn judge_list(&mut self, block: ObjectId) {
        let list = &mut self.list;
        if list.listed.is_empty() || list.stale || self.prefetch_list.is_empty() {
            return;
        }
        // What is read again says nothing.
        list.asked_listed += usize::from(list.asked.insert(block) && list.listed.contains(&block));
        if list.asked.len() >= JUDGED && list.asked_listed * 4 < list.asked.len() {
            *list = ListUse { stale: true, ..ListUse::default() };
            self.prefetch_list.clear();
            self.came.clear();
        }
    }

    fn demand(&mut self, now: Time, block: ObjectId, read: ReadId) {
        // The cache may have brought a block while it was also asked for: that request serves the next read.
        let in_flight = self.flights.values().any(|flight| flight.block == block && !flight.given_up);
        let work = self.work.entry(block).or_insert_with(|| {
            let step = match self.config.loaders {
                _ if in_flight => WorkStep::Fetching,
                0 => WorkStep::ToFetch,
                _ => WorkStep::ToLoad,
            };
            if step != WorkStep::Fetching {
                self.demanded.push_back(block);
            }
            Work { step, ..Work::default() }
        });
        // What was only wanted ahead of time is now wanted at once.
        if work.readers.is_empty() {
            if let Some(at) = self.prefetched.iter().position(|&queued| queued == block) {
                self.prefetched.remove(at);
                self.demanded.push_back(block);
            }
            work.not_before = Time::ZERO;
        }
        work.readers.push(read);
        self.go_on_with(now, block);
    }

    /// Blocks that will be read, in this order. What has come meanwhile or is being got is passed over.
    pub fn prefetch(&mut self, blocks: impl IntoIterator<Item = ObjectId>) {
        self.prefetch_list.extend(blocks);
        // From here on there is somebody who foresees.
        self.unforeseen_at = None;
        self.list = ListUse { listed: self.prefetch_list.iter().copied().collect(), ..ListUse::default() };
    }

    /// Blocks that somebody reads next who goes on: into RAM with them, from the cache or, if `fetch`, from a mirror.
    pub fn read_on(&mut self, blocks: impl IntoIterator<Item = ObjectId>, fetch: bool) {
        if self.config.loaders > 0 {
            self.next_blocks.extend(blocks.into_iter().map(|block| (block, fetch)));
            keep_last(&mut self.next_blocks);
        } else if fetch {
            self.read_ahead(blocks);
        }
    }

    /// Blocks that may be read: to be fetched unless the cache has them.
    pub fn read_ahead(&mut self, blocks: impl IntoIterator<Item = ObjectId>) {
        self.read_ahead.extend(blocks);
        keep_last(&mut self.read_ahead);
    }

    /// No more than so many blocks fetched ahead may lie unread from now on.
    pub fn limit_unread(&mut self, blocks: usize) {
        self.config.unread = blocks;
    }

    /// Whether to leave the prefetch list alone: the cache can't take more just now.
    pub fn hold_prefetch(&mut self, held: bool) {
        self.prefetch_held = held;
    }

    /// The mirrors, in the order of their ids.
    pub fn mirrors(&self) -> &[Health] {
        &self.mirrors
    }

    /// Requests in flight: block, mirror and start.
    pub fn flights(&self) -> impl Iterator<Item = (ObjectId, MirrorId, Time)> {
        self.flights.values().map(|flight| (flight.block, flight.mirror, flight.started))
    }

    /// The number of reads that wait for a block.
    pub fn waiting(&self) -> usize {
        self.reads.len()
    }

    /// Since when the read waits that waits longest.
    pub fn waiting_since(&self) -> Option<Time> {
        self.reads.first_key_value().map(|(_, read)| read.began)
    }

    /// When the read that waits longest fails.
    pub(super) fn first_deadline(&self) -> Option<Time> {
        self.waiting_since().zip(self.config.deadline).map(|(since, deadline)| since + deadline)
    }

    /// How long reads wait, those too that do so already.
    pub fn deadline(&self) -> Option<Duration> {
        self.config.deadline
    }

    /// Changes how long reads wait, those too that do so already.
    pub fn set_deadline(&mut self, deadline: Option<Duration>) {
        self.config.deadline = deadline;
    }

    /// Blocks of the prefetch list that are not begun.
    pub fn prefetch_left(&self) -> usize {
        self.prefetch_list.len()
    }

    /// Blocks fetched ahead that were read later.
    pub fn useful(&self) -> u64 {
        self.useful
    }

    /// Second requests made beside one that hung.
    pub fn hedged(&self) -> u64 {
        self.hedged
    }

    /// Blocks of `typical` bytes that the best mirror sends in the time until the first byte of an answer; 0 for one
    /// that is near.
    pub fn room(&self, typical: u64) -> u32 {
        let known = self.mirrors.iter().filter(|mirror| mirror.failures == 0);
        let best =
            known.filter_map(|mirror| Some((mirror.expected()?, mirror))).min_by_key(|(time, _)| *time);
        let Some((_, best)) = best else { return 0 };
        let wait = best.first_byte.quantile(50).filter(|wait| *wait >= FAR).unwrap_or_default();
        let millis = u64::try_from(wait.as_millis()).unwrap_or(0);
        // A mirror's own rate is that of one request among others.
        let rate = best.rate.max(self.concurrency.rate());
        u32::try_from(rate.saturating_mul(millis) / 1000 / typical.max(1)).unwrap_or(u32::MAX)
    }

    /// Requests that keep the line to the best mirror busy while one more is waited for, if that is known: what it carries
    /// until the first byte of an answer, a quarter and a moment more, to the nearest file.
    pub(super) fn busy_line(&self) -> Option<usize> {
        let known = self.mirrors.iter().filter(|mirror| mirror.failures == 0 && mirror.good > 0);
        let best =
            known.filter_map(|mirror| Some((mirror.expected()?, mirror))).min_by_key(|(time, _)| *time)?.1;
        // Others in front of it make a first byte late; the quickest tell how far it is.
        let wait = best.first_byte.quantile(10)? * 5 / 4 + MOMENT;
        // A mirror's own rate is that of one request among others: too little to go by.
        let rate = Some(self.concurrency.rate()).filter(|rate| *rate > 0)?;
        let bytes = rate.checked_mul(u64::try_from(wait.as_millis()).ok()?)? / 1000;
        let typical = (best.bytes / best.good).max(1);
        usize::try_from(((bytes + typical / 2) / typical).max(1)).ok()
    }

    /// Requests that may be in flight at once, now.
    pub fn limit(&self) -> usize {
        self.concurrency.limit()
    }

    /// Bytes a second that the link gave at best.
    pub fn rate(&self) -> u64 {
        self.concurrency.rate()
    }

    /// Whether the prefetch list was dropped because it is not of this disk.
    pub fn list_is_stale(&self) -> bool {
        self.list.stale
    }
}
