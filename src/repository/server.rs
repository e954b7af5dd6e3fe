//! A web server for a mirror tree: static files, nothing else.
//!
//! Names that are written once may be cached for ever; the two that change are asked for
//! again each time. Files are sent as they are, never compressed: block files are compressed already, and the
//! sizes of the others are signed. There are no directory listings.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::oneshot;
use tower_http::services::ServeDir;

use crate::sys::traffic::Traffic;
use formats::block::BlockName;
use formats::names::ImageName;
use formats::release::{MAX_READS, MirrorPath};

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no such directory.
    #[error("{path}: can't serve this directory")]
    Directory { path: String, source: io::Error },
    /// The address can't be had.
    #[error("{address}: can't listen on this address; port 0 selects a free port")]
    Listen { address: SocketAddr, source: io::Error },
    /// The system gives no thread or no event queue.
    #[error("can't start the web server")]
    Start(#[source] io::Error),
}

/// Counts while requests are answered.
#[derive(Debug, Default)]
struct ServerCounters {
    requests: AtomicU64,
    bytes: AtomicU64,
    /// First requests for blocks, in order; `None` while they are not recorded.
    first: Mutex<Option<FirstRequests>>,
    /// What clients say that they read, by image; `None` while they are not recorded.
    reads: Mutex<Option<BTreeMap<ImageName, Vec<u8>>>>,
}

#[derive(Debug, Default)]
struct FirstRequests {
    seen: HashSet<BlockName>,
    order: Vec<(BlockName, Instant)>,
}

impl ServerCounters {
    fn first(&self) -> std::sync::MutexGuard<'_, Option<FirstRequests>> {
        // One insertion at a time: it is whole whatever panicked.
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reads(&self) -> std::sync::MutexGuard<'_, Option<BTreeMap<ImageName, Vec<u8>>>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image whose reads are sent with this request, if they are recorded.
    fn image(&self, method: &Method, path: &str) -> Option<ImageName> {
        let image = path.strip_prefix("/reads/").filter(|_| *method == Method::POST)?;
        self.reads().as_ref().and_then(|_| image.parse().ok())
    }

    fn asked(&self, path: &str) {
        if let Some(first) = &mut *self.first()
            && let Ok(MirrorPath::Block(name)) = path.trim_start_matches('/').parse()
            && first.seen.insert(name)
        {
            first.order.push((name, Instant::now()));
        }
    }
}

/// A server at work. Dropped, it ends when the answers under way are out.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    counters: Arc<ServerCounters>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the directory `root` at `address`; with port 0, at any port that is free.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn start(root: &Path, address: SocketAddr) -> Result<Self, ServeError> {
        let directory = |source| ServeError::Directory { path: root.display().to_string(), source };
        if !root.metadata().map_err(directory)?.is_dir() {
            return Err(directory(io::ErrorKind::NotADirectory.into()));
        }
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        listener.set_nonblocking(true).map_err(ServeError::Start)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(ServeError::Start)?;
        let (stop, stopped) = oneshot::channel();
        let counters = Arc::new(ServerCounters::default());
        let files =
            ServeDir::new(root).append_index_html_on_directories(false).html_as_default_extension(false);
        let serve = serve(listener, files, counters.clone(), stopped);
        let thread = thread::Builder::new()
            .name("web server".into())
            .spawn(move || runtime.block_on(serve))
            .map_err(ServeError::Start)?;
        Ok(Server { address, counters, stop: Some(stop), thread: Some(thread) })
    }

    /// The address, with the port that the system chose if it was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Notes from now on which blocks are asked for first, and when.
    pub fn note_blocks(&self) {
        *self.counters.first() = Some(FirstRequests::default());
    }

    /// Blocks in the order in which each was first asked for since [`Server::note_blocks`].
    pub fn noted_blocks(&self) -> Vec<(BlockName, Instant)> {
        self.counters.first().as_ref().map(|first| first.order.clone()).unwrap_or_default()
    }

    /// Takes from now on what machines of ours send of their reads (`imgfactory.reads` on their command line).
    pub fn take_reads(&self) {
        *self.counters.reads() = Some(BTreeMap::new());
    }

    /// What was sent last of each image since [`Server::take_reads`], as it came.
    pub fn taken_reads(&self) -> BTreeMap<ImageName, Vec<u8>> {
        self.counters.reads().clone().unwrap_or_default()
    }

    /// How much was asked of it up to now.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.counters.requests.load(Ordering::Relaxed),
            bytes: self.counters.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended by itself; then there is no receiver.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Accepts connections until `stopped`, then lets those under way finish what they are sending.
async fn serve(
    listener: TcpListener,
    files: ServeDir,
    counters: Arc<ServerCounters>,
    stopped: oneshot::Receiver<()>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return log::error!("web server: {error}"),
    };
    let graceful = GracefulShutdown::new();
    {
        let mut accepting = pin!(accept(listener, files, counters, &graceful));
        let mut stopped = pin!(stopped);
        poll_fn(|context| match stopped.as_mut().poll(context) {
            // That the sender is gone says the same.
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => accepting.as_mut().poll(context),
        })
        .await;
    }
    graceful.shutdown().await;
}

