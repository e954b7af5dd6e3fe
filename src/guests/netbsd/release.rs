//! The files of a NetBSD release that a recipe asks for: URLs and checksums.

use std::collections::BTreeMap;

use super::NetBsdError;
use crate::foreign::sums::{self, Sum, SumsError};
use crate::guests::services::{ServiceError, ThirdPartyFiles};
use crate::recipe::NetBsd;

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseFile {
    /// Its name: `base.tar.xz`.
    pub name: String,
    /// Its URLs, one for each mirror.
    pub urls: Vec<String>,
    pub sum: Sum,
}

/// Files that a recipe takes from a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseFiles {
    /// The sets, in the recipe's order.
    pub sets: Vec<ReleaseFile>,
    pub kernel: ReleaseFile,
}

/// Why the files of a release are not known.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseFault {
    /// A list of checksums is wrong.
    #[error("{url}")]
    Sums { url: String, source: SumsError },
    /// The release has no such file.
    #[error(transparent)]
    Missing(#[from] NetBsdError),
    /// A list of checksums can't be had.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// The files that a recipe takes from a release. Their checksums are those of the lock, else those of the release's own
/// lists.
///
/// # Errors
/// [`ReleaseFault`].
pub fn files(recipe: &NetBsd, source: &dyn ThirdPartyFiles) -> Result<ReleaseFiles, ReleaseFault> {
    let mut sets = Vec::new();
    let mut list = None;
    for set in &recipe.sets {
        let names = [format!("{set}.tar.xz"), format!("{set}.tgz")];
        if let Some(file) = locked(recipe, source, "sets", &names) {
            sets.push(file);
            continue;
        }
        let sums = match &mut list {
            Some(sums) => sums,
            none => none.insert(checksums(recipe, source, "sets")?),
        };
        let (name, sum) = set_file(sums, set.as_str())?;
        sets.push(ReleaseFile { urls: urls(recipe, "sets", &name), name, sum });
    }
    let name = format!("netbsd-{}.gz", recipe.kernel);
    let kernel = match locked(recipe, source, "kernel", std::slice::from_ref(&name)) {
        Some(file) => file,
        None => {
            let sums = checksums(recipe, source, "kernel")?;
            let (name, sum) = kernel_file(&sums, recipe.kernel.as_str())?;
            ReleaseFile { urls: urls(recipe, "kernel", &name), name, sum }
        }
    };
    Ok(ReleaseFiles { sets, kernel })
}

fn urls(recipe: &NetBsd, directory: &str, name: &str) -> Vec<String> {
    let (version, architecture) = (&recipe.version, recipe.architecture);
    let path = format!("NetBSD-{version}/{architecture}/binary/{directory}/{name}");
    recipe.mirrors.iter().map(|mirror| format!("{mirror}{path}")).collect()
}

/// The first of some names of which the lock has the checksum.
fn locked(
    recipe: &NetBsd,
    source: &dyn ThirdPartyFiles,
    directory: &str,
    names: &[String],
) -> Option<ReleaseFile> {
    names.iter().find_map(|name| {
        let urls = urls(recipe, directory, name);
        let sum = urls.iter().find_map(|url| source.locked(url))?;
        Some(ReleaseFile { name: name.clone(), urls, sum })
    })
}

fn checksums(
    recipe: &NetBsd,
    source: &dyn ThirdPartyFiles,
    directory: &str,
) -> Result<BTreeMap<String, Sum>, ReleaseFault> {
    let urls = urls(recipe, directory, "SHA512");
    let text = source.text(&urls, sums::LIMIT)?;
    let url = urls.into_iter().next().unwrap_or_default();
    sums::parse(&text).map_err(|source| ReleaseFault::Sums { url, source })
}

/// What a release's checksum file says of a set: its file name and sum.
///
/// # Errors
/// [`NetBsdError::NoSet`].
pub fn set_file(sums: &BTreeMap<String, Sum>, set: &str) -> Result<(String, Sum), NetBsdError> {
    for ending in [".tar.xz", ".tgz"] {
        let name = format!("{set}{ending}");
        if let Some(sum) = sums.get(&name) {
            return Ok((name, *sum));
        }
    }
    let known = sums.keys().filter_map(|name| {
        let set = name.strip_suffix(".tar.xz").or_else(|| name.strip_suffix(".tgz"))?;
        Some(set.to_owned())
    });
    Err(NetBsdError::NoSet { set: set.to_owned(), known: known.collect() })
}

/// Likewise of a kernel.
///
/// # Errors
/// [`NetBsdError::NoKernel`].
pub fn kernel_file(sums: &BTreeMap<String, Sum>, kernel: &str) -> Result<(String, Sum), NetBsdError> {
    let name = format!("netbsd-{kernel}.gz");
    if let Some(sum) = sums.get(&name) {
        return Ok((name, *sum));
    }
    let known =
        sums.keys().filter_map(|name| Some(name.strip_prefix("netbsd-")?.strip_suffix(".gz")?.to_owned()));
    Err(NetBsdError::NoKernel { kernel: kernel.to_owned(), known: known.collect() })
}
