//! Extended attributes: in the inode where they fit, otherwise in a block of their own.
//!
//! Both places have a list of entries growing up and their values growing down from the end. An entry is
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | u8 | `e_name_len` |
//! | 1 | u8 | `e_name_index`: which prefix the name had |
//! | 2 | u16 | `e_value_offs`: from the first entry in an inode, from the start of a block |
//! | 4 | u32 | `e_value_block` (`e_value_inum` of late), 0 |
//! | 8 | u32 | `e_value_size` |
//! | 12 | u32 | `e_hash`: of name and value in a block, 0 in an inode |
//! | 16 | bytes | name without its prefix, padded to 4 |
//!
//! and four zero bytes end the list. An inode's list stands behind the magic, a block's behind a header of
//! 32 bytes: `h_magic`, `h_refcount`, `h_blocks` = 1, `h_hash`.
//!
//! ACLs differ between here and the system calls: on disk (version 1) the entries of owner, group, mask and
//! others have no id.

use std::collections::BTreeMap;

/// `h_magic`, and what stands before the entries in an inode (`EXT2_EXT_ATTR_MAGIC`).
pub const MAGIC: u32 = 0xea02_0000;

/// Bytes before the entries in a block.
pub const BLOCK_HEADER: usize = 32;

/// Most inodes that share a block (the kernel's `EXT4_XATTR_REFCOUNT_MAX`).
pub const REFCOUNT_MAX: u32 = 1024;

/// Index of `system.posix_acl_access`, the whole name.
const ACL_ACCESS: u8 = 2;
/// Index of `system.posix_acl_default`, the whole name.
const ACL_DEFAULT: u8 = 3;

/// Prefixes by `e_name_index`. `system.` comes last: the ones before it are parts of it.
const PREFIXES: [(u8, &[u8]); 8] = [
    (1, b"user."),
    (ACL_ACCESS, b"system.posix_acl_access"),
    (ACL_DEFAULT, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
    (8, b"system.richacl"),
    (10, b"gnu."),
    (7, b"system."),
];

/// An attribute as it is on disk. Their order is the kernel's: by index, length of the name, name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attr {
    /// `e_name_index`.
    pub index: u8,
    pub name: Vec<u8>,
    /// Value; ACLs in their on-disk form.
    pub value: Vec<u8>,
}

/// Why an attribute can't be put into an ext2 file system.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadXattr {
    /// The prefix is none of those that have a number.
    #[error(
        "attribute `{name}` can't be stored; ext2 supports only the prefixes user, trusted, security and system"
    )]
    Prefix { name: String },
    /// The name without prefix is empty, longer than 255 bytes or has a NUL.
    #[error("`{name}` can't be the name of an attribute")]
    Name { name: String },
    /// An ACL that is not in the kernel's form, version 2 and entries of 8 bytes.
    #[error("attribute `{name}` is not an ACL in the kernel's form")]
    Acl { name: String },
    /// Inode and block together are too small.
    #[error("{bytes} bytes of attributes; one block holds {room}")]
    TooLarge {
        /// What the entries and values that are not in the inode take.
        bytes: usize,
        /// What would be the most.
        room: usize,
    },
}

/// What is wrong with attributes on disk.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadEntry {
    /// A block does not begin with the magic.
    #[error("the attribute block has no magic number")]
    Magic,
    /// `h_blocks` is not 1.
    #[error("the attribute block has {blocks} blocks; 1 is possible")]
    Blocks { blocks: u32 },
    /// The list has no end.
    #[error("the list of attributes has no end")]
    End,
    /// A value lies outside.
    #[error("the value of attribute `{name}` is outside the block")]
    Value { name: String },
    /// A value is elsewhere: feature `ea_inode`, which the file system does not have.
    #[error("the value of attribute `{name}` is in another inode")]
    Elsewhere { name: String },
    /// An index without a prefix.
    #[error("no attribute prefix has number {index}")]
    Index {
        /// What the entry says.
        index: u8,
    },
    /// An ACL that is not in the on-disk form.
    #[error("attribute `{name}` is not an ACL")]
    Acl { name: String },
}

