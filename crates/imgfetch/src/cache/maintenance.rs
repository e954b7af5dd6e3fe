//! Looking after a cache: what is in it, whether it is whole, what stays and what goes.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Cache, Loaded, SCRATCH};
use formats::block::BlockName;
use formats::index::Index;
use formats::names::{ImageName, Serial};
use system::files::FileError;

/// Names of blocks that a person pinned, one a line.
const PINS: &str = "state/pins";
/// More names than any cache has files.
const MAX_PINS: u64 = 64 << 20;

/// What a cache holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    pub blocks: usize,
    pub bytes: u64,
    /// Those of them that go last.
    pub pinned: usize,
    /// Files that are no blocks and lie where blocks lie.
    pub strange: usize,
    /// Images whose map is kept.
    pub images: Vec<ImageStats>,
}

/// How much of an image a cache has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageStats {
    /// Distribution and image: `demo/host`.
    pub image: String,
    /// The release of the map.
    pub serial: u64,
    /// Blocks of the image.
    pub blocks: usize,
    /// Those of them that are here.
    pub here: usize,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Blocks that are what a kept map says.
    pub good: usize,
    /// Blocks that were not: removed.
    pub damaged: usize,
    /// Blocks of which no kept map knows anything: kept, and checked when they are used.
    pub unknown: usize,
    /// Left behind by crashes, or put there by somebody: removed.
    pub stray: usize,
}

impl Cache {
    /// Maps that are kept, with the distribution's name.
    fn maps(&self) -> Vec<(ImageName, Index)> {
        let mut maps = Vec::new();
        for dir in self.dir.names("state").into_iter().flatten() {
            let Some(name) = dir.to_str().and_then(|text| text.parse::<ImageName>().ok()) else { continue };
            for file in self.dir.names(format!("state/{name}")).into_iter().flatten() {
                let image = file.to_str().and_then(|text| text.strip_suffix(".idx")?.parse().ok());
                let text = image.and_then(|image| self.saved_index(&name, &image));
                maps.extend(text.and_then(|text| Some((name.clone(), Index::decode(&text[..]).ok()?))));
            }
        }
        maps
    }

    /// Files below `blk`: blocks with their length, and all else, links among them.
    fn files(&self) -> (Vec<(BlockName, u64)>, Vec<PathBuf>) {
        let (mut blocks, mut strange) = (Vec::new(), Vec::new());
        for dir in self.dir.names("blk").into_iter().flatten() {
            let dir = Path::new("blk").join(dir);
            let Ok(entries) = self.dir.names(&dir) else {
                strange.push(dir);
                continue;
            };
            for entry in entries {
                let path = dir.join(&entry);
                let name = entry.to_str().and_then(|text| text.parse::<BlockName>().ok());
                match (name.filter(|name| Path::new(&name.path()) == path), self.dir.regular(&path)) {
                    (Some(name), Some(found)) => blocks.push((name, found.st_size.max(0).cast_unsigned())),
                    _ => strange.push(path),
                }
            }
        }
        (blocks, strange)
    }

    /// What is in it.
    pub fn stats(&self) -> Stats {
        let (blocks, strange) = self.files();
        let names: HashSet<BlockName> = blocks.iter().map(|(name, _)| *name).collect();
        let pins = self.pins();
        let image = |(name, index): &(ImageName, Index)| ImageStats {
            image: format!("{name}/{}", index.header().image),
            serial: Serial::get(index.header().serial),
            blocks: index.objects().len(),
            here: index.objects().iter().filter(|object| names.contains(&object.name)).count(),
        };
        Stats {
            blocks: blocks.len(),
            bytes: blocks.iter().map(|(_, len)| len).sum(),
            pinned: pins.iter().filter(|name| names.contains(name)).count(),
            strange: strange.len(),
            images: self.maps().iter().map(image).collect(),
        }
    }

    /// Reads every block of which a kept map says what it must be, and removes those that are something else.
    pub fn fsck(&self, mut seen: impl FnMut(usize)) -> Checked {
        let (blocks, strange) = self.files();
        let mut checked = Checked::default();
        for path in strange {
            checked.stray += usize::from(self.dir.remove(&path).is_ok());
        }
        let maps = self.maps();
        let objects: std::collections::HashMap<BlockName, _> =
            maps.iter().flat_map(|(_, index)| index.objects()).map(|object| (object.name, object)).collect();
        for (number, (name, _)) in blocks.iter().enumerate() {
            seen(number);
            match objects.get(name).map(|object| self.load(object)) {
                Some(Loaded::Hit(_)) => checked.good += 1,
                Some(Loaded::Damaged(_)) => checked.damaged += 1,
                Some(Loaded::Miss) => {}
                None => checked.unknown += 1,
            }
        }
        checked
    }

    /// Blocks that a person pinned.
    pub fn pins(&self) -> HashSet<BlockName> {
        let text = self.dir.read(PINS, MAX_PINS).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Pins the blocks of an image that are here, or no longer pins any; how many are pinned.
    ///
    /// # Errors
    /// `NotFound` when no map of that image is kept; what the system says.
    pub fn pin(&self, image: Option<&ImageName>) -> Result<usize, FileError> {
        let Some(image) = image else {
            self.dir.replace(SCRATCH, PINS, b"")?;
            return Ok(0);
        };
        let maps: Vec<_> = self.maps();
        let of_image = maps.iter().filter(|(_, index)| index.header().image == *image);
        let objects: Vec<_> = of_image.flat_map(|(_, index)| index.objects()).collect();
        if objects.is_empty() {
            let source = io::Error::new(
                io::ErrorKind::NotFound,
                format!("no image `{image}` was used with this cache"),
            );
            return Err(FileError::new(self.root(), "pin in", source));
        }
        let mut pins = self.pins();
        pins.extend(objects.iter().filter(|object| self.has(object)).map(|object| object.name));
        let text: String = pins.iter().map(|name| format!("{name}\n")).collect();
        self.dir.replace(SCRATCH, PINS, text.as_bytes())?;
        Ok(pins.len())
    }

    /// Removes blocks until no more than `keep` bytes are left, the longest unused first, pinned ones last; how
    /// many went, and their bytes.
    pub fn evict(&self, keep: u64) -> (usize, u64) {
        self.scan();
        self.protect(self.pins());
        let (victims, before) = {
            let inventory = self.inventory();
            (inventory.victims(inventory.used.saturating_sub(keep)), inventory.used)
        };
        victims.iter().for_each(|name| self.remove(*name));
        (victims.len(), before - self.inventory().used)
    }
}
