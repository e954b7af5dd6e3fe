//! Archives by the real GNU tar, compared with the directory that they were made of. Needs root.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use imgfactory::sys::spool::ContentFiles;
use imgfactory::tree::overlay::Capabilities;
use imgfactory::tree::{Kind, Tree, tar};
use imgfactory::yaml::Scalar;
use system::files::Scratch;

use crate::support::judges::differences;

/// Makes one of everything.
const MAKE: &str = r#"
set -eu
umask 022
mkdir etc lost+found tmp dir empty
chmod 1777 tmp
echo root:x:0:0::/root:/bin/sh > etc/passwd
echo ann:x:4242:4242::/:/bin/sh >> etc/passwd
printf 'root:x:0:\nadm:x:4:\n' > etc/group
echo hello > dir/file; ln dir/file dir/again; ln dir/file "dir/$(printf 'caf\351')"
ln -s ../nowhere dir/link; ln dir/link dir/link-again
ln -s "$(printf 't%.0s' $(seq 200))" dir/far
mknod dir/char c 5 1; mknod dir/block b 259 70000; mkfifo dir/pipe
cp /bin/true dir/su; chmod 4755 dir/su; chown 4242:4 dir/su
setcap cap_net_raw,cap_net_admin+ep dir/file
setfattr -n user.note -v 'line
line' dir/file
setfattr -n user.zero -v 0x000a3d00 empty
setfattr -n 'user.a=b%c' -v x empty
setfattr -n trusted.t -v 1 dir
setfacl -m u:4242:rwx,g:adm:r,g:99:x dir/file
setfacl -m u::rwx,u:4242:rx,d:u:4242:rwx,d:g::r tmp
long=$(printf 'n%.0s' $(seq 250)); mkdir -p "$long/$long"; echo deep > "$long/$long/$long"; ln "$long/$long/$long" deep
truncate -s 0 dir/none
head -c 300000 /dev/urandom > dir/large
chown 3000000000:2500000000 dir/large
find . -exec touch -h -d @1700000000 {} +
touch -h -d '@-12345.25' dir/far; touch -d '@4102444800.123456789' dir/su; touch -d @1.5 dir
"#;

fn shell(dir: &Path, script: &str) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What tar makes of `dir` with some options, read, and its contents.
fn archived(room: &Path, dir: &Path, options: &str) -> (Tree, ContentFiles) {
    let archive = room.join("archive.tar");
    shell(dir, &format!("tar --sort=name --numeric-owner {options} -cf {} .", archive.display()));
    let mut spools = ContentFiles::new();
    let spool = spools.open(&archive).unwrap();
    let tree = tar::read(File::open(&archive).unwrap(), spool);
    (tree.unwrap_or_else(|error| panic!("{options}: {error}")), spools)
}

/// Where the directory and the tree differ in what an archive holds: not in access times.
fn different(dir: &Path, tree: &Tree, spools: &ContentFiles, but: &[&str]) -> Vec<String> {
    let mut found = differences(dir, tree, spools, 4096);
    found.retain(|line| {
        !["atime", "ctime"].iter().chain(but).any(|what| line.contains(&format!(": {what} ")))
    });
    found
}

#[test]
fn trees_are_the_directories_that_gnu_tar_archived() {
    let room = Scratch::directory(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = room.path().join("dir");
    fs::create_dir(&dir).unwrap();
    shell(&dir, MAKE);
    // As mmdebstrap calls it; with ACLs as text; the same with names; and the older format, which has seconds only.
    let pax = "--format=pax --xattrs --xattrs-include='*' --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime";
    for (options, but) in [
        (pax.to_owned(), &["data"][..]),
        (format!("{pax} --acls --xattrs-exclude='system.*'"), &["data"]),
        ("--format=gnu".to_owned(), &["data", "mtime", "xattrs"]),
    ] {
        let (tree, spools) = archived(room.path(), &dir, &options);
        let bytes = fs::read(room.path().join("archive.tar")).unwrap();
        let has_acls = bytes.windows(12).any(|bytes| bytes == b"group:adm:r-");
        assert_eq!(has_acls, options.contains("--acls"), "{options}");
        assert!(tree.walk().count() > 20, "{}", tree.walk().count());
        assert_eq!(different(&dir, &tree, &spools, but), [""; 0], "{options}");
    }
}

#[test]
fn holes_come_through_all_formats_of_sparse_files() {
    let room = Scratch::directory(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = room.path().join("dir");
    fs::create_dir_all(dir.join("lost+found")).unwrap();
    let sparse = |name: &str, len: u64, pieces: &[(u64, usize)]| {
        let file = File::create(dir.join(name)).unwrap();
        file.set_len(len).unwrap();
        for (n, &(at, len)) in pieces.iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251 + n) as u8).collect();
            file.write_all_at(&bytes, at).unwrap();
        }
        file.sync_all().unwrap();
    };
    let many: Vec<(u64, usize)> = (0..100).map(|i| (i * 16384, 4096)).collect();
    sparse("many", 100 * 16384, &many);
    sparse("tail", 5000, &[(4096, 904)]);
    sparse("hole", 1 << 33, &[]);
    sparse("large", (1 << 33) + 5, &[(0, 4096), (1 << 33, 5)]);
    sparse(&"n".repeat(200), 1 << 20, &[(8192, 4096)]);
    fs::write(dir.join("plain"), "plain").unwrap();
    for format in [
        "--format=gnu",
        "--format=oldgnu",
        "--format=pax --sparse-version=0.0",
        "--format=pax --sparse-version=0.1",
        "--format=pax --sparse-version=1.0",
    ] {
        let (tree, spools) = archived(room.path(), &dir, &format!("--sparse {format}"));
        assert_eq!(different(&dir, &tree, &spools, &["mtime"]), [""; 0], "{format}");
        let hole = tree.node(tree.lookup(b"hole").unwrap());
        assert!(matches!(&hole.kind, Kind::File(content) if content.extents.is_empty()), "{format}");
    }
}

#[test]
fn capabilities_are_the_bytes_that_setcap_writes() {
    let room = Scratch::directory(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = room.path().join("file");
    for text in
        ["cap_net_raw+ep", "cap_chown,cap_setfcap,cap_mac_override=ei", "cap_checkpoint_restore,cap_syslog+p"]
    {
        fs::write(&file, "").unwrap();
        let output = Command::new("setcap").arg(text).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let written = xattr::get(&file, OsStr::from_bytes(b"security.capability")).unwrap();
        let capabilities = Capabilities::read(text).unwrap_or_else(|wrong| panic!("{}", wrong.what));
        assert_eq!(Some(capabilities.to_xattr()), written, "{text}");
    }
}
