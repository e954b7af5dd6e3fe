//! How well each mirror does, and which one is asked next.

use std::collections::VecDeque;
use std::time::Duration;

use super::{FailureScope, MirrorId, Time};
use crate::jitter::Jitter;

/// How long a mirror rests after failures.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first failure, when there is no other mirror.
    pub short: Duration,
    /// At most, when there is no other mirror: a network that comes back is noticed within this.
    pub short_max: Duration,
    /// After the first failure, when another mirror does.
    pub long: Duration,
    /// At most, when another mirror does.
    pub long_max: Duration,
    /// Retry-After is honoured up to this.
    pub busy_max: Duration,
}

/// The last durations of something, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    values: VecDeque<u32>,
    /// The same in ascending order: they are asked for much more often than added to.
    sorted: Vec<u32>,
}

/// As many as are kept.
const RECENT: usize = 64;
/// So many are needed before anything is said about them.
const ENOUGH: usize = 8;

impl Recent {
    fn add(&mut self, time: Duration) {
        let place = |sorted: &[u32], value| sorted.partition_point(|&other| other < value);
        if self.values.len() == RECENT
            && let Some(oldest) = self.values.pop_front()
        {
            self.sorted.remove(place(&self.sorted, oldest));
        }
        let value = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        self.values.push_back(value);
        self.sorted.insert(place(&self.sorted, value), value);
    }

    /// The value that so many percent of them do not exceed; `None` before any.
    pub fn quantile(&self, percent: usize) -> Option<Duration> {
        let at = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted.get(at - 1).map(|&millis| Duration::from_millis(millis.into()))
    }
}

/// When a read is given a second request beside the first.
#[derive(Clone, Copy, Debug)]
pub struct Hedge {
    pub least: Duration,
    /// While not enough is known of a mirror.
    pub unknown: Duration,
    /// Never later, with another mirror to ask.
    pub most: Duration,
    /// Never sooner when it is the same mirror that is asked again, on a new connection.
    pub alone: Duration,
}

impl Default for Hedge {
    fn default() -> Self {
        Hedge {
            least: Duration::from_millis(50),
            unknown: Duration::from_millis(750),
            most: Duration::from_secs(3),
            alone: Duration::from_secs(1),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            short: Duration::from_millis(100),
            short_max: Duration::from_secs(1),
            long: Duration::from_secs(4),
            long_max: Duration::from_secs(300),
            busy_max: Duration::from_secs(10),
        }
    }
}

/// One mirror as its answers show it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Failures of the whole mirror since its last good answer.
    pub failures: u32,
    /// Files it did not have or had wrong, less the good ones since.
    pub doubt: u32,
    /// When a web page last came in place of a file, and how many did that count as doubt, since the last good answer.
    pub page: Option<(Time, u32)>,
    pub good: u64,
    /// Bytes of good answers.
    pub bytes: u64,
    /// Requests in flight.
    pub in_flight: u32,
    /// Most requests at once that it takes; `None`: as many as we like.
    pub most: Option<u32>,
    /// Times until the first byte of an answer.
    pub first_byte: Recent,
    /// Times until a whole block.
    pub whole: Recent,
    /// Bytes a second once an answer has begun, smoothed; 0: not known.
    pub rate: u64,
    /// Races lost to another mirror since its last good answer.
    pub lost: u32,
    /// When it was last asked for anything.
    pub asked_at: Option<Time>,
    /// The first of the failures since its last good answer.
    pub bad_since: Option<Time>,
    /// The last failure of the whole mirror.
    pub failed_at: Option<Time>,
    /// Not before this, even if there is no other.
    pub earliest: Time,
    /// Not before this while another one does.
    pub backoff_until: Time,
    /// Whether a probe is under way.
    pub probing: bool,
    /// Spreads its rests.
    pub jitter: Jitter,
}

/// Enough doubt to come last; more is not counted, so that a mirror can come back.
const MOST_DOUBT: u32 = 8;

/// So many races lost in a row are a failure.
const LOST: u32 = 3;
/// Bytes of a block file, about: mirrors are compared by the time that they need for one.
const TYPICAL: u64 = 100_000;

