//! PAX extended headers: what overrides the fields of the header that follows.
//!
//! The `tar` crate cuts records at newlines, so it loses every attribute whose binary value holds byte 10;
//! here a record is as long as it says. Sources: POSIX pax, *Extended Header Keywords*; star(5); GNU tar,
//! *Storing Sparse Files*.

use std::collections::BTreeMap;

use super::Problem;
use crate::tree::FileTime;

/// What names of attributes begin with on Linux (xattr(7)). Others, such as `com.apple.quarantine`, have no place in a
/// file system of Linux; tar, too, leaves them out.
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];

/// What one extended header says, or the global ones before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PaxRecords {
    pub path: Option<Vec<u8>>,
    pub linkpath: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<FileTime>,
    /// `SCHILY.xattr.NAME`, by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `SCHILY.acl.access` as text.
    pub acl_access: Option<Vec<u8>>,
    /// `SCHILY.acl.default` as text.
    pub acl_default: Option<Vec<u8>>,
    pub sparse: Sparse,
}

/// `GNU.sparse.*` of formats 0.0, 0.1 and 1.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    /// The file's own name; the header has an invented one.
    pub name: Option<Vec<u8>>,
    /// `size` (0.x) or `realsize` (1.0): length of the file with its holes.
    pub size: Option<u64>,
    /// Number of regions, 0.x.
    pub regions: Option<u64>,
    /// Offsets and lengths in turn: 0.0 as separate records, 0.1 as `map`.
    pub map: Vec<u64>,
    /// Whether there was a map: an empty one is a file of one hole.
    pub mapped: bool,
}

impl PaxRecords {
    /// Applies the records in `bytes`, each `LENGTH KEY=VALUE\n` where LENGTH counts all of that. An empty
    /// value takes an earlier one back.
    pub fn apply(&mut self, mut bytes: &[u8]) -> Result<(), Problem> {
        while !bytes.is_empty() {
            let (key, value, rest) = split_record(bytes).ok_or_else(|| Problem::PaxRecord {
                start: String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned(),
            })?;
            self.set(key, value)?;
            bytes = rest;
        }
        Ok(())
    }

    /// Bytes that a copy takes, roughly: what is counted are values, and for each attribute its place in a map.
    pub fn memory(&self) -> u64 {
        const ATTRIBUTE: usize = 64;
        let texts = [&self.path, &self.linkpath, &self.acl_access, &self.acl_default, &self.sparse.name];
        let texts: usize = texts.into_iter().flatten().map(Vec::len).sum();
        let attributes = self.xattrs.iter().map(|(name, value)| ATTRIBUTE + name.len() + value.len());
        (texts + attributes.sum::<usize>() + size_of_val(&self.sparse.map[..])) as u64
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        let text = || (!value.is_empty()).then(|| value.to_vec());
        let number = || match value {
            [] => Ok(None),
            _ => decimal(value).map(Some).ok_or_else(|| bad_value(key, value)),
        };
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.linkpath = text(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => {
                self.mtime = match value {
                    [] => None,
                    _ => Some(time(value).ok_or_else(|| bad_value(key, value))?),
                }
            }
            b"SCHILY.acl.access" => self.acl_access = text(),
            b"SCHILY.acl.default" => self.acl_default = text(),
            b"GNU.sparse.major" => self.sparse.major = number()?,
            b"GNU.sparse.minor" => self.sparse.minor = number()?,
            b"GNU.sparse.name" => self.sparse.name = text(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = number()?,
            b"GNU.sparse.numblocks" => {
                self.sparse.regions = number()?;
                self.sparse.mapped = true;
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let expected = if key.ends_with(b"offset") { 0 } else { 1 };
                let number = number()?.filter(|_| self.sparse.map.len() % 2 == expected);
                self.sparse.map.push(number.ok_or_else(|| bad_value(key, value))?);
            }
            b"GNU.sparse.map" => {
                self.sparse.mapped = true;
                self.sparse.map = match value {
                    [] => vec![],
                    _ => value
                        .split(|&byte| byte == b',')
                        .map(decimal)
                        .collect::<Option<_>>()
                        .ok_or_else(|| bad_value(key, value))?,
                };
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.").map(unescaped)
                    && NAMESPACES.iter().any(|namespace| name.starts_with(namespace))
                {
                    self.xattrs.insert(name, value.to_vec());
                }
            }
        }
        Ok(())
    }
}

/// The first record and what follows it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let len = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(..len)?.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[len..]))
}

