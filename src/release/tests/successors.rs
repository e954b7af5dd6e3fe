use formats::release::{Document, MirrorPath, Successors, TrustedKeys, Verified};

use crate::release::SigningKey;

#[test]
fn a_key_names_its_successors_and_each_damage_is_told() {
    let (old, new) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let keys = Successors { name: "demo".parse().unwrap(), keys: vec![new.public_base64()] };
    let trusted = TrustedKeys::parse(&old.public_text()).unwrap();
    let opened = Verified::<Successors>::open(&old.sign(&keys).unwrap(), &trusted).unwrap();
    assert_eq!((&*opened, opened.key()), (&keys, old.id()));
    let both = trusted.with(&opened.trusted());
    assert_eq!(both.ids().collect::<Vec<_>>(), [old.id(), new.id()]);
    assert_eq!(both.with(&trusted).ids().count(), 2);
    assert!(Verified::<Successors>::open(&new.sign(&keys).unwrap(), &trusted).is_err());
    let path = MirrorPath::Keys(old.id());
    assert_eq!(path.to_string().parse::<MirrorPath>().unwrap(), path);
    for wrong in ["keys/x.txt", "keys/0000.txt", "keys/ab00000000000000.txt", "keys/../x.txt"] {
        assert!(wrong.parse::<MirrorPath>().is_err(), "{wrong}");
    }

    let text = keys.to_text();
    let key = format!("key {}\n", new.public_base64());
    for (from, to) in [(&key[..], ""), (&key, "key RWQ\n"), (&key, &key.repeat(2)), ("end\n", "end\nx\n")] {
        let changed = text.replace(from, to);
        assert!(Successors::decode_text(changed.as_bytes()).is_err(), "{changed}");
    }
}