impl Attr {
    /// From the full name and the value as system calls give them.
    ///
    /// # Errors
    /// [`BadXattr`], but not `TooLarge`.
    pub fn new(full_name: &[u8], value: &[u8]) -> Result<Attr, BadXattr> {
        let name = || String::from_utf8_lossy(full_name).into_owned();
        let found = PREFIXES.iter().find(|(_, prefix)| full_name.starts_with(prefix));
        let (index, prefix) = found.ok_or_else(|| BadXattr::Prefix { name: name() })?;
        let rest = &full_name[prefix.len()..];
        let whole = !prefix.ends_with(b".");
        if rest.is_empty() != whole || rest.len() > 255 || rest.contains(&0) {
            return Err(BadXattr::Name { name: name() });
        }
        let value = match *index {
            ACL_ACCESS | ACL_DEFAULT => acl_to_disk(value).ok_or_else(|| BadXattr::Acl { name: name() })?,
            _ => value.to_vec(),
        };
        Ok(Attr { index: *index, name: rest.to_vec(), value })
    }

    /// The full name and the value as system calls give them.
    ///
    /// # Errors
    /// [`BadEntry::Index`], [`BadEntry::Acl`].
    pub fn to_system(&self) -> Result<(Vec<u8>, Vec<u8>), BadEntry> {
        let found = PREFIXES.iter().find(|(index, _)| *index == self.index);
        let (index, prefix) = found.ok_or(BadEntry::Index { index: self.index })?;
        let name = [prefix, &self.name[..]].concat();
        let value = match *index {
            ACL_ACCESS | ACL_DEFAULT => acl_to_system(&self.value)
                .ok_or_else(|| BadEntry::Acl { name: String::from_utf8_lossy(&name).into_owned() })?,
            _ => self.value.clone(),
        };
        Ok((name, value))
    }

    fn order(&self) -> (u8, usize, &[u8]) {
        (self.index, self.name.len(), &self.name)
    }

    fn bytes(&self) -> usize {
        entry_len(self.name.len()) + self.value.len().next_multiple_of(4)
    }

    /// `e_hash`, as the kernel's `ext4_xattr_hash_entry` had it before `char` became unsigned there in 6.2;
    /// e2fsck takes this form in all its versions, and no kernel looks at it.
    fn hash(&self) -> u32 {
        let mut hash: u32 = 0;
        for &byte in &self.name {
            hash = hash.rotate_left(5) ^ i32::from(byte.cast_signed()).cast_unsigned();
        }
        for word in self.value.chunks(4) {
            let mut le = [0; 4];
            le[..word.len()].copy_from_slice(word);
            hash = hash.rotate_left(16) ^ u32::from_le_bytes(le);
        }
        hash
    }
}

fn entry_len(name: usize) -> usize {
    16 + name.next_multiple_of(4)
}

/// Attributes of one inode, divided between it and a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacedAttributes {
    /// Those in the inode, sorted.
    pub inline: Vec<Attr>,
    /// Those in a block, sorted.
    pub block: Vec<Attr>,
}

/// Divides attributes: in their order, each into the inode if it still fits there. `room` is what the inode
/// has behind `i_extra_isize`, 0 for small inodes.
///
/// # Errors
/// [`BadXattr`]; `TooLarge` if what does not fit into the inode does not fit into a block.
pub fn place(
    xattrs: &BTreeMap<Vec<u8>, Vec<u8>>,
    room: usize,
    block: usize,
) -> Result<PlacedAttributes, BadXattr> {
    let mut attrs: Vec<Attr> =
        xattrs.iter().map(|(name, value)| Attr::new(name, value)).collect::<Result<_, _>>()?;
    attrs.sort_by(|a, b| a.order().cmp(&b.order()));
    let mut placed = PlacedAttributes::default();
    // The magic and the four zeros behind the last entry.
    let mut left = room.saturating_sub(8);
    for attr in attrs {
        if attr.bytes() <= left {
            left -= attr.bytes();
            placed.inline.push(attr);
        } else {
            placed.block.push(attr);
        }
    }
    let bytes = placed.block.iter().map(Attr::bytes).sum();
    let room = block - BLOCK_HEADER - 4;
    if bytes > room { Err(BadXattr::TooLarge { bytes, room }) } else { Ok(placed) }
}

