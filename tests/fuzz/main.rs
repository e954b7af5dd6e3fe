//! Every parser that reads bytes from outside, fed with what no writer would make: no panic, no allocation out of
//! proportion, no answer that takes long, and what is accepted is written again to the byte where there is a writer.
//!
//! Runs on stable Rust, with the other tests: inputs are mutated from valid ones, and one is kept as a seed for more
//! when the parser says something about it that it has not said before. (Numbers and quotations aside: what the parser
//! says names the branch it took, which is what a coverage-guided fuzzer would have to find out.) `FUZZ_SECONDS` is
//! the time for each parser, 15 without it; an input that fails is kept as a file, whose name is printed.
//!
//! [`Target::cases`] are inputs that a parser once failed at, or would without a check that is easily lost. They are
//! run first.

#[path = "../fetch_support/mod.rs"]
mod fetch_support;
#[path = "../support/programs.rs"]
mod programs;

mod archives;
mod client;
mod guests;
mod images;
mod media;
mod texts;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use fetch_support::stand_back;

/// Counts what this thread asks for and holds.
struct Counting;

#[derive(Clone, Copy)]
struct Memory {
    /// The largest allocation.
    once: usize,
    /// What is held now: less than nothing where what was allocated before is freed.
    now: isize,
    /// The most that was held.
    most: isize,
}

const NOTHING: Memory = Memory { once: 0, now: 0, most: 0 };

thread_local! {
    static MEMORY: Cell<Memory> = const { Cell::new(NOTHING) };
}

// SAFETY: `System` does the work; what is counted beside it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more.
        let _ = MEMORY.try_with(|memory| {
            let Memory { once, now, most } = memory.get();
            let now = now + layout.size().cast_signed();
            memory.set(Memory { once: once.max(layout.size()), now, most: most.max(now) });
        });
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let _ = MEMORY.try_with(|memory| {
            let before = memory.get();
            memory.set(Memory { now: before.now - layout.size().cast_signed(), ..before });
        });
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Inputs that are tried of each parser, however little time there is.
const LEAST: u32 = 200;
/// No answer is worked on for longer.
const LONGEST: Duration = Duration::from_secs(2);

/// How long this thread has worked: what else the machine does is no fault of a parser's.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// A parser under test: valid inputs, and what it may take.
struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    cases: Vec<Vec<u8>>,
    words: &'static [&'static [u8]],
    in_place: bool,
    repair: fn(&mut [u8]),
    once: usize,
    held: usize,
    per_byte: usize,
}

impl Target {
    /// No more than 2 MiB at once and 8 MiB in all, and 64 bytes for each byte of the input.
    fn new(name: &'static str, seeds: Vec<Vec<u8>>) -> Self {
        Target {
            name,
            seeds,
            cases: Vec::new(),
            words: &WORDS,
            in_place: false,
            repair: |_| {},
            once: 2 << 20,
            held: 8 << 20,
            per_byte: 64,
        }
    }

    /// Inputs to run first, which are no seeds.
    fn cases(self, cases: Vec<Vec<u8>>) -> Self {
        Target { cases, ..self }
    }

