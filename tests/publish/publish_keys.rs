//! Keys that follow one another, and releases that are revoked, as clients with old boot media see them.

use std::fs;
use std::process::{Command, Output};

use formats::release::{Successors, TrustedKeys};
use imgfactory::project::keys::KeyFiles;
use imgfactory::release::SigningKey;

use crate::programs;
use crate::publish_support::{self, Out, bad, good, imgfactory, raw, scratch, tree, web};

fn cat(url: &str, key: &str, words: &[&str]) -> Output {
    Command::new(programs::imgfetch())
        .args(["cat", "--mirror", url, "--key", key, "--image", "host", "--deadline", "5s"])
        .args(words)
        .output()
        .unwrap()
}

fn disk(blocks: &[u32]) -> Vec<u8> {
    blocks.iter().flat_map(|block| raw(*block)).collect()
}

#[test]
fn boot_media_that_know_an_old_key_follow_it_to_the_newest() {
    let mut out = Out::new();
    let home = scratch();
    let dir = home.path().join("www");
    let to = dir.to_str().unwrap();
    let (_server, url) = web(&dir);
    out.build(&[1, 2]);
    good(&out.publish(to, &[]));
    let first = out.public();

    let mut keys = vec![out.public()];
    for (number, blocks) in [(2, [1, 3]), (3, [1, 4])] {
        let next = home.path().join(format!("key{number}")).display().to_string();
        let new = KeyFiles::new(next.as_ref()).create(None).unwrap();
        let mut rotate = imgfactory();
        rotate.arg("rotate").arg(out.path()).args(["--key", &out.key_name_now(number), "--to", &next]);
        good(&rotate.output().unwrap());
        keys.push(new.public_base64());
        let trusted: Vec<&str> = keys.iter().flat_map(|key| ["--key", key]).collect();
        let publish = |out: &Out| {
            imgfactory().arg("publish").arg(out.path()).args(["--to", to]).args(&trusted).output().unwrap()
        };
        good(&publish(&out));
        out.key = new;
        fs::copy(format!("{next}.key"), out.dir.path().join(format!("now{number}.key"))).unwrap();
        fs::copy(format!("{next}.pub"), out.dir.path().join(format!("now{number}.pub"))).unwrap();
        // The next build signs with the new key.
        out.build(&blocks);
        good(&publish(&out));
        for key in &keys {
            let found = cat(&url, key, &[]);
            assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
            assert!(found.stdout == disk(&blocks));
        }
    }
    // A mirror that pulls has the statements too.
    let copy = home.path().join("copy");
    let with_first =
        |words: &[&str]| good(&imgfactory().args(words).args(["--key", &first]).output().unwrap());
    with_first(&["mirror", "pull", &url, copy.to_str().unwrap()]);
    assert_eq!(fs::read_dir(copy.join("keys")).unwrap().count(), 2);
    let (_copy_server, copy_url) = web(&copy);
    assert!(cat(&copy_url, &first, &[]).status.success());

    // Operators who know the first key only need not do anything either.
    for words in [
        &["mirror", "verify", &url, "--full"][..],
        &["mirror", "verify", copy.to_str().unwrap()],
        &["mirror", "list", &url],
        &["releases", &url],
        &["gc", to, "--dry-run"],
        &["publish", out.path().to_str().unwrap(), "--to", to],
    ] {
        with_first(words);
    }

    // A statement that is changed, or signed by somebody else, leads nowhere.
    let statements = tree(&dir).into_keys().filter(|path| path.starts_with("keys/")).collect::<Vec<_>>();
    assert_eq!(statements.len(), 2);
    let stranger = SigningKey::generate().unwrap();
    let theirs = Successors { name: "demo".parse().unwrap(), keys: vec![keys[2].clone()] };
    let forged = String::from_utf8(stranger.sign(&theirs).unwrap()).unwrap();
    let changed = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("key ")).unwrap();
        text.replace(line, &format!("key {}", keys[2]))
    };
    let path = dir.join(format!("keys/{}.txt", TrustedKeys::parse(&first).unwrap().ids().next().unwrap()));
    let text = fs::read_to_string(&path).unwrap();
    for wrong in [changed(&text), forged] {
        fs::write(&path, wrong).unwrap();
        let found = cat(&url, &first, &[]);
        assert_eq!(found.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&found.stderr).contains("which is not trusted here"));
    }
    // Who knows the newest key needs none of them; and collecting garbage leaves them.
    assert!(cat(&url, &keys[2], &[]).status.success());
    let trusted: Vec<&str> = keys.iter().flat_map(|key| ["--key", key]).collect();
    for _ in ["condemn", "remove"] {
        good(&imgfactory().args(["gc", to, "--grace", "0s"]).args(&trusted).output().unwrap());
    }
    assert!(statements.iter().all(|path| dir.join(path).exists()));
}

