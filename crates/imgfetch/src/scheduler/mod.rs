//! Which block next, from which mirror, when to try again and when to give up. Pure: time is an argument, and
//! nothing here opens a socket or a file, so every schedule is tested by simulation (`sim`).
//!
//! [`Core`] is a state machine. The shell around it (`host::engine`) tells it what happened ([`Core::read`],
//! [`Core::loaded`], [`Core::fetched`]) and asks what to do ([`Core::poll`]) until nothing is left; then it
//! waits for the next event or for [`Core::next_wakeup`]. The core knows blocks by number and never sees a
//! byte of them.
//!
//! What it promises, whatever mirrors do: a block has at most one request in flight, or two when somebody waits
//! for it and the first takes too long; a demand read starts before any prefetch; every read is finished or
//! failed by its deadline, if there is one.

mod ahead;
mod core;
mod extent;
mod mirrors;
mod pace;
mod ram;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::core::{Action, Arrived, Config, Core, Found, LastFault, SPARE};
pub use ahead::{Ahead, Guess};
pub use extent::{Piece, pieces};
pub use formats::fetch_fault::{Blame, FetchFault as Fault, Wait};
pub use mirrors::{Health, Hedge, Recent, Rest};
pub use ram::Ram;

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
