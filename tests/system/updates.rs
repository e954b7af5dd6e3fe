//! Updates: what is uploaded, and what is needed for it.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::process::Command;

use imgfactory::pipeline::build_record::BuildRecord;
use imgfactory::pipeline::step_inputs::StepInputs;
use imgfactory::repository::server::Server;

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
    let floor = plan["images"][0]["detail"]["floor-bytes"].as_u64().unwrap();
    assert!(
        (890_000..=planned("new-bytes")).contains(&floor),
        "what does not compress has a floor of {floor}: {plan}"
    );
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

/// What mmdebstrap makes of the same packages at another time: in an archive, what it had dated `from` it dates `to`
/// (seconds since 1970), and accounts are made on that day.
fn redated(archive: &Path, target: &Path, from: i64, to: i64) {
    let mut archive = BufReader::new(File::open(archive).unwrap());
    let mut out = BufWriter::new(File::create(target).unwrap());
    let day = |secs: i64| format!(":{}:", secs.div_euclid(86_400));
    let mut header = [0; 512];
    while archive.read_exact(&mut header).is_ok() {
        let field = |at: std::ops::Range<usize>| String::from_utf8_lossy(&header[at]).into_owned();
        let number = |at| i64::from_str_radix(field(at).trim_matches(['\0', ' ']), 8).unwrap_or(0);
        let (name, size) = (field(0..100), u64::try_from(number(124..136)).unwrap());
        if number(136..148) == from {
            header[136..148].copy_from_slice(format!("{to:011o}\0").as_bytes());
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        out.write_all(&header).unwrap();
        let mut data = archive.by_ref().take(size.next_multiple_of(512));
        if name.trim_end_matches('\0') == "./etc/shadow" {
            let mut text = String::new();
            data.read_to_string(&mut text).unwrap();
            assert!(text.contains(&day(from)), "accounts have the day on which they were made: {text}");
            out.write_all(text.replace(&day(from), &day(to)).as_bytes()).unwrap();
        } else {
            io::copy(&mut data, &mut out).unwrap();
        }
    }
    out.flush().unwrap();
}

#[test]
fn the_same_packages_at_another_date_upload_nothing_but_latest() {
    let demo = demo();
    let room = tempfile::tempdir_in(demo.cache.parent().unwrap()).unwrap();
    let cache = room.path().join("cache");
    fs::create_dir_all(cache.join("trees")).unwrap();
    copy(&demo.cache.join("inrelease"), &cache);
    let mirror = room.path().join("mirror");
    copy(&demo.by_root.join("mirror"), &mirror);
    fs::remove_dir_all(mirror.join("blk")).unwrap();

    // A day earlier, as tomorrow may be in the future: that is the same to a build.
    let record = BuildRecord::read(&demo.by_root).unwrap();
    let mut then = None;
    for (name, step) in [("boot-tools", "boot tools"), ("host", "tree host"), ("guest", "tree guest")] {
        let step = record.steps.iter().find(|found| found.name == step).unwrap();
        let inputs = &step.inputs;
        let epoch: i64 = inputs.get("epoch").unwrap().parse().unwrap();
        let key = |epoch: i64| {
            let inputs: StepInputs = inputs
                .iter()
                .map(|(name, value)| {
                    (name, if name == "epoch" { epoch.to_string() } else { value.to_owned() })
                })
                .collect();
            format!("trees/{name}-{}.tar", &inputs.hash().to_string()[..16])
        };
        redated(&demo.cache.join(key(epoch)), &cache.join(key(epoch - 86_400)), epoch, epoch - 86_400);
        then = Some(epoch - 86_400);
    }

    let project = demo.recipe.parent().unwrap().parent().unwrap();
    let target = room.path().join("next");
    let out = imgfactory(&["build", "recipes/demo.yaml", "--offline", "--previous"])
        .arg(&mirror)
        .arg("--out")
        .arg(&target)
        .arg("--cache")
        .arg(&cache)
        .env("SOURCE_DATE_EPOCH", then.unwrap().to_string())
        .current_dir(project)
        .output()
        .unwrap();
    assert_success("build", &out);
    let upload = fs::read_to_string(target.join("upload.txt")).unwrap();
    let files: Vec<_> =
        upload.lines().filter(|line| line.starts_with("put ") || line.starts_with("replace ")).collect();
    assert!(files.len() == 1 && files[0].starts_with("replace latest "), "{upload}");
}
