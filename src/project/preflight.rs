//! Preflight checks: whether this computer has the programs, permissions and free space that the work needs.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::process::{Tool, find, package_of};
use crate::vm::UEFI_FIRMWARE;
use formats::report::size;
use system::files::FileSystem;

/// What something is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreflightScope {
    Build,
    /// `run` and `test`: a virtual machine.
    Boot,
    /// The same, with UEFI firmware.
    BootUefi,
    /// `imgfetch mount` on this machine.
    Mount,
    /// The project's own tests, which check results with independent programs.
    Judge,
}

impl PreflightScope {
    /// Whether one can't do without it.
    pub fn is_required(self) -> bool {
        matches!(self, PreflightScope::Build | PreflightScope::Boot)
    }
}

impl fmt::Display for PreflightScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PreflightScope::Build => "to build",
            PreflightScope::Boot => "to run and test what was built",
            PreflightScope::BootUefi => "to run and test with UEFI",
            PreflightScope::Mount => "to mount images on this computer",
            PreflightScope::Judge => "for the project's own tests",
        })
    }
}

/// One check and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The program, file or permission, as it is shown.
    pub name: String,
    /// What it is needed for.
    pub purpose: PreflightScope,
    /// What was found, or what is missing.
    pub result: Result<String, MissingPrerequisite>,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPrerequisite {
    /// What the check found, as an end of the line `NAME: `.
    pub what: String,
    /// How to correct it.
    pub remedy: Remedy,
}

/// How to get what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Install a Debian package.
    Install(&'static str),
    /// Do as the text says.
    Do(String),
}

/// The checks that failed, in one message with their remedies.
#[derive(Debug, thiserror::Error)]
#[error("{}", worded(.0))]
pub struct MissingPrerequisites(pub Vec<Check>);

/// Runs all checks. `out` and `cache` are the directories that a build will write to.
pub fn look(out: &Path, cache: &Path) -> Vec<Check> {
    let mut checks = vec![
        program("mmdebstrap", PreflightScope::Build),
        file(
            "Debian's archive keys",
            &[
                "/usr/share/keyrings/debian-archive-keyring.gpg",
                "/usr/share/keyrings/debian-archive-keyring.pgp",
            ],
            "debian-archive-keyring",
            PreflightScope::Build,
        ),
        program("xorriso", PreflightScope::Build),
    ];
    if !rustix::process::geteuid().is_root() {
        checks.push(program("newuidmap", PreflightScope::Build));
        checks.push(Check {
            name: "user namespaces".into(),
            purpose: PreflightScope::Build,
            result: user_namespaces(),
        });
        for table in ["/etc/subuid", "/etc/subgid"] {
            let result = subordinate_ids(table);
            checks.push(Check { name: table.into(), purpose: PreflightScope::Build, result });
        }
    }
    // A Debian tree is spooled as a tar of up to some gigabytes; the blocks made of it are about a third.
    checks.push(space("space for the cache", cache, 2 << 30));
    checks.push(space("space for the output", out, 1 << 30));
    checks.push(program("qemu-system-x86_64", PreflightScope::Boot));
    checks.push(file("UEFI firmware", &UEFI_FIRMWARE, "ovmf", PreflightScope::BootUefi));
    checks.push(Check { name: "/dev/fuse".into(), purpose: PreflightScope::Mount, result: fuse() });
    checks.push(program("fusermount3", PreflightScope::Mount));
    for judge in ["e2fsck", "fsck.fat", "mdir", "minisign", "nginx", "sgdisk", "uml_moo"] {
        checks.push(program(judge, PreflightScope::Judge));
    }
    checks
}

/// Runs the checks for one purpose, before the work begins.
///
/// # Errors
/// [`MissingPrerequisites`] names everything that is missing, not only the first.
pub fn require(purpose: PreflightScope, out: &Path, cache: &Path) -> Result<(), MissingPrerequisites> {
    let missing: Vec<Check> = look(out, cache)
        .into_iter()
        .filter(|check| check.purpose == purpose && check.result.is_err())
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(MissingPrerequisites(missing)) }
}

