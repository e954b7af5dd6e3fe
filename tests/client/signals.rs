//! What is left when the process is ended: by ctrl-C, by ctrl-C twice, by `kill -9`.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use imgfactory::sys::process::Tool;
use imgfactory::sys::signals;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use system::files::{AtomicFile, Scratch, sweep};

/// Where the process under test works, in its environment; elsewhere its tests are the tests.
const ROOM: &str = "IMGFACTORY_TEST_ROOM";

/// The process under test: a half-written file, scratch, and a child that says when it is asked to end and
/// that has a child of its own. Does nothing when run as a test.
#[test]
fn worker() {
    let (Some(room), Some(on_term)) = (std::env::var_os(ROOM), std::env::var_os("IMGFACTORY_TEST_TRAP"))
    else {
        return;
    };
    let room = Path::new(&room);
    signals::install().unwrap();
    let mut file = AtomicFile::create(room.join("demo.iso")).unwrap();
    file.write_all(&[1; 100_000]).unwrap();
    let scratch = Scratch::directory(room).unwrap();
    fs::write(scratch.path().join("tree.tar"), "half").unwrap();
    let script = format!(
        "trap '{}' TERM; sleep 600 & echo $! > grandchild; echo $$ > child; while :; do wait; sleep 0.05; done",
        on_term.to_str().unwrap()
    );
    let result = Tool::new("sh").args(["-c", &script]).current_dir(room).log(room.join("log")).run();
    // Ctrl-C makes the tool fail, and the signal's thread, not this one, has the last word.
    signals::wait_if_ending();
    panic!("{result:?}");
}

struct Worker {
    room: Scratch,
    child: Child,
}

impl Worker {
    /// Starts the process and waits until its children run. `on_term` is what its child does at SIGTERM.
    fn start(on_term: &str) -> Self {
        Worker::start_with(on_term, Stdio::piped())
    }

