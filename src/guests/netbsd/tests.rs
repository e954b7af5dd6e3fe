//! Small releases in memory.

use super::*;
use crate::foreign::sums::Sum;
use crate::recipe::{BsdArchitecture, Devices, SetName};
use crate::yaml::Scalar;
use formats::url::MirrorUrl;

fn recipe(devices: Devices) -> NetBsd {
    NetBsd {
        version: Scalar::read("10.1").unwrap(),
        architecture: BsdArchitecture::Amd64,
        mirrors: vec![MirrorUrl::read("http://a.example/").unwrap()],
        sets: vec![SetName::read("base").unwrap()],
        kernel: Scalar::read("XEN3_DOMU").unwrap(),
        devices,
        ssh_keys: vec![],
    }
}

fn file(tree: &mut Tree, path: &str, text: &str) {
    let meta = Meta { mode: 0o600, uid: 99, gid: 99, ..Meta::default() };
    let kind = Kind::File(Content::inline(text.as_bytes().to_vec()));
    tree.insert(path.as_bytes(), Node { meta, kind }).unwrap();
}

/// What the sets have left.
fn unpacked() -> Tree {
    let mut tree = Tree::new(Meta::default());
    file(&mut tree, "etc/master.passwd", "root:*:0:0::0:0:Charlie &:/root:/bin/sh\nuucp:*:66:1::0:0::/:\n");
    file(&mut tree, "etc/group", "wheel:*:0:root\nkmem:*:2:root\noperator:*:5:root\nuucp:*:66:\n");
    file(&mut tree, "etc/rc.conf", "#\t$NetBSD$\nrc_configured=NO\nwscons=YES\n\n");
    file(
        &mut tree,
        "etc/ttys",
        "console\t\"/usr/libexec/getty Pc\"\twsvt25\toff secure\nttyE1\t\"x\"\twsvt25\ton secure\n# end",
    );
    file(&mut tree, "usr/bin/cu", "");
    file(
        &mut tree,
        "etc/mtree/NetBSD.dist",
        "/set type=dir uname=root gname=wheel mode=0755\n.\n./tmp mode=01777\n./usr/bin\n\
         ./sys type=link mode=0755 link=usr/src/sys\n",
    );
    file(
        &mut tree,
        "etc/mtree/set.base",
        "./usr/bin/cu type=file uname=uucp gname=wheel mode=04555\n./not/here type=dir uname=nobody\n",
    );
    tree
}

fn config<'a>(recipe: &'a NetBsd, makedev: Option<&'a [u8]>) -> NetBsdConfig<'a> {
    NetBsdConfig {
        recipe,
        hostname: "bsd",
        writable: true,
        virt: Virt::Pv,
        kernel: Content::inline(b"kernel".to_vec()),
        makedev,
        ssh_keys: "",
        time: FileTime { secs: 7, nanos: 0 },
    }
}

fn no_contents() -> Vec<Vec<u8>> {
    Vec::new()
}

fn shown(tree: &Tree, path: &str) -> String {
    let id = tree.lookup(path.as_bytes()).unwrap_or_else(|| panic!("{path} is there"));
    let Node { meta, kind } = tree.node(id);
    let kind = match kind {
        Kind::File(content) => {
            String::from_utf8(content.read_all(&no_contents()).unwrap()).unwrap().replace('\n', "|")
        }
        Kind::Directory(_) => "/".to_owned(),
        other => format!("{other:?}"),
    };
    format!("{:o} {}:{} {kind}", meta.mode, meta.uid, meta.gid)
}

#[test]
fn owners_and_modes_are_those_of_the_specifications_and_first_boot_finds_its_files() {
    let mut tree = unpacked();
    let recipe = recipe(Devices::Minimal);
    configure(&mut tree, &no_contents(), &config(&recipe, None)).unwrap();
    for (path, expected) in [
        ("usr/bin/cu", "4555 66:0 "),
        ("tmp", "1777 0:0 /"),
        ("usr/bin", "755 0:0 /"),
        ("sys", "755 0:0 Symlink([117, 115, 114, 47, 115, 114, 99, 47, 115, 121, 115])"),
        (
            "etc/fstab",
            "644 0:0 /dev/xbd0a / ext2fs rw 1 1|kernfs /kern kernfs rw|ptyfs /dev/pts ptyfs rw|procfs /proc procfs rw|tmpfs /var/shm tmpfs rw,-m1777,-sram%25|",
        ),
        ("etc/rc.conf", "644 0:0 #\t$NetBSD$|wscons=YES|rc_configured=YES|hostname=bsd|dhcpcd=YES|"),
        (
            "etc/ttys",
            "644 0:0 console\t\"/usr/libexec/getty Pc\"\tvt100\ton secure|ttyE1\t\"x\"\twsvt25\toff secure|# end",
        ),
        ("dev/console", "600 0:0 CharDevice { major: 0, minor: 0 }"),
        ("dev/xbd0a", "640 0:5 BlockDevice { major: 142, minor: 0 }"),
        ("kern", "755 0:0 /"),
        ("var/shm", "1777 0:0 /"),
        ("boot/imgfactory/kernel", "644 0:0 kernel"),
    ] {
        assert_eq!(shown(&tree, path), expected, "{path}");
    }
    assert_eq!(tree.lookup(b"not"), None, "what belongs to a set that was not unpacked is not made");
}

