//! CORS preflights, whose URL is that of the request to come: a key in it is not theirs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use http::{Method, Request, StatusCode};
use proptest::prelude::*;
use proptest::sample::select;
use support::{
    EchoService, World, at_once, call, from, percent_encoded, status_and_text, with_key, world,
};
use tower::Layer;
use tower_api_key::{ApiKeyLayer, ApiKeys, IssuedKey, KeySource, Limits, Quota};

fn with_the_query(layer: ApiKeyLayer) -> ApiKeyLayer {
    layer
        .add_source(KeySource::dangerous_query("api_key"))
        .add_source(KeySource::dangerous_query("key"))
        .dangerous_allow_preflight()
}

fn preflight(query: &str) -> Request<()> {
    let request = Request::builder()
        .method(Method::OPTIONS)
        .uri(format!("/v1?{query}"))
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST");
    from("192.0.2.7", &request.body(()).unwrap())
}

/// What stands in a parameter for keys: any key of the world, or any other text.
fn value() -> impl Strategy<Value = String> {
    let names: Vec<_> = world().plaintexts.keys().copied().collect();
    prop_oneof![
        4 => select(names).prop_map(|name| world().plaintexts[name].clone()),
        1 => "\\PC{0,40}",
        1 => Just("x".repeat(2000)),
    ]
}

fn parameter() -> impl Strategy<Value = String> {
    let name = select(vec!["api_key", "key", "api%5Fkey", "%6bey"]);
    (name, value()).prop_map(|(name, text)| format!("{name}={}", percent_encoded(text.as_bytes())))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_preflight_passes_anonymously_with_any_key_in_its_url_removed(
        parameters in proptest::collection::vec(parameter(), 0..4), optional: bool,
    ) {
        let layer = with_the_query(world().keys.layer());
        let layer = if optional { layer.optional() } else { layer };
        let query = [&["a=1".to_owned()], &parameters[..], &["b=%20+2".to_owned()]].concat();
        let (status, seen) = status_and_text(&layer, preflight(&query.join("&")));
        prop_assert_eq!(status, StatusCode::OK);
        prop_assert_eq!(seen, "nobody /v1?a=1&b=%20+2");
    }

    #[test]
    fn an_options_request_with_credentials_is_not_a_preflight(
        name in select(vec!["x-api-key", "cookie", "authorization"]), value in value(), optional: bool,
    ) {
        let layer = with_the_query(world().keys.layer());
        let layer = if optional { layer.optional() } else { layer };
        let mut request = preflight(&format!("key={}", world().plaintexts["revoked"]));
        let value = http::HeaderValue::from_bytes(value.as_bytes());
        prop_assume!(value.is_ok());
        request.headers_mut().insert(name, value.unwrap());
        let (status, _) = status_and_text(&layer, request);
        prop_assert!(!status.is_success(), "{}", status);
    }
}

/// A key, and a layer with these limits.
fn limited(limits: Limits) -> (IssuedKey, ApiKeyLayer) {
    let world = World::builder().limits(limits);
    let world = world.set(|keys| keys.failed_attempts(Quota::per_hour(2)));
    let world = world.build();
    (world.issue(), with_the_query(world.keys.layer()))
}

#[test]
fn a_preflight_is_charged_to_address_and_global_limits_but_no_key() {
    const TWO: Quota = Quota::per_hour(2);
    let (key, layer) = limited(Limits::new().per_key(TWO).per_account(TWO));
    let query = format!("api_key={}", key.expose_secret());
    for _ in 0..10 {
        assert_eq!(status_and_text(&layer, preflight(&query)).0, StatusCode::OK);
    }
    let request = || with_key(key.expose_secret());
    assert_eq!(status_and_text(&layer, request()).0, StatusCode::OK);
    assert_eq!(status_and_text(&layer, request()).0, StatusCode::OK);
    assert_eq!(
        status_and_text(&layer, request()).0,
        StatusCode::TOO_MANY_REQUESTS
    );

    for limits in [Limits::new().per_ip(TWO), Limits::new().global(TWO)] {
        let (key, layer) = limited(limits);
        let query = format!("api_key={}", key.expose_secret());
        let status = || status_and_text(&layer, preflight(&query)).0;
        assert_eq!(status(), StatusCode::OK);
        assert_eq!(status(), StatusCode::OK);
        assert_eq!(status(), StatusCode::TOO_MANY_REQUESTS);
    }
}

#[test]
fn a_preflight_is_not_a_failed_attempt() {
    let (_, layer) = limited(Limits::new());
    let unknown = world().plaintexts["unknown"].as_str();
    for _ in 0..10 {
        let query = format!("key={unknown}");
        assert_eq!(status_and_text(&layer, preflight(&query)).0, StatusCode::OK);
    }
}

#[test]
fn a_preflight_keeps_its_url_if_credentials_are_kept() {
    let layer = with_the_query(world().keys.layer()).dangerous_keep_credential();
    let (status, seen) = status_and_text(&layer, preflight("key=x"));
    assert_eq!(
        (status, seen.as_str()),
        (StatusCode::OK, "nobody /v1?key=x")
    );
}

/// With each header that announces a body or a call, in any case and with any value.
#[test]
fn a_request_that_announces_a_body_or_a_call_is_not_a_preflight() {
    let layer = with_the_query(world().keys.layer());
    assert_eq!(status_and_text(&layer, preflight("")).0, 200);
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("content-type", "text/plain"),
        ("content-length", "5"),
        ("content-length", "0"),
        ("content-encoding", "gzip"),
        ("transfer-encoding", "chunked"),
        ("te", "trailers"),
        ("expect", "100-continue"),
    ] {
        let mut request = preflight("");
        request.headers_mut().insert(name, value.parse().unwrap());
        let (status, seen) = status_and_text(&layer, request);
        assert_eq!(status, 401, "{name}: {seen}");
    }
}

/// The outer layer takes the key out, so that the inner one sees none.
#[test]
fn a_request_admitted_by_a_layer_of_other_keys_is_not_a_preflight() {
    let outer = ApiKeys::in_memory();
    let key = at_once(outer.issue("outer")).unwrap();
    let inner = ApiKeys::in_memory().layer().dangerous_allow_preflight();
    let service = outer.layer().layer(inner.layer(EchoService));
    let mut request = preflight("");
    let value = key.expose_secret().parse().unwrap();
    request.headers_mut().insert("x-api-key", value);
    let answer = at_once(call(service.clone(), request));
    assert_eq!(answer.status(), 401);
    // Without a key of the outer layer, that layer refuses.
    let answer = at_once(call(service, preflight("")));
    assert_eq!(answer.status(), 401);
}
