//! First reads of blocks, from which a prefetch list is made.

use std::collections::HashMap;

use crate::scheduler::{ObjectId, Time};

/// Reads of blocks, in the order of their first: when that was, and how many.
#[derive(Debug, Default)]
pub(super) struct RecordedReads {
    pub(super) reads: Vec<(ObjectId, Time, u32)>,
    places: HashMap<ObjectId, usize>,
}

impl RecordedReads {
    pub(super) fn add(&mut self, now: Time, id: ObjectId) {
        let next = self.reads.len();
        let place = *self.places.entry(id).or_insert(next);
        match self.reads.get_mut(place) {
            Some(read) => read.2 += 1,
            None => self.reads.push((id, now, 1)),
        }
    }
}
