//! Updates: what did not change stays where it is, and what the blocks of the disk hold is always a whole image.

use formats::digest::Sha256;
use imgfactory::ext2::{
    ImageOptions, ImagePlan, IncrementalAllocator, Label, LayoutError, LayoutMap, PageHash, PageMap, Pages,
    PlannedImage, PreviousLayout, Reader, Sequential,
};
use imgfactory::tree::{Content, FileTime, Kind, Node, SpoolId, Tree};
use proptest::prelude::*;

use crate::support;
use crate::support::trees::{everything, file, listing, meta, put, random_tree, sparse, spools};

/// Pages of a block of the disk: 32 KiB, so that small trees have several.
const UNIT: u32 = 8;

/// A published image: its bytes, and its layout map as the next build gets it.
struct Published {
    image: Vec<u8>,
    map: LayoutMap,
}

/// What an update did.
struct Update {
    after: Published,
    /// Blocks of the disk that were made anew.
    changed: Vec<bool>,
    /// Of these, blocks in which only pages of files, or none, differ.
    data_blocks: usize,
    /// Pages that differ and are no group metadata.
    new_pages: usize,
    grown: bool,
}

fn options() -> ImageOptions {
    ImageOptions { free: 100_000, ..ImageOptions::new("update", 1_700_000_000) }
}

fn labels() -> Vec<Label> {
    vec![Label { name: "all".to_owned(), version: "1.0".to_owned() }]
}

fn through_the_mirror(map: LayoutMap) -> LayoutMap {
    let decoded = LayoutMap::decode(&map.encode()).unwrap();
    assert!(decoded == map, "a layout map is the same after a round trip");
    decoded
}

fn as_update(base: &LayoutMap, map: LayoutMap) -> LayoutMap {
    let sum = Sha256::of(b"the file of the base");
    let Some(file) = map.encode_update(base, sum) else {
        assert_ne!(base.geometry.inodes_per_group, map.geometry.inodes_per_group);
        return map;
    };
    let decoded = LayoutMap::decode_update(&file, base, sum).unwrap();
    assert!(decoded == map, "a layout map is the same after a round trip as an update");
    decoded
}

fn first(tree: &Tree) -> Published {
    let plan = ImagePlan::new(tree, &options(), &mut Sequential::default()).unwrap();
    let pages = Pages::read(tree, &spools(), None, &|_| {}).unwrap();
    let census = PageMap::take(&plan, &spools(), &pages).unwrap();
    let mut image = vec![];
    imgfactory::ext2::write(&plan, &spools(), &mut image).unwrap();
    let published = Published {
        image,
        map: through_the_mirror(LayoutMap::of(&plan, &pages, census.into_pages(), labels(), |_| Some(0))),
    };
    check(&published, tree);
    published
}

fn update(before: &Published, tree: &Tree) -> Update {
    update_by(before, tree, 1)
}

/// Makes only the blocks that the census says have changed, and leaves the others as they were.
fn update_by(before: &Published, tree: &Tree, least_run: u32) -> Update {
    let previous = PreviousLayout::new(&before.map);
    let pages = Pages::read(tree, &spools(), Some(&previous), &|_| {}).unwrap();
    let afresh = Pages::read(tree, &spools(), None, &|_| {}).unwrap();
    for (_, id) in tree.walk() {
        assert!(
            pages.of(id) == afresh.of(id),
            "what is known of the release before spares work, and changes nothing"
        );
    }
    let mut allocator = IncrementalAllocator { previous: &previous, pages: &pages, unit: UNIT, least_run };
    let plan = ImagePlan::new(tree, &options(), &mut allocator).unwrap();
    let census = PageMap::take(&plan, &spools(), &pages).unwrap();
    let changed = census.changed(&before.map, UNIT);
    let source = spools();
    let writer = PlannedImage::new(&plan, &source);
    let geometry = plan.geometry();
    let mut image = before.image.clone();
    image.resize(geometry.blocks as usize * 4096, 0);
    let metadata = |page: u32| geometry.data_from(page).is_none_or(|(start, _)| start != page);
    let (mut data_blocks, mut new_pages) = (0, 0);
    for (block, part) in image.chunks_mut(UNIT as usize * 4096).enumerate() {
        if changed[block] {
            let first = u32::try_from(block).unwrap() * UNIT;
            writer.fill(first, part).unwrap();
            let end = first + u32::try_from(part.len() / 4096).unwrap();
            let differ: Vec<u32> = (first..end).filter(|&page| census.differs(page, &before.map)).collect();
            data_blocks += usize::from(!differ.iter().any(|&page| metadata(page)));
            new_pages += differ.iter().filter(|&&page| !metadata(page)).count();
        }
    }
    let mut labels = labels();
    labels.insert(0, Label { name: "a-new-one".to_owned(), version: "2.0".to_owned() });
    let map = LayoutMap::of(&plan, &pages, census.after(&before.map, &changed, UNIT), labels, |_| Some(1));
    let map = as_update(&before.map, through_the_mirror(map));
    let after = Published { image, map };
    check(&after, tree);
    let grown = geometry != before.map.geometry;
    Update { after, changed, data_blocks, new_pages, grown }
}

