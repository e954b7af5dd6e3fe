//! Mirrors that withhold releases or have another distribution, before somebody who signs or pulls on a machine that
//! remembers nothing.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread::sleep;
use std::time::Duration;

use imgfactory::project::keys::KeyFiles;

use crate::publish_support::{Out, bad, good, imgfactory, scratch, tree};

fn pull(from: &Path, to: &Path, key: &str) -> Output {
    imgfactory().args(["mirror", "pull"]).args([from, to]).args(["--key", key]).output().unwrap()
}

/// `refresh` or `rollback` of the tree `out`.
fn sign(command: &str, tree: &Path, out: &Out, words: &[&str]) -> Output {
    imgfactory().arg(command).arg(tree).args(["--key", &out.key_name()]).args(words).output().unwrap()
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in tree(from) {
        fs::create_dir_all(to.join(&name).parent().unwrap()).unwrap();
        fs::write(to.join(name), bytes).unwrap();
    }
}

#[test]
fn an_old_latest_is_not_signed_as_new_without_a_word_that_no_mirror_controls() {
    let (out, home) = (Out::new(), scratch());
    let state = home.path().join("state");
    let with_state = ["--state", state.to_str().unwrap()];
    out.build(&[1, 2]);
    good(&sign("refresh", &out.path(), &out, &["--fresh", "1s"]));
    let old = home.path().join("old");
    copy(&out.mirror(), &old);
    out.build(&[1, 3]);
    good(&sign("refresh", &out.path(), &out, &[]));
    sleep(Duration::from_millis(2100));

    // A runner that has nothing but the key, before a mirror that withholds release 2.
    let runner = home.path().join("runner");
    let pulled = pull(&old, &runner, &out.public());
    good(&pulled);
    let said = String::from_utf8_lossy(&pulled.stderr).into_owned();
    assert!(said.contains("`latest` of release 1 expired on"), "{said}");
    let before = tree(&runner);
    for (command, words) in
        [("refresh", &[][..]), ("refresh", &["--min-serial", "1"]), ("rollback", &["--to", "1"])]
    {
        let said = bad(&sign(command, &runner, &out, words));
        assert!(said.contains("expired on") && said.contains("add --newest 1"), "{said}");
        assert_eq!(tree(&runner), before, "nothing was written");
    }

    // With a state file it is noticed also before it expires; a file that is not there is no empty one.
    let missing = bad(&sign("refresh", &out.path(), &out, &with_state));
    assert!(
        missing.contains("no such file; check that release 2 is the newest, then add --newest 2"),
        "{missing}"
    );
    good(&sign("refresh", &out.path(), &out, &[&with_state[..], &["--newest", "2"]].concat()));
    assert_eq!(fs::read(&state).unwrap(), fs::read(out.mirror().join("latest")).unwrap());
    let said = bad(&sign("refresh", &runner, &out, &with_state));
    assert!(said.contains("newest release is 1, but release 2 was signed already"), "{said}");
    let said = bad(&sign("refresh", &runner, &out, &["--newest", "2"]));
    assert!(said.contains("newest release is 1, below --newest 2"), "{said}");

    // Release 2 is lost: what comes now is release 3, so no client sees two releases of one serial.
    let lost = [&with_state[..], &["--newest", "1", "--to", "1"]].concat();
    let said = bad(&sign("rollback", &runner, &out, &lost));
    assert!(said.contains("release 1 is the newest already"), "{said}");
    good(&sign("refresh", &runner, &out, &["--newest", "1"]));
    assert!(fs::read_to_string(runner.join("latest")).unwrap().contains("serial: 1\n"));
    // The output directory remembers by itself.
    copy(&old, &out.mirror());
    let said = bad(&sign("refresh", &out.path(), &out, &[]));
    assert!(said.contains("newest release is 1, but release 2 was signed already"), "{said}");
}

#[test]
fn a_state_file_keeps_what_was_revoked() {
    let (out, home) = (Out::new(), scratch());
    let state = home.path().join("state");
    for blocks in [[1, 2], [1, 3]] {
        out.build(&blocks);
    }
    let before = home.path().join("before");
    copy(&out.mirror(), &before);
    let words = ["--state", state.to_str().unwrap(), "--newest", "2"];
    good(&sign("refresh", &out.path(), &out, &[&words[..], &["--min-serial", "2"]].concat()));
    let said = bad(&sign("refresh", &before, &out, &words[..2]));
    assert!(
        said.contains("it revokes the releases below 1, but those below 2 were revoked already"),
        "{said}"
    );
    good(&sign("refresh", &before, &out, &words));
    assert!(fs::read_to_string(before.join("latest")).unwrap().contains("min-serial: 2\n"));
}

#[test]
fn a_mirror_takes_no_other_distribution_and_no_other_statement_of_a_key() {
    let (out, home) = (Out::new(), scratch());
    out.build(&[1, 2]);
    let (ours, theirs) = (home.path().join("ours"), home.path().join("theirs"));
    good(&pull(&out.mirror(), &ours, &out.public()));

    let (same_key, _) = KeyFiles::new(out.key_name().as_ref()).read().unwrap();
    let other = Out { key: same_key, name: "other", ..Out::new() };
    other.build(&[7, 8]);
    copy(&other.mirror(), &theirs);
    let before = tree(&ours);
    let said = bad(&pull(&theirs, &ours, &out.public()));
    assert!(said.contains("is a mirror of `demo`") && said.contains("has `other`"), "{said}");
    assert_eq!(tree(&ours), before);

    // Our old key's statement; a mirror of the new key has one that the new key signed under the old key's name.
    let next = home.path().join("next").display().to_string();
    let new = KeyFiles::new(next.as_ref()).create(None).unwrap();
    let mut rotate = imgfactory();
    rotate.arg("rotate").arg(out.path()).args(["--key", &out.key_name(), "--to", &next]);
    good(&rotate.output().unwrap());
    let both = |from: &Path, to: &Path| {
        let mut pull = imgfactory();
        pull.args(["mirror", "pull"]).args([from, to]).args([
            "--key",
            &out.public(),
            "--key",
            &new.public_base64(),
        ]);
        good(&pull.output().unwrap());
    };
    both(&out.mirror(), &ours);
    let statement = fs::read_dir(ours.join("keys")).unwrap().next().unwrap().unwrap().path();
    let right = fs::read(&statement).unwrap();
    let wrong = new.sign(&formats::release::Successors {
        name: "demo".parse().unwrap(),
        keys: vec![new.public_base64()],
    });
    let hostile = out.mirror().join("keys").join(statement.file_name().unwrap());
    fs::write(&hostile, wrong.unwrap()).unwrap();
    both(&out.mirror(), &ours);
    assert_eq!(fs::read(&statement).unwrap(), right, "old boot media need it");
    let fresh = home.path().join("fresh");
    both(&out.mirror(), &fresh);
    assert!(!fresh.join("keys").exists(), "a statement of another key is none");
}
