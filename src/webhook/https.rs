//! The client that connects by itself.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::client::WebhookClient;
use super::connect::connect;
use super::deadline::Deadline;
use super::error::{SendError, SendErrorKind};
use super::exchange::exchange;
use super::request::WebhookRequest;
use super::resolve::{DynResolve, Resolve, SystemResolver};
use super::response::WebhookResponse;
use super::rules::Rules;
use super::tls::{RootError, Tls};
use super::url::{Host, WebhookUrl};

/// The client that connects by itself, to public addresses only.
///
/// By default, the client sends to `https` on port 443. The name of the host is resolved once, each
/// address is checked ([`is_public`](crate::webhook::is_public)), and the connection is made to an
/// address that was checked. So no name leads into your network, even if it resolves to something
/// else a moment later. The certificate must be that of the name, by an authority that Mozilla
/// trusts.
///
/// Each request has a connection of its own. No redirect is followed, no proxy of the environment
/// is used, and of the answer only the head is read: at most 64 fields in 16 KiB, and no more than
/// 128 KiB with TLS and interim answers.
///
/// The client cannot know the public addresses of your own servers, nor a NAT64 prefix of your own
/// network. If those serve something that only your network may reach, filter outgoing connections
/// there, too.
///
/// Needs the runtime of tokio, with its clock and its sockets (`enable_all`).
///
/// ```
/// use std::time::Duration;
/// use tower_api_key::webhook::{HttpsClient, WebhookClient};
///
/// let client = HttpsClient::new()
///     .time_limit(Duration::from_secs(15))
///     .allow_ports([8443]);
/// assert!(client.check(&"https://hooks.example.com:8443/keys".parse()?).is_ok());
/// assert!(client.check(&"http://hooks.example.com/keys".parse()?).is_err());
/// assert!(client.check(&"https://169.254.169.254/latest/meta-data".parse()?).is_err());
/// # Ok::<(), tower_api_key::webhook::WebhookUrlError>(())
/// ```
#[derive(Debug, Clone)]
pub struct HttpsClient {
    rules: Rules,
    time_limit: Duration,
    resolver: Arc<dyn DynResolve>,
    tls: Tls,
}

impl HttpsClient {
    const TIME_LIMIT: Duration = Duration::from_secs(20);
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);

    /// Creates a client with the defaults of its setters.
    pub fn new() -> Self {
        Self {
            rules: Rules::default(),
            time_limit: Self::TIME_LIMIT,
            resolver: Arc::new(SystemResolver),
            tls: Tls::new(),
        }
    }

    /// Sets the time limit for all of a request: to resolve, to connect, TLS, to send, and the head
    /// of the answer. Default: 20 seconds. The limit is clamped to 1 through 60 seconds.
    ///
    /// The standard says 15 to 30. With a shorter limit, messages are sent again that a slow
    /// receiver has got; with a longer one, receivers that never answer occupy their senders.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit.clamp(Self::SHORTEST, Self::LONGEST);
        self
    }

    /// Sets the allowed ports, beside the default port of the scheme. Default: none.
    ///
    /// Some services on other ports do odd things with whatever they receive, so allow only those
    /// that receivers need.
    #[must_use]
    pub fn allow_ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.rules.ports = ports.into_iter().collect();
        self
    }

    /// Sets the resolver of names. Default: that of the system. The addresses are checked whoever
    /// resolves.
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// Trusts further certificate authorities, beside those that Mozilla does, by their
    /// certificates in DER: such as the one of your company. Default: none.
    ///
    /// The holder of such an authority's key can pose as any receiver.
    pub fn with_roots(
        mut self,
        certificates: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Result<Self, RootError> {
        self.tls = Tls::with_roots(certificates)?;
        Ok(self)
    }

    /// Also sends to `http`. Default: `https` only.
    ///
    /// Danger: anybody on the way can read the messages, and answer in place of the receiver. Use
    /// it for development.
    #[must_use]
    pub fn dangerous_allow_http(mut self) -> Self {
        self.rules.allows_http = true;
        self
    }

    /// Also connects to addresses that are not public. Default: public addresses only.
    ///
    /// Danger: whoever registers an endpoint can send requests to your databases, to the metadata
    /// of your cloud, and to all else that trusts your network. Use it for development, or if only
    /// you register endpoints.
    #[must_use]
    pub fn dangerous_allow_private_addresses(mut self) -> Self {
        self.rules.allows_private_addresses = true;
        self
    }

    /// Returns the addresses to try, each of them checked. This is the only lookup of a request.
    async fn addresses(
        &self,
        url: &WebhookUrl,
        deadline: Deadline,
    ) -> Result<Vec<IpAddr>, SendError> {
        let name = match url.host() {
            Host::Address(address) => return self.rules.allowed(&[*address]),
            Host::Name(name) => name,
        };
        let found = self.resolver.resolve(name);
        let found = deadline.hold("resolving the name", found).await?;
        let found = found.map_err(|error| unresolved(name, &error))?;
        if found.is_empty() {
            return Err(unresolved(name, &io::ErrorKind::NotFound.into()));
        }
        self.rules.allowed(&found)
    }
}

impl Default for HttpsClient {
    fn default() -> Self {
        Self::new()
    }
}

impl WebhookClient for HttpsClient {
    async fn send(&self, request: WebhookRequest) -> Result<WebhookResponse, SendError> {
        let url = request.url();
        self.rules.check(url)?;
        let deadline = Deadline::after(self.time_limit);
        let addresses = self.addresses(url, deadline).await?;
        let stream = connect(&addresses, url.port(), deadline).await?;
        let waiting = "waiting for the answer";
        if !url.is_https() {
            return deadline.hold(waiting, exchange(stream, &request)).await?;
        }
        let agreed = self.tls.connect(url.host(), stream);
        let stream = deadline.hold("agreeing on TLS", agreed).await??;
        deadline.hold(waiting, exchange(stream, &request)).await?
    }

    fn check(&self, url: &WebhookUrl) -> Result<(), SendError> {
        self.rules.check(url)
    }
}

fn unresolved(name: &str, error: &io::Error) -> SendError {
    let detail = format!("the name {name} could not be resolved: {error}");
    SendError::new(SendErrorKind::DnsFailed, detail)
}
