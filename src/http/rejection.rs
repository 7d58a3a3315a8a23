//! Rejections: the typed reasons for refusing a request, before they are rendered.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::key::environment::Environment;
use crate::key::kind::KeyKind;
use crate::key::lifecycle::KeyStatus;
use crate::key::lifecycle::Lifecycle;
use crate::key::quota::Quota;
use crate::key::scope::RequiredScopes;

/// The reason why a request was refused.
///
/// The layer renders the rejection and puts it into the response's extensions, so that outer layers
/// can log and count reasons that the caller is not told. Handlers get a rejection from
/// [`Caller::require`](crate::Caller::require). With the feature `axum`, a rejection is a response;
/// with `tonic`, it converts into a `Status`.
///
/// `Display` writes the message that the caller reads.
///
/// A gRPC request gets a gRPC status and the message: for 400 `INVALID_ARGUMENT`, for 401
/// `UNAUTHENTICATED`, for 403 `PERMISSION_DENIED`, for 429 `RESOURCE_EXHAUSTED`, for 500 `INTERNAL`
/// and for 503 `UNAVAILABLE`. The headers of the HTTP response are in the metadata, except
/// `WWW-Authenticate`, and `grpc-retry-pushback-ms` also tells when to try again. See
/// [`GrpcRequests`](crate::http::GrpcRequests).
///
/// # In an application's own error type
///
/// Convert the rejection with `#[from]`, and respond with [`to_response`](Self::to_response) (with
/// axum, `into_response`) unchanged. The layer renders such a response in its own format, with the
/// challenge and `no-store`, and keeps the headers that were added. Changes of the body are lost.
/// For another body, configure [`ErrorFormat::custom`](crate::http::ErrorFormat::custom).
///
/// ```
/// use http::Response;
/// use tower_api_key::{Caller, Rejection, Scope};
///
/// const WRITE: Scope = Scope::from_static("reports:write");
///
/// enum AppError {
///     Refused(Rejection),
///     NoSuchReport,
/// }
///
/// impl AppError {
///     fn into_response(self) -> Response<String> {
///         match self {
///             Self::Refused(rejection) => rejection.to_response(),
///             Self::NoSuchReport => Response::builder().status(404).body("…".into()).unwrap(),
///         }
///     }
/// }
/// ```
///
/// # In an outer layer
///
/// ```
/// # let response = http::Response::new(());
/// if let Some(rejection) = response.extensions().get::<tower_api_key::Rejection>() {
///     println!("refused: {}", rejection.code());
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The request carries different keys, or repeats a header or parameter that must be single.
    /// 400 `ambiguous_api_key`.
    #[error("The request carries more than one API key. Send exactly one.")]
    Ambiguous,
    /// The request has no key. 401 `missing_api_key`.
    #[error("This request needs an API key.")]
    Missing,
    /// The key does not exist. 401 `api_key_not_found`.
    ///
    /// The caller is not told the reason; the application is.
    #[error("The API key is not valid.")]
    NotFound(NotFound),
    /// The key has expired. 401 `api_key_expired`.
    #[error("The API key has expired.")]
    Expired {
        /// The time when the key expired.
        at: SystemTime,
    },
    /// The key was revoked. 401 `api_key_revoked`.
    #[error("The API key has been revoked.")]
    Revoked,
    /// The key was suspended, and may be resumed. 403 `api_key_suspended`.
    #[error("The API key is suspended.")]
    Suspended,
    /// The key is not active yet. 403 `api_key_not_yet_active`.
    #[error("The API key is not active yet.")]
    NotYetActive {
        /// The time when the key becomes active.
        not_before: SystemTime,
    },
    /// The key belongs to another environment, such as a test key at a live API. 403
    /// `wrong_environment`.
    #[error(
        "The API key belongs to another environment. Use a key of: {}.",
        Names(accepted)
    )]
    WrongEnvironment {
        /// The environments whose keys are accepted.
        accepted: Arc<[Environment]>,
    },
    /// The key is of a kind that is not accepted here, such as a publishable key at a server's API.
    /// 403 `wrong_key_kind`.
    #[error("A {kind} API key may not be used here.")]
    WrongKind {
        /// The kind of the key.
        kind: KeyKind,
    },
    /// A browser sent a secret key. 403 `secret_key_in_browser`.
    #[error(
        "A secret API key was sent by a browser, where anybody can read it. Replace the key, and send requests from a server."
    )]
    SecretKeyInBrowser,
    /// The key may not be used from this web origin. 403 `origin_not_allowed`.
    #[error("The API key may not be used from this web origin.")]
    OriginNotAllowed,
    /// The key may not be used from this address. 403 `ip_not_allowed`.
    #[error("The API key may not be used from this network address.")]
    IpNotAllowed {
        /// The client's address, if it is known. The caller is not told this address.
        client: Option<IpAddr>,
    },
    /// The key lacks a required scope. 403 `insufficient_scope`.
    #[error("The API key lacks a scope that this request needs.")]
    InsufficientScope {
        /// The required scopes. The caller is never told the scopes that the key holds.
        required: RequiredScopes,
    },
    /// A limit is used up. 429 `rate_limit_exceeded`.
    #[error("The rate limit {:?} is used up. Try again in {} s.", .0.name, .0.retry_after_seconds())]
    RateLimited(Box<Exceeded>),
    /// The request costs more than the whole quota of a limit, so it never passes. 403
    /// `cost_exceeds_quota`.
    #[error("This request costs more than the whole quota of the limit {name:?}.")]
    CostExceedsQuota {
        /// The name of the limit.
        name: String,
        /// The most units that the limit grants.
        quota: u64,
        /// The unit that the limit counts, such as `requests`.
        unit: String,
        /// The cost of the request, in this unit.
        cost: u64,
    },
    /// The client's address has sent too many keys that do not exist. 429
    /// `too_many_failed_attempts`.
    #[error("Too many keys that do not exist were sent from this address. Try again later.")]
    TooManyFailedAttempts {
        /// The time until a retry makes sense.
        retry_after: Duration,
    },
    /// The key could not be verified because of an outage on our side. 503 `service_unavailable`.
    #[error("API keys cannot be verified at the moment. Try again later.")]
    ServiceUnavailable {
        /// The time until a retry makes sense.
        retry_after: Duration,
    },
    /// A handler or service asked for the caller, but no `ApiKeyLayer` stands before it: a mistake
    /// in the application's wiring. 500 `api_key_layer_missing`.
    #[error(
        "The server is set up wrongly: put ApiKeys::layer() outside of what asks for the Caller."
    )]
    LayerMissing,
}

