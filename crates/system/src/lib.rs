//! What both programs do to the machine that they run on: files, the wall clock, HTTP.

pub mod clock;
pub mod files;
pub mod http;
