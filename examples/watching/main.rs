//! A stolen key is noticed, told and stopped.
//!
//! `cargo run --features webhook --example watching` lets twenty days go by, on a clock that is moved
//! by hand, in which a key is used as usual. Then a thief uses it, from another country, in an hour
//! in which it is never used, and at many times its rate. The example prints what happens from the first alert to the suspension,
//! with the webhooks that the owner of the key gets, and then the same where revocation was chosen.
//! It ends by itself, after some seconds, and fails if something is not as it says.

mod geo_database;
mod receiver;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use rand::TryRng;
use rand::rngs::SysRng;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower::ServiceExt;
use tower_api_key::anomaly::{Action, Actions, AnomalyDetection, Severity};
use tower_api_key::clock::ManualClock;
use tower_api_key::http::PeerAddr;
use tower_api_key::webhook::{HttpsClient, WebhookMasters, Webhooks};
use tower_api_key::{ApiKeys, IssuedKey, KeyRecord, MemoryStore};

use crate::geo_database::GeoDatabase;
use crate::receiver::Arrivals;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The owner of the key is in Germany, and the thief in Brazil, as the database says.
const OWNER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const THIEF: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

pub(crate) type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    println!(
        "With the recommended actions: a throttle on high anomalies, a suspension on critical ones."
    );
    let mut story = Story::begin(Actions::recommended()).await?;
    story.use_as_usual().await?;
    story.first_requests_of_the_thief().await?;
    story.many_requests_of_the_thief().await?;
    let record = story.record().await?;
    let suspended = record.suspended().ok_or("the key is suspended")?;
    println!(
        "    reason: {}",
        suspended.reason.as_deref().unwrap_or_default()
    );
    story
        .arrivals
        .of_kind("api_key.suspended", &story.clock)
        .await?;
    ensure(
        story.ask(OWNER).await? == 403,
        "the key does not work for its owner, either",
    )?;
    println!("An operator frees the key, and its owner rotates it, with an hour of grace.");
    story.keys.resume(story.key.id()).await?;
    story.keys.unthrottle(story.key.id()).await?;
    story.keys.rotate(story.key.id()).grace(HOUR).await?;
    ensure(
        story.ask(OWNER).await? == 200,
        "it works until the new one is in use",
    )?;
    story.end().await?;

    println!("\nThe same, where the application chose revocation on critical anomalies.");
    let actions = Actions::recommended().on(Severity::Critical, Action::Revoke);
    let mut story = Story::begin(actions).await?;
    story.use_as_usual().await?;
    story.first_requests_of_the_thief().await?;
    story.many_requests_of_the_thief().await?;
    let record = story.record().await?;
    let revoked = record.revoked().ok_or("the key is revoked")?;
    println!(
        "    reason: {}",
        revoked.reason.as_deref().unwrap_or_default()
    );
    ensure(
        revoked.reason.as_deref() == Some("automatic_security"),
        "the reason is automatic_security",
    )?;
    story
        .arrivals
        .of_kind("api_key.revoked", &story.clock)
        .await?;
    ensure(story.ask(THIEF).await? == 401, "the key is dead")?;
    story.end().await
}

/// An application with one key, its owner's receiver, and a clock.
struct Story {
    keys: ApiKeys,
    key: IssuedKey,
    app: Router,
    clock: ManualClock,
    arrivals: Arrivals,
    stop: oneshot::Sender<()>,
    worker: JoinHandle<()>,
}

impl Story {
    async fn begin(actions: Actions) -> Result<Self, Error> {
        let arrivals = Arrivals::serve().await?;
        // The theft is now: receivers refuse webhooks that were signed long ago.
        let begin = SystemTime::now() - 20 * DAY;
        let clock = ManualClock::at(begin);
        let keys = ApiKeys::builder(MemoryStore::new())
            .clock(clock.clone())
            .anomaly_detection(AnomalyDetection::new().actions(actions))
            .countries(GeoDatabase::of_this_example()?)
            .webhooks(webhooks(arrivals.address.port())?)
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let worker = keys.worker().until(async move {
            let _ = stopped.await;
        });
        let worker = tokio::spawn(worker); // looks, tells and delivers
        let endpoints = keys.endpoints("acme")?;
        let url = format!("http://{}/alarm", arrivals.address);
        let registered = endpoints.register(&url).await?;
        arrivals.trust(registered.expose_secret());
        let key = keys.issue("acme").name("nightly export").await?;
        let app = Router::new()
            .route("/v1/facts", get(|| async { "a fact" }))
            .layer(keys.layer());
        Ok(Self {
            keys,
            key,
            app,
            clock,
            arrivals,
            stop,
            worker,
        })
    }

