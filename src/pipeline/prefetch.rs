//! Prefetch lists: what `imgfactory profile` saw a boot read, kept beside the build, published by the next one and
//! carried over by those after it.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::release::Previous;
use formats::index::Index;
use formats::names::ImageName;
use formats::release::{Dlahead, ReleaseTextFault};
use formats::text::At;
use system::files::{FileError, create_dir_all, read_at_most, write_atomic};

/// The directory with the lists, beside `mirror`.
pub const DIR: &str = "profile";
/// As in a mirror.
const LIMIT: u64 = 64 << 20;

/// Why a list can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is damaged, or of something else.
    #[error("{}: not a prefetch list; remove it, or record it again with `imgfactory profile`", path.display())]
    Damaged { path: PathBuf, source: At<ReleaseTextFault> },
    #[error(transparent)]
    File(#[from] FileError),
}

/// Where the list of an image is kept.
pub fn path(out: &Path, image: &ImageName) -> PathBuf {
    out.join(DIR).join(format!("{image}.dlahead"))
}

/// Keeps a list for the next build.
///
/// # Errors
/// [`FileError`].
pub fn save(out: &Path, list: &Dlahead) -> Result<(), FileError> {
    create_dir_all(out.join(DIR))?;
    let mut text = Vec::new();
    list.encode(&mut text).expect("a Vec takes all that is written");
    write_atomic(path(out, &list.image), &text)
}

/// The lists for the images of a release: those that were kept here, and else those of the previous release, each
/// carried over to the new disk. On a `repacked` disk everything is at another place, so there only blocks that are the
/// same stay in a list.
///
/// # Errors
/// [`ProfileError`] for one that can't be read.
pub fn lists(
    out: &Path,
    previous: Option<&Previous>,
    to: &[Index],
    repacked: &HashSet<ImageName>,
) -> Result<Vec<Dlahead>, ProfileError> {
    let mut lists = Vec::new();
    for index in to {
        let image = &index.header().image;
        let old = previous.and_then(|previous| previous.index(image)).filter(|_| !repacked.contains(image));
        let published = previous.and_then(|previous| previous.lists.iter().find(|list| list.image == *image));
        let kept = kept(&path(out, image))?;
        // The newer one: a list that was published has gone through the updates since it was made.
        let list = match (kept, published) {
            (Some(kept), Some(published)) if kept.serial < published.serial => Some(published.clone()),
            (Some(kept), _) => Some(kept),
            (None, published) => published.cloned(),
        };
        lists.extend(list.map(|list| list.carried(old, index)));
    }
    Ok(lists)
}

fn kept(path: &Path) -> Result<Option<Dlahead>, ProfileError> {
    let text = match read_at_most(path, LIMIT) {
        Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let damaged = |source| ProfileError::Damaged { path: path.into(), source };
    Dlahead::decode(&text[..]).map(Some).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::block::{BlockName, Object};
    use formats::digest::Digest;
    use formats::digest::Sha256;
    use formats::index::Header;
    use formats::names::{BlockSize, Serial, UnixTime};
    use formats::release::{Latest, Phase, PrefetchBlock, Release};

    #[test]
    fn a_list_follows_blocks_to_what_stands_in_their_place_but_not_through_a_fresh_layout() {
        let image: ImageName = "host".parse().unwrap();
        let name = |byte: u8| BlockName([byte; 16]);
        let index = |blocks: [u8; 3]| {
            let header = Header {
                image: image.clone(),
                serial: Serial::FIRST,
                block_size: BlockSize::new(4096).unwrap(),
                size: 3 * 4096,
                published: UnixTime(1),
                parent: None,
            };
            let object =
                |byte| Object { name: name(byte), sha256: Sha256([byte; 32]), raw_len: 4096, file_len: 9 };
            Index::assemble(header, blocks.map(|byte| Some(object(byte)))).unwrap()
        };
        let ahead =
            |byte| PrefetchBlock { phase: Phase::boot(), name: name(byte), first_read_ms: 0, reads: 1 };
        let list =
            Dlahead { image: image.clone(), serial: Serial::FIRST, entries: [1, 2].map(ahead).to_vec() };
        let digest = Digest::of(b"");
        let previous = Previous {
            latest: Latest {
                name: image.clone(),
                serial: Serial::FIRST,
                release: digest,
                mirrors: digest,
                published: UnixTime(1),
                expires: UnixTime(2),
                min_serial: Serial::FIRST,
            },
            release: Release {
                name: image.clone(),
                serial: Serial::FIRST,
                published: UnixTime(1),
                retain_until: UnixTime(2),
                images: vec![],
            },
            indexes: vec![index([1, 2, 3])],
            lists: vec![list],
            mirrors: None,
        };
        let dir = tempfile::tempdir().unwrap();
        for (anew, kept) in [(None, &[1, 9][..]), (Some(image.clone()), &[1])] {
            let anew = anew.into_iter().collect();
            let lists = lists(dir.path(), Some(&previous), &[index([1, 9, 4])], &anew).unwrap();
            let names: Vec<_> = lists[0].entries.iter().map(|ahead| ahead.name).collect();
            assert_eq!(names, kept.iter().map(|&byte| name(byte)).collect::<Vec<_>>(), "{anew:?}");
        }
    }

    #[test]
    fn a_list_is_kept_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let image: ImageName = "host".parse().unwrap();
        let list = Dlahead { image: image.clone(), serial: Serial::FIRST, entries: Vec::new() };
        assert_eq!(kept(&path(dir.path(), &image)).unwrap(), None);
        save(dir.path(), &list).unwrap();
        assert_eq!(kept(&path(dir.path(), &image)).unwrap(), Some(list));
        std::fs::write(path(dir.path(), &image), "nonsense\n").unwrap();
        let said = kept(&path(dir.path(), &image)).unwrap_err().to_string();
        assert!(
            said.ends_with(
                "profile/host.dlahead: not a prefetch list; remove it, or record it again with `imgfactory profile`"
            ),
            "{said}"
        );
    }
}
