//! Step: a tree becomes the blocks of a disk in the mirror's store, and their index. No image file is written.
//!
//! With a release before, the tree is laid out so that as few blocks as possible change, and only those are made:
//! [`Prepared`] -> [`Planned`] -> [`Made`].

use std::sync::Arc;
use std::thread;

use crate::pipeline::facts;
use crate::pipeline::step_runner::Told;
use crate::pipeline::steps::disks::GuestDisk;
use crate::pipeline::steps::release::Last;
use crate::pipeline::steps::split::{self, Known, Source, Split, SplitError};
use crate::pipeline::steps::systems::System;
use sha2::Digest as _;

use crate::debian::owners::Owners;
use crate::ext2::{
    self, Align, ImagePlan, ImagePlanError, IncrementalAllocator, InodeSize, LayoutMap, PageMap, Pages,
    PlaceError, PreviousLayout, Profile, Sequential, WriteError,
};
use crate::recipe::Recipe;
use crate::release::Layout;
use crate::repository::store::Store;
use crate::sys::progress::{Progress, Unit};
use crate::tree::{Contents, Kind, Meta, Node, Time, Tree};
use formats::block::Codec;
use formats::digest::Sha256;
use formats::index::{BlockContents, Header, Index, Parent};
use formats::names::{BlockSize, ImageName, Serial, UnixTime};
use formats::release::Stored;

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The tree can't be an ext2 file system.
    #[error("image `{image}`")]
    Plan {
        /// The image.
        image: ImageName,
        /// Why.
        source: ImagePlanError,
    },
    /// Its contents can't be read.
    #[error("image `{image}`")]
    Contents {
        /// The image.
        image: ImageName,
        /// Why.
        source: WriteError,
    },
    /// A disk could not be read or split.
    #[error("image `{image}`")]
    Take {
        /// The image.
        image: ImageName,
        /// Why.
        source: SplitError<std::io::Error>,
    },
    /// It could not be written or split.
    #[error("image `{image}`")]
    Split {
        /// The image.
        image: ImageName,
        /// Why.
        source: SplitError<WriteError>,
    },
}

/// What an image is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: ImageName,
    /// The release that it is made for.
    pub serial: Serial,
    /// Raw bytes of a block.
    pub block_size: BlockSize,
    /// Compressor of block files.
    pub codec: Codec,
    /// Time of making.
    pub epoch: u64,
    /// Bytes free for what the system writes.
    pub free: u64,
    /// Bytes of an inode.
    pub inode_size: InodeSize,
    /// Whether what is no longer used is overwritten with zeros.
    pub zero_freed: bool,
    /// What reads it.
    pub profile: Profile,
    /// The image's index before.
    pub parent: Option<Parent>,
    /// Paths of what is read first ([`ext2::ImageOptions::first`]).
    pub first: Vec<Vec<u8>>,
    /// How files are laid out.
    pub choices: Choices,
}

/// Choices of a layout. Those of builds are the default; `cargo bench --bench update` compares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    /// Large files begin where a block of the disk begins.
    pub aligned: bool,
    /// Fewest freed pages in a row that are used again where they lie.
    pub least_run: u32,
}

impl Default for Choices {
    fn default() -> Self {
        Choices { aligned: true, least_run: LEAST_RUN }
    }
}

impl Wanted {
    /// What the recipe says of a system's image, for the release after the last.
    pub fn of(recipe: &Recipe, system: &System, epoch: i64, last: &Last) -> Self {
        Wanted {
            free: system.image.free,
            zero_freed: system.image.zero_freed,
            inode_size: system.image.inode_size,
            profile: system.profile,
            ..Wanted::named(recipe, &system.name, epoch, last)
        }
    }

    /// Likewise of a disk, of which nothing is to be made.
    pub fn of_disk(recipe: &Recipe, disk: &GuestDisk, epoch: i64, last: &Last) -> Self {
        Wanted::named(recipe, &disk.name, epoch, last)
    }

    fn named(recipe: &Recipe, name: &ImageName, epoch: i64, last: &Last) -> Self {
        Wanted {
            name: name.clone(),
            serial: last.next,
            block_size: recipe.blocks.size,
            codec: recipe.blocks.codec,
            epoch: u64::try_from(epoch).unwrap_or(0),
            free: 0,
            zero_freed: false,
            inode_size: InodeSize::default(),
            profile: Profile::default(),
            parent: last.parent(name),
            first: Vec::new(),
            choices: Choices::default(),
        }
    }
}

