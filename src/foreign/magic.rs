//! What a file is, by its contents. Its name is no evidence: the cloud's disk called `.img` may be a qcow2.
//!
//! Sources: QEMU's `block/*.c` (the `*_probe` functions and headers), file(1)'s magic, and the formats' specifications.

use std::io;

use crate::ext2::ReadAt;

/// Bytes at the start that are looked at: the descriptor of an ISO 9660 ends before.
const HEAD: u64 = 34 << 10;
/// Bytes at the end that are looked at: the footer of a VHD or of a DMG.
const TAIL: u64 = 512;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// It has to be decompressed first.
    Compressed(Compression),
    /// A disk in a format that qemu-img converts.
    Disk(DiskContainer),
    /// A tar archive that is not compressed.
    Tar,
    /// Another archive, or a disk that can't be converted: what it is, and what to do with it.
    Foreign(&'static str, &'static str),
    /// A file system, or a medium of one.
    FileSystem(&'static str),
    /// Nothing is known about it: text, the sectors of a disk.
    Plain,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Xz,
    Zstd,
    Bzip2,
    Lz4,
    Lzip,
    Lzop,
    /// The `.Z` of compress(1).
    Compress,
}

impl Compression {
    /// The program that writes what is compressed to its standard output, with the arguments `-dc` and a file.
    pub fn program(self) -> &'static str {
        match self {
            Compression::Gzip | Compression::Compress => "gzip",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
            Compression::Bzip2 => "bzip2",
            Compression::Lz4 => "lz4",
            Compression::Lzip => "lzip",
            Compression::Lzop => "lzop",
        }
    }

    /// The log of that program.
    pub fn log(self) -> String {
        format!("{}.log", self.program())
    }
}

/// A disk format of qemu-img.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskContainer {
    Qcow,
    Qcow2,
    Qed,
    Vmdk,
    Vdi,
    Vhdx,
    Vpc,
    Parallels,
    Dmg,
    Bochs,
}

impl DiskContainer {
    /// What qemu-img calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            DiskContainer::Qcow => "qcow",
            DiskContainer::Qcow2 => "qcow2",
            DiskContainer::Qed => "qed",
            DiskContainer::Vmdk => "vmdk",
            DiskContainer::Vdi => "vdi",
            DiskContainer::Vhdx => "vhdx",
            DiskContainer::Vpc => "vpc",
            DiskContainer::Parallels => "parallels",
            DiskContainer::Dmg => "dmg",
            DiskContainer::Bochs => "bochs",
        }
    }
}

const UNPACK: &str = "unpack it, and give the file that is in it";

