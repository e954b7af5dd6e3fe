//! Archives as odd as people have them, each unpacked by the real GNU tar and read by us: what is there must be equal.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;

use imgfactory::sys::spool::ContentFiles;
use imgfactory::tree::{Kind, Tree, tar};
use system::files::Scratch;

/// A header of 512 bytes. `size` is what its field has, whatever follows.
pub fn header(name: &[u8], kind: u8, size: usize, link: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, if matches!(kind, b'5' | b'D') { b"0000755\0" } else { b"0000644\0" });
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000001750\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link);
    put(257, b"ustar\x0000");
    let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &[u8]) -> Vec<u8> {
    [header(name, b'0', 3, b""), padded(b"abc")].concat()
}

fn directory(name: &[u8], size: usize) -> Vec<u8> {
    header(name, b'5', size, b"")
}

fn link(name: &[u8], target: &[u8]) -> Vec<u8> {
    header(name, b'2', 0, target)
}

fn hard_link(name: &[u8], size: usize, target: &[u8]) -> Vec<u8> {
    header(name, b'1', size, target)
}

fn pax(kind: u8, key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    // The number counts its own digits.
    let len = (1..6).map(|digits| rest.len() + digits).find(|len| len.to_string().len() + rest.len() == *len);
    let record = format!("{}{rest}", len.unwrap());
    [header(b"pax", kind, record.len(), b""), padded(record.as_bytes())].concat()
}

const END: [u8; 1024] = [0; 1024];

/// What GNU tar unpacks without a failure.
fn corners() -> Vec<(&'static str, Vec<u8>)> {
    let ended = |parts: &[Vec<u8>]| [&parts.concat()[..], &END].concat();
    // The sum of old writers, which took bytes for signed.
    let mut signed = file(b"caf\xe9");
    let sum: u64 = signed[..512].iter().enumerate().fold(0, |sum, (at, &byte)| {
        let byte = if (148..156).contains(&at) { b' ' } else { byte };
        sum.wrapping_add_signed(i64::from(byte.cast_signed()))
    });
    signed[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    vec![
        (
            "files below a symbolic link to a directory",
            ended(&[
                directory(b"usr/", 0),
                directory(b"usr/lib/", 0),
                link(b"lib", b"usr/lib"),
                file(b"lib/x"),
            ]),
        ),
        (
            "directories below a symbolic link that no entry names",
            ended(&[directory(b"usr/", 0), link(b"u", b"usr"), file(b"u/a/b/c")]),
        ),
        (
            "a hard link through a symbolic link to a directory",
            ended(&[directory(b"usr/", 0), link(b"u", b"usr"), file(b"usr/a"), hard_link(b"u/b", 0, b"u/a")]),
        ),
        (
            "a directory in place of a symbolic link that was followed before",
            ended(&[directory(b"e/", 0), link(b"d", b"e"), file(b"d/x"), directory(b"d/", 0)]),
        ),
        ("a hard link with a size", ended(&[file(b"a"), hard_link(b"b", 3, b"a"), file(b"c")])),
        ("a directory with a size", ended(&[directory(b"d/", 4096), file(b"d/x")])),
        ("a symbolic link with a size", ended(&[header(b"s", b'2', 1, b"a"), file(b"a")])),
        ("a FIFO with a size", ended(&[header(b"p", b'6', 5, b""), file(b"a")])),
        (
            "a directory of an incremental dump",
            ended(&[header(b"d/", b'D', 8, b""), padded(b"Yx\0\0"), file(b"d/x")]),
        ),
        ("a volume label", ended(&[header(b"backup of monday", b'V', 0, b""), file(b"a")])),
        (
            "an entry of a type that tar does not know",
            ended(&[header(b"z", b'Z', 3, b""), padded(b"abc"), file(b"a")]),
        ),
        ("an extended header of Solaris", ended(&[pax(b'X', "path", "long"), file(b"short")])),
        (
            "attributes that Linux does not have",
            ended(&[pax(b'x', "SCHILY.xattr.com.apple.quarantine", "1"), file(b"a"), file(b"._a")]),
        ),
        ("no end mark", file(b"a")),
        ("half an end mark", [&file(b"a")[..], &[0; 512]].concat()),
        ("something after the end mark", [&file(b"a")[..], &END, &[b'x'; 700]].concat()),
        ("a file in place of an empty directory", ended(&[directory(b"d/", 0), file(b"d")])),
        ("a symbolic link in place of an empty directory", ended(&[directory(b"d/", 0), link(b"d", b"x")])),
        (
            "a hard link in place of an empty directory",
            ended(&[file(b"a"), directory(b"d/", 0), hard_link(b"d", 0, b"a")]),
        ),
        ("a directory in place of a file", ended(&[file(b"d"), directory(b"d/", 0)])),
        ("a sum of signed bytes", ended(&[signed])),
    ]
}

/// Each path with its type, and what is in it.
fn unpacked(dir: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(dir).min_depth(1) {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type());
        let what = if kind.is_dir() {
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("link to {}", fs::read_link(path).unwrap().display())
        } else if kind.is_fifo() {
            "FIFO".to_owned()
        } else {
            format!("file of {}", String::from_utf8(fs::read(path).unwrap()).unwrap())
        };
        found.insert(path.strip_prefix(dir).unwrap().as_os_str().as_bytes().to_vec(), what);
    }
    found
}

fn read(archive: &Path) -> Result<(Tree, ContentFiles), String> {
    let mut spools = ContentFiles::new();
    let spool = spools.open(archive).unwrap();
    let tree = tar::read(File::open(archive).unwrap(), spool);
    Ok((tree.map_err(|error| formats::report::report(&error))?, spools))
}

