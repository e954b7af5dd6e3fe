//! Canonical text, the shape of every file of ours that is not a block: lines of printable ASCII, each ended by
//! one LF, words parted by one space, numbers without signs or leading zeros, keys in a fixed order. For each
//! value there is one text, so a text can be named by its hash.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::str::FromStr;

use crate::digest::BadHex;
use crate::names::{BadName, BadSerial, ImageName, Serial, UnixTime, clip, decimal};

/// Every key of version 1 of our texts. One of them in the wrong place is another mistake than a key of a later
/// version, or one that no version has.
const KEYS: [&str; 14] = [
    "base:",
    "block-size:",
    "blocks:",
    "expires:",
    "image:",
    "min-serial:",
    "mirrors:",
    "name:",
    "parent:",
    "published:",
    "release:",
    "retain-until:",
    "serial:",
    "size:",
];

/// A fault with its place, `index.idx:12: ...`. The file is the format's usual name: a decoder knows no paths.
#[derive(Debug)]
pub struct At<F> {
    /// The format's usual file name.
    pub file: &'static str,
    pub line: u64,
    /// What is wrong there.
    pub fault: F,
}

impl<F: fmt::Display> fmt::Display for At<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.fault)
    }
}

impl<F: std::error::Error> std::error::Error for At<F> {
    /// The fault's own source: its text is already part of ours.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.source()
    }
}