/// Magic at the start of a file.
const STARTS: &[(&[u8], FileKind)] = &[
    (b"\x1f\x8b\x08", FileKind::Compressed(Compression::Gzip)),
    (b"\xfd7zXZ\0", FileKind::Compressed(Compression::Xz)),
    (b"\x28\xb5\x2f\xfd", FileKind::Compressed(Compression::Zstd)),
    (b"\x04\x22\x4d\x18", FileKind::Compressed(Compression::Lz4)),
    (b"LZIP", FileKind::Compressed(Compression::Lzip)),
    (b"\x89LZO\0\r\n\x1a\n", FileKind::Compressed(Compression::Lzop)),
    (b"\x1f\x9d", FileKind::Compressed(Compression::Compress)),
    (b"QFI\xfb\0\0\0\x01", FileKind::Disk(DiskContainer::Qcow)),
    (b"QFI\xfb", FileKind::Disk(DiskContainer::Qcow2)),
    (b"QED\0", FileKind::Disk(DiskContainer::Qed)),
    (b"KDMV", FileKind::Disk(DiskContainer::Vmdk)),
    (b"COWD", FileKind::Disk(DiskContainer::Vmdk)),
    (b"# Disk DescriptorFile", FileKind::Disk(DiskContainer::Vmdk)),
    (b"vhdxfile", FileKind::Disk(DiskContainer::Vhdx)),
    (b"conectix", FileKind::Disk(DiskContainer::Vpc)),
    (b"WithoutFreeSpace", FileKind::Disk(DiskContainer::Parallels)),
    (b"WithouFreSpacExt", FileKind::Disk(DiskContainer::Parallels)),
    (b"Bochs Virtual HD Image", FileKind::Disk(DiskContainer::Bochs)),
    (
        b"LUKS\xba\xbe",
        FileKind::Foreign("a disk encrypted with LUKS", "give the disk as it is when it is open"),
    ),
    (b"#!/bin/sh\n#V2.0", FileKind::Foreign("a cloop file", "use it as a guest of kind `knoppix`")),
    (b"PK\x03\x04", FileKind::Foreign("a zip archive", UNPACK)),
    (b"PK\x05\x06", FileKind::Foreign("an empty zip archive", UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", FileKind::Foreign("a 7z archive", UNPACK)),
    (b"Rar!\x1a\x07", FileKind::Foreign("a rar archive", UNPACK)),
    (b"xar!", FileKind::Foreign("a xar archive", UNPACK)),
    (b"MSCF\0\0\0\0", FileKind::Foreign("a cab archive", UNPACK)),
    (b"MSWIM\0\0\0", FileKind::Foreign("a wim archive", UNPACK)),
    (b"!<arch>\n", FileKind::Foreign("an ar archive (or a Debian package)", UNPACK)),
    (b"\xed\xab\xee\xdb", FileKind::Foreign("an RPM package", UNPACK)),
    (b"070701", FileKind::Foreign("a cpio archive", UNPACK)),
    (b"070702", FileKind::Foreign("a cpio archive", UNPACK)),
    (b"070707", FileKind::Foreign("a cpio archive", UNPACK)),
    (b"\xc7\x71", FileKind::Foreign("a cpio archive", UNPACK)),
    (b"\x71\xc7", FileKind::Foreign("a cpio archive", UNPACK)),
    (b"WARC/", FileKind::Foreign("a WARC archive", UNPACK)),
    (b"hsqs", FileKind::FileSystem("a squashfs file system")),
];

/// Looks at the start and the end of a file.
///
/// # Errors
/// When it can't be read.
pub fn identify(file: &dyn ReadAt) -> io::Result<FileKind> {
    let size = file.size()?;
    let part = |at: u64, len: u64| {
        let mut bytes = vec![0; usize::try_from(len).expect("34 KiB at most")];
        file.read_exact_at(at, &mut bytes).map(|()| bytes)
    };
    let (head, tail) = (part(0, size.min(HEAD))?, size.min(TAIL));
    Ok(of_bytes(&head, &part(size - tail, tail)?))
}

fn of_bytes(head: &[u8], tail: &[u8]) -> FileKind {
    let at = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    // Blocks follow their size; an empty file has its end there.
    let bzip2 = at(0, b"BZh") && (at(4, b"1AY&SY") || at(4, b"\x17\x72\x45\x38\x50\x90"));
    if bzip2 {
        return FileKind::Compressed(Compression::Bzip2);
    }
    if let Some((_, kind)) = STARTS.iter().find(|(magic, _)| at(0, magic)) {
        return *kind;
    }
    // VDI_SIGNATURE, after a text of 64 bytes.
    if at(64, &0xbeda_107f_u32.to_le_bytes()) {
        return FileKind::Disk(DiskContainer::Vdi);
    }
    if at(257, b"ustar") || is_old_tar(head) {
        return FileKind::Tar;
    }
    // Of the fixed kind, which has no header; and the trailer of UDIF.
    if tail.len() == 512 && tail.starts_with(b"conectix")
        || tail.get(1..).is_some_and(|tail| tail.starts_with(b"conectix"))
    {
        return FileKind::Disk(DiskContainer::Vpc);
    }
    if tail.len() == 512 && tail.starts_with(b"koly") {
        return FileKind::Disk(DiskContainer::Dmg);
    }
    if at(32769, b"CD001") {
        return FileKind::FileSystem("an ISO 9660 medium");
    }
    if at(1080, b"\x53\xef") {
        return FileKind::FileSystem("an ext2, ext3 or ext4 file system");
    }
    FileKind::Plain
}

/// Whether the first block is a header of before 1988, which has no magic: its sum is right. An archive of nothing is
/// all zeros, but so may be the start of a disk.
fn is_old_tar(head: &[u8]) -> bool {
    let Some((header, sum)) = head.get(..512).zip(head.get(148..156)) else { return false };
    let digits = sum.split(|&byte| byte == 0).next().unwrap_or_default().trim_ascii();
    let stored = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 8).ok());
    let bytes = |bytes: &[u8]| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    // The field itself counts as eight spaces.
    header[0] != 0 && stored == Some(bytes(header) - bytes(sum) + 8 * 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_short_for_a_magic_is_plain() {
        for bytes in [&b""[..], b"Q", b"BZh9", b"text", &[0; 511], &[0; 40_000]] {
            assert_eq!(identify(&bytes.to_vec()).unwrap(), FileKind::Plain, "{} bytes", bytes.len());
        }
    }

    /// No program of Debian writes these; and a fixed VHD has nothing at its start.
    #[test]
    fn what_is_at_the_end_or_behind_a_text_is_found() {
        let at = |at: usize, magic: &[u8], len: usize| {
            let mut bytes = vec![0; len];
            bytes[at..at + magic.len()].copy_from_slice(magic);
            identify(&bytes).unwrap()
        };
        assert_eq!(at(99_488, b"koly", 100_000), FileKind::Disk(DiskContainer::Dmg));
        assert_eq!(at(99_488, b"conectix", 100_000), FileKind::Disk(DiskContainer::Vpc));
        assert_eq!(at(0, b"Bochs Virtual HD Image\0", 512), FileKind::Disk(DiskContainer::Bochs));
        assert_eq!(at(32769, b"CD001", 50_000), FileKind::FileSystem("an ISO 9660 medium"));
        assert_eq!(at(99_000, b"koly", 100_000), FileKind::Plain);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(head in proptest::collection::vec(proptest::num::u8::ANY, 0..1200)) {
            identify(&head).unwrap();
        }
    }

    #[test]
    fn no_magic_hides_another() {
        for (number, (magic, kind)) in STARTS.iter().enumerate() {
            let found = STARTS.iter().position(|(other, _)| magic.starts_with(other));
            assert_eq!(found, Some(number), "{kind:?}");
        }
    }
}
