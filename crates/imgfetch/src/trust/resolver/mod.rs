//! From keys and mirrors to the index of one image: `latest` -> release -> index, each verified by the one before it.
//! All of the protocol is here, and nothing else: no socket, no file, no thread, no clock.
//!
//! ```text
//! search        one file from many mirrors: rounds, pauses, login pages, when to give up
//! latest        which `latest` is used: rollback, freshness, min-serial, the medium's
//! succession    from the trusted keys to their successors     offline   the release in the cache
//! early         what is fetched before it is known to be wanted, and beside
//! context       requests in flight, what was read, what is to do
//! ```

mod context;
mod early;
mod freshness;
mod latest;
mod mirror_stats;
mod offline;
mod phase;
mod search;
#[cfg(test)]
pub(super) mod sim;
mod succession;
#[cfg(test)]
mod tests;
mod types;

use std::time::Duration;

use formats::fetch_fault::FetchFault as Fault;
use formats::index::Index;
use formats::names::Serial;
use formats::release::{ImageFiles, Latest, MirrorPath, Release, Verified};

use context::{Context, Memory, Purpose, not_signed, overdue};
use early::{EarlyFile, MirrorListFetch, PrefetchListFetch};
use latest::{LatestQuestion, LatestSearch, PinnedRelease, nothing};
pub use mirror_stats::MirrorStats;
use offline::from_cache;
use phase::{FileStep, IndexFetch, IndexStep, NewestRelease, Phase, Turn, search};
use search::Progress;
use succession::Succession;
pub use types::{
    GetId, MirrorAnswer, MirrorGet, Now, ResolveError, ResolveRequest, Resolved, StorageError, StoredContent,
    StoredFile, TrustAction, TrustEvent,
};

/// Resolves a request: finds the release to use and the index of its image.
///
/// # Contract
/// After [`Resolver::new`] and after each call of [`Resolver::handle_event`] or [`Resolver::handle_timeout`]:
///
/// 1. call [`Resolver::poll_action`] until it gives `None`, and carry out each action in this order. Each
///    [`TrustAction::Get`] is followed by exactly one [`TrustEvent::Answer`], by its `until`; each
///    [`TrustAction::Read`] by one [`TrustEvent::Stored`]; each [`TrustAction::AcceptSerial`] by one
///    [`TrustEvent::SerialAccepted`]. Events may come in any order, and not before the actions are drained.
/// 2. If [`Resolver::is_finished`], stop; events that still come are passed over.
/// 3. Otherwise wait for an event, but no longer than until [`Resolver::poll_timeout`], and then call
///    [`Resolver::handle_timeout`]. Without a timeout an event must be on its way.
///
/// Time never goes back. An early `handle_timeout` does nothing.
///
/// # Promises
/// Whatever mirrors, cache and medium hold:
///
/// * there is exactly one outcome: [`TrustAction::Resolved`] or [`TrustAction::Failed`];
/// * it comes within `start_within`, but for the last second of each of three files: a mirror that is asked in time
///   has a second to answer, and half a second later its request is taken for failed;
/// * what is resolved has a signature of a trusted key or of its successor, down to the index;
/// * unless it is pinned, it is not below the serial that was accepted before; its serial is remembered before it is
///   resolved, if there is a cache that can be written. A pinned release is not below the `min-serial` of a `latest`
///   that can be had;
/// * from the first request to the outcome there are two round trips, when mirrors answer well.
#[derive(Debug)]
pub struct Resolver {
    ctx: Context,
    phase: Phase,
    mirror_list: MirrorListFetch,
    prefetch_list: PrefetchListFetch,
}

impl Resolver {
    /// Begins, at this time.
    pub fn new(request: ResolveRequest, now: Now) -> Self {
        let mut resolver = Resolver {
            ctx: Context::new(request, now),
            phase: Phase::Over,
            mirror_list: MirrorListFetch::default(),
            prefetch_list: PrefetchListFetch::default(),
        };
        resolver.phase = match resolver.ctx.request.mirrors.is_empty() {
            true => resolver.fail(nothing(MirrorPath::Latest)),
            false => resolver.begin(),
        };
        resolver.advance();
        resolver
    }

