//! A small target in memory, and every order in which a publication, a garbage collection and the clock can take
//! their steps there. The programs are the real ones; each of their requests to the target is one step.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::gc::{GcJob, Policy};
use super::*;
use crate::compress::Compressor;
use crate::release::SigningKey;
use formats::block::{Block, Codec, Object};
use formats::digest::Digest;
use formats::index::{Header, Index};
use formats::names::{BlockSize, ImageName, Serial, UnixTime};
use formats::release::{ImageFiles, Latest, MirrorPath, Mirrors, Release, Stored, TrustedKeys};

/// The files of a simulated target by their paths.
type FilesByPath = BTreeMap<String, Vec<u8>>;

/// The time at which every scenario begins.
const START: u64 = 1_000_000_000;
const DAY: u64 = 86_400;

struct Author {
    key: SigningKey,
    keys: TrustedKeys,
}

impl Author {
    fn new() -> Self {
        let key = SigningKey::generate().unwrap();
        let keys = TrustedKeys::parse(&key.public_text()).unwrap();
        Author { key, keys }
    }

    /// A tree with one release whose disk is made of these bytes, one a block; it was published `ago` seconds before
    /// the start and is kept for a day.
    fn release(&self, serial: u64, blocks: &[u8], ago: u64) -> FilesByPath {
        let mut memory = FilesByPath::new();
        let (serial, published) = (Serial::new(serial).unwrap(), UnixTime(START - ago));
        let name: ImageName = "demo".parse().unwrap();
        let mut compressor = Compressor::new(Codec::zlib(6).unwrap());
        let disk: Vec<_> = blocks
            .iter()
            .map(|byte| {
                let block = Block::seal(vec![*byte; 4096]);
                let file = compressor.compress(block.bytes());
                let object = Object {
                    name: block.name(),
                    sha256: block.sha256(),
                    raw_len: 4096,
                    file_len: file.len().try_into().unwrap(),
                };
                memory.insert(MirrorPath::Block(object.name).to_string(), file);
                Some(object)
            })
            .collect();
        let header = Header {
            image: "host".parse().unwrap(),
            serial,
            block_size: BlockSize::new(4096).unwrap(),
            size: 4096 * blocks.len() as u64,
            published,
            parent: None,
        };
        let text = Index::assemble(header, disk).unwrap().to_text();
        let index = Stored { serial, digest: Digest::of(&text) };
        let files = ImageFiles::of_index("host".parse().unwrap(), index);
        memory.insert(files.index_path().to_string(), text);
        let retain_until = UnixTime(published.0 + DAY);
        let release = Release { name: name.clone(), serial, published, retain_until, images: vec![files] };
        let release = self.key.sign(&release).unwrap();
        let mirrors = self.key.sign(&Mirrors { name: name.clone(), mirrors: vec![] }).unwrap();
        let latest = Latest {
            name,
            serial,
            release: Digest::of(&release),
            mirrors: Digest::of(&mirrors),
            published,
            expires: UnixTime(START + 9 * DAY),
            min_serial: Serial::FIRST,
        };
        memory.insert("latest".into(), self.key.sign(&latest).unwrap());
        memory.insert(MirrorPath::Release(serial).to_string(), release);
        memory.insert("mirrors.txt".into(), mirrors);
        memory
    }
}

impl MirrorFiles for FilesByPath {
    fn read(&self, path: &MirrorPath, _: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        Ok(self.get(&path.to_string()).cloned())
    }
}

/// What a client can read; panics when it can read neither release whole.
fn served(memory: &FilesByPath, keys: &TrustedKeys) -> Option<Serial> {
    let state = read_state(memory, keys).unwrap_or_else(|error| panic!("{error}"))?;
    for object in state.objects() {
        let path = MirrorPath::Block(object.name).to_string();
        let file =
            memory.get(&path).unwrap_or_else(|| panic!("release {} lacks {path}", state.latest.serial));
        assert_eq!(file.len() as u64, u64::from(object.file_len), "{path} is cut");
    }
    Some(state.latest.serial)
}

/// One call of the target, at which the scheduler decides who is next.
#[derive(Clone, Debug, Hash)]
enum ModelRequest {
    Get(String),
    Len(String),
    Write(String, Vec<u8>),
    Remove(String),
    List,
    Free,
}

#[derive(Clone, Debug, Hash)]
enum ModelAnswer {
    Bytes(Option<Vec<u8>>),
    Len(Option<u64>),
    Paths(Vec<(String, u64)>),
    Done,
}

