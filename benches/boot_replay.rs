//! The blocks that a boot reads, read again through FUSE in the same order, from mirrors that are far away: without
//! prefetch, with four connections as in 2006, and as we do it, each against the time that the bytes alone need.
//!
//! `cargo bench --bench boot-replay -- OUT IMGFETCH [DELAY,BANDWIDTH]... [WAY]...`: OUT is a build that `imgfactory
//! profile` has looked at (OUT/profile/host.dlahead is the trace), IMGFETCH the static client, WAY one of those in
//! [`WAYS`]; all without one; `one-queue` among them: on lines as [`Line::one_queue`] has them. One reader, without a pause between reads and without what the kernel reads ahead: what a
//! boot waits for, and nothing else. Beside each time are the bytes that came.

#[path = "../tests/fetch_support/mod.rs"]
mod fetch_support;
mod lines;
mod mounted;
#[path = "../tests/support/programs.rs"]
mod programs;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fetch_support::fault_server::FaultServer;
use fetch_support::network::{Line, Network};
use fetch_support::{Tree, scratch};
use formats::block::{BlockName, Object};
use formats::index::{BlockContents, Index};
use formats::release::{Dlahead, Document, ImageFiles, Latest, MirrorPath, Release, Stored};
use imgfactory::release::SigningKey;
use mounted::Mounted;

/// A release of the demo's host, signed with a key of ours, with the trace as its prefetch list.
struct World {
    tree: Tree,
    key: SigningKey,
    trace: Vec<u64>,
    bytes: u64,
    blocks: usize,
}

fn world(out: &Path) -> World {
    let trace = Dlahead::decode(
        &fs::read(out.join("profile/host.dlahead"))
            .expect("OUT/profile/host.dlahead: run imgfactory profile OUT")[..],
    )
    .unwrap();
    let dir = out.join(format!("mirror/images/host/{}", trace.serial));
    let text = fs::read(dir.join("index.idx")).unwrap();
    let index = Index::decode(&text[..]).unwrap();
    let objects: HashMap<BlockName, &Object> =
        index.objects().iter().map(|object| (object.name, object)).collect();
    let mut places: HashMap<BlockName, u64> = HashMap::new();
    for (block, target) in (0_u64..).zip(index.targets()) {
        if let BlockContents::Object(id) = target {
            places.entry(index.object(id).unwrap().name).or_insert(block);
        }
    }
    let size = u64::from(index.header().block_size.get());
    let mut tree = Tree::new();
    for object in index.objects() {
        let path = MirrorPath::Block(object.name).to_string();
        // Only what the trace needs and what stands near it; the rest is large.
        tree.insert(path.clone(), fs::read(out.join("mirror").join(&path)).unwrap());
    }
    let key = SigningKey::generate().unwrap();
    let mut list = Vec::new();
    trace.encode(&mut list).unwrap();
    let serial = trace.serial;
    let digest = formats::digest::Digest::of;
    let index = Stored { serial, digest: digest(&text) };
    let files = ImageFiles {
        dlahead: Some(Stored { serial, digest: digest(&list) }),
        ..ImageFiles::of_index(trace.image.clone(), index)
    };
    tree.insert(files.index_path().to_string(), text);
    tree.insert(files.dlahead_path().unwrap().to_string(), list);
    let now = system::clock::now();
    let later = formats::names::UnixTime(now.0 + 86_400);
    let name: formats::names::ImageName = "demo".parse().unwrap();
    let release =
        Release { name: name.clone(), serial, published: now, retain_until: later, images: vec![files] };
    let release = key.sign(&release).unwrap();
    let mirrors = key.sign(&formats::release::Mirrors { name: name.clone(), mirrors: Vec::new() }).unwrap();
    let latest = Latest {
        name,
        serial,
        release: digest(&release),
        mirrors: digest(&mirrors),
        published: now,
        expires: later,
        min_serial: formats::names::Serial::FIRST,
    };
    tree.insert(Latest::FILE.into(), key.sign(&latest).unwrap());
    tree.insert(MirrorPath::Release(serial).to_string(), release);
    tree.insert("mirrors.txt".into(), mirrors);
    World {
        tree,
        key,
        bytes: trace.entries.iter().map(|ahead| u64::from(objects[&ahead.name].file_len)).sum(),
        blocks: trace.entries.len(),
        trace: trace.entries.iter().map(|ahead| places[&ahead.name] * size).collect(),
    }
}

