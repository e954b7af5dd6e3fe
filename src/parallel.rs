//! Work that can be cut into numbered parts, on several threads. Formats use it too: it touches nothing but cores.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// As many threads as there are cores.
pub fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Does the parts from 0 to `count`, the first ones first, and gives what they gave, in their order. `room` makes what
/// a thread works with, once for each.
///
/// # Errors
/// That of the first part that failed, of those that were done; no part is begun after a failure.
pub fn each<W, R: Send, E: Send>(
    count: usize,
    threads: NonZeroUsize,
    room: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, usize) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let next = AtomicUsize::new(0);
    let run = || {
        let (mut room, mut done, mut failure) = (room(), Vec::new(), None);
        while failure.is_none() {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= count {
                break;
            }
            match work(&mut room, part) {
                Ok(result) => done.push((part, result)),
                Err(error) => {
                    // Others find no more parts.
                    next.store(count, Ordering::Relaxed);
                    failure = Some((part, error));
                }
            }
        }
        (done, failure)
    };
    let (mut done, failures) = thread::scope(|scope| {
        let others: Vec<_> = (1..threads.get().min(count)).map(|_| scope.spawn(run)).collect();
        let (mut done, failure) = run();
        let mut failures = Vec::from_iter(failure);
        for other in others {
            let (more, failure) = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            done.extend(more);
            failures.extend(failure);
        }
        (done, failures)
    });
    if let Some((_, error)) = failures.into_iter().min_by_key(|(part, _)| *part) {
        return Err(error);
    }
    done.sort_unstable_by_key(|(part, _)| *part);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_a_failure_ends_all() {
        for threads in [1, 2, 7, 200] {
            let threads = NonZeroUsize::new(threads).unwrap();
            let squares = each(100, threads, || 0, |_, part| Ok::<_, ()>(part * part));
            assert_eq!(squares.unwrap(), (0..100).map(|part| part * part).collect::<Vec<_>>());
            let begun = AtomicUsize::new(0);
            let failed = each(
                1_000_000,
                threads,
                || (),
                |(), part| {
                    begun.fetch_add(1, Ordering::Relaxed);
                    if part == 5 { Err("five") } else { Ok(()) }
                },
            );
            assert_eq!(failed, Err("five"));
            assert!(begun.into_inner() < 1_000_000);
        }
        assert_eq!(each(0, NonZeroUsize::MIN, || (), |(), _| Ok::<(), ()>(())), Ok(vec![]));
    }

    #[test]
    fn each_thread_has_room_of_its_own() {
        let counted = each(
            50,
            NonZeroUsize::new(3).unwrap(),
            || 0,
            |had, _| {
                *had += 1;
                Ok::<_, ()>(*had)
            },
        );
        assert!((1..=3).contains(&counted.unwrap().into_iter().filter(|had| *had == 1).count()));
    }
}
