//! Text for people, on standard output and standard error.
//!
//! What reads it may be gone (`| head`, a closed terminal) or full (`/dev/full`). The macros of std panic then, and a
//! panic at the wrong moment leaves locks and unfinished files behind. So both programs print with these functions,
//! and clippy refuses the macros.

use std::io::{self, Write};

use formats::passwords::without_passwords;

/// Prints a result to standard output. A closed pipe (`| head`) is no failure.
///
/// # Errors
/// Any other failure to write.
pub fn print(text: &str) -> io::Result<()> {
    print_more(text).map(drop)
}

/// As [`print`], for what is printed again and again: `false` when the reader has closed the pipe, so nobody wants
/// more.
///
/// # Errors
/// Any other failure to write.
pub fn print_more(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Prints a message and the end of its line to standard error. If that takes nothing, the message is lost: there is no
/// other place to print it, and the exit code still tells what happened. Passwords in addresses are hidden.
pub fn print_error(message: &str) {
    // One write, because other programs may print to the same terminal.
    let _ = io::stderr().write_all(format!("{}\n", without_passwords(message)).as_bytes());
}
