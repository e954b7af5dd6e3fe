//! What is fetched ahead makes room for what somebody waits for, also when it is on its way already.
//!
//! A request can't be called back, and to cut it off would waste what it has brought and a connection. But what is not
//! taken from a connection closes its window, and its sender stops half a round trip later: just when the request of the
//! reader gets there. So nothing is taken for as long as the line needs for one block. On a line of any length that leaves a
//! gap as long as that block, at the time at which it comes, and the line is never idle.

use std::time::Duration;

use super::{BlockScheduler, SchedulerAction};
use crate::scheduler::{ObjectId, Time};

/// How long a block takes when nothing is known of the line.
const UNKNOWN: Duration = Duration::from_millis(50);
/// No longer than this from now on, however many wait. A sender that is kept waiting for a minute would break off.
const LONGEST: Duration = Duration::from_secs(1);
/// No request is held up for more than this in all, nor for more than an eighth of the time that it has.
const IN_ALL: Duration = Duration::from_secs(3);

impl BlockScheduler {
    /// A block that somebody reads has just been asked for.
    pub(super) fn make_room(&mut self, now: Time) {
        let until = (self.hold_until.max(now) + self.one_block()).min(now + LONGEST);
        let in_all = IN_ALL.min(self.config.attempt / 8);
        self.hold_until = until;
        for (&ticket, flight) in &mut self.flights {
            let is_read = self.work.get(&flight.block).is_some_and(|work| !work.readers.is_empty());
            let more = until.saturating_sub(flight.held_until.max(now));
            if is_read || flight.given_up || more.is_zero() || flight.held + more > in_all {
                continue;
            }
            flight.held += more;
            flight.held_until = until;
            self.outputs.push_back(SchedulerAction::Hold { ticket, until });
        }
    }

    /// How long the line needs for a block that is half as large again as most.
    fn one_block(&self) -> Duration {
        let (good, bytes) = self
            .mirrors
            .iter()
            .fold((0, 0), |(good, bytes), mirror| (good + mirror.good, bytes + mirror.bytes));
        let of_one = || self.mirrors.iter().map(|mirror| mirror.rate).max().unwrap_or(0);
        let rate = Some(self.concurrency.rate()).filter(|rate| *rate > 0).unwrap_or_else(of_one);
        let millis = (bytes * 1500).checked_div(good).unwrap_or(0).checked_div(rate);
        millis.map_or(UNKNOWN, Duration::from_millis)
    }

    /// Somebody reads a block now that was only fetched ahead.
    pub(super) fn go_on_with(&mut self, now: Time, block: ObjectId) {
        self.go_on(now, |of| of == block);
    }

    /// When nobody waits for what is on its way any more, all goes on.
    pub(super) fn go_on_unless_read(&mut self, now: Time) {
        let is_read = |block| self.work.get(block).is_some_and(|work| !work.readers.is_empty());
        let mut flights = self.flights.values();
        if self.hold_until > now && !flights.any(|flight| !flight.given_up && is_read(&flight.block)) {
            self.hold_until = now;
            self.go_on(now, |_| true);
        }
    }

    fn go_on(&mut self, now: Time, which: impl Fn(ObjectId) -> bool) {
        for (&ticket, flight) in &mut self.flights {
            if flight.held_until > now && which(flight.block) {
                flight.held -= flight.held_until - now;
                flight.held_until = now;
                self.outputs.push_back(SchedulerAction::Hold { ticket, until: now });
            }
        }
    }
}
