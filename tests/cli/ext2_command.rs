//! `imgfactory image` as people meet it. Needs root for loop mounts, and the Debian packages e2fsprogs, mount
//! and tar.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use imgfactory::ext2::{ImageOptions, Reader, Sequential};
use imgfactory::tree::SpoolId;

use crate::programs;
use crate::support::judges::{Mounted, assert_fsck_is_silent, compare_mount_with_tree};
use crate::support::trees::{everything, spools, with_times};
use crate::support::{ImageFile, packed_to};

fn imgfactory<S: AsRef<OsStr>>(args: &[S]) -> Output {
    Command::new(programs::imgfactory())
        .args(args)
        .env("NO_COLOR", "1")
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn pack(from: &Path, to: &Path, more: &[&str]) {
    let fixed = ["image", "pack", "--from"].map(OsStr::new);
    let places = [from.as_os_str(), OsStr::new("--to"), to.as_os_str()];
    let args: Vec<&OsStr> = fixed.into_iter().chain(places).chain(more.iter().map(OsStr::new)).collect();
    let output = imgfactory(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_directory_and_its_tar_become_the_same_image_as_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    // Tar knows no sockets, and keeps no time before 1970 to the nanosecond.
    let mut tree = with_times(&everything(), |mut time| {
        time.secs = time.secs.max(0);
        time
    });
    assert!(tree.remove(b"run/socket") && tree.remove(b"var/far"));
    // What the ACL says of owner, mask and others; setting it makes the mode so.
    let etc = tree.lookup(b"etc").unwrap();
    tree.node_mut(etc).meta.mode = 0o664;
    let options = ImageOptions { free: 1 << 20, ..ImageOptions::new("same", 1_700_000_000) };
    let ours = dir.path().join("ours.img");
    packed_to(&ours, &tree, &spools(), &options, &mut Sequential::default());
    let mounted = Mounted::new(&ours);
    let source = dir.path().join("source");
    // lost+found came with the image; the tree has none.
    let copied = Command::new("cp").arg("-a").arg(mounted.path()).arg(&source).status().unwrap();
    assert!(copied.success());
    std::fs::remove_dir(source.join("lost+found")).unwrap();
    let touched = Command::new("touch").args(["-d", "@1700000000"]).arg(&source).status().unwrap();
    assert!(touched.success());

    let of_directory = dir.path().join("same.directory.img");
    pack(&source, &of_directory, &["--free", "1MiB"]);
    assert_fsck_is_silent(&of_directory);
    compare_mount_with_tree(&of_directory, &tree, &spools());

    let archive = dir.path().join("source.tar");
    let tarred = Command::new("tar")
        .args(["--format=posix", "--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner"])
        .args(["--pax-option=delete=atime,delete=ctime", "-cf"])
        .arg(&archive)
        .arg("-C")
        .arg(&source)
        .arg(".")
        .status()
        .expect("tar is needed (Debian package tar)");
    assert!(tarred.success());
    let of_tar = dir.path().join("same.tar.img");
    pack(&archive, &of_tar, &["--free", "1MiB"]);
    assert!(std::fs::read(&of_tar).unwrap() == std::fs::read(&of_directory).unwrap());
    assert!(std::fs::read(&of_tar).unwrap() == std::fs::read(&ours).unwrap());
}

#[test]
fn images_are_listed_printed_and_described() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("all.img");
    packed_to(&image, &everything(), &spools(), &ImageOptions::new("all", 0), &mut Sequential::default());
    let image = image.to_str().unwrap();

    let said = text(&imgfactory(&["image", "ls", image]).stdout);
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        "drwxr-xr-x   2     0     0       4096 2023-11-14 22:13 dev",
        "drwxr-xr-x   2     0     0       4096 2023-11-14 22:13 etc",
        "drwx------   2     0     0      16384 1970-01-01 00:00 lost+found",
        "drwxr-xr-x   2     0     0       4096 1969-12-31 23:59 run",
        "drwxrwxrwt   2     0     0       4096 2049-03-22 04:26 tmp",
        "drwxr-xr-x   4     0     0       4096 2023-11-14 22:13 usr",
        "drwxr-xr-x   3     0     0       4096 2310-04-04 16:10 var",
    ];
    assert_eq!(lines, expected);
    let cases: [(&[&str], &str); 6] = [
        (
            &["ls", image, "/etc/mtab"],
            "lrwxrwxrwx   1     0     0         19 2023-11-14 22:13 /etc/mtab -> ../proc/self/mounts\n",
        ),
        (&["ls", image, "dev/many"], "brw-rw----   1     0     0 259, 70000 2023-11-14 22:13 dev/many\n"),
        (&["ls", image, "usr/bin/su"], "-rwsr-xr-x   3     0     0      49153 2023-11-14 22:13 usr/bin/su\n"),
        (&["cat", image, "/etc/hostname"], "demo\n"),
        (&["cat", image, "etc/empty"], ""),
        (
            &["stat", image, "usr/bin/ping"],
            "inode 36: file\n  mode 0755 owner 0:0 links 1 size 4 i_blocks 8\n",
        ),
    ];
    for (args, expected) in cases {
        let output = imgfactory(&[&["image"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        assert!(text(&output.stdout).starts_with(expected), "{args:?}: {}", text(&output.stdout));
    }
    let dump = text(&imgfactory(&["image", "dump", image]).stdout);
    assert!(dump.starts_with("superblock\n  s_inodes_count ") && dump.contains("\ninode 2: directory\n"));
    let file = ImageFile::open(Path::new(image));
    let mut expected = vec![];
    imgfactory::ext2::dump(&Reader::open(&file).unwrap(), &mut expected).unwrap();
    assert!(dump.as_bytes() == expected);
    assert!(Reader::open(&file).unwrap().tree(SpoolId(0)).is_ok());
}

#[test]
fn what_goes_wrong_is_said_with_the_file_first() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    packed_to(
        Path::new(&at("all.img")),
        &everything(),
        &spools(),
        &ImageOptions::new("all", 0),
        &mut Sequential::default(),
    );
    std::fs::write(at("text"), "not an image, and not an archive either\n").unwrap();
    let all = &at("all.img");
    let (text_file, missing, new) = (&at("text"), &at("missing"), &at("new.img"));
    let cases: [(Vec<&str>, i32, String); 9] = [
        (vec!["cat", all, "etc"], 1, format!("error: {all}: etc: not a regular file\n")),
        (vec!["cat", all, "etc/x"], 1, format!("error: {all}: /etc/x: no such file in the image\n")),
        (vec!["ls", all, "etc/hostname/x"], 1, format!("error: {all}: /etc/hostname: not a directory\n")),
        (vec!["stat", missing, "x"], 1, format!("error: {missing}: can't open\n")),
        (
            vec!["dump", text_file],
            1,
            format!("error: {text_file}: superblock: the image has 40 bytes; a file system has at least 2048\n"),
        ),
        (
            vec!["pack", "--from", missing, "--to", new],
            1,
            format!("error: {missing}: can't read\n"),
        ),
        (vec!["pack", "--from", text_file, "--to", new], 1, format!("error: {text_file}: a file of no known format, not a tar archive; ")),
        (
            vec!["pack", "--from", text_file, "--to", new, "--inode-size", "64"],
            2,
            "error: invalid value '64' for '--inode-size <N>': must be 128 or 256\n".into(),
        ),
        (
            vec!["pack", "--from", text_file, "--to", new, "--free", "1MB"],
            2,
            "error: invalid value '1MB' for '--free <SIZE>': `1MB` is not a size; did you mean `1MiB`? allowed: \
             whole bytes, or KiB, MiB, GiB, TiB, as in `64MiB`\n"
                .into(),
        ),
    ];
    for (args, code, expected) in cases {
        let output = imgfactory(&[vec!["image"], args.clone()].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.starts_with(&expected), "{args:?}: {said}");
        assert!(!Path::new(new).exists(), "{args:?}: nothing half done is left");
    }
}

#[test]
fn an_update_packed_by_the_layout_before_shares_its_blocks_and_comes_together_again() {
    let room = tempfile::tempdir().unwrap();
    let path = |name: &str| room.path().join(name);
    let source = path("source");
    for nth in 0..64_u8 {
        let dir = source.join(format!("usr/lib{}", nth % 4));
        std::fs::create_dir_all(&dir).unwrap();
        let byte = |at: usize| (at * (usize::from(nth) + 3) / 7) as u8 ^ nth;
        std::fs::write(dir.join(format!("file-{nth}")), (0..100_000).map(byte).collect::<Vec<_>>()).unwrap();
    }
    let split = |image: &Path, serial: &str| {
        let (image, store) = (image.to_str().unwrap(), path("mirror"));
        let words =
            ["image", "split", image, "--store", store.to_str().unwrap(), "--image", "host", "--serial"];
        let output = imgfactory(&[&words[..], &[serial]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let layout = |name: &str| path(name).display().to_string();
    let first = path("first.img");
    pack(&source, &first, &["--free", "1MiB", "--name", "host", "--layout", &layout("first.z")]);
    split(&first, "1");

    std::fs::write(source.join("usr/lib2/file-2"), vec![7; 120_000]).unwrap();
    let (kept, anew) = (path("kept.img"), path("anew.img"));
    let by = [
        "--free",
        "1MiB",
        "--name",
        "host",
        "--previous-layout",
        &layout("first.z"),
        "--layout",
        &layout("kept.z"),
    ];
    pack(&source, &kept, &by);
    assert_fsck_is_silent(&kept);
    let said = split(&kept, "2");
    let new: usize =
        said.split("of these ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    assert!(new <= 4, "data, directory, inodes, counts: {said}");
    pack(&source, &anew, &["--free", "1MiB", "--name", "host"]);
    let mounted = Mounted::new(&kept);
    let same = Command::new("diff")
        .arg("-r")
        .arg(&source)
        .arg(mounted.path())
        .args(["-x", "lost+found"])
        .output()
        .unwrap();
    assert!(same.status.success(), "{}", text(&same.stdout));

    let joined = path("joined.img");
    let index = path("mirror/images/host/2/index.idx");
    let words = [OsStr::new("image"), OsStr::new("join"), index.as_os_str(), OsStr::new("--store")];
    let join = |store: &Path, to: &Path| {
        imgfactory(&[&words[..], &[store.as_os_str(), OsStr::new("--to"), to.as_os_str()]].concat())
    };
    let output = join(&path("mirror"), &joined);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(std::fs::read(&joined).unwrap() == std::fs::read(&kept).unwrap());

    // A damaged block is named, and there is no half of an image.
    let named = std::fs::read_to_string(&index).unwrap();
    let name =
        named.lines().find_map(|line| line.split(' ').find(|word| word.len() == 32)).unwrap().to_owned();
    let block = path("mirror/blk").join(&name[..2]).join(&name);
    let mut bytes = std::fs::read(&block).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&block, bytes).unwrap();
    let output = join(&path("mirror"), &path("none.img"));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&name), "{}", text(&output.stderr));
    assert!(!path("none.img").exists());

    // The same blocks without an image between: a build does so.
    let store = path("direct").display().to_string();
    let words = ["image", "pack", "--from", source.to_str().unwrap(), "--free", "1MiB", "--store", &store];
    let named = ["--name", "host", "--serial", "2", "--previous-layout", &layout("first.z")];
    let output = imgfactory(&[&words[..], &named].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let direct = path("direct/images/host/2/index.idx");
    assert_eq!(std::fs::read_to_string(direct).unwrap(), std::fs::read_to_string(&index).unwrap());
    let nowhere = imgfactory(&words);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(text(&nowhere.stderr).contains("--name"), "{}", text(&nowhere.stderr));

    // What is no layout is refused by its name.
    let refused = imgfactory(&[
        "image",
        "pack",
        "--from",
        source.to_str().unwrap(),
        "--to",
        &layout("x.img"),
        "--previous-layout",
        &layout("kept.img"),
    ]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("kept.img: the layout map is not a complete zlib stream"),
        "{}",
        text(&refused.stderr)
    );
}
