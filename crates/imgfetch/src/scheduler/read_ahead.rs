//! What will be read next, guessed from what is read: blocks that follow on the disk. A file system lays a file
//! out in one piece where it can, and the files of one package beside each other.
//!
//! A read that goes on where an earlier one ended doubles how far is looked ahead.
//!
//! A read in a new place says less. Where a block takes long to come and the line could carry others meanwhile, its
//! neighbours are asked for with it: the rest of the aligned group that it stands in, the larger the more the line
//! carries. Of 410 blocks that a boot of the demo's host reads, 150 are missed with groups of four and 100 with groups
//! of eight, for 1.5 and 2.0 times the bytes. Where a mirror is near, a block costs more than the wait for it, and
//! nothing is guessed; nor is it once such guesses have proved to cost more than they save.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;

/// Places that are read from at the same time.
const STREAMS: usize = 16;
/// Blocks ahead at most: 4 MiB of blocks of 256 KiB.
const MOST: u32 = 16;
/// Blocks that are remembered as read or guessed.
const SEEN: usize = 1 << 16;
/// Guesses that are waited for; older ones count as wrong.
const PENDING: usize = 256;
/// Not judged before so many guesses: the first reads of a boot are all over the disk.
const ENOUGH: u32 = 128;

/// How many blocks, this one among them, come along with one in a new place while the line carries so many.
fn group(free: u32) -> u32 {
    match free {
        0 => 1,
        1 | 2 => 4,
        _ => 8,
    }
}

/// The guesser. Blocks are numbers on the disk.
#[derive(Debug, Default)]
pub struct ReadAhead {
    /// The last used at the end.
    streams: VecDeque<Stream>,
    /// Neighbours not yet read, with their age.
    pending: HashMap<u32, u64>,
    order: VecDeque<(u32, u64)>,
    count: u64,
    /// Read or guessed before: no neighbours any more.
    seen: HashSet<u32>,
    /// Neighbours that were guessed, and those of them that were read, both halved now and then.
    made: u32,
    right: u32,
}

/// What may be read next.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReadAheadGuess {
    /// Where somebody reads on: likely, and soon.
    pub next: Vec<u32>,
    /// Near what is read in a new place.
    pub near: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// What was read last.
    at: u32,
    /// Guessed up to here, exclusive.
    end: u32,
    window: u32,
}

impl ReadAhead {
    /// Blocks `first` to `last` are read: what to get ahead of need; of neighbours none that was read or guessed before.
    /// `free`: blocks that the line carries in the time in which one is waited for.
    pub fn read(&mut self, first: u32, last: u32, free: u32) -> ReadAheadGuess {
        if self.seen.len() > SEEN {
            self.seen.clear();
        }
        let next: Vec<u32> = self.follow(first, last).collect();
        self.seen.extend(first..=last.min(first.saturating_add(MOST)));
        self.seen.extend(&next);
        let group = if self.is_worth_it(free) { group(free) } else { 1 };
        let from = first - first % group;
        let neighbours = from..from.saturating_add(group);
        // The nearest first.
        let outwards = (0..group).flat_map(|far| [first.checked_add(far), first.checked_sub(far)]).flatten();
        let near: Vec<u32> =
            outwards.filter(|block| neighbours.contains(block) && self.seen.insert(*block)).collect();
        self.guessed(&near);
        ReadAheadGuess { next, near }
    }

    /// A neighbour that is right saves a wait, in which the line carries `free` blocks; one that is wrong takes the place
    /// of one of them. More than three wrong ones for a right one are a waste on any line.
    fn is_worth_it(&self, free: u32) -> bool {
        self.made < ENOUGH || self.right * (free.min(3) + 1) >= self.made
    }

    fn follow(&mut self, first: u32, last: u32) -> Range<u32> {
        for block in first..=last.min(first.saturating_add(MOST)) {
            if self.pending.remove(&block).is_some() {
                self.right += 1;
            }
        }
        let goes_on = |stream: &Stream| (stream.at..=stream.end).contains(&first);
        let Some(found) = self.streams.iter().position(goes_on) else {
            return self.begin(last);
        };
        let mut stream = self.streams.remove(found).unwrap_or(Stream { at: last, end: last, window: 0 });
        if last > stream.at {
            stream.window = (stream.window * 2).clamp(1, MOST);
            stream.at = last;
        }
        let from = stream.end.max(last.saturating_add(1));
        let to = stream.at.saturating_add(1).saturating_add(stream.window);
        // Half a window at a time: not a request for each block.
        let guess = if to.saturating_sub(from) * 2 > stream.window { from..to } else { from..from };
        stream.end = stream.end.max(guess.end);
        self.streams.push_back(stream);
        guess
    }

