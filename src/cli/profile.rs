//! `imgfactory profile`.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use super::machine::MachineArgs;
use super::test::{expected, token};
use super::{Failure, Session, print};
use crate::pipeline::boot_order::{self, Seen};
use crate::pipeline::build_record::{BuildRecord, LOGS, MIRROR};
use crate::pipeline::changes::Publication;
use crate::pipeline::prefetch;
use crate::recipe::MenuEntry;
use crate::repository::mirror::trusted;
use crate::repository::server::Server;
use crate::repository::store::Store;
use crate::repository::targets::LocalTree;
use crate::vm::Screen;
use crate::vm::timeline::{LOGIN, Timeline};
use crate::vm::trial::Trial;
use formats::index::Index;
use formats::names::{ImageName, Serial};
use formats::release::{Dlahead, Leaf, MirrorPath, Phase, PrefetchBlock, Reads, merge};
use formats::report::{Exit, elapsed, size};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Boots without a screen until the console has printed every line that the recipe expects, and records \
                  which blocks are fetched, in order: before the first login prompt (phase boot) and after it (phase \
                  login). The prefetch list is written to OUT/profile; the next build into OUT publishes it (dlahead) \
                  and updates it with each release."
)]
pub(super) struct Args {
    #[command(flatten)]
    machine: MachineArgs,
    /// Number of boots. A block is listed when half of them read it, a file when one does
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    runs: u32,
    /// Record files instead of blocks, in OUT/profile too: the next fresh layout (build --repack) places them together, so
    /// that a boot fetches fewer blocks
    #[arg(long)]
    files: bool,
    /// Give up a boot after this many seconds [default: the recipe's `expect: timeout`]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

pub(super) fn run(mut args: Args, session: &Session) -> Result<Exit, Failure> {
    if args.machine.has_mirror() {
        return Err(Failure::Usage(
            "--mirror: can't be used with `profile`, which records the requests to its own server".into(),
        ));
    }
    args.machine.find()?;
    // Blocks that are only prefetched must not enter the list.
    args.machine.add_options(["nodlahead"]);
    if args.files {
        return files(args, session);
    }
    let out = args.machine.out.clone();
    let mut runs = Vec::new();
    let mut images = Vec::new();
    for number in 1..=args.runs {
        session.progress.say(&format!("boot {number} of {}", args.runs));
        let (facts, boot) = boot(&args, session)?;
        if images.is_empty() {
            images = indexes(&out, &facts)?;
        }
        runs.push(boot.blocks);
    }
    let merged = merge(&runs);
    let mut text = String::new();
    for index in &images {
        let header = index.header();
        let files: std::collections::HashMap<_, _> =
            index.objects().iter().map(|object| (object.name, u64::from(object.file_len))).collect();
        let entries: Vec<PrefetchBlock> =
            merged.iter().filter(|ahead| files.contains_key(&ahead.name)).cloned().collect();
        if entries.is_empty() {
            continue;
        }
        let bytes: u64 = entries.iter().filter_map(|ahead| files.get(&ahead.name)).sum();
        text.push_str(&format!(
            "{}: {} of {} blocks, {bytes} bytes: {}\n",
            header.image,
            entries.len(),
            files.len(),
            prefetch::path(&out, &header.image).display()
        ));
        prefetch::save(&out, &Dlahead { image: header.image.clone(), serial: header.serial, entries })?;
    }
    print(&text)?;
    Ok(Exit::Done)
}

/// Time for the last read traces to arrive: clients send one every few seconds.
const LAST_READS: Duration = Duration::from_secs(6);

/// Notes which files a boot reads.
fn files(mut args: Args, session: &Session) -> Result<Exit, Failure> {
    args.machine.add_options(["imgfactory.reads"]);
    let out = args.machine.out.clone();
    let mut all: BTreeMap<ImageName, Vec<Vec<u8>>> = BTreeMap::new();
    for number in 1..=args.runs {
        session.progress.say(&format!("boot {number} of {}", args.runs));
        let (facts, boot) = boot(&args, session)?;
        if boot.reads.is_empty() {
            return Err(Failure::at(out, NoReads));
        }
        let keys = trusted(&facts.publish.keys)?;
        for (image, sent) in boot.reads {
            let reads = Reads::decode(&sent[..]).map_err(|error| Failure::at(image.as_str(), error))?;
            let tree = LocalTree(out.join(MIRROR));
            let release = Publication::read(&tree, &keys, Some(reads.serial))
                .map_err(|error| Failure::at(out.clone(), error))?;
            let found = release.images.iter().find(|(index, _)| index.header().image == image);
            let Some((index, Some(layout))) = found else {
                print(&format!(
                    "{image}: a disk that builds leave unchanged, so there is no file order for it\n"
                ))?;
                continue;
            };
            let Seen { paths, read_bytes, blocks, block_bytes } = Seen::of(&reads, index, layout);
            print(&format!(
                "{image}: {} files and directories, {} in {blocks} blocks of {}\n",
                paths.len(),
                size(read_bytes),
                size(block_bytes)
            ))?;
            let known = all.entry(image).or_default();
            let had: HashSet<Vec<u8>> = known.iter().cloned().collect();
            known.extend(paths.into_iter().filter(|path| !had.contains(path)));
        }
    }
    for (image, paths) in &all {
        boot_order::save(&out, image, paths)?;
        print(&format!(
            "{}: {} paths; `imgfactory build --repack` places them first\n",
            boot_order::path(&out, image).display(),
            paths.len()
        ))?;
    }
    Ok(Exit::Done)
}

/// No client sent a read trace.
#[derive(Debug, thiserror::Error)]
#[error(
    "no client sent a read trace: the boot did not reach the host's root file system (menu entries xen and linux do), or \
     the medium is older than this program; build it again"
)]
struct NoReads;

