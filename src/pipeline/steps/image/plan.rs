//! Where everything in an image is placed, and the blocks that this changes.

use std::sync::Arc;
use std::thread;

use sha2::Digest as _;

use super::{BuiltImage, ImageError, ImageSpec, LayoutChoices, PreviousImage};
use crate::debian::owners::Owners;
use crate::ext2::{
    self, Align, ImagePlan, ImagePlanError, IncrementalAllocator, LayoutMap, PageMap, Pages, PlaceError,
    PreviousLayout, Sequential, WriteError,
};
use crate::pipeline::steps::split::{self, Known, SplitInput};
use crate::repository::store::Store;
use crate::sys::progress::{Progress, Unit};
use crate::tree::{Contents, FileTime, Kind, Meta, Node, Tree};
use formats::digest::Sha256;
use formats::index::{BlockContents, Header};
use formats::names::{BlockSize, UnixTime};

/// The digest of a tree: paths, metadata, contents page by page.
fn digest(tree: &Tree, pages: &Pages) -> Sha256 {
    let mut sum = sha2::Sha256::new();
    for (path, id) in tree.walk() {
        let Node { meta: Meta { mode, uid, gid, mtime: FileTime { secs, nanos }, xattrs }, kind } =
            tree.node(id);
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

/// An image that is decided in every position: what [`PlannedImage::write`] will write, and why.
pub struct PlannedImage<'a> {
    spec: &'a ImageSpec,
    contents: &'a dyn Contents,
    owners: Owners,
    pages: &'a Pages,
    placed: PlacedImage<'a>,
}

/// Where everything is placed, and what that changes.
struct PlacedImage<'a> {
    plan: ImagePlan<'a>,
    census: PageMap,
    /// The release whose layout was kept, and the blocks of the disk that are made anew.
    kept: Option<(&'a PreviousImage, Vec<bool>)>,
}

/// A system's tree, ready to be planned: what it holds page by page, with the times that it keeps.
pub struct PreparedImage<'a> {
    tree: Tree,
    pages: Pages,
    before: Option<(&'a PreviousImage, PreviousLayout<'a>)>,
}

impl<'a> PreparedImage<'a> {
    /// Reads every file once.
    ///
    /// # Errors
    /// [`ImageError::Contents`].
    pub fn new(
        spec: &ImageSpec,
        tree: &Tree,
        contents: &dyn Contents,
        before: Option<&'a PreviousImage>,
        progress: &dyn Progress,
    ) -> Result<Self, ImageError> {
        let before = before.map(|before| (before, PreviousLayout::new(&before.map)));
        let previous = before.as_ref().map(|(_, previous)| previous);
        let failed = |source| ImageError::Contents { image: spec.name.clone(), source };
        let bytes = tree.nodes().iter().map(|node| match &node.kind {
            Kind::File(content) => content.len,
            _ => 0,
        });
        let task = progress.start(&format!("contents of image `{}`", spec.name), bytes.sum(), Unit::Bytes);
        let read = |bytes| task.advance(bytes);
        let pages = Pages::read(tree, contents, previous, &read).map_err(failed)?;
        drop(task);
        let mut tree = tree.clone();
        if let Some(previous) = previous {
            let made = FileTime { secs: i64::try_from(spec.epoch).unwrap_or(i64::MAX), nanos: 0 };
            ext2::keep_times(&mut tree, &pages, previous, made);
        }
        Ok(PreparedImage { tree, pages, before })
    }

    /// The digest of what goes into the image.
    pub fn digest(&self) -> Sha256 {
        digest(&self.tree, &self.pages)
    }

