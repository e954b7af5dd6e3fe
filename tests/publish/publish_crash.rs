//! The real programs, killed at every system call that changes a disk; after some of them the power fails too, and
//! takes with it what was not synced. Whatever came last: clients read the old release or the new one, whole, and the
//! next attempt completes.
//!
//! strace is the layer that kills: by its count of calls of one name, in each thread by itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imgfactory::project::keys::KeyFiles;
use imgfactory::repository::mirror::{Verify, trusted, verify};
use imgfactory::repository::targets::LocalTree;

use crate::publish_support::{
    self, Out, apache, assert_same, good, imgfactory, rsyncd, s3, scratch, sshd, tree, web,
};

/// What changes a disk, or makes a change last.
const CALLS: &str = "mkdir,mkdirat,write,pwrite64,writev,copy_file_range,sendfile,ftruncate,fallocate,fchmod,\
    rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,fsync,fdatasync,syncfs";

/// A directory as it is before each attempt.
struct Fixture {
    root: PathBuf,
    /// By name below `root`.
    files: BTreeMap<String, Vec<u8>>,
}

impl Fixture {
    /// Everything below this directory, names that begin with a dot too.
    fn of(root: &Path) -> Self {
        Fixture { root: root.into(), files: all(root) }
    }

    fn restore(&self) {
        for entry in fs::read_dir(&self.root).unwrap() {
            let path = entry.unwrap().path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap();
        }
        for (name, bytes) in &self.files {
            let path = self.root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        // A server may be another user.
        publish_support::run(Command::new("chmod").args(["-R", "a+rwX"]).arg(&self.root));
    }
}

fn all(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().into();
                    files.insert(name, fs::read(&path).unwrap());
                }
            }
        }
    }
    files
}

/// Runs a command below strace: the log, and whether it was killed.
fn traced(command: &Command, log: &Path, words: &[&str], kill: Option<(&str, usize)>) -> (String, bool) {
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-s", "4096"]).args(words).arg("-o").arg(log);
    if let Some((call, at)) = kill {
        strace.arg("-e").arg(format!("inject={call}:signal=KILL:when={at}"));
    }
    strace.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let output = strace.stdin(Stdio::null()).output().unwrap();
    let killed = output.status.signal() == Some(9) || output.status.code() == Some(137);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (fs::read_to_string(log).unwrap(), killed)
}

/// `PID call(...) = result`, without those that did not end.
fn ended(log: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    log.lines().filter_map(|line| {
        let (pid, rest) = line.split_once(char::is_whitespace)?;
        let (call, rest) = rest.trim_start().split_once('(')?;
        let (words, result) = rest.rsplit_once(" = ")?;
        (!result.starts_with(['-', '?'])).then_some((pid, call, words))
    })
}

/// How often each call is made, by the thread that makes it most.
fn counts(log: &str) -> BTreeMap<String, usize> {
    let mut by_thread: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (pid, call, _) in ended(log) {
        *by_thread.entry((call, pid)).or_default() += 1;
    }
    let mut most = BTreeMap::new();
    for ((call, _), count) in by_thread {
        let found = most.entry(call.to_owned()).or_insert(0);
        *found = count.max(*found);
    }
    most
}

/// What the power takes: contents of files that were renamed and not synced, one way or another.
fn power_cut(log: &str, how: usize) -> usize {
    let mut loose: Vec<PathBuf> = Vec::new();
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    for (pid, call, words) in ended(log) {
        let synced = matches!(last.insert(pid, call), Some("fsync" | "fdatasync"));
        match call {
            "syncfs" => loose.clear(),
            "rename" | "renameat" | "renameat2" if !synced => {
                loose.push(words.split('"').nth(3).expect("two paths").into());
            }
            _ => {}
        }
    }
    let there: Vec<_> = loose.iter().filter(|path| path.is_file()).collect();
    for (at, path) in there.iter().enumerate() {
        let len = usize::try_from(fs::metadata(path).unwrap().len()).unwrap();
        match (how + at) % 4 {
            0 => fs::write(path, vec![0; len]).unwrap(),
            1 => fs::write(path, &fs::read(path).unwrap()[..len / 2]).unwrap(),
            2 => fs::remove_file(path).unwrap(),
            _ => {}
        }
    }
    there.len()
}

/// The release that a tree serves; panics when it is not whole.
fn whole(root: &Path, keys: &[String]) -> u64 {
    let keys = trusted(keys).unwrap();
    let tree = LocalTree(root.into());
    let job = Verify { files: &tree, listed: None, keys: &keys, jobs: 1, percent: 100.0 };
    let report = verify(&job, &|_| Box::new(|_| {})).unwrap().expect("a release");
    // A list of mirrors that is newer than `latest` is passed over by clients until `latest` follows.
    let wrong =
        report.findings.iter().filter(|finding| !finding.to_string().starts_with("wrong    mirrors.txt"));
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&_>::new());
    report.serial.get()
}

