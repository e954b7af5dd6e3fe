//! An allocator as unlike a first layout as can be: every block on its own, in an order by chance, inode
//! numbers by chance, directory entries shuffled and with gaps.

use imgfactory::ext2::blockmap::{Run, needed};
use imgfactory::ext2::dirent::{DOTS, DirentSlot, record_len};
use imgfactory::ext2::{Allocator, Body, Demand, PlaceError, Placement, Sequential};

pub struct Scattered {
    state: u64,
}

impl Scattered {
    pub fn new(seed: u64) -> Self {
        Scattered { state: seed | 1 }
    }

    /// Below `end`, which is not 0 (xorshift64*).
    fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }

    fn slots(&mut self, names: &[&[u8]]) -> Vec<Vec<DirentSlot>> {
        let mut entries: Vec<u32> = (0..).take(names.len()).collect();
        self.shuffle(&mut entries);
        let mut blocks = vec![vec![]];
        let mut offset = DOTS;
        for entry in entries {
            // An empty record needs 12 bytes.
            let gap = [0, 0, 0, 12, 16, 100][self.below(6)];
            let len = record_len(names[entry as usize]);
            if offset + gap + len > 4096 {
                blocks.push(vec![]);
                // Sometimes a block without any entry.
                if self.below(4) == 0 {
                    blocks.push(vec![]);
                }
                offset = gap;
            } else {
                offset += gap;
            }
            blocks.last_mut().unwrap().push(DirentSlot { offset, entry });
            offset += len;
        }
        blocks
    }
}

impl Allocator for Scattered {
    fn place(&mut self, demand: &Demand<'_>) -> Result<Placement, PlaceError> {
        // Gaps and empty blocks make directories larger than the sequential layout counts: a third more, and
        // something for small ones.
        let mut roomy = demand.clone();
        let entries: usize = demand
            .wanted
            .iter()
            .map(|wanted| match &wanted.body {
                Body::Directory { entries, .. } => entries.len() / 10 + 2,
                _ => 0,
            })
            .sum();
        roomy.options.free += entries as u64 * 4096;
        let mut placement = Sequential::default().place(&roomy)?;

        let geometry = placement.geometry;
        let mut free = vec![];
        let mut at = 0;
        while let Some((start, count)) = geometry.data_from(at) {
            free.extend(start..start + count);
            at = start + count;
        }
        self.shuffle(&mut free);
        let mut numbers: Vec<u32> = (11..=geometry.inodes()).collect();
        self.shuffle(&mut numbers);
        let mut take = || free.pop().expect("room for gaps was counted");
        for block in &mut placement.xattr_blocks {
            *block = take();
        }
        for (position, (placed, wanted)) in placement.inodes.iter_mut().zip(&demand.wanted).enumerate() {
            if position > 0 {
                placed.ino = numbers.pop().unwrap();
            }
            let runs = match &wanted.body {
                Body::None => vec![],
                Body::Blocks(runs) => runs.clone(),
                Body::Directory { entries, blocks } => {
                    let names: Vec<&[u8]> = entries.iter().map(|entry| entry.name).collect();
                    placed.slots = self.slots(&names);
                    placed.slots.resize(placed.slots.len().max(*blocks as usize), vec![]);
                    vec![0..u32::try_from(placed.slots.len()).unwrap()]
                }
            };
            placed.indirect = needed(&runs).iter().map(|_| take()).collect();
            placed.data = runs
                .into_iter()
                .flatten()
                .map(|logical| Run { logical, physical: take(), count: 1 })
                .collect();
        }
        Ok(placement)
    }
}