/// The image is whole: it holds the tree, and its pages are those that the layout map says.
fn check(published: &Published, tree: &Tree) {
    for (page, (bytes, hash)) in published.image.chunks(4096).zip(&published.map.pages).enumerate() {
        assert_eq!(PageHash::of(bytes), *hash, "page {page}");
    }
    let mut there = Reader::open(&published.image).unwrap().tree(SpoolId(0)).unwrap();
    assert!(there.remove(b"lost+found"));
    let there = listing(&there, &vec![published.image.clone()]);
    for (there, wanted) in there.iter().zip(&listing(tree, &spools())) {
        assert_eq!(there, wanted);
    }
}

fn fsck(published: &Published) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, &published.image).unwrap();
    support::judges::assert_fsck_is_silent(&path);
}

/// What e2fsck and the kernel say. [`check`] has compared the image with the tree already.
fn judge(published: &Published, tree: &Tree) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, &published.image).unwrap();
    support::judges::assert_fsck_is_silent(&path);
    support::judges::compare_mount_with_tree(&path, tree, &spools());
}

fn changed(update: &Update) -> usize {
    update.changed.iter().filter(|changed| **changed).count()
}

/// Two hundred files of 10 to 30 KB, in ten directories.
fn library() -> Tree {
    let mut tree = Tree::new(meta(0o755, 1000));
    for nth in 0..200u64 {
        let size = 10_000 + nth * 100;
        put(&mut tree, &format!("usr/lib{}/file-{nth}", nth % 10), sparse(size, &[(nth, size - nth)]));
    }
    tree
}

#[test]
fn the_same_tree_changes_no_block() {
    for tree in [everything(), library()] {
        let before = first(&tree);
        let update = update(&before, &tree);
        assert_eq!(changed(&update), 0);
        let (old, new) = (&before.map, &update.after.map);
        assert!(update.after.image == before.image && new.pages == old.pages && new.geometry == old.geometry);
    }
}

#[test]
fn freed_pages_stay_unless_zeros_are_asked_for() {
    let mut tree = library();
    let before = first(&tree);
    assert!(tree.remove(b"usr/lib7/file-7") && tree.remove(b"usr/lib3/file-113"));
    let previous = PreviousLayout::new(&before.map);
    let pages = Pages::read(&tree, &spools(), Some(&previous), &|_| {}).unwrap();
    let mut allocator = IncrementalAllocator { previous: &previous, pages: &pages, unit: UNIT, least_run: 1 };
    let plan = ImagePlan::new(&tree, &options(), &mut allocator).unwrap();
    let census = PageMap::take(&plan, &spools(), &pages).unwrap();
    let (changed, freed) = (census.changed(&before.map, UNIT), census.freed(&before.map, UNIT));
    // Both files are in the middle of blocks in which nothing else changes.
    assert!((2..=6).contains(&freed.iter().filter(|freed| **freed).count()));
    assert!(freed.iter().zip(&changed).any(|(freed, changed)| *freed && !changed));
    let zeroed: Vec<bool> = freed.iter().zip(&changed).map(|(freed, changed)| freed | changed).collect();
    let after = census.clone().after(&before.map, &zeroed, UNIT);
    let secret =
        PageHash::of(&before.image[page_of(&before.map, b"usr/lib7/file-7") as usize * 4096..][..4096]);
    assert!(secret != PageHash::ZERO && !after.contains(&secret));
    assert!(census.after(&before.map, &changed, UNIT).contains(&secret));
}

