//! The port to DNS.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

/// A resolver of names.
///
/// [`SystemResolver`] is the default of [`HttpsClient`](crate::webhook::HttpsClient), which checks
/// each address that a resolver returns.
///
/// ```
/// use std::io;
/// use std::net::IpAddr;
/// use tower_api_key::webhook::{HttpsClient, Resolve};
///
/// /// Knows one name.
/// struct Hosts;
///
/// impl Resolve for Hosts {
///     async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
///         match name {
///             "hooks.example.com" => Ok(vec![IpAddr::from([9, 9, 9, 9])]),
///             _ => Err(io::ErrorKind::NotFound.into()),
///         }
///     }
/// }
///
/// let client = HttpsClient::new().resolver(Hosts);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Resolve`",
    note = "implement `Resolve::resolve`, or use `SystemResolver`"
)]
pub trait Resolve: Send + Sync + 'static {
    /// Returns the addresses of a name, those to try first at the front. The name is never an
    /// address.
    ///
    /// The future may be dropped at any time. An error is shown to operators.
    fn resolve(&self, name: &str) -> impl Future<Output = io::Result<Vec<IpAddr>>> + Send;
}

impl<R: Resolve> Resolve for Arc<R> {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Resolve::resolve(&**self, name).await
    }
}

/// The resolver of the operating system (`getaddrinfo`), on a thread of tokio's.
///
/// A lookup that is given up goes on there until the system ends it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// The object-safe version of [`Resolve`].
#[async_trait]
pub(super) trait DynResolve: Send + Sync {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

#[async_trait]
impl<R: Resolve> DynResolve for R {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Resolve::resolve(self, name).await
    }
}

impl fmt::Debug for dyn DynResolve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolve")
    }
}
