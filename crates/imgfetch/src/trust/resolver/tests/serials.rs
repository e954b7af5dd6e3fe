//! Rollback, freshness, pinned and revoked releases, other signatures and names.

use super::super::sim::*;

#[test]
fn a_release_below_the_one_that_was_accepted_is_refused() {
    let key = Key::new();
    let [six, seven] = [6, 7].map(|number| Publish::new(&key, number).tree());
    let sim = |trees: &[&Tree]| {
        let mirrors = trees.iter().map(|tree| SimMirror::new(tree, ms(10))).collect();
        Sim::new(&key, mirrors).with_cache(SimCache::accepted(7))
    };
    let outcome = sim(&[&six]).run();
    assert!(
        outcome.error().contains(
            "offers release 6, but 7 was already used; older releases are refused (to use it anyway: --release 6)"
        ),
        "{}",
        outcome.error()
    );
    assert_eq!(sim(&[&six, &seven]).run().serial(), 7, "a mirror that is behind is passed over");
    // Pinned it is used, and what was remembered stays.
    let pinned = sim(&[&six]).ask(|request| request.release = Some(serial(6))).run();
    assert_eq!((pinned.serial(), pinned.cache.unwrap().serials["demo"]), (6, 7));
}

#[test]
fn a_mirror_that_withholds_the_newest_release_is_passed_over_where_another_has_it() {
    let key = Key::new();
    let tree = Publish::new(&key, 7).tree();
    let mut withheld = tree.clone();
    withheld.remove("latest");
    for netselect in [true, false] {
        let mirrors = vec![SimMirror::new(&withheld, ms(5)), SimMirror::new(&tree, ms(50))];
        let outcome = Sim::new(&key, mirrors).ask(|request| request.netselect = netselect).run();
        assert_eq!(outcome.serial(), 7);
    }
    let outcome = Sim::new(&key, vec![SimMirror::new(&withheld, ms(5))]).run();
    assert!(outcome.error().contains("HTTP 404"), "{}", outcome.error());
    assert_eq!(outcome.asked("latest").len(), 1, "it is not asked again");
}

#[test]
fn an_expired_latest_is_warned_of_or_refused_and_a_fresh_one_goes_first() {
    let key = Key::new();
    let expired = Publish { published: TODAY - 9 * DAY, expires: TODAY - DAY, ..Publish::new(&key, 7) };
    let (stale, staler) = (expired.tree(), Publish { serial: 6, ..expired }.tree());
    let fresh = Publish::new(&key, 7).tree();
    let run = |trees: &[&Tree], strict| {
        let mirrors = trees.iter().zip([10, 12]).map(|(tree, delay)| SimMirror::new(tree, ms(delay)));
        Sim::new(&key, mirrors.collect()).ask(|request| request.strict = strict).run()
    };
    let outcome = run(&[&stale], false);
    assert_eq!(outcome.serial(), 7);
    outcome.assert_warned("release 7 has expired on 2024-10-03 00:00 UTC, and no mirror has a newer one");
    let error = run(&[&stale], true).error();
    assert!(error.contains("has expired on 2024-10-03 00:00 UTC; refused (--strict)"), "{error}");
    for strict in [true, false] {
        let outcome = run(&[&stale, &fresh], strict);
        assert!(outcome.serial() == 7 && outcome.warnings.is_empty(), "{:?}", outcome.warnings);
    }
    for both in [[&staler, &stale], [&stale, &staler]] {
        assert_eq!(run(&both, false).serial(), 7, "of expired ones the newest");
    }
    // Better an expired one than to wait for mirrors that are dead.
    let dead = SimMirror::scripted(&Tree::new(), ms(5), |_, _| Reply::Fails(unreachable()));
    let outcome = Sim::new(&key, vec![SimMirror::new(&stale, ms(10)), dead]).run();
    assert!(outcome.serial() == 7 && outcome.at < secs(1), "{:?}", outcome.at);
}

#[test]
fn a_clock_that_is_behind_is_warned_of_once() {
    let key = Key::new();
    let tree = Publish::new(&key, 7).tree();
    let sim = |strict| {
        let mirrors = [10, 12].map(|delay| SimMirror::new(&tree, ms(delay))).into();
        let sim = Sim { wall: 5 * DAY, ..Sim::new(&key, mirrors) };
        sim.ask(|request| request.strict = strict).run()
    };
    let outcome = sim(false);
    assert_eq!((outcome.serial(), outcome.warnings.len()), (7, 1), "{:?}", outcome.warnings);
    outcome.assert_warned("the clock says 1970-01-06 00:00 UTC, and release 7 is of 2024-10-03 23:59 UTC");
    assert!(sim(true).error().contains("set the clock"));
}

