//! The kinds of events.

/// A key was issued.
pub const API_KEY_ISSUED: &str = "api_key.issued";
/// A key was updated, or its grace was ended early.
pub const API_KEY_UPDATED: &str = "api_key.updated";
/// A key was rotated. No `api_key.issued` is published about the successor.
pub const API_KEY_ROTATED: &str = "api_key.rotated";
/// A key was suspended.
pub const API_KEY_SUSPENDED: &str = "api_key.suspended";
/// A key was resumed after a suspension.
pub const API_KEY_RESUMED: &str = "api_key.resumed";
/// A key was throttled.
pub const API_KEY_THROTTLED: &str = "api_key.throttled";
/// A key is throttled no longer.
pub const API_KEY_UNTHROTTLED: &str = "api_key.unthrottled";
/// A key was revoked.
pub const API_KEY_REVOKED: &str = "api_key.revoked";
/// Many keys were revoked at once.
pub const API_KEY_REVOKED_ALL: &str = "api_key.revoked_all";
/// A key that was not used for long has ended.
pub const API_KEY_RETIRED: &str = "api_key.retired";
/// A key was used for the first time.
pub const API_KEY_FIRST_USED: &str = "api_key.first_used";
/// A key expires in 30, 7 or 1 days.
pub const API_KEY_EXPIRING: &str = "api_key.expiring";
/// A key has expired.
pub const API_KEY_EXPIRED: &str = "api_key.expired";
/// A key that was rotated is still in use 7 days or 1 day before its grace ends, which is longer than
/// that.
pub const API_KEY_ROTATED_KEY_IN_USE: &str = "api_key.rotated_key_in_use";
/// The use of a key is unusual: an anomaly of low severity. For operators only.
pub const ANOMALY_LOW: &str = "anomaly.low";
/// An anomaly of medium severity. For operators only.
pub const ANOMALY_MEDIUM: &str = "anomaly.medium";
/// An anomaly of high severity.
pub const ANOMALY_HIGH: &str = "anomaly.high";
/// An anomaly of critical severity.
pub const ANOMALY_CRITICAL: &str = "anomaly.critical";
/// A limit is nearly used up.
pub const LIMIT_NEARLY_USED: &str = "limit.nearly_used";
/// A webhook was disabled, since its receiver wants no more events.
pub const WEBHOOK_DISABLED: &str = "webhook.disabled";
/// A test of an endpoint.
pub const WEBHOOK_TEST: &str = "webhook.test";

/// All kinds of this crate.
const ALL: [&str; 21] = [
    API_KEY_ISSUED,
    API_KEY_UPDATED,
    API_KEY_ROTATED,
    API_KEY_SUSPENDED,
    API_KEY_RESUMED,
    API_KEY_THROTTLED,
    API_KEY_UNTHROTTLED,
    API_KEY_REVOKED,
    API_KEY_REVOKED_ALL,
    API_KEY_RETIRED,
    API_KEY_FIRST_USED,
    API_KEY_EXPIRING,
    API_KEY_EXPIRED,
    API_KEY_ROTATED_KEY_IN_USE,
    ANOMALY_LOW,
    ANOMALY_MEDIUM,
    ANOMALY_HIGH,
    ANOMALY_CRITICAL,
    LIMIT_NEARLY_USED,
    WEBHOOK_DISABLED,
    WEBHOOK_TEST,
];

/// The beginnings of kinds that are for this crate. Other kinds are those of applications.
const OWN: [&str; 4] = ["api_key.", "anomaly.", "limit.", "webhook."];

/// Returns whether a kind looks like one of this crate and is none, such as a misspelled one.
pub(crate) fn is_unknown(kind: &str) -> bool {
    OWN.iter().any(|own| kind.starts_with(own)) && !ALL.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_kind_is_unknown_and_one_of_an_application_is_not() {
        assert!(ALL.iter().all(|kind| !is_unknown(kind)));
        assert!(ALL.iter().all(|kind| is_unknown(&format!("{kind}s"))));
        assert!(!is_unknown("acme.invoice_due") && !is_unknown("api_keys.issued"));
    }
}
