//! The core under scripts of faults, by simulation.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::sim::{Cached, End, Line, Reply, Sim, ms, refused};
use super::*;
use crate::jitter::Jitter;

fn without_cache() -> Config {
    Config { loaders: 0, ..Config::default() }
}

fn gone() -> Fault {
    Fault::Missing(404)
}

#[test]
fn a_block_that_many_read_is_fetched_once() {
    let mut sim = Sim::new(without_cache(), vec![vec![Reply::Good(50)]]);
    for time in [0, 0, 10, 49] {
        sim.read_at(ms(time), &[7]);
    }
    sim.read_at(ms(20), &[7, 8]);
    sim.run(ms(1000));
    assert_eq!(sim.asked_for(), [(7, 0), (8, 0)]);
    let ends: Vec<_> = sim.ends.iter().map(|(_, end, how)| (*end, how.clone())).collect();
    assert_eq!(ends[..4], vec![(ms(50), End::Whole); 4]);
    assert_eq!(ends[4..], [(ms(70), End::Whole)]);
}

#[test]
fn each_fault_is_answered_by_the_next_mirror_at_once() {
    let faults = [
        gone(),
        refused(),
        Fault::WebPage,
        Fault::TimedOut(Wait::FirstByte),
        Fault::Length { found: 1, want: 2 },
        Fault::Busy { status: 503, after: Some(Duration::from_secs(3)) },
    ];
    for fault in faults {
        let wrong_bytes = fault.is_wrong_bytes();
        let mirrors = vec![vec![Reply::Faulty(fault.clone(), 10)], vec![Reply::Good(10)]];
        let mut sim = Sim::new(without_cache(), mirrors);
        sim.read_at(ms(0), &[1]);
        sim.run(ms(100));
        assert_eq!(sim.asked_for(), [(1, 0), (1, 1)], "{fault}");
        assert_eq!(sim.ends, [(ms(0), ms(20), End::Whole)], "{fault}");
        assert_eq!(sim.fetches[1].4, wrong_bytes, "{fault}: past caches only after wrong bytes");
        // And the next block does not go to the first one again.
        sim.read_at(ms(100), &[2]);
        sim.run(ms(200));
        assert_eq!(sim.asked_for().last(), Some(&(2, 1)), "{fault}");
    }
}

#[test]
fn with_one_mirror_a_fault_is_tried_again_until_the_deadline_and_told_then() {
    let mut sim = Sim::new(without_cache(), vec![vec![Reply::Faulty(gone(), 10)]]);
    sim.read_at(ms(0), &[1]);
    sim.run(ms(100_000));
    let last = Some((MirrorId(0), gone()));
    assert_eq!(sim.ends, [(ms(0), ms(60_000), End::Failed(ObjectId(1), last))]);
    // 10 ms each and pauses of 200, 400, 800, 1000, 1000, ... ms between.
    let times: Vec<_> = sim.fetches.iter().map(|fetch| fetch.0).take(6).collect();
    assert_eq!(times, [ms(0), ms(210), ms(620), ms(1430), ms(2440), ms(3450)]);
}

#[test]
fn a_network_that_comes_back_is_used_within_two_seconds() {
    let away: Vec<_> = (0..28).map(|_| Reply::Faulty(refused(), 1)).chain([Reply::Good(20)]).collect();
    let mut sim = Sim::new(without_cache(), vec![away]);
    sim.read_at(ms(0), &[1]);
    sim.run(ms(59_000));
    let pauses: Vec<_> = sim.fetches.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(pauses.iter().all(|pause| *pause <= ms(2100)), "{pauses:?}");
    assert_eq!(sim.ends.len(), 1);
}

