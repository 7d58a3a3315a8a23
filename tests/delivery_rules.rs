//! Rules of deliveries and of their endpoints that owners and operators rely on.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/deliveries.rs"]
mod deliveries;
mod support;

use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deliveries::{Process, Quick, SECOND, URL, masters};
use support::{DAY, is_waiting, process, today};
use tower_api_key::clock::ManualClock;
use tower_api_key::events::{
    DeliveryRecord, DeliveryState, EndpointError, EventSink, KeptEvent, SinkError, Target,
};
use tower_api_key::store::{Outbox, Paging};
use tower_api_key::webhook::{HttpsClient, Resolve, SendErrorKind, Webhooks};
use tower_api_key::{ApiKeys, MemoryStore};

/// The time for which a claimed delivery belongs to a process.
const LEASE: Duration = Duration::from_secs(180);

const GONE: &str = "the endpoint answered 410";

/// Asserts that a delivery is tried again after the first pause of the schedule.
fn assert_first_pause(delivery: &DeliveryRecord, keys: &ApiKeys) {
    assert_eq!(delivery.state, DeliveryState::Pending, "{delivery:?}");
    let pause = delivery.next_at.unwrap().duration_since(keys.now());
    let first = SECOND * 5..=SECOND * 6;
    assert!(first.contains(&pause.unwrap()), "{delivery:?}");
}

/// Returns the deliveries to any endpoint.
async fn all_to(keys: &ApiKeys, id: &str) -> Vec<DeliveryRecord> {
    let (all, paging) = (keys.dangerous_all_endpoints().unwrap(), Paging::first(100));
    all.deliveries(id, None, &paging).await.unwrap().items
}

#[tokio::test]
async fn processes_that_die_in_an_attempt_use_no_step() {
    let (store, clock) = (MemoryStore::new(), ManualClock::at(today()));
    let mut process = Process::with(&store, &clock, masters());
    let id = process.hook().await;
    process.issue().await;
    process.later(SECOND);
    for _ in 0..2 {
        assert_eq!(process.client.count(), 1);
        drop(process);
        process = Process::with(&store, &clock, masters());
        process.later(LEASE);
    }
    assert_eq!(process.client.count(), 1);
    process.client.answer(0, Ok(500));
    process.work();
    let [delivery] = &process.deliveries(&id).await[..] else {
        panic!("there is one event");
    };
    assert_eq!(delivery.attempts, 3);
    assert_first_pause(delivery, &process.keys);
}

#[tokio::test]
async fn a_process_without_a_sink_leaves_its_deliveries_to_others() {
    let (store, clock) = (MemoryStore::new(), ManualClock::at(today()));
    let (mail, log) = (Quick::default(), Quick::default());
    let with = |name: &'static str, sink: &Quick| {
        let sink = sink.clone();
        process::Process::with(store.clone(), &clock, |it| it.sink(name, sink))
    };
    let mut knowing = with("mail", &mail);
    let mut ignorant = with("log", &log);
    knowing.keys.issue("acme").await.unwrap();
    for _ in 0..30 {
        ignorant.pass(SECOND * 61);
    }
    assert_eq!(log.of_kind("api_key.issued").len(), 1);
    let [delivery] = &all_to(&ignorant.keys, "mail").await[..] else {
        panic!("there is one event");
    };
    assert_eq!((delivery.attempts, &delivery.cause), (0, &None));
    knowing.pass(SECOND);
    assert_eq!(mail.of_kind("api_key.issued").len(), 1);
}

/// The names of a network in which one exists.
struct Network;

impl Resolve for Network {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        match name {
            "db.acme.example" => Ok(vec!["10.0.0.1".parse().unwrap()]),
            _ => Err(io::Error::other("10.0.0.53 knows no such name")),
        }
    }
}

#[tokio::test]
async fn an_owner_learns_no_address_of_the_network_and_no_name_in_it() {
    let client = HttpsClient::new().resolver(Network);
    let webhooks = Webhooks::new(masters()).client(client);
    let clock = ManualClock::at(today());
    let mut process =
        process::Process::with(MemoryStore::new(), &clock, |it| it.webhooks(webhooks));
    let acme = process.keys.endpoints("acme").unwrap();
    let mut hooks = Vec::new();
    for url in ["https://db.acme.example/", "https://other.acme.example/"] {
        hooks.push(acme.register(url).await.unwrap());
    }
    process.keys.issue("acme").await.unwrap();
    process.pass(SECOND);
    for hook in &hooks {
        let paging = Paging::first(10);
        let page = acme.deliveries(hook.id(), None, &paging).await.unwrap();
        let delivery = &page.items[0];
        assert_eq!(delivery.cause.as_deref(), Some("host_not_reached"));
        let printed = format!("{delivery:?}");
        assert!(!printed.contains("10.0.0"), "{printed}");
    }
}

