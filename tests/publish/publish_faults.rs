//! What may happen to a publication: kill -9, a full disk, another publisher, no program of ours at all.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use imgfactory::sys::process::Tool;
use system::files::Scratch;

use crate::programs;
use crate::publish_support::{
    self, Out, assert_same, bad, free_port, good, imgfactory, nginx, rsyncd, scratch, tree, web,
};

/// Whether the release behind a URL is whole; `None` when there is none.
fn whole(url: &str, out: &Out) -> Option<u64> {
    let output =
        imgfactory().args(["mirror", "verify", url, "--full", "--key", &out.public()]).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if errors.contains("contains no release") {
        return None;
    }
    assert!(output.status.success(), "{said}{errors}");
    let (_, rest) = said.split_once(": release ").unwrap();
    Some(rest.split_once(':').unwrap().0.parse().unwrap())
}

#[test]
fn killed_at_any_moment_a_publication_leaves_a_whole_release_and_goes_on_the_next_time() {
    let (server, url, dav) = nginx();
    let blocks = server.path("tree/blk");
    let stored =
        || walkdir::WalkDir::new(&blocks).into_iter().flatten().filter(|e| e.file_type().is_file()).count();
    let out = Out::new();
    let mut disk: Vec<u32> = (1..=400).collect();
    let mut published = None;
    let mut cut = 0;
    for round in 0..12_u32 {
        // Every block but the first hundred is new each time.
        disk[100..].iter_mut().for_each(|block| *block += 1000);
        out.build(&disk);
        let mut command = out.command("publish");
        command.args(["--to", &dav, "--jobs", "2"]);
        // It is killed once so many of the 300 blocks are there.
        let enough = stored() + 25 * round as usize;
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        while stored() < enough && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill();
        child.wait().unwrap();
        let found = whole(&url, &out);
        let next = Some(u64::from(round) + 1);
        assert!(found == published || found == next, "round {round}: {found:?}");
        // The first is killed before it has begun.
        cut += u32::from(round > 0 && found == published);
        // The same directory goes on at once, in spite of the flag that it left.
        good(&out.publish(&dav, &["--url", &url]));
        assert_eq!(whole(&url, &out), next);
        published = next;
    }
    assert!(cut > 0, "some were cut in the middle");
}

/// A small file system.
struct Small(Scratch);

impl Small {
    fn new(size: &str) -> Self {
        let dir = scratch();
        let options = format!("size={size},mode=777");
        Tool::new("mount").args(["-t", "tmpfs", "-o", &options, "small"]).arg(dir.path()).run().unwrap();
        Small(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Tool::new("umount").arg("-l").arg(self.0.path()).run();
    }
}

#[test]
fn a_disk_that_is_too_small_is_named_before_anything_is_sent() {
    let small = Small::new("400k");
    let to = small.0.path().join("www");
    let out = Out::new();
    out.build(&(1..=20).collect::<Vec<_>>());
    good(&out.publish(to.to_str().unwrap(), &[]));
    let before = tree(&to);
    out.build(&(1..=300).collect::<Vec<_>>());
    let said = bad(&out.publish(to.to_str().unwrap(), &[]));
    assert!(said.contains("KiB to send, ") && said.contains("KiB free"), "{said}");
    assert_eq!(tree(&to), before);
}

#[test]
fn a_disk_that_fills_up_keeps_the_old_release_whole() {
    let small = Small::new("500k");
    let port = free_port();
    let root = small.0.path().join("tree");
    fs::create_dir(&root).unwrap();
    // As docs/examples/nginx.conf, on the small disk.
    let home = scratch();
    let config = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}} http {{ access_log off;
         proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s; client_body_temp_path {root}/.incoming;
         server {{ listen 127.0.0.1:{port}; root {root}; dav_methods PUT DELETE; create_full_put_path on; }} }}",
        root = root.display()
    );
    fs::write(home.path().join("nginx.conf"), config).unwrap();
    let prefix = home.path().to_path_buf();
    let mut nginx = Command::new("nginx");
    let _server =
        publish_support::Server::start(home, nginx.arg("-p").arg(prefix).args(["-c", "nginx.conf"]), port);
    let url = format!("http://127.0.0.1:{port}/");
    let out = Out::new();
    out.build(&(1..=20).collect::<Vec<_>>());
    good(&out.publish(&url, &[]));
    out.build(&(1..=300).collect::<Vec<_>>());
    let said = bad(&out.publish(&url, &[]));
    assert!(said.contains("can't write") && said.contains("HTTP 50"), "{said}");
    assert!(said.contains("not published; the target still has its previous release"), "{said}");
    assert_eq!(whole(&url, &out), Some(1));
}

