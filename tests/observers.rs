//! The seam for decisions: each is announced once, with all that is known, and each answer to a key
//! once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::future::IntoFuture;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use support::testkit::WorldBuilder;
use support::{Sent, World, call, echoing, from, to, today, with_key};
use tower::util::MapResponseLayer;
use tower::{Layer, ServiceExt, service_fn};
use tower_api_key::http::RequestHead;
use tower_api_key::key::AllowedNetworks;
use tower_api_key::manage::WorkerHealth;
use tower_api_key::observe::{Answered, Decision, Observer};
use tower_api_key::{ApiKeyLayer, Caller, Limits, Quota, Rejection, RequireScope, Scope};

/// What it was told, as text.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Told {
    fn decided(&self, decision: &Decision<'_>) {
        let outcome = decision.rejection().map_or("admitted", |it| it.code());
        let account = decision.key().map_or("nobody", |key| key.account());
        let client = decision
            .client()
            .map_or("nowhere".to_owned(), |it| it.to_string());
        let charges: Vec<_> = decision
            .charges()
            .map(|(charge, standing)| {
                let (cost, unit) = (charge.cost(), charge.unit());
                format!("{cost} {unit} of {} left", standing.remaining())
            })
            .collect();
        let (method, route) = (decision.method(), decision.route());
        assert_eq!(decision.at(), today());
        let told = format!("{outcome} {account} {client} {method} {route} {charges:?}");
        self.0.lock().unwrap().push(told);
    }

    fn answered(&self, answer: &Answered<'_>) {
        let code = answer.rejection().map(Rejection::code);
        let told = format!(
            "answered {} {} {code:?}",
            answer.key().account(),
            answer.status()
        );
        self.0.lock().unwrap().push(told);
    }
}

/// A world, and what an observer is told of it.
fn told_of(world: WorldBuilder) -> (World, Told) {
    let told = Told::default();
    (world.observer(told.clone()).build(), told)
}

/// With budgets at hand, and with budgets that are waited for.
fn near_and_far(limits: &Limits) -> [WorldBuilder; 2] {
    let limited = || World::builder().limits(limits.clone());
    [limited(), limited().remote_limiter()]
}

fn request(sent: &(impl Sent + ?Sized)) -> Request<()> {
    from("192.0.2.1", &to("/v1/facts", sent))
}

fn without_key() -> Request<()> {
    request(&Request::new(()))
}

#[tokio::test]
async fn each_decision_is_announced_once_and_each_answer_to_a_key_once() {
    for world in near_and_far(&Limits::new().per_key(Quota::per_minute(2))) {
        let (world, told) = told_of(world);
        let good = world.key();
        let strict = world.keys.layer();
        let optional = world.keys.layer().optional();
        let other = format!("{}x", world.secret());
        let ask = async |layer: &ApiKeyLayer, request: Request<()>| {
            call(echoing(layer), request).await;
            told.take()
        };
        let admitted =
            |left| format!("admitted acme 192.0.2.1 GET /v1/facts [\"1 requests of {left} left\"]");
        let answered = "answered acme 200 OK None".to_owned();
        // The first is loaded from the store, the second is cached.
        for left in [1, 0] {
            assert_eq!(
                ask(&strict, request(good)).await,
                [admitted(left), answered.clone()]
            );
        }
        let limited = ask(&strict, request(good)).await;
        assert_eq!(
            limited,
            ["rate_limit_exceeded acme 192.0.2.1 GET /v1/facts [\"1 requests of 0 left\"]"]
        );
        let missing = ask(&strict, without_key()).await;
        assert_eq!(
            missing,
            ["missing_api_key nobody 192.0.2.1 GET /v1/facts []"]
        );
        let malformed = ask(&strict, request(&other)).await;
        assert_eq!(
            malformed,
            ["api_key_not_found nobody 192.0.2.1 GET /v1/facts []"]
        );
        let nobody = ask(&optional, without_key()).await;
        assert_eq!(nobody, ["admitted nobody 192.0.2.1 GET /v1/facts []"]);
        world.keys.suspend(world.key().id()).await.unwrap();
        let suspended = ask(&strict, request(good)).await;
        assert_eq!(
            suspended,
            ["api_key_suspended acme 192.0.2.1 GET /v1/facts []"]
        );
        world.keys.invalidate(&world.key().id());
        world.store.fails();
        let down = ask(&strict, request(good)).await;
        assert_eq!(
            down,
            ["service_unavailable nobody 192.0.2.1 GET /v1/facts []"]
        );
    }
}

