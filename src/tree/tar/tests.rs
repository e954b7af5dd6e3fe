use std::io::Cursor;

use proptest::prelude::*;
use tar::{Builder, EntryType, GnuExtSparseHeader, Header};

use super::*;
use crate::tree::dump::dump;

const SPOOL: SpoolId = SpoolId(0);

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1000);
    header
}

/// An archive with what `fill` puts into it, and its end mark.
fn archive(fill: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    fill(&mut builder);
    builder.into_inner().unwrap()
}

fn file(builder: &mut Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
    builder.append_data(&mut header(EntryType::Regular, bytes.len() as u64), path, bytes).unwrap();
}

/// A header whose name is written as it is, with a checksum.
fn raw(builder: &mut Builder<Vec<u8>>, mut header: Header, name: &[u8], data: &[u8]) {
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    builder.append(&header, data).unwrap();
}

fn listing(bytes: Vec<u8>) -> String {
    let tree = read(Cursor::new(&bytes), SPOOL).unwrap();
    let text = dump(&tree, &vec![bytes]).unwrap();
    text.lines().skip(1).map(|line| format!("{line}\n")).collect()
}

fn message(bytes: &[u8]) -> String {
    read(Cursor::new(bytes), SPOOL).unwrap_err().to_string()
}

#[test]
fn contents_are_positions_in_the_archive() {
    let bytes = archive(|tar| {
        file(tar, "a/one", b"first");
        file(tar, "a/two", &[7; 1000]);
        file(tar, "a/none", b"");
    });
    let tree = read(Cursor::new(&bytes), SPOOL).unwrap();
    let content = |path: &[u8]| match &tree.node(tree.lookup(path).unwrap()).kind {
        Kind::File(content) => content.clone(),
        other => panic!("{other:?}"),
    };
    let extent = |offset, len| Extent { at: 0, len, source: ContentSource::Spool { spool: SPOOL, offset } };
    assert_eq!(content(b"a/one").extents, [extent(512, 5)]);
    assert_eq!(content(b"a/two").extents, [extent(1536, 1000)]);
    assert_eq!(content(b"a/none").extents, []);
}

