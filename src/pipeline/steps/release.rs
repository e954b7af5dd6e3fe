//! The last steps: what the mirror has, the next release beside it, the upload manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::pipeline::changes::Publication;
use crate::pipeline::layouts::{self, LayoutFault};
use crate::pipeline::steps::image::Before;
use crate::publish::{MirrorFiles, ReleaseState, ReleaseStateError, RemoteError, read_state};
use crate::release::Draft;
use crate::release::KeyError;
use crate::release::Previous;
use crate::release::SigningKey;
use crate::repository::published::Published;
use crate::repository::store::{Store, StoreError};
use crate::repository::targets::LocalTree;
use formats::digest::Digest;
use formats::index::{Index, Parent};
use formats::names::{ImageName, Serial};
use formats::release::{
    BadKey, DocumentError as Untrusted, ImageFiles, MirrorPath, Put, TrustedKeys, Upload,
};
use system::files::{AtomicFile, FileError};

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
        source: Untrusted,
    },
    /// A file that the last release needs is gone.
    #[error("{}: not there, though the last release needs it; bring it back, or build into another directory", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
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
    /// Nothing is published there.
    #[error("{}: no release there to build upon; leave --previous out for a first one", path.display())]
    Nothing {
        /// Where `latest` ought to be.
        path: PathBuf,
    },
    /// A layout.
    #[error("{}: the last release there can't be built upon", place.display())]
    Layout {
        /// The mirror.
        place: PathBuf,
        /// What is wrong with it.
        source: LayoutFault,
    },
    /// What is published can't be read.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A public key is none.
    #[error("the public key can't be read")]
    Key(#[from] BadKey),
    /// Signing failed.
    #[error("the release can't be signed")]
    Sign(#[from] KeyError),
    /// The mirror's tree failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manifest can't be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The release that the next one builds on, and the number of the next.
#[derive(Debug)]
pub struct Last {
    /// What is there; `None` in a new mirror.
    pub previous: Option<Previous>,
    /// The number of a release that differs from it.
    pub next: Serial,
    /// What each image was, for those that have a layout.
    pub before: Befores,
}

impl Last {
    /// Reads the release that `latest` names, verified, and lets the store believe its blocks: that of the mirror
    /// in the output directory, or one that is published elsewhere, none of whose blocks is needed here.
    ///
    /// # Errors
    /// [`ReleaseError::Previous`] when it is not signed by `keys` or not whole; [`ReleaseError::OtherName`];
    /// [`ReleaseError::Nothing`] when none is published where one ought to be.
    pub fn read(
        store: &mut Store,
        published: Option<&Published>,
        name: &ImageName,
        keys: &TrustedKeys,
    ) -> Result<Self, ReleaseError> {
        let tree = LocalTree(store.root().into());
        let (files, place): (&dyn MirrorFiles, _) = match published {
            Some(published) => (published, published.locate(&MirrorPath::Latest)),
            None => (&tree, store.locate(&MirrorPath::Latest)),
        };
        let place = Place { root: place.parent().unwrap_or(&place).into() };
        let (previous, before) = match place.previous(files, name, keys)? {
            Some((previous, before)) => (Some(previous), before),
            None if published.is_some() => {
                return Err(ReleaseError::Nothing { path: place.locate(&MirrorPath::Latest) });
            }
            None => return Ok(Last { previous: None, next: Serial::FIRST, before: BTreeMap::new() }),
        };
        for index in previous.iter().flat_map(|previous| &previous.indexes) {
            match published {
                Some(_) => store.trust_published(index),
                None => store.trust(index),
            }
        }
        let next = previous.as_ref().and_then(|previous| previous.latest.serial.next());
        let next = next.ok_or_else(|| ReleaseError::LastSerial { mirror: store.root().into() })?;
        Ok(Last { previous, next, before })
    }

    /// It, as far as changes go.
    pub fn publication(&self) -> Option<Publication> {
        let Previous { latest, release, indexes, .. } = self.previous.as_ref()?;
        let layout = |index: &Index| Some(self.before.get(&index.header().image)?.map.clone());
        let files =
            release.images.iter().flat_map(ImageFiles::files).map(|(path, digest)| (path, digest.len));
        Some(Publication {
            name: latest.name.clone(),
            serial: latest.serial,
            images: indexes.iter().map(|index| (index.clone(), layout(index))).collect(),
            files: files.chain([(latest.release_path(), latest.release.len)]).collect(),
        })
    }

    /// What an image's next index names as the one before.
    pub fn parent(&self, image: &ImageName) -> Option<Parent> {
        let index = self.previous.as_ref()?.release.image(image)?.index;
        Some(Parent { serial: index.serial, sha256: index.digest.sha256 })
    }
}

/// What each image was, for those that have a layout.
type Befores = BTreeMap<ImageName, Before>;

/// What errors call the tree that is read.
struct Place {
    root: PathBuf,
}

impl Place {
    fn locate(&self, path: &MirrorPath) -> PathBuf {
        self.root.join(path.to_string())
    }

    fn fault(&self, error: ReleaseStateError) -> ReleaseError {
        match error {
            ReleaseStateError::Missing { path, .. } => ReleaseError::Missing { path: self.locate(&path) },
            ReleaseStateError::Untrusted(path, source) => {
                ReleaseError::Previous { path: self.locate(&path), source }
            }
            ReleaseStateError::Remote(error) => error.into(),
        }
    }

    fn previous(
        &self,
        files: &dyn MirrorFiles,
        name: &ImageName,
        keys: &TrustedKeys,
    ) -> Result<Option<(Previous, Befores)>, ReleaseError> {
        let Some(state) = read_state(files, keys).map_err(|error| self.fault(error))? else {
            return Ok(None);
        };
        let ReleaseState { latest, release, indexes, .. } = state;
        if latest.name != *name {
            let mirror = self.root.clone();
            return Err(ReleaseError::OtherName { mirror, found: latest.name, want: name.clone() });
        }
        let mirrors = files.read(&MirrorPath::Mirrors, MirrorPath::Mirrors.limit())?;
        let mirrors =
            mirrors.and_then(|file| Some((latest.open_mirrors(&file, keys).ok()?.into_inner(), file)));
        let (mut before, mut lists) = (BTreeMap::new(), Vec::new());
        for (image, index) in release.images.iter().zip(&indexes) {
            if let Some(path) = image.dlahead_path() {
                let file = files.read(&path, path.limit())?;
                let file = file.ok_or_else(|| ReleaseError::Missing { path: self.locate(&path) })?;
                let untrusted = |source| ReleaseError::Previous { path: self.locate(&path), source };
                lists.extend(image.open_dlahead(&file).map_err(untrusted)?);
            }
            let known = layouts::read(files, image)
                .map_err(|source| ReleaseError::Layout { place: self.root.clone(), source })?;
            let Some(layouts::Known { map, base }) = known else { continue };
            // A layout of a disk of another size is none of this one's.
            if u64::from(map.geometry.blocks) * u64::from(crate::ext2::BLOCK) == index.header().size {
                let index = index.clone();
                before.insert(image.name.clone(), Before { index, map, base: Some(base) });
            }
        }
        Ok(Some((Previous { latest, release, indexes, lists, mirrors }, before)))
    }
}

/// Signs the next release and writes it beside its blocks, which the store holds already, and `upload.txt`.
/// `latest` is written last, when all else is on the disk.
///
/// # Errors
/// [`ReleaseError`]. What was written by then changes nothing for a client: no `latest` names it.
pub fn publish(
    store: &Store,
    manifest: &Path,
    draft: Draft,
    last: &Last,
    key: &SigningKey,
) -> Result<Upload, ReleaseError> {
    let name = draft.name.clone();
    let ready = draft.sign(last.previous.as_ref(), key)?;
    let files = ready.files.iter().map(|(path, bytes)| Put { path: path.clone(), digest: Digest::of(bytes) });
    let upload = Upload {
        name,
        serial: ready.serial,
        base: ready.base,
        puts: store.puts(&ready.blocks)?.into_iter().chain(files).collect(),
        mirrors: ready.mirrors.as_deref().map(Digest::of),
        latest: Digest::of(&ready.latest),
    };
    let mut out = AtomicFile::create(manifest)?;
    upload.encode(&mut out).map_err(|source| FileError::new(manifest, "write", source))?;
    let synced = store.sync()?;
    for (path, bytes) in &ready.files {
        synced.write(path, bytes)?;
    }
    // Before `latest`: cut in between, the next build starts from the old release and makes both again.
    out.commit_synced()?;
    if let Some(mirrors) = &ready.mirrors {
        synced.write(&MirrorPath::Mirrors, mirrors)?;
    }
    synced.write(&MirrorPath::Latest, &ready.latest)?;
    Ok(upload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Compressor;
    use crate::repository::store::{BlockOrigin, Offered};
    use formats::block::{Block, Codec, Object};
    use formats::index::{Header, Index};
    use formats::names::{BlockSize, UnixTime};

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

        fn store(&self) -> Store {
            Store::open(self.mirror()).unwrap()
        }

        fn build(&self, disk: &[u8]) -> Upload {
            let mut store = self.store();
            let last = Last::read(&mut store, None, &"demo".parse().unwrap(), &self.keys()).unwrap();
            let header = Header {
                image: "host".parse().unwrap(),
                serial: last.next,
                block_size: BlockSize::new(4096).unwrap(),
                size: 4096 * disk.len() as u64,
                published: UnixTime(7),
                parent: last.parent(&"host".parse().unwrap()),
            };
            let blocks: Vec<_> = disk.iter().map(|&byte| Some(block(&store, byte))).collect();
            let draft = Draft {
                name: "demo".parse().unwrap(),
                serial: last.next,
                indexes: vec![Index::assemble(header, blocks).unwrap()],
                layouts: Default::default(),
                lists: vec![],
                mirrors: vec![],
                published: UnixTime(1000 + last.next.get()),
                retain_for: 90,
                fresh_for: 7,
            };
            publish(&store, &self.dir.path().join("upload.txt"), draft, &last, &self.key).unwrap()
        }
    }

    fn block(store: &Store, byte: u8) -> Object {
        let block = Block::seal(vec![byte; 4096]);
        let origin = || BlockOrigin::Image { image: "host".parse().unwrap(), block: byte.into(), at: 0 };
        match store.offer(&block, origin, &mut Compressor::new(Codec::zlib(6).unwrap())).unwrap() {
            Offered::Written(object) | Offered::Found(object) => object,
            Offered::Collides(with) => panic!("collides with {with}"),
        }
    }

    #[test]
    fn the_manifest_names_what_the_mirror_before_lacked() {
        let bench = Bench::new();
        let first = bench.build(&[1, 2, 3]);
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

        let second = bench.build(&[1, 9, 3]);
        assert_eq!((second.base, second.puts.len()), (Some(Serial::FIRST), 3));
        assert_eq!(paths(&second), ["images/host/2/index.idx", "releases/2.txt"]);
        assert_eq!(second.mirrors, None);

        let third = bench.build(&[1, 9, 3]);
        assert_eq!((third.serial.get(), third.puts.len()), (2, 0), "nothing new: only `latest`");
        let text = std::fs::read(bench.dir.path().join("upload.txt")).unwrap();
        assert_eq!(Upload::decode(&text[..]).unwrap(), third);
    }

    #[test]
    fn a_mirror_cut_between_its_last_two_files_is_built_upon() {
        let bench = Bench::new();
        bench.build(&[1]);
        // As if a build with other mirrors had been killed before it wrote `latest`.
        std::fs::write(bench.mirror().join("mirrors.txt"), b"another list").unwrap();
        let again = bench.build(&[1]);
        assert_eq!((again.serial, again.mirrors.is_some()), (Serial::FIRST, true));
    }

    #[test]
    fn a_mirror_of_another_key_or_name_is_refused_by_name() {
        let bench = Bench::new();
        bench.build(&[1]);
        let other = TrustedKeys::parse(&SigningKey::generate().unwrap().public_text()).unwrap();
        let name = "demo".parse().unwrap();
        let refused = Last::read(&mut bench.store(), None, &name, &other).unwrap_err().to_string();
        assert!(refused.ends_with(
            "mirror/latest: the last release there can't be built upon; give the key that signed it, or build \
             into another directory"
        ));
        let refused = Last::read(&mut bench.store(), None, &"lab".parse().unwrap(), &bench.keys())
            .unwrap_err()
            .to_string();
        assert!(refused.ends_with("mirror: a mirror of `demo`, not of `lab`; build into another directory"));
    }
}
