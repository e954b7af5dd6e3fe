//! `imgfactory build`, step by step. [`build`] is the list; each step is a file of its own.
//!
//! What is written under its final name is complete. A build that ends early leaves trees in the cache and
//! blocks in the mirror, which the next one uses; `latest`, and with it the release, comes last.

pub mod boot_order;
pub mod changes;
pub mod facts;
pub mod guest_services;
pub mod layouts;
pub mod offline_medium;
pub mod prefetch;
pub mod resign;
pub mod step_cache;
pub mod step_runner;
pub mod steps;

use std::path::{Path, PathBuf};

use crate::debian::{ArchiveMirrors, MmdebstrapMode};
use crate::project::folder::Project;
use crate::recipe::Recipe;
use crate::recipe::lock::Lock;
use crate::release::Draft;
use crate::release::SigningKey;
use crate::repository::published::Published;
use crate::repository::store::{Store, StoreError};
use crate::sys::progress::Progress;
use changes::{Publication, ReleaseChanges};
use facts::Facts;
use formats::names::{ImageName, UnixTime};
use formats::release::{Mirror, MirrorPath, MirrorUrl, TrustedKeys, Upload};
use step_runner::{Steps, Told};
use steps::systems::{self, Systems};
use steps::{image, iso, miniroot, release};
use system::files::{self, DirLock, FileError, Scratch};

/// What a build needs to know.
pub struct Request<'a> {
    /// What to build.
    pub recipe: &'a Recipe,
    /// Where the recipe's overlays, templates and scripts are.
    pub project: &'a Project,
    /// Output directory; docs/architecture.md says what is in it.
    pub out: &'a Path,
    /// Where trees and downloads are kept between builds.
    pub cache: &'a Path,
    /// Where the Debian archives are.
    pub mirrors: &'a ArchiveMirrors,
    /// Root, or an ordinary user.
    pub mode: MmdebstrapMode,
    /// SOURCE_DATE_EPOCH; without, the date of the newest InRelease.
    pub epoch: Option<i64>,
    /// Mirrored files of others, asked before the network.
    pub sources: Option<&'a Path>,
    /// What files of others are known by, beside what the recipe itself says.
    pub lock: &'a Lock,
    /// Use no network: InRelease files, trees and files of others come from the cache.
    pub offline: bool,
    /// Where the release is published that this one builds on; otherwise that of the output directory, if it has
    /// one. Of a published one nothing is needed but its indexes and layouts.
    pub previous: Option<&'a Published>,
    /// Lay every image out anew, whatever that costs.
    pub repack: bool,
    /// Public keys that clients trust, the one that signs the release among them, as minisign writes them.
    pub public: &'a str,
    /// The client for the miniroot: a static program.
    pub imgfetch: &'a [u8],
    /// The time of day, for `latest`.
    pub now: UnixTime,
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
}

/// What a build made.
#[derive(Debug)]
pub struct Built {
    /// What build.json says.
    pub facts: Facts,
    /// What is to be sent to mirrors.
    pub upload: Upload,
    /// The ISO.
    pub iso: PathBuf,
}

