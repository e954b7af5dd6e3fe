//! `imgfactory image`: ext2 images by themselves, for people and for tests.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::output::In;
use super::{Failure, Session, print};
use crate::ext2::{
    self, InodeSize, Options, Plan, Profile, RawInode, ReadError, Reader, Sequential, ondisk::S_IFDIR,
};
use crate::host::directory;
use crate::host::files::FileError;
use crate::host::image::{ImageFile, SparseFile};
use crate::host::progress::{Task, Unit};
use crate::host::spool::Spools;
use crate::recipe::{Scalar, Size};
use crate::report::{self, Exit};
use crate::tree::tar::{self, TarError};
use crate::tree::{Contents, Kind, SpoolId, Tree};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List a directory of an image
    Ls {
        /// The image
        image: PathBuf,
        /// What to list; a link is shown, not followed
        #[arg(default_value = "/")]
        path: PathBuf,
    },
    /// Print the contents of a file of an image
    Cat {
        /// The image
        image: PathBuf,
        /// The file
        path: PathBuf,
    },
    /// Print all metadata of a file of an image
    Stat {
        /// The image
        image: PathBuf,
        /// The file; a link is shown, not followed
        path: PathBuf,
    },
    /// Print all metadata of an image: superblock, groups, inodes, directories
    Dump {
        /// The image
        image: PathBuf,
    },
    /// Make an image of a tar archive or of a directory
    #[command(
        after_help = "The time in the superblock is SOURCE_DATE_EPOCH, or without it the newest file's. \
        The same input gives the same bytes."
    )]
    Pack(Pack),
}

#[derive(Debug, clap::Args)]
struct Pack {
    /// A tar archive that is not compressed, or a directory
    #[arg(long, value_name = "TAR|DIR")]
    from: PathBuf,
    /// The image to make
    #[arg(long, value_name = "IMAGE")]
    to: PathBuf,
    /// Free space in it, e.g. 64MiB
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = bytes)]
    free: u64,
    /// Who reads it: `linux`, or `netbsd`, whose device numbers differ, and which has no extended attributes
    #[arg(long, value_name = "SYSTEM", default_value = "linux", value_parser = profile)]
    profile: Profile,
    /// Bytes of an inode: 256, or 128 without times beyond 2038 [default: 256; 128 for netbsd]
    #[arg(long, value_name = "N", value_parser = inode_size)]
    inode_size: Option<InodeSize>,
    /// Its name: label and UUID come from it [default: IMAGE's name up to the first dot]
    #[arg(long)]
    name: Option<String>,
}

fn bytes(text: &str) -> Result<u64, String> {
    Size::read(text).map(|size| size.0).map_err(|wrong| format!("{}; {}", wrong.what, wrong.instead))
}

fn profile(text: &str) -> Result<Profile, String> {
    match text {
        "linux" => Ok(Profile::Linux),
        "netbsd" => Ok(Profile::NetBsd),
        _ => Err("linux and netbsd are possible".to_owned()),
    }
}

fn inode_size(text: &str) -> Result<InodeSize, String> {
    match text {
        "128" => Ok(InodeSize::Small),
        "256" => Ok(InodeSize::Large),
        _ => Err("128 and 256 are possible".to_owned()),
    }
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    match args.command {
        Command::Ls { image, path } => {
            let text = reading(&image, |reader| list(reader, &path))?;
            print(&text)?;
        }
        Command::Cat { image, path } => {
            let mut out = io::stdout().lock();
            reading(&image, |reader| {
                let raw = reader.lookup(path.as_os_str().as_bytes())?;
                let shown = || path.display().to_string();
                match reader.cat(&raw, &mut out) {
                    Err(ReadError::NotFile { .. }) => Err(ReadError::NotFile { path: shown() }),
                    result => result,
                }
                .or_else(unread)
            })?;
            out.flush()?;
        }
        Command::Stat { image, path } => {
            let path = path.as_os_str().as_bytes();
            print(&reading(&image, |reader| ext2::stat(reader, &reader.lookup(path)?))?)?;
        }
        Command::Dump { image } => {
            let mut out = BufWriter::new(io::stdout().lock());
            reading(&image, |reader| {
                ext2::dump(reader, &mut out)
                    .and_then(|()| out.flush().map_err(ReadError::Output))
                    .or_else(unread)
            })?;
        }
        Command::Pack(args) => pack(&args, session)?,
    }
    Ok(Exit::Done)
}

/// That nobody reads the output any more (`| head`) is no failure.
fn unread(error: ReadError) -> Result<(), ReadError> {
    match error {
        ReadError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        error => Err(error),
    }
}