    /// Takes note of what happened.
    pub fn handle_event(&mut self, now: Now, event: TrustEvent) {
        self.ctx.now = now;
        match event {
            TrustEvent::Answer { id, result } => self.answered(id, result),
            TrustEvent::Stored { file, content } => self.ctx.read(&file, content),
            TrustEvent::SerialAccepted(result) => self.serial_accepted(result),
        }
        self.advance();
    }

    /// Takes note of the time.
    pub fn handle_timeout(&mut self, now: Now) {
        self.ctx.now = now;
        while let Some(id) = self.ctx.overdue() {
            self.answered(id, Err(overdue()));
        }
        if let Some(progress) = self.phase.search_mut().map(|search| search.timeout(&mut self.ctx)) {
            self.searched(progress);
        }
        self.prefetch_list.timeout(&mut self.ctx);
        self.advance();
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<TrustAction> {
        self.ctx.actions.pop_front()
    }

    /// When [`Resolver::handle_timeout`] is to be called, as [`Now::elapsed`].
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.is_finished() {
            return None;
        }
        let search = self.phase.search().and_then(|search| search.next_timeout());
        let times = [self.ctx.next_overdue(), search, self.prefetch_list.next_timeout()];
        times.into_iter().flatten().min()
    }

    /// Whether there is an outcome and nothing follows.
    pub fn is_finished(&self) -> bool {
        let over = matches!(self.phase, Phase::Over);
        over && self.mirror_list.is_idle() && self.prefetch_list.is_idle() && self.ctx.actions.is_empty()
    }

    /// How the mirrors did so far, in their order.
    pub fn mirror_stats(&self) -> &[MirrorStats] {
        &self.ctx.stats
    }

    /// With the keys as they are now.
    fn begin(&mut self) -> Phase {
        self.ctx.forget_requests();
        self.mirror_list = MirrorListFetch::Idle;
        self.prefetch_list = PrefetchListFetch::Idle;
        match self.ctx.request.release {
            Some(serial) => Phase::Pinned(serial, FileStep::Medium),
            None => {
                self.mirror_list = MirrorListFetch::begin(&mut self.ctx);
                Phase::MediumLatest(LatestQuestion::newest(&self.ctx))
            }
        }
    }

    /// Goes on as far as what is known allows.
    fn advance(&mut self) {
        loop {
            let phase = std::mem::replace(&mut self.phase, Phase::Over);
            match self.look(phase) {
                Turn::Next(phase) => self.phase = phase,
                Turn::Wait(phase) => {
                    self.phase = phase;
                    break;
                }
            }
        }
        self.prefetch_list.advance(&mut self.ctx);
        if let Phase::Over = self.phase {
            self.mirror_list.deliver(&mut self.ctx);
            self.prefetch_list.deliver(&mut self.ctx);
        }
    }

    fn look(&mut self, phase: Phase) -> Turn {
        match phase {
            Phase::MediumLatest(question) => self.medium_latest(question),
            Phase::Latest(latest) => self.judge_put_off(latest),
            Phase::Newest(newest) => self.newest_release(newest),
            Phase::Pinned(serial, FileStep::Medium) => self.pinned_release(serial),
            Phase::Index(index) => self.index(index),
            Phase::Offline(error) => match from_cache(&mut self.ctx) {
                None => Turn::Wait(Phase::Offline(error)),
                Some(None) => Turn::Next(self.follow_keys(error)),
                Some(Some(resolved)) => {
                    let (serial, date) = (resolved.release.serial, resolved.release.published.date());
                    self.ctx.warn(format!("{error}; continuing with the cached release {serial} of {date}"));
                    self.prefetch_list = PrefetchListFetch::begin(&resolved.files, None);
                    Turn::Next(self.resolve(Box::new(resolved)))
                }
            },
            Phase::Succession(succession) if succession.is_over() => {
                self.ctx.followed = true;
                Turn::Next(match succession.conclude(&self.ctx) {
                    Ok(keys) => {
                        self.ctx.trust(keys);
                        self.begin()
                    }
                    // Other mirrors may still come to send what the trusted keys have signed.
                    Err(ResolveError::NoMirror { hope: true, .. })
                        if self.ctx.now.elapsed < self.ctx.until() =>
                    {
                        self.begin()
                    }
                    Err(error) => self.fail(error),
                })
            }
            waiting => Turn::Wait(waiting),
        }
    }

