//! The clock on the wall.

use std::time::{SystemTime, UNIX_EPOCH};

use formats::names::UnixTime;
use formats::report;

/// Now, as this machine believes. A clock before 1970 is taken for 1970: it is wrong either way.
pub fn now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// A time for people: `2026-11-21 00:25 UTC`.
pub fn date(time: UnixTime) -> String {
    let minutes = time.0 / 60 % 1440;
    let day = report::date(time.0.try_into().unwrap_or(i64::MAX));
    format!("{day} {:02}:{:02} UTC", minutes / 60, minutes % 60)
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
            assert_eq!(date(UnixTime(time)), text);
        }
    }
}
