//! Profiles: what a boot was seen to read, and what a fresh layout makes of it.

use std::path::Path;
use std::process::Command;

use imgfactory::ext2::{LayoutMap, Spread};

use crate::fixture::{assert_success, demo, imgfactory, run};

/// Over how many blocks of 256 KiB of a whole layout these paths are spread.
fn spread(layout: &Path, paths: &[&str]) -> Spread {
    let map = LayoutMap::decode(&std::fs::read(layout).unwrap()).unwrap();
    let paths: Vec<_> = paths.iter().map(|path| path.trim_start_matches('/').as_bytes().to_vec()).collect();
    map.spread(&paths, 64)
}

#[test]
fn files_that_a_boot_was_seen_to_read_are_laid_out_together() {
    let demo = demo();
    let room = tempfile::tempdir().unwrap();
    let project = room.path().join("project");
    run(Command::new("cp").arg("-a").arg(demo.recipe.parent().unwrap().parent().unwrap()).arg(&project));

    let out = imgfactory(&["profile", "--files", "--timeout", "1800", "--entry", "linux", "out/demo"])
        .current_dir(&project)
        .output()
        .unwrap();
    assert_success("profile --files", &out);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.starts_with("host: ") && said.contains("\nout/demo/profile/host.order: "), "{said}");
    let order = std::fs::read_to_string(project.join("out/demo/profile/host.order")).unwrap();
    let paths: Vec<&str> = order.lines().filter(|line| line.starts_with('/')).collect();
    assert_eq!(paths[0], "/", "{order}");
    for path in ["/usr/lib/systemd/systemd", "/usr/lib/imgfactory/demo-ready", "/etc"] {
        assert!(paths.contains(&path), "no {path} in {order}");
    }

    let plan = || {
        let out = imgfactory(&["plan", "recipes/demo.yaml", "--offline", "--cache"])
            .arg(&demo.cache)
            .args(["--out", "out/demo", "--previous", "out/demo"])
            .current_dir(&project)
            .output()
            .unwrap();
        assert_success("plan", &out);
        String::from_utf8(out.stdout).unwrap()
    };
    let advice = "`build --repack` puts them together";
    assert_eq!(plan().matches(advice).count(), 1, "of the host, whose boot was seen: {}", plan());
    let layout = |serial: u32| project.join(format!("out/demo/mirror/images/host/{serial}/layout.z"));
    let out = imgfactory(&["build", "recipes/demo.yaml", "--offline", "--repack", "--cache"])
        .arg(&demo.cache)
        .args(["--out", "out/demo"])
        .current_dir(&project)
        .output()
        .unwrap();
    assert_success("build --repack", &out);
    let said = plan();
    assert!(said.contains("small files that a boot reads lie in ") && !said.contains(advice), "{said}");
    let [before, after] = [1, 2].map(|serial| spread(&layout(serial), &paths));
    assert!(before.blocks > 2 * after.blocks, "{before:?} became {after:?}");
    // Directories, inodes and files each begin and end a block.
    assert!(after.blocks <= after.least + 8, "{after:?}");
    let out = imgfactory(&["why", "image host"])
        .current_dir(&project)
        .arg("--out")
        .arg("out/demo")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains(" paths first: "), "{said}");
}
