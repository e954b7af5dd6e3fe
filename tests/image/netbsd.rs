//! Releases of NetBSD as files -> trees -> images, judged by e2fsck, the kernel and a reader of our own; and
//! everything that can be wrong with a release.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use imgfactory::ext2::{ImageOptions, InodeSize, Profile, Sequential};
use imgfactory::foreign::sums::Sum;
use imgfactory::recipe::lock::Lock;
use imgfactory::sys::spool::ContentFiles;
use imgfactory::tree::{Kind, Tree};

use crate::programs;
use crate::support;
use crate::support::judges::{Mounted, assert_fsck_is_silent};
use crate::support::release::{Item, Release, base, etc, kernel};
use crate::support::requests::guest_tree;

/// What a guest of the given section becomes of the release in `files`.
fn make(files: &Path, netbsd: &str, more: &str, lock: &Lock) -> Result<(Tree, ContentFiles), String> {
    let room = tempfile::tempdir().unwrap();
    let guest = format!("name: bsd\n  netbsd: {netbsd}\n{more}");
    guest_tree(room.path(), &guest, files, lock)
}

fn made(sources: &Path, netbsd: &str) -> (Tree, ContentFiles) {
    make(sources, netbsd, "", &Lock::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// `MODE UID:GID` of a path.
fn owner(tree: &Tree, path: &str) -> String {
    let id = tree.lookup(path.as_bytes()).unwrap_or_else(|| panic!("{path} is there"));
    let meta = &tree.node(id).meta;
    format!("{:o} {}:{}", meta.mode, meta.uid, meta.gid)
}

#[test]
fn sets_become_a_system_whose_owners_are_those_of_its_own_specifications() {
    let room = tempfile::tempdir().unwrap();
    Release::usual(room.path(), &kernel(true, false), &[]);
    let (tree, spools) = made(room.path(), "{version: '10.1'}");
    for (path, expected) in [
        ("usr/bin/su", "4555 0:31"),
        ("bin/cat", "511 66:1000"),
        ("tmp", "1777 0:0"),
        ("var/crash", "770 0:0"),
        ("usr/bin/mail", "555 1000:1000"),
        ("dev/xbd0a", "640 0:5"),
        ("etc/rc.conf", "644 0:0"),
    ] {
        assert_eq!(owner(&tree, path), expected, "{path}");
    }
    let names = ["usr/bin/su", "usr/bin/sup", "etc/su.example"].map(|path| tree.lookup(path.as_bytes()));
    assert!(names[0].is_some() && names[0] == names[1] && names[0] == names[2], "hard links across sets");
    let text = |path: &str| {
        let Kind::File(content) = &tree.node(tree.lookup(path.as_bytes()).unwrap()).kind else { panic!() };
        content.read_all(&spools).unwrap()
    };
    assert_eq!((text("usr/bin/Mail"), text("usr/bin/mail")), (b"upper".to_vec(), b"lower".to_vec()));
    assert_eq!(text("boot/imgfactory/kernel"), kernel(true, false), "the kernel is inflated");
    assert!(String::from_utf8(text("etc/rc.conf")).unwrap().contains("rc_configured=YES\nhostname=bsd\n"));
}

#[test]
fn a_release_of_old_has_tgz_sets_and_the_kernel_says_what_it_starts_as() {
    let room = tempfile::tempdir().unwrap();
    let release = Release::new(room.path(), "7.1.2", "amd64");
    release.set("base.tgz", &base());
    release.set("etc.tgz", &etc());
    release.kernel("XEN3_DOMU", &kernel(true, false));
    release.sums();
    made(room.path(), "{version: '7.1.2'}");

    Release::usual(room.path(), &kernel(false, true), &[]);
    let release = Release::new(room.path(), "10.1", "amd64");
    release.set("modules.tar.xz", &[Item::Dir("./stand")]);
    release.sums();
    make(room.path(), "{version: '10.1'}", "  xen: pvh\n", &Lock::default())
        .unwrap_or_else(|e| panic!("{e}"));
    let said = make(room.path(), "{version: '10.1'}", "", &Lock::default()).err().unwrap();
    assert_eq!(
        said,
        "error: guest `bsd`: NetBSD 10.1\n  caused by: kernel netbsd-XEN3_DOMU.gz can't be started as pv: it is \
         not made for Xen; XEN3_DOMU is"
    );
}

#[test]
fn everything_wrong_with_a_release_is_told_with_the_file() {
    type Change<'c> = &'c dyn Fn(&Release);
    let cases: &[(&str, &str, Change<'_>)] = &[
        ("{version: '10.1', sets: [base, etc, comp]}", "the release has no set `comp`", &|_| ()),
        ("{version: '10.1', kernel: XEN3PAE_DOMU}", "the release has no kernel `XEN3PAE_DOMU`", &|_| ()),
        ("{version: '10.1'}", "not in the cache nor in", &|release| {
            fs::remove_file(release.path("sets", "SHA512")).unwrap();
        }),
        ("{version: '10.1'}", "base.tar.xz: its sha512 is sha512:", &|release| {
            release.set("base.tar.xz", &[Item::Dir("./else")]);
        }),
        ("{version: '10.1'}", "base.tar.xz: can't decompress it; it is truncated", &|release| {
            let path = release.path("sets", "base.tar.xz");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();
            release.sums();
        }),
        ("{version: '10.1'}", "netbsd-XEN3_DOMU.gz: can't decompress it", &|release| {
            fs::write(release.path("kernel", "netbsd-XEN3_DOMU.gz"), b"\x1f\x8b").unwrap();
            release.sums();
        }),
        ("{version: '10.1'}", "kernel netbsd-XEN3_DOMU.gz\n  caused by: not an ELF file", &|release| {
            release.kernel("XEN3_DOMU", b"text");
            release.sums();
        }),
        (
            "{version: '10.1'}",
            "entry `./../../etc/passwd` at byte 0: can't be placed\n  caused by: /./../../etc/passwd: `..` can't be a file name",
            &|release| {
                release.set("base.tar.xz", &[Item::File("./../../etc/passwd", 0o644, b"evil")]);
                release.sums();
            },
        ),
        (
            "{version: '10.1'}",
            "entry `./x/passwd` at byte 512: can't be placed\n  caused by: /x: not a directory",
            &|release| {
                let items = [Item::Soft("./x", "/etc"), Item::File("./x/passwd", 0o644, b"evil")];
                release.set("base.tar.xz", &items);
                release.sums();
            },
        ),
        ("{version: '10.1'}", "hard link to `./gone`, which is not an earlier entry", &|release| {
            release.set("etc.tar.xz", &[Item::Hard("./x", "./gone")]);
            release.sums();
        }),
        (
            "{version: '10.1'}",
            "/etc/master.passwd: missing from the sets; check that the recipe lists `etc`",
            &|release| {
                release.set("etc.tar.xz", &[Item::Dir("./etc")]);
                release.sums();
            },
        ),
        (
            "{version: '10.1'}",
            "SHA512\n  caused by: line 1: not `SHA512 (NAME) = HEX`: \"<html>\"",
            &|release| fs::write(release.path("sets", "SHA512"), "<html>").unwrap(),
        ),
        (
            "{version: '10.1', devices: all}",
            "sh: exit status 3; its last lines:\n    no such device",
            &|release| {
                let mut items = base();
                items.push(Item::File("./dev/MAKEDEV", 0o555, b"echo no such device >&2; exit 3"));
                release.set("base.tar.xz", &items);
                release.sums();
            },
        ),
    ];
    for (recipe, said, change) in cases {
        let room = tempfile::tempdir().unwrap();
        change(&Release::usual(room.path(), &kernel(true, false), &[]));
        let error = make(room.path(), recipe, "", &Lock::default()).err().unwrap_or_else(|| panic!("{said}"));
        assert!(error.contains(said), "{recipe}: wanted {said}\n{error}");
        assert!(error.starts_with("error: guest `bsd`: NetBSD 10.1\n"), "{error}");
    }
}

#[test]
fn a_lock_pins_each_file_and_needs_no_checksum_file() {
    let room = tempfile::tempdir().unwrap();
    let release = Release::usual(room.path(), &kernel(true, false), &[]);
    let sha512 = |dir: &str, name: &str| {
        let text = fs::read_to_string(release.path(dir, "SHA512")).unwrap();
        let line = text.lines().find(|line| line.contains(&format!("({name})"))).unwrap().to_owned();
        line.split(" = ").nth(1).unwrap().to_owned()
    };
    let url = |dir: &str, name: &str| {
        format!("https://cdn.netbsd.org/pub/NetBSD/NetBSD-10.1/amd64/binary/{dir}/{name}")
    };
    let files = [("sets", "base.tar.xz"), ("sets", "etc.tar.xz"), ("kernel", "netbsd-XEN3_DOMU.gz")];
    let sums = files.map(|(dir, name)| (url(dir, name), Sum::Sha512(sha512(dir, name).parse().unwrap())));
    let mut lock = Lock { sums: sums.into() };
    for dir in ["sets", "kernel"] {
        fs::remove_file(release.path(dir, "SHA512")).unwrap();
    }
    make(room.path(), "{version: '10.1'}", "", &lock).unwrap_or_else(|error| panic!("{error}"));
    lock.sums.insert(url("sets", "etc.tar.xz"), Sum::Sha512("0".repeat(128).parse().unwrap()));
    let said = make(room.path(), "{version: '10.1'}", "", &lock).err().unwrap();
    assert!(said.contains("etc.tar.xz: its sha512 is"), "{said}");
}

/// NetBSD's own reading of an image's superblock and a device's inode, written from its sources' limits: no code
/// of ours takes part.
struct NetBsdReader<'i>(&'i [u8]);

impl NetBsdReader<'_> {
    fn u16(&self, at: usize) -> u32 {
        u32::from(self.0[at]) | u32::from(self.0[at + 1]) << 8
    }

    fn u32(&self, at: usize) -> u32 {
        self.u16(at) | self.u16(at + 2) << 16
    }

    /// Why NetBSD would not mount it for writing.
    fn refuses(&self) -> Option<String> {
        let sb = |at: usize| self.u32(1024 + at);
        let (compat, incompat, ro) = (sb(0x5c), sb(0x60), sb(0x64));
        if self.u16(1024 + 0x38) != 0xef53 {
            return Some("magic".into());
        }
        if sb(0x4c) > 1 || !matches!(sb(0x18), 0..=2) || sb(0x54) != 11 {
            return Some("revision, block size or first inode".into());
        }
        if !matches!(self.u16(1024 + 0x58), 128 | 256) {
            return Some("inode size".into());
        }
        if incompat & !0x2 != 0 || ro & !0xb != 0 || compat & 0x4 != 0 {
            return Some(format!("features {compat:#x} {incompat:#x} {ro:#x}"));
        }
        (self.u16(1024 + 0x3a) != 1).then(|| "not clean".into())
    }

    /// Where the first copy of the superblock differs from it in what fsck_ext2fs does not set aside: NetBSD then
    /// takes neither.
    fn differs_from_copy(&self) -> Vec<usize> {
        let block = 1024usize << self.u32(1024 + 0x18);
        let copy = self.u32(1024 + 0x20) as usize * block;
        // Reserved and free blocks, free inodes, the last mount and write; counts of mounts, state, what to do about
        // errors; the last check and the next, who may take reserved blocks; its group.
        let aside = [8..0x14, 0x2c..0x38, 0x3a..0x3e, 0x40..0x48, 0x50..0x54, 0x5a..0x5c];
        (0..1024)
            .filter(|at| !aside.iter().any(|aside| aside.contains(at)))
            .filter(|at| self.0[1024 + at] != self.0[copy + at])
            .collect()
    }

    /// Offset of an inode.
    fn inode(&self, ino: u32) -> usize {
        let per_group = self.u32(1024 + 0x28);
        let block = 1024usize << self.u32(1024 + 0x18);
        let (group, nth) = ((ino - 1) / per_group, (ino - 1) % per_group);
        let descriptor = block * (self.u32(1024 + 0x14) as usize + 1) + group as usize * 32;
        let size = self.u16(1024 + 0x58) as usize;
        self.u32(descriptor + 8) as usize * block + nth as usize * size
    }

    /// The inode of a name in the first block of a directory.
    fn find(&self, dir: u32, name: &str) -> u32 {
        let block = 1024usize << self.u32(1024 + 0x18);
        let start = self.u32(self.inode(dir) + 0x28) as usize * block;
        let mut at = start;
        while at < start + block {
            let (ino, len, name_len) = (self.u32(at), self.u16(at + 4), self.0[at + 6] as usize);
            if ino != 0 && &self.0[at + 8..at + 8 + name_len] == name.as_bytes() {
                return ino;
            }
            at += len as usize;
        }
        panic!("{name} is not in its directory")
    }

    /// Major and minor number as NetBSD's `major` and `minor` take them out of `i_block[0]`.
    fn device(&self, ino: u32) -> (u32, u32) {
        let rdev = self.u32(self.inode(ino) + 0x28);
        ((rdev & 0xfff00) >> 8, (rdev & 0xfff0_0000) >> 12 | rdev & 0xff)
    }
}

#[test]
fn the_image_is_one_that_netbsd_mounts_for_writing() {
    let room = tempfile::tempdir().unwrap();
    Release::usual(room.path(), &kernel(true, false), &[]);
    let (tree, spools) = made(room.path(), "{version: '10.1', devices: all}");
    // The second has two groups, and with them a copy of the superblock.
    for (inode_size, free) in [(InodeSize::Small, 8 << 20), (InodeSize::Large, 136 << 20)] {
        let profile = Profile::NetBsd;
        let options = ImageOptions { profile, inode_size, free, ..ImageOptions::new("bsd", 1_734_307_200) };
        let mut image = support::packed(&tree, &spools, &options, &mut Sequential::default());
        let reader = NetBsdReader(&image);
        assert_eq!(reader.refuses(), None, "{inode_size:?}");
        if inode_size == InodeSize::Large {
            assert_eq!(reader.differs_from_copy(), [0; 0]);
        }
        // Without a generation each inode that NetBSD looks at is written.
        let su = reader.find(reader.find(reader.find(2, "usr"), "bin"), "su");
        assert_eq!([2, 11, su].map(|ino| reader.u32(reader.inode(ino) + 0x64)), [1, 1, 1]);
        let dev = reader.find(2, "dev");
        for (name, expected) in [
            ("console", (0, 0)),
            ("xbd0a", (142, 0)),
            ("rsd99p", (13, 1599)),
            ("dk300", (168, 300)),
            ("xyz", (999, 7)),
            ("tap", (169, 0xf_ffff)),
            ("dty00", (8, 524_288)),
            ("bpf", (23, 0)),
            ("urandom", (46, 1)),
        ] {
            assert_eq!(reader.device(reader.find(dev, name)), expected, "{name}");
        }
        let file = room.path().join("image");
        fs::write(&file, &image).unwrap();
        assert_fsck_is_silent(&file);
        // Linux reads it as well, whatever it makes of large device numbers.
        let mounted = Mounted::new(&file);
        assert_eq!(fs::read(mounted.path().join("usr/bin/su")).unwrap(), b"su");
        let stat = |path: &str| fs::symlink_metadata(mounted.path().join(path)).unwrap();
        for (path, expected) in [
            ("usr/bin/su", "104555 0:31"),
            ("bin/cat", "100511 66:1000"),
            ("tmp", "41777 0:0"),
            ("var/crash", "40770 0:0"),
            ("usr/sbin", "120755 1000:1000"),
            ("dev/console", "20600 0:0"),
            ("dev/xbd0a", "60640 0:5"),
        ] {
            let meta = stat(path);
            assert_eq!(format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid()), expected, "{path}");
        }
        let linked = ["usr/bin/su", "usr/bin/sup", "etc/su.example"].map(|path| stat(path).ino());
        assert!(linked[0] == linked[1] && linked[0] == linked[2], "hard links across sets");
        let text = |path: &str| fs::read(mounted.path().join(path)).unwrap();
        assert_eq!((text("usr/bin/Mail"), text("usr/bin/mail")), (b"upper".to_vec(), b"lower".to_vec()));
        drop(mounted);
        if inode_size == InodeSize::Large {
            image[1024] ^= 1;
            assert_eq!(NetBsdReader(&image).differs_from_copy(), [0], "a check that can fail");
        }
    }
    // A check that can fail: what our writer makes for Linux is refused for what it has.
    let linux = ImageOptions::new("bsd", 0);
    let mut image = support::packed(&tree, &spools, &linux, &mut Sequential::default());
    assert_eq!(
        NetBsdReader(&image).device(NetBsdReader(&image).find(NetBsdReader(&image).find(2, "dev"), "xyz")),
        (0, 0)
    );
    image[1024 + 0x60] |= 0x40;
    assert_eq!(NetBsdReader(&image).refuses().unwrap(), "features 0x8 0x42 0x3");
}

