//! What goes into a resolver and what comes out of it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::jitter::Jitter;
use formats::fetch_fault::FetchFault as Fault;
use formats::index::Index;
use formats::names::{ImageName, Serial, UnixTime};
use formats::release::{Dlahead, ImageFiles, KeyId, Latest, MirrorPath, Mirrors, Release, TrustedKeys};
use formats::url::MirrorUrl;

/// What is to be resolved, with which mirrors and keys.
#[derive(Clone, Debug)]
pub struct ResolveRequest {
    pub mirrors: Vec<MirrorUrl>,
    /// The keys whose signatures are accepted.
    pub keys: TrustedKeys,
    pub image: ImageName,
    /// The distribution; `None`: whichever the mirrors have and the keys have signed.
    pub name: Option<ImageName>,
    /// This release, however old (a pinned release); `None`: the newest.
    pub release: Option<Serial>,
    /// Refuse a `latest` that may be stale, and a serial that can't be remembered.
    pub strict: bool,
    /// Whether all mirrors are asked for `latest` at once, or one after the other in their order.
    pub netselect: bool,
    /// Spreads the pauses between rounds through all mirrors.
    pub jitter: Jitter,
    /// How long the whole may take.
    pub start_within: Duration,
    /// Whether there is a cache: what was accepted before is known, and what is accepted now is remembered.
    pub has_cache: bool,
    /// Whether there is a medium with a mirror's tree.
    pub has_medium: bool,
    /// The distribution of which the cache has a release, if it has one of just one.
    pub cached_name: Option<ImageName>,
}

/// The time since the start, which never jumps, and the time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the resolver began; never goes back.
    pub elapsed: Duration,
    /// What the machine's clock says; may be wrong.
    pub wall: UnixTime,
}

/// A request to a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GetId(pub u64);

/// A file of the cache or of the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredFile {
    /// A file of the mirror's tree on the medium.
    Medium(MirrorPath),
    /// The highest serial of this distribution that was accepted.
    Serial(ImageName),
    /// The text of the release of this distribution that was used last.
    Release(ImageName),
    /// The newest `latest` of this distribution that was accepted.
    Latest(ImageName),
    /// The index of an image: distribution, image.
    Index(ImageName, ImageName),
    /// The rotation statement of this key.
    Keys(KeyId),
}

/// What such a file holds. Nothing is verified.
#[derive(Clone, Debug)]
pub enum StoredContent {
    /// Of all but [`StoredFile::Serial`]; `None`: there is no such file, or it can't be read.
    Bytes(Option<Arc<Vec<u8>>>),
    /// Of [`StoredFile::Serial`]; `None`: no release was accepted so far.
    Serial(Result<Option<Serial>, StorageError>),
}

/// Why the cache can't be read or written.
pub type StorageError = Arc<dyn Error + Send + Sync>;

/// A file that a mirror sent. Nothing is verified.
#[derive(Clone, Debug)]
pub struct MirrorAnswer {
    pub bytes: Vec<u8>,
    /// What they seem to be if they are not the file.
    pub instead: Option<Fault>,
    /// From the request to the first byte.
    pub first_byte: Duration,
    /// From the request to the last byte.
    pub whole: Duration,
}

/// An event from outside: the carrier reports it to the resolver.
#[derive(Debug)]
pub enum TrustEvent {
    /// A request to a mirror is over.
    Answer { id: GetId, result: Result<MirrorAnswer, Fault> },
    /// What [`TrustAction::Read`] asked for.
    Stored { file: StoredFile, content: StoredContent },
    /// [`TrustAction::AcceptSerial`] is done, or can't be.
    SerialAccepted(Result<(), StorageError>),
}

