//! Plan 9's ISOs made anew, with overlays: media with both boot chains, as Plan 9's own programs write them or xorriso
//! does, come apart and together again; another program looks at what came out.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::plan9::{extent, files, front, legacy, mkisofs, run};
use crate::support::requests::guest_disk;

/// The ISO that a guest with the overlay `mine` gets.
fn together(room: &Path, iso: &Path, flavour: &str) -> Result<Vec<u8>, String> {
    let sum = formats::digest::Sha256::of(&fs::read(iso).unwrap());
    let name = iso.file_name().unwrap().to_str().unwrap();
    let guest = format!(
        "{{name: nine, overlays: [mine], plan9: {{flavour: {flavour}, urls: ['http://a.example/{name}'], sha256: '{sum}'}}}}"
    );
    guest_disk(room, &guest, room)
}

/// A project with the overlay.
fn room() -> tempfile::TempDir {
    let room = tempfile::tempdir().unwrap();
    let mine = room.path().join("overlays/mine");
    fs::create_dir_all(mine.join("usr/glenda/lib")).unwrap();
    fs::create_dir_all(mine.join("rc/bin")).unwrap();
    fs::write(mine.join("usr/glenda/lib/profile"), "ours on top").unwrap();
    fs::write(mine.join("rc/bin/termrc.local"), "#!/bin/rc\n").unwrap();
    fs::set_permissions(mine.join("rc/bin/termrc.local"), fs::Permissions::from_mode(0o755)).unwrap();
    room
}

/// All of an ISO's files, by xorriso.
fn unpacked(room: &Path, iso: &Path) -> PathBuf {
    let to = room.join("unpacked");
    run(Command::new("xorriso")
        .args(["-no_rc", "-osirrox", "on", "-indev"])
        .arg(format!("stdio:{}", iso.display()))
        .args(["-extract", "/"])
        .arg(&to));
    to
}

