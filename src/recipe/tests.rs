//! Whole recipes, right and wrong.

use super::*;

/// A project that exists only here.
struct Room;

impl Surroundings for Room {
    fn overlays(&self) -> Vec<String> {
        ["common", "demo-guest", "demo-host", "desktop"].map(str::to_owned).into()
    }

    fn file(&self, path: &ProjectPath) -> ProjectFile {
        match path.as_str() {
            "recipes/live-user.sh" => ProjectFile::Executable,
            "recipes/plain.sh" => ProjectFile::Plain,
            _ => ProjectFile::Missing,
        }
    }
}

fn parse(text: &str) -> Result<Recipe, Findings> {
    Recipe::parse("recipes/x.yaml", text, &Room)
}

#[test]
fn the_recipes_that_come_along_are_right() {
    let demo = parse(include_str!("../../recipes/demo.yaml")).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(demo.guests.len(), 1);
    assert_eq!(demo.boot.entries, [Entry::Xen, Entry::Linux, Entry::Rescue]);
    assert_eq!(demo.key.as_str(), "keys/demo");
    let xenoppix =
        parse(include_str!("../../recipes/xenoppix.yaml")).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(xenoppix.guests[0].start, Start::Demand);
}
