//! What a security update uploads, by every way: `cargo bench --bench update [-- BEFORE.tar AFTER.tar]`.
//!
//! Without archives it makes two trees of Debian 12 with mmdebstrap, one without and one with the security archive
//! (the packages are [`PACKAGES`]), and keeps them in `target/update`. Needs mmdebstrap, e2fsprogs, casync, and root
//! or an ordinary user with subordinate ids. Prints bytes, and their ratio to the floor: the pages of 4 KiB that
//! are new, alone, compressed.
//!
//! `IMGFACTORY_BENCH` names the parts to run, with commas: [`PARTS`] without it, and [`MORE`]. `phases` adds the times
//! of each step. `IMGFACTORY_BENCH_ORDER` names a build's output directory with an order of files that `imgfactory profile
//! --files` made: first layouts put these together.

#[path = "../files/mod.rs"]
mod files;
mod floors;
mod others;

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use formats::block::{Codec, Object};
use formats::digest::Digest;
use formats::index::Index;
use formats::names::{BlockSize, Serial};
use formats::release::Stored;
use imgfactory::ext2::{Changes, InodeSize, LayoutMap, Mapped, Pages, Profile};
use imgfactory::pipeline::steps::image::{
    BuiltImage, ImageSpec, LayoutChoices, PreparedImage, PreviousImage,
};
use imgfactory::recipe::Archive;
use imgfactory::repository::store::Store;
use imgfactory::sys::progress::Silent;
use imgfactory::sys::spool::ContentFiles;
use imgfactory::tree::{Content, Kind, Node, Tree, tar};

/// A desktop of Debian 12 with what its security archive has updates for.
const PACKAGES: &str = "linux-image-amd64,systemd-sysv,udev,kmod,firefox-esr,python3,perl,openssl,openssh-server,\
curl,wget,git,vim,xfce4,xorg,lightdm,gimp,evince,network-manager,cups,ghostscript,bind9-host,dbus-x11,\
libreoffice-writer,ca-certificates,sudo,less,man-db,locales,console-setup,e2fsprogs,iproute2,file,rsync,gnupg";

const BLOCK: usize = 256 << 10;
/// Pages of one.
const PAGES: u32 = (BLOCK / 4096) as u32;

/// How often both builds are timed, one right after the other. The middle one of their ratios counts: on a machine with
/// other tenants any one of them may be a tenth off.
const ROUNDS: usize = 5;

/// What is run if nothing is asked for: floors, our two codecs, the small update, the two other ways.
const PARTS: &str = "floors,zlib,libdeflate,small,plain,casync";
/// What is run if it is asked for: the choices of a layout, each against the others; what the two trees have in common
/// as two images of one release; the times of each step; the level above the default.
const MORE: [&str; 4] = ["choices", "shared", "phases", "libdeflate6"];

/// Whether a part is to be run.
fn runs(part: &str) -> bool {
    let parts = std::env::var("IMGFACTORY_BENCH").unwrap_or_else(|_| PARTS.to_owned());
    assert!(parts.split(',').all(|part| PARTS.split(',').chain(MORE).any(|known| known == part)), "{parts}");
    parts.split(',').any(|asked| asked == part)
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Seconds by the clock, and of CPU time of all threads: what counts on a machine that does other things too.
#[derive(Clone, Copy)]
struct Time {
    wall: f64,
    cpu: f64,
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} s (CPU {:.2} s)", self.wall, self.cpu)
    }
}

/// Measures one step after the other.
struct Watch {
    wall: Instant,
    cpu: f64,
}

impl Watch {
    fn start() -> Self {
        Watch { wall: Instant::now(), cpu: cpu_time() }
    }

    /// Since the start, or the last time it was asked.
    fn lap(&mut self) -> Time {
        let before = std::mem::replace(self, Watch::start());
        Time { wall: (self.wall - before.wall).as_secs_f64(), cpu: self.cpu - before.cpu }
    }
}

fn cpu_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A tree and where its contents are.
struct Side {
    archive: PathBuf,
    /// The newest time in it: what was made by unpacking has that.
    epoch: i64,
    tree: Tree,
    spools: ContentFiles,
    pages: Pages,
}

