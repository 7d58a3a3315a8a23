//! Budgets that a fleet shares, in Redis.
//!
//! - [`limiter`]: the limiter.
//! - [`request`]: the charges of a request, as arguments of a script.
//! - [`budget_key`]: the key of a budget.
//! - [`script`]: how the scripts are run.
//! - [`link`]: the connection, and its supervision.
//! - [`breaker`]: when Redis is not asked, because it does not answer.
//! - [`server_time`]: the clock of Redis, as seen from here.
//! - [`denials`]: denials that need not be asked for again.
//! - `take.lua`, `refund.lua`: the scripts.

mod breaker;
mod budget_key;
mod connection;
mod denials;
mod limiter;
mod link;
mod request;
mod script;
mod server_time;

pub use limiter::{RedisLimiter, RedisUrlError};
