//! How many requests at once: more for as long as more of them bring more.
//!
//! One request at a time leaves a link idle for a round trip between two files; enough of them fill it, and more
//! than that only queue up before a read that somebody waits for. How many are enough is the product of round
//! trip and bandwidth, which nobody tells us, so it is tried: as many requests as are allowed are
//! timed, then more are allowed. If each of those takes as much longer as there are more of them, they brought
//! nothing and are taken back.

use std::time::Duration;

use super::Time;

/// Better by less than this share (an eighth) is no better.
const GAIN: u64 = 8;
/// After so many stretches without a change, more are tried again: the link may have become faster.
const TRY_AGAIN: u32 = 16;

/// The number of requests that may be in flight.
#[derive(Clone, Debug)]
pub struct Pace {
    limit: usize,
    most: usize,
    /// When the stretch began; only requests that began later are counted.
    since: Time,
    done: usize,
    bytes: u64,
    /// Milliseconds of all of them together.
    taken: u64,
    /// Bytes a second of the best stretch lately.
    best: u64,
    trying: Trying,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trying {
    /// More than this many were allowed just now.
    MoreThan(usize),
    /// It stays as it is; stretches since then.
    Nothing(u32),
}

impl Pace {
    /// Starts with `first` requests, and goes up to `most` of them.
    pub fn new(first: usize, most: usize) -> Self {
        let limit = first.clamp(1, most.max(1));
        let trying = Trying::MoreThan(limit);
        Pace { limit, most: most.max(1), since: Time::ZERO, done: 0, bytes: 0, taken: 0, best: 0, trying }
    }

    /// Requests at once, now.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes a second at best.
    pub fn rate(&self) -> u64 {
        self.best
    }

    /// A file of some size has come, the first byte after `first_byte` and all of it at `rate` bytes a second
    /// from then on: start with as many requests for files of `typical` bytes as fill such a link and a few more, 24 at
    /// most.
    pub fn expect(&mut self, first_byte: Duration, rate: u64, typical: u64) {
        let millis = u64::try_from(first_byte.as_millis()).unwrap_or(u64::MAX);
        let in_flight = millis.saturating_mul(rate) / 1000 / typical.max(1);
        let enough = usize::try_from(in_flight + in_flight / 4 + 2).unwrap_or(usize::MAX).min(24);
        self.limit = self.limit.max(enough).min(self.most);
        self.trying = Trying::MoreThan(self.limit);
    }

    /// There is less to do than is allowed: a stretch with that in it says nothing about the link.
    pub fn idle(&mut self, now: Time) {
        self.since = now;
        self.done = 0;
        self.bytes = 0;
        self.taken = 0;
    }

    /// A request that began at `started` has brought this.
    pub fn delivered(&mut self, now: Time, started: Time, bytes: u64) {
        if started < self.since {
            return;
        }
        self.done += 1;
        self.bytes += bytes;
        self.taken += u64::try_from(now.saturating_sub(started).as_millis()).unwrap_or(u64::MAX).max(1);
        if self.done < self.limit {
            return;
        }
        // As many at once as are allowed, each with this many bytes in this time.
        let rate = self.bytes.saturating_mul(1000).saturating_mul(self.limit as u64) / self.taken;
        self.idle(now);
        self.stretch(rate);
    }

    fn stretch(&mut self, rate: u64) {
        match self.trying {
            Trying::MoreThan(before) if rate < self.best + self.best / GAIN => {
                self.limit = before;
                self.trying = Trying::Nothing(0);
                self.best = self.best.max(rate);
            }
            Trying::MoreThan(_) => {
                self.best = rate;
                self.more(if self.limit < 16 { self.limit } else { self.limit / 2 });
            }
            Trying::Nothing(stretches) => {
                // A link that became slower is believed after a while.
                self.best = rate.max(self.best - self.best / 16);
                self.trying = Trying::Nothing(stretches + 1);
                if stretches >= TRY_AGAIN {
                    self.more(self.limit / 4 + 1);
                }
            }
        }
    }

    fn more(&mut self, by: usize) {
        let before = self.limit;
        self.limit = (before + by).min(self.most);
        self.trying = if self.limit > before { Trying::MoreThan(before) } else { Trying::Nothing(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the limit settles on a link with this round trip (ms) and bandwidth (bytes/s), files of 120 kB.
    fn settles(round_trip: u64, bandwidth: u64, most: usize) -> Pace {
        let mut pace = Pace::new(4, most);
        let file = 120_000;
        // Ends of requests in flight; each takes its turn on the link.
        let mut ends = std::collections::BinaryHeap::new();
        let (mut now, mut link_free) = (0, 0);
        for _ in 0..4000 {
            while ends.len() < pace.limit() {
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
            // Round trip x bandwidth / file + 1: 1.2, 11.4, 3, 21.8; twice that is not yet waste.
            (20, 2_500_000, 4, 8),
            (100, 12_500_000, 10, 24),
            (20, 12_500_000, 4, 8),
            (200, 12_500_000, 19, 48),
        ] {
            let pace = settles(round_trip, bandwidth, 64);
            let limit = pace.limit();
            assert!((least..=most).contains(&limit), "{round_trip} ms, {bandwidth} B/s: {limit}");
            assert!(pace.rate() > bandwidth * 8 / 10, "{round_trip} ms, {bandwidth} B/s: {}", pace.rate());
        }
        assert!(settles(200, 125_000_000, 32).limit() <= 32);
    }

    #[test]
    fn one_file_is_enough_to_start_near_the_right_number_and_idle_time_says_nothing() {
        let mut pace = Pace::new(4, 32);
        pace.expect(Duration::from_millis(100), 12_500_000, 120_000);
        assert_eq!(pace.limit(), 14);
        pace.expect(Duration::from_millis(1), 1000, 120_000);
        assert_eq!(pace.limit(), 14, "it only goes up");
        let mut pace = Pace::new(4, 32);
        for n in 0..1000 {
            let at = |millis: u64| Duration::from_millis(n * 100 + millis);
            pace.delivered(at(50), at(0), 100_000);
            pace.idle(at(51));
        }
        assert_eq!(pace.limit(), 4);
    }
}
