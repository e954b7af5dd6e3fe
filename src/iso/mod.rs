//! The medium: an ISO 9660 file that boots by BIOS and by UEFI, from CD and, copied to it byte by byte, from a
//! USB stick.

pub mod esp;
pub mod gpt;
pub mod grub;
pub mod offline;
pub mod plan;
pub mod xen;
