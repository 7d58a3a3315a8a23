//! The suite for outboxes: the store in memory passes it, and a broken promise is named.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use support::block_on;
use tower_api_key::store::{
    BoxedOutbox, Change, Claim, Delivery, DeliveryQuery, DeliveryRecord, Endpoint, Followed,
    KeptEvent, Outbox, Outcome, Page, Paging, Replay, Settlement, Start, Step, StoreError,
    StoreErrorKind,
};
use tower_api_key::{KeyId, KeyRecord, KeyStore, ManagedKeyStore, MemoryStore, conformance};

#[tokio::test]
async fn the_store_in_memory_passes_the_suite() {
    let store = MemoryStore::new();
    conformance::outbox(&store).await;
    // A store that is used before, and shared.
    conformance::outbox(&Arc::new(store)).await;
}

/// A runtime that moves tasks between threads requires this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_can_be_spawned() {
    let suite = tokio::spawn(async { conformance::outbox(&MemoryStore::new()).await });
    suite.await.unwrap();
}

#[test]
fn a_store_without_an_outbox_is_reported() {
    let store = Faulty::new(Fault::HasNone);
    assert_eq!(
        broken(conformance::outbox(&store)),
        "the store has an outbox"
    );
}

/// The promise that the suite says was broken.
fn broken(suite: impl Future<Output = ()>) -> String {
    let outcome = catch_unwind(AssertUnwindSafe(|| block_on(suite)));
    let message = *outcome.unwrap_err().downcast::<String>().unwrap();
    let promise = message.strip_prefix("broken promise: ").unwrap();
    promise.split(": ").next().unwrap().to_owned()
}

/// What can be wrong with an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    HasNone,
    ForgetsKinds,
    IgnoresVersions,
    MatchesPartsOfKinds,
    DeliversBeforeTheChange,
    TellsAgain,
    TellsAllOfTests,
    ClaimsEarly,
    LeasesNothing,
    LosesLeases,
    RacesClaims,
    TakesNewestFirst,
    IgnoresEach,
    HoldsUp,
    Starves,
    ServesAll,
    ServesDisabled,
    SettlesAnyAttempt,
    SettlesAfterReplay,
    ForgetsRetries,
    ReplaysAll,
    LeavesDeliveries,
    ListsOldestFirst,
    TakesAnyCursor,
    StepsBack,
    CountsClaims,
    ChangesItsName,
    CountsBeforeItCreates,
    LeavesWhatWaits,
    RecordsReleases,
    ForgetsTheUnfinished,
}

/// The outbox in memory with something wrong.
#[derive(Clone)]
struct Faulty {
    fault: Fault,
    inner: MemoryStore,
    announced: Arc<std::sync::Mutex<Option<SystemTime>>>,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            inner: MemoryStore::new(),
            announced: Arc::default(),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// The same change, told otherwise.
    fn told(&self, change: &Change) -> Change {
        let mut told = Change::new(change.origin().clone(), change.at());
        for step in change.steps() {
            told = match step {
                Step::Create { record, trail } => {
                    told.create(trail.action.clone(), record.clone()).unwrap()
                }
                Step::Event {
                    event,
                    once,
                    only_to,
                } => {
                    let event = event.clone();
                    match (once, only_to) {
                        (Some(mark), _) if !self.has(Fault::TellsAgain) => {
                            told.add_event_once(event, mark).unwrap()
                        }
                        (_, Some(id)) if !self.has(Fault::TellsAllOfTests) => {
                            told.add_event_to(id, event).unwrap()
                        }
                        _ => told.add_event(event).unwrap(),
                    }
                }
                _ => panic!("the suite makes no such step"),
            };
        }
        told
    }

