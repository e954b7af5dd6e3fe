//! What the programs print for people. A binary of its own until tests/cli compiles, then a module of that one.

#[path = "support/programs.rs"]
mod programs;
#[path = "cli/words.rs"]
mod words;
