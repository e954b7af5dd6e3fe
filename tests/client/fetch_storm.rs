//! Tens of thousands of reads that meet with faults: each gets the image's bytes, or an error by its deadline.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use formats::block::BlockName;
use formats::index::{BlockContents, Index};
use formats::release::MirrorPath;
use imgfetch::engine::{Engine, EngineSetup};
use imgfetch::scheduler::{Backoff, Config, Hedge};
use system::http::{Http, HttpOptions, Timeouts};

use crate::fetch_support::fault_server::{Act, FaultServer, faults};
use crate::fetch_support::{Publisher, disk, stand_back};

const BLOCK: usize = 4096;
const BLOCKS: usize = 2000;
const READERS: u64 = 64;
/// Blocks that are read at the same time: some by several readers, as the kernel asks for a block in parts at once.
const AT_ONCE: usize = 64;
const DEADLINE: Duration = Duration::from_secs(5);
/// Reads that met with a fault, at least. It is computing that takes the time, a third of a millisecond a request: so
/// most reads are of one block, and several of the same. `FAULTED_READS=1000000` when there is time.
const FAULTED: u64 = 100_000;

/// Everything that takes seconds on real networks takes milliseconds here, so that there is time for many.
fn config() -> Config {
    let ms = Duration::from_millis;
    Config {
        begin: 16,
        deadline: Some(DEADLINE),
        attempt: ms(2000),
        pause: ms(1),
        pause_max: ms(20),
        backoff: Backoff { short: ms(1), short_max: ms(5), long: ms(2), long_max: ms(10), busy_max: ms(5) },
        hedge: Hedge { least: ms(20), unknown: ms(50), most: ms(100), alone: ms(100) },
        ..Config::default()
    }
}

fn hash(seed: u64, text: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), mix);
    hash ^ hash >> 29
}

#[test]
fn under_any_script_each_read_is_right_or_an_error_in_time() {
    stand_back();
    let wanted = std::env::var("FAULTED_READS").map_or(FAULTED, |text| text.parse().expect("a number"));
    let publisher = Publisher::new();
    let disk = Arc::new(disk(BLOCKS * BLOCK, 5));
    let tree = publisher.publish(7, &[("host", &disk)]);
    let index = Arc::new(Index::decode(&tree["images/host/7/index.idx"][..]).unwrap());

    // How often a block was answered with a fault, by its path.
    let met: Arc<HashMap<String, AtomicU32>> = Arc::new(
        index
            .objects()
            .iter()
            .map(|object| (MirrorPath::Block(object.name).to_string(), AtomicU32::new(0)))
            .collect(),
    );
    let dear =
        |act: &Act| matches!(act, Act::Cut | Act::Endless | Act::Close | Act::Garbage | Act::Redirect(_));
    let (dear, cheap): (Vec<_>, Vec<_>) = faults().into_iter().partition(dear);
    let servers: Vec<_> = (0..2_u64)
        .map(|number| {
            let (met, dear, cheap) = (Arc::clone(&met), dear.clone(), cheap.clone());
            FaultServer::new(tree.clone(), move |path, nth| {
                let hash = hash(number << 32 | nth as u64, path);
                let pick = |kinds: &[Act]| kinds[(hash >> 32) as usize % kinds.len()].clone();
                // What costs time or a connection is rarer: it would take all the time there is.
                let act = match hash % 1000 {
                    0 => Act::Silence,
                    1 => Act::Stall,
                    2 => Act::Late(Duration::from_millis(hash >> 20 & 0xff)),
                    3..50 => pick(&dear),
                    50..620 => pick(&cheap),
                    _ => return Act::Serve,
                };
                if let Some(count) = met.get(path) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                act
            })
        })
        .collect();
    let patience = Timeouts {
        first_byte: Duration::from_millis(100),
        stall: Duration::from_millis(100),
        ..Timeouts::default()
    };
    let parts = EngineSetup {
        index: Arc::clone(&index),
        mirrors: servers.iter().map(|server| server.url().parse().unwrap()).collect(),
        http: Arc::new(Http::open(&HttpOptions::direct(), 32, patience).unwrap()),
        cache: None,
        config: config(),
        // Nothing stays: every read asks the mirrors.
        ram: 0,
        estimates: Vec::new(),
        read_ahead: false,
    };
    let engine = Engine::start(parts).unwrap();

    let (reads, faulted, failed, slowest) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        for reader in 0..READERS {
            let (engine, disk, index, met) = (&engine, &disk, &index, &met);
            let (reads, faulted, failed, slowest) = (&reads, &faulted, &failed, &slowest);
            scope.spawn(move || {
                let path_of = |block: usize| match index.target(u32::try_from(block).unwrap()) {
                    Some(BlockContents::Object(id)) => {
                        Some(MirrorPath::Block(index.object(id).unwrap().name).to_string())
                    }
                    _ => None,
                };
                for turn in 0.. {
                    if faulted.load(Ordering::Relaxed) >= wanted {
                        return;
                    }
                    let random = hash(reader << 40 | turn, "read");
                    // On through the disk, and over again.
                    let from = reads.load(Ordering::Relaxed) as usize / AT_ONCE;
                    let block = (from + random as usize % AT_ONCE) % BLOCKS;
                    let inside = (random >> 16) as usize % BLOCK;
                    let to = if random >> 32 & 7 == 0 { 2 * BLOCK } else { BLOCK };
                    let offset = block * BLOCK + inside;
                    let len = (1 + (random >> 40) as usize % (to - inside)).min(disk.len() - offset);
                    let paths: Vec<_> =
                        (offset / BLOCK..=(offset + len - 1) / BLOCK).filter_map(path_of).collect();
                    let count = || paths.iter().map(|path| met[path].load(Ordering::Relaxed)).sum::<u32>();
                    let (before, began) = (count(), Instant::now());
                    let found = engine.read_now(offset as u64, u32::try_from(len).unwrap());
                    let took = began.elapsed();
                    reads.fetch_add(1, Ordering::Relaxed);
                    faulted.fetch_add(u64::from(count() > before), Ordering::Relaxed);
                    slowest.fetch_max(u64::try_from(took.as_millis()).unwrap(), Ordering::Relaxed);
                    // A machine may have other things to do for a while.
                    assert!(took < DEADLINE + Duration::from_secs(15), "{took:?}");
                    match found {
                        Ok(bytes) => {
                            assert!(bytes == disk[offset..][..len], "wrong bytes at {offset}, {len} long");
                        }
                        Err(error) => {
                            assert!(took >= DEADLINE, "{error} after {took:?}");
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let [reads, faulted, failed, slowest] = [reads, faulted, failed, slowest].map(AtomicU64::into_inner);
    let requests: usize = servers.iter().map(FaultServer::blocks_asked).sum();
    println!(
        "{reads} reads, {requests} requests, {faulted} reads met with faults, {failed} failed, none wrong; the slowest \
         took {slowest} ms; {:?}",
        start.elapsed()
    );
    assert!(
        failed * 100 < reads,
        "with two mirrors that are often right most reads succeed: {failed} of {reads} failed"
    );
    // The names are those of the disk, or the counts above would say nothing.
    assert!(met.contains_key(&MirrorPath::Block(BlockName::of(&disk[..BLOCK])).to_string()));
}
