//! A signed request.

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::message_id::MessageId;
use super::secret::WebhookSecret;
use super::signature::sign;
use super::url::WebhookUrl;
use crate::util::timestamp::unix_seconds;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("tower-api-key/", env!("CARGO_PKG_VERSION")));

/// A message on its way to an endpoint, signed: a `POST` of JSON.
///
/// The receiver refuses a request whose time is more than a few minutes away from its own clock, so
/// sign each attempt anew, with the same id.
#[derive(Clone)]
pub struct WebhookRequest {
    url: WebhookUrl,
    id: MessageId,
    sent_at: SystemTime,
    /// The signatures, separated by spaces.
    signatures: String,
    body: Bytes,
}

impl WebhookRequest {
    /// Signs a message, such as `{"type": …, "timestamp": …, "data": …}`, at the time of this
    /// attempt.
    pub fn new(
        url: WebhookUrl,
        id: &MessageId,
        now: SystemTime,
        body: impl Into<Bytes>,
        secret: &WebhookSecret,
    ) -> Self {
        let body = body.into();
        Self {
            signatures: sign(secret, id, unix_seconds(now), &body),
            url,
            id: id.clone(),
            sent_at: now,
            body,
        }
    }

    /// Adds a signature under another secret, while the secret of the endpoint is rotated.
    #[must_use]
    pub fn also_signed_with(mut self, secret: &WebhookSecret) -> Self {
        let signature = sign(secret, &self.id, unix_seconds(self.sent_at), &self.body);
        self.signatures.push(' ');
        self.signatures.push_str(&signature);
        self
    }

    /// Returns the URL to send to.
    pub const fn url(&self) -> &WebhookUrl {
        &self.url
    }

    /// Returns the time of the attempt.
    pub const fn sent_at(&self) -> SystemTime {
        self.sent_at
    }

    /// Returns the headers to send: `webhook-id`, `webhook-timestamp`, `webhook-signature`,
    /// `content-type` and `user-agent`. A client adds `host` and `content-length`.
    pub fn headers(&self) -> HeaderMap {
        let json = HeaderValue::from_static("application/json");
        HeaderMap::from_iter([
            (ID, self.id.to_header()),
            (TIMESTAMP, unix_seconds(self.sent_at).into()),
            (SIGNATURE, self.signature_header()),
            (header::CONTENT_TYPE, json),
            (header::USER_AGENT, USER_AGENT),
        ])
    }

    fn signature_header(&self) -> HeaderValue {
        let signatures = HeaderValue::from_str(&self.signatures);
        let mut signatures = signatures.expect("Base64 and spaces are a field's value");
        signatures.set_sensitive(true);
        signatures
    }

    /// Returns the body. Send these bytes as they are: the signatures are of them.
    pub const fn body(&self) -> &Bytes {
        &self.body
    }
}

/// Shows neither signatures nor the body.
impl fmt::Debug for WebhookRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookRequest")
            .field("url", &self.url)
            .field("id", &self.id)
            .field("sent_at", &self.sent_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use standardwebhooks::Webhook;

    use super::*;

    const BODY: &str = r#"{"test": 2432232314}"#;

    fn secret(byte: u8) -> WebhookSecret {
        WebhookSecret::new(&[byte; 32]).unwrap()
    }

    fn request(now: SystemTime) -> WebhookRequest {
        let url = "https://a.example/s3cret".parse().unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek".parse().unwrap();
        WebhookRequest::new(url, &id, now, BODY, &secret(1))
    }

    #[test]
    fn the_headers_are_those_of_the_standard() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let url = "https://a.example".parse().unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek".parse().unwrap();
        // The fraction of a second is neither signed nor sent.
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_614_265_330_999);
        let headers = WebhookRequest::new(url, &id, now, BODY, &secret).headers();
        for (name, value) in [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            (
                "webhook-signature",
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            ("content-type", "application/json"),
            (
                "user-agent",
                concat!("tower-api-key/", env!("CARGO_PKG_VERSION")),
            ),
        ] {
            assert_eq!(headers[name], value);
        }
        assert_eq!(headers.len(), 5);
    }

    #[test]
    fn another_implementation_verifies_either_secret_while_one_is_rotated() {
        let request = request(SystemTime::now()).also_signed_with(&secret(2));
        let verify = |byte: u8, body: &[u8]| {
            let webhook = Webhook::new(&secret(byte).expose_secret()).unwrap();
            webhook.verify(body, &request.headers()).is_ok()
        };
        assert!(verify(1, request.body()));
        assert!(verify(2, request.body()));
        assert!(!verify(3, request.body()));
        assert!(!verify(1, b"{}"));
    }

    #[test]
    fn neither_signatures_nor_paths_are_printed() {
        let request = request(SystemTime::now());
        let printed = format!("{request:?} {:?}", request.headers());
        assert!(
            !printed.contains("v1,") && !printed.contains("s3cret"),
            "{printed}"
        );
    }
}
