//! Disks of others: fetched by sum, inflated, converted and split as they are, byte for byte; and the lock.

use std::fs;
use std::path::Path;
use std::process::Command;

use imgfactory::recipe::lock::Lock;
use imgfactory::sys::spool::ContentFiles;
use imgfactory::tree::{Kind, Tree};

use crate::programs;
use crate::support;
use crate::support::requests::{guest_disk, guest_tree};

/// The bytes of the image that a guest of the given section becomes.
fn made(room: &Path, section: &str) -> Result<Vec<u8>, String> {
    guest_disk(room, &format!("{{name: d, {section}}}"), &room.join("files"))
}

/// Its files, if it becomes a tree.
fn imported(room: &Path, section: &str) -> Result<(Tree, ContentFiles), String> {
    guest_tree(room, &format!("{{name: d, {section}}}"), &room.join("files"), &Lock::default())
}

/// A KNOPPIX-like medium: an ISO around a cloop around an ISO, packed by Debian's own tools; and its inner ISO.
fn knoppix_files(files: &Path) -> Vec<u8> {
    let room = tempfile::tempdir().unwrap();
    fs::create_dir_all(room.path().join("root/etc")).unwrap();
    fs::create_dir_all(room.path().join("medium/KNOPPIX")).unwrap();
    fs::write(room.path().join("root/etc/issue"), "KNOPPIX-like".repeat(20_000)).unwrap();
    fs::write(room.path().join("root/etc/hosts"), "plain").unwrap();
    std::os::unix::fs::symlink("etc/issue", room.path().join("root/link")).unwrap();
    let iso = |args: &[&str], out: &str, from: &str| {
        let fixed = ["-as", "mkisofs", "-quiet", "-R", "-o", out];
        run("xorriso", &[&fixed[..], args, &[from]].concat(), room.path());
    };
    iso(&["-z"], "inner", "root");
    // cloop has whole blocks.
    let mut inner = fs::read(room.path().join("inner")).unwrap();
    inner.resize(inner.len().next_multiple_of(65536), 0);
    fs::write(room.path().join("inner"), &inner).unwrap();
    run("create_compressed_fs", &["-B", "65536", "inner", "medium/KNOPPIX/KNOPPIX"], room.path());
    iso(&[], "outer", "medium");
    fs::copy(room.path().join("outer"), files.join("knoppix.iso")).unwrap();
    fs::copy(room.path().join("medium/KNOPPIX/KNOPPIX"), files.join("KNOPPIX")).unwrap();
    inner
}

#[test]
fn a_knoppix_medium_gives_its_file_system_and_its_files() {
    let room = tempfile::tempdir().unwrap();
    let files = room.path().join("files");
    fs::create_dir(&files).unwrap();
    let inner = knoppix_files(&files);
    let section = |name: &str, form: &str| {
        let sum = sha256(&files.join(name));
        format!("knoppix: {{urls: ['http://a.example/{name}'], sha256: '{sum}', form: {form}}}")
    };
    for name in ["knoppix.iso", "KNOPPIX"] {
        let bytes =
            made(room.path(), &section(name, "device")).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(bytes == inner, "{name}: {} bytes", bytes.len());
        let (tree, contents) = imported(room.path(), &section(name, "tree")).unwrap();
        let text = |path: &str| {
            let Kind::File(content) = &tree.node(tree.lookup(path.as_bytes()).unwrap()).kind else {
                panic!("{path}")
            };
            String::from_utf8(content.read_all(&contents).unwrap()).unwrap()
        };
        assert!(text("etc/issue") == "KNOPPIX-like".repeat(20_000) && text("etc/hosts") == "plain");
        assert!(
            matches!(&tree.node(tree.lookup(b"link").unwrap()).kind, Kind::Symlink(to) if to == b"etc/issue")
        );
    }
    let mut cut = fs::read(files.join("KNOPPIX")).unwrap();
    cut.truncate(cut.len() - 10);
    fs::write(files.join("cut"), cut).unwrap();
    let error = made(room.path(), &section("cut", "device")).unwrap_err();
    assert!(error.contains("caused by: cut\n  caused by: truncated: the file has"), "{error}");
    fs::write(files.join("text"), "text").unwrap();
    let error = made(room.path(), &section("text", "device")).unwrap_err();
    assert!(
        error.contains("text: neither of KNOPPIX's formats; use an ISO that has KNOPPIX/KNOPPIX"),
        "{error}"
    );
}

