//! A shell around the core for tests: mirrors that follow scripts, a cache, and a clock that the test moves. It checks on
//! the way what the core promises at any time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::*;

pub(super) const fn ms(millis: u64) -> Time {
    Time::from_millis(millis)
}

/// What a mirror does with a request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Good(u64),
    Faulty(Fault, u64),
    /// The thread is never heard of again.
    Never,
}

/// What the cache does with a look.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cached {
    Yes(u64),
    No(u64),
    Never,
}

#[derive(Clone, Debug)]
enum Event {
    Read(Vec<u32>),
    Loaded(ObjectId, bool, LookupResult),
    Fetched(Ticket, Result<Arrived, Fault>),
    Probed(MirrorId, Result<Duration, Fault>),
}

/// How a read ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    Whole,
    Failed(ObjectId, LastFault),
}

pub(super) struct Sim {
    pub(super) core: BlockScheduler,
    config: Config,
    now: Time,
    events: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    /// Replies of each mirror, over and over.
    scripts: Vec<Vec<Reply>>,
    pub(super) asked: Vec<usize>,
    pub(super) cache: HashMap<u32, Cached>,
    pub(super) reads: HashMap<ReadId, (Time, BTreeSet<ObjectId>)>,
    pub(super) ends: Vec<(Time, Time, End)>,
    pub(super) cancelled: usize,
    /// Requests that were held up: when, which block, until when.
    pub(super) holds: Vec<(Time, u32, Time)>,
    in_flight: HashMap<Ticket, ObjectId>,
    /// In place of the times of replies.
    pub(super) line: Option<Line>,
    /// What was looked for in the cache: when, block, whether only if it is there.
    pub(super) loads: Vec<(Time, u32, bool)>,
    /// What was asked for, in order: block, mirror, prefetch, fresh.
    pub(super) fetches: Vec<(Time, u32, u8, bool, bool)>,
}

impl Sim {
    pub(super) fn new(config: Config, scripts: Vec<Vec<Reply>>) -> Self {
        Sim {
            core: BlockScheduler::new(config, scripts.len()),
            config,
            now: Time::ZERO,
            events: BTreeMap::new(),
            sequence: 0,
            asked: vec![0; scripts.len()],
            scripts,
            cache: HashMap::new(),
            reads: HashMap::new(),
            ends: Vec::new(),
            cancelled: 0,
            holds: Vec::new(),
            in_flight: HashMap::new(),
            line: None,
            loads: Vec::new(),
            fetches: Vec::new(),
        }
    }

    fn at(&mut self, time: Time, event: Event) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    pub(super) fn read_at(&mut self, time: Time, blocks: &[u32]) {
        self.at(time, Event::Read(blocks.to_vec()));
    }

    fn script(&mut self, mirror: MirrorId) -> Reply {
        let at = usize::from(mirror.0);
        self.asked[at] += 1;
        self.scripts[at][(self.asked[at] - 1) % self.scripts[at].len()].clone()
    }

