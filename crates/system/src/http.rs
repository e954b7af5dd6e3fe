//! GET of small files over HTTP and HTTPS, directly or through a proxy, within bounds of time and size.
//!
//! ureq does the protocol. Ours are the bounds, the redirects (never to a weaker or another scheme), the way to
//! proxies, and the words for what went wrong ([`FetchFault`]).

mod authorities;
mod exchange;
mod families;
mod faults;
mod forward;
mod names;
mod no_proxy;
mod options;
mod proxies;
mod request_handle;
mod route;
mod tls;

use std::io::{Cursor, Read};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ureq::http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RETRY_AFTER, TRANSFER_ENCODING,
};
use ureq::http::{HeaderMap, HeaderName, Response};
use ureq::{Agent, Body, Error, Timeout};

pub use authorities::BadCa;
pub use exchange::{Exchange, Reply};
use faults::{Part, fault_of};
pub use options::{BadHttp, HttpOptions, Timeouts};
pub use proxies::BadProxy;
use proxies::{Proxies, Route};
pub use request_handle::RequestHandle;
pub use route::RedirectScope;
use route::redirect_target;

use formats::fetch_fault::FetchFault;

/// Redirects followed for one file.
const MAX_REDIRECTS: usize = 5;
/// The answer of a server that does not have the file: read to its end when it is no longer than this, so that the
/// next request can go over the same connection.
const SHORT: u64 = 16 << 10;
/// With heads, chunks and trailers no more comes than so many times the bytes of the file, and [`SMALL`]. Chunks of a
/// single byte take six.
const AROUND: u64 = 8;
const SMALL: u64 = 1 << 20;
/// By so many bytes at its beginning a web page is known.
const PAGE: usize = 256;

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
    /// What they seem to be if they are not the file: a web page, or the file in an encoding.
    pub instead: Option<FetchFault>,
    /// From the request to the head of the answer, without what we did not want to take it.
    pub first_byte: Duration,
    /// From the request to the end of the body.
    pub whole: Duration,
}

impl Answer {
    /// The bytes, unless they plainly are something else: for those who can't say what is wrong with a file.
    ///
    /// # Errors
    /// [`FetchFault::WebPage`], [`FetchFault::Encoded`].
    pub fn file(self) -> Result<Vec<u8>, FetchFault> {
        match self.instead {
            Some(FetchFault::WebPage) if !looks_like_html(&self.bytes) => Ok(self.bytes),
            // What is labelled so and does not begin so is the file itself, stored with a label of its own.
            Some(FetchFault::Encoded(name)) if !begins_encoded(&name, &self.bytes) => Ok(self.bytes),
            Some(fault) => Err(fault),
            None => Ok(self.bytes),
        }
    }
}

/// The HTTP client. Connections are kept and used again; threads share it.
#[derive(Debug)]
pub struct Http {
    proxies: Proxies,
    agent: Agent,
    /// Opens a connection for each request, to measure the mirror and not a kept connection.
    newcomer: Agent,
    /// For plain HTTP through a proxy.
    forward: Option<Agent>,
    redirects: RedirectScope,
    /// Hosts that redirects may lead to, beside the one that was asked.
    known_hosts: RwLock<Vec<String>>,
}

