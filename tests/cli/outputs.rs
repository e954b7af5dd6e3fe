//! Outputs to what is no regular file: links, devices, pipes. Needs root and loop devices.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::programs;

fn shell(dir: &Path, script: &str) -> Output {
    let path = programs::imgfactory().parent().unwrap().display().to_string();
    let path = format!("{path}:{}", std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(dir).env("PATH", path).env("NO_COLOR", "1");
    command.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap()
}

fn done(dir: &Path, script: &str) -> (String, String) {
    let out = shell(dir, script);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{script}: {said}");
    (String::from_utf8_lossy(&out.stdout).into_owned(), said)
}

fn refused(dir: &Path, script: &str) -> String {
    let out = shell(dir, script);
    assert_eq!(out.status.code(), Some(1), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stderr).unwrap()
}

/// A loop device over a file of this many bytes, gone when dropped: its name, and that of a node of our own for it, so
/// that the machine's is not put at risk.
struct Loop(String, String);

impl Loop {
    fn new(dir: &Path, bytes: u64) -> Self {
        let file = tempfile::Builder::new().prefix("backing").tempfile_in(dir).unwrap();
        // What was there must be gone where the image has zeros.
        std::fs::write(file.path(), vec![0xa5; usize::try_from(bytes).unwrap()]).unwrap();
        let out = Command::new("losetup").arg("--find").arg("--show").arg(file.path()).output().unwrap();
        assert!(out.status.success(), "losetup: {}", String::from_utf8_lossy(&out.stderr));
        let device = String::from_utf8(out.stdout).unwrap().trim().to_owned();
        let node = device.trim_start_matches("/dev/").to_owned();
        done(dir, &format!("mknod {node} b 7 {}", node.trim_start_matches("loop")));
        Loop(device, node)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A directory `d`, its image `d.img` and layout `d.layout`, and the image's blocks in `m`.
fn room() -> tempfile::TempDir {
    let room = tempfile::tempdir().unwrap();
    done(
        room.path(),
        "mkdir -p d/etc; echo hello > d/etc/issue; seq 100000 > d/numbers; find d -exec touch -h -d @1600000000 {} +
         imgfactory image pack --from d --to d.img --name x --free 1MiB --layout d.layout
         imgfactory image split d.img --store m --image x
         imgfactory index export m/images/x/1/index.idx -o d.list",
    );
    room
}

/// Commands that write a file whose name the user gives, as `$1`; and the file that it must equal.
const WRITERS: [(&str, &str); 5] = [
    ("imgfactory image pack --from d --name x --free 1MiB --layout l --to \"$1\"", "d.img"),
    ("imgfactory image pack --from d --name x --free 1MiB --to i --layout \"$1\"", "d.layout"),
    ("imgfactory image join m/images/x/1/index.idx --store m --to \"$1\"", "d.img"),
    ("imgfactory index export m/images/x/1/index.idx -o \"$1\"", "d.list"),
    (
        "imgfactory index import d.list --mirror m --image x --insecure --size $(stat -c %s d.img) -o \"$1\"",
        "m/images/x/1/index.idx",
    ),
];

#[test]
fn a_symbolic_link_stays_and_what_it_leads_to_is_written() {
    let room = room();
    for (command, made) in WRITERS {
        let script = format!(
            "put() {{ {command}; }}; rm -rf sub; mkdir sub; echo old > sub/there; ln -sf sub/there one; ln -sf one two; ln -sf sub/new three
             put two; cmp sub/there {made}; test -L two; test -L one
             put three; cmp sub/new {made}; test -L three; rm one two three; test -z \"$(ls -A sub | grep tmp || true)\""
        );
        done(room.path(), &script);
    }
    let error = refused(room.path(), "ln -s a b; ln -s b a; imgfactory image pack --from d --to a");
    assert!(
        error.contains("a: can't write to it\n  caused by: it is a symbolic link that leads to itself"),
        "{error}"
    );
}

#[test]
fn a_device_file_stays_one() {
    let room = room();
    // A null device of our own: the machine's is not put at risk.
    done(room.path(), "mknod null c 1 3");
    for (command, _) in WRITERS {
        done(room.path(), &format!("put() {{ {command}; }}; put null"));
        let null = std::fs::symlink_metadata(room.path().join("null")).unwrap();
        assert!(null.file_type().is_char_device(), "{command}");
    }
}

#[test]
fn a_pipe_gets_the_bytes_and_nothing_else() {
    let room = room();
    for (command, made) in WRITERS {
        done(
            room.path(),
            &format!(
                "put() {{ {command}; }}; rm -f p; mkfifo p; cat p > got & put p; wait; cmp got {made}; test -p p
                 put /dev/stdout | cmp - {made}; (echo before; put /dev/stdout; ) > got; (echo before; cat {made}) | cmp - got"
            ),
        );
    }
    let closed = shell(room.path(), "imgfactory image join m/images/x/1/index.idx --store m --to /dev/full");
    assert_eq!(closed.status.code(), Some(1));
}

#[test]
fn what_takes_no_bytes_is_refused_before_the_work() {
    let room = room();
    done(
        room.path(),
        "mkdir dir; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")' || perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local=>\"sock\",Listen=>1) or die'",
    );
    for (command, _) in WRITERS {
        let error = refused(room.path(), &format!("put() {{ {command}; }}; put dir"));
        assert!(
            error.contains("dir: can't write to it\n  caused by: it is a directory; name a file in it"),
            "{error}"
        );
        let error = refused(room.path(), &format!("put() {{ {command}; }}; put sock"));
        assert!(error.contains("sock: can't write to it\n  caused by: it is a socket;"), "{error}");
    }
}

#[test]
fn a_block_device_is_written_in_place_if_it_is_large_enough_and_not_in_use() {
    let room = room();
    let device = Loop::new(room.path(), 4 << 20);
    let name = &device.1;
    for (command, made) in WRITERS {
        let (_, said) = done(
            room.path(),
            &format!(
                "put() {{ {command}; }}; put {name}; test -b {name}; sync; cmp -n $(stat -c %s {made}) {name} {made}"
            ),
        );
        assert!(said.contains(&format!("warning: {name}: overwriting ")), "{command}: {said}");
        assert!(said.contains("of this device of 4 MiB"), "{said}");
    }
    // Behind the image nothing is changed.
    done(room.path(), &format!("tail -c 1000 {name} | tr -d '\\245' | cmp - /dev/null"));

    let small = Loop::new(room.path(), 1 << 20);
    let error = refused(room.path(), &format!("imgfactory image pack --from d --free 2MiB --to {}", small.1));
    assert!(
        error.contains("caused by: it has 1 MiB, and the result ") && error.contains("; use a larger one"),
        "{error}"
    );
    done(room.path(), &format!("head -c 4096 {} | tr -d '\\245' | cmp - /dev/null", small.1));

    done(
        room.path(),
        &format!(
            "imgfactory image join m/images/x/1/index.idx --store m --to {name}; mkdir mnt; mount {name} mnt"
        ),
    );
    let error = refused(room.path(), &format!("imgfactory image pack --from d --to {name}"));
    done(room.path(), "umount mnt");
    assert!(error.contains("it is in use: mounted, or part of another device; lsblk shows it"), "{error}");
}
