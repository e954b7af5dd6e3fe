//! Plan 9: an ISO or a disk that boots by itself becomes one that asks nothing, by its plan9.ini alone.
//!
//! The medium stays as it is, byte for byte, but for that file: 9front reads `/cfg/plan9.ini` from the ISO itself;
//! 9legacy has it in a FAT volume of 2.88 MB, `bootdisk.img` in the ISO's root, which its loader reads; an installed
//! system in the partition `9fat`. Nothing
//! moves: a text that is shorter is filled up with empty lines, one that is longer may use what its last block has
//! left, and its directory says so.
//!
//! With overlays it is made anew: [`chain`] is how the old medium boots, by files that the new one has somewhere else.
//! 9front's program reads ISO 9660 itself; 9legacy's `pbsraw` has in it where `9load` lies ([`relocated`]).

use std::io;

use crate::ext2::ReadAt;
use crate::foreign::fat::{self, Patches, SECTOR};
use crate::foreign::iso9660::{ElToritoEntry, Iso, Iso9660Error};
use crate::recipe::{ConsoleDevice, Flavour, Plan9};
use crate::tree::{ContentSource, Kind, Tree};

/// Where 9front has its settings.
const FRONT_INI: &str = "cfg/plan9.ini";
/// 9legacy's volume, and the file in it.
const LEGACY_DISK: &str = "bootdisk.img";
const INI: &str = "plan9.ini";
/// The partition of a disk that has such a volume.
const BOOT_PARTITION: &str = "9fat";
/// The line that makes the first serial line the console.
const SERIAL: &str = "console=0 b115200\n";
/// A plan9.ini of more than this is none.
const MAX_INI: u64 = 64 << 10;
/// Bytes of a block of the ISO.
const BLOCK: u64 = 2048;

