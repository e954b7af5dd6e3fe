//! Mirrors, a cache and a medium for tests, with simulated time: no thread, no socket. What the resolver promises at any
//! time is checked on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use formats::block::{BlockName, Object};
use formats::digest::{Digest, Sha256};
use formats::fetch_fault::{FetchFault as Fault, Wait};
use formats::index::{Header, Index};
use formats::names::{BlockSize, ImageName, Serial, UnixTime};
use formats::release::{
    Dlahead, Document, ImageFiles, Latest, MirrorPath, Mirrors, Phase, PrefetchBlock as Ahead, Release,
    Stored, Successors, TrustedKeys,
};

use super::*;
use crate::jitter::Jitter;

pub(super) const DAY: u64 = 86_400;
/// What the clock says when a simulation begins.
pub(super) const TODAY: u64 = 20_000 * DAY;

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn serial(number: u64) -> Serial {
    Serial::new(number).unwrap()
}

pub(in crate::trust) fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

/// Files of a mirror by path.
pub(in crate::trust) type Tree = BTreeMap<String, Vec<u8>>;

/// A key that the simulated publisher signs with.
pub(in crate::trust) struct Key(minisign::KeyPair);

impl Key {
    pub(in crate::trust) fn new() -> Self {
        Key(minisign::KeyPair::generate_unencrypted_keypair().unwrap())
    }

    pub(super) fn public(&self) -> String {
        self.0.pk.to_base64()
    }

    pub(in crate::trust) fn trusted(&self) -> TrustedKeys {
        TrustedKeys::parse(&self.public()).unwrap()
    }

    pub(super) fn sign<D: Document>(&self, document: &D) -> Vec<u8> {
        let mut file = document.to_text().into_bytes();
        let comment = document.trusted_comment();
        let signature =
            minisign::sign(Some(&self.0.pk), &self.0.sk, &file[..], Some(&comment), Some("signature"));
        file.extend_from_slice(signature.unwrap().into_string().as_bytes());
        file
    }

    /// The statement that these keys come after this one, with its path.
    pub(super) fn names(&self, distribution: &str, keys: &[&Key]) -> (String, Vec<u8>) {
        let keys = keys.iter().map(|key| key.public()).collect();
        let id = self.trusted().ids().next().unwrap();
        let statement = Successors { name: name(distribution), keys };
        (MirrorPath::Keys(id).to_string(), self.sign(&statement))
    }
}

/// A release that the simulated publisher makes.
#[derive(Clone, Copy)]
pub(in crate::trust) struct Publish<'a> {
    pub(in crate::trust) key: &'a Key,
    pub(in crate::trust) name: &'static str,
    pub(in crate::trust) serial: u64,
    pub(in crate::trust) min_serial: u64,
    /// Seconds since 1970.
    pub(in crate::trust) published: u64,
    pub(in crate::trust) expires: u64,
}

impl<'a> Publish<'a> {
    pub(in crate::trust) fn new(key: &'a Key, serial: u64) -> Self {
        let (published, expires) = (TODAY - 60, TODAY + 7 * DAY);
        Publish { key, name: "demo", serial, min_serial: 1, published, expires }
    }

    /// A mirror that has this release of the image `host`, with a prefetch list.
    pub(in crate::trust) fn tree(self) -> Tree {
        let number = serial(self.serial);
        let published = UnixTime(self.published);
        let image = name("host");
        let mut tree = Tree::new();
        let block = BlockName([7; 16]);
        let object = Object { name: block, sha256: Sha256::of(b"block"), raw_len: 4096, file_len: 100 };
        let header = Header {
            image: image.clone(),
            serial: number,
            block_size: BlockSize::new(4096).unwrap(),
            size: 4096,
            published,
            parent: None,
        };
        let index = Index::assemble(header, [Some(object)]).unwrap().to_text();
        let entries = vec![Ahead { phase: Phase::boot(), name: block, first_read_ms: 0, reads: 1 }];
        let mut list = Vec::new();
        Dlahead { image: image.clone(), serial: number, entries }.encode(&mut list).unwrap();
        let stored = |bytes: &[u8]| Stored { serial: number, digest: Digest::of(bytes) };
        let mut files = ImageFiles::of_index(image, stored(&index));
        files.dlahead = Some(stored(&list));
        tree.insert(files.index_path().to_string(), index);
        tree.insert(files.dlahead_path().unwrap().to_string(), list);
        let retain_until = UnixTime(self.published + 99 * DAY);
        let release =
            Release { name: name(self.name), serial: number, published, retain_until, images: vec![files] };
        let release = self.key.sign(&release);
        let mirrors = self.key.sign(&Mirrors { name: name(self.name), mirrors: Vec::new() });
        let latest = Latest {
            name: name(self.name),
            serial: number,
            release: Digest::of(&release),
            mirrors: Digest::of(&mirrors),
            published,
            expires: UnixTime(self.expires),
            min_serial: serial(self.min_serial),
        };
        tree.insert("latest".into(), self.key.sign(&latest));
        tree.insert(MirrorPath::Release(number).to_string(), release);
        tree.insert("mirrors.txt".into(), mirrors);
        tree
    }
}

