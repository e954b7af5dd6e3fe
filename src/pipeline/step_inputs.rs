//! What a step depends on, as data: declared before the step runs, hashed, recorded in `build.json`.

use std::fmt::{self, Write as _};

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use formats::digest::Sha256;

/// First line of the text that is hashed. Another number, and no result of an earlier version is used.
const HEADING: &str = "imgfactory step inputs 1\n";

/// Named values in the order in which they were declared. A value is a text or a digest; it may be empty, where the
/// name says all (`package vim`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepInputs {
    values: Vec<(String, String)>,
}

impl StepInputs {
    /// Returns an empty set of inputs.
    pub fn new() -> Self {
        StepInputs::default()
    }

    /// Declares an input. A name that was declared before gets another line, so that nothing is lost.
    pub fn add(&mut self, name: impl Into<String>, value: impl fmt::Display) {
        let name = name.into();
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, earlier)) => {
                earlier.push('\n');
                // Writing to a String can't fail.
                let _ = write!(earlier, "{value}");
            }
            None => self.values.push((name, value.to_string())),
        }
    }

    /// As [`StepInputs::add`], for declarations in a row.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.add(name, value);
        self
    }

    /// The digest of some bytes as an input.
    #[must_use]
    pub fn with_bytes(self, name: impl Into<String>, bytes: &[u8]) -> Self {
        self.with(name, Sha256::of(bytes))
    }

    /// The value of an input.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns whether there are no inputs.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Name and value of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A line for each input: name and value.
    pub fn lines(&self) -> Vec<String> {
        self.iter().map(line).collect()
    }

    /// What names the result: the SHA-256 of the canonical text, a heading and a line for each input with name and value
    /// as JSON strings.
    pub fn hash(&self) -> Sha256 {
        let mut text = HEADING.to_owned();
        for (name, value) in self.iter() {
            let quoted = |text: &str| serde_json::Value::from(text).to_string();
            text.push_str(&format!("{} {}\n", quoted(name), quoted(value)));
        }
        Sha256::of(text.as_bytes())
    }

    /// What differs from the inputs of the previous build: `- ` before a line that it had, `+ ` before a new one.
    pub fn changes_since(&self, previous: &StepInputs) -> Vec<String> {
        let (old, new) = (previous.lines(), self.lines());
        let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
        let added = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
        gone.chain(added).collect()
    }
}

fn line((name, value): (&str, &str)) -> String {
    format!("{name} {}", value.replace('\n', ", ")).trim_end().to_owned()
}

impl<N: Into<String>, V: fmt::Display> FromIterator<(N, V)> for StepInputs {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(inputs: I) -> Self {
        inputs.into_iter().fold(StepInputs::new(), |all, (name, value)| all.with(name, value))
    }
}

/// An object, in order.
impl Serialize for StepInputs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// An object, or the list of lines that earlier versions wrote.
impl<'de> Deserialize<'de> for StepInputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = StepInputs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the inputs of a step")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StepInputs, A::Error> {
                let mut inputs = StepInputs::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    inputs.add(name, value);
                }
                Ok(inputs)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut lines: A) -> Result<StepInputs, A::Error> {
                let mut inputs = StepInputs::new();
                while let Some(line) = lines.next_element::<String>()? {
                    inputs.add(line, "");
                }
                Ok(inputs)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(values: &[(&str, &str)]) -> StepInputs {
        values.iter().copied().collect()
    }

    #[test]
    fn the_hash_tells_every_two_declarations_apart() {
        let all = [
            inputs(&[]),
            inputs(&[("", "")]),
            inputs(&[("suite", "trixie")]),
            inputs(&[("suite trixie", "")]),
            inputs(&[("suite", "trixie"), ("package vim", "")]),
            inputs(&[("package vim", ""), ("suite", "trixie")]),
            inputs(&[("suite", "trixie\n\"package vim\" \"\"")]),
        ];
        for (nth, one) in all.iter().enumerate() {
            for other in &all[nth + 1..] {
                assert_ne!(one.hash(), other.hash(), "{one:?} and {other:?}");
            }
        }
        // Of a text that is written down here: another hash means that every cache is lost.
        let text = "imgfactory step inputs 1\n\"suite\" \"trixie\"\n\"script \\\"a\\\"\" \"1\"\n";
        assert_eq!(inputs(&[("suite", "trixie"), ("script \"a\"", "1")]).hash(), Sha256::of(text.as_bytes()));
    }

    #[test]
    fn a_name_that_is_declared_again_gets_another_line() {
        let inputs = inputs(&[("source", "one"), ("epoch", "7"), ("source", "two")]);
        assert_eq!(inputs.get("source"), Some("one\ntwo"));
        assert_eq!(inputs.lines(), ["source one, two", "epoch 7"]);
    }

    #[test]
    fn inputs_are_an_object_in_order_and_the_lines_of_earlier_versions_are_read() {
        let declared = inputs(&[("suite", "trixie"), ("epoch", "7"), ("package vim", "")]);
        let text = serde_json::to_string(&declared).unwrap();
        assert_eq!(text, r#"{"suite":"trixie","epoch":"7","package vim":""}"#);
        assert_eq!(serde_json::from_str::<StepInputs>(&text).unwrap(), declared);

        let old: StepInputs = serde_json::from_str(r#"["suite trixie","epoch 6","package vim"]"#).unwrap();
        assert_eq!(declared.changes_since(&old), ["- epoch 6", "+ epoch 7"]);
    }
}
