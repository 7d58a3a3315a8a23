//! Errors of the application that the layer renders in its own format.

use std::borrow::Cow;

use http::StatusCode;
use serde_json::{Map, Value};

/// An error of the application that the layer renders in its own format: JSON, problem details, a
/// custom format, or gRPC.
///
/// With the feature `axum`, `ApiError` is a response. Without it, answer with
/// [`to_response`](Self::to_response).
///
/// ```
/// use http::StatusCode;
/// use tower_api_key::http::ApiError;
///
/// let error = ApiError::new(StatusCode::NOT_FOUND, "report_not_found", "There is no such report.")
///     .add_detail("report", "r-17");
/// let response: http::Response<String> = error.to_response();
/// assert_eq!(response.status(), 404);
/// let body = concat!(
///     r#"{"error":{"code":"report_not_found","message":"There is no such report.","#,
///     r#""details":{"report":"r-17"}}}"#,
/// );
/// assert_eq!(response.body(), body);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: Cow<'static, str>,
    pub(crate) details: Map<String, Value>,
}

impl ApiError {
    /// Creates an error with a status, a code for programs, and a message for people.
    pub fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            details: Map::new(),
        }
    }

    /// Adds a detail that a program can act on.
    #[must_use]
    pub fn add_detail(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.details.insert(name.into(), value.into());
        self
    }
}
