//! What is fetched before it is known to be wanted, and what is fetched beside. From `latest` to the first block it would
//! otherwise be one round trip after the other: release, index, prefetch list. Their names can be guessed, and what they
//! are is proved later all the same; a guess that was wrong costs a small request.

use std::time::Duration;

use super::context::{Context, Purpose, get, not_signed};
use super::search::{FileSearch, Progress};
use super::types::{MirrorAnswer, MirrorGet, StoredFile, TrustAction};
use formats::fetch_fault::FetchFault as Fault;
use formats::release::{Dlahead, ImageFiles, Latest, Leaf, MirrorPath, Mirrors, Verified};

/// A larger file is not fetched on a guess.
const EARLY_LIMIT: u64 = 4 << 20;

/// A file that was asked for by the name that it probably has.
#[derive(Debug)]
pub(super) struct EarlyFile {
    path: MirrorPath,
    /// Which mirror was asked.
    mirror: usize,
    pub(super) answer: Option<Result<MirrorAnswer, Fault>>,
}

impl EarlyFile {
    fn ask(ctx: &mut Context, purpose: Purpose, path: MirrorPath) -> Self {
        let mirror = ctx.best_mirror();
        // Other mirrors must have time, too.
        let until = ctx.share(ctx.until());
        ctx.get(purpose, MirrorGet { limit: EARLY_LIMIT, ..get(mirror, path.clone(), until) });
        EarlyFile { path, mirror, answer: None }
    }

    /// The index and the prefetch list, as they are called when the image is new in this release. Not when they may be in
    /// the cache or on the medium; `None` outside: the cache is being read.
    pub(super) fn ask_both(ctx: &mut Context, latest: &Latest) -> Option<[Option<EarlyFile>; 2]> {
        let image = ctx.request.image.clone();
        let kept = ctx.stored_bytes(StoredFile::Index(latest.name.clone(), image.clone()))?;
        if ctx.request.has_medium || kept.is_some() {
            return Some([None, None]);
        }
        let path = |leaf| MirrorPath::Image(image.clone(), latest.serial, leaf);
        let index = EarlyFile::ask(ctx, Purpose::EarlyIndex, path(Leaf::Index));
        let list = EarlyFile::ask(ctx, Purpose::EarlyList, path(Leaf::Dlahead));
        Some([Some(index), Some(list)])
    }

    pub(super) fn is(&self, path: &MirrorPath) -> bool {
        self.path == *path
    }

    /// What it brought, if that is of use.
    pub(super) fn open<T>(
        self,
        ctx: &mut Context,
        open: impl FnOnce(&mut Context, &[u8]) -> Result<T, Fault>,
    ) -> Option<T> {
        let answer = self.answer?;
        // The limit was that of a guess.
        if matches!(answer, Err(Fault::TooLong { .. })) {
            return None;
        }
        ctx.judge(self.mirror, &self.path, answer, open).ok()
    }
}

/// The signed list of mirrors. It is small and not needed: it comes while other files do, or not.
#[derive(Debug, Default)]
pub(super) enum MirrorListFetch {
    /// Not asked for, or over.
    #[default]
    Idle,
    /// The first mirror was asked, before `latest` said what the list must be. With the answer and, as soon as they are
    /// known, `latest` and the best mirror.
    Early(Option<Result<MirrorAnswer, Fault>>, Option<(Latest, usize)>),
    /// The best mirror was asked.
    Asked(Latest),
    /// The list, if it could be fetched, until there is a release.
    There(Option<Mirrors>),
}

impl MirrorListFetch {
    /// Asks the first mirror: the name of the list is always the same, and the connection is soon needed.
    pub(super) fn begin(ctx: &mut Context) -> Self {
        // It changes: what a cache on the way has may be old.
        let get = MirrorGet { fresh: true, ..get(0, MirrorPath::Mirrors, ctx.until()) };
        ctx.get(Purpose::EarlyMirrorList, get);
        MirrorListFetch::Early(None, None)
    }

    /// `latest` says what the list must be.
    pub(super) fn expect(&mut self, ctx: &mut Context, latest: &Latest) {
        if let MirrorListFetch::Early(_, expected) = self {
            *expected = Some((latest.clone(), ctx.best_mirror()));
        }
        self.go_on(ctx);
    }

    pub(super) fn answered_early(&mut self, ctx: &mut Context, result: Result<MirrorAnswer, Fault>) {
        if let MirrorListFetch::Early(answer, _) = self {
            *answer = Some(result);
        }
        self.go_on(ctx);
    }

    fn go_on(&mut self, ctx: &mut Context) {
        *self = match std::mem::take(self) {
            MirrorListFetch::Early(Some(answer), Some((latest, best))) => {
                let opened =
                    answer.ok().and_then(|answer| latest.open_mirrors(&answer.bytes, &ctx.keys).ok());
                if let Some(list) = opened {
                    MirrorListFetch::There(Some(list.into_inner()))
                } else {
                    let len = Some(latest.mirrors.len);
                    let get = MirrorGet { len, ..get(best, MirrorPath::Mirrors, ctx.until()) };
                    ctx.get(Purpose::MirrorList, get);
                    MirrorListFetch::Asked(latest)
                }
            }
            other => other,
        };
    }

