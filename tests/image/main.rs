//! What is made, judged from outside: trees, ext2 images, miniroots, media, and the disks of others.

#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/mod.rs"]
mod support;

mod cloop;
mod debian_tree;
mod disk_formats;
mod disks;
mod ext2_judges;
mod ext2_order;
mod ext2_plan;
mod ext2_reader;
mod ext2_roundtrip;
mod ext2_update;
mod iso;
mod iso_import;
mod miniroot;
mod netbsd;
mod plan9;
mod tar_corners;
mod tree_tar;