#[test]
fn a_squashfs_gives_its_files_with_owners_and_modes_alone_and_on_a_medium() {
    let room = tempfile::tempdir().unwrap();
    let files = room.path().join("files");
    fs::create_dir_all(room.path().join("medium/KNOPPIX")).unwrap();
    fs::create_dir(&files).unwrap();
    fs::write(room.path().join("issue"), "squashed ".repeat(30_000)).unwrap();
    let list = "dir /etc 0755 0 0\nfile /etc/issue 0640 7 8 issue\nslink /link 0777 0 0 etc/issue\n\
                nod /console 0600 0 5 c 5 1\n";
    fs::write(room.path().join("list"), list).unwrap();
    run("gensquashfs", &["-q", "-F", "list", "-D", ".", "squashfs"], room.path());
    fs::copy(room.path().join("squashfs"), files.join("KNOPPIX")).unwrap();
    fs::rename(room.path().join("squashfs"), room.path().join("medium/KNOPPIX/KNOPPIX")).unwrap();
    run("xorriso", &["-as", "mkisofs", "-quiet", "-R", "-o", "files/knoppix.iso", "medium"], room.path());
    for name in ["KNOPPIX", "knoppix.iso"] {
        let sum = sha256(&files.join(name));
        let section = format!("knoppix: {{urls: ['http://a.example/{name}'], sha256: '{sum}'}}");
        let (tree, contents) =
            imported(room.path(), &section).unwrap_or_else(|error| panic!("{name}: {error}"));
        let node = tree.node(tree.lookup(b"etc/issue").unwrap());
        assert_eq!((node.meta.mode, node.meta.uid, node.meta.gid), (0o640, 7, 8), "{name}");
        let Kind::File(content) = &node.kind else { panic!("{node:?}") };
        assert!(content.read_all(&contents).unwrap() == "squashed ".repeat(30_000).as_bytes(), "{name}");
        let kind = |path: &[u8]| tree.node(tree.lookup(path).unwrap()).kind.clone();
        assert_eq!(kind(b"link"), Kind::Symlink(b"etc/issue".to_vec()));
        assert_eq!(kind(b"console"), Kind::CharDevice { major: 5, minor: 1 });
    }
    let mut cut = fs::read(files.join("KNOPPIX")).unwrap();
    // Its padding is longer than all else.
    cut.truncate(200);
    fs::write(files.join("cut"), cut).unwrap();
    let sum = sha256(&files.join("cut"));
    let error =
        imported(room.path(), &format!("knoppix: {{urls: ['http://a.example/cut'], sha256: '{sum}'}}"));
    assert!(error.err().unwrap().contains("sqfs2tar: "), "it says what sqfs2tar says");
}

fn sha256(path: &Path) -> String {
    formats::digest::Sha256::of(&fs::read(path).unwrap()).to_string()
}

/// A disk with a partition table and something in it; not of whole sectors.
fn disk() -> Vec<u8> {
    let mut disk: Vec<u8> = (0u32..300_000).flat_map(|n| n.to_le_bytes()).collect();
    disk[512..400_000].fill(0);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.truncate(1_000_001);
    disk
}