/// Writes attributes behind `i_extra_isize` of an inode; `area` is zeros and has room for them.
pub fn encode_inline(attrs: &[Attr], area: &mut [u8]) {
    if !attrs.is_empty() {
        area[..4].copy_from_slice(&MAGIC.to_le_bytes());
        encode_entries(attrs, &mut area[4..], 0, |_| 0);
    }
}

/// Writes an attribute block, zeros before, that `refcount` inodes refer to.
pub fn encode_block(attrs: &[Attr], refcount: u32, block: &mut [u8]) {
    // As the kernel's ext4_xattr_rehash: one entry with hash 0 makes the whole 0, "not shared".
    let hashes = attrs.iter().map(Attr::hash);
    let all = hashes.clone().fold(0u32, |all, hash| all.rotate_left(16) ^ hash);
    let all = if hashes.into_iter().any(|hash| hash == 0) { 0 } else { all };
    for (at, word) in [MAGIC, refcount, 1, all].into_iter().enumerate() {
        block[4 * at..4 * at + 4].copy_from_slice(&word.to_le_bytes());
    }
    encode_entries(attrs, block, BLOCK_HEADER, Attr::hash);
}

/// Entries from `first` on, values from the end of `area` down.
fn encode_entries(attrs: &[Attr], area: &mut [u8], first: usize, hash: impl Fn(&Attr) -> u32) {
    let mut at = first;
    let mut values = area.len();
    for attr in attrs {
        values -= attr.value.len().next_multiple_of(4);
        let offset = if attr.value.is_empty() { 0 } else { values };
        area[at] = u8::try_from(attr.name.len()).expect("checked by Attr::new");
        area[at + 1] = attr.index;
        let offset = u16::try_from(offset).expect("an area is a block at most");
        area[at + 2..at + 4].copy_from_slice(&offset.to_le_bytes());
        let size = u32::try_from(attr.value.len()).expect("fits the area");
        area[at + 8..at + 12].copy_from_slice(&size.to_le_bytes());
        area[at + 12..at + 16].copy_from_slice(&hash(attr).to_le_bytes());
        area[at + 16..at + 16 + attr.name.len()].copy_from_slice(&attr.name);
        area[values..values + attr.value.len()].copy_from_slice(&attr.value);
        at += entry_len(attr.name.len());
    }
}

/// Reads what is behind `i_extra_isize` of an inode: nothing without the magic.
///
/// # Errors
/// [`BadEntry`].
pub fn decode_inline(area: &[u8]) -> Result<Vec<Attr>, BadEntry> {
    match area.split_first_chunk() {
        Some((magic, entries)) if u32::from_le_bytes(*magic) == MAGIC => decode_entries(entries, 0),
        _ => Ok(vec![]),
    }
}

/// Reads an attribute block.
///
/// # Errors
/// [`BadEntry`].
pub fn decode_block(block: &[u8]) -> Result<Vec<Attr>, BadEntry> {
    let word = |at: usize| block.get(at..).and_then(<[u8]>::first_chunk).map(|le| u32::from_le_bytes(*le));
    if word(0) != Some(MAGIC) {
        return Err(BadEntry::Magic);
    }
    match word(8) {
        Some(1) => decode_entries(block, BLOCK_HEADER),
        blocks => Err(BadEntry::Blocks { blocks: blocks.unwrap_or(0) }),
    }
}

