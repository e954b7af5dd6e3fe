//! Media like those of Plan 9: both boot chains, and the files that a start depends on, without a byte of Plan 9.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a tool, which has to do well.
#[track_caller]
pub fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// What both flavours have: a command that can be run, directories that are empty and have to be there.
pub fn files(dir: &Path) {
    for path in ["386/bin", "mnt/temp", "usr/glenda/lib", "cfg"] {
        fs::create_dir_all(dir.join(path)).unwrap();
    }
    fs::write(dir.join("386/bin/echo"), "echo").unwrap();
    fs::set_permissions(dir.join("386/bin/echo"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.join("README"), "upper").unwrap();
    fs::write(dir.join("usr/glenda/lib/profile"), "as it was").unwrap();
}

/// As 9legacy's: a menu, whose first entry is the installer's.
const LEGACY_INI: &str = "[common]\ndebugboot=1\n*nobiosload=1\n\n[menu]\nmenuitem=install, Install Plan 9 from this CD\n\
    menuitem=cdboot, Boot Plan 9 from this CD\n\n[install]\nadisk=/dev/sdD0/cdboot\n\
    bootfile=sdD0!cdboot!9pcflop.gz\ncdboot=yes\nmouseport=ask\n\n[cdboot]\nadisk=/dev/sdD0/cdboot\n\
    bootfile=sdD0!cdboot!9pccd.gz\ncdboot=yes\nmouseport=ask\nmonitor=ask\n";

/// As Plan 9's disk/format: the number of sectors is in the field of 16 bits and in that of 32, too.
pub fn sectors_in_both_fields(volume: &Path) {
    let mut bytes = fs::read(volume).unwrap();
    let sectors = u16::try_from(bytes.len() / 512).unwrap();
    bytes[19..21].copy_from_slice(&sectors.to_le_bytes());
    bytes[32..36].copy_from_slice(&u32::from(sectors).to_le_bytes());
    fs::write(volume, bytes).unwrap();
}

/// An ISO of a directory.
pub fn mkisofs(args: &[&str], dir: &Path, iso: &Path) {
    run(Command::new("xorriso")
        .args(["-no_rc", "-as", "mkisofs", "-quiet", "-o"])
        .arg(iso)
        .args(args)
        .arg(dir));
}

/// 9front's: its program reads ISO 9660 itself.
pub fn front(files: &Path) -> PathBuf {
    fs::create_dir_all(files.join("386")).unwrap();
    fs::write(files.join("386/9bootiso"), [0xfa; 5000]).unwrap();
    fs::write(files.join("cfg/plan9.ini"), "bootfile=/386/9pc\nmouseport=ask\n").unwrap();
    let iso = files.with_extension("iso");
    let boot = ["-b", "386/9bootiso", "-no-emul-boot", "-boot-load-size", "10", "--boot-catalog-hide"];
    mkisofs(&[&["-R", "-N", "-d", "-l"], &boot[..]].concat(), files, &iso);
    iso
}

/// 9legacy's: `pbsraw` loads `9load` by its blocks, and that reads a FAT volume.
pub fn legacy(files: &Path) -> PathBuf {
    let loader: Vec<u8> = (0..9000u32).map(|n| n.to_le_bytes()[0]).collect();
    fs::write(files.join("9load"), loader).unwrap();
    let volume = files.join("bootdisk.img");
    run(Command::new("mformat").args(["-C", "-f", "2880", "-i"]).arg(&volume).arg("::"));
    let ini = files.with_extension("ini");
    fs::write(&ini, LEGACY_INI).unwrap();
    run(Command::new("mcopy").arg("-i").arg(&volume).arg(&ini).arg("::plan9.ini"));
    sectors_in_both_fields(&volume);
    let mut pbsraw = vec![0; 2048];
    pbsraw[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
    // As Plan 9's program writes them: the tests do not know yet where it will be.
    fs::write(files.join("pbsraw"), &pbsraw).unwrap();
    let iso = files.with_extension("iso");
    let boot = ["-b", "pbsraw", "-no-emul-boot", "-boot-load-size", "4", "--boot-catalog-hide"];
    mkisofs(&[&["-R", "-N", "-d", "-l"], &boot[..]].concat(), files, &iso);
    let mut bytes = fs::read(&iso).unwrap();
    let (program, loader) = (extent(&iso, "/pbsraw").0, extent(&iso, "/9load"));
    for (nth, word) in [loader.0, 5, 2048].into_iter().enumerate() {
        let at = program as usize * 2048 + 3 + 4 * nth;
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    fs::write(&iso, bytes).unwrap();
    iso
}

/// First block and bytes of a file, by xorriso.
pub fn extent(iso: &Path, path: &str) -> (u32, u64) {
    let mut xorriso = Command::new("xorriso");
    let out = xorriso.args(["-no_rc", "-indev"]).arg(format!("stdio:{}", iso.display()));
    let out = out.args(["-find", path, "-exec", "report_lba", "--"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let line =
        said.lines().find(|line| line.starts_with("File data lba:")).unwrap_or_else(|| panic!("{said}"));
    // File data lba:  xt , startlba , blocks , size , 'path'
    let words: Vec<&str> = line.split([':', ',']).map(str::trim).collect();
    (words[2].parse().unwrap(), words[4].parse().unwrap())
}
