//! `imgfactory run`.

use std::io::{IsTerminal, stdin};

use super::machine::MachineArgs;
use super::{Failure, Session};
use crate::sys::terminal::TerminalSettings;
use crate::vm::Screen;
use formats::report::Exit;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "This terminal becomes the machine's serial console. Ctrl-A x ends the machine, Ctrl-A h lists \
                  QEMU's other keys; all other keys, Ctrl-C too, go to the machine."
)]
pub(super) struct Args {
    #[command(flatten)]
    machine: MachineArgs,
    /// Show the machine's screen by VNC at this address and display, e.g. 127.0.0.1:1 (port 5901)
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
        session.progress.say("this terminal is the machine's console; Ctrl-A x ends the machine");
    }
    let _settings = TerminalSettings::remember();
    prepared.machine.start_here()?.wait()?;
    Ok(Exit::Done)
}
