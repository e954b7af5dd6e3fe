//! A serial console as lines of text: what moves a cursor or colours letters is taken out, every line gets the
//! time at which it began.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes after which a line is broken, so that a guest that prints none can't take our memory.
const LONGEST: usize = 4096;
/// Lines kept to be shown when something fails.
const TAIL: usize = 40;

/// Turns a terminal's bytes into lines.
#[derive(Debug, Default)]
struct TerminalLines {
    line: Vec<u8>,
    state: EscapeState,
}

/// Where in an escape sequence (ECMA-48) we are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EscapeState {
    #[default]
    Text,
    /// An escape sequence has begun.
    Escape,
    /// After ESC [, until a letter.
    Control,
    /// After ESC ], until BEL or ESC \.
    Title,
}

impl TerminalLines {
    /// Takes a byte; gives the line that it ends. Empty lines are not worth one.
    fn push(&mut self, byte: u8) -> Option<String> {
        match (self.state, byte) {
            (EscapeState::Escape, b'[') => self.state = EscapeState::Control,
            (EscapeState::Escape, b']') => self.state = EscapeState::Title,
            (EscapeState::Escape, _) => self.state = EscapeState::Text,
            (EscapeState::Control, 0x40..=0x7e) => {
                self.state = EscapeState::Text;
                // Cursor to a place, or screen cleared: what follows stands elsewhere.
                if matches!(byte, b'H' | b'J' | b'f') {
                    return self.take();
                }
            }
            (EscapeState::Control, _) => {}
            (EscapeState::Title, 0x07) => self.state = EscapeState::Text,
            (EscapeState::Title | EscapeState::Text, 0x1b) => self.state = EscapeState::Escape,
            (EscapeState::Title, _) => {}
            (EscapeState::Text, b'\n') => return self.take(),
            (EscapeState::Text, b'\t' | b' '..=0x7e | 0x80..) => {
                self.line.push(byte);
                if self.line.len() >= LONGEST {
                    return self.take();
                }
            }
            (EscapeState::Text, _) => {}
        }
        None
    }

    fn take(&mut self) -> Option<String> {
        let line = self.text();
        self.line.clear();
        (!line.is_empty()).then_some(line)
    }

    /// The line up to now.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.line).trim_end().to_owned()
    }
}

/// Something on the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleLine {
    /// How long after the start.
    pub at: Duration,
    /// Text of the line, without escape sequences.
    pub text: String,
    /// Whether the line has ended. A prompt never does.
    pub ended: bool,
}

/// How long the last lines may take to the log, once the console is closed.
const LAST_LINES: Duration = Duration::from_secs(2);

/// A console under way: read by a thread of its own, logged, and told to us line by line. Dropped after what it listens
/// to, it leaves a log that is whole, also of a line that never ended.
#[derive(Debug)]
pub struct Console {
    said: Receiver<ConsoleLine>,
    tail: VecDeque<String>,
}

impl Console {
    /// Reads `from` to its end. Lines go to `log` with their times, counted from `start`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(
        from: impl Read + Send + 'static,
        log: impl Write + Send + 'static,
        start: Instant,
    ) -> io::Result<Self> {
        let (sender, said) = channel();
        thread::Builder::new().name("console".into()).spawn(move || follow(from, log, start, &sender))?;
        Ok(Console { said, tail: VecDeque::with_capacity(TAIL) })
    }

    /// The next that is said until `deadline`; `None` when there is no more. A line that has not ended is given
    /// whenever there is more of it, and again when it ends.
    ///
    /// # Errors
    /// `deadline` has passed.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<ConsoleLine>, TooLate> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.said.recv_timeout(left) {
            Ok(said) => {
                if said.ended {
                    if self.tail.len() == TAIL {
                        self.tail.pop_front();
                    }
                    self.tail.push_back(said.text.clone());
                }
                Ok(Some(said))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(TooLate),
        }
    }

    /// The last lines that [`next`](Console::next) gave.
    pub fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }
}

impl Drop for Console {
    /// What is told has been logged, so the end of what is told is the end of the log.
    fn drop(&mut self) {
        let until = Instant::now() + LAST_LINES;
        while let Ok(Some(_)) = self.next(until) {}
    }
}

/// Nothing was said in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLate;

