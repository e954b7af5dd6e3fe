//! The disk as the kernel sees it: FUSE, loop device, ext2; with mirrors that come and go. Needs root.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use formats::block::BlockName;
use formats::digest::Sha256;
use formats::release::MirrorPath;

use crate::fetch_support::fault_server::{Act, FaultServer, Gate};
use crate::fetch_support::{
    Mount, Publisher, Tree, block_paths, cat, disk, imgfetch, run, scratch, text, until,
};
use crate::programs;

const BLOCK: u64 = 4096;

struct World {
    publisher: Publisher,
    disk: Vec<u8>,
    tree: Tree,
}

fn world() -> World {
    let publisher = Publisher::new();
    let disk = disk(300 * 4096 + 1000, 1);
    let tree = publisher.publish(7, &[("host", &disk)]);
    World { publisher, disk, tree }
}

impl World {
    fn mount(&self, server: &FaultServer, words: &[&str]) -> Mount {
        Mount::new(&[&server.url()], &self.publisher.public(), words)
            .unwrap_or_else(|output| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn read_at(path: &Path, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    File::open(path)?.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// As from a cold kernel.
fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
}

#[test]
fn the_disk_is_a_file_that_can_only_be_read() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    let mount = world.mount(&server, &[]);
    let names: Vec<_> =
        fs::read_dir(&mount.mountpoint).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["disk"]);
    let found = fs::metadata(mount.disk()).unwrap();
    assert_eq!(found.len(), world.disk.len() as u64);
    assert!(fs::read(mount.disk()).unwrap() == world.disk);
    assert_eq!(fs::write(mount.disk(), "x").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let fetched = server.blocks_asked();
    let blocks = block_paths(&world.tree).len();
    let twice = mount.status()["counters"]["hedged"].as_u64().unwrap();
    // Not every second request gets as far as the server before the first is answered.
    assert!((blocks..=blocks + twice as usize).contains(&fetched), "{fetched} requests for {blocks} blocks");

    // The kernel keeps it, also for the next who opens it.
    let kept = (0..5).any(|_| {
        let reads = mount.status()["counters"]["reads"].clone();
        assert!(fs::read(mount.disk()).unwrap() == world.disk);
        // Unless somebody drops the caches of the whole machine just now.
        mount.status()["counters"]["reads"] == reads
    });
    assert!(kept);
    // Odd places: across blocks, at the end, past it, from RAM after the kernel forgot.
    drop_caches();
    let mut file = File::open(mount.disk()).unwrap();
    let end = world.disk.len();
    for (offset, len) in [(4095, 2), (1, 4096 * 3), (end - 5, 5), (end / 2 - 10, 4096 * 4)] {
        assert!(read_at(&mount.disk(), offset as u64, len).unwrap() == world.disk[offset..offset + len]);
    }
    file.seek(SeekFrom::Start(end as u64)).unwrap();
    assert_eq!(file.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(server.blocks_asked(), fetched, "32 MiB of RAM hold all of it");
    // Mapped into memory.
    run(Command::new("cmp").arg(mount.disk()).arg(mount.disk()));
    drop(file);

    let status = mount.status();
    assert_eq!(
        (&status["state"], &status["serial"], &status["image"], &status["name"]),
        (&"serving".into(), &7.into(), &"host".into(), &"demo".into())
    );
    assert_eq!(status["mirrors"][0]["state"], "good");
    assert_eq!(status["counters"]["fetched_blocks"], blocks);
    mount.kill("-TERM");
    until("unmounted", || fs::read_dir(&mount.mountpoint).is_ok_and(|mut entries| entries.next().is_none()));
    until("the socket is gone", || !mount.socket.exists());
}

#[test]
fn a_read_that_waits_does_not_hold_up_others_and_a_busy_disk_is_not_left() {
    let world = world();
    const LATE: u64 = 70;
    let late = BlockName::of(&world.disk[(LATE * BLOCK) as usize..][..BLOCK as usize]);
    let late = MirrorPath::Block(late).to_string();
    // The answer for one block waits until the gate is opened.
    let gate = Gate::default();
    let server = FaultServer::new(world.tree.clone(), {
        let gate = gate.clone();
        move |path, _| if path == late { Act::Behind(gate.clone()) } else { Act::Serve }
    });
    let mount = world.mount(&server, &[]);
    let disk = mount.disk();
    // Every block by its own reader; without read-ahead, so that each reader waits for its own block only.
    let mut readers: Vec<_> = (0..300_u64)
        .map(|block| {
            let disk = disk.clone();
            thread::spawn(move || {
                let file = File::open(disk).unwrap();
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
                let mut bytes = vec![0; BLOCK as usize];
                file.read_exact_at(&mut bytes, block * BLOCK).unwrap();
                (block, bytes)
            })
        })
        .collect();
    mount.kill("-TERM");
    let check = |reader: thread::JoinHandle<(u64, Vec<u8>)>| {
        let (block, bytes) = reader.join().unwrap();
        let at = (block * BLOCK) as usize;
        assert!(bytes == world.disk[at..at + bytes.len()], "block {block}");
    };
    // The others end before the gate is opened.
    let late = readers.remove(LATE as usize);
    readers.into_iter().for_each(check);
    assert!(!late.is_finished(), "its answer is still to come");
    gate.open();
    check(late);
}

#[test]
fn a_mirror_that_goes_away_is_an_error_by_the_deadline_and_the_disk_is_well_when_it_is_back() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    let mount = world.mount(&server, &["--deadline", "3s", "--ram", "1MiB"]);
    assert!(read_at(&mount.disk(), 0, 4096).unwrap() == world.disk[..4096]);
    server.go_down();
    // In the middle of a read of the whole disk.
    let start = Instant::now();
    let error = fs::read(mount.disk()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    // The kernel asks for the page itself after its read-ahead has failed.
    assert!(start.elapsed() < Duration::from_secs(45), "{:?}", start.elapsed());
    server.come_back();
    assert!(fs::read(mount.disk()).unwrap() == world.disk);

    // A read that has more time waits for the mirror.
    let mount = world.mount(&server, &["--deadline", "60s", "--no-prefetch"]);
    server.go_down();
    let disk = mount.disk();
    let waiting = thread::spawn(move || read_at(&disk, 200 * BLOCK, 4096));
    until("the status says while the network is dead that a read waits", || {
        let status = mount.status();
        status["mirrors"][0]["state"] == "down" && status["reads_waiting"].as_u64() >= Some(1)
    });
    let status = mount.status();
    assert!(!waiting.is_finished());
    assert!(
        status["last_errors"].as_array().unwrap().last().unwrap()["text"]
            .as_str()
            .unwrap()
            .contains("http://")
    );
    server.come_back();
    assert!(waiting.join().unwrap().unwrap() == world.disk[200 * 4096..201 * 4096], "it came back in time");
    assert!(fs::read(mount.disk()).unwrap() == world.disk);
}

#[test]
fn without_a_deadline_a_read_waits_for_the_network_and_whoever_wants_to_leave_can() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    let mount = world.mount(&server, &["--deadline", "none", "--no-prefetch"]);
    let read = |block: u64| {
        let disk = mount.disk();
        thread::spawn(move || read_at(&disk, block * BLOCK, 4096))
    };
    let waits = || {
        let status = mount.status();
        status["reads_waiting"].as_u64() > Some(0) && status["mirrors"][0]["state"] == "down"
    };
    server.go_down();
    let waiting = read(200);
    until("it waits", || mount.status()["waiting_ms"].as_u64() > Some(7000));
    let status = mount.status();
    assert!(status["deadline_ms"].is_null(), "{status}");
    assert_eq!(status["counters"]["reads_failed"], 0);
    let shown = run(imgfetch().args(["status", "--text", "--socket"]).arg(&mount.socket));
    assert!(shown.contains(" is down for ") && shown.contains("the read waits until one answers"), "{shown}");
    server.come_back();
    assert!(waiting.join().unwrap().unwrap() == world.disk[200 * 4096..201 * 4096]);

    // Whoever reads can be killed.
    server.go_down();
    let mut reader = Command::new("dd")
        .args(["bs=4096", "skip=100", "count=1", "of=/dev/null", &format!("if={}", text(&mount.disk()))])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("it waits", waits);
    reader.kill().unwrap();
    until("killed", || reader.try_wait().unwrap().is_some());
    // The client can be told to end: then those who read get an error, and it leaves.
    let waiting = read(270);
    until("it waits", || mount.status()["reads_waiting"].as_u64() > Some(0));
    let proc = PathBuf::from(format!("/proc/{}", mount.pid()));
    mount.kill("-TERM");
    let error = waiting.join().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    until("ended", || !proc.exists());
}

/// It takes the client some seconds to know that no mirror answers, and the signal came before.
#[test]
fn a_signal_in_the_first_seconds_of_an_outage_ends_the_client_too() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    let mount = world.mount(&server, &["--no-prefetch"]);
    let proc = PathBuf::from(format!("/proc/{}", mount.pid()));
    server.script(|_, _| Act::Late(Duration::from_secs(3600)));
    let disk = mount.disk();
    let waiting = thread::spawn(move || read_at(&disk, 150 * 4096, 4096));
    until("it waits", || mount.status()["reads_waiting"].as_u64() > Some(0));
    mount.kill("-TERM");
    until("the client noticed the signal", || {
        mount.log().contains("can't stop: the disk can't be unmounted")
    });
    assert!(mount.log().contains("still serving it"), "{}", mount.log());
    let error = waiting.join().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    until("ended", || !proc.exists());
}

#[test]
fn a_terminal_that_takes_nothing_holds_up_neither_reads_nor_the_end() {
    let world = world();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'x'; 1]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    let closed = std::io::pipe().unwrap().1;
    for (what, stderr) in [("full", writer), ("no reader", closed)] {
        let server = FaultServer::honest(world.tree.clone());
        let room = scratch();
        let mountpoint = room.path().join("mnt");
        fs::create_dir(&mountpoint).unwrap();
        let mut child = imgfetch()
            .args(["mount", "--foreground", "--verbose", "--image", "host", "--status"])
            .arg(room.path().join("status.sock"))
            .args(["--mirror", &server.url(), "--key", &world.publisher.public()])
            .arg(&mountpoint)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        until(&format!("{what}: mounted"), || mountpoint.join("disk").exists());
        let bytes = read_at(&mountpoint.join("disk"), 10 * 4096, 4096).unwrap();
        assert!(bytes == world.disk[10 * 4096..11 * 4096], "{what}");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(20) {
                child.kill().unwrap();
                child.wait().unwrap();
                let _ = Command::new("umount").arg("-l").arg(&mountpoint).status();
                panic!("{what}: it does not end");
            }
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(child.wait().unwrap().code(), Some(0), "{what}");
    }
    drop(reader);
}

