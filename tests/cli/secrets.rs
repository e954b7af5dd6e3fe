//! What programs that a build starts can see of its secrets: they run scripts of others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::programs;

/// Writes down all that it can see, and fails.
const SPY: &str = "#!/bin/sh
{ echo \"program $0 $*\"; cat /proc/self/environ | tr '\\0' '\\n'; for fd in /proc/$$/fd/*; do echo \"fd ${fd##*/}\"; done; } >>\"$HOME/seen\"
echo \"E: can't get http://me:the-mirrors-password@127.0.0.1:9/debian for $*\"
exit 1
";

fn imgfactory(home: &Path) -> Command {
    let mut command = Command::new(programs::imgfactory());
    command.current_dir(home).env("HOME", home);
    command.env("PATH", format!("{}:{}", home.join("bin").display(), std::env::var("PATH").unwrap()));
    command
}

/// A project with a recipe, and with [`SPY`] instead of the programs that a build starts.
fn prepare(home: &Path) {
    for dir in ["bin", "recipes", "keys"] {
        fs::create_dir(home.join(dir)).unwrap();
    }
    for name in ["mmdebstrap", "apt-get", "apt-config", "xorriso"] {
        let path = home.join("bin").join(name);
        fs::write(&path, SPY).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(home.join("recipes/demo.yaml"), "name: demo\nhost: {debian: {}}\n").unwrap();
}

#[test]
fn programs_of_a_build_see_no_secret() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    prepare(home);
    let out = imgfactory(home).args(["keygen", "keys/demo"]).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let key = fs::read_to_string(home.join("keys/demo.key")).unwrap();
    let secrets = [
        ("IMGFACTORY_KEY", key.lines().nth(1).unwrap()),
        ("IMGFACTORY_KEY_PASSWORD", "a-password"),
        ("IMGFACTORY_DAV_PASSWORD", "another-password"),
        ("AWS_SECRET_ACCESS_KEY", "a-secret-access-key"),
        ("GITHUB_TOKEN", "a-token"),
    ];
    let mut build = imgfactory(home);
    build.args([
        "build",
        "recipes/demo.yaml",
        "--key",
        "env:IMGFACTORY_KEY",
        "--out",
        "out",
        "--cache",
        "cache",
    ]);
    build.args(["--imgfetch", "/bin/busybox"]).envs(secrets);
    let out = build.output().unwrap();
    assert!(!out.status.success(), "{out:?}");
    let seen = fs::read_to_string(home.join("seen")).unwrap_or_else(|_| panic!("no program ran: {out:?}"));
    assert!(seen.contains("\nPATH=") && seen.contains("fd 0"), "{seen}");
    for (name, value) in secrets {
        assert!(!seen.contains(name) && !seen.contains(value), "{name} in:\n{seen}");
    }
    assert!(!seen.contains("fd 4"), "descriptors are left open: {seen}");
    for entry in
        walkdir::WalkDir::new(home.join("out")).into_iter().flatten().filter(|e| e.file_type().is_file())
    {
        let text = String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into_owned();
        assert!(secrets.iter().all(|(_, value)| !text.contains(value)), "{}", entry.path().display());
    }
}

/// apt, mmdebstrap and curl name the addresses that they fetch, with the passwords in them.
#[test]
fn a_mirrors_password_is_in_no_log_and_no_message() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    prepare(home);
    assert!(imgfactory(home).args(["keygen", "keys/demo"]).status().unwrap().success());
    let mut build = imgfactory(home);
    build.args(["build", "recipes/demo.yaml", "--key", "keys/demo", "--out", "out", "--cache", "cache"]);
    build.args([
        "--imgfetch",
        "/bin/busybox",
        "--debian-mirror",
        "http://me:the-mirrors-password@127.0.0.1:9/debian",
    ]);
    let out = build.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("http://***@127.0.0.1:9/debian/dists/trixie/InRelease: can't fetch it"), "{said}");
    assert!(!said.contains("the-mirrors-password"), "{said}");
    let mut logs = 0;
    for place in ["out", "cache"] {
        let files = walkdir::WalkDir::new(home.join(place)).into_iter().flatten();
        for entry in files.filter(|entry| entry.file_type().is_file()) {
            let path = entry.path();
            let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
            assert!(!text.contains("the-mirrors-password"), "{}: {text}", path.display());
            if path.extension().is_some_and(|extension| extension == "log") {
                logs += 1;
                assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
            }
        }
    }
    assert!(logs > 0, "{said}");
}

/// A command that the user wrote gets the user's environment, but not the key of another way to give it.
#[test]
fn a_key_command_gets_the_environment_without_our_own_variables() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    prepare(home);
    let mut build = imgfactory(home);
    build.args([
        "build",
        "recipes/demo.yaml",
        "--key",
        "command:env >seen",
        "--out",
        "out",
        "--cache",
        "cache",
    ]);
    build.args(["--imgfetch", "/bin/true"]);
    build.envs([("VAULT_TOKEN", "for-the-vault"), ("IMGFACTORY_KEY", "a-key")]);
    let out = build.env("IMGFACTORY_KEY_PASSWORD", "a-password").output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let seen = fs::read_to_string(home.join("seen")).unwrap_or_else(|_| panic!("not asked: {out:?}"));
    assert!(seen.contains("VAULT_TOKEN=for-the-vault"), "{seen}");
    assert!(!seen.contains("IMGFACTORY_") && !seen.contains("a-password"), "{seen}");
}
