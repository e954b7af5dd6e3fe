//! A handle on the connection that a request uses: whoever holds it can end the request from another thread, can hold it up,
//! and can see whether the connection can still carry anything.
//!
//! ureq keeps connections for later requests, so which one a request gets is known only when it writes to it.
//! Every connection therefore notes itself in the handle of the thread that uses it.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::families::Families;
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, ShutdownHandle, Transport,
};

thread_local! {
    static MINE: RefCell<Option<Arc<RequestHandle>>> = const { RefCell::new(None) };
    /// Bytes that may still come for the request of this thread.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Does something with requests of this thread, for which no more bytes than these may come: nothing else bounds the
/// chunks' own headers and the trailers after them (RFC 9112, 7.1.2).
pub(super) fn within<T>(bytes: u64, run: impl FnOnce() -> T) -> T {
    LEFT.set(Some(bytes));
    let result = run();
    LEFT.set(None);
    result
}

fn received(bytes: usize) -> Result<(), Error> {
    let Some(left) = LEFT.get() else { return Ok(()) };
    let left = left.checked_sub(bytes as u64);
    LEFT.set(Some(left.unwrap_or(0)));
    let text = "the server sends far more around the file than the file has";
    left.map(drop).ok_or_else(|| Error::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, text)))
}

/// One request's handle. It outlives the request and does nothing then.
#[derive(Default)]
pub struct RequestHandle(Mutex<Hold>, Condvar);

#[derive(Default)]
struct Hold {
    connection: Option<Arc<Connection>>,
    over: bool,
    /// Nothing is taken from the connection before then, and how long that was.
    waits_until: Option<Instant>,
    waited: Duration,
}

/// What is to be known of a connection.
struct Connection {
    handle: Weak<dyn ShutdownHandle>,
    /// Our own address, when it was made.
    from: Option<IpAddr>,
}

impl std::fmt::Debug for RequestHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RequestHandle")
    }
}

impl RequestHandle {
    fn hold(&self) -> std::sync::MutexGuard<'_, Hold> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the request: what it still waits for fails at once, and it is not tried again.
    pub fn end(&self) {
        let mut hold = self.hold();
        hold.over = true;
        shut(hold.connection.take());
        self.1.notify_all();
    }

    /// From now on nothing is taken from the connection for so long, in place of what was said before. What the other side
    /// sends meanwhile the system keeps, as much as it has room for, and then the other side waits.
    pub fn hold_up(&self, how_long: Duration) {
        self.hold().waits_until = Some(Instant::now() + how_long);
        self.1.notify_all();
    }

    /// How long it was held up.
    pub(super) fn waited(&self) -> Duration {
        self.hold().waited
    }

    fn wait(&self) {
        let mut hold = self.hold();
        let began = Instant::now();
        loop {
            let now = Instant::now();
            let left = hold.waits_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
            if left.is_zero() || hold.over {
                hold.waits_until = None;
                hold.waited += now - began;
                return;
            }
            hold = self.1.wait_timeout(hold, left).map_or_else(|p| p.into_inner().0, |woken| woken.0);
        }
    }

    /// Whether it was ended.
    pub fn is_over(&self) -> bool {
        self.hold().over
    }

    /// Drops the connection if the address that it was made from is no longer ours: nothing will ever come. The
    /// request goes on over another one.
    pub fn drop_if_dead(&self) -> bool {
        let mut hold = self.hold();
        let from = hold.connection.as_ref().and_then(|connection| connection.from);
        let dead = from.is_some_and(|from| UdpSocket::bind((from, 0)).is_err());
        if dead {
            shut(hold.connection.take());
        }
        dead
    }

    /// Does something with requests of this thread in this handle.
    pub(super) fn during<T>(self: &Arc<Self>, run: impl FnOnce() -> T) -> T {
        MINE.with_borrow_mut(|mine| *mine = Some(Arc::clone(self)));
        let result = run();
        MINE.with_borrow_mut(|mine| *mine = None);
        self.hold().connection = None;
        result
    }
}

fn shut(connection: Option<Arc<Connection>>) {
    if let Some(handle) = connection.and_then(|connection| connection.handle.upgrade()) {
        handle.shutdown();
    }
}

