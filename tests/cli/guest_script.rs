//! The host's script for guests where it can be tried without Xen: QEMU's machines, and the bridge.
//!
//! Each test has mounts, links and processes of its own (unshare), so it needs root, loop devices and FUSE's place
//! taken by a file.

use std::fs;
use std::process::Output;

use imgfactory::guest::{Guest, Starter};
use imgfactory::host::files::Scratch;
use imgfactory::recipe::Virt;

use crate::support::hosts::{alone, good, guest, install};

/// A directory with what a host with these guests gets.
fn room_with(guests: &[Guest]) -> Scratch {
    let room = Scratch::directory(std::env::temp_dir()).unwrap();
    install(guests, room.path());
    room
}

/// A boot sector that says `text` on the first serial line and then waits for ever.
fn boot_sector(text: &str) -> Vec<u8> {
    // mov si, 0x7c00 + 32; mov dx, 0x3f8
    let mut code = vec![0xbe, 0x20, 0x7c, 0xba, 0xf8, 0x03];
    // lodsb; test al, al; jz +3; out dx, al; jmp -8; hlt; jmp -3
    code.extend([0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, 0xf4, 0xeb, 0xfd]);
    code.resize(32, 0);
    code.extend(text.as_bytes());
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    code.resize(1 << 20, 0);
    code
}

#[test]
fn without_xen_qemu_makes_a_guests_machine_and_its_devices_go_after_it() {
    let room = room_with(&[guest("pc", Virt::Hvm, Starter::Disk)]);
    fs::write(room.path().join("disk"), boot_sector("the disk has booted\n")).unwrap();
    let out = alone(
        room.path(),
        r#"
        at=/run/imgfactory/guests/pc
        mkdir -p $at/disk; cp "$room/disk" $at/disk/disk
        for round in 1 2; do
            guest create pc
            until [ "$(grep -c 'the disk has booted' /var/log/xen/console/guest-pc.log)" = $round ]; do sleep 0.2; done
            [ -S $at/screen ] && [ -e $at/console ] && losetup -j $at/disk/disk | grep -q .
            kill -0 "$(cat $at/pid)"
            guest list
            # It listens to no power button: that is waited for, here not for long.
            sed -i 's/^PATIENCE=.*/PATIENCE=1/' "$room/usr/lib/imgfactory/guest"
            guest shutdown pc
            guest destroy pc
            [ ! -e $at/pid ] && [ -z "$(losetup -j $at/disk/disk)" ]
        done
        "#,
    );
    let said = good(&out);
    assert!(said.contains("pc               qemu"), "{said}");
}

#[test]
fn below_xen_whole_machines_are_made_where_the_processor_can() {
    let room = room_with(&[guest("pc", Virt::Hvm, Starter::Disk), guest("bsd", Virt::Pv, Starter::NetBsd)]);
    fs::write(room.path().join("disk"), vec![0; 4096]).unwrap();
    let out = alone(
        room.path(),
        r#"
        mkdir -p /run/imgfactory/guests/pc/disk; cp "$room/disk" /run/imgfactory/guests/pc/disk/disk
        # No Xen here: the script believes that there is, and its xl says what it is told.
        sed -i 's/^below_xen() {/below_xen() { return 0; }\nno_xen() {/' "$room/usr/lib/imgfactory/guest"
        printf '#!/bin/sh\ncase $1 in info) echo "virt_caps              : $caps" ;; create) echo "$@" ;; *) exit 1 ;; esac\n' >"$room/fake/xl"
        chmod +x "$room/fake/xl"
        sed -i 's|^MODEL=.*|MODEL=/nowhere|' "$room/usr/lib/imgfactory/guest"
        caps='pv hvm hap'; export caps
        guest create pc 2>&1 || guest destroy pc
        sed -i 's|^MODEL=.*|MODEL=/bin/true|' "$room/usr/lib/imgfactory/guest"
        # As xl has it: of AMD without and with an IOMMU, of Intel, without nested paging, without all.
        for caps in 'pv hvm hap gnttab-v1' 'pv hvm hvm_directio hap shadow' 'hvm hap' 'pv hvm shadow' 'pv' ''; do
            export caps
            echo "$caps: $(guest create pc 2>&1)"
            guest destroy pc
        done
        "#,
    );
    let said = good(&out);
    let mut lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 7, "{said}");
    let without = lines.remove(0);
    assert!(without.ends_with("add qemu-system-xen to the host's packages"), "{without}");
    for line in &lines[..3] {
        assert!(line.contains(": create -q /etc/imgfactory/guests/pc.cfg disk=[\"phy:/dev/loop"), "{line}");
    }
    for line in &lines[3..] {
        assert!(
            line.contains("pc wants a processor with virtualisation") && line.contains("what runs: bsd;"),
            "{line}"
        );
    }
}

