//! A miniroot judged by the programs that read it: xz, cpio, and busybox's modprobe in it. Needs root.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use imgfactory::miniroot::{File, Kernel, MinirootInputs, Selection, pack, plan};
use imgfactory::tree::{Content, FileTime, Kind, Meta, Node, Tree};

/// Two levels of dependencies, a soft one that is an alias of two modules, and one module that nobody wants.
const DEP: &str = "\
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko
kernel/fs/jbd2/jbd2.ko: kernel/lib/crc16.ko
kernel/lib/crc16.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/crypto/crc32c_generic.ko:
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/drivers/net/wireless/unwanted.ko:
";

/// A miniroot with modules for the kernel that runs, so that modprobe in it looks at them.
fn miniroot(release: &str) -> Tree {
    let dir = format!("usr/lib/modules/{release}");
    let mut host = Tree::new(Meta::default());
    let mut put = |path: String, text: &str| {
        let node = Node { meta: Meta::default(), kind: Kind::File(Content::inline(text.as_bytes())) };
        host.insert(path.as_bytes(), node).unwrap();
    };
    put(format!("boot/vmlinuz-{release}"), "kernel");
    put(format!("{dir}/modules.dep"), DEP);
    put(format!("{dir}/modules.builtin"), "kernel/fs/fuse/fuse.ko\n");
    put(
        format!("{dir}/modules.alias"),
        "alias fs-ext2 ext4\nalias virtio:d00000001v* virtio_net\nalias crypto-crc32c crc32c_intel\n\
         alias crypto-crc32c crc32c_generic\nalias pci:v*d*sv*sd*bc02sc80i* unwanted\n",
    );
    put(format!("{dir}/modules.softdep"), "softdep ext4 pre: crypto-crc32c\n");
    for line in DEP.lines() {
        put(format!("{dir}/{}", line.split(':').next().unwrap()), "not really a module");
    }
    let none: Vec<Vec<u8>> = Vec::new();
    let kernel = Kernel::find(&host, &none).unwrap();
    let modules = Selection::new(&kernel, ["virtio-net"]).unwrap();
    let ingredients = MinirootInputs {
        modules: &modules,
        busybox: fs::read("/bin/busybox").expect("busybox-static is installed").into(),
        imgfetch: Some(b"client".to_vec().into()),
        files: vec![File { path: "init".into(), mode: 0o755, bytes: b"#!/bin/sh\n".to_vec().into() }],
        mtime: FileTime { secs: 1_700_000_000, nanos: 0 },
    };
    plan(&ingredients, &none).unwrap()
}

/// Unpacks with xz and cpio of this machine, which must not complain.
fn unpack(packed: &[u8], dir: &Path) {
    let mut child = Command::new("bash")
        .args(["-ec", "set -o pipefail; xz -dc | cpio -idm --quiet"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(packed).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn xz_and_cpio_unpack_it_with_types_modes_and_times() {
    let dir = tempfile::tempdir().unwrap();
    unpack(&pack(&miniroot("6.12")).unwrap().bytes, dir.path());
    let meta = |path: &str| fs::symlink_metadata(dir.path().join(path)).unwrap();
    assert_eq!(meta("init").permissions().mode(), 0o100_755);
    assert_eq!(meta("tmp").permissions().mode(), 0o041_777);
    assert_eq!(meta("bin/imgfetch").mtime(), 1_700_000_000);
    let console = meta("dev/console");
    assert!(console.file_type().is_char_device() && console.rdev() == 0x501, "{console:?}");
    assert_eq!(fs::read_link(dir.path().join("sbin/modprobe")).unwrap(), Path::new("/bin/busybox"));
    assert_eq!(
        fs::read(dir.path().join("bin/busybox")).unwrap(),
        fs::read("/bin/busybox").unwrap(),
        "a large file comes out as it was"
    );
}

#[test]
fn modprobe_of_busybox_finds_modules_by_alias_with_what_they_need() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let dir = tempfile::tempdir().unwrap();
    unpack(&pack(&miniroot(release.trim())).unwrap().bytes, dir.path());
    let shown = |module: &str| {
        let out = Command::new("chroot")
            .arg(dir.path())
            .args(["/sbin/modprobe", "-D", module])
            .output()
            .expect("chroot runs (the test needs root)");
        assert!(out.status.success(), "{module}: {}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines().map(|line| line.rsplit('/').next().unwrap().trim().to_owned()).collect::<Vec<_>>()
    };
    for (asked, loaded) in [
        ("fs-ext2", &["crc16.ko", "jbd2.ko", "ext4.ko"][..]),
        ("virtio:d00000001v00001AF4", &["failover.ko", "net_failover.ko", "virtio_net.ko"]),
        ("crypto-crc32c", &["crc32c_generic.ko", "crc32c-intel.ko"]),
    ] {
        assert_eq!(shown(asked), loaded, "{asked}");
    }
    // What is built in is there without being loaded.
    let fuse = Command::new("chroot").arg(dir.path()).args(["/sbin/modprobe", "fuse"]).output().unwrap();
    assert!(fuse.status.success() && fuse.stderr.is_empty(), "{}", String::from_utf8_lossy(&fuse.stderr));
}
