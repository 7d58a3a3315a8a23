//! The body of a webhook.

use serde_json::Value;

use crate::store::Event;
use crate::util::timestamp::rfc3339_exact;

/// Returns the body that tells of an event: its kind, its time and its data, which is put in as it
/// is stored. The same event has the same body at each attempt.
pub(crate) fn payload(event: &Event) -> String {
    let kind = Value::from(event.kind.as_str());
    let at = rfc3339_exact(event.at);
    format!(
        r#"{{"type":{kind},"timestamp":"{at}","data":{}}}"#,
        event.data
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_body_has_the_data_as_it_is() {
        let at = UNIX_EPOCH + Duration::from_millis(1_764_330_000_250);
        let event = Event::new("api_key.issued", at).with_data("{\"b\": 1,  \"a\":\"\\u00e4\"}");
        let body = payload(&event);
        let expected = "{\"type\":\"api_key.issued\",\"timestamp\":\"2025-11-28T11:40:00.25Z\",\
                        \"data\":{\"b\": 1,  \"a\":\"\\u00e4\"}}";
        assert_eq!(body, expected);
        assert!(serde_json::from_str::<Value>(&body).is_ok());
    }
}
