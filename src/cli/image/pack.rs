//! `imgfactory image pack`.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::output::In;
use super::super::{Failure, Session, print};
use super::blocks::{SplitOptions, cut};
use crate::debian::owners::Owners;
use crate::ext2::{
    self, Align, ImageOptions, ImagePlan, IncrementalAllocator, InodeSize, LayoutMap, PageMap, Pages,
    PreviousLayout, Profile, Sequential, WriteError, keep_times,
};
use crate::pipeline::steps::image::{LEAST_RUN, Rendered};
use crate::recipe::Size;
use crate::sys::archive;
use crate::sys::directory::{self, Mounts};
use crate::sys::image_file::ImageOutput;
use crate::sys::progress::Unit;
use crate::sys::spool::ContentFiles;
use crate::sys::temporary_directory;
use crate::tree::tar::{self, TarError};
use crate::tree::{Contents, FileTime, Tree};
use crate::yaml::Scalar;
use formats::release::MAX_LAYOUT;
use formats::report;
use system::files::{FileError, OutputPath, read_at_most};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A tar archive, which may be compressed (`-` is standard input), or a directory
    #[arg(long, value_name = "TAR|DIR")]
    from: PathBuf,
    /// Leave out the files of all file systems that are mounted below the directory. Those of the kernel (proc, sysfs,
    /// devtmpfs) are always left out
    #[arg(long)]
    one_file_system: bool,
    /// File or block device to write the image to
    #[arg(long, value_name = "IMAGE", required_unless_present = "store", conflicts_with = "store")]
    to: Option<PathBuf>,
    /// Write blocks instead of an image: to blk/ in this mirror's directory, with an unsigned index in
    /// images/NAME/SERIAL/index.idx
    #[arg(long, value_name = "MIRROR", requires = "name")]
    store: Option<PathBuf>,
    /// Free space in the image, e.g. 64MiB
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = bytes)]
    free: u64,
    /// System that will read the image: `linux`; `netbsd`, with its own device numbers and no extended attributes;
    /// or `9legacy`, which also has no file types in directory entries
    #[arg(long, value_name = "SYSTEM", default_value = "linux", value_parser = profile)]
    profile: Profile,
    /// Size of an inode in bytes: 256, or 128, which can't store times after 2038 [default: 256; 128 for netbsd and
    /// 9legacy]
    #[arg(long, value_name = "N", value_parser = inode_size)]
    inode_size: Option<InodeSize>,
    /// Name of the image, which gives its label and UUID [default: the file name of --to up to the first dot]
    #[arg(long)]
    name: Option<String>,
    /// Layout map of the previous image, as written by --layout or from a release: unchanged files keep their place
    #[arg(long, value_name = "FILE")]
    previous_layout: Option<PathBuf>,
    /// File to write this image's layout map to, for the next image
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,
    #[command(flatten)]
    cut: SplitOptions,
}

fn bytes(text: &str) -> Result<u64, String> {
    Size::read(text).map(|size| size.0).map_err(|wrong| format!("{}; {}", wrong.what, wrong.instead))
}

fn profile(text: &str) -> Result<Profile, String> {
    match text {
        "linux" => Ok(Profile::Linux),
        "netbsd" => Ok(Profile::NetBsd),
        "9legacy" => Ok(Profile::Legacy9),
        _ => Err("must be linux, netbsd or 9legacy".to_owned()),
    }
}

fn inode_size(text: &str) -> Result<InodeSize, String> {
    match text {
        "128" => Ok(InodeSize::Small),
        "256" => Ok(InodeSize::Large),
        _ => Err("must be 128 or 256".to_owned()),
    }
}

pub(super) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let to = args.to.as_ref().map(OutputPath::find).transpose()?;
    let layout = args.layout.as_ref().map(OutputPath::find).transpose()?;
    let outputs = Outputs { to, layout };
    if args.from != Path::new("-") {
        let found = fs::metadata(&args.from).map_err(|error| FileError::new(&args.from, "read", error))?;
        if found.is_dir() {
            let mounts = if args.one_file_system { Mounts::None } else { Mounts::Real };
            let (tree, contents) = directory::read(&args.from, mounts)?;
            return write(args, outputs, &tree, &contents, session);
        }
    }
    let mut spools = ContentFiles::new();
    // Beside the image, for which there must be space anyway.
    let beside =
        outputs.to.as_ref().map_or(args.store.as_deref().filter(|dir| dir.is_dir()), OutputPath::directory);
    let temporary = temporary_directory();
    let archive = archive::open(&args.from, beside.unwrap_or(&temporary))?;
    let contents = archive.try_clone().map_err(|error| FileError::new(&args.from, "open again", error))?;
    let spool = spools.add(&args.from, contents);
    let tree = tar::read(archive, spool).map_err(|error: TarError| In { place: args.from.clone(), error })?;
    write(args, outputs, &tree, &spools, session)
}

/// The files to be written, which were looked up before anything else.
struct Outputs {
    to: Option<OutputPath>,
    layout: Option<OutputPath>,
}

