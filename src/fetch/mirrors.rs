//! How well each mirror does, and which one is asked next.

use std::time::Duration;

use super::{Blame, MirrorId, Time};

/// How long a mirror rests after failures.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
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

impl Default for Rest {
    fn default() -> Self {
        Rest {
            short: Duration::from_millis(100),
            short_max: Duration::from_secs(2),
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
    /// Good answers.
    pub good: u64,
    /// Bytes of good answers.
    pub bytes: u64,
    /// Requests in flight.
    pub in_flight: u32,
    /// The last failure of the whole mirror.
    pub failed_at: Option<Time>,
    /// Not before this, even if there is no other.
    pub earliest: Time,
    /// Not before this while another one does.
    pub rests_until: Time,
    /// Whether a probe is under way.
    pub probing: bool,
}

/// Enough doubt to come last; more is not counted, so that a mirror can come back.
const MOST_DOUBT: u32 = 8;

impl Health {
    /// An answer was good.
    pub(super) fn succeeded(&mut self, bytes: u64) {
        self.failures = 0;
        self.doubt = self.doubt.saturating_sub(1);
        self.good += 1;
        self.bytes += bytes;
        self.earliest = Time::ZERO;
        self.rests_until = Time::ZERO;
    }

    /// A request that began at `started` failed.
    pub(super) fn failed(&mut self, now: Time, started: Time, blame: Blame, rest: &Rest) {
        match blame {
            Blame::File => self.doubt = (self.doubt + 1).min(MOST_DOUBT),
            Blame::Busy(after) => {
                let pause = after.unwrap_or(rest.short_max).min(rest.busy_max);
                self.earliest = self.earliest.max(now + pause);
                self.rests_until = self.rests_until.max(now + pause);
            }
            // Requests that were in flight together fail together: that is one failure.
            Blame::Mirror if self.failed_at.is_some_and(|at| started < at) && self.failures > 0 => {}
            Blame::Mirror => {
                self.failures = self.failures.saturating_add(1);
                self.failed_at = Some(now);
                self.earliest = now + doubled(rest.short, self.failures, rest.short_max);
                self.rests_until = now + doubled(rest.long, self.failures, rest.long_max);
            }
        }
    }

    /// Whether it is due for a look at whether it is back.
    pub(super) fn wants_probe(&self) -> bool {
        self.failures > 0 && !self.probing
    }
}

/// `first` doubled for each failure after the first, `most` at most.
pub(super) fn doubled(first: Duration, failures: u32, most: Duration) -> Duration {
    let factor = 1_u32 << failures.saturating_sub(1).min(20);
    first.saturating_mul(factor).min(most)
}

/// What [`choose`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This one, now.
    Ask(MirrorId),
    /// None before then.
    WaitUntil(Time),
    /// All have been tried.
    NoneLeft,
}

/// The mirror to ask now, apart from those in the set `tried`: the best that does not rest; when all do, the
/// one that may be asked first.
pub(super) fn choose(mirrors: &[Health], tried: u64, now: Time) -> Choice {
    let left = || (0_u8..).zip(mirrors).filter(|(id, _)| tried & (1 << id) == 0);
    // The first of equals wins, so the order of the list counts.
    let awake = left().filter(|(_, mirror)| mirror.rests_until <= now);
    if let Some((id, _)) = awake.min_by_key(|(_, mirror)| (mirror.failures, mirror.doubt)) {
        return Choice::Ask(MirrorId(id));
    }
    match left().min_by_key(|(_, mirror)| mirror.earliest) {
        Some((id, mirror)) if mirror.earliest <= now => Choice::Ask(MirrorId(id)),
        Some((_, mirror)) => Choice::WaitUntil(mirror.earliest),
        None => Choice::NoneLeft,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(secs: u64) -> Time {
        Time::from_secs(secs)
    }

    #[test]
    fn the_first_healthy_mirror_is_asked_and_a_dead_one_only_if_there_is_no_other() {
        let rest = Rest::default();
        let mut mirrors = vec![Health::default(), Health::default()];
        assert_eq!(choose(&mirrors, 0, at(1)), Choice::Ask(MirrorId(0)));
        assert_eq!(choose(&mirrors, 0b01, at(1)), Choice::Ask(MirrorId(1)));
        assert_eq!(choose(&mirrors, 0b11, at(1)), Choice::NoneLeft);

        // One dead: the other one, and still the other one when the rest is over.
        mirrors[0].failed(at(1), at(0), Blame::Mirror, &rest);
        assert_eq!(choose(&mirrors, 0, at(1)), Choice::Ask(MirrorId(1)));
        assert_eq!(choose(&mirrors, 0, at(100)), Choice::Ask(MirrorId(1)));
        // Alone, it is asked again after the short rest.
        assert_eq!(choose(&mirrors[..1], 0, at(1)), Choice::WaitUntil(at(1) + rest.short));
        assert_eq!(choose(&mirrors[..1], 0, at(1) + rest.short), Choice::Ask(MirrorId(0)));

        // It answers: it is the first again.
        mirrors[0].succeeded(1);
        assert_eq!(choose(&mirrors, 0, at(101)), Choice::Ask(MirrorId(0)));
        // A file that it does not have: the other one is preferred, until the first has made up for it.
        mirrors[0].failed(at(101), at(101), Blame::File, &rest);
        assert_eq!(choose(&mirrors, 0, at(101)), Choice::Ask(MirrorId(1)));
        mirrors[0].succeeded(1);
        assert_eq!(choose(&mirrors, 0, at(101)), Choice::Ask(MirrorId(0)));
    }

    #[test]
    fn requests_that_fail_together_are_one_failure_and_rests_are_bounded() {
        let rest = Rest::default();
        let mut mirror = Health::default();
        for _ in 0..4 {
            mirror.failed(at(5), at(1), Blame::Mirror, &rest);
        }
        assert_eq!((mirror.failures, mirror.earliest), (1, at(5) + rest.short));
        for n in 0..40 {
            mirror.failed(at(10 + n), at(10 + n), Blame::Mirror, &rest);
        }
        assert_eq!(mirror.earliest, at(49) + rest.short_max);
        assert_eq!(mirror.rests_until, at(49) + rest.long_max);
    }

    #[test]
    fn a_busy_mirror_is_left_alone_for_as_long_as_it_asks_within_reason() {
        let rest = Rest::default();
        for (after, until) in [(Some(3), 3), (Some(86_400), 10), (None, 2)] {
            let mut mirror = Health::default();
            mirror.failed(at(0), at(0), Blame::Busy(after.map(Duration::from_secs)), &rest);
            assert_eq!(choose(&[mirror], 0, at(0)), Choice::WaitUntil(at(until)), "{after:?}");
        }
    }
}