fn run(tool: &str, args: &[&str], dir: &Path) {
    let out = Command::new(tool).args(args).current_dir(dir).output();
    let out = out.unwrap_or_else(|error| panic!("{tool} is needed: {error}"));
    assert!(out.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn every_form_of_a_disk_gives_the_same_bytes() {
    let room = tempfile::tempdir().unwrap();
    let files = room.path().join("files");
    fs::create_dir(&files).unwrap();
    let disk = disk();
    let mut whole = disk.clone();
    whole.resize(whole.len().next_multiple_of(512), 0);
    fs::write(files.join("a.img"), &disk).unwrap();
    fs::write(files.join("b.img.gz"), support::release::gz(&disk)).unwrap();
    fs::write(files.join("c.img.xz"), support::release::xz(&disk)).unwrap();
    fs::write(files.join("d.img"), &disk).unwrap();
    run("bzip2", &["d.img"], &files);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-c", "a.img", "e.qcow2"], &files);
    run("qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "a.img", "f.vmdk"], &files);
    fs::write(files.join("g.qcow2.gz"), support::release::gz(&fs::read(files.join("e.qcow2")).unwrap()))
        .unwrap();
    for name in ["a.img", "b.img.gz", "c.img.xz", "d.img.bz2", "e.qcow2", "f.vmdk", "g.qcow2.gz"] {
        let sum = sha256(&files.join(name));
        let section = format!("disk: {{urls: ['http://a.example/{name}'], sha256: '{sum}'}}");
        let bytes = made(room.path(), &section).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(bytes == whole, "{name}: {} bytes", bytes.len());
    }
}

#[test]
fn everything_wrong_with_a_disk_is_told() {
    let room = tempfile::tempdir().unwrap();
    let files = room.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("a.img"), disk()).unwrap();
    fs::write(files.join("cut.img.gz"), &support::release::gz(&disk())[..100]).unwrap();
    fs::write(files.join("empty.img"), "").unwrap();
    fs::write(files.join("text.vmdk"), "# Disk DescriptorFile\nRW 100 FLAT \"/etc/shadow\" 0\n").unwrap();
    fs::write(files.join("not.qcow2"), "text").unwrap();
    run("qemu-img", &["create", "-f", "qcow2", "-b", "a.img", "-F", "raw", "back.qcow2"], &files);
    run("qemu-img", &["create", "-f", "qcow2", "-o", "data_file=ext.raw", "ext.qcow2", "1M"], &files);
    for (name, said) in [
        ("cut.img.gz", "cut.img.gz: can't decompress it; it is truncated"),
        ("empty.img", "empty.img: empty"),
        (
            "text.vmdk",
            "text.vmdk: the disk image needs another file (a descriptor without sectors of its own)",
        ),
        ("back.qcow2", "back.qcow2: the disk image needs another file (a backing file)"),
        ("ext.qcow2", "ext.qcow2: the disk image needs another file (an external data file)"),
        (
            "not.qcow2",
            "not.qcow2: neither what its name says nor a disk with a partition table; fetch it again",
        ),
    ] {
        let sum = sha256(&files.join(name));
        let section = format!("disk: {{urls: ['http://a.example/{name}'], sha256: '{sum}'}}");
        let error = made(room.path(), &section).unwrap_err();
        assert!(error.starts_with("error: guest `d`\n") && error.contains(said), "{name}: {error}");
    }
    let zeros = "0".repeat(64);
    let section = format!("disk: {{urls: ['http://a.example/a.img'], sha256: '{zeros}'}}");
    let error = made(room.path(), &section).unwrap_err();
    assert!(error.contains("a.img: its sha256 is sha256:") && error.contains(&zeros), "{error}");
    let error = made(room.path(), "disk: {urls: ['http://a.example/a.img']}").unwrap_err();
    assert!(error.contains("http://a.example/a.img: no checksum for it; add `sha256: HEX`"), "{error}");
}

#[test]
fn lock_writes_down_what_is_not_in_the_recipe() {
    let room = tempfile::tempdir().unwrap();
    let files = room.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("a.img"), "a disk").unwrap();
    support::release::Release::usual(&files, &support::release::kernel(true, false), &[]);
    let zeros = "0".repeat(64);
    let recipe = room.path().join("x.yaml");
    fs::write(
        &recipe,
        format!(
            "name: x\nhost: {{debian: {{}}}}\nboot: {{xen: true}}\nguests:\n- {{name: a, disk: {{urls: \
             ['http://a.example/a.img']}}}}\n- {{name: b, disk: {{urls: ['http://a.example/b.img'], sha256: \
             '{zeros}'}}}}\n- {{name: c, netbsd: {{version: '10.1'}}}}\n"
        ),
    )
    .unwrap();
    let out = Command::new(programs::imgfactory())
        .arg("lock")
        .arg(&recipe)
        .arg("--sources")
        .arg(&files)
        .arg("--cache")
        .arg(room.path().join("cache"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lock = Lock::parse(&fs::read_to_string(room.path().join("x.lock")).unwrap()).unwrap();
    let names: Vec<&str> = lock.sums.keys().map(|url| url.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["a.img", "netbsd-XEN3_DOMU.gz", "base.tar.xz", "etc.tar.xz"]);
    assert_eq!(lock.sums["http://a.example/a.img"].hex(), sha256(&files.join("a.img")));
}

/// A disk as Plan 9 is installed on one: a partition of its own kind, and in that, by a table in words, a FAT volume with
/// the settings.
fn plan9_disk(room: &Path, ini: &str) -> Vec<u8> {
    const START: usize = 63;
    const FAT: usize = 20_480;
    let (fat, text) = (room.join("9fat"), room.join("ini"));
    fs::write(&fat, vec![0; FAT * 512]).unwrap();
    fs::write(&text, ini).unwrap();
    let (volume, file) = (fat.to_str().unwrap(), text.to_str().unwrap());
    run("mkfs.fat", &["-F", "16", "-R", "2", volume], room);
    run("mcopy", &["-i", volume, file, "::plan9.ini"], room);
    let mut disk = vec![0; (START + FAT + 10_000) * 512];
    disk[START * 512..(START + FAT) * 512].copy_from_slice(&fs::read(&fat).unwrap());
    let words =
        format!("part 9fat 0 {FAT}\npart nvram {FAT} {}\npart fs {} {}\n", FAT + 1, FAT + 1, FAT + 10_000);
    disk[(START + 1) * 512..][..words.len()].copy_from_slice(words.as_bytes());
    let length = u32::try_from(FAT + 10_000).unwrap();
    disk[446..462].copy_from_slice(
        &[&[0x80, 1, 1, 0, 0x39, 0xfe, 0xff, 0xff], &63_u32.to_le_bytes()[..], &length.to_le_bytes()]
            .concat(),
    );
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// The settings on such a disk, read by mtools.
fn plan9_ini(room: &Path, disk: &[u8]) -> String {
    let path = room.join("changed");
    fs::write(&path, disk).unwrap();
    let mut mtype = Command::new("mtype");
    let out = mtype.arg("-i").arg(format!("{}@@32256", path.display())).arg("::plan9.ini").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn a_plan9_installed_on_a_disk_asks_nothing_after_its_settings_were_changed_in_place() {
    let room = tempfile::tempdir().unwrap();
    let old =
        "bootfile=9pc64\nbootargs=local!/dev/sd00/fs\nmouseport=ps2\nmonitor=vesa\nvgasize=1024x768x16\n";
    let raw = plan9_disk(room.path(), old);
    let files = room.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("nine.raw"), &raw).unwrap();
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "nine.raw", "nine.qcow2"], &files);
    let made = |name: &str, more: &str| {
        let sum = formats::digest::Sha256::of(&fs::read(files.join(name)).unwrap());
        let urls = format!("urls: ['http://a.example/{name}'], sha256: '{sum}'");
        made(room.path(), &format!("plan9: {{flavour: 9front, {urls}{more}}}"))
    };
    let front = "console=0 b115200\nbootfile=9pc64\nnobootprompt=local!/dev/sd00/fs\nmouseport=ps2\nmonitor=vesa\n\
                 vgasize=text\nuser=glenda\n";
    for (name, more, wanted) in [
        ("nine.raw", "", front),
        ("nine.qcow2", "", front),
        (
            "nine.raw",
            ", plan9-ini: ['bootfile=9pc', 'user=me']",
            "console=0 b115200\nbootfile=9pc\nuser=me\n",
        ),
    ] {
        let disk = made(name, more).unwrap();
        assert_eq!(plan9_ini(room.path(), &disk), wanted, "{name}{more}");
        assert_eq!(disk.len(), raw.len());
        let sectors = |disk: &[u8]| disk.chunks(512).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let changed = sectors(&raw).iter().zip(sectors(&disk)).filter(|(old, new)| *old != new).count();
        assert!((1..=6).contains(&changed), "{name}: {changed} sectors");
    }

    // Of a menu one entry is left, with what all have; and the boot sector may be as Plan 9's own program writes it.
    let menu = "[menu]\nmenuitem=pc64, the usual\nmenuitem=pc, 32 bits\nmenudefault=pc, 10\n[common]\n\
                bootargs=local!/dev/sd00/fs\n[pc64]\nbootfile=9pc64\n[pc]\nbootfile=9pc\n*acpi=0\n";
    let mut raw = plan9_disk(room.path(), menu);
    raw[63 * 512 + 32..63 * 512 + 36].copy_from_slice(&20_480_u32.to_le_bytes());
    fs::write(files.join("nine.raw"), &raw).unwrap();
    for (more, wanted) in [
        ("", "console=0 b115200\nnobootprompt=local!/dev/sd00/fs\nbootfile=9pc\n*acpi=0\nuser=glenda\n"),
        (
            ", entry: pc64",
            "console=0 b115200\nnobootprompt=local!/dev/sd00/fs\nbootfile=9pc64\nuser=glenda\n",
        ),
    ] {
        assert_eq!(plan9_ini(room.path(), &made("nine.raw", more).unwrap()), wanted, "{more}");
    }

    // What is none of Plan 9's, or has lost its volume, is named.
    let mut other = raw.clone();
    other[450] = 0x83;
    let mut damaged = raw;
    damaged[63 * 512..64 * 512].fill(0);
    for (bytes, said) in [
        (other, "it has no `9fat`; check that it is an ISO or a disk of 9front"),
        (damaged, "`9fat`: can't change it"),
    ] {
        fs::write(files.join("nine.raw"), bytes).unwrap();
        let error = made("nine.raw", "").unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}
