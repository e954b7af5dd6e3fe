//! mtree specifications: who owns what in a NetBSD system, and its device nodes.
//!
//! Both forms are read: full paths (`./bin/cat type=file mode=0555`, since NetBSD 4) and directories that are
//! entered and left with `..`. `/set` and `/unset` give defaults. Source: NetBSD's mtree(5), mtree(8).

use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest specification: the real set.comp has some 3 MB.
pub const LIMIT: u64 = 64 << 20;

/// Longest path: NetBSD's PATH_MAX.
const MAX_PATH: usize = 1024;
/// Most bytes of keywords with their values that `/set` may give; NetBSD's have some fifty.
const MAX_DEFAULTS: usize = 1024;

/// The values of one mtree line by their keywords.
type Keywords = BTreeMap<String, Vec<u8>>;

/// A path and its keywords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MtreeEntry {
    /// Without leading `./`; empty for the root.
    pub path: Vec<u8>,
    /// Its line, from 1.
    pub line: usize,
    /// What `/set` gives for it and others: one map for as many lines as it holds for.
    defaults: Arc<Keywords>,
    /// What the line itself says.
    own: Keywords,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MtreeError {
    /// `..` above the root.
    #[error("line {line}: `..` leads out of the tree")]
    Above {
        /// Its number, from 1.
        line: usize,
    },
    /// A path with `..` in it.
    #[error("line {line}: `{path}` leads out of the tree")]
    Path { line: usize, path: String },
    /// A path longer than any.
    #[error("line {line}: a path of more than {MAX_PATH} bytes")]
    TooLong { line: usize },
    /// More defaults than makes sense.
    #[error("line {line}: `/set` gives more than {MAX_DEFAULTS} bytes of defaults")]
    Defaults { line: usize },
    /// A backslash that begins nothing known.
    #[error("line {line}: `{word}` has a backslash that is not an escape of vis(3)")]
    Escape { line: usize, word: String },
    /// A command that is neither `/set` nor `/unset`.
    #[error("line {line}: unknown command `{word}`; use `/set` or `/unset`")]
    Command { line: usize, word: String },
    /// A value that a keyword can't have.
    #[error("line {line}: `{value}` can't be its {keyword}")]
    Value { line: usize, keyword: &'static str, value: String },
}

/// Reads a specification. Its entries come in the order of the lines; a path may come more than once.
///
/// # Errors
/// [`MtreeError`] for the first line that is wrong.
pub fn parse(text: &[u8]) -> Result<Vec<MtreeEntry>, MtreeError> {
    let mut entries = Vec::new();
    let mut defaults = Arc::<Keywords>::default();
    // Names of the directories that were entered, below the root.
    let mut within: Vec<Vec<u8>> = Vec::new();
    for (line, text) in lines(text) {
        let mut words = text.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let Some(first) = words.next() else { continue };
        match first {
            [b'#', ..] => continue,
            b"/set" => {
                let defaults = Arc::make_mut(&mut defaults);
                defaults.extend(keywords(words));
                let len: usize = defaults.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
                if len > MAX_DEFAULTS {
                    return Err(MtreeError::Defaults { line });
                }
                continue;
            }
            b"/unset" => {
                let defaults = Arc::make_mut(&mut defaults);
                for word in words {
                    match word {
                        b"all" => defaults.clear(),
                        _ => {
                            defaults.remove(&lossy(word));
                        }
                    }
                }
                continue;
            }
            [b'/', ..] => return Err(MtreeError::Command { line, word: lossy(first) }),
            b".." => {
                within.pop().ok_or(MtreeError::Above { line })?;
                continue;
            }
            _ => {}
        }
        let name = unvis(first).ok_or_else(|| MtreeError::Escape { line, word: lossy(first) })?;
        let own: Keywords = keywords(words).collect();
        let path = if name.contains(&b'/') {
            // A whole path, whatever directory is open.
            let parts: Vec<&[u8]> =
                name.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
            if parts.contains(&&b".."[..]) {
                return Err(MtreeError::Path { line, path: lossy(&name) });
            }
            parts.join(&b'/')
        } else if name == b"." {
            within.clear();
            Vec::new()
        } else {
            let mut parts = within.clone();
            parts.push(name.clone());
            if own.get("type").or(defaults.get("type")).is_some_and(|kind| kind == b"dir") {
                within.push(name);
            }
            parts.join(&b'/')
        };
        if path.len() > MAX_PATH {
            return Err(MtreeError::TooLong { line });
        }
        entries.push(MtreeEntry { path, line, defaults: Arc::clone(&defaults), own });
    }
    Ok(entries)
}

/// Lines with their numbers and without comments, as fparseln(3) gives them: one that ends in a backslash goes on in
/// the next, but a comment ends with its line.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let mut rest = text.split(|&byte| byte == b'\n').zip(1usize..);
    std::iter::from_fn(move || {
        let (first, number) = rest.next()?;
        let mut whole = uncommented(first).to_vec();
        while whole.last() == Some(&b'\\') && !is_escaped(&whole, whole.len() - 1) {
            whole.pop();
            match rest.next() {
                Some((next, _)) => whole.extend_from_slice(uncommented(next)),
                None => break,
            }
        }
        Some((number, whole))
    })
}

