//! Who may vouch for a server's certificate: the authorities that are built in, those of `--ca` and `SSL_CERT_FILE`,
//! and in the builder those that the system trusts. Each adds to the others; none takes away.

use std::env;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::options::BadHttp;
use crate::files::{FileError, read_at_most};

/// Files of authorities are not longer than this.
const MAX_FILE: u64 = 16 << 20;
/// The environment variable that names a file of authorities, as OpenSSL's programs and curl read it.
const VARIABLE: &str = "SSL_CERT_FILE";
/// The system's file of authorities: Debian and Arch, Fedora, SUSE, Alpine.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a file of authorities can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadCa {
    #[error("contains no certificate in PEM form (-----BEGIN CERTIFICATE-----)")]
    None,
    #[error("contains a damaged certificate")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("contains a certificate that can't be that of an authority")]
    Certificate(#[source] rustls::Error),
}

/// All authorities that count. `ca` is `--ca`; `system` says whether those of the system count.
///
/// # Errors
/// [`BadHttp`] names the file.
pub(super) fn trusted(ca: Option<&Path>, system: bool) -> Result<RootCertStore, BadHttp> {
    let mut store = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca {
        add(&mut store, "--ca ", path)?;
    }
    if let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        add(&mut store, "SSL_CERT_FILE=", Path::new(&path))?;
    }
    if system {
        add_system(&mut store);
    }
    Ok(store)
}

fn add(store: &mut RootCertStore, place: &'static str, path: &Path) -> Result<(), BadHttp> {
    let bad = |source| BadHttp::Ca { place, path: path.into(), source };
    let pem = read_at_most(path, MAX_FILE).map_err(|error| match error {
        // Which option or variable names the file is told before its name.
        FileError::Io { path, doing, source } => {
            FileError::Io { path: format!("{place}{}", path.display()).into(), doing, source }
        }
        other => other,
    })?;
    let before = store.len();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| bad(BadCa::Pem(error)))?;
        store.add(certificate).map_err(|error| bad(BadCa::Certificate(error)))?;
    }
    if store.len() == before { Err(bad(BadCa::None)) } else { Ok(()) }
}

/// What is wrong with the system's file is no fault of the person: what can be read of it counts.
fn add_system(store: &mut RootCertStore) {
    let found = SYSTEM.iter().find_map(|path| match read_at_most(path, MAX_FILE) {
        Ok(pem) => Some(pem),
        Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            log::warn!("{error}; continuing without the system's certificate authorities");
            None
        }
    });
    let pem = found.unwrap_or_default();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
}
