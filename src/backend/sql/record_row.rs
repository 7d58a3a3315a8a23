//! Records as rows.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use super::cell::{Cell, Row, corrupt};
use crate::key::containment::{Revocation, Suspension, Throttling};
use crate::key::digest::KeyDigest;
use crate::key::environment::Environment;
use crate::key::network::{AllowedNetworks, Network};
use crate::key::quota::Quota;
use crate::key::record::{KeyRecord, Rotation};
use crate::key::verifier::{PepperId, Verifier};
use crate::key::web_origin::{AllowedOrigins, WebOrigin};
use crate::store::StoreError;

/// The columns of a record, in the order of [`cells`] and [`record`].
///
/// The trail hashes these names with the cells that are not null. A column that is added later,
/// null for the keys of today, therefore changes no hash.
pub(super) const COLUMNS: [&str; 31] = [
    "id",
    "verifier",
    "pepper",
    "version",
    "account",
    "organization",
    "environment",
    "prefix",
    "name",
    "plan",
    "scopes",
    "networks",
    "origins",
    "limits",
    "metadata",
    "budget",
    "lineage",
    "created_at",
    "not_before",
    "expires_at",
    "suspended_at",
    "suspended_until",
    "suspended_reason",
    "throttled_quota",
    "throttled_until",
    "throttled_reason",
    "revoked_at",
    "revoked_reason",
    "rotated_from",
    "rotated_to",
    "rotated_at",
];

/// Returns the cells of a record, one for each of [`COLUMNS`].
pub(super) fn cells(record: &KeyRecord) -> Vec<Cell> {
    let other = |id| (id != record.id()).then_some(id);
    let verifier = record.verifier();
    let limits = record.limits().iter();
    let limits: BTreeMap<&String, String> =
        limits.map(|(name, it)| (name, it.to_string())).collect();
    let (suspended, throttled) = (record.suspended(), record.throttled());
    let (revoked, rotated) = (record.revoked(), record.rotated_to());
    vec![
        Cell::id(record.id()),
        Cell::bytes(*verifier.as_bytes()),
        Cell::optional_text(verifier.pepper().map(PepperId::as_str)),
        Cell::count(record.version()),
        Cell::text(record.account()),
        Cell::optional_text(record.organization()),
        Cell::optional_text(record.environment().map(Environment::as_str)),
        Cell::optional_text(record.prefix()),
        Cell::optional_text(record.name()),
        Cell::optional_text(record.plan()),
        Cell::text(record.scopes().to_string()),
        Cell::Text(record.networks().list().map(separated)),
        Cell::Text(record.origins().list().map(separated)),
        Cell::text(json(&limits)),
        Cell::text(json(record.metadata())),
        Cell::optional_id(other(record.budget())),
        Cell::optional_id(other(record.lineage())),
        Cell::optional_instant(record.created_at()),
        Cell::optional_instant(record.not_before()),
        Cell::optional_instant(record.expires_at()),
        Cell::optional_instant(suspended.map(|it| it.at)),
        Cell::optional_instant(suspended.and_then(|it| it.until)),
        Cell::optional_text(suspended.and_then(|it| it.reason.as_deref())),
        Cell::Text(throttled.map(|it| it.quota.to_string())),
        Cell::optional_instant(throttled.map(|it| it.until)),
        Cell::optional_text(throttled.and_then(|it| it.reason.as_deref())),
        Cell::optional_instant(revoked.map(|it| it.at)),
        Cell::optional_text(revoked.and_then(|it| it.reason.as_deref())),
        Cell::optional_id(record.rotated_from()),
        Cell::optional_id(rotated.map(|it| it.successor)),
        Cell::optional_instant(rotated.map(|it| it.at)),
    ]
}

