//! Every parser that reads bytes from the network or the cache, fed with what nobody would send: no panic, no
//! allocation out of proportion, no answer that takes long, and what is accepted is written again to the byte.
//!
//! Runs on stable Rust, with the other tests: inputs are mutated from valid ones, and one is kept as a seed for more
//! when the parser says something about it that it has not said before. (Numbers and quotations aside: what the parser
//! says names the branch it took, which is what a coverage-guided fuzzer would have to find out.) `FUZZ_SECONDS` is
//! the time for each parser, 60 without it; what fails is printed as bytes of Rust.

mod fetch_support;
#[path = "support/programs.rs"]
mod programs;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fetch_support::{Publisher, disk, scratch, stand_back};
use formats::block::{Block, Codec, FetchedFile, Object};
use formats::index::Index;
use formats::names::ImageName;
use formats::release::{
    Dlahead, Document, Latest, MirrorPath, MirrorUrl, Mirrors, Reads, Release, Successors, TrustedKeys,
    Verified,
};
use imgfactory::compress::Compressor;
use imgfetch::cache::Cache;
use system::http::{Get, Http, Patience, Proxies};

/// Counts what this thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: `System` does the work; what is counted beside it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more.
        let _ = ASKED.try_with(|asked| asked.set(asked.get().max(layout.size())));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// No more at once than this and 64 bytes for each byte of the input.
const LARGEST: usize = 2 << 20;
/// No answer is worked on for longer.
const LONGEST: Duration = Duration::from_secs(2);

/// How long this thread has worked: what else the machine does is no fault of a parser's.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit.max(1)
    }
}

/// What breaks parsers of lines, numbers, addresses and heads of answers.
const WORDS: [&[u8]; 40] = [
    b"",
    b"\n",
    b"\r\n",
    b" ",
    b"  ",
    b"\t",
    b"\0",
    b"-",
    b"+",
    b"-1",
    b"0",
    b"00",
    b"1",
    b"7+",
    b"18446744073709551615",
    b"18446744073709551616",
    b"9223372036854775808",
    b"4294967296",
    b"262144",
    b"99999999999999999999999999",
    b"end",
    b"end 1 1\n",
    b"map 0 4294967295 -\n",
    b"object ",
    b"image: host\n",
    b"serial: 0\n",
    b"size: 18446744073709551615\n",
    b"block-size: 4194304\n",
    b"../../etc/passwd",
    b"http://[::1",
    b"file:///",
    b"\xff\xfe",
    "\u{202e}".as_bytes(),
    b"Content-Length: 18446744073709551615\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Location: //\r\n",
    b"Retry-After: 99999999999999999999\r\n",
    b"HTTP/1.1 200\r\n",
    b"\r\n\r\n",
];

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let longest = 1 << random.below(8);
        let end = (at + random.below(longest)).min(bytes.len());
        match random.below(8) {
            0 => drop(bytes.splice(at..end, [])),
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
            3 => drop(bytes.splice(at..end, WORDS[random.below(WORDS.len())].iter().copied())),
            4 => {
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                drop(bytes.splice(to..to, piece));
            }
            5 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            6 => bytes[at..end].iter_mut().for_each(|byte| *byte = random.next() as u8),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
    bytes.truncate(1 << 20);
    bytes
}

/// Feeds `parse` for its time. It gives what it says about its input, in words.
fn fuzz(name: &str, mut seeds: Vec<Vec<u8>>, mut parse: impl FnMut(&[u8]) -> String) {
    stand_back();
    let seconds = std::env::var("FUZZ_SECONDS").map_or(60, |text| text.parse().expect("seconds"));
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut said = HashSet::new();
    let mut count = 0_u64;
    let first = seeds.clone();
    let mut waiting = first.into_iter();
    while Instant::now() < until {
        let bytes = waiting.next().unwrap_or_else(|| mutate(&mut random, &seeds));
        ASKED.set(0);
        let start = worked();
        let answer = catch_unwind(AssertUnwindSafe(|| parse(&bytes)));
        let (took, asked) = (worked().saturating_sub(start), ASKED.get());
        let input = || format!("{name}: b\"{}\"", bytes.escape_ascii());
        let answer = answer.unwrap_or_else(|_| panic!("panics: {}", input()));
        assert!(took < LONGEST, "takes {took:?}: {}", input());
        assert!(asked <= LARGEST + 64 * bytes.len(), "asks for {asked} bytes at once: {}", input());
        count += 1;
        let mut quoted = false;
        let own = |c: &char| {
            quoted ^= *c == '`';
            !quoted && !c.is_ascii_digit()
        };
        let kind: String = answer.chars().filter(own).take(60).collect();
        if said.len() < 4000 && said.insert(kind) {
            seeds.push(bytes);
        }
    }
    println!("{name}: {count} inputs, {} different answers, {} seeds", said.len(), seeds.len());
    assert!(said.len() > 1, "{name}: only {said:?}: nothing was tried");
}