impl Health {
    /// A block came: it took `whole`, the first byte `first_byte`.
    pub(super) fn brought(&mut self, now: Time, bytes: u64, first_byte: Duration, whole: Duration) {
        self.answered(now, bytes, first_byte);
        self.whole.add(whole);
        let body = u64::try_from(whole.saturating_sub(first_byte).as_micros()).unwrap_or(u64::MAX);
        // What comes in one gulp says little about the rate.
        if bytes >= 16 << 10 {
            let rate = bytes.saturating_mul(1_000_000) / body.max(100);
            self.rate = if self.rate == 0 { rate } else { (self.rate / 8 * 7).saturating_add(rate / 8) };
        }
    }

    /// Records a small answer: `bytes` received, the first after `first_byte`.
    pub(super) fn answered(&mut self, now: Time, bytes: u64, first_byte: Duration) {
        self.first_byte.add(first_byte);
        self.asked_at = self.asked_at.max(Some(now));
        self.succeeded(bytes);
    }

    /// About how long it needs for a block; `None` while nothing is known.
    pub fn expected(&self) -> Option<Duration> {
        let body = TYPICAL.saturating_mul(1000).checked_div(self.rate).unwrap_or(0);
        Some(self.first_byte.quantile(50)? + Duration::from_millis(body))
    }

    /// After how long a read has waited too long for this mirror.
    pub(super) fn overdue(&self, hedge: &Hedge) -> Duration {
        if self.whole.values.len() < ENOUGH {
            return hedge.unknown;
        }
        self.whole.quantile(95).unwrap_or(hedge.unknown).clamp(hedge.least, hedge.most)
    }

    /// The same, when there is nobody else to ask.
    pub(super) fn overdue_alone(&self, hedge: &Hedge) -> Duration {
        if self.whole.values.len() < ENOUGH {
            return hedge.alone;
        }
        (4 * self.overdue(hedge)).max(hedge.alone)
    }

    /// Another mirror was faster though it was asked later.
    pub(super) fn lost_race(&mut self, now: Time, started: Time, backoff: &Backoff) {
        self.lost += 1;
        if self.lost >= LOST {
            self.failed(now, started, FailureScope::Mirror, backoff);
        }
    }

    /// Whether it takes no more requests now.
    pub(super) fn is_full(&self) -> bool {
        self.most.is_some_and(|most| self.in_flight >= most)
    }

    /// An answer was good.
    pub(super) fn succeeded(&mut self, bytes: u64) {
        self.failures = 0;
        self.lost = 0;
        self.page = None;
        self.doubt = self.doubt.saturating_sub(1);
        self.good += 1;
        self.bytes += bytes;
        self.earliest = Time::ZERO;
        self.backoff_until = Time::ZERO;
    }

    /// A request that began at `started` failed.
    pub(super) fn failed(&mut self, now: Time, started: Time, blame: FailureScope, backoff: &Backoff) {
        match blame {
            FailureScope::File => self.doubt = (self.doubt + 1).min(MOST_DOUBT),
            FailureScope::Busy(after) => {
                let pause = after.unwrap_or(2 * backoff.short_max).min(backoff.busy_max);
                // It must not be asked before, and all clients heard the same.
                let pause = self.jitter.lengthened(pause);
                self.earliest = self.earliest.max(now + pause);
                self.backoff_until = self.backoff_until.max(now + pause);
            }
            // Requests that were in flight together fail together: that is one failure.
            FailureScope::Mirror if self.failed_at.is_some_and(|at| started < at) && self.failures > 0 => {}
            FailureScope::Mirror => {
                if self.failures == 0 {
                    self.bad_since = Some(now);
                }
                self.failures = self.failures.saturating_add(1);
                self.failed_at = Some(now);
                // What comes back may be another way to it.
                self.first_byte = Recent::default();
                self.whole = Recent::default();
                let short = doubled(backoff.short, self.failures, backoff.short_max);
                let long = doubled(backoff.long, self.failures, backoff.long_max);
                self.earliest = now + self.jitter.shortened(short);
                self.backoff_until = now + self.jitter.shortened(long);
            }
        }
    }

