//! The one place that touches the system: files, processes, signals, terminals, the network.

/// A line that only `imgfetch --verbose` shows.
macro_rules! detail {
    ($($text:tt)+) => { log::info!(target: $crate::host::daemon::DETAIL, $($text)+) };
}
pub(crate) use detail;

#[cfg(feature = "builder")]
pub mod apt;
pub mod cache;
pub mod clock;
pub mod daemon;
pub mod engine;
#[cfg(feature = "builder")]
pub mod client;
#[cfg(feature = "builder")]
pub mod directory;
pub mod files;
pub mod fuse;
pub mod http;
pub mod origin;
pub mod status;
pub mod threads;
#[cfg(feature = "builder")]
pub mod image;
#[cfg(feature = "builder")]
pub mod keys;
#[cfg(feature = "builder")]
pub mod needs;
#[cfg(feature = "builder")]
pub mod mirror;
#[cfg(feature = "builder")]
pub mod overlay;
#[cfg(feature = "builder")]
pub mod process;
#[cfg(feature = "builder")]
pub mod progress;
#[cfg(feature = "builder")]
pub mod project;
#[cfg(feature = "builder")]
pub mod published;
#[cfg(feature = "builder")]
pub mod qemu;
#[cfg(feature = "builder")]
pub mod remote;
#[cfg(feature = "builder")]
pub mod serve;
#[cfg(feature = "builder")]
pub mod signals;
#[cfg(feature = "builder")]
pub mod sources;
#[cfg(feature = "builder")]
pub mod spool;
#[cfg(feature = "builder")]
pub mod store;
#[cfg(feature = "builder")]
pub mod terminal;
