//! The life of one key, as a story: issued, used, rotated, updated and revoked.
//!
//! `cargo run --features sqlite --example lifecycle` tells it in a second. A real service is asked
//! over HTTP, its keys are in SQLite, in a temporary file, and a clock that is moved by hand lets
//! months pass. What the story says is asserted, so that it fails if it is not true.

#[path = "support/audit_key.rs"]
mod audit_key;
#[path = "support/rfc3339.rs"]
mod rfc3339;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use axum::http::header::HOST;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tower_api_key::clock::ManualClock;
use tower_api_key::store::{Action, Actor, Paging, SqliteStore, TrailQuery, TrailRecord};
use tower_api_key::{ApiKeys, Caller, KeyId, Limits, Quota, RequireScope, Scope};

const READ: Scope = Scope::from_static("reports:read");
const WRITE: Scope = Scope::from_static("reports:write");

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let folder = TemporaryFolder::new()?;
    let file = folder.0.join("keys.db");
    let store = SqliteStore::open(&file).await?;
    store.migrate().await?;
    let audit_key = audit_key::audit_key(&store, &file).await?;
    let store = store.audit_key(audit_key); // what is edited behind the library's back is found

    let begin = rfc3339::parse("2026-03-02T09:00:00Z").ok_or("no time")?;
    let clock = ManualClock::at(begin);
    let keys = ApiKeys::builder(store.clone())
        .clock(clock.clone())
        .limits(Limits::new().per_key(Quota::per_minute(4)))
        .build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = keys.worker().until(async move {
        let _ = stopped.await;
    });
    let worker = tokio::spawn(worker); // records when keys are used

    println!("The life of an API key. It opens the reports of a service, 4 times a minute.");
    let client = Client::of(serve(&keys).await?).await?;
    let mut life = Story {
        keys,
        clock,
        client,
    };
    let first = life.a_key_is_issued_and_used().await?;
    let second = life.it_is_rotated(&first).await?;
    life.both_keys_have_one_budget(&first, &second).await?;
    life.the_grace_is_over(&first, &second).await?;
    life.the_new_key_may_do_more(&second).await?;
    life.it_is_revoked(&second).await?;
    let _ = stop.send(());
    worker.await?; // what is left is recorded
    life.the_uses_are_known(&first, &second).await?;
    life.the_trail_is_read(&store, &first, &second).await?;

    store.close().await;
    let path = folder.0.clone();
    drop(folder);
    assert!(!path.exists());
    println!("\nThe temporary file is gone.");
    Ok(())
}