/// What a mirror does with a request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// It sends the file, or HTTP 404.
    File,
    /// These bytes in place of the file.
    Bytes(Vec<u8>),
    /// A web page in place of the file.
    Page,
    Fails(Fault),
    /// It neither answers nor closes the connection, and whoever asks does not notice.
    Never,
}

type Behaviour<'a> = Box<dyn Fn(&MirrorPath, Duration) -> Reply + 'a>;

pub(super) struct SimMirror<'a> {
    tree: Tree,
    delay: Duration,
    behaviour: Behaviour<'a>,
}

impl<'a> SimMirror<'a> {
    /// A mirror that sends what it has, after so long.
    pub(in crate::trust) fn new(tree: &Tree, delay: Duration) -> Self {
        Self::scripted(tree, delay, |_, _| Reply::File)
    }

    /// A mirror that does with each path at each time what this says.
    pub(super) fn scripted(
        tree: &Tree,
        delay: Duration,
        behaviour: impl Fn(&MirrorPath, Duration) -> Reply + 'a,
    ) -> Self {
        SimMirror { tree: tree.clone(), delay, behaviour: Box::new(behaviour) }
    }
}

pub(super) fn unreachable() -> Fault {
    Fault::Unreachable("refused".into())
}

/// What a cache holds.
#[derive(Clone, Default)]
pub(super) struct SimCache {
    pub(super) serials: BTreeMap<String, u64>,
    pub(super) files: Vec<(StoredFile, Vec<u8>)>,
    /// The serials can't be read.
    pub(super) unreadable: bool,
    /// Nothing can be written.
    pub(super) full: bool,
}

impl SimCache {
    pub(super) fn accepted(number: u64) -> Self {
        SimCache { serials: [("demo".into(), number)].into(), ..SimCache::default() }
    }

    fn bytes(&self, file: &StoredFile) -> Option<Vec<u8>> {
        self.files.iter().find(|(of, _)| of == file).map(|(_, bytes)| bytes.clone())
    }

    fn save(&mut self, file: StoredFile, bytes: Vec<u8>) {
        self.files.retain(|(of, _)| *of != file);
        self.files.push((file, bytes));
    }

    fn only_name(&self) -> Option<ImageName> {
        let mut names = self.files.iter().filter_map(|(file, _)| match file {
            StoredFile::Release(name) => Some(name.clone()),
            _ => None,
        });
        names.next().filter(|_| names.next().is_none())
    }
}

pub(super) fn disk_error() -> StorageError {
    std::sync::Arc::new(std::io::Error::other("the disk fails"))
}

/// What came of a simulation.
pub(super) struct Outcome {
    pub(super) at: Duration,
    pub(super) result: Result<Box<Resolved>, ResolveError>,
    pub(super) warnings: Vec<String>,
    /// When, mirror, path, past caches.
    pub(super) gets: Vec<(Duration, usize, String, bool)>,
    pub(super) stats: Vec<MirrorStats>,
    pub(super) list: Option<Option<Dlahead>>,
    pub(super) mirror_list: Option<Option<Mirrors>>,
    /// As the resolver left it.
    pub(super) cache: Option<SimCache>,
}

impl Outcome {
    #[track_caller]
    pub(super) fn serial(&self) -> u64 {
        match &self.result {
            Ok(resolved) => resolved.release.serial.get(),
            Err(error) => panic!("{error}; warnings: {:?}", self.warnings),
        }
    }

    #[track_caller]
    pub(super) fn error(&self) -> String {
        match &self.result {
            Ok(resolved) => panic!("release {} was resolved", resolved.release.serial),
            Err(error) => error.to_string(),
        }
    }

    #[track_caller]
    pub(super) fn assert_warned(&self, part: &str) {
        assert!(self.warnings.iter().any(|line| line.contains(part)), "no {part:?} in {:?}", self.warnings);
    }

    /// Requests for a path: when, and which mirror.
    pub(super) fn asked(&self, path: &str) -> Vec<(Duration, usize)> {
        self.gets.iter().filter(|get| get.2 == path).map(|get| (get.0, get.1)).collect()
    }
}