    fn start_with(on_term: &str, stderr: Stdio) -> Self {
        let room = Scratch::directory(std::env::temp_dir()).unwrap();
        let (_, module) = module_path!().split_once("::").unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::worker"), "--nocapture"])
            .env(ROOM, room.path())
            .env("IMGFACTORY_TEST_TRAP", on_term)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let worker = Worker { room, child };
        worker.eventually("its child runs", |worker| worker.read("child").ends_with('\n'));
        worker
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.room.path().join(name)).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits up to a minute for something to be so.
    fn eventually(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !so(self) {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end; gives how it ended and what it said last.
    fn end(&mut self) -> (ExitStatus, String) {
        let lines = BufReader::new(self.child.stderr.take().unwrap()).lines();
        let last = lines.map_while(Result::ok).last().unwrap_or_default();
        (self.child.wait().unwrap(), last)
    }

    /// Names in its directory, without those of the test itself.
    fn left(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.room.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !["child", "grandchild", "log", "asked"].contains(&name.as_str()))
            .collect();
        names.sort();
        names
    }

    fn assert_children_end(&self) {
        for name in ["child", "grandchild"] {
            let pid = Pid::from_raw(self.read(name).trim().parse().unwrap()).unwrap();
            self.eventually(name, |_| test_kill_process(pid).is_err() || is_zombie(pid));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Already gone unless an assertion failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process has ended and nobody has asked for its status: an orphan in a container without init.
fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

#[test]
fn one_signal_ends_children_and_leaves_nothing_unfinished() {
    for (signal, code, word) in [(Signal::INT, 130, "interrupted"), (Signal::TERM, 143, "terminated")] {
        let mut worker = Worker::start("echo yes > asked; exit");
        assert_eq!(worker.left().len(), 2, "{:?}", worker.left());
        worker.signal(signal);
        let (status, said) = worker.end();
        assert_eq!(status.code(), Some(code), "{said}");
        assert!(said.starts_with(&format!("{word}: ")), "{said}");
        assert_eq!(worker.read("asked"), "yes\n", "the child may tidy up");
        assert_eq!(worker.left(), [""; 0]);
        worker.assert_children_end();
    }
}

#[test]
fn a_second_signal_does_not_wait_for_a_child_that_will_not_end() {
    let mut worker = Worker::start("echo yes > asked");
    worker.signal(Signal::INT);
    worker.eventually("the child was asked", |worker| worker.read("asked") == "yes\n");
    worker.signal(Signal::INT);
    let (status, said) = worker.end();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.starts_with("interrupted twice, so running programs were killed: "), "{said}");
    assert_eq!(worker.left(), [""; 0]);
    worker.assert_children_end();
}

#[test]
fn what_a_killed_process_leaves_is_swept_by_the_next_one() {
    let mut worker = Worker::start("kill $(cat grandchild); exit");
    assert!(sweep(worker.room.path()).unwrap().is_empty(), "it lives");
    worker.signal(Signal::KILL);
    let (status, _) = worker.end();
    assert_eq!(status.signal(), Some(9));
    worker.assert_children_end();
    assert_eq!(worker.left().len(), 2);
    assert_eq!(sweep(worker.room.path()).unwrap().len(), 2);
    assert_eq!(worker.left(), [""; 0]);
}

/// A pipe whose reader is gone: `| head`, ctrl-C, a connection that was cut.
fn pipe_without_reader() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

/// A full pipe, and its reader, which does not read: `| less`.
fn full_pipe() -> (Stdio, std::io::PipeReader) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'x'; 1]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    (writer.into(), reader)
}

fn full_device() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// Waits up to a minute for a process to end; gives its exit code.
fn exit_code(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_signal_ends_a_process_whose_terminal_takes_nothing() {
    let (full, _reader) = full_pipe();
    let outputs = [("no reader", pipe_without_reader()), ("/dev/full", full_device()), ("full pipe", full)];
    for (what, stderr) in outputs {
        let mut worker = Worker::start_with("echo yes > asked; exit", stderr);
        worker.signal(Signal::TERM);
        assert_eq!(exit_code(&mut worker.child), Some(143), "{what}");
        assert_eq!(worker.left(), [""; 0], "{what}");
        worker.assert_children_end();
    }
}

#[test]
fn both_programs_end_as_they_should_when_what_they_print_goes_nowhere() {
    type Output = fn() -> Stdio;
    let (no_reader, full): (Output, Output) = (pipe_without_reader, full_device);
    let (imgfactory, imgfetch) = (crate::programs::imgfactory(), crate::programs::imgfetch());
    for (program, args, stdout, stderr, code) in [
        (&imgfetch, &["--help"][..], no_reader, full, 0),
        (&imgfetch, &["--help"], full, full, 1),
        (&imgfetch, &["--hlep"], full, no_reader, 2),
        (&imgfetch, &["cache", "stats", "/dev/null"], full, full, 1),
        (&imgfetch, &["netselect", "http://127.0.0.1:1/"], full, full, 1),
        (&imgfetch, &["netselect", "http://127.0.0.1:1/"], no_reader, full, 1),
        (&imgfactory, &["--help"], no_reader, full, 0),
        (&imgfactory, &["schema"], full, full, 1),
        (&imgfactory, &["schema"], no_reader, no_reader, 0),
        (&imgfactory, &["schmea"], full, full, 2),
        (&imgfactory, &["check", "/nowhere.yaml"], full, full, 1),
        (&imgfactory, &["check", "/nowhere.yaml"], no_reader, no_reader, 1),
    ] {
        let mut child = Command::new(program).args(args).stdout(stdout()).stderr(stderr()).spawn().unwrap();
        assert_eq!(exit_code(&mut child), Some(code), "{} {args:?}", program.display());
    }
}

#[test]
fn the_web_server_ends_by_a_signal_when_its_terminal_is_gone() {
    let room = Scratch::directory(std::env::temp_dir()).unwrap();
    for stderr in [pipe_without_reader(), full_device()] {
        let mut child = Command::new(crate::programs::imgfactory())
            .args(["serve", "--listen", "127.0.0.1:0"])
            .arg(room.path())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("http://"), "{line}");
        kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
        assert_eq!(exit_code(&mut child), Some(129));
    }
}
