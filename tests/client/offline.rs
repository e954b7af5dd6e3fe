//! Media with blocks: made of a build's medium and a mirror, read by clients with and without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use formats::release::TrustedKeys;
use imgfactory::foreign::iso9660::Iso;
use imgfactory::iso::grub::Grub;
use imgfactory::iso::offline::{BlockSelection, Disc};
use imgfactory::iso::plan::{BIOS_IMAGE, KERNEL, MINIROOT, MediumContents, XEN};
use imgfactory::pipeline::offline_medium::{self, OfflineError, OfflineMedium, OfflineMediumRequest};
use imgfactory::pipeline::steps::iso;
use imgfactory::publish::{ReleaseState, read_state};
use imgfactory::repository::targets::LocalTree;
use imgfactory::sys::image_file::ImageFile;
use imgfactory::sys::progress::Silent;
use system::files::{OutputPath, Scratch};

use crate::fetch_support::fault_server::{Act, FaultServer, refused};
use crate::fetch_support::{Cat, Publisher, Tree, block_paths, cat, disk, run, scratch};

/// A mirror on disk, a build's medium beside it, and what its image holds.
struct World {
    room: Scratch,
    publisher: Publisher,
    disk: Vec<u8>,
    tree: Tree,
}

/// Blocks in the prefetch list.
const AHEAD: usize = 5;

