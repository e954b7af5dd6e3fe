//! The host's script for guests, as it ships, where it can be tried without Xen: QEMU's machines, and the bridge.
//!
//! Each test has mounts, links and processes of its own (unshare), so it needs root, loop devices and FUSE's place
//! taken by a file. What the script calls may be played by a program of the same name; the script itself is never
//! another one. A check is a command of its own: of `a && b` and `! a` bash's `set -e` takes no notice.

use std::fs;
use std::process::Output;

use imgfactory::guests::{GuestConfig, Starter};
use imgfactory::recipe::{Cow, Virt};
use system::files::Scratch;

use crate::support::hosts::{alone, good, guest, install};

/// A directory with what a host with these guests gets.
fn room_with(guests: &[GuestConfig]) -> Scratch {
    let room = Scratch::directory(std::env::temp_dir()).unwrap();
    install(guests, room.path());
    room
}

/// A boot sector that says `text` on the first serial line, and then waits: for the power button, or for ever.
fn boot_sector(text: &str, listens: bool) -> Vec<u8> {
    const TEXT: usize = 64;
    // mov si, 0x7c00 + TEXT; mov dx, 0x3f8
    let mut code = vec![0xbe, TEXT as u8, 0x7c, 0xba, 0xf8, 0x03];
    // lodsb; test al, al; jz +3; out dx, al; jmp -8
    code.extend([0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8]);
    if listens {
        // ACPI's registers, where QEMU's firmware puts them. Enable the button: mov dx, 0x602; mov ax, 0x100; out dx, ax
        code.extend([0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef]);
        // Until it was pressed: mov dx, 0x600; in ax, dx; test ah, 1; jz -6
        code.extend([0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xfa]);
        // Power off: mov dx, 0x604; mov ax, 0x2000; out dx, ax
        code.extend([0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef]);
    }
    // hlt; jmp -3
    code.extend([0xf4, 0xeb, 0xfd]);
    assert!(code.len() <= TEXT);
    code.resize(TEXT, 0);
    code.extend(text.as_bytes());
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    code.resize(1 << 20, 0);
    code
}

#[test]
fn without_xen_qemu_makes_a_guests_machine_and_its_devices_go_after_it() {
    let room = room_with(&[guest("pc", Virt::Hvm, Starter::Disk)]);
    fs::write(room.path().join("disk"), boot_sector("the disk has booted\n", true)).unwrap();
    let out = alone(
        room.path(),
        r#"
        at=/run/imgfactory/guests/pc
        mkdir -p $at/disk
        cp "$room/disk" $at/disk/disk
        fake systemctl <<'END'
#!/bin/sh
[ "$*" = "is-active imgfactory-guest@pc.service" ] && echo active
END
        has_booted() { [ "$(grep -c 'the disk has booted' /var/log/xen/console/guest-pc.log)" = "$1" ]; }
        gone() { [ ! -e "/proc/$1" ]; }
        for round in 1 2; do
            guest create pc
            soon has_booted $round
            [ -S $at/screen ]
            # A terminal, for `guest console`.
            [ -c $at/console ]
            losetup -j $at/disk/disk | grep -q .
            machine=$(cat $at/pid)
            kill -0 "$machine"
            guest list
            # By the button alone. QEMU takes its pid away a moment before it ends.
            guest shutdown pc
            soon gone "$machine"
            guest destroy pc
            [ ! -e $at/pid ]
            [ -z "$(losetup -j $at/disk/disk)" ]
        done
        "#,
    );
    let said = good(&out);
    assert_eq!(said.matches("pc               qemu active\n").count(), 2, "{said}");
}

