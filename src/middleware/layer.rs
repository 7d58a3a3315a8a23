//! The layer and its settings, each with its default and the risk of changing it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tower_layer::Layer;

use crate::http::client_address::ClientAddress;
use crate::http::credential::source::{KeySource, KeySources};
use crate::http::render::challenge::{MetadataUrl, MetadataUrlError, Realm, RealmError};
use crate::http::render::error_response::ErrorFormat;
use crate::http::render::error_response::Rendered;
use crate::http::render::facts::CallerFact;
use crate::http::render::grpc::GrpcRequests;
use crate::http::render::key_headers::{self, LinkError};
use crate::http::render::rate_limit::RateLimitHeaders;
use crate::http::request_head::RequestHead;
use crate::key::environment::Environment;
use crate::key::kind::KeyKind;
use crate::key::scope::RequiredScopes;
use crate::middleware::config::{Config, RouteFinder};
use crate::middleware::gate::Gate;
use crate::middleware::service::ApiKeyService;

/// A layer that protects a service with API keys: only requests with a valid key reach the service.
///
/// Create a layer with [`ApiKeys::layer`](crate::ApiKeys::layer). By default it
/// - reads `Authorization: Bearer KEY`, `Authorization: ApiKey KEY` and `X-API-Key: KEY`;
/// - requires a key of the environment `live`;
/// - removes the key from the request and inserts the [`Caller`](crate::Caller);
/// - answers refusals as JSON, and gRPC requests with a gRPC status.
///
/// A CORS layer belongs outside of this one, so that refusals carry its headers. Layers that log
/// requests belong inside, where the key is no longer in the request.
///
/// ```
/// use tower::{Service, ServiceBuilder, ServiceExt};
/// use tower_api_key::{ApiKeys, Caller};
/// # use http::{Request, Response};
/// # type Body = http_body_util::Empty<bytes::Bytes>;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = ApiKeys::in_memory();
/// let key = keys.issue("acme").await?;
///
/// let mut service = ServiceBuilder::new()
///     .layer(keys.layer())
///     .service_fn(|request: Request<Body>| async move {
///         assert_eq!(Caller::of(request.extensions()).unwrap().account(), "acme");
///         Ok::<_, std::convert::Infallible>(Response::new(Body::new()))
///     });
///
/// let request = Request::builder()
///     .header("x-api-key", key.expose_secret())
///     .body(Body::new())?;
/// assert_eq!(service.ready().await?.call(request).await?.status(), 200);
/// assert_eq!(service.ready().await?.call(Request::new(Body::new())).await?.status(), 401);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a layer protects nothing until it is put around a service"]
pub struct ApiKeyLayer {
    gate: Arc<Gate>,
}

impl<S> Layer<S> for ApiKeyLayer {
    type Service = ApiKeyService<S>;

    fn layer(&self, inner: S) -> ApiKeyService<S> {
        ApiKeyService::new(inner, Arc::clone(&self.gate))
    }
}

impl ApiKeyLayer {
    /// Returns the settings for a change, and drops responses that were rendered with the old ones.
    fn config(&mut self) -> &mut Config {
        let gate = Arc::make_mut(&mut self.gate);
        gate.rendered = Rendered::default();
        &mut gate.config
    }

    pub(crate) fn new(gate: Gate) -> Self {
        Self {
            gate: Arc::new(gate),
        }
    }

    /// Sets the places where keys are read from. Default: Bearer, the `ApiKey` scheme, and
    /// `X-API-Key`.
    ///
    /// This replaces the defaults; [`add_source`](Self::add_source) adds to them. All sources are
    /// read. The same key in two places is one key, and is removed from both, since some client
    /// libraries send `Authorization: Bearer KEY` beside `apikey: KEY`. Two different keys in one
    /// request are an error (400), and so is a repeated header or parameter. Challenges in a 401
    /// have the same order as the sources, so list the best scheme first.
    ///
    /// A key in any other place is neither read nor removed. `Authorization` is an exception: a key
    /// under a scheme that is no source, or with a typo around it, is refused, even in
    /// [`optional`](Self::optional) mode, so that the key is not passed on as somebody else's
    /// token.
    ///
    /// # Panics
    /// If the list is empty.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, KeySource};
    /// # let keys = ApiKeys::in_memory();
    /// let layer = keys.layer().sources([KeySource::basic(), KeySource::header("X-Acme-Key")?]);
    /// # Ok::<(), tower_api_key::http::KeyHeaderError>(())
    /// ```
    #[track_caller]
    pub fn sources(mut self, sources: impl IntoIterator<Item = KeySource>) -> Self {
        let sources: KeySources = sources.into_iter().collect();
        assert!(
            !sources.is_empty(),
            "name at least one place where keys stand"
        );
        self.config().sources = sources;
        self
    }

