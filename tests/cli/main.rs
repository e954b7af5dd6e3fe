//! Command lines and scripts, as people and machines call them.

#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/mod.rs"]
mod support;

mod archive_inputs;
mod command;
mod ext2_command;
mod formats_cli;
mod guest_script;
mod miniroot_network;
mod miniroot_scripts;
mod outputs;
mod schema;
mod secrets;
mod shell;
mod words;
