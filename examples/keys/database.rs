//! The commands, each of which is a call of [`ApiKeys`].

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Value, json};
use tower_api_key::key::{FieldChange, FieldValue, KeyStatus};
use tower_api_key::manage::{ChangeError, ContainError};
use tower_api_key::store::{
    ActorKind, KeyQuery, KeyState, ListedKey, Paging, SqliteStore, TrailQuery, TrailRecord,
};
use tower_api_key::{ApiKeys, Environment, KeyId, KeyRecord};

use crate::audit_key;
use crate::call::Call;
use crate::failure::{Failure, failure, usage};
use crate::output::{Output, aligned, object, texts, time_or, with_header};
use crate::rfc3339::format as rfc3339;

/// The note below a key that was just issued.
const SHOWN_ONCE: &str = "This is the only time that the key is shown: the file has a hash of it.";

pub(crate) struct Database {
    keys: ApiKeys,
    /// Clones share their connections. The trail is verified by the store itself.
    pub(crate) store: SqliteStore,
}

impl Database {
    pub(crate) async fn open(call: &Call) -> Result<Self, Failure> {
        let file = call.option("db").map(OsString::from);
        let file = file.or_else(|| env::var_os("KEYS_DB"));
        let file = file.filter(|file| !file.is_empty()).map(PathBuf::from);
        let file = file.ok_or_else(|| usage("name a file with --db, or in KEYS_DB"))?;
        let store = SqliteStore::open(&file).await?;
        store.migrate().await?;
        let audit_key = audit_key::audit_key(&store, &file).await;
        let store = store.audit_key(audit_key.map_err(failure)?);
        let keys = ApiKeys::builder(store.clone()).build()?;
        Ok(Self { keys, store })
    }

    pub(crate) async fn run(&self, call: &Call) -> Result<Output, Failure> {
        match call.command.as_str() {
            "issue" => self.issue(call).await,
            "list" => self.list(call).await,
            "show" => self.show(call.id()?).await,
            "update" => self.update(call).await,
            "rotate" => self.rotate(call).await,
            "suspend" => {
                let suspended = self.keys.suspend(call.id()?).by(call.actor()).await?;
                Ok(self.changed(&suspended))
            }
            "resume" => {
                let resumed = self.keys.resume(call.id()?).by(call.actor()).await?;
                Ok(self.changed(&resumed))
            }
            "revoke" => {
                let mut revoke = self.keys.revoke(call.id()?).by(call.actor());
                if let Some(reason) = call.option("reason") {
                    revoke = revoke.reason(reason);
                }
                Ok(self.changed(&revoke.await?))
            }
            "revoke-all" => self.revoke_all(call).await,
            "trail" => self.trail(call.id()?).await,
            _ => self.verify_trail().await,
        }
    }

    async fn issue(&self, call: &Call) -> Result<Output, Failure> {
        let mut issue = self.keys.issue(&call.subject).by(call.actor());
        if let Some(scopes) = call.scopes()? {
            issue = issue.scopes(scopes);
        }
        if let Some(plan) = call.option("plan") {
            issue = issue.plan(plan);
        }
        if let Some(name) = call.option("name") {
            issue = issue.name(name);
        }
        if let Some(environment) = call.option("environment") {
            issue = issue.environment(environment.parse().map_err(usage)?);
        }
        issue = issue.expires_in(call.days("expires-in")?);
        let issued = issue.await?;
        let (key, record) = (issued.expose_secret(), issued.record());
        let json = json!({
            "key": key,
            "key_id": record.id().to_string(),
            "account": record.account(),
            "expires_at": record.expires_at().map(rfc3339),
        });
        let facts = aligned([
            ["key id".to_owned(), record.id().to_string()],
            ["account".to_owned(), record.account().to_owned()],
            ["expires".to_owned(), time_or("never", record.expires_at())],
        ]);
        let text = format!("{key}\n\n{facts}\n{SHOWN_ONCE}\n");
        Ok(Output::new(json, text))
    }

