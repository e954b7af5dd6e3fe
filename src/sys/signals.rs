//! Ctrl-C and SIGTERM: children are ended, what is unfinished is removed, and then we end.

use std::io;
use std::os::raw::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::sys::process::{self, GRACE};
use formats::report::report;
use system::files::Ending;
use system::output::print_error;

/// Starts the thread that waits for SIGINT, SIGTERM and SIGHUP. Call it once, before any scratch is made.
/// The exit code is 128 and the signal's number, as a shell would say.
///
/// # Errors
/// What the system says against the handlers or the thread.
pub fn install() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Whatever goes wrong in there, the process ends: the other threads wait for that, and locks are held.
            let ended = catch_unwind(AssertUnwindSafe(|| end(signal, &mut signals)));
            if let Ok(ended) = ended {
                last_words(ended);
            }
            std::process::exit(128 + signal);
        }
    })?;
    Ok(())
}

/// For the end of `main`: when a signal has come, its thread decides how we end, so wait for that.
pub fn wait_if_ending() {
    while Ending::begun() {
        thread::park();
    }
}

/// How long standard error may take for the last words. A pipe that is full and not read takes none.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prints from a thread of its own, because standard error may block, or be locked by a thread that it blocks.
fn last_words(ended: Ended) {
    let (done, printed) = mpsc::channel();
    let printer = move || {
        let Ended { left, cause } = ended;
        left.iter().for_each(|line| print_error(line));
        print_error(&format!(
            "{cause}: unfinished files were removed; the next run continues from what is complete"
        ));
        // The other end waits for this or for the time, whichever is first.
        let _ = done.send(());
    };
    if thread::Builder::new().name("last words".into()).spawn(printer).is_ok() {
        let _ = printed.recv_timeout(PATIENCE);
    }
}

/// What is to be printed about the end.
struct Ended {
    /// Errors: what could not be removed.
    left: Vec<String>,
    cause: String,
}

/// Ends children and removes what is unfinished.
fn end(signal: c_int, signals: &mut Signals) -> Ended {
    let ending = Ending::begin();
    let deadline = Instant::now() + GRACE;
    // Children may have something of their own to remove.
    let mut left = process::signal_all(Signal::TERM);
    let mut twice = "";
    while left > 0 && Instant::now() < deadline {
        // A second signal means: do not wait.
        if signals.pending().next().is_some() {
            twice = " twice, so running programs were killed";
            break;
        }
        thread::sleep(Duration::from_millis(20));
        left = process::running();
    }
    process::signal_all(Signal::KILL);
    let left = ending.remove_all().iter().map(|error| report(error)).collect();
    let name = match signal {
        SIGINT => "interrupted",
        SIGHUP => "the terminal was closed",
        _ => "terminated",
    };
    Ended { left, cause: format!("{name}{twice}") }
}