    /// Looks, waits, and returns what it saw.
    async fn race(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError> {
        let mut seen = Vec::new();
        for id in &claim.sinks {
            let due = self.all_of(id).await;
            let endpoint = self.inner.find_endpoint(id).await?;
            let is_due = |it: &DeliveryRecord| it.next_at.is_some_and(|at| at <= claim.at);
            let due = due.into_iter().filter(is_due);
            seen.extend(due.zip(endpoint.into_iter().cycle()));
        }
        tokio::task::yield_now().await;
        let claimed = self.inner.claim(claim).await?;
        if !claimed.is_empty() || seen.is_empty() {
            return Ok(claimed);
        }
        let seen = seen.into_iter().take(claim.most as usize);
        Ok(seen
            .map(|(record, endpoint)| Delivery::new(record.event, endpoint))
            .collect())
    }

    async fn all_of(&self, endpoint: &str) -> Vec<DeliveryRecord> {
        let query = DeliveryQuery::new().with_endpoint(endpoint.to_owned());
        let page = self.inner.deliveries(&query, &Paging::first(1_000)).await;
        page.unwrap().items
    }
}

impl KeyStore for Faulty {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.inner.find(id).await
    }
}

impl ManagedKeyStore for Faulty {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.inner.find_committed(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        if self.has(Fault::DeliversBeforeTheChange) {
            let mut events = Change::new(change.origin().clone(), change.at());
            let mut rest = events.clone();
            for step in change.steps() {
                match step {
                    Step::Event { event, .. } => events = events.add_event(event.clone()).unwrap(),
                    Step::Create { record, trail } => {
                        let action = trail.action.clone();
                        rest = rest.create(action, record.clone()).unwrap();
                    }
                    _ => panic!("the suite makes no such step"),
                }
            }
            self.inner.commit(&events).await?;
            return self.inner.commit(&rest).await;
        }
        self.inner.commit(&self.told(change)).await
    }

    async fn events(&self, start: &Start, limit: u32) -> Result<Followed<KeptEvent>, StoreError> {
        self.inner.events(start, limit).await
    }

    fn outbox(&self) -> Option<BoxedOutbox> {
        (!self.has(Fault::HasNone)).then(|| BoxedOutbox::new(self.clone()))
    }
}

impl Outbox for Faulty {
    fn namespace(&self) -> String {
        if self.has(Fault::ChangesItsName) {
            return Arc::strong_count(&self.announced).to_string(); // another one for each instance
        }
        self.inner.namespace()
    }

    async fn put_endpoint(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        let mut endpoint = endpoint.clone();
        if self.has(Fault::ForgetsKinds) {
            endpoint.kinds.truncate(1);
        }
        if self.has(Fault::MatchesPartsOfKinds) && endpoint.kinds.iter().any(|it| it == "acme.a_b")
        {
            // As a pattern, in which `_` stands for any letter.
            endpoint.kinds.push("acme.axb".to_owned());
        }
        if self.has(Fault::ServesDisabled) && endpoint.version > 1 {
            endpoint.disabled = None;
        }
        let put = self.inner.put_endpoint(&endpoint).await;
        let is_late = endpoint.version > 1 && put.is_err();
        if self.has(Fault::IgnoresVersions)
            && is_late
            && let Some(seen) = self.inner.find_endpoint(&endpoint.id).await?
        {
            endpoint.version = seen.version + 1;
            return self.inner.put_endpoint(&endpoint).await;
        }
        put
    }

    async fn create_endpoint(
        &self,
        endpoint: &Endpoint,
        most_of_account: u32,
    ) -> Result<(), StoreError> {
        if self.has(Fault::CountsBeforeItCreates) && endpoint.account.is_some() {
            let account = endpoint.account.as_deref();
            let page = self.inner.endpoints(account, &Paging::first(100)).await?;
            tokio::task::yield_now().await;
            if page.items.len() >= most_of_account as usize {
                return Err(StoreError::cap_reached());
            }
            return self.inner.put_endpoint(endpoint).await;
        }
        self.inner.create_endpoint(endpoint, most_of_account).await
    }

    async fn delete_endpoint(&self, id: &str) -> Result<bool, StoreError> {
        // The suite puts the others again.
        if self.has(Fault::LeavesDeliveries) && id.starts_with("deleted-") {
            return Ok(true);
        }
        self.inner.delete_endpoint(id).await
    }

    async fn find_endpoint(&self, id: &str) -> Result<Option<Endpoint>, StoreError> {
        self.inner.find_endpoint(id).await
    }

