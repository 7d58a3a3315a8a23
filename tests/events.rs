//! Events: what happens to keys is told once, and delivered until it has arrived.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use support::process::{MINUTE, Process, SECOND, data, kinds, told};
use support::{DAY, EchoService, is_waiting, today};
use tower::{Layer, ServiceExt};
use tower_api_key::clock::ManualClock;
use tower_api_key::events::{DeliveryState, EndpointError, EventSink, KeptEvent, SinkError};
use tower_api_key::limit::Limit;
use tower_api_key::store::Paging;
use tower_api_key::{
    ApiKeys, ApiKeysBuilder, BuildError, KeyId, KeyStore, Limits, ManagedKeyStore, MemoryStore,
    Quota,
};

/// A sink that fails as it is told to, and notes what it took.
#[derive(Clone, Default)]
struct Sink {
    taken: Arc<Mutex<Vec<String>>>,
    attempts: Arc<AtomicUsize>,
    /// The failures to come.
    failures: Arc<AtomicU64>,
    is_final: bool,
    hangs: bool,
}

impl EventSink for Sink {
    async fn take(&self, kept: &KeptEvent) -> Result<(), SinkError> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        let less = |left: u64| left.checked_sub(1);
        if self
            .failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
        {
            if self.is_final {
                return Err(SinkError::give_up("no such mailbox"));
            }
            return Err(SinkError::retry("the mail server is down"));
        }
        self.taken.lock().unwrap().push(kept.id.clone());
        Ok(())
    }
}

#[tokio::test]
async fn every_change_of_a_key_is_told_with_the_change() {
    let store = MemoryStore::new();
    let keys = ApiKeys::builder(store.clone()).build().unwrap();
    let issued = keys.issue("acme").name("nightly export").await.unwrap();
    let id = issued.id();
    let seen = keys.find(&id).await.unwrap().unwrap();
    keys.update(&seen).name("hourly export").await.unwrap();
    keys.suspend(id).reason("unpaid").await.unwrap();
    keys.suspend(id).reason("unpaid").await.unwrap(); // nothing changes
    keys.resume(id).await.unwrap();
    let rotated = keys.rotate(id).await.unwrap();
    keys.revoke(rotated.id()).reason("leaked").await.unwrap();
    keys.revoke_family(id).await.unwrap();
    let expected = [
        "api_key.issued",
        "api_key.updated",
        "api_key.suspended",
        "api_key.resumed",
        "api_key.rotated",
        "api_key.revoked",
        "api_key.revoked",
    ];
    assert_eq!(kinds(&store).await, expected);
    // A stale update changes nothing, and tells nothing.
    keys.update(&seen).name("daily export").await.unwrap_err();
    assert_eq!(kinds(&store).await.len(), expected.len());
    let told = told(&store).await;
    for kept in &told {
        assert_eq!(kept.event.account.as_deref(), Some("acme"));
        let text = format!("{kept:?}");
        assert!(
            !text.contains("leaked") && !text.contains("unpaid"),
            "{text}"
        );
        assert!(!text.contains(issued.expose_secret()) && !text.contains(rotated.expose_secret()));
    }
    assert_eq!(data(&told[1])["changed"], serde_json::json!(["name"]));
    assert_eq!(data(&told[1])["name"], "hourly export");
    assert_eq!(data(&told[4])["successor_id"], rotated.id().to_string());
}

#[tokio::test]
async fn invariant_11_an_expiry_is_announced_thrice_and_told_once_by_several_processes() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let mut processes = [(); 3].map(|()| Process::new(store.clone(), &clock));
    let keys = processes[0].keys.clone();
    let key = keys.issue("acme").expires_in(40 * DAY).await.unwrap();
    let eternal = keys.issue("acme").await.unwrap();
    let revoked = keys.issue("acme").expires_in(40 * DAY).await.unwrap();
    keys.revoke(revoked.id()).await.unwrap();
    let of = |kept: &KeptEvent, id: KeyId| kept.event.key == Some(id);
    let mut days = Vec::new();
    for _ in 0..42 * 4 {
        clock.advance(DAY / 4);
        for process in &mut processes {
            process.work();
        }
    }
    for kept in told(&store).await {
        assert!(!of(&kept, eternal.id()) || kept.event.kind == "api_key.issued");
        if of(&kept, key.id()) && kept.event.kind != "api_key.issued" {
            let after = kept.event.at.duration_since(today()).unwrap();
            days.push((kept.event.kind.clone(), after.as_secs() / 86_400));
        }
        let of_revoked = ["api_key.issued", "api_key.revoked"];
        assert!(!of(&kept, revoked.id()) || of_revoked.contains(&&*kept.event.kind));
    }
    let expiring = "api_key.expiring".to_owned();
    let expected = [
        (expiring.clone(), 10),
        (expiring.clone(), 33),
        (expiring, 39),
        ("api_key.expired".to_owned(), 40),
    ];
    assert_eq!(days, expected);
}

