//! ext2 images before judges from outside: e2fsck, the kernel, another implementation.
//! Needs root for loop mounts, and the Debian packages e2fsprogs and mount.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use imgfactory::ext2::{Align, Allocator, ImageOptions, InodeSize, Reader, Sequential};
use imgfactory::tree::{ContentSource, Extent, FileTime, Kind, Meta, SpoolId, Tree};
use proptest::prelude::*;

use crate::support::judges::{
    Mounted, assert_fsck_is_silent, compare_ext4_view_with_tree, compare_mount_with_tree, differences,
};
use crate::support::scattered::Scattered;
use crate::support::trees::{
    everything, file, meta, put, random_tree, small_inodes, sparse, spools, with_times, xattrs,
};
use crate::support::{ImageFile, packed_to};

fn aligned() -> Sequential {
    Sequential { align: Some(Align { blocks: 64, from: 8 }) }
}

fn judge(image: &Path, tree: &Tree, options: &ImageOptions, allocator: &mut dyn Allocator) {
    packed_to(image, tree, &spools(), options, allocator);
    assert_fsck_is_silent(image);
    match options.inode_size {
        InodeSize::Small => compare_mount_with_tree(image, &small_inodes(tree), &spools()),
        InodeSize::Large => compare_mount_with_tree(image, tree, &spools()),
    }
}

#[test]
fn a_tree_with_everything_pleases_all_judges_in_every_layout() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("everything.img");
    for inode_size in [InodeSize::Small, InodeSize::Large] {
        let layouts: [&mut dyn Allocator; 3] =
            [&mut Sequential::default(), &mut aligned(), &mut Scattered::new(3)];
        for allocator in layouts {
            let options =
                ImageOptions { inode_size, free: 1 << 20, ..ImageOptions::new("all", 1_700_000_000) };
            judge(&image, &everything(), &options, allocator);
            // Its times stop at 1970 and 2038, see there.
            let keep = |time: FileTime| FileTime { secs: time.secs.clamp(0, i32::MAX.into()), ..time };
            let mut tree = with_times(&everything(), keep);
            if inode_size == InodeSize::Small {
                tree = small_inodes(&tree);
            }
            packed_to(&image, &tree, &spools(), &options, allocator);
            compare_ext4_view_with_tree(&image, &tree, &spools());
        }
    }
}

#[test]
fn an_empty_tree_and_every_small_size_please_the_judges() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("small.img");
    let mut tree = Tree::new(meta(0o755, 0));
    for files in 0..40 {
        let options =
            ImageOptions { free: files * 4096, reserved_percent: 5, ..ImageOptions::new("small", 0) };
        judge(&image, &tree, &options, &mut Sequential::default());
        put(&mut tree, &format!("file-{files}"), file(b"x"));
    }
}

#[test]
fn many_groups_please_the_judges_and_every_copy_of_the_superblock_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("groups.img");
    let mut tree = everything();
    // Data in three groups, across their metadata.
    let extents = |nth: u64| Extent {
        at: nth << 20,
        len: 1 << 20,
        source: ContentSource::Spool { spool: SpoolId(0), offset: 0 },
    };
    let content = imgfactory::tree::Content { len: 260 << 20, extents: (0..260).map(extents).collect() };
    put(&mut tree, "var/large", Kind::File(content));
    let options =
        ImageOptions { minimum: (27 * 32768 + 3000) * 4096, ..ImageOptions::new("groups", 1_700_000_000) };
    let geometry = packed_to(&image, &tree, &spools(), &options, &mut Sequential::default());
    assert_eq!(geometry.groups(), 28);
    assert_fsck_is_silent(&image);
    compare_mount_with_tree(&image, &tree, &spools());
    for group in [1, 3, 5, 7, 9, 25, 27] {
        let output = Command::new("e2fsck")
            .args(["-f", "-n", "-B", "4096", "-b", &(group * 32768).to_string()])
            .arg(&image)
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        // Copies have no counts, so that they stay as they are in an update; e2fsck counts anew.
        let other = stdout
            .lines()
            .filter(|line| line.contains(" wrong") || line.contains("differ"))
            .find(|line| !line.contains("count wrong"));
        assert_eq!(other, None, "copy in group {group}: {stdout}");
    }
    // A lost superblock: e2fsck takes a copy, and all is as it was.
    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 1024], 1024).unwrap();
    let output =
        Command::new("e2fsck").args(["-f", "-y", "-B", "4096", "-b", "32768"]).arg(&image).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stdout));
    assert_fsck_is_silent(&image);
    compare_mount_with_tree(&image, &tree, &spools());
}

