use proptest::prelude::*;

use super::*;
use crate::block::BlockName;

/// A disk of eight blocks of 4 KiB, the last one of 100 bytes.
const GOLDEN: &str = "\
imgfactory-index 1
image: netbsd
serial: 42
block-size: 4096
size: 28772
published: 1795205345
parent: 41 6cdd89f31c5c5f1b0ae3ad2e2d0ab3cf7a0dd4bb26f7ac7ff7ab1a9f0c2e4a11
blocks: 4
object ec87a838931d4d5d2e94a04644788a55 8a39d2abd3999ab73c34db2476849cddf303ce389b35826850f9a700589b4a90 4096 277
object 0cc175b9c0f1b6a831c399e269772661 ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb 4096 30
object 92eb5ffee6ae2fec3ad71c777531578f 3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d 4096 4110
object 4a8a08f09d37b73795649038408b5f33 2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6 100 9
map 0 2 -
map 2 2 0
map 4 2 1+
map 6 1 0
map 7 1 3
end 4 8
";

const EC87: &str = "ec87a838931d4d5d2e94a04644788a55";
const SHA0: &str = "8a39d2abd3999ab73c34db2476849cddf303ce389b35826850f9a700589b4a90";

fn decode(text: &str) -> Result<Index, String> {
    Index::decode(text.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn the_golden_text_reads_and_is_written_again_to_the_byte() {
    let index = decode(GOLDEN).unwrap();
    assert_eq!(String::from_utf8(index.to_text()).unwrap(), GOLDEN);
    let targets: Vec<_> = (0..9).map(|block| index.target(block)).collect();
    let object = |id| Some(BlockContents::Object(ObjectId(id)));
    let zero = Some(BlockContents::Zero);
    assert_eq!(targets, [zero, zero, object(0), object(0), object(1), object(2), object(0), object(3), None]);
    assert_eq!(index.targets().map(Some).collect::<Vec<_>>(), targets[..8]);
    assert_eq!([0, 7, 8].map(|block| index.raw_len(block)), [Some(4096), Some(100), None]);
}

#[test]
fn the_dump_is_for_people() {
    let dump = "\
image        netbsd, serial 42, published 1795205345
disk         28772 bytes in 8 blocks of 4096
zero         2 blocks
shared       2 blocks repeat another
files        4 of 4426 bytes, from 12388 raw
file bytes   min 9, average 1106, max 4110
runs         5
";
    assert_eq!(decode(GOLDEN).unwrap().dump(), dump);
}

#[test]
fn each_damage_has_its_line_and_its_words() {
    let cases: &[(&str, &str, &str)] = &[
        // Lines and characters.
        (
            "image: netbsd\n",
            "image: netbsd\r\n",
            "2: byte 0x0d in the line; only printable ASCII may be there",
        ),
        ("netbsd", "netb\u{e9}d", "2: byte 0xc3 in the line; only printable ASCII may be there"),
        ("end 4 8\n", "end 4 8", "18: the line has no end: the file is truncated"),
        ("end 4 8\n", "", "18: the file is truncated: no `end` line"),
        ("end 4 8\n", "end 4 8\n\n", "19: more lines follow the `end` line"),
        ("end 4 8\n", "end 4 8\nx", "19: more lines follow the `end` line"),
        ("netbsd", &"n".repeat(300), "2: the line is longer than 256 bytes"),
        // The header.
        ("imgfactory-index 1", "imgfactory-index 2", {
            "1: version 2 is not supported; this program supports version 1; a newer program may read it"
        }),
        ("imgfactory-index 1", "<html>", {
            "1: begins with `<html>`; a file of this kind begins with `imgfactory-index 1`"
        }),
        ("image: netbsd", "image: ../etc", "2: `../etc` is not a name: names have 1 to 64 of a-z, 0-9 and -"),
        ("image: netbsd", "image: ", "2: `` is not a name: names have 1 to 64 of a-z, 0-9 and -"),
        (
            "image: netbsd",
            "image:  netbsd",
            "2: ` netbsd` is not a name: names have 1 to 64 of a-z, 0-9 and -",
        ),
        ("image: netbsd\n", "", "2: `serial: 42` instead of `image:`"),
        ("image: netbsd\n", "colour: red\n", "2: unknown key `colour:`; expected `image:`"),
        ("image: netbsd\n", "netbsd\n", "2: `netbsd` instead of `image:`"),
        (
            "serial: 42",
            "serial: 0",
            "3: `0` is not a serial: 1 to 9223372036854775807, without leading zeros",
        ),
        ("serial: 42", "serial: 9223372036854775808", {
            "3: `9223372036854775808` is not a serial: 1 to 9223372036854775807, without leading zeros"
        }),
        (
            "serial: 42",
            "serial: 042",
            "3: `042` is not a serial: 1 to 9223372036854775807, without leading zeros",
        ),
        (
            "serial: 42",
            "serial: +42",
            "3: `+42` is not a serial: 1 to 9223372036854775807, without leading zeros",
        ),
        ("block-size: 4096", "block-size: 4095", {
            "4: block size 4095: must be a multiple of 4096, from 4096 to 4194304"
        }),
        ("block-size: 4096", "block-size: 0", {
            "4: block size 0: must be a multiple of 4096, from 4096 to 4194304"
        }),
        ("size: 28772", "size: 0", "5: a disk of 0 bytes: must have 1 to 16777216 blocks of 4096"),
        ("size: 28772", "size: 68719480833", {
            "5: a disk of 68719480833 bytes: must have 1 to 16777216 blocks of 4096"
        }),
        ("published: 1795205345", "published: -1", {
            "6: published: `-1` is not a number: digits, without sign or leading zeros, at most 9223372036854775807"
        }),
        ("parent: 41 ", "parent: 42 ", "7: parent 42 of serial 42: a parent has a lower serial"),
        ("parent: 41 ", "parent: 41", "7: `41"),
        ("blocks: 4", "blocks: 5", "13: 4 objects; `blocks:` says 5"),
        // Objects.
        (EC87, "EC87a838931d4d5d2e94a04644788a55", {
            "9: `EC87a838931d4d5d2e94a04644788a55` is not 32 lower-case hex digits"
        }),
        (SHA0, "8a39", "9: `8a39` is not 64 lower-case hex digits"),
        ("4096 277", "4096  277", "9: `object "),
        ("4096 277", "4096", "9: `object "),
        ("4096 277", "04096 277", {
            "9: raw length: `04096` is not a number: digits, without sign or leading zeros, at most 4294967295"
        }),
        (
            "4096 277",
            "4095 277",
            "9: object 0: 4095 raw bytes; blocks of this disk have 4096, the last one 100",
        ),
        ("4096 277", "4096 8", "9: object 0: a file of 8 bytes; for 4096 raw bytes it has 9 to 4110"),
        ("4096 4110", "4096 4111", "11: object 2: a file of 4111 bytes; for 4096 raw bytes it has 9 to 4110"),
        ("0cc175b9c0f1b6a831c399e269772661", EC87, {
            "10: object 1: object 0 already has block ec87a838931d4d5d2e94a04644788a55"
        }),
        ("ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", SHA0, {
            "10: object 1: block ec87a838931d4d5d2e94a04644788a55, which has another MD5, already has SHA-256 \
             8a39d2abd3999ab73c34db2476849cddf303ce389b35826850f9a700589b4a90"
        }),
        // The map.
        ("map 2 2 0", "map 3 1 0", "14: the map continues at block 3; block 2 has no target"),
        ("map 2 2 0", "map 1 3 0", "14: a map line starts at block 1 instead of 2"),
        ("map 2 2 0", "map 2 0 0", "14: a map line of 0 blocks"),
        (
            "map 7 1 3",
            "map 7 2 3",
            "17: the map line at block 7 with 2 blocks ends after the disk, which has 8",
        ),
        ("map 7 1 3", "map 7 4294967295 3", {
            "17: the map line at block 7 with 4294967295 blocks ends after the disk, which has 8"
        }),
        ("map 7 1 3", "map 7 1 4", "17: object 4 does not exist: the index has 4 objects, numbered from 0"),
        (
            "map 4 2 1+",
            "map 4 2 4294967295+",
            "15: object 4294967296 does not exist: the index has 4 objects, numbered from 0",
        ),
        ("map 2 2 0", "map 2 2 1", "14: object 1 is used before object 0; objects are numbered by first use"),
        ("map 2 2 0", "map 2 2 x", "14: target `x`: must be `-`, an object's number, or a number and `+`"),
        ("map 2 2 0", "map 2 2 00", "14: target `00`: must be `-`, an object's number, or a number and `+`"),
        ("map 2 2 0", "map 2 2 -+", "14: target `-+`: must be `-`, an object's number, or a number and `+`"),
        ("map 6 1 0", "map 6 1 0+", "16: the map line at block 6 is not canonical: one block has no `+`"),
        ("map 0 2 -", "map 0 1 -\nmap 1 1 -", {
            "14: the map line at block 1 is not canonical: the line before it goes on here"
        }),
        ("map 2 2 0", "map 2 1 0\nmap 3 1 0", {
            "15: the map line at block 3 is not canonical: the line before it goes on here"
        }),
        ("map 4 2 1+", "map 4 1 1\nmap 5 1 2", {
            "16: the map line at block 5 is not canonical: the line before it goes on here"
        }),
        ("map 7 1 3", "map 7 1 2", "17: block 7 has 100 bytes; object 2 has 4096"),
        ("map 2 2 0\nmap 4 2 1+\nmap 6 1 0\nmap 7 1 3", "map 2 3 0+\nmap 5 1 0\nmap 6 2 3", {
            "16: block 6 has 4096 bytes; object 3 has 100"
        }),
        ("map 7 1 3\n", "", "17: the map ends at block 7; the disk has 8"),
        ("map 7 1 3", "map 7 1 -", "18: object 3 is used by no block"),
        ("map 7 1 3", "mop 7 1 3", "17: `mop 7 1 3` instead of `map` or `end`"),
        ("end 4 8", "end 4 9", "18: `end 4 9`: there are 4 objects and 8 blocks"),
        ("end 4 8", "end 4 8 ", "18: `end 4 8 ` instead of `end <objects> <blocks>`"),
    ];
    for (text, damaged, said) in cases {
        let changed = GOLDEN.replacen(text, damaged, 1);
        assert_ne!(changed, GOLDEN, "{text}");
        let error = decode(&changed).expect_err(said);
        let want = format!("index.idx:{said}");
        assert!(error == want || (said.len() < 20 && error.starts_with(&want)), "{error}\n{want}");
    }
}

#[test]
fn an_announced_number_takes_no_memory() {
    let text = GOLDEN.replace("size: 28772", "size: 68719476736").replace("blocks: 4", "blocks: 16777216");
    assert_eq!(decode(&text).unwrap_err(), {
        "index.idx:12: object 3: 100 raw bytes; blocks of this disk have 4096"
    });
}

#[test]
fn more_objects_than_blocks_are_refused_as_they_come() {
    let text = GOLDEN.replace("size: 28772", "size: 8192");
    assert_eq!(decode(&text).unwrap_err(), "index.idx:11: object 2 is used by no block");
}

#[test]
fn a_reader_that_fails_is_no_damage() {
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("gone"))
        }
    }
    let error = Index::decode(io::BufReader::new(Broken)).unwrap_err();
    assert_eq!(crate::report::report(&error), "error: index.idx:1: can't read\n  caused by: gone");
}