/// A sink that fails with a cause.
#[derive(Clone)]
struct Fails(SinkError);

impl EventSink for Fails {
    async fn take(&self, _: &KeptEvent) -> Result<(), SinkError> {
        Err(self.0.clone())
    }
}

/// An outcome that the store refuses would only be made up for at the end of the lease.
#[tokio::test]
async fn an_outcome_with_a_cause_of_any_length_and_characters_is_recorded() {
    let cause = format!("\0a\0b{}", "ü".repeat(500));
    let clock = ManualClock::at(today());
    let mut process = process::Process::with(MemoryStore::new(), &clock, |it| {
        it.sink("later", Fails(SinkError::retry(&cause)))
            .sink("never", Fails(SinkError::give_up(&cause)))
    });
    process.keys.issue("acme").await.unwrap();
    process.pass(SECOND);
    let later = all_to(&process.keys, "later").await.remove(0);
    let never = all_to(&process.keys, "never").await.remove(0);
    // What has room in 255 bytes.
    let expected = format!("ab{}", "ü".repeat(126));
    assert_eq!(later.cause, Some(expected.clone()));
    assert_eq!(never.cause, Some(expected));
    assert_eq!(never.state, DeliveryState::Failed);
    assert_first_pause(&later, &process.keys);
    process.pass(SECOND * 6);
    let again = all_to(&process.keys, "later").await.remove(0);
    assert_eq!(again.attempts, 2);
}

/// A sink that never answers.
#[derive(Clone, Default)]
struct Hangs(Arc<AtomicUsize>);

impl EventSink for Hangs {
    async fn take(&self, _: &KeptEvent) -> Result<(), SinkError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        pending().await
    }
}

#[tokio::test]
async fn a_worker_ends_ten_seconds_after_its_stop_although_a_sink_hangs() {
    let (clock, sink) = (ManualClock::at(today()), Hangs::default());
    let builder = ApiKeys::builder(MemoryStore::new()).clock(clock.clone());
    let keys = builder.sink("mail", sink.clone()).build().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut worker = Box::pin(keys.worker().until(async {
        let _ = stopped.await;
    }));
    assert!(is_waiting(&mut worker));
    keys.issue("acme").await.unwrap();
    clock.advance(SECOND);
    assert!(is_waiting(&mut worker));
    assert_eq!(sink.0.load(Ordering::Relaxed), 1);
    stop.send(()).unwrap();
    assert!(is_waiting(&mut worker));
    clock.advance(SECOND * 9);
    assert!(is_waiting(&mut worker), "the delivery may still end");
    clock.advance(SECOND * 2);
    assert!(!is_waiting(&mut worker));
    // It is not lost.
    let delivery = all_to(&keys, "mail").await.remove(0);
    assert_eq!(delivery.state, DeliveryState::Pending);
}

/// The receiver may have answered before the change, so the next answer tells.
#[tokio::test]
async fn a_410_during_a_change_of_the_endpoint_is_like_another_failure() {
    for change in ["kinds", "url", "repair"] {
        let mut process = Process::new();
        let id = process.hook().await;
        process.issue().await;
        process.later(SECOND);
        let acme = process.acme();
        let changed = match change {
            "kinds" => acme.set_kinds(&id, ["api_key.issued"]).await,
            "url" => acme.set_url(&id, "https://other.acme.example/").await,
            _ => {
                acme.disable(&id, "it is repaired").await.unwrap();
                acme.enable(&id).await
            }
        };
        let changed = changed.unwrap();
        process.client.answer(0, Ok(410));
        process.work();
        let found = acme.find(&id).await.unwrap().unwrap();
        assert_eq!(found, changed, "{change}");
        let delivery = process.deliveries(&id).await.remove(0);
        assert_eq!(delivery.cause.as_deref(), Some(GONE), "{change}");
        assert_first_pause(&delivery, &process.keys);
        // The receiver of the changed endpoint says so, too.
        process.later(SECOND * 6);
        process.client.answer(1, Ok(410));
        process.work();
        let disabled = acme.find(&id).await.unwrap().unwrap();
        assert_eq!(disabled.disabled.as_ref().unwrap().reason, GONE, "{change}");
        assert_eq!(disabled.target, changed.target, "{change}");
        assert_eq!(disabled.kinds, changed.kinds, "{change}");
        assert_eq!(process.states(&id).await, [DeliveryState::Failed]);
        process.later(SECOND);
        let told = process.sink.of_kind("webhook.disabled");
        assert_eq!(told.len(), 1, "{change}: {told:?}");
    }
}

