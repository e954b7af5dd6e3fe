//! YAML text -> nodes with places. The only file that knows the YAML parser.
//!
//! Types are not guessed: a scalar stays the text that was written (`no` is not false, `1.10` is not 1.1), and
//! whoever reads it knows what it is to be. That is why this builds on the parser's events and not on serde,
//! which moreover stops at the first fault.

use std::collections::{BTreeMap, HashMap};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle};

use super::findings::{Findings, Located, Span};

/// A YAML value, or what a key stands before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text, number or truth value, as written.
    Scalar(String),
    /// `- a` lines or `[a, b]`.
    List(Vec<YamlNode>),
    /// `key: value` lines or `{key: value}`, in their order, no key twice.
    Map(Vec<(Located<String>, YamlNode)>),
}

impl Value {
    /// What people call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "keys with values",
        }
    }
}

/// A value and its place.
pub type YamlNode = Located<Value>;

/// Nodes in a text, those that aliases repeat counted each time; so is a long scalar, for each [`PIECE`] of it.
const MAX_NODES: usize = 100_000;
/// Bytes of a scalar that count as a node.
const PIECE: usize = 256;
/// Depth of nesting. A recipe needs 6.
const MAX_DEPTH: usize = 32;

/// Reads a text of one document. What is wrong goes to `findings`; `None` if there is nothing to go on with.
pub fn parse(text: &str, findings: &mut Findings) -> Option<YamlNode> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let events = Parser::new_from_str_with_options(text, options);
    let mut reader = YamlReader { text, events, findings, anchors: BTreeMap::new(), nodes: 0 };
    reader.document().unwrap_or_default()
}

/// The text can't be read on; why is among the findings.
struct Stop;

struct YamlReader<'t, 'f> {
    text: &'t str,
    events: Parser<'t, granit_parser::StrInput<'t>>,
    findings: &'f mut Findings,
    anchors: BTreeMap<usize, YamlNode>,
    nodes: usize,
}

impl<'t> YamlReader<'t, '_> {
    /// The next event, or [`Stop`] at what is not YAML.
    fn next(&mut self) -> Result<(Event<'t>, Span), Stop> {
        match self.events.next() {
            Some(Ok((event, span))) => {
                let at = self.byte(span.start.byte_offset(), span.start.index());
                let end = self.byte(span.end.byte_offset(), span.end.index());
                Ok((event, at..end))
            }
            Some(Err(error)) => {
                let mark = error.marker();
                let at = self.byte(mark.byte_offset(), mark.index());
                // Of a tab the parser gives the place behind it.
                let at = if self.text[..at].ends_with('\t') { at - 1 } else { at };
                let (what, help) = worded(error.kind());
                self.findings.add_with_help(&(at..at + 1), what, "", help);
                Err(Stop)
            }
            None => Err(Stop),
        }
    }

    /// Byte of a place that the parser gives in bytes, or only in characters.
    fn byte(&self, bytes: Option<usize>, chars: usize) -> usize {
        bytes.unwrap_or_else(|| self.text.char_indices().nth(chars).map_or(self.text.len(), |(at, _)| at))
    }

    fn document(&mut self) -> Result<Option<YamlNode>, Stop> {
        let mut root = None;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => break,
                (Event::StreamStart | Event::DocumentEnd, _) => {}
                (Event::DocumentStart(..), span) => {
                    if root.is_some() {
                        self.findings.add(&span, "a second document", "a file must have only one document");
                        return Ok(root);
                    }
                }
                (event, span) => root = Some(self.node(event, span)?),
            }
        }
        if root.is_none() {
            self.findings.add(&(0..0), "the file is empty", "");
        }
        Ok(root)
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<YamlNode, Stop> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            self.findings.add(&span, format!("more than {MAX_NODES} values"), "");
            return Err(Stop);
        }
        let (value, anchor, tagged) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Scalar(text.into_owned()) };
                (value, anchor, tag.is_some())
            }
            Event::SequenceStart(_, anchor, tag) => (self.list()?, anchor, tag.is_some()),
            Event::MappingStart(_, anchor, tag) => (self.map()?, anchor, tag.is_some()),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    self.findings.add(&span, "an alias inside the value that it refers to", "");
                    return Ok(YamlNode { span, value: Value::Null });
                };
                // What is wrong in it is shown where it is written.
                let node = node.clone();
                self.nodes += count(&node);
                return Ok(node);
            }
            _ => (Value::Null, 0, false),
        };
        if tagged {
            self.findings.add(&span, "tags are not supported", "remove the word with `!`");
        }
        let node = YamlNode { span, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self) -> Result<Value, Stop> {
        let mut list = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(list)),
                (event, span) => list.push(self.node(event, span)?),
            }
        }
    }

    fn map(&mut self) -> Result<Value, Stop> {
        let mut map: Vec<(Located<String>, YamlNode)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Value::Map(map)),
                (event, span) => self.node(event, span)?,
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            let Value::Scalar(name) = key.value else {
                let help = if key.value == Value::Null { "" } else { "quote it if it is one" };
                self.findings.add(&key.span, "a key must be a word", help);
                continue;
            };
            if let Some(&first) = places.get(&name) {
                let (first, _) = &map[first];
                let (line, _) = self.findings.line_column(first.span.start);
                self.findings.add(
                    &key.span,
                    format!("`{name}` is given twice"),
                    format!("first in line {line}"),
                );
                continue;
            }
            places.insert(name.clone(), map.len());
            map.push((Located { span: key.span, value: name }, value));
        }
    }
}

