//! What a boot reads first lies together. Needs root for a loop mount, and the Debian package e2fsprogs.

use std::collections::{BTreeMap, BTreeSet};

use imgfactory::ext2::{
    Align, ImageOptions, ImagePlan, IncrementalAllocator, LayoutMap, PageMap, Pages, PreviousLayout,
    Sequential,
};
use imgfactory::tree::Tree;

use crate::support::judges::{assert_fsck_is_silent, compare_mount_with_tree};
use crate::support::packed_to;
use crate::support::trees::{everything, file, meta, put, spools};

/// Pages of a block of the disk.
const UNIT: u32 = 64;

fn aligned() -> Sequential {
    Sequential { align: Some(Align { blocks: UNIT, from: UNIT }) }
}

fn paths(first: &[String]) -> Vec<Vec<u8>> {
    first.iter().map(|path| path.as_bytes().to_vec()).collect()
}

/// 100 directories of 20 small files and a large one, each with contents of its own.
fn many() -> Tree {
    let mut tree = Tree::new(meta(0o755, 0));
    for dir in 0..100 {
        for nth in 0..20 {
            let text = format!("{dir}/{nth} ").repeat(1000);
            put(&mut tree, &format!("d{dir:02}/f{nth:02}"), file(text.as_bytes()));
        }
        let large = format!("{dir}").repeat(160_000);
        put(&mut tree, &format!("d{dir:02}/large"), file(large.as_bytes()));
    }
    tree
}

/// Number and blocks of the disk of the inode at each path.
fn places(plan: &ImagePlan<'_>) -> BTreeMap<String, (u32, BTreeSet<u32>)> {
    let place = |(wanted, ino, map): (
        &imgfactory::ext2::DemandedInode<'_>,
        u32,
        &imgfactory::ext2::blockmap::BlockMap,
    )| {
        let data = map.data.iter().flat_map(|run| run.physical..run.physical + run.count);
        let pages = data.chain(map.indirect.iter().map(|&(_, at)| at));
        let path = String::from_utf8_lossy(&wanted.path).into_owned();
        (path, (ino, pages.map(|page| page / UNIT).collect()))
    };
    plan.inodes().map(place).collect()
}

fn map(plan: &ImagePlan<'_>, tree: &Tree) -> LayoutMap {
    let pages = Pages::read(tree, &spools(), None, &|_| {}).unwrap();
    let census = PageMap::take(plan, &spools(), &pages).unwrap();
    LayoutMap::of(plan, &pages, census.into_pages(), vec![], |_| None)
}

#[test]
fn what_is_read_first_lies_together_and_nothing_else_beside_it() {
    let tree = many();
    let first: Vec<String> =
        (0..100).rev().step_by(7).flat_map(|dir| [format!("d{dir:02}"), format!("d{dir:02}/f13")]).collect();
    let first = [&first[..], &["gone".to_owned(), "d50/large".to_owned(), "d50/f01".to_owned()]].concat();
    let blocks =
        |places: &BTreeMap<String, (u32, BTreeSet<u32>)>, is: &dyn Fn(&str) -> bool| -> BTreeSet<u32> {
            places.iter().filter(|(path, _)| is(path)).flat_map(|(_, (_, blocks))| blocks.clone()).collect()
        };
    let is_first = |path: &str| first.iter().any(|first| first == path);

    let anyhow = ImagePlan::new(&tree, &ImageOptions::new("order", 0), &mut aligned()).unwrap();
    let plain = places(&anyhow);
    let options = ImageOptions { first: paths(&first), free: 4 << 20, ..ImageOptions::new("order", 0) };
    let plan = ImagePlan::new(&tree, &options, &mut aligned()).unwrap();
    let ordered = places(&plan);

    let spread = |plan: &ImagePlan<'_>| map(plan, &tree).spread(&options.first, UNIT);
    let [before, after] = [&anyhow, &plan].map(spread);
    // The large file is left out: 33 small pages and 16 of directories, inodes aside.
    assert_eq!((before.least, after.least), (2, 2));
    assert!(before.blocks > 14 && after.blocks <= 4, "{before:?} became {after:?}");

    let is_file = |path: &str| path.contains('/');
    let [scattered, together] =
        [&plain, &ordered].map(|places| blocks(places, &|path| is_first(path) && is_file(path)));
    // 16 small files of two pages and a large one of 79.
    assert!(scattered.len() > 14 && together.len() <= 3, "{scattered:?} became {together:?}");
    let others = blocks(&ordered, &|path| is_file(path) && !is_first(path));
    assert!(together.is_disjoint(&others), "{together:?} have something else: {others:?}");
    // Inodes stand in the same order: directories, then files.
    for directories in [true, false] {
        let numbers: Vec<u32> = first
            .iter()
            .filter(|path| is_file(path) != directories)
            .filter_map(|path| Some(ordered.get(path)?.0))
            .collect();
        let consecutive: Vec<u32> = (numbers[0]..).take(numbers.len()).collect();
        assert_eq!(numbers, consecutive);
    }
}

