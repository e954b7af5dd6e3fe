//! GET of small files over HTTP and HTTPS, directly or through a proxy, within bounds of time and size.
//!
//! ureq does the protocol. Ours are the bounds, the redirects (never to a weaker or another scheme), the way to
//! proxies, and the words for what went wrong ([`FetchFault`]).

mod forward;
mod request_handle;
mod route;
mod tls;

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use ureq::http::{HeaderMap, HeaderName, Response};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, RustlsConnector, TcpConnector};
use ureq::{Agent, Body, Error, Timeout};

pub use request_handle::RequestHandle;
use request_handle::TrackingConnector;
pub use route::{BadProxy, Proxies};
use route::{Route, redirect_target};

use crate::clock;
use formats::fetch_fault::FetchFault;
use formats::fetch_fault::Wait;

/// Redirects followed for one file.
const MAX_REDIRECTS: usize = 5;
/// All headers of an answer.
const MAX_HEADERS: usize = 16 << 10;
/// The answer of a server that does not have the file: read to its end when it is no longer than this, so that the
/// next request can go over the same connection.
const SHORT: u64 = 16 << 10;
/// Connections that are kept open without being used.
const IDLE: Duration = Duration::from_secs(60);

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the address of a host.
    pub name: Duration,
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the first byte of an answer.
    pub first_byte: Duration,
    /// The longest pause between two pieces of a body.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            name: Duration::from_secs(5),
            connect: Duration::from_secs(4),
            first_byte: Duration::from_secs(10),
            stall: Duration::from_secs(10),
        }
    }
}

/// What to fetch and when to stop.
#[derive(Clone, Copy, Debug)]
pub struct Get<'a> {
    /// URL of the file.
    pub url: &'a str,
    /// A body longer than this many bytes is refused.
    pub limit: u64,
    /// Bytes exactly, when they are known.
    pub len: Option<u64>,
    /// The end of all patience.
    pub until: Instant,
    /// Past caches on the way.
    pub fresh: bool,
    /// Not over a connection that was used before.
    pub new_connection: bool,
    /// What others end it by.
    pub handle: Option<&'a Arc<RequestHandle>>,
}

impl<'a> Get<'a> {
    /// A file of whatever length up to `limit`.
    pub fn new(url: &'a str, limit: u64, until: Instant) -> Self {
        Get { url, limit, len: None, until, fresh: false, new_connection: false, handle: None }
    }
}