#[tokio::test]
async fn a_changed_expiry_is_announced_anew_and_an_outage_of_all_tells_the_nearest_only() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let mut process = Process::new(store.clone(), &clock);
    let key = process
        .keys
        .issue("acme")
        .expires_in(8 * DAY)
        .await
        .unwrap();
    process.pass(MINUTE);
    process.pass(2 * DAY);
    process.pass(MINUTE);
    let reminders = async || {
        let told = told(&store).await;
        let told = told
            .iter()
            .filter(|kept| kept.event.kind == "api_key.expiring");
        told.map(|kept| data(kept)["days"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(reminders().await, [7]);
    let seen = process.keys.find(&key.id()).await.unwrap().unwrap();
    let later = process.keys.now() + 10 * DAY;
    process.keys.update(&seen).expires_at(later).await.unwrap();
    process.pass(4 * DAY);
    process.pass(MINUTE);
    assert_eq!(reminders().await, [7, 7]);
    // Nobody looks for ten days: the key has expired, and no reminder comes late.
    process.pass(10 * DAY);
    process.pass(MINUTE);
    assert_eq!(reminders().await, [7, 7]);
    assert_eq!(kinds(&store).await.last().unwrap(), "api_key.expired");
}

#[tokio::test]
async fn a_key_that_is_issued_for_a_week_is_not_told_at_once_that_it_ends_in_a_week() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let mut process = Process::new(store.clone(), &clock);
    process.pass(MINUTE);
    process
        .keys
        .issue("acme")
        .expires_in(7 * DAY)
        .await
        .unwrap();
    process.pass(MINUTE);
    process.pass(MINUTE);
    assert_eq!(kinds(&store).await, ["api_key.issued"]);
}

#[tokio::test]
async fn an_old_key_that_is_still_used_is_told_before_its_grace_ends() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let mut process = Process::new(store.clone(), &clock);
    let [used, unused] = [(); 2].map(|()| process.keys.issue("acme"));
    let (used, unused) = (used.await.unwrap(), unused.await.unwrap());
    for key in [&used, &unused] {
        process.keys.verify(key.expose_secret()).await.unwrap();
        process.pass(MINUTE);
        process.keys.rotate(key.id()).grace(30 * DAY).await.unwrap();
    }
    let mut at = Vec::new();
    for day in 0..32 {
        if day < 29 {
            process.keys.verify(used.expose_secret()).await.unwrap();
        }
        process.pass(DAY / 2);
        process.pass(DAY / 2);
        at.push(day);
    }
    let told = told(&store).await;
    let still_used = told
        .iter()
        .filter(|kept| kept.event.kind == "api_key.rotated_key_in_use");
    let still_used: Vec<_> = still_used
        .map(|kept| (kept.event.key, data(kept)["days"].clone()))
        .collect();
    assert_eq!(
        still_used,
        [(Some(used.id()), 7.into()), (Some(used.id()), 1.into())]
    );
    // Nobody is reminded of the end of a grace, and both ends are told.
    let count = |kind: &str| told.iter().filter(|kept| kept.event.kind == kind).count();
    assert_eq!(
        (count("api_key.expiring"), count("api_key.expired")),
        (0, 2)
    );
    assert_eq!(count("api_key.first_used"), 2);
}

