//! docs/architecture.md describes what is there, and the walls between the rooms hold.
//!
//! The walls are read from the code itself: a crate's `lib.rs` lists its rooms, and a room may use those listed above
//! it. [`MAY`] says which rooms may reach the system, and for what; every other room is pure.

#[path = "architecture/docs.rs"]
mod docs;
#[path = "architecture/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use source::{Crate, Source, Use, crates};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What a pure room may not name: prefixes of paths, by what they reach.
const REACHES: [(&str, &[&str]); 7] = [
    (
        "files",
        &[
            "std::fs",
            "std::os::unix::fs",
            "std::os::fd",
            "std::os::unix::io",
            "rustix::fs",
            "rustix::mount",
            "tempfile",
        ],
    ),
    ("network", &["std::net", "std::os::unix::net", "ureq", "rustls", "hyper", "tokio", "rustix::net"]),
    (
        "processes",
        &[
            "std::process::Command",
            "std::process::Child",
            "std::process::exit",
            "std::process::abort",
            "rustix::process",
            "signal_hook",
        ],
    ),
    ("clock", &["std::time::SystemTime", "std::time::Instant::now", "rustix::time"]),
    ("environment", &["std::env"]),
    ("random", &["rustix::rand", "getrandom", "rand", "std::collections::hash_map::RandomState"]),
    (
        "terminal",
        &["std::io::stdin", "std::io::stdout", "std::io::stderr", "rustix::stdio", "rustix::termios"],
    ),
];

/// Which rooms may reach what. A room that is not here is pure. `crate/room`, or `crate/room/file` for one file of it.
const MAY: &[(&str, &[&str])] = &[
    ("system/clock", &["clock"]),
    ("system/files", &["files"]),
    ("system/output", &["terminal"]),
    ("system/random", &["random"]),
    ("system/http", &["clock", "environment", "network", "random"]),
    ("imgfetch/threads", &["clock"]),
    ("imgfetch/daemon", &["environment", "files", "network", "processes", "terminal"]),
    ("imgfetch/cache", &["files", "clock"]),
    ("imgfetch/engine", &["clock"]),
    ("imgfetch/trust/carrier", &["clock"]),
    ("imgfetch/fuse", &["clock", "files", "processes"]),
    ("imgfetch/status", &["environment", "files", "network", "processes"]),
    ("imgfetch/cli", &["environment", "terminal", "clock"]),
    ("imgfactory/sys", &["files", "processes", "clock", "environment", "terminal"]),
    ("imgfactory/project", &["files", "environment", "processes"]),
    ("imgfactory/downloads", &["files", "clock"]),
    ("imgfactory/repository", &["files", "network", "clock", "environment"]),
    ("imgfactory/vm", &["files", "clock", "environment"]),
    ("imgfactory/pipeline", &["files", "clock"]),
    ("imgfactory/cli", &["files", "terminal", "clock", "environment", "network", "processes"]),
];

fn may(source: &Source, reach: &str) -> bool {
    let file = format!("{}/{}", source.krate, source.module.join("/"));
    MAY.iter().any(|(place, reaches)| {
        (file == *place || file.starts_with(&format!("{place}/"))) && reaches.contains(&reach)
    })
}

/// What a source file names that its room may not reach.
fn reached(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for Use { path, line } in &source.uses {
        for (reach, prefixes) in REACHES {
            let hit =
                prefixes.iter().any(|prefix| path == prefix || path.starts_with(&format!("{prefix}::")));
            if hit && !may(source, reach) {
                found.push(format!(
                    "{}:{line}: `{path}` reaches the {reach}; {} may not",
                    source.file,
                    source.room()
                ));
            }
        }
    }
    found
}

/// What a source file names of rooms that stand below its own in `lib.rs`.
fn upside_down(source: &Source, rooms: &[String]) -> Vec<String> {
    let place = |room: &str| rooms.iter().position(|listed| listed == room);
    let Some(own) = place(source.room()) else { return Vec::new() };
    let mut found = Vec::new();
    for Use { path, line } in &source.uses {
        let Some(rest) = path.strip_prefix("crate::") else { continue };
        let room = rest.split("::").next().unwrap_or_default();
        if place(room).is_some_and(|other| other > own) {
            found.push(format!(
                "{}:{line}: `{path}`: {} stands above {room} in lib.rs and may not know it",
                source.file,
                source.room()
            ));
        }
    }
    found
}

#[test]
fn a_room_knows_only_rooms_above_it() {
    let mut found = Vec::new();
    for Crate { sources, rooms, .. } in crates(Path::new(ROOT)) {
        assert!(rooms.len() > 1, "lib.rs lists the rooms: {rooms:?}");
        found.extend(sources.iter().flat_map(|source| upside_down(source, &rooms)));
    }
    assert!(found.is_empty(), "{} uses against the order of the rooms:\n{}", found.len(), found.join("\n"));
}

