//! Step: the release, signed and written beside its blocks, and `upload.txt`.

use std::path::Path;

use crate::pipeline::Request;
use crate::pipeline::prefetch::{self, ProfileError};
use crate::pipeline::previous_release::{PreviousRelease, ReleaseError};
use crate::pipeline::step_inputs::StepInputs;
use crate::pipeline::step_runner::StepRunner;
use crate::pipeline::steps::image::{self, BuiltImage};
use crate::release::{Draft, SigningKey};
use crate::repository::commit::commit_release;
use crate::repository::store::Store;
use formats::digest::Sha256;
use formats::release::{Mirror, Upload};
use formats::url::MirrorUrl;

/// The release, unsigned. `target` is the output directory with the prefetch lists.
///
/// # Errors
/// [`ProfileError`], when a list can't be used.
pub fn draft(
    request: &Request<'_>,
    previous: &PreviousRelease,
    images: Vec<BuiltImage>,
    target: &Path,
) -> Result<Draft, ProfileError> {
    let recipe = request.recipe;
    let mirror = |url: &MirrorUrl| Mirror { url: url.clone(), max_connections: None, location: None };
    let layouts = images.iter().filter_map(|built| {
        let image = &built.split.index.header().image;
        Some((image.clone(), built.published_layout(previous.images.get(image))?))
    });
    let layouts = layouts.collect();
    let repacked = images.iter().filter_map(BuiltImage::repacked).collect();
    let indexes: Vec<_> = images.into_iter().map(|built| built.split.index).collect();
    let lists = prefetch::lists(target, previous.release.as_ref(), &indexes, &repacked)?;
    Ok(Draft {
        name: request.name(),
        serial: previous.next,
        layouts,
        indexes,
        lists,
        mirrors: recipe.mirrors.iter().map(mirror).collect(),
        published: request.now,
        retain_for: recipe.publish.retain,
        fresh_for: recipe.publish.fresh,
    })
}

/// What a release depends on. The time of day is left out: each build signs `latest` with a later one.
fn inputs(draft: &Draft, previous: &PreviousRelease, key: &SigningKey) -> StepInputs {
    let base = previous.release.as_ref().map(|release| release.latest.serial.to_string());
    let mut inputs = StepInputs::new()
        .with("name", &draft.name)
        .with("previous release", base.as_deref().unwrap_or("none"))
        .with("signing key", key.public_base64())
        .with("retain", format!("{} s", draft.retain_for))
        .with("fresh", format!("{} s", draft.fresh_for));
    for mirror in &draft.mirrors {
        inputs.add("mirrors", &mirror.url);
    }
    for index in &draft.indexes {
        inputs.add(format!("image {}", index.header().image), image::disk_digest(index));
    }
    for list in &draft.lists {
        let names: String = list.entries.iter().map(|entry| format!("{}\n", entry.name)).collect();
        inputs.add(format!("prefetch list of {}", list.image), Sha256::of(names.as_bytes()));
    }
    inputs
}

/// Signs a release and writes it, with the manifest, beside its blocks, which the store has already.
///
/// # Errors
/// [`ReleaseError`]. What was written by then changes nothing for a client: no `latest` names it.
pub fn commit(
    store: &Store,
    manifest: &Path,
    draft: Draft,
    previous: &PreviousRelease,
    key: &SigningKey,
    runner: &mut StepRunner,
) -> Result<Upload, ReleaseError> {
    runner.run("release", inputs(&draft, previous, key), |run| {
        let name = draft.name.clone();
        let ready = draft.sign(previous.release.as_ref(), key)?;
        let upload = commit_release(store, manifest, &name, &ready)?;
        run.found("serial", upload.serial);
        Ok(upload)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    use crate::compress::Compressor;
    use crate::repository::store::{BlockOrigin, Offered};
    use formats::block::{Block, Codec, Object};
    use formats::index::{Header, Index};
    use formats::names::{BlockSize, Serial, UnixTime};
    use formats::release::TrustedKeys;

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
            let previous =
                PreviousRelease::read(&mut store, None, &"demo".parse().unwrap(), &self.keys()).unwrap();
            let header = Header {
                image: "host".parse().unwrap(),
                serial: previous.next,
                block_size: BlockSize::new(4096).unwrap(),
                size: 4096 * disk.len() as u64,
                published: UnixTime(7),
                parent: previous.parent(&"host".parse().unwrap()),
            };
            let blocks: Vec<_> = disk.iter().map(|&byte| Some(block(&store, byte))).collect();
            let draft = Draft {
                name: "demo".parse().unwrap(),
                serial: previous.next,
                indexes: vec![Index::assemble(header, blocks).unwrap()],
                layouts: Default::default(),
                lists: vec![],
                mirrors: vec![],
                published: UnixTime(1000 + previous.next.get()),
                retain_for: 90,
                fresh_for: 7,
            };
            commit(
                &store,
                &self.dir.path().join("upload.txt"),
                draft,
                &previous,
                &self.key,
                &mut StepRunner::default(),
            )
            .unwrap()
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
        let refused = PreviousRelease::read(&mut bench.store(), None, &name, &other).unwrap_err().to_string();
        assert!(refused.ends_with(
            "mirror/latest: can't build on its previous release; give the key that signed it, or build \
             into another directory"
        ));
        let refused = PreviousRelease::read(&mut bench.store(), None, &"lab".parse().unwrap(), &bench.keys())
            .unwrap_err()
            .to_string();
        assert!(
            refused.ends_with("mirror: the mirror is of `demo`, not of `lab`; build into another directory")
        );
    }
}
