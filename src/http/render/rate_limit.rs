//! Response headers and rejections about rate limits.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use smallvec::SmallVec;

use super::decimal;
use super::grpc::is_resource_exhausted;
use crate::http::rejection::{Exceeded, Rejection, seconds_up};
use crate::limit::charge::{Charge, REQUESTS};
use crate::limit::verdict::{BudgetStatus, Verdict};
use crate::util::timestamp;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const DRAFT_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const DRAFT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The headers that tell callers about their limits.
///
/// ```
/// use tower_api_key::http::RateLimitHeaders;
/// use tower_api_key::ApiKeys;
///
/// let layer = ApiKeys::in_memory()
///     .layer()
///     .rate_limit_headers(RateLimitHeaders::epoch().with_draft());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitHeaders {
    reset: Option<Reset>,
    shown: ShownHeaders,
    draft: bool,
}

/// The `X-RateLimit-*` headers that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ShownHeaders {
    limit: bool,
    remaining: bool,
    reset: bool,
}

const ALL: ShownHeaders = ShownHeaders {
    limit: true,
    remaining: true,
    reset: true,
};

/// The meaning of `X-RateLimit-Reset`: seconds since 1970, or seconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reset {
    Epoch,
    Delta,
}

impl RateLimitHeaders {
    /// Writes `X-RateLimit-Limit`, `-Remaining` and `-Reset` of the tightest limit, with the reset
    /// in seconds since 1970, as GitHub does. The default.
    pub const fn epoch() -> Self {
        Self {
            reset: Some(Reset::Epoch),
            shown: ALL,
            draft: false,
        }
    }

    /// Writes the same headers with the reset in seconds from now, as Envoy and Kong do.
    pub const fn delta() -> Self {
        Self {
            reset: Some(Reset::Delta),
            shown: ALL,
            draft: false,
        }
    }

    /// Writes none of these headers.
    pub const fn none() -> Self {
        Self {
            reset: None,
            shown: ALL,
            draft: false,
        }
    }

    /// Leaves out `X-RateLimit-Limit`.
    #[must_use]
    pub const fn without_limit(mut self) -> Self {
        self.shown.limit = false;
        self
    }

    /// Leaves out `X-RateLimit-Remaining`.
    #[must_use]
    pub const fn without_remaining(mut self) -> Self {
        self.shown.remaining = false;
        self
    }

    /// Leaves out `X-RateLimit-Reset`.
    #[must_use]
    pub const fn without_reset(mut self) -> Self {
        self.shown.reset = false;
        self
    }

    /// Also writes `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-11,
    /// with all limits that apply to the request. The draft may still change.
    #[must_use]
    pub const fn with_draft(mut self) -> Self {
        self.draft = true;
        self
    }
}

impl Default for RateLimitHeaders {
    fn default() -> Self {
        Self::epoch()
    }
}

/// The result of a limit check, for the response headers.
#[derive(Debug)]
pub(crate) struct LimitReport {
    limit: u64,
    remaining: u64,
    /// The reset of the tightest budget, in seconds as the header counts them.
    reset: u64,
    draft: Option<Box<(String, String)>>,
}