#[test]
fn a_machine_that_ignores_the_power_button_is_waited_for_and_then_ended() {
    let room = room_with(&[guest("pc", Virt::Hvm, Starter::Disk)]);
    fs::write(room.path().join("disk"), boot_sector("the disk has booted\n", false)).unwrap();
    let out = alone(
        room.path(),
        r#"
        at=/run/imgfactory/guests/pc
        mkdir -p $at/disk
        cp "$room/disk" $at/disk/disk
        guest create pc >/dev/null
        machine=$(cat $at/pid)
        # Whole seconds pass here at once, and are counted.
        fake sleep <<'END'
#!/bin/sh
[ "$1" = 1 ] || exec /bin/sleep "$@"
echo second >>"$room/slept"
END
        guest shutdown pc
        wc -l <"$room/slept"
        kill -0 "$machine"
        guest destroy pc
        gone() { [ ! -e "/proc/$machine" ]; }
        soon gone
        [ -z "$(losetup -j $at/disk/disk)" ]
        "#,
    );
    // The script's PATIENCE, which is less than the unit's TimeoutStopSec.
    assert_eq!(good(&out), "40\n");
}

#[test]
fn below_xen_whole_machines_are_made_where_the_processor_can() {
    let room = room_with(&[guest("pc", Virt::Hvm, Starter::Disk), guest("bsd", Virt::Pv, Starter::NetBsd)]);
    fs::write(room.path().join("disk"), vec![0; 4096]).unwrap();
    let out = alone(
        room.path(),
        r#"
        mkdir -p /run/imgfactory/guests/pc/disk
        cp "$room/disk" /run/imgfactory/guests/pc/disk/disk
        # Xen, as the kernel tells of it, and an xl that says what it is told.
        mkdir /sys/hypervisor
        echo xen >/sys/hypervisor/type
        fake xl <<'END'
#!/bin/sh
case $1 in info) echo "virt_caps              : $caps" ;; create) echo "$@" ;; *) exit 1 ;; esac
END
        # Where Debian's qemu-system-xen has it, or not.
        mount -t tmpfs tmpfs /usr/libexec
        export caps='pv hvm hap'
        guest create pc 2>&1 || guest destroy pc
        ln -s /bin/true /usr/libexec/xen-qemu-system-i386
        # As xl has it: of AMD without and with an IOMMU, of Intel, without nested paging, without all.
        for caps in 'pv hvm hap gnttab-v1' 'pv hvm hvm_directio hap shadow' 'hvm hap' 'pv hvm shadow' 'pv' ''; do
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

/// The two forms in which Plan 9 comes: a medium by the words that ISO 9660 begins with, and a disk with a boot sector.
fn plan9(room: &std::path::Path) {
    let mut medium = vec![0; 64 << 10];
    medium[0x8001..0x8006].copy_from_slice(b"CD001");
    fs::write(room.join("medium"), medium).unwrap();
    fs::write(room.join("disk"), boot_sector("the disk has booted\n", true)).unwrap();
}

/// dm-snapshot is not in every kernel that tests run on: a copy takes its place.
const SNAPSHOTS: &str = r#"
        at=/run/imgfactory/guests/nine
        mkdir -p $at/disk /dev/mapper
        mount -t tmpfs tmpfs /dev/mapper
        fake dmsetup <<'END'
#!/bin/sh
case $1 in
    create) cp "$room/put" "$room/written"; ln -s "$room/written" "/dev/mapper/$3" ;;
    remove) rm "/dev/mapper/$3" ;;
esac
END
        put() { cp "$room/$1" "$room/put"; cp "$room/$1" $at/disk/disk; }
"#;

