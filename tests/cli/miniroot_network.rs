//! The miniroot's network against real DHCP servers, in network namespaces: what clouds, hotels and offices send.
//!
//! The server has `wire`, the miniroot `eth0`. The mirror 203.0.113.5 is behind the server, so that it is reached only
//! if a route leads there. Each case runs `bring_network_up` as it ships, and then asks the kernel and the mirror.

use crate::support::hosts::{alone, good, guest, install};
use imgfactory::guests::Starter;
use imgfactory::recipe::Virt;
use system::files::Scratch;

/// Begins a server outside, and has `up WORDS` run the miniroot with these words on the kernel's command line.
const NETWORK: &str = r#"
    mkdir -p /run/netns
    mount -t tmpfs tmpfs /run/netns
    ip netns add outside
    ip link add eth0 type veth peer name wire netns outside
    outside() { ip netns exec outside "$@"; }
    outside ip link set lo up
    outside ip link set wire up
    outside ip address add 10.99.0.1/24 dev wire
    outside ip address add 172.31.1.1/32 dev wire
    outside ip address add 203.0.113.5/32 dev lo
    # Answers reach clients of /32 and of other subnets.
    outside ip route add default dev wire
    mkdir "$root/sys"
    mount --rbind /sys "$root/sys"
    at=/run/imgfactory/outside
    mkdir $at
    client=/run/imgfactory/root
    echo http://203.0.113.5/demo/ >"$root/etc/imgfactory/mirrors"

    # dnsmasq_with ADDRESS OPTION...: one address to give. Without options, neither a gateway nor DNS servers.
    dnsmasq_with() {
        address=$1
        shift
        outside dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --port=0 --interface=wire \
            --bind-dynamic --pid-file=$at/dnsmasq.pid --dhcp-leasefile=$at/leases --log-facility=- --no-ping --dhcp-authoritative \
            --dhcp-range=$address,$address,255.255.255.0,120 --dhcp-option=3 --dhcp-option=6 "$@" 2>$at/log &
        soon grep -q 'IP range' $at/log
    }
    # up WORDS: 15 seconds for the network, since nobody plugs in a cable meanwhile.
    up() {
        miniroot '
            links() { echo eth0; }
            NETWORK_WAIT=15
            medium=
            parse_command_line "$1" || fail "$problem"
            prepare_client
            bring_network_up' "$1" 2>&1 | grep -v '^looking for' || true
    }
    # What the kernel and the mirror have to say.
    facts() {
        if busybox ping -c 1 -W 5 203.0.113.5 >/dev/null 2>&1; then echo "mirror reached"; else echo "mirror not reached"; fi
        echo "MTU $(cat /sys/class/net/eth0/mtu)"
        ip -4 -o address show dev eth0 | sed 's/.* inet \([^ ]*\).*/address \1/'
        cat $client/etc/resolv.conf
    }
"#;

/// Runs bash with the network at hand; gives what it prints.
fn with_network(script: &str) -> String {
    let room = Scratch::directory(std::env::temp_dir()).unwrap();
    install(&[guest("pc", Virt::Hvm, Starter::Disk)], room.path());
    good(&alone(room.path(), &[NETWORK, script].concat()))
}

