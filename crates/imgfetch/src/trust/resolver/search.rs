//! The search for one file: from one mirror after the other, or from all at once, round after round, until one is good
//! or the time is over.

use std::time::Duration;

use super::context::{Context, Purpose, get};
use super::types::{MirrorGet, ResolveError};
use formats::fetch_fault::{FailureScope, FetchFault as Fault};
use formats::release::MirrorPath;
use formats::url::MirrorUrl;

/// Between two rounds through all mirrors; doubled each time, [`PAUSE_MAX`] at most.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Mirrors that answer within this of another are about as near.
const ALIKE: Duration = Duration::from_millis(10);
/// While nothing works, a line is printed this often.
const NEWS: Duration = Duration::from_secs(10);
/// With a release in the cache, mirrors are not waited for longer than this.
const OFFLINE: Duration = Duration::from_secs(10);

/// What came of asking each mirror once.
#[derive(Debug, Default)]
struct SearchRound {
    faults: Vec<(MirrorUrl, String)>,
    /// Whether asking again may help.
    hope: bool,
    /// Whether there may be no network.
    network: bool,
    /// Whether wrong bytes came.
    wrong: bool,
    /// Whether a mirror has something that is refused.
    refused: bool,
    /// Whether that is signed by a key that is not trusted.
    unknown_key: bool,
    /// Mirrors in whose place a web page answered.
    pages: usize,
}

impl SearchRound {
    fn failed(&mut self, url: Option<&MirrorUrl>, fault: &Fault) {
        self.hope |= fault.blame() != FailureScope::File;
        self.network |= fault.may_be_the_network();
        self.wrong |= fault.is_wrong_bytes();
        self.refused |= fault.is_wrong_bytes() && *fault != Fault::WebPage;
        self.unknown_key |= matches!(fault, Fault::UnknownKey(_));
        self.pages += usize::from(*fault == Fault::WebPage);
        self.faults.extend(url.map(|url| (url.clone(), fault.to_string())));
    }

    /// Several mirrors do not turn into web pages at once: there is a login page in the way to all of them, which is
    /// like no network at all.
    fn is_behind_a_page(&self) -> bool {
        self.pages > 1 && !self.refused
    }
}

#[derive(Debug)]
enum SearchStep {
    OneByOne {
        order: Vec<usize>,
        asked: usize,
    },
    /// The first good answer is not taken at once: a mirror that is about as near may have a newer file, and one that
    /// is before it in the list may be as near. `good`: until when others may still answer.
    AllAtOnce {
        began: Duration,
        unanswered: usize,
        good: Option<Duration>,
    },
    Pausing {
        until: Duration,
    },
}

/// How a search stands.
#[derive(Debug)]
pub(super) enum Progress {
    Going,
    /// The last good answer is the one to use.
    Found,
    GaveUp(ResolveError),
}

/// The search for one file. It ends at `until`; but the first mirror that is asked has a second in any case.
#[derive(Debug)]
pub(super) struct FileSearch {
    path: MirrorPath,
    len: Option<u64>,
    purpose: Purpose,
    until: Duration,
    began: Duration,
    fresh: bool,
    pause: Duration,
    news_at: Option<Duration>,
    round: SearchRound,
    step: SearchStep,
}

impl FileSearch {
    /// Begins; `len` when the length is known.
    pub(super) fn begin(
        ctx: &mut Context,
        path: MirrorPath,
        len: Option<u64>,
        purpose: Purpose,
        until: Duration,
    ) -> Self {
        let began = ctx.now.elapsed;
        let mut search = FileSearch {
            fresh: path == MirrorPath::Latest,
            path,
            len,
            purpose,
            until,
            began,
            pause: PAUSE,
            news_at: None,
            round: SearchRound::default(),
            step: SearchStep::Pausing { until: began },
        };
        search.begin_round(ctx);
        search
    }

    pub(super) fn path(&self) -> &MirrorPath {
        &self.path
    }

    fn begin_round(&mut self, ctx: &mut Context) {
        self.round = SearchRound::default();
        let mirrors = ctx.request.mirrors.len();
        if self.path != MirrorPath::Latest || !ctx.request.netselect || mirrors < 2 {
            self.step = SearchStep::OneByOne { order: ctx.order(), asked: 0 };
            self.ask_next(ctx);
            return;
        }
        self.step = SearchStep::AllAtOnce { began: ctx.now.elapsed, unanswered: mirrors, good: None };
        for mirror in 0..mirrors {
            self.ask(ctx, mirror, true);
        }
    }

