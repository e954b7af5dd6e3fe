//! Targets of `publish` (the trait is [`crate::publish::Remote`]): a directory, rsync, WebDAV, S3.

mod dav;
mod directory;
mod objects;
mod rsync;
mod s3;
mod wire;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use directory::DirectoryTarget;

use crate::parallel::each;
use crate::publish::{Clock, FileToSend, MirrorFiles, Remote, RemoteError, RemotePath, Target};
use formats::names::UnixTime;
use formats::release::MirrorPath;
use system::clock;
use system::files::{FileError, read_at_most};
use system::http::HttpOptions;

/// Opens a target, for `jobs` files at a time; `web`: how web servers are reached. What is wrong with it mostly shows at the first use.
///
/// # Errors
/// [`RemoteError`]: no directory, no credentials.
pub fn open(target: &Target, jobs: usize, web: &HttpOptions) -> Result<Box<dyn Remote>, RemoteError> {
    let jobs = jobs.max(1);
    Ok(match target {
        Target::Directory(path) => Box::new(DirectoryTarget::new(path, jobs)),
        Target::Rsync(to) => Box::new(rsync::Rsync::new(to)),
        Target::Http(url) => Box::new(dav::Dav::open(url, jobs, web)?),
        Target::S3(s3) => Box::new(s3::Bucket::open(s3, jobs, web)?),
    })
}

/// What the user should know of a target before anything is sent there.
pub fn warning(target: &Target) -> Option<String> {
    let Target::Http(url) = target else { return None };
    (dav::has_credentials() && is_readable_on_the_way(url)).then(|| {
        format!("{url}: the password or token is sent over plain http, where others can read it; use https")
    })
}

/// Whether requests leave this machine, and not encrypted.
fn is_readable_on_the_way(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let host = rest.split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').filter(|_| !host.ends_with(']')).map_or(host, |(host, _)| host);
    !(host == "localhost" || host == "[::1]" || host.starts_with("127."))
}

/// A tree in a directory of this machine.
#[derive(Clone, Debug)]
pub struct LocalTree(pub PathBuf);

impl MirrorFiles for LocalTree {
    fn read(&self, path: &MirrorPath, limit: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        read_file(&self.0.join(path.to_string()), limit).map_err(local)
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.0)
    }
}

/// The clock on the wall.
#[derive(Clone, Copy, Debug)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> UnixTime {
        clock::now()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// Reads a file; `None` when it is not there.
fn read_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    match read_at_most(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(FileError::Io { source, .. })
            if matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A failure of a file here; its own text has the path.
fn local(error: FileError) -> RemoteError {
    let mut chain = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        chain.push_str(&format!(": {error}"));
        source = error.source();
    }
    RemoteError::new("this machine", chain)
}

/// Our own copy of a file that is to be sent.
fn of_tree(tree: &dyn MirrorFiles, path: &MirrorPath, len: u64) -> Result<Vec<u8>, RemoteError> {
    let bytes = tree.read(path, len)?;
    match bytes {
        Some(bytes) if bytes.len() as u64 == len => Ok(bytes),
        Some(bytes) => {
            Err(RemoteError::new(path.to_string(), format!("{} bytes here instead of {len}", bytes.len())))
        }
        None => Err(RemoteError::new(
            path.to_string(),
            "missing here and on the target; build again, or fetch it with `imgfactory mirror pull`",
        )),
    }
}

/// Sends files of a tree, `jobs` at a time, each by `send`; tells `sent` how long each was.
fn send_all(
    tree: &dyn MirrorFiles,
    items: &[FileToSend],
    jobs: usize,
    sent: &(dyn Fn(u64) + Sync),
    send: impl Fn(&RemotePath, &[u8]) -> Result<(), RemoteError> + Sync,
) -> Result<(), RemoteError> {
    parallel(items, jobs, |item| {
        send(&RemotePath::File(item.path.clone()), &of_tree(tree, &item.path, item.len)?)?;
        sent(item.len);
        Ok(())
    })?;
    Ok(())
}

/// Does something with each of these, `jobs` at a time, and gives the results in order. After the first failure
/// nothing more is begun.
pub(crate) fn parallel<T: Sync, R: Send>(
    items: &[T],
    jobs: usize,
    work: impl Fn(&T) -> Result<R, RemoteError> + Sync,
) -> Result<Vec<R>, RemoteError> {
    let jobs = NonZeroUsize::new(jobs).unwrap_or(NonZeroUsize::MIN);
    each(items.len(), jobs, || (), |(), at| work(&items[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_in_parallel_keeps_its_order_and_stops_at_a_failure() {
        let items: Vec<u32> = (0..100).collect();
        let double = |item: &u32| Ok(item * 2);
        assert_eq!(parallel(&items, 7, double).unwrap(), (0..100).map(|i| i * 2).collect::<Vec<_>>());
        let fail = |item: &u32| if *item == 5 { Err(RemoteError::new("five", "no")) } else { Ok(()) };
        assert_eq!(parallel(&items, 3, fail).unwrap_err().to_string(), "five");
    }
}
