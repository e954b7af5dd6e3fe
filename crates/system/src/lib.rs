//! What both programs do to the machine that they run on: files, messages, the wall clock, HTTP.
#![deny(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "they panic when their output is closed or full"
)]

pub mod clock;
pub mod output;
pub mod random;
pub mod files;
pub mod http;
