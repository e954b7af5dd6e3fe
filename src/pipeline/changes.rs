//! What a release changes of the one before: for people, and as JSON for pipelines.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
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
use formats::report::size;

/// Below this share of pages in use a fresh layout is worth a thought.
const SPARSE: f64 = 0.7;

/// A boot that finds what it reads in more blocks than so many times what would do, and in so many more, is worth a thought
/// too.
const SCATTERED: (u64, u64) = (2, 16);

/// Packages that the text lists for each image.
const LISTED: usize = 20;

/// A release as far as changes go.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The distribution.
    pub name: ImageName,
    /// The release.
    pub serial: Serial,
    /// The map of each image, and its layout if it has one.
    pub images: Vec<(Index, Option<Arc<LayoutMap>>)>,
    /// What else is in it, and bytes of each: indexes, layouts, prefetch lists, the release, `mirrors.txt`, `latest`.
    pub files: Vec<(MirrorPath, u64)>,
}

/// Why a release can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum PublicationError {
    /// There is none.
    #[error("no release there")]
    None,
    /// It is not whole.
    #[error(transparent)]
    State(#[from] ReleaseStateError),
    /// A layout is not.
    #[error(transparent)]
    Layout(#[from] LayoutFault),
    /// It was signed for another release or distribution.
    #[error("release {0}: can't be believed")]
    Untrusted(Serial, #[source] Untrusted),
    /// There is no such release.
    #[error("release {0} is not there; `imgfactory releases` shows those that are")]
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

    fn image(&self, name: &ImageName) -> Option<Side<'_>> {
        let found = self.images.iter().find(|(index, _)| index.header().image == *name)?;
        Some((&found.0, found.1.as_deref()))
    }
}

/// What a release changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReleaseChanges {
    /// The distribution.
    pub name: String,
    /// The release before; none for a first one.
    pub from: Option<u64>,
    /// The release.
    pub to: u64,
    /// Images in it.
    pub images: Vec<ImageChanges>,
    /// Block files that the release before does not have, of all images, each once.
    pub new_blocks: u64,
    /// Bytes of these.
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
            changes.boot = Some(Boot { blocks, least, repack_advised, repack_bytes });
        }
        Ok(self)
    }
}

/// What a release changes of one image.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageChanges {
    /// Its name.
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
    pub boot: Option<Boot>,
}

/// Where what a boot reads lies; files of a block and more, which have blocks of their own, aside.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Boot {
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
    /// Its version before.
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
pub type Side<'a> = (&'a Index, Option<&'a LayoutMap>);