impl Wanted {
    /// What the image depends on; `contents` is the digest of its tree.
    fn inputs(&self, contents: Option<Sha256>) -> Vec<String> {
        let mut inputs = vec![
            format!("blocks of {} bytes", self.block_size.get()),
            format!("codec {}", self.codec),
            format!("free space {}{}", self.free, if self.zero_freed { ", zeros" } else { "" }),
            format!("inodes of {} bytes, for {:?}", self.inode_size.bytes(), self.profile),
        ];
        if !self.first.is_empty() {
            inputs.push(format!(
                "{} paths first: {}",
                self.first.len(),
                Sha256::of(&self.first.join(&b'\n'))
            ));
        }
        inputs.extend(contents.map(|sum| format!("tree {sum}")));
        inputs
    }
}

/// The digest of a tree: paths, metadata, contents page by page.
fn digest(tree: &Tree, pages: &Pages) -> Sha256 {
    let mut sum = sha2::Sha256::new();
    for (path, id) in tree.walk() {
        let Node { meta: Meta { mode, uid, gid, mtime: Time { secs, nanos }, xattrs }, kind } = tree.node(id);
        sum.update((path.len() as u64).to_le_bytes());
        sum.update(&path);
        // Hard links are one node under several names.
        sum.update((id.index() as u64).to_le_bytes());
        sum.update(mode.to_le_bytes());
        [*uid, *gid, *nanos].iter().for_each(|number| sum.update(number.to_le_bytes()));
        sum.update(secs.to_le_bytes());
        sum.update((xattrs.len() as u64).to_le_bytes());
        for bytes in xattrs.iter().flat_map(|(name, value)| [name, value]) {
            sum.update((bytes.len() as u64).to_le_bytes());
            sum.update(bytes);
        }
        match kind {
            Kind::Directory(_) => sum.update(b"directory"),
            Kind::File(content) => {
                sum.update(content.len.to_le_bytes());
                pages.of(id).iter().for_each(|page| sum.update(page.0));
            }
            other => sum.update(format!("{other:?}")),
        }
    }
    Sha256(sum.finalize().into())
}

/// What the release before has of an image.
#[derive(Clone, Debug)]
pub struct Before {
    /// Its map.
    pub index: Index,
    /// Its layout.
    pub map: Arc<LayoutMap>,
    /// The published layout that the next one may be an update of.
    pub base: Option<(Stored, Arc<LayoutMap>)>,
}

/// An image in blocks, and what the next build needs of it.
#[derive(Debug)]
pub struct Made {
    /// Blocks and map.
    pub split: Split,
    /// The layout, for `layout.z`; a disk that is taken as it is has none.
    pub layout: Option<Arc<LayoutMap>>,
    /// Whether the layout of the release before was kept.
    pub stable: bool,
    /// What it depends on.
    pub inputs: Vec<String>,
}

/// An update of a layout is published as long as it takes at most half of the whole one.
const UPDATE_SHARE: u64 = 2;

impl Made {
    /// What the step that made it says.
    pub fn told(&self) -> Told {
        let figures = &self.split.figures;
        let cached =
            self.stable && figures.carried + figures.zero == u64::from(self.split.index.block_count());
        Told { cached, inputs: self.inputs.clone() }
    }

    /// The image, if files were laid out anew: then nothing stands where it stood.
    pub fn anew(&self) -> Option<ImageName> {
        let anew = self.layout.is_some() && !self.stable;
        anew.then(|| self.split.index.header().image.clone())
    }

    /// The layout as it is published: what changed of a published one, or all of it.
    pub fn published_layout(&self, before: Option<&Before>) -> Option<Layout> {
        let layout = self.layout.as_ref()?;
        let base = before.and_then(|before| before.base.as_ref());
        let update = base.and_then(|(stored, map)| {
            let file = layout.encode_update(map, stored.digest.sha256)?;
            let pays = file.len() as u64 * UPDATE_SHARE <= stored.digest.len;
            pays.then_some(Layout { file, base: Some(*stored) })
        });
        Some(update.unwrap_or_else(|| Layout { file: layout.encode(), base: None }))
    }
}

/// An image that is decided in every position: what [`Planned::write`] will write, and why.
pub struct Planned<'a> {
    wanted: &'a Wanted,
    contents: &'a dyn Contents,
    owners: Owners,
    pages: &'a Pages,
    digest: Sha256,
    placed: Placed<'a>,
}

/// Where everything stands, and what that changes.
struct Placed<'a> {
    plan: ImagePlan<'a>,
    census: PageMap,
    /// The release whose layout was kept, and the blocks of the disk that are made anew.
    kept: Option<(&'a Before, Vec<bool>)>,
}

/// A system's tree, ready to be planned: what it holds page by page, with the times that it keeps.
pub struct Prepared<'a> {
    tree: Tree,
    pages: Pages,
    before: Option<(&'a Before, PreviousLayout<'a>)>,
}