#[test]
fn assembling_says_what_does_not_fit() {
    let header = || decode(GOLDEN).unwrap().header().clone();
    let object = |n: u8, sha: u8, raw_len| Object {
        name: BlockName([n; 16]),
        sha256: Sha256([sha; 32]),
        raw_len,
        file_len: 20,
    };
    let blocks = |list: &[Option<Object>]| {
        Index::assemble(header(), list.iter().copied()).map_err(|fault| fault.to_string())
    };
    let full = Some(object(1, 1, 4096));
    for (list, said) in [
        (vec![full; 7], "the map ends at block 7; the disk has 8"),
        (vec![full; 9], "the map line at block 8 with 1 blocks ends after the disk, which has 8"),
        (vec![full; 8], "block 7 has 100 bytes; object 0 has 4096"),
        (vec![full, Some(object(1, 2, 4096))], {
            "object 1: object 0 already has block 01010101010101010101010101010101"
        }),
        (vec![full, Some(object(2, 1, 4096))], {
            "object 1: block 01010101010101010101010101010101, which has another MD5, already has SHA-256 \
             0101010101010101010101010101010101010101010101010101010101010101"
        }),
    ] {
        assert_eq!(blocks(&list).unwrap_err(), said);
    }
    let tail = Some(object(2, 2, 100));
    assert!(blocks(&[full, full, full, full, full, full, full, tail]).is_ok());
}

