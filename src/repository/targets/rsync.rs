//! A target that `rsync` reaches: over ssh, or a daemon. The program itself does the work; it writes each file
//! beside its name and renames it.
//!
//! `RSYNC_RSH` and `RSYNC_PASSWORD` mean what rsync's manual says.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::{local, read_file};
use crate::publish::{
    CONTROL_DIR, DatedFile, FileToSend, Listed, MirrorFiles, Remote, RemoteError, RemotePath,
};
use crate::sys::process::{Tool, ToolError};
use formats::names::UnixTime;
use system::files::{FileError, Scratch};

/// Attempts when the connection breaks.
const ATTEMPTS: u32 = 4;
/// Files read by one run of the program: with the longest names far below what a command line holds.
const TOGETHER: usize = 128;
/// Before the second one; doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
/// A daemon whose connections are all taken is asked again for so long, however often that is.
const BUSY: Duration = Duration::from_secs(600);
/// The longest pause between two such attempts.
const LONGEST: Duration = Duration::from_secs(15);

/// Seconds for which an ssh connection waits for the next run of rsync.
const KEPT: u32 = 60;

/// A tree behind rsync.
#[derive(Debug)]
pub struct Rsync {
    /// rsync's destination; ends with `/`.
    to: String,
    ssh: Option<SharedSsh>,
}

/// What ssh reads of the environment: its agent, how it asks for a password, Kerberos tickets.
const OF_SSH: [&str; 5] = ["SSH_", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "KRB5"];

fn ssh() -> Tool {
    Tool::new("ssh").pass_env(&OF_SSH)
}

/// One ssh connection for all runs of rsync: without it each of them would set up a connection again.
#[derive(Debug)]
struct SharedSsh {
    host: String,
    /// Where its socket is.
    room: Scratch,
}

impl SharedSsh {
    /// `None` when the person has an opinion (`RSYNC_RSH`, or a ControlPath in the configuration of ssh), or when a
    /// socket has no room in `TMPDIR`.
    fn new(to: &str) -> Option<Self> {
        let (host, _) = to.split_once(':').filter(|_| !to.contains("://"))?;
        if std::env::var_os("RSYNC_RSH").is_some() {
            return None;
        }
        let config = ssh().args(["-G", "--", host]).output().ok()?;
        let chosen = String::from_utf8_lossy(&config)
            .lines()
            .any(|line| line.strip_prefix("controlpath ").is_some_and(|path| path != "none"));
        if chosen {
            return None;
        }
        let room = Scratch::directory(std::env::temp_dir()).ok()?;
        let path = room.path().to_str()?;
        // unix(7): 107 bytes; ssh wants 40 for the hash and 18 for a name that it makes first. And rsync splits the
        // command at blanks.
        let fits = path.len() <= 45
            && !path.contains(|c: char| c.is_whitespace() || c.is_control() || "\"'%".contains(c));
        fits.then(|| SharedSsh { host: host.into(), room })
    }

    fn options(&self) -> [String; 3] {
        [
            "-oControlMaster=auto".into(),
            format!("-oControlPersist={KEPT}"),
            format!("-oControlPath={}/%C", self.room.path().display()),
        ]
    }
}

impl Drop for SharedSsh {
    fn drop(&mut self) {
        // Without any connection there is none to be ended.
        let _ = ssh().args(self.options()).args(["-q", "-O", "exit", "--", &self.host]).output();
    }
}

impl Rsync {
    /// A tree at what rsync takes as destination; ends with `/`.
    pub fn new(to: &str) -> Self {
        Rsync { to: to.into(), ssh: SharedSsh::new(to) }
    }

