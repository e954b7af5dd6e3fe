//! The decisions of the engine's state, with simulated time and blocks that are made here: no thread, no network.

use std::sync::Mutex;
use std::time::Instant;

use super::*;
use formats::block::Object;
use formats::fetch_fault::Wait;
use formats::index::{Header, Index};
use formats::names::{BlockSize, Serial, UnixTime};
use system::http::{Http, HttpOptions, Timeouts};

const SIZE: u32 = 4096;

fn ms(millis: u64) -> Time {
    Time::from_millis(millis)
}

fn block(number: u8) -> Arc<Block> {
    Arc::new(Block::seal(vec![number; SIZE as usize]))
}

/// An engine's state for a disk of these blocks, of which 0 is zeros, with two mirrors.
struct World {
    setup: EngineSetup,
    state: EngineState,
    jobs: JobQueues,
}

impl World {
    fn new(disk: &[u8], ram_blocks: usize) -> Self {
        let objects = disk.iter().map(|&number| {
            let block = block(number);
            let (name, sha256) = (block.name(), block.sha256());
            (number != 0).then_some(Object { name, sha256, raw_len: SIZE, file_len: 100 })
        });
        let header = Header {
            image: "host".parse().unwrap(),
            serial: Serial::FIRST,
            block_size: BlockSize::new(SIZE).unwrap(),
            size: disk.len() as u64 * u64::from(SIZE),
            published: UnixTime(0),
            parent: None,
        };
        let setup = EngineSetup {
            index: Arc::new(Index::assemble(header, objects.collect::<Vec<_>>()).unwrap()),
            mirrors: vec!["http://a/".parse().unwrap(), "http://b/".parse().unwrap()],
            http: Arc::new(Http::open(&HttpOptions::direct(), 1, Timeouts::default()).unwrap()),
            cache: None,
            config: crate::scheduler::Config { loaders: 0, ..Default::default() },
            ram: ram_blocks * SIZE as usize,
            estimates: Vec::new(),
            read_ahead: false,
        };
        let jobs = JobQueues::default();
        let state = EngineState::new(&setup, jobs.clone());
        World { setup, state, jobs }
    }

    fn id(&self, number: u8) -> ObjectId {
        let name = block(number).name();
        ObjectId(self.setup.index.objects().iter().position(|object| object.name == name).unwrap() as u32)
    }

    fn pieces(&self, offset: u64, len: u32) -> Vec<Piece> {
        crate::scheduler::pieces(&self.setup.index, offset, len)
    }

    fn begin(&mut self, at: u64, offset: u64, len: u32) -> Results {
        let pieces = self.pieces(offset, len);
        let reply: Reply = Box::new(|_| ());
        let finished = self.state.begin_read(&self.setup, ms(at), offset, pieces, reply);
        let mut results = results(finished);
        results.extend(self.step(at, None));
        results
    }

    fn step(&mut self, at: u64, arrived: Option<ArrivedBlock>) -> Results {
        results(self.state.step(&self.setup, ms(at), arrived))
    }

    /// Requests that were handed out since the last time.
    fn requests(&self) -> Vec<BlockRequest> {
        std::iter::from_fn(|| self.jobs.requests.take_until(Instant::now())).collect()
    }

    /// The request has brought its block.
    fn arrives(&mut self, at: u64, request: &BlockRequest, number: u8) -> Results {
        let arrived = (request.fetch.block, block(number));
        let bytes = Arrived { bytes: 100, first_byte: ms(5) };
        self.state.fetched(&self.setup, ms(at), request, Ok(bytes), Some(&arrived));
        self.step(at, Some(arrived))
    }

    fn fails(&mut self, at: u64, request: &BlockRequest, fault: Fault) -> Results {
        self.state.fetched(&self.setup, ms(at), request, Err(fault), None);
        self.step(at, None)
    }

    fn has_in_ram(&self, number: u8) -> bool {
        self.state.ram.contains(self.id(number))
    }

