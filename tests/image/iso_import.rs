//! ISO 9660 with Rock Ridge and zisofs, made by xorriso: read as a tree, and changed in place for ImagePlan 9; and a
//! KNOPPIX-like medium, from the ISO around it down to its files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use imgfactory::ext2::{ImageOptions, ImagePlan, Sequential};
use imgfactory::foreign::iso9660::{Iso, Iso9660Error};
use imgfactory::guests::plan9::{self, Plan9Error};
use imgfactory::recipe::{ConsoleDevice, FileUrl, Flavour, Plan9, ThirdPartySource};
use imgfactory::tree::{Kind, SpoolId, Tree};
use imgfactory::yaml::Scalar;

use crate::support;

/// A directory with a bit of everything.
fn files(dir: &Path) {
    fs::create_dir_all(dir.join("usr/share/a directory with a long name")).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    fs::write(dir.join("README"), "upper").unwrap();
    fs::write(dir.join("readme"), "lower").unwrap();
    fs::write(dir.join("usr/big"), (0..500_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    fs::write(dir.join("usr/zeros"), vec![0; 300_000]).unwrap();
    fs::write(dir.join("usr/nothing"), "").unwrap();
    let long = format!("usr/share/a directory with a long name/{}", "n".repeat(240));
    fs::write(dir.join(long), "long").unwrap();
    fs::write(dir.join("usr/su"), "su").unwrap();
    fs::set_permissions(dir.join("usr/su"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("../usr/big", dir.join("usr/link")).unwrap();
    symlink("/a/b/../c", dir.join("absolute")).unwrap();
    symlink("some/where/".repeat(60) + "x", dir.join("longlink")).unwrap();
    let mut deep = dir.to_owned();
    for nth in 0..12 {
        deep.push(format!("deep{nth}"));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "bottom").unwrap();
    for nth in 0..200 {
        fs::write(dir.join(format!("empty/file {nth}")), nth.to_string()).unwrap();
    }
    for node in ["null c 1 3", "disk b 8 1", "pipe p"] {
        let mut words = node.split(' ');
        let path = dir.join(words.next().unwrap());
        assert!(Command::new("mknod").arg(path).args(words).status().unwrap().success());
    }
}

fn xorriso(args: &[&str], dir: &Path, iso: &Path) {
    let out = Command::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-V", "TEST", "-o"])
        .arg(iso)
        .args(args)
        .arg(dir)
        .output()
        .expect("xorriso is needed");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// What a directory and a tree have in common: a line for each path.
fn of_directory(dir: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for entry in walkdir::WalkDir::new(dir).min_depth(1) {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
        let meta = entry.path().symlink_metadata().unwrap();
        let what = if meta.is_symlink() {
            format!("-> {}", fs::read_link(entry.path()).unwrap().display())
        } else if meta.is_dir() {
            "/".into()
        } else if meta.is_file() {
            format!("{} {}", meta.len(), formats::digest::Sha256::of(&fs::read(entry.path()).unwrap()))
        } else {
            format!("{}:{}", rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()))
        };
        let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o7777 };
        lines.insert(path, format!("{mode:o} {}:{} {what}", meta.uid(), meta.gid()));
    }
    lines
}

fn of_tree(tree: &Tree, contents: &Vec<Vec<u8>>) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for (path, id) in tree.walk().skip(1) {
        let node = tree.node(id);
        let what = match &node.kind {
            Kind::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
            Kind::Directory(_) => "/".into(),
            Kind::File(content) => {
                let bytes = content.read_all(contents).unwrap();
                format!("{} {}", bytes.len(), formats::digest::Sha256::of(&bytes))
            }
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                format!("{major}:{minor}")
            }
            Kind::Fifo | Kind::Socket => "0:0".into(),
        };
        let mode = if let Kind::Symlink(_) = node.kind { 0 } else { node.meta.mode };
        let path = String::from_utf8(path).unwrap();
        lines.insert(path, format!("{mode:o} {}:{} {what}", node.meta.uid, node.meta.gid));
    }
    lines
}

/// A medium as a tree, with what zisofs has packed unpacked.
fn imported(iso: Vec<u8>) -> Result<(Tree, Vec<Vec<u8>>), String> {
    let imported = Iso::open(&iso).and_then(|found| found.import(SpoolId(0)));
    let imported = imported.map_err(|error| error.to_string())?;
    let mut tree = imported.tree;
    for (id, packed) in imported.packed {
        let mut bytes = Vec::new();
        packed.unpack(&iso, &mut bytes).map_err(|error| error.to_string())?;
        tree.node_mut(id).kind = Kind::File(imgfactory::tree::Content::inline(bytes));
    }
    Ok((tree, vec![iso]))
}

#[test]
fn a_medium_by_xorriso_is_read_as_it_was_with_and_without_zisofs() {
    let room = tempfile::tempdir().unwrap();
    let (dir, iso) = (room.path().join("dir"), room.path().join("iso"));
    files(&dir);
    let expected = of_directory(&dir);
    assert!(expected.len() > 220);
    for args in [&["-R"][..], &["-R", "-J", "-D"], &["-R", "-z"]] {
        xorriso(args, &dir, &iso);
        let (tree, contents) = imported(fs::read(&iso).unwrap()).unwrap_or_else(|error| panic!("{error}"));
        let found = of_tree(&tree, &contents);
        let differ: Vec<_> = expected.iter().filter(|(path, line)| found.get(*path) != Some(line)).collect();
        let missing = differ.first().map(|(path, _)| found.get(*path));
        assert!(differ.is_empty(), "{args:?}: {:?}, found {missing:?}", &differ[..1]);
        assert_eq!(found.len(), expected.len(), "{args:?}: nothing more");
    }
}

#[test]
fn a_damaged_medium_is_an_error_or_another_tree_and_never_a_panic() {
    let room = tempfile::tempdir().unwrap();
    let (dir, path) = (room.path().join("dir"), room.path().join("iso"));
    fs::create_dir_all(dir.join("a/b")).unwrap();
    fs::write(dir.join("a/b/file"), "x".repeat(5000)).unwrap();
    symlink("a", dir.join("link")).unwrap();
    xorriso(&["-R", "-z"], &dir, &path);
    let good = fs::read(&path).unwrap();
    assert!(matches!(Iso::open(&b"text".to_vec()), Err(Iso9660Error::NotIso)));
    let mut seed = 1u32;
    let (mut errors, mut others) = (0, 0);
    for _ in 0..600 {
        let mut iso = good.clone();
        for _ in 0..3 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Descriptors and directories are in the first 100 KiB.
            let at = 0x8000 + (seed >> 8) as usize % (100 << 10).min(iso.len() - 0x8000);
            iso[at] = iso[at].wrapping_add((seed & 0xff) as u8 | 1);
        }
        match imported(iso) {
            Err(_) => errors += 1,
            Ok(_) => others += 1,
        }
    }
    assert!(errors > 0 && others > 0, "{errors} {others}");
    let cut = good[..0x8000 + 4 * 2048].to_vec();
    assert!(imported(cut).is_err());
}

