//! `imgfetch cache`.

use std::io::{IsTerminal, Write};

use super::Failure;
use super::args::{CacheMaintenance, MaintenanceCommand};
use crate::cache::{Cache, Stats};
use formats::report::Exit;

pub(super) fn run(args: &CacheMaintenance) -> Result<Exit, Failure> {
    if !args.root.join("VERSION").exists() {
        return Err(format!("{}: not a cache directory", args.root.display()).into());
    }
    let cache = Cache::open(&args.root, None)?;
    match &args.what {
        MaintenanceCommand::Stats { json: true } => println!("{}", serde_json::to_string(&cache.stats())?),
        MaintenanceCommand::Stats { json: false } => print!("{}", shown(&cache.stats())),
        MaintenanceCommand::Pin(image) => println!("{} blocks are pinned", cache.pin(Some(image))?),
        MaintenanceCommand::Unpin => println!("{} blocks are pinned", cache.pin(None)?),
        MaintenanceCommand::Evict(keep) => {
            let (blocks, bytes) = cache.evict(*keep);
            println!("{blocks} blocks removed, {bytes} bytes");
        }
        MaintenanceCommand::Fsck => {
            let terminal = std::io::stderr().is_terminal();
            let found = cache.fsck(|number| {
                if terminal && number % 64 == 0 {
                    eprint!("\r{number} blocks ");
                    // Progress only.
                    let _ = std::io::stderr().flush();
                }
            });
            if terminal {
                eprint!("\r");
            }
            println!(
                "{} good, {} damaged and removed, {} of no known image, {} other files removed",
                found.good, found.damaged, found.unknown, found.stray
            );
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
