//! The command line of `imgfetch`: words -> parsed arguments ([`args`]) -> one file a command.

mod args;
mod cache;
mod cat;
mod mount;
mod netselect;
mod source;
mod status;

use std::process::ExitCode;

use args::Command;

use crate::daemon;
use formats::report::{Exit, report};
use system::output::{print, print_error};

/// Runs `imgfetch` with this process's arguments.
pub fn main() -> ExitCode {
    let command = match args::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            print_error(&format!("imgfetch: {error}\nimgfetch: see `imgfetch --help`"));
            return Exit::Usage.into();
        }
    };
    let result = match command {
        Command::Text(text) => print(&text).map(|()| Exit::Done.into()).map_err(Into::into),
        Command::Mount(mount) => {
            daemon::start_log(mount.source.verbose);
            mount::run(mount)
        }
        Command::Cat(source) => {
            daemon::start_log(source.verbose);
            cat::run(&source).map(|()| Exit::Done.into())
        }
        Command::Cache(args) => {
            daemon::start_log(false);
            cache::run(&args).map(Into::into)
        }
        Command::Netselect(args) => {
            daemon::start_log(false);
            netselect::run(&args).map(|found| if found { Exit::Done } else { Exit::Failed }.into())
        }
        Command::Status { sockets, form, watch } => {
            status::run(&sockets, &form, watch).map(|()| Exit::Done.into())
        }
    };
    result.unwrap_or_else(|error| {
        print_error(&format!("imgfetch: {}", report(error.as_ref())));
        Exit::Failed.into()
    })
}

/// The error of a command; `main` prints it with its causes.
type Failure = Box<dyn std::error::Error>;