#[test]
fn the_plain_list_names_every_block_and_comes_back() {
    let index = decode(GOLDEN).unwrap();
    let mut list = Vec::new();
    plain::export(&index, &mut list).unwrap();
    let text = String::from_utf8(list).unwrap();
    let zeros = "620f0b67a91f7f74151bc5be745b7110";
    assert_eq!(BlockName::of_zeros(4096).to_string(), zeros);
    let names = [
        zeros,
        zeros,
        EC87,
        EC87,
        "0cc175b9c0f1b6a831c399e269772661",
        "92eb5ffee6ae2fec3ad71c777531578f",
        EC87,
        "4a8a08f09d37b73795649038408b5f33",
    ];
    let lines: Vec<_> = (0..8).zip(names).map(|(block, name)| format!("{block:08x} {name}\n")).collect();
    assert_eq!(text, lines.concat());
    let back: Vec<_> = plain::import(text.as_bytes()).unwrap().iter().map(BlockName::to_string).collect();
    assert_eq!(back, names);

    for (damaged, said) in [
        (text.replace("00000003", "00000004"), "4: block `00000004` instead of 00000003"),
        (text.replace("00000003", "3"), "4: block `3` instead of 00000003"),
        (text.replace(' ', "\t"), "1: byte 0x09 in the line; only printable ASCII may be there"),
        (String::new(), "1: contains no block"),
    ] {
        let error = plain::import(damaged.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), format!("block list:{said}"));
    }
}

