//! How things stand, for `imgfetch status`.

use serde::Serialize;

use crate::scheduler::{Health, Time};
use formats::url::MirrorUrl;

/// Everything that was counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Reads of the disk.
    pub reads: u64,
    /// Bytes they asked for.
    pub read_bytes: u64,
    /// Reads that ended with an error.
    pub reads_failed: u64,
    /// Blocks of reads that RAM had.
    pub ram_hits: u64,
    /// Blocks that the cache had.
    pub cache_hits: u64,
    /// Blocks that the cache did not have.
    pub cache_misses: u64,
    /// Blocks looked for in the cache ahead of need.
    pub cache_peeks: u64,
    /// Blocks that were damaged in the cache.
    pub cache_damaged: u64,
    /// Blocks that were not kept, because the disk did not keep up.
    pub not_kept: u64,
    /// Requests for blocks.
    pub requests: u64,
    /// Requests that brought nothing that can be used.
    pub faults: u64,
    /// Blocks that came over the network.
    pub fetched_blocks: u64,
    pub fetched_bytes: u64,
    /// The bytes of the disk in them.
    pub fetched_raw_bytes: u64,
    /// Those of them that nobody had asked for yet.
    pub prefetched_blocks: u64,
    /// Those of these that were read later.
    pub prefetched_read: u64,
    /// Second requests made beside one that took too long.
    pub hedged: u64,
}

/// The statistics of one mirror.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MirrorState {
    pub url: String,
    /// `good`, `doubtful` (had wrong or missing files), `busy`, or `down`.
    pub state: &'static str,
    /// Failures since its last good answer.
    pub failures: u32,
    /// Milliseconds since the first of them; `null` while it is up.
    pub bad_for_ms: Option<u64>,
    pub good: u64,
    pub bytes: u64,
    /// Requests in flight.
    pub in_flight: u32,
    /// Milliseconds until the first byte of an answer, for half of the last ones; `null`: not known.
    pub first_byte_p50_ms: Option<u64>,
    /// Milliseconds for a block, for half of the last ones and for 95 % of them.
    pub p50_ms: Option<u64>,
    /// See `p50_ms`.
    pub p95_ms: Option<u64>,
    /// Milliseconds until it is asked again while another mirror does.
    pub rests_ms: u64,
}

impl MirrorState {
    pub(super) fn of(url: &MirrorUrl, health: &Health, now: Time) -> Self {
        let rests = health.backoff_until.saturating_sub(now);
        let state = match health {
            Health { failures: 1.., .. } => "down",
            _ if !rests.is_zero() => "busy",
            Health { doubt: 1.., .. } => "doubtful",
            _ => "good",
        };
        MirrorState {
            url: url.to_string(),
            state,
            failures: health.failures,
            bad_for_ms: health
                .bad_since
                .filter(|_| health.failures > 0)
                .map(|since| millis(now.saturating_sub(since))),
            good: health.good,
            bytes: health.bytes,
            in_flight: health.in_flight,
            first_byte_p50_ms: health.first_byte.quantile(50).map(millis),
            p50_ms: health.whole.quantile(50).map(millis),
            p95_ms: health.whole.quantile(95).map(millis),
            rests_ms: millis(rests),
        }
    }
}

/// A request in flight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InFlight {
    pub block: String,
    pub mirror: String,
    /// Milliseconds since it began.
    pub for_ms: u64,
}

/// An error of the past.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LastError {
    /// Milliseconds after the start.
    pub at_ms: u64,
    pub text: String,
}

/// All of it at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// In the order in which they were given.
    pub mirrors: Vec<MirrorState>,
    pub counters: Counters,
    /// Reads that wait for blocks now.
    pub reads_waiting: usize,
    /// For how long the longest of them has waited, in milliseconds.
    pub waiting_ms: u64,
    /// After how long a read fails; `null`: never.
    pub deadline_ms: Option<u64>,
    /// Blocks of the prefetch list that are not begun.
    pub prefetch_left: usize,
    /// Blocks of the list when it was given.
    pub prefetch_total: usize,
    /// Whether the list was dropped because it is of another disk.
    pub prefetch_stale: bool,
    /// Requests that may be in flight at once, as found out.
    pub connections: usize,
    /// Bytes a second that the network gave at best while that was found out.
    pub rate: u64,
    /// Requests in flight.
    pub in_flight: Vec<InFlight>,
    /// Bytes of inflated blocks in RAM.
    pub ram_bytes: usize,
    pub ram_limit: usize,
    /// Blocks in the cache, as far as they are counted; `null` without a cache.
    pub cache_blocks: Option<usize>,
    pub cache_bytes: Option<u64>,
    /// Whether there is no room for blocks.
    pub cache_full: Option<bool>,
    /// Blocks that the disk would not take.
    pub cache_write_errors: Option<u64>,
    pub last_errors: Vec<LastError>,
}

/// Milliseconds, as the status shows times: whole numbers, so that no code to print others is needed.
pub fn millis(time: Time) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