#[tokio::test]
async fn a_limit_that_is_nearly_used_up_is_told_once_a_month() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let limits = || {
        let month = Limit::from(Quota::per_utc_month(10)).tell_at(80);
        Limits::new()
            .per_account(month)
            .per_ip(Quota::per_second(1_000))
    };
    let set = |builder: ApiKeysBuilder| builder.limits(limits());
    let mut processes = [(); 2].map(|()| Process::with(store.clone(), &clock, set));
    let key = processes[0].keys.issue("acme").await.unwrap();
    let call = async |process: &Process| {
        let request = http::Request::builder()
            .header("x-api-key", key.expose_secret())
            .body(())
            .unwrap();
        let service = process.keys.layer().layer(EchoService);
        service.oneshot(request).await.unwrap().status()
    };
    let count = async || {
        let kinds = kinds(&store).await;
        kinds
            .iter()
            .filter(|kind| *kind == "limit.nearly_used")
            .count()
    };
    for _ in 0..7 {
        assert_eq!(call(&processes[0]).await, 200);
    }
    processes[0].pass(MINUTE);
    assert_eq!(count().await, 0);
    // Each process has a limiter of its own here, and both come to 80 percent.
    for process in &processes {
        for _ in 0..9 {
            call(process).await;
        }
    }
    for process in &mut processes {
        process.pass(MINUTE);
    }
    assert_eq!(count().await, 1);
    let told = told(&store).await;
    let nearly = told
        .iter()
        .find(|kept| kept.event.kind == "limit.nearly_used")
        .unwrap();
    assert_eq!(nearly.event.account.as_deref(), Some("acme"));
    assert_eq!(data(nearly)["remaining"], 2);
    assert_eq!(data(nearly)["limit"], "account_per_utc_month");
    processes[0].pass(31 * DAY);
    for _ in 0..9 {
        call(&processes[0]).await;
    }
    processes[0].pass(MINUTE);
    assert_eq!(count().await, 2);
}

#[tokio::test]
async fn a_sink_gets_each_event_after_its_failures_with_the_same_id() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let sink = Sink::default();
    sink.failures.store(3, Ordering::Relaxed);
    let mut process = Process::with(store.clone(), &clock, |it| it.sink("mail", sink.clone()));
    let key = process.keys.issue("acme").await.unwrap();
    process.pass(SECOND);
    assert_eq!(sink.attempts.load(Ordering::Relaxed), 1);
    // After 5 seconds, 5 minutes and half an hour, and a fifth of each at most.
    for (pause, attempts) in [(4, 1), (3, 2), (290, 2), (80, 3), (1_790, 3), (380, 4)] {
        process.pass(Duration::from_secs(pause));
        process.pass(SECOND);
        assert_eq!(
            sink.attempts.load(Ordering::Relaxed),
            attempts,
            "after {pause}"
        );
    }
    let told = told(&store).await;
    assert_eq!(*sink.taken.lock().unwrap(), [told[0].id.clone()]);
    assert_eq!(told[0].event.key, Some(key.id()));
    process.pass(30 * DAY);
    assert_eq!(sink.attempts.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_delivery_that_is_given_up_is_listed_and_can_be_replayed() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let sink = Sink {
        is_final: true,
        ..Sink::default()
    };
    sink.failures.store(1, Ordering::Relaxed);
    let mut process = Process::with(store.clone(), &clock, |it| it.sink("mail", sink.clone()));
    process.keys.issue("acme").await.unwrap();
    process.pass(SECOND);
    process.pass(10 * DAY);
    assert_eq!(sink.attempts.load(Ordering::Relaxed), 1);
    let endpoints = process.keys.dangerous_all_endpoints().unwrap();
    let page = endpoints
        .deliveries("mail", DeliveryState::Failed, &Paging::first(10))
        .await
        .unwrap();
    assert_eq!(page.items.len(), 1);
    assert_eq!(page.items[0].cause.as_deref(), Some("no such mailbox"));
    assert_eq!(endpoints.replay_failed("mail").await.unwrap(), 1);
    process.pass(SECOND);
    assert_eq!(
        *sink.taken.lock().unwrap(),
        [page.items[0].event.id.clone()]
    );
    // Another account does not see the endpoint.
    let others = process.keys.endpoints("globex").unwrap();
    assert!(matches!(
        others.replay_failed("mail").await,
        Err(EndpointError::NotFound(_))
    ));
    assert!(!others.delete("mail").await.unwrap());
    assert!(
        others
            .list(&Paging::first(10))
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn a_sink_that_hangs_holds_up_no_other_and_is_tried_again() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let stuck = Sink {
        hangs: true,
        ..Sink::default()
    };
    let sink = Sink::default();
    let mut process = Process::with(store.clone(), &clock, |it| {
        it.sink("stuck", stuck.clone()).sink("mail", sink.clone())
    });
    for _ in 0..50 {
        process.keys.issue("acme").await.unwrap();
    }
    for _ in 0..30 {
        process.pass(SECOND);
    }
    assert_eq!(sink.taken.lock().unwrap().len(), 50);
    assert_eq!(stuck.attempts.load(Ordering::Relaxed), 4);
    for _ in 0..70 {
        process.pass(SECOND);
    }
    assert_eq!(stuck.attempts.load(Ordering::Relaxed), 8);
}

#[tokio::test]
async fn invariant_11_several_processes_take_each_event_once_and_one_that_dies_loses_none() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let (sink, stuck) = (
        Sink::default(),
        Sink {
            hangs: true,
            ..Sink::default()
        },
    );
    // It claims some of the events, and dies with them.
    let mut dying = Process::with(store.clone(), &clock, |it| it.sink("mail", stuck.clone()));
    let keys = dying.keys.clone();
    for _ in 0..100 {
        keys.issue("acme").await.unwrap();
    }
    dying.pass(SECOND);
    assert_eq!(stuck.attempts.load(Ordering::Relaxed), 4);
    drop(dying);
    let mut processes =
        [(); 3].map(|()| Process::with(store.clone(), &clock, |it| it.sink("mail", sink.clone())));
    for _ in 0..60 {
        clock.advance(SECOND);
        for process in &mut processes {
            process.work();
        }
    }
    assert_eq!(sink.taken.lock().unwrap().len(), 96);
    // The lease of the dead one ends.
    for _ in 0..130 {
        clock.advance(SECOND);
        for process in &mut processes {
            process.work();
        }
    }
    let taken = sink.taken.lock().unwrap().clone();
    assert_eq!(taken.len(), 100);
    let ids: HashSet<&String> = taken.iter().collect();
    assert_eq!(ids.len(), 100);
}