    pub(super) fn answered(&mut self, ctx: &mut Context, mirror: usize, result: Result<MirrorAnswer, Fault>) {
        let MirrorListFetch::Asked(latest) = std::mem::take(self) else { return };
        if let (Err(fault), Some(url)) = (&result, ctx.request.mirrors.get(mirror)) {
            let text = format!("{url}{}: {fault}", MirrorPath::Mirrors);
            ctx.detail(text);
        }
        let list = result.ok().and_then(|answer| latest.open_mirrors(&answer.bytes, &ctx.keys).ok());
        *self = MirrorListFetch::There(list.map(Verified::into_inner));
    }

    /// There is a release.
    pub(super) fn deliver(&mut self, ctx: &mut Context) {
        if let MirrorListFetch::There(list) = self {
            ctx.actions.push_back(TrustAction::MirrorList(list.take()));
            *self = MirrorListFetch::Idle;
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self, MirrorListFetch::Idle)
    }
}

/// The prefetch list: what was guessed, or from the medium, or from a mirror. It is only a help.
#[derive(Debug, Default)]
pub(super) enum PrefetchListFetch {
    /// Not wanted, or over.
    #[default]
    Idle,
    Early(ImageFiles, EarlyFile),
    Medium(ImageFiles),
    Search(ImageFiles, FileSearch),
    /// The list, if it could be fetched, until there is a release.
    There(Option<Dlahead>),
}

impl PrefetchListFetch {
    /// Begins, if the release has a list for the image.
    pub(super) fn begin(files: &ImageFiles, early: Option<EarlyFile>) -> Self {
        let Some(path) = files.dlahead_path() else { return PrefetchListFetch::Idle };
        match early.filter(|early| early.is(&path)) {
            Some(early) => PrefetchListFetch::Early(files.clone(), early),
            None => PrefetchListFetch::Medium(files.clone()),
        }
    }

    pub(super) fn answered_early(&mut self, result: Result<MirrorAnswer, Fault>) {
        if let PrefetchListFetch::Early(_, early) = self {
            early.answer = Some(result);
        }
    }

    /// Goes on as far as it can.
    pub(super) fn advance(&mut self, ctx: &mut Context) {
        loop {
            *self = match std::mem::take(self) {
                PrefetchListFetch::Early(files, early) if early.answer.is_some() => {
                    match early.open(ctx, |_, bytes| files.open_dlahead(bytes).map_err(not_signed)) {
                        Some(list) => PrefetchListFetch::There(list),
                        None => PrefetchListFetch::Medium(files),
                    }
                }
                PrefetchListFetch::Medium(files) => {
                    let Some((path, stored)) = files.dlahead_path().zip(files.dlahead) else {
                        *self = PrefetchListFetch::There(None);
                        return;
                    };
                    let Some(bytes) = ctx.stored_bytes(StoredFile::Medium(path.clone())) else {
                        *self = PrefetchListFetch::Medium(files);
                        return;
                    };
                    match bytes.map(|bytes| files.open_dlahead(&bytes)) {
                        Some(Ok(list)) => PrefetchListFetch::There(list),
                        _ => {
                            let (len, until) = (Some(stored.digest.len), ctx.until());
                            let search = FileSearch::begin(ctx, path, len, Purpose::List, until);
                            PrefetchListFetch::Search(files, search)
                        }
                    }
                }
                waiting => {
                    *self = waiting;
                    return;
                }
            }
        }
    }

    pub(super) fn answered(&mut self, ctx: &mut Context, mirror: usize, answer: Result<MirrorAnswer, Fault>) {
        let PrefetchListFetch::Search(files, mut search) = std::mem::take(self) else { return };
        let path = search.path().clone();
        let open = |_: &mut Context, bytes: &[u8]| files.open_dlahead(bytes).map_err(not_signed);
        *self = match ctx.judge(mirror, &path, answer, open) {
            Ok(list) => PrefetchListFetch::There(list),
            Err(fault) => {
                let progress = search.failed(ctx, mirror, &fault, false);
                searched(ctx, files, search, progress)
            }
        };
    }

    /// There is a release.
    pub(super) fn deliver(&mut self, ctx: &mut Context) {
        if let PrefetchListFetch::There(list) = self {
            ctx.actions.push_back(TrustAction::PrefetchList(list.take()));
            *self = PrefetchListFetch::Idle;
        }
    }

    pub(super) fn timeout(&mut self, ctx: &mut Context) {
        *self = match std::mem::take(self) {
            PrefetchListFetch::Search(files, mut search) => {
                let progress = search.timeout(ctx);
                searched(ctx, files, search, progress)
            }
            other => other,
        };
    }

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        match self {
            PrefetchListFetch::Search(_, search) => search.next_timeout(),
            _ => None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self, PrefetchListFetch::Idle)
    }
}

fn searched(
    ctx: &mut Context,
    files: ImageFiles,
    search: FileSearch,
    progress: Progress,
) -> PrefetchListFetch {
    match progress {
        Progress::GaveUp(error) => {
            ctx.warn(format!("{error}; continuing without prefetch"));
            PrefetchListFetch::There(None)
        }
        Progress::Going | Progress::Found => PrefetchListFetch::Search(files, search),
    }
}
