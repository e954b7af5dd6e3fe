//! Trees of mirrors, here and elsewhere: what goes out is checked, what is out is looked at, what others have is
//! copied.

mod pull;
mod verify;

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

pub use pull::{Pull, PullError, Pulled, pull};
pub use verify::{MirrorDefect, MirrorStatus, Report, Verify, standing, verify};

use crate::publish::{
    FileToSend, MirrorFiles, PublishPlan, ReleaseState, RemoteError, block_item, image_files,
};
use crate::repository::targets::{LocalTree, parallel};
use formats::block::{Block, BlockName, FetchedFile, Inflated, Object};
use formats::digest::Digest;
use formats::fetch_fault::FetchFault;
use formats::release::{ImageFiles, MirrorPath, TrustedKeys};
use formats::url::MirrorUrl;
use system::http::{Answer, Get, Http};

/// Time limit for one file.
const PATIENCE: Duration = Duration::from_secs(120);
/// Attempts for one file.
const ATTEMPTS: u32 = 4;
/// A server that says when to come again is asked for so long, however often that is.
const BUSY: Duration = Duration::from_secs(600);
/// The longest pause that a server may ask for.
const LONGEST: Duration = Duration::from_secs(120);
/// Blocks that are fetched back before `latest` moves; all, if there are no more.
const SAMPLE: usize = 32;

/// A tree behind a web server, as clients see it.
#[derive(Clone, Copy, Debug)]
pub struct WebTree<'a> {
    pub http: &'a Http,
    /// URL of the mirror, with `/` at its end.
    pub url: &'a MirrorUrl,
}

impl MirrorFiles for WebTree<'_> {
    fn read(&self, path: &MirrorPath, limit: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        let url = format!("{}{path}", self.url);
        let fresh = matches!(path, MirrorPath::Latest | MirrorPath::Mirrors);
        let mut pause = Duration::from_millis(250);
        let (mut attempt, end) = (1, Instant::now() + BUSY);
        loop {
            let until = Instant::now() + PATIENCE;
            match self.http.get(Get { fresh, ..Get::new(&url, limit, until) }).and_then(Answer::file) {
                Ok(file) => return Ok(Some(file)),
                Err(FetchFault::Missing(_)) => return Ok(None),
                Err(FetchFault::Busy { after: Some(time), .. }) if Instant::now() + time <= end => {
                    std::thread::sleep(time.clamp(pause, LONGEST));
                }
                Err(
                    FetchFault::TimedOut(_)
                    | FetchFault::Broken(_)
                    | FetchFault::Busy { .. }
                    | FetchFault::Status(500..),
                ) if attempt < ATTEMPTS => {
                    std::thread::sleep(pause);
                    pause *= 2;
                    attempt += 1;
                }
                Err(fault) => return Err(RemoteError::new(format!("{url}: can't get it"), fault)),
            }
        }
    }
}

/// Reads these files, `jobs` at a time or in few large bites, whatever costs less there, and does something with each:
/// the file, `None` when it is not there, or why it can't be read. The results are in order.
///
/// # Errors
/// The first of `work`, or of a whole bite.
fn read_each<R: Send>(
    files: &dyn MirrorFiles,
    items: &[FileToSend],
    jobs: usize,
    work: impl Fn(&FileToSend, Result<Option<Vec<u8>>, RemoteError>) -> Result<R, RemoteError> + Sync,
) -> Result<Vec<R>, RemoteError> {
    let bite = files.together();
    if bite == 1 {
        return parallel(items, jobs, |item| work(item, files.read(&item.path, item.len)));
    }
    let bites: Vec<_> = items.chunks(bite).collect();
    let done = parallel(&bites, jobs.min(2), |bite| {
        let found = files.read_all(bite)?;
        bite.iter().zip(found).map(|(item, found)| work(item, Ok(found))).collect::<Result<Vec<_>, _>>()
    })?;
    Ok(done.into_iter().flatten().collect())
}

/// What a release says that its files are.
#[derive(Debug)]
pub struct Expected {
    blocks: HashMap<BlockName, Object>,
    files: HashMap<MirrorPath, Digest>,
}

impl Expected {
    /// The figures of this release.
    pub fn of(state: &ReleaseState) -> Self {
        let blocks = state.objects().into_iter().map(|object| (object.name, object)).collect();
        let mut files: HashMap<_, _> = state.release.images.iter().flat_map(ImageFiles::files).collect();
        files.insert(state.latest.release_path(), state.latest.release);
        files.insert(MirrorPath::Mirrors, state.latest.mirrors);
        Expected { blocks, files }
    }

