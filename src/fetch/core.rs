//! The state machine.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::mirrors::{Choice, choose, doubled};
use super::{Blame, Fault, Health, MirrorId, ObjectId, ReadId, Rest, Ticket, Time};

/// Limits of the core.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Requests at once.
    pub connections: usize,
    /// Looks into the cache at once; 0: there is no cache.
    pub loaders: usize,
    /// A read ends within this.
    pub deadline: Duration,
    /// A request ends within this.
    pub attempt: Duration,
    /// A look into the cache that takes longer is not waited for.
    pub load: Duration,
    /// Before all mirrors are asked for a block again; doubled each time.
    pub pause: Duration,
    /// The longest such pause.
    pub pause_max: Duration,
    /// How long mirrors rest.
    pub rest: Rest,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            connections: 4,
            loaders: 2,
            deadline: Duration::from_secs(60),
            attempt: Duration::from_secs(30),
            load: Duration::from_secs(2),
            pause: Duration::from_millis(200),
            pause_max: Duration::from_secs(2),
            rest: Rest::default(),
        }
    }
}

/// A request that has not ended this long after its end: its thread is stuck, and the block is asked for again.
const GRACE: Duration = Duration::from_secs(5);

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Look for the block in the cache and say [`Core::loaded`].
    Load {
        /// The block.
        block: ObjectId,
        /// Only whether it is there: nobody waits for its bytes.
        peek: bool,
    },
    /// Ask the mirror for the block and say [`Core::fetched`], at `until` at the latest.
    Fetch {
        /// To be given back.
        ticket: Ticket,
        /// The block.
        block: ObjectId,
        /// The mirror.
        mirror: MirrorId,
        /// When to give up.
        until: Time,
        /// Past caches on the way: wrong bytes came before.
        fresh: bool,
        /// Whether nobody waits for it yet.
        prefetch: bool,
    },
    /// Ask the mirror for anything small and say [`Core::probed`]: is it back?
    Probe {
        /// The mirror.
        mirror: MirrorId,
        /// When to give up.
        until: Time,
    },
    /// Give the read the block that has just come.
    Deliver {
        /// The read.
        read: ReadId,
        /// The block.
        block: ObjectId,
    },
    /// The read has all it waited for.
    Finish {
        /// The read.
        read: ReadId,
    },
    /// The read's time is over.
    Fail {
        /// The read.
        read: ReadId,
        /// What it still waited for.
        block: ObjectId,
        /// The last fault in fetching it; `None` when no answer came at all.
        last: LastFault,
    },
}

/// The last fault in fetching a block, and whose it was.
pub type LastFault = Option<(MirrorId, Fault)>;

/// What a look into the cache found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The block, verified, or, for a peek, its file.
    Yes,
    /// Nothing, or nothing that could be used.
    No,
}

/// A block that is being got.
#[derive(Debug, Default)]
struct Work {
    step: Step,
    readers: Vec<ReadId>,
    // Mirrors that failed in this round, and how many rounds have failed.
    tried: u64,
    rounds: u32,
    not_before: Time,
    fresh: bool,
    last: LastFault,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    ToLoad,
    Loading,
    ToFetch,
    Fetching,
}

#[derive(Debug)]
struct Read {
    deadline: Time,
    missing: BTreeSet<ObjectId>,
}

#[derive(Debug)]
struct Flight {
    block: ObjectId,
    mirror: MirrorId,
    started: Time,
    until: Time,
}

/// See the module's text.
#[derive(Debug)]
pub struct Core {
    config: Config,
    mirrors: Vec<Health>,
    work: HashMap<ObjectId, Work>,
    reads: HashMap<ReadId, Read>,
    deadlines: BTreeSet<(Time, ReadId)>,
    // Blocks to load or to fetch: those that are read first, in the order in which they were asked for.
    demanded: VecDeque<ObjectId>,
    prefetched: VecDeque<ObjectId>,
    // Not yet work; only its front is looked at.
    prefetch_list: VecDeque<ObjectId>,
    // Blocks that came while there is a list: they need not be prefetched.
    came: HashSet<ObjectId>,
    prefetch_held: bool,
    loading: BTreeMap<ObjectId, Time>,
    flights: BTreeMap<Ticket, Flight>,
    outputs: VecDeque<Action>,
    next: u64,
    polled_at: Time,
}

impl Core {
    /// A core for the given number of mirrors, at most [`MirrorId::MAX`] + 1.
    pub fn new(config: Config, mirrors: usize) -> Self {
        let mirrors = mirrors.min(usize::from(MirrorId::MAX.0) + 1);
        Core {
            config,
            mirrors: vec![Health::default(); mirrors],
            work: HashMap::new(),
            reads: HashMap::new(),
            deadlines: BTreeSet::new(),
            demanded: VecDeque::new(),
            prefetched: VecDeque::new(),
            prefetch_list: VecDeque::new(),
            came: HashSet::new(),
            prefetch_held: false,
            loading: BTreeMap::new(),
            flights: BTreeMap::new(),
            outputs: VecDeque::new(),
            next: 0,
            polled_at: Time::ZERO,
        }
    }

