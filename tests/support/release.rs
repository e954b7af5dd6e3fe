//! Small NetBSD releases: the layout, names, compression, owners and checksum files of real ones, without a byte
//! of NetBSD in them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha512};

/// A member of a set.
pub enum Item<'a> {
    Dir(&'a str),
    File(&'a str, u32, &'a [u8]),
    /// Another name of a file, perhaps of an earlier set.
    Hard(&'a str, &'a str),
    Soft(&'a str, &'a str),
}

/// A release below a directory that `--sources` can name.
pub struct Release {
    binary: PathBuf,
}

/// 2024-12-16, when NetBSD 10.1 came out.
pub const MTIME: u64 = 1_734_307_200;

impl Release {
    pub fn new(root: &Path, version: &str, architecture: &str) -> Self {
        let binary = root.join(format!("NetBSD-{version}/{architecture}/binary"));
        for dir in ["sets", "kernel"] {
            fs::create_dir_all(binary.join(dir)).unwrap();
        }
        Release { binary }
    }

    /// What every release has, with `kernel` as XEN3_DOMU and GENERIC; its sums are written.
    pub fn usual(root: &Path, kernel: &[u8], more: &[Item<'_>]) -> Self {
        let release = Release::new(root, "10.1", "amd64");
        let mut base = base();
        base.extend(more.iter().map(|item| match *item {
            Item::Dir(path) => Item::Dir(path),
            Item::File(path, mode, bytes) => Item::File(path, mode, bytes),
            Item::Hard(path, target) => Item::Hard(path, target),
            Item::Soft(path, target) => Item::Soft(path, target),
        }));
        release.set("base.tar.xz", &base);
        release.set("etc.tar.xz", &etc());
        release.kernel("XEN3_DOMU", kernel);
        release.kernel("GENERIC", kernel);
        release.sums();
        release
    }

    /// Packs a set by the ending of its name.
    pub fn set(&self, name: &str, items: &[Item<'_>]) {
        let archive = archive(items);
        let packed = if name.ends_with(".xz") { xz(&archive) } else { gz(&archive) };
        fs::write(self.path("sets", name), packed).unwrap();
    }

    pub fn kernel(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path("kernel", &format!("netbsd-{name}.gz")), gz(bytes)).unwrap();
    }

    pub fn path(&self, dir: &str, name: &str) -> PathBuf {
        self.binary.join(dir).join(name)
    }

    /// Writes the checksum files of what is there, as NetBSD's build.sh does.
    pub fn sums(&self) {
        for dir in ["sets", "kernel"] {
            let mut names: Vec<String> = fs::read_dir(self.binary.join(dir))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| !matches!(name.as_str(), "MD5" | "SHA512"))
                .collect();
            names.sort();
            let line = |name: &String| {
                let sum = Sha512::digest(fs::read(self.path(dir, name)).unwrap());
                let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("SHA512 ({name}) = {hex}\n")
            };
            fs::write(self.path(dir, "SHA512"), names.iter().map(line).collect::<String>()).unwrap();
            fs::write(self.path(dir, "MD5"), "MD5 (base.tar.xz) = 0\n").unwrap();
        }
    }
}

/// In the shape of a release's: functions, numbers in hexadecimal and by arithmetic, a directory with nodes in it.
const MAKEDEV: &[u8] = br#"#!/bin/sh -
[ "$1 $2" = "-s all" ] || exit 1
dialout=524288
mkdev() {
	case $2 in
	b) kind=block ;;
	c) kind=char ;;
	esac
	echo "./$1 type=${kind} device=netbsd,$3,$4 mode=${5:-600} gid=${6:-0} uid=${7:-0}"
}
lndev() {
	echo "./$2 type=link link=$1 mode=0700 gid=0 uid=0"
}
makedir() {
	echo "./$1 type=dir mode=$2 gid=0 uid=0"
}
echo ". type=dir optional"
mkdev console c 0 0 600
mkdev rsd99p c 13 1599 640 5
mkdev dk300 b 168 300 640 5
mkdev xyz b 999 7 640 5
mkdev bpf c 23 0
lndev bpf bpf0
makedir fd 755
for n in 0 1 2; do
	mkdev fd/$n c 22 $n 666
