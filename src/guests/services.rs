//! What a kind of guest needs of the system while its image is made. Kinds themselves touch neither files nor programs:
//! the pipeline implements these traits, and tests may do so over buffers.

use std::error::Error;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ext2::ReadAt;
use crate::foreign::sums::Sum;
use crate::recipe::{Debian, Guest, ProjectPath};
use crate::tree::{Contents, SpoolId, Tree};

/// Any error of a kind.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What something depends on: names and values, in order. A name may come again.
pub type Inputs = Vec<(String, String)>;

/// A service that failed; its text is that of the error within.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ServiceError(#[from] pub BoxError);

impl ServiceError {
    /// Wraps any error; its text and its causes are kept.
    pub fn new(error: impl Into<BoxError>) -> Self {
        ServiceError(error.into())
    }
}

/// Third-party files by their URLs.
pub trait ThirdPartyFiles {
    /// The checksum that the recipe's lock has for a URL.
    fn locked(&self, url: &str) -> Option<Sum>;

    /// A small text that may change, such as a list of checksums, of at most `limit` bytes.
    ///
    /// # Errors
    /// [`ServiceError`].
    fn text(&self, urls: &[String], limit: u64) -> Result<Vec<u8>, ServiceError>;
}

/// A file that is read from its beginning, or from anywhere.
pub trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// Writes a file of the cache.
pub type WriteFile<'f> = &'f mut dyn FnMut(&mut dyn Write) -> Result<(), BoxError>;

/// What a build offers to the kinds of guests.
pub trait BuildServices: ThirdPartyFiles {
    /// A third-party file that has the checksum.
    ///
    /// # Errors
    /// [`ServiceError`].
    fn fetch(&self, urls: &[String], sum: &Sum) -> Result<PathBuf, ServiceError>;

    /// A file of the cache that is made of third-party files; `write` is called if the cache does not have it.
    ///
    /// # Errors
    /// [`ServiceError`], and those of `write`.
    fn derive(&self, name: &str, write: WriteFile<'_>) -> Result<PathBuf, ServiceError>;

    /// Likewise, by a program.
    ///
    /// # Errors
    /// [`ServiceError`].
    fn derive_by(&self, name: &str, program: &ProgramRun<'_>) -> Result<PathBuf, ServiceError>;

    /// What a program writes to its standard output.
    ///
    /// # Errors
    /// [`ServiceError`].
    fn output_of(&self, program: &ProgramRun<'_>) -> Result<Vec<u8>, ServiceError>;

    /// Opens a file that another service gave.
    ///
    /// # Errors
    /// [`ServiceError`].
    fn open(&self, path: &Path) -> Result<Box<dyn ReadSeek>, ServiceError>;

    /// Likewise, to be read anywhere.
    ///
    /// # Errors
    /// [`ServiceError`].
    fn open_at(&self, path: &Path) -> Result<Box<dyn ReadAt>, ServiceError>;

    /// Makes a file one that the contents of a tree may refer to.
    ///
    /// # Errors
    /// [`ServiceError`].
    fn spool(&mut self, path: &Path) -> Result<SpoolId, ServiceError>;

    /// The contents of all trees.
    fn contents(&self) -> &dyn Contents;

    /// A file of the project, of at most `limit` bytes.
    ///
    /// # Errors
    /// [`ServiceError`].
    fn project_file(&self, path: &ProjectPath, limit: u64) -> Result<Vec<u8>, ServiceError>;

    /// Shows the progress of a task of so many bytes; the result is called with each number of bytes that are done.
    fn progress(&self, task: &str, bytes: u64) -> Box<dyn Fn(u64) + '_>;

    /// What [`BuildServices::debian_tree`] depends on.
    ///
    /// # Errors
    /// [`ServiceError`].
    fn debian_inputs(&mut self, image: &str, debian: &Debian) -> Result<Inputs, ServiceError>;

    /// A tree of Debian packages for the image `image`, without overlays.
    ///
    /// # Errors
    /// [`ServiceError`].
    fn debian_tree(&mut self, image: &str, debian: &Debian) -> Result<PackageTree, ServiceError>;

    /// What [`BuildServices::apply_overlays`] depends on: each overlay with its digest.
    ///
    /// # Errors
    /// [`ServiceError`].
    fn overlay_inputs(&self, guest: &Guest) -> Result<Inputs, ServiceError>;

    /// Applies a guest's overlays to a tree of it. No time in the tree is later than `newest`.
    ///
    /// # Errors
    /// [`ServiceError`].
    fn apply_overlays(&mut self, guest: &Guest, tree: &mut Tree, newest: i64) -> Result<(), ServiceError>;
}

/// A tree of Debian packages.
#[derive(Clone, Debug)]
pub struct PackageTree {
    pub tree: Tree,
    /// The newest time in it, seconds since 1970.
    pub newest: i64,
    /// Whether it came out of the cache.
    pub cached: bool,
}

/// One run of a program, in an empty scratch directory.
#[derive(Clone, Debug)]
pub struct ProgramRun<'a> {
    pub name: &'static str,
    pub arguments: Vec<Argument>,
    /// Files for it, in the directory [`ProgramRun::FILES`] of the scratch directory, where it then runs.
    pub files: Option<&'a Tree>,
    /// Variables of its environment.
    pub environment: Vec<(&'static str, String)>,
    /// The log of what it prints: a file's name.
    pub log: String,
    /// How long it may take.
    pub limit: Duration,
    /// How many bytes a file that it writes may have.
    pub max_bytes: u64,
    /// The file of the scratch directory with its result; `None` for its standard output.
    pub result: Option<&'static str>,
}

impl ProgramRun<'_> {
    /// Directory of [`ProgramRun::files`] in the scratch directory.
    pub const FILES: &'static str = "files";
    /// How long a program may take if nothing else is said: the largest disk on a slow machine.
    pub const LIMIT: Duration = Duration::from_secs(6 * 3600);
    /// How large its files may become if nothing else is said: no disk is larger.
    pub const MAX_BYTES: u64 = 1 << 41;

    /// A program that writes its result to its standard output.
    pub fn new(name: &'static str, arguments: Vec<Argument>, log: impl Into<String>) -> Self {
        ProgramRun {
            name,
            arguments,
            files: None,
            environment: vec![],
            log: log.into(),
            limit: Self::LIMIT,
            max_bytes: Self::MAX_BYTES,
            result: None,
        }
    }
}

/// An argument of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    Text(String),
    /// A file, by its absolute path.
    Path(PathBuf),
    /// A path of the scratch directory, made absolute, with something before it.
    Scratch {
        /// What is before the path.
        before: &'static str,
        path: &'static str,
    },
}

impl Argument {
    /// Turns texts into a list of values, in the same order.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Vec<Self> {
        texts.into_iter().map(|text| Argument::Text(text.into())).collect()
    }
}
