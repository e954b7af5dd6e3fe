//! From an old key to its successors.

use super::super::sim::*;
use super::super::*;

/// Keys of which each names the next, and the tree of a release that the last one signed.
fn chain(hops: usize) -> (Vec<Key>, Tree) {
    let keys: Vec<_> = (0..=hops).map(|_| Key::new()).collect();
    let mut tree = Publish::new(&keys[hops], 7).tree();
    tree.extend(keys.windows(2).map(|pair| pair[0].names("demo", &[&pair[1]])));
    (keys, tree)
}

#[test]
fn keys_are_followed_over_sixteen_rotations_and_no_further() {
    for hops in [1, 2, 16, 17] {
        let (keys, tree) = chain(hops);
        let outcome = Sim::new(&keys[0], vec![SimMirror::new(&tree, ms(10))]).run();
        let statements = outcome.gets.iter().filter(|get| get.2.starts_with("keys/")).count();
        if hops <= 16 {
            assert_eq!((outcome.serial(), statements), (7, hops.max(hops + usize::from(hops < 16))));
        } else {
            assert!(outcome.error().contains("which is not trusted here"), "{}", outcome.error());
            assert_eq!(statements, 16);
        }
    }
}

#[test]
fn keys_that_name_each_other_lead_nowhere_and_end() {
    let [a, b, other] = [Key::new(), Key::new(), Key::new()];
    let mut tree = Publish::new(&other, 7).tree();
    tree.extend([a.names("demo", &[&b]), b.names("demo", &[&a, &b])]);
    let outcome = Sim::new(&a, vec![SimMirror::new(&tree, ms(10))]).run();
    assert!(outcome.error().contains("which is not trusted here"), "{}", outcome.error());
    let itself = a.names("demo", &[&a]);
    tree.insert(itself.0, itself.1);
    assert!(Sim::new(&a, vec![SimMirror::new(&tree, ms(10))]).run().result.is_err());
}

#[test]
fn a_statement_is_followed_only_where_its_own_key_has_signed_it_for_this_distribution() {
    let [old, new, stranger] = [Key::new(), Key::new(), Key::new()];
    let tree = Publish::new(&new, 7).tree();
    let (path, good) = old.names("demo", &[&new]);
    let mut changed = good.clone();
    changed[60] ^= 1;
    let forged = stranger.names("demo", &[&new]).1;
    let other = old.names("other", &[&new]).1;
    let run = |statements: &[&Vec<u8>]| {
        let mirrors = statements.iter().map(|statement| {
            let mut tree = tree.clone();
            tree.insert(path.clone(), statement.to_vec());
            SimMirror::new(&tree, ms(10))
        });
        Sim::new(&old, mirrors.collect()).ask(|request| request.name = Some(name("demo"))).run()
    };
    assert_eq!(run(&[&good]).serial(), 7);
    for wrong in [&changed, &forged, &other] {
        assert!(run(&[wrong]).error().contains("which is not trusted here"));
        assert_eq!(run(&[wrong, &good]).serial(), 7, "the next mirror has it right");
    }
    // Nor where another key has signed it, though that one is trusted too.
    let mut tree = tree.clone();
    tree.insert(path.clone(), forged.clone());
    let both = old.trusted().with(&stranger.trusted());
    let sim = Sim::new(&old, vec![SimMirror::new(&tree, ms(10))]).ask(|request| request.keys = both);
    assert!(sim.run().error().contains("which is not trusted here"));
}

#[test]
fn the_statements_that_were_followed_are_kept_for_when_there_is_no_network() {
    let (keys, tree) = chain(3);
    let mirror = SimMirror::new(&tree, ms(10));
    let first = Sim::new(&keys[0], vec![mirror]).with_cache(SimCache::default()).run();
    assert_eq!(first.serial(), 7);
    let cache = first.cache.unwrap();
    let dead = || vec![SimMirror::scripted(&Tree::new(), ms(5), |_, _| Reply::Fails(unreachable()))];
    assert_eq!(Sim::new(&keys[0], dead()).with_cache(cache.clone()).run().serial(), 7);
    let forgotten = SimCache {
        files: cache.files.into_iter().filter(|(file, _)| !matches!(file, StoredFile::Keys(_))).collect(),
        ..cache
    };
    assert!(Sim::new(&keys[0], dead()).with_cache(forgotten).run().result.is_err());
}

#[test]
fn a_successor_may_not_offer_a_release_below_the_one_that_was_accepted() {
    let (keys, tree) = chain(1);
    let sim = Sim::new(&keys[0], vec![SimMirror::new(&tree, ms(10))]).with_cache(SimCache::accepted(8));
    assert!(sim.run().error().contains("offers release 7, but 8 was already used"));
}

#[test]
fn silent_mirrors_do_not_use_up_the_time_to_follow_keys() {
    let (keys, tree) = chain(6);
    let silent = || SimMirror::scripted(&tree, ms(5), |_, _| Reply::Never);
    let silent_on_keys = SimMirror::scripted(&tree, ms(5), |path, _| match path {
        MirrorPath::Keys(_) => Reply::Never,
        _ => Reply::File,
    });
    let good = || SimMirror::new(&tree, ms(100));
    for (mirrors, within) in [(vec![silent(), silent(), good()], 40), (vec![silent_on_keys, good()], 25)] {
        let places = mirrors.len() - 1;
        let outcome = Sim::new(&keys[0], mirrors).run();
        assert_eq!(outcome.serial(), 7);
        assert!(outcome.at < secs(within), "{:?}", outcome.at);
        let asked = outcome.gets.iter().filter(|get| get.2.starts_with("keys/") && get.1 < places);
        assert!(asked.count() <= 2 * places, "{:?}", outcome.gets);
    }
}

#[test]
fn a_mirror_of_an_unknown_key_does_not_end_the_search_on_mirrors_that_are_away() {
    let [key, stranger] = [Key::new(), Key::new()];
    let strange = SimMirror::new(&Publish::new(&stranger, 10).tree(), ms(10));
    let late = SimMirror::scripted(&Publish::new(&key, 7).tree(), ms(10), |_, at| match at < secs(40) {
        true => Reply::Fails(unreachable()),
        false => Reply::File,
    });
    let outcome = Sim::new(&key, vec![strange, late]).run();
    assert_eq!(outcome.serial(), 7);
    assert!(outcome.at < secs(45), "{:?}", outcome.at);
}
