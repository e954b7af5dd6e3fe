//! The medium with blocks: which files of a mirror's tree go onto it, and which discs have room for it.
//!
//! The files keep their paths, below [`MIRROR`]: such a medium is a mirror like any other, to be served by a web
//! server or copied to one. A client reads it before it asks the network.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::publish::ReleaseState;
use formats::block::{BlockName, Object};
use formats::release::{Leaf, MirrorPath};

/// The directory of the medium that is a mirror's tree. GRUB and the miniroot know it too.
pub const MIRROR: &str = "/mirror";

/// Which blocks go onto a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockSelection {
    All,
    /// Those that a boot is known to read: the prefetch lists.
    Prefetch,
}

/// A file on its way onto a medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graft {
    /// Its path on the medium, from the root.
    pub path: String,
    /// Path on this computer.
    pub from: PathBuf,
    /// Its length in bytes.
    pub len: u64,
}

/// What of a mirror goes onto a medium.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediumSelection {
    /// The blocks, in the order in which a boot reads them as far as that is known, then as on the disks.
    pub blocks: Vec<Object>,
    /// All other files: what a client needs to know of a release.
    pub files: Vec<MirrorPath>,
}

impl MediumSelection {
    /// Chooses from a release. `ahead` are the names of all prefetch lists, in their order.
    pub fn of(state: &ReleaseState, ahead: &[BlockName], which: BlockSelection) -> Self {
        let objects = state.objects();
        let mut left: HashMap<BlockName, Object> =
            objects.iter().map(|object| (object.name, *object)).collect();
        // A name of a list that no index has is of no use.
        let mut blocks: Vec<Object> = ahead.iter().filter_map(|name| left.remove(name)).collect();
        if which == BlockSelection::All {
            blocks.extend(objects.iter().filter(|object| left.contains_key(&object.name)));
        }
        // Layouts are for the next build only.
        let files = state.files().into_iter().map(|item| item.path);
        let wanted = |path: &MirrorPath| !matches!(path, MirrorPath::Image(_, _, Leaf::Layout));
        let files = files.filter(wanted).chain([MirrorPath::Mirrors, MirrorPath::Latest]).collect();
        MediumSelection { blocks, files }
    }
}

/// A kind of disc, with the room that every maker's blank has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disc {
    /// A CD of 80 minutes.
    Cd,
    /// One layer; the smaller one of DVD-R and DVD+R.
    Dvd,
    DvdDl,
    /// A single-layer Blu-ray disc.
    Bd,
    /// A dual-layer Blu-ray disc.
    BdDl,
}

impl Disc {
    /// From the smallest on.
    pub const ALL: [Disc; 5] = [Disc::Cd, Disc::Dvd, Disc::DvdDl, Disc::Bd, Disc::BdDl];

    /// As options name it.
    pub const fn name(self) -> &'static str {
        match self {
            Disc::Cd => "cd",
            Disc::Dvd => "dvd",
            Disc::DvdDl => "dvd-dl",
            Disc::Bd => "bd",
            Disc::BdDl => "bd-dl",
        }
    }

    /// Bytes: sectors of 2,048.
    pub const fn bytes(self) -> u64 {
        2048 * match self {
            Disc::Cd => 360_000,
            Disc::Dvd => 2_295_104,
            Disc::DvdDl => 4_171_712,
            Disc::Bd => 12_219_392,
            Disc::BdDl => 24_438_784,
        }
    }

    /// The smallest one with room for so many bytes.
    pub fn for_bytes(bytes: u64) -> Option<Disc> {
        Disc::ALL.into_iter().find(|disc| disc.bytes() >= bytes)
    }
}

impl fmt::Display for Disc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Disc::Cd => "a CD",
            Disc::Dvd => "a DVD",
            Disc::DvdDl => "a dual-layer DVD",
            Disc::Bd => "a Blu-ray disc",
            Disc::BdDl => "a dual-layer Blu-ray disc",
        })
    }
}

/// Text that names no disc.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a disc; use cd, dvd, dvd-dl, bd or bd-dl")]
pub struct BadDisc(String);

impl FromStr for Disc {
    type Err = BadDisc;
    fn from_str(text: &str) -> Result<Self, BadDisc> {
        Disc::ALL.into_iter().find(|disc| disc.name() == text).ok_or_else(|| BadDisc(text.into()))
    }
}

/// Bytes that files of these lengths take on a medium: whole sectors, and entries of directories.
pub fn room(lens: impl IntoIterator<Item = u64>) -> u64 {
    // A record of ISO 9660 with Rock Ridge for a name of 32 letters takes some 160 bytes.
    lens.into_iter().map(|len| len.next_multiple_of(2048) + 160).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_disc_with_room_is_found() {
        for (bytes, disc) in [
            (0, Some(Disc::Cd)),
            (737_280_000, Some(Disc::Cd)),
            (737_280_001, Some(Disc::Dvd)),
            (4_700_372_992, Some(Disc::Dvd)),
            (4_700_372_993, Some(Disc::DvdDl)),
            (8_543_666_176, Some(Disc::DvdDl)),
            (25_025_314_816, Some(Disc::Bd)),
            (50_050_629_632, Some(Disc::BdDl)),
            (50_050_629_633, None),
        ] {
            assert_eq!(Disc::for_bytes(bytes), disc, "{bytes}");
        }
    }

    #[test]
    fn discs_are_known_by_name() {
        for disc in Disc::ALL {
            assert_eq!(disc.name().parse(), Ok(disc));
        }
        assert_eq!(
            "floppy".parse::<Disc>().unwrap_err().to_string(),
            "`floppy` is not a disc; use cd, dvd, dvd-dl, bd or bd-dl"
        );
    }

    #[test]
    fn files_take_whole_sectors() {
        assert_eq!(room([0, 1, 2048, 2049]), 4 * 160 + 4 * 2048);
    }
}