pub(super) struct Sim<'a> {
    pub(super) mirrors: Vec<SimMirror<'a>>,
    pub(super) cache: Option<SimCache>,
    pub(super) medium: Option<Tree>,
    pub(super) request: ResolveRequest,
    /// What the clock says at the beginning.
    pub(super) wall: u64,
}

impl<'a> Sim<'a> {
    pub(in crate::trust) fn new(key: &Key, mirrors: Vec<SimMirror<'a>>) -> Self {
        let request = ResolveRequest {
            mirrors: (0..mirrors.len()).map(|place| format!("http://m{place}/").parse().unwrap()).collect(),
            keys: key.trusted(),
            image: name("host"),
            name: None,
            release: None,
            strict: false,
            netselect: true,
            jitter: Jitter::NONE,
            start_within: secs(60),
            has_cache: false,
            has_medium: false,
            cached_name: None,
        };
        Sim { mirrors, cache: None, medium: None, request, wall: TODAY }
    }

    pub(super) fn with_cache(self, cache: SimCache) -> Self {
        Sim { cache: Some(cache), ..self }
    }

    pub(super) fn with_medium(self, tree: &Tree) -> Self {
        let cache = self.cache.or_else(|| Some(SimCache::default()));
        Sim { medium: Some(tree.clone()), cache, ..self }
    }

    pub(super) fn ask(mut self, change: impl FnOnce(&mut ResolveRequest)) -> Self {
        change(&mut self.request);
        self
    }

    /// Runs until the resolver is finished.
    #[track_caller]
    pub(super) fn run(mut self) -> Outcome {
        self.request.has_cache = self.cache.is_some();
        self.request.has_medium = self.medium.is_some();
        self.request.cached_name = self.cache.as_ref().and_then(SimCache::only_name);
        let remembered = self.cache.as_ref().and_then(|cache| cache.serials.get("demo").copied());
        let mut run = Run {
            resolver: Resolver::new(self.request.clone(), now(&self, Duration::ZERO)),
            sim: self,
            now: Duration::ZERO,
            events: BTreeMap::new(),
            sequence: 0,
            outcome: None,
            seen: Seen::default(),
        };
        run.run_to_end();
        let (at, result) = run.outcome.expect("there is an outcome");
        let (request, Seen { warnings, gets, list, mirror_list }) = (&run.sim.request, run.seen);
        assert!(at <= request.start_within + secs(5), "the outcome came after {at:?}");
        if let Ok(resolved) = &result {
            let found = resolved.release.serial.get();
            let pinned = request.release.is_some();
            let restarted =
                run.sim.cache.as_ref().is_some_and(|cache| cache.serials.get("demo") < remembered.as_ref());
            assert!(pinned || restarted || Some(found) >= remembered, "{found} below {remembered:?}");
            assert_eq!(resolved.mirrors_follow, mirror_list.is_some(), "the list of mirrors");
            assert_eq!(resolved.list_follows, list.is_some(), "the prefetch list");
        }
        let stats = run.resolver.mirror_stats().to_vec();
        Outcome { at, result, warnings, gets, stats, list, mirror_list, cache: run.sim.cache }
    }
}

fn now(sim: &Sim<'_>, elapsed: Duration) -> Now {
    Now { elapsed, wall: UnixTime(sim.wall + elapsed.as_secs()) }
}

/// What was seen of a run.
#[derive(Default)]
struct Seen {
    warnings: Vec<String>,
    gets: Vec<(Duration, usize, String, bool)>,
    list: Option<Option<Dlahead>>,
    mirror_list: Option<Option<Mirrors>>,
}

struct Run<'a> {
    resolver: Resolver,
    sim: Sim<'a>,
    now: Duration,
    events: BTreeMap<(Duration, u64), TrustEvent>,
    sequence: u64,
    outcome: Option<(Duration, Result<Box<Resolved>, ResolveError>)>,
    seen: Seen,
}

