//! From keys and mirrors to the map of one disk: `latest` -> release -> index, each link checked by the one
//! above it. `latest` is asked of all mirrors at once, which also tells which of them is near; the rest is asked
//! of the best, and what one of them says wrongly, the next may say rightly.

mod freshness;
mod guess;
mod medium;
mod race;
mod seek;
mod successors;

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::cache::Cache;
use crate::engine::Known;
use crate::threads::{Coming, Queue, work_out};
use formats::fetch_fault::Blame;
use formats::fetch_fault::FetchFault as Fault;
use formats::index::Index;
use formats::names::{ImageName, Serial};
use formats::release::{
    Dlahead, Document, ImageFiles, Latest, MirrorPath, MirrorUrl, Mirrors, Release, TrustedKeys, Verified,
};
use freshness::{Freshness, freshness};
use guess::{Guess, Guessed};
use race::{Said, Standing, order, race};
use system::clock;
use system::files::FileError;
use system::http::{Get, Http};

/// Whom to ask and how.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The client.
    pub http: Arc<Http>,
    /// At least one.
    pub mirrors: Vec<MirrorUrl>,
    /// Who may sign.
    pub keys: Arc<TrustedKeys>,
    /// What is remembered; `None`: nothing is.
    pub cache: Option<Arc<Cache>>,
    /// When to give up.
    pub until: Instant,
    /// Whether all mirrors are asked at once, or one after the other in their order.
    pub netselect: bool,
    standings: Arc<Mutex<Vec<Standing>>>,
    late: Arc<Mutex<Option<Arc<Queue<Said>>>>>,
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
    /// The signed list of mirrors, while it is coming.
    pub mirrors: Option<Coming<Mirrors>>,
    /// The prefetch list, while it is coming.
    pub list: Option<Coming<Dlahead>>,
}

impl Chosen {
    /// The prefetch list, if the release has one and it could be had; waits for it. Once.
    pub fn prefetch_list(&self) -> Option<Dlahead> {
        self.list.as_ref()?.take()?
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        /// Whether one of them has something that is to be refused, and not just nothing.
        refused: bool,
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

impl Origin {
    /// To ask these mirrors.
    pub fn new(
        http: Arc<Http>,
        mirrors: Vec<MirrorUrl>,
        keys: Arc<TrustedKeys>,
        cache: Option<Arc<Cache>>,
        until: Instant,
    ) -> Self {
        let standings = Arc::new(Mutex::new(vec![Standing::default(); mirrors.len()]));
        Origin { http, mirrors, keys, cache, until, netselect: true, standings, late: Arc::default() }
    }

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
            Some(keys) => Origin { keys: Arc::new(keys), ..self.clone() }.choose_now(wanted),
            None => Err(error),
        }
    }

    fn choose_now(&self, wanted: &Wanted) -> Result<Chosen, OriginError> {
        let found = match wanted.release {
            Some(serial) => self.pinned(wanted, serial).map(|release| (release, None, Guessed::default())),
            None => self.newest(wanted),
        };
        let (release, mirrors, guessed) = match found {
            Ok(found) => found,
            // A mirror that answers with something to be refused is no dead network.
            Err(error @ OriginError::NoMirror { refused: false, .. }) => {
                return self.offline(wanted, &error).ok_or(error);
            }
            Err(error) => return Err(error),
        };
        let Some(files) = release.image(&wanted.image).cloned() else {
            return Err(OriginError::NoImage {
                name: release.name.clone(),
                serial: release.serial,
                image: wanted.image.clone(),
                has: release.images.iter().map(|image| image.name.clone()).collect(),
            });
        };
        let list = self.begin_list(&files, guessed.list);
        let index = Arc::new(self.index(&release, &files, guessed.index)?);
        self.remember(wanted, &release)?;
        Ok(Chosen { release, files, index, mirrors, list })
    }

    /// What is known of each mirror by now, in their order.
    pub fn known(&self) -> Vec<Known> {
        // Those that have answered in the meantime.
        if let Some(late) = &*lock(&self.late) {
            let mut standings = lock(&self.standings);
            while let Some(Said { mirror, answer }) = late.take_until(Instant::now()) {
                let Some(standing) = standings.get_mut(mirror) else { continue };
                match answer {
                    Ok(answer) if Verified::<Latest>::open(&answer.bytes, &self.keys).is_ok() => {
                        standing.answered(&answer);
                    }
                    Ok(_) => standing.failed(Blame::File),
                    Err(fault) => standing.failed(fault.blame()),
                }
            }
        }
        lock(&self.standings).iter().map(Standing::known).collect()
    }

