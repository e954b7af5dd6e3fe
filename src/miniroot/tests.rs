//! A small kernel in a tree: which modules are chosen, what modprobe is told, what the miniroot holds.

use super::*;
use crate::tree::Tree;

const DEP: &str = "\
kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko
kernel/fs/jbd2/jbd2.ko.xz:
kernel/lib/crc16.ko:
kernel/drivers/block/loop.ko:
kernel/crypto/crc32c_generic.ko.gz:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/drivers/net/wireless/unwanted.ko:
";

fn xz(bytes: &[u8]) -> Vec<u8> {
    liblzma::encode_all(bytes, 6).unwrap()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// A root file system with two kernels, of which `6.12` is the newer.
fn host() -> Tree {
    let mut tree = Tree::new(Meta::default());
    let dir = "usr/lib/modules/6.12";
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("boot/vmlinuz-6.12".into(), b"kernel".to_vec()),
        ("boot/vmlinuz-6.9".into(), b"old kernel".to_vec()),
        ("usr/lib/modules/6.9/modules.dep".into(), b"kernel/old.ko:\n".to_vec()),
        ("usr/lib/modules/6.13/only-modules/modules.dep".into(), b"".to_vec()),
        (format!("{dir}/modules.dep"), DEP.into()),
        (format!("{dir}/modules.builtin"), b"kernel/fs/fuse/fuse.ko\nkernel/net/packet/af_packet.ko\n".to_vec()),
        (
            format!("{dir}/modules.alias"),
            b"# Aliases\nalias fs-ext2 ext4\nalias virtio:d00000001v* virtio_net\nalias pci:v0000* unwanted\n\
              alias crypto-crc32c crc32c_intel\nalias crypto-crc32c crc32c_generic\n"
                .to_vec(),
        ),
        (format!("{dir}/modules.softdep"), b"# Soft\nsoftdep ext4 pre: crypto-crc32c nosuch\n".to_vec()),
    ];
    for line in DEP.lines() {
        let path = line.split(':').next().unwrap();
        let plain = format!("bytes of {}", module_name(path)).into_bytes();
        let bytes = match path.rsplit('.').next().unwrap() {
            "xz" => xz(&plain),
            "gz" => gz(&plain),
            _ => plain,
        };
        files.push((format!("{dir}/{path}"), bytes));
    }
    for (path, bytes) in files {
        let node = Node { meta: Meta::default(), kind: Kind::File(Content::inline(bytes)) };
        tree.insert(path.as_bytes(), node).unwrap();
    }
    tree.insert(b"lib", Node { meta: Meta::default(), kind: Kind::Symlink(b"usr/lib".to_vec()) }).unwrap();
    tree
}

const NONE: Vec<Vec<u8>> = Vec::new();

#[test]
fn the_newest_kernel_with_an_image_is_found() {
    let tree = host();
    let kernel = Kernel::find(&tree, &NONE).unwrap();
    assert_eq!(kernel.release, "6.12");
    assert_eq!(Some(kernel.vmlinuz), tree.lookup(b"boot/vmlinuz-6.12"));
}

#[test]
fn a_tree_without_a_kernel_is_told_what_to_add() {
    let error = Kernel::find(&Tree::new(Meta::default()), &NONE).unwrap_err().to_string();
    assert!(
        error.starts_with("the tree has no kernel:") && error.ends_with("such as linux-image-amd64"),
        "{error}"
    );
}

#[test]
fn a_selection_has_the_modules_named_and_all_that_they_need() {
    let tree = host();
    let kernel = Kernel::find(&tree, &NONE).unwrap();
    let root = ["crc16", "crc32c_generic", "crc32c_intel", "ext4", "jbd2", "loop"];
    for (wanted, more) in [
        (&[][..], &[][..]),
        (&["fuse"], &[]),
        (&["virtio-net"], &["failover", "net_failover", "virtio_net"]),
        (&["net", "disk"], &["failover", "net_failover", "virtio_net"]),
        (&["crc32c-intel", "unwanted"], &["unwanted"]),
    ] {
        let selection = Selection::new(&kernel, wanted.iter().copied()).unwrap();
        let mut expected: Vec<_> = root.iter().chain(more).copied().collect();
        expected.sort_unstable();
        assert_eq!(selection.names().collect::<Vec<_>>(), expected, "{wanted:?}");
    }
}

