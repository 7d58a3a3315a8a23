//! The bodies of webhooks: each kind of event is told, and small, whatever is in the records.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::process::{MINUTE, Process, SECOND, all_kinds};
use support::{DAY, today};
use tower_api_key::anomaly::{AnomalyDetection, Detector, Finding, Observed, Severity};
use tower_api_key::clock::{Clock, ManualClock};
use tower_api_key::limit::Limit;
use tower_api_key::webhook::{
    SendError, WebhookClient, WebhookMasters, WebhookRequest, WebhookResponse, Webhooks,
};
use tower_api_key::{IssuedKey, KeyId, Limits, MemoryStore, Quota};

/// What receivers of Standard Webhooks are told to expect at most.
const MOST: usize = 20 << 10;

/// The longest body of each kind.
#[derive(Clone, Default)]
struct Longest(Arc<Mutex<BTreeMap<String, usize>>>);

impl WebhookClient for Longest {
    async fn send(&self, request: WebhookRequest) -> Result<WebhookResponse, SendError> {
        let body: serde_json::Value = serde_json::from_slice(request.body().as_ref()).unwrap();
        let kind = body["type"].as_str().unwrap().to_owned();
        let mut longest = self.0.lock().unwrap();
        let longest = longest.entry(kind).or_default();
        *longest = request.body().len().max(*longest);
        if request.url().as_str().contains("//gone.") {
            return Ok(WebhookResponse::new(http::StatusCode::GONE));
        }
        Ok(WebhookResponse::new(http::StatusCode::OK))
    }
}

/// The severities of keys.
type Severities = Arc<Mutex<HashMap<KeyId, Severity>>>;

/// Finds what it is told to find, with as many facts as there may be.
struct Talkative(String, Severities);

impl Detector for Talkative {
    fn name(&self) -> &str {
        &self.0
    }

    fn detect(&self, observed: &Observed<'_>) -> Option<Finding> {
        let severity = *self.1.lock().unwrap().get(&observed.key())?;
        let facts = (0..16).map(|number| format!("{number:03}{}", longest_text(253)));
        let finding = Finding::new(severity);
        Some(facts.fold(finding, |finding, name| {
            finding.fact(name, longest_text(256))
        }))
    }
}

/// A text of so many bytes that is longest as JSON.
fn longest_text(bytes: usize) -> String {
    "\u{1}".repeat(bytes)
}

async fn issue(process: &Process, life: Option<Duration>) -> IssuedKey {
    let mut issue = process.keys.issue(longest_text(255));
    for number in 0..60 {
        issue = issue.add_metadata(format!("{number:03}{}", "a".repeat(250)), "b".repeat(700));
    }
    let issue = issue.name(longest_text(10_000)).expires_in(life);
    issue.await.unwrap()
}

#[tokio::test]
async fn the_body_of_each_kind_is_small_with_the_longest_fields() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let longest = Longest::default();
    let severities: [Severities; 9] = Default::default();
    let limit = Limit::named("l".repeat(64), Quota::per_hour(4)).tell_at(25);
    let mut process = Process::with(store.clone(), &clock, |builder| {
        let masters = WebhookMasters::new("2026", &[7; 32]).unwrap();
        let mut detection = AnomalyDetection::new();
        for (number, severities) in severities.iter().enumerate() {
            let name = format!("{number}{}", "d".repeat(63));
            detection = detection.detector(Talkative(name, severities.clone()));
        }
        builder
            .webhooks(Webhooks::new(masters).client(longest.clone()))
            .anomaly_detection(detection)
            .limits(Limits::new().per_key(limit.clone()))
    });
    let operators = process.keys.dangerous_all_endpoints().unwrap();
    let hook = operators.register("https://ops.example/").await.unwrap();
    operators.send_test(hook.id()).await.unwrap();
    let of_one = process.keys.endpoints(longest_text(255)).unwrap();
    let gone = of_one.register("https://gone.example/").await.unwrap();
    of_one.send_test(gone.id()).await.unwrap();
    let old = issue(&process, Some(40 * DAY)).await;
    let seen = process.keys.find(&old.id()).await.unwrap().unwrap();
    let mut update = process.keys.update(&seen).name(longest_text(9_999));
    for number in 60..120 {
        update = update.add_metadata(format!("{number:03}{}", longest_text(100)), "c");
    }
    update.await.unwrap();
    let until = clock.now() + DAY;
    let id = old.id();
    process.keys.suspend(id).until(until).await.unwrap();
    process.keys.resume(id).await.unwrap();
    let quota = Quota::per_minute(5);
    process.keys.throttle(id, quota, until).await.unwrap();
    process.keys.unthrottle(id).await.unwrap();
    let watched = [
        (Severity::Low, 1),
        (Severity::Medium, 1),
        (Severity::High, 1),
        (Severity::Critical, 9),
    ];
    for (severity, detectors) in watched {
        let key = issue(&process, None).await;
        for severities in &severities[..detectors] {
            severities.lock().unwrap().insert(key.id(), severity);
        }
        assert_eq!(process.call(key.expose_secret()).await, 200);
    }
    let idle = issue(&process, None).await;
    let last = issue(&process, Some(35 * DAY)).await;
    process.pass(MINUTE);
    process.keys.rotate(id).grace(2 * DAY).await.unwrap();
    for _ in 0..80 {
        process.call(old.expose_secret()).await;
        process.pass(MINUTE);
        process.pass(MINUTE);
        process.pass(DAY / 2);
    }
    process.keys.retire_idle(DAY).rotated_only().await.unwrap();
    process.keys.retire_idle(DAY).await.unwrap();
    process.keys.revoke(idle.id()).await.unwrap();
    let all = process.keys.revoke_all().of_account(longest_text(255));
    all.await.unwrap();
    for _ in 0..2_000 {
        process.pass(SECOND);
    }
    assert!(process.keys.verify(last.expose_secret()).await.is_err());
    let longest = longest.0.lock().unwrap().clone();
    let untold: Vec<_> = all_kinds()
        .into_iter()
        .filter(|kind| !longest.contains_key(*kind))
        .collect();
    assert_eq!(untold, [""; 0]);
    println!("{longest:?}");
    let too_long: Vec<_> = longest.iter().filter(|(_, bytes)| **bytes > MOST).collect();
    assert!(too_long.is_empty(), "{too_long:?}");
}
