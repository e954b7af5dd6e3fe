//! NetBSD as a kind of guest: the sets of a release become its tree, and its kernel starts it.

use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::time::Duration;

use super::release::{self, ReleaseFile};
use super::{MAKEDEV, NetBsdConfig, NetBsdError, check_kernel, configure};
use crate::ext2::Profile;
use crate::foreign::magic::{self, Compression, FileKind};
use crate::guests::kind::{FileToLock, GuestBuilder, GuestContents, GuestTree, Starter, newest};
use crate::guests::services::{
    Argument, BoxError, BuildServices, Inputs, ProgramRun, ServiceError, ThirdPartyFiles,
};
use crate::guests::third_party::{CachedFile, copy_limited};
use crate::recipe::{Cow, Devices, Guest, NetBsd, Virt};
use crate::tree::tar::{self, TarError};
use crate::tree::{Content, FileTime, Kind, Meta, Tree};
use formats::digest::Sha256;
use liblzma::read::XzDecoder;

/// A kernel of more than this is refused.
const MAX_KERNEL: u64 = 256 << 20;
/// A set that decompresses to more than this is refused.
const MAX_SET: u64 = 64 << 30;
/// A file with a public key of more than this is refused.
const MAX_KEY: u64 = 64 << 10;
/// Bytes read at a time.
const BUFFER: usize = 1 << 20;
/// MAKEDEV takes a second.
const MAKEDEV_TIME: Duration = Duration::from_secs(120);

/// A file of a release that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum NetBsdFault {
    /// It can't be decompressed.
    #[error(
        "{file}: can't decompress it; it is truncated, or it is not the file that the checksum belongs to"
    )]
    Inflate { file: String, source: io::Error },
    /// It is a set that can't be understood.
    #[error("{file}")]
    Set { file: String, source: TarError },
}

impl GuestBuilder for NetBsd {
    fn starter(&self) -> Starter {
        Starter::NetBsd
    }

    fn summary(&self) -> String {
        let sets: Vec<&str> = self.sets.iter().map(AsRef::as_ref).collect();
        let (version, architecture) = (&self.version, self.architecture);
        format!("NetBSD {version} {architecture} ({}), kernel {}", sets.join(", "), self.kernel)
    }

    fn release(&self) -> Option<String> {
        Some(format!("NetBSD {}", self.version))
    }

    fn files_to_lock(&self, files: &dyn ThirdPartyFiles) -> Result<Vec<FileToLock>, BoxError> {
        let release = release::files(self, files)?;
        let all = release.sets.into_iter().chain([release.kernel]);
        Ok(all.map(|file| FileToLock { urls: file.urls, sum: Some(file.sum) }).collect())
    }

    fn inputs(&self, guest: &Guest, services: &mut dyn BuildServices) -> Result<Inputs, BoxError> {
        let mut inputs = vec![
            ("version".into(), self.version.to_string()),
            ("architecture".into(), self.architecture.to_string()),
            ("host name".into(), guest.hostname.to_string()),
            ("devices".into(), format!("{:?}", self.devices)),
            ("writable".into(), (guest.cow != Cow::None).to_string()),
        ];
        if guest.virt != Virt::Pv {
            inputs.push(("xen".into(), guest.virt.to_string()));
        }
        let release = release::files(self, services)?;
        let files = release.sets.into_iter().chain([release.kernel]);
        inputs.extend(files.map(|file| (file.name, file.sum.to_string())));
        for path in &self.ssh_keys {
            let key = services.project_file(path, MAX_KEY)?;
            inputs.push((path.to_string(), Sha256::of(&key).to_string()));
        }
        Ok(inputs)
    }

