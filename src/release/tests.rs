use super::*;
use crate::index::{ImageName, Serial, UnixTime};

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn serial(number: u64) -> Serial {
    Serial::new(number).unwrap()
}

fn latest() -> Latest {
    Latest {
        name: name("xenoppix"),
        serial: serial(42),
        release: Digest { sha256: Sha256([1; 32]), len: 600 },
        mirrors: Digest { sha256: Sha256([2; 32]), len: 500 },
        published: UnixTime(1_795_205_345),
        expires: UnixTime(1_795_810_145),
        min_serial: serial(40),
    }
}

#[test]
fn what_our_key_signed_is_believed_and_nothing_else() {
    let key = SigningKey::generate().unwrap();
    let keys = TrustedKeys::parse(&key.public_text()).unwrap();
    let file = key.sign(&latest()).unwrap();
    let opened = Verified::<Latest>::open(&file, &keys).unwrap();
    assert_eq!(*opened, latest());
    assert_eq!(opened.key(), key.id());
    assert_eq!(opened.trusted_comment(), "imgfactory xenoppix latest serial 42");

    let other = SigningKey::generate().unwrap();
    let strangers = TrustedKeys::parse(&other.public_base64()).unwrap();
    let error = Verified::<Latest>::open(&file, &strangers).unwrap_err();
    let said =
        format!("latest: signed by key {}, which is not trusted here; trusted: {}", key.id(), other.id());
    assert_eq!(error.to_string(), said);
}
