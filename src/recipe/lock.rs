//! The lock of a recipe, `recipes/NAME.lock`: what files of others are known by.
//!
//! ```text
//! imgfactory-lock 1
//! sha512:<128 hex> https://cdn.netbsd.org/pub/NetBSD/NetBSD-10.1/amd64/binary/sets/base.tar.xz
//! ```
//!
//! The URL is the first that the recipe has for the file; other mirrors must have the same file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::foreign::sums::Sum;

const FIRST_LINE: &str = "imgfactory-lock 1";

/// A lock of more than this is none.
pub const LIMIT: u64 = 1 << 20;

/// The checksums of the third-party sources, by URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// The first URL of a file, and its sum.
    pub sums: BTreeMap<String, Sum>,
}

/// What is wrong with a lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Another file, or another version.
    #[error("its first line is not `{FIRST_LINE}`; write it again: imgfactory lock RECIPE")]
    Kind,
    /// A line that is wrong.
    #[error("line {line}: not `sha256:HEX URL` or `sha512:HEX URL`: {text:?}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// The first characters of the line.
        text: String,
    },
    /// One URL with two sums.
    #[error("line {line}: {url} is listed twice")]
    Twice { line: usize, url: String },
}

impl Lock {
    /// Reads a lock.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn parse(text: &str) -> Result<Self, LockError> {
        let mut lines = (1..).zip(text.lines());
        if lines.next().is_none_or(|(_, first)| first != FIRST_LINE) {
            return Err(LockError::Kind);
        }
        let mut sums = BTreeMap::new();
        for (line, text) in lines.filter(|(_, text)| !text.is_empty()) {
            let bad = || LockError::Line { line, text: text.chars().take(160).collect() };
            let (sum, url) = text.split_once(' ').ok_or_else(bad)?;
            let (algorithm, hex) = sum.split_once(':').ok_or_else(bad)?;
            let sum = Sum::new(&algorithm.to_uppercase(), hex).and_then(Result::ok);
            let sum = sum.filter(|sum| sum.algorithm().to_string() == algorithm).ok_or_else(bad)?;
            if sums.insert(url.to_owned(), sum).is_some() {
                return Err(LockError::Twice { line, url: url.to_owned() });
            }
        }
        Ok(Lock { sums })
    }

    /// Returns the text of the lock file; [`Lock::parse`] reads it.
    pub fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        for (url, sum) in &self.sums {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{sum} {url}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_faults_are_told_by_line() {
        let sums = [
            ("http://a.example/x.iso".to_owned(), Sum::Sha256("a".repeat(64).parse().unwrap())),
            ("http://a.example/y".to_owned(), Sum::Sha512("b".repeat(128).parse().unwrap())),
        ];
        let lock = Lock { sums: sums.into() };
        let text = lock.text();
        assert_eq!(Lock::parse(&text), Ok(lock));
        let line = text.lines().nth(1).unwrap();
        for (text, said) in [
            (
                "",
                "its first line is not `imgfactory-lock 1`; write it again: imgfactory lock RECIPE"
                    .to_owned(),
            ),
            (
                "imgfactory-lock 1\nsha1:00 x",
                "line 2: not `sha256:HEX URL` or `sha512:HEX URL`: \"sha1:00 x\"".to_owned(),
            ),
            (
                &format!("imgfactory-lock 1\n{line}\n{line}\n"),
                "line 3: http://a.example/x.iso is listed twice".to_owned(),
            ),
        ] {
            assert_eq!(Lock::parse(text).unwrap_err().to_string(), said);
        }
    }
}