/// What is to be done.
#[derive(Debug)]
pub enum TrustAction {
    /// Ask a mirror, and report with [`TrustEvent::Answer`] by `until`.
    Get(MirrorGet),
    /// Read this, and report with [`TrustEvent::Stored`] at once.
    Read(StoredFile),
    /// Write this. Where it can't be written, warn of what that leads to; nothing is reported.
    Save {
        /// The file: never [`StoredFile::Medium`] or [`StoredFile::Serial`].
        file: StoredFile,
        /// What it is to hold.
        bytes: Vec<u8>,
        /// What does not work when it can't be written.
        without: &'static str,
    },
    /// Remember, synced, that this serial was accepted, and report with [`TrustEvent::SerialAccepted`].
    AcceptSerial {
        name: ImageName,
        serial: Serial,
        /// Also in place of a higher one.
        restart: bool,
    },
    Warn(String),
    /// Print a line for `--verbose`.
    Detail(String),
    /// The release is found. Comes once, and then no [`TrustAction::Failed`].
    Resolved(Box<Resolved>),
    /// There is no release to use. Comes once, and then nothing more.
    Failed(ResolveError),
    /// The signed list of mirrors, if it could be fetched. Comes once, after a [`TrustAction::Resolved`] that has
    /// `mirrors_follow`.
    MirrorList(Option<Mirrors>),
    /// The prefetch list, if it could be fetched. Comes once, after a [`TrustAction::Resolved`] that has `list_follows`.
    PrefetchList(Option<Dlahead>),
}

/// A request to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorGet {
    /// To be given back.
    pub id: GetId,
    /// Its place in the list of mirrors.
    pub mirror: usize,
    pub path: MirrorPath,
    /// Bytes at most.
    pub limit: u64,
    /// Bytes exactly, when they are known.
    pub len: Option<u64>,
    /// Past caches on the way.
    pub fresh: bool,
    /// When to give up, as [`Now::elapsed`].
    pub until: Duration,
}

/// A release that may be used.
#[derive(Debug)]
pub struct Resolved {
    pub release: Release,
    /// Its files of the image.
    pub files: ImageFiles,
    pub index: Index,
    /// The `latest` that names the release; `None` for a pinned one and for one from the cache.
    pub latest: Option<Latest>,
    /// Whether [`TrustAction::MirrorList`] comes.
    pub mirrors_follow: bool,
    /// Whether [`TrustAction::PrefetchList`] comes.
    pub list_follows: bool,
}

/// Why there is no release to use.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No mirror had a file that could be used.
    #[error("can't get {file} from any mirror{}{}", EachMirror(.faults), hint(*.network))]
    NoMirror {
        file: String,
        /// The last failure of each.
        faults: Vec<(MirrorUrl, String)>,
        /// Whether a mirror may have it later.
        hope: bool,
        /// Whether the network may be the cause.
        network: bool,
        /// Whether a mirror has a file that is refused, and not just none.
        refused: bool,
    },
    #[error("release {serial} of `{name}` has no image `{image}`; it has {}", list(.has))]
    NoImage {
        name: ImageName,
        serial: Serial,
        /// What was asked for.
        image: ImageName,
        has: Vec<ImageName>,
    },
    /// The publisher has revoked the release that was asked for.
    #[error(
        "the publisher revoked release {serial} and all others below {min}; leave out --release to use the newest"
    )]
    Revoked {
        /// What was asked for.
        serial: Serial,
        /// The lowest that may be used.
        min: Serial,
    },
    /// The serial that was accepted before can't be read.
    #[error(transparent)]
    State(StorageError),
    /// The serial can't be remembered, and `--strict` wants it to be.
    #[error("can't store that release {serial} was accepted; leave out --strict to use it anyway")]
    NotRemembered {
        serial: Serial,
        #[source]
        source: StorageError,
    },
}

fn hint(network: bool) -> &'static str {
    match network {
        true => "; is the network up, and is the address of the mirror right?",
        false => "",
    }
}

struct EachMirror<'a>(&'a [(MirrorUrl, String)]);

impl fmt::Display for EachMirror<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [(mirror, fault)] => write!(f, ": {mirror}: {fault}"),
            all => all.iter().try_for_each(|(mirror, fault)| write!(f, "\n{mirror}: {fault}")),
        }
    }
}

fn list(names: &[ImageName]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
