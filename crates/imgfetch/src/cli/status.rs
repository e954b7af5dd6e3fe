//! `imgfetch status`.

use std::path::PathBuf;

use super::Failure;
use crate::status::{Form, ask, directory, sockets};
use system::output::print_more;

/// Where the client of the host's own root has its sockets, seen from outside its chroot.
const OF_THE_ROOT: &str = "/run/imgfactory/root/run/imgfetch";

/// Prints the status once, or every second until interrupted.
pub(super) fn run(given: &[PathBuf], form: &Form, watch: bool) -> Result<(), Failure> {
    if !watch {
        return once(given, form, "").map(drop);
    }
    // The cursor to the first line, and the screen cleared after it.
    while once(given, form, "\x1b[H\x1b[J")? {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    Ok(())
}

/// Prints `before` and the answers; `false` when nobody reads them any more.
fn once(given: &[PathBuf], form: &Form, before: &str) -> Result<bool, Failure> {
    let directories = [directory(), OF_THE_ROOT.into()];
    let found = if given.is_empty() { sockets(&directories) } else { given.to_vec() };
    if found.is_empty() {
        let places: Vec<_> = directories.iter().map(|dir| dir.display().to_string()).collect();
        return Err(format!(
            "no client is running: no socket in {}; name another with --socket PATH",
            places.join(" or ")
        )
        .into());
    }
    let mut text = before.to_owned();
    let mut failed = None;
    for path in found {
        match ask(&path, form) {
            Ok(answer) => text.push_str(&answer),
            // Without --socket, the socket of a client that has died is ignored.
            Err(error) if given.is_empty() => detail!("{}: {error}", path.display()),
            Err(error) => failed = Some(format!("{}: no answer: {error}", path.display())),
        }
    }
    let is_read = print_more(&text)?;
    failed.map_or(Ok(is_read), |text| Err(text.into()))
}