impl<'a> Prepared<'a> {
    /// Reads every file once.
    ///
    /// # Errors
    /// [`ImageError::Contents`].
    pub fn new(
        wanted: &Wanted,
        tree: &Tree,
        contents: &dyn Contents,
        before: Option<&'a Before>,
        progress: &dyn Progress,
    ) -> Result<Self, ImageError> {
        let before = before.map(|before| (before, PreviousLayout::new(&before.map)));
        let previous = before.as_ref().map(|(_, previous)| previous);
        let failed = |source| ImageError::Contents { image: wanted.name.clone(), source };
        let bytes = tree.nodes().iter().map(|node| match &node.kind {
            Kind::File(content) => content.len,
            _ => 0,
        });
        let task = progress.start(&format!("contents of image `{}`", wanted.name), bytes.sum(), Unit::Bytes);
        let read = |bytes| task.advance(bytes);
        let pages = Pages::read(tree, contents, previous, &read).map_err(failed)?;
        drop(task);
        let mut tree = tree.clone();
        if let Some(previous) = previous {
            let made = Time { secs: i64::try_from(wanted.epoch).unwrap_or(i64::MAX), nanos: 0 };
            ext2::keep_times(&mut tree, &pages, previous, made);
        }
        Ok(Prepared { tree, pages, before })
    }

    /// Decides where everything stands: as in the layout before, if there is one that can be kept.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn plan(
        &'a self,
        wanted: &'a Wanted,
        contents: &'a dyn Contents,
        progress: &dyn Progress,
    ) -> Result<Planned<'a>, ImageError> {
        // Whom files belong to and what the tree is are only told of, so a second core finds out.
        let (told, placed) = thread::scope(|scope| {
            let told = scope.spawn(|| (digest(&self.tree, &self.pages), Owners::read(&self.tree, contents)));
            let placed = self.place(wanted, contents, progress);
            (told.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), placed)
        });
        let (digest, owners) = told;
        let owners = owners.map_err(|source| ImageError::Contents {
            image: wanted.name.clone(),
            source: WriteError::Contents { path: "/var/lib/dpkg".to_owned(), source },
        })?;
        Ok(Planned { wanted, contents, owners, pages: &self.pages, digest, placed: placed? })
    }

    fn place(
        &'a self,
        wanted: &Wanted,
        contents: &dyn Contents,
        progress: &dyn Progress,
    ) -> Result<Placed<'a>, ImageError> {
        let failed = |source| ImageError::Plan { image: wanted.name.clone(), source };
        let options = ext2::ImageOptions {
            free: wanted.free,
            inode_size: wanted.inode_size,
            profile: wanted.profile,
            first: wanted.first.clone(),
            ..ext2::ImageOptions::new(wanted.name.as_str(), wanted.epoch)
        };
        let unit = wanted.block_size.get() / ext2::BLOCK;
        let Choices { aligned, least_run } = wanted.choices;
        let stable = self.before.as_ref().map(|(_, previous)| {
            let options = ext2::ImageOptions { epoch: previous.epoch, ..options.clone() };
            let mut stable = IncrementalAllocator { previous, pages: &self.pages, unit, least_run };
            ImagePlan::new(&self.tree, &options, &mut stable)
        });
        let stable = match stable {
            Some(Err(ImagePlanError::Place(error @ PlaceError::Relayout { .. }))) => {
                progress.say(&format!("image `{}`: {error}; laying it out anew", wanted.name));
                None
            }
            tried => tried.transpose().map_err(failed)?,
        };
        let before = self.before.as_ref().filter(|_| stable.is_some()).map(|(before, _)| *before);
        let plan = match stable {
            Some(plan) => plan,
            None => {
                let align = aligned.then_some(Align { blocks: unit, from: unit });
                ImagePlan::new(&self.tree, &options, &mut Sequential { align }).map_err(failed)?
            }
        };
        let census = PageMap::take(&plan, contents, &self.pages)
            .map_err(|source| ImageError::Contents { image: wanted.name.clone(), source })?;
        let same_blocks = |before: &&Before| before.index.header().block_size == wanted.block_size;
        let kept = before.filter(same_blocks).map(|before| {
            let mut changed = census.changed(&before.map, unit);
            if wanted.zero_freed {
                let freed = census.freed(&before.map, unit);
                changed.iter_mut().zip(freed).for_each(|(changed, freed)| *changed |= freed);
            }
            (before, changed)
        });
        Ok(Placed { plan, census, kept })
    }
}