fn serve(memory: &mut FilesByPath, ask: &ModelRequest) -> ModelAnswer {
    match ask {
        ModelRequest::Get(path) => ModelAnswer::Bytes(memory.get(path).cloned()),
        ModelRequest::Len(path) => ModelAnswer::Len(memory.get(path).map(|bytes| bytes.len() as u64)),
        ModelRequest::Write(path, bytes) => {
            memory.insert(path.clone(), bytes.clone());
            ModelAnswer::Done
        }
        ModelRequest::Remove(path) => {
            memory.remove(path);
            ModelAnswer::Done
        }
        ModelRequest::List => ModelAnswer::Paths(
            memory
                .iter()
                .filter(|(path, _)| !path.starts_with(CONTROL_DIR))
                .map(|(path, bytes)| (path.clone(), bytes.len() as u64))
                .collect(),
        ),
        ModelRequest::Free => ModelAnswer::Done,
    }
}

/// One program's way to the target: it waits before each step until it is its turn.
struct Stepped {
    ask: Mutex<Sender<ModelRequest>>,
    answer: Mutex<Receiver<ModelAnswer>>,
    lists: bool,
}

impl Stepped {
    fn step(&self, ask: ModelRequest) -> Result<ModelAnswer, RemoteError> {
        let ended = || RemoteError::new("model", "ended");
        self.ask.lock().unwrap().send(ask).map_err(|_| ended())?;
        self.answer.lock().unwrap().recv().map_err(|_| ended())
    }
}

impl Remote for Stepped {
    fn name(&self) -> String {
        "model".into()
    }

    fn get(&self, place: &RemotePath) -> Result<Option<Vec<u8>>, RemoteError> {
        match self.step(ModelRequest::Get(place.to_string()))? {
            ModelAnswer::Bytes(bytes) => Ok(bytes),
            other => panic!("{other:?}"),
        }
    }

    fn lengths(&self, items: &[FileToSend]) -> Result<Vec<Option<u64>>, RemoteError> {
        let len = |item: &FileToSend| match self.step(ModelRequest::Len(item.path.to_string()))? {
            ModelAnswer::Len(len) => Ok(len),
            other => panic!("{other:?}"),
        };
        items.iter().map(len).collect()
    }

    fn put(
        &self,
        tree: &dyn MirrorFiles,
        items: &[FileToSend],
        _: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RemoteError> {
        for item in items {
            let bytes = tree.read(&item.path, item.len)?.expect("our tree is whole");
            self.step(ModelRequest::Write(item.path.to_string(), bytes))?;
        }
        Ok(())
    }

    fn write(&self, place: &RemotePath, bytes: &[u8]) -> Result<(), RemoteError> {
        self.step(ModelRequest::Write(place.to_string(), bytes.into())).map(|_| ())
    }

    fn remove(&self, places: &[RemotePath]) -> Result<(), RemoteError> {
        places.iter().try_for_each(|place| self.step(ModelRequest::Remove(place.to_string())).map(|_| ()))
    }

    fn list(&self) -> Result<Option<Vec<Listed>>, RemoteError> {
        if !self.lists {
            return Ok(None);
        }
        match self.step(ModelRequest::List)? {
            ModelAnswer::Paths(paths) => {
                Ok(Some(paths.into_iter().map(|(path, len)| Listed { path, len }).collect()))
            }
            other => panic!("{other:?}"),
        }
    }

    fn free(&self) -> Option<u64> {
        self.step(ModelRequest::Free).ok().and(None)
    }
}

/// A clock that only the scenario moves.
#[derive(Clone)]
struct ModelClock(Arc<AtomicU64>);

impl Clock for ModelClock {
    fn now(&self) -> UnixTime {
        UnixTime(self.0.load(Ordering::SeqCst))
    }

