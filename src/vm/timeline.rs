//! What a boot says on its way, and when: from the console's lines to a table. Pure.

use std::fmt;
use std::time::Duration;

use crate::sys::traffic::Traffic;
use formats::report::size;

/// How a line tells that something has been reached.
#[derive(Clone, Copy, Debug)]
enum Sign {
    /// It has this text somewhere.
    Contains(&'static str),
    /// It begins like this.
    Begins(&'static str),
    /// It ends like this: a prompt.
    Ends(&'static str),
}

impl Sign {
    fn fits(self, line: &str) -> bool {
        match self {
            Sign::Contains(text) => line.contains(text),
            Sign::Begins(text) => line.starts_with(text),
            Sign::Ends(text) => line.ends_with(text),
        }
    }
}

/// The stage at which users may log in.
pub const LOGIN: &str = "login";

/// Stages of every boot, in order. Which of them are seen depends on the entry and on how much is printed: with
/// `quiet`, the kernel says nothing.
const STAGES: [(&str, Sign); 6] = [
    ("GRUB", Sign::Contains(": GRUB reads ")),
    ("Xen", Sign::Begins("(XEN) Xen version ")),
    ("kernel", Sign::Contains("Linux version ")),
    ("network", Sign::Begins("imgfactory: network: ")),
    ("root file system", Sign::Begins("imgfactory: starting ")),
    (LOGIN, Sign::Ends(" login:")),
];

/// After these, nothing that is waited for comes any more.
const FATAL: [Sign; 3] = [
    Sign::Begins("imgfactory: FAILED: "),
    Sign::Contains("Kernel panic - not syncing"),
    Sign::Begins("(XEN) Panic on CPU"),
];

/// Something that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Time since the machine was started.
    pub at: Duration,
    /// What the mirror had given by then, if it is ours.
    pub traffic: Option<Traffic>,
}

/// What is expected of a boot and what of it has been seen.
#[derive(Clone, Debug)]
pub struct Timeline {
    stages: [Option<Reached>; STAGES.len()],
    /// Text that some line must have, in any order.
    expected: Vec<(String, Option<Reached>)>,
}

/// What a line means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleEvent {
    /// A line that is no milestone of the boot.
    Nothing,
    /// Something was reached for the first time.
    Reached(String),
    /// The boot has failed, as with a kernel panic.
    Fatal,
}

impl Timeline {
    /// Waits for lines with each of these texts.
    pub fn new(expected: impl IntoIterator<Item = String>) -> Self {
        let expected = expected.into_iter().map(|text| (text, None)).collect();
        Timeline { stages: [None; STAGES.len()], expected }
    }

    /// Takes a line, or as much of one as there is.
    pub fn hear(&mut self, line: &str, now: Reached) -> ConsoleEvent {
        let mut heard = Vec::new();
        for ((name, sign), reached) in STAGES.iter().zip(&mut self.stages) {
            if reached.is_none() && sign.fits(line) {
                *reached = Some(now);
                heard.push((*name).to_owned());
            }
        }
        for (text, reached) in &mut self.expected {
            if reached.is_none() && line.contains(text.as_str()) {
                *reached = Some(now);
                heard.push(text.clone());
            }
        }
        if !heard.is_empty() {
            ConsoleEvent::Reached(heard.join(", "))
        } else if FATAL.iter().any(|sign| sign.fits(line)) {
            ConsoleEvent::Fatal
        } else {
            ConsoleEvent::Nothing
        }
    }

    /// Whether all that is expected was seen.
    pub fn is_complete(&self) -> bool {
        self.expected.iter().all(|(_, reached)| reached.is_some())
    }