    async fn endpoints(
        &self,
        account: Option<&str>,
        paging: &Paging,
    ) -> Result<Page<Endpoint>, StoreError> {
        self.inner.endpoints(account, paging).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError> {
        let mut claim = claim.clone();
        match self.fault {
            Fault::ClaimsEarly => claim.at += Duration::from_secs(1),
            Fault::LeasesNothing => claim.lease = Duration::ZERO,
            Fault::LosesLeases => claim.lease *= 1_000,
            Fault::IgnoresEach => claim.most_per_endpoint = claim.most,
            Fault::HoldsUp => {
                let mut first = claim.clone();
                first.sinks.truncate(1);
                let claimed = self.inner.claim(&first).await?;
                if !claimed.is_empty() {
                    return Ok(claimed);
                }
            }
            Fault::Starves => {
                for sinks in claim.sinks.chunks(claim.most as usize) {
                    let mut some = claim.clone();
                    some.sinks = sinks.to_vec();
                    let claimed = self.inner.claim(&some).await?;
                    if !claimed.is_empty() {
                        return Ok(claimed);
                    }
                }
            }
            Fault::ServesAll => claim.except.clear(),
            Fault::CountsClaims => {
                let claimed = self.inner.claim(&claim).await?.into_iter();
                let count = |delivery: Delivery| {
                    let attempt = delivery.attempt;
                    delivery.with_attempt(attempt, u32::try_from(attempt).unwrap())
                };
                return Ok(claimed.map(count).collect());
            }
            Fault::ForgetsTheUnfinished => {
                let claimed = self.inner.claim(&claim).await?.into_iter();
                return Ok(claimed.map(|it| it.with_unfinished(0)).collect());
            }
            Fault::RacesClaims => return self.race(&claim).await,
            Fault::TakesNewestFirst => {
                let mut claimed = self.inner.claim(&claim).await?;
                if claimed.len() == 1 && claim.most_per_endpoint == 1 {
                    let next = self.inner.claim(&claim).await?;
                    let at = claim.at;
                    for delivery in &claimed {
                        let outcome = Outcome::Retry {
                            at,
                            cause: String::new(),
                        };
                        let back = Settlement::new(delivery, at, outcome);
                        self.inner.settle(&back).await?;
                    }
                    claimed = next;
                }
                return Ok(claimed);
            }
            _ => {}
        }
        self.inner.claim(&claim).await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<bool, StoreError> {
        let mut settlement = settlement.clone();
        let all = self.all_of(&settlement.endpoint).await;
        let seen = all.iter().find(|it| it.event.id == settlement.event);
        match (self.fault, seen) {
            (Fault::SettlesAnyAttempt, Some(seen)) => settlement.attempt = seen.attempts,
            (Fault::SettlesAfterReplay, Some(seen)) if seen.next_at.is_some() => {
                let is_settled = self.inner.settle(&settlement).await?;
                let is_replayed = seen.attempts == settlement.attempt + 1 && seen.cause.is_some();
                return Ok(is_settled || is_replayed);
            }
            (Fault::ForgetsRetries, Some(_)) => {
                if let Outcome::Retry { at, .. } = &mut settlement.outcome {
                    *at += Duration::from_secs(1);
                }
            }
            (Fault::RecordsReleases, Some(_)) => {
                if let Outcome::Released { at } = settlement.outcome {
                    let cause = "released".to_owned();
                    settlement.outcome = Outcome::Retry { at, cause };
                }
            }
            _ => {}
        }
        self.inner.settle(&settlement).await
    }

    async fn deliveries(
        &self,
        query: &DeliveryQuery,
        paging: &Paging,
    ) -> Result<Page<DeliveryRecord>, StoreError> {
        let page = self.inner.deliveries(query, paging).await;
        match (self.fault, page) {
            (Fault::ListsOldestFirst, Ok(mut page)) => {
                page.items.reverse();
                Ok(page)
            }
            (Fault::TakesAnyCursor, Err(error))
                if error.kind() == StoreErrorKind::InvalidCursor =>
            {
                let first = paging.clone().after(None);
                self.inner.deliveries(query, &first).await
            }
            (_, page) => page,
        }
    }

    async fn replay(
        &self,
        endpoint: &str,
        which: Replay<'_>,
        at: SystemTime,
    ) -> Result<u64, StoreError> {
        let which = match which {
            Replay::Event(_) if self.has(Fault::ReplaysAll) => Replay::Failed,
            Replay::Pending if self.has(Fault::LeavesWhatWaits) => return Ok(0),
            which => which,
        };
        self.inner.replay(endpoint, which, at).await
    }

    async fn announced_until(&self) -> Result<Option<SystemTime>, StoreError> {
        if self.has(Fault::StepsBack) {
            return Ok(*self.announced.lock().unwrap());
        }
        self.inner.announced_until().await
    }

    async fn set_announced_until(&self, until: SystemTime) -> Result<(), StoreError> {
        *self.announced.lock().unwrap() = Some(until);
        self.inner.set_announced_until(until).await
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of all faults")]
fn a_faulty_outbox_fails_with_the_broken_promise() {
    const TAKEN: &str = "an event is delivered to the endpoints that take it, and no others";
    let faults = [
        (Fault::ForgetsKinds, "an endpoint is found as it was put"),
        (
            Fault::IgnoresVersions,
            "only the preceding version of an endpoint is replaced",
        ),
        (Fault::MatchesPartsOfKinds, TAKEN),
        (
            Fault::DeliversBeforeTheChange,
            "a change that fails adds no delivery",
        ),
        (
            Fault::TellsAgain,
            "an event that was told before is not delivered again",
        ),
        (
            Fault::TellsAllOfTests,
            "an event for one endpoint is delivered to that one only",
        ),
        (
            Fault::ClaimsEarly,
            "a delivery is claimed once it is due, and not before",
        ),
        (
            Fault::LeasesNothing,
            "a claimed delivery is not claimed again before its lease ends",
        ),
        (
            Fault::LosesLeases,
            "a claimed delivery is not claimed again before its lease ends",
        ),
        (
            Fault::TakesNewestFirst,
            "of each endpoint, those that are due longest are claimed",
        ),
        (
            Fault::IgnoresEach,
            "no more are claimed for an endpoint than were asked for",
        ),
        (
            Fault::HoldsUp,
            "an endpoint with many deliveries does not hold up another one",
        ),
        (
            Fault::Starves,
            "if a claim cannot serve all endpoints, they take turns, or chance decides",
        ),
        (
            Fault::ServesAll,
            "only deliveries of the endpoints that were asked for are claimed",
        ),
        (
            Fault::ServesDisabled,
            "the deliveries of a disabled endpoint wait",
        ),
        (
            Fault::RacesClaims,
            "of claimers at once, each delivery is claimed by one",
        ),
        (
            Fault::SettlesAnyAttempt,
            "the settlement of an earlier attempt changes nothing",
        ),
        (
            Fault::SettlesAfterReplay,
            "the settlement of an earlier attempt changes nothing",
        ),
        (
            Fault::ForgetsRetries,
            "the outcome of an attempt is recorded",
        ),
        (
            Fault::ReplaysAll,
            "a replay of one event leaves the others as they are",
        ),
        (
            Fault::LeavesDeliveries,
            "a deleted endpoint leaves no delivery behind",
        ),
        (
            Fault::ListsOldestFirst,
            "a list has each delivery once, the newest event first",
        ),
        (Fault::TakesAnyCursor, "a cursor of another list is refused"),
        (
            Fault::StepsBack,
            "the time of announcements never moves backward",
        ),
        (
            Fault::CountsClaims,
            "a claim without a settlement takes no step of the schedule",
        ),
        (
            Fault::ChangesItsName,
            "the namespace of an outbox does not change",
        ),
        (
            Fault::CountsBeforeItCreates,
            "an account gets no more endpoints than the cap, by many calls at once",
        ),
        (
            Fault::LeavesWhatWaits,
            "a replay makes deliveries due now that wait, and leaves those that are due",
        ),
        (
            Fault::RecordsReleases,
            "a delivery that was given back is due at its time, in the same step",
        ),
        (
            Fault::ForgetsTheUnfinished,
            "the attempts that never ended are counted, and no others",
        ),
    ];
    for (fault, promise) in faults {
        let store = Faulty::new(fault);
        assert_eq!(broken(conformance::outbox(&store)), promise, "{fault:?}");
    }
    block_on(conformance::outbox(&Faulty::new(Fault::Nothing)));
}