/// A document that is accepted says what it says, to the byte.
fn document<T: Document>(bytes: &[u8]) -> String {
    match T::decode_text(bytes) {
        Ok(document) => {
            assert!(document.to_text().as_bytes() == bytes, "written otherwise");
            "accepted".into()
        }
        Err(error) => error.to_string(),
    }
}

/// The text of a signed file, and the file.
fn signed(tree: &fetch_support::Tree, path: &str) -> [Vec<u8>; 2] {
    let file = tree[path].clone();
    let end = file.windows(5).rposition(|window| window == b"\nend\n").expect("an end") + 5;
    [file[..end].to_vec(), file]
}

fn tree() -> (Publisher, fetch_support::Tree) {
    let publisher = Publisher { ahead: 5, ..Publisher::new() };
    let tree = publisher.publish(42, &[("host", &disk(30 * 4096 + 100, 3)), ("guest", &disk(5 * 4096, 4))]);
    (publisher, tree)
}

#[test]
fn fuzz_latest() {
    fuzz("latest", signed(&tree().1, "latest").into(), document::<Latest>);
}

#[test]
fn fuzz_release() {
    fuzz("release", signed(&tree().1, "releases/42.txt").into(), document::<Release>);
}

#[test]
fn fuzz_mirrors() {
    let text = b"imgfactory-mirrors 1\nname: demo\nmirror http://a.example/ max-conn=4\nend\n".to_vec();
    let [own, file] = signed(&tree().1, "mirrors.txt");
    fuzz("mirrors.txt", vec![text, own, file], document::<Mirrors>);
}

#[test]
fn fuzz_signatures_and_keys() {
    let (publisher, tree) = tree();
    let keys = TrustedKeys::parse(&publisher.public()).unwrap();
    let file = tree["latest"].clone();
    let honest = Verified::<Latest>::open(&file, &keys).unwrap().to_text();
    let seeds = vec![file, tree["releases/42.txt"].clone(), publisher.public().into_bytes()];
    fuzz("signature", seeds, |bytes| {
        let _ = TrustedKeys::parse(&String::from_utf8_lossy(bytes));
        let _ = Verified::<Successors>::open(bytes, &keys);
        match Verified::<Latest>::open(bytes, &keys) {
            Ok(latest) => {
                assert_eq!(latest.to_text(), honest, "a forgery");
                "accepted".into()
            }
            Err(error) => error.to_string(),
        }
    });
}

#[test]
fn fuzz_index() {
    let (_, tree) = tree();
    let seeds = ["host", "guest"].map(|image| tree[&format!("images/{image}/42/index.idx")].clone());
    fuzz("index.idx", seeds.into(), |bytes| match Index::decode(bytes) {
        Ok(index) => {
            assert!(index.to_text() == bytes, "written otherwise");
            "accepted".into()
        }
        Err(error) => error.to_string(),
    });
}

#[test]
fn fuzz_dlahead() {
    let seed = tree().1["images/host/42/dlahead"].clone();
    fuzz("dlahead", vec![seed], |bytes| match Dlahead::decode(bytes) {
        Ok(list) => {
            let mut text = Vec::new();
            list.encode(&mut text).unwrap();
            assert_eq!(Dlahead::decode(&text[..]).unwrap(), list);
            "accepted".into()
        }
        Err(error) => error.to_string(),
    });
}

#[test]
fn fuzz_reads() {
    let seed = b"imgfactory-reads 1\nimage: host\nserial: 42\n# what for\n10 2\n0 2\n12 2\nend\n";
    fuzz("reads", vec![seed.to_vec()], |bytes| match Reads::decode(bytes) {
        Ok(reads) => {
            let mut text = Vec::new();
            reads.encode(&mut text).unwrap();
            assert_eq!(Reads::decode(&text[..]).unwrap(), reads);
            "accepted".into()
        }
        Err(error) => error.to_string(),
    });
}