fn decode_entries(area: &[u8], first: usize) -> Result<Vec<Attr>, BadEntry> {
    let mut attrs = vec![];
    let mut at = first;
    loop {
        let rest = area.get(at..).unwrap_or_default();
        match rest.first_chunk() {
            None => return Err(BadEntry::End),
            Some([0, 0, 0, 0]) => return Ok(attrs),
            Some(_) => {}
        }
        let entry: &[u8; 16] = rest.first_chunk().ok_or(BadEntry::End)?;
        let name_len = usize::from(entry[0]);
        let name = rest.get(16..16 + name_len).ok_or(BadEntry::End)?;
        let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
        let shown = || String::from_utf8_lossy(name).into_owned();
        if word(4) != 0 {
            return Err(BadEntry::Elsewhere { name: shown() });
        }
        let start = usize::from(u16::from_le_bytes([entry[2], entry[3]]));
        let value = usize::try_from(word(8)).ok().and_then(|size| match size {
            0 => Some(&[][..]),
            size => area.get(start..start.checked_add(size)?),
        });
        let value = value.ok_or_else(|| BadEntry::Value { name: shown() })?.to_vec();
        attrs.push(Attr { index: entry[1], name: name.to_vec(), value });
        at += entry_len(name_len);
    }
}

/// Tags of entries that have no id on disk: owner, owning group, mask, others.
const ACL_WITHOUT_ID: [u16; 4] = [0x01, 0x04, 0x10, 0x20];
/// Tags of entries that have one: a user, a group.
const ACL_WITH_ID: [u16; 2] = [0x02, 0x08];

/// From version 2, entries `{tag u16, perm u16, id u32}`, to version 1, entries `{tag, perm}` or
/// `{tag, perm, id}`.
fn acl_to_disk(kernel: &[u8]) -> Option<Vec<u8>> {
    let entries = kernel.strip_prefix(&2u32.to_le_bytes())?;
    if entries.is_empty() || entries.len() % 8 != 0 {
        return None;
    }
    let mut disk = 1u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if ACL_WITHOUT_ID.contains(&tag) {
            disk.extend_from_slice(&entry[..4]);
        } else if ACL_WITH_ID.contains(&tag) {
            disk.extend_from_slice(entry);
        } else {
            return None;
        }
    }
    Some(disk)
}