#[test]
fn a_mib_that_has_the_sum_it_had_has_the_pages_it_had_and_only_then() {
    const MIB: u64 = 1 << 20;
    let size = 3 * MIB + 5000;
    // The spool is short, so a file is many pieces of it; `other` lies in the one that differs.
    let full = |from: u64, to: u64, other: u64| -> Vec<(u64, u64)> {
        let at = (from..to).step_by(4096).map(|at| (at, 4096.min(to - at)));
        at.flat_map(
            |(at, len)| if at == other { vec![(at, 50), (at + 51, len - 51)] } else { vec![(at, len)] },
        )
        .collect()
    };
    let none = u64::MAX;
    let mut tree = Tree::new(meta(0o755, 1000));
    put(&mut tree, "large", sparse(size, &full(0, size, none)));
    put(&mut tree, "small", sparse(7 * 4096, &full(0, 7 * 4096, none)));
    put(&mut tree, "holes", sparse(size, &[full(0, MIB, none), full(2 * MIB, 3 * MIB, none)].concat()));
    let mut map = first(&tree).map;
    let sums = |map: &LayoutMap, path: &[u8]| map.inode(ino_of(map, path)).unwrap().sums.len();
    assert_eq!([&b"large"[..], b"small", b"holes"].map(|path| sums(&map, path)), [4, 0, 0]);

    // The hashes of the map are taken for a MiB that is the same, so lies in them are seen.
    let lie = PageHash([7; PageHash::LEN]);
    let page = page_of(&map, b"large");
    assert_eq!(map.inode(ino_of(&map, b"large")).unwrap().data.len(), 1);
    for nth in [1, 300, 600] {
        map.pages[(page + nth) as usize] = lie;
    }
    // The second MiB and the end are others, and there is more of it.
    let longer = size + 8192;
    put(&mut tree, "large", sparse(longer, &full(0, longer, MIB + 4096)));
    let previous = PreviousLayout::new(&map);
    let pages = Pages::read(&tree, &spools(), Some(&previous), &|_| {}).unwrap();
    let afresh = Pages::read(&tree, &spools(), None, &|_| {}).unwrap();
    let large = tree.lookup(b"large").unwrap();
    let lies = pages.of(large).iter().zip(afresh.of(large)).enumerate().filter(|(_, (a, b))| a != b);
    let lies: Vec<_> = lies.map(|(nth, (found, _))| (nth, *found)).collect();
    assert_eq!(lies, [(1, lie), (600, lie)]);
    assert_eq!(pages.sums(large), afresh.sums(large));
}

#[test]
fn a_mib_whose_first_page_changed_has_no_sum_from_then_on_and_nothing_is_believed_of_it() {
    const MIB: u64 = 1 << 20;
    let full = |other: u64| -> Vec<(u64, u64)> {
        let at = (0..3 * MIB).step_by(4096);
        at.flat_map(|at| if at == other { vec![(at, 50), (at + 51, 4045)] } else { vec![(at, 4096)] })
            .collect()
    };
    let mut tree = Tree::new(meta(0o755, 1000));
    put(&mut tree, "large", sparse(3 * MIB, &full(u64::MAX)));
    let before = first(&tree);
    let sums = |map: &LayoutMap| map.inode(ino_of(map, b"large")).unwrap().sums.clone();
    assert!(!sums(&before.map).contains(&PageHash::ZERO));

    put(&mut tree, "large", sparse(3 * MIB, &full(MIB)));
    let after = update(&before, &tree);
    check(&after.after, &tree);
    let known = sums(&before.map);
    assert_eq!(sums(&after.after.map), [known[0], PageHash::ZERO, known[2]]);

    let again = update(&after.after, &tree);
    assert_eq!(changed(&again), 0);
    assert_eq!(again.after.map, after.after.map, "a rebuild with nothing new changes no byte");
    put(&mut tree, "large", sparse(3 * MIB, &full(MIB + 4096)));
    let other = update(&again.after, &tree);
    check(&other.after, &tree);
    assert_eq!(sums(&other.after.map), [known[0], PageHash::ZERO, known[2]]);
}

fn ino_of(map: &LayoutMap, path: &[u8]) -> u32 {
    let step =
        |ino, name: &[u8]| map.inode(ino).unwrap().entries().find(|entry| entry.name == name).unwrap().ino;
    path.split(|&byte| byte == b'/').fold(imgfactory::ext2::ROOT_INO, step)
}