impl Http {
    /// Has redirects followed to the hosts of these addresses too.
    pub fn know_hosts<'a>(&self, urls: impl IntoIterator<Item = &'a str>) {
        let mut known = self.known_hosts.write().unwrap_or_else(PoisonError::into_inner);
        for host in urls.into_iter().filter_map(route::host) {
            if !known.contains(&host) {
                known.push(host);
            }
        }
    }

    /// Whether a redirect from the first address may lead to the second.
    fn may_follow(&self, from: &str, to: &str) -> Result<(), String> {
        let Some(host) = route::host(to) else { return Err(format!("to `{}`", formats::names::clip(to))) };
        let known = || self.known_hosts.read().unwrap_or_else(PoisonError::into_inner).contains(&host);
        if self.redirects == RedirectScope::AnyHost || route::host(from).as_ref() == Some(&host) || known() {
            return Ok(());
        }
        Err(format!("to {host}, which is none of the mirrors"))
    }

    /// Fetches one file.
    ///
    /// # Errors
    /// [`FetchFault`], by `until` at the latest.
    pub fn get(&self, get: Get<'_>) -> Result<Answer, FetchFault> {
        let most = get.len.unwrap_or(get.limit).saturating_mul(AROUND).saturating_add(SMALL);
        let whole = || {
            let start = Instant::now();
            request_handle::within(most, || read(self.response(&get)?, &get, start))
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
    pub fn stream(&self, get: Get<'_>) -> Result<(Option<u64>, impl Read + use<>), FetchFault> {
        let response = self.response(&get)?;
        let html = is_called_html(response.headers());
        let announced = announced(response.headers());
        if announced.is_some_and(|len| len > get.limit) {
            return Err(FetchFault::TooLong { limit: get.limit });
        }
        let mut body = response.into_body().into_with_config().limit(get.limit.saturating_add(1)).reader();
        let mut head = Vec::new();
        let begun = body.by_ref().take(PAGE as u64).read_to_end(&mut head);
        begun.map_err(|error| fault_of(Error::from(error), Part::Body))?;
        // Servers call files that they do not know whatever they like: what a page is shows in its first bytes.
        if looks_like_html(&head) || html && head.trim_ascii_start().starts_with(b"<") {
            return Err(FetchFault::WebPage);
        }
        Ok((announced, Cursor::new(head).chain(body)))
    }

    /// The head of an answer that brings the file, after all redirects.
    fn response(&self, get: &Get<'_>) -> Result<Response<Body>, FetchFault> {
        let mut url = get.url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask(&url, get)?;
            let status = response.status().as_u16();
            // 203: a proxy on the way says that it changed something; whether that is so, the bytes show.
            if matches!(status, 200 | 203) || status == 206 && is_whole(response.headers()) {
                return Ok(response);
            }
            let headers = end(response);
            match status {
                301 | 302 | 303 | 307 | 308 => {
                    let to = header(&headers, LOCATION).unwrap_or_default();
                    let target = redirect_target(&url, to).map_err(FetchFault::Redirect)?;
                    self.may_follow(get.url, &target).map_err(FetchFault::Redirect)?;
                    url = target;
                }
                407 => return Err(faults::proxy_refuses("HTTP 407")),
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
        // A connection that was kept may have been closed by the other side meanwhile; broken twice, it is so.
        for attempt in 0.. {
            match self.ask_once(&route, url, get) {
                Ok(response) => return Ok(response),
                Err(error) => match fault_of(error, Part::Head).by_way_of(route.proxy()) {
                    ended if get.handle.is_some_and(|handle| handle.is_over()) => return Err(ended),
                    FetchFault::Broken(_) if attempt < 2 => {}
                    other => return Err(other),
                },
            }
        }
        unreachable!("the last attempt returns")
    }

    fn ask_once(&self, route: &Route<'_>, url: &str, get: &Get<'_>) -> Result<Response<Body>, Error> {
        let left = get.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Timeout(Timeout::Global));
        }
        let mut request = self.agent_for(route, get.new_connection).get(url);
        if get.fresh {
            request = request.header("cache-control", "no-cache").header("pragma", "no-cache");
        }
        if let Route::Forward(upstream) = route
            && let Some(authorization) = &upstream.authorization
        {
            request = request.header("proxy-authorization", authorization);
        }
        let config = request.config().timeout_global(Some(left));
        match route {
            Route::Tunnel(upstream) => config.proxy(Some(upstream.tunnel.clone())).build().call(),
            Route::Direct | Route::Forward(_) => config.build().call(),
        }
    }

    fn agent_for(&self, route: &Route<'_>, new_connection: bool) -> &Agent {
        match (route, &self.forward) {
            (Route::Forward(_), Some(agent)) => agent,
            _ if new_connection => &self.newcomer,
            _ => &self.agent,
        }
    }
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The bytes that the head of an answer announces. In chunks, the body has whatever length it has (RFC 9112, 6.3).
fn announced(headers: &HeaderMap) -> Option<u64> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    header(headers, CONTENT_LENGTH)?.trim().parse().ok()
}

/// Whether a part that nobody asked for is all of the file: `Content-Range: bytes 0-9/10`.
fn is_whole(headers: &HeaderMap) -> bool {
    let range = header(headers, CONTENT_RANGE).and_then(|text| text.trim().strip_prefix("bytes 0-"));
    range.and_then(|range| range.split_once('/')).is_some_and(|(last, len)| {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        number(last).and_then(|last| last.checked_add(1)) == number(len) && number(len).is_some()
    })
}

