//! What can go wrong with one request, and what the failure counts against: the mirror, or the file there.

use std::time::Duration;

use crate::block::BlockDamage;

/// Which wait was too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For the host's address.
    Name,
    /// For a connection, TLS and proxies included.
    Connection,
    /// For the first byte of the answer.
    FirstByte,
    /// For the next bytes of the body.
    MoreBytes,
    /// For the whole answer.
    Whole,
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Wait::Name => "the address of the host was not found in time",
            Wait::Connection => "no connection in time",
            Wait::FirstByte => "connected, but no answer in time",
            Wait::MoreBytes => "the answer stopped in the middle",
            Wait::Whole => "the answer was too slow",
        })
    }
}

/// Why a request did not give the file. Messages have the mirror's URL before these texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchFault {
    /// Refused, unreachable, no such host.
    #[error("can't connect: {0}")]
    Unreachable(String),
    /// No secure connection: the server is there, and what it presents is not accepted, or nothing is in common.
    #[error("no secure connection: {0}")]
    Tls(String),
    /// A proxy on the way refuses.
    #[error("the proxy refuses: {0}")]
    Proxy(String),
    /// Something did not come in time.
    #[error("{0}")]
    TimedOut(Wait),
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The file is not there.
    #[error("HTTP {0}: the mirror does not have the file")]
    Missing(u16),
    /// The mirror asks to wait: 429 and 503.
    #[error("HTTP {status}: the mirror is busy")]
    Busy { status: u16, after: Option<Duration> },
    #[error("HTTP {0}")]
    Status(u16),
    /// Too many redirects, or one that is not followed.
    #[error("redirect refused: {0}")]
    Redirect(String),
    /// A body in an encoding (gzip, for one) that was not asked for.
    #[error("the mirror sent the body with Content-Encoding `{0}`, which was not asked for")]
    Encoded(String),
    /// A body of another length than the signed one.
    #[error("the file has {found} bytes instead of {want}")]
    Length {
        /// Bytes that came, or that the mirror announced.
        found: u64,
        /// Bytes that the index or the release says.
        want: u64,
    },
    /// A body without a known length that does not end.
    #[error("the file is longer than the {limit} bytes allowed")]
    TooLong {
        /// The highest length allowed, in bytes.
        limit: u64,
    },
    /// A web page in place of the file.
    #[error("a web page instead of the file; perhaps a login page (captive portal)")]
    WebPage,
    /// Other bytes than the signed ones.
    #[error(transparent)]
    Damaged(#[from] BlockDamage),
    /// Other bytes than the signed ones, in a file that is not a block.
    #[error("{0}")]
    NotSigned(String),
    /// The file is signed by a key that is not trusted, which may be the publisher's next.
    #[error("{0}")]
    UnknownKey(String),
    #[error("not HTTP: {0}")]
    Protocol(String),
}

/// What a failure counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureScope {
    /// The mirror: it is not used for a while.
    Mirror,
    /// The file on this mirror: another mirror is asked for it.
    File,
    /// Nothing: the mirror is not used for as long as it asked.
    Busy(Option<Duration>),
}

impl FetchFault {
    /// What it counts against.
    pub fn blame(&self) -> FailureScope {
        match self {
            FetchFault::Unreachable(_)
            | FetchFault::Tls(_)
            | FetchFault::Proxy(_)
            | FetchFault::TimedOut(_)
            | FetchFault::Broken(_)
            | FetchFault::Protocol(_)
            | FetchFault::Status(500..) => FailureScope::Mirror,
            FetchFault::Busy { after, .. } => FailureScope::Busy(*after),
            FetchFault::Missing(_)
            | FetchFault::Status(_)
            | FetchFault::Redirect(_)
            | FetchFault::Encoded(_)
            | FetchFault::Length { .. }
            | FetchFault::TooLong { .. }
            | FetchFault::WebPage
            | FetchFault::Damaged(_)
            | FetchFault::NotSigned(_)
            | FetchFault::UnknownKey(_) => FailureScope::File,
        }
    }

    /// Whether it may be for want of a network.
    pub fn may_be_the_network(&self) -> bool {
        matches!(self, FetchFault::Unreachable(_) | FetchFault::TimedOut(_) | FetchFault::Broken(_))
    }

    /// The same fault of a request that went through a proxy, which is then named.
    #[must_use]
    pub fn by_way_of(self, proxy: Option<&str>) -> Self {
        match (self, proxy) {
            (FetchFault::Unreachable(text), Some(proxy)) => {
                FetchFault::Unreachable(format!("{text}, by way of the proxy {proxy}"))
            }
            (FetchFault::Proxy(text), Some(proxy)) => FetchFault::Proxy(format!("{proxy}: {text}")),
            (other, _) => other,
        }
    }

    /// Whether bytes came that are not the signed ones: something on the way may keep a bad copy, so the next
    /// request asks past caches.
    pub fn is_wrong_bytes(&self) -> bool {
        matches!(
            self,
            FetchFault::Damaged(_)
                | FetchFault::NotSigned(_)
                | FetchFault::UnknownKey(_)
                | FetchFault::WebPage
                | FetchFault::Length { .. }
                | FetchFault::TooLong { .. }
        )
    }
}
