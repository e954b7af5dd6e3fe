//! The whole chain for real: Debian packages -> images -> blocks -> ISO -> boots in QEMU.
//!
//! One build of `recipes/demo.yaml` by root and one by an ordinary user serve all tests of a run; the first
//! test that needs them makes them ([`fixture`]). `.config/nextest.toml` lets these tests run one at a time.

#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/mod.rs"]
mod support;

mod boots;
mod builds;
mod fixture;
mod guests;
mod knoppix;
mod profiles;
mod real;
mod updates;
