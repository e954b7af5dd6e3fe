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
}
