//! Plans: what is refused, on either side of the allocator, and sizes that nobody would write for a test.

use std::collections::BTreeMap;

use imgfactory::ext2::blockmap::{MAX_FILE_BLOCKS, needed_for};
use imgfactory::ext2::ondisk::{GroupDesc, Inode, Superblock};
use imgfactory::ext2::{
    Allocator, Demand, ImageOptions, ImagePlan, InodeSize, MAX_BLOCKS, PlaceError, Placement, Sequential,
};
use imgfactory::tree::{Content, ContentSource, Extent, Kind, Meta, Node, SpoolId, Tree};

use crate::support::trees::{everything, file, meta, put, sparse, xattrs};

fn options() -> ImageOptions {
    ImageOptions::new("plan", 0)
}

fn refused(tree: &Tree, options: &ImageOptions) -> String {
    ImagePlan::new(tree, options, &mut Sequential::default()).unwrap_err().to_string()
}

#[test]
fn what_ext2_cannot_hold_is_refused_with_its_path() {
    type Case<'a> = (&'a str, fn(&mut Tree));
    let cases: [Case<'_>; 15] = [
        ("/d/s: a symlink's target of 0 bytes; 1 to 4095 bytes without NUL are possible", |tree| {
            put(tree, "d/s", Kind::Symlink(vec![]));
        }),
        ("/d/s: a symlink's target of 4096 bytes; 1 to 4095 bytes without NUL are possible", |tree| {
            put(tree, "d/s", Kind::Symlink(vec![b'x'; 4096]));
        }),
        (
            "/d/s: a symlink's target of 3 bytes with a NUL; 1 to 4095 bytes without NUL are possible",
            |tree| {
                put(tree, "d/s", Kind::Symlink(b"a\0b".to_vec()));
            },
        ),
        ("/dev/x: device 4096:0; at most 4095:1048575 is possible", |tree| {
            put(tree, "dev/x", Kind::CharDevice { major: 4096, minor: 0 });
        }),
        ("/dev/x: device 1:1048576; at most 4095:1048575 is possible", |tree| {
            put(tree, "dev/x", Kind::BlockDevice { major: 1, minor: 1_048_576 });
        }),
        ("/big: 2196873666561 bytes; a file may have 2196873666560", |tree| {
            put(tree, "big", sparse(2_196_873_666_561, &[]));
        }),
        ("/f: the extent at byte 5 overlaps the previous one or ends after the file's 20 bytes", |tree| {
            put(tree, "f", sparse(20, &[(0, 6), (5, 6)]));
        }),
        ("/f: the extent at byte 15 overlaps the previous one or ends after the file's 20 bytes", |tree| {
            put(tree, "f", sparse(20, &[(0, 6), (15, 6)]));
        }),
        (
            "/f: attribute `nfs4.acl` can't be stored; ext2 supports only the prefixes user, trusted, security \
             and system",
            |tree| with_xattrs(tree, &[("nfs4.acl", b"")]),
        ),
        ("/f: 4124 bytes of attributes; one block holds 4060", |tree| {
            with_xattrs(tree, &[("user.small", b"1"), ("user.big", &[1; 4104])]);
        }),
        ("/d: 65001 links (a directory has one for each subdirectory); at most 65000 are possible", |tree| {
            for nth in 0..64_999 {
                put(tree, &format!("d/{nth}"), Kind::Directory(BTreeMap::new()));
            }
        }),
        (
            "/lost+found: must be a directory, because e2fsck stores recovered files in it; remove or rename this file",
            |tree| {
                put(tree, "lost+found", file(b""));
            },
        ),
        (
            "/d: `a/b` can't be a file name: it must be 1 to 255 bytes without `/` or NUL, not `.` or `..`",
            |tree| smuggle(tree, b"a/b"),
        ),
        (
            "/d: `..` can't be a file name: it must be 1 to 255 bytes without `/` or NUL, not `.` or `..`",
            |tree| {
                smuggle(tree, b"..");
            },
        ),
        ("/d/loop: this directory has another name already; only files can have several", |tree| {
            put(tree, "d", Kind::Directory(BTreeMap::new()));
            let id = tree.lookup(b"d").unwrap();
            let entries = BTreeMap::from([(b"loop".to_vec(), id)]);
            tree.node_mut(id).kind = Kind::Directory(entries);
        }),
    ];
    for (message, change) in cases {
        let mut tree = Tree::new(meta(0o755, 0));
        change(&mut tree);
        assert_eq!(refused(&tree, &options()), message);
    }
}

fn with_xattrs(tree: &mut Tree, pairs: &[(&str, &[u8])]) {
    let meta = Meta { xattrs: xattrs(pairs), ..meta(0o644, 0) };
    tree.insert(b"f", Node { meta, kind: file(b"") }).unwrap();
}

