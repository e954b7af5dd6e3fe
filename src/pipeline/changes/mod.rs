//! What a release changes of the one before: for people, and as JSON for pipelines.

mod text;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use crate::ext2::{self, Cause, Changes, Fragmentation, LayoutMap};
use crate::pipeline::layouts::{self, LayoutFault};
use crate::publish::{MirrorFiles, ReleaseStateError, read_indexes, read_latest};
use formats::block::BlockName;
use formats::index::{BlockContents, Index, ObjectId};
use formats::names::{ImageName, Serial};
use formats::release::{
    DocumentError as Untrusted, ImageFiles, Leaf, MirrorPath, Release, TrustedKeys, Verified,
};

/// Below this share of pages in use a fresh layout is worth a thought.
const SPARSE: f64 = 0.7;

/// A boot that finds what it reads in more blocks than so many times what would do, and in so many more, is worth a thought
/// too.
const SCATTERED: (u64, u64) = (2, 16);

/// A release as far as changes go.
#[derive(Clone, Debug)]
pub struct Publication {
    pub name: ImageName,
    pub serial: Serial,
    /// The map of each image, and its layout if it has one.
    pub images: Vec<(Index, Option<Arc<LayoutMap>>)>,
    /// What else is in it, and bytes of each: indexes, layouts, prefetch lists, the release, `mirrors.txt`, `latest`.
    pub files: Vec<(MirrorPath, u64)>,
}

/// Why a release can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum PublicationError {
    #[error("contains no release")]
    None,
    /// It is not whole.
    #[error(transparent)]
    State(#[from] ReleaseStateError),
    #[error(transparent)]
    Layout(#[from] LayoutFault),
    /// It was signed for another release or distribution.
    #[error("release {0}: can't be verified")]
    Untrusted(Serial, #[source] Untrusted),
    /// There is no such release.
    #[error("release {0}: not on the mirror; `imgfactory releases` lists those that are")]
    Missing(Serial),
}

impl Publication {
    /// Reads a release of a tree: the one that `latest` names, or an earlier one.
    ///
    /// # Errors
    /// [`PublicationError`].
    pub fn read(
        files: &dyn MirrorFiles,
        keys: &TrustedKeys,
        serial: Option<Serial>,
    ) -> Result<Self, PublicationError> {
        let (latest, latest_file) = read_latest(files, keys)?.ok_or(PublicationError::None)?;
        let serial = serial.unwrap_or(latest.serial);
        let path = MirrorPath::Release(serial);
        let bytes = files.read(&path, path.limit()).map_err(ReleaseStateError::from)?;
        let bytes = bytes.ok_or(PublicationError::Missing(serial))?;
        let untrusted = |source| PublicationError::Untrusted(serial, source);
        let release = Verified::<Release>::open(&bytes, keys).map_err(untrusted)?;
        release.expect(&latest.name, serial).map_err(untrusted)?;
        let release = release.into_inner();
        let mut images = Vec::new();
        for (index, image) in read_indexes(files, &release, None)?.into_iter().zip(&release.images) {
            images.push((index, layouts::read(files, image)?.map(|known| known.map)));
        }
        let mut all: Vec<_> = release
            .images
            .iter()
            .flat_map(ImageFiles::files)
            .map(|(path, digest)| (path, digest.len))
            .collect();
        all.push((path, bytes.len() as u64));
        all.push((MirrorPath::Latest, latest_file.len() as u64));
        Ok(Publication { name: latest.name, serial, images, files: all })
    }

    fn image(&self, name: &ImageName) -> Option<ImageSide<'_>> {
        let found = self.images.iter().find(|(index, _)| index.header().image == *name)?;
        Some((&found.0, found.1.as_deref()))
    }
}

/// What a release changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReleaseChanges {
    pub name: String,
    /// The release before; none for a first one.
    pub from: Option<u64>,
    pub to: u64,
    pub images: Vec<ImageChanges>,
    /// Block files that the release before does not have, of all images, each once.
    pub new_blocks: u64,
    pub new_bytes: u64,
    /// Bytes of all else that is uploaded: indexes, layouts, the release, `latest`.
    pub other_bytes: u64,
    /// Most that a client fetches that has all of the release before: new blocks, indexes, the release, `latest`.
    pub client_bytes: u64,
}

