//! The reader on images that are damaged or not ext2, and the dump as a golden.

use formats::digest::Sha256;
use imgfactory::ext2::ondisk::{Inode, MAGIC};
use imgfactory::ext2::{ImageOptions, ImageReadError, Reader, Sequential, dump};
use imgfactory::tree::{Kind, SpoolId, Tree};
use proptest::prelude::*;

use crate::support;
use crate::support::packed;
use crate::support::trees::{everything, file, meta, put, sparse, spools, xattrs};

/// A tree with one of each structure, small enough that its dump can be read.
fn small() -> Tree {
    let mut tree = Tree::new(meta(0o755, 1_700_000_000));
    put(&mut tree, "etc/passwd", file(b"root:x:0:0:root:/root:/bin/sh\n"));
    put(&mut tree, "etc/link", Kind::Symlink(b"passwd".to_vec()));
    put(&mut tree, "etc/slow", Kind::Symlink(vec![b's'; 70]));
    put(&mut tree, "dev/console", Kind::CharDevice { major: 5, minor: 1 });
    put(&mut tree, "run/fifo", Kind::Fifo);
    put(&mut tree, "usr/large", sparse(80_000, &[(0, 20_000), (50_000, 30_000)]));
    put(&mut tree, "usr/name-\u{e9}", file(b"x"));
    let passwd = tree.lookup(b"etc/passwd").unwrap();
    tree.link(b"usr/passwd", passwd).unwrap();
    tree.node_mut(passwd).meta.xattrs = xattrs(&[
        ("security.capability", support::trees::CAPABILITY),
        ("system.posix_acl_access", support::trees::ACL),
        ("user.a", &[b'a'; 60]),
        ("user.b", &[b'b'; 60]),
    ]);
    tree
}

fn small_image() -> Vec<u8> {
    let options = ImageOptions { free: 65536, ..ImageOptions::new("small", 1_700_000_000) };
    packed(&small(), &spools(), &options, &mut Sequential::default())
}

/// The last line is the SHA-256 of the image itself: the dump says what changed, the digest that it did.
#[test]
fn the_dump_of_a_small_image_is_the_golden() {
    let image = small_image();
    let mut text = vec![];
    dump(&Reader::open(&image).unwrap(), &mut text).unwrap();
    let text = format!("{}sha256 {}\n", String::from_utf8(text).unwrap(), Sha256::of(&image));
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/ext2-small.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap();
    assert!(text == expected, "the golden is\n{expected}\nbut this came\n{text}");
}

/// Places in the small image, found by reading it while it is sound.
struct Places<'i> {
    reader: Reader<'i>,
}

impl Places<'_> {
    /// Offset of a field of the inode at `path`.
    fn inode(&self, path: &str, field: &str) -> usize {
        let ino = self.reader.lookup(path.as_bytes()).unwrap().ino as usize;
        let table = self.reader.group(0).unwrap().bg_inode_table as usize;
        let (_, offset, _) = Inode::FIELDS.iter().find(|(name, _, _)| *name == field).unwrap();
        table * 4096 + (ino - 1) * 256 + offset
    }

    /// Offset of the first block of the body.
    fn body(&self, path: &str) -> usize {
        let raw = self.reader.lookup(path.as_bytes()).unwrap();
        self.reader.blocks(&raw).unwrap().data[0].physical as usize * 4096
    }

    fn indirect(&self, path: &str) -> usize {
        let raw = self.reader.lookup(path.as_bytes()).unwrap();
        self.reader.blocks(&raw).unwrap().indirect[0] as usize
    }

    fn xattr_block(&self, path: &str) -> usize {
        self.reader.lookup(path.as_bytes()).unwrap().inode.i_file_acl as usize * 4096
    }
}

/// What reading all of an image comes to.
fn read_all(image: &Vec<u8>) -> Result<(), ImageReadError> {
    let reader = Reader::open(image)?;
    reader.tree(SpoolId(0))?;
    dump(&reader, &mut std::io::sink())
}

