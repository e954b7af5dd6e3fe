//! Media of others: ISO 9660 with Rock Ridge and zisofs, cloop, FAT.

use std::io::{self, Cursor, Read, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use imgfactory::foreign::cloop::Cloop;
use imgfactory::foreign::fat;
use imgfactory::foreign::iso9660::Iso;
use imgfactory::tree::SpoolId;

use crate::Target;

fn deflated(raw: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(raw).unwrap();
    encoder.finish().unwrap()
}

fn both(value: u32) -> Vec<u8> {
    [value.to_le_bytes(), value.to_be_bytes()].concat()
}

/// A system use field.
fn field(name: &[u8; 2], data: &[u8]) -> Vec<u8> {
    [&name[..], &[u8::try_from(data.len() + 4).unwrap(), 1], data].concat()
}

/// PX: type and mode, links, owner, group.
fn px(mode: u32) -> Vec<u8> {
    field(b"PX", &[both(mode), both(1), both(0), both(5)].concat())
}

fn nm(name: &str) -> Vec<u8> {
    field(b"NM", &[b"\0", name.as_bytes()].concat())
}

/// A directory record.
fn record(name: &[u8], block: u32, len: u32, flags: u8, area: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both(block));
    record.extend(both(len));
    record.extend([124, 2, 29, 12, 0, 1, 4, flags, 0, 0, 1, 0, 0, 1]);
    record.push(name.len() as u8);
    record.extend(name);
    if name.len().is_multiple_of(2) {
        record.push(0);
    }
    record.extend(area);
    record.resize(record.len().next_multiple_of(2), 0);
    record[0] = u8::try_from(record.len()).unwrap();
    record
}

/// A directory of these records, in whole blocks.
fn directory(own: u32, blocks: u32, records: &[Vec<u8>]) -> Vec<u8> {
    let susp = [field(b"SP", b"\xbe\xef\0"), px(0o40_755)].concat();
    let mut bytes = record(b"\0", own, blocks * 2048, 2, &susp);
    bytes.extend(record(b"\x01", own, blocks * 2048, 2, b""));
    for record in records {
        if bytes.len() % 2048 + record.len() > 2048 {
            bytes.resize(bytes.len().next_multiple_of(2048), 0);
        }
        bytes.extend(record);
    }
    assert!(bytes.len() <= blocks as usize * 2048);
    bytes.resize(blocks as usize * 2048, 0);
    bytes
}

/// A medium whose root is at block 20, with what is from there on.
fn medium(root_blocks: u32, after: &[Vec<u8>]) -> Vec<u8> {
    let mut primary = vec![0; 2048];
    primary[..8].copy_from_slice(b"\x01CD001\x01\0");
    primary[128..132].copy_from_slice(&[0, 8, 8, 0]);
    primary[156..190].copy_from_slice(&record(b"\0", 20, root_blocks * 2048, 2, b""));
    let mut boot = b"\0CD001\x01EL TORITO SPECIFICATION".to_vec();
    boot.resize(71, 0);
    boot.extend(19_u32.to_le_bytes());
    boot.resize(2048, 0);
    let mut end = b"\xffCD001\x01".to_vec();
    end.resize(2048, 0);
    let mut catalog = vec![0; 2048];
    catalog[0] = 1;
    catalog[32] = 0x88;
    catalog[38] = 4;
    catalog[40] = 30;
    let mut medium = vec![0; 16 * 2048];
    for block in [&primary, &boot, &end, &catalog].into_iter().chain(after) {
        medium.extend(block);
        medium.resize(medium.len().next_multiple_of(2048), 0);
    }
    medium
}

