//! This machine's apt: where its mirrors are, how it reaches them, and files fetched as it would.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::debian::inrelease::{self, InReleaseError};
use crate::debian::mirrors::INDEX_TARGETS_FORMAT;
use crate::debian::{AptSource, ArchiveMirrors, InRelease};
use crate::sys::process::{Tool, ToolError};
use system::files::{FileError, Scratch, read_at_most};

/// apt's program that downloads with its own proxies and certificates.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// Where apt's sources are described.
const SOURCES: &str = "/etc/apt";

/// The longest that one download of a few hundred kilobytes may take, all retries in it.
const FETCH_LIMIT: Duration = Duration::from_secs(120);

/// Names of options, in small letters, that say how archives are reached from here. What is below them counts
/// too. Whether old archives are accepted belongs to that: a mirror of snapshots never gets younger.
const REACH: [&str; 9] = [
    "acquire::http",
    "acquire::https",
    "acquire::retries",
    "acquire::forceipv4",
    "acquire::forceipv6",
    "acquire::check-date",
    "acquire::check-valid-until",
    "acquire::max-validtime",
    "acquire::min-validtime",
];

/// Why an InRelease file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// apt could not download it.
    #[error(
        "{uri}: can't fetch it; check the network and the mirror, or use the copy in the cache (--offline)"
    )]
    Fetch { uri: String, source: ToolError },
    /// It is something else.
    #[error("{uri}")]
    Parse { uri: String, source: InReleaseError },
    /// It was not fetched before.
    #[error("{uri}: not in the cache, so it can't be used offline")]
    NotKept { uri: String },
    /// It could not be kept.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The mirrors that this machine's own apt uses: by the labels of what it has lists of, and where it has none,
/// by the URIs in its source files. Empty on a machine without apt.
pub fn own_mirrors() -> ArchiveMirrors {
    let printed = Tool::new("apt-get").args(["indextargets", "--format", INDEX_TARGETS_FORMAT]).output();
    let listed = ArchiveMirrors::from_index_targets(&String::from_utf8_lossy(&printed.unwrap_or_default()));
    if listed.is_complete() { listed } else { listed.or(mirrors_in(Path::new(SOURCES))) }
}

/// The mirrors in `sources.list` and `sources.list.d/` of a directory.
fn mirrors_in(dir: &Path) -> ArchiveMirrors {
    let mut paths = vec![dir.join("sources.list")];
    let parts = fs::read_dir(dir.join("sources.list.d")).into_iter().flatten().flatten();
    let mut parts: Vec<_> = parts.map(|entry| entry.path()).collect();
    parts.sort();
    paths.append(&mut parts);
    let mut mirrors = ArchiveMirrors::default();
    for path in paths {
        let deb822 = path.extension() == Some(OsStr::new("sources"));
        if !deb822 && path.extension() != Some(OsStr::new("list")) {
            continue;
        }
        // What can't be read names no mirror.
        if let Ok(text) = fs::read_to_string(&path) {
            mirrors = mirrors.or(ArchiveMirrors::from_source_file(&text, deb822));
        }
    }
    mirrors
}

/// This machine's options for apt that say how archives are reached, as text for an apt.conf.
pub fn own_options() -> String {
    let printed = Tool::new("apt-config").args(["dump", "--format", "%f \"%v\";%n"]).output();
    options_of_reach(&String::from_utf8_lossy(&printed.unwrap_or_default()))
}

