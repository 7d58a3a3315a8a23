//! Lists of keys, and all that is known of one.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tower_api_key::key::KeyStatus;
use tower_api_key::manage::ChangeError;
use tower_api_key::store::{KeyQuery, KeyState, ListedKey};
use tower_api_key::{Environment, KeyId};

use crate::call::Call;
use crate::database::Database;
use crate::failure::{Failure, usage};
use crate::output::{Output, aligned, object, texts, time_or, with_header};
use crate::rfc3339::format as rfc3339;

const LIST: [&str; 9] = [
    "KEY ID",
    "ACCOUNT",
    "STATUS",
    "PREFIX",
    "CREATED",
    "EXPIRES",
    "LAST USED",
    "LAST ADDRESS",
    "SCOPES",
];
const STATES: [KeyState; 5] = [
    KeyState::Live,
    KeyState::NotYetActive,
    KeyState::Suspended,
    KeyState::Expired,
    KeyState::Revoked,
];

impl Database {
    pub(crate) async fn list(&self, call: &Call) -> Result<Output, Failure> {
        let (query, only) = self.query(call)?;
        let mut listed = Vec::new();
        let mut pages = self.keys.pages(query);
        while let Some(page) = pages.next().await? {
            listed.extend(page);
        }
        listed.retain(|key| only.is_none_or(|only| self.status(&key.record) == only));
        let json: Value = listed.iter().map(|key| object(self.facts(key))).collect();
        let rows = listed.iter().map(|key| {
            let record = &key.record;
            [
                record.id().to_string(),
                record.account().to_owned(),
                self.status(record).to_string(),
                record.prefix().unwrap_or("-").to_owned(),
                time_or("-", record.created_at()),
                time_or("never", record.expires_at()),
                time_or("never", key.last_used_at),
                key.last_address.map_or("-".to_owned(), |it| it.to_string()),
                record.scopes().to_string(),
            ]
        });
        Ok(Output::new(json, with_header(LIST, rows)))
    }

    /// Returns the query of a list, and the one status to list of those that are live, if one is
    /// named.
    fn query(&self, call: &Call) -> Result<(KeyQuery, Option<KeyStatus>), Failure> {
        let now = self.keys.now();
        let expiring = call.days("expiring-in")?;
        let never_expires = call.is_set("never-expires");
        let idle = call.days("idle")?;
        let safe = call.days("safe-to-remove")?;
        let (mut state, mut only) = (None, None);
        if let Some(status) = call.option("status") {
            state = STATES.into_iter().find(|state| state.as_str() == status);
            if state.is_none() {
                state = Some(KeyState::Live);
                only = Some(status.parse::<KeyStatus>().map_err(usage)?);
            }
        }
        let conflict = if expiring.is_some() && never_expires {
            Some("a key that never expires is not expiring: leave --expiring-in out, or the other")
        } else if safe.is_some() && never_expires {
            Some("keys that were rotated do expire: leave --never-expires out")
        } else if safe.is_some() && idle.is_some() {
            Some("keys that are safe to remove are idle: leave --idle out")
        } else if expiring.or(safe).is_some() && state.is_some_and(|it| it != KeyState::Live) {
            Some("--expiring-in and --safe-to-remove list live keys: leave --status out")
        } else {
            None
        };
        if let Some(conflict) = conflict {
            return Err(usage(conflict));
        }

        let account = call.option("account").map(str::to_owned);
        let mut query = KeyQuery::new().with_account(account);
        if never_expires || idle.is_some() {
            state = state.or(Some(KeyState::Live)); // the others do no harm
        }
        if let Some(state) = state {
            query = query.with_state(state, now);
        }
        if let Some(time) = expiring {
            query = query.expiring_within(time, now);
        }
        if never_expires {
            query = query.never_expires();
        }
        if let Some(time) = idle {
            query = query.idle_since(now.checked_sub(time).unwrap_or(UNIX_EPOCH));
        }
        if let Some(time) = safe {
            query = query.safe_to_remove(time, now);
        }
        Ok((query, only))
    }

    pub(crate) async fn show(&self, id: KeyId) -> Result<Output, Failure> {
        let key = self.keys.find_listed(&id).await?;
        let facts = self.facts(&key.ok_or(ChangeError::NotFound(id))?);
        let rows = facts.iter().map(|(name, value)| {
            let text = match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                Value::Array(texts) => {
                    let texts: Vec<_> = texts.iter().filter_map(Value::as_str).collect();
                    texts.join(" ")
                }
                Value::Object(fields) if fields.is_empty() => String::new(),
                value => value.to_string(),
            };
            [name.replace('_', " "), text]
        });
        let rows = rows.filter(|[_, text]| !text.is_empty());
        let text = aligned(rows);
        Ok(Output::new(object(facts), text))
    }

    /// All that is known of a key, without its verifier.
    fn facts(&self, key: &ListedKey) -> Vec<(&'static str, Value)> {
        let record = &key.record;
        let time = |at: Option<SystemTime>| Value::from(at.map(rfc3339));
        let suspended = record.suspended().map(
            |it| json!({ "at": rfc3339(it.at), "until": time(it.until), "reason": it.reason }),
        );
        let throttled = record.throttled().map(|it| {
            let quota = it.quota.to_string();
            json!({ "quota": quota, "until": rfc3339(it.until), "reason": it.reason })
        });
        let revoked = record.revoked();
        let revoked = revoked.map(|it| json!({ "at": rfc3339(it.at), "reason": it.reason }));
        let successor = record.rotated_to();
        let limits = record.limits().iter();
        let limits: Value = limits.map(|(name, it)| (&**name, it.to_string())).collect();
        vec![
            ("key_id", record.id().to_string().into()),
            ("account", record.account().into()),
            ("organization", record.organization().into()),
            ("name", record.name().into()),
            ("status", self.status(record).as_str().into()),
            ("prefix", record.prefix().into()),
            (
                "environment",
                record.environment().map(Environment::as_str).into(),
            ),
            ("scopes", texts(record.scopes().iter())),
            ("plan", record.plan().into()),
            ("limits", limits),
            ("networks", record.networks().list().map(texts).into()),
            ("origins", record.origins().list().map(texts).into()),
            ("metadata", json!(record.metadata())),
            ("created_at", time(record.created_at())),
            ("not_before", time(record.not_before())),
            ("expires_at", time(record.expires_at())),
            ("first_used_at", time(key.first_used_at)),
            ("last_used_at", time(key.last_used_at)),
            (
                "last_address",
                key.last_address.map(|it| it.to_string()).into(),
            ),
            ("suspended", suspended.into()),
            ("throttled", throttled.into()),
            ("revoked", revoked.into()),
            (
                "rotated_from",
                record.rotated_from().map(|id| id.to_string()).into(),
            ),
            (
                "rotated_to",
                successor.map(|it| it.successor.to_string()).into(),
            ),
            ("rotated_at", time(successor.map(|it| it.at))),
            ("version", record.version().into()),
        ]
    }
}
