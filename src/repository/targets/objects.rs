//! Stores that are asked for one file at a time, over HTTP: what WebDAV and S3 have in common.

use super::wire::unexpected;
use super::{parallel, send_all};
use crate::publish::{DatedFile, FileToSend, Listed, MirrorFiles, Remote, RemoteError, RemotePath};
use system::http::Reply;

/// What one kind of store says its own way.
pub trait ObjectStore: Sync {
    /// Its name, for people; the name of a file follows it.
    fn name(&self) -> &str;

    /// Asks for a file, or something about it: `GET`, `HEAD` or `DELETE`, and at most so many bytes of the answer.
    ///
    /// # Errors
    /// [`RemoteError`] when there is no answer.
    fn ask(&self, method: &'static str, place: &RemotePath, limit: u64) -> Result<Reply, RemoteError>;

    /// Sends a file in one step; the last answer.
    ///
    /// # Errors
    /// [`RemoteError`] when there is no answer.
    fn send(&self, place: &RemotePath, bytes: &[u8]) -> Result<Reply, RemoteError>;

    /// Whether the answer says that the file is not there.
    fn is_missing(&self, said: &Reply) -> bool;

    /// Everything there is; `None` when the store can't tell.
    ///
    /// # Errors
    /// [`RemoteError`].
    fn list(&self) -> Result<Option<Vec<Listed>>, RemoteError>;
}

/// Such a store, asked for `jobs` files at a time.
#[derive(Debug)]
pub struct Objects<K> {
    kind: K,
    jobs: usize,
}

impl<K: ObjectStore> Objects<K> {
    /// An object store of `kind`, with `jobs` requests at once.
    pub fn new(kind: K, jobs: usize) -> Self {
        Objects { kind, jobs }
    }

    fn unexpected(&self, place: &RemotePath, doing: &str, said: &Reply) -> RemoteError {
        unexpected(&format!("{}{place}", self.kind.name()), doing, said)
    }

    fn send(&self, place: &RemotePath, bytes: &[u8]) -> Result<(), RemoteError> {
        let said = self.kind.send(place, bytes)?;
        match said.status {
            200..=206 => Ok(()),
            _ => Err(self.unexpected(place, "write", &said)),
        }
    }

    /// The length of a file, which an answer to HEAD need not tell: some servers tell none of what they compress for
    /// browsers, and some know no HEAD at all. Then the file itself is read.
    fn length(&self, place: &RemotePath) -> Result<Option<u64>, RemoteError> {
        let said = self.kind.ask("HEAD", place, 0)?;
        match said.status {
            200 | 203 if said.len.is_some() => Ok(said.len),
            200 | 203 | 204 | 405 | 501 => {
                let said = self.kind.ask("GET", place, place.limit())?;
                match said.status {
                    200 | 203 => Ok(Some(said.body.len() as u64)),
                    _ if self.kind.is_missing(&said) => Ok(None),
                    _ => Err(self.unexpected(place, "inspect", &said)),
                }
            }
            _ if self.kind.is_missing(&said) => Ok(None),
            _ => Err(self.unexpected(place, "inspect", &said)),
        }
    }
}

impl<K: ObjectStore> Remote for Objects<K> {
    fn name(&self) -> String {
        self.kind.name().into()
    }

    fn get(&self, place: &RemotePath) -> Result<Option<Vec<u8>>, RemoteError> {
        Ok(self.get_dated(place)?.map(|(bytes, _)| bytes))
    }

    fn get_dated(&self, place: &RemotePath) -> Result<Option<DatedFile>, RemoteError> {
        let said = self.kind.ask("GET", place, place.limit())?;
        match said.status {
            200 | 203 if said.body.len() as u64 > place.limit() => Err(RemoteError::new(
                format!("{}{place}: can't read", self.kind.name()),
                format!("more than {} bytes", place.limit()),
            )),
            // Without the time of the file, that of the answer: it is read when it has just been written.
            200 | 203 => Ok(Some((said.body, said.modified.or(said.date)))),
            _ if self.kind.is_missing(&said) => Ok(None),
            _ => Err(self.unexpected(place, "read", &said)),
        }
    }

    fn lengths(&self, items: &[FileToSend]) -> Result<Vec<Option<u64>>, RemoteError> {
        parallel(items, self.jobs, |item| self.length(&RemotePath::File(item.path.clone())))
    }

    fn put(
        &self,
        tree: &dyn MirrorFiles,
        items: &[FileToSend],
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RemoteError> {
        send_all(tree, items, self.jobs, sent, |place, bytes| self.send(place, bytes))
    }

    fn write(&self, place: &RemotePath, bytes: &[u8]) -> Result<(), RemoteError> {
        self.send(place, bytes)
    }

    fn remove(&self, places: &[RemotePath]) -> Result<(), RemoteError> {
        parallel(places, self.jobs, |place| {
            let said = self.kind.ask("DELETE", place, 4096)?;
            match said.status {
                200..=206 => Ok(()),
                _ if self.kind.is_missing(&said) => Ok(()),
                _ => Err(self.unexpected(place, "remove", &said)),
            }
        })?;
        Ok(())
    }

    fn list(&self) -> Result<Option<Vec<Listed>>, RemoteError> {
        self.kind.list()
    }
}
