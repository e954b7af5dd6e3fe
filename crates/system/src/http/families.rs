//! IPv4 or IPv6: which of a host's addresses lead anywhere. RFC 8305 in small: when a host has both, one connection of
//! each is tried, the second a quarter of a second after the first, and the family that wins is remembered.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ureq::unversioned::resolver::ResolvedSocketAddrs;

/// The second family begins so much later: RFC 8305, section 5.
const STAGGER: Duration = Duration::from_millis(250);
/// For so long the family that won is used without a race.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Which family won, by host and port.
#[derive(Debug, Default)]
pub(super) struct Families(Mutex<HashMap<String, (Instant, bool)>>);

impl Families {
    /// Puts the addresses first that lead somewhere; the order stays when nothing is known after `patience`.
    pub(super) fn sort(&self, host: &str, addresses: &mut ResolvedSocketAddrs, patience: Duration) {
        let first = |v4: bool| addresses.iter().find(|address| address.is_ipv4() == v4).copied();
        let (Some(v4), Some(v6)) = (first(true), first(false)) else { return };
        let v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
        let order = if v6_first { [v6, v4] } else { [v4, v6] };
        let Some(v4) = self.known(host).or_else(|| race(order, patience.min(REMEMBERED))) else { return };
        self.hosts().insert(host.to_owned(), (Instant::now(), v4));
        addresses.sort_by_key(|address| address.is_ipv4() != v4);
    }

    /// A connection failed: the next one is another race.
    pub(super) fn forget(&self, host: &str) {
        self.hosts().remove(host);
    }

    fn known(&self, host: &str) -> Option<bool> {
        let (at, v4) = *self.hosts().get(host)?;
        (at.elapsed() < REMEMBERED).then_some(v4)
    }

    fn hosts(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, bool)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the first connection is one of IPv4; `None` when there is none.
fn race(order: [SocketAddr; 2], patience: Duration) -> Option<bool> {
    let until = Instant::now() + patience;
    let (sender, connected) = mpsc::channel();
    let mut running = 0;
    for address in order {
        let sender = sender.clone();
        running += 1;
        thread::spawn(move || {
            let result = TcpStream::connect_timeout(&address, patience.max(STAGGER));
            // Nobody listens when the other one has won.
            let _ = sender.send(result.is_ok().then_some(address.is_ipv4()));
        });
        match connected.recv_timeout(STAGGER) {
            Ok(Some(v4)) => return Some(v4),
            Ok(None) => running -= 1,
            Err(_) => {}
        }
    }
    while running > 0 {
        let left = until.saturating_duration_since(Instant::now());
        match connected.recv_timeout(left) {
            Ok(None) => running -= 1,
            Ok(winner) => return winner,
            Err(_) => break,
        }
    }
    None
}
