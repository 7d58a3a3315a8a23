//! Deliveries step by step: a worker that is polled by hand, on a clock that stands still, with a
//! client that answers when it is told to.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use support::{DAY, today};
use tower_api_key::clock::{Clock, ManualClock};
use tower_api_key::events::{
    DeliveryRecord, DeliveryState, EndpointError, Endpoints, EventSink, KeptEvent, SinkError,
};
use tower_api_key::store::{Claim, Outbox, Paging};
use tower_api_key::webhook::{
    SendError, SendErrorKind, WebhookClient, WebhookMasters, WebhookRequest, WebhookResponse,
    Webhooks,
};
use tower_api_key::{ApiKeys, MemoryStore};

const SECOND: Duration = Duration::from_secs(1);
const URL: &str = "https://hooks.acme.example/keys";
const OLD: [u8; 32] = [7; 32];
const NEW: [u8; 32] = [8; 32];

type Answer = Result<u16, SendErrorKind>;

/// A client that holds each request until it is told the answer.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Vec<Sending>>>);

type Sending = (WebhookRequest, Option<Answer>);

impl Held {
    fn answer(&self, at: usize, answer: Answer) {
        self.0.lock().unwrap()[at].1 = Some(answer);
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn url(&self, at: usize) -> String {
        self.0.lock().unwrap()[at].0.url().as_str().to_owned()
    }

    fn signatures(&self, at: usize) -> usize {
        let headers = self.0.lock().unwrap()[at].0.headers();
        let signatures = headers["webhook-signature"].to_str().unwrap();
        signatures.split(' ').count()
    }
}

impl WebhookClient for Held {
    async fn send(&self, request: WebhookRequest) -> Result<WebhookResponse, SendError> {
        let at = self.count();
        self.0.lock().unwrap().push((request, None));
        let answer = poll_fn(|_| match self.0.lock().unwrap()[at].1 {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        });
        let status = answer
            .await
            .map_err(|kind| SendError::new(kind, "10.0.0.7"))?;
        Ok(WebhookResponse::new(StatusCode::from_u16(status).unwrap()))
    }
}

/// A sink that takes at once.
#[derive(Clone, Default)]
struct Quick(Arc<Mutex<Vec<KeptEvent>>>);

impl Quick {
    fn of_kind(&self, kind: &str) -> Vec<KeptEvent> {
        let took = self.0.lock().unwrap();
        let of_kind = took.iter().filter(|it| it.event.kind == kind);
        of_kind.cloned().collect()
    }
}

impl EventSink for Quick {
    async fn take(&self, kept: &KeptEvent) -> Result<(), SinkError> {
        self.0.lock().unwrap().push(kept.clone());
        Ok(())
    }
}

struct Process {
    keys: ApiKeys,
    clock: ManualClock,
    worker: Pin<Box<dyn Future<Output = ()> + Send>>,
    client: Held,
    sink: Quick,
}

fn masters() -> WebhookMasters {
    WebhookMasters::new("2025", &OLD).unwrap()
}

impl Process {
    fn new() -> Self {
        Self::with(&MemoryStore::new(), &ManualClock::at(today()), masters())
    }

    fn with(store: &MemoryStore, clock: &ManualClock, masters: WebhookMasters) -> Self {
        let (client, sink) = (Held::default(), Quick::default());
        let keys = ApiKeys::builder(store.clone())
            .clock(clock.clone())
            .webhooks(Webhooks::new(masters).client(client.clone()))
            .sink("quick", sink.clone())
            .build()
            .unwrap();
        let mut process = Self {
            worker: Box::pin(keys.worker().into_future()),
            keys,
            clock: clock.clone(),
            client,
            sink,
        };
        process.work();
        process
    }

    /// Lets the worker do all that it can do at this time.
    fn work(&mut self) {
        for _ in 0..200 {
            assert!(support::is_waiting(&mut self.worker));
        }
    }

    /// Lets the worker work at a later time.
    fn later(&mut self, time: Duration) {
        self.clock.advance(time);
        self.work();
    }

    fn acme(&self) -> Endpoints {
        self.keys.endpoints("acme").unwrap()
    }

    /// Registers a webhook, and returns its id.
    async fn hook(&self) -> String {
        let hook = self.acme().register(URL).await.unwrap();
        hook.id().to_owned()
    }

    async fn issue(&self) {
        self.keys.issue("acme").await.unwrap();
    }

    async fn is_disabled(&self, id: &str) -> bool {
        let found = self.acme().find(id).await.unwrap().unwrap();
        found.disabled.is_some()
    }

    /// Returns the deliveries to an endpoint, the newest event first.
    async fn deliveries(&self, id: &str) -> Vec<DeliveryRecord> {
        let (endpoints, paging) = (self.acme(), Paging::first(100));
        let page = endpoints.deliveries(id, None, &paging).await;
        page.unwrap().items
    }