fn plan9(flavour: Flavour, lines: Option<&[&str]>) -> Plan9 {
    Plan9 {
        flavour,
        source: ThirdPartySource {
            urls: vec![FileUrl::read("http://a.example/x.iso").unwrap()],
            sha256: None,
        },
        console: ConsoleDevice::Serial,
        data: 0,
        entry: None,
        ini: lines.map(|lines| lines.iter().map(|line| Scalar::read(line).unwrap()).collect()),
    }
}

/// The medium with what is to stand in place of its own bytes.
fn patched(iso: &[u8], plan9: &Plan9) -> Result<Vec<u8>, Plan9Error> {
    let mut bytes = iso.to_vec();
    for (at, patch) in plan9::patches(&iso.to_vec(), plan9)? {
        let at = usize::try_from(at).unwrap();
        bytes[at..at + patch.len()].copy_from_slice(&patch);
    }
    assert_eq!(bytes.len(), iso.len());
    Ok(bytes)
}

/// A file of an ISO, read by xorriso.
fn osirrox(iso: &[u8], path: &str) -> String {
    let room = tempfile::tempdir().unwrap();
    let (file, out) = (room.path().join("iso"), room.path().join("out"));
    fs::write(&file, iso).unwrap();
    let mut xorriso = Command::new("xorriso");
    xorriso.args(["-osirrox", "on", "-indev"]).arg(&file).args(["-extract", path]).arg(&out);
    let done = xorriso.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::read_to_string(out).unwrap()
}

