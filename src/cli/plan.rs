//! `imgfactory plan RECIPE`.

use super::build::{Common, ENVIRONMENT, ResolvedArgs};
use super::diff::show;
use super::{Failure, Session};
use crate::pipeline;
use crate::publish::MirrorFiles;
use crate::repository::published::Published;
use formats::release::MirrorPath;
use formats::report::Exit;

#[derive(Debug, clap::Args)]
#[command(after_help = ENVIRONMENT)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let mut meant = ResolvedArgs::by(args.common, session)?;
    if meant.previous.is_none() {
        let own = Published::open(&meant.out, 1, &session.web)?;
        let there = own.read(&MirrorPath::Latest, MirrorPath::Latest.limit())?.is_some();
        meant.previous = there.then_some(own);
    }
    // Logs of tools stay there to find the cause of a failure.
    let room = meant.cache.join("plan").join(meant.recipe.name.as_str());
    let changes = pipeline::plan(&meant.request(&room, &[], session), &meant.out)?;
    show(&changes, args.json)
}
