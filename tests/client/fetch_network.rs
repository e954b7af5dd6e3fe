//! `imgfetch` on networks that are slow, far away, cut and come back; with several mirrors.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use formats::release::{Mirror, Reads};
use formats::url::MirrorUrl;

use crate::fetch_support::fault_server::{Act, FaultServer, blackhole, refused};
use crate::fetch_support::network::{Line, Link, Network};
use crate::fetch_support::{self, Mount, Publisher, Tree, cat, disk, imgfetch, run, scratch, text};

struct World {
    publisher: Publisher,
    disk: Vec<u8>,
    tree: Tree,
}

fn world(blocks: usize) -> World {
    let publisher = Publisher::new();
    let disk = disk(blocks * 4096, 1);
    let tree = publisher.publish(7, &[("host", &disk)]);
    World { publisher, disk, tree }
}

impl World {
    fn mount(&self, mirrors: &[&str], words: &[&str]) -> Mount {
        Mount::new(mirrors, &self.publisher.public(), words)
            .unwrap_or_else(|output| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Reads a block past the kernel's read-ahead; how long it took.
    #[track_caller]
    fn read(&self, mount: &Mount, block: usize) -> Duration {
        let file = File::open(mount.disk()).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
        let mut bytes = vec![0; 4096];
        let start = Instant::now();
        file.read_exact_at(&mut bytes, block as u64 * 4096).unwrap();
        let took = start.elapsed();
        assert!(bytes == self.disk[block * 4096..][..4096], "block {block}");
        took
    }
}

fn line(delay_ms: u64) -> Line {
    Line::new(delay_ms, 100)
}

#[test]
fn the_nearest_mirror_is_used_wherever_it_stands_in_the_list() {
    let world = world(60);
    let servers: Vec<_> = (0..3).map(|_| FaultServer::honest(world.tree.clone())).collect();
    let networks: Vec<_> = servers
        .iter()
        .zip([600, 10, 300])
        .map(|(server, ms)| Network::new(server.address(), line(ms)))
        .collect();
    // One refuses, one takes the question and says nothing: the client's patience with it are ten seconds.
    let (dead, silent) = (refused(), FaultServer::new(world.tree.clone(), |_, _| Act::Silence));
    let urls: Vec<_> = networks.iter().map(Network::url).collect();
    let quiet = silent.url();
    let all = [&dead, &urls[0], &quiet, &urls[1], &urls[2]].map(String::as_str);
    let start = Instant::now();
    let mount = world.mount(&all, &[]);
    assert!(
        start.elapsed() < Duration::from_secs(9),
        "a dead mirror is not waited for: {:?}",
        start.elapsed()
    );
    for block in (0..60).step_by(3) {
        world.read(&mount, block);
    }
    let asked: Vec<_> = servers.iter().map(FaultServer::blocks_asked).collect();
    // A second request for a block that is late may go elsewhere; on a busy machine several do.
    assert!(asked[1] >= 20 - 3 && asked[1] > asked[0] + asked[2], "{asked:?}");

    // In the order given when that is wanted.
    drop(mount);
    let server = FaultServer::honest(world.tree.clone());
    let farther = Network::new(server.address(), line(100));
    let mount = world.mount(&[&farther.url(), &urls[1]], &["--no-netselect", "--no-prefetch"]);
    world.read(&mount, 0);
    assert!(server.blocks_asked() > 0);
}

#[test]
fn netselect_prints_a_ranking() {
    let world = world(4);
    let server = FaultServer::honest(world.tree.clone());
    let old = FaultServer::honest(world.publisher.publish(6, &[("host", &world.disk)]));
    let (near, far) = (Network::new(server.address(), line(5)), Network::new(server.address(), line(400)));
    let behind = Network::new(old.address(), line(1));
    let urls = [far.url(), refused(), behind.url(), near.url()];
    let run = |words: &[&str]| imgfetch().arg("netselect").args(words).args(&urls).output().unwrap();
    let output = run(&["--json", "--key", &world.publisher.public()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let order: Vec<_> = (0..4).map(|n| lines[n]["mirror"].as_str().unwrap().to_owned()).collect();
    assert_eq!(order, [near.url(), far.url(), behind.url(), urls[1].clone()]);
    assert_eq!((&lines[0]["serial"], &lines[2]["serial"]), (&7.into(), &6.into()));
    let (first, again) = (lines[1]["first_ms"].as_u64().unwrap(), lines[1]["again_ms"].as_u64().unwrap());
    // A round trip for the connection and one for the answer; then over the same connection, with half a second to spare.
    assert!(first >= 800 && (400..800).contains(&again), "{first} {again}");
    let table = String::from_utf8(run(&["--within", "2s"]).stdout).unwrap();
    assert!(table.lines().nth(4).unwrap().contains("can't connect"), "{table}");
    let none = imgfetch().args(["netselect", &refused()]).output().unwrap();
    assert_eq!(none.status.code(), Some(1));
}

#[test]
fn one_of_two_mirrors_that_stalls_or_swallows_connections_is_hardly_noticed() {
    let world = world(400);
    let server = FaultServer::honest(world.tree.clone());
    let (first, second) =
        (Network::new(server.address(), line(10)), Network::new(server.address(), line(30)));
    let mount = world.mount(&[&first.url(), &second.url()], &[]);
    for block in 0..20 {
        world.read(&mount, block * 2);
    }
    first.set(Link::Stalled);
    let mut times: Vec<_> = (0..200).map(|n| world.read(&mount, 50 + n * 7 % 349)).collect();
    times.sort_unstable();
    let (p50, p99, most) = (times[100], times[198], times[199]);
    println!("one of two stalls: p50 {p50:?}, p99 {p99:?}, most {most:?}");
    // How little it costs is shown with simulated time, in scheduler/tests.rs. Here a read that waits for the mirror
    // itself would take ten seconds.
    let waited = times.iter().filter(|time| **time >= Duration::from_secs(9)).count();
    assert!(waited == 0, "{waited} reads waited for the mirror that stalls, the longest for {most:?}");
    let status = mount.status();
    assert!(status["counters"]["hedged"].as_u64().unwrap() > 0, "{status}");

    // It answers no connection at all, from the start.
    let (hole, _queue, _listener) = blackhole();
    let start = Instant::now();
    let mount = world.mount(&[&hole, &second.url()], &["--no-netselect"]);
    let worst = (0..20).map(|n| world.read(&mount, n * 11)).max().unwrap();
    println!("one of two is a black hole: mounted in {:?}, the slowest read {worst:?}", start.elapsed());
    assert!(worst < Duration::from_secs(9), "{worst:?}");
}

#[test]
fn a_network_that_was_away_is_used_again_while_the_read_still_waits() {
    // `OUTAGE_SECONDS=60` and more when there is time.
    let seconds = std::env::var("OUTAGE_SECONDS").map_or(7, |text| text.parse().expect("seconds"));
    let deadline = format!("{}s", seconds + 30);
    let world = world(400);
    let server = FaultServer::honest(world.tree.clone());
    for away in [Link::Down, Link::Stalled] {
        let network = Network::new(server.address(), line(20));
        let mount = world.mount(&[&network.url()], &["--deadline", &deadline]);
        world.read(&mount, 0);
        network.set(away);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let took = world.read(&mount, 300);
                (took, Instant::now())
            });
            thread::sleep(Duration::from_secs(seconds));
            // It answers all the while.
            assert!(mount.status()["reads_waiting"].as_u64().unwrap() > 0);
            network.set(Link::Up);
            let back = Instant::now();
            let (_, done) = reader.join().unwrap();
            // That it is within two seconds is shown with simulated time, in scheduler/tests.rs.
            println!("{away:?} for {seconds} s: the read ended {:?} after", done - back);
            assert!(done - back <= Duration::from_secs(20), "{away:?}: {:?}", done - back);
        });
    }
}

