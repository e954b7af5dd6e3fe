//! Which release is used, and why it may be: from the trusted keys to `latest`, the release and the index, each verified
//! by the one before it.
//!
//! [`resolver`] decides, as a state machine that is given time and events; [`carrier`] has threads that carry out what it
//! wants: HTTP requests, the cache, messages.

mod carrier;
pub mod resolver;

pub use carrier::{ChosenRelease, ask_all, resolve};
pub use resolver::{MirrorStats, ResolveError, ResolveRequest};