#[test]
fn a_disk_that_xen_still_holds_is_no_failure_of_its_client() {
    let room = room_with(&[guest("pc", Virt::Hvm, Starter::Disk)]);
    let out = alone(
        room.path(),
        r#"
        at=/run/imgfactory/guests/pc/disk
        mkdir -p $at; mount -t tmpfs disk $at; echo held >$at/disk
        exec 7<$at/disk
        guest unserve pc
        [ ! -e $at/disk ]
        cat <&7
        guest unserve pc 2>/dev/null
        "#,
    );
    assert_eq!(good(&out), "held\n");
}

/// What `script` prints in a host with a guest `bsd`: `choose` takes words of the boot menu, `hosts_client` and
/// `guests_client` say what the two clients are asked for then.
fn after_the_menu(script: &str) -> Output {
    let room = room_with(&[guest("bsd", Virt::Pv, Starter::NetBsd)]);
    let prelude = r#"
        CLIENT=/run/imgfactory/root NAME=demo IMAGE=host DISK=
        mkdir -p $CLIENT/run $CLIENT/etc/imgfactory $CLIENT/bin
        : >$CLIENT/etc/imgfactory/mirrors
        # The client says what it was asked for; for the host it is asked in a chroot.
        printf '#!/bin/sh\nshift; echo "$@"\n' >"$room/fake/chroot"
        printf '#!/bin/sh\necho "$@"\n' >$CLIENT/bin/imgfetch
        chmod +x "$room/fake/chroot" $CLIENT/bin/imgfetch
        . "${lease%/*}/cmdline.sh"
        . "${lease%/*}/client.sh"
        say() { :; }
        choose() {
            parse_command_line "nocache $1" && medium=
            # As in the miniroot, where what fails is looked at.
            (set +e; start_client)
        }
        hosts_client() { cat $CLIENT/run/imgfetch.log; }
        guests_client() { (set -a; . /run/imgfactory/environment; guest serve bsd); }
        "#;
    alone(room.path(), &[prelude, script].concat())
}

