//! Where a program is, and which Debian package has it.

use std::path::PathBuf;

/// Programs that we call or recommend, and the Debian packages that have them. Sorted by program.
const PACKAGES: &[(&str, &str)] = &[
    ("/usr/lib/apt/apt-helper", "apt"),
    ("apt-config", "apt"),
    ("apt-get", "apt"),
    ("busybox", "busybox-static"),
    ("bzip2", "bzip2"),
    ("debugfs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("fsck.fat", "dosfstools"),
    ("fusermount3", "fuse3"),
    ("gpg", "gpg"),
    ("gpgv", "gpgv"),
    ("grub-file", "grub-common"),
    ("grub-mkimage", "grub-common"),
    ("losetup", "mount"),
    ("lz4", "lz4"),
    ("lzip", "lzip"),
    ("lzop", "lzop"),
    ("mdir", "mtools"),
    ("minisign", "minisign"),
    ("mke2fs", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("mount", "mount"),
    ("newgidmap", "uidmap"),
    ("newuidmap", "uidmap"),
    ("nginx", "nginx"),
    ("qemu-img", "qemu-utils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("rsync", "rsync"),
    ("sgdisk", "gdisk"),
    ("sqfs2tar", "squashfs-tools-ng"),
    ("tar", "tar"),
    ("uml_moo", "uml-utilities"),
    ("unshare", "util-linux"),
    ("xorriso", "xorriso"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// The Debian package that has a program, if we know it.
pub fn package_of(program: &str) -> Option<&'static str> {
    let at = PACKAGES.binary_search_by_key(&program, |(program, _)| program).ok()?;
    Some(PACKAGES[at].1)
}

/// Looks a program up in `PATH`, then where Debian keeps an administrator's programs, which an ordinary user's
/// `PATH` leaves out.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    places
        .map(|place| place.join(program))
        .find(|found| found.is_file() && rustix::fs::access(found, rustix::fs::Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_sorted_so_that_the_search_finds_each() {
        assert!(PACKAGES.is_sorted());
        for (program, package) in PACKAGES {
            assert_eq!(package_of(program), Some(*package));
        }
    }
}
