//! What has happened: the cache or a mirror has answered, or has not.

use std::time::Duration;

use super::{Arrived, BlockScheduler, HEDGES, LookupResult, SchedulerAction, WorkStep};
use crate::scheduler::mirrors::{doubled, forgive_portal};
use crate::scheduler::{MirrorId, ObjectId, ReadId, Ticket, Time};
use formats::fetch_fault::FailureScope;
use formats::fetch_fault::FetchFault as Fault;

impl BlockScheduler {
    /// The look into the cache has ended. After [`LookupResult::Hit`] for a block that somebody reads, the shell
    /// serves the [`SchedulerAction::Deliver`]s that follow from it.
    pub fn loaded(&mut self, now: Time, block: ObjectId, peek: bool, found: LookupResult) {
        self.loading.retain(|&(other, _)| other != block);
        let Some(work) = self.work.get_mut(&block) else { return };
        match found {
            // Also when it came after all, while a mirror was already being asked.
            LookupResult::Hit if !peek => {
                if work.readers.is_empty() {
                    self.ready.insert(block);
                }
                self.complete(block);
            }
            LookupResult::Hit if work.readers.is_empty() => drop(self.forget(block)),
            // Now somebody wants the bytes too.
            LookupResult::Hit if work.step == WorkStep::Loading => {
                work.step = WorkStep::ToLoad;
                self.demanded.push_back(block);
            }
            LookupResult::Miss if work.step == WorkStep::Loading => self.queue_fetch(now, block),
            _ => {}
        }
    }

    /// The cache does not have it.
    pub(super) fn queue_fetch(&mut self, now: Time, block: ObjectId) {
        let Some(work) = self.work.get_mut(&block) else { return };
        if work.readers.is_empty() && work.only_load {
            self.forget(block);
            return;
        }
        work.step = WorkStep::ToFetch;
        work.not_before = work.not_before.max(now);
        // What is begun is ended first.
        if work.readers.is_empty() {
            self.prefetched.push_front(block);
        } else {
            self.demanded.push_front(block);
        }
    }

    /// A request has ended: `Ok` once its block is verified.
    pub fn fetched(&mut self, now: Time, ticket: Ticket, result: Result<Arrived, Fault>) {
        let Some(flight) = self.flights.remove(&ticket) else { return };
        if flight.raced && !flight.given_up {
            self.mark_raced(flight.block, false);
        }
        let mirror = &mut self.mirrors[usize::from(flight.mirror.0)];
        mirror.in_flight = mirror.in_flight.saturating_sub(1);
        match result {
            Ok(Arrived { bytes, first_byte }) => {
                mirror.brought(now, bytes, first_byte, now.saturating_sub(flight.began()));
                self.concurrency.delivered(now, flight.began(), bytes);
                self.hedges = (self.hedges + 1).min(HEDGES);
                self.end_race(now, flight.block);
                if flight.ahead && self.work.get(&flight.block).is_some_and(|work| work.readers.is_empty()) {
                    self.unread.insert(flight.block);
                }
                self.complete(flight.block);
            }
            // That it was ended is no fault of anybody's.
            Err(_) if flight.given_up => {}
            Err(fault) => {
                mirror.failed(now, flight.started, fault.blame(), &self.config.backoff);
                if fault == Fault::WebPage {
                    mirror.was_a_page(now);
                    forgive_portal(&mut self.mirrors, now);
                }
                self.flight_failed(now, flight.block, flight.mirror, fault);
            }
        }
        self.go_on_unless_read(now);
    }

    pub(super) fn mark_raced(&mut self, block: ObjectId, raced: bool) {
        let of_block = self.flights.values_mut().filter(|flight| flight.block == block && !flight.given_up);
        of_block.for_each(|flight| flight.raced = raced);
    }

    /// The block has come: the other request for it, if there is one, has lost.
    fn end_race(&mut self, now: Time, block: ObjectId) {
        for (&ticket, flight) in &mut self.flights {
            if flight.block == block && !flight.given_up {
                flight.given_up = true;
                self.mirrors[usize::from(flight.mirror.0)].lost_race(
                    now,
                    flight.started,
                    &self.config.backoff,
                );
                self.outputs.push_back(SchedulerAction::Cancel { ticket });
            }
        }
    }

    fn flight_failed(&mut self, now: Time, block: ObjectId, mirror: MirrorId, fault: Fault) {
        let all_tried = (1_u128 << self.mirrors.len()) - 1;
        let (pause, most) = (self.config.pause, self.config.pause_max);
        let other = self.flights.values().any(|flight| flight.block == block && !flight.given_up);
        let Some(work) = self.work.get_mut(&block) else { return };
        if work.step != WorkStep::Fetching {
            return;
        }
        work.tried |= 1 << mirror.0;
        if fault.is_wrong_bytes() {
            self.suspect.insert(block);
        }
        work.last = Some((mirror, fault));
        // The other of two requests is still under way.
        if other {
            return;
        }
        if u128::from(work.tried) == all_tried {
            work.tried = 0;
            work.rounds += 1;
            work.not_before = now + self.config.jitter.shortened(doubled(pause, work.rounds, most));
        }
        // Nobody waits for it (any more), and every mirror had its chance.
        if work.readers.is_empty() && work.rounds > 0 {
            self.forget(block);
        } else {
            self.queue_fetch(now, block);
        }
    }

    /// A probe has ended: `Ok` with the time until the first byte.
    pub fn probed(&mut self, now: Time, mirror: MirrorId, result: Result<Duration, Fault>) {
        let Some(health) = self.mirrors.get_mut(usize::from(mirror.0)) else { return };
        health.probing = false;
        match result {
            Ok(first_byte) => health.answered(now, 0, first_byte),
            // Whatever it said, it is there again.
            Err(fault) if fault.blame() == FailureScope::File => health.succeeded(0),
            Err(fault) => health.failed(now, now, fault.blame(), &self.config.backoff),
        }
    }

    /// Nothing more is to be done for the block. A request in flight for it goes on.
    pub(super) fn forget(&mut self, block: ObjectId) -> Vec<ReadId> {
        self.demanded.retain(|&queued| queued != block);
        self.prefetched.retain(|&queued| queued != block);
        self.work.remove(&block).map(|work| work.readers).unwrap_or_default()
    }

    /// The block is there: whoever waits gets it.
    fn complete(&mut self, block: ObjectId) {
        if !self.prefetch_list.is_empty() {
            self.came.insert(block);
        }
        self.next_blocks.retain(|&(queued, _)| queued != block);
        self.read_ahead.retain(|&queued| queued != block);
        self.suspect.remove(&block);
        for id in self.forget(block) {
            let Some(read) = self.reads.get_mut(&id) else { continue };
            read.missing.retain(|&other| other != block);
            self.outputs.push_back(SchedulerAction::Deliver { read: id, block });
            if read.missing.is_empty() {
                self.reads.remove(&id);
                self.outputs.push_back(SchedulerAction::Finish { read: id });
            }
        }
    }
}