    fn sleep(&self, _: Duration) {}
}

type Program = Arc<dyn Fn(&Stepped, &ModelClock) -> bool + Send + Sync>;

fn publisher(author: &Arc<Author>, tree: FilesByPath, token: &str) -> Program {
    let (author, token) = (author.clone(), LeaseToken::new(token).unwrap());
    let ours = read_state(&tree, &author.keys).unwrap().unwrap();
    Arc::new(move |remote, clock| {
        let options = PublishOptions {
            token: token.clone(),
            host: "p".into(),
            verify: false,
            wait: Duration::ZERO,
            take_over: false,
        };
        let job = Job {
            remote,
            tree: &tree,
            ours: &ours,
            keys: &author.keys,
            extra: &[],
            options: &options,
            clock,
            begin: &|_| {},
            sent: &|_| {},
            prove: &|_| Ok(()),
        };
        publish(&job).is_ok()
    })
}

fn collector(author: &Arc<Author>) -> Program {
    let author = author.clone();
    Arc::new(move |remote, clock| {
        let policy = Policy { grace: DAY, keep: 1, pinned: BTreeSet::new(), trust_clock: false };
        let token = LeaseToken::new("gc").unwrap();
        let job = GcJob {
            remote,
            keys: &author.keys,
            policy: &policy,
            clock,
            token: &token,
            host: "g",
            gone: &|_| {},
        };
        gc::collect(&job).is_ok()
    })
}

/// A program under way.
struct ModelProgram {
    asks: Receiver<ModelRequest>,
    answers: Option<Sender<ModelAnswer>>,
    /// What it waits to do; `None` when it has ended.
    pending: Option<ModelRequest>,
    /// All that it has seen, which is all that its state depends on.
    seen: DefaultHasher,
    thread: Option<thread::JoinHandle<bool>>,
}

impl ModelProgram {
    fn start(program: &Program, clock: &ModelClock, lists: bool) -> Self {
        let (ask, asks) = channel();
        let (answers, answer) = channel();
        let (program, clock) = (program.clone(), clock.clone());
        let thread = thread::spawn(move || {
            let remote = Stepped { ask: Mutex::new(ask), answer: Mutex::new(answer), lists };
            program(&remote, &clock)
        });
        let pending = asks.recv().ok();
        ModelProgram {
            asks,
            answers: Some(answers),
            pending,
            seen: DefaultHasher::new(),
            thread: Some(thread),
        }
    }

    fn step(&mut self, memory: &mut FilesByPath) {
        let ask = self.pending.take().expect("it waits");
        let answer = serve(memory, &ask);
        answer.hash(&mut self.seen);
        self.answers.as_ref().unwrap().send(answer).unwrap();
        self.pending = self.asks.recv().ok();
    }

