//! What a fleet shares in Redis: budgets, copies of records, and the news of changes.
//!
//! - [`limiter`]: the limiter.
//! - [`request`]: the charges of a request, as arguments of a script.
//! - [`budget_key`]: the key of a budget.
//! - [`take`]: the call that takes charges, and its answer.
//! - [`parts`]: requests that one call cannot reach, in a cluster.
//! - [`refunds`]: refunds, of the application and of such requests.
//! - [`script`]: how the scripts are run.
//! - [`url`]: the servers that an application names.
//! - [`servers`]: one server, or a cluster, and the way of a call.
//! - [`cluster`]: the masters of a cluster; [`slot_map`] and [`slots`]: who has which keys.
//! - [`link`]: the calls to a server; [`supervisor`]: its connection; [`dialing`]: how one is made.
//! - [`call_error`]: why a call failed.
//! - [`breaker`]: when Redis is not asked, because it does not answer.
//! - [`server_time`]: the clock of Redis, as seen from here.
//! - [`denials`]: denials that need not be asked for again.
//! - `take.lua`, `refund.lua`: the scripts of the limiter.
//! - [`fleet`]: the store of a fleet.
//! - [`shared_cache`]: the copies of its records, and their fences; [`copy`]: one of them.
//! - [`stream`]: the stream of changes; [`teller`] writes it, [`stream_feed`] reads it.
//! - [`feed_pair`]: the stream beside a feed of the store's own.
//! - `cache_get.lua`, `cache_fill.lua`, `cache_fence.lua`, `announce.lua`: the scripts of the store.
//! - [`connection`]: a connection of ours, or of the application.
//! - [`info`]: the answer to `INFO`.

mod breaker;
mod budget_key;
mod call_error;
mod cluster;
mod connection;
mod copy;
mod denials;
mod dialing;
mod feed_pair;
mod fleet;
mod info;
mod limiter;
mod link;
mod parts;
mod refunds;
mod request;
mod script;
mod server_time;
mod servers;
mod shared_cache;
mod slot_map;
mod slots;
mod stream;
mod stream_feed;
mod supervisor;
mod take;
mod teller;
mod url;

pub use fleet::RedisFleet;
pub use limiter::RedisLimiter;
pub use url::RedisUrlError;