/// Rock Ridge's fields, a moved directory, a continuation, a file in pieces, one that zisofs has packed.
fn rock_ridge() -> Vec<u8> {
    let raw = [vec![1; 40_000], vec![0; 32_768], vec![2; 100]].concat();
    let mut packed = b"\x37\xe4\x53\x96\xc9\xdb\xd6\x07".to_vec();
    packed.extend((raw.len() as u32).to_le_bytes());
    packed.extend([4, 15, 0, 0]);
    let pieces: Vec<Vec<u8>> = raw
        .chunks(32_768)
        .map(|raw| if raw.iter().all(|b| *b == 0) { vec![] } else { deflated(raw) })
        .collect();
    let mut at = 16 + 4 * (pieces.len() as u32 + 1);
    packed.extend(at.to_le_bytes());
    for piece in &pieces {
        at += piece.len() as u32;
        packed.extend(at.to_le_bytes());
    }
    packed.extend(pieces.concat());
    let zf = field(b"ZF", &[&b"pz\x04\x0f"[..], &both(raw.len() as u32)].concat());
    let sl = field(b"SL", b"\0\x08\0\0\x03usr\x04\0\x01\x01l\0\x01x");
    let pn = field(b"PN", &[both(0), both(0x0801)].concat());
    let tf = field(b"TF", &[b"\x83".as_slice(), b"2024022912000150\xfc", b"2024022912000150\xfc"].concat());
    let ce = field(b"CE", &[both(23), both(0), both(14)].concat());
    let cl = field(b"CL", &both(22));
    let re = field(b"RE", b"");
    let root = [
        record(b"SUB", 21, 2048, 2, &[px(0o40_755), nm("sub")].concat()),
        record(b"LINK;1", 0, 0, 0, &[px(0o120_777), nm("link"), sl].concat()),
        record(b"DISK.;1", 0, 0, 0, &[px(0o60_660), nm("disk"), pn].concat()),
        record(b"README.TXT;1", 24, 2048, 0x80, &[px(0o100_644), tf].concat()),
        record(b"README.TXT;1", 25, 100, 0, &px(0o100_644)),
        record(b"LONG.;1", 25, 10, 0, &[px(0o100_600), ce].concat()),
        record(b"PACKED.;1", 26, packed.len() as u32, 0, &[px(0o100_755), nm("packed"), zf].concat()),
        record(b"MOVED", 25, 10, 0, &[nm("moved"), cl].concat()),
    ];
    let sub = [record(b"A.;1", 24, 5, 0, &[px(0o100_644), nm("a")].concat())];
    let below = [record(b"B.;1", 24, 5, 0, &[px(0o100_644), nm("b"), re].concat())];
    let continuation = [nm("a long name").as_slice(), &[0; 20]].concat();
    medium(
        1,
        &[
            directory(20, 1, &root),
            directory(21, 1, &sub),
            directory(22, 1, &below),
            continuation,
            vec![b'x'; 2048],
            vec![b'y'; 2048],
            packed,
        ],
    )
}

/// Twelve directories, each of which has the next one eight times: 8^12 files.
fn doubled() -> Vec<u8> {
    let directories: Vec<Vec<u8>> = (20..32)
        .map(|own| {
            let record = |nth| record(format!("D{nth}").as_bytes(), own + 1, 2048, 2, b"");
            let count = if own < 31 { 8 } else { 0 };
            directory(own, 1, &(0..count).map(record).collect::<Vec<_>>())
        })
        .collect();
    medium(1, &directories)
}

/// Many records that go on in one long area, which is a link's target or a name.
fn shared_continuation(piece: &[u8]) -> Vec<u8> {
    let count = 64_000 / piece.len();
    let area = piece.repeat(count);
    let ce = field(b"CE", &[both(20 + 100), both(0), both(area.len() as u32)].concat());
    let record =
        |nth: u32| record(format!("{nth}").as_bytes(), 0, 0, 0, &[px(0o120_777), ce.clone()].concat());
    medium(100, &[directory(20, 100, &(0..1500).map(record).collect::<Vec<_>>()), area])
}

#[test]
fn fuzz_iso9660() {
    const WORDS: [&[u8]; 16] = [
        b"NM",
        b"SL",
        b"CE",
        b"CL",
        b"RE",
        b"ZF",
        b"PX",
        b"PN",
        b"TF",
        b"ST",
        b"SP",
        b"pz",
        b"\x22\0",
        b"\xff\xff",
        b"PLAN 9",
        b"\x14\0\0\0\0\0\0\x14",
    ];
    let mut plan9 = rock_ridge();
    plan9[16 * 2048 + 8..16 * 2048 + 14].copy_from_slice(b"PLAN 9");
    let seeds = vec![rock_ridge(), plan9];
    assert!(read_iso(&seeds[0]).starts_with("accepted"), "{}", read_iso(&seeds[0]));
    let (link, name) = (field(b"SL", &[b"\0\0\xf0".as_slice(), &[b'x'; 240]].concat()), nm(&"x".repeat(250)));
    let name = [name[..4].to_vec(), vec![1], name[5..].to_vec()].concat();
    let cases = vec![doubled(), shared_continuation(&link), shared_continuation(&name)];
    Target::new("iso", seeds).cases(cases).in_place().words(&WORDS).fuzz(read_iso);
}

