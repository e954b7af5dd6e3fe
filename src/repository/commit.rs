//! The one way in which a release gets into a mirror's tree: by a build, a rollback, a refresh or a rotation.

use std::path::Path;

use crate::release::Ready;
use crate::repository::store::{Store, StoreError};
use formats::digest::Digest;
use formats::names::ImageName;
use formats::release::{MirrorPath, Put, Upload};
use system::files::{AtomicFile, FileError};

/// Writes a signed release of the distribution `name` into the tree whose store has its blocks already, and the upload
/// manifest. The order keeps the tree whole at every instant, also when the power fails:
///
/// 1. all block files reach the disk;
/// 2. images' files (indexes, layouts, prefetch lists) and rotation statements, then `releases/N.txt`;
/// 3. the manifest. Cut between this and `latest`, the next build starts from the old release and makes both again;
/// 4. `mirrors.txt`, if it changed;
/// 5. `latest`, which makes it the release that clients fetch.
///
/// Each file is synced before the next is written.
///
/// # Errors
/// [`StoreError`]. What was written by then changes nothing for a client: no `latest` names it.
pub fn commit_release(
    store: &Store,
    manifest: &Path,
    name: &ImageName,
    ready: &Ready,
) -> Result<Upload, StoreError> {
    let files = ready.files.iter().map(|(path, bytes)| Put { path: path.clone(), digest: Digest::of(bytes) });
    let upload = Upload {
        name: name.clone(),
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
    use formats::names::Serial;

    /// A release whose `releases/1.txt` can't be written, because a directory has its name.
    #[test]
    fn nothing_names_a_release_that_could_not_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let (mirror, manifest) = (dir.path().join("mirror"), dir.path().join("upload.txt"));
        let store = Store::open(&mirror).unwrap();
        std::fs::create_dir_all(mirror.join("releases/1.txt/in-the-way")).unwrap();
        let ready = Ready {
            serial: Serial::FIRST,
            base: None,
            blocks: vec![],
            files: vec![(MirrorPath::Release(Serial::FIRST), b"release".to_vec())],
            mirrors: Some(b"mirrors".to_vec()),
            latest: b"latest".to_vec(),
        };
        let name = "demo".parse().unwrap();
        commit_release(&store, &manifest, &name, &ready).unwrap_err();
        for path in [&mirror.join("mirrors.txt"), &mirror.join("latest"), &manifest] {
            assert!(!path.exists(), "{}", path.display());
        }

        std::fs::remove_dir_all(mirror.join("releases/1.txt")).unwrap();
        let upload = commit_release(&store, &manifest, &name, &ready).unwrap();
        assert_eq!(Upload::decode(&std::fs::read(&manifest).unwrap()[..]).unwrap(), upload);
        assert_eq!(std::fs::read(mirror.join("latest")).unwrap(), b"latest");
        let paths: Vec<String> = upload.steps().map(|put| put.path.to_string()).collect();
        assert_eq!(paths, ["releases/1.txt", "mirrors.txt", "latest"]);
    }
}