#[test]
fn the_reader_names_each_damage() {
    let good = small_image();
    read_all(&good).unwrap();
    let places = Places { reader: Reader::open(&good).unwrap() };
    let sb = |offset: usize| 1024 + offset;
    let ino = |path: &str| places.reader.lookup(path.as_bytes()).unwrap().ino;
    let (passwd, link, slow, large) = (ino("etc/passwd"), ino("etc/link"), ino("etc/slow"), ino("usr/large"));
    let (etc, usr, run, fifo) = (ino("etc"), ino("usr"), ino("run"), ino("run/fifo"));
    let le = |value: u32| value.to_le_bytes().to_vec();
    // Records of /etc: . .. link passwd slow.
    let cases: Vec<(usize, Vec<u8>, String)> = vec![
        (
            sb(0x38),
            vec![0, 0],
            "superblock: magic number 0x0000 where 0xef53 should be: not an ext2 file system".into(),
        ),
        (sb(0x4c), le(2), "superblock: revision 2; 0 and 1 are known".into()),
        (sb(0x60), le(0x2c2), "superblock: features extents, 64bit, flex_bg; ext2 has only filetype".into()),
        (sb(0x60), le(0x4000_0002), "superblock: features 0x40000000; ext2 has only filetype".into()),
        (sb(0x18), le(6), "superblock: blocks of 64 KiB; 1, 2 and 4 KiB are known".into()),
        (sb(0x18), le(7), "superblock: s_log_block_size is 7; it must be 0 to 2".into()),
        (sb(0x18), le(1), "superblock: s_blocks_per_group is 32768; it must be 1 to 16384".into()),
        (sb(0x14), le(1), "superblock: s_first_data_block is 1; it must be 0".into()),
        (
            sb(0x58),
            vec![0, 0],
            "superblock: s_inode_size is 0; it must be a power of two from 128 to 4096".into(),
        ),
        (
            sb(0x58),
            vec![0, 32],
            "superblock: s_inode_size is 8192; it must be a power of two from 128 to 4096".into(),
        ),
        (sb(0x20), le(0), "superblock: s_blocks_per_group is 0; it must be 1 to 32768".into()),
        (sb(0x28), le(40_000), "superblock: s_inodes_per_group is 40000; it must be 1 to 32768".into()),
        (sb(0x00), le(1000), "superblock: s_inodes_count is 1000; it must be 32 at most".into()),
        (sb(0x04), le(0), "superblock: s_blocks_count is 0; it must be more than 0".into()),
        (
            sb(0x04),
            le(u32::MAX),
            format!(
                "superblock: the file system has 17592186040320 bytes, the image {}: it is truncated",
                good.len()
            ),
        ),
        (4096, le(0), "group 0: refers to block 0, which is outside the file system".into()),
        (
            4096 + 8,
            le(u32::MAX),
            "group 0: refers to block 4294967295, which is outside the file system".into(),
        ),
        (4096 + 8, le(100_000), "group 0: refers to block 100000, which is outside the file system".into()),
        (
            places.inode("etc/passwd", "i_mode"),
            vec![0, 0],
            format!("inode {passwd}: mode 0o0 has no known type"),
        ),
        (
            places.inode("etc/passwd", "i_links_count"),
            vec![0, 0],
            format!("inode {passwd}: is referred to, but not in use"),
        ),
        (
            places.inode("etc/passwd", "i_extra_isize"),
            vec![132, 0],
            format!("inode {passwd}: i_extra_isize is 132, which its inode can't have"),
        ),
        (
            places.inode("etc/passwd", "i_flags"),
            le(0x80000),
            format!("inode {passwd}: flags 0x80000: contents are kept as in ext4, not in block maps"),
        ),
        (
            places.inode("etc/passwd", "i_block"),
            le(1_000_000),
            format!("inode {passwd}: refers to block 1000000, which is outside the file system"),
        ),
        (
            places.inode("usr/large", "i_block") + 48,
            le(1_000_000),
            format!("inode {large}: refers to block 1000000, which is outside the file system"),
        ),
        (
            places.inode("usr/large", "i_size_high"),
            le(7000),
            format!("inode {large}: a file can't have 30064771152000 bytes"),
        ),
        (places.inode("etc/link", "i_size"), le(0), format!("inode {link}: a symlink can't have 0 bytes")),
        (places.inode("etc/link", "i_size"), le(60), format!("inode {link}: a symlink can't have 60 bytes")),
        (places.inode("etc/link", "i_size"), le(8), format!("inode {link}: the symlink has no target")),
        (
            places.inode("etc/slow", "i_size"),
            le(4096),
            format!("inode {slow}: a symlink can't have 4096 bytes"),
        ),
        (places.inode("etc/slow", "i_block"), le(0), format!("inode {slow}: the symlink has no target")),
        (places.inode("etc", "i_size"), le(5), format!("inode {etc}: a directory can't have 5 bytes")),
        (places.inode("etc", "i_size"), le(0), format!("inode {etc}: a directory can't have 0 bytes")),
        (places.inode("etc", "i_size"), le(8192), format!("inode {etc}: the directory has no block 1")),
        (places.inode("etc", "i_block"), le(0), format!("inode {etc}: the directory has no block 0")),
        (
            places.body("etc") + 4,
            vec![0, 0],
            format!("inode {etc}: block 0 of the directory: the record at 0 has length 0"),
        ),
        (
            places.body("etc") + 32,
            b"a/".to_vec(),
            format!("inode {etc}: block 0 of the directory: the record at 24 has an impossible name"),
        ),
        (
            places.body("etc") + 60,
            b"link".to_vec(),
            format!("inode {etc}: the directory has the name `link` twice"),
        ),
        (places.body("etc") + 24, le(33), format!("inode {etc}: the file system has no inode 33")),
        (
            places.body("etc") + 24,
            le(usr),
            format!("inode {usr}: the directory has a second name, /etc/link"),
        ),
        (
            places.body("run") + 24,
            le(run),
            format!("inode {run}: the directory has a second name, /run/fifo"),
        ),
        (places.body("run") + 24, le(2), "inode 2: the directory has a second name, /run/fifo".into()),
        (
            places.inode("run/fifo", "i_mode"),
            vec![0, 0xf0],
            format!("inode {fifo}: mode 0o170000 has no known type"),
        ),
        (
            places.xattr_block("etc/passwd"),
            le(0),
            format!("inode {passwd}: the attribute block has no magic number"),
        ),
        (
            places.xattr_block("etc/passwd") + 34,
            vec![0xff, 0x0f],
            format!("inode {passwd}: the value of attribute `b` is outside the block"),
        ),
        (
            places.xattr_block("etc/passwd") + 48,
            b"a".to_vec(),
            format!("inode {passwd}: has the attribute `user.a` twice"),
        ),
        (
            places.inode("etc/passwd", "i_extra_isize") + 36 + 4,
            le(77),
            format!("inode {passwd}: the value of attribute `a` is in another inode"),
        ),
        (
            places.xattr_block("etc/passwd") + 33,
            vec![9],
            format!("inode {passwd}: no attribute prefix has number 9"),
        ),
        (
            places.inode("etc/passwd", "i_file_acl"),
            le(1_000_000),
            format!("inode {passwd}: refers to block 1000000, which is outside the file system"),
        ),
    ];
    for (offset, bytes, expected) in cases {
        let mut image = good.clone();
        image[offset..offset + bytes.len()].copy_from_slice(&bytes);
        let found = read_all(&image).map_err(|error| error.to_string());
        assert_eq!(found, Err(expected), "{bytes:x?} at {offset}");
    }
    for (len, expected) in [
        (0, "superblock: the image has 0 bytes; a file system has at least 2048".to_owned()),
        (2047, "superblock: the image has 2047 bytes; a file system has at least 2048".to_owned()),
        (
            good.len() - 1,
            format!(
                "superblock: the file system has {} bytes, the image {}: it is truncated",
                good.len(),
                good.len() - 1
            ),
        ),
    ] {
        let found = read_all(&good[..len].to_vec()).unwrap_err().to_string();
        assert_eq!(found, expected, "cut off after {len}");
    }
}