/// Kills the command at every call, with and without a power cut, and looks each time.
fn at_every_call(fixture: &Fixture, command: &Command, look: &dyn Fn()) -> usize {
    let scratch = scratch();
    let log = scratch.path().join("log");
    let trace = format!("trace={CALLS}");
    let words = ["-f", "-e", &trace];
    fixture.restore();
    let (text, killed) = traced(command, &log, &words, None);
    assert!(!killed);
    let (mut points, mut lost) = (0, 0);
    for (call, count) in counts(&text) {
        for at in 1..=count {
            for power_fails in [false, true] {
                fixture.restore();
                let (text, killed) = traced(command, &log, &words, Some((&call, at)));
                if !killed {
                    continue;
                }
                points += 1;
                println!("killed at {call} number {at}; the power fails: {power_fails}");
                if power_fails {
                    lost += power_cut(&text, at);
                }
                look();
            }
        }
    }
    println!("{:?}: killed at {points} points; {lost} files lost their contents", command.get_args());
    points
}

#[test]
fn a_publication_killed_at_any_call_leaves_a_whole_release_and_the_next_one_completes() {
    let out = Out::new();
    out.build(&(1..=6).collect::<Vec<_>>());
    let home = scratch();
    let (from, to) = (home.path().join("out"), home.path().join("www"));
    good(&out.publish(to.to_str().unwrap(), &[]));
    out.build(&(4..=26).collect::<Vec<_>>());
    publish_support::run(Command::new("cp").arg("-a").arg(out.path()).arg(&from));
    let fixture = Fixture::of(home.path());
    let keys = [out.public()];
    let publish = || {
        let mut command = imgfactory();
        command.arg("publish").arg(&from).arg("--to").arg(&to).args(["--jobs", "1", "--stop", "--wait", "0"]);
        command.args(["--key", &keys[0]]);
        command
    };
    let points = at_every_call(&fixture, &publish(), &|| {
        assert!((1..=2).contains(&whole(&to, &keys)));
        good(&publish().output().unwrap());
        assert_eq!(whole(&to, &keys), 2);
        let ours = tree(&from.join("mirror"));
        let theirs = tree(&to);
        assert!(ours.iter().all(|(path, bytes)| path == "releases/1.txt" || theirs.get(path) == Some(bytes)));
        assert!(!to.join(".imgfactory/publishing").exists());
        assert!(!all(&to).keys().any(|path| path.contains(".imgfactory-tmp-")), "what is unfinished is gone");
    });
    assert!(points > 150, "{points}");
}

#[test]
fn a_pull_killed_at_any_call_leaves_a_whole_release_and_the_next_one_completes() {
    let out = Out::new();
    out.build(&(1..=6).collect::<Vec<_>>());
    let (_server, url) = web(&out.mirror());
    let home = scratch();
    let to = home.path().join("copy");
    let keys = [out.public()];
    let pull = || {
        let mut command = imgfactory();
        command.args(["mirror", "pull", &url]).arg(&to).args(["--jobs", "1", "--key", &keys[0]]);
        command
    };
    good(&pull().output().unwrap());
    out.build(&(4..=26).collect::<Vec<_>>());
    let fixture = Fixture::of(home.path());
    let points = at_every_call(&fixture, &pull(), &|| {
        assert!((1..=2).contains(&whole(&to, &keys)));
        good(&pull().output().unwrap());
        assert_eq!(whole(&to, &keys), 2);
        assert_same(&to, &out.mirror());
    });
    assert!(points > 120, "{points}");
}

#[test]
fn a_collection_killed_at_any_call_leaves_a_whole_release_and_the_next_one_completes() {
    let mut out = Out::new();
    (out.ago, out.retain) = (40 * 86_400, 86_400);
    out.build(&(1..=12).collect::<Vec<_>>());
    let home = scratch();
    let to = home.path().join("www");
    let name = to.to_str().unwrap();
    good(&out.publish(name, &[]));
    (out.ago, out.retain) = (0, 86_400);
    out.build(&[1, 2, 20]);
    good(&out.publish(name, &[]));
    let keys = [out.public()];
    let collect = || {
        let mut command = imgfactory();
        command.args(["gc", name, "--keep", "1", "--grace", "0s", "--jobs", "1", "--key", &keys[0]]);
        command
    };
    // The first one condemns.
    good(&collect().output().unwrap());
    let fixture = Fixture::of(home.path());
    let points = at_every_call(&fixture, &collect(), &|| {
        assert_eq!(whole(&to, &keys), 2);
        // Ten minutes later nobody minds the dead one's flag; one more, because the list may have been half way.
        let _ = fs::remove_file(to.join(".imgfactory/collecting"));
        good(&collect().output().unwrap());
        good(&collect().output().unwrap());
        assert_eq!(whole(&to, &keys), 2);
        assert_eq!(tree(&to).keys().filter(|path| path.starts_with("blk/")).count(), 3);
    });
    assert!(points > 40, "{points}");
}

