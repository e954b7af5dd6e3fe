//! One request of a publisher: any method, a body, and an answer of any status.

use std::io::Read as _;
use std::time::Duration;

use ureq::Error;
use ureq::http::header::{DATE, LAST_MODIFIED, LOCATION, RETRY_AFTER};
use ureq::http::{Method, Request};

use super::faults::{Part, fault_of};
use super::proxies::Route;
use super::{Http, announced, header};
use formats::calendar::seconds_of_date;
use formats::fetch_fault::FetchFault;
use formats::names::UnixTime;

/// A request that may be sent several times.
#[derive(Clone, Debug)]
pub struct Exchange<'a> {
    /// `GET`, `PUT`, ...
    pub method: &'static str,
    pub url: &'a str,
    /// Headers of the request beside those that every request has.
    pub headers: Vec<(&'static str, String)>,
    /// The request body; empty unless the method is PUT.
    pub body: &'a [u8],
    /// Bytes of the answer at most.
    pub limit: u64,
}

/// What a server answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// The length of the file, as the server says.
    pub len: Option<u64>,
    /// The server's clock.
    pub date: Option<UnixTime>,
    /// When the file was last written, by the server's clock.
    pub modified: Option<UnixTime>,
    /// For how long the server wants to be left alone.
    pub retry_after: Option<Duration>,
    /// Where else the file is.
    pub location: Option<String>,
    /// The response body, as far as the limit of the request.
    pub body: Vec<u8>,
}

impl Http {
    /// Asks once; no redirect is followed.
    ///
    /// # Errors
    /// [`FetchFault`] when there was no answer.
    pub fn exchange(&self, ask: &Exchange<'_>) -> Result<Reply, FetchFault> {
        let route = self.proxies.route(ask.url);
        self.exchange_by(&route, ask).map_err(|error| fault_of(error, Part::Head).by_way_of(route.proxy()))
    }

    fn exchange_by(&self, route: &Route<'_>, ask: &Exchange<'_>) -> Result<Reply, Error> {
        let method = Method::from_bytes(ask.method.as_bytes()).map_err(|error| Error::Http(error.into()))?;
        let mut request = Request::builder().method(method).uri(ask.url);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        if let Route::Forward(upstream) = route
            && let Some(authorization) = &upstream.authorization
        {
            request = request.header("proxy-authorization", authorization);
        }
        let proxy = match route {
            Route::Tunnel(upstream) => Some(upstream.tunnel.clone()),
            Route::Direct | Route::Forward(_) => None,
        };
        let agent = self.agent_for(route, false);
        let response = if ask.method == "PUT" {
            agent.run(agent.configure_request(request.body(ask.body)?).proxy(proxy).build())?
        } else {
            agent.run(agent.configure_request(request.body(())?).proxy(proxy).build())?
        };
        let headers = response.headers();
        let time = |name| {
            let seconds = seconds_of_date(header(headers, name)?)?;
            Some(UnixTime(u64::try_from(seconds).ok()?))
        };
        // Seconds, or a time by the server's clock.
        let later = time(RETRY_AFTER).zip(time(DATE)).map(|(later, now)| later.0.saturating_sub(now.0));
        let seconds = header(headers, RETRY_AFTER).and_then(|text| text.trim().parse().ok()).or(later);
        let mut reply = Reply {
            status: response.status().as_u16(),
            len: announced(headers),
            date: time(DATE),
            modified: time(LAST_MODIFIED),
            retry_after: seconds.map(Duration::from_secs),
            location: header(headers, LOCATION).map(str::to_owned),
            body: Vec::new(),
        };
        if ask.method != "HEAD" {
            let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
            reader.take(ask.limit.saturating_add(1)).read_to_end(&mut reply.body)?;
        }
        Ok(reply)
    }
}
