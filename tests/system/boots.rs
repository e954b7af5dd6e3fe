//! Boots under QEMU. Each waits for the recipe's marker lines, which carry a token drawn for that boot, come
//! from inside the host and the guest, and are judged by `imgfactory test` (exit status 0).

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{assert_success, demo, imgfactory, run, trial};

#[track_caller]
fn boots(args: &[&str]) {
    let demo = demo();
    let out = trial(&demo.by_root).args(args).output().unwrap();
    assert_success(&format!("imgfactory test {args:?}"), &out);
}

#[test]
fn bios_cd_boots_xen_the_host_and_its_guest() {
    boots(&["--bios", "--entry", "xen"]);
}

#[test]
fn uefi_cd_boots_xen_the_host_and_its_guest() {
    boots(&["--uefi", "--entry", "xen"]);
}

#[test]
fn a_stick_with_blocks_boots_with_the_network_unplugged() {
    let demo = demo();
    let stick = demo.by_root.join("stick.iso");
    let out = imgfactory(&["iso"])
        .arg(&demo.by_root)
        .arg("--with-blocks")
        .arg("--to")
        .arg(&stick)
        .output()
        .unwrap();
    assert_success("imgfactory iso --with-blocks", &out);
    let stick = stick.to_str().unwrap();
    // Nobody listens there, and there is no card either.
    boots(&[
        "--uefi",
        "--medium",
        "usb",
        "--entry",
        "linux",
        "--nic",
        "none",
        "--mirror",
        "http://10.0.2.2:9/",
        "--iso",
        stick,
    ]);
}

#[test]
fn uefi_disk_boots_plain_linux_from_nginx_which_is_away_in_the_middle() {
    let demo = demo();
    let nginx = Nginx::serve(&demo.by_root.join("mirror"));
    let mirror = format!("http://10.0.2.2:{}/", nginx.port);
    let console = demo.by_root.join("logs/console-uefi-disk-linux.log");
    // Of an earlier run.
    let _ = fs::remove_file(&console);
    let said = || String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
    let down = format!("; {mirror} is down for ");
    let out = thread::scope(|scope| {
        let boot = scope.spawn(|| {
            trial(&demo.by_root)
                .args(["--uefi", "--disk", "--entry", "linux", "--mirror", &mirror])
                .output()
                .unwrap()
        });
        let until = |so: &dyn Fn() -> bool| {
            while !so() && !boot.is_finished() {
                thread::sleep(Duration::from_millis(100));
            }
        };
        until(&|| nginx.blocks_asked() > 40);
        nginx.signal("-STOP");
        until(&|| said().contains(&down));
        nginx.signal("-CONT");
        boot.join().unwrap()
    });
    assert_success("imgfactory test through nginx", &out);
    let said = said();
    for wanted in [&down, "and the read waits until one answers", "imgfetch: reads continue after "] {
        assert!(said.contains(wanted), "the console says `{wanted}`:\n{said}");
    }
    assert!(nginx.log().contains("GET /latest "), "nginx was asked for latest:\n{}", nginx.log());
    assert!(nginx.blocks_asked() > 50, "and for the blocks");
}

#[test]
fn a_boot_that_misses_a_line_fails_and_says_which() {
    let demo = demo();
    // A mirror that is not there: the miniroot must say so, and `test` must exit 1 within its deadline.
    let out = imgfactory(&["test"])
        .arg(&demo.by_root)
        .args(["--bios", "--entry", "linux", "--mirror", "http://10.0.2.2:9/", "--timeout", "60"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(said.contains("demo host ready"), "it names the line that did not come:\n{said}");
}

/// nginx as a mirror operator would run it, in a directory of its own; one process, so that none outlives it.
pub struct Nginx {
    child: Child,
    pub port: u16,
    pub dir: tempfile::TempDir,
}

impl Nginx {
    pub fn serve(mirror: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.path().display();
        let conf = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log; user root;\n\
             events {{}}\n\
             http {{ access_log {at}/access.log; default_type application/octet-stream;\n\
             client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fcgi;\n\
             uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n\
             server {{ listen 127.0.0.1:{port}; root {}; }} }}\n",
            mirror.display()
        );
        let path = dir.path().join("nginx.conf");
        fs::File::create(&path).unwrap().write_all(conf.as_bytes()).unwrap();
        let child = Command::new("/usr/sbin/nginx").arg("-c").arg(&path).spawn().expect("nginx is installed");
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "nginx listens within a minute");
            thread::sleep(Duration::from_millis(20));
        }
        Nginx { child, port, dir }
    }
}

impl Nginx {
    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default()
    }

    fn blocks_asked(&self) -> usize {
        self.log().lines().filter(|line| line.contains("GET /blk/")).count()
    }

    fn signal(&self, signal: &str) {
        run(Command::new("kill").args([signal, &self.child.id().to_string()]));
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Nothing to do about a server that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