impl Run<'_> {
    fn at(&mut self, time: Duration, event: TrustEvent) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    fn run_to_end(&mut self) {
        let mut timed_out = false;
        for _ in 0..100_000 {
            while let Some(action) = self.resolver.poll_action() {
                self.act(action);
            }
            if self.resolver.is_finished() {
                return;
            }
            let timeout = self.resolver.poll_timeout();
            assert!(
                !timed_out || timeout.is_none_or(|at| at > self.now),
                "a timeout that has passed would spin"
            );
            let event = self.events.first_key_value().map(|(&(time, _), _)| time);
            let next = event.into_iter().chain(timeout).min();
            self.now = next.expect("something is waited for, and nothing can come").max(self.now);
            let now = now(&self.sim, self.now);
            let due = self.events.first_entry().filter(|entry| entry.key().0 <= self.now);
            timed_out = due.is_none();
            match due {
                Some(entry) => self.resolver.handle_event(now, entry.remove()),
                None => self.resolver.handle_timeout(now),
            }
        }
        panic!("the resolver does not come to an end");
    }

    fn act(&mut self, action: TrustAction) {
        match action {
            TrustAction::Get(get) => self.get(get),
            TrustAction::Read(file) => {
                let content = self.read(&file);
                self.at(self.now, TrustEvent::Stored { file, content });
            }
            TrustAction::Save { file, bytes, .. } => {
                let cache = self.sim.cache.as_mut().expect("there is a cache to save in");
                if !cache.full {
                    cache.save(file, bytes);
                }
            }
            TrustAction::AcceptSerial { name, serial, restart } => {
                assert!(self.outcome.is_none(), "it is remembered before it is resolved");
                let cache = self.sim.cache.as_mut().expect("there is a cache to remember in");
                let result = if cache.full { Err(disk_error()) } else { Ok(()) };
                if !cache.full {
                    let known = cache.serials.entry(name.to_string()).or_default();
                    *known = if restart { serial.get() } else { (*known).max(serial.get()) };
                }
                self.at(self.now, TrustEvent::SerialAccepted(result));
            }
            TrustAction::Warn(text) => self.seen.warnings.push(text),
            TrustAction::Detail(_) => {}
            TrustAction::Resolved(resolved) => self.end(Ok(resolved)),
            TrustAction::Failed(error) => self.end(Err(error)),
            TrustAction::MirrorList(list) => {
                assert!(self.is_resolved() && self.seen.mirror_list.replace(list).is_none());
            }
            TrustAction::PrefetchList(list) => {
                assert!(self.is_resolved() && self.seen.list.replace(list).is_none());
            }
        }
    }

    fn is_resolved(&self) -> bool {
        matches!(self.outcome, Some((_, Ok(_))))
    }

    fn end(&mut self, result: Result<Box<Resolved>, ResolveError>) {
        assert!(self.outcome.is_none(), "there is one outcome");
        self.outcome = Some((self.now, result));
    }

    fn read(&self, file: &StoredFile) -> StoredContent {
        let cache = self.sim.cache.as_ref();
        let bytes = match file {
            StoredFile::Serial(name) => {
                let cache = cache.expect("there is a cache to read");
                let known = cache.serials.get(name.as_str()).map(|number| serial(*number));
                return StoredContent::Serial(if cache.unreadable { Err(disk_error()) } else { Ok(known) });
            }
            StoredFile::Medium(path) => {
                let medium = self.sim.medium.as_ref().expect("there is a medium to read");
                medium.get(&path.to_string()).cloned()
            }
            _ => cache.expect("there is a cache to read").bytes(file),
        };
        StoredContent::Bytes(bytes.map(std::sync::Arc::new))
    }

    fn get(&mut self, get: MirrorGet) {
        let mirror = &self.sim.mirrors[get.mirror];
        self.seen.gets.push((self.now, get.mirror, get.path.to_string(), get.fresh));
        assert!(get.until > self.now, "a request that has no time: {get:?}");
        let (delay, file) = (mirror.delay, mirror.tree.get(&get.path.to_string()));
        let sent = |bytes: Vec<u8>, web_page| match get.len {
            Some(want) if bytes.len() as u64 != want && web_page => Err(Fault::WebPage),
            Some(want) if bytes.len() as u64 != want => {
                Err(Fault::Length { found: bytes.len() as u64, want })
            }
            None if bytes.len() as u64 > get.limit => Err(Fault::TooLong { limit: get.limit }),
            _ => Ok(MirrorAnswer {
                bytes,
                instead: web_page.then_some(Fault::WebPage),
                first_byte: delay,
                whole: delay,
            }),
        };
        let result = match (mirror.behaviour)(&get.path, self.now) {
            Reply::File => file.map_or(Err(Fault::Missing(404)), |bytes| sent(bytes.clone(), false)),
            Reply::Bytes(bytes) => sent(bytes, false),
            Reply::Page => sent(b"<html>log in</html>".to_vec(), true),
            Reply::Fails(fault) => Err(fault),
            Reply::Never => return,
        };
        let end = self.now + delay;
        let (end, result) =
            if end > get.until { (get.until, Err(Fault::TimedOut(Wait::Whole))) } else { (end, result) };
        self.at(end, TrustEvent::Answer { id: get.id, result });
    }
}
