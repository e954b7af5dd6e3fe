//! ext2 images as the reader and the dump see them, and layout maps.

use std::io::{Read, Write};

use formats::digest::Sha256;
use imgfactory::ext2::{
    ImageOptions, ImagePlan, Label, LayoutMap, PageMap, Pages, PreviousLayout, Reader, Sequential, dump,
    write,
};
use imgfactory::tree::{Content, Kind, Meta, Node, SpoolId, Tree};

use crate::Target;

/// A tree with one of each structure.
fn tree() -> Tree {
    let mut tree = Tree::new(Meta { mode: 0o755, ..Meta::default() });
    let mut put = |path: &str, kind| {
        tree.insert(path.as_bytes(), Node { meta: Meta { mode: 0o644, ..Meta::default() }, kind }).unwrap()
    };
    let passwd = put("etc/passwd", Kind::File(Content::inline(&b"root:x:0:0:root:/root:/bin/sh\n"[..])));
    put("etc/link", Kind::Symlink(b"passwd".to_vec()));
    put("etc/slow", Kind::Symlink(vec![b's'; 70]));
    put("dev/console", Kind::CharDevice { major: 5, minor: 1 });
    put("run/fifo", Kind::Fifo);
    put("usr/large", Kind::File(Content::inline(vec![7; 80_000])));
    tree.link(b"usr/passwd", passwd).unwrap();
    for (name, len) in [("user.a", 60), ("user.b", 600), ("security.capability", 20)] {
        tree.node_mut(passwd).meta.xattrs.insert(name.as_bytes().to_vec(), vec![1; len]);
    }
    tree
}

fn image(tree: &Tree, free: u64) -> Vec<u8> {
    let options = ImageOptions { free, ..ImageOptions::new("fuzz", 1_700_000_000) };
    let plan = ImagePlan::new(tree, &options, &mut Sequential::default()).unwrap();
    let mut image = Vec::new();
    write(&plan, &Vec::<Vec<u8>>::new(), &mut image).unwrap();
    image
}

/// Many files, each of which says that it has the blocks of one large file with holes.
fn shared_blocks() -> Vec<u8> {
    let mut tree = Tree::new(Meta { mode: 0o755, ..Meta::default() });
    let mut put = |path: String, kind| {
        tree.insert(path.as_bytes(), Node { meta: Meta { mode: 0o644, ..Meta::default() }, kind }).unwrap();
    };
    put("large".into(), Kind::File(Content::inline(vec![7; 4 << 20])));
    for nth in 0..6000 {
        put(format!("f{nth}"), Kind::File(Content::default()));
    }
    let mut image = image(&tree, 0);
    let reader = Reader::open(&image).unwrap();
    let per_group = reader.superblock().s_inodes_per_group;
    let place = |path: &str| {
        let nth = reader.lookup(path.as_bytes()).unwrap().ino - 1;
        let table = reader.group(nth / per_group).unwrap().bg_inode_table as usize;
        table * 4096 + (nth % per_group) as usize * 256
    };
    let large = reader.lookup(b"large").unwrap();
    let map = reader.blocks(&large).unwrap().indirect[0] as usize * 4096;
    let (from, to): (_, Vec<_>) = (place("large"), (0..6000).map(|nth| place(&format!("f{nth}"))).collect());
    // Every second block is a hole, so that each block is a run.
    for entry in image[map..map + 4096].chunks_mut(8) {
        entry[..4].fill(0);
    }
    let inode = image[from..from + 256].to_vec();
    for at in to {
        // i_size, and i_block.
        image[at + 4..at + 8].copy_from_slice(&inode[4..8]);
        image[at + 40..at + 100].copy_from_slice(&inode[40..100]);
    }
    image
}

#[test]
fn fuzz_ext2_reader() {
    let small = image(&tree(), 65_536);
    let cases = vec![shared_blocks()];
    // An inode has 128 bytes and a name 12; a node of the tree has some 250, and attributes that inodes may share.
    Target::new("ext2", vec![small]).cases(cases).in_place().per_byte(24).fuzz(|bytes| {
        let image = bytes.to_vec();
        let reader = match Reader::open(&image) {
            Ok(reader) => reader,
            Err(error) => return error.to_string(),
        };
        for path in ["etc/passwd", "etc/slow/x", "usr/large"] {
            if let Ok(found) = reader.lookup(path.as_bytes())
                && found.inode.size() < 1 << 24
            {
                let _ = reader.cat(&found, &mut std::io::sink());
            }
        }
        // A dump shows each block of each inode, also where thousands say that they have the same.
        let shown = if bytes.len() < 1 << 20 { dump(&reader, &mut std::io::sink()) } else { Ok(()) };
        match reader.tree(SpoolId(0)).and_then(|tree| shown.map(|()| tree)) {
            Ok(tree) => format!("accepted: {}", tree.nodes().len()),
            Err(error) => error.to_string(),
        }
    });
}

