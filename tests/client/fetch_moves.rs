//! What `imgfetch` stands upon moves away under it: a mirror's address, an address of our own, the cache's directory; and
//! numbers at the very end of what there is.
//!
//! Names and addresses are those of namespaces that each test has to itself (unshare), so this needs root.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use formats::block::BlockName;
use formats::release::{Document, Latest, Mirror, MirrorPath, Successors, Verified};
use formats::url::MirrorUrl;

use crate::fetch_support::fault_server::{Act, FaultServer};
use crate::fetch_support::{self, Mount, Publisher, Tree, cat, disk, run, scratch, text, until};

/// Runs this very test again with namespaces of its own; whether we are that second run.
fn apart(name: &str, unshare: &[&str]) -> bool {
    if std::env::var_os("IMGFETCH_TEST_APART").is_some() {
        return true;
    }
    let (_, module) = module_path!().split_once("::").unwrap();
    let output = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::{name}"), "--nocapture"])
        .env("IMGFETCH_TEST_APART", "1")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{name}, in namespaces of its own (root?): {said}");
    // A name that no test has is no error there.
    assert!(said.contains("1 passed"), "{name}: {said}");
    false
}

/// Passes connections on to a server until told to stop, when those that are open break.
struct Door(Arc<AtomicBool>);