    /// What is put in between.
    fn words(self, words: &'static [&'static [u8]]) -> Self {
        Target { words, ..self }
    }

    /// An image, in which everything stays where it is: bytes are overwritten, most of them near others that are not 0.
    fn in_place(self) -> Self {
        Target { in_place: true, ..self }
    }

    /// Makes checksums right again, so that what is behind them is reached; one input in eight stays as it is.
    fn repair(self, repair: fn(&mut [u8])) -> Self {
        Target { repair, ..self }
    }

    /// Bytes for each byte of the input.
    fn per_byte(self, per_byte: usize) -> Self {
        Target { per_byte, ..self }
    }

    /// Bytes that may be allocated at once, whatever the input.
    fn once(self, once: usize) -> Self {
        Target { once, ..self }
    }

    /// Feeds `parse` for its time. It gives what it says about its input, in words.
    fn fuzz(mut self, mut parse: impl FnMut(&[u8]) -> String) {
        stand_back();
        let seconds = std::env::var("FUZZ_SECONDS").map_or(15, |text| text.parse().expect("seconds"));
        for case in std::mem::take(&mut self.cases) {
            let said = self.run(&case, &mut parse);
            println!("{}: a case of {} bytes: {}", self.name, case.len(), head(&said));
        }
        let mut said = HashSet::new();
        for seed in self.seeds.clone() {
            said.insert(kind(&self.run(&seed, &mut parse)));
        }
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut random = Random(0x1234_5678_9abc_def1);
        let mut count = 0;
        while count < LEAST || Instant::now() < until {
            let mut bytes = self.mutate(&mut random);
            if random.below(8) > 0 {
                (self.repair)(&mut bytes);
            }
            let answer = self.run(&bytes, &mut parse);
            count += 1;
            if said.len() < 4000 && said.insert(kind(&answer)) {
                self.seeds.push(bytes);
            }
        }
        let name = self.name;
        println!("{name}: {count} inputs, {} different answers, {} seeds", said.len(), self.seeds.len());
        assert!(said.len() > 1, "{name}: only {said:?}: nothing was tried");
    }

    /// Only the seeds and cases.
    fn run_cases(self, mut parse: impl FnMut(&[u8]) -> String) {
        for case in self.seeds.iter().chain(&self.cases) {
            let said = self.run(case, &mut parse);
            println!("{}: a case of {} bytes: {}", self.name, case.len(), head(&said));
        }
    }

    /// One input, judged.
    fn run(&self, bytes: &[u8], parse: &mut impl FnMut(&[u8]) -> String) -> String {
        MEMORY.set(NOTHING);
        let start = worked();
        let answer = catch_unwind(AssertUnwindSafe(|| parse(bytes)));
        let (took, memory) = (worked().saturating_sub(start), MEMORY.get());
        let input = || self.keep(bytes);
        let answer = answer.unwrap_or_else(|_| panic!("panics: {}", input()));
        let allowed = self.per_byte * bytes.len();
        let (once, held) = (memory.once, memory.most);
        assert!(once <= self.once + allowed, "asks for {once} bytes at once: {}", input());
        assert!(held <= (self.held + allowed).cast_signed(), "holds {held} bytes: {}", input());
        assert!(took < LONGEST, "takes {took:?}: {}", input());
        answer
    }

    /// Where an input is kept that fails, and what it looks like.
    fn keep(&self, bytes: &[u8]) -> String {
        let name = format!("fuzz-{}", self.name.replace(' ', "-"));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, bytes).unwrap();
        let shown = bytes[..bytes.len().min(2000)].escape_ascii();
        format!("{}, {} bytes, kept as {}: b\"{shown}\"", self.name, bytes.len(), path.display())
    }

    fn mutate(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.seeds[random.below(self.seeds.len())].clone();
        for _ in 0..=random.below(4) {
            if self.in_place {
                self.overwrite(random, &mut bytes);
            } else {
                self.edit(random, &mut bytes);
            }
        }
        bytes.truncate(1 << 20);
        bytes
    }

    fn edit(&self, random: &mut Random, bytes: &mut Vec<u8>) {
        let at = random.below(bytes.len() + 1);
        let longest = 1 << random.below(8);
        let end = (at + random.below(longest)).min(bytes.len());
        match random.below(8) {
            0 => drop(bytes.splice(at..end, [])),
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, self.words[random.below(self.words.len())].iter().copied())),
            3 => drop(bytes.splice(at..end, self.words[random.below(self.words.len())].iter().copied())),
            4 => {
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                drop(bytes.splice(to..to, piece));
            }
            5 => {
                let other = &self.seeds[random.below(self.seeds.len())];
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

    fn overwrite(&self, random: &mut Random, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        let used = |at: &usize| bytes[at.saturating_sub(4)..len.min(at + 4)].iter().any(|byte| *byte != 0);
        let at = (0..32).map(|_| random.below(len)).find(used).unwrap_or(0);
        let mut put = |at: usize, word: &[u8]| {
            let end = len.min(at + word.len());
            bytes[at..end].copy_from_slice(&word[..end - at]);
        };
        match random.below(8) {
            0 | 1 => put(at, self.words[random.below(self.words.len())]),
            2 => put(at, &INTEGERS[random.below(INTEGERS.len())].to_le_bytes()[..1 << random.below(3)]),
            3 => put(at, &INTEGERS[random.below(INTEGERS.len())].to_be_bytes()[..1 << random.below(3)]),
            4 => put(at, &[random.next() as u8]),
            5 => {
                let from = random.below(len);
                let piece = bytes[from..len.min(from + (4 << random.below(7)))].to_vec();
                let end = len.min(at + piece.len());
                bytes[at..end].copy_from_slice(&piece[..end - at]);
            }
            6 if random.below(16) == 0 => bytes.truncate(at),
            6 => bytes[at] = bytes[at].wrapping_add(1),
            _ => bytes[at] ^= 1 << random.below(8),
        }
    }
}

/// Feeds a parser of texts with nothing special about it.
fn fuzz(name: &'static str, seeds: Vec<Vec<u8>>, parse: impl FnMut(&[u8]) -> String) {
    Target::new(name, seeds).fuzz(parse);
}

/// An answer without numbers and quotations.
fn kind(answer: &str) -> String {
    let mut quoted = false;
    let own = |c: &char| {
        quoted ^= matches!(c, '`' | '"');
        !quoted && !c.is_ascii_digit()
    };
    answer.chars().filter(own).take(60).collect()
}

/// The beginning of an answer.
fn head(said: &str) -> String {
    said.chars().take(120).collect()
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

/// Numbers at which arithmetic goes wrong.
const INTEGERS: [u32; 14] =
    [0, 1, 2, 11, 12, 255, 256, 4095, 4096, 65_535, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff];

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
