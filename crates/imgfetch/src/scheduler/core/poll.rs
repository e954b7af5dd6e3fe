//! What is to be done now: demand reads first, then second requests for those that hang, then what is read next, then
//! what stands near it, then the prefetch list.

use std::collections::VecDeque;
use std::time::Duration;

use super::{BlockFetch, BlockScheduler, Flight, SPARE, SchedulerAction, Work, WorkStep};
use crate::scheduler::mirrors::{Choice, choose};
use crate::scheduler::{Health, LastFault, MirrorId, ObjectId, Ticket, Time};
use formats::fetch_fault::FetchFault as Fault;
use formats::fetch_fault::Wait;

/// A request that has not ended this long after its end: its thread is stuck, and the block is asked for again.
const GRACE: Duration = Duration::from_secs(5);
/// The second of two mirrors is asked something small when it was not heard of for this long while the other one
/// is busy: it is to answer at once when it is needed.
const WARM: Duration = Duration::from_secs(30);
/// For so long after a read that nobody foresaw another one is reckoned with.
const ALERT: Duration = Duration::from_secs(2);

impl BlockScheduler {
    /// The next thing to do now; `None` until something happens or [`BlockScheduler::next_wakeup`] comes.
    pub fn poll(&mut self, now: Time) -> Option<SchedulerAction> {
        self.polled_at = now;
        if self.outputs.is_empty() {
            self.expire(now);
        }
        if let Some(action) = self.outputs.pop_front().or_else(|| self.start_load(now)) {
            return Some(action);
        }
        let limit = self.ahead_limit();
        let yielded = self.yielded().filter(|most| *most < limit);
        let most = self.most_ahead(yielded.unwrap_or(limit));
        let next = self
            .start_fetch(now, most)
            .or_else(|| self.start_hedge(now))
            .or_else(|| self.start_probe(now))
            .or_else(|| self.start_next(now))
            .or_else(|| self.start_prefetch(now, most));
        // While the cache is looked into there is more to do than is being done.
        let more = || self.may_prefetch(most) && !(self.loading.is_empty() && self.prefetched.is_empty());
        let yields = yielded.is_some() || self.hold_until > now;
        if next.is_none() && (yields || self.active() < most && !more()) {
            self.concurrency.idle(now);
        }
        next
    }

    /// Requests that somebody wants the result of.
    fn active(&self) -> usize {
        self.flights.values().filter(|flight| !flight.given_up).count()
    }

    fn is_fetching(&self, block: ObjectId) -> bool {
        self.flights.values().any(|flight| flight.block == block && !flight.given_up)
    }

    /// Ends what is overdue: reads, looks into the cache, requests whose threads are stuck.
    fn expire(&mut self, now: Time) {
        while self.first_deadline().is_some_and(|deadline| deadline <= now) {
            self.fail_first_read();
        }
        let slow = self.loading.iter().filter(|(_, since)| *since + self.config.load <= now);
        for block in slow.map(|&(block, _)| block).collect::<Vec<_>>() {
            if self.work.get(&block).is_some_and(|work| work.step == WorkStep::Loading) {
                self.queue_fetch(now, block);
            }
        }
        let stuck = self.flights.iter().filter(|(_, flight)| flight.until + GRACE <= now);
        for ticket in stuck.map(|(&ticket, _)| ticket).collect::<Vec<_>>() {
            self.fetched(now, ticket, Err(Fault::TimedOut(Wait::Whole)));
        }
    }

