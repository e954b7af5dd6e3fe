//! Step: Plan 9's ISO, made anew of its own files and overlays.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::downloads::third_party::ThirdPartySources;
use crate::foreign::iso9660::Iso;
use crate::foreign::sums::Sum;
use crate::guests::plan9::{self, Chain, Plan9Error};
use crate::pipeline::Request;
use crate::pipeline::steps::disks::{Disk, DiskFault, inflated};
use crate::recipe::{self, Guest};
use crate::sys::image_file::ImageFile;
use crate::sys::process::Tool;
use crate::sys::spool::Spools;
use crate::tree::{self, Kind, Node, Tree};
use formats::digest::Sha256;
use system::files::{FileError, Scratch};

/// Bytes copied at a time.
const BUFFER: u64 = 1 << 20;
/// What is done here; another number makes all media anew.
const VERSION: u32 = 1;

/// An ISO apart.
#[derive(Debug)]
pub struct Apart {
    /// Its files.
    pub tree: Tree,
    /// The newest time in it, seconds since 1970.
    pub newest: i64,
    /// How it boots.
    chain: Chain,
    /// What it is known by.
    sum: Sum,
}

/// Reads the files of an ISO.
///
/// # Errors
/// [`DiskFault`].
pub fn apart(
    request: &Request<'_>,
    sources: &ThirdPartySources<'_>,
    plan9: &recipe::Plan9,
    spools: &mut Spools,
) -> Result<Apart, DiskFault> {
    let (path, sum) = inflated(request, sources, &plan9.origins)?;
    let file = plan9.origins.urls[0].file_name().to_owned();
    let fault = |source| DiskFault::Plan9 { file: file.clone(), source };
    let image = ImageFile::open(&path)?;
    let spool = spools.open(&path)?;
    let imported = Iso::open(&image).and_then(|iso| iso.import(spool));
    let tree = imported.map_err(|source| fault(Plan9Error::Iso(source)))?.tree;
    let chain = plan9::chain(&image, &tree).map_err(fault)?;
    let newest = tree.walk().map(|(_, id)| tree.node(id).meta.mtime.secs).max().unwrap_or(0);
    Ok(Apart { tree, newest, chain, sum })
}

/// Makes an ISO of what [`apart`] gave, overlays laid over it.
///
/// # Errors
/// [`DiskFault`].
pub fn together(
    request: &Request<'_>,
    sources: &ThirdPartySources<'_>,
    guest: &Guest,
    plan9: &recipe::Plan9,
    apart: &Apart,
    spools: &Spools,
) -> Result<Disk, DiskFault> {
    let file = plan9.origins.urls[0].file_name().to_owned();
    let fault = |source| DiskFault::Plan9 { file: file.clone(), source };
    let name = format!("{}-{}-{}.iso", apart.sum.algorithm(), apart.sum.hex(), digest(apart, spools)?);
    let log = request.out.join(crate::pipeline::facts::LOGS).join(format!("{}-xorriso.log", guest.name));
    let path = sources.derived(&name, |out| {
        let room = Scratch::directory(request.cache)?;
        let (files, made) = (room.path().join("files"), room.path().join("new.iso"));
        lay_out(&apart.tree, spools, &files)?;
        // Absolute, or xorriso takes what lies below /dev for a drive.
        let made = std::path::absolute(&made).map_err(|error| FileError::new(&made, "find", error))?;
        Tool::new("xorriso")
            .args(["-no_rc", "-as", "mkisofs", "-quiet", "-V", "PLAN9", "-o"])
            .arg(format!("stdio:{}", made.display()))
            .args(plan9::arguments(&apart.chain))
            .args(["-uid", "0", "-gid", "0"])
            .arg(&files)
            .env("SOURCE_DATE_EPOCH", apart.newest.max(0).to_string())
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .log(log)
            .run()?;
        let mut made = File::open(&made).map_err(|error| FileError::new(&made, "open", error))?;
        io::copy(&mut made, out).map_err(|error| FileError::new(room.path(), "copy", error))?;
        Ok::<(), DiskFault>(())
    })?;
    let iso = ImageFile::open(&path)?;
    let mut patches = plan9::patches(&iso, plan9).map_err(fault)?;
    patches.extend(plan9::relocated(&iso, &apart.chain).map_err(fault)?);
    let len = path.metadata().map_err(|error| FileError::new(&path, "look at", error))?.len();
    Ok(Disk { name: guest.name.clone(), path, len, patches })
}

/// What the medium to be depends on.
fn digest(apart: &Apart, spools: &Spools) -> Result<Sha256, DiskFault> {
    let dump = tree::dump::dump(&apart.tree, spools)
        .map_err(|error| FileError::new(Path::new("/"), "read", error))?;
    Ok(Sha256::of(format!("{VERSION} {:?}\n{dump}", apart.chain).as_bytes()))
}

/// Writes the files for xorriso, with the modes and dates that the medium is to have.
fn lay_out(tree: &Tree, spools: &Spools, to: &Path) -> Result<(), DiskFault> {
    let place = |path: &[u8]| -> PathBuf { to.join(std::ffi::OsStr::from_bytes(path)) };
    // The one above comes before those in it, and is finished after them.
    let mut directories = Vec::new();
    for (path, id) in tree.walk() {
        let at = place(&path);
        let Node { meta, kind } = tree.node(id);
        match kind {
            Kind::Directory(_) => {
                fs::create_dir(&at).map_err(|error| FileError::new(&at, "create", error))?;
                directories.push((at, meta));
            }
            Kind::File(content) => {
                let mut file = File::create(&at).map_err(|error| FileError::new(&at, "create", error))?;
                let mut from = 0;
                let mut buffer = vec![0; usize::try_from(content.len.min(BUFFER)).expect("1 MiB")];
                while from < content.len {
                    let len = usize::try_from((content.len - from).min(BUFFER)).expect("1 MiB");
                    let part = &mut buffer[..len];
                    content.read_at(spools, from, part).map_err(|error| unreadable(&path, error))?;
                    file.write_all(part).map_err(|error| FileError::new(&at, "write", error))?;
                    from += part.len() as u64;
                }
                finish(&at, meta)?;
            }
            Kind::Symlink(target) => {
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &at)
                    .map_err(|error| FileError::new(&at, "create", error))?;
            }
            _ => {
                let path = String::from_utf8_lossy(&path).into_owned();
                return Err(DiskFault::Plan9Kind { path });
            }
        }
    }
    directories.iter().rev().try_for_each(|(at, meta)| finish(at, meta))
}

/// Gives a file its mode and date. Its owner must be able to read it, who need not be root here.
fn finish(at: &Path, meta: &crate::tree::Meta) -> Result<(), DiskFault> {
    let failed = |error| FileError::new(at, "change", error);
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(meta.mtime.secs).unwrap_or(0));
    let file = File::open(at).map_err(failed)?;
    file.set_modified(date).map_err(failed)?;
    let readable = if file.metadata().map_err(failed)?.is_dir() { 0o500 } else { 0o400 };
    let mode = fs::Permissions::from_mode(u32::from(meta.mode & 0o7777) | readable);
    Ok(file.set_permissions(mode).map_err(failed)?)
}

fn unreadable(path: &[u8], error: io::Error) -> FileError {
    FileError::new(Path::new(std::ffi::OsStr::from_bytes(path)), "read", error)
}
