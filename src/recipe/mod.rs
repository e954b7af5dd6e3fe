//! Recipes: what users write, and what the rest of the program is told of it.
//!
//! ```text
//! text -> yaml (nodes with places) -> shape + raw (keys, kinds of values) -> check (meaning) -> types
//! ```
//!
//! No stage stops at a fault. Each leaves out what is wrong and goes on, so that [`Recipe::parse`] gives all
//! that is wrong with a recipe at once, each with its place ([`crate::yaml::findings`]). What has a type of [`types`] needs
//! no further check.

mod check;
mod choices;
mod guests;
pub mod lock;
mod raw;
mod schema;
pub mod target;
pub mod types;
mod values;
mod vocabulary;

pub use guests::netbsd::NETBSD_MIRRORS;
pub use schema::schema;
pub use types::*;
pub use values::{Seconds, Size};

pub use crate::yaml::{Findings, FromNode, node};

/// What lies around a recipe. The host implements it over a directory; tests over lists.
pub trait ProjectFiles {
    /// Names of the directories in `overlays/`, sorted.
    fn overlays(&self) -> Vec<String>;

    /// What is at a path below the project root.
    fn file(&self, path: &ProjectPath) -> ProjectFile;
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectFile {
    /// No regular file.
    Missing,
    /// A file that may not be executed.
    Plain,
    /// A file that may be executed.
    Executable,
}

impl Recipe {
    /// Reads and checks a recipe. `name` is what people call the text: its path.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(name: &str, text: &str, around: &dyn ProjectFiles) -> Result<Recipe, Findings> {
        let mut findings = Findings::new(name, text);
        let root = node::parse(text, &mut findings);
        let raw = root.and_then(|root| raw::RawRecipe::from_node(&root, &mut findings));
        let recipe = raw.and_then(|raw| check::check(raw, around, &mut findings));
        match (findings.none_or(), recipe) {
            (Ok(()), Some(recipe)) => Ok(recipe),
            (Err(findings), _) => Err(findings),
            (Ok(()), None) => unreachable!("every stage that gives nothing adds a finding"),
        }
    }
}

#[cfg(test)]
mod tests;
