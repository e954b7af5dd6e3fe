//! The terminal we were started on.

use std::io::{Stdin, stdin};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Remembers how the terminal is set, and sets it so again when dropped. A program that gets our terminal may
/// leave it without echo when it is killed.
pub struct TerminalSettings {
    before: Option<(Stdin, Termios)>,
}

impl TerminalSettings {
    /// Those of standard input; nothing to remember if that is no terminal.
    pub fn remember() -> Self {
        let input = stdin();
        let before = tcgetattr(&input).ok().map(|settings| (input, settings));
        TerminalSettings { before }
    }
}

impl Drop for TerminalSettings {
    fn drop(&mut self) {
        if let Some((input, settings)) = &self.before {
            // A terminal that is gone needs nothing.
            let _ = tcsetattr(input, OptionalActions::Now, settings);
        }
    }
}