/// A file whose blocks are said to be many: by a loop, and by one block again and again.
#[test]
fn maps_that_go_round_come_to_an_end() {
    let good = small_image();
    let places = Places { reader: Reader::open(&good).unwrap() };
    let large = places.reader.lookup(b"usr/large").unwrap().ino;
    let etc = places.reader.lookup(b"etc").unwrap().ino;
    let indirect = places.indirect("usr/large");
    let le = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
    let mut long = good.clone();
    let at = places.inode("usr/large", "i_size");
    long[at..at + 4].copy_from_slice(&le(1 << 31));

    let mut looped = long.clone();
    let root = places.inode("usr/large", "i_block") + 13 * 4;
    looped[root..root + 4].copy_from_slice(&le(indirect));
    let found = read_all(&looped).unwrap_err().to_string();
    assert_eq!(
        found,
        format!("inode {large}: block {indirect} is an indirect block twice: the map is a loop")
    );

    let mut itself = long.clone();
    let root = places.inode("usr/large", "i_block") + 13 * 4;
    itself[root..root + 4].copy_from_slice(&le(40));
    itself[40 * 4096 + 8..40 * 4096 + 12].copy_from_slice(&le(40));
    let found = read_all(&itself).unwrap_err().to_string();
    assert_eq!(found, format!("inode {large}: block 40 is an indirect block twice: the map is a loop"));

    let mut again = long;
    for pointer in again[indirect * 4096..][..4096].chunks_exact_mut(4) {
        pointer.copy_from_slice(&le(20));
    }
    let found = read_all(&again).unwrap_err().to_string();
    assert_eq!(found, format!("inode {large}: has more blocks than the file system"));

    let mut directory = good.clone();
    let at = places.inode("etc", "i_size");
    directory[at..at + 4].copy_from_slice(&le(8192));
    let first = places.inode("etc", "i_block");
    directory.copy_within(first..first + 4, first + 4);
    let found = read_all(&directory).unwrap_err().to_string();
    assert_eq!(found, format!("inode {etc}: has more blocks than the file system"));
}