    fn begin(&mut self, last: u32) -> Range<u32> {
        if self.streams.len() == STREAMS {
            self.streams.pop_front();
        }
        let next = last.saturating_add(1);
        self.streams.push_back(Stream { at: last, end: next, window: 0 });
        next..next
    }

    fn guessed(&mut self, near: &[u32]) {
        for &block in near {
            self.count += 1;
            self.made += 1;
            self.pending.insert(block, self.count);
            self.order.push_back((block, self.count));
        }
        while self.order.len() > PENDING {
            if let Some((block, age)) = self.order.pop_front()
                && self.pending.get(&block) == Some(&age)
            {
                self.pending.remove(&block);
            }
        }
        if self.made >= 8 * ENOUGH {
            self.made /= 2;
            self.right /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_read_through_is_fetched_further_and_further_ahead() {
        let mut ahead = ReadAhead::default();
        let guesses: Vec<_> = (10..40).map(|block| ahead.read(block, block, 0).next).collect();
        assert_eq!(guesses[..4], [vec![], vec![12], vec![13, 14], vec![15, 16, 17]]);
        // All of them once, in order, never more than 4 MiB ahead.
        let mut next = 12;
        for (at, guess) in (10..).zip(&guesses) {
            for &block in guess {
                assert_eq!(block, next, "{guesses:?}");
                next += 1;
            }
            assert!(next <= at + 2 + MOST, "{at}: {guess:?}");
        }
        assert!(next > 45, "{guesses:?}");
        // The same place again says nothing new.
        assert_eq!(ahead.read(39, 39, 0), ReadAheadGuess::default());
        // To read it all again is to go on again: what is still there, others know.
        let again: Vec<_> = (10..40).map(|block| ahead.read(block, block, 0).next).collect();
        assert_eq!(again, guesses);
    }

    #[test]
    fn two_files_at_once_are_two_streams_and_new_places_near_by_are_none() {
        let mut ahead = ReadAhead::default();
        for step in 0..4 {
            for start in [100, 900] {
                let guess = ahead.read(start + step, start + step, 0);
                assert_eq!(guess == ReadAheadGuess::default(), step == 0, "{start} {step}: {guess:?}");
            }
        }
        let mut ahead = ReadAhead::default();
        assert!((0..200).all(|n| ahead.read(n * 100, n * 100, 0) == ReadAheadGuess::default()));
    }

    #[test]
    fn neighbours_come_along_while_the_line_has_room_and_they_are_read() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.read(101, 101, 2).near, [102, 100, 103]);
        assert_eq!(ahead.read(203, 203, 11).near, [204, 202, 205, 201, 206, 200, 207]);
        assert!(ahead.read(206, 206, 11).near.is_empty(), "they were guessed before");
        let guessed: usize = (10..200).map(|n| ahead.read(n * 100, n * 100, 20).near.len()).sum();
        assert!(guessed < 2 * ENOUGH as usize, "{guessed}");
        // For a line that carries one block meanwhile two of three right are enough, and one is not.
        for (read, enough) in [(&[0, 2, 3][..], true), (&[0, 2], false)] {
            let mut ahead = ReadAhead::default();
            let reads = (100..400).flat_map(|n| read.iter().map(move |step| n * 40 + step));
            let guessed: usize = reads.map(|block| ahead.read(block, block, 1).near.len()).sum();
            assert_eq!(guessed > 3 * ENOUGH as usize, enough, "{read:?}: {guessed}");
        }
        // What does follow is noticed all the same.
        assert_eq!(ahead.read(30_000, 30_000, 20), ReadAheadGuess::default());
        assert_eq!(ahead.read(30_001, 30_001, 20), ReadAheadGuess { next: vec![30_002], near: vec![] });
    }
}