#[test]
fn without_a_deadline_a_read_waits_through_any_outage_and_a_deadline_set_meanwhile_ends_it() {
    let hours = |count: u64| ms(count * 3_600_000);
    let config = Config { deadline: None, ..without_cache() };
    // A second and a bit for each try: two hours away.
    let away = (0..7200).map(|_| Reply::Faulty(refused(), 1)).chain([Reply::Good(20)]).collect::<Vec<_>>();
    let mut sim = Sim::new(config, vec![away]);
    sim.read_at(ms(5), &[1]);
    sim.run(hours(1));
    assert_eq!((sim.core.waiting(), sim.core.waiting_since()), (1, Some(ms(5))));
    assert!(sim.fetches.len() <= 3700, "{} requests in an hour", sim.fetches.len());
    sim.run(hours(3));
    assert_eq!(sim.ends.len(), 1);
    let (_, end, how) = &sim.ends[0];
    assert!(*end > hours(2) && *how == End::Whole, "{end:?} {how:?}");
    assert_eq!(sim.core.waiting_since(), None);

    // Nobody answers, and whoever waits is not to wait any longer.
    let mut sim = Sim::new(config, vec![vec![Reply::Faulty(refused(), 1)]]);
    sim.read_at(ms(0), &[1]);
    sim.run(ms(100_000));
    sim.core.set_deadline(Some(ms(2000)));
    sim.read_at(ms(100_000), &[2]);
    sim.run(ms(200_000));
    let ends: Vec<_> = sim.ends.iter().map(|(began, end, _)| (*began, *end)).collect();
    assert_eq!(ends, [(ms(0), ms(100_000)), (ms(100_000), ms(102_000))]);
}

#[test]
fn reads_go_before_the_prefetch_list_and_one_connection_is_theirs() {
    let mut sim = Sim::new(without_cache(), vec![vec![Reply::Good(100)]]);
    sim.core.prefetch((100..120).map(ObjectId));
    sim.read_at(ms(10), &[1]);
    sim.read_at(ms(20), &[2]);
    sim.run(ms(150));
    let order: Vec<_> = sim.fetches.iter().map(|&(time, block, _, ahead, _)| (time, block, ahead)).collect();
    let expected = [
        (ms(0), 100, true),
        (ms(0), 101, true),
        (ms(0), 102, true),
        // At once, also beyond what the pace allows.
        (ms(10), 1, false),
        (ms(20), 2, false),
        // Nothing for as long as the line needs for those two. While somebody waits for what nobody foresaw, the list gets
        // half of the connections beside them.
        (ms(110), 103, true),
        (ms(110), 104, true),
    ];
    assert_eq!(order[..7], expected);
}

#[test]
fn a_read_of_a_block_of_the_list_goes_to_the_front_and_is_not_fetched_twice() {
    let config = Config { connections: 2, ..without_cache() };
    let mut sim = Sim::new(config, vec![vec![Reply::Good(100)]]);
    sim.core.prefetch([10, 11, 12, 13].map(ObjectId));
    // 10 is in flight, 12 is queued, 13 only on the list.
    sim.read_at(ms(10), &[10]);
    sim.read_at(ms(10), &[12]);
    sim.read_at(ms(10), &[13]);
    sim.run(ms(1000));
    let blocks: Vec<_> = sim.fetches.iter().map(|fetch| fetch.1).collect();
    assert_eq!(blocks, [10, 12, 13, 11]);
    assert_eq!(sim.ends.iter().map(|end| end.1).collect::<Vec<_>>(), [ms(100), ms(110), ms(200)]);
}

#[test]
fn who_reads_what_nobody_foresaw_hardly_waits_behind_what_is_fetched_ahead() {
    for (round_trip, megabits) in [(1, 20), (20, 20), (100, 20), (1, 100), (100, 100)] {
        let mut sim = Sim::new(without_cache(), vec![vec![Reply::Good(0)]]);
        let line = Line::new(ms(round_trip), megabits);
        let alone = ms(round_trip) + line.bytes_alone(1000..1020) / 20;
        let least = line.bytes_alone(0..900) + line.bytes_alone(1000..1020);
        sim.line = Some(line);
        sim.core.prefetch((0..900).map(ObjectId));
        for n in 0..20 {
            sim.read_at(ms(3000 + 250 * u64::from(n)), &[1000 + n]);
        }
        sim.run(ms(200_000));
        let waited = sim.ends.iter().map(|(began, end, _)| *end - *began).sum::<Time>() / 20;
        let what = format!("{round_trip} ms, {megabits} Mbit/s: {waited:?}, {alone:?} alone");
        // What had been sent before it was asked for comes first, and the first such read of all meets with more.
        assert_eq!(sim.ends.len(), 20, "{what}");

        // The list loses little but what the reads take.
        let list = sim.fetches.iter().rfind(|fetch| fetch.3).map(|fetch| fetch.0).unwrap();
        println!("{what}: {list:?} of {least:?}");
        assert!(waited <= 14 * alone / 10 + ms(30), "{what}");
        assert!(list <= least * 6 / 5 + ms(20 * round_trip), "{what}: {list:?} of {least:?}");
    }
}

