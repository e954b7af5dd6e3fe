//! The command line of `imgfactory`: raw arguments, as clap reads them, then resolved arguments.
//!
//! One file a command. Each has its raw `Args` and a `run`, which first resolves them (wrong use ends there, with
//! exit code 2) and then calls the library. To add a command: a file with those two, a line in [`Command`], a line
//! in [`Command::run`], its group in [`help::GROUPS`].

mod build;
mod check;
mod completions;
mod diff;
mod doctor;
mod gc;
mod help;
mod image;
mod index;
mod iso;
mod keygen;
mod lock;
mod machine;
mod mirror;
mod output;
mod plan;
mod publish;
mod releases;
mod profile;
mod run;
mod schema;
mod serve;
mod test;
mod tree;
mod why;

use std::path::PathBuf;

use clap::{ArgAction, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use output::{Failure, Session};
pub use system::output::{print, print_error};

use crate::sys::signals;
use formats::report::Exit;

/// Builds live distributions that boot from a few megabytes and fetch the rest over HTTP, block by block.
#[derive(Debug, Parser)]
#[command(name = "imgfactory", version, max_term_width = 100, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command has.
#[derive(Debug, clap::Args)]
struct Global {
    /// Print only errors and results
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    quiet: bool,
    /// Print more messages; -vv prints all
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    verbose: u8,
    /// When to colour messages: auto is on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Global options")]
    color: When,
    /// Certificate authorities (PEM) for https, in addition to the system's [SSL_CERT_FILE]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    ca: Option<PathBuf>,
}

/// `--color`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a recipe: trees, images, blocks, signed release, ISO
    Build(build::Args),
    /// Check a recipe: show all its errors, or what a build would make
    Check(check::Args),
    /// Print a shell script that completes commands and options
    Completions(completions::Args),
    /// Show what changed between two releases, and why
    Diff(diff::Args),
    /// Check this computer for missing programs, permissions and space
    Doctor(doctor::Args),
    /// Remove files from a target that no retained release needs
    Gc(gc::Args),
    /// Create ext2 images, and list and read what is in them
    Image(image::Args),
    /// Show an index; convert it to and from a plain block list
    Index(index::Args),
    /// Make an ISO that carries blocks and boots without a network
    Iso(iso::Args),
    /// Create a key pair for signing releases
    Keygen(keygen::Args),
    /// Record the checksums of third-party files that a recipe uses
    Lock(lock::Args),
    /// Copy mirrors, check them, and compare them with each other
    Mirror(mirror::Args),
    /// Show what a build would change in blocks, bytes and packages
    Plan(plan::Args),
    /// Boot a build and record what it reads, for clients to prefetch
    Profile(profile::Args),
    /// Send a release to its publish targets
    Publish(publish::Args),
    /// Sign `latest` again with a later expiry date
    Refresh(releases::RefreshArgs),
    /// List the releases of a mirror
    Releases(releases::Args),
    /// Make a new release that restores the state of an older one
    Rollback(releases::RollbackArgs),
    /// Replace the signing key: the old key signs the new one
    Rotate(releases::RotateArgs),
    /// Boot a build in a virtual machine, using this terminal
    Run(run::Args),
    /// Print the JSON schema of recipes, for editors
    Schema(schema::Args),
    /// Serve a mirror tree over HTTP
    Serve(serve::Args),
    /// Boot a build in a virtual machine and check its console output
    Test(test::Args),
    /// Show which changed inputs made a step of the build run again
    Why(why::Args),
}

impl Command {
    fn run(self, session: &Session) -> Result<Exit, Failure> {
        match self {
            Command::Build(args) => build::run(args, session),
            Command::Check(args) => check::run(args, session),
            Command::Completions(args) => completions::run(args, session),
            Command::Diff(args) => diff::run(args, session),
            Command::Doctor(args) => doctor::run(args, session),
            Command::Gc(args) => gc::run(args, session),
            Command::Image(args) => image::run(args, session),
            Command::Index(args) => index::run(args, session),
            Command::Iso(args) => iso::run(args, session),
            Command::Keygen(args) => keygen::run(args, session),
            Command::Lock(args) => lock::run(args, session),
            Command::Mirror(args) => mirror::run(args, session),
            Command::Plan(args) => plan::run(args, session),
            Command::Profile(args) => profile::run(args, session),
            Command::Publish(args) => publish::run(args, session),
            Command::Refresh(args) => releases::refresh(args, session),
            Command::Releases(args) => releases::run(args, session),
            Command::Rollback(args) => releases::rollback(args, session),
            Command::Rotate(args) => releases::rotate(args, session),
            Command::Run(args) => run::run(args, session),
            Command::Schema(args) => schema::run(args, session),
            Command::Serve(args) => serve::run(args, session),
            Command::Test(args) => test::run(args, session),
            Command::Why(args) => why::run(args, session),
        }
    }
}

/// Parses the command line, runs the command and prints the error if it fails.
pub fn main() -> Exit {
    let mut command = help::command();
    let parsed = command.try_get_matches_from_mut(std::env::args_os()).and_then(|matches| {
        Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    });
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => {
            // `--help` and `--version` are such errors too. If the terminal is gone, there is no place to print to.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let session = Session::new(&arguments.global);
    if let Err(error) = signals::install() {
        return session.fail(&Failure::from(error));
    }
    let exit = match arguments.command.run(&session) {
        Ok(exit) => exit,
        Err(failure) => {
            // A failure caused by the signal that ends this process is not reported.
            signals::wait_if_ending();
            session.fail(&failure)
        }
    };
    signals::wait_if_ending();
    exit
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let arguments =
            Arguments::try_parse_from(["imgfactory", "doctor", "-vv", "--color", "never"]).unwrap();
        assert_eq!((arguments.global.verbose, arguments.global.color), (2, When::Never));
        let error = Arguments::try_parse_from(["imgfactory", "-q", "-v", "doctor"]).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict);
    }
}
