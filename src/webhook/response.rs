//! The head of an answer.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode, header};

/// The answer of a receiver: a status, and how long to wait if it asked for that.
///
/// By the standard, 2xx accepts a message, 410 asks to send no more of them, and anything else
/// fails, redirections included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookResponse {
    status: StatusCode,
    retry_after: Option<Duration>,
}

impl WebhookResponse {
    /// The longest wait that a receiver may ask for.
    pub const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

    /// Creates an answer that asks for no wait.
    pub const fn new(status: StatusCode) -> Self {
        Self {
            status,
            retry_after: None,
        }
    }

    /// Reads the head of an answer to a request that was sent at an instant, by the clock here.
    ///
    /// `Retry-After` is a number of seconds, or a date, which is compared with the field `Date`, so
    /// that the clocks need not agree. Anything else is ignored, as is a date in the past.
    pub fn from_head(status: StatusCode, headers: &HeaderMap, sent_at: SystemTime) -> Self {
        let wait = retry_after(headers, sent_at);
        Self {
            status,
            retry_after: wait.map(|wait| wait.min(Self::LONGEST_WAIT)),
        }
    }

    /// Returns the status.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns how long to wait before the next attempt, at most
    /// [`LONGEST_WAIT`](Self::LONGEST_WAIT).
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

fn retry_after(headers: &HeaderMap, sent_at: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    // `parse` would take a '+', too.
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let at = httpdate::parse_http_date(text).ok()?;
    // The receiver answered at most a time limit after `sent_at`.
    let now = date(headers, &header::DATE).unwrap_or(sent_at);
    at.duration_since(now).ok()
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let text = headers.get(name)?.to_str().ok()?;
    httpdate::parse_http_date(text).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn wait(fields: &[(&'static str, &str)]) -> Option<u64> {
        let fields = fields.iter().map(|(name, value)| {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            (HeaderName::from_static(name), value)
        });
        let sent_at = httpdate::parse_http_date("Sat, 28 Nov 2026 09:00:00 GMT").unwrap();
        let status = StatusCode::TOO_MANY_REQUESTS;
        let answer = WebhookResponse::from_head(status, &fields.collect(), sent_at);
        answer.retry_after().map(|wait| wait.as_secs())
    }

    #[test]
    fn a_wait_is_a_number_of_seconds() {
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&[("retry-after", "0")]), Some(0));
        assert_eq!(wait(&[("retry-after", "120")]), Some(120));
        assert_eq!(wait(&[("retry-after", " 007 ")]), Some(7));
        assert_eq!(wait(&[("retry-after", "1"), ("retry-after", "2")]), Some(1));
    }

    #[test]
    fn a_wait_is_a_date() {
        let date = ("retry-after", "Sat, 28 Nov 2026 09:01:30 GMT");
        assert_eq!(wait(&[date]), Some(90));
        // The clock of the receiver is an hour ahead, or behind.
        assert_eq!(
            wait(&[date, ("date", "Sat, 28 Nov 2026 09:01:20 GMT")]),
            Some(10)
        );
        assert_eq!(
            wait(&[date, ("date", "Sat, 28 Nov 2026 08:01:30 GMT")]),
            Some(3600)
        );
        assert_eq!(wait(&[date, ("date", "yesterday")]), Some(90));
        let old_form = ("retry-after", "Saturday, 28-Nov-26 09:01:30 GMT");
        assert_eq!(wait(&[old_form]), Some(90));
    }

    #[test]
    fn a_wait_is_a_day_at_most() {
        for value in [
            "86401",
            "18446744073709551615",
            "Fri, 31 Dec 9999 23:59:59 GMT",
        ] {
            assert_eq!(wait(&[("retry-after", value)]), Some(86_400), "{value}");
        }
    }

    #[test]
    fn an_absurd_wait_is_ignored() {
        for value in [
            "",
            "-1",
            "+1",
            "1.5",
            "1e9",
            "soon",
            "ä",
            "18446744073709551616",
            "1, 2",
            "Sat, 28 Nov 2026 08:59:59 GMT",
            "Sat, 28 Nov 2026",
            "Thu, 01 Jan 1970 00:00:00 GMT",
        ] {
            assert_eq!(wait(&[("retry-after", value)]), None, "{value}");
        }
    }
}