impl LimitReport {
    /// Returns the result for a caller with a key; `None` if nothing was limited.
    pub(crate) fn of(
        headers: RateLimitHeaders,
        charges: &[Charge<'_>],
        verdict: &Verdict,
        now: SystemTime,
    ) -> Option<Self> {
        let tightest = tightest(charges, verdict)?;
        let status = verdict.statuses().get(tightest)?;
        let reset = match headers.reset {
            None => 0,
            Some(Reset::Delta) => seconds_up(status.full_in()),
            Some(Reset::Epoch) => timestamp::unix_seconds_up(now, status.full_in_nanoseconds()),
        };
        Some(Self {
            limit: charges.get(tightest)?.quota().limit(),
            remaining: status.remaining(),
            reset,
            draft: headers
                .draft
                .then(|| Box::new(draft(charges, verdict.statuses()))),
        })
    }

    /// Returns the result for a caller without a key. Budgets that all clients share are left out,
    /// or clients without a key could watch the usage of others.
    pub(crate) fn for_anonymous(
        headers: RateLimitHeaders,
        charges: &[Charge<'_>],
        verdict: &Verdict,
        now: SystemTime,
    ) -> Option<Self> {
        let all = charges.iter().zip(verdict.statuses());
        let own = all.filter(|(charge, _)| !charge.subject().is_shared_by_all());
        let own = own.map(|(charge, status)| (*charge, *status));
        let (charges, statuses): (SmallVec<[_; 2]>, SmallVec<[_; 2]>) = own.unzip();
        Self::of(headers, &charges, &Verdict::new(&statuses), now)
    }

    pub(crate) fn write(&self, headers: &mut HeaderMap, settings: RateLimitHeaders) {
        if settings.reset.is_some() {
            if settings.shown.limit {
                headers.insert(LIMIT, decimal::cached(self.limit));
            }
            if settings.shown.remaining {
                headers.insert(REMAINING, decimal::formatted(self.remaining));
            }
            if settings.shown.reset {
                headers.insert(RESET, decimal::cached(self.reset));
            }
        }
        if let Some((policy, limit)) = self.draft.as_deref() {
            for (name, value) in [(DRAFT_POLICY, policy), (DRAFT_LIMIT, limit)] {
                if let Ok(value) = HeaderValue::try_from(value.as_str()) {
                    headers.insert(name, value);
                }
            }
        }
    }
}

/// Returns the index of the tightest charge, which the headers without a name describe. If an
/// admitted request is charged in several units, only charges in `requests` are compared, since 60
/// tokens are not more than 9 requests.
fn tightest(charges: &[Charge<'_>], verdict: &Verdict) -> Option<usize> {
    let of_requests = |charge: &Charge<'_>| charge.unit() == REQUESTS;
    if charges.len() > 1 && verdict.is_allowed() && charges.iter().any(of_requests) {
        let tightest = verdict.tightest_of(|at| charges.get(at).is_some_and(of_requests));
        return tightest.or_else(|| verdict.tightest());
    }
    verdict.tightest()
}

/// Returns whether an inner service refused a request for a limit of its own. The layer then leaves
/// the headers about limits as they are, even if there are none: an `X-RateLimit-Remaining: 99` of
/// ours over such a refusal would send the client back at once.
///
/// A refusal is a 429, or gRPC's `RESOURCE_EXHAUSTED`. Some services refuse with 403 or 503 and
/// tell when to come back.
pub(crate) fn is_refused_within(status: StatusCode, headers: &HeaderMap, is_grpc: bool) -> bool {
    match status {
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::FORBIDDEN | StatusCode::SERVICE_UNAVAILABLE => {
            let is_used_up = || headers.get(REMAINING).is_some_and(|left| left == "0");
            headers.contains_key(RETRY_AFTER) || is_used_up()
        }
        _ => is_grpc && is_resource_exhausted(headers),
    }
}

/// Returns the rejection for a verdict, or `None` if the verdict allows the request. It is about
/// the charge that can never pass, or else about the denial that lasts longest. A client without a
/// key is not told the remaining units of a budget that all clients share.
#[cold]
pub(crate) fn rejection(
    charges: &[Charge<'_>],
    verdict: &Verdict,
    is_anonymous: bool,
    now: SystemTime,
) -> Option<Rejection> {
    let tightest = verdict.tightest()?;
    let (charge, status) = (charges.get(tightest)?, verdict.statuses().get(tightest)?);
    let (name, quota) = (charge.name().to_string(), charge.quota());
    let unit = charge.unit().to_owned();
    let is_shown = !(is_anonymous && charge.subject().is_shared_by_all());
    Some(match verdict.retry_after() {
        None => Rejection::CostExceedsQuota {
            name,
            quota: quota.limit(),
            unit,
            cost: charge.need(),
        },
        Some(retry_after) => Rejection::RateLimited(Box::new(Exceeded {
            name,
            quota,
            unit,
            remaining: if is_shown { status.remaining() } else { 0 },
            reset_at: now.checked_add(retry_after).unwrap_or(now),
            retry_after,
        })),
    })
}

/// Returns the values of `RateLimit-Policy` and `RateLimit`: lists of structured fields (RFC 9651),
/// one item for each limit.
///
/// Names were checked together with the rules, so they need no escapes.
fn draft(charges: &[Charge<'_>], statuses: &[BudgetStatus]) -> (String, String) {
    let (mut policy, mut limit) = (String::new(), String::new());
    let budgets = charges.iter().zip(statuses);
    for (charge, status) in budgets.filter(|(charge, _)| !charge.is_report_only()) {
        let separator = if policy.is_empty() { "" } else { ", " };
        let (name, quota) = (charge.name(), charge.quota());
        let window = quota.window_seconds().max(1);
        // Within `t`, no more than `r` can be used. After a denial, `t` ends with the denial, so
        // that Retry-After is never earlier. Otherwise `t` ends when the budget is full again; for
        // a rate, or a budget that is full now, `t` is the window.
        let time = match status.wait() {
            Some(wait) if wait > Duration::ZERO => seconds_up(wait),
            _ if status.full_in().is_zero() || quota.is_rate() => window,
            _ => seconds_up(status.full_in()),
        };
        // Writing to a String cannot fail.
        let _ = write!(
            policy,
            "{separator}\"{name}\";q={};w={window}",
            quota.limit()
        );
        if charge.unit() != REQUESTS {
            let _ = write!(policy, ";qu=\"{}\"", charge.unit());
        }
        let _ = write!(
            limit,
            "{separator}\"{name}\";r={};t={time}",
            status.remaining()
        );
    }
    (policy, limit)
}
