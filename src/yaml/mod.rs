//! YAML texts that people write, read so that every fault has its place.
//!
//! [`node`]: text -> nodes with places. [`shape`]: nodes -> types. [`findings`]: all that is wrong, shown in the text.

pub mod findings;
pub mod node;
pub mod shape;

pub use findings::{Finding, Findings};
pub use shape::{FromNode, Scalar, Wrong};