/// Opens connections that can be tracked, by way of another connector, to the addresses that lead somewhere.
#[derive(Debug)]
pub(super) struct TrackingConnector<C>(pub(super) C, pub(super) Arc<Families>);

impl<In: Transport, C: Connector<In>> Connector<In> for TrackingConnector<C> {
    type Out = TrackedTransport<C::Out>;

    fn connect(
        &self,
        to: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<TrackedTransport<C::Out>>, Error> {
        let seen: Arc<Mutex<Option<Weak<dyn ShutdownHandle>>>> = Arc::default();
        let (noted, register) = (Arc::clone(&seen), Arc::clone(&to.register_shutdown));
        let host = to.uri.authority().map(ToString::to_string).unwrap_or_default();
        let mut addrs = to.addrs.clone();
        // Through a tunnel there is a connection already.
        if chained.is_none() {
            self.1.sort(&host, &mut addrs, *to.timeout.after / 2);
        }
        let details = ConnectionDetails {
            uri: to.uri,
            addrs,
            config: to.config,
            request_level: to.request_level,
            resolver: to.resolver,
            now: to.now,
            timeout: to.timeout,
            current_time: Arc::clone(&to.current_time),
            run_connector: Arc::clone(&to.run_connector),
            register_shutdown: Arc::new(move |handle| {
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle.clone());
                register(handle)
            }),
        };
        let connected = self.0.connect(&details, chained);
        if connected.is_err() {
            self.1.forget(&host);
        }
        let Some(transport) = connected? else { return Ok(None) };
        // Without one, this is a tunnel through a proxy: a connection that came this way before.
        let handle = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        let connection = handle.map(|handle| {
            let from = details.addrs.first().and_then(|peer| own_address(*peer));
            Arc::new(Connection { handle, from })
        });
        Ok(Some(TrackedTransport { transport, connection }))
    }
}

/// Which address of ours leads to that one. No packet is sent.
fn own_address(peer: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).ok()?;
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// A connection that notes itself.
pub(super) struct TrackedTransport<T> {
    transport: T,
    connection: Option<Arc<Connection>>,
}

impl<T: Transport> std::fmt::Debug for TrackedTransport<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.transport.fmt(f)
    }
}

impl<T: Transport> TrackedTransport<T> {
    fn note(&self) -> Result<(), Error> {
        let Some(connection) = &self.connection else { return Ok(()) };
        MINE.with_borrow(|mine| {
            let Some(mine) = mine else { return Ok(()) };
            let mut hold = mine.hold();
            if hold.over {
                return Err(Error::Io(std::io::ErrorKind::ConnectionAborted.into()));
            }
            hold.connection = Some(Arc::clone(connection));
            Ok(())
        })
    }
}

impl<T: Transport> Transport for TrackedTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.transport.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.note()?;
        self.transport.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        // That takes nothing of the mirror's time: what has come meanwhile is there at once.
        if let Some(handle) = MINE.with_borrow(Clone::clone) {
            handle.wait();
        }
        let before = self.transport.buffers().input().len();
        let more = self.transport.await_input(timeout)?;
        received(self.transport.buffers().input().len().saturating_sub(before))?;
        Ok(more)
    }

    fn is_open(&mut self) -> bool {
        self.transport.is_open()
    }

    fn is_tls(&self) -> bool {
        self.transport.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_held_up_goes_on_when_told_so_or_when_it_is_over() {
        for let_go in [|handle: &RequestHandle| handle.hold_up(Duration::ZERO), RequestHandle::end] {
            let handle = Arc::new(RequestHandle::default());
            handle.wait();
            handle.hold_up(Duration::from_secs(3600));
            let held = Arc::clone(&handle);
            let waits = std::thread::spawn(move || held.wait());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waits.is_finished());
            let_go(&handle);
            waits.join().unwrap();
            // Only what was waited counts, and nobody waits twice.
            assert!(handle.waited() < Duration::from_secs(600));
            handle.wait();
        }
        let handle = RequestHandle::default();
        handle.hold_up(Duration::from_millis(5));
        handle.wait();
        assert!(handle.waited() >= Duration::from_millis(5));
    }
}