    /// Mirrors in the order in which they are asked.
    fn ordered(&self) -> Vec<usize> {
        let standings = lock(&self.standings);
        if self.netselect {
            return order(&standings);
        }
        let failed = |place: &usize| standings[*place].blame.is_some();
        let places = || 0..self.mirrors.len();
        places().filter(|place| !failed(place)).chain(places().filter(failed)).collect()
    }

    /// What the cache remembers, when no mirror is to be had: the release that was used last, if it is the one wanted.
    fn offline(&self, wanted: &Wanted, why: &OriginError) -> Option<Chosen> {
        let cache = self.cache.as_deref()?;
        let name = wanted.name.clone().or_else(|| cache.only_name())?;
        let text = cache.saved_release(&name)?;
        let open = |keys: &TrustedKeys| Verified::<Release>::open(&text, keys).ok();
        let release = open(&self.keys).or_else(|| open(&self.kept_successors(wanted)?))?.into_inner();
        let accepted = cache.accepted_serial(&name).ok()?;
        let files = release.image(&wanted.image).cloned()?;
        let index = files.open_index(&cache.saved_index(&name, &wanted.image)?).ok()?;
        let expected = match wanted.release {
            Some(serial) => release.serial == serial,
            // An older one under the name: it was pinned, or somebody wrote into the cache.
            None => Some(release.serial) >= accepted && !wanted.strict,
        };
        if release.name != name || !expected {
            return None;
        }
        let (serial, date) = (release.serial, clock::date(release.published));
        log::warn!("{why}; going on with what the cache has: release {serial} of {date}");
        let list = self.begin_list(&files, None);
        Some(Chosen { release, files, index: Arc::new(index), mirrors: None, list })
    }

    /// The release that the person asked for.
    fn pinned(&self, wanted: &Wanted, serial: Serial) -> Result<Release, OriginError> {
        let mut text = Vec::new();
        let open = |bytes: &[u8]| {
            text = bytes.to_vec();
            let release = Verified::<Release>::open(bytes, &self.keys).map_err(not_signed)?;
            let name = wanted.name.as_ref().unwrap_or(&release.name);
            release.expect(name, serial).map_err(not_signed)?;
            Ok(release.into_inner())
        };
        let release = self.file(&MirrorPath::Release(serial), Release::LIMIT, None, open)?;
        self.not_revoked(wanted, &release)?;
        self.keep(&release, &text);
        Ok(release)
    }

    /// For when there is no network: this is the release that was used last.
    fn keep(&self, release: &Release, text: &[u8]) {
        if let Some(Err(error)) = self.cache.as_deref().map(|cache| cache.save_release(&release.name, text)) {
            log::warn!("{error}; without a network this release can't be used");
        }
    }

    /// The newest release that a mirror has, the list of mirrors, and what was asked for before it was known.
    fn newest(&self, wanted: &Wanted) -> Result<(Release, Option<Coming<Mirrors>>, Guessed), OriginError> {
        // Its name is known, and the connection that it comes over is soon needed.
        let early = self.begin_early();
        let latest = self.latest(wanted)?;
        // Small and not needed: it may come while the release does, or not.
        let mirrors = self.begin_mirrors(&latest, early);
        let guessed = self.guess(wanted, &latest);
        let mut text = Vec::new();
        let open = |bytes: &[u8]| {
            text = bytes.to_vec();
            latest.open_release(bytes, &self.keys).map(Verified::into_inner).map_err(not_signed)
        };
        let release = self.file(&latest.release_path(), Release::LIMIT, Some(latest.release.len), open)?;
        self.keep(&release, &text);
        Ok((release, mirrors, guessed))
    }

    fn begin_mirrors(&self, latest: &Latest, early: Option<Coming<Vec<u8>>>) -> Option<Coming<Mirrors>> {
        let best = self.mirrors.get(*self.ordered().first()?)?;
        let url = format!("{best}{}", MirrorPath::Mirrors);
        let (http, keys, latest, until) =
            (Arc::clone(&self.http), Arc::clone(&self.keys), latest.clone(), self.until);
        let fetch = move || {
            let early = early.and_then(|coming| coming.take()?);
            if let Some(Ok(list)) = early.map(|bytes| latest.open_mirrors(&bytes, &keys)) {
                return Some(list.into_inner());
            }
            let get = Get { len: Some(latest.mirrors.len), ..Get::new(&url, Mirrors::LIMIT, until) };
            let answer = http.get(get).map_err(|fault| detail!("{url}: {fault}")).ok()?;
            latest.open_mirrors(&answer.bytes, &keys).ok().map(Verified::into_inner)
        };
        Some(work_out("mirrors", fetch))
    }

