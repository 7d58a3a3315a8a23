//! The layer: its settings, each with its default and the risk of changing it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tower_layer::Layer;

use crate::http::client_address::ClientAddress;
use crate::http::credential::source::{KeySource, KeySources};
use crate::http::render::challenge::{MetadataUrl, MetadataUrlError, Realm, RealmError};
use crate::http::render::facts::CallerFact;
use crate::http::render::grpc::GrpcRequests;
use crate::http::render::key_headers::{self, LinkError};
use crate::http::render::rate_limit::RateLimitHeaders;
use crate::http::render::rejection::ErrorFormat;
use crate::http::render::rejection::Rendered;
use crate::http::request_head::RequestHead;
use crate::key::environment::Environment;
use crate::key::kind::KeyKind;
use crate::key::scope::RequiredScopes;
use crate::middleware::config::{Config, Route};
use crate::middleware::gate::Gate;
use crate::middleware::service::ApiKeyService;

/// Layer that puts API keys in front of a service: only requests with a good key reach it.
///
/// [`ApiKeys::layer`](crate::ApiKeys::layer) makes it. By default it
/// - reads `Authorization: Bearer KEY`, `Authorization: ApiKey KEY` and `X-API-Key: KEY`;
/// - wants a key of the environment `live`;
/// - takes the key out of the request and puts the [`Caller`](crate::Caller) in;
/// - answers refusals as JSON, and gRPC requests in gRPC's way.
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
    /// Returns the settings to change, and forgets answers that were rendered with the old ones.
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

    /// Sets where keys are looked for. Default: Bearer, the `ApiKey` scheme, and `X-API-Key`.
    ///
    /// This replaces the defaults; [`add_source`](Self::add_source) adds to them. All sources are looked
    /// at. The very same key in two places is one key, taken out of both, since some client
    /// libraries send `Authorization: Bearer KEY` beside `apikey: KEY`. Two different keys in one
    /// request are an error (400), and so is a header or a parameter that is repeated. The order is
    /// that of the challenges in a 401, so the best scheme comes first.
    ///
    /// A key in a place that is not listed is neither read nor taken out, but for `Authorization`:
    /// a key there under a scheme that is not listed, or with a slip around it, is refused, also in
    /// [`optional`](Self::optional) mode, so that it is not passed on as somebody else's token.
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

    /// Looks for keys in one more place, beside those of the defaults or of
    /// [`sources`](Self::sources).
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

    /// Lets requests without any key through, without a [`Caller`](crate::Caller). Default: off.
    ///
    /// A bad key is refused all the same, and so is a good one with a slip around it. What needs a
    /// caller must then ask for it: the extractor,
    /// [`Caller::of`](crate::Caller::of) and [`RequireScope`](crate::RequireScope) answer 401.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().optional();
    /// ```
    pub fn optional(mut self) -> Self {
        self.config().optional = true;
        self
    }

    /// Lets CORS preflights through without a key. Default: off.
    ///
    /// Put the CORS layer outside of this one instead: it answers preflights itself, and refusals
    /// carry its headers.
    ///
    /// Danger: whoever sends `OPTIONS` with `Origin` and `Access-Control-Request-Method` reaches
    /// the service without a key. A service that ignores the method runs the request: gRPC servers
    /// and handlers of any method do. Each such request is charged to the limits of everybody and
    /// of its path, at the greatest cost that the path has, so strangers can use those up.
    ///
    /// A request is no preflight if it has `Authorization`, `Cookie`, a header that keys are read
    /// from, a content type, length or encoding, a transfer encoding, `TE`, `Expect`,
    /// `X-HTTP-Method-Override` or one like it, or a [`Caller`](crate::Caller) that an outer layer
    /// found. A body of HTTP/2 that is announced by none of these cannot be seen. A key in the URL
    /// is that of the request to come: it is taken out, and neither judged nor charged. Limits by
    /// address and of everybody bind preflights.
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
    /// Where several share a door, handlers must look at
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
    /// Danger: test keys then open this door. Handlers must look at
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
    /// Behind a layer that accepts publishable keys, anybody can do what such keys may.
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
    /// A request is a browser's if it has `Sec-Fetch-Site` or `Sec-Fetch-Dest`, which no page can
    /// set or leave out. A key that was sent so has leaked to whoever opened the page: replace it.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().refuse_secret_keys_in_browsers();
    /// ```
    pub fn refuse_secret_keys_in_browsers(mut self) -> Self {
        self.config().kinds.refuse_in_browsers = true;
        self
    }

    /// Adds scopes that every request behind this layer needs. Default: none. Each call adds: a
    /// request must satisfy all of them.
    ///
    /// Scopes of single routes are better asked for with [`RequireScope`](crate::RequireScope) or
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

    /// Adds scopes that requests are reported for if their key lacks them, and not denied. Default:
    /// none. So a scope can be tried before it is [required](Self::require).
    ///
    /// What would have been denied is told to
    /// [observers](crate::observe::Decision::report_only_rejections), and to the log at most once a minute
    /// for each key. A layer inside of another one of the same keys announces no decision, so it
    /// reports nothing: set this on the outermost.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, Scope};
    /// let layer = ApiKeys::in_memory().layer().require_report_only(Scope::from_static("reports:read"));
    /// ```
    pub fn require_report_only(mut self, scopes: impl Into<RequiredScopes>) -> Self {
        self.config().reports.scopes.push(scopes.into());
        self
    }

    /// Reports requests from outside of the networks that their key is allowed to be used from, and
    /// denies them not. Default: they are denied.
    ///
    /// Danger: no allow-list protects what stands behind the layer. It is for the time in which
    /// lists are being found.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().dangerous_report_networks();
    /// ```
    pub fn dangerous_report_networks(mut self) -> Self {
        self.config().reports.networks = true;
        self
    }

    /// Sets how the client's address is found, for allow-lists of networks, limits by address and
    /// logs. Default: it is the peer's.
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

    /// Leaves the key in the request. Default: it is taken out of it, wherever it stands.
    ///
    /// Danger: whatever stands behind the layer can log, forward or answer with the key. A header
    /// is then marked as sensitive, so that `Debug` does not print it; a query cannot be.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().dangerous_keep_credential();
    /// ```
    pub fn dangerous_keep_credential(mut self) -> Self {
        self.config().hide_credential = false;
        self
    }

    /// Passes facts about the caller on to the inner service, as request headers: for a reverse proxy
    /// and the services behind it. Default: none.
    ///
    /// What a client sends under any of these names is taken out, also of requests without a key,
    /// and also with `_` for `-`. Values are printable ASCII; other characters, blanks and `%` are
    /// percent-encoded in UTF-8.
    ///
    /// Danger: a service that believes these headers must be reached through this layer only.
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

    /// Sets how refusals are written. Default: [`ErrorFormat::json`].
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

    /// Adds a challenge with Basic, where that is one of several sources. Default: off, since
    /// browsers open a dialog for it. Where Basic is the only source, it is challenged with anyway:
    /// a 401 must name a way in.
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

    /// Names the metadata of this resource in the Bearer challenge, as `resource_metadata` (RFC 9728
    /// §5.1): from there, clients find the authorization servers for users' tokens. Default: none.
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
    /// have always been answered so. Default: 401, as RFC 9110 has it. In gRPC it is
    /// `PERMISSION_DENIED`. A request without a key is answered with 401 all the same.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().forbid_unknown_keys();
    /// ```
    pub fn forbid_unknown_keys(mut self) -> Self {
        self.config().not_found = StatusCode::FORBIDDEN;
        self
    }

    /// Sets the headers that tell callers of their limits. Default: [`RateLimitHeaders::epoch`].
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

    /// Sets how the route of a request is found, for limits and costs of endpoints, and for
    /// observers. Default: with the feature `axum`, the path that its router matched, such as
    /// `/v1/reports/{id}`; without it, or where no route was matched, the request's path as it is.
    /// `None` is the default, too.
    ///
    /// What the function answers should be one of few: a route that is made of what the client
    /// sends has as many spellings as the client likes, and a limit binds but one. Endpoints of
    /// routes that are no paths are stated with [`Endpoint::verbatim`](crate::limit::Endpoint::verbatim).
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
        self.config().route = Route(Some(Arc::new(route)));
        self
    }

    /// Sets whether answers carry `X-Key-Status`, `X-Key-Expires-At` and `X-Key-Expired-At`.
    /// Default: yes.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().status_headers(false);
    /// ```
    pub fn status_headers(mut self, on: bool) -> Self {
        self.config().key_headers.status = on;
        self
    }

    /// Sets whether answers to a deprecated key carry `Deprecation` (RFC 9745) and `Sunset` (RFC
    /// 8594). Default: yes.
    ///
    /// The RFCs mean the resource; to say it of a key is a stretch, made because clients that look
    /// for these headers then warn in time. What the service sets itself is left as it is.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let layer = ApiKeys::in_memory().layer().deprecation_headers(false);
    /// ```
    pub fn deprecation_headers(mut self, on: bool) -> Self {
        self.config().key_headers.deprecation = on;
        self
    }

    /// Sets the page that tells how to replace a deprecated key, for
    /// `Link: <…>; rel="deprecation"`. Default: none.
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

    /// Sets the page that tells when keys end, for `Link: <…>; rel="sunset"`. Default: none.
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

    /// Sets which requests are refused in gRPC's way. Default: [`GrpcRequests::Post`].
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

    /// Sets what `Retry-After` says when keys cannot be verified (503). Default: 5 seconds; whole
    /// seconds, rounded up, at least one.
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