done
mkdev dty00 c 8 $((0 + dialout)) "" "" 66
mkdev tap c 169 0xfffff 600
mkdev tap0 c 169 0 600
"#;

/// The least of `base` that has a bit of everything.
pub fn base<'a>() -> Vec<Item<'a>> {
    vec![
        Item::Dir("."),
        Item::Dir("./bin"),
        Item::File("./bin/cat", 0o555, b"cat"),
        Item::Dir("./dev"),
        Item::File("./dev/MAKEDEV", 0o555, MAKEDEV),
        Item::Dir("./usr"),
        Item::Dir("./usr/bin"),
        Item::File("./usr/bin/su", 0o555, b"su"),
        Item::Hard("./usr/bin/sup", "./usr/bin/su"),
        Item::File("./usr/bin/Mail", 0o555, b"upper"),
        Item::File("./usr/bin/mail", 0o555, b"lower"),
        Item::Soft("./usr/sbin", "bin"),
    ]
}

/// The least of `etc`, with a second name for a file of `base`.
pub fn etc<'a>() -> Vec<Item<'a>> {
    vec![
        Item::Dir("./etc"),
        Item::File(
            "./etc/master.passwd",
            0o600,
            b"root:*:0:0::0:0:Charlie &:/root:/bin/sh\nuucp:*:66:1::0:0:UUCP:/:\n",
        ),
        Item::File("./etc/group", 0o644, b"wheel:*:0:root\nkmem:*:2:\noperator:*:5:\nguest:*:31:\n"),
        Item::File("./etc/rc.conf", 0o644, b"rc_configured=NO\n"),
        Item::Dir("./etc/mtree"),
        Item::File(
            "./etc/mtree/NetBSD.dist",
            0o444,
            b"/set type=dir uname=root gname=wheel mode=0755\n.\n./tmp mode=01777\n./var/crash mode=0770\n",
        ),
        Item::File(
            "./etc/mtree/set.base",
            0o444,
            b"./usr/bin/su type=file uname=root gname=guest mode=04555\n./bin/cat type=file uname=uucp mode=0511\n",
        ),
        Item::Hard("./etc/su.example", "./usr/bin/su"),
    ]
}

/// A plain ustar archive of uid 1000, as an unprivileged build makes it.
pub fn archive(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for item in items {
        let mut header = tar::Header::new_ustar();
        header.set_uid(1000);
        header.set_gid(1000);
        header.set_mtime(MTIME);
        header.set_size(0);
        let (path, bytes): (&str, &[u8]) = match *item {
            Item::Dir(path) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                (path, b"")
            }
            Item::File(path, mode, bytes) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(mode);
                header.set_size(bytes.len() as u64);
                (path, bytes)
            }
            Item::Hard(path, target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_mode(0o644);
                header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
                (path, b"")
            }
            Item::Soft(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o755);
                header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
                (path, b"")
            }
        };
        // Into the field itself: the crate refuses `..`, which the tests need.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An ELF file that says that it starts as pv, or as pvh.
pub fn kernel(pv: bool, pvh: bool) -> Vec<u8> {
    let mut file = vec![0; 64 + 56];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[18] = 62;
    file[32] = 64;
    file[54] = 56;
    file[56] = 1;
    let mut notes = Vec::new();
    for kind in [(pv, 1u32), (pvh, 18)].into_iter().filter_map(|(has, kind)| has.then_some(kind)) {
        for word in [4u32, 8, kind] {
            notes.extend(word.to_le_bytes());
        }
        notes.extend(b"Xen\0\0\0\0\0\0\0\0\0");
    }
    file[64] = 4;
    file[64 + 8] = 120;
    file[64 + 32] = u8::try_from(notes.len()).unwrap();
    file.extend(notes);
    file
}
