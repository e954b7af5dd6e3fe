//! Programs under way, and the signals that end them.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::ToolError;
use system::files::Ending;

/// Process groups that end when we do.
static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Starts a child; no signal falls between its start and its entry in [`GROUPS`].
pub(super) fn spawn_registered(command: &mut Command, group: bool) -> io::Result<Child> {
    let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    while Ending::begun() {
        drop(groups);
        std::thread::park();
        groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    }
    let child = command.spawn()?;
    if group {
        groups.insert(child.id().cast_signed());
    }
    Ok(child)
}

/// Signals all children. Gives how many there are.
pub(in crate::sys) fn signal_all(signal: Signal) -> usize {
    let groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    for &group in groups.iter() {
        signal_group(group, signal);
    }
    groups.len()
}

/// How many children have not ended yet. Zombies that no thread waits for any more count as ended.
pub(in crate::sys) fn running() -> usize {
    let groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    groups.iter().filter(|&&group| Pid::from_raw(group).is_some_and(is_running)).count()
}

/// Whether a group has a process that is not a zombie.
fn is_running(group: Pid) -> bool {
    // Looks without reaping: the thread that waits for the child still gets its status.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::Pid(group), options), Ok(None))
}

fn signal_group(group: i32, signal: Signal) {
    if let Some(group) = Pid::from_raw(group) {
        // It may have ended a moment ago.
        let _ = kill_process_group(group, signal);
    }
}

/// A program that runs. Dropped, it is ended with all that it started.
#[derive(Debug)]
pub struct Running {
    pub(super) program: String,
    pub(super) child: Child,
    pub(super) stdin: Option<ChildStdin>,
    /// Whether it leads a process group of its own.
    pub(super) group: bool,
    pub(super) tail: Option<Receiver<Vec<String>>>,
    pub(super) log: Option<PathBuf>,
    pub(super) limit: Option<Duration>,
    pub(super) started: Instant,
    pub(super) ended: Option<ExitStatus>,
}

/// How long a program has to tidy up after SIGTERM.
pub const GRACE: Duration = Duration::from_secs(5);

impl Running {
    /// Process ID, also of its process group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The pipe to its standard input, once, after [`Tool::pipe_stdin`].
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// The pipe from its standard output, once, after [`Tool::pipe_stdout`].
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Whether it has ended, and how. Does not wait.
    ///
    /// # Errors
    /// [`ToolError::Start`] when the system can't tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, ToolError> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().map_err(|source| self.failed("wait for", source))?;
            if self.ended.is_some() {
                self.leave();
            }
        }
        Ok(self.ended)
    }

    /// Waits until it has ended well.
    ///
    /// # Errors
    /// [`ToolError::Failed`], [`ToolError::TooLong`].
    pub fn wait(mut self) -> Result<(), ToolError> {
        drop(self.stdin.take());
        let status = match self.limit {
            Some(limit) => match self.wait_until(self.started + limit)? {
                Some(status) => status,
                None => {
                    self.end();
                    let tail = self.tail();
                    let (program, log) = (self.program.clone(), self.log.clone());
                    return Err(ToolError::TooLong { program, limit, tail, log });
                }
            },
            None => {
                let status = self.child.wait().map_err(|source| self.failed("wait for", source))?;
                self.ended = Some(status);
                self.leave();
                status
            }
        };
        let tail = self.tail();
        if status.success() {
            return Ok(());
        }
        Err(ToolError::Failed { program: self.program.clone(), status, tail, log: self.log.clone() })
    }

    /// Waits until it has ended, or until `deadline`.
    ///
    /// # Errors
    /// [`ToolError::Start`] when the system can't tell.
    pub fn wait_until(&mut self, deadline: Instant) -> Result<Option<ExitStatus>, ToolError> {
        let mut pause = Duration::from_millis(2);
        loop {
            let ended = self.ended()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if ended.is_some() || left.is_zero() {
                return Ok(ended);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Ends it and all that it started: SIGTERM, and after [`GRACE`] SIGKILL.
    pub fn end(&mut self) {
        if self.ended.is_some() {
            return;
        }
        self.signal(Signal::TERM);
        if !matches!(self.wait_until(Instant::now() + GRACE), Ok(Some(_))) {
            self.signal(Signal::KILL);
            // Fails only if another thread has waited for it.
            self.ended = self.child.wait().ok();
        }
        self.leave();
    }

    fn signal(&mut self, signal: Signal) {
        if self.group {
            signal_group(self.child.id().cast_signed(), signal);
        } else if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// After its end: signals no longer go to its group, whose id may become another's.
    fn leave(&mut self) {
        if self.group {
            let group = self.child.id().cast_signed();
            GROUPS.lock().unwrap_or_else(PoisonError::into_inner).remove(&group);
        }
    }

    /// The last lines. Waits a moment for what is still in the pipe, not for a daemon that holds it.
    fn tail(&mut self) -> Vec<String> {
        let Some(receiver) = self.tail.take() else { return Vec::new() };
        receiver.recv_timeout(Duration::from_secs(2)).unwrap_or_default()
    }

    pub(super) fn failed(&self, doing: &'static str, source: io::Error) -> ToolError {
        ToolError::Start { program: self.program.clone(), doing, source }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