fn uncommented(line: &[u8]) -> &[u8] {
    let comment = line.iter().enumerate().position(|(at, &byte)| byte == b'#' && !is_escaped(line, at));
    &line[..comment.unwrap_or(line.len())]
}

/// Whether an odd number of backslashes stands before a byte.
fn is_escaped(line: &[u8], at: usize) -> bool {
    line[..at].iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1
}

fn keywords<'w>(words: impl Iterator<Item = &'w [u8]>) -> impl Iterator<Item = (String, Vec<u8>)> {
    words.map(|word| match word.iter().position(|&byte| byte == b'=') {
        Some(at) => (lossy(&word[..at]), word[at + 1..].to_vec()),
        None => (lossy(word), Vec::new()),
    })
}

/// Undoes vis(3), as unvis(3): `\040`, `\s`, `\\`, the C escapes, `\^C` for control characters, `\M-c` and `\M^C` for
/// those with the highest bit.
fn unvis(word: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let (&kind, after) = rest.split_first()?;
        let digits = rest.iter().take(3).take_while(|digit| (b'0'..=b'7').contains(digit)).count();
        if digits > 0 {
            let value = rest[..digits].iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            out.push(u8::try_from(value).ok()?);
            rest = &rest[digits..];
            continue;
        }
        let control = |byte: u8| if byte == b'?' { 0x7f } else { byte & 0x1f };
        let (meta, long) = match rest {
            [b'M', b'-', byte, after @ ..] => (byte | 0x80, Some(after)),
            [b'M', b'^', byte, after @ ..] => (control(*byte) | 0x80, Some(after)),
            [b'^', byte, after @ ..] => (control(*byte), Some(after)),
            _ => (0, None),
        };
        if let Some(after) = long {
            out.push(meta);
            rest = after;
            continue;
        }
        rest = after;
        out.push(match kind {
            b'a' => 0x07,
            b'b' => 0x08,
            b'v' => 0x0b,
            b'f' => 0x0c,
            b'E' => 0x1b,
            b'\\' => b'\\',
            b's' => b' ',
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'#' => b'#',
            _ => return None,
        });
    }
    Some(out)
}

impl MtreeEntry {
    /// A keyword's value as a name: `uname`, `gname`, `type`, `link`. What the line says goes before what `/set` gave;
    /// a keyword without a value has an empty one.
    pub fn word(&self, keyword: &str) -> Option<&[u8]> {
        self.own.get(keyword).or_else(|| self.defaults.get(keyword)).map(Vec::as_slice)
    }

