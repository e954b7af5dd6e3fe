//! How a Plan 9 medium boots, by files that a new medium has in other places: 9front's program reads ISO 9660 itself;
//! 9legacy's `pbsraw` has the place of `9load` in it ([`relocated`]).

use super::{BLOCK, Plan9Error};
use crate::ext2::ReadAt;
use crate::foreign::fat::Patches;
use crate::foreign::iso9660::{ElToritoEntry, Iso};
use crate::tree::{ContentSource, Kind, Tree};

/// How a medium boots, in names of files that are on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootChain {
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
pub fn chain(medium: &dyn ReadAt, tree: &Tree) -> Result<BootChain, Plan9Error> {
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
    Ok(BootChain { program, boot, loader })
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
pub fn arguments(chain: &BootChain) -> Vec<String> {
    let BootChain { program, boot, .. } = chain;
    let mut args = vec!["-b".to_owned(), program.clone()];
    if boot.media == 0 {
        args.extend(["-no-emul-boot".into(), "-boot-load-size".into(), boot.sectors.max(1).to_string()]);
    }
    // 9front's program and Plan 9 without Rock Ridge want names as they are: lower-case, no version, no final dot.
    args.extend(["-R", "-N", "-d", "-l", "-allow-lowercase", "--boot-catalog-hide"].map(String::from));
    args
}

/// What has to be changed on the new medium, so that its program finds what it loads.
///
/// # Errors
/// [`Plan9Error`].
pub fn relocated(medium: &dyn ReadAt, chain: &BootChain) -> Result<Patches, Plan9Error> {
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
