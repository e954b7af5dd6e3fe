//! What a person has beside the recipe: the project's folder, keys, the client's program, a machine that can build.

pub mod client_program;
pub mod folder;
pub mod keys;
pub mod overlay;
pub mod preflight;