#[test]
fn paths_that_lead_nowhere_are_told_from_damage() {
    let image = small_image();
    let reader = Reader::open(&image).unwrap();
    let lookup = |path: &[u8]| reader.lookup(path).map(|raw| raw.ino).map_err(|error| error.to_string());
    assert_eq!(lookup(b"/"), Ok(2));
    assert_eq!(lookup(b"//etc/passwd/"), lookup(b"usr/passwd"));
    assert_eq!(lookup(b"etc/group"), Err("/etc/group: no such file in the image".into()));
    assert_eq!(lookup(b"etc/passwd/x"), Err("/etc/passwd: not a directory".into()));
    assert_eq!(lookup(b"etc/link/x"), Err("/etc/link: not a directory".into()));
    let directory = reader.lookup(b"etc").unwrap();
    assert_eq!(reader.cat(&directory, &mut vec![]).unwrap_err().to_string(), "inode 13: not a regular file");
}

#[test]
fn contents_come_out_with_zeros_for_holes() {
    let tree = everything();
    let image = packed(&tree, &spools(), &ImageOptions::new("cat", 0), &mut Sequential::default());
    let reader = Reader::open(&image).unwrap();
    for path in ["etc/hostname", "etc/empty", "usr/bin/su", "var/all-hole", "var/ends-in-hole", "var/double"]
    {
        let mut there = vec![];
        reader.cat(&reader.lookup(path.as_bytes()).unwrap(), &mut there).unwrap();
        let Kind::File(content) = &tree.node(tree.lookup(path.as_bytes()).unwrap()).kind else { panic!() };
        let mut wanted = vec![1; usize::try_from(content.len).unwrap()];
        content.read_at(&spools(), 0, &mut wanted).unwrap();
        assert!(there == wanted, "{path}");
    }
}

/// Reads all that can be read, and goes on after an error. Returns whether there was none.
fn survive(image: &Vec<u8>) -> bool {
    let Ok(reader) = Reader::open(image) else { return false };
    let mut sound = reader.tree(SpoolId(0)).is_ok();
    sound &= dump(&reader, &mut std::io::sink()).is_ok();
    for ino in 1..=reader.superblock().s_inodes_count.min(3000) {
        let Ok(raw) = reader.inode(ino) else { continue };
        let _ = reader.entries(&raw);
        // Damage can make a file of terabytes of holes: right to give, too long to wait for.
        if raw.inode.size() < 1 << 24 {
            let _ = reader.cat(&raw, &mut std::io::sink());
        }
        let _ = imgfactory::ext2::stat(&reader, &raw);
    }
    sound
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_by_chance_never_make_the_reader_panic(
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..60),
        words in prop::collection::vec((any::<usize>(), 0u32..80), 0..20),
    ) {
        let mut image = small_image();
        // Most of them where they matter: superblock, descriptors, the inodes, the directories.
        let metadata = 18 * 4096;
        for (at, byte) in changes {
            image[at % metadata] = byte;
        }
        for (at, word) in words {
            image[at % metadata / 4 * 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
        // A superblock that is refused would hide the rest.
        image[1024 + 0x38..1024 + 0x3a].copy_from_slice(&MAGIC.to_le_bytes());
        survive(&image);
    }

    #[test]
    fn one_wrong_byte_never_makes_the_reader_panic(at in 1024usize..19 * 4096, flip in 1u8..) {
        let mut image = small_image();
        image[at] ^= flip;
        survive(&image);
    }

    #[test]
    fn an_image_cut_off_anywhere_is_refused(len in any::<prop::sample::Index>()) {
        let image = small_image();
        let cut = image[..len.index(image.len())].to_vec();
        prop_assert!(!survive(&cut));
    }
}
