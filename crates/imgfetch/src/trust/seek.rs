//! A file from one mirror after the other, or from all at once, until one is good or the time is over.

use std::thread;
use std::time::{Duration, Instant};

use super::race::{Said, race};
use super::{Origin, OriginError, lock};
use formats::fetch_fault::Blame;
use formats::fetch_fault::FetchFault as Fault;
use formats::release::{MirrorPath, MirrorUrl};
use system::http::{Answer, Get};

/// Between two rounds through all mirrors; doubled each time, 2 s at most.
const PAUSE: Duration = Duration::from_millis(200);
/// Mirrors that answer within this of another are about as near.
const ALIKE: Duration = Duration::from_millis(10);
/// While nothing works, a line is said this often.
const NEWS: Duration = Duration::from_secs(10);
/// With a release in the cache, mirrors are not waited for longer than this.
const OFFLINE: Duration = Duration::from_secs(10);

/// Takes the bytes of a file, or says what is wrong with them.
type Open<'a> = dyn FnMut(&[u8]) -> Result<(), Fault> + 'a;

/// What came of asking mirrors once.
#[derive(Default)]
pub(super) struct Round {
    faults: Vec<(MirrorUrl, String)>,
    /// Whether asking again may help.
    hope: bool,
    /// Whether wrong bytes came.
    wrong: bool,
    /// Whether a mirror has something that is to be refused.
    refused: bool,
    /// Mirrors in whose place a web page answered.
    pages: usize,
}

impl Round {
    /// Several mirrors do not turn into web pages at once: there is a login page in the way to all of them, which is
    /// like no network at all.
    fn is_behind_a_page(&self) -> bool {
        self.pages > 1 && !self.refused
    }
}

impl Origin {
    /// Takes a file from the medium and opens it, or fetches it, from one mirror after the other, until `until`.
    pub(super) fn file<T>(
        &self,
        path: &MirrorPath,
        limit: u64,
        len: Option<u64>,
        mut open: impl FnMut(&[u8]) -> Result<T, Fault>,
    ) -> Result<T, OriginError> {
        if let Some(bytes) = self.cache.as_ref().and_then(|cache| cache.on_medium(path, limit))
            && let Ok(opened) = open(&bytes)
        {
            return Ok(opened);
        }
        self.file_or(path, limit, len, open, &|| false)
    }

    /// As `file`, but only one round when there is `enough` after it.
    pub(super) fn file_or<T>(
        &self,
        path: &MirrorPath,
        limit: u64,
        len: Option<u64>,
        mut open: impl FnMut(&[u8]) -> Result<T, Fault>,
        enough: &dyn Fn() -> bool,
    ) -> Result<T, OriginError> {
        let mut found = None;
        let mut keep = |bytes: &[u8]| {
            found = Some(open(bytes)?);
            Ok(())
        };
        self.seek(path, limit, len, &mut keep, enough)?;
        Ok(found.expect("seek returns Ok after an Ok of `keep`"))
    }

    /// As `file_or`, for anything: one copy of it will do.
    fn seek(
        &self,
        path: &MirrorPath,
        limit: u64,
        len: Option<u64>,
        open: &mut Open<'_>,
        enough: &dyn Fn() -> bool,
    ) -> Result<(), OriginError> {
        let mut pause = PAUSE;
        let mut said: Option<Instant> = None;
        let mut fresh = *path == MirrorPath::Latest;
        let start = Instant::now();
        loop {
            let mut round = Round::default();
            let opened = if *path == MirrorPath::Latest && self.netselect && self.mirrors.len() > 1 {
                self.all_at_once(open, &mut round)
            } else {
                self.one_by_one(path, limit, len, fresh, open, &mut round)
            };
            if opened {
                return Ok(());
            }
            fresh |= round.wrong;
            let first = matches!(path, MirrorPath::Latest | MirrorPath::Release(_));
            let offline = first && self.has_release() && start.elapsed() > OFFLINE;
            let behind_a_page = round.is_behind_a_page();
            if !(round.hope || behind_a_page) || enough() || offline || Instant::now() + pause >= self.until {
                let hint = match round.hope {
                    true => "; is the network up, and is the address of the mirror right?",
                    false => "",
                };
                let refused = round.refused;
                return Err(OriginError::NoMirror {
                    file: path.to_string(),
                    faults: round.faults,
                    hint,
                    refused,
                });
            }
            if said.is_none_or(|at| at.elapsed() >= NEWS) {
                said = Some(Instant::now());
                let left = self.until.saturating_duration_since(Instant::now()).as_secs();
                let last = round.faults.last().map(|(mirror, fault)| format!("{mirror}: {fault}"));
                let last = last.unwrap_or_default();
                log::warn!("{path}: no mirror has answered well yet ({last}); trying for {left} s more");
            }
            thread::sleep(pause);
            pause = (2 * pause).min(Duration::from_secs(2));
        }
    }

