//! The trees that commands about releases are given, and whose they are.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::pipeline::build_record::{BuildRecord, FILE, MIRROR, PublishRecord};
use crate::pipeline::last_signed::LastSigned;
use crate::publish::{ReleaseState, follow, read_state};
use crate::repository::mirror::trusted;
use crate::repository::published::Published;
use crate::repository::targets::LocalTree;
use formats::names::Serial;
use formats::release::TrustedKeys;
use system::http::HttpOptions;

/// A tree and what is known of it.
pub(super) struct ReleaseTree {
    /// Directory with `latest`.
    pub root: PathBuf,
    /// What its build noted.
    pub publish: PublishRecord,
}

impl ReleaseTree {
    /// The tree of an output directory, or a tree by itself.
    pub fn find(dir: &Path) -> Result<Self, Failure> {
        if !dir.is_dir() {
            return Err(Failure::Usage(format!(
                "{}: no such directory; give the output directory of a build, or a mirror tree",
                dir.display()
            )));
        }
        let inner = dir.join(MIRROR);
        if dir.join(FILE).is_file() && inner.is_dir() {
            return Ok(ReleaseTree { root: inner, publish: BuildRecord::read(dir)?.publish });
        }
        let root = if inner.join("latest").is_file() { inner } else { dir.into() };
        Ok(ReleaseTree { root, publish: PublishRecord::default() })
    }

    /// Who may have signed it.
    pub fn keys(&self, given: &[String]) -> Result<TrustedKeys, Failure> {
        let keys = if given.is_empty() { &self.publish.keys[..] } else { given };
        if keys.is_empty() {
            return Err(Failure::Usage(format!(
                "{}: not a build's output, which records the public key; give it with --key",
                self.root.display()
            )));
        }
        Ok(trusted(keys)?)
    }

    /// The newest release of the mirror.
    pub fn state(&self, keys: &TrustedKeys) -> Result<ReleaseState, Failure> {
        let state = read_state(&LocalTree(self.root.clone()), keys)?;
        state.ok_or_else(|| {
            Failure::Failed(
                format!("{}: contains no release; build one with `imgfactory build`", self.root.display())
                    .into(),
            )
        })
    }
}

/// A published release by its place, and the keys that may have signed it: those given, or those that its build used, and
/// their successors. `jobs`: files read at a time; `web`: how web servers are reached.
pub(super) fn published(
    place: &str,
    keys: &[String],
    jobs: usize,
    web: &HttpOptions,
) -> Result<(Published, TrustedKeys), Failure> {
    let (published, keys) = match Published::open(Path::new(place), jobs, web)? {
        // Only a local build records which keys to trust.
        Published::Directory(_) => {
            let tree = ReleaseTree::find(Path::new(place))?;
            let keys = tree.keys(keys)?;
            (Published::Directory(LocalTree(tree.root)), keys)
        }
        _ if keys.is_empty() => {
            return Err(Failure::Usage(format!("{place}: give the public key with --key")));
        }
        elsewhere => (elsewhere, trusted(keys)?),
    };
    let keys = follow(&published, &keys);
    Ok((published, keys))
}

/// What says which release is the newest, beside the mirror.
#[derive(Debug, clap::Args)]
pub(super) struct NewestArgs {
    /// File that remembers the newest release that was signed, so that a mirror that withholds releases is noticed. Keep
    /// it where no mirror can change it, e.g. in the recipe's repository
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// The newest release, as you know: go on from it or a later one, even if its `latest` has expired or the state file
    /// has a later one, which is lost
    #[arg(long, value_name = "SERIAL")]
    newest: Option<u64>,
}

impl NewestArgs {
    /// For the output directory, or bare mirror tree, `out`.
    pub fn last_signed(&self, out: &Path) -> Result<LastSigned, Failure> {
        let stated = self.newest.map(|newest| serial("--newest", newest)).transpose()?;
        Ok(LastSigned { out: out.into(), state: self.state.clone(), stated })
    }
}

/// The serial that an option names.
pub(super) fn serial(option: &str, number: u64) -> Result<Serial, Failure> {
    Serial::new(number).ok_or_else(|| Failure::Usage(format!("{option} {number}: serials begin at 1")))
}
