//! The JSON schema of recipes says what the parser says: the same keys, and yes to the same recipes.

use std::collections::BTreeSet;

use imgfactory::recipe::{self, ProjectFile, ProjectFiles, ProjectPath, Recipe};
use regex_automata::nfa::thompson::pikevm::PikeVM;
use serde_json::{Map, Value, json};

/// A project that has whatever is asked for.
struct Room;

impl ProjectFiles for Room {
    fn overlays(&self) -> Vec<String> {
        ["autologin", "common", "demo-guest", "demo-host"].map(str::to_owned).into()
    }

    fn file(&self, _: &ProjectPath) -> ProjectFile {
        ProjectFile::Executable
    }
}

fn schema() -> Value {
    serde_json::from_str(&recipe::schema()).unwrap()
}

/// A section of the recipe.
struct Section {
    /// Where it is in the schema.
    schema: &'static str,
    /// Where a key that does not exist makes the parser list its keys.
    text: &'static str,
    /// The heading of docs/recipe.md that it is described below, and which of the tables there.
    heading: &'static str,
    table: usize,
    /// What the table's column `of` calls it, where one table is of several sections.
    of: Option<&'static str>,
}

const fn section(schema: &'static str, text: &'static str, heading: &'static str) -> Section {
    Section { schema, text, heading, table: 0, of: None }
}

const DISKS: &str = "### `disk`, `plan9`, `knoppix`";

const SECTIONS: &[Section] = &[
    section("", "zzz: 1", "## The recipe"),
    section("/properties/host", "host: {zzz: 1}", "## `host`"),
    section("/$defs/Guest", "guests: [{zzz: 1}]", "## `guests`"),
    section("/$defs/NetBsd", "guests: [{netbsd: {zzz: 1}}]", "### `netbsd`"),
    Section { of: Some("plan9"), ..section("/$defs/Plan9", "guests: [{plan9: {zzz: 1}}]", DISKS) },
    Section { of: Some("disk"), ..section("/$defs/Disk", "guests: [{disk: {zzz: 1}}]", DISKS) },
    Section { of: Some("knoppix"), ..section("/$defs/Knoppix", "guests: [{knoppix: {zzz: 1}}]", DISKS) },
    section("/$defs/Debian", "host: {debian: {zzz: 1}}", "### `debian`"),
    Section {
        table: 1,
        ..section("/$defs/DebianSource", "host: {debian: {sources: [{zzz: 1}]}}", "### `debian`")
    },
    section("/$defs/Image", "host: {image: {zzz: 1}}", "### `image`"),
    section("/$defs/Boot", "boot: {zzz: 1}", "## `boot`"),
    section("/$defs/Xen", "boot: {xen: {zzz: 1}}", "### `xen`"),
    section("/$defs/Blocks", "blocks: {zzz: 1}", "## `blocks`"),
    section("/$defs/Machine", "machine: {zzz: 1}", "## `machine`"),
    section("/$defs/Expect", "expect: {zzz: 1}", "## `expect`"),
    section("/$defs/Publish", "publish: {zzz: 1}", "## `publish`"),
    section("/$defs/PublishTarget", "publish: {targets: [{zzz: 1}]}", "## `publish`"),
];

/// The keys that the parser allows where it finds `zzz`.
fn keys_of_parser(text: &str) -> BTreeSet<String> {
    let faults = Recipe::parse("x", text, &Room).unwrap_err();
    let unknown = faults.sorted().into_iter().find(|fault| fault.what == "unknown key `zzz`").unwrap();
    let (_, listed) = unknown.help.split_once("allowed here: ").unwrap();
    listed.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
}

#[test]
fn schema_and_parser_know_the_same_keys() {
    let schema = schema();
    assert_eq!(recipe::schema().matches("\"additionalProperties\"").count(), SECTIONS.len());
    for &Section { schema: name, text, .. } in SECTIONS {
        let section = schema.pointer(name).unwrap();
        assert_eq!(section["additionalProperties"], false, "{name}");
        let keys: BTreeSet<String> = section["properties"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, keys_of_parser(text), "{name}");
        for (key, property) in section["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "{name}.{key} is not described");
        }
    }
}

