//! Records of the trail as rows.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::cell::{Cell, Row, corrupt};
use crate::key::diff::{FieldChange, FieldValue};
use crate::store::{Action, Actor, ActorKind, ChangeId, Origin, StoreError, TrailRecord};

/// The columns of a record of the trail, in the order of [`cells`] and [`record`]. The chain hashes
/// their names with the cells that are not null.
pub(super) const COLUMNS: [&str; 14] = [
    "change",
    "at",
    "action",
    "key_id",
    "version",
    "account",
    "actor_kind",
    "actor_id",
    "actor_name",
    "reason",
    "request_id",
    "address",
    "agent",
    "diff",
];

/// Returns the cells of a record, one for each of [`COLUMNS`].
pub(super) fn cells(record: &TrailRecord) -> Vec<Cell> {
    let Origin {
        actor,
        reason,
        request_id,
        address,
        agent,
        ..
    } = &record.origin;
    vec![
        Cell::bytes(*record.change.as_bytes()),
        Cell::instant(record.at),
        Cell::text(record.action.as_str()),
        Cell::id(record.key),
        Cell::count(record.version),
        Cell::text(record.account.as_str()),
        Cell::text(actor.kind.as_str()),
        Cell::text(actor.id.as_str()),
        Cell::optional_text(actor.name.as_deref()),
        Cell::optional_text(reason.as_deref()),
        Cell::optional_text(request_id.as_deref()),
        Cell::Text(address.map(|address| address.to_string())),
        Cell::optional_text(agent.as_deref()),
        Cell::text(diff(&record.changes)),
    ]
}

/// Reads the cells of a record from a row.
pub(super) fn record(row: &mut Row) -> Result<TrailRecord, StoreError> {
    let change = ChangeId::from_bytes(row.bytes("change")?);
    let at = row.instant("at")?;
    let action = Action::new(row.text("action")?).map_err(|_| corrupt("action"))?;
    let key = row.id("key_id")?;
    let version = row.count("version")?;
    let account = row.text("account")?;
    let mut record = TrailRecord::new(action, key, version, account, at);
    record.change = change;
    let kind: ActorKind = row
        .text("actor_kind")?
        .parse()
        .map_err(|_| corrupt("actor_kind"))?;
    let actor = Actor::new(kind, row.text("actor_id")?);
    let actor = actor.with_name(row.optional_text("actor_name")?);
    let origin = Origin::new(actor)
        .with_reason(row.optional_text("reason")?)
        .with_request_id(row.optional_text("request_id")?);
    let address = row.optional_text("address")?;
    let address = address.as_deref().map(str::parse::<IpAddr>).transpose();
    record.origin = origin
        .with_address(address.map_err(|_| corrupt("address"))?)
        .with_agent(row.optional_text("agent")?);
    record.changes = changes(&row.text("diff")?).ok_or_else(|| corrupt("diff"))?;
    Ok(record)
}

/// Writes changes as a JSON array: `[{"field": "plan", "before": null, "after": "pro"}]`. A value
/// that the trail does not show is `{}`.
pub(super) fn diff(changes: &[FieldChange]) -> String {
    let value = |value: &FieldValue| match value {
        FieldValue::Unset => Value::Null,
        FieldValue::Hidden => Value::Object(Map::new()),
        FieldValue::Shown(text) => Value::from(text.as_str()),
    };
    let written = changes.iter().map(|change| {
        let fields = [
            ("field".to_owned(), Value::from(change.field.as_str())),
            ("before".to_owned(), value(&change.before)),
            ("after".to_owned(), value(&change.after)),
        ];
        Value::Object(fields.into_iter().collect())
    });
    Value::Array(written.collect()).to_string()
}

fn changes(text: &str) -> Option<Vec<FieldChange>> {
    let value = |value: &Value| match value {
        Value::Null => Some(FieldValue::Unset),
        Value::Object(_) => Some(FieldValue::Hidden),
        Value::String(text) => Some(FieldValue::Shown(text.clone())),
        _ => None,
    };
    let written: Vec<Map<String, Value>> = serde_json::from_str(text).ok()?;
    let changes = written.iter().map(|fields| {
        let before = value(fields.get("before")?)?;
        let after = value(fields.get("after")?)?;
        Some(FieldChange::new(
            fields.get("field")?.as_str()?,
            before,
            after,
        ))
    });
    changes.collect()
}
