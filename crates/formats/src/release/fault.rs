//! What can be wrong with the texts of this room once their signature is right.

use super::{BadPath, MirrorPath};
use crate::block::BlockName;
use crate::names::{ImageName, Serial, UnixTime, clip};
use crate::text::TextFault;
use crate::url::BadUrl;

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseTextFault {
    /// Not even a text of the right shape.
    #[error(transparent)]
    Text(#[from] TextFault),
    /// Not a path of a mirror.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// Not a URL of a mirror.
    #[error(transparent)]
    Url(#[from] BadUrl),
    /// A path, and not the one that belongs here.
    #[error("`{found}` instead of `{want}`")]
    OtherPath {
        found: MirrorPath,
        /// What it ought to be.
        want: String,
    },
    /// A file of a later release.
    #[error(
        "serial {found} in a text of serial {serial}; only files of earlier releases and its own can be named"
    )]
    LaterSerial {
        /// The serial in the path.
        found: Serial,
        serial: Serial,
    },
    /// A time before the publication.
    #[error("{what} {time} is before `published: {published}`")]
    BeforePublished {
        what: &'static str,
        time: UnixTime,
        /// When the text was made.
        published: UnixTime,
    },
    /// A lower bound above the serial.
    #[error("min-serial {min} is above serial {serial}")]
    MinSerial { min: Serial, serial: Serial },
    /// The same image twice.
    #[error("image `{0}` is listed twice")]
    DuplicateImage(ImageName),
    /// A `dlahead` or `layout` line that does not follow its image, or not in that order.
    #[error(
        "`{kind} {image}` belongs after `image {image}`: one `dlahead`, then one `layout`, or an earlier release's and its own"
    )]
    Stray {
        /// First word of the line.
        kind: &'static str,
        image: String,
    },
    /// No image at all.
    #[error("no `image` line; a release has at least one image")]
    NoImage,
    /// The same mirror twice.
    #[error("mirror {0} is listed twice")]
    DuplicateMirror(String),
    /// More mirrors than a client looks at.
    #[error("more than {max} mirrors")]
    TooManyMirrors {
        /// How many there may be.
        max: usize,
    },
    /// An option of a mirror that is unknown, twice, in the wrong place or has no such value.
    #[error("`{}`: options are `max-conn=1..64`, then `location=` with 1 to 32 of a-z, A-Z, 0-9 and -", clip(.0))]
    MirrorOption(String),
    #[error("`{0}` is listed twice")]
    DuplicatePath(MirrorPath),
    /// A `put` of what is replaced, or the other way round, or not in order.
    #[error("`{verb} {path}`: {rule}")]
    Order {
        /// `put` or `replace`.
        verb: &'static str,
        path: MirrorPath,
        /// What the order is.
        rule: &'static str,
    },
    /// The manifest ends without its last step.
    #[error("`replace latest` is missing; without it nothing is published")]
    NoLatest,
    /// The figures of the last line.
    #[error("`end {lines} {bytes}`: there are {found_lines} lines of {found_bytes} bytes")]
    EndCounts {
        lines: u64,
        /// Bytes it says.
        bytes: u64,
        found_lines: u64,
        /// Sum of their lengths.
        found_bytes: u64,
    },
    /// The base comes after.
    #[error(
        "base {base} of serial {serial}: a base has a lower serial, or the same when only `latest` is signed again"
    )]
    Base { base: Serial, serial: Serial },
    /// A phase that is no word.
    #[error("phase `{}`: must have 1 to 16 of a-z, 0-9 and -", clip(.0))]
    Phase(String),
    #[error("block {0} is listed twice")]
    DuplicateBlock(BlockName),
    /// Not in order of first read.
    #[error("first read after {found} ms follows {before} ms; the list is in order of first read")]
    Unordered {
        found: u32,
        /// The time of the line before.
        before: u32,
    },
}