impl ReleaseChanges {
    /// What `new` changes of `old`.
    pub fn between(old: Option<&Publication>, new: &Publication) -> Self {
        let mut known: HashSet<BlockName> = HashSet::new();
        let mut there: HashSet<&MirrorPath> = HashSet::new();
        if let Some(old) = old {
            known.extend(old.images.iter().flat_map(|(index, _)| index.objects()).map(|object| object.name));
            there.extend(old.files.iter().map(|(path, _)| path));
        }
        let images: Vec<_> = new
            .images
            .iter()
            .map(|(index, layout)| {
                let before = old.and_then(|old| old.image(&index.header().image));
                ImageChanges::of(before, (index, layout.as_deref()), &mut known)
            })
            .collect();
        let sum = |of: fn(&ImageChanges) -> u64| images.iter().map(of).sum::<u64>();
        let (new_blocks, new_bytes) = (sum(|image| image.new_blocks), sum(|image| image.new_bytes));
        let replaced = |path: &MirrorPath| matches!(path, MirrorPath::Latest | MirrorPath::Mirrors);
        let fresh = new.files.iter().filter(|(path, _)| replaced(path) || !there.contains(path));
        let for_builds = |path: &MirrorPath| matches!(path, MirrorPath::Image(_, _, Leaf::Layout));
        let (mut other_bytes, mut client_bytes) = (0, new_bytes);
        for (path, len) in fresh {
            other_bytes += len;
            client_bytes += if for_builds(path) { 0 } else { *len };
        }
        let (name, from, to) = (new.name.to_string(), old.map(|old| old.serial.get()), new.serial.get());
        ReleaseChanges { name, from, to, images, new_blocks, new_bytes, other_bytes, client_bytes }
    }

    /// With how spread out what boots read is; `first` has it of an image, in order.
    ///
    /// # Errors
    /// Those of `first`.
    pub fn with_boots<E>(
        mut self,
        new: &Publication,
        first: impl Fn(&ImageName) -> Result<Vec<Vec<u8>>, E>,
    ) -> Result<Self, E> {
        for (changes, (index, layout)) in self.images.iter_mut().zip(&new.images) {
            let header = index.header();
            let paths = first(&header.image)?;
            let Some(layout) = layout.as_ref().filter(|_| !paths.is_empty()) else { continue };
            let Fragmentation { blocks, least } =
                layout.spread(&paths, header.block_size.get() / ext2::BLOCK);
            let (blocks, least) = (u64::from(blocks), u64::from(least));
            let (times, more) = SCATTERED;
            let repack_advised = blocks > least * times && blocks > least + more;
            let repack_bytes = index.objects().iter().map(|object| u64::from(object.file_len)).sum();
            changes.boot = Some(BootReads { blocks, least, repack_advised, repack_bytes });
        }
        Ok(self)
    }
}

/// What a release changes of one image.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageChanges {
    pub image: String,
    /// Bytes of the disk.
    pub bytes: u64,
    /// Blocks of the disk that hold something.
    pub blocks: u64,
    /// Block files that the release before does not have.
    pub new_blocks: u64,
    /// Bytes of these: what is uploaded, and at most fetched by a client that has all of the release before.
    pub new_bytes: u64,
    /// Whether not a byte of the disk changes.
    pub same: bool,
    /// What is known of a changed image when both releases have a layout.
    pub detail: Option<Detail>,
    /// How spread out the small files are that a boot reads, where `imgfactory profile --files` has seen one.
    pub boot: Option<BootReads>,
}

/// Where what a boot reads lies; files of a block and more, which have blocks of their own, aside.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BootReads {
    /// Blocks that have some of it.
    pub blocks: u64,
    /// Blocks that would hold it.
    pub least: u64,
    /// A fresh layout (`build --repack`) would spare boots so many blocks that it is worth its upload.
    pub repack_advised: bool,
    /// Bytes that would be uploaded then.
    pub repack_bytes: u64,
}

/// Why an image changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Detail {
    /// Pages of 4 KiB of files that the old image did not have anywhere.
    pub new_pages: u64,
    /// About how many bytes these alone would take, each compressed as its block is: no update can be smaller.
    pub floor_bytes: u64,
    /// Blocks by the weightiest thing that changed in them.
    pub causes: BTreeMap<&'static str, u64>,
    /// Packages, the largest part first; those that are gone, which cost nothing of their own, last.
    pub packages: Vec<PackageChanges>,
    /// Bytes in use.
    pub live_bytes: u64,
    /// Bytes that were freed and left in place.
    pub dead_bytes: u64,
    /// Share in use of the blocks that hold anything.
    pub in_use: f64,
    /// Whether a fresh layout (`build --repack`) is worth its upload, and about how many bytes that is.
    pub repack: Repack,
}

/// What a fresh layout would cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Repack {
    /// Less than 70 % of what blocks hold is in use.
    pub advised: bool,
    /// About how many bytes would be uploaded.
    pub bytes: u64,
}

/// What changes of a package's files.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PackageChanges {
    /// Its name; empty for files that no package has.
    pub name: String,
    pub from: Option<String>,
    /// Its version now; none of one that is gone.
    pub to: Option<String>,
    /// Files and directories with changed contents, or that are gone with it.
    pub files: u64,
    /// Blocks with something of it.
    pub blocks: u64,
    /// Its part of their bytes.
    pub bytes: u64,
}