    fn medium_latest(&mut self, mut question: LatestQuestion) -> Turn {
        match question.of_medium(&mut self.ctx) {
            None => Turn::Wait(Phase::MediumLatest(question)),
            Some(of_medium) => {
                let search = LatestSearch::begin(&mut self.ctx, question, of_medium);
                Turn::Wait(Phase::Latest(Box::new(search)))
            }
        }
    }

    fn judge_put_off(&mut self, mut latest: Box<LatestSearch>) -> Turn {
        match latest.take_put_off(&mut self.ctx) {
            Some((mirror, answer)) => Turn::Next(self.judge_latest(latest, mirror, Ok(answer))),
            None => Turn::Wait(Phase::Latest(latest)),
        }
    }

    fn judge_latest(
        &mut self,
        mut latest: Box<LatestSearch>,
        mirror: usize,
        answer: Result<MirrorAnswer, Fault>,
    ) -> Phase {
        let judge = |ctx: &mut Context, bytes: &[u8]| latest.judge(ctx, bytes);
        let progress = match self.ctx.judge(mirror, &MirrorPath::Latest, answer, judge) {
            Ok(()) => latest.search.good(&self.ctx),
            Err(fault) => {
                let enough = latest.has_enough();
                latest.search.failed(&mut self.ctx, mirror, &fault, enough)
            }
        };
        self.latest_searched(latest, progress)
    }

    fn latest_searched(&mut self, latest: Box<LatestSearch>, progress: Progress) -> Phase {
        let error = match progress {
            Progress::Going => return Phase::Latest(latest),
            Progress::Found => None,
            Progress::GaveUp(error) => Some(error),
        };
        let (question, found) = latest.conclude(&mut self.ctx, error);
        match (question.pinned, found) {
            (Some(pinned), found) => self.not_revoked(pinned, question.revoked_below, found),
            (None, Err(error)) => self.no_release(error),
            (None, Ok(latest)) => {
                self.mirror_list.expect(&mut self.ctx, &latest);
                let (asked_early, early_index, early_list, step) = (false, None, None, FileStep::Medium);
                Phase::Newest(Box::new(NewestRelease { latest, asked_early, early_index, early_list, step }))
            }
        }
    }

    /// Looks for the release that `latest` names, and meanwhile for what it will probably name.
    fn newest_release(&mut self, mut newest: Box<NewestRelease>) -> Turn {
        if !newest.asked_early {
            let Some([index, list]) = EarlyFile::ask_both(&mut self.ctx, &newest.latest) else {
                return Turn::Wait(Phase::Newest(newest));
            };
            (newest.asked_early, newest.early_index, newest.early_list) = (true, index, list);
        }
        if let FileStep::Mirrors(_) = newest.step {
            return Turn::Wait(Phase::Newest(newest));
        }
        let path = newest.latest.release_path();
        let Some(bytes) = self.ctx.stored_bytes(StoredFile::Medium(path.clone())) else {
            return Turn::Wait(Phase::Newest(newest));
        };
        let open = |bytes: &[u8]| open_newest(&self.ctx, &newest.latest, bytes).ok();
        if let Some((release, bytes)) = bytes.and_then(|bytes| Some((open(&bytes)?, bytes))) {
            return Turn::Next(self.newest_found(*newest, release, &bytes));
        }
        let len = Some(newest.latest.release.len);
        newest.step = FileStep::Mirrors(search(&mut self.ctx, path, len));
        Turn::Wait(Phase::Newest(newest))
    }

    fn newest_found(&mut self, newest: NewestRelease, release: Release, text: &[u8]) -> Phase {
        let NewestRelease { latest, early_index, early_list, .. } = newest;
        self.keep(&release, text);
        self.release_found(release, Some(latest), early_index, early_list)
    }

