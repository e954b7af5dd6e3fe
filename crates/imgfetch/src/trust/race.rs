//! Mirrors asked all at once: the first good answer starts the boot, and what the others say tells how near they
//! are and whether they are up to date.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::Known;
use crate::threads::{Queue, start};
use formats::fetch_fault::Blame;
use formats::fetch_fault::FetchFault as Fault;
use formats::release::{MAX_LATEST, MirrorPath, MirrorUrl};
use system::http::{Answer, Get, Http};

/// What one mirror said to the question for `latest`.
#[derive(Debug)]
pub(super) struct Said {
    /// Its place in the list.
    pub(super) mirror: usize,
    /// Its answer; nothing is verified.
    pub(super) answer: Result<Answer, Fault>,
}

/// Asks each mirror for `latest`, all at the same time; each says something.
pub(super) fn race(http: &Arc<Http>, mirrors: &[MirrorUrl], until: Instant) -> Arc<Queue<Said>> {
    let said = Arc::<Queue<Said>>::default();
    for (mirror, url) in mirrors.iter().enumerate() {
        let (http, told, url) = (Arc::clone(http), Arc::clone(&said), format!("{url}{}", MirrorPath::Latest));
        let ask = move || {
            let get = Get { fresh: true, ..Get::new(&url, MAX_LATEST, until) };
            told.put(Said { mirror, answer: http.get(get) });
        };
        if let Err(error) = start("netselect", ask) {
            said.put(Said { mirror, answer: Err(Fault::Unreachable(error.to_string())) });
        }
    }
    said
}

/// What is known of each mirror, for the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    pub(super) first_byte: Option<Duration>,
    pub(super) rate: Option<u64>,
    /// Whether it had what it ought to.
    pub(super) good: bool,
    pub(super) blame: Option<Blame>,
}

impl Standing {
    pub(super) fn known(&self) -> Known {
        Known { most: None, first_byte: self.first_byte, rate: self.rate, blame: self.blame }
    }

    /// Something came well.
    pub(super) fn answered(&mut self, answer: &Answer) {
        self.good = true;
        self.blame = None;
        self.first_byte = Some(self.first_byte.map_or(answer.first_byte, |best| best.min(answer.first_byte)));
        let body = answer.whole.saturating_sub(answer.first_byte);
        if answer.bytes.len() >= 64 << 10 && body > Duration::from_millis(2) {
            let millis = u64::try_from(body.as_millis()).unwrap_or(u64::MAX);
            self.rate = Some(answer.bytes.len() as u64 * 1000 / millis.max(1));
        }
    }

    pub(super) fn failed(&mut self, blame: Blame) {
        self.good = false;
        self.blame = Some(blame);
    }
}

/// Places of the mirrors in the order in which they are to be asked: those that answered well, the fastest first,
/// then those not heard of, then those that failed. Equals stay as they were.
pub(super) fn order(standings: &[Standing]) -> Vec<usize> {
    let rank = |place: usize| {
        let Standing { first_byte, good, blame, .. } = &standings[place];
        (!good, blame.is_some(), first_byte.filter(|_| *good).unwrap_or(Duration::MAX))
    };
    let mut order: Vec<usize> = Vec::new();
    for place in 0..standings.len() {
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
        let good = |time| Standing { first_byte: Some(ms(time)), good: true, ..Standing::default() };
        let failed = Standing { blame: Some(Blame::Mirror), ..Standing::default() };
        let standings = [failed.clone(), good(80), Standing::default(), good(20), failed, good(50)];
        assert_eq!(order(&standings), [3, 5, 1, 2, 0, 4]);
    }
}
