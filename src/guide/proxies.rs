//! Find the client's address behind a proxy, for allow-lists, limits by address, and logs.
//!
//! Three features use the address of the client: allow-lists of networks, limits by address
//! ([`Limits::per_ip`]), and the limit of failed attempts. If clients can choose their address,
//! none of the three protects anything.
//!
//! # Without a proxy
//!
//! Without a proxy, the client is the peer of the connection. By default, the layer uses the peer's
//! address, and reads no header. The server must provide the peer's address:
//!
//! - axum, with the feature `axum` of this crate: serve
//!   `app.into_make_service_with_connect_info::<SocketAddr>()`.
//! - tonic, with the feature `tonic`: provided by default.
//! - Any other server, and axum without the feature: insert a [`PeerAddr`] into the extensions of
//!   each request.
//!
//! ```no_run
//! use std::net::SocketAddr;
//!
//! use axum::extract::{ConnectInfo, Request};
//! use axum::{Router, middleware, routing::get};
//! use tower_api_key::ApiKeys;
//! use tower_api_key::http::PeerAddr;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = ApiKeys::in_memory();
//! let app = Router::new()
//!     .route("/", get(|| async { "ok" }))
//!     .layer(keys.layer())
//!     .layer(middleware::map_request(note_peer)); // not needed with the feature `axum`
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
//! # Ok(())
//! # }
//!
//! async fn note_peer(
//!     ConnectInfo(peer): ConnectInfo<SocketAddr>,
//!     mut request: Request,
//! ) -> Request {
//!     request.extensions_mut().insert(PeerAddr(peer));
//!     request
//! }
//! ```
//!
//! If no address is known, keys with an allow-list are refused, and all clients share one budget of
//! each limit by address. The log reports the problem once, and how to fix it.
//!
//! # Behind a proxy
//!
//! Behind a proxy, the peer of every connection is the proxy. The proxy writes the client's address
//! into a header, such as `X-Forwarded-For` or `Forwarded` (RFC 7239). A client can send the same
//! header with any address, and most proxies append to the header of the client:
//!
//! ```text
//! the client sends      X-Forwarded-For: 192.0.2.1
//! the proxy passes on   X-Forwarded-For: 192.0.2.1, 203.0.113.9
//!                                        ^^^^^^^^^  ^^^^^^^^^^^
//!                                        forged     seen by the proxy
//! ```
//!
//! A service that uses the first entry trusts the client. [`TrustedProxies`] names the trusted
//! proxies, and the layer reads the header from the end:
//!
//! ```
//! use http::Request;
//! use tower_api_key::http::{ClientAddress, PeerAddr, TrustedProxies};
//!
//! // The proxy 10.0.0.2 forwarded this request. The client 203.0.113.9 forged the first entry.
//! let request = Request::builder()
//!     .header("x-forwarded-for", "192.0.2.1, 203.0.113.9")
//!     .extension(PeerAddr(([10, 0, 0, 2], 50_000).into()))
//!     .body(())?;
//!
//! let proxies = TrustedProxies::networks(["10.0.0.0/8"])?;
//! let client = ClientAddress::x_forwarded_for(proxies).of(&request);
//! assert_eq!(client, Some("203.0.113.9".parse()?));
//!
//! // By default, no header is trusted: the client is the peer.
//! assert_eq!(ClientAddress::peer().of(&request), Some("10.0.0.2".parse()?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Pass the same [`ClientAddress`] to the layer:
//!
//! ```
//! use tower_api_key::ApiKeys;
//! use tower_api_key::http::{ClientAddress, TrustedProxies};
//!
//! let proxies = TrustedProxies::networks(["10.0.0.0/8"])?;
//! let layer = ApiKeys::in_memory()
//!     .layer()
//!     .client_address(ClientAddress::x_forwarded_for(proxies));
//! # Ok::<(), tower_api_key::key::NetworkError>(())
//! ```
//!
//! # Which proxies to trust
//!
//! | in front of the service | use |
//! |---|---|
//! | nginx on the same machine | [`TrustedProxies::loopback`] |
//! | load balancers in your network | [`TrustedProxies::networks`] |
//! | a number of proxies with changing addresses, or a Unix socket | [`TrustedProxies::count`] |
//! | a platform with its own header, which clients cannot set | [`ClientAddress::from_fn`] |
//!
//! Two mistakes are common:
//!
//! - **Too few.** A proxy is taken for the client. All clients share the proxy's limits by address,
//!   allow-lists refuse all clients, and one client with unknown keys uses the failed attempts of
//!   all. The log reports an untrusted header once, unless the proxies are a count.
//! - **Too many.** A client chooses its own address, and bypasses allow-lists and limits. The log
//!   cannot report a forged entry, since the entry looks like any other.
//!
//! ```
//! use std::num::NonZeroU8;
//!
//! use http::Request;
//! use tower_api_key::http::{ClientAddress, TrustedProxies};
//!
//! // One proxy appended 203.0.113.9, and the service trusts two.
//! let request = Request::builder()
//!     .header("x-forwarded-for", "192.0.2.1, 203.0.113.9")
//!     .body(())?;
//! let two = NonZeroU8::new(2).unwrap();
//! let too_many = ClientAddress::x_forwarded_for(TrustedProxies::count(two));
//! assert_eq!(too_many.of(&request), Some("192.0.2.1".parse()?)); // the forged entry
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! With a count, a client that connects to the service directly can also choose its address. Allow
//! connections to the service from the proxies only. With networks, a request from another peer has
//! the address of the peer, whatever its headers are.
//!
//! Test the setting: send a request with a forged `X-Forwarded-For` and an invalid key through the
//! proxy, and check the field `client` of the log event `request refused`.
//!
//! # Allow-lists
//!
//! If a key is used from known networks only, restrict the key to these networks. Requests from
//! elsewhere are refused with 403 `ip_not_allowed`, even if the key was stolen.
//!
//! ```
//! use axum::body::Body;
//! use axum::http::{Request, StatusCode};
//! use axum::{Router, routing::get};
//! use tower::ServiceExt;
//! use tower_api_key::ApiKeys;
//! use tower_api_key::http::PeerAddr;
//! use tower_api_key::key::AllowedNetworks;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = ApiKeys::in_memory();
//! let office = AllowedNetworks::only(["192.0.2.0/24", "2001:db8::/32"])?;
//! let key = keys.issue("globex").networks(office).await?;
//! let app: Router = Router::new().route("/", get(|| async {})).layer(keys.layer());
//!
//! let ask = async |peer: [u8; 4]| {
//!     let request = Request::get("/")
//!         .header("x-api-key", key.expose_secret())
//!         .extension(PeerAddr((peer, 50_000).into()))
//!         .body(Body::empty())
//!         .unwrap();
//!     app.clone().oneshot(request).await.unwrap().status()
//! };
//! assert_eq!(ask([192, 0, 2, 7]).await, StatusCode::OK);
//! assert_eq!(ask([198, 51, 100, 1]).await, StatusCode::FORBIDDEN);
//! # Ok(())
//! # }
//! ```
//!
//! An unknown address is in no list. IPv4 addresses that are mapped into IPv6 are read as IPv4, so
//! another notation does not bypass a list; see [`ClientAddress`].
//!
//! To collect the networks of a key before a list is enforced, use
//! [`ApiKeyLayer::dangerous_report_networks`] for some time.
//!
//! # Failed attempts
//!
//! A well-formed key that does not exist causes a lookup in the store. [`failed_attempts`] limits
//! how many such keys one address may try:
//!
//! ```
//! use tower_api_key::{ApiKeys, MemoryStore, Quota};
//!
//! let keys = ApiKeys::builder(MemoryStore::new())
//!     .failed_attempts(Quota::per_minute(300))
//!     .build()?;
//! # Ok::<(), tower_api_key::BuildError>(())
//! ```
//!
//! - Beyond the quota, keys that this process has not found before are refused with 429
//!   `too_many_failed_attempts`, without a lookup.
//! - A key in the cache is admitted even beyond the quota. A valid key that this process has not
//!   found before is refused, until the address may try again.
//! - Keys with an invalid checksum cause no lookup, and are not counted.
//! - A stranger can make up keys with a valid checksum. With [`KeyFormat::keyed_checksum`] that takes
//!   a secret of yours, and made-up keys cause no lookup either.
//! - The quota protects the store. A key of 256 bits cannot be guessed, with or without the quota.
//!
//! # More about proxies
//!
//! - A proxy in front of the layer sees the key. Configure its access log without `Authorization`
//!   and `X-API-Key`.
//! - A proxy can ask a service whether to let a request pass (`auth_request`, forward auth), for
//!   applications in any language: see the chapter [`forward_auth`](crate::guide::forward_auth).
//!   Such proxies decide by HTTP status, and a gRPC refusal has the status 200. Set
//!   [`GrpcRequests::Never`] if the proxy asks with the method of the original request.
//! - If your service is a proxy itself, [`ApiKeyLayer::pass_on`] passes the caller on as request
//!   headers. A service that trusts these headers must be reachable through the layer only.
//!
//! [`ApiKeyLayer::dangerous_report_networks`]: crate::ApiKeyLayer::dangerous_report_networks
//! [`ApiKeyLayer::pass_on`]: crate::ApiKeyLayer::pass_on
//! [`ClientAddress`]: crate::http::ClientAddress
//! [`ClientAddress::from_fn`]: crate::http::ClientAddress::from_fn
//! [`GrpcRequests::Never`]: crate::http::GrpcRequests::Never
//! [`KeyFormat::keyed_checksum`]: crate::key::KeyFormat::keyed_checksum
//! [`Limits::per_ip`]: crate::Limits::per_ip
//! [`PeerAddr`]: crate::http::PeerAddr
//! [`TrustedProxies`]: crate::http::TrustedProxies
//! [`TrustedProxies::count`]: crate::http::TrustedProxies::count
//! [`TrustedProxies::loopback`]: crate::http::TrustedProxies::loopback
//! [`TrustedProxies::networks`]: crate::http::TrustedProxies::networks
//! [`failed_attempts`]: crate::ApiKeysBuilder::failed_attempts