    /// A web page came in place of a file.
    pub(super) fn was_a_page(&mut self, now: Time) {
        let (_, count) = self.page.unwrap_or_default();
        self.page = Some((now, count.saturating_add(1)));
    }

    /// The pages were nobody's fault.
    fn forgive_pages(&mut self) {
        if let Some((_, count)) = &mut self.page {
            self.doubt = self.doubt.saturating_sub(std::mem::take(count));
        }
    }

    /// Whether it is due for a look at whether it is back.
    pub(super) fn wants_probe(&self) -> bool {
        self.failures > 0 && !self.probing
    }
}

/// Two mirrors do not turn into web pages within this: it is a login page in the way to both.
const PORTAL: Duration = Duration::from_secs(10);

/// When web pages came in place of files of several mirrors lately, it is no fault of theirs.
pub(super) fn forgive_portal(mirrors: &mut [Health], now: Time) {
    let is_page = |mirror: &&mut Health| mirror.page.is_some_and(|(at, _)| at + PORTAL > now);
    if mirrors.iter_mut().filter(is_page).count() > 1 {
        mirrors.iter_mut().filter(is_page).for_each(Health::forgive_pages);
    }
}

/// `first` doubled for each failure after the first, `most` at most.
pub(super) fn doubled(first: Duration, failures: u32, most: Duration) -> Duration {
    let factor = 1_u32 << failures.saturating_sub(1).min(20);
    first.saturating_mul(factor).min(most)
}

/// The decision of [`choose`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Ask(MirrorId),
    /// No mirror may be asked before this time.
    WaitUntil(Time),
    /// None before a request ends: those left take no more at once.
    Full,
    /// All have been tried.
    NoneLeft,
}

/// The mirror to ask now, apart from those in the set `tried`: the best that does not rest; when all do, the
/// one that may be asked first. One that takes no more requests is passed over for the next.
pub(super) fn choose(mirrors: &[Health], tried: u64, now: Time) -> Choice {
    let left = || (0_u8..).zip(mirrors).filter(|(id, _)| tried & (1 << id) == 0);
    let free = || left().filter(|(_, mirror)| !mirror.is_full());
    let awake = || free().filter(|(_, mirror)| mirror.backoff_until <= now);
    if let Some(best) = awake().map(|(_, mirror)| (mirror.failures, mirror.doubt)).min() {
        let mut equals = awake().filter(|(_, mirror)| (mirror.failures, mirror.doubt) == best);
        let fastest = equals.clone().filter_map(|(_, mirror)| mirror.expected()).min();
        // As good as the fastest: the first of these, so the order of the list counts.
        let good = |mirror: &Health| match (fastest, mirror.expected()) {
            (Some(fastest), Some(time)) => time <= fastest * 13 / 10 + NOISE,
            (fastest, _) => fastest.is_none(),
        };
        if let Some((id, _)) = equals.find(|(_, mirror)| good(mirror)) {
            return Choice::Ask(MirrorId(id));
        }
    }
    match free().min_by_key(|(_, mirror)| mirror.earliest) {
        Some((id, mirror)) if mirror.earliest <= now => Choice::Ask(MirrorId(id)),
        Some((_, mirror)) => Choice::WaitUntil(mirror.earliest),
        None if left().next().is_some() => Choice::Full,
        None => Choice::NoneLeft,
    }
}