/// What is wrong with a canonical text before its meaning is looked at.
#[derive(Debug, thiserror::Error)]
pub enum TextFault {
    #[error("can't read")]
    Read(#[source] io::Error),
    /// The whole file is too long.
    #[error("the file is longer than {limit} bytes")]
    FileTooLong {
        /// The highest length allowed, in bytes.
        limit: u64,
    },
    /// A line is too long.
    #[error("the line is longer than {limit} bytes")]
    LineTooLong {
        /// Bytes allowed, LF included.
        limit: usize,
    },
    /// The file stops inside a line.
    #[error("the line has no end: the file is truncated")]
    NoLineEnd,
    /// The file stops before its last line.
    #[error("the file is truncated: no `{want}` line")]
    MissingEnd {
        /// First word of the line that ought to be last.
        want: &'static str,
    },
    /// Something follows the last line.
    #[error("more lines follow the `end` line")]
    AfterEnd,
    /// A byte that no canonical text has: a control character (CR too) or not ASCII.
    #[error("byte {byte:#04x} in the line; only printable ASCII may be there")]
    NotPlain { byte: u8 },
    #[error("begins with `{}`; a file of this kind begins with `{want} 1`", clip(found))]
    Kind { found: String, want: &'static str },
    /// The right format in a version that this program does not know.
    #[error(
        "version {} is not supported; this program supports version 1; a newer program may read it",
        clip(found)
    )]
    Version {
        /// The version of the file.
        found: String,
    },
    /// A line of another shape than the one that belongs here.
    #[error("`{}` instead of `{want}`", clip(found))]
    Shape {
        found: String,
        /// What it ought to look like.
        want: &'static str,
    },
    /// A key that this version does not have.
    #[error("unknown key `{}`; expected `{want}`", clip(found))]
    UnknownKey {
        found: String,
        /// The one that belongs here.
        want: &'static str,
    },
    /// Not a number in canonical form.
    #[error(
        "{what}: `{}` is not a number: digits, without sign or leading zeros, at most {max}",
        clip(found)
    )]
    Number { what: &'static str, found: String, max: u64 },
    /// The word has other characters than hexadecimal digits.
    #[error(transparent)]
    Hex(#[from] BadHex),
    #[error(transparent)]
    Name(#[from] BadName),
    #[error(transparent)]
    Serial(#[from] BadSerial),
}

/// As [`decimal`], with the field's name and largest value for the message.
pub fn number(what: &'static str, text: &str, max: u64) -> Result<u64, TextFault> {
    let fault = || TextFault::Number { what, found: text.into(), max };
    decimal(text).filter(|&number| number <= max).ok_or_else(fault)
}

/// As [`number`], for a field of 32 bits.
pub(crate) fn number32(what: &'static str, text: &str, max: u32) -> Result<u32, TextFault> {
    let fault = |_| TextFault::Number { what, found: text.into(), max: max.into() };
    number(what, text, max.into()).and_then(|number| u32::try_from(number).map_err(fault))
}

/// The words of a line, when they are as many as `shape` has; `shape` is shown when they are not.
pub fn words<'a, const N: usize>(line: &'a str, shape: &'static str) -> Result<[&'a str; N], TextFault> {
    let fault = || TextFault::Shape { found: line.into(), want: shape };
    let mut words = [""; N];
    let mut found = line.split(' ');
    for word in &mut words {
        *word = found.next().filter(|word| !word.is_empty()).ok_or_else(fault)?;
    }
    if found.next().is_some() { Err(fault()) } else { Ok(words) }
}

/// Lines of a canonical text, within limits. Memory is one line.
pub struct Lines<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
    left: u64,
    limit: u64,
    line_limit: usize,
}

impl<R: BufRead> Lines<R> {
    /// `limit` bytes in all, `line_limit` in a line with its LF.
    pub fn new(input: R, limit: u64, line_limit: usize) -> Self {
        Lines { input, line: Vec::new(), number: 0, left: limit, limit, line_limit }
    }

    /// Number of the line that [`Lines::next`] gave last, from 1; of the place after it at the end.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line without its LF; `None` at the end.
    pub fn next_line(&mut self) -> Result<Option<&str>, TextFault> {
        self.number += 1;
        self.line.clear();
        // One byte more than may be there, to notice it.
        let most = (self.line_limit as u64).min(self.left).saturating_add(1);
        (&mut self.input).take(most).read_until(b'\n', &mut self.line).map_err(TextFault::Read)?;
        let len = self.line.len();
        if len as u64 > self.left {
            return Err(TextFault::FileTooLong { limit: self.limit });
        }
        self.left -= len as u64;
        if len > self.line_limit {
            return Err(TextFault::LineTooLong { limit: self.line_limit });
        }
        match self.line.pop() {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) => return Err(TextFault::NoLineEnd),
        }
        match std::str::from_utf8(&self.line) {
            Ok(line) if line.bytes().all(|byte| matches!(byte, b' '..=b'~')) => Ok(Some(line)),
            _ => {
                let strange = |byte: &&u8| !matches!(**byte, b' '..=b'~');
                // One of the bytes is strange, or the line would have been taken above.
                let byte = self.line.iter().find(strange).copied().unwrap_or_default();
                Err(TextFault::NotPlain { byte })
            }
        }
    }

    /// The next line; `want` is the first word of the line without which the file is truncated.
    pub fn need(&mut self, want: &'static str) -> Result<&str, TextFault> {
        self.next_line()?.ok_or(TextFault::MissingEnd { want })
    }

    /// The first line: `<kind> 1`.
    pub fn heading(&mut self, kind: &'static str) -> Result<(), TextFault> {
        let line = self.next_line()?.unwrap_or_default();
        match line.split_once(' ') {
            Some((found, "1")) if found == kind => Ok(()),
            Some((found, version)) if found == kind => Err(TextFault::Version { found: version.into() }),
            _ => Err(TextFault::Kind { found: line.into(), want: kind }),
        }
    }

    /// A line `<key>: <value>`; `key` is given with its colon.
    pub fn field(&mut self, key: &'static str) -> Result<&str, TextFault> {
        let line = self.need("end")?;
        match line.split_once(' ') {
            Some((found, value)) if found == key => Ok(value),
            Some((found, _)) if found.ends_with(':') && !KEYS.contains(&found) => {
                Err(TextFault::UnknownKey { found: found.into(), want: key })
            }
            _ => Err(TextFault::Shape { found: line.into(), want: key }),
        }
    }

    /// A field whose value reads itself.
    pub fn parsed<T>(&mut self, key: &'static str) -> Result<T, TextFault>
    where
        T: FromStr,
        TextFault: From<T::Err>,
    {
        Ok(self.field(key)?.parse::<T>()?)
    }

    /// `name: ` or `image: `.
    pub fn name(&mut self, key: &'static str) -> Result<ImageName, TextFault> {
        self.parsed(key)
    }

    /// A field that is a serial.
    pub fn serial(&mut self, key: &'static str) -> Result<Serial, TextFault> {
        self.parsed(key)
    }

    /// A field that is a number.
    pub(crate) fn number_field(&mut self, key: &'static str, max: u64) -> Result<u64, TextFault> {
        number(key.trim_end_matches(':'), self.field(key)?, max)
    }

    /// A field that is a time.
    pub fn time(&mut self, key: &'static str) -> Result<UnixTime, TextFault> {
        // Below 2^63, so that differences and signed times of the system fit.
        self.number_field(key, i64::MAX as u64).map(UnixTime)
    }

    /// The line `end`, and nothing after it.
    pub fn end(&mut self) -> Result<(), TextFault> {
        match self.need("end")? {
            "end" => self.finish(),
            line => Err(TextFault::Shape { found: line.into(), want: "end" }),
        }
    }

    /// Checks that nothing follows the `end` line.
    pub fn finish(&mut self) -> Result<(), TextFault> {
        match self.next_line() {
            Ok(None) => Ok(()),
            Err(TextFault::Read(error)) => Err(TextFault::Read(error)),
            // Whatever it is that follows, and however it is damaged.
            Ok(Some(_)) | Err(_) => Err(TextFault::AfterEnd),
        }
    }
}
