//! Limits over real sockets, on a clock that stands still unless it is told to: what is admitted,
//! what is refused, and what the caller is told, header by header.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, Request};
use support::{Answer, DAY, World, imported, send, serve, sorted_headers, stranger};
use tower_api_key::clock::Clock;
use tower_api_key::http::{
    ClientAddress, ErrorFormat, GrpcRequests, RateLimitHeaders, TrustedProxies,
};
use tower_api_key::limit::{
    BudgetStatus, Charge, Endpoint, Limit, LimiterError, LimitsError, Plan, RateLimiter, Refund,
    Verdict,
};
use tower_api_key::{ApiKeys, BuildError, Environment, IssuedKey, Limits, MemoryStore, Quota};

async fn ask(address: SocketAddr, key: &str) -> Answer {
    ask_for(address, Method::GET, "/v1/facts", key).await
}

async fn ask_for(address: SocketAddr, method: Method, path: &str, key: &str) -> Answer {
    let request = Request::builder().method(method).uri(path);
    let request = match key {
        "" => request,
        key => request.header("authorization", format!("Bearer {key}")),
    };
    send(address, request.body(()).unwrap()).await
}

/// 2026-01-01T00:01:00Z: a window, and the slot that it may be held back for.
const RESET: (&str, &str) = ("x-ratelimit-reset", "1767225660");

#[tokio::test]
async fn the_tightest_limit_is_reported_and_named_in_a_denial() {
    let plan = Plan::new("free").per_account(Quota::per_minute(2));
    let limits = Limits::new()
        .add_plan(plan)
        .default_plan("free")
        .global(Quota::per_hour(100));
    let world = World::with_limits(limits);
    let key = world.issue_to("acme", "free");
    let key = key.expose_secret();
    let address = serve(world.keys.layer()).await;
    for remaining in ["1", "0"] {
        let told = [
            ("x-key-status", "active"),
            ("x-ratelimit-limit", "2"),
            ("x-ratelimit-remaining", remaining),
            RESET,
        ];
        let answer = ask(address, key).await;
        assert_eq!(
            (answer.status, answer.headers),
            (200, sorted_headers(&told))
        );
    }
    let denied = ask(address, key).await;
    let told = [
        ("content-type", "application/json"),
        ("cache-control", "no-store"),
        ("retry-after", "60"),
        ("x-key-status", "active"),
        ("x-ratelimit-limit", "2"),
        ("x-ratelimit-remaining", "0"),
        RESET,
    ];
    let body = r#"{"error":{"code":"rate_limit_exceeded","message":"The rate limit \"account_per_minute\" is used up. Try again in 60 s.","details":{"limit":2,"policy":"account_per_minute","remaining":0,"reset_at":"2026-01-01T00:01:00Z","retry_after":60,"window":"minute","window_seconds":60}}}"#;
    assert_eq!(denied.status, 429);
    assert_eq!(denied.headers, sorted_headers(&told));
    assert_eq!(denied.body, body);

    // Who waits as told is admitted; who does not, is not.
    world.clock.advance(Duration::from_secs(59));
    assert_eq!(ask(address, key).await.status, 429);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(ask(address, key).await.status, 200);
}

#[tokio::test]
async fn the_draft_header_fields_report_every_limit() {
    let plan = Plan::new("free")
        .per_account(Quota::per_minute(2))
        .per_account(Quota::per_second(1).smooth().burst(3))
        .per_key(Limit::named(
            "monthly",
            Quota::per_utc_month(999_999_999_999_999),
        ));
    let world = World::with_limits(Limits::new().add_plan(plan).default_plan("free"));
    let key = world.issue_to("acme", "free");
    let key = key.expose_secret();
    let draft = RateLimitHeaders::delta().with_draft();
    let address = serve(world.keys.layer().rate_limit_headers(draft)).await;
    let policy = "\"account_per_minute\";q=2;w=60, \"account_rate\";q=3;w=3, \
                  \"monthly\";q=999999999999999;w=2678400";
    let one = ask(address, key).await;
    assert_eq!(one.header("ratelimit-policy"), Some(policy));
    let limit = "\"account_per_minute\";r=1;t=60, \"account_rate\";r=2;t=3, \
                 \"monthly\";r=999999999999998;t=2678400";
    assert_eq!(one.header("ratelimit"), Some(limit));
    assert_eq!(one.header("x-ratelimit-reset"), Some("60"));
    ask(address, key).await;
    let denied = ask(address, key).await;
    assert_eq!(denied.status, 429);
    let limit = "\"account_per_minute\";r=0;t=60, \"account_rate\";r=1;t=3, \
                 \"monthly\";r=999999999999997;t=2678400";
    assert_eq!(denied.header("ratelimit"), Some(limit));

    let silent = world
        .keys
        .layer()
        .rate_limit_headers(RateLimitHeaders::none());
    let denied = ask(serve(silent).await, key).await;
    assert_eq!(
        (denied.status, denied.header("retry-after")),
        (429, Some("60"))
    );
    assert_eq!(denied.header("x-ratelimit-limit"), None);
    assert_eq!(denied.header("ratelimit"), None);
}

