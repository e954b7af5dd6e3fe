//! Near and far mirrors, dead ones, login pages, no network.

use super::super::sim::*;
use super::super::*;

fn all_of(outcome: &Outcome) -> (Vec<&str>, Vec<u128>) {
    outcome.gets.iter().map(|get| (get.2.as_str(), get.0.as_millis())).unzip()
}

#[test]
fn a_boot_begins_after_two_round_trips() {
    let key = Key::new();
    let tree = Publish::new(&key, 7).tree();
    let outcome = Sim::new(&key, vec![SimMirror::new(&tree, ms(100))]).run();
    assert_eq!((outcome.serial(), outcome.at), (7, ms(200)));
    let want =
        ["mirrors.txt", "latest", "images/host/7/index.idx", "images/host/7/dlahead", "releases/7.txt"];
    assert_eq!(all_of(&outcome), (want.to_vec(), vec![0, 0, 100, 100, 100]));
    assert_eq!(outcome.list.unwrap().unwrap().entries.len(), 1);
    assert_eq!(outcome.mirror_list.unwrap().unwrap().name.as_str(), "demo");
    assert!(outcome.warnings.is_empty(), "{:?}", outcome.warnings);
}

#[test]
fn what_is_not_called_as_was_guessed_is_fetched_by_its_name() {
    let key = Key::new();
    // The index and the list are those of release 6, as when only another image has changed.
    let mut tree = Publish::new(&key, 6).tree();
    let newer = Publish::new(&key, 7).tree();
    let old = formats::release::Verified::<Release>::open(&tree["releases/6.txt"], &key.trusted()).unwrap();
    let release = Release { serial: serial(7), ..old.into_inner() };
    let signed = key.sign(&release);
    let latest = formats::release::Verified::<Latest>::open(&newer["latest"], &key.trusted()).unwrap();
    let digest = formats::digest::Digest::of(&signed);
    let latest = key.sign(&Latest { release: digest, ..latest.into_inner() });
    tree.extend([("releases/7.txt".into(), signed), ("latest".into(), latest)]);
    let outcome = Sim::new(&key, vec![SimMirror::new(&tree, ms(100))]).run();
    assert_eq!((outcome.serial(), outcome.at), (7, ms(300)), "a round trip more");
    assert!(outcome.list.unwrap().is_some());
}

#[test]
fn the_first_good_answer_is_used_and_the_late_ones_count_for_the_statistics() {
    let key = Key::new();
    let tree = Publish::new(&key, 7).tree();
    let mirrors = [400, 100, 180].map(|delay| SimMirror::new(&tree, ms(delay))).into();
    let outcome = Sim::new(&key, mirrors).run();
    // Half as long again is waited for mirrors that are about as near.
    assert_eq!((outcome.serial(), outcome.at), (7, ms(250)));
    assert_eq!(outcome.asked("releases/7.txt"), [(ms(150), 1)], "the nearest is asked");
    let known: Vec<_> = outcome.stats.iter().map(|stats| stats.first_byte).collect();
    assert_eq!(known, [Some(ms(400)), Some(ms(100)), Some(ms(180))].map(|at| at.filter(|at| *at < ms(400))));
}

#[test]
fn of_mirrors_that_are_about_as_near_the_one_with_the_newer_release_is_used() {
    let key = Key::new();
    let [old, new] = [6, 7].map(|number| Publish::new(&key, number).tree());
    for (near, far) in [(&old, &new), (&new, &old)] {
        let mirrors = vec![SimMirror::new(near, ms(100)), SimMirror::new(far, ms(140))];
        assert_eq!(Sim::new(&key, mirrors).run().serial(), 7);
    }
    // What comes too late is not waited for.
    let mirrors = vec![SimMirror::new(&old, ms(100)), SimMirror::new(&new, ms(900))];
    assert_eq!(Sim::new(&key, mirrors).run().serial(), 6);
}

#[test]
fn without_netselect_mirrors_are_asked_one_after_the_other() {
    let key = Key::new();
    let tree = Publish::new(&key, 7).tree();
    let dead = SimMirror::scripted(&tree, ms(10), |_, _| Reply::Fails(unreachable()));
    let mirrors = vec![dead, SimMirror::new(&tree, ms(300)), SimMirror::new(&tree, ms(10))];
    let outcome = Sim::new(&key, mirrors).ask(|request| request.netselect = false).run();
    assert_eq!(outcome.serial(), 7);
    assert_eq!(outcome.asked("latest"), [(ms(0), 0), (ms(10), 1)]);
    assert_eq!(outcome.asked("releases/7.txt"), [(ms(310), 1)]);
}