#[test]
fn what_is_on_its_way_ahead_stops_for_as_long_as_a_block_takes_and_goes_on_when_it_has_come() {
    for round_trip in [1, 100] {
        let mut sim = Sim::new(without_cache(), vec![vec![Reply::Good(0)]]);
        let mut line = Line::new(ms(round_trip), 20);
        line.window = 16 << 10;
        sim.line = Some(line);
        sim.core.prefetch((0..100).map(ObjectId));
        for (at, block) in [(1000, 1000), (1010, 1001), (2000, 1002)] {
            sim.read_at(ms(at), &[block]);
        }
        sim.run(ms(60_000));
        let what = format!("{round_trip} ms: {:?}, {:?}", sim.holds, sim.ends);
        assert_eq!(sim.ends.len(), 3, "{what}");
        let of = |at| sim.holds.iter().filter(move |hold| hold.0 == ms(at)).collect::<Vec<_>>();
        // A block is 110 kB on average, 44 ms; two of them leave a gap as long as two.
        for (at, least, most) in [(1000, 30, 90), (1010, 60, 180), (2000, 30, 90)] {
            let held = of(at);
            assert!(!held.is_empty(), "{at}: {what}");
            let gaps = held.iter().map(|hold| hold.2 - hold.0);
            assert!(gaps.clone().all(|gap| (ms(least)..ms(most)).contains(&gap)), "{at}: {what}");
            // Nothing is asked for ahead meanwhile.
            let gap = ms(at + 1)..sim.ends.iter().find(|end| end.0 == ms(at)).unwrap().1.min(ms(at + least));
            assert!(!sim.fetches.iter().any(|fetch| fetch.3 && gap.contains(&fetch.0)), "{at}: {what}");
        }
        // Sooner, when nobody waits any more; a far mirror's answer comes later than that.
        let early = sim.holds.iter().filter(|hold| hold.2 == hold.0).count();
        assert_eq!(early > 0, round_trip == 1, "{what}");
        assert_eq!(sim.fetches.len(), 103, "nothing is fetched twice: {what}");
    }
}

#[test]
fn who_reads_what_is_held_up_is_not_held_up_and_nothing_is_for_long() {
    let config = Config { begin: 32, attempt: ms(8000), ..without_cache() };
    let mut sim = Sim::new(config, vec![vec![Reply::Good(5000)]]);
    sim.core.prefetch((0..3).map(ObjectId));
    for n in 0..28 {
        sim.read_at(ms(100 + 50 * u64::from(n)), &[1000 + n]);
    }
    sim.read_at(ms(120), &[1]);
    sim.run(ms(4000));
    // Nothing is known of the line: 50 ms for each block. Then somebody reads block 1, and `act` sees to the rest.
    let first = sim.holds[..4].to_vec();
    let go_on = (ms(120), 1, ms(120));
    assert_eq!(first, [(ms(100), 0, ms(150)), (ms(100), 1, ms(150)), (ms(100), 2, ms(150)), go_on]);
    // One second of the eight that it has.
    let last = sim.holds.iter().filter(|hold| hold.1 == 0).map(|hold| hold.2).max();
    assert_eq!(last, Some(ms(1100)), "{:?}", sim.holds);
}

