//! Step: the sets of a NetBSD release -> a tree. Each file is known by its sum before a byte of it is used.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crate::downloads::third_party::{ThirdPartyError, ThirdPartySources};
use crate::foreign::sums::{self, Sum, SumsError};
use crate::guests::netbsd::{self, Furniture, NetBsdError};
use crate::pipeline::Request;
use crate::recipe::{self, Cow, Devices, Guest};
use crate::sys::process::{Tool, ToolError};
use crate::sys::spool::Spools;
use crate::tree::tar::{self, TarError};
use crate::tree::{Content, Kind, Meta, Time, Tree};
use system::files::{self, FileError, Scratch};

/// A kernel of more than this is none.
const MAX_KERNEL: u64 = 256 << 20;
/// A set that inflates to more than this is none.
const MAX_SET: u64 = 64 << 30;
/// A file with a public key of more than this is none.
const MAX_KEY: u64 = 64 << 10;
/// Bytes read at a time.
const BUFFER: usize = 1 << 20;
/// MAKEDEV takes a second.
const MAKEDEV_TIME: std::time::Duration = std::time::Duration::from_secs(120);

/// A NetBSD system that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("guest `{guest}`: NetBSD {version}")]
pub struct MakeNetBsdError {
    /// The guest.
    pub guest: String,
    /// Its release.
    pub version: String,
    /// Why.
    pub source: Box<NetBsdFault>,
}

