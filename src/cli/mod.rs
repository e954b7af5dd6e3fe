//! The command line of `imgfactory`: raw arguments, as clap reads them, then what they mean.
//!
//! One file a command. Each has its raw `Args` and a `run`, which first turns them into what they mean (wrong
//! use ends there, with exit code 2) and then calls the library. To add a command: a file with those two, a
//! line in [`Command`], a line in [`Command::run`].

mod build;
mod check;
mod completions;
mod diff;
mod doctor;
mod gc;
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

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

pub use output::{Failure, Session, print};

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
    /// Say nothing but errors and results
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for all
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: When,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum When {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a recipe: tree, images, blocks, release, ISO, upload manifest
    Build(build::Args),
    /// Check a recipe: show all its faults, or what a build will make of it
    Check(check::Args),
    /// Print a script that completes commands and options in a shell
    Completions(completions::Args),
    /// Say what a release changes of another one, and why
    Diff(diff::Args),
    /// Say what this machine lacks for building, and how to install it
    Doctor(doctor::Args),
    /// Remove from a mirror what no release in retention needs
    Gc(gc::Args),
    /// Make ext2 images, and look into them
    Image(image::Args),
    /// Look into an index; turn it into a plain block list of 2005, and back
    Index(index::Args),
    /// Make a medium that boots without a network: a build's, with blocks on it
    Iso(iso::Args),
    /// Make a key pair that signs releases
    Keygen(keygen::Args),
    /// Copy mirrors, look whether they are whole, show how they stand
    Mirror(mirror::Args),
    /// Say what a build would change of the release before: blocks, bytes, packages; write nothing
    Plan(plan::Args),
    /// Send a release to its mirrors
    Publish(publish::Args),
    /// Sign `latest` again with a later date
    Refresh(releases::RefreshArgs),
    /// List the releases of a mirror
    Releases(releases::Args),
    /// Make a new release of an old one's state
    Rollback(releases::RollbackArgs),
    /// Boot what was built and note what it reads, for clients to fetch ahead
    Profile(profile::Args),
    /// Hand over to a new signing key: the old one signs the new one
    Rotate(releases::RotateArgs),
    /// Write down what files of others (NetBSD, Plan 9, disks) a recipe's guests are made of are known by
    Lock(lock::Args),
    /// Boot what was built in a virtual machine, its console here
    Run(run::Args),
    /// Print the JSON schema of recipes, for editors
    Schema(schema::Args),
    /// Serve a mirror tree over HTTP
    Serve(serve::Args),
    /// Boot what was built and wait for what the recipe expects
    Test(test::Args),
    /// Say which input made a step of the last build run
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
            Command::Mirror(args) => mirror::run(args, session),
            Command::Plan(args) => plan::run(args, session),
            Command::Publish(args) => publish::run(args, session),
            Command::Refresh(args) => releases::refresh(args, session),
            Command::Releases(args) => releases::run(args, session),
            Command::Rollback(args) => releases::rollback(args, session),
            Command::Profile(args) => profile::run(args, session),
            Command::Rotate(args) => releases::rotate(args, session),
            Command::Lock(args) => lock::run(args, session),
            Command::Run(args) => run::run(args, session),
            Command::Schema(args) => schema::run(args, session),
            Command::Serve(args) => serve::run(args, session),
            Command::Test(args) => test::run(args, session),
            Command::Why(args) => why::run(args, session),
        }
    }
}

/// Reads the command line, does what it says, and words what goes wrong.
pub fn main() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // What `--help` and `--version` print comes this way too. A closed terminal can't be told anything.
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
            // What fails because the process is being ended is not worth a word.
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
