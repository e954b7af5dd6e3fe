//! All shell of the project, as it ships, before a judge from outside: ShellCheck. Templates are rendered by the
//! functions that the build renders them by; scripts that source each other are read together. busybox's shell and
//! Debian's are held to POSIX: `sh`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::hosts;
use imgfactory::debian::{ArchiveMirrors, InRelease, TreePlan, boot_tools};
use imgfactory::guests::Starter;
use imgfactory::iso::grub::Grub;
use imgfactory::project::folder::Project;
use imgfactory::recipe::Virt;
use imgfactory::templates;
use system::files::Scratch;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What ShellCheck objects to and is meant so: script, code, part of the line, reason. What it no longer objects to
/// has no place here.
const MEANT: &[(&str, &str, &str, &str)] = &[
    ("init", "SC1090", "/$part.sh", "its parts are read before it here, in the order of its own list"),
    (CLIENT, "SC2086", r"printf '%s\n' $opt_mirrors", "addresses with spaces between: a line each"),
    (CLIENT, "SC2086", "--root-daemon", "words with spaces between: an argument each"),
    (CLIENT, "SC2016", "sh -c '", "for the shell in the chroot to expand"),
    (CLIENT, "SC2015", "losetup -f", "the words are right whichever of the two fails"),
    ("lib/imgfactory/cmdline.sh", "SC2034", "dns0 dns1 more", "takes what is too many"),
    ("lib/imgfactory/console.sh", "SC2013", "console/active", "the kernel gives words in one line"),
    (HARDWARE, "SC2034", "for pass in 1 2 3 4", "it only counts"),
    (HARDWARE, "SC2086", "modprobe -abq $found", "an alias a line, and set -f holds"),
    (LEASE, "SC2154", "ip address replace", "udhcpc's environment"),
    (LEASE, "SC2154", "in lo: |", "udhcpc's environment"),
    (LEASE, "SC2086", "$routes", "addresses with spaces between: an argument each"),
    (LEASE, "SC2086", "${router:-}", "addresses with spaces between: an argument each"),
    (GUEST, "SC1090", r#". "$CONFIGS/$2.conf""#, "a guest's file is read before it here"),
    (GUEST, "SC2013", "cat /proc/cmdline", "the kernel gives words in one line"),
    (GUEST, "SC2086", "${IMGFACTORY_WORDS:-}", "words with spaces between: an argument each"),
    (GUEST, "SC2115", r#"rm -rf "$at/boot""#, "create begins with at=$GUESTS/$1, and set -u holds"),
    ("check-archives", "SC2046", "$(sha256sum", "two words: the sum, and what it is of"),
];

const CLIENT: &str = "lib/imgfactory/client.sh";
const HARDWARE: &str = "lib/imgfactory/hardware.sh";
const LEASE: &str = "lib/imgfactory/lease";
const GUEST: &str = "usr/lib/imgfactory/guest";

/// Has ShellCheck read scripts below `root`, each with what it sources, and compares with what is meant.
fn judge(root: &Path, dialect: &str, scripts: &[&str]) {
    let out = Command::new("shellcheck")
        .args(["--external-sources", "--check-sourced", "--format=gcc", "--shell", dialect])
        .args(scripts)
        .current_dir(root)
        .output()
        .expect("shellcheck is needed (Debian package shellcheck)");
    let said = String::from_utf8(out.stdout).unwrap();
    // 0: nothing to say; 1: something; others: it could not read or parse what it was given.
    assert!(out.status.code().is_some_and(|code| code <= 1), "{}", String::from_utf8_lossy(&out.stderr));
    let (mut wrong, mut used) = (vec![], BTreeSet::new());
    for finding in said.lines() {
        // FILE:LINE:COLUMN: note: WHAT [SC1234]
        let mut fields = finding.splitn(3, ':');
        let file = fields.next().unwrap().trim_start_matches("./");
        let number: usize = fields.next().unwrap().parse().unwrap();
        let text = fs::read_to_string(root.join(file)).unwrap();
        // What is missing at the end is missed after the last line.
        let line = text.lines().nth(number - 1).unwrap_or_default();
        let meant = MEANT.iter().position(|&(script, code, part, _)| {
            script == file && finding.ends_with(&format!("[{code}]")) && line.contains(part)
        });
        match meant {
            Some(index) => {
                used.insert(index);
            }
            None => wrong.push(format!("{finding}\n    {line}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let read = |script: &str| root.join(script).exists();
    let unused = MEANT.iter().enumerate().filter(|(index, meant)| read(meant.0) && !used.contains(index));
    let unused: Vec<_> = unused.map(|(_, meant)| meant).collect();
    assert!(unused.is_empty(), "ShellCheck does not object to {unused:?}");
}

/// A script of our own that sources `parts`, so that ShellCheck knows what one sets for another.
fn together(root: &Path, parts: &[&str]) {
    let lines: Vec<String> = parts.iter().map(|part| format!(". ./{part}\n")).collect();
    fs::write(root.join("together"), lines.concat()).unwrap();
}

#[test]
fn shellcheck_finds_nothing_in_the_miniroots_scripts() {
    let room = Scratch::directory(std::env::temp_dir()).unwrap();
    let paths = hosts::install_miniroot(room.path());
    let init = fs::read_to_string(room.path().join("init")).unwrap();
    let list = init.lines().find_map(|line| line.strip_prefix("for part in ")?.strip_suffix("; do"));
    let sourced = list.expect("init has a list of its parts").split(' ');
    let mut parts = vec!["etc/imgfactory/settings".to_owned()];
    parts.extend(sourced.map(|part| format!("lib/imgfactory/{part}.sh")));
    parts.push("init".into());
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    together(room.path(), &parts);
    let mut scripts = vec!["together"];
    scripts.extend(paths.iter().map(String::as_str).filter(|path| !parts.contains(path)));
    assert_eq!(scripts[1..], [LEASE, "lib/imgfactory/rescue.sh"], "what init does not source");
    judge(room.path(), "sh", &scripts);
}

#[test]
fn shellcheck_finds_nothing_in_the_hosts_scripts_for_guests() {
    let room = Scratch::directory(std::env::temp_dir()).unwrap();
    hosts::install(&[hosts::guest("pc", Virt::Hvm, Starter::Disk)], room.path());
    together(room.path(), &["etc/imgfactory/guests/pc.conf", GUEST]);
    judge(room.path(), "sh", &["together", "usr/lib/imgfactory/bridge"]);
}

#[test]
fn shellcheck_finds_nothing_in_what_mmdebstrap_runs() {
    let room = Scratch::directory(std::env::temp_dir()).unwrap();
    let (_, recipe) = Project::load(&Path::new(ROOT).join("recipes/demo.yaml")).unwrap();
    let mirrors = ArchiveMirrors::from_option("http://mirror.example/debian").unwrap();
    let set = boot_tools::set(recipe.host.system.boot_tools(), &Grub::images());
    let sources = set.sources(&mirrors).unwrap().into_iter();
    let sources = sources
        .map(|source| (source, InRelease { date: 0, sha256: "0".repeat(64).parse().unwrap() }))
        .collect();
    let files = TreePlan::new(set, sources, None).unwrap().files("");
    let scripts: Vec<_> = files.iter().filter(|file| file.executable).collect();
    for script in &scripts {
        fs::write(room.path().join(&script.name), &script.bytes).unwrap();
    }
    let names: Vec<_> = scripts.iter().map(|script| script.name.as_str()).collect();
    assert_eq!(names, ["check-archives", "finish", "script-00"]);
    judge(room.path(), "sh", &names);
}

#[test]
fn shellcheck_finds_nothing_in_the_scripts_of_the_repository() {
    const ELSEWHERE: [&str; 5] = [".git", "target", "out", "keys", "templates"];
    let files = walkdir::WalkDir::new(ROOT)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.depth() != 1 || !ELSEWHERE.iter().any(|name| entry.file_name() == *name))
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file());
    let scripts: Vec<(String, bool)> = files
        .filter_map(|entry| {
            let bytes = fs::read(entry.path()).unwrap();
            let first = String::from_utf8_lossy(bytes.split(|&byte| byte == b'\n').next()?).into_owned();
            let words: Vec<&str> = first.strip_prefix("#!")?.split([' ', '/']).collect();
            let bash = words.contains(&"bash");
            let path = entry.path().strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned();
            (bash || words.contains(&"sh")).then_some((path, bash))
        })
        .collect();
    for expected in
        ["ci/setup", "ci/test", "overlays/demo-host/usr/lib/imgfactory/demo-ready", "recipes/live-user.sh"]
    {
        assert!(scripts.iter().any(|(path, _)| path == expected), "{expected} is not among {scripts:?}");
    }
    for dialect in ["sh", "bash"] {
        let of_it: Vec<&str> = scripts
            .iter()
            .filter(|(_, bash)| *bash == (dialect == "bash"))
            .map(|(path, _)| path.as_str())
            .collect();
        judge(Path::new(ROOT), dialect, &of_it);
    }
}

#[test]
fn every_template_of_shell_is_among_those_that_are_judged() {
    const SHELL: [&str; 3] = ["guest/bridge", "guest/guest", "guest/guest.conf"];
    const OTHERS: [&str; 4] = [".service", ".service.conf", ".desktop", ".cfg"];
    let unknown: Vec<_> = templates::names()
        // The miniroot's are all shell, and taken from what is rendered.
        .filter(|name| !name.starts_with("miniroot/") && !SHELL.contains(name))
        .filter(|name| !OTHERS.iter().any(|end| name.ends_with(end)))
        .collect();
    assert!(unknown.is_empty(), "shell or not? {unknown:?}");
}
