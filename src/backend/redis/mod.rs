//! What a fleet shares in Redis: budgets, copies of records, and the news of changes.
//!
//! - [`limiter`]: the limiter.
//! - [`request`]: the charges of a request, as arguments of a script.
//! - [`budget_key`]: the key of a budget.
//! - [`script`]: how the scripts are run.
//! - [`link`]: the connection, and its supervision.
//! - [`breaker`]: when Redis is not asked, because it does not answer.
//! - [`server_time`]: the clock of Redis, as seen from here.
//! - [`denials`]: denials that need not be asked for again.
//! - `take.lua`, `refund.lua`: its scripts.
//! - [`fleet`]: the store of a fleet.
//! - [`shared_cache`]: the copies of its records, and their fences; [`copy`]: one of them.
//! - [`stream`]: the stream of changes; [`teller`] writes it, [`stream_feed`] reads it.
//! - [`feed_pair`]: the stream beside a feed of the store's own.
//! - `cache_get.lua`, `cache_fill.lua`, `cache_fence.lua`, `announce.lua`: its scripts.
//! - [`info`]: the answer to `INFO`.

mod breaker;
mod budget_key;
mod connection;
mod copy;
mod denials;
mod feed_pair;
mod fleet;
mod info;
mod limiter;
mod link;
mod request;
mod script;
mod server_time;
mod shared_cache;
mod stream;
mod stream_feed;
mod teller;

pub use fleet::RedisFleet;
pub use limiter::{RedisLimiter, RedisUrlError};
