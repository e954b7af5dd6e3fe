//! Releases on their way out: signed, uploaded, followed by others, and cut short anywhere.

#[path = "../publish_support/mod.rs"]
mod publish_support;
#[path = "../support/programs.rs"]
mod programs;

mod minisign;
mod no_space;
mod pipelines;
mod publish_clock;
mod publish_crash;
mod publish_faults;
mod publish_https;
mod publish_keys;
mod publish_servers;
mod withheld;