#[test]
fn a_list_that_comes_after_the_first_reads_is_fetched_at_the_rate_of_the_line_from_then_on() {
    let mut sim = Sim::new(without_cache(), vec![vec![Reply::Good(0)]]);
    // As the index came: from far away, and slowly, since a connection begins slowly.
    sim.core.introduce(MirrorId(0), ms(100), Some(3_000_000), 110_000);
    let line = Line::new(ms(100), 100);
    let least = line.bytes_alone(0..400);
    sim.line = Some(line);
    for n in 0..3 {
        sim.read_at(ms(110 * u64::from(n)), &[1000 + n]);
    }
    sim.run(ms(300));
    sim.core.prefetch((0..400).map(ObjectId));
    sim.run(ms(100_000));
    let took = sim.fetches.last().map(|fetch| fetch.0).unwrap() - ms(300);
    println!("{took:?} of {least:?}");
    assert!(took <= least * 23 / 20, "{took:?} of {least:?}");
}

#[test]
fn prefetch_can_be_held_and_goes_on() {
    let mut sim = Sim::new(without_cache(), vec![vec![Reply::Good(10)]]);
    sim.core.hold_prefetch(true);
    sim.core.prefetch([ObjectId(1)]);
    sim.run(ms(50));
    assert_eq!(sim.asked_for(), []);
    sim.core.hold_prefetch(false);
    sim.run(ms(100));
    assert_eq!(sim.asked_for(), [(1, 0)]);
}

#[test]
fn what_the_cache_has_is_not_fetched_and_a_cache_that_hangs_is_not_waited_for() {
    let mut sim = Sim::new(Config::default(), vec![vec![Reply::Good(10)]]);
    sim.cache.extend([(1, Cached::Yes(5)), (2, Cached::Yes(5))]);
    sim.core.prefetch([ObjectId(2), ObjectId(3)]);
    sim.read_at(ms(0), &[1]);
    // A prefetch only looks whether it is there; a read that comes meanwhile gets the bytes.
    sim.read_at(ms(1), &[2]);
    sim.run(ms(1000));
    assert_eq!(sim.asked_for(), [(3, 0)]);
    assert_eq!(sim.ends, [(ms(0), ms(5), End::Whole), (ms(1), ms(10), End::Whole)]);

    let mut sim = Sim::new(Config::default(), vec![vec![Reply::Good(10)]]);
    sim.cache.extend((0..9).map(|block| (block, Cached::Never)));
    for block in 0..9 {
        sim.read_at(ms(0), &[block]);
    }
    sim.read_at(ms(5000), &[8]);
    sim.read_at(ms(5000), &[50]);
    sim.run(ms(10_000));
    // 2 s for the two loaders, then the cache is left out.
    assert!(sim.ends.iter().all(|(_, _, end)| *end == End::Whole), "{:?}", sim.ends);
    let slowest = sim.ends.iter().map(|(began, end, _)| *end - *began).max();
    assert_eq!(slowest, Some(ms(2020)));
    assert_eq!(sim.ends.last().map(|end| end.1), Some(ms(5010)));
}

#[test]
fn who_reads_on_finds_the_next_blocks_in_ram_as_many_as_it_holds_and_others_read_meanwhile() {
    let mut sim = Sim::new(Config { ready: 3, ..Config::default() }, vec![vec![Reply::Good(50)]]);
    sim.cache.extend((0..20).map(|block| (block, Cached::Yes(10))));
    sim.core.read_on([1, 2, 2, 3, 4, 5].map(ObjectId), true);
    sim.read_at(ms(5), &[10]);
    sim.read_at(ms(12), &[2]);
    sim.run(ms(100));
    let loads = |sim: &Sim| sim.loads.iter().map(|&(at, block, _)| (at, block)).collect::<Vec<_>>();
    // Each once, with one who looks left for reads. 2 was read at once: 1, 3 and 4 are as many as there is room for.
    let expected = [(0, 1), (5, 10), (10, 2), (15, 3), (25, 4)];
    assert_eq!(loads(&sim), expected.map(|(at, block)| (ms(at), block)));
    assert!(sim.loads.iter().all(|(.., peek)| !peek));
    assert_eq!(sim.ends, [(ms(5), ms(15), End::Whole), (ms(12), ms(20), End::Whole)]);
    assert!(sim.core.touched(ObjectId(1)) && !sim.core.touched(ObjectId(1)), "the first time is news");
    sim.run(ms(200));
    assert_eq!(loads(&sim).last(), Some(&(ms(100), 5)));
    assert_eq!((sim.asked_for(), sim.core.useful()), (vec![], 0));
}

