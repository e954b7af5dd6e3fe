//! The builder's side of releases: the next one as a value, and the keys that sign it.

mod draft;
mod floor;
mod sign;
#[cfg(test)]
mod tests;

pub use draft::{Draft, Layout, Previous, Ready};
pub use floor::{Floor, FloorError, FloorVerdict};
pub use sign::{KeyError, SignElsewhere, SigningKey};
