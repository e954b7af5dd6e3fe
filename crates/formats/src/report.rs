//! Errors, sizes and times worded for people, in both binaries; exit codes.

use std::error::Error;
use std::process::{ExitCode, Termination};
use std::time::Duration;

use crate::calendar::civil_from_days;

/// How a program of ours ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// 1: it failed; the reason was printed.
    Failed,
    /// 2: it was not started rightly: wrong options or arguments.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
        })
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}

/// Words an error and its causes: `error: ` and the error's text, then one `caused by: ` line for each
/// source. A source that the text above it already ends with is left out; text of several lines is indented
/// below its first. Ends without a line feed.
pub fn report(error: &(dyn Error + 'static)) -> String {
    let mut above = error.to_string();
    let mut text = format!("error: {}", indented(&above));
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !above.ends_with(&said) {
            text.push_str("\n  caused by: ");
            text.push_str(&indented(&said));
            above = said;
        }
        source = cause.source();
    }
    text
}

/// Continuation lines of a message, set off from the next message.
fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n  ")
}

/// A number of bytes: `0 B`, `1023 B`, `64 MiB`, `3.2 GiB`. Three significant digits, cut and not rounded, so
/// that nothing is said to be more than it is.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // A u64 has at most 6 full groups of 10 bits, so the index stays below 7.
    let unit = (bytes.checked_ilog2().unwrap_or(0) / 10) as usize;
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    if unit == 0 || tenths >= 1000 || tenths.is_multiple_of(10) {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// A number of things, by the name of one: `1 file`, `2 files`.
pub fn counted(count: impl Into<u64>, thing: &str) -> String {
    let count = count.into();
    if count == 1 { format!("{count} {thing}") } else { format!("{count} {thing}s") }
}

/// A time span: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`.
pub fn elapsed(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{secs} s"),
        60..3600 => format!("{} min {:02} s", secs / 60, secs % 60),
        _ => format!("{} h {:02} min", secs / 3600, secs / 60 % 60),
    }
}

/// The day of a time in UTC, `2026-09-12`.
pub fn date(seconds: i64) -> String {
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    enum Step {
        #[error("out/demo: can't write the index")]
        Write(#[source] io::Error),
        #[error("{0}")]
        Pasted(#[source] io::Error),
        #[error("mmdebstrap: exit status 1; its last lines:\nE: no network\nE: stop")]
        Tool,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("recipes/demo.yaml: no tree of `host`")]
    struct Outer(#[source] Step);

    #[test]
    fn a_chain_is_worded_once_from_the_outside_in() {
        let gone = || io::Error::other("the disk is gone");
        let cases: [(Box<dyn Error>, &str); 4] = [
            (
                Box::new(Step::Tool),
                "error: mmdebstrap: exit status 1; its last lines:\n  E: no network\n  E: stop",
            ),
            (
                Box::new(Outer(Step::Write(gone()))),
                "error: recipes/demo.yaml: no tree of `host`\n  caused by: out/demo: can't write the index\n  \
                 caused by: the disk is gone",
            ),
            (Box::new(Step::Pasted(gone())), "error: the disk is gone"),
            (
                Box::new(Outer(Step::Pasted(gone()))),
                "error: recipes/demo.yaml: no tree of `host`\n  caused by: the disk is gone",
            ),
        ];
        for (error, said) in cases {
            assert_eq!(report(error.as_ref()), said);
        }
    }

    #[test]
    fn sizes_have_a_unit_and_never_say_more_than_there_is() {
        for (bytes, said) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1_048_575, "1023 KiB"),
            (64 << 20, "64 MiB"),
            (3_499_999_999, "3.2 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), said, "{bytes}");
        }
    }

    #[test]
    fn times_are_short() {
        for (millis, said) in [
            (0, "0.0 s"),
            (440, "0.4 s"),
            (12_900, "12 s"),
            (185_000, "3 min 05 s"),
            (7_800_000, "2 h 10 min"),
        ] {
            assert_eq!(elapsed(Duration::from_millis(millis)), said, "{millis}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, day) in [
            (0, "1970-01-01"),
            (1_789_199_741, "2026-09-12"),
            (1_709_251_199, "2024-02-29"),
            (4_107_542_400, "2100-03-01"),
            (-1, "1969-12-31"),
        ] {
            assert_eq!(date(seconds), day);
        }
    }
}