/// Gives every connection a task of its own, for ever.
async fn accept(
    listener: tokio::net::TcpListener,
    files: ServeDir,
    counters: Arc<ServerCounters>,
    graceful: &GracefulShutdown,
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // One client that went away, or no descriptor left: others may be luckier.
                log::warn!("web server: {error}");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let (files, counters, watcher) = (files.clone(), counters.clone(), graceful.watcher());
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(files.clone(), counters.clone(), request));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = watcher.watch(connection).await {
                log::debug!("web server: {error}");
            }
        });
    }
}

/// What goes back: a file's contents as they are read, or nothing.
type ResponseStream = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Answers one request and counts it.
async fn answer(
    mut files: ServeDir,
    counters: Arc<ServerCounters>,
    request: Request<Incoming>,
) -> Result<ResponseStream, Infallible> {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    if let Some(image) = counters.image(&method, &path) {
        return Ok(take(&counters, image, request.into_body()).await);
    }
    counters.asked(&path);
    let mut response = match files.try_call(request).await {
        Ok(response) => response.map(BodyExt::boxed_unsync),
        Err(error) => {
            let status = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StatusCode::NOT_FOUND,
                _ => {
                    log::error!("web server: {path}: {error}");
                    StatusCode::INTERNAL_SERVER_ERROR
                }
            };
            empty(status)
        }
    };
    let status = response.status();
    log::info!("{method} {path} {}", status.as_u16());
    let found = status.is_success() || status == StatusCode::NOT_MODIFIED;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(if found { cache_control(&path) } else { NEVER }));
    if status.is_success() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(&path)));
    }
    counters.requests.fetch_add(1, Ordering::Relaxed);
    Ok(response.map(|body| {
        let counted = body.map_frame(move |frame| {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            frame
        });
        counted.boxed_unsync()
    }))
}

/// An answer without contents.
fn empty(status: StatusCode) -> ResponseStream {
    let body = http_body_util::Empty::new().map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}

/// Takes what was read of an image.
async fn take(counters: &ServerCounters, image: ImageName, body: Incoming) -> ResponseStream {
    let limit = usize::try_from(MAX_READS).unwrap_or(usize::MAX);
    match Limited::new(body, limit).collect().await {
        Ok(sent) => {
            if let Some(reads) = &mut *counters.reads() {
                reads.insert(image, sent.to_bytes().to_vec());
            }
            empty(StatusCode::NO_CONTENT)
        }
        Err(error) => {
            log::warn!("web server: reads of {image}: {error}");
            empty(StatusCode::BAD_REQUEST)
        }
    }
}

/// Ask again each time.
const NEVER: &str = "no-cache";

/// How long what is at a path may be kept: for ever below the directories whose files are written once. A path that is
/// written in another way (`//latest`, `/blk/../latest`) may lead to a file that is written again.
fn cache_control(path: &str) -> &'static str {
    let written_once = ["/blk/", "/images/", "/releases/", "/keys/"].iter().any(|dir| path.starts_with(dir));
    let plain = !["//", "..", "%"].iter().any(|part| path.contains(part));
    if written_once && plain { "public, max-age=31536000, immutable" } else { NEVER }
}