#[test]
fn unknown_modules_are_all_reported_with_names_that_are_near() {
    let tree = host();
    let kernel = Kernel::find(&tree, &NONE).unwrap();
    let error = Selection::new(&kernel, ["virtio-nte", "lopo", "net", "quux-frobnicator"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel 6.12 has no module `virtio-nte` (near: `virtio_net`); no module `lopo` (near: `loop`); \
         no module `quux-frobnicator` (groups of modules: root, net, net-usb, net-server, disk, guest, keyboard)"
    );
}

#[test]
fn tables_for_modprobe_name_what_is_there_and_nothing_else() {
    let tree = host();
    let kernel = Kernel::find(&tree, &NONE).unwrap();
    let selection = Selection::new(&kernel, ["virtio_net"]).unwrap();
    let dep = selection.dep();
    assert!(
        dep.contains("kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko\n"),
        "in depmod's order, without suffixes of compression:\n{dep}"
    );
    assert!(dep.contains("kernel/crypto/crc32c_generic.ko:\n"), "{dep}");
    assert!(!dep.contains("unwanted"), "{dep}");
    assert_eq!(
        selection.alias(),
        "alias fs-ext2 ext4\nalias virtio:d00000001v* virtio_net\nalias crypto-crc32c crc32c_intel\n\
         alias crypto-crc32c crc32c_generic\n"
    );
}

fn miniroot(tree: &Tree) -> Tree {
    let kernel = Kernel::find(tree, &NONE).unwrap();
    let modules = Selection::new(&kernel, []).unwrap();
    let file = |path: &str, mode, bytes: &[u8]| File { path: path.into(), mode, bytes: bytes.into() };
    let ingredients = MinirootInputs {
        modules: &modules,
        busybox: vec![7; 10_000].into(),
        imgfetch: Some(vec![9; 5_000].into()),
        files: vec![file("init", 0o755, b"#!/bin/sh\n"), file("etc/imgfactory/release.pub", 0o644, b"key")],
        mtime: FileTime { secs: 1_700_000_000, nanos: 0 },
    };
    plan(&ingredients, &NONE).unwrap()
}

#[test]
fn a_miniroot_holds_programs_scripts_and_unpacked_modules() {
    let tree = miniroot(&host());
    for (path, expected) in [
        ("lib/modules/6.12/kernel/fs/ext4/ext4.ko", &b"bytes of ext4"[..]),
        ("lib/modules/6.12/kernel/crypto/crc32c_generic.ko", b"bytes of crc32c_generic"),
        ("init", b"#!/bin/sh\n"),
        ("etc/imgfactory/release.pub", b"key"),
    ] {
        let Some(Kind::File(content)) = tree.lookup(path.as_bytes()).map(|id| &tree.node(id).kind) else {
            panic!("{path} is a file");
        };
        let mut bytes = vec![0; content.len as usize];
        content.read_at(&NONE, 0, &mut bytes).unwrap();
        assert_eq!(bytes, expected, "{path}");
    }
    assert_eq!(
        tree.node(tree.lookup(b"bin/sh").unwrap()).kind,
        Kind::Symlink(b"/bin/busybox".to_vec()),
        "busybox is its shell"
    );
}

#[test]
fn a_damaged_module_is_named() {
    let mut tree = host();
    let path = b"usr/lib/modules/6.12/kernel/fs/ext4/ext4.ko.xz";
    for (bytes, expected) in
        [(xz(b"x")[..20].to_vec(), "can't read it"), (b"not xz at all".to_vec(), "can't read it")]
    {
        let node = Node { meta: Meta::default(), kind: Kind::File(Content::inline(bytes)) };
        tree.insert(path, node).unwrap();
        let kernel = Kernel::find(&tree, &NONE).unwrap();
        let error = Selection::new(&kernel, []).unwrap().files(&NONE).unwrap_err();
        assert_eq!(error.to_string(), format!("/{}: {expected}", String::from_utf8_lossy(path)));
    }
}

#[test]
fn packing_gives_the_same_bytes_and_parts_that_add_up() {
    let tree = miniroot(&host());
    let packed = pack(&tree).unwrap();
    assert_eq!(packed.bytes, pack(&tree).unwrap().bytes);
    let archive = liblzma::decode_all(&packed.bytes[..]).unwrap();
    let mut plain = Vec::new();
    cpio::write(&tree, &NONE, &mut plain, |_, _| Ok(())).unwrap();
    assert_eq!(archive, plain);
    assert_eq!(packed.parts.iter().map(|part| part.raw).sum::<u64>(), archive.len() as u64);
    assert_eq!(packed.parts.iter().map(|part| part.packed).sum::<u64>(), packed.bytes.len() as u64);
    let raw = |name: &str| packed.parts.iter().find(|part| part.name == name).unwrap().raw;
    assert!((10_000..10_400).contains(&raw("busybox")), "{:?}", packed.parts);
    assert!((5_000..5_400).contains(&raw("imgfetch")), "{:?}", packed.parts);
    // Stream flags: CRC-32, the one check that the kernel's decoder knows.
    assert_eq!(packed.bytes[7], 1);
}
