//! `imgfactory schema`.

use super::{Failure, Session, print};
use crate::recipe;
use formats::report::Exit;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "An editor with a YAML language server checks and completes recipes that begin with\n\
                        # yaml-language-server: $schema=FILE"
)]
pub(super) struct Args {}

pub(super) fn run(Args {}: Args, _: &Session) -> Result<Exit, Failure> {
    print(&recipe::schema())?;
    Ok(Exit::Done)
}