/// The inverse of [`acl_to_disk`]; entries without an id get 0xffffffff, as the kernel gives them.
fn acl_to_system(disk: &[u8]) -> Option<Vec<u8>> {
    let mut entries = disk.strip_prefix(&1u32.to_le_bytes())?;
    let mut kernel = 2u32.to_le_bytes().to_vec();
    while !entries.is_empty() {
        let tag = u16::from_le_bytes(*entries.first_chunk()?);
        let len = if ACL_WITHOUT_ID.contains(&tag) {
            4
        } else if ACL_WITH_ID.contains(&tag) {
            8
        } else {
            return None;
        };
        let (entry, rest) = entries.split_at_checked(len)?;
        kernel.extend_from_slice(entry);
        if len == 4 {
            kernel.extend_from_slice(&u32::MAX.to_le_bytes());
        }
        entries = rest;
    }
    Some(kernel)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn xattrs(pairs: &[(&str, &[u8])]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect()
    }

    /// user::rw-, user:1000:rw-, group::r--, mask::rw-, other::r-- as getxattr(2) gives it, and as mke2fs -d
    /// wrote it.
    const ACL_KERNEL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x06\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x06\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    const ACL_DISK: &[u8] =
        b"\x01\0\0\0\x01\0\x06\0\x02\0\x06\0\xe8\x03\0\0\x04\0\x04\0\x10\0\x06\0\x20\0\x04\0";

    #[test]
    fn acls_lose_the_ids_that_mean_nothing_and_get_them_back() {
        let attr = Attr::new(b"system.posix_acl_access", ACL_KERNEL).unwrap();
        assert_eq!(attr, Attr { index: 2, name: vec![], value: ACL_DISK.to_vec() });
        assert_eq!(attr.to_system(), Ok((b"system.posix_acl_access".to_vec(), ACL_KERNEL.to_vec())));
    }

    #[test]
    fn names_become_a_number_and_the_rest() {
        let cases: [(&str, u8, &str); 6] = [
            ("user.a", 1, "a"),
            ("trusted.overlay.opaque", 4, "overlay.opaque"),
            ("security.capability", 6, "capability"),
            ("system.other", 7, "other"),
            ("system.richacl", 8, ""),
            ("gnu.translator", 10, "translator"),
        ];
        for (full, index, rest) in cases {
            let attr = Attr::new(full.as_bytes(), b"v").unwrap();
            assert_eq!((attr.index, &attr.name[..]), (index, rest.as_bytes()), "{full}");
            assert_eq!(attr.to_system(), Ok((full.as_bytes().to_vec(), b"v".to_vec())), "{full}");
        }
    }

    #[test]
    fn what_ext2_cannot_hold_is_said_by_name() {
        let long = format!("user.{}", "x".repeat(256));
        let cases: [(&str, &[u8], &str); 8] = [
            (
                "btrfs.x",
                b"",
                "attribute `btrfs.x` can't be stored; ext2 supports only the prefixes user, trusted, security \
                 and system",
            ),
            ("user.", b"", "`user.` can't be the name of an attribute"),
            ("user.a\0b", b"", "`user.a\0b` can't be the name of an attribute"),
            (&long, b"", &format!("`{long}` can't be the name of an attribute")),
            (
                "system.posix_acl_accessory",
                ACL_KERNEL,
                "`system.posix_acl_accessory` can't be the name of an attribute",
            ),
            (
                "system.posix_acl_access",
                b"\x02\0\0\0",
                "attribute `system.posix_acl_access` is not an ACL in the kernel's form",
            ),
            (
                "system.posix_acl_access",
                &ACL_KERNEL[..43],
                "attribute `system.posix_acl_access` is not an ACL in the kernel's form",
            ),
            (
                "system.posix_acl_default",
                ACL_DISK,
                "attribute `system.posix_acl_default` is not an ACL in the kernel's form",
            ),
        ];
        for (name, value, message) in cases {
            assert_eq!(Attr::new(name.as_bytes(), value).unwrap_err().to_string(), message);
        }
        let big = place(&xattrs(&[("user.a", &[1; 4041])]), 96, 4096).unwrap_err();
        assert_eq!(big.to_string(), "4064 bytes of attributes; one block holds 4060");
    }

    #[test]
    fn attributes_fill_the_inode_first() {
        // 96 - 8 bytes: entry 16 + 4, value 68 is all of it.
        let full = place(&xattrs(&[("user.a", &[1; 68]), ("user.b", &[2; 1])]), 96, 4096).unwrap();
        assert_eq!((full.inline.len(), full.block.len()), (1, 1));
        let over = place(&xattrs(&[("user.a", &[1; 69]), ("user.b", &[2; 1])]), 96, 4096).unwrap();
        assert_eq!((&over.inline[0].name[..], &over.block[0].name[..]), (&b"b"[..], &b"a"[..]));
        let none = place(&xattrs(&[("user.a", b"")]), 0, 4096).unwrap();
        assert_eq!((none.inline.len(), none.block.len()), (0, 1));
        let largest = place(&xattrs(&[("user.a", &[1; 4040])]), 96, 4096).unwrap();
        assert_eq!(largest.block.len(), 1);
    }

    #[test]
    fn order_is_by_index_then_length_then_name() {
        let placed = place(
            &xattrs(&[("security.a", b""), ("trusted.z", b""), ("user.bb", b""), ("user.c", b"")]),
            0,
            4096,
        );
        let order: Vec<_> = placed.unwrap().block.into_iter().map(|attr| (attr.index, attr.name)).collect();
        assert_eq!(order, [(1, b"c".to_vec()), (1, b"bb".to_vec()), (4, b"z".to_vec()), (6, b"a".to_vec())]);
    }

    #[test]
    fn hashes_take_names_as_signed_bytes_and_values_as_words() {
        let hash =
            |name: &[u8], value: &[u8]| Attr { index: 1, name: name.to_vec(), value: value.to_vec() }.hash();
        // By hand: 0x61 << 5 ^ 0x62; then 16 bits round and the word 0x31.
        assert_eq!(hash(b"ab", b""), 0x0c42);
        assert_eq!(hash(b"ab", b"1"), 0x0c42_0031);
        // 0xe9 is -23; 16 bits round, and the word "odd\0".
        assert_eq!(hash(b"\xe9", b"odd"), 0xffe9_ffff ^ 0x0064_646f);
    }

    #[test]
    fn decode_rejects_each_damage_by_name() {
        let attrs = [Attr { index: 1, name: b"abc".to_vec(), value: b"value".to_vec() }];
        let mut good = vec![0; 1024];
        encode_block(&attrs, 1, &mut good);
        assert_eq!(decode_block(&good).unwrap(), attrs);
        let name = || "abc".to_owned();
        let cases: [(usize, &[u8], BadEntry); 5] = [
            (0, &[1], BadEntry::Magic),
            (8, &[2], BadEntry::Blocks { blocks: 2 }),
            (34, &[0xfc, 3], BadEntry::Value { name: name() }),
            (40, &[0, 0, 0, 0xff], BadEntry::Value { name: name() }),
            (36, &[9], BadEntry::Elsewhere { name: name() }),
        ];
        for (at, bytes, expected) in cases {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(decode_block(&bad), Err(expected), "{bytes:?} at {at}");
        }
        let mut endless = vec![0; 1024];
        encode_block(&[Attr { value: vec![], ..attrs[0].clone() }], 1, &mut endless);
        for (len, expected) in [(52, Err(BadEntry::End)), (50, Err(BadEntry::End)), (56, Ok(1))] {
            assert_eq!(decode_block(&endless[..len]).map(|attrs| attrs.len()), expected, "{len}");
        }
        let bad = Attr { index: 5, ..attrs[0].clone() };
        assert_eq!(bad.to_system(), Err(BadEntry::Index { index: 5 }));
        let bad = Attr { index: 3, name: vec![], value: ACL_DISK[..15].to_vec() };
        assert_eq!(bad.to_system(), Err(BadEntry::Acl { name: "system.posix_acl_default".into() }));
    }

    proptest! {
        #[test]
        fn attributes_come_back_from_inode_and_block(
            pairs in prop::collection::btree_map("user\\.[a-z]{1,30}", prop::collection::vec(any::<u8>(), 0..150), 0..8),
            room in 0usize..400,
        ) {
            let xattrs: BTreeMap<Vec<u8>, Vec<u8>> =
                pairs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
            let placed = place(&xattrs, room / 4 * 4, 4096).unwrap();
            let mut area = vec![0; room / 4 * 4];
            encode_inline(&placed.inline, &mut area);
            let mut block = vec![0; 4096];
            encode_block(&placed.block, 1, &mut block);
            prop_assert_eq!(decode_inline(&area).unwrap(), placed.inline.clone());
            prop_assert_eq!(decode_block(&block).unwrap(), placed.block.clone());
            let back: BTreeMap<_, _> =
                placed.inline.iter().chain(&placed.block).map(|attr| attr.to_system().unwrap()).collect();
            prop_assert_eq!(back, xattrs);
        }

        #[test]
        fn damage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_entries(&bytes, 0);
            let _ = decode_entries(&bytes, 32);
            for attr in decode_entries(&bytes, 0).unwrap_or_default() {
                let _ = attr.to_system();
            }
        }
    }
}
