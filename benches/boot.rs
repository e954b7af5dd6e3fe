//! A boot under QEMU with mirrors that are far away against the same boot with mirrors that are not: from GRUB to the
//! login, with the prefetch list that the build has, and without; and one with the network away in the middle.
//!
//! `cargo bench --bench boot -- OUT IMGFACTORY [DELAY,BANDWIDTH]... [no-list] [stalled=SECONDS | down=SECONDS]`: OUT is a
//! build, best one that was made after `imgfactory profile`, IMGFACTORY the program. Milliseconds of a round trip and
//! megabits a second; 0,1000 and 100,100 without. After 8 MB of blocks the network is away for so many seconds: nothing
//! comes any more, as when a cable is pulled, or connections are broken and refused.

#[path = "../tests/fetch_support/mod.rs"]
mod fetch_support;
mod lines;
#[path = "../tests/support/programs.rs"]
mod programs;

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use fetch_support::network::{Line, Link, Network};
use imgfactory::repository::server::Server;

/// Bytes that come before an outage.
const BEFORE: u64 = 8_000_000;

/// The time of a stage: `   43 s  network`, `1 min 40 s  login`.
fn stage(said: &str, name: &str) -> Option<Duration> {
    let time = said.lines().find_map(|line| line.trim_end().strip_suffix(&format!("  {name}")))?;
    let words: Vec<&str> = time.split_whitespace().collect();
    let secs = words.chunks(2).map(|pair| {
        let number: f64 = pair[0].parse().ok()?;
        Some(if pair[1] == "min" { 60.0 * number } else { number })
    });
    secs.sum::<Option<f64>>().map(Duration::from_secs_f64)
}

/// What an outage is, and how long: `stalled=60`.
fn outage(word: &str) -> Option<(Link, Duration)> {
    let (kind, secs) = word.split_once('=')?;
    let link = match kind {
        "stalled" => Link::Stalled,
        "down" => Link::Down,
        _ => return None,
    };
    Some((link, Duration::from_secs(secs.parse().expect("seconds"))))
}

/// Takes the network away in the middle of the boot and brings it back.
fn interrupt(network: Network, link: Link, length: Duration) {
    thread::spawn(move || {
        while network.passed() < BEFORE {
            thread::sleep(Duration::from_millis(20));
        }
        network.set(link);
        let before = network.passed();
        thread::sleep(length);
        network.set(Link::Up);
        let back = Instant::now();
        while network.passed() <= before {
            thread::sleep(Duration::from_millis(10));
        }
        println!(
            "network {link:?} for {length:?}; the next byte {:.2} s after it is back",
            back.elapsed().as_secs_f64()
        );
    });
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let out = PathBuf::from(words.first().map_or("out/demo", String::as_str));
    let imgfactory = words.get(1).map_or("target/release/imgfactory", String::as_str);
    let (lists, lines): (Vec<_>, Vec<_>) = words.iter().skip(2).partition(|word| *word == "no-list");
    let outages: Vec<_> = lines.iter().filter_map(|word| outage(word)).collect();
    let lines = lines.into_iter().filter(|word| !word.contains('='));
    let lines = lines::lines(lines, &[(0, 1000), (100, 100)]);
    let mut first = None;
    for (delay, bandwidth) in lines {
        let server = Server::start(&out.join("mirror"), ([127, 0, 0, 1], 0).into()).unwrap();
        let network = Network::new(server.address(), Line::new(delay, bandwidth));
        outages.iter().for_each(|&(link, length)| interrupt(network.clone(), link, length));
        let port = network.url().trim_end_matches('/').rsplit_once(':').unwrap().1.to_owned();
        let mut command = Command::new(imgfactory);
        command.arg("test").arg(&out).args(["--bios", "--entry", "xen", "--expect", "login:"]);
        command.args(["--mirror", &format!("http://10.0.2.2:{port}/")]);
        if !lists.is_empty() {
            command.args(["--options", "nodlahead"]);
        }
        let output = command.output().expect("IMGFACTORY is a program");
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
        let [grub, network_up, login] =
            ["GRUB", "network", "login:"].map(|name| stage(&said, name).expect(name).as_secs_f64());
        let whole = login - grub;
        let base = *first.get_or_insert(whole);
        let traffic = server.traffic();
        println!(
            "{delay:>4} ms {bandwidth:>5} Mbit/s: GRUB to login {whole:>5.1} s ({:.2} x the first), network to login \
             {:>5.1} s, {} requests, {:.1} MB",
            whole / base,
            login - network_up,
            traffic.requests,
            traffic.bytes as f64 / 1e6
        );
        if !outages.is_empty() {
            let log = out.join("logs/console-bios-cdrom-xen.log");
            let told = std::fs::read_to_string(&log).unwrap_or_default();
            told.lines().filter(|line| line.contains("imgfetch: ")).for_each(|line| println!("{line}"));
        }
    }
}
