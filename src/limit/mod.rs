//! Limits: how much a caller may use in how much time.
//!
//! [`rules`] say which quotas bind a request, [`rate`], [`window`] and [`calendar`] are the
//! arithmetic of the three shapes of quota over the [`state`] of one budget, and
//! [`RateLimiter`](limiter::RateLimiter) is the port to where those states are kept: in this
//! process, or for a whole fleet. A limiter holds state, never configuration: quotas come with each
//! call.

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
