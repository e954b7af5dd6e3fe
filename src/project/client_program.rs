//! The client as a program file: found, and checked to be what a miniroot can run.

use std::path::PathBuf;

use system::files::{FileError, read_at_most};

/// The client has some 3 MB.
const MAX: u64 = 64 << 20;

/// Why there is no client to put into a miniroot.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{}: no such file; build imgfetch with ci/imgfetch, or name the file with --imgfetch FILE", path.display())]
    Missing {
        /// Where it was searched.
        path: PathBuf,
        /// What the system said.
        source: FileError,
    },
    /// It is no program of this kind of machine, or needs libraries.
    #[error("{}: {what}; the miniroot needs a static program for x86-64, as ci/imgfetch builds it", path.display())]
    Unfit {
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Reads the client: `given`, or `imgfetch` beside this program.
///
/// # Errors
/// [`ClientError`].
pub fn read(given: Option<PathBuf>) -> Result<Vec<u8>, ClientError> {
    let beside = || std::env::current_exe().unwrap_or_default().with_file_name("imgfetch");
    let path = given.unwrap_or_else(beside);
    let bytes =
        read_at_most(&path, MAX).map_err(|source| ClientError::Missing { path: path.clone(), source })?;
    match unfit(&bytes) {
        Some(what) => Err(ClientError::Unfit { path, what }),
        None => Ok(bytes),
    }
}

/// What is wrong with a program, by its ELF header (System V ABI, chapter 4).
fn unfit(program: &[u8]) -> Option<&'static str> {
    /// `p_type` of the segment that names a dynamic loader.
    const PT_INTERP: u32 = 3;
    /// `e_machine` of x86-64.
    const EM_X86_64: u16 = 62;
    let word = |at: usize, len: usize| -> Option<u64> {
        let bytes = program.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    };
    let needs_loader = || {
        let (phoff, phentsize, phnum) = (word(32, 8)?, word(54, 2)?, word(56, 2)?);
        let mut types = (0..phnum).map(|number| {
            let at = phoff.checked_add(number * phentsize)?;
            word(usize::try_from(at).ok()?, 4)
        });
        types.try_fold(false, |found, kind| Some(found || kind? == u64::from(PT_INTERP)))
    };
    if !program.starts_with(b"\x7fELF\x02\x01") || word(18, 2) != Some(EM_X86_64.into()) {
        return Some("not an x86-64 program");
    }
    match needs_loader() {
        None => Some("a damaged program"),
        Some(true) => Some("a program that needs shared libraries"),
        Some(false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_static_programs_are_let_through() {
        let this = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(unfit(&this), Some("a program that needs shared libraries"), "the tests are linked so");
        assert_eq!(unfit(b"#!/bin/sh\n"), Some("not an x86-64 program"));
        assert_eq!(unfit(&this[..64]), Some("a damaged program"));
        let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
        assert_eq!(unfit(&busybox), None);
    }
}
