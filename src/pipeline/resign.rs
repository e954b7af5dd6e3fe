//! Releases that are signed without a build: rollback, refresh and rotate.

use std::path::{Path, PathBuf};

use crate::pipeline::last_signed::{LastSigned, LastSignedError};
use crate::pipeline::previous_release::ReleaseError;
use crate::publish::{MirrorFiles, ReleaseState, ReleaseStateError, read_indexes, read_state};
use crate::release::{KeyError, NewestKnown, Ready, SigningKey};
use crate::repository::commit::commit_release;
use crate::repository::store::{Store, StoreError};
use crate::repository::targets::LocalTree;
use crate::sys::progress::Progress;
use formats::digest::Digest;
use formats::names::{Serial, UnixTime};
use formats::release::{
    DocumentError as Untrusted, KeyId, Latest, MirrorPath, Mirrors, Release, Successors, TrustedKeys, Upload,
    Verified,
};

/// What to sign again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResignAction {
    /// The maps of an old release, as a new one.
    Rollback {
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
#[derive(Clone, Copy)]
pub struct Signing<'a> {
    /// Who has signed what is there, and signs now.
    pub key: &'a SigningKey,
    /// For [`ResignAction::Rotate`]: who signs from now on.
    pub next: Option<&'a SigningKey>,
    /// Who else may have signed earlier releases.
    pub earlier: Option<&'a TrustedKeys>,
    /// Which release is the newest, as far as is known without its mirror.
    pub last_signed: &'a LastSigned,
    /// Where warnings are shown.
    pub progress: &'a dyn Progress,
    /// The time of day.
    pub now: UnixTime,
    /// Seconds for which blocks stay at least.
    pub retain: u64,
    /// Seconds for which `latest` is fresh.
    pub fresh: u64,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum ResignError {
    /// There is nothing to begin with.
    #[error("{0}: contains no release")]
    Empty(String),
    /// What is there can't be built upon.
    #[error("{place}: can't use its newest release; check that the key is the one that signed it")]
    State { place: String, source: ReleaseStateError },
    #[error("{place}: release {to}: not on the mirror; `imgfactory releases` lists those that are")]
    NoRelease { place: String, to: Serial },
    /// It is not what it should be.
    #[error("release {to}: can't be verified")]
    Untrusted { to: Serial, source: Untrusted },
    #[error("release {to}: revoked, as are all below {min}; a rollback must not bring it back")]
    Revoked {
        to: Serial,
        /// What `latest` says.
        min: Serial,
    },
    /// A key says once who comes after it.
    #[error("key {0} has a rotation statement already, and a statement can't be changed")]
    Rotated(String),
    /// The next key signs already.
    #[error("{place}: key {key} is the signing key already")]
    Signs { place: String, key: KeyId },
    /// Going back to where we are.
    #[error("release {0} is the newest already")]
    Same(Serial),
    /// A bound that can't be.
    #[error("--min-serial {min}: above the newest release, {newest}, so clients would refuse every release")]
    Bound { min: Serial, newest: Serial },
    /// A bound that goes down.
    #[error("--min-serial {min}: min-serial is {old} already, and it can't be lowered")]
    Lower {
        min: Serial,
        /// The one that holds.
        old: Serial,
    },
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    LastSigned(#[from] LastSignedError),
}

impl From<StoreError> for ResignError {
    fn from(error: StoreError) -> Self {
        ResignError::Release(error.into())
    }
}

/// Signs what is in the tree `root` again, and writes that there, with the upload manifest.
///
/// # Errors
/// [`ResignError`]; the tree is then as it was.
pub fn resign(
    root: &Path,
    manifest: &Path,
    action: &ResignAction,
    signing: &Signing<'_>,
) -> Result<Upload, ResignError> {
    let mut resigning = Resigning::of(root, signing)?;
    match *action {
        ResignAction::Rotate => resigning.rotate()?,
        ResignAction::Refresh { min } => resigning.refresh(min)?,
        ResignAction::Rollback { to, revoke } => resigning.roll_back(to, revoke)?,
    }
    let name = resigning.state.latest.name.clone();
    let ready = resigning.into_ready()?;
    let upload = commit_release(&Store::open(root)?, manifest, &name, &ready)?;
    signing.last_signed.remember(&LocalTree(root.into()))?;
    Ok(upload)
}

/// A tree's newest release, and what is to be written after it.
struct Resigning<'a> {
    signing: &'a Signing<'a>,
    tree: LocalTree,
    /// The keys that may have signed what is there.
    keys: TrustedKeys,
    state: ReleaseState,
    known: NewestKnown,
    latest: Latest,
    files: Vec<(MirrorPath, Vec<u8>)>,
    mirrors: Option<Vec<u8>>,
}

impl<'a> Resigning<'a> {
    fn of(root: &Path, signing: &'a Signing<'a>) -> Result<Self, ResignError> {
        let tree = LocalTree(root.into());
        let own = own_keys(signing.key);
        let keys = signing.earlier.map_or_else(|| own.clone(), |earlier| own.with(earlier));
        let place = || root.display().to_string();
        let state =
            read_state(&tree, &keys).map_err(|source| ResignError::State { place: place(), source })?;
        let mut state = state.ok_or_else(|| ResignError::Empty(place()))?;
        let Signing { last_signed, progress, now, .. } = *signing;
        let known = last_signed.check(root, Some(&state.latest), &keys, now, progress)?;
        state.latest.min_serial = known.min_serial(&state.latest);
        let latest = Latest {
            published: signing.now,
            expires: UnixTime(signing.now.0.saturating_add(signing.fresh)),
            ..state.latest.clone()
        };
        Ok(Resigning { signing, tree, keys, state, known, latest, files: vec![], mirrors: None })
    }

    /// The key that signs from now on.
    fn key(&self) -> &'a SigningKey {
        self.signing.next.unwrap_or(self.signing.key)
    }

    fn place(&self) -> String {
        self.tree.0.display().to_string()
    }

    fn locate(&self, path: &MirrorPath) -> PathBuf {
        self.tree.0.join(path.to_string())
    }

    fn unreadable(&self, source: impl Into<ReleaseStateError>) -> ResignError {
        ResignError::State { place: self.place(), source: source.into() }
    }

    fn refresh(&mut self, min: Option<Serial>) -> Result<(), ResignError> {
        let Latest { serial: newest, min_serial: old, .. } = self.state.latest;
        let min = min.unwrap_or(old);
        if min > newest {
            return Err(ResignError::Bound { min, newest });
        }
        if min < old {
            return Err(ResignError::Lower { min, old });
        }
        self.latest.min_serial = min;
        Ok(())
    }

    fn roll_back(&mut self, to: Serial, revoke: bool) -> Result<(), ResignError> {
        let newest = &self.state.latest;
        if to == newest.serial {
            return Err(ResignError::Same(to));
        }
        if to < newest.min_serial {
            return Err(ResignError::Revoked { to, min: newest.min_serial });
        }
        let path = MirrorPath::Release(to);
        let bytes = self.tree.read(&path, path.limit()).map_err(|error| self.unreadable(error))?;
        let bytes = bytes.ok_or_else(|| ResignError::NoRelease { place: self.place(), to })?;
        let untrusted = |source| ResignError::Untrusted { to, source };
        let release = Verified::<Release>::open(&bytes, &self.keys).map_err(untrusted)?;
        release.expect(&newest.name, to).map_err(untrusted)?;
        // Its indexes must be there: a release without them could not be fetched.
        read_indexes(&self.tree, &release, None).map_err(|source| self.unreadable(source))?;
        self.add_release(release.into_inner())?;
        if revoke {
            self.latest.min_serial = self.latest.serial;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), ResignError> {
        let key = self.key();
        if Verified::<Latest>::open(&self.state.latest_file, &own_keys(key)).is_ok() {
            return Err(ResignError::Signs { place: self.place(), key: key.id() });
        }
        let successors = Successors { name: self.state.latest.name.clone(), keys: vec![key.public_base64()] };
        let statement = self.rotation_statement(&successors)?;
        let list = self.mirror_list(&self.keys.with(&successors.trusted()))?;
        let list = key.sign(&list).map_err(unsigned)?;
        self.latest.mirrors = Digest::of(&list);
        self.mirrors = Some(list);
        self.files.push(statement);
        self.add_release(self.state.release.clone())
    }

    /// The old key's statement. An attempt that was cut short may have written it; then that one stays.
    fn rotation_statement(&self, successors: &Successors) -> Result<(MirrorPath, Vec<u8>), ResignError> {
        let key = self.signing.key;
        let path = MirrorPath::Keys(key.id());
        let written = self.tree.read(&path, path.limit()).map_err(|error| self.unreadable(error))?;
        let statement = match written {
            Some(file) => match Verified::<Successors>::open(&file, &own_keys(key)) {
                Ok(found) if *found == *successors => file,
                _ => return Err(ResignError::Rotated(key.id().to_string())),
            },
            None => key.sign(successors).map_err(unsigned)?,
        };
        Ok((path, statement))
    }

    fn mirror_list(&self, keys: &TrustedKeys) -> Result<Mirrors, ResignError> {
        let path = MirrorPath::Mirrors;
        let list = self
            .tree
            .read(&path, path.limit())
            .ok()
            .flatten()
            .and_then(|file| Verified::<Mirrors>::open(&file, keys).ok())
            .filter(|list| list.name == self.state.latest.name);
        let missing = || ReleaseError::Missing { path: self.locate(&path) };
        Ok(list.ok_or_else(missing)?.into_inner())
    }

    /// Makes `release` the newest one, under the next serial.
    fn add_release(&mut self, release: Release) -> Result<(), ResignError> {
        let Signing { now, retain, .. } = *self.signing;
        let next = self.known.next_serial(&self.state.latest);
        let serial = next.ok_or_else(|| ReleaseError::LastSerial { mirror: self.tree.0.clone() })?;
        let retain_until = UnixTime(now.0.saturating_add(retain));
        let release = Release { serial, published: now, retain_until, ..release };
        let signed = self.key().sign(&release).map_err(unsigned)?;
        self.latest.serial = serial;
        self.latest.release = Digest::of(&signed);
        self.files.push((MirrorPath::Release(serial), signed));
        Ok(())
    }

    fn into_ready(self) -> Result<Ready, ResignError> {
        let latest = self.key().sign(&self.latest).map_err(unsigned)?;
        let base = Some(self.state.latest.serial);
        let Resigning { latest: Latest { serial, .. }, files, mirrors, .. } = self;
        Ok(Ready { serial, base, blocks: vec![], files, mirrors, latest })
    }
}

fn own_keys(key: &SigningKey) -> TrustedKeys {
    TrustedKeys::parse(&key.public_text()).expect("a key's public text is that of a public key")
}

fn unsigned(source: KeyError) -> ResignError {
    ResignError::Release(ReleaseError::Sign(source))
}
