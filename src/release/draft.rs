//! The next release as a value: what files it adds to a mirror, before any of them is written.

use std::collections::{BTreeMap, HashSet};

use super::{KeyError, SigningKey};
use formats::block::{BlockName, Object};
use formats::digest::Digest;
use formats::index::Index;
use formats::names::{ImageName, Serial, UnixTime};
use formats::release::{Dlahead, ImageFiles, Latest, Leaf, Mirror, MirrorPath, Mirrors, Release, Stored};

/// A release that a mirror has, as far as the next one builds on it.
#[derive(Clone, Debug)]
pub struct Previous {
    /// `latest`, verified.
    pub latest: Latest,
    /// The release that `latest` names, verified.
    pub release: Release,
    /// The map of each of its images.
    pub indexes: Vec<Index>,
    /// Prefetch lists of those that have one.
    pub lists: Vec<Dlahead>,
    /// What mirrors.txt says, and the file with its signature. `None` when it is not the one that `latest`
    /// names: a publication was cut between the two.
    pub mirrors: Option<(Mirrors, Vec<u8>)>,
}

impl Previous {
    /// The map of this image.
    pub fn index(&self, image: &ImageName) -> Option<&Index> {
        self.indexes.iter().find(|index| index.header().image == *image)
    }
}

/// The layout of an image, as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of `layout.z`.
    pub file: Vec<u8>,
    /// The published one that it is an update of.
    pub base: Option<Stored>,
}

/// What a build wants to publish.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Name of the distribution, which all its releases share.
    pub name: ImageName,
    /// Number of the release, if it differs from the previous one.
    pub serial: Serial,
    /// The map of each image, written for `serial`.
    pub indexes: Vec<Index>,
    /// The layout of each image that has one.
    pub layouts: BTreeMap<ImageName, Layout>,
    /// Prefetch lists, for those of its images that have one.
    pub lists: Vec<Dlahead>,
    /// Where clients may fetch it.
    pub mirrors: Vec<Mirror>,
    /// Time of publication; retention and freshness count from it.
    pub published: UnixTime,
    /// Seconds for which the release's blocks stay on the mirrors at least.
    pub retain_for: u64,
    /// Seconds for which `latest` is fresh.
    pub fresh_for: u64,
}

/// A release ready to be written, signed.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The release that `latest` will name: the draft's, or the previous one when nothing differs.
    pub serial: Serial,
    /// The release that the mirror has now.
    pub base: Option<Serial>,
    /// Blocks that the previous release does not use, in order of first use.
    pub blocks: Vec<Object>,
    /// Files that never change again, in the order in which they are written. Empty when nothing differs.
    pub files: Vec<(MirrorPath, Vec<u8>)>,
    /// mirrors.txt, if its text differs.
    pub mirrors: Option<Vec<u8>>,
    /// Bytes of `latest`: it is signed again in any case.
    pub latest: Vec<u8>,
}

impl Draft {
    /// Compares with the previous release and signs what is new. An image whose disk did not change keeps its
    /// files; if none changed, so does the release.
    ///
    /// # Errors
    /// [`KeyError`], when the system gives no random bytes.
    pub fn sign(self, previous: Option<&Previous>, key: &SigningKey) -> Result<Ready, KeyError> {
        let mut files = Vec::new();
        let mut images = Vec::new();
        for index in &self.indexes {
            let name = &index.header().image;
            let old = previous
                .filter(|previous| previous.index(name).is_some_and(|old| old.same_disk(index)))
                .and_then(|previous| previous.release.image(name));
            let mut image = match old {
                Some(old) => old.clone(),
                None => {
                    let text = index.to_text();
                    let digest = Digest::of(&text);
                    files.push((MirrorPath::Image(name.clone(), self.serial, Leaf::Index), text));
                    let index = Stored { serial: self.serial, digest };
                    let mut image = ImageFiles::of_index(name.clone(), index);
                    if let Some(Layout { file, base }) = self.layouts.get(name) {
                        image.layout = Some(Stored { serial: self.serial, digest: Digest::of(file) });
                        image.layout_base = *base;
                        files
                            .push((MirrorPath::Image(name.clone(), self.serial, Leaf::Layout), file.clone()));
                    }
                    image
                }
            };
            image.dlahead = self.stored_list(name, image.dlahead, previous, &mut files);
            images.push(image);
        }
        let blocks = self.new_blocks(previous);

        let mirrors = Mirrors { name: self.name.clone(), mirrors: self.mirrors };
        let old = previous.and_then(|previous| previous.mirrors.as_ref());
        let (mirrors_digest, mirrors) = match old {
            Some((old, file)) if *old == mirrors => (Digest::of(file), None),
            _ => {
                let file = key.sign(&mirrors)?;
                (Digest::of(&file), Some(file))
            }
        };

        // A higher serial than the next one: releases between them were lost, and clients may know one of them.
        let unchanged = previous.filter(|previous| {
            previous.release.images == images && previous.latest.serial.next() == Some(self.serial)
        });
        let (serial, release) = match unchanged {
            Some(previous) => (previous.latest.serial, previous.latest.release),
            None => {
                let release = Release {
                    name: self.name.clone(),
                    serial: self.serial,
                    published: self.published,
                    retain_until: UnixTime(self.published.0.saturating_add(self.retain_for)),
                    images,
                };
                let file = key.sign(&release)?;
                let digest = Digest::of(&file);
                files.push((MirrorPath::Release(self.serial), file));
                (self.serial, digest)
            }
        };
        let latest = key.sign(&Latest {
            name: self.name,
            serial,
            release,
            mirrors: mirrors_digest,
            published: self.published,
            expires: UnixTime(self.published.0.saturating_add(self.fresh_for)),
            min_serial: previous.map_or(Serial::FIRST, |previous| previous.latest.min_serial),
        })?;
        let base = previous.map(|previous| previous.latest.serial);
        Ok(Ready { serial, base, blocks, files, mirrors, latest })
    }

