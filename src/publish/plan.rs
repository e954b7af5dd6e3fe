//! What a publication will do, as a value: compared, not tried.

use std::collections::HashSet;
use std::fmt;

use super::FileToSend;
use super::release_state::{ReleaseState, image_files};
use formats::block::Object;
use formats::names::Serial;
use formats::release::{Latest, MirrorPath};
use formats::report::size;

/// What a target is known to have.
#[derive(Clone, Debug)]
pub struct TargetContents {
    /// What its `latest` says, and the file.
    pub latest: (Latest, Vec<u8>),
    /// The release that it names; `None` when that can't be read: then nothing is taken for granted.
    pub state: Option<ReleaseState>,
}

/// What is to be sent to one target.
#[derive(Clone, Debug)]
pub struct PublishPlan {
    /// The release that it has.
    pub base: Option<Serial>,
    /// The release that it will have.
    pub serial: Serial,
    /// Blocks that the release it has does not use, in order of first use.
    pub blocks: Vec<Object>,
    /// Blocks of the release that it has, and that ours needs too.
    pub shared: Vec<Object>,
    /// Images' files that it lacks, then the release.
    pub files: Vec<FileToSend>,
    /// Whether mirrors.txt is replaced.
    pub mirrors: Option<FileToSend>,
    /// Whether `latest` is replaced; when not, there is nothing to do.
    pub latest: Option<FileToSend>,
}

/// Why a release must not go to a target.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishPlanError {
    /// It has another distribution.
    #[error(
        "the target has `{found}`, this is `{ours}`; publish each distribution to a directory of its own"
    )]
    OtherName { found: String, ours: String },
    /// It has a later release.
    #[error(
        "the target has release {found}, this is the older {ours}; fetch the newer one with `imgfactory mirror \
         pull` and build on it, or go back with `imgfactory rollback`, which makes a new release"
    )]
    Newer { found: Serial, ours: Serial },
    /// It has another release of the same number.
    #[error(
        "the target has a different release {0}, built elsewhere, which clients may have accepted; fetch it \
         with `imgfactory mirror pull` and build on it, so that this release gets a higher serial"
    )]
    Fork(Serial),
    /// It has a `latest` of the same release that was signed later.
    #[error(
        "the target's `latest` of release {0} was signed later than this one; run `imgfactory refresh` first"
    )]
    Refreshed(Serial),
}

impl PublishPlan {
    /// Compares our release with what the target has.
    ///
    /// # Errors
    /// [`PublishPlanError`].
    pub fn new(ours: &ReleaseState, held: Option<&TargetContents>) -> Result<Self, PublishPlanError> {
        let latest = FileToSend { path: MirrorPath::Latest, len: ours.latest_file.len() as u64 };
        let mirrors = FileToSend { path: MirrorPath::Mirrors, len: ours.latest.mirrors.len };
        let Some(held) = held else {
            return Ok(PublishPlan {
                base: None,
                serial: ours.latest.serial,
                blocks: ours.objects(),
                shared: vec![],
                files: ours.files(),
                mirrors: Some(mirrors),
                latest: Some(latest),
            });
        };
        let (theirs, file) = &held.latest;
        if theirs.name != ours.latest.name {
            let (found, ours) = (theirs.name.to_string(), ours.latest.name.to_string());
            return Err(PublishPlanError::OtherName { found, ours });
        }
        if theirs.serial > ours.latest.serial {
            return Err(PublishPlanError::Newer { found: theirs.serial, ours: ours.latest.serial });
        }
        let same_release = theirs.serial == ours.latest.serial;
        if same_release && theirs.release != ours.latest.release {
            return Err(PublishPlanError::Fork(theirs.serial));
        }
        if same_release && theirs.published > ours.latest.published {
            return Err(PublishPlanError::Refreshed(theirs.serial));
        }
        let has: HashSet<_> =
            held.state.iter().flat_map(ReleaseState::objects).map(|object| object.name).collect();
        let (shared, blocks) = ours.objects().into_iter().partition(|object| has.contains(&object.name));
        let mut has_files: HashSet<_> =
            held.state.iter().flat_map(|state| image_files(&state.release)).map(|item| item.path).collect();
        if same_release && held.state.is_some() {
            has_files.insert(theirs.release_path());
        }
        let files = ours.files().into_iter().filter(|item| !has_files.contains(&item.path)).collect();
        let mirrors_fit = held.state.as_ref().is_some_and(|state| state.mirrors_fit)
            && theirs.mirrors == ours.latest.mirrors;
        Ok(PublishPlan {
            base: Some(theirs.serial),
            serial: ours.latest.serial,
            blocks,
            shared,
            files,
            mirrors: (!mirrors_fit).then_some(mirrors),
            latest: (*file != ours.latest_file).then_some(latest),
        })
    }

    /// Whether the target has it all, as far as its own release tells.
    pub fn is_done(&self) -> bool {
        self.latest.is_none() && self.blocks.is_empty() && self.files.is_empty() && self.mirrors.is_none()
    }

    /// Everything that will be sent, in order.
    pub fn items(&self) -> Vec<FileToSend> {
        let blocks = self.blocks.iter().map(block_item);
        blocks
            .chain(self.files.iter().cloned())
            .chain(self.mirrors.clone())
            .chain(self.latest.clone())
            .collect()
    }

    /// The bytes of all [`PublishPlan::items`] together.
    pub fn bytes(&self) -> u64 {
        self.items().iter().map(|item| item.len).sum()
    }
}

/// The file of a block.
pub fn block_item(object: &Object) -> FileToSend {
    FileToSend { path: MirrorPath::Block(object.name), len: object.file_len.into() }
}

impl fmt::Display for PublishPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_done() {
            return write!(f, "release {} is already there", self.serial);
        }
        match self.base {
            Some(base) if base == self.serial => write!(f, "release {}: ", self.serial)?,
            Some(base) => write!(f, "release {base} -> {}: ", self.serial)?,
            None => write!(f, "nothing -> release {}: ", self.serial)?,
        }
        let items = self.items();
        let bytes = |items: &[FileToSend]| items.iter().map(|item| item.len).sum::<u64>();
        let (blocks, rest) = items.split_at(self.blocks.len());
        write!(
            f,
            "{} blocks, {}; {} other files, {}; {} bytes in total",
            blocks.len(),
            size(bytes(blocks)),
            rest.len(),
            size(bytes(rest)),
            bytes(&items)
        )
    }
}
