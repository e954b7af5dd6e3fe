//! Updates: what is uploaded, and what is needed for it.

use std::fs;
use std::path::Path;
use std::process::Command;

use imgfactory::host::serve::Server;

use crate::fixture::{assert_success, demo, imgfactory};

/// Copies a directory.
fn copy(from: &Path, to: &Path) {
    assert_success("cp", &Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap());
}

/// Bytes that compress as badly as a program's.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let byte = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..len).map(byte).collect()
}

#[test]
fn an_update_needs_no_block_of_the_release_before_and_uploads_what_plan_says() {
    let demo = demo();
    let room = tempfile::tempdir().unwrap();
    // A mirror without its blocks: whoever asked for one would get 404.
    let mirror = room.path().join("mirror");
    copy(&demo.by_root.join("mirror"), &mirror);
    fs::remove_dir_all(mirror.join("blk")).unwrap();
    let server = Server::start(&mirror, "127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/", server.address());

    let project = room.path().join("project");
    copy(demo.recipe.parent().unwrap().parent().unwrap(), &project);
    fs::remove_dir_all(project.join("out")).unwrap();
    // As large as a library, in a place of its own.
    let library = project.join("overlays/demo-host/usr/lib/demo/libdemo.so.1");
    fs::create_dir_all(library.parent().unwrap()).unwrap();
    fs::write(&library, noise(900_000)).unwrap();

    let words = ["recipes/demo.yaml", "--offline", "--previous", &url, "--out", "out/next", "--cache"];
    let call = |command: &str, more: &[&str]| {
        let out =
            imgfactory(&[command]).args(words).arg(&demo.cache).args(more).current_dir(&project).output();
        let out = out.unwrap();
        assert_success(command, &out);
        out.stdout
    };
    let plan: serde_json::Value = serde_json::from_slice(&call("plan", &["--json"])).unwrap();
    assert!(!project.join("out").exists(), "a plan writes nothing");
    call("build", &[]);

    let upload = fs::read_to_string(project.join("out/next/upload.txt")).unwrap();
    let end: Vec<_> = upload.lines().last().unwrap().split(' ').collect();
    let planned = |key: &str| plan[key].as_u64().unwrap();
    assert_eq!(end[2].parse::<u64>().unwrap(), planned("new-bytes") + planned("other-bytes"), "{plan}");
    let blocks = upload.lines().filter(|line| line.starts_with("put blk/")).count() as u64;
    assert_eq!(blocks, planned("new-blocks"));
    assert!(blocks <= 16, "{blocks} blocks for a file of 900 KB: {plan}");
    assert!(!upload.contains("images/guest/"), "the guest did not change:\n{upload}");

    let again: serde_json::Value = serde_json::from_slice(&{
        let out = imgfactory(&["diff", &url, "out/next", "--json"]).current_dir(&project).output().unwrap();
        assert_success("diff", &out);
        out.stdout
    })
    .unwrap();
    assert_eq!(again["images"], plan["images"], "diff says of two releases what plan said of one");
    assert_eq!((&again["from"], &again["to"]), (&1.into(), &2.into()));
}
