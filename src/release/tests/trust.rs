//! Signatures, keys, and the chain from the pointer down to an index.

use formats::digest::Digest;
use formats::digest::Sha256;
use formats::release::*;
use proptest::prelude::*;

use super::*;

/// A key, what trusts it, and `latest` signed by it.
fn signed() -> (SigningKey, TrustedKeys, Vec<u8>) {
    let key = SigningKey::generate().unwrap();
    let keys = TrustedKeys::parse(&key.public_text()).unwrap();
    let file = key.sign(&latest()).unwrap();
    (key, keys, file)
}

#[test]
fn what_our_key_signed_is_believed() {
    let (key, keys, file) = signed();
    let opened = Verified::<Latest>::open(&file, &keys).unwrap();
    assert_eq!(*opened, latest());
    assert_eq!(opened.key(), key.id());
    assert_eq!(opened.trusted_comment(), "imgfactory xenoppix latest serial 42");
    let lines: Vec<_> = std::str::from_utf8(&file).unwrap().lines().collect();
    assert_eq!(lines.len(), 13);
    assert_eq!(lines[9], format!("untrusted comment: signature of key {}", key.id()));

    // One of several keys is enough, whichever.
    let other = SigningKey::generate().unwrap();
    let both = TrustedKeys::parse(&(other.public_text() + &key.public_base64())).unwrap();
    assert_eq!(both.ids().collect::<Vec<_>>(), [other.id(), key.id()]);
    assert!(Verified::<Latest>::open(&file, &both).is_ok());
}

#[test]
fn each_fault_of_a_signature_has_its_words() {
    let (key, keys, file) = signed();
    let id = key.id();
    let text = String::from_utf8(file).unwrap();
    let (body, signature) = text.split_at(text.find("untrusted").unwrap());
    let lines: Vec<_> = signature.lines().collect();
    let with = |line: usize, new: &str| {
        let mut lines = lines.clone();
        lines[line] = new;
        format!("{body}{}\n", lines.join("\n"))
    };
    // Minisign's old kind signs the text itself: `Ed` and not `ED`, second character U -> W.
    let legacy = lines[1].replacen("RU", "RW", 1);
    let algorithm = lines[1].replacen("RU", "RX", 1);
    // Somewhere in the 64 bytes of the signature proper.
    let mut flipped = lines[1].to_owned();
    flipped.replace_range(60..61, if &flipped[60..61] == "A" { "B" } else { "A" });
    let other = SigningKey::generate().unwrap();
    let other_file = String::from_utf8(other.sign(&latest()).unwrap()).unwrap();
    let changed =
        format!("latest: the signature of key {id} is wrong: the file was changed after it was signed");
    let not_signed = "latest: not signed: no `end` line with the four lines of a minisign signature after it";
    let no_signature = "latest: the four lines after `end` are not a minisign signature";
    let old_kind =
        "latest: the signature is not of the prehashed kind; sign with minisign 0.10 or later, without -l";

    let cases: Vec<(String, String)> = vec![
        (text.replace("min-serial: 40", "min-serial: 41"), changed.clone()),
        (text.replace("latest serial 42", "latest serial 43"), changed.clone()),
        (with(1, &flipped), changed.clone()),
        (body.into(), not_signed.into()),
        (text.trim_end().into(), not_signed.into()),
        (text.clone() + "\n", not_signed.into()),
        (text.replace("\nend\n", "\n"), not_signed.into()),
        (String::new(), not_signed.into()),
        ("<html>404</html>\n".repeat(9), not_signed.into()),
        (with(0, "trusted comment: x"), no_signature.into()),
        (with(0, "untrusted comment: x\r"), no_signature.into()),
        (with(1, "RWQ="), no_signature.into()),
        (with(2, "comment: x"), no_signature.into()),
        (with(3, ""), no_signature.into()),
        (with(1, &legacy), old_kind.into()),
        (with(1, &algorithm), old_kind.into()),
        (
            other_file,
            format!("latest: signed by key {}, which is not trusted here; trusted: {id}", other.id()),
        ),
        (
            format!("{body}{}\n{}", "x".repeat(20_000), lines.join("\n")),
            format!("latest: {} bytes; the limit is 16384", body.len() + 20_001 + signature.len() - 1),
        ),
    ];
    for (file, said) in cases {
        assert_eq!(Verified::<Latest>::open(file.as_bytes(), &keys).unwrap_err().to_string(), said);
    }
    // A right signature over another kind of text.
    let mirrors = Mirrors::decode_text(MIRRORS.as_bytes()).unwrap();
    let error = Verified::<Latest>::open(&key.sign(&mirrors).unwrap(), &keys).unwrap_err();
    assert_eq!(error.to_string(), {
        "latest:1: begins with `imgfactory-mirrors 1`; a file of this kind begins with `imgfactory-latest 1`"
    });
}