/// Block files and layouts are bytes, all else in a mirror tree is text.
fn content_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    let text = matches!(name, "latest" | "dlahead") || name.ends_with(".txt") || name.ends_with(".idx");
    if text { "text/plain; charset=utf-8" } else { "application/octet-stream" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use system::files::Scratch;

    /// A small mirror tree and a server of it.
    fn server() -> (Scratch, Server) {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let root = dir.path().join("mirror");
        for (path, bytes) in [
            ("latest", &b"imgfactory-latest 1\n"[..]),
            ("mirrors.txt", b"imgfactory-mirrors 1\n"),
            ("blk/ec/ec87", b"0123456789"),
            ("images/host/1/index.idx", b"imgfactory-index 1\n"),
            ("releases/1.txt", b"imgfactory-release 1\n"),
            ("../secret", b"secret"),
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let server = Server::start(&root, "127.0.0.1:0".parse().unwrap()).unwrap();
        (dir, server)
    }

    /// Sends a request as it is and gives the answer: status line and headers in lower case, then the body.
    fn ask(server: &Server, request: &str, headers: &str) -> (String, String) {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nhost: mirror.example\r\nconnection: close\r\n{headers}\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }

    #[test]
    fn files_come_with_their_kind_and_with_how_long_they_may_be_kept() {
        let (_dir, server) = server();
        let immutable = "cache-control: public, max-age=31536000, immutable";
        let (bytes, text) =
            ("content-type: application/octet-stream", "content-type: text/plain; charset=utf-8");
        for (path, kind, keep, body) in [
            ("/latest", text, "cache-control: no-cache", "imgfactory-latest 1\n"),
            ("//latest", text, "cache-control: no-cache", "imgfactory-latest 1\n"),
            ("/mirrors.txt", text, "cache-control: no-cache", "imgfactory-mirrors 1\n"),
            ("/blk/ec/ec87", bytes, immutable, "0123456789"),
            ("/images/host/1/index.idx", text, immutable, "imgfactory-index 1\n"),
            ("/releases/1.txt", text, immutable, "imgfactory-release 1\n"),
        ] {
            let (head, found) = ask(&server, &format!("GET {path}"), "accept-encoding: gzip, br, zstd\r\n");
            assert_eq!(found, body, "{path}");
            assert!(head.starts_with("http/1.1 200 ok"), "{path}: {head}");
            for header in [kind, keep, &format!("content-length: {}", body.len())] {
                assert!(head.lines().any(|line| line == header), "{path}: no `{header}` in {head}");
            }
            assert!(!head.contains("content-encoding"), "{path}: {head}");
        }
    }

    #[test]
    fn head_and_ranges_are_answered() {
        let (_dir, server) = server();
        let (head, body) = ask(&server, "HEAD /blk/ec/ec87", "");
        assert!(head.contains("content-length: 10"), "{head}");
        assert_eq!(body, "");
        let (head, body) = ask(&server, "GET /blk/ec/ec87", "range: bytes=2-4\r\n");
        assert!(head.starts_with("http/1.1 206 partial content"), "{head}");
        assert!(head.contains("content-range: bytes 2-4/10"), "{head}");
        assert_eq!(body, "234");
        let (head, _) = ask(&server, "GET /blk/ec/ec87", "range: bytes=20-\r\n");
        assert!(head.starts_with("http/1.1 416 "), "{head}");
    }

    #[test]
    fn what_a_machine_reads_is_taken_when_somebody_wants_to_know() {
        let (_dir, server) = server();
        let send = |path: &str, body: &str| {
            let headers = format!("content-length: {}\r\n\r\n{body}", body.len());
            ask(&server, &format!("POST {path}"), &headers).0.lines().next().unwrap_or_default().to_owned()
        };
        assert_eq!(send("/reads/host", "early"), "http/1.1 405 method not allowed");
        assert!(server.taken_reads().is_empty());
        server.take_reads();
        for body in ["first", "last"] {
            assert_eq!(send("/reads/host", body), "http/1.1 204 no content");
        }
        assert_eq!(send("/reads/guest", "other"), "http/1.1 204 no content");
        for path in ["/reads/../host", "/reads/", "/reads/Host", "/latest"] {
            assert_eq!(send(path, "?"), "http/1.1 405 method not allowed", "{path}");
        }
        let taken: Vec<_> =
            server.taken_reads().into_iter().map(|(image, text)| (image.to_string(), text)).collect();
        assert_eq!(taken, [("guest".into(), b"other".to_vec()), ("host".into(), b"last".to_vec())]);
        let long = "x".repeat(usize::try_from(MAX_READS).unwrap() + 1);
        assert_eq!(send("/reads/host", &long), "http/1.1 400 bad request");
    }

    #[test]
    fn nothing_but_files_below_the_root_is_given_and_nothing_missing_is_kept() {
        let (_dir, server) = server();
        for (request, status) in [
            ("GET /../secret", "404"),
            ("GET /blk/../../secret", "404"),
            ("GET /%2e%2e/secret", "404"),
            ("GET /..%2fsecret", "404"),
            ("GET //secret", "404"),
            ("GET /", "404"),
            ("GET /blk/", "404"),
            ("GET /nothing", "404"),
            ("POST /latest", "405"),
            ("DELETE /latest", "405"),
        ] {
            let (head, body) = ask(&server, request, "");
            assert!(head.starts_with(&format!("http/1.1 {status} ")), "{request}: {head}");
            assert!(head.contains("cache-control: no-cache"), "{request}: {head}");
            assert_eq!(body, "", "{request}");
        }
    }

    #[test]
    fn requests_and_bytes_are_counted_while_it_runs() {
        let (_dir, server) = server();
        assert_eq!(server.traffic(), Traffic::default());
        ask(&server, "GET /blk/ec/ec87", "");
        assert_eq!(server.traffic(), Traffic { requests: 1, bytes: 10 });
        ask(&server, "HEAD /blk/ec/ec87", "");
        ask(&server, "GET /blk/ec/ec87", "range: bytes=2-4\r\n");
        ask(&server, "GET /nothing", "");
        assert_eq!(server.traffic(), Traffic { requests: 4, bytes: 13 });
    }

    #[test]
    fn it_ends_when_dropped_and_frees_its_port() {
        let (_dir, server) = server();
        let address = server.address();
        // A client that is connected and asks nothing must not hold it up.
        let _idle = TcpStream::connect(address).unwrap();
        drop(server);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn what_cannot_be_served_is_said() {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let path = dir.path().join("nothing");
        let error = Server::start(&path, any).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: can't serve this directory", path.display()));
        let first = Server::start(dir.path(), any).unwrap();
        let error = Server::start(dir.path(), first.address()).unwrap_err();
        let said = format!("{}: can't listen on this address; port 0 selects a free port", first.address());
        assert_eq!(error.to_string(), said);
    }
}
