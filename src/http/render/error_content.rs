//! The content of an error, independent of its format.

use std::borrow::Cow;

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::http::api_error::ApiError;
use crate::http::credential::source::KeySources;
use crate::http::rejection::{Rejection, grpc_status, retry_seconds};
use crate::key::environment::Environment;
use crate::key::scope::Scope;
use crate::limit::charge::REQUESTS;
use crate::util::timestamp;

/// The content of an error: a [`Rejection`] of the layer, or an [`ApiError`] of the application.
///
/// [`ErrorFormat::custom`](crate::http::ErrorFormat::custom) renders the content in a format of the
/// application's own.
#[derive(Debug, Clone)]
pub struct ErrorContent<'a> {
    rejection: Option<&'a Rejection>,
    status: StatusCode,
    code: &'a str,
    message: Cow<'a, str>,
    details: Map<String, Value>,
}

impl<'a> ErrorContent<'a> {
    /// Creates the content of a rejection, without the settings of a layer.
    pub(crate) fn of(rejection: &'a Rejection) -> Self {
        Self {
            rejection: Some(rejection),
            status: rejection.status(),
            code: rejection.code(),
            message: rejection.to_string().into(),
            details: details(rejection),
        }
    }

    /// Creates the content of a rejection by a layer that reads keys from these sources.
    pub(crate) fn of_layer(
        rejection: &'a Rejection,
        sources: &KeySources,
        not_found: StatusCode,
    ) -> Self {
        let mut content = Self::of(rejection);
        match rejection {
            Rejection::Missing => {
                let accepted = sources.written();
                // Do not suggest the URL, which logs keep, if there is another place.
                let (urls, places): (Vec<_>, Vec<_>) =
                    accepted.iter().cloned().partition(|it| it.starts_with('?'));
                let places = in_words(if places.is_empty() { &urls } else { &places });
                content.message = format!("{rejection} Send it as {places}.").into();
                content
                    .details
                    .insert("accepted".to_owned(), accepted.into());
            }
            Rejection::NotFound(_) => content.status = not_found,
            _ => {}
        }
        content
    }

    /// Creates the content of an error of the application.
    pub(crate) fn of_application(error: &'a ApiError) -> Self {
        Self {
            rejection: None,
            status: error.status,
            code: &error.code,
            message: Cow::Borrowed(&error.message),
            details: error.details.clone(),
        }
    }

    /// Returns the rejection, unless the error is the application's own.
    pub fn rejection(&self) -> Option<&'a Rejection> {
        self.rejection
    }

    /// Returns the HTTP status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the machine-readable code, such as `api_key_not_found`.
    pub fn code(&self) -> &'a str {
        self.code
    }

    /// Returns the message for people. The message of a rejection is plain ASCII.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the details that a program can act on, beyond the code.
    pub fn details(&self) -> &Map<String, Value> {
        &self.details
    }

    /// Returns the whole seconds until a retry makes sense, rounded up, at least one.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        let retry_after = self.rejection.and_then(Rejection::retry_after);
        retry_after.map(retry_seconds)
    }

    /// Returns the `grpc-status` of the response.
    pub(crate) fn grpc_status(&self) -> i32 {
        grpc_status(self.status)
    }
}

/// Returns the details of a rejection, which a program can act on beyond the code.
fn details(rejection: &Rejection) -> Map<String, Value> {
    let details = match rejection {
        Rejection::Expired { at } => json!({ "expired_at": timestamp::rfc3339(*at) }),
        Rejection::NotYetActive { not_before } => {
            json!({ "not_before": timestamp::rfc3339(*not_before) })
        }
        Rejection::WrongEnvironment { accepted } => {
            let accepted: Vec<_> = accepted.iter().map(Environment::as_str).collect();
            json!({ "accepted_environments": accepted })
        }
        Rejection::InsufficientScope { required } => {
            let scopes: Vec<_> = required.scopes().iter().map(Scope::as_str).collect();
            let of = if required.is_any_of() { "any" } else { "all" };
            json!({ "required_scopes": scopes, "required": of })
        }
        Rejection::RateLimited(exceeded) => json!({
            "limit": exceeded.quota.limit(),
            "remaining": exceeded.remaining,
            "reset_at": timestamp::rfc3339_up(exceeded.reset_at),
            "retry_after": exceeded.retry_after_seconds(),
            "policy": exceeded.name,
            "window": exceeded.quota.window_name(),
            "window_seconds": exceeded.quota.window_seconds(),
        }),
        Rejection::CostExceedsQuota {
            name, quota, cost, ..
        } => json!({ "limit": quota, "cost": cost, "policy": name }),
        Rejection::TooManyFailedAttempts { retry_after }
        | Rejection::ServiceUnavailable { retry_after } => {
            json!({ "retry_after": retry_seconds(*retry_after) })
        }
        _ => Value::Null,
    };
    let Value::Object(mut details) = details else {
        return Map::new();
    };
    if let Some(unit) = unit(rejection) {
        details.insert("unit".to_owned(), unit.into());
    }
    details
}

/// Returns the unit of the limit that denied a request, unless the unit is `requests`.
fn unit(rejection: &Rejection) -> Option<&str> {
    let unit = match rejection {
        Rejection::RateLimited(exceeded) => &exceeded.unit,
        Rejection::CostExceedsQuota { unit, .. } => unit,
        _ => return None,
    };
    (unit != REQUESTS).then_some(unit)
}

/// Joins a list with commas and "or".
fn in_words(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
