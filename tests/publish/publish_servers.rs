//! `imgfactory publish`, `rollback`, `gc`, `mirror pull` and `mirror verify` against real servers on this machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::publish_support::{
    self, Out, apache, assert_same, bad, caddy, good, imgfactory, nginx, rsyncd, rsyncd_by, s3, scratch,
    sshd, tree, web, web_by,
};

/// A target under test.
pub struct Place<'a> {
    pub to: &'a str,
    /// Where its files are on this disk.
    pub files: &'a Path,
    pub env: Vec<(&'a str, String)>,
    pub url: Option<&'a str>,
}

impl Place<'_> {
    fn run(&self, command: &mut Command) -> std::process::Output {
        command.envs(self.env.iter().map(|(name, value)| (*name, value))).output().unwrap()
    }

    fn publish(&self, out: &Out, words: &[&str]) -> std::process::Output {
        let mut command = out.command("publish");
        command.args(["--to", self.to]).args(words);
        if let Some(url) = self.url {
            command.args(["--url", url]);
        }
        self.run(&mut command)
    }

    /// `imgfactory mirror`, of where clients are sent, or of the target itself.
    fn mirror(&self, out: &Out, what: &str, words: &[&str]) -> std::process::Output {
        let mut command = imgfactory();
        command
            .args(["mirror", what, self.url.unwrap_or(self.to)])
            .args(words)
            .args(["--key", &out.public()]);
        self.run(&mut command)
    }

    /// What clients may read is what our tree has: all of it, or all but what is named.
    fn holds(&self, out: &Out, but: &[&str]) {
        let mut ours = tree(&out.mirror());
        let theirs = tree(self.files);
        ours.retain(|path, _| !but.contains(&path.as_str()));
        let missing: Vec<_> = ours.iter().filter(|(path, bytes)| theirs.get(*path) != Some(bytes)).collect();
        assert!(
            missing.is_empty(),
            "{}: {:?}",
            self.to,
            missing.iter().map(|(path, _)| path).collect::<Vec<_>>()
        );
        let extra: Vec<_> = theirs.keys().filter(|path| !ours.contains_key(*path)).collect();
        assert!(extra.is_empty(), "{}: {extra:?}", self.to);
        assert!(!self.files.join(".imgfactory/publishing").exists(), "the flag is down");
    }
}