impl Planned<'_> {
    /// The plan.
    pub fn plan(&self) -> &ImagePlan<'_> {
        &self.placed.plan
    }

    fn unit(&self) -> u32 {
        self.wanted.block_size.get() / ext2::BLOCK
    }

    /// Writes the blocks that change, through the splitter; the others are the release before's.
    ///
    /// # Errors
    /// [`ImageError`]. Blocks written by then stay, and the next build finds them.
    pub fn write(self, store: &mut Store, progress: &dyn Progress) -> Result<Made, ImageError> {
        let (wanted, unit) = (self.wanted, self.unit());
        let Placed { plan, census, kept } = self.placed;
        let header = Header {
            image: wanted.name.clone(),
            serial: wanted.serial,
            block_size: wanted.block_size,
            size: u64::from(plan.geometry().blocks) * u64::from(ext2::BLOCK),
            published: UnixTime(wanted.epoch),
            parent: wanted.parent,
        };
        let known = kept.as_ref().map(|(before, changed)| (*before, &changed[..]));
        let source = Rendered { image: ext2::PlannedImage::new(&plan, self.contents), known };
        // What each page holds is known when the blocks are; all else of the layout is put down beside them.
        let owners = self.owners;
        let (layout, split) = thread::scope(|scope| {
            let (plan, pages) = (&plan, self.pages);
            let layout = scope
                .spawn(|| LayoutMap::of(plan, pages, vec![], owners.labels(), |node| owners.label(node)));
            let split = split::split(&header, split::Options::new(wanted.codec), store, progress, &source);
            (layout.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), split)
        });
        let split = split.map_err(|source| ImageError::Split { image: wanted.name.clone(), source })?;

        let kept = known.filter(|_| split.index.header().block_size == wanted.block_size);
        let pages = match kept {
            Some((before, changed)) => census.after(&before.map, changed, unit),
            None => census.into_pages(),
        };
        let layout = LayoutMap { pages, ..layout };
        let stable = kept.is_some();
        let inputs = wanted.inputs(Some(self.digest));
        Ok(Made { split, layout: Some(Arc::new(layout)), stable, inputs })
    }
}

/// A planned image, block by block as it is asked for; with a release before, those alone that change.
pub struct Rendered<'a> {
    image: ext2::PlannedImage<'a>,
    known: Option<(&'a Before, &'a [bool])>,
}

impl<'a> Rendered<'a> {
    /// Without a release before.
    pub fn new(image: ext2::PlannedImage<'a>) -> Self {
        Rendered { image, known: None }
    }
}

impl Source for Rendered<'_> {
    type Error = WriteError;

    fn read(&self, at: u64, raw: &mut [u8]) -> Result<(), WriteError> {
        let page = at / u64::from(ext2::BLOCK);
        self.image.fill(u32::try_from(page).expect("an image has at most 2^29 pages"), raw)
    }

    fn known(&self, number: u32, size: BlockSize) -> Known {
        let same = |(before, _): &(&Before, _)| before.index.header().block_size == size;
        match self.known.filter(same) {
            Some((before, changed)) if !changed[number as usize] => {
                let object = before.index.target(number).and_then(|target| match target {
                    BlockContents::Object(id) => before.index.object(id).copied(),
                    BlockContents::Zero => None,
                });
                object.map_or(Known::Zeros, Known::Object)
            }
            _ => Known::Nothing,
        }
    }
}

/// Fewest freed pages in a row that are used again where they lie. `cargo bench --bench update` compares others.
pub const LEAST_RUN: u32 = 4;

/// Tree -> blocks of a disk, their index, the layout. No image file is written.
///
/// # Errors
/// [`ImageError`]. Blocks written by then stay, and the next build finds them.
pub fn make(
    wanted: &Wanted,
    tree: &Tree,
    contents: &dyn Contents,
    before: Option<&Before>,
    store: &mut Store,
    progress: &dyn Progress,
) -> Result<Made, ImageError> {
    let prepared = Prepared::new(wanted, tree, contents, before, progress)?;
    let planned = prepared.plan(wanted, contents, progress)?;
    planned.write(store, progress)
}

/// Splits a disk as it is.
///
/// # Errors
/// [`ImageError`].
pub fn take(
    wanted: &Wanted,
    disk: &GuestDisk,
    store: &mut Store,
    progress: &dyn Progress,
) -> Result<Made, ImageError> {
    let header = Header {
        image: wanted.name.clone(),
        serial: wanted.serial,
        block_size: wanted.block_size,
        size: disk.size(),
        published: UnixTime(wanted.epoch),
        parent: wanted.parent,
    };
    let failed = |source| ImageError::Take { image: wanted.name.clone(), source };
    let source = disk.open().map_err(|error| failed(SplitError::Image(error)))?;
    let split =
        split::split(&header, split::Options::new(wanted.codec), store, progress, &source).map_err(failed)?;
    Ok(Made { split, layout: None, stable: false, inputs: wanted.inputs(None) })
}

/// The figures of an image.
pub fn figures(split: &Split) -> facts::Image {
    let index = &split.index;
    facts::Image {
        name: index.header().image.to_string(),
        bytes: index.header().size,
        blocks: u64::from(index.block_count()) - split.figures.zero,
        objects: index.objects().len() as u64,
        compressed: index.objects().iter().map(|object| u64::from(object.file_len)).sum(),
    }
}
