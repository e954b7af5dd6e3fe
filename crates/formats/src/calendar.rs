//! Days of the Gregorian calendar: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms". Years begin in
//! March there, so that a leap day is the last of its year.

/// Days from 1970-01-01 to 0000-03-01, backwards.
const TO_MARCH_0: i64 = 719_468;
/// Days of 400 years.
const ERA: i64 = 146_097;

/// Days from 1970-01-01 to this day; months and days from 1.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year - TO_MARCH_0
}

/// Year, month and day, so many days after 1970-01-01; the inverse of [`days_from_civil`].
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + TO_MARCH_0;
    let (era, of_era) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// Seconds since 1970 of `[DAY, ]DD MON YYYY HH:MM:SS UTC`, as in mail and in HTTP.
pub fn seconds_of_date(date: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let date = date.split_once(',').map_or(date, |(_, rest)| rest);
    let words: Vec<&str> = date.split_whitespace().collect();
    let [day, month, year, time, zone] = words[..] else { return None };
    if !matches!(zone, "UTC" | "GMT" | "+0000") {
        return None;
    }
    let number = |text: &str, most: i64| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|&number: &i64| digits && number <= most)
    };
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let (day, year) = (number(day, 31).filter(|&day| day > 0)?, number(year, 9999)?);
    let clock: Vec<i64> = time.split(':').map(|part| number(part, 60)).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = clock[..] else { return None };
    Some(days_from_civil(year, month, day) * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_inverses() {
        let mut before = civil_from_days(-150_001);
        for days in -150_000..150_000 {
            let date @ (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days, "{date:?}");
            assert!(date > before && (1..=12).contains(&month) && (1..=31).contains(&day), "{date:?}");
            before = date;
        }
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(days_from_civil(2024, 2, 29), 19_782);
    }

    #[test]
    fn dates_are_seconds_since_1970() {
        // Judge: date -u -d "..." +%s
        for (date, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", 0),
            ("Sat, 12 Sep 2026 07:55:41 UTC", 1_789_199_741),
            ("Thu, 29 Feb 2024 23:59:59 +0000", 1_709_251_199),
            ("1 Mar 2100 00:00:00 GMT", 4_107_542_400),
        ] {
            assert_eq!(seconds_of_date(date), Some(expected), "{date}");
        }
        for date in [
            "",
            "Sat, 12 Sep 2026",
            "Sat, 12 Foo 2026 07:55:41 UTC",
            "Sat, 12 Sep 2026 07:55:41 CET",
            "Sat, 99 Sep 2026 07:55:41 UTC",
            "Sat, 12 Sep 2026 07:55 UTC",
            "Sat, 12 Sep +26 07:55:41 UTC",
        ] {
            assert_eq!(seconds_of_date(date), None, "{date}");
        }
    }
}