    /// rsync with what all runs have in common: no metadata but lengths, whole files, plain numbers.
    fn tool(&self) -> Tool {
        // A name in a list is never a pattern, and the other side's shell never sees it.
        let tool = Tool::new("rsync").pass_env(&OF_SSH).pass_env(&["RSYNC_"]).args([
            "--timeout=120",
            "--no-human-readable",
            "--protect-args",
        ]);
        // Without it each of rsync's small questions to a daemon waits 40 ms for a delayed ACK.
        match &self.ssh {
            Some(ssh) => tool.env("RSYNC_RSH", format!("ssh {}", ssh.options().join(" "))),
            None if self.to.starts_with("rsync://") => tool.arg("--sockopts=TCP_NODELAY"),
            None => tool,
        }
    }

    /// Runs it until it works, or fails in a way that will not change.
    fn run<T>(&self, doing: &str, mut once: impl FnMut() -> Result<T, ToolError>) -> Result<T, RemoteError> {
        let (mut attempt, mut pause) = (1, PAUSE);
        let end = Instant::now() + BUSY;
        loop {
            let error = match once() {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            match Trouble::of(&error) {
                Trouble::Busy if Instant::now() + pause <= end => {
                    // Our own last connection may not be quite gone: one slot is enough for us alone.
                    pause = pause.min(LONGEST);
                    log::info!("{}: all connections of the daemon are taken; trying again", self.to);
                }
                Trouble::Broken if attempt < ATTEMPTS => {
                    attempt += 1;
                    log::info!("{}: the connection broke; trying again", self.to);
                }
                _ => return Err(RemoteError::new(format!("{}: can't {doing}", self.to), error)),
            }
            thread::sleep(pause);
            pause *= 2;
        }
    }

    fn scratch() -> Result<Scratch, RemoteError> {
        Scratch::directory(std::env::temp_dir()).map_err(local)
    }

    fn listed(&self, doing: &str, tool: impl Fn() -> Tool) -> Result<Vec<Listed>, RemoteError> {
        let printed = self.run(doing, || {
            let mut running = tool().pipe_stdout().spawn()?;
            let mut printed = Vec::new();
            if let Some(mut stdout) = running.take_stdout() {
                // What can't be read to its end ends the program too, and that shows below.
                let _ = stdout.read_to_end(&mut printed);
            }
            let result = running.wait().or_else(unless_vanished);
            Ok(unless_missing(result)?.map(|()| printed).unwrap_or_default())
        })?;
        Ok(String::from_utf8_lossy(&printed).lines().filter_map(listed_line).collect())
    }
}

/// Why rsync failed, as far as another attempt depends on it.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// The daemon has no connection for us just now, or this one of its locks is held.
    Busy,
    /// The connection broke, or there was none.
    Broken,
    /// It stays as it is.
    Lasting,
}

impl Trouble {
    fn of(error: &ToolError) -> Self {
        let ToolError::Failed { status, tail, .. } = error else { return Trouble::Lasting };
        Self::told(status.code(), tail)
    }

    /// By rsync(1), EXIT VALUES, and by what the daemon says: it has no status of its own for being busy.
    fn told(code: Option<i32>, tail: &[String]) -> Self {
        let says = |word: &str| tail.iter().any(|line| line.contains(word));
        match code {
            Some(5) if says("max connections") || says("try again later") => Trouble::Busy,
            // Sockets, streams, timeouts, and ssh's own failure.
            Some(10 | 12 | 30 | 35 | 255) => Trouble::Broken,
            _ => Trouble::Lasting,
        }
    }
}