    fn fail_first_read(&mut self) {
        let Some((id, read)) = self.reads.pop_first() else { return };
        let mut reason: Option<(ObjectId, LastFault)> = None;
        for block in read.missing {
            let mut last = None;
            if let Some(work) = self.work.get_mut(&block) {
                work.readers.retain(|&reader| reader != id);
                last = work.last.clone();
                // A request in flight may still bring it, for the next read. What is only queued is dropped.
                if work.readers.is_empty() && matches!(work.step, WorkStep::ToLoad | WorkStep::ToFetch) {
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
            self.outputs.push_back(SchedulerAction::Fail { read: id, block, last });
        }
    }

    fn is_loading(&self, block: ObjectId) -> bool {
        self.loading.iter().any(|&(other, _)| other == block)
    }

    fn load(&mut self, now: Time, block: ObjectId, peek: bool) -> SchedulerAction {
        // An earlier look for it may be stuck.
        self.loading.retain(|&(other, _)| other != block);
        self.loading.push((block, now));
        SchedulerAction::Load { block, peek }
    }

    fn start_load(&mut self, now: Time) -> Option<SchedulerAction> {
        let mut at = 0;
        while let Some(&block) = self.demanded.get(at) {
            let is_loading = self.is_loading(block);
            let work = self.work.get_mut(&block)?;
            if work.step != WorkStep::ToLoad {
                at += 1;
                continue;
            }
            // All who look, or the one that looks for this block, are stuck in a cache that does not answer: do
            // without it.
            let stuck = |(_, since): &(_, Time)| *since + self.config.load <= now;
            let full = self.loading.len() >= self.config.loaders;
            if is_loading || full && self.loading.iter().all(stuck) {
                work.step = WorkStep::ToFetch;
                continue;
            }
            if full {
                return None;
            }
            self.demanded.remove(at);
            work.step = WorkStep::Loading;
            return Some(self.load(now, block, false));
        }
        None
    }

    /// What is read before what is only fetched ahead, for which no more than `most` requests are in flight.
    fn start_fetch(&mut self, now: Time, most: usize) -> Option<SchedulerAction> {
        if self.flights.len() >= self.config.connections + SPARE {
            return None;
        }
        // Reads may go beyond the concurrency: somebody waits.
        if self.active() < self.config.connections.min(2 * self.concurrency.limit())
            && let Some((at, mirror)) = self.startable(&self.demanded, now)
        {
            let block = self.demanded.remove(at)?;
            return Some(self.fetch(now, block, mirror, false));
        }
        if !self.may_prefetch(most) {
            return None;
        }
        let (at, mirror) = self.startable(&self.prefetched, now)?;
        let block = self.prefetched.remove(at)?;
        Some(self.fetch(now, block, mirror, false))
    }

    /// The first block of a queue that can be fetched now, and from where.
    fn startable(&self, queue: &VecDeque<ObjectId>, now: Time) -> Option<(usize, MirrorId)> {
        queue.iter().enumerate().find_map(|(at, block)| {
            let work = self.work.get(block)?;
            if work.step != WorkStep::ToFetch || work.not_before > now {
                return None;
            }
            match choose(&self.mirrors, work.tried, now) {
                Choice::Ask(mirror) => Some((at, mirror)),
                Choice::WaitUntil(_) | Choice::Full | Choice::NoneLeft => None,
            }
        })
    }

    /// Requests ahead of need at most: one connection is kept free for reads.
    fn ahead_limit(&self) -> usize {
        self.concurrency.limit().min(self.config.connections).saturating_sub(1).max(1)
    }

    /// Soon after a read that nobody foresaw there will be another, which is not to queue behind what was asked for ahead:
    /// only as many as keep the line busy.
    fn yielded(&self) -> Option<usize> {
        self.unforeseen_at.filter(|at| *at + ALERT > self.polled_at)?;
        self.busy_line()
    }

    /// Requests up to which more are made ahead of need, `most` at other times: while somebody waits for a block that
    /// nobody foresaw, half of the connections at most beside those that are waited for.
    fn most_ahead(&self, most: usize) -> usize {
        let is_read = |flight: &&Flight| {
            let work = || self.work.get(&flight.block);
            let foreseen = flight.ahead || self.list.listed.contains(&flight.block);
            !foreseen && !flight.given_up && work().is_some_and(|work| !work.readers.is_empty())
        };
        let unforeseen = self.flights.values().filter(is_read).count();
        if unforeseen == 0 { most } else { most.min(self.ahead_limit().div_ceil(2)) + unforeseen }
    }

    fn may_prefetch(&self, most: usize) -> bool {
        let waiting = || self.demanded.iter().any(|block| self.is_wanted_now(*block));
        let unread = self.unread.len() + self.flights.values().filter(|flight| flight.ahead).count();
        !self.prefetch_held
            && unread < self.config.unread
            && self.hold_until <= self.polled_at
            && self.active() < most
            && (self.demanded.is_empty() || !waiting())
    }

    /// Whether this block waits for nothing but a free connection.
    fn is_wanted_now(&self, block: ObjectId) -> bool {
        self.work.get(&block).is_some_and(|work| work.not_before <= self.polled_at)
    }

    fn fetch(
        &mut self,
        now: Time,
        block: ObjectId,
        mirror: MirrorId,
        new_connection: bool,
    ) -> SchedulerAction {
        self.next += 1;
        let ticket = Ticket(self.next);
        let until = now + self.config.attempt;
        let health = &mut self.mirrors[usize::from(mirror.0)];
        health.in_flight += 1;
        health.asked_at = Some(now);
        let work = self.work.entry(block).or_default();
        work.step = WorkStep::Fetching;
        let (fresh, prefetch) = (self.suspect.contains(&block), work.readers.is_empty());
        let listed = work.listed;
        if !prefetch && !self.list.listed.contains(&block) {
            self.unforeseen_at = Some(now);
        }
        let flight = Flight {
            block,
            mirror,
            started: now,
            until,
            ahead: prefetch,
            given_up: false,
            raced: false,
            held_until: Time::ZERO,
            held: Duration::ZERO,
        };
        self.flights.insert(ticket, flight);
        if !prefetch {
            self.make_room(now);
        }
        SchedulerAction::Fetch(BlockFetch {
            ticket,
            block,
            mirror,
            until,
            fresh,
            prefetch,
            listed,
            new_connection,
        })
    }

    /// A request that somebody waits for and that takes too long, its block, and when that is: the time from
    /// which another mirror is asked, and the time from which the same one is.
    fn races(&self) -> impl Iterator<Item = (&Flight, Time, Time)> {
        let is_read = |flight: &&Flight| {
            let work = || self.work.get(&flight.block);
            !flight.raced && !flight.given_up && work().is_some_and(|work| !work.readers.is_empty())
        };
        self.flights.values().filter(is_read).map(|flight| {
            let health = &self.mirrors[usize::from(flight.mirror.0)];
            let (other, same) =
                (health.overdue(&self.config.hedge), health.overdue_alone(&self.config.hedge));
            (flight, flight.began() + other, flight.began() + same)
        })
    }

    /// A second request for a read whose first one takes too long: to the next mirror, or, when there is none, to
    /// the same one over a new connection.
    fn start_hedge(&mut self, now: Time) -> Option<SchedulerAction> {
        if self.hedges < 10 || self.flights.len() >= self.config.connections + SPARE {
            return None;
        }
        let (block, mirror, new) = self.races().find_map(|(flight, other, same)| {
            if other > now {
                return None;
            }
            let tried = self.work.get(&flight.block)?.tried | 1 << flight.mirror.0;
            match choose(&self.mirrors, tried, now) {
                Choice::Ask(mirror) if self.mirrors[usize::from(mirror.0)].failures == 0 => {
                    Some((flight.block, mirror, false))
                }
                _ if same > now || self.mirrors[usize::from(flight.mirror.0)].is_full() => None,
                _ => Some((flight.block, flight.mirror, true)),
            }
        })?;
        self.hedges -= 10;
        self.hedged += 1;
        let action = self.fetch(now, block, mirror, new);
        self.mark_raced(block, true);
        Some(action)
    }

    /// A mirror that failed is looked at again when its rest is over, so that reads need not find out. So is the
    /// second best from time to time while there is work for the best.
    fn start_probe(&mut self, now: Time) -> Option<SchedulerAction> {
        let until = now + self.config.attempt;
        let due = |mirror: &Health| mirror.wants_probe() && mirror.backoff_until <= now;
        let back = (0..).zip(&self.mirrors).find(|(_, mirror)| due(mirror)).map(|(id, _)| MirrorId(id));
        let id = back.or_else(|| self.to_warm(now))?;
        let mirror = &mut self.mirrors[usize::from(id.0)];
        mirror.probing = true;
        mirror.asked_at = Some(now);
        Some(SchedulerAction::Probe { mirror: id, until })
    }

    fn to_warm(&self, now: Time) -> Option<MirrorId> {
        if self.flights.is_empty() {
            return None;
        }
        let Choice::Ask(best) = choose(&self.mirrors, 0, now) else { return None };
        let Choice::Ask(second) = choose(&self.mirrors, 1 << best.0, now) else { return None };
        let health = &self.mirrors[usize::from(second.0)];
        let cold = health.asked_at.is_none_or(|at| at + WARM <= now);
        (cold && health.failures == 0 && !health.probing && health.in_flight == 0).then_some(second)
    }

    /// Loads what is read next into RAM, whatever the network does. One who looks is left for reads.
    fn start_next(&mut self, now: Time) -> Option<SchedulerAction> {
        let is_read = |block| self.work.get(block).is_some_and(|work| !work.readers.is_empty());
        let unread = self.loading.iter().filter(|(block, _)| !is_read(block)).count();
        let free = self.loading.len() < self.config.loaders && unread < self.config.loaders.max(2) - 1;
        if !free || self.ready.len() + unread >= self.config.ready {
            return None;
        }
        while self.work.len() < 2 * self.config.connections {
            let (block, fetch) = self.next_blocks.pop_front()?;
            if self.is_fetching(block) || self.work.contains_key(&block) || self.ready.contains(&block) {
                continue;
            }
            self.work.insert(block, Work { step: WorkStep::Loading, only_load: !fetch, ..Work::default() });
            return Some(self.load(now, block, false));
        }
        None
    }

    fn start_prefetch(&mut self, now: Time, most: usize) -> Option<SchedulerAction> {
        while self.may_prefetch(most) && self.work.len() < 2 * self.config.connections {
            let listed = self.read_ahead.is_empty();
            let queue = if listed { &mut self.prefetch_list } else { &mut self.read_ahead };
            let Some(block) = queue.pop_front() else {
                self.came.clear();
                return None;
            };
            if self.is_fetching(block) || self.work.contains_key(&block) || self.came.contains(&block) {
                continue;
            }
            if self.config.loaders == 0 {
                self.work.insert(block, Work { step: WorkStep::ToFetch, listed, ..Work::default() });
                self.prefetched.push_back(block);
                return self.start_fetch(now, most);
            }
            if self.loading.len() >= self.config.loaders || self.is_loading(block) {
                let queue = if listed { &mut self.prefetch_list } else { &mut self.read_ahead };
                queue.push_front(block);
                return None;
            }
            self.work.insert(block, Work { step: WorkStep::Loading, listed, ..Work::default() });
            return Some(self.load(now, block, true));
        }
        None
    }

    /// When [`BlockScheduler::poll`], which has just said `None`, is to be asked again even if nothing happens. May have
    /// passed meanwhile.
    pub fn next_wakeup(&self) -> Option<Time> {
        let reads = self.first_deadline();
        let loads = self.loading.iter().map(|(_, since)| *since + self.config.load);
        let flights = self.flights.values().map(|flight| flight.until + GRACE).chain([self.hold_until]);
        let probes = self.mirrors.iter().filter(|m| m.wants_probe()).map(|m| m.backoff_until);
        let races = self.races().flat_map(|(_, other, same)| [other, same]);
        let blocks = self.demanded.iter().chain(&self.prefetched).filter_map(|block| {
            let work = self.work.get(block).filter(|work| work.step == WorkStep::ToFetch)?;
            match choose(&self.mirrors, work.tried, work.not_before) {
                Choice::Ask(_) => Some(work.not_before),
                Choice::WaitUntil(time) => Some(time.max(work.not_before)),
                Choice::Full | Choice::NoneLeft => None,
            }
        });
        let times = reads.into_iter().chain(loads).chain(flights).chain(probes).chain(races).chain(blocks);
        // What was due then and was not done waits for something else: an event will come.
        times.filter(|&time| time > self.polled_at).min()
    }
}