    /// Decides where everything is placed: as in the previous layout, if there is one that can be kept.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn plan(
        &'a self,
        spec: &'a ImageSpec,
        contents: &'a dyn Contents,
        progress: &dyn Progress,
    ) -> Result<PlannedImage<'a>, ImageError> {
        // Whose files they are is needed only when blocks are written, so a second core finds out.
        let (owners, placed) = thread::scope(|scope| {
            let owners = scope.spawn(|| Owners::read(&self.tree, contents));
            let placed = self.place(spec, contents, progress);
            (owners.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), placed)
        });
        let owners = owners.map_err(|source| ImageError::Contents {
            image: spec.name.clone(),
            source: WriteError::Contents { path: "/var/lib/dpkg".to_owned(), source },
        })?;
        Ok(PlannedImage { spec, contents, owners, pages: &self.pages, placed: placed? })
    }

    fn place(
        &'a self,
        spec: &ImageSpec,
        contents: &dyn Contents,
        progress: &dyn Progress,
    ) -> Result<PlacedImage<'a>, ImageError> {
        let failed = |source| ImageError::Plan { image: spec.name.clone(), source };
        let options = ext2::ImageOptions {
            free: spec.free,
            inode_size: spec.inode_size,
            profile: spec.profile,
            first: spec.first.clone(),
            ..ext2::ImageOptions::new(spec.name.as_str(), spec.epoch)
        };
        let unit = spec.block_size.get() / ext2::BLOCK;
        let LayoutChoices { aligned, least_run } = spec.choices;
        let stable = self.before.as_ref().map(|(_, previous)| {
            let options = ext2::ImageOptions { epoch: previous.epoch, ..options.clone() };
            let mut stable = IncrementalAllocator { previous, pages: &self.pages, unit, least_run };
            ImagePlan::new(&self.tree, &options, &mut stable)
        });
        let stable = match stable {
            Some(Err(ImagePlanError::Place(error @ PlaceError::Relayout { .. }))) => {
                progress.say(&format!("image `{}`: {error}; using a fresh layout", spec.name));
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
            .map_err(|source| ImageError::Contents { image: spec.name.clone(), source })?;
        let same_blocks = |before: &&PreviousImage| before.index.header().block_size == spec.block_size;
        let kept = before.filter(same_blocks).map(|before| {
            let mut changed = census.changed(&before.map, unit);
            if spec.zero_freed {
                let freed = census.freed(&before.map, unit);
                changed.iter_mut().zip(freed).for_each(|(changed, freed)| *changed |= freed);
            }
            (before, changed)
        });
        Ok(PlacedImage { plan, census, kept })
    }
}

impl PlannedImage<'_> {
    /// Returns the plan of the image.
    pub fn plan(&self) -> &ImagePlan<'_> {
        &self.placed.plan
    }

    fn unit(&self) -> u32 {
        self.spec.block_size.get() / ext2::BLOCK
    }

    /// Writes the blocks that change, through the splitter; the others are the release before's.
    ///
    /// # Errors
    /// [`ImageError`]. Blocks written by then stay, and the next build finds them.
    pub fn write(self, store: &mut Store, progress: &dyn Progress) -> Result<BuiltImage, ImageError> {
        let (spec, unit) = (self.spec, self.unit());
        let PlacedImage { plan, census, kept } = self.placed;
        let header = Header {
            image: spec.name.clone(),
            serial: spec.serial,
            block_size: spec.block_size,
            size: u64::from(plan.geometry().blocks) * u64::from(ext2::BLOCK),
            published: UnixTime(spec.epoch),
            parent: spec.parent,
        };
        let known = kept.as_ref().map(|(before, changed)| (*before, &changed[..]));
        let source = Rendered { image: ext2::PlannedImage::new(&plan, self.contents), known };
        // What each page holds is known when the blocks are; all else of the layout is put down beside them.
        let owners = self.owners;
        let (layout, split) = thread::scope(|scope| {
            let (plan, pages) = (&plan, self.pages);
            let layout = scope
                .spawn(|| LayoutMap::of(plan, pages, vec![], owners.labels(), |node| owners.label(node)));
            let split = split::split(&header, split::Options::new(spec.codec), store, progress, &source);
            (layout.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), split)
        });
        let split = split.map_err(|source| ImageError::Split { image: spec.name.clone(), source })?;

        let kept = known.filter(|_| split.index.header().block_size == spec.block_size);
        let pages = match kept {
            Some((before, changed)) => census.after(&before.map, changed, unit),
            None => census.into_pages(),
        };
        let layout = LayoutMap { pages, ..layout };
        let stable = kept.is_some();
        Ok(BuiltImage { split, layout: Some(Arc::new(layout)), stable })
    }
}

/// A planned image, block by block as it is asked for; with a release before, those alone that change.
pub struct Rendered<'a> {
    image: ext2::PlannedImage<'a>,
    known: Option<(&'a PreviousImage, &'a [bool])>,
}

impl<'a> Rendered<'a> {
    /// Without a release before.
    pub fn new(image: ext2::PlannedImage<'a>) -> Self {
        Rendered { image, known: None }
    }
}

impl SplitInput for Rendered<'_> {
    type Error = WriteError;

    fn read(&self, at: u64, raw: &mut [u8]) -> Result<(), WriteError> {
        let page = at / u64::from(ext2::BLOCK);
        self.image.fill(u32::try_from(page).expect("an image has at most 2^29 pages"), raw)
    }

    fn known(&self, number: u32, size: BlockSize) -> Known {
        let same = |(before, _): &(&PreviousImage, _)| before.index.header().block_size == size;
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