    fn result(mut self) -> bool {
        drop(self.answers.take());
        self.thread.take().unwrap().join().unwrap()
    }
}

struct Scenario {
    keys: TrustedKeys,
    begin: FilesByPath,
    programs: Vec<Program>,
    /// Whether the clock may jump over a lease, once, at any moment.
    ticks: bool,
    lists: bool,
}

/// Counts of an exploration.
#[derive(Debug, Default)]
struct Explored {
    states: usize,
    /// Which programs did their work, over all orders.
    ends: BTreeSet<Vec<bool>>,
}

impl Scenario {
    /// Tries every order. States that were met already are not followed twice: what a program does next depends on
    /// the answers that it had, and on the clock when it had them.
    fn explore(&self) -> Explored {
        let mut found = Explored::default();
        let (mut met, mut whole) = (HashSet::new(), HashSet::new());
        let mut open: Vec<Vec<usize>> = vec![vec![]];
        while let Some(order) = open.pop() {
            let clock = ModelClock(Arc::new(AtomicU64::new(START)));
            let mut memory = self.begin.clone();
            let mut running: Vec<_> = self
                .programs
                .iter()
                .map(|program| ModelProgram::start(program, &clock, self.lists))
                .collect();
            let tick = running.len();
            // The assumption about time: nobody stands still for a lease between the look at its own lease and the
            // one step after that.
            let mut checked = None;
            let mut done = Vec::new();
            let mut todo = order.into_iter();
            loop {
                let next = match todo.next() {
                    Some(who) => who,
                    None => {
                        let (states, clock) = (states_of(&running), clock.0.load(Ordering::SeqCst));
                        let memory_hash = hash_of(&memory);
                        if whole.insert(memory_hash) {
                            served(&memory, &self.keys);
                        }
                        if !met.insert(hash_of(&(memory_hash, clock, checked, states))) {
                            break;
                        }
                        found.states += 1;
                        let ready = (0..running.len()).filter(|who| running[*who].pending.is_some());
                        let may_tick = self.ticks && !done.contains(&tick) && checked.is_none();
                        let ready: Vec<_> = ready.collect();
                        let Some((&first, others)) = ready.split_first() else {
                            found.ends.insert(running.drain(..).map(ModelProgram::result).collect());
                            break;
                        };
                        // The first of them goes on here; the others' turn comes later.
                        for &who in others.iter().chain(may_tick.then_some(&tick)) {
                            let mut other = done.clone();
                            other.push(who);
                            open.push(other);
                        }
                        first
                    }
                };
                done.push(next);
                if next == tick {
                    clock.0.fetch_add(lease::SECONDS + 1, Ordering::SeqCst);
                    running.iter_mut().for_each(|program| "tick".hash(&mut program.seen));
                    continue;
                }
                let looks = matches!(&running[next].pending, Some(ModelRequest::Get(path)) if path.ends_with("/collecting"));
                if looks && next > 0 {
                    checked = Some(next);
                } else if checked == Some(next) {
                    checked = None;
                }
                running[next].step(&mut memory);
            }
        }
        found
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn states_of(running: &[ModelProgram]) -> Vec<(u64, bool)> {
    running.iter().map(|program| (program.seen.finish(), program.pending.is_some())).collect()
}

/// A target with release 2; release 1 is long over, and its block 9 was marked before the grace period.
/// What is published is release 3, which needs that block again.
fn scenario(ticks: bool, lists: bool, left_behind: bool) -> Scenario {
    let author = Arc::new(Author::new());
    let mut begin = author.release(1, &[1, 9], 40 * DAY);
    begin.extend(author.release(2, &[1, 2], 20 * DAY));
    let next = author.release(3, &[1, 9, 3], 0);
    let condemned = |byte: u8| MirrorPath::Block(Block::seal(vec![byte; 4096]).name());
    let mut stones = BTreeMap::from([(condemned(9), UnixTime(START - 15 * DAY))]);
    if left_behind {
        // An attempt that was killed left its lease and one block, which was condemned since.
        let lease = Lease::new(&LeaseToken::new("p1").unwrap(), "p", UnixTime(START - 1));
        begin.insert(RemotePath::Control(Control::Publishing).to_string(), lease.to_text());
        let path = condemned(3);
        begin.insert(path.to_string(), next[&path.to_string()].clone());
        stones.insert(path, UnixTime(START - 15 * DAY));
    }
    let tombstones = RemotePath::Control(Control::Tombstones).to_string();
    begin.insert(tombstones, Tombstones(stones).to_text());
    Scenario {
        keys: author.keys.clone(),
        begin,
        programs: vec![publisher(&author, next, "p1"), collector(&author)],
        ticks,
        lists,
    }
}

#[test]
fn in_every_order_of_a_publication_and_a_collection_no_block_in_use_is_missing() {
    for (ticks, lists, left_behind) in [(false, false, false), (true, true, false), (true, true, true)] {
        let found = scenario(ticks, lists, left_behind).explore();
        println!("ticks {ticks}, lists {lists}, left behind {left_behind}: {found:?}");
        assert!(found.states > 100, "{found:?}");
        // There are orders in which each does its work.
        assert!(found.ends.iter().any(|ends| ends[0]), "{found:?}");
        assert!(found.ends.iter().any(|ends| ends[1]), "{found:?}");
    }
}

/// A target that fails for good after some steps; the last of them may be torn.
struct Failing {
    memory: Mutex<FilesByPath>,
    left: AtomicU64,
    torn: bool,
}

impl Failing {
    fn step(&self, ask: &ModelRequest) -> Result<ModelAnswer, RemoteError> {
        let dead = || RemoteError::new("model", "the publisher was killed");
        let mut memory = self.memory.lock().unwrap();
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(dead());
        }
        self.left.store(left - 1, Ordering::SeqCst);
        if left == 1 && self.torn {
            // A target without renames: half of the file has its name. `latest` is one small PUT everywhere.
            if let ModelRequest::Write(path, bytes) = ask
                && path != "latest"
                && path != "mirrors.txt"
            {
                memory.insert(path.clone(), bytes[..bytes.len() / 2].to_vec());
            }
            return Err(dead());
        }
        Ok(serve(&mut memory, ask))
    }
}

impl Remote for Failing {
    fn name(&self) -> String {
        "model".into()
    }

    fn get(&self, place: &RemotePath) -> Result<Option<Vec<u8>>, RemoteError> {
        match self.step(&ModelRequest::Get(place.to_string()))? {
            ModelAnswer::Bytes(bytes) => Ok(bytes),
            other => panic!("{other:?}"),
        }
    }

