//! What goes where on the medium, and the arguments of xorriso.

use std::fmt;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::esp::{self, EspError, REMOVABLE_BOOT};
use super::gpt::{BACKUP_NUMBER, BACKUP_SECTORS, ESP_NUMBER, ISO_START, Identity, SECTOR};
use super::grub::{CONFIG, Grub, MARKER, volume_name};
use super::offline::Graft;
use formats::report::size;

/// What a medium is made of.
#[derive(Clone, Copy, Debug)]
pub struct MediumContents<'a> {
    /// The distribution's name: `[a-z0-9-]+`.
    pub name: &'a str,
    /// The date of everything on the medium, in seconds since 1970.
    pub epoch: i64,
    pub config: &'a str,
    /// GRUB's files for BIOS and UEFI.
    pub grub: &'a Grub,
    /// The hypervisor, as Debian packs it (`xen.gz`).
    pub xen: Option<&'a [u8]>,
    /// The kernel, as Debian packs it (`vmlinuz`).
    pub kernel: &'a [u8],
    pub miniroot: &'a [u8],
    /// Files that stay where they are until they are copied onto the medium; none on one that is to be small.
    pub grafts: &'a [Graft],
}

/// Where xorriso, run in the directory with the staged files, puts the ISO.
pub const OUTPUT: &str = "medium.iso";