    fn pinned_release(&mut self, serial: Serial) -> Turn {
        let path = MirrorPath::Release(serial);
        let Some(bytes) = self.ctx.stored_bytes(StoredFile::Medium(path.clone())) else {
            return Turn::Wait(Phase::Pinned(serial, FileStep::Medium));
        };
        if let Some(Ok(pinned)) = bytes.map(|bytes| open_pinned(&self.ctx, serial, &bytes)) {
            return Turn::Next(self.pinned_found(pinned));
        }
        let search = search(&mut self.ctx, path, None);
        Turn::Wait(Phase::Pinned(serial, FileStep::Mirrors(search)))
    }

    fn pinned_found(&mut self, pinned: PinnedRelease) -> Phase {
        Phase::MediumLatest(LatestQuestion::revocation(&self.ctx, pinned))
    }

    /// The pinned release is used, unless the newest `latest` says that it must not be, or one that was accepted before.
    /// Without both it is not known.
    fn not_revoked(
        &mut self,
        pinned: PinnedRelease,
        revoked_below: Option<Serial>,
        latest: Result<Latest, ResolveError>,
    ) -> Phase {
        let PinnedRelease { release, text } = pinned;
        let serial = release.serial;
        if let Some(min) = revoked_below.filter(|min| serial < *min) {
            return self.fail(ResolveError::Revoked { serial, min });
        }
        match latest {
            Ok(latest) if serial < latest.min_serial => {
                return self.fail(ResolveError::Revoked { serial, min: latest.min_serial });
            }
            Ok(_) => {}
            Err(error) => {
                self.ctx.detail(format!("can't check whether release {serial} was revoked: {error}"));
            }
        }
        self.keep(&release, &text);
        self.release_found(release, None, None, None)
    }

    /// For when there is no network: this is the release that was used last.
    fn keep(&mut self, release: &Release, text: &[u8]) {
        let without = "without a network this release can't be used";
        self.ctx.save(StoredFile::Release(release.name.clone()), text, without);
    }

    fn release_found(
        &mut self,
        release: Release,
        latest: Option<Latest>,
        early: Option<EarlyFile>,
        early_list: Option<EarlyFile>,
    ) -> Phase {
        let image = &self.ctx.request.image;
        let Some(files) = release.image(image).cloned() else {
            let (name, serial, image) = (release.name.clone(), release.serial, image.clone());
            let has = release.images.iter().map(|image| image.name.clone()).collect();
            return self.fail(ResolveError::NoImage { name, serial, image, has });
        };
        self.prefetch_list = PrefetchListFetch::begin(&files, early_list);
        Phase::Index(Box::new(IndexFetch { release, files, latest, early, step: IndexStep::Cache }))
    }

    /// The index: the one in the cache if it is still the right one, what was asked for early, the medium's, a mirror's.
    fn index(&mut self, mut fetch: Box<IndexFetch>) -> Turn {
        let path = fetch.files.index_path();
        match &fetch.step {
            IndexStep::Cache => {
                let file = StoredFile::Index(fetch.release.name.clone(), fetch.files.name.clone());
                let Some(bytes) = self.ctx.stored_bytes(file) else {
                    return Turn::Wait(Phase::Index(fetch));
                };
                if let Some(Ok(index)) = bytes.map(|bytes| fetch.files.open_index(&bytes)) {
                    return Turn::Next(self.index_found(*fetch, index));
                }
                fetch.step = IndexStep::Early;
            }
            IndexStep::Early => {
                if let Some(early) = fetch.early.take().filter(|early| early.is(&path)) {
                    if early.answer.is_none() {
                        fetch.early = Some(early);
                        return Turn::Wait(Phase::Index(fetch));
                    }
                    let open = |ctx: &mut Context, bytes: &[u8]| open_index(ctx, &fetch, bytes);
                    if let Some(index) = early.open(&mut self.ctx, open) {
                        return Turn::Next(self.index_found(*fetch, index));
                    }
                }
                fetch.step = IndexStep::Medium;
            }
            IndexStep::Medium => {
                let Some(bytes) = self.ctx.stored_bytes(StoredFile::Medium(path.clone())) else {
                    return Turn::Wait(Phase::Index(fetch));
                };
                if let Some(Ok(index)) = bytes.map(|bytes| open_index(&mut self.ctx, &fetch, &bytes)) {
                    return Turn::Next(self.index_found(*fetch, index));
                }
                let len = Some(fetch.files.index.digest.len);
                fetch.step = IndexStep::Mirrors(search(&mut self.ctx, path, len));
            }
            IndexStep::Mirrors(_) => return Turn::Wait(Phase::Index(fetch)),
        }
        Turn::Next(Phase::Index(fetch))
    }

