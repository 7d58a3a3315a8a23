//! Invariant 2 for events, usage and webhooks: no key, and no secret of a webhook, in any event, body,
//! table or log.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/canary.rs"]
mod canary;
#[allow(dead_code, unreachable_pub, reason = "each suite uses its part")]
#[path = "support/postgres.rs"]
mod server;
mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use canary::{Canary, Heard};
use server::Postgres;
use support::process::all_kinds;
use tower_api_key::anomaly::{
    Actions, AnomalyDetection, Baseline, CountryHeader, Detector, Finding, Observed, Severity,
    UsageSpike,
};
use tower_api_key::clock::{Clock, ManualClock};
use tower_api_key::events::{EventSink, KeptEvent, SinkError};
use tower_api_key::http::PeerAddr;
use tower_api_key::store::sqlx::postgres::PgPoolOptions;
use tower_api_key::store::{AuditKey, Outbox, PostgresStore, SqliteStore, Start};
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
        if request.url().as_str().contains("//gone.") {
            return Ok(WebhookResponse::new(http::StatusCode::GONE));
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

/// Lets everything happen that is told, on a store whose tables are dumped in the end, and looks for
/// keys in all that was heard.
#[expect(clippy::too_many_lines, reason = "one story, in which all is heard")]
async fn nothing_tells_a_key<S: ManagedKeyStore + Outbox + Clone>(
    store: S,
    heard: Heard,
    dump: impl AsyncFnOnce() -> String,
) {
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
    // An operator's webhook gets what belongs to no account, too.
    let operators = keys.dangerous_all_endpoints().unwrap();
    let operators = operators.register("https://ops.example/").await.unwrap();
    heard.debug(&operators);
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
    let seen = keys.find(&first.id()).await.unwrap().unwrap();
    keys.update(&seen)
        .add_metadata("owner", "ops")
        .await
        .unwrap();
    let third = keys.issue("acme").expires_in(DAY * 8).await.unwrap();
    let idle = keys.issue("acme").await.unwrap();
    let second = keys.rotate(first.id()).await.unwrap();
    let caller = keys.verify(second.expose_secret()).await.unwrap();
    caller.count("bytes", 7);
    let old = keys.issue("globex").await.unwrap();
    let new = keys.rotate(old.id()).grace(DAY * 2).await.unwrap();
    let stolen = used(&keys, "acme").await;
    let mut others = Vec::new();
    for severity in Severity::ALL {
        others.push(used(&keys, severity.as_str()).await);
    }
    keys.suspend(second.id()).reason("unpaid").await.unwrap();
    keys.resume(second.id()).await.unwrap();
    let until = clock.now() + DAY;
    keys.throttle(second.id(), Quota::per_minute(5), until)
        .reason("noisy")
        .await
        .unwrap();
    keys.unthrottle(second.id()).await.unwrap();
    let rotated = endpoints.rotate_secret(&id, DAY).await.unwrap();
    heard.debug(&rotated);
    let new_secret = rotated.expose_secret();
    endpoints.send_test(&id).await.unwrap();
    let gone = endpoints.register("https://gone.acme.example/").await;
    endpoints.send_test(gone.unwrap().id()).await.unwrap();
    keys.revoke_own(second.expose_secret()).await.unwrap();
    keys.revoke_all().of_account("low").await.unwrap();
    let is_told = |kind: &&str| heard.text().contains(&format!("{{\"type\":\"{kind}\""));
    for step in 0..400 {
        // In use until its grace is over.
        let _ = keys.verify(old.expose_secret()).await;
        // The calls of the store are over before the next hours go by.
        clock.advance(Duration::from_secs(if step < 40 { 1 } else { 6 * 3_600 }));
        let has_looked = async || store.announced_until().await.unwrap() >= Some(clock.now());
        let begun = Instant::now();
        while step >= 40 && !has_looked().await && begun.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        if step == 60 {
            let retired = keys.retire_idle(DAY).of_account("acme").await.unwrap();
            heard.debug(&retired);
        }
        if step > 90 && all_kinds().iter().all(is_told) {
            break;
        }
    }
    let untold: Vec<_> = all_kinds()
        .into_iter()
        .filter(|kind| !is_told(kind))
        .collect();
    assert_eq!(untold, [""; 0], "kinds that no webhook was told of");
    heard.debug(&keys.usage().last_days(30).by_key().await.unwrap());
    let told = store.events(&Start::Beginning, 1_000).await.unwrap();
    heard.debug(&told);
    worker.abort();
    let _ = worker.await;
    drop(keys);
    drop(store);
    let dump = dump().await;
    for expected in [
        "api_key.rotated",
        "https://hooks.acme.example/",
        "nightly export",
    ] {
        assert!(dump.contains(expected), "not dumped: {expected}");
    }
    heard.note(dump);
    let text = heard.text();
    // What should be there is there: bodies, tables, logs and events.
    for expected in [
        "geographic_anomaly",
        "a key is probably in the wrong hands",
        "the delivery of an event failed",
        "tls_failed",
        "bytes",
    ] {
        assert!(text.contains(expected), "not heard: {expected}");
    }
    let secrets = [hook.expose_secret(), new_secret, operators.expose_secret()];
    let canaries = [&first, &third, &idle, &old, &stolen]
        .into_iter()
        .chain(&others)
        .map(IssuedKey::expose_secret)
        .chain([second.expose_secret(), new.expose_secret()])
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

/// Notes all that is logged on this thread.
fn listen(heard: &Heard) -> tracing::subscriber::DefaultGuard {
    let writer = heard.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_default(subscriber)
}

#[tokio::test]
async fn invariant_2_no_key_in_any_event_body_table_or_log_with_sqlite() {
    let heard = Heard::default();
    let _guard = listen(&heard);
    let name = format!("tower-api-key-canary-{}.db", std::process::id());
    let path = std::env::temp_dir().join(name);
    let store = SqliteStore::open(&path).await.unwrap();
    store.migrate().await.unwrap();
    let store = store.audit_key(AuditKey::new(MASTER).unwrap());
    let dump = async || {
        store.close().await;
        let dump = read_file(&path);
        assert!(dump.contains("CREATE TABLE"));
        dump
    };
    nothing_tells_a_key(store.clone(), heard, dump).await;
}

#[tokio::test]
async fn invariant_2_no_key_in_any_event_body_table_or_log_with_postgres() {
    let heard = Heard::default();
    let _guard = listen(&heard);
    let server = Postgres::start_fast();
    let url = server.create_database();
    let pool = PgPoolOptions::new().max_connections(4);
    let store = PostgresStore::new(pool.connect(&url).await.unwrap());
    store.migrate().await.unwrap();
    let store = store.audit_key(AuditKey::new(MASTER).unwrap());
    nothing_tells_a_key(store, heard, async || read_tables(&server, &url)).await;
}

const DAY: Duration = Duration::from_secs(86_400);

/// Finds an anomaly in each use of the keys of an account that is named as a severity.
struct ByAccount;

impl Detector for ByAccount {
    fn name(&self) -> &'static str {
        "by_account"
    }

    fn detect(&self, observed: &Observed<'_>) -> Option<Finding> {
        let is_named = |severity: &Severity| severity.as_str() == observed.account();
        let severity = Severity::ALL.into_iter().find(is_named)?;
        Some(Finding::new(severity).fact("account", observed.account()))
    }
}

/// Detects anomalies, against a baseline by which each use of a key of `acme` is one.
fn watching() -> AnomalyDetection {
    let baseline = Baseline::new().active_hours([]).hourly_average(0);
    AnomalyDetection::new()
        .usage_spike(UsageSpike::new().floor(0))
        .detector(ByAccount)
        .baseline(move |record| {
            let is_watched = record.account() == "acme";
            is_watched.then(|| baseline.clone().countries([]))
        })
        .actions(Actions::recommended())
}

/// A key that a thief has used.
async fn used(keys: &ApiKeys, account: &str) -> IssuedKey {
    let used = keys.issue(account).await.unwrap();
    for _ in 0..3 {
        let request = http::Request::get("/?api_key=none")
            .header("authorization", format!("Bearer {}", used.expose_secret()))
            .header("x-country", "BR")
            .extension(PeerAddr(([203, 0, 113, 7], 1).into()))
            .body(())
            .unwrap();
        support::call(support::echoing(&keys.layer()), request).await;
    }
    used
}

/// Reads what is in the file of the database, and deletes it.
fn read_file(path: &Path) -> String {
    let mut dump = String::new();
    for end in ["", "-wal", "-shm"] {
        let file = format!("{}{end}", path.display());
        if let Ok(bytes) = std::fs::read(&file) {
            dump.push_str(&String::from_utf8_lossy(&bytes));
            std::fs::remove_file(&file).unwrap();
        }
    }
    dump
}

/// Reads every column of every table, with the letters that are in bytes.
fn read_tables(server: &Postgres, url: &str) -> String {
    let columns = server.sql(
        url,
        "SELECT table_name, string_agg(CASE data_type WHEN 'bytea' \
         THEN 'encode(' || column_name || ', ''escape'')' ELSE column_name END, ', ') \
         FROM information_schema.columns WHERE table_schema = 'tower_api_key' GROUP BY 1",
    );
    let mut dump = String::new();
    for line in columns.lines() {
        let (table, columns) = line.split_once('|').unwrap();
        let rows = server.sql(url, &format!("SELECT {columns} FROM tower_api_key.{table}"));
        dump.extend([table, "\n", &rows, "\n"]);
    }
    for table in [
        "keys",
        "trail",
        "events",
        "deliveries",
        "endpoints",
        "usage",
    ] {
        assert!(dump.contains(&format!("{table}\n")), "{columns}");
    }
    dump
}
