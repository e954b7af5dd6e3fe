//! From keys and mirrors to the map of one disk: `latest` -> release -> index, each link checked by the one
//! above it. Mirrors are asked in order; what one of them says wrongly, the next may say rightly.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::fetch::{Blame, Fault};
use crate::host::cache::Cache;
use crate::host::clock;
use crate::host::files::FileError;
use crate::host::http::{Get, Http};
use crate::index::{ImageName, Index, Serial, UnixTime};
use crate::release::{
    Document, ImageFiles, Latest, MAX_HOPS, MirrorPath, MirrorUrl, Release, Successors, TrustedKeys, Verified,
};

/// Between two rounds through all mirrors; doubled each time, 2 s at most.
const PAUSE: Duration = Duration::from_millis(200);
/// With a release on the medium, mirrors are not waited for longer than this.
const WITH_MEDIUM: Duration = Duration::from_secs(5);
/// While nothing works, a line is said this often.
const NEWS: Duration = Duration::from_secs(10);

/// Whom to ask and how.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The client.
    pub http: &'a Http,
    /// At least one.
    pub mirrors: &'a [MirrorUrl],
    /// Who may sign.
    pub keys: &'a TrustedKeys,
    /// What is remembered; `None`: nothing is.
    pub cache: Option<&'a Cache>,
    /// When to give up.
    pub until: Instant,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The image.
    pub image: ImageName,
    /// The distribution; `None`: whichever the mirrors have and our keys have signed.
    pub name: Option<ImageName>,
    /// This release, however old; `None`: the newest.
    pub release: Option<Serial>,
    /// Refuse what may be stale.
    pub strict: bool,
}

/// A release that may be used.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The release.
    pub release: Release,
    /// Its files of the image.
    pub files: ImageFiles,
    /// The image's map.
    pub index: Arc<Index>,
}

/// Why there is no release to use.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// No mirror had a file that could be used.
    #[error("can't get {file} from any mirror{}{hint}", EachMirror(.faults))]
    NoMirror {
        /// The file.
        file: String,
        /// What each one said last.
        faults: Vec<(MirrorUrl, String)>,
        /// What a person can do.
        hint: &'static str,
    },
    /// No such image.
    #[error("release {serial} of `{name}` has no image `{image}`; it has {}", list(.has))]
    NoImage {
        /// The distribution.
        name: ImageName,
        /// The release.
        serial: Serial,
        /// What was asked for.
        image: ImageName,
        /// What there is.
        has: Vec<ImageName>,
    },
    /// The publisher has revoked the release that was asked for.
    #[error(
        "release {serial} was revoked by its publisher, as all below {min}; leave out --release for the newest"
    )]
    Revoked {
        /// What was asked for.
        serial: Serial,
        /// The lowest that may be used.
        min: Serial,
    },
    /// What is remembered can't be read.
    #[error(transparent)]
    State(#[from] FileError),
    /// It can't be remembered, and `--strict` wants it to be.
    #[error("can't remember that release {serial} was accepted; without --strict it would be used anyway")]
    NotRemembered {
        /// The release.
        serial: Serial,
        /// Why.
        #[source]
        source: FileError,
    },
}

struct EachMirror<'a>(&'a [(MirrorUrl, String)]);

impl fmt::Display for EachMirror<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [(mirror, fault)] => write!(f, ": {mirror}: {fault}"),
            all => all.iter().try_for_each(|(mirror, fault)| write!(f, "\n{mirror}: {fault}")),
        }
    }
}

