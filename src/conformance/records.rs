//! Records with all fields, and comparison of records.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::conformance::promise::Promise;
use crate::conformance::random::Random;
use crate::key::containment::{Revocation, Suspension, Throttling};
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::environment::Environment;
use crate::key::network::AllowedNetworks;
use crate::key::quota::Quota;
use crate::key::record::{KeyRecord, Rotation};
use crate::key::scope::Scope;
use crate::key::verifier::Verifier;
use crate::key::web_origin::AllowedOrigins;

/// The minimum precision with which stores keep times.
const PRECISION: Duration = Duration::from_micros(1);

/// Random digests, which belong to no key.
#[derive(Debug)]
pub(super) struct Digests(Random);

impl Digests {
    pub(super) fn new() -> Self {
        Self(Random::new())
    }

    pub(super) fn next(&mut self) -> KeyDigest {
        KeyDigest::from_bytes(self.0.bytes())
    }

    pub(super) fn id(&mut self) -> KeyId {
        self.next().id()
    }

    /// Returns digests whose ids become equal if they are truncated, or parsed as numbers.
    pub(super) fn near_each_other(&mut self) -> Vec<KeyDigest> {
        let one: [u8; 16] = self.0.bytes();
        let mut ids = vec![one];
        for at in [0, 7, 8, 15] {
            let mut near = one;
            near[at] ^= 1;
            ids.push(near);
        }
        for fill in [0x00, 0x20, 0xff] {
            let (mut head, mut tail) = (one, one);
            head[..8].fill(fill);
            tail[8..].fill(fill);
            ids.extend([head, tail]);
        }
        let digest = |id: [u8; 16]| {
            let mut sha256 = self.0.bytes::<32>();
            sha256[..16].copy_from_slice(&id);
            KeyDigest::from_bytes(sha256)
        };
        ids.into_iter().map(digest).collect()
    }
}

/// Creates a record with a name, and otherwise only the mandatory fields.
pub(super) fn named(digest: KeyDigest, name: &str) -> KeyRecord {
    KeyRecord::imported(digest, "acme").with_name(name)
}

/// Creates a record with all fields; `at` is the time of issue.
pub(super) fn full(digests: &mut Digests, at: SystemTime) -> KeyRecord {
    let hour = Duration::from_secs(3600);
    let scopes = [
        "reports:read",
        "reports:write",
        "!#$%&'()*+,-./:;<=>?@[]^_`{|}~",
    ];
    let metadata = [
        ("", "empty"),
        ("empty", ""),
        ("ключ", "зна\tчение\r\n{\"a\": [1]}"),
    ];
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let verifier = Verifier::peppered(digests.0.bytes(), "2026-11 ä".into());
    KeyRecord::new(
        digests.id(),
        verifier,
        "Ünïcode GmbH & Co. \"KG\" \u{1f511}",
    )
    .with_prefix("sk_live")
    .with_name("nightly 'export' \\ ; -- \u{202e}")
    .with_organization("組織")
    .with_environment(Environment::TEST)
    .with_scopes(scopes.map(Scope::from_static).into_iter().collect())
    .with_networks(networks(&["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"]))
    .with_origins(origins(&["https://app.example.com", "http://[::1]:3000"]))
    .with_plan("pro")
    .with_limit("account_per_minute", Quota::per_minute(Quota::MAX))
    .with_limit("odd", Quota::per_hour(7).smooth().burst(3))
    .with_limit("daily", Quota::per_utc_day(1))
    .with_limit("monthly, \"quoted\"", Quota::per_utc_month(10_000))
    .with_metadata(metadata.into())
    .with_created_at(at)
    .with_not_before(at + hour)
    .with_expires_at(at + 24 * 365 * hour)
    .with_suspended(
        Suspension::new(at + 2 * hour)
            .with_until(at + 5 * hour)
            .with_reason("unpaid\ninvoice".to_owned()),
    )
    .with_throttled(
        Throttling::new(Quota::per_second(2).smooth(), at + 6 * hour)
            .with_reason("spike: \u{1f4c8}".to_owned()),
    )
    .with_revoked(Revocation::new(at + 3 * hour).with_reason("geleakt: ÄÖÜ".to_owned()))
    .with_lineage(digests.id())
    .with_budget(digests.id())
    .with_rotated_from(digests.id())
    .with_rotated_to(Rotation::new(digests.id(), at + 4 * hour))
}

/// Creates records with extreme values, each of which must be found as committed.
pub(super) fn all_kinds(digests: &mut Digests) -> Vec<KeyRecord> {
    let microseconds = UNIX_EPOCH + Duration::from_micros(1_767_225_600_123_456);
    let year_9999 = UNIX_EPOCH + Duration::from_micros(253_402_300_799_999_999);
    let empty = KeyRecord::imported(digests.next(), "")
        .with_prefix("")
        .with_name("")
        .with_organization("")
        .with_plan("")
        .with_networks(networks(&[]))
        .with_origins(origins(&[]))
        .with_suspended(Suspension::new(UNIX_EPOCH))
        .with_created_at(UNIX_EPOCH)
        .with_expires_at(year_9999);
    let long = "0123456789abcdef".repeat(1024);
    let long =
        named(digests.next(), &long).with_metadata(BTreeMap::from([("long".to_owned(), long)]));
    let latest = named(digests.next(), "latest").with_version(u64::MAX >> 1);
    vec![
        KeyRecord::imported(digests.next(), "acme"),
        full(digests, microseconds),
        empty,
        long,
        named(digests.next(), "later").with_version(41),
        latest,
    ]
}

