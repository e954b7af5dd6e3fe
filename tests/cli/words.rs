//! What the programs print for people, on two pages: tests/goldens/help.txt and messages.txt. `BLESS=1` rewrites them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::programs;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn assert_golden(name: &str, found: &str) {
    let golden = root().join("tests/goldens").join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&golden, found).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    let differs = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    assert!(
        expected == found,
        "tests/goldens/{name} is out of date; first difference: {differs:#?}\nRewrite it with BLESS=1 and read \
         what changed."
    );
}

/// Words that help and messages do not use. docs/glossary.md has the words to use instead.
const RIDDLES: [&str; 7] =
    ["nobody", "somebody", "whoever", "anew", "of others", "the release before", "what lacks"];

fn assert_plain(text: &str) {
    for line in text.lines() {
        for riddle in RIDDLES {
            assert!(!line.to_ascii_lowercase().contains(riddle), "`{riddle}` in: {line}");
        }
    }
}

// Help.

fn help(program: &Path, command: &str) -> String {
    let output = Command::new(program)
        .args(command.split_whitespace())
        .arg("--help")
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{command} --help: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The commands that a help lists: lines of two spaces, a name, two spaces, a sentence.
fn listed(help: &str) -> impl Iterator<Item = &str> {
    let lines = help.lines().take_while(|line| !line.starts_with("Options:"));
    let names =
        lines.filter_map(|line| line.strip_prefix("  ")?.split_once("  ")).map(|(name, _)| name.trim());
    names.filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()) && *name != "help")
}

#[test]
fn the_help_of_every_command_is_on_one_page() {
    let imgfactory = programs::imgfactory();
    let top = help(&imgfactory, "");
    let mut commands: BTreeSet<String> = BTreeSet::new();
    for name in listed(&top) {
        commands.extend(name.split(' ').next().map(str::to_owned));
        commands.insert(name.to_owned());
        let nested = help(&imgfactory, name);
        // Only what follows this heading are commands; all else is indented as they are.
        if let Some((_, nested)) = nested.split_once("\nCommands:\n") {
            commands.extend(listed(nested).map(|sub| format!("{name} {sub}")));
        }
    }
    assert!(commands.len() > 30, "{commands:?}");
    let mut page = format!("$ imgfactory --help\n{top}");
    for command in &commands {
        let _ = write!(page, "\n\n$ imgfactory {command} --help\n{}", help(&imgfactory, command));
    }
    let _ = write!(page, "\n\n$ imgfetch --help\n{}", help(&programs::imgfetch(), ""));
    assert_plain(&page);
    assert_golden("help.txt", &page);
}

// Messages.

/// Collects the messages of a file: where each is used, and its text.
#[derive(Default)]
struct Messages {
    /// Whether all texts are for people: those of the commands are.
    all: bool,
    found: Vec<(String, String)>,
    /// Modules in files of their own that are compiled for tests only.
    tests: Vec<String>,
}

