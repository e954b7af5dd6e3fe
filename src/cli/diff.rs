//! `imgfactory diff OLD NEW`.

use std::path::Path;

use super::tree::Tree;
use super::{Failure, Session, print};
use crate::pipeline::changes::{Publication, ReleaseChanges};
use crate::publish::{Either, MirrorFiles};
use crate::repository::mirror::trusted;
use crate::repository::published::Published;
use formats::names::Serial;
use formats::release::TrustedKeys;
use formats::report::Exit;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A release is a build's output directory, a mirror's tree or its URL, and stands for what `latest` names there;
with @SERIAL after it, for that release: imgfactory diff http://mirror.example/demo/@41 out/demo")]
pub(super) struct Args {
    /// The release before
    #[arg(value_name = "DIR|URL[@SERIAL]")]
    old: String,
    /// The release after
    #[arg(value_name = "DIR|URL[@SERIAL]")]
    new: String,
    /// Public key that signs them: a file, or base64 [default: the build's]
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, _: &Session) -> Result<Exit, Failure> {
    let sides = [&args.old, &args.new].map(|side| Side::parse(side));
    let [old, new] = &sides;
    let (before, after) =
        (Published::open(Path::new(old.place), 1)?, Published::open(Path::new(new.place), 1)?);
    let keys = keys(&args.key, [(old.place, &before), (new.place, &after)])?;
    let read = |side: &Side<'_>, files: &dyn MirrorFiles| {
        Publication::read(files, &keys, side.serial).map_err(|error| Failure::at(side.place, error))
    };
    let (old, new) = (read(old, &before)?, read(new, &Either(&after, &before))?);
    if old.name != new.name {
        let (old, new) = (old.name, new.name);
        return Err(Failure::Usage(format!(
            "`{old}` and `{new}` are two distributions; give two releases of one"
        )));
    }
    show(&ReleaseChanges::between(Some(&old), &new), args.json)
}

/// Prints changes, for people or for programs.
pub(super) fn show(changes: &ReleaseChanges, json: bool) -> Result<Exit, Failure> {
    if json {
        let text = serde_json::to_string_pretty(changes).expect("numbers and text");
        print(&format!("{text}\n"))?;
    } else {
        print(&changes.text())?;
    }
    Ok(Exit::Done)
}

struct Side<'a> {
    place: &'a str,
    serial: Option<Serial>,
}

impl<'a> Side<'a> {
    fn parse(text: &'a str) -> Self {
        let split = text.rsplit_once('@').and_then(|(place, serial)| Some((place, serial.parse().ok()?)));
        match split.and_then(|(place, serial)| Some((place, Serial::new(serial)?))) {
            Some((place, serial)) => Side { place, serial: Some(serial) },
            None => Side { place: text, serial: None },
        }
    }
}

fn keys(given: &[String], sides: [(&str, &Published); 2]) -> Result<TrustedKeys, Failure> {
    if !given.is_empty() {
        return Ok(trusted(given)?);
    }
    let mut of_builds = Vec::new();
    // A mirror says nothing of its keys that could be believed.
    for (place, _) in sides.iter().filter(|(_, side)| matches!(side, Published::Directory(_))) {
        of_builds.extend(Tree::find(Path::new(place))?.publish.keys);
    }
    if of_builds.is_empty() {
        return Err(Failure::Usage(
            "no build there that says whose releases these are; give the public key with --key".into(),
        ));
    }
    Ok(trusted(&of_builds)?)
}