#[test]
fn the_roots_daemon_waits_too_and_its_disk_can_be_unmounted_by_force() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    let mount = world.mount(&server, &["--root-daemon", "--no-prefetch"]);
    let proc = PathBuf::from(format!("/proc/{}", mount.pid()));
    server.go_down();
    let disk = mount.disk();
    let waiting = thread::spawn(move || read_at(&disk, 0, 4096));
    until("it waits", || mount.status()["reads_waiting"].as_u64() > Some(0));
    assert!(mount.status()["deadline_ms"].is_null());
    mount.kill("-TERM");
    // It says that the disk is busy, and then it no longer is.
    let _ = Command::new("umount").arg("-f").arg(&mount.mountpoint).stderr(Stdio::null()).status();
    assert!(waiting.join().unwrap().is_err());
    until("ended", || !proc.exists());
}

#[test]
fn the_cache_survives_kill_9_and_what_is_damaged_in_it_is_fetched_again() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    let cache = scratch();
    let words = ["--cache", text(cache.path())];
    let mount = world.mount(&server, &words);
    assert!(fs::read(mount.disk()).unwrap() == world.disk);
    let all = server.blocks_asked();
    until("all is written", || mount.status()["cache_blocks"] == all);
    mount.kill("-KILL");
    drop(mount);
    fs::write(cache.path().join("tmp/1-1"), "left behind").unwrap();
    let victims = block_paths(&world.tree);
    let [flipped, cut, gone] = [0, 1, 2].map(|at| cache.path().join(&victims[at]));
    let mut bytes = fs::read(&flipped).unwrap();
    bytes[100] ^= 1;
    fs::write(&flipped, bytes).unwrap();
    File::options().write(true).open(&cut).unwrap().set_len(10).unwrap();
    fs::remove_file(&gone).unwrap();

    drop_caches();
    let mount = world.mount(&server, &words);
    assert!(fs::read(mount.disk()).unwrap() == world.disk);
    assert_eq!(server.blocks_asked(), all + 3);
    assert_eq!(server.asked("images/host/7/index.idx"), 1, "the index was kept");
    let counters = mount.status()["counters"].clone();
    assert_eq!((&counters["cache_damaged"], &counters["fetched_blocks"]), (&2.into(), &3.into()));
    until("mended", || {
        [&flipped, &cut, &gone].iter().all(|path| fs::metadata(path).is_ok_and(|m| m.len() > 10))
    });
    assert_eq!(fs::read_dir(cache.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(cache.path().join("state/demo.serial")).unwrap(), "7\n");
}