#[test]
fn image_pack_has_the_profile_and_refuses_what_netbsd_lacks() {
    let room = tempfile::tempdir().unwrap();
    let archive = room.path().join("tree.tar");
    fs::write(&archive, support::release::archive(&base())).unwrap();
    let pack = |args: &[&str]| {
        let out = Command::new(programs::imgfactory())
            .args(["image", "pack", "--profile", "netbsd", "--from"])
            .args(args)
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let image = room.path().join("bsd.img");
    let (code, said) = pack(&[archive.to_str().unwrap(), "--to", image.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let bytes = fs::read(&image).unwrap();
    assert_eq!(NetBsdReader(&bytes).refuses(), None);
    assert_eq!(NetBsdReader(&bytes).u16(1024 + 0x58), 128);
    assert_eq!(NetBsdReader(&bytes).u32(1024 + 0x5c), 0, "no extended attributes");

    let dir = room.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("f"), "").unwrap();
    xattr::set(dir.join("f"), "user.note", b"x").unwrap();
    let (code, said) = pack(&[dir.to_str().unwrap(), "--to", image.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("/f: has the extended attribute `user.note`, but NetBSD's ext2fs has none"),
        "{said}"
    );
}

#[test]
fn the_second_disk_of_9legacy_has_no_types_in_entries_and_no_large_inodes() {
    let room = tempfile::tempdir().unwrap();
    let (dir, image) = (room.path().join("dir"), room.path().join("data.img"));
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("file"), "text").unwrap();
    let pack = |more: &[&str]| {
        let mut pack = Command::new(programs::imgfactory());
        pack.args(["image", "pack", "--profile", "9legacy", "--free", "1MiB", "--from"]).arg(&dir);
        let out = pack.arg("--to").arg(&image).args(more).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, said) = pack(&["--inode-size", "256"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("damages file systems with inodes of 256 bytes"), "{said}");
    let (code, said) = pack(&[]);
    assert_eq!(code, Some(0), "{said}");
    let bytes = fs::read(&image).unwrap();
    let reader = NetBsdReader(&bytes);
    assert_eq!((reader.u32(1024 + 0x60), reader.u16(1024 + 0x58)), (0, 128));
    // ext2srv leaves the byte of the type 0 in what it writes; so have to be all others, or e2fsck sees a fault.
    let mut at = reader.u32(reader.inode(2) + 0x28) as usize * 4096;
    let end = at + 4096;
    while at < end {
        assert_eq!(bytes[at + 7], 0, "{at}");
        at += reader.u16(at + 4) as usize;
    }
    assert_fsck_is_silent(&image);
    let mounted = Mounted::new(&image);
    assert!(mounted.path().join("sub").is_dir() && mounted.path().join("lost+found").is_dir());
}
