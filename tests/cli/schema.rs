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

/// Where each section of the schema is, and where a key that nobody knows makes the parser list its keys.
const SECTIONS: &[(&str, &str)] = &[
    ("", "zzz: 1"),
    ("/properties/host", "host: {zzz: 1}"),
    ("/$defs/Guest", "guests: [{zzz: 1}]"),
    ("/$defs/NetBsd", "guests: [{netbsd: {zzz: 1}}]"),
    ("/$defs/Plan9", "guests: [{plan9: {zzz: 1}}]"),
    ("/$defs/Disk", "guests: [{disk: {zzz: 1}}]"),
    ("/$defs/Knoppix", "guests: [{knoppix: {zzz: 1}}]"),
    ("/$defs/Debian", "host: {debian: {zzz: 1}}"),
    ("/$defs/DebianSource", "host: {debian: {sources: [{zzz: 1}]}}"),
    ("/$defs/Image", "host: {image: {zzz: 1}}"),
    ("/$defs/Boot", "boot: {zzz: 1}"),
    ("/$defs/Xen", "boot: {xen: {zzz: 1}}"),
    ("/$defs/Blocks", "blocks: {zzz: 1}"),
    ("/$defs/Machine", "machine: {zzz: 1}"),
    ("/$defs/Expect", "expect: {zzz: 1}"),
    ("/$defs/Publish", "publish: {zzz: 1}"),
    ("/$defs/PublishTarget", "publish: {targets: [{zzz: 1}]}"),
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
    for (name, text) in SECTIONS {
        let section = schema.pointer(name).unwrap();
        assert_eq!(section["additionalProperties"], false, "{name}");
        let keys: BTreeSet<String> = section["properties"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, keys_of_parser(text), "{name}");
        for (key, property) in section["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "{name}.{key} is not described");
        }
    }
}

#[test]
fn the_reference_describes_every_key() {
    let reference = include_str!("../../docs/recipe.md");
    for (name, text) in SECTIONS {
        for key in keys_of_parser(text) {
            assert!(
                reference.contains(&format!("`{key}`")),
                "docs/recipe.md says nothing of `{key}` of {name}"
            );
        }
    }
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
