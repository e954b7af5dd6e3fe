//! Releases without a build: an old state under a new number, or the same with a later date.

use std::path::Path;

use crate::pipeline::steps::release::ReleaseError;
use crate::publish::{MirrorFiles, ReleaseStateError, read_state};
use crate::release::SigningKey;
use crate::repository::store::{Store, StoreError};
use crate::repository::targets::LocalTree;
use formats::digest::Digest;
use formats::names::{Serial, UnixTime};
use formats::release::{
    DocumentError as Untrusted, KeyId, Latest, MirrorPath, Mirrors, Put, Release, Successors, TrustedKeys,
    Upload, Verified,
};
use system::files::{AtomicFile, FileError};

/// What to sign again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The maps of an old release, as a new one.
    Rollback {
        /// The old release.
        to: Serial,
        /// Whether all releases before the new one are revoked.
        revoke: bool,
    },
    /// `latest` alone.
    Refresh {
        /// Releases below it are revoked.
        min: Option<Serial>,
    },
    /// The newest state as a new release of the next key, and a word of the old key that names it.
    Rotate,
}

/// Who signs, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Signing<'a> {
    /// Who has signed what is there, and signs now.
    pub key: &'a SigningKey,
    /// For [`Again::Rotate`]: who signs from now on.
    pub next: Option<&'a SigningKey>,
    /// Who else may have signed earlier releases.
    pub earlier: Option<&'a TrustedKeys>,
    /// The time of day.
    pub now: UnixTime,
    /// Seconds for which blocks stay at least.
    pub retain: u64,
    /// Seconds for which `latest` is fresh.
    pub fresh: u64,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum AgainError {
    /// There is nothing to begin with.
    #[error("{0}: no release there")]
    Empty(String),
    /// What is there can't be built upon.
    #[error("{place}: can't be built upon; was it signed by another key?")]
    State {
        /// The tree.
        place: String,
        /// Why.
        source: ReleaseStateError,
    },
    /// No such release.
    #[error("{place}: release {to} is not there; there are those that `imgfactory releases` shows")]
    NoRelease {
        /// The tree.
        place: String,
        /// The release.
        to: Serial,
    },
    /// It is not what it should be.
    #[error("release {to}: can't be believed")]
    Untrusted {
        /// The release.
        to: Serial,
        /// Why.
        source: Untrusted,
    },
    /// It was revoked.
    #[error("release {to}: revoked, as all below {min}; clients would refuse what they know of it")]
    Revoked {
        /// The release.
        to: Serial,
        /// What `latest` says.
        min: Serial,
    },
    /// A key says once who comes after it.
    #[error("key {0} has named its successor already; what is written once is not changed")]
    Rotated(String),
    /// The next key signs already.
    #[error("{place}: key {key} signs there already")]
    Signs {
        /// The tree.
        place: String,
        /// The key.
        key: KeyId,
    },
    /// Going back to where we are.
    #[error("release {0} is the newest already")]
    Same(Serial),
    /// A bound that can't be.
    #[error("--min-serial {min}: above the newest release, {newest}; nothing would be left")]
    Bound {
        /// The bound.
        min: Serial,
        /// The newest release.
        newest: Serial,
    },
    /// A bound that goes down.
    #[error("--min-serial {min}: release {old} is the bound already, and it never goes down")]
    Lower {
        /// The bound.
        min: Serial,
        /// The one that holds.
        old: Serial,
    },
    /// Writing it.
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

impl From<StoreError> for AgainError {
    fn from(error: StoreError) -> Self {
        AgainError::Release(error.into())
    }
}

impl From<FileError> for AgainError {
    fn from(error: FileError) -> Self {
        AgainError::Release(error.into())
    }
}

/// Signs again.
///
/// # Errors
/// [`AgainError`]; the tree is then as it was.
pub fn again(
    root: &Path,
    manifest: &Path,
    what: &Again,
    signing: &Signing<'_>,
) -> Result<Upload, AgainError> {
    let place = || root.display().to_string();
    let tree = LocalTree(root.into());
    let Signing { key: old_key, now, retain, fresh, .. } = *signing;
    let key = signing.next.unwrap_or(old_key);
    let own = TrustedKeys::parse(&old_key.public_text()).expect("a key reads its own text");
    let keys = signing.earlier.map_or_else(|| own.clone(), |earlier| own.with(earlier));
    let here = |source| AgainError::State { place: place(), source };
    let state = read_state(&tree, &keys).map_err(here)?;
    let state = state.ok_or_else(|| AgainError::Empty(place()))?;
    let old = &state.latest;
    let failed = |source| AgainError::Release(ReleaseError::Sign(source));

    let mut latest = Latest { published: now, expires: UnixTime(now.0.saturating_add(fresh)), ..old.clone() };
    let mut files = Vec::new();
    let mut mirrors = None;
    let next_serial = || old.serial.next().ok_or(ReleaseError::LastSerial { mirror: root.into() });
    let mut renew = |release: Release, latest: &mut Latest| -> Result<(), AgainError> {
        let serial = next_serial()?;
        let retain_until = UnixTime(now.0.saturating_add(retain));
        let signed =
            key.sign(&Release { serial, published: now, retain_until, ..release }).map_err(failed)?;
        latest.serial = serial;
        latest.release = Digest::of(&signed);
        files.push((MirrorPath::Release(serial), signed));
        Ok(())
    };
    match *what {
        Again::Rotate => {
            let next = TrustedKeys::parse(&key.public_text()).expect("a key reads its own text");
            if Verified::<Latest>::open(&state.latest_file, &next).is_ok() {
                return Err(AgainError::Signs { place: place(), key: key.id() });
            }
            let path = MirrorPath::Keys(old_key.id());
            let successors = Successors { name: old.name.clone(), keys: vec![key.public_base64()] };
            // An attempt that was cut short may have got so far; that is as good.
            let statement =
                match tree.read(&path, path.limit()).map_err(ReleaseStateError::from).map_err(here)? {
                    Some(file) => match Verified::<Successors>::open(&file, &own) {
                        Ok(found) if *found == successors => file,
                        _ => return Err(AgainError::Rotated(old_key.id().to_string())),
                    },
                    None => old_key.sign(&successors).map_err(failed)?,
                };
            let both = keys.with(&successors.trusted());
            let missing = || ReleaseError::Missing { path: root.join(MirrorPath::Mirrors.to_string()) };
            let list = tree
                .read(&MirrorPath::Mirrors, MirrorPath::Mirrors.limit())
                .ok()
                .flatten()
                .and_then(|file| Verified::<Mirrors>::open(&file, &both).ok())
                .filter(|list| list.name == old.name)
                .ok_or_else(missing)?;
            let list = key.sign(&*list).map_err(failed)?;
            latest.mirrors = Digest::of(&list);
            mirrors = Some(list);
            renew(state.release.clone(), &mut latest)?;
            files.insert(0, (path, statement));
        }
        Again::Refresh { min } => {
            let min = min.unwrap_or(old.min_serial);
            if min > old.serial {
                return Err(AgainError::Bound { min, newest: old.serial });
            }
            if min < old.min_serial {
                return Err(AgainError::Lower { min, old: old.min_serial });
            }
            latest.min_serial = min;
        }
        Again::Rollback { to, revoke } => {
            if to == old.serial {
                return Err(AgainError::Same(to));
            }
            if to < old.min_serial {
                return Err(AgainError::Revoked { to, min: old.min_serial });
            }
            let path = MirrorPath::Release(to);
            let bytes = tree
                .read(&path, path.limit())
                .map_err(|error| AgainError::State { place: place(), source: error.into() })?;
            let bytes = bytes.ok_or_else(|| AgainError::NoRelease { place: place(), to })?;
            let untrusted = |source| AgainError::Untrusted { to, source };
            let release = Verified::<Release>::open(&bytes, &keys).map_err(untrusted)?;
            release.expect(&old.name, to).map_err(untrusted)?;
            // The maps must be there: a release without them would be none.
            crate::publish::read_indexes(&tree, &release, None)
                .map_err(|source| AgainError::State { place: place(), source })?;
            renew(release.into_inner(), &mut latest)?;
            if revoke {
                latest.min_serial = latest.serial;
            }
        }
    }
    let latest_file = key.sign(&latest).map_err(failed)?;
    let upload = Upload {
        name: latest.name.clone(),
        serial: latest.serial,
        base: Some(old.serial),
        puts: files
            .iter()
            .map(|(path, bytes)| Put { path: path.clone(), digest: Digest::of(bytes) })
            .collect(),
        mirrors: mirrors.as_deref().map(Digest::of),
        latest: Digest::of(&latest_file),
    };
    let mut out = AtomicFile::create(manifest)?;
    upload.encode(&mut out).map_err(|source| FileError::new(manifest, "write", source))?;
    let store = Store::open(root)?;
    let synced = store.sync()?;
    for (path, bytes) in &files {
        synced.write(path, bytes)?;
    }
    out.commit_synced()?;
    if let Some(mirrors) = &mirrors {
        synced.write(&MirrorPath::Mirrors, mirrors)?;
    }
    synced.write(&MirrorPath::Latest, &latest_file)?;
    Ok(upload)
}
