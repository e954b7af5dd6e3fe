//! `imgfactory test`.

use std::io::Read;
use std::time::Duration;

use super::machine::MachineArgs;
use super::{Failure, Session, print};
use crate::pipeline::build_record::LOGS;
use crate::recipe::MenuEntry;
use crate::repository::server::Server;
use crate::templates::{TemplateError, context, render_text};
use crate::vm::Screen;
use crate::vm::timeline::Timeline;
use crate::vm::trial::Trial;
use formats::report::{Exit, elapsed};
use system::files::FileError;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Boots without a screen, waits until the console has printed every line that the recipe expects, ends \
                  the machine, and prints when each line came. Exit code 1 if a line is missing."
)]
pub(super) struct Args {
    #[command(flatten)]
    machine: MachineArgs,
    /// Wait for this text instead of the recipe's lines; may be repeated. `{{ token }}` is a random word, which the
    /// machine is given on Linux's command line as imgfactory.token
    #[arg(long, value_name = "TEXT")]
    expect: Vec<String>,
    /// Give up after this many seconds [default: the recipe's `expect: timeout`]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

pub(super) fn run(mut args: Args, session: &Session) -> Result<Exit, Failure> {
    args.machine.find()?;
    let token = token()?;
    let (facts, prepared) = args.machine.prepare(session, Some(&token), Screen::None)?;
    let mut templates = args.expect.clone();
    if templates.is_empty() {
        templates.extend(facts.expect.lines.iter().cloned());
        // Guests start below Xen only.
        if prepared.entry == MenuEntry::Xen.as_str() {
            templates.extend(facts.expect.guest_lines.iter().cloned());
        }
    }
    let mut timeline = Timeline::new(expected(&templates, &token)?);
    let logs = args.machine.out.join(LOGS);
    let console_log = logs.join(format!("console-{}.log", prepared.kind));
    let trial = Trial {
        machine: &prepared.machine,
        console_log: &console_log,
        qemu_log: &logs.join(format!("qemu-{}.log", prepared.kind)),
        limit: args.timeout.map_or(facts.expect.timeout(), Duration::from_secs),
        linger: Duration::ZERO,
    };
    let traffic = || prepared.server.as_ref().map(Server::traffic);
    let tell = |name: &str, at| session.progress.say(&format!("{:>8}  {name}", elapsed(at)));
    session.progress.say(&format!("booting {}: {}", facts.name, prepared.kind.replace('-', ", ")));
    let result = trial.run(&mut timeline, traffic, tell);
    print(&format!("{timeline}\n"))?;
    result?;
    Ok(Exit::Done)
}

/// What is expected of the boot with this token.
pub(super) fn expected(templates: &[String], token: &str) -> Result<Vec<String>, TemplateError> {
    templates.iter().map(|text| render_text("expect", text, context! { token })).collect()
}

/// 16 random hex digits, so that a line of an earlier boot can't be taken for one of this boot.
pub(super) fn token() -> Result<String, FileError> {
    let path = std::path::Path::new("/dev/urandom");
    let failed = |error| FileError::new(path, "read", error);
    let mut bytes = [0; 8];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map_err(failed)?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_boot_has_a_word_of_its_own_and_the_expected_lines_have_it() {
        let (one, two) = (token().unwrap(), token().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 16);
        let lines = ["ready {{ token }}".to_owned(), "login:".to_owned()];
        assert_eq!(expected(&lines, &one).unwrap(), [format!("ready {one}"), "login:".to_owned()]);
    }
}