fn reading<T>(path: &Path, what: impl FnOnce(&Reader<'_>) -> Result<T, ReadError>) -> Result<T, Failure> {
    let image = ImageFile::open(path)?;
    let result = Reader::open(&image).and_then(|reader| what(&reader));
    Ok(result.map_err(|error| In { place: path.into(), error })?)
}

/// One line for each entry, as of `ls -l`: type and mode, links, owner, group, size, time, name.
fn list(reader: &Reader<'_>, path: &Path) -> Result<String, ReadError> {
    let bytes = path.as_os_str().as_bytes();
    let raw = reader.lookup(bytes)?;
    if raw.file_type() != S_IFDIR {
        return line(reader, &raw, bytes);
    }
    let mut entries = reader.entries(&raw)?;
    entries.retain(|entry| !entry.is_dot());
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries.iter().map(|entry| line(reader, &reader.inode(entry.ino)?, &entry.name)).collect()
}

fn line(reader: &Reader<'_>, raw: &RawInode, name: &[u8]) -> Result<String, ReadError> {
    let node = reader.node(raw, SpoolId(0))?;
    let mut size = raw.inode.size().to_string();
    let mut target = String::new();
    let letter = match &node.kind {
        Kind::Directory(_) => 'd',
        Kind::File(_) => '-',
        Kind::Symlink(to) => {
            target = format!(" -> {}", to.escape_ascii());
            'l'
        }
        Kind::CharDevice { major, minor } => {
            size = format!("{major}, {minor}");
            'c'
        }
        Kind::BlockDevice { major, minor } => {
            size = format!("{major}, {minor}");
            'b'
        }
        Kind::Fifo => 'p',
        Kind::Socket => 's',
    };
    let secs = node.meta.mtime.secs;
    let clock = secs.rem_euclid(86_400);
    Ok(format!(
        "{letter}{} {:>3} {:>5} {:>5} {size:>10} {} {:02}:{:02} {}{target}\n",
        permissions(node.meta.mode),
        raw.inode.i_links_count,
        node.meta.uid,
        node.meta.gid,
        report::date(secs),
        clock / 3600,
        clock / 60 % 60,
        name.escape_ascii(),
    ))
}

/// `rwxr-xr-x`, with `s`, `S`, `t` and `T` as `ls` has them.
fn permissions(mode: u16) -> String {
    let class = |shift: u16, special: u16, letters: [char; 2]| {
        let bits = mode >> shift;
        let execute = match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letters[0],
            (true, false) => letters[1],
            (false, true) => 'x',
            (false, false) => '-',
        };
        [if bits & 4 != 0 { 'r' } else { '-' }, if bits & 2 != 0 { 'w' } else { '-' }, execute]
    };
    let classes = [class(6, 0o4000, ['s', 'S']), class(3, 0o2000, ['s', 'S']), class(0, 0o1000, ['t', 'T'])];
    classes.as_flattened().iter().collect()
}

fn pack(args: &Pack, session: &Session) -> Result<(), Failure> {
    let is_directory =
        fs::metadata(&args.from).map_err(|error| FileError::new(&args.from, "read", error))?.is_dir();
    if is_directory {
        let (tree, contents) = directory::read(&args.from)?;
        return write(args, &tree, &contents, session);
    }
    let mut spools = Spools::new();
    let spool = spools.open(&args.from)?;
    let archive = File::open(&args.from).map_err(|error| FileError::new(&args.from, "open", error))?;
    let tree = tar::read(BufReader::with_capacity(1 << 20, archive), spool)
        .map_err(|error: TarError| In { place: args.from.clone(), error })?;
    write(args, &tree, &spools, session)
}

fn write(args: &Pack, tree: &Tree, contents: &dyn Contents, session: &Session) -> Result<(), Failure> {
    let name = args.name.clone().unwrap_or_else(|| {
        let file = args.to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        file.split('.').next().unwrap_or_default().to_owned()
    });
    let inode_size = args.inode_size.unwrap_or(match args.profile {
        Profile::Linux => InodeSize::Large,
        Profile::NetBsd => InodeSize::Small,
    });
    let options =
        Options { free: args.free, inode_size, profile: args.profile, ..Options::new(&name, epoch(tree)?) };
    let plan = Plan::new(tree, &options, &mut Sequential::default())?;
    let geometry = plan.geometry();
    let length = u64::from(geometry.blocks) * u64::from(ext2::BLOCK);

    let task = session.progress.start(&format!("image `{name}`"), length, Unit::Bytes);
    let mut out = Counted { out: SparseFile::create(&args.to)?, task: &*task };
    ext2::write(&plan, contents, &mut out)?;
    out.out.commit()?;
    drop(task);
    if !session.quiet {
        print(&format!(
            "{}: {}, {} free; {} inodes, {} free\n",
            args.to.display(),
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
            .map_err(|_| Failure::Usage(format!("{VARIABLE} is `{text}`; it must be seconds since 1970")));
    }
    let newest = tree.walk().map(|(_, id)| tree.node(id).meta.mtime.secs).max();
    Ok(newest.and_then(|secs| u64::try_from(secs).ok()).unwrap_or(0))
}

/// Tells progress what was written.
struct Counted<'t> {
    out: SparseFile,
    task: &'t dyn Task,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.task.advance(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
