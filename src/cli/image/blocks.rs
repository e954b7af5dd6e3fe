//! `imgfactory image split` and `join`: between a disk and its blocks.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::super::output::In;
use super::super::{Failure, Session, print};
use crate::ext2::ReadAt;
use crate::foreign::magic::{self, FileKind};
use crate::pipeline::steps::split::{self, Options, SplitError, SplitInput};
use crate::publish::{MirrorFiles, RemoteError};
use crate::recipe::Size;
use crate::repository::published::Published;
use crate::repository::store::Store;
use crate::repository::targets::parallel;
use crate::sys::image_file::{ImageFile, ImageOutput};
use crate::sys::progress::Unit;
use crate::yaml::Scalar;
use formats::block::{Block, Codec, CodecKind, FetchedFile, Inflated, Object};
use formats::index::{BlockContents, Header, Index};
use formats::names::{BlockSize, ImageName, Serial, UnixTime};
use formats::release::{Leaf, MirrorPath};
use formats::report::size;
use system::files::{FileError, OutputPath};

/// Blocks that are fetched, and in memory, at a time.
const TOGETHER: usize = 64;
/// Blocks fetched in parallel.
const JOBS: usize = 4;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Blocks that the directory already has are not compressed again. The index is written to \
images/NAME/SERIAL/index.idx in it. Signed releases are made by `imgfactory build`."
)]
pub(super) struct SplitArgs {
    /// The image, or any other disk
    image: PathBuf,
    /// Directory of the mirror; blocks are written to its blk/
    #[arg(long, value_name = "MIRROR")]
    store: PathBuf,
    /// Name of the image
    #[arg(long = "image", value_name = "NAME")]
    name: ImageName,
    /// Split the file as it is, also if it is a qcow2 or compressed
    #[arg(long)]
    as_is: bool,
    #[command(flatten)]
    cut: SplitOptions,
}

/// A disk that has to be made raw first.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}, not a raw disk; {remedy}, or split it as it is with --as-is", path.display())]
struct NotRaw {
    path: PathBuf,
    what: String,
    remedy: String,
}

impl NotRaw {
    fn check(path: &Path, disk: &ImageFile) -> Result<(), Failure> {
        let kind = magic::identify(disk).map_err(|error| FileError::new(path, "read", error))?;
        let shown = path.display();
        let (what, remedy) = match kind {
            FileKind::Disk(container) => {
                let format = container.as_str();
                let convert = format!("convert it: qemu-img convert -f {format} -O raw {shown} {shown}.raw");
                (format!("a {format} disk"), convert)
            }
            FileKind::Compressed(compression) => {
                let program = compression.program();
                (
                    format!("compressed by {program}"),
                    format!("decompress it: {program} -dc {shown} > {shown}.raw"),
                )
            }
            FileKind::Tar => ("a tar archive".to_owned(), "use `image pack --store`".to_owned()),
            FileKind::Foreign(what, remedy) => (what.to_owned(), remedy.to_owned()),
            FileKind::FileSystem(_) | FileKind::Plain => return Ok(()),
        };
        Err(NotRaw { path: path.into(), what, remedy }.into())
    }
}

/// How a disk is cut.
#[derive(Debug, clap::Args)]
pub(super) struct SplitOptions {
    /// Serial of the release that the index is for
    #[arg(long, value_name = "N", default_value = "1", requires = "store")]
    serial: Serial,
    /// Size of a block: a multiple of 4KiB, up to 4MiB
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = block_size, requires = "store")]
    pub(super) block_size: BlockSize,
    /// Compressor and level: libdeflate or zlib [default: libdeflate:5]
    #[arg(long, value_name = "CODEC[:LEVEL]", value_parser = codec, requires = "store")]
    codec: Option<Codec>,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each block is checked against its SHA-256 in the index. The index itself is not checked against a \
