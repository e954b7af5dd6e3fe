//! `imgfactory image`: ext2 images by themselves, for people and for tests.

mod blocks;
mod pack;

use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::output::In;
use super::{Failure, Session, print};
use crate::ext2::{self, ImageReadError, RawInode, Reader, ondisk::S_IFDIR};
use crate::sys::image_file::ImageFile;
use crate::tree::{Kind, SpoolId};
use formats::report::{self, Exit};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List a directory of an image
    Ls {
        /// The image file
        image: PathBuf,
        /// Path in the image; a symbolic link is shown, not followed
        #[arg(default_value = "/")]
        path: PathBuf,
    },
    /// Print the contents of a file in an image
    Cat {
        /// The image file
        image: PathBuf,
        /// Path of the file in the image
        path: PathBuf,
    },
    /// Print all metadata of a file in an image
    Stat {
        /// The image file
        image: PathBuf,
        /// Path in the image; a symbolic link is shown, not followed
        path: PathBuf,
    },
    /// Print all metadata of an image: superblock, groups, inodes, directories
    Dump {
        /// The image file
        image: PathBuf,
    },
    /// Create an image, or its blocks, from a tar archive or a directory
    #[command(
        after_help = "The same input gives the same image. The superblock's time is SOURCE_DATE_EPOCH if it is set, \
        otherwise the newest file's. With --previous-layout, unchanged files keep their place and freed pages become \
        zeros; `imgfactory build`, which has the previous blocks, leaves freed pages unchanged."
    )]
    Pack(pack::Args),
    /// Split an image into blocks in a mirror's directory, with an unsigned index
    Split(blocks::SplitArgs),
    /// Assemble an image from its blocks and verify each one
    Join(blocks::JoinArgs),
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
                    Err(ImageReadError::NotFile { .. }) => Err(ImageReadError::NotFile { path: shown() }),
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
                    .and_then(|()| out.flush().map_err(ImageReadError::Output))
                    .or_else(unread)
            })?;
        }
        Command::Pack(args) => pack::run(&args, session)?,
        Command::Split(args) => blocks::split(args, session)?,
        Command::Join(args) => blocks::join(&args, session)?,
    }
    Ok(Exit::Done)
}

/// A closed pipe (`| head`) is no failure.
fn unread(error: ImageReadError) -> Result<(), ImageReadError> {
    match error {
        ImageReadError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        error => Err(error),
    }
}

fn reading<T>(
    path: &Path,
    what: impl FnOnce(&Reader<'_>) -> Result<T, ImageReadError>,
) -> Result<T, Failure> {
    let image = ImageFile::open(path)?;
    let result = Reader::open(&image).and_then(|reader| what(&reader));
    Ok(result.map_err(|error| In { place: path.into(), error })?)
}

/// One line for each entry, as of `ls -l`: type and mode, links, owner, group, size, time, name.
fn list(reader: &Reader<'_>, path: &Path) -> Result<String, ImageReadError> {
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

fn line(reader: &Reader<'_>, raw: &RawInode, name: &[u8]) -> Result<String, ImageReadError> {
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
