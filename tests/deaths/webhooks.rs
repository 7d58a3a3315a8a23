//! Deliveries of processes that are killed: each event arrives, with the same id and body each
//! time, and none arrives again after its receipt was recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use tower_api_key::events::DeliveryState;
use tower_api_key::store::Paging;
use tower_api_key::webhook::{HttpsClient, WebhookMasters, Webhooks};
use tower_api_key::{ApiKeys, ManagedKeyStore};

use crate::clock::OtherClock;
use crate::database::{Database, File, Server, with_store};
use crate::processes::{Process, tell};
use crate::{deaths, random, some_micros};

/// The environment variables that make [`deliverer`] deliver: the database, and the seconds by
/// which its clock is ahead.
const DATABASE: &str = "DEATHS_WEBHOOKS_DATABASE";
const LEAD: &str = "DEATHS_WEBHOOKS_LEAD";

/// The time after which what a dead process has claimed belongs to nobody.
const LEASE: Duration = Duration::from_secs(181);

/// The events between two deaths.
const EVENTS: usize = 6;

/// The most microseconds between the arrival of a request and the death of who sent it.
const MOST_MICROS: usize = 20_000;

/// The time in which all arrives.
const PATIENCE: Duration = Duration::from_secs(60);

/// Invariant 11: nothing is announced twice by a retry, a late call or a restart, as far as its
/// receipt is known; and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_what_a_killed_process_was_delivering_arrives_in_sqlite() {
    kill_deliverers(File::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_11_what_a_killed_process_was_delivering_arrives_in_postgres() {
    kill_deliverers(Server::new()).await;
}

/// The process that is killed. It delivers until then; as a test among the others it does nothing.
#[tokio::test]
async fn deliverer() {
    if let Ok(database) = env::var(DATABASE) {
        with_store!(database, deliver);
    }
}

async fn deliver<S: ManagedKeyStore>(store: S) {
    let lead = env::var(LEAD).unwrap().parse().unwrap();
    let keys = keys(store, Duration::from_secs(lead));
    tell("delivers");
    keys.worker().await;
}

/// Returns keys that send to this machine, with a clock that is ahead.
fn keys<S: ManagedKeyStore>(store: S, lead: Duration) -> ApiKeys {
    let client = HttpsClient::new()
        .allow_ports(1..=u16::MAX)
        .dangerous_allow_http()
        .dangerous_allow_private_addresses();
    let masters = WebhookMasters::new("2026", &[7; 32]).unwrap();
    ApiKeys::builder(store)
        .clock(OtherClock::ahead(lead))
        .webhooks(Webhooks::new(masters).client(client))
        .build()
        .unwrap()
}

/// The requests that came, by the id of their event.
#[derive(Clone)]
struct Received {
    bodies: Arc<Mutex<BTreeMap<String, Vec<Bytes>>>>,
    /// Tells of each.
    came: Sender<()>,
}

impl Received {
    /// Serves a receiver. Returns what it receives, a signal for each request, and its URL.
    async fn serve() -> (Self, Receiver<()>, String) {
        let (sender, came) = mpsc::channel();
        let received = Self {
            bodies: Arc::default(),
            came: sender,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let app = Router::new().fallback(receive).with_state(received.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (received, came, url)
    }

    fn add(&self, id: String, body: Bytes) {
        let mut bodies = self.bodies.lock().unwrap();
        bodies.entry(id).or_default().push(body);
    }

    fn bodies(&self) -> BTreeMap<String, Vec<Bytes>> {
        self.bodies.lock().unwrap().clone()
    }
}

/// Accepts a request, after a moment in which its sender may be killed.
async fn receive(State(received): State<Received>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    received.add(id, body);
    let _ = received.came.send(());
    tokio::time::sleep(Duration::from_millis(3)).await;
    StatusCode::NO_CONTENT
}

async fn kill_deliverers<D: Database>(database: D) {
    let store = database.open().await;
    let own = keys(store.clone(), Duration::ZERO);
    let (received, came, url) = Received::serve().await;
    let endpoints = own.endpoints("acme").unwrap();
    let hook = endpoints.register(url).await.unwrap();
    let hook = hook.endpoint().id.clone();
    let mut random = random();
    // The events whose receipt was recorded after a death, and the requests about them until then.
    let mut settled: BTreeMap<String, usize> = BTreeMap::new();
    let mut expected = 0;
    for death in 0..=deaths() {
        for _ in 0..EVENTS {
            own.issue("acme").await.unwrap();
        }
        expected += EVENTS;
        let lead = (LEASE * death).as_secs().to_string();
        let address = database.address();
        let variables = [(DATABASE, &*address), (LEAD, &*lead)];
        let process = Process::start("webhooks::deliverer", &variables);
        assert_eq!(process.next(), "delivers");
        if death == deaths() {
            // The last one lives, and delivers all that is left.
            until_all(&own, &hook, expected).await;
            process.kill();
            break;
        }
        // There are at least so many events that were not delivered yet.
        let requests = 1 + random.below(EVENTS);
        let moment = some_micros(&mut random, MOST_MICROS);
        tokio::task::block_in_place(|| {
            while came.try_recv().is_ok() {}
            for _ in 0..requests {
                came.recv_timeout(PATIENCE).expect("one arrives");
            }
            thread::sleep(moment);
            process.kill();
        });
        database.settle().await;
        let bodies = received.bodies();
        for (event, state) in states(&own, &hook).await {
            if state == DeliveryState::Delivered {
                settled.entry(event.clone()).or_insert(bodies[&event].len());
            }
        }
    }
    let bodies = received.bodies();
    let events = states(&own, &hook).await;
    assert_eq!(events.len(), expected);
    for (event, state) in &events {
        assert_eq!(*state, DeliveryState::Delivered, "{event}");
    }
    let told: BTreeSet<&String> = events.iter().map(|(event, _)| event).collect();
    assert_eq!(told, bodies.keys().collect(), "all arrive, and no others");
    for (event, bodies) in &bodies {
        let is_same = bodies.iter().all(|body| *body == bodies[0]);
        assert!(is_same, "{event} has one body");
    }
    for (event, requests) in &settled {
        assert_eq!(bodies[event].len(), *requests, "{event} came again");
    }
    let requests: usize = bodies.values().map(Vec::len).sum();
    println!(
        "{}: {expected} events through {} deaths: {requests} requests, {} of them again after a \
         death; {} receipts were recorded before the last one",
        D::NAME,
        deaths(),
        requests - expected,
        settled.len()
    );
}

/// Waits until all events are delivered.
async fn until_all(keys: &ApiKeys, hook: &str, expected: usize) {
    let start = Instant::now();
    loop {
        let states = states(keys, hook).await;
        let delivered = states.iter().filter(|it| it.1 == DeliveryState::Delivered);
        if delivered.count() == expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{states:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the events of an endpoint, and the state of each delivery.
async fn states(keys: &ApiKeys, hook: &str) -> Vec<(String, DeliveryState)> {
    let endpoints = keys.endpoints("acme").unwrap();
    let mut paging = Paging::first(1_000);
    let mut states = Vec::new();
    loop {
        let page = endpoints.deliveries(hook, None, &paging).await.unwrap();
        let items = page.items.iter();
        states.extend(items.map(|it| (it.event.id.clone(), it.state)));
        let Some(next) = page.next else { return states };
        paging = paging.after(next);
    }
}
