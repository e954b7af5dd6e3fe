//! The cache under crashes and care, and what the status says.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};

use crate::fetch_support::fault_server::{Act, FaultServer};
use crate::fetch_support::{self, Mount, Publisher, cat, disk, imgfetch, refused_url, run, scratch, text};

fn care(words: &[&str]) -> Output {
    imgfetch().arg("cache").args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn killed_at_any_moment_the_cache_gives_no_wrong_byte_and_nothing_is_left_behind() {
    let publisher = Publisher { block_size: 64 << 10, ..Publisher::new() };
    let disk = disk(60 << 16, 3);
    let tree = publisher.publish(3, &[("host", &disk)]);
    // Who is to be killed, after so many more requests of its.
    let victim = Arc::new(Mutex::new((None::<Pid>, 0_u32)));
    let server = FaultServer::new(tree, {
        let victim = Arc::clone(&victim);
        move |_, _| {
            let mut victim = victim.lock().unwrap();
            victim.1 = victim.1.wrapping_sub(1);
            // Its connection outlives it for a moment: what it asked for before is no request of the next one.
            if let (Some(pid), 0) = *victim {
                let _ = kill_process(pid, Signal::KILL);
            }
            Act::Serve
        }
    });
    let (key, url) = (publisher.public(), server.url());
    let work = scratch();
    let cache = work.path().join("cache");
    let words = ["cat", "--mirror", &url, "--key", &key, "--image", "host", "--cache", text(&cache)];
    let mut state = 7_u64;
    let (mut killed, mut ended) = (0, 0);
    for round in 0..200 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let out = work.path().join("out");
        let stdout = fs::File::create(&out).unwrap();
        let mut child = {
            // Its first request waits until it is known who asks.
            let mut victim = victim.lock().unwrap();
            let child = imgfetch().args(words).stdout(stdout).stderr(Stdio::null()).spawn().unwrap();
            // With an empty cache it asks some 55 times.
            *victim = (Some(Pid::from_child(&child)), 1 + (state >> 33) as u32 % 40);
            child
        };
        let whole = child.wait().unwrap().success();
        victim.lock().unwrap().0 = None;
        killed += i32::from(!whole);
        ended += i32::from(whole);
        let bytes = fs::read(&out).unwrap();
        assert!(disk.starts_with(&bytes), "round {round}: wrong bytes");
        assert!(!whole || bytes == disk, "round {round}: it ended well with less than all");
        // Once all is there it is emptied, so that there is something to write.
        if whole {
            fs::remove_dir_all(cache.join("blk")).unwrap();
        }
    }
    println!("{killed} of 200 were killed before their end");
    // From an empty cache at least two are killed before one ends, as 40 requests are fewer than all.
    assert!(killed >= ended && ended > 0, "{killed} killed, {ended} ended");
    let found = cat(&[&url], &key, &["--cache", text(&cache)]);
    assert!(found.output.stdout == disk, "{}", found.errors());
    assert_eq!(fs::read_dir(cache.join("tmp")).unwrap().count(), 0, "strays");
    let checked = care(&["fsck", text(&cache)]);
    assert!(checked.status.success(), "{}", said(&checked));
}

