//! What two builds leave, judged from outside.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use formats::digest::Sha256;
use formats::names::UnixTime;
use imgfactory::debian::MmdebstrapMode;
use imgfactory::downloads::apt;
use imgfactory::pipeline::last_signed::LastSigned;
use imgfactory::pipeline::steps::systems::Systems;
use imgfactory::pipeline::{self, Request};
use imgfactory::project::folder::Project;
use imgfactory::project::keys::KeyFiles;
use imgfactory::repository::server::Server;
use imgfactory::sys::progress::Silent;

use crate::fixture::{Demo, assert_success, demo, imgfactory, imgfetch};
use crate::support::judges::{assert_fsck_is_silent, compare_mount_with_tree};

/// Every file below `dir` by relative path, with its digest.
fn digests(dir: &Path) -> BTreeMap<String, Sha256> {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let name = entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            (name, Sha256::of(&fs::read(entry.path()).unwrap()))
        })
        .collect()
}

#[test]
fn root_and_an_ordinary_user_build_the_same_bytes_in_different_places() {
    let Demo { by_root, by_user, .. } = demo();
    assert_eq!(
        Sha256::of(&fs::read(by_root.join("demo.iso")).unwrap()),
        Sha256::of(&fs::read(by_user.join("demo.iso")).unwrap()),
        "the ISOs are the same"
    );
    let (mut one, mut other) = (digests(&by_root.join("mirror")), digests(&by_user.join("mirror")));
    assert!(one.len() > 500, "a mirror of {} files", one.len());
    // The pointer and the release say when they were published: the time of day.
    for told_by_the_clock in ["latest", "releases/1.txt"] {
        assert!(one.remove(told_by_the_clock).is_some() && other.remove(told_by_the_clock).is_some());
    }
    // A signature has random bytes in it; what is signed is the same.
    let signed = |dir: &Path| {
        let text = fs::read_to_string(dir.join("mirror/mirrors.txt")).unwrap();
        text[..text.find("\nend\n").unwrap()].to_owned()
    };
    assert_eq!(signed(&by_root), signed(&by_user));
    assert!(one.remove("mirrors.txt").is_some() && other.remove("mirrors.txt").is_some());
    let differs: Vec<_> = one.iter().filter(|(name, digest)| other.get(*name) != Some(digest)).collect();
    assert!(differs.is_empty() && one.len() == other.len(), "these differ: {differs:?}");
}

#[test]
fn a_second_build_with_nothing_new_leaves_all_but_latest_as_it_was() {
    let Demo { by_root, cache, recipe, .. } = demo();
    let project = recipe.parent().unwrap().parent().unwrap();
    let before = digests(&by_root.join("mirror"));
    let out = imgfactory(&["build", "recipes/demo.yaml", "--out", "out/demo", "--cache"])
        .arg(&cache)
        .current_dir(project)
        .output()
        .unwrap();
    assert_success("build again", &out);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("cached"), "it says that the trees are cached:\n{said}");
    let after = digests(&by_root.join("mirror"));
    let changed: Vec<_> = after
        .iter()
        .filter(|(name, digest)| before.get(*name) != Some(digest))
        .map(|(name, _)| name)
        .collect();
    assert!(changed.iter().all(|name| *name == "latest"), "these changed: {changed:?}");
    assert_eq!(before.len(), after.len());

    // Whatever takes long is taken from where it was.
    let out = imgfactory(&["why"]).current_dir(project).output().unwrap();
    assert_success("why", &out);
    let why = String::from_utf8_lossy(&out.stdout);
    for step in [
        "boot tools",
        "tree host",
        "tree guest",
        "miniroot",
        "miniroot of guest",
        "image host",
        "image guest",
    ] {
        assert!(why.contains(&format!("{step}: nothing changed;")), "{step} was done again:\n{why}");
    }
    let out = imgfactory(&["why", "image", "ghost"]).current_dir(project).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("no step `image ghost`; the build has `boot tools`")
    );
}

#[test]
fn minisign_of_debian_accepts_latest_and_the_release() {
    let Demo { by_root, recipe, .. } = demo();
    let key = recipe.parent().unwrap().parent().unwrap().join("keys/demo.pub");
    let dir = tempfile::tempdir().unwrap();
    for name in ["latest", "releases/1.txt", "mirrors.txt"] {
        let text = fs::read_to_string(by_root.join("mirror").join(name)).unwrap();
        let end = text.find("\nend\n").expect("a signed file has an end line") + "\nend\n".len();
        let signed = dir.path().join("signed");
        fs::write(&signed, &text[..end]).unwrap();
        fs::write(dir.path().join("signed.minisig"), &text[end..]).unwrap();
        let out = Command::new("minisign").arg("-Vm").arg(&signed).arg("-p").arg(&key).output().unwrap();
        assert_success(&format!("minisign -V of {name}"), &out);
    }
}

/// The trees that root's build made, again, out of its cache.
fn trees(demo: &Demo, out: &Path) -> Systems {
    let (project, recipe) = Project::load(&demo.recipe).unwrap();
    let public = KeyFiles::public_of(&project.path(&recipe.key).display().to_string()).unwrap();
    let imgfetch = fs::read(imgfetch()).unwrap();
    let request = Request {
        recipe: &recipe,
        project: &project,
        out,
        cache: &demo.cache,
        cache_limit: 1 << 40,
        mirrors: &apt::own_mirrors(),
        mode: MmdebstrapMode::Root,
        epoch: None,
        sources: None,
        lock: &Default::default(),
        offline: true,
        previous: None,
        last_signed: LastSigned::default(),
        repack: false,
        public: &public,
        imgfetch: &imgfetch,
        now: UnixTime(0),
        progress: &Silent,
        web: &system::http::HttpOptions::direct(),
    };
    pipeline::trees(&request).unwrap()
}

#[test]
fn every_image_is_clean_and_equals_its_tree() {
    let demo = demo();
    let dir = tempfile::tempdir_in(demo.by_root.parent().unwrap()).unwrap();
    let systems = trees(&demo, &dir.path().join("out"));
    assert_eq!(systems.all().map(|system| system.name.to_string()).collect::<Vec<_>>(), ["host", "guest"]);

    let server = Server::start(&demo.by_root.join("mirror"), "127.0.0.1:0".parse().unwrap()).unwrap();
    let key = demo.recipe.parent().unwrap().parent().unwrap().join("keys/demo.pub");
    for system in systems.all() {
        // The way a client gets it: fetched over HTTP, verified, put together.
        let disk = dir.path().join("disk");
        let out = Command::new(imgfetch())
            .args([
                "cat",
                "--image",
                system.name.as_str(),
                "--mirror",
                &format!("http://{}/", server.address()),
            ])
            .arg("--key")
            .arg(&key)
            .stdout(fs::File::create(&disk).unwrap())
            .output()
            .unwrap();
        assert_success("imgfetch cat", &out);
        assert_fsck_is_silent(&disk);
        compare_mount_with_tree(&disk, &system.tree, &systems.spools);
    }
}
