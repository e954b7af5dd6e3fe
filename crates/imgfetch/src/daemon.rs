//! A process that lives in the background, and one that lives as long as the machine's root file system.
//!
//! **The background.** The program starts itself again, in a session of its own, and waits for a line on the
//! child's standard output that says the disk is mounted. So it returns when the disk can be used, or with the
//! child's exit code when it can't.
//!
//! **The root.** systemd ends every process at shutdown, and when it goes from the initramfs to the real root,
//! but for those of root whose `argv[0]` begins with `@`
//! (systemd.io, "Using /run and the initrd for storage daemons"). With `--root-daemon` the child is started
//! under such a name. It changes to `/` (of its chroot), so that it holds no directory of a root that is to go
//! away; it ignores the signals that end others; and it must not wait for itself:
//!
//! * It is linked statically and lies on a tmpfs, so no page of its text has to come from its own disk. That is
//!   why `mlockall` is not used: it would pin every thread's stack and buffer and gain nothing.
//! * `PR_SET_IO_FLUSHER`: an allocation of ours that has to reclaim memory does not wait for dirty pages, which
//!   may belong to file systems above our own disk.
//! * The OOM killer takes everybody else first.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::setsid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The line on standard output that says the disk is mounted.
const READY: &[u8] = b"ready\n";

/// Starts this program again with `args` and `extra`, in the background; gives its exit code, or success when it
/// says that it is ready.
///
/// # Errors
/// When the system does not start it.
pub fn background(args: &[OsString], extra: &[&str], as_root_daemon: bool) -> io::Result<ExitCode> {
    // The path that we were started by, from the kernel: /proc may not be there.
    let program = OsStr::new(rustix::param::linux_execfn().to_str().unwrap_or("/proc/self/exe")).to_owned();
    let mut command = Command::new(program);
    command
        .arg0(if as_root_daemon { "@imgfetch" } else { "imgfetch" })
        .args(args)
        .args(extra)
        // Some forty threads, each with a heap that keeps a block or two that was let go: 40 MB.
        .env("GLIBC_TUNABLES", "glibc.malloc.arena_max=2:glibc.malloc.mmap_threshold=131072")
        // A chroot need not have one; nobody reads from it.
        .stdin(File::open("/dev/null").map_or_else(|_| Stdio::inherit(), Stdio::from))
        .stdout(Stdio::piped());
    // SAFETY: setsid is a plain system call, allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    let mut said = Vec::new();
    if let Some(out) = child.stdout.take() {
        // Not to the end: the child lives on.
        out.take(READY.len() as u64).read_to_end(&mut said)?;
    }
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait()?;
    Ok(ExitCode::from(
        status.code().and_then(|code| u8::try_from(code).ok()).filter(|&code| code != 0).unwrap_or(1),
    ))
}

/// Says that the disk is mounted: on standard output when `line`, and to a service manager that wants to know.
pub fn say_ready(line: bool) {
    if line {
        let mut out = io::stdout();
        // Whoever waited is gone: then nobody needs to know.
        let _ = out.write_all(READY).and_then(|()| out.flush());
    }
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        let told = match socket.as_encoded_bytes() {
            [b'@', name @ ..] => notify_abstract(name),
            _ => UnixDatagram::unbound().and_then(|from| from.send_to(b"READY=1", &socket)).map(drop),
        };
        if let Err(error) = told {
            log::warn!("can't notify the service manager that the disk is mounted: {error}");
        }
    }
}

fn notify_abstract(name: &[u8]) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}

/// Lets go of the terminal and of all directories. What can't be had is gone without.
pub fn settle(root_daemon: bool) {
    if let Err(error) = std::env::set_current_dir("/") {
        log::warn!("can't change to /: {error}");
    }
    if root_daemon {
        let spared = fs::write("/proc/self/oom_score_adj", "-1000");
        if let Err(error) = spared {
            detail!("/proc/self/oom_score_adj: {error}; the parent process may have set it");
        }
    }
}

