//! The steps of a build, one a file.

pub mod disks;
pub mod image;
pub mod iso;
pub mod miniroot;
pub mod release;
pub mod split;
pub mod systems;
pub mod tree;