#[test]
fn a_plan9_that_was_installed_on_a_disk_starts_from_it_as_a_disk() {
    let nine = GuestConfig { cow: Cow::Tmpfs, ..guest("nine", Virt::Hvm, Starter::Cd) };
    let room = room_with(&[nine]);
    plan9(room.path());
    let script = r#"
        has_booted() { grep -q 'the disk has booted' /var/log/xen/console/guest-nine.log; }
        put disk
        guest create nine
        soon has_booted
        tr '\0' ' ' <"/proc/$(cat $at/pid)/cmdline" | grep -o -e 'ide-[a-z]*,drive=disk'
        guest destroy nine
        put medium
        guest create nine
        tr '\0' ' ' <"/proc/$(cat $at/pid)/cmdline" | grep -o -e 'ide-[a-z]*,drive=disk'
        guest destroy nine

        # Below Xen.
        mkdir /sys/hypervisor
        echo xen >/sys/hypervisor/type
        fake xl <<'END'
#!/bin/sh
case $1 in info) echo 'virt_caps : pv hvm hap' ;; create) echo "$@" ;; *) exit 1 ;; esac
END
        mount -t tmpfs tmpfs /usr/libexec
        ln -s /bin/true /usr/libexec/xen-qemu-system-i386
        for kind in disk medium; do
            put $kind
            guest create nine | sed 's|phy:/dev/[^,]*|phy:DISK|'
            guest destroy nine
        done
        "#;
    let out = alone(room.path(), &[SNAPSHOTS, script].concat());
    assert_eq!(
        good(&out).lines().collect::<Vec<_>>(),
        [
            "ide-hd,drive=disk",
            "ide-cd,drive=disk",
            "create -q /etc/imgfactory/guests/nine.cfg boot=\"c\" disk=[\"phy:DISK,hda,w\"]",
            "create -q /etc/imgfactory/guests/nine.cfg disk=[\"phy:DISK,hdc:cdrom,w\"]",
        ]
    );
}

#[test]
fn a_plan9_on_a_disk_that_it_cant_write_says_what_to_do() {
    let room = room_with(&[guest("nine", Virt::Hvm, Starter::Cd)]);
    plan9(room.path());
    let script = r#"
        put disk
        guest create nine
        "#;
    let out = alone(room.path(), &[SNAPSHOTS, script].concat());
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&out.stderr),
        "guest: nine: Plan 9 on a disk wants to write there; write `cow: tmpfs` or `cow: disk` in the recipe\n"
    );
}

