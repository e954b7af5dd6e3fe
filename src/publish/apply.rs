//! A publication, step by step. Whatever step is the last, a client reads the old release or the new one, whole.

use std::collections::HashSet;
use std::error::Error;
use std::time::Duration;

use super::held_lease::HeldLease;
use super::lease::LeaseToken;
use super::plan::{PublishPlan, PublishPlanError, TargetContents, block_item};
use super::release_state::{OfRemote, ReleaseState, ReleaseStateError, read_latest, read_named};
use super::remote::{Clock, MirrorFiles, Remote, RemoteError};
use super::tombstones::Tombstones;
use super::{Control, FileToSend, RemotePath};
use formats::names::Serial;
use formats::release::{MirrorPath, TrustedKeys};
use formats::report::size;

/// Blocks sent between two looks at the clock.
const BATCH: usize = 512;
/// Blocks of an earlier, broken attempt that are read back before the others are believed.
const SAMPLE: usize = 16;

/// The error of a target, whatever its kind.
type PublishFault = Box<dyn Error + Send + Sync>;

/// Options of one publication.
#[derive(Clone, Debug)]
pub struct PublishOptions {
    /// The token of our lease; the same for each attempt from one output directory.
    pub token: LeaseToken,
    /// The name of this machine, for others that find our lease.
    pub host: String,
    /// Look for every block instead of believing the release that the target has.
    pub verify: bool,
    /// Wait so long for another publisher.
    pub wait: Duration,
    /// Go on in spite of another publisher's lease.
    pub take_over: bool,
}

/// Result of a publication: the plan, and what was sent.
#[derive(Clone, Debug)]
pub struct PublishResult {
    /// What was to be done.
    pub plan: PublishPlan,
    /// Files that were sent.
    pub files: u64,
    /// Bytes that were sent.
    pub bytes: u64,
    /// Blocks that an earlier attempt had sent already.
    pub found: u64,
}

/// Why nothing was published. The target has its old release.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Another publication or `gc` holds the lease.
    #[error(
        "{target}: {host} holds the lease ({what}), renewed {ago} s ago and valid for {left} s more. Wait for \
         it (--wait), or, if you know that it has ended, take the lease over (--take-over)"
    )]
    Busy {
        target: String,
        what: &'static str,
        host: String,
        /// Seconds since its lease was made or renewed.
        ago: u64,
        /// Seconds until its lease expires.
        left: u64,
    },
    /// Another publisher took over the lease.
    #[error("{target}: another publisher took over the lease; run this command again")]
    TakenOver { target: String },
    /// We slept too long.
    #[error("{target}: this command was suspended until its lease had expired; run it again")]
    Lapsed { target: String },
    /// The plan can't be.
    #[error("{target}: {source}")]
    Plan { target: String, source: PublishPlanError },
    /// What the target has can't be believed.
    #[error("{target}: the target's release can't be read, so it can't be updated")]
    State { target: String, source: ReleaseStateError },
    #[error("{target}: too little space: {} to send, {} free", size(*need), size(*free))]
    Space {
        target: String,
        /// Bytes to be sent.
        need: u64,
        /// Free space, in bytes.
        free: u64,
    },
    /// Files are missing after they were sent.
    #[error("{target}: {path} is {} after it was sent, and {more} more files are wrong; `latest` was not \
             replaced", match found {
        Some(found) => format!("{found} bytes long instead of {want}"),
        None => "missing".to_owned(),
    })]
    Incomplete {
        target: String,
        /// The first such file.
        path: MirrorPath,
        found: Option<u64>,
        want: u64,
        more: usize,
    },
    /// What the public sees is not what was sent.
    #[error("{target}: clients would get wrong files from the target's URL; `latest` was not replaced")]
    Proof { target: String, source: PublishFault },
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// What goes to a target, and by which means.
pub struct Job<'a> {
    /// Target that is written to.
    pub remote: &'a dyn Remote,
    pub tree: &'a dyn MirrorFiles,
    pub ours: &'a ReleaseState,
    /// Who may have signed what the target has.
    pub keys: &'a TrustedKeys,
    /// Files beside the release that the target is to have: what keys say of their successors.
    pub extra: &'a [FileToSend],
    pub options: &'a PublishOptions,
    pub clock: &'a dyn Clock,
    /// Called with how many bytes will go out, before the first of them.
    pub begin: &'a (dyn Fn(u64) + Sync),
    /// Called with how many bytes went out.
    pub sent: &'a (dyn Fn(u64) + Sync),
    /// Fetches what was sent as a client would, before `latest` moves.
    pub prove: &'a dyn Fn(&PublishPlan) -> Result<(), PublishFault>,
}

