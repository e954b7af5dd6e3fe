//! The EFI system partition: a small FAT image with the program that UEFI firmware starts.
//!
//! FAT12, which the UEFI specification (section 13.3) has for removable media: for a megabyte it costs a few
//! kilobytes. The bytes depend on the files only.

use std::io::{self, Cursor, Read, Write};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};

use crate::foreign::fat::Epoch;

/// Where 64-bit UEFI firmware looks for a program on removable media.
pub const REMOVABLE_BOOT: &str = "EFI/BOOT/BOOTX64.EFI";

/// Bytes of a sector.
const SECTOR: usize = 512;
/// The image is whole CD sectors, for El Torito.
const CD_SECTOR: usize = 2048;
/// Entries of the root directory: one sector of 32 bytes each.
const ROOT_ENTRIES: u16 = 16;
/// FAT12 ends at 4,084 clusters. Rounding the image up to CD sectors may add a few more.
const MAX_CLUSTERS: usize = 4000;
/// The crate makes no volume of fewer than 11 sectors.
const MIN_BYTES: usize = 16 * SECTOR;
/// The largest cluster that all readers know.
const MAX_CLUSTER: usize = 32 << 10;

/// A file to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspFile<'a> {
    /// From the root, names separated by `/`, with none at the beginning.
    pub path: &'a str,
    pub bytes: &'a [u8],
}

