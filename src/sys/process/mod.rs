//! Other programs: started by name, logged, and ended together with us.
//!
//! A [`Tool`] runs in a process group of its own, so that one signal reaches all that it started. It has no
//! terminal: its input is empty unless given, what it prints goes to a log, and of a failure the last lines
//! are shown. Of our environment it gets [`ENVIRONMENT`] and nothing else: keys and passwords stay with us. [`find`] and [`package_of`] tell where a program is and which Debian package has it.

mod find;
mod running;

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal};

pub use find::{find, package_of};
pub use running::{GRACE, Running};
pub(super) use running::{running, signal_all};

use formats::passwords::{hide_passwords, without_passwords};
use running::spawn_registered;
use system::files::{self, FileError};

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed.
    #[error("{program}: not found{}", match package {
        Some(package) => format!("; install it: apt install {package}"),
        None => ", neither in PATH nor in /usr/sbin".to_owned(),
    })]
    Missing {
        program: String,
        /// Its Debian package, if known.
        package: Option<&'static str>,
    },
    /// It could not be started, fed or waited for.
    #[error("{program}: can't {doing} it")]
    Start {
        program: String,
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("{program}: {}{}", ended(*status), last_words(tail, log.as_deref()))]
    Failed {
        program: String,
        status: ExitStatus,
        /// What it printed last, at most [`TAIL_LINES`] lines.
        tail: Vec<String>,
        /// Where all that it printed is.
        log: Option<PathBuf>,
    },
    /// It took longer than allowed and was ended.
    #[error("{program}: not finished after {} s{}", limit.as_secs(), last_words(tail, log.as_deref()))]
    TooLong {
        program: String,
        /// The time it had.
        limit: Duration,
        /// What it printed last.
        tail: Vec<String>,
        /// Where all that it printed is.
        log: Option<PathBuf>,
    },
    /// It printed more than is read.
    #[error("{program}: it printed more than {}", formats::report::size(MAX_PRINTED))]
    TooMuch { program: String },
    /// Its log can't be written.
    #[error("{program}: can't write its log")]
    Log { program: String, source: FileError },
}

/// How many of its last lines a failed program's error shows.
pub const TAIL_LINES: usize = 15;
/// What is read of a program's standard output, at most.
const MAX_PRINTED: u64 = 256 << 20;
/// Bytes of a line that are kept for the error; the log has all.
const LINE_LIMIT: usize = 400;

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => {
            let name = match Signal::from_named_raw(signal) {
                Some(Signal::KILL) => " (killed; out of memory?)",
                Some(Signal::SEGV) => " (it crashed)",
                Some(Signal::XFSZ) => " (what it writes is larger than is allowed)",
                _ => "",
            };
            format!("ended by signal {signal}{name}")
        }
        (None, None) => "ended for an unknown reason".to_owned(),
    }
}

fn last_words(tail: &[String], log: Option<&Path>) -> String {
    let mut text = String::new();
    if tail.is_empty() {
        text.push_str("; it printed nothing");
    } else {
        text.push_str("; its last lines:");
        for line in tail {
            text.push_str("\n  ");
            text.push_str(line);
        }
    }
    if let Some(log) = log {
        text.push_str(&format!("\nwhole log: {}", log.display()));
    }
    text
}

/// Where a program's standard output goes; its standard error always goes to the log.
#[derive(Debug)]
enum ProcessOutput {
    Log,
    /// To us, through a pipe.
    Pipe,
    /// The output goes to a file.
    File(File),
    /// All three of its streams are ours.
    Ours,
}

/// The variables that every program gets. A proxy's URL may have a password: without it no package is fetched.
const ENVIRONMENT: [&str; 21] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "LANG",
    "LANGUAGE",
    "APT_CONFIG",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// A program to be run, with its arguments.
#[derive(Debug)]
#[must_use = "a tool does nothing until run"]
pub struct Tool {
    program: String,
    command: Command,
    found: bool,
    log: Option<PathBuf>,
    output: ProcessOutput,
    input: Vec<u8>,
    feed: bool,
    limit: Option<Duration>,
    file_limit: Option<u64>,
}