impl Door {
    fn open(listener: TcpListener, server: &FaultServer) -> Self {
        let (shut, to) = (Arc::new(AtomicBool::new(false)), server.address());
        let closed = Arc::clone(&shut);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if closed.load(Ordering::SeqCst) {
                    return;
                }
                let server = TcpStream::connect(to).unwrap();
                for (mut from, mut to) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server.try_clone().unwrap(), client.try_clone().unwrap()),
                ] {
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
                let closed = Arc::clone(&closed);
                thread::spawn(move || {
                    while !closed.load(Ordering::SeqCst) {
                        thread::sleep(Duration::from_millis(20));
                    }
                    let _ = client.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Door(shut)
    }

    fn shut(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn block(mount: &Mount, disk: &[u8], number: usize) -> Duration {
    let file = File::open(mount.disk()).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
    let (mut bytes, start) = (vec![0; 4096], Instant::now());
    file.read_exact_at(&mut bytes, number as u64 * 4096).unwrap();
    assert!(bytes == disk[number * 4096..][..4096], "block {number}");
    start.elapsed()
}

fn blocks(mount: &Mount, disk: &[u8], numbers: impl IntoIterator<Item = usize>) {
    for number in numbers {
        block(mount, disk, number);
    }
}

#[test]
fn a_mirror_whose_name_gets_another_address_is_followed() {
    if !apart("a_mirror_whose_name_gets_another_address_is_followed", &["--mount"]) {
        return;
    }
    let work = scratch();
    let hosts = work.path().join("hosts");
    let is_at = |address: &str| fs::write(&hosts, format!("{address} mirror.test\n")).unwrap();
    is_at("127.0.0.2");
    run(Command::new("mount").args(["--bind", text(&hosts), "/etc/hosts"]));
    let publisher = Publisher::new();
    let disk = disk(400 * 4096, 4);
    let server = FaultServer::honest(publisher.publish(3, &[("host", &disk)]));
    let here = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = here.local_addr().unwrap().port();
    let door = Door::open(here, &server);
    let url = format!("http://mirror.test:{port}/");
    let mount = Mount::new(&[&url], &publisher.public(), &["--no-prefetch"]).map_err(drop).unwrap();
    blocks(&mount, &disk, 0..20);

    door.shut();
    thread::sleep(Duration::from_millis(200));
    is_at("127.0.0.3");
    let _door = Door::open(TcpListener::bind(("127.0.0.3", port)).unwrap(), &server);
    let took = block(&mount, &disk, 350);
    println!("another address for the name: the next read took {took:?}");
    blocks(&mount, &disk, 300..340);
}

#[test]
fn an_address_of_ours_that_goes_takes_no_read_with_it() {
    if !apart("an_address_of_ours_that_goes_takes_no_read_with_it", &["--net"]) {
        return;
    }
    let ip = |words: &str| drop(run(Command::new("ip").args(words.split(' '))));
    // The server is at 127.0.0.1; what we send there comes from an address that can be taken away.
    ip("link set lo up");
    ip("address add 10.99.0.2/32 dev lo");
    ip("route change local 127.0.0.1 dev lo table local src 10.99.0.2");
    let disk = disk(400 * 4096, 4);
    let server = FaultServer::honest(Tree::new());
    let url: MirrorUrl = server.url().parse().unwrap();
    // One request at a time, so that no second one for a block that is late can be what helps.
    let only = Mirror { url, max_connections: Some(1), location: None };
    let publisher = Publisher { mirrors: vec![only], ..Publisher::new() };
    server.put(publisher.publish(3, &[("host", &disk)]));
    let words = ["--no-prefetch", "--deadline", "60s"];
    let mount = Mount::new(&[&server.url()], &publisher.public(), &words).map_err(drop).unwrap();
    blocks(&mount, &disk, 0..20);

    // A read is under way when it goes.
    server.script(|path, nth| match (path.starts_with("blk/"), nth) {
        (true, 0) => Act::Late(Duration::from_secs(20)),
        _ => Act::Serve,
    });
    thread::scope(|scope| {
        let reader = scope.spawn(|| block(&mount, &disk, 350));
        let path = MirrorPath::Block(BlockName::of(&disk[350 * 4096..][..4096])).to_string();
        until("it is under way", || server.asked(&path) > 0);
        ip("address del 10.99.0.2/32 dev lo");
        ip("address add 10.99.0.3/32 dev lo");
        ip("route change local 127.0.0.1 dev lo table local src 10.99.0.3");
        let took = reader.join().unwrap();
        println!("another address of ours: the read under way took {took:?}");
    });
    // It was asked for again because the address went: no connection was waited for until its time was up.
    assert!(mount.log().contains("this machine lost a network address"), "{}", mount.log());
    // Connections that were kept are dead, too.
    server.script(|_, _| Act::Serve);
    blocks(&mount, &disk, 300..330);
}

#[test]
fn a_cache_that_is_removed_while_it_is_used_is_begun_anew() {
    let publisher = Publisher::new();
    let disk = disk(100 * 4096, 4);
    let server = FaultServer::honest(publisher.publish(3, &[("host", &disk)]));
    let work = scratch();
    let cache = work.path().join("cache");
    // So little RAM that blocks are looked for in the cache again.
    let words = ["--cache", text(&cache), "--no-prefetch", "--ram", "16KiB"];
    let mount = Mount::new(&[&server.url()], &publisher.public(), &words).map_err(drop).unwrap();
    let read = |from: usize| blocks(&mount, &disk, (from..100).step_by(3));
    let kept = |at: &Path| fs::read_dir(at.join("blk")).is_ok_and(|found| found.count() > 0);
    read(0);
    // All of them: a block that is being written while the cache is removed would stop it for half a minute.
    let names = (0..100).step_by(3).map(|block| &disk[block * 4096..][..4096]);
    let names = names.filter(|raw| raw.iter().any(|byte| *byte != 0)).map(BlockName::of);
    let paths: Vec<_> = names.map(|name| cache.join(name.path())).collect();
    until("kept", || paths.iter().all(|path| path.exists()));
    fs::remove_dir_all(&cache).unwrap();
    // What the kernel keeps would hide it.
    let file = File::open(mount.disk()).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    read(0);
    read(1);
    until("kept again", || kept(&cache));
    assert_eq!(mount.status()["counters"]["reads_failed"], 0);
    drop(mount);
    let again = cat(&[&server.url()], &publisher.public(), &["--cache", text(&cache)]);
    assert!(again.output.stdout == disk, "{}", again.errors());
}

/// A `latest` with another number in it, signed all the same.
struct Numbered(Latest, String);

impl Document for Numbered {
    const FILE: &'static str = Latest::FILE;
    const LIMIT: u64 = Latest::LIMIT;

    fn decode_text(_: &[u8]) -> Result<Self, formats::text::At<formats::release::ReleaseTextFault>> {
        unreachable!("it is only written")
    }

    fn to_text(&self) -> String {
        let serial = format!("serial: {}\n", self.0.serial);
        assert!(self.0.to_text().contains(&serial));
        self.0.to_text().replacen(&serial, &format!("serial: {}\n", self.1), 1)
    }

    fn trusted_comment(&self) -> String {
        self.0.trusted_comment()
    }
}

#[test]
fn the_highest_serial_is_a_serial_and_the_next_number_is_refused() {
    let publisher = Publisher::new();
    let disk = disk(20 * 4096, 4);
    let highest = u64::try_from(i64::MAX).unwrap();
    let tree = publisher.publish(highest, &[("host", &disk)]);
    let work = scratch();
    let words = ["--cache", text(work.path())];
    let server = FaultServer::honest(tree.clone());
    let found = cat(&[&server.url()], &publisher.public(), &words);
    assert!(found.output.stdout == disk, "{}", found.errors());

    let keys = formats::release::TrustedKeys::parse(&publisher.public()).unwrap();
    let latest = Verified::<Latest>::open(&tree["latest"], &keys).unwrap().into_inner();
    for number in ["9223372036854775808", "18446744073709551616", "-1"] {
        let mut tree = tree.clone();
        let forged = Numbered(latest.clone(), number.into());
        tree.insert("latest".into(), publisher.key.sign(&forged).unwrap());
        let bad = FaultServer::honest(tree);
        let refused = cat(&[&bad.url()], &publisher.public(), &[]);
        assert_eq!(refused.output.status.code(), Some(1), "{number}: {}", refused.errors());
        // As a number, not because nothing is published under it.
        let said = format!("`{number}` is not a serial: 1 to 9223372036854775807");
        assert!(refused.output.stdout.is_empty() && refused.errors().contains(&said), "{}", refused.errors());
        // It is of no harm beside another one.
        let both = cat(&[&bad.url(), &server.url()], &publisher.public(), &[]);
        assert!(both.output.stdout == disk, "{number}: {}", both.errors());
    }
    // Nothing is newer than the highest; whoever signs that has signed the last one.
    let lower = FaultServer::honest(publisher.publish(7, &[("host", &disk)]));
    let refused = cat(&[&lower.url()], &publisher.public(), &words);
    assert!(refused.errors().contains("older releases are refused"), "{}", refused.errors());
}

#[test]
fn without_a_network_a_release_of_the_key_after_ours_is_used() {
    let (old, publisher) = (Publisher::new(), Publisher::new());
    let disk = disk(50 * 4096, 4);
    let mut tree = publisher.publish(9, &[("host", &disk)]);
    let next = Successors { name: "demo".parse().unwrap(), keys: vec![publisher.public()] };
    tree.insert(MirrorPath::Keys(old.key.id()).to_string(), old.key.sign(&next).unwrap());
    let server = FaultServer::honest(tree);
    let work = scratch();
    let words = ["--cache", text(work.path()), "--deadline", "5s"];
    let found = cat(&[&server.url()], &old.public(), &words);
    assert!(found.output.stdout == disk, "{}", found.errors());
    let away = cat(&[&fetch_support::refused_url()], &old.public(), &words);
    assert!(away.output.stdout == disk, "{}", away.errors());
    // A stranger's key is no key before this one.
    let stranger = cat(&[&fetch_support::refused_url()], &Publisher::new().public(), &words);
    assert_eq!(stranger.output.status.code(), Some(1), "{}", stranger.errors());
    assert!(stranger.output.stdout.is_empty());
}

#[test]
fn a_cache_without_room_is_told_of_and_done_without() {
    let publisher = Publisher { ahead: 80, ..Publisher::new() };
    let disk = disk(100 * 4096, 4);
    let server = FaultServer::honest(publisher.publish(3, &[("host", &disk)]));
    let work = scratch();
    let words = ["--cache", text(work.path()), "--cache-max", "1KiB", "--ram", "64KiB"];
    let mount = Mount::new(&[&server.url()], &publisher.public(), &words).map_err(drop).unwrap();
    until("full", || {
        blocks(&mount, &disk, 0..100);
        let file = File::open(mount.disk()).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        mount.status()["cache_full"] == true
    });
    let status = mount.status();
    assert!(status["counters"]["not_kept"].as_u64() > Some(0), "{status}");
    assert_eq!(status["counters"]["reads_failed"], 0);
}
