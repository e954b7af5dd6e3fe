//! Name servers as networks have them, in a network namespace: one that is dead before one that works, and one that
//! never answers a question for IPv6 addresses.

use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::fetch_support::fault_server::FaultServer;
use crate::fetch_support::{Publisher, cat, disk, run, scratch, text};

/// Types of questions: RFC 1035, 3.2.2, and RFC 3596, 2.1.
const A: [u8; 2] = [0, 1];
const AAAA: [u8; 2] = [0, 28];

/// What a name server does with questions for IPv6 addresses.
#[derive(Clone, Copy, PartialEq)]
enum ForIpv6 {
    None,
    Silent,
    Loopback,
}

/// Answers each question with 127.0.0.1.
fn name_server(address: &str, for_ipv6: ForIpv6) {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut packet) {
            let question = &packet[12..len];
            let name = question.iter().position(|byte| *byte == 0).unwrap();
            let (kind, end) = ([question[name + 1], question[name + 2]], 12 + name + 5);
            if kind == AAAA && for_ipv6 == ForIpv6::Silent {
                continue;
            }
            let found = u8::from(kind == A || for_ipv6 == ForIpv6::Loopback);
            let mut answer = packet[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, found, 0, 0, 0, 0]);
            if kind == A {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            } else if found == 1 {
                answer.extend([0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16]);
                answer.extend(std::net::Ipv6Addr::LOCALHOST.octets());
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
}

/// In a network whose name servers are these; 127.0.0.2 keeps silent.
fn fetches_with(name_servers: &'static str, for_ipv6: ForIpv6) {
    let room = scratch();
    let resolv = room.path().join("resolv.conf");
    fs::write(&resolv, name_servers).unwrap();
    let test = thread::spawn(move || {
        // SAFETY: this thread alone is moved, with the threads and programs that it starts; nothing here relies on its
        // file descriptors being shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
        let shell = "ip link set lo up; mount --make-rprivate /; mount --bind \"$0\" /etc/resolv.conf";
        run(Command::new("sh").args(["-ec", shell, text(&resolv)]));
        let _silent = UdpSocket::bind("127.0.0.2:53").unwrap();
        name_server("127.0.0.1", for_ipv6);
        let publisher = Publisher::new();
        let disk = disk(9 * 4096, 1);
        let server = FaultServer::honest(publisher.publish(7, &[("host", &disk)]));
        let url = format!("http://mirror.test:{}/", server.address().port());
        // At the same port of ::1 all connections are swallowed: its queue is full.
        let swallows = TcpListener::bind(("::1", server.address().port())).unwrap();
        rustix::net::listen(&swallows, 0).unwrap();
        let mut _queue = Vec::new();
        while let Ok(waits) =
            TcpStream::connect_timeout(&swallows.local_addr().unwrap(), Duration::from_millis(300))
        {
            _queue.push(waits);
        }
        let found = cat(&[&url], &publisher.public(), &["--proxy", "none"]);
        assert!(found.output.status.success(), "{}", found.errors());
        assert!(found.output.stdout == disk);
        if for_ipv6 == ForIpv6::Loopback {
            // With a lookup of 0.0 s, a quarter of a second for each agent, and some for a busy machine; without a race it
            // was 2 s for each new connection, 8 s in all.
            assert!(found.took < Duration::from_secs(5), "{:?}", found.took);
        }
    });
    test.join().unwrap();
    drop(room);
}

#[test]
fn a_dead_first_name_server_delays_and_no_more() {
    fetches_with("nameserver 127.0.0.2\nnameserver 127.0.0.1\n", ForIpv6::None);
}

#[test]
fn a_name_server_that_never_answers_for_ipv6_delays_and_no_more() {
    fetches_with("nameserver 127.0.0.1\n", ForIpv6::Silent);
}

#[test]
fn ipv6_addresses_that_lead_nowhere_cost_a_quarter_of_a_second() {
    fetches_with("nameserver 127.0.0.1\n", ForIpv6::Loopback);
}
