//! What the miniroot and the host run, as it ships, tried on this machine in namespaces of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use imgfactory::guests::{GuestConfig, Starter, install_in_host};
use imgfactory::miniroot::{ScriptValues, scripts};
use imgfactory::recipe::{Cow, Virt};
use imgfactory::templates::Templates;
use imgfactory::tree::{Content, FileTime, Kind, Meta, Node, Tree};

/// A guest that asks for little.
pub fn guest(name: &str, virt: Virt, starter: Starter) -> GuestConfig {
    GuestConfig {
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
        expects: false,
    }
}

/// Writes what a host with these guests gets into `room`.
pub fn install(guests: &[GuestConfig], room: &Path) {
    let mut host = Tree::new(Meta::default());
    for program in ["usr/sbin/dmsetup", "usr/bin/ip"] {
        let kind = Kind::File(Content::inline(Vec::new()));
        host.insert(program.as_bytes(), Node { meta: Meta::default(), kind }).unwrap();
    }
    install_in_host(&mut host, guests, &Templates::built_in(), FileTime::default()).unwrap();
    for (path, id) in host.walk() {
        let path = room.join(std::str::from_utf8(&path).unwrap());
        let node = host.node(id);
        match &node.kind {
            Kind::Directory(_) => fs::create_dir_all(path).unwrap(),
            Kind::File(content) => {
                fs::write(&path, content.read_all(&Vec::<Vec<u8>>::new()).unwrap()).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(node.meta.mode.into())).unwrap();
            }
            _ => {}
        }
    }
}

/// Writes the scripts of the miniroot of demo's host into `room`, and gives their paths there.
pub fn install_miniroot(room: &Path) -> Vec<String> {
    let settings = ScriptValues { name: "demo", image: "host", built: 0, disk: None };
    let files = scripts(&Templates::built_in(), &settings).unwrap();
    let paths = files.into_iter().map(|file| {
        let path = room.join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &file.bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode.into())).unwrap();
        file.path
    });
    paths.collect()
}

/// Runs a script of bash in namespaces of its own, with `room`'s files where a host has them, and programs in
/// `$room/fake` before all others. This machine is not below Xen there, wherever the test runs.
///
/// `guest ...` is the host's script for guests. `miniroot SCRIPT ARGUMENT` runs busybox's shell in a miniroot with
/// all that its /init sources; both see the same /run/imgfactory. `fake NAME` takes a program's text from its input,
/// `soon COMMAND` tries until it succeeds.
pub fn alone(room: &Path, script: &str) -> Output {
    let before = r#"set -eu
        mount --make-rprivate /
        for dir in /etc/imgfactory /run/imgfactory /usr/lib/imgfactory /var/log/xen; do
            mkdir -p $dir
            mount -t tmpfs tmpfs $dir
        done
        cp -a "$room"/etc/imgfactory/. /etc/imgfactory
        cp -a "$room"/usr/lib/imgfactory/. /usr/lib/imgfactory
        guest() { /usr/lib/imgfactory/guest "$@"; }

        # The links of this namespace, and no /sys/hypervisor but what a test puts there.
        mkdir /run/imgfactory/sys
        mount -t sysfs sysfs /run/imgfactory/sys
        mount -t tmpfs tmpfs /sys
        for dir in /run/imgfactory/sys/*; do
            [ "${dir##*/}" != hypervisor ] || continue
            mkdir "/sys/${dir##*/}"
            mount --bind "$dir" "/sys/${dir##*/}"
        done
        ip link set lo up

        mkdir -p "$room/fake"
        PATH="$room/fake:$PATH"
        # fake NAME <SCRIPT
        fake() { cat >"$room/fake/$1"; chmod +x "$room/fake/$1"; }
        ln -sf /bin/true "$room/fake/modprobe"
        # soon COMMAND: tries until it succeeds; minutes, so that no busy machine decides.
        soon() {
            for try in $(seq 600); do ! "$@" || return 0; sleep 0.2; done
            echo "in vain: $*" >&2
            return 1
        }

        root=$room/miniroot
        cp "$(command -v busybox)" "$root/bin/busybox"
        # The client says what it is asked for.
        printf '#!/bin/sh\necho "$@"\n' >"$root/bin/imgfetch"
        chmod +x "$root/bin/imgfetch"
        echo key >"$root/etc/imgfactory/release.pub"
        echo http://mirror.example/demo/ >"$root/etc/imgfactory/mirrors"
        mount --rbind /dev "$root/dev"
        mount --rbind /proc "$root/proc"
        mount --rbind /run/imgfactory "$root/run/imgfactory"
        sources=$(sed -n 's/^for part in \(.*\); do$/\1/p' "$root/init")
        [ -n "$sources" ]
        miniroot() {
            chroot "$root" /bin/busybox sh -c '
                export PATH=/bin:/sbin:/usr/bin:/usr/sbin
                CLIENT=/run/imgfactory/root
                . /etc/imgfactory/settings
                for part in '"$sources"'; do . "/lib/imgfactory/$part.sh"; done
                # A test has no console, and nobody for a shell there.
                say() { echo "$*" >&2; }
                rescue() { exit 1; }
                '"$1" sh "${2:-}"
        }
        "#;
    let root = room.join("miniroot");
    install_miniroot(&root);
    for dir in ["bin", "dev", "proc", "run/imgfactory"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"])
        .arg(format!("{before}{script}"))
        .env("room", room)
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
