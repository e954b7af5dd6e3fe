//! The client as the miniroot has it: the static program of `ci/imgfetch`, alone in a chroot. Needs root.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use formats::digest::Sha256;

use crate::fetch_support::fault_server::FaultServer;
use crate::fetch_support::{Publisher, disk, imgfetch, run, scratch, text, until};

/// A name server that knows `mirror.test` and its address 127.0.0.1, and nothing else.
fn name_server() -> String {
    // An address of loopback's own, so that a resolver of this machine is not in the way.
    let socket = UdpSocket::bind("127.0.0.77:53").unwrap();
    let name = b"\x06mirror\x04test\x00";
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut query) {
            let question = &query[12..len];
            let known = question.starts_with(name);
            let is_a = known && question[name.len()..].starts_with(&[0, 1]);
            // RFC 1035: id; response, recursion; no error or no such name; one question, one answer or none.
            let mut answer = query[..2].to_vec();
            answer.extend([0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            answer.extend(&question[..name.len() + 4]);
            if is_a {
                // The name again by its place, type A, class IN, 60 s, 4 bytes.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
    "nameserver 127.0.0.77\n".into()
}

fn program() -> &'static Path {
    let path = Path::new("target/x86_64-unknown-linux-gnu/client/imgfetch");
    assert!(path.exists(), "{}: run ci/imgfetch first", path.display());
    path
}

/// What is mounted below a chroot, unmounted at the end.
struct Mounts(Vec<std::path::PathBuf>);

impl Drop for Mounts {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = Command::new("umount").arg("-l").arg(path).status();
        }
    }
}

#[test]
fn alone_in_a_chroot_it_finds_its_mirror_by_name_and_serves_the_disk() {
    let publisher = Publisher::new();
    let disk = disk(100 * 4096, 1);
    let server = FaultServer::honest(publisher.publish(3, &[("host", &disk)]));
    let jail = scratch();
    let root = jail.path();
    for dir in ["bin", "etc", "dev", "mnt", "run", "cache"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    fs::copy(program(), root.join("bin/imgfetch")).unwrap();
    fs::write(root.join("etc/resolv.conf"), name_server()).unwrap();
    fs::write(root.join("dev/fuse"), "").unwrap();
    let mounts = Mounts(vec![root.join("mnt"), root.join("dev/fuse")]);
    run(Command::new("mount").args(["--bind", "/dev/fuse"]).arg(&mounts.0[1]));

    let log = jail.path().join("log");
    let status = Command::new("chroot")
        .args([text(root), "/bin/imgfetch", "mount", "--root-daemon", "--cache", "/cache", "--image", "host"])
        .args(["--mirror", &format!("http://mirror.test:{}/", server.address().port())])
        .args(["--key", &publisher.public(), "/mnt"])
        .env_clear()
        .env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .status()
        .unwrap();
    assert!(status.success(), "{}", fs::read_to_string(&log).unwrap());
    assert_eq!(Sha256::of(&fs::read(root.join("mnt/disk")).unwrap()), Sha256::of(&disk));
    let socket = root.join("run/imgfetch/host.sock");
    let status = run(imgfetch().args(["status", "--socket"]).arg(&socket));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status["serial"], &status["disk"]), (&3.into(), &"/mnt/disk".into()));
    let proc = Path::new("/proc").join(status["pid"].to_string());
    assert!(fs::read(proc.join("cmdline")).unwrap().starts_with(b"@imgfetch\0"));
    assert_eq!(fs::read_link(proc.join("root")).unwrap(), fs::canonicalize(root).unwrap());
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), fs::canonicalize(root).unwrap());
    run(Command::new("umount").arg(root.join("mnt")));
    until("ended", || !proc.exists());
}

#[test]
fn its_memory_stays_bounded_while_a_large_disk_is_read() {
    let publisher = Publisher { block_size: 256 << 10, ..Publisher::new() };
    let disk = disk(192 << 20, 9);
    let server = FaultServer::honest(publisher.publish(1, &[("host", &disk)]));
    let work = scratch();
    let mountpoint = work.path().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let socket = work.path().join("sock");
    let status = Command::new(program())
        .args([
            "mount",
            "--image",
            "host",
            "--mirror",
            &server.url(),
            "--key",
            &publisher.public(),
            "--status",
        ])
        .args([text(&socket), "--cache", text(&work.path().join("cache")), text(&mountpoint)])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let _mounts = Mounts(vec![mountpoint.clone()]);
    assert!(status.success());
    assert_eq!(Sha256::of(&fs::read(mountpoint.join("disk")).unwrap()), Sha256::of(&disk));
    let status: serde_json::Value =
        serde_json::from_str(&run(imgfetch().args(["status", "--socket"]).arg(&socket))).unwrap();
    let proc = fs::read_to_string(format!("/proc/{}/status", status["pid"])).unwrap();
    let peak: u64 = proc
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|text| text.trim().strip_suffix(" kB"))
        .and_then(|text| text.parse().ok())
        .unwrap();
    assert!(peak < 64 << 10, "{peak} KiB with 32 MiB of blocks in RAM: {status}");
    println!("peak {peak} KiB");
}
