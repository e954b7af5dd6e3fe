//! `imgfactory iso OUT --with-blocks`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::tree::ReleaseTree;
use super::{Failure, Session, print};
use crate::iso::offline::{BlockSelection, Disc};
use crate::pipeline::build_record::{BuildRecord, LOGS};
use crate::pipeline::offline_medium::{self, OfflineMediumRequest};
use formats::report::{Exit, size};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The medium boots without a network. With a network, the client fetches missing blocks and newer \
                  releases. The medium's directory `mirror` is a mirror of its blocks, which any web server can serve. \
                  To make a USB stick, copy the file to the device with dd."
)]
pub(super) struct Args {
    /// The output directory of a build
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Blocks of the newest release to put on the medium: all, or those that a boot reads according to the prefetch
    /// lists (`imgfactory profile`) [default: all]
    #[arg(
        long, value_name = "WHICH", required = true, num_args = 0..=1, require_equals = true, default_missing_value = "all"
    )]
    with_blocks: BlocksArg,
    /// File or block device (a USB stick) to write [default: OUT/NAME-blocks.iso]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Fail if the medium does not fit this disc: cd, dvd, dvd-dl, bd, bd-dl
    #[arg(long, value_name = "DISC")]
    fits: Option<Disc>,
}

/// `--with-blocks`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum BlocksArg {
    All,
    Prefetch,
}

pub(super) fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let record = BuildRecord::read(&args.out)?;
    let tree = ReleaseTree::find(&args.out)?;
    let state = tree.state(&tree.keys(&[])?)?;
    let target = args.to.unwrap_or_else(|| args.out.join(format!("{}-blocks.iso", record.name)));
    let made = offline_medium::make(&OfflineMediumRequest {
        iso: &args.out.join(&record.iso),
        mirror: &tree.root,
        state: &state,
        blocks: match args.with_blocks {
            BlocksArg::All => BlockSelection::All,
            BlocksArg::Prefetch => BlockSelection::Prefetch,
        },
        target: &target,
        disc: args.fits,
        log: &args.out.join(LOGS).join("xorriso-blocks.log"),
        progress: session.progress.as_ref(),
    })?;
    if !session.quiet {
        let (total, serial) = (made.parts.total, state.release.serial);
        let fits = match Disc::for_bytes(total) {
            Some(disc) => format!("fits {disc}, {} to spare", size(disc.bytes() - total)),
            None => "fits no disc; copy it to a USB stick".into(),
        };
        print(&format!(
            "{}\n{}\nrelease {serial}: {} of {} blocks; {fits}\nboot it with: imgfactory run {} --iso {}\n",
            target.display(),
            made.parts,
            made.blocks,
            made.of,
            args.out.display(),
            target.display()
        ))?;
    }
    Ok(Exit::Done)
}