fn follow(mut from: impl Read, mut log: impl Write, start: Instant, sender: &Sender<ConsoleLine>) {
    let mut lines = TerminalLines::default();
    let mut began = None;
    let mut buffer = [0; 4096];
    let mut say = |at: Duration, text: String, ended| {
        if ended {
            // A log that can't be written must not stop the machine.
            let _ = writeln!(log, "[{:9.3}] {text}", at.as_secs_f64()).and_then(|()| log.flush());
        }
        // Nobody may listen any more; the log goes on.
        let _ = sender.send(ConsoleLine { at, text, ended });
    };
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let now = start.elapsed();
        for &byte in &buffer[..read] {
            let at = *began.get_or_insert(now);
            if let Some(line) = lines.push(byte) {
                say(at, line, true);
            }
            if lines.line.is_empty() {
                began = None;
            }
        }
        let open = lines.text();
        if !open.is_empty() {
            say(began.unwrap_or(now), open, false);
        }
    }
    if let Some(line) = lines.take() {
        say(began.unwrap_or_default(), line, true);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut lines = TerminalLines::default();
        let mut found: Vec<String> = bytes.iter().filter_map(|&byte| lines.push(byte)).collect();
        found.extend(lines.take());
        found
    }

    #[test]
    fn what_is_not_text_is_left_out() {
        for (bytes, expected) in [
            (&b"plain\r\nlines\r\n\r\n"[..], &["plain", "lines"][..]),
            (b"[\x1b[0;32m  OK  \x1b[0m] Started\x1b[K unit\n", &["[  OK  ] Started unit"]),
            (b"\x1b[H\x1b[J\x1b[1;1H  Booting `Xen'\n\r", &["  Booting `Xen'"]),
            (b"menu\x1b[22;1H   in 2s.   \x1b[5;78Hmore", &["menu", "   in 2s.", "more"]),
            (b"\x1b]0;title\x07demo login: ", &["demo login:"]),
            (b"\x1b]0;title\x1b\\after", &["after"]),
            (b"\xff\xfe\0\x08\x7fa", &["\u{fffd}\u{fffd}a"]),
        ] {
            assert_eq!(lines(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn an_endless_line_is_broken() {
        let found = lines(&[b'x'; 10_000]);
        assert_eq!(
            found.iter().map(String::len).collect::<Vec<_>>(),
            [LONGEST, LONGEST, 10_000 - 2 * LONGEST]
        );
    }

    #[test]
    fn a_prompt_is_told_before_its_line_ends() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut console = Console::start(reader, io::sink(), Instant::now()).unwrap();
        let soon = || Instant::now() + Duration::from_secs(20);
        let mut next = || console.next(soon()).unwrap().map(|said| (said.text, said.ended));
        writer.write_all(b"hello\r\ndemo log").unwrap();
        assert_eq!(next(), Some(("hello".into(), true)));
        assert_eq!(next(), Some(("demo log".into(), false)));
        writer.write_all(b"in: ").unwrap();
        assert_eq!(next(), Some(("demo login:".into(), false)));
        drop(writer);
        assert_eq!(next(), Some(("demo login:".into(), true)));
        assert_eq!(next(), None);
        assert_eq!(console.tail(), ["hello", "demo login:"]);
    }

    #[test]
    fn a_silent_console_does_not_hold_us_up() {
        let (reader, writer) = io::pipe().unwrap();
        let mut console = Console::start(reader, io::sink(), Instant::now()).unwrap();
        assert_eq!(console.next(Instant::now() + Duration::from_millis(20)), Err(TooLate));
        drop(writer);
    }

    /// A log whose writer takes its time.
    struct Slow(Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            thread::sleep(Duration::from_millis(20));
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_told_is_in_the_log_when_the_console_is_gone_though_it_never_ended() {
        let (reader, mut writer) = io::pipe().unwrap();
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = Slow(Arc::clone(&written));
        let mut console = Console::start(reader, log, Instant::now()).unwrap();
        writer.write_all(b"demo login: ").unwrap();
        let told = console.next(Instant::now() + Duration::from_secs(20)).unwrap().unwrap();
        assert_eq!((told.text.as_str(), told.ended), ("demo login:", false));
        drop(writer);
        drop(console);
        let log = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(log.ends_with("] demo login:\n"), "{log:?}");
    }

    #[test]
    fn the_log_has_times() {
        let (reader, writer) = io::pipe().unwrap();
        let console = Console::start(&b"one\r\ntwo\n"[..], writer, Instant::now()).unwrap();
        let log = io::read_to_string(reader).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert!(matches!(lines[..], [one, two] if one.ends_with("] one") && two.ends_with("] two")), "{log}");
        assert!(lines[0].starts_with("[    0."), "{log}");
        drop(console);
    }
}
