use formats::block::*;
use formats::digest::Sha256;
use proptest::prelude::*;

use super::*;

static ZEROS: [u8; 262_144] = [0; 262_144];

/// Bytes that no compressor makes shorter: xorshift64.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

/// Text that compresses as a disk's blocks do, to a third or so.
fn text(len: usize) -> Vec<u8> {
    noise(len / 4).iter().flat_map(|byte| format!("{byte:04x}").into_bytes()).take(len).collect()
}

fn object_of(raw: &[u8], file: &[u8]) -> Object {
    Object {
        name: BlockName::of(raw),
        sha256: Sha256::of(raw),
        raw_len: raw.len().try_into().unwrap(),
        file_len: file.len().try_into().unwrap(),
    }
}

fn zlib(level: u8) -> Compressor {
    Compressor::new(Codec::zlib(level).unwrap())
}

#[test]
fn stock_zlib_gives_the_sizes_of_the_papers_table_2() {
    let mut zlib = zlib(6);
    assert_eq!(zlib.compress(&ZEROS).len(), 277);
    assert_eq!(zlib.compress(&noise(262_144)).len(), 262_230);
    assert_eq!(max_file_len(262_144), 262_237);
    // As Debian's zlib 1.2.13 has it; another one (a fork, or flate2 with another backend) compresses otherwise.
    assert_eq!(
        Sha256::of(&zlib.compress(&text(262_144))).to_string(),
        "543f6b8cf69efff1687a7beb4a8970e78e1f53dfb78617968d9e10d1ecc004e3"
    );
}

#[test]
fn a_block_of_zeros_has_its_well_known_name() {
    let name = BlockName::of(&ZEROS);
    assert_eq!(name.to_string(), "ec87a838931d4d5d2e94a04644788a55");
    assert_eq!(name.path(), "blk/ec/ec87a838931d4d5d2e94a04644788a55");
    for len in [1, 4095, 4096, 4097, 262_144] {
        assert_eq!(BlockName::of_zeros(len), BlockName::of(&ZEROS[..len]), "{len}");
    }
}

#[test]
fn every_codec_and_level_comes_back_and_fits_its_bound() {
    let codecs = (1..=12).map(|level| Codec::libdeflate(level).unwrap());
    let codecs = codecs.chain((1..=9).map(|level| Codec::zlib(level).unwrap()));
    for codec in codecs {
        let mut compressor = Compressor::new(codec);
        for raw in [vec![0], noise(4096), text(8192), noise(70_000)] {
            let file = compressor.compress(&raw);
            assert!(file.len() <= max_file_len(raw.len() as u32) as usize, "{codec:?}");
            let object = object_of(&raw, &file);
            let block = FetchedFile::new(object, &file).inflate().unwrap().verify().unwrap();
            assert_eq!(block.bytes(), raw, "{codec:?}");
        }
    }
}

#[test]
fn a_level_that_is_not_there_is_refused() {
    assert_eq!(Codec::libdeflate(13).unwrap_err().to_string(), "level 13: libdeflate has 1 to 12");
    assert_eq!(Codec::zlib(0).unwrap_err().to_string(), "level 0: zlib has 1 to 9");
    assert_eq!(Codec::default(), Codec::libdeflate(5).unwrap());
}

#[test]
fn each_damage_has_its_name() {
    let raw = text(8192);
    let file = Compressor::new(Codec::default()).compress(&raw);
    let good = object_of(&raw, &file);
    let name = good.name;
    let end = file.len();
    let changed = |at: usize| {
        let mut file = file.clone();
        file[at] ^= 0x10;
        file
    };
    let other = text(8200)[8..].to_vec();
    let other_file = Compressor::new(Codec::default()).compress(&other);
    let as_long = |file: &[u8]| Object { file_len: file.len() as u32, ..good };

    let mut trailing = file.clone();
    trailing.extend(*b"xy");
    let cases: [(Object, Vec<u8>, String); 12] = [
        (good, file[..end - 1].to_vec(), format!("the file has {} bytes; the index says {end}", end - 1)),
        (good, vec![], format!("the file has 0 bytes; the index says {end}")),
        (as_long(&file[..end - 1]), file[..end - 1].to_vec(), "the zlib stream is truncated".into()),
        (as_long(&[]), vec![], "the zlib stream is truncated".into()),
        (as_long(&trailing), trailing, "2 bytes follow the end of the zlib stream".into()),
        (good, changed(0), "not a zlib stream, or damaged inside".into()),
        (good, changed(end - 1), "the zlib checksum at its end is wrong".into()),
        (
            as_long(b"<html>404</html>"),
            b"<html>404</html>".to_vec(),
            "not a zlib stream, or damaged inside".into(),
        ),
        (Object { raw_len: 8191, ..good }, file.clone(), {
            "inflates to more than the 8191 bytes that the index says".into()
        }),
        (Object { raw_len: 8193, ..good }, file.clone(), {
            "inflates to 8192 bytes; the index says 8193".into()
        }),
        (
            as_long(&other_file),
            other_file,
            format!("holds another block, whose MD5 is {}", BlockName::of(&other)),
        ),
        (Object { sha256: Sha256([7; 32]), ..good }, file.clone(), {
            let sha = Sha256::of(&raw);
            format!("forged: its MD5 is right, but its SHA-256 is {sha}; the index says {}", Sha256([7; 32]))
        }),
    ];
    for (object, bytes, said) in cases {
        let damage = FetchedFile::new(object, bytes).inflate().and_then(Inflated::verify).unwrap_err();
        assert_eq!(damage.to_string(), format!("block {name}: {said}"));
    }
}

#[test]
fn hex_is_lower_case_and_complete() {
    let hex = "ec87a838931d4d5d2e94a04644788a55";
    assert_eq!(hex.parse::<BlockName>().unwrap().to_string(), hex);
    for bad in ["", "ec", "EC87a838931d4d5d2e94a04644788a55", "ec87a838931d4d5d2e94a04644788a5g"] {
        let said = format!("`{bad}` is not 32 lower-case hex digits");
        assert_eq!(bad.parse::<BlockName>().unwrap_err().to_string(), said);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_file_never_becomes_another_block(
        raw in proptest::collection::vec(0_u8..4, 1..6000),
        at in any::<proptest::sample::Index>(),
        xor in 1_u8..,
    ) {
        let mut file = Compressor::new(Codec::default()).compress(&raw);
        let object = object_of(&raw, &file);
        let at = at.index(file.len());
        file[at] ^= xor;
        match FetchedFile::new(object, file).inflate().and_then(Inflated::verify) {
            Ok(block) => prop_assert_eq!(block.bytes(), raw),
            Err(damage) => {
                let place = format!("block {}: ", object.name);
                prop_assert!(damage.to_string().starts_with(&place));
            }
        }
    }

    #[test]
    fn whatever_comes_is_a_damage_and_no_panic(
        file in proptest::collection::vec(any::<u8>(), 0..300), raw_len in 1_u32..8192,
    ) {
        let object = Object { raw_len, file_len: file.len() as u32, ..object_of(b"x", &file) };
        prop_assert!(FetchedFile::new(object, file).inflate().and_then(Inflated::verify).is_err());
    }
}