#[test]
fn fuzz_names_paths_and_addresses() {
    let seeds = [
        "blk/ec/ec87a838931d4d5d2e94a04644788a55",
        "images/host/42/index.idx",
        "releases/42.txt",
        "latest",
        "http://user@mirror.example:8080/a/b/",
        "https://[fe80::1]/x/",
        "mirror.example",
    ];
    fuzz("names", seeds.iter().map(|text| text.as_bytes().to_vec()).collect(), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(path) = text.parse::<MirrorPath>() {
            assert_eq!(path.to_string(), *text);
            let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
            assert!(path.to_string().split('/').all(plain), "{path}");
            return "a path".into();
        }
        let _ = text.parse::<ImageName>();
        match MirrorUrl::typed(&text) {
            Ok(url) => {
                assert!(url.as_str().starts_with("http://") || url.as_str().starts_with("https://"), "{url}");
                assert!(url.as_str().ends_with('/') && url.as_str().bytes().all(|b| b > b' '), "{url}");
                "an address".into()
            }
            Err(error) => error.to_string(),
        }
    });
}

#[test]
fn fuzz_block_files() {
    let raw = disk(65_536, 8);
    let block = Block::seal(raw.clone());
    let mut seeds: Vec<Vec<u8>> =
        [1, 6, 9].map(|level| Compressor::new(Codec::zlib(level).unwrap()).compress(&raw)).into();
    // A bomb: much from little.
    seeds.push(Compressor::new(Codec::zlib(9).unwrap()).compress(&vec![0; 4 << 20]));
    fuzz("block file", seeds, |bytes| {
        let object = Object {
            name: block.name(),
            sha256: block.sha256(),
            raw_len: 65_536,
            file_len: u32::try_from(bytes.len()).unwrap(),
        };
        match FetchedFile::new(object, bytes).inflate().and_then(|inflated| inflated.verify()) {
            Ok(found) => {
                assert!(found.bytes() == raw, "other bytes");
                "accepted".into()
            }
            Err(damage) => damage.to_string(),
        }
    });
}

#[test]
fn fuzz_files_of_the_cache() {
    let (_, tree) = tree();
    let dir = scratch();
    let cache = Cache::open(dir.path(), None).unwrap();
    let (name, image): (ImageName, ImageName) = ("demo".parse().unwrap(), "host".parse().unwrap());
    std::fs::create_dir_all(dir.path().join("state/demo")).unwrap();
    let index = tree["images/host/42/index.idx"].clone();
    fuzz("cache", vec![b"42\n".to_vec(), index, b"ec87a838931d4d5d2e94a04644788a55\n".to_vec()], |bytes| {
        for file in ["state/demo.serial", "state/demo/host.idx", "state/demo/release", "state/pins"] {
            std::fs::write(dir.path().join(file), bytes).unwrap();
        }
        let stats = cache.stats();
        let _ = (cache.only_name(), cache.saved_release(&name), cache.saved_index(&name, &image));
        match cache.accepted_serial(&name) {
            Ok(serial) => format!("{serial:?} {} maps {} pins", stats.images.len(), stats.pinned),
            Err(error) => formats::report::report(&error),
        }
    });
}

#[test]
fn fuzz_answers_of_servers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    // One answer for all questions: some are asked again.
    let answer = Arc::<Mutex<Vec<u8>>>::default();
    let told = Arc::clone(&answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // To the end of the question; then the answer, and the end.
            let _ = stream.read(&mut [0; 4096]);
            let answer = told.lock().unwrap().clone();
            let _ = stream.write_all(&answer);
        }
    });
    let patience = Patience {
        first_byte: Duration::from_millis(500),
        stall: Duration::from_millis(500),
        ..Patience::default()
    };
    let http = Http::new(Proxies::none(), None, 1, patience).unwrap();
    let seeds = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html>",
    ];
    fuzz("answer", seeds.iter().map(|text| text.as_bytes().to_vec()).collect(), |bytes| {
        *answer.lock().unwrap() = bytes.to_vec();
        let get =
            Get { new_connection: true, ..Get::new(&url, 100, Instant::now() + Duration::from_secs(1)) };
        match http.get(get) {
            Ok(answer) => {
                assert!(answer.bytes.len() <= 100);
                "accepted".into()
            }
            Err(fault) => fault.to_string(),
        }
    });
}