fn map_of(tree: &Tree) -> LayoutMap {
    let options = ImageOptions { free: 65_536, ..ImageOptions::new("fuzz", 1_700_000_000) };
    let plan = ImagePlan::new(tree, &options, &mut Sequential::default()).unwrap();
    let contents = Vec::<Vec<u8>>::new();
    let pages = Pages::read(tree, &contents, None, &|_| {}).unwrap();
    let map = PageMap::take(&plan, &contents, &pages).unwrap();
    let label = |name: &str| Label { name: name.into(), version: "1.0".into() };
    LayoutMap::of(&plan, &pages, map.into_pages(), vec![label("a"), label("b")], |_| Some(1))
}

fn inflated(file: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::ZlibDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// Blocks of the image that a map is of, from its head. Pages of zeros take no bytes of the file: what they are to
/// take of memory goes by the size of the image.
fn blocks(bytes: &[u8], magic: usize) -> u64 {
    let mut value = 0;
    for (nth, byte) in bytes.iter().skip(magic).take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * nth);
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

const WORDS: [&[u8]; 12] = [
    b"\0",
    b"\x01",
    b"\x7f",
    b"\x80\x01",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"end\n",
    b"\x01\x05\0\0\0\0\0\0\0\0",
    b"\x01\0\x01\x01",
    b"imgfactory-layout 2\n",
    b"imgfactory-layout-update 2\n",
];

#[test]
fn fuzz_layout_maps() {
    const HEAD: usize = b"imgfactory-layout 2\n".len();
    let seed = inflated(&map_of(&tree()).encode());
    Target::new("layout map", vec![seed]).words(&WORDS).fuzz(|bytes| {
        if blocks(bytes, HEAD) > 1 << 20 {
            return "larger".into();
        }
        match LayoutMap::decode(&deflated(bytes)) {
            Ok(map) => {
                let again = LayoutMap::decode(&map.encode()).unwrap();
                assert!(again == map, "written otherwise");
                let _ = PreviousLayout::new(&map);
                "accepted".into()
            }
            Err(error) => error.to_string(),
        }
    });
}

#[test]
fn fuzz_layout_updates() {
    const HEAD: usize = b"imgfactory-layout-update 2\n".len() + 32;
    let base = map_of(&tree());
    let mut changed = tree();
    changed.remove(b"etc/link");
    let kind = Kind::File(Content::inline(vec![9; 5000]));
    changed.insert(b"etc/new", Node { meta: Meta::default(), kind }).unwrap();
    let sum = Sha256::of(b"the file of the base");
    let seeds = [tree(), changed].map(|tree| inflated(&map_of(&tree).encode_update(&base, sum).unwrap()));
    Target::new("layout update", seeds.into()).words(&WORDS).fuzz(|bytes| {
        if blocks(bytes, HEAD) > 1 << 20 {
            return "larger".into();
        }
        match LayoutMap::decode_update(&deflated(bytes), &base, sum) {
            Ok(map) => {
                let again = LayoutMap::decode(&map.encode()).unwrap();
                assert!(again == map, "written otherwise");
                "accepted".into()
            }
            Err(error) => error.to_string(),
        }
    });
}

#[test]
fn fuzz_layout_files() {
    let seed = map_of(&tree()).encode();
    // A file of 97 KB that inflates to 97 MB asked for 2.1 GiB.
    let mut bomb = b"imgfactory-layout 2\n".to_vec();
    // 2^21 blocks, 2^15 inodes a group of 256 bytes each, the time, no packages; how many inodes.
    bomb.extend(b"\x80\x80\x80\x01\x80\x80\x02\x80\x02\0\0");
    bomb.extend(b"\x80\x89\x7a");
    for _ in 0..2_000_000 {
        bomb.extend(b"\x01\x05\0\0\0\0\0\0\0\0");
    }
    let zeros = vec![0; 90 << 20];
    let cases = vec![deflated(&bomb), deflated(&zeros)];
    Target::new("layout.z", vec![seed]).cases(cases).per_byte(1024).fuzz(|bytes| {
        match LayoutMap::decode(bytes) {
            Ok(_) => "accepted".into(),
            Err(error) => error.to_string(),
        }
    });
}
