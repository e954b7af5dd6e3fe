use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use formats::report;

/// A directory of its own for one test.
fn room() -> Scratch {
    Scratch::directory(std::env::temp_dir()).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_has_its_name_only_after_commit() {
    let room = room();
    let target = room.path().join("index.idx");
    fs::write(&target, "old").unwrap();
    let mut file = AtomicFile::create(&target).unwrap();
    file.write_all(b"new").unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "old");
    assert_eq!(names(room.path()).len(), 2);
    file.commit().unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    assert_eq!(names(room.path()), ["index.idx"]);

    let mut synced = AtomicFile::create(&target).unwrap();
    synced.write_all(b"newer").unwrap();
    synced.commit_synced().unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "newer");
    assert_eq!(names(room.path()), ["index.idx"]);
}

#[test]
fn a_dropped_file_leaves_nothing() {
    let room = room();
    let mut file = AtomicFile::create(room.path().join("x")).unwrap();
    file.write_all(&[1; 100_000]).unwrap();
    drop(file);
    assert_eq!(names(room.path()), [""; 0]);
}

#[test]
fn a_failed_commit_leaves_nothing_and_names_the_target() {
    let room = room();
    let target = room.path().join("taken");
    fs::create_dir_all(target.join("full")).unwrap();
    let error = write_atomic(&target, b"x").unwrap_err();
    assert_eq!(error.to_string(), format!("{}: can't put in place", target.display()));
    assert_eq!(names(room.path()), ["taken"]);
}

#[test]
fn a_finished_file_is_put_where_a_link_leads_or_copied_into_a_pipe() {
    let room = room();
    let at = |name: &str| room.path().join(name);
    std::os::unix::fs::symlink("there", at("link")).unwrap();
    for content in ["first", "second"] {
        fs::write(at("made"), content).unwrap();
        OutputPath::find(at("link")).unwrap().take(&at("made")).unwrap();
        assert_eq!(fs::read_to_string(at("there")).unwrap(), content);
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
    }
    rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    fs::write(at("made"), vec![7; 3_000_000]).unwrap();
    let (fifo, reader) = (at("fifo"), at("fifo"));
    let reader = std::thread::spawn(move || fs::read(reader).unwrap());
    OutputPath::find(fifo).unwrap().take(&at("made")).unwrap();
    assert!(reader.join().unwrap() == vec![7; 3_000_000]);
    assert_eq!(names(room.path()), ["fifo", "link", "made", "there"]);
}

#[test]
fn what_is_written_again_and_again_is_a_regular_file() {
    let room = room();
    let at = |name: &str| room.path().join(name);
    std::os::unix::fs::symlink("sub/there", at("link")).unwrap();
    std::os::unix::fs::symlink("/dev/null", at("null")).unwrap();
    assert_eq!(regular_output(&at("new")).unwrap(), at("new"));
    assert_eq!(regular_output(&at("link")).unwrap(), at("sub/there"));
    for name in ["null", "/dev/stdout"] {
        let said = report::report(&regular_output(&at(name)).unwrap_err());
        let why = "it is written to many times, and needs a regular file; name one";
        assert_eq!(said, format!("error: {}: can't write to it\n  caused by: {why}", at(name).display()));
    }
}