#[test]
fn what_host_and_guests_read_is_noted_and_sent_when_a_boot_is_profiled() {
    let out = after_the_menu(
        r#"
        choose ''
        ! grep -e --record-reads $CLIENT/run/imgfetch.log
        ! guests_client | grep -e --record-reads
        choose imgfactory.reads
        hosts_client | grep -o -e '--record-reads [^ ]*'
        guests_client | grep -o -e '--record-reads [^ ]*'

        # The real chroot, with what the miniroot links there.
        rm "$room/fake/chroot"
        cp "$(command -v busybox)" $CLIENT/bin/busybox
        for applet in $(sed -n 's/^ *for applet in \(.*\); do$/\1/p' "${lease%/*}/client.sh"); do
            ln -sf busybox $CLIENT/bin/$applet
        done
        mkdir -p $CLIENT/run/reads
        echo pages >$CLIENT/run/reads/host
        echo http://127.0.0.1:8000/demo/ >$CLIENT/etc/imgfactory/mirrors
        ip link set lo up
        printf 'HTTP/1.1 204 No Content\r\n\r\n' | busybox nc -l -p 8000 >/run/imgfactory/came &
        send_reads
        until grep -q '^pages' /run/imgfactory/came; do sleep 0.1; done
        head -n 1 /run/imgfactory/came | tr -d '\r'
        "#,
    );
    let expected = [
        "--record-reads /run/reads",
        "--record-reads /run/imgfactory/root/run/reads",
        "POST /demo/reads/host HTTP/1.1",
    ];
    assert_eq!(good(&out).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn how_long_reads_wait_is_said_in_the_boot_menu_for_the_host_and_its_guests() {
    let out = after_the_menu(
        r#"
        for option in '' deadline=5m deadline=none; do
            choose "$option"
            echo "host${option:+ }$option: $(hosts_client | grep -o -e ' --deadline [^ ]*')" || true
            guests_client | grep -o -e '--deadline .*'
        done
        "#,
    );
    let disk = "/run/imgfactory/guests/bsd/disk";
    let expected = [
        // The client of a root waits when nobody says otherwise.
        "host: ".to_owned(),
        format!("--deadline none {disk}"),
        "host deadline=5m:  --deadline 5m".into(),
        format!("--deadline 5m {disk}"),
        "host deadline=none:  --deadline none".into(),
        format!("--deadline none {disk}"),
    ];
    assert_eq!(good(&out).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_chosen_in_the_boot_menu_holds_for_the_clients_of_guests_too() {
    let out = after_the_menu(
        r#"
        for options in '' nodlahead 'dlahead=8 strict netselect' nonetselect; do
            choose "$options"
            for words in "$(hosts_client)" "$(guests_client)"; do
                echo "$words" | grep -o -e '--name .*' | sed 's/ --\(key\|mirrors\) .*//'
            done
        done
        : >$CLIENT/etc/imgfactory/ca.crt
        guests_client | grep -o -e '--ca [^ ]*'
        "#,
    );
    let words = [
        "--name demo",
        "--name demo --no-prefetch",
        "--name demo --strict --connections 8 --netselect",
        "--name demo --no-netselect",
    ];
    let expected = words.iter().flat_map(|words| [*words; 2]);
    let expected: Vec<_> = expected.chain(["--ca /run/imgfactory/root/etc/imgfactory/ca.crt"]).collect();
    assert_eq!(good(&out).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn the_guest_that_the_boot_menu_named_is_shown_full_screen_once_it_runs() {
    let room = room_with(&[guest("pc", Virt::Hvm, Starter::Disk)]);
    fs::write(room.path().join("disk"), boot_sector("the disk has booted\n")).unwrap();
    let out = alone(
        room.path(),
        r#"
        at=/run/imgfactory/guests/pc
        mkdir -p $at/disk; cp "$room/disk" $at/disk/disk
        # systemd would start the unit, which is this.
        printf '#!/bin/sh\n[ "$*" = "start imgfactory-guest@pc.service" ] && sh "$room/usr/lib/imgfactory/guest" create pc\n' >"$room/fake/systemctl"
        printf '#!/bin/sh\necho "viewer $*"\n' >"$room/fake/vncviewer"
        chmod +x "$room/fake/systemctl" "$room/fake/vncviewer"
        echo "nothing chosen: $(guest watch)"
        echo "ro imgfactory.guest=pc quiet" >"$room/words"
        mount --bind "$room/words" /proc/cmdline
        guest watch >"$room/shown" &
        guest chosen
        wait $!
        cat "$room/shown"
        # Anybody at this machine may look, and a real VNC server answers.
        [ "$(stat -c %a $at/screen)" = 666 ]
        curl --silent --http0.9 --max-time 20 --unix-socket $at/screen http://screen/ | head -c 7 || true
        guest destroy pc
        "#,
    );
    let said = good(&out);
    assert!(said.contains("nothing chosen: \n"), "{said}");
    assert!(said.contains("viewer -FullScreen /run/imgfactory/guests/pc/screen\nRFB 003"), "{said}");
}

#[test]
fn a_guest_that_wants_xen_says_so_at_once() {
    let room = room_with(&[guest("bsd", Virt::Pv, Starter::NetBsd)]);
    let out = alone(room.path(), "guest create bsd");
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&out.stderr),
        "guest: bsd starts below Xen only: take Xen's entry of the boot menu\n"
    );
    let out = alone(room.path(), "guest console nobody");
    assert_eq!(String::from_utf8_lossy(&out.stderr), "guest: no guest 'nobody'; there are: bsd \n");
}

#[test]
fn the_hosts_link_moves_below_the_bridge_and_connections_survive() {
    let room = room_with(&[guest("pc", Virt::Hvm, Starter::Disk)]);
    let out = alone(
        room.path(),
        r#"
        # The host's side, with a lease as the miniroot leaves it; outside, a DHCP server and a peer for a connection.
        ip netns add outside 2>/dev/null || { mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; ip netns add outside; }
        trap 'ip netns del outside' EXIT
        ip link add eth0 type veth peer name wire netns outside
        ip netns exec outside ip address add 192.0.2.1/24 dev wire
        ip netns exec outside ip link set wire up
        ip netns exec outside ip link set lo up
        printf 'interface wire\nstart 192.0.2.50\nend 192.0.2.59\nlease_file /tmp/leases-%s\noption subnet 255.255.255.0\noption router 192.0.2.1\n' $$ >/run/imgfactory/udhcpd.conf
        mkdir -p /run/imgfactory/lib; : >/tmp/leases-$$
        ip netns exec outside busybox udhcpd -f /run/imgfactory/udhcpd.conf >/dev/null 2>&1 &
        client=/run/imgfactory/root
        mkdir -p $client/bin $client/@ $client/lib/imgfactory $client/run $client/etc $client/dev
        cp "$(command -v busybox)" $client/bin/busybox
        for applet in cat ip mkdir mv rm sh; do ln -s busybox $client/bin/$applet; done
        ln -s ../bin/busybox $client/@/udhcpc
        mknod -m 666 $client/dev/null c 1 3
        mknod -m 666 $client/dev/urandom c 1 9
        cp "$lease" $client/lib/imgfactory/lease; chmod +x $client/lib/imgfactory/lease
        ip link set eth0 up
        chroot $client @/udhcpc -f -i eth0 -s /lib/imgfactory/lease -t 4 -T 1 -A 1 >/dev/null 2>&1 &
        until [ -e $client/run/lease/summary ]; do sleep 0.1; done
        cat $client/run/lease/summary
        before=$(ip -4 -o address show dev eth0 | sed 's/.* inet \([^ ]*\).*/\1/')

        # A connection that is open all the while.
        mkfifo /run/imgfactory/to; exec 5<>/run/imgfactory/to
        ip netns exec outside busybox nc -l -p 7777 <&5 >/run/imgfactory/came &
        # It listens: port 7777.
        until ip netns exec outside cat /proc/net/tcp /proc/net/tcp6 | grep -q ':1E61 '; do sleep 0.1; done
        exec 3<>/dev/tcp/192.0.2.1/7777
        echo one >&3
        guest bridge
        echo two >&3
        until [ "$(wc -l </run/imgfactory/came)" = 2 ]; do sleep 0.1; done
        cat /run/imgfactory/came

        [ "$(cat $client/run/lease/link)" = guests0 ]
        [ "$(ip -4 -o address show dev guests0 | sed 's/.* inet \([^ ]*\).*/\1/')" = "$before" ]
        [ -z "$(ip -4 -o address show dev eth0)" ]
        ip route show default | grep -q 'via 192.0.2.1 dev guests0'
        pgrep -f '^@/udhcpc -f -i guests0 ' >/dev/null
        ! pgrep -f '^@/udhcpc -f -i eth0 ' >/dev/null
        # A second guest finds the bridge there.
        guest bridge

        # A guest on the bridge gets an address of its own from outside.
        ip link add tap0 type veth peer name card
        ip link set tap0 master guests0 up; ip link set card up
        cp "$lease" /run/imgfactory/print; printf '#!/bin/sh\n[ "$1" != bound ] || echo "guest $ip" >/run/imgfactory/guest-lease\n' >/run/imgfactory/print; chmod +x /run/imgfactory/print
        busybox udhcpc -f -q -i card -s /run/imgfactory/print >/dev/null 2>&1
        cat /run/imgfactory/guest-lease
        rm -f /tmp/leases-$$
        "#,
    );
    let said = good(&out);
    assert!(said.starts_with("eth0 192.0.2.5"), "{said}");
    assert!(said.contains("one\ntwo\n") && said.contains("guest 192.0.2.5"), "{said}");
}