fn ours(archive: &Path) -> Result<BTreeMap<Vec<u8>, String>, String> {
    let (tree, contents) = read(archive)?;
    let mut found = BTreeMap::new();
    for (path, id) in tree.walk().skip(1) {
        let what = match &tree.node(id).kind {
            Kind::Directory(_) => "directory".to_owned(),
            Kind::Symlink(target) => format!("link to {}", String::from_utf8_lossy(target)),
            Kind::Fifo => "FIFO".to_owned(),
            Kind::File(content) => {
                format!("file of {}", String::from_utf8(content.read_all(&contents).unwrap()).unwrap())
            }
            other => panic!("{other:?}"),
        };
        found.insert(path, what);
    }
    Ok(found)
}

#[test]
fn whatever_gnu_tar_unpacks_is_read_with_the_same_result() {
    let room = Scratch::directory(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut wrong = Vec::new();
    for (number, (what, bytes)) in corners().into_iter().enumerate() {
        let (archive, dir) = (room.path().join("a.tar"), room.path().join(number.to_string()));
        fs::write(&archive, &bytes).unwrap();
        fs::create_dir(&dir).unwrap();
        let out = Command::new("tar").arg("-C").arg(&dir).arg("-xf").arg(&archive).output().unwrap();
        assert!(out.status.success(), "{what}: tar says {}", String::from_utf8_lossy(&out.stderr));
        let ours = ours(&archive);
        if ours.as_ref() != Ok(&unpacked(&dir)) {
            wrong.push(format!("{what}: tar {:?}, ours {ours:?}", unpacked(&dir)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// GNU tar takes no data of such entries, and then loses its place. libarchive (bsdtar) finds the next header, as we do.
#[test]
fn data_of_entries_that_have_none_is_passed_over() {
    let room = Scratch::directory(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let archive = room.path().join("a.tar");
    for (what, kind, target) in [
        ("a hard link", b'1', &b"a"[..]),
        ("a directory", b'5', b""),
        ("a volume label", b'V', b""),
        ("a file that is a directory by its name", b'0', b""),
    ] {
        let entry = header(b"d/", kind, 3, target);
        let parts = [file(b"a"), entry, padded(b"abc"), file(b"c"), END.to_vec()];
        fs::write(&archive, parts.concat()).unwrap();
        let found = ours(&archive).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(found.get(&b"c"[..]).map(String::as_str), Some("file of abc"), "{what}: {found:?}");
    }
}

#[test]
fn nothing_gets_out_of_the_tree_by_links_or_names() {
    let room = Scratch::directory(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let archive = room.path().join("a.tar");
    let end = END.to_vec();
    for (links, inside) in [
        (link(b"out", b"../../../etc"), &b"etc/x"[..]),
        (link(b"out", b"/etc"), b"etc/x"),
        ([link(b"a", b".."), link(b"out", b"a/../etc")].concat(), b"etc/x"),
    ] {
        fs::write(&archive, [directory(b"etc/", 0), links, file(b"out/x"), end.clone()].concat()).unwrap();
        let found = ours(&archive).unwrap();
        assert_eq!(found.get(inside).map(String::as_str), Some("file of abc"), "{found:?}");
    }
    for (parts, said) in [
        (
            vec![file(b"a/../../x")],
            "entry `a/../../x` at byte 0: can't be placed\n  caused by: /a/../../x: `..` can't",
        ),
        (
            vec![link(b"l", b"gone"), file(b"l/x")],
            "entry `l/x` at byte 512: can't be placed\n  caused by: /l: not a dir",
        ),
        (
            vec![directory(b"usr", 0), link(b"usr/l", b"/gone"), link(b"u", b"usr"), file(b"u/l/x")],
            "entry `u/l/x` at byte 1536: can't be placed\n  caused by: /u: not a dir",
        ),
        (
            vec![link(b"l", b"l"), file(b"l/x")],
            "entry `l/x` at byte 512: can't be placed\n  caused by: /l: not a dir",
        ),
        (
            vec![file(b"f"), file(b"f/x")],
            "entry `f/x` at byte 1024: can't be placed\n  caused by: /f: not a dir",
        ),
        (vec![directory(b"d", 0), file(b"d/x"), file(b"d")], "entry `d` at byte 1536: can't be placed"),
        (
            vec![header(b"m", b'M', 3, b""), padded(b"abc")],
            "entry `m` at byte 0: its beginning is in another volume",
        ),
        (vec![file(b"a")[..512].to_vec()], "entry `a` at byte 0: truncated"),
    ] {
        let truncated = said.ends_with("truncated");
        fs::write(&archive, [parts.concat(), if truncated { vec![] } else { end.clone() }].concat()).unwrap();
        let error = ours(&archive).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

/// A few bytes of names could ask for gigabytes of directories.
#[test]
fn an_archive_can_not_have_many_more_directories_than_entries() {
    let room = Scratch::directory(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let archive = room.path().join("a.tar");
    let mut bytes = Vec::new();
    for number in 0..400 {
        let path = format!("{number}/{}f", "a/".repeat(2000));
        bytes.extend(pax(b'x', "path", &path));
        bytes.extend(header(b"short", b'0', 0, b""));
    }
    bytes.extend(END);
    fs::write(&archive, &bytes).unwrap();
    let error = ours(&archive).unwrap_err();
    assert!(error.contains("directories that no entry names"), "{error}");
}
