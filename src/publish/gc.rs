//! Garbage collection: what no release in retention names is marked, and removed after the grace period.
//!
//! Roots are the newest release, releases whose `retain-until` has not come, the newest few, those that are pinned,
//! and releases above the newest (somebody publishes them). A publication that runs makes collection stop at once.
//! Two things keep apart what is removed and what is needed again: the leases (`lease.rs`), and the grace, which holds
//! even for a publisher that stood still until its lease had expired.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use super::clock::{self, ClockDoubt};
use super::held_lease::read_lease;
use super::lease::{Lease, LeaseToken};
use super::release_state::{OfRemote, ReleaseStateError, image_files, read_indexes, read_latest};
use super::remote::{Clock, Listed, Remote, RemoteError};
use super::tombstones::Tombstones;
use super::{Control, FileToSend, RemotePath};
use formats::index::Index;
use formats::names::{Serial, UnixTime};
use formats::release::{DocumentError as Untrusted, Latest, MirrorPath, Release, TrustedKeys, Verified};
use formats::report::{counted, size};

/// Files removed between two looks at the leases.
const BATCH: usize = 256;
/// Releases below the newest that are looked for where a target has no list of its files.
const LOOK_BACK: u64 = 4096;

/// What to keep, and for how long.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Seconds between mark and removal.
    pub grace: u64,
    /// The newest so many releases stay whatever their age; at least 1.
    pub keep: usize,
    /// Releases to keep whatever their age.
    pub pinned: BTreeSet<Serial>,
    /// Believe this computer's clock, whatever contradicts it.
    pub trust_clock: bool,
}

/// Why nothing more was removed.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// A publication runs, or another collection.
    #[error("{target}: {host} is {what} there; its lease is valid for {left} s more; run `gc` later")]
    Busy {
        target: String,
        what: &'static str,
        host: String,
        /// Seconds until its lease expires.
        left: u64,
    },
    /// The target holds no release.
    #[error("{0}: contains no release")]
    Empty(String),
    /// It is unknown which files are in use.
    #[error("{target}: can't find out which files are in use, so nothing was removed")]
    State { target: String, source: ReleaseStateError },
    /// The list of marked files is damaged.
    #[error(
        "{target}: .imgfactory/tombstones is damaged; remove this file; all grace periods then start again"
    )]
    Tombstones { target: String, source: formats::text::At<super::tombstones::TombstoneFault> },
    /// Our lease expired, or another program took over.
    #[error(
        "{0}: this command was suspended until its lease had expired, or another took over the lease; run it again"
    )]
    Lapsed(String),
    /// By a wrong clock, files would be removed before their time.
    #[error(
        "{target}: {doubt}. Set the clock; if it is right, add --trust-clock. Nothing was removed or marked"
    )]
    Clock { target: String, doubt: ClockDoubt },
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// What a collection will do.
#[derive(Clone, Debug)]
pub struct GcPlan {
    /// Serial of the newest release, which is always kept.
    pub latest: Serial,
    /// When `latest` expires.
    pub expires: UnixTime,
    /// Releases that stay, and why.
    pub kept: BTreeMap<Serial, &'static str>,
    /// Releases that no longer stay.
    pub expired: BTreeSet<Serial>,
    /// Number of files that kept releases name.
    pub live: usize,
    /// Files to be removed now: their grace is over.
    pub due: Vec<FileToSend>,
    /// Files that wait for the end of their grace, with when they were condemned.
    pub waiting: Tombstones,
    /// Bytes of the waiting ones, as far as known.
    pub waiting_bytes: u64,
    /// Files of the list of marked ones that are in use again.
    pub revived: usize,
}

impl fmt::Display for GcPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (serial, why) in &self.kept {
            writeln!(f, "release {serial} kept: {why}")?;
        }
        for serial in &self.expired {
            writeln!(f, "release {serial} expired: past its retention")?;
        }
        let due: u64 = self.due.iter().map(|item| item.len).sum();
        let files = |count: usize| counted(count as u64, "file");
        writeln!(f, "{} in use", files(self.live))?;
        writeln!(f, "{} of {} to remove now", files(self.due.len()), size(due))?;
        write!(
            f,
            "{} of {} marked, in their grace period; {} in use again",
            files(self.waiting.0.len()),
            size(self.waiting_bytes),
            self.revived
        )
    }
}

