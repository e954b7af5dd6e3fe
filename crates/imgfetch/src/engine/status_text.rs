//! How things stand, in words for people and in Prometheus' text form.

use std::fmt::Write as _;

use super::Snapshot;
use super::snapshot::MirrorState;

/// A figure of a mirror, if it is known.
type Figure = fn(&MirrorState) -> Option<u64>;

impl Snapshot {
    /// The text exposition format of Prometheus, version 0.0.4. Names begin with `imgfetch_`, times are in
    /// milliseconds.
    pub fn metrics(&self, image: &str) -> String {
        let mut text = String::new();
        let c = &self.counters;
        // A name ends with `_total` if its value only goes up.
        for (name, value) in [
            ("reads_total", c.reads),
            ("read_bytes_total", c.read_bytes),
            ("reads_failed_total", c.reads_failed),
            ("ram_hits_total", c.ram_hits),
            ("cache_hits_total", c.cache_hits),
            ("cache_misses_total", c.cache_misses),
            ("cache_damaged_total", c.cache_damaged),
            ("requests_total", c.requests),
            ("requests_hedged_total", c.hedged),
            ("faults_total", c.faults),
            ("fetched_blocks_total", c.fetched_blocks),
            ("fetched_bytes_total", c.fetched_bytes),
            ("prefetched_blocks_total", c.prefetched_blocks),
            ("prefetched_read_blocks_total", c.prefetched_read),
            ("reads_waiting", self.reads_waiting as u64),
            ("waiting_ms", self.waiting_ms),
            ("prefetch_left_blocks", self.prefetch_left as u64),
            ("connections_allowed", self.connections as u64),
            ("ram_bytes", self.ram_bytes as u64),
            ("cache_blocks", self.cache_blocks.unwrap_or(0) as u64),
            ("cache_bytes", self.cache_bytes.unwrap_or(0)),
            ("cache_full", u64::from(self.cache_full == Some(true))),
            // Bytes read of a hundred that were fetched.
            ("occupancy_percent", c.read_bytes.saturating_mul(100) / c.fetched_raw_bytes.max(1)),
        ] {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            let _ =
                writeln!(text, "# TYPE imgfetch_{name} {kind}\nimgfetch_{name}{{image=\"{image}\"}} {value}");
        }
        let of_mirrors: [(&str, &str, Figure); 6] = [
            ("mirror_blocks_total", "counter", |m| Some(m.good)),
            ("mirror_bytes_total", "counter", |m| Some(m.bytes)),
            ("mirror_up", "gauge", |m| Some(u64::from(m.state != "down"))),
            ("mirror_first_byte_p50_ms", "gauge", |m| m.first_byte_p50_ms),
            ("mirror_block_p50_ms", "gauge", |m| m.p50_ms),
            ("mirror_block_p95_ms", "gauge", |m| m.p95_ms),
        ];
        for (name, kind, value) in of_mirrors {
            let _ = writeln!(text, "# TYPE imgfetch_{name} {kind}");
            for mirror in &self.mirrors {
                if let Some(value) = value(mirror) {
                    // A mirror's address has neither quotes nor backslashes.
                    let url = &mirror.url;
                    let _ = writeln!(text, "imgfetch_{name}{{image=\"{image}\",mirror=\"{url}\"}} {value}");
                }
            }
        }
        text
    }

    /// A few lines for `imgfetch status --watch`.
    pub fn text(&self) -> String {
        let c = &self.counters;
        let mut text = String::new();
        let hits = c.ram_hits + c.cache_hits;
        let asked = hits + c.fetched_blocks.saturating_sub(c.prefetched_blocks);
        let _ = writeln!(
            text,
            "reads    {} ({}), {} failed; {}% from memory and cache",
            c.reads,
            bytes(c.read_bytes),
            c.reads_failed,
            hits * 100 / asked.max(1)
        );
        let _ = writeln!(
            text,
            "fetched  {} blocks ({}) by {} requests, {} faults, {} asked twice; up to {} at once",
            c.fetched_blocks,
            bytes(c.fetched_bytes),
            c.requests,
            c.faults,
            c.hedged,
            self.connections
        );
        let _ = writeln!(
            text,
            "ahead    {} blocks, {} of them read since; {}",
            c.prefetched_blocks,
            c.prefetched_read,
            self.progress().unwrap_or_else(|| "nothing more to fetch".into())
        );
        if let (Some(blocks), Some(size)) = (self.cache_blocks, self.cache_bytes) {
            let full = if self.cache_full == Some(true) { "; no room for more" } else { "" };
            let _ = writeln!(text, "cache    {blocks} blocks ({}){full}", bytes(size));
        }
        for mirror in &self.mirrors {
            let time = |ms: Option<u64>| ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
            let _ = writeln!(
                text,
                "mirror   {:8} {:>8} p50 {:>8} p95  {:>10}  {}",
                mirror.state,
                time(mirror.p50_ms),
                time(mirror.p95_ms),
                bytes(mirror.bytes),
                mirror.url
            );
        }
        if let Some(outage) = self.outage() {
            let _ = writeln!(text, "{outage}");
        }
        text
    }