#[test]
fn a_login_page_in_the_way_to_all_mirrors_is_waited_for_and_one_alone_is_not() {
    let key = Key::new();
    let tree = Publish::new(&key, 7).tree();
    let login = |_: &MirrorPath, at| if at < secs(20) { Reply::Page } else { Reply::File };
    let mirrors = || (0..2).map(|_| SimMirror::scripted(&tree, ms(10), login));
    let outcome = Sim::new(&key, mirrors().collect()).run();
    assert_eq!(outcome.serial(), 7);
    assert!((secs(20)..secs(23)).contains(&outcome.at), "{:?}", outcome.at);
    outcome.assert_warned("no mirror has sent it yet (http://m1/: a web page instead of the file");
    assert_eq!(outcome.warnings.len(), 2, "a line every 10 s: {:?}", outcome.warnings);

    let outcome = Sim::new(&key, mirrors().take(1).collect()).run();
    assert!(
        outcome
            .error()
            .starts_with("can't get latest from any mirror: http://m0/: a web page instead of the file")
    );
    assert_eq!(outcome.asked("latest").len(), 1);
}

#[test]
fn a_network_that_comes_later_is_waited_for() {
    let key = Key::new();
    let tree = Publish::new(&key, 7).tree();
    let later = |_: &MirrorPath, at| match at {
        at if at < secs(8) => Reply::Fails(unreachable()),
        _ => Reply::File,
    };
    for count in [1, 3] {
        let mirrors = (0..count).map(|_| SimMirror::scripted(&tree, ms(5), later)).collect();
        let outcome = Sim::new(&key, mirrors).run();
        assert_eq!(outcome.serial(), 7);
        assert!(outcome.at < secs(11), "{:?}", outcome.at);
    }
}

#[test]
fn without_a_network_there_is_an_error_that_names_each_mirror_in_time() {
    let key = Key::new();
    let dead = || SimMirror::scripted(&Tree::new(), ms(5), |_, _| Reply::Fails(unreachable()));
    let outcome = Sim::new(&key, vec![dead(), dead()]).ask(|request| request.start_within = secs(5)).run();
    assert_eq!(
        outcome.error(),
        "can't get latest from any mirror\nhttp://m0/: can't connect: refused\nhttp://m1/: can't connect: \
         refused; is the network up, and is the address of the mirror right?"
    );
    assert!((secs(3)..secs(6)).contains(&outcome.at), "{:?}", outcome.at);
}

#[test]
fn mirrors_that_keep_silent_leave_time_for_the_others_and_end_in_time() {
    let key = Key::new();
    let tree = Publish::new(&key, 7).tree();
    let silent = || SimMirror::scripted(&Tree::new(), ms(5), |_, _| Reply::Never);
    for netselect in [true, false] {
        let sim = |mirrors| Sim::new(&key, mirrors).ask(|request| request.netselect = netselect);
        let outcome = sim(vec![silent(), SimMirror::new(&tree, ms(100))]).run();
        assert_eq!(outcome.serial(), 7);
        assert!(outcome.at < secs(32), "{:?}", outcome.at);
        let outcome = sim((0..60).map(|_| silent()).collect()).run();
        assert!(outcome.error().contains("http://m0/: the answer was too slow"), "{}", outcome.error());
    }
}

#[test]
fn after_wrong_bytes_the_next_request_goes_past_caches() {
    let key = Key::new();
    let tree = Publish::new(&key, 7).tree();
    // Busy at first, so that there is a second round.
    let mirror = |tree: &Tree, wrong: bool| {
        let release = tree["releases/7.txt"].len();
        SimMirror::scripted(tree, ms(10), move |path, at| match path {
            MirrorPath::Release(_) if at > ms(100) => Reply::File,
            MirrorPath::Release(_) if wrong => Reply::Bytes(vec![b'x'; release]),
            MirrorPath::Release(_) => Reply::Fails(Fault::Busy { status: 503, after: None }),
            _ => Reply::File,
        })
    };
    let outcome = Sim::new(&key, vec![mirror(&tree, true), mirror(&tree, false)]).run();
    assert_eq!(outcome.serial(), 7);
    let fresh: Vec<_> =
        outcome.gets.iter().filter(|get| get.2 == "releases/7.txt").map(|get| get.3).collect();
    assert_eq!(fresh, [false, false, true]);
}

#[test]
fn a_file_that_one_mirror_lacks_or_has_damaged_comes_from_the_next() {
    let key = Key::new();
    let tree = Publish::new(&key, 7).tree();
    for path in tree.keys().map(String::as_str) {
        let (mut lacks, mut damaged) = (tree.clone(), tree.clone());
        lacks.remove(path);
        damaged.get_mut(path).unwrap()[40] ^= 1;
        for bad in [lacks, damaged] {
            // The bad one is the nearer.
            let mirrors = vec![SimMirror::new(&bad, ms(10)), SimMirror::new(&tree, ms(100))];
            let outcome = Sim::new(&key, mirrors).run();
            assert_eq!(outcome.serial(), 7, "{path}");
            assert!(outcome.list.unwrap().is_some(), "{path}");
            assert!(outcome.mirror_list.unwrap().is_some() || path == "mirrors.txt");
        }
    }
}