#[test]
fn rollback_refresh_and_rotate_killed_at_any_call_leave_a_whole_release_and_can_be_repeated() {
    let out = Out::new();
    out.build(&[1, 2, 3]);
    out.build(&[1, 2, 4]);
    let home = scratch();
    let from = home.path().join("out");
    publish_support::run(Command::new("cp").arg("-a").arg(out.path()).arg(&from));
    let next = out.dir.path().join("next");
    let new = KeyFiles::new(&next).create(None).unwrap().public_base64();
    let fixture = Fixture::of(home.path());
    let keys = [out.public(), new];
    let root = from.join("mirror");
    let words: [&[&str]; 3] =
        [&["rollback", "--to", "1"], &["refresh"], &["rotate", "--to", next.to_str().unwrap()]];
    let mut points = 0;
    for words in words {
        let again = || {
            let mut command = imgfactory();
            command.arg(words[0]).arg(&from).args(&words[1..]).args(["--key", &out.key_name()]);
            command
        };
        points += at_every_call(&fixture, &again(), &|| {
            let serial = whole(&root, &keys);
            assert!((2..=3).contains(&serial));
            let output = again().output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            // It may have been done already.
            let done = words[0] == "rotate"
                && serial == 3
                && said.contains("check that the key is the one that signed it");
            assert!(output.status.success() || done, "{words:?}: {said}");
            whole(&root, &keys);
        });
    }
    assert!(points > 80, "{points}");
}

/// A target behind a server, killed at its conversation with it: at every `step`th of those calls of the publisher, in
/// which it waits for nobody but itself. What it has started, or the server, goes on by itself.
fn killed_in_conversation(to: &str, root: &Path, env: &[(&str, &str)], calls: &str, step: usize) {
    let out = Out::new();
    out.build(&(1..=6).collect::<Vec<_>>());
    let publish = || {
        let mut command = out.command("publish");
        command.args(["--to", to, "--jobs", "1", "--stop", "--wait", "0"]).envs(env.iter().copied());
        command
    };
    good(&publish().output().unwrap());
    out.build(&(4..=14).collect::<Vec<_>>());
    let (server, ours) = (Fixture::of(root), Fixture::of(&out.path()));
    let keys = [out.public()];
    let scratch = scratch();
    let log = scratch.path().join("log");
    // Not what it starts, and of its threads only the first, which does it all.
    let trace = format!("trace={calls}");
    let words = ["-e", &trace];
    let (text, killed) = traced(&publish(), &log, &words, None);
    assert!(!killed);
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut points = Vec::new();
    for (call, _) in text.lines().filter_map(|line| line.split_once('(')) {
        let number = numbers.entry(call).or_default();
        *number += 1;
        points.push((call, *number));
    }
    let mut seen = BTreeMap::new();
    for (call, at) in points.iter().rev().step_by(step) {
        server.restore();
        ours.restore();
        let (_, killed) = traced(&publish(), &log, &words, Some((call, *at)));
        let serial = whole(root, &keys);
        assert!((1..=2).contains(&serial), "{call} number {at}");
        *seen.entry((killed, serial)).or_insert(0) += 1;
        good(&publish().output().unwrap());
        assert_eq!(whole(root, &keys), 2, "{call} number {at}");
    }
    println!("{to}: {} points of {}: {seen:?}", points.len().div_ceil(step), points.len());
    assert!(seen.get(&(true, 1)).is_some_and(|count| *count >= 3), "{seen:?}");
}

#[test]
fn a_publication_to_apache_killed_in_its_conversation_leaves_a_whole_release() {
    let (server, _, dav) = apache();
    let env = [("IMGFACTORY_HTTP_USER", "p"), ("IMGFACTORY_HTTP_PASSWORD", "p")];
    killed_in_conversation(&dav, &server.path("tree"), &env, "sendto,recvfrom", 7);
}

#[test]
fn a_publication_to_an_s3_server_killed_in_its_conversation_leaves_a_whole_release() {
    let (server, to) = s3();
    let env = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    killed_in_conversation(&to, &server.path("data/bucket/demo"), &env, "sendto,recvfrom", 7);
}

#[test]
fn a_publication_to_an_rsync_daemon_killed_in_its_conversation_leaves_a_whole_release() {
    let (server, to) = rsyncd();
    killed_in_conversation(&to, &server.path("tree/demo"), &[], "wait4,waitid", 1);
}

#[test]
fn a_publication_by_rsync_over_ssh_killed_in_its_conversation_leaves_a_whole_release() {
    let (server, to, path) = sshd();
    killed_in_conversation(&to, &server.path("tree/demo"), &[("PATH", &path)], "wait4,waitid", 2);
}