#[test]
fn only_rooms_that_may_reach_the_system() {
    let crates = crates(Path::new(ROOT));
    let found: Vec<_> = crates.iter().flat_map(|krate| &krate.sources).flat_map(reached).collect();
    assert!(
        found.is_empty(),
        "{} uses of the system in rooms that may not:\n{}",
        found.len(),
        found.join("\n")
    );
    // What a room may do and does not is to be taken away.
    let mut unused: BTreeSet<_> =
        MAY.iter().flat_map(|(place, reaches)| reaches.iter().map(move |reach| (*place, *reach))).collect();
    for source in crates.iter().flat_map(|krate| &krate.sources) {
        let file = format!("{}/{}", source.krate, source.module.join("/"));
        for (reach, prefixes) in REACHES {
            let named = source.uses.iter().any(|Use { path, .. }| {
                prefixes.iter().any(|prefix| path == prefix || path.starts_with(&format!("{prefix}::")))
            });
            if named {
                unused.retain(|(place, other)| {
                    *other != reach || !(file == *place || file.starts_with(&format!("{place}/")))
                });
            }
        }
    }
    assert!(unused.is_empty(), "rooms that may, and do not: {unused:?}");
}

#[test]
fn crates_depend_downwards_only() {
    let below: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("formats", &[][..]),
        ("system", &["formats"][..]),
        ("imgfetch", &["formats", "system"][..]),
        ("imgfactory", &["formats", "system"][..]),
    ]);
    for krate in crates(Path::new(ROOT)) {
        for source in &krate.sources {
            for Use { path, line } in &source.uses {
                let first = path.split("::").next().unwrap_or_default();
                if path.contains("::")
                    && below.contains_key(first)
                    && first != krate.name
                    && first != "imgfactory"
                {
                    assert!(
                        below[krate.name.as_str()].contains(&first),
                        "{}:{line}: `{path}`: the crate {} may not know {first}",
                        source.file,
                        krate.name
                    );
                }
            }
        }
    }
}

/// Names of what speaks HTTP and TLS: which algorithms, authorities and proxies count is decided in one room.
const WEB: [&str; 5] = ["ureq", "rustls", "webpki", "webpki_roots", "reqwest"];

/// What a source file outside of that room names of these.
fn own_web(source: &Source) -> Vec<String> {
    if source.krate == "system" && source.room() == "http" {
        return Vec::new();
    }
    let of_web = |path: &str| WEB.contains(&path.split("::").next().unwrap_or_default());
    let uses = source.uses.iter().filter(|found| of_web(&found.path));
    uses.map(|Use { path, line }| {
        format!("{}:{line}: `{path}`: only crates/system/src/http/ speaks HTTP", source.file)
    })
    .collect()
}

#[test]
fn one_room_makes_all_http_agents() {
    let crates = crates(Path::new(ROOT));
    let found: Vec<_> = crates.iter().flat_map(|krate| &krate.sources).flat_map(own_web).collect();
    assert!(found.is_empty(), "{} agents of their own:\n{}", found.len(), found.join("\n"));
    let planted = "use crate::publish::Remote;\nfn f() { let agent = ureq::Agent::new_with_defaults(); }";
    let planted = Source::parse("imgfactory", "src/publish/planted.rs", &["publish", "planted"], planted);
    assert_eq!(own_web(&planted).len(), 1);
    // What no manifest names can't be used: the builder and the client get it through the room alone.
    for manifest in ["Cargo.toml", "crates/imgfetch/Cargo.toml", "crates/formats/Cargo.toml"] {
        let text = std::fs::read_to_string(Path::new(ROOT).join(manifest)).expect("a manifest is read");
        let named = WEB.iter().find(|name| text.contains(&format!("\n{}.workspace", name.replace('_', "-"))));
        assert_eq!(named, None, "{manifest}");
    }
}

/// A file of a pure room with one line that it may not have, in places where a search by lines does not look.
#[test]
fn a_planted_violation_is_found_wherever_it_stands() {
    let rooms = ["tree", "recipe", "publish", "sys"].map(str::to_owned);
    let planted = [
        (
            "below a `mod tests;`",
            "#[cfg(test)]\nmod tests;\n\nfn read() { let _ = std::fs::read(\"x\"); }",
            "files",
        ),
        ("in a grouped import", "use std::{io, fs::{self, File}};", "files"),
        ("by another name", "use std::net as n;", "network"),
        ("in a macro", "fn f() { println!(\"{:?}\", std::env::var(\"HOME\")); }", "environment"),
        ("as a type", "struct Held { file: Option<std::fs::File> }", "files"),
        ("by a crate", "fn f() { rustix::process::getpid(); }", "processes"),
        ("after an import", "use std::time::Instant;\nfn f() { let _ = Instant::now(); }", "clock"),
        ("in a grouped clock", "use std::time::{Duration, SystemTime};", "clock"),
    ];
    for (place, text, reach) in planted {
        let source = Source::parse("imgfactory", "src/publish/planted.rs", &["publish", "planted"], text);
        let found = reached(&source);
        assert!(found.iter().any(|found| found.contains(reach)), "{place}: {found:?}");
    }
    let upside = [
        ("grouped", "use crate::{tree::Tree, sys::process::Tool};"),
        ("by super", "use super::super::sys::process::Tool;"),
        ("in an expression", "fn f() { crate::sys::process::run(); }"),
        ("in a macro", "fn f() { assert!(crate::sys::terminal::is()); }"),
    ];
    for (place, text) in upside {
        let source = Source::parse("imgfactory", "src/publish/planted.rs", &["publish", "planted"], text);
        assert_eq!(upside_down(&source, &rooms).len(), 1, "{place}");
    }
    let tests = "#[cfg(test)]\nmod tests {\n    use crate::sys::process::Tool;\n    use std::fs;\n}\n";
    let source = Source::parse("imgfactory", "src/publish/planted.rs", &["publish", "planted"], tests);
    assert!(reached(&source).is_empty() && upside_down(&source, &rooms).is_empty(), "tests do as they like");
}

