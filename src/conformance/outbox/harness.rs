//! An outbox under test, with endpoints and events of this run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::conformance::promise::Promise;
use crate::conformance::records::Digests;
use crate::store::{
    Actor, Change, Claim, Delivery, DeliveryQuery, DeliveryRecord, DynOutbox, Endpoint, Event,
    ManagedKeyStore, Outcome, Paging, Replay, SecretName, Settlement, StoreError, Target,
    WebhookTarget,
};

pub(super) const ANSWERS: Promise = Promise("a live store answers");
const EXISTS: Promise = Promise("the store has an outbox");
const ENDS: Promise = Promise("a list of deliveries ends");
const LIMIT: Promise = Promise("a page has no more items than were asked for");

/// The lease of all claims.
pub(super) const LEASE: Duration = Duration::from_secs(60);

/// The maximum number of pages of a short list. Pages may be short or empty.
const MOST_PAGES: usize = 10_000;

pub(super) struct Suite<'s, S> {
    pub(super) store: &'s S,
    pub(super) outbox: std::sync::Arc<dyn DynOutbox>,
    /// A text that no other run has, in lower-case letters and digits.
    pub(super) run: String,
}

impl<'s, S: ManagedKeyStore> Suite<'s, S> {
    pub(super) fn new(store: &'s S) -> Self {
        let outbox = store.outbox();
        EXISTS.holds(outbox.is_some(), "there is none");
        let outbox = outbox.expect("it was just checked").0;
        let run = Digests::new().id().to_string();
        Self { store, outbox, run }
    }

    /// Returns the id of an endpoint of this run.
    pub(super) fn id(&self, name: &str) -> String {
        format!("{name}-{}", self.run)
    }

    pub(super) fn account(&self) -> String {
        format!("acme {}", self.run)
    }

    /// Creates a sink for the events of this run's account.
    pub(super) fn sink(&self, name: &str) -> Endpoint {
        let sink = Endpoint::new(self.id(name), Target::Sink, at(0));
        sink.with_account(self.account())
    }

    pub(super) fn webhook(&self, name: &str) -> Endpoint {
        let secret = SecretName::new("2026", 1);
        let target = WebhookTarget::new("https://example.com/ünïcode?a=1", secret);
        let webhook = Endpoint::new(self.id(name), Target::Webhook(target), at(0));
        webhook.with_account(self.account())
    }

    pub(super) fn event(&self, kind: &str) -> Event {
        Event::new(kind, at(0)).with_account(self.account())
    }

    pub(super) async fn put(&self, endpoint: &Endpoint) {
        ANSWERS.answer(self.outbox.put_endpoint(endpoint).await, "put_endpoint");
    }

    /// Deletes an endpoint, so that another part of the suite does not serve it.
    pub(super) async fn delete(&self, id: &str) {
        ANSWERS.answer(self.outbox.delete_endpoint(id).await, "delete_endpoint");
    }

    pub(super) async fn commit(&self, change: &Change) {
        ANSWERS.answer(self.store.commit(change).await, "commit");
    }

    /// Commits a change at a second with events of a kind, as many as asked for.
    pub(super) async fn tell(&self, second: u64, kind: &str, count: usize) {
        let events = (0..count).map(|_| self.event(kind));
        let change = events.fold(change(second), with_event);
        self.commit(&change).await;
    }

    /// Returns a claim at a second for these sinks, as large as a store may have them.
    pub(super) fn claim_of(second: u64, sinks: &[&Endpoint]) -> Claim {
        let mut claim = Claim::new(at(second), LEASE);
        claim.webhooks = false;
        claim.sinks = sinks.iter().map(|sink| sink.id.clone()).collect();
        claim
    }

    pub(super) async fn claim(&self, claim: &Claim) -> Vec<Delivery> {
        ANSWERS.answer(self.outbox.claim(claim).await, "claim")
    }

    /// Claims all deliveries of a sink that are due at a second.
    pub(super) async fn claim_all(&self, second: u64, sink: &Endpoint) -> Vec<Delivery> {
        let mut all = Vec::new();
        loop {
            let claimed = self.claim(&Self::claim_of(second, &[sink])).await;
            if claimed.is_empty() {
                return all;
            }
            all.extend(claimed);
        }
    }

    pub(super) async fn settle(&self, delivery: &Delivery, second: u64, outcome: Outcome) -> bool {
        let settlement = Settlement::new(delivery, at(second), outcome);
        ANSWERS.answer(self.outbox.settle(&settlement).await, "settle")
    }

    pub(super) async fn replay(&self, endpoint: &str, which: Replay<'_>, second: u64) -> u64 {
        let replayed = self.outbox.replay(endpoint, which, at(second)).await;
        ANSWERS.answer(replayed, "replay")
    }

    /// Reads all deliveries of a query, page by page.
    pub(super) async fn read(&self, query: &DeliveryQuery, limit: u32) -> Vec<DeliveryRecord> {
        let mut paging = Paging::first(limit);
        let mut read = Vec::new();
        for _ in 0..MOST_PAGES {
            let page = self.outbox.deliveries(query, &paging).await;
            let page = ANSWERS.answer(page, "deliveries");
            LIMIT.holds(
                page.items.len() <= limit as usize,
                format_args!("{} instead of at most {limit}", page.items.len()),
            );
            read.extend(page.items);
            let Some(next) = page.next else { return read };
            paging = paging.after(next);
        }
        ENDS.holds(false, format_args!("{MOST_PAGES} pages and more to come"));
        read
    }

    /// Reads the deliveries of an endpoint, the newest first.
    pub(super) async fn of_endpoint(&self, id: &str) -> Vec<DeliveryRecord> {
        self.read(&DeliveryQuery::new().with_endpoint(id.to_owned()), 100)
            .await
    }
}

pub(super) fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600 + second)
}

pub(super) fn change(second: u64) -> Change {
    Change::new(Actor::service("conformance"), at(second))
}

pub(super) fn with_event(change: Change, event: Event) -> Change {
    let change = change.add_event(event);
    change.expect("the suite's events can be kept")
}

/// Returns the outcome of a failed attempt that is made again at a second.
pub(super) fn retry(second: u64) -> Outcome {
    Outcome::Retry {
        at: at(second),
        cause: "a time-out".to_owned(),
    }
}

pub(super) fn failed() -> Outcome {
    Outcome::Failed {
        cause: "410 Gone, for ünïcode".to_owned(),
    }
}

/// Returns the ids of the events of deliveries.
pub(super) fn events(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|it| it.event.id.as_str()).collect()
}

/// Returns the kind of an error, for comparison.
pub(super) fn kind<T>(result: Result<T, StoreError>) -> Result<(), crate::store::StoreErrorKind> {
    result.map(drop).map_err(|error| error.kind())
}