fn write(
    args: &Args,
    outputs: Outputs,
    tree: &Tree,
    contents: &dyn Contents,
    session: &Session,
) -> Result<(), Failure> {
    let Outputs { to, layout } = outputs;
    // A summary does not belong into what is piped on.
    let summary = !session.quiet && ![&to, &layout].into_iter().flatten().any(OutputPath::is_stream);
    let name = args.name.clone().unwrap_or_else(|| {
        let file = args.to.as_ref().and_then(|to| to.file_name()).unwrap_or_default().to_string_lossy();
        file.split('.').next().unwrap_or_default().to_owned()
    });
    let inode_size = args.inode_size.unwrap_or(match args.profile {
        Profile::Linux => InodeSize::Large,
        Profile::NetBsd | Profile::Legacy9 => InodeSize::Small,
    });
    if (args.profile, inode_size) == (Profile::Legacy9, InodeSize::Large) {
        let what = "--inode-size: 9legacy's ext2srv damages file systems with inodes of 256 bytes; leave the \
                    option out";
        return Err(Failure::Usage(what.into()));
    }
    let options = ImageOptions {
        free: args.free,
        inode_size,
        profile: args.profile,
        ..ImageOptions::new(&name, epoch(tree)?)
    };
    // Pages of a block of the disk.
    let unit = args.cut.block_size.get() / ext2::BLOCK;
    let mut aligned = Sequential { align: Some(Align { blocks: unit, from: unit }) };
    if args.layout.is_none() && args.previous_layout.is_none() {
        let mut anew = if args.store.is_some() { aligned } else { Sequential::default() };
        let plan = ImagePlan::new(tree, &options, &mut anew)?;
        return put(&name, &plan, args, (to, summary), contents, session);
    }
    let owners = Owners::read(tree, contents)?;
    let previous = args.previous_layout.as_deref().map(|file| {
        let bytes = read_at_most(file, MAX_LAYOUT)?;
        LayoutMap::decode(&bytes).map_err(|error| Failure::at(file, error))
    });
    let previous = previous.transpose()?;
    let previous = previous.as_ref().map(PreviousLayout::new);
    let pages = Pages::read(tree, contents, previous.as_ref(), &|_| {})?;
    let mut tree = tree.clone();
    let plan = match &previous {
        Some(previous) => {
            let made = FileTime { secs: i64::try_from(options.epoch).unwrap_or(i64::MAX), nanos: 0 };
            keep_times(&mut tree, &pages, previous, made);
            let options = ImageOptions { epoch: previous.epoch, ..options };
            let mut stable = IncrementalAllocator { previous, pages: &pages, unit, least_run: LEAST_RUN };
            ImagePlan::new(&tree, &options, &mut stable)?
        }
        None => ImagePlan::new(&tree, &options, &mut aligned)?,
    };
    put(&name, &plan, args, (to, summary), contents, session)?;
    if let Some(file) = layout {
        let census = PageMap::take(&plan, contents, &pages)?;
        let layout =
            LayoutMap::of(&plan, &pages, census.into_pages(), owners.labels(), |node| owners.label(node));
        let bytes = layout.encode();
        let mut out = file.create(bytes.len() as u64)?;
        out.write_all(&bytes)?;
        out.commit()?;
    }
    Ok(())
}

/// Writes a planned image, or its blocks.
fn put(
    name: &str,
    plan: &ImagePlan<'_>,
    args: &Args,
    (to, summary): (Option<OutputPath>, bool),
    contents: &dyn Contents,
    session: &Session,
) -> Result<(), Failure> {
    let geometry = plan.geometry();
    let length = u64::from(geometry.blocks) * u64::from(ext2::BLOCK);
    let image = ext2::PlannedImage::new(plan, contents);
    let Some(to) = to else {
        let store = args.store.as_ref().expect("the arguments have one or the other");
        let name = name.parse().map_err(|error| Failure::Usage(format!("--name: {error}")))?;
        return cut(name, length, store, &args.cut, session, &Rendered::new(image), Failure::from);
    };
    let task = session.progress.start(&format!("image `{name}`"), length, Unit::Bytes);
    let shown = args.to.clone().unwrap_or_default();
    let out = ImageOutput::create(to, length)?;
    out.write_all(|at, part| {
        let first = u32::try_from(at / u64::from(ext2::BLOCK)).expect("an image has at most 2^29 blocks");
        image.fill(first, part)?;
        task.advance(part.len() as u64);
        Ok::<_, PackError>(())
    })?;
    out.commit()?;
    drop(task);
    if summary {
        print(&format!(
            "{}: {}, {} free; {} inodes, {} free\n",
            shown.display(),
            report::size(length),
            report::size(u64::from(plan.free_blocks()) * u64::from(ext2::BLOCK)),
            geometry.inodes(),
            plan.free_inodes(),
        ))?;
    }
    Ok(())
}

/// SOURCE_DATE_EPOCH, otherwise the newest time in the tree; never the clock.
fn epoch(tree: &Tree) -> Result<u64, Failure> {
    const VARIABLE: &str = "SOURCE_DATE_EPOCH";
    if let Some(value) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        let text = value.to_string_lossy();
        return text
            .parse()
            .map_err(|_| Failure::Usage(format!("{VARIABLE}={text}: not a number of seconds since 1970")));
    }
    let newest = tree.walk().map(|(_, id)| tree.node(id).meta.mtime.secs).max();
    Ok(newest.and_then(|secs| u64::try_from(secs).ok()).unwrap_or(0))
}

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
enum PackError {
    #[error(transparent)]
    Contents(#[from] WriteError),
    #[error(transparent)]
    File(#[from] FileError),
}
