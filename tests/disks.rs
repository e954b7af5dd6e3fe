//! Disks of others: fetched by sum, inflated, converted and split as they are, byte for byte; and the lock.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use imgfactory::build::{Request, disks};
use imgfactory::debian::{Mirrors, Mode};
use imgfactory::guest::lock::Lock;
use imgfactory::host::progress::Silent;
use imgfactory::host::project::Project;
use imgfactory::host::sources::Sources;
use imgfactory::index::UnixTime;
use imgfactory::release::SigningKey;
use imgfactory::report::report;

/// The bytes of the image that a guest of the given section becomes.
fn made(room: &Path, section: &str) -> Result<Vec<u8>, String> {
    let recipe = room.join("x.yaml");
    let text =
        format!("name: x\nhost: {{debian: {{}}}}\nboot: {{xen: true}}\nguests:\n- {{name: d, {section}}}\n");
    fs::write(&recipe, text).unwrap();
    let (project, recipe) = Project::load(&recipe).map_err(|error| error.to_string())?;
    let (dir, cache) = (room.join("files"), room.join("cache"));
    fs::create_dir_all(cache.join("logs")).unwrap();
    let request = Request {
        recipe: &recipe,
        project: &project,
        out: &cache,
        cache: &cache,
        mirrors: &Mirrors::default(),
        mode: Mode::Unshare,
        epoch: None,
        sources: Some(&dir),
        lock: &Lock::default(),
        offline: true,
        key: &SigningKey::generate().unwrap(),
        imgfetch: b"",
        now: UnixTime(0),
        progress: &Silent,
    };
    let sources = Sources::new(Some(&dir), &cache, true, &Silent);
    let disk = disks::make(&request, &sources, &recipe.guests[0]).map_err(|error| report(&error))?;
    let mut bytes = Vec::new();
    disk.copy(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, disk.size());
    Ok(bytes)
}

fn sha256(path: &Path) -> String {
    imgfactory::block::Sha256::of(&fs::read(path).unwrap()).to_string()
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
        ("cut.img.gz", "cut.img.gz: can't be inflated; it was cut off"),
        ("empty.img", "empty.img: empty"),
        ("text.vmdk", "text.vmdk: refers to another file (a descriptor without sectors of its own)"),
        ("back.qcow2", "back.qcow2: refers to another file (a backing file)"),
        ("ext.qcow2", "ext.qcow2: refers to another file (an external data file)"),
        ("not.qcow2", "qemu-img: exit status 1; its last lines:"),
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
    assert!(error.contains("http://a.example/a.img: its sum is not known; write `sha256: HEX`"), "{error}");
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
    let out = Command::new(env!("CARGO_BIN_EXE_imgfactory"))
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