    fn counters(&self) -> Counters {
        self.state.snapshot(&self.setup, ms(0), None).counters
    }
}

type Results = Vec<Result<Vec<u8>, ReadError>>;

fn results(finished: FinishedReads) -> Results {
    finished.into_iter().map(|(_, result)| result).collect()
}

fn refused() -> Fault {
    Fault::Unreachable("refused".into())
}

#[test]
fn a_read_is_put_together_from_the_blocks_that_it_waits_for_and_zeros() {
    let mut world = World::new(&[1, 0, 2], 8);
    assert!(world.begin(0, 4000, 96 + SIZE + 10).is_empty());
    let requests = world.requests();
    assert_eq!(requests.len(), 2);
    assert!(world.arrives(10, &requests[0], 1).is_empty(), "one of two");
    let want = [vec![1; 96], vec![0; SIZE as usize], vec![2; 10]].concat();
    assert_eq!(world.arrives(20, &requests[1], 2), [Ok(want)]);
    let counters = world.counters();
    assert_eq!((counters.reads, counters.requests, counters.fetched_blocks), (1, 2, 2));
    assert_eq!((counters.read_bytes, counters.fetched_raw_bytes), (4202, 8192));
}

#[test]
fn what_ram_has_is_answered_at_once_and_nothing_is_asked_for() {
    let mut world = World::new(&[1, 2], 8);
    world.begin(0, 0, SIZE);
    let requests = world.requests();
    assert_eq!(world.arrives(10, &requests[0], 1).len(), 1);
    let pieces = world.pieces(0, SIZE);
    let (blocks, news) = world.state.ram_hit(&world.setup, ms(11), 0, &pieces).unwrap();
    assert!(blocks[0].is_some() && !news);
    assert!(world.requests().is_empty());
    // Of a read that RAM has in part only the rest is fetched.
    let both = world.pieces(0, 2 * SIZE);
    assert!(world.state.ram_hit(&world.setup, ms(12), 0, &both).is_none());
    world.begin(12, 0, 2 * SIZE);
    let rest: Vec<_> = world.requests().iter().map(|request| request.fetch.block).collect();
    assert_eq!(rest, [world.id(2)]);
    assert_eq!(world.counters().ram_hits, 2);
}

#[test]
fn a_block_that_is_listed_for_later_does_not_drive_out_what_is_read_now() {
    for (keeps, in_ram) in [(true, false), (false, true)] {
        let mut world = World::new(&[1, 2], 1);
        world.state.keeps = keeps;
        world.begin(0, 0, SIZE);
        let request = world.requests().remove(0);
        world.arrives(10, &request, 1);
        let list = vec![world.id(2)];
        world.state.prefetch(list);
        world.step(10, None);
        let request = world.requests().remove(0);
        assert!(request.fetch.prefetch && request.fetch.listed);
        world.arrives(20, &request, 2);
        assert_eq!(
            (world.has_in_ram(2), world.has_in_ram(1)),
            (in_ram, !in_ram),
            "a cache keeps it: {keeps}"
        );
        assert_eq!(world.counters().prefetched_blocks, 1);
    }
}

#[test]
fn when_the_cache_takes_nothing_more_what_is_prefetched_must_fit_into_ram() {
    let disk: Vec<u8> = (1..=20).collect();
    for (kept, requests) in [(true, 20), (false, 4)] {
        let mut world = World::new(&disk, 8);
        world.setup.config.begin = 32;
        world.state = EngineState::new(&world.setup, world.jobs.clone());
        world.state.keeps = true;
        world.state.write(block(1).name(), Vec::new());
        assert!(world.state.is_unwritten(block(1).name()));
        world.state.written(&world.setup, block(1).name(), kept);
        assert!(!world.state.is_unwritten(block(1).name()));
        world.state.prefetch((0..20).map(ObjectId).collect());
        world.step(0, None);
        assert_eq!(world.requests().len(), requests, "kept: {kept}");
        assert_eq!(world.counters().not_kept, u64::from(!kept));
    }
}

