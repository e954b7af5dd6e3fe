//! Step: a tree becomes the blocks of a disk in the mirror's store, and their index. No image file is written.
//!
//! With a previous release, the tree is laid out so that as few blocks as possible change, and only those are made:
//! [`PreparedImage`] -> [`PlannedImage`] -> [`BuiltImage`].

mod plan;

use std::path::Path;
use std::sync::Arc;

use sha2::Digest as _;

use crate::ext2::{ImagePlanError, InodeSize, LayoutMap, Profile, WriteError};
use crate::pipeline::boot_order;
use crate::pipeline::build_record;
use crate::pipeline::previous_release::PreviousRelease;
use crate::pipeline::step_inputs::StepInputs;
use crate::pipeline::step_runner::StepRunner;
use crate::pipeline::steps::disks::GuestDisk;
use crate::pipeline::steps::split::{self, Split, SplitError};
use crate::pipeline::steps::systems::{SystemTree, Systems};
use crate::pipeline::{BuildError, Request};
use crate::recipe::Recipe;
use crate::release::Layout;
use crate::repository::store::Store;
use crate::sys::progress::Progress;
use crate::tree::{Contents, Tree};
use formats::block::Codec;
use formats::digest::Sha256;
use formats::index::{BlockContents, Header, Index, Parent};
use formats::names::{BlockSize, ImageName, Serial, UnixTime};
use formats::release::Stored;
pub use plan::{PlannedImage, PreparedImage, Rendered};

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The tree can't be an ext2 file system.
    #[error("image `{image}`")]
    Plan { image: ImageName, source: ImagePlanError },
    /// Its contents can't be read.
    #[error("image `{image}`")]
    Contents { image: ImageName, source: WriteError },
    /// A disk could not be read or split.
    #[error("image `{image}`")]
    Take { image: ImageName, source: SplitError<std::io::Error> },
    /// It could not be written or split.
    #[error("image `{image}`")]
    Split { image: ImageName, source: SplitError<WriteError> },
}

/// What an image is to be.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    pub name: ImageName,
    /// The release that it is made for.
    pub serial: Serial,
    /// Raw bytes of a block.
    pub block_size: BlockSize,
    /// Compressor of block files.
    pub codec: Codec,
    pub epoch: u64,
    /// Bytes free for what the system writes.
    pub free: u64,
    /// Bytes of an inode.
    pub inode_size: InodeSize,
    /// Whether what is no longer used is overwritten with zeros.
    pub zero_freed: bool,
    pub profile: Profile,
    /// The image's index in the previous release.
    pub parent: Option<Parent>,
    /// Paths of what is read first ([`ext2::Options::first`]).
    pub first: Vec<Vec<u8>>,
    /// How files are laid out.
    pub choices: LayoutChoices,
}

/// LayoutChoices of a layout. Those of builds are the default; `cargo bench --bench update` compares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutChoices {
    /// Large files begin where a block of the disk begins.
    pub aligned: bool,
    /// Fewest freed pages in a row that are used again where they lie.
    pub least_run: u32,
}

impl Default for LayoutChoices {
    fn default() -> Self {
        LayoutChoices { aligned: true, least_run: LEAST_RUN }
    }
}

impl ImageSpec {
    /// What the recipe says of a system's image, for the next release.
    pub fn of(recipe: &Recipe, system: &SystemTree, epoch: i64, previous: &PreviousRelease) -> Self {
        ImageSpec {
            free: system.image.free,
            zero_freed: system.image.zero_freed,
            inode_size: system.image.inode_size,
            profile: system.profile,
            ..ImageSpec::named(recipe, &system.name, epoch, previous)
        }
    }

    /// Likewise of a disk, of which nothing is to be made.
    pub fn of_disk(recipe: &Recipe, disk: &GuestDisk, epoch: i64, previous: &PreviousRelease) -> Self {
        ImageSpec::named(recipe, &disk.name, epoch, previous)
    }

