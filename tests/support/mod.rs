//! What several tests share. Each test file uses a part of it.
#![allow(dead_code)]

pub mod judges;
pub mod trees;