/// A sink that waits until it is let go on.
#[derive(Clone)]
struct Waiting(Arc<tokio::sync::Notify>, Sink);

impl EventSink for Waiting {
    async fn take(&self, kept: &KeptEvent) -> Result<(), SinkError> {
        self.1.attempts.fetch_add(1, Ordering::Relaxed);
        self.0.notified().await;
        self.1.taken.lock().unwrap().push(kept.id.clone());
        Ok(())
    }
}

#[tokio::test]
async fn deliveries_that_have_begun_end_when_the_worker_is_stopped() {
    let store = MemoryStore::new();
    let sink = Waiting(Arc::default(), Sink::default());
    let clock = ManualClock::at(today());
    let keys = ApiKeys::builder(store.clone())
        .clock(clock.clone())
        .sink("mail", sink.clone())
        .build()
        .unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut worker = Box::pin(keys.worker().until(async {
        let _ = stopped.await;
    }));
    assert!(is_waiting(&mut worker));
    keys.issue("acme").await.unwrap();
    clock.advance(SECOND);
    assert!(is_waiting(&mut worker));
    assert_eq!(sink.1.attempts.load(Ordering::Relaxed), 1);
    stop.send(()).unwrap();
    assert!(is_waiting(&mut worker));
    sink.0.notify_one();
    worker.await;
    assert_eq!(sink.1.taken.lock().unwrap().len(), 1);
    let endpoints = keys.dangerous_all_endpoints().unwrap();
    let paging = Paging::first(10);
    let page = endpoints
        .deliveries("mail", DeliveryState::Pending, &paging)
        .await;
    assert!(page.unwrap().items.is_empty());
}

/// A panic in a sink ends neither the worker nor the deliveries to others.
#[tokio::test]
async fn a_sink_that_panics_has_failed_and_nothing_else() {
    struct Panics;

    impl EventSink for Panics {
        async fn take(&self, _: &KeptEvent) -> Result<(), SinkError> {
            panic!("a sink of the application panicked, as it should in this test")
        }
    }

    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let sink = Sink::default();
    let mut process = Process::with(store.clone(), &clock, |it| {
        it.sink("bad", Panics).sink("mail", sink.clone())
    });
    process.keys.issue("acme").await.unwrap();
    process.pass(SECOND);
    process.pass(SECOND);
    assert_eq!(sink.taken.lock().unwrap().len(), 1);
    let endpoints = process.keys.dangerous_all_endpoints().unwrap();
    let paging = Paging::first(10);
    let page = endpoints.deliveries("bad", None, &paging).await.unwrap();
    assert_eq!(page.items[0].state, DeliveryState::Pending);
    assert_eq!(page.items[0].cause.as_deref(), Some("the attempt panicked"));
}

