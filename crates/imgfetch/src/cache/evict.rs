//! Room: above 80 % of the file system, or of the size allowed, blocks go until 70 % are left, those that were
//! not used for the longest time first, those of the boot last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::Ordering;

use formats::block::BlockName;

use super::Cache;

/// Above this share, in percent, blocks go.
const HIGH: u64 = 80;
/// Until no more than this share is left.
const LOW: u64 = 70;
/// The file system is looked at once for so many bytes.
const LOOK_EVERY: u64 = 8 << 20;

/// What lies in `blk`, as far as it is known. Before [`Cache::scan`] that is only what we put there.
#[derive(Debug)]
pub(super) struct CacheInventory {
    max: Option<u64>,
    pub(super) used: u64,
    clock: i64,
    blocks: HashMap<BlockName, (i64, u64)>,
    // By last use: seconds before 0 for what a scan found, 1, 2, 3, ... for what we used.
    ages: BTreeMap<(i64, BlockName), ()>,
    protected: HashSet<BlockName>,
    unlooked: u64,
    /// Whether it is known what lay there before.
    scanned: bool,
}

impl CacheInventory {
    pub(super) fn new(max: Option<u64>) -> Self {
        CacheInventory {
            max,
            used: 0,
            clock: 0,
            blocks: HashMap::new(),
            ages: BTreeMap::new(),
            protected: HashSet::new(),
            unlooked: LOOK_EVERY,
            scanned: false,
        }
    }

    pub(super) fn used(&mut self, name: BlockName, len: u64) {
        self.clock += 1;
        self.put(name, self.clock, len);
    }

    fn put(&mut self, name: BlockName, age: i64, len: u64) {
        self.removed(name);
        self.blocks.insert(name, (age, len));
        self.ages.insert((age, name), ());
        self.used += len;
    }

    pub(super) fn removed(&mut self, name: BlockName) {
        if let Some((age, len)) = self.blocks.remove(&name) {
            self.ages.remove(&(age, name));
            self.used -= len;
        }
    }

    /// What to remove so that `excess` bytes come free.
    pub(super) fn victims(&self, excess: u64) -> Vec<BlockName> {
        let oldest = || self.ages.keys().map(|&(_, name)| name);
        let order = oldest()
            .filter(|name| !self.protected.contains(name))
            .chain(oldest().filter(|name| self.protected.contains(name)));
        let mut freed = 0;
        let enough = |name: &BlockName| {
            let before = freed;
            freed += self.blocks.get(name).map_or(0, |&(_, len)| len);
            before < excess
        };
        order.take_while(enough).collect()
    }
}

impl Cache {
    /// Counts what earlier runs left. May take a while on a slow disk; the cache works meanwhile.
    pub fn scan(&self) {
        self.protect(self.pins());
        let now = system::clock::now().0;
        for first in 0..=255_u8 {
            let dir = format!("blk/{first:02x}");
            let Ok(entries) = self.dir.names(&dir) else { continue };
            for entry in entries {
                let name = entry.to_str().and_then(|text| text.parse::<BlockName>().ok());
                let found = self.dir.regular(Path::new(&dir).join(&entry));
                let (Some(name), Some(found)) = (name, found) else { continue };
                let age = now.saturating_sub(found.st_mtime.max(0).cast_unsigned());
                let mut inventory = self.inventory();
                if !inventory.blocks.contains_key(&name) {
                    let len = found.st_size.max(0).cast_unsigned();
                    inventory.put(name, -i64::try_from(age).unwrap_or(i64::MAX), len);
                }
            }
        }
        self.inventory().scanned = true;
    }

    /// These go last: a boot reads them.
    pub fn protect(&self, names: impl IntoIterator<Item = BlockName>) {
        self.inventory().protected.extend(names);
    }

    /// Blocks and bytes in it, as far as they are counted.
    pub fn contents(&self) -> (usize, u64) {
        let inventory = self.inventory();
        (inventory.blocks.len(), inventory.used)
    }

    /// Whether there is no room for blocks, though none of ours could make any.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Makes room for `len` bytes if there is not enough; whether there is now.
    pub(super) fn make_room(&self, len: u64) -> bool {
        let (victims, fits, scanned) = {
            let mut inventory = self.inventory();
            let allowed = inventory.max.map(|max| (inventory.used, max));
            let mut fits = allowed.is_none_or(|(used, max)| used + len <= max / 100 * HIGH);
            let mut excess = allowed.filter(|_| !fits).map(|(used, max)| above(used + len, max));
            inventory.unlooked += len;
            if inventory.unlooked >= LOOK_EVERY {
                inventory.unlooked = 0;
                if let Some((used, total)) = occupied(self.root())
                    && used + len > total / 100 * HIGH
                {
                    fits = false;
                    excess = excess.max(Some(above(used + len, total)));
                    // Look again at once: others may have filled it.
                    inventory.unlooked = LOOK_EVERY;
                }
            }
            (excess.map(|excess| inventory.victims(excess)).unwrap_or_default(), fits, inventory.scanned)
        };
        let mut freed = false;
        for name in victims {
            self.remove(name);
            freed = true;
        }
        if !fits && !freed && scanned && !self.full.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{}: other files fill more than {HIGH} % of the file system; no more blocks are stored until there is space",
                self.root().display()
            );
        } else if fits {
            self.full.store(false, Ordering::Relaxed);
        }
        fits || freed
    }
}

/// Bytes to go until the lower mark.
fn above(used: u64, total: u64) -> u64 {
    used.saturating_sub(total / 100 * LOW)
}

/// Bytes used, and bytes that can be used in all, as `df` has them: what is reserved counts for neither. `None` when
/// the file system does not say.
fn occupied(path: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(path).ok()?;
    let used = found.f_blocks.saturating_sub(found.f_bfree).saturating_mul(found.f_frsize);
    let total = used.saturating_add(found.f_bavail.saturating_mul(found.f_frsize));
    (total > 0).then_some((used, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u8) -> BlockName {
        BlockName([n; 16])
    }

    #[test]
    fn the_longest_unused_go_first_and_the_boot_last() {
        let mut inventory = CacheInventory::new(Some(100));
        for n in 1..=5 {
            inventory.used(name(n), 10);
        }
        inventory.used(name(1), 10);
        inventory.put(name(9), -1000, 10);
        assert_eq!(inventory.used, 60);
        assert_eq!(inventory.victims(25), [9, 2, 3].map(name));
        inventory.protected.extend([name(2), name(9)]);
        assert_eq!(inventory.victims(41), [3, 4, 5, 1, 9].map(name));
        assert_eq!(inventory.victims(0), []);
        inventory.removed(name(3));
        inventory.removed(name(3));
        assert_eq!(inventory.used, 50);
    }
}