impl ImageChanges {
    /// What `new` changes of `old`. `known` are the blocks that are published already; the new ones are added.
    pub fn of(old: Option<Side<'_>>, new: Side<'_>, known: &mut HashSet<BlockName>) -> Self {
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

impl ReleaseChanges {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = match self.from {
            Some(from) if from == self.to => format!("{}: release {from} stays as it is\n", self.name),
            Some(from) => format!("{}: release {from} -> {}\n", self.name, self.to),
            None => format!("{}: release {}, the first\n", self.name, self.to),
        };
        for image in &self.images {
            image.write(&mut text);
        }
        let (all, new) = (size(self.new_bytes + self.other_bytes), size(self.new_bytes));
        text.push_str(&format!(
            "\nto upload: {all}: {} new blocks, {new}; indexes, layouts, texts, {}\n",
            self.new_blocks,
            size(self.other_bytes)
        ));
        if self.from.is_some() {
            let most = size(self.client_bytes);
            text.push_str(&format!("a client that has all of the release before fetches {most} at most\n"));
        }
        text
    }
}

impl ImageChanges {
    fn write(&self, text: &mut String) {
        let mut line = |line: String| {
            writeln!(text, "{line}").expect("a String takes all that is written");
        };
        let ImageChanges { image, blocks, new_blocks, new_bytes, .. } = self;
        if self.same {
            line(format!("\nimage {image}: nothing changes"));
        } else {
            line(format!("\nimage {image}: {new_blocks} new blocks of {blocks}, {}", size(*new_bytes)));
        }
        if let Some(Boot { blocks, least, repack_advised, repack_bytes }) = self.boot {
            let advice = match repack_advised {
                true => {
                    format!("; `build --repack` puts them together and sends {} once", size(repack_bytes))
                }
                false => String::new(),
            };
            line(format!(
                "  small files that a boot reads lie in {blocks} blocks, {least} would hold them{advice}"
            ));
        }
        if self.same {
            return;
        }
        let Some(detail) = &self.detail else {
            line("  there is no layout of it before".to_owned());
            return;
        };
        let causes: Vec<_> =
            detail.causes.iter().map(|(cause, blocks)| format!("{cause} {blocks}")).collect();
        line(format!("  blocks by cause: {}", causes.join(", ")));
        let ratio = match detail.floor_bytes {
            0 => String::new(),
            floor => {
                format!(", {} compressed; sent: {:.2} x that", size(floor), *new_bytes as f64 / floor as f64)
            }
        };
        line(format!("  {} new pages{ratio}", detail.new_pages));
        line(format!(
            "  in use: {:.0} % of what blocks hold; {} freed and left in place",
            detail.in_use * 100.0,
            size(detail.dead_bytes)
        ));
        if detail.repack.advised {
            let bytes = size(detail.repack.bytes);
            line(format!("  a fresh layout would pay by now: `build --repack` sends about {bytes} once"));
        }
        line(format!("  {:>9} {:>6} {:>6}  package", "bytes", "blocks", "files"));
        for package in detail.packages.iter().take(LISTED) {
            let name = if package.name.is_empty() { "(of no package)" } else { &package.name };
            let versions = match (&package.from, &package.to) {
                (Some(from), Some(to)) if from != to => format!(" {from} -> {to}"),
                (None, Some(to)) => format!(" {to}, new"),
                (Some(from), None) => format!(" {from}, gone"),
                _ => String::new(),
            };
            let (bytes, blocks, files) = (size(package.bytes), package.blocks, package.files);
            line(format!("  {bytes:>9} {blocks:>6} {files:>6}  {name}{versions}"));
        }
        if let Some(more) = detail.packages.get(LISTED..).filter(|more| !more.is_empty()) {
            let bytes = size(more.iter().map(|package| package.bytes).sum());
            line(format!("  {bytes:>9} {:>6} {:>6}  {} more packages", "", "", more.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext2::{InodeSize, Profile};
    use crate::pipeline::steps::image::{Before, Choices, Made, Wanted, make};
    use crate::repository::store::Store;
    use crate::sys::progress::Silent;
    use crate::tree::{Content, Kind, Meta, Node, Tree};
    use formats::block::Codec;
    use formats::names::BlockSize;
    use system::files::Scratch;

    /// A tree with packages: name, version, and the text that its file repeats.
    fn tree(packages: &[(&str, &str, &str)]) -> Tree {
        let mut tree = Tree::new(Meta::default());
        let mut put = |path: String, text: String| {
            let kind = Kind::File(Content::inline(text.into_bytes()));
            tree.insert(path.as_bytes(), Node { meta: Meta::default(), kind }).unwrap();
        };
        let mut status = String::new();
        for (name, version, text) in packages {
            put(format!("usr/lib/{name}"), text.repeat(20_000));
            put(format!("var/lib/dpkg/info/{name}.list"), format!("/usr/lib/{name}\n"));
            status.push_str(&format!("Package: {name}\nVersion: {version}\n\n"));
        }
        put("var/lib/dpkg/status".to_owned(), status);
        tree
    }

    fn release(tree: &Tree, serial: u64, before: Option<&Before>, store: &mut Store) -> (Made, Publication) {
        let serial = Serial::new(serial).unwrap();
        let wanted = Wanted {
            name: "host".parse().unwrap(),
            serial,
            block_size: BlockSize::new(16 << 10).unwrap(),
            codec: Codec::default(),
            epoch: 1_700_000_000,
            free: 1 << 20,
            zero_freed: false,
            inode_size: InodeSize::default(),
            profile: Profile::default(),
            parent: None,
            first: Vec::new(),
            choices: Choices::default(),
        };
        let contents: Vec<Vec<u8>> = vec![vec![]];
        let made = make(&wanted, tree, &contents, before, store, &Silent).unwrap();
        let images = vec![(made.split.index.clone(), made.layout.clone())];
        let files = vec![(MirrorPath::Latest, 500), (MirrorPath::Release(serial), 700)];
        let publication = Publication { name: "demo".parse().unwrap(), serial, images, files };
        (made, publication)
    }

    #[test]
    fn changes_are_told_by_package_with_both_versions_and_those_that_are_gone() {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let old = tree(&[("libold", "1", "o"), ("libsame", "3", "same"), ("libtwo", "2.0", "two")]);
        let (made, first) = release(&old, 1, None, &mut store);
        let before = Before { index: made.split.index, map: made.layout.unwrap(), base: None };

        let new = tree(&[("libnew", "4", "n"), ("libsame", "3", "same"), ("libtwo", "2.1", "2")]);
        let (made, second) = release(&new, 2, Some(&before), &mut store);
        let changes = ReleaseChanges::between(Some(&first), &second);
        let text = changes.text();
        let detail = changes.images[0].detail.as_ref().unwrap();
        let told = |name: &str| {
            let found = detail.packages.iter().find(|package| package.name == name)?;
            Some((found.from.as_deref(), found.to.as_deref(), found.files))
        };
        // Of each package a file and its list.
        assert_eq!(told("libold"), Some((Some("1"), None, 2)), "{text}");
        assert_eq!(told("libtwo"), Some((Some("2.0"), Some("2.1"), 1)), "{text}");
        assert_eq!(told("libnew"), Some((None, Some("4"), 2)), "{text}");
        assert_eq!(told("libsame"), None, "{text}");
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        let ends = |end: &str| lines.iter().any(|line| line.ends_with(end));
        assert!(ends("libold 1, gone") && ends("libtwo 2.0 -> 2.1") && ends("libnew 4, new"), "{text}");
        assert_eq!(changes.new_blocks, made.split.figures.written);
        assert_eq!(changes.new_bytes, made.split.figures.written_bytes);
        // `latest` and the release, beside the blocks.
        assert_eq!((changes.other_bytes, changes.client_bytes), (1200, changes.new_bytes + 1200));

        // To take a file away sends no page of a file: there is no floor to be held against.
        let mut less = old.clone();
        assert!(less.remove(b"usr/lib/libold"));
        let (_, third) = release(&less, 3, Some(&before), &mut store);
        let text = ReleaseChanges::between(Some(&first), &third).text();
        assert!(text.contains("\n  0 new pages\n"), "{text}");

        // Holes everywhere: of four files one is left.
        let mut many = Tree::new(Meta::default());
        let contents = |nth: u32| nth.to_le_bytes().repeat(1500);
        for nth in 0..400 {
            let kind = Kind::File(Content::inline(contents(nth)));
            many.insert(format!("srv/{nth:03}").as_bytes(), Node { meta: Meta::default(), kind }).unwrap();
        }
        let (made, full) = release(&many, 4, None, &mut store);
        assert!(!ReleaseChanges::between(None, &full).text().contains("fresh layout"));
        let before = Before { index: made.split.index, map: made.layout.unwrap(), base: None };
        (0..400)
            .filter(|nth| nth % 4 > 0)
            .for_each(|nth| assert!(many.remove(format!("srv/{nth:03}").as_bytes())));
        let (_, sparse) = release(&many, 5, Some(&before), &mut store);
        let changes = ReleaseChanges::between(Some(&full), &sparse);
        assert!(changes.images[0].detail.as_ref().unwrap().repack.advised, "{}", changes.text());
        assert!(changes.text().contains("a fresh layout would pay by now: `build --repack` sends about"));

        let same = ReleaseChanges::between(Some(&second), &second);
        assert_eq!((same.new_blocks, same.other_bytes), (0, 500));
        assert!(same.text().contains("image host: nothing changes"), "{}", same.text());
    }

    #[test]
    fn a_boot_that_reads_here_and_there_is_told_what_a_fresh_layout_would_spare_it() {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let mut many = Tree::new(Meta::default());
        let name = |nth: u32| format!("srv/{nth:03}").into_bytes();
        for nth in 0..400_u32 {
            let kind = Kind::File(Content::inline(nth.to_le_bytes().repeat(500)));
            many.insert(&name(nth), Node { meta: Meta::default(), kind }).unwrap();
        }
        let (_, publication) = release(&many, 1, None, &mut store);
        let told = |first: &[Vec<u8>]| {
            let changes = ReleaseChanges::between(Some(&publication), &publication);
            let changes = changes.with_boots(&publication, |_| Ok::<_, ()>(first.to_vec())).unwrap();
            (changes.images[0].boot, changes.text())
        };
        assert_eq!(told(&[]).0, None);
        let scattered: Vec<_> = (0..400).step_by(10).map(name).collect();
        let (boot, text) = told(&scattered);
        let boot = boot.unwrap();
        assert!(boot.repack_advised && boot.blocks > boot.least * 2, "{boot:?}");
        let advice = format!(
            "lie in {} blocks, {} would hold them; `build --repack` puts them together and sends {} once\n",
            boot.blocks,
            boot.least,
            size(boot.repack_bytes)
        );
        assert!(text.contains(&advice), "{text}");
        let (boot, text) = told(&(0..400).map(name).collect::<Vec<_>>());
        assert!(!boot.unwrap().repack_advised && !text.contains("--repack"), "{text}");
    }
}