fn main() -> Result<()> {
    let given: Vec<PathBuf> =
        std::env::args().skip(1).filter(|arg| arg != "--bench").map(Into::into).collect();
    let work = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/update");
    fs::create_dir_all(&work)?;
    let [before, after] = match <[PathBuf; 2]>::try_from(given) {
        Ok(given) => given,
        Err(_) => [archive(&work, "before", false)?, archive(&work, "after", true)?],
    };
    let (before, after) = (side(&before, 1_790_000_000)?, side(&after, 1_791_000_000)?);
    println!("before: {}", describe(&before));
    println!("after:  {}\n", describe(&after));

    let mut rows = vec![];
    let mut floor = None;
    if runs("floors") {
        let (bytes, new_pages) = floors::new_pages(&before, &after)?;
        floor = Some(bytes);
        rows.push((
            "floor: changed files alone, zlib 6".to_owned(),
            floors::changed_files(&before, &after)?,
            None,
        ));
        rows.push((format!("floor: the {new_pages} new pages alone, zlib 6"), bytes, None));
    }
    let codecs = [
        ("zlib", "zlib 6", Codec::zlib(6)?, 1),
        ("libdeflate", "libdeflate 5, the default", Codec::default(), ROUNDS),
        ("libdeflate6", "libdeflate 6", Codec::libdeflate(6)?, 1),
    ];
    for (_, name, codec, rounds) in codecs.into_iter().filter(|(part, ..)| runs(part)) {
        let (bytes, blocks) = ours(&work, &before, &after, name, codec, rounds)?;
        rows.push((format!("imgfactory, {name}"), bytes, Some(blocks)));
    }
    if runs("small") {
        small(&work, &before, &after)?;
    }
    if runs("choices") {
        choices(&work, &before, &after)?;
    }
    if runs("shared") {
        shared(&work, &before, &after)?;
    }
    if runs("plain") || runs("casync") {
        rows.push(others::plain(&work, &before, &after)?);
    }
    if runs("casync") {
        rows.push(others::casync(&work)?);
    }
    println!("{:52} {:>12} {:>8} {:>8}", "way", "bytes", "blocks", "ratio");
    for (name, bytes, blocks) in rows {
        let blocks = blocks.map_or(String::new(), |blocks| blocks.to_string());
        let ratio = floor.map_or(String::new(), |floor| format!("{:.3}", bytes as f64 / floor as f64));
        println!("{name:52} {bytes:>12} {blocks:>8} {ratio:>8}");
    }
    Ok(())
}

/// Both builds, in blocks, `rounds` times: what the second one writes, in bytes and blocks.
fn ours(
    work: &Path,
    before: &Side,
    after: &Side,
    name: &str,
    codec: Codec,
    rounds: usize,
) -> Result<(u64, u64)> {
    let (mut walls, mut cpus) = (vec![], vec![]);
    let mut last = None;
    for _ in 0..rounds {
        let pair = Pair::build(work, before, after, codec)?;
        let [first, update] = pair.times;
        walls.push(update.wall / first.wall);
        cpus.push(update.cpu / first.cpu);
        println!("imgfactory, {name}: first build {first}, update {update}");
        last = Some(pair);
    }
    let Pair { first, known, second, next, .. } = last.ok_or("no rounds")?;
    println!("  update / first: {} (bar: 0.35), by CPU time {}", middle(walls), middle(cpus));
    let (first, figures) = (first.split.figures, second.split.figures);
    let changes = Changes::between(&known.map, second.layout.as_ref().ok_or("no layout")?, PAGES);
    println!(
        "  first: {} blocks, {} bytes; update: {} new pages, {} live, {} dead; disk {} -> {} MiB; layout.z {} -> {} bytes; index {} bytes",
        first.written,
        first.written_bytes,
        changes.new,
        changes.live,
        changes.dead,
        known.index.header().size >> 20,
        second.split.index.header().size >> 20,
        known.base.as_ref().map_or(0, |(stored, _)| stored.digest.len),
        next.layout.len(),
        next.index.len(),
    );
    let mut causes: HashMap<_, (u32, u32)> = HashMap::new();
    for block in &changes.blocks {
        let entry = causes.entry(block.cause().map_or("length", |cause| cause.name())).or_default();
        entry.0 += 1;
        entry.1 += block.again;
    }
    println!("  blocks (and unchanged pages sent again) by cause: {causes:?}\n");
    Ok((figures.written_bytes, figures.written))
}

fn middle(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    let [least, middle, most] = [0, ratios.len() / 2, ratios.len() - 1].map(|at| ratios[at]);
    format!("{middle:.3} x ({least:.3} to {most:.3})")
}

/// A first build, and the one that updates it.
struct Pair {
    first: BuiltImage,
    /// What the second one knows of it.
    known: PreviousImage,
    second: BuiltImage,
    next: Release,
    /// Of both, each from the archive to blocks, index and layout; of the second from the index and layout before.
    times: [Time; 2],
}

