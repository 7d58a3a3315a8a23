//! Choose the format of refusals, and look up the codes.
//!
//! # The default: JSON
//!
//! ```text
//! HTTP/1.1 401 Unauthorized
//! content-type: application/json
//! www-authenticate: Bearer realm="api", error="invalid_token", error_description="…"
//! www-authenticate: ApiKey realm="api"
//! cache-control: no-store
//! x-key-status: expired
//! x-key-expired-at: 2026-11-01T00:00:00Z
//!
//! {"error":{"code":"api_key_expired","message":"The API key has expired.",
//! "details":{"expired_at":"2026-11-01T00:00:00Z"}}}
//! ```
//!
//! Programs act on `code` and `details`, and people read `message`. Codes are stable across
//! releases.
//!
//! # Codes
//!
//! The table has the order of the checks, and the first failed check determines the code. Only
//! `service_unavailable` is also possible later, if the limiter fails.
//!
//! | status | code | reason |
//! |---|---|---|
//! | 400 | `ambiguous_api_key` | two different keys, or a repeated header or parameter |
//! | 401 | `missing_api_key` | no key |
//! | 401 | `api_key_not_found` | malformed or unknown |
//! | 429 | `too_many_failed_attempts` | too many unknown keys from this address |
//! | 503 | `service_unavailable` | the store or the limiter failed, or a record is invalid |
//! | 401 | `api_key_revoked` | the key was revoked |
//! | 401 | `api_key_expired` | the key has expired |
//! | 403 | `api_key_suspended` | the key is suspended |
//! | 403 | `api_key_not_yet_active` | the key is not valid yet |
//! | 403 | `wrong_environment` | for example a test key at a live service |
//! | 403 | `wrong_key_kind` | for example a publishable key at an API for servers |
//! | 403 | `secret_key_in_browser` | a secret key from a browser |
//! | 403 | `origin_not_allowed` | a publishable key in a page of another origin |
//! | 403 | `ip_not_allowed` | outside of the networks of the key |
//! | 403 | `insufficient_scope` | the key lacks a required scope |
//! | 403 | `cost_exceeds_quota` | the request costs more than a whole quota |
//! | 429 | `rate_limit_exceeded` | a limit is used up |
//! | 500 | `api_key_layer_missing` | the caller is required, but there is no layer |
//!
//! Malformed and unknown keys get the same response, so the response reveals nothing about existing
//! keys. The application can distinguish both cases: the [`Rejection`] is in the extensions of the
//! response, and [`Rejection::NotFound`] contains the reason.
//!
//! # 401 or 403
//!
//! 401 means that the request lacks valid credentials, and that other credentials may succeed. A
//! 401 has a challenge in `WWW-Authenticate` (RFC 9110). 403 means that the key is authentic, but
//! the request is not permitted.
//!
//! Expired and revoked keys are refused with 401, since their holder needs a new key. A suspended
//! key is refused with 403, since the key can be resumed.
//!
//! [`ApiKeyLayer::forbid_unknown_keys`] refuses unknown keys with 403 and without a challenge, for
//! services whose clients rely on that.
//!
//! # An outage is 503, never 401
//!
//! After a 401, clients stop using the key, and operators replace it. Therefore an outage of your
//! service is never a 401: if the store fails or hangs, requests with keys that are not in the
//! cache get 503 with `Retry-After`. The default is 5 seconds; [`ApiKeyLayer::outage_retry_after`]
//! sets another time. An outage admits no request, unless you choose so with [`LimiterOutage`] or
//! [`Cache::dangerous_serve_stale`].
//!
//! # Problem details
//!
//! [`ErrorFormat::problem_details`] writes problem details (RFC 9457).
//! [`ErrorFormat::problem_details_at`] adds a `type` for each code:
//!
//! ```
//! use axum::body::{Body, to_bytes};
//! use axum::http::{Request, header};
//! use axum::{Router, routing::get};
//! use tower::ServiceExt;
//! use tower_api_key::ApiKeys;
//! use tower_api_key::http::ErrorFormat;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let format = ErrorFormat::problem_details_at("https://docs.example.com/errors/");
//! let app: Router = Router::new()
//!     .route("/", get(|| async {}))
//!     .layer(ApiKeys::in_memory().layer().errors(format));
//!
//! let request = Request::get("/").header("x-api-key", "junk").body(Body::empty())?;
//! let answer = app.oneshot(request).await?;
//! assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json");
//! let body = to_bytes(answer.into_body(), 4096).await?;
//! let expected = concat!(
//!     r#"{"type":"https://docs.example.com/errors/api_key_not_found","#,
//!     r#""title":"api key not found","status":401,"detail":"The API key is not valid.","#,
//!     r#""code":"api_key_not_found","details":{}}"#,
//! );
//! assert_eq!(body, expected);
//! # Ok(())
//! # }
//! ```
//!
//! # Custom formats
//!
//! [`ErrorFormat::custom`] calls a function for each refusal, with the content of the error and the
//! request without its credentials:
//!
//! ```
//! use axum::body::{Body, to_bytes};
//! use axum::http::{Request, Response, header};
//! use axum::{Router, routing::get};
//! use tower::ServiceExt;
//! use tower_api_key::ApiKeys;
//! use tower_api_key::http::ErrorFormat;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let format = ErrorFormat::custom(|error, request| {
//!     let text = format!("{}: {} {}", error.code(), request.method, request.uri.path());
//!     let mut answer = Response::new(text);
//!     let plain = header::HeaderValue::from_static("text/plain");
//!     answer.headers_mut().insert(header::CONTENT_TYPE, plain);
//!     answer
//! });
//! let app: Router = Router::new()
//!     .route("/v1/reports", get(|| async {}))
//!     .layer(ApiKeys::in_memory().layer().errors(format));
//!
//! let answer = app.oneshot(Request::get("/v1/reports").body(Body::empty())?).await?;
//! assert_eq!(answer.status(), 401);
//! assert!(answer.headers().contains_key(header::WWW_AUTHENTICATE));
//! assert_eq!(to_bytes(answer.into_body(), 1024).await?, "missing_api_key: GET /v1/reports");
//! # Ok(())
//! # }
//! ```
//!
//! The function cannot remove required parts: the layer sets the status, and adds the challenge,
//! `Retry-After` and `no-store` if they are missing.
//!
//! # Errors of your handlers
//!
//! The layer also formats rejections of handlers, and your own errors. A handler returns a
//! [`Rejection`] or an [`ApiError`]. With the feature `axum`, both implement `IntoResponse`;
//! without the feature, call `to_response`.
//!
//! ```
//! use axum::body::{Body, to_bytes};
//! use axum::extract::Path;
//! use axum::http::{Request, StatusCode};
//! use axum::response::{IntoResponse, Response};
//! use axum::{Extension, Router, routing::get};
//! use tower::ServiceExt;
//! use tower_api_key::http::ApiError;
//! use tower_api_key::{ApiKeys, Caller, Rejection, Scope};
//!
//! const REPORTS_READ: Scope = Scope::from_static("reports:read");
//!
//! enum AppError {
//!     Refused(Rejection),
//!     NoSuchReport(u64),
//! }
//!
//! impl From<Rejection> for AppError {
//!     fn from(rejection: Rejection) -> Self {
//!         Self::Refused(rejection)
//!     }
//! }
//!
//! impl IntoResponse for AppError {
//!     fn into_response(self) -> Response {
//!         match self {
//!             Self::Refused(rejection) => rejection.to_response::<Body>(),
//!             Self::NoSuchReport(id) => {
//!                 let (status, code) = (StatusCode::NOT_FOUND, "report_not_found");
//!                 ApiError::new(status, code, "There is no such report.")
//!                     .add_detail("report", id)
//!                     .to_response::<Body>()
//!             }
//!         }
//!     }
//! }
//!
//! async fn read_report(
//!     Extension(caller): Extension<Caller>,
//!     Path(id): Path<u64>,
//! ) -> Result<&'static str, AppError> {
//!     caller.require(&REPORTS_READ)?;
//!     if id == 1 { Ok("the first report") } else { Err(AppError::NoSuchReport(id)) }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = ApiKeys::in_memory();
//! let key = keys.issue("globex").scopes([REPORTS_READ]).await?;
//! let app: Router =
//!     Router::new().route("/v1/reports/{id}", get(read_report)).layer(keys.layer());
//!
//! let request = Request::get("/v1/reports/7").header("x-api-key", key.expose_secret());
//! let answer = app.oneshot(request.body(Body::empty())?).await?;
//! assert_eq!(answer.status(), 404);
//! let expected = concat!(
//!     r#"{"error":{"code":"report_not_found","message":"There is no such report.","#,
//!     r#""details":{"report":7}}}"#,
//! );
//! assert_eq!(to_bytes(answer.into_body(), 1024).await?, expected);
//! # Ok(())
//! # }
//! ```
//!
//! If a layer in between changes the status of the response, the response is left unchanged.
//!
//! # gRPC
//!
//! A `POST` with the content type `application/grpc` gets a gRPC response: the HTTP status 200, the
//! status in `grpc-status`, the message in `grpc-message`, and the delay of a 429 or 503 in
//! `grpc-retry-pushback-ms` and `retry-after`. With the feature `tonic`, `?` converts a
//! [`Rejection`] of a handler into a `tonic::Status`.
//!
//! | HTTP | gRPC |
//! |---|---|
//! | 400 | `INVALID_ARGUMENT` |
//! | 401 | `UNAUTHENTICATED` |
//! | 403 | `PERMISSION_DENIED` |
//! | 429 | `RESOURCE_EXHAUSTED` |
//! | 500 | `INTERNAL` |
//! | 503 | `UNAVAILABLE` |
//!
//! A gateway that decides by HTTP status takes the status 200 for an admission. Behind such a
//! gateway, set [`GrpcRequests::Never`].
//!
//! # Counting refusals
//!
//! A layer outside of the key layer finds the [`Rejection`] in the extensions of the response:
//!
//! ```
//! # let mut response = axum::http::Response::new(());
//! # response.extensions_mut().insert(tower_api_key::Rejection::Missing);
//! use tower_api_key::Rejection;
//!
//! if let Some(rejection) = response.extensions().get::<Rejection>() {
//!     println!("refused: {} {}", rejection.status(), rejection.code());
//! }
//! ```
//!
//! For metrics and alerts, an observer is better; see the chapter [`operating`].
//!
//! [`ApiError`]: crate::http::ApiError
//! [`ApiKeyLayer::forbid_unknown_keys`]: crate::ApiKeyLayer::forbid_unknown_keys
//! [`ApiKeyLayer::outage_retry_after`]: crate::ApiKeyLayer::outage_retry_after
//! [`Cache::dangerous_serve_stale`]: crate::Cache::dangerous_serve_stale
//! [`ErrorFormat::custom`]: crate::http::ErrorFormat::custom
//! [`ErrorFormat::problem_details`]: crate::http::ErrorFormat::problem_details
//! [`ErrorFormat::problem_details_at`]: crate::http::ErrorFormat::problem_details_at
//! [`GrpcRequests::Never`]: crate::http::GrpcRequests::Never
//! [`LimiterOutage`]: crate::limit::LimiterOutage
//! [`Rejection`]: crate::Rejection
//! [`Rejection::NotFound`]: crate::Rejection::NotFound
//! [`operating`]: crate::guide::operating
