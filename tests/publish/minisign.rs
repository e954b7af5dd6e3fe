//! Debian's `minisign` as judge: what we sign it verifies, what it signs we verify, and either uses the other's keys.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use formats::digest::Digest;
use formats::names::{Serial, UnixTime};
use formats::release::{Document, DocumentError, Latest, Mirrors, TrustedKeys, Verified};
use imgfactory::project::keys::KeyFiles;
use imgfactory::release::KeyError;
use imgfactory::release::SigningKey;
use tempfile::TempDir;

/// The lines that docs/formats.md gives to people.
const BY_HAND: [&str; 3] = [
    "sed '/^end$/q' latest > latest.text",
    "sed '1,/^end$/d' latest > latest.text.minisig",
    "minisign -V -p demo.pub -m latest.text",
];

fn latest() -> Latest {
    let digest = Digest::of(b"");
    Latest {
        name: "demo".parse().unwrap(),
        serial: Serial::FIRST,
        release: digest,
        mirrors: digest,
        published: UnixTime(1_795_205_345),
        expires: UnixTime(1_795_810_145),
        min_serial: Serial::FIRST,
    }
}

/// Runs a line of shell in the directory; `answer` goes to its standard input.
fn sh(dir: &TempDir, line: &str, answer: &str) -> Output {
    let mut child = Command::new("sh")
        .args(["-c", line])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// As [`sh`], for what must succeed; gives standard output.
fn run(dir: &TempDir, line: &str, answer: &str) -> String {
    let output = sh(dir, line, answer);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}\n{out}{err}");
    out.into_owned()
}

fn write(dir: &TempDir, name: &str, bytes: impl AsRef<[u8]>) {
    fs::write(dir.path().join(name), bytes).unwrap();
}

fn read(dir: &TempDir, name: &str) -> String {
    fs::read_to_string(dir.path().join(name)).unwrap()
}

/// A text with a signature that minisign made of it.
fn signed_by_minisign(dir: &TempDir, text: &str, options: &str) -> Vec<u8> {
    write(dir, "text", text);
    run(dir, &format!("minisign -S {options} -m text -x text.sig"), "");
    [text, &read(dir, "text.sig")].concat().into_bytes()
}

#[test]
fn minisign_verifies_what_we_sign_by_the_lines_of_the_manual() {
    let manual = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md")).unwrap();
    let dir = TempDir::new().unwrap();
    let key = KeyFiles::new(&dir.path().join("demo")).create(None).unwrap();
    write(&dir, "latest", key.sign(&latest()).unwrap());
    let mut said = String::new();
    for line in BY_HAND {
        assert!(manual.contains(line), "docs/formats.md says `{line}`");
        said = run(&dir, line, "");
    }
    assert!(said.contains("Trusted comment: imgfactory demo latest serial 1"), "{said}");

    // And it is a judge: it refuses what was changed.
    write(&dir, "latest.text", read(&dir, "latest.text").replace("serial: 1", "serial: 2"));
    assert!(!sh(&dir, BY_HAND[2], "").status.success());
}

#[test]
fn we_verify_what_minisign_signs_with_our_key() {
    let dir = TempDir::new().unwrap();
    let files = KeyFiles::new(&dir.path().join("demo"));
    let key = files.create(None).unwrap();
    let (_, keys) = files.read().unwrap();
    // minisign knows from the key itself that it has no password, or is told so.
    let file = signed_by_minisign(&dir, &latest().to_text(), "-W -s demo.key -t 'by hand'");
    let opened = Verified::<Latest>::open(&file, &keys).unwrap();
    assert_eq!((&*opened, opened.key(), opened.trusted_comment()), (&latest(), key.id(), "by hand"));

    let old = signed_by_minisign(&dir, &latest().to_text(), "-W -l -s demo.key");
    assert!(matches!(Verified::<Latest>::open(&old, &keys), Err(DocumentError::SignatureKind { .. })));
}

#[test]
fn a_key_that_minisign_made_is_used_by_us() {
    let dir = TempDir::new().unwrap();
    run(&dir, "minisign -G -W -p demo.pub -s demo.key", "");
    let (key, keys) = KeyFiles::new(&dir.path().join("demo")).read().unwrap();
    // minisign leaves out the zeros that a number begins with: one key in sixteen has such a number.
    let shown = key.id().to_string();
    let comment = format!("minisign public key {}\n", shown.trim_start_matches('0'));
    assert!(read(&dir, "demo.pub").contains(&comment), "{shown}: the number as minisign shows it");
    let mirrors = Mirrors { name: "demo".parse().unwrap(), mirrors: vec![] };
    let file = key.sign(&mirrors).unwrap();
    assert_eq!(*Verified::<Mirrors>::open(&file, &keys).unwrap(), mirrors);
    write(&dir, "latest", file);
    for line in BY_HAND {
        run(&dir, line, "");
    }

    // minisign leaves the checksum of such a key empty. Damage is found all the same, in either half.
    let text = read(&dir, "demo.key");
    for at in [120, 160] {
        let mut text = text.clone();
        let at = text.find("RWQ").unwrap() + at;
        text.replace_range(at..at + 1, if &text[at..at + 1] == "A" { "B" } else { "A" });
        assert!(matches!(SigningKey::parse(&text, None), Err(KeyError::Damaged)));
    }
}

#[test]
fn a_password_of_ours_is_a_password_of_minisigns() {
    let dir = TempDir::new().unwrap();
    let (key, text) = SigningKey::generate_protected("mirror, mirror").unwrap();
    let keys = TrustedKeys::parse(&key.public_text()).unwrap();
    write(&dir, "demo.key", &text);
    write(&dir, "text", latest().to_text());
    run(&dir, "minisign -S -s demo.key -m text -x text.sig", "mirror, mirror\n");
    let file = [latest().to_text(), read(&dir, "text.sig")].concat();
    assert_eq!(*Verified::<Latest>::open(file.as_bytes(), &keys).unwrap(), latest());

    assert!(matches!(SigningKey::parse(&text, None), Err(KeyError::NeedsPassword)));
    assert!(matches!(SigningKey::parse(&text, Some("on the wall")), Err(KeyError::WrongPassword)));
    assert_eq!(SigningKey::parse(&text, Some("mirror, mirror")).unwrap().id(), key.id());
}
