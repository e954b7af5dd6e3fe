//! What the tests of one run share: two builds of the demo, made in different directories by different users.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::programs;

/// The checkout.
pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The ordinary user that the second build is made by.
const USER: &str = "imgfactory-test";

/// Two builds of one recipe with one key.
pub struct Demo {
    /// `--out` of the build made by root, with figures in `cold.log`.
    pub by_root: PathBuf,
    /// `--out` of the build made by an ordinary user elsewhere.
    pub by_user: PathBuf,
    /// The cache of root's build.
    pub cache: PathBuf,
    /// The recipe as root built it.
    pub recipe: PathBuf,
}

/// The demo, built on first use in this run of the tests.
pub fn demo() -> Demo {
    let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| format!("pid-{}", std::process::id()));
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("system");
    fs::create_dir_all(&shared).unwrap();
    let lock = File::create(shared.join("lock")).unwrap();
    lock.lock().unwrap();

    let root = shared.join(&run);
    let user = std::env::temp_dir().join(format!("imgfactory-system-{run}"));
    let demo = Demo {
        by_root: root.join("project/out/demo"),
        by_user: user.join("elsewhere/demo"),
        cache: root.join("cache"),
        recipe: root.join("project/recipes/demo.yaml"),
    };
    let done = root.join("done");
    if !done.exists() {
        forget_earlier_runs(&shared, &root);
        prepare(&root.join("project"));
        let out = imgfactory(&["keygen", "keys/demo"]).current_dir(root.join("project")).output().unwrap();
        assert_success("keygen", &out);
        let out = imgfactory(&["build", "recipes/demo.yaml", "--out", "out/demo", "--cache", "../cache"])
            .current_dir(root.join("project"))
            .output()
            .unwrap();
        fs::write(root.join("cold.log"), &out.stderr).unwrap();
        assert_success("build by root", &out);
        build_as_user(&root.join("project"), &user);
        File::create(done).unwrap();
    }
    demo
}

/// The static client, as `ci/imgfetch` makes it.
pub fn imgfetch() -> PathBuf {
    let path = Path::new(ROOT).join("target/x86_64-unknown-linux-gnu/client/imgfetch");
    assert!(path.exists(), "{}: not there; run ci/imgfetch first", path.display());
    path
}

/// `imgfactory` with the static client of this checkout.
pub fn imgfactory(args: &[&str]) -> Command {
    let mut command = Command::new(programs::imgfactory());
    command.args(args).env("IMGFACTORY_IMGFETCH", imgfetch());
    command
}

/// `imgfactory test` of what was built. A boot's own time says nothing here, where the machine has other work:
/// only a boot that hangs is to end by it.
pub fn trial(built: &Path) -> Command {
    let mut command = imgfactory(&["test", "--timeout", "1800"]);
    command.arg(built);
    command
}

/// Fails with all that the program printed.
#[track_caller]
pub fn assert_success(what: &str, out: &Output) {
    assert!(
        out.status.success(),
        "{what}: {}\n--- stdout\n{}\n--- stderr\n{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

/// A project of its own: what a user edits, without the checkout's target directory or keys.
pub fn prepare(project: &Path) {
    fs::create_dir_all(project).unwrap();
    for part in ["recipes", "templates", "overlays"] {
        run(Command::new("cp").arg("-a").arg(Path::new(ROOT).join(part)).arg(project));
    }
}

fn build_as_user(project: &Path, home: &Path) {
    if !Command::new("id").arg("-u").arg(USER).output().unwrap().status.success() {
        run(Command::new("useradd").args(["--create-home", "--shell", "/bin/sh", USER]));
    }
    fs::create_dir_all(home).unwrap();
    run(Command::new("cp").arg("-a").arg(project).arg(home.join("project")));
    run(Command::new("rm").arg("-rf").arg(home.join("project/out")));
    run(Command::new("cp").arg(programs::imgfactory()).arg(imgfetch()).arg(home));
    run(Command::new("chown").arg("-R").arg(format!("{USER}:")).arg(home));
    let out = Command::new("runuser")
        .args(["-u", USER, "--", "env", "-C"])
        .arg(home.join("project"))
        .arg(format!("HOME={}", home.display()))
        .arg(home.join("imgfactory"))
        .args(["build", "recipes/demo.yaml", "--out", "../elsewhere/demo", "--cache", "../cache"])
        .output()
        .unwrap();
    assert_success("build by an ordinary user", &out);
}

/// Gigabytes of earlier runs are of no use.
fn forget_earlier_runs(shared: &Path, current: &Path) {
    for entry in fs::read_dir(shared).unwrap().chain(fs::read_dir(std::env::temp_dir()).unwrap()) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        let ours = path.starts_with(shared) && path.is_dir() || name.starts_with("imgfactory-system-");
        if ours && path != current {
            fs::remove_dir_all(&path).unwrap();
        }
    }
}

#[track_caller]
pub fn run(command: &mut Command) {
    let out = command.output().unwrap();
    assert_success(&format!("{command:?}"), &out);
}