impl Tool {
    /// A program by name, found as [`find`] does. That it is missing is said when it is run.
    pub fn new(program: &str) -> Self {
        let path = find(program);
        let found = path.is_some();
        let mut command = Command::new(path.unwrap_or_else(|| program.into()));
        command.env_clear();
        let wanted = |name: &str| ENVIRONMENT.contains(&name) || name.starts_with("LC_");
        command.envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(wanted)));
        Tool {
            program: program.to_owned(),
            command,
            found,
            log: None,
            output: ProcessOutput::Log,
            input: Vec::new(),
            feed: false,
            limit: None,
            file_limit: None,
        }
    }

    /// Appends an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Appends several arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives it also those of our variables whose names begin with one of these.
    pub fn pass_env(mut self, prefixes: &[&str]) -> Self {
        let wanted = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        self.command.envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(wanted)));
        self
    }

    /// Gives it our whole environment but for our own variables, which may be keys: for a command that the user wrote.
    pub fn users_own(mut self) -> Self {
        let ours = |name: &std::ffi::OsString| name.as_encoded_bytes().starts_with(b"IMGFACTORY_");
        self.command.envs(std::env::vars_os().filter(|(name, _)| !ours(name)));
        self
    }

    /// The directory it runs in.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Keeps what it prints in a file, whose directory is made; an older log there is replaced.
    pub fn log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// What it reads from its standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Its standard input is a pipe that [`Running::take_stdin`] gives.
    pub fn pipe_stdin(mut self) -> Self {
        self.feed = true;
        self
    }

    /// Its standard output is a pipe that [`Running::take_stdout`] gives.
    pub fn pipe_stdout(mut self) -> Self {
        self.output = ProcessOutput::Pipe;
        self
    }

    /// Its standard output goes into a file.
    pub fn stdout_to(mut self, file: File) -> Self {
        self.output = ProcessOutput::File(file);
        self
    }

    /// It gets our terminal and stays in our process group: for a console in the foreground.
    pub fn on_our_terminal(mut self) -> Self {
        self.output = ProcessOutput::Ours;
        self
    }

    /// The longest it may take; [`Running::wait`] ends it then.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// How many bytes a file that it writes may have: the kernel ends it with the next one.
    pub fn file_limit(mut self, bytes: u64) -> Self {
        self.file_limit = Some(bytes);
        self
    }

    /// The command line, quoted for a shell: for logs and for people.
    pub fn shown(&self) -> String {
        let words = std::iter::once(OsStr::new(&self.program)).chain(self.command.get_args());
        let line = words.map(quoted).collect::<Vec<_>>().join(" ");
        without_passwords(&line)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// [`ToolError`].
    pub fn run(self) -> Result<(), ToolError> {
        self.spawn()?.wait()
    }

    /// Runs it to its end and gives what it printed to its standard output.
    ///
    /// # Errors
    /// [`ToolError`].
    pub fn output(self) -> Result<Vec<u8>, ToolError> {
        let mut running = self.pipe_stdout().spawn()?;
        let (program, stdout) = (running.program.clone(), running.take_stdout());
        // Beside the wait, which ends a program that takes too long.
        let reader = std::thread::spawn(move || {
            let mut printed = Vec::new();
            let mut stdout = stdout.into_iter();
            match stdout.next() {
                Some(stdout) => stdout.take(MAX_PRINTED + 1).read_to_end(&mut printed).map(|_| printed),
                None => Ok(printed),
            }
        });
        let ended = running.wait();
        if let Err(ToolError::TooLong { .. }) = ended {
            return ended.map(|()| Vec::new());
        }
        let printed = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let read = |source| ToolError::Start { program: program.clone(), doing: "read from", source };
        let printed = printed.map_err(read)?;
        if printed.len() as u64 > MAX_PRINTED {
            return Err(ToolError::TooMuch { program });
        }
        ended.map(|()| printed)
    }

    /// Starts the program; the caller waits for it.
    ///
    /// # Errors
    /// [`ToolError::Missing`], [`ToolError::Start`], [`ToolError::Log`].
    pub fn spawn(mut self) -> Result<Running, ToolError> {
        let program = self.program.clone();
        if !self.found {
            return Err(ToolError::Missing { package: package_of(&program), program });
        }
        let start = |source| ToolError::Start { program: program.clone(), doing: "start", source };
        let log = match &self.log {
            Some(path) => Some(
                start_log(path, &self.shown())
                    .map_err(|source| ToolError::Log { program: program.clone(), source })?,
            ),
            None => None,
        };
        let ours = matches!(self.output, ProcessOutput::Ours);
        let mut printed = None;
        if !ours {
            let (reader, writer) = io::pipe().map_err(start)?;
            let stdout = match self.output {
                ProcessOutput::File(file) => file.into(),
                ProcessOutput::Pipe => Stdio::piped(),
                ProcessOutput::Log | ProcessOutput::Ours => writer.try_clone().map_err(start)?.into(),
            };
            let piped = self.feed || !self.input.is_empty();
            self.command.stdin(if piped { Stdio::piped() } else { Stdio::null() });
            self.command.stdout(stdout).stderr(writer).process_group(0);
            printed = Some(reader);
        }
        die_with_us(&mut self.command, self.file_limit);
        let mut child = spawn_registered(&mut self.command, !ours).map_err(start)?;
        // Our ends of its pipes are in `command`; the log would never end with them.
        drop(self.command);
        let tail = printed.map(|reader| keep(reader, log));
        let stdin = child.stdin.take();
        let mut running = Running {
            program,
            stdin: None,
            child,
            group: !ours,
            tail,
            log: self.log,
            limit: self.limit,
            started: Instant::now(),
            ended: None,
        };
        if self.feed {
            running.stdin = stdin;
        } else if let Some(mut stdin) = stdin {
            // A program may end without reading all of its input: then its status tells.
            std::thread::spawn(move || stdin.write_all(&self.input));
        }
        Ok(running)
    }
}