/// An unsigned decimal number, nothing around it.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// `[-]SECONDS[.FRACTION]`; digits beyond nanoseconds are cut off.
fn time(text: &[u8]) -> Option<FileTime> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let secs = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for place in 0..9 {
            nanos = nanos * 10 + u32::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
        }
    }
    Some(match (negative, nanos) {
        (false, _) => FileTime { secs, nanos },
        (true, 0) => FileTime { secs: -secs, nanos },
        // -1.25 is 0.75 after -2.
        (true, _) => FileTime { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

/// GNU tar writes `=` and `%` in the names of attributes as `%3D` and `%25`.
fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, tail) = match rest {
            [b'%', b'3', b'D', tail @ ..] => (b'=', tail),
            [b'%', b'2', b'5', tail @ ..] => (b'%', tail),
            _ => (first, tail),
        };
        out.push(byte);
        rest = tail;
    }
    out
}

fn bad_value(key: &[u8], value: &[u8]) -> Problem {
    let shown = |text: &[u8]| String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
    Problem::PaxValue { key: shown(key), value: shown(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut len = body + 1;
        while body + len.to_string().len() != len {
            len += 1;
        }
        let mut out = format!("{len} {key}=").into_bytes();
        out.extend_from_slice(value);
        out.push(b'\n');
        out
    }

    fn parsed(records: &[(&str, &[u8])]) -> Result<PaxRecords, Problem> {
        let mut parsed = PaxRecords::default();
        let bytes: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        parsed.apply(&bytes).map(|()| parsed)
    }

    #[test]
    fn values_with_newlines_and_zeros_come_through_whole() {
        let capability = b"\x01\0\0\x02\0\x20\x0a\0\n9 a=b\n\0";
        let records = parsed(&[("SCHILY.xattr.security.capability", capability), ("uid", b"7")]).unwrap();
        assert_eq!(records.xattrs[&b"security.capability"[..]], capability);
        assert_eq!(records.uid, Some(7));
    }

    #[test]
    fn times_are_floored_to_nanoseconds() {
        let cases: [(&[u8], i64, u32); 6] = [
            (b"0", 0, 0),
            (b"1234567890.5", 1_234_567_890, 500_000_000),
            (b"1.0000000019", 1, 1),
            (b"-1", -1, 0),
            (b"-1.25", -2, 750_000_000),
            (b"7.", 7, 0),
        ];
        for (text, secs, nanos) in cases {
            assert_eq!(time(text), Some(FileTime { secs, nanos }), "{}", String::from_utf8_lossy(text));
        }
        for text in [&b""[..], b"x", b"1.x", b"--1", b"99999999999999999999"] {
            assert_eq!(time(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn escaped_attribute_names_are_restored_and_an_empty_value_takes_one_back() {
        let records =
            parsed(&[("SCHILY.xattr.user.a%3Db%25c%2", b"1"), ("uid", b"1"), ("uid", b"")]).unwrap();
        assert_eq!(records.xattrs.keys().collect::<Vec<_>>(), [b"user.a=b%c%2"]);
        assert_eq!(records.uid, None);
    }

    #[test]
    fn damaged_records_are_refused_by_name() {
        let long = "9".repeat(30);
        for (bytes, message) in [
            (&b"5 a"[..], "PAX record `5 a` is not `LENGTH KEY=VALUE`"),
            (b"6 ab\n\n", "PAX record `6 ab\n\n` is not `LENGTH KEY=VALUE`"),
            (b"6 a=b", "PAX record `6 a=b` is not `LENGTH KEY=VALUE`"),
            (b"0 a=b\n", "PAX record `0 a=b\n` is not `LENGTH KEY=VALUE`"),
            (long.as_bytes(), "PAX record `999999999999999999999999999999` is not `LENGTH KEY=VALUE`"),
            (b"9 uid=-1\n", "PAX record `uid`: `-1` can't be its value"),
            (b"11 mtime=x\n", "PAX record `mtime`: `x` can't be its value"),
        ] {
            assert_eq!(PaxRecords::default().apply(bytes).unwrap_err().to_string(), message);
        }
    }
}