/// What a boot was seen to read.
struct ProfiledBoot {
    /// Blocks, in order of first request.
    blocks: Vec<PrefetchBlock>,
    /// What the clients said, by image.
    reads: BTreeMap<ImageName, Vec<u8>>,
}

/// Boots once and returns what was read.
fn boot(args: &Args, session: &Session) -> Result<(BuildRecord, ProfiledBoot), Failure> {
    let token = token()?;
    let (facts, prepared) = args.machine.prepare(session, Some(&token), Screen::None)?;
    let mut templates = facts.expect.lines.clone();
    if prepared.entry == MenuEntry::Xen.as_str() {
        templates.extend(facts.expect.guest_lines.iter().cloned());
    }
    let mut timeline = Timeline::new(expected(&templates, &token)?);
    let logs = args.machine.out.join(LOGS);
    let console_log = logs.join(format!("profile-{}.log", prepared.kind));
    let trial = Trial {
        machine: &prepared.machine,
        console_log: &console_log,
        qemu_log: &logs.join(format!("qemu-{}.log", prepared.kind)),
        limit: args.timeout.map_or(facts.expect.timeout(), Duration::from_secs),
        linger: if args.files { LAST_READS } else { Duration::ZERO },
    };
    if let Some(server) = &prepared.server {
        server.note_blocks();
        server.take_reads();
    }
    let traffic = || prepared.server.as_ref().map(Server::traffic);
    let mut login = None;
    trial.run(&mut timeline, traffic, |name, at| {
        if login.is_none() && name.split(", ").any(|stage| stage == LOGIN) {
            login = Some(Instant::now());
        }
        session.progress.say(&format!("{:>8}  {name}", elapsed(at)));
    })?;
    let noted = prepared.server.as_ref().map(Server::noted_blocks).unwrap_or_default();
    let reads = prepared.server.as_ref().map(Server::taken_reads).unwrap_or_default();
    let start = noted.first().map(|&(_, at)| at);
    let ahead = |&(name, at): &(_, Instant)| {
        let phase = if login.is_some_and(|login| at >= login) { Phase::login() } else { Phase::boot() };
        let millis = start.map_or(0, |start| at.saturating_duration_since(start).as_millis());
        let first_read_ms = u32::try_from(millis).unwrap_or(u32::MAX);
        PrefetchBlock { phase, name, first_read_ms, reads: 1 }
    };
    Ok((facts, ProfiledBoot { blocks: noted.iter().map(ahead).collect(), reads }))
}

/// The newest map of each image of the build.
fn indexes(out: &Path, facts: &BuildRecord) -> Result<Vec<Index>, Failure> {
    let store = Store::open(out.join(MIRROR))?;
    let mut found = Vec::new();
    for image in &facts.images {
        let Ok(name) = image.name.parse::<formats::names::ImageName>() else { continue };
        // An image that did not change keeps the map of an earlier release.
        for serial in (1..=facts.serial).rev().filter_map(Serial::new) {
            let path = MirrorPath::Image(name.clone(), serial, Leaf::Index);
            if let Some(text) = store.read(&path)? {
                found.extend(Index::decode(&text[..]).ok());
                break;
            }
        }
    }
    Ok(found)
}
