//! Records as documents: with the feature `serde`, they are read as they were written.
#![cfg(feature = "serde")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, SystemTime};

use tower_api_key::key::{
    AllowedNetworks, KeyDigest, KeyStatus, PepperRing, RecordParts, RecordPartsError, Revocation,
    Rotation, Suspension, Throttling,
};
use tower_api_key::{Environment, KeyRecord, Quota};

fn full() -> KeyRecord {
    let at = SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 123_456_789);
    let other = KeyDigest::of("other").id();
    let ring = PepperRing::new("2026", &[7; 32]);
    let digest = KeyDigest::of("a key that nobody has");
    KeyRecord::new(
        digest.id(),
        ring.unwrap().verifier(&digest),
        "Ünïcode \"KG\"",
    )
    .with_version(41)
    .with_organization("組織")
    .with_name("nightly")
    .with_prefix("sk_live")
    .with_environment(Environment::TEST)
    .with_plan("pro")
    .with_scopes("reports:read reports:write".parse().unwrap())
    .with_networks(AllowedNetworks::only(["192.0.2.0/24", "2001:db8::/32"]).unwrap())
    .with_limit("odd", Quota::per_hour(7).smooth().burst(3))
    .with_limit("monthly", Quota::per_utc_month(10_000))
    .with_metadata([("a".to_owned(), "b".to_owned())].into())
    .with_budget(other)
    .with_lineage(other)
    .with_created_at(at)
    .with_not_before(at)
    .with_expires_at(at + Duration::from_secs(1))
    .with_suspended(
        Suspension::new(at)
            .with_until(at)
            .with_reason("why".to_owned()),
    )
    .with_throttled(Throttling::new(Quota::per_second(2), at).with_reason("spike".to_owned()))
    .with_revoked(Revocation::new(at).with_reason("leaked".to_owned()))
    .with_rotated_from(other)
    .with_rotated_to(Rotation::new(other, at))
}

#[test]
fn a_record_round_trips_as_a_document() {
    let plain = KeyRecord::imported(KeyDigest::of("x"), "acme");
    let nowhere = plain
        .clone()
        .with_networks(AllowedNetworks::only::<&str>([]).unwrap());
    for record in [full(), plain, nowhere] {
        let document = serde_json::to_string(&record.expose_parts()).unwrap();
        let parts: RecordParts = serde_json::from_str(&document).unwrap();
        assert_eq!(KeyRecord::try_from(parts).unwrap(), record, "{document}");
    }
}

#[test]
fn the_verifier_is_serialized_only_if_explicitly_exposed() {
    let record = full();
    let verifier = KeyDigest::from_bytes(*record.verifier().as_bytes()).to_hex();
    for shown in [
        serde_json::to_string(&record).unwrap(),
        serde_json::to_string(&record.to_parts()).unwrap(),
        format!("{record:?}"),
        format!("{:?}", record.expose_parts()),
    ] {
        assert!(!shown.contains(&verifier), "{shown}");
    }
    let parts: RecordParts =
        serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(
        KeyRecord::try_from(parts),
        Err(RecordPartsError::NoVerifier)
    );
}

#[test]
fn an_invalid_document_is_refused() {
    let document = serde_json::to_value(full().expose_parts()).unwrap();
    for (pointer, value) in [
        ("/created_at", "yesterday"),
        ("/id", "short"),
        ("/environment", "Live!"),
        ("/scopes/0", "two words"),
        ("/networks/0", "10.0.0.0/08"),
    ] {
        let mut wrong = document.clone();
        *wrong.pointer_mut(pointer).unwrap() = value.into();
        assert!(
            serde_json::from_value::<RecordParts>(wrong).is_err(),
            "{pointer}"
        );
    }
    let mut unknown = document.clone();
    unknown["plna"] = "typo".into();
    assert!(serde_json::from_value::<RecordParts>(unknown).is_err());
    for (pointer, value) in [("/verifier/expected", "abc"), ("/account", "a\0b")] {
        let mut wrong = document.clone();
        *wrong.pointer_mut(pointer).unwrap() = value.into();
        let parts: RecordParts = serde_json::from_value(wrong).unwrap();
        assert!(KeyRecord::try_from(parts).is_err(), "{pointer}");
    }
}

#[test]
fn statuses_are_serialized_as_in_headers() {
    let text = serde_json::to_string(&KeyStatus::NotYetActive).unwrap();
    assert_eq!(text, "\"not_yet_active\"");
    assert_eq!(
        serde_json::from_str::<KeyStatus>(&text).unwrap(),
        KeyStatus::NotYetActive
    );
    assert!("live".parse::<KeyStatus>().is_err());
}
