//! Plain HTTP through a proxy. ureq asks every proxy for a tunnel (CONNECT), which proxies as they are commonly
//! set up allow for HTTPS only, and nothing that goes through a tunnel is cached on the way. What plain HTTP
//! wants is the absolute form of RFC 9112, section 3.2.2: `GET http://mirror.example/latest HTTP/1.1`, sent to
//! the proxy.

use std::sync::Arc;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport,
};
use ureq::{Agent, Error};

use super::names::KeepingResolver;
use super::request_handle::TrackingConnector;
use super::tls::TlsConnector;

/// An agent whose every request goes to the proxy, in absolute form.
pub(super) fn agent(config: Config, proxy: &Uri, tls: TlsConnector) -> Agent {
    let connector =
        ().chain(TrackingConnector(TcpConnector::default(), Arc::default())).chain(tls).chain(AbsoluteForm);
    Agent::with_parts(
        config,
        connector,
        ToProxy { proxy: proxy.clone(), resolver: KeepingResolver::default() },
    )
}

/// Whatever host is asked for: the proxy's address.
#[derive(Debug)]
struct ToProxy {
    proxy: Uri,
    resolver: KeepingResolver,
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
        Ok(chained.map(|transport| Prefixed {
            transport,
            prefix: format!("http://{authority}"),
            begins: true,
        }))
    }
}

/// Puts scheme and host before the path of each request line.
#[derive(Debug)]
struct Prefixed<T> {
    transport: T,
    prefix: String,
    /// Whether what is written next begins a request: nothing was written since the last answer.
    begins: bool,
}

impl<T: Transport> Transport for Prefixed<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.transport.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let prefix = self.prefix.as_bytes();
        let output = self.transport.buffers().output();
        // The head of a request is written before its body, and the next request only after an answer.
        if !std::mem::take(&mut self.begins) {
            return self.transport.transmit_output(amount, timeout);
        }
        let line = output.get(..amount).unwrap_or_default();
        let Some(path) = line.iter().position(|byte| *byte == b' ').map(|blank| blank + 1) else {
            return Err(Error::Other("a request without a path".into()));
        };
        let longer = amount + prefix.len();
        if longer > output.len() {
            return Err(Error::Other("the address is too long for the proxy".into()));
        }
        output.copy_within(path..amount, path + prefix.len());
        output[path..path + prefix.len()].copy_from_slice(prefix);
        self.transport.transmit_output(longer, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.begins = true;
        self.transport.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.transport.is_open()
    }

    fn is_tls(&self) -> bool {
        self.transport.is_tls()
    }
}
