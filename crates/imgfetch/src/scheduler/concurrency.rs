//! How many requests at once: more for as long as more of them bring more.
//!
//! One request at a time leaves a link idle for a round trip between two files; enough of them fill it, and more
//! than that only queue up before a read that somebody waits for. How many are enough is the product of round
//! trip and bandwidth, which nobody tells us, so it is tried: as many requests as are allowed are
//! timed, then more are allowed. If each of those takes as much longer as there are more of them, they brought
//! nothing and are taken back. A few requests say so within the time that a boot has, but not exactly: files differ. So then it
//! is counted for longer what comes, and now and then with fewer requests, which are kept unless less comes.

use std::time::Duration;

use super::Time;

/// Better by less than this share (an eighth) is no better.
const GAIN: u64 = 8;
/// As much but for this share is as much: what is counted for longer is more exact.
const LOSS: u64 = 32;
/// Requests that are counted for each that is allowed.
const LONG: usize = 4;
/// After so many long stretches without a change, more are tried again: the link may have become faster.
const TRY_AGAIN: u32 = 8;

/// The number of requests that may be in flight.
#[derive(Clone, Debug)]
pub struct ConcurrencyController {
    first: usize,
    limit: usize,
    most: usize,
    /// When the stretch began; only requests that began later are counted.
    since: Time,
    done: usize,
    bytes: u64,
    /// Milliseconds of all of them together.
    taken: u64,
    /// What came since then, whenever it was asked for, once so many more have come that were asked for before.
    long_since: Time,
    long_done: usize,
    long_bytes: u64,
    before_long: usize,
    /// Bytes a second of the best stretch, and of the best long one lately; 0: not known.
    best: u64,
    exact: u64,
    /// So few were not enough, when the best was that.
    too_few: (usize, u64),
    trying: Trying,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trying {
    /// At the start: more than this many were allowed just now.
    MoreThan(usize),
    /// Later: more than this many.
    MoreAgain(usize),
    /// Fewer than this many.
    FewerThan(usize),
    /// It stays as it is; long stretches since then.
    Nothing(u32),
}

impl ConcurrencyController {
    /// Starts with `first` requests, and goes up to `most` of them.
    pub fn new(first: usize, most: usize) -> Self {
        let limit = first.clamp(1, most.max(1));
        let trying = Trying::MoreThan(limit);
        ConcurrencyController {
            first: limit,
            limit,
            most: most.max(1),
            since: Time::ZERO,
            done: 0,
            bytes: 0,
            taken: 0,
            long_since: Time::ZERO,
            long_done: 0,
            long_bytes: 0,
            before_long: 0,
            best: 0,
            exact: 0,
            too_few: (0, 0),
            trying,
        }
    }

    /// Requests at once, now.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes a second at best.
    pub fn rate(&self) -> u64 {
        if self.exact > 0 { self.exact } else { self.best }
    }

    /// A file of some size has come, the first byte after `first_byte` and all of it at `rate` bytes a second
    /// from then on: start with as many requests for files of `typical` bytes as fill such a link and a few more, 24 at
    /// most.
    pub fn expect(&mut self, first_byte: Duration, rate: u64, typical: u64) {
        let millis = u64::try_from(first_byte.as_millis()).unwrap_or(u64::MAX);
        let in_flight = millis.saturating_mul(rate) / 1000 / typical.max(1);
        let enough = usize::try_from(in_flight + in_flight / 4 + 2).unwrap_or(usize::MAX).min(24);
        self.limit = self.limit.max(enough).min(self.most);
        self.first = self.limit;
        self.trying = Trying::MoreThan(self.limit);
    }

    /// There is less to do than is allowed: a stretch with that in it says nothing about the link.
    pub fn idle(&mut self, now: Time) {
        self.since = now;
        self.done = 0;
        self.bytes = 0;
        self.taken = 0;
        self.begin_long(now);
    }

    fn begin_long(&mut self, now: Time) {
        self.long_since = now;
        self.long_done = 0;
        self.long_bytes = 0;
        self.before_long = 0;
    }

    /// A request that began at `started` has brought this.
    pub fn delivered(&mut self, now: Time, started: Time, bytes: u64) {
        if !matches!(self.trying, Trying::MoreThan(_)) {
            return self.count(now, bytes);
        }
        if started < self.since {
            return;
        }
        self.done += 1;
        self.bytes += bytes;
        self.taken += u64::try_from(now.saturating_sub(started).as_millis()).unwrap_or(u64::MAX).max(1);
        if self.done < self.limit {
            return;
        }
        // As many at once as are allowed but for the one that is kept free, each with this many bytes in this time.
        let at_once = self.limit.saturating_sub(1).max(1) as u64;
        let rate = self.bytes.saturating_mul(1000).saturating_mul(at_once) / self.taken;
        self.idle(now);
        self.stretch(rate);
    }

    fn stretch(&mut self, rate: u64) {
        let Trying::MoreThan(before) = self.trying else { return };
        if rate < self.best + self.best / GAIN {
            self.best = self.best.max(rate);
            // Where more brought nothing from the start, that may have been chance.
            let grew = before > self.first;
            self.change(before, Trying::Nothing(u32::from(grew)));
            return;
        }
        self.best = rate;
        let more = self.limit + if self.limit < 16 { self.limit } else { self.limit / 2 };
        self.change(more, Trying::MoreThan(self.limit));
    }