#[tokio::test]
async fn a_plan_binds_the_account_and_unknown_plans_are_the_default() {
    let limits = Limits::new()
        .add_plan(Plan::new("free").per_account(Quota::per_minute(2)))
        .add_plan(Plan::new("pro").per_account(Quota::per_minute(5)))
        .default_plan("free");
    // Issued before there were plans.
    let world = World::with_limits(Limits::new());
    let unheard_of = world.issue_to("eve", "unheard of");
    world.keys.set_limits(limits).unwrap();
    let address = serve(world.keys.layer()).await;
    let admitted = async |key: &IssuedKey| {
        let mut count = 0;
        while count < 10 && ask(address, key.expose_secret()).await.status == 200 {
            count += 1;
        }
        count
    };
    assert_eq!(admitted(&world.issue_to("bob", "pro")).await, 5);
    assert_eq!(admitted(&world.issue_to("ann", "free")).await, 2);
    assert_eq!(admitted(&unheard_of).await, 2);
    let none = world.keys.issue("nobody").await.unwrap();
    assert_eq!(admitted(&none).await, 2);
    // All keys of an account draw on one budget.
    let [one, two] = [world.issue_to("acme", "pro"), world.issue_to("acme", "pro")];
    assert_eq!(admitted(&one).await + admitted(&two).await, 5);
}