/// Mounts and reads the trace: time from the start of the client to the last read.
fn replay(world: &World, client: &Path, network: &Network, words: &[&str]) -> Duration {
    let work = scratch();
    let cache = work.path().join("cache").display().to_string();
    let all = [&["--status", "none", "--cache", &cache], words].concat();
    let start = Instant::now();
    let at = work.path().join("mnt");
    let mounted = Mounted::new(client, &network.url(), world.key.public_base64(), at, &all);
    let disk = mounted.disk_at_random();
    let mut bytes = vec![0; 4096];
    for &offset in &world.trace {
        disk.read_exact_at(&mut bytes, offset).unwrap();
    }
    start.elapsed()
}

/// How to read it: a name, and the options of the client.
const WAYS: [(&str, &[&str]); 5] = [
    ("one", &["--connections", "1", "--no-prefetch"]),
    ("four", &["--connections", "4", "--no-prefetch"]),
    ("four-list", &["--connections", "4"]),
    ("no-list", &["--no-list"]),
    ("ours", &[]),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let one_queue = words.iter().any(|word| word == "one-queue");
    let words: Vec<String> = words.into_iter().filter(|word| word != "one-queue").collect();
    let out = PathBuf::from(words.first().map_or("out/demo", String::as_str));
    let client = words.get(1).map_or("target/x86_64-unknown-linux-gnu/client/imgfetch", String::as_str);
    let (ways, lines): (Vec<_>, Vec<_>) =
        words.iter().skip(2).partition(|word| WAYS.iter().any(|(name, _)| name == word));
    let all = [0, 20, 100, 200].map(|delay| [20, 100, 1000].map(|bandwidth| (delay, bandwidth)));
    let lines = lines::lines(lines, all.as_flattened());
    let world = world(&out);
    println!("{} blocks, {} bytes", world.blocks, world.bytes);
    println!(
        "seconds from the start of the client to the last read; how often the time the bytes alone need; MB"
    );
    print!("{:>5} {:>7} {:>7} ", "ms", "Mbit/s", "bytes");
    let ways = || WAYS.iter().filter(|(name, _)| ways.is_empty() || ways.iter().any(|way| way == name));
    ways().for_each(|(name, _)| print!(" {name:>22}"));
    println!();
    let server = FaultServer::honest(world.tree.clone());
    for (delay, bandwidth) in lines {
        let least = world.bytes as f64 / (bandwidth * 125_000) as f64;
        print!("{delay:>5} {bandwidth:>7} {least:>7.2} ");
        let mut figures = HashMap::new();
        for (name, words) in ways() {
            let network = Line { one_queue, ..Line::new(delay, bandwidth) };
            let network = Network::new(server.address(), network);
            let whole = replay(&world, Path::new(client), &network, words).as_secs_f64();
            print!(" {whole:>7.2} {:>6.2} x {:>4}", whole / least, network.passed() / 1_000_000);
            figures.insert(*name, whole);
        }
        let ratio = |of: &str, to: &str| Some(figures.get(of)? / figures.get(to)?);
        if let (Some(four), Some(one)) = (ratio("four", "ours"), ratio("one", "no-list")) {
            let list = ratio("four-list", "ours").unwrap_or_default();
            print!(
                "   ours {four:.1} x faster than four, {list:.1} x than four-list; no-list {one:.1} x than one"
            );
        }
        println!();
    }
}
