//! Formats of other systems, read from their bytes: what media, disks and kernels come as.

pub mod cloop;
pub mod elf;
pub mod fat;
pub mod iso9660;
pub mod magic;
pub mod sums;
