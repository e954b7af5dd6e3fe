//! `imgfactory build`, step by step.

pub mod facts;
pub mod iso;
pub mod release;
pub mod split;
pub mod tree;