/// What a publication would send: the plan, less what is there in spite of the target's release, with its length.
/// Nothing is written, no lease is set.
///
/// # Errors
/// [`PublishError`].
pub fn survey(job: &Job<'_>) -> Result<PublishPlan, PublishError> {
    let mut plan = plan(job)?;
    let blocks: Vec<FileToSend> = plan.blocks.iter().map(block_item).collect();
    let lengths = job.remote.lengths(&blocks)?;
    let mut there = blocks.iter().zip(lengths).map(|(item, len)| len == Some(item.len));
    plan.blocks.retain(|_| !there.next().unwrap_or_default());
    drop_old_files(job, &mut plan)?;
    Ok(plan)
}

/// What the target lacks, as far as its own release tells, and of what keys say.
fn plan(job: &Job<'_>) -> Result<PublishPlan, PublishError> {
    let held = held(job)?;
    let mut plan = PublishPlan::new(job.ours, held.as_ref())
        .map_err(|source| PublishError::Plan { target: job.remote.name(), source })?;
    if !job.extra.is_empty() {
        let lengths = job.remote.lengths(job.extra)?;
        let lacking = job.extra.iter().zip(lengths).filter(|(item, len)| *len != Some(item.len));
        plan.files.splice(0..0, lacking.map(|(item, _)| item.clone()));
    }
    Ok(plan)
}

fn held(job: &Job<'_>) -> Result<Option<TargetContents>, PublishError> {
    let failed = |source| PublishError::State { target: job.remote.name(), source };
    let files = OfRemote(job.remote);
    let Some(latest) = read_latest(&files, job.keys).map_err(failed)? else { return Ok(None) };
    match read_named(&files, latest.clone(), job.keys, Some(job.tree)) {
        Ok(state) => Ok(Some(TargetContents { latest, state: Some(state) })),
        Err(ReleaseStateError::Remote(error)) => Err(error.into()),
        Err(error) => {
            log::warn!(
                "{}: release {} is damaged ({error}); scanning the target for its files",
                job.remote.name(),
                latest.0.serial
            );
            Ok(Some(TargetContents { latest, state: None }))
        }
    }
}

/// Publishes.
///
/// # Errors
/// [`PublishError`]; clients then still read the old release, and the next attempt goes on from there.
pub fn publish(job: &Job<'_>) -> Result<PublishResult, PublishError> {
    let mut lease = HeldLease::take(job)?;
    let result = with_lease(job, &mut lease);
    // The lease is removed after a failure too. If that fails as well, a warning is enough: it expires.
    if let Err(error) = lease.give_back() {
        log::warn!("{error}: the lease remains, and expires in some minutes");
    }
    result
}

fn with_lease(job: &Job<'_>, lease: &mut HeldLease<'_>) -> Result<PublishResult, PublishError> {
    let remote = job.remote;
    let mut done = PublishResult { plan: plan(job)?, files: 0, bytes: 0, found: 0 };
    if done.plan.is_done() && !job.options.verify {
        return Ok(done);
    }
    revive(job, &done.plan)?;
    drop_old_files(job, &mut done.plan)?;
    let lacking = lacking(job, &done.plan)?;
    let new = done.plan.blocks.len() as u64;
    done.found = new.saturating_sub(lacking.len() as u64);

    let rest = done.plan.files.iter().chain(&done.plan.mirrors).chain(&done.plan.latest);
    let need: u64 = lacking.iter().chain(rest).map(|item| item.len).sum();
    if let Some(free) = remote.free().filter(|free| *free < need) {
        return Err(PublishError::Space { target: remote.name(), need, free });
    }
    (job.begin)(need);

    for batch in lacking.chunks(BATCH) {
        lease.renew()?;
        job.tree.check(batch)?;
        remote.put(job.tree, batch, job.sent)?;
        count(&mut done, batch);
    }
    // Images' files before the release that names them.
    let (images, release): (Vec<_>, Vec<_>) =
        done.plan.files.iter().cloned().partition(|item| !matches!(item.path, MirrorPath::Release(_)));
    for batch in [images, release] {
        if !batch.is_empty() {
            lease.renew()?;
            job.tree.check(&batch)?;
            remote.put(job.tree, &batch, job.sent)?;
            count(&mut done, &batch);
        }
    }
    complete(job, &done.plan, &lacking)?;
    (job.prove)(&done.plan).map_err(|source| PublishError::Proof { target: remote.name(), source })?;

    lease.still_ours()?;
    for item in done.plan.mirrors.iter().chain(&done.plan.latest).cloned().collect::<Vec<_>>() {
        let bytes = match &item.path {
            MirrorPath::Latest => job.ours.latest_file.clone(),
            path => job.tree.read(path, path.limit())?.unwrap_or_default(),
        };
        remote.write(&RemotePath::File(item.path.clone()), &bytes)?;
        (job.sent)(item.len);
        count(&mut done, &[item]);
    }
    Ok(done)
}