    /// Sends a request with the key, and returns the status of the answer.
    async fn ask(&self, client: Ipv4Addr) -> Result<u16, Error> {
        let request = Request::get("/v1/facts")
            .header("x-api-key", self.key.expose_secret())
            .extension(PeerAddr(SocketAddr::from((client, 50_000))))
            .body(Body::empty())?;
        Ok(self.app.clone().oneshot(request).await?.status().as_u16())
    }

    /// Moves the clock, and lets the worker do what is due.
    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    async fn record(&self) -> Result<KeyRecord, Error> {
        let record = self.keys.find(&self.key.id()).await?;
        Ok(record.ok_or("the key is there")?)
    }

    async fn use_as_usual(&self) -> Result<(), Error> {
        for _ in 0..20 {
            for hour in 0..24 {
                if (6..16).contains(&hour) {
                    for _ in 0..12 {
                        ensure(self.ask(OWNER).await? == 200, "the owner is served")?;
                    }
                }
                self.pass(HOUR).await;
            }
        }
        println!("Twenty days go by: 12 requests an hour from Germany, ten hours a day.");
        Ok(())
    }

    async fn first_requests_of_the_thief(&mut self) -> Result<(), Error> {
        println!("In an hour in which it is never used, five requests come from Brazil.");
        for _ in 0..5 {
            ensure(
                self.ask(THIEF).await? == 200,
                "the thief is served at first",
            )?;
        }
        self.pass(MINUTE / 2).await;
        let alert = self.arrivals.of_kind("anomaly.high", &self.clock).await?;
        print_alert(&alert);
        ensure(
            alert["data"]["action"] == "throttle",
            "the key is throttled",
        )?;
        let record = self.record().await?;
        let throttled = record.throttled().ok_or("the key is throttled")?;
        println!("    the key is throttled to {}", throttled.quota);
        Ok(())
    }

    async fn many_requests_of_the_thief(&mut self) -> Result<(), Error> {
        let mut denied = 0;
        for _ in 0..300 {
            denied += u32::from(self.ask(THIEF).await? == 429);
        }
        println!("The thief sends 300 requests more. {denied} of them are denied by the throttle.");
        ensure(denied > 200, "the throttle holds")?;
        self.pass(MINUTE / 2).await;
        let alert = self
            .arrivals
            .of_kind("anomaly.critical", &self.clock)
            .await?;
        print_alert(&alert);
        Ok(())
    }

    async fn end(self) -> Result<(), Error> {
        let _ = self.stop.send(());
        Ok(self.worker.await?)
    }
}

/// Prints what an alert tells, as its receiver reads it.
fn print_alert(alert: &Value) {
    let data = &alert["data"];
    for finding in data["findings"].as_array().into_iter().flatten() {
        let facts = finding.as_object().into_iter().flatten();
        let facts = facts
            .filter(|(name, _)| !["detector", "severity", "usual_hours"].contains(&name.as_str()));
        let facts: Vec<_> = facts.map(|(name, fact)| format!("{name} {fact}")).collect();
        let name = finding["detector"].as_str().unwrap_or_default();
        println!("        {name}: {}", facts.join(", "));
    }
    if let Some(after) = data["after"].as_array() {
        let after: Vec<_> = after.iter().filter_map(Value::as_str).collect();
        println!("        after {}", after.join(" and "));
    }
    println!(
        "        action: {}",
        data["action"].as_str().unwrap_or_default()
    );
}

/// Returns the settings of webhooks for this example, whose receiver is on this machine. In
/// production, the master comes from a secret store, and `HttpsClient::new()` is right.
fn webhooks(port: u16) -> Result<Webhooks, Error> {
    let mut master = [0; 32];
    SysRng.try_fill_bytes(&mut master)?;
    let masters = WebhookMasters::new("2026-11", &master)?;
    let client = HttpsClient::new()
        .dangerous_allow_http()
        .dangerous_allow_private_addresses()
        .allow_ports([port]);
    Ok(Webhooks::new(masters).client(client))
}

fn ensure(holds: bool, claim: &str) -> Result<(), Error> {
    if !holds {
        return Err(format!("not so: {claim}").into());
    }
    Ok(())
}
