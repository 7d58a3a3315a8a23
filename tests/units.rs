//! Limits in several units, limits that only report, and limits of requests without a key, over
//! real sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use support::{Answer, World, send, serve_hyper};
use tower::{Layer, service_fn};
use tower_api_key::http::RateLimitHeaders;
use tower_api_key::limit::{ChargeError, Endpoint, Limit, LimitsError, REQUESTS};
use tower_api_key::observe::{Decision, Observer};
use tower_api_key::{ApiKeys, Caller, Limits, MemoryStore, Quota};

const TOKENS: &str = "tokens";

/// What a request asks its handler to do: `charge tokens 40`, `refund requests 1`.
const WORK: &str = "x-work";

/// Does what it is asked to, and says what came of it.
async fn work(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let asked = request.headers().get(WORK).map(|it| it.to_str().unwrap());
    let mut said = String::from("done");
    if let Some(asked) = asked {
        let caller = Caller::of(request.extensions()).unwrap();
        let words: Vec<_> = asked.split(' ').collect();
        let (unit, units) = (words[1], words[2].parse().unwrap());
        let done = match words[0] {
            "charge" => caller.charge(unit, units).await,
            _ => caller.refund(unit, units).await,
        };
        if let Err(error) = done {
            assert!(matches!(&error, ChargeError::UnknownUnit(it) if it == unit));
            said = error.to_string();
        }
    }
    Ok(Response::new(Full::from(said)))
}

/// What an observer was told that reports hit.
#[derive(Clone, Default)]
struct Hits(Arc<Mutex<Vec<String>>>);

impl Observer for Hits {
    fn decided(&self, decision: &Decision<'_>) {
        let hits = decision.report_only_hits();
        let hits = hits.map(|charge| charge.name().to_string());
        self.0.lock().unwrap().extend(hits);
    }
}

/// A world whose answers come over a socket.
struct Served {
    world: World,
    address: SocketAddr,
    hits: Hits,
}

impl Served {
    async fn new(limits: Limits) -> Self {
        let hits = Hits::default();
        let world = World::builder().limits(limits).observer(hits.clone());
        let world = world.build();
        let headers = RateLimitHeaders::epoch().with_draft();
        let layer = world.keys.layer().optional().rate_limit_headers(headers);
        let address = serve_hyper(layer.layer(service_fn(work))).await;
        Self {
            world,
            address,
            hits,
        }
    }

    async fn ask(&self, method: Method, path: &str, work: Option<&str>) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-api-key", self.world.secret());
        if let Some(work) = work {
            request = request.header(WORK, work);
        }
        send(self.address, request.body(()).unwrap()).await
    }

    async fn get(&self, work: Option<&str>) -> Answer {
        self.ask(Method::GET, "/v1/answers", work).await
    }

    async fn as_nobody(&self) -> Answer {
        let request = Request::builder().uri("/v1/answers").body(()).unwrap();
        send(self.address, request).await
    }
}

/// What is left of each limit, by the draft's fields.
fn left(answer: &Answer) -> Vec<u64> {
    support::left(answer.header("ratelimit").unwrap_or_default())
}

fn tokens(quota: Quota) -> Limit {
    Limit::named(TOKENS, quota).unit(TOKENS)
}

/// 10 requests and 100 tokens in a minute.
fn both() -> Limits {
    Limits::new()
        .per_key(Quota::per_minute(10))
        .per_key(tokens(Quota::per_minute(100)))
}

