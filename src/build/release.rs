//! The last steps: what the mirror has, the next release beside it, the upload manifest.

use std::path::{Path, PathBuf};

use crate::host::files::{self, AtomicFile, FileError};
use crate::host::store::{Store, StoreError};
use crate::index::{ImageName, Serial};
use crate::release::{
    Digest, Draft, Error as Untrusted, KeyError, Latest, MAX_LATEST, MAX_MIRRORS, MAX_RELEASE, MirrorPath,
    Previous, Put, Ready, SigningKey, TrustedKeys, Upload, Verified,
};

/// Why the mirror's state can't be read, or a release can't be written.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The mirror in the output directory is not ours, or damaged.
    #[error(
        "{}: the last release there can't be built upon; give the key that signed it, or build into another directory",
        path.display()
    )]
    Previous {
        /// File of the mirror.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Untrusted>,
    },
    /// The mirror in the output directory belongs to another recipe.
    #[error("{}: a mirror of `{found}`, not of `{want}`; build into another directory", mirror.display())]
    OtherName {
        /// The mirror.
        mirror: PathBuf,
        /// Its name.
        found: ImageName,
        /// The recipe's.
        want: ImageName,
    },
    /// Serials end at 2^63 - 1.
    #[error("{}: serial {} is the last that there is", mirror.display(), Serial::MAX)]
    LastSerial {
        /// The mirror.
        mirror: PathBuf,
    },
    /// Signing failed.
    #[error("the release can't be signed")]
    Sign(#[from] KeyError),
    /// A file can't be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads the release that `latest` of a mirror names, verified; `None` for a mirror that has none yet.
///
/// # Errors
/// [`ReleaseError::Previous`] when it is not signed by `keys` or not whole; [`ReleaseError::OtherName`].
pub fn previous(
    mirror: &Path,
    name: &ImageName,
    keys: &TrustedKeys,
) -> Result<Option<Previous>, ReleaseError> {
    let at = |path: &MirrorPath| mirror.join(path.to_string());
    let read = |path: &MirrorPath, limit| files::read_at_most(at(path), limit);
    let untrusted = |path: &MirrorPath| {
        let path = at(path);
        move |source| ReleaseError::Previous { path, source: Box::new(source) }
    };
    if !at(&MirrorPath::Latest).exists() {
        return Ok(None);
    }
    let latest = read(&MirrorPath::Latest, MAX_LATEST)?;
    let latest =
        Verified::<Latest>::open(&latest, keys).map_err(untrusted(&MirrorPath::Latest))?.into_inner();
    if latest.name != *name {
        let (found, want) = (latest.name, name.clone());
        return Err(ReleaseError::OtherName { mirror: mirror.into(), found, want });
    }
    let path = latest.release_path();
    let release =
        latest.open_release(&read(&path, MAX_RELEASE)?, keys).map_err(untrusted(&path))?.into_inner();
    let mirrors_file = read(&MirrorPath::Mirrors, MAX_MIRRORS)?;
    let mirrors = latest.open_mirrors(&mirrors_file, keys).ok();
    let mirrors = mirrors.map(|mirrors| (mirrors.into_inner(), mirrors_file));
    let mut indexes = Vec::new();
    for image in &release.images {
        let path = image.index_path();
        indexes.push(image.open_index(&read(&path, crate::index::MAX_FILE)?).map_err(untrusted(&path))?);
    }
    Ok(Some(Previous { latest, release, indexes, mirrors }))
}

/// Signs the next release and writes it beside its blocks, which the store holds already, and `upload.txt`.
/// `latest` is written last.
///
/// # Errors
/// [`ReleaseError`]. What was written by then changes nothing for a client: no `latest` names it.
pub fn publish(
    store: &Store,
    manifest: &Path,
    draft: Draft,
    previous: Option<&Previous>,
    key: &SigningKey,
) -> Result<Upload, ReleaseError> {
    let name = draft.name.clone();
    let ready = draft.sign(previous, key)?;
    let upload = upload(store, name, &ready)?;
    let synced = store.sync()?;
    for (path, bytes) in &ready.files {
        synced.write(path, bytes)?;
    }
    // Before `latest`: cut in between, the next build starts from the old release and makes both again.
    let mut out = AtomicFile::create(manifest)?;
    upload.encode(&mut out).map_err(|source| FileError::new(manifest, "write", source))?;
    out.commit()?;
    if let Some(mirrors) = &ready.mirrors {
        synced.write(&MirrorPath::Mirrors, mirrors)?;
    }
    synced.write(&MirrorPath::Latest, &ready.latest)?;
    Ok(upload)
}

/// What the mirror lacks, for those who copy it there.
fn upload(store: &Store, name: ImageName, ready: &Ready) -> Result<Upload, StoreError> {
    let blocks = store.puts(&ready.blocks)?;
    let files = ready.files.iter().map(|(path, bytes)| Put { path: path.clone(), digest: Digest::of(bytes) });
    Ok(Upload {
        name,
        serial: ready.serial,
        base: ready.base,
        puts: blocks.into_iter().chain(files).collect(),
        mirrors: ready.mirrors.as_deref().map(Digest::of),
        latest: Digest::of(&ready.latest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockName, Object, Sha256};
    use crate::index::{BlockSize, Header, Index, UnixTime};

    /// A mirror in a directory, with one block a number.
    struct Bench {
        dir: tempfile::TempDir,
        key: SigningKey,
    }

    impl Bench {
        fn new() -> Self {
            Bench { dir: tempfile::tempdir().unwrap(), key: SigningKey::generate().unwrap() }
        }

        fn mirror(&self) -> PathBuf {
            self.dir.path().join("mirror")
        }

        fn keys(&self) -> TrustedKeys {
            TrustedKeys::parse(&self.key.public_text()).unwrap()
        }

        fn build(&self, serial: u64, disk: &[u8]) -> Upload {
            let name: ImageName = "demo".parse().unwrap();
            let blocks: Vec<_> = disk.iter().map(|&byte| Some(self.block(byte))).collect();
            let header = Header {
                image: "host".parse().unwrap(),
                serial: Serial::new(serial).unwrap(),
                block_size: BlockSize::new(4096).unwrap(),
                size: 4096 * disk.len() as u64,
                published: UnixTime(7),
                parent: None,
            };
            let previous = previous(&self.mirror(), &name, &self.keys()).unwrap();
            let draft = Draft {
                name,
                serial: Serial::new(serial).unwrap(),
                indexes: vec![Index::assemble(header, blocks).unwrap()],
                mirrors: vec![],
                published: UnixTime(1000 + serial),
                retain_for: 90,
                fresh_for: 7,
            };
            let manifest = self.dir.path().join("upload.txt");
            publish(&Store::open(self.mirror()).unwrap(), &manifest, draft, previous.as_ref(), &self.key)
                .unwrap()
        }

        fn block(&self, byte: u8) -> Object {
            let raw = vec![byte; 4096];
            let name = BlockName::of(&raw);
            let path = self.mirror().join(name.path());
            files::create_dir_all(path.parent().unwrap()).unwrap();
            files::write_atomic(path, &[byte; 10]).unwrap();
            Object { name, sha256: Sha256::of(&raw), raw_len: 4096, file_len: 10 }
        }
    }

    #[test]
    fn the_manifest_names_what_the_mirror_before_lacked() {
        let bench = Bench::new();
        let first = bench.build(1, &[1, 2, 3]);
        let paths = |upload: &Upload| -> Vec<String> {
            upload
                .puts
                .iter()
                .map(|put| put.path.to_string())
                .filter(|path| !path.starts_with("blk/"))
                .collect()
        };
        assert_eq!((first.base, first.puts.len()), (None, 5));
        assert_eq!(paths(&first), ["images/host/1/index.idx", "releases/1.txt"]);

        let second = bench.build(2, &[1, 9, 3]);
        assert_eq!((second.base, second.puts.len()), (Some(Serial::FIRST), 3));
        assert_eq!(paths(&second), ["images/host/2/index.idx", "releases/2.txt"]);
        assert_eq!(second.mirrors, None);

        let third = bench.build(3, &[1, 9, 3]);
        assert_eq!((third.serial.get(), third.puts.len()), (2, 0), "nothing new: only `latest`");
        let text = std::fs::read(bench.dir.path().join("upload.txt")).unwrap();
        assert_eq!(Upload::decode(&text[..]).unwrap(), third);
    }

    #[test]
    fn a_mirror_cut_between_its_last_two_files_is_built_upon() {
        let bench = Bench::new();
        bench.build(1, &[1]);
        // As if a build with other mirrors had been killed before it wrote `latest`.
        files::write_atomic(bench.mirror().join("mirrors.txt"), b"another list").unwrap();
        let again = bench.build(2, &[1]);
        assert_eq!((again.serial, again.mirrors.is_some()), (Serial::FIRST, true));
    }

    #[test]
    fn a_mirror_of_another_key_or_name_is_refused_by_name() {
        let bench = Bench::new();
        bench.build(1, &[1]);
        let other = TrustedKeys::parse(&SigningKey::generate().unwrap().public_text()).unwrap();
        let name = "demo".parse().unwrap();
        let refused = previous(&bench.mirror(), &name, &other).unwrap_err().to_string();
        assert!(refused.ends_with(
            "mirror/latest: the last release there can't be built upon; give the key that signed it, or build \
             into another directory"
        ));
        let refused =
            previous(&bench.mirror(), &"lab".parse().unwrap(), &bench.keys()).unwrap_err().to_string();
        assert!(refused.ends_with("mirror: a mirror of `demo`, not of `lab`; build into another directory"));
    }
}