#[test]
fn a_read_fails_at_its_deadline_with_the_block_and_the_last_failure() {
    let mut world = World::new(&[1], 8);
    world.begin(0, 0, SIZE);
    let mut at = 0;
    let result = loop {
        for request in world.requests() {
            world.fails(at, &request, Fault::Missing(404));
        }
        at = world.state.next_wakeup().map_or(at + 10, |wakeup| wakeup.as_millis() as u64 + 1);
        assert!(at < 120_000);
        if let Some(result) = world.step(at, None).pop() {
            break result;
        }
    };
    let text = result.unwrap_err().to_string();
    let want = format!("block {}: not received within 60 s; last, http://", block(1).name());
    assert!(
        text.starts_with(&want) && text.ends_with(": HTTP 404: the mirror does not have the file"),
        "{text}"
    );
    assert_eq!(world.counters().reads_failed, 1);
    let errors = world.state.snapshot(&world.setup, ms(at), None).last_errors;
    assert_eq!(
        (errors.len(), errors.last().unwrap().text.as_str()),
        (ERRORS, &*text),
        "the last {ERRORS} are kept"
    );
}

#[test]
fn a_mirror_that_stays_down_is_written_about_ever_less_often_and_when_it_is_back() {
    let mut world = World::new(&[1], 8);
    let mirror = MirrorId(0);
    let mut lines = Vec::new();
    for second in 0..4000 {
        let before = world.state.quiet[0];
        // So that it is down.
        world.state.core.warn_of(mirror, formats::fetch_fault::FailureScope::Mirror);
        world.state.remember_fault(&world.setup, ms(second * 1000), mirror, None, &refused());
        if world.state.quiet[0] != before {
            lines.push(second);
        }
    }
    assert_eq!(lines[..8], [0, 5, 15, 35, 75, 155, 315, 635]);
    assert!(lines[8..].windows(2).all(|pair| pair[1] - pair[0] == QUIET_MAX.as_secs()), "{lines:?}");
    assert!(world.state.told[0]);
    world.state.probed(&world.setup, ms(4_000_000), mirror, Ok(ms(5)));
    assert!(!world.state.told[0] && !world.state.is_down(mirror), "it answers again");
}

#[test]
fn a_request_that_was_cancelled_is_no_failure() {
    let mut world = World::new(&[1], 8);
    world.begin(0, 0, SIZE);
    let request = world.requests().remove(0);
    request.handle.end();
    world.fails(10, &request, Fault::Broken("ended".into()));
    let request = world.requests().remove(0);
    world.fails(20, &request, Fault::TimedOut(Wait::FirstByte));
    assert_eq!(world.counters().faults, 1);
}

#[test]
fn requests_are_old_only_while_they_are_under_way() {
    let mut world = World::new(&[1, 2], 8);
    world.begin(0, 0, SIZE);
    world.begin(400, u64::from(SIZE), SIZE);
    let requests = world.requests();
    let old = |world: &World, at| world.state.old_requests(ms(at), ms(500)).len();
    assert_eq!([old(&world, 499), old(&world, 500), old(&world, 900)], [0, 1, 2]);
    world.arrives(900, &requests[0], 1);
    assert_eq!(old(&world, 900), 1);
}

#[test]
fn when_it_is_stopped_reads_that_wait_fail_and_requests_are_ended() {
    let mut world = World::new(&[1], 8);
    world.begin(0, 0, SIZE);
    let request = world.requests().remove(0);
    assert!(!world.state.stopped());
    assert_eq!(results(world.state.stop()), [Err(ReadError::Stopped)]);
    assert!(world.state.stopped() && request.handle.is_over());
    assert!(world.jobs.requests.take().is_none(), "the threads end");
    assert!(world.state.stop().is_empty(), "each is answered once");
    world.begin(10, 0, SIZE);
    assert!(world.requests().is_empty(), "nothing more is handed out");
}

