//! What the clock says about a `latest`.

use std::fmt;

use formats::names::{Serial, UnixTime};
use formats::release::Latest;

/// What the clock says about a `latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    Fresh,
    Expired { serial: Serial, expires: UnixTime },
    Unknown { serial: Serial, now: UnixTime, published: UnixTime },
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Freshness::Fresh => f.write_str("fresh"),
            Freshness::Expired { serial, expires } => {
                write!(f, "latest: release {serial} has expired on {}", expires.date())
            }
            Freshness::Unknown { serial, now, published } => write!(
                f,
                "latest: the clock says {}, and release {serial} is of {}: set the clock; until then \
                 the client can't tell whether a newer release exists",
                now.date(),
                published.date()
            ),
        }
    }
}

pub(super) fn freshness(latest: &Latest, now: UnixTime) -> Freshness {
    let Latest { serial, published, expires, .. } = *latest;
    if now < published {
        Freshness::Unknown { serial, now, published }
    } else if now > expires {
        Freshness::Expired { serial, expires }
    } else {
        Freshness::Fresh
    }
}