/// The first page of a file.
fn page_of(map: &LayoutMap, path: &[u8]) -> u32 {
    map.inode(ino_of(map, path)).unwrap().data[0].physical
}

#[test]
fn a_layout_that_is_an_update_names_its_base_and_is_small() {
    let mut tree = library();
    let before = first(&tree);
    put(&mut tree, "usr/lib3/file-3", file(b"other"));
    let after = update(&before, &tree).after.map;
    let (sum, other) = (Sha256::of(b"one"), Sha256::of(b"other"));
    let file = after.encode_update(&before.map, sum).unwrap();
    assert!(file.len() < 200, "{} bytes; the whole map takes {}", file.len(), after.encode().len());
    let refused = |result: Result<LayoutMap, LayoutError>| result.unwrap_err().to_string();
    assert_eq!(refused(LayoutMap::decode(&file)), "the layout map is a delta, but its base is not given");
    assert_eq!(
        refused(LayoutMap::decode_update(&file, &before.map, other)),
        "the layout map is a delta of a base that differs from the given one"
    );
    assert_eq!(
        refused(LayoutMap::decode_update(&before.map.encode(), &before.map, sum)),
        "not a layout map of version 2"
    );
    // Any byte of it changed or cut off is an error or another map, never a panic.
    let raw = {
        let mut raw = vec![];
        std::io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(&file[..]), &mut raw).unwrap();
        raw
    };
    for at in 0..raw.len() {
        for change in [1, 0x80, 0xff] {
            let mut damaged = raw.clone();
            damaged[at] ^= change;
            let mut stream = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::fast());
            std::io::Write::write_all(&mut stream, &damaged).unwrap();
            let _ = LayoutMap::decode_update(&stream.finish().unwrap(), &before.map, sum);
            let cut = LayoutMap::decode_update(&file[..at.min(file.len() - 1)], &before.map, sum);
            assert!(cut.is_err());
        }
    }
}

#[test]
fn a_changed_byte_costs_its_page_its_inode_and_the_counts() {
    let mut tree = library();
    let before = first(&tree);
    let id = tree.lookup(b"usr/lib3/file-103").unwrap();
    tree.node_mut(id).kind = file(b"another thing altogether");
    let after = update(&before, &tree);
    judge(&after.after, &tree);
    // Superblock and bitmaps are in the first block, inodes in two, the page in a block that had nothing in it.
    assert_eq!((after.new_pages, after.data_blocks), (1, 1));
    assert!(changed(&after) <= 3, "{:?}", after.changed);
}

#[test]
fn what_moves_keeps_its_data_and_what_comes_back_is_found_again() {
    let mut tree = library();
    let before = first(&tree);
    let id = tree.lookup(b"usr/lib3/file-103").unwrap();
    let node = tree.node(id).clone();
    tree.remove(b"usr/lib3/file-103");
    tree.insert(b"usr/lib4/moved", node).unwrap();
    let moved = update(&before, &tree);
    assert_eq!(moved.new_pages, 2, "the two directories");
    judge(&moved.after, &tree);

    let gone = tree.lookup(b"usr/lib5/file-105").unwrap();
    let node = tree.node(gone).clone();
    tree.remove(b"usr/lib5/file-105");
    let without = update(&moved.after, &tree);
    assert_eq!(without.data_blocks, 1, "the directory; freed pages are left in place");
    put(&mut tree, "usr/lib5/other", file(b"takes the inode"));
    tree.insert(b"usr/lib6/back", node).unwrap();
    let back = update(&without.after, &tree);
    assert_eq!(back.new_pages, 3, "two directories and `other`; the old data is taken where it lies");
    judge(&back.after, &tree);
}

#[test]
fn single_freed_pages_are_used_again_where_the_file_is_read_anyway() {
    let pages = |numbers: &[u8]| file(&numbers.iter().flat_map(|&number| [number; 4096]).collect::<Vec<_>>());
    let mut tree = Tree::new(meta(0o755, 1000));
    put(&mut tree, "gone", pages(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]));
    put(&mut tree, "turned", pages(&[21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32]));
    let before = first(&tree);
    tree.remove(b"gone");
    put(&mut tree, "turned", pages(&[21, 22, 23, 24, 27, 26, 25, 28, 29, 30, 31, 32]));
    put(&mut tree, "new", pages(&[41, 42, 43, 44, 45, 5, 46, 47, 48, 49, 50, 51]));
    let [all, some] = [1, 4].map(|least_run| update_by(&before, &tree, least_run));
    assert_eq!(all.new_pages, 11 + 1, "eleven of `new`, the directory");
    assert_eq!(some.new_pages, 12 + 1, "a page of `gone` would be a block to fetch for who reads `new`");
    judge(&some.after, &tree);
}