/// Creates a record with times finer than a microsecond.
pub(super) fn with_nanoseconds(digests: &mut Digests) -> KeyRecord {
    full(
        digests,
        UNIX_EPOCH + Duration::from_nanos(1_767_225_600_123_456_789),
    )
}

/// Panics unless the record is as committed, except for less than a microsecond.
#[track_caller]
pub(super) fn same(promise: Promise, seen: Option<&KeyRecord>, committed: &KeyRecord) {
    let id = committed.id();
    let Some(seen) = seen else {
        return promise.holds(false, format_args!("{id} is not found"));
    };
    let difference = difference(seen, committed);
    promise.holds(
        difference.is_none(),
        format_args!(
            "{} of {id}: {seen:?} instead of {committed:?}",
            difference.unwrap_or_default()
        ),
    );
}

/// Returns the first field that differs.
fn difference(seen: &KeyRecord, committed: &KeyRecord) -> Option<&'static str> {
    let instant = |of: fn(&KeyRecord) -> Option<SystemTime>| near(of(seen), of(committed));
    let suspension = match (seen.suspended(), committed.suspended()) {
        (Some(seen), Some(committed)) => {
            near(Some(seen.at), Some(committed.at))
                && near(seen.until, committed.until)
                && seen.reason == committed.reason
        }
        (seen, committed) => seen == committed,
    };
    let throttle = match (seen.throttled(), committed.throttled()) {
        (Some(seen), Some(committed)) => {
            near(Some(seen.until), Some(committed.until))
                && seen.quota == committed.quota
                && seen.reason == committed.reason
        }
        (seen, committed) => seen == committed,
    };
    let revocation = match (seen.revoked(), committed.revoked()) {
        (Some(seen), Some(committed)) => {
            near(Some(seen.at), Some(committed.at)) && seen.reason == committed.reason
        }
        (seen, committed) => seen == committed,
    };
    let rotation = match (seen.rotated_to(), committed.rotated_to()) {
        (Some(seen), Some(committed)) => {
            near(Some(seen.at), Some(committed.at)) && seen.successor == committed.successor
        }
        (seen, committed) => seen == committed,
    };
    let fields = [
        ("the id", seen.id() == committed.id()),
        ("the verifier", seen.verifier() == committed.verifier()),
        ("the version", seen.version() == committed.version()),
        ("the prefix", seen.prefix() == committed.prefix()),
        ("the name", seen.name() == committed.name()),
        ("the account", seen.account() == committed.account()),
        (
            "the organization",
            seen.organization() == committed.organization(),
        ),
        (
            "the environment",
            seen.environment() == committed.environment(),
        ),
        ("the scopes", seen.scopes() == committed.scopes()),
        ("the networks", seen.networks() == committed.networks()),
        ("the origins", seen.origins() == committed.origins()),
        ("the plan", seen.plan() == committed.plan()),
        ("the limits", seen.limits() == committed.limits()),
        ("the budget", seen.budget() == committed.budget()),
        ("the metadata", seen.metadata() == committed.metadata()),
        ("created_at", instant(KeyRecord::created_at)),
        ("not_before", instant(KeyRecord::not_before)),
        ("expires_at", instant(KeyRecord::expires_at)),
        ("the suspension", suspension),
        ("the throttle", throttle),
        ("the revocation", revocation),
        ("the lineage", seen.lineage() == committed.lineage()),
        (
            "rotated_from",
            seen.rotated_from() == committed.rotated_from(),
        ),
        ("rotated_to", rotation),
    ];
    let different = fields.into_iter().find(|(_, same)| !same);
    different.map(|(name, _)| name)
}

pub(super) fn near(seen: Option<SystemTime>, committed: Option<SystemTime>) -> bool {
    let (Some(seen), Some(committed)) = (seen, committed) else {
        return seen == committed;
    };
    let apart = seen.duration_since(committed);
    apart.unwrap_or_else(|earlier| earlier.duration()) < PRECISION
}

fn origins(origins: &[&str]) -> AllowedOrigins {
    AllowedOrigins::only(origins).expect("these are origins")
}

fn networks(networks: &[&str]) -> AllowedNetworks {
    AllowedNetworks::only(networks).expect("these are networks")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new field of records must be added here, too.
    #[test]
    fn the_full_record_sets_every_field() {
        let record = with_nanoseconds(&mut Digests::new());
        assert_eq!(record.unset(), <[&str; 0]>::default());
    }

    /// The trail may not omit one, either.
    #[test]
    fn the_trail_of_the_full_record_shows_every_field() {
        let changes = with_nanoseconds(&mut Digests::new()).changes_since(None);
        let names: Vec<&str> = changes.iter().map(|it| it.field.as_str()).collect();
        let of_maps = |name: &&&str| name.contains('.');
        assert_eq!(names.iter().filter(of_maps).count(), 4 + 3, "{names:?}");
        assert_eq!(names.len(), 4 + 3 + 26, "{names:?}");
    }

    #[test]
    fn records_are_compared_to_the_microsecond() {
        let mut digests = Digests::new();
        let record = with_nanoseconds(&mut digests);
        let (down, up) = (Duration::from_nanos(789), Duration::from_nanos(211));
        let expires_at = record.expires_at().unwrap();
        for expires_at in [expires_at - down, expires_at + up] {
            let rounded = record.clone().with_expires_at(expires_at);
            assert_eq!(difference(&rounded, &record), None);
        }
        let seconds = record.clone().with_expires_at(expires_at - PRECISION);
        assert_eq!(difference(&seconds, &record), Some("expires_at"));
        let reason = record.suspended().unwrap().clone().with_reason(None);
        let no_reason = record.clone().with_suspended(reason);
        assert_eq!(difference(&no_reason, &record), Some("the suspension"));
    }
}