/// A file that came. Nothing is known about its contents.
#[derive(Debug)]
pub struct Answer {
    pub bytes: Vec<u8>,
    /// Whether it looks like a web page.
    pub web_page: bool,
    /// From the request to the head of the answer, without what we did not want to take it.
    pub first_byte: Duration,
    /// From the request to the end of the body.
    pub whole: Duration,
}

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum BadCa {
    #[error("contains no certificate in PEM form (-----BEGIN CERTIFICATE-----)")]
    None,
    #[error("contains a damaged certificate")]
    Pem(#[source] ureq::Error),
}

/// The HTTP client. Connections are kept and used again; threads share it.
#[derive(Debug)]
pub struct Http {
    proxies: Proxies,
    agent: Agent,
    /// Opens a connection for each request, to measure the mirror and not a kept connection.
    newcomer: Agent,
    /// Trusts the authorities of `--ca`; ureq takes one set of authorities or another, not both.
    extra: Option<Agent>,
    /// Which of the two was right the last time.
    extra_first: AtomicBool,
    /// For plain HTTP through a proxy.
    forward: Option<Agent>,
}

impl Http {
    /// A client that keeps up to `connections` connections open to each host. `ca` is PEM: authorities that are
    /// trusted beside the built-in ones.
    ///
    /// # Errors
    /// [`BadCa`].
    pub fn new(
        proxies: Proxies,
        ca: Option<&[u8]>,
        connections: usize,
        patience: Timeouts,
    ) -> Result<Self, BadCa> {
        let config = |roots: Option<RootCerts>, connections: usize| {
            let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(tls::provider());
            let tls = if let Some(roots) = roots { tls.root_certs(roots) } else { tls };
            Agent::config_builder()
                .tls_config(tls.build())
                .proxy(None)
                .http_status_as_error(false)
                .max_redirects(0)
                .user_agent(concat!("imgfetch/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .max_response_header_size(MAX_HEADERS)
                .input_buffer_size(64 << 10)
                .output_buffer_size(8 << 10)
                .max_idle_connections(4 * connections)
                .max_idle_connections_per_host(connections)
                .max_idle_age(IDLE)
                .timeout_resolve(Some(patience.name))
                .timeout_connect(Some(patience.connect))
                .timeout_send_request(Some(patience.first_byte))
                .timeout_recv_response(Some(patience.first_byte))
                .timeout_per_read(Some(patience.stall))
                .build()
        };
        let extra = match ca {
            Some(pem) => {
                let roots = RootCerts::Specific(Arc::new(certificates(pem)?));
                Some(tracked(config(Some(roots), connections)))
            }
            None => None,
        };
        let forward = proxies.for_http().map(|proxy| forward::agent(config(None, connections), proxy));
        let agent = tracked(config(None, connections));
        let newcomer = tracked(config(None, 0));
        Ok(Http { proxies, agent, newcomer, extra, extra_first: AtomicBool::new(false), forward })
    }

    /// Fetches one file.
    ///
    /// # Errors
    /// [`FetchFault`], by `until` at the latest.
    pub fn get(&self, get: Get<'_>) -> Result<Answer, FetchFault> {
        let whole = || {
            let start = Instant::now();
            read(self.response(&get)?, &get, start)
        };
        match get.handle {
            Some(handle) => handle.during(whole),
            None => whole(),
        }
    }

    /// Begins to fetch a large file, which is read as it comes; nothing looks after its length but the caller.
    /// With it comes the length that the server announces.
    ///
    /// # Errors
    /// [`FetchFault`] for the head of the answer; the reader gives the system's errors.
    pub fn stream(&self, get: Get<'_>) -> Result<(Option<u64>, impl std::io::Read + use<>), FetchFault> {
        let response = self.response(&get)?;
        let headers = response.headers();
        if header(headers, CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html")) {
            return Err(FetchFault::WebPage);
        }
        let announced = announced(headers);
        if announced.is_some_and(|len| len > get.limit) {
            return Err(FetchFault::TooLong { limit: get.limit });
        }
        Ok((announced, response.into_body().into_with_config().limit(get.limit.saturating_add(1)).reader()))
    }

    /// The head of an answer with status 200, after all redirects.
    fn response(&self, get: &Get<'_>) -> Result<Response<Body>, FetchFault> {
        let mut url = get.url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask(&url, get)?;
            let status = response.status().as_u16();
            if status == 200 {
                return Ok(response);
            }
            let headers = end(response);
            match status {
                301 | 302 | 303 | 307 | 308 => {
                    let to = header(&headers, LOCATION).unwrap_or_default();
                    url = redirect_target(&url, to).map_err(FetchFault::Redirect)?;
                }
                403 | 404 | 410 => return Err(FetchFault::Missing(status)),
                429 | 503 => {
                    let secs = header(&headers, RETRY_AFTER).and_then(|text| text.parse().ok());
                    return Err(FetchFault::Busy { status, after: secs.map(Duration::from_secs) });
                }
                _ => return Err(FetchFault::Status(status)),
            }
        }
        Err(FetchFault::Redirect(format!(
            "more than {MAX_REDIRECTS}, the last to {}",
            formats::names::clip(&url)
        )))
    }

    /// One request and the head of its answer.
    fn ask(&self, url: &str, get: &Get<'_>) -> Result<Response<Body>, FetchFault> {
        let route = self.proxies.route(url);
        let mut use_extra = self.extra_first.load(Ordering::Relaxed);
        let mut fault = None;
        // A connection that was kept may have been closed by the other side meanwhile; and if one set of
        // authorities does not know the host's, the other may.
        for attempt in 0..3 {
            let agent = match (&route, &self.forward, &self.extra) {
                (Route::Forward, Some(agent), _) => agent,
                (_, _, Some(extra)) if use_extra => extra,
                _ if get.new_connection => &self.newcomer,
                _ => &self.agent,
            };
            match self.ask_agent(agent, &route, url, get) {
                Ok(response) => {
                    self.extra_first.store(use_extra, Ordering::Relaxed);
                    return Ok(response);
                }
                Err(error) => {
                    let untrusted = is_untrusted(&error) && self.extra.is_some();
                    use_extra ^= untrusted;
                    match fault_of(error, Part::Head) {
                        ended if get.handle.is_some_and(|handle| handle.is_over()) => return Err(ended),
                        // Broken twice, or unknown to both: it is so.
                        again if untrusted && attempt == 0 => fault = Some(again),
                        again @ FetchFault::Broken(_) if attempt < 2 => fault = Some(again),
                        other => return Err(other),
                    }
                }
            }
        }
        Err(fault.unwrap_or(FetchFault::TimedOut(Wait::Whole)))
    }

    fn ask_agent(
        &self,
        agent: &Agent,
        route: &Route,
        url: &str,
        get: &Get<'_>,
    ) -> Result<Response<Body>, Error> {
        let left = get.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Timeout(Timeout::Global));
        }
        let mut request = agent.get(url);
        if get.fresh {
            request = request.header("cache-control", "no-cache").header("pragma", "no-cache");
        }
        let config = request.config().timeout_global(Some(left));
        match route {
            Route::Tunnel(proxy) => config.proxy(Some(proxy.clone())).build().call(),
            Route::Direct | Route::Forward => config.build().call(),
        }
    }
}

/// As ureq makes it by default, with connections that can be tracked.
fn tracked(config: ureq::config::Config) -> Agent {
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(TrackingConnector(TcpConnector::default()))
            .chain(RustlsConnector::default());
    Agent::with_parts(config, connector, DefaultResolver::default())
}

