//! `imgfactory index dump|export|import`.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{Failure, Session, print};
use crate::repository::store::Store;
use formats::block::{BlockName, Object};
use formats::index::{Header, Index, IndexFault, MAX_BLOCKS, plain};
use formats::names::{BlockSize, ImageName, Serial, UnixTime};
use formats::report::Exit;
use system::files::{FileError, write_output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show an index: sizes, shares, and where its blocks are used
    Dump {
        /// The index (index.idx)
        index: PathBuf,
    },
    /// Convert an index to a plain block list, the format of 2005
    Export {
        /// The index (index.idx)
        index: PathBuf,
        /// File to write the list to [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Convert a plain block list to an index, using the mirror that has its blocks
    Import(Import),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A plain block list has MD5 names and no signature: anyone who can change the list or the mirror \
    can change the contents. The SHA-256 checksums are computed from the blocks found on the mirror."
)]
struct Import {
    /// The plain block list
    list: PathBuf,
    /// Directory of the mirror, with the blocks in blk/
    #[arg(long, value_name = "DIR")]
    mirror: PathBuf,
    /// Name of the image
    #[arg(long)]
    image: ImageName,
    /// Serial of the release that the index is for
    #[arg(long, default_value = "1")]
    serial: Serial,
    /// Size of a block in bytes
    #[arg(long, value_name = "BYTES", default_value = "262144")]
    block_size: u32,
    /// Size of the disk in bytes; needed only if its last block is short and all zeros
    #[arg(long, value_name = "BYTES")]
    size: Option<u64>,
    /// Trust the list although it is not signed; required
    #[arg(long)]
    insecure: bool,
    /// File to write the index to
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Why an index or a list is of no use.
#[derive(Debug, thiserror::Error)]
enum IndexError {
    #[error("{}", path.display())]
    Index { path: PathBuf, source: formats::index::IndexError },
    #[error("{}", path.display())]
    List { path: PathBuf, source: formats::text::At<plain::PlainFault> },
    #[error("{}: the blocks do not form a valid disk", path.display())]
    Disk { path: PathBuf, source: IndexFault },
}

pub(super) fn run(args: Args, _: &Session) -> Result<Exit, Failure> {
    match args.what {
        What::Dump { index } => print(&read(&index)?.dump())?,
        What::Export { index, output: None } => {
            let mut list = Vec::new();
            plain::export(&read(&index)?, &mut list)?;
            print(&String::from_utf8_lossy(&list))?;
        }
        What::Export { index, output: Some(output) } => {
            let index = read(&index)?;
            write(&output, |out| plain::export(&index, out))?;
        }
        What::Import(import) => {
            let output = import.output.clone();
            let index = import.index()?;
            write(&output, |out| index.encode(out))?;
        }
    }
    Ok(Exit::Done)
}

fn open(path: &Path) -> Result<BufReader<File>, FileError> {
    File::open(path).map(BufReader::new).map_err(|error| FileError::new(path, "read", error))
}

fn read(path: &Path) -> Result<Index, Failure> {
    let index = Index::decode(open(path)?);
    Ok(index.map_err(|source| IndexError::Index { path: path.into(), source })?)
}

fn write(path: &Path, encode: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Result<(), FileError> {
    let mut bytes = Vec::new();
    encode(&mut bytes).map_err(|error| FileError::new(path, "write", error))?;
    write_output(path, &bytes)
}

impl Import {
    fn index(self) -> Result<Index, Failure> {
        let Import { list, mirror, image, serial, block_size, size, insecure, output: _ } = self;
        if !insecure {
            return Err(Failure::Usage(format!(
                "{}: a plain block list is not signed, and MD5 names prove nothing; if you trust its source, add \
                 --insecure",
                list.display()
            )));
        }
        let block_size = BlockSize::new(block_size).ok_or_else(|| {
            Failure::Usage(format!(
                "--block-size {block_size}: must be a multiple of 4096, at most {}",
                BlockSize::MAX
            ))
        })?;
        let names =
            plain::import(open(&list)?).map_err(|source| IndexError::List { path: list.clone(), source })?;
        let store = Store::open(&mirror)?;
        let full = block_size.get();
        let zeros = BlockName::of_zeros(full as usize);

        let mut blocks: Vec<Option<Object>> = Vec::with_capacity(names.len().min(MAX_BLOCKS as usize));
        let mut known = std::collections::HashMap::new();
        let all_but_last = (names.len() as u64 - 1) * u64::from(full);
        // Bytes of the last block, if they were given.
        let tail = size
            .and_then(|size| size.checked_sub(all_but_last))
            .filter(|tail| (1..=full.into()).contains(tail));
        let last = names.len() - 1;
        for (number, name) in names.into_iter().enumerate() {
            let zero_tail = tail.filter(|_| number == last).is_some_and(|tail| {
                // `tail` is at most a block's size.
                name == BlockName::of_zeros(tail as usize)
            });
            let object = match known.get(&name) {
                _ if name == zeros || zero_tail => None,
                Some(object) => Some(*object),
                None => Some(*known.entry(name).or_insert(store.identify(name)?)),
            };
            blocks.push(object);
        }
        let last_len = blocks.last().copied().flatten().map_or(full, |object| object.raw_len);
        let header = Header {
            image,
            serial,
            block_size,
            size: size.unwrap_or(all_but_last + u64::from(last_len)),
            published: UnixTime(0),
            parent: None,
        };
        Ok(Index::assemble(header, blocks).map_err(|source| IndexError::Disk { path: list, source })?)
    }
}
