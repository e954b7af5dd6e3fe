//! `imgfactory schema`.

use super::{Failure, Session, print};
use crate::recipe;
use formats::report::Exit;

#[derive(Debug, clap::Args)]
#[command(after_help = "Save the output to a file and begin recipes with\n\
                  # yaml-language-server: $schema=FILE\n\
                  Editors with a YAML language server then check and complete them.")]
pub(super) struct Args {}

pub(super) fn run(Args {}: Args, _: &Session) -> Result<Exit, Failure> {
    print(&recipe::schema())?;
    Ok(Exit::Done)
}