    /// The list of an image, which keeps its file if it says the same as before.
    fn stored_list(
        &self,
        name: &ImageName,
        old: Option<Stored>,
        previous: Option<&Previous>,
        files: &mut Vec<(MirrorPath, Vec<u8>)>,
    ) -> Option<Stored> {
        let list = self.lists.iter().find(|list| list.image == *name && !list.entries.is_empty())?;
        let before = previous.and_then(|previous| previous.lists.iter().find(|list| list.image == *name));
        if let (Some(old), Some(before)) = (old, before)
            && before.entries == list.entries
        {
            return Some(old);
        }
        let mut text = Vec::new();
        let list = Dlahead { serial: self.serial, ..list.clone() };
        list.encode(&mut text).expect("a Vec takes all that is written");
        let stored = Stored { serial: self.serial, digest: Digest::of(&text) };
        files.push((MirrorPath::Image(name.clone(), self.serial, Leaf::Dlahead), text));
        Some(stored)
    }

    fn new_blocks(&self, previous: Option<&Previous>) -> Vec<Object> {
        let mut known: HashSet<BlockName> = previous
            .iter()
            .flat_map(|previous| &previous.indexes)
            .flat_map(|index| index.objects())
            .map(|object| object.name)
            .collect();
        self.indexes
            .iter()
            .flat_map(|index| index.objects())
            .filter(|object| known.insert(object.name))
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::block::BlockName;
    use formats::digest::Sha256;
    use formats::index::Header;
    use formats::names::BlockSize;
    use formats::release::{TrustedKeys, Verified};

    const WEEK: u64 = 7 * 24 * 3600;

    fn object(byte: u8) -> Object {
        let raw = vec![byte; 4096];
        Object { name: BlockName::of(&raw), sha256: Sha256::of(&raw), raw_len: 4096, file_len: 30 }
    }

    fn index(image: &str, serial: u64, blocks: &[u8]) -> Index {
        let header = Header {
            image: image.parse().unwrap(),
            serial: Serial::new(serial).unwrap(),
            block_size: BlockSize::new(4096).unwrap(),
            size: 4096 * blocks.len() as u64,
            published: UnixTime(100 + serial),
            parent: None,
        };
        Index::assemble(header, blocks.iter().map(|&byte| (byte > 0).then(|| object(byte)))).unwrap()
    }

    fn draft(serial: u64, indexes: Vec<Index>) -> Draft {
        Draft {
            name: "demo".parse().unwrap(),
            serial: Serial::new(serial).unwrap(),
            indexes,
            layouts: BTreeMap::new(),
            lists: Vec::new(),
            mirrors: vec![Mirror {
                url: "http://mirror.example/".parse().unwrap(),
                max_connections: None,
                location: None,
            }],
            published: UnixTime(1_000_000 + serial),
            retain_for: WEEK,
            fresh_for: WEEK,
        }
    }

    /// What a mirror has after `ready` was written to it.
    fn published(
        ready: &Ready,
        indexes: Vec<Index>,
        before: Option<&Previous>,
        key: &SigningKey,
    ) -> Previous {
        let keys = TrustedKeys::parse(&key.public_text()).unwrap();
        let latest = Verified::<Latest>::open(&ready.latest, &keys).unwrap().into_inner();
        let release = ready.files.iter().find(|(path, _)| *path == latest.release_path());
        let release = release.map(|(_, file)| latest.open_release(file, &keys).unwrap().into_inner());
        let before_file = || before.unwrap().mirrors.clone().unwrap().1;
        let mirrors_file = ready.mirrors.clone().unwrap_or_else(before_file);
        Previous {
            release: release.unwrap_or_else(|| before.unwrap().release.clone()),
            mirrors: Some((latest.open_mirrors(&mirrors_file, &keys).unwrap().into_inner(), mirrors_file)),
            latest,
            indexes,
            lists: Vec::new(),
        }
    }

    fn paths(ready: &Ready) -> Vec<String> {
        ready.files.iter().map(|(path, _)| path.to_string()).collect()
    }

    #[test]
    fn a_first_release_writes_every_image_and_all_blocks_once() {
        let key = SigningKey::generate().unwrap();
        let indexes = vec![index("host", 1, &[1, 2, 0, 1]), index("guest", 1, &[2, 3])];
        let ready = draft(1, indexes).sign(None, &key).unwrap();
        assert_eq!(paths(&ready), ["images/host/1/index.idx", "images/guest/1/index.idx", "releases/1.txt"]);
        assert_eq!(ready.blocks, [object(1), object(2), object(3)]);
        assert_eq!((ready.base, ready.serial), (None, Serial::FIRST));
        assert!(ready.mirrors.is_some());
    }

    #[test]
    fn an_image_that_did_not_change_keeps_its_files() {
        let key = SigningKey::generate().unwrap();
        let old = vec![index("host", 1, &[1, 2]), index("guest", 1, &[3])];
        let first = draft(1, old.clone()).sign(None, &key).unwrap();
        let previous = published(&first, old, None, &key);

        let ready = draft(2, vec![index("host", 2, &[1, 4]), index("guest", 2, &[3])]);
        let ready = ready.sign(Some(&previous), &key).unwrap();
        assert_eq!(paths(&ready), ["images/host/2/index.idx", "releases/2.txt"]);
        assert_eq!(ready.blocks, [object(4)]);
        assert_eq!((ready.base, ready.serial.get()), (Some(Serial::FIRST), 2));
        assert_eq!(ready.mirrors, None, "the list of mirrors is the same");
    }

    #[test]
    fn a_list_is_published_beside_its_index_and_again_only_when_it_says_something_else() {
        let key = SigningKey::generate().unwrap();
        let list = |bytes: &[u8]| {
            let ahead = |&byte: &u8| formats::release::PrefetchBlock {
                phase: "boot".parse().unwrap(),
                name: object(byte).name,
                first_read_ms: 0,
                reads: 1,
            };
            let entries = bytes.iter().map(ahead).collect();
            Dlahead { image: "host".parse().unwrap(), serial: Serial::FIRST, entries }
        };
        let old = vec![index("host", 1, &[1, 2])];
        let first = Draft { lists: vec![list(&[2, 1])], ..draft(1, old.clone()) }.sign(None, &key).unwrap();
        assert_eq!(paths(&first), ["images/host/1/index.idx", "images/host/1/dlahead", "releases/1.txt"]);
        let previous = Previous { lists: vec![list(&[2, 1])], ..published(&first, old.clone(), None, &key) };
        let again = || vec![index("host", 2, &[1, 2])];
        let same = Draft { lists: vec![list(&[2, 1])], ..draft(2, again()) };
        assert_eq!(paths(&same.sign(Some(&previous), &key).unwrap()), Vec::<String>::new());
        let other = Draft { lists: vec![list(&[1])], ..draft(2, again()) };
        assert_eq!(
            paths(&other.sign(Some(&previous), &key).unwrap()),
            ["images/host/2/dlahead", "releases/2.txt"]
        );
    }

    #[test]
    fn nothing_new_writes_only_latest_with_a_later_date() {
        let key = SigningKey::generate().unwrap();
        let old = vec![index("host", 1, &[1, 2])];
        let first = draft(1, old.clone()).sign(None, &key).unwrap();
        let previous = published(&first, old.clone(), None, &key);

        let ready = draft(2, vec![index("host", 2, &[1, 2])]).sign(Some(&previous), &key).unwrap();
        assert_eq!((paths(&ready), ready.blocks.len(), ready.mirrors.is_none()), (vec![], 0, true));
        let after = published(&ready, old, Some(&previous), &key);
        assert_eq!(after.latest.serial, Serial::FIRST);
        assert_eq!(after.latest.release, previous.latest.release);
        assert_eq!(after.latest.expires, UnixTime(1_000_002 + WEEK));
    }
}
