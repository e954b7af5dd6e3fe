//! `imgfactory build`, step by step.

pub mod release;
