//! How far the work is: bars on a terminal, lines in a log, nothing in tests.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use formats::passwords::without_passwords;
use formats::report::{elapsed, size};

/// Unit of a progress bar or line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as KiB, MiB, ...
    Bytes,
    /// Things, by their plural: `blocks`, `packages`.
    Things(&'static str),
}

impl Unit {
    fn show(self, n: u64) -> String {
        match self {
            Unit::Bytes => size(n),
            Unit::Things(what) => format!("{n} {what}"),
        }
    }
}

/// Where progress is shown.
pub trait Progress: Send + Sync {
    /// Something begins. `total` 0 means that the total is not known yet.
    fn start(&self, what: &str, total: u64, unit: Unit) -> Box<dyn Task>;

    /// A line for people, between the bars.
    fn say(&self, line: &str);
}

/// Something under way. It ends when dropped.
pub trait Task: Send + Sync {
    /// `n` more are done. Any thread may say so.
    fn advance(&self, n: u64);
}

/// Bars when standard error is a terminal, lines otherwise; nothing when `quiet`.
pub fn for_standard_error(quiet: bool) -> Arc<dyn Progress> {
    if quiet {
        Arc::new(Silent)
    } else if std::io::stderr().is_terminal() {
        Arc::new(BarProgress::new())
    } else {
        Arc::new(LineProgress::new(std::io::stderr()))
    }
}

/// Shows no progress: for `--quiet` and tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: u64, _: Unit) -> Box<dyn Task> {
        Box::new(Silent)
    }

    fn say(&self, _: &str) {}
}

impl Task for Silent {
    fn advance(&self, _: u64) {}
}

/// One bar a task on a terminal; a finished one becomes a line.
#[derive(Debug)]
pub struct BarProgress {
    bars: MultiProgress,
}

impl BarProgress {
    /// Bars on standard error.
    pub fn new() -> Self {
        BarProgress { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)) }
    }
}

impl Default for BarProgress {
    fn default() -> Self {
        BarProgress::new()
    }
}

impl Progress for BarProgress {
    fn start(&self, what: &str, total: u64, unit: Unit) -> Box<dyn Task> {
        let figures = match unit {
            Unit::Bytes => "{binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}".to_owned(),
            Unit::Things(things) => format!("{{pos}}/{{len}} {things}"),
        };
        let (bar, template) = if total == 0 {
            (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}".to_owned())
        } else {
            (ProgressBar::new(total), format!("  {{msg}} {{wide_bar}} {figures} {{eta}}"))
        };
        // The templates are the four above; without a style the bar looks plainer, that is all.
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("=> "));
        }
        let bar = self.bars.add(bar.with_message(what.to_owned()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Box::new(Bar { bars: self.bars.clone(), bar, count: TaskCount::new(what, total, unit) })
    }

    fn say(&self, line: &str) {
        // A terminal that is gone is no reason to stop the work.
        let _ = self.bars.println(without_passwords(line));
    }
}

struct Bar {
    bars: MultiProgress,
    bar: ProgressBar,
    count: TaskCount,
}

impl Task for Bar {
    fn advance(&self, n: u64) {
        self.count.add(n, Instant::now());
        self.bar.inc(n);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        let _ = self.bars.println(self.count.last_line(Instant::now()));
    }
}

/// A line when a task begins, every 5 seconds, and when it ends.
#[derive(Debug)]
pub struct LineProgress<W> {
    out: Arc<Mutex<W>>,
}

impl<W: Write + Send + 'static> LineProgress<W> {
    /// Progress as plain lines, written to `out`.
    pub fn new(out: W) -> Self {
        LineProgress { out: Arc::new(Mutex::new(out)) }
    }
}

impl<W: Write + Send + 'static> Progress for LineProgress<W> {
    fn start(&self, what: &str, total: u64, unit: Unit) -> Box<dyn Task> {
        let count = TaskCount::new(what, total, unit);
        self.say(&if total == 0 {
            format!("{what} ...")
        } else {
            format!("{what}: {} ...", unit.show(total))
        });
        Box::new(LineTask { out: self.out.clone(), count })
    }

    fn say(&self, line: &str) {
        print(&self.out, line);
    }
}

