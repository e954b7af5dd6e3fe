//! `imgfetch status`: a Unix socket that gives every caller one line of JSON and closes, or what it asks for in a
//! line of its own: `json`, `metrics` (Prometheus) or `text`; `phase NAME` says what is going on from now on, for what
//! is recorded. It has a thread of its own and takes only what is in
//! memory, so it answers while the network is dead.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::threads::start;
use formats::release::Phase;

/// A caller that does not take its answer is left after this.
const PATIENCE: Duration = Duration::from_secs(2);
/// A caller that asks for nothing gets JSON after this.
const QUESTION: Duration = Duration::from_millis(100);
/// An answer is not longer than this.
const MAX_ANSWER: u64 = 1 << 20;

/// What a caller says is at most so long.
const MAX_QUESTION: usize = 32;

/// What a caller wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// One line of JSON.
    Json,
    Metrics,
    Text,
    /// What is going on from now on; the answer says whether anything is recorded.
    Phase(Phase),
}

impl Form {
    fn word(&self) -> String {
        match self {
            Form::Json => "json\n".into(),
            Form::Metrics => "metrics\n".into(),
            Form::Text => "text\n".into(),
            Form::Phase(phase) => format!("phase {phase}\n"),
        }
    }

    /// Nothing, or an old caller: JSON.
    fn of(word: &[u8]) -> Form {
        match std::str::from_utf8(word).unwrap_or_default().trim_end_matches('\n') {
            "metrics" => Form::Metrics,
            "text" => Form::Text,
            word => {
                let phase = word.strip_prefix("phase ").and_then(|phase| phase.parse().ok());
                phase.map_or(Form::Json, Form::Phase)
            }
        }
    }
}

/// The open socket. Dropping it removes the socket's name.
#[derive(Debug)]
pub struct StatusSocket {
    path: PathBuf,
}

/// Opens the socket, in place of one that a dead process left, and answers with what `answer` gives.
///
/// # Errors
/// `AddrInUse` when another process answers there; `AlreadyExists` when something else has the name; what the system
/// says.
pub fn serve(path: &Path, answer: impl Fn(Form) -> String + Send + 'static) -> io::Result<StatusSocket> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && UnixStream::connect(path).is_err() => {
            if !fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "it is something else; name another path",
                ));
            }
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    start("status", move || {
        for caller in listener.incoming() {
            let told = caller.and_then(|mut caller| {
                caller.set_write_timeout(Some(PATIENCE))?;
                caller.set_read_timeout(Some(QUESTION))?;
                let mut word = [0; MAX_QUESTION];
                let len = caller.read(&mut word).unwrap_or(0);
                let asked = Form::of(word.get(..len).unwrap_or_default());
                caller.write_all(answer(asked).as_bytes())
            });
            if let Err(error) = told {
                detail!("status: {error}");
                // Out of file descriptors, for example: not again at once.
                thread::sleep(Duration::from_millis(50));
            }
        }
    })?;
    Ok(StatusSocket { path: path.into() })
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        // The next one removes it otherwise.
        let _ = fs::remove_file(&self.path);
    }
}

/// Asks a client how it is.
///
/// # Errors
/// What the system says; `TimedOut` when nothing comes.
pub fn ask(path: &Path, form: &Form) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(form.word().as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    })?;
    Ok(answer)
}

/// Where clients put their sockets when nobody says where: below `/run` for root, or below `XDG_RUNTIME_DIR`.
pub fn directory() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    match runtime {
        Some(dir) if !rustix::process::geteuid().is_root() => Path::new(&dir).join("imgfetch"),
        _ => "/run/imgfetch".into(),
    }
}

/// Sockets in these directories, sorted.
pub fn sockets(directories: &[PathBuf]) -> Vec<PathBuf> {
    let entries = directories.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let mut found: Vec<PathBuf> = Vec::new();
    for path in entries.map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "sock") {
            found.insert(found.partition_point(|other| *other < path), path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use system::files::Scratch;

    #[test]
    fn every_caller_is_answered_and_a_dead_socket_is_taken_over() {
        let scratch = Scratch::directory(std::env::temp_dir()).unwrap();
        let path = scratch.path().join("run/host.sock");
        let socket = serve(&path, |_| "{}\n".into()).unwrap();
        // One that never reads does not hold up the others.
        let _idle = UnixStream::connect(&path).unwrap();
        for _ in 0..3 {
            assert_eq!(ask(&path, &Form::Json).unwrap(), "{}\n");
        }
        let taken = serve(&path, |_| String::new()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(sockets(&[scratch.path().join("run")]), std::slice::from_ref(&path));
        drop(socket);
        assert!(!path.exists());
        // As a killed process leaves it.
        let listener = UnixListener::bind(&path).unwrap();
        drop(listener);
        let _socket = serve(&path, |form| format!("{form:?}")).unwrap();
        let phase = Form::Phase("sixteen-letters-".parse().unwrap());
        for form in [Form::Json, Form::Metrics, Form::Text, phase] {
            assert_eq!(ask(&path, &form).unwrap(), format!("{form:?}"));
        }
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let scratch = Scratch::directory(std::env::temp_dir()).unwrap();
        let path = scratch.path().join("letter");
        fs::write(&path, "dear").unwrap();
        let refused = serve(&path, |_| String::new()).unwrap_err();
        assert_eq!(refused.to_string(), "it is something else; name another path");
        assert_eq!(fs::read(&path).unwrap(), b"dear");
    }
}