#[test]
fn what_is_public_is_documented_in_words_that_say_something() {
    let mut found = Vec::new();
    for source in crates(Path::new(ROOT)).into_iter().flat_map(|krate| krate.sources) {
        found.extend(source.undocumented.iter().map(|fault| format!("{}:{fault}", source.file)));
    }
    assert!(found.is_empty(), "{} faults of documentation:\n{}", found.len(), found.join("\n"));
    let planted = [
        ("pub fn read() {}", "`read` is public"),
        ("/// The name.\npub struct Name;", "`The name.` says nothing"),
        (
            "/// A file on a mirror.\npub struct Entry {\n    /// Its length.\n    len: u64,\n}",
            "`Its length.`",
        ),
        ("struct Name;\nimpl Name {\n    pub fn get(&self) {}\n}", "`get` is public"),
        ("/// Reads a stream.\npub trait Read {\n    fn read(&self);\n}", "`read` is public"),
        ("#[cfg(test)]\nmod tests;\nenum Kind {\n    /// Which.\n    First,\n}", "`Which.`"),
    ];
    for (text, fault) in planted {
        let found = docs::faults(&format!("//! A file with a fault.\n\n{text}\n"));
        assert!(matches!(found.as_slice(), [only] if only.contains(fault)), "{text}: {found:?}");
    }
}

fn document() -> String {
    std::fs::read_to_string(Path::new(ROOT).join("docs/architecture.md"))
        .expect("docs/architecture.md is read")
}

/// What stands between backticks and looks like a path of this repository.
fn named_paths(text: &str) -> BTreeSet<&str> {
    const TOP: [&str; 9] =
        ["src/", "crates/", "docs/", "ci/", "tests/", "benches/", "templates/", "overlays/", "recipes/"];
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|quoted| TOP.iter().any(|top| quoted.starts_with(top)))
        .collect()
}

#[test]
fn every_path_that_a_document_names_exists() {
    let mut documents = vec![Path::new(ROOT).join("README.md"), Path::new(ROOT).join("CHANGELOG.md")];
    for entry in std::fs::read_dir(Path::new(ROOT).join("docs")).expect("docs/ is read") {
        let path = entry.expect("docs/ is read").path();
        documents.extend(path.extension().is_some_and(|extension| extension == "md").then_some(path));
    }
    let mut gone = Vec::new();
    for document in documents {
        let text = std::fs::read_to_string(&document).expect("a document is read");
        // `releases/N.txt` and the like stand for many; `tests/*.rs`, too.
        let one = |path: &&str| !path.contains(['*', '<', ' ', '{']) && !path.contains("NAME");
        let paths = named_paths(&text).into_iter().filter(one).map(str::to_owned);
        let lost = paths.filter(|path| !Path::new(ROOT).join(path).exists());
        gone.extend(lost.map(|path| format!("{}: {path}", document.display())));
    }
    assert!(named_paths(&document()).len() > 30, "the map names the rooms");
    assert!(gone.is_empty(), "documents name what is not there:\n{}", gone.join("\n"));
}

#[test]
fn every_room_is_on_the_map() {
    let text = document();
    for Crate { name, sources, rooms } in crates(Path::new(ROOT)) {
        let base = sources.first().map(|source| source.base()).expect("a crate has sources");
        let missing: Vec<_> = rooms
            .iter()
            .filter(|room| {
                !text.contains(&format!("`{base}{room}/`")) && !text.contains(&format!("`{base}{room}.rs`"))
            })
            .collect();
        assert!(missing.is_empty(), "docs/architecture.md has no row for {missing:?} of {name}");
    }
}

#[test]
fn no_room_is_larger_than_a_seventh_of_the_code() {
    let mut sizes = BTreeMap::<String, usize>::new();
    for source in crates(Path::new(ROOT)).into_iter().flat_map(|krate| krate.sources) {
        *sizes.entry(format!("{}/{}", source.krate, source.room())).or_default() += source.lines;
    }
    let all: usize = sizes.values().sum();
    let (room, lines) = sizes.iter().max_by_key(|(_, lines)| **lines).expect("there are rooms");
    assert!(lines * 100 <= all * 15, "{room} has {lines} of {all} lines: it is asking to be two rooms");
}