/// Server, words on the kernel's command line, what is printed on the console and found in the kernel.
const CASES: &[(&str, &str, &str, &str)] = &[
    (
        "an office: gateway, names, two DNS servers",
        "dnsmasq_with 10.99.0.7 --dhcp-option=3,10.99.0.1 --dhcp-option=6,10.99.0.1,10.99.0.2 --dhcp-option=15,a.example",
        "",
        "network: eth0 10.99.0.7/24, gateway 10.99.0.1, DNS 10.99.0.1 10.99.0.2, by DHCP
         mirror reached\nMTU 1500\naddress 10.99.0.7/24\nsearch a.example\nnameserver 10.99.0.1\nnameserver 10.99.0.2",
    ),
    (
        "a cloud: /32, gateway by option 3",
        "dnsmasq_with 10.99.0.7 --dhcp-option=1,255.255.255.255 --dhcp-option=3,172.31.1.1",
        "",
        "network: eth0 10.99.0.7/32, gateway 172.31.1.1 (outside of the subnet), DNS none, by DHCP
         mirror reached\nMTU 1500\naddress 10.99.0.7/32",
    ),
    (
        "a cloud: /32, option 121 alone, with the gateway's own route at its end, MTU 1400",
        "dnsmasq_with 10.99.0.7 --dhcp-option=1,255.255.255.255 --dhcp-option=26,1400 \
         --dhcp-option=121,0.0.0.0/0,172.31.1.1,172.31.1.1/32,0.0.0.0",
        "",
        "network: eth0 10.99.0.7/32, gateway 172.31.1.1, routes to 172.31.1.1/32, MTU 1400, DNS none, by DHCP
         mirror reached\nMTU 1400\naddress 10.99.0.7/32",
    ),
    (
        "option 121 alone, without a route to its gateway",
        "dnsmasq_with 10.99.0.7 --dhcp-option=1,255.255.255.255 --dhcp-option=121,0.0.0.0/0,172.31.1.1",
        "",
        "network: eth0 10.99.0.7/32, gateway 172.31.1.1 (outside of the subnet), DNS none, by DHCP
         mirror reached\nMTU 1500\naddress 10.99.0.7/32",
    ),
    (
        "option 121 is used in place of option 3 (RFC 3442)",
        "dnsmasq_with 10.99.0.7 --dhcp-option=3,10.99.0.200 --dhcp-option=121,0.0.0.0/0,10.99.0.1",
        "",
        "network: eth0 10.99.0.7/24, gateway 10.99.0.1, DNS none, by DHCP
         mirror reached\nMTU 1500\naddress 10.99.0.7/24",
    ),
    (
        "option 249, Microsoft's, is used in place of option 3",
        // 0.0.0.0/0 by 10.99.0.1.
        "dnsmasq_with 10.99.0.7 --dhcp-option=3,10.99.0.200 --dhcp-option=249,00:0a:63:00:01",
        "",
        "network: eth0 10.99.0.7/24, gateway 10.99.0.1, DNS none, by DHCP
         mirror reached\nMTU 1500\naddress 10.99.0.7/24",
    ),
    (
        "option 249 without a default route is completed by option 3",
        // 198.51.100.0/24 by 10.99.0.1.
        "dnsmasq_with 10.99.0.7 --dhcp-option=3,10.99.0.1 --dhcp-option=249,18:c6:33:64:0a:63:00:01",
        "",
        "network: eth0 10.99.0.7/24, gateway 10.99.0.1, routes to 198.51.100.0/24, DNS none, by DHCP
         mirror reached\nMTU 1500\naddress 10.99.0.7/24",
    ),
    (
        "only a route to the mirror, no default route",
        "dnsmasq_with 10.99.0.7 --dhcp-option=121,203.0.113.0/24,10.99.0.1",
        "",
        "network: eth0 10.99.0.7/24, no default route, routes to 203.0.113.0/24, DNS none, by DHCP
         mirror reached\nMTU 1500\naddress 10.99.0.7/24",
    ),
    (
        "gateways: the first is outside of the subnet, the second inside",
        "dnsmasq_with 10.99.0.7 --dhcp-option=3,172.31.9.9,10.99.0.1",
        "",
        "network: eth0 10.99.0.7/24, gateway 10.99.0.1, DNS none, by DHCP
         mirror reached\nMTU 1500\naddress 10.99.0.7/24",
    ),
    (
        "the machine itself as gateway: everything is on the link",
        "dnsmasq_with 10.99.0.7 --dhcp-option=3,10.99.0.7",
        "",
        "network: eth0 10.99.0.7/24, default route without a gateway, DNS none, by DHCP
         mirror reached\nMTU 1500\naddress 10.99.0.7/24",
    ),
    (
        "an MTU that no IPv4 network has; five DNS servers; search domains",
        "dnsmasq_with 10.99.0.7 --dhcp-option=3,10.99.0.1 --dhcp-option=26,300 --dhcp-option=15,a.example \
         --dhcp-option=6,10.99.0.1,10.99.0.2,10.99.0.3,10.99.0.4,10.99.0.5 --dhcp-option=119,b.example,c.example",
        "",
        "network: eth0 10.99.0.7/24, gateway 10.99.0.1, MTU 300 ignored (less than 576), \
         DNS 10.99.0.1 10.99.0.2 10.99.0.3 10.99.0.4 10.99.0.5, by DHCP
         mirror reached\nMTU 1500\naddress 10.99.0.7/24\nsearch b.example c.example\nnameserver 10.99.0.1
         nameserver 10.99.0.2\nnameserver 10.99.0.3\nnameserver 10.99.0.4\nnameserver 10.99.0.5",
    ),
    (
        "no gateway at all",
        "dnsmasq_with 10.99.0.7",
        "",
        "FAILED: no network: eth0 10.99.0.7/24, no default route, DNS none, by DHCP: no route to 203.0.113.5. \
         What to try: gateway (option 3) or routes (121), and DNS servers (6), on the DHCP server 10.99.0.1, \
         or an address of your own: ip=CLIENT::GATEWAY:NETMASK:::off:DNS
         mirror not reached\nMTU 1500\naddress 10.99.0.7/24",
    ),
    (
        "mirrors with names, no DNS server",
        "dnsmasq_with 10.99.0.7 --dhcp-option=3,10.99.0.1",
        "mirror=http://mirror.example/demo/",
        "FAILED: no network: eth0 10.99.0.7/24, gateway 10.99.0.1, DNS none, by DHCP: \
         no DNS server to ask for mirror.example. \
         What to try: gateway (option 3) or routes (121), and DNS servers (6), on the DHCP server 10.99.0.1, \
         or an address of your own: ip=CLIENT::GATEWAY:NETMASK:::off:DNS
         mirror reached\nMTU 1500\naddress 10.99.0.7/24",
    ),
    (
        "ISC's server: /32, gateway by option 3, MTU",
        r#"cat >$at/dhcpd.conf <<END
authoritative;
option subnet-mask 255.255.255.255;
option routers 172.31.1.1;
option interface-mtu 1450;
subnet 10.99.0.0 netmask 255.255.255.0 { range 10.99.0.7 10.99.0.7; option subnet-mask 255.255.255.255; }
END
        : >$at/leases
        outside dhcpd -q -f -cf $at/dhcpd.conf -lf $at/leases -pf $at/pid wire >$at/log 2>&1 &"#,
        "",
        "network: eth0 10.99.0.7/32, gateway 172.31.1.1 (outside of the subnet), MTU 1450, DNS none, by DHCP
         mirror reached\nMTU 1450\naddress 10.99.0.7/32",
    ),
    (
        "busybox's server: option 121, /32",
        r#"printf '%s\n' 'interface wire' 'start 10.99.0.7' 'end 10.99.0.7' "lease_file $at/leases" "pidfile $at/pid" \
            'option subnet 255.255.255.255' 'option staticroutes 172.31.1.1/32 0.0.0.0, 0.0.0.0/0 172.31.1.1' >$at/conf
        : >$at/leases
        outside busybox udhcpd -f $at/conf >$at/log 2>&1 &"#,
        "",
        "network: eth0 10.99.0.7/32, gateway 172.31.1.1, routes to 172.31.1.1/32, DNS none, by DHCP
         mirror reached\nMTU 1500\naddress 10.99.0.7/32",
    ),
    (
        "no server: a fixed address, gateway outside of its subnet",
        "",
        "ip=10.99.0.7::172.31.1.1:32:::off:10.99.0.1",
        "network: eth0 10.99.0.7/32, gateway 172.31.1.1 (outside of the subnet), DNS 10.99.0.1
         mirror reached\nMTU 1500\naddress 10.99.0.7/32\nnameserver 10.99.0.1",
    ),
    (
        "no server, a fixed address without a gateway",
        "",
        "ip=10.99.0.7:::24:::off",
        "FAILED: no network: eth0 10.99.0.7/24, no default route, DNS none: no route to 203.0.113.5. \
         What to try: another gateway or DNS server: ip=CLIENT::GATEWAY:NETMASK:::off:DNS
         mirror not reached\nMTU 1500\naddress 10.99.0.7/24",
    ),
];