#[tokio::test]
async fn tokens_charged_after_the_work_deny_the_next_request_when_used_up() {
    let served = Served::new(both()).await;
    for remaining in [[9, 100], [8, 60], [7, 20]] {
        let answer = served.get(Some("charge tokens 40")).await;
        assert_eq!((answer.status, left(&answer)), (200, remaining.to_vec()));
        // The headers without names tell of requests.
        assert_eq!(answer.header("x-ratelimit-limit"), Some("10"));
        let remaining = remaining[0].to_string();
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(&*remaining));
        let policy = "\"key_per_minute\";q=10;w=60, \"tokens\";q=100;w=60;qu=\"tokens\"";
        assert_eq!(answer.header("ratelimit-policy"), Some(policy));
    }
    // The third took the 20 that were left. Denied requests cost no requests.
    for _ in 0..2 {
        let denied = served.get(None).await;
        assert_eq!((denied.status, left(&denied)), (429, vec![7, 0]));
        assert_eq!(denied.header("x-ratelimit-limit"), Some("100"));
        assert_eq!(denied.header("retry-after"), Some("60"));
        let body = denied.json();
        let details = &body["error"]["details"];
        assert_eq!(
            (&details["policy"], &details["unit"]),
            (&TOKENS.into(), &TOKENS.into())
        );
    }
    served.world.clock.advance(Duration::from_secs(60));
    let answer = served.get(None).await;
    assert_eq!((answer.status, left(&answer)), (200, vec![9, 100]));
}

#[tokio::test]
async fn each_unit_is_refunded_separately() {
    let charged = Endpoint::new(Method::POST, "/v1/answers").cost_in(TOKENS, 30);
    let served = Served::new(both().add_endpoint(charged)).await;
    let post = async |work| served.ask(Method::POST, "/v1/answers", work).await;
    assert_eq!(left(&post(Some("refund tokens 20")).await), [9, 70]);
    assert_eq!(left(&post(Some("refund requests 5")).await), [8, 60]);
    assert_eq!(left(&post(Some("refund tokens 1000")).await), [8, 30]);
    assert_eq!(left(&post(None).await), [7, 30]);
    assert_eq!(left(&post(None).await), [6, 0]);
    let denied = post(None).await;
    assert_eq!((denied.status, left(&denied)), (429, vec![6, 0]));
}

#[tokio::test]
async fn an_unknown_unit_is_an_error_that_names_it() {
    let served = Served::new(both()).await;
    for work in ["charge token 1", "refund token 1"] {
        let answer = served.get(Some(work)).await;
        assert_eq!(answer.body, "no limit counts \"token\": see Limit::unit");
    }
    // Requests are a unit, also where nothing limits them.
    let served = Served::new(Limits::new().per_key(tokens(Quota::per_minute(100)))).await;
    for work in ["charge requests 1", "refund requests 1"] {
        assert_eq!(served.get(Some(work)).await.body, "done");
    }
}