/// A medium, ready to be made.
#[derive(Debug)]
pub struct IsoPlan<'a> {
    /// Files that xorriso reads, by name.
    pub staged: Vec<(&'static str, Bytes<'a>)>,
    /// xorriso's arguments. They hold no path but the names of `staged` and [`OUTPUT`].
    pub args: Vec<String>,
    /// What xorriso's environment must say for the same bytes every time.
    pub env: [(&'static str, String); 3],
    /// Identities for [`gpt::lay`](super::gpt::lay).
    pub identity: Identity,
    /// Bytes of all [`MediumContents::grafts`].
    grafted: u64,
}

/// Bytes of a staged file.
pub type Bytes<'a> = std::borrow::Cow<'a, [u8]>;

impl<'a> IsoPlan<'a> {
    /// Plans a medium.
    ///
    /// # Errors
    /// [`EspError`] when GRUB does not fit into an ESP.
    pub fn of(contents: &MediumContents<'a>) -> Result<Self, EspError> {
        let MediumContents { name, epoch, config, grub, grafts, .. } = *contents;
        let identity = Identity::of(name);
        let program = esp::EspFile { path: REMOVABLE_BOOT, bytes: &grub.uefi };
        let esp = esp::build(&[program], identity.volume_id())?;
        let room = vec![0; usize::try_from(BACKUP_SECTORS * SECTOR).expect("18 KiB")];

        // On the medium: path, name of the staged file, contents. GRUB reads in this order, so a CD need not seek.
        let mut files: Vec<(&str, &'static str, Bytes<'a>)> = vec![
            (BIOS_IMAGE, "bios.img", Bytes::Borrowed(&grub.bios)),
            (MARKER, "medium", format!("{name}\n").into_bytes().into()),
            (CONFIG, "grub.cfg", Bytes::Borrowed(config.as_bytes())),
        ];
        files.extend(contents.xen.map(|xen| (XEN, "xen.gz", Bytes::Borrowed(xen))));
        files.push((KERNEL, "vmlinuz", Bytes::Borrowed(contents.kernel)));
        files.push((MINIROOT, "initrd", Bytes::Borrowed(contents.miniroot)));

        let mut args = arguments(&volume_name(name), epoch);
        args.extend(files.iter().map(|(path, staged, _)| format!("{path}={staged}")));
        let mut staged: Vec<_> = files.into_iter().map(|(_, staged, bytes)| (staged, bytes)).collect();
        staged.push((MBR_FILE, Bytes::Borrowed(&grub.mbr)));
        staged.push((ESP_FILE, esp.into()));
        staged.push((ROOM_FILE, room.into()));
        if !grafts.is_empty() {
            // More than a command line holds.
            args.extend(["-path-list".to_owned(), LIST_FILE.to_owned()]);
            staged.push((LIST_FILE, list(grafts).into()));
        }
        let env = [("SOURCE_DATE_EPOCH", epoch.to_string()), ("TZ", "UTC".into()), ("LC_ALL", "C".into())];
        let grafted = grafts.iter().map(|graft| graft.len).sum();
        Ok(IsoPlan { staged, args, env, identity, grafted })
    }

    /// How many bytes of an ISO of `total` bytes each part takes.
    pub fn parts(&self, total: u64) -> IsoParts {
        let of = |wanted: &str| {
            let found = self.staged.iter().find(|(name, _)| *name == wanted);
            found.map_or(0, |(_, bytes)| bytes.len() as u64)
        };
        let (xen, kernel, miniroot) = (of("xen.gz"), of("vmlinuz"), of("initrd"));
        let (grub_bios, esp) = (of("bios.img"), of(ESP_FILE));
        let blocks = self.grafted;
        let rest = total.saturating_sub(xen + kernel + miniroot + grub_bios + esp + blocks);
        IsoParts { xen, kernel, miniroot, grub_bios, esp, blocks, rest, total }
    }
}

/// The hypervisor on the medium.
pub const XEN: &str = "/boot/xen.gz";
/// The kernel on the medium.
pub const KERNEL: &str = "/boot/vmlinuz";
/// The miniroot on the medium.
pub const MINIROOT: &str = "/boot/initrd";
/// The BIOS core on the medium.
pub const BIOS_IMAGE: &str = "/boot/grub/bios.img";
/// Staged: [`grub::MBR_CODE`](super::grub::MBR_CODE).
const MBR_FILE: &str = "mbr.img";
/// Staged: the ESP.
const ESP_FILE: &str = "esp.img";
/// Staged: zeros where the backup GPT will be.
const ROOM_FILE: &str = "backup.img";
/// Staged: what else goes onto the medium.
const LIST_FILE: &str = "grafts.list";

/// A line each, as xorriso reads them: path on the medium, `=`, file.
fn list(grafts: &[Graft]) -> Vec<u8> {
    let mut list = Vec::new();
    for Graft { path, from, .. } in grafts {
        escape(path.as_bytes(), &mut list);
        list.push(b'=');
        escape(from.as_os_str().as_bytes(), &mut list);
        list.push(b'\n');
    }
    list
}

fn escape(path: &[u8], list: &mut Vec<u8>) {
    for &byte in path {
        if matches!(byte, b'=' | b'\\') {
            list.push(b'\\');
        }
        list.push(byte);
    }
}

/// All arguments of xorriso before the list of files.
fn arguments(volume: &str, epoch: i64) -> Vec<String> {
    let mut args = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|&word| word.to_owned()));
    // No start-up files of the user.
    // `stdio:`, or xorriso takes what lies below /dev, as /dev/shm does, for a drive.
    add(&["--no_rc", "-as", "mkisofs", "-o", &format!("stdio:{OUTPUT}")]);
    add(&["-volid", volume, "-appid", "IMGFACTORY", "-preparer", "IMGFACTORY"]);
    // Rock Ridge, all files root's and readable, all of one date. No padding: the backup GPT's room is the 18 KiB
    // at the end, and nothing that a CD needs is in it.
    add(&["-rational-rock", "--set_all_file_dates", &format!("={epoch}"), "-no-pad"]);
    // A second set of volume descriptors, so that partition 1 is an ISO 9660 file system too.
    add(&["-partition_offset", &(ISO_START * SECTOR / 2048).to_string()]);
    // BIOS: El Torito without emulation from CD, GRUB's MBR code from disks. xorriso tells both where the core is.
    add(&["-eltorito-boot", BIOS_IMAGE.trim_start_matches('/'), "-no-emul-boot", "-boot-load-size", "4"]);
    add(&["-boot-info-table", "--grub2-boot-info", "--grub2-mbr", MBR_FILE, "--boot-catalog-hide"]);
    // UEFI: one ESP, by El Torito from CD and by the GPT from disks. The partition types are replaced later.
    add(&["-append_partition", &ESP_NUMBER.to_string(), "0xef", ESP_FILE]);
    add(&["-append_partition", &BACKUP_NUMBER.to_string(), "0xda", ROOM_FILE]);
    add(&["-eltorito-alt-boot", "-e", &format!("--interval:appended_partition_{ESP_NUMBER}:all::")]);
    add(&["-no-emul-boot", "-graft-points"]);
    args
}

/// Bytes of an ISO by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsoParts {
    /// The hypervisor; 0 without Xen.
    pub xen: u64,
    /// Bytes of the kernel image.
    pub kernel: u64,
    /// Bytes of the initramfs.
    pub miniroot: u64,
    /// GRUB's core image for BIOS.
    pub grub_bios: u64,
    /// The ESP, which is GRUB for UEFI and a few kilobytes of FAT.
    pub esp: u64,
    /// A mirror's tree; 0 on a medium that fetches all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub blocks: u64,
    /// Menu, directories, tables, rounding up to sectors.
    pub rest: u64,
    /// Bytes of the whole ISO.
    pub total: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A table, one part a line.
