//! Plain HTTP through a proxy. ureq asks every proxy for a tunnel (CONNECT), which proxies as they are commonly
//! set up allow for HTTPS only, and nothing that goes through a tunnel is cached on the way. What plain HTTP
//! wants is the absolute form of RFC 9112, section 3.2.2: `GET http://mirror.example/latest HTTP/1.1`, sent to
//! the proxy.

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport,
};
use ureq::{Agent, Error};

use super::request_handle::TrackingConnector;

/// An agent whose every request goes to the proxy, in absolute form.
pub(super) fn agent(config: Config, proxy: &Uri) -> Agent {
    let connector = ().chain(TrackingConnector(TcpConnector::default())).chain(AbsoluteForm);
    Agent::with_parts(
        config,
        connector,
        ToProxy { proxy: proxy.clone(), resolver: DefaultResolver::default() },
    )
}

/// Whatever host is asked for: the proxy's address.
#[derive(Debug)]
struct ToProxy {
    proxy: Uri,
    resolver: DefaultResolver,
}

impl Resolver for ToProxy {
    fn resolve(&self, _: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        self.resolver.resolve(&self.proxy, config, timeout)
    }
}

#[derive(Debug)]
struct AbsoluteForm;

impl<In: Transport> Connector<In> for AbsoluteForm {
    type Out = Prefixed<In>;

    fn connect(&self, to: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let authority = to.uri.authority().map(ToString::to_string).unwrap_or_default();
        Ok(chained.map(|transport| Prefixed { transport, prefix: format!("http://{authority}") }))
    }
}

/// Puts scheme and host before the path of each request line.
#[derive(Debug)]
struct Prefixed<T> {
    transport: T,
    prefix: String,
}

const METHOD: &[u8] = b"GET ";

impl<T: Transport> Transport for Prefixed<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.transport.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let prefix = self.prefix.as_bytes();
        let output = self.transport.buffers().output();
        // A request of ours has no body, and ureq writes its head in one piece: a request line is where a write
        // begins with one.
        if !output.get(..amount).is_some_and(|written| written.starts_with(b"GET /")) {
            return self.transport.transmit_output(amount, timeout);
        }
        let longer = amount + prefix.len();
        if longer > output.len() {
            return Err(Error::Other("the address is too long for the proxy".into()));
        }
        output.copy_within(METHOD.len()..amount, METHOD.len() + prefix.len());
        output[METHOD.len()..METHOD.len() + prefix.len()].copy_from_slice(prefix);
        self.transport.transmit_output(longer, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.transport.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.transport.is_open()
    }

    fn is_tls(&self) -> bool {
        self.transport.is_tls()
    }
}