#[test]
fn a_cache_is_looked_after_by_its_commands() {
    let publisher = Publisher::new();
    let disk = disk(50 * 4096, 3);
    let server = FaultServer::honest(publisher.publish(3, &[("host", &disk)]));
    let work = scratch();
    let cache = work.path().join("cache");
    let dir = text(&cache);
    let none = care(&["stats", dir]);
    assert_eq!(none.status.code(), Some(1));
    assert!(cat(&[&server.url()], &publisher.public(), &["--cache", dir]).output.stdout == disk);
    let stats: serde_json::Value = serde_json::from_str(&said(&care(&["stats", "--json", dir]))).unwrap();
    let blocks = stats["blocks"].as_u64().unwrap();
    assert_eq!(
        (&stats["images"][0]["image"], &stats["images"][0]["here"]),
        (&"demo/host".into(), &blocks.into())
    );
    let shown = said(&care(&["stats", dir]));
    assert!(shown.ends_with("of 44 blocks: complete, boots without a network\n"), "{shown}");

    // Damage is found and removed, and so is what does not belong there; then all is well.
    let mut files = Vec::new();
    for entry in fs::read_dir(cache.join("blk")).unwrap() {
        files.extend(fs::read_dir(entry.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    let mut bytes = fs::read(&files[0]).unwrap();
    bytes[20] ^= 1;
    fs::write(&files[0], &bytes).unwrap();
    fs::write(files[1].with_file_name("note"), "x").unwrap();
    let checked = care(&["fsck", dir]);
    assert_eq!(checked.status.code(), Some(1));
    let want =
        format!("{} good, 1 damaged and removed, 0 of no known image, 1 other files removed\n", blocks - 1);
    assert_eq!(said(&checked), want);
    assert!(care(&["fsck", dir]).status.success());

    // What is pinned goes last.
    let pinned = care(&["pin", "--image", "guest", dir]);
    assert_eq!(pinned.status.code(), Some(1), "{}", said(&pinned));
    assert_eq!(said(&care(&["pin", "--image", "host", dir])), format!("{} blocks are pinned\n", blocks - 1));
    let extra = cache.join("blk/00/00000000000000000000000000000000");
    fs::create_dir_all(extra.parent().unwrap()).unwrap();
    fs::write(&extra, [0; 100]).unwrap();
    let bytes: u64 = files[1..].iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!(said(&care(&["evict", "--keep", &bytes.to_string(), dir])), "1 blocks removed, 100 bytes\n");
    assert!(!extra.exists());
    assert_eq!(said(&care(&["unpin", dir])), "0 blocks are pinned\n");
    assert!(said(&care(&["evict", dir])).starts_with(&format!("{} blocks removed", blocks - 1)));
    let wrong = care(&["polish", dir]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn the_status_is_for_people_and_for_prometheus_too() {
    let publisher = Publisher { ahead: 10, ..Publisher::new() };
    let disk = disk(50 * 4096, 3);
    let server = FaultServer::honest(publisher.publish(3, &[("host", &disk)]));
    let mount = Mount::new(&[&server.url(), &refused_url()], &publisher.public(), &[])
        .unwrap_or_else(|output| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert!(fs::read(mount.disk()).unwrap() == disk);
    let status = |form: &str| run(imgfetch().args(["status", form, "--socket"]).arg(&mount.socket));
    let metrics = status("--metrics");
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(
            name.starts_with("imgfetch_") && name.contains("{image=\"host\"") && name.ends_with('}'),
            "{line}"
        );
        value.parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
    }
    for wanted in [
        "# TYPE imgfetch_fetched_blocks_total counter\nimgfetch_fetched_blocks_total{image=\"host\"} 44\n"
            .into(),
        format!("imgfetch_mirror_up{{image=\"host\",mirror=\"{}\"}} 1\n", server.url()),
        "imgfetch_occupancy_percent{image=\"host\"} ".to_owned(),
    ] {
        assert!(metrics.contains(&wanted), "{wanted}\nin\n{metrics}");
    }
    let shown = status("--text");
    assert!(shown.starts_with("demo/host release 3: serving\nreads    "), "{shown}");
    assert!(shown.contains(&server.url()), "{shown}");
}

#[test]
fn an_outage_is_told_while_it_lasts_and_when_it_is_over() {
    let publisher = Publisher::new();
    let disk = disk(50 * 4096, 3);
    let server = FaultServer::honest(publisher.publish(3, &[("host", &disk)]));
    let work = scratch();
    let (mountpoint, log) = (work.path().join("mnt"), work.path().join("log"));
    fs::create_dir(&mountpoint).unwrap();
    let mut client = imgfetch()
        .args(["mount", "--foreground", "--status", "none", "--mirror", &server.url(), "--image", "host"])
        .args(["--key", &publisher.public()])
        .arg(&mountpoint)
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mounted = || fs::read_dir(&mountpoint).is_ok_and(|mut entries| entries.next().is_some());
    fetch_support::until("mounted", mounted);
    server.script(|_, _| Act::Status(500, ""));
    let reader = std::thread::spawn({
        let path = mountpoint.join("disk");
        move || fs::read(path).unwrap()
    });
    let log_has = |what: &str| fs::read_to_string(&log).unwrap().contains(what);
    fetch_support::until("told", || {
        log_has("a read has waited for 3 s; http://") || log_has("a read has waited for 4 s")
    });
    assert!(log_has("is down for") && log_has("(last: "), "{}", fs::read_to_string(&log).unwrap());
    server.script(|_, _| Act::Serve);
    assert!(reader.join().unwrap() == disk);
    fetch_support::until("over", || log_has("reads continue after "));
    run(Command::new("umount").arg(&mountpoint));
    assert!(client.wait().unwrap().success());
    assert!(Path::new(&log).exists());
}