    async fn states(&self, id: &str) -> Vec<DeliveryState> {
        let deliveries = self.deliveries(id).await;
        deliveries.into_iter().map(|it| it.state).collect()
    }
}

/// A claim leaves out the endpoints that are busy, so it must be made again for those that were busy
/// during the last one only.
#[tokio::test]
async fn a_fast_receiver_gets_all_events_at_once() {
    let mut process = Process::new();
    for _ in 0..40 {
        process.issue().await;
    }
    process.later(SECOND);
    assert_eq!(process.sink.of_kind("api_key.issued").len(), 40);
}

#[tokio::test]
async fn a_410_disables_and_the_account_hears_of_it_once() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.issue().await;
    process.later(SECOND);
    process.client.answer(0, Ok(410));
    process.client.answer(1, Ok(410));
    process.work();
    let found = process.acme().find(&id).await.unwrap().unwrap();
    assert_eq!(found.disabled.unwrap().reason, "the endpoint answered 410");
    let failed = [DeliveryState::Failed, DeliveryState::Failed];
    assert_eq!(process.states(&id).await, failed);
    process.later(SECOND);
    let told = process.sink.of_kind("webhook.disabled");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].event.account.as_deref(), Some("acme"));
    let data: serde_json::Value = serde_json::from_str(&told[0].event.data).unwrap();
    assert_eq!(data["endpoint_id"], *id);
    assert_eq!(data["reason"], "the endpoint answered 410");
}

/// The second answer was on its way when the owner repaired the receiver.
#[tokio::test]
async fn a_late_410_does_not_disable_what_was_repaired() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.issue().await;
    process.later(SECOND);
    process.client.answer(0, Ok(410));
    process.work();
    assert!(process.is_disabled(&id).await);
    process.acme().enable(&id).await.unwrap();
    process.client.answer(1, Ok(410));
    process.work();
    assert!(!process.is_disabled(&id).await);
    // The event is not lost either.
    process.later(SECOND * 7);
    assert_eq!(process.client.count(), 3);
    process.client.answer(2, Ok(204));
    process.work();
    let mut states = process.states(&id).await;
    states.sort_by_key(|state| state.as_str());
    assert_eq!(states, [DeliveryState::Delivered, DeliveryState::Failed]);
}

#[tokio::test]
async fn a_rotation_meanwhile_only_puts_the_end_off() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.later(SECOND);
    process.acme().rotate_secret(&id, DAY).await.unwrap();
    process.client.answer(0, Ok(410));
    process.work();
    assert!(!process.is_disabled(&id).await);
    process.later(SECOND * 7);
    process.client.answer(1, Ok(410));
    process.work();
    assert!(process.is_disabled(&id).await);
}

/// Another process of a deployment may allow the port of the URL.
#[tokio::test]
async fn a_url_that_this_process_refuses_is_tried_again() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.later(SECOND);
    process.client.answer(0, Err(SendErrorKind::UrlRefused));
    process.work();
    let [delivery] = &process.deliveries(&id).await[..] else {
        panic!("there is one event");
    };
    assert_eq!(delivery.state, DeliveryState::Pending);
    assert_eq!(delivery.cause.as_deref(), Some("url_refused"));
    process.later(SECOND * 7);
    process.client.answer(1, Ok(204));
    process.work();
    assert_eq!(process.states(&id).await, [DeliveryState::Delivered]);
}

/// Otherwise an owner could ask for the names of the network here, one by one.
#[tokio::test]
async fn an_owner_does_not_learn_which_internal_names_exist() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.issue().await;
    process.later(SECOND);
    process.client.answer(0, Err(SendErrorKind::AddressRefused));
    process.client.answer(1, Err(SendErrorKind::DnsFailed));
    process.work();
    let causes: Vec<_> = process.deliveries(&id).await;
    let causes: Vec<_> = causes.iter().map(|it| it.cause.as_deref()).collect();
    assert_eq!(causes, [Some("host_not_reached"); 2]);
}

/// The receiver may know the new secret only, so the old one alone is of no use.
#[tokio::test]
async fn a_process_without_the_current_master_leaves_deliveries_to_others() {
    let (store, clock) = (MemoryStore::new(), ManualClock::at(today()));
    let mut ignorant = Process::with(&store, &clock, masters());
    let id = ignorant.hook().await;
    let both = WebhookMasters::new("2026", &NEW).unwrap();
    let both = both.with_retired("2025", &OLD).unwrap();
    let mut knowing = Process::with(&store, &clock, both);
    knowing.acme().rotate_secret(&id, DAY).await.unwrap();
    knowing.issue().await;
    // More often than attempts may stay without an outcome, and than there are steps.
    for _ in 0..30 {
        ignorant.later(SECOND * 61);
    }
    assert_eq!(ignorant.client.count(), 0);
    let [delivery] = &knowing.deliveries(&id).await[..] else {
        panic!("there is one event");
    };
    assert_eq!(delivery.state, DeliveryState::Pending);
    assert_eq!((delivery.attempts, &delivery.cause), (30, &None));
    let wait = delivery.next_at.unwrap().duration_since(clock.now());
    assert_eq!(wait.unwrap(), SECOND * 10);
    // It leaves the endpoint alone for a while, in which others take it over.
    ignorant.later(SECOND * 11);
    knowing.work();
    assert_eq!((ignorant.client.count(), knowing.client.count()), (0, 1));
    assert_eq!(knowing.client.signatures(0), 2);
    // The schedule begins only now.
    knowing.client.answer(0, Ok(500));
    knowing.work();
    knowing.later(SECOND * 7);
    knowing.client.answer(1, Ok(204));
    knowing.work();
    assert_eq!(knowing.states(&id).await, [DeliveryState::Delivered]);
}

