//! Limit the use by key, account, address, plan and endpoint.
//!
//! Define limits once, in [`Limits`], and pass them to [`ApiKeysBuilder::limits`]. Each request is
//! charged to all limits that apply to it, or to none if one of them denies the request.
//!
//! ```
//! use axum::http::Method;
//! use tower_api_key::limit::{Endpoint, Plan};
//! use tower_api_key::{ApiKeys, Limits, MemoryStore, Quota};
//!
//! let limits = Limits::new()
//!     .add_plan(Plan::new("free").per_account(Quota::per_minute(60)))
//!     .add_plan(Plan::new("pro").per_account(Quota::per_second(50).smooth().burst(100)))
//!     .default_plan("free")
//!     .per_ip(Quota::per_second(100))
//!     .global(Quota::per_second(5_000))
//!     .add_endpoint(
//!         Endpoint::new(Method::POST, "/v1/reports").cost(10).per_account(Quota::per_hour(100)),
//!     );
//! let keys = ApiKeys::builder(MemoryStore::new()).limits(limits).build()?;
//!
//! let key = keys.issue("globex").plan("pro");
//! # Ok::<(), tower_api_key::BuildError>(())
//! ```
//!
//! # Quotas
//!
//! | [`Quota`] | guarantee | use |
//! |---|---|---|
//! | `per_minute(600)` | at most 600 in *any* minute | the usual limit of an API |
//! | `per_second(50).smooth().burst(100)` | 100 at once, then one each 20 ms | even load |
//! | `per_utc_month(10_000)` | at most 10,000 in a calendar month of UTC | billing |
//!
//! In a configuration, a quota is text: `600/min`, `50/s smooth burst 100`, `10000/utc_month`.
//!
//! ```
//! use tower_api_key::Quota;
//!
//! let quota: Quota = "600/min".parse()?;
//! assert_eq!(quota, Quota::per_minute(600));
//! # Ok::<(), tower_api_key::limit::QuotaError>(())
//! ```
//!
//! # Keys, accounts, addresses, plans, endpoints
//!
//! | limit | one budget for each |
//! |---|---|
//! | [`Limits::per_key`] | key |
//! | [`Limits::per_account`] | account and environment: test keys do not use live budgets |
//! | [`Limits::per_ip`] | client address; of IPv6, each /64 |
//! | [`Limits::global`] | (one for all requests) |
//! | [`Limits::per`] | subject of your own, such as a tenant or a user |
//! | [`Plan::per_account`], [`Plan::per_key`] | account or key of that plan |
//! | [`Endpoint::per_key`] and others | the same, at one method and route |
//!
//! - The record of a key names its *plan*. A key without a plan, or with an unknown plan, has the
//!   default plan, so no key is without limits.
//! - An *endpoint* is a method and a route. With the feature `axum`, the route is the path of the
//!   router: `/v1/reports/{id}` is one endpoint for all ids. Without the feature, the route is the
//!   path of the request, unless [`ApiKeyLayer::route_by`] sets another route.
//! - A key can have its own quota: `keys.issue("globex").add_limit("key_per_minute", …)`.
//! - Behind a proxy, limits by address require a [`ClientAddress`]; see the chapter [`proxies`].
//!
//! At most 16 limits apply to one request. Each limit has a name, such as `account_per_minute`,
//! which responses and logs contain. [`Limit`] describes the default names, and [`Limit::named`]
//! sets another name.
//!
//! # Denied requests
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use axum::body::Body;
//! use axum::http::{Request, StatusCode};
//! use axum::{Router, routing::get};
//! use tower::ServiceExt;
//! use tower_api_key::clock::ManualClock;
//! use tower_api_key::{ApiKeys, Limits, MemoryStore, Quota};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
//! let keys = ApiKeys::builder(MemoryStore::new())
//!     .limits(Limits::new().per_key(Quota::per_minute(2)))
//!     .clock(clock.clone())
//!     .build()?;
//! let key = keys.issue("globex").await?;
//! let app: Router = Router::new().route("/", get(|| async {})).layer(keys.layer());
//! let ask = async || {
//!     let request = Request::get("/").header("x-api-key", key.expose_secret());
//!     app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
//! };
//!
//! assert_eq!(ask().await.headers()["x-ratelimit-remaining"], "1");
//! clock.advance(Duration::from_secs(20));
//! assert_eq!(ask().await.headers()["x-ratelimit-remaining"], "0");
//!
//! let denied = ask().await;
//! assert_eq!(denied.status(), StatusCode::TOO_MANY_REQUESTS);
//! assert_eq!(denied.headers()["retry-after"], "40");
//!
//! clock.advance(Duration::from_secs(40));
//! assert_eq!(ask().await.status(), StatusCode::OK);
//! # Ok(())
//! # }
//! ```
//!
//! - A request that one limit denies is not charged to any limit. A client that waits for
//!   `Retry-After` is admitted, unless other requests use the budget in the meantime.
//! - A request that the layer refuses for its key, its network or a scope
//!   ([`ApiKeyLayer::require`]) is not charged. A request that [`RequireScope`] or a handler
//!   refuses has been charged by the layer before. A handler can refund the charge with
//!   [`Caller::refund`].
//! - A request that costs more than a whole quota can never be admitted, so it is refused with 403
//!   `cost_exceeds_quota` instead of 429.
//!
//! # Costs
//!
//! A request counts as one, unless its endpoint has a [cost](crate::Limits::add_cost). Let an
//! endpoint that shows the limits cost nothing, so that callers can use it when a limit is used up:
//!
//! ```
//! use axum::http::Method;
//! use tower_api_key::{Limits, Quota};
//!
//! let limits = Limits::new()
//!     .per_account(Quota::per_minute(600))
//!     .add_cost(Method::POST, "/v1/reports", 10)
//!     .add_cost(Method::GET, "/v1/limits", 0);
//! ```
//!
//! # Tokens, bytes, and other units
//!
//! A limit counts requests, unless [`Limit::unit`] sets another unit. The number of tokens is known
//! only after the work, so the handler charges them:
//!
//! ```
//! use std::time::SystemTime;
//!
//! use axum::body::Body;
//! use axum::http::Request;
//! use axum::{Extension, Router, routing::post};
//! use tower::ServiceExt;
//! use tower_api_key::clock::ManualClock;
//! use tower_api_key::limit::Limit;
//! use tower_api_key::{ApiKeys, Caller, Limits, MemoryStore, Quota};
//!
//! async fn answer(Extension(caller): Extension<Caller>) -> &'static str {
//!     let (answer, tokens) = ("42", 60); // the work
//!     if let Err(error) = caller.charge("tokens", tokens).await {
//!         eprintln!("{tokens} tokens were not charged: {error}");
//!     }
//!     answer
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limits = Limits::new()
//!     .per_account(Quota::per_minute(10))
//!     .per_account(Limit::named("tokens", Quota::per_minute(100)).unit("tokens"));
//! let keys = ApiKeys::builder(MemoryStore::new()).limits(limits);
//! # let keys = keys.clock(ManualClock::at(SystemTime::UNIX_EPOCH));
//! let keys = keys.build()?;
//! let key = keys.issue("globex").await?;
//! let app: Router = Router::new().route("/v1/answers", post(answer)).layer(keys.layer());
//! let ask = async || {
//!     let request = Request::post("/v1/answers").header("x-api-key", key.expose_secret());
//!     app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
//! };
//!
//! assert_eq!(ask().await, 200); // 60 tokens
//! assert_eq!(ask().await, 200); // the 40 that are left
//! assert_eq!(ask().await, 429); // none is left
//! # Ok(())
//! # }
//! ```
//!
//! - [`Caller::charge`] takes the units, or as many as are left, and denies nothing, since the work
//!   is done. If the call fails, log the error, and still respond.
//! - A request is admitted if at least one token is left. [`Endpoint::cost_in`] charges tokens in
//!   advance.
//! - [`Caller::limits`] returns the state of the limits, and charges nothing.
//!
//! # Rolling out a limit
//!
//! A limit that is too low is an outage for some of your callers. Add a new limit as report-only
//! first:
//!
//! ```
//! use tower_api_key::limit::Limit;
//! use tower_api_key::{Limits, Quota};
//!
//! let limits = Limits::new()
//!     .per_key(Quota::per_minute(600))
//!     .per_account(Limit::named("trial", Quota::per_minute(1_000)).report_only());
//! ```
//!
//! 1. Add the limit with [`Limit::report_only`]. The limit denies nothing, and responses do not
//!    mention it.
//! 2. Watch the log for `a limit that only reports would have denied a request`, at `INFO` and at
//!    most once a minute for each limit, or the metric `api_key_report_only_total`.
//! 3. Contact the accounts that would be denied, or change their plan.
//! 4. Remove `report_only()`.
//!
//! For scopes and allow-lists, use [`ApiKeyLayer::require_report_only`] and
//! [`ApiKeyLayer::dangerous_report_networks`] in the same way.
//!
//! # Exempt and anonymous requests
//!
//! - [`Limits::exempt_networks`] exempts networks, such as that of your monitoring, from all
//!   limits.
//! - With [`ApiKeyLayer::optional`], limits by address and global limits apply to requests without
//!   a key. [`Limit::anonymous`] limits only requests without a key.
//!
//! # Response headers
//!
//! | header | value | responses |
//! |---|---|---|
//! | `X-RateLimit-Limit` | the quota of the tightest limit | all that limits apply to |
//! | `X-RateLimit-Remaining` | the units that are left of it | the same |
//! | `X-RateLimit-Reset` | when the whole quota is available, in seconds since 1970 | the same |
//! | `Retry-After` | the seconds until a retry makes sense | 429 and 503 |
//! | `RateLimit`, `RateLimit-Policy` | all limits, in the syntax of the IETF draft | if enabled |
//!
//! ```
//! use tower_api_key::ApiKeys;
//! use tower_api_key::http::RateLimitHeaders;
//!
//! let layer = ApiKeys::in_memory()
//!     .layer()
//!     .rate_limit_headers(RateLimitHeaders::delta().with_draft());
//! ```
//!
//! [`RateLimitHeaders::delta`] writes the reset in seconds from now, and `none` omits the first
//! three headers. Clients should wait for `Retry-After`: the reset is the time when the *whole*
//! quota is available, which can be later.
//!
//! The body of a 429 names the limit as `policy`, with its quota, window and reset. If the service
//! behind the layer sends a 429 itself, the headers of the service are kept.
//!
//! # Changes at run time
//!
//! [`ApiKeys::set_limits`] replaces the limits of all layers, without a restart:
//!
//! ```
//! use tower_api_key::{ApiKeys, Limits, Quota};
//!
//! let keys = ApiKeys::in_memory();
//! let configured = "900/min"; // read anew from a file
//! keys.set_limits(Limits::new().per_account(configured.parse::<Quota>()?))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A budget is identified by the name of the limit, the shape of the quota, and the length of the
//! window. If a quota of `600/min` becomes `900/min`, used units stay used. Requests in progress
//! keep the limits that they began with. Invalid limits, such as plans without a default, are an
//! error, and the current limits stay in force.
//!
//! # Several processes, and outages of the limiter
//!
//! A [`RateLimiter`] keeps the budgets. The default is a [`MemoryLimiter`], which is exact within
//! one process and never fails. Budgets in memory have two consequences:
//!
//! - Each process grants every quota once. With four processes behind a load balancer, a caller can
//!   use up to four times the quota. Divide the quotas, or use a limiter that all processes share.
//! - A restart resets every budget, even that of a month. The log warns about calendar quotas with
//!   a [`MemoryLimiter`].
//!
//! With the feature `redis`, `limit::RedisLimiter` keeps the budgets in Redis. All processes
//! together are then admitted exactly each quota, by the clock of Redis. A request is one call,
//! however many limits it has. [`RateLimiter`] is the port for a limiter of your own.
//!
//! ```
//! # #[cfg(feature = "redis")]
//! # fn build() -> Result<(), Box<dyn std::error::Error>> {
//! use tower_api_key::limit::RedisLimiter;
//! use tower_api_key::{ApiKeys, Limits, MemoryStore, Quota};
//!
//! let keys = ApiKeys::builder(MemoryStore::new())
//!     .limits(Limits::new().per_account(Quota::per_minute(600)))
//!     .limiter(RedisLimiter::connect("redis://localhost/")?)
//!     .build()?;
//! # Ok(())
//! # }
//! ```
//!
//! Budgets are lost with the data of Redis. The chapter [`fleet`](crate::guide::fleet) says what can
//! then be used beyond a quota, and how large and how safe Redis has to be.
//!
//! A limiter on a server can fail, and [`LimiterOutage`] is the policy for a failure:
//!
//! | policy | requests | risk |
//! |---|---|---|
//! | [`LimiterOutage::refuse`], the default | get 503 with `Retry-After` | callers see the outage |
//! | [`LimiterOutage::admit`] | pass, up to a quota for all | one caller can use all of it |
//! | [`LimiterOutage::local_share`] | are limited in memory, by a share | up to twice a quota |
//!
//! ```
//! use std::num::NonZeroU32;
//! use std::time::Duration;
//!
//! use tower_api_key::limit::LimiterOutage;
//! use tower_api_key::{ApiKeys, MemoryStore};
//!
//! let four = NonZeroU32::new(4).unwrap();
//! let outage = LimiterOutage::local_share(four).time_limit(Duration::from_millis(100));
//! let keys = ApiKeys::builder(MemoryStore::new()).limiter_outage(outage).build()?;
//! # Ok::<(), tower_api_key::BuildError>(())
//! ```
//!
//! A limiter fails after 250 milliseconds without an answer, unless [`LimiterOutage::time_limit`]
//! sets another time. With the feature `conformance`, the suites of `conformance::rate_limiter`
//! test your own limiter.
//!
//! [`ApiKeyLayer::dangerous_report_networks`]: crate::ApiKeyLayer::dangerous_report_networks
//! [`ApiKeyLayer::optional`]: crate::ApiKeyLayer::optional
//! [`ApiKeyLayer::require`]: crate::ApiKeyLayer::require
//! [`ApiKeyLayer::require_report_only`]: crate::ApiKeyLayer::require_report_only
//! [`ApiKeyLayer::route_by`]: crate::ApiKeyLayer::route_by
//! [`ApiKeys::set_limits`]: crate::ApiKeys::set_limits
//! [`ApiKeysBuilder::limits`]: crate::ApiKeysBuilder::limits
//! [`Caller::charge`]: crate::Caller::charge
//! [`Caller::limits`]: crate::Caller::limits
//! [`Caller::refund`]: crate::Caller::refund
//! [`ClientAddress`]: crate::http::ClientAddress
//! [`Endpoint::cost_in`]: crate::limit::Endpoint::cost_in
//! [`Endpoint::per_key`]: crate::limit::Endpoint::per_key
//! [`Limit`]: crate::limit::Limit
//! [`Limit::anonymous`]: crate::limit::Limit::anonymous
//! [`Limit::named`]: crate::limit::Limit::named
//! [`Limit::report_only`]: crate::limit::Limit::report_only
//! [`Limit::unit`]: crate::limit::Limit::unit
//! [`LimiterOutage`]: crate::limit::LimiterOutage
//! [`LimiterOutage::admit`]: crate::limit::LimiterOutage::admit
//! [`LimiterOutage::local_share`]: crate::limit::LimiterOutage::local_share
//! [`LimiterOutage::refuse`]: crate::limit::LimiterOutage::refuse
//! [`LimiterOutage::time_limit`]: crate::limit::LimiterOutage::time_limit
//! [`Limits`]: crate::Limits
//! [`Limits::exempt_networks`]: crate::Limits::exempt_networks
//! [`Limits::global`]: crate::Limits::global
//! [`Limits::per`]: crate::Limits::per
//! [`Limits::per_account`]: crate::Limits::per_account
//! [`Limits::per_ip`]: crate::Limits::per_ip
//! [`Limits::per_key`]: crate::Limits::per_key
//! [`MemoryLimiter`]: crate::limit::MemoryLimiter
//! [`Plan::per_account`]: crate::limit::Plan::per_account
//! [`Plan::per_key`]: crate::limit::Plan::per_key
//! [`Quota`]: crate::Quota
//! [`RateLimitHeaders::delta`]: crate::http::RateLimitHeaders::delta
//! [`RateLimiter`]: crate::limit::RateLimiter
//! [`RequireScope`]: crate::RequireScope
//! [`proxies`]: crate::guide::proxies
