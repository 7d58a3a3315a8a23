//! The secret of an endpoint.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

const PREFIX: &str = "whsec_";

/// The secret that requests to an endpoint are signed with: 24 to 64 bytes.
///
/// Its owner gets it as [`expose_secret`](Self::expose_secret) writes it, which all libraries of
/// the standard read. `Debug` prints nothing of it, and the memory is wiped on drop.
///
/// ```
/// use tower_api_key::webhook::WebhookSecret;
///
/// let secret: WebhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse()?;
/// assert_eq!(secret.expose_secret(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
/// assert_eq!(format!("{secret:?}"), "WebhookSecret([REDACTED])");
/// # Ok::<(), tower_api_key::webhook::WebhookSecretError>(())
/// ```
#[derive(Clone)]
pub struct WebhookSecret(Zeroizing<Vec<u8>>);

impl WebhookSecret {
    const SHORTEST: usize = 24;
    const LONGEST: usize = 64;

    /// Creates a secret from 24 to 64 random bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, WebhookSecretError> {
        if !(Self::SHORTEST..=Self::LONGEST).contains(&bytes.len()) {
            return Err(WebhookSecretError::Length(bytes.len()));
        }
        Ok(Self(Zeroizing::new(bytes.to_vec())))
    }

    pub(super) fn derived(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// Returns the secret as text: `whsec_` and Base64. Show it to the owner of the endpoint; do
    /// not log it, and do not store it.
    pub fn expose_secret(&self) -> String {
        let mut text = String::with_capacity(PREFIX.len() + Self::LONGEST.div_ceil(3) * 4);
        text.push_str(PREFIX);
        STANDARD.encode_string(&*self.0, &mut text);
        text
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads the text of [`expose_secret`](Self::expose_secret).
impl FromStr for WebhookSecret {
    type Err = WebhookSecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text
            .strip_prefix(PREFIX)
            .ok_or(WebhookSecretError::Prefix)?;
        let bytes = STANDARD.decode(encoded);
        let bytes = Zeroizing::new(bytes.map_err(|_| WebhookSecretError::Encoding)?);
        Self::new(&bytes)
    }
}

/// Redacts the secret.
impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret([REDACTED])")
    }
}

/// An error for a text or bytes that are no secret of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookSecretError {
    /// The text does not begin with `whsec_`.
    #[error("a webhook secret begins with \"whsec_\"")]
    Prefix,
    /// The text after the prefix is not Base64.
    #[error("a webhook secret is standard Base64, with padding, after \"whsec_\"")]
    Encoding,
    /// The secret is too short or too long.
    #[error("a webhook secret has 24 to 64 bytes, and this one has {0}")]
    Length(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_was_written() {
        for length in [24, 32, 64] {
            let secret = WebhookSecret::new(&vec![0xFB; length]).unwrap();
            let text = secret.expose_secret();
            let read: WebhookSecret = text.parse().unwrap();
            assert_eq!(read.as_bytes(), secret.as_bytes());
            assert_eq!(read.expose_secret(), text);
        }
    }

    #[test]
    fn another_text_is_refused() {
        let error = |text: &str| text.parse::<WebhookSecret>().unwrap_err();
        let encoded = STANDARD.encode([7; 24]);
        assert_eq!(error(&encoded), WebhookSecretError::Prefix);
        assert_eq!(error("whsec_*"), WebhookSecretError::Encoding);
        assert_eq!(
            error(&format!("whsec_{encoded}\n")),
            WebhookSecretError::Encoding
        );
        assert_eq!(error("whsec_"), WebhookSecretError::Length(0));
    }

    #[test]
    fn a_secret_has_24_to_64_bytes() {
        for length in [0, 23, 65] {
            let error = WebhookSecret::new(&vec![7; length]).unwrap_err();
            assert_eq!(error, WebhookSecretError::Length(length));
        }
    }
}