/// Images' files of earlier releases may be there although the newest release does not name them: after a rollback.
fn drop_old_files(job: &Job<'_>, plan: &mut PublishPlan) -> Result<(), PublishError> {
    let serial = plan.serial;
    let old: Vec<FileToSend> = plan
        .files
        .iter()
        .filter(|item| matches!(item.path, MirrorPath::Image(_, of, _) if of < serial))
        .cloned()
        .collect();
    if !old.is_empty() {
        let lengths = job.remote.lengths(&old)?;
        let there: HashSet<_> = old
            .iter()
            .zip(lengths)
            .filter(|(item, len)| *len == Some(item.len))
            .map(|(item, _)| &item.path)
            .collect();
        plan.files.retain(|item| !there.contains(&item.path));
    }
    Ok(())
}

fn count(done: &mut PublishResult, items: &[FileToSend]) {
    done.files += items.len() as u64;
    done.bytes += items.iter().map(|item| item.len).sum::<u64>();
}

/// Blocks that the target has not. Those that are going to be removed are revived before they count as present.
fn lacking(job: &Job<'_>, plan: &PublishPlan) -> Result<Vec<FileToSend>, PublishError> {
    let looked_for: Vec<FileToSend> = if job.options.verify {
        plan.blocks.iter().chain(&plan.shared).map(block_item).collect()
    } else {
        plan.blocks.iter().map(block_item).collect()
    };
    if looked_for.is_empty() {
        return Ok(vec![]);
    }
    let lengths = job.remote.lengths(&looked_for)?;
    let (present, mut lacking): (Vec<_>, Vec<_>) =
        looked_for.into_iter().zip(lengths).partition(|(item, len)| *len == Some(item.len));
    // A target that lost its power may have files of the right length and the wrong contents.
    let step = if job.remote.is_near() { 1 } else { present.len().div_ceil(SAMPLE).max(1) };
    let sample: Vec<_> = present.iter().step_by(step).collect();
    for some in sample.chunks(SAMPLE) {
        let places: Vec<_> = some.iter().map(|(item, _)| RemotePath::File(item.path.clone())).collect();
        for (found, there) in some.iter().zip(job.remote.get_all(&places)?) {
            let Some(ours) = job.tree.read(&found.0.path, found.0.len)? else { continue };
            if there.as_deref() == Some(&ours[..]) {
                continue;
            }
            let path = &found.0.path;
            if step > 1 {
                let name = job.remote.name();
                log::warn!(
                    "{name}: {path} is damaged on the target; sending all blocks of the interrupted attempt again"
                );
                lacking.extend(present);
                return Ok(lacking.into_iter().map(|(item, _)| item).collect());
            }
            log::warn!("{}: {path} is damaged on the target; sending it again", job.remote.name());
            lacking.push((*found).clone());
        }
    }
    Ok(lacking.into_iter().map(|(item, _)| item).collect())
}

/// Takes what we need off the list of what is going to be removed.
fn revive(job: &Job<'_>, plan: &PublishPlan) -> Result<(), PublishError> {
    let place = RemotePath::Control(Control::Tombstones);
    let Some(text) = job.remote.get(&place)? else { return Ok(()) };
    // What can't be read marks nothing: the next collection starts again.
    let mut stones = Tombstones::decode(&text[..]).unwrap_or_default();
    let before = stones.0.len();
    let needed: HashSet<_> = plan.blocks.iter().chain(&plan.shared).map(|object| object.name).collect();
    stones
        .0
        .retain(|path, _| !super::release_state::block_of(path).is_some_and(|name| needed.contains(&name)));
    for item in plan.files.iter().chain(&super::release_state::image_files(&job.ours.release)) {
        stones.0.remove(&item.path);
    }
    if stones.0.len() != before {
        job.remote.write(&place, &stones.to_text())?;
    }
    Ok(())
}

/// Looks whether everything that is new is there, with its length.
fn complete(job: &Job<'_>, plan: &PublishPlan, sent: &[FileToSend]) -> Result<(), PublishError> {
    let mut items: Vec<FileToSend> = plan.blocks.iter().map(block_item).collect();
    let new: HashSet<_> = items.iter().map(|item| item.path.clone()).collect();
    items.extend(sent.iter().filter(|item| !new.contains(&item.path)).cloned());
    items.extend(plan.files.iter().cloned());
    let lengths = job.remote.lengths(&items)?;
    let mut wrong = items.iter().zip(lengths).filter(|(item, len)| *len != Some(item.len));
    let Some((item, found)) = wrong.next() else { return Ok(()) };
    Err(PublishError::Incomplete {
        target: job.remote.name(),
        path: item.path.clone(),
        found,
        want: item.len,
        more: wrong.count(),
    })
}

/// The release that a target has, for lists.
///
/// # Errors
/// [`ReleaseStateError`].
pub fn serial_at(remote: &dyn Remote, keys: &TrustedKeys) -> Result<Option<Serial>, ReleaseStateError> {
    Ok(read_latest(&OfRemote(remote), keys)?.map(|(latest, _)| latest.serial))
}
