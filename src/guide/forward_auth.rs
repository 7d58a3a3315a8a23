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
//! The last key has no prefix, so it is read from `X-API-Key` and `Authorization: ApiKey` only: under
//! `Bearer`, it could be a user's token.
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
//! If the [source](crate::KeySource) of keys changes, so must all that name `X-API-Key`, or the key
//! arrives at the application: `proxy_set_header X-API-Key ""` in `nginx.conf`,
//! `authResponseHeaders` in `traefik.yml`, and for Envoy `allowed_headers` in `envoy.yaml` and the
//! list of headers to remove in `answer.rs`.
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
//! A fact that the key does not have is missing with nginx, and empty with Traefik and Envoy. What
//! a client sends under these names never arrives, in upper case neither. nginx drops headers whose
//! name has another character than letters, digits and `-`, since some servers take `X_Key_Account`
//! or `X.Key.Account` for `X-Key-Account`; with Traefik, a request with one is refused with 400
//! `unclear_request`. Envoy refuses `_` by itself, and does not ask about `.`: an application that
//! reads it as `-`, such as one in PHP, must refuse it.
//!
//! The client's address is in `X-Forwarded-For`, alone, and with nginx and Traefik in `X-Real-IP`,
//! too. Other headers that name an address are removed: `Forwarded`, `True-Client-IP`,
//! `X-Client-IP`, `X-Cluster-Client-IP`, `CF-Connecting-IP`. If your application reads one that is
//! not listed, add it to the configuration.
//!
//! **An application must refuse a request without `X-Key-Id`.** It came around the proxy, or
//! another program answered in place of the service: Traefik takes any 2xx for an admission, and
//! Envoy 200. nginx refuses it by itself, with 502, in each location that passes on to
//! `http://$application`.
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
//! | a head that the service cannot read (control bytes, over 100 headers) | 400 `unclear_request` | 400 or 431 without a body | passes: Envoy asks with few headers |
//! | the service is down | 503 `service_unavailable` | 500 | 503 without a body |
//! | key and limits on success (`X-Key-Status`, `X-RateLimit-…`, `Deprecation`, …) | yes | no: Traefik cannot | yes |
//!
//! **nginx** passes on 401 and 403 only, makes 500 of all else, and drops the body. So the service
//! answers nginx with 403 for each refusal, and with the true response in headers:
//! `X-Refusal-Status`, `X-Refusal-Type` and `X-Refusal-Body`. The configuration makes the response
//! from them with `return`, for the statuses that it lists; any other becomes 403. A body must be
//! one line of at most 4,096 bytes, or else the refusal has none. The service is not asked again,
//! so nothing is charged twice, and the refusal does not wait until the client has sent its body.
//! Several challenges are joined in one `WWW-Authenticate`, since nginx before 1.23 reads only the
//! first line. The settings stand in `server`, so a new location is protected, too, with these
//! exceptions:
//!
//! - `return` and `rewrite … redirect` answer before nginx asks. So they are open.
//! - `satisfy any` admits whoever another rule, such as `allow`, admits.
//! - An internal redirect (`try_files`, `error_page`, `X-Accel-Redirect`) asks and charges again.
//!   If only redirects reach the target, give it `internal;` and `auth_request off;`.
//! - A `proxy_set_header` in a location takes away all those of the server, and so the facts. The
//!   same goes for `auth_request_set`, `error_page` and `add_header`.
//!
//! nginx's default log has the user of Basic, which may be a key. The `log_format` of the
//! configuration has neither the user nor the query. The error log has the whole request line.
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
//! - **One request is decided on, and one is served.** After an upgrade to HTTP/2 (`Upgrade: h2c`),
//!   which servers such as Hypercorn accept, a client would send more requests on the connection,
//!   and nobody would decide on them. nginx and Envoy upgrade to WebSockets only. Traefik's rule
//!   has no route for h2c, so each rule of yours needs that part; a current Traefik does not pass
//!   h2c on.
//! - **Traefik is a current version.** Before v2.11.9 and v3.1.3, `Connection: X-Key-Plan` of a
//!   client removes a fact. Traefik does not tell the service what `Connection` names. With
//!   Traefik, an application that finds one of the six `X-Key` headers missing (not empty) should
//!   refuse.
//! - **Each proxy is the outermost.** The client's address is the one that the proxy saw. Behind
//!   another proxy, let the outer one tell it: `real_ip` in nginx, the PROXY protocol in Traefik
//!   (`proxyProtocol.trustedIPs`; `forwardedHeaders.trustedIPs` has no effect on the question), and
//!   `xff_num_trusted_hops` in Envoy.
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
//! - Unknown tokens that have the form of a key are counted: after 1,000 within a minute
//!   (`MOST_UNKNOWN_TOKENS`), the asker is denied with 429, whatever it asks about. Danger: whoever
//!   can make a service introspect can invent such tokens, and so deny it its answers. Let such a
//!   service limit its own clients before it asks, and give each service a key of its own. No other
//!   answer is charged.
//! - A request that cannot be read is answered as OAuth does: 400, or 413 above 8 KiB, with
//!   `{"error":"invalid_request",…}`.
//! - An answer is a state of the moment (`no-store`), and charges no limit of the key. Who caches
//!   it learns of a revocation late. An introspection is a use of the key: its last use is then.
//!
//! In a Rust service, use [`ApiKeys::verify`].
//!
//! [`ApiKeyLayer`]: crate::ApiKeyLayer
//! [`ApiKeyLayer::pass_on`]: crate::ApiKeyLayer::pass_on
//! [`ApiKeys::verify`]: crate::ApiKeys::verify
//! [`GrpcRequests::Never`]: crate::http::GrpcRequests::Never
//! [query]: crate::KeySource::dangerous_query