    /// What comes is counted by the clock, from the first one on that knows nothing of a change.
    fn count(&mut self, now: Time, bytes: u64) {
        if self.before_long > 0 {
            self.before_long -= 1;
            self.long_since = now;
            return;
        }
        self.long_done += 1;
        self.long_bytes += bytes;
        if self.long_done < LONG * self.limit.max(4) {
            return;
        }
        let millis = u64::try_from(now.saturating_sub(self.long_since).as_millis()).unwrap_or(u64::MAX);
        let rate = self.long_bytes.saturating_mul(1000) / millis.max(1);
        self.begin_long(now);
        self.long_stretch(rate);
    }

    fn long_stretch(&mut self, rate: u64) {
        match self.trying {
            Trying::MoreThan(_) => {}
            Trying::Nothing(stretches) => {
                // A link that became slower is believed after a while.
                self.exact = rate.max(self.exact - self.exact / 16);
                self.trying = Trying::Nothing(stretches + 1);
                match stretches {
                    0 => self.more(),
                    1 => self.fewer(),
                    TRY_AGAIN.. => self.trying = Trying::Nothing(0),
                    _ => {}
                }
            }
            Trying::FewerThan(_) if rate >= self.exact - self.exact / LOSS => {
                self.exact = self.exact.max(rate);
                // Not yet fewer again: a boot is to be over before too few are tried.
                self.trying = Trying::Nothing(2);
            }
            Trying::FewerThan(before) => {
                self.too_few = (self.limit, self.exact);
                self.change(before, Trying::Nothing(2));
            }
            Trying::MoreAgain(_) if rate >= self.exact + self.exact / GAIN => {
                self.exact = rate;
                self.trying = Trying::Nothing(1);
                self.more();
            }
            Trying::MoreAgain(before) => self.change(before, Trying::Nothing(1)),
        }
    }

    /// A third fewer, unless that is known to be too few on a link like this.
    fn fewer(&mut self) {
        let fewer = self.limit - (self.limit / 3).max(1);
        let (too_few, of) = self.too_few;
        let known = self.exact > of - of / 4 && fewer <= too_few;
        // With one that is kept free, two are the least.
        if fewer > 1 && !known {
            self.change(fewer, Trying::FewerThan(self.limit));
        }
    }

    /// Half as many again.
    fn more(&mut self) {
        let more = (self.limit + self.limit / 2 + 1).min(self.most);
        if more > self.limit {
            self.change(more, Trying::MoreAgain(self.limit));
        }
    }

    fn change(&mut self, limit: usize, trying: Trying) {
        let limit = limit.min(self.most);
        // Those that are under way come in the old order.
        self.before_long = self.limit.max(limit);
        self.trying = if limit == self.limit { Trying::Nothing(1) } else { trying };
        self.limit = limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the limit settles on a link with this round trip (ms) and bandwidth (bytes/s), files of 120 kB.
    fn settles(round_trip: u64, bandwidth: u64, most: usize) -> ConcurrencyController {
        let mut pace = ConcurrencyController::new(4, most);
        let file = 120_000;
        // Ends of requests in flight; each takes its turn on the link.
        let mut ends = std::collections::BinaryHeap::new();
        let (mut now, mut link_free) = (0, 0);
        for _ in 0..4000 {
            while ends.len() < (pace.limit() - 1).max(1) {
                link_free = (now + round_trip * 1000).max(link_free) + file * 1_000_000 / bandwidth;
                ends.push(std::cmp::Reverse((link_free, now)));
            }
            let std::cmp::Reverse((end, began)) = ends.pop().unwrap();
            now = end;
            pace.delivered(Duration::from_micros(now), Duration::from_micros(began), file);
        }
        pace
    }

    #[test]
    fn enough_requests_fill_the_link_and_no_more_than_enough_are_kept() {
        for (round_trip, bandwidth, least, most) in [
            // Round trip x bandwidth / file + 1: 1.4, 1, 11.4, 3.1, 21.8, and one that is kept free; half as many again
            // are not yet waste.
            (20, 2_500_000, 3, 5),
            (1, 2_500_000, 2, 4),
            (100, 12_500_000, 12, 18),
            (20, 12_500_000, 4, 6),
            (200, 12_500_000, 22, 40),
        ] {
            let pace = settles(round_trip, bandwidth, 64);
            let limit = pace.limit();
            assert!((least..=most).contains(&limit), "{round_trip} ms, {bandwidth} B/s: {limit}");
            let rate = pace.rate();
            assert!(
                rate > bandwidth * 9 / 10 && rate < bandwidth * 11 / 10,
                "{round_trip} ms, {bandwidth} B/s: {rate}"
            );
        }
        assert!(settles(200, 125_000_000, 32).limit() <= 32);
    }

    #[test]
    fn one_file_is_enough_to_start_near_the_right_number_and_idle_time_says_nothing() {
        let mut pace = ConcurrencyController::new(4, 32);
        pace.expect(Duration::from_millis(100), 12_500_000, 120_000);
        assert_eq!(pace.limit(), 14);
        pace.expect(Duration::from_millis(1), 1000, 120_000);
        assert_eq!(pace.limit(), 14, "it only goes up");
        let mut pace = ConcurrencyController::new(4, 32);
        for n in 0..1000 {
            let at = |millis: u64| Duration::from_millis(n * 100 + millis);
            pace.delivered(at(50), at(0), 100_000);
            pace.idle(at(51));
        }
        assert_eq!(pace.limit(), 4);
    }
}