/// The rows of a table below a heading: the keys in the first cell, and the second cell.
fn rows<'d>(reference: &'d str, heading: &str, table: usize) -> Vec<(Vec<&'d str>, &'d str)> {
    let mut lines = reference.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "docs/recipe.md has no `{heading}`");
    let own = lines.take_while(|line| !line.starts_with('#'));
    let mut tables: Vec<Vec<_>> = vec![vec![]];
    for line in own {
        match line.strip_prefix("| ") {
            Some(row) if line.starts_with("| `") => {
                let mut cells = row.split(" | ");
                let keys = cells.next().unwrap().split(", ").map(|key| key.trim_matches('`')).collect();
                tables.last_mut().unwrap().push((keys, cells.next().unwrap()));
            }
            Some(_) => {}
            None if line.starts_with('|') => {}
            None => tables.push(vec![]),
        }
    }
    tables.retain(|rows| !rows.is_empty());
    tables.get(table).cloned().unwrap_or_else(|| panic!("`{heading}` has no table {table}"))
}

/// The keys that the document gives to a section.
fn keys_of_document(reference: &str, Section { heading, table, of, .. }: &Section) -> BTreeSet<String> {
    let rows = rows(reference, heading, *table).into_iter();
    let own =
        rows.filter(|(_, cell)| of.is_none_or(|of| *cell == "all" || cell.contains(&format!("`{of}`"))));
    own.flat_map(|(keys, _)| keys).map(str::to_owned).collect()
}

/// What the document does not say where it should, and says where it should not.
fn misplaced(reference: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for section in SECTIONS {
        let Section { schema, heading, table, .. } = section;
        let documented = keys_of_document(reference, section);
        for key in keys_of_parser(section.text).difference(&documented) {
            wrong.push(format!("{heading}: nothing of `{key}` of {schema}"));
        }
        // One table may be of several sections.
        let others = SECTIONS.iter().filter(|other| {
            (other.heading, other.table) == (heading, *table)
                && (other.of.is_none() || other.of == section.of)
        });
        let known: BTreeSet<_> = others.flat_map(|other| keys_of_parser(other.text)).collect();
        wrong.extend(
            documented.difference(&known).map(|key| format!("{heading}: `{key}` is no key of {schema}")),
        );
    }
    wrong
}

#[test]
fn the_reference_describes_every_key_in_its_section() {
    let reference = include_str!("../../docs/recipe.md");
    assert_eq!(misplaced(reference), [""; 0]);
    // In another section it is as good as not there.
    let (row, from) = ("| `cpus` | 1 to 255 | `2` | |\n", "## `machine`");
    let moved = reference.replacen(row, "", 1).replacen(
        "| `timeout` | time from",
        &format!("{row}| `timeout` | time from"),
        1,
    );
    assert_eq!(
        misplaced(&moved),
        [
            format!("{from}: nothing of `cpus` of /$defs/Machine"),
            "## `expect`: `cpus` is no key of /$defs/Expect".into()
        ]
    );
    // A table of several kinds says which has the key.
    let other = reference.replacen("| `flavour` | `plan9` |", "| `flavour` | `disk` |", 1);
    assert_eq!(
        misplaced(&other),
        [
            format!("{DISKS}: nothing of `flavour` of /$defs/Plan9"),
            format!("{DISKS}: `flavour` is no key of /$defs/Disk")
        ]
    );
}

