//! The JSON schema of recipes, for editors.

use schemars::Schema;
use schemars::transform::{RecursiveTransform, Transform};
use serde_json::Value;

use super::raw;

/// The schema as text: which keys there are and what kind of value each takes, as
/// [`Recipe::parse`](super::Recipe::parse) has it.
pub fn schema() -> String {
    let mut schema = schemars::schema_for!(raw::RawRecipe);
    RecursiveTransform(without_null).transform(&mut schema);
    let mut text = serde_json::to_string_pretty(schema.as_value()).expect("a schema has only string keys");
    text.push('\n');
    text
}

/// Fields are optional here by being left out. schemars takes an `Option` to mean that `null` will do too.
fn without_null(schema: &mut Schema) {
    schema.remove("format");
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [kind] = &types[..] {
            let kind = kind.clone();
            schema.insert("type".into(), kind);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(only)] = &choices[..] {
            let only = only.clone();
            schema.remove("anyOf");
            for (key, value) in only {
                schema.insert(key, value);
            }
        }
    }
}
