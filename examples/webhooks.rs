//! Webhooks from both sides: an API that tells a customer of its keys, and the customer's receiver.
//!
//! `cargo run --features sqlite,webhook --example webhooks` shows a delivery that fails, is made
//! again and is handled once, and then a rotation of the secret. The example ends by itself after
//! about ten seconds, since the second attempt comes after five to six, and with an error if
//! something is not as it says.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use rand::TryRng;
use rand::rngs::SysRng;
use serde_json::Value;
use standardwebhooks::{HEADER_WEBHOOK_ID, Webhook};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, oneshot};
use tower_api_key::ApiKeys;
use tower_api_key::events::kinds::API_KEY_ROTATED;
use tower_api_key::events::{DeliveryState, Endpoints};
use tower_api_key::store::{Paging, SqliteStore};
use tower_api_key::webhook::{HttpsClient, WebhookMasters, Webhooks};

const DAY: Duration = Duration::from_secs(86_400);

/// The pause before the second attempt. Chance adds up to a second.
const PAUSE: Duration = Duration::from_secs(5);

/// The longest wait for a delivery.
const PATIENCE: Duration = Duration::from_secs(30);

type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let folder = TemporaryFolder::new()?;
    let store = SqliteStore::open(folder.0.join("keys.db")).await?;
    store.migrate().await?;
    let (receiver, mut arrivals) = Receiver::new();
    let address = receiver.serve().await?;

    let keys = ApiKeys::builder(store.clone())
        .webhooks(webhooks(address.port())?)
        .build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = keys.worker().until(async move {
        let _ = stopped.await;
    });
    let worker = tokio::spawn(worker); // delivers

    let endpoints = keys.endpoints("acme")?;
    let url = format!("http://{address}/keys");
    let kinds = [API_KEY_ROTATED];
    let registered = endpoints.register(&url).kinds(kinds).await?;
    let endpoint = registered.id();
    receiver.trust(registered.expose_secret()).await?;
    println!("acme registers {url}, and gives its receiver the secret.");

    println!("\nA key of acme is issued, which the endpoint does not take, and rotated.");
    let issued = keys.issue("acme").await?;
    let rotated = keys.rotate(issued.id()).await?;
    let first = arrivals.next().await?;
    ensure(first.kind == API_KEY_ROTATED, "the rotation is told")?;
    ensure(first.is_new, "nobody has handled it before")?;
    ensure(first.answer.is_server_error(), "the first answer is 500")?;
    println!("    The next attempt comes after 5 seconds, and up to one more by chance.");
    let again = arrivals.next().await?;
    ensure(again.id == first.id, "the second attempt has the same id")?;
    ensure(!again.is_new, "the event is handled once")?;
    ensure(again.answer.is_success(), "the second answer is 204")?;
    let pause = again.at.duration_since(first.at);
    ensure(pause >= PAUSE, "the second attempt waits for 5 seconds")?;

    println!("\nThe secret is rotated. For a day, the old one signs beside the new one.");
    let rotated_secret = endpoints.rotate_secret(endpoint, DAY).await?;
    receiver.trust(rotated_secret.expose_secret()).await?;
    println!("The key is rotated once more.");
    keys.rotate(rotated.id()).await?;
    let second = arrivals.next().await?;
    ensure(second.is_new && second.id != first.id, "it is another one")?;
    let verified = [first.verified, again.verified, second.verified];
    ensure(verified == [1, 1, 2], "each of the secrets verifies it")?;

    let _ = stop.send(());
    worker.await?; // the last answer is recorded
    list(&endpoints, endpoint).await?;
    store.close().await;
    Ok(())
}

/// Returns the settings of webhooks for this example.
fn webhooks(port: u16) -> Result<Webhooks, Error> {
    // In production, the master comes from a secret store: with another one after a restart, the
    // endpoints would have other secrets.
    let mut master = [0; 32];
    SysRng.try_fill_bytes(&mut master)?;
    let masters = WebhookMasters::new("2026-11", &master)?;
    // For this example only, whose receiver is on this machine. With these, customers could send
    // requests to your own network. `HttpsClient::new()` is right in production.
    let client = HttpsClient::new()
        .dangerous_allow_http()
        .dangerous_allow_private_addresses()
        .allow_ports([port]);
    Ok(Webhooks::new(masters).client(client))
}

