//! `imgfactory build`, step by step: [`build`] is the list, each step is a file in [`steps`].
//!
//! What a step depends on is declared before it runs ([`step_inputs`]); the hash of that is the key of its result in the
//! cache ([`step_cache`]), and `build.json` records it, for `imgfactory why` ([`step_runner`]).
//!
//! What is written under its final name is complete. A build that ends early leaves trees in the cache and
//! blocks in the mirror, which the next one uses; `latest`, and with it the release, comes last.

pub mod boot_order;
pub mod build_record;
pub mod changes;
pub mod guest_services;
pub mod last_signed;
pub mod layouts;
pub mod offline_medium;
pub mod prefetch;
pub mod previous_release;
mod request;
pub mod resign;
pub mod step_cache;
pub mod step_inputs;
pub mod step_runner;
pub mod steps;

use std::path::Path;

use crate::release::SigningKey;
use crate::repository::store::Store;
use crate::repository::targets::LocalTree;
use build_record::BuildRecord;
use changes::{Publication, ReleaseChanges};
use formats::release::{MirrorPath, TrustedKeys};
use previous_release::{PreviousRelease, ReleaseError};
pub use request::{BuildError, Built, OutputDirectory, ReleaseSigner, Request};
use step_cache::StepCache;
use step_runner::StepRunner;
use steps::systems::Systems;
use steps::{image, iso, miniroot, release, systems};
use system::files::Scratch;

/// Recipe -> trees -> images in blocks -> miniroot and ISO -> release and manifest.
///
/// # Errors
/// [`BuildError`]; what was there under a final name is then still there, and whole.
pub fn build(request: &Request<'_>, signer: &ReleaseSigner<'_>) -> Result<Built, BuildError> {
    let out = OutputDirectory::open(request.out)?;
    let cache = request.step_cache();
    let mut runner =
        StepRunner::after(BuildRecord::read(&out.dir).map(|record| record.steps).unwrap_or_default());
    let mut store = Store::open(out.mirror())?;
    let keys = TrustedKeys::parse(&signer.key.public_text()).expect("a key reads its own text");

    let previous = PreviousRelease::checked(request, &mut store, &keys)?;
    let systems = make_trees(request, &cache, &out, &mut runner)?;
    let boot = miniroot::make(request, &cache, &systems, &mut runner)?;
    let images = image::make_all(request, &systems, &previous, &out.dir, &mut store, &mut runner)?;
    let parts = iso::make_medium(request, &systems, &boot, &out, &mut runner)?;
    let figures = images.iter().map(|image| image::figures(&image.split)).collect();
    let draft = release::draft(request, &previous, images, &out.dir)?;
    let upload = release::commit(&store, &out.manifest(), draft, &previous, signer.key, &mut runner)?;
    request.last_signed.remember(&LocalTree(out.mirror())).map_err(ReleaseError::from)?;

    let mut record = BuildRecord::of(request.recipe, upload.serial, parts, figures, runner.into_records());
    record.publish.keys = vec![signer.key.public_base64()];
    record.publish.key = signer.name.to_owned();
    record.write(&out.dir)?;
    cache.shrink();
    Ok(Built { record, upload, iso: out.medium(&request.name()) })
}

/// What a build would change of the previous release, to the byte. Blocks are made for it, in a directory of the
/// cache that is emptied again; no secret key is needed. `target` is the output directory that the build would have: the
/// prefetch lists and file orders in it count, and nothing is written to it.
///
/// # Errors
/// [`BuildError`].
pub fn plan(request: &Request<'_>, target: &Path) -> Result<ReleaseChanges, BuildError> {
    let out = OutputDirectory::open(request.out)?;
    let cache = request.step_cache();
    let scratch = Scratch::directory(&out.dir)?;
    let mut runner = StepRunner::default();
    let mut store = Store::open(scratch.path())?;
    let keys = TrustedKeys::parse(request.public).map_err(ReleaseError::from)?;

    let previous = PreviousRelease::checked(request, &mut store, &keys)?;
    let systems = make_trees(request, &cache, &out, &mut runner)?;
    let images = image::make_all(request, &systems, &previous, target, &mut store, &mut runner)?;
    let maps = images.iter().map(|image| (image.split.index.clone(), image.layout.clone())).collect();
    let draft = release::draft(request, &previous, images, target)?;
    // Signatures of all keys are equally long.
    let any = SigningKey::generate().map_err(ReleaseError::from)?;
    let ready = draft.sign(previous.release.as_ref(), &any).map_err(ReleaseError::from)?;
    cache.shrink();

    let texts = ready.mirrors.iter().map(|text| (MirrorPath::Mirrors, text));
    let texts = texts.chain([(MirrorPath::Latest, &ready.latest)]);
    let files = ready.files.iter().map(|(path, bytes)| (path.clone(), bytes));
    let files = files.chain(texts).map(|(path, bytes)| (path, bytes.len() as u64)).collect();
    let new = Publication { name: request.name(), serial: ready.serial, images: maps, files };
    Ok(ReleaseChanges::between(previous.publication().as_ref(), &new)
        .with_boots(&new, |image| boot_order::read(target, image))?)
}

/// What the images of a build hold, without the build: the finished trees, from the cache where it has them.
///
/// # Errors
/// [`BuildError`].
pub fn trees(request: &Request<'_>) -> Result<Systems, BuildError> {
    let out = OutputDirectory::open(request.out)?;
    make_trees(request, &request.step_cache(), &out, &mut StepRunner::default())
}

/// Every system as it will be in its image; guests with the kernel and the miniroot that they start with.
fn make_trees(
    request: &Request<'_>,
    cache: &StepCache<'_>,
    out: &OutputDirectory,
    runner: &mut StepRunner,
) -> Result<Systems, BuildError> {
    let mut systems = systems::make(request, cache, out, runner)?;
    miniroot::install_in_guests(request, cache, &mut systems, runner)?;
    Ok(systems)
}
