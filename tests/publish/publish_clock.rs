//! `gc` on a computer whose clock is wrong: nothing is removed by it. The clock is turned by faketime.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::publish_support::{Out, bad, good, nginx, rsyncd, scratch, tree};

const DAY: u64 = 86_400;

/// `imgfactory gc` while the clock is off by `days`.
fn gc(out: &Out, to: &str, days: i64, words: &[&str]) -> Output {
    let program = crate::programs::imgfactory();
    let mut command = Command::new("faketime");
    command.args(["-f", &format!("{days:+}d")]).arg(program);
    command.args(["gc", to, "--key", &out.public(), "--keep", "1"]).args(words);
    command.env_remove("http_proxy").env_remove("all_proxy").env_remove("ALL_PROXY");
    command.output().unwrap()
}

/// Two releases, of which the first is past its retention; its files were marked a moment ago.
fn marked(to: &str, files: &Path) -> Out {
    let mut out = Out::new();
    (out.ago, out.retain) = (40 * DAY, DAY);
    out.build(&[1, 2, 3]);
    good(&out.publish(to, &[]));
    (out.ago, out.retain) = (0, 90 * DAY);
    out.build(&[1, 4]);
    good(&out.publish(to, &[]));
    good(&gc(&out, to, 0, &[]));
    assert!(fs::read_to_string(files.join(".imgfactory/tombstones")).unwrap().contains("releases/1.txt"));
    out
}

/// A wrong clock, in both directions: what is said, and that nothing has changed.
fn refuses(to: &str, files: &Path, ahead: &str, behind: &str) -> Out {
    let out = marked(to, files);
    let before = (tree(files), fs::read(files.join(".imgfactory/tombstones")).unwrap());
    for (days, said) in [(20, ahead), (-20, behind), (-400, "but `latest` was published on 20")] {
        let told = bad(&gc(&out, to, days, &[]));
        assert!(told.contains("this computer's clock shows 20") && told.contains(said), "{days}: {told}");
        assert!(told.contains("Set the clock; if it is right, add --trust-clock"), "{told}");
        let after = (tree(files), fs::read(files.join(".imgfactory/tombstones")).unwrap());
        assert!(before == after, "{days}: something was removed or marked");
    }
    // The grace is over, and nothing contradicts the clock.
    good(&gc(&out, to, 0, &["--grace", "0s"]));
    assert!(!files.join("releases/1.txt").exists());
    out
}

#[test]
fn in_a_directory_the_dates_of_the_release_and_of_the_marks_contradict_a_wrong_clock() {
    let home = scratch();
    let files = home.path().join("www");
    let to = files.display().to_string();
    let out = refuses(&to, &files, "but `latest` expired on 20", "but `latest` was published on 20");
    // Who knows better may say so: of a release that nobody refreshes.
    out.build(&[5]);
    good(&out.publish(&to, &[]));
    good(&gc(&out, &to, 100, &["--trust-clock"]));
}

#[test]
fn a_mark_that_lies_ahead_contradicts_a_clock() {
    let home = scratch();
    let files = home.path().join("www");
    let to = files.display().to_string();
    let out = marked(&to, &files);
    // Made by a clock that was ahead; with ours its grace would begin long before it was made.
    let stones = files.join(".imgfactory/tombstones");
    let text = fs::read_to_string(&stones).unwrap();
    let ahead = |line: &str| match line.split_once(' ') {
        Some((path, time)) if path.contains('/') => {
            format!("{path} {}\n", time.parse::<u64>().unwrap() + 20 * DAY)
        }
        _ => format!("{line}\n"),
    };
    fs::write(&stones, text.lines().map(ahead).collect::<String>()).unwrap();
    let told = bad(&gc(&out, &to, 0, &["--grace", "0s"]));
    assert!(told.contains("but a file was marked for removal on 20"), "{told}");
    assert!(files.join("releases/1.txt").exists());
}

#[test]
fn a_web_server_has_a_clock_of_its_own() {
    let (_publishes, _, dav) = nginx();
    // A publication goes on, with a word.
    let out = Out::new();
    out.build(&[1]);
    let mut publish = Command::new("faketime");
    publish.args(["-f", "+1d"]).arg(crate::programs::imgfactory()).arg("publish").arg(out.path());
    let said =
        publish.args(["--key", &out.public(), "--to", &dav]).env_remove("http_proxy").output().unwrap();
    good(&said);
    let told = String::from_utf8_lossy(&said.stderr);
    assert!(told.contains(", the target's 20") && told.contains("leases are valid too long"), "{told}");
    let (server, _, dav) = nginx();
    refuses(&dav, &server.path("tree"), ", the target's 20", "but `latest` was published on 20");
}

#[test]
fn an_rsync_daemon_has_a_clock_of_its_own() {
    let (server, to) = rsyncd();
    refuses(&to, &server.path("tree/demo"), ", the target's 20", "but `latest` was published on 20");
}
