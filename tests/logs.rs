//! What operators read: one line for each refusal, as many as they can read, and outages as a
//! whole.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use support::testkit::WorldBuilder;
use support::{World, call, echoing, from, is_waiting, stranger, to, with_key};
use tower_api_key::http::{ClientAddress, TrustedProxies};
use tower_api_key::limit::{Limit, Plan};
use tower_api_key::{
    ApiKeys, ApiKeysBuilder, Caller, Limits, MemoryStore, Quota, RequireScope, Scope,
};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Lines as `LEVEL message {name=value …}`.
#[derive(Clone)]
struct Heard {
    lines: Arc<Mutex<Vec<String>>>,
    level: Level,
}

impl Heard {
    fn at(level: Level) -> Self {
        let lines = Arc::default();
        Self { lines, level }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

struct Line(String, String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").unwrap();
        } else {
            write!(self.1, " {}={value:?}", field.name()).unwrap();
        }
    }
}

impl Subscriber for Heard {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "tower_api_key" && *metadata.level() <= self.level
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new(), String::new());
        event.record(&mut line);
        let level = event.metadata().level();
        let line = format!("{level} {}{}", line.0, line.1);
        self.lines.lock().unwrap().push(line);
    }
}

/// Budgets are elsewhere.
fn limited(limits: Limits) -> WorldBuilder {
    World::builder().limits(limits).remote_limiter()
}

/// Sends a request through a proxy, and returns the status.
async fn ask(world: &World, key: Option<&str>) -> u16 {
    let proxies = TrustedProxies::networks(["10.0.0.0/8"]).unwrap();
    let layer = world.keys.layer();
    let layer = layer.client_address(ClientAddress::x_forwarded_for(proxies));
    let request = key.map_or_else(|| Request::new(()), with_key);
    let mut request = from("10.0.0.1", &to("/v1/facts", &request));
    let forwarded = "192.0.2.9".parse().unwrap();
    request.headers_mut().insert("x-forwarded-for", forwarded);
    call(echoing(&layer), request).await.status().as_u16()
}

#[tokio::test]
async fn a_refusal_is_logged_on_one_line_with_its_reason() {
    let heard = Heard::at(Level::INFO);
    let _guard = tracing::subscriber::set_default(heard.clone());
    let plan = Plan::new("free").per_key(Limit::named("burst", Quota::per_minute(1)));
    let limits = || Limits::new().add_plan(plan.clone()).default_plan("free");
    let world = limited(limits()).build();
    let key = world.keys.issue("acme").plan("free").await.unwrap();
    let id = key.id();
    let request = "client=\"192.0.2.9\" method=\"GET\" route=\"/v1/facts\"";
    assert_eq!(ask(&world, Some(key.expose_secret())).await, 200);
    assert_eq!(heard.take(), [""; 0]);
    assert_eq!(ask(&world, Some(key.expose_secret())).await, 429);
    let line = format!(
        "INFO request refused code=\"rate_limit_exceeded\" {request} key_id=\"{id}\" account=\"acme\" plan=\"free\" limit=\"burst\""
    );
    assert_eq!(heard.take(), [line]);
    assert_eq!(ask(&world, None).await, 401);
    let line = format!("INFO request refused code=\"missing_api_key\" {request}");
    assert_eq!(heard.take(), [line]);
    assert_eq!(ask(&world, Some("sk_live_junk")).await, 401);
    let line =
        format!("INFO request refused code=\"api_key_not_found\" reason=\"malformed\" {request}");
    assert_eq!(heard.take(), [line]);

    // What a handler refuses is said where it is refused.
    let caller: Caller = world.keys.verify(key.expose_secret()).await.unwrap();
    assert!(caller.require(&Scope::from_static("admin")).is_err());
    let line = format!(
        "INFO request refused code=\"insufficient_scope\" key_id=\"{id}\" account=\"acme\" plan=\"free\""
    );
    assert_eq!(heard.take(), [line]);
    let scoped = RequireScope::new(Scope::from_static("admin"));
    let inner = tower::Layer::layer(&scoped, support::EchoService);
    let stack = tower::Layer::layer(&world.keys.layer().optional(), inner);
    world.clock.advance(Duration::from_secs(60));
    let request = with_key(key.expose_secret());
    assert_eq!(call(stack, request).await.status(), 403);
    assert_eq!(heard.take().len(), 1);

    // A key in the path is not to be read in the log.
    let uri = format!("/v1/{}/x", key.expose_secret());
    let in_path = Request::builder().uri(uri).body(()).unwrap();
    let answer = call(echoing(&world.keys.layer()), in_path).await;
    assert_eq!(answer.status(), 401);
    let line = "INFO request refused code=\"missing_api_key\" method=\"GET\" route=\"[a path with an API key in it]\"";
    assert_eq!(heard.take(), [line]);

    let world = limited(limits()).set(ApiKeysBuilder::log_without_addresses);
    let world = world.build();
    assert_eq!(ask(&world, None).await, 401);
    let line = "INFO request refused code=\"missing_api_key\" method=\"GET\" route=\"/v1/facts\"";
    assert_eq!(heard.take(), [line]);
}

