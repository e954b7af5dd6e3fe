//! From a tree on this machine to mirrors: plan as a value, then apply (docs/mirrors.md).
//!
//! Pure: what a target can do is a trait ([`Remote`]), the clock is an argument. So every step of a publication can
//! be the last in a test, and every order of its steps and a garbage collection's is tried (`model`).
//!
//! * [`PublishPlan`]: what lacks there, compared with the release that the target says it has.
//! * [`publish`]: blocks, then indexes, then the release; a look that all is there; `latest` last.
//! * [`gc`]: what no release in retention names is marked, and removed after the grace period.

mod apply;
mod clock;
mod held_lease;
mod lease;
pub mod gc;
#[cfg(test)]
mod model;
mod remote_path;
mod plan;
mod remote;
mod release_state;
mod tombstones;

pub use crate::recipe::target::{BadTarget, S3, Target};
pub use apply::{Job, PublishError, PublishOptions, PublishResult, publish, serial_at, survey};
pub use clock::ClockDoubt;
pub use lease::{Lease, LeaseToken};
pub use plan::{PublishPlan, PublishPlanError, TargetContents, block_item};
pub use release_state::{
    Either, OfRemote, ReleaseState, ReleaseStateError, follow, image_files, objects, read_indexes,
    read_latest, read_named, read_state,
};
pub use remote::{Clock, DatedFile, FileToSend, Listed, MirrorFiles, Remote, RemoteError};
pub use remote_path::{CONTROL_DIR, Control, RemotePath};
pub use tombstones::{TombstoneFault, Tombstones};