prop_compose! {
    /// Disks of up to 60 blocks of few contents, so that runs of each kind come about.
    fn disks()(
        blocks in proptest::collection::vec(0_u8..12, 1..60),
        tail in 0_u32..4096,
        serial in 1_u64..(1 << 63),
        parent in any::<Option<[u8; 32]>>(),
    ) -> Index {
        let count = blocks.len() as u64;
        let size = count * 4096 - u64::from(tail);
        let parent = parent.filter(|_| serial > 1);
        let header = Header {
            image: "a-0".parse().unwrap(),
            serial: Serial::new(serial).unwrap(),
            block_size: BlockSize::new(4096).unwrap(),
            size,
            published: UnixTime(serial / 3),
            parent: parent.map(|sha256| Parent { serial: Serial::FIRST, sha256: Sha256(sha256) }),
        };
        let last = blocks.len() - 1;
        let object = |(number, content): (usize, &u8)| {
            let short = number == last && tail > 0;
            let id = if short { 99 } else { *content };
            (*content > 0).then(|| Object {
                name: BlockName([id; 16]),
                sha256: Sha256([id; 32]),
                raw_len: if short { 4096 - tail } else { 4096 },
                file_len: 9 + u32::from(id),
            })
        };
        // The file of a tail of a few bytes is not longer than its bound.
        let fits = |object: &Object| object.file_len <= crate::block::max_file_len(object.raw_len);
        let objects = blocks.iter().enumerate().map(object).map(|object| object.filter(fits));
        Index::assemble(header, objects).unwrap()
    }
}

proptest! {
    #[test]
    fn every_index_comes_back_from_its_text(index in disks()) {
        let text = index.to_text();
        prop_assert_eq!(&Index::decode(&text[..]).unwrap(), &index);
        let targets: Vec<_> = (0..index.block_count()).filter_map(|block| index.target(block)).collect();
        prop_assert_eq!(targets, index.targets().collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_text_is_an_error_or_says_what_it_says(
        index in disks(),
        at in any::<proptest::sample::Index>(),
        with in prop_oneof![proptest::string::string_regex("[ -~\n]{0,3}").unwrap().prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..3)],
        cut in 0_usize..3,
    ) {
        let mut text = index.to_text();
        let at = at.index(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, with);
        // What is accepted is canonical: it is written again to the same bytes.
        if let Ok(read) = Index::decode(&text[..]) {
            prop_assert_eq!(read.to_text(), text);
        }
    }

    #[test]
    fn lines_in_another_order_are_errors(
        index in disks(), from in any::<proptest::sample::Index>(), to in any::<proptest::sample::Index>(),
    ) {
        let text = String::from_utf8(index.to_text()).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        let line = lines.remove(from.index(lines.len()));
        lines.insert(to.index(lines.len() + 1), line);
        let moved = lines.join("\n") + "\n";
        if let Ok(read) = Index::decode(moved.as_bytes()) {
            prop_assert_eq!(read.to_text(), moved.into_bytes());
        }
    }
}
