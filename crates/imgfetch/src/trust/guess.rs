//! What is asked for before it is known to be wanted. From `latest` to the first block it would otherwise be one round
//! trip after the other: release, index, prefetch list. Their names can be guessed, and what they are is proved later
//! all the same; a guess that was wrong costs a small request.

use std::sync::Arc;
use std::time::Instant;

use super::seek::Round;
use super::{Origin, Wanted};
use crate::cache::Cache;
use crate::threads::{Coming, work_out};
use formats::fetch_fault::FetchFault as Fault;
use formats::release::{Document, Latest, Leaf, MirrorPath, Mirrors};
use system::http::{Answer, Get};

/// A larger file is not fetched on a guess.
const MOST: u64 = 4 << 20;

/// A file on its way.
pub(super) struct Guess {
    path: MirrorPath,
    /// Whom we asked.
    place: usize,
    coming: Coming<Result<Answer, Fault>>,
}

/// What is on its way.
#[derive(Default)]
pub(super) struct Guessed {
    pub(super) index: Option<Guess>,
    pub(super) list: Option<Guess>,
}

impl Origin {
    /// Asks the first mirror for the list of mirrors, whose name is always the same.
    pub(super) fn begin_early(&self) -> Option<Coming<Vec<u8>>> {
        let url = format!("{}{}", self.mirrors.first()?, MirrorPath::Mirrors);
        let (http, until) = (Arc::clone(&self.http), self.until);
        let fetch = move || {
            // It changes: what lies in a cache on the way may be old.
            let get = Get { fresh: true, ..Get::new(&url, Mirrors::LIMIT, until) };
            Some(http.get(get).ok()?.bytes)
        };
        Some(work_out("early", fetch))
    }

    /// Asks the best mirror for the index and the prefetch list, as they are called when the image is new in this
    /// release. Not when there may be something in the cache.
    pub(super) fn guess(&self, wanted: &Wanted, latest: &Latest) -> Guessed {
        let kept =
            |cache: &Cache| cache.has_medium() || cache.saved_index(&latest.name, &wanted.image).is_some();
        if self.cache.as_deref().is_some_and(kept) {
            return Guessed::default();
        }
        let begin = |leaf| self.begin(MirrorPath::Image(wanted.image.clone(), latest.serial, leaf));
        Guessed { index: begin(Leaf::Index), list: begin(Leaf::Dlahead) }
    }

    fn begin(&self, path: MirrorPath) -> Option<Guess> {
        let place = *self.ordered().first()?;
        let url = format!("{}{path}", self.mirrors.get(place)?);
        let http = Arc::clone(&self.http);
        // Others must have time, too.
        let until = Instant::now() + self.until.saturating_duration_since(Instant::now()) / 2;
        let get = move || Some(http.get(Get::new(&url, MOST, until)));
        Some(Guess { path, place, coming: work_out("guess", get) })
    }

    /// What a guess brought, if it was right.
    pub(super) fn guessed<T>(
        &self,
        path: &MirrorPath,
        guess: Option<Guess>,
        open: impl Fn(&[u8]) -> Result<T, Fault>,
    ) -> Option<T> {
        let guess = guess.filter(|guess| guess.path == *path)?;
        let answer = guess.coming.take_until(self.until)??;
        if matches!(answer, Err(Fault::TooLong { .. })) {
            return None;
        }
        let mut found = None;
        let mut keep = |bytes: &[u8]| {
            found = Some(open(bytes)?);
            Ok(())
        };
        self.judge(guess.place, path, answer, &mut keep, &mut Round::default());
        found
    }
}
