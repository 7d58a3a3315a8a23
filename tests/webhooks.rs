//! Webhooks from end to end: a change of a key, the outbox, the worker, sockets, and a receiver that
//! verifies what comes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use standardwebhooks::Webhook;
use support::{DAY, serve_axum};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower_api_key::clock::ManualClock;
use tower_api_key::events::{DeliveryState, EndpointError, Endpoints, RegisteredWebhook};
use tower_api_key::store::{Paging, SqliteStore};
use tower_api_key::webhook::{HttpsClient, WebhookMasters, Webhooks};
use tower_api_key::{ApiKeys, ManagedKeyStore, MemoryStore};

const SECOND: Duration = Duration::from_secs(1);
const MASTER: [u8; 32] = [7; 32];
const OTHER_MASTER: [u8; 32] = [8; 32];

/// The way in which a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Accepts,
    Fails(u16),
    AsksToWait(u64),
    Hangs,
}

/// A request that came.
#[derive(Debug, Clone)]
struct Came {
    id: String,
    timestamp: i64,
    signatures: Vec<String>,
    body: Bytes,
}

impl Came {
    /// Returns whether a secret has signed it, as the standard's own crate computes it.
    fn is_signed_by(&self, secret: &str) -> bool {
        let webhook = Webhook::new(secret).unwrap();
        let signature = webhook.sign(&self.id, self.timestamp, &self.body).unwrap();
        self.signatures.contains(&signature)
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Clone)]
struct Receiver {
    address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    came: Arc<Mutex<Vec<Came>>>,
}