/// That the directory itself is not there yet is no failure of what reads from it: `None`.
/// Its status is 23, 3 with a list of files, and 12 when ssh is between.
fn unless_missing<T>(result: Result<T, ToolError>) -> Result<Option<T>, ToolError> {
    match result {
        Ok(result) => Ok(Some(result)),
        Err(ToolError::Failed { status, tail, .. })
            if matches!(status.code(), Some(3 | 12 | 23))
                && tail.iter().any(|line| line.contains("change_dir") && line.contains("No such file")) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Names whose directories are not there either are "vanished" (24) to rsync, even those that may be missing.
fn unless_vanished(error: ToolError) -> Result<(), ToolError> {
    match error {
        ToolError::Failed { status, .. } if status.code() == Some(24) => Ok(()),
        error => Err(error),
    }
}

/// Paths, each ended by NUL.
fn names<T: ToString>(paths: impl Iterator<Item = T>) -> Vec<u8> {
    paths.flat_map(|path| (path.to_string() + "\0").into_bytes()).collect()
}

/// `-rw-r--r--     1234 2026/11/21 14:27:45 blk/ec/...`
fn listed_line(line: &str) -> Option<Listed> {
    let mut words = line.split_whitespace();
    let (kind, len, path) = (words.next()?, words.next()?, words.nth(2)?);
    // Some versions part thousands although an option forbids it.
    let len = len.replace(',', "").parse().ok()?;
    kind.starts_with('-').then(|| Listed { path: path.into(), len })
}

impl Remote for Rsync {
    fn name(&self) -> String {
        self.to.clone()
    }

    fn get(&self, place: &RemotePath) -> Result<Option<Vec<u8>>, RemoteError> {
        Ok(self.get_dated(place)?.map(|(bytes, _)| bytes))
    }

    fn get_dated(&self, place: &RemotePath) -> Result<Option<DatedFile>, RemoteError> {
        let scratch = Self::scratch()?;
        let file = scratch.path().join("file");
        let (from, most) = (format!("{}{place}", self.to), format!("--max-size={}", place.limit()));
        self.run(&format!("read {place}"), || {
            let tool = self.tool().args(["--times", "--ignore-missing-args", &most, "--", &from]);
            unless_missing(tool.arg(&file).run()).map(|_| ())
        })?;
        // What a publisher writes has the time at which the other side wrote it, and --times brings that here.
        let written = fs::metadata(&file).ok().and_then(|found| found.modified().ok());
        let written = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let bytes = read_file(&file, place.limit()).map_err(local)?;
        Ok(bytes.map(|bytes| (bytes, written.map(|since| UnixTime(since.as_secs())))))
    }

    fn get_all(&self, places: &[RemotePath]) -> Result<Vec<Option<Vec<u8>>>, RemoteError> {
        if places.is_empty() {
            return Ok(vec![]);
        }
        let scratch = Self::scratch()?;
        // Not by a list: a daemon of version 3.5.0 without chroot calls everything in it vanished.
        let from: Vec<_> = places.iter().map(|place| format!("{}./{place}", self.to)).collect();
        let most = format!("--max-size={}", places.iter().map(RemotePath::limit).max().unwrap_or_default());
        self.run("read", || {
            let tool = self.tool().args(["--ignore-missing-args", "--relative", &most, "--"]).args(&from);
            unless_missing(tool.arg(scratch.path()).run())
        })?;
        let read = |place: &RemotePath| read_file(&scratch.path().join(place.to_string()), place.limit());
        places.iter().map(|place| read(place).map_err(local)).collect()
    }

    fn together(&self) -> usize {
        TOGETHER
    }

    fn lengths(&self, items: &[FileToSend]) -> Result<Vec<Option<u64>>, RemoteError> {
        if items.is_empty() {
            return Ok(vec![]);
        }
        let list = names(items.iter().map(|item| &item.path));
        // With a list of files rsync wants a second place, although it copies nothing.
        let scratch = Self::scratch()?;
        let found = self.listed("list its files", || {
            self.tool()
                .args(["--list-only", "--ignore-missing-args", "--from0", "--files-from=-", "--", &self.to])
                .arg(scratch.path())
                .input(list.clone())
        })?;
        let found: HashMap<String, u64> = found.into_iter().map(|listed| (listed.path, listed.len)).collect();
        Ok(items.iter().map(|item| found.get(&item.path.to_string()).copied()).collect())
    }

    fn put(
        &self,
        tree: &dyn MirrorFiles,
        items: &[FileToSend],
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RemoteError> {
        let Some(root) = tree.root() else {
            return Err(RemoteError::new(&self.to, "rsync copies from a directory only"));
        };
        for item in items {
            let path = root.join(item.path.to_string());
            let found =
                fs::metadata(&path).map_err(|error| local(FileError::new(&path, "inspect", error)))?;
            if found.len() != item.len {
                let text = format!("{} bytes here instead of {}", found.len(), item.len);
                return Err(RemoteError::new(path.display().to_string(), text));
            }
        }
        let list = names(items.iter().map(|item| &item.path));
        let from = format!("{}/", root.display());
        self.run("write", || {
            let mut running = self
                .tool()
                .args(["--ignore-times", "--whole-file", "--chmod=D755,F644", "--out-format=%l"])
                .args(["--from0", "--files-from=-", "--", &from, &self.to])
                .input(list.clone())
                .pipe_stdout()
                .spawn()?;
            if let Some(stdout) = running.take_stdout() {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    sent(line.trim().parse().unwrap_or(0));
                }
            }
            running.wait()
        })
    }

    fn write(&self, place: &RemotePath, bytes: &[u8]) -> Result<(), RemoteError> {
        let scratch = Self::scratch()?;
        let file = scratch.path().join("file");
        fs::write(&file, bytes).map_err(|error| local(FileError::new(&file, "write", error)))?;
        let to = format!("{}{place}", self.to);
        self.run(&format!("write {place}"), || {
            self.tool()
                .args(["--ignore-times", "--whole-file", "--mkpath", "--chmod=D755,F644", "--"])
                .arg(&file)
                .arg(&to)
                .run()
        })
    }

    fn remove(&self, places: &[RemotePath]) -> Result<(), RemoteError> {
        // What a list names and an empty directory has not is removed on the other side.
        let scratch = Self::scratch()?;
        let list = names(places.iter());
        let from = format!("{}/", Path::display(scratch.path()));
        self.run("remove", || {
            self.tool()
                .args(["--delete-missing-args", "--from0", "--files-from=-", "--", &from, &self.to])
                .input(list.clone())
                .run()
                .or_else(unless_vanished)
        })
    }

    fn list(&self) -> Result<Option<Vec<Listed>>, RemoteError> {
        let exclude = format!("--exclude=/{CONTROL_DIR}");
        self.listed("list", || self.tool().args(["--recursive", "--list-only", &exclude, "--", &self.to]))
            .map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_to_try_again_is_told_by_what_rsync_says() {
        for (code, line, trouble) in [
            (5, "@ERROR: max connections (1) reached -- try again later", Trouble::Busy),
            (5, "@ERROR: auth failed on module mirror", Trouble::Lasting),
            (5, "@ERROR: Unknown module 'x'", Trouble::Lasting),
            (12, "rsync: connection unexpectedly closed (0 bytes received so far)", Trouble::Broken),
            (255, "ssh: connect to host x port 22: Connection refused", Trouble::Broken),
            (23, "rsync: [sender] change_dir \"/x\" failed: Permission denied (13)", Trouble::Lasting),
        ] {
            assert_eq!(Trouble::told(Some(code), &[line.to_owned()]), trouble, "{code}: {line}");
        }
    }

    #[test]
    fn a_line_of_a_list_is_a_length_and_a_path() {
        let file = |path: &str, len| Some(Listed { path: path.into(), len });
        for (line, listed) in [
            ("-rw-r--r--          1,234 2026/11/21 14:27:45 latest", file("latest", 1234)),
            ("-rw-r--r--             12 2026/11/21 14:27:45 blk/ec/x", file("blk/ec/x", 12)),
            ("drwxr-xr-x          4,096 2026/11/21 14:27:45 blk", None),
            ("Welcome to this mirror", None),
        ] {
            assert_eq!(listed_line(line), listed, "{line}");
        }
    }
}
