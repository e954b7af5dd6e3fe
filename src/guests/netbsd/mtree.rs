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

/// Lines with their numbers; one that ends in a backslash goes on in the next.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let mut rest = text.split(|&byte| byte == b'\n').zip(1usize..);
    std::iter::from_fn(move || {
        let (first, number) = rest.next()?;
        let mut whole = first.to_vec();
        while whole.last() == Some(&b'\\') {
            whole.pop();
            match rest.next() {
                Some((next, _)) => whole.extend_from_slice(next),
                None => break,
            }
        }
        Some((number, whole))
    })
}

fn keywords<'w>(words: impl Iterator<Item = &'w [u8]>) -> impl Iterator<Item = (String, Vec<u8>)> {
    words.map(|word| match word.iter().position(|&byte| byte == b'=') {
        Some(at) => (lossy(&word[..at]), word[at + 1..].to_vec()),
        None => (lossy(word), Vec::new()),
    })
}

/// Undoes vis(3) as mtree uses it: `\040`, `\s`, `\\` and the C escapes.
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
        let octal = rest.get(..3).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        if let Some(digits) = octal {
            let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            out.push(u8::try_from(value).ok()?);
            rest = &rest[3..];
            continue;
        }
        rest = after;
        out.push(match kind {
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

    /// `device`: `netbsd,MAJOR,MINOR`, or both in one number.
    ///
    /// # Errors
    /// [`MtreeError::Value`].
    pub fn device(&self) -> Result<Option<(u32, u32)>, MtreeError> {
        self.number("device", |text| {
            let mut parts = text.split(',');
            if parts.next()? != "netbsd" {
                return None;
            }
            let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            (parts.next().is_none() && major < 1 << 12 && minor < 1 << 20).then_some((major, minor))
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
        ] {
            assert_eq!(result.unwrap_err().to_string(), said);
        }
    }
}