    /// Somebody reads these blocks, none of which the shell has in RAM. At least one.
    pub fn read(&mut self, now: Time, blocks: impl IntoIterator<Item = ObjectId>) -> ReadId {
        self.next += 1;
        let id = ReadId(self.next);
        let missing: BTreeSet<ObjectId> = blocks.into_iter().collect();
        for &block in &missing {
            self.demand(block, id);
        }
        let deadline = now + self.config.deadline;
        self.deadlines.insert((deadline, id));
        self.reads.insert(id, Read { deadline, missing });
        id
    }

    fn demand(&mut self, block: ObjectId, read: ReadId) {
        // The cache may have brought a block while it was also asked for: that request serves the next read.
        let in_flight = self.flights.values().any(|flight| flight.block == block);
        let work = self.work.entry(block).or_insert_with(|| {
            let step = match self.config.loaders {
                _ if in_flight => Step::Fetching,
                0 => Step::ToFetch,
                _ => Step::ToLoad,
            };
            if step != Step::Fetching {
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
    }

    /// Blocks that will be read, in this order. What has come meanwhile or is being got is passed over.
    pub fn prefetch(&mut self, blocks: impl IntoIterator<Item = ObjectId>) {
        self.prefetch_list.extend(blocks);
    }

    /// Whether to leave the prefetch list alone: the cache can't take more just now.
    pub fn hold_prefetch(&mut self, held: bool) {
        self.prefetch_held = held;
    }

    /// The look into the cache has ended. After [`Found::Yes`] for a block that somebody reads, the shell
    /// serves the [`Action::Deliver`]s that follow from it.
    pub fn loaded(&mut self, now: Time, block: ObjectId, peek: bool, found: Found) {
        self.loading.remove(&block);
        let Some(work) = self.work.get_mut(&block) else { return };
        match found {
            // It came after all, while a mirror was already being asked.
            Found::Yes if !peek => self.complete(block),
            Found::Yes if work.readers.is_empty() => drop(self.forget(block)),
            // Now somebody wants the bytes too.
            Found::Yes if work.step == Step::Loading => {
                work.step = Step::ToLoad;
                self.demanded.push_back(block);
            }
            Found::No if work.step == Step::Loading => self.queue_fetch(now, block),
            _ => {}
        }
    }

    fn queue_fetch(&mut self, now: Time, block: ObjectId) {
        let Some(work) = self.work.get_mut(&block) else { return };
        work.step = Step::ToFetch;
        work.not_before = work.not_before.max(now);
        // What is begun is ended first.
        if work.readers.is_empty() {
            self.prefetched.push_front(block);
        } else {
            self.demanded.push_front(block);
        }
    }

    /// A request has ended: `Ok` with the bytes that came over the network once the block is verified.
    pub fn fetched(&mut self, now: Time, ticket: Ticket, result: Result<u64, Fault>) {
        let Some(flight) = self.flights.remove(&ticket) else { return };
        let mirror = &mut self.mirrors[usize::from(flight.mirror.0)];
        mirror.in_flight = mirror.in_flight.saturating_sub(1);
        match result {
            Ok(bytes) => {
                mirror.succeeded(bytes);
                self.complete(flight.block);
            }
            Err(fault) => {
                mirror.failed(now, flight.started, fault.blame(), &self.config.rest);
                self.flight_failed(now, flight.block, flight.mirror, fault);
            }
        }
    }

    fn flight_failed(&mut self, now: Time, block: ObjectId, mirror: MirrorId, fault: Fault) {
        let all_tried = (1_u128 << self.mirrors.len()) - 1;
        let (pause, most) = (self.config.pause, self.config.pause_max);
        let Some(work) = self.work.get_mut(&block) else { return };
        if work.step != Step::Fetching {
            return;
        }
        work.tried |= 1 << mirror.0;
        work.fresh |= fault.is_wrong_bytes();
        work.last = Some((mirror, fault));
        if u128::from(work.tried) == all_tried {
            work.tried = 0;
            work.rounds += 1;
            work.not_before = now + doubled(pause, work.rounds, most);
        }
        // Nobody waits for it (any more), and every mirror had its chance.
        if work.readers.is_empty() && work.rounds > 0 {
            self.forget(block);
        } else {
            self.queue_fetch(now, block);
        }
    }

    /// A probe has ended.
    pub fn probed(&mut self, now: Time, mirror: MirrorId, result: Result<(), Fault>) {
        let Some(health) = self.mirrors.get_mut(usize::from(mirror.0)) else { return };
        health.probing = false;
        match result {
            Ok(()) => health.succeeded(0),
            // Whatever it said, it is there again.
            Err(fault) if fault.blame() == Blame::File => health.succeeded(0),
            Err(fault) => health.failed(now, now, fault.blame(), &self.config.rest),
        }
    }

    /// Nothing more is to be done for the block. A request in flight for it goes on.
    fn forget(&mut self, block: ObjectId) -> Vec<ReadId> {
        self.demanded.retain(|&queued| queued != block);
        self.prefetched.retain(|&queued| queued != block);
        self.work.remove(&block).map(|work| work.readers).unwrap_or_default()
    }

    /// The block is there: whoever waits gets it.
    fn complete(&mut self, block: ObjectId) {
        if !self.prefetch_list.is_empty() {
            self.came.insert(block);
        }
        for id in self.forget(block) {
            let Some(read) = self.reads.get_mut(&id) else { continue };
            read.missing.remove(&block);
            self.outputs.push_back(Action::Deliver { read: id, block });
            if read.missing.is_empty() {
                self.deadlines.remove(&(read.deadline, id));
                self.reads.remove(&id);
                self.outputs.push_back(Action::Finish { read: id });
            }
        }
    }

    /// The next thing to do now; `None` until something happens or [`Core::next_wakeup`] comes.
    pub fn poll(&mut self, now: Time) -> Option<Action> {
        self.polled_at = now;
        if self.outputs.is_empty() {
            self.expire(now);
        }
        self.outputs
            .pop_front()
            .or_else(|| self.start_load(now))
            .or_else(|| self.start_fetch(now))
            .or_else(|| self.start_probe(now))
            .or_else(|| self.start_prefetch(now))
    }

    /// Ends what is overdue: reads, looks into the cache, requests whose threads are stuck.
    fn expire(&mut self, now: Time) {
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            self.fail_read(id);
        }
        let slow = self.loading.iter().filter(|(_, since)| **since + self.config.load <= now);
        for block in slow.map(|(&block, _)| block).collect::<Vec<_>>() {
            if self.work.get(&block).is_some_and(|work| work.step == Step::Loading) {
                self.queue_fetch(now, block);
            }
        }
        let stuck = self.flights.iter().filter(|(_, flight)| flight.until + GRACE <= now);
        for ticket in stuck.map(|(&ticket, _)| ticket).collect::<Vec<_>>() {
            self.fetched(now, ticket, Err(Fault::TimedOut(super::Wait::Whole)));
        }
    }

    fn fail_read(&mut self, id: ReadId) {
        let Some(read) = self.reads.remove(&id) else { return };
        let mut reason: Option<(ObjectId, LastFault)> = None;
        for block in read.missing {
            let mut last = None;
            if let Some(work) = self.work.get_mut(&block) {
                work.readers.retain(|&reader| reader != id);
                last = work.last.clone();
                // A request in flight may still bring it, for the next read. What is only queued is dropped.
                if work.readers.is_empty() && matches!(work.step, Step::ToLoad | Step::ToFetch) {
                    self.forget(block);
                }
            }
            // A block with a fault to tell is the better reason.
            if reason.as_ref().is_none_or(|(_, known)| known.is_none() && last.is_some()) {
                reason = Some((block, last));
            }
        }
        // A read that is not finished misses something.
        if let Some((block, last)) = reason {
            self.outputs.push_back(Action::Fail { read: id, block, last });
        }
    }

    fn start_load(&mut self, now: Time) -> Option<Action> {
        let mut at = 0;
        while let Some(&block) = self.demanded.get(at) {
            let work = self.work.get_mut(&block)?;
            if work.step != Step::ToLoad {
                at += 1;
                continue;
            }
            // All who look, or the one that looks for this block, are stuck in a cache that does not answer: do
            // without it.
            let stuck = |since: &Time| *since + self.config.load <= now;
            let full = self.loading.len() >= self.config.loaders;
            if self.loading.contains_key(&block) || full && self.loading.values().all(stuck) {
                work.step = Step::ToFetch;
                continue;
            }
            if full {
                return None;
            }
            self.demanded.remove(at);
            work.step = Step::Loading;
            self.loading.insert(block, now);
            return Some(Action::Load { block, peek: false });
        }
        None
    }

    fn start_fetch(&mut self, now: Time) -> Option<Action> {
        if self.flights.len() >= self.config.connections {
            return None;
        }
        if let Some((at, mirror)) = self.startable(&self.demanded, now) {
            let block = self.demanded.remove(at)?;
            return Some(self.fetch(now, block, mirror));
        }
        if !self.may_prefetch() {
            return None;
        }
        let (at, mirror) = self.startable(&self.prefetched, now)?;
        let block = self.prefetched.remove(at)?;
        Some(self.fetch(now, block, mirror))
    }

    /// The first block of a queue that can be fetched now, and from where.
    fn startable(&self, queue: &VecDeque<ObjectId>, now: Time) -> Option<(usize, MirrorId)> {
        queue.iter().enumerate().find_map(|(at, block)| {
            let work = self.work.get(block)?;
            if work.step != Step::ToFetch || work.not_before > now {
                return None;
            }
            match choose(&self.mirrors, work.tried, now) {
                Choice::Ask(mirror) => Some((at, mirror)),
                Choice::WaitUntil(_) | Choice::NoneLeft => None,
            }
        })
    }

    /// One connection is kept free for reads; with a single one, reads go first.
    fn may_prefetch(&self) -> bool {
        let most = self.config.connections.saturating_sub(1).max(1);
        !self.prefetch_held && self.demanded.is_empty() && self.flights.len() < most
    }

    fn fetch(&mut self, now: Time, block: ObjectId, mirror: MirrorId) -> Action {
        self.next += 1;
        let ticket = Ticket(self.next);
        let until = now + self.config.attempt;
        self.flights.insert(ticket, Flight { block, mirror, started: now, until });
        self.mirrors[usize::from(mirror.0)].in_flight += 1;
        let work = self.work.entry(block).or_default();
        work.step = Step::Fetching;
        let (fresh, prefetch) = (work.fresh, work.readers.is_empty());
        Action::Fetch { ticket, block, mirror, until, fresh, prefetch }
    }

    /// A mirror that failed is looked at again when its rest is over, so that reads need not find out.
    fn start_probe(&mut self, now: Time) -> Option<Action> {
        let until = now + self.config.attempt;
        let due = |mirror: &Health| mirror.wants_probe() && mirror.rests_until <= now;
        let (id, mirror) = (0..).zip(&mut self.mirrors).find(|(_, mirror)| due(mirror))?;
        mirror.probing = true;
        Some(Action::Probe { mirror: MirrorId(id), until })
    }

    fn start_prefetch(&mut self, now: Time) -> Option<Action> {
        while self.may_prefetch() && self.work.len() < 2 * self.config.connections {
            let Some(block) = self.prefetch_list.pop_front() else {
                self.came.clear();
                return None;
            };
            let in_flight = self.flights.values().any(|flight| flight.block == block);
            if in_flight || self.work.contains_key(&block) || self.came.contains(&block) {
                continue;
            }
            if self.config.loaders == 0 {
                self.work.insert(block, Work { step: Step::ToFetch, ..Work::default() });
                self.prefetched.push_back(block);
                return self.start_fetch(now);
            }
            if self.loading.len() >= self.config.loaders || self.loading.contains_key(&block) {
                self.prefetch_list.push_front(block);
                return None;
            }
            self.work.insert(block, Work { step: Step::Loading, ..Work::default() });
            self.loading.insert(block, now);
            return Some(Action::Load { block, peek: true });
        }
        None
    }

    /// When [`Core::poll`], which has just said `None`, is to be asked again even if nothing happens. May have
    /// passed meanwhile.
    pub fn next_wakeup(&self) -> Option<Time> {
        let reads = self.deadlines.first().map(|&(deadline, _)| deadline);
        let loads = self.loading.values().map(|&since| since + self.config.load);
        let flights = self.flights.values().map(|flight| flight.until + GRACE);
        let probes = self.mirrors.iter().filter(|m| m.wants_probe()).map(|m| m.rests_until);
        let blocks = self.demanded.iter().chain(&self.prefetched).filter_map(|block| {
            let work = self.work.get(block).filter(|work| work.step == Step::ToFetch)?;
            match choose(&self.mirrors, work.tried, work.not_before) {
                Choice::Ask(_) => Some(work.not_before),
                Choice::WaitUntil(time) => Some(time.max(work.not_before)),
                Choice::NoneLeft => None,
            }
        });
        let times = reads.into_iter().chain(loads).chain(flights).chain(probes).chain(blocks);
        // What was due then and was not done waits for something else: an event will come.
        times.filter(|&time| time > self.polled_at).min()
    }

    /// The mirrors, in the order of their ids.
    pub fn mirrors(&self) -> &[Health] {
        &self.mirrors
    }

    /// Requests in flight: block, mirror and start.
    pub fn flights(&self) -> impl Iterator<Item = (ObjectId, MirrorId, Time)> {
        self.flights.values().map(|flight| (flight.block, flight.mirror, flight.started))
    }

    /// Reads that wait.
    pub fn waiting(&self) -> usize {
        self.reads.len()
    }

    /// Blocks of the prefetch list that are not begun.
    pub fn prefetch_left(&self) -> usize {
        self.prefetch_list.len()
    }
}