#[test]
fn fifty_updates_leave_an_image_of_bounded_size() {
    let mut tree = library();
    let mut published = first(&tree);
    let size = published.map.geometry.blocks;
    for round in 0..50u64 {
        for nth in 0..40u64 {
            // Every fifth file, each time others, with contents that were never there.
            let which = (nth * 5 + round) % 200;
            let path = format!("usr/lib{}/file-{which}", which % 10);
            let text = format!("{round} {nth} ").repeat(2000);
            let id = tree.lookup(path.as_bytes()).unwrap();
            tree.node_mut(id).kind = Kind::File(Content::inline(text.into_bytes()));
        }
        let update = update(&published, &tree);
        published = update.after;
    }
    judge(&published, &tree);
    let grown = f64::from(published.map.geometry.blocks) / f64::from(size);
    assert!(
        grown <= 1.8,
        "{size} blocks became {} after 50 updates: x {grown:.2}",
        published.map.geometry.blocks
    );
}

#[test]
fn a_growing_tree_grows_its_image_in_place() {
    let mut tree = library();
    let mut published = first(&tree);
    for round in 0..4u64 {
        for nth in 0..300u64 {
            let text = format!("{round}-{nth} ").repeat(9000);
            put(&mut tree, &format!("usr/new{round}/{nth}"), Kind::File(Content::inline(text.into_bytes())));
        }
        let update = update(&published, &tree);
        assert!(update.grown);
        fsck(&update.after);
        published = update.after;
    }
    assert!(published.map.geometry.groups() > 1);
}