#[test]
fn a_full_disk_under_the_cache_costs_requests_and_nothing_else() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    let cache = scratch();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(cache.path()));
    let words = ["--cache", text(cache.path()), "--ram", "64KiB"];
    let mount = world.mount(&server, &words);
    let right = (0..2).all(|_| {
        drop_caches();
        fs::read(mount.disk()).unwrap() == world.disk
    });
    let counters = mount.status();
    drop(mount);
    run(Command::new("umount").arg("-l").arg(cache.path()));
    assert!(right, "{counters}");
}

#[test]
fn where_no_cache_can_be_made_the_disk_is_served_without_one() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    let place = scratch();
    // No room for a single directory more; then a medium that can't be written, with nothing on it.
    for options in ["size=4k,nr_inodes=1", "ro"] {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(place.path()));
        let cache = place.path().join("cache");
        let words = ["--cache", text(&cache)];
        let found = cat(&[&server.url()], &world.publisher.public(), &words);
        let strict = cat(&[&server.url()], &world.publisher.public(), &[&words[..], &["--strict"]].concat());
        run(Command::new("umount").arg("-l").arg(place.path()));
        assert!(found.output.stdout == world.disk, "{options}: {}", found.errors());
        assert!(found.errors().contains("; continuing without a cache\n"), "{options}: {}", found.errors());
        // What it would remember is wanted.
        assert_eq!(strict.output.status.code(), Some(1), "{options}: {}", strict.errors());
    }
}