#[test]
fn a_pvh_guest_mounts_the_disk_that_it_was_started_from() {
    let mut tree = unpacked();
    let recipe = recipe(Devices::Minimal);
    let config = NetBsdConfig { virt: Virt::Pvh, writable: false, ..config(&recipe, None) };
    configure(&mut tree, &no_contents(), &config).unwrap();
    assert!(shown(&tree, "etc/fstab").starts_with("644 0:0 ROOT.a / ext2fs ro 0 0|kernfs"));
    assert_eq!(shown(&tree, "dev/ld0a"), "640 0:5 BlockDevice { major: 19, minor: 0 }");
}

#[test]
fn device_nodes_are_minimal_all_or_none() {
    let all = b". type=dir optional\n./tap type=char device=netbsd,169,0xfffff mode=600 gid=0 uid=0\n\
                ./fd type=dir mode=755 gid=0 uid=0\n./fd/0 type=char device=netbsd,22,0 mode=666 gid=0 uid=0\n\
                ./ttyU0 type=char device=netbsd,66,0 mode=600 gid=0 uid=66\n\
                ./dtyU0 type=char device=netbsd,66,524288 mode=600 gid=0 uid=66\n./wd0a type=block device=netbsd,0,0 mode=640 gid=5 uid=0\n\
                ./rsd99p type=char device=netbsd,13,1048575 mode=640 gid=5 uid=0\n./bpf0 type=link link=bpf mode=0700 gid=0 uid=0\n\
                ./sd0 type=link link=rsd99p\n./pipe type=fifo\n";
    let names = |devices| {
        let mut tree = unpacked();
        configure(&mut tree, &no_contents(), &config(&recipe(devices), Some(all))).unwrap();
        tree.entries(tree.lookup(b"dev").unwrap()).unwrap().len()
    };
    // `pts` is there for ptyfs.
    assert_eq!([Devices::None, Devices::Minimal, Devices::All].map(names), [1, 29, 37]);
}

#[test]
fn each_fault_is_told_with_the_file_and_the_remedy() {
    let faulty = |change: &dyn Fn(&mut Tree)| {
        let mut tree = unpacked();
        change(&mut tree);
        let error =
            configure(&mut tree, &no_contents(), &config(&recipe(Devices::Minimal), None)).unwrap_err();
        formats::report::report(&error).replace('\n', "|")
    };
    for (said, change) in [
        (
            "error: /etc/group: missing from the sets; check that the recipe lists `etc` and that the file is complete",
            &(|tree: &mut Tree| assert!(tree.remove(b"etc/group"))) as &dyn Fn(&mut Tree),
        ),
        (
            "error: /etc/rc.conf: missing from the sets; check that the recipe lists `etc` and that the file is complete",
            &|tree| {
                assert!(tree.remove(b"etc/rc.conf"));
            },
        ),
        ("error: /etc/mtree/set.x: line 1: no user `ann` in the files that the sets contain", &|tree| {
            file(tree, "etc/mtree/set.x", "./usr/bin/cu type=file uname=ann");
        }),
        ("error: /etc/mtree/set.x|  caused by: line 1: `8` can't be its mode", &|tree| {
            file(tree, "etc/mtree/set.x", "./usr/bin/cu type=file mode=8");
        }),
        (
            "error: the built-in device nodes: line 4: no group `kmem` in the files that the sets contain",
            &|tree| {
                file(tree, "etc/group", "wheel:*:0:\n");
            },
        ),
    ] {
        assert_eq!(faulty(change), said);
    }
}

#[test]
fn sets_and_kernels_are_found_in_the_checksum_file_by_either_ending() {
    let sum = |name: &str| (name.to_owned(), Sum::Sha512("0".repeat(128).parse().unwrap()));
    let sums: BTreeMap<String, Sum> =
        ["base.tar.xz", "etc.tgz", "netbsd-GENERIC.gz", "MD5"].into_iter().map(sum).collect();
    assert_eq!(set_file(&sums, "base").unwrap().0, "base.tar.xz");
    assert_eq!(set_file(&sums, "etc").unwrap().0, "etc.tgz");
    assert_eq!(kernel_file(&sums, "GENERIC").unwrap().0, "netbsd-GENERIC.gz");
    assert_eq!(
        set_file(&sums, "bas").unwrap_err().to_string(),
        "the release has no set `bas`, neither as .tar.xz nor as .tgz; it has `base`, `etc`"
    );
    assert_eq!(
        kernel_file(&sums, "XEN3_DOMU").unwrap_err().to_string(),
        "the release has no kernel `XEN3_DOMU`; it has `GENERIC`"
    );
}