/// The command that installs what `checks` miss, if packages help.
pub fn install_line<'c>(checks: impl IntoIterator<Item = &'c Check>) -> Option<String> {
    let mut packages: Vec<&str> = checks
        .into_iter()
        .filter_map(|check| match &check.result {
            Err(MissingPrerequisite { remedy: Remedy::Install(package), .. }) => Some(*package),
            _ => None,
        })
        .collect();
    packages.sort_unstable();
    packages.dedup();
    let sudo = if rustix::process::geteuid().is_root() { "" } else { "sudo " };
    (!packages.is_empty()).then(|| format!("{sudo}apt install {}", packages.join(" ")))
}

fn worded(checks: &[Check]) -> String {
    let mut text = "this computer is missing prerequisites".to_owned();
    for check in checks {
        if let Err(lack) = &check.result {
            text.push_str(&format!("\n{}: {}; needed {}", check.name, lack.what, check.purpose));
            if let Remedy::Do(remedy) = &lack.remedy {
                text.push_str(&format!("; {remedy}"));
            }
        }
    }
    if let Some(line) = install_line(checks) {
        text.push_str(&format!("\nto install: {line}"));
    }
    text
}

fn program(name: &'static str, purpose: PreflightScope) -> Check {
    let result = find(name).map(|path| path.display().to_string()).ok_or_else(|| MissingPrerequisite {
        what: "not found".into(),
        remedy: match package_of(name) {
            Some(package) => Remedy::Install(package),
            None => Remedy::Do(format!("install {name}")),
        },
    });
    Check { name: name.into(), purpose, result }
}

fn file(name: &str, places: &[&str], package: &'static str, purpose: PreflightScope) -> Check {
    let found = places.iter().find(|place| Path::new(place).is_file());
    let lack = || MissingPrerequisite { what: "not found".into(), remedy: Remedy::Install(package) };
    Check { name: name.into(), purpose, result: found.map(|&place| place.to_owned()).ok_or_else(lack) }
}

/// Tries what mmdebstrap will do as an ordinary user.
fn user_namespaces() -> Result<String, MissingPrerequisite> {
    let tried = Tool::new("unshare").args(["--user", "true"]).limit(Duration::from_secs(10)).run();
    match tried {
        Ok(()) => Ok("ordinary users may create them".into()),
        Err(_) => Err(MissingPrerequisite {
            what: "ordinary users may not create them here".into(),
            remedy: Remedy::Do(
                "build as root, or as root set these sysctls: kernel.unprivileged_userns_clone=1, \
                 kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces > 0"
                    .into(),
            ),
        }),
    }
}

/// Whether the table gives this user enough ids: `name:first:count`, by name or by number.
fn subordinate_ids(table: &str) -> Result<String, MissingPrerequisite> {
    let uid = rustix::process::getuid().as_raw();
    let user = user_name(uid).unwrap_or_else(|| uid.to_string());
    let text = fs::read_to_string(table).unwrap_or_default();
    match granted(&text, &user, uid) {
        Some(range) => Ok(range),
        None => Err(MissingPrerequisite {
            what: format!("no range of 65536 ids for {user}"),
            remedy: Remedy::Do(format!(
                "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
            )),
        }),
    }
}

fn granted(table: &str, user: &str, uid: u32) -> Option<String> {
    let line = table.lines().find(|line| {
        let mut fields = line.split(':');
        let owner = fields.next().unwrap_or_default();
        let count = fields.nth(1).and_then(|count| count.trim().parse::<u64>().ok());
        (owner == user || owner == uid.to_string()) && count.is_some_and(|count| count >= 65536)
    })?;
    Some(line.to_owned())
}

fn user_name(uid: u32) -> Option<String> {
    let table = fs::read_to_string("/etc/passwd").ok()?;
    let line = table.lines().find(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()))?;
    line.split(':').next().map(str::to_owned)
}

