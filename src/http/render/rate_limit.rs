//! What callers are told of their limits.

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

/// Which headers tell callers of their limits.
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
    tells: Tells,
    draft: bool,
}

/// Which of the three headers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tells {
    limit: bool,
    remaining: bool,
    reset: bool,
}

const ALL: Tells = Tells {
    limit: true,
    remaining: true,
    reset: true,
};

/// How `X-RateLimit-Reset` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reset {
    Epoch,
    Delta,
}

impl RateLimitHeaders {
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset` of the tightest limit, the reset in seconds
    /// since 1970, as GitHub has it: the default.
    pub const fn epoch() -> Self {
        Self {
            reset: Some(Reset::Epoch),
            tells: ALL,
            draft: false,
        }
    }

    /// The same with the reset in seconds from now, as Envoy and Kong have it.
    pub const fn delta() -> Self {
        Self {
            reset: Some(Reset::Delta),
            tells: ALL,
            draft: false,
        }
    }

    /// None of these headers.
    pub const fn none() -> Self {
        Self {
            reset: None,
            tells: ALL,
            draft: false,
        }
    }

    /// Leaves out `X-RateLimit-Limit`.
    #[must_use]
    pub const fn without_limit(mut self) -> Self {
        self.tells.limit = false;
        self
    }

    /// Leaves out `X-RateLimit-Remaining`.
    #[must_use]
    pub const fn without_remaining(mut self) -> Self {
        self.tells.remaining = false;
        self
    }

    /// Leaves out `X-RateLimit-Reset`.
    #[must_use]
    pub const fn without_reset(mut self) -> Self {
        self.tells.reset = false;
        self
    }

    /// Also `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-11, for all
    /// limits that bind the request. The draft may still change.
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

/// What a check said, for the headers of the answer.
#[derive(Debug)]
pub(crate) struct Notice {
    limit: u64,
    remaining: u64,
    /// When the tightest budget is whole again, in seconds as the header counts them.
    reset: u64,
    draft: Option<Box<(String, String)>>,
}

impl Notice {
    /// `None` if nothing was limited.
    #[inline]
    pub(crate) fn of(
        headers: RateLimitHeaders,
        charges: &[Charge<'_>],
        verdict: &Verdict,
        now: SystemTime,
    ) -> Option<Self> {
        let tightest = tightest(charges, verdict)?;
        let standing = verdict.standings().get(tightest)?;
        let reset = match headers.reset {
            None => 0,
            Some(Reset::Delta) => seconds_up(standing.whole_in()),
            Some(Reset::Epoch) => timestamp::unix_seconds_up(now, standing.whole_in_nanoseconds()),
        };
        Some(Self {
            limit: charges.get(tightest)?.quota().limit(),
            remaining: standing.remaining(),
            reset,
            draft: headers
                .draft
                .then(|| Box::new(draft(charges, verdict.standings()))),
        })
    }

    /// Tells a caller without a key: nothing of budgets that everybody shares, or strangers could
    /// watch what others use.
    pub(crate) fn of_stranger(
        headers: RateLimitHeaders,
        charges: &[Charge<'_>],
        verdict: &Verdict,
        now: SystemTime,
    ) -> Option<Self> {
        let all = charges.iter().zip(verdict.standings());
        let told = all.filter(|(charge, _)| !charge.subject().is_shared_by_all());
        let told = told.map(|(charge, standing)| (*charge, *standing));
        let (charges, standings): (SmallVec<[_; 2]>, SmallVec<[_; 2]>) = told.unzip();
        Self::of(headers, &charges, &Verdict::new(&standings), now)
    }

    pub(crate) fn write(&self, headers: &mut HeaderMap, which: RateLimitHeaders) {
        if which.reset.is_some() {
            if which.tells.limit {
                headers.insert(LIMIT, decimal::common(self.limit));
            }
            if which.tells.remaining {
                headers.insert(REMAINING, decimal::once(self.remaining));
            }
            if which.tells.reset {
                headers.insert(RESET, decimal::common(self.reset));
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

/// Returns the index of the charge that the headers without a name tell of: the tightest one. Where
/// a request that is admitted is counted in several units, only those of requests are compared,
/// since 60 tokens are not more than 9 requests.
#[inline]
fn tightest(charges: &[Charge<'_>], verdict: &Verdict) -> Option<usize> {
    let of_requests = |charge: &Charge<'_>| charge.unit() == REQUESTS;
    if charges.len() > 1 && verdict.is_allowed() && charges.iter().any(of_requests) {
        let told = verdict.tightest_of(|at| charges.get(at).is_some_and(of_requests));
        return told.or_else(|| verdict.tightest());
    }
    verdict.tightest()
}

/// Returns whether an inner service refuses a request for a limit of its own. Then what it says
/// stays, also if that is nothing: our `X-RateLimit-Remaining: 99` over its refusal would send the
/// client back at once.
///
/// A refusal is 429, or gRPC's `RESOURCE_EXHAUSTED`; some services refuse with 403 or 503, and say
/// when to come back.
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

/// The rejection that a verdict calls for, unless it allows the request: about what can never pass,
/// or the denial that lasts longest. A stranger is not told what is left of a budget that everybody
/// shares.
#[cold]
pub(crate) fn rejection(
    charges: &[Charge<'_>],
    verdict: &Verdict,
    is_stranger: bool,
    now: SystemTime,
) -> Option<Rejection> {
    let tightest = verdict.tightest()?;
    let (charge, standing) = (charges.get(tightest)?, verdict.standings().get(tightest)?);
    let (name, quota) = (charge.name().to_string(), charge.quota());
    let unit = charge.unit().to_owned();
    let is_told = !(is_stranger && charge.subject().is_shared_by_all());
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
            remaining: if is_told { standing.remaining() } else { 0 },
            reset_at: now.checked_add(retry_after).unwrap_or(now),
            retry_after,
        })),
    })
}

/// `RateLimit-Policy` and `RateLimit`: lists of structured fields (RFC 9651), an item for each
/// limit.
///
/// Names are checked when the rules are, so they need no escapes.
fn draft(charges: &[Charge<'_>], standings: &[BudgetStatus]) -> (String, String) {
    let (mut policy, mut limit) = (String::new(), String::new());
    let told = charges.iter().zip(standings);
    for (charge, standing) in told.filter(|(charge, _)| !charge.is_report_only()) {
        let separator = if policy.is_empty() { "" } else { ", " };
        let (name, quota) = (charge.name(), charge.quota());
        let window = quota.window_seconds().max(1);
        // In this time no more than what remains can be used: for a denial until it ends, so that
        // Retry-After is never before it; else until the budget is whole, or, of a rate, could be.
        let time = match standing.wait() {
            Some(wait) if wait > Duration::ZERO => seconds_up(wait),
            _ if standing.whole_in().is_zero() || quota.is_rate() => window,
            _ => seconds_up(standing.whole_in()),
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
            standing.remaining()
        );
    }
    (policy, limit)
}