/// Why there is no ESP.
#[derive(Debug, thiserror::Error)]
pub enum EspError {
    /// More than FAT12 holds.
    #[error("ESP: needs {bytes} bytes, but at most {} are possible", MAX_CLUSTERS * MAX_CLUSTER)]
    TooLarge {
        /// Bytes of all files and directories.
        bytes: usize,
    },
    /// A path that FAT can't have, or that is there twice.
    #[error("ESP: {path}: can't write it")]
    File { path: String, source: io::Error },
    /// A file that is not there, or can't be read.
    #[error("ESP: {path}: can't read it")]
    Read { path: String, source: io::Error },
    /// The file system itself could not be made.
    #[error("ESP: can't create it")]
    Volume(#[source] io::Error),
}

/// Makes the image. `id` is the volume's serial number. Files are written in the given order.
///
/// # Errors
/// [`EspError`].
pub fn build(files: &[EspFile<'_>], id: u32) -> Result<Vec<u8>, EspError> {
    let layout = EspLayout::of(files)?;
    let mut image = vec![0; layout.bytes];
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat12)
        .bytes_per_cluster(layout.cluster)
        .max_root_dir_entries(ROOT_ENTRIES)
        .volume_id(id)
        .volume_label(*b"IMGFACTORY ");
    fatfs::format_volume(Cursor::new(&mut image), options).map_err(EspError::Volume)?;
    let volume = FileSystem::new(Cursor::new(&mut image), FsOptions::new().time_provider(&Epoch))
        .map_err(EspError::Volume)?;
    {
        let root = volume.root_dir();
        for EspFile { path, bytes } in files {
            let failed = |source| EspError::File { path: (*path).to_owned(), source };
            for (end, _) in path.match_indices('/') {
                root.create_dir(&path[..end]).map_err(failed)?;
            }
            if root.open_file(path).is_ok() {
                return Err(failed(io::ErrorKind::AlreadyExists.into()));
            }
            let mut file = root.create_file(path).map_err(failed)?;
            file.write_all(bytes).map_err(failed)?;
        }
    }
    volume.unmount().map_err(EspError::Volume)?;
    straighten(&mut image);
    Ok(image)
}

/// A file of an image that [`build`] has made.
///
/// # Errors
/// [`EspError`].
pub fn read(image: &mut [u8], path: &str) -> Result<Vec<u8>, EspError> {
    let volume = FileSystem::new(Cursor::new(image), FsOptions::new()).map_err(EspError::Volume)?;
    let mut bytes = Vec::new();
    let read = volume.root_dir().open_file(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|source| EspError::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// How large the image and its clusters are.
#[derive(Debug, PartialEq, Eq)]
struct EspLayout {
    bytes: usize,
    cluster: u32,
}

impl EspLayout {
    /// The smallest clusters of which FAT12 has enough, and room for all that is to be stored.
    fn of(files: &[EspFile<'_>]) -> Result<Self, EspError> {
        let mut cluster = SECTOR;
        loop {
            let clusters = EspLayout::clusters(files, cluster);
            if clusters <= MAX_CLUSTERS {
                // Twelve bits a cluster, and for the two that do not exist.
                let fat = ((clusters + 2) * 3).div_ceil(2).div_ceil(SECTOR);
                // One boot sector, two FATs, the root directory's sector, the clusters.
                let bytes = (1 + 2 * fat + 1) * SECTOR + clusters * cluster;
                let cluster = u32::try_from(cluster).expect("at most MAX_CLUSTER");
                return Ok(EspLayout { bytes: bytes.max(MIN_BYTES).next_multiple_of(CD_SECTOR), cluster });
            }
            if cluster == MAX_CLUSTER {
                return Err(EspError::TooLarge { bytes: clusters * cluster });
            }
            cluster *= 2;
        }
    }

    /// An upper bound: a directory is counted once for every file below it, with one entry of the longest name.
    fn clusters(files: &[EspFile<'_>], cluster: usize) -> usize {
        /// 255 characters in entries of 13, and the short name's own.
        const LONGEST_NAME: usize = (255usize.div_ceil(13) + 1) * 32;
        let directory = |depth: usize| depth * (2 * 32 + LONGEST_NAME).div_ceil(cluster);
        let of = |file: &EspFile<'_>| {
            file.bytes.len().div_ceil(cluster) + directory(file.path.matches('/').count())
        };
        files.iter().map(of).sum()
    }
}

/// Bytes of a directory entry.
const ENTRY: usize = 32;

/// Puts the entries `.` and `..` of every directory where the specification (Microsoft, FAT 1.03, "FAT Directory
/// Structure") has them: first and second. The crate gives each of them a long name too, one entry before it, and
/// fsck.fat rightly objects. The two slots that get free are marked as deleted.
fn straighten(image: &mut [u8]) {
    // BPB_SecPerClus, BPB_RsvdSecCnt, BPB_NumFATs, BPB_RootEntCnt, BPB_FATSz16.
    let word = |image: &[u8], at: usize| usize::from(u16::from_le_bytes([image[at], image[at + 1]]));
    let cluster_bytes = usize::from(image[13]) * SECTOR;
    let fat = word(image, 14) * SECTOR;
    let root = fat + usize::from(image[16]) * word(image, 22) * SECTOR;
    let data = root + word(image, 17) * ENTRY;
    let place = |cluster: usize| data + (cluster - 2) * cluster_bytes;

    // Parts of directories yet to be read, from where to where.
    let mut parts = vec![(root, data)];
    while let Some((begin, end)) = parts.pop() {
        for entry in (begin..end).step_by(ENTRY) {
            // DIR_Name, DIR_Attr: a directory, neither itself nor its parent, nor deleted, nor a free slot.
            if image[entry + 11] != 0x10 || matches!(image[entry], b'.' | 0xe5 | 0) {
                continue;
            }
            let mut cluster = word(image, entry + 26);
            let first = place(cluster);
            // Long, `.`, long, `..` -> `.`, `..`, deleted, deleted.
            image.copy_within(first + ENTRY..first + 2 * ENTRY, first);
            image.copy_within(first + 3 * ENTRY..first + 4 * ENTRY, first + ENTRY);
            image[first + 2 * ENTRY] = 0xe5;
            image[first + 3 * ENTRY] = 0xe5;
            while (2..0xff0).contains(&cluster) {
                parts.push((place(cluster), place(cluster) + cluster_bytes));
                let both = word(image, fat + cluster * 3 / 2);
                cluster = if cluster % 2 == 0 { both & 0xfff } else { both >> 4 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// All files of an image, with their bytes, sorted.
    fn read_back(image: &mut Vec<u8>) -> Vec<(String, Vec<u8>)> {
        fn walk(dir: &fatfs::Dir<'_, Cursor<&mut Vec<u8>>>, above: &str, found: &mut Vec<(String, Vec<u8>)>) {
            for entry in dir.iter().map(Result::unwrap).filter(|entry| !entry.file_name().starts_with('.')) {
                let path = format!("{above}{}", entry.file_name());
                if entry.is_dir() {
                    walk(&entry.to_dir(), &format!("{path}/"), found);
                } else {
                    let mut bytes = Vec::new();
                    entry.to_file().read_to_end(&mut bytes).unwrap();
                    found.push((path, bytes));
                }
            }
        }
        let volume = FileSystem::new(Cursor::new(image), FsOptions::new()).unwrap();
        let mut found = Vec::new();
        walk(&volume.root_dir(), "", &mut found);
        found.sort();
        found
    }

    #[test]
    fn files_come_back_with_their_long_names() {
        let large = vec![7; 3 << 20];
        let files = [
            EspFile { path: REMOVABLE_BOOT, bytes: &large },
            EspFile { path: "EFI/a rather long name that needs entries of its own.text", bytes: b"long" },
            EspFile { path: "empty", bytes: b"" },
        ];
        let mut image = build(&files, 1).unwrap();
        assert_eq!(image.len() % CD_SECTOR, 0);
        let mut expected: Vec<(String, Vec<u8>)> =
            files.iter().map(|file| (file.path.to_owned(), file.bytes.to_vec())).collect();
        expected.sort();
        assert_eq!(read_back(&mut image), expected);
    }

    #[test]
    fn directories_of_many_clusters_begin_with_themselves_and_their_parent() {
        let names: Vec<String> = (0..40).map(|n| format!("one/two/{}{n:02}", "long ".repeat(20))).collect();
        let files: Vec<EspFile<'_>> =
            names.iter().map(|path| EspFile { path, bytes: path.as_bytes() }).collect();
        let mut image = build(&files, 1).unwrap();
        let found: Vec<String> = read_back(&mut image).into_iter().map(|(path, _)| path).collect();
        assert_eq!(found, names);
        let volume = FileSystem::new(Cursor::new(&mut image), FsOptions::new()).unwrap();
        for path in ["one", "one/two"] {
            let dir = volume.root_dir().open_dir(path).unwrap();
            let first: Vec<String> = dir.iter().take(2).map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(first, [".", ".."], "{path}");
        }
    }

    #[test]
    fn the_room_suffices_for_every_size_and_little_is_wasted() {
        for len in [0, 1, 511, 512, 513, 1_000_000, 2_040_000, 2_050_000, 2_090_000, 4 << 20, 60 << 20] {
            let bytes = vec![1; len];
            let image = build(&[EspFile { path: REMOVABLE_BOOT, bytes: &bytes }], 1).unwrap();
            assert!(image.len() <= len + len / 50 + (16 << 10), "{} for {len}", image.len());
        }
    }

    #[test]
    fn the_same_files_and_id_give_the_same_bytes_and_another_id_others() {
        let of = |id| build(&[EspFile { path: REMOVABLE_BOOT, bytes: b"MZ" }], id).unwrap();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn what_fat_cannot_have_is_refused() {
        for (files, said) in [
            (vec![EspFile { path: "a:b", bytes: b"" }], "ESP: a:b: can't write it"),
            (
                vec![EspFile { path: "A", bytes: b"" }, EspFile { path: "a", bytes: b"" }],
                "ESP: a: can't write it",
            ),
            (
                vec![EspFile { path: "a", bytes: &vec![0; 134 << 20] }],
                "ESP: needs 140509184 bytes, but at most 131072000 are possible",
            ),
        ] {
            assert_eq!(build(&files, 1).unwrap_err().to_string(), said);
        }
    }
}
