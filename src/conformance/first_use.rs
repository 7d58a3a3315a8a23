//! The suite for stores that tell the first use of a key.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::conformance::keeps::{Keeps, Part};
use crate::conformance::promise::Promise;
use crate::conformance::records::Digests;
use crate::key::environment::Environment;
use crate::key::record::KeyRecord;
use crate::store::kinds::API_KEY_FIRST_USED;
use crate::store::{
    Action, Actor, Change, KeyUsage, ManagedKeyStore, Start, UsageBatch, UsagePeriod,
};

const ANSWERS: Promise = Promise("a live store answers");
const ONCE: Promise = Promise("the first use of a key is told once");
const DATA: Promise = Promise("the event of a first use names the key, account and environment");

/// Tells the first use of a key by an event, in whatever batches it comes.
pub(super) async fn suite<S: ManagedKeyStore>(store: &S, keeps: &Keeps) {
    if !keeps.keeps_part(Part::Usage) || !keeps.keeps_part(Part::Events) {
        return;
    }
    let mut digests = Digests::new();
    let account = format!("acme {}", digests.id());
    let key = KeyRecord::imported(digests.next(), account.as_str());
    let id = key.id();
    let at = UNIX_EPOCH + Duration::from_secs(86_400);
    let change = Change::new(Actor::service("conformance"), at).create(Action::ISSUED, key);
    let change = change.expect("the suite's records can be kept");
    let now = store.events(&Start::Now, 1).await;
    let mut next = ANSWERS.answer(now, "events").next;
    ANSWERS.answer(store.commit(&change).await, "commit");
    let mut refused = KeyUsage::new(id, account.as_str(), UsagePeriod::Day(1));
    refused.environment = Some(Environment::TEST);
    refused.counts.refused = 1;
    let mut used = refused.clone().used_at(at);
    used.counts.allowed = 1;
    for usage in [refused, used.clone(), used] {
        let batch = UsageBatch::new(*digests.id().as_bytes(), 1, [usage]);
        let batch = batch.expect("the suite's usage can be kept");
        ANSWERS.answer(store.record_usage(&batch).await, "record_usage");
    }
    let mut told = Vec::new();
    loop {
        let read = store.events(&Start::After(next), 100).await;
        let read = ANSWERS.answer(read, "events");
        let events = read.items.into_iter().map(|kept| kept.event);
        told.extend(events.filter(|event| event.key == Some(id)));
        next = read.next;
        if read.is_end {
            break;
        }
    }
    let kinds: Vec<_> = told.iter().map(|it| (it.kind.as_str(), it.at)).collect();
    ONCE.holds(
        kinds == [(API_KEY_FIRST_USED, at)],
        format_args!("{kinds:?}"),
    );
    for event in &told {
        let data: Option<Value> = serde_json::from_str(&event.data).ok();
        let expected = [
            ("key_id", id.to_string()),
            ("account", account.clone()),
            ("environment", "test".to_owned()),
        ];
        let has = |(name, text): &(&str, String)| {
            data.as_ref().and_then(|data| data.get(name)) == Some(&json!(text))
        };
        DATA.holds(
            event.account.as_ref() == Some(&account) && expected.iter().all(has),
            format_args!("{event:?}"),
        );
    }
}
