//! What will be read next, guessed from what is read: blocks that follow on the disk. A file system lays a file
//! out in one piece where it can, and the files of one package beside each other.
//!
//! A read that goes on where an earlier one ended doubles how far is looked ahead. A read in a new place looks
//! ahead only a little, and not at all once most such guesses have proved wrong.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

/// Places that are read from at the same time.
const STREAMS: usize = 16;
/// Blocks ahead in a new place, and at most: 4 MiB of blocks of 256 KiB.
const FIRST: u32 = 2;
const MOST: u32 = 16;
/// Guesses that are waited for; older ones count as wrong.
const PENDING: usize = 256;
/// Not judged before so many guesses.
const ENOUGH: u32 = 32;

/// The guesser. Blocks are numbers on the disk.
#[derive(Debug, Default)]
pub struct Ahead {
    /// The last used at the end.
    streams: VecDeque<Stream>,
    /// Guesses not yet read, with their age.
    pending: HashMap<u32, u64>,
    order: VecDeque<(u32, u64)>,
    count: u64,
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
    /// Blocks `first` to `last` are read: what to fetch ahead. Empty when it was guessed before.
    pub fn read(&mut self, first: u32, last: u32) -> Range<u32> {
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
        self.guessed(guess.clone());
        guess
    }

    fn begin(&mut self, last: u32) -> Range<u32> {
        if self.streams.len() == STREAMS {
            self.streams.pop_front();
        }
        let window = if self.made >= ENOUGH && self.right * 4 < self.made { 0 } else { FIRST };
        let from = last.saturating_add(1);
        let guess = from..from.saturating_add(window);
        self.streams.push_back(Stream { at: last, end: guess.end, window });
        self.guessed(guess.clone());
        guess
    }

    fn guessed(&mut self, guess: Range<u32>) {
        for block in guess {
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
        let guesses: Vec<_> = (10..40).map(|block| ahead.read(block, block)).collect();
        assert_eq!(guesses[0], 11..13);
        assert_eq!(guesses[1], 13..16);
        assert_eq!(guesses[2], 16..21);
        // All of them once, in order, never more than 4 MiB ahead.
        let mut next = 11;
        for (at, guess) in (10..).zip(&guesses) {
            if !guess.is_empty() {
                assert_eq!(guess.start, next, "{guesses:?}");
                next = guess.end;
            }
            assert!(guess.end <= at + 1 + MOST, "{at}: {guess:?}");
        }
        assert!(next > 45, "{guesses:?}");
        // The same place again says nothing new.
        assert!(ahead.read(39, 39).is_empty());
    }

    #[test]
    fn two_files_at_once_are_two_streams_and_wrong_guesses_end() {
        let mut ahead = Ahead::default();
        for step in 0..4 {
            for start in [100, 900] {
                assert!(!ahead.read(start + step, start + step).is_empty() || step > 1);
            }
        }
        let mut ahead = Ahead::default();
        let guessed: u32 = (0..200).map(|n| ahead.read(n * 100, n * 100).len() as u32).sum();
        assert!(guessed < 2 * ENOUGH, "{guessed}");
        // What does follow is noticed all the same.
        assert!(ahead.read(20_000, 20_000).is_empty());
        assert!(!ahead.read(20_001, 20_001).is_empty());
    }
}