trait KeyNameNow {
    fn key_name_now(&self, next: u32) -> String;
}

impl KeyNameNow for Out {
    /// The name of the key pair before the `next` one.
    fn key_name_now(&self, next: u32) -> String {
        if next == 2 {
            self.key_name()
        } else {
            self.dir.path().join(format!("now{}", next - 1)).display().to_string()
        }
    }
}

#[test]
fn a_revoked_release_is_refused_even_when_a_person_asks_for_it() {
    let out = Out::new();
    let home = scratch();
    let dir = home.path().join("www");
    let to = dir.to_str().unwrap();
    let (_server, url) = web(&dir);
    let sign = ["--key", &out.key_name()];
    out.build(&[1]);
    out.build(&[2]);
    good(&out.publish(to, &[]));
    // The mirror may still have the first one: from a publication of its own.
    publish_support::run(
        Command::new("cp").arg("-an").arg(format!("{}/.", out.mirror().display())).arg(&dir),
    );
    assert!(cat(&url, &out.public(), &["--release", "1"]).stdout == disk(&[1]));
    let refresh = |min: &str| {
        imgfactory().arg("refresh").arg(out.path()).args(["--min-serial", min]).args(sign).output().unwrap()
    };
    assert!(bad(&refresh("3")).contains("--min-serial 3: above the newest release, 2"));
    good(&refresh("2"));
    good(&out.publish(to, &[]));
    let found = cat(&url, &out.public(), &["--release", "1"]);
    let said = String::from_utf8_lossy(&found.stderr);
    assert_eq!(found.status.code(), Some(1), "{said}");
    assert!(said.contains("the publisher revoked release 1 and all others below 2"), "{said}");
    assert!(cat(&url, &out.public(), &[]).stdout == disk(&[2]));
    assert!(bad(&refresh("1")).contains("min-serial is 2 already, and it can't be lowered"));
    let rollback =
        imgfactory().arg("rollback").arg(out.path()).args(["--to", "1"]).args(sign).output().unwrap();
    assert!(bad(&rollback).contains("release 1: revoked, as are all below 2"));
    let list =
        good(&imgfactory().arg("releases").arg(out.path()).args(["--key", &out.public()]).output().unwrap());
    assert!(list.lines().any(|line| line.starts_with("     1 ") && line.ends_with("revoked")), "{list}");
}

#[test]
fn a_key_comes_from_a_variable_a_command_or_under_a_password() {
    let out = Out::new();
    out.build(&[1]);
    let secret = fs::read_to_string(out.dir.path().join("key.key")).unwrap();
    let refresh = |key: &str| {
        let mut command = imgfactory();
        command.arg("refresh").arg(out.path()).args(["--key", key]);
        command
    };
    good(&refresh("env:SECRET").env("SECRET", &secret).output().unwrap());
    good(&refresh("env:SECRET").env("SECRET", secret.lines().nth(1).unwrap()).output().unwrap());
    good(&refresh(&format!("command:cat '{}.key'", out.key_name())).output().unwrap());
    assert!(
        bad(&refresh("env:SECRET").output().unwrap())
            .contains("SECRET: not set; it must contain a secret key")
    );
    assert!(
        bad(&refresh("command:echo no; exit 3").output().unwrap())
            .contains("`echo no; exit 3`: printed no key")
    );
    assert!(bad(&refresh("command:echo no").output().unwrap()).contains("not a minisign secret key"));
    // Under a password, which comes from the environment.
    let name = out.dir.path().join("locked").display().to_string();
    good(
        &imgfactory()
            .args(["keygen", &name, "--password"])
            .env("IMGFACTORY_KEY_PASSWORD", "pass word")
            .output()
            .unwrap(),
    );
    let mut rotate = imgfactory();
    rotate.arg("rotate").arg(out.path()).args(["--key", &out.key_name(), "--to", &name]);
    assert!(bad(&rotate.output().unwrap()).contains("no password"));
    assert!(
        bad(&rotate.env("IMGFACTORY_KEY_PASSWORD", "other").output().unwrap()).contains("wrong password")
    );
    good(&rotate.env("IMGFACTORY_KEY_PASSWORD", "pass word").output().unwrap());
    good(&refresh(&name).env("IMGFACTORY_KEY_PASSWORD", "pass word").output().unwrap());
    let said = bad(&rotate.env("IMGFACTORY_KEY_PASSWORD", "pass word").output().unwrap());
    assert!(
        said.contains("can't use its newest release; check that the key is the one that signed it"),
        "{said}"
    );
}

