//! The port to the countries of clients.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;
use http::header::InvalidHeaderName;

use crate::anomaly::Country;
use crate::http::request_head::RequestHead;

/// The port to the countries of clients: see
/// [`ApiKeysBuilder::countries`](crate::ApiKeysBuilder::countries).
///
/// It is asked in the request's own task, so it must not block. A database of networks in memory is
/// fine. A source that needs the address of the client is asked when a key is used from another
/// network than lately, and once a day; any other with each request.
///
/// ```
/// use std::net::IpAddr;
/// use tower_api_key::anomaly::{Countries, Country};
/// use tower_api_key::http::RequestHead;
///
/// struct Database { /* networks and their countries */ }
///
/// impl Countries for Database {
///     fn country(&self, client: Option<IpAddr>, _request: RequestHead<'_>) -> Option<Country> {
///         // self.reader.lookup(client?)…
/// #       let _ = client?;
///         Country::new("DE").ok()
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not tell countries: it is no `Countries`",
    note = "implement `Countries::country`, or use `CountryHeader`"
)]
pub trait Countries: Send + Sync + 'static {
    /// Returns the country of a client; `None` if it is not known, and nothing is concluded then.
    ///
    /// `client` is `None` if the address is not known, or not [needed](Self::needs_address).
    fn country(&self, client: Option<IpAddr>, request: RequestHead<'_>) -> Option<Country>;

    /// Returns whether the country depends on the address of the client. Default: it does.
    ///
    /// The address is that of
    /// [`ApiKeyLayer::client_address`](crate::ApiKeyLayer::client_address): behind a proxy, set that
    /// first.
    fn needs_address(&self) -> bool {
        true
    }
}

impl<C: Countries + ?Sized> Countries for Arc<C> {
    fn country(&self, client: Option<IpAddr>, request: RequestHead<'_>) -> Option<Country> {
        (**self).country(client, request)
    }

    fn needs_address(&self) -> bool {
        (**self).needs_address()
    }
}

/// The country that a proxy writes into a header of the request, such as `CF-IPCountry`.
///
/// The values `XX` (not known) and those that are no country are ignored, and so is a header that
/// occurs twice.
///
/// Danger: the proxy must set the header in every request, or remove that of the client, and no
/// request may come past the proxy. Otherwise a thief writes the country of the key's owner.
///
/// ```
/// use tower_api_key::anomaly::CountryHeader;
/// use tower_api_key::{ApiKeys, MemoryStore};
///
/// let keys = ApiKeys::builder(MemoryStore::new())
///     .countries(CountryHeader::new("cf-ipcountry")?)
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct CountryHeader(HeaderName);

impl CountryHeader {
    /// Creates a source from the name of a header.
    pub fn new(name: &str) -> Result<Self, InvalidHeaderName> {
        name.parse().map(Self)
    }
}

impl Countries for CountryHeader {
    fn country(&self, _client: Option<IpAddr>, request: RequestHead<'_>) -> Option<Country> {
        let mut values = request.headers.get_all(&self.0).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        let code = value.to_str().ok()?.trim();
        let country = Country::new(code).ok()?;
        (country.as_str() != "XX").then_some(country)
    }

    fn needs_address(&self) -> bool {
        false
    }
}

impl fmt::Debug for CountryHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CountryHeader").field(&self.0).finish()
    }
}