impl fmt::Display for IsoParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            ("Xen", self.xen),
            ("kernel", self.kernel),
            ("miniroot", self.miniroot),
            ("GRUB, BIOS", self.grub_bios),
            ("GRUB, UEFI", self.esp),
            ("blocks", self.blocks),
            ("rest", self.rest),
            ("ISO", self.total),
        ];
        let mut lines = lines.into_iter().filter(|(_, bytes)| *bytes > 0).peekable();
        while let Some((part, bytes)) = lines.next() {
            write!(f, "{part:<12}{bytes:>12} B{:>12}", size(bytes))?;
            if lines.peek().is_some() {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grub() -> Grub {
        Grub { bios: vec![1; 5000], uefi: vec![2; 9000], mbr: vec![3; 512] }
    }

    fn contents(grub: &Grub) -> MediumContents<'_> {
        let (config, kernel, miniroot) = ("menu\n", &[4; 7000][..], &[5; 3000][..]);
        let xen = Some(&[6; 100][..]);
        MediumContents {
            name: "demo",
            epoch: 1_700_000_000,
            config,
            grub,
            xen,
            kernel,
            miniroot,
            grafts: &[],
        }
    }

    #[test]
    fn xorriso_is_told_everything_by_relative_names() {
        let grub = grub();
        let plan = IsoPlan::of(&contents(&grub)).unwrap();
        insta::assert_snapshot!(plan.args.join("\n"), @r"
        --no_rc
        -as
        mkisofs
        -o
        stdio:medium.iso
        -volid
        DEMO
        -appid
        IMGFACTORY
        -preparer
        IMGFACTORY
        -rational-rock
        --set_all_file_dates
        =1700000000
        -no-pad
        -partition_offset
        16
        -eltorito-boot
        boot/grub/bios.img
        -no-emul-boot
        -boot-load-size
        4
        -boot-info-table
        --grub2-boot-info
        --grub2-mbr
        mbr.img
        --boot-catalog-hide
        -append_partition
        2
        0xef
        esp.img
        -append_partition
        3
        0xda
        backup.img
        -eltorito-alt-boot
        -e
        --interval:appended_partition_2:all::
        -no-emul-boot
        -graft-points
        /boot/grub/bios.img=bios.img
        /.imgfactory/medium=medium
        /boot/grub/grub.cfg=grub.cfg
        /boot/xen.gz=xen.gz
        /boot/vmlinuz=vmlinuz
        /boot/initrd=initrd
        ");
        let staged: Vec<&str> = plan.staged.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            staged,
            [
                "bios.img",
                "medium",
                "grub.cfg",
                "xen.gz",
                "vmlinuz",
                "initrd",
                "mbr.img",
                "esp.img",
                "backup.img"
            ]
        );
    }

    #[test]
    fn without_xen_there_is_none_on_the_medium() {
        let grub = grub();
        let plan = IsoPlan::of(&MediumContents { xen: None, ..contents(&grub) }).unwrap();
        assert!(!plan.args.iter().any(|arg| arg.contains("xen")));
        assert_eq!(plan.parts(40_000).xen, 0);
    }

    #[test]
    fn a_mirrors_tree_goes_onto_the_medium_by_a_list() {
        let grub = grub();
        let graft = |path: &str, from: &str, len| Graft { path: path.into(), from: from.into(), len };
        let grafts = [graft("/mirror/latest", "/srv/a=b/latest", 7), graft("/mirror/x", "/back\\slash", 5)];
        let plan = IsoPlan::of(&MediumContents { grafts: &grafts, ..contents(&grub) }).unwrap();
        assert_eq!(plan.args[plan.args.len() - 2..], ["-path-list", "grafts.list"]);
        let (name, bytes) = plan.staged.last().unwrap();
        assert_eq!(
            (*name, &bytes[..]),
            ("grafts.list", &b"/mirror/latest=/srv/a\\=b/latest\n/mirror/x=/back\\\\slash\n"[..])
        );
        assert_eq!(plan.parts(70_000).blocks, 12);
    }

    #[test]
    fn the_parts_add_up_to_the_whole() {
        let grub = grub();
        let parts = IsoPlan::of(&contents(&grub)).unwrap().parts(70_000);
        assert_eq!(
            parts.to_string(),
            "Xen                  100 B       100 B\n\
             kernel              7000 B     6.8 KiB\n\
             miniroot            3000 B     2.9 KiB\n\
             GRUB, BIOS          5000 B     4.8 KiB\n\
             GRUB, UEFI         14336 B      14 KiB\n\
             rest               40564 B    39.6 KiB\n\
             ISO                70000 B    68.3 KiB"
        );
    }
}
