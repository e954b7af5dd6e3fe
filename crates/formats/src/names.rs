//! Image names, serials, times, block sizes.
//!
//! What comes from the network is read into these types, and paths are written from them, so no text from the
//! network becomes part of a path.

use std::fmt;
use std::str::FromStr;

use crate::report;

/// Name of an image or of a release: 1 to 64 of `a-z`, `0-9` and `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// Longest name in bytes.
    pub const MAX: usize = 64;

    /// The name as text, 1 to 64 of `a-z`, `0-9` and `-`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that is not an [`ImageName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a name: names have 1 to 64 of a-z, 0-9 and -", clip(.0))]
pub struct BadName(String);

impl FromStr for ImageName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let fits = (1..=Self::MAX).contains(&text.len());
        let plain = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if fits && plain { Ok(ImageName(text.into())) } else { Err(BadName(text.into())) }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Number of a release: 1 to 2^63 - 1. A later release has a higher one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(u64);

impl Serial {
    /// The serial of a distribution's first release.
    pub const FIRST: Serial = Serial(1);
    /// The highest serial that the text formats can hold.
    pub const MAX: Serial = Serial(i64::MAX as u64);

    /// `None` for 0 and for more than [`Serial::MAX`].
    pub const fn new(number: u64) -> Option<Self> {
        if number == 0 || number > Self::MAX.0 { None } else { Some(Serial(number)) }
    }

    /// The serial as a number, 1 to `i64::MAX`.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The serial after this one; `None` after [`Serial::MAX`].
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }
}

/// Reads a number in its only form: digits, no sign, no leading zeros.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    if plain && canonical { text.parse().ok() } else { None }
}

/// Text that is not a [`Serial`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a serial: 1 to 9223372036854775807, without leading zeros", clip(.0))]
pub struct BadSerial(String);

impl FromStr for Serial {
    type Err = BadSerial;
    fn from_str(text: &str) -> Result<Self, BadSerial> {
        decimal(text).and_then(Serial::new).ok_or_else(|| BadSerial(text.into()))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A point in time: seconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// A date for people: `2026-11-21 00:25 UTC`.
    pub fn date(self) -> String {
        let minutes = self.0 / 60 % 1440;
        let day = report::date(self.0.try_into().unwrap_or(i64::MAX));
        format!("{day} {:02}:{:02} UTC", minutes / 60, minutes % 60)
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Raw bytes of every block of an image but the last, which may have fewer: a multiple of 4 KiB, from 4 KiB to
/// 4 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize(u32);

impl BlockSize {
    /// 256 KiB (the paper, section 3.2).
    pub const DEFAULT: BlockSize = BlockSize(256 << 10);
    /// The smallest; the others are multiples of it.
    pub const STEP: u32 = 4096;
    /// The largest block that an index may have, in bytes.
    pub const MAX: BlockSize = BlockSize(4 << 20);

    /// `None` when it is not a multiple of 4 KiB from 4 KiB to 4 MiB.
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes == 0 || bytes > Self::MAX.0 || !bytes.is_multiple_of(Self::STEP) {
            None
        } else {
            Some(BlockSize(bytes))
        }
    }

    /// The size in bytes.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// At most 80 characters of text from outside, for messages.
pub fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(80).collect();
    if clipped.len() < text.len() {
        clipped.push('…');
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (time, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_795_205_345, "2026-11-20 20:09 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(UnixTime(time).date(), text);
        }
    }
}
