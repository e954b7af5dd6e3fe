//! `.imgfactory/publishing` and `.imgfactory/collecting`: who works on a target, until when at the latest.
//!
//! A target can do little more than take a file whole. So mutual exclusion is what two leases and the order of
//! reads and writes give: each side *writes its own lease, then reads the other's*. Whichever wrote second sees the
//! first. Nothing here needs a server that compares and swaps.

use std::fmt;

use formats::names::UnixTime;
use formats::text::{At, Lines, TextFault};

/// Seconds for which a lease is valid that is not renewed: 10 minutes.
pub const SECONDS: u64 = 600;

/// A lease: the file with which a publisher or a collector keeps others away from a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose: by it a publisher that was killed knows its own lease again.
    pub token: LeaseToken,
    /// Which machine, for people: 1 to 64 letters, digits, `.`, `-`.
    pub host: String,
    /// When the lease was taken or renewed.
    pub since: UnixTime,
    /// Until when it is valid.
    pub until: UnixTime,
}

/// A word by which a program knows its own lease: 1 to 64 of `a-z`, `0-9`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseToken(String);

impl LeaseToken {
    /// Takes a word of 1 to 64 of `a-z`, `0-9`.
    pub fn new(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        (plain && (1..=64).contains(&text.len())).then(|| LeaseToken(text.into()))
    }

    /// As it is written in the file.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is wrong with a lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseFault {
    /// Not even a text of the right shape.
    #[error(transparent)]
    Text(#[from] TextFault),
    /// A word that can't be there.
    #[error("`{}` is not a {what}", formats::names::clip(found))]
    Word {
        /// `token` or `host`.
        what: &'static str,
        /// What the file has instead.
        found: String,
    },
}

impl Lease {
    /// A lease from now on.
    pub fn new(token: &LeaseToken, host: &str, now: UnixTime) -> Self {
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let mut host: String = host.chars().filter(plain).take(64).collect();
        if host.is_empty() {
            host = "unknown".into();
        }
        Lease { token: token.clone(), host, since: now, until: UnixTime(now.0.saturating_add(SECONDS)) }
    }

    /// The same for a while longer.
    pub fn renewed(&self, now: UnixTime) -> Self {
        Lease { until: UnixTime(now.0.saturating_add(SECONDS)), ..self.clone() }
    }

    /// When it was last written, by the clock of its writer.
    pub fn renewed_at(&self) -> UnixTime {
        UnixTime(self.until.0.saturating_sub(SECONDS))
    }

    /// Whether the lease is still valid at `now`.
    pub fn is_fresh(&self, now: UnixTime) -> bool {
        now <= self.until
    }

    /// Contents of the file.
    pub fn to_text(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }

    /// Reads the canonical text.
    ///
    /// # Errors
    /// The line and its [`LeaseFault`].
    pub fn decode(text: &[u8]) -> Result<Self, At<LeaseFault>> {
        let mut lines = Lines::new(text, 4096, 256);
        decode(&mut lines).map_err(|fault| At { file: "flag", line: lines.number(), fault })
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lease { token: LeaseToken(token), host, since, until } = self;
        write!(f, "imgfactory-flag 1\ntoken: {token}\nhost: {host}\nsince: {since}\nuntil: {until}\nend\n")
    }
}

fn decode(lines: &mut Lines<&[u8]>) -> Result<Lease, LeaseFault> {
    lines.heading("imgfactory-flag")?;
    let word = |what, found: &str| LeaseFault::Word { what, found: found.into() };
    let token = lines.field("token:")?;
    let token = LeaseToken::new(token).ok_or_else(|| word("token", token))?;
    let host = lines.field("host:")?;
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    if !plain || !(1..=64).contains(&host.len()) {
        return Err(word("host", host));
    }
    let host = host.to_owned();
    let (since, until) = (lines.time("since:")?, lines.time("until:")?);
    lines.end()?;
    Ok(Lease { token, host, since, until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_read_as_it_was_written_and_nothing_else_is() {
        let token = LeaseToken::new("0a1b").unwrap();
        let lease = Lease::new(&token, "ci runner.example", UnixTime(1000));
        let text = "imgfactory-flag 1\ntoken: 0a1b\nhost: cirunner.example\nsince: 1000\nuntil: 1600\nend\n";
        assert_eq!(lease.to_string(), text);
        assert_eq!(Lease::decode(text.as_bytes()).unwrap(), lease);
        assert!(lease.is_fresh(UnixTime(1600)) && !lease.is_fresh(UnixTime(1601)));
        assert!(lease.renewed(UnixTime(1500)).is_fresh(UnixTime(2100)));
        for (from, to, said) in [
            ("0a1b", "../x", "flag:2: `../x` is not a token"),
            ("cirunner.example", "a b", "flag:3: `a b` is not a host"),
            ("end\n", "", "flag:6: the file is truncated: no `end` line"),
            (
                "flag 1",
                "flag 2",
                "flag:1: version 2 is not supported; this program supports version 1; a newer program may read it",
            ),
        ] {
            let error = Lease::decode(text.replace(from, to).as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), said);
        }
    }
}