#[tokio::test]
async fn a_410_of_an_endpoint_that_its_owner_has_disabled_changes_and_tells_nothing() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.later(SECOND);
    let disabled = process.acme().disable(&id, "unpaid").await.unwrap();
    process.client.answer(0, Ok(410));
    process.work();
    let found = process.acme().find(&id).await.unwrap().unwrap();
    assert_eq!(found, disabled);
    assert_eq!(process.states(&id).await, [DeliveryState::Failed]);
    process.later(SECOND);
    assert!(process.sink.of_kind("webhook.disabled").is_empty());
}

#[tokio::test]
async fn another_account_neither_sees_nor_changes_an_endpoint_and_its_deliveries() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.issue().await;
    process.later(SECOND);
    process.client.answer(0, Err(SendErrorKind::ConnectFailed));
    process.work();
    let endpoint = process.acme().find(&id).await.unwrap();
    let deliveries = process.deliveries(&id).await;
    let event = &deliveries[0].event.id;
    let (paging, other) = (Paging::first(10), "https://globex.example/");
    let globex = process.keys.endpoints("globex").unwrap();
    let refused = [
        globex.deliveries(&id, None, &paging).await.err(),
        globex.replay(&id, event).await.err(),
        globex.replay_failed(&id).await.err(),
        globex.retry_now(&id).await.err(),
        globex.set_url(&id, other).await.err(),
        globex.set_kinds(&id, ["api_key.issued"]).await.err(),
        globex.disable(&id, "mine").await.err(),
        globex.enable(&id).await.err(),
        globex.rotate_secret(&id, DAY).await.err(),
        globex.webhook(&id).await.err(),
        globex.send_test(&id).await.err(),
    ];
    for (at, refused) in refused.iter().enumerate() {
        let is_not_found = matches!(refused, Some(EndpointError::NotFound(of)) if *of == id);
        assert!(is_not_found, "{at}: {refused:?}");
    }
    assert!(globex.find(&id).await.unwrap().is_none());
    assert!(globex.list(&paging).await.unwrap().items.is_empty());
    assert_eq!(process.acme().find(&id).await.unwrap(), endpoint);
    assert_eq!(process.deliveries(&id).await, deliveries);
}

/// The secret of before the restore may have leaked: that may be why it was rotated.
#[tokio::test]
async fn a_rotation_after_the_restore_of_a_backup_does_not_bring_back_a_secret() {
    let (store, clock) = (MemoryStore::new(), ManualClock::at(today()));
    let process = Process::with(&store, &clock, masters());
    let first = process.acme().register(URL).await.unwrap();
    let id = first.id();
    let backup = process.acme().find(id).await.unwrap().unwrap();
    clock.advance(DAY);
    let second = process.acme().rotate_secret(id, Duration::ZERO).await;
    assert!(store.delete_endpoint(id).await.unwrap());
    store.put_endpoint(&backup).await.unwrap();
    clock.advance(SECOND);
    let third = process.acme().rotate_secret(id, Duration::ZERO).await;
    let (second, third) = (second.unwrap(), third.unwrap());
    assert_ne!(second.expose_secret(), first.expose_secret());
    assert_ne!(third.expose_secret(), first.expose_secret());
    assert_ne!(third.expose_secret(), second.expose_secret());
}

#[tokio::test]
async fn two_secrets_sign_for_at_most_a_year() {
    for overlap in [365 * DAY, 366 * DAY, Duration::MAX] {
        let mut process = Process::new();
        let id = process.hook().await;
        let rotated = process.acme().rotate_secret(&id, overlap).await.unwrap();
        let Target::Webhook(target) = &rotated.endpoint().target else {
            panic!("it is a webhook");
        };
        let until = target.previous.as_ref().map(|(_, until)| *until);
        assert_eq!(until, Some(today() + 365 * DAY), "{overlap:?}");
        process.later(SECOND * (365 * 86_400 - 2));
        process.issue().await;
        process.later(SECOND);
        process.client.answer(0, Ok(204));
        process.work();
        process.issue().await;
        process.later(SECOND);
        assert_eq!(process.client.signatures(0), 2, "{overlap:?}");
        assert_eq!(process.client.signatures(1), 1, "{overlap:?}");
    }
}
