//! The one place that touches the system: files, processes, signals, terminals, the network.

#[cfg(feature = "builder")]
pub mod apt;
pub mod cache;
pub mod files;
pub mod http;
#[cfg(feature = "builder")]
pub mod keys;
#[cfg(feature = "builder")]
pub mod needs;
#[cfg(feature = "builder")]
pub mod overlay;
#[cfg(feature = "builder")]
pub mod process;
#[cfg(feature = "builder")]
pub mod progress;
#[cfg(feature = "builder")]
pub mod project;
#[cfg(feature = "builder")]
pub mod serve;
#[cfg(feature = "builder")]
pub mod signals;
#[cfg(feature = "builder")]
pub mod spool;
#[cfg(feature = "builder")]
pub mod store;
