//! What benches have in common: bytes that compress about as a system's disk does, the same ones each time.

use std::sync::Arc;
use std::time::Duration;

/// A tenth zeros, the rest words of a small vocabulary with noise between them.
#[derive(Clone)]
pub struct Seeded {
    state: u64,
    words: Arc<Vec<Vec<u8>>>,
}

impl Seeded {
    pub fn new() -> Self {
        let mut seeded = Seeded { state: 0x9e37_79b9_7f4a_7c15, words: Arc::default() };
        let mut word = || {
            let bytes = [seeded.next().to_le_bytes(), seeded.next().to_le_bytes()].concat();
            bytes[..3 + seeded.next() as usize % 12].to_vec()
        };
        let words = (0..4096).map(|_| word()).collect();
        Seeded { words: Arc::new(words), ..seeded }
    }

    /// As this one, but other bytes for each number.
    pub fn nth(&self, number: u64) -> Self {
        Seeded { state: self.state ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15), ..self.clone() }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// The next bytes, so many.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut image = Vec::with_capacity(len + (1 << 20));
        while image.len() < len {
            if image.len() % (10 << 20) < 1 << 20 {
                image.resize(image.len() + (1 << 20), 0);
            }
            self.noise(&mut image, 1 << 16);
        }
        image.truncate(len);
        image
    }

    /// Words and noise, at least so many bytes, no zeros.
    pub fn noise(&mut self, image: &mut Vec<u8>, len: usize) {
        let end = image.len() + len;
        while image.len() < end {
            let word = self.next() as usize % self.words.len();
            image.extend_from_slice(&self.words[word]);
            if self.next().is_multiple_of(8) {
                let noise = self.next();
                image.extend_from_slice(&noise.to_le_bytes());
            }
        }
    }
}

/// CPU time of this process: what counts on a machine that does other things too.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().expect("no clock starts below 0"), time.tv_nsec as u32)
}
