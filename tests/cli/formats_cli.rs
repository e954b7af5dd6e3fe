//! `imgfactory keygen` and `imgfactory index`, as people call them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use formats::block::Codec;
use formats::index::{Header, Index};
use formats::names::{BlockSize, Serial, UnixTime};
use formats::release::TrustedKeys;
use imgfactory::pipeline::steps::split::{Options, split};
use imgfactory::repository::store::Store;
use imgfactory::sys::progress::Silent;
use tempfile::TempDir;

use crate::programs;

fn imgfactory(dir: &Path, args: &str) -> Output {
    let mut command = Command::new(programs::imgfactory());
    command.args(args.split(' ')).current_dir(dir).env("NO_COLOR", "1");
    command.env("IMGFACTORY_KEY_PASSWORD", "").output().unwrap()
}

/// Exit code, standard output and standard error.
fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn keygen_prints_the_public_key_and_overwrites_nothing() {
    let dir = TempDir::new().unwrap();
    let (code, out, err) = said(&imgfactory(dir.path(), "keygen keys/demo"));
    assert_eq!(code, Some(0), "{err}");
    let keys = TrustedKeys::parse(&out).unwrap();
    let id = keys.ids().next().unwrap();
    assert_eq!(err, format!("key {id}: keys/demo.key (secret), keys/demo.pub\n"));
    let public = fs::read_to_string(dir.path().join("keys/demo.pub")).unwrap();
    assert_eq!(public, format!("untrusted comment: imgfactory public key {id}\n{out}"));
    let secret = dir.path().join("keys/demo.key");
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);

    let before = fs::read(&secret).unwrap();
    let (code, out, err) = said(&imgfactory(dir.path(), "keygen keys/demo"));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert_eq!(err, {
        "error: keys/demo.key: already exists; keys are never overwritten. Choose another name, or move the file\n"
    });
    assert_eq!(fs::read(&secret).unwrap(), before);

    let (code, _, err) = said(&imgfactory(dir.path(), "keygen --password keys/other"));
    assert_eq!((code, err.as_str()), {
        (Some(1), "error: the password is empty; leave out --password for a key without one\n")
    });
    assert!(!dir.path().join("keys/other.key").exists());
    assert_eq!(said(&imgfactory(dir.path(), "keygen ..")).0, Some(2));
}

/// A mirror with one image: blocks of 4 KiB, zeros and repeats among them, the last one short.
fn mirror(dir: &Path, tail: &[u8]) -> Index {
    let block = |byte: u8| vec![byte; 4096];
    let disk = [block(1), block(0), block(2), block(1), tail.to_vec()].concat();
    let header = Header {
        image: "host".parse().unwrap(),
        serial: Serial::new(7).unwrap(),
        block_size: BlockSize::new(4096).unwrap(),
        size: disk.len() as u64,
        published: UnixTime(0),
        parent: None,
    };
    let mut store = Store::open(dir.join("mirror")).unwrap();
    let split = split(&header, Options::new(Codec::default()), &mut store, &Silent, &disk);
    let index = split.unwrap().index;
    fs::write(dir.join("index.idx"), index.to_text()).unwrap();
    index
}

const IMPORT: &str = "index import list --mirror mirror --image host --serial 7 --block-size 4096 -o new.idx";

#[test]
fn an_index_goes_out_as_a_plain_list_and_comes_back() {
    // The tail decides whether the size has to be told: a short block of zeros has no file to measure.
    for (tail, size) in [(&[5_u8; 100][..], ""), (&[0; 100], " --size 16484"), (&[0; 4096], ""), (b"", "")] {
        let dir = TempDir::new().unwrap();
        let index = mirror(dir.path(), tail);
        let (code, printed, _) = said(&imgfactory(dir.path(), "index export index.idx"));
        assert_eq!(code, Some(0));
        assert_eq!(printed.lines().count(), index.block_count() as usize);
        let (code, ..) = said(&imgfactory(dir.path(), "index export index.idx -o list"));
        assert_eq!((code, fs::read_to_string(dir.path().join("list")).unwrap()), (Some(0), printed));

        let (code, _, err) = said(&imgfactory(dir.path(), &format!("{IMPORT} --insecure{size}")));
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert_eq!(fs::read(dir.path().join("new.idx")).unwrap(), index.to_text());
    }
}

#[test]
fn an_import_says_what_it_can_not_do() {
    let dir = TempDir::new().unwrap();
    let index = mirror(dir.path(), b"");
    said(&imgfactory(dir.path(), "index export index.idx -o list"));
    let import = |more: &str| said(&imgfactory(dir.path(), &format!("{IMPORT}{more}")));

    let (code, _, err) = import("");
    assert_eq!((code, err.as_str()), {
        let said = "error: list: a plain block list is not signed, and MD5 names prove nothing; if you trust its \
                    source, add --insecure\n";
        (Some(2), said)
    });

    let name = index.objects()[0].name;
    let file = dir.path().join("mirror").join(name.path());
    let good = fs::read(&file).unwrap();
    fs::write(&file, &good[1..]).unwrap();
    let (code, _, err) = import(" --insecure");
    assert_eq!((code, err), {
        let place = format!("mirror/{}", name.path());
        let said = format!(
            "error: {place}: damaged\n  caused by: block {name}: not a zlib stream, or damaged inside\n"
        );
        (Some(1), said)
    });
    let other = index.objects()[1].name;
    fs::copy(dir.path().join("mirror").join(other.path()), &file).unwrap();
    let (_, _, err) = import(" --insecure");
    assert!(err.ends_with(&format!("block {name}: holds another block, whose MD5 is {other}\n")), "{err}");
    fs::remove_file(&file).unwrap();
    let (_, _, err) = import(" --insecure");
    assert!(err.starts_with(&format!("error: mirror/{}: can't read\n", name.path())), "{err}");

    fs::write(dir.path().join("list"), "0 ec87\n").unwrap();
    let (_, _, err) = import(" --insecure");
    assert_eq!(err, "error: list\n  caused by: block list:1: block `0` instead of 00000000\n");
    assert!(!dir.path().join("new.idx").exists());
}

#[test]
fn an_index_is_shown_or_refused_with_its_line() {
    let dir = TempDir::new().unwrap();
    mirror(dir.path(), b"x");
    let (code, out, _) = said(&imgfactory(dir.path(), "index dump index.idx"));
    assert_eq!(code, Some(0));
    assert!(out.starts_with(
        "image        host, serial 7, published 0\ndisk         16385 bytes in 5 blocks of 4096\n"
    ));
    fs::write(dir.path().join("index.idx"), "imgfactory-index 2\n").unwrap();
    let (code, _, err) = said(&imgfactory(dir.path(), "index dump index.idx"));
    assert_eq!((code, err.as_str()), {
        let said = "error: index.idx\n  caused by: index.idx:1: version 2 is not supported; this program supports \
                    version 1; a newer program may read it\n";
        (Some(1), said)
    });
}
