//! What a mirror and its clients exchange (docs/formats.md), and the types of it that both programs use: names,
//! URLs, digests, sizes, codecs.
//!
//! Pure: bytes, `Read` or `Write` in, values out. Nothing here opens a file or a socket, starts a process or reads a
//! clock. Start with [`block`]: indexes and releases are about blocks.
//!
//! Papers: Suzaki et al., *HTTP-FUSE Xenoppix* (Linux Symposium 2006) is cited as "the paper".
#![deny(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "they panic when their output is closed or full"
)]

// Each module knows only those above it.
pub mod calendar;
pub mod report;

pub mod names;
pub mod passwords;
pub mod digest;
pub mod url;
pub mod text;

pub mod block;
pub mod index;
pub mod release;

pub mod fetch_fault;
