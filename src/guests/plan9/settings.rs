//! plan9.ini: a medium's settings, changed in place so that its boot asks nothing.
//!
//! 9front reads `/cfg/plan9.ini` from the ISO itself; 9legacy has it in a FAT volume of 2.88 MB, `bootdisk.img` in the
//! ISO's root, which its loader reads; an installed system in the partition `9fat`. Nothing moves: a shorter text is
//! filled up with empty lines, a longer one may use what its last block has left, and its directory records the length.

use std::io;

use super::ini::{Ini, MediumKind, value_of};
use super::{BLOCK, Plan9Error};
use crate::ext2::ReadAt;
use crate::foreign::fat::{self, Patches, SECTOR};
use crate::foreign::iso9660::Iso;
use crate::recipe::{ConsoleDevice, Flavour, Plan9};

/// Where 9front has its settings.
const FRONT_INI: &str = "cfg/plan9.ini";
/// 9legacy's volume, and the file in it.
const LEGACY_DISK: &str = "bootdisk.img";
const INI: &str = "plan9.ini";
/// The partition of a disk that has such a volume.
const BOOT_PARTITION: &str = "9fat";
/// The line that makes the first serial line the console.
const SERIAL: &str = "console=0 b115200\n";
/// A plan9.ini of more than this is refused.
const MAX_INI: u64 = 64 << 10;

/// The changes by which a medium boots without questions.
///
/// # Errors
/// [`Plan9Error`].
pub fn patches(medium: &dyn ReadAt, plan9: &Plan9) -> Result<Patches, Plan9Error> {
    if !is_iso(medium) {
        return installed(medium, plan9);
    }
    let iso = Iso::open(medium)?;
    match plan9.flavour {
        Flavour::Front => front(&iso, medium, plan9),
        Flavour::Legacy => legacy(&iso, medium, plan9),
    }
}

/// By the words that ISO 9660 begins with (ECMA-119, 8.1.2).
fn is_iso(medium: &dyn ReadAt) -> bool {
    let mut word = [0; 5];
    medium.read_exact_at(16 * BLOCK + 1, &mut word).is_ok() && word == *b"CD001"
}

fn front(iso: &Iso<'_>, medium: &dyn ReadAt, plan9: &Plan9) -> Result<Patches, Plan9Error> {
    let missing = || Plan9Error::Missing { path: FRONT_INI, flavour: plan9.flavour };
    let record = iso.find(FRONT_INI)?.ok_or_else(missing)?;
    let (at, len) = record.pieces[0];
    let old = read(medium, FRONT_INI, at, len.min(MAX_INI))?;
    let mut text = of_medium(plan9, &old)?.into_bytes();
    let room = len.next_multiple_of(BLOCK).max(BLOCK);
    if text.len() as u64 > room {
        return Err(Plan9Error::TooLong { want: text.len(), room });
    }
    let mut patches = Patches::new();
    match u32::try_from(text.len()) {
        Ok(new) if u64::from(new) > len => {
            // Both byte orders, at 10 of the directory's record.
            patches.push((record.at + 10, [new.to_le_bytes(), new.to_be_bytes()].concat()));
        }
        _ => text.resize(usize::try_from(len).unwrap_or(text.len()), b'\n'),
    }
    patches.push((at, text));
    Ok(patches)
}

fn legacy(iso: &Iso<'_>, medium: &dyn ReadAt, plan9: &Plan9) -> Result<Patches, Plan9Error> {
    let missing = |path| Plan9Error::Missing { path, flavour: plan9.flavour };
    let record = iso.find(LEGACY_DISK)?.ok_or_else(|| missing(LEGACY_DISK))?;
    let patches = in_volume(medium, LEGACY_DISK, record.pieces[0], |old| of_medium(plan9, old))?;
    patches.ok_or_else(|| missing(INI))
}

/// An installed system's disk: the settings are in the FAT volume that its boot sectors read.
fn installed(medium: &dyn ReadAt, plan9: &Plan9) -> Result<Patches, Plan9Error> {
    let failed = |source| Plan9Error::Volume { volume: BOOT_PARTITION, source };
    let missing = |path| Plan9Error::Missing { path, flavour: plan9.flavour };
    let place = boot_partition(medium).map_err(failed)?.ok_or_else(|| missing(BOOT_PARTITION))?;
    let patches = in_volume(medium, BOOT_PARTITION, place, |old| kept(plan9, old))?;
    patches.ok_or_else(|| missing(INI))
}

/// Changes the settings in a FAT volume; `None` if it has none.
fn in_volume(
    medium: &dyn ReadAt,
    volume: &'static str,
    place: (u64, u64),
    change: impl FnOnce(&[u8]) -> Result<String, Plan9Error>,
) -> Result<Option<Patches>, Plan9Error> {
    let mut fault = None;
    let text = |old: &[u8]| {
        change(old).unwrap_or_else(|error| {
            fault = Some(error);
            String::new()
        })
    };
    let patches = fat::rewrite(medium, place, INI, text);
    match fault {
        Some(fault) => Err(fault),
        None => patches.map_err(|source| Plan9Error::Volume { volume, source }),
    }
}