fn flag(token: &str, until: u64) -> String {
    format!("imgfactory-flag 1\ntoken: {token}\nhost: other.example\nsince: 1000\nuntil: {until}\nend\n")
}

#[test]
fn another_publisher_is_waited_for_named_or_taken_over() {
    let out = Out::new();
    out.build(&[1, 2, 3]);
    let home = scratch();
    let dir = home.path().join("www");
    let to = dir.to_str().unwrap();
    let (publishing, collecting) = (dir.join(".imgfactory/publishing"), dir.join(".imgfactory/collecting"));
    fs::create_dir_all(dir.join(".imgfactory")).unwrap();
    let soon = system::clock::now().0 + 300;
    fs::write(&publishing, flag("abc", soon)).unwrap();
    let said = bad(&out.publish(to, &["--wait", "0"]));
    assert!(
        said.contains("other.example holds the lease (publishing)") && said.contains("--take-over"),
        "{said}"
    );
    assert!(!dir.join("latest").exists() && fs::read_to_string(&publishing).unwrap() == flag("abc", soon));

    // A flag that is over counts no more, and garbage is none.
    for text in [flag("abc", soon - 301), "garbage".into()] {
        fs::write(&publishing, text).unwrap();
        good(&out.publish(to, &["--wait", "0"]));
        assert!(!publishing.exists());
    }
    out.build(&[1, 2, 4]);
    fs::write(&collecting, flag("gc", soon)).unwrap();
    let said = bad(&out.publish(to, &["--wait", "0"]));
    assert!(said.contains("other.example holds the lease (collecting garbage)"), "{said}");
    assert!(!publishing.exists(), "our own flag is down again");
    fs::remove_file(&collecting).unwrap();
    fs::write(&publishing, flag("abc", soon)).unwrap();
    let gc = |wait| imgfactory().args(["gc", to, "--key", &out.public(), "--wait", wait]).output().unwrap();
    let said = bad(&gc("0"));
    assert!(said.contains("other.example is publishing there") && said.contains("run `gc` later"), "{said}");
    good(&out.publish(to, &["--take-over"]));
    fs::write(&publishing, flag("abc", soon)).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| good(&gc("60")));
        std::thread::sleep(Duration::from_millis(500));
        fs::remove_file(&publishing).unwrap();
        waits.join().unwrap();
    });
}

