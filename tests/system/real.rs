//! Real systems, where somebody has their files, which are not ours to hand on: `IMGFACTORY_NETBSD_KERNEL` names a
//! `netbsd-XEN3_DOMU`, packed or not, `IMGFACTORY_PLAN9_ISO` an ISO of 9legacy or 9front, `IMGFACTORY_PLAN9_DISK` a raw
//! disk that 9front was installed on. These tests are ignored unless asked for, so that no run counts them as passed
//! that had no files; asked for without its file, one fails.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use imgfactory::ext2::ReadAt;
use imgfactory::guests::plan9;
use imgfactory::recipe::{ConsoleDevice, Flavour, Plan9, ThirdPartySource};

use crate::fixture::{assert_success, demo, imgfactory, prepare, run, trial};
use crate::support::release::Release;

/// How long a real system may take, translated by QEMU.
const PATIENCE: Duration = Duration::from_secs(900);

/// The file that a variable names.
fn file_of(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} has to name a file")).into()
}

#[test]
#[ignore = "needs the file that IMGFACTORY_NETBSD_KERNEL names"]
fn real_netbsd_mounts_the_root_that_we_make() {
    let kernel = file_of("IMGFACTORY_NETBSD_KERNEL");
    let mut bytes = fs::read(&kernel).unwrap();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut inflated = Vec::new();
        flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut inflated).unwrap();
        bytes = inflated;
    }
    let demo = demo();
    let room = demo.cache.parent().unwrap().join("netbsd");
    let project = room.join("project");
    prepare(&project);
    let files = room.join("files");
    fs::create_dir_all(&files).unwrap();
    Release::usual(&files, &bytes, &[]);
    let ours = fs::read_to_string(Path::new(crate::fixture::ROOT).join("tests/system/real.yaml")).unwrap();
    fs::write(project.join("recipes/real.yaml"), ours).unwrap();
    run(imgfactory(&["keygen", "keys/real"]).current_dir(&project));
    let mut build =
        imgfactory(&["build", "recipes/real.yaml", "--out", "out", "--sources", "../files", "--cache"]);
    assert_success("build", &build.arg(&demo.cache).current_dir(&project).output().unwrap());
    // The sets are the tests' own and have no init: it is the kernel that is heard.
    let out = trial(&project.join("out")).args(["--bios", "--entry", "xen"]).output().unwrap();
    assert_success("imgfactory test of a real NetBSD", &out);
}

#[test]
#[ignore = "needs the file that IMGFACTORY_PLAN9_ISO names"]
fn real_plan9_comes_to_a_prompt_from_a_medium_whose_settings_we_changed() {
    comes_to_a_prompt(&file_of("IMGFACTORY_PLAN9_ISO"), "index=2,media=cdrom,readonly=on", ("d", 0));
}

#[test]
#[ignore = "needs the file that IMGFACTORY_PLAN9_DISK names"]
fn real_plan9_comes_to_a_prompt_from_a_disk_that_it_was_installed_on() {
    comes_to_a_prompt(&file_of("IMGFACTORY_PLAN9_DISK"), "index=0", ("c", 1));
}

/// Boots a medium with our settings in QEMU, as a drive of these properties, until Plan 9's prompt is there. An empty
/// second disk is the IDE drive of that number.
fn comes_to_a_prompt(iso: &Path, drive: &str, (boot, data_index): (&str, u8)) {
    let room = tempfile::tempdir().unwrap();
    let mut bytes = fs::read(iso).unwrap();
    let mut recipe = Plan9 {
        flavour: Flavour::Front,
        source: ThirdPartySource { urls: vec![], sha256: None },
        console: ConsoleDevice::Serial,
        data: 64 << 20,
        entry: None,
        ini: None,
    };
    let medium: &dyn ReadAt = &bytes;
    let patches = plan9::patches(medium, &recipe).or_else(|_| {
        recipe.flavour = Flavour::Legacy;
        plan9::patches(medium, &recipe)
    });
    let inode_size = if recipe.flavour == Flavour::Front { "256" } else { "128" };
    for (at, patch) in patches.unwrap_or_else(|error| panic!("{}: {error}", iso.display())) {
        let at = usize::try_from(at).unwrap();
        bytes[at..at + patch.len()].copy_from_slice(&patch);
    }
    let (changed, data) = (room.path().join("plan9.iso"), room.path().join("data"));
    fs::write(&changed, &bytes).unwrap();
    let empty = room.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let pack =
        ["image", "pack", "--profile", "netbsd", "--free", "64MiB", "--inode-size", inode_size, "--from"];
    run(imgfactory(&pack).arg(&empty).arg("--to").arg(&data));

    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-m", "512", "-nographic", "-no-reboot", "-nic", "none", "-boot", boot])
        .arg("-drive")
        .arg(format!("if=ide,{drive},format=raw,file={}", changed.display()))
        .arg("-drive")
        .arg(format!("if=ide,index={data_index},format=raw,file={}", data.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (said, heard) = mpsc::channel();
    let mut console = BufReader::new(machine.stdout.take().unwrap());
    // A prompt is no line: byte by byte.
    std::thread::spawn(move || {
        while let Ok(bytes) = console.fill_buf().map(<[u8]>::to_vec) {
            if bytes.is_empty() || said.send(bytes.clone()).is_err() {
                return;
            }
            console.consume(bytes.len());
        }
    });
    let start = Instant::now();
    let mut all = String::new();
    while !all.contains("term%") && start.elapsed() < PATIENCE {
        match heard.recv_timeout(Duration::from_secs(5)) {
            Ok(bytes) => all.push_str(&String::from_utf8_lossy(&bytes)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    machine.kill().unwrap();
    machine.wait().unwrap();
    assert!(all.contains("term%"), "no prompt; the console said:\n{all}");
    eprintln!("{}: a prompt after {:?}", iso.display(), start.elapsed());
    run(Command::new("e2fsck").args(["-fn"]).arg(&data));
}