    /// How far the prefetch list is fetched; `None` when there is none or it is done.
    pub fn progress(&self) -> Option<String> {
        if self.prefetch_left == 0 || self.prefetch_total == 0 {
            return None;
        }
        let done = self.prefetch_total - self.prefetch_left.min(self.prefetch_total);
        let tenths = done * 20 / self.prefetch_total;
        let bar: String = (0..20).map(|n| if n < tenths { '#' } else { '.' }).collect();
        let rate = bytes(self.rate);
        Some(format!("[{bar}] {done} of {} blocks ahead, {rate}/s", self.prefetch_total))
    }

    /// What is to be said while a read waits too long: since when, which mirrors, what comes next.
    pub fn outage(&self) -> Option<String> {
        if self.waiting_ms < 3000 {
            return None;
        }
        let mut text = format!("a read has waited for {} s", self.waiting_ms / 1000);
        for mirror in &self.mirrors {
            let asked = || self.in_flight.iter().filter(|asked| asked.mirror == mirror.url);
            if mirror.state != "good" {
                let _ = write!(text, "; {} is {}", mirror.url, mirror.state);
                if let Some(since) = mirror.bad_for_ms {
                    let _ = write!(text, " for {} s", since / 1000);
                }
            } else if let Some(since) = asked().map(|asked| asked.for_ms).max().filter(|ms| *ms >= 1000) {
                let _ = write!(text, "; {} was asked {} s ago", mirror.url, since / 1000);
            }
        }
        text.push_str("; they are asked again all the time, ");
        let _ = match self.deadline_ms {
            None => write!(text, "and the read waits until one answers"),
            Some(deadline) => {
                write!(text, "and the read fails in {} s", deadline.saturating_sub(self.waiting_ms) / 1000)
            }
        };
        if let Some(error) = self.last_errors.last() {
            let _ = write!(text, " (last: {})", error.text);
        }
        Some(text)
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{} kB", count / 1000),
        _ => format!("{} MB", count / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::snapshot::{InFlight, LastError};

    #[test]
    fn an_outage_is_told_with_who_is_down_since_when_and_what_comes_next() {
        let mirror = |url: &str, state, bad_for_ms| MirrorState {
            url: url.into(),
            state,
            bad_for_ms,
            ..MirrorState::default()
        };
        let mirrors = vec![
            mirror("http://a.example/", "down", Some(70_000)),
            mirror("http://b.example/", "good", None),
            mirror("http://c.example/", "busy", None),
        ];
        let last_errors = vec![LastError { at_ms: 1, text: "http://a.example/: can't connect".into() }];
        let waiting = |waiting_ms, deadline_ms| Snapshot {
            waiting_ms,
            deadline_ms,
            mirrors: mirrors.clone(),
            last_errors: last_errors.clone(),
            ..Snapshot::default()
        };
        assert_eq!(waiting(2999, None).outage(), None);
        // At first nobody knows whether it is the mirror.
        let in_flight = ["http://b.example/", "http://a.example/"];
        let in_flight =
            in_flight.map(|mirror| InFlight { block: "00".into(), mirror: mirror.into(), for_ms: 3100 });
        let first = Snapshot { in_flight: in_flight.into(), ..waiting(3100, None) }.outage().unwrap();
        assert!(
            first.contains(
                "a.example/ is down for 70 s; http://b.example/ was asked 3 s ago; http://c.example/ is"
            ),
            "{first}"
        );
        let who = "http://a.example/ is down for 70 s; http://c.example/ is busy; they are asked again all the time";
        let last = "(last: http://a.example/: can't connect)";
        for (deadline, next) in
            [(None, "the read waits until one answers"), (Some(300_000), "the read fails in 225 s")]
        {
            let want = format!("a read has waited for 75 s; {who}, and {next} {last}");
            assert_eq!(waiting(75_000, deadline).outage(), Some(want));
        }
    }
}