    fn begin_list(&self, files: &ImageFiles, guessed: Option<Guess>) -> Option<Coming<Dlahead>> {
        files.dlahead?;
        let (origin, files) = (self.clone(), files.clone());
        let list = move || {
            let open = |bytes: &[u8]| files.open_dlahead(bytes).map_err(not_signed);
            let path = files.dlahead_path()?;
            origin.guessed(&path, guessed, open).flatten().or_else(|| origin.prefetch_list(&files))
        };
        Some(work_out("list", list))
    }

    /// A `latest` that is accepted: the first fresh one, or else the highest of those that have expired. `once`:
    /// mirrors are asked once only.
    fn latest_of_mirrors(&self, wanted: &Wanted, once: bool) -> Result<Latest, OriginError> {
        let stale: RefCell<Option<Latest>> = RefCell::new(None);
        let mut state = None;
        // Of those that answer at the same time.
        let mut best = None;
        let open = |bytes: &[u8]| {
            let latest = Verified::<Latest>::open(bytes, &self.keys).map_err(not_signed)?.into_inner();
            if let Some(name) = wanted.name.as_ref().filter(|name| **name != latest.name) {
                return Err(refused(format!("latest: is of `{}`; `{name}` was asked for", latest.name)));
            }
            match self.cache.as_ref().map(|cache| cache.accepted_serial(&latest.name)).transpose() {
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
            if let Some(newer) = best.filter(|newer| latest.serial < *newer) {
                return Err(refused(format!(
                    "offers release {} where another mirror has {newer}",
                    latest.serial
                )));
            }
            match freshness(&latest, clock::now()) {
                Freshness::Fresh => {
                    best = Some(latest.serial);
                    Ok(latest)
                }
                doubt if wanted.strict => Err(refused(format!("{doubt}; refused (--strict)"))),
                // Nothing can be compared with a clock that is wrong.
                doubt @ Freshness::Unknown { .. } => {
                    if best != Some(latest.serial) {
                        log::warn!("{doubt}; going on");
                    }
                    best = Some(latest.serial);
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
    fn index(
        &self,
        release: &Release,
        files: &ImageFiles,
        guessed: Option<Guess>,
    ) -> Result<Index, OriginError> {
        let kept = self.cache.as_ref().and_then(|cache| cache.saved_index(&release.name, &files.name));
        if let Some(index) = kept.and_then(|text| files.open_index(&text).ok()) {
            return Ok(index);
        }
        let open = |bytes: &[u8]| {
            let index = files.open_index(bytes).map_err(not_signed)?;
            if let Some(Err(error)) =
                self.cache.as_ref().map(|cache| cache.save_index(&release.name, &files.name, bytes))
            {
                log::warn!("{error}; the index is fetched again the next time");
            }
            Ok(index)
        };
        let len = files.index.digest.len;
        match self.guessed(&files.index_path(), guessed, open) {
            Some(index) => Ok(index),
            None => self.file(&files.index_path(), len, Some(len), open),
        }
    }

    fn remember(&self, wanted: &Wanted, release: &Release) -> Result<(), OriginError> {
        let serial = release.serial;
        let Some(cache) = &self.cache else {
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

    /// The prefetch list, if the release has one. It is only a help: without it, `None`.
    fn prefetch_list(&self, files: &ImageFiles) -> Option<Dlahead> {
        let (path, stored) = (files.dlahead_path()?, files.dlahead?);
        let len = stored.digest.len;
        let list = self.file(&path, len, Some(len), |bytes| files.open_dlahead(bytes).map_err(not_signed));
        list.map_err(|error| log::warn!("{error}; going on without prefetch")).ok().flatten()
    }
}

/// Asks all mirrors for `latest`, at once: each mirror's place and answer, as they come, until the time is over.
pub fn ask_all(
    http: &Arc<Http>,
    mirrors: &[MirrorUrl],
    until: Instant,
) -> impl Iterator<Item = (usize, Result<system::http::Answer, Fault>)> {
    let said = race(http, mirrors, until);
    let answers = (0..mirrors.len()).map_while(move |_| said.take_until(until));
    answers.map(|Said { mirror, answer }| (mirror, answer))
}

fn not_signed(error: formats::release::DocumentError) -> Fault {
    Fault::NotSigned(error.to_string())
}

fn refused(text: String) -> Fault {
    Fault::NotSigned(text)
}
