//! Judges from outside: e2fsck, and the kernel through a loop mount that is walked and compared with a tree.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use imgfactory::tree::{Content, Contents, Kind, Meta, NodeId, Tree};
use rustix::fs::SeekFrom;

/// Has e2fsck look at an image: exit code 0 and not a word beyond its passes and its summary.
pub fn assert_fsck_is_silent(image: &Path) {
    let output = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(image)
        .env("LC_ALL", "C")
        .output()
        .expect("e2fsck is needed (Debian package e2fsprogs)");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    // The summary is "IMAGE: 12/64 files (0.0% non-contiguous), 49/116 blocks"; the label may stand for IMAGE.
    let silent = stdout.lines().all(|line| line.starts_with("Pass ") || line.contains("% non-contiguous), "));
    // stderr has the version, e.g. "e2fsck 1.47.0 (5-Feb-2023)", and nothing else.
    let version_only = stderr.lines().count() == 1 && stderr.starts_with("e2fsck ");
    assert!(
        output.status.success() && silent && version_only,
        "e2fsck says of {}: {:?}\n{stdout}{stderr}",
        image.display(),
        output.status
    );
}

/// A read-only loop mount, undone when dropped. Needs root.
pub struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    pub fn new(image: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new("mount")
            .args(["-t", "ext2", "-o", "ro,loop,noatime"])
            .arg(image)
            .arg(dir.path())
            .output()
            .expect("mount is needed (Debian package mount)");
        assert!(
            output.status.success(),
            "mount says of {}: {}",
            image.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        Mounted { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.dir.path()).status();
        if !std::thread::panicking() {
            assert!(unmounted.unwrap().success(), "can't unmount {}", self.dir.path().display());
        }
    }
}

/// Mounts an ext2 image and compares all of it with the tree it was made of. A lost+found that the tree does
/// not have is expected and must be empty.
pub fn compare_mount_with_tree(image: &Path, tree: &Tree, contents: &dyn Contents) {
    let mounted = Mounted::new(image);
    let differences = differences(mounted.path(), tree, contents, 4096);
    assert!(
        differences.is_empty(),
        "{} and its tree differ in {} ways:\n{}",
        image.display(),
        differences.len(),
        differences.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n")
    );
}

/// Every way in which the directory differs from the tree: "/path: what is there, what the tree has". Holes
/// are multiples of `block` bytes.
pub fn differences(mounted: &Path, tree: &Tree, contents: &dyn Contents, block: u64) -> Vec<String> {
    let links = tree.link_counts();
    let mut found = vec![];
    let mut inodes: BTreeMap<u64, NodeId> = BTreeMap::new();
    let lost_found_is_added = tree.lookup(b"lost+found").is_none();
    for (path, id) in tree.walk() {
        let shown = format!("/{}", path.escape_ascii());
        let real = if path.is_empty() { mounted.to_owned() } else { mounted.join(OsStr::from_bytes(&path)) };
        let mut differ = |what: &str, there: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
            let (there, wanted) = (format!("{there:?}"), format!("{wanted:?}"));
            if there != wanted {
                found.push(format!("{shown}: {what} {there}, the tree has {wanted}"));
            }
        };
        let metadata = match fs::symlink_metadata(&real) {
            Ok(metadata) => metadata,
            Err(error) => {
                differ("access", &error.to_string(), &"");
                continue;
            }
        };
        let node = tree.node(id);
        compare_meta(&metadata, &real, &node.meta, &mut differ);
        let extra = u64::from(path.is_empty() && lost_found_is_added);
        differ("links", &metadata.nlink(), &(u64::from(links[id.index()]) + extra));
        differ("node of the inode", inodes.entry(metadata.ino()).or_insert(id), &id);

        let there = metadata.file_type();
        let rdev = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        match &node.kind {
            Kind::Directory(entries) => {
                differ("directory", &there.is_dir(), &true);
                if there.is_dir() {
                    let mut names = names(&real);
                    if extra == 1 {
                        differ("lost+found", &names.remove(&b"lost+found"[..]), &true);
                        differ("contents of lost+found", &self::names(&real.join("lost+found")).len(), &0);
                    }
                    differ("names", &names, &entries.keys().cloned().collect::<BTreeSet<_>>());
                }
            }
            Kind::File(content) => {
                differ("file", &there.is_file(), &true);
                if there.is_file() {
                    differ("size", &metadata.len(), &content.len);
                    let file = File::open(&real).unwrap();
                    differ(
                        "first different byte",
                        &first_difference(&file, content, contents, block),
                        &None::<u64>,
                    );
                    differ("data", &data_ranges(&file, metadata.len()), &extent_ranges(content, block));
                }
            }
            Kind::Symlink(target) => {
                let there = fs::read_link(&real).map_err(|error| error.kind());
                differ(
                    "target",
                    &there,
                    &Ok::<_, std::io::ErrorKind>(PathBuf::from(OsStr::from_bytes(target))),
                );
            }
            Kind::CharDevice { major, minor } => {
                differ("character device", &(there.is_char_device(), rdev), &(true, (*major, *minor)));
            }
            Kind::BlockDevice { major, minor } => {
                differ("block device", &(there.is_block_device(), rdev), &(true, (*major, *minor)));
            }
            Kind::Fifo => differ("fifo", &there.is_fifo(), &true),
            Kind::Socket => differ("socket", &there.is_socket(), &true),
        }
    }
    found
}

