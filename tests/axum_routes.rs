//! Which endpoint a request is charged as, where axum's router matched it and where it did not.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::get;
use http::Method;
use proptest::prelude::*;
use proptest::sample::select;
use support::{World, call, to};
use tower::Layer;
use tower_api_key::limit::Endpoint;
use tower_api_key::{ApiKeys, Limits, MemoryStore, Quota};

const ALL: Quota = Quota::per_hour(1000);

fn keys(limits: Limits) -> ApiKeys {
    World::with_limits(limits).keys
}

fn routes() -> Router {
    Router::new()
        .route("/v1/reports/{id}", get(|| async {}))
        .route("/v1/reports", get(|| async {}).post(|| async {}))
        .route("/files/{*path}", get(|| async {}))
}

fn request(path: &str, key: &str) -> Request {
    to(path, key).map(|()| Body::empty())
}

/// What a request costs: what is missing of a fresh key's budget after it.
async fn cost(keys: &ApiKeys, app: &Router, path: &str) -> u64 {
    let key = keys.issue("acme").await.unwrap();
    let answer = call(app.clone(), request(path, key.expose_secret())).await;
    let remaining = answer.headers()["x-ratelimit-remaining"].to_str().unwrap();
    ALL.limit() - remaining.parse::<u64>().unwrap()
}

#[tokio::test]
async fn all_ids_of_a_route_share_its_budget_and_its_cost() {
    let reports = Endpoint::new(Method::GET, "/v1/reports/{id}")
        .cost(10)
        .per_account(Quota::per_hour(20));
    let keys = keys(Limits::new().per_account(ALL).add_endpoint(reports));
    let around = routes().layer(keys.layer());
    let on_routes = routes().route_layer(keys.layer());
    for (account, app) in [("around", around), ("on routes", on_routes)] {
        let key = keys.issue(account).await.unwrap();
        let ask = async |path| call(app.clone(), request(path, key.expose_secret())).await;
        for (path, status) in [
            ("/v1/reports/1", 200),
            ("/v1/reports/2", 200),
            ("/v1/reports/3", 429),
            ("/v1/reports/%31?id=4", 429),
            ("/v1/reports/{id}", 429),
            ("/v1/reports", 200),
        ] {
            assert_eq!(ask(path).await.status(), status, "{path}");
        }
    }
}