#[test]
fn secrets_are_not_readable_by_others() {
    let room = room();
    let target = room.path().join("demo.key");
    AtomicFile::create_with_mode(&target, 0o600).unwrap().commit().unwrap();
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn scratch_goes_with_all_below_it_unless_persisted() {
    let room = room();
    let scratch = Scratch::directory(room.path()).unwrap();
    fs::create_dir(scratch.path().join("a")).unwrap();
    fs::write(scratch.path().join("a/b"), "x").unwrap();
    drop(scratch);
    assert_eq!(names(room.path()), [""; 0]);

    let kept = Scratch::directory(room.path()).unwrap();
    fs::write(kept.path().join("b"), "x").unwrap();
    kept.persist(room.path().join("kept")).unwrap();
    assert_eq!(names(room.path()), ["kept"]);
    assert_eq!(names(&room.path().join("kept")), ["b"]);
}

#[test]
fn a_sweep_takes_what_the_dead_left_and_spares_the_living() {
    let room = room();
    let below = room.path().join("blk/00");
    fs::create_dir_all(&below).unwrap();
    let alive = Scratch::file(&below).unwrap();
    let dead_file = below.join(format!("{PREFIX}1-0"));
    fs::write(&dead_file, "half").unwrap();
    let dead_dir = room.path().join(format!("{PREFIX}1-1"));
    fs::create_dir_all(dead_dir.join("sub")).unwrap();
    fs::write(below.join("not-ours.tmp"), "x").unwrap();

    assert_eq!(sweep(room.path()).unwrap(), [dead_dir, dead_file]);
    let alive = alive.path().file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(names(&below), [alive, "not-ours.tmp".into()]);
    assert!(sweep(room.path().join("missing")).unwrap().is_empty());
}

#[test]
fn a_directory_is_locked_once_at_a_time() {
    let room = room();
    let dir = room.path().join("out");
    let lock = DirLock::take(&dir).unwrap();
    assert_eq!(
        DirLock::take(&dir).unwrap_err().to_string(),
        format!(
            "{}: in use by process {}; wait until it has ended, or choose another directory",
            dir.display(),
            std::process::id()
        )
    );
    drop(lock);
    DirLock::take(&dir).unwrap();
}

#[test]
fn a_full_file_system_is_named_with_its_figures() {
    let room = room();
    let path = room.path().join("big");
    let full = FileError::new(&path, "write", io::ErrorKind::StorageFull.into());
    let FileError::NoSpace { path: named, mount, free, total, quota: false } = &full else {
        panic!("{full:?}")
    };
    assert_eq!(named, &path);
    assert!(room.path().starts_with(mount) && free <= total && *total > 0, "{full:?}");
    let said = FileError::NoSpace {
        path: "out/demo/demo.iso".into(),
        mount: "/home".into(),
        free: 4096,
        total: 20 << 30,
        quota: false,
    };
    assert_eq!(
        said.to_string(),
        "out/demo/demo.iso: no space left: the file system at /home has 4 KiB free of 20 GiB; free some space, \
         or choose another directory"
    );
}

#[test]
fn no_more_is_read_than_was_allowed() {
    let room = room();
    let path = room.path().join("latest");
    fs::write(&path, [b'x'; 11]).unwrap();
    assert_eq!(read_at_most(&path, 11).unwrap().len(), 11);
    assert_eq!(
        report::report(&read_at_most(&path, 10).unwrap_err()),
        format!("error: {}: can't read\n  caused by: it is larger than 10 B", path.display())
    );
}

#[test]
fn a_confined_directory_follows_no_link_and_reads_only_files_of_the_size_allowed() {
    let scratch = Scratch::directory(std::env::temp_dir()).unwrap();
    let (root, outside) = (scratch.path().join("root"), scratch.path().join("outside"));
    fs::create_dir_all(outside.join("dir")).unwrap();
    fs::write(outside.join("file"), "theirs").unwrap();
    let dir = ConfinedDir::new(&root);
    dir.create_dir("a/b").unwrap();
    dir.create_new("a/b/x", b"ours").unwrap();
    dir.create_dir("tmp").unwrap();
    dir.replace("tmp", "a/b/x", b"ours").unwrap();
    assert_eq!(dir.read("a/b/x", 4).unwrap(), b"ours");
    assert_eq!(dir.names("tmp").unwrap(), [""; 0], "nothing is left there");
    std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
    std::os::unix::fs::symlink(outside.join("file"), root.join("a/file")).unwrap();
    std::os::unix::fs::symlink("b", root.join("a/inside")).unwrap();
    for name in ["link/file", "a/file", "a/inside/x", "../outside/file", "/etc/hostname"] {
        assert!(dir.read(name, 100).is_err() && dir.regular(name).is_none(), "{name}");
    }
    let said = dir.read("link/file", 100).unwrap_err();
    assert_eq!(formats::report::report(&said).lines().count(), 2, "{said}");
    assert!(formats::report::report(&said).ends_with("links are not followed there"), "{said}");
    assert!(dir.create_dir("link/new").is_err() && dir.create_new("link/new", b"").is_err());
    assert!(dir.remove("link/file").is_err() && dir.rename("a/b/x", "link/x").is_err());
    assert!(dir.replace("link", "a/b/y", b"y").is_err());
    assert!(dir.names("link").is_err());
    // Of a link the link goes.
    dir.remove("link").unwrap();
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 2);
    // A hole is not read to its end.
    File::create(root.join("hole")).unwrap().set_len(1 << 40).unwrap();
    let kind = |error: FileError| match error {
        FileError::Io { source, .. } => source.kind(),
        other => panic!("{other}"),
    };
    assert_eq!(kind(dir.read("hole", 100).unwrap_err()), io::ErrorKind::FileTooLarge);
    assert_eq!(kind(dir.read_text("hole", 1 << 41).unwrap_err()), io::ErrorKind::InvalidData);
}
