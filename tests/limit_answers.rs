//! The subjects that limits count, and what callers are told: the reach of each rule.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use support::{
    Sent, World, answer, call, from, imported, json, sorted_headers, to, today, with_key,
};
use tower::{Layer, Service};
use tower_api_key::http::{ClientAddress, RateLimitHeaders, TrustedProxies};
use tower_api_key::key::KeyFormat;
use tower_api_key::limit::{Endpoint, Limit, Plan};
use tower_api_key::{Environment, Limits, Quota};

/// For quotas of every shape and length, and with any number of units left at the denial.
#[tokio::test]
async fn a_429_states_limit_remaining_policy_and_window() {
    let second = Quota::per_second(7);
    let tens = Quota::per(7, Duration::from_secs(10)).unwrap();
    let odd = Quota::per(7, Duration::from_millis(90_500)).unwrap();
    for (quota, window, seconds) in [
        (second, "second", 1),
        (tens, "10s", 10),
        (odd, "91s", 91),
        (Quota::per_minute(7), "minute", 60),
        (Quota::per_minute(7).smooth(), "minute", 60),
        (Quota::per_second(1).smooth().burst(7), "7s", 7),
        (Quota::per_hour(7), "hour", 3_600),
        (Quota::per_day(7), "day", 86_400),
        (Quota::per_utc_day(7), "day", 86_400),
        (Quota::per_utc_month(7), "month", 31 * 86_400),
    ] {
        for (used, cost, left) in [(1, 7, 6), (5, 3, 2), (7, 1, 0)] {
            let limits = Limits::new()
                .per_key(Limit::named("mine", quota))
                .add_cost(Method::PUT, "/v1/facts", used)
                .add_cost(Method::POST, "/v1/facts", cost);
            let world = World::with_limits(limits);
            let key = world.secret();
            let layer = world.keys.layer();
            let ask = |method| {
                let mut request = to("/v1/facts", key);
                *request.method_mut() = method;
                answer(&layer, request)
            };
            assert_eq!(ask(Method::PUT).status(), 200);
            let denied = ask(Method::POST);
            let status = denied.status();
            let retry_after = denied.headers()["retry-after"].to_str().unwrap();
            let retry_after: u64 = retry_after.parse().unwrap();
            let reset_at = httpdate::fmt_http_date(today() + Duration::from_secs(retry_after));
            let body = json(denied).await;
            let details = &body["error"]["details"];
            let told = details["reset_at"].as_str().unwrap();
            assert_eq!(rfc3339(&reset_at), told, "{quota:?}");
            let expected = serde_json::json!({
                "limit": 7,
                "remaining": left,
                "reset_at": told,
                "retry_after": retry_after,
                "policy": "mine",
                "window": window,
                "window_seconds": seconds,
            });
            assert_eq!((status.as_u16(), details), (429, &expected), "{quota:?}");
            assert!(retry_after <= seconds.max(1), "{quota:?}: {retry_after}");
        }
    }
}

/// `Thu, 01 Jan 2026 00:01:00 GMT` in the other notation.
fn rfc3339(date: &str) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let words: Vec<_> = date
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .collect();
    let month = MONTHS.find(words[2]).unwrap() / 3 + 1;
    format!("{}-{month:02}-{}T{}Z", words[3], words[1], words[4])
}

/// For each kind of rule that counts by account.
#[tokio::test]
async fn test_keys_do_not_draw_on_live_budgets_unless_a_rule_says_so() {
    let apart = || Limit::from(Quota::per_minute(3));
    let across = || Limit::from(Quota::per_minute(3)).across_environments();
    let in_plan = |limit: Limit| {
        let plan = Plan::new("free").per_account(limit);
        Limits::new().add_plan(plan).default_plan("free")
    };
    let endpoint = |limit: Limit| {
        let endpoint = Endpoint::new(Method::GET, "/v1/facts").per_account(limit);
        Limits::new().add_endpoint(endpoint)
    };
    for (limits, expected) in [
        (Limits::new().per_account(apart()), [3, 3, 3]),
        (in_plan(apart()), [3, 3, 3]),
        (endpoint(apart()), [3, 3, 3]),
        (Limits::new().per_account(across()), [3, 0, 0]),
        (in_plan(across()), [3, 0, 0]),
        (endpoint(across()), [3, 0, 0]),
    ] {
        let world = World::with_limits(limits);
        let layer = world.keys.layer().dangerous_any_environment();
        let mut admitted = Vec::new();
        for environment in [
            Environment::TEST,
            Environment::LIVE,
            Environment::from_static("staging"),
        ] {
            let format = if environment == Environment::TEST {
                "test"
            } else {
                "live"
            };
            let key = KeyFormat::new(&format!("sk_{format}"), environment.clone()).unwrap();
            let key = key.generate().unwrap();
            let record = imported(key.expose_secret());
            world.create_elsewhere(record.with_environment(environment));
            let mut count = 0;
            for _ in 0..5 {
                let answer = answer(&layer, to("/v1/facts", key.expose_secret()));
                count += u32::from(answer.status() == 200);
            }
            admitted.push(count);
        }
        assert_eq!(admitted, expected);
    }
}

