//! Documentation in Rust files, parsed: what has none, and what says nothing.

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::source::for_tests;

/// What is wrong with the documentation of one file, as `line: what`.
pub fn faults(text: &str) -> Vec<String> {
    let file = syn::parse_file(text).expect("a source file is parsed");
    let mut reader = Reader { found: Vec::new(), public: true };
    if docs(&file.attrs).is_empty() {
        reader.found.push("1: the file does not begin with `//!`".into());
    }
    reader.visit_file(&file);
    reader.found
}

struct Reader {
    found: Vec<String>,
    /// Whether functions of the surrounding `impl` need documentation of their own: those of a trait have the trait's.
    public: bool,
}

/// The lines of a doc comment.
fn docs(attributes: &[syn::Attribute]) -> Vec<String> {
    let lines = attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).map(|attribute| {
        match &attribute.meta {
            syn::Meta::NameValue(syn::MetaNameValue {
                value: syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }),
                ..
            }) => text.value().trim().to_owned(),
            // `#[doc = include_str!(..)]`, `#[doc(hidden)]`.
            _ => "`made elsewhere`".to_owned(),
        }
    });
    lines.collect()
}

impl Reader {
    /// A comment of one or two words repeats the name, unless it quotes a name of a specification or gives a value.
    fn brief(&mut self, attributes: &[syn::Attribute], line: usize) {
        if let [only] = docs(attributes).as_slice()
            && only.split_whitespace().count() <= 2
            && !only.contains(['`', '[', '0'])
        {
            self.found.push(format!("{line}: `{only}` says nothing"));
        }
    }

    fn item(&mut self, public: bool, attributes: &[syn::Attribute], name: &syn::Ident) {
        let line = name.span().start().line;
        if public && docs(attributes).is_empty() {
            self.found.push(format!("{line}: `{name}` is public and has no documentation"));
        }
        self.brief(attributes, line);
    }
}

fn is_public(visibility: &syn::Visibility) -> bool {
    matches!(visibility, syn::Visibility::Public(_))
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        // Constants are values of a specification more often than not: their names may be all there is to say.
        let (visibility, attributes, name) = match item {
            syn::Item::Fn(item) => (&item.vis, &item.attrs, &item.sig.ident),
            syn::Item::Struct(item) => (&item.vis, &item.attrs, &item.ident),
            syn::Item::Enum(item) => (&item.vis, &item.attrs, &item.ident),
            syn::Item::Trait(item) => (&item.vis, &item.attrs, &item.ident),
            syn::Item::Type(item) => (&item.vis, &item.attrs, &item.ident),
            syn::Item::Mod(item) if for_tests(&item.attrs) => return,
            syn::Item::Impl(item) => {
                self.public = item.trait_.is_none();
                return visit::visit_item_impl(self, item);
            }
            _ => return,
        };
        if !for_tests(attributes) {
            self.item(is_public(visibility), attributes, name);
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !for_tests(&item.attrs) {
            self.item(self.public && is_public(&item.vis), &item.attrs, &item.sig.ident);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.item(true, &item.attrs, &item.sig.ident);
    }

    fn visit_variant(&mut self, item: &'ast syn::Variant) {
        self.brief(&item.attrs, item.ident.span().start().line);
        visit::visit_variant(self, item);
    }

    fn visit_field(&mut self, item: &'ast syn::Field) {
        self.brief(&item.attrs, item.span().end().line);
    }
}
