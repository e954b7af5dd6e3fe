//! An HTTP server on loopback that does to each request what a script says: by path, and by how often that path
//! was asked for.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::Tree;

/// What happens to one request.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// The file, or 404.
    Serve,
    /// The file, chunked.
    Chunked,
    /// The file, chunked, and trailers that end with the connection only, or after 64 MiB.
    Trailers,
    /// The file, and the connection is closed without a word in the head.
    ServeAndClose,
    /// The file with one bit of the middle changed.
    Flip,
    /// The head of the whole file and half of it.
    Cut,
    /// Half of the file, as if that were all.
    Half,
    /// The file and more after it, as one.
    Longer,
    /// A body without end, chunked.
    Endless,
    /// These bytes in place of the file.
    Instead(Vec<u8>),
    /// A web page with 200.
    Html,
    /// A status, and headers.
    Status(u16, &'static str),
    /// 302 to there.
    Redirect(String),
    /// The file as it would be for a browser.
    Gzip,
    /// The file with a head of one's own: the status line without its end, headers, and what tells the body's end.
    As(&'static str, Framing),
    /// The file, a byte at a time.
    Drip(Duration),
    /// The file after a while.
    Late(Duration),
    /// The file when the gate is open.
    Behind(Gate),
    /// No answer as long as the test lives.
    Silence,
    /// The head and a few bytes, then nothing.
    Stall,
    /// The connection is closed at once.
    Close,
    /// Not HTTP.
    Garbage,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length,
    Chunked,
    /// The end of the connection.
    Close,
}

/// Holds answers back until it is opened.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let (open, changed) = &*self.0;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
    }
}

impl PartialEq for Gate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Every way in which a mirror can fail to give a block.
pub fn faults() -> Vec<Act> {
    vec![
        Act::Flip,
        Act::Cut,
        Act::Half,
        Act::Longer,
        Act::Endless,
        Act::Instead(b"x\x9c\x03\x00\x00\x00\x00\x01".to_vec()),
        Act::Instead(Vec::new()),
        Act::Html,
        Act::Gzip,
        Act::Close,
        Act::Garbage,
        Act::Status(404, ""),
        Act::Status(403, ""),
        Act::Status(500, ""),
        Act::Status(503, "Retry-After: 1\r\n"),
        Act::Status(429, ""),
        Act::Status(204, ""),
        Act::Status(206, ""),
        Act::Redirect("/somewhere/else".into()),
        Act::Redirect("file:///etc/passwd".into()),
        Act::Redirect(String::new()),
    ]
}

type Script = Box<dyn Fn(&str, usize) -> Act + Send + Sync>;

struct Shared {
    tree: Mutex<Tree>,
    script: Mutex<Script>,
    asked: Mutex<HashMap<String, usize>>,
    /// Every request line and its headers.
    heads: Mutex<Vec<String>>,
    /// Those that are open, by number, and how many there were.
    connections: Mutex<HashMap<usize, TcpStream>>,
    accepted: AtomicUsize,
    down: AtomicBool,
}

/// The server. Ends with the test.
pub struct FaultServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl FaultServer {
    /// Serves a tree; `script` is given the path, without its slash, and how often it was asked for before.
    pub fn new(tree: Tree, script: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            tree: Mutex::new(tree),
            script: Mutex::new(Box::new(script)),
            asked: Mutex::default(),
            heads: Mutex::default(),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            down: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.down.load(Ordering::SeqCst) {
                    continue;
                }
                let number = accepting.accepted.fetch_add(1, Ordering::SeqCst);
                accepting.connections.lock().unwrap().insert(number, stream.try_clone().unwrap());
                let shared = Arc::clone(&accepting);
                thread::spawn(move || {
                    // The client may close whenever it likes.
                    let _ = shared.serve(&stream);
                    let _ = stream.shutdown(Shutdown::Both);
                    shared.connections.lock().unwrap().remove(&number);
                });
            }
        });
        FaultServer { address, shared }
    }

    /// One that does nothing wrong.
    pub fn honest(tree: Tree) -> Self {
        FaultServer::new(tree, |_, _| Act::Serve)
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does.
    pub fn script(&self, script: impl Fn(&str, usize) -> Act + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// Changes what it has.
    pub fn put(&self, tree: Tree) {
        *self.shared.tree.lock().unwrap() = tree;
    }

    /// As if the machine lost its power: connections break, new ones are closed at once.
    pub fn go_down(&self) {
        self.shared.down.store(true, Ordering::SeqCst);
        for (_, stream) in self.shared.connections.lock().unwrap().drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// And back.
    pub fn come_back(&self) {
        self.shared.down.store(false, Ordering::SeqCst);
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> usize {
        self.shared.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    /// Requests for blocks, in all.
    pub fn blocks_asked(&self) -> usize {
        let asked = self.shared.asked.lock().unwrap();
        asked.iter().filter(|(path, _)| path.starts_with("blk/")).map(|(_, count)| count).sum()
    }

    /// Connections there were.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Heads of all requests.
    pub fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }
}

/// An address where nobody listens: connections are refused.
pub fn refused() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/", listener.local_addr().unwrap())
}

/// An address where connections are never answered: a listener whose queue is full. Keep what it gives.
pub fn blackhole() -> (String, Vec<TcpStream>, TcpListener) {
    use rustix::net::{AddressFamily, SocketType};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&socket, &any).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queue.push(stream);
    }
    (format!("http://{address}/"), queue, listener)
}