    fn lengths(&self, items: &[FileToSend]) -> Result<Vec<Option<u64>>, RemoteError> {
        let len = |item: &FileToSend| match self.step(&ModelRequest::Len(item.path.to_string()))? {
            ModelAnswer::Len(len) => Ok(len),
            other => panic!("{other:?}"),
        };
        items.iter().map(len).collect()
    }

    fn put(
        &self,
        tree: &dyn MirrorFiles,
        items: &[FileToSend],
        _: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RemoteError> {
        items.iter().try_for_each(|item| {
            let bytes = tree.read(&item.path, item.len)?.expect("our tree is whole");
            self.step(&ModelRequest::Write(item.path.to_string(), bytes)).map(|_| ())
        })
    }

    fn write(&self, place: &RemotePath, bytes: &[u8]) -> Result<(), RemoteError> {
        self.step(&ModelRequest::Write(place.to_string(), bytes.into())).map(|_| ())
    }

    fn remove(&self, places: &[RemotePath]) -> Result<(), RemoteError> {
        places.iter().try_for_each(|place| self.step(&ModelRequest::Remove(place.to_string())).map(|_| ()))
    }

    fn list(&self) -> Result<Option<Vec<Listed>>, RemoteError> {
        Ok(None)
    }
}

#[test]
fn what_a_publication_needs_again_is_condemned_no_longer() {
    let scenario = scenario(false, false, true);
    let clock = ModelClock(Arc::new(AtomicU64::new(START)));
    let mut memory = scenario.begin.clone();
    let mut program = ModelProgram::start(&scenario.programs[0], &clock, false);
    while program.pending.is_some() {
        program.step(&mut memory);
    }
    assert!(program.result());
    let text = &memory[&RemotePath::Control(Control::Tombstones).to_string()];
    assert_eq!(Tombstones::decode(&text[..]).unwrap(), Tombstones::default());
}

#[test]
fn killed_after_any_step_a_client_reads_a_whole_release_and_the_next_attempt_completes() {
    let author = Arc::new(Author::new());
    let disk: Vec<u8> = (1..=60).collect();
    let old = author.release(1, &disk[..30], 2 * DAY);
    let new = author.release(2, &disk, 0);
    let attempt = |begin: &FilesByPath, left, torn| {
        let remote = Failing { memory: Mutex::new(begin.clone()), left: AtomicU64::new(left), torn };
        let clock = ModelClock(Arc::new(AtomicU64::new(START)));
        let ours = read_state(&new, &author.keys).unwrap().unwrap();
        let token = LeaseToken::new("p1").unwrap();
        let wait = Duration::ZERO;
        let options = PublishOptions { token, host: "p".into(), verify: false, wait, take_over: false };
        let job = Job {
            remote: &remote,
            tree: &new,
            ours: &ours,
            keys: &author.keys,
            extra: &[],
            options: &options,
            clock: &clock,
            begin: &|_| {},
            sent: &|_| {},
            prove: &|_| Ok(()),
        };
        let done = publish(&job).map_err(|error| error.to_string());
        (done, remote.memory.into_inner().unwrap(), remote.left.into_inner())
    };
    let (done, whole, left) = attempt(&old, 1_000_000, false);
    let steps = 1_000_000 - left;
    assert_eq!(done.unwrap().plan.blocks.len(), 30);
    assert_eq!(served(&whole, &author.keys).unwrap().get(), 2);
    assert!(steps > 90, "{steps}");

    let mut points = 0;
    for begin in [FilesByPath::new(), old] {
        for torn in [false, true] {
            for left in 0..2 * steps {
                let (done, memory, rest) = attempt(&begin, left, torn);
                if rest > 0 {
                    break;
                }
                points += 1;
                let before = served(&memory, &author.keys);
                // Only the removal of the lease may come after `latest`.
                assert!(done.is_err() || before.is_some_and(|serial| serial.get() == 2));
                let (again, memory, _) = attempt(&memory, 1_000_000, false);
                let again = again.unwrap_or_else(|error| panic!("after {left} steps: {error}"));
                assert_eq!(served(&memory, &author.keys).unwrap().get(), 2);
                assert!(again.found <= again.plan.blocks.len() as u64);
                assert!(!memory.keys().any(|path| path.starts_with(CONTROL_DIR)), "the lease is down");
            }
        }
    }
    println!("{points} points");
    assert!(points > 400, "{points}");
}
