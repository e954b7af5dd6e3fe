//! `imgfactory run`.

use std::io::{IsTerminal, stdin};

use super::machine::MachineArgs;
use super::{Failure, Session};
use crate::sys::terminal::TerminalSettings;
use crate::vm::Screen;
use formats::report::Exit;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The machine's serial console is this terminal. Ctrl-A x ends the machine, Ctrl-A h tells what else \
                        there is; all other keys, Ctrl-C too, are the machine's."
)]
pub(super) struct Args {
    #[command(flatten)]
    machine: MachineArgs,
    /// Show the screen by VNC, at this display of QEMU's: 127.0.0.1:1
    #[arg(long, value_name = "DISPLAY")]
    vnc: Option<String>,
}

pub(super) fn run(mut args: Args, session: &Session) -> Result<Exit, Failure> {
    args.machine.find()?;
    let screen = args.vnc.map_or(Screen::None, Screen::Vnc);
    let (facts, prepared) = args.machine.prepare(session, None, screen)?;
    if let Some(server) = &prepared.server {
        let address = server.address();
        session
            .progress
            .say(&format!("serving {} release {} at http://{address}/", facts.name, facts.serial));
    }
    if stdin().is_terminal() {
        session.progress.say("the machine's console is here; Ctrl-A x ends it");
    }
    let _settings = TerminalSettings::remember();
    prepared.machine.start_here()?.wait()?;
    Ok(Exit::Done)
}
