//! Step: a tree becomes the blocks of a disk in the mirror's store, and their index. No image file is written.

use super::facts;
use super::release::Last;
use super::split::{self, Split, SplitError};
use super::systems::System;
use crate::block::Codec;
use crate::ext2::{self, InodeSize, Plan, PlanError, Sequential, WriteError};
use crate::host::progress::Progress;
use crate::host::store::Store;
use crate::index::{BlockSize, Header, ImageName, Parent, Serial, UnixTime};
use crate::recipe::{self, Recipe};
use crate::tree::{Contents, Tree};

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The tree can't be an ext2 file system.
    #[error("image `{image}`")]
    Plan {
        /// The image.
        image: ImageName,
        /// Why.
        source: PlanError,
    },
    /// It could not be written or split.
    #[error("image `{image}`")]
    Split {
        /// The image.
        image: ImageName,
        /// Why.
        source: SplitError<WriteError>,
    },
}

/// What an image is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: ImageName,
    /// The release that it is made for.
    pub serial: Serial,
    /// Raw bytes of a block.
    pub block_size: BlockSize,
    /// Compressor of block files.
    pub codec: Codec,
    /// Time of making.
    pub epoch: u64,
    /// Bytes free for what the system writes.
    pub free: u64,
    /// Bytes of an inode.
    pub inode_size: InodeSize,
    /// The image's index before.
    pub parent: Option<Parent>,
}

impl Wanted {
    /// What the recipe says of a system's image, for the release after the last.
    pub fn of(recipe: &Recipe, system: &System, epoch: i64, last: &Last) -> Self {
        let blocks = &recipe.blocks;
        // The recipe's check has let only levels through that the codecs have.
        let level = u8::try_from(blocks.level).unwrap_or(u8::MAX);
        let codec = match blocks.codec {
            recipe::Codec::Libdeflate => Codec::libdeflate(level),
            recipe::Codec::Zlib => Codec::zlib(level),
        };
        Wanted {
            name: system.name.clone(),
            serial: last.next,
            block_size: BlockSize::new(blocks.size).expect("a recipe's block sizes are those of an index"),
            codec: codec.expect("a recipe's levels are those of the codec"),
            epoch: u64::try_from(epoch).unwrap_or(0),
            free: system.image.free,
            inode_size: match system.image.inode_size {
                recipe::InodeSize::B128 => InodeSize::Small,
                recipe::InodeSize::B256 => InodeSize::Large,
            },
            parent: last.parent(&system.name),
        }
    }
}

/// Writes the file system through the splitter.
///
/// # Errors
/// [`ImageError`]. Blocks written by then stay, and the next build finds them.
pub fn make(
    wanted: &Wanted,
    tree: &Tree,
    contents: &dyn Contents,
    store: &mut Store,
    progress: &dyn Progress,
) -> Result<Split, ImageError> {
    let image = || wanted.name.clone();
    let options = ext2::Options {
        free: wanted.free,
        inode_size: wanted.inode_size,
        ..ext2::Options::new(wanted.name.as_str(), wanted.epoch)
    };
    let plan = Plan::new(tree, &options, &mut Sequential::default())
        .map_err(|source| ImageError::Plan { image: image(), source })?;
    let header = Header {
        image: image(),
        serial: wanted.serial,
        block_size: wanted.block_size,
        size: u64::from(plan.geometry().blocks) * u64::from(ext2::BLOCK),
        published: UnixTime(wanted.epoch),
        parent: wanted.parent,
    };
    split::split(&header, split::Options::new(wanted.codec), store, progress, |out| {
        ext2::write(&plan, contents, out)
    })
    .map_err(|source| ImageError::Split { image: image(), source })
}

/// The figures of an image.
pub fn figures(split: &Split) -> facts::Image {
    let index = &split.index;
    facts::Image {
        name: index.header().image.to_string(),
        bytes: index.header().size,
        blocks: u64::from(index.block_count()) - split.figures.zero,
        objects: index.objects().len() as u64,
        compressed: index.objects().iter().map(|object| u64::from(object.file_len)).sum(),
    }
}