    /// Adds a place where keys are read from, to the defaults or to [`sources`](Self::sources).
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, KeySource};
    /// let layer = ApiKeys::in_memory().layer().add_source(KeySource::header("X-Acme-Key")?);
    /// # Ok::<(), tower_api_key::http::KeyHeaderError>(())
    /// ```
    pub fn add_source(mut self, source: KeySource) -> Self {
        self.config().sources.add(source);
        self
    }

    /// Admits requests without a key, without a [`Caller`](crate::Caller). Default: off.
    ///
    /// A bad key is still refused, and so is a good key with a typo around it. Handlers that need a
    /// caller must ask for it: the extractor, [`Caller::of`](crate::Caller::of) and
    /// [`RequireScope`](crate::RequireScope) answer 401.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().optional();
    /// ```
    pub fn optional(mut self) -> Self {
        self.config().optional = true;
        self
    }

    /// Admits CORS preflights without a key. Default: off.
    ///
    /// Prefer a CORS layer outside of this one: it answers preflights itself, and adds its headers
    /// to refusals.
    ///
    /// Danger: anybody who sends `OPTIONS` with `Origin` and `Access-Control-Request-Method`
    /// reaches the service without a key. A service that ignores the method runs the request: gRPC
    /// servers and handlers of any method do. Each preflight is charged to the global limits and
    /// those of its path, at the highest cost of the path, so strangers can use these limits up.
    ///
    /// A request is no preflight if it has `Authorization`, `Cookie`, a header that keys are read
    /// from, a content type, length or encoding, a transfer encoding, `TE`, `Expect`,
    /// `X-HTTP-Method-Override` or a similar header, or a [`Caller`](crate::Caller) of an outer
    /// layer. An HTTP/2 body that none of these headers announces cannot be detected. A key in the
    /// URL belongs to the actual request that follows: it is removed, but neither verified nor
    /// charged. Limits by address and global limits apply to preflights.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().dangerous_allow_preflight();
    /// ```
    pub fn dangerous_allow_preflight(mut self) -> Self {
        self.config().allow_preflight = true;
        self
    }

    /// Sets the environments whose keys are accepted. Default: only [`Environment::LIVE`]. An empty
    /// list accepts no key.
    ///
    /// If several environments are accepted, handlers must check
    /// [`Caller::environment`](crate::Caller::environment).
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, Environment};
    /// let sandbox = ApiKeys::in_memory().layer().environments([Environment::TEST]);
    /// ```
    pub fn environments(mut self, environments: impl IntoIterator<Item = Environment>) -> Self {
        let environments = environments.into_iter().collect();
        self.config().environments = Some(environments);
        self
    }

    /// Accepts keys of every environment. Default: only of `live`.
    ///
    /// Danger: test keys are then accepted. Handlers must check
    /// [`Caller::environment`](crate::Caller::environment).
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().dangerous_any_environment();
    /// ```
    pub fn dangerous_any_environment(mut self) -> Self {
        self.config().environments = None;
        self
    }

    /// Sets the kinds of keys that are accepted. Default: only [`KeyKind::Secret`].
    ///
    /// Danger: publishable keys are public, so anybody can do what such keys permit.
    ///
    /// ```
    /// # use tower_api_key::key::KeyKind;
    /// # use tower_api_key::ApiKeys;
    /// let for_pages = ApiKeys::in_memory().layer().kinds([KeyKind::Publishable]);
    /// ```
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = KeyKind>) -> Self {
        self.config().kinds.set(kinds);
        self
    }

    /// Refuses secret keys that a browser sends, with 403 `secret_key_in_browser`. Default: off.
    ///
    /// A request comes from a browser if it has `Sec-Fetch-Site` or `Sec-Fetch-Dest`, which no page
    /// can set or leave out. A secret key sent by a browser has leaked to everybody who opened the
    /// page: replace it.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().refuse_secret_keys_in_browsers();
    /// ```
    pub fn refuse_secret_keys_in_browsers(mut self) -> Self {
        self.config().kinds.refuse_in_browsers = true;
        self
    }

    /// Adds scopes that every request behind this layer needs. Default: none. With several calls, a
    /// request must satisfy all of them.
    ///
    /// For scopes of single routes, prefer [`RequireScope`](crate::RequireScope) or
    /// [`Caller::require`](crate::Caller::require).
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, Scope};
    /// let layer = ApiKeys::in_memory().layer().require(Scope::from_static("admin"));
    /// ```
    pub fn require(mut self, scopes: impl Into<RequiredScopes>) -> Self {
        let required = &mut self.config().required_scopes;
        required.push(scopes.into());
        self
    }

    /// Adds scopes that are checked but not enforced: a request that lacks them is reported, and
    /// not denied. Default: none. Use it to try out a scope before it is [required](Self::require).
    ///
    /// The report goes to [observers](crate::observe::Decision::report_only_rejections), and to the
    /// log at most once a minute for each key. A layer inside another layer of the same keys
    /// announces no decision, so it reports nothing: set this on the outermost layer.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, Scope};
    /// const READ: Scope = Scope::from_static("reports:read");
    ///
    /// let layer = ApiKeys::in_memory().layer().require_report_only(READ);
    /// ```
    pub fn require_report_only(mut self, scopes: impl Into<RequiredScopes>) -> Self {
        self.config().reports.scopes.push(scopes.into());
        self
    }

    /// Reports requests from outside of the networks that their key is restricted to, instead of
    /// denying them. Default: off.
    ///
    /// Danger: allow-lists do not protect the service behind the layer. Use this only while you
    /// collect the addresses for the lists.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().dangerous_report_networks();
    /// ```
    pub fn dangerous_report_networks(mut self) -> Self {
        self.config().reports.networks = true;
        self
    }

    /// Sets the source of the client's address, which allow-lists of networks, limits by address,
    /// and logs use. Default: the peer's address.
    ///
    /// Danger: trusting a header that no proxy of yours overwrites lets clients choose their
    /// address.
    ///
    /// ```
    /// # use tower_api_key::http::{ClientAddress, TrustedProxies};
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().client_address(ClientAddress::x_forwarded_for(
    ///     TrustedProxies::networks(["10.0.0.0/8"])?,
    /// ));
    /// # Ok::<(), tower_api_key::key::NetworkError>(())
    /// ```
    pub fn client_address(mut self, address: ClientAddress) -> Self {
        self.config().client_address = address;
        self
    }

    /// Leaves the key in the request. Default: the key is removed, in every place.
    ///
    /// Danger: services behind the layer can log, forward or return the key. A header with the key
    /// is marked as sensitive, so that `Debug` does not print it; a query cannot be marked.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().dangerous_keep_credential();
    /// ```
    pub fn dangerous_keep_credential(mut self) -> Self {
        self.config().hide_credential = false;
        self
    }

    /// Passes facts about the caller on to the inner service as request headers, for example for
    /// services behind a reverse proxy. Default: none.
    ///
    /// Headers of a client with any of these names are removed, even from requests without a key,
    /// and even if they are written with `_` for `-`. Values are printable ASCII; other characters,
    /// blanks and `%` are percent-encoded in UTF-8.
    ///
    /// Danger: a service that trusts these headers must be reachable through this layer only.
    ///
    /// ```
    /// # use tower_api_key::http::CallerFact;
    /// # use tower_api_key::ApiKeys;
    /// let facts = [CallerFact::Account, CallerFact::Scopes];
    /// let layer = ApiKeys::in_memory().layer().pass_on(facts);
    /// ```
    pub fn pass_on(mut self, facts: impl IntoIterator<Item = CallerFact>) -> Self {
        self.config().facts = Some(facts.into_iter().collect());
        self
    }

    /// Sets the format of refusals. Default: [`ErrorFormat::json`].
    ///
    /// ```
    /// # use tower_api_key::http::ErrorFormat;
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().errors(ErrorFormat::problem_details());
    /// ```
    pub fn errors(mut self, format: ErrorFormat) -> Self {
        self.config().errors = format;
        self
    }

    /// Sets the realm of the challenges in `WWW-Authenticate`. Default: `api`.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().realm("Acme API")?;
    /// # Ok::<(), tower_api_key::http::RealmError>(())
    /// ```
    pub fn realm(mut self, realm: &str) -> Result<Self, RealmError> {
        self.config().challenges.realm = Realm::try_from(realm)?;
        Ok(self)
    }

    /// Adds a Basic challenge if Basic is one of several sources. Default: off, since browsers open
    /// a dialog for this challenge. If Basic is the only source, the challenge is always sent: a
    /// 401 must name a scheme.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, KeySource};
    /// let sources = [KeySource::bearer(), KeySource::basic()];
    /// let layer = ApiKeys::in_memory().layer().sources(sources).challenge_basic();
    /// ```
    pub fn challenge_basic(mut self) -> Self {
        self.config().challenges.basic = true;
        self
    }

    /// Adds the URL of this resource's metadata to the Bearer challenge, as `resource_metadata`
    /// (RFC 9728 §5.1). Clients find the authorization servers for users' tokens there. Default:
    /// none.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory()
    ///     .layer()
    ///     .resource_metadata("https://api.example.com/.well-known/oauth-protected-resource")?;
    /// # Ok::<(), tower_api_key::http::MetadataUrlError>(())
    /// ```
    pub fn resource_metadata(mut self, url: &str) -> Result<Self, MetadataUrlError> {
        self.config().challenges.resource_metadata = Some(MetadataUrl::try_from(url)?);
        Ok(self)
    }

    /// Answers keys that are not found with 403 and without a challenge, for services whose clients
    /// rely on that. Default: 401, as RFC 9110 requires. In gRPC, the status is
    /// `PERMISSION_DENIED`. A request without a key is still answered with 401.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().forbid_unknown_keys();
    /// ```
    pub fn forbid_unknown_keys(mut self) -> Self {
        self.config().not_found = StatusCode::FORBIDDEN;
        self
    }

    /// Sets the headers that tell callers about their limits. Default: [`RateLimitHeaders::epoch`].
    ///
    /// ```
    /// # use tower_api_key::http::RateLimitHeaders;
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().rate_limit_headers(RateLimitHeaders::delta());
    /// ```
    pub fn rate_limit_headers(mut self, headers: RateLimitHeaders) -> Self {
        self.config().rate_limit_headers = headers;
        self
    }

    /// Sets the function that finds the route of a request, for limits and costs of endpoints, and
    /// for observers. Default: with the feature `axum`, the path that its router matched, such as
    /// `/v1/reports/{id}`; otherwise, the path of the request. If the function returns `None`, the
    /// default applies.
    ///
    /// Danger: return one of a fixed set of routes. If the route is derived from client input, the
    /// client chooses its spelling, and a limit applies to one spelling only. For routes that are
    /// no paths, define endpoints with [`Endpoint::verbatim`](crate::limit::Endpoint::verbatim).
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().route_by(|request| {
    ///     let tenant = request.uri.path().strip_prefix("/tenants/")?;
    ///     match tenant.split_once('/')?.1 {
    ///         "reports" => Some("/tenants/{tenant}/reports".to_owned()),
    ///         _ => Some("/tenants/{tenant}/{*rest}".to_owned()),
    ///     }
    /// });
    /// ```
    pub fn route_by(
        mut self,
        route: impl Fn(RequestHead<'_>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.config().route = RouteFinder(Some(Arc::new(route)));
        self
    }

    /// Sets whether responses have the headers `X-Key-Status`, `X-Key-Expires-At` and
    /// `X-Key-Expired-At`. Default: yes.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().status_headers(false);
    /// ```
    pub fn status_headers(mut self, on: bool) -> Self {
        self.config().key_headers.status = on;
        self
    }

    /// Sets whether responses to a deprecated key have the headers `Deprecation` (RFC 9745) and
    /// `Sunset` (RFC 8594). Default: yes.
    ///
    /// The RFCs define these headers for resources. This library uses them for keys, since clients
    /// that watch for them then warn in time. Headers that the service sets itself are left
    /// unchanged.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().deprecation_headers(false);
    /// ```
    pub fn deprecation_headers(mut self, on: bool) -> Self {
        self.config().key_headers.deprecation = on;
        self
    }

    /// Sets the URL of a page about replacing a deprecated key, for `Link: <…>; rel="deprecation"`.
    /// Default: none.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().deprecation_link("https://docs.example.com/keys")?;
    /// # Ok::<(), tower_api_key::http::LinkError>(())
    /// ```
    pub fn deprecation_link(mut self, url: &str) -> Result<Self, LinkError> {
        let link = key_headers::link(url, "deprecation")?;
        self.config().key_headers.deprecation_link = Some(link);
        Ok(self)
    }

    /// Sets the URL of a page about the end of keys, for `Link: <…>; rel="sunset"`. Default: none.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().sunset_link("https://docs.example.com/sunset")?;
    /// # Ok::<(), tower_api_key::http::LinkError>(())
    /// ```
    pub fn sunset_link(mut self, url: &str) -> Result<Self, LinkError> {
        let link = key_headers::link(url, "sunset")?;
        self.config().key_headers.sunset_link = Some(link);
        Ok(self)
    }

    /// Sets the requests whose refusals are gRPC responses. Default: [`GrpcRequests::Post`].
    ///
    /// Danger: see [`GrpcRequests`] if a gateway asks this service by HTTP status.
    ///
    /// ```
    /// # use tower_api_key::http::GrpcRequests;
    /// # use tower_api_key::ApiKeys;
    /// let forward_auth = ApiKeys::in_memory().layer().grpc(GrpcRequests::Never);
    /// ```
    pub fn grpc(mut self, requests: GrpcRequests) -> Self {
        self.config().grpc = requests;
        self
    }

    /// Sets the value of `Retry-After` when keys cannot be verified (503). Default: 5 seconds. The
    /// value is in whole seconds, rounded up, at least one.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// # use std::time::Duration;
    /// let layer = ApiKeys::in_memory().layer().outage_retry_after(Duration::from_secs(30));
    /// ```
    pub fn outage_retry_after(mut self, after: Duration) -> Self {
        self.config().retry_after = after;
        self
    }
}
