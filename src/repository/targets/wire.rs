//! Requests of publishers: small bodies, patience, and a second try where one is worth it.

use std::io::Read as _;
use std::thread;
use std::time::Duration;

use ureq::http::{Method, Request};
use ureq::{Agent, Error};

use crate::publish::RemoteError;

/// Attempts for one request.
const ATTEMPTS: u32 = 6;
/// Before the second attempt; doubled each time.
const PAUSE: Duration = Duration::from_millis(250);

/// What a server said.
#[derive(Debug)]
pub struct ServerResponse {
    pub status: u16,
    /// The length of the file, as it says.
    pub len: Option<u64>,
    /// The response body, as far as the limit of the request.
    pub body: Vec<u8>,
}

/// A request that may be sent several times.
#[derive(Clone, Debug)]
pub struct ServerRequest<'a> {
    /// `GET`, `PUT`, ...
    pub method: &'static str,
    pub url: &'a str,
    /// Words to the server.
    pub headers: Vec<(&'static str, String)>,
    /// The request body; empty unless the method is PUT.
    pub body: &'a [u8],
    /// Bytes of the answer at most.
    pub limit: u64,
}

/// A client whose connections are kept.
#[derive(Debug)]
pub struct Wire {
    agent: Agent,
}

impl Wire {
    /// A client that keeps so many connections.
    pub fn new(jobs: usize) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .allow_non_standard_methods(true)
            .user_agent(concat!("imgfactory/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .max_idle_connections(jobs)
            .max_idle_connections_per_host(jobs)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(120)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build();
        Wire { agent: config.new_agent() }
    }

    /// Asks until there is an answer that another try will not change.
    ///
    /// # Errors
    /// [`RemoteError`] when there was none.
    pub fn ask(&self, ask: &ServerRequest<'_>, shown: &str) -> Result<ServerResponse, RemoteError> {
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let result = self.once(ask);
            let again = match &result {
                Ok(said) => matches!(said.status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
                // What is wrong with the address or with TLS stays wrong.
                Err(Error::BadUri(_) | Error::Tls(_) | Error::Rustls(_) | Error::HostNotFound) => false,
                Err(_) => true,
            };
            if !again || attempt == ATTEMPTS {
                return result
                    .map_err(|error| RemoteError::new(format!("{shown}: {} failed", ask.method), error));
            }
            let why = match result {
                Ok(said) => format!("HTTP {}", said.status),
                Err(error) => error.to_string(),
            };
            log::info!("{shown}: {why}; trying again");
            thread::sleep(pause);
            pause *= 2;
            attempt += 1;
        }
    }

    fn once(&self, ask: &ServerRequest<'_>) -> Result<ServerResponse, Error> {
        let method = Method::from_bytes(ask.method.as_bytes()).map_err(|error| Error::Http(error.into()))?;
        let mut request = Request::builder().method(method).uri(ask.url);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let response = if ask.method == "PUT" {
            self.agent.run(request.body(ask.body)?)?
        } else {
            self.agent.run(request.body(())?)?
        };
        let status = response.status().as_u16();
        let len =
            response.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = Vec::new();
        if ask.method != "HEAD" {
            let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
            reader.take(ask.limit.saturating_add(1)).read_to_end(&mut body)?;
        }
        Ok(ServerResponse { status, len, body })
    }
}

/// What to say of an answer that should not have come.
pub fn unexpected(shown: &str, doing: &str, said: &ServerResponse) -> RemoteError {
    let hint = match said.status {
        401 | 403 => "; check IMGFACTORY_HTTP_USER and _PASSWORD (or _TOKEN), or for S3 the AWS_ keys",
        405 => "; allow PUT and DELETE there on the server",
        409 => "; create the directory",
        413 => "; the server's limit for uploads is too low (nginx: client_max_body_size)",
        507 => "; the server's disk is full",
        _ => "",
    };
    let text = String::from_utf8_lossy(said.body.get(..said.body.len().min(300)).unwrap_or_default());
    // A page for browsers says no more than its status; S3's XML does.
    let page = text.to_ascii_lowercase().contains("<html");
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = if text.trim().is_empty() || page { String::new() } else { format!(" ({})", text.trim()) };
    RemoteError::new(format!("{shown}: can't {doing}"), format!("HTTP {}{hint}{text}", said.status))
}
