//! What is wrong with a text: all of it, each with its place.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// A piece of a text, in bytes.
pub type Span = Range<usize>;

/// Something and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    pub span: Span,
    pub value: T,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub span: Span,
    pub what: String,
    /// What would be right there, in a few words beside the marked place. May be empty.
    pub instead: String,
    /// What else helps: all that is allowed, another place, a command. May be empty.
    pub help: String,
}

/// Findings that are shown in their places; a text with more is something else than it is taken for.
const MOST_SHOWN: usize = 200;

/// What is wrong with one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    name: String,
    text: String,
    found: Vec<Finding>,
}

impl Findings {
    /// Nothing yet. `name` is what people call the text: a path.
    pub fn new(name: &str, text: &str) -> Self {
        Findings { name: name.to_owned(), text: text.to_owned(), found: Vec::new() }
    }

    /// What people call the text.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds an error at a place: what is wrong, and what to write instead (empty if there is no remedy).
    pub fn add(&mut self, span: &Span, what: impl Into<String>, instead: impl Into<String>) {
        self.add_with_help(span, what, instead, String::new());
    }

    /// Adds one with further help.
    pub fn add_with_help(
        &mut self,
        span: &Span,
        what: impl Into<String>,
        instead: impl Into<String>,
        help: impl Into<String>,
    ) {
        let (what, instead, help) = (what.into(), instead.into(), help.into());
        self.found.push(Finding { span: span.clone(), what, instead, help });
    }

    /// The findings, in the order of their places.
    pub fn sorted(&self) -> Vec<&Finding> {
        let mut found: Vec<&Finding> = self.found.iter().collect();
        found.sort_by_key(|finding| finding.span.start);
        found
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// `Ok` when nothing was found.
    ///
    /// # Errors
    /// The findings themselves.
    pub fn none_or(self) -> Result<(), Findings> {
        if self.found.is_empty() { Ok(()) } else { Err(self) }
    }

    /// Line and column of a byte, both from 1; columns count characters.
    pub fn line_column(&self, byte: usize) -> (usize, usize) {
        let before = &self.text[..self.floor(byte)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// Words all findings, each with its line of the text, and ends with how many there are.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for finding in self.sorted().into_iter().take(MOST_SHOWN) {
            text.push_str(&self.render_one(finding, &renderer));
            text.push_str("\n\n");
        }
        if let Some(more @ 1..) = self.found.len().checked_sub(MOST_SHOWN) {
            text.push_str(&format!("and {more} more\n\n"));
        }
        let number = match self.found.len() {
            1 => "1 error".to_owned(),
            n => format!("{n} errors"),
        };
        text.push_str(&format!("{}: {number}", self.name));
        text
    }

    fn render_one(&self, finding: &Finding, renderer: &Renderer) -> String {
        let (line, column) = self.line_column(finding.span.start);
        let title = format!("{}:{line}:{column}: {}", self.name, finding.what);
        // Of the text only the line in question: what lies on others is not needed, and may be long.
        let start = self.floor(finding.span.start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
        let shown = self.text[line_start..line_end].trim_end();
        let from = (start - line_start).min(shown.len());
        let to = (self.floor(finding.span.end).clamp(start, line_end) - line_start).clamp(from, shown.len());
        let mut mark = AnnotationKind::Primary.span(from..to);
        if !finding.instead.is_empty() {
            mark = mark.label(&finding.instead);
        }
        let snippet = Snippet::source(shown).line_start(line).annotation(mark);
        let mut group = Level::ERROR.primary_title(&title).element(snippet);
        if !finding.help.is_empty() {
            group = group.element(Level::HELP.message(&finding.help));
        }
        renderer.render(&[group])
    }

    /// The nearest character boundary at or before a byte.
    fn floor(&self, byte: usize) -> usize {
        let mut at = byte.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Findings {}

/// The one of `known` that somebody who wrote `given` may have meant.
pub fn nearest<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let given = given.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&given, &name.to_lowercase());
    let (distance, name) = known.into_iter().map(|name| (distance(name), name)).min()?;
    // A third of the letters may be wrong; of very short words, one.
    (distance <= (name.chars().count() / 3).max(1)).then_some(name)
}

/// `did you mean ...?` for the nearest of `known`, or nothing.
pub fn did_you_mean<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(given, known).map_or(String::new(), |name| format!("did you mean `{name}`?"))
}

/// Names as people list them: "`a`, `b`, `c`".
pub fn listed<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_come_in_the_order_of_their_places_with_their_lines() {
        let text = "name: démo\nguests:\n  - nam: x\n";
        let mut findings = Findings::new("recipes/demo.yaml", text);
        findings.add_with_help(
            &(24..27),
            "unknown key `nam`",
            "did you mean `name`?",
            "allowed here: `name`",
        );
        findings.add(&(6..11), "`démo` is not a name", "");
        let said = "\
error: recipes/demo.yaml:1:7: `démo` is not a name
  |
1 | name: démo
  |       ^^^^

error: recipes/demo.yaml:3:5: unknown key `nam`
  |
3 |   - nam: x
  |     ^^^ did you mean `name`?
  |
  = help: allowed here: `name`

recipes/demo.yaml: 2 errors";
        assert_eq!(findings.to_string(), said);
        assert!(findings.render(true).contains("\x1b["));
    }

    #[test]
    fn any_span_of_any_text_can_be_shown() {
        for text in ["", "\n", "é", "a\r\nb", "\u{feff}x", "\t\0\u{1b}[31m", "日本語\n"] {
            for start in 0..=text.len() + 1 {
                for end in 0..=text.len() + 1 {
                    let mut findings = Findings::new("x", text);
                    findings.add(&(start..end), "bad", "good");
                    assert!(findings.to_string().ends_with("x: 1 error"));
                }
            }
        }
    }

    #[test]
    fn a_name_is_meant_when_few_letters_differ() {
        for (given, meant) in [
            ("desktp", Some("desktop")),
            ("Desktop", Some("desktop")),
            ("comon", Some("common")),
            ("server", None),
            ("xn", Some("xen")),
            ("", None),
        ] {
            assert_eq!(nearest(given, ["common", "desktop", "xen"]), meant, "{given}");
        }
    }
}
