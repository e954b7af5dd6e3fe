//! `imgfetch` against everything that goes wrong: mirrors, networks, disks, signals. Some of these tests hold what is
//! promised in seconds: `.config/nextest.toml` names them, and lets them run first and alone.

#[path = "../fetch_support/mod.rs"]
mod fetch_support;
#[path = "../support/programs.rs"]
mod programs;

mod fetch_care;
mod fetch_faults;
mod fetch_mount;
mod fetch_moves;
mod fetch_names;
mod fetch_network;
mod fetch_nginx;
mod fetch_static;
mod fetch_storm;
mod fetch_tls;
mod hostile_cache;
mod offline;
mod signals;