    /// Runs until nothing is left to happen, or until the given time.
    pub(super) fn run(&mut self, until: Time) {
        for _ in 0..200_000 {
            while let Some(action) = self.core.poll(self.now) {
                self.act(action);
            }
            let event = self.events.first_key_value().map(|(&(time, _), _)| time);
            let wakeup = self.core.next_wakeup();
            assert!(wakeup.is_none_or(|at| at > self.now), "a wakeup that has passed would spin");
            let line = self.line.as_ref().and_then(Line::next);
            let next = event.into_iter().chain(wakeup).chain(line).min().filter(|&next| next <= until);
            self.now = next.unwrap_or(until);
            for (ticket, arrived) in self.line.iter_mut().flat_map(|line| line.carry(self.now)) {
                self.in_flight.remove(&ticket);
                self.core.fetched(self.now, ticket, Ok(arrived));
            }
            let Some(next) = next else { return };
            while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= next) {
                let event = entry.remove();
                self.happen(event);
            }
        }
        panic!("the core does not come to rest");
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Read(blocks) => {
                let blocks: BTreeSet<_> = blocks.into_iter().map(ObjectId).collect();
                let id = self.core.read(self.now, blocks.iter().copied());
                self.reads.insert(id, (self.now, blocks));
            }
            Event::Loaded(block, peek, found) => self.core.loaded(self.now, block, peek, found),
            // What was cancelled has ended before.
            Event::Fetched(ticket, result) => {
                if self.in_flight.remove(&ticket).is_some() {
                    self.core.fetched(self.now, ticket, result);
                }
            }
            Event::Probed(mirror, result) => self.core.probed(self.now, mirror, result),
        }
    }

    fn act(&mut self, action: SchedulerAction) {
        match action {
            SchedulerAction::Load { block, peek } => {
                self.loads.push((self.now, block.0, peek));
                let (found, delay) = match self.cache.get(&block.0).unwrap_or(&Cached::No(0)) {
                    Cached::Yes(delay) => (LookupResult::Hit, *delay),
                    Cached::No(delay) => (LookupResult::Miss, *delay),
                    Cached::Never => return,
                };
                self.at(self.now + ms(delay), Event::Loaded(block, peek, found));
            }
            SchedulerAction::Fetch(BlockFetch { ticket, block, mirror, until, fresh, prefetch, .. }) => {
                let others = self.in_flight.values().filter(|other| **other == block).count();
                let read = self.reads.values().any(|(_, missing)| missing.contains(&block));
                assert!(others == 0 || others == 1 && read, "{block:?} is in flight {others} times already");
                self.in_flight.insert(ticket, block);
                let most = self.config.connections + SPARE;
                assert!(self.in_flight.len() <= most, "{} requests", self.in_flight.len());
                assert!(until <= self.now + self.config.attempt);
                self.fetches.push((self.now, block.0, mirror.0, prefetch, fresh));
                if let Some(line) = &mut self.line {
                    line.add(self.now, ticket, block);
                    return;
                }
                let (result, delay) = match self.script(mirror) {
                    Reply::Good(delay) => (Ok(Arrived { bytes: 1000, first_byte: ms(delay) }), delay),
                    Reply::Faulty(fault, delay) => (Err(fault), delay),
                    // The core writes it off after a while.
                    Reply::Never => {
                        self.in_flight.remove(&ticket);
                        return;
                    }
                };
                let end = self.now + ms(delay);
                let (end, result) =
                    if end > until { (until, Err(Fault::TimedOut(Wait::Whole))) } else { (end, result) };
                self.at(end, Event::Fetched(ticket, result));
            }
            SchedulerAction::Cancel { ticket } => {
                self.cancelled += 1;
                if let Some(line) = &mut self.line {
                    line.under_way.retain(|one| one.ticket != ticket);
                }
                self.at(self.now, Event::Fetched(ticket, Err(refused())));
            }
            SchedulerAction::Hold { ticket, until } => {
                // One that is never heard of again may still be held up.
                let Some(&block) = self.in_flight.get(&ticket) else { return };
                let is_read = self.reads.values().any(|(_, missing)| missing.contains(&block));
                assert!(!is_read || until <= self.now, "{block:?} is held up while somebody reads it");
                assert!(until <= self.now + ms(1000));
                self.holds.push((self.now, block.0, until));
                if let Some(line) = &mut self.line {
                    line.hold(self.now, ticket, until);
                }
            }
            SchedulerAction::Probe { mirror, until } => {
                let (result, delay) = match self.script(mirror) {
                    Reply::Good(delay) => (Ok(ms(delay)), delay),
                    Reply::Faulty(fault, delay) => (Err(fault), delay),
                    Reply::Never => (Err(Fault::TimedOut(Wait::Whole)), u64::MAX / 2),
                };
                self.at(until.min(self.now.saturating_add(ms(delay))), Event::Probed(mirror, result));
            }
            SchedulerAction::Deliver { read, block } => {
                let (_, missing) = self.reads.get_mut(&read).expect("delivered to a read that is over");
                assert!(missing.remove(&block), "delivered twice");
            }
            SchedulerAction::Finish { read } => {
                let (began, missing) = self.reads.remove(&read).expect("finished once");
                assert!(missing.is_empty(), "finished without {missing:?}");
                self.ends.push((began, self.now, End::Whole));
            }
            SchedulerAction::Fail { read, block, last } => {
                let (began, missing) = self.reads.remove(&read).expect("failed once");
                assert!(missing.contains(&block));
                self.ends.push((began, self.now, End::Failed(block, last)));
            }
        }
    }

    pub(super) fn asked_for(&self) -> Vec<(u32, u8)> {
        self.fetches.iter().map(|&(_, block, mirror, ..)| (block, mirror)).collect()
    }
}

