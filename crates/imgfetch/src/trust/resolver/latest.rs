//! Which `latest` is used, of those that mirrors and the medium have: signed by a trusted key, of the distribution asked
//! for, never below a serial that was accepted before, the first fresh one or else the newest of those that have
//! expired.

use std::time::Duration;

use super::context::{Context, Memory, Purpose, not_signed, refused};
use super::freshness::{Freshness, freshness};
use super::search::FileSearch;
use super::types::{MirrorAnswer, ResolveError, StorageError, StoredFile};
use formats::fetch_fault::FetchFault as Fault;
use formats::names::{ImageName, Serial};
use formats::release::{Latest, MirrorPath, Release, Verified};

/// With a release on the medium, mirrors are not waited for longer than this.
const WITH_MEDIUM: Duration = Duration::from_secs(5);
/// The mirrors that gave a pinned release are asked for so long whether it was revoked.
const REVOCATION: Duration = Duration::from_secs(10);

/// A release that the user asked for by its serial, and its text.
#[derive(Debug)]
pub(super) struct PinnedRelease {
    pub(super) release: Release,
    pub(super) text: Vec<u8>,
}

/// Which `latest` is wanted, and what for.
#[derive(Debug)]
pub(super) struct LatestQuestion {
    name: Option<ImageName>,
    strict: bool,
    until: Duration,
    /// It is to say whether this release was revoked; `None`: which release is the newest.
    pub(super) pinned: Option<PinnedRelease>,
    /// What the cache remembers as revoked, if a release is pinned.
    pub(super) revoked_below: Option<Serial>,
}

impl LatestQuestion {
    pub(super) fn newest(ctx: &Context) -> Self {
        let name = ctx.request.name.clone();
        LatestQuestion {
            name,
            strict: ctx.request.strict,
            until: ctx.until(),
            pinned: None,
            revoked_below: None,
        }
    }

    /// Whether the release was revoked. One that may be stale can still say so.
    pub(super) fn revocation(ctx: &Context, pinned: PinnedRelease) -> Self {
        let until = ctx.until().min(ctx.now.elapsed + REVOCATION);
        LatestQuestion {
            name: Some(pinned.release.name.clone()),
            strict: false,
            until,
            pinned: Some(pinned),
            revoked_below: None,
        }
    }

    /// The `latest` of the medium, if it may be used. However old: there is no other. The outer `None`: it is being read.
    pub(super) fn of_medium(&mut self, ctx: &mut Context) -> Option<Option<Latest>> {
        if let Some(pinned) = &self.pinned {
            let memory = ctx.memory(&pinned.release.name)?;
            self.revoked_below = memory.ok().and_then(|memory| memory.min_serial());
        }
        let Some(text) = ctx.stored_bytes(StoredFile::Medium(MirrorPath::Latest))? else {
            return Some(None);
        };
        let latest = match Verified::<Latest>::open(&text, &ctx.keys).map_err(not_signed) {
            Ok(latest) => latest.into_inner(),
            Err(fault) => {
                ctx.warn(format!("medium: {fault}; not used"));
                return Some(None);
            }
        };
        let Ok(memory) = ctx.memory(&latest.name)? else { return Some(None) };
        if let Some(text) = memory.contradicts(&latest) {
            ctx.warn(format!("medium: {text}; not used"));
            return Some(None);
        }
        if let Some(name) = self.name.as_ref().filter(|name| **name != latest.name) {
            ctx.warn(format!("medium: {}; not used", other_name(&latest.name, name)));
            return Some(None);
        }
        if let Some(accepted) = memory.serial.filter(|accepted| *accepted > latest.serial) {
            let serial = latest.serial;
            ctx.warn(format!("medium: has release {serial}, but {accepted} was already used; not used"));
            return Some(None);
        }
        if self.strict && freshness(&latest, ctx.now.wall) != Freshness::Fresh {
            ctx.warn(format!("medium: release {} may be stale; not used (--strict)", latest.serial));
            return Some(None);
        }
        Some(Some(latest))
    }
}

/// The search for `latest`.
#[derive(Debug)]
pub(super) struct LatestSearch {
    pub(super) question: LatestQuestion,
    pub(super) search: FileSearch,
    of_medium: Option<Latest>,
    /// The last one that was taken.
    taken: Option<(Latest, Vec<u8>)>,
    /// The highest of those that have expired.
    expired: Option<(Latest, Vec<u8>)>,
    /// The serial that was accepted before can't be read.
    unreadable: Option<StorageError>,
    /// Whether the user knows that.
    warned: bool,
    /// Answers that came before it was read which serial was accepted: mirror, answer, distribution.
    unjudged: Vec<(usize, MirrorAnswer, ImageName)>,
}

impl LatestSearch {
    /// Begins. With a medium, mirrors are asked once, and not waited for.
    pub(super) fn begin(ctx: &mut Context, question: LatestQuestion, of_medium: Option<Latest>) -> Self {
        let until = match of_medium {
            Some(_) => question.until.min(ctx.now.elapsed + WITH_MEDIUM),
            None => question.until,
        };
        let search = FileSearch::begin(ctx, MirrorPath::Latest, None, Purpose::Search, until);
        LatestSearch {
            question,
            search,
            of_medium,
            taken: None,
            expired: None,
            unreadable: None,
            warned: false,
            unjudged: Vec::new(),
        }
    }

    /// Whether there is something to use, so that mirrors are not asked again.
    pub(super) fn has_enough(&self) -> bool {
        self.of_medium.is_some() || self.expired.is_some()
    }