#[test]
fn what_is_read_next_and_is_not_cached_is_fetched_unless_the_list_brings_it() {
    for (fetch, asked) in [(true, vec![(1, 0), (2, 0)]), (false, vec![])] {
        for slow in [false, true] {
            let mut sim = Sim::new(Config::default(), vec![vec![Reply::Good(50)]]);
            sim.cache.extend((1..3).map(|block| (block, Cached::No(if slow { 3000 } else { 1 }))));
            sim.core.read_on((1..3).map(ObjectId), fetch);
            sim.run(ms(20_000));
            assert_eq!(sim.asked_for(), asked, "{fetch} {slow}");
            // A read of it is nobody's guess.
            sim.cache.clear();
            sim.read_at(ms(20_000), &[2]);
            sim.run(ms(30_000));
            assert_eq!(sim.ends, [(ms(20_000), ms(20_050), End::Whole)], "{fetch} {slow}");
        }
    }
}

#[test]
fn a_dead_mirror_that_is_back_is_found_by_a_probe_and_not_by_a_read() {
    let first = vec![Reply::Faulty(refused(), 1), Reply::Good(10), Reply::Good(10)];
    let mut sim = Sim::new(without_cache(), vec![first, vec![Reply::Good(50)]]);
    sim.read_at(ms(0), &[1]);
    sim.read_at(ms(3000), &[2]);
    sim.read_at(ms(5000), &[3]);
    sim.run(ms(10_000));
    assert_eq!(sim.asked_for(), [(1, 0), (1, 1), (2, 1), (3, 0)]);
    assert_eq!(sim.asked[0], 3, "one request, one probe at 4 s, one request");
}

#[test]
fn a_request_that_never_ends_does_not_take_its_block_with_it() {
    let mut sim = Sim::new(without_cache(), vec![vec![Reply::Never, Reply::Good(10)]]);
    sim.read_at(ms(0), &[1]);
    sim.run(ms(100_000));
    // After a second it is asked for again, over a new connection.
    assert_eq!(sim.ends, [(ms(0), ms(1010), End::Whole)]);
    assert_eq!(sim.cancelled, 1);
}

#[test]
fn a_list_that_no_mirror_has_is_given_up_block_by_block() {
    let mut sim =
        Sim::new(without_cache(), vec![vec![Reply::Faulty(gone(), 1)], vec![Reply::Faulty(gone(), 1)]]);
    sim.core.prefetch((0..5).map(ObjectId));
    sim.run(ms(60_000));
    let asked = |mirror| sim.asked_for().iter().filter(|(_, of)| *of == mirror).count();
    assert_eq!([asked(0), asked(1)], [5, 5], "each mirror once for each block");
}

