//! Guests of several kinds at once, below Xen in QEMU: built of files of others, started, stopped, bereft of their
//! clients. GRUB for Xen is the guest that is no Linux: it reads the file systems that we made.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use formats::digest::Sha256;
use imgfactory::guests::{GuestConfig, Starter};
use imgfactory::recipe::Virt;

use crate::boots::Nginx;
use crate::fixture::{ROOT, assert_success, demo, imgfactory, imgfetch, prepare, run, trial};
use crate::knoppix;
use crate::support::release::{Item, Release, gz};
use crate::support::{hosts, plan9};

/// Debian's GRUB for Xen, of package grub-xen-host.
const GRUB: &str = "/usr/lib/grub-xen/grub-x86_64-xen.bin";

/// A word that is nowhere but in one file of one guest.
fn word(of: &str) -> String {
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
    format!("{of}-{:016x}", u64::from_le_bytes(bytes))
}

/// GRUB's configuration that prints a file, and then `last`.
fn menu(last: &str) -> String {
    format!("set pager=0\ncat /etc/token\n{last}\n")
}

/// A disk with a partition table and an ext2 in its first partition, made by sfdisk and our writer.
fn disk(room: &Path, token: &str) -> Vec<u8> {
    let tree = room.join("tree");
    fs::create_dir_all(tree.join("boot/grub")).unwrap();
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/token"), format!("{token}\n")).unwrap();
    fs::write(tree.join("boot/grub/grub.cfg"), menu("while true; do sleep 5; done")).unwrap();
    let partition = room.join("partition");
    run(imgfactory(&["image", "pack", "--free", "1MiB", "--from"]).arg(&tree).arg("--to").arg(&partition));
    let mut disk = vec![0; 1 << 20];
    disk.extend(fs::read(&partition).unwrap());
    let path = room.join("disk");
    fs::write(&path, &disk).unwrap();
    let mut sfdisk =
        Command::new("sfdisk").arg(&path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    sfdisk.stdin.take().unwrap().write_all(b"label: dos\nstart=2048, type=83\n").unwrap();
    assert!(sfdisk.wait().unwrap().success());
    fs::read(&path).unwrap()
}

#[test]
fn guests_of_three_kinds_run_at_once_and_survive_a_stop_and_a_killed_client() {
    let demo = demo();
    let room = demo.cache.parent().unwrap().join("guests");
    let project = room.join("project");
    prepare(&project);
    let (bsd, of_disk) = (word("bsd"), word("disk"));

    // Files of others, as a mirror has them.
    let files = room.join("files");
    fs::create_dir_all(&files).unwrap();
    let kernel = fs::read(GRUB).unwrap_or_else(|error| panic!("{GRUB}: {error}; run ci/setup test"));
    let (token, grub) = (format!("{bsd}\n"), menu("sleep 3\nhalt"));
    let more = [
        Item::Dir("./boot"),
        Item::Dir("./boot/grub"),
        Item::File("./boot/grub/grub.cfg", 0o644, grub.as_bytes()),
        Item::File("./etc/token", 0o644, token.as_bytes()),
    ];
    Release::usual(&files, &kernel, &more);
    let disk = gz(&disk(&room, &of_disk));
    fs::write(files.join("disk.img.gz"), &disk).unwrap();

    let ours = Path::new(ROOT).join("tests/system/guests");
    let overlay = project.join("overlays/guests-host");
    run(Command::new("cp").arg("-a").arg(ours.join("overlay")).arg(&overlay));
    run(Command::new("cp")
        .arg("-a")
        .arg(ours.join("overlay-guest"))
        .arg(project.join("overlays/guests-guest")));
    let site = room.join("site");
    fs::create_dir_all(&site).unwrap();
    fs::write(site.join("page"), "a page\n").unwrap();
    let nginx = Nginx::serve(&site);
    fs::create_dir_all(project.join("overlays/nine/rc/bin")).unwrap();
    fs::write(project.join("overlays/nine/rc/bin/termrc.local"), "#!/bin/rc\n").unwrap();
    let nine = room.join("nine");
    plan9::files(&nine);
    let nine = plan9::legacy(&nine);
    run(Command::new("bzip2")
        .arg("--stdout")
        .arg(nine)
        .stdout(fs::File::create(files.join("nine.iso.bz2")).unwrap()));
    let page = format!("10.0.2.2:{}", nginx.port);
    let medium = knoppix::medium();
    fs::copy(&medium, files.join("knoppix.iso")).unwrap();
    let fill = |from: &Path, to: &Path| {
        let text = fs::read_to_string(from).unwrap();
        let text = text.replace("BSD-TOKEN", &bsd).replace("DISK-TOKEN", &of_disk).replace("PAGE", &page);
        let text = text.replace("KNOPPIX-SHA256", &Sha256::of(&fs::read(&medium).unwrap()).to_string());
        fs::write(to, text.replace("DISK-SHA256", &Sha256::of(&disk).to_string())).unwrap();
    };
    fill(&ours.join("guests.yaml"), &project.join("recipes/guests.yaml"));
    let scenario = overlay.join("usr/lib/imgfactory/scenario");
    fill(&scenario, &scenario);

    run(imgfactory(&["keygen", "keys/guests"]).current_dir(&project));
    // The third-party files are in the sources; only Debian's packages come over the network, those that the kinds of these
    // guests add to the host's among them.
    for args in [&["lock", "recipes/guests.yaml"][..], &["build", "recipes/guests.yaml", "--out", "out"]] {
        let mut make = imgfactory(args);
        make.arg("--sources").arg(&files).arg("--cache").arg(&demo.cache);
        let out = make.env("IMGFACTORY_IMGFETCH", imgfetch()).current_dir(&project).output().unwrap();
        assert_success(&format!("{args:?}"), &out);
    }
    let out = trial(&project.join("out")).args(["--bios", "--entry", "xen"]).output().unwrap();
    assert_success("imgfactory test of the guests", &out);
    let log = fs::read_to_string(nginx.dir.path().join("access.log")).unwrap();
    assert_eq!(log.matches("GET /page ").count(), 1, "the guest asked for the page:\n{log}");
}

/// As under the plain Linux entry of a host with QEMU, but on this machine.
#[test]
fn without_xen_the_same_guest_starts_by_qemu_from_the_same_image() {
    let demo = demo();
    let room = demo.cache.parent().unwrap().join("by-qemu");
    fs::create_dir_all(&room).unwrap();
    knoppix::guest_disk(&room.join("disk"));
    let linux =
        GuestConfig { memory_mib: 192, network: false, ..hosts::guest("guest", Virt::Pv, Starter::Linux) };
    hosts::install(&[linux], &room);
    let out = hosts::alone(
        &room,
        r#"
        at=/run/imgfactory/guests/guest
        mkdir -p $at/disk; mount --bind "$room" $at/disk
        guest create guest
        log=/var/log/xen/console/guest-guest.log
        for second in $(seq 600); do
            ! grep -q 'demo guest ready' $log || break
            kill -0 "$(cat $at/pid)"
            sleep 1
        done
        tail -n 20 $log
        guest destroy guest
        [ ! -e $at/pid ] && [ -z "$(losetup -j $at/disk/disk)" ]
        "#,
    );
    let said = hosts::good(&out);
    assert!(said.contains("demo guest ready"), "{said}\n{}", String::from_utf8_lossy(&out.stderr));
}
