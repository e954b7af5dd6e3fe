//! `imgfactory completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Arguments, Failure, Session, print};
use formats::report::Exit;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: imgfactory completions bash > ~/.local/share/bash-completion/completions/imgfactory"
)]
pub(super) struct Args {
    /// The shell to print a script for
    shell: Shell,
}

pub(super) fn run(args: Args, _: &Session) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "imgfactory", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