/// A request that a handler refuses was admitted; its refusal is reported with its answer.
#[tokio::test]
async fn a_refusal_by_a_handler_is_reported_with_the_answer() {
    let (world, told) = told_of(World::builder());
    let scoped = RequireScope::new(Scope::from_static("reports:read"));
    let inner = service_fn(async |request: Request<()>| {
        assert!(request.extensions().get::<Caller>().is_some());
        Ok::<_, std::convert::Infallible>(Response::new(Full::<bytes::Bytes>::default()))
    });
    // Two layers of the same keys: the outer one announces.
    let stack = world
        .keys
        .layer()
        .layer(world.keys.layer().layer(scoped.layer(inner)));
    let request = request(world.key());
    let answer = stack.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let told = told.take();
    assert_eq!(
        told,
        [
            "admitted acme 192.0.2.1 GET /v1/facts []",
            "answered acme 403 Forbidden Some(\"insufficient_scope\")",
        ]
    );
}

/// In gRPC a refusal has 200, and a layer in between may make another answer of it.
#[tokio::test]
async fn the_reported_status_is_that_of_the_answer() {
    for (grpc, softened, expected) in [
        (
            false,
            false,
            "answered acme 403 Forbidden Some(\"insufficient_scope\")",
        ),
        (
            true,
            false,
            "answered acme 200 OK Some(\"insufficient_scope\")",
        ),
        (false, true, "answered acme 404 Not Found None"),
    ] {
        let (world, told) = told_of(World::builder());
        let scoped = RequireScope::new(Scope::from_static("reports:read"));
        let inner = scoped.layer(support::EchoService);
        let soften = MapResponseLayer::new(move |mut answer: Response<_>| {
            if softened {
                *answer.status_mut() = StatusCode::NOT_FOUND;
            }
            answer
        });
        let inner = soften.layer(inner);
        let mut request = request(world.key());
        if grpc {
            *request.method_mut() = Method::POST;
            let grpc = http::HeaderValue::from_static("application/grpc");
            request.headers_mut().insert("content-type", grpc);
        }
        let answer = world.keys.layer().layer(inner).oneshot(request).await;
        let told = told.take();
        assert_eq!(told[1..], [expected]);
        let status = format!(" {} ", answer.unwrap().status());
        assert!(expected.contains(&status), "{status}");
    }
}

#[tokio::test]
async fn invariant_11_two_layers_of_the_same_keys_charge_and_announce_a_request_once() {
    let limited = || World::builder().limits(Limits::new().global(Quota::per_minute(5)));
    let (world, told) = told_of(limited());
    let optional = world.keys.layer().optional();
    let stack = optional.layer(echoing(&optional));
    for left in [4, 3] {
        call(stack.clone(), without_key()).await;
        let charged = format!("[\"1 requests of {left} left\"]");
        let expected = format!("admitted nobody 192.0.2.1 GET /v1/facts {charged}");
        assert_eq!(told.take(), [expected]);
    }
    // Other keys charge and announce for themselves.
    let (other, told_of_other) = told_of(limited());
    let stack = optional.layer(echoing(&other.keys.layer().optional()));
    call(stack, without_key()).await;
    assert_eq!([&told, &told_of_other].map(|it| it.take().len()), [1, 1]);
}

