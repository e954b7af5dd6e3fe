//! `imgfactory` as people meet it: what it prints and how it exits. `BLESS=1` rewrites the goldens.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use system::files::Scratch;

use crate::programs;

/// The project in tests/project.
fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/project")
}

/// The command in the project of the tests, without colours.
fn imgfactory(args: &[&str]) -> Command {
    let mut command = Command::new(programs::imgfactory());
    command.args(args).current_dir(project()).env("NO_COLOR", "1").env_remove("RUST_BACKTRACE");
    command
}

fn output(args: &[&str]) -> Output {
    imgfactory(args).output().unwrap()
}

/// Exit code, standard output and standard error as one text.
fn transcript(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    format!("exit {}\n{}{}", output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn assert_golden(name: &str, said: &str) {
    let golden = project().join("recipes").join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&golden, said).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap();
    assert!(said == expected, "{name} has\n{expected}\nbut this was said\n{said}");
}

#[test]
fn a_recipe_is_told_all_its_faults_or_what_it_will_make() {
    for (recipe, golden) in [("faults", "faults.txt"), ("tabs", "tabs.txt"), ("good", "good.txt")] {
        let output = output(&["check", &format!("recipes/{recipe}.yaml")]);
        assert_golden(golden, &transcript(&output));
    }
}

#[test]
fn the_recipes_that_come_along_are_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for recipe in ["demo", "xenoppix"] {
        let output =
            imgfactory(&["check", &format!("recipes/{recipe}.yaml")]).current_dir(root).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", transcript(&output));
    }
}

#[test]
fn exit_codes_tell_failure_from_wrong_use() {
    for (args, code, words) in [
        (&["check", "recipes/good.yaml", "--quiet"][..], 0, ""),
        (
            &["check", "recipes/none.yaml"],
            1,
            "error: recipes/none.yaml: can't read\n  caused by: No such file",
        ),
        (&["test", "recipes/good.yaml"], 1, "out/good: "),
        (&["profile", "recipes/faults.yaml"], 1, "recipes/faults.yaml"),
        (&["check"], 2, "error: the following required arguments were not provided"),
        (&["chekc"], 2, "error: unrecognized subcommand 'chekc'"),
        (&["check", "recipes/good.yaml", "--color", "pink"], 2, "[possible values: auto, always, never]"),
        (&["--version"], 0, "imgfactory "),
        (&["schema"], 0, "\"title\": \"Recipe\""),
        (&["completions", "bash"], 0, "complete -F _imgfactory"),
        (&["completions", "tcsh"], 2, "[possible values: bash,"),
    ] {
        let said = transcript(&output(args));
        assert!(said.starts_with(&format!("exit {code}\n")) && said.contains(words), "{args:?}: {said}");
    }
}

#[test]
fn colours_are_used_when_asked_for_and_not_in_a_pipe() {
    let colored = |args: &[&str]| output(args).stderr.contains(&0x1b);
    assert!(colored(&["check", "recipes/faults.yaml", "--color", "always"]));
    assert!(!colored(&["check", "recipes/faults.yaml"]));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut child = imgfactory(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{}", transcript(&output));
}

#[test]
fn the_doctor_lists_every_missing_program_and_one_line_that_installs_them() {
    let empty = Scratch::directory(std::env::temp_dir()).unwrap();
    let out = empty.path().join("out");
    let args = ["doctor", "--out", out.to_str().unwrap(), "--cache", out.to_str().unwrap()];
    let output = imgfactory(&args).output().unwrap();
    let said = transcript(&output);
    for name in
        ["mmdebstrap", "xorriso", "qemu-system-x86_64", "UEFI firmware", "space for the cache", "/dev/fuse"]
    {
        assert!(said.contains(name), "{name} in {said}");
    }
    let lacks = said.contains("\nmissing ");
    assert_eq!(output.status.code(), Some(i32::from(lacks)), "{said}");
    assert!(!out.exists(), "it looks and does not make directories");
}

#[test]
fn check_looks_into_the_overlays_that_a_recipe_uses() {
    let scratch = Scratch::directory(std::env::temp_dir()).unwrap();
    let room = scratch.path();
    for dir in ["recipes", "templates", "overlays/one/etc", "overlays/two/etc"] {
        fs::create_dir_all(room.join(dir)).unwrap();
    }
    fs::write(room.join("recipes/x.yaml"), "name: x\nhost: {debian: {}, overlays: [one]}\n").unwrap();
    let check =
        || transcript(&imgfactory(&["check", "recipes/x.yaml", "-q"]).current_dir(room).output().unwrap());
    // What is wrong with an overlay that no system has is no fault of the recipe.
    fs::write(room.join("overlays/two.yaml"), "pathz: {}\n").unwrap();
    assert_eq!(check(), "exit 0\n");
    fs::write(room.join("overlays/one.yaml"), "pathz: {}\n").unwrap();
    let said = check();
    assert!(said.starts_with("exit 1\nerror: overlays/one.yaml:1:1: unknown key `pathz`"), "{said}");
    fs::remove_file(room.join("overlays/one.yaml")).unwrap();
    fs::write(room.join("overlays/one/etc/issue.j2"), "{{ nmae }}\n").unwrap();
    let said = check();
    assert!(
        said.starts_with("exit 1\nerror: overlays/one/etc/issue.j2:1: `nmae` is not known here"),
        "{said}"
    );
}
