//! `imgfactory diff OLD NEW`.

use std::path::Path;

use super::tree::ReleaseTree;
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
A release is given as the output directory of a build, a mirror tree, or the URL of a mirror. The newest release \
there is compared; @SERIAL selects another one.

Example: imgfactory diff http://mirror.example/demo/@41 out/demo")]
pub(super) struct Args {
    /// The old release
    #[arg(value_name = "DIR|URL[@SERIAL]")]
    old: String,
    /// The new release
    #[arg(value_name = "DIR|URL[@SERIAL]")]
    new: String,
    /// Public key of the releases: a file or base64; may be repeated [default: the build's]
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let sides = [&args.old, &args.new].map(|side| ReleaseArg::parse(side));
    let [old, new] = &sides;
    let open = |side: &ReleaseArg<'_>| Published::open(Path::new(side.place), 1, &session.web);
    let (before, after) = (open(old)?, open(new)?);
    let keys = keys(&args.key, [(old.place, &before), (new.place, &after)])?;
    let read = |side: &ReleaseArg<'_>, files: &dyn MirrorFiles| {
        Publication::read(files, &keys, side.serial).map_err(|error| Failure::at(side.place, error))
    };
    let (old, new) = (read(old, &before)?, read(new, &Either(&after, &before))?);
    if old.name != new.name {
        let (old, new) = (old.name, new.name);
        return Err(Failure::Usage(format!(
            "`{old}` and `{new}` are different distributions; give two releases of the same one"
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

struct ReleaseArg<'a> {
    place: &'a str,
    serial: Option<Serial>,
}

impl<'a> ReleaseArg<'a> {
    fn parse(text: &'a str) -> Self {
        let split = text.rsplit_once('@').and_then(|(place, serial)| Some((place, serial.parse().ok()?)));
        match split.and_then(|(place, serial)| Some((place, Serial::new(serial)?))) {
            Some((place, serial)) => ReleaseArg { place, serial: Some(serial) },
            None => ReleaseArg { place: text, serial: None },
        }
    }
}

fn keys(given: &[String], sides: [(&str, &Published); 2]) -> Result<TrustedKeys, Failure> {
    if !given.is_empty() {
        return Ok(trusted(given)?);
    }
    let mut of_builds = Vec::new();
    // Keys are taken from local builds only: a mirror can't prove its own.
    for (place, _) in sides.iter().filter(|(_, side)| matches!(side, Published::Directory(_))) {
        of_builds.extend(ReleaseTree::find(Path::new(place))?.publish.keys);
    }
    if of_builds.is_empty() {
        return Err(Failure::Usage(
            "neither directory is a build's output, which records the public key; give it with --key".into(),
        ));
    }
    Ok(trusted(&of_builds)?)
}