    fn index_found(&mut self, fetch: IndexFetch, index: Index) -> Phase {
        let IndexFetch { release, files, latest, .. } = fetch;
        let (mirrors_follow, list_follows) = (latest.is_some(), files.dlahead.is_some());
        let (name, serial) = (release.name.clone(), release.serial);
        let resolved = Box::new(Resolved { release, files, index, latest, mirrors_follow, list_follows });
        if !self.ctx.request.has_cache {
            self.ctx.detail(format!("no cache, so release {serial} is not stored as the newest accepted"));
            return self.resolve(resolved);
        }
        let restart = matches!(self.ctx.memory(&name), Some(Ok(Memory { restart: true, .. })));
        self.ctx.actions.push_back(TrustAction::AcceptSerial { name, serial, restart });
        Phase::Remember(resolved)
    }

    fn serial_accepted(&mut self, result: Result<(), StorageError>) {
        self.phase = match (std::mem::replace(&mut self.phase, Phase::Over), result) {
            (Phase::Remember(resolved), Err(source)) if self.ctx.request.strict => {
                self.fail(ResolveError::NotRemembered { serial: resolved.release.serial, source })
            }
            (Phase::Remember(resolved), result) => {
                if let Err(error) = result {
                    let text = format!("{error}; an older release would not be noticed the next time");
                    self.ctx.warn(text);
                }
                self.resolve(resolved)
            }
            (other, _) => other,
        };
    }

    /// No release was found: perhaps the cache has one. But a mirror that answers with something that is refused is no
    /// dead network.
    fn no_release(&mut self, error: ResolveError) -> Phase {
        match error {
            ResolveError::NoMirror { refused: false, .. } if self.ctx.request.has_cache => {
                Phase::Offline(error)
            }
            error => self.follow_keys(error),
        }
    }

    /// Perhaps the publisher has another key by now, and the one that we know says so.
    fn follow_keys(&mut self, error: ResolveError) -> Phase {
        if self.ctx.followed || !matches!(error, ResolveError::NoMirror { .. }) {
            return self.fail(error);
        }
        Phase::Succession(Box::new(Succession::begin(&mut self.ctx, error)))
    }

    fn resolve(&mut self, resolved: Box<Resolved>) -> Phase {
        if !resolved.mirrors_follow {
            self.mirror_list = MirrorListFetch::Idle;
        }
        self.ctx.actions.push_back(TrustAction::Resolved(resolved));
        self.ctx.forget_stored();
        Phase::Over
    }

    fn fail(&mut self, error: ResolveError) -> Phase {
        self.mirror_list = MirrorListFetch::Idle;
        self.prefetch_list = PrefetchListFetch::Idle;
        self.ctx.actions.push_back(TrustAction::Failed(error));
        Phase::Over
    }

    fn answered(&mut self, id: GetId, result: Result<MirrorAnswer, Fault>) {
        let Some((purpose, mirror)) = self.ctx.answered(id) else { return };
        match purpose {
            Purpose::Search => self.search_answered(mirror, result),
            Purpose::Late => {
                let open = |ctx: &mut Context, bytes: &[u8]| {
                    Verified::<Latest>::open(bytes, &ctx.keys).map(drop).map_err(not_signed)
                };
                // Only the statistics are of interest.
                let _ = self.ctx.judge(mirror, &MirrorPath::Latest, result, open);
            }
            Purpose::Rotation => {
                if let Phase::Succession(succession) = &mut self.phase {
                    succession.answered(&mut self.ctx, mirror, result);
                }
            }
            Purpose::EarlyMirrorList => self.mirror_list.answered_early(&mut self.ctx, result),
            Purpose::MirrorList => self.mirror_list.answered(&mut self.ctx, mirror, result),
            Purpose::EarlyIndex => {
                let early = match &mut self.phase {
                    Phase::Newest(newest) => newest.early_index.as_mut(),
                    Phase::Index(index) => index.early.as_mut(),
                    _ => None,
                };
                if let Some(early) = early {
                    early.answer = Some(result);
                }
            }
            Purpose::EarlyList => match &mut self.phase {
                Phase::Newest(newest) => {
                    if let Some(early) = &mut newest.early_list {
                        early.answer = Some(result);
                    }
                }
                _ => self.prefetch_list.answered_early(result),
            },
            Purpose::List => self.prefetch_list.answered(&mut self.ctx, mirror, result),
        }
    }