fn compare_meta(
    there: &fs::Metadata,
    path: &Path,
    wanted: &Meta,
    differ: &mut dyn FnMut(&str, &dyn std::fmt::Debug, &dyn std::fmt::Debug),
) {
    differ("mode", &(there.mode() & 0o7777), &u32::from(wanted.mode));
    differ("owner", &(there.uid(), there.gid()), &(wanted.uid, wanted.gid));
    let time = (wanted.mtime.secs, i64::from(wanted.mtime.nanos));
    differ("mtime", &(there.mtime(), there.mtime_nsec()), &time);
    differ("atime", &(there.atime(), there.atime_nsec()), &time);
    differ("ctime", &(there.ctime(), there.ctime_nsec()), &time);
    let xattrs: BTreeMap<Vec<u8>, Vec<u8>> = xattr::list(path)
        .unwrap()
        .map(|name| {
            let value = xattr::get(path, &name).unwrap_or_else(|error| panic!("{path:?} {name:?}: {error}"));
            (name.as_bytes().to_vec(), value.expect("it was listed"))
        })
        .collect();
    differ("xattrs", &xattrs, &wanted.xattrs);
}

fn names(dir: &Path) -> BTreeSet<Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect()
}

/// Offset of the first byte that differs, looking only at what is data on either side.
fn first_difference(file: &File, content: &Content, contents: &dyn Contents, block: u64) -> Option<u64> {
    let mut there = vec![0; 1 << 20];
    let mut wanted = vec![0; 1 << 20];
    let mut ranges = data_ranges(file, content.len);
    ranges.extend(extent_ranges(content, block));
    for (start, end) in ranges {
        let mut at = start;
        while at < end {
            let len = usize::try_from((end - at).min(1 << 20)).unwrap();
            file.read_exact_at(&mut there[..len], at).unwrap();
            content.read_at(contents, at, &mut wanted[..len]).unwrap();
            if there[..len] != wanted[..len] {
                let nth = there.iter().zip(&wanted).position(|(a, b)| a != b).unwrap();
                return Some(at + nth as u64);
            }
            at += len as u64;
        }
    }
    None
}

/// What is not a hole, as the kernel says.
fn data_ranges(file: &File, size: u64) -> Vec<(u64, u64)> {
    let mut ranges = vec![];
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(file, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap();
        ranges.push((start, end.min(size)));
        at = end;
    }
    ranges
}

/// What is not a hole, as the tree says: the blocks that its extents touch.
pub fn extent_ranges(content: &Content, block: u64) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = vec![];
    for extent in &content.extents {
        let start = extent.at / block * block;
        let end = (extent.at + extent.len).next_multiple_of(block).min(content.len);
        match ranges.last_mut() {
            Some((_, last)) if start <= *last => *last = end.max(*last),
            _ => ranges.push((start, end)),
        }
    }
    ranges
}

/// Compares an image with a tree by the crate ext4-view: an implementation that is neither ours nor the
/// kernel's. It knows no attributes. Two faults of its 1.0.0 are kept clear of: it takes a time with bit 31
/// set in the low field for damage, and a hole where an indirect block would be for block 0.
pub fn compare_ext4_view_with_tree(image: &Path, tree: &Tree, contents: &dyn Contents) {
    let view = ext4_view::Ext4::load(Box::new(fs::read(image).unwrap())).unwrap();
    for (path, id) in tree.walk() {
        let full = [b"/", &path[..]].concat();
        let there = view.symlink_metadata(&full[..]).unwrap();
        let node = tree.node(id);
        let meta = &node.meta;
        let found = (there.mode() & 0o7777, there.uid(), there.gid());
        assert_eq!(found, (meta.mode, meta.uid, meta.gid), "{}", full.escape_ascii());
        let times = [there.modified(), there.accessed()].map(|time| (time.seconds(), time.nanoseconds()));
        assert_eq!(times, [(meta.mtime.secs, meta.mtime.nanos); 2], "{}", full.escape_ascii());
        match &node.kind {
            Kind::Directory(entries) => {
                let names = view
                    .read_dir(&full[..])
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().as_ref().to_vec());
                let names: BTreeSet<Vec<u8>> = names.filter(|name| name != b"." && name != b"..").collect();
                let added = path.is_empty() && !entries.contains_key(&b"lost+found"[..]);
                let added = added.then(|| b"lost+found".to_vec());
                assert_eq!(names, entries.keys().cloned().chain(added).collect(), "{}", full.escape_ascii());
            }
            Kind::File(content) => {
                assert_eq!(there.len(), content.len, "{}", full.escape_ascii());
                let whole = extent_ranges(content, 4096) == [(0, content.len)];
                if whole || content.len <= 12 * 4096 {
                    let mut wanted = vec![0; usize::try_from(content.len).unwrap()];
                    content.read_at(contents, 0, &mut wanted).unwrap();
                    assert!(view.read(&full[..]).unwrap() == wanted, "{}", full.escape_ascii());
                }
            }
            Kind::Symlink(target) => {
                let there = view.read_link(&full[..]).unwrap();
                assert_eq!(there.as_ref() as &[u8], target, "{}", full.escape_ascii());
            }
            _ => assert!(!there.is_dir() && !there.is_symlink(), "{}", full.escape_ascii()),
        }
    }
}
