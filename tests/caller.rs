//! What handlers and services behind the layer are told of the caller.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use support::{Sent, World, call, today, with_key};
use tower::{Layer, service_fn};
use tower_api_key::http::{CallerFact, KeyCarrier};
use tower_api_key::limit::{Limit, LimitStatus};
use tower_api_key::{ApiKeyLayer, Caller, Environment, IssuedKey, KeySource, Limits, Quota, Scope};

/// What the service behind a layer is given: the headers, and the caller.
async fn given(layer: &ApiKeyLayer, request: Request<()>) -> (HeaderMap, Option<Caller>) {
    let seen = Arc::new(Mutex::new(None));
    let service = {
        let seen = Arc::clone(&seen);
        service_fn(move |request: Request<()>| {
            let caller = request.extensions().get::<Caller>().cloned();
            *seen.lock().unwrap() = Some((request.headers().clone(), caller));
            async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
        })
    };
    assert_eq!(call(layer.layer(service), request).await.status(), 200);
    let seen = seen.lock().unwrap().take();
    seen.unwrap()
}

#[tokio::test]
async fn the_caller_names_the_carrier_and_prefix_of_its_key() {
    let world = World::new();
    let (keys, key) = (&world.keys, world.secret());
    let layer = keys
        .layer()
        .add_source(KeySource::dangerous_query("api_key"));
    let bearer = format!("Bearer {key}");
    let in_url = format!("/?api_key={key}");
    for (authorization, header, uri, carrier) in [
        (true, false, "/", KeyCarrier::Authorization),
        (false, true, "/", KeyCarrier::Header),
        (true, true, "/", KeyCarrier::Header),
        (false, false, &*in_url, KeyCarrier::Query),
        (true, true, &*in_url, KeyCarrier::Query),
    ] {
        let mut request = Request::builder().uri(uri);
        if authorization {
            request = request.header("authorization", &bearer);
        }
        if header {
            request = request.header("x-api-key", key);
        }
        let (headers, caller) = given(&layer, request.body(()).unwrap()).await;
        let caller = caller.unwrap();
        assert_eq!(caller.carrier(), Some(carrier));
        assert_eq!(caller.prefix(), Some("sk_live"));
        assert!(headers.is_empty());
    }
    let caller = keys.verify(key).await.unwrap();
    assert_eq!((caller.carrier(), caller.prefix()), (None, Some("sk_live")));
}

#[tokio::test]
async fn the_caller_reports_the_standing_of_its_limits() {
    let limits = || {
        let tokens = Limit::named("tokens", Quota::per_minute(100)).unit("tokens");
        let trial = Limit::named("trial", Quota::per_utc_month(7)).report_only();
        Limits::new()
            .per_key(Quota::per_minute(10))
            .per_account(tokens)
            .per_key(trial)
    };
    let near = World::builder().limits(limits());
    let elsewhere = World::builder().limits(limits()).remote_limiter();
    for world in [near.build(), elsewhere.build()] {
        let (_, caller) = given(&world.keys.layer(), with_key(world.secret())).await;
        let caller = caller.unwrap();
        caller.charge("tokens", 40).await.unwrap();
        for _ in 0..2 {
            let told = caller.limits().await.unwrap();
            let told = told.iter().map(
                |LimitStatus {
                     name,
                     unit,
                     quota,
                     remaining,
                     ..
                 }| { format!("{name}: {remaining} of {quota} {unit}") },
            );
            let told: Vec<_> = told.collect();
            assert_eq!(
                told,
                [
                    "key_per_minute: 9 of 10/min requests",
                    "tokens: 60 of 100/min tokens",
                    "trial: 6 of 7/utc_month requests"
                ]
            );
        }
        let told = caller.limits().await.unwrap();
        let reports: Vec<_> = told.iter().map(|it| it.is_report_only).collect();
        assert_eq!(reports, [false, false, true]);
        assert_eq!(told[0].full_at, today() + Duration::from_secs(60));
    }
    let world = World::new();
    let caller = world.keys.verify(world.secret()).await.unwrap();
    assert_eq!(caller.limits().await.unwrap(), []);
}

#[tokio::test]
async fn caller_facts_are_passed_on_and_forged_ones_are_removed() {
    let keys = World::new().keys;
    let scopes = ["reports:read", "admin"].map(Scope::from_static);
    let issued = keys.issue("Café 100%\n").plan("pro").scopes(scopes);
    let key = issued.environment(Environment::TEST).await.unwrap();
    let layer = keys.layer().dangerous_any_environment().optional();
    let request = |key: Option<&IssuedKey>| {
        let mut request = key.map_or_else(|| Request::new(()), Sent::request);
        for fact in CallerFact::ALL {
            // More than one line of it, too.
            let lies = request.headers_mut();
            lies.append(fact.header(), "admin".parse().unwrap());
            lies.append(fact.header(), "root".parse().unwrap());
        }
        // As services behind CGI and its heirs read it, and so that a proxy takes out what is ours.
        let lies = request.headers_mut();
        for name in ["x_key_account", "x-key_plan", "X_KEY_ID"] {
            let name = http::HeaderName::try_from(name).unwrap();
            lies.insert(name, "admin".parse().unwrap());
        }
        let nominated = "x-key-plan, keep-alive, X-Key-Scopes";
        lies.insert("connection", nominated.parse().unwrap());
        request
    };
    let told = async |layer: &ApiKeyLayer, key: Option<&IssuedKey>| {
        let (headers, _) = given(layer, request(key)).await;
        let told = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        let mut told: Vec<_> = told
            .filter(|line| line != "connection: keep-alive")
            .collect();
        told.sort();
        told
    };
    let id = key.id().to_string();
    let all = [
        "x-key-account: Caf%C3%A9%20100%25%0A".to_owned(),
        "x-key-environment: test".to_owned(),
        format!("x-key-id: {id}"),
        "x-key-plan: pro".to_owned(),
        "x-key-scopes: admin reports:read".to_owned(),
        "x-key-status: active".to_owned(),
    ];
    let passing = layer.clone().pass_on(CallerFact::ALL);
    assert_eq!(told(&passing, Some(&key)).await, all);
    // Of those that are not chosen, nothing stays, either.
    let account = layer.clone().pass_on([CallerFact::Account]);
    assert_eq!(told(&account, Some(&key)).await, all[..1]);
    let none: [String; 0] = [];
    assert_eq!(told(&account, None).await, none);
    let plain = keys.issue("acme").await.unwrap();
    let facts = [CallerFact::Plan, CallerFact::Scopes];
    assert_eq!(
        told(&layer.clone().pass_on(facts), Some(&plain)).await,
        ["x-key-scopes: "]
    );
    // Without a word of it, headers are the application's own.
    assert_eq!(told(&layer, Some(&key)).await.len(), 12 + 3 + 1);
    for fact in CallerFact::ALL {
        assert!(KeySource::header(fact.header()).is_err());
    }
}