#[test]
fn without_a_network_the_release_in_the_cache_is_used() {
    let world = world(50);
    let server = FaultServer::honest(world.tree.clone());
    let cache = scratch();
    let words = ["--cache", text(cache.path()), "--deadline", "2s"];
    let key = world.publisher.public();
    assert!(cat(&[&server.url()], &key, &words).output.stdout == world.disk);
    let found = cat(&[&refused()], &key, &words);
    assert!(found.output.stdout == world.disk, "{}", found.errors());
    let said = "; continuing with the cached release 7 of ";
    assert!(found.errors().contains(said), "{}", found.errors());
    // As little is to be had where a login page stands in the way, or all mirrors are empty.
    for act in [Act::Html, Act::Status(404, ""), Act::Status(511, "")] {
        let acts = [0, 1].map(|_| {
            let act = act.clone();
            FaultServer::new(world.tree.clone(), move |_, _| act.clone())
        });
        let found = cat(&[&acts[0].url(), &acts[1].url()], &key, &words);
        assert!(found.output.stdout == world.disk, "{act:?}: {}", found.errors());
        assert!(found.errors().contains(said), "{act:?}: {}", found.errors());
    }
    // So is a release that was pinned, and no other.
    let found = cat(&[&refused()], &key, &[&words[..], &["--release", "7"]].concat());
    assert!(found.output.stdout == world.disk, "{}", found.errors());
    let found = cat(&[&refused()], &key, &[&words[..], &["--release", "6"]].concat());
    assert_eq!(found.output.status.code(), Some(1), "{}", found.errors());
    // Not when the person wants to be sure; not for another key.
    for (key, more) in [(&key, &["--strict"][..]), (&Publisher::new().public(), &[])] {
        let found = cat(&[&refused()], key, &[&words[..], more].concat());
        assert_eq!(found.output.status.code(), Some(1), "{}", found.errors());
    }
}

