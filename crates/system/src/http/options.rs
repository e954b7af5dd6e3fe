//! How a program reaches web servers, and the one place that makes HTTP agents: algorithms and authorities of TLS,
//! proxies and patience are the same whoever asks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use ureq::Agent;
use ureq::config::Config;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};

use super::authorities::{self, BadCa};
use super::families::Families;
use super::names::KeepingResolver;
use super::proxies::{BadProxy, Proxies};
use super::request_handle::TrackingConnector;
use super::route::RedirectScope;
use super::tls::{self, TlsConnector};
use super::{Http, forward};
use crate::files::FileError;

/// All headers of an answer.
pub(super) const MAX_HEADERS: usize = 16 << 10;
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
            // Longer than a resolver waits for a name server that is away, and for the next.
            name: Duration::from_secs(12),
            connect: Duration::from_secs(4),
            first_byte: Duration::from_secs(10),
            stall: Duration::from_secs(10),
        }
    }
}

/// How a program reaches web servers. The environment adds to it (`http_proxy` and its like, `SSL_CERT_FILE`); it is
/// read when a client is made, so that a program that needs no web server does not mind what is wrong there.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Name and version of the program, for the logs of servers.
    pub user_agent: &'static str,
    /// `--proxy`: the address of a proxy for all servers, or `none`; without it the environment decides.
    pub proxy: Option<String>,
    /// `--ca`: a file of further authorities.
    pub ca: Option<PathBuf>,
    /// Whether the authorities count that the system trusts.
    pub system_authorities: bool,
    /// Where redirects may lead.
    pub redirects: RedirectScope,
}

impl HttpOptions {
    /// Without any proxy, and with the built-in authorities: for servers of this machine.
    pub fn direct() -> Self {
        let proxy = Some("none".into());
        HttpOptions {
            user_agent: "imgfetch",
            proxy,
            ca: None,
            system_authorities: false,
            redirects: RedirectScope::AnyHost,
        }
    }
}

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum BadHttp {
    #[error(transparent)]
    Proxy(#[from] BadProxy),
    /// A file of authorities can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{place}{}", path.display())]
    Ca {
        /// The option or variable that names the file, up to its name.
        place: &'static str,
        path: PathBuf,
        source: BadCa,
    },
}

impl Http {
    /// A client that keeps up to `connections` connections open to each host.
    ///
    /// # Errors
    /// [`BadHttp`].
    pub fn open(options: &HttpOptions, connections: usize, patience: Timeouts) -> Result<Self, BadHttp> {
        let proxies = match options.proxy.as_deref() {
            Some("none") => Proxies::default(),
            Some(proxy) => Proxies::only(proxy, "--proxy")?,
            None => Proxies::from_env()?,
        };
        let tls = tls::config(authorities::trusted(options.ca.as_deref(), options.system_authorities)?);
        let (names, families) = (KeepingResolver::default(), Arc::<Families>::default());
        let forward = proxies.for_http().map(|proxy| {
            let config = config(options, connections, patience);
            forward::agent(config, proxy, TlsConnector::to_proxy(&tls, proxy))
        });
        let agent = agent(config(options, connections, patience), &tls, &names, &families);
        let newcomer = self::agent(config(options, 0, patience), &tls, &names, &families);
        let (redirects, known_hosts) = (options.redirects, Default::default());
        Ok(Http { proxies, agent, newcomer, forward, redirects, known_hosts })
    }
}

fn config(options: &HttpOptions, connections: usize, patience: Timeouts) -> Config {
    Agent::config_builder()
        .proxy(None)
        .http_status_as_error(false)
        .max_redirects(0)
        .allow_non_standard_methods(true)
        .user_agent(options.user_agent)
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
        .timeout_per_write(Some(patience.stall))
        .build()
}

/// With connections that can be tracked; through a tunnel when a request names a proxy.
fn agent(
    config: Config,
    tls: &Arc<ClientConfig>,
    names: &KeepingResolver,
    families: &Arc<Families>,
) -> Agent {
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(TrackingConnector(TcpConnector::default(), Arc::clone(families)))
            .chain(TlsConnector::new(tls));
    Agent::with_parts(config, connector, names.clone())
}