/// What is collected, and by which means.
pub struct GcJob<'a> {
    /// Target to collect on.
    pub remote: &'a dyn Remote,
    /// Who may have signed what it has.
    pub keys: &'a TrustedKeys,
    /// Which releases are kept, and for how long.
    pub policy: &'a Policy,
    /// For retention and the lease: simulated in tests.
    pub clock: &'a dyn Clock,
    /// The token of our lease.
    pub token: &'a LeaseToken,
    /// The name of this machine.
    pub host: &'a str,
    /// Called with how many files are gone.
    pub gone: &'a (dyn Fn(u64) + Sync),
}

/// What a collection would do. Nothing is written.
///
/// # Errors
/// [`GcError`].
pub fn plan(job: &GcJob<'_>) -> Result<GcPlan, GcError> {
    let target = || job.remote.name();
    let failed = |source| GcError::State { target: target(), source };
    let text = job.remote.get(&RemotePath::Control(Control::Tombstones))?;
    let stones = match text {
        Some(text) => Tombstones::decode(&text[..])
            .map_err(|source| GcError::Tombstones { target: target(), source })?,
        None => Tombstones::default(),
    };
    let listed = job.remote.list()?;
    let files = OfRemote(job.remote);
    let (latest, _) =
        read_latest(&files, job.keys).map_err(failed)?.ok_or_else(|| GcError::Empty(target()))?;
    let releases = releases(job, &latest, listed.as_deref()).map_err(failed)?;
    let now = job.clock.now();
    believed(job, clock::not_behind(now, latest.published, stones.0.values().max().copied()))?;
    let (kept, expired) = sort(&releases, &latest, job.policy, now);
    if !kept.contains_key(&latest.serial) {
        let missing = ReleaseStateError::Missing { path: latest.release_path(), by: "latest" };
        return Err(failed(missing));
    }

    // Two releases mostly share their images' files; each is read once.
    let mut live: HashSet<MirrorPath> = [MirrorPath::Latest, MirrorPath::Mirrors].into();
    let mut candidates: BTreeMap<MirrorPath, u64> = BTreeMap::new();
    let mut seen: HashSet<MirrorPath> = HashSet::new();
    for (serial, (release, len)) in &releases {
        let is_kept = kept.contains_key(serial);
        let mut fresh = release.clone();
        fresh
            .images
            .retain(|image| is_kept && seen.insert(image.index_path()) || !is_kept && listed.is_none());
        let indexes = match read_indexes(&files, &fresh, None) {
            Ok(indexes) => indexes,
            // Of an expired release a collection that was cut short may have removed it already.
            Err(ReleaseStateError::Missing { .. }) if !is_kept => vec![],
            Err(error) => return Err(failed(error)),
        };
        let named = image_files(release).into_iter().chain(indexes.iter().flat_map(block_items));
        let own = FileToSend { path: MirrorPath::Release(*serial), len: *len };
        for item in named.chain([own]) {
            if is_kept {
                live.insert(item.path);
            } else {
                candidates.insert(item.path, item.len);
            }
        }
    }
    for Listed { path, len } in listed.iter().flatten() {
        // A path that is not ours belongs to other programs.
        if let Ok(path) = path.parse::<MirrorPath>() {
            candidates.insert(path, *len);
        }
    }
    // What a key says of its successors is for boot media of any age.
    candidates.retain(|path, _| {
        !live.contains(path) && !is_above(path, latest.serial) && !matches!(path, MirrorPath::Keys(_))
    });
    let known: BTreeSet<&MirrorPath> = stones.0.keys().collect();
    let revived = known.iter().filter(|path| live.contains(**path)).count();

    let mut due = Vec::new();
    let mut waiting = Tombstones::default();
    let mut waiting_bytes = 0;
    // Without a list of the target's files, what was marked earlier is known from the tombstones only.
    if listed.is_none() {
        for path in stones.0.keys().filter(|path| !live.contains(*path)) {
            candidates.entry(path.clone()).or_insert(0);
        }
    }
    for (path, len) in candidates {
        let since = stones.0.get(&path).copied().unwrap_or(now).min(now);
        if stones.0.contains_key(&path) && now.0.saturating_sub(since.0) >= job.policy.grace {
            due.push(FileToSend { path, len });
        } else {
            waiting_bytes += len;
            waiting.0.insert(path, since);
        }
    }
    // What names comes before what is named: no client finds a release whose blocks are gone.
    due.sort_by_key(|item| match item.path {
        MirrorPath::Release(_) => 0,
        MirrorPath::Image(..) => 1,
        _ => 2,
    });
    Ok(GcPlan {
        latest: latest.serial,
        expires: latest.expires,
        kept,
        expired,
        live: live.len(),
        due,
        waiting,
        waiting_bytes,
        revived,
    })
}

