//! Rust files, parsed: which paths each of them names outside its tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::docs;

/// A path that a file names, resolved as far as its imports tell: `std::fs::read`, `crate::tree::Tree`.
pub struct Use {
    pub path: String,
    pub line: usize,
}

/// One file of a crate.
pub struct Source {
    pub krate: String,
    /// Path below the repository.
    pub file: String,
    /// The module that the file is: `["publish", "plan"]`; `["main"]` for a program's.
    pub module: Vec<String>,
    pub uses: Vec<Use>,
    /// Lines, those of tests in it among them.
    pub lines: usize,
    /// What is wrong with its documentation.
    pub undocumented: Vec<String>,
}

/// A crate of the workspace.
pub struct Crate {
    pub name: String,
    pub sources: Vec<Source>,
    /// The modules that `lib.rs` lists, in its order.
    pub rooms: Vec<String>,
}

impl Source {
    /// The room: the first module.
    pub fn room(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    /// The folder that the crate's rooms are in, with its slash.
    pub fn base(&self) -> &str {
        let end = self.file.find("src/").expect("sources are below src") + "src/".len();
        &self.file[..end]
    }

    pub fn parse(krate: &str, file: &str, module: &[&str], text: &str) -> Source {
        Self::new(krate, file, module.iter().map(|name| (*name).to_owned()).collect(), text).0
    }

    /// The source, and the modules it declares for tests only.
    fn new(krate: &str, file: &str, module: Vec<String>, text: &str) -> (Source, Vec<String>) {
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut collector =
            Collector { module: &module, uses: Vec::new(), imports: Vec::new(), tests: Vec::new() };
        collector.visit_file(&parsed);
        let Collector { mut uses, imports, tests, .. } = collector;
        // `Instant::now` after `use std::time::Instant` is `std::time::Instant::now`.
        for found in &mut uses {
            let (first, rest) = found.path.split_once("::").unwrap_or((&found.path, ""));
            if let Some((_, full)) = imports.iter().find(|(name, _)| name == first)
                && !rest.is_empty()
            {
                found.path = format!("{full}::{rest}");
            }
        }
        let lines = text.lines().count();
        let undocumented = docs::faults(text);
        let (krate, file) = (krate.to_owned(), file.to_owned());
        (Source { krate, file, module, uses, lines, undocumented }, tests)
    }
}

struct Collector<'a> {
    module: &'a [String],
    uses: Vec<Use>,
    /// Name in the file, and the path that it stands for.
    imports: Vec<(String, String)>,
    /// Modules of this file that are compiled for tests only.
    tests: Vec<String>,
}

/// Whether something is compiled for tests only.
pub fn for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Meta>().is_ok_and(|meta| meta.path().is_ident("test"))
    })
}

impl Collector<'_> {
    /// A path as it is written -> from the crate's root, if it goes up.
    fn add(&mut self, segments: &[String], line: usize) -> String {
        let mut module = self.module.to_vec();
        let mut rest = segments;
        let relative = matches!(rest.first().map(String::as_str), Some("super" | "self"));
        while let Some(first) = rest.first() {
            match first.as_str() {
                "self" => {}
                "super" => drop(module.pop()),
                _ => break,
            }
            rest = &rest[1..];
        }
        let path = if relative {
            std::iter::once("crate".to_owned())
                .chain(module)
                .chain(rest.iter().cloned())
                .collect::<Vec<_>>()
                .join("::")
        } else {
            segments.join("::")
        };
        self.uses.push(Use { path: path.clone(), line });
        path
    }

    fn flatten(&mut self, tree: &syn::UseTree, above: &[String]) {
        let with = |name: String| above.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            syn::UseTree::Path(path) => self.flatten(&path.tree, &with(path.ident.to_string())),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.flatten(item, above)),
            syn::UseTree::Glob(glob) => drop(self.add(above, glob.span().start().line)),
            syn::UseTree::Name(name) => {
                let own = name.ident.to_string();
                let path = if own == "self" { above.to_vec() } else { with(own) };
                let full = self.add(&path, name.span().start().line);
                if let Some(last) = path.last() {
                    self.imports.push((last.clone(), full));
                }
            }
            syn::UseTree::Rename(rename) => {
                let full = self.add(&with(rename.ident.to_string()), rename.span().start().line);
                self.imports.push((rename.rename.to_string(), full));
            }
        }
    }

    /// Paths in the words of a macro, which nobody has parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        let mut line = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 && !path.is_empty() {
                        self.add(&std::mem::take(&mut path), line);
                    }
                    line = ident.span().start().line;
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => colons += 1,
                other => {
                    if !path.is_empty() {
                        self.add(&std::mem::take(&mut path), line);
                    }
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        if !path.is_empty() {
            self.add(&path, line);
        }
    }
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes: &[syn::Attribute] = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Static(item) => &item.attrs,
            syn::Item::Macro(item) => &item.attrs,
            _ => &[],
        };
        if for_tests(attributes) {
            if let syn::Item::Mod(item) = item {
                self.tests.push(item.ident.to_string());
            }
            return;
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.flatten(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(&segments, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    // Links in documentation are no uses.
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}

/// Every crate of the workspace with its files, those of tests left out.
pub fn crates(root: &Path) -> Vec<Crate> {
    let mut folders: Vec<(String, PathBuf)> = vec![("imgfactory".into(), root.join("src"))];
    for entry in std::fs::read_dir(root.join("crates")).expect("crates/ is read") {
        let path = entry.expect("crates/ is read").path();
        let name = path.file_name().expect("a folder has a name").to_string_lossy().into_owned();
        folders.push((name, path.join("src")));
    }
    folders.sort();
    folders.iter().map(|(name, folder)| read(root, name, folder)).collect()
}

fn read(root: &Path, name: &str, folder: &Path) -> Crate {
    let mut sources = Vec::new();
    let mut tests = BTreeSet::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let path = entry.expect("sources are read").into_path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let module = module_of(folder, &path);
        let text = std::fs::read_to_string(&path).expect("a source file is read");
        let file = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
        let (source, declared) = Source::new(name, &file, module, &text);
        for test in declared {
            tests.insert(source.module.iter().cloned().chain([test]).collect::<Vec<_>>());
        }
        sources.push(source);
    }
    sources.retain(|source| !tests.iter().any(|test| source.module.starts_with(test)));
    let lib = std::fs::read_to_string(folder.join("lib.rs")).expect("a crate has a lib.rs");
    let rooms = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    Crate { name: name.to_owned(), sources, rooms: rooms.map(str::to_owned).collect() }
}

fn module_of(folder: &Path, file: &Path) -> Vec<String> {
    let below = file.strip_prefix(folder).expect("below the crate").with_extension("");
    let mut module: Vec<_> =
        below.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}