#[test]
fn what_is_signed_by_another_key_or_of_another_name_is_refused() {
    let (key, stranger) = (Key::new(), Key::new());
    let theirs = Publish::new(&stranger, 99).tree();
    let ours = Publish::new(&key, 7).tree();
    let outcome = Sim::new(&key, vec![SimMirror::new(&theirs, ms(10))]).run();
    assert!(outcome.error().contains("which is not trusted here; trusted: "), "{}", outcome.error());
    let mirrors = vec![SimMirror::new(&theirs, ms(10)), SimMirror::new(&ours, ms(20))];
    assert_eq!(Sim::new(&key, mirrors).run().serial(), 7);
    // A release of theirs under our `latest`.
    let mut mixed = ours.clone();
    mixed.insert("releases/7.txt".into(), Publish::new(&stranger, 7).tree()["releases/7.txt"].clone());
    let outcome = Sim::new(&key, vec![SimMirror::new(&mixed, ms(10))]).run();
    assert!(outcome.error().contains("releases/7.txt: SHA-256"), "{}", outcome.error());

    let named = |text: &str| {
        let sim = Sim::new(&key, vec![SimMirror::new(&ours, ms(10))]);
        sim.ask(|request| request.name = Some(name(text))).run()
    };
    assert_eq!(named("demo").serial(), 7);
    assert!(named("other").error().contains("latest: is of distribution `demo`; `other` was asked for"));
    let guest =
        Sim::new(&key, vec![SimMirror::new(&ours, ms(10))]).ask(|request| request.image = name("guest"));
    assert_eq!(guest.run().error(), "release 7 of `demo` has no image `guest`; it has `host`");
}

#[test]
fn a_pinned_release_is_used_unless_it_was_revoked() {
    let key = Key::new();
    let six = Publish::new(&key, 6).tree();
    let both = |min_serial| {
        let mut tree = six.clone();
        tree.extend(Publish { min_serial, ..Publish::new(&key, 8) }.tree());
        tree
    };
    let pinned = |tree: &Tree| {
        let sim = Sim::new(&key, vec![SimMirror::new(tree, ms(10))]);
        sim.ask(|request| request.release = Some(serial(6))).run()
    };
    assert_eq!(pinned(&both(6)).serial(), 6);
    assert_eq!(
        pinned(&both(7)).error(),
        "the publisher revoked release 6 and all others below 7; leave out --release to use the newest"
    );
    // One that has expired says so too, also to who is strict.
    let mut stale = six.clone();
    let old =
        Publish { min_serial: 7, published: TODAY - 9 * DAY, expires: TODAY - DAY, ..Publish::new(&key, 8) };
    stale.extend(old.tree());
    let sim = Sim::new(&key, vec![SimMirror::new(&stale, ms(10))]);
    let strict = sim.ask(|request| (request.release, request.strict) = (Some(serial(6)), true)).run();
    assert!(strict.error().starts_with("the publisher revoked release 6"));
    // Without a `latest` it is not known.
    let mut without = six.clone();
    without.remove("latest");
    assert_eq!(pinned(&without).serial(), 6);
    // Under a false name.
    let mut liar = Tree::new();
    liar.insert("releases/6.txt".into(), Publish::new(&key, 5).tree()["releases/5.txt"].clone());
    assert!(pinned(&liar).error().contains("has serial 5 instead of 6"));
}

/// Release 7 with a cache of which something does not work.
fn with_a_failing(cache: &SimCache, strict: bool) -> Outcome {
    let key = Key::new();
    let tree = Publish::new(&key, 7).tree();
    let sim = Sim::new(&key, vec![SimMirror::new(&tree, ms(10))]).with_cache(cache.clone());
    sim.ask(|request| request.strict = strict).run()
}

#[test]
fn who_is_strict_wants_the_serial_to_be_remembered() {
    let cache = SimCache { full: true, ..SimCache::default() };
    let outcome = with_a_failing(&cache, false);
    assert_eq!(outcome.serial(), 7);
    outcome.assert_warned("the disk fails; an older release would not be noticed the next time");
    assert_eq!(
        with_a_failing(&cache, true).error(),
        "can't store that release 7 was accepted; leave out --strict to use it anyway"
    );
}

#[test]
fn where_it_can_not_be_read_what_was_accepted_only_strict_refuses_to_boot() {
    let cache = SimCache { unreadable: true, ..SimCache::default() };
    let outcome = with_a_failing(&cache, false);
    assert_eq!(outcome.serial(), 7);
    outcome.assert_warned("the disk fails; an older release would not be noticed");
    assert_eq!(with_a_failing(&cache, true).error(), "the disk fails");
}
