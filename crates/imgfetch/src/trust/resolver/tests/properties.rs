//! What holds whatever mirrors do; [`Sim`] checks the promises of [`Resolver`].

use proptest::prelude::*;

use super::super::sim::*;
use super::super::*;

/// Trees of which only those of `ours` may be used.
struct World {
    key: Key,
    ours: Vec<Tree>,
    bad: Vec<Tree>,
}

fn world() -> World {
    let (key, stranger) = (Key::new(), Key::new());
    let tree = |number| Publish::new(&key, number).tree();
    let expired = |number| {
        Publish { published: TODAY - 9 * DAY, expires: TODAY - DAY, ..Publish::new(&key, number) }.tree()
    };
    let ours = vec![tree(6), tree(7), tree(8), expired(6), expired(9)];
    let damaged = |path: &str| {
        let mut tree = tree(9);
        tree.get_mut(path).unwrap()[50] ^= 4;
        tree
    };
    let bad = vec![
        Publish::new(&stranger, 10).tree(),
        Publish { name: "other", ..Publish::new(&key, 10) }.tree(),
        damaged("latest"),
        damaged("images/host/9/index.idx"),
        Tree::new(),
    ];
    World { key, ours, bad }
}

/// What a mirror does: which tree, how far it is, from when on it does something else, and what.
type Script = (usize, u64, u64, u8, u8);

fn reply(what: u8) -> Reply {
    match what {
        0 => Reply::Page,
        1 => Reply::Fails(unreachable()),
        2 => Reply::Never,
        3 => Reply::Bytes(b"nonsense".to_vec()),
        4 => Reply::Fails(Fault::Busy { status: 503, after: None }),
        5 => Reply::Fails(Fault::Missing(404)),
        _ => Reply::File,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn nothing_old_or_forged_is_resolved_and_every_run_ends_in_time(
        scripts in proptest::collection::vec((0..10_usize, 1..3000_u64, 0..70_000_u64, 0..12_u8, 0..12_u8), 1..5),
        remembered in proptest::option::of(5..9_u64),
        (strict, netselect, named, has_cache, medium) in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(),
            proptest::option::weighted(0.3, 0..10_usize)),
        pinned in proptest::option::weighted(0.2, 5..11_u64),
        start_within in 1..61_u64,
    ) {
        std::thread_local!(static WORLD: World = world());
        WORLD.with(|world| {
            let trees: Vec<_> = world.ours.iter().chain(&world.bad).collect();
            let mirrors = scripts.iter().map(|&(tree, delay, change, before, after): &Script| {
                SimMirror::scripted(trees[tree], ms(delay), move |_, at| {
                    reply(if at < ms(change) { before } else { after })
                })
            });
            let mut sim = Sim::new(&world.key, mirrors.collect()).ask(|request| {
                request.strict = strict;
                request.netselect = netselect;
                request.name = named.then(|| name("demo"));
                request.release = pinned.map(serial);
                request.start_within = secs(start_within);
            });
            if has_cache {
                sim = sim.with_cache(remembered.map_or_else(SimCache::default, SimCache::accepted));
            }
            if let Some(tree) = medium {
                sim = sim.with_medium(trees[tree]);
            }
            let outcome = sim.run();
            if let Ok(resolved) = &outcome.result {
                let (name, serial) = (resolved.release.name.as_str(), resolved.release.serial.get());
                prop_assert!(name == "demo" || !named);
                prop_assert!(name != "demo" || (6..=9).contains(&serial), "{serial} is forged");
                prop_assert!(pinned.is_none_or(|pinned| pinned == serial));
                let expired = resolved.latest.as_ref().is_some_and(|latest| latest.expires.0 < TODAY);
                prop_assert!(!(strict && expired && pinned.is_none()), "who is strict got {serial}");
            }
            Ok(())
        })?;
    }
}