/// The longest of all reads but the slowest one in a hundred.
fn p99(sim: &Sim) -> Time {
    let mut times: Vec<_> = sim.ends.iter().map(|(began, end, _)| *end - *began).collect();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[test]
fn a_mirror_that_hangs_or_becomes_slow_costs_a_few_reads_little_and_the_others_nothing() {
    let good = |count| (0..count).map(|_| Reply::Good(30));
    let hangs: Vec<_> = good(40).chain(vec![Reply::Never; 500]).collect();
    let slow: Vec<_> = good(40).chain(vec![Reply::Good(5000); 500]).collect();
    for (what, first) in [("hangs", hangs), ("slow", slow), ("from the start", vec![Reply::Never])] {
        let mut sim = Sim::new(without_cache(), vec![first, vec![Reply::Good(40)]]);
        sim.core.prefetch((1000..1100).map(ObjectId));
        for read in 0..200 {
            sim.read_at(ms(u64::from(read) * 50), &[read]);
        }
        sim.run(ms(100_000));
        assert!(sim.ends.iter().all(|(.., how)| *how == End::Whole), "{what}");
        assert!(p99(&sim) <= ms(1000), "{what}: {:?}", p99(&sim));
        let extra = sim.core.hedged();
        assert!(extra > 0 && extra <= 30, "{what}: {extra} second requests");
        let late = sim.ends.iter().filter(|(began, end, _)| *end - *began > ms(50)).count();
        assert!(late <= 30, "{what}: {late} reads waited");
    }
}

#[test]
fn a_login_page_in_the_way_to_all_mirrors_is_no_fault_of_any_and_one_that_is_a_page_is_left() {
    let pages = |count: usize, then: u64| {
        let page = vec![Reply::Faulty(Fault::WebPage, 5); count];
        [page, vec![Reply::Good(then); 1000]].concat()
    };
    // The far one meets with a page less: it is asked first whether it is there.
    let near = [vec![Reply::Good(10); 20], pages(19, 10)].concat();
    let all = [near, pages(19, 80)];
    // Only the first is one.
    let one = [pages(1000, 10), pages(0, 80)];
    for (scripts, best) in [(all, 0), (one, 1)] {
        let mut sim = Sim::new(without_cache(), scripts.into());
        // One of them waits until somebody has logged in.
        for read in 0..300 {
            let pause = if read > 20 { 40_000 } else { 0 };
            sim.read_at(ms(pause + u64::from(read) * 100), &[read]);
        }
        sim.run(ms(100_000));
        assert!(sim.ends.iter().all(|(.., how)| *how == End::Whole));
        let last = &sim.fetches[sim.fetches.len() - 50..];
        let to_best = last.iter().filter(|fetch| fetch.2 == best).count();
        assert!(to_best >= 48, "{to_best} of the last 50 requests go to mirror {best}");
    }
}

#[test]
fn a_mirror_gets_no_more_requests_at_once_than_it_says() {
    let mut sim = Sim::new(without_cache(), vec![vec![Reply::Good(100)], vec![Reply::Good(100)]]);
    sim.core.cap(MirrorId(0), 2);
    sim.core.cap(MirrorId(1), 1);
    for block in 0..10 {
        sim.read_at(ms(0), &[block]);
    }
    sim.run(ms(10_000));
    for (time, ..) in sim.fetches.clone() {
        let at_once = |mirror, most| {
            let fetches = sim.fetches.iter().filter(|fetch| fetch.2 == mirror);
            let count =
                fetches.filter(|fetch| (time.saturating_sub(ms(99))..=time).contains(&fetch.0)).count();
            assert!(count <= most, "{count} at once at {time:?} to mirror {mirror}");
        };
        at_once(0, 2);
        at_once(1, 1);
    }
    assert_eq!(sim.ends.len(), 10);
    assert_eq!(sim.ends.last().map(|end| end.1), Some(ms(400)), "10 in groups of 3");
}

#[test]
fn more_connections_are_used_when_they_help_and_a_list_is_fetched_at_the_rate_of_the_link() {
    let mut sim = Sim::new(without_cache(), vec![vec![Reply::Good(100)]]);
    sim.core.prefetch((0..400).map(ObjectId));
    sim.run(ms(60_000));
    let last = sim.fetches.last().map(|fetch| fetch.0);
    // 4 at a time would need 13 s (three, as one is kept free).
    assert!(last < Some(ms(2500)), "{last:?}");
    // Or a third fewer, to see whether that is enough.
    assert!(sim.core.limit() >= 22, "{}", sim.core.limit());
}

#[test]
fn no_more_connections_are_used_than_fill_the_line_however_much_files_differ() {
    // 1.0, 1.5, 3.3, 3.3, 12.4 are needed; one is kept free, and half as many again are tried now and then.
    let (mut wrong, mut all) = (false, Vec::new());
    for (round_trip, megabits, most) in
        [(1, 20, 7), (20, 20, 7), (100, 20, 12), (20, 100, 12), (100, 100, 32)]
    {
        let mut sim = Sim::new(without_cache(), vec![vec![Reply::Good(0)]]);
        let line = Line::new(ms(round_trip), megabits);
        let least = line.bytes_alone(0..1000);
        sim.line = Some(line);
        sim.core.prefetch((0..1000).map(ObjectId));
        sim.run(ms(1_000_000));
        let (limit, last) = (sim.core.limit(), sim.fetches.last().map(|fetch| fetch.0).unwrap());
        let what = format!("{round_trip} ms, {megabits} Mbit/s: {limit}, {last:?} of {least:?}");
        println!("{what}");
        wrong |= limit > most || last > least * 21 / 20 + ms(20 * round_trip);
        all.push(what);
    }
    assert!(!wrong, "{all:?}");
}

#[test]
fn a_list_of_another_disk_is_dropped_and_a_good_one_is_not() {
    for (read_from, stale) in [(1000, true), (0, false)] {
        let mut sim = Sim::new(without_cache(), vec![vec![Reply::Good(200)]]);
        sim.core.prefetch((0..900).map(ObjectId));
        for n in 0..60 {
            sim.core.touched(ObjectId(read_from + n));
            sim.read_at(ms(u64::from(n)), &[read_from + n]);
        }
        sim.run(ms(100_000));
        assert_eq!(sim.core.list_is_stale(), stale, "{read_from}");
        assert_eq!(sim.fetches.len() < 300, stale, "{read_from}: {}", sim.fetches.len());
    }
}

#[test]
fn no_more_is_fetched_ahead_than_can_be_kept_until_it_is_read() {
    let config = Config { unread: 8, ..without_cache() };
    let mut sim = Sim::new(config, vec![vec![Reply::Good(10)]]);
    sim.core.prefetch((0..100).map(ObjectId));
    sim.run(ms(1000));
    assert_eq!(sim.fetches.len(), 8);
    (0..3).for_each(|n| _ = sim.core.touched(ObjectId(n)));
    sim.core.dropped(ObjectId(3), false);
    sim.run(ms(2000));
    assert_eq!(sim.fetches.len(), 12);
    assert_eq!(sim.core.useful(), 3);
    // A cache that has room again takes the rest.
    sim.core.limit_unread(usize::MAX);
    sim.run(ms(9000));
    assert_eq!(sim.fetches.len(), 100);
}

#[test]
fn what_follows_on_the_disk_goes_before_the_list() {
    let mut sim =
        Sim::new(Config { begin: 2, connections: 2, ..without_cache() }, vec![vec![Reply::Good(10)]]);
    sim.core.prefetch([10, 11, 12].map(ObjectId));
    sim.run(ms(5));
    sim.core.read_ahead([20, 21, 11].map(ObjectId));
    sim.run(ms(1000));
    let blocks: Vec<_> = sim.fetches.iter().map(|fetch| fetch.1).collect();
    assert_eq!(blocks, [10, 20, 21, 11, 12]);
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(gone()),
        Just(refused()),
        Just(Fault::WebPage),
        Just(Fault::Broken("reset".into())),
        Just(Fault::TimedOut(Wait::FirstByte)),
        (0_u64..20).prop_map(|secs| Fault::Busy { status: 503, after: Some(Duration::from_secs(secs)) }),
    ]
}