/// A key that ends at once, while others look, is told all the same.
#[tokio::test]
async fn a_key_that_ends_at_the_moment_of_a_look_is_told() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let mut process = Process::new(store.clone(), &clock);
    let key = process.keys.issue("acme").await.unwrap();
    process.pass(MINUTE);
    process.pass(MINUTE);
    // The look was at this moment, and the clock has stood still since.
    process
        .keys
        .rotate(key.id())
        .grace(Duration::ZERO)
        .await
        .unwrap();
    process.pass(MINUTE);
    process.pass(MINUTE);
    let kinds = kinds(&store).await;
    let expired = kinds.iter().filter(|kind| *kind == "api_key.expired");
    assert_eq!(expired.count(), 1, "{kinds:?}");
}

/// A process with a wrong clock does not end the announcements of the others.
#[tokio::test]
async fn a_clock_that_was_a_year_ahead_does_not_end_announcements() {
    let store = MemoryStore::new();
    let outbox = store.outbox().unwrap();
    let wrong = ManualClock::at(today() + 365 * DAY);
    let mut ahead = Process::new(store.clone(), &wrong);
    ahead.pass(MINUTE);
    ahead.pass(MINUTE);
    drop((ahead, outbox));
    let clock = ManualClock::at(today());
    let mut process = Process::new(store.clone(), &clock);
    process
        .keys
        .issue("acme")
        .expires_in(2 * DAY)
        .await
        .unwrap();
    for _ in 0..50 {
        process.pass(DAY / 20);
    }
    let kinds = kinds(&store).await;
    assert_eq!(
        kinds,
        ["api_key.issued", "api_key.expiring", "api_key.expired"]
    );
}

/// Units that are charged after the work may use a budget up at once: the first to show it is a
/// request that is denied. And nothing is lost when the worker is stopped.
#[tokio::test]
async fn a_budget_that_is_used_up_after_the_work_is_told_also_at_the_end() {
    let store = MemoryStore::new();
    let clock = ManualClock::at(today());
    let tokens = Limit::named("tokens", Quota::per_utc_month(100)).unit("tokens");
    let keys = ApiKeys::builder(store.clone())
        .clock(clock.clone())
        .limits(Limits::new().per_account(tokens.tell_at(90)))
        .build()
        .unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut worker = Box::pin(keys.worker().until(async {
        let _ = stopped.await;
    }));
    assert!(is_waiting(&mut worker));
    let key = keys.issue("acme").await.unwrap();
    let caller = keys.verify(key.expose_secret()).await.unwrap();
    caller.charge("tokens", 500).await.unwrap();
    let request = http::Request::builder()
        .header("x-api-key", key.expose_secret())
        .body(())
        .unwrap();
    let response = keys
        .layer()
        .layer(EchoService)
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), 429);
    stop.send(()).unwrap();
    worker.await;
    let kinds = kinds(&store).await;
    assert!(kinds.contains(&"limit.nearly_used".to_owned()), "{kinds:?}");
}

#[test]
fn sinks_need_a_store_that_delivers_and_a_plain_name() {
    #[derive(Clone)]
    struct Plain(MemoryStore);

    impl KeyStore for Plain {
        async fn find(
            &self,
            id: &KeyId,
        ) -> Result<Option<tower_api_key::KeyRecord>, tower_api_key::store::StoreError> {
            self.0.find(id).await
        }
    }

    impl ManagedKeyStore for Plain {
        async fn find_committed(
            &self,
            id: &KeyId,
        ) -> Result<Option<tower_api_key::KeyRecord>, tower_api_key::store::StoreError> {
            self.0.find(id).await
        }

        async fn commit(
            &self,
            change: &tower_api_key::store::Change,
        ) -> Result<(), tower_api_key::store::StoreError> {
            self.0.commit(change).await
        }
    }

    let plain = Plain(MemoryStore::new());
    let refused = ApiKeys::builder(plain.clone())
        .sink("mail", Sink::default())
        .build();
    assert_eq!(refused.err(), Some(BuildError::NoOutbox));
    let refused = ApiKeys::builder(MemoryStore::new())
        .sink("a mail", Sink::default())
        .build();
    assert_eq!(
        refused.err(),
        Some(BuildError::SinkName("a mail".to_owned()))
    );
    let keys = ApiKeys::builder(plain).build().unwrap();
    assert!(matches!(
        keys.dangerous_all_endpoints(),
        Err(EndpointError::NoOutbox)
    ));
    let _: SystemTime = keys.now();
}
