//! Several processes that behave as one: topologies, what fails when, sizes, proxies, upgrades.
//!
//! # Topologies
//!
//! | topology | limits | a revocation reaches the others | may fail |
//! |---|---|---|---|
//! | one process | exact | – | the process |
//! | several, one file of SQLite | of each process by itself | in 200 ms | the machine |
//! | several, PostgreSQL | of each process by itself | in 50 ms | PostgreSQL |
//! | several, PostgreSQL and Redis | exact | in 20 ms | either, see below |
//! | several, PostgreSQL and a cluster of Redis | exact | in 20 ms | either, see below |
//!
//! Without Redis, each process counts by itself: divide each quota by the number of processes, or
//! accept that much more. For quotas that are sold, use Redis.
//!
//! The times are those of the ninety-ninth of a hundred revocations on one machine; add the network.
//! If anything fails, a revocation reaches every process after [`Cache::max_staleness`]. There are
//! two exceptions, both of clocks: see the tables below.
//!
//! # A process of a fleet
//!
//! ```no_run
//! # #[cfg(all(feature = "redis", feature = "postgres"))]
//! # async fn start(pool: tower_api_key::store::sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use tower_api_key::limit::{LimiterOutage, RedisLimiter};
//! use tower_api_key::store::{PostgresStore, RedisFleet};
//! use tower_api_key::{ApiKeys, Cache, Limits, Quota};
//!
//! let redis = "redis://:password@10.0.0.7/";
//! let database = PostgresStore::new(pool);
//! database.migrate().await?;
//! let keys = ApiKeys::builder(RedisFleet::connect(redis, database)?)
//!     .limits(Limits::new().per_account(Quota::per_minute(1_000)))
//!     .limiter(RedisLimiter::connect(redis)?)
//!     .limiter_outage(LimiterOutage::refuse().time_limit(Duration::from_millis(100)))
//!     .cache(Cache::new().max_staleness(Duration::from_secs(30)))
//!     .build()?;
//! let worker = tokio::spawn(keys.worker().into_future()); // follows the news of changes
//! # Ok(())
//! # }
//! ```
//!
//! `cargo run --features redis,sqlite --example fleet -- --show` shows three such servers in one
//! program.
//!
//! The two parts are independent. `limit::RedisLimiter` makes limits exact. `store::RedisFleet`
//! spares the database, and tells of changes; over a store with a feed of its own, such as
//! PostgreSQL's, it is the less needed one.
//!
//! # What fails, and what it costs
//!
//! Limits, for each budget:
//!
//! | event | what is admitted beyond the quota |
//! |---|---|
//! | Redis hangs, or a call comes late | nothing, and nothing is charged after its time limit |
//! | a restart, with `appendfsync always` | nothing |
//! | a crash, with `appendfsync everysec` | what was admitted in the last second or two |
//! | a restart without a file, `FLUSHALL`, an eviction | one quota, once |
//! | a failover | what was admitted and not replicated; if the network is split, one quota on each side |
//! | the clock of Redis is set forwards, or that of a new master is ahead | what a budget regains in that time |
//! | the clock of Redis is set back, or that of a new master is behind | nothing; nobody waits for longer than a period |
//! | the clock of a process is wrong | nothing: the clock of Redis counts |
//!
//! While Redis does not answer, [`LimiterOutage`] decides: requests get 503, pass, or are limited by
//! each process. After five calls without an answer, no request waits for Redis any more; it is
//! probed ten times a second, and used again within a second.
//!
//! Keys:
//!
//! | event | keys that are cached | other keys | a revocation |
//! |---|---|---|---|
//! | Redis is down | work | are loaded from the database | by the database's feed, or after `max_staleness` |
//! | the database is down | work for `max_staleness` | work while Redis has a copy that is young enough | is not possible |
//! | both are down | work for `max_staleness` | get 503 | is not possible |
//! | the feed is cut, or half open | work | work | after `max_staleness` |
//! | Redis loses its data | work | are loaded from the database | as before: readers notice a gap |
//! | Redis is full, or refuses writes | work | are loaded from the database | by the database's feed, or after `max_staleness`; [`ApiKeys::health`] says `Late` |
//! | the network is split | work | as if Redis or the database were down, on that side | after `max_staleness`, across the split |
//! | the clock of Redis is set back, or that of a new master is behind | work | a copy may serve for longer by as much | by the feed, or later by as much |
//! | a process hangs | its own requests wait | – | its own cache refuses what is too old when it goes on |
//! | a machine is suspended | – | – | its monotonic clock stood still: after `max_staleness` once it goes on, or sooner by the feed |
//!
//! # Sizes
//!
//! - **Redis, budgets**: about 220 bytes each, and 500 for a window that is used all the time, until
//!   the budget is full again. 100,000 accounts with a limit per minute and one per month: 50 MB.
//! - **Redis, copies**: about 500 bytes for each key in use, for a minute
//!   (`RedisFleet::copy_life`), and a fence of 100 bytes for ten minutes after a change.
//! - **Redis, news**: 4 MB at most, unless single changes touch many keys.
//! - **Calls**: one for each request with a limit, and one for each key and process in
//!   `max_staleness`. One server of Redis does about 100,000 calls a second; with a cluster, the
//!   budgets of an account are on one of its servers.
//! - **Connections**: four for each process; on a cluster, three to each master, and one more.
//!
//! Set `maxmemory` with room to spare, and `maxmemory-policy noeviction`. An evicted budget is
//! granted once more, which the log warns of.
//!
//! # Settings of Redis
//!
//! ```text
//! maxmemory 1gb
//! maxmemory-policy noeviction
//! appendonly yes
//! appendfsync everysec
//! cluster-require-full-coverage no    # in a cluster: one lost master does not stop the others
//! ```
//!
//! With two replicas or more, `min-replicas-to-write 1` and `min-replicas-max-lag 2` bound what a
//! master that was cut off admits. With a single replica, its loss would stop all limits.
//!
//! Give the library an own server, or an own user. Danger: whoever can write to it can lift limits,
//! and without `RedisFleet::seal` mint keys. The user needs the commands `EVALSHA`, `EVAL`, `GET`,
//! `SET`, `DEL`, `PTTL`, `PEXPIRE`, `TIME`, `INFO`, `XADD`, `XREAD` and `XREVRANGE`, with a database
//! number in the URL `SELECT`, and on a cluster `CLUSTER` and `ASKING`, on keys that begin with
//! `tak:`.
//!
//! Danger: two installations on one Redis, such as staging and production, need different prefixes
//! for both parts (`RedisLimiter::prefix`, `RedisFleet::prefix`). With the same one, keys of one are
//! admitted by the other.
//!
//! For `rediss://`, enable a TLS feature of the crate `redis` in your application, such as
//! `tokio-rustls-comp`. Without one, such a URL is an error.
//!
//! # nginx and Envoy in front
//!
//! Any process can answer any request: no affinity is needed. A limit by address needs the address
//! of the client, so tell the library which proxies to trust: see the chapter [`proxies`].
//!
//! ```text
//! upstream api {
//!     server 10.0.0.11:3000;
//!     server 10.0.0.12:3000;
//!     keepalive 64;
//! }
//! server {
//!     listen 80;
//!     location / {
//!         proxy_pass http://api;
//!         proxy_http_version 1.1;
//!         proxy_set_header Connection "";
//!         proxy_set_header Host $host;
//!         proxy_set_header X-Forwarded-For $remote_addr;    # replaces what the client sent
//!         proxy_next_upstream off;    # a request that is sent again is charged again
//!     }
//! }
//! ```
//!
//! By default, nginx sends a request again after an error or a time limit, unless its method is
//! `POST`, `LOCK` or `PATCH`. Each time, it is charged.
//!
//! In Envoy, `use_remote_address: true` appends the peer to `X-Forwarded-For`, behind what the
//! client has sent: count Envoy as one trusted proxy. For retries, use `retry_on:
//! connect-failure,refused-stream`: the policies `5xx`, `gateway-error` and `reset` send requests
//! again that were charged, and no other process admits what a limit denies. With outlier detection,
//! do not count 503: while Redis is down and [`LimiterOutage`] refuses, all processes answer that.
//!
//! Neither proxy shall remove `Retry-After` or `X-RateLimit-*`. Their health checks should ask a path
//! of the application that depends on neither Redis nor the database, as in the chapter
//! [`operating`]: if all processes were taken out for an outage of Redis, cached keys would stop to
//! work, too.
//!
//! # Rolling upgrades
//!
//! - Upgrade one process after another. Versions of this library that share a layout work together;
//!   the changelog says when a layout changes. Its number is in the names of the keys: `tak:1:…` for
//!   budgets, `tak:c1:…` for copies, `tak:f1` for the news.
//! - When the layout of budgets changes, old and new processes count apart while both run: a budget
//!   can be granted twice, once.
//! - When the layout of copies changes, old and new processes keep their copies apart, too. Each
//!   change fences off the copies of its own layout only, so during the upgrade a revocation relies
//!   on the news, or on `max_staleness`.
//! - Bring a new format, or a new secret of a [`ChecksumRing`], to all processes before any of them
//!   issues keys in it. A process that lacks it refuses such a key with 401, as any malformed one.
//! - Migrate the tables of SQL first: see the chapter [`stores`].
//! - When a quota changes, used units stay used. While old and new processes run, each decides by
//!   its own quota, over the same budget.
//! - On a clean stop, wait for the worker. Nothing in Redis needs to be given back. Changes that
//!   Redis did not take, as it was down, are not told after a stop.
//!
//! [`ApiKeys::health`]: crate::ApiKeys::health
//! [`Cache::max_staleness`]: crate::Cache::max_staleness
//! [`ChecksumRing`]: crate::key::ChecksumRing
//! [`LimiterOutage`]: crate::limit::LimiterOutage
//! [`operating`]: crate::guide::operating
//! [`proxies`]: crate::guide::proxies
//! [`stores`]: crate::guide::stores