    /// `mode`, in octal. Symbolic ones are not used by NetBSD.
    ///
    /// # Errors
    /// [`MtreeError::Value`].
    pub fn mode(&self) -> Result<Option<u16>, MtreeError> {
        self.number("mode", |text| u16::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777))
    }

    /// `uid`.
    ///
    /// # Errors
    /// [`MtreeError::Value`].
    pub fn uid(&self) -> Result<Option<u32>, MtreeError> {
        self.number("uid", |text| text.parse().ok())
    }

    /// `gid`.
    ///
    /// # Errors
    /// [`MtreeError::Value`].
    pub fn gid(&self) -> Result<Option<u32>, MtreeError> {
        self.number("gid", |text| text.parse().ok())
    }

    /// `link`: the target of a symbolic link, whose characters are escaped as those of a path.
    ///
    /// # Errors
    /// [`MtreeError::Escape`].
    pub fn link(&self) -> Result<Option<Vec<u8>>, MtreeError> {
        let Some(target) = self.word("link").filter(|target| !target.is_empty()) else { return Ok(None) };
        let wrong = || MtreeError::Escape { line: self.line, word: lossy(target) };
        unvis(target).map(Some).ok_or_else(wrong)
    }

    /// `device`, as major and minor number: `netbsd,MAJOR,MINOR`, or NetBSD's `dev_t` in one
    /// number. Sources: mtree's `parsedev`, mknod's `pack_netbsd`.
    ///
    /// # Errors
    /// [`MtreeError::Value`].
    pub fn device(&self) -> Result<Option<(u32, u32)>, MtreeError> {
        self.number("device", |text| {
            let Some((format, numbers)) = text.split_once(',') else {
                let packed = c_number(text)?;
                return Some(((packed & 0xfff00) >> 8, (packed & 0xfff0_0000) >> 12 | packed & 0xff));
            };
            if !matches!(format, "netbsd" | "native") {
                return None;
            }
            let numbers = numbers.split(',').map(c_number).collect::<Option<Vec<u32>>>()?;
            let [major, minor] = numbers[..] else { return None };
            (major < 1 << 12 && minor < 1 << 20).then_some((major, minor))
        })
    }

    fn number<T>(
        &self,
        keyword: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, MtreeError> {
        let Some(value) = self.word(keyword) else { return Ok(None) };
        let number = std::str::from_utf8(value).ok().and_then(read);
        let wrong = || MtreeError::Value { line: self.line, keyword, value: lossy(value) };
        number.map(Some).ok_or_else(wrong)
    }
}