fn read_iso(bytes: &[u8]) -> String {
    let medium = bytes.to_vec();
    let iso = match Iso::open(&medium) {
        Ok(iso) => iso,
        Err(error) => return error.to_string(),
    };
    let _ = (iso.boot(), iso.file("sub/a", 10_000), iso.find("moved/b"));
    let imported = match iso.import(SpoolId(0)) {
        Ok(imported) => imported,
        Err(error) => return error.to_string(),
    };
    for (_, packed) in &imported.packed {
        if let Err(error) = packed.unpack(&medium, &mut io::sink()) {
            return error.to_string();
        }
    }
    format!("accepted: {}", imported.tree.nodes().len())
}

fn xz(raw: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    liblzma::read::XzEncoder::new(raw, 0).read_to_end(&mut packed).unwrap();
    packed
}

/// A cloop file of three blocks; each way to pack one where the version knows them.
fn cloop(version: &str) -> Vec<u8> {
    let raw = [vec![1; 4096], vec![2; 4096], vec![3; 4096]];
    let new = version == "V4.0";
    let blocks = match new {
        true => [(0, deflated(&raw[0])), (1, raw[1].clone()), (2, xz(&raw[2]))],
        false => [0, 1, 2].map(|nth| (0, deflated(&raw[nth]))),
    };
    let mut file = format!("#!/bin/sh\n#{version} Format\n").into_bytes();
    file.resize(128, b'\n');
    file.extend(4096_u32.to_be_bytes());
    file.extend(3_u32.to_be_bytes());
    let mut at = 136 + 4 * if new { 8 } else { 4_u64 };
    for (how, len) in blocks.iter().map(|(how, packed)| (*how, packed.len() as u64)).chain([(0, 0)]) {
        match new {
            true => file.extend((at | how << 60).to_be_bytes()),
            false => file.extend((at as u32).to_be_bytes()),
        }
        at += len;
    }
    file.extend(blocks.into_iter().flat_map(|(_, packed)| packed));
    file
}

#[test]
fn fuzz_cloop() {
    let seeds = vec![cloop("V2.0"), cloop("V4.0")];
    // A block has 4 MiB at most, and is unpacked whole.
    Target::new("cloop", seeds).in_place().once(5 << 20).per_byte(128).fuzz(|bytes| {
        let file = bytes.to_vec();
        let cloop = match Cloop::open(&file) {
            Ok(cloop) => cloop,
            Err(error) => return error.to_string(),
        };
        let unpacked = (0..cloop.blocks()).try_for_each(|block| cloop.block(block).map(drop));
        unpacked.map_or_else(|error| error.to_string(), |()| format!("accepted: {}", cloop.size()))
    });
}

#[test]
fn fuzz_fat() {
    let volume = |sectors: u32| {
        let mut disk = Cursor::new(vec![0; sectors as usize * 512]);
        let options = fatfs::FormatVolumeOptions::new().total_sectors(sectors).bytes_per_cluster(512);
        fatfs::format_volume(&mut disk, options).unwrap();
        let files =
            fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new().time_provider(&fat::Epoch)).unwrap();
        for (name, len) in [("other file with a long name", 3000), ("plan9.ini", 1200)] {
            files.root_dir().create_file(name).unwrap().write_all(&vec![b'x'; len]).unwrap();
        }
        drop(files);
        disk.into_inner()
    };
    // As Plan 9 writes it.
    let mut both = volume(100);
    both[32..36].copy_from_slice(&100_u32.to_le_bytes());
    let seeds = vec![volume(100), volume(9000), both];
    // Two tables of 2^31 sectors are more than 32 bits count.
    let mut large = volume(100);
    large[17..24].fill(0);
    large[32..44].copy_from_slice(b"\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0");
    Target::new("fat", seeds).cases(vec![large]).in_place().fuzz(|bytes| {
        let medium = bytes.to_vec();
        let len = medium.len() as u64;
        match fat::rewrite(&medium, (0, len), "plan9.ini", |old| format!("{} bytes\n", old.len())) {
            Ok(Some(patches)) => {
                assert!(patches.iter().all(|(at, bytes)| at + bytes.len() as u64 <= len));
                format!("accepted: {}", patches.len())
            }
            Ok(None) => "no such file".into(),
            Err(error) => error.to_string(),
        }
    });
}