#[test]
fn a_key_signs_where_it_is_and_each_wrong_signature_is_refused() {
    let out = Out::new();
    out.build(&[1]);
    let home = scratch();
    let script = home.path().join("signer");
    let write = |lines: &str| {
        fs::write(&script, format!("set -e\ncat > {0}/text\n{lines}\ncat {0}/sig", home.path().display()))
            .unwrap();
    };
    let minisign = |words: &str| {
        format!(
            "minisign -S -W -s {}.key -m {1}/text -x {1}/sig {words} >&2",
            out.key_name(),
            home.path().display()
        )
    };
    let rollback = |key: &str| {
        imgfactory().arg("rollback").arg(out.path()).args(["--to", "1", "--key", key]).output().unwrap()
    };
    let public = format!("{}.pub", out.key_name());
    let signer = format!("sign:{public}:sh {}", script.display());
    let other = KeyFiles::new(&home.path().join("other")).create(None).unwrap();
    out.build(&[2]);
    // The script of docs/security.md.
    let (_, manual) = include_str!("../../docs/security.md").split_once("    #!/bin/sh\n").unwrap();
    let manual =
        manual.lines().take_while(|line| line.starts_with("    ")).map(|line| format!("{}\n", &line[4..]));
    let manual = manual.collect::<String>().replace("/etc/demo.key", &format!("{}.key", out.key_name()));
    fs::write(&script, manual).unwrap();
    good(&rollback(&format!("{signer} \"$IMGFACTORY_TRUSTED_COMMENT\"")));
    write(&minisign("-t \"$IMGFACTORY_TRUSTED_COMMENT\""));
    out.build(&[3]);
    good(&rollback(&format!("sign:{}:sh {}", out.public(), script.display())));
    good(
        &imgfactory()
            .args(["mirror", "verify"])
            .arg(out.path())
            .args(["--key", &out.public()])
            .output()
            .unwrap(),
    );

    let before = tree(&out.mirror());
    let id = out.key.id();
    let stranger = format!("sign:{}:sh {}", other.public_base64(), script.display());
    for (key, lines, said) in [
        (
            &signer,
            minisign("-t other"),
            format!(
                "key {id}: the signature has the trusted comment `other` instead of `imgfactory demo serial 6`"
            ),
        ),
        (&signer, format!("echo x > {}/sig", home.path().display()), "not signed: no `end` line".into()),
        (&signer, minisign("-l"), "not of the prehashed kind".into()),
        (
            &signer,
            format!("echo x >> {}/text; {}", home.path().display(), minisign("")),
            "is wrong: the file was changed".into(),
        ),
        (
            &signer,
            "echo no token >&2; exit 3".into(),
            format!(
                "key {id}: the signing command returned no signature\n  caused by: sh: exit status 3; its last lines:\n    no token"
            ),
        ),
        (
            &stranger,
            minisign("-t x"),
            "can't use its newest release; check that the key is the one that signed it".into(),
        ),
        (&"sign:".into(), String::new(), "write it as sign:PUBLIC:COMMAND".into()),
        (&"sign:x:".into(), String::new(), "write it as sign:PUBLIC:COMMAND".into()),
        (&"sign:nowhere.pub:true".into(), String::new(), "nowhere.pub: can't read".into()),
    ] {
        write(&lines);
        let found = bad(&rollback(key));
        assert!(found.contains(&said), "{said}: {found}");
        assert!(tree(&out.mirror()) == before, "{said}");
    }
    let both = fs::read_to_string(&public).unwrap() + &other.public_text();
    fs::write(&public, both).unwrap();
    assert!(
        bad(&rollback(&signer))
            .contains("contains 2 keys; it must contain only the one that the command signs with")
    );
}