fn print<W: Write>(out: &Mutex<W>, line: &str) {
    // A log that can't be written is no reason to stop the work.
    let _ = writeln!(out.lock().unwrap_or_else(PoisonError::into_inner), "{}", without_passwords(line));
}

struct LineTask<W: Write> {
    out: Arc<Mutex<W>>,
    count: TaskCount,
}

impl<W: Write + Send> Task for LineTask<W> {
    fn advance(&self, n: u64) {
        if let Some(line) = self.count.add(n, Instant::now()) {
            print(&self.out, &line);
        }
    }
}

impl<W: Write> Drop for LineTask<W> {
    fn drop(&mut self) {
        print(&self.out, &self.count.last_line(Instant::now()));
    }
}

/// Time between two lines of one task.
const PERIOD: Duration = Duration::from_secs(5);

/// What a task has done. Time is an argument.
struct TaskCount {
    what: String,
    total: u64,
    unit: Unit,
    began: Instant,
    /// How many are done, and when that was last said.
    done: Mutex<(u64, Instant)>,
}

impl TaskCount {
    fn new(what: &str, total: u64, unit: Unit) -> Self {
        let now = Instant::now();
        TaskCount { what: what.to_owned(), total, unit, began: now, done: Mutex::new((0, now)) }
    }

    /// Counts `n` more; gives a line when it is time for one.
    fn add(&self, n: u64, now: Instant) -> Option<String> {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.0 = done.0.saturating_add(n);
        if now.saturating_duration_since(done.1) < PERIOD {
            return None;
        }
        done.1 = now;
        Some(format!("{}: {}", self.what, self.amount(done.0)))
    }

    fn last_line(&self, now: Instant) -> String {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).0;
        let time = elapsed(now.saturating_duration_since(self.began));
        if self.total == 0 && done == 0 {
            format!("{}: {time}", self.what)
        } else if done >= self.total {
            format!("{}: {} in {time}", self.what, self.unit.show(done))
        } else {
            format!("{}: {}, ended after {time}", self.what, self.amount(done))
        }
    }

    fn amount(&self, done: u64) -> String {
        match (u128::from(done) * 100).checked_div(u128::from(self.total)) {
            Some(percent) => format!("{percent} % of {}", self.unit.show(self.total)),
            None => self.unit.show(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_a_line_at_the_start_every_five_seconds_and_at_the_end() {
        let count = TaskCount::new("blocks", 4800, Unit::Things("blocks"));
        let at = |millis| count.began + Duration::from_millis(millis);
        let said: Vec<Option<String>> =
            [4999, 5000, 7000, 10_001].map(|millis| count.add(500, at(millis))).into();
        assert_eq!(
            said,
            [
                None,
                Some("blocks: 20 % of 4800 blocks".into()),
                None,
                Some("blocks: 41 % of 4800 blocks".into())
            ]
        );
        assert_eq!(count.last_line(at(11_000)), "blocks: 41 % of 4800 blocks, ended after 11 s");
        count.add(2800, at(12_000));
        assert_eq!(count.last_line(at(12_000)), "blocks: 4800 blocks in 12 s");
    }

    #[test]
    fn an_unknown_total_is_counted_without_percent() {
        let count = TaskCount::new("tree", 0, Unit::Bytes);
        let at = |secs| count.began + Duration::from_secs(secs);
        assert_eq!(count.last_line(at(3)), "tree: 3.0 s");
        assert_eq!(count.add(3 << 20, at(6)), Some("tree: 3 MiB".into()));
        assert_eq!(count.last_line(at(7)), "tree: 3 MiB in 7.0 s");
    }

    #[test]
    fn lines_go_to_their_writer_in_order() {
        let lines = LineProgress::new(Vec::new());
        let out = lines.out.clone();
        let task = lines.start("copy", 2048, Unit::Bytes);
        task.advance(2048);
        lines.say("a word");
        drop(task);
        let text = String::from_utf8(out.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "copy: 2 KiB ...\na word\ncopy: 2 KiB in 0.0 s\n");
    }
}
