//! What a security update uploads, by every way: `cargo bench --bench update [-- BEFORE.tar AFTER.tar]`.
//!
//! Without archives it makes two trees of Debian 12 with mmdebstrap, one without and one with the security archive
//! (the packages are [`PACKAGES`]), and keeps them in `target/update`. Needs mmdebstrap, e2fsprogs, casync, and root
//! or an ordinary user with subordinate ids. Prints bytes, and their ratio to the floor: the pages of 4 KiB that
//! are new, alone, compressed.
//!
//! `IMGFACTORY_BENCH` names the parts to run, with commas: [`PARTS`] without it, and [`MORE`]. `phases` adds the times
//! of each step.

mod files;

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use files::size;
use imgfactory::block::{Block, Codec, Compressor};
use imgfactory::build::image::{Before, Choices, Made, Prepared, Wanted};
use imgfactory::ext2::{Changes, InodeSize, LayoutMap, PageHash, Pages, Profile};
use imgfactory::host::progress::Silent;
use imgfactory::host::spool::Spools;
use imgfactory::host::store::Store;
use imgfactory::index::{BlockSize, Index, Serial};
use imgfactory::recipe::Archive;
use imgfactory::release::{Digest, Stored};
use imgfactory::tree::{Content, Kind, Node, Tree, tar};

/// A desktop of Debian 12 with what its security archive has updates for.
const PACKAGES: &str = "linux-image-amd64,systemd-sysv,udev,kmod,firefox-esr,python3,perl,openssl,openssh-server,\
curl,wget,git,vim,xfce4,xorg,lightdm,gimp,evince,network-manager,cups,ghostscript,bind9-host,dbus-x11,\
libreoffice-writer,ca-certificates,sudo,less,man-db,locales,console-setup,e2fsprogs,iproute2,file,rsync,gnupg";

const BLOCK: usize = 256 << 10;

/// What is run if nothing is asked for: floors, our two codecs, the small update, the two other ways.
const PARTS: &str = "floors,zlib,libdeflate,small,plain,casync";
/// What is run if it is asked for: the choices of a layout, each against the others; the times of each step; the level
/// above the default.
const MORE: [&str; 3] = ["choices", "phases", "libdeflate6"];

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
    spools: Spools,
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
        let (bytes, new_pages) = new_pages(&before, &after)?;
        floor = Some(bytes);
        rows.push(("floor: changed files alone, zlib 6".to_owned(), changed_files(&before, &after)?, None));
        rows.push((format!("floor: the {new_pages} new pages alone, zlib 6"), bytes, None));
    }
    let codecs = [
        ("zlib", "zlib 6", Codec::zlib(6)?),
        ("libdeflate", "libdeflate 5, the default", Codec::default()),
        ("libdeflate6", "libdeflate 6", Codec::libdeflate(6)?),
    ];
    for (_, name, codec) in codecs.into_iter().filter(|(part, ..)| runs(part)) {
        let stores = work.join("ours");
        let _ = fs::remove_dir_all(&stores);
        let mut store = Store::open(&stores)?;
        warm(&before)?;
        let mut watch = Watch::start();
        let first = build(&before, Serial::FIRST, None, codec, &mut store)?;
        let release = Release::of(&first, None)?;
        let first_time = watch.lap();
        warm(&after)?;
        watch.lap();
        let known = known(&release)?;
        store.trust(&known.index);
        let second =
            build(&after, Serial::FIRST.next().ok_or("no serial")?, Some(&known), codec, &mut store)?;
        let next = Release::of(&second, Some(&known))?;
        let time = watch.lap();
        let bytes = second.split.figures.written_bytes;
        rows.push((format!("imgfactory, {name}"), bytes, Some(second.split.figures.written)));
        let after_map = second.layout.as_ref().ok_or("no layout")?;
        let changes = Changes::between(&known.map, after_map, (BLOCK / 4096) as u32);
        println!(
            "imgfactory, {name}: first build {first_time}, update {time}: {:.3} x, by CPU time {:.3} x (bar: 0.35)",
            time.wall / first_time.wall,
            time.cpu / first_time.cpu,
        );
        println!(
            "  first: {} blocks, {} bytes; update: {} new pages, {} live, {} dead; disk {} -> {} MiB; layout.z {} -> {} bytes; index {} bytes",
            first.split.figures.written,
            first.split.figures.written_bytes,
            changes.new,
            changes.live,
            changes.dead,
            known.index.header().size >> 20,
            second.split.index.header().size >> 20,
            release.layout.len(),
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
        fs::remove_dir_all(&stores)?;
    }
    if runs("small") {
        small(&work, &before, &after)?;
    }
    if runs("choices") {
        choices(&work, &before, &after)?;
    }
    if runs("plain") || runs("casync") {
        rows.push(plain(&work, &before, &after)?);
    }
    if runs("casync") {
        rows.push(casync(&work)?);
    }
    println!("{:52} {:>12} {:>8} {:>8}", "way", "bytes", "blocks", "ratio");
    for (name, bytes, blocks) in rows {
        let blocks = blocks.map_or(String::new(), |blocks| blocks.to_string());
        let ratio = floor.map_or(String::new(), |floor| format!("{:.3}", bytes as f64 / floor as f64));
        println!("{name:52} {bytes:>12} {blocks:>8} {ratio:>8}");
    }
    Ok(())
}