/// Publishes, updates, goes back, collects garbage and verifies; four releases in all.
pub fn whole_life(place: &Place<'_>) -> Out {
    let mut out = Out::new();
    // Old enough that the first release is past its retention.
    (out.ago, out.retain) = (40 * 86_400, 86_400);
    let first = out.build(&(1..=80).collect::<Vec<_>>());
    let plan = good(&place.publish(&out, &["--dry-run"]));
    assert!(plan.contains("nothing -> release 1: 80 blocks"), "{plan}");
    assert!(!place.files.exists() || tree(place.files).is_empty(), "a plan writes nothing");
    let said = good(&place.publish(&out, &[]));
    assert!(said.contains(&format!("{} bytes sent", first.bytes())), "{said}");
    place.holds(&out, &[]);

    // An update: what is sent is upload.txt to the byte.
    (out.ago, out.retain) = (0, 90 * 86_400);
    let disk: Vec<u32> = (1..=70).chain(200..215).collect();
    let second = out.build(&disk);
    let said = good(&place.publish(&out, &[]));
    let (files, bytes) = (second.steps().count(), second.bytes());
    assert!(said.contains(&format!("release 2: {files} files, {bytes} bytes sent")), "{said}");
    place.holds(&out, &[]);
    let said = good(&place.publish(&out, &[]));
    assert!(said.contains("already has release 2; 0 blocks sent"), "{said}");

    let at = |serial: u32| format!("{}@{serial}", place.url.unwrap_or(place.to));
    let said = good(&place.run(imgfactory().args(["diff", &at(1), &at(2), "--key", &out.public()])));
    assert!(said.contains("host") && said.contains("15"), "{said}");

    let mut releases = imgfactory();
    releases.args(["releases", place.url.unwrap_or(place.to), "--key", &out.public()]);
    let said = good(&place.run(&mut releases));
    assert!(said.contains("\n     1  ") && said.lines().any(|line| line.ends_with("<- latest")), "{said}");

    // It can be copied from there, whole, and again only what lacks.
    let home = scratch();
    let copy = home.path().join("copy");
    let pull = || good(&place.mirror(&out, "pull", &[copy.to_str().unwrap()]));
    let said = pull();
    let count = tree(&out.mirror()).len() - 10 - ["releases/1.txt", "images/host/1/index.idx"].len();
    assert!(said.contains(&format!("release 2: {count} files fetched, ")), "{said}");
    assert!(pull().contains("release 2: 0 files fetched, 0 bytes"));
    let verify = |output: std::process::Output, code: i32| {
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = verify(
        imgfactory().arg("mirror").arg("verify").arg(&copy).args(["--key", &out.public()]).output().unwrap(),
        0,
    );
    assert!(said.contains("; 0 findings"), "{said}");
    assert!(verify(place.mirror(&out, "verify", &["--full"]), 0).contains(" correct; 0 findings"));

    // Lost and damaged blocks are found when one looks, and sent again.
    let lost = second.puts[0].path.to_string();
    let damaged = second.puts[1].path.to_string();
    fs::remove_file(place.files.join(&lost)).unwrap();
    fs::write(place.files.join(&damaged), b"x").unwrap();
    let said = verify(place.mirror(&out, "verify", &["--full"]), 1);
    assert!(said.contains(&format!("missing  {lost}\n")), "{said}");
    assert!(said.contains(&format!("wrong    {damaged}: ")), "{said}");
    good(&place.publish(&out, &["--verify"]));
    place.holds(&out, &[]);

    // Back to the first state: a new release, no block.
    let sign = ["--key", &out.key_name()];
    good(&imgfactory().arg("rollback").arg(out.path()).args(["--to", "1"]).args(sign).output().unwrap());
    let said = good(&place.publish(&out, &[]));
    assert!(said.contains("release 3: 2 files, ") && said.contains("blocks were already there"), "{said}");
    place.holds(&out, &[]);

    // A daily refresh: one file.
    good(&imgfactory().arg("refresh").arg(out.path()).args(sign).output().unwrap());
    assert!(good(&place.publish(&out, &[])).contains("release 3: 1 file, "));

    // And forward again, so that only the first state's own files are garbage. `keep 1` and 0 s of grace: now.
    good(&imgfactory().arg("rollback").arg(out.path()).args(["--to", "2"]).args(sign).output().unwrap());
    good(&place.publish(&out, &[]));
    let gc = |words: &[&str]| {
        let key = out.public();
        let mut command = imgfactory();
        command.args(["gc", place.to, "--key", &key, "--keep", "1", "--grace", "0s"]).args(words);
        good(&place.run(&mut command))
    };
    let said = gc(&["--dry-run"]);
    assert!(said.contains("release 1 expired") && said.contains("0 files of 0 B to remove now"), "{said}");
    // Release 3 has the maps of release 1, and is in retention: only release 1's own text is garbage.
    assert!(said.contains("\n1 file of"), "{said}");
    gc(&[]);
    place.holds(&out, &[]);
    gc(&[]);
    place.holds(&out, &["releases/1.txt"]);
    assert!(!place.files.join("releases/1.txt").exists());
    let control = place.files.join(".imgfactory");
    assert!(!control.exists() || tree(&control).is_empty());
    out
}

#[test]
fn a_directory_lives_a_whole_life() {
    let home = scratch();
    let files = home.path().join("www/demo");
    let to = files.display().to_string();
    whole_life(&Place { to: &to, files: &files, env: vec![], url: None });
}

#[test]
fn nginx_with_dav_lives_a_whole_life_and_serves_what_was_put() {
    let (server, url, dav) = nginx();
    whole_life(&Place { to: &dav, files: &server.path("tree"), env: vec![], url: Some(&url) });
    as_the_manual_says(&url);
}

#[test]
fn apache_as_in_the_manual_lives_a_whole_life_and_serves_what_was_put() {
    let (server, url, dav) = apache();
    let env = vec![("IMGFACTORY_HTTP_USER", "p".into()), ("IMGFACTORY_HTTP_PASSWORD", "p".into())];
    whole_life(&Place { to: &dav, files: &server.path("tree"), env, url: Some(&url) });
    as_the_manual_says(&url);
    let out = Out::new();
    out.build(&[1]);
    let said = bad(&out.publish(&dav, &[]));
    assert!(said.contains("HTTP 401") && said.contains("IMGFACTORY_HTTP_USER"), "{said}");
}

#[test]
fn caddy_as_in_the_manual_serves_what_was_put() {
    let out = Out::new();
    for disk in [&[1, 2, 3][..], &[1, 4]] {
        out.build(disk);
    }
    let home = scratch();
    let dir = home.path().join("www");
    let (_server, url) = caddy(&dir);
    good(&out.publish(dir.to_str().unwrap(), &["--url", &url]));
    fs::create_dir_all(dir.join(".imgfactory")).unwrap();
    fs::write(dir.join(".imgfactory/tombstones"), "x").unwrap();
    as_the_manual_says(&url);
}

/// How a server answers clients.
fn as_the_manual_says(url: &str) {
    let head = |path: &str| {
        let accept = ["-sI", "-H", "Accept-Encoding: gzip, br, zstd"];
        publish_support::run(Command::new("curl").args(accept).arg(format!("{url}{path}"))).to_lowercase()
    };
    let forever = "cache-control: public, max-age=31536000, immutable\r";
    for (path, cache) in [
        ("latest", "cache-control: no-cache\r"),
        ("mirrors.txt", "cache-control: no-cache\r"),
        ("releases/2.txt", forever),
    ] {
        let found = head(path);
        assert!(found.lines().next().unwrap().contains(" 200") && found.contains(cache), "{path}: {found}");
        assert_eq!(found.matches("cache-control").count(), 1, "{path}: {found}");
        assert!(!found.contains("content-encoding"), "{path}: {found}");
        assert!(found.contains("etag: ") || found.contains("last-modified: "), "{path}: {found}");
    }
    for path in [".imgfactory/tombstones", ".imgfactory/", "blk/", "blk", "", "no", "blk/.x"] {
        let found = head(path);
        let status = found.lines().next().unwrap();
        assert!([" 403", " 404", " 301", " 308"].iter().any(|code| status.contains(code)), "{path}: {found}");
        // What is not there may be there later.
        assert!(!found.contains("immutable"), "{path}: {found}");
    }
}

#[test]
fn rsyncd_lives_a_whole_life() {
    let (server, to) = rsyncd();
    whole_life(&Place { to: &to, files: &server.path("tree/demo"), env: vec![], url: None });
}

/// A daemon that serves one at a time is enough for us alone; while another has its only connection, we wait.
#[test]
fn an_rsync_daemon_with_one_connection_lives_a_whole_life() {
    let (server, to) = rsyncd_by("max connections = 1\n");
    whole_life(&Place { to: &to, files: &server.path("tree/demo"), env: vec![], url: None });
    let refusals =
        || fs::read_to_string(server.path("rsyncd.log")).unwrap().matches("max connections").count();
    let address = to.split('/').nth(2).unwrap();
    let other = loop {
        let mut other = TcpStream::connect(address).unwrap();
        other.write_all(b"@RSYNCD: 31.0\nmirror\n").unwrap();
        let mut lines = BufReader::new(other.try_clone().unwrap()).lines().map_while(Result::ok);
        let answer = lines.find(|line| line == "@RSYNCD: OK" || line.starts_with("@ERROR")).unwrap();
        if !answer.starts_with("@ERROR") {
            break other;
        }
        assert!(answer.contains("max connections"), "{answer}");
    };
    let before = refusals();
    let out = Out::new();
    out.build(&[1]);
    fs::remove_dir_all(server.path("tree/demo")).unwrap();
    let mut command = out.command("publish");
    let child = command.args(["--to", &to]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // More often than a connection that breaks is tried again.
    let end = Instant::now() + Duration::from_secs(300);
    while refusals() < before + 5 {
        assert!(Instant::now() < end, "only {} refusals", refusals() - before);
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(other);
    good(&child.wait_with_output().unwrap());
}

#[test]
fn rsync_over_ssh_lives_a_whole_life() {
    let (server, to, path) = sshd();
    let place = Place { to: &to, files: &server.path("tree/demo"), env: vec![("PATH", path)], url: None };
    whole_life(&place);
    // Each command knocks once.
    let knocks = || fs::read_to_string(server.path("log")).unwrap().matches("Accepted publickey").count();
    let before = knocks();
    let out = Out::new();
    fs::remove_dir_all(place.files).unwrap();
    out.build(&[1, 2, 3]);
    good(&place.publish(&out, &[]));
    assert_eq!(knocks() - before, 1);
}

#[test]
fn an_s3_server_lives_a_whole_life() {
    let (server, to) = s3();
    let env = vec![("AWS_ACCESS_KEY_ID", "key".into()), ("AWS_SECRET_ACCESS_KEY", "secret".into())];
    whole_life(&Place { to: &to, files: &server.path("data/bucket/demo"), env, url: None });
}

#[test]
fn a_mirror_is_pulled_verified_and_listed() {
    let mut out = Out::new();
    let (_server, url) = web(&out.path().join("mirror"));
    out.mirrors = vec![url.clone(), "http://127.0.0.1:9/".into()];
    out.build(&(1..=40).collect::<Vec<_>>());
    let home = scratch();
    let dir = home.path().join("copy");
    let key = out.public();
    let mirror =
        |words: &[&str]| imgfactory().arg("mirror").args(words).args(["--key", &key]).output().unwrap();
    let to = dir.to_str().unwrap();
    let said = good(&mirror(&["pull", &url, to]));
    assert!(said.contains("release 1: 44 files fetched, "), "{said}");
    assert_same(&dir, &out.mirror());
    assert!(good(&mirror(&["pull", &url, to])).contains("release 1: 0 files fetched, 0 bytes"));
    let second = out.build(&(1..=45).collect::<Vec<_>>());
    let said = good(&mirror(&["pull", &url, to]));
    assert!(
        said.contains(&format!(
            "release 2: {} files fetched, {} bytes",
            second.steps().count(),
            second.bytes()
        )),
        "{said}"
    );

    // Without blocks: enough to build upon.
    let thin = home.path().join("thin");
    let said = good(&mirror(&["pull", "--no-blocks", &url, thin.to_str().unwrap()]));
    assert!(said.contains("release 2: 4 files fetched, ") && !thin.join("blk").exists(), "{said}");

    assert!(good(&mirror(&["verify", &url, "--full"])).contains("release 2: 47 files of "));
    assert!(good(&mirror(&["verify", &url, "--sample", "10%"])).contains("40 blocks not read"));
    let (lost, damaged) = (second.puts[0].path.to_string(), second.puts[1].path.to_string());
    fs::remove_file(dir.join(&lost)).unwrap();
    fs::write(dir.join(&damaged), b"x").unwrap();
    fs::write(dir.join("blk/README"), b"x").unwrap();
    let output = mirror(&["verify", to]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("missing  {lost}\n")), "{said}");
    assert!(said.contains(&format!("wrong    {damaged}: block ")), "{said}");
    assert!(said.contains("extra    blk/README\n"), "{said}");
    // A pull mends what has another length, and goes back to no older release.
    good(&mirror(&["pull", &url, to]));
    assert!(good(&mirror(&["verify", to])).contains("47 files of"));

    let output = mirror(&["list", &url]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "one of them does not answer: {said}");
    assert!(said.contains("     2       -") && said.contains("     ?       ?"), "{said}");
    assert!(said.contains("newest: release 2 of 20"), "{said}");

    let other = scratch();
    let stranger = imgfactory::project::keys::KeyFiles::new(&other.path().join("x")).create(None).unwrap();
    let wrong =
        imgfactory().args(["mirror", "pull", &url, to, "--key", &stranger.public_base64()]).output().unwrap();
    assert!(bad(&wrong).contains("which is not trusted here"), "{}", bad(&wrong));
}

/// Two requests a second, and the others are told when to come again.
#[test]
fn a_web_server_that_wants_to_be_asked_later_is_asked_later() {
    let out = Out::new();
    out.build(&(1..=12).collect::<Vec<_>>());
    let limit = "limit_req_zone $server_port zone=slow:1m rate=2r/s;";
    let more = "limit_req zone=slow; limit_req_status 429; error_page 429 @later;
        location @later { add_header Retry-After 1 always; return 429; }";
    let (_server, url) = web_by(&out.mirror(), limit, more);
    let home = scratch();
    let copy = home.path().join("copy");
    good(
        &imgfactory()
            .args(["mirror", "pull", &url])
            .arg(&copy)
            .args(["--key", &out.public()])
            .output()
            .unwrap(),
    );
    assert_same(&copy, &out.mirror());
}

#[test]
fn what_the_public_does_not_see_is_not_published() {
    let out = Out::new();
    out.build(&[1, 2, 3]);
    let (_server, elsewhere) = web(&out.path());
    let home = scratch();
    let dir = home.path().join("www");
    let to = dir.to_str().unwrap();
    let said = bad(&out.publish(to, &["--url", &elsewhere]));
    assert!(
        said.contains("clients would get wrong files from the target's URL; `latest` was not replaced"),
        "{said}"
    );
    assert!(said.contains("missing; check that this URL leads to the target"), "{said}");
    assert!(!dir.join("latest").exists());
}

#[test]
fn of_several_targets_one_may_fail_and_is_named() {
    let out = Out::new();
    out.build(&[1, 2, 3]);
    let home = scratch();
    let dir = home.path().join("www");
    fs::write(home.path().join("file"), b"").unwrap();
    let broken = home.path().join("file/x").display().to_string();
    let to = dir.to_str().unwrap();
    let output = out.publish(&broken, &["--to", to]);
    let said = bad(&output);
    assert!(
        said.contains(&format!("{broken}: not published; the target still has its previous release")),
        "{said}"
    );
    assert!(dir.join("latest").exists());
    fs::remove_dir_all(&dir).unwrap();
    let said = bad(&out.publish(&broken, &["--to", to, "--stop"]));
    assert!(said.contains(&format!("{to}: not started, because another target failed")), "{said}");
    assert!(!dir.exists());
}