fn list(names: &[ImageName]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

impl Origin<'_> {
    /// Finds the release and reads the image's map. The serial is remembered, synced, before this returns.
    ///
    /// # Errors
    /// [`OriginError`], at `until` at the latest; at once when every mirror gave an answer that will not change.
    pub fn choose(&self, wanted: &Wanted) -> Result<Chosen, OriginError> {
        let error = match self.choose_now(wanted) {
            Err(error @ OriginError::NoMirror { .. }) => error,
            result => return result,
        };
        // Perhaps the publisher has another key by now, and the one that we know says so.
        match self.successors(wanted) {
            Some(keys) => Origin { keys: &keys, ..*self }.choose_now(wanted),
            None => Err(error),
        }
    }

    /// Our keys and those that they name as their successors; `None` when they name none.
    fn successors(&self, wanted: &Wanted) -> Option<TrustedKeys> {
        let mut keys = self.keys.clone();
        let mut asked = Vec::new();
        for _ in 0..MAX_HOPS {
            let Some(id) = keys.ids().find(|id| !asked.contains(id)) else { break };
            asked.push(id);
            let path = MirrorPath::Keys(id);
            for mirror in self.mirrors {
                let url = format!("{mirror}{path}");
                let until = self.until.min(Instant::now() + NEWS);
                let get = Get { url: &url, limit: Successors::LIMIT, len: None, until, fresh: false };
                let found = self.http.get(get).and_then(|answer| {
                    Verified::<Successors>::open(&answer.bytes, &keys).map_err(not_signed)
                });
                match found {
                    Ok(next)
                        if next.key() == id && wanted.name.as_ref().is_none_or(|name| *name == next.name) =>
                    {
                        keys = keys.with(&next.trusted());
                        break;
                    }
                    Ok(_) => {}
                    Err(fault) => detail!("{mirror}: {path}: {fault}"),
                }
            }
        }
        (keys.ids().count() > self.keys.ids().count()).then_some(keys)
    }

    fn choose_now(&self, wanted: &Wanted) -> Result<Chosen, OriginError> {
        let release = match wanted.release {
            Some(serial) => {
                let release = self.pinned(wanted, serial)?;
                self.not_revoked(wanted, &release)?;
                release
            }
            None => self.newest(wanted)?,
        };
        let Some(files) = release.image(&wanted.image).cloned() else {
            return Err(OriginError::NoImage {
                name: release.name.clone(),
                serial: release.serial,
                image: wanted.image.clone(),
                has: release.images.iter().map(|image| image.name.clone()).collect(),
            });
        };
        let index = Arc::new(self.index(&release, &files)?);
        self.remember(wanted, &release)?;
        Ok(Chosen { release, files, index })
    }

    /// The release that the person asked for.
    fn pinned(&self, wanted: &Wanted, serial: Serial) -> Result<Release, OriginError> {
        let open = |bytes: &[u8]| {
            let release = Verified::<Release>::open(bytes, self.keys).map_err(not_signed)?;
            let name = wanted.name.as_ref().unwrap_or(&release.name);
            release.expect(name, serial).map_err(not_signed)?;
            Ok(release.into_inner())
        };
        self.file(&MirrorPath::Release(serial), Release::LIMIT, None, open)
    }

    /// Whether the newest `latest` still lets this release be used. Without one nothing can be told.
    fn not_revoked(&self, wanted: &Wanted, release: &Release) -> Result<(), OriginError> {
        let wanted = Wanted { name: Some(release.name.clone()), strict: false, ..wanted.clone() };
        // The mirrors that gave the release will not keep us waiting for this.
        let until = self.until.min(Instant::now() + NEWS);
        match (Origin { until, ..*self }).latest(&wanted) {
            Ok(latest) if release.serial < latest.min_serial => {
                Err(OriginError::Revoked { serial: release.serial, min: latest.min_serial })
            }
            Ok(_) => Ok(()),
            Err(error) => {
                detail!("whether release {} was revoked can't be told: {error}", release.serial);
                Ok(())
            }
        }
    }

    /// The newest release that a mirror has.
    fn newest(&self, wanted: &Wanted) -> Result<Release, OriginError> {
        let latest = self.latest(wanted)?;
        let open = |bytes: &[u8]| {
            latest.open_release(bytes, self.keys).map(Verified::into_inner).map_err(not_signed)
        };
        self.file(&latest.release_path(), Release::LIMIT, Some(latest.release.len), open)
    }

    /// The newest `latest` of mirrors and the medium. With a medium, mirrors are not waited for.
    fn latest(&self, wanted: &Wanted) -> Result<Latest, OriginError> {
        let Some(own) = self.latest_of_medium(wanted) else { return self.latest_of_mirrors(wanted, false) };
        let until = self.until.min(Instant::now() + WITH_MEDIUM);
        match (Origin { until, ..*self }).latest_of_mirrors(wanted, true) {
            Ok(latest) if latest.serial >= own.serial => return Ok(latest),
            Ok(latest) => {
                log::warn!(
                    "the mirrors have release {}, the medium {}; going on with that",
                    latest.serial,
                    own.serial
                );
            }
            Err(error) => log::warn!("{error}; going on with the medium, release {}", own.serial),
        }
        Ok(own)
    }

    /// What the medium says is the newest. However old: there is no other.
    fn latest_of_medium(&self, wanted: &Wanted) -> Option<Latest> {
        let cache = self.cache.as_ref()?;
        let text = cache.on_medium(&MirrorPath::Latest, Latest::LIMIT)?;
        let opened = Verified::<Latest>::open(&text, self.keys).map_err(not_signed);
        let latest = opened.map_err(|fault| log::warn!("medium: {fault}; not used")).ok()?.into_inner();
        let accepted = cache.accepted_serial(&latest.name).ok()?;
        let other = wanted.name.as_ref().is_some_and(|name| *name != latest.name);
        if other || accepted > Some(latest.serial) {
            log::warn!("medium: release {} of `{}`; not used", latest.serial, latest.name);
            return None;
        }
        if wanted.strict && freshness(&latest, clock::now()) != Freshness::Fresh {
            log::warn!("medium: release {} may be stale; not used (--strict)", latest.serial);
            return None;
        }
        Some(latest)
    }

    /// A `latest` that is accepted: the first fresh one, or else the highest of those that have expired. `once`:
    /// mirrors are asked once only.
    fn latest_of_mirrors(&self, wanted: &Wanted, once: bool) -> Result<Latest, OriginError> {
        let stale: RefCell<Option<Latest>> = RefCell::new(None);
        let mut state = None;
        let open = |bytes: &[u8]| {
            let latest = Verified::<Latest>::open(bytes, self.keys).map_err(not_signed)?.into_inner();
            if let Some(name) = wanted.name.as_ref().filter(|name| **name != latest.name) {
                return Err(refused(format!("latest: is of `{}`; `{name}` was asked for", latest.name)));
            }
            match self.cache.map(|cache| cache.accepted_serial(&latest.name)).transpose() {
                Ok(Some(Some(accepted))) if latest.serial < accepted => {
                    return Err(refused(format!(
                        "offers release {} where {accepted} was already used; older ones are refused (to use it \
                         anyway: --release {})",
                        latest.serial, latest.serial
                    )));
                }
                Ok(_) => {}
                Err(error) => {
                    let text = error.to_string();
                    state = Some(error);
                    return Err(refused(text));
                }
            }
            match freshness(&latest, clock::now()) {
                Freshness::Fresh => Ok(latest),
                doubt if wanted.strict => Err(refused(format!("{doubt}; refused (--strict)"))),
                // Nothing can be compared with a clock that is wrong.
                doubt @ Freshness::Unknown { .. } => {
                    log::warn!("{doubt}; going on");
                    Ok(latest)
                }
                doubt @ Freshness::Expired { .. } => {
                    let mut stale = stale.borrow_mut();
                    if stale.as_ref().is_none_or(|known| known.serial < latest.serial) {
                        *stale = Some(latest);
                    }
                    Err(refused(doubt.to_string()))
                }
            }
        };
        // Better an expired one than to wait for mirrors that don't answer.
        let enough = || once || stale.borrow().is_some();
        let found = self.file_or(&MirrorPath::Latest, Latest::LIMIT, None, open, &enough);
        match (found, stale.take(), state) {
            (Ok(latest), ..) => Ok(latest),
            (Err(_), Some(latest), _) => {
                let (serial, date) = (latest.serial, clock::date(latest.expires));
                log::warn!(
                    "latest: release {serial} has expired on {date}, and no mirror has a newer one; going on"
                );
                Ok(latest)
            }
            (Err(_), None, Some(error)) => Err(error.into()),
            (Err(error), None, None) => Err(error),
        }
    }

    /// The map: the one kept from the last time if it is still the right one, or from a mirror.
    fn index(&self, release: &Release, files: &ImageFiles) -> Result<Index, OriginError> {
        let kept = self.cache.and_then(|cache| cache.saved_index(&release.name, &files.name));
        if let Some(index) = kept.and_then(|text| files.open_index(&text).ok()) {
            return Ok(index);
        }
        let open = |bytes: &[u8]| {
            let index = files.open_index(bytes).map_err(not_signed)?;
            if let Some(Err(error)) =
                self.cache.map(|cache| cache.save_index(&release.name, &files.name, bytes))
            {
                log::warn!("{error}; the index is fetched again the next time");
            }
            Ok(index)
        };
        let len = files.index.digest.len;
        self.file(&files.index_path(), len, Some(len), open)
    }

    fn remember(&self, wanted: &Wanted, release: &Release) -> Result<(), OriginError> {
        let serial = release.serial;
        let Some(cache) = self.cache else {
            detail!("no cache: that release {serial} was accepted is not remembered");
            return Ok(());
        };
        match cache.accept_serial(&release.name, serial) {
            Ok(()) => Ok(()),
            Err(source) if wanted.strict => Err(OriginError::NotRemembered { serial, source }),
            Err(error) => {
                log::warn!("{error}; an older release would not be noticed the next time");
                Ok(())
            }
        }
    }

    /// Takes a file from the medium and opens it, or fetches it, from one mirror after the other, until `until`.
    fn file<T>(
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
    fn file_or<T>(
        &self,
        path: &MirrorPath,
        limit: u64,
        len: Option<u64>,
        mut open: impl FnMut(&[u8]) -> Result<T, Fault>,
        enough: &dyn Fn() -> bool,
    ) -> Result<T, OriginError> {
        let mut pause = PAUSE;
        let mut said: Option<Instant> = None;
        let mut fresh = *path == MirrorPath::Latest;
        loop {
            let mut faults = Vec::new();
            let mut hope = false;
            for mirror in self.mirrors {
                let url = format!("{mirror}{path}");
                // A mirror that keeps silent must leave time for the others.
                let share = self.until.saturating_duration_since(Instant::now()) / 2;
                let until = Instant::now() + share.max(Duration::from_secs(1));
                let get = Get { url: &url, limit, len, until, fresh };
                let result = self.http.get(get).and_then(|answer| match open(&answer.bytes) {
                    Err(_) if answer.web_page => Err(Fault::WebPage),
                    opened => opened,
                });
                match result {
                    Ok(opened) => return Ok(opened),
                    Err(fault) => {
                        detail!("{mirror}: {path}: {fault}");
                        hope |= fault.blame() != Blame::File;
                        fresh |= fault.is_wrong_bytes();
                        faults.push((mirror.clone(), fault.to_string()));
                    }
                }
            }
            if !hope || enough() || Instant::now() + pause >= self.until {
                let hint =
                    if hope { "; is the network up, and is the address of the mirror right?" } else { "" };
                return Err(OriginError::NoMirror { file: path.to_string(), faults, hint });
            }
            if said.is_none_or(|at| at.elapsed() >= NEWS) {
                said = Some(Instant::now());
                let left = self.until.saturating_duration_since(Instant::now()).as_secs();
                let last =
                    faults.last().map(|(mirror, fault)| format!("{mirror}: {fault}")).unwrap_or_default();
                log::warn!("{path}: no mirror has answered well yet ({last}); trying for {left} s more");
            }
            thread::sleep(pause);
            pause = (2 * pause).min(Duration::from_secs(2));
        }
    }

    /// The prefetch list, if the release has one. It is only a help: without it, `None`.
    pub fn prefetch_list(&self, files: &ImageFiles) -> Option<crate::release::Dlahead> {
        let (path, stored) = (files.dlahead_path()?, files.dlahead?);
        let len = stored.digest.len;
        let list = self.file(&path, len, Some(len), |bytes| files.open_dlahead(bytes).map_err(not_signed));
        list.map_err(|error| log::warn!("{error}; going on without prefetch")).ok().flatten()
    }
}

fn not_signed(error: crate::release::Error) -> Fault {
    Fault::NotSigned(error.to_string())
}

fn refused(text: String) -> Fault {
    Fault::NotSigned(text)
}

/// What the clock says about a `latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    Fresh,
    Expired { serial: Serial, expires: UnixTime },
    Unknown { serial: Serial, now: UnixTime, published: UnixTime },
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Freshness::Fresh => f.write_str("fresh"),
            Freshness::Expired { serial, expires } => {
                write!(f, "latest: release {serial} has expired on {}", clock::date(*expires))
            }
            Freshness::Unknown { serial, now, published } => write!(
                f,
                "latest: the clock says {}, and release {serial} is of {}: set the clock; whether there is a \
                 newer release can't be told",
                clock::date(*now),
                clock::date(*published)
            ),
        }
    }
}

fn freshness(latest: &Latest, now: UnixTime) -> Freshness {
    let Latest { serial, published, expires, .. } = *latest;
    if now < published {
        Freshness::Unknown { serial, now, published }
    } else if now > expires {
        Freshness::Expired { serial, expires }
    } else {
        Freshness::Fresh
    }
}
