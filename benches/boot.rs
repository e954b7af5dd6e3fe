//! A boot under QEMU with mirrors that are far away against the same boot with mirrors that are not: from GRUB to the
//! login, with the prefetch list that the build has, and without.
//!
//! `cargo bench --bench boot -- OUT IMGFACTORY [DELAY,BANDWIDTH]... [no-list]`: OUT is a build, best one that was made
//! after `imgfactory profile`, IMGFACTORY the program. Milliseconds of a round trip and megabits a second; 0,1000 and
//! 100,100 without.

#[path = "../tests/fetch_support/mod.rs"]
mod fetch_support;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use fetch_support::network::{Line, Network};
use imgfactory::host::serve::Server;

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

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let out = PathBuf::from(words.first().map_or("out/demo", String::as_str));
    let imgfactory = words.get(1).map_or("target/release/imgfactory", String::as_str);
    let (lists, lines): (Vec<_>, Vec<_>) = words.iter().skip(2).partition(|word| *word == "no-list");
    let lines: Vec<(u64, u64)> = lines
        .iter()
        .map(|word| {
            let (delay, bandwidth) = word.split_once(',').expect("DELAY,BANDWIDTH");
            (delay.parse().unwrap(), bandwidth.parse().unwrap())
        })
        .collect();
    let lines = if lines.is_empty() { vec![(0, 1000), (100, 100)] } else { lines };
    let mut first = None;
    for (delay, bandwidth) in lines {
        let server = Server::start(&out.join("mirror"), ([127, 0, 0, 1], 0).into()).unwrap();
        let network = Network::new(server.address(), Line::new(delay, bandwidth));
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
    }
}
