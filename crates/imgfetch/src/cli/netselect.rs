//! `imgfetch netselect`: which mirrors answer, how fast, with which release.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Failure;
use super::args::Netselect;
use super::source::{self, SourceError};
use crate::engine::millis;
use crate::trust::ask_all;
use formats::release::{Latest, Verified};
use system::http::{Http, RedirectScope, Timeouts};
use system::output::print;

/// One line of the ranking.
#[derive(Serialize)]
struct RankingLine {
    mirror: String,
    /// Connection, request, first byte of the answer; then the same without the connection.
    first_ms: Option<u64>,
    again_ms: Option<u64>,
    /// Of a release that our keys have signed.
    serial: Option<u64>,
    fault: Option<String>,
}

pub(super) fn run(args: &Netselect) -> Result<bool, Failure> {
    let keys = if args.keys.is_empty() { None } else { Some(source::keys(&args.keys)?) };
    let mirrors = source::mirrors(&args.mirrors, args.mirrors_file.as_deref())?;
    let options = source::http_options(None, None, RedirectScope::AnyHost);
    let http = Arc::new(Http::open(&options, 2, Timeouts::default()).map_err(SourceError::from)?);
    let until = Instant::now() + args.budget;
    let mut lines: Vec<(Option<Duration>, RankingLine)> = mirrors
        .iter()
        .map(|mirror| {
            let fault = Some("the mirror did not answer in time".into());
            let mirror = mirror.to_string();
            (None, RankingLine { mirror, first_ms: None, again_ms: None, serial: None, fault })
        })
        .collect();
    for turn in 0..2 {
        for (place, answer) in ask_all(&http, &mirrors, until) {
            let Some((time, line)) = lines.get_mut(place) else { continue };
            match answer {
                Ok(_) if turn > 0 && line.fault.is_some() => {}
                Ok(answer) => {
                    let open = |keys| Verified::<Latest>::open(&answer.bytes, keys);
                    match keys.as_ref().map(open).transpose() {
                        Ok(latest) => {
                            line.serial = latest.map(|latest| latest.serial.get());
                            line.fault = None;
                            let shown = if turn == 0 { &mut line.first_ms } else { &mut line.again_ms };
                            *shown = Some(millis(answer.first_byte));
                            *time = Some(answer.first_byte);
                        }
                        Err(error) => line.fault = Some(error.to_string()),
                    }
                }
                Err(fault) => line.fault = Some(fault.to_string()),
            }
        }
    }
    let newest = lines.iter().filter_map(|(_, line)| line.serial).max();
    // Those that are up to date, by time; then those that are behind; then those that failed.
    let rank = |(time, line): &(Option<Duration>, RankingLine)| {
        (line.fault.is_some(), line.serial < newest, time.unwrap_or(Duration::MAX))
    };
    let mut ranked: Vec<(Option<Duration>, RankingLine)> = Vec::new();
    for line in lines {
        let at = ranked.iter().position(|other| rank(&line) < rank(other)).unwrap_or(ranked.len());
        ranked.insert(at, line);
    }
    let lines: Vec<RankingLine> = ranked.into_iter().map(|(_, line)| line).collect();
    if args.json {
        print(&(serde_json::to_string(&lines)? + "\n"))?;
    } else {
        print(&table(&lines))?;
    }
    Ok(lines.first().is_some_and(|best| best.fault.is_none()))
}

fn table(lines: &[RankingLine]) -> String {
    let width = lines.iter().map(|line| line.mirror.len()).max().unwrap_or(0).max("mirror".len());
    let mut text =
        format!("{:>4}  {:width$}  {:>8}  {:>8}  {:>7}\n", "", "mirror", "first ms", "again ms", "release");
    for (rank, line) in (1..).zip(lines) {
        let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        let (first, again, serial) = (number(line.first_ms), number(line.again_ms), number(line.serial));
        let fault = line.fault.as_ref().map(|fault| format!("  {fault}")).unwrap_or_default();
        let _ =
            writeln!(text, "{rank:>4}  {:width$}  {first:>8}  {again:>8}  {serial:>7}{fault}", line.mirror);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_mirror_with_its_fault() {
        let line = |mirror: &str, ms, fault: Option<&str>| RankingLine {
            mirror: mirror.into(),
            first_ms: ms,
            again_ms: ms.map(|ms| ms / 2),
            serial: ms.map(|_| 42),
            fault: fault.map(Into::into),
        };
        let lines = [line("http://near.example/", Some(20), None), line("http://a/", None, Some("refused"))];
        assert_eq!(
            table(&lines),
            "      mirror                first ms  again ms  release\n   1  http://near.example/        20        10       42\n   2  http://a/                    -         -        -  refused\n"
        );
    }
}
