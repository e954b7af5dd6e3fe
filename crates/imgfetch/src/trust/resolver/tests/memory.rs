//! What a client remembers of a distribution: the newest `latest`, its serial, its release's digest, what it revokes.

use super::super::sim::*;
use formats::names::UnixTime;
use formats::release::{Latest, Verified};

/// The cache after a release was resolved with it.
fn after(key: &Key, tree: &Tree, cache: SimCache) -> SimCache {
    let outcome = Sim::new(key, vec![SimMirror::new(tree, ms(10))]).with_cache(cache).run();
    outcome.serial();
    outcome.cache.unwrap()
}

fn latest_of(key: &Key, tree: &Tree) -> Latest {
    Verified::<Latest>::open(&tree["latest"], &key.trusted()).unwrap().into_inner()
}

#[test]
fn another_release_of_a_serial_that_was_accepted_is_refused_and_both_digests_are_named() {
    let key = Key::new();
    let first = Publish::new(&key, 7).tree();
    let second = Publish { published: TODAY - 30, ..Publish::new(&key, 7) }.tree();
    let cache = after(&key, &first, SimCache::default());
    for strict in [false, true] {
        let sim = Sim::new(&key, vec![SimMirror::new(&second, ms(10))]).with_cache(cache.clone());
        let error = sim.ask(|request| request.strict = strict).run().error();
        let digest = |tree: &Tree| formats::digest::Sha256::of(&tree["releases/7.txt"]).to_string();
        assert!(error.contains(&digest(&first)) && error.contains(&digest(&second)), "{error}");
        assert!(error.contains("one of them is forged"), "{error}");
    }
    // A mirror that has the right one helps, and one that signs it again is no contradiction.
    let mirrors = vec![SimMirror::new(&second, ms(10)), SimMirror::new(&first, ms(20))];
    let outcome = Sim::new(&key, mirrors).with_cache(cache.clone()).run();
    assert_eq!(outcome.serial(), 7);
    let mut again = first.clone();
    let latest = Latest { expires: UnixTime(TODAY + 20 * DAY), ..latest_of(&key, &first) };
    again.insert("latest".into(), key.sign(&latest));
    after(&key, &again, cache);
}

#[test]
fn what_was_revoked_stays_revoked_when_latest_is_withheld_or_replayed() {
    let key = Key::new();
    let mut tree = Publish::new(&key, 6).tree();
    let six = tree.clone();
    tree.extend(Publish { min_serial: 7, ..Publish::new(&key, 8) }.tree());
    let cache = after(&key, &tree, SimCache::default());
    let mut withheld = six.clone();
    withheld.remove("latest");
    for tree in [&withheld, &six] {
        let sim = Sim::new(&key, vec![SimMirror::new(tree, ms(10))]).with_cache(cache.clone());
        let error = sim.ask(|request| request.release = Some(serial(6))).run().error();
        assert!(error.starts_with("the publisher revoked release 6 and all others below 7"), "{error}");
        // Without the memory nobody can know.
        let sim = Sim::new(&key, vec![SimMirror::new(tree, ms(10))]).with_cache(SimCache::default());
        assert_eq!(sim.ask(|request| request.release = Some(serial(6))).run().serial(), 6);
    }
}

#[test]
fn a_serial_of_a_key_that_is_no_longer_trusted_does_not_lock_out_the_new_key() {
    let (stolen, new) = (Key::new(), Key::new());
    let highest = Publish::new(&stolen, i64::MAX as u64).tree();
    let cache = after(&stolen, &highest, SimCache::default());
    let tree = Publish::new(&new, 7).tree();
    let with = |key: &Key| Sim::new(key, vec![SimMirror::new(&tree, ms(10))]).with_cache(cache.clone());
    assert_eq!(with(&new).run().serial(), 7, "a new boot medium");
    let both = stolen.trusted().with(&new.trusted());
    let error = with(&new).ask(|request| request.keys = both).run().error();
    assert!(error.contains("offers release 7, but 9223372036854775807 was already used"), "{error}");
    // From then on the new key's serials count.
    let cache = with(&new).run().cache.unwrap();
    let older = Publish::new(&new, 6).tree();
    let error = Sim::new(&new, vec![SimMirror::new(&older, ms(10))]).with_cache(cache).run().error();
    assert!(error.contains("offers release 6, but 7 was already used"), "{error}");
}

#[test]
fn after_a_rotation_what_the_new_key_signed_counts_also_against_the_old_key() {
    let (old, new) = (Key::new(), Key::new());
    let mut tree = Publish::new(&new, 8).tree();
    let (path, statement) = old.names("demo", &[&new]);
    tree.insert(path, statement);
    let cache = after(&old, &tree, SimCache::default());
    // Somebody replays what the old key signed.
    let replayed = Publish::new(&old, 7).tree();
    let error = Sim::new(&old, vec![SimMirror::new(&replayed, ms(10))]).with_cache(cache).run().error();
    assert!(error.contains("offers release 7, but 8 was already used"), "{error}");
}