/// A number as strtoul(3) reads it with base 0: hexadecimal after `0x`, octal after `0`, else decimal.
fn c_number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    // `from_str_radix` takes a sign.
    let is_digits = digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_digits.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let entry = |entry: &MtreeEntry| {
            let mut all = (*entry.defaults).clone();
            all.extend(entry.own.clone());
            let keywords: Vec<String> =
                all.iter().map(|(key, value)| format!("{key}={}", lossy(value))).collect();
            format!("{}: /{} {}", entry.line, lossy(&entry.path), keywords.join(" "))
        };
        parse(text.as_bytes()).unwrap().iter().map(entry).collect()
    }

    #[test]
    fn full_paths_take_the_defaults_and_what_stands_beside_them() {
        let text = "#\t$NetBSD$\n/set type=dir uname=root gname=wheel mode=0755\n.\n./tmp\tmode=01777\n\
                    ./usr/share/a\\040b type=file optional\n/unset mode\n./x gname=\\\nkmem\n";
        assert_eq!(
            shown(text),
            [
                "3: / gname=wheel mode=0755 type=dir uname=root",
                "4: /tmp gname=wheel mode=01777 type=dir uname=root",
                "5: /usr/share/a b gname=wheel mode=0755 optional= type=file uname=root",
                "7: /x gname=kmem type=dir uname=root",
            ]
        );
    }

    #[test]
    fn directories_are_entered_and_left() {
        let text =
            ". type=dir\nusr type=dir\nbin type=dir\ncat type=file\n..\nlib type=dir\n..\n..\netc type=dir\n";
        assert_eq!(
            shown(text),
            [
                "1: / type=dir",
                "2: /usr type=dir",
                "3: /usr/bin type=dir",
                "4: /usr/bin/cat type=file",
                "6: /usr/lib type=dir",
                "9: /etc type=dir",
            ]
        );
    }

    #[test]
    fn device_numbers_are_read_as_by_strtoul() {
        let device = |text: &str| parse(text.as_bytes()).unwrap()[0].device().unwrap();
        for (value, expected) in [
            ("netbsd,169,0xfffff", (169, 0xf_ffff)),
            ("netbsd,0XA9,010", (169, 8)),
            ("native,0,0", (0, 0)),
            ("0x8e02", (142, 2)),
            ("0xfff0a9ff", (169, 0xf_ffff)),
            ("512", (2, 0)),
        ] {
            assert_eq!(device(&format!("./tap type=char device={value}")), Some(expected), "{value}");
        }
    }

    #[test]
    fn comments_and_escapes_are_those_of_netbsds_mtree() {
        let text = "# a remark \\\n./a type=dir # entered # by hand\n./a\\#b type=file\n\
                    \t#\n./a\\0b\\7\\a\\^A\\M-a type=link link=x\\040y\\sz\n";
        assert_eq!(
            shown(text),
            [
                "2: /a type=dir",
                "3: /a#b type=file",
                "5: /a\0b\u{7}\u{7}\u{1}\u{fffd} link=x\\040y\\sz type=link"
            ]
        );
        assert_eq!(parse(text.as_bytes()).unwrap()[2].link().unwrap(), Some(b"x y z".to_vec()));
    }

    #[test]
    fn each_fault_is_told_by_its_line() {
        let mode = |text: &str| parse(text.as_bytes()).and_then(|entries| entries[0].mode().map(|_| ()));
        let device = |text: &str| parse(text.as_bytes()).and_then(|entries| entries[0].device().map(|_| ()));
        for (result, said) in [
            (mode("\n..\n"), "line 2: `..` leads out of the tree"),
            (mode("./a/../../b"), "line 1: `./a/../../b` leads out of the tree"),
            (mode("/sett x"), "line 1: unknown command `/sett`; use `/set` or `/unset`"),
            (mode(&"a type=dir\n".repeat(513)), "line 513: a path of more than 1024 bytes"),
            (
                mode(&format!("\n/set a=b c={}", "x".repeat(1100))),
                "line 2: `/set` gives more than 1024 bytes of defaults",
            ),
            (mode("./a\\q"), "line 1: `./a\\q` has a backslash that is not an escape of vis(3)"),
            (mode("./a mode=0888"), "line 1: `0888` can't be its mode"),
            (mode("./a mode=17777"), "line 1: `17777` can't be its mode"),
            (device("./a device=linux,1,2"), "line 1: `linux,1,2` can't be its device"),
            (device("./a device=netbsd,4096,2"), "line 1: `netbsd,4096,2` can't be its device"),
            (device("./a device=netbsd,1,0x100000"), "line 1: `netbsd,1,0x100000` can't be its device"),
            (device("./a device=netbsd,4,16,3"), "line 1: `netbsd,4,16,3` can't be its device"),
            (device("./a device=netbsd,1"), "line 1: `netbsd,1` can't be its device"),
            (device("./a device=netbsd,1,"), "line 1: `netbsd,1,` can't be its device"),
            (device("./a device=netbsd,1,08"), "line 1: `netbsd,1,08` can't be its device"),
            (device("./a device=0x1_0"), "line 1: `0x1_0` can't be its device"),
            (device("./a type=char device="), "line 1: `` can't be its device"),
        ] {
            assert_eq!(result.unwrap_err().to_string(), said);
        }
    }
}