#[test]
fn reads_end_soon_only_when_no_mirror_is_up() {
    let mut world = World::new(&[1], 8);
    assert!(!world.state.wait_no_longer(ms(2000)));
    assert_eq!(world.state.core.deadline(), Some(ms(60_000)));
    for mirror in [0, 1] {
        world.state.core.warn_of(MirrorId(mirror), formats::fetch_fault::FailureScope::Mirror);
    }
    assert!(world.state.wait_no_longer(ms(2000)));
    assert_eq!(world.state.core.deadline(), Some(ms(2000)));
    assert!(world.state.wait_no_longer(ms(9000)));
    assert_eq!(world.state.core.deadline(), Some(ms(2000)), "never longer than before");
}

#[test]
fn first_reads_are_recorded_in_their_order_from_when_that_is_wanted() {
    let mut world = World::new(&[1, 2, 3], 8);
    world.begin(0, 0, SIZE);
    world.state.record();
    for (at, block) in [(5, 2), (7, 0), (9, 2)] {
        world.begin(at, block * u64::from(SIZE), SIZE);
    }
    let want = [(block(3).name(), 5, 2), (block(1).name(), 7, 1)];
    assert_eq!(world.state.recorded(&world.setup), want);
}

#[test]
fn only_the_mirrors_that_are_named_get_a_cap() {
    let disk: Vec<u8> = (1..=20).collect();
    let mut world = World::new(&disk, 64);
    world.setup.config.begin = 32;
    world.state = EngineState::new(&world.setup, world.jobs.clone());
    let urls = ["http://a/", "http://elsewhere/"].map(|url| (url.parse().unwrap(), 3));
    world.state.cap(&world.setup, &urls);
    let most: Vec<_> = world.state.core.mirrors().iter().map(|health| health.most).collect();
    assert_eq!(most, [Some(3), None]);
}

#[test]
fn what_the_cache_had_or_had_damaged_is_counted() {
    let mut world = World::new(&[1, 2], 8);
    let (one, two) = (world.id(1), world.id(2));
    world.state.loaded(ms(0), one, false, LookupResult::Hit, false, Some(&(one, block(1))));
    world.state.loaded(ms(0), two, false, LookupResult::Miss, true, None);
    world.state.loaded(ms(0), two, true, LookupResult::Miss, false, None);
    let Counters { cache_hits, cache_misses, cache_peeks, cache_damaged, .. } = world.counters();
    assert_eq!([cache_hits, cache_misses, cache_peeks, cache_damaged], [1; 4]);
    assert!(world.has_in_ram(1) && !world.has_in_ram(2));
}

#[test]
fn the_timer_is_woken_only_for_what_comes_sooner() {
    let mut world = World::new(&[1, 2], 8);
    assert!(!world.state.wakeup_is_sooner() && world.state.next_wakeup().is_none());
    world.begin(0, 0, SIZE);
    assert!(world.state.wakeup_is_sooner(), "there was nothing to wait for");
    world.state.next_wakeup();
    assert!(!world.state.wakeup_is_sooner());
    world.begin(1000, u64::from(SIZE), SIZE);
    assert!(!world.state.wakeup_is_sooner(), "what was asked for first ends first");
}

#[test]
fn every_reply_is_given_back_with_its_read() {
    let mut world = World::new(&[1], 8);
    let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
    let write = Arc::clone(&seen);
    let reply: Reply = Box::new(move |result| write.lock().unwrap().extend(result.unwrap()));
    let pieces = world.pieces(0, 3);
    assert!(world.state.begin_read(&world.setup, ms(0), 0, pieces, reply).is_empty());
    world.step(0, None);
    let request = world.requests().remove(0);
    let arrived = (request.fetch.block, block(1));
    let bytes = Arrived { bytes: 100, first_byte: ms(5) };
    world.state.fetched(&world.setup, ms(5), &request, Ok(bytes), Some(&arrived));
    let mut finished = world.state.step(&world.setup, ms(5), Some(arrived));
    let (reply, result) = finished.pop().unwrap();
    reply(result.as_deref());
    assert_eq!(*seen.lock().unwrap(), [1; 3]);
}