/// Where the volume is that a Plan 9 disk boots from, and how long: a partition of the PC's table is Plan 9's, and its
/// second sector says in words what is in it (prep(8): `part 9fat 0 204800`, in sectors of the partition).
fn boot_partition(medium: &dyn ReadAt) -> io::Result<Option<(u64, u64)>> {
    const KIND: u8 = 0x39;
    let sectors = medium.size()? / SECTOR;
    let mut table = [0; 512];
    if sectors < 2 {
        return Ok(None);
    }
    medium.read_exact_at(0, &mut table)?;
    if table[510..] != [0x55, 0xaa] {
        return Ok(None);
    }
    let word =
        |at: usize| u64::from(u32::from_le_bytes([table[at], table[at + 1], table[at + 2], table[at + 3]]));
    let entry = (0..4).map(|number| 446 + 16 * number).find(|&at| table[at + 4] == KIND);
    let Some((start, len)) = entry.map(|at| (word(at + 8), word(at + 12))) else { return Ok(None) };
    if start == 0 || start.saturating_add(len) > sectors || len < 2 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut words = [0; 512];
    medium.read_exact_at((start + 1) * SECTOR, &mut words)?;
    let words = String::from_utf8_lossy(&words);
    let named = words.lines().find_map(|line| {
        let [_, _, from, to] = line.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        line.starts_with("part 9fat ").then_some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?))
    });
    let (from, to) = named.filter(|(from, to)| from < to && *to <= len).unwrap_or((0, len));
    Ok(Some(((start + from) * SECTOR, (to - from) * SECTOR)))
}

fn read(medium: &dyn ReadAt, path: &'static str, at: u64, len: u64) -> Result<Vec<u8>, Plan9Error> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    medium.read_exact_at(at, &mut bytes).map_err(|source| Plan9Error::Read { path, source })?;
    Ok(bytes)
}

/// The settings of an ISO: ours, with the kernel that its own name. Of a menu's entry the other lines are kept too, but
/// for those that ask, that ours replace, or that are for a screen which a serial console does not have.
fn of_medium(plan9: &Plan9, old: &[u8]) -> Result<String, Plan9Error> {
    const REPLACED: [&str; 3] = ["bootargs", "bootdisk", "bootfile"];
    const SCREEN: [&str; 4] = ["console", "monitor", "mouseport", "vgasize"];
    let ini = Ini::parse(old);
    let lines = ini.chosen(plan9.entry.as_ref().map(AsRef::as_ref), MediumKind::Iso)?;
    let kernel = lines.iter().find_map(|line| value_of(line, "bootfile")).map(str::to_owned);
    let mut text = settings(plan9, kernel);
    if ini.has_menu() && plan9.ini.is_none() {
        let ours: Vec<String> =
            text.lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
        let is_kept = |line: &&&str| {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            let has_no_screen = plan9.console == ConsoleDevice::Serial && SCREEN.contains(&name);
            value != "ask"
                && !REPLACED.contains(&name)
                && !has_no_screen
                && !ours.iter().any(|own| own.as_str() == name)
        };
        lines.iter().filter(is_kept).for_each(|line| text.push_str(&format!("{line}\n")));
    }
    Ok(text)
}

/// The settings of an installed system: its own, without questions; of a menu, those of one entry.
fn kept(plan9: &Plan9, old: &[u8]) -> Result<String, Plan9Error> {
    let ini = Ini::parse(old);
    let chosen = ini.chosen(plan9.entry.as_ref().map(AsRef::as_ref), MediumKind::Disk)?;
    if plan9.ini.is_some() {
        return Ok(settings(plan9, None));
    }
    let old = if ini.has_menu() { chosen.join("\n").into() } else { String::from_utf8_lossy(old) };
    let (serial, asks) =
        (plan9.console == ConsoleDevice::Serial, !old.lines().any(|line| line.starts_with("nobootprompt=")));
    let mut text = String::from(if serial { SERIAL } else { "" });
    for line in old.lines().map(str::trim_end) {
        match line.split_once('=') {
            Some(("console", _)) => {}
            Some(("vgasize", _)) if serial && plan9.flavour == Flavour::Front => {
                text.push_str("vgasize=text\n");
            }
            Some(("bootargs", root)) if asks => text.push_str(&format!("nobootprompt={root}\n")),
            _ => text.push_str(&format!("{line}\n")),
        }
    }
    if !old.lines().any(|line| line.starts_with("user=")) {
        text.push_str("user=glenda\n");
    }
    Ok(text)
}

/// The text of plan9.ini.
fn settings(plan9: &Plan9, own_kernel: Option<String>) -> String {
    let console = match plan9.console {
        ConsoleDevice::Serial => SERIAL,
        ConsoleDevice::Vga => "",
    };
    if let Some(lines) = &plan9.ini {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        return format!("{console}{lines}");
    }
    match plan9.flavour {
        Flavour::Front => {
            let kernel = own_kernel.unwrap_or_else(|| "/386/9pc".to_owned());
            let screen = if plan9.console == ConsoleDevice::Serial { "vgasize=text\n" } else { "" };
            format!(
                "cdboot=yes\n{console}nobootprompt=local!/dev/sdD0/data\nuser=glenda\nbootfile={kernel}\n\
                 *acpi=0\n{screen}"
            )
        }
        Flavour::Legacy => {
            let kernel = own_kernel.unwrap_or_else(|| "sdD0!cdboot!9pccd.gz".to_owned());
            format!(
                "{console}nobootprompt=local!#S/sdD0/data\nuser=glenda\nbootfile={kernel}\ncdboot=yes\n\
                 adisk=/dev/sdD0/cdboot\n*nomp=1\n"
            )
        }
    }
}