#[tokio::test]
async fn endpoints_have_costs_and_limits_of_their_own() {
    let reports = Endpoint::new(Method::POST, "/v1/reports")
        .cost(10)
        .per_account(Quota::per_hour(20));
    let limits = Limits::new()
        .per_account(Quota::per_minute(25))
        .add_endpoint(reports)
        .add_cost(Method::GET, "/v1/reports", 1)
        .add_cost(Method::GET, "/v1/free", 0);
    let world = World::with_limits(limits);
    let key = world.secret();
    let address = serve(world.keys.layer()).await;
    let post = async || ask_for(address, Method::POST, "/v1/reports", key).await;
    let left = |answer: &Answer| answer.header("x-ratelimit-remaining").unwrap().to_owned();

    assert_eq!(left(&post().await), "10");
    let get = ask_for(address, Method::GET, "/v1/reports", key).await;
    assert_eq!(left(&get), "14", "another method is another endpoint");
    let free = ask_for(address, Method::GET, "/v1/free", key).await;
    assert_eq!((free.status, left(&free)), (200, "14".to_owned()));
    assert_eq!(post().await.status, 200);
    let denied = post().await;
    assert_eq!(denied.code(), "rate_limit_exceeded");
    assert!(
        denied
            .body
            .contains(r#""policy":"POST /v1/reports account_per_hour""#)
    );
    // The denial took nothing of the other limit.
    assert_eq!(left(&ask(address, key).await), "3");

    // What a route is, the application may say.
    let by_route = world.keys.layer().route_by(|request| {
        let reports = request.uri.path().starts_with("/v1/reports");
        reports.then(|| "/v1/reports".to_owned())
    });
    let denied = ask_for(serve(by_route).await, Method::POST, "/v1/reports/7", key).await;
    assert!(
        denied
            .body
            .contains(r#""policy":"POST /v1/reports account_per_hour""#)
    );
}

#[tokio::test]
async fn head_requests_count_against_the_limits_of_get() {
    let facts = Endpoint::new(Method::GET, "/v1/facts").per_key(Quota::per_hour(2));
    let own = Endpoint::new(Method::HEAD, "/v1/own").per_key(Quota::per_hour(7));
    let world = World::with_limits(
        Limits::new()
            .add_endpoint(facts)
            .add_endpoint(Endpoint::new(Method::GET, "/v1/own").per_key(Quota::per_hour(1)))
            .add_endpoint(own),
    );
    let key = world.secret();
    let address = serve(world.keys.layer()).await;
    let mut statuses = Vec::new();
    for method in [Method::GET, Method::HEAD, Method::HEAD, Method::GET] {
        statuses.push(ask_for(address, method, "/v1/facts", key).await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
    let head = ask_for(address, Method::HEAD, "/v1/own", key).await;
    assert_eq!(head.header("x-ratelimit-limit"), Some("7"));
}

#[tokio::test]
async fn keys_of_an_account_with_different_quotas_do_not_reset_each_other() {
    let world = World::with_limits(Limits::new().per_account(Quota::per_minute(10)));
    let plain = world.secret();
    let smooth = world.keys.issue("acme");
    let smooth = smooth.add_limit("account_per_minute", Quota::per_hour(5).smooth());
    let smooth = smooth.await.unwrap().expose_secret().to_owned();
    let address = serve(world.keys.layer()).await;
    let mut admitted = 0;
    for _ in 0..20 {
        for key in [plain, &smooth] {
            admitted += u32::from(ask(address, key).await.status == 200);
        }
    }
    assert_eq!(admitted, 15);
}

#[tokio::test]
async fn a_cost_above_the_quota_is_refused_with_403() {
    let limits = Limits::new()
        .per_key(Quota::per_minute(5))
        .add_cost(Method::GET, "/v1/facts", 6);
    let world = World::with_limits(limits);
    let key = world.secret();
    let refused = ask(serve(world.keys.layer()).await, key).await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.header("retry-after"), None);
    let body = r#"{"error":{"code":"cost_exceeds_quota","message":"This request costs more than the whole quota of the limit \"key_per_minute\".","details":{"cost":6,"limit":5,"policy":"key_per_minute"}}}"#;
    assert_eq!(refused.body, body);
}

#[tokio::test]
async fn address_and_global_limits_apply_without_a_key() {
    let limits = Limits::new()
        .per_ip(Quota::per_minute(3))
        .global(Quota::per_minute(5));
    let world = World::with_limits(limits);
    let key = world.secret();
    let address = serve(world.keys.layer().optional()).await;
    assert_eq!(ask(address, "").await.status, 200);
    assert_eq!(ask(address, key).await.status, 200);
    assert_eq!(ask(address, "").await.status, 200);
    let denied = ask(address, "").await;
    assert!(
        denied.body.contains(r#""policy":"ip_per_minute""#),
        "{}",
        denied.body
    );
    // A key whose secret is wrong is charged to nobody.
    assert_eq!(ask(address, "sk_live_junk").await.status, 401);
    assert_eq!(ask(address, key).await.status, 429);
}

#[tokio::test]
async fn a_client_that_hides_its_address_is_limited_by_the_peer_address() {
    let world = World::with_limits(Limits::new().per_ip(Quota::per_minute(2)));
    let key = world.secret();
    let one = std::num::NonZeroU8::MIN;
    let source = ClientAddress::forwarded(TrustedProxies::count(one));
    let address = serve(world.keys.layer().client_address(source)).await;
    let mut statuses = Vec::new();
    for forwarded in ["for=\"", "for=unknown", "for=192.0.2.1", "for=\""] {
        let request = Request::builder()
            .header("authorization", format!("Bearer {key}"))
            .header("forwarded", forwarded);
        let answer = send(address, request.body(()).unwrap()).await;
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
}

#[tokio::test]
async fn an_ipv6_client_is_counted_by_the_configured_network() {
    for (prefix, same, other) in [
        (64, "2001:db8::1:2:3:4", "2001:db8:0:1::1"),
        (56, "2001:db8:0:ff::1", "2001:db8:0:100::1"),
    ] {
        let limits = Limits::new().per_ip(Quota::per_minute(1));
        let world = World::with_limits(limits.ipv6_prefix(prefix));
        let key = world.secret();
        let layer = world
            .keys
            .layer()
            .client_address(ClientAddress::from_fn(|head| {
                head.headers.get("x-from")?.to_str().ok()?.parse().ok()
            }));
        let address = serve(layer).await;
        for (from, status) in [("2001:db8::1", 200), (same, 429), (other, 200)] {
            let request = Request::builder()
                .header("x-from", from)
                .header("x-api-key", key);
            let answer = send(address, request.body(()).unwrap()).await;
            assert_eq!(answer.status, status, "{from} with /{prefix}");
        }
    }
}

#[tokio::test]
async fn a_request_refused_for_another_reason_is_not_charged() {
    let world = World::with_limits(Limits::new().per_account(Quota::per_minute(2)));
    let address = serve(world.keys.layer()).await;
    let good = world.secret();
    let test = world.keys.issue("acme").environment(Environment::TEST);
    let test = test.await.unwrap();
    let revoked = world.keys.issue("acme").await.unwrap();
    world.keys.revoke(revoked.id()).await.unwrap();
    for _ in 0..5 {
        assert_eq!(ask(address, test.expose_secret()).await.status, 403);
        assert_eq!(ask(address, revoked.expose_secret()).await.status, 401);
    }
    let answer = ask(address, good).await;
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("1"));
}

#[tokio::test]
async fn a_record_can_set_its_own_quotas_and_budget() {
    let world = World::with_limits(Limits::new().per_key(Quota::per_minute(2)));
    let address = serve(world.keys.layer()).await;
    let generous = world
        .keys
        .issue("acme")
        .add_limit("key_per_minute", Quota::per_minute(7));
    let generous = generous.await.unwrap();
    let answer = ask(address, generous.expose_secret()).await;
    assert_eq!(answer.header("x-ratelimit-limit"), Some("7"));

    // A key that draws on the budget of another.
    let world = World::with_limits(Limits::new().per_key(Quota::per_minute(2)));
    let (old, new) = (world.secret(), stranger());
    world.create_elsewhere(imported(&new).with_budget(world.key().id()));
    let address = serve(world.keys.layer()).await;
    assert_eq!(ask(address, old).await.status, 200);
    assert_eq!(ask(address, &new).await.status, 200);
    assert_eq!(ask(address, old).await.status, 429);
    assert_eq!(ask(address, &new).await.status, 429);
}

#[tokio::test]
async fn denials_are_written_in_every_error_format() {
    let world = World::with_limits(Limits::new().per_key(Quota::per_minute(1)));
    let key = world.secret();
    let problem = world.keys.layer().errors(ErrorFormat::problem_details());
    let address = serve(problem).await;
    ask(address, key).await;
    let denied = ask(address, key).await;
    assert_eq!(
        denied.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(
        denied.body,
        r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Request cannot be satisfied as assigned quota has been exceeded","status":429,"detail":"The rate limit \"key_per_minute\" is used up. Try again in 60 s.","code":"rate_limit_exceeded","details":{"limit":1,"policy":"key_per_minute","remaining":0,"reset_at":"2026-01-01T00:01:00Z","retry_after":60,"window":"minute","window_seconds":60},"violated-policies":["key_per_minute"]}"#
    );

    let grpc = serve(world.keys.layer().grpc(GrpcRequests::AnyMethod)).await;
    let request = Request::builder()
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/grpc");
    let denied = send(grpc, request.body(()).unwrap()).await;
    assert_eq!(
        (denied.status, denied.header("grpc-status")),
        (200, Some("8"))
    );
    assert_eq!(denied.header("grpc-retry-pushback-ms"), Some("60000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_are_admitted_exactly_up_to_the_quota() {
    for quota in [
        Quota::per_day(100),
        Quota::per_day(100).smooth(),
        Quota::per_utc_day(100),
    ] {
        let world =
            World::with_limits(Limits::new().per_account(quota).per_ip(Quota::per_day(500)));
        let key = world.secret().to_owned();
        let address = serve(world.keys.layer()).await;
        let requests: Vec<_> = (0..1000)
            .map(|_| {
                let key = key.clone();
                tokio::spawn(async move { ask(address, &key).await.status })
            })
            .collect();
        let mut statuses = std::collections::BTreeMap::new();
        for request in requests {
            *statuses.entry(request.await.unwrap()).or_insert(0) += 1;
        }
        assert_eq!(statuses, [(200, 100), (429, 900)].into(), "{quota:?}");
    }
}

#[tokio::test]
async fn invariant_5_a_failing_limiter_gives_503_and_never_admits_silently() {
    let limits = Limits::new().global(Quota::per_minute(10));
    let world = World::builder().limits(limits).remote_limiter().build();
    let address = serve(world.keys.layer().optional()).await;
    for key in [world.secret(), ""] {
        assert_eq!(ask(address, key).await.status, 200);
    }
    world.limiter.fails();
    for key in [world.secret(), ""] {
        let answer = ask(address, key).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "service_unavailable")
        );
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
}

const ONE: Quota = Quota::per_minute(1);

#[test]
fn invalid_rules_are_refused() {
    let build = |limits| {
        let keys = ApiKeys::builder(MemoryStore::new()).limits(limits).build();
        match keys.map(|_| ()).unwrap_err() {
            BuildError::Limits(error) => error,
            other => panic!("{other}"),
        }
    };
    let plan = |name: &str| Plan::new(name).per_account(ONE);
    assert_eq!(
        build(Limits::new().add_plan(plan("a"))),
        LimitsError::NoDefaultPlan
    );
    let unknown = Limits::new().add_plan(plan("a")).default_plan("b");
    assert_eq!(build(unknown), LimitsError::UnknownPlan("b".into()));
    let twice = Limits::new()
        .add_plan(plan("a"))
        .add_plan(plan("a"))
        .default_plan("a");
    assert_eq!(build(twice), LimitsError::SamePlan("a".into()));
    let same = Limits::new()
        .per_account(ONE)
        .add_plan(plan("a"))
        .default_plan("a");
    assert_eq!(
        build(same),
        LimitsError::SameName("account_per_minute".into())
    );
    for bad in ["", "a\"b", "a\\b", "ä", "a\n", &"x".repeat(65)] {
        let named = Limits::new().per_key(Limit::named(bad, ONE));
        assert_eq!(build(named), LimitsError::Name(bad.into()));
    }
    let many = |count: u32| {
        (0..count).fold(Limits::new(), |limits, at| {
            limits.per_key(Limit::named(format!("limit {at}"), ONE))
        })
    };
    assert_eq!(build(many(17)), LimitsError::TooMany);
    assert!(
        ApiKeys::builder(MemoryStore::new())
            .limits(many(16))
            .build()
            .is_ok()
    );
}

/// A limiter whose verdicts are about other charges than those it was asked about.
struct Confused(usize);

impl RateLimiter for Confused {
    async fn check(&self, _: &[Charge<'_>], _: &dyn Clock) -> Result<Verdict, LimiterError> {
        let denied = BudgetStatus::new(0, DAY, Some(DAY));
        Ok(Verdict::new(&vec![denied; self.0]))
    }

    async fn refund(&self, _: &[Refund<'_>], _: &dyn Clock) -> Result<(), LimiterError> {
        Ok(())
    }
}

#[tokio::test]
async fn invariant_5_a_verdict_about_other_charges_does_not_admit() {
    for standings in [0, 2] {
        let limited = World::builder().limits(Limits::new().global(ONE));
        let world = limited
            .set(|keys| keys.limiter(Confused(standings)))
            .build();
        let address = serve(world.keys.layer()).await;
        assert_eq!(ask(address, world.secret()).await.status, 503);
    }
}

#[test]
fn invalid_quotas_are_refused() {
    assert!(Quota::per(0, DAY).is_err());
    assert!(Quota::per(1_000_000_000_000_000, DAY).is_err());
    assert!(Quota::per(1, Duration::from_millis(999)).is_err());
    assert!(Quota::per(1, 401 * DAY).is_err());
    assert!(Quota::per(999_999_999_999_999, 400 * DAY).is_ok());
    let panics = |make: fn() -> Quota| std::panic::catch_unwind(make).is_err();
    assert!(panics(|| Quota::per_minute(0)));
    assert!(panics(|| Quota::per_minute(1).burst(3)));
    assert!(panics(|| Quota::per_utc_day(1).smooth()));
    assert!(panics(|| Quota::per_second(1).smooth().burst(0)));
    assert!(panics(|| Quota::per_second(1_000_000_001).smooth()));
    assert!(panics(|| Quota::per_day(1).smooth().burst(401)));
}