fn archive(work: &Path, name: &str, security: bool) -> Result<PathBuf> {
    let path = work.join(format!("{name}.tar"));
    if path.exists() {
        return Ok(path);
    }
    let mirrors = imgfactory::host::apt::own_mirrors();
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
    let mut spools = Spools::new();
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

/// Adds up what blocks of what it is given compress to.
struct Floor {
    compressor: Compressor,
    raw: Vec<u8>,
    bytes: u64,
}

impl Floor {
    fn new() -> Result<Self> {
        Ok(Floor { compressor: Compressor::new(Codec::zlib(6)?), raw: vec![], bytes: 0 })
    }

    fn add(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        while self.raw.len() >= BLOCK {
            let rest = self.raw.split_off(BLOCK);
            self.end();
            self.raw = rest;
        }
    }

    fn end(&mut self) {
        if !self.raw.is_empty() {
            self.bytes += self.compressor.compress(&self.raw).len() as u64;
            self.raw.clear();
        }
    }
}

fn changed_files(before: &Side, after: &Side) -> Result<u64> {
    let old: HashMap<_, _> =
        files(before).map(|(path, id, len)| (path, (len, before.pages.of(id)))).collect();
    let mut floor = Floor::new()?;
    let mut buffer = vec![0; 1 << 20];
    for (path, id, len) in files(after) {
        let Kind::File(content) = &after.tree.node(id).kind else { continue };
        if old.get(&path) == Some(&(len, after.pages.of(id))) {
            continue;
        }
        let mut at = 0;
        while at < len {
            let part = (len - at).min(buffer.len() as u64) as usize;
            content.read_at(&after.spools, at, &mut buffer[..part])?;
            floor.add(&buffer[..part]);
            at += part as u64;
        }
    }
    floor.end();
    Ok(floor.bytes)
}

fn new_pages(before: &Side, after: &Side) -> Result<(u64, u64)> {
    let mut known: HashSet<PageHash> =
        files(before).flat_map(|(_, id, _)| before.pages.of(id).iter().copied()).collect();
    known.insert(PageHash::ZERO);
    let mut floor = Floor::new()?;
    let mut count = 0;
    let mut page = vec![0; 4096];
    for (_, id, _) in files(after) {
        let Kind::File(content) = &after.tree.node(id).kind else { continue };
        let runs = content
            .extents
            .iter()
            .flat_map(|extent| extent.at / 4096..(extent.at + extent.len).div_ceil(4096));
        let mut last = None;
        let logical = runs.filter(|page| last.replace(*page) != Some(*page));
        for (logical, hash) in logical.zip(after.pages.of(id)) {
            // The same new page twice has to be there twice: ext2 shares nothing.
            if !known.contains(hash) {
                content.read_at(&after.spools, logical * 4096, &mut page)?;
                floor.add(&page);
                count += 1;
            }
        }
    }
    floor.end();
    Ok((floor.bytes, count))
}

fn wanted(side: &Side, serial: Serial, codec: Codec) -> Result<Wanted> {
    Ok(Wanted {
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
        choices: Choices::default(),
    })
}

fn made(
    wanted: &Wanted,
    tree: &Tree,
    spools: &Spools,
    before: Option<&Before>,
    store: &mut Store,
) -> Result<Made> {
    let mut watch = Watch::start();
    let prepared = Prepared::new(wanted, tree, spools, before, &Silent)?;
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
    fn of(made: &Made, before: Option<&Before>) -> Result<Self> {
        let layout = made.published_layout(before).ok_or("no layout")?.file;
        Ok(Release { index: made.split.index.to_text(), layout })
    }
}

/// What the next build knows of a first one.
fn known(Release { index, layout }: &Release) -> Result<Before> {
    let map = Arc::new(LayoutMap::decode(layout)?);
    let base = Some((Stored { serial: Serial::FIRST, digest: Digest::of(layout) }, map.clone()));
    Ok(Before { index: Index::decode(&index[..])?, map, base })
}

/// From the archive on, as a build does, to blocks, index and layout.
fn build(
    side: &Side,
    serial: Serial,
    before: Option<&Before>,
    codec: Codec,
    store: &mut Store,
) -> Result<Made> {
    let mut watch = Watch::start();
    let mut spools = Spools::new();
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
    let all = Choices::default();
    println!("{:32} {:>8} {:>12} {:>16} {:>8}", "choices", "blocks", "bytes", "pieces of files", "in use");
    for (name, choices) in [
        ("all", all),
        ("large files not aligned", Choices { aligned: false, ..all }),
        ("freed pages: runs of 1", Choices { least_run: 1, ..all }),
        ("freed pages: runs of 2", Choices { least_run: 2, ..all }),
        ("freed pages: runs of 3", Choices { least_run: 3, ..all }),
        ("freed pages: runs of 16", Choices { least_run: 16, ..all }),
        ("freed pages: none used again", Choices { least_run: u32::MAX, ..all }),
    ] {
        let stores = work.join("choices");
        let _ = fs::remove_dir_all(&stores);
        let mut store = Store::open(&stores)?;
        // Fast: only what is written counts, and ratios of it.
        let codec = Codec::libdeflate(1)?;
        let first = Wanted { choices, ..wanted(before, Serial::FIRST, codec)? };
        let first = made(&first, &before.tree, &before.spools, None, &mut store)?;
        let known = known(&Release::of(&first, None)?)?;
        store.trust(&known.index);
        let next = Wanted { choices, ..wanted(after, Serial::FIRST.next().ok_or("no serial")?, codec)? };
        let second = made(&next, &after.tree, &after.spools, Some(&known), &mut store)?;
        let layout = second.layout.as_ref().ok_or("no layout")?;
        let pieces: usize = layout.inodes.iter().map(|inode| inode.data.len()).sum();
        let figures = second.split.figures;
        // Of what blocks hold then: the rest is holes.
        let in_use = Changes::between(&known.map, layout, (BLOCK / 4096) as u32).in_use();
        println!("{name:32} {:>8} {:>12} {pieces:>16} {in_use:>8.4}", figures.written, figures.written_bytes);
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

/// `mke2fs -d` again: fixed blocks, zlib 6.
fn plain(work: &Path, before: &Side, after: &Side) -> Result<(String, u64, Option<u64>)> {
    let mut known = HashSet::new();
    let mut result = (0, 0);
    for (name, side) in [("plain-before", before), ("plain-after", after)] {
        let root = work.join("root");
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root)?;
        run(Command::new("tar")
            .arg("-C")
            .arg(&root)
            .args(["--xattrs", "--xattrs-include=*", "-xf"])
            .arg(&side.archive))?;
        let image = work.join(format!("{name}.ext2"));
        let _ = fs::remove_file(&image);
        run(Command::new("mke2fs")
            .args(["-q", "-t", "ext2", "-m", "0", "-d"])
            .arg(&root)
            .arg(&image)
            .arg("4G"))?;
        fs::remove_dir_all(&root)?;
        let mut compressor = Compressor::new(Codec::zlib(6)?);
        let mut file = File::open(&image)?;
        let mut raw = vec![0; BLOCK];
        result = (0, 0);
        while file.read_exact(&mut raw).is_ok() {
            let block = Block::seal(raw.clone());
            if raw.iter().any(|byte| *byte != 0)
                && known.insert(block.name())
                && side.archive == after.archive
            {
                result.0 += compressor.compress(&raw).len() as u64;
                result.1 += 1;
            }
        }
    }
    Ok(("mke2fs -d again, 256 KiB blocks, zlib 6".to_owned(), result.0, Some(result.1)))
}

fn casync(work: &Path) -> Result<(String, u64, Option<u64>)> {
    let store = work.join("casync.castr");
    let _ = fs::remove_dir_all(&store);
    let make = |name: &str| -> Result<()> {
        let (index, image) = (work.join(format!("{name}.caibx")), work.join(format!("plain-{name}.ext2")));
        run(Command::new("casync").arg("make").arg("--store").arg(&store).arg(index).arg(image))
    };
    make("before")?;
    let first = size(&store)?;
    make("after")?;
    let bytes = size(&store)? - first;
    for name in ["before", "after"] {
        fs::remove_file(work.join(format!("plain-{name}.ext2")))?;
    }
    Ok(("casync make on the same images".to_owned(), bytes, None))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(std::process::Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