#[track_caller]
fn assert_files(dir: &Path) {
    let text =
        |path: &str| fs::read_to_string(dir.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mode = |path: &str| fs::metadata(dir.join(path)).unwrap().mode() & 0o777;
    assert_eq!(text("README"), "upper");
    assert_eq!(text("usr/glenda/lib/profile"), "ours on top");
    assert_eq!((text("386/bin/echo").as_str(), mode("386/bin/echo")), ("echo", 0o755));
    assert_eq!(mode("rc/bin/termrc.local"), 0o755);
    assert_eq!(fs::read_dir(dir.join("mnt/temp")).unwrap().count(), 0, "empty directories stay");
}

/// Names as a reader without Rock Ridge sees them, in the root: 9front's program is one.
fn plain_names(iso: &[u8]) -> Vec<String> {
    let word = |at: usize| u32::from_le_bytes(iso[at..at + 4].try_into().unwrap()) as usize;
    let root = 16 * 2048 + 156;
    let (mut at, end) = (word(root + 2) * 2048, word(root + 2) * 2048 + word(root + 10));
    let mut names = Vec::new();
    while at < end && iso[at] > 0 {
        names.push(String::from_utf8_lossy(&iso[at + 33..at + 33 + usize::from(iso[at + 32])]).into_owned());
        at += usize::from(iso[at]);
    }
    names
}

#[test]
fn a_9front_medium_made_anew_has_overlays_and_boots_by_the_same_program() {
    let room = room();
    let dir = room.path().join("front");
    files(&dir);
    let iso = front(&dir);
    let made = together(room.path(), &iso, "9front").unwrap_or_else(|error| panic!("{error}"));
    assert!(made == together(room.path(), &iso, "9front").unwrap(), "out of the cache");
    fs::remove_dir_all(room.path().join("cache")).unwrap();
    assert!(made == together(room.path(), &iso, "9front").unwrap(), "the same bytes every time");
    let new = room.path().join("new.iso");
    fs::write(&new, &made).unwrap();
    let dir = unpacked(room.path(), &new);
    assert_files(&dir);
    let ini = fs::read_to_string(dir.join("cfg/plan9.ini")).unwrap();
    assert!(
        ini.starts_with("cdboot=yes\nconsole=0 b115200\n") && ini.contains("bootfile=/386/9pc\n"),
        "{ini}"
    );
    let names = plain_names(&made);
    assert!(names.iter().any(|name| name == "386") && names.iter().any(|name| name == "cfg"), "{names:?}");
    assert!(names.iter().all(|name| !name.contains(';') && !name.ends_with('.')), "{names:?}");
    // El Torito: no emulation, as many sectors as before, the program's first block.
    let catalog =
        u32::from_le_bytes(made[17 * 2048 + 71..17 * 2048 + 75].try_into().unwrap()) as usize * 2048;
    let entry = &made[catalog + 32..catalog + 44];
    assert_eq!((entry[0], entry[1], entry[6], entry[7]), (0x88, 0, 10, 0));
    let block = u32::from_le_bytes(entry[8..12].try_into().unwrap());
    assert_eq!(block, extent(&new, "/386/9bootiso").0);
}

#[test]
fn a_9legacy_medium_made_anew_knows_where_its_loader_lies_now() {
    let room = room();
    let dir = room.path().join("legacy");
    files(&dir);
    let iso = legacy(&dir);
    // What comes before `9load` on the medium now moves it.
    fs::write(room.path().join("overlays/mine/1"), vec![7; 100_000]).unwrap();
    let made = together(room.path(), &iso, "9legacy").unwrap_or_else(|error| panic!("{error}"));
    let new = room.path().join("new.iso");
    fs::write(&new, &made).unwrap();
    assert_files(&unpacked(room.path(), &new));
    let (program, loader) = (extent(&new, "/pbsraw").0 as usize * 2048, extent(&new, "/9load"));
    assert_ne!(loader.0, extent(&iso, "/9load").0, "it moved");
    let word = |nth: usize| u32::from_le_bytes(made[program + 3 + 4 * nth..][..4].try_into().unwrap());
    assert_eq!([word(0), word(1), word(2)], [loader.0, 5, 2048]);
    assert_eq!(made[program..program + 3], [0xeb, 0x3c, 0x90], "and nothing else in it");
    let volume = room.path().join("unpacked/bootdisk.img");
    // The settings are changed in the volume as it lies on the new medium.
    assert_eq!(extent(&new, "/bootdisk.img").1, fs::metadata(&volume).unwrap().len());
    let out = Command::new("mtype").arg("-i").arg(&volume).arg("::plan9.ini").output().unwrap();
    let ini = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(
        ini,
        "console=0 b115200\nnobootprompt=local!#S/sdD0/data\nuser=glenda\nbootfile=sdD0!cdboot!9pccd.gz\ncdboot=yes\n\
         adisk=/dev/sdD0/cdboot\n*nomp=1\ndebugboot=1\n*nobiosload=1\n"
    );
    let boot_sector = &fs::read(&volume).unwrap()[..512];
    assert_eq!(&boot_sector[19..21], 5760_u16.to_le_bytes());
    assert_eq!(&boot_sector[32..36], 5760_u32.to_le_bytes(), "the boot sector is as it was");
    run(Command::new("fsck.fat").arg("-n").arg(&volume));
}

#[test]
fn a_recipe_chooses_an_entry_of_the_menu() {
    let room = room();
    let dir = room.path().join("legacy");
    files(&dir);
    let iso = legacy(&dir);
    let sum = formats::digest::Sha256::of(&fs::read(&iso).unwrap());
    let made = |entry: &str| {
        let source = format!("urls: ['http://a.example/legacy.iso'], sha256: '{sum}'");
        let guest = format!("{{name: nine, plan9: {{flavour: 9legacy, {source}, entry: {entry}}}}}");
        guest_disk(room.path(), &guest, room.path())
    };
    let bytes = made("install").unwrap_or_else(|error| panic!("{error}"));
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains("user=glenda\nbootfile=sdD0!cdboot!9pcflop.gz\n"));
    let error = made("hard").unwrap_err();
    assert!(error.contains("its plan9.ini has no entry `hard`; the menu has `install`, `cdboot`"), "{error}");
}