/// Reads the cells of a record from a row.
pub(super) fn record(row: &mut Row) -> Result<KeyRecord, StoreError> {
    let id = row.id("id")?;
    let expected = row.bytes("verifier")?;
    let verifier = match row.optional_text("pepper")? {
        Some(pepper) => Verifier::peppered(expected, pepper.as_str().into()),
        None => Verifier::sha256(KeyDigest::from_bytes(expected)),
    };
    let version = row.count("version")?;
    let account = row.text("account")?;
    let mut record = KeyRecord::new(id, verifier, account)
        .with_version(version)
        .with_organization(row.optional_text("organization")?)
        .with_environment(parsed::<Environment>("environment", row)?)
        .with_prefix(row.optional_text("prefix")?)
        .with_name(row.optional_text("name")?)
        .with_plan(row.optional_text("plan")?);
    let scopes = row.text("scopes")?;
    if !scopes.is_empty() {
        record = record.with_scopes(scopes.parse().map_err(|_| corrupt("scopes"))?);
    }
    if let Some(networks) = list::<Network>("networks", row)? {
        record = record.with_networks(AllowedNetworks::from_iter(networks));
    }
    if let Some(origins) = list::<WebOrigin>("origins", row)? {
        record = record.with_origins(AllowedOrigins::from_iter(origins));
    }
    let limits = map("limits", &row.text("limits")?)?;
    if !limits.is_empty() {
        let quota = |(name, quota): (String, String)| Some((name, quota.parse::<Quota>().ok()?));
        let limits: Option<_> = limits.into_iter().map(quota).collect();
        record = record.with_limits(limits.ok_or_else(|| corrupt("limits"))?);
    }
    record = record.with_metadata(map("metadata", &row.text("metadata")?)?);
    if let Some(budget) = row.optional_id("budget")? {
        record = record.with_budget(budget);
    }
    if let Some(lineage) = row.optional_id("lineage")? {
        record = record.with_lineage(lineage);
    }
    record = record
        .with_created_at(row.optional_instant("created_at")?)
        .with_not_before(row.optional_instant("not_before")?)
        .with_expires_at(row.optional_instant("expires_at")?);
    let at = row.optional_instant("suspended_at")?;
    let until = row.optional_instant("suspended_until")?;
    let reason = row.optional_text("suspended_reason")?;
    if let Some(at) = at {
        let suspension = Suspension::new(at).with_until(until);
        record = record.with_suspended(suspension.with_reason(reason));
    }
    let quota = parsed::<Quota>("throttled_quota", row)?;
    let until = row.optional_instant("throttled_until")?;
    let reason = row.optional_text("throttled_reason")?;
    if let Some(quota) = quota {
        let until = until.ok_or_else(|| corrupt("throttled_until"))?;
        record = record.with_throttled(Throttling::new(quota, until).with_reason(reason));
    }
    let at = row.optional_instant("revoked_at")?;
    let reason = row.optional_text("revoked_reason")?;
    if let Some(at) = at {
        record = record.with_revoked(Revocation::new(at).with_reason(reason));
    }
    record = record.with_rotated_from(row.optional_id("rotated_from")?);
    let successor = row.optional_id("rotated_to")?;
    let at = row.optional_instant("rotated_at")?;
    if let Some(successor) = successor {
        let at = at.ok_or_else(|| corrupt("rotated_at"))?;
        record = record.with_rotated_to(Rotation::new(successor, at));
    }
    Ok(record)
}

fn separated<T: Display>(list: &[T]) -> String {
    let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

fn list<T: FromStr>(column: &'static str, row: &mut Row) -> Result<Option<Vec<T>>, StoreError> {
    let Some(text) = row.optional_text(column)? else {
        return Ok(None);
    };
    let list: Result<_, _> = text
        .split(' ')
        .filter(|it| !it.is_empty())
        .map(str::parse)
        .collect();
    list.map(Some).map_err(|_| corrupt(column))
}

fn parsed<T: FromStr>(column: &'static str, row: &mut Row) -> Result<Option<T>, StoreError> {
    let parsed = row
        .optional_text(column)?
        .as_deref()
        .map(str::parse)
        .transpose();
    parsed.map_err(|_| corrupt(column))
}

fn map(column: &'static str, text: &str) -> Result<BTreeMap<String, String>, StoreError> {
    serde_json::from_str(text).map_err(|_| corrupt(column))
}

fn json<K: AsRef<str>, V: AsRef<str>>(map: &BTreeMap<K, V>) -> String {
    let entries = map.iter().map(|(name, value)| {
        let value = serde_json::Value::from(value.as_ref());
        (name.as_ref().to_owned(), value)
    });
    serde_json::Value::Object(entries.collect()).to_string()
}
