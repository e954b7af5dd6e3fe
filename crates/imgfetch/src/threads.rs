//! Threads and what goes between them. Nothing that std does not have, but far smaller where it counts: std makes
//! its code anew for each kind of thread and message, and the client has a dozen.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{fmt, io};

/// Starts a thread that nobody waits for.
///
/// # Errors
/// When the system has no more threads.
pub fn start(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    boxed(name, Box::new(run))
}

fn boxed(name: &str, run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

/// Things on the way from some threads to others.
pub struct Queue<T> {
    inside: Mutex<Inside<T>>,
    changed: Condvar,
}

struct Inside<T> {
    waiting: VecDeque<T>,
    closed: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let inside = Mutex::new(Inside { waiting: VecDeque::new(), closed: false });
        Queue { inside, changed: Condvar::new() }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queue")
    }
}

impl<T> Queue<T> {
    fn inside(&self) -> MutexGuard<'_, Inside<T>> {
        // Whole after every statement.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something in, for one of those who wait. Into a closed queue it goes for nothing.
    pub fn put(&self, thing: T) {
        let mut inside = self.inside();
        if !inside.closed {
            inside.waiting.push_back(thing);
        }
        drop(inside);
        self.changed.notify_one();
    }

    /// Nothing more comes: whoever waits is let go, and what waits is dropped.
    pub fn close(&self) {
        let mut inside = self.inside();
        inside.closed = true;
        inside.waiting.clear();
        drop(inside);
        self.changed.notify_all();
    }

    /// The next thing; waits for it. `None` when the queue is closed.
    pub fn take(&self) -> Option<T> {
        let mut inside = self.inside();
        loop {
            if inside.closed {
                return None;
            }
            match inside.waiting.pop_front() {
                None => inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner),
                thing => return thing,
            }
        }
    }

    /// The next thing, if it comes by then.
    pub fn take_until(&self, until: Instant) -> Option<T> {
        let mut inside = self.inside();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match inside.waiting.pop_front() {
                None if left > Duration::ZERO && !inside.closed => {
                    let waited = self.changed.wait_timeout(inside, left);
                    inside = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                thing => return thing,
            }
        }
    }
}

/// What a thread is working out: taken once.
pub type Coming<T> = Arc<Queue<Option<T>>>;

/// Has a thread work something out. Where there is none to be had, nothing comes.
pub fn work_out<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> Option<T> + Send + 'static,
) -> Coming<T> {
    let coming = Coming::default();
    let there = Arc::clone(&coming);
    if let Err(error) = start(name, move || there.put(run())) {
        detail!("{name}: {error}");
        coming.put(None);
    }
    coming
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_come_in_order_once_and_whoever_waits_is_let_go() {
        let queue = Arc::new(Queue::default());
        (0..10).for_each(|n| queue.put(n));
        assert_eq!(
            [queue.take(), queue.take(), queue.take_until(Instant::now())],
            [Some(0), Some(1), Some(2)]
        );
        let start_of_wait = Instant::now();
        let empty = Queue::<u8>::default();
        assert_eq!(empty.take_until(start_of_wait + Duration::from_millis(20)), None);
        assert!(start_of_wait.elapsed() >= Duration::from_millis(20));
        let other = Arc::clone(&queue);
        let taker = thread::spawn(move || std::iter::from_fn(|| other.take()).count());
        while !queue.inside().waiting.is_empty() {
            thread::yield_now();
        }
        queue.close();
        queue.put(11);
        assert_eq!(taker.join().unwrap(), 7);
        assert_eq!(queue.take(), None);
        assert_eq!(work_out("x", || Some(5)).take().flatten(), Some(5));
    }
}