    /// An answer to the search of the phase.
    fn search_answered(&mut self, mirror: usize, result: Result<MirrorAnswer, Fault>) {
        let ctx = &mut self.ctx;
        self.phase = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Latest(mut latest) => match latest.put_off(ctx, mirror, result) {
                Some(result) => self.judge_latest(latest, mirror, result),
                None => Phase::Latest(latest),
            },
            Phase::Newest(newest) => {
                let (mut text, path) = (Vec::new(), newest.latest.release_path());
                let opened = ctx.judge(mirror, &path, result, |ctx, bytes| {
                    text = bytes.to_vec();
                    open_newest(ctx, &newest.latest, bytes)
                });
                match opened {
                    Ok(release) => self.newest_found(*newest, release, &text),
                    Err(fault) => self.search_failed(Phase::Newest(newest), mirror, &fault),
                }
            }
            Phase::Pinned(serial, step) => {
                let path = MirrorPath::Release(serial);
                match ctx.judge(mirror, &path, result, |ctx, bytes| open_pinned(ctx, serial, bytes)) {
                    Ok(pinned) => self.pinned_found(pinned),
                    Err(fault) => self.search_failed(Phase::Pinned(serial, step), mirror, &fault),
                }
            }
            Phase::Index(fetch) => {
                let path = fetch.files.index_path();
                match ctx.judge(mirror, &path, result, |ctx, bytes| open_index(ctx, &fetch, bytes)) {
                    Ok(index) => self.index_found(*fetch, index),
                    Err(fault) => self.search_failed(Phase::Index(fetch), mirror, &fault),
                }
            }
            other => other,
        };
    }

    fn search_failed(&mut self, mut phase: Phase, mirror: usize, fault: &Fault) -> Phase {
        match phase.search_mut().map(|search| search.failed(&mut self.ctx, mirror, fault, false)) {
            Some(Progress::GaveUp(error)) => self.gave_up(&phase, error),
            _ => phase,
        }
    }

    /// The search of the phase has come so far.
    fn searched(&mut self, progress: Progress) {
        self.phase = match (std::mem::replace(&mut self.phase, Phase::Over), progress) {
            (Phase::Latest(latest), progress) => self.latest_searched(latest, progress),
            (phase, Progress::GaveUp(error)) => self.gave_up(&phase, error),
            (phase, _) => phase,
        };
    }

    fn gave_up(&mut self, phase: &Phase, error: ResolveError) -> Phase {
        match phase {
            Phase::Index(_) => self.follow_keys(error),
            _ => self.no_release(error),
        }
    }
}

fn open_newest(ctx: &Context, latest: &Latest, bytes: &[u8]) -> Result<Release, Fault> {
    latest.open_release(bytes, &ctx.keys).map(Verified::into_inner).map_err(not_signed)
}

fn open_pinned(ctx: &Context, serial: Serial, bytes: &[u8]) -> Result<PinnedRelease, Fault> {
    let release = Verified::<Release>::open(bytes, &ctx.keys).map_err(not_signed)?;
    let name = ctx.request.name.as_ref().unwrap_or(&release.name);
    release.expect(name, serial).map_err(not_signed)?;
    Ok(PinnedRelease { release: release.into_inner(), text: bytes.to_vec() })
}

/// Opens an index, and saves it in the cache.
fn open_index(ctx: &mut Context, fetch: &IndexFetch, bytes: &[u8]) -> Result<Index, Fault> {
    let ImageFiles { name: image, .. } = &fetch.files;
    let index = fetch.files.open_index(bytes).map_err(not_signed)?;
    let file = StoredFile::Index(fetch.release.name.clone(), image.clone());
    ctx.save(file, bytes, "the index is fetched again the next time");
    Ok(index)
}