/// Why a medium can't be changed.
#[derive(Debug, thiserror::Error)]
pub enum Plan9Error {
    /// It is no ISO, or damaged.
    #[error(transparent)]
    Iso(#[from] Iso9660Error),
    /// It is another system's.
    #[error("no `{path}` on it: is this an ISO or a disk of {flavour}?")]
    Missing {
        /// What is missing.
        path: &'static str,
        /// What the recipe says it is.
        flavour: Flavour,
    },
    /// The settings do not fit.
    #[error("plan9.ini of {want} bytes; there is room for {room} where the medium has it")]
    TooLong {
        /// Bytes of the settings.
        want: usize,
        /// Bytes that there is room for.
        room: u64,
    },
    /// Nothing says how it boots.
    #[error("it does not boot from a file on it, so none made of its files would")]
    NoBoot,
    /// The volume with its settings is damaged, or full.
    #[error("`{volume}`: can't be changed")]
    Volume {
        /// Which.
        volume: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Its settings can't be read.
    #[error("`{path}`: can't be read")]
    Read {
        /// The file.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// How a medium boots, in names of files that are on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// What the firmware loads.
    pub program: String,
    /// How it does so.
    pub boot: ElToritoEntry,
    /// What the program loads by the numbers of its blocks; `None` if it reads names.
    pub loader: Option<String>,
}

/// Where `pbsraw` has, as three words, the first block of what it loads, how many there are, and their size.
const LOADER_AT: usize = 3;

/// How a medium boots; `tree` is what [`Iso::import`] made of it.
///
/// # Errors
/// [`Plan9Error`].
pub fn chain(medium: &dyn ReadAt, tree: &Tree) -> Result<Chain, Plan9Error> {
    let boot = Iso::open(medium)?.boot()?.filter(|boot| boot.media < 4).ok_or(Plan9Error::NoBoot)?;
    let program = file_at(tree, boot.at).ok_or(Plan9Error::NoBoot)?;
    let mut head = [0; LOADER_AT + 12];
    medium.read_exact_at(boot.at, &mut head).map_err(|source| Plan9Error::Read { path: "pbsraw", source })?;
    let word = |nth: usize| {
        let at = LOADER_AT + 4 * nth;
        u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
    };
    // Any other program has its own code there.
    let numbered = boot.media == 0 && u64::from(word(2)) == BLOCK;
    let loader = numbered.then(|| file_at(tree, u64::from(word(0)) * BLOCK)).flatten();
    Ok(Chain { program, boot, loader })
}

/// The file whose bytes begin at a place of the medium.
fn file_at(tree: &Tree, place: u64) -> Option<String> {
    let begins = |kind: &Kind| {
        match kind {
        Kind::File(content) => content.extents.first().is_some_and(
            |extent| matches!(extent.source, ContentSource::Spool { offset, .. } if offset == place && extent.at == 0),
        ),
        _ => false,
    }
    };
    let (path, _) = tree.walk().find(|(_, id)| begins(&tree.node(*id).kind))?;
    String::from_utf8(path).ok()
}

/// Arguments for xorriso, as mkisofs, by which what is made of a directory with the same files boots in the same way.
pub fn arguments(chain: &Chain) -> Vec<String> {
    let Chain { program, boot, .. } = chain;
    let mut args = vec!["-b".to_owned(), program.clone()];
    if boot.media == 0 {
        args.extend(["-no-emul-boot".into(), "-boot-load-size".into(), boot.sectors.max(1).to_string()]);
    }
    // 9front's program and Plan 9 without Rock Ridge want names as they are: lower-case, no version, no final dot.
    args.extend(["-R", "-N", "-d", "-l", "-allow-lowercase", "--boot-catalog-hide"].map(String::from));
    args
}

/// What has to stand on a medium made anew for its program to find what it loads.
///
/// # Errors
/// [`Plan9Error`].
pub fn relocated(medium: &dyn ReadAt, chain: &Chain) -> Result<Patches, Plan9Error> {
    let Some(loader) = &chain.loader else { return Ok(Patches::new()) };
    let iso = Iso::open(medium)?;
    let find = |path: &str| -> Result<_, Plan9Error> {
        let record = iso.find(path)?.ok_or(Plan9Error::NoBoot)?;
        Ok((record.pieces[0].0, record.len()))
    };
    let (program, _) = find(&chain.program)?;
    let (start, len) = find(loader)?;
    let words = [start / BLOCK, len.div_ceil(BLOCK), BLOCK];
    let word = |word: u64| u32::try_from(word).unwrap_or(u32::MAX).to_le_bytes();
    Ok(vec![(program + LOADER_AT as u64, words.map(word).concat())])
}

/// What makes a medium ask nothing.
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
    let mut text = settings(plan9, own_kernel(&old)).into_bytes();
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
    let text = |old: &[u8]| settings(plan9, own_kernel(old));
    fat::rewrite(medium, record.pieces[0], INI, text)
        .map_err(|source| Plan9Error::Volume { volume: LEGACY_DISK, source })?
        .ok_or_else(|| missing(INI))
}

/// An installed system's disk: the settings are in the FAT volume that its boot sectors read.
fn installed(medium: &dyn ReadAt, plan9: &Plan9) -> Result<Patches, Plan9Error> {
    let failed = |source| Plan9Error::Volume { volume: BOOT_PARTITION, source };
    let missing = |path| Plan9Error::Missing { path, flavour: plan9.flavour };
    let place = boot_partition(medium).map_err(failed)?.ok_or_else(|| missing(BOOT_PARTITION))?;
    let patches = fat::rewrite(medium, place, INI, |old| kept(plan9, old)).map_err(failed)?;
    patches.ok_or_else(|| missing(INI))
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

/// The kernel that the medium's own settings name.
fn own_kernel(ini: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(ini);
    let line = text.lines().find_map(|line| line.trim().strip_prefix("bootfile="))?;
    Some(line.trim().to_owned())
}

/// The settings of an installed system: its own, without questions.
fn kept(plan9: &Plan9, old: &[u8]) -> String {
    if plan9.ini.is_some() {
        return settings(plan9, None);
    }
    let old = String::from_utf8_lossy(old);
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
    text
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
