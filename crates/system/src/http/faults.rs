//! What ureq and rustls say went wrong, in our words.

use rustls::CertificateError as Bad;
use ureq::{Error, Timeout};

use super::options::MAX_HEADERS;
use crate::clock;
use formats::fetch_fault::{FetchFault, Wait};

/// Where in an exchange something failed.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Head,
    Body,
}

/// A proxy's refusal, and what may be done.
pub(super) fn proxy_refuses(said: &str) -> FetchFault {
    let hint = if said.contains("407") {
        "; it wants a user and a password: write USER:PASSWORD@ before its host"
    } else {
        "; perhaps it allows no such host or port"
    };
    FetchFault::Proxy(format!("{said}{hint}"))
}

/// What ureq's `proxy server responded 403/403` says.
fn proxy_fault(text: &str) -> FetchFault {
    match text.strip_prefix("proxy server responded ").and_then(|rest| rest.split('/').next()) {
        Some(status) => proxy_refuses(&format!("HTTP {status}")),
        None => FetchFault::Proxy(text.into()),
    }
}

/// Why there is no secure connection, and what may be done.
fn tls_fault(error: &rustls::Error) -> FetchFault {
    const OURS: &str = "this program takes TLS 1.2 and 1.3 with AES-GCM, key exchange by X25519, P-256 or P-384, and \
                        certificates of RSA, P-256, P-384 or Ed25519";
    FetchFault::Tls(match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => {
                "the server's certificate is of an authority that is not known here; if it is your \
                                   own, name its file with --ca or SSL_CERT_FILE"
                    .into()
            }
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                let when = if matches!(bad, Bad::Expired | Bad::ExpiredContext { .. }) {
                    "no longer"
                } else {
                    "not yet"
                };
                format!(
                    "the server's certificate is {when} valid; check the clock: it shows {}",
                    clock::now().date()
                )
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "the server's certificate is for another name; check the address".into()
            }
            Bad::UnsupportedSignatureAlgorithmContext { .. }
            | Bad::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                format!("the server's certificate is of a kind that is not supported: {OURS}")
            }
            Bad::Other(_) => format!(
                "the server's certificate is not accepted ({bad}); one that is its own authority can't be used"
            ),
            bad => format!("the server's certificate is not accepted: {bad}"),
        },
        rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_) => {
            format!("the server refuses, or has nothing in common with us ({error}): {OURS}")
        }
        rustls::Error::InvalidMessage(_) => {
            format!("the server does not speak TLS on this port ({error}); is its address http://?")
        }
        error => error.to_string(),
    })
}

pub(super) fn fault_of(error: Error, part: Part) -> FetchFault {
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
            _ => FetchFault::Unreachable(error.to_string()),
        },
        Error::Rustls(error) => tls_fault(&error),
        Error::ConnectProxyFailed(text) => proxy_fault(&text),
        Error::Protocol(error) => FetchFault::Protocol(error.to_string()),
        Error::LargeResponseHeader(..) => {
            FetchFault::Protocol(format!("more than {MAX_HEADERS} bytes of headers"))
        }
        other => match part {
            Part::Head => FetchFault::Unreachable(other.to_string()),
            Part::Body => FetchFault::Broken(other.to_string()),
        },
    }
}