    /// Updates the key as it is now. If somebody else changes it meanwhile, nothing is written.
    async fn update(&self, call: &Call) -> Result<Output, Failure> {
        let (id, scopes) = (call.id()?, call.scopes()?);
        let [plan, name] = ["plan", "name"].map(|it| call.option(it));
        let life = call.days("expires-in")?;
        if scopes.is_none() && plan.is_none() && name.is_none() && life.is_none() {
            return Err(usage("update needs at least one option"));
        }
        let seen = self.keys.find(&id).await?;
        let seen = seen.ok_or(ChangeError::NotFound(id))?;
        let mut update = self.keys.update(&seen).by(call.actor());
        if let Some(scopes) = scopes {
            update = update.scopes(scopes);
        }
        if let Some(plan) = plan {
            update = update.plan(plan);
        }
        if let Some(name) = name {
            update = update.name(name);
        }
        if let Some(life) = life {
            update = update.expires_at(self.keys.now() + life);
        }
        Ok(self.changed(&update.await?))
    }

    async fn rotate(&self, call: &Call) -> Result<Output, Failure> {
        let mut rotate = self.keys.rotate(call.id()?).by(call.actor());
        match (call.days("grace")?, call.option("compromised")) {
            (Some(_), Some(_)) => {
                return Err(usage("a compromised key has no grace: leave --grace out"));
            }
            (Some(grace), None) => rotate = rotate.grace(grace),
            (None, Some(reason)) => rotate = rotate.compromised(reason),
            (None, None) => {}
        }
        let rotated = rotate.await?;
        let (key, record, old) = (rotated.expose_secret(), rotated.record(), rotated.old());
        let json = json!({
            "key": key,
            "key_id": record.id().to_string(),
            "old": {
                "key_id": old.id().to_string(),
                "expires_at": old.expires_at().map(rfc3339),
            },
        });
        let end = match self.status(old) {
            KeyStatus::Deprecated => {
                format!("works until {}", time_or("it is revoked", old.expires_at()))
            }
            status => format!("is {status}"),
        };
        let facts = aligned([
            ["key id".to_owned(), record.id().to_string()],
            ["account".to_owned(), record.account().to_owned()],
            ["expires".to_owned(), time_or("never", record.expires_at())],
            ["old key".to_owned(), format!("{} {end}", old.id())],
        ]);
        let text = format!("{key}\n\n{facts}\n{SHOWN_ONCE}\n");
        Ok(Output::new(json, text))
    }

    async fn revoke_all(&self, call: &Call) -> Result<Output, Failure> {
        let mut revoke = self.keys.revoke_all().by(call.actor());
        if let Some(account) = call.option("account") {
            revoke = revoke.of_account(account);
        }
        if let Some(prefix) = call.option("prefix") {
            revoke = revoke.with_prefix(prefix);
        }
        if let Some(time) = call.time("issued-before")? {
            revoke = revoke.issued_before(time);
        }
        if let Some(reason) = call.option("reason") {
            revoke = revoke.reason(reason);
        }
        let revoked = match revoke.await {
            Ok(contained) => contained.revoked,
            Err(ContainError::NoFilter) => {
                return Err(usage(
                    "revoke-all needs --account, --prefix or --issued-before",
                ));
            }
            Err(error) => return Err(error.into()),
        };
        let text = format!("keys revoked: {revoked}\n");
        Ok(Output::new(json!({ "revoked": revoked }), text))
    }

