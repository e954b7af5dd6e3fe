//! Caches that somebody has prepared: links out of the directory, FIFOs, devices, directories and huge files under each
//! name that the client uses. Nothing outside changes, nothing hangs, and the disk is served all the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use formats::block::BlockName;
use rustix::fs::{CWD, FileType, Mode, mkfifoat, mknodat};

use crate::fetch_support::fault_server::FaultServer;
use crate::fetch_support::{Publisher, disk, imgfetch, scratch, text};

/// What is put under a name.
#[derive(Clone, Copy, Debug)]
enum Trap {
    LinkToFile,
    LinkToDirectory,
    LinkToNothing,
    Fifo,
    Directory,
    Device,
    /// 1 TiB without a byte in it.
    Sparse,
}

const TRAPS: [Trap; 7] = [
    Trap::LinkToFile,
    Trap::LinkToDirectory,
    Trap::LinkToNothing,
    Trap::Fifo,
    Trap::Directory,
    Trap::Device,
    Trap::Sparse,
];

impl Trap {
    fn set(self, path: &Path, outside: &Path) {
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            let _ = fs::remove_file(path);
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match self {
            Trap::LinkToFile => symlink(outside.join("file"), path).unwrap(),
            Trap::LinkToDirectory => symlink(outside, path).unwrap(),
            Trap::LinkToNothing => symlink(outside.join("nothing"), path).unwrap(),
            Trap::Fifo => mkfifoat(CWD, path, Mode::RWXU).unwrap(),
            Trap::Directory => fs::create_dir_all(path.join("a/b")).unwrap(),
            // Major and minor number of /dev/zero.
            Trap::Device => {
                mknodat(CWD, path, FileType::CharacterDevice, Mode::RWXU, rustix::fs::makedev(1, 5)).unwrap();
            }
            Trap::Sparse => File::create(path).unwrap().set_len(1 << 40).unwrap(),
        }
    }
}

/// Each path below a directory, with the contents of files.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let entries = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    entries
        .map(|entry| {
            let bytes = entry.file_type().is_file().then(|| fs::read(entry.path()).unwrap());
            (entry.into_path(), bytes)
        })
        .collect()
}

/// Ends the test, not only the program, when it hangs.
fn finish(mut child: Child, what: &str) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("{what}: it hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_prepared_cache_changes_nothing_outside_and_keeps_no_machine_from_booting() {
    let publisher = Publisher::new();
    let disk = disk(6 * 4096, 9);
    let server = FaultServer::honest(publisher.publish(3, &[("host", &disk)]));
    let (url, key) = (server.url(), publisher.public());
    let work = scratch();
    let (cache, outside, out) =
        (work.path().join("cache"), work.path().join("outside"), work.path().join("out"));
    let block = BlockName::of(&disk[..4096]).path();
    let folder = block.rsplit_once('/').unwrap().0.to_owned();
    let names = [
        "VERSION",
        "lock",
        "tmp",
        "tmp/1-1",
        "blk",
        "blk/zz",
        "blk/zz/x",
        &folder,
        &block,
        "state",
        "state/lock",
        "state/pins",
        "state/demo.serial",
        "state/demo",
        "state/demo/release",
        "state/demo/latest",
        "state/demo/host.idx",
    ];
    fs::create_dir_all(outside.join("folder")).unwrap();
    fs::write(outside.join("file"), "precious\n").unwrap();
    fs::write(outside.join("folder/file"), "precious too\n").unwrap();
    let before = snapshot(&outside);
    let mut count = 0;
    for name in names {
        for trap in TRAPS {
            let what = format!("{name}: {trap:?}");
            let _ = fs::remove_dir_all(&cache);
            let fetch = || {
                let stdout = File::create(&out).unwrap();
                let mut cat = imgfetch();
                cat.args([
                    "cat",
                    "--mirror",
                    &url,
                    "--key",
                    &key,
                    "--image",
                    "host",
                    "--cache",
                    text(&cache),
                ]);
                let child = cat.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
                finish(child, &what)
            };
            // A cache as the client leaves it, and then what somebody does to it.
            assert!(fetch().status.success(), "{what}");
            trap.set(&cache.join(name), &outside);
            let found = fetch();
            assert!(found.status.success(), "{what}: {}", String::from_utf8_lossy(&found.stderr));
            assert!(fs::read(&out).unwrap() == disk, "{what}: wrong bytes");
            for words in [
                &["stats"][..],
                &["fsck"],
                &["pin", "--image", "host"],
                &["unpin"],
                &["evict", "--keep", "1MiB"],
            ] {
                let mut care = imgfetch();
                care.arg("cache").arg(words[0]).arg(&cache).args(&words[1..]);
                let code = finish(start(&mut care), &format!("{what}: {words:?}")).status.code();
                assert!(matches!(code, Some(0..=2)), "{what}: {words:?}: {code:?}");
                assert_eq!(snapshot(&outside), before, "{what}: {words:?}");
            }
            count += 1;
        }
    }
    println!("{count} prepared caches");
}