#[test]
fn two_at_once_leave_a_whole_release() {
    let out = Out::new();
    let home = scratch();
    let dir = home.path().join("www");
    let to = dir.to_str().unwrap();
    out.build(&(1..=300).collect::<Vec<_>>());
    // The same tree at a second place, as two jobs of a CI have it.
    let twin = home.path().join("twin");
    publish_support::run(Command::new("cp").arg("-a").arg(out.path()).arg(&twin));
    let publish = |from: &Path| {
        imgfactory()
            .arg("publish")
            .arg(from)
            .args(["--to", to, "--wait", "30", "--key", &out.public()])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let both = [publish(&out.path()), publish(&twin)];
    let ends: Vec<_> = both.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let good = ends.iter().filter(|output| output.status.success()).count();
    for output in ends.iter().filter(|output| !output.status.success()) {
        let said = bad(output);
        assert!(said.contains("another publisher took over") || said.contains("holds the lease"), "{said}");
    }
    assert!(good > 0);
    assert_same(&dir, &out.mirror());
}

#[test]
fn a_newer_or_another_release_on_the_target_is_never_covered() {
    let out = Out::new();
    let home = scratch();
    let dir = home.path().join("www");
    let to = dir.to_str().unwrap();
    out.build(&[1]);
    let old = home.path().join("old");
    publish_support::run(Command::new("cp").arg("-a").arg(out.path()).arg(&old));
    out.build(&[2]);
    good(&out.publish(to, &[]));
    let publish = |from: &Path| {
        imgfactory().arg("publish").arg(from).args(["--to", to, "--key", &out.public()]).output().unwrap()
    };
    let said = bad(&publish(&old));
    assert!(said.contains("the target has release 2, this is the older 1"), "{said}");
    // The other side builds upon its own release 1.
    let fork = Out { dir: scratch(), ..Out::new() };
    publish_support::run(Command::new("cp").arg("-a").arg(&old).arg(fork.path()));
    let fork = Out {
        key: imgfactory::project::keys::KeyFiles::new(&out.dir.path().join("key")).read().unwrap().0,
        ..fork
    };
    fork.build(&[3]);
    let said = bad(&publish(&fork.path()));
    assert!(said.contains("the target has a different release 2, built elsewhere"), "{said}");
    let stranger = Out::new();
    stranger.build(&[1]);
    let said = bad(&stranger.publish(to, &[]));
    assert!(
        said.contains("the target's release can't be read") && said.contains("not trusted here"),
        "{said}"
    );
}

#[test]
fn a_damaged_block_of_ours_never_leaves() {
    let out = Out::new();
    let upload = out.build(&[1, 2, 3]);
    let damaged = out.mirror().join(upload.puts[1].path.to_string());
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let home = scratch();
    let dir = home.path().join("www");
    let said = bad(&out.publish(dir.to_str().unwrap(), &[]));
    assert!(said.contains(&format!("{}\n", damaged.display())) && said.contains("damaged (block "), "{said}");
    assert!(tree(&dir).is_empty());
}

#[test]
fn one_bad_block_among_those_of_a_broken_attempt_is_found_in_a_directory() {
    let out = Out::new();
    let upload = out.build(&(1..=60).collect::<Vec<_>>());
    let home = scratch();
    let dir = home.path().join("www");
    for bad in [0, 1, 2, 3, 59] {
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        publish_support::run(Command::new("cp").arg("-a").arg(out.mirror().join("blk")).arg(&dir));
        let put = &upload.puts[bad];
        fs::write(dir.join(put.path.to_string()), vec![0; put.digest.len.try_into().unwrap()]).unwrap();
        let said = good(&out.publish(dir.to_str().unwrap(), &[]));
        assert!(said.contains("; 59 blocks were already there"), "{said}");
        assert_same(&dir, &out.mirror());
    }
}

/// The shell scripts of docs/mirrors.md.
fn scripts() -> Vec<String> {
    let text = include_str!("../../docs/mirrors.md");
    let blocks = text.split("\n    #!/bin/sh\n").skip(1);
    blocks
        .map(|block| {
            let lines = block.lines().take_while(|line| line.starts_with("    "));
            lines.map(|line| format!("{}\n", &line[4..])).collect()
        })
        .collect()
}

#[test]
fn the_shell_scripts_of_the_manual_publish_without_us() {
    let [curl, rsync] = &scripts()[..] else { panic!("two scripts") };
    let (server, url, dav) = nginx();
    let (daemon, module) = rsyncd();
    fs::create_dir(daemon.path("tree/demo")).unwrap();
    let out = Out::new();
    for disk in [&[1, 2, 3][..], &[1, 2, 4]] {
        out.build(disk);
        same_second(&out.mirror());
        for (script, to) in [(curl, &dav), (rsync, &module)] {
            assert!(script.lines().count() <= 10, "{script}");
            let script = format!("#!/bin/sh\n{script}");
            let file = out.dir.path().join("upload.sh");
            fs::write(&file, script).unwrap();
            publish_support::run(Command::new("sh").arg(&file).arg(out.path()).arg(to));
        }
        assert_same(&server.path("tree"), &out.mirror());
        assert_same(&daemon.path("tree/demo"), &out.mirror());
        // What was looked at before is as old as what is there now.
        same_second(&daemon.path("tree/demo"));
        publish_support::run(Command::new("touch").args(["-d", "@1700000000"]).arg(out.path().join(".has")));
    }
    assert_eq!(whole(&url, &out), Some(2));
    // Once more is no harm. A release that was never uploaded is noticed: its blocks are in no list any more.
    let script = |script: &str, to: &str| {
        let file = out.dir.path().join("upload.sh");
        fs::write(&file, format!("#!/bin/sh\n{script}")).unwrap();
        Command::new("sh").arg(&file).arg(out.path()).arg(to).output().unwrap()
    };
    for (text, to) in [(curl, &dav), (rsync, &module)] {
        good(&script(text, to));
    }
    out.build(&[1, 2, 7]);
    good(&imgfactory().arg("refresh").arg(out.path()).args(["--key", &out.key_name()]).output().unwrap());
    for (text, to) in [(curl, &dav), (rsync, &module)] {
        let said = bad(&script(text, to));
        assert!(said.contains("upload.txt is not for release 2"), "{said}");
    }
    assert_eq!(whole(&url, &out), Some(2));
    good(&out.publish(&dav, &[]));
    assert_eq!(whole(&url, &out), Some(3));

    // A damaged file stops the script before `latest`.
    let upload = out.build(&[5, 6]);
    fs::write(out.mirror().join(upload.puts[1].path.to_string()), b"x").unwrap();
    assert!(!script(curl, &dav).status.success());
    assert_eq!(whole(&url, &out), Some(3));
}

/// Two publications in one second, for programs that look at lengths and times: the files that are replaced.
fn same_second(mirror: &Path) {
    for name in ["latest", "mirrors.txt"] {
        publish_support::run(Command::new("touch").args(["-d", "@1700000000"]).arg(mirror.join(name)));
    }
}

#[test]
fn the_steps_of_rsync_mirror_it_whatever_is_published_between_them() {
    let text = include_str!("../../docs/mirrors.md");
    let (_, steps) = text.split_once("meanwhile:\n\n").unwrap();
    let (steps, _) = steps.split_once("\n\n").unwrap();
    let out = Out::new();
    let (daemon, module) = rsyncd();
    let root = daemon.path("tree/demo");
    let copy = scratch();
    let (_server, url) = web(copy.path());
    let steps = steps
        .replace("rsync://mirror.example/demo/", &module)
        .replace("/srv/mirror/", &format!("{}/", copy.path().display()));
    let steps: Vec<&str> = steps.split(" &&\n").collect();
    assert_eq!(steps.len(), 4);
    let mut lengths = std::collections::BTreeSet::new();
    let mut serial = 0;
    let mut publish = || {
        serial += 1;
        out.build(&[1, serial, 100 + serial]);
        good(&out.publish(root.to_str().unwrap(), &[]));
        same_second(&root);
        lengths.insert(fs::metadata(root.join("latest")).unwrap().len());
        u64::from(serial)
    };
    let run = |step: &str| publish_support::run(Command::new("sh").args(["-ec", step]));
    for between in 0..steps.len() {
        let mut newest = publish();
        for (at, step) in steps.iter().enumerate() {
            if at == between {
                newest = publish();
            }
            run(step);
            // At any moment, once there is anything: a release that is whole.
            if between > 0 || at > 1 {
                whole(&url, &out).unwrap();
            }
        }
        let want = if between == 0 { newest } else { newest - 1 };
        assert_eq!(whole(&url, &out), Some(want));
    }
    // An attempt that was cut short leaves its files for the next.
    run(steps[0]);
    publish();
    steps.iter().for_each(|step| drop(run(step)));
    assert_eq!(lengths.len(), 1, "else the times show nothing");
    assert_same(copy.path(), &out.mirror());
}

#[test]
fn a_client_reads_what_was_published_and_pulled() {
    let out = Out::new();
    out.build(&(1..=50).collect::<Vec<_>>());
    let home = scratch();
    let dir = home.path().join("www");
    good(&out.publish(dir.to_str().unwrap(), &[]));
    let (_server, url) = web(&dir);
    let output = Command::new(programs::imgfetch())
        .args(["cat", "--mirror", &url, "--key", &out.public(), "--image", "host"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let disk: Vec<u8> = (1..=50).flat_map(publish_support::raw).collect();
    assert!(output.stdout == disk);
}

#[test]
fn a_password_over_plain_http_is_warned_of() {
    let out = Out::new();
    out.build(&[1]);
    let warned = |to: &str, variable: &str| {
        let mut publish = out.command("publish");
        let said = publish.args(["--to", to]).env(variable, "secret").output().unwrap();
        assert!(!String::from_utf8_lossy(&said.stderr).contains("secret"));
        String::from_utf8_lossy(&said.stderr).contains("is sent over plain http, where others can read it")
    };
    assert!(warned("http://mirror.invalid/tree/", "IMGFACTORY_HTTP_TOKEN"));
    assert!(!warned("http://mirror.invalid/tree/", "UNRELATED"));
    assert!(!warned("https://mirror.invalid/tree/", "IMGFACTORY_HTTP_TOKEN"));
    assert!(!warned("http://127.0.0.1:9/tree/", "IMGFACTORY_HTTP_TOKEN"), "it stays on this machine");
}