#[test]
fn the_prefetch_list_is_fetched_before_anybody_reads() {
    let mut world = world();
    world.publisher.ahead = 20;
    let server = FaultServer::honest(world.publisher.publish(7, &[("host", &world.disk)]));
    let cache = scratch();
    let mount = world.mount(&server, &["--cache", text(cache.path())]);
    until("prefetched", || mount.status()["counters"]["prefetched_blocks"] == 20);
    assert_eq!(server.blocks_asked(), 20);
    assert!(read_at(&mount.disk(), 0, 4096).unwrap() == world.disk[..4096]);
    let proc = PathBuf::from(format!("/proc/{}", mount.pid()));
    drop(mount);
    until("ended", || !proc.exists());
    // A second time it is all there; and it can be done without.
    let asked = server.blocks_asked();
    for words in [vec!["--cache", text(cache.path())], vec!["--no-prefetch"]] {
        let mount = world.mount(&server, &words);
        thread::sleep(Duration::from_millis(500));
        assert_eq!(server.blocks_asked(), asked, "{words:?}");
        assert_eq!(mount.status()["counters"]["prefetched_blocks"], 0, "{words:?}");
    }
}

#[test]
fn a_mount_that_fails_says_why_in_one_line_and_leaves_nothing() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    let stranger = Publisher::new();
    let (url, public) = (server.url(), world.publisher.public());
    for (key, words, said) in [
        (stranger.public(), vec![], "is not trusted here; trusted: "),
        (public.clone(), vec!["--release", "9"], "can't get releases/9.txt from any mirror: http://"),
        (public.clone(), vec!["--ca", "/nonexistent"], "/nonexistent: can't read"),
        ("/nonexistent.pub".into(), vec![], "/nonexistent.pub: can't read"),
    ] {
        let Err(output) = Mount::new(&[&url], &key, &words) else { panic!("{said}") };
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with("imgfetch: error: ") && text.contains(said), "{text}");
        assert!(text.trim_end().lines().count() <= 2, "{text}");
    }
    let output = imgfetch()
        .args([
            "mount",
            "--mirror",
            &url,
            "--key",
            &public,
            "--image",
            "host",
            "--status",
            "none",
            "/nonexistent",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("/nonexistent: not a directory to mount on"), "{text}");
    assert_eq!(imgfetch().arg("mount").output().unwrap().status.code(), Some(2));
}