#[test]
fn as_many_links_and_subdirectories_as_there_may_be_please_the_judges() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("links.img");
    let mut tree = Tree::new(meta(0o755, 0));
    put(&mut tree, "many/f", file(b"linked"));
    let linked = tree.lookup(b"many/f").unwrap();
    for nth in 1..65_000 {
        tree.link(format!("many/{nth:05}").as_bytes(), linked).unwrap();
    }
    for nth in 0..2_000 {
        put(&mut tree, &format!("deep/{nth:04}"), Kind::Directory(BTreeMap::new()));
    }
    judge(&image, &tree, &ImageOptions::new("links", 0), &mut Sequential::default());
}

#[test]
fn equal_attributes_share_a_block_with_the_right_count() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("shared.img");
    let mut tree = Tree::new(meta(0o755, 0));
    // 1,024 inodes may share one block: 3 blocks for these, 1 for another value. File 7 comes late by name.
    for nth in 0..2500 {
        put(&mut tree, &format!("{nth}"), file(b""));
        let id = tree.lookup(format!("{nth}").as_bytes()).unwrap();
        let value = if nth == 7 { vec![1; 200] } else { vec![2; 200] };
        tree.node_mut(id).meta.xattrs = xattrs(&[("user.shared", &value)]);
    }
    let options = ImageOptions::new("shared", 0);
    judge(&image, &tree, &options, &mut Sequential::default());
    let plan = imgfactory::ext2::ImagePlan::new(&tree, &options, &mut Sequential::default()).unwrap();
    assert_eq!(
        plan.demand().xattr_blocks.iter().map(|block| block.refcount).collect::<Vec<_>>(),
        [1024, 1024, 451, 1]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_trees_please_the_judges(tree in random_tree(40), seed in any::<u64>(), small in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("random.img");
        let inode_size = if small { InodeSize::Small } else { InodeSize::Large };
        let options = ImageOptions { inode_size, free: seed % 1_000_000, ..ImageOptions::new("random", 1_700_000_000) };
        judge(&image, &tree, &options, &mut Sequential::default());
        judge(&image, &tree, &options, &mut Scattered::new(seed));
    }
}