/// A name that `Tree::insert` would not take.
fn smuggle(tree: &mut Tree, name: &[u8]) {
    put(tree, "f", file(b""));
    put(tree, "d", Kind::Directory(BTreeMap::new()));
    let (dir, id) = (tree.lookup(b"d").unwrap(), tree.lookup(b"f").unwrap());
    tree.node_mut(dir).kind = Kind::Directory(BTreeMap::from([(name.to_vec(), id)]));
}

/// The sequential layout with one fault in it.
struct Faulty(fn(&mut Placement));

impl Allocator for Faulty {
    fn place(&mut self, demand: &Demand<'_>) -> Result<Placement, PlaceError> {
        let mut placement = Sequential::default().place(demand)?;
        (self.0)(&mut placement);
        Ok(placement)
    }
}

#[test]
fn no_fault_of_an_allocator_becomes_an_image() {
    // Wanted are, in this order: / lost+found d f, then d/x and d/y.
    let mut tree = Tree::new(meta(0o755, 0));
    put(&mut tree, "f", sparse(100_000, &[(0, 100_000)]));
    put(&mut tree, "d/x", file(b"x"));
    put(&mut tree, "d/y", file(b"y"));
    with_xattrs(&mut tree, &[("user.large", &[1; 1000])]);
    put(&mut tree, "f2", sparse(100_000, &[(0, 100_000)]));
    let plan = ImagePlan::new(&tree, &options(), &mut Sequential::default()).unwrap();
    let paths: Vec<_> = plan.demand().wanted.iter().map(|wanted| &wanted.path[..]).collect();
    assert_eq!(paths, [&b""[..], b"lost+found", b"d", b"f", b"f2", b"d/x", b"d/y"]);

    type Case<'a> = (&'a str, fn(&mut Placement));
    let cases: [Case<'_>; 22] = [
        ("size: the allocator chose a size without room for its own groups", |p| p.geometry.blocks = 2),
        ("size: the allocator chose a size without room for its own groups", |p| p.geometry.blocks = 0),
        ("size: the allocator chose a size without room for its own groups", |p| {
            p.geometry.blocks = MAX_BLOCKS + 1;
        }),
        ("size: the allocator chose a size without room for its own groups", |p| {
            p.geometry.inode_size = InodeSize::Small;
        }),
        ("size: the allocator chose a size without room for its own groups", |p| {
            p.geometry.inodes_per_group = 33;
        }),
        ("inodes: the allocator placed more or fewer than were wanted", |p| {
            p.inodes.pop();
        }),
        ("inodes: the allocator placed more or fewer than were wanted", |p| p.xattr_blocks.push(40)),
        ("/: the allocator gave the root a number that is not 2", |p| p.inodes[0].ino = 12),
        ("/d: the allocator gave a reserved inode away", |p| p.inodes[2].ino = 7),
        ("/d: the allocator gave an inode that the image does not have", |p| p.inodes[2].ino = 999),
        ("/f: the allocator gave one inode twice", |p| p.inodes[3].ino = p.inodes[2].ino),
        ("/d: the allocator placed directory entries over each other", |p| {
            p.inodes[2].slots[0][1].offset = p.inodes[2].slots[0][0].offset;
        }),
        ("/d: the allocator placed a directory entry twice", |p| p.inodes[2].slots[0][1].entry = 0),
        ("/d: the allocator left out a directory entry", |p| {
            p.inodes[2].slots[0].pop();
        }),
        ("/lost+found: the allocator gave a directory too few or too many blocks", |p| {
            p.inodes[1].slots.pop();
        }),
        ("/f2: the allocator placed other blocks than were wanted", |p| p.inodes[4].data[0].count -= 1),
        ("/f2: the allocator placed other blocks than were wanted", |p| p.inodes[4].data[0].count += 1),
        ("/f2: the allocator placed other blocks than were wanted", |p| p.inodes[4].data[0].logical += 1),
        ("/d/x: the allocator placed more blocks than were wanted", |p| {
            let run = p.inodes[5].data[0];
            p.inodes[5].data.push(run);
        }),
        ("/f2: the allocator placed more or fewer indirect blocks than were wanted", |p| {
            p.inodes[4].indirect.clear();
        }),
        ("/d/y: the allocator gave a block twice", |p| {
            p.inodes[6].data[0].physical = p.inodes[4].data[0].physical + 20;
        }),
        ("attribute block 0: the allocator gave blocks that are metadata or outside", |p| {
            p.xattr_blocks[0] = 3;
        }),
    ];
    for (message, fault) in cases {
        let fault = ImagePlan::new(&tree, &options(), &mut Faulty(fault));
        assert_eq!(fault.map(|_| ()).unwrap_err().to_string(), message);
    }
    let outside: [fn(&mut Placement); 2] = [
        |p| p.inodes[4].indirect[0] = u32::MAX,
        |p| {
            p.inodes[4].data[0].physical = p.geometry.blocks - 5;
        },
    ];
    for outside in outside {
        let fault = ImagePlan::new(&tree, &options(), &mut Faulty(outside)).map(|_| ()).unwrap_err();
        assert_eq!(fault.to_string(), "/f2: the allocator gave blocks that are metadata or outside");
    }
}