#[tokio::test]
async fn costs_are_set_per_unit_and_free_requests_pass_an_empty_budget() {
    let at = |path: &str| Endpoint::new(Method::GET, path);
    let limits = both()
        .add_endpoint(at("/v1/answers").cost_in(TOKENS, 100))
        .add_endpoint(at("/free").cost(0))
        .add_endpoint(at("/no-tokens").cost_in(TOKENS, 0))
        .add_endpoint(at("/too-much").cost_in(TOKENS, 101));
    let served = Served::new(limits).await;
    let get = async |path| served.ask(Method::GET, path, None).await;
    assert_eq!(left(&get("/elsewhere").await), [9, 100]);
    let never = get("/too-much").await;
    assert_eq!((never.status, left(&never)), (403, vec![9, 100]));
    assert!(
        never
            .body
            .contains(r#""details":{"cost":101,"limit":100,"policy":"tokens","unit":"tokens"}"#)
    );
    assert_eq!(left(&get("/v1/answers").await), [8, 0]);
    assert_eq!(get("/elsewhere").await.status, 429);
    assert_eq!(get("/v1/answers").await.status, 429);
    for (path, left) in [("/free", 8), ("/no-tokens", 7)] {
        let answer = get(path).await;
        assert_eq!((answer.status, self::left(&answer)), (200, vec![left, 0]));
    }
    // Another method of the path is never cheaper.
    assert_eq!(
        served.ask(Method::PUT, "/v1/answers", None).await.status,
        429
    );
    assert_eq!(
        served.ask(Method::PUT, "/no-tokens", None).await.status,
        429
    );
}

#[tokio::test]
async fn a_report_only_limit_is_counted_but_hidden_from_callers() {
    let trial = Limit::named("trial", Quota::per_minute(2)).report_only();
    let limits = Limits::new().per_key(Quota::per_minute(4)).per_key(trial);
    let served = Served::new(limits).await;
    for (remaining, hits) in [(3, 0), (2, 0), (1, 1), (0, 2)] {
        let answer = served.get(None).await;
        assert_eq!((answer.status, left(&answer)), (200, vec![remaining]));
        let policy = answer.header("ratelimit-policy");
        assert_eq!(policy, Some("\"key_per_minute\";q=4;w=60"));
        assert_eq!(*served.hits.0.lock().unwrap(), vec!["trial"; hits]);
    }
    // What is denied for another limit is not counted, and would not have passed.
    let denied = served.get(None).await;
    assert_eq!((denied.status, left(&denied)), (429, vec![0]));
    // Alone, it is as if there were none.
    let trial = Limit::from(Quota::per_minute(1)).report_only();
    let served = Served::new(Limits::new().per_key(trial)).await;
    for hits in 0..3 {
        let answer = served.get(None).await;
        assert_eq!((answer.status, left(&answer)), (200, vec![]));
        assert_eq!(answer.header("x-ratelimit-limit"), None);
        assert_eq!(served.hits.0.lock().unwrap().len(), hits);
    }
}

#[tokio::test]
async fn an_anonymous_limit_does_not_apply_to_keys() {
    let limits = Limits::new()
        .per_ip(Limit::from(Quota::per_minute(2)).anonymous())
        .per_key(Quota::per_minute(3));
    let served = Served::new(limits).await;
    let policy = "\"anonymous_ip_per_minute\";q=2;w=60";
    for remaining in [1, 0] {
        let answer = served.as_nobody().await;
        assert_eq!((answer.status, left(&answer)), (200, vec![remaining]));
        assert_eq!(answer.header("ratelimit-policy"), Some(policy));
    }
    for (remaining, status) in [(2, 200), (1, 200), (0, 200), (0, 429)] {
        let answer = served.get(None).await;
        assert_eq!((answer.status, left(&answer)), (status, vec![remaining]));
        assert_eq!(served.as_nobody().await.status, 429);
    }
}

#[test]
fn invalid_units_are_refused() {
    let build = |limits: Limits| {
        let built = ApiKeys::builder(MemoryStore::new()).limits(limits).build();
        built.err().map(|error| error.to_string())
    };
    let unit = |unit: &str| Limits::new().per_key(Limit::from(Quota::per_minute(1)).unit(unit));
    assert_eq!(build(unit("tokens")), None);
    assert_eq!(build(unit(REQUESTS)), None);
    for text in ["", "to\"kens", "töken", &"t".repeat(65)] {
        let refused = LimitsError::Unit(text.to_owned()).to_string();
        assert_eq!(build(unit(text)), Some(refused));
    }
    let typo = unit("tokens").add_endpoint(Endpoint::any("/").cost_in("token", 5));
    let refused = LimitsError::UnknownUnit("token".to_owned());
    assert_eq!(build(typo), Some(refused.to_string()));
    let of_requests = Limits::new().add_endpoint(Endpoint::any("/").cost_in(REQUESTS, 5));
    assert_eq!(build(of_requests), None);
    let anonymous = || Limit::from(Quota::per_minute(1)).anonymous();
    assert_eq!(build(Limits::new().global(anonymous())), None);
    let no_key = Limits::new().per_account(anonymous());
    let refused = LimitsError::Anonymous("anonymous_account_per_minute".to_owned());
    assert_eq!(build(no_key), Some(refused.to_string()));
    // Names tell the unit, so that one minute of each needs none of its own.
    let unnamed = unit("tokens").per_key(Quota::per_minute(1));
    assert_eq!(build(unnamed), None);
}
