//! Which block next, from which mirror, when to try again and when to give up. Pure: time is an argument, and
//! nothing here opens a socket or a file, so every schedule is tested by simulation (`sim`).
//!
//! [`BlockScheduler`] is the state machine, and says there how it is to be called and what it promises. The threads around it are
//! `crate::engine`. The core knows blocks by number and never sees a byte of them.

mod read_ahead;
mod core;
mod extent;
mod mirrors;
mod concurrency;
mod ram;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::core::{
    Arrived, BlockFetch, BlockScheduler, Config, LastFault, LookupResult, SPARE, SchedulerAction,
};
pub use extent::{Piece, pieces};
pub use formats::fetch_fault::{FailureScope, FetchFault as Fault, Wait};
pub use mirrors::{Backoff, Health, Hedge, Recent};
pub use ram::Ram;
pub use read_ahead::{ReadAhead, ReadAheadGuess};

pub use formats::index::ObjectId;

/// A point in time: since whatever moment the shell chose, never going back.
pub type Time = Duration;

/// A read that waits for blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// A mirror: its place in the list, 0 to [`MirrorId::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MirrorId(pub u8);

impl MirrorId {
    /// The last one there can be: a set of mirrors is a `u64`.
    pub const MAX: MirrorId = MirrorId(63);
}

/// One request to a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);