fn fuse() -> Result<String, MissingPrerequisite> {
    let device = Path::new("/dev/fuse");
    match fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Ok("can be opened".into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(MissingPrerequisite {
            what: "missing".into(),
            remedy: Remedy::Do("as root: modprobe fuse".into()),
        }),
        Err(error) => Err(MissingPrerequisite {
            what: format!("can't be opened ({error})"),
            remedy: Remedy::Do("mount as root, or get read and write permission for /dev/fuse".into()),
        }),
    }
}

fn space(name: &str, path: &Path, least: u64) -> Check {
    let other = |what| MissingPrerequisite {
        what,
        remedy: Remedy::Do("free some space, or choose another directory".into()),
    };
    let result = match FileSystem::of(path) {
        Ok(found) if found.free >= least => Ok(format!("{} at {}", size(found.free), found.mount.display())),
        Ok(found) => Err(other(format!(
            "{} has only {} free (file system {}); a small build takes {}",
            path.display(),
            size(found.free),
            found.mount.display(),
            size(least)
        ))),
        Err(error) => Err(other(error.to_string())),
    };
    Check { name: name.into(), purpose: PreflightScope::Build, result }
}

/// The default cache directory: `$XDG_CACHE_HOME/imgfactory`, else `~/.cache/imgfactory`. `None` when neither
/// variable is set.
pub fn default_cache() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG specification says that relative paths are ignored.
    let base = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    base.or_else(|| set("HOME").map(|home| home.join(".cache"))).map(|base| base.join("imgfactory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lack(name: &str, purpose: PreflightScope, what: &str, remedy: Remedy) -> Check {
        Check { name: name.into(), purpose, result: Err(MissingPrerequisite { what: what.into(), remedy }) }
    }

    #[test]
    fn all_missing_prerequisites_are_in_one_message_with_one_command_that_installs_them() {
        let sudo = if rustix::process::geteuid().is_root() { "" } else { "sudo " };
        let missing = MissingPrerequisites(vec![
            lack("xorriso", PreflightScope::Build, "not found", Remedy::Install("xorriso")),
            lack("newuidmap", PreflightScope::Build, "not found", Remedy::Install("uidmap")),
            lack("newgidmap", PreflightScope::Build, "not found", Remedy::Install("uidmap")),
            lack("/etc/subuid", PreflightScope::Build, "no range", Remedy::Do("add one".into())),
        ]);
        assert_eq!(
            missing.to_string(),
            format!(
                "this computer is missing prerequisites\nxorriso: not found; needed to build\nnewuidmap: not found; \
                 needed to build\nnewgidmap: not found; needed to build\n/etc/subuid: no range; needed to build; add \
                 one\nto install: {sudo}apt install uidmap xorriso"
            )
        );
    }

    #[test]
    fn ids_are_granted_by_name_or_number_and_only_if_there_are_enough() {
        let table = "eve:100000:65536\nbob:165536:1000\n1003:300000:65536\nbroken\n";
        for (user, uid, range) in [
            ("eve", 1001, Some("eve:100000:65536")),
            ("bob", 1002, None),
            ("joe", 1003, Some("1003:300000:65536")),
            ("broken", 1004, None),
        ] {
            assert_eq!(granted(table, user, uid).as_deref(), range, "{user}");
        }
    }

    #[test]
    fn too_little_space_says_how_much_there_is() {
        let here = std::env::temp_dir();
        let Err(lack) = space("space", &here, u64::MAX).result else { panic!("no disk has 16 EiB") };
        assert!(lack.what.starts_with(&format!("{} has only ", here.display())), "{}", lack.what);
        assert!(space("space", &here, 0).result.is_ok());
    }

    #[test]
    fn every_program_looked_for_has_a_package() {
        for check in look(&std::env::temp_dir(), &std::env::temp_dir()) {
            if let Err(MissingPrerequisite { remedy: Remedy::Do(text), .. }) = &check.result {
                assert_ne!(text, &format!("install {}", check.name));
            }
        }
    }
}
