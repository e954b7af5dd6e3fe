//! Ctrl-C and SIGTERM: children are ended, what is unfinished is removed, and then we end.

use std::io;
use std::os::raw::c_int;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::sys::process::{self, GRACE};
use formats::report::report;
use system::files::Ending;

/// Starts the thread that waits for SIGINT, SIGTERM and SIGHUP. Call it once, before any scratch is made.
/// The exit code is 128 and the signal's number, as a shell would say.
///
/// # Errors
/// What the system says against the handlers or the thread.
pub fn install() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            end(signal, &mut signals);
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

fn end(signal: c_int, signals: &mut Signals) -> ! {
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
    for error in ending.remove_all() {
        eprintln!("{}", report(&error));
    }
    let name = match signal {
        SIGINT => "interrupted",
        SIGHUP => "the terminal was closed",
        _ => "terminated",
    };
    eprintln!("{name}{twice}: unfinished files were removed; the next run continues from what is complete");
    std::process::exit(128 + signal)
}
