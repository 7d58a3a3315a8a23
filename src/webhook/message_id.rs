//! The id of a message.

use std::fmt;
use std::str::FromStr;

use http::HeaderValue;

/// The id of a message (`webhook-id`), by which a receiver recognizes a message that it has got
/// before: each attempt to send the message has the same.
///
/// An id has 1 to 64 letters, digits, `_` and `-`. A dot would make what is signed ambiguous.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageId(Box<str>);

impl MessageId {
    const LONGEST: usize = 64;

    /// Returns the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn to_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("letters, digits, '_' and '-' are a field's value")
    }
}

impl FromStr for MessageId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let is_id = (1..=Self::LONGEST).contains(&text.len()) && text.bytes().all(is_plain);
        if !is_id {
            return Err(MessageIdError(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error for a text that is not the id of a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the id of a message: use 1 to 64 letters, digits, '_' and '-'")]
pub struct MessageIdError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_and_plain() {
        let (longest, longer) = ("a".repeat(64), "a".repeat(65));
        for id in ["a", "msg_p5jXN8AQM9LWM0D4loKWxJek", "a-1", &longest] {
            assert_eq!(id.parse::<MessageId>().unwrap().as_str(), id);
        }
        for id in ["", "a.b", "a b", "a\n", "ä", &longer] {
            assert!(id.parse::<MessageId>().is_err(), "{id:?}");
        }
    }
}
