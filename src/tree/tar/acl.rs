//! POSIX ACLs: the text that tar archives carry -> the form in which the kernel hands them out.
//!
//! Sources: acl(5), *ACL TEXT FORMS*; star(5), `SCHILY.acl.access`; the kernel's
//! `include/uapi/linux/posix_acl_xattr.h` (`struct posix_acl_xattr_header`, `_entry`, little-endian).

use std::collections::BTreeMap;

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
/// `ACL_UNDEFINED_ID`: of entries without a name.
const NOBODY: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Ids by name, from the archive's own /etc/passwd and /etc/group.
#[derive(Default)]
pub(super) struct AclNames {
    pub users: BTreeMap<Vec<u8>, u32>,
    pub groups: BTreeMap<Vec<u8>, u32>,
}

/// The kernel's form of an ACL given as text; `None` if it says nothing beyond the mode (three entries, or
/// none at all), as the kernel stores none then.
///
/// # Errors
/// The entry that can't be understood.
pub(super) fn to_binary(text: &[u8], names: &AclNames) -> Result<Option<Vec<u8>>, String> {
    let mut entries: Vec<(u16, u32, u16)> = Vec::new();
    for entry in text.split(|&byte| byte == b',' || byte == b'\n') {
        let entry = entry.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
        if entry.is_empty() {
            continue;
        }
        let parsed = parse_entry(entry, names);
        entries.push(parsed.ok_or_else(|| String::from_utf8_lossy(entry).into_owned())?);
    }
    // The order the kernel asks for (`posix_acl_valid`): by tag, then by id.
    entries.sort_unstable();
    if entries.iter().all(|&(tag, ..)| matches!(tag, USER_OBJ | GROUP_OBJ | OTHER)) {
        return Ok(None);
    }
    let mut binary = VERSION.to_le_bytes().to_vec();
    for (tag, id, perm) in entries {
        binary.extend_from_slice(&tag.to_le_bytes());
        binary.extend_from_slice(&perm.to_le_bytes());
        binary.extend_from_slice(&id.to_le_bytes());
    }
    Ok(Some(binary))
}

/// `[default:]TAG:[NAME]:PERMS[:ID]`; the fourth field, which star adds, is the id behind the name.
fn parse_entry(entry: &[u8], names: &AclNames) -> Option<(u16, u32, u16)> {
    let entry = entry.strip_prefix(b"default:").unwrap_or(entry);
    let mut fields = entry.split(|&byte| byte == b':').map(<[u8]>::trim_ascii);
    let (tag, name, perms) = (fields.next()?, fields.next()?, fields.next()?);
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u32>().ok();
    let id = |names: &BTreeMap<Vec<u8>, u32>, given: Option<&[u8]>| {
        given.and_then(number).or_else(|| number(name)).or_else(|| names.get(name).copied())
    };
    let (tag, id) = match (tag, name.is_empty()) {
        (b"user" | b"u", true) => (USER_OBJ, NOBODY),
        (b"user" | b"u", false) => (USER, id(&names.users, fields.next())?),
        (b"group" | b"g", true) => (GROUP_OBJ, NOBODY),
        (b"group" | b"g", false) => (GROUP, id(&names.groups, fields.next())?),
        (b"mask" | b"m", true) => (MASK, NOBODY),
        (b"other" | b"o", true) => (OTHER, NOBODY),
        _ => return None,
    };
    let mut bits = 0;
    for &perm in perms {
        bits |= match perm {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return None,
        };
    }
    Some((tag, id, bits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::names::ids;

    fn entry(tag: u16, perm: u16, id: u32) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
    }

    #[test]
    fn text_in_any_order_becomes_the_kernels_sorted_entries() {
        let names = AclNames {
            users: ids(b"root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:\n"),
            groups: ids(b"adm:x:4:ann\nbroken\n"),
        };
        let expected = [
            VERSION.to_le_bytes().to_vec(),
            entry(USER_OBJ, 7, NOBODY),
            entry(USER, 5, 33),
            entry(USER, 6, 1000),
            entry(GROUP_OBJ, 5, NOBODY),
            entry(GROUP, 4, 4),
            entry(MASK, 7, NOBODY),
            entry(OTHER, 0, NOBODY),
        ]
        .concat();
        for text in [
            "user::rwx\nuser:ann:rw-\nuser:33:r-x\t#effective:r-x\ngroup::r-x\ngroup:adm:r--\nmask::rwx\nother::---\n",
            "o::---,m::rwx,g:adm:r--,g::r-x,u:33:rx,u:ann:rw,u::rwx",
            "user::rwx,user:nosuch:rw-:1000,user:web:r-x:33,group::r-x,group:x:r--:4,mask::rwx,other::---",
        ] {
            assert_eq!(to_binary(text.as_bytes(), &names), Ok(Some(expected.clone())), "{text}");
        }
    }

    #[test]
    fn what_the_mode_says_already_is_no_acl() {
        for text in ["", "user::rwx,group::r-x,other::r-x"] {
            assert_eq!(to_binary(text.as_bytes(), &AclNames::default()), Ok(None));
        }
    }

    #[test]
    fn an_entry_that_names_nobody_known_is_an_error() {
        for bad in ["user:ann:rwx", "user::rwz", "mask:x:rwx", "all::rwx", "user:", "user"] {
            let text = format!("user::rwx,{bad}");
            assert_eq!(to_binary(text.as_bytes(), &AclNames::default()), Err(bad.to_owned()));
        }
    }
}