#[test]
fn a_login_page_in_the_way_to_all_mirrors_is_waited_for() {
    let world = world(50);
    let login = |path: &str, nth: usize| match path {
        "latest" if nth < 3 => Act::Html,
        _ => Act::Serve,
    };
    let servers = [0, 1].map(|_| FaultServer::new(world.tree.clone(), login));
    let urls = servers.each_ref().map(FaultServer::url);
    let found = cat(&[&urls[0], &urls[1]], &world.publisher.public(), &[]);
    assert!(found.output.stdout == world.disk, "{}", found.errors());
    // One alone may be a wrong address: that is told at once.
    let page = FaultServer::new(world.tree.clone(), |_, _| Act::Html);
    let found = cat(&[&page.url()], &world.publisher.public(), &[]);
    assert_eq!(found.output.status.code(), Some(1), "{}", found.errors());
    assert_eq!(page.asked("latest"), 1, "{}", found.errors());
}

#[test]
fn no_mirror_gets_more_connections_than_the_signed_list_allows() {
    let mut world = world(200);
    let (asked, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (Arc::clone(&asked), Arc::clone(&most));
    let server = FaultServer::new(world.tree.clone(), move |path, _| {
        if path.starts_with("blk/") {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(3));
            now.fetch_sub(1, Ordering::SeqCst);
        }
        Act::Serve
    });
    let url: MirrorUrl = server.url().parse().unwrap();
    world.publisher.mirrors = vec![Mirror { url, max_connections: Some(2), location: None }];
    server.put(world.publisher.publish(7, &[("host", &world.disk)]));
    let found = cat(&[&server.url()], &world.publisher.public(), &[]);
    assert!(found.output.stdout == world.disk, "{}", found.errors());
    // Two, and one that the client may have given up while the server still thinks of it.
    let most = most.load(Ordering::SeqCst);
    assert!((1..=3).contains(&most), "{most} requests for blocks at once");
}

#[test]
fn pages_are_recorded_as_they_are_read_and_none_that_are_read_ahead() {
    let world = world(100);
    let server = FaultServer::honest(world.tree.clone());
    let work = scratch();
    let dir = work.path().join("reads");
    let mount = world.mount(&[&server.url()], &["--record-reads", text(&dir)]);
    for block in [70, 3, 4, 5, 70] {
        world.read(&mount, block);
    }
    // Whom the kernel would read ahead for.
    let disk = File::open(mount.disk()).unwrap();
    for block in 10..14 {
        disk.read_exact_at(&mut [0; 4096], block * 4096).unwrap();
    }
    drop(disk);
    // Written while the machine runs, which nobody shuts down.
    let recorded = || fs::read(dir.join("host")).map(|text| Reads::decode(&text[..]).unwrap());
    fetch_support::until("written", || recorded().is_ok_and(|reads| reads.runs.len() > 2));
    let found = recorded().unwrap();
    assert_eq!((found.image.as_str(), found.runs), ("host", vec![70..71, 3..6, 10..14]));
}

#[test]
fn first_reads_are_recorded_as_a_prefetch_list() {
    let world = world(100);
    let server = FaultServer::honest(world.tree.clone());
    let work = scratch();
    let list = work.path().join("dlahead");
    // A link stays, and what it leads to is written.
    std::os::unix::fs::symlink("kept", &list).unwrap();
    let mount = world.mount(&[&server.url()], &["--record", text(&list)]);
    for block in [70, 3, 70] {
        world.read(&mount, block);
    }
    // What is read after this belongs to the next phase; a millisecond has the one or the other.
    thread::sleep(Duration::from_millis(20));
    let phase = |name: &str| run(imgfetch().args(["status", "--phase", name, "--socket"]).arg(&mount.socket));
    assert_eq!(phase("login"), "host: phase login\n");
    world.read(&mount, 41);
    mount.kill("-TERM");
    fetch_support::until("written", || list.exists());
    let found = formats::release::Dlahead::decode(&fs::read(&list).unwrap()[..]).unwrap();
    let names: Vec<_> = found.entries.iter().map(|entry| entry.name).collect();
    let want = [70, 3, 41].map(|block| formats::block::BlockName::of(&world.disk[block * 4096..][..4096]));
    assert_eq!(names, want);
    let phases: Vec<_> = found.entries.iter().map(|entry| entry.phase.to_string()).collect();
    assert_eq!(phases, ["boot", "boot", "login"]);
    assert!(fs::symlink_metadata(&list).unwrap().is_symlink() && work.path().join("kept").is_file());
}

#[test]
fn nothing_is_recorded_to_what_is_no_file() {
    let world = world(10);
    let server = FaultServer::honest(world.tree.clone());
    let work = scratch();
    let (node, mountpoint) = (work.path().join("host"), work.path().join("mnt"));
    fs::create_dir(&mountpoint).unwrap();
    run(Command::new("mknod").arg(&node).args(["c", "1", "3"]));
    for (option, value) in [("--record", &*node), ("--record-reads", work.path())] {
        let mut client = imgfetch();
        client.args(["mount", "--status", "none", "--mirror", &server.url(), "--image", "host", option]);
        let out =
            client.arg(value).args(["--key", &world.publisher.public()]).arg(&mountpoint).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{option}");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(said.contains("host: can't write to it\n"), "{option}: {said}");
        assert!(said.contains("needs a regular file; name one"), "{option}: {said}");
        run(Command::new("test").arg("-c").arg(&node));
    }
}
