//! What will be read next, guessed from what is read: blocks that follow on the disk. A file system lays a file
//! out in one piece where it can, and the files of one package beside each other.
//!
//! A read that goes on where an earlier one ended doubles how far is looked ahead. A read in a new place looks
//! ahead only a little, and not at all once most such guesses have proved wrong.
//!
//! Where a block takes long to come and the line could carry others meanwhile, its neighbours are asked for with
//! it. Of 304 blocks that a boot of the demo's host reads, 138 are missed when the next two are fetched with each,
//! 73 when the next four and the two before are, for 1.4 times the bytes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;

/// Places that are read from at the same time.
const STREAMS: usize = 16;
/// Blocks ahead in a new place, and at most: 4 MiB of blocks of 256 KiB.
const FIRST: u32 = 2;
const MOST: u32 = 16;
/// Neighbours that are asked for at most, beyond a block; half as many before it.
const NEIGHBOURS: u32 = 4;
/// Blocks that are remembered as read or guessed.
const SEEN: usize = 1 << 16;
/// Guesses that are waited for; older ones count as wrong.
const PENDING: usize = 256;
/// Not judged before so many guesses: the first reads of a boot are all over the disk.
const ENOUGH: u32 = 128;

/// The guesser. Blocks are numbers on the disk.
#[derive(Debug, Default)]
pub struct Ahead {
    /// The last used at the end.
    streams: VecDeque<Stream>,
    /// Guesses not yet read, with their age.
    pending: HashMap<u32, u64>,
    order: VecDeque<(u32, u64)>,
    count: u64,
    /// Read or guessed before.
    seen: HashSet<u32>,
    /// Guesses made in new places, and those of them that were read, both halved now and then.
    made: u32,
    right: u32,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// What was read last.
    at: u32,
    /// Guessed up to here, exclusive.
    end: u32,
    window: u32,
}

impl Ahead {
    /// Blocks `first` to `last` are read: what to fetch ahead, nothing that was guessed before. `free`: blocks that
    /// the line carries in the time in which one is waited for.
    pub fn read(&mut self, first: u32, last: u32, free: u32) -> Vec<u32> {
        if self.seen.len() > SEEN {
            self.seen.clear();
        }
        let mut guess: Vec<u32> = self.follow(first, last).collect();
        let reach = (free / 2).min(NEIGHBOURS);
        if reach > 1 && !self.is_mostly_wrong() {
            let next = last.saturating_add(1);
            guess.extend(next..next.saturating_add(reach));
            guess.extend((first.saturating_sub(reach / 2)..first).rev());
        }
        self.seen.extend(first..=last.min(first.saturating_add(MOST)));
        guess.retain(|&block| self.seen.insert(block));
        self.guessed(&guess);
        guess
    }

    fn is_mostly_wrong(&self) -> bool {
        self.made >= ENOUGH && self.right * 4 < self.made
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
        let mut stream = self.streams.remove(found).unwrap_or(Stream { at: last, end: last, window: FIRST });
        if last > stream.at {
            stream.window = (stream.window.max(1) * 2).min(MOST);
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
        let window = if self.is_mostly_wrong() { 0 } else { FIRST };
        let from = last.saturating_add(1);
        let guess = from..from.saturating_add(window);
        self.streams.push_back(Stream { at: last, end: guess.end, window });
        guess
    }

    fn guessed(&mut self, guess: &[u32]) {
        for &block in guess {
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
        let mut ahead = Ahead::default();
        let guesses: Vec<_> = (10..40).map(|block| ahead.read(block, block, 0)).collect();
        assert_eq!(guesses[..3], [vec![11, 12], vec![13, 14, 15], vec![16, 17, 18, 19, 20]]);
        // All of them once, in order, never more than 4 MiB ahead.
        let mut next = 11;
        for (at, guess) in (10..).zip(&guesses) {
            for &block in guess {
                assert_eq!(block, next, "{guesses:?}");
                next += 1;
            }
            assert!(next <= at + 1 + MOST, "{at}: {guess:?}");
        }
        assert!(next > 45, "{guesses:?}");
        // The same place again says nothing new.
        assert!(ahead.read(39, 39, 0).is_empty());
    }

    #[test]
    fn two_files_at_once_are_two_streams_and_wrong_guesses_end() {
        let mut ahead = Ahead::default();
        for step in 0..4 {
            for start in [100, 900] {
                assert!(!ahead.read(start + step, start + step, 0).is_empty() || step > 1);
            }
        }
        let mut ahead = Ahead::default();
        let guessed: u32 = (0..200).map(|n| ahead.read(n * 100, n * 100, 0).len() as u32).sum();
        assert!(guessed < 2 * ENOUGH, "{guessed}");
        // What does follow is noticed all the same.
        assert!(ahead.read(20_000, 20_000, 0).is_empty());
        assert!(!ahead.read(20_001, 20_001, 0).is_empty());
    }

    #[test]
    fn neighbours_come_along_while_the_line_has_room_and_they_are_read() {
        let mut ahead = Ahead::default();
        assert_eq!(ahead.read(100, 100, 3), [101, 102]);
        assert_eq!(ahead.read(200, 200, 8), [201, 202, 203, 204, 199, 198]);
        assert_eq!(ahead.read(199, 199, 8), [197], "the rest was guessed before");
        let guessed: usize = (10..200).map(|n| ahead.read(n * 100, n * 100, 20).len()).sum();
        assert!(guessed < 3 * ENOUGH as usize, "{guessed}");
    }
}
