//! How far the resolver is.

use super::context::{Context, Purpose};
use super::early::EarlyFile;
use super::latest::{LatestQuestion, LatestSearch};
use super::search::FileSearch;
use super::succession::Succession;
use super::types::{ResolveError, Resolved};
use formats::names::Serial;
use formats::release::{ImageFiles, Latest, MirrorPath, Release};

/// What is waited for now.
#[derive(Debug)]
pub(super) enum Phase {
    /// The medium's `latest` is read.
    MediumLatest(LatestQuestion),
    /// Mirrors are asked for `latest`.
    Latest(Box<LatestSearch>),
    /// The release that `latest` names is looked for.
    Newest(Box<NewestRelease>),
    /// The release that the user asked for is looked for.
    Pinned(Serial, FileStep),
    /// The index of the image is looked for.
    Index(Box<IndexFetch>),
    /// The serial is being written.
    Remember(Box<Resolved>),
    /// No mirror has a release: the cache is read.
    Offline(ResolveError),
    /// The keys may have successors: mirrors are asked.
    Succession(Box<Succession>),
    /// There is an outcome.
    Over,
}

/// Where a file is looked for.
#[derive(Debug)]
pub(super) enum FileStep {
    Medium,
    Mirrors(Box<FileSearch>),
}

#[derive(Debug)]
pub(super) struct NewestRelease {
    pub(super) latest: Latest,
    /// Whether what the release will probably name was asked for.
    pub(super) asked_early: bool,
    pub(super) early_index: Option<EarlyFile>,
    pub(super) early_list: Option<EarlyFile>,
    pub(super) step: FileStep,
}

#[derive(Debug)]
pub(super) struct IndexFetch {
    pub(super) release: Release,
    pub(super) files: ImageFiles,
    pub(super) latest: Option<Latest>,
    pub(super) early: Option<EarlyFile>,
    pub(super) step: IndexStep,
}

/// Where the index is looked for, in this order.
#[derive(Debug)]
pub(super) enum IndexStep {
    Cache,
    Early,
    Medium,
    Mirrors(Box<FileSearch>),
}

/// What follows on a look at a phase.
pub(super) enum Turn {
    /// The phase waits for an event.
    Wait(Phase),
    Next(Phase),
}

impl Phase {
    /// The search that the phase waits for.
    pub(super) fn search(&self) -> Option<&FileSearch> {
        match self {
            Phase::Latest(latest) => Some(&latest.search),
            Phase::Newest(newest) => match &newest.step {
                FileStep::Mirrors(search) => Some(search),
                FileStep::Medium => None,
            },
            Phase::Pinned(_, FileStep::Mirrors(search)) => Some(search),
            Phase::Index(index) => match &index.step {
                IndexStep::Mirrors(search) => Some(search),
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn search_mut(&mut self) -> Option<&mut FileSearch> {
        match self {
            Phase::Latest(latest) => Some(&mut latest.search),
            Phase::Newest(newest) => match &mut newest.step {
                FileStep::Mirrors(search) => Some(search),
                FileStep::Medium => None,
            },
            Phase::Pinned(_, FileStep::Mirrors(search)) => Some(search),
            Phase::Index(index) => match &mut index.step {
                IndexStep::Mirrors(search) => Some(search),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A search of the phase for a file that is not `latest`.
pub(super) fn search(ctx: &mut Context, path: MirrorPath, len: Option<u64>) -> Box<FileSearch> {
    let until = ctx.until();
    Box::new(FileSearch::begin(ctx, path, len, Purpose::Search, until))
}
