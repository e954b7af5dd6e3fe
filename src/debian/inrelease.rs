//! The head of an InRelease file: when an archive was published.
//!
//! Nothing is verified here: apt does that when mmdebstrap runs, and refuses to go on with other bytes than the
//! ones hashed here. Source: Debian's repository format, *"Release" files*.

use formats::calendar::seconds_of_date;
use formats::digest::Sha256;

/// Longest InRelease file that makes sense, bytes. Debian's are 0.1 to 0.2 MB.
pub const LIMIT: u64 = 16 << 20;

/// What we need of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InRelease {
    /// `Date:`, seconds since 1970.
    pub date: i64,
    /// SHA-256 of the whole file, lower-case hex.
    pub sha256: Sha256,
}

/// Why something is no InRelease file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InReleaseError {
    /// Something else came, a login page perhaps.
    #[error("not an InRelease file: it has no `Date:` line; it begins with `{0}`")]
    NoDate(String),
    /// A date that can't be read.
    #[error("`Date: {0}` is not of the form `Sat, 12 Sep 2026 07:55:41 UTC`")]
    Date(String),
}

impl InRelease {
    /// Takes the head of an InRelease file apart.
    ///
    /// # Errors
    /// [`InReleaseError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, InReleaseError> {
        let field = bytes.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Date:"));
        let Some(date) = field else {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
            return Err(InReleaseError::NoDate(start.lines().next().unwrap_or_default().to_owned()));
        };
        let date = String::from_utf8_lossy(date).trim().to_owned();
        let seconds = seconds_of_date(&date).ok_or(InReleaseError::Date(date))?;
        let sha256 = Sha256::of(bytes);
        Ok(InRelease { date: seconds, sha256 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_read_and_the_whole_is_hashed() {
        let text = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\n\
                    Date: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n 00 1 main/x\n";
        let parsed = InRelease::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.date, 1_789_199_741);
        assert_eq!(parsed.sha256, Sha256::of(text.as_bytes()));
        assert_ne!(parsed, InRelease::parse(format!("{text} ").as_bytes()).unwrap());
    }

    #[test]
    fn other_files_are_refused_with_their_beginning() {
        for (bytes, message) in [
            (
                &b"<html>\n<title>Log in</title>"[..],
                "not an InRelease file: it has no `Date:` line; it begins with `<html>`",
            ),
            (b"", "not an InRelease file: it has no `Date:` line; it begins with ``"),
            (b"Date: soon\n", "`Date: soon` is not of the form `Sat, 12 Sep 2026 07:55:41 UTC`"),
        ] {
            assert_eq!(InRelease::parse(bytes).unwrap_err().to_string(), message);
        }
    }
}
