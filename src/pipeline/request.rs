//! What a build needs, and what it gives.

use std::path::{Path, PathBuf};

use crate::debian::{ArchiveMirrors, MmdebstrapMode};
use crate::pipeline::build_record::{self, BuildRecord};
use crate::pipeline::last_signed::LastSigned;
use crate::pipeline::previous_release::ReleaseError;
use crate::pipeline::step_cache::StepCache;
use crate::pipeline::steps::{image, iso, miniroot, systems};
use crate::pipeline::{boot_order, prefetch};
use crate::project::folder::Project;
use crate::recipe::Recipe;
use crate::recipe::lock::Lock;
use crate::release::SigningKey;
use crate::repository::published::Published;
use crate::repository::store::StoreError;
use crate::sys::progress::Progress;
use formats::names::{ImageName, UnixTime};
use formats::release::Upload;
use system::files::{self, DirLock, FileError};
use system::http::HttpOptions;

/// What a build needs to know.
pub struct Request<'a> {
    pub recipe: &'a Recipe,
    /// Where the recipe's overlays, templates and scripts are.
    pub project: &'a Project,
    /// Output directory; docs/architecture.md says what is in it.
    pub out: &'a Path,
    /// Where trees and downloads are kept between builds.
    pub cache: &'a Path,
    /// How many bytes they may take.
    pub cache_limit: u64,
    /// Where the Debian archives are.
    pub mirrors: &'a ArchiveMirrors,
    /// Root, or an ordinary user.
    pub mode: MmdebstrapMode,
    /// SOURCE_DATE_EPOCH; without, the date of the newest InRelease.
    pub epoch: Option<i64>,
    /// Directory of mirrored third-party files, asked before the network.
    pub sources: Option<&'a Path>,
    /// Checksums of third-party files that the recipe itself does not give.
    pub lock: &'a Lock,
    /// Use no network: InRelease files, trees and third-party files come from the cache.
    pub offline: bool,
    /// Where the release is published that this one builds on; otherwise that of the output directory, if it has
    /// one. Of a published one only its indexes and layouts are needed.
    pub previous: Option<&'a Published>,
    /// Which release is the newest, as far as is known without its mirror.
    pub last_signed: LastSigned,
    /// Give every image a fresh layout, whatever that costs.
    pub repack: bool,
    /// Public keys that clients trust, the one that signs the release among them, as minisign writes them.
    pub public: &'a str,
    /// The client for the miniroot: a static program.
    pub imgfetch: &'a [u8],
    /// The time of day, for `latest`.
    pub now: UnixTime,
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
    /// How web servers are reached.
    pub web: &'a HttpOptions,
}

impl<'a> Request<'a> {
    /// The name of the distribution that is built.
    pub(super) fn name(&self) -> ImageName {
        self.recipe.name.clone()
    }

    /// The cache of steps, for this recipe.
    pub(super) fn step_cache(&self) -> StepCache<'a> {
        StepCache::new(self.cache, self.recipe.name.as_str(), self.cache_limit, self.progress)
    }
}

/// Who signs a release.
pub struct ReleaseSigner<'a> {
    pub key: &'a SigningKey,
    /// What was given for it: a path without `.key`, or another source of keys.
    pub name: &'a str,
}

/// What a build made.
#[derive(Debug)]
pub struct Built {
    pub record: BuildRecord,
    /// What is to be sent to mirrors.
    pub upload: Upload,
    pub iso: PathBuf,
}

/// Why a build ended early.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    System(#[from] systems::SystemError),
    #[error(transparent)]
    Miniroot(#[from] miniroot::MinirootError),
    #[error(transparent)]
    Image(#[from] image::ImageError),
    #[error(transparent)]
    Iso(#[from] iso::MakeIsoError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    BuildRecord(#[from] build_record::BuildRecordError),
    /// The order of an image's files.
    #[error(transparent)]
    Order(#[from] boot_order::OrderError),
    #[error(transparent)]
    Profile(#[from] prefetch::ProfileError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// The output directory, locked for this build.
pub struct OutputDirectory {
    pub(super) dir: PathBuf,
    _lock: DirLock,
}

impl OutputDirectory {
    pub(super) fn open(dir: &Path) -> Result<Self, FileError> {
        files::create_dir_all(dir.join(build_record::LOGS))?;
        let lock = DirLock::take(dir)?;
        files::sweep(dir)?;
        Ok(OutputDirectory { dir: dir.into(), _lock: lock })
    }

    pub(super) fn mirror(&self) -> PathBuf {
        self.dir.join(build_record::MIRROR)
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.dir.join(build_record::LOGS)
    }

    pub(super) fn manifest(&self) -> PathBuf {
        self.dir.join("upload.txt")
    }

    pub(super) fn medium(&self, name: &ImageName) -> PathBuf {
        self.dir.join(format!("{name}.iso"))
    }
}