/// For every reason why an address is unknown, with a key and without.
#[tokio::test]
async fn callers_without_an_address_share_one_budget_per_address_limit() {
    let limits = Limits::new()
        .per_ip(Quota::per_minute(4))
        .per_ip(Limit::named("slow", Quota::per_hour(6)));
    let behind = ClientAddress::x_forwarded_for(TrustedProxies::networks(["10.0.0.0/8"]).unwrap());
    for source in [
        ClientAddress::peer(),
        behind,
        ClientAddress::from_fn(|_| None),
    ] {
        let world = World::with_limits(limits.clone());
        let layer = world.keys.layer().optional().client_address(source);
        let keys = ["acme", "globex"].map(|account| world.issue_to(account, ""));
        let mut statuses = Vec::new();
        for at in 0..12 {
            let mut request = match at % 3 {
                0 => Request::new(()),
                at => keys[at - 1].request(),
            };
            let forwarded = "203.0.113.9".parse().unwrap();
            request.headers_mut().insert("x-forwarded-for", forwarded);
            let answer = answer(&layer, request);
            statuses.push(answer.status().as_u16());
        }
        let admitted = statuses.iter().filter(|status| **status == 200).count();
        assert_eq!(admitted, 4, "{statuses:?}");
        // Those who have an address do not suffer.
        let known = from("192.0.2.1", &keys[0]);
        assert_eq!(answer(&layer, known).status(), 200);
    }
}

/// A limit that counts everybody is not replaced by the record of one key.
#[tokio::test]
async fn a_records_own_quota_does_not_replace_a_global_or_address_limit() {
    let quota = Quota::per_hour(4);
    for limits in [
        Limits::new().global(Limit::named("all", quota)),
        Limits::new().per_ip(Limit::named("all", quota)),
    ] {
        let world = World::with_limits(limits);
        let own = world
            .keys
            .issue("acme")
            .add_limit("all", Quota::per_hour(1000))
            .await
            .unwrap();
        let other = world.issue_to("globex", "");
        let mut admitted = 0;
        for key in [&own, &other].into_iter().cycle().take(12) {
            admitted += u32::from(world.ask(&from("192.0.2.1", key)) == 200);
        }
        assert_eq!(admitted, 4);
    }
}

/// The caller has used nothing, and is not told `remaining` beside a refusal for what others used.
#[tokio::test]
async fn a_caller_denied_by_a_global_limit_is_not_told_its_own_budget() {
    let limits = Limits::new()
        .global(Quota::per_hour(2))
        .per_ip(Quota::per_hour(3));
    let world = World::with_limits(limits);
    let headers = RateLimitHeaders::epoch().with_draft();
    let layer = world.keys.layer().optional().rate_limit_headers(headers);
    for host in 0..3u8 {
        let request = from(&format!("192.0.2.{host}"), &Request::new(()));
        let answer = answer(&layer, request);
        let is_told = answer.headers().contains_key("x-ratelimit-remaining");
        let is_refused = host == 2;
        assert_eq!(answer.status(), if is_refused { 429 } else { 200 });
        assert_eq!(is_told, !is_refused);
        assert_eq!(answer.headers().contains_key("ratelimit"), !is_refused);
        assert_eq!(answer.headers().contains_key("retry-after"), is_refused);
    }
}

