//! A process that delivers: its worker is polled by hand, on a clock that stands still, and its
//! client answers when it is told to.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each suite uses its part"
)]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use tower_api_key::clock::ManualClock;
use tower_api_key::events::{
    DeliveryRecord, DeliveryState, Endpoints, EventSink, KeptEvent, SinkError,
};
use tower_api_key::store::Paging;
use tower_api_key::webhook::{
    SendError, SendErrorKind, WebhookClient, WebhookMasters, WebhookRequest, WebhookResponse,
    Webhooks,
};
use tower_api_key::{ApiKeys, MemoryStore};

use crate::support::{is_waiting, today};

pub const SECOND: Duration = Duration::from_secs(1);
pub const URL: &str = "https://hooks.acme.example/keys";
pub const OLD: [u8; 32] = [7; 32];
pub const NEW: [u8; 32] = [8; 32];

pub type Answer = Result<u16, SendErrorKind>;

/// A client that holds each request until it is told the answer.
#[derive(Clone, Default)]
pub struct Held(Arc<Mutex<Vec<Sending>>>);

type Sending = (WebhookRequest, Option<Answer>);

impl Held {
    pub fn answer(&self, at: usize, answer: Answer) {
        self.0.lock().unwrap()[at].1 = Some(answer);
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn url(&self, at: usize) -> String {
        self.0.lock().unwrap()[at].0.url().as_str().to_owned()
    }

    pub fn signatures(&self, at: usize) -> usize {
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
pub struct Quick(Arc<Mutex<Vec<KeptEvent>>>);

impl Quick {
    pub fn of_kind(&self, kind: &str) -> Vec<KeptEvent> {
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

pub struct Process {
    pub keys: ApiKeys,
    pub clock: ManualClock,
    worker: Pin<Box<dyn Future<Output = ()> + Send>>,
    pub client: Held,
    pub sink: Quick,
}

pub fn masters() -> WebhookMasters {
    WebhookMasters::new("2025", &OLD).unwrap()
}

impl Process {
    pub fn new() -> Self {
        Self::with(&MemoryStore::new(), &ManualClock::at(today()), masters())
    }

    pub fn with(store: &MemoryStore, clock: &ManualClock, masters: WebhookMasters) -> Self {
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
    pub fn work(&mut self) {
        for _ in 0..200 {
            assert!(is_waiting(&mut self.worker));
        }
    }

    /// Lets the worker work at a later time.
    pub fn later(&mut self, time: Duration) {
        self.clock.advance(time);
        self.work();
    }

    pub fn acme(&self) -> Endpoints {
        self.keys.endpoints("acme").unwrap()
    }

    /// Registers a webhook, and returns its id.
    pub async fn hook(&self) -> String {
        let hook = self.acme().register(URL).await.unwrap();
        hook.id().to_owned()
    }

    pub async fn issue(&self) {
        self.keys.issue("acme").await.unwrap();
    }

    pub async fn is_disabled(&self, id: &str) -> bool {
        let found = self.acme().find(id).await.unwrap().unwrap();
        found.disabled.is_some()
    }

    /// Returns the deliveries to an endpoint, the newest event first.
    pub async fn deliveries(&self, id: &str) -> Vec<DeliveryRecord> {
        let (endpoints, paging) = (self.acme(), Paging::first(100));
        let page = endpoints.deliveries(id, None, &paging).await;
        page.unwrap().items
    }

    pub async fn states(&self, id: &str) -> Vec<DeliveryState> {
        let deliveries = self.deliveries(id).await;
        deliveries.into_iter().map(|it| it.state).collect()
    }
}
