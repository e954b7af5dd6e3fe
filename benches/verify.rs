//! How fast `mirror verify` reads a local tree of 10,000 blocks, beside what inflating and hashing alone allow on as
//! many threads, with the files in memory. `cargo bench --bench verify`; fails below 0.8 of that.

#[allow(dead_code, reason = "each bench uses a part")]
mod seeded;

use std::convert::Infallible;
use std::fs;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{available_parallelism, scope};
use std::time::{Duration, Instant};

use formats::block::Codec;
use formats::index::Header;
use formats::names::{BlockSize, ImageName};
use formats::release::TrustedKeys;
use imgfactory::pipeline::previous_release::PreviousRelease;
use imgfactory::pipeline::step_runner::StepRunner;
use imgfactory::pipeline::steps::release::commit;
use imgfactory::pipeline::steps::split::{Options, SplitInput, split};
use imgfactory::publish::Remote;
use imgfactory::release::Draft;
use imgfactory::release::SigningKey;
use imgfactory::repository::mirror::{Verify, verify};
use imgfactory::repository::store::Store;
use imgfactory::repository::targets::{DirectoryTarget, LocalTree};
use imgfactory::sys::progress::Silent;
use md5::Digest;
use seeded::{Seeded, cpu_time};
use system::clock;

const BLOCKS: usize = 10_000;
const ROUNDS: usize = 3;
/// What must be reached of the bound, in CPU time: other programs run beside this one.
const WANTED: f64 = 0.8;

/// By the clock, and by the CPU time of all threads.
#[derive(Clone, Copy)]
struct Took(Duration, Duration);

fn timed(work: impl FnOnce()) -> Took {
    let (start, cpu) = (Instant::now(), cpu_time());
    work();
    Took(start.elapsed(), cpu_time() - cpu)
}

/// All work on all threads.
fn all(files: &[(Vec<u8>, usize)], threads: usize, work: impl Fn(&[u8], &mut [u8]) + Sync) {
    let next = AtomicUsize::new(0);
    scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut raw = vec![0; 1 << 18];
                while let Some((file, len)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let raw = &mut raw[..*len];
                    work(file, raw);
                    black_box((md5::Md5::digest(&*raw), sha2::Sha256::digest(&*raw)));
                }
            });
        }
    });
}

fn miniz(file: &[u8], raw: &mut [u8]) {
    use miniz_oxide::inflate::core::inflate_flags::{
        TINFL_FLAG_COMPUTE_ADLER32, TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
    };
    let flags =
        TINFL_FLAG_PARSE_ZLIB_HEADER | TINFL_FLAG_COMPUTE_ADLER32 | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut state = miniz_oxide::inflate::core::DecompressorOxide::new();
    let (_, _, written) = miniz_oxide::inflate::core::decompress(&mut state, file, raw, 0, flags);
    assert_eq!(written, raw.len());
}

fn libdeflate(file: &[u8], raw: &mut [u8]) {
    let found = libdeflater::Decompressor::new().zlib_decompress(file, raw);
    assert_eq!(found.expect("a block"), raw.len());
}

/// A disk that compresses about as a system's does, without zeros.
struct Noise {
    seeded: Seeded,
}

impl SplitInput for Noise {
    type Error = Infallible;

    fn read(&self, at: u64, raw: &mut [u8]) -> Result<(), Infallible> {
        let mut noise = Vec::with_capacity(raw.len() + 32);
        self.seeded.nth(at).noise(&mut noise, raw.len());
        raw.copy_from_slice(&noise[..raw.len()]);
        Ok(())
    }
}

fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("mirror");
    let (name, image): (ImageName, ImageName) =
        ("demo".parse().expect("a name"), "host".parse().expect("a name"));
    let key = SigningKey::generate().expect("a key");
    let keys = TrustedKeys::parse(&key.public_text()).expect("its public half");
    let threads = available_parallelism().expect("the number of cores");
    let mut store = Store::open(&root).expect("a store");
    let previous = PreviousRelease::read(&mut store, None, &name, &keys).expect("an empty tree");
    let block = BlockSize::DEFAULT.get() as usize;
    let header = Header {
        image,
        serial: previous.next,
        block_size: BlockSize::DEFAULT,
        size: (BLOCKS * block) as u64,
        published: clock::now(),
        parent: None,
    };
    let options = Options { codec: Codec::libdeflate(6).expect("a level"), threads };
    let source = Noise { seeded: Seeded::new() };
    let done = split(&header, options, &mut store, &Silent, &source).expect("a split");
    let draft = Draft {
        name,
        serial: previous.next,
        lists: Vec::new(),
        layouts: Default::default(),
        indexes: vec![done.index],
        mirrors: vec![],
        published: clock::now(),
        retain_for: 86_400,
        fresh_for: 86_400,
    };
    let upload =
        commit(&store, &dir.path().join("upload.txt"), draft, &previous, &key, &mut StepRunner::default())
            .expect("a release");
    let files: Vec<(Vec<u8>, usize)> = upload
        .puts
        .iter()
        .filter(|put| put.path.to_string().starts_with("blk/"))
        .map(|put| (fs::read(root.join(put.path.to_string())).expect("a block"), block))
        .collect();
    assert_eq!(files.len(), BLOCKS);
    let (raw, sent) = (BLOCKS * block, files.iter().map(|(file, _)| file.len()).sum::<usize>());
    println!(
        "{BLOCKS} blocks, {:.0} MB in {:.0} MB of files, {threads} threads",
        raw as f64 / 1e6,
        sent as f64 / 1e6
    );

    let ours = || {
        let listed = DirectoryTarget::new(&root, 1).list().expect("a list");
        let tree = LocalTree(root.clone());
        let job = Verify { files: &tree, listed, keys: &keys, jobs: threads.get(), percent: 100.0 };
        let report = verify(&job, &|_| Box::new(|_| {})).expect("a release").expect("one");
        assert_eq!((report.right, report.findings.len()), (BLOCKS + 2, 0), "{:?}", report.findings);
    };
    let mut best = [Took(Duration::MAX, Duration::MAX); 3];
    for _ in 0..ROUNDS {
        let took = [
            timed(ours),
            timed(|| all(&files, threads.get(), miniz)),
            timed(|| all(&files, threads.get(), libdeflate)),
        ];
        for (best, took) in best.iter_mut().zip(took) {
            *best = Took(best.0.min(took.0), best.1.min(took.1));
        }
    }
    let rate = |time: Duration| raw as f64 / 1e6 / time.as_secs_f64();
    let names =
        ["mirror verify", "miniz_oxide, MD5, SHA-256 in memory", "libdeflate, MD5, SHA-256 in memory"];
    for (name, Took(wall, cpu)) in names.iter().zip(best) {
        println!("{name}: {:.0} MB/s, {:.0} MB a CPU second", rate(wall), rate(cpu));
    }
    let [Took(wall, cpu), bounds @ ..] = best;
    for (name, bound) in names[1..].iter().zip(bounds) {
        let by = |bound: Duration, ours: Duration| bound.as_secs_f64() / ours.as_secs_f64();
        println!("of {name}: {:.2} by the clock, {:.2} by CPU time", by(bound.0, wall), by(bound.1, cpu));
    }
    let reached = bounds[0].1.as_secs_f64() / cpu.as_secs_f64();
    assert!(
        reached >= WANTED,
        "{reached:.2} of what the same inflating and hashing allow; {WANTED} is wanted"
    );
}