    fn named(recipe: &Recipe, name: &ImageName, epoch: i64, previous: &PreviousRelease) -> Self {
        ImageSpec {
            name: name.clone(),
            serial: previous.next,
            block_size: recipe.blocks.size,
            codec: recipe.blocks.codec,
            epoch: u64::try_from(epoch).unwrap_or(0),
            free: 0,
            zero_freed: false,
            inode_size: InodeSize::default(),
            profile: Profile::default(),
            parent: previous.parent(name),
            first: Vec::new(),
            choices: LayoutChoices::default(),
        }
    }
}

impl ImageSpec {
    /// What the image depends on beside its contents. The previous release is not among them: where things are placed
    /// depends on it, what the disk holds does not.
    fn inputs(&self) -> StepInputs {
        let inputs = StepInputs::new()
            .with("block size", self.block_size.get())
            .with("codec", self.codec)
            .with("free space", format!("{}{}", self.free, if self.zero_freed { ", zeros" } else { "" }))
            .with("inode size", self.inode_size.bytes())
            .with("file system for", format!("{:?}", self.profile));
        if self.first.is_empty() {
            return inputs;
        }
        let order = Sha256::of(&self.first.join(&b'\n'));
        inputs.with("file order", format!("{} paths, {order}", self.first.len()))
    }
}

/// An image of the previous release.
#[derive(Clone, Debug)]
pub struct PreviousImage {
    pub index: Index,
    pub map: Arc<LayoutMap>,
    /// The published layout that the next one may be an update of.
    pub base: Option<(Stored, Arc<LayoutMap>)>,
}

/// An image in blocks, and what the next build needs of it.
#[derive(Debug)]
pub struct BuiltImage {
    pub split: Split,
    /// The layout, for `layout.z`; a disk that is taken as it is has none.
    pub layout: Option<Arc<LayoutMap>>,
    /// Whether the layout of the previous release was kept.
    pub stable: bool,
}

/// An update of a layout is published as long as it takes at most half of the whole one.
const UPDATE_SHARE: u64 = 2;

impl BuiltImage {
    /// Whether every block is that of the previous release.
    pub fn is_unchanged(&self) -> bool {
        let figures = &self.split.figures;
        self.stable && figures.carried + figures.zero == u64::from(self.split.index.block_count())
    }

    /// Its name, if it got a fresh layout: then everything is at another place.
    pub fn repacked(&self) -> Option<ImageName> {
        let fresh = self.layout.is_some() && !self.stable;
        fresh.then(|| self.split.index.header().image.clone())
    }

    /// The layout as it is published: what changed of a published one, or all of it.
    pub fn published_layout(&self, previous: Option<&PreviousImage>) -> Option<Layout> {
        let layout = self.layout.as_ref()?;
        let base = previous.and_then(|previous| previous.base.as_ref());
        let update = base.and_then(|(stored, map)| {
            let file = layout.encode_update(map, stored.digest.sha256)?;
            let pays = file.len() as u64 * UPDATE_SHARE <= stored.digest.len;
            pays.then_some(Layout { file, base: Some(*stored) })
        });
        Some(update.unwrap_or_else(|| Layout { file: layout.encode(), base: None }))
    }
}

/// Fewest freed pages in a row that are used again where they lie. `cargo bench --bench update` compares others.
pub const LEAST_RUN: u32 = 4;

/// All images of a build, in blocks: those of trees, then those of disks. `target` is the output directory with the file
/// orders.
///
/// # Errors
/// [`BuildError`]. Blocks written by then stay, and the next build finds them.
pub fn make_all(
    request: &Request<'_>,
    systems: &Systems,
    previous: &PreviousRelease,
    target: &Path,
    store: &mut Store,
    runner: &mut StepRunner,
) -> Result<Vec<BuiltImage>, BuildError> {
    let mut images = Vec::new();
    for system in systems.all() {
        images.push(make_system(request, systems, system, previous, target, store, runner)?);
    }
    for disk in &systems.disks {
        let spec = ImageSpec::of_disk(request.recipe, disk, systems.epoch, previous);
        let inputs = spec.inputs();
        let made = runner.key_of(&format!("disk {}", disk.name));
        let inputs = inputs.with("disk", made.unwrap_or_default());
        let built = runner.run(format!("image {}", spec.name), inputs, |run| {
            let built = take(&spec, disk, store, request.progress)?;
            run.found("contents", disk_digest(&built.split.index));
            Ok::<_, ImageError>(built)
        })?;
        images.push(built);
    }
    Ok(images)
}

