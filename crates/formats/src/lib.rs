//! What a mirror and its clients exchange, and the words that both programs have for it (docs/formats.md).
//!
//! Pure: bytes, `Read` or `Write` in, values out. Nothing here names a file, a socket, a process or a clock.
//! Start with [`block`]: what everything else carries.
//!
//! Papers: Suzaki et al., *HTTP-FUSE Xenoppix* (Linux Symposium 2006) is cited as "the paper".

pub mod calendar;
pub mod report;

pub mod names;
pub mod digest;
pub mod url;
pub mod text;

pub mod block;
pub mod index;
pub mod release;

pub mod fetch_fault;
