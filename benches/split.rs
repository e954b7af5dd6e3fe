//! Throughput of the split step: MB of raw image a second, by the clock and by the CPU time of all threads, for both
//! codecs, on one thread and on all, into an empty store and into one that has all blocks. `cargo bench --bench split
//! [-- IMAGE]`; without an image, 512 MiB of seeded bytes that compress about as a system's disk does.

#[allow(dead_code, reason = "each bench uses a part")]
mod seeded;

use std::fs;
use std::hint::black_box;
use std::io::Read;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use formats::block::{BlockName, Codec};
use formats::digest::Sha256;
use formats::index::Header;
use formats::names::{BlockSize, Serial, UnixTime};
use imgfactory::compress::Compressor;
use imgfactory::pipeline::steps::split::{Options, split};
use imgfactory::repository::store::Store;
use imgfactory::sys::progress::Silent;
use seeded::{Seeded, cpu_time};

const SEEDED: usize = 512 << 20;

fn main() {
    let file = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let image = match &file {
        Some(path) => {
            let mut image = Vec::new();
            fs::File::open(path)
                .and_then(|file| file.take(4 << 30).read_to_end(&mut image))
                .expect("the image is read");
            image
        }
        None => Seeded::new().take(SEEDED),
    };
    let header = Header {
        image: "bench".parse().expect("a name"),
        serial: Serial::FIRST,
        block_size: BlockSize::DEFAULT,
        size: image.len() as u64,
        published: UnixTime(0),
        parent: None,
    };
    let rate = |from: (Instant, Duration)| {
        let by = |time: Duration| image.len() as f64 / 1e6 / time.as_secs_f64();
        format!("{:.0} MB/s, {:.0} MB a CPU second", by(from.0.elapsed()), by(cpu_time() - from.1))
    };
    let now = || (Instant::now(), cpu_time());
    println!("image: {:.0} MB", image.len() as f64 / 1e6);

    let start = now();
    for raw in image.chunks(BlockSize::DEFAULT.get() as usize) {
        black_box((BlockName::of(raw), Sha256::of(raw)));
    }
    println!("MD5 and SHA-256 alone, 1 thread: {}", rate(start));

    let all = available_parallelism().expect("the number of cores");
    for (name, codec) in [("libdeflate 6", Codec::libdeflate(6)), ("zlib 6", Codec::zlib(6))] {
        let codec = codec.expect("a level");
        let start = now();
        let mut compressor = Compressor::new(codec);
        let bytes: usize =
            image.chunks(BlockSize::DEFAULT.get() as usize).map(|raw| compressor.compress(raw).len()).sum();
        println!(
            "{name} alone, 1 thread: {}, to {:.1} %",
            rate(start),
            100.0 * bytes as f64 / image.len() as f64
        );
        for threads in [NonZeroUsize::MIN, all] {
            let dir = tempfile::tempdir().expect("a directory");
            for state in ["empty store", "same build again", "after a build that was cut off"] {
                let mut store = Store::open(dir.path()).expect("a store");
                if state == "same build again" {
                    let text = fs::read(dir.path().join("index")).expect("the index");
                    store.trust(&formats::index::Index::decode(&text[..]).expect("an index"));
                }
                let start = now();
                let options = Options { codec, threads };
                let done = split(&header, options, &mut store, &Silent, &image).expect("a split");
                let rate = rate(start);
                println!("split, {name}, {threads} threads, {state}: {rate}, {:?}", done.figures);
                fs::write(dir.path().join("index"), done.index.to_text()).expect("the index");
            }
        }
    }
}
