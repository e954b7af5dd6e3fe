//! The clock on the wall.

use std::time::{SystemTime, UNIX_EPOCH};

use formats::names::UnixTime;

/// Now, as this machine believes. A clock before 1970 is taken for 1970: it is wrong either way.
pub fn now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
