//! KNOPPIX as the host: a medium as KNOPPIX makes them, packed by Debian's own programs, becomes a tree, an image,
//! blocks and a release again, and boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use formats::digest::Sha256;
use imgfactory::repository::server::Server;

use crate::fixture::{ROOT, assert_success, demo, imgfactory, imgfetch, prepare, run, trial};

/// What the system does: one program, which is also its init.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc 2>/dev/null
token=$(/bin/busybox sed -n 's/.*\\bimgfactory\\.token=\\([^ ]*\\).*/\\1/p' /proc/cmdline)
echo \"knoppix is up: $(/bin/busybox cat /KNOPPIX/marker /etc/issue | /bin/busybox tr '\\n' ' ')$token\" >/dev/console
while :; do /bin/busybox sleep 60; done
";

/// The disk of the demo's guest, as a client gets it.
pub fn guest_disk(to: &Path) {
    let demo = demo();
    let server = Server::start(&demo.by_root.join("mirror"), "127.0.0.1:0".parse().unwrap()).unwrap();
    let mirror = format!("http://{}/", server.address());
    let key = demo.recipe.parent().unwrap().parent().unwrap().join("keys/demo.pub");
    let out = Command::new(imgfetch())
        .args(["cat", "--image", "guest", "--mirror", &mirror, "--key"])
        .arg(key)
        .stdout(fs::File::create(to).unwrap())
        .output()
        .unwrap();
    assert_success("imgfetch cat", &out);
}

/// A system of the demo's guest's kernel with its modules, busybox, and a file of its own.
fn system(room: &Path) -> PathBuf {
    let (disk, mounted, root) = (room.join("disk"), room.join("mounted"), room.join("root"));
    fs::create_dir_all(room).unwrap();
    guest_disk(&disk);
    for dir in
        ["mounted", "root/boot", "root/usr/lib/modules", "root/bin", "root/sbin", "root/etc", "root/KNOPPIX"]
    {
        fs::create_dir_all(room.join(dir)).unwrap();
    }
    run(Command::new("mount").args(["-o", "ro,loop"]).arg(&disk).arg(&mounted));
    let mut copy = Command::new("sh");
    copy.args([
        "-c",
        "cp -a \"$1\"/boot/vmlinuz-* \"$2/boot/\" && cp -a \"$1\"/usr/lib/modules/* \"$2/usr/lib/modules/\"",
        "sh",
    ]);
    let out = copy.arg(&mounted).arg(&root).output().unwrap();
    run(Command::new("umount").arg(&mounted));
    assert_success("copying kernel and modules", &out);
    std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("package busybox-static");
    fs::write(root.join("sbin/init"), INIT).unwrap();
    run(Command::new("chmod").arg("755").arg(root.join("sbin/init")));
    fs::write(root.join("KNOPPIX/marker"), "from the medium\n").unwrap();
    fs::write(root.join("etc/issue"), "as it was\n").unwrap();
    root
}

/// A medium as KNOPPIX makes them, of such a system: packed by Debian's own programs, once in a run.
pub fn medium() -> PathBuf {
    let room = &demo().cache.parent().unwrap().join("knoppix-medium");
    fs::create_dir_all(room).unwrap();
    let lock = fs::File::create(room.join("lock")).unwrap();
    lock.lock().unwrap();
    let (made, done) = (room.join("files/knoppix.iso"), room.join("done"));
    if done.exists() {
        return made;
    }
    system(room);
    // ISO 9660 with Rock Ridge in a cloop file on an ISO.
    let tools = "set -e
        xorriso -no_rc -as mkisofs -quiet -R -o inner root
        size=$(stat -c %s inner); truncate -s $(((size + 65535) / 65536 * 65536)) inner
        mkdir -p medium/KNOPPIX files
        create_compressed_fs -q -L 1 -B 65536 inner medium/KNOPPIX/KNOPPIX
        xorriso -no_rc -as mkisofs -quiet -R -o files/knoppix.iso medium";
    let out = Command::new("sh").args(["-c", tools]).current_dir(room).output().unwrap();
    assert_success("xorriso and create_compressed_fs", &out);
    fs::File::create(done).unwrap();
    made
}

#[test]
fn knoppix_imported_and_rebuilt_boots_as_the_host() {
    let demo = demo();
    let room = demo.cache.parent().unwrap().join("knoppix");
    let project = room.join("project");
    prepare(&project);
    let medium = medium();
    let sum = Sha256::of(&fs::read(&medium).unwrap());
    let ours = Path::new(ROOT).join("tests/system/knoppix.yaml");
    let recipe = fs::read_to_string(ours).unwrap().replace("KNOPPIX-SHA256", &sum.to_string());
    fs::write(project.join("recipes/knoppix.yaml"), recipe).unwrap();
    // Customised, as a person would.
    fs::create_dir_all(project.join("overlays/mine/etc")).unwrap();
    fs::write(project.join("overlays/mine/etc/issue"), "and ours on top\n").unwrap();
    run(imgfactory(&["keygen", "keys/knoppix"]).current_dir(&project));
    let mut build = imgfactory(&["build", "recipes/knoppix.yaml", "--out", "out", "--cache"]);
    build.arg(&demo.cache).arg("--sources").arg(medium.parent().unwrap());
    let out = build.current_dir(&project).output().unwrap();
    assert_success("build of KNOPPIX", &out);
    let out = trial(&project.join("out")).args(["--bios", "--entry", "linux"]).output().unwrap();
    assert_success("imgfactory test of KNOPPIX", &out);
}
