//! The example `watching` tells the truth, or it fails.
//!
//! `cargo test` builds the examples, too. With `--test watching_program`, build them before:
//! `cargo build --examples --all-features`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/programs.rs"]
mod programs;

use programs::program;

#[test]
fn a_stolen_key_is_noticed_told_and_stopped() {
    let output = program("watching").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    let mut rest = shown.as_str();
    for line in [
        "12 requests an hour from Germany",
        "five requests come from Brazil",
        "webhook: anomaly.high",
        "geographic_anomaly: ",
        "country \"BR\"",
        "temporal_anomaly: utc_hour ",
        "action: throttle",
        "throttled to 60/h",
        "webhook: anomaly.critical",
        "usage_spike: ",
        "action: suspend",
        "reason: critical anomaly: ",
        "webhook: api_key.suspended",
        "revocation on critical anomalies",
        "webhook: anomaly.critical",
        "action: revoke",
        "reason: automatic_security",
        "webhook: api_key.revoked",
    ] {
        let found = rest.split_once(line);
        rest = found.unwrap_or_else(|| panic!("{line}: {shown}")).1;
    }
    for secret in ["whsec_", "sk_live_"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let widest = shown.lines().map(str::len).max();
    assert!(widest < Some(100), "{shown}");
}