#[test]
fn a_full_file_system_of_two_tebibytes_is_planned_and_not_a_block_more() {
    // One file of the greatest length, one that takes what is left.
    let whole = |blocks: u64| {
        let len = blocks * 4096;
        let source = ContentSource::Spool { spool: SpoolId(0), offset: 0 };
        Kind::File(Content { len, extents: vec![Extent { at: 0, len, source }] })
    };
    let mut tree = Tree::new(meta(0o755, 0));
    put(&mut tree, "first", whole(400_000_000));
    let plan = ImagePlan::new(&tree, &options(), &mut Sequential::default()).unwrap();
    let indirect: usize = plan.inodes().map(|(_, _, map)| map.indirect.len()).sum();
    assert_eq!(indirect, needed_for(400_000_000) as usize);
    let first = u64::from(plan.geometry().blocks);

    put(&mut tree, "greatest", whole(u64::from(MAX_FILE_BLOCKS)));
    let message = refused(&tree, &options());
    assert!(message.ends_with("and 14 inodes need more than the 2 TiB that an image may have"), "{message}");

    // What is left, less the indirect blocks, is between these two.
    let mut least_refused = u64::from(MAX_BLOCKS) - first;
    let mut fits = least_refused - least_refused / 500;
    while least_refused - fits > 1 {
        let middle = fits.midpoint(least_refused);
        put(&mut tree, "greatest", whole(middle));
        match ImagePlan::new(&tree, &options(), &mut Sequential::default()) {
            Ok(_) => fits = middle,
            Err(_) => least_refused = middle,
        }
    }
    put(&mut tree, "greatest", whole(fits));
    let plan = ImagePlan::new(&tree, &options(), &mut Sequential::default()).unwrap();
    let geometry = plan.geometry();
    assert_eq!(geometry.groups(), 16384);
    // One block more would need another indirect block, or there is none.
    assert!(plan.free_blocks() <= 2, "{} free of {}", plan.free_blocks(), geometry.blocks);
    let superblock = plan.superblock(0);
    assert_eq!(superblock.s_blocks_count, MAX_BLOCKS);
    assert_eq!(superblock.s_overhead_blocks, geometry.total_overhead());
    let used: u64 = plan.used().map(|run| u64::from(run.end - run.start)).sum();
    let all = used + u64::from(geometry.total_overhead()) + u64::from(plan.free_blocks());
    assert_eq!(all, u64::from(MAX_BLOCKS));
}

#[test]
fn free_space_and_inodes_are_as_wished() {
    for free in [0u64, 1, 64 << 20, 5 << 30] {
        let tree = everything();
        let plan =
            ImagePlan::new(&tree, &ImageOptions { free, ..options() }, &mut Sequential::default()).unwrap();
        assert!(u64::from(plan.free_blocks()) * 4096 >= free, "{free}");
        assert!(u64::from(plan.free_inodes()) >= free / 16384, "{free}");
        assert!(u64::from(plan.free_blocks()) * 4096 <= free + (60 << 12), "{free}: {}", plan.free_blocks());
    }
}

#[test]
fn names_give_label_uuid_and_seed() {
    let tree = everything();
    let superblock = |name: &str| {
        ImagePlan::new(&tree, &ImageOptions::new(name, 0), &mut Sequential::default()).unwrap().superblock(0)
    };
    let long = superblock("a-name-of-more-than-sixteen-bytes");
    assert_eq!(&long.s_volume_name, b"a-name-of-more-t");
    assert_eq!(&superblock("demo").s_volume_name, b"demo\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_ne!(superblock("demo").s_uuid, superblock("demp").s_uuid);
    assert_ne!(superblock("demo").s_hash_seed, superblock("demp").s_hash_seed);
    assert_ne!(superblock("demo").s_uuid, superblock("demo").s_hash_seed);
    // Version 5, variant 1: a UUID that follows from a name.
    assert_eq!((long.s_uuid[6] >> 4, long.s_uuid[8] >> 6), (5, 2));
}

/// The tables of docs/ext2.md, row by row: offset, type, field.
#[test]
fn the_document_has_every_field_at_its_offset() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ext2.md");
    let document = std::fs::read_to_string(path).unwrap();
    let mut rows = vec![];
    for line in document.lines().filter(|line| line.starts_with("| 0x")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let offset = usize::from_str_radix(&cells[1][2..], 16).unwrap();
        let len = match cells[2] {
            "u8" => 1,
            "u16" => 2,
            "u32" => 4,
            "[u8; 16]" => 16,
            "[u32; 15]" => 60,
            other => panic!("{other} in {line}"),
        };
        rows.push((cells[3].to_owned(), offset, len));
    }
    let fields = [Superblock::FIELDS, GroupDesc::FIELDS, Inode::FIELDS].concat();
    let fields: Vec<_> =
        fields.into_iter().map(|(name, offset, len)| (name.to_owned(), offset, len)).collect();
    assert_eq!(rows, fields);
}
