//! Profiles: what a boot was seen to read, and what a fresh layout makes of it.

use std::path::Path;
use std::process::Command;

use imgfactory::ext2::{Fragmentation, LayoutMap};

use crate::fixture::{assert_success, demo, imgfactory, run};

/// Over how many blocks of 256 KiB of a whole layout the paths of an order are spread.
fn spread(layout: &Path, order: &str) -> Fragmentation {
    let map = LayoutMap::decode(&std::fs::read(layout).unwrap()).unwrap();
    let paths = order.lines().filter_map(|line| line.strip_prefix('/'));
    map.spread(&paths.map(|path| path.as_bytes().to_vec()).collect::<Vec<_>>(), 64)
}

/// A profile is taken of a boot that says all that is expected of it.
#[test]
fn bios_disk_boots_xen_the_host_and_its_guest_and_what_they_read_is_laid_out_together() {
    let demo = demo();
    let room = tempfile::tempdir().unwrap();
    let project = room.path().join("project");
    run(Command::new("cp").arg("-a").arg(demo.recipe.parent().unwrap().parent().unwrap()).arg(&project));

    let words = ["profile", "--files", "--timeout", "1800", "--bios", "--disk", "--entry", "xen", "out/demo"];
    let out = imgfactory(&words).current_dir(&project).output().unwrap();
    assert_success("profile --files", &out);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let order = |image: &str| {
        let file = format!("out/demo/profile/{image}.order");
        assert!(said.contains(&format!("\n{file}: ")), "{said}");
        std::fs::read_to_string(project.join(file)).unwrap()
    };
    let (host, guest) = (order("host"), order("guest"));
    for (image, order) in [("host", &host), ("guest", &guest)] {
        let paths: Vec<&str> = order.lines().filter(|line| line.starts_with('/')).collect();
        assert_eq!(paths[0], "/", "{order}");
        for path in ["/usr/lib/systemd/systemd", "/usr/lib/imgfactory/demo-ready", "/etc"] {
            assert!(paths.contains(&path), "no {path} in {image}.order:\n{order}");
        }
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
    let said = plan();
    assert_eq!(said.matches(advice).count(), 2, "{said}");
    let out = imgfactory(&["build", "recipes/demo.yaml", "--offline", "--repack", "--cache"])
        .arg(&demo.cache)
        .args(["--out", "out/demo"])
        .current_dir(&project)
        .output()
        .unwrap();
    assert_success("build --repack", &out);
    let said = plan();
    assert!(said.contains("small files that a boot reads lie in ") && !said.contains(advice), "{said}");
    for (image, order) in [("host", &host), ("guest", &guest)] {
        let layout = |serial: u32| project.join(format!("out/demo/mirror/images/{image}/{serial}/layout.z"));
        let [before, after] = [1, 2].map(|serial| spread(&layout(serial), order));
        assert!(before.blocks > 2 * after.blocks, "{image}: {before:?} became {after:?}");
        // Some stand where the last block of a large file has room.
        assert!(after.blocks < 2 * after.least, "{image}: {after:?}");
    }
    let out = imgfactory(&["why", "image host"])
        .current_dir(&project)
        .arg("--out")
        .arg("out/demo")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("+ file order "), "{said}");
}
