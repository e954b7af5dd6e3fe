//! `imgfetch status`.

use std::path::PathBuf;

use super::Failure;
use crate::host::detail;
use crate::host::status::{ask, directory, sockets};

/// Where the client of the host's own root has its sockets, seen from outside its chroot.
const OF_THE_ROOT: &str = "/run/imgfactory/root/run/imgfetch";

pub(super) fn run(given: &[PathBuf]) -> Result<(), Failure> {
    let directories = [directory(), OF_THE_ROOT.into()];
    let found = if given.is_empty() { sockets(&directories) } else { given.to_vec() };
    if found.is_empty() {
        let places: Vec<_> = directories.iter().map(|dir| dir.display().to_string()).collect();
        return Err(format!(
            "no client runs: no socket in {}; --socket PATH names another",
            places.join(" or ")
        )
        .into());
    }
    let mut failed = None;
    for path in found {
        match ask(&path) {
            Ok(answer) => print!("{answer}"),
            // Without --socket, what a dead client left is passed over.
            Err(error) if given.is_empty() => detail!("{}: {error}", path.display()),
            Err(error) => failed = Some(format!("{}: no answer: {error}", path.display())),
        }
    }
    failed.map_or(Ok(()), |text| Err(text.into()))
}