/// Mirrors that differ by less than this are equally fast.
const NOISE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(secs: u64) -> Time {
        Time::from_secs(secs)
    }

    #[test]
    fn the_first_healthy_mirror_is_asked_and_a_dead_one_only_if_there_is_no_other() {
        let backoff = Backoff::default();
        let mut mirrors = vec![Health::default(), Health::default()];
        assert_eq!(choose(&mirrors, 0, at(1)), Choice::Ask(MirrorId(0)));
        assert_eq!(choose(&mirrors, 0b01, at(1)), Choice::Ask(MirrorId(1)));
        assert_eq!(choose(&mirrors, 0b11, at(1)), Choice::NoneLeft);

        // One dead: the other one, and still the other one when the rest is over.
        mirrors[0].failed(at(1), at(0), FailureScope::Mirror, &backoff);
        assert_eq!(choose(&mirrors, 0, at(1)), Choice::Ask(MirrorId(1)));
        assert_eq!(choose(&mirrors, 0, at(100)), Choice::Ask(MirrorId(1)));
        // Alone, it is asked again after the short rest.
        assert_eq!(choose(&mirrors[..1], 0, at(1)), Choice::WaitUntil(at(1) + backoff.short));
        assert_eq!(choose(&mirrors[..1], 0, at(1) + backoff.short), Choice::Ask(MirrorId(0)));

        // It answers: it is the first again.
        mirrors[0].succeeded(1);
        assert_eq!(choose(&mirrors, 0, at(101)), Choice::Ask(MirrorId(0)));
        // A file that it does not have: the other one is preferred, until the first has made up for it.
        mirrors[0].failed(at(101), at(101), FailureScope::File, &backoff);
        assert_eq!(choose(&mirrors, 0, at(101)), Choice::Ask(MirrorId(1)));
        mirrors[0].succeeded(1);
        assert_eq!(choose(&mirrors, 0, at(101)), Choice::Ask(MirrorId(0)));
    }

    #[test]
    fn requests_that_fail_together_are_one_failure_and_rests_are_bounded() {
        let backoff = Backoff::default();
        let mut mirror = Health::default();
        for _ in 0..4 {
            mirror.failed(at(5), at(1), FailureScope::Mirror, &backoff);
        }
        assert_eq!((mirror.failures, mirror.earliest), (1, at(5) + backoff.short));
        for n in 0..40 {
            mirror.failed(at(10 + n), at(10 + n), FailureScope::Mirror, &backoff);
        }
        assert_eq!(mirror.earliest, at(49) + backoff.short_max);
        assert_eq!(mirror.backoff_until, at(49) + backoff.long_max);
    }

    #[test]
    fn a_busy_mirror_is_left_alone_for_as_long_as_it_asks_within_reason() {
        let backoff = Backoff::default();
        for (after, until) in [(Some(3), 3), (Some(86_400), 10), (None, 2)] {
            let mut mirror = Health::default();
            mirror.failed(at(0), at(0), FailureScope::Busy(after.map(Duration::from_secs)), &backoff);
            assert_eq!(choose(&[mirror], 0, at(0)), Choice::WaitUntil(at(until)), "{after:?}");
        }
    }

    #[test]
    fn the_faster_mirror_is_asked_until_it_takes_no_more_and_small_differences_do_not_count() {
        let ms = Duration::from_millis;
        let mut mirrors = vec![Health::default(), Health::default(), Health::default()];
        mirrors[0].brought(at(1), 100_000, ms(200), ms(220));
        mirrors[1].brought(at(1), 100_000, ms(20), ms(30));
        assert_eq!(choose(&mirrors, 0, at(1)), Choice::Ask(MirrorId(1)), "nothing is known of the third");
        mirrors[2].brought(at(1), 100_000, ms(15), ms(25));
        assert_eq!(choose(&mirrors, 0, at(1)), Choice::Ask(MirrorId(1)), "it comes first in the list");
        for _ in 0..20 {
            mirrors[1].brought(at(1), 100_000, ms(300), ms(310));
        }
        assert_eq!(choose(&mirrors, 0, at(1)), Choice::Ask(MirrorId(2)));
        (mirrors[2].most, mirrors[2].in_flight) = (Some(3), 3);
        assert_eq!(choose(&mirrors, 0, at(1)), Choice::Ask(MirrorId(0)));
        assert_eq!(choose(&mirrors, 0b011, at(1)), Choice::Full);
    }

    #[test]
    fn quantiles_are_of_the_last_and_a_mirror_that_loses_races_goes_down() {
        let mut recent = Recent::default();
        assert_eq!(recent.quantile(95), None);
        (0..200).for_each(|n| recent.add(Duration::from_millis(n)));
        let found = [50, 95, 100].map(|percent| recent.quantile(percent).unwrap().as_millis());
        assert_eq!(found, [167, 196, 199]);
        let mut mirror = Health::default();
        for failures in [0, 0, 1] {
            mirror.lost_race(at(9), at(8), &Backoff::default());
            assert_eq!(mirror.failures, failures);
        }
    }
}
