//! Two times 128 bytes with one MD5 (Wang, Feng, Lai, Yu: *Collisions for Hash Functions MD4, MD5, HAVAL-128 and
//! RIPEMD*, 2004). With the same bytes after them they still have one MD5.

use formats::block::BlockName;
use formats::digest::Sha256;

const ONE: &str = "\
    d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f89\
    55ad340609f4b30283e488832571415a085125e8f7cdc99fd91dbdf280373c5b\
    d8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0\
    e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70";

/// Bytes at which the second differs, by their top bit.
const DIFFERENCES: [usize; 6] = [19, 45, 59, 83, 109, 123];

/// Two blocks with one MD5 (Wang and others, 2004), for tests of collisions.
pub(crate) fn pair() -> [Vec<u8>; 2] {
    let byte = |at: usize| u8::from_str_radix(&ONE[2 * at..2 * at + 2], 16).unwrap();
    let one: Vec<u8> = (0..128).map(byte).collect();
    let mut two = one.clone();
    for at in DIFFERENCES {
        two[at] ^= 0x80;
    }
    assert_eq!(BlockName::of(&one).to_string(), "79054025255fb1a26e4bc422aef54eb4");
    assert_eq!(BlockName::of(&one), BlockName::of(&two));
    assert_ne!(Sha256::of(&one), Sha256::of(&two));
    [one, two]
}

/// The pair, each followed by the same bytes up to `len`.
pub(crate) fn blocks(len: usize, fill: u8) -> [Vec<u8>; 2] {
    pair().map(|mut raw| {
        raw.resize(len, fill);
        raw
    })
}
