//! `imgfactory check RECIPE`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Failure, Session, print, print_error};
use crate::guests::{self, GuestBuilder};
use crate::project::folder::Project;
use crate::project::overlay::{self, LoadOverlayError};
use crate::recipe::{Guest, HOST_IMAGE, HostName, HostSystem, OverlayName, Recipe, Start};
use crate::sys::spool::ContentFiles;
use crate::templates::context;
use formats::report::{Exit, size};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 1 if the recipe, its templates or its overlays have errors; all of them are shown."
)]
pub(super) struct Args {
    /// The recipe, a YAML file
    recipe: PathBuf,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let loaded = Project::load(&args.recipe);
    // What is wrong with templates is worth knowing together with what is wrong with the recipe.
    let wrong = Project::of(&args.recipe).check_templates()?;
    for error in &wrong {
        session.show(error);
    }
    let (project, recipe) = loaded?;
    let bad = wrong_overlays(&project, &recipe);
    for error in &bad {
        match error {
            // Several errors, with lines of the rules to show.
            LoadOverlayError::Rules(findings) => print_error(&findings.render(session.color)),
            error => session.show(error),
        }
    }
    if !wrong.is_empty() || !bad.is_empty() {
        return Ok(Exit::Failed);
    }
    if session.quiet {
        return Ok(Exit::Done);
    }
    print(&format!("{}: OK\n{}", args.recipe.display(), summary(&recipe)))?;
    Ok(Exit::Done)
}

/// Overlays of the recipe that a build would refuse: their rules, templates and files.
fn wrong_overlays(project: &Project, recipe: &Recipe) -> Vec<LoadOverlayError> {
    let host = &recipe.host;
    let mut used: Vec<_> = host.overlays.iter().map(|name| (name, HOST_IMAGE, &host.hostname)).collect();
    for guest in &recipe.guests {
        used.extend(guest.overlays.iter().map(|name| (name, guest.name.as_str(), &guest.hostname)));
    }
    // What is wrong with an overlay is wrong for each system that has it.
    let mut seen = BTreeSet::new();
    used.retain(|(name, ..)| seen.insert(name.to_string()));
    let load = |(name, image, hostname): (&OverlayName, &str, &HostName)| {
        let values = context! { name => recipe.name.as_str(), image, hostname => hostname.as_ref() };
        overlay::load(project, name.as_ref(), &values, &mut ContentFiles::new()).err()
    };
    used.into_iter().filter_map(load).collect()
}

/// What a build of the recipe will make.
fn summary(recipe: &Recipe) -> String {
    let host = &recipe.host;
    let mut text = format!("  {}  {}\n", recipe.name, recipe.description);
    let what = match &host.system {
        HostSystem::Debian(debian) => debian.summary(),
        HostSystem::Knoppix(knoppix, _) => knoppix.summary(),
    };
    text.push_str(&format!(
        "  image {HOST_IMAGE}: {}, {} free{}\n",
        what,
        size(host.image.free),
        overlays(&host.overlays)
    ));
    if !host.added_packages.is_empty() {
        let added = host.added_packages.iter().map(|added| format!("{} for {}", added.name, added.needed_by));
        text.push_str(&format!("    added to its packages: {}\n", added.collect::<Vec<_>>().join(", ")));
    }
    for guest in &recipe.guests {
        let start = match guest.start {
            Start::Boot => "started with the host",
            Start::Demand => "started on demand",
        };
        text.push_str(&format!(
            "  image {}: {}; a {} guest with {}, {start}\n",
            guest.name,
            contents(guest),
            guest.virt,
            size(guest.memory)
        ));
    }
    let entries: Vec<&str> = recipe.boot.entries.iter().map(|entry| entry.as_str()).collect();
    text.push_str(&format!("  {}.iso: boots {}\n", recipe.name, entries.join(", ")));
    let blocks = &recipe.blocks;
    text.push_str(&format!(
        "  blocks of {}, compressed by {} at level {}\n",
        size(blocks.size.get().into()),
        blocks.codec.kind(),
        blocks.codec.level()
    ));
    match &recipe.mirrors[..] {
        [] => text.push_str("  no mirrors in the recipe: give `mirror=URL` at boot\n"),
        mirrors => {
            let mirrors: Vec<&str> = mirrors.iter().map(AsRef::as_ref).collect();
            text.push_str(&format!("  fetched from {}\n", mirrors.join(", ")));
        }
    }
    text
}

/// What a guest's image holds.
fn contents(guest: &Guest) -> String {
    let what = guests::builder(&guest.kind).summary();
    if !guest.kind.is_tree() {
        return what;
    }
    format!("{what}, {} free{}", size(guest.image.free), overlays(&guest.overlays))
}

fn overlays(names: &[crate::recipe::OverlayName]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    if names.is_empty() { String::new() } else { format!(", overlays {}", names.join(", ")) }
}