#[test]
fn keys_that_are_none_are_told_by_line() {
    for (text, said) in [
        ("", "contains no minisign public key"),
        ("untrusted comment: x\n", "contains no minisign public key"),
        ("untrusted comment: x\nRWQ\n", {
            "line 2: not a minisign public key: 56 characters of base64 that begin with RW"
        }),
        ("RUQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO\u{e9}", {
            "line 1: not a minisign public key: 56 characters of base64 that begin with RW"
        }),
    ] {
        assert_eq!(TrustedKeys::parse(text).unwrap_err().to_string(), said);
    }
    // As an editor of Windows writes it.
    TrustedKeys::parse(
        "\u{feff}untrusted comment: x\r\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\r\n",
    )
    .unwrap();
    // The key of minisign's own home page.
    let keys = TrustedKeys::parse("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3").unwrap();
    assert_eq!(keys.ids().map(|id| id.to_string()).collect::<Vec<_>>(), ["E7620F1842B4E81F"]);
}

/// An index of one block of zeros, and the release, mirrors and pointer above it.
fn chain(key: &SigningKey) -> (Latest, Vec<u8>, Vec<u8>, Vec<u8>) {
    let header = Header {
        image: name("host"),
        serial: serial(41),
        block_size: BlockSize::DEFAULT,
        size: 4096,
        published: UnixTime(0),
        parent: None,
    };
    let index = Index::assemble(header, [None]).unwrap().to_text();
    let stored = Stored { serial: serial(41), digest: Digest::of(&index) };
    let release = Release {
        name: name("xenoppix"),
        serial: serial(42),
        published: UnixTime(0),
        retain_until: UnixTime(0),
        images: vec![ImageFiles::of_index(name("host"), stored)],
    };
    let release = key.sign(&release).unwrap();
    let mirrors = key.sign(&Mirrors::decode_text(MIRRORS.as_bytes()).unwrap()).unwrap();
    let latest = Latest { release: Digest::of(&release), mirrors: Digest::of(&mirrors), ..latest() };
    (latest, release, mirrors, index)
}

#[test]
fn each_link_of_the_chain_is_checked_by_the_one_above() {
    let (key, keys, _) = signed();
    let (latest, release, mirrors, index) = chain(&key);
    assert_eq!(latest.open_mirrors(&mirrors, &keys).unwrap().mirrors.len(), 3);
    let opened = latest.open_release(&release, &keys).unwrap();
    let host = opened.image(&name("host")).unwrap();
    assert_eq!(host.open_index(&index).unwrap().block_count(), 1);

    // Signed again, so right in itself, but not the one that `latest` names.
    let again = key.sign(&*opened).unwrap();
    let error = latest.open_release(&again, &keys).unwrap_err();
    assert_eq!(error.to_string(), {
        let (found, want) = (Sha256::of(&again), Sha256::of(&release));
        format!("releases/42.txt: SHA-256 {found}; latest says {want}")
    });
    let error = latest.open_release(&release[1..], &keys).unwrap_err();
    assert_eq!(error.to_string(), {
        format!("releases/42.txt: {} bytes; latest says {}", release.len() - 1, release.len())
    });
    let error = host.open_index(&index[1..]).unwrap_err();
    assert_eq!(error.to_string(), {
        format!("images/host/41/index.idx: {} bytes; the release says {}", index.len() - 1, index.len())
    });

    // A publisher that signs nonsense.
    let named = |latest: Latest| latest.open_release(&release, &keys).unwrap_err().to_string();
    assert_eq!(named(Latest { serial: serial(43), ..latest.clone() }), {
        "releases/43.txt: has serial 42 instead of 43"
    });
    assert_eq!(named(Latest { name: name("other"), ..latest.clone() }), {
        "releases/42.txt: belongs to `xenoppix`; `other` was expected"
    });
    let other = Latest { name: name("other"), ..latest };
    let error = other.open_mirrors(&mirrors, &keys).unwrap_err();
    assert_eq!(error.to_string(), "mirrors.txt: belongs to `xenoppix`; `other` was expected");
    for (wrong, said) in [
        (ImageFiles { name: name("guest"), ..host.clone() }, {
            "images/guest/41/index.idx: belongs to `host`; `guest` was expected"
        }),
        (
            ImageFiles { index: Stored { serial: serial(40), ..host.index }, ..host.clone() },
            "images/host/40/index.idx: has serial 41 instead of 40",
        ),
    ] {
        assert_eq!(wrong.open_index(&index).unwrap_err().to_string(), said);
    }
}

proptest! {
    #[test]
    fn no_change_of_a_signed_file_is_believed(
        at in any::<proptest::sample::Index>(), with in any::<u8>(), insert in any::<bool>(),
    ) {
        use std::sync::LazyLock;
        static SIGNED: LazyLock<(SigningKey, TrustedKeys, Vec<u8>)> = LazyLock::new(signed);
        let (_, keys, file) = &*SIGNED;
        let mut changed = file.clone();
        let at = at.index(file.len());
        if insert { changed.insert(at, with) } else { changed[at] = with }
        // The untrusted comment is what its name says.
        if let Ok(opened) = Verified::<Latest>::open(&changed, keys) {
            prop_assert_eq!(&*opened, &latest());
            let free = |file: &[u8]| {
                let text = String::from_utf8_lossy(file).into_owned();
                text.lines().filter(|line| !line.starts_with("untrusted comment: ")).collect::<String>()
            };
            prop_assert_eq!(free(&changed), free(file));
        }
    }
}
