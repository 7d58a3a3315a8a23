//! Limits: rules, quotas, and the port to where budgets are kept.
//!
//! - [`Limits`](crate::Limits) holds the rules: [`Limit`]s by key, account, address or subject,
//!   [`Plan`]s, and [`Endpoint`]s with costs. [`Quota`](crate::Quota) is an amount in a time.
//! - [`RateLimiter`] is the port to where budgets are kept. It takes [`Charge`]s and answers with a
//!   [`Verdict`]. [`MemoryLimiter`] keeps budgets in this process.
//! - [`LimiterOutage`] decides requests while the limiter fails.

pub(crate) mod calendar;
pub(crate) mod charge;
mod client;
pub(crate) mod editions;
pub(crate) mod endpoint;
pub(crate) mod instant;
pub(crate) mod ledger;
pub(crate) mod limiter;
pub(crate) mod limiting;
pub(crate) mod metering;
pub(crate) mod outage;
pub(crate) mod rate;
pub(crate) mod refund;
pub(crate) mod rule;
pub(crate) mod rulebook;
pub(crate) mod rules;
pub(crate) mod state;
pub(crate) mod throttle;
pub(crate) mod verdict;
pub(crate) mod window;

pub use charge::{Charge, LimitName, REQUESTS, Subject};
pub use endpoint::Endpoint;
pub use limiter::{LimiterError, RateLimiter};
pub use metering::{ChargeError, LimitStatus};
pub use outage::LimiterOutage;
pub use refund::Refund;
pub use rule::{Limit, LimitsError};
pub use rules::Plan;
pub use verdict::{BudgetStatus, Verdict};

pub use crate::backend::memory::limiter::MemoryLimiter;
pub use crate::key::quota::{QuotaError, QuotaShape};
