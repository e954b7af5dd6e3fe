//! Trees of releases where they lie: the local store of a build, the targets of `publish`, mirrors of others.

pub mod commit;
pub mod mirror;
pub mod published;
pub mod server;
pub mod store;
pub mod targets;
