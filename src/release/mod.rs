//! The builder's side of releases: the next one as a value, and the keys that sign it.

mod draft;
mod newest_known;
mod sign;
#[cfg(test)]
mod tests;

pub use draft::{Draft, Layout, Previous, Ready};
pub use newest_known::{NewestKnown, NewestVerdict, NotNewest};
pub use sign::{KeyError, SignElsewhere, SigningKey};
