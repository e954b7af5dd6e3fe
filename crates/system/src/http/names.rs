//! Addresses of hosts. Resolvers give up on a silent name server after five seconds and then ask the next one, so an
//! answer may well come after whoever asked has stopped waiting: it is kept for whoever asks again.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Addresses that are older than this are still used, and looked up again meanwhile.
const FRESH: Duration = Duration::from_secs(30);
/// As many as ureq tries.
const MOST: usize = 16;

type Lookup = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// Looks up addresses, each in a thread of its own.
#[derive(Clone, Debug)]
pub(super) struct KeepingResolver {
    lookup: Lookup,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    hosts: Mutex<HashMap<String, Host>>,
    answered: Condvar,
}

/// What is known of `HOST:PORT`.
#[derive(Debug, Default)]
struct Host {
    running: bool,
    known: Option<(Instant, Vec<SocketAddr>)>,
    /// Failures are not kept longer than for those who wait: how many there were, and the last one.
    failures: u64,
    error: Option<(io::ErrorKind, String)>,
}

impl Default for KeepingResolver {
    fn default() -> Self {
        KeepingResolver {
            lookup: |host| host.to_socket_addrs().map(Iterator::collect),
            shared: Arc::default(),
        }
    }
}

impl KeepingResolver {
    /// The addresses of `HOST:PORT`, in the system's order; `None` when none came within `patience`.
    fn addresses(&self, host: &str, patience: Duration) -> Option<io::Result<Vec<SocketAddr>>> {
        let until = Instant::now().checked_add(patience);
        let mut hosts = self.shared.lock();
        let before = hosts.entry(host.to_owned()).or_default().failures;
        loop {
            let entry = hosts.entry(host.to_owned()).or_default();
            let fresh = entry.known.as_ref().is_some_and(|(at, _)| at.elapsed() < FRESH);
            if !fresh && !entry.running && entry.failures == before {
                entry.running = true;
                self.begin(host.to_owned());
            }
            if let Some((_, addresses)) = &entry.known {
                return Some(Ok(addresses.clone()));
            }
            if entry.failures != before {
                let (kind, text) = entry.error.clone().unwrap_or((io::ErrorKind::NotFound, String::new()));
                return Some(Err(io::Error::new(kind, text)));
            }
            let left = match until {
                Some(until) => until.saturating_duration_since(Instant::now()),
                None => FRESH,
            };
            if left.is_zero() {
                return None;
            }
            let woken = self.shared.answered.wait_timeout(hosts, left);
            hosts = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn begin(&self, host: String) {
        let KeepingResolver { lookup, shared } = self.clone();
        thread::spawn(move || {
            let found = lookup(&host).and_then(|found| match found.is_empty() {
                true => Err(io::ErrorKind::NotFound.into()),
                false => Ok(found),
            });
            let mut hosts = shared.lock();
            let entry = hosts.entry(host).or_default();
            entry.running = false;
            match found {
                Ok(addresses) => entry.known = Some((Instant::now(), addresses)),
                // What was known may be right still: the name server is away, not the host.
                Err(error) => {
                    entry.failures += 1;
                    entry.error = Some((error.kind(), error.to_string()));
                }
            }
            shared.answered.notify_all();
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolver for KeepingResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let scheme = uri.scheme().ok_or(Error::HostNotFound)?;
        let authority = uri.authority().ok_or(Error::HostNotFound)?;
        let host = DefaultResolver::host_and_port(scheme, authority).ok_or(Error::HostNotFound)?;
        let found = match host.parse::<SocketAddr>() {
            Ok(address) => vec![address],
            Err(_) => match self.addresses(&host, *timeout.after) {
                Some(found) => found?,
                None => return Err(Error::Timeout(timeout.reason)),
            },
        };
        let mut addresses = self.empty();
        let family = config.ip_family();
        family.keep_wanted(found.into_iter()).take(MOST).for_each(|address| addresses.push(address));
        if addresses.is_empty() { Err(Error::HostNotFound) } else { Ok(addresses) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const MS: Duration = Duration::from_millis(1);

    fn resolver(lookup: Lookup) -> KeepingResolver {
        KeepingResolver { lookup, ..KeepingResolver::default() }
    }

    /// As with a name server that is dead, when the next one is asked after the first one's time.
    #[test]
    fn an_answer_that_comes_late_is_there_for_the_next_request() {
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        let resolver = resolver(|_| {
            LOOKUPS.fetch_add(1, Ordering::Relaxed);
            thread::sleep(200 * MS);
            Ok(vec!["192.0.2.1:80".parse().unwrap()])
        });
        assert!(resolver.addresses("mirror.example:80", 20 * MS).is_none());
        assert!(resolver.addresses("mirror.example:80", 20 * MS).is_none());
        let found = resolver.addresses("mirror.example:80", 10_000 * MS).unwrap().unwrap();
        assert_eq!(found, ["192.0.2.1:80".parse().unwrap()]);
        assert!(resolver.addresses("mirror.example:80", MS).unwrap().is_ok());
        assert_eq!(LOOKUPS.load(Ordering::Relaxed), 1, "one lookup for all who wait");
    }

    #[test]
    fn a_failure_is_told_to_those_who_wait_and_tried_again_by_the_next() {
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        let resolver = resolver(|_| match LOOKUPS.fetch_add(1, Ordering::Relaxed) {
            0 => Err(io::Error::other("no answer")),
            _ => Ok(vec!["192.0.2.1:80".parse().unwrap()]),
        });
        let error = resolver.addresses("mirror.example:80", 10_000 * MS).unwrap().unwrap_err();
        assert_eq!(error.to_string(), "no answer");
        assert!(resolver.addresses("mirror.example:80", 10_000 * MS).unwrap().is_ok());
    }
}
