//! # imgfactory: live distributions that boot from a few megabytes
//!
//! A recipe goes in; a tree of static files that any web server can serve, and a small bootable ISO,
//! come out. The machine that boots the ISO fetches its root file system block by block over HTTP.
//!
//! ```text
//! recipe -> tree -> ext2 image -> blocks + index -> miniroot -> iso -> release -> upload manifest
//!                                                  client: release -> index -> fetch -> cache -> device
//! ```
//!
//! The modules stand in that order, and a module knows those above it, never those below. Formats take
//! bytes, `Read` or `Write` and touch no file, socket, process or clock: `host` is the one place that does.
//! Start with [`tree`] and [`block`]: what everything else carries. The list of build steps is in `build`.
//!
//! Papers: Suzaki et al., *HTTP-FUSE Xenoppix* (Linux Symposium 2006) is cited as "the paper".

pub mod report;

#[cfg(feature = "builder")]
pub mod parallel;

#[cfg(feature = "builder")]
pub mod recipe;

#[cfg(feature = "builder")]
pub mod tree;

#[cfg(feature = "builder")]
pub mod ext2;

pub mod block;
pub mod index;
pub mod release;
#[cfg(feature = "builder")]
pub mod publish;

#[cfg(feature = "builder")]
pub mod debian;
#[cfg(feature = "builder")]
pub mod guest;
#[cfg(feature = "builder")]
pub mod miniroot;
#[cfg(feature = "builder")]
pub mod iso;

pub mod fetch;

pub mod host;

#[cfg(feature = "builder")]
pub mod build;
pub mod cli_fetch;

#[cfg(feature = "builder")]
pub mod cli;
