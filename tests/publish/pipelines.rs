//! The pipelines of `docs/examples` do what they say: their shell steps are run, in order, against a real server.
//! Programs that need a runner, an hour or a forge are played: `cargo`, `gh`, and of ours `check`, `build`, `plan` and `test`, whose
//! options are compared with what the real ones know. All else is the real thing, the forge's repository too.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::programs;
use crate::publish_support::{Out, Server, nginx, run, scratch};

/// A checkout, with programs of its own in front of all others.
struct Room {
    out: Out,
    server: Server,
    url: String,
    dav: String,
}

impl Room {
    fn new() -> Self {
        let (server, url, dav) = nginx();
        let room = Room { out: Out::new(), server, url, dav };
        let root = room.root();
        for dir in ["ci", "recipes", "keys", "bin"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy(room.out.dir.path().join("key.pub"), root.join("keys/demo.pub")).unwrap();
        fs::write(root.join("recipes/demo.yaml"), "name: demo\nhost: {debian: {}}\n").unwrap();
        for name in ["setup", "imgfetch"] {
            let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("ci").join(name);
            assert!(real.is_file(), "{}", real.display());
            room.program(&format!("ci/{name}"), "true");
        }
        for name in ["cargo", "apt-get"] {
            room.program(&format!("bin/{name}"), "true");
        }
        room.program("bin/gh", &format!("echo \"gh $*\" >> '{}'", root.join("gh.log").display()));
        let ours = programs::imgfactory();
        let ours = ours.display();
        room.program(
            "bin/imgfactory",
            &format!(
                "case \"$1\" in build|test|plan|check)
                   for word in \"$@\"; do case \"$word\" in --*)
                     '{ours}' \"$1\" --help | grep -q -- \"$word\" || {{ echo \"no $word in $1\" >&2; exit 2; }};; esac; done
                   case \"$1\" in build) mkdir -p cache;; plan) echo 'release 1 -> 2';; esac; exit 0;; esac
                 exec '{ours}' \"$@\""
            ),
        );
        room.git(&["init", "--quiet", "--bare", "origin"]);
        room.git(&["init", "--quiet"]);
        room.git(&["remote", "add", "origin", "./origin"]);
        room
    }

    fn root(&self) -> PathBuf {
        self.out.dir.path().to_path_buf()
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.root().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A new checkout, as a runner makes it for each job.
    fn check_out(&self) {
        for left in ["out", "cache", "plan.txt", "keys/thrown-away.key", "keys/thrown-away.pub"] {
            let path = self.root().join(left);
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }

    /// Runs steps one after the other, as a runner does, until one fails. After `build` was played with the publisher's
    /// key, there is a build.
    fn try_run(
        &self,
        shell: &str,
        steps: &[String],
        disk: &[u32],
        variables: &[(&str, &str)],
    ) -> Result<(), String> {
        let root = self.root();
        for step in steps {
            let output = Command::new(shell)
                .args(["-e", "-c", step])
                .current_dir(&root)
                .env("PATH", format!("{}:{}", root.join("bin").display(), std::env::var("PATH").unwrap()))
                .env("HOME", &root)
                .envs([
                    ("RECIPE", "recipes/demo.yaml"),
                    ("OUT", "out/image"),
                    ("PUBLIC_KEY", "keys/demo.pub"),
                ])
                .envs([("TARGET", &self.dav), ("MIRROR_URL", &self.url)])
                .env("STATE_REPOSITORY", root.join("origin"))
                .env("GITHUB_PATH", root.join("path"))
                .env("GITHUB_ENV", root.join("env"))
                .envs(variables.iter().copied())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            if !output.status.success() {
                return Err(format!("{step}\n{}{said}", String::from_utf8_lossy(&output.stdout)));
            }
            if step.contains("imgfactory build")
                && step.contains("IMGFACTORY_KEY")
                && root.join("cache").exists()
            {
                self.out.build_in(&root.join("out/image"), disk);
                fs::copy(root.join("out/image/mirror/latest"), root.join("out/image/state")).unwrap();
            }
        }
        Ok(())
    }

    fn run(&self, shell: &str, steps: &[String], disk: &[u32], variables: &[(&str, &str)]) {
        self.try_run(shell, steps, disk, variables).unwrap_or_else(|said| panic!("{said}"));
    }

    /// The secret key, as a runner puts it into the environment of a step that may see it.
    fn secret(&self) -> String {
        fs::read_to_string(self.root().join("key.key")).unwrap().lines().nth(1).unwrap().to_owned()
    }

    fn git(&self, words: &[&str]) -> String {
        run(Command::new("git").args(words).current_dir(self.root()).env("HOME", self.root()))
    }

    fn latest(&self) -> String {
        let text = fs::read_to_string(self.server.path("tree/latest")).unwrap();
        text.lines()
            .take(3)
            .skip(2)
            .chain(text.lines().filter(|line| line.starts_with("published")))
            .collect()
    }
}

fn pipeline(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples").join(name);
    serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The steps of a job of GitHub's that are shell.
fn github(pipeline: &Value, job: &str) -> Vec<String> {
    let steps = pipeline["jobs"][job]["steps"].as_array().unwrap();
    steps.iter().filter_map(|step| step["run"].as_str()).map(str::to_owned).collect()
}

/// What a person finds out about a pipeline's jobs: `build`, `sign` and `publish` for the main branch and at night.
fn releases_come_out_of(room: &Room, shell: &str, build: &[String], sign: &[String], publish: &[String]) {
    let secret = room.secret();
    let key = [("IMGFACTORY_KEY", &secret[..])];
    let first = [("FIRST_RELEASE", "yes")];
    room.run(shell, build, &[], &first);
    room.run(shell, sign, &[1, 2, 3], &[key, first].concat());
    assert!(!room.server.path("tree/latest").exists(), "only the last job publishes");
    room.run(shell, publish, &[], &[]);
    assert!(room.latest().starts_with("serial: 1"), "{}", room.latest());
    let old = scratch();
    run(Command::new("cp").arg("-a").arg(room.server.path("tree")).arg(old.path()));

    // The next day.
    room.check_out();
    room.run(shell, build, &[], &[]);
    assert_eq!(
        fs::read_to_string(room.root().join("plan.txt")).unwrap().matches("release 1 -> 2").count(),
        1
    );
    assert!(room.latest().starts_with("serial: 1"), "a change that is proposed publishes nothing");
    room.run(shell, sign, &[1, 2, 4], &key);
    room.run(shell, publish, &[], &[]);
    let before = room.latest();
    assert!(before.starts_with("serial: 2"), "{before}");
    let known = room.git(&["--git-dir", "origin", "show", "imgfactory-state:last-signed"]);
    assert!(known.contains("serial: 2\n"), "{known}");

    // A night on which nothing could be built.
    room.check_out();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    room.run(shell, sign, &[], &key);
    room.run(shell, publish, &[], &[]);
    assert!(room.latest().starts_with("serial: 2") && room.latest() != before, "only the date is new");

    // The mirror withholds release 2.
    run(Command::new("cp")
        .arg("-a")
        .arg(old.path().join("tree/latest"))
        .arg(room.server.path("tree/latest")));
    room.check_out();
    let said = room.try_run(shell, sign, &[], &key).unwrap_err();
    assert!(said.contains("its newest release is 1, but release 2 was signed already"), "{said}");

    // What was signed last can't be read: nothing is signed, and nobody begins anew.
    room.check_out();
    fs::rename(room.root().join("origin"), room.root().join("gone")).unwrap();
    let said = room.try_run(shell, sign, &[], &key).unwrap_err();
    assert!(said.contains("git fetch") && said.contains("does not appear to be a git repository"), "{said}");

    // The mirror can't be reached: that is no empty mirror either.
    fs::rename(room.root().join("gone"), room.root().join("origin")).unwrap();
    room.check_out();
    let nowhere = [&key[..], &[("MIRROR_URL", "http://127.0.0.1:9/")]].concat();
    let said = room.try_run(shell, sign, &[], &nowhere).unwrap_err();
    assert!(said.contains("127.0.0.1:9/latest"), "{said}");
}

#[test]
fn the_jobs_for_github_sign_publish_and_refresh() {
    let (room, pipeline) = (Room::new(), pipeline("github.yml"));
    let [build, sign, publish] = ["build", "sign", "publish"].map(|job| github(&pipeline, job));
    assert_eq!([build.len(), sign.len(), publish.len()], [3, 4, 4]);
    releases_come_out_of(&room, "sh", &build, &sign, &publish);
    fs::write(room.root().join("plan.txt"), "").unwrap();
    room.run("sh", &github(&pipeline, "comment"), &[], &[("PULL_REQUEST", "7")]);
    let said = fs::read_to_string(room.root().join("gh.log")).unwrap();
    assert_eq!(said, "gh pr comment 7 --body-file plan.txt\n");
}

#[test]
fn the_jobs_for_gitlab_sign_publish_and_refresh() {
    let (room, pipeline) = (Room::new(), pipeline("gitlab.yml"));
    // One shell runs all lines of a job.
    let steps = |job: &str| {
        let lines = [texts(&pipeline["default"]["before_script"]), texts(&pipeline[job]["script"])].concat();
        vec![lines.join("\n")]
    };
    releases_come_out_of(&room, "bash", &steps("build"), &steps("sign"), &steps("publish"));
}

/// Whoever proposes a change runs what he likes in the job that builds it.
#[test]
fn no_secret_is_where_a_proposed_change_runs_and_each_step_has_its_own() {
    let github = pipeline("github.yml");
    assert_eq!(github["permissions"], serde_json::json!({}), "each job says what it may");
    assert!(!github["env"].to_string().contains("secrets."));
    for (name, job) in github["jobs"].as_object().unwrap() {
        assert!(job["permissions"].is_object(), "{name}");
        let proposed = ["build", "comment"].contains(&&name[..]);
        assert!(!proposed || !job.to_string().contains("secrets."), "{name}");
        assert!(
            proposed || job["if"].as_str().unwrap().contains("github.ref == 'refs/heads/main'"),
            "{name}"
        );
        assert_eq!(job["environment"].is_string(), !proposed, "{name}");
        assert!(!job["env"].to_string().contains("secrets."), "{name}: not for all steps");
        for step in job["steps"].as_array().unwrap() {
            if let Some(action) = step["uses"].as_str() {
                let digest = action.rsplit_once('@').unwrap().1;
                assert!(
                    digest.len() == 40 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()),
                    "{action}"
                );
            }
            let both = step.to_string().contains("IMGFACTORY_KEY") && step.to_string().contains("AWS_");
            assert!(!both, "{step}");
        }
    }
    // GitLab's are in environments of their own.
    let gitlab = pipeline("gitlab.yml");
    assert!(
        gitlab["build"]["environment"].is_null()
            && !gitlab["build"].to_string().contains("env:IMGFACTORY_KEY")
    );
    for (job, environment) in [("sign", "signing"), ("publish", "mirror")] {
        assert_eq!(gitlab[job]["environment"], environment);
        assert!(!gitlab[job]["rules"].to_string().contains("merge_request"), "{job}");
    }
}
