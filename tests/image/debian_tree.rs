//! Trees by the real mmdebstrap, as root and as an ordinary user. Needs a network, or a mirror named in
//! IMGFACTORY_DEBIAN_MIRROR, and a user with ids in /etc/subuid.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use formats::report::report;
use imgfactory::debian::boot_tools::{self, BootTools, GrubImage};
use imgfactory::debian::{ArchiveMirrors, InRelease, MmdebstrapMode, PackageSet, Script, TreePlan};
use imgfactory::downloads::apt;
use imgfactory::pipeline::step_cache::{DEFAULT_LIMIT, StepCache};
use imgfactory::pipeline::steps::tree::{DebianTree, TreeMaker};
use imgfactory::recipe::{ProjectFile, ProjectFiles, ProjectPath, Recipe};
use imgfactory::sys::progress::Silent;
use imgfactory::sys::spool::ContentFiles;
use imgfactory::tree::dump::dump;
use imgfactory::tree::normalise::normalise;
use imgfactory::tree::tar;
use system::files::Scratch;

fn mirrors() -> ArchiveMirrors {
    match std::env::var("IMGFACTORY_DEBIAN_MIRROR") {
        Ok(text) => ArchiveMirrors::from_option(&text).unwrap(),
        Err(_) => apt::own_mirrors(),
    }
}

fn cache(room: &Path) -> StepCache<'static> {
    StepCache::new(room, "demo", DEFAULT_LIMIT, &Silent)
}

fn maker<'a>(cache: &'a StepCache<'a>, mirrors: &'a ArchiveMirrors) -> TreeMaker<'a> {
    TreeMaker {
        cache,
        logs: cache.dir(),
        mirrors,
        mode: MmdebstrapMode::Root,
        epoch: None,
        offline: false,
        progress: &Silent,
    }
}

struct Nothing;

impl ProjectFiles for Nothing {
    fn overlays(&self) -> Vec<String> {
        vec![]
    }

    fn file(&self, _: &ProjectPath) -> ProjectFile {
        ProjectFile::Executable
    }
}

/// The host's Debian of a recipe.
fn debian(text: &str) -> imgfactory::recipe::Debian {
    let text = format!("name: x\nhost:\n  debian: {text}\n");
    Recipe::parse("x.yaml", &text, &Nothing).unwrap().host.system.boot_tools().clone()
}

fn kit_set() -> PackageSet {
    let image = |format: &str, modules: &[&str]| GrubImage {
        format: format.into(),
        modules: modules.iter().map(|name| name.to_string()).collect(),
        prefix: "/boot/grub".into(),
        config: "set marker=it's here\n".into(),
    };
    let images =
        [image("i386-pc-eltorito", &["biosdisk", "iso9660"]), image("x86_64-efi", &["fat", "normal"])];
    boot_tools::set(&debian("{suite: trixie}"), &images)
}

fn text_of(made: &DebianTree, spools: &ContentFiles) -> String {
    dump(&made.tree, spools).unwrap()
}

fn file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_boot_kit_has_all_that_boots_and_comes_out_of_the_cache_the_second_time() {
    let room = Scratch::directory(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mirrors = mirrors();
    let cache = cache(room.path());
    let maker = maker(&cache, &mirrors);
    let mut spools = ContentFiles::new();
    let made =
        maker.make("kit", &kit_set(), &mut spools).unwrap_or_else(|error| panic!("{}", report(&error)));
    assert!(!made.cached);

    let kit = BootTools { tree: &made.tree, contents: &spools };
    let (bios, uefi) = (kit.image("i386-pc-eltorito").unwrap(), kit.image("x86_64-efi").unwrap());
    assert!(bios.len() > 30_000, "{} bytes", bios.len());
    assert!(uefi.starts_with(b"MZ"));
    assert!(uefi.windows(20).any(|bytes| bytes == b"set marker=it's here"));
    assert_eq!(kit.grub_file("i386-pc", "boot_hybrid.img").unwrap().len(), 512);
    assert!(kit.busybox().unwrap().starts_with(b"\x7fELF"));
    let certificates = String::from_utf8(kit.certificates().unwrap()).unwrap();
    assert!(certificates.matches("-----BEGIN CERTIFICATE-----\n").count() > 50);
    assert!(certificates.ends_with("-----END CERTIFICATE-----\n"));
    assert_eq!(
        kit.grub_file("i386-pc", "nosuch.mod").unwrap_err().to_string(),
        "boot tools: /usr/lib/grub/i386-pc/nosuch.mod is missing; use a Debian suite of 2017 or later"
    );

    // Again, and again without a network.
    let first = text_of(&made, &spools);
    for offline in [false, true] {
        let again = TreeMaker { offline, ..maker_like(&maker) }.make("kit", &kit_set(), &mut spools).unwrap();
        assert!(again.cached);
        assert_eq!(again.epoch, made.epoch);
        assert!(text_of(&again, &spools) == first);
    }

    // A cached archive that was cut off is noticed and replaced by the same one.
    let trees = room.path().join("trees");
    let archive = trees.join(&file_names(&trees)[0]);
    let len = fs::metadata(&archive).unwrap().len();
    File::options().write(true).open(&archive).unwrap().set_len(len / 2).unwrap();
    let mut spools = ContentFiles::new();
    let again = maker.make("kit", &kit_set(), &mut spools).unwrap();
    assert!(!again.cached);
    assert!(text_of(&again, &spools) == first);
    assert_eq!(file_names(&trees).len(), 1);
}

fn maker_like<'a>(maker: &TreeMaker<'a>) -> TreeMaker<'a> {
    TreeMaker { progress: maker.progress, ..*maker }
}