/// Opens a log with the command line as its first line.
fn start_log(path: &Path, command: &str) -> Result<File, FileError> {
    if let Some(dir) = path.parent() {
        files::create_dir_all(dir)?;
    }
    let create = || {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // What programs print is for the person who started them.
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
    };
    let mut file = create().map_err(|error| FileError::new(path, "create", error))?;
    writeln!(file, "+ {command}").map_err(|error| FileError::new(path, "write", error))?;
    Ok(file)
}

/// Has the kernel end the child when the thread that starts it ends, or when it writes a larger file than it may.
fn die_with_us(command: &mut Command, file_limit: Option<u64>) {
    let us = rustix::process::getpid();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        // We may have died before that call.
        if rustix::process::getppid() != Some(us) {
            return Err(io::Error::other("the parent process has ended"));
        }
        if let Some(limit) = file_limit {
            let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
            rustix::process::setrlimit(Resource::Fsize, limit)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes a few system calls, and allocates only for the error of
    // a process whose parent is gone.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// Reads what a program prints into its log, and keeps the last lines. The receiver gets them once no process
/// holds the other end any more.
fn keep(reader: PipeReader, mut log: Option<File>) -> Receiver<Vec<String>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut tail = VecDeque::with_capacity(TAIL_LINES);
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        // The limit bounds memory when a program prints without line feeds.
        while (&mut reader).take(1 << 16).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            line = hide_passwords(&line);
            if log.as_mut().is_some_and(|log| log.write_all(&line).is_err()) {
                // There is no way to report it here, and the program should go on: keep reading.
                log = None;
            }
            let text = String::from_utf8_lossy(&line[..line.len().min(LINE_LIMIT)]);
            // Of a progress line that overwrites itself, the last state.
            let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
            if !text.is_empty() {
                if tail.len() == TAIL_LINES {
                    tail.pop_front();
                }
                let clean = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
                tail.push_back(text.chars().map(clean).collect());
            }
            line.clear();
        }
        // No thread waits for it when the program was dropped.
        let _ = sender.send(tail.into());
    });
    receiver
}

