//! docs/architecture.md describes what is there: every path it names exists, every module has a room in it.

use std::collections::BTreeSet;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn document() -> String {
    std::fs::read_to_string(Path::new(ROOT).join("docs/architecture.md"))
        .expect("docs/architecture.md is read")
}

/// What stands between backticks and looks like a path of this repository.
fn named_paths(text: &str) -> BTreeSet<&str> {
    const TOP: [&str; 10] = [
        "src/",
        "docs/",
        "ci/",
        "tests/",
        "benches/",
        "templates/",
        "overlays/",
        "recipes/",
        "fuzz/",
        ".config/",
    ];
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|quoted| TOP.iter().any(|top| quoted.starts_with(top)))
        .collect()
}

#[test]
fn every_path_that_the_architecture_names_exists() {
    let text = document();
    let paths = named_paths(&text);
    assert!(paths.len() > 15, "the document names the rooms: {paths:?}");
    let gone: Vec<_> = paths.iter().filter(|path| !Path::new(ROOT).join(path).exists()).collect();
    assert!(gone.is_empty(), "docs/architecture.md names what is not there: {gone:?}");
}

#[test]
fn every_module_has_a_room_in_the_architecture() {
    let text = document();
    let tour = std::fs::read_to_string(Path::new(ROOT).join("src/lib.rs")).expect("src/lib.rs is read");
    let modules = tour.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let missing: Vec<_> = modules
        .filter(|name| {
            !text.contains(&format!("`src/{name}/`")) && !text.contains(&format!("`src/{name}.rs`"))
        })
        .collect();
    assert!(missing.is_empty(), "docs/architecture.md has no room for {missing:?}");
}

#[test]
fn only_the_host_touches_the_system() {
    const FORBIDDEN: [&str; 5] = ["std::fs", "std::net", "std::process", "SystemTime", "Instant::now"];
    const PURE: [&str; 12] = [
        "recipe", "tree", "ext2", "block", "index", "release", "debian", "guest", "miniroot", "iso", "fetch",
        "publish",
    ];
    let mut found = Vec::new();
    for room in PURE {
        for file in walkdir::WalkDir::new(Path::new(ROOT).join("src").join(room)) {
            let file = file.expect("src is read").into_path();
            if file.extension().is_none_or(|ext| ext != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&file).expect("a source file is read");
            // Tests at the end of a file may do as they like.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (number, line) in code.lines().enumerate() {
                let line = line.split("//").next().unwrap_or_default();
                found.extend(
                    FORBIDDEN
                        .iter()
                        .filter(|word| line.contains(**word))
                        .map(|word| format!("{}:{}: {word}", file.display(), number + 1)),
                );
            }
        }
    }
    assert!(found.is_empty(), "pure rooms touch the system:\n{}", found.join("\n"));
}