/// A limit that is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exceeded {
    /// The name of the limit.
    pub name: String,
    /// The quota of the limit.
    pub quota: Quota,
    /// The unit that the limit counts, such as `requests`.
    pub unit: String,
    /// The units that are left now: fewer than the request costs.
    pub remaining: u64,
    /// The time when the request will be admitted, if nothing else uses the budgets until then.
    pub reset_at: SystemTime,
    /// The time from now until `reset_at`.
    pub retry_after: Duration,
}

impl Exceeded {
    pub(crate) fn retry_after_seconds(&self) -> u64 {
        retry_seconds(self.retry_after)
    }
}

/// Returns the value of `Retry-After`: whole seconds, rounded up, at least one.
pub(crate) fn retry_seconds(after: Duration) -> u64 {
    seconds_up(after).max(1)
}

/// Returns whole seconds, rounded up.
pub(crate) fn seconds_up(duration: Duration) -> u64 {
    let up = u64::from(duration.subsec_nanos() > 0);
    duration.as_secs().saturating_add(up)
}

/// Returns the `grpc-status` that corresponds to an HTTP status.
pub(crate) fn grpc_status(status: StatusCode) -> i32 {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => 3, // INVALID_ARGUMENT
        StatusCode::GATEWAY_TIMEOUT => 4,                                // DEADLINE_EXCEEDED
        StatusCode::NOT_FOUND | StatusCode::GONE => 5,                   // NOT_FOUND
        StatusCode::CONFLICT => 10,                                      // ABORTED
        StatusCode::UNAUTHORIZED => 16,                                  // UNAUTHENTICATED
        StatusCode::FORBIDDEN => 7,                                      // PERMISSION_DENIED
        StatusCode::TOO_MANY_REQUESTS => 8,                              // RESOURCE_EXHAUSTED
        StatusCode::PRECONDITION_FAILED => 9,                            // FAILED_PRECONDITION
        StatusCode::NOT_IMPLEMENTED => 12,                               // UNIMPLEMENTED
        StatusCode::SERVICE_UNAVAILABLE => 14,                           // UNAVAILABLE
        status if status.is_server_error() => 13,                        // INTERNAL
        _ => 2,                                                          // UNKNOWN
    }
}

