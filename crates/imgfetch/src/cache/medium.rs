//! What a cache may lie upon: a mirror's tree on a disc or stick, with some or all blocks of a release.
//!
//! Nothing there is believed either: blocks are compared with the signed index as everywhere, and what a caller
//! gets from [`Cache::on_medium`] it verifies like an answer of a mirror.

use std::path::Path;

use super::{Cache, Loaded, load_from};
use formats::block::Object;
use formats::release::MirrorPath;
use system::files::ConfinedDir;

impl Cache {
    /// With a mirror's tree below, which is read where the cache itself has nothing, and never written.
    #[must_use]
    pub fn over(self, medium: &Path) -> Self {
        Cache { medium: Some(ConfinedDir::new(medium)), ..self }
    }

    /// Whether there is a medium below.
    pub fn has_medium(&self) -> bool {
        self.medium.is_some()
    }

    /// A file of the medium that is no block, of `limit` bytes at most, whatever it holds.
    pub fn on_medium(&self, path: &MirrorPath, limit: u64) -> Option<Vec<u8>> {
        self.medium.as_ref()?.read(&path.to_string(), limit).ok()
    }

    /// Loads and verifies a block of the medium. It is not copied: the medium stays where it is.
    pub(super) fn load_from_medium(&self, object: &Object) -> Loaded {
        self.medium.as_ref().map_or(Loaded::Miss, |medium| load_from(medium, object))
    }
}