fn make_system(
    request: &Request<'_>,
    systems: &Systems,
    system: &SystemTree,
    previous: &PreviousRelease,
    target: &Path,
    store: &mut Store,
    runner: &mut StepRunner,
) -> Result<BuiltImage, BuildError> {
    let spec = ImageSpec::of(request.recipe, system, systems.epoch, previous);
    let spec = ImageSpec { first: boot_order::read(target, &spec.name)?, ..spec };
    let previous = previous.images.get(&spec.name).filter(|_| !request.repack);
    let step = runner.start(format!("image {}", spec.name));
    let prepared = PreparedImage::new(&spec, &system.tree, &systems.spools, previous, request.progress)?;
    let mut inputs = spec.inputs().with("tree", prepared.digest());
    if request.repack {
        inputs.add("repack", "yes");
    }
    let built = step.run(inputs, |run| {
        let planned = prepared.plan(&spec, &systems.spools, request.progress)?;
        let built = planned.write(store, request.progress)?;
        run.used_earlier_result(built.is_unchanged());
        run.found("layout", if built.stable { "kept" } else { "fresh" });
        run.found("contents", disk_digest(&built.split.index));
        Ok::<_, ImageError>(built)
    })?;
    Ok(built)
}

/// What a disk holds, whatever release it is of: the blocks, in order.
pub fn disk_digest(index: &Index) -> Sha256 {
    let header = index.header();
    let mut sum = sha2::Sha256::new();
    sum.update(header.size.to_le_bytes());
    sum.update(header.block_size.get().to_le_bytes());
    for target in index.targets() {
        match target {
            BlockContents::Zero => sum.update([0; 32]),
            BlockContents::Object(id) => {
                sum.update(index.object(id).map_or([0; 32], |object| object.sha256.0));
            }
        }
    }
    Sha256(sum.finalize().into())
}

/// Tree -> blocks of a disk, their index, the layout. No image file is written.
///
/// # Errors
/// [`ImageError`]. Blocks written by then stay, and the next build finds them.
pub fn make(
    spec: &ImageSpec,
    tree: &Tree,
    contents: &dyn Contents,
    previous: Option<&PreviousImage>,
    store: &mut Store,
    progress: &dyn Progress,
) -> Result<BuiltImage, ImageError> {
    let prepared = PreparedImage::new(spec, tree, contents, previous, progress)?;
    let planned = prepared.plan(spec, contents, progress)?;
    planned.write(store, progress)
}

/// Splits a disk as it is.
///
/// # Errors
/// [`ImageError`].
pub fn take(
    spec: &ImageSpec,
    disk: &GuestDisk,
    store: &mut Store,
    progress: &dyn Progress,
) -> Result<BuiltImage, ImageError> {
    let header = Header {
        image: spec.name.clone(),
        serial: spec.serial,
        block_size: spec.block_size,
        size: disk.size(),
        published: UnixTime(spec.epoch),
        parent: spec.parent,
    };
    let failed = |source| ImageError::Take { image: spec.name.clone(), source };
    let source = disk.open().map_err(|error| failed(SplitError::Image(error)))?;
    let split =
        split::split(&header, split::Options::new(spec.codec), store, progress, &source).map_err(failed)?;
    Ok(BuiltImage { split, layout: None, stable: false })
}

/// The figures of an image.
pub fn figures(split: &Split) -> build_record::ImageFigures {
    let index = &split.index;
    build_record::ImageFigures {
        name: index.header().image.to_string(),
        bytes: index.header().size,
        blocks: u64::from(index.block_count()) - split.figures.zero,
        objects: index.objects().len() as u64,
        compressed: index.objects().iter().map(|object| u64::from(object.file_len)).sum(),
    }
}