fn replies() -> impl Strategy<Value = Reply> {
    prop_oneof![
        3 => (0_u64..3000).prop_map(Reply::Good),
        3 => (faults(), 0_u64..3000).prop_map(|(fault, delay)| Reply::Faulty(fault, delay)),
        1 => (0_u64..60_000).prop_map(Reply::Good),
        1 => Just(Reply::Never),
    ]
}

fn cached() -> impl Strategy<Value = Cached> {
    prop_oneof![
        4 => (0_u64..50).prop_map(Cached::Yes),
        4 => (0_u64..50).prop_map(Cached::No),
        1 => (0_u64..9000).prop_map(Cached::Yes),
        1 => (0_u64..9000).prop_map(Cached::No),
        1 => Just(Cached::Never),
    ]
}

fn reads() -> impl Strategy<Value = Vec<(u64, Vec<u32>)>> {
    let read = (0_u64..40_000, prop::collection::vec(0_u32..12, 1..4));
    prop::collection::vec(read, 1..20)
}

proptest! {
    /// `act` and `run` check on the way: one request a block, no more than allowed, no block twice to a read,
    /// a finished read has all of its blocks, no spinning.
    #[test]
    fn under_any_script_every_read_ends_by_its_deadline(
        scripts in prop::collection::vec(prop::collection::vec(replies(), 1..8), 1..4),
        cache in prop::collection::hash_map(0_u32..12, cached(), 0..12),
        reads in reads(),
        list in prop::collection::vec(0_u32..20, 0..20),
        next in prop::collection::vec(0_u32..20, 0..20),
        fetch in any::<bool>(),
        loaders in 0_usize..3,
        connections in 1_usize..5,
    ) {
        let deadline = ms(20_000);
        let limits = Config { deadline: Some(deadline), attempt: ms(10_000), ..Config::default() };
        let config = Config { loaders, connections, ..limits };
        let mut sim = Sim::new(config, scripts);
        sim.cache = cache;
        sim.core.prefetch(list.into_iter().map(ObjectId));
        sim.core.read_on(next.into_iter().map(ObjectId), fetch);
        for (time, blocks) in &reads {
            sim.read_at(ms(*time), blocks);
        }
        sim.run(ms(70_000));
        prop_assert_eq!(sim.reads.len(), 0);
        prop_assert_eq!(sim.ends.len(), reads.len());
        for (began, end, how) in &sim.ends {
            match how {
                End::Whole => prop_assert!(*end <= *began + deadline),
                End::Failed(..) => prop_assert_eq!(*end, *began + deadline),
            }
        }
    }

    /// Whatever the others do, as long as they do it soon.
    #[test]
    fn with_one_good_mirror_every_read_succeeds(
        bad in prop::collection::vec(prop::collection::vec((faults(), 0_u64..300), 1..5), 0..4),
        good_at in 0_usize..4,
        reads in reads(),
    ) {
        let faulty = |(fault, delay)| Reply::Faulty(fault, delay);
        let mut scripts: Vec<_> =
            bad.into_iter().map(|script| script.into_iter().map(faulty).collect::<Vec<_>>()).collect();
        scripts.insert(good_at.min(scripts.len()), vec![Reply::Good(20)]);
        let mut sim = Sim::new(Config { deadline: Some(ms(10_000)), ..without_cache() }, scripts);
        for (time, blocks) in &reads {
            sim.read_at(ms(*time), blocks);
        }
        sim.run(ms(100_000));
        prop_assert_eq!(sim.ends.len(), reads.len());
        for (.., how) in &sim.ends {
            prop_assert_eq!(how, &End::Whole);
        }
    }
}