/// A word as a shell would need it.
fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy().into_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Pid;
    use system::files::Scratch;

    fn shell(script: &str) -> Tool {
        Tool::new("sh").args(["-c", script])
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = ToolError::Missing { program: "xorriso".into(), package: package_of("xorriso") };
        assert_eq!(error.to_string(), "xorriso: not found; install it: apt install xorriso");
        assert_eq!(
            Tool::new("no-such-program").run().unwrap_err().to_string(),
            "no-such-program: not found, neither in PATH nor in /usr/sbin"
        );
    }

    #[test]
    fn a_failure_shows_the_last_lines_and_the_log_has_all() {
        let room = Scratch::directory(std::env::temp_dir()).unwrap();
        let log = room.path().join("logs/host.txt");
        let script = "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); done; echo 'E: no such \
                      package' >&2; exit 3";
        let error = shell(script).log(&log).run().unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "sh: exit status 3; its last lines:\n{}\n  E: no such package\nwhole log: {}",
                (26..40).map(|i| format!("  line {i}")).collect::<Vec<_>>().join("\n"),
                log.display()
            )
        );
        let whole = std::fs::read_to_string(&log).unwrap();
        assert_eq!(whole.lines().count(), 42, "the command line, 40 lines, the last");
        assert!(whole.starts_with("+ sh -c 'i=0; "), "{whole}");
    }

    #[test]
    fn ends_are_told_apart() {
        for (script, said) in [
            ("exit 4", "sh: exit status 4; it printed nothing"),
            ("kill -9 $$", "sh: ended by signal 9 (killed; out of memory?); it printed nothing"),
            (r"printf '10%%\r20%%\r'; exit 1", "sh: exit status 1; its last lines:\n  20%"),
            (r"printf 'a\033[1mb'; exit 1", "sh: exit status 1; its last lines:\n  a\u{fffd}[1mb"),
        ] {
            assert_eq!(shell(script).run().unwrap_err().to_string(), said, "{script}");
        }
    }

    #[test]
    fn input_and_output_are_piped() {
        let long = vec![b'x'; 1 << 20];
        assert_eq!(Tool::new("cat").input(long.clone()).output().unwrap(), long);
        assert_eq!(shell("echo out; echo err >&2").output().unwrap(), b"out\n");
        assert_eq!(Tool::new("cat").output().unwrap(), b"", "no terminal, no input");
    }

    #[test]
    fn what_takes_too_long_is_ended_with_its_children() {
        let started = Instant::now();
        let script = "echo waiting; sleep 60 & wait";
        let error = shell(script).limit(Duration::from_millis(300)).run().unwrap_err().to_string();
        assert_eq!(error, "sh: not finished after 0 s; its last lines:\n  waiting");
        let grandchild = Duration::from_secs(60);
        assert!(started.elapsed() < grandchild / 2, "the pipe ends only when the grandchild is gone too");
    }

    #[test]
    fn what_prints_or_writes_without_end_is_ended() {
        let started = Instant::now();
        // It closes nothing: reading its output alone would wait with it.
        let error =
            shell("echo waiting >&2; exec sleep 60").limit(Duration::from_millis(300)).output().unwrap_err();
        assert_eq!(error.to_string(), "sh: not finished after 0 s; its last lines:\n  waiting");
        assert!(started.elapsed() < Duration::from_secs(30));
        let file = Scratch::file(std::env::temp_dir()).unwrap();
        let yes = Tool::new("yes").stdout_to(file.as_file().try_clone().unwrap()).file_limit(1 << 20);
        let error = yes.run().unwrap_err().to_string();
        assert!(
            error.contains("signal 25 (what it writes is larger than is allowed)")
                || error.contains("File too large"),
            "{error}"
        );
        assert_eq!(file.as_file().metadata().unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_dropped_program_is_ended() {
        let mut running = shell("echo $$; sleep 60").pipe_stdout().spawn().unwrap();
        let mut line = String::new();
        BufReader::new(running.take_stdout().unwrap()).read_line(&mut line).unwrap();
        let pid: u32 = line.trim().parse().unwrap();
        assert_eq!(running.id(), pid);
        drop(running);
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    #[test]
    fn command_lines_are_quoted_for_a_shell() {
        let tool = Tool::new("sh").args(["-c", "echo it's", "", "--aptopt=Acquire::Check 0"]);
        assert_eq!(tool.shown(), r"sh -c 'echo it'\''s' '' '--aptopt=Acquire::Check 0'");
    }
}