    async fn list(&self, call: &Call) -> Result<Output, Failure> {
        let account = call.option("account").map(str::to_owned);
        let mut query = KeyQuery::new().with_account(account);
        let mut only = None;
        if let Some(status) = call.option("status") {
            let state = STATES.into_iter().find(|state| state.as_str() == status);
            if state.is_none() {
                only = Some(status.parse::<KeyStatus>().map_err(usage)?); // of those that are live
            }
            query = query.with_state(state.unwrap_or(KeyState::Live), self.keys.now());
        }
        let mut listed = self.read_list(&query).await?;
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
                record.scopes().to_string(),
            ]
        });
        Ok(Output::new(json, with_header(LIST, rows)))
    }

    async fn read_list(&self, query: &KeyQuery) -> Result<Vec<ListedKey>, Failure> {
        let mut listed = Vec::new();
        let mut paging = Paging::first(Paging::MOST);
        loop {
            let page = self.keys.list(query, &paging).await?;
            listed.extend(page.items);
            let Some(next) = page.next else {
                return Ok(listed);
            };
            paging = paging.after(next);
        }
    }

    async fn show(&self, id: KeyId) -> Result<Output, Failure> {
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

    fn changed(&self, record: &KeyRecord) -> Output {
        let (id, status) = (record.id().to_string(), self.status(record).as_str());
        let text = format!("{id} is {status}\n");
        let json = json!({ "key_id": id, "account": record.account(), "status": status });
        Output::new(json, text)
    }

    async fn trail(&self, id: KeyId) -> Result<Output, Failure> {
        let query = TrailQuery::new().with_key(id);
        let mut records = Vec::new();
        let mut paging = Paging::first(Paging::MOST);
        loop {
            let page = self.keys.trail(&query, &paging).await?;
            records.extend(page.items);
            let Some(next) = page.next else { break };
            paging = paging.after(next);
        }
        if records.is_empty() {
            return Err(ChangeError::NotFound(id).into());
        }
        let json: Value = (1..).zip(&records).map(trail_json).collect();
        let rows = (1..).zip(&records).map(|(seq, record)| {
            let changes: Vec<String> = record.changes.iter().map(ToString::to_string).collect();
            [
                seq.to_string(),
                rfc3339(record.at),
                record.action.to_string(),
                record.origin.actor.to_string(),
                record.version.to_string(),
                record.origin.reason.clone().unwrap_or("-".to_owned()),
                changes.join("; "),
            ]
        });
        Ok(Output::new(json, with_header(TRAIL, rows)))
    }

    async fn verify_trail(&self) -> Result<Output, Failure> {
        let report = self.store.verify_trail().await?;
        if report.is_ok() {
            let text = format!("ok: {} keys, {} records\n", report.keys, report.records);
            return Ok(Output::new(json!({ "ok": true }), text));
        }
        let broken = report.broken.iter().map(|it| {
            json!({
                "key_id": it.key.to_string(),
                "version": it.version,
                "fault": it.fault.as_str(),
            })
        });
        let json = json!({ "ok": false, "broken": broken.collect::<Value>() });
        let lines = report.broken.iter().map(|it| [it.to_string()]);
        Ok(Output {
            is_ok: false,
            ..Output::new(json, aligned(lines))
        })
    }

    fn status(&self, record: &KeyRecord) -> KeyStatus {
        self.keys.lifecycle(record).status()
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

const LIST: [&str; 8] = [
    "KEY ID",
    "ACCOUNT",
    "STATUS",
    "PREFIX",
    "CREATED",
    "EXPIRES",
    "LAST USED",
    "SCOPES",
];
const TRAIL: [&str; 7] = [
    "SEQ", "AT", "ACTION", "ACTOR", "VERSION", "REASON", "CHANGES",
];
const STATES: [KeyState; 5] = [
    KeyState::Live,
    KeyState::NotYetActive,
    KeyState::Suspended,
    KeyState::Expired,
    KeyState::Revoked,
];

fn trail_json((seq, record): (u64, &TrailRecord)) -> Value {
    let value = |value: &FieldValue| match value {
        FieldValue::Unset => Value::Null,
        value => value.to_string().into(),
    };
    let difference = |it: &FieldChange| {
        let (before, after) = (value(&it.before), value(&it.after));
        json!({ "field": it.field, "before": before, "after": after })
    };
    let actor = &record.origin.actor;
    json!({
        "seq": seq,
        "at": rfc3339(record.at),
        "action": record.action.as_str(),
        "actor": if actor.kind == ActorKind::User { actor.id.clone() } else { actor.to_string() },
        "version": record.version,
        "reason": record.origin.reason,
        "diff": record.changes.iter().map(difference).collect::<Value>(),
    })
}