impl Pair {
    fn build(work: &Path, before: &Side, after: &Side, codec: Codec) -> Result<Self> {
        let stores = work.join("ours");
        let _ = fs::remove_dir_all(&stores);
        let mut store = Store::open(&stores)?;
        warm(before)?;
        let mut watch = Watch::start();
        let first = build(before, Serial::FIRST, None, codec, &mut store)?;
        let release = Release::of(&first, None)?;
        let first_time = watch.lap();
        warm(after)?;
        watch.lap();
        let known = known(&release)?;
        store.trust(&known.index);
        let serial = Serial::FIRST.next().ok_or("no serial")?;
        let second = build(after, serial, Some(&known), codec, &mut store)?;
        let next = Release::of(&second, Some(&known))?;
        let times = [first_time, watch.lap()];
        fs::remove_dir_all(&stores)?;
        Ok(Pair { first, known, second, next, times })
    }
}

fn archive(work: &Path, name: &str, security: bool) -> Result<PathBuf> {
    let path = work.join(format!("{name}.tar"));
    if path.exists() {
        return Ok(path);
    }
    let mirrors = imgfactory::downloads::apt::own_mirrors();
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=important", "--aptopt=APT::Install-Recommends \"false\""]);
    command.arg(format!("--include={PACKAGES}")).arg("bookworm").arg(&path);
    command.arg(format!(
        "deb {} bookworm main",
        mirrors.uri(Archive::Debian).ok_or("no Debian mirror among apt's sources")?
    ));
    if security {
        let url = mirrors.uri(Archive::Security).ok_or("no security mirror among apt's sources")?;
        command.arg(format!("deb {url} bookworm-security main"));
    }
    println!("mmdebstrap: {}", path.display());
    if !command.status()?.success() {
        let _ = fs::remove_file(&path);
        return Err("mmdebstrap failed".into());
    }
    Ok(path)
}

fn side(archive: &Path, epoch: i64) -> Result<Side> {
    let mut spools = ContentFiles::new();
    let spool = spools.open(archive)?;
    let mut tree = tar::read(File::open(archive)?, spool)?;
    imgfactory::tree::normalise::normalise(&mut tree, &spools, epoch)?;
    let pages = Pages::read(&tree, &spools, None, &|_| {})?;
    Ok(Side { archive: archive.into(), epoch, tree, spools, pages })
}

/// Has the archive in memory, as far as the system lets it stay there.
fn warm(side: &Side) -> Result<()> {
    std::io::copy(&mut File::open(&side.archive)?, &mut std::io::sink())?;
    Ok(())
}

fn files(side: &Side) -> impl Iterator<Item = (Vec<u8>, imgfactory::tree::NodeId, u64)> + '_ {
    side.tree.walk().filter_map(|(path, id)| match &side.tree.node(id).kind {
        Kind::File(content) => Some((path, id, content.len)),
        _ => None,
    })
}

fn describe(side: &Side) -> String {
    let (count, bytes) = files(side).fold((0, 0), |(count, bytes), (_, _, len)| (count + 1, bytes + len));
    format!("{}: {count} files, {} MB", side.archive.display(), bytes / 1_000_000)
}

/// What first layouts put together.
fn first_read() -> Result<Vec<Vec<u8>>> {
    let Some(out) = std::env::var_os("IMGFACTORY_BENCH_ORDER") else { return Ok(Vec::new()) };
    Ok(imgfactory::pipeline::boot_order::read(Path::new(&out), &"host".parse()?)?)
}

fn wanted(side: &Side, serial: Serial, codec: Codec) -> Result<ImageSpec> {
    Ok(ImageSpec {
        name: "host".parse()?,
        serial,
        block_size: BlockSize::new(BLOCK as u32).ok_or("block size")?,
        codec,
        epoch: u64::try_from(side.epoch)?,
        free: 64 << 20,
        zero_freed: false,
        inode_size: InodeSize::Large,
        profile: Profile::default(),
        parent: None,
        first: first_read()?,
        choices: LayoutChoices::default(),
    })
}

fn made(
    wanted: &ImageSpec,
    tree: &Tree,
    spools: &ContentFiles,
    before: Option<&PreviousImage>,
    store: &mut Store,
) -> Result<BuiltImage> {
    let mut watch = Watch::start();
    let prepared = PreparedImage::new(wanted, tree, spools, before, &Silent)?;
    let read = watch.lap();
    let planned = prepared.plan(wanted, spools, &Silent)?;
    let decided = watch.lap();
    let made = planned.write(store, &Silent)?;
    if runs("phases") {
        println!("  contents {read}, layout {decided}, blocks {}", watch.lap());
    }
    Ok(made)
}