fn is_called_html(headers: &HeaderMap) -> bool {
    header(headers, CONTENT_TYPE)
        .is_some_and(|kind| kind.trim().to_ascii_lowercase().starts_with("text/html"))
}

/// The encoding of a body, if the head names one that changes bytes. Object stores keep `aws-chunked` of an upload,
/// and some servers write what means nothing.
fn encoding(headers: &HeaderMap) -> Option<FetchFault> {
    let words =
        headers.get_all(CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    let mut named = words.map(|word| String::from_utf8_lossy(word).trim().to_ascii_lowercase());
    let real = |word: &String| !matches!(word.as_str(), "" | "identity" | "none" | "aws-chunked");
    named.find(real).map(|word| FetchFault::Encoded(formats::names::clip(&word)))
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

/// The body, when its head fits. What decides is the length here, and the digest later.
fn read(response: Response<Body>, get: &Get<'_>, start: Instant) -> Result<Answer, FetchFault> {
    let waited = get.handle.map_or(Duration::ZERO, |handle| handle.waited());
    let first_byte = start.elapsed().saturating_sub(waited);
    let headers = response.headers();
    let announced = announced(headers);
    let mut instead = encoding(headers).or(is_called_html(headers).then_some(FetchFault::WebPage));
    let check = |found: u64, instead: &Option<FetchFault>| {
        let fault = match get.len {
            Some(want) if found != want => FetchFault::Length { found, want },
            None if found > get.limit => FetchFault::TooLong { limit: get.limit },
            _ => return Ok(()),
        };
        Err(instead.clone().unwrap_or(fault))
    };
    if let Err(fault) = announced.map_or(Ok(()), |len| check(len, &instead)) {
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
    if looks_like_html(&bytes) {
        instead = Some(FetchFault::WebPage);
    }
    check(bytes.len() as u64, &instead)?;
    Ok(Answer { bytes, instead, first_byte, whole: start.elapsed() })
}

/// Whether bytes begin as those of an encoding do; of an encoding without a mark that is taken for granted.
fn begins_encoded(name: &str, bytes: &[u8]) -> bool {
    match name {
        "gzip" | "x-gzip" => bytes.starts_with(&[0x1f, 0x8b]),
        "zstd" => bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]),
        _ => true,
    }
}

fn looks_like_html(bytes: &[u8]) -> bool {
    let head = bytes.get(..bytes.len().min(PAGE)).unwrap_or_default().trim_ascii_start().to_ascii_lowercase();
    head.starts_with(b"<!doctype html") || head.starts_with(b"<html")
}

/// `Authorization` of a user with a password (RFC 7617).
pub fn basic(user: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("Basic ");
    for chunk in format!("{user}:{password}").as_bytes().chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let shown = digit <= chunk.len();
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if shown { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_and_a_password_are_written_as_in_the_rfc() {
        // Judge: printf 'Aladdin:open sesame' | base64
        for (user, password, coded) in
            [("Aladdin", "open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), ("", "", "Og=="), ("f", "o", "Zjpv")]
        {
            assert_eq!(basic(user, password), format!("Basic {coded}"));
        }
    }

    #[test]
    fn a_part_is_the_whole_when_it_begins_at_the_beginning_and_ends_at_the_end() {
        for (range, whole) in [
            ("bytes 0-9/10", true),
            ("bytes 0-8/10", false),
            ("bytes 1-9/10", false),
            ("bytes 0-9/*", false),
            ("bytes */10", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, range.parse().unwrap())]);
            assert_eq!(is_whole(&headers), whole, "{range}");
        }
        assert!(!is_whole(&HeaderMap::new()));
    }

    #[test]
    fn only_encodings_that_change_bytes_count() {
        for (words, named) in [
            (&[][..], None),
            (&[""], None),
            (&["Identity"], None),
            (&["none"], None),
            (&["aws-chunked"], None),
            (&["AWS-Chunked, identity", ","], None),
            (&["gzip"], Some("gzip")),
            (&["aws-chunked,GZIP"], Some("gzip")),
            (&["identity", "br"], Some("br")),
        ] {
            let headers = words.iter().map(|word| (CONTENT_ENCODING, word.parse().unwrap()));
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(name, value);
            }
            assert_eq!(encoding(&map), named.map(|word| FetchFault::Encoded(word.into())), "{words:?}");
        }
    }
}