#[test]
fn what_an_update_has_anew_of_it_comes_before_all_else_that_is_new() {
    let old = many();
    let options = ImageOptions { free: 4 << 20, ..ImageOptions::new("order", 0) };
    let before = ImagePlan::new(&old, &options, &mut aligned()).unwrap();
    let before = map(&before, &old);
    let mut tree = old.clone();
    for dir in 0..100 {
        let path = format!("d{dir:02}/f05");
        assert!(tree.remove(path.as_bytes()));
        put(&mut tree, &path, file(format!("{dir} is new ").repeat(1000).as_bytes()));
    }
    let first: Vec<String> = [99, 0, 42, 17].map(|dir| format!("d{dir:02}/f05")).to_vec();
    let options = ImageOptions { first: paths(&first), ..options };
    let (previous, pages) =
        (PreviousLayout::new(&before), Pages::read(&tree, &spools(), None, &|_| {}).unwrap());
    let mut stable = IncrementalAllocator { previous: &previous, pages: &pages, unit: UNIT, least_run: 4 };
    let plan = ImagePlan::new(&tree, &options, &mut stable).unwrap();
    let start = |path: &[u8]| {
        let (_, _, map) = plan.inodes().find(|(wanted, _, _)| wanted.path == path).unwrap();
        map.data[0].physical
    };
    let mut new: Vec<_> = (0..100).map(|dir| format!("d{dir:02}/f05")).collect();
    new.sort_by_key(|path| start(path.as_bytes()));
    assert_eq!(new[..first.len()], first);
}

#[test]
fn an_image_in_any_order_is_sound_and_equals_its_tree() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("order.img");
    let tree = everything();
    let mut first: Vec<Vec<u8>> = tree.walk().map(|(path, _)| path).collect();
    first.reverse();
    for step in [1, 3] {
        let first = first.iter().step_by(step).cloned().collect();
        let options = ImageOptions { first, free: 1 << 20, ..ImageOptions::new("order", 1_700_000_000) };
        packed_to(&image, &tree, &spools(), &options, &mut aligned());
        assert_fsck_is_silent(&image);
        compare_mount_with_tree(&image, &tree, &spools());
    }
}

#[test]
fn pages_are_known_by_the_path_of_whose_they_are() {
    let mut tree = everything();
    // A second name; the first one in the order of directories is told.
    let su = tree.lookup(b"usr/bin/su").unwrap();
    tree.link(b"a-second-name", su).unwrap();
    let plan = ImagePlan::new(&tree, &ImageOptions::new("order", 0), &mut aligned()).unwrap();
    let map = map(&plan, &tree);

    let mut known = 0;
    for (wanted, ino, blocks) in plan.inodes() {
        let data = blocks.data.iter().map(|run| run.physical..run.physical + run.count);
        let indirect = blocks.indirect.iter().map(|&(_, at)| at..at + 1);
        for run in data.chain(indirect) {
            assert_eq!(map.lookup(&wanted.path).map(|mapped| mapped.ino), Some(ino), "{:?}", wanted.path);
            assert_eq!(map.paths_of([run]), std::slice::from_ref(&wanted.path));
            known += 1;
        }
    }
    assert!(known > 20, "{known}");
    let at = |path: &[u8]| {
        let (_, _, blocks) = plan.inodes().find(|(wanted, _, _)| wanted.path == path).unwrap();
        blocks.data[0].physical
    };
    let (ping, su) = (at(b"usr/bin/ping"), at(b"a-second-name"));
    // Superblock, past the end, and again.
    let read = [0..1, su + 1..su + 3, u32::MAX - 1..u32::MAX, ping..ping + 1, su..su + 1];
    assert_eq!(map.paths_of(read), [&b"a-second-name"[..], b"usr/bin/ping"].map(<[u8]>::to_vec));
}