/// What is published of a build besides its blocks.
struct Release {
    index: Vec<u8>,
    layout: Vec<u8>,
}

impl Release {
    fn of(made: &BuiltImage, before: Option<&PreviousImage>) -> Result<Self> {
        let layout = made.published_layout(before).ok_or("no layout")?.file;
        Ok(Release { index: made.split.index.to_text(), layout })
    }
}

/// What the next build knows of a first one.
fn known(Release { index, layout }: &Release) -> Result<PreviousImage> {
    let map = Arc::new(LayoutMap::decode(layout)?);
    let base = Some((Stored { serial: Serial::FIRST, digest: Digest::of(layout) }, map.clone()));
    Ok(PreviousImage { index: Index::decode(&index[..])?, map, base })
}

/// From the archive on, as a build does, to blocks, index and layout.
fn build(
    side: &Side,
    serial: Serial,
    before: Option<&PreviousImage>,
    codec: Codec,
    store: &mut Store,
) -> Result<BuiltImage> {
    let mut watch = Watch::start();
    let mut spools = ContentFiles::new();
    let spool = spools.open(&side.archive)?;
    let mut tree = tar::read(File::open(&side.archive)?, spool)?;
    let read = watch.lap();
    imgfactory::tree::normalise::normalise(&mut tree, &spools, side.epoch)?;
    if runs("phases") {
        println!("  archive {read}, normalised {}", watch.lap());
    }
    made(&wanted(side, serial, codec)?, &tree, &spools, before, store)
}

/// What each choice of a layout gains: new blocks and bytes of the update, pieces of files and holes after it.
fn choices(work: &Path, before: &Side, after: &Side) -> Result<()> {
    let all = LayoutChoices::default();
    println!(
        "{:52} {:>8} {:>12} {:>16} {:>16} {:>8}",
        "choices", "blocks", "bytes", "pieces of files", "their blocks", "in use"
    );
    for (name, choices) in [
        ("all", all),
        ("large files not aligned", LayoutChoices { aligned: false, ..all }),
        ("freed pages: runs of 1", LayoutChoices { least_run: 1, ..all }),
        ("freed pages: runs of 2", LayoutChoices { least_run: 2, ..all }),
        ("freed pages: runs of 3", LayoutChoices { least_run: 3, ..all }),
        ("freed pages: runs of 16", LayoutChoices { least_run: 16, ..all }),
        (
            "freed pages: none but in blocks that are read anyway",
            LayoutChoices { least_run: u32::MAX, ..all },
        ),
    ] {
        let stores = work.join("choices");
        let _ = fs::remove_dir_all(&stores);
        let mut store = Store::open(&stores)?;
        // Fast: only what is written counts, and ratios of it.
        let codec = Codec::libdeflate(1)?;
        let first = ImageSpec { choices, ..wanted(before, Serial::FIRST, codec)? };
        let first = made(&first, &before.tree, &before.spools, None, &mut store)?;
        let known = known(&Release::of(&first, None)?)?;
        store.trust(&known.index);
        let next = ImageSpec { choices, ..wanted(after, Serial::FIRST.next().ok_or("no serial")?, codec)? };
        let second = made(&next, &after.tree, &after.spools, Some(&known), &mut store)?;
        let layout = second.layout.as_ref().ok_or("no layout")?;
        let pieces: usize = layout.inodes.iter().map(|inode| inode.data.len()).sum();
        // What a reader of each file fetches.
        let blocks = |inode: &Mapped| {
            let blocks = inode
                .data
                .iter()
                .flat_map(|run| run.physical / PAGES..(run.physical + run.count).div_ceil(PAGES));
            blocks.collect::<HashSet<_>>().len()
        };
        let read: usize = layout.inodes.iter().map(blocks).sum();
        let figures = second.split.figures;
        // Of what blocks hold then: the rest is holes.
        let in_use = Changes::between(&known.map, layout, PAGES).in_use();
        println!(
            "{name:52} {:>8} {:>12} {pieces:>16} {read:>16} {in_use:>8.4}",
            figures.written, figures.written_bytes
        );
        fs::remove_dir_all(&stores)?;
    }
    println!();
    Ok(())
}