impl GcPlan {
    /// Whether there is doubt in a clock that no other confirms, if it decides that files are to be removed: a release
    /// that is looked after does not expire.
    ///
    /// # Errors
    /// [`ClockDoubt::Expired`].
    pub fn unconfirmed(&self, now: UnixTime) -> Result<(), ClockDoubt> {
        let expires = self.expires;
        if self.due.is_empty() || now <= expires { Ok(()) } else { Err(ClockDoubt::Expired { now, expires }) }
    }
}

fn block_items(index: &Index) -> impl Iterator<Item = FileToSend> + '_ {
    index.objects().iter().map(super::plan::block_item)
}

/// A file of a release that is not published yet.
fn is_above(path: &MirrorPath, latest: Serial) -> bool {
    match path {
        MirrorPath::Image(_, serial, _) | MirrorPath::Release(serial) => *serial > latest,
        _ => false,
    }
}

type Releases = BTreeMap<Serial, (Release, u64)>;

/// Every release that the target has, its signature checked, with the length of its file.
fn releases(
    job: &GcJob<'_>,
    latest: &Latest,
    listed: Option<&[Listed]>,
) -> Result<Releases, ReleaseStateError> {
    let serials: Vec<Serial> = match listed {
        Some(listed) => listed
            .iter()
            .filter_map(|listed| match listed.path.parse() {
                Ok(MirrorPath::Release(serial)) => Some(serial),
                _ => None,
            })
            .collect(),
        None => {
            let newest = latest.serial.get();
            let all = newest.saturating_sub(LOOK_BACK - 1).max(1)..=newest;
            let items: Vec<_> = all
                .filter_map(Serial::new)
                .map(|serial| FileToSend { path: MirrorPath::Release(serial), len: 0 })
                .collect();
            let lengths = job.remote.lengths(&items)?;
            let there = items.iter().zip(lengths).filter(|(_, len)| len.is_some());
            there
                .filter_map(|(item, _)| match item.path {
                    MirrorPath::Release(serial) => Some(serial),
                    _ => None,
                })
                .collect()
        }
    };
    let mut releases = Releases::new();
    for serial in serials {
        let path = MirrorPath::Release(serial);
        let untrusted = |source: Untrusted| ReleaseStateError::Untrusted(path.clone(), source);
        let Some(bytes) = job.remote.get(&RemotePath::File(path.clone()))? else { continue };
        let release = Verified::<Release>::open(&bytes, job.keys).map_err(untrusted)?;
        release.expect(&latest.name, serial).map_err(untrusted)?;
        releases.insert(serial, (release.into_inner(), bytes.len() as u64));
    }
    Ok(releases)
}

fn sort(
    releases: &Releases,
    latest: &Latest,
    policy: &Policy,
    now: UnixTime,
) -> (BTreeMap<Serial, &'static str>, BTreeSet<Serial>) {
    let newest = releases.keys().rev().filter(|serial| **serial <= latest.serial).take(policy.keep.max(1));
    let newest: BTreeSet<_> = newest.copied().collect();
    let (mut kept, mut expired) = (BTreeMap::new(), BTreeSet::new());
    for (serial, (release, _)) in releases {
        let why = if *serial == latest.serial {
            "the newest"
        } else if *serial > latest.serial {
            "not published yet"
        } else if policy.pinned.contains(serial) {
            "pinned"
        } else if newest.contains(serial) {
            "one of the newest"
        } else if now <= release.retain_until {
            "in retention"
        } else {
            expired.insert(*serial);
            continue;
        };
        kept.insert(*serial, why);
    }
    (kept, expired)
}

