//! Put API keys in front of services that are not in Rust, by nginx, Traefik or Envoy.
//!
//! Three proxies can ask another service whether to let a request pass: nginx (`auth_request`),
//! Traefik (`forwardAuth`) and Envoy (`ext_authz`). `examples/forward_auth` is such a service: an
//! [`ApiKeyLayer`] around the routes of the application, whose handlers only admit. Scopes, limits,
//! costs and allow-lists work as if the application were written in axum.
//!
//! ```text
//! client ──> proxy ──> application      the request, with X-Key-Account, without the key
//!              │
//!              └────> forward_auth      "may GET /v1/reports pass, with these headers?"
//! ```
//!
//! # Try it
//!
//! ```sh
//! cargo run --example forward_auth                         # shows what the proxies ask, and ends
//! cargo run --example forward_auth -- serve 127.0.0.1:4180 # serves, and prints keys to try
//! API_KEYS="reader acme reports:read = $(openssl rand -hex 32)" \
//!     cargo run --example forward_auth -- serve 127.0.0.1:4180
//! ```
//!
//! The configurations of the proxies are beside the example. nginx's is tested with nginx 1.22;
//! those of Traefik and Envoy are tested by clients that do what the documentation of the two says.
//!
//! | file | asks | with the method and path in |
//! |---|---|---|
//! | `nginx.conf` | `/nginx` | `X-Original-Method`, `X-Original-URI`, which the configuration sets |
//! | `traefik.yml` | `/traefik` | `X-Forwarded-Method`, `X-Forwarded-Uri` |
//! | `envoy.yaml` | `/envoy` and the path | the request itself |
//!
//! To adapt the example, change the routes and limits in its `service.rs`. A route that is not
//! listed there is refused with 404 `no_such_route`, so no other spelling of a path, such as
//! `/V1/reports`, gets around the scope of a route.
//!
//! # The essence
//!
//! The layer must see the method and path of the client, and not those of the question. With
//! [`ApiKeyLayer::pass_on`], it writes the facts about the caller into the request, and takes the
//! key out. The handler returns what it got, and the proxy sets it on the request to the
//! application:
//!
//! ```
//! use axum::body::Body;
//! use axum::http::{HeaderMap, Method, Request, StatusCode, Uri};
//! use axum::{Router, routing::get};
//! use tower::ServiceExt;
//! use tower_api_key::http::{CallerFact, GrpcRequests};
//! use tower_api_key::{ApiKeys, RequireScope, Scope};
//!
//! const READ: Scope = Scope::from_static("reports:read");
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = ApiKeys::in_memory();
//! let layer = keys.layer().pass_on([CallerFact::Account]).grpc(GrpcRequests::Never);
//! let rules: Router = Router::new()
//!     .route("/v1/reports", get(admit).layer(RequireScope::new(READ)))
//!     .layer(layer);
//!
//! async fn admit(facts: HeaderMap) -> Result<[(&'static str, String); 1], StatusCode> {
//!     let account = facts.get("x-key-account").and_then(|it| it.to_str().ok());
//!     let account = account.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
//!     Ok([("x-key-account", account.to_owned())])
//! }
//!
//! // The question of nginx becomes the request that it is about.
//! fn original(asking: Request<Body>) -> Option<Request<Body>> {
//!     let header = |name: &str| asking.headers().get(name)?.to_str().ok();
//!     let method: Method = header("x-original-method")?.parse().ok()?;
//!     let uri: Uri = header("x-original-uri")?.parse().ok()?;
//!     let mut original = Request::new(Body::empty());
//!     *original.method_mut() = method;
//!     *original.uri_mut() = uri;
//!     *original.headers_mut() = asking.headers().clone();
//!     Some(original)
//! }
//!
//! let key = keys.issue("acme").scopes([READ]).await?;
//! let asking = Request::get("/nginx")
//!     .header("x-original-method", "GET")
//!     .header("x-original-uri", "/v1/reports")
//!     .header("x-api-key", key.expose_secret())
//!     .header("x-key-account", "root") // the client says so
//!     .body(Body::empty())?;
//! let original = original(asking).ok_or("a question without its request is refused")?;
//! let answer = rules.oneshot(original).await?;
//! assert_eq!(answer.headers()["x-key-account"], "acme");
//! # Ok(())
//! # }
//! ```
//!
//! The example does more: it refuses what is missing, repeated or ambiguous, tells the client's
//! address to the layer, and writes the refusals in the form of each proxy.
//!
//! # What the application gets
//!
//! | header | value |
//! |---|---|
//! | `X-Key-Account`, `X-Key-Plan`, `X-Key-Environment` | visible ASCII; blanks, `%` and all else are percent-encoded in UTF-8 |
//! | `X-Key-Id` | the public id of the key, 32 hexadecimal digits |
//! | `X-Key-Scopes` | the scopes, separated by spaces |
//! | `X-Key-Status` | `active` or `deprecated` |
//! | `Authorization` | a user's token, if one came beside the key in `X-API-Key` |
//!
//! A fact that the key does not have is missing, or empty with Envoy. What a client sends under
//! these names never arrives, in any case, and with `_` for `-` neither. An application should
//! refuse a request without `X-Key-Id`: it came around the proxy.
//!
//! The key is in none of the headers that arrive. Do not add the [query] as a source of keys here:
//! none of the three proxies takes a key out of the URL.
//!
//! # What the client gets
//!
//! | | nginx | Traefik | Envoy |
//! |---|---|---|---|
//! | 400, 401, 403, 404, 429 | as the layer wrote it | as the layer wrote it | as the layer wrote it |
//! | 503 of the layer | as the layer wrote it | as the layer wrote it | 503 without a body |
//! | the service is down | 503 `service_unavailable` | 500 | 503 without a body |
//! | key and limits on success (`X-Key-Status`, `X-RateLimit-…`, `Deprecation`, …) | yes | no: Traefik cannot | yes |
//!
//! **nginx** passes on 401 and 403 only, makes 500 of all else, and drops the body. So the service
//! answers nginx with 403 for each refusal, and with the true response in headers:
//! `X-Refusal-Status` and `X-Refusal-Body`. The configuration makes the response from them with
//! `return`. The service is not asked again, so nothing is charged twice, and the refusal does not
//! wait until the client has sent its body. Several challenges are joined in one
//! `WWW-Authenticate`, since nginx before 1.23 reads only the first line. The settings stand in
//! `server`, so a new location is protected, too.
//!
//! # What must hold
//!
//! - **Only the proxy reaches the service.** It believes the method, path and address that it is
//!   told. Who can reach it can ask as any client, but needs a key even so.
//! - **Only the proxy reaches the application**, which believes the facts.
//! - **The same request is decided on and served.** The application gets the path as it was asked
//!   about. A path that servers read in different ways is refused with 400 `unclear_request`: with
//!   `//`, `.` or `..` as a segment, `;`, `\`, an encoded `/`, `%`, letter, digit or `-._~`, or
//!   bytes that are not UTF-8. Headers by which an application would take another method or path
//!   (`X-HTTP-Method-Override`, `X-Original-URL`, …) are removed. If your framework takes a method
//!   from the form or the query (`_method`), switch that off.
//! - **Each proxy is the outermost.** The client's address is the one that the proxy saw. Behind
//!   another proxy, let the outer one tell it (`real_ip` in nginx, `forwardedHeaders.trustedIPs` in
//!   Traefik, `xff_num_trusted_hops` in Envoy).
//! - **The layer answers by HTTP status**, with [`GrpcRequests::Never`]: a gRPC refusal has the
//!   status 200, which a proxy takes for approval.
//!
//! A CORS preflight has no key, and is refused with 401. Answer preflights in the proxy, before it
//! asks. WebSockets pass: the upgrade is decided on, and not the messages. A body is never sent to
//! the service, so a limit in bytes cannot count it.
//!
//! # Introspection
//!
//! A service that gets a key in another way than a request, such as in a queue, asks what it is
//! (RFC 7662). It authenticates with a key of its own that has the scope `keys:introspect`:
//!
//! ```text
//! $ curl http://127.0.0.1:4180/introspect -H "X-API-Key: $ASKER" -d "token=$KEY"
//! {"active":true,"client_id":"8ecfcb44f2299407fe7e3d11f5ddfa67","iat":1795875212,
//!  "iss":"https://keys.example.com","scope":"reports:read reports:write","sub":"acme"}
//! ```
//!
//! - `client_id` is the id of the key, `sub` the account, and `exp` the expiry, if there is one.
//! - Of any other token, nothing is told but `{"active":false}`: unknown, expired, revoked,
//!   suspended, not yet active, not secret, or not of the environment `live`.
//! - A key with an allow-list is active only if the parameter `client_ip` has an address of the
//!   list. Send the address of whoever presented the key.
//! - If the store fails, the answer is 503. It is never `false`, since nothing is known.
//! - Unknown tokens are counted: after 20 within a minute, the asker is denied with 429. Its other
//!   limits apply, too.
//! - A request that cannot be read is answered as OAuth does: 400, or 413 above 8 KiB, with
//!   `{"error":"invalid_request",…}`.
//! - An answer is a state of the moment (`no-store`), and charges no limit of the key. Who caches it
//!   learns of a revocation late.
//!
//! In a Rust service, use [`ApiKeys::verify`].
//!
//! [`ApiKeyLayer`]: crate::ApiKeyLayer
//! [`ApiKeyLayer::pass_on`]: crate::ApiKeyLayer::pass_on
//! [`ApiKeys::verify`]: crate::ApiKeys::verify
//! [`GrpcRequests::Never`]: crate::http::GrpcRequests::Never
//! [query]: crate::KeySource::dangerous_query