signature; imgfetch and `imgfactory mirror verify` do that."
)]
pub(super) struct JoinArgs {
    /// The index (index.idx)
    index: PathBuf,
    /// Mirror that has the blocks: a directory or URL
    #[arg(long, value_name = "DIR|URL")]
    store: PathBuf,
    /// File or block device to write the image to
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

fn block_size(text: &str) -> Result<BlockSize, String> {
    let bytes = Size::read(text).map_err(|wrong| format!("{}; {}", wrong.what, wrong.instead))?.0;
    let size = u32::try_from(bytes).ok().and_then(BlockSize::new);
    size.ok_or_else(|| "must be a multiple of 4 KiB, up to 4 MiB".to_owned())
}

fn codec(text: &str) -> Result<Codec, String> {
    let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
    let kind = CodecKind::read(name).map_err(|wrong| format!("{}; {}", wrong.what, wrong.instead))?;
    let level = match level {
        Some(level) => level.parse().map_err(|_| format!("`{level}` is not a number"))?,
        None => kind.default_level(),
    };
    kind.at(level).map_err(|error| error.to_string())
}

pub(super) fn split(args: SplitArgs, session: &Session) -> Result<(), Failure> {
    let disk = ImageFile::open(&args.image)?;
    let len = disk.size().map_err(|error| FileError::new(&args.image, "inspect", error))?;
    if !args.as_is {
        NotRaw::check(&args.image, &disk)?;
    }
    cut(args.name, len, &args.store, &args.cut, session, &disk, |error| {
        FileError::new(&args.image, "read", error).into()
    })
}

/// Cuts a disk of `len` bytes into a mirror's directory; `failed` words what its source says.
pub(super) fn cut<S: SplitInput>(
    image: ImageName,
    len: u64,
    store: &Path,
    cut: &SplitOptions,
    session: &Session,
    source: &S,
    failed: impl FnOnce(S::Error) -> Failure,
) -> Result<(), Failure>
where
    SplitError<S::Error>: Into<Failure>,
{
    let header = Header {
        image: image.clone(),
        serial: cut.serial,
        block_size: cut.block_size,
        size: len,
        published: UnixTime(0),
        parent: None,
    };
    let mut store = Store::open(store)?;
    let path = MirrorPath::Image(image, cut.serial, Leaf::Index);
    let options = Options::new(cut.codec.unwrap_or_default());
    let made = split::split(&header, options, &mut store, &*session.progress, source);
    let made = made.map_err(|error| match error {
        SplitError::Image(error) => failed(error),
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
    let to = OutputPath::find(&args.to)?;
    let file = File::open(&args.index).map_err(|error| FileError::new(&args.index, "read", error))?;
    let index =
        Index::decode(BufReader::new(file)).map_err(|error| In { place: args.index.clone(), error })?;
    let store = Published::open(&args.store, JOBS, &session.web)?;
    let header = index.header();
    let task = session.progress.start(&format!("image `{}`", header.image), header.size, Unit::Bytes);
    let out = ImageOutput::create(to, header.size)?;
    let targets: Vec<_> = index.targets().collect();
    let (mut at, block_size) = (0, u64::from(header.block_size.get()));
    for part in targets.chunks(TOGETHER) {
        let blocks = parallel(part, JOBS, |target| match target {
            BlockContents::Zero => Ok(None),
            BlockContents::Object(id) => {
                let object = index.object(*id).expect("an index's targets are its objects");
                fetch(&store, object).map(Some)
            }
        })?;
        for block in blocks {
            let len = block_size.min(header.size - at);
            match block {
                Some(block) => out.write_at(at, block.bytes())?,
                None => out.write_zeros(at, len)?,
            }
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
    let bytes = bytes.ok_or_else(|| RemoteError::new(place(), "missing, but the index names it"))?;
    let block = FetchedFile::new(*object, bytes).inflate().and_then(Inflated::verify);
    block.map_err(|damage| RemoteError::new(place(), damage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codec_has_the_level_that_recipes_give_it_unless_one_is_named() {
        assert_eq!(codec("libdeflate"), Ok(Codec::default()));
        assert_eq!(codec("libdeflate:5"), Ok(Codec::default()));
        assert_eq!(codec("zlib"), Ok(Codec::zlib(6).unwrap()));
        assert_eq!(codec("zlib:12").unwrap_err(), "level 12: zlib has 1 to 9");
        assert_eq!(codec("libdeflate:high").unwrap_err(), "`high` is not a number");
    }
}