impl Receiver {
    async fn new(mood: Mood) -> Self {
        let receiver = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            mood: Arc::new(Mutex::new(mood)),
            came: Arc::default(),
        };
        let app = axum::Router::new()
            .fallback(receive)
            .with_state(receiver.clone());
        let address = serve_axum(app).await;
        Self {
            address,
            ..receiver
        }
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn turn(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn came(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    headers: HeaderMap,
    body: Bytes,
) -> axum::response::Response {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let signatures = header("webhook-signature");
    receiver.came.lock().unwrap().push(Came {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp").parse().unwrap(),
        signatures: signatures.split(' ').map(str::to_owned).collect(),
        body,
    });
    let mood = *receiver.mood.lock().unwrap();
    match mood {
        Mood::Accepts => StatusCode::NO_CONTENT.into_response(),
        Mood::Fails(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Mood::AsksToWait(seconds) => {
            let wait = [("retry-after", seconds.to_string())];
            (StatusCode::TOO_MANY_REQUESTS, wait).into_response()
        }
        Mood::Hangs => std::future::pending().await,
    }
}

/// Keys whose worker runs on a clock that stands still, and sends to this machine.
struct Process {
    keys: ApiKeys,
    clock: ManualClock,
    worker: JoinHandle<()>,
}

impl Process {
    fn new(store: impl ManagedKeyStore, clock: &ManualClock) -> Self {
        Self::with_masters(store, clock, WebhookMasters::new("2025", &MASTER).unwrap())
    }

    fn with_masters(
        store: impl ManagedKeyStore,
        clock: &ManualClock,
        masters: WebhookMasters,
    ) -> Self {
        let client = HttpsClient::new()
            .allow_ports(1..=u16::MAX)
            .dangerous_allow_http()
            .dangerous_allow_private_addresses()
            .time_limit(SECOND);
        let keys = ApiKeys::builder(store)
            .clock(clock.clone())
            .webhooks(Webhooks::new(masters).client(client))
            .build()
            .unwrap();
        Self {
            worker: tokio::spawn(keys.worker().into_future()),
            keys,
            clock: clock.clone(),
        }
    }

    fn endpoints(&self) -> Endpoints {
        self.keys.endpoints("acme").unwrap()
    }

    /// Lets time go by in steps until something is so.
    async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        for _ in 0..2_000 {
            if is_so() {
                return;
            }
            self.clock.advance(Duration::from_millis(100));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never: {what}");
    }

    /// Lets time go by, and gives the sockets time.
    async fn pass(&self, time: Duration) {
        for _ in 0..20 {
            self.clock.advance(time / 20);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing is pending. The clock goes no faster than time, so that no lease ends.
    async fn settled(&self, endpoint: &str) {
        for _ in 0..2_000 {
            self.clock.advance(Duration::from_millis(10));
            tokio::time::sleep(Duration::from_millis(10)).await;
            if !self
                .states(endpoint)
                .await
                .contains(&DeliveryState::Pending)
            {
                return;
            }
        }
        panic!("never: all is settled");
    }

    async fn states(&self, endpoint: &str) -> Vec<DeliveryState> {
        let endpoints = self.endpoints();
        let paging = Paging::first(100);
        let page = endpoints.deliveries(endpoint, None, &paging).await.unwrap();
        page.items.iter().map(|it| it.state).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

fn clock() -> ManualClock {
    ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_860_000))
}

/// A file that is deleted at the end.
struct File(PathBuf);

impl File {
    async fn new(name: &str) -> (Self, SqliteStore) {
        let name = format!("tower-api-key-webhooks-{name}-{}.db", std::process::id());
        let path = std::env::temp_dir().join(name);
        let store = SqliteStore::open(&path).await.unwrap();
        store.migrate().await.unwrap();
        (Self(path), store)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", self.0.display()));
        }
    }
}

#[tokio::test]
async fn a_rotation_arrives_signed_after_a_failure_and_with_the_same_id_and_body() {
    let (_file, store) = File::new("rotation").await;
    let process = Process::new(store, &clock());
    let receiver = Receiver::new(Mood::Fails(500)).await;
    let hook = process
        .endpoints()
        .register(receiver.url())
        .kinds(["api_key.rotated"]);
    let hook = hook.await.unwrap();
    let key = process.keys.issue("acme").await.unwrap();
    let others = process.keys.issue("globex").await.unwrap();
    process.keys.rotate(others.id()).await.unwrap();
    let new = process.keys.rotate(key.id()).await.unwrap();
    process
        .until("the first attempt", || receiver.came().len() == 1)
        .await;
    receiver.turn(Mood::Accepts);
    process
        .until("the second attempt", || receiver.came().len() == 2)
        .await;
    process.settled(&hook.endpoint().id).await;
    process.pass(DAY).await;
    let came = receiver.came();
    assert_eq!(came.len(), 2, "{came:?}");
    let (first, second) = (&came[0], &came[1]);
    assert_eq!((&first.id, &first.body), (&second.id, &second.body));
    assert!(second.timestamp >= first.timestamp + 5);
    for came in &came {
        assert!(came.is_signed_by(hook.expose_secret()));
        assert_eq!(came.signatures.len(), 1);
    }
    let json = first.json();
    assert_eq!(json["type"], "api_key.rotated");
    assert_eq!(json["data"]["key_id"], key.id().to_string());
    assert_eq!(json["data"]["successor_id"], new.id().to_string());
    let text = String::from_utf8_lossy(&first.body);
    assert!(!text.contains(new.expose_secret()) && !text.contains(key.expose_secret()));
    let states = process.states(&hook.endpoint().id).await;
    assert_eq!(states, [DeliveryState::Delivered]);
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled_and_one_that_asks_for_time_gets_it() {
    let process = Process::new(MemoryStore::new(), &clock());
    let gone = Receiver::new(Mood::Fails(410)).await;
    let busy = Receiver::new(Mood::AsksToWait(3_600)).await;
    let gone_id = process.endpoints().register(gone.url()).await.unwrap();
    let gone_id = gone_id.endpoint().id.clone();
    let only_issued = process.endpoints().register(busy.url());
    only_issued.kinds(["api_key.issued"]).await.unwrap();
    process.keys.issue("acme").await.unwrap();
    process
        .until("both attempts", || {
            gone.came().len() + busy.came().len() == 2
        })
        .await;
    process.pass(SECOND).await;
    let endpoint = process.endpoints().find(&gone_id).await.unwrap().unwrap();
    assert_eq!(
        endpoint.disabled.unwrap().reason,
        "the endpoint answered 410"
    );
    assert_eq!(process.states(&gone_id).await, [DeliveryState::Failed]);
    // It takes no more events.
    process.keys.issue("acme").await.unwrap();
    process
        .until("the other event", || busy.came().len() == 2)
        .await;
    assert_eq!(gone.came().len(), 1);
    // The pause by the schedule would be over by now.
    process.pass(Duration::from_secs(3_000)).await;
    assert_eq!(busy.came().len(), 2);
    busy.turn(Mood::Accepts);
    process.pass(Duration::from_secs(2_000)).await;
    assert_eq!(busy.came().len(), 4);
    // Enabled again, it gets what comes then.
    gone.turn(Mood::Accepts);
    process.endpoints().enable(&gone_id).await.unwrap();
    assert_eq!(
        process.endpoints().replay_failed(&gone_id).await.unwrap(),
        1
    );
    process.until("the replay", || gone.came().len() == 2).await;
    assert_eq!(gone.came()[0].id, gone.came()[1].id);
}

#[tokio::test]
async fn a_receiver_that_hangs_or_redirects_holds_up_no_other_and_nobody_is_followed() {
    let process = Process::new(MemoryStore::new(), &clock());
    let (stuck, good) = (
        Receiver::new(Mood::Hangs).await,
        Receiver::new(Mood::Accepts).await,
    );
    let elsewhere = Receiver::new(Mood::Accepts).await;
    let target = elsewhere.url();
    let redirect = axum::Router::new()
        .fallback(async move || (StatusCode::TEMPORARY_REDIRECT, [("location", target)]));
    let redirecting = serve_axum(redirect).await;
    process.endpoints().register(stuck.url()).await.unwrap();
    let moved = process
        .endpoints()
        .register(format!("http://{redirecting}/"))
        .await
        .unwrap();
    process.endpoints().register(good.url()).await.unwrap();
    for _ in 0..40 {
        process.keys.issue("acme").await.unwrap();
    }
    process
        .until("all events at the good one", || good.came().len() == 40)
        .await;
    assert!(stuck.came().len() <= 8, "{}", stuck.came().len());
    assert!(elsewhere.came().is_empty());
    let endpoints = process.endpoints();
    let paging = Paging::first(100);
    let page = endpoints.deliveries(moved.id(), None, &paging);
    let page = page.await.unwrap();
    let causes: Vec<_> = page
        .items
        .iter()
        .filter_map(|it| it.cause.as_deref())
        .collect();
    assert!(causes.contains(&"the endpoint answered 307"), "{causes:?}");
}

/// tokio lets a task read only so much at a time, and one that floods would take it all, each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_floods_holds_up_no_other() {
    let process = Process::new(MemoryStore::new(), &clock());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let flooding = tokio::spawn(async move {
        let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(4_096);
        while let Ok((mut stream, _)) = listener.accept().await {
            let interim = interim.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4_096]).await; // the request
                while stream.write_all(interim.as_bytes()).await.is_ok() {}
            });
        }
    });
    for _ in 0..4 {
        process.endpoints().register(url.clone()).await.unwrap();
    }
    let good = Receiver::new(Mood::Accepts).await;
    let globex = process.keys.endpoints("globex").unwrap();
    let hook = globex.register(good.url()).await.unwrap();
    for _ in 0..4 {
        process.keys.issue("acme").await.unwrap();
    }
    process.keys.issue("globex").await.unwrap();
    let mut delivered = None;
    process
        .until("the event of another account", || !good.came().is_empty())
        .await;
    for _ in 0..2_000 {
        let paging = Paging::first(10);
        let page = globex.deliveries(hook.id(), None, &paging).await.unwrap();
        delivered = page.items.into_iter().next();
        if delivered.as_ref().unwrap().state == DeliveryState::Delivered {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let delivered = delivered.unwrap();
    assert_eq!((delivered.attempts, delivered.cause), (1, None));
    flooding.abort();
}

/// Nothing is lost with a worker that dies, and nothing is acknowledged twice.
#[tokio::test]
async fn a_worker_that_dies_in_the_middle_is_followed_by_another_with_the_same_id() {
    let (_file, store) = File::new("death").await;
    let clock = clock();
    let receiver = Receiver::new(Mood::Hangs).await;
    let dying = Process::new(store.clone(), &clock);
    let hook = dying.endpoints().register(receiver.url()).await.unwrap();
    dying.keys.issue("acme").await.unwrap();
    dying
        .until("the first attempt", || receiver.came().len() == 1)
        .await;
    drop(dying);
    receiver.turn(Mood::Accepts);
    let heirs = [(); 2].map(|()| Process::new(store.clone(), &clock));
    // While the lease holds, nobody else tries.
    heirs[0].pass(Duration::from_secs(60)).await;
    assert_eq!(receiver.came().len(), 1);
    heirs[0]
        .until("the second attempt", || receiver.came().len() > 1)
        .await;
    heirs[0].settled(&hook.endpoint().id).await;
    heirs[0].pass(DAY).await;
    let came = receiver.came();
    assert_eq!(came.len(), 2, "{came:?}");
    assert_eq!(came[0].id, came[1].id);
    assert_eq!(
        heirs[0].states(&hook.endpoint().id).await,
        [DeliveryState::Delivered]
    );
}

#[tokio::test]
async fn both_secrets_sign_during_an_overlap_also_across_masters() {
    let (_file, store) = File::new("secrets").await;
    let clock = clock();
    let receiver = Receiver::new(Mood::Accepts).await;
    let old = Process::new(store.clone(), &clock);
    let hook = old.endpoints().register(receiver.url()).await.unwrap();
    let id = hook.endpoint().id.clone();
    let found = old.endpoints().webhook(&id).await.unwrap();
    assert_eq!(found.expose_secret(), hook.expose_secret());
    drop(old);
    // A new master; the old one is retired.
    let masters = WebhookMasters::new("2026", &OTHER_MASTER).unwrap();
    let masters = masters.with_retired("2025", &MASTER).unwrap();
    let process = Process::with_masters(store.clone(), &clock, masters);
    let found = process.endpoints().webhook(&id).await.unwrap();
    assert_eq!(found.expose_secret(), hook.expose_secret());
    let rotated = process.endpoints().rotate_secret(&id, DAY).await.unwrap();
    let new = rotated.expose_secret();
    assert_ne!(new, hook.expose_secret());
    process.keys.issue("acme").await.unwrap();
    process
        .until("the event in the overlap", || receiver.came().len() == 1)
        .await;
    process.settled(&id).await;
    process.pass(DAY + SECOND).await;
    process.keys.issue("acme").await.unwrap();
    process
        .until("the event after it", || receiver.came().len() == 2)
        .await;
    // A process dropped before the outcome is kept leaves a delivery to make again.
    process.settled(&id).await;
    let came = receiver.came();
    assert!(came[0].is_signed_by(new) && came[0].is_signed_by(hook.expose_secret()));
    assert!(came[1].is_signed_by(new) && !came[1].is_signed_by(hook.expose_secret()));
    drop(process);
    // A process that does not know the master sends nothing, and loses nothing.
    let ignorant = Process::new(store.clone(), &clock);
    let unknown = ignorant.endpoints().webhook(&id).await;
    assert!(matches!(unknown, Err(EndpointError::UnknownMaster(name)) if name == "2026"));
    ignorant.keys.issue("acme").await.unwrap();
    ignorant.pass(Duration::from_secs(60)).await;
    assert_eq!(receiver.came().len(), 2);
    drop(ignorant);
    let masters = WebhookMasters::new("2026", &OTHER_MASTER).unwrap();
    clock.advance(Duration::from_secs(600));
    let knowing = Process::with_masters(store, &clock, masters);
    knowing.settled(&id).await;
    assert_eq!(receiver.came().len(), 3);
}

#[tokio::test]
async fn an_account_manages_its_own_endpoints_and_tests_them() {
    let process = Process::new(MemoryStore::new(), &clock());
    let receiver = Receiver::new(Mood::Accepts).await;
    let acme = process.endpoints();
    let hook = acme
        .register(receiver.url())
        .kinds(["api_key.revoked"])
        .await
        .unwrap();
    let id = &hook.endpoint().id;
    acme.send_test(id).await.unwrap();
    process
        .until("the test event", || receiver.came().len() == 1)
        .await;
    assert_eq!(receiver.came()[0].json()["type"], "webhook.test");
    let globex = process.keys.endpoints("globex").unwrap();
    assert!(matches!(
        globex.send_test(id).await,
        Err(EndpointError::NotFound(_))
    ));
    assert!(matches!(
        globex.webhook(id).await,
        Err(EndpointError::NotFound(_))
    ));
    assert!(matches!(
        globex.disable(id, "mine").await,
        Err(EndpointError::NotFound(_))
    ));
    assert!(!globex.delete(id).await.unwrap());
    // URLs that no webhook can have.
    for url in [
        "",
        "ftp://acme.example",
        "https://",
        "https://user:pass@acme.example/",
        "mail",
    ] {
        let refused = acme.register(url).await;
        assert!(matches!(refused, Err(EndpointError::Url(_))), "{url}");
    }
    let unknown = acme.register(receiver.url()).kinds(["API key"]).await;
    assert!(matches!(unknown, Err(EndpointError::Invalid(_))));
    // One letter is missing: it would never come.
    let misspelled = ["acme.invoice_due", "api_key.rotate"];
    let unknown = acme.register(receiver.url()).kinds(misspelled).await;
    assert!(matches!(unknown, Err(EndpointError::UnknownKind(kind)) if kind == "api_key.rotate"));
    let unknown = acme.set_kinds(id, misspelled).await;
    assert!(matches!(unknown, Err(EndpointError::UnknownKind(_))));
    acme.set_kinds(id, ["acme.invoice_due"]).await.unwrap();
    let debug = format!("{hook:?} {acme:?}");
    assert!(!debug.contains("whsec_"), "{debug}");
    acme.set_kinds(id, Vec::<String>::new()).await.unwrap();
    process.keys.issue("acme").await.unwrap();
    process
        .until("an event of another kind", || receiver.came().len() == 2)
        .await;
    assert!(acme.delete(id).await.unwrap());
    assert!(acme.find(id).await.unwrap().is_none());
}

/// A customer cannot make each change of its keys a change of thousands of rows.
#[tokio::test]
async fn an_account_has_few_endpoints() {
    let process = Process::new(MemoryStore::new(), &clock());
    let endpoints = process.endpoints();
    let url = "http://127.0.0.1:9/";
    let register = (0..30).map(|_| endpoints.register(url).into_future());
    let registered = futures_util::future::join_all(register).await;
    let refused = registered
        .iter()
        .filter(|it| matches!(it, Err(EndpointError::TooMany)));
    assert_eq!(refused.count(), 30 - Endpoints::MOST_PER_ACCOUNT);
    let page = endpoints.list(&Paging::first(100)).await.unwrap();
    assert_eq!(page.items.len(), Endpoints::MOST_PER_ACCOUNT);
    // Others have room, and so has the account when one is deleted.
    let others = process.keys.endpoints("globex").unwrap();
    others.register(url).await.unwrap();
    for endpoint in page.items {
        assert!(endpoints.delete(&endpoint.id).await.unwrap());
    }
    endpoints.register(url).await.unwrap();
}

#[tokio::test]
async fn a_rotation_whose_answer_was_lost_does_not_cut_off_the_old_secret() {
    let clock = clock();
    let process = Process::new(MemoryStore::new(), &clock);
    let endpoints = process.endpoints();
    let hook = endpoints
        .register("http://127.0.0.1:9/token/s3cret")
        .await
        .unwrap();
    let id = &hook.endpoint().id;
    let new = endpoints.rotate_secret(id, DAY).await.unwrap();
    let again = endpoints.rotate_secret(id, DAY).await;
    assert!(matches!(again, Err(EndpointError::RotatedLately(_))));
    let found = endpoints.webhook(id).await.unwrap();
    assert_eq!(found.expose_secret(), new.expose_secret());
    assert_eq!(found.endpoint(), new.endpoint());
    // After a leak, at once; and after the overlap.
    let leaked = endpoints.rotate_secret(id, Duration::ZERO).await.unwrap();
    clock.advance(SECOND);
    let last = endpoints.rotate_secret(id, Duration::MAX).await.unwrap();
    let secrets = [&hook, &new, &leaked, &last].map(RegisteredWebhook::expose_secret);
    for (at, secret) in secrets.iter().enumerate() {
        assert!(!secrets[..at].contains(secret));
    }
    let found = endpoints.find(id).await.unwrap().unwrap();
    let debug = format!(
        "{found:?} {hook:?} {:?}",
        endpoints.register("http://a.example/s3cret")
    );
    assert!(
        !debug.contains("s3cret") && debug.contains("http://127.0.0.1:9"),
        "{debug}"
    );
}

#[tokio::test]
async fn without_the_setting_nothing_is_registered() {
    let keys = ApiKeys::in_memory();
    let refused = keys
        .endpoints("acme")
        .unwrap()
        .register("https://acme.example/")
        .await;
    assert!(matches!(refused, Err(EndpointError::NoWebhooks)));
    // By default, neither http nor other ports are taken.
    let webhooks = Webhooks::new(WebhookMasters::new("2026", &MASTER).unwrap());
    let keys = ApiKeys::builder(MemoryStore::new())
        .webhooks(webhooks)
        .build()
        .unwrap();
    for url in [
        "http://acme.example/",
        "https://acme.example:8443/",
        "https://127.0.0.1/",
    ] {
        let refused = keys.endpoints("acme").unwrap().register(url).await;
        assert!(matches!(refused, Err(EndpointError::Url(_))), "{url}");
    }
}