#[tokio::test]
async fn a_delivery_whose_attempts_never_end_is_given_up() {
    let (store, clock) = (MemoryStore::new(), ManualClock::at(today()));
    let mut process = Process::with(&store, &clock, masters());
    let id = process.hook().await;
    process.issue().await;
    // 19 processes die, and one more claims it.
    let claim = Claim::new(clock.now(), Duration::ZERO);
    for _ in 0..19 {
        assert_eq!(store.claim(&claim).await.unwrap().len(), 1);
    }
    process.later(SECOND);
    assert_eq!(process.client.count(), 1);
    drop(process);
    let mut process = Process::with(&store, &clock, masters());
    process.later(SECOND * 200);
    assert_eq!(process.client.count(), 0);
    let delivery = process.deliveries(&id).await.remove(0);
    assert_eq!(delivery.state, DeliveryState::Failed);
    assert_eq!(delivery.cause.as_deref(), Some("no attempt has ended"));
    // After the fault is found, it is sent by hand.
    let event = &delivery.event.id;
    assert!(process.acme().replay(&id, event).await.unwrap());
    process.later(SECOND);
    process.client.answer(0, Ok(204));
    process.work();
    assert_eq!(process.states(&id).await, [DeliveryState::Delivered]);
}

#[tokio::test]
async fn an_owner_who_has_repaired_the_receiver_does_not_wait() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.issue().await;
    process.later(SECOND);
    for at in 0..2 {
        process.client.answer(at, Ok(500));
    }
    process.work();
    let event = process.deliveries(&id).await.remove(0).event.id;
    assert!(process.acme().replay(&id, &event).await.unwrap());
    assert!(
        !process.acme().replay(&id, &event).await.unwrap(),
        "it is due"
    );
    process.later(SECOND);
    assert_eq!(process.client.count(), 3);
    process.client.answer(2, Ok(500));
    process.work();
    assert_eq!(process.acme().retry_now(&id).await.unwrap(), 2);
    process.later(SECOND);
    assert_eq!(process.client.count(), 5);
    let globex = process.keys.endpoints("globex").unwrap();
    let refused = globex.retry_now(&id).await;
    assert!(matches!(refused, Err(EndpointError::NotFound(_))));
}

#[tokio::test]
async fn a_url_is_replaced_and_the_secret_and_the_backlog_stay() {
    let mut process = Process::new();
    let hook = process.acme().register(URL).await.unwrap();
    let id = hook.id();
    process.acme().disable(id, "it moves").await.unwrap();
    process.acme().enable(id).await.unwrap();
    process.issue().await;
    for url in ["http://a.example/", "mail", "https://user@a.example/"] {
        let refused = process.acme().set_url(id, url).await;
        assert!(matches!(refused, Err(EndpointError::Url(_))), "{url}");
    }
    let moved = "https://other.acme.example/";
    process.acme().set_url(id, moved).await.unwrap();
    let found = process.acme().webhook(id).await.unwrap();
    assert_eq!(found.expose_secret(), hook.expose_secret());
    process.later(SECOND);
    assert_eq!(process.client.url(0), moved);
    let all = process.keys.dangerous_all_endpoints().unwrap();
    let refused = all.set_url("quick", moved).await;
    assert!(matches!(refused, Err(EndpointError::NoWebhook(_))));
}

#[tokio::test]
async fn a_disabled_endpoint_keeps_its_first_reason_and_gets_no_test() {
    let process = Process::new();
    let id = process.hook().await;
    let first = process.acme().disable(&id, "unpaid").await.unwrap();
    process.clock.advance(SECOND);
    let second = process.acme().disable(&id, "cleaning up").await.unwrap();
    assert_eq!(first, second);
    assert_eq!(second.disabled.unwrap().reason, "unpaid");
    let refused = process.acme().send_test(&id).await;
    assert!(matches!(refused, Err(EndpointError::Disabled(of)) if of == id));
    process.acme().enable(&id).await.unwrap();
    process.acme().send_test(&id).await.unwrap();
}

#[tokio::test]
async fn a_sink_whose_endpoint_was_deleted_gets_another_one() {
    let mut process = Process::new();
    let all = process.keys.dangerous_all_endpoints().unwrap();
    assert!(all.delete("quick").await.unwrap());
    process.later(SECOND * 61);
    process.issue().await;
    process.later(SECOND);
    assert_eq!(process.sink.of_kind("api_key.issued").len(), 1);
}