#[test]
fn every_kind_of_entry_is_read() {
    let bytes = archive(|tar| {
        let mut dir = header(EntryType::Directory, 0);
        dir.set_mode(0o41755);
        tar.append_data(&mut dir, "tmp/", &[][..]).unwrap();
        let mut shell = header(EntryType::Regular, 2);
        shell.set_mode(0o4755);
        shell.set_uid(3_000_000_000);
        tar.append_data(&mut shell, "bin/su", &b"su"[..]).unwrap();
        tar.append_link(&mut header(EntryType::Link, 0), "bin/sudo", "./bin/su").unwrap();
        tar.append_link(&mut header(EntryType::Symlink, 0), "lib", "usr/lib").unwrap();
        for (kind, name) in [(EntryType::Char, "dev/tty"), (EntryType::Block, "dev/loop9")] {
            let mut device = header(kind, 0);
            device.set_device_major(259).unwrap();
            device.set_device_minor(70_000).unwrap();
            tar.append_data(&mut device, name, &[][..]).unwrap();
        }
        tar.append_data(&mut header(EntryType::Fifo, 0), "run/pipe", &[][..]).unwrap();
        raw(tar, header(EntryType::Regular, 3), b"caf\xe9", b"abc");
        raw(tar, header(EntryType::Regular, 0), b"old/", b"");
    });
    insta::assert_snapshot!(listing(bytes), @r"
    d 0755 0:0 1000.000000000 /bin
    f 4755 3000000000:0 1000.000000000 /bin/su 2 sha256:0a64ce10853f25cb3dc3f7d498f62d72b406be37ba8caf5aa7671414d9696049
    h /bin/sudo = /bin/su
    f 0644 0:0 1000.000000000 /caf\xe9 3 sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
    d 0755 0:0 1000.000000000 /dev
    b 0644 0:0 1000.000000000 /dev/loop9 259,70000
    c 0644 0:0 1000.000000000 /dev/tty 259,70000
    l 0644 0:0 1000.000000000 /lib -> usr/lib
    d 0644 0:0 1000.000000000 /old
    d 0755 0:0 1000.000000000 /run
    p 0644 0:0 1000.000000000 /run/pipe
    d 1755 0:0 1000.000000000 /tmp
    ");
}

#[test]
fn pax_records_override_the_header() {
    let bytes = archive(|tar| {
        tar.append_pax_extensions([
            ("path", &b"long/caf\xe9"[..]),
            ("mtime", b"-1.5"),
            ("uid", b"4000000000"),
            ("SCHILY.xattr.user.note", b"a\nb\0"),
            ("SCHILY.acl.access", b"user::rw-,user:ann:r--,group::r--,mask::r--,other::---"),
        ])
        .unwrap();
        raw(tar, header(EntryType::Regular, 1), b"short", b"x");
        file(tar, "etc/passwd", b"root:x:0:0::/:\nann:x:1000:1000::/:\n");
    });
    let listing = listing(bytes);
    let line = listing.lines().last().unwrap();
    assert_eq!(
        line,
        "f 0644 4000000000:0 -2.500000000 /long/caf\\xe9 1 \
         sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 \
         system.posix_acl_access=0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000000ffffffff \
         user.note=610a6200"
    );
}

#[test]
fn of_two_entries_with_one_name_the_last_stands() {
    let bytes = archive(|tar| {
        file(tar, "a", b"1");
        tar.append_link(&mut header(EntryType::Link, 0), "b", "a").unwrap();
        file(tar, "a", b"22");
    });
    let tree = read(Cursor::new(&bytes), SPOOL).unwrap();
    let lens = [&b"a"[..], b"b"].map(|path| match &tree.node(tree.lookup(path).unwrap()).kind {
        Kind::File(content) => content.len,
        other => panic!("{other:?}"),
    });
    assert_eq!(lens, [2, 1]);
}

/// `(offset, length)` of each region, then the whole length; and the archive's data.
fn old_sparse(regions: &[(u64, u64)], len: u64, data: &[u8]) -> Vec<u8> {
    let mut main = header(EntryType::GNUSparse, data.len() as u64);
    let gnu = main.as_gnu_mut().unwrap();
    gnu.set_real_size(len);
    let (here, rest) = regions.split_at(regions.len().min(4));
    for (slot, &(at, len)) in gnu.sparse.iter_mut().zip(here) {
        slot.set_offset(at);
        slot.set_length(len);
    }
    gnu.set_is_extended(!rest.is_empty());
    main.as_old_mut().name[..1].copy_from_slice(b"s");
    main.set_cksum();
    let mut bytes = main.as_bytes().to_vec();
    let chunks: Vec<_> = rest.chunks(21).collect();
    for (index, chunk) in chunks.iter().enumerate() {
        let mut extension = GnuExtSparseHeader::new();
        for (slot, &(at, len)) in extension.sparse_mut().iter_mut().zip(*chunk) {
            slot.set_offset(at);
            slot.set_length(len);
        }
        extension.set_is_extended(index + 1 < chunks.len());
        bytes.extend_from_slice(extension.as_bytes());
    }
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
    bytes
}

#[test]
fn old_sparse_headers_keep_their_holes_across_extension_blocks() {
    let regions: Vec<(u64, u64)> = (0..40).map(|i| (i * 4096, 512)).chain([(1 << 40, 0)]).collect();
    let data: Vec<u8> = (0..40u8).flat_map(|i| [i; 512]).collect();
    let tree = read(Cursor::new(old_sparse(&regions, 1 << 40, &data)), SPOOL).unwrap();
    let Kind::File(content) = &tree.node(tree.lookup(b"s").unwrap()).kind else { panic!() };
    assert_eq!((content.len, content.extents.len()), (1 << 40, 40));
    let source = ContentSource::Spool { spool: SPOOL, offset: 512 * (1 + 2 + 39) };
    assert_eq!(content.extents[39], Extent { at: 39 * 4096, len: 512, source });
}

#[test]
fn sparse_maps_that_do_not_fit_are_refused_by_name() {
    type Regions = [(u64, u64)];
    let cases: [(&Regions, u64, usize, &str); 5] = [
        (&[(0, 512), (256, 512)], 4096, 1024, "regions overlap or are beyond the end of the file"),
        (&[(0, 512), (4000, 512)], 4096, 1024, "regions overlap or are beyond the end of the file"),
        (&[(0, 100), (512, 512)], 4096, 612, "a region before the last does not fill its blocks"),
        (&[(0, 512)], 4096, 1024, "the regions' lengths do not add up to the bytes stored"),
        (&[(0, 512), (1024, 512)], 4096, 512, "the regions' lengths do not add up to the bytes stored"),
    ];
    for (regions, len, stored, message) in cases {
        let error = read(Cursor::new(old_sparse(regions, len, &vec![1; stored])), SPOOL).unwrap_err();
        assert_eq!(error.to_string(), format!("entry `s` at byte 0: sparse map: {message}"));
    }
}

#[test]
fn damage_is_named_with_entry_and_offset() {
    let one = archive(|tar| file(tar, "one", b"1"));
    let mut flipped = one.clone();
    flipped[0] ^= 1;
    let after_one = |fill: &dyn Fn(&mut Builder<Vec<u8>>)| {
        archive(|tar| {
            file(tar, "one", b"1");
            fill(tar);
        })
    };
    let link = |kind, name: &str, target: &str| {
        after_one(&|tar| tar.append_link(&mut header(kind, 0), name, target).unwrap())
    };
    let cases = [
        (flipped, "byte 0: damaged: the bytes of its header add up to 3340, but the header says 3341"),
        (
            one[..700].to_vec(),
            "entry `one` at byte 0: truncated: the archive ends in the middle of an entry; copy or download it again",
        ),
        (
            one[..1100].to_vec(),
            "byte 1024: truncated: the archive ends in the middle of an entry; copy or download it again",
        ),
        (vec![], "byte 0: empty: a tar archive has at least one block of 512 bytes"),
        (
            link(EntryType::Link, "two", "nosuch"),
            "entry `two` at byte 1024: hard link to `nosuch`, which is not an earlier entry",
        ),
        (
            link(EntryType::Link, "two", "."),
            "entry `two` at byte 1024: hard link to `.`, which is not an earlier entry",
        ),
        (
            after_one(&|tar| raw(tar, header(EntryType::Symlink, 0), b"two", b"")),
            "entry `two` at byte 1024: symbolic link with a target of 0 bytes; 1 to 4095 without NUL are allowed",
        ),
        (
            after_one(&|tar| raw(tar, header(EntryType::Regular, 0), b"a/../../etc/x", b"")),
            "entry `a/../../etc/x` at byte 1024: can't be placed",
        ),
        (
            after_one(&|tar| raw(tar, header(EntryType::GNULongName, 1 << 40), b"", b"")),
            "byte 1024: its name or its extended header has 1099511627776 bytes; at most 4096 are read",
        ),
        (
            after_one(&|tar| {
                tar.append_pax_extensions([("SCHILY.acl.access", &b"user:ann:r--"[..])]).unwrap();
                raw(tar, header(EntryType::Regular, 0), b"two", b"");
            }),
            "entry `two` at byte 1024: ACL entry `user:ann:r--` is not `TAG:NAME:PERMISSIONS` with a name in the \
             archive's /etc/passwd or /etc/group",
        ),
        (
            after_one(&|tar| {
                tar.append_pax_extensions([("uid", &b"4294967296"[..])]).unwrap();
                raw(tar, header(EntryType::Regular, 0), b"two", b"");
            }),
            "entry `two` at byte 1024: damaged: `4294967296` in the field for its uid",
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(message(&bytes), expected);
    }
}

/// Each entry has all global records, and keeps its attributes: 2 MB of archive would be 4 GB of tree.
#[test]
fn global_records_are_bounded_however_many_headers_they_are_in() {
    for (records, each) in [(1, 5000), (100, 60)] {
        let bytes = archive(|tar| {
            for number in 0..records {
                let record = format!(" SCHILY.xattr.user.{number}={}\n", "v".repeat(each));
                let len = (1..6).map(|digits| record.len() + digits);
                let len = len.into_iter().find(|len| len.to_string().len() + record.len() == *len).unwrap();
                let record = format!("{len}{record}");
                let mut global = header(EntryType::XGlobalHeader, record.len() as u64);
                global.set_cksum();
                tar.append(&global, record.as_bytes()).unwrap();
            }
            file(tar, "a", b"");
        });
        let said = message(&bytes);
        assert!(said.contains("its global PAX headers have "), "{said}");
        assert!(
            said.ends_with("of records, which every later entry would get; at most 4096 are read"),
            "{said}"
        );
    }
}

#[test]
fn a_file_can_not_replace_a_directory_nor_lie_under_a_file() {
    for (path, cause) in [("dir", "/dir: is a directory"), ("dir/one/below", "/dir/one: not a directory")] {
        let bytes = archive(|tar| {
            file(tar, "dir/one", b"");
            file(tar, path, b"");
        });
        let error = read(Cursor::new(&bytes), SPOOL).unwrap_err();
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), cause);
    }
}

