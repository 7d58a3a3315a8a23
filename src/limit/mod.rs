//! Rate limits: rules, quotas, and the port to limiters, which keep budgets.
//!
//! - [`Limits`](crate::Limits) holds the rules: [`Limit`]s by key, account, address or subject,
//!   [`Plan`]s, and [`Endpoint`]s with costs. A [`Quota`](crate::Quota) is a number of units and a
//!   period.
//! - [`RateLimiter`] is the port to limiters. A limiter takes [`Charge`]s and answers with a
//!   [`Verdict`]. [`MemoryLimiter`] keeps the budgets in this process.
//! - [`LimiterOutage`] decides requests while the limiter fails.

pub(crate) mod budget_state;
pub(crate) mod calendar_window;
pub(crate) mod charge;
mod client_network;
pub(crate) mod compiled_rules;
pub(crate) mod endpoint;
pub(crate) mod enforcer;
pub(crate) mod failed_attempts;
pub(crate) mod gcra;
pub(crate) mod instant;
pub(crate) mod key_services;
pub(crate) mod limiter;
pub(crate) mod limits;
pub(crate) mod outage;
pub(crate) mod refund;
pub(crate) mod refund_note;
pub(crate) mod rule;
pub(crate) mod rule_editions;
pub(crate) mod sliding_window;
pub(crate) mod verdict;

pub use charge::{Charge, LimitName, REQUESTS, Subject};
pub use endpoint::Endpoint;
pub use key_services::{ChargeError, LimitStatus};
pub use limiter::{LimiterError, RateLimiter};
pub use limits::Plan;
pub use outage::LimiterOutage;
pub use refund::Refund;
pub use rule::{Limit, LimitsError};
pub use verdict::{BudgetStatus, Verdict};

pub use crate::backend::memory::limiter::MemoryLimiter;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use crate::backend::redis::{RedisLimiter, RedisUrlError};
pub use crate::key::quota::{QuotaError, QuotaShape};
/// The client of [`RedisLimiter`].
#[cfg(feature = "redis")]
#[doc(no_inline)]
pub use ::redis;