fn options_of_reach(dump: &str) -> String {
    let lines = dump.lines().filter(|line| {
        let Some((name, value)) = line.split_once(' ') else { return false };
        let name = name.to_lowercase();
        // A value with a quote in it would end early.
        let whole = value.matches('"').count() == 2;
        let reach = REACH.iter().any(|known| {
            name.strip_prefix(known).is_some_and(|below| below.is_empty() || below.starts_with("::"))
        });
        whole && reach && value != "\"\";"
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// Gets the InRelease file of each source as it is now and keeps it in `dir`; `offline`, takes the one kept.
///
/// # Errors
/// [`FetchError`] for the first that can't be had.
pub fn inreleases(
    sources: &[AptSource],
    dir: &Path,
    log: &Path,
    offline: bool,
) -> Result<Vec<InRelease>, FetchError> {
    system::files::create_dir_all(dir)?;
    let parsed = sources.iter().map(|source| {
        let uri = source.inrelease_uri();
        let kept = dir.join(file_name(&uri));
        if offline && !kept.exists() {
            return Err(FetchError::NotKept { uri });
        }
        if !offline {
            let scratch = Scratch::directory(dir)?;
            let file = scratch.path().join("InRelease");
            let fetched = Tool::new(APT_HELPER)
                .args(["-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20"])
                .args(["-o", "Acquire::https::Timeout=20", "download-file", &uri])
                .arg(&file)
                .env("LC_ALL", "C.UTF-8")
                .log(log)
                .limit(FETCH_LIMIT)
                .run();
            fetched.map_err(|source| FetchError::Fetch { uri: uri.clone(), source })?;
            let bytes = read_at_most(&file, inrelease::LIMIT)?;
            let parsed =
                InRelease::parse(&bytes).map_err(|source| FetchError::Parse { uri: uri.clone(), source })?;
            system::files::write_atomic(&kept, &bytes)?;
            return Ok(parsed);
        }
        let bytes = read_at_most(&kept, inrelease::LIMIT)?;
        InRelease::parse(&bytes).map_err(|source| FetchError::Parse { uri, source })
    });
    parsed.collect()
}

/// A file name for a URI, as apt makes them: `/` becomes `_`, a name and password are left out. The scheme stays.
fn file_name(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("", uri));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let uri = format!("{scheme}://{host}/{path}");
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-.+~".contains(c) { c } else { '_' };
    uri.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Archive;

    #[test]
    fn options_for_reaching_archives_are_taken_and_no_others() {
        let dump = "APT::Architecture \"amd64\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://proxy.example:3128\";\n\
                    Acquire::HTTP::Proxy::mirror.example \"DIRECT\";\nAcquire::httpx \"1\";\nAcquire::Check-Valid-Until \"false\";\n\
                    Acquire::http::User-Agent \"a \" b\";\nAcquire::Languages:: \"none\";\nDPkg::Options:: \"--x\";\n";
        assert_eq!(
            options_of_reach(dump),
            "Acquire::http::Proxy \"http://proxy.example:3128\";\nAcquire::HTTP::Proxy::mirror.example \"DIRECT\";\n\
             Acquire::Check-Valid-Until \"false\";\n"
        );
    }

    #[test]
    fn source_files_are_read_in_their_order_and_others_are_not() {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let parts = dir.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        for (name, text) in [
            ("b.list", "deb http://b.example/debian x main\n"),
            ("a.sources", "Types: deb\nURIs: http://a.example/debian http://a.example/debian-security\n"),
            ("0.list.off", "deb http://off.example/debian x main\n"),
        ] {
            fs::write(parts.join(name), text).unwrap();
        }
        let mirrors = mirrors_in(dir.path());
        assert_eq!(mirrors.uri(Archive::Debian), Some("http://a.example/debian"));
        assert_eq!(mirrors.uri(Archive::Security), Some("http://a.example/debian-security"));
        fs::write(dir.path().join("sources.list"), "deb http://first.example/debian x main\n").unwrap();
        assert_eq!(mirrors_in(dir.path()).uri(Archive::Debian), Some("http://first.example/debian"));
    }

    #[test]
    fn what_was_never_fetched_is_not_there_offline() {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let source = AptSource {
            uri: "http://me:secret@mirror.example/debian".into(),
            suite: "trixie".into(),
            components: vec!["main".into()],
            signed_by: "/k.gpg".into(),
        };
        let log = dir.path().join("log");
        let offline = || inreleases(std::slice::from_ref(&source), dir.path(), &log, true);
        assert_eq!(
            offline().unwrap_err().to_string(),
            "http://me:secret@mirror.example/debian/dists/trixie/InRelease: not in the cache, so it can't be \
             used offline"
        );
        let kept = dir.path().join("http___mirror.example_debian_dists_trixie_InRelease");
        fs::write(kept, "Date: Thu, 01 Jan 1970 00:00:07 UTC\n").unwrap();
        assert_eq!(offline().unwrap()[0].date, 7);
    }
}