/// An image of a release: its map, and its layout if that is known.
pub type ImageSide<'a> = (&'a Index, Option<&'a LayoutMap>);

impl ImageChanges {
    /// What `new` changes of `old`. `known` are the blocks that are published already; the new ones are added.
    pub fn of(old: Option<ImageSide<'_>>, new: ImageSide<'_>, known: &mut HashSet<BlockName>) -> Self {
        let (index, layout) = new;
        let header = index.header();
        let fresh: Vec<bool> = index.objects().iter().map(|object| known.insert(object.name)).collect();
        let objects = index.objects().iter().zip(&fresh).filter(|(_, fresh)| **fresh);
        let (new_blocks, new_bytes) = objects
            .fold((0, 0), |(count, bytes), (object, _)| (count + 1, bytes + u64::from(object.file_len)));
        let blocks = index.targets().filter(|target| *target != BlockContents::Zero).count() as u64;
        let same = old.is_some_and(|(old, _)| old.same_disk(index));
        let changed = old.filter(|_| !same);
        let detail = changed.and_then(|(_, old)| Some(detail(old?, layout?, index, &fresh)));
        let (image, bytes) = (header.image.to_string(), header.size);
        ImageChanges { image, bytes, blocks, new_blocks, new_bytes, same, detail, boot: None }
    }
}

fn detail(old: &LayoutMap, new: &LayoutMap, index: &Index, fresh: &[bool]) -> Detail {
    let unit = index.header().block_size.get() / ext2::BLOCK;
    let changes = Changes::between(old, new, unit);
    let page = u64::from(ext2::BLOCK);
    let mut causes: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut packages: BTreeMap<Option<u32>, PackageChanges> = BTreeMap::new();
    let mut files: BTreeMap<Option<u32>, HashSet<usize>> = BTreeMap::new();
    let mut floor_bytes = 0;
    for block in &changes.blocks {
        *causes.entry(block.cause().map_or("freed", Cause::name)).or_default() += 1;
        // A block with contents that the release before has elsewhere is sent by nobody.
        let bytes = match index.target(block.number) {
            Some(BlockContents::Object(ObjectId(id))) if fresh.get(id as usize) == Some(&true) => {
                index.object(ObjectId(id)).map_or(0, |object| u64::from(object.file_len))
            }
            _ => 0,
        };
        let differing: u64 = block.pages.iter().map(|pages| u64::from(*pages)).sum();
        floor_bytes += bytes * u64::from(block.new) / (differing + u64::from(block.again)).max(1);
        let mut here: BTreeMap<Option<u32>, u64> = BTreeMap::new();
        for &(inode, pages) in &block.inodes {
            let label = new.inodes[inode].label;
            *here.entry(label).or_default() += u64::from(pages);
            files.entry(label).or_default().insert(inode);
        }
        for (label, pages) in here {
            let entry = packages.entry(label).or_default();
            entry.blocks += 1;
            entry.bytes += bytes * pages / differing.max(1);
        }
    }
    let versions: BTreeMap<&str, &str> =
        old.labels.iter().map(|label| (&label.name[..], &label.version[..])).collect();
    for (label, entry) in &mut packages {
        entry.files = files.get(label).map_or(0, |files| files.len() as u64);
        let Some(label) = label.and_then(|label| new.labels.get(label as usize)) else { continue };
        entry.name.clone_from(&label.name);
        entry.to = Some(label.version.clone());
        entry.from = versions.get(&label.name[..]).map(|version| (*version).to_owned());
    }
    let mut packages: Vec<_> = packages.into_values().chain(gone(old, new)).collect();
    packages.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    let all: u64 = index.objects().iter().map(|object| u64::from(object.file_len)).sum();
    let part = |bytes: u64, of: u64, whole: u64| {
        let bytes = u128::from(bytes) * u128::from(of) / u128::from(whole.max(1));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    };
    Detail {
        new_pages: changes.new,
        floor_bytes,
        causes,
        packages,
        live_bytes: changes.live * page,
        dead_bytes: changes.dead * page,
        in_use: changes.in_use(),
        repack: Repack {
            advised: changes.in_use() < SPARSE,
            bytes: part(all, changes.live, changes.live + changes.dead),
        },
    }
}

/// Packages that the new layout has no more.
fn gone(old: &LayoutMap, new: &LayoutMap) -> Vec<PackageChanges> {
    let there: HashSet<&str> = new.labels.iter().map(|label| &label.name[..]).collect();
    let gone = old.labels.iter().enumerate().filter(|(_, label)| !there.contains(&label.name[..]));
    gone.map(|(number, label)| {
        let files = old.inodes.iter().filter(|inode| inode.label.is_some_and(|of| of as usize == number));
        let (name, from) = (label.name.clone(), Some(label.version.clone()));
        PackageChanges { name, from, files: files.count() as u64, ..PackageChanges::default() }
    })
    .collect()
}