    /// What is wrong with a file of the release, if anything.
    pub fn fault(&self, path: &MirrorPath, bytes: &[u8]) -> Option<String> {
        match path {
            MirrorPath::Block(name) => {
                let object = self.blocks.get(name)?;
                let block = FetchedFile::new(*object, bytes).inflate().and_then(Inflated::verify);
                block.map(|_: Block| ()).err().map(|damage| damage.to_string())
            }
            path => {
                let want = self.files.get(path)?;
                let found = Digest::of(bytes);
                (found != *want).then(|| {
                    format!(
                        "{} bytes, SHA-256 {}, instead of {} and {}",
                        found.len, found.sha256, want.len, want.sha256
                    )
                })
            }
        }
    }
}

/// Our tree, from which nothing goes out that is not what the release says.
#[derive(Debug)]
pub struct CheckedTree<'a> {
    /// Tree whose files are checked before they are sent.
    pub tree: &'a LocalTree,
    /// What its files are to be.
    pub expected: &'a Expected,
    /// Files looked at in parallel.
    pub jobs: usize,
}

impl MirrorFiles for CheckedTree<'_> {
    fn read(&self, path: &MirrorPath, limit: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        self.tree.read(path, limit)
    }

    fn check(&self, items: &[FileToSend]) -> Result<(), RemoteError> {
        parallel(items, self.jobs, |item| {
            let wrong = |text: String| {
                RemoteError::new(self.tree.0.join(item.path.to_string()).display().to_string(), text)
            };
            let bytes = self.tree.read(&item.path, item.path.limit())?;
            let bytes = bytes.ok_or_else(|| {
                wrong(
                    "missing here and on the target; build again, or fetch it with `imgfactory mirror pull`"
                        .into(),
                )
            })?;
            match self.expected.fault(&item.path, &bytes) {
                Some(fault) => Err(wrong(format!("damaged ({fault}); build again"))),
                None => Ok(()),
            }
        })?;
        Ok(())
    }

    fn root(&self) -> Option<&Path> {
        self.tree.root()
    }
}

/// Why what clients get is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// A file is not there.
    #[error("{url}{path}: missing; check that this URL leads to the target")]
    Missing { url: MirrorUrl, path: MirrorPath },
    /// A file is another one.
    #[error("{url}{path}: {fault}")]
    Wrong { url: MirrorUrl, path: MirrorPath, fault: String },
    /// It can't be fetched.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// Fetches what a publication has sent, as a client would: all files but blocks, and of those a sample.
///
/// # Errors
/// [`ProofError`].
pub fn prove(
    web: WebTree<'_>,
    ours: &ReleaseState,
    expected: &Expected,
    plan: &PublishPlan,
    jobs: usize,
) -> Result<(), ProofError> {
    let step = plan.blocks.len().div_ceil(SAMPLE).max(1);
    let blocks = plan.blocks.iter().step_by(step).map(block_item);
    let mut items: Vec<FileToSend> = blocks.chain(plan.files.iter().cloned()).collect();
    // With nothing new to see, at least what is there already must be where clients look.
    if items.is_empty() {
        items.extend(image_files(&ours.release));
    }
    let faults = parallel(&items, jobs, |item| {
        let bytes = web.read(&item.path, item.len)?;
        let path = item.path.clone();
        Ok(match bytes {
            None => Some(ProofError::Missing { url: web.url.clone(), path }),
            Some(bytes) => expected.fault(&path, &bytes).map(|fault| ProofError::Wrong {
                url: web.url.clone(),
                path,
                fault,
            }),
        })
    })?;
    faults.into_iter().flatten().next().map_or(Ok(()), Err)
}

/// Public keys: files, or the keys themselves in base64.
///
/// # Errors
/// What is wrong with one of them, and which.
pub fn trusted(keys: &[String]) -> Result<TrustedKeys, KeyArgError> {
    let mut text = String::new();
    for key in keys {
        let one = if key.len() == 56 && key.starts_with("RW") {
            key.clone()
        } else {
            String::from_utf8_lossy(&system::files::read_at_most(key, 16 << 10)?).into_owned()
        };
        TrustedKeys::parse(&one).map_err(|source| KeyArgError::Key { place: key.clone(), source })?;
        text.push_str(&one);
        text.push('\n');
    }
    TrustedKeys::parse(&text).map_err(|source| KeyArgError::Key { place: "--key".into(), source })
}

/// Why a public key is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeyArgError {
    /// It can't be read.
    #[error(transparent)]
    File(#[from] system::files::FileError),
    /// The place is not a mirror.
    #[error("{place}")]
    Key { place: String, source: formats::release::BadKey },
}