#[test]
fn a_root_daemon_has_a_name_that_systemd_spares_and_takes_no_signal() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    let mount = world.mount(&server, &["--root-daemon"]);
    let pid = mount.pid();
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let cmdline = fs::read(proc.join("cmdline")).unwrap();
    assert!(cmdline.starts_with(b"@imgfetch\0mount\0"), "{}", String::from_utf8_lossy(&cmdline));
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    // As little as the system lets us: in a container that may be nothing.
    let shell = "echo -1000 > /proc/self/oom_score_adj; cat /proc/self/oom_score_adj";
    let granted = run(Command::new("sh").args(["-c", shell]));
    assert_eq!(fs::read_to_string(proc.join("oom_score_adj")).unwrap(), granted);
    let session = fs::read_to_string(proc.join("stat")).unwrap();
    assert_eq!(session.split(' ').nth(5).unwrap(), pid.to_string(), "a session of its own");
    for signal in ["-TERM", "-INT", "-HUP"] {
        mount.kill(signal);
    }
    thread::sleep(Duration::from_millis(200));
    assert!(fs::read(mount.disk()).unwrap() == world.disk);
    // It ends when the disk is unmounted.
    run(Command::new("umount").arg(&mount.mountpoint));
    until("ended", || !proc.exists());
}

#[test]
fn an_ordinary_user_mounts_with_fusermount3() {
    let world = world();
    let server = FaultServer::honest(world.tree.clone());
    let home = scratch();
    let mountpoint = home.path().join("mnt");
    // As udev makes it; a container without udev may have it otherwise.
    fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).unwrap();
    fs::create_dir(&mountpoint).unwrap();
    let program = home.path().join("imgfetch");
    fs::copy(programs::imgfetch(), &program).unwrap();
    run(Command::new("chown").args(["-R", "65534:65534"]).arg(home.path()));
    let nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command
    };
    let socket = home.path().join("sock");
    let log = home.path().join("log");
    let status = nobody()
        .arg(&program)
        .args(["mount", "--mirror", &server.url(), "--key", &world.publisher.public(), "--image", "host"])
        .arg("--status")
        .arg(&socket)
        .arg(&mountpoint)
        .stdin(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .status()
        .unwrap();
    assert!(status.success(), "{}", fs::read_to_string(&log).unwrap());
    let sum = run(nobody().arg("sha256sum").arg(mountpoint.join("disk")));
    assert!(sum.starts_with(&Sha256::of(&world.disk).to_string()), "{sum}");
    let status = run(imgfetch().args(["status", "--socket"]).arg(&socket));
    let pid = serde_json::from_str::<serde_json::Value>(&status).unwrap()["pid"].to_string();
    run(Command::new("kill").arg(pid));
    until("unmounted", || !fs::read_to_string("/proc/mounts").unwrap().contains(text(&mountpoint)));
}

#[test]
fn ext2_on_a_loop_device_on_it_has_every_file_right() {
    let work = scratch();
    let root = work.path().join("root");
    let mut files = Vec::new();
    for n in 0..40_usize {
        let path = root.join(format!("d{}/f{n}", n % 7));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, disk(n * n * 137, n as u64)).unwrap();
        files.push(path);
    }
    let image = work.path().join("image");
    run(Command::new("mke2fs").args([
        "-q",
        "-t",
        "ext2",
        "-b",
        "4096",
        "-d",
        text(&root),
        text(&image),
        "16M",
    ]));
    let bytes = fs::read(&image).unwrap();
    let publisher = Publisher { block_size: 256 << 10, ..Publisher::new() };
    let server = FaultServer::honest(publisher.publish(1, &[("host", &bytes)]));
    let mount = Mount::new(&[&server.url()], &publisher.public(), &[]).ok().unwrap();
    let target = work.path().join("target");
    fs::create_dir(&target).unwrap();
    run(Command::new("mount").args(["-t", "ext2", "-o", "ro,loop"]).arg(mount.disk()).arg(&target));
    let compared = files.iter().all(|path| {
        let found = target.join(path.strip_prefix(&root).unwrap());
        Sha256::of(&fs::read(found).unwrap()) == Sha256::of(&fs::read(path).unwrap())
    });
    run(Command::new("umount").arg(&target));
    assert!(compared);
    assert!(Sha256::of(&fs::read(mount.disk()).unwrap()) == Sha256::of(&bytes));
}
