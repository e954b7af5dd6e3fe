use super::*;

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

fn decode(text: &str) -> Result<Index, String> {
    Index::decode(text.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn the_golden_text_reads_and_is_written_again_to_the_byte() {
    let index = decode(GOLDEN).unwrap();
    assert_eq!(String::from_utf8(index.to_text()).unwrap(), GOLDEN);
    let targets: Vec<_> = (0..9).map(|block| index.target(block)).collect();
    let object = |id| Some(Target::Object(ObjectId(id)));
    let zero = Some(Target::Zero);
    assert_eq!(targets, [zero, zero, object(0), object(0), object(1), object(2), object(0), object(3), None]);
    assert_eq!(index.targets().map(Some).collect::<Vec<_>>(), targets[..8]);
    assert_eq!([0, 7, 8].map(|block| index.raw_len(block)), [Some(4096), Some(100), None]);
}