/// One change of a tree.
#[derive(Clone, Debug)]
enum Change {
    Remove(usize),
    Write(usize, u64),
    Append(usize, u64),
    Cut(usize, u64),
    Touch(usize, i64),
    Chmod(usize, u16),
    Rename(usize),
    Move(usize),
    Link(usize),
    Make(usize, u64),
    Fill(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let which = any::<usize>();
    prop_oneof![
        which.prop_map(Change::Remove),
        (which, 0u64..300_000).prop_map(|(which, size)| Change::Write(which, size)),
        (which, 1u64..50_000).prop_map(|(which, size)| Change::Append(which, size)),
        (which, 0u64..50_000).prop_map(|(which, size)| Change::Cut(which, size)),
        (which, 0i64..2_000_000_000).prop_map(|(which, secs)| Change::Touch(which, secs)),
        (which, 0u16..0o10000).prop_map(|(which, mode)| Change::Chmod(which, mode)),
        which.prop_map(Change::Rename),
        which.prop_map(Change::Move),
        which.prop_map(Change::Link),
        (which, 0u64..200_000).prop_map(|(which, size)| Change::Make(which, size)),
        (which, 1usize..200).prop_map(|(which, count)| Change::Fill(which, count)),
    ]
}

fn make(tree: &mut Tree, path: &[u8], kind: Kind) {
    tree.insert(path, Node { meta: meta(0o644, 3000), kind }).unwrap();
}

fn apply(tree: &mut Tree, change: &Change, nth: usize) {
    let paths: Vec<_> = tree.walk().skip(1).collect();
    let directories: Vec<_> = tree.walk().filter(|(_, id)| tree.entries(*id).is_some()).collect();
    let files: Vec<_> =
        paths.iter().filter(|(_, id)| matches!(tree.node(*id).kind, Kind::File(_))).cloned().collect();
    let pick = |list: &[(Vec<u8>, imgfactory::tree::NodeId)], which: usize| {
        (!list.is_empty()).then(|| list[which % list.len()].clone())
    };
    let name = |which: usize| {
        let (dir, _) = &directories[which % directories.len()];
        [&dir[..], format!("/new-{nth}").as_bytes()].concat()
    };
    match *change {
        Change::Remove(which) => {
            if let Some((path, _)) = pick(&paths, which) {
                tree.remove(&path);
            }
        }
        Change::Write(which, size) => {
            if let Some((_, id)) = pick(&files, which) {
                let skip = size / 3;
                let kind = sparse(size, &[(skip, size - skip)]);
                tree.node_mut(id).kind = if size == 0 { file(b"") } else { kind };
            }
        }
        Change::Append(which, size) => {
            if let Some((_, id)) = pick(&files, which)
                && let Kind::File(content) = &mut tree.node_mut(id).kind
            {
                let Kind::File(mut more) = sparse(size, &[(0, size)]) else { return };
                for extent in &mut more.extents {
                    extent.at += content.len;
                }
                content.extents.append(&mut more.extents);
                content.len += size;
            }
        }
        Change::Cut(which, len) => {
            if let Some((_, id)) = pick(&files, which)
                && let Kind::File(content) = &mut tree.node_mut(id).kind
            {
                content.len = len.min(content.len);
                content.extents.retain(|extent| extent.at < len);
                for extent in &mut content.extents {
                    extent.len = extent.len.min(len - extent.at);
                }
            }
        }
        Change::Touch(which, secs) => {
            if let Some((_, id)) = pick(&paths, which) {
                tree.node_mut(id).meta.mtime = FileTime { secs, nanos: 0 };
            }
        }
        Change::Chmod(which, mode) => {
            if let Some((_, id)) = pick(&paths, which) {
                tree.node_mut(id).meta.mode = mode;
            }
        }
        Change::Rename(which) => {
            if let Some((path, id)) = pick(&files, which) {
                let to = name(which / 7);
                if tree.lookup(&to).is_none() {
                    tree.link(&to, id).unwrap();
                    tree.remove(&path);
                }
            }
        }
        Change::Move(which) => {
            // A directory with all below it, to one that is not below it.
            if let Some((path, _)) = pick(&directories[1..], which) {
                let to = name(which / 7);
                let below = [&path[..], b"/"].concat();
                if !to.starts_with(&below) && tree.lookup(&to).is_none() {
                    let all: Vec<_> = paths.iter().filter(|(each, _)| each.starts_with(&below)).collect();
                    let mut moved = tree.node(tree.lookup(&path).unwrap()).clone();
                    moved.kind = Kind::Directory(Default::default());
                    tree.insert(&to, moved).unwrap();
                    for (from, id) in all {
                        let new = [&to[..], b"/", &from[below.len()..]].concat();
                        match &tree.node(*id).kind {
                            Kind::Directory(_) => {
                                let node = Node {
                                    kind: Kind::Directory(Default::default()),
                                    ..tree.node(*id).clone()
                                };
                                tree.insert(&new, node).unwrap();
                            }
                            _ => tree.link(&new, *id).unwrap(),
                        }
                    }
                    tree.remove(&path);
                }
            }
        }
        Change::Link(which) => {
            if let Some((_, id)) = pick(&files, which) {
                let to = name(which / 7);
                if tree.lookup(&to).is_none() {
                    tree.link(&to, id).unwrap();
                }
            }
        }
        Change::Make(which, size) => {
            make(tree, &name(which), sparse(size.max(1), &[(0, size.max(1))]));
        }
        Change::Fill(which, count) => {
            let dir = name(which);
            for each in 0..count {
                make(tree, &[&dir[..], format!("/{each:040}").as_bytes()].concat(), file(b"x"));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    /// Whatever happens to a tree, the image is whole, the same input gives the same bytes, and blocks in which no
    /// metadata changed are as few as the new pages need.
    #[test]
    fn any_updates_keep_the_image_whole_and_pack_what_is_new(
        tree in random_tree(30),
        rounds in prop::collection::vec(prop::collection::vec(change(), 1..12), 1..5),
    ) {
        let mut tree = tree;
        let mut published = first(&tree);
        for (round, changes) in rounds.iter().enumerate() {
            for (nth, change) in changes.iter().enumerate() {
                apply(&mut tree, change, round * 100 + nth);
            }
            let one = update(&published, &tree);
            let two = update(&published, &tree);
            prop_assert!(one.after.image == two.after.image && one.after.map == two.after.map);
            // Directories are changed where they are, a block each at worst; all else is packed.
            let directories = tree.walk().filter(|(_, id)| tree.entries(*id).is_some()).count();
            let needed = one.new_pages.div_ceil(UNIT as usize) + directories + 2;
            prop_assert!(one.data_blocks <= needed, "{} blocks for {} pages", one.data_blocks, one.new_pages);
            published = one.after;
            fsck(&published);
        }
        judge(&published, &tree);
    }
}
