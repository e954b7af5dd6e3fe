//! The client: the disk of a published release as a file, its blocks fetched over HTTP while they are read.
//!
//! ```text
//! trust: latest -> release -> index      scheduler: which block, from which mirror, when again
//! engine: threads around the scheduler   cache: verified blocks on a disk      fuse: the device
//! ```
//!
//! Start with [`scheduler`], which is pure, and with `cli::mount`, which puts the parts together.
#![deny(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "they panic when their output is closed or full"
)]

/// A line that only `imgfetch --verbose` shows.
macro_rules! detail {
    ($($text:tt)+) => { log::info!(target: $crate::daemon::DETAIL, $($text)+) };
}

pub mod jitter;
pub mod scheduler;

pub mod threads;
pub mod daemon;
pub mod cache;
pub mod engine;
pub mod trust;
pub mod fuse;
pub mod status;
pub mod cli;