    fn ask(&self, ctx: &mut Context, mirror: usize, fresh: bool) {
        let get = get(mirror, self.path.clone(), ctx.share(self.until));
        let limit = self.len.unwrap_or(get.limit);
        ctx.get(self.purpose, MirrorGet { len: self.len, limit, fresh, ..get });
    }

    /// Whether there is another mirror to ask in this round.
    fn ask_next(&mut self, ctx: &mut Context) -> bool {
        let late = ctx.now.elapsed >= self.until;
        let SearchStep::OneByOne { order, asked } = &mut self.step else { return false };
        let Some(&mirror) = order.get(*asked).filter(|_| !late || *asked == 0) else { return false };
        *asked += 1;
        self.ask(ctx, mirror, self.fresh);
        true
    }

    /// A good answer has come.
    pub(super) fn good(&mut self, ctx: &Context) -> Progress {
        let SearchStep::AllAtOnce { began, unanswered, good } = &mut self.step else {
            return Progress::Found;
        };
        *unanswered -= 1;
        let now = ctx.now.elapsed;
        let more = (now.saturating_sub(*began) / 2).clamp(ALIKE, 20 * ALIKE);
        let until = good.get_or_insert((now + more).min(self.until.max(now)));
        if *unanswered == 0 || *until <= now { Progress::Found } else { Progress::Going }
    }

    /// An answer has come that can't be used. When there is `enough`, this is the last round.
    pub(super) fn failed(
        &mut self,
        ctx: &mut Context,
        mirror: usize,
        fault: &Fault,
        enough: bool,
    ) -> Progress {
        self.round.failed(ctx.request.mirrors.get(mirror), fault);
        match &mut self.step {
            SearchStep::AllAtOnce { unanswered, good, .. } => {
                *unanswered -= 1;
                match good {
                    Some(until) if *unanswered == 0 || *until <= ctx.now.elapsed => return Progress::Found,
                    None if *unanswered == 0 => {}
                    _ => return Progress::Going,
                }
            }
            SearchStep::OneByOne { .. } => {
                if self.ask_next(ctx) {
                    return Progress::Going;
                }
            }
            SearchStep::Pausing { .. } => return Progress::Going,
        }
        self.end_round(ctx, enough)
    }

    /// Gives up on requests whose time is over, and asks the next mirror.
    pub(super) fn timeout(&mut self, ctx: &mut Context) -> Progress {
        let now = ctx.now.elapsed;
        match &self.step {
            SearchStep::AllAtOnce { good: Some(until), .. } if *until <= now => Progress::Found,
            SearchStep::Pausing { until } if *until <= now => {
                self.begin_round(ctx);
                Progress::Going
            }
            _ => Progress::Going,
        }
    }

    /// When [`FileSearch::timeout`] is to be called.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        match &self.step {
            SearchStep::OneByOne { .. } => None,
            SearchStep::AllAtOnce { good, .. } => *good,
            SearchStep::Pausing { until } => Some(*until),
        }
    }

    fn end_round(&mut self, ctx: &mut Context, enough: bool) -> Progress {
        let now = ctx.now.elapsed;
        let round = std::mem::take(&mut self.round);
        self.fresh |= round.wrong;
        let may_help = round.hope || round.is_behind_a_page();
        let first = matches!(self.path, MirrorPath::Latest | MirrorPath::Release(_));
        let offline = first && ctx.request.cached_name.is_some() && now - self.began > OFFLINE;
        // While other mirrors keep silent, there is time to look for a successor of the key.
        let follow = first && round.unknown_key && !ctx.followed;
        if !may_help || enough || offline || follow || now + self.pause >= self.until {
            let SearchRound { faults, refused, hope, network, .. } = round;
            let file = self.path.to_string();
            return Progress::GaveUp(ResolveError::NoMirror { file, faults, hope, network, refused });
        }
        if self.news_at.is_none_or(|at| now - at >= NEWS) {
            self.news_at = Some(now);
            let left = self.until.saturating_sub(now).as_secs();
            let last = round.faults.last().map(|(mirror, fault)| format!("{mirror}: {fault}"));
            let (path, last) = (&self.path, last.unwrap_or_default());
            ctx.warn(format!("{path}: no mirror has sent it yet ({last}); trying for {left} s more"));
        }
        self.step = SearchStep::Pausing { until: now + ctx.request.jitter.shortened(self.pause) };
        self.pause = (2 * self.pause).min(PAUSE_MAX);
        Progress::Going
    }
}
