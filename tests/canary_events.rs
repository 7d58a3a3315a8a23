//! Invariant 2 for events, usage and webhooks: no key, and no secret of a webhook, in any event, body,
//! table or log.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/canary.rs"]
mod canary;
mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use canary::{Canary, Heard};
use tower_api_key::anomaly::{Actions, AnomalyDetection, Baseline, CountryHeader, UsageSpike};
use tower_api_key::clock::ManualClock;
use tower_api_key::events::{EventSink, KeptEvent, SinkError};
use tower_api_key::http::PeerAddr;
use tower_api_key::store::{AuditKey, SqliteStore, Start};
use tower_api_key::webhook::{
    SendError, SendErrorKind, WebhookClient, WebhookMasters, WebhookRequest, WebhookResponse,
    Webhooks,
};
use tower_api_key::{ApiKeys, IssuedKey, Limits, ManagedKeyStore, Quota};
use tracing::Level;

const MASTER: &[u8; 32] = b"a-master-secret-that-must-not-go";

/// A client that notes what it would send, and fails every second time.
struct Noting(Heard, AtomicBool);

impl WebhookClient for Noting {
    async fn send(&self, request: WebhookRequest) -> Result<WebhookResponse, SendError> {
        self.0.debug(&request);
        self.0.note(request.body());
        self.0.debug(&request.headers());
        if self.1.fetch_xor(true, Ordering::Relaxed) {
            return Err(SendError::new(
                SendErrorKind::TlsFailed,
                "10.0.0.7 has no certificate",
            ));
        }
        Ok(WebhookResponse::new(http::StatusCode::OK))
    }
}

struct NotingSink(Heard);

impl EventSink for NotingSink {
    async fn take(&self, kept: &KeptEvent) -> Result<(), SinkError> {
        self.0.debug(kept);
        Err(SinkError::retry("the mail server is down"))
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, in which all is heard")]
async fn invariant_2_no_key_in_any_event_body_table_or_log() {
    let heard = Heard::default();
    let writer = heard.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let name = format!("tower-api-key-canary-{}.db", std::process::id());
    let path = std::env::temp_dir().join(name);
    let store = SqliteStore::open(&path).await.unwrap();
    store.migrate().await.unwrap();
    let store = store.audit_key(AuditKey::new(MASTER).unwrap());
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_860_000));
    let masters = WebhookMasters::new("2026", MASTER).unwrap();
    let webhooks = Webhooks::new(masters).client(Noting(heard.clone(), AtomicBool::default()));
    heard.debug(&webhooks);
    let limit = tower_api_key::limit::Limit::from(Quota::per_hour(2)).tell_at(50);
    let keys = ApiKeys::builder(store.clone())
        .clock(clock.clone())
        .webhooks(webhooks)
        .sink("mail", NotingSink(heard.clone()))
        .anomaly_detection(watching())
        .countries(CountryHeader::new("x-country").unwrap())
        .limits(Limits::new().per_account(limit))
        .build()
        .unwrap();
    let worker = tokio::spawn(keys.worker().into_future());
    tokio::task::yield_now().await; // it counts from now on
    let endpoints = keys.endpoints("acme").unwrap();
    let hook = endpoints
        .register("https://hooks.acme.example/")
        .await
        .unwrap();
    heard.debug(&hook);
    let id = hook.endpoint().id.clone();
    let first = keys
        .issue("acme")
        .name("nightly export")
        .expires_in(DAY * 8)
        .await
        .unwrap();
    keys.verify(first.expose_secret()).await.unwrap();
    let third = keys.issue("acme").expires_in(DAY * 8).await.unwrap();
    let second = keys.rotate(first.id()).await.unwrap();
    let caller = keys.verify(second.expose_secret()).await.unwrap();
    caller.count("bytes", 7);
    let stolen = stolen(&keys).await;
    keys.suspend(second.id()).reason("unpaid").await.unwrap();
    keys.resume(second.id()).await.unwrap();
    let rotated = endpoints.rotate_secret(&id, DAY).await.unwrap();
    heard.debug(&rotated);
    let new_secret = rotated.expose_secret();
    endpoints.send_test(&id).await.unwrap();
    keys.revoke_own(second.expose_secret()).await.unwrap();
    for step in 0..60 {
        // The calls of the store are over before the next hours go by.
        clock.advance(Duration::from_secs(if step < 20 { 1 } else { 6 * 3_600 }));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    heard.debug(&keys.usage().last_days(30).by_key().await.unwrap());
    let told = store.events(&Start::Beginning, 1_000).await.unwrap();
    heard.debug(&told);
    worker.abort();
    store.close().await;
    note_file(&path, &heard);
    let text = heard.text();
    // What should be there is there: bodies, tables, logs and events.
    for expected in [
        "\"type\":\"api_key.rotated\"",
        "api_key.expiring",
        "webhook.test",
        "anomaly.critical",
        "geographic_anomaly",
        "a key is probably in the wrong hands",
        "the delivery of an event failed",
        "tls_failed",
        "hooks.acme.example",
        "CREATE TABLE",
        "bytes",
    ] {
        assert!(text.contains(expected), "not heard: {expected}");
    }
    let secrets = [hook.expose_secret(), new_secret];
    let canaries = [
        first.expose_secret(),
        second.expose_secret(),
        third.expose_secret(),
        stolen.expose_secret(),
    ]
    .into_iter()
    .chain(secrets);
    for key in canaries {
        let canary = Canary::of(key);
        let line = text.lines().find(|line| canary.sings_in(line));
        assert_eq!(line, None, "a secret was heard");
    }
    assert!(
        !text.contains(&String::from_utf8_lossy(MASTER)[..16]),
        "a master was heard"
    );
    // Operators read of it, in the log of the attempt.
    let (logged, told): (Vec<_>, Vec<_>) = text
        .lines()
        .partition(|line| line.contains("the delivery of an event failed"));
    assert!(logged.iter().any(|line| line.contains("10.0.0.7")));
    assert!(
        !told.iter().any(|line| line.contains("10.0.0.7")),
        "an address of the network is told"
    );
    assert!(Canary::of(first.expose_secret()).sings_in(first.expose_secret()));
}

const DAY: Duration = Duration::from_secs(86_400);

/// Detects anomalies, against a baseline by which each use of a key is one.
fn watching() -> AnomalyDetection {
    let baseline = Baseline::new().active_hours([]).hourly_average(0);
    AnomalyDetection::new()
        .usage_spike(UsageSpike::new().floor(0))
        .baseline(move |_| Some(baseline.clone().countries([])))
        .actions(Actions::recommended())
}

/// A key that a thief has used.
async fn stolen(keys: &ApiKeys) -> IssuedKey {
    let stolen = keys.issue("acme").await.unwrap();
    for _ in 0..3 {
        let request = http::Request::get("/?api_key=none")
            .header(
                "authorization",
                format!("Bearer {}", stolen.expose_secret()),
            )
            .header("x-country", "BR")
            .extension(PeerAddr(([203, 0, 113, 7], 1).into()))
            .body(())
            .unwrap();
        support::call(support::echoing(&keys.layer()), request).await;
    }
    stolen
}

/// Notes what is in the file of the database, and deletes it.
fn note_file(path: &Path, heard: &Heard) {
    for end in ["", "-wal", "-shm"] {
        let file = format!("{}{end}", path.display());
        if let Ok(bytes) = std::fs::read(&file) {
            heard.note(String::from_utf8_lossy(&bytes).as_bytes());
            std::fs::remove_file(&file).unwrap();
        }
    }
}
