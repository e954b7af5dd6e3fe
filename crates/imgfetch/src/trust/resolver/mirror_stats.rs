//! How each mirror did so far, and in which order they are asked.

use std::time::Duration;

use super::types::MirrorAnswer;
use formats::fetch_fault::FailureScope;

/// How a mirror did while the release was resolved.
#[derive(Clone, Debug, Default)]
pub struct MirrorStats {
    /// The shortest time until the first byte of an answer.
    pub first_byte: Option<Duration>,
    /// Bytes a second, when it sent enough to tell.
    pub rate: Option<u64>,
    /// Whether its last answer was what it ought to be.
    pub good: bool,
    /// What its last failure counts against.
    pub blame: Option<FailureScope>,
}

impl MirrorStats {
    /// It sent what it ought to.
    pub(super) fn answered(&mut self, answer: &MirrorAnswer) {
        self.good = true;
        self.blame = None;
        self.first_byte = Some(self.first_byte.map_or(answer.first_byte, |best| best.min(answer.first_byte)));
        let body = answer.whole.saturating_sub(answer.first_byte);
        if answer.bytes.len() >= 64 << 10 && body > Duration::from_millis(2) {
            let millis = u64::try_from(body.as_millis()).unwrap_or(u64::MAX);
            self.rate = Some(answer.bytes.len() as u64 * 1000 / millis.max(1));
        }
    }

    /// Whether it answered the last request, be it with a file that can't be used.
    pub(super) fn answers(&self) -> bool {
        matches!(self.blame, None | Some(FailureScope::File))
    }

    pub(super) fn failed(&mut self, blame: FailureScope) {
        self.good = false;
        self.blame = Some(blame);
    }
}

/// Places of the mirrors in the order in which they are asked. By speed: those that answered well, the fastest first,
/// then those that have not answered yet, then those that failed. Otherwise as they are listed, those that failed last.
/// Of those that failed, one that answered comes before one that did not.
pub(super) fn order(stats: &[MirrorStats], by_speed: bool) -> Vec<usize> {
    let rank = |place: usize| {
        let MirrorStats { first_byte, good, blame, .. } = &stats[place];
        let failure = match blame {
            None => 0,
            Some(FailureScope::File) => 1,
            Some(FailureScope::Busy(_) | FailureScope::Mirror) => 2,
        };
        if by_speed {
            (!good, failure, first_byte.filter(|_| *good).unwrap_or(Duration::MAX))
        } else {
            (false, failure, Duration::ZERO)
        }
    };
    let mut order: Vec<usize> = Vec::new();
    for place in 0..stats.len() {
        // A few dozen at most.
        let at = order.iter().position(|&other| rank(place) < rank(other)).unwrap_or(order.len());
        order.insert(at, place);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_near_come_first_and_the_failed_last() {
        let ms = Duration::from_millis;
        let good = |time| MirrorStats { first_byte: Some(ms(time)), good: true, ..MirrorStats::default() };
        let failed = MirrorStats { blame: Some(FailureScope::Mirror), ..MirrorStats::default() };
        let refused = MirrorStats { blame: Some(FailureScope::File), ..MirrorStats::default() };
        let stats = [failed.clone(), good(80), MirrorStats::default(), good(20), failed, good(50), refused];
        assert_eq!(order(&stats, true), [3, 5, 1, 2, 6, 0, 4]);
        assert_eq!(order(&stats, false), [1, 2, 3, 5, 6, 0, 4], "without netselect as they are listed");
    }

    #[test]
    fn the_rate_is_only_measured_on_answers_that_are_long_enough() {
        let ms = Duration::from_millis;
        let mut stats = MirrorStats::default();
        let answer = |len, whole| MirrorAnswer {
            bytes: vec![0; len],
            instead: None,
            first_byte: ms(10),
            whole: ms(whole),
        };
        stats.answered(&answer(1000, 20));
        stats.answered(&answer(64 << 10, 11));
        assert_eq!(stats.rate, None);
        stats.answered(&answer(100_000, 110));
        assert_eq!((stats.rate, stats.first_byte), (Some(1_000_000), Some(ms(10))));
    }
}
