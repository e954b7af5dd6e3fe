//! Chance in the times of retries. Clients that a mirror's restart has made wait must not come back all at once.

use std::time::Duration;

/// A sequence of random fractions; a core has no random numbers of its own, so it is given one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jitter(u64);

impl Jitter {
    /// No chance: every time is as it would be without it.
    pub const NONE: Jitter = Jitter(0);

    /// A sequence of its own for each seed.
    pub fn seeded(seed: u64) -> Self {
        Jitter(seed | 1)
    }

    /// One of many sequences.
    #[must_use]
    pub fn numbered(self, number: u64) -> Self {
        match self {
            Jitter::NONE => self,
            Jitter(seed) => Self::seeded(seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        }
    }

    /// At least half of it, at most all of it.
    pub fn shortened(&mut self, time: Duration) -> Duration {
        time - self.part_of(time / 2)
    }

    /// At least this, at most half as much again.
    pub fn lengthened(&mut self, time: Duration) -> Duration {
        time + self.part_of(time / 2)
    }

    /// A part of it by chance: splitmix64, which is random enough to spread requests.
    fn part_of(&mut self, time: Duration) -> Duration {
        if *self == Jitter::NONE {
            return Duration::ZERO;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15) | 1;
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let part = (u128::from(word) * u128::from(micros)) >> 64;
        Duration::from_micros(u64::try_from(part).unwrap_or(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spread_within_their_bounds_and_differ_between_clients() {
        let second = Duration::from_secs(1);
        let mut tenths = [0; 5];
        for client in 0..1000 {
            let mut jitter = Jitter::seeded(client);
            let (short, long) = (jitter.shortened(second), jitter.lengthened(second));
            assert!(short * 2 >= second && short <= second && long >= second && long <= second * 3 / 2);
            tenths[(long - second).as_millis() as usize / 100 % 5] += 1;
        }
        assert!(tenths.iter().all(|&count| (120..=280).contains(&count)), "{tenths:?}");
        let mut none = Jitter::NONE.numbered(7);
        assert_eq!((none.shortened(second), none.lengthened(second)), (second, second));
        let [mut one, mut two] = [0, 1].map(|mirror| Jitter::seeded(9).numbered(mirror));
        assert_ne!(one.shortened(second), two.shortened(second));
    }
}