fn certificates(pem: &[u8]) -> Result<Vec<ureq::tls::Certificate<'static>>, BadCa> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(BadCa::Pem)? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(BadCa::None) } else { Ok(found) }
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The bytes that the head of an answer announces.
fn announced(headers: &HeaderMap) -> Option<u64> {
    header(headers, CONTENT_LENGTH)?.parse().ok()
}

/// An answer that is of no use is read to its end, if that is near. Its head.
fn end(response: Response<Body>) -> HeaderMap {
    let (head, body) = response.into_parts();
    if announced(&head.headers).is_some_and(|len| len <= SHORT) {
        // What goes wrong there only costs the connection.
        let _ = std::io::copy(&mut body.into_reader(), &mut std::io::sink());
    }
    head.headers
}

/// The body, when its head fits.
fn read(response: Response<Body>, get: &Get<'_>, start: Instant) -> Result<Answer, FetchFault> {
    let waited = get.handle.map_or(Duration::ZERO, |handle| handle.waited());
    let first_byte = start.elapsed().saturating_sub(waited);
    let headers = response.headers();
    let announced = announced(headers);
    let html = header(headers, CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html"));
    let encoding = header(headers, CONTENT_ENCODING).filter(|found| *found != "identity");
    if let Some(encoding) = encoding.map(formats::names::clip) {
        end(response);
        return Err(FetchFault::Encoded(encoding));
    }
    let check = |found: u64| match get.len {
        Some(want) if found != want => {
            Err(if html { FetchFault::WebPage } else { FetchFault::Length { found, want } })
        }
        None if found > get.limit => Err(FetchFault::TooLong { limit: get.limit }),
        _ => Ok(()),
    };
    if let Err(fault) = announced.map_or(Ok(()), check) {
        end(response);
        return Err(fault);
    }

    let most = get.len.unwrap_or(get.limit);
    let mut bytes = Vec::new();
    // Room for what is announced, but not for more than a block before any of it has come.
    bytes.reserve_exact(usize::try_from(announced.unwrap_or(0).min(1 << 20)).unwrap_or(0) + 1);
    let body = response.into_body().into_with_config().limit(u64::MAX).reader();
    body.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| {
        // What the sender may have wanted to say when it broke off is not known.
        fault_of(Error::from(error), Part::Body)
    })?;
    let html = html || looks_like_html(&bytes);
    match check(bytes.len() as u64) {
        Err(_) if html => Err(FetchFault::WebPage),
        Err(fault) => Err(fault),
        Ok(()) => Ok(Answer { bytes, web_page: html, first_byte, whole: start.elapsed() }),
    }
}

fn looks_like_html(bytes: &[u8]) -> bool {
    let head = bytes.get(..bytes.len().min(256)).unwrap_or_default().trim_ascii_start().to_ascii_lowercase();
    head.starts_with(b"<!doctype html") || head.starts_with(b"<html")
}

/// Where in an exchange something failed.
#[derive(Clone, Copy)]
enum Part {
    Head,
    Body,
}

fn is_untrusted(error: &Error) -> bool {
    // rustls' own type is not ours to name; its text is stable enough, and only costs a second try.
    error.to_string().contains("invalid peer certificate")
}

/// A certificate that is not valid now may only meet a clock that is wrong.
fn with_clock(error: String) -> String {
    if error.contains("NotValidYet")
        || error.contains("certificate: Expired")
        || error.contains("not valid yet")
    {
        return format!("{error}; check the clock: it shows {}", clock::now().date());
    }
    error
}

fn fault_of(error: Error, part: Part) -> FetchFault {
    use std::io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, NotConnected, TimedOut, UnexpectedEof,
        WouldBlock, WriteZero,
    };
    let waited = match part {
        Part::Head => Wait::FirstByte,
        Part::Body => Wait::MoreBytes,
    };
    match error {
        Error::Timeout(Timeout::Resolve) => FetchFault::TimedOut(Wait::Name),
        Error::Timeout(Timeout::Connect) => FetchFault::TimedOut(Wait::Connection),
        Error::Timeout(Timeout::Global | Timeout::PerCall) => FetchFault::TimedOut(Wait::Whole),
        Error::Timeout(_) => FetchFault::TimedOut(waited),
        Error::HostNotFound => FetchFault::Unreachable("no such host".into()),
        Error::Io(error) => match error.kind() {
            TimedOut | WouldBlock => FetchFault::TimedOut(waited),
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected | WriteZero => {
                FetchFault::Broken(error.to_string())
            }
            InvalidData if matches!(part, Part::Body) => FetchFault::Broken(error.to_string()),
            _ => FetchFault::Unreachable(with_clock(error.to_string())),
        },
        Error::Protocol(error) => FetchFault::Protocol(error.to_string()),
        Error::LargeResponseHeader(..) => {
            FetchFault::Protocol(format!("more than {MAX_HEADERS} bytes of headers"))
        }
        other => match part {
            Part::Head => FetchFault::Unreachable(with_clock(other.to_string())),
            Part::Body => FetchFault::Broken(other.to_string()),
        },
    }
}
