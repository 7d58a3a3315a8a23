//! The commands, each of which is a call of [`ApiKeys`].

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::{Value, json};
use tower_api_key::key::{FieldChange, FieldValue, KeyStatus};
use tower_api_key::manage::{ChangeError, ContainError};
use tower_api_key::store::{ActorKind, Paging, SqliteStore, TrailQuery, TrailRecord};
use tower_api_key::{ApiKeys, KeyId, KeyRecord};

use crate::audit_key;
use crate::call::Call;
use crate::failure::{Failure, failure, usage};
use crate::output::{Output, aligned, time_or, with_header};
use crate::rfc3339::format as rfc3339;

/// The note below a key that was just issued.
pub(crate) const SHOWN_ONCE: &str =
    "This is the only time that the key is shown: the file has a hash of it.";

/// The commands that change nothing, and verify nothing.
const READING: [&str; 4] = ["list", "show", "usage", "trail"];

pub(crate) struct Database {
    pub(crate) keys: ApiKeys,
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
        // Reading needs no audit key, so that a report can be had without it.
        let store = if READING.contains(&&*call.command) {
            store
        } else {
            let audit_key = audit_key::audit_key(&store, &file).await;
            store.audit_key(audit_key.map_err(failure)?)
        };
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
            "unthrottle" => {
                let unthrottled = self.keys.unthrottle(call.id()?).by(call.actor()).await?;
                Ok(self.changed(&unthrottled))
            }
            "revoke" => {
                let mut revoke = self.keys.revoke(call.id()?).by(call.actor());
                if let Some(reason) = call.option("reason") {
                    revoke = revoke.reason(reason);
                }
                Ok(self.changed(&revoke.await?))
            }
            "revoke-all" => self.revoke_all(call).await,
            "retire-idle" => self.retire_idle(call).await,
            "purge" => self.purge(call).await,
            "usage" => self.usage(call).await,
            "trail" => self.trail(call.id()?).await,
            _ => self.verify_trail().await,
        }
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

    /// Ends keys that nobody uses. They expire, and an update brings them back.
    async fn retire_idle(&self, call: &Call) -> Result<Output, Failure> {
        let idle = call.subject_days()?;
        let mut retire = self.keys.retire_idle(idle).by(call.actor());
        if let Some(account) = call.option("account") {
            retire = retire.of_account(account);
        }
        if call.is_set("rotated-only") {
            retire = retire.rotated_only();
        }
        let retired = retire.await?;
        let text = format!("keys retired: {retired}\n");
        Ok(Output::new(json!({ "retired": retired }), text))
    }

    /// Deletes keys that are dead for long. Their trail stays.
    async fn purge(&self, call: &Call) -> Result<Output, Failure> {
        let dead_for = call.days("dead-for")?;
        let dead_for = dead_for.ok_or_else(|| usage("purge needs --dead-for"))?;
        let purged = self.keys.purge(dead_for).by(call.actor()).await?;
        let text = format!("keys purged: {purged}\n");
        Ok(Output::new(json!({ "purged": purged }), text))
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

    pub(crate) fn status(&self, record: &KeyRecord) -> KeyStatus {
        self.keys.lifecycle(record).status()
    }
}

const TRAIL: [&str; 7] = [
    "SEQ", "AT", "ACTION", "ACTOR", "VERSION", "REASON", "CHANGES",
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