/// Displays names separated by commas.
struct Names<'n>(&'n [Environment]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{name}")?;
        }
        Ok(())
    }
}

/// The reason why a key does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotFound {
    /// The text has the format of none of our keys: a typo, a truncated paste, junk. No store was
    /// asked.
    Malformed,
    /// The text has the format of our keys, but the store has no record of the key.
    Unknown,
}

impl Rejection {
    /// Returns whether a limit of the key denied the request, and nothing else.
    pub(crate) const fn is_by_limits(&self) -> bool {
        matches!(self, Self::RateLimited(_) | Self::CostExceedsQuota { .. })
    }

    /// Returns the machine-readable code, which stays the same from release to release.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous_api_key",
            Self::Missing => "missing_api_key",
            Self::NotFound(_) => "api_key_not_found",
            Self::Expired { .. } => "api_key_expired",
            Self::Revoked => "api_key_revoked",
            Self::Suspended => "api_key_suspended",
            Self::NotYetActive { .. } => "api_key_not_yet_active",
            Self::WrongEnvironment { .. } => "wrong_environment",
            Self::WrongKind { .. } => "wrong_key_kind",
            Self::SecretKeyInBrowser => "secret_key_in_browser",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::IpNotAllowed { .. } => "ip_not_allowed",
            Self::InsufficientScope { .. } => "insufficient_scope",
            Self::RateLimited(_) => "rate_limit_exceeded",
            Self::CostExceedsQuota { .. } => "cost_exceeds_quota",
            Self::TooManyFailedAttempts { .. } => "too_many_failed_attempts",
            Self::ServiceUnavailable { .. } => "service_unavailable",
            Self::LayerMissing => "api_key_layer_missing",
        }
    }

    /// Returns the HTTP status of the response.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Ambiguous => StatusCode::BAD_REQUEST,
            Self::Missing | Self::NotFound(_) | Self::Expired { .. } | Self::Revoked => {
                StatusCode::UNAUTHORIZED
            }
            Self::Suspended
            | Self::NotYetActive { .. }
            | Self::WrongEnvironment { .. }
            | Self::WrongKind { .. }
            | Self::SecretKeyInBrowser
            | Self::OriginNotAllowed
            | Self::IpNotAllowed { .. }
            | Self::InsufficientScope { .. }
            | Self::CostExceedsQuota { .. } => StatusCode::FORBIDDEN,
            Self::RateLimited(_) | Self::TooManyFailedAttempts { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::ServiceUnavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::LayerMissing => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the time until a retry makes sense, for rejections that are temporary.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(exceeded) => Some(exceeded.retry_after),
            Self::TooManyFailedAttempts { retry_after }
            | Self::ServiceUnavailable { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// Returns the rejection for the status of a key; `None` if the key works.
    pub(crate) fn of_lifecycle(
        lifecycle: &Lifecycle,
        not_before: impl FnOnce() -> Option<SystemTime>,
    ) -> Option<Self> {
        // An expired key has an expiry, and a key that is not yet active has a start: 1970 is never
        // used.
        let date = |date: Option<SystemTime>| date.unwrap_or(SystemTime::UNIX_EPOCH);
        match lifecycle.status() {
            KeyStatus::Active | KeyStatus::Deprecated => None,
            KeyStatus::NotYetActive => Some(Self::NotYetActive {
                not_before: date(not_before()),
            }),
            KeyStatus::Suspended => Some(Self::Suspended),
            KeyStatus::Expired => Some(Self::Expired {
                at: date(lifecycle.expires_at()),
            }),
            KeyStatus::Revoked => Some(Self::Revoked),
        }
    }
}