/// Otherwise, a stranger could watch what others use.
#[tokio::test]
async fn an_anonymous_caller_is_not_told_the_usage_of_others() {
    let everybodys: [fn(Limits) -> Limits; 3] = [
        |limits| limits.global(Quota::per_minute(50)),
        |limits| limits.global(Limit::named("all", Quota::per_second(1).smooth().burst(50))),
        |limits| {
            let facts = Endpoint::new(Method::GET, "/v1/facts").global(Quota::per_utc_day(50));
            limits.add_endpoint(facts.cost(2))
        },
    ];
    for of_everybody in everybodys {
        for per_address in [
            None,
            Some(Quota::per_minute(1000)),
            Some(Quota::per_minute(2)),
        ] {
            let limits = of_everybody(Limits::new());
            let limits = per_address.into_iter().fold(limits, Limits::per_ip);
            let mut told = Vec::new();
            for used in [0, 1, 20] {
                let world = World::with_limits(limits.clone());
                let headers = RateLimitHeaders::epoch().with_draft();
                let layer = world.keys.layer().optional().rate_limit_headers(headers);
                let ask = async |request: Request<()>, host: u8| {
                    let request = from(&format!("192.0.2.{host}"), &to("/v1/facts", &request));
                    let (parts, body) = answer(&layer, request).into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    (parts.status, parts.headers, body)
                };
                let key = world.secret();
                for host in 0..used {
                    ask(with_key(key), host).await;
                }
                let first = ask(Request::new(()), 99).await;
                assert_eq!(first.0, 200);
                let names = ["x-ratelimit-remaining", "ratelimit", "ratelimit-policy"];
                let is_told = names.map(|name| first.1.contains_key(name));
                assert_eq!(is_told, [per_address.is_some(); 3]);
                told.push((first, ask(Request::new(()), 99).await));
            }
            assert!(told.iter().all(|it| *it == told[0]), "{told:?}");
        }
    }
    // Nor in a denial, which a stranger with a cost of more than what is left gets.
    let limits = Limits::new()
        .global(Quota::per_minute(10))
        .add_cost(Method::GET, "/v1/dear", 10);
    for used in 1..10 {
        let world = World::with_limits(limits.clone());
        let key = world.secret();
        let layer = world.keys.layer().optional();
        for _ in 0..used {
            answer(&layer, with_key(key));
        }
        let answer = answer(&layer, to("/v1/dear", &Request::new(())));
        assert_eq!(answer.status(), 429);
        assert!(!answer.headers().contains_key("x-ratelimit-remaining"));
        let body = json(answer).await;
        assert_eq!(body["error"]["details"]["remaining"], 0);
    }
}

/// An inner service that answers with what it is told to.
#[derive(Clone)]
struct Inner(u16, Vec<(&'static str, &'static str)>);

impl<B> Service<Request<B>> for Inner {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let mut response = Response::builder().status(self.0);
        for (name, value) in &self.1 {
            response = response.header(*name, *value);
        }
        ready(Ok(response.body(Full::default()).unwrap()))
    }
}

#[tokio::test]
async fn headers_of_an_inner_limiter_are_kept_only_on_its_own_refusals() {
    let quota = Quota::per_minute(100_000);
    let world = World::with_limits(Limits::new().per_key(quota));
    let key = world.secret();
    let headers = RateLimitHeaders::epoch().with_draft();
    let layer = world.keys.layer().rate_limit_headers(headers);
    let theirs = [
        ("x-ratelimit-limit", "5"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "17"),
        ("retry-after", "17"),
        ("ratelimit", "\"theirs\";r=0;t=17"),
        ("ratelimit-policy", "\"theirs\";q=5;w=60"),
        ("ratelimit-limit", "5"),
    ];
    let ask = async |inner: Inner, is_grpc: bool| {
        let mut request = with_key(key);
        if is_grpc {
            *request.method_mut() = Method::POST;
            let grpc = "application/grpc".parse().unwrap();
            request.headers_mut().insert("content-type", grpc);
        }
        call(layer.layer(inner), request).await
    };
    let all = |answer: &Response<_>| -> Vec<(String, String)> {
        let told = answer.headers().iter();
        let told =
            told.filter(|(name, _)| name.as_str().contains("ratelimit") || *name == "retry-after");
        let mut told: Vec<_> = told
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        told.sort();
        told
    };
    // Any part of what it may say, of each kind of refusal.
    for picked in 1..1 << theirs.len() {
        let said: Vec<_> = (0..theirs.len())
            .filter(|at| picked >> at & 1 == 1)
            .map(|at| theirs[at])
            .collect();
        let answer = ask(Inner(429, said.clone()), false).await;
        assert_eq!(all(&answer), sorted_headers(&said), "429");
        let mut grpc = said.clone();
        grpc.push(("grpc-status", "8"));
        assert_eq!(
            all(&ask(Inner(200, grpc), true).await),
            sorted_headers(&said),
            "grpc"
        );
        let has = |name| said.iter().any(|(said, _)| *said == name);
        for status in [403, 503] {
            let answer = ask(Inner(status, said.clone()), false).await;
            let is_theirs = has("retry-after") || has("x-ratelimit-remaining");
            assert_eq!(
                all(&answer) == sorted_headers(&said),
                is_theirs,
                "{status} {said:?}"
            );
        }
        // On other answers each line is there once, and ours.
        for status in [200, 201, 304, 404, 500] {
            let answer = ask(Inner(status, said.clone()), false).await;
            for name in ["x-ratelimit-limit", "x-ratelimit-remaining", "ratelimit"] {
                let lines: Vec<_> = answer.headers().get_all(name).iter().collect();
                assert_eq!(lines.len(), 1, "{status} {name}");
            }
            assert_eq!(answer.headers()["x-ratelimit-limit"], "100000", "{status}");
        }
    }
    // A refusal that says nothing of its limit: ours would be taken for it.
    let answer = ask(Inner(429, Vec::new()), false).await;
    assert_eq!(all(&answer), []);
}
