//! The `latest` that was signed last, kept where no mirror can change it: in the output directory, and in the state file
//! that the user names.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::publish::{MirrorFiles, RemoteError};
use crate::release::{NewestKnown, NewestVerdict, NotNewest};
use crate::repository::targets::LocalTree;
use crate::sys::progress::Progress;
use formats::names::{Serial, UnixTime};
use formats::release::{DocumentError, Latest, MirrorPath, TrustedKeys, Verified};
use system::files::{AtomicFile, FileError, read_at_most};

/// Its name in the output directory.
pub const FILE: &str = "last-signed";

/// Where it is kept, and what the user says beside.
#[derive(Clone, Debug, Default)]
pub struct LastSigned {
    /// The output directory.
    pub out: PathBuf,
    /// `--state`.
    pub state: Option<PathBuf>,
    /// `--newest`.
    pub stated: Option<Serial>,
}

/// Why it is not known which release is the newest.
#[derive(Debug, thiserror::Error)]
pub enum LastSignedError {
    #[error("{}: can't go on from it", place.display())]
    NotNewest {
        /// The tree that is built upon.
        place: PathBuf,
        source: NotNewest,
    },
    /// There is nothing to go on from, but there was.
    #[error(
        "{}: contains no release, but release {known} was signed already; give the mirror that has it, or, to begin a \
         new distribution, remove {}",
        place.display(), state.display()
    )]
    Nothing {
        /// Where the release ought to be.
        place: PathBuf,
        known: Serial,
        /// The file that says so.
        state: PathBuf,
    },
    #[error("{}: can't be used as a state file", path.display())]
    Untrusted { path: PathBuf, source: DocumentError },
    /// A wrong path must not turn the check off.
    #[error(
        "{}: no such file; check that release {found} is the newest, then add --newest {found}, and the file is made",
        path.display()
    )]
    Missing {
        path: PathBuf,
        /// The newest release of the tree that is built upon.
        found: Serial,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

impl LastSigned {
    /// Checks that the release of the tree `place` is the newest, as far as can be known, and says what comes after it.
    ///
    /// # Errors
    /// [`LastSignedError`].
    pub fn check(
        &self,
        place: &Path,
        latest: Option<&Latest>,
        keys: &TrustedKeys,
        now: UnixTime,
        progress: &dyn Progress,
    ) -> Result<NewestKnown, LastSignedError> {
        let own = match read(&self.out.join(FILE), keys) {
            // The key was changed by hand.
            Err(LastSignedError::Untrusted { source: DocumentError::UnknownKey { .. }, path }) => {
                progress.say(&format!("{}: signed by another key; not used", path.display()));
                None
            }
            own => own?,
        };
        let state = match &self.state {
            Some(path) => read(path, keys)?,
            None => None,
        };
        let newest = |latest: &Latest| (latest.serial, latest.min_serial);
        let has_state = state.is_some();
        let last = own.into_iter().chain(state).max_by_key(newest);
        let known = NewestKnown { last, stated: self.stated };
        let wrong = |source| LastSignedError::NotNewest { place: place.into(), source };
        let Some(latest) = latest else {
            let state = self.state.clone().filter(|_| has_state).unwrap_or_else(|| self.out.join(FILE));
            return match known.highest() {
                Some(known) => Err(LastSignedError::Nothing { place: place.into(), known, state }),
                None => Ok(known),
            };
        };
        if let Some(path) = self.state.clone().filter(|_| !has_state && self.stated.is_none()) {
            return Err(LastSignedError::Missing { path, found: latest.serial });
        }
        if known.admit(latest, now).map_err(wrong)? == NewestVerdict::Unconfirmed {
            progress.say(&format!(
                "{}: only the mirror says that release {} is the newest; --state FILE remembers it from now on",
                place.display(),
                latest.serial
            ));
        }
        Ok(known)
    }

    /// Remembers the `latest` of the tree, which was signed just now.
    ///
    /// # Errors
    /// [`LastSignedError::File`], [`LastSignedError::Remote`].
    pub fn remember(&self, tree: &LocalTree) -> Result<(), LastSignedError> {
        let path = MirrorPath::Latest;
        let Some(latest) = tree.read(&path, path.limit())? else { return Ok(()) };
        let own = self.out.join(FILE);
        for path in [Some(&own), self.state.as_ref()].into_iter().flatten() {
            // A power cut must not leave half of it: nobody could sign then.
            let mut file = AtomicFile::create(path)?;
            file.write_all(&latest).map_err(|error| FileError::new(path, "write", error))?;
            file.commit_synced()?;
        }
        Ok(())
    }
}

/// What is kept in this file, if it is there.
fn read(path: &Path, keys: &TrustedKeys) -> Result<Option<Latest>, LastSignedError> {
    let bytes = match read_at_most(path, MirrorPath::Latest.limit()) {
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let untrusted = |source| LastSignedError::Untrusted { path: path.into(), source };
    Ok(Some(Verified::<Latest>::open(&bytes, keys).map_err(untrusted)?.into_inner()))
}