/// The string literals, also those within groups.
fn texts(tokens: TokenStream) -> Vec<String> {
    let mut found = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => found.extend(texts(group.stream())),
            TokenTree::Literal(literal) => {
                if let Ok(syn::Lit::Str(text)) = syn::parse_str(&literal.to_string()) {
                    found.push(text.value());
                }
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
    found
}

/// Whether there are two words or more besides the values; what is less says nothing by itself.
fn is_sentence(text: &str) -> bool {
    let mut depth = 0;
    let plain: String = text
        .chars()
        .map(|c| {
            depth += i32::from(c == '{');
            let shown = if depth > 0 { ' ' } else { c };
            depth -= i32::from(c == '}');
            shown
        })
        .collect();
    plain.split_whitespace().filter(|word| word.contains(|c: char| c.is_ascii_alphabetic())).count() > 1
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

impl Messages {
    fn errors(&mut self, place: &str, attributes: &[syn::Attribute]) {
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("error")) {
            if let Ok(list) = attribute.meta.require_list() {
                self.add(place, list.tokens.clone());
            }
        }
    }

    fn add(&mut self, place: &str, tokens: TokenStream) {
        for text in texts(tokens) {
            if is_sentence(&text) {
                self.found.push((place.to_owned(), text.replace('\n', "\\n")));
            }
        }
    }
}

/// Functions whose texts people read, by the last two names of their paths.
const CALLS: [&str; 8] = [
    "print_error",
    "Failure::Usage",
    "Failure::Failed",
    "RemoteError::new",
    "Wrong::new",
    "FileError::new",
    "Remedy::Do",
    "refused",
];
/// Methods whose texts people read: of progress, of a recipe's errors, of the client's choice of a release.
const METHODS: [&str; 6] = ["say", "start", "add", "add_with_help", "warn", "detail"];
const MACROS: [&str; 5] = ["error", "warn", "info", "debug", "detail"];

fn last(path: &syn::Path, names: usize) -> String {
    let all: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    all[all.len().saturating_sub(names)..].join("::")
}

impl<'ast> Visit<'ast> for Messages {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        } else if item.content.is_none() {
            self.tests.push(item.ident.to_string());
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        for variant in &item.variants {
            self.errors(&format!("{}::{}", item.ident, variant.ident), &variant.attrs);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.errors(&item.ident.to_string(), &item.attrs);
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(path) = &*call.func {
            let name = last(&path.path, 2);
            if CALLS.contains(&name.as_str()) {
                call.args.iter().for_each(|argument| self.literals(&name, argument));
                return;
            }
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let name = call.method.to_string();
        if METHODS.contains(&name.as_str()) {
            call.args.iter().for_each(|argument| self.literals(&name, argument));
            return self.visit_expr(&call.receiver);
        }
        if name == "expect" {
            return self.visit_expr(&call.receiver);
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let name = last(&call.path, 1);
        if MACROS.contains(&name.as_str()) {
            self.add(&name, call.tokens.clone());
        } else if self.all && !name.starts_with("assert") {
            self.add("text", call.tokens.clone());
        }
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        // Help has a page of its own.
        if item.ident != "HELP" && item.ident != "ENVIRONMENT" {
            visit::visit_item_const(self, item);
        }
    }

    fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
        if self.all {
            self.add("text", TokenStream::from(TokenTree::from(literal.token())));
        }
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {
        // Documentation and help.
    }
}

impl Messages {
    /// All texts within an expression.
    fn literals(&mut self, place: &str, expression: &syn::Expr) {
        struct Literals<'m>(&'m mut Messages, &'m str);
        impl<'ast> Visit<'ast> for Literals<'_> {
            fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
                // Help has a page of its own.
                if item.ident != "HELP" && item.ident != "ENVIRONMENT" {
                    visit::visit_item_const(self, item);
                }
            }

            fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
                self.0.add(self.1, TokenStream::from(TokenTree::from(literal.token())));
            }
            fn visit_macro(&mut self, call: &'ast syn::Macro) {
                self.0.add(self.1, call.tokens.clone());
            }
        }
        Literals(self, place).visit_expr(expression);
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_error_and_progress_line_is_on_one_page() {
    let mut files = Vec::new();
    for dir in ["crates/formats/src", "crates/imgfetch/src", "crates/system/src", "src"] {
        sources(&root().join(dir), &mut files);
    }
    files.sort();
    let mut pages = Vec::new();
    let mut tests = Vec::new();
    for file in files {
        let parsed = syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap();
        let mut messages = Messages { all: file.iter().any(|part| part == "cli"), ..Messages::default() };
        messages.visit_file(&parsed);
        let is_root = ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| file.ends_with(name));
        let below = if is_root { file.with_file_name("") } else { file.with_extension("") };
        for name in messages.tests {
            tests.extend([below.join(&name).with_extension("rs"), below.join(&name)]);
        }
        pages.push((file, messages.found));
    }
    pages.retain(|(file, found)| !found.is_empty() && !tests.iter().any(|test| file.starts_with(test)));
    let mut page = String::new();
    for (file, found) in &pages {
        let _ = writeln!(
            page,
            "{}{}",
            if page.is_empty() { "" } else { "\n" },
            file.strip_prefix(root()).unwrap().display()
        );
        let width = found.iter().map(|(place, _)| place.len()).max().unwrap_or(0);
        for (place, text) in found {
            let _ = writeln!(page, "  {place:width$}  {text}");
        }
    }
    assert!(page.lines().count() > 500, "only {} lines", page.lines().count());
    assert_plain(&page);
    assert_golden("messages.txt", &page);
}
