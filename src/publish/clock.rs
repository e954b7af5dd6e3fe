//! Whether this computer's clock can be believed, before anything is removed by it. It is compared with what others
//! say: the target's own clock, the dates of the signed release, and the marks of earlier collections.

use formats::names::UnixTime;

use super::lease;

/// Seconds by which two clocks may differ: half of a lease, so that two publishers differ by less than a lease.
pub const TOLERANCE: u64 = lease::SECONDS / 2;

/// What contradicts this computer's clock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockDoubt {
    /// The target's clock shows another time.
    #[error("this computer's clock shows {}, the target's {}", ours.date(), theirs.date())]
    Target { ours: UnixTime, theirs: UnixTime },
    /// The newest release is not published yet.
    #[error("this computer's clock shows {}, but `latest` was published on {}", now.date(), published.date())]
    Behind { now: UnixTime, published: UnixTime },
    /// A file was marked for removal after now.
    #[error("this computer's clock shows {}, but a file was marked for removal on {}", now.date(), mark.date())]
    Mark { now: UnixTime, mark: UnixTime },
    /// `latest` has expired, and nothing confirms the clock.
    #[error(
        "this computer's clock shows {}, but `latest` expired on {}: either the clock is ahead, or the \
         release is not refreshed any more",
        now.date(),
        expires.date()
    )]
    Expired { now: UnixTime, expires: UnixTime },
}

/// Compares when a file of ours was written: by our clock, and by the target's.
///
/// # Errors
/// [`ClockDoubt::Target`].
pub fn compare(ours: UnixTime, theirs: UnixTime) -> Result<(), ClockDoubt> {
    if ours.0.abs_diff(theirs.0) > TOLERANCE { Err(ClockDoubt::Target { ours, theirs }) } else { Ok(()) }
}

/// Compares the clock with a release's publication and with the newest mark: neither can lie ahead.
///
/// # Errors
/// [`ClockDoubt::Behind`], [`ClockDoubt::Mark`].
pub fn not_behind(now: UnixTime, published: UnixTime, mark: Option<UnixTime>) -> Result<(), ClockDoubt> {
    let ahead = |time: UnixTime| time.0 > now.0.saturating_add(TOLERANCE);
    match mark {
        _ if ahead(published) => Err(ClockDoubt::Behind { now, published }),
        Some(mark) if ahead(mark) => Err(ClockDoubt::Mark { now, mark }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_doubted_when_it_differs_by_more_than_half_a_lease() {
        let at = UnixTime;
        for (ours, theirs, good) in [
            (1000, 1000, true),
            (1000, 1300, true),
            (1300, 1000, true),
            (1000, 1301, false),
            (1301, 1000, false),
        ] {
            assert_eq!(compare(at(ours), at(theirs)).is_ok(), good, "{ours} {theirs}");
        }
        let behind = |now, published, mark: Option<u64>| not_behind(at(now), at(published), mark.map(at));
        assert_eq!(behind(1000, 1300, Some(1300)), Ok(()));
        assert_eq!(behind(1000, 1301, None), Err(ClockDoubt::Behind { now: at(1000), published: at(1301) }));
        assert_eq!(behind(1000, 0, Some(1301)), Err(ClockDoubt::Mark { now: at(1000), mark: at(1301) }));
    }
}