/// The comparison with a mount is a judge only if it sees what is wrong.
#[test]
fn the_comparison_names_each_difference() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("everything.img");
    packed_to(&image, &everything(), &spools(), &ImageOptions::new("all", 0), &mut Sequential::default());
    let mounted = Mounted::new(&image);
    type Case<'a> = (&'a str, fn(&mut Tree), &'a [&'a str]);
    let cases: [Case<'_>; 16] = [
        ("nothing", |_| {}, &[]),
        ("mode", |tree| at(tree, "tmp").mode = 0o777, &["/tmp: mode 1023, the tree has 511"]),
        ("owner", |tree| at(tree, "tmp").uid = 1, &["/tmp: owner (0, 0), the tree has (1, 0)"]),
        ("group", |tree| at(tree, "tmp").gid = 2, &["/tmp: owner (0, 0), the tree has (0, 2)"]),
        (
            "time",
            |tree| at(tree, "run").mtime = FileTime { secs: -5, nanos: 0 },
            &[
                "/run: mtime (-5, 999999999), the tree has (-5, 0)",
                "/run: atime (-5, 999999999), the tree has (-5, 0)",
                "/run: ctime (-5, 999999999), the tree has (-5, 0)",
            ],
        ),
        ("xattr", |tree| at(tree, "etc/mtab").xattrs.clear(), &["/etc/mtab: xattrs {[116, 114, 117"]),
        ("acl", |tree| at(tree, "etc").xattrs = xattrs(&[]), &["/etc: xattrs {[115, 121, 115"]),
        (
            "byte",
            |tree| put_again(tree, "etc/hostname", file(b"demO\n")),
            &["/etc/hostname: first different byte Some(3), the tree has None"],
        ),
        (
            "size",
            |tree| put_again(tree, "etc/empty", sparse(1, &[])),
            &["/etc/empty: size 0, the tree has 1"],
        ),
        (
            "hole",
            |tree| put_again(tree, "var/all-hole", sparse(10_000_000, &[(8192, 4096)])),
            &[
                "/var/all-hole: first different byte Some(8192), the tree has None",
                "/var/all-hole: data [], the tree has [(8192, 12288)]",
            ],
        ),
        (
            "target",
            |tree| put_again(tree, "etc/mtab", Kind::Symlink(b"x".to_vec())),
            &["/etc/mtab: target Ok(\"../proc/self/mounts\"), the tree has Ok(\"x\")"],
        ),
        (
            "device",
            |tree| put_again(tree, "dev/many", Kind::BlockDevice { major: 259, minor: 70001 }),
            &["/dev/many: block device (true, (259, 70000)), the tree has (true, (259, 70001))"],
        ),
        (
            "type",
            |tree| put_again(tree, "run/fifo", Kind::Socket),
            &["/run/fifo: socket false, the tree has true"],
        ),
        (
            "missing",
            |tree| put(tree, "run/new", Kind::Fifo),
            &["/run: names {[102, 105", "/run/new: access \"No such file or directory (os error 2)\""],
        ),
        ("extra", |tree| assert!(tree.remove(b"run/fifo")), &["/run: names {[102, 105"]),
        (
            "link",
            |tree| {
                let kind = tree.node(tree.lookup(b"etc/su").unwrap()).clone();
                assert!(tree.remove(b"etc/su"));
                tree.insert(b"etc/su", kind).unwrap();
            },
            &[
                "/etc/su: links 3, the tree has 1",
                "/usr/bin/another-name-of-su: links 3, the tree has 2",
                "/usr/bin/another-name-of-su: node of the inode",
                "/usr/bin/su: links 3, the tree has 2",
                "/usr/bin/su: node of the inode",
            ],
        ),
    ];
    for (name, change, expected) in cases {
        let mut tree = everything();
        change(&mut tree);
        let found = differences(mounted.path(), &tree, &spools(), 4096);
        let as_expected = found.len() == expected.len()
            && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
        assert!(as_expected, "{name}: {found:#?}");
    }
}

fn at<'t>(tree: &'t mut Tree, path: &str) -> &'t mut Meta {
    let id = tree.lookup(path.as_bytes()).unwrap();
    &mut tree.node_mut(id).meta
}

fn put_again(tree: &mut Tree, path: &str, kind: Kind) {
    let id = tree.lookup(path.as_bytes()).unwrap();
    tree.node_mut(id).kind = kind;
}

/// Our reader on images that mke2fs made of the same files: the kernel says whether it is right.
#[test]
fn images_of_mke2fs_are_read_as_the_kernel_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let ours = dir.path().join("ours.img");
    let mut tree = everything();
    // Blocks of 1 KiB reach 16 GiB, and hold symlinks of 1023 bytes.
    assert!(tree.remove(b"var/far") && tree.remove(b"etc/edge4095"));
    at(&mut tree, "etc/hostname").xattrs = xattrs(&[("user.a", b""), ("user.large", &[b'v'; 800])]);
    packed_to(&ours, &tree, &spools(), &ImageOptions::new("all", 0), &mut Sequential::default());
    let source = Mounted::new(&ours);
    for block in [1024u32, 2048, 4096] {
        for inode in [128u32, 256, 512] {
            let theirs = dir.path().join("theirs.img");
            let _ = std::fs::remove_file(&theirs);
            let output = Command::new("mke2fs")
                .args(["-q", "-t", "ext2", "-b", &block.to_string(), "-I", &inode.to_string(), "-d"])
                .arg(source.path())
                .arg(&theirs)
                .arg("24M")
                .output()
                .expect("mke2fs is needed (Debian package e2fsprogs)");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let image = ImageFile::open(&theirs);
            let tree = Reader::open(&image).unwrap().tree(SpoolId(0)).unwrap();
            assert!(tree.lookup(b"usr/bin/another-name-of-su").is_some(), "all of it is there");
            let mounted = Mounted::new(&theirs);
            // mke2fs gives the times of access and change differently than our trees, which have one time.
            let found = differences(mounted.path(), &tree, &image, block.into());
            let found: Vec<_> = found
                .iter()
                .filter(|line| !line.contains(": atime ") && !line.contains(": ctime "))
                .collect();
            assert_eq!(found, Vec::<&String>::new(), "blocks of {block}, inodes of {inode}");
        }
    }
}