/// Collects: removes what is due, and notes what is marked now.
///
/// # Errors
/// [`GcError`]. What was removed by then was due.
pub fn collect(job: &GcJob<'_>) -> Result<GcPlan, GcError> {
    let mut lease = Lease::new(job.token, job.host, job.clock.now());
    let place = RemotePath::Control(Control::Collecting);
    busy(job, Control::Collecting, "collecting")?;
    // First our lease, then a look at the publisher's: whichever of the two wrote second sees the other.
    job.remote.write(&place, &lease.to_text())?;
    let result = with_lease(job, &mut lease);
    let ours = |found: &Lease| found.token == lease.token;
    let down = read_lease(job.remote, Control::Collecting).and_then(|found| {
        if found.is_some_and(|found| ours(&found)) { job.remote.remove(&[place]) } else { Ok(()) }
    });
    if let Err(error) = down {
        log::warn!("{error}: the lease remains, and expires in some minutes");
    }
    result
}

fn with_lease(job: &GcJob<'_>, lease: &mut Lease) -> Result<GcPlan, GcError> {
    busy(job, Control::Publishing, "publishing")?;
    let plan = plan(job)?;
    let confirmed = still_ours(job, lease)?;
    if !confirmed {
        believed(job, plan.unconfirmed(job.clock.now()))?;
    }
    for batch in plan.due.chunks(BATCH) {
        still_ours(job, lease)?;
        let places: Vec<RemotePath> = batch.iter().map(|item| RemotePath::File(item.path.clone())).collect();
        job.remote.remove(&places)?;
        (job.gone)(batch.len() as u64);
    }
    still_ours(job, lease)?;
    let place = RemotePath::Control(Control::Tombstones);
    if plan.waiting.0.is_empty() {
        job.remote.remove(&[place])?;
    } else {
        job.remote.write(&place, &plan.waiting.to_text())?;
    }
    Ok(plan)
}

fn busy(job: &GcJob<'_>, which: Control, what: &'static str) -> Result<(), GcError> {
    let now = job.clock.now();
    match read_lease(job.remote, which)? {
        Some(lease) if lease.is_fresh(now) && lease.token != *job.token => {
            let left = lease.until.0.saturating_sub(now.0);
            Err(GcError::Busy { target: job.remote.name(), what, host: lease.host, left })
        }
        _ => Ok(()),
    }
}

/// Only with a clock that nothing contradicts may anything be removed.
fn believed(job: &GcJob<'_>, found: Result<(), ClockDoubt>) -> Result<(), GcError> {
    match found {
        Err(doubt) if !job.policy.trust_clock => Err(GcError::Clock { target: job.remote.name(), doubt }),
        _ => Ok(()),
    }
}

/// Only with a valid lease may anything be removed. Whether the target's clock confirms ours.
fn still_ours(job: &GcJob<'_>, lease: &mut Lease) -> Result<bool, GcError> {
    let now = job.clock.now();
    let lapsed = || GcError::Lapsed(job.remote.name());
    if !lease.is_fresh(now) {
        return Err(lapsed());
    }
    let (text, written) =
        job.remote.get_dated(&RemotePath::Control(Control::Collecting))?.unwrap_or_default();
    let found = Lease::decode(&text).ok().filter(|found| found.token == lease.token).ok_or_else(lapsed)?;
    if let Some(theirs) = written {
        believed(job, clock::compare(found.renewed_at(), theirs))?;
    }
    if lease.until.0.saturating_sub(now.0) <= super::lease::SECONDS / 2 {
        *lease = lease.renewed(now);
        job.remote.write(&RemotePath::Control(Control::Collecting), &lease.to_text())?;
    }
    Ok(written.is_some())
}
