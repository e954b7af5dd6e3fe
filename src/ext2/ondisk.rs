//! Superblock, group descriptor and inode: every field that is written or read, at its offset.
//!
//! Names and offsets are those of e2fsprogs' `lib/ext2fs/ext2_fs.h`. All integers are little-endian. What a
//! structure here does not name is written as zeros and ignored when read.

use crate::tree::FileTime;

/// A value at a fixed offset of an on-disk structure.
trait Field: Sized {
    const LEN: usize;
    /// `bytes` has `LEN` bytes.
    fn get(bytes: &[u8]) -> Self;
    /// `bytes` has `LEN` bytes.
    fn put(&self, bytes: &mut [u8]);
    /// Decimal; arrays of bytes in hex.
    fn show(&self) -> String;
}

macro_rules! integer_field {
    ($($int:ty),+) => {$(
        impl Field for $int {
            const LEN: usize = size_of::<$int>();
            fn get(bytes: &[u8]) -> Self {
                let mut le = [0; size_of::<$int>()];
                le.copy_from_slice(bytes);
                <$int>::from_le_bytes(le)
            }
            fn put(&self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+};
}
integer_field!(u8, u16, u32);

impl<T: Field + Copy + Default, const N: usize> Field for [T; N] {
    const LEN: usize = N * T::LEN;
    fn get(bytes: &[u8]) -> Self {
        let mut values = [T::default(); N];
        for (value, part) in values.iter_mut().zip(bytes.chunks_exact(T::LEN)) {
            *value = T::get(part);
        }
        values
    }
    fn put(&self, bytes: &mut [u8]) {
        for (value, part) in self.iter().zip(bytes.chunks_exact_mut(T::LEN)) {
            value.put(part);
        }
    }
    fn show(&self) -> String {
        let mut bytes = vec![0; Self::LEN];
        self.put(&mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Declares a structure by its offsets, and with them `decode`, `encode` and the table `FIELDS`.
macro_rules! on_disk {
    ($(#[$doc:meta])* pub struct $name:ident [$size:literal] {
        $($(#[$field_doc:meta])* $offset:literal $field:ident: $type:ty,)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)+
        }

        impl $name {
            /// Bytes of the structure on disk.
            pub const SIZE: usize = $size;
            /// Name, offset and length in bytes of each field, in the order of the offsets.
            pub const FIELDS: &'static [(&'static str, usize, usize)] =
                &[$((stringify!($field), $offset, <$type as Field>::LEN)),+];

            /// From its bytes; any bytes are a value.
            pub fn decode(bytes: &[u8; $size]) -> Self {
                $name { $($field: <$type>::get(&bytes[$offset..$offset + <$type as Field>::LEN]),)+ }
            }

            /// The structure's bytes as they are on disk, little-endian.
            pub fn encode(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                $(self.$field.put(&mut bytes[$offset..$offset + <$type as Field>::LEN]);)+
                bytes
            }

            /// Each field's name and its value as text: decimal, arrays in hex as on disk.
            pub fn show(&self) -> Vec<(&'static str, String)> {
                vec![$((stringify!($field), self.$field.show()),)+]
            }
        }
    };
}

on_disk! {
    /// `struct ext2_super_block`: 1024 bytes into the image, and at the start of each backup group.
    pub struct Superblock[1024] {
        /// Inodes in all groups.
        0x000 s_inodes_count: u32,
        /// Blocks in the file system.
        0x004 s_blocks_count: u32,
        /// Blocks that only the superuser may take.
        0x008 s_r_blocks_count: u32,
        /// Blocks that are free.
        0x00c s_free_blocks_count: u32,
        /// Inodes that are free.
        0x010 s_free_inodes_count: u32,
        /// Block of the superblock: 1 with 1 KiB blocks, otherwise 0.
        0x014 s_first_data_block: u32,
        /// Block size is 1024 << this.
        0x018 s_log_block_size: u32,
        /// Fragment size, equal to the block size.
        0x01c s_log_frag_size: u32,
        /// Blocks in each group but the last.
        0x020 s_blocks_per_group: u32,
        /// Fragments in each group.
        0x024 s_frags_per_group: u32,
        /// Inodes in each group.
        0x028 s_inodes_per_group: u32,
        /// Last mount, seconds since 1970.
        0x02c s_mtime: u32,
        /// Last write, seconds since 1970.
        0x030 s_wtime: u32,
        /// Mounts since the last check.
        0x034 s_mnt_count: u16,
        /// Mounts until a check is due; 0xffff for never.
        0x036 s_max_mnt_count: u16,
        /// [`MAGIC`].
        0x038 s_magic: u16,
        /// 1 for clean.
        0x03a s_state: u16,
        /// On errors: 1 continue, 2 remount read-only, 3 panic.
        0x03c s_errors: u16,
        /// Minor revision, 0.
        0x03e s_minor_rev_level: u16,
        /// Last check, seconds since 1970.
        0x040 s_lastcheck: u32,
        /// Seconds until a check is due; 0 for never.
        0x044 s_checkinterval: u32,
        /// 0 for Linux.
        0x048 s_creator_os: u32,
        /// 0 for inodes of 128 bytes and no features, 1 for what follows.
        0x04c s_rev_level: u32,
        /// Who may take reserved blocks.
        0x050 s_def_resuid: u16,
        /// Who may take reserved blocks.
        0x052 s_def_resgid: u16,
        /// First inode that is not reserved.
        0x054 s_first_ino: u32,
        /// Bytes of an inode.
        0x058 s_inode_size: u16,
        /// Group that this copy is in.
        0x05a s_block_group_nr: u16,
        /// Features that writers and readers may ignore.
        0x05c s_feature_compat: u32,
        /// Features that readers must know.
        0x060 s_feature_incompat: u32,
        /// Features that writers must know.
        0x064 s_feature_ro_compat: u32,
        /// UUID of the file system.
        0x068 s_uuid: [u8; 16],
        /// Label, padded with NUL.
        0x078 s_volume_name: [u8; 16],
        /// Seed of the hashes of indexed directories.
        0x0ec s_hash_seed: [u8; 16],
        /// Hash of indexed directories: 1 for half MD4.
        0x0fc s_def_hash_version: u8,
        /// Mount options: 4 user_xattr, 8 acl.
        0x100 s_default_mount_opts: u32,
        /// When the file system was made, seconds since 1970.
        0x108 s_mkfs_time: u32,
        /// Extra bytes that every inode has beyond 128.
        0x15c s_min_extra_isize: u16,
        /// Extra bytes that new inodes should have.
        0x15e s_want_extra_isize: u16,
        /// 1: directory hashes treat `char` as signed.
        0x160 s_flags: u32,
        /// Blocks of group metadata.
        0x248 s_overhead_blocks: u32,
        /// Bits 32 to 39 of `s_wtime`.
        0x274 s_wtime_hi: u8,
        /// Bits 32 to 39 of `s_mkfs_time`.
        0x276 s_mkfs_time_hi: u8,
        /// Bits 32 to 39 of `s_lastcheck`.
        0x277 s_lastcheck_hi: u8,
    }
}

on_disk! {
    /// `struct ext2_group_desc`: one for each group, from the block after the superblock on.
    pub struct GroupDesc[32] {
        /// Block of the block bitmap.
        0x00 bg_block_bitmap: u32,
        /// Block of the inode bitmap.
        0x04 bg_inode_bitmap: u32,
        /// First block of the inode table.
        0x08 bg_inode_table: u32,
        /// Blocks of the group that are free.
        0x0c bg_free_blocks_count: u16,
        /// Inodes of the group that are free.
        0x0e bg_free_inodes_count: u16,
        /// Inodes of the group that are directories.
        0x10 bg_used_dirs_count: u16,
    }
}

impl GroupDesc {
    /// Positions alone, as in the copies.
    pub fn without_counts(&self) -> Self {
        GroupDesc { bg_free_blocks_count: 0, bg_free_inodes_count: 0, bg_used_dirs_count: 0, ..*self }
    }
}

on_disk! {
    /// `struct ext2_inode_large`, the part before attributes; the first 128 bytes are all of a small inode.
    pub struct Inode[160] {
        0x00 i_mode: u16,
        /// Bits 0 to 15 of the owner.
        0x02 i_uid: u16,
        /// Bits 0 to 31 of the size in bytes.
        0x04 i_size: u32,
        /// Last access, see [`decode_time`].
        0x08 i_atime: u32,
        /// Last change of the inode.
        0x0c i_ctime: u32,
        /// Last change of the contents.
        0x10 i_mtime: u32,
        /// Deletion; 0 for an inode in use.
        0x14 i_dtime: u32,
        /// Bits 0 to 15 of the group.
        0x18 i_gid: u16,
        /// Directory entries that refer to this inode.
        0x1a i_links_count: u16,
        /// Blocks in use, indirect and attribute blocks too, in units of 512 bytes.
        0x1c i_blocks: u32,
        /// Flags, see [`UNREADABLE_FLAGS`].
        0x20 i_flags: u32,
        /// 12 direct blocks, then the indirect, double and triple indirect one; or the target of a short
        /// symlink; or a device number.
        0x28 i_block: [u32; 15],
        /// For NFS.
        0x64 i_generation: u32,
        /// Attribute block, 0 for none.
        0x68 i_file_acl: u32,
        /// Bits 32 to 63 of the size of a regular file (`i_dir_acl` of old).
        0x6c i_size_high: u32,
        /// Bits 16 to 31 of the owner (`osd2.linux2.l_i_uid_high`).
        0x78 i_uid_high: u16,
        /// Bits 16 to 31 of the group (`osd2.linux2.l_i_gid_high`).
        0x7a i_gid_high: u16,
        /// Bytes in use beyond 128, before attributes.
        0x80 i_extra_isize: u16,
        /// More of `i_ctime`.
        0x84 i_ctime_extra: u32,
        /// More of `i_mtime`.
        0x88 i_mtime_extra: u32,
        /// More of `i_atime`.
        0x8c i_atime_extra: u32,
        /// When the inode was made.
        0x90 i_crtime: u32,
        /// More of `i_crtime`.
        0x94 i_crtime_extra: u32,
    }
}

/// `s_magic`.
pub const MAGIC: u16 = 0xef53;

/// Bytes of a small inode, and of the part that all inodes have (`EXT2_GOOD_OLD_INODE_SIZE`).
pub const OLD_INODE_SIZE: usize = 128;

/// `s_feature_compat`: extended attributes.
pub const COMPAT_EXT_ATTR: u32 = 0x0008;
/// `s_feature_incompat`: directory entries carry the type.
pub const INCOMPAT_FILETYPE: u32 = 0x0002;
/// `s_feature_ro_compat`: superblock copies only in groups 0, 1 and powers of 3, 5 and 7.
pub const RO_COMPAT_SPARSE_SUPER: u32 = 0x0001;
/// `s_feature_ro_compat`: files of 2 GiB and more.
pub const RO_COMPAT_LARGE_FILE: u32 = 0x0002;

/// Bits of `s_feature_incompat` by the names that `dumpe2fs` gives them.
pub const INCOMPAT_NAMES: [(u32, &str); 17] = [
    (0x0001, "compression"),
    (0x0002, "filetype"),
    (0x0004, "needs_recovery"),
    (0x0008, "journal_dev"),
    (0x0010, "meta_bg"),
    (0x0040, "extents"),
    (0x0080, "64bit"),
    (0x0100, "mmp"),
    (0x0200, "flex_bg"),
    (0x0400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
    (0x8_0000, "fast_symlink_csum"),
];

/// `i_flags` that change how contents are kept: compressed (0x200), encrypted (0x800), extents (0x80000),
/// an attribute's value (0x200000), inline data (0x10000000).
pub const UNREADABLE_FLAGS: u32 = 0x1028_0a00;

/// Type bits of `i_mode`.
pub const S_IFMT: u16 = 0o170_000;
/// Named pipe.
pub const S_IFIFO: u16 = 0o010_000;
/// Character device.
pub const S_IFCHR: u16 = 0o020_000;
/// Directory.
pub const S_IFDIR: u16 = 0o040_000;
/// Block device.
pub const S_IFBLK: u16 = 0o060_000;
/// Regular file.
pub const S_IFREG: u16 = 0o100_000;
/// Symbolic link.
pub const S_IFLNK: u16 = 0o120_000;
/// Socket.
pub const S_IFSOCK: u16 = 0o140_000;

/// A symlink shorter than this is kept in `i_block`.
pub const FAST_SYMLINK: usize = 60;

/// Last second that is written: 2310-04-04 16:10:39. The fields reach 2446, but e2fsck takes what has bit 31 of the
/// low and both bits of the extra field set for a time before 1970, written by an old and faulty kernel.
const TIME_MAX: i64 = (2 << 32) + i32::MAX as i64;
/// First second that an inode holds: in the year 1901.
const TIME_MIN: i64 = i32::MIN as i64;

/// A time as `i_mtime` and `i_mtime_extra`. What the fields can't hold becomes the nearest time that they
/// can: 1901 to 2310, or to 2038 and whole seconds if not `extra`.
pub fn encode_time(time: FileTime, extra: bool) -> (u32, u32) {
    let max = if extra { TIME_MAX } else { i64::from(i32::MAX) };
    let clamped = time.secs.clamp(TIME_MIN, max);
    let nanos = if clamped == time.secs && extra { time.nanos } else { 0 };
    // The low half holds a signed 32-bit time; the extra field has what must be added to it, in 2^32 s.
    let [a, b, c, d, ..] = clamped.to_le_bytes();
    let low = [a, b, c, d];
    let epoch = ((clamped - i64::from(i32::from_le_bytes(low))) >> 32) & 3;
    let epoch = u32::try_from(epoch).expect("two bits");
    (u32::from_le_bytes(low), if extra { nanos << 2 | epoch } else { 0 })
}

/// The time that `i_mtime` and `i_mtime_extra` hold. Nanoseconds of 10^9 and more are damage that the kernel
/// also lets pass; they are cut to 999,999,999.
pub fn decode_time(low: u32, extra: u32) -> FileTime {
    let secs = i64::from(i32::from_le_bytes(low.to_le_bytes())) + (i64::from(extra & 3) << 32);
    FileTime { secs, nanos: (extra >> 2).min(999_999_999) }
}

/// A device number as `i_block[0]` and `i_block[1]`: the first if both parts are below 256, otherwise the
/// second (the kernel's `old_encode_dev` and `new_encode_dev`). `None` above 4,095 or 1,048,575.
pub fn encode_device(major: u32, minor: u32) -> Option<(u32, u32)> {
    if major < 256 && minor < 256 {
        Some((major << 8 | minor, 0))
    } else if major < 1 << 12 && minor < 1 << 20 {
        Some((0, minor & 0xff | major << 8 | (minor & !0xff) << 12))
    } else {
        None
    }
}

/// A device number as NetBSD has it in `i_block[0]`, its own `dev_t`: the major number in bits 8 to 19, the minor
/// one in bits 0 to 7 and 20 to 31 (NetBSD's sys/sys/types.h, `makedev`). With both below 256 that is what Linux
/// writes, too. `None` above 4,095 or 1,048,575.
pub fn encode_netbsd_device(major: u32, minor: u32) -> Option<u32> {
    let possible = major < 1 << 12 && minor < 1 << 20;
    possible.then_some(major << 8 | minor & 0xff | (minor & !0xff) << 12)
}

/// Major and minor number from `i_block[0]` and `i_block[1]`.
pub fn decode_device(old: u32, new: u32) -> (u32, u32) {
    if old != 0 {
        (old >> 8 & 0xff, old & 0xff)
    } else {
        (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00)
    }
}

impl Inode {
    /// Size in bytes; the high half counts for regular files only.
    pub fn size(&self) -> u64 {
        let high = if self.i_mode & S_IFMT == S_IFREG { self.i_size_high } else { 0 };
        u64::from(high) << 32 | u64::from(self.i_size)
    }

    /// The owner, from `i_uid` and `l_i_uid_high`.
    pub fn uid(&self) -> u32 {
        u32::from(self.i_uid_high) << 16 | u32::from(self.i_uid)
    }

    /// The group, from `i_gid` and `l_i_gid_high`.
    pub fn gid(&self) -> u32 {
        u32::from(self.i_gid_high) << 16 | u32::from(self.i_gid)
    }
}
