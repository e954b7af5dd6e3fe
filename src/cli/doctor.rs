//! `imgfactory doctor`.

use std::path::PathBuf;

use super::{Failure, Session, print};
use crate::project::preflight::{Check, Remedy, default_cache, install_line, look};
use formats::report::Exit;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 if something is missing that `build`, `run` or `test` requires.")]
pub(super) struct Args {
    /// Output directory, whose free space is checked
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    #[command(flatten)]
    cache: CacheArg,
}

/// The option that says where trees and downloads are kept.
#[derive(Debug, clap::Args)]
pub(super) struct CacheArg {
    /// Directory for cached trees and downloads [default: $XDG_CACHE_HOME/imgfactory or ~/.cache/imgfactory]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl CacheArg {
    /// The directory given, or the default one.
    pub(super) fn directory(self) -> Result<PathBuf, Failure> {
        self.cache.or_else(default_cache).ok_or_else(|| {
            Failure::Usage(
                "neither HOME nor XDG_CACHE_HOME is set; choose a cache directory with --cache DIR".into(),
            )
        })
    }
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let cache = args.cache.directory()?;
    let checks = look(&args.out, &cache);
    print(&worded(&checks, session.quiet))?;
    let usable = checks.iter().all(|check| check.result.is_ok() || !check.purpose.is_required());
    Ok(if usable { Exit::Done } else { Exit::Failed })
}

/// One line a check, then the commands that install what is missing. With `quiet` only what is missing.
fn worded(checks: &[Check], quiet: bool) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Check { name, purpose, result } in checks {
        match result {
            Ok(_) if quiet => {}
            Ok(found) => text.push_str(&format!("ok        {name:width$}  {found}\n")),
            Err(lack) => {
                let state = if purpose.is_required() { "missing " } else { "optional" };
                text.push_str(&format!("{state}  {name:width$}  {}; needed {purpose}\n", lack.what));
                if let Remedy::Do(remedy) = &lack.remedy {
                    text.push_str(&format!("          {:width$}  {remedy}\n", ""));
                }
            }
        }
    }
    let required = checks.iter().filter(|check| check.purpose.is_required());
    if let Some(line) = install_line(required) {
        text.push_str(&format!("\nTo install what is missing:\n    {line}\n"));
    }
    let optional = checks.iter().filter(|check| !check.purpose.is_required());
    if let Some(line) = install_line(optional) {
        text.push_str(&format!("\nTo install what is optional:\n    {line}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::preflight::{MissingPrerequisite, PreflightScope};

    #[test]
    fn every_check_has_a_line_and_what_lacks_a_remedy() {
        let check = |name: &str, purpose, result| Check { name: name.into(), purpose, result };
        let lack = |what: &str, remedy| Err(MissingPrerequisite { what: what.into(), remedy });
        let checks = [
            check("mmdebstrap", PreflightScope::Build, Ok("/usr/bin/mmdebstrap".into())),
            check("xorriso", PreflightScope::Build, lack("not found", Remedy::Install("xorriso"))),
            check("UEFI firmware", PreflightScope::BootUefi, lack("not found", Remedy::Install("ovmf"))),
            check(
                "/dev/fuse",
                PreflightScope::Mount,
                lack("missing", Remedy::Do("as root: modprobe fuse".into())),
            ),
        ];
        let sudo = if rustix::process::geteuid().is_root() { "" } else { "sudo " };
        let lacks = format!(
            "missing   xorriso        not found; needed to build\n\
             optional  UEFI firmware  not found; needed to run and test with UEFI\n\
             optional  /dev/fuse      missing; needed to mount images on this computer\n\
             \x20                        as root: modprobe fuse\n\n\
             To install what is missing:\n    {sudo}apt install xorriso\n\n\
             To install what is optional:\n    {sudo}apt install ovmf\n"
        );
        assert_eq!(worded(&checks, true), lacks);
        assert_eq!(worded(&checks, false), format!("ok        mmdebstrap     /usr/bin/mmdebstrap\n{lacks}"));
    }
}