#[tokio::test]
async fn the_route_is_the_matched_pattern_or_else_the_path() {
    let limits = Limits::new()
        .per_key(ALL)
        .add_cost(Method::GET, "/v1/reports/{id}", 2)
        .add_cost(Method::GET, "/v1/reports/7", 3)
        .add_cost(Method::GET, "/files/{*path}", 4)
        .add_cost(Method::GET, "/api/v1/reports/{id}", 5)
        .add_cost(Method::GET, "/api/v1/reports/7", 6)
        .add_cost(Method::GET, "/nowhere", 7)
        .add_cost(Method::GET, "/v1/{name}", 8)
        .add_cost(Method::GET, "/v1/one/7", 9);
    let keys = keys(limits);
    let hold = async |app: Router, expected: &[(&str, u64)]| {
        for (path, units) in expected {
            assert_eq!(cost(&keys, &app, path).await, *units, "{path}");
        }
    };
    let inner = || routes().layer(keys.layer());
    let nowhere = ("/nowhere", 7);

    let all = [
        ("/v1/reports/7", 2),
        ("/v1/reports", 1),
        ("/files/a/b", 4),
        nowhere,
    ];
    let with_fallback = routes().fallback(|| async {}).layer(keys.layer());
    hold(with_fallback, &all).await;
    // A route that one of its paths would match, too.
    let wide = Router::new().route("/v1/{name}", get(|| async {}));
    let both = routes().merge(wide).layer(keys.layer());
    hold(both, &[("/v1/reports", 1), ("/v1/other", 8)]).await;

    // One path of a route that is no endpoint itself.
    let one = Router::new().route("/v1/one/{id}", get(|| async {}));
    let expected = [("/v1/one/7", 9), ("/v1/one/8", 1)];
    hold(one.layer(keys.layer()), &expected).await;

    // Nested, the route is the whole of it, wherever the layer stands.
    let nested = [("/api/v1/reports/7", 5)];
    hold(
        Router::new().nest("/api", routes()).layer(keys.layer()),
        &nested,
    )
    .await;
    hold(Router::new().nest("/api", inner()), &nested).await;
    // A fallback has no route, and inside of a nested router no prefix either.
    let fallback = || Router::new().fallback(|| async {}).layer(keys.layer());
    hold(fallback(), &[nowhere, ("/v1/reports/7", 3)]).await;

    // A service that is nested has no route; outside the path is whole, inside it is stripped.
    let service = || Router::new().nest_service("/api", get(|| async {}));
    hold(service().layer(keys.layer()), &[("/api/v1/reports/7", 6)]).await;
    let stripped = keys.layer().layer(get(|| async {}));
    let stripped = Router::new().nest_service("/api", stripped);
    hold(stripped, &[("/api/v1/reports/7", 3)]).await;

    // Around a router that has not matched yet, there is only the path.
    let outside = Router::new().fallback_service(keys.layer().layer(routes()));
    hold(outside, &[("/v1/reports/7", 3), ("/v1/reports/8", 1)]).await;

    // What the application says goes first; where it says nothing, it is as without it.
    let layer = keys.layer().route_by(|request| {
        let is_eight = request.uri.path().ends_with('8');
        is_eight.then(|| "/nowhere".to_owned())
    });
    let expected = [("/v1/reports/7", 2), ("/v1/reports/8", 7)];
    hold(routes().layer(layer), &expected).await;
}

#[tokio::test]
async fn the_peer_address_is_found_wherever_axums_extractor_finds_it() {
    use axum::extract::ConnectInfo;
    use axum::extract::connect_info::MockConnectInfo;
    use std::net::SocketAddr;

    let peer = |last| SocketAddr::from(([192, 0, 2, last], 4711));
    let address = async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.ip().to_string();
    for (connected, mocked, expected) in [
        (Some(1), None, 1),
        (None, Some(2), 2),
        (Some(1), Some(2), 1),
    ] {
        let keys = keys(Limits::new().per_ip(Quota::per_minute(1)));
        let key = keys.issue("acme").await.unwrap();
        let mut app = Router::new().route("/", get(address)).layer(keys.layer());
        if let Some(last) = mocked {
            app = app.layer(MockConnectInfo(peer(last)));
        }
        let ask = async |connected: Option<u8>| {
            let mut request = request("/", key.expose_secret());
            if let Some(last) = connected {
                request.extensions_mut().insert(ConnectInfo(peer(last)));
            }
            call(app.clone(), request).await
        };
        let answer = ask(connected).await;
        assert_eq!(answer.status(), 200);
        let body = axum::body::to_bytes(answer.into_body(), 99).await.unwrap();
        assert_eq!(body, format!("192.0.2.{expected}"));
        assert_eq!(ask(connected).await.status(), 429);
        // Another address has a budget of its own.
        assert_eq!(ask(Some(9)).await.status(), 200);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        max_global_rejects: 5000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_route_that_axum_accepts_is_a_valid_endpoint(
        pieces in proptest::collection::vec(
            select(vec!["/", "/", "a", "-", ":", "*", "{id}", "{*rest}", "{{", "}}", "%7B"]),
            0..7,
        ),
    ) {
        let path = format!("/{}", pieces.concat());
        prop_assume!(!path.contains("}}}")); // a parameter whose name ends with a brace
        let route = || Router::<()>::new().route(&path, get(|| async {}));
        prop_assume!(std::panic::catch_unwind(route).is_ok());
        let limits = Limits::new().add_cost(Method::GET, &path, 2);
        let built = ApiKeys::builder(MemoryStore::new()).limits(limits).build();
        prop_assert!(built.is_ok(), "{path}");
    }
}
