//! The ways of others.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;

use formats::block::{Block, Codec};
use imgfactory::compress::Compressor;

use super::files::size;
use super::{BLOCK, Result, Side};

/// A name, bytes to upload, and blocks of them.
type Row = (String, u64, Option<u64>);

/// `mke2fs -d` again: fixed blocks, zlib 6.
pub fn plain(work: &Path, before: &Side, after: &Side) -> Result<Row> {
    let mut known = HashSet::new();
    let mut result = (0, 0);
    for (name, side) in [("plain-before", before), ("plain-after", after)] {
        let root = work.join("root");
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root)?;
        run(Command::new("tar")
            .arg("-C")
            .arg(&root)
            .args(["--xattrs", "--xattrs-include=*", "-xf"])
            .arg(&side.archive))?;
        let image = work.join(format!("{name}.ext2"));
        let _ = fs::remove_file(&image);
        run(Command::new("mke2fs")
            .args(["-q", "-t", "ext2", "-m", "0", "-d"])
            .arg(&root)
            .arg(&image)
            .arg("4G"))?;
        fs::remove_dir_all(&root)?;
        let mut compressor = Compressor::new(Codec::zlib(6)?);
        let mut file = File::open(&image)?;
        let mut raw = vec![0; BLOCK];
        result = (0, 0);
        while file.read_exact(&mut raw).is_ok() {
            let block = Block::seal(raw.clone());
            if raw.iter().any(|byte| *byte != 0)
                && known.insert(block.name())
                && side.archive == after.archive
            {
                result.0 += compressor.compress(&raw).len() as u64;
                result.1 += 1;
            }
        }
    }
    Ok(("mke2fs -d again, 256 KiB blocks, zlib 6".to_owned(), result.0, Some(result.1)))
}

/// `casync make` on the images of [`plain`].
pub fn casync(work: &Path) -> Result<Row> {
    let store = work.join("casync.castr");
    let _ = fs::remove_dir_all(&store);
    let make = |name: &str| -> Result<()> {
        let (index, image) = (work.join(format!("{name}.caibx")), work.join(format!("plain-{name}.ext2")));
        run(Command::new("casync").arg("make").arg("--store").arg(&store).arg(index).arg(image))
    };
    make("before")?;
    let first = size(&store)?;
    make("after")?;
    let bytes = size(&store)? - first;
    for name in ["before", "after"] {
        fs::remove_file(work.join(format!("plain-{name}.ext2")))?;
    }
    Ok(("casync make on the same images".to_owned(), bytes, None))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(std::process::Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
