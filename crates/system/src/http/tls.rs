//! What of TLS our programs speak: each algorithm is paid for in the miniroot. Left out, against what the libraries
//! offer: ChaCha20-Poly1305 (a server that has it has AES-GCM too) and client certificates. Certificates may be signed
//! with anything that browsers take. Key exchange over P-384 is there for certificates of P-384 too: with TLS 1.2 a
//! server presents no certificate of a curve that the client does not list (RFC 8422, section 5.1).

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use rustls::client::ClientConnection;
use rustls::crypto::ring::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms};
use rustls::pki_types::{PrivateKeyDer, ServerName, SignatureVerificationAlgorithm};
use rustls::sign::SigningKey;
use rustls::{ALL_VERSIONS, ClientConfig, RootCertStore, SignatureScheme, StreamOwned, SupportedCipherSuite};
use ureq::Error;
use ureq::http::Uri;
use ureq::unversioned::transport::time::{Duration, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};
use webpki::ring::{
    ECDSA_P256_SHA256, ECDSA_P256_SHA384, ECDSA_P384_SHA256, ECDSA_P384_SHA384, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256_LEGACY_KEY, RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
};

const SUITES: &[SupportedCipherSuite] = &[
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

const SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[
    ECDSA_P256_SHA256,
    ECDSA_P256_SHA384,
    ECDSA_P384_SHA256,
    ECDSA_P384_SHA384,
    ED25519,
    RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512,
];

/// In the order of preference. TLS 1.2 does not bind an ECDSA scheme to a curve: all are tried in turn.
const SCHEMES: &[(SignatureScheme, &[&dyn SignatureVerificationAlgorithm])] = &[
    (SignatureScheme::ECDSA_NISTP384_SHA384, &[ECDSA_P384_SHA384, ECDSA_P256_SHA384]),
    (SignatureScheme::ECDSA_NISTP256_SHA256, &[ECDSA_P256_SHA256, ECDSA_P384_SHA256]),
    (SignatureScheme::ED25519, &[ED25519]),
    (SignatureScheme::RSA_PSS_SHA512, &[RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
    (SignatureScheme::RSA_PSS_SHA384, &[RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
    (SignatureScheme::RSA_PSS_SHA256, &[RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
    (SignatureScheme::RSA_PKCS1_SHA512, &[RSA_PKCS1_2048_8192_SHA512]),
    (SignatureScheme::RSA_PKCS1_SHA384, &[RSA_PKCS1_2048_8192_SHA384]),
    (SignatureScheme::RSA_PKCS1_SHA256, &[RSA_PKCS1_2048_8192_SHA256]),
];

/// What every TLS connection of a client uses: our algorithms, and the authorities that are trusted.
pub(super) fn config(authorities: RootCertStore) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(ALL_VERSIONS)
        .expect("the provider has cipher suites of TLS 1.2 and 1.3");
    Arc::new(builder.with_root_certificates(authorities).with_no_client_auth())
}

/// Wraps a connection in TLS when the server's address, or the proxy's, is https.
pub(super) struct TlsConnector {
    config: Arc<ClientConfig>,
    /// Every connection leads to this proxy, whatever address is asked for.
    proxy: Option<Uri>,
}

impl TlsConnector {
    /// For connections to whatever address is asked for, proxies included.
    pub(super) fn new(config: &Arc<ClientConfig>) -> Self {
        TlsConnector { config: Arc::clone(config), proxy: None }
    }

    /// For connections that all lead to this proxy.
    pub(super) fn to_proxy(config: &Arc<ClientConfig>, proxy: &Uri) -> Self {
        TlsConnector { config: Arc::clone(config), proxy: Some(proxy.clone()) }
    }
}

impl std::fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(&self, to: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        let uri = self.proxy.as_ref().unwrap_or(to.uri);
        if uri.scheme_str() != Some("https") || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|_| Error::Tls("the host has no valid name"))?;
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name)?;
        let mut socket = TransportAdapter::new(transport.boxed(), Arc::clone(&to.current_time));
        socket.set_timeout(left(to));
        connection.complete_io(&mut socket).map_err(tls_error)?;
        let buffers = LazyBuffers::new(to.config.input_buffer_size(), to.config.output_buffer_size());
        Ok(Some(Either::B(TlsTransport { buffers, stream: StreamOwned::new(connection, socket) })))
    }
}

/// The time for a connection, less what the steps before this one took.
fn left(to: &ConnectionDetails<'_>) -> NextTimeout {
    let mut timeout = to.timeout;
    if let (Duration::Exact(all), Instant::Exact(began), Instant::Exact(now)) =
        (timeout.after, to.now, (to.current_time)())
    {
        timeout.after = Duration::Exact(all.saturating_sub(now.saturating_duration_since(began)));
    }
    timeout
}

/// A connection within TLS.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        self.stream.write_all(output).map_err(tls_error)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input).map_err(tls_error)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// rustls hands its own errors on within the system's.
fn tls_error(error: io::Error) -> Error {
    match error.downcast::<rustls::Error>() {
        Ok(error) => error.into(),
        Err(error) => error.into(),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: SUITES.to_vec(),
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        signature_verification_algorithms: WebPkiSupportedAlgorithms { all: SIGNATURES, mapping: SCHEMES },
        secure_random: &KernelRandom,
        key_provider: &KernelRandom,
    })
}

#[derive(Debug)]
struct KernelRandom;

impl SecureRandom for KernelRandom {
    fn fill(&self, mut buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        while !buffer.is_empty() {
            let got = rustix::rand::getrandom(&mut *buffer, rustix::rand::GetRandomFlags::empty());
            let got = match got {
                Err(rustix::io::Errno::INTR) => continue,
                got => got.map_err(|_| GetRandomFailed)?,
            };
            buffer = &mut buffer[got..];
        }
        Ok(())
    }
}

impl KeyProvider for KernelRandom {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("no client certificates".into()))
    }
}