#[test]
fn a_medium_by_plan9_itself_keeps_its_names_and_modes() {
    let room = room();
    let dir = room.path().join("front");
    files(&dir);
    let iso = front(&dir);
    // As Plan 9 writes media, without Rock Ridge: its attributes in the system use area of a record.
    let plain = room.path().join("plain.iso");
    let boot = ["-b", "386/9bootiso", "-no-emul-boot", "-boot-load-size", "10", "--boot-catalog-hide"];
    mkisofs(&[&["--norock", "-N", "-d", "-l", "-allow-lowercase"], &boot[..]].concat(), &dir, &plain);
    let mut bytes = fs::read(&plain).unwrap();
    bytes[16 * 2048 + 8..16 * 2048 + 14].copy_from_slice(b"PLAN 9");
    add_attributes(&mut bytes, 16 * 2048 + 156);
    fs::write(&plain, bytes).unwrap();
    drop(iso);
    let made = together(room.path(), &plain, "9front").unwrap_or_else(|error| panic!("{error}"));
    let new = room.path().join("new.iso");
    fs::write(&new, &made).unwrap();
    assert_files(&unpacked(room.path(), &new));
}

/// Gives all records below a directory the attributes that Plan 9's writer gives them. The directories are small, so
/// what grows stays within their blocks.
fn add_attributes(iso: &mut [u8], record: usize) {
    let word = |iso: &[u8], at: usize| u32::from_le_bytes(iso[at..at + 4].try_into().unwrap()) as usize;
    let start = word(iso, record + 2) * 2048;
    let old = iso[start..start + 2048].to_vec();
    let (mut from, mut to) = (0, start);
    iso[start..start + 2048].fill(0);
    while old[from] > 0 {
        let len = usize::from(old[from]);
        let (name, directory) =
            (&old[from + 33..from + 33 + usize::from(old[from + 32])], old[from + 25] & 2 != 0);
        let dots = name.len() == 1 && name[0] <= 1;
        let mut new = old[from..from + 33 + name.len()].to_vec();
        if new.len() % 2 == 1 {
            new.push(0);
        }
        let mode: u32 = match name {
            b"echo" => 0o755,
            _ if directory => 0x8000_0000 | 0o775,
            _ => 0o644,
        };
        // The record's name is the old one in 8.3; `README` is the name here, and says it itself.
        let text: &[u8] = if name.eq_ignore_ascii_case(b"readme") { b"README" } else { b"" };
        let area = new.len();
        for text in [text, b"glenda", b"sys"] {
            new.push(u8::try_from(text.len()).unwrap());
            new.extend(text);
        }
        if (new.len() - area) % 2 == 1 {
            new.push(0);
        }
        new.extend(mode.to_le_bytes());
        new.extend(mode.to_be_bytes());
        new[0] = u8::try_from(new.len()).unwrap();
        iso[to..to + new.len()].copy_from_slice(&new);
        if directory && !dots {
            add_attributes(iso, to);
        }
        to += new.len();
        from += len;
    }
    assert!(to < start + 2048, "it fits");
}

#[test]
fn a_medium_that_boots_from_no_file_is_refused() {
    let room = room();
    let dir = room.path().join("front");
    files(&dir);
    let iso = room.path().join("dead.iso");
    mkisofs(&["-R"], &dir, &iso);
    let said = together(room.path(), &iso, "9front").unwrap_err();
    assert_eq!(
        said,
        "error: guest `nine`\n  caused by: dead.iso\n  caused by: the medium does not boot from one of its files, so a disk made from its files would not boot"
    );
}