/// Prints what was delivered to an endpoint, as its owner may see it.
async fn list(endpoints: &Endpoints, endpoint: &str) -> Result<(), Error> {
    println!("\nThe deliveries to the endpoint, the newest event first:");
    let page = endpoints
        .deliveries(endpoint, None, &Paging::first(10))
        .await?;
    let deliveries = page.items;
    for it in &deliveries {
        let (id, kind, state) = (&it.event.id, &it.event.event.kind, it.state.as_str());
        println!("    {kind} {id}");
        println!("        {state}, attempts: {}", it.attempts);
        if let Some(cause) = &it.cause {
            println!("        the last failure: {cause}");
        }
    }
    let mut states = deliveries.iter().map(|it| it.state);
    ensure(
        states.all(|it| it == DeliveryState::Delivered),
        "all are delivered",
    )?;
    let attempts: Vec<_> = deliveries.iter().map(|it| it.attempts).collect();
    ensure(attempts == [1, 2], "one of the two took a second attempt")
}

/// The receiver of the customer. It works with any sender that follows Standard Webhooks.
#[derive(Clone)]
struct Receiver {
    inbox: Arc<Mutex<Inbox>>,
    arrivals: mpsc::UnboundedSender<Arrival>,
}

#[derive(Default)]
struct Inbox {
    /// The secrets that it trusts: one, or two while the secret is rotated.
    secrets: Vec<Webhook>,
    /// The ids of the events that were handled. Keep them as long as the events, in the database
    /// that the work is done in.
    handled: HashSet<String>,
}

/// A delivery that has arrived, for the example to check.
struct Arrival {
    id: String,
    kind: String,
    at: Instant,
    /// The number of secrets that verify it.
    verified: usize,
    is_new: bool,
    answer: StatusCode,
}

impl Receiver {
    fn new() -> (Self, Arrivals) {
        let (arrivals, arrived) = mpsc::unbounded_channel();
        let inbox = Arc::default();
        (Self { inbox, arrivals }, Arrivals(arrived))
    }

    /// Serves on a free port.
    async fn serve(&self) -> io::Result<SocketAddr> {
        let app = Router::new()
            .route("/keys", post(receive))
            .with_state(self.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(address)
    }

    async fn trust(&self, secret: &str) -> Result<(), Error> {
        self.inbox.lock().await.secrets.push(Webhook::new(secret)?);
        Ok(())
    }
}

/// Takes a delivery: verifies it, and does the work unless it is done.
async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut inbox = receiver.inbox.lock().await;
    // The body is verified as it came. It is parsed after that.
    let signs = |secret: &&Webhook| secret.verify(&body, &headers).is_ok();
    let verified = inbox.secrets.iter().filter(signs).count();
    if verified == 0 {
        return StatusCode::UNAUTHORIZED;
    }
    let id = headers.get(HEADER_WEBHOOK_ID);
    let id = id.and_then(|it| it.to_str().ok()).unwrap_or_default();
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    let kind = event["type"].as_str().unwrap_or_default();

    let is_very_first = inbox.handled.is_empty();
    let is_new = inbox.handled.insert(id.to_owned());
    let answer = if is_very_first {
        StatusCode::INTERNAL_SERVER_ERROR // as if it stopped before it could answer
    } else {
        StatusCode::NO_CONTENT
    };
    let done = if is_new { "handled" } else { "known already" };
    println!("    {kind} arrives as {id}");
    println!("        secrets that verify it: {verified}; {done}; the answer is {answer}");
    let arrival = Arrival {
        id: id.to_owned(),
        kind: kind.to_owned(),
        at: Instant::now(),
        verified,
        is_new,
        answer,
    };
    let _ = receiver.arrivals.send(arrival);
    answer
}

struct Arrivals(mpsc::UnboundedReceiver<Arrival>);

impl Arrivals {
    async fn next(&mut self) -> Result<Arrival, Error> {
        let arrived = tokio::time::timeout(PATIENCE, self.0.recv()).await;
        let arrived = arrived.map_err(|_| format!("no delivery within {PATIENCE:?}"))?;
        Ok(arrived.ok_or("the receiver is gone")?)
    }
}

fn ensure(holds: bool, claim: &str) -> Result<(), Error> {
    if !holds {
        return Err(format!("not so: {claim}").into());
    }
    Ok(())
}

/// A folder that is removed in the end, also if the example fails.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> io::Result<Self> {
        let name = format!("tower-api-key-webhooks-{}", std::process::id());
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
