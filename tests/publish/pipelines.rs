//! The pipelines of `docs/examples` do what they say: their shell steps are run, in order, against a real server.
//! Programs that need a runner, an hour or a forge are played: `cargo`, `gh`, and of ours `build` and `test`, whose
//! options are compared with what the real ones know. All else is the real thing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::programs;
use crate::publish_support::{Out, Server, nginx, run};

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
        room.program("bin/cargo", "true");
        room.program("bin/gh", &format!("echo \"gh $*\" >> '{}'", root.join("gh.log").display()));
        let ours = programs::imgfactory();
        let ours = ours.display();
        room.program(
            "bin/imgfactory",
            &format!(
                "case \"$1\" in build|test)
                   for word in \"$@\"; do case \"$word\" in --*)
                     '{ours}' \"$1\" --help | grep -q -- \"$word\" || {{ echo \"no $word in $1\" >&2; exit 2; }};; esac; done
                   echo \"$*\" >> played; exit 0;; esac
                 exec '{ours}' \"$@\""
            ),
        );
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

    /// Runs steps one after the other, as a runner does. After `build` was played, there is a build.
    fn run(&self, shell: &str, steps: &[String], disk: &[u32], variables: &[(&str, &str)]) {
        let secret = fs::read_to_string(self.root().join("key.key")).unwrap();
        for step in steps {
            let output = Command::new(shell)
                .args(["-e", "-c", step])
                .current_dir(self.root())
                .env(
                    "PATH",
                    format!("{}:{}", self.root().join("bin").display(), std::env::var("PATH").unwrap()),
                )
                .env("IMGFACTORY_KEY", secret.lines().nth(1).unwrap())
                .envs([("RECIPE", "recipes/demo.yaml"), ("OUT", "out"), ("PUBLIC_KEY", "keys/demo.pub")])
                .envs([("TARGET", &self.dav), ("MIRROR_URL", &self.url)])
                .env("GITHUB_PATH", self.root().join("path"))
                .env("GITHUB_ENV", self.root().join("env"))
                .envs(variables.iter().copied())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{step}\n{}{said}", String::from_utf8_lossy(&output.stdout));
            if step.contains("imgfactory build") {
                self.out.build(disk);
            }
        }
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

/// The steps of a job of GitHub's that are shell, those of a pull request only or of the main branch only.
fn github(pipeline: &Value, job: &str, pull_request: bool) -> Vec<String> {
    let steps = pipeline["jobs"][job]["steps"].as_array().unwrap();
    let wanted = |step: &&Value| match step["if"].as_str() {
        None => true,
        Some("github.event_name == 'pull_request'") => pull_request,
        Some("github.ref == 'refs/heads/main'") => !pull_request,
        Some(other) => panic!("{other}"),
    };
    steps.iter().filter(wanted).filter_map(|step| step["run"].as_str()).map(str::to_owned).collect()
}

#[test]
fn the_steps_for_github_publish_comment_and_refresh() {
    let (room, pipeline) = (Room::new(), pipeline("github.yml"));
    let (pull_request, main) = (github(&pipeline, "image", true), github(&pipeline, "image", false));
    let refresh = github(&pipeline, "refresh", false);
    assert!(pull_request.len() == 6 && main.len() == 6 && refresh.len() == 3);

    room.run("sh", &main, &[1, 2, 3], &[]);
    assert!(room.latest().starts_with("serial: 1"), "{}", room.latest());
    fs::remove_dir_all(room.out.path()).unwrap();
    room.run("sh", &pull_request, &[1, 2, 4], &[("PULL_REQUEST", "7")]);
    assert!(room.latest().starts_with("serial: 1"), "a pull request publishes nothing");
    assert_eq!(
        fs::read_to_string(room.root().join("gh.log")).unwrap(),
        "gh pr comment 7 --body-file plan.txt\n"
    );
    let plan = fs::read_to_string(room.root().join("plan.txt")).unwrap();
    assert!(plan.contains("release 1 -> 2: 1 blocks, "), "{plan}");
    assert!(plan.starts_with("```\n") && plan.contains(": 1 new blocks of 3, "), "{plan}");
    fs::remove_dir_all(room.out.path()).unwrap();
    room.run("sh", &main, &[1, 2, 4], &[]);
    let before = room.latest();
    assert!(before.starts_with("serial: 2"), "{before}");

    fs::remove_dir_all(room.out.path()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    room.run("sh", &refresh, &[], &[]);
    assert!(room.latest().starts_with("serial: 2") && room.latest() != before, "only the date is new");
    let played = fs::read_to_string(room.root().join("played")).unwrap();
    assert_eq!(played.lines().count(), 6, "{played}");
}

#[test]
fn the_steps_for_gitlab_publish_comment_and_refresh() {
    let (room, pipeline) = (Room::new(), pipeline("gitlab.yml"));
    let steps =
        |job: &str| [texts(&pipeline["default"]["before_script"]), texts(&pipeline[job]["script"])].concat();
    room.run("bash", &steps("image"), &[1, 2, 3], &[]);
    assert!(!room.server.path("tree/latest").exists(), "the first stage publishes nothing");
    room.run("bash", &steps("publish"), &[], &[]);
    assert!(room.latest().starts_with("serial: 1"));
    // A note goes to the forge: here to a place that takes a PUT only, so curl's failure would show.
    let notes = [("GITLAB_TOKEN", "x"), ("CI_MERGE_REQUEST_IID", "7"), ("CI_PROJECT_ID", "1")];
    room.program(
        "bin/curl",
        "case \"$*\" in *merge_requests*) echo \"$*\" >> notes;; *) exec /usr/bin/curl \"$@\";; esac",
    );
    fs::remove_dir_all(room.out.path()).unwrap();
    let with = [&notes[..], &[("CI_API_V4_URL", "http://127.0.0.1:9/api/v4")]].concat();
    room.run("bash", &steps("image"), &[1, 2, 4], &with);
    let note = run(Command::new("cat").arg(room.root().join("notes")));
    let plan = fs::read_to_string(room.root().join("plan.txt")).unwrap();
    assert!(plan.starts_with("```\n") && plan.contains(": 1 new blocks of 3, "), "{plan}");
    assert!(
        note.contains("body@plan.txt http://127.0.0.1:9/api/v4/projects/1/merge_requests/7/notes"),
        "{note}"
    );
    room.run("bash", &steps("publish"), &[], &[]);
    let before = room.latest();
    assert!(before.starts_with("serial: 2"));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    room.run("bash", &steps("refresh"), &[], &[]);
    assert!(room.latest().starts_with("serial: 2") && room.latest() != before);
}