    fn has_release(&self) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.only_name().is_some())
    }

    fn one_by_one(
        &self,
        path: &MirrorPath,
        limit: u64,
        len: Option<u64>,
        fresh: bool,
        open: &mut Open<'_>,
        round: &mut Round,
    ) -> bool {
        for place in self.ordered() {
            let Some(mirror) = self.mirrors.get(place) else { continue };
            let url = format!("{mirror}{path}");
            // A mirror that keeps silent must leave time for the others.
            let share = self.until.saturating_duration_since(Instant::now()) / 2;
            let until = Instant::now() + share.max(Duration::from_secs(1));
            let answer = self.http.get(Get { len, fresh, ..Get::new(&url, limit, until) });
            if self.judge(place, path, answer, open, round) {
                return true;
            }
        }
        false
    }

    /// Asks all for `latest`. The first that is good is not taken at once: one that is about as near may have a
    /// newer one, and one that stands before it in the list may be as near.
    fn all_at_once(&self, open: &mut Open<'_>, round: &mut Round) -> bool {
        let start = Instant::now();
        let share = self.until.saturating_duration_since(start) / 2;
        let said = race(&self.http, &self.mirrors, start + share.max(Duration::from_secs(1)));
        let mut good = false;
        let mut wait = self.until;
        for _ in 0..self.mirrors.len() {
            match said.take_until(wait) {
                Some(Said { mirror, answer }) => {
                    if self.judge(mirror, &MirrorPath::Latest, answer, open, round) {
                        if !good {
                            let more = (start.elapsed() / 2).clamp(ALIKE, 20 * ALIKE);
                            wait = wait.min(Instant::now() + more);
                        }
                        good = true;
                    }
                }
                None => {
                    *lock(&self.late) = Some(said);
                    return good;
                }
            }
        }
        good
    }

    /// Opens what a mirror said, and remembers how it did.
    pub(super) fn judge(
        &self,
        place: usize,
        path: &MirrorPath,
        answer: Result<Answer, Fault>,
        open: &mut Open<'_>,
        round: &mut Round,
    ) -> bool {
        let mut standings = lock(&self.standings);
        let (Some(mirror), Some(standing)) = (self.mirrors.get(place), standings.get_mut(place)) else {
            return false;
        };
        let opened = answer.and_then(|answer| match open(&answer.bytes) {
            Ok(()) => {
                standing.answered(&answer);
                Ok(())
            }
            Err(_) if answer.web_page => Err(Fault::WebPage),
            Err(fault) => Err(fault),
        });
        if let Err(fault) = &opened {
            standing.failed(fault.blame());
            detail!("{mirror}: {path}: {fault}");
            round.hope |= fault.blame() != Blame::File;
            round.wrong |= fault.is_wrong_bytes();
            round.refused |= fault.is_wrong_bytes() && *fault != Fault::WebPage;
            round.pages += usize::from(*fault == Fault::WebPage);
            round.faults.push((mirror.clone(), fault.to_string()));
        }
        opened.is_ok()
    }
}