/// Serves the reports on a free port.
async fn serve(keys: &ApiKeys) -> Result<SocketAddr, Error> {
    let read = get(reports).layer(RequireScope::new(READ));
    let write = post(write_report).layer(RequireScope::new(WRITE));
    let app = Router::new()
        .route("/v1/reports", read.merge(write))
        .layer(keys.layer());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

async fn reports() -> Json<Value> {
    Json(json!({ "reports": ["2026-01", "2026-02"] }))
}

// With the feature `axum`, write `caller: Caller` instead of `Extension(caller)`.
async fn write_report(Extension(caller): Extension<Caller>) -> (StatusCode, Json<Value>) {
    let written = json!({ "written_for": caller.account() });
    (StatusCode::CREATED, Json(written))
}

/// A key, as its owner knows it.
struct OwnedKey {
    id: KeyId,
    plaintext: String,
    /// What the story calls it.
    name: &'static str,
}

struct Story {
    keys: ApiKeys,
    clock: ManualClock,
    client: Client,
}

impl Story {
    async fn a_key_is_issued_and_used(&mut self) -> Result<OwnedKey, Error> {
        self.begin("An operator issues a key to acme. It may read reports, for a year.");
        let issue = self.keys.issue("acme").scopes([READ]);
        let issue = issue.expires_in(365 * DAY).by(operator());
        let issued = issue.await?;
        let key = OwnedKey {
            id: issued.id(),
            plaintext: issued.expose_secret().to_owned(),
            name: "first key",
        };
        say(&format!(
            "acme is shown the key once, {}... The file has a hash of it.",
            &key.plaintext[..12]
        ));
        let answer = self.get(&key, OF_KEY).await?;
        answer.is(StatusCode::OK, "active");
        assert_eq!(answer.header("X-Key-Expires-At"), "2027-03-02T09:00:00Z");
        assert_eq!(answer.header("X-RateLimit-Remaining"), "3");
        Ok(key)
    }

    async fn it_is_rotated(&mut self, first: &OwnedKey) -> Result<OwnedKey, Error> {
        self.clock.advance(91 * DAY);
        self.begin("Dana of acme rotates the key. The first one works on for 30 days.");
        let rotate = self.keys.rotate(first.id).owned_by("acme").grace(30 * DAY);
        let rotated = rotate.by(Actor::user("dana@acme.example")).await?;
        let second = OwnedKey {
            id: rotated.id(),
            plaintext: rotated.expose_secret().to_owned(),
            name: "second key",
        };
        let now = self.keys.now();
        say("Answers to the first key now say since when it is deprecated, in seconds since 1970,");
        say("and when it ends:");
        let answer = self.get(first, OF_KEY).await?;
        answer.is(StatusCode::OK, "deprecated");
        assert_eq!(answer.header("Deprecation"), format!("@{}", seconds(now)?));
        assert_eq!(answer.header("Sunset"), "Wed, 01 Jul 2026 09:00:00 GMT");
        assert_eq!(answer.header("X-Key-Expires-At"), "2026-07-01T09:00:00Z");
        say("The second key may do the same, and has a year of its own:");
        let answer = self.get(&second, OF_KEY).await?;
        answer.is(StatusCode::OK, "active");
        assert!(!answer.headers.contains_key("Deprecation"));
        assert!(!answer.headers.contains_key("Sunset"));
        assert_eq!(answer.header("X-Key-Expires-At"), "2027-06-01T09:00:00Z");
        Ok(second)
    }

    async fn both_keys_have_one_budget(
        &mut self,
        first: &OwnedKey,
        second: &OwnedKey,
    ) -> Result<(), Error> {
        self.clock.advance(DAY);
        self.begin("acme has both keys in use. Its 4 requests a minute did not become 8.");
        for (key, left) in [(first, "3"), (second, "2"), (first, "1"), (second, "0")] {
            let answer = self.get(key, OF_BUDGET).await?;
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.header("X-RateLimit-Remaining"), left);
        }
        for key in [first, second] {
            let answer = self.get(key, OF_BUDGET).await?;
            answer.is_refused(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded");
        }
        Ok(())
    }

    async fn the_grace_is_over(
        &mut self,
        first: &OwnedKey,
        second: &OwnedKey,
    ) -> Result<(), Error> {
        self.clock.advance((29 * DAY).saturating_sub(SECOND));
        self.begin("The first key has a second left.");
        let answer = self.get(first, OF_KEY).await?;
        answer.is(StatusCode::OK, "deprecated");
        self.clock.advance(SECOND);
        self.begin("The grace is over.");
        let answer = self.get(first, OF_KEY).await?;
        answer.is_refused(StatusCode::UNAUTHORIZED, "api_key_expired");
        self.get(second, OF_KEY).await?.is(StatusCode::OK, "active");
        Ok(())
    }

    async fn the_new_key_may_do_more(&mut self, key: &OwnedKey) -> Result<(), Error> {
        self.clock.advance(DAY);
        self.begin("acme wants to write reports. Its key may not.");
        let answer = self.ask(Method::POST, key, OF_KEY).await?;
        answer.is_refused(StatusCode::FORBIDDEN, "insufficient_scope");
        say("An operator updates the key. acme changes nothing:");
        let seen = self.keys.find(&key.id).await?.ok_or("it was issued")?;
        let update = self.keys.update(&seen).scopes([READ, WRITE]);
        update.by(operator()).await?;
        let answer = self.ask(Method::POST, key, OF_KEY).await?;
        answer.is(StatusCode::CREATED, "active");
        Ok(())
    }

    async fn it_is_revoked(&mut self, key: &OwnedKey) -> Result<(), Error> {
        self.clock.advance(12 * DAY);
        self.begin("The key is found in a public repository. An operator revokes it.");
        self.get(key, OF_KEY).await?.is(StatusCode::OK, "active");
        let revoke = self.keys.revoke(key.id).by(operator());
        revoke.reason("found in a public repository").await?;
        say("From here on:");
        let answer = self.get(key, OF_KEY).await?;
        answer.is_refused(StatusCode::UNAUTHORIZED, "api_key_revoked");
        Ok(())
    }

    async fn the_uses_are_known(&self, first: &OwnedKey, second: &OwnedKey) -> Result<(), Error> {
        println!("\nWhen the keys were used, refusals apart:");
        let mut told = Vec::new();
        for key in [first, second] {
            let listed = self.keys.find_listed(&key.id).await?.ok_or("it is kept")?;
            let times = [listed.first_used_at, listed.last_used_at];
            let [from, to] = times.map(|at| at.map_or_else(|| "never".to_owned(), minute));
            say(&format!("the {}: from {from} to {to}", key.name));
            told.push([from, to]);
        }
        let first = ["2026-03-02 09:00", "2026-07-01 08:59"];
        assert_eq!(told, [first, ["2026-06-01 09:00", "2026-07-14 09:00"]]);
        Ok(())
    }

    async fn the_trail_is_read(
        &self,
        store: &SqliteStore,
        first: &OwnedKey,
        second: &OwnedKey,
    ) -> Result<(), Error> {
        println!("\nWhat the auditor reads:");
        let page = self
            .keys
            .trail(&TrailQuery::new(), &Paging::first(50))
            .await?;
        for record in &page.items {
            let key = if record.key == first.id {
                first
            } else {
                second
            };
            read_aloud(record, key);
        }
        let told = page.items.iter();
        let told: Vec<_> = told.map(|record| (record.key, &record.action)).collect();
        let changes = [
            (first.id, &Action::ISSUED),
            (second.id, &Action::ISSUED),
            (first.id, &Action::ROTATED),
            (second.id, &Action::UPDATED),
            (second.id, &Action::REVOKED),
        ];
        assert_eq!(told, changes);
        let report = store.verify_trail().await?;
        assert!(report.is_ok(), "{report:?}");
        assert_eq!((report.keys, report.records), (2, 5));
        let (keys, records) = (report.keys, report.records);
        say(&format!(
            "{keys} keys and {records} records are verified: nobody has edited any of them."
        ));
        Ok(())
    }

    fn begin(&self, text: &str) {
        println!("\n{}  {text}", minute(self.keys.now()));
    }

    async fn get(&mut self, key: &OwnedKey, shown: &[&str]) -> Result<Answer, Error> {
        self.ask(Method::GET, key, shown).await
    }

    /// Sends a request with a key, and prints what the client sees: the status, the error if there
    /// is one, and some headers.
    async fn ask(
        &mut self,
        method: Method,
        key: &OwnedKey,
        shown: &[&str],
    ) -> Result<Answer, Error> {
        let request = format!("{method} /v1/reports with the {}", key.name);
        let answer = self.client.ask(method, key).await?;
        println!("    {request}: {}", answer.status);
        let error = &answer.body["error"];
        if let (Some(code), Some(message)) = (error["code"].as_str(), error["message"].as_str()) {
            println!("        {code}: {message}");
        }
        for name in shown {
            if answer.headers.contains_key(*name) {
                println!("        {name}: {}", answer.header(name));
            }
        }
        Ok(answer)
    }
}

/// What an answer says of the key.
const OF_KEY: &[&str] = &["X-Key-Status", "X-Key-Expires-At", "Deprecation", "Sunset"];

/// What an answer says of the budget.
const OF_BUDGET: &[&str] = &["X-RateLimit-Remaining", "Retry-After"];

fn operator() -> Actor {
    Actor::user("ops@example.com")
}

fn say(text: &str) {
    println!("    {text}");
}

/// Prints one record of the trail as a sentence.
fn read_aloud(record: &TrailRecord, key: &OwnedKey) {
    let who = &record.origin.actor.id;
    let did = record.action.as_str().trim_start_matches("api_key.");
    let (when, name) = (minute(record.at), key.name);
    say(&format!("{when}  {who} {did} the {name}"));
    let told = |field: &str| ["expires_at", "scopes"].contains(&field);
    let changes = record.changes.iter().filter(|it| told(&it.field));
    let changes = changes.filter(|_| record.action != Action::ISSUED);
    let changes = changes.map(ToString::to_string);
    let reason = record.origin.reason.as_ref();
    for line in changes.chain(reason.map(|it| format!("reason: {it}"))) {
        say(&format!("                  {line}"));
    }
}

/// Formats a time as people write it.
fn minute(at: SystemTime) -> String {
    rfc3339::format(at)[..16].replace('T', " ")
}

fn seconds(at: SystemTime) -> Result<u64, Error> {
    Ok(at.duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}

/// A client with one connection to the service.
struct Client {
    address: SocketAddr,
    sender: SendRequest<Empty<Bytes>>,
}

impl Client {
    async fn of(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { address, sender })
    }

    async fn ask(&mut self, method: Method, key: &OwnedKey) -> Result<Answer, Error> {
        let request = Request::builder()
            .method(method)
            .uri("/v1/reports")
            .header(HOST, self.address.to_string())
            .header("X-API-Key", &key.plaintext)
            .body(Empty::new())?;
        self.sender.ready().await?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_slice(&body)?,
        })
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|it| it.to_str().ok()).unwrap_or_default()
    }

    fn is(&self, status: StatusCode, key_status: &str) {
        assert_eq!(self.status, status);
        assert_eq!(self.header("X-Key-Status"), key_status);
    }

    fn is_refused(&self, status: StatusCode, code: &str) {
        assert_eq!(self.status, status);
        assert_eq!(self.body["error"]["code"], code);
    }
}

/// A folder that is removed in the end, also if the story fails.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> io::Result<Self> {
        let name = format!("tower-api-key-lifecycle-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
