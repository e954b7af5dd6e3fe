//! What the host runs for guests, tried on this machine, in namespaces of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use imgfactory::guest::{Guest, Starter, install_in_host};
use imgfactory::recipe::templates::Templates;
use imgfactory::recipe::{Cow, Virt};
use imgfactory::tree::{Content, Kind, Meta, Node, Time, Tree};

/// A guest that asks for little.
pub fn guest(name: &str, virt: Virt, starter: Starter) -> Guest {
    Guest {
        name: name.into(),
        memory_mib: 32,
        vcpus: 1,
        cmdline: String::new(),
        at_boot: false,
        virt,
        starter,
        // Not every kernel that tests run on has dm-snapshot.
        cow: Cow::None,
        network: true,
        data: false,
    }
}

/// Writes what a host with these guests gets into `room`.
pub fn install(guests: &[Guest], room: &Path) {
    let mut host = Tree::new(Meta::default());
    for program in ["usr/sbin/dmsetup", "usr/bin/ip"] {
        let kind = Kind::File(Content::inline(Vec::new()));
        host.insert(program.as_bytes(), Node { meta: Meta::default(), kind }).unwrap();
    }
    install_in_host(&mut host, guests, &Templates::built_in(), Time::default()).unwrap();
    for (path, id) in host.walk() {
        let path = room.join(std::str::from_utf8(&path).unwrap());
        match &host.node(id).kind {
            Kind::Directory(_) => fs::create_dir_all(path).unwrap(),
            Kind::File(content) => {
                fs::write(path, content.read_all(&Vec::<Vec<u8>>::new()).unwrap()).unwrap();
            }
            _ => {}
        }
    }
}

/// Runs a script of bash in namespaces of its own, with `room`'s files where a host has them.
pub fn alone(room: &Path, script: &str) -> Output {
    let before = "set -eu
        mount --make-rprivate /
        for dir in /etc/imgfactory /run/imgfactory /var/log/xen; do mkdir -p $dir; mount -t tmpfs tmpfs $dir; done
        cp -a \"$room\"/etc/imgfactory/* /etc/imgfactory/
        mount -t sysfs sysfs /sys
        ip link set lo up
        mkdir -p \"$room/fake\"; ln -sf /bin/true \"$room/fake/modprobe\"; PATH=\"$room/fake:$PATH\"
        guest() { sh \"$room/usr/lib/imgfactory/guest\" \"$@\"; }
        ";
    Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"])
        .arg(format!("{before}{script}"))
        .env("room", room)
        .env("lease", concat!(env!("CARGO_MANIFEST_DIR"), "/templates/miniroot/lib/lease"))
        .output()
        .unwrap()
}

/// What it printed, if it went well.
#[track_caller]
pub fn good(out: &Output) -> String {
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{}\n{said}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    said
}
