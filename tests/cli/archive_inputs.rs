//! `image pack --from` and `image split`, given what people have: archives of all writers, pipes, chroots, disks. Needs
//! root.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::programs;

/// Runs a script in a directory, where `imgfactory` is the program under test.
fn shell(dir: &Path, script: &str) -> Output {
    let path = programs::imgfactory().parent().unwrap().display().to_string();
    let path = format!("{path}:{}", std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-euc", script]).current_dir(dir).env("PATH", path).env("NO_COLOR", "1");
    command.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap()
}

fn done(dir: &Path, script: &str) -> String {
    let out = shell(dir, script);
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn refused(dir: &Path, script: &str) -> String {
    let out = shell(dir, script);
    assert_eq!(out.status.code(), Some(1), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stderr).unwrap()
}

/// A directory `d` with a few files, and the image that it becomes: `d.img`.
fn room() -> tempfile::TempDir {
    let room = tempfile::tempdir().unwrap();
    let script =
        "mkdir -p d/etc d/lost+found; echo hello > d/etc/issue; ln -s etc/issue d/link; seq 50000 > d/numbers
                  find d -exec touch -h -d @1600000000 {} +
                  imgfactory image pack --from d --to d.img --name x";
    done(room.path(), script);
    room
}

#[test]
fn an_archive_of_every_writer_and_compressor_becomes_the_same_image_under_any_name() {
    let room = room();
    let writers = [
        "tar --format=gnu -C d -c .",
        "tar --format=oldgnu -C d -c .",
        "tar --format=ustar -C d -c .",
        "tar --format=pax -C d -c .",
        "tar --format=v7 -C d -c .",
        "bsdtar --format=pax -C d -c .",
        "bsdtar --format=ustar -C d -c .",
        "bsdtar --format=gnutar -C d -c .",
        "bsdtar --format=v7 -C d -c .",
    ];
    let filters =
        ["cat", "gzip -c", "xz -c", "zstd -c", "bzip2 -c", "lz4 -c", "lzip -c", "lzop -c", "compress -c"];
    for writer in writers {
        done(
            room.path(),
            &format!(
                "{writer} > a.tar; imgfactory image pack --from a.tar --to a.img --name x; cmp a.img d.img"
            ),
        );
    }
    for filter in filters {
        for name in ["a.tar", "a", "a.tar.gz", "a.zip", "a.img"] {
            let script = format!(
                "tar -C d -c . | {filter} > in-{name}; imgfactory image pack --from in-{name} --to a.img --name x; cmp a.img d.img"
            );
            done(room.path(), &script);
        }
        // Nothing but the image is left.
        assert_eq!(done(room.path(), "ls -A | grep -c tmp || true"), "0\n");
    }
    for kind in ["gzip", "bzip2", "xz"] {
        for name in ["b.tar", "b", "b.7z"] {
            let script = format!(
                "tar -C d -cf b.in .; rm -f {name} c; $(command -v 7zz 7z | head -n 1) a -t{kind} c.{kind} b.in > /dev/null
                 mv c.{kind} {name}; imgfactory image pack --from {name} --to b.img --name x; cmp b.img d.img"
            );
            done(room.path(), &script);
        }
    }
    // 7z does not keep owners and modes in its tar as others do; its files come through.
    done(room.path(), "cd d; $(command -v 7zz 7z | head -n 1) a -ttar ../z.tar etc numbers > /dev/null; cd ..; imgfactory image pack --from z.tar --to z.img
        test \"$(imgfactory image cat z.img /etc/issue)\" = hello");
}

#[test]
fn an_archive_can_come_out_of_a_pipe() {
    let room = room();
    for script in [
        "tar -C d -c . | imgfactory image pack --from - --to a.img --name x",
        "tar -C d -cz . | imgfactory image pack --from /dev/stdin --to a.img --name x",
        "imgfactory image pack --from <(tar -C d -cJ .) --to a.img --name x",
        "mkfifo p; tar -C d -c --zstd . > p & imgfactory image pack --from p --to a.img --name x",
    ] {
        done(room.path(), &format!("{script}; cmp a.img d.img; rm a.img"));
    }
}

#[test]
fn what_is_no_tar_archive_is_refused_by_name() {
    let room = room();
    for (script, said) in [
        (
            "bsdtar --format=zip -cf a d",
            "a: a zip archive, not a tar archive; unpack it, and give the file that is in it",
        ),
        ("bsdtar --format=7zip -cf a d", "a: a 7z archive, not a tar archive"),
        ("bsdtar --format=newc -cf a d", "a: a cpio archive, not a tar archive"),
        ("bsdtar --format=cpio -cf a d", "a: a cpio archive, not a tar archive"),
        (
            "bsdtar --format=bin -cf a d || bsdtar --format=odc -cf a d",
            "a: a cpio archive, not a tar archive",
        ),
        (
            "bsdtar --format=ar -cf a -C d/etc issue",
            "a: an ar archive (or a Debian package), not a tar archive",
        ),
        ("bsdtar --format=xar -cf a d", "a: a xar archive, not a tar archive"),
        (
            "bsdtar --format=iso9660 -cf a d",
            "a: an ISO 9660 medium, not a tar archive; mount it and give the directory",
        ),
        ("bsdtar --format=warc -cf a d/etc/issue", "a: a WARC archive, not a tar archive"),
        (
            "rm -f a; $(command -v 7zz 7z | head -n 1) a -t7z a.7z d > /dev/null; mv a.7z a",
            "a: a 7z archive, not a tar archive",
        ),
        (
            "$(command -v 7zz 7z | head -n 1) a -twim a.wim d > /dev/null; mv a.wim a",
            "a: a wim archive, not a tar archive",
        ),
        ("qemu-img create -q -f qcow2 a 1M", "a: a disk in the format qcow2, not a tar archive"),
        ("cp d.img a", "a: an ext2, ext3 or ext4 file system, not a tar archive; mount it"),
        (
            "echo text > a",
            "a: a file of no known format, not a tar archive; give a tar archive or a directory",
        ),
        ("tar -cz d | gzip -c > a", "a: compressed twice, at last by gzip, not a tar archive"),
        ("tar -cz d | head -c 2000 > a", "a: can't decompress it; it is truncated or damaged"),
        ("tar -c --zstd d | head -c 2000 > a", "zstd: exit status 1"),
        ("tar -c d | head -c 20000 > a", "truncated: the archive ends in the middle of an entry"),
    ] {
        done(room.path(), script);
        let error = refused(room.path(), "imgfactory image pack --from a --to a.img");
        assert!(error.contains(said), "{script}: {error}");
    }
    assert_eq!(done(room.path(), "ls -A | grep -c tmp || true"), "0\n");
}

#[test]
fn only_a_raw_disk_is_split() {
    let room = room();
    for (script, said) in [
        (
            "qemu-img convert -f raw -O qcow2 d.img a",
            "a: a qcow2 disk, not a raw disk; convert it: qemu-img convert -f qcow2 -O raw a a.raw, or split it as it is",
        ),
        ("zstd -cq d.img > a", "a: compressed by zstd, not a raw disk; decompress it: zstd -dc a > a.raw"),
        ("tar -cf a d", "a: a tar archive, not a raw disk; use `image pack --store`"),
    ] {
        done(room.path(), script);
        let error = refused(room.path(), "imgfactory image split a --store m --image x");
        assert!(error.contains(said), "{script}: {error}");
        done(room.path(), "imgfactory image split a --store m --image x --as-is");
    }
    done(room.path(), "imgfactory image split d.img --store m --image x");
}

#[test]
fn of_a_chroot_the_kernels_file_systems_are_left_out() {
    let room = room();
    // A mount namespace of its own: nothing stays mounted.
    let script = "mkdir -p d/proc d/sys d/dev d/tmp; mount -t proc proc d/proc; mount -t sysfs sysfs d/sys
        mount -t devtmpfs dev d/dev 2> /dev/null || mount --rbind /dev d/dev; mount -t tmpfs tmpfs d/tmp; echo mine > d/tmp/file
        imgfactory image pack --from d --to a.img; imgfactory image ls a.img /proc; imgfactory image ls a.img /sys
        imgfactory image cat a.img /tmp/file; imgfactory image cat a.img /etc/issue
        imgfactory image pack --one-file-system --from d --to b.img > /dev/null; imgfactory image ls b.img /tmp; imgfactory image ls b.img /dev";
    fs::write(room.path().join("script"), script).unwrap();
    let out = shell(room.path(), "unshare -m bash -eu script");
    let (printed, said) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(out.status.success(), "{said}");
    let lines: Vec<&str> = printed.lines().skip(1).collect();
    assert_eq!(lines, ["mine", "hello"], "{printed}");
    for mount in ["d/proc: a file system of the kernel (proc)", "d/sys: a file system of the kernel (sysfs)"]
    {
        assert!(
            said.contains(&format!("warning: {mount} is mounted there; its files are left out")),
            "{said}"
        );
    }
    assert!(said.contains("d/tmp: another file system (tmpfs) is mounted there"), "{said}");
}