fn count(node: &YamlNode) -> usize {
    1 + match &node.value {
        Value::Null => 0,
        Value::Scalar(text) => text.len() / PIECE,
        Value::List(list) => list.iter().map(count).sum(),
        Value::Map(map) => map.iter().map(|(_, value)| 1 + count(value)).sum(),
    }
}

/// The faults that people make, in their words; others in the parser's.
fn worded(kind: &ErrorKind) -> (String, &'static str) {
    let (what, help) = match kind {
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
            ("a tab where YAML wants spaces", "indent with spaces")
        }
        ErrorKind::UnknownAnchor => {
            ("an alias (`*name`) of nothing", "write `&name` before the value that it refers to")
        }
        ErrorKind::UnclosedFlowCollection { open: '[' } => ("a list that does not end", "a `]` is missing"),
        ErrorKind::UnclosedFlowCollection { .. } => ("`{` without its end", "a `}` is missing"),
        ErrorKind::UnclosedQuotedScalar | ErrorKind::InvalidQuotedScalarIndent => {
            ("a quoted text that does not end where it should", "is a closing quote missing above?")
        }
        ErrorKind::MappingValueNotAllowed => {
            ("a second `:`; expected a value", "quote the text if the colon is part of it")
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::ExpectedBlockMappingKey => (
            "this is neither a key with `:` nor part of the value above",
            "check the indentation and the colon",
        ),
        ErrorKind::InvalidIndentation => ("the indentation fits nothing above", ""),
        _ => return (format!("not YAML: {kind}"), ""),
    };
    (what.to_owned(), help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> (Option<YamlNode>, Vec<String>) {
        let mut findings = Findings::new("x", text);
        let node = parse(text, &mut findings);
        let said = findings
            .sorted()
            .iter()
            .map(|finding| {
                let (line, column) = findings.line_column(finding.span.start);
                let words = [&finding.what, &finding.instead, &finding.help];
                let words: Vec<&str> =
                    words.into_iter().filter(|word| !word.is_empty()).map(String::as_str).collect();
                format!("{line}:{column}: {}", words.join("; "))
            })
            .collect();
        (node, said)
    }

    /// A node without places, in short.
    fn short(node: &YamlNode) -> String {
        match &node.value {
            Value::Null => "~".into(),
            Value::Scalar(text) => format!("{text:?}"),
            Value::List(list) => format!("[{}]", list.iter().map(short).collect::<Vec<_>>().join(" ")),
            Value::Map(map) => {
                let entries: Vec<String> =
                    map.iter().map(|(key, value)| format!("{}:{}", key.value, short(value))).collect();
                format!("{{{}}}", entries.join(" "))
            }
        }
    }

    #[test]
    fn scalars_stay_the_text_that_was_written() {
        let text = "a: no\nb: 1.10\nc: 007\nd: ~\ne:\nf: ''\ng: \"x\\ty\"\nh: |\n  two\n  lines\n";
        let (node, said) = parsed(text);
        assert_eq!(said, [""; 0]);
        assert_eq!(
            short(&node.unwrap()),
            r#"{a:"no" b:"1.10" c:"007" d:~ e:~ f:"" g:"x\ty" h:"two\nlines\n"}"#
        );
    }

    #[test]
    fn places_are_those_of_the_text() {
        let text = "é: [a, bc]\nkey:\n  - x: 1\n";
        let node = parsed(text).0.unwrap();
        let Value::Map(map) = &node.value else { panic!("{node:?}") };
        let Value::List(list) = &map[0].1.value else { panic!("{map:?}") };
        assert_eq!(&text[list[1].span.clone()], "bc");
        assert_eq!(&text[map[1].0.span.clone()], "key");
        let Value::List(list) = &map[1].1.value else { panic!("{map:?}") };
        assert!(text[list[0].span.start..].starts_with("x: 1"), "{:?}", list[0].span);
    }

    #[test]
    fn an_alias_repeats_what_it_stands_for() {
        let (node, said) = parsed("a: &p [x, y]\nb: *p\n");
        assert_eq!(said, [""; 0]);
        assert_eq!(short(&node.unwrap()), r#"{a:["x" "y"] b:["x" "y"]}"#);
    }

    #[test]
    fn each_fault_has_its_place_and_words() {
        for (text, said) in [
            ("", "1:1: the file is empty"),
            ("# only this\n", "1:1: the file is empty"),
            (
                "a: 1\nb: 2\na: 3\na: 4\n",
                "3:1: `a` is given twice; first in line 1|4:1: `a` is given twice; first in line 1",
            ),
            ("a: 1\n---\nb: 2\n", "2:1: a second document; a file must have only one document"),
            ("a: !x 1\n", "1:7: tags are not supported; remove the word with `!`"),
            ("[a]: 1\n", "1:1: a key must be a word; quote it if it is one"),
            ("a: &a [*a]\n", "1:8: an alias inside the value that it refers to"),
            (
                "a: *b\n",
                "1:4: an alias (`*name`) of nothing; write `&name` before the value that it refers to",
            ),
            ("a:\n\tb: 1\n", "2:1: a tab where YAML wants spaces; indent with spaces"),
            ("a: [1, 2\n", "1:4: a list that does not end; a `]` is missing"),
            ("a: b: c\n", "1:5: a second `:`; expected a value; quote the text if the colon is part of it"),
            (
                "a: 'x\n",
                "2:1: a quoted text that does not end where it should; is a closing quote missing above?",
            ),
            ("a: {b: 1, c}}\n", "1:13: not YAML: misplaced bracket"),
            ("a: [1 b: 2\n", "1:4: a list that does not end; a `]` is missing"),
            (
                "a:\n  b: 1\n c: 2\n",
                "3:2: this is neither a key with `:` nor part of the value above; check the indentation and the colon",
            ),
            (
                "a: 1\nword\nb: 2\n",
                "2:1: this is neither a key with `:` nor part of the value above; check the indentation and the colon",
            ),
        ] {
            assert_eq!(parsed(text).1.join("|"), said, "{text:?}");
        }
    }

    #[test]
    fn a_bomb_of_aliases_is_refused_before_it_grows() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            let last = format!("*a{}", i - 1);
            text.push_str(&format!("a{i}: &a{i} [{}]\n", [last.as_str(); 10].join(", ")));
        }
        assert_eq!(parsed(&text).1, ["5:50: more than 100000 values"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\PC\\t\\n]{0,60}") {
            parsed(&text);
        }

        #[test]
        fn nothing_that_looks_like_yaml_makes_it_panic(
            text in "([a-c]:|- |\\[|\\]|\\{|\\}|,|\\n|  |&x |\\*x|!t |'|\"|\\||>|#|é|\\t|---\\n){0,40}"
        ) {
            let mut findings = Findings::new("x", &text);
            let node = parse(&text, &mut findings);
            prop_assert!(node.is_some() || findings.count() > 0);
            findings.to_string();
        }
    }
}
