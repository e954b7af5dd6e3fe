//! # imgfactory: live distributions that boot from a few megabytes
//!
//! A recipe goes in; a tree of static files that any web server can serve, and a small bootable ISO,
//! come out. The machine that boots the ISO fetches its root file system block by block over HTTP.
//!
//! ```text
//! recipe -> tree -> ext2 image -> blocks + index -> miniroot -> iso -> release -> upload manifest
//! ```
//!
//! The modules stand in that order, and a module knows those above it, never those below. What mirrors and clients
//! exchange is in the crate `formats`, the client in `imgfetch`. `pipeline` is the list of build steps.
//!
//! Papers: Suzaki et al., *HTTP-FUSE Xenoppix* (Linux Symposium 2006) is cited as "the paper".
#![deny(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "they panic when their output is closed or full"
)]

pub mod parallel;
pub mod compress;
pub mod yaml;
pub mod templates;

pub mod tree;
pub mod ext2;
pub mod foreign;

pub mod recipe;

pub mod release;
pub mod publish;

pub mod debian;
pub mod guests;
pub mod miniroot;
pub mod iso;

pub mod sys;
pub mod vm;
pub mod project;
pub mod downloads;
pub mod repository;

pub mod pipeline;
pub mod cli;
