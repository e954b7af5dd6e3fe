//! A network between a client and a server on loopback: a delay, a bandwidth that all connections share, slow
//! start if wanted, and a link that can be cut, stalled and brought back.
//!
//! It relays TCP connections. What the client sends is held back for the round trip, and for two of them on a new
//! connection, since a handshake takes one; what the server sends is let through at the bandwidth. That adds up to
//! the times that a client sees on a line with that round trip.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// What the line is like.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Round trip.
    pub delay: Duration,
    /// Bytes a second towards the client, all connections together; 0: no limit.
    pub bandwidth: u64,
    /// Whether a connection begins with ten segments and doubles that each round trip, as TCP does.
    pub slow_start: bool,
}

impl Line {
    pub fn new(delay_ms: u64, megabits: u64) -> Self {
        Line { delay: Duration::from_millis(delay_ms), bandwidth: megabits * 125_000, slow_start: false }
    }
}

/// What happens to bytes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Up,
    /// Nothing comes through; nobody is told.
    Stalled,
    /// Connections are broken, new ones too.
    Down,
}

struct State {
    link: Link,
    line: Line,
    /// When the line is free again.
    free_at: Instant,
    connections: Vec<TcpStream>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    server: SocketAddr,
    passed: AtomicU64,
}

/// The network. It lasts as long as the process.
#[derive(Clone)]
pub struct Network {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Network {
    /// A line to a server.
    pub fn new(server: SocketAddr, line: Line) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { link: Link::Up, line, free_at: Instant::now(), connections: Vec::new() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            server,
            passed: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&accepting);
                thread::spawn(move || shared.relay(stream));
            }
        });
        Network { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Bytes that came through to the client.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }

    /// Changes the link for all connections, present and future.
    pub fn set(&self, link: Link) {
        let mut state = self.shared.state.lock().unwrap();
        state.link = link;
        if link == Link::Down {
            for stream in state.connections.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Waits while the link is stalled; false when it is down.
    fn passable(&self) -> bool {
        let state = self.state.lock().unwrap();
        let state = self.changed.wait_while(state, |state| state.link == Link::Stalled).unwrap();
        state.link == Link::Up
    }

    fn relay(self: Arc<Self>, client: TcpStream) {
        if !self.passable() {
            return;
        }
        let Ok(server) = TcpStream::connect(self.server) else { return };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        // Otherwise the kernel's buffers would be a line of their own.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&client, 32 << 10);
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&server, 64 << 10);
        self.state.lock().unwrap().connections.push(client.try_clone().unwrap());
        let (up, down) = (Arc::clone(&self), self);
        let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || up.upwards(from_client, to_server));
        down.downwards(server, client);
    }

    /// Requests, after the delay.
    fn upwards(&self, mut from: TcpStream, mut to: TcpStream) {
        let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
        let delay = self.state.lock().unwrap().line.delay;
        let writer = thread::spawn(move || {
            for (at, bytes) in receiver {
                thread::sleep(at.saturating_duration_since(Instant::now()));
                if to.write_all(&bytes).is_err() {
                    return;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        });
        let opened = Instant::now();
        let mut buffer = [0; 16 << 10];
        while let Ok(len) = from.read(&mut buffer) {
            if len == 0 || !self.passable() {
                break;
            }
            // The handshake that loopback did at once.
            let at = (Instant::now() + delay).max(opened + 2 * delay);
            if sender.send((at, buffer[..len].to_vec())).is_err() {
                break;
            }
        }
        drop(sender);
        let _ = writer.join();
    }

    /// Answers, at the bandwidth.
    fn downwards(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 << 10];
        let mut window = 14_600_usize;
        let mut unacknowledged: VecDeque<(Instant, usize)> = VecDeque::new();
        let mut in_flight = 0;
        while let Ok(len) = from.read(&mut buffer) {
            if len == 0 || !self.passable() {
                break;
            }
            let (at, line) = {
                let mut state = self.state.lock().unwrap();
                let line = state.line;
                let time = Duration::from_nanos(
                    (len as u64 * 1_000_000_000).checked_div(line.bandwidth).unwrap_or(0),
                );
                state.free_at = state.free_at.max(Instant::now()) + time;
                (state.free_at, line)
            };
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if line.slow_start {
                while in_flight + len > window {
                    let Some((acknowledged, bytes)) = unacknowledged.pop_front() else { break };
                    thread::sleep(acknowledged.saturating_duration_since(Instant::now()));
                    in_flight -= bytes;
                    window += bytes;
                }
                unacknowledged.push_back((Instant::now() + line.delay, len));
                in_flight += len;
            }
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
            self.passed.fetch_add(len as u64, Ordering::Relaxed);
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
