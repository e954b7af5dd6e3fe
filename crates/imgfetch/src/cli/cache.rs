//! `imgfetch cache`.

use std::io::{IsTerminal, Write};

use super::Failure;
use super::args::{CacheMaintenance, MaintenanceCommand};
use crate::cache::{Cache, Stats};
use formats::report::Exit;
use system::output::print;

pub(super) fn run(args: &CacheMaintenance) -> Result<Exit, Failure> {
    if !args.root.join("VERSION").exists() {
        return Err(format!("{}: not a cache directory", args.root.display()).into());
    }
    let cache = Cache::open(&args.root, None)?;
    match &args.what {
        MaintenanceCommand::Stats { json: true } => print(&(serde_json::to_string(&cache.stats())? + "\n"))?,
        MaintenanceCommand::Stats { json: false } => print(&shown(&cache.stats()))?,
        MaintenanceCommand::Pin(image) => print(&format!("{} blocks are pinned\n", cache.pin(Some(image))?))?,
        MaintenanceCommand::Unpin => print(&format!("{} blocks are pinned\n", cache.pin(None)?))?,
        MaintenanceCommand::Evict(keep) => {
            let (blocks, bytes) = cache.evict(*keep);
            print(&format!("{blocks} blocks removed, {bytes} bytes\n"))?;
        }
        MaintenanceCommand::Fsck => {
            let terminal = std::io::stderr().is_terminal();
            let found = cache.fsck(|number| {
                if terminal && number % 64 == 0 {
                    // Progress only; standard error has no buffer.
                    let _ = write!(std::io::stderr(), "\r{number} blocks ");
                }
            });
            if terminal {
                let _ = write!(std::io::stderr(), "\r");
            }
            print(&format!(
                "{} good, {} damaged and removed, {} of no known image, {} other files removed\n",
                found.good, found.damaged, found.unknown, found.stray
            ))?;
            // As fsck has it: found something, and corrected it.
            return Ok(if found.damaged + found.stray > 0 { Exit::Failed } else { Exit::Done });
        }
    }
    Ok(Exit::Done)
}

fn shown(stats: &Stats) -> String {
    let mut text = format!("{} blocks, {} bytes, {} pinned", stats.blocks, stats.bytes, stats.pinned);
    if stats.strange > 0 {
        text.push_str(&format!(", {} other files", stats.strange));
    }
    text.push('\n');
    for image in &stats.images {
        let whole = if image.here == image.blocks { ": complete, boots without a network" } else { "" };
        text.push_str(&format!(
            "{} release {}: {} of {} blocks{whole}\n",
            image.image, image.serial, image.here, image.blocks
        ));
    }
    text
}