    /// What is expected and was not seen.
    pub fn missing(&self) -> Vec<&str> {
        self.expected.iter().filter(|(_, reached)| reached.is_none()).map(|(text, _)| text.as_str()).collect()
    }
}

/// A table of what was reached, in the order of time; traffic only if there are figures.
impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages = STAGES.iter().map(|(name, _)| *name).zip(self.stages);
        let expected = self.expected.iter().map(|(text, reached)| (text.as_str(), *reached));
        let mut rows: Vec<(&str, Reached)> = stages
            .chain(expected)
            .filter_map(|(name, reached)| reached.map(|reached| (name, reached)))
            .collect();
        rows.sort_by_key(|(_, reached)| reached.at);
        let figures = rows.iter().any(|(_, reached)| reached.traffic.is_some());
        write!(f, "{:>10}", "after")?;
        if figures {
            write!(f, "{:>10}{:>12}", "requests", "fetched")?;
        }
        write!(f, "   reached")?;
        for (name, Reached { at, traffic }) in rows {
            write!(f, "\n{:>8.1} s", at.as_secs_f64())?;
            if let Some(Traffic { requests, bytes }) = traffic {
                write!(f, "{requests:>10}{:>12}", size(bytes))?;
            }
            write!(f, "   {name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64, requests: u64) -> Reached {
        let traffic = Some(Traffic { requests, bytes: requests * 100_000 });
        Reached { at: Duration::from_secs(secs), traffic }
    }

    #[test]
    fn a_boot_is_followed_from_grub_to_the_last_expected_line() {
        let mut timeline = Timeline::new(["host ready abc".to_owned(), "guest ready abc".to_owned()]);
        for (second, line, heard) in [
            (1, "imgfactory: demo: GRUB reads hd96, entry xen", Some("GRUB")),
            (2, "(XEN) Xen version 4.20.4-pre (Debian ...)", Some("Xen")),
            (3, "[    0.000000] Linux version 6.12.107+deb13-amd64", Some("kernel")),
            (3, "[    0.000000] Linux version 6.12.107+deb13-amd64", None),
            (9, "imgfactory: network: eth0 10.0.2.15/24", Some("network")),
            (12, "imgfactory: starting /sbin/init of demo's host", Some("root file system")),
            (20, "demo guest ready ab", None),
            (30, "[ 21.0] demo guest ready abc", Some("guest ready abc")),
            (35, "demo login:", Some("login")),
        ] {
            let expected = heard.map_or(ConsoleEvent::Nothing, |name| ConsoleEvent::Reached(name.to_owned()));
            assert_eq!(timeline.hear(line, at(second, second)), expected, "{line}");
        }
        assert_eq!(timeline.missing(), ["host ready abc"]);
        assert!(!timeline.is_complete());
        timeline.hear("demo host ready abc", at(40, 341));
        assert!(timeline.is_complete());
        assert_eq!(
            timeline.to_string(),
            "     after  requests     fetched   reached\n\
             \x20    1.0 s         1    97.6 KiB   GRUB\n\
             \x20    2.0 s         2     195 KiB   Xen\n\
             \x20    3.0 s         3     292 KiB   kernel\n\
             \x20    9.0 s         9     878 KiB   network\n\
             \x20   12.0 s        12     1.1 MiB   root file system\n\
             \x20   30.0 s        30     2.8 MiB   guest ready abc\n\
             \x20   35.0 s        35     3.3 MiB   login\n\
             \x20   40.0 s       341    32.5 MiB   host ready abc"
        );
    }

    #[test]
    fn what_ends_a_boot_is_known() {
        for (line, heard) in [
            ("imgfactory: FAILED: no network: no cable in: eth0", ConsoleEvent::Fatal),
            ("[    4.2] Kernel panic - not syncing: Attempted to kill init!", ConsoleEvent::Fatal),
            ("(XEN) Panic on CPU 0:", ConsoleEvent::Fatal),
            ("imgfactory: looking for a network", ConsoleEvent::Nothing),
        ] {
            assert_eq!(Timeline::new(["x".to_owned()]).hear(line, at(1, 0)), heard, "{line}");
        }
        // Unless it is just what is waited for.
        let mut timeline = Timeline::new(["FAILED: no network".to_owned()]);
        assert_eq!(
            timeline.hear("imgfactory: FAILED: no network: no cable", at(1, 0)),
            ConsoleEvent::Reached("FAILED: no network".into())
        );
    }

    #[test]
    fn without_a_server_of_ours_the_table_has_no_traffic() {
        let mut timeline = Timeline::new([]);
        timeline.hear("demo login:", Reached { at: Duration::from_millis(1500), traffic: None });
        assert_eq!(timeline.to_string(), "     after   reached\n     1.5 s   login");
    }
}
