//! Errors of requests that got no answer.

use std::fmt;

/// An error for a request that got no answer.
///
/// The text is for operators: it may name addresses of your network. The owner of an endpoint is
/// shown the [cause for owners](SendErrorKind::cause_for_owners) only. There are no secrets in the
/// text, no path of a URL, and nothing that the receiver sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct SendError {
    kind: SendErrorKind,
    detail: Box<str>,
}

impl SendError {
    /// Creates an error, for a [client](crate::webhook::WebhookClient) of your own. Leave secrets
    /// and the receiver's answer out of the text.
    pub fn new(kind: SendErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into().into(),
        }
    }

    /// Returns the kind.
    pub const fn kind(&self) -> SendErrorKind {
        self.kind
    }
}

/// The reason why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// The client does not send to such a URL: its scheme or its port is not allowed. Another process
    /// may have other settings, so the delivery is tried again.
    UrlRefused,
    /// The host has no address that the client connects to.
    AddressRefused,
    /// The name of the host could not be resolved.
    DnsFailed,
    /// No connection could be made.
    ConnectFailed,
    /// TLS could not be agreed on, or the certificate is not that of the host.
    TlsFailed,
    /// The time limit was over.
    TimeLimit,
    /// The receiver closed the connection, or sent something other than an answer in HTTP/1.1 of a
    /// reasonable size.
    MalformedAnswer,
}

impl SendErrorKind {
    /// Returns the kind as a word that does not change, such as for a database or a metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UrlRefused => "url_refused",
            Self::AddressRefused => "address_refused",
            Self::DnsFailed => "dns_failed",
            Self::ConnectFailed => "connect_failed",
            Self::TlsFailed => "tls_failed",
            Self::TimeLimit => "time_limit",
            Self::MalformedAnswer => "malformed_answer",
        }
    }

    /// Returns the kind as the owner of an endpoint may know it: [`as_str`](Self::as_str), but
    /// `host_not_reached` for a host without an allowed address, and for a name that could not be
    /// resolved. Otherwise URLs would tell which names your network has.
    pub const fn cause_for_owners(self) -> &'static str {
        match self {
            Self::AddressRefused | Self::DnsFailed => "host_not_reached",
            other => other.as_str(),
        }
    }
}

impl fmt::Display for SendErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