/// How many requests a mirror gets in each tenth of a second, from so many clients that it sends away for three seconds
/// while it restarts.
fn requests_after_a_restart(clients: u64, jitter: impl Fn(u64) -> Jitter) -> BTreeMap<u128, usize> {
    let mut slots = BTreeMap::new();
    for client in 0..clients {
        let busy = Reply::Faulty(Fault::Busy { status: 503, after: Some(ms(3000)) }, 5);
        let script = vec![vec![busy.clone(), busy, Reply::Good(5)]];
        let mut sim = Sim::new(Config { jitter: jitter(client), ..without_cache() }, script);
        sim.read_at(ms(0), &[1]);
        sim.run(ms(30_000));
        assert_eq!(sim.ends.len(), 1, "client {client} was starved");
        for (at, ..) in sim.fetches.iter().skip(1) {
            *slots.entry(at.as_millis() / 100).or_default() += 1;
        }
    }
    slots
}

#[test]
fn clients_that_were_sent_away_together_do_not_come_back_together() {
    let alike = requests_after_a_restart(100, |_| Jitter::NONE);
    assert_eq!(alike.values().copied().collect::<Vec<_>>(), [100, 100], "without chance they do");
    let spread = requests_after_a_restart(100, Jitter::seeded);
    println!("{spread:?}");
    assert_eq!(spread.values().sum::<usize>(), 200);
    assert!(spread.len() >= 25 && spread.values().all(|&count| count <= 20), "{spread:?}");
    assert!(*spread.keys().next().unwrap() >= 30, "nobody comes before the time that the mirror said");
}
