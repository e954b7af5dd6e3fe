//! Disks of every format that qemu-img writes, under right, wrong and no endings; and what is no disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use formats::digest::Sha256;

use crate::support::requests::guest_disk;

/// The image that a guest of kind `disk` becomes.
fn made(room: &Path, name: &str, more: &str) -> Result<Vec<u8>, String> {
    let files = room.join("files");
    let sum = Sha256::of(&fs::read(files.join(name)).unwrap());
    let section = format!("disk: {{urls: ['http://a.example/{name}'], sha256: '{sum}'{more}}}");
    guest_disk(room, &format!("{{name: d, {section}}}"), &files)
}

fn run(tool: &str, args: &[&str], dir: &Path) {
    let out = Command::new(tool).args(args).current_dir(dir).output();
    let out = out.unwrap_or_else(|error| panic!("{tool} is needed: {error}"));
    assert!(out.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A disk with a partition table and something in it.
fn disk() -> Vec<u8> {
    let mut disk: Vec<u8> = (0u32..(1 << 18)).flat_map(|n| (n / 7).to_le_bytes()).collect();
    disk[..100_000].fill(0);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

#[test]
fn a_disk_of_every_format_is_told_by_its_contents_under_any_name() {
    let room = tempfile::tempdir().unwrap();
    let files = room.path().join("files");
    fs::create_dir(&files).unwrap();
    let disk = disk();
    fs::write(room.path().join("raw"), &disk).unwrap();
    let formats: [(&str, &[&str], &str); 12] = [
        ("raw", &[], "raw"),
        ("qcow", &[], "qcow"),
        ("qcow2", &[], "qcow2"),
        ("qcow2", &["-o", "compat=0.10", "-c"], "qcow2"),
        ("qed", &[], "qed"),
        ("vmdk", &[], "vmdk"),
        ("vmdk", &["-o", "subformat=streamOptimized"], "vmdk"),
        ("vdi", &[], "vdi"),
        ("vhdx", &[], "vhdx"),
        ("vpc", &[], "vhd"),
        ("vpc", &["-o", "subformat=fixed"], "vhd"),
        ("parallels", &[], "hds"),
    ];
    for (format, options, ending) in formats {
        let converted = [&["convert", "-f", "raw", "-O", format], options, &["raw", "made"]].concat();
        run("qemu-img", &converted, room.path());
        let bytes = fs::read(room.path().join("made")).unwrap();
        // One name at a time; each has a cache of its own.
        for name in [&format!("a.{ending}"), "a.img", "a", "a.qcow2", "a.vmdk", "a.gz", "a.iso"] {
            fs::write(files.join(name), &bytes).unwrap();
            let made =
                made(room.path(), name, "").unwrap_or_else(|error| panic!("{format} as {name}: {error}"));
            // A VHD has whole cylinders.
            let end = if format == "vpc" { 1 << 20 } else { 0 };
            assert!(made.starts_with(&disk), "{format} as {name}: other bytes");
            assert!(made.len() <= disk.len() + end, "{format} as {name}: {} bytes", made.len());
            assert!(made[disk.len()..].iter().all(|&byte| byte == 0), "{format} as {name}");
            fs::remove_dir_all(room.path().join("cache")).unwrap();
            fs::remove_file(files.join(name)).unwrap();
        }
    }
}

#[test]
fn a_compressed_disk_is_told_by_its_contents_under_any_name() {
    let room = tempfile::tempdir().unwrap();
    let files = room.path().join("files");
    fs::create_dir(&files).unwrap();
    let disk = disk();
    fs::write(room.path().join("raw"), &disk).unwrap();
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "raw", "qcow2"], room.path());
    for (program, ending) in [
        ("gzip", "gz"),
        ("xz", "xz"),
        ("zstd", "zst"),
        ("bzip2", "bz2"),
        ("lz4", "lz4"),
        ("lzip", "lz"),
        ("lzop", "lzo"),
        ("compress", "Z"),
    ] {
        for from in ["raw", "qcow2"] {
            let script = format!("{program} -c < {from} > made");
            run("sh", &["-ec", &script], room.path());
            for name in [format!("a.{from}.{ending}"), "a.img".into(), "a".into(), "a.qcow2".into()] {
                fs::copy(room.path().join("made"), files.join(&name)).unwrap();
                let made = made(room.path(), &name, "");
                let made = made.unwrap_or_else(|error| panic!("{program} {from} as {name}: {error}"));
                assert!(made == disk, "{program} {from} as {name}: {} bytes", made.len());
                fs::remove_dir_all(room.path().join("cache")).unwrap();
            }
        }
    }
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let room = tempfile::tempdir().unwrap();
    let files = room.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(room.path().join("raw"), disk()).unwrap();
    let make = |script: &str| run("sh", &["-ec", script], room.path());
    for (script, said) in [
        ("bsdtar --format=zip -cf made raw", "a.img: a zip archive, not a disk; unpack it"),
        ("bsdtar --format=7zip -cf made raw", "a.img: a 7z archive, not a disk; unpack it"),
        ("tar -cf made raw", "a.img: a tar archive, not a disk; unpack it"),
        ("tar -czf made raw", "a.img: a tar archive, not a disk; unpack it"),
        ("gzip -c raw | gzip -c > made", "a.img: compressed twice, at last by gzip; decompress it once"),
        (
            "qemu-img create -q -f luks --object secret,id=s,data=x -o key-secret=s,iter-time=10 made 1M",
            "a.img: a disk encrypted with LUKS; give the disk as it is when it is open",
        ),
        (
            "qemu-img create -q -f vmdk -o subformat=monolithicFlat made.vmdk 1M; mv made.vmdk made",
            "another file",
        ),
        (
            "qemu-img convert -f raw -O qcow2 raw b; qemu-img create -q -f qed -b b -F qcow2 made",
            "the disk image needs another file (a backing file)",
        ),
        (
            "qemu-img convert -f raw -O vmdk raw b; qemu-img create -q -f vmdk -b b -F vmdk made",
            "the disk image needs another file (a backing file)",
        ),
        (
            "qemu-img convert -f raw -O qcow2 raw b; head -c 500000 b > made",
            "qemu-img check says that the disk is truncated or damaged",
        ),
    ] {
        make(script);
        fs::rename(room.path().join("made"), files.join("a.img")).unwrap();
        let error = made(room.path(), "a.img", "").map(|bytes| bytes.len()).expect_err(script);
        assert!(error.contains(said), "{script}: {error}");
        let _ = fs::remove_dir_all(room.path().join("cache"));
    }
    // What a recipe says is compared with what the file is.
    make("qemu-img convert -f raw -O qcow2 raw files/a.img");
    let error = made(room.path(), "a.img", ", format: raw").unwrap_err();
    assert!(
        error.contains("the recipe says `format: raw`, but the file is a qcow2 disk; leave `format` out"),
        "{error}"
    );
    assert!(made(room.path(), "a.img", ", format: qcow2").unwrap() == disk());
}