/// To be called before any thread is started: they inherit it.
pub fn be_io_flusher() {
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        detail!("PR_SET_IO_FLUSHER: {error}");
    }
}

/// Points standard output away from whoever waited for us.
pub fn detach_output() {
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        // Without it, writes to a closed pipe fail, and nobody writes.
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

/// Waits for SIGINT, SIGTERM or SIGHUP; `root_daemon` takes no notice of them.
///
/// # Errors
/// When the system has no handlers for us.
pub fn signals(root_daemon: bool, end: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    crate::threads::start("signals", move || {
        for signal in signals.forever() {
            if root_daemon {
                log::info!("signal {signal} ignored: the root file system depends on this process");
            } else {
                end();
            }
        }
    })?;
    Ok(())
}

/// Where the lines of the log are written.
enum LogTarget {
    /// Standard error, and whether it took the last line.
    StandardError { takes: bool },
    /// The kernel's log, once there is no terminal.
    Kernel(File),
}

struct LogOutput {
    target: Mutex<LogTarget>,
}

static LOG_OUTPUT: LogOutput = LogOutput { target: Mutex::new(LogTarget::StandardError { takes: true }) };

/// How long a line waits for standard error; the next ones do not wait until it takes one again.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Prints a line, or drops it when standard error does not take it: a stopped terminal or a pipe that is full must
/// hold up neither reads of the disk nor the end of the process. Gives whether it was printed.
fn print_soon(line: &str, patience: Timespec) -> bool {
    let out = io::stderr();
    // A pipe that is ready has room for a page, and no other thread writes to it meanwhile.
    let is_ready = poll(&mut [PollFd::new(&out, PollFlags::OUT)], Some(&patience)) == Ok(1);
    is_ready && (&out).write_all(line.as_bytes()).is_ok()
}

/// Target of what only `--verbose` shows. It has a target and not a level, because levels below `info` are left out
/// of a release, ours with those of the libraries.
pub const DETAIL: &str = "imgfetch::detail";

/// Target of what people at the machine are to see on the console even when the kernel was told to be `quiet`.
pub const NEWS: &str = "imgfetch::news";

static VERBOSE: AtomicBool = AtomicBool::new(false);

impl Log for LogOutput {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let verbose = VERBOSE.load(Ordering::Relaxed);
        // What libraries say is for those who debug them.
        if ["imgfetch", "system"].iter().any(|ours| metadata.target().starts_with(ours)) {
            verbose || metadata.target() != DETAIL
        } else {
            verbose && metadata.level() <= Level::Warn
        }
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // One line a message, and one write a line: others write there too.
        let text = record.args().to_string().replace('\n', " | ");
        let mut target = self.target.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // The kernel's priorities, of the facility "daemon" (3 << 3). `quiet` leaves those up to errors (3).
        let (word, priority) = match record.level() {
            Level::Error => ("error: ", 27),
            Level::Warn => ("warning: ", 28),
            Level::Info if record.target() != DETAIL => ("", 30),
            Level::Info | Level::Debug | Level::Trace => ("", 31),
        };
        let priority = if record.target() == NEWS { 27 } else { priority };
        match &mut *target {
            LogTarget::Kernel(file) => {
                // There is no other place to report that the kernel refuses a line.
                let _ = file.write_all(format!("<{priority}>imgfetch: {word}{text}\n").as_bytes());
            }
            LogTarget::StandardError { takes } => {
                let patience = if *takes { PATIENCE } else { Timespec::default() };
                *takes = print_soon(&format!("imgfetch: {word}{text}\n"), patience);
            }
        }
    }

    fn flush(&self) {}
}

/// Starts the log: warnings and news, or with `verbose` every request.
pub fn start_log(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
    if log::set_logger(&LOG_OUTPUT).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// From here on the log goes to the kernel's, if it can be opened.
pub fn log_to_kernel() {
    if let Ok(file) = OpenOptions::new().write(true).open("/dev/kmsg") {
        *LOG_OUTPUT.target.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            LogTarget::Kernel(file);
    }
}