#[test]
fn a_disk_that_xen_still_holds_is_no_failure_of_its_client() {
    let room = room_with(&[guest("pc", Virt::Hvm, Starter::Disk)]);
    let out = alone(
        room.path(),
        r#"
        at=/run/imgfactory/guests/pc/disk
        mkdir -p $at
        mount -t tmpfs disk $at
        echo held >$at/disk
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
        choose() {
            rm -rf /run/imgfactory/root
            miniroot 'parse_command_line "$1" && medium= && prepare_client && start_client' "nocache $1"
        }
        hosts_client() { cat /run/imgfactory/root/run/imgfetch.log; }
        guests_client() { (set -a; . /run/imgfactory/environment; guest serve bsd); }
        "#;
    alone(room.path(), &[prelude, script].concat())
}

#[test]
fn what_host_and_guests_read_is_noted_and_sent_when_a_boot_is_profiled() {
    let out = after_the_menu(
        r#"
        choose ''
        [ -z "$(hosts_client | grep -e --record-reads)" ]
        [ -z "$(guests_client | grep -e --record-reads)" ]
        echo http://127.0.0.1:8000/demo/ >"$room/miniroot/etc/imgfactory/mirrors"
        choose imgfactory.reads
        hosts_client | grep -o -e '--record-reads [^ ]*'
        guests_client | grep -o -e '--record-reads [^ ]*'

        # What a client has noted is sent from now on, again and again.
        mkdir /run/imgfactory/root/run/reads
        echo pages >/run/imgfactory/root/run/reads/host
        printf 'HTTP/1.1 204 No Content\r\n\r\n' | busybox nc -l -p 8000 >/run/imgfactory/came &
        soon grep -q '^pages' /run/imgfactory/came
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
        : >/run/imgfactory/root/etc/imgfactory/ca.crt
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
    fs::write(room.path().join("disk"), boot_sector("the disk has booted\n", false)).unwrap();
    let out = alone(
        room.path(),
        r#"
        at=/run/imgfactory/guests/pc
        mkdir -p $at/disk
        cp "$room/disk" $at/disk/disk
        # systemd would start the unit, which is this.
        fake systemctl <<'END'
#!/bin/sh
[ "$*" = "start imgfactory-guest@pc.service" ] && exec /usr/lib/imgfactory/guest create pc
END
        fake vncviewer <<'END'
#!/bin/sh
echo "viewer $*"
END
        echo "nothing chosen: $(guest watch)"
        echo "ro imgfactory.guest=pc quiet" >"$room/words"
        mount --bind "$room/words" /proc/cmdline
        guest watch >"$room/shown" &
        guest chosen
        wait $!
        cat "$room/shown"
        # Only the person at this machine may look, and a real VNC server answers.
        [ "$(stat -c %a $at/screen)" = 600 ]
        curl --silent --http0.9 --max-time 20 --unix-socket $at/screen http://screen/ | head -c 7 || true
        guest destroy pc
        "#,
    );
    let said = good(&out);
    assert!(said.contains("nothing chosen: \n"), "{said}");
    assert!(said.contains("viewer -FullScreen /run/imgfactory/guests/pc/screen\nRFB 003"), "{said}");
}

/// A kernel with the note by which Xen and QEMU start one as pvh. It prints its command line on the first serial line.
fn pvh_kernel() -> Vec<u8> {
    const ADDRESS: u32 = 0x10_0000;
    let (code_at, notes_at) = (64 + 2 * 56, 64 + 2 * 56 + 64);
    // mov esi, [ebx + 24], the command line in hvm_start_info; mov dx, 0x3f8
    let mut code = vec![0x8b, 0x73, 0x18, 0x66, 0xba, 0xf8, 0x03];
    // lodsb; test al, al; jz +3; out dx, al; jmp -8; mov al, 10; out dx, al; hlt; jmp -3
    code.extend([0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, 0xb0, 0x0a, 0xee, 0xf4, 0xeb, 0xfd]);
    code.resize(64, 0);
    let mut note: Vec<u8> = [4_u32, 8, 18].iter().flat_map(|word| word.to_le_bytes()).collect();
    note.extend(b"Xen\0");
    note.extend(u64::from(ADDRESS).to_le_bytes());
    let mut file = vec![0; 64];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    for (at, value) in [(16, 2_u16), (18, 62), (52, 64), (54, 56), (56, 2)] {
        file[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    file[20] = 1;
    file[24..28].copy_from_slice(&ADDRESS.to_le_bytes());
    file[32] = 64;
    for (kind, offset, address, len) in [(1_u32, code_at, ADDRESS, code.len()), (4, notes_at, 0, note.len())]
    {
        file.extend(kind.to_le_bytes());
        file.extend(7_u32.to_le_bytes());
        for value in [offset as u64, address.into(), address.into(), len as u64, len as u64, 4] {
            file.extend(value.to_le_bytes());
        }
    }
    [file, code, note].concat()
}

#[test]
fn a_netbsd_with_the_pvh_note_starts_in_qemu_without_xen() {
    let bsd = GuestConfig { cmdline: "-v".into(), ..guest("bsd", Virt::Pvh, Starter::NetBsd) };
    let room = room_with(&[bsd]);
    fs::write(room.path().join("kernel"), pvh_kernel()).unwrap();
    let out = alone(
        room.path(),
        r#"
        at=/run/imgfactory/guests/bsd
        mkdir -p $at/disk "$room/tree/boot/imgfactory"
        cp "$room/kernel" "$room/tree/boot/imgfactory/kernel"
        truncate -s 4M $at/disk/disk
        mkfs.ext2 -q -d "$room/tree" $at/disk/disk
        guest create bsd
        printed() { grep -q root= /var/log/xen/console/guest-bsd.log; }
        soon printed
        guest destroy bsd
        cat /var/log/xen/console/guest-bsd.log
        "#,
    );
    let said = good(&out);
    assert!(
        said.contains("console=com root=ld0a  -v\n") || said.contains("console=com root=ld0a -v"),
        "{said}"
    );
}

#[test]
fn the_lines_of_guests_are_carried_to_the_hosts_console_as_they_come() {
    let room = room_with(&[guest("bsd", Virt::Pv, Starter::NetBsd), guest("nine", Virt::Hvm, Starter::Cd)]);
    let out = alone(
        room.path(),
        r#"
        guest consoles bsd nine >"$room/heard" &
        reader=$!
        heard() { [ "$(wc -l <"$room/heard")" = "$1" ]; }
        logs=/var/log/xen/console
        soon test -d $logs
        printf 'root file system type: ext2fs\r\nno end' >$logs/guest-bsd.log
        soon heard 1
        printf 'init: starting /bin/rc\n' >$logs/guest-nine.log
        soon heard 2
        printf ' of line\n' >>$logs/guest-bsd.log
        soon heard 3
        cat "$room/heard"
        kill $reader
        "#,
    );
    let said = good(&out);
    let expected =
        ["[bsd] root file system type: ext2fs", "[nine] init: starting /bin/rc", "[bsd] no end of line"];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
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
        mkdir -p /run/netns
        mount -t tmpfs tmpfs /run/netns
        ip netns add outside
        ip link add eth0 type veth peer name wire netns outside
        ip netns exec outside ip address add 192.0.2.1/24 dev wire
        ip netns exec outside ip link set wire up
        ip netns exec outside ip link set lo up
        at=/run/imgfactory/outside
        mkdir $at
        : >$at/leases
        cat >$at/udhcpd.conf <<END
interface wire
start 192.0.2.50
end 192.0.2.59
lease_file $at/leases
pidfile $at/udhcpd.pid
option subnet 255.255.255.0
option router 192.0.2.1
END
        ip netns exec outside busybox udhcpd -f $at/udhcpd.conf >/dev/null 2>&1 &
        client=/run/imgfactory/root
        miniroot 'prepare_client && ask_for_lease eth0'
        soon test -e $client/run/lease/summary
        cat $client/run/lease/summary
        before=$(ip -4 -o address show dev eth0 | sed 's/.* inet \([^ ]*\).*/\1/')

        # A connection that is open all the while.
        mkfifo /run/imgfactory/to
        exec 5<>/run/imgfactory/to
        ip netns exec outside busybox nc -l -p 7777 <&5 >/run/imgfactory/came &
        # It listens: port 7777.
        listens() { ip netns exec outside cat /proc/net/tcp /proc/net/tcp6 | grep -q ':1E61 '; }
        soon listens
        exec 3<>/dev/tcp/192.0.2.1/7777
        echo one >&3
        guest bridge
        echo two >&3
        both_came() { [ "$(wc -l </run/imgfactory/came)" = 2 ]; }
        soon both_came
        cat /run/imgfactory/came

        [ "$(cat $client/run/lease/link)" = guests0 ]
        [ "$(ip -4 -o address show dev guests0 | sed 's/.* inet \([^ ]*\).*/\1/')" = "$before" ]
        [ -z "$(ip -4 -o address show dev eth0)" ]
        ip route show default | grep -q 'via 192.0.2.1 dev guests0'
        asks() { pgrep -f "^@/udhcpc -f -i $1 " >/dev/null; }
        asks_no_more() { ! asks "$1"; }
        soon asks guests0
        soon asks_no_more eth0
        # A second guest finds the bridge there.
        guest bridge

        # A guest on the bridge gets an address of its own from outside.
        ip link add tap0 type veth peer name card
        ip link set tap0 master guests0 up
        ip link set card up
        fake print <<'END'
#!/bin/sh
[ "$1" != bound ] || echo "guest $ip" >/run/imgfactory/guest-lease
END
        busybox udhcpc -f -q -i card -s "$room/fake/print" >/dev/null 2>&1
        cat /run/imgfactory/guest-lease
        "#,
    );
    let said = good(&out);
    assert!(said.starts_with("eth0 192.0.2.5"), "{said}");
    assert!(said.contains("one\ntwo\n") && said.contains("guest 192.0.2.5"), "{said}");
}