#[test]
fn a_9front_medium_asks_nothing_after_its_settings_were_changed_in_place() {
    let room = tempfile::tempdir().unwrap();
    let (dir, path) = (room.path().join("dir"), room.path().join("iso"));
    fs::create_dir_all(dir.join("cfg")).unwrap();
    fs::write(dir.join("cfg/plan9.ini"), "bootfile=/amd64/9pc64\nmouseport=ask\n").unwrap();
    fs::write(dir.join("other"), "other").unwrap();
    xorriso(&["-N", "-d", "-l"], &dir, &path);
    let iso = fs::read(&path).unwrap();
    let changed = patched(&iso, &plan9(Flavour::Front, None)).unwrap();
    assert_eq!(
        osirrox(&changed, "/cfg/plan9.ini"),
        "cdboot=yes\nconsole=0 b115200\nnobootprompt=local!/dev/sdD0/data\nuser=glenda\nbootfile=/amd64/9pc64\n\
         *acpi=0\nvgasize=text\n"
    );
    assert_eq!(osirrox(&changed, "/other"), "other");
    let differ = iso.iter().zip(&changed).filter(|(old, new)| old != new).count();
    assert!(differ < 200, "{differ} bytes differ");
    let short = patched(&iso, &plan9(Flavour::Front, Some(&["a=b"]))).unwrap();
    assert_eq!(
        osirrox(&short, "/cfg/plan9.ini").trim_end(),
        "console=0 b115200\na=b",
        "filled up with empty lines"
    );
    let long = ["x".repeat(2048)];
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    assert_eq!(
        patched(&iso, &plan9(Flavour::Front, Some(&long))).unwrap_err().to_string(),
        "plan9.ini of 2067 bytes; the medium has space for 2048 bytes"
    );
    assert_eq!(
        patched(&iso, &plan9(Flavour::Legacy, None)).unwrap_err().to_string(),
        "it has no `bootdisk.img`; check that it is an ISO or a disk of 9legacy"
    );
}

#[test]
fn a_9legacy_medium_has_its_settings_in_a_fat_volume() {
    let room = tempfile::tempdir().unwrap();
    let (dir, path) = (room.path().join("dir"), room.path().join("iso"));
    fs::create_dir_all(&dir).unwrap();
    let disk = dir.join("bootdisk.img");
    fs::write(&disk, vec![0; 2_949_120]).unwrap();
    let run = |tool: &str, args: &[&str]| {
        let out = Command::new(tool).args(args).output().unwrap_or_else(|e| panic!("{tool} is needed: {e}"));
        assert!(out.status.success(), "{tool}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let disk_path = disk.to_str().unwrap();
    run("mkfs.fat", &["-F", "12", disk_path]);
    let ini = room.path().join("plan9.ini");
    fs::write(&ini, "bootfile=sdD0!cdboot!9pcflop.gz\r\nconsole=1\n").unwrap();
    run("mcopy", &["-i", disk_path, ini.to_str().unwrap(), "::plan9.ini"]);
    xorriso(&["-R"], &dir, &path);
    let changed = patched(&fs::read(&path).unwrap(), &plan9(Flavour::Legacy, None)).unwrap();
    let out = room.path().join("changed");
    fs::write(&out, changed).unwrap();
    let image = room.path().join("image");
    let extract = [
        "-osirrox",
        "on",
        "-indev",
        out.to_str().unwrap(),
        "-extract",
        "/bootdisk.img",
        image.to_str().unwrap(),
    ];
    run("xorriso", &extract);
    assert_eq!(
        run("mtype", &["-i", image.to_str().unwrap(), "::plan9.ini"]),
        "console=0 b115200\nnobootprompt=local!#S/sdD0/data\nuser=glenda\nbootfile=sdD0!cdboot!9pcflop.gz\n\
         cdboot=yes\nadisk=/dev/sdD0/cdboot\n*nomp=1\n"
    );
    run("fsck.fat", &["-n", image.to_str().unwrap()]);
}

#[test]
fn what_was_imported_is_a_clean_ext2() {
    let room = tempfile::tempdir().unwrap();
    let (dir, iso) = (room.path().join("dir"), room.path().join("iso"));
    files(&dir);
    xorriso(&["-R", "-z"], &dir, &iso);
    let (tree, contents) = imported(fs::read(&iso).unwrap()).unwrap();
    let plan = ImagePlan::new(&tree, &ImageOptions::new("knoppix", 0), &mut Sequential::default()).unwrap();
    let image = room.path().join("image");
    let mut out = fs::File::create(&image).unwrap();
    imgfactory::ext2::write(&plan, &contents, &mut out).unwrap();
    out.flush().unwrap();
    support::judges::assert_fsck_is_silent(&image);
    support::judges::compare_mount_with_tree(&image, &tree, &contents);
}
