//! Choose the places in a request where keys are read from.
//!
//! By default, a layer reads keys from three places:
//!
//! ```text
//! Authorization: Bearer acme_live_…
//! Authorization: ApiKey acme_live_…
//! X-API-Key: acme_live_…
//! ```
//!
//! Start with the defaults, and document one place for your callers. `Authorization: Bearer` is the
//! best choice for new services:
//!
//! - the scheme is a standard (RFC 6750), and every HTTP client can send it;
//! - log pipelines and proxies know `Authorization` as a header to redact;
//! - many HTTP clients drop `Authorization` when a redirect leads to another host, and keep headers
//!   such as `X-API-Key`;
//! - shared caches keep no answer to a request with `Authorization`, unless the answer allows it
//!   (RFC 9111).
//!
//! Choose `X-API-Key` if `Authorization` carries a user's token, as [described
//! below](#a-key-and-an-oauth-token).
//!
//! # All places
//!
//! | a client sends | constructor |
//! |---|---|
//! | `Authorization: Bearer KEY` | [`KeySource::bearer`], a default |
//! | `Authorization: ApiKey KEY` | [`KeySource::api_key_scheme`], a default |
//! | `X-API-Key: KEY` | [`KeySource::x_api_key`], a default |
//! | `Authorization: Api-Key KEY`, or another scheme of yours | [`KeySource::scheme`] |
//! | `X-Acme-Key: KEY`, or another header of yours | [`KeySource::header`] |
//! | `Authorization: Basic base64(KEY:)` | [`KeySource::basic`] |
//! | `Authorization: Basic base64(USER:KEY)` | [`KeySource::basic_password`] |
//! | `?api_key=KEY` | [`KeySource::dangerous_query`] |
//!
//! [`ApiKeyLayer::sources`] replaces the defaults, and [`ApiKeyLayer::add_source`] adds to them:
//!
//! ```
//! use tower_api_key::{ApiKeys, KeySource};
//!
//! let keys = ApiKeys::in_memory();
//!
//! // The defaults, and another header.
//! let layer = keys.layer().add_source(KeySource::header("X-Acme-Key")?);
//!
//! // Only these two.
//! let layer = keys.layer().sources([KeySource::bearer(), KeySource::scheme("Api-Key")?]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A 401 lists the challenges in the order of the sources. Names of schemes are case-insensitive. A
//! header with a meaning of its own, such as `Cookie` or `X-Request-Id`, is an error.
//!
//! # One key in a request
//!
//! The layer reads all sources, and requires exactly one key:
//!
//! - Two different keys are an error: 400 `ambiguous_api_key`. No source takes precedence.
//! - The same key in two places is one key, and is removed from both.
//! - A repeated header or parameter is a 400, too.
//! - A key in `Authorization` with a typo around it (`Bearer <KEY>`, `BearerKEY`, a scheme that is
//!   no source) is refused with 401 `api_key_not_found`, and never passed on.
//! - A key in any other place is neither read nor removed.
//!
//! # Basic
//!
//! Basic is for tools that support user names and passwords only. `curl -u KEY:` sends the key as
//! the user name; git, pip and npm send it as the password.
//!
//! ```
//! use tower_api_key::{ApiKeys, KeySource};
//!
//! let registry = ApiKeys::in_memory()
//!     .layer()
//!     .sources([KeySource::bearer(), KeySource::basic_password()]);
//! ```
//!
//! Browsers open a dialog for a Basic challenge. Therefore a 401 has a Basic challenge only if
//! Basic is the only source, or with [`ApiKeyLayer::challenge_basic`].
//!
//! # The query, and its risk
//!
//! Browsers, proxies, logs and analytics store URLs, and browsers may send them in `Referer`.
//! [`KeySource::dangerous_query`] is for clients that can send nothing else, such as a webhook of
//! another company. Each request that is admitted with a key in the URL is logged at `WARN` with
//! the key id, so that you can contact the owner.
//!
//! The layer removes the parameter from the request before your service sees the URL. axum keeps a
//! copy of the URL in `OriginalUri`, which the layer can change only with the feature `axum`.
//! Layers and proxies in front of the layer still see the key.
//!
//! Alternatives for clients that cannot set a header:
//!
//! - a WebSocket client sends the key in its first message, and the service calls
//!   [`ApiKeys::verify`];
//! - a download link is a signed URL with a short expiry;
//! - a web page uses a [publishable key](#browsers-and-publishable-keys), or a short-lived token of
//!   its user.
//!
//! # A key and an OAuth token
//!
//! A key identifies an application, and a token identifies a user. Many APIs need both: the key for
//! limits and billing, the token for the user's data. Send the key in `X-API-Key`, and the token in
//! `Authorization: Bearer`.
//!
//! By default, a Bearer token that does not begin as one of your keys is somebody else's, and the
//! layer leaves the token where it is:
//!
//! ```
//! use axum::body::{Body, to_bytes};
//! use axum::http::{HeaderMap, Request, StatusCode, header};
//! use axum::{Extension, Router, routing::get};
//! use tower::ServiceExt;
//! use tower_api_key::{ApiKeys, Caller};
//!
//! # /// Stands for the OAuth library.
//! # fn verify(token: &str) -> Result<String, StatusCode> {
//! #     (token == "eyJhbGciOi…").then(|| "alice".to_owned()).ok_or(StatusCode::UNAUTHORIZED)
//! # }
//! async fn orders(
//!     Extension(application): Extension<Caller>,
//!     headers: HeaderMap,
//! ) -> Result<String, StatusCode> {
//!     let token = headers
//!         .get(header::AUTHORIZATION)
//!         .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
//!         .and_then(|token| std::str::from_utf8(token).ok())
//!         .ok_or(StatusCode::UNAUTHORIZED)?;
//!     let user = verify(token)?; // by your OAuth or JWT library
//!     Ok(format!("orders of {user}, through {}", application.account()))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = ApiKeys::in_memory();
//! let key = keys.issue("globex").await?;
//! let app: Router = Router::new().route("/v1/orders", get(orders)).layer(keys.layer());
//!
//! let request = Request::get("/v1/orders")
//!     .header("x-api-key", key.expose_secret())
//!     .header(header::AUTHORIZATION, "Bearer eyJhbGciOi…")
//!     .body(Body::empty())?;
//! let answer = app.oneshot(request).await?;
//! let body = to_bytes(answer.into_body(), 1024).await?;
//! assert_eq!(body, "orders of alice, through globex");
//! # Ok(())
//! # }
//! ```
//!
//! - A request with a token only has no key, and is refused with 401 `missing_api_key`.
//! - For a route that accepts a key or a token, use [`ApiKeyLayer::optional`]. The handler must
//!   check which of the two is there: a request without a key has no [`Caller`].
//! - [`ApiKeyLayer::resource_metadata`] names the URL from which OAuth clients find your
//!   authorization server (RFC 9728).
//! - Imported keys without a prefix look like tokens. By default, the layer does not read such keys
//!   from `Bearer`; see [`KeyFormat::imported`].
//!
//! # Browsers and publishable keys
//!
//! A web page cannot keep a secret: anybody who opens the page can read its key. For pages, issue
//! *publishable* keys, which hold only scopes that you declared publishable:
//!
//! ```
//! use axum::http::{HeaderName, HeaderValue, header};
//! use axum::{Router, routing::get};
//! use tower_api_key::key::{AllowedOrigins, KeyFormat, KeyKind};
//! use tower_api_key::{ApiKeys, Environment, MemoryStore, Scope};
//! use tower_http::cors::CorsLayer;
//!
//! const SEARCH: Scope = Scope::from_static("search");
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = ApiKeys::builder(MemoryStore::new())
//!     .formats([
//!         KeyFormat::new("acme_live", Environment::LIVE)?,
//!         KeyFormat::new("acme_pub", Environment::LIVE)?.publishable(),
//!     ])
//!     .publishable_scopes([SEARCH])
//!     .build()?;
//!
//! let key = keys
//!     .issue("globex")
//!     .publishable()
//!     .scopes([SEARCH])
//!     .origins(AllowedOrigins::only(["https://shop.globex.example"])?)
//!     .await?;
//! assert!(key.expose_secret().starts_with("acme_pub_"));
//!
//! let cors = CorsLayer::new()
//!     .allow_origin(HeaderValue::from_static("https://shop.globex.example"))
//!     .allow_headers([header::AUTHORIZATION])
//!     .expose_headers([header::RETRY_AFTER, HeaderName::from_static("x-key-status")]);
//!
//! let for_pages: Router = Router::new()
//!     .route("/v1/search", get(|| async { "found" }))
//!     .layer(keys.layer().kinds([KeyKind::Publishable]).require(SEARCH))
//!     .layer(cors); // added last, so outermost
//!
//! let for_servers: Router = Router::new()
//!     .route("/v1/orders", get(|| async { "orders" }))
//!     .layer(keys.layer().refuse_secret_keys_in_browsers());
//! # Ok(())
//! # }
//! ```
//!
//! - A layer accepts secret keys only, unless [`ApiKeyLayer::kinds`] says otherwise. A key of
//!   another kind is refused with 403 `wrong_key_kind`.
//! - Origins prevent other sites from using the key in their pages. A client that is no browser can
//!   send any `Origin`, so limits by key and address still matter.
//! - [`ApiKeyLayer::refuse_secret_keys_in_browsers`] refuses a secret key from a browser with 403
//!   `secret_key_in_browser`. A secret key in a browser has leaked, so replace the key.
//! - The CORS layer is outermost. Otherwise, preflights would be refused, since they have no key,
//!   and pages could not read refusals, since they would lack CORS headers.
//! - Access to a user's data requires a user's token; see the chapter [`wrong_tool`].
//!
//! # Caches
//!
//! Shared caches do not reuse responses to requests with `Authorization` by default. For a key in
//! another place, the layer adds `Cache-Control: private`, unless the service sets the header
//! itself, and `Vary` with the name of the header. Refusals are `no-store`. With
//! [`ApiKeyLayer::optional`], each response has a `Vary` with all headers that keys are read from.
//!
//! [`ApiKeyLayer::add_source`]: crate::ApiKeyLayer::add_source
//! [`ApiKeyLayer::challenge_basic`]: crate::ApiKeyLayer::challenge_basic
//! [`ApiKeyLayer::kinds`]: crate::ApiKeyLayer::kinds
//! [`ApiKeyLayer::optional`]: crate::ApiKeyLayer::optional
//! [`ApiKeyLayer::refuse_secret_keys_in_browsers`]:
//!     crate::ApiKeyLayer::refuse_secret_keys_in_browsers
//! [`ApiKeyLayer::resource_metadata`]: crate::ApiKeyLayer::resource_metadata
//! [`ApiKeyLayer::sources`]: crate::ApiKeyLayer::sources
//! [`ApiKeys::verify`]: crate::ApiKeys::verify
//! [`Caller`]: crate::Caller
//! [`KeyFormat::imported`]: crate::key::KeyFormat::imported
//! [`KeySource::api_key_scheme`]: crate::KeySource::api_key_scheme
//! [`KeySource::basic`]: crate::KeySource::basic
//! [`KeySource::basic_password`]: crate::KeySource::basic_password
//! [`KeySource::bearer`]: crate::KeySource::bearer
//! [`KeySource::dangerous_query`]: crate::KeySource::dangerous_query
//! [`KeySource::header`]: crate::KeySource::header
//! [`KeySource::scheme`]: crate::KeySource::scheme
//! [`KeySource::x_api_key`]: crate::KeySource::x_api_key
//! [`wrong_tool`]: crate::guide::wrong_tool
