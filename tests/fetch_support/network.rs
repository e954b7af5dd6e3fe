//! A network between a client and a server on loopback: a delay, a bandwidth that all connections share, slow
//! start if wanted, and a link that can be cut, stalled and brought back.
//!
//! It relays TCP connections. What the client sends is held back for the round trip, and for two of them on a new
//! connection, since a handshake takes one; what the server sends is let through at the bandwidth. That adds up to
//! the times that a client sees on a line with that round trip.
//!
//! Connections share the bandwidth in turns, and what a client does not take stops its sender at once. With
//! [`Line::one_queue`] it is as on a line whose box at the end keeps whatever comes in the order in which it comes: all that
//! a client has room for is on its way, before what is asked for later, and that it has room the sender hears a round
//! trip later.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak, mpsc};
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
    /// Whether all wait in one queue, and windows are known a round trip later. See the module's text.
    pub one_queue: bool,
}

impl Line {
    pub fn new(delay_ms: u64, megabits: u64) -> Self {
        Line {
            delay: Duration::from_millis(delay_ms),
            bandwidth: megabits * 125_000,
            slow_start: false,
            one_queue: false,
        }
    }

    /// The same, with one queue.
    pub fn one_queue(self) -> Self {
        Line { one_queue: true, ..self }
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
    windows: Vec<Weak<Window>>,
}

/// How far a client lets its sender go.
struct Window {
    client: TcpStream,
    /// When, and how many bytes from the start of the connection.
    known: Mutex<VecDeque<(Instant, u64)>>,
}

impl Window {
    fn look(&self) {
        let edge = edge(&self.client);
        let mut known = self.known.lock().unwrap();
        if known.back().is_none_or(|(_, last)| *last != edge) {
            known.push_back((Instant::now(), edge));
        }
    }

    /// What the sender knows that was so then.
    fn as_of(&self, then: Instant) -> u64 {
        let mut known = self.known.lock().unwrap();
        while known.get(1).is_some_and(|(at, _)| *at <= then) {
            known.pop_front();
        }
        known.front().map_or(0, |(_, edge)| *edge)
    }
}

unsafe extern "C" {
    fn getsockopt(fd: i32, level: i32, name: i32, value: *mut u8, len: *mut u32) -> i32;
}

/// The end of the window that the other side has announced: `tcpi_bytes_acked` and `tcpi_snd_wnd` of Linux' `struct
/// tcp_info`. Without end once the connection is closed.
fn edge(socket: &TcpStream) -> u64 {
    const IPPROTO_TCP: i32 = 6;
    const TCP_INFO: i32 = 11;
    const TCP_CLOSE: u8 = 7;
    let mut info = [0_u8; 232];
    let mut len = 232;
    // SAFETY: the buffer has the length that is told, and both outlive the call.
    let result =
        unsafe { getsockopt(socket.as_raw_fd(), IPPROTO_TCP, TCP_INFO, info.as_mut_ptr(), &raw mut len) };
    assert_eq!((result, len), (0, 232), "Linux 5.4 tells the window");
    if info[0] == TCP_CLOSE {
        return u64::MAX;
    }
    let acknowledged = u64::from_ne_bytes(info[120..128].try_into().unwrap());
    acknowledged + u64::from(u32::from_ne_bytes(info[228..232].try_into().unwrap()))
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
        let state = State {
            link: Link::Up,
            line,
            free_at: Instant::now(),
            connections: Vec::new(),
            windows: Vec::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            server,
            passed: AtomicU64::new(0),
        });
        if line.one_queue {
            let looking = Arc::clone(&shared);
            thread::spawn(move || looking.look_at_windows());
        }
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
        let one_queue = {
            let mut state = self.state.lock().unwrap();
            state.connections.push(client.try_clone().unwrap());
            state.line.one_queue
        };
        let (up, down) = (Arc::clone(&self), self);
        let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || up.upwards(from_client, to_server));
        if one_queue { down.through_the_queue(server, client) } else { down.downwards(server, client) }
    }

    fn look_at_windows(&self) {
        loop {
            thread::sleep(Duration::from_millis(1));
            let windows: Vec<_> = {
                let mut state = self.state.lock().unwrap();
                state.windows.retain(|window| window.strong_count() > 0);
                state.windows.iter().filter_map(Weak::upgrade).collect()
            };
            windows.iter().for_each(|window| window.look());
        }
    }

    /// Answers: as much as the client had room for a round trip ago, in one queue with all others.
    fn through_the_queue(self: Arc<Self>, mut from: TcpStream, mut to: TcpStream) {
        let window = Arc::new(Window { client: to.try_clone().unwrap(), known: Mutex::default() });
        window.look();
        self.state.lock().unwrap().windows.push(Arc::downgrade(&window));
        let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
        let delivering = Arc::clone(&self);
        let writer = thread::spawn(move || {
            for (at, bytes) in receiver {
                thread::sleep(at.saturating_duration_since(Instant::now()));
                if to.write_all(&bytes).is_err() {
                    break;
                }
                delivering.passed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            let _ = to.shutdown(Shutdown::Both);
        });
        let mut buffer = [0; 8 << 10];
        let mut sent = 0;
        while let Ok(len) = from.read(&mut buffer) {
            if len == 0 || !self.passable() {
                break;
            }
            sent += len as u64;
            let line = self.state.lock().unwrap().line;
            while Instant::now().checked_sub(line.delay).map_or(0, |then| window.as_of(then)) < sent {
                thread::sleep(Duration::from_micros(500));
            }
            let at = {
                let mut state = self.state.lock().unwrap();
                let nanos = (len as u64 * 1_000_000_000).checked_div(line.bandwidth).unwrap_or(0);
                state.free_at = state.free_at.max(Instant::now()) + Duration::from_nanos(nanos);
                state.free_at
            };
            if sender.send((at, buffer[..len].to_vec())).is_err() {
                break;
            }
        }
        drop(sender);
        let _ = writer.join();
        let _ = from.shutdown(Shutdown::Both);
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
