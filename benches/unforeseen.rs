//! How long a reader waits for a block that nobody foresaw while a prefetch list is fetched, against the same reads alone,
//! on lines on which all that is on its way stands in one queue.
//!
//! `cargo bench --bench unforeseen -- IMGFETCH... [DELAY,BANDWIDTH]...`: clients to compare, and lines; without lines those
//! in [`LINES`]. Median and slowest of the reads in milliseconds, how often the median of those alone, and megabits a second
//! that came meanwhile.

#[path = "../tests/fetch_support/mod.rs"]
mod fetch_support;
mod lines;
mod mounted;
#[path = "../tests/support/programs.rs"]
mod programs;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use fetch_support::fault_server::FaultServer;
use fetch_support::network::{Line, Network};
use fetch_support::{Publisher, disk, scratch};
use mounted::Mounted;

/// Milliseconds of a round trip and megabits a second.
const LINES: [(u64, u64); 5] = [(1, 20), (20, 20), (100, 20), (20, 100), (100, 100)];
const BLOCK: usize = 256 << 10;
/// Blocks of the disk, one in eight of them zeros. The list names the first of those that are not.
const BLOCKS: usize = 1040;
const LISTED: usize = 800;
/// The reads, of blocks from the end of the disk, each so long after the one before.
const READS: usize = 16;
const PAUSE: Duration = Duration::from_millis(250);

struct Figures {
    median: f64,
    most: f64,
    megabits: f64,
}

fn reads(client: &Path, key: &str, network: &Network, words: &[&str], disk: &[u8]) -> Figures {
    let work = scratch();
    let [cache, socket] = ["cache", "status.sock"].map(|name| work.path().join(name).display().to_string());
    let all = [&["--cache", &cache, "--status", &socket], words].concat();
    let mounted = Mounted::new(client, &network.url(), key, work.path().join("mnt"), &all);
    let file = mounted.disk_at_random();
    std::thread::sleep(Duration::from_millis(1500));
    let (began, passed) = (Instant::now(), network.passed());
    let mut bytes = vec![0; 4096];
    let mut times: Vec<f64> = (0..READS)
        .map(|n| {
            std::thread::sleep(PAUSE);
            // Not one after the other, and not near each other.
            let at = (BLOCKS - 1 - 8 * (n * 5 % READS)) * BLOCK;
            let start = Instant::now();
            file.read_exact_at(&mut bytes, at as u64).unwrap();
            assert!(bytes == disk[at..][..4096]);
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    let megabits = (network.passed() - passed) as f64 / 125_000.0 / began.elapsed().as_secs_f64();
    if !words.contains(&"--no-prefetch") {
        let said = Command::new(client).args(["status", "--socket"]).arg(&socket).output().unwrap();
        let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        assert!(said["prefetch_left"].as_u64().unwrap() > 0, "the list was over before the reads: {said}");
    }
    times.sort_by(f64::total_cmp);
    Figures { median: times[READS / 2], most: times[READS - 1], megabits }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let (lines, clients): (Vec<_>, Vec<_>) = words.iter().partition(|word| word.contains(','));
    let publisher = Publisher { block_size: BLOCK as u32, ahead: LISTED, ..Publisher::new() };
    let disk = disk(BLOCKS * BLOCK, 1);
    let server = FaultServer::honest(publisher.publish(7, &[("host", &disk)]));
    println!("{:>5} {:>7}", "ms", "Mbit/s");
    for (delay, bandwidth) in lines::lines(lines, &LINES) {
        let line = Line::new(delay, bandwidth).one_queue();
        let of = |client: &str, words: &[&str]| {
            let network = Network::new(server.address(), line);
            reads(Path::new(client), &publisher.public(), &network, words, &disk)
        };
        for (at, client) in clients.iter().enumerate() {
            if at == 0 {
                let alone = of(client, &["--no-prefetch"]);
                println!("{delay:>5} {bandwidth:>7}  alone {:>5.0} {:>5.0}", alone.median, alone.most);
            }
            let found = of(client, &[]);
            let Figures { median, most, megabits } = found;
            println!("{:>14} {median:>5.0} {most:>5.0}  {megabits:>5.1} Mbit/s  {client}", "");
        }
    }
}