/// Blocks that two images have in common that were laid out without regard to each other.
fn shared(work: &Path, one: &Side, other: &Side) -> Result<()> {
    for (name, aligned) in [("large files aligned", true), ("large files not aligned", false)] {
        let stores = work.join("shared");
        let _ = fs::remove_dir_all(&stores);
        let mut store = Store::open(&stores)?;
        let mut objects = |side: &Side| -> Result<Vec<Object>> {
            let wanted = wanted(side, Serial::FIRST, Codec::default())?;
            let wanted =
                ImageSpec { choices: LayoutChoices { aligned, ..LayoutChoices::default() }, ..wanted };
            let made = made(&wanted, &side.tree, &side.spools, None, &mut store)?;
            Ok(made.split.index.objects().to_vec())
        };
        let had: HashSet<_> = objects(one)?.iter().map(|object| object.name).collect();
        let has = objects(other)?;
        let (both, new): (Vec<&Object>, Vec<_>) = has.iter().partition(|object| had.contains(&object.name));
        let bytes =
            |objects: &[&Object]| objects.iter().map(|object| u64::from(object.file_len)).sum::<u64>();
        println!(
            "{name}: {} blocks in both, {} bytes; {} blocks, {} bytes only in the second",
            both.len(),
            bytes(&both),
            new.len(),
            bytes(&new)
        );
        fs::remove_dir_all(&stores)?;
    }
    println!();
    Ok(())
}

/// The package that the small update updates, and its files below `usr`.
const SMALL: (&str, &str) = ("libexpat1", "libexpat");

/// One library of less than 1 MB and its dpkg records, taken from the tree after into the tree before.
fn small(work: &Path, before: &Side, after: &Side) -> Result<()> {
    let (package, stem) = SMALL;
    // One spool for both: contents of the second archive come as bytes.
    let mut tree = before.tree.clone();
    let mut bytes = 0;
    for (path, id) in after.tree.walk() {
        let text = String::from_utf8_lossy(&path);
        let of_it = text.contains(&format!("/{stem}"))
            || text.contains(&format!("/{package}."))
            || text.contains(&format!("/{package}:"))
            || text.starts_with(&format!("usr/share/doc/{package}/"));
        let node = after.tree.node(id);
        let kind = match &node.kind {
            Kind::File(content) if of_it => {
                bytes += content.len;
                Kind::File(Content::inline(content.read_all(&after.spools)?))
            }
            Kind::Symlink(target) if of_it => Kind::Symlink(target.clone()),
            _ => continue,
        };
        tree.remove(&path);
        tree.insert(&path, Node { meta: node.meta.clone(), kind })?;
    }
    let status = b"var/lib/dpkg/status";
    let read = |side: &Side| -> Result<(Vec<u8>, imgfactory::tree::Meta)> {
        let id = side.tree.lookup(status).ok_or("no dpkg status")?;
        let Kind::File(content) = &side.tree.node(id).kind else {
            return Err("dpkg status is no file".into());
        };
        Ok((content.read_all(&side.spools)?, side.tree.node(id).meta.clone()))
    };
    let ((old, _), (new, meta)) = (read(before)?, read(after)?);
    let (old, new) = (String::from_utf8(old)?, String::from_utf8(new)?);
    let head = format!("Package: {package}\n");
    let stanza = |text: &str| text.split("\n\n").find(|part| part.starts_with(&head)).map(str::to_owned);
    let (from, to) = (stanza(&old).ok_or("not installed")?, stanza(&new).ok_or("not installed")?);
    if from == to {
        return Err(format!("{package} has no update in the second tree; choose another").into());
    }
    let kind = Kind::File(Content::inline(old.replace(&from, &to).into_bytes()));
    tree.remove(status);
    tree.insert(status, Node { meta, kind })?;

    let stores = work.join("small");
    let _ = fs::remove_dir_all(&stores);
    let mut store = Store::open(&stores)?;
    let codec = Codec::default();
    let first = made(&wanted(before, Serial::FIRST, codec)?, &before.tree, &before.spools, None, &mut store)?;
    let known = known(&Release::of(&first, None)?)?;
    store.trust(&known.index);
    let next = wanted(after, Serial::FIRST.next().ok_or("no serial")?, codec)?;
    let second = made(&next, &tree, &before.spools, Some(&known), &mut store)?;
    let figures = second.split.figures;
    let layout = second.published_layout(Some(&known)).ok_or("no layout")?.file.len();
    println!(
        "small update: {package}, {bytes} bytes in its files: {} new blocks (bar: 16), {} bytes, layout.z {layout} bytes\n",
        figures.written, figures.written_bytes
    );
    fs::remove_dir_all(&stores)?;
    Ok(())
}