    /// Takes what a mirror sent, if it may be used.
    pub(super) fn judge(&mut self, ctx: &mut Context, bytes: &[u8]) -> Result<(), Fault> {
        let latest = Verified::<Latest>::open(bytes, &ctx.keys).map_err(not_signed)?.into_inner();
        if let Some(name) = self.question.name.as_ref().filter(|name| **name != latest.name) {
            return Err(refused(format!("latest: {}", other_name(&latest.name, name))));
        }
        match ctx.memory(&latest.name).unwrap_or_else(|| Ok(Memory::default())) {
            Ok(memory) => {
                if let Some(accepted) = memory.serial.filter(|accepted| latest.serial < *accepted) {
                    return Err(rollback(latest.serial, accepted));
                }
                if let Some(text) = memory.contradicts(&latest) {
                    return Err(refused(text));
                }
            }
            Err(error) if self.question.strict => {
                let text = error.to_string();
                self.unreadable = Some(error);
                return Err(refused(text));
            }
            // A disk that fails must not keep a machine from booting.
            Err(error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    ctx.warn(format!(
                        "{error}; an older release would not be noticed (with --strict the client stops instead)"
                    ));
                }
            }
        }
        let best = self.taken.as_ref().map(|(taken, _)| taken.serial);
        if let Some(newer) = best.filter(|newer| latest.serial < *newer) {
            return Err(refused(format!("offers release {}, but another mirror has {newer}", latest.serial)));
        }
        match freshness(&latest, ctx.now.wall) {
            Freshness::Fresh => self.taken = Some((latest, bytes.to_vec())),
            doubt if self.question.strict => return Err(refused(format!("{doubt}; refused (--strict)"))),
            // Nothing can be compared with a clock that is wrong.
            doubt @ Freshness::Unknown { .. } => {
                if best != Some(latest.serial) {
                    ctx.warn(format!("{doubt}; continuing"));
                }
                self.taken = Some((latest, bytes.to_vec()));
            }
            doubt @ Freshness::Expired { .. } => {
                if self.expired.as_ref().is_none_or(|(known, _)| known.serial < latest.serial) {
                    self.expired = Some((latest, bytes.to_vec()));
                }
                return Err(refused(doubt.to_string()));
            }
        }
        Ok(())
    }

    /// Keeps an answer for later, if it is not known yet what was accepted before.
    pub(super) fn put_off(
        &mut self,
        ctx: &mut Context,
        mirror: usize,
        answer: Result<MirrorAnswer, Fault>,
    ) -> Option<Result<MirrorAnswer, Fault>> {
        let Ok(sent) = &answer else { return Some(answer) };
        let Ok(latest) = Verified::<Latest>::open(&sent.bytes, &ctx.keys) else { return Some(answer) };
        if ctx.memory(&latest.name).is_some() {
            return Some(answer);
        }
        let name = latest.into_inner().name;
        self.unjudged.extend(answer.ok().map(|answer| (mirror, answer, name)));
        None
    }

    /// An answer that was put off and can be judged now.
    pub(super) fn take_put_off(&mut self, ctx: &mut Context) -> Option<(usize, MirrorAnswer)> {
        let known = |(_, _, name): &(_, _, ImageName)| ctx.memory(name).is_some();
        let place = self.unjudged.iter().position(known)?;
        let (mirror, answer, _) = self.unjudged.remove(place);
        Some((mirror, answer))
    }

    /// The search is over, with this error if no `latest` was taken: which one is used, and what it was wanted for.
    pub(super) fn conclude(
        self,
        ctx: &mut Context,
        error: Option<ResolveError>,
    ) -> (LatestQuestion, Result<Latest, ResolveError>) {
        ctx.retire_search();
        let found = match (error, self.taken, self.expired, self.unreadable) {
            (None, Some((latest, text)), ..) => {
                ctx.remember(&latest, &text);
                Ok(latest)
            }
            (_, _, Some((latest, text)), _) => {
                ctx.remember(&latest, &text);
                let (serial, date) = (latest.serial, latest.expires.date());
                ctx.warn(format!(
                    "latest: release {serial} has expired on {date}, and no mirror has a newer one; using it"
                ));
                Ok(latest)
            }
            (_, _, None, Some(error)) => Err(ResolveError::State(error)),
            (Some(error), _, None, None) => Err(error),
            (None, None, None, None) => Err(nothing(MirrorPath::Latest)),
        };
        let Some(own) = self.of_medium else { return (self.question, found) };
        match found {
            Ok(latest) if latest.serial >= own.serial => return (self.question, Ok(latest)),
            Ok(latest) => {
                let (theirs, own) = (latest.serial, own.serial);
                ctx.warn(format!("the mirrors have release {theirs}, the medium has the newer release {own}; using the medium's"));
            }
            Err(error) => ctx.warn(format!("{error}; continuing with the medium's release {}", own.serial)),
        }
        (self.question, Ok(own))
    }
}

fn other_name(found: &ImageName, asked: &ImageName) -> String {
    format!("is of distribution `{found}`; `{asked}` was asked for")
}

/// What is said of a mirror that offers a release below the one that was accepted.
fn rollback(offered: Serial, accepted: Serial) -> Fault {
    refused(format!(
        "offers release {offered}, but {accepted} was already used; older releases are refused (to use it anyway: \
         --release {offered})"
    ))
}

/// No mirror was asked.
pub(super) fn nothing(path: MirrorPath) -> ResolveError {
    ResolveError::NoMirror {
        file: path.to_string(),
        faults: Vec::new(),
        hope: false,
        network: false,
        refused: false,
    }
}