impl Shared {
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.by_ref().take(64 << 10).read_line(&mut head)? == 0 {
                    return Ok(());
                }
            }
            let target = head.split(' ').nth(1).unwrap_or_default();
            // As a proxy, we are asked for whole addresses.
            let path =
                target.strip_prefix("http://").and_then(|rest| rest.split_once('/')).map_or(target, |p| p.1);
            let path = path.trim_start_matches('/').to_owned();
            self.heads.lock().unwrap().push(head);
            let nth = {
                let mut asked = self.asked.lock().unwrap();
                let count = asked.entry(path.clone()).or_default();
                *count += 1;
                *count - 1
            };
            let act = (self.script.lock().unwrap())(&path, nth);
            let file = self.tree.lock().unwrap().get(&path).cloned();
            if !self.act(stream, act, file)? {
                return Ok(());
            }
        }
    }

    /// Whether the connection stays.
    fn act(&self, mut out: &TcpStream, act: Act, file: Option<Vec<u8>>) -> io::Result<bool> {
        let Some(file) = file.or_else(|| (act != Act::Serve).then(Vec::new)) else {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nnope\n")?;
            return Ok(true);
        };
        let head = |len: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n").into_bytes();
        let whole = |body: &[u8]| [&head(body.len())[..], body].concat();
        let half = &file[..file.len() / 2];
        match act {
            Act::Serve => out.write_all(&whole(&file))?,
            Act::Chunked => {
                out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                for chunk in file.chunks(1000) {
                    out.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                    out.write_all(chunk)?;
                    out.write_all(b"\r\n")?;
                }
                out.write_all(b"0\r\n\r\n")?;
            }
            Act::Trailers => {
                out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                out.write_all(format!("{:x}\r\n", file.len()).as_bytes())?;
                out.write_all(&file)?;
                out.write_all(b"\r\n0\r\n")?;
                let line = format!("X-More: {}\r\n", "more".repeat(250));
                for _ in 0..64 << 10 {
                    out.write_all(line.as_bytes())?;
                }
                return Ok(false);
            }
            Act::ServeAndClose => {
                out.write_all(&whole(&file))?;
                return Ok(false);
            }
            Act::Flip => {
                let mut file = file.clone();
                let middle = file.len() / 2;
                if let Some(byte) = file.get_mut(middle) {
                    *byte ^= 0x10;
                }
                out.write_all(&whole(&file))?;
            }
            Act::Cut => {
                out.write_all(&head(file.len()))?;
                out.write_all(half)?;
                return Ok(false);
            }
            Act::Half => out.write_all(&whole(half))?,
            Act::Longer => out.write_all(&whole(&[&file[..], b"and more"].concat()))?,
            Act::Endless => {
                out.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                loop {
                    out.write_all(b"400\r\n")?;
                    out.write_all(&[b'x'; 0x400])?;
                    out.write_all(b"\r\n")?;
                }
            }
            Act::Instead(body) => out.write_all(&whole(&body))?,
            Act::Html => {
                let page = "<!DOCTYPE html><html><body>Please log in</body></html>".repeat(20);
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n";
                out.write_all(format!("{head}Content-Length: {}\r\n\r\n{page}", page.len()).as_bytes())?;
            }
            Act::Status(status, headers) => {
                out.write_all(
                    format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: 2\r\n\r\nno").as_bytes(),
                )?;
            }
            Act::Redirect(to) => {
                let answer = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
                out.write_all(answer.as_bytes())?;
            }
            Act::Gzip => {
                let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                coder.write_all(&file)?;
                let file = coder.finish()?;
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
                    file.len()
                );
                out.write_all(head.as_bytes())?;
                out.write_all(&file)?;
            }
            Act::As(head, framing) => {
                let head = head.replace("LAST", &file.len().saturating_sub(1).to_string());
                let head = head.replace("LEN", &file.len().to_string());
                match framing {
                    Framing::Length => {
                        out.write_all(format!("{head}Content-Length: {}\r\n\r\n", file.len()).as_bytes())?;
                        out.write_all(&file)?;
                    }
                    Framing::Chunked => {
                        let begin =
                            format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x};x=y\r\n", file.len());
                        out.write_all(begin.as_bytes())?;
                        out.write_all(&file)?;
                        out.write_all(b"\r\n0\r\nX-Trailer: x\r\n\r\n")?;
                    }
                    Framing::Close => {
                        out.write_all(format!("{head}\r\n").as_bytes())?;
                        out.write_all(&file)?;
                        return Ok(false);
                    }
                }
            }
            Act::Drip(pause) => {
                out.write_all(&head(file.len()))?;
                for byte in file {
                    out.write_all(&[byte])?;
                    thread::sleep(pause);
                }
            }
            Act::Late(pause) => {
                thread::sleep(pause);
                out.write_all(&whole(&file))?;
            }
            Act::Behind(gate) => {
                gate.wait();
                out.write_all(&whole(&file))?;
            }
            Act::Silence => self.wait_for_the_end(out),
            Act::Stall => {
                out.write_all(&head(file.len()))?;
                out.write_all(&file[..file.len().min(10)])?;
                self.wait_for_the_end(out);
            }
            Act::Close => return Ok(false),
            Act::Garbage => {
                out.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn wait_for_the_end(&self, mut stream: &TcpStream) {
        // Until the client has had enough.
        let _ = stream.read(&mut [0]);
    }
}
