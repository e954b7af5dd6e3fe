//! Nodes -> raw types: which keys there are, and what kind of value each takes.
//!
//! [`section!`] declares a struct once, and that one list of keys gives the reader, what is said of unknown
//! keys, and the JSON schema. Reading goes on after a fault: a value that is wrong is left out, and every
//! other fault is found as well.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::findings::{Findings, Located, did_you_mean, listed};
use super::node::{Value, YamlNode};

/// A type that a node can be read as.
pub trait FromNode: Sized {
    /// Reads `node`. `None` after at least one finding.
    fn from_node(node: &YamlNode, findings: &mut Findings) -> Option<Self>;
}

/// What a scalar is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong with it.
    pub what: String,
    /// What would be right.
    pub instead: String,
}

impl Wrong {
    /// Takes what is wrong, and what to write instead (empty if there is no remedy).
    pub fn new(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Wrong { what: what.into(), instead: instead.into() }
    }
}

/// A type written as a single word or line.
pub trait Scalar: Sized {
    /// What it is, with its article: `a size`.
    const KIND: &str;

    /// Reads the value at this place of the YAML document.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    fn read(text: &str) -> Result<Self, Wrong>;
}

impl<T: Scalar> FromNode for T {
    fn from_node(node: &YamlNode, findings: &mut Findings) -> Option<Self> {
        let Value::Scalar(text) = &node.value else {
            let found = node.value.kind();
            findings.add(&node.span, format!("expected {}, found {found}", T::KIND), "");
            return None;
        };
        match T::read(text) {
            Ok(value) => Some(value),
            Err(Wrong { what, instead }) => {
                findings.add(&node.span, what, instead);
                None
            }
        }
    }
}

impl<T: FromNode> FromNode for Vec<Located<T>> {
    fn from_node(node: &YamlNode, findings: &mut Findings) -> Option<Self> {
        let Value::List(list) = &node.value else {
            let found = node.value.kind();
            findings.add(
                &node.span,
                format!("expected a list, found {found}"),
                "write `[a, b]`, or lines with `- `",
            );
            return None;
        };
        // What is wrong in it was said; the rest is still looked at.
        Some(list.iter().filter_map(|node| located(node, findings)).collect())
    }
}

/// Reads a node and keeps its place.
pub fn located<T: FromNode>(node: &YamlNode, findings: &mut Findings) -> Option<Located<T>> {
    Some(Located { span: node.span.clone(), value: T::from_node(node, findings)? })
}

/// Something that can be switched off with `false`, or on with `true` or with keys of its own.
#[derive(Debug)]
pub enum Switch<T> {
    /// `false`.
    Off,
    On(T),
    /// What is wrong with it was said.
    Faulty,
}

impl<T: FromNode> FromNode for Switch<T> {
    fn from_node(node: &YamlNode, findings: &mut Findings) -> Option<Self> {
        let on = match &node.value {
            Value::Scalar(text) if text == "false" => return Some(Switch::Off),
            Value::Scalar(text) if text == "true" => {
                let empty = YamlNode { span: node.span.clone(), value: Value::Map(Vec::new()) };
                T::from_node(&empty, findings)
            }
            _ => T::from_node(node, findings),
        };
        Some(on.map_or(Switch::Faulty, Switch::On))
    }
}

/// A type that the JSON schema of recipes describes. schemars' own trait is not implemented for the types of
/// other crates, such as image names; this one can be.
pub trait HasSchema {
    /// Its name in the schema.
    fn schema_name() -> Cow<'static, str>;

    /// Whether the schema describes it wherever it is used, and not once by its name.
    fn is_inline() -> bool {
        false
    }

    /// Returns the JSON schema of the type.
    fn schema(generator: &mut SchemaGenerator) -> Schema;
}

impl<T: HasSchema> HasSchema for Vec<Located<T>> {
    fn schema_name() -> Cow<'static, str> {
        <Self as JsonSchema>::schema_name()
    }

    fn is_inline() -> bool {
        true
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        Self::json_schema(generator)
    }
}

impl<T: HasSchema> HasSchema for Switch<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}OrBoolean", T::schema_name()).into()
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let on = generator.subschema_for::<Located<T>>();
        schemars::json_schema!({ "anyOf": [{ "type": "boolean" }, on] })
    }
}

impl<T: HasSchema> JsonSchema for Located<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn inline_schema() -> bool {
        T::is_inline()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::schema(generator)
    }
}

/// The keys of a section while they are taken out.
pub struct Keys<'n, 'f> {
    node: &'n YamlNode,
    map: &'n [(Located<String>, YamlNode)],
    findings: &'f mut Findings,
    known: Vec<String>,
}

impl<'n, 'f> Keys<'n, 'f> {
    /// The keys of `node`. A key without a value has a section without keys: `xen:` means all defaults.
    pub fn open(node: &'n YamlNode, findings: &'f mut Findings) -> Option<Self> {
        let map: &[_] = match &node.value {
            Value::Map(map) => map,
            Value::Null => &[],
            other => {
                let found = other.kind();
                findings.add(
                    &node.span,
                    format!("expected keys with values, found {found}"),
                    "write `key: value`",
                );
                return None;
            }
        };
        Some(Keys { node, map, findings, known: Vec::new() })
    }

    /// Takes the value of the field `field`, whose key has `-` for `_`.
    pub fn take<T: FromNode>(&mut self, field: &str, required: bool) -> Option<Located<T>> {
        let key = field.replace('_', "-");
        let found = self.map.iter().find(|(name, _)| name.value == key);
        if found.is_none() && required {
            self.findings.add(&self.node.span, format!("no `{key}` here"), format!("`{key}` is needed"));
        }
        self.known.push(key);
        located(&found?.1, self.findings)
    }

