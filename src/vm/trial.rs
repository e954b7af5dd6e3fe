//! A boot that is watched until it has said all that is expected.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::timeline::{ConsoleEvent, Reached, Timeline};
use super::{MachineError, VirtualMachine};
use crate::sys::traffic::Traffic;

/// What to boot and what to wait for.
#[derive(Debug)]
pub struct Trial<'a> {
    pub machine: &'a VirtualMachine,
    /// Where its console goes.
    pub console_log: &'a Path,
    /// Where QEMU's own words go.
    pub qemu_log: &'a Path,
    /// Time from the start.
    pub limit: Duration,
    /// How long it may go on once it has said all.
    pub linger: Duration,
}

/// Why a boot was no success.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The machine could not be started.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// It did not say all that is expected.
    #[error(
        "{}: {why} after {:.1} s without printing {}; its last lines:{}\nwhole console: {}",
        iso.display(), after.as_secs_f64(), list(missing), indented(tail), log.display()
    )]
    Unfinished {
        iso: PathBuf,
        why: Ended,
        after: Duration,
        /// What was expected still.
        missing: Vec<String>,
        /// The last lines of the console.
        tail: Vec<String>,
        /// Where all lines are.
        log: PathBuf,
    },
}

/// What ended a boot.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The time was over.
    #[error("timed out")]
    TooSlow,
    /// It said that it can't go on.
    #[error("the boot failed")]
    GaveUp,
    /// It switched itself off or reset itself.
    #[error("the machine switched off")]
    Off,
}

fn list(missing: &[String]) -> String {
    missing.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(", ")
}

fn indented(tail: &[String]) -> String {
    tail.iter().map(|line| format!("\n  {line}")).collect()
}

impl Trial<'_> {
    /// Boots, and fills `timeline` until it is complete. `traffic` is asked whenever something was reached, and
    /// `tell` is called. The machine is then ended.
    ///
    /// # Errors
    /// [`TrialError`]; `timeline` has what was seen up to then.
    pub fn run(
        &self,
        timeline: &mut Timeline,
        traffic: impl Fn() -> Option<Traffic>,
        mut tell: impl FnMut(&str, Duration),
    ) -> Result<(), TrialError> {
        let mut started = self.machine.start(self.console_log, self.qemu_log)?;
        let deadline = started.start + self.limit;
        // A machine that gave up says more about it in its next lines.
        let mut until = deadline;
        let mut gave_up = false;
        while !timeline.is_complete() {
            let why = match started.console.next(until) {
                Ok(Some(said)) => {
                    let now = Reached { at: said.at, traffic: traffic() };
                    match timeline.hear(&said.text, now) {
                        ConsoleEvent::Reached(name) => tell(&name, said.at),
                        ConsoleEvent::Fatal if !gave_up => {
                            gave_up = true;
                            until = deadline.min(Instant::now() + Duration::from_secs(2));
                        }
                        ConsoleEvent::Fatal | ConsoleEvent::Nothing => {}
                    }
                    continue;
                }
                Ok(None) => Ended::Off,
                Err(_) if gave_up => Ended::GaveUp,
                Err(_) => Ended::TooSlow,
            };
            let (after, tail) = (started.start.elapsed(), started.console.tail());
            if matches!(why, Ended::Off) {
                // If QEMU itself failed, that is what there is to say.
                started.wait().map_err(MachineError::from)?;
            }
            return Err(TrialError::Unfinished {
                iso: self.machine.iso.clone(),
                why,
                after,
                missing: timeline.missing().into_iter().map(str::to_owned).collect(),
                tail,
                log: self.console_log.to_owned(),
            });
        }
        let until = Instant::now() + self.linger;
        while let Ok(Some(_)) = started.console.next(until) {}
        Ok(())
    }
}
