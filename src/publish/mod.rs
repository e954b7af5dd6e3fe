//! From a tree on this machine to mirrors: plan as a value, then apply (docs/mirrors.md).
//!
//! Pure: what a target can do is a trait ([`Remote`]), the clock is an argument. So every step of a publication can
//! be the last in a test, and every order of its steps and a garbage collection's is tried (`model`).
//!
//! * [`Plan`]: what lacks there, compared with the release that the target says it has.
//! * [`publish`]: blocks, then indexes, then the release; a look that all is there; `latest` last.
//! * [`gc`]: what no release in retention names is condemned, and removed after a grace.

mod apply;
mod flag;
pub mod gc;
#[cfg(test)]
mod model;
mod place;
mod plan;
mod remote;
mod state;
mod tombstones;

pub use crate::recipe::target::{BadTarget, S3, Target};
pub use apply::{Done, Job, Options, PublishError, publish, serial_at, survey};
pub use flag::{Flag, Token};
pub use place::{CONTROL_DIR, Control, Place};
pub use plan::{Held, Plan, PlanError, block_item};
pub use remote::{Clock, Files, Item, Listed, Remote, RemoteError};
pub use state::{
    Either, OfRemote, State, StateError, follow, image_files, objects, read_indexes, read_latest, read_named,
    read_state,
};
pub use tombstones::{TombstoneFault, Tombstones};