/// A line that all requests share in equal parts. Of one that is held up the sender still sends as much as the client has
/// room for, and hears a round trip later that it may go on.
pub(super) struct Line {
    round_trip: Time,
    /// Bytes that the client has room for, for each request.
    pub(super) window: u64,
    /// Bytes a millisecond.
    rate: u64,
    at: Time,
    under_way: Vec<OnLine>,
}

struct OnLine {
    ticket: Ticket,
    len: u64,
    /// When its first byte comes.
    from: Time,
    left: f64,
    /// It stops when so much is left,
    stops: f64,
    goes_on: Time,
}

impl OnLine {
    fn comes(&self, now: Time) -> bool {
        self.from <= now && (self.goes_on <= now || self.left > self.stops)
    }
}

impl Line {
    pub(super) fn new(round_trip: Time, megabits: u64) -> Self {
        Line { round_trip, window: 64 << 10, rate: megabits * 125, at: Time::ZERO, under_way: Vec::new() }
    }

    /// Bytes of a block: 20,000 to 200,000, and nothing to do with those of the next.
    pub(super) fn len(block: u32) -> u64 {
        20_000 + (u64::from(block + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 180_001
    }

    /// How long the bytes of some blocks take by themselves.
    pub(super) fn bytes_alone(&self, blocks: std::ops::Range<u32>) -> Time {
        ms(blocks.map(Line::len).sum::<u64>() / self.rate)
    }

    fn add(&mut self, now: Time, ticket: Ticket, block: ObjectId) {
        let len = Line::len(block.0);
        let (from, left) = (now + self.round_trip, len as f64);
        self.under_way.push(OnLine { ticket, len, from, left, stops: 0.0, goes_on: Time::ZERO });
    }

    fn hold(&mut self, now: Time, ticket: Ticket, until: Time) {
        // A client leaves room for twice of what comes in a round trip.
        let window = (self.window as f64).max(2.0 * self.share() * self.round_trip.as_secs_f64());
        let Some(one) = self.under_way.iter_mut().find(|one| one.ticket == ticket) else { return };
        // Unless it has stopped already.
        if one.goes_on <= now {
            one.stops = (one.left - window).max(0.0);
        }
        one.goes_on = until + self.round_trip;
    }

    /// Bytes a second for each.
    fn share(&self) -> f64 {
        let active = self.under_way.iter().filter(|one| one.comes(self.at)).count();
        self.rate as f64 * 1000.0 / active.max(1) as f64
    }

    /// When the next one begins or is whole.
    fn next(&self) -> Option<Time> {
        let times = self.under_way.iter().map(|one| match one.comes(self.at) {
            true => {
                let end = if one.goes_on > self.at { one.stops } else { 0.0 };
                self.at + Duration::from_secs_f64((one.left - end) / self.share()) + Duration::from_nanos(1)
            }
            false => one.from.max(one.goes_on),
        });
        let changes = self.under_way.iter().map(|one| one.goes_on).filter(|at| *at > self.at);
        times.chain(changes).min()
    }

    /// Up to now, with nothing that begins or ends in between; gives those that are whole.
    fn carry(&mut self, now: Time) -> Vec<(Ticket, Arrived)> {
        let sent = (now - self.at).as_secs_f64() * self.share();
        let at = self.at;
        self.under_way.iter_mut().filter(|one| one.comes(at)).for_each(|one| one.left -= sent);
        self.at = now;
        let whole = self.under_way.extract_if(.., |one| one.left < 0.01);
        let first_byte = self.round_trip;
        whole.map(|one| (one.ticket, Arrived { bytes: one.len, first_byte })).collect()
    }
}

/// What ends a request to a mirror that is not there.
pub(super) fn refused() -> Fault {
    Fault::Unreachable("refused".into())
}