/// Scopes and networks that are only reported deny nothing, and are told.
#[tokio::test]
async fn report_only_requirements_are_reported_and_deny_nothing() {
    #[derive(Clone, Default)]
    struct Reported(Arc<Mutex<Vec<&'static str>>>);
    impl Observer for Reported {
        fn decided(&self, decision: &Decision<'_>) {
            assert!(decision.is_admitted());
            let codes = decision.report_only_rejections().iter();
            self.0.lock().unwrap().extend(codes.map(Rejection::code));
        }
    }
    let reported = Reported::default();
    for world in near_and_far(&Limits::new().per_key(Quota::per_minute(9))) {
        let keys = world.observer(reported.clone()).build().keys;
        let elsewhere = AllowedNetworks::only(["198.51.100.0/24"]).unwrap();
        let read = Scope::from_static("reports:read");
        let outside = keys.issue("acme").networks(elsewhere).await.unwrap();
        let inside = keys.issue("acme").scopes([read.clone()]).await.unwrap();
        let layer = keys
            .layer()
            .require_report_only(read)
            .dangerous_report_networks();
        let expected: [&[&str]; 2] = [&["ip_not_allowed", "insufficient_scope"], &[]];
        for (key, expected) in [&outside, &inside].into_iter().zip(expected) {
            assert_eq!(call(echoing(&layer), request(key)).await.status(), 200);
            assert_eq!(*std::mem::take(&mut *reported.0.lock().unwrap()), *expected);
        }
    }
}

/// Counts by key in the cached entry, and adds up when the entry leaves.
#[derive(Clone, Default)]
struct Counting {
    total: Arc<AtomicU64>,
}

struct Count(AtomicU64, Arc<AtomicU64>);

impl Drop for Count {
    fn drop(&mut self) {
        self.1
            .fetch_add(self.0.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

impl Observer for Counting {
    fn decided(&self, decision: &Decision<'_>) {
        if let Some(key) = decision.key() {
            let count = key.slot(|| Count(AtomicU64::new(0), Arc::clone(&self.total)));
            count.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Another type in a slot of its own.
struct Ids;

impl Observer for Ids {
    fn decided(&self, decision: &Decision<'_>) {
        if let Some(key) = decision.key() {
            assert_eq!(*key.slot(|| key.id()), key.id());
        }
    }
}

#[tokio::test]
async fn observer_state_of_a_key_is_dropped_with_its_cache_entry() {
    let counting = Counting::default();
    let observed = World::builder().observer(Ids).observer(counting.clone());
    let keys = observed.build().keys;
    let issued = [
        keys.issue("acme").await.unwrap(),
        keys.issue("globex").await.unwrap(),
    ];
    let layer = keys.layer();
    for _ in 0..5 {
        for key in &issued {
            call(echoing(&layer), with_key(key.expose_secret())).await;
        }
    }
    assert_eq!(counting.total.load(Ordering::SeqCst), 0);
    // A change makes the next request load the key anew, and the entry before leaves.
    keys.suspend(issued[0].id()).await.unwrap();
    call(echoing(&layer), with_key(issued[0].expose_secret())).await;
    assert_eq!(counting.total.load(Ordering::SeqCst), 5);
    drop((layer, keys));
    assert_eq!(counting.total.load(Ordering::SeqCst), 11);
}

/// Nobody uses the key any more, and nothing pushes it out of the cache.
#[tokio::test]
async fn the_worker_drops_observer_state_of_idle_keys_and_all_when_stopped() {
    let counting = Counting::default();
    let world = World::builder().observer(counting.clone()).build();
    let (keys, clock) = (&world.keys, &world.clock);
    let [idle, busy] = [world.issue(), world.issue()];
    let total = || counting.total.load(Ordering::SeqCst);
    let health = || keys.health().worker;
    assert_eq!(health(), WorkerHealth::NotStarted);
    let (stop, stopped) = futures_util::future::abortable(std::future::pending::<()>());
    let mut worker = Box::pin(keys.worker().until(stop.map(|_| ())));
    assert!(support::is_waiting(&mut worker));
    for _ in 0..3 {
        world.ask(&idle);
    }
    // It sweeps each ten seconds; what may still serve keeps its value.
    for second in 1..=20 {
        assert_eq!(world.ask(&busy), 200);
        clock.advance(Duration::from_secs(1));
        assert!(support::is_waiting(&mut worker));
        let idle_is_over = second >= 10;
        assert!(
            total() >= if idle_is_over { 3 } else { 0 },
            "second {second}"
        );
        assert!(idle_is_over || total() == 0, "second {second}");
        assert_eq!(health(), WorkerHealth::Running);
    }
    // That the key was found is still known: it needs no attempt, and is loaded when it is used
    // again.
    assert_eq!(world.ask(&idle), 200);
    stopped.abort();
    assert!(!support::is_waiting(&mut worker));
    assert_eq!(total(), 3 + 20 + 1);
    assert_eq!(health(), WorkerHealth::Stopped);
    // One that is dropped is late.
    let mut dropped = Box::pin(keys.worker().into_future());
    assert!(support::is_waiting(&mut dropped));
    drop(dropped);
    clock.advance(Duration::from_secs(31));
    assert_eq!(health(), WorkerHealth::Late);
}

/// The credential is still there when a decision is announced, and not in what is printed of it.
#[tokio::test]
async fn debug_output_of_a_decision_does_not_show_the_key() {
    struct Shown(Mutex<Vec<String>>);
    impl Observer for Shown {
        fn decided(&self, decision: &Decision<'_>) {
            let RequestHead { method, .. } = decision.request();
            assert_eq!(*method, Method::GET);
            self.0.lock().unwrap().push(format!("{decision:?}"));
        }

        fn answered(&self, answer: &Answered<'_>) {
            self.0.lock().unwrap().push(format!("{answer:?}"));
        }
    }
    let shown = Arc::new(Shown(Mutex::default()));
    let world = World::builder().observer(Arc::clone(&shown)).build();
    let key = world.secret();
    world.ask(key);
    world.ask(&key[..40]);
    let shown = shown.0.lock().unwrap().join("\n");
    assert!(
        shown.contains("acme") && !shown.contains(&key[..24]),
        "{shown}"
    );
}