#[test]
fn the_miniroot_sets_up_what_dhcp_servers_send_and_prints_what_is_missing() {
    let mut wrong = vec![];
    for &(case, server, words, expected) in CASES {
        let found = with_network(&format!("{server}\nup '{words}'\nfacts"));
        let expected: Vec<_> = expected.lines().map(str::trim).collect();
        let found: Vec<_> = found.lines().collect();
        if found != expected {
            wrong.push(format!(
                "{case}:\n  {}\nin place of\n  {}",
                found.join("\n  "),
                expected.join("\n  ")
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The DHCP client of the miniroot is told to renew its lease at once.
const CHANGE: &str = r#"
    pid=$(pgrep -f '^@/udhcpc -f -i eth0 ')
    rm $client/dev/kmsg
    : >$client/dev/kmsg
    kill $(cat $at/dnsmasq.pid)
    gone() { ! kill -0 $(cat $at/dnsmasq.pid) 2>/dev/null; }
"#;

#[test]
fn a_lease_that_changes_replaces_the_address_and_the_routes_of_the_one_before() {
    let found = with_network(&format!(
        r#"
        dnsmasq_with 10.99.0.7 --dhcp-option=121,0.0.0.0/0,172.31.1.1,198.51.100.0/24,10.99.0.1
        up ''
        {CHANGE}
        soon gone
        rm $at/leases
        # The server refuses the old address (NAK), and has another one, in the same subnet.
        dnsmasq_with 10.99.0.8 --dhcp-option=3,10.99.0.1
        kill -USR1 $pid
        has_new() {{ grep -q 10.99.0.8 $client/run/lease/summary; }}
        soon has_new
        facts
        ip -4 route show dev eth0 | sed 's/ *$//; s/ proto kernel//' | sort
        cat $client/dev/kmsg
        kill -0 $pid
        "#
    ));
    let expected = "network: eth0 10.99.0.7/24, gateway 172.31.1.1 (outside of the subnet), \
        routes to 198.51.100.0/24, DNS none, by DHCP
        mirror reached
        MTU 1500
        address 10.99.0.8/24
        10.99.0.0/24 scope link src 10.99.0.8
        default via 10.99.0.1 src 10.99.0.8
        <27>imgfactory: the DHCP server 10.99.0.1 takes 10.99.0.7/24 back; it is used until there is another one
        <27>imgfactory: the lease of 10.99.0.7/24 on eth0 is over; it is used until there is another one
        <27>imgfactory: network changed: eth0 10.99.0.8/24, gateway 10.99.0.1, DNS none, by DHCP";
    let expected: Vec<_> = expected.lines().map(str::trim).collect();
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn of_two_servers_on_the_link_one_is_used_with_all_that_it_sends() {
    let found = with_network(
        r#"
        dnsmasq_with 10.99.0.7 --dhcp-option=3,10.99.0.1 --dhcp-option=26,1400
        cat >$at/conf <<END
interface wire
start 10.98.0.7
end 10.98.0.7
lease_file $at/leases2
pidfile $at/pid2
option subnet 255.255.255.255
option router 172.31.1.1
END
        : >$at/leases2
        outside busybox udhcpd -f $at/conf >/dev/null 2>&1 &
        up ''
        facts
        "#,
    );
    let one = "network: eth0 10.99.0.7/24, gateway 10.99.0.1, MTU 1400, DNS none, by DHCP
        mirror reached\nMTU 1400\naddress 10.99.0.7/24";
    let other = "network: eth0 10.98.0.7/32, gateway 172.31.1.1 (outside of the subnet), DNS none, by DHCP
        mirror reached\nMTU 1500\naddress 10.98.0.7/32";
    let [one, other] = [one, other].map(|text| text.lines().map(str::trim).collect::<Vec<_>>().join("\n"));
    assert!([one, other].contains(&found.trim_end().to_owned()), "{found}");
}