/// What is wrong with `value`, by the part of JSON Schema that the schema uses. Other keywords are an error.
fn faults(schema: &Value, root: &Value, value: &Value, at: &str) -> Vec<String> {
    let schema: &Map<String, Value> = match schema {
        Value::Object(schema) => schema,
        Value::Bool(true) => return vec![],
        other => panic!("{at}: {other} is no schema"),
    };
    let mut wrong = Vec::new();
    for (keyword, rule) in schema {
        let good = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let target = root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap();
                wrong.extend(faults(target, root, value, at));
                true
            }
            "anyOf" => {
                rule.as_array().unwrap().iter().any(|choice| faults(choice, root, value, at).is_empty())
            }
            "enum" => rule.as_array().unwrap().contains(value),
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_u64(),
                "boolean" => value.is_boolean(),
                other => panic!("{at}: type {other}"),
            },
            "minimum" => value.as_u64().is_none_or(|value| value >= rule.as_u64().unwrap()),
            "pattern" => match value {
                Value::String(text) => {
                    let machine = PikeVM::new(rule.as_str().unwrap()).unwrap();
                    machine.is_match(&mut machine.create_cache(), text)
                }
                _ => true,
            },
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    wrong.extend(faults(rule, root, item, &format!("{at}[{i}]")));
                }
                true
            }
            "required" => {
                rule.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some())
            }
            "properties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    match rule.get(key) {
                        Some(rule) => wrong.extend(faults(rule, root, value, &format!("{at}.{key}"))),
                        None => wrong.push(format!("{at}: unknown key {key}")),
                    }
                }
                true
            }
            "additionalProperties" => *rule == json!(false),
            other => panic!("{at}: keyword {other}"),
        };
        if !good {
            wrong.push(format!("{at}: {keyword} {rule} refuses {value}"));
        }
    }
    wrong
}

/// A recipe as an editor sees it: values with their types.
fn as_json(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

#[test]
fn the_recipes_that_come_along_agree_with_the_schema() {
    let schema = schema();
    for text in [include_str!("../../recipes/demo.yaml"), include_str!("../../recipes/xenoppix.yaml")] {
        assert_eq!(faults(&schema, &schema, &as_json(text), "recipe"), [""; 0]);
        assert!(Recipe::parse("x", text, &Room).is_ok());
    }
}

/// Added to the least recipe; the schema and the parser both take the first of each pair and refuse the other.
const PAIRS: &[(&str, &str)] = &[
    ("description: x", "description: [x]"),
    ("mirrors: ['http://a.example/']", "mirrors: ['ftp://a.example/']"),
    ("mirrors: []", "mirrors: x"),
    ("key: keys/x", "key: /keys/x"),
    ("boot: {xen: true, cmdline: quiet}", "boot: {xen: 1}"),
    ("boot: {xen: {memory: 1GiB}}", "boot: {xen: {memory: 1GB}}"),
    ("boot: {modules: [e1000]}", "boot: {modules: [e1000.ko]}"),
    ("boot: {entries: [linux]}", "boot: {entries: [windows]}"),
    ("boot: {timeout: 5}", "boot: {timeout: soon}"),
    ("blocks: {size: 4096, codec: zlib, level: 9}", "blocks: {codec: gzip}"),
    ("blocks: {size: 64KiB}", "blocks: {level: high}"),
    ("machine: {cpus: 4, memory: 4GiB}", "machine: {cpus: -1}"),
    ("expect: {timeout: 5min, lines: [x]}", "expect: {timeout: 5m}"),
    (
        "guests: [{name: g, debian: {}, memory: 64MiB, vcpus: 2, start: demand}]\nboot: {xen: true}",
        "guests: [{debian: {}}]\nboot: {xen: true}",
    ),
    ("guests: []", "guests: [{name: G, debian: {}}]\nboot: {xen: true}"),
];

#[test]
fn schema_and_parser_take_and_refuse_the_same_values() {
    let schema = schema();
    let judge = |lines: &str| {
        let text = format!("name: x\nhost: {{debian: {{}}, image: {{inode-size: 128}}}}\n{lines}\n");
        let by_schema = faults(&schema, &schema, &as_json(&text), "recipe").is_empty();
        (by_schema, Recipe::parse("x", &text, &Room).is_ok())
    };
    for (good, bad) in PAIRS {
        assert_eq!(judge(good), (true, true), "{good}");
        assert_eq!(judge(bad), (false, false), "{bad}");
    }
}
