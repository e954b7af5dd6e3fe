//! What the writer writes, the reader reads: random trees, every layout, any part of an image.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use imgfactory::ext2::{
    Align, Allocator, ImageOptions, ImagePlan, InodeSize, PlannedImage, Reader, Sequential, write,
};
use imgfactory::tree::{FileTime, Kind, Meta, SpoolId, Tree};
use proptest::prelude::*;

use crate::support::packed;
use crate::support::scattered::Scattered;
use crate::support::trees::{
    everything, file, listing, meta, put, random_tree, small_inodes, sparse, spools,
};

fn aligned() -> Sequential {
    Sequential { align: Some(Align { blocks: 64, from: 8 }) }
}

/// What the reader makes of an image, without the lost+found that the writer added.
fn read_back(image: Vec<u8>) -> Vec<String> {
    let mut tree = Reader::open(&image).unwrap().tree(SpoolId(0)).unwrap();
    let lost_found = tree.lookup(b"lost+found").unwrap();
    assert!(tree.entries(lost_found).unwrap().is_empty());
    assert!(tree.remove(b"lost+found"));
    listing(&tree, &vec![image])
}

fn options(inode_size: InodeSize) -> ImageOptions {
    ImageOptions { inode_size, free: 300_000, ..ImageOptions::new("round-trip", 1_700_000_000) }
}

fn assert_round_trip(tree: &Tree, inode_size: InodeSize, allocator: &mut dyn Allocator) {
    let wanted = match inode_size {
        InodeSize::Small => listing(&small_inodes(tree), &spools()),
        InodeSize::Large => listing(tree, &spools()),
    };
    let there = read_back(packed(tree, &spools(), &options(inode_size), allocator));
    for (there, wanted) in there.iter().zip(&wanted) {
        assert_eq!(there, wanted);
    }
    assert_eq!(there.len(), wanted.len());
}

#[test]
fn a_tree_with_everything_comes_back_from_every_layout() {
    for inode_size in [InodeSize::Small, InodeSize::Large] {
        assert_round_trip(&everything(), inode_size, &mut Sequential::default());
        assert_round_trip(&everything(), inode_size, &mut aligned());
        assert_round_trip(&everything(), inode_size, &mut Scattered::new(7));
    }
}

#[test]
fn an_own_lost_found_is_kept_as_it_is() {
    let mut tree = everything();
    put(&mut tree, "lost+found", Kind::Directory(BTreeMap::new()));
    put(&mut tree, "lost+found/#12", file(b"found"));
    let id = tree.lookup(b"lost+found").unwrap();
    tree.node_mut(id).meta = Meta { uid: 7, ..meta(0o711, 5) };
    let image = packed(&tree, &spools(), &options(InodeSize::Large), &mut Sequential::default());
    let reader = Reader::open(&image).unwrap();
    assert_eq!(reader.lookup(b"lost+found").unwrap().ino, 11);
    assert_eq!(listing(&reader.tree(SpoolId(0)).unwrap(), &vec![image.clone()]), listing(&tree, &spools()));
}

#[test]
fn large_files_begin_on_aligned_blocks_and_small_ones_fill_the_gaps() {
    // Ten files of 74 blocks, thirty of 2.
    let mut tree = Tree::new(meta(0o755, 0));
    for nth in 0..40u64 {
        let size = if nth % 4 == 0 { 300_000 } else { 5000 };
        put(&mut tree, &format!("{nth:02}"), sparse(size, &[(0, size)]));
    }
    for (free, all_aligned) in [(0, false), (300_000, false), (4 << 20, true)] {
        let options = ImageOptions { free, ..options(InodeSize::Large) };
        let plan = ImagePlan::new(&tree, &options, &mut aligned()).unwrap();
        let large = plan.inodes().filter(|(_, _, map)| map.data.iter().any(|run| run.count > 60));
        let mut aligned = 0;
        for (wanted, _, map) in large {
            assert_eq!(map.data.len(), 1, "{:?} is in one piece", wanted.path);
            assert_eq!(map.indirect[0].1, map.data[0].physical - 1);
            aligned += u32::from(map.data[0].physical % 64 == 0);
        }
        assert!(if all_aligned { aligned == 10 } else { aligned < 10 }, "{free}: {aligned}");
        let unaligned = ImagePlan::new(&tree, &options, &mut Sequential::default()).unwrap();
        assert_eq!(plan.geometry(), unaligned.geometry(), "gaps come out of the free space");
        if all_aligned {
            let (first, last) = (plan.used().next().unwrap(), plan.used().last().unwrap());
            let holes = last.end - first.start - (10 * 75 + 30 * 2);
            assert!(holes < 10 * 60, "small files stand in the gaps: {holes} blocks are left of them");
        }
    }
}