#[tokio::test]
async fn twenty_guesses_a_minute_are_logged_and_the_rest_counted() {
    let heard = Heard::at(Level::INFO);
    let _guard = tracing::subscriber::set_default(heard.clone());
    let world = limited(Limits::new()).build();
    for round in 0..3 {
        for _ in 0..30 {
            assert_eq!(ask(&world, Some(&stranger())).await, 401);
        }
        let mut lines = heard.take();
        if round > 0 {
            let count = "WARN more requests were refused in a minute than are logged count=10";
            assert_eq!(lines.remove(0), count);
        }
        assert_eq!(lines.len(), 20);
        let client = "reason=\"unknown\" client=\"192.0.2.9\"";
        assert!(
            lines
                .iter()
                .all(|line| line.starts_with("INFO") && line.contains(client))
        );
        world.clock.advance(Duration::from_secs(60));
    }
    // The worker tells of the last ones, where nothing else does.
    let mut worker = Box::pin(IntoFuture::into_future(world.keys.worker()));
    assert!(is_waiting(&mut worker));
    let count = "WARN more requests were refused in a minute than are logged count=10";
    assert_eq!(heard.take(), [count]);
    // All of them are seen by who wants to.
    let all = Heard::at(Level::DEBUG);
    let _guard = tracing::subscriber::set_default(all.clone());
    for _ in 0..30 {
        assert_eq!(ask(&world, None).await, 401);
    }
    let lines = all.take();
    let loud = lines.iter().filter(|line| line.starts_with("INFO")).count();
    assert_eq!((lines.len(), loud), (30, 20));
}

#[tokio::test]
async fn an_outage_is_logged_once_a_second_and_once_when_it_ends() {
    let heard = Heard::at(Level::INFO);
    let _guard = tracing::subscriber::set_default(heard.clone());
    let world = limited(Limits::new().per_key(Quota::per_hour(1_000))).build();
    let key = world.secret();
    assert_eq!(ask(&world, Some(key)).await, 200);
    let fails = async || {
        for _ in 0..3 {
            for _ in 0..10 {
                assert_eq!(ask(&world, Some(key)).await, 503);
            }
            world.clock.advance(Duration::from_secs(1));
        }
        let lines = heard.take();
        let told = |line: &String| {
            let failures = line.rsplit("failures=").next();
            (
                line.split(';').next().unwrap().to_owned(),
                failures.unwrap().to_owned(),
            )
        };
        lines.iter().map(told).collect::<Vec<_>>()
    };
    let expected = |what: &str| {
        let line = format!("ERROR {what} failed");
        [1, 10, 10].map(|failures| (line.clone(), failures.to_string()))
    };
    world.limiter.fails();
    assert_eq!(fails().await, expected("the rate limiter"));
    world.limiter.gets_well();
    assert_eq!(ask(&world, Some(key)).await, 200);
    assert_eq!(
        heard.take(),
        ["INFO the rate limiter works again failures=9"]
    );

    world.store.fails();
    world.keys.invalidate_all();
    assert_eq!(fails().await, expected("the key store"));
    world.store.gets_well();
    for _ in 0..2 {
        assert_eq!(ask(&world, Some(key)).await, 200);
    }
    assert_eq!(heard.take(), ["INFO the key store works again failures=9"]);
}

#[tokio::test]
async fn a_likely_misconfiguration_is_logged_once() {
    let heard = Heard::at(Level::INFO);
    let _guard = tracing::subscriber::set_default(heard.clone());
    let store = MemoryStore::new();
    let before = ApiKeys::builder(store.clone()).build().unwrap();
    let issued = [
        before.issue("acme").plan("gone").await.unwrap(),
        before.issue("globex").plan("gone").await.unwrap(),
    ];
    let plan = Plan::new("free").per_account(Quota::per_utc_month(1_000));
    let limits = || Limits::new().add_plan(plan.clone()).default_plan("free");
    let keys = ApiKeys::builder(store).limits(limits()).build().unwrap();
    let lines = heard.take();
    assert!(
        lines.len() == 1 && lines[0].starts_with("WARN a limit by UTC day or month"),
        "{lines:?}"
    );
    for _ in 0..2 {
        for key in &issued {
            keys.invalidate(&key.id());
            keys.verify(key.expose_secret()).await.unwrap();
        }
    }
    let line = "WARN keys name a plan that there is not; the default plan binds them plan=\"gone\" instead=\"free\"";
    assert_eq!(heard.take(), [line]);
    // A trial that hits is told at most once a minute.
    let trial = Limit::named("trial", Quota::per_hour(1)).report_only();
    keys.set_limits(Limits::new().per_key(trial)).unwrap();
    for _ in 0..5 {
        let request = with_key(issued[0].expose_secret());
        assert_eq!(call(echoing(&keys.layer()), request).await.status(), 200);
    }
    let line = format!(
        "INFO a limit that only reports would have denied a request limit=\"trial\" key_id=\"{}\" account=\"acme\"",
        issued[0].id()
    );
    assert_eq!(heard.take(), [line]);
}