#[test]
fn an_index_in_the_cache_is_not_fetched_again() {
    let key = Key::new();
    let tree = Publish::new(&key, 7).tree();
    let first = Sim::new(&key, vec![SimMirror::new(&tree, ms(10))]).with_cache(SimCache::default()).run();
    assert_eq!(first.serial(), 7);
    let cache = first.cache.unwrap();
    assert_eq!(cache.serials["demo"], 7);
    let again = Sim::new(&key, vec![SimMirror::new(&tree, ms(10))]).with_cache(cache).run();
    assert_eq!((again.serial(), again.asked("images/host/7/index.idx").len()), (7, 0));
}

/// What the cache has after this release was used.
fn used(key: &Key, tree: &Tree) -> SimCache {
    let sim = Sim::new(key, vec![SimMirror::new(tree, ms(10))]);
    sim.with_cache(SimCache::default()).run().cache.unwrap()
}

#[test]
fn without_a_network_the_release_in_the_cache_is_used_within_fifteen_seconds() {
    let key = Key::new();
    let cache = used(&key, &Publish::new(&key, 7).tree());
    let sim = |reply: Reply, cache: &SimCache| {
        let mirrors = (0..2).map(|_| {
            let reply = reply.clone();
            SimMirror::scripted(&Tree::new(), ms(5), move |_, _| reply.clone())
        });
        Sim::new(&key, mirrors.collect()).with_cache(cache.clone())
    };
    for reply in [Reply::Fails(unreachable()), Reply::File, Reply::Page, Reply::Fails(Fault::Status(511))] {
        let outcome = sim(reply.clone(), &cache).run();
        assert_eq!(outcome.serial(), 7, "{reply:?}");
        assert!(outcome.at < secs(15), "{reply:?}: {:?}", outcome.at);
        outcome.assert_warned("; continuing with the cached release 7 of 2024-10-03 23:59 UTC");
        let pinned = |number| {
            let sim = sim(reply.clone(), &cache);
            sim.ask(|request| request.release = Some(serial(number))).run()
        };
        assert_eq!(pinned(7).serial(), 7);
        assert!(pinned(6).error().starts_with("can't get releases/6.txt from any mirror"));
        // Who wants to be sure does not want it.
        let strict = sim(reply.clone(), &cache).ask(|request| request.strict = true).run();
        assert!(strict.error().starts_with("can't get latest from any mirror"));
        // Somebody put an older one into the cache.
        let older = SimCache { serials: [("demo".into(), 8)].into(), ..cache.clone() };
        assert!(sim(reply, &older).run().error().starts_with("can't get latest from any mirror"));
    }
    // A mirror that answers with something that is refused is no dead network.
    let outcome = sim(Reply::Bytes(b"nonsense".to_vec()), &cache).run();
    assert!(outcome.error().contains("latest: not signed"), "{}", outcome.error());
    // Nor is the release of another key used.
    let other = Key::new();
    let outcome = sim(Reply::File, &cache).ask(|request| request.keys = other.trusted()).run();
    assert!(outcome.error().starts_with("can't get latest"), "{}", outcome.error());
}

#[test]
fn a_medium_is_used_where_no_mirror_has_a_newer_release() {
    let key = Key::new();
    let [six, seven, eight] = [6, 7, 8].map(|number| Publish::new(&key, number).tree());
    let dead = SimMirror::scripted(&Tree::new(), ms(5), |_, _| Reply::Fails(unreachable()));
    let outcome = Sim::new(&key, vec![dead]).with_medium(&seven).run();
    assert_eq!((outcome.serial(), outcome.at), (7, ms(5)), "mirrors are asked once");
    outcome.assert_warned("; continuing with the medium's release 7");
    let silent = SimMirror::scripted(&Tree::new(), ms(5), |_, _| Reply::Never);
    let outcome = Sim::new(&key, vec![silent]).with_medium(&seven).run();
    assert!(outcome.serial() == 7 && outcome.at < secs(6), "{:?}", outcome.at);

    let outcome = Sim::new(&key, vec![SimMirror::new(&six, ms(5))]).with_medium(&seven).run();
    assert_eq!(outcome.serial(), 7);
    outcome
        .assert_warned("the mirrors have release 6, the medium has the newer release 7; using the medium's");
    assert_eq!(outcome.asked("images/host/7/index.idx"), [], "the medium has it");
    assert_eq!(Sim::new(&key, vec![SimMirror::new(&eight, ms(5))]).with_medium(&seven).run().serial(), 8);

    // It is believed no more than a mirror.
    let stranger = Publish::new(&Key::new(), 9).tree();
    let other = Publish { name: "other", ..Publish::new(&key, 9) }.tree();
    for (medium, warning) in [
        (&stranger, "medium: latest: signed by key"),
        (&other, "medium: is of distribution `other`; `demo` was asked for; not used"),
        (&seven, "medium: has release 7, but 8 was already used; not used"),
    ] {
        let sim = Sim::new(&key, vec![SimMirror::new(&eight, ms(5))]).with_cache(SimCache::accepted(8));
        let outcome = sim.with_medium(medium).ask(|request| request.name = Some(name("demo"))).run();
        assert_eq!(outcome.serial(), 8);
        outcome.assert_warned(warning);
    }
}
