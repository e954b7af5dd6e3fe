//! Random numbers of the system, for what has to differ between machines. Keys are made by other means.

/// A random number; the same one each time where the system gives none.
pub fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers only the times of requests are less spread.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    u64::from_le_bytes(bytes)
}