#[test]
fn times_that_no_inode_holds_become_the_nearest() {
    let cases = [
        (i64::MIN, 5, (-2_147_483_648, 0)),
        (-2_147_483_649, 5, (-2_147_483_648, 0)),
        (-2_147_483_648, 5, (-2_147_483_648, 5)),
        (10_737_418_239, 999_999_999, (10_737_418_239, 999_999_999)),
        (10_737_418_240, 5, (10_737_418_239, 0)),
        (i64::MAX, 5, (10_737_418_239, 0)),
    ];
    for (secs, nanos, expected) in cases {
        let mut tree = Tree::new(meta(0o755, 0));
        tree.node_mut(tree.root()).meta.mtime = FileTime { secs, nanos };
        let image = packed(&tree, &spools(), &options(InodeSize::Large), &mut Sequential::default());
        let there = Reader::open(&image).unwrap().tree(SpoolId(0)).unwrap();
        let time = there.node(there.root()).meta.mtime;
        assert_eq!((time.secs, time.nanos), expected, "{secs}.{nanos}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_trees_come_back(tree in random_tree(40), seed in any::<u64>(), small in any::<bool>()) {
        let inode_size = if small { InodeSize::Small } else { InodeSize::Large };
        assert_round_trip(&tree, inode_size, &mut Sequential::default());
        assert_round_trip(&tree, inode_size, &mut aligned());
        assert_round_trip(&tree, inode_size, &mut Scattered::new(seed));
    }

    #[test]
    fn any_part_of_an_image_is_that_part_of_the_whole(
        tree in random_tree(25),
        parts in prop::collection::vec((any::<u32>(), 1u32..300), 1..30),
        seed in any::<u64>(),
    ) {
        let plan = ImagePlan::new(&tree, &options(InodeSize::Large), &mut Scattered::new(seed)).unwrap();
        let spools = spools();
        let image = PlannedImage::new(&plan, &spools);
        let blocks = plan.geometry().blocks;
        let mut whole = vec![1; blocks as usize * 4096];
        image.fill(0, &mut whole).unwrap();
        let mut written = vec![];
        write(&plan, &spools, &mut written).unwrap();
        assert!(whole == written);
        for (first, count) in parts {
            let first = first % blocks;
            let count = count.min(blocks - first);
            let mut part = vec![2; count as usize * 4096];
            image.fill(first, &mut part).unwrap();
            assert!(part == whole[first as usize * 4096..][..part.len()], "{count} blocks from {first}");
        }
    }

    #[test]
    fn the_same_input_gives_the_same_bytes(tree in random_tree(25)) {
        // A tree that was built in another order: what it looks like decides, not its history.
        let mut again = Tree::new(tree.node(tree.root()).meta.clone());
        let mut ids = HashMap::new();
        // Parents first, otherwise backwards.
        let mut paths: Vec<_> = tree.walk().collect();
        paths.sort_by_key(|(path, _)| (path.split(|&byte| byte == b'/').count(), Reverse(path.clone())));
        for (path, id) in paths.into_iter().filter(|(path, _)| !path.is_empty()) {
            if let Some(&known) = ids.get(&id) {
                again.link(&path, known).unwrap();
                continue;
            }
            let mut node = tree.node(id).clone();
            if let Kind::Directory(entries) = &mut node.kind {
                entries.clear();
            }
            ids.insert(id, again.insert(&path, node).unwrap());
        }
        let options = options(InodeSize::Large);
        let first = packed(&tree, &spools(), &options, &mut Sequential::default());
        assert!(first == packed(&tree, &spools(), &options, &mut Sequential::default()));
        assert!(first == packed(&again, &spools(), &options, &mut Sequential::default()));
        let renamed = ImageOptions { name: "other".into(), ..options };
        assert!(first != packed(&tree, &spools(), &renamed, &mut Sequential::default()));
    }
}
