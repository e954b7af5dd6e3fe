//! Checksum files in BSD's form, as NetBSD, FreeBSD and `cksum` have them: `SHA512 (base.tar.xz) = <hex>`.

use std::collections::BTreeMap;
use std::fmt;

use formats::digest::{Sha256, Sha512};

/// A file of more than this is none: real ones have some hundred lines.
pub const LIMIT: u64 = 1 << 20;

/// The checksum of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sum {
    /// 64 hex digits.
    Sha256(Sha256),
    /// 128 hex digits.
    Sha512(Sha512),
}

/// An algorithm of checksums, the stronger ones last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        })
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SumsError {
    /// Not of the form.
    #[error("line {line}: not `SHA512 (NAME) = HEX`: {text:?}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Its first bytes, lossily.
        text: String,
    },
    /// Not the digits that the algorithm has.
    #[error("line {line}: {name}: {found} instead of {want} lower-case hex digits")]
    Digits {
        /// Its number, from 1.
        line: usize,
        name: String,
        found: String,
        /// How many digits there must be.
        want: usize,
    },
    /// One name with two sums.
    #[error("line {line}: {name} is listed twice with different checksums")]
    Twice {
        /// Its number, from 1.
        line: usize,
        name: String,
    },
}

impl Sum {
    /// Checks digits. `algorithm` as in the file: `SHA256`, `SHA512`; `None` for others.
    pub fn new(algorithm: &str, hex: &str) -> Option<Result<Self, usize>> {
        match algorithm {
            "SHA256" => Some(hex.parse().map(Sum::Sha256).map_err(|_| 64)),
            "SHA512" => Some(hex.parse().map(Sum::Sha512).map_err(|_| 128)),
            _ => None,
        }
    }

    /// The algorithm of the checksum.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Sum::Sha256(_) => Algorithm::Sha256,
            Sum::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The checksum as lower-case hex digits.
    pub fn hex(&self) -> String {
        match self {
            Sum::Sha256(sum) => sum.to_string(),
            Sum::Sha512(sum) => sum.to_string(),
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

/// Sums by file name. Lines of other algorithms (MD5, SHA1, RMD160) are passed over; of one name with two
/// algorithms the stronger one counts.
///
/// # Errors
/// [`SumsError`] for the first line that is wrong.
pub fn parse(text: &[u8]) -> Result<BTreeMap<String, Sum>, SumsError> {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for (line, text) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        let bytes = text.trim_ascii();
        if bytes.is_empty() {
            continue;
        }
        let bad = || {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
            SumsError::Line { line, text }
        };
        let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
        let (algorithm, rest) = text.split_once(" (").ok_or_else(bad)?;
        let (name, hex) = rest.rsplit_once(") = ").ok_or_else(bad)?;
        if algorithm.is_empty() || !algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(bad());
        }
        let sum = match Sum::new(algorithm, hex) {
            None => continue,
            Some(Ok(sum)) => sum,
            Some(Err(want)) => {
                let found = format!("`{}`", hex.chars().take(140).collect::<String>());
                return Err(SumsError::Digits { line, name: name.to_owned(), found, want });
            }
        };
        let name = name.strip_prefix("./").unwrap_or(name).to_owned();
        match sums.get(&name) {
            Some(known) if known.algorithm() == sum.algorithm() && *known != sum => {
                return Err(SumsError::Twice { line, name });
            }
            Some(known) if known.algorithm() >= sum.algorithm() => {}
            _ => {
                sums.insert(name, sum);
            }
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_sum_of_each_file_is_taken() {
        let (short, long) = ("a".repeat(64), "b".repeat(128));
        let text = format!(
            "MD5 (base.tar.xz) = 0123\nSHA256 (base.tar.xz) = {short}\nSHA512 (base.tar.xz) = {long}\r\n\n\
             SHA256 (./a (b).tgz) = {short}\n"
        );
        let sums = parse(text.as_bytes()).unwrap();
        let expected = [
            ("a (b).tgz", Sum::Sha256(short.parse().unwrap())),
            ("base.tar.xz", Sum::Sha512(long.parse().unwrap())),
        ];
        assert_eq!(sums, expected.map(|(name, sum)| (name.to_owned(), sum)).into());
    }

    #[test]
    fn each_fault_is_told_by_its_line() {
        let long = "b".repeat(128);
        for (text, said) in [
            ("\nbase.tar.xz: 12".to_owned(), "line 2: not `SHA512 (NAME) = HEX`: \"base.tar.xz: 12\""),
            ("SHA512 (x) = 12".to_owned(), "line 1: x: `12` instead of 128 lower-case hex digits"),
            ("<html> (x) = 12".to_owned(), "line 1: not `SHA512 (NAME) = HEX`: \"<html> (x) = 12\""),
            (
                format!("SHA512 (x) = {long}\nSHA512 (x) = {}", "c".repeat(128)),
                "line 2: x is listed twice with different checksums",
            ),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().to_string(), said, "{text}");
        }
    }
}