/// A user with subordinate ids, by name: the first in /etc/subuid that exists.
fn ordinary_user() -> (String, u32) {
    let subuid = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let users = subuid.lines().filter_map(|line| {
        let name = line.split(':').next()?;
        let entry = passwd.lines().find(|entry| entry.split(':').next() == Some(name))?;
        let uid = entry.split(':').nth(2)?.parse().ok()?;
        (uid != 0).then(|| (name.to_owned(), uid))
    });
    users.into_iter().next().expect("a user in /etc/subuid: `useradd builder` makes one")
}

/// Debian as the demo has it in small: its packages make logs, users, keys, caches and compiled Python.
fn small_set() -> PackageSet {
    let mut set = PackageSet::of(
        &debian(
            "{suite: trixie, variant: essential, packages: [ssl-cert, fontconfig, fonts-dejavu-core, libpython3-stdlib, python3-minimal]}",
        ),
        vec![Script {
            name: "scripts/x.sh".into(),
            text: b"#!/bin/sh\nset -e\necho made > \"$1/etc/made\"\nsetpriv --version > /dev/null\n".into(),
        }],
    );
    set.packages.sort();
    set
}

#[test]
fn root_and_an_ordinary_user_make_the_same_tree() {
    let room = Scratch::directory(std::env::temp_dir()).unwrap();
    let mirrors = mirrors();
    let cache = cache(room.path());
    let maker = maker(&cache, &mirrors);
    let mut spools = ContentFiles::new();
    let set = small_set();
    let made = maker.make("small", &set, &mut spools).unwrap_or_else(|error| panic!("{}", report(&error)));
    let by_root = text_of(&made, &spools);

    let (user, uid) = ordinary_user();
    let files = Scratch::directory(std::env::temp_dir()).unwrap();
    fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let sources = set.sources(&mirrors).unwrap();
    let inreleases =
        apt::inreleases(&sources, &room.path().join("inrelease"), &room.path().join("log"), true);
    let plan = TreePlan::new(set, sources.into_iter().zip(inreleases.unwrap()).collect(), None).unwrap();
    for file in plan.files(&apt::own_options()) {
        let path = files.path().join(&file.name);
        fs::write(&path, &file.bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let archive = room.path().join("user.tar");
    let output = Command::new("setpriv")
        .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "mmdebstrap"])
        .args(plan.arguments(MmdebstrapMode::Unshare, files.path()))
        .env_clear()
        .envs(
            std::env::vars().filter(|(name, _)| *name == *"PATH" || name.to_lowercase().ends_with("_proxy")),
        )
        .envs(plan.environment())
        .env("USER", user)
        .env("HOME", "/nonexistent")
        .current_dir("/")
        .stdout(File::create(&archive).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let spool = spools.open(&archive).unwrap();
    let mut tree = tar::read(File::open(&archive).unwrap(), spool).unwrap();
    normalise(&mut tree, &spools, plan.epoch()).unwrap();
    let by_user = dump(&tree, &spools).unwrap();

    let differ: Vec<_> = by_root.lines().zip(by_user.lines()).filter(|(a, b)| a != b).take(5).collect();
    assert!(by_root == by_user, "{differ:#?}");
    assert_eq!(plan.epoch(), made.epoch);

    // And it is the tree that was asked for.
    for wanted in ["/etc/made 5 sha256:", "/usr/bin/python3 -> ", "/etc/ssl/certs/ssl-cert-snakeoil.pem"] {
        assert_eq!(by_root.contains(wanted), !wanted.ends_with("pem"), "{wanted}");
    }
    let cache =
        by_root.lines().filter(|line| line.contains("/var/cache/fontconfig/") && line.contains(".cache-"));
    assert!(cache.count() > 2, "font caches are made and stay");
    for absent in ["99mmdebstrap", "/var/cache/apt/pkgcache.bin", "/etc/hostname "] {
        assert!(!by_root.contains(absent), "{absent}");
    }
}

#[test]
fn a_failing_mmdebstrap_says_why_and_leaves_nothing() {
    let room = Scratch::directory(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mirrors = mirrors();
    let cache = cache(room.path());
    let maker = maker(&cache, &mirrors);
    let set = |text: &str| PackageSet::of(&debian(text), vec![]);
    let fail = |set: &PackageSet| report(&maker.make("bad", set, &mut ContentFiles::new()).unwrap_err());

    let said = fail(&set("{suite: trixie, variant: extract, packages: [no-such-package]}"));
    assert!(said.starts_with("error: tree bad\n  caused by: mmdebstrap: exit status "), "{said}");
    assert!(said.contains("Unable to locate package no-such-package"), "{said}");
    let log = room.path().join("bad-mmdebstrap.log");
    assert!(said.ends_with(&format!("whole log: {}", log.display())), "{said}");
    assert!(log.metadata().unwrap().size() > 0);
    assert_eq!(file_names(&room.path().join("trees")), [""; 0]);

    let said = fail(&set("{suite: nosuchsuite}"));
    assert!(
        said.contains("/dists/nosuchsuite/InRelease: can't fetch it; check the network and the mirror"),
        "{said}"
    );
    assert!(said.contains("404"), "{said}");

    let offline = TreeMaker { offline: true, ..maker_like(&maker) };
    let error = offline.make("bad", &set("{suite: trixie}"), &mut ContentFiles::new()).unwrap_err();
    assert_eq!(
        report(&error),
        "error: tree bad\n  caused by: not in the cache for these inputs; build it without --offline"
    );
    let future = TreeMaker { epoch: Some(1 << 40), ..maker_like(&maker) };
    let error = future.make("bad", &set("{suite: trixie}"), &mut ContentFiles::new()).unwrap_err();
    assert!(report(&error).contains("it must not be in the future; check the clock"));
}

#[test]
fn an_archive_that_changes_meanwhile_stops_the_making() {
    let room = Scratch::directory(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let lists = room.path().join("var/lib/apt/lists");
    fs::create_dir_all(&lists).unwrap();
    let set = PackageSet::of(&debian("{suite: trixie, sources: [{suite: trixie-updates}]}"), vec![]);
    let sources = set.sources(&ArchiveMirrors::from_option("http://mirror.example/debian").unwrap()).unwrap();
    let texts = ["Date: Thu, 01 Jan 1970 00:00:01 UTC\n", "Date: Thu, 01 Jan 1970 00:00:02 UTC\n"];
    let inreleases = texts.map(|text| InRelease::parse(text.as_bytes()).unwrap());
    let plan = TreePlan::new(set, sources.into_iter().zip(inreleases).collect(), None).unwrap();
    let file = plan.files("").into_iter().find(|file| file.name == "check-archives").unwrap();
    let script = room.path().join("check-archives");
    fs::write(&script, file.bytes).unwrap();
    let check = || {
        let output = Command::new("sh").arg(&script).arg(room.path()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    for (name, text) in [("a_trixie_InRelease", texts[0]), ("a_trixie-updates_InRelease", texts[1])] {
        fs::write(lists.join(name), text).unwrap();
    }
    assert_eq!(check(), (true, String::new()));
    fs::write(lists.join("a_trixie_InRelease"), "Date: Thu, 01 Jan 1970 00:00:03 UTC\n").unwrap();
    let said = "the archive of a_trixie_InRelease has changed since the build began: start again\n";
    assert_eq!(check(), (false, said.to_owned()));
    // No list at all: apt did not get far enough for a tree.
    fs::remove_dir_all(&lists).unwrap();
    assert!(!check().0);
}
