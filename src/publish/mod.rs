//! From a tree on this machine to mirrors: plan as a value, then apply (docs/mirrors.md).
//!
//! Pure: what a target can do is a trait ([`Remote`]), the clock is an argument. So every step of a publication can
//! be the last in a test, and every order of its steps and a garbage collection's is tried (`model`).
//!
//! * [`PublishPlan`]: what lacks there, compared with the release that the target says it has.
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
pub use apply::{Job, PublishError, PublishOptions, PublishResult, publish, serial_at, survey};
pub use flag::{Lease, LeaseToken};
pub use place::{CONTROL_DIR, Control, RemotePath};
pub use plan::{PublishPlan, PublishPlanError, TargetContents, block_item};
pub use remote::{Clock, FileToSend, Listed, MirrorFiles, Remote, RemoteError};
pub use state::{
    Either, OfRemote, ReleaseState, ReleaseStateError, follow, image_files, objects, read_indexes,
    read_latest, read_named, read_state,
};
pub use tombstones::{TombstoneFault, Tombstones};
