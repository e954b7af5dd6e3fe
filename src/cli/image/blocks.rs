//! `imgfactory image split` and `join`: between a disk and its blocks.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use super::super::output::In;
use super::super::{Failure, Session, print};
use crate::block::{Block, Codec, Fetched, Inflated, Object};
use crate::build::split::{self, Options, SplitError};
use crate::ext2::ReadAt;
use crate::host::files::FileError;
use crate::host::image::{ImageFile, SparseFile};
use crate::host::progress::Unit;
use crate::host::published::Published;
use crate::host::remote::parallel;
use crate::host::store::Store;
use crate::index::{BlockSize, Header, ImageName, Index, Serial, Target, UnixTime};
use crate::publish::{Files, RemoteError};
use crate::recipe::{self, Scalar, Size};
use crate::release::{Leaf, MirrorPath};
use crate::report::size;

/// Blocks that are fetched, and in memory, at a time.
const TOGETHER: usize = 64;
/// Blocks fetched in parallel.
const JOBS: usize = 4;

#[derive(Debug, clap::Args)]
#[command(after_help = "Blocks that the directory has are not compressed again. The index is \
images/NAME/SERIAL/index.idx there; `imgfactory build` makes releases, which are signed.")]
pub(super) struct SplitArgs {
    /// The image, or any disk
    image: PathBuf,
    /// The mirror's directory: blocks go to blk/ below it
    #[arg(long, value_name = "MIRROR")]
    store: PathBuf,
    /// Name of the image
    #[arg(long = "image", value_name = "NAME")]
    name: ImageName,
    /// Serial of the release that it is for
    #[arg(long, value_name = "N", default_value = "1")]
    serial: Serial,
    /// Bytes of a block, e.g. 256KiB
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = block_size)]
    block_size: BlockSize,
    /// Compressor: libdeflate, or zlib, with a level after a colon
    #[arg(long, value_name = "CODEC[:LEVEL]", default_value = "libdeflate:6", value_parser = codec)]
    codec: Codec,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "What is put together is what the index says, to the byte: each block's SHA-256 is checked. Whether \
the index is to be believed, nobody asks; imgfetch and `imgfactory mirror verify` go by signatures."
)]
pub(super) struct JoinArgs {
    /// The index (index.idx)
    index: PathBuf,
    /// Where its blocks are: a mirror's directory or URL
    #[arg(long, value_name = "DIR|URL")]
    store: PathBuf,
    /// The image to make
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

fn block_size(text: &str) -> Result<BlockSize, String> {
    let bytes = Size::read(text).map_err(|wrong| format!("{}; {}", wrong.what, wrong.instead))?.0;
    let size = u32::try_from(bytes).ok().and_then(BlockSize::new);
    size.ok_or_else(|| "a multiple of 4 KiB up to 4 MiB is wanted".to_owned())
}

fn codec(text: &str) -> Result<Codec, String> {
    let (name, level) = text.split_once(':').unwrap_or((text, "6"));
    let codec = recipe::Codec::read(name).map_err(|wrong| format!("{}; {}", wrong.what, wrong.instead))?;
    let level = level.parse().map_err(|_| format!("`{level}` is no level"))?;
    let codec = match codec {
        recipe::Codec::Libdeflate => Codec::libdeflate(level),
        recipe::Codec::Zlib => Codec::zlib(level),
    };
    codec.map_err(|error| error.to_string())
}

pub(super) fn split(args: SplitArgs, session: &Session) -> Result<(), Failure> {
    let disk = ImageFile::open(&args.image)?;
    let len = disk.size().map_err(|error| FileError::new(&args.image, "look at", error))?;
    let header = Header {
        image: args.name.clone(),
        serial: args.serial,
        block_size: args.block_size,
        size: len,
        published: UnixTime(0),
        parent: None,
    };
    let mut store = Store::open(&args.store)?;
    let path = MirrorPath::Image(args.name, args.serial, Leaf::Index);
    let made = split::split(&header, Options::new(args.codec), &mut store, &*session.progress, &disk);
    let made = made.map_err(|error| match error {
        SplitError::Image(error) => Failure::from(FileError::new(&args.image, "read", error)),
        other => other.into(),
    })?;
    store.sync()?.write(&path, &made.index.to_text())?;
    if !session.quiet {
        let all: u64 = made.index.objects().iter().map(|object| u64::from(object.file_len)).sum();
        print(&format!(
            "{}: {} blocks, {} of zeros; {} files, {}, of these {} new, {}\n",
            store.locate(&path).display(),
            made.index.block_count(),
            made.figures.zero,
            made.index.objects().len(),
            size(all),
            made.figures.written,
            size(made.figures.written_bytes),
        ))?;
    }
    Ok(())
}

pub(super) fn join(args: &JoinArgs, session: &Session) -> Result<(), Failure> {
    let file = File::open(&args.index).map_err(|error| FileError::new(&args.index, "read", error))?;
    let index =
        Index::decode(BufReader::new(file)).map_err(|error| In { place: args.index.clone(), error })?;
    let store = Published::open(&args.store, JOBS)?;
    let header = index.header();
    let task = session.progress.start(&format!("image `{}`", header.image), header.size, Unit::Bytes);
    let out = SparseFile::create(&args.to, header.size)?;
    let targets: Vec<_> = index.targets().collect();
    let (mut at, block_size) = (0, u64::from(header.block_size.get()));
    for part in targets.chunks(TOGETHER) {
        let blocks = parallel(part, JOBS, |target| match target {
            Target::Zero => Ok(None),
            Target::Object(id) => {
                let object = index.object(*id).expect("an index's targets are its objects");
                fetch(&store, object).map(Some)
            }
        })?;
        for block in blocks {
            if let Some(block) = block {
                out.write_at(at, block.bytes())?;
            }
            let len = block_size.min(header.size - at);
            at += len;
            task.advance(len);
        }
    }
    drop(task);
    out.commit()?;
    Ok(())
}

fn fetch(store: &Published, object: &Object) -> Result<Block, RemoteError> {
    let path = MirrorPath::Block(object.name);
    let place = || store.locate(&path).display().to_string();
    let bytes = store.read(&path, object.file_len.into())?;
    let bytes = bytes.ok_or_else(|| RemoteError::new(place(), "not there, though the index names it"))?;
    let block = Fetched::new(*object, bytes).inflate().and_then(Inflated::verify);
    block.map_err(|damage| RemoteError::new(place(), damage))
}