    /// Reports the keys that nobody took. `kinds` are those of which a section has one, with what they are
    /// kinds of.
    pub fn close(self, kinds: Option<(&str, &[&str])>) {
        if let Some((of, names)) = kinds {
            let mut given = self.map.iter().filter(|(name, _)| names.contains(&name.value.as_str()));
            if let (Some((first, _)), Some((second, _))) = (given.next(), given.next()) {
                let what = format!("both `{}` and `{}`", first.value, second.value);
                self.findings.add(&second.span, what, format!("a {of} is of one kind"));
            }
        }
        let known = || self.known.iter().map(String::as_str);
        let mut kind_missing =
            kinds.filter(|(_, names)| !self.map.iter().any(|(name, _)| names.contains(&name.value.as_str())));
        for (name, value) in self.map.iter().filter(|(name, _)| !known().any(|known| known == name.value)) {
            let instead = did_you_mean(&name.value, known());
            match kind_missing {
                // A section of its own where the kind is missing: that is meant as one.
                Some((of, names))
                    if instead.is_empty() && matches!(value.value, Value::Map(_) | Value::Null) =>
                {
                    let what = format!("unknown kind of {of} `{}`", name.value);
                    self.findings.add(
                        &name.span,
                        what,
                        format!("kinds that exist: {}", listed(names.iter().copied())),
                    );
                    kind_missing = None;
                }
                _ => {
                    let what = format!("unknown key `{}`", name.value);
                    let allowed = format!("allowed here: {}", listed(known()));
                    self.findings.add_with_help(&name.span, what, instead, allowed);
                }
            }
        }
        if let Some((of, names)) = kind_missing {
            let what = format!("the kind of {of} is missing");
            self.findings.add(
                &self.node.span,
                what,
                format!("kinds that exist: {}", listed(names.iter().copied())),
            );
        }
    }
}

/// Declares a section of the recipe: a struct of optional, located fields, its reader, and its JSON schema.
/// The section has the name after `as` in that schema. `name (required): T` must be there; `one of "what" {names}` after the section's name says which keys are
/// kinds, of which there must be one.
macro_rules! section {
    ($(
        $(#[$doc:meta])*
        pub struct $Name:ident as $schema_name:tt $(one of $of:literal { $($kind:ident),* })? {
            $( $(#[$field_doc:meta])* $field:ident $(($required:ident))? : $ty:ty, )*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, schemars::JsonSchema)]
        #[schemars(rename = $schema_name, rename_all = "kebab-case", deny_unknown_fields)]
        pub struct $Name {
            $( $(#[$field_doc])* $(#[schemars($required)])? pub $field: Option<$crate::yaml::findings::Located<$ty>>, )*
        }

        impl $crate::yaml::shape::HasSchema for $Name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                <Self as schemars::JsonSchema>::schema_name()
            }

            fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                <Self as schemars::JsonSchema>::json_schema(generator)
            }
        }

        impl $crate::yaml::shape::FromNode for $Name {
            fn from_node(
                node: &$crate::yaml::node::YamlNode,
                findings: &mut $crate::yaml::findings::Findings,
            ) -> Option<Self> {
                let mut keys = $crate::yaml::shape::Keys::open(node, findings)?;
                let section = $Name {
                    $( $field: keys.take(stringify!($field), section!(@ $($required)?)), )*
                };
                #[allow(unused_mut, unused_assignments)]
                let mut kinds: Option<(&str, &[&str])> = None;
                $( kinds = Some(($of, &[$(stringify!($kind)),*])); )?
                keys.close(kinds);
                Some(section)
            }
        }
    )*};
    (@ required) => { true };
    (@) => { false };
}

/// Declares an enum that is written as one of some words.
macro_rules! choice {
    ($(
        $(#[$doc:meta])*
        pub enum $Name:ident as $kind:literal {
            $( $(#[$variant_doc:meta])* $Variant:ident = $word:literal, )*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $Name {
            $( $(#[$variant_doc])* $Variant, )*
        }

        impl $Name {
            /// The words, in the order of the variants.
            pub const WORDS: &[&str] = &[$($word),*];

            /// The word that it is written as.
            pub fn as_str(self) -> &'static str {
                match self { $( $Name::$Variant => $word, )* }
            }
        }

        impl std::fmt::Display for $Name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::yaml::shape::Scalar for $Name {
            const KIND: &str = $kind;

            fn read(text: &str) -> Result<Self, $crate::yaml::shape::Wrong> {
                match text {
                    $( $word => Ok($Name::$Variant), )*
                    _ => Err($crate::yaml::shape::not_one_of(text, $kind, Self::WORDS)),
                }
            }
        }

        impl $crate::yaml::shape::HasSchema for $Name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($Name).into()
            }

            fn schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "enum": [$($word),*] })
            }
        }
    )*};
}

pub(crate) use {choice, section};

/// What is said of a word that is none of `words`.
pub fn not_one_of(text: &str, kind: &str, words: &[&str]) -> Wrong {
    let instead = did_you_mean(text, words.iter().copied());
    let words = listed(words.iter().copied());
    let allowed =
        if instead.is_empty() { format!("allowed: {words}") } else { format!("{instead} allowed: {words}") };
    Wrong::new(format!("`{text}` is not {kind}"), allowed)
}