/// Why there is no system.
#[derive(Debug, thiserror::Error)]
pub enum NetBsdFault {
    /// A file of the release can't be had.
    #[error(transparent)]
    Source(#[from] ThirdPartyError),
    /// A checksum file is wrong.
    #[error("{url}")]
    Sums {
        /// Where it comes from.
        url: String,
        /// What is wrong.
        source: SumsError,
    },
    /// A file can't be inflated.
    #[error("{file}: can't be inflated; it was cut off, or it is another file than its sum says")]
    Inflate {
        /// Its name.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A set can't be understood.
    #[error("{file}")]
    Set {
        /// Its name.
        file: String,
        /// What is wrong.
        source: TarError,
    },
    /// The sets make no system.
    #[error(transparent)]
    System(#[from] NetBsdError),
    /// MAKEDEV failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Something with files.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseFile {
    /// Its name: `base.tar.xz`.
    pub name: String,
    /// Where it is, on each mirror.
    pub urls: Vec<String>,
    /// What it is known by.
    pub sum: Sum,
}

/// The files that a recipe takes out of a release: its sets in order, then the kernel. Their sums are those of
/// the lock, else those of the release's own checksum files.
///
/// # Errors
/// [`NetBsdFault`].
pub fn files(
    recipe: &recipe::NetBsd,
    lock: &crate::recipe::lock::Lock,
    sources: &ThirdPartySources<'_>,
) -> Result<Vec<ReleaseFile>, NetBsdFault> {
    let below = |dir: &str, name: &str| -> Vec<String> {
        let (version, architecture) = (&recipe.version, recipe.architecture);
        let path = format!("NetBSD-{version}/{architecture}/binary/{dir}/{name}");
        recipe.mirrors.iter().map(|mirror| format!("{mirror}{path}")).collect()
    };
    let locked = |dir: &str, names: &[String]| {
        names.iter().find_map(|name| {
            let urls = below(dir, name);
            let sum = urls.iter().find_map(|url| lock.sums.get(url))?.clone();
            Some(ReleaseFile { name: name.clone(), urls, sum })
        })
    };
    let listed = |dir: &str| -> Result<_, NetBsdFault> {
        let urls = below(dir, "SHA512");
        let text = sources.text(&urls, sums::LIMIT)?;
        let url = urls.into_iter().next().unwrap_or_default();
        sums::parse(&text).map_err(|source| NetBsdFault::Sums { url, source })
    };
    let mut files = Vec::new();
    let mut sets = None;
    for set in &recipe.sets {
        let names = [format!("{set}.tar.xz"), format!("{set}.tgz")];
        if let Some(file) = locked("sets", &names) {
            files.push(file);
            continue;
        }
        let sums = match &mut sets {
            Some(sums) => sums,
            none => none.insert(listed("sets")?),
        };
        let (name, sum) = netbsd::set_file(sums, set.as_str())?;
        files.push(ReleaseFile { urls: below("sets", &name), name, sum });
    }
    let kernel = format!("netbsd-{}.gz", recipe.kernel);
    match locked("kernel", std::slice::from_ref(&kernel)) {
        Some(file) => files.push(file),
        None => {
            let (name, sum) = netbsd::kernel_file(&listed("kernel")?, recipe.kernel.as_str())?;
            files.push(ReleaseFile { urls: below("kernel", &name), name, sum });
        }
    }
    Ok(files)
}

/// Makes the tree of a guest, and says the newest time in it.
///
/// # Errors
/// [`MakeNetBsdError`].
pub fn make(
    request: &Request<'_>,
    sources: &ThirdPartySources<'_>,
    guest: &Guest,
    recipe: &recipe::NetBsd,
    spools: &mut Spools,
) -> Result<(Tree, i64), MakeNetBsdError> {
    try_make(request, sources, guest, recipe, spools).map_err(|fault| MakeNetBsdError {
        guest: guest.name.to_string(),
        version: recipe.version.to_string(),
        source: Box::new(fault),
    })
}

fn try_make(
    request: &Request<'_>,
    sources: &ThirdPartySources<'_>,
    guest: &Guest,
    recipe: &recipe::NetBsd,
    spools: &mut Spools,
) -> Result<(Tree, i64), NetBsdFault> {
    let mut files = files(recipe, request.lock, sources)?;
    let kernel = files.pop().unwrap_or_else(|| unreachable!("the kernel is the last file"));
    // Early: a pair of kernel and machine that can't work is not worth the sets.
    let kernel_bytes = self::kernel(sources, &kernel)?;
    netbsd::check_kernel(&kernel.name, &kernel_bytes, guest.virt)?;

    let mut tree = Tree::new(Meta { mode: 0o755, ..Meta::default() });
    for file in &files {
        let path = inflated(sources, file)?;
        let spool = spools.open(&path)?;
        let archive = File::open(&path).map_err(|error| FileError::new(&path, "open", error))?;
        tree = tar::read_onto(tree, archive, spool)
            .map_err(|source| NetBsdFault::Set { file: file.name.clone(), source })?;
    }
    let newest = tree.walk().map(|(_, id)| tree.node(id).meta.mtime.secs).max().unwrap_or(0);
    let mut keys = String::new();
    for path in &recipe.ssh_keys {
        let bytes = files::read_at_most(request.project.path(path), MAX_KEY)?;
        keys.push_str(String::from_utf8_lossy(&bytes).trim_end());
        keys.push('\n');
    }
    let makedev = match recipe.devices {
        Devices::All => {
            Some(all_devices(&tree, spools, &request.out.join(crate::pipeline::facts::LOGS), guest)?)
        }
        Devices::Minimal | Devices::None => None,
    };
    let furniture = Furniture {
        recipe,
        hostname: guest.hostname.as_str(),
        writable: guest.cow != Cow::None,
        kernel: Content::inline(kernel_bytes),
        makedev: makedev.as_deref(),
        ssh_keys: &keys,
        time: Time { secs: newest, nanos: 0 },
    };
    netbsd::furnish(&mut tree, spools, &furniture)?;
    Ok((tree, newest))
}

/// What the release's own MAKEDEV says of all devices. It is a script of the set `base`, whose sum was right; it
/// only prints.
fn all_devices(tree: &Tree, spools: &Spools, logs: &Path, guest: &Guest) -> Result<Vec<u8>, NetBsdFault> {
    let missing = NetBsdError::Missing { path: netbsd::MAKEDEV, set: "base" };
    let node = tree.lookup(netbsd::MAKEDEV.as_bytes()).map(|id| &tree.node(id).kind);
    let Some(Kind::File(content)) = node else { return Err(missing.into()) };
    let script = content
        .read_all(spools)
        .map_err(|source| NetBsdError::Read { path: netbsd::MAKEDEV.to_owned(), source })?;
    let room = Scratch::directory(std::env::temp_dir())?;
    let path = room.path().join("MAKEDEV");
    fs::write(&path, script).map_err(|error| FileError::new(&path, "write", error))?;
    let tool = Tool::new("sh").arg(&path).args(["-s", "all"]).current_dir(room.path());
    let log = logs.join(format!("{}-makedev.log", guest.name));
    Ok(tool.log(log).limit(MAKEDEV_TIME).output()?)
}

/// The kernel, inflated.
fn kernel(sources: &ThirdPartySources<'_>, file: &ReleaseFile) -> Result<Vec<u8>, NetBsdFault> {
    let path = sources.get(&file.urls, &file.sum)?;
    let fault = |source| NetBsdFault::Inflate { file: file.name.clone(), source };
    let opened = File::open(&path).map_err(|error| FileError::new(&path, "open", error))?;
    let mut bytes = Vec::new();
    let inflated = flate2::read::MultiGzDecoder::new(BufReader::new(opened));
    inflated.take(MAX_KERNEL + 1).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() as u64 > MAX_KERNEL {
        return Err(fault(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

/// A set as a plain archive, in the cache.
fn inflated(sources: &ThirdPartySources<'_>, file: &ReleaseFile) -> Result<PathBuf, NetBsdFault> {
    let path = sources.get(&file.urls, &file.sum)?;
    let name = format!("{}-{}.tar", file.sum.algorithm(), file.sum.hex());
    sources.derived(&name, |out| {
        let opened = File::open(&path).map_err(|error| FileError::new(&path, "open", error))?;
        let opened = BufReader::with_capacity(BUFFER, opened);
        let mut inflated: Box<dyn Read> = if file.name.ends_with(".xz") {
            Box::new(liblzma::read::XzDecoder::new_multi_decoder(opened))
        } else {
            Box::new(flate2::read::MultiGzDecoder::new(opened))
        };
        copy(&mut inflated, out, &file.name)
    })
}

fn copy(from: &mut dyn Read, to: &mut dyn Write, name: &str) -> Result<(), NetBsdFault> {
    let fault = |source: io::Error| match source.downcast::<FileError>() {
        Ok(file) => NetBsdFault::File(file),
        Err(source) => NetBsdFault::Inflate { file: name.to_owned(), source },
    };
    let len = io::copy(&mut from.take(MAX_SET), to).map_err(fault)?;
    if len == MAX_SET { Err(fault(io::ErrorKind::FileTooLarge.into())) } else { Ok(()) }
}
