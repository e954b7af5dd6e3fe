//! cloop files, packed by an encoder that knows the format from its description, and by Debian's own: read back,
//! damaged in every way.

use std::fs;
use std::io::{self, Write};
use std::process::Command;

use imgfactory::ext2::ReadAt;
use imgfactory::foreign::cloop::{Cloop, CloopError};
use proptest::prelude::*;

use crate::support;

struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let part = start.checked_add(buf.len()).and_then(|end| self.0.get(start..end));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// Offsets of 4 bytes.
    Old(&'static str),
    /// Offsets of 8 bytes.
    First(&'static str),
    /// Everything but the blocks at the end.
    Last,
}

const BLOCK: usize = 4096;

fn deflated(raw: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(raw).unwrap();
    encoder.finish().unwrap()
}

fn packed(disk: &[u8], form: Form) -> Vec<u8> {
    let blocks: Vec<(u64, Vec<u8>)> = disk
        .chunks(BLOCK)
        .enumerate()
        .map(|(nth, raw)| match (form, nth % 3) {
            (Form::Last | Form::First("V4.0"), 1) => (1, raw.to_vec()),
            (Form::Last | Form::First("V4.0"), 2) => (2, support::release::xz(raw)),
            _ => (0, deflated(raw)),
        })
        .collect();
    let version = match form {
        Form::Old(version) | Form::First(version) => version,
        Form::Last => "V4.0",
    };
    let mut head = format!("#!/bin/sh\n#{version} Format\nmodprobe cloop file=$0").into_bytes();
    head.resize(128, b'\n');
    head.extend((BLOCK as u32).to_be_bytes());
    head.extend((blocks.len() as u32).to_be_bytes());
    let width = if let Form::Old(_) = form { 4 } else { 8 };
    let mut at = if form == Form::Last { 0 } else { head.len() + (blocks.len() + 1) * width } as u64;
    let mut index = Vec::new();
    for (how, bytes) in blocks.iter().map(|(how, bytes)| (*how, bytes.len())).chain([(0, 0)]) {
        match width {
            4 => index.extend((at as u32).to_be_bytes()),
            _ => index.extend((at | how << 60).to_be_bytes()),
        }
        at += bytes as u64;
    }
    let data: Vec<u8> = blocks.into_iter().flat_map(|(_, bytes)| bytes).collect();
    match form {
        Form::Last => [data, index, head].concat(),
        _ => [head, index, data].concat(),
    }
}

fn disk(blocks: usize) -> Vec<u8> {
    (0..blocks * BLOCK).map(|at| (at / 7 * at % 251) as u8).collect()
}

fn unpacked(file: Vec<u8>) -> Result<Vec<u8>, CloopError> {
    let file = Bytes(file);
    let cloop = Cloop::open(&file)?;
    let mut disk = Vec::new();
    for block in 0..cloop.blocks() {
        disk.extend(cloop.block(block)?);
    }
    assert_eq!(disk.len() as u64, cloop.size());
    Ok(disk)
}

#[test]
fn every_format_gives_its_disk_again() {
    let disk = disk(11);
    for form in [
        Form::Old("V0.6"),
        Form::Old("V1.0"),
        Form::First("V0.6"),
        Form::First("V2.0"),
        Form::First("V3.0"),
        Form::First("V4.0"),
        Form::Last,
    ] {
        assert!(unpacked(packed(&disk, form)).unwrap() == disk, "{form:?}");
    }
}

#[test]
fn what_debians_encoder_makes_is_read() {
    let room = tempfile::tempdir().unwrap();
    let (raw, cloop) = (room.path().join("raw"), room.path().join("cloop"));
    fs::write(&raw, disk(64)).unwrap();
    let out = Command::new("create_compressed_fs").args(["-B", "65536"]).arg(&raw).arg(&cloop).output();
    let out =
        out.unwrap_or_else(|error| panic!("create_compressed_fs is needed (package cloop-utils): {error}"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(unpacked(fs::read(&cloop).unwrap()).unwrap() == disk(64));
}

#[test]
fn each_damage_has_its_name() {
    let good = packed(&disk(3), Form::First("V2.0"));
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        unpacked(file).unwrap_err().to_string()
    };
    let first = 136 + 4 * 8;
    assert_eq!(
        changed(11, b"X"),
        "not a cloop file: neither its start nor its end has the text of format V0 to V4"
    );
    assert_eq!(unpacked(vec![]).unwrap_err().to_string(), changed(11, b"X"));
    assert_eq!(
        changed(128, &[0, 0, 2, 1]),
        "3 blocks of 513 bytes; supported are multiples of 512 up to 4 MiB, and up to 2^24 blocks"
    );
    assert_eq!(changed(132, &[0xff; 4]).split(';').next().unwrap(), "4294967295 blocks of 4096 bytes");
    assert_eq!(changed(136 + 7, &[1]), "damaged index: it places the first block at byte 1");
    let said = changed(136 + 8, &[0; 8]);
    assert_eq!(said, format!("damaged index: it places block 0 from byte {first} to byte 0"));
    assert_eq!(changed(first, &[0xff; 2]), format!("block 0 at byte {first} is damaged"));
    let said = unpacked(good[..good.len() - 1].to_vec()).unwrap_err().to_string();
    assert_eq!(said, format!("truncated: the file has {} bytes instead of {}", good.len() - 1, good.len()));

    let mut other = packed(&disk(2), Form::First("V4.0"));
    other[136] = 0x40;
    assert_eq!(
        unpacked(other).unwrap_err().to_string(),
        "block 0: compression method lzo is not supported; supported are zlib, xz and none"
    );
    // A block that unpacks to something shorter: the second half of a disk of half blocks.
    let mut short = packed(&disk(2), Form::First("V2.0"));
    short[128..132].copy_from_slice(&8192u32.to_be_bytes());
    let said = unpacked(short).unwrap_err().to_string();
    assert!(said.ends_with("is damaged: it unpacks to 4096 bytes or more, not 8192"), "{said}");
}

/// A stream of xz says how large its dictionary is.
#[test]
fn a_block_that_asks_for_gigabytes_is_refused() {
    let mut file = packed(&disk(3), Form::First("V4.0"));
    // The block's header is behind the stream's 12 bytes: size, flags, filter, size of what it says, dictionary.
    let at = file.windows(6).position(|window| window == b"\xfd7zXZ\0").unwrap() + 12;
    let end = at + usize::from(file[at]) * 4;
    assert_eq!(file[at + 1..at + 4], [0, 0x21, 1]);
    file[at + 4] = 40;
    let mut sum = flate2::Crc::new();
    sum.update(&file[at..end]);
    file[end..end + 4].copy_from_slice(&sum.sum().to_le_bytes());
    let error = unpacked(file).unwrap_err();
    assert!(matches!(error, CloopError::Block { block: 2, .. }), "{error:?}");
}

proptest! {
    #[test]
    fn damage_anywhere_is_an_error_or_the_same_disk_and_never_a_panic(
        at in 0usize..20_000, bit in 0u32..8, cut in 0usize..20_000, last: bool,
    ) {
        let form = if last { Form::Last } else { Form::First("V2.0") };
        let disk = disk(5);
        let file = packed(&disk, form);
        let at = at % file.len();
        let mut damaged = file.clone();
        damaged[at] ^= 1 << bit;
        let found = unpacked(damaged);
        // zlib has sums; a block that is not packed has none, nor has the head.
        if !last && at >= 136 + 6 * 8 && let Ok(found) = found {
            prop_assert!(found == disk, "another disk, by bit {} of byte {}", bit, at);
        }
        prop_assert!(unpacked(file[..cut % file.len()].to_vec()).is_err());
    }
}