impl World {
    fn new() -> Self {
        let publisher = Publisher { ahead: AHEAD, ..Publisher::new() };
        let disk = disk(40 * 4096 + 1000, 1);
        let tree = publisher.publish(7, &[("host", &disk)]);
        let world = World { room: scratch(), publisher, disk, tree };
        write(&world.tree, &world.mirror());
        medium(&world.path("demo.iso"), "demo");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    fn mirror(&self) -> PathBuf {
        // A name that xorriso's lists would read as two.
        self.path("a=b\\mirror")
    }

    fn state(&self) -> ReleaseState {
        let keys = TrustedKeys::parse(&self.publisher.public()).unwrap();
        read_state(&LocalTree(self.mirror()), &keys).unwrap().unwrap()
    }

    fn make(&self, blocks: BlockSelection, disc: Option<Disc>) -> Result<OfflineMedium, OfflineError> {
        offline_medium::make(&OfflineMediumRequest {
            iso: &self.path("demo.iso"),
            mirror: &self.mirror(),
            state: &self.state(),
            blocks,
            target: &self.path("offline.iso"),
            disc,
            log: &self.path("xorriso.log"),
            progress: &Silent,
        })
    }

    /// The tree on the medium, by another program than the one that is under test.
    fn unpacked(&self) -> PathBuf {
        let to = self.path("unpacked");
        // Below /dev it would be taken for a drive.
        let iso = format!("stdio:{}", self.path("offline.iso").display());
        run(Command::new("xorriso")
            .args(["-no_rc", "-osirrox", "on", "-indev"])
            .arg(iso)
            .args(["-extract", "/mirror"])
            .arg(&to));
        run(Command::new("chmod").args(["-R", "u+w"]).arg(&to));
        to
    }

    fn cat(&self, mirror: &str, medium: &Path, words: &[&str]) -> Cat {
        let (medium, cache) = (medium.to_str().unwrap(), self.path("cache"));
        let all = [&["--medium", medium, "--cache", cache.to_str().unwrap()], words].concat();
        cat(&[mirror], &self.publisher.public(), &all)
    }

    #[track_caller]
    fn assert_right(&self, found: &Cat) {
        assert!(found.output.status.success(), "{}", found.errors());
        assert!(found.output.stdout == self.disk, "wrong bytes; {}", found.errors());
    }
}

fn write(tree: &Tree, root: &Path) {
    for (path, bytes) in tree {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Bytes of which no two places look alike.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    disk(len, seed)
}

fn medium(path: &Path, name: &str) {
    let grub = Grub { bios: noise(50_001, 2), uefi: noise(900_001, 3), mbr: noise(512, 4) };
    let (xen, kernel, miniroot) = (noise(100_000, 5), noise(300_001, 6), noise(70_001, 7));
    let contents = MediumContents {
        name,
        epoch: 1_700_000_000,
        config: "# the menu\n",
        grub: &grub,
        xen: Some(&xen),
        kernel: &kernel,
        miniroot: &miniroot,
        grafts: &[],
    };
    iso::make(&contents, OutputPath::find(path).unwrap(), &path.with_extension("log")).unwrap();
}

#[test]
fn a_medium_with_blocks_is_the_old_one_and_a_mirror() {
    let world = World::new();
    let made = world.make(BlockSelection::All, Some(Disc::Cd)).unwrap();
    assert_eq!((made.blocks, made.of), (block_paths(&world.tree).len(), made.blocks));
    assert_eq!(made.parts.total, fs::metadata(world.path("offline.iso")).unwrap().len());
    let stored: usize = world.tree.values().map(Vec::len).sum();
    assert_eq!(made.parts.blocks, stored as u64);

    let images = ["demo.iso", "offline.iso"].map(|name| ImageFile::open(world.path(name)).unwrap());
    let [old, new] = images.each_ref().map(|image| Iso::open(image).unwrap());
    for part in [KERNEL, MINIROOT, XEN, "/boot/grub/grub.cfg", "/.imgfactory/medium"] {
        let read = |iso: &Iso| iso.file(part, 1 << 20).unwrap().unwrap();
        assert!(read(&old) == read(&new), "{part}");
    }
    // GRUB's BIOS image has its own place written into it; the rest is the same.
    let read = |iso: &Iso| iso.file(BIOS_IMAGE, 1 << 20).unwrap().unwrap();
    let (one, other) = (read(&old), read(&new));
    assert!(one[64..2048] == other[64..2048] && one[3000..] == other[3000..]);
    run(Command::new("sgdisk").arg("--verify").arg(world.path("offline.iso")));

    let unpacked = world.unpacked();
    for (path, bytes) in &world.tree {
        assert!(fs::read(unpacked.join(path)).unwrap() == *bytes, "{path}");
    }
    // Once more, from the medium that has blocks already: the same to the byte.
    let first = fs::read(world.path("offline.iso")).unwrap();
    fs::rename(world.path("offline.iso"), world.path("demo.iso")).unwrap();
    world.make(BlockSelection::All, None).unwrap();
    assert!(fs::read(world.path("offline.iso")).unwrap() == first);
}

#[test]
fn without_a_network_all_comes_from_the_medium() {
    let world = World::new();
    world.make(BlockSelection::All, None).unwrap();
    let medium = world.unpacked();
    let found = world.cat(&refused(), &medium, &[]);
    world.assert_right(&found);
    assert!(found.errors().contains("continuing with the medium's release 7"), "{}", found.errors());
    assert!(found.took < Duration::from_secs(20), "mirrors are not waited for: {:?}", found.took);
    assert!(!world.path("cache/blk").read_dir().unwrap().any(|_| true), "nothing is copied into the cache");
}

#[test]
fn what_the_medium_lacks_or_has_damaged_comes_over_the_network() {
    let world = World::new();
    let made = world.make(BlockSelection::Prefetch, None).unwrap();
    assert_eq!((made.blocks, made.of), (AHEAD, block_paths(&world.tree).len()));
    let medium = world.unpacked();
    let on_medium: Vec<String> =
        block_paths(&world.tree).into_iter().filter(|path| medium.join(path).exists()).collect();
    assert_eq!(on_medium.len(), AHEAD);
    fs::write(medium.join(&on_medium[0]), b"scratched").unwrap();

    let server = FaultServer::honest(world.tree.clone());
    let found = world.cat(&server.url(), &medium, &["--no-prefetch"]);
    world.assert_right(&found);
    for path in block_paths(&world.tree) {
        let asked = usize::from(path == on_medium[0] || !on_medium.contains(&path));
        assert_eq!(server.asked(&path), asked, "{path}");
    }
    assert_eq!(server.asked("images/host/7/index.idx"), 0, "the medium has it");
}

#[test]
fn a_newer_release_is_fetched_on_top_and_an_older_one_is_not() {
    let mut world = World::new();
    world.make(BlockSelection::All, None).unwrap();
    let medium = world.unpacked();
    let before = world.disk.clone();
    world.disk[3 * 4096..4 * 4096].fill(0xa5);
    let newer = world.publisher.publish(8, &[("host", &world.disk)]);
    let server = FaultServer::honest(newer.clone());
    world.assert_right(&world.cat(&server.url(), &medium, &["--no-prefetch"]));
    assert_eq!(server.blocks_asked(), 1, "one block has changed");

    // Another machine, with a mirror that is behind the medium.
    fs::remove_dir_all(world.path("cache")).unwrap();
    world.disk = before;
    server.put(world.publisher.publish(6, &[("host", &disk(9 * 4096, 9))]));
    let found = world.cat(&server.url(), &medium, &[]);
    world.assert_right(&found);
    assert!(
        found.errors().contains("the mirrors have release 6, the medium has the newer release 7"),
        "{}",
        found.errors()
    );
}

#[test]
fn a_medium_is_believed_no_more_than_a_mirror() {
    let world = World::new();
    world.make(BlockSelection::All, None).unwrap();
    let medium = world.unpacked();
    // Somebody else's: not signed by our key.
    let other = Publisher::new().publish(9, &[("host", &disk(9 * 4096, 9))]);
    write(&other, &medium);
    let found = world.cat(&refused(), &medium, &["--deadline", "2s"]);
    assert_eq!(found.output.status.code(), Some(1), "{}", found.errors());
    assert!(found.output.stdout.is_empty());
    // An old one, where a newer release was used.
    let newer = FaultServer::honest(world.publisher.publish(8, &[("host", &world.disk)]));
    write(&world.tree, &medium);
    world.assert_right(&world.cat(&newer.url(), &medium, &[]));
    newer.script(|_, _| Act::Status(503, ""));
    let found = world.cat(&newer.url(), &medium, &["--deadline", "2s"]);
    assert!(!found.errors().contains("continuing with the medium's release"), "{}", found.errors());
    // Unless it is asked for by its number.
    world.assert_right(&world.cat(&newer.url(), &medium, &["--release", "7"]));
}

#[test]
fn what_can_not_be_put_onto_a_medium_is_told_before_it_is_made() {
    let world = World::new();
    let fail = |blocks, disc| {
        let error = world.make(blocks, disc).map(|_| ()).unwrap_err();
        assert!(!world.path("offline.iso").exists());
        error.to_string().replace(world.room.path().to_str().unwrap(), "ROOM")
    };
    // A CD's room taken by one file: sparse here, and read by nobody.
    let block = block_paths(&world.tree).pop().unwrap();
    let path = world.mirror().join(&block);
    fs::File::options().write(true).open(&path).unwrap().set_len(737_280_000).unwrap();
    assert_eq!(
        fail(BlockSelection::All, Some(Disc::Cd)),
        "ROOM/offline.iso would have 704 MiB; a CD has 703 MiB, which is 1.6 MiB too little. Fewer blocks: \
         --with-blocks=prefetch; more room: --fits dvd, or a USB stick"
    );
    fs::write(&path, b"damaged").unwrap();
    assert_eq!(
        fail(BlockSelection::All, None),
        format!(
            "ROOM/a=b\\mirror/{block}: damaged; fetch it again with `imgfactory mirror pull`, or build again"
        )
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(
        fail(BlockSelection::All, None),
        format!(
            "ROOM/a=b\\mirror/{block}: missing, but release 7 needs it; `imgfactory mirror verify` lists \
             all that is missing"
        )
    );
    medium(&world.path("demo.iso"), "other");
    assert_eq!(
        fail(BlockSelection::All, None),
        "ROOM/demo.iso: the medium is of `other`, but the mirror is of `demo`"
    );
    fs::write(world.path("demo.iso"), vec![0; 1 << 20]).unwrap();
    assert_eq!(fail(BlockSelection::All, None), "ROOM/demo.iso");

    let bare = Publisher { ahead: 0, ..Publisher::new() };
    let tree = bare.publish(1, &[("host", &world.disk)]);
    let world = World { room: scratch(), publisher: bare, disk: vec![], tree };
    write(&world.tree, &world.mirror());
    medium(&world.path("demo.iso"), "demo");
    assert_eq!(
        world.make(BlockSelection::Prefetch, None).unwrap_err().to_string(),
        "release 1 has no prefetch list for any image; record one with `imgfactory profile`, or take all blocks: \
         --with-blocks=all"
    );
}
