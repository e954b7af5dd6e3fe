//! The release that a build starts from: read and verified, with the layouts of its images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::pipeline::Request;
use crate::pipeline::changes::Publication;
use crate::pipeline::last_signed::LastSignedError;
use crate::pipeline::layouts::{self, LayoutFault, PublishedLayout};
use crate::pipeline::steps::image::PreviousImage;
use crate::publish::{MirrorFiles, ReleaseState, ReleaseStateError, RemoteError, read_state};
use crate::release::KeyError;
use crate::release::Previous;
use crate::repository::published::Published;
use crate::repository::store::{Store, StoreError};
use crate::repository::targets::LocalTree;
use formats::index::{Index, Parent};
use formats::names::{ImageName, Serial};
use formats::release::{BadKey, DocumentError as Untrusted, ImageFiles, MirrorPath, TrustedKeys};
use system::files::FileError;

/// Why the mirror's state can't be read, or a release can't be written.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The mirror in the output directory is not ours, or damaged.
    #[error(
        "{}: can't build on its previous release; give the key that signed it, or build into another directory",
        path.display()
    )]
    Previous {
        path: PathBuf,
        /// What is wrong with it.
        source: Untrusted,
    },
    /// A file that the last release needs is gone.
    #[error(
        "{}: missing, but the previous release needs it; restore it, or build into another directory",
        path.display()
    )]
    Missing { path: PathBuf },
    /// The mirror in the output directory belongs to another recipe.
    #[error("{}: the mirror is of `{found}`, not of `{want}`; build into another directory", mirror.display())]
    OtherName { mirror: PathBuf, found: ImageName, want: ImageName },
    /// Serials end at 2^63 - 1.
    #[error("{}: the previous release has serial {}, the highest possible", mirror.display(), Serial::MAX)]
    LastSerial { mirror: PathBuf },
    /// Nothing is published there.
    #[error("{}: contains no release to build on; leave out --previous for the first release", path.display())]
    Nothing {
        /// Where `latest` ought to be.
        path: PathBuf,
    },
    #[error("{}: can't build on its previous release", place.display())]
    Layout {
        place: PathBuf,
        /// What is wrong with it.
        source: LayoutFault,
    },
    /// It may not be the newest one.
    #[error(transparent)]
    LastSigned(#[from] LastSignedError),
    /// What is published can't be read.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A public key is none.
    #[error("can't read the public key")]
    Key(#[from] BadKey),
    #[error("can't sign the release")]
    Sign(#[from] KeyError),
    /// The mirror's tree failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manifest can't be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The release that a build starts from, and the number of the next one.
#[derive(Debug)]
pub struct PreviousRelease {
    /// What is there; `None` in a new mirror.
    pub release: Option<Previous>,
    /// The number of a release that differs from it.
    pub next: Serial,
    /// Its images that have a layout.
    pub images: PreviousImages,
}

impl PreviousRelease {
    /// Reads the release that `latest` names, verified, and lets the store believe its blocks: that of the mirror
    /// in the output directory, or one that is published elsewhere, none of whose blocks is needed here.
    ///
    /// # Errors
    /// [`ReleaseError::Previous`] when it is not signed by `keys` or not whole; [`ReleaseError::OtherName`];
    /// [`ReleaseError::Nothing`] when none is published where one ought to be.
    pub fn read(
        store: &mut Store,
        published: Option<&Published>,
        name: &ImageName,
        keys: &TrustedKeys,
    ) -> Result<Self, ReleaseError> {
        let own = LocalTree(store.root().into());
        let (files, latest): (&dyn MirrorFiles, _) = match published {
            Some(published) => (published, published.locate(&MirrorPath::Latest)),
            None => (&own, store.locate(&MirrorPath::Latest)),
        };
        let tree = ReleaseTree { root: latest.parent().unwrap_or(&latest).into() };
        let (release, images) = match tree.read(files, name, keys)? {
            Some((release, images)) => (Some(release), images),
            None if published.is_some() => {
                return Err(ReleaseError::Nothing { path: tree.locate(&MirrorPath::Latest) });
            }
            None => {
                return Ok(PreviousRelease { release: None, next: Serial::FIRST, images: BTreeMap::new() });
            }
        };
        for index in release.iter().flat_map(|release| &release.indexes) {
            match published {
                Some(_) => store.trust_published(index),
                None => store.trust(index),
            }
        }
        let next = release.as_ref().and_then(|release| release.latest.serial.next());
        let next = next.ok_or_else(|| ReleaseError::LastSerial { mirror: store.root().into() })?;
        Ok(PreviousRelease { release, next, images })
    }

    /// As [`PreviousRelease::read`], for a build; a release that may not be the newest one is refused.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub fn checked(
        request: &Request<'_>,
        store: &mut Store,
        keys: &TrustedKeys,
    ) -> Result<Self, ReleaseError> {
        let mut previous = Self::read(store, request.previous, &request.name(), keys)?;
        let place = match request.previous {
            Some(published) => published.locate(&MirrorPath::Latest),
            None => store.locate(&MirrorPath::Latest),
        };
        let place = place.parent().unwrap_or(&place);
        let latest = previous.release.as_ref().map(|release| &release.latest);
        let known = request.last_signed.check(place, latest, keys, request.now, request.progress)?;
        if let Some(release) = &mut previous.release {
            let next = known.next_serial(&release.latest);
            previous.next = next.ok_or_else(|| ReleaseError::LastSerial { mirror: place.into() })?;
            release.latest.min_serial = known.min_serial(&release.latest);
        }
        Ok(previous)
    }

    /// The release as [`ReleaseChanges`](crate::pipeline::changes::ReleaseChanges) compares it.
    pub fn publication(&self) -> Option<Publication> {
        let Previous { latest, release, indexes, .. } = self.release.as_ref()?;
        let layout = |index: &Index| Some(self.images.get(&index.header().image)?.map.clone());
        let files =
            release.images.iter().flat_map(ImageFiles::files).map(|(path, digest)| (path, digest.len));
        Some(Publication {
            name: latest.name.clone(),
            serial: latest.serial,
            images: indexes.iter().map(|index| (index.clone(), layout(index))).collect(),
            files: files.chain([(latest.release_path(), latest.release.len)]).collect(),
        })
    }

    /// What an image's next index names as its parent.
    pub fn parent(&self, image: &ImageName) -> Option<Parent> {
        let index = self.release.as_ref()?.release.image(image)?.index;
        Some(Parent { serial: index.serial, sha256: index.digest.sha256 })
    }
}

/// The images of a release that have a layout.
type PreviousImages = BTreeMap<ImageName, PreviousImage>;

/// The tree that is read, as errors name it.
struct ReleaseTree {
    root: PathBuf,
}

impl ReleaseTree {
    fn locate(&self, path: &MirrorPath) -> PathBuf {
        self.root.join(path.to_string())
    }

    fn fault(&self, error: ReleaseStateError) -> ReleaseError {
        match error {
            ReleaseStateError::Missing { path, .. } => ReleaseError::Missing { path: self.locate(&path) },
            ReleaseStateError::Untrusted(path, source) => {
                ReleaseError::Previous { path: self.locate(&path), source }
            }
            ReleaseStateError::Remote(error) => error.into(),
        }
    }

    fn read(
        &self,
        files: &dyn MirrorFiles,
        name: &ImageName,
        keys: &TrustedKeys,
    ) -> Result<Option<(Previous, PreviousImages)>, ReleaseError> {
        let Some(state) = read_state(files, keys).map_err(|error| self.fault(error))? else {
            return Ok(None);
        };
        let ReleaseState { latest, release, indexes, .. } = state;
        if latest.name != *name {
            let mirror = self.root.clone();
            return Err(ReleaseError::OtherName { mirror, found: latest.name, want: name.clone() });
        }
        let mirrors = files.read(&MirrorPath::Mirrors, MirrorPath::Mirrors.limit())?;
        let mirrors =
            mirrors.and_then(|file| Some((latest.open_mirrors(&file, keys).ok()?.into_inner(), file)));
        let (mut images, mut lists) = (BTreeMap::new(), Vec::new());
        for (image, index) in release.images.iter().zip(&indexes) {
            if let Some(path) = image.dlahead_path() {
                let file = files.read(&path, path.limit())?;
                let file = file.ok_or_else(|| ReleaseError::Missing { path: self.locate(&path) })?;
                let untrusted = |source| ReleaseError::Previous { path: self.locate(&path), source };
                lists.extend(image.open_dlahead(&file).map_err(untrusted)?);
            }
            let known = layouts::read(files, image)
                .map_err(|source| ReleaseError::Layout { place: self.root.clone(), source })?;
            let Some(PublishedLayout { map, base }) = known else { continue };
            // A layout of a disk of another size is none of this one's.
            if u64::from(map.geometry.blocks) * u64::from(crate::ext2::BLOCK) == index.header().size {
                let index = index.clone();
                images.insert(image.name.clone(), PreviousImage { index, map, base: Some(base) });
            }
        }
        Ok(Some((Previous { latest, release, indexes, lists, mirrors }, images)))
    }
}
