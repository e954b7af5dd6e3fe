//! Blocks in RAM, the least recently used one goes first.

use std::collections::{BTreeMap, HashMap};

use super::ObjectId;

/// Blocks of any kind, up to a number of bytes.
#[derive(Debug)]
pub struct Ram<B> {
    limit: usize,
    used: usize,
    clock: u64,
    blocks: HashMap<ObjectId, Slot<B>>,
    // By last use; one entry for each block.
    ages: BTreeMap<u64, ObjectId>,
}

#[derive(Debug)]
struct Slot<B> {
    age: u64,
    len: usize,
    block: B,
}

impl<B: Clone> Ram<B> {
    /// Room for `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Ram { limit, used: 0, clock: 0, blocks: HashMap::new(), ages: BTreeMap::new() }
    }

    /// The block, if it is there; it is now the youngest.
    pub fn get(&mut self, id: ObjectId) -> Option<B> {
        let slot = self.blocks.get_mut(&id)?;
        self.ages.remove(&slot.age);
        self.clock += 1;
        slot.age = self.clock;
        self.ages.insert(self.clock, id);
        Some(slot.block.clone())
    }

    /// Whether it is there; its age stays.
    pub fn contains(&self, id: ObjectId) -> bool {
        self.blocks.contains_key(&id)
    }

    /// Whether so many bytes drive nothing out.
    pub fn has_room(&self, len: usize) -> bool {
        self.used + len <= self.limit
    }

    /// Takes a block of `len` bytes in, and lets older ones go for it. One that is larger than all the room is
    /// not kept. Gives those that went.
    pub fn insert(&mut self, id: ObjectId, len: usize, block: B) -> Vec<ObjectId> {
        let mut gone = Vec::new();
        self.remove(id);
        if len > self.limit {
            gone.push(id);
            return gone;
        }
        while self.used > self.limit - len {
            let Some((_, oldest)) = self.ages.pop_first() else { break };
            if let Some(slot) = self.blocks.remove(&oldest) {
                self.used -= slot.len;
                gone.push(oldest);
            }
        }
        self.clock += 1;
        self.used += len;
        self.ages.insert(self.clock, id);
        self.blocks.insert(id, Slot { age: self.clock, len, block });
        gone
    }

    fn remove(&mut self, id: ObjectId) {
        if let Some(slot) = self.blocks.remove(&id) {
            self.ages.remove(&slot.age);
            self.used -= slot.len;
        }
    }

    /// Bytes of blocks in the RAM cache.
    pub fn used(&self) -> usize {
        self.used
    }

    /// The RAM cache's limit in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first_and_the_limit_holds() {
        let mut ram = Ram::new(10);
        for (id, len) in [(1, 4), (2, 4)] {
            ram.insert(ObjectId(id), len, id);
        }
        assert_eq!(ram.get(ObjectId(1)), Some(1));
        ram.insert(ObjectId(3), 4, 3);
        assert_eq!([1, 2, 3].map(|id| ram.contains(ObjectId(id))), [true, false, true]);
        assert_eq!(ram.used(), 8);
        // The same block again does not count twice; one too large is not kept and drives nobody out.
        ram.insert(ObjectId(3), 5, 3);
        assert_eq!(ram.used(), 9);
        ram.insert(ObjectId(4), 11, 4);
        assert_eq!([1, 3, 4].map(|id| ram.contains(ObjectId(id))), [true, true, false]);
        ram.insert(ObjectId(5), 10, 5);
        assert_eq!((ram.used(), ram.contains(ObjectId(5))), (10, true));
    }
}