proptest! {
    /// Whatever names, attributes and bytes go in come out.
    #[test]
    fn archives_round_trip(
        files in proptest::collection::btree_map(
            proptest::collection::vec(b'a'..=b'z', 1..200),
            (proptest::collection::vec(any::<u8>(), 0..2000), 0u16..0o10000, any::<u32>(),
             proptest::collection::vec(any::<u8>(), 0..50)),
            0..12,
        ),
    ) {
        let bytes = archive(|tar| {
            for (name, (data, mode, uid, attribute)) in &files {
                tar.append_pax_extensions([("SCHILY.xattr.user.a", &attribute[..])]).unwrap();
                let mut header = header(EntryType::Regular, data.len() as u64);
                header.set_mode((*mode).into());
                header.set_uid((*uid).into());
                tar.append_data(&mut header, std::str::from_utf8(name).unwrap(), &data[..]).unwrap();
            }
        });
        let tree = read(Cursor::new(&bytes), SPOOL).unwrap();
        let spool = vec![bytes];
        prop_assert_eq!(tree.walk().count(), files.len() + 1);
        for (name, (data, mode, uid, attribute)) in &files {
            let node = tree.node(tree.lookup(name).unwrap());
            let Kind::File(content) = &node.kind else { panic!() };
            let mut read = vec![0; data.len()];
            content.read_at(&spool, 0, &mut read).unwrap();
            prop_assert_eq!(&read, data);
            prop_assert_eq!((node.meta.mode, node.meta.uid), (*mode, *uid));
            prop_assert_eq!(&node.meta.xattrs[&b"user.a"[..]], attribute);
        }
    }

    /// A flipped bit in a header, or a cut, never panics and never goes unnoticed in a header.
    #[test]
    fn damaged_archives_are_refused_or_read_but_never_panic(
        flip in 0usize..4096, bit in 0u8..8, cut in 0usize..6000,
    ) {
        let mut bytes = archive(|tar| {
            tar.append_pax_extensions([("SCHILY.xattr.user.a", &b"value"[..]), ("mtime", b"1.5")]).unwrap();
            file(tar, &"n".repeat(150), b"data");
            file(tar, "b", &[1; 600]);
        });
        // The crate puts the long name between the PAX header and its file, as other writers do.
        let len = bytes.len();
        prop_assume!(flip < len);
        bytes[flip] ^= 1 << bit;
        let in_first_header = flip < 512;
        let result = read(Cursor::new(&bytes[..len - cut.min(len)]), SPOOL);
        // Without its end mark an archive is whole, too.
        let in_an_entry = cut > 1024 && !(len - cut.min(len)).is_multiple_of(512);
        prop_assert!(result.is_err() || !(in_first_header || in_an_entry));
    }
}
