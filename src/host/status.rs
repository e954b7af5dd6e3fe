//! `imgfetch status`: a Unix socket that gives every caller one line of JSON and closes. It has a thread of its
//! own and takes only what is in memory, so it answers while the network is dead.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// A caller that does not take its answer is left after this.
const PATIENCE: Duration = Duration::from_secs(2);
/// An answer is not longer than this.
const MAX_ANSWER: u64 = 1 << 20;

/// The open socket. Dropping it removes the socket's name.
#[derive(Debug)]
pub struct StatusSocket {
    path: PathBuf,
}

/// Opens the socket, in place of one that a dead process left, and answers with what `answer` gives.
///
/// # Errors
/// `AddrInUse` when another process answers there; what the system says.
pub fn serve(path: &Path, answer: impl Fn() -> String + Send + 'static) -> io::Result<StatusSocket> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && UnixStream::connect(path).is_err() => {
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    thread::Builder::new().name("status".into()).spawn(move || {
        for caller in listener.incoming() {
            let told = caller.and_then(|mut caller| {
                caller.set_write_timeout(Some(PATIENCE))?;
                caller.write_all(answer().as_bytes())
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
pub fn ask(path: &Path) -> io::Result<String> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
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
    let mut found: Vec<_> = entries.map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "sock"));
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::files::Scratch;

    #[test]
    fn every_caller_is_answered_and_a_dead_socket_is_taken_over() {
        let scratch = Scratch::directory(std::env::temp_dir()).unwrap();
        let path = scratch.path().join("run/host.sock");
        let socket = serve(&path, || "{}\n".into()).unwrap();
        // One that never reads does not hold up the others.
        let _idle = UnixStream::connect(&path).unwrap();
        for _ in 0..3 {
            assert_eq!(ask(&path).unwrap(), "{}\n");
        }
        let taken = serve(&path, String::new).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(sockets(&[scratch.path().join("run")]), std::slice::from_ref(&path));
        drop(socket);
        assert!(!path.exists());
        // As a killed process leaves it.
        let listener = UnixListener::bind(&path).unwrap();
        drop(listener);
        let _socket = serve(&path, || "2".into()).unwrap();
        assert_eq!(ask(&path).unwrap(), "2");
    }
}