/// Why a build ended early.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A system's tree.
    #[error(transparent)]
    System(#[from] systems::SystemError),
    /// A miniroot.
    #[error(transparent)]
    Miniroot(#[from] miniroot::MinirootError),
    /// An image.
    #[error(transparent)]
    Image(#[from] image::ImageError),
    /// The ISO.
    #[error(transparent)]
    Iso(#[from] iso::IsoError),
    /// The release.
    #[error(transparent)]
    Release(#[from] release::ReleaseError),
    /// The mirror's tree.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// build.json.
    #[error(transparent)]
    Facts(#[from] facts::FactsError),
    /// The order of an image's files.
    #[error(transparent)]
    Order(#[from] boot_order::OrderError),
    /// A prefetch list.
    #[error(transparent)]
    Profile(#[from] prefetch::ProfileError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Who signs a release.
pub struct Signer<'a> {
    /// The key.
    pub key: &'a SigningKey,
    /// What was given for it: a path without `.key`, or another source of keys.
    pub name: &'a str,
}

/// Recipe -> trees -> images in blocks -> miniroot and ISO -> release and manifest.
///
/// # Errors
/// [`BuildError`]; what was there under a final name is then still there, and whole.
pub fn build(request: &Request<'_>, signer: &Signer<'_>) -> Result<Built, BuildError> {
    let out = Output::open(request.out)?;
    let mut steps = Steps::after(Facts::read(&out.dir).map(|facts| facts.steps).unwrap_or_default());
    let mut store = Store::open(out.mirror())?;
    let name = request.recipe.name.clone();
    let keys = TrustedKeys::parse(&signer.key.public_text()).expect("a key reads its own text");
    let last = release::Last::read(&mut store, request.previous, &name, &keys)?;

    let (systems, boot) = assemble(request, &out, &mut steps)?;
    let made = images(request, &systems, &last, &out.dir, &mut store, &mut steps)?;

    let target = out.dir.join(format!("{name}.iso"));
    let parts = steps.run("iso", Told::nothing, || iso::of_build(request, &systems, &boot, &target, &out))?;
    let figures = made.iter().map(|made| image::figures(&made.split)).collect();
    let draft = request.draft(name, &last, made, &out.dir)?;
    let upload = steps.run("release", Told::nothing, || {
        release::publish(&store, &out.manifest(), draft, &last, signer.key)
    })?;

    let mut facts = Facts::of(request.recipe, upload.serial, parts, figures, steps.into_done());
    facts.publish.keys = vec![signer.key.public_base64()];
    facts.publish.key = signer.name.to_owned();
    facts.write(&out.dir)?;
    Ok(Built { facts, upload, iso: target })
}

/// What a build would change of the release before, to the byte. Blocks are made for it, in a directory of the
/// cache that is emptied again; no secret key is needed. `target` is the output directory that the build would have: the
/// prefetch lists and orders of files beside it count, and nothing is written to it.
///
/// # Errors
/// [`BuildError`].
pub fn plan(request: &Request<'_>, target: &Path) -> Result<ReleaseChanges, BuildError> {
    let out = Output::open(request.out)?;
    let room = Scratch::directory(&out.dir)?;
    let mut steps = Steps::default();
    let mut store = Store::open(room.path())?;
    let name = request.recipe.name.clone();
    let keys = TrustedKeys::parse(request.public).map_err(release::ReleaseError::from)?;
    let last = release::Last::read(&mut store, request.previous, &name, &keys)?;
    let systems = systems(request, &out, &mut steps)?;
    let made = images(request, &systems, &last, target, &mut store, &mut steps)?;

    let images = made.iter().map(|made| (made.split.index.clone(), made.layout.clone())).collect();
    let before = last.publication();
    let draft = request.draft(name.clone(), &last, made, target)?;
    // Signatures of all keys are equally long.
    let any = SigningKey::generate().map_err(release::ReleaseError::from)?;
    let ready = draft.sign(last.previous.as_ref(), &any).map_err(release::ReleaseError::from)?;
    let texts = ready.mirrors.iter().map(|text| (MirrorPath::Mirrors, text));
    let texts = texts.chain([(MirrorPath::Latest, &ready.latest)]);
    let files = ready.files.iter().map(|(path, bytes)| (path.clone(), bytes));
    let files = files.chain(texts).map(|(path, bytes)| (path, bytes.len() as u64)).collect();
    let new = Publication { name, serial: ready.serial, images, files };
    Ok(ReleaseChanges::between(before.as_ref(), &new)
        .with_boots(&new, |image| boot_order::read(target, image))?)
}

/// All images of a build, in blocks. `target` is the output directory with the orders of files.
fn images(
    request: &Request<'_>,
    systems: &Systems,
    last: &release::Last,
    target: &Path,
    store: &mut Store,
    steps: &mut Steps,
) -> Result<Vec<image::Made>, BuildError> {
    let mut made = Vec::new();
    for system in systems.all() {
        let wanted = image::Wanted::of(request.recipe, system, systems.epoch, last);
        let wanted = image::Wanted { first: boot_order::read(target, &wanted.name)?, ..wanted };
        let before = last.before.get(&wanted.name).filter(|_| !request.repack);
        made.push(steps.run(format!("image {}", wanted.name), image::Made::told, || {
            image::make(&wanted, &system.tree, &systems.spools, before, store, request.progress)
        })?);
    }
    for disk in &systems.disks {
        let wanted = image::Wanted::of_disk(request.recipe, disk, systems.epoch, last);
        made.push(steps.run(format!("image {}", wanted.name), image::Made::told, || {
            image::take(&wanted, disk, store, request.progress)
        })?);
    }
    Ok(made)
}

/// What the images of a build hold, without the build: the finished trees, from the cache where it has them.
///
/// # Errors
/// [`BuildError`].
pub fn trees(request: &Request<'_>) -> Result<Systems, BuildError> {
    let out = Output::open(request.out)?;
    systems(request, &out, &mut Steps::default())
}

fn assemble(
    request: &Request<'_>,
    out: &Output,
    steps: &mut Steps,
) -> Result<(Systems, miniroot::Boot), BuildError> {
    let systems = systems(request, out, steps)?;
    let boot = miniroot::make(request, &systems, steps)?;
    Ok((systems, boot))
}

/// Every system as it will be in its image.
fn systems(request: &Request<'_>, out: &Output, steps: &mut Steps) -> Result<Systems, BuildError> {
    let mut systems = systems::make(request, out, steps)?;
    miniroot::install_in_guests(request, &mut systems, steps)?;
    Ok(systems)
}

impl Request<'_> {
    /// The release, unsigned; `target` is the output directory with the prefetch lists.
    fn draft(
        &self,
        name: ImageName,
        last: &release::Last,
        made: Vec<image::Made>,
        target: &Path,
    ) -> Result<Draft, prefetch::ProfileError> {
        let mirror = |url: &MirrorUrl| Mirror { url: url.clone(), max_connections: None, location: None };
        let layouts = made.iter().filter_map(|made| {
            let image = &made.split.index.header().image;
            Some((image.clone(), made.published_layout(last.before.get(image))?))
        });
        let layouts = layouts.collect();
        let anew = made.iter().filter_map(image::Made::anew).collect();
        let indexes: Vec<_> = made.into_iter().map(|made| made.split.index).collect();
        let lists = prefetch::lists(target, last.previous.as_ref(), &indexes, &anew)?;
        Ok(Draft {
            name,
            serial: last.next,
            layouts,
            indexes,
            lists,
            mirrors: self.recipe.mirrors.iter().map(mirror).collect(),
            published: self.now,
            retain_for: self.recipe.publish.retain,
            fresh_for: self.recipe.publish.fresh,
        })
    }
}

/// The output directory, held for this build alone.
pub struct Output {
    dir: PathBuf,
    _lock: DirLock,
}

impl Output {
    fn open(dir: &Path) -> Result<Self, FileError> {
        files::create_dir_all(dir.join(facts::LOGS))?;
        let lock = DirLock::take(dir)?;
        files::sweep(dir)?;
        Ok(Output { dir: dir.into(), _lock: lock })
    }

    fn mirror(&self) -> PathBuf {
        self.dir.join(facts::MIRROR)
    }

    fn logs(&self) -> PathBuf {
        self.dir.join(facts::LOGS)
    }

    fn manifest(&self) -> PathBuf {
        self.dir.join("upload.txt")
    }
}