    fn build(&self, guest: &Guest, services: &mut dyn BuildServices) -> Result<GuestContents, BoxError> {
        let files = release::files(self, services)?;
        // Before the sets are fetched: a kernel that this machine can't start makes them useless.
        let kernel = kernel(&files.kernel, services)?;
        check_kernel(&files.kernel.name, &kernel, guest.virt)?;

        let mut tree = Tree::new(Meta { mode: 0o755, ..Meta::default() });
        for set in &files.sets {
            let path = unpacked(set, services)?;
            let spool = services.spool(&path)?;
            tree = tar::read_onto(tree, services.open(&path)?, spool)
                .map_err(|source| NetBsdFault::Set { file: set.name.clone(), source })?;
        }
        let newest = newest(&tree);
        let ssh_keys = ssh_keys(self, services)?;
        let makedev = match self.devices {
            Devices::All => Some(all_devices(&tree, guest, services)?),
            Devices::Minimal | Devices::None => None,
        };
        let config = NetBsdConfig {
            recipe: self,
            hostname: guest.hostname.as_str(),
            writable: guest.cow != Cow::None,
            virt: guest.virt,
            kernel: Content::inline(kernel),
            makedev: makedev.as_deref(),
            ssh_keys: &ssh_keys,
            time: FileTime { secs: newest, nanos: 0 },
        };
        configure(&mut tree, services.contents(), &config)?;
        let profile = Profile::NetBsd;
        Ok(GuestContents::Tree(GuestTree { tree, newest, profile, linux: false, cached: None }))
    }
}

/// The keys of those who may log in, a line each.
fn ssh_keys(recipe: &NetBsd, services: &dyn BuildServices) -> Result<String, ServiceError> {
    let mut keys = String::new();
    for path in &recipe.ssh_keys {
        let bytes = services.project_file(path, MAX_KEY)?;
        keys.push_str(String::from_utf8_lossy(&bytes).trim_end());
        keys.push('\n');
    }
    Ok(keys)
}

/// All devices, as the release's own MAKEDEV lists them. It is a script of the set `base`, whose checksum was right; it
/// only prints.
fn all_devices(tree: &Tree, guest: &Guest, services: &dyn BuildServices) -> Result<Vec<u8>, BoxError> {
    let node = tree.lookup(MAKEDEV.as_bytes()).map(|id| tree.node(id));
    let Some((node, Kind::File(content))) = node.map(|node| (node, &node.kind)) else {
        return Err(NetBsdError::Missing { path: MAKEDEV, set: "base" }.into());
    };
    let script = content
        .read_all(services.contents())
        .map_err(|source| NetBsdError::Read { path: MAKEDEV.to_owned(), source })?;
    let mut files = Tree::new(Meta { mode: 0o755, ..Meta::default() });
    let mut node = node.clone();
    node.kind = Kind::File(Content::inline(script));
    files.insert(b"MAKEDEV", node)?;
    let mut arguments = vec![Argument::Scratch { before: "", path: "files/MAKEDEV" }];
    arguments.extend(Argument::texts(["-s", "all"]));
    let program = ProgramRun {
        files: Some(&files),
        limit: MAKEDEV_TIME,
        ..ProgramRun::new("sh", arguments, format!("{}-makedev.log", guest.name))
    };
    Ok(services.output_of(&program)?)
}

/// Reads the kernel and decompresses it if it is a gzip file.
fn kernel(file: &ReleaseFile, services: &dyn BuildServices) -> Result<Vec<u8>, BoxError> {
    let path = services.fetch(&file.urls, &file.sum)?;
    let mut bytes = Vec::new();
    let mut decoder = flate2::read::MultiGzDecoder::new(BufReader::new(services.open(&path)?));
    copy_limited(&mut decoder, &mut bytes, MAX_KERNEL + 1, &|source| cut_off(file, source))?;
    Ok(bytes)
}

/// A set as a plain archive, in the cache. Its contents tell how it is compressed.
fn unpacked(file: &ReleaseFile, services: &dyn BuildServices) -> Result<PathBuf, BoxError> {
    let path = services.fetch(&file.urls, &file.sum)?;
    let kind = magic::identify(services.open_at(&path)?.as_ref()).map_err(|source| cut_off(file, source))?;
    let cached = CachedFile { path, sum: file.sum };
    if kind == FileKind::Tar {
        return Ok(cached.path);
    }
    let archive = services.derive(&cached.derived_name(".tar"), &mut |out| {
        let opened = BufReader::with_capacity(BUFFER, services.open(&cached.path)?);
        let mut decoder: Box<dyn Read> = match kind {
            FileKind::Compressed(Compression::Xz) => Box::new(XzDecoder::new_multi_decoder(opened)),
            // What is neither says so.
            _ => Box::new(flate2::read::MultiGzDecoder::new(opened)),
        };
        copy_limited(&mut decoder, out, MAX_SET, &|source| cut_off(file, source))
    })?;
    Ok(archive)
}

fn cut_off(file: &ReleaseFile, source: io::Error) -> BoxError {
    NetBsdFault::Inflate { file: file.name.clone(), source }.into()
}
