//! TLS, and the certificate authorities that are trusted.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use super::bounded::{BoundedStream, is_too_much};
use super::error::{SendError, SendErrorKind};
use super::url::Host;

/// The side of TLS that connects.
#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl Tls {
    /// Trusts the certificate authorities that Mozilla does.
    pub(super) fn new() -> Self {
        Self::trusting(mozilla())
    }

    /// Trusts further authorities, by their certificates in DER.
    pub(super) fn with_roots(
        certificates: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Result<Self, RootError> {
        let mut roots = mozilla();
        for (at, certificate) in certificates.into_iter().enumerate() {
            let certificate = CertificateDer::from(certificate.as_ref().to_vec());
            roots.add(certificate).map_err(|_| RootError(at))?;
        }
        Ok(Self::trusting(roots))
    }

    fn trusting(roots: RootCertStore) -> Self {
        // The provider is named, since the application may have compiled in another one, too.
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the suites of TLS 1.2 and 1.3");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Each request checks the certificate anew.
        config.resumption = Resumption::disabled();
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// Agrees on TLS with the host of that name or address.
    pub(super) async fn connect(
        &self,
        host: &Host,
        stream: BoundedStream,
    ) -> Result<TlsStream<BoundedStream>, SendError> {
        let connected = self.0.connect(server_name(host)?, stream).await;
        connected.map_err(|error| failed(&error))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// An error for a certificate that cannot be one of an authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate number {0}, counted from 0, is not an X.509 certificate in DER")]
pub struct RootError(usize);

fn mozilla() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

fn server_name(host: &Host) -> Result<ServerName<'static>, SendError> {
    match host {
        Host::Address(address) => Ok(ServerName::from(*address)),
        Host::Name(name) => ServerName::try_from(name.to_string()).map_err(|_| {
            let detail = "no certificate can have such a host";
            SendError::new(SendErrorKind::UrlRefused, detail)
        }),
    }
}

/// Describes an error in words of ours: those of `rustls` quote the certificate, which strangers
/// write.
fn failed(error: &io::Error) -> SendError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let detail = match inner {
        Some(Error::InvalidCertificate(reason)) => format!("the certificate {}", fault(reason)),
        Some(Error::AlertReceived(alert)) => format!("the receiver refused TLS: {alert:?}"),
        _ if is_too_much(error) => "the receiver sent too much while agreeing on TLS".to_owned(),
        Some(_) => "the receiver does not speak TLS 1.2 or 1.3 as it should".to_owned(),
        None => format!(
            "the connection ended while agreeing on TLS: {}",
            error.kind()
        ),
    };
    SendError::new(SendErrorKind::TlsFailed, detail)
}

fn fault(reason: &CertificateError) -> &'static str {
    match reason {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another host"
        }
        CertificateError::UnknownIssuer => "is of an authority that is not trusted",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet"
        }
        _ => "is not valid",
    }
}
