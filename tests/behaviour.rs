//! What the library does, over real sockets: each row is a request and the exact answer to it, on
//! axum and on hyper without axum. `{name}` stands for the key of that name in `support::World`.
#![allow(
    clippy::unwrap_used,
    clippy::items_after_statements,
    reason = "a test may panic, and names what its table repeats"
)]

mod support;

use std::net::SocketAddr;

use axum::Router;
use http::Request;
use http_body_util::Full;
use support::{Answer, Down, EchoService, READ, WRITE, World, send, serve_axum, serve_hyper};
use tower::Layer;
use tower_api_key::http::{
    ApiError, ClientAddress, ErrorFormat, GrpcRequests, RateLimitHeaders, TrustedProxies,
};
use tower_api_key::{ApiKeyLayer, ApiKeys, Environment, KeySource, Limits, Quota, RequireScope};

/// A request, and what must come back.
struct Row {
    says: &'static str,
    request: Vec<(&'static str, &'static str)>,
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: &'static str,
}

/// `request` holds headers, and `:method` and `:path` where they are not `GET` and `/v1`.
fn row<const R: usize, const H: usize>(
    says: &'static str,
    request: [(&'static str, &'static str); R],
    status: u16,
    headers: [(&'static str, &'static str); H],
    body: &'static str,
) -> Row {
    let (request, mut headers) = (request.to_vec(), headers.to_vec());
    headers.sort_unstable();
    Row {
        says,
        request,
        status,
        headers,
        body,
    }
}

/// Rows, one a line: rustfmt leaves braces alone.
macro_rules! table {
    ($($row:expr),* $(,)?) => { vec![$($row),*] };
}

/// The refusal of a request without a key, which says where the layer takes keys.
macro_rules! missing {
    ($in_words:literal, $in_json:literal) => {
        concat!(
            r#"{"error":{"code":"missing_api_key","message":"This request needs an API key. Send it as "#,
            $in_words,
            r#".","details":{"accepted":["#,
            $in_json,
            r#"]}}}"#
        )
    };
}

// Headers that come in bunches.
const JSON: (&str, &str) = ("content-type", "application/json");
const NO_STORE: (&str, &str) = ("cache-control", "no-store");
const PRIVATE: (&str, &str) = ("cache-control", "private");
const VARY: (&str, &str) = ("vary", "X-API-Key");
const VARY_TOO: (&str, &str) = ("vary", "Authorization"); // in optional mode
const ACTIVE: (&str, &str) = ("x-key-status", "active");
const APIKEY_CHALLENGE: (&str, &str) = ("www-authenticate", r#"ApiKey realm="api""#);
const BEARER_CHALLENGE: (&str, &str) = ("www-authenticate", r#"Bearer realm="api""#);
const BEARER_INVALID: (&str, &str) = (
    "www-authenticate",
    r#"Bearer realm="api", error="invalid_token", error_description="The API key is not valid.""#,
);
const BEARER_REQUEST: (&str, &str) = (
    "www-authenticate",
    r#"Bearer realm="api", error="invalid_request", error_description="The request carries more than one API key. Send exactly one.""#,
);

// Bodies of refusals.
const MISSING: &str = missing!(
    "Authorization: Bearer KEY, Authorization: ApiKey KEY or X-API-Key: KEY",
    r#""Authorization: Bearer KEY","Authorization: ApiKey KEY","X-API-Key: KEY""#
);
const NOT_FOUND: &str =
    r#"{"error":{"code":"api_key_not_found","message":"The API key is not valid.","details":{}}}"#;
const LACKS_WRITE: &str = r#"{"error":{"code":"insufficient_scope","message":"The API key lacks a scope that this request needs.","details":{"required":"all","required_scopes":["reports:write"]}}}"#;
const AMBIGUOUS: &str = r#"{"error":{"code":"ambiguous_api_key","message":"The request carries more than one API key. Send exactly one.","details":{}}}"#;

/// Serves a layer on both stacks and holds every row to its answer.
async fn hold(world: &World, layer: ApiKeyLayer, rows: Vec<Row>) {
    let axum = Router::new()
        .route_service("/{*path}", EchoService)
        .layer(layer.clone());
    let hyper = layer.layer(EchoService);
    let stacks = [
        ("axum", serve_axum(axum).await),
        ("hyper", serve_hyper(hyper).await),
    ];
    hold_on(world, &stacks, rows).await;
}

async fn hold_on(world: &World, stacks: &[(&str, SocketAddr)], rows: Vec<Row>) {
    let mut wrong = Vec::new();
    for row in &rows {
        let expected = Answer {
            status: row.status,
            headers: row
                .headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: row.body.to_owned(),
        };
        for (stack, address) in stacks {
            let answer = send(*address, request(world, row)).await;
            if answer != expected {
                wrong.push(format!(
                    "{} ({stack})\n  expected {expected:?}\n  got      {answer:?}",
                    row.says
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn request(world: &World, row: &Row) -> Request<()> {
    let mut request = Request::builder().uri("/v1");
    for (name, value) in &row.request {
        let value = world.fill(value);
        request = match *name {
            ":method" => request.method(value.as_str()),
            ":path" => request.uri(value),
            header => request.header(header, value),
        };
    }
    request.body(()).unwrap()
}

#[tokio::test]
async fn by_default_three_places_carry_a_key() {
    let world = World::new().await;
    let rows = table! {
        row("Bearer", [("authorization", "Bearer {active}")], 200, [ACTIVE], "acme /v1"),
        row("schemes are case-insensitive", [("authorization", "bEARER {active}")], 200, [ACTIVE], "acme /v1"),
        row("one or more spaces", [("authorization", "Bearer    {active}")], 200, [ACTIVE], "acme /v1"),
        row("ApiKey", [("authorization", "ApiKey {active}")], 200, [ACTIVE], "acme /v1"),
        row("apikey", [("authorization", "apikey {active}")], 200, [ACTIVE], "acme /v1"),
        row("X-API-Key, kept out of shared caches", [("x-api-key", "{active}")], 200, [ACTIVE, PRIVATE, VARY], "acme /v1"),
        row("white space around a header is none of it", [("x-api-key", " \t{active}\t ")], 200, [ACTIVE, PRIVATE, VARY], "acme /v1"),
        row("the path and the query are untouched", [("x-api-key", "{active}"), (":path", "/v1/x?a=%20&b=+")], 200, [ACTIVE, PRIVATE, VARY], "acme /v1/x?a=%20&b=+"),
        row("no key", [], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("an empty header is no key", [("x-api-key", " ")], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("a scheme without credentials is no key", [("authorization", "Bearer ")], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("Basic is no way in unless asked for, and our key under it is ours, and bad", [("authorization", "Basic {basic:active}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE], NOT_FOUND),
        row("nor is the query", [(":path", "/v1?api_key={active}")], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("a tab does not end a scheme", [("authorization", "Bearer\t{active}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE], NOT_FOUND),
        row("our key under another scheme is ours, and bad", [("authorization", "Token {active}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE], NOT_FOUND),
        row("without a scheme, too", [("authorization", "{active}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE], NOT_FOUND),
        row("another scheme is somebody else's", [("authorization", "Token abc")], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("OPTIONS needs a key like any other", [(":method", "OPTIONS")], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("also a preflight", [(":method", "OPTIONS"), ("origin", "https://a.example"), ("access-control-request-method", "GET")], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
    };
    hold(&world, world.keys.layer(), rows).await;
}

#[tokio::test]
async fn a_users_token_stands_beside_the_applications_key() {
    let world = World::new().await;
    let rows = table! {
        row("a JWT is passed on", [("authorization", "Bearer {jwt}"), ("x-api-key", "{active}")], 200, [ACTIVE, PRIVATE, VARY], "acme /v1 authorization=Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"),
        row("Basic, too", [("authorization", "Basic dGVzdDoxMjPCow=="), ("x-api-key", "{active}")], 200, [ACTIVE, PRIVATE, VARY], "acme /v1 authorization=Basic dGVzdDoxMjPCow=="),
        row("alone, it is no key", [("authorization", "Bearer {jwt}")], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("in our place, it is a bad key", [("x-api-key", "{jwt}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE, VARY], NOT_FOUND),
        row("under our scheme, it is a bad key", [("authorization", "ApiKey {jwt}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE], NOT_FOUND),
    };
    hold(&world, world.keys.layer(), rows).await;
}

#[tokio::test]
async fn two_keys_are_an_error_and_never_a_silent_pick() {
    let world = World::new().await;
    let rows = table! {
        row("in two places", [("authorization", "Bearer {active}"), ("x-api-key", "{admin}")], 400, [JSON, NO_STORE, BEARER_REQUEST], AMBIGUOUS),
        row("the same key in two places is one", [("authorization", "Bearer {active}"), ("x-api-key", "{active}")], 200, [ACTIVE, PRIVATE, VARY], "acme /v1"),
        row("also if it is bad", [("authorization", "Bearer {typo}"), ("x-api-key", "{typo}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE, VARY], NOT_FOUND),
        row("but not if one is nearly the other", [("authorization", "Bearer {active}"), ("x-api-key", "{active}x")], 400, [JSON, NO_STORE, BEARER_REQUEST], AMBIGUOUS),
        row("one of them bad", [("authorization", "Bearer {active}"), ("x-api-key", "{junk}")], 400, [JSON, NO_STORE, BEARER_REQUEST], AMBIGUOUS),
        row("two lines of a header", [("x-api-key", "{active}"), ("x-api-key", "{active}")], 400, [JSON, NO_STORE, BEARER_REQUEST], AMBIGUOUS),
        row("one of them empty", [("x-api-key", "{active}"), ("x-api-key", "")], 400, [JSON, NO_STORE, BEARER_REQUEST], AMBIGUOUS),
        row("two lines of Authorization", [("authorization", "Bearer {jwt}"), ("authorization", "Bearer {active}")], 400, [JSON, NO_STORE, BEARER_REQUEST], AMBIGUOUS),
        row("even if neither is ours", [("authorization", "Bearer {jwt}"), ("authorization", "Bearer {jwt}"), ("x-api-key", "{active}")], 400, [JSON, NO_STORE, BEARER_REQUEST], AMBIGUOUS),
        row("two in one line are no key", [("x-api-key", "{active}, {active}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE, VARY], NOT_FOUND),
    };
    hold(&world, world.keys.layer(), rows).await;
}

#[tokio::test]
async fn every_status_is_told_to_who_holds_the_key() {
    let world = World::new().await;
    let rows = table! {
        row("active", [("authorization", "Bearer {active}")], 200, [ACTIVE], "acme /v1"),
        row("active, and will end", [("authorization", "Bearer {yearling}")], 200, [ACTIVE, ("x-key-expires-at", "2027-01-01T00:00:00Z")], "acme /v1"),
        row("deprecated, 30 days before the end", [("authorization", "Bearer {expiring}")], 200, [
            ("x-key-status", "deprecated"),
            ("x-key-expires-at", "2026-01-11T00:00:00Z"),
            ("deprecation", "@1765497600"), // 2025-12-12T00:00:00Z
            ("sunset", "Sun, 11 Jan 2026 00:00:00 GMT"),
        ], "globex /v1"),
        row("expired", [("authorization", "Bearer {expired}")], 401, [
            JSON, NO_STORE, APIKEY_CHALLENGE,
            ("www-authenticate", r#"Bearer realm="api", error="invalid_token", error_description="The API key has expired.""#),
            ("x-key-status", "expired"),
            ("x-key-expired-at", "2025-04-11T00:00:00Z"),
        ], r#"{"error":{"code":"api_key_expired","message":"The API key has expired.","details":{"expired_at":"2025-04-11T00:00:00Z"}}}"#),
        row("revoked", [("authorization", "Bearer {revoked}")], 401, [
            JSON, NO_STORE, APIKEY_CHALLENGE,
            ("www-authenticate", r#"Bearer realm="api", error="invalid_token", error_description="The API key has been revoked.""#),
            ("x-key-status", "revoked"),
        ], r#"{"error":{"code":"api_key_revoked","message":"The API key has been revoked.","details":{}}}"#),
        row("suspended", [("x-api-key", "{suspended}")], 403, [JSON, NO_STORE, VARY, ("x-key-status", "suspended")],
            r#"{"error":{"code":"api_key_suspended","message":"The API key is suspended.","details":{}}}"#),
        row("not yet active", [("authorization", "Bearer {early}")], 403, [JSON, NO_STORE, ("x-key-status", "not_yet_active")],
            r#"{"error":{"code":"api_key_not_yet_active","message":"The API key is not active yet.","details":{"not_before":"2026-01-02T00:00:00Z"}}}"#),
    };
    hold(&world, world.keys.layer(), rows).await;
}

#[tokio::test]
async fn who_holds_no_key_learns_nothing() {
    let world = World::new().await;
    let bad = |says, key| {
        row(
            says,
            [("authorization", key)],
            401,
            [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE],
            NOT_FOUND,
        )
    };
    let rows = table! {
        bad("a key that does not exist", "Bearer {unknown}"),
        bad("a truncated key", "Bearer {truncated}"),
        bad("a typo", "Bearer {typo}"),
        bad("junk with our prefix", "Bearer {junk}"),
        bad("something behind the key", "Bearer {active} x"),
        bad("something behind a key that is over", "ApiKey {revoked}x"),
    };
    hold(&world, world.keys.layer(), rows).await;
}

#[tokio::test]
async fn a_key_opens_only_its_environment() {
    let world = World::new().await;
    let refused = |says, key, status, body| {
        row(
            says,
            [("authorization", key)],
            403,
            [JSON, NO_STORE, ("x-key-status", status)],
            body,
        )
    };
    let rows = table! {
        refused("a test key at a live door", "Bearer {test}", "active",
            r#"{"error":{"code":"wrong_environment","message":"The API key belongs to another environment. Use a key of: live.","details":{"accepted_environments":["live"]}}}"#),
    };
    hold(&world, world.keys.layer(), rows).await;

    let rows = table! {
        refused("a live key at a test door", "Bearer {active}", "active",
            r#"{"error":{"code":"wrong_environment","message":"The API key belongs to another environment. Use a key of: test.","details":{"accepted_environments":["test"]}}}"#),
        row("a test key at a test door", [("authorization", "Bearer {test}")], 200, [ACTIVE], "acme /v1"),
    };
    hold(
        &world,
        world.keys.layer().environments([Environment::TEST]),
        rows,
    )
    .await;

    let rows = table! {
        row("live", [("authorization", "Bearer {active}")], 200, [ACTIVE], "acme /v1"),
        row("test", [("authorization", "Bearer {test}")], 200, [ACTIVE], "acme /v1"),
    };
    hold(&world, world.keys.layer().dangerous_any_environment(), rows).await;

    let rows = table! {
        row("live, of a list", [("authorization", "Bearer {active}")], 200, [ACTIVE], "acme /v1"),
        row("test, of a list", [("authorization", "Bearer {test}")], 200, [ACTIVE], "acme /v1"),
    };
    let both = [Environment::LIVE, Environment::TEST];
    hold(&world, world.keys.layer().environments(both), rows).await;
}

const IP_NOT_ALLOWED: &str = r#"{"error":{"code":"ip_not_allowed","message":"The API key may not be used from this network address.","details":{}}}"#;

#[tokio::test]
async fn an_allow_list_binds_a_key_to_networks() {
    let world = World::new().await;
    let refused = |says, header, value| {
        row(
            says,
            [("authorization", "Bearer {there}"), (header, value)],
            403,
            [JSON, NO_STORE, ACTIVE],
            IP_NOT_ALLOWED,
        )
    };
    // Without the feature, axum's peer address is not seen; hyper's is told by the test.
    let layer = world.keys.layer();
    let hyper = ("hyper", serve_hyper(layer.layer(EchoService)).await);
    let axum = Router::new()
        .route_service("/{*path}", EchoService)
        .layer(layer);
    let axum = ("axum", serve_axum(axum).await);
    let here = || {
        table! {
            row("from here", [("authorization", "Bearer {here}")], 200, [ACTIVE], "acme /v1"),
        }
    };
    hold_on(&world, &[hyper], here()).await;
    if cfg!(feature = "axum") {
        hold_on(&world, &[axum], here()).await;
    } else {
        let unknown = row(
            "an address that is not known",
            [("authorization", "Bearer {here}")],
            403,
            [JSON, NO_STORE, ACTIVE],
            IP_NOT_ALLOWED,
        );
        hold_on(&world, &[axum], vec![unknown]).await;
    }
    let rows = table! {
        refused("from elsewhere", "x-unrelated", "1"),
        refused("a header that nobody vouches for changes nothing", "x-forwarded-for", "192.0.2.7"),
    };
    hold_on(&world, &[hyper, axum], rows).await;
}

#[tokio::test]
async fn a_trusted_proxy_tells_the_address() {
    let world = World::new().await;
    let proxies = TrustedProxies::count(std::num::NonZeroU8::MIN);
    let layer = world
        .keys
        .layer()
        .client_address(ClientAddress::x_forwarded_for(proxies));
    let rows = table! {
        row("what the proxy wrote", [("authorization", "Bearer {there}"), ("x-forwarded-for", "192.0.2.7")], 200, [ACTIVE], "acme /v1"),
        row("mapped IPv6 is IPv4", [("authorization", "Bearer {there}"), ("x-forwarded-for", "::ffff:192.0.2.7")], 200, [ACTIVE], "acme /v1"),
        row("the last line counts", [("authorization", "Bearer {there}"), ("x-forwarded-for", "10.0.0.1"), ("x-forwarded-for", "192.0.2.7")], 200, [ACTIVE], "acme /v1"),
        row("what the client made up", [("authorization", "Bearer {there}"), ("x-forwarded-for", "192.0.2.7, 198.51.100.1")], 403, [JSON, NO_STORE, ACTIVE], IP_NOT_ALLOWED),
        row("around the proxy", [("authorization", "Bearer {there}")], 403, [JSON, NO_STORE, ACTIVE], IP_NOT_ALLOWED),
    };
    hold(&world, layer, rows).await;

    let networks = TrustedProxies::networks(["10.0.0.0/8"]).unwrap();
    let layer = world
        .keys
        .layer()
        .client_address(ClientAddress::forwarded(networks));
    let rows = table! {
        row("a peer that is no proxy is itself the client", [("authorization", "Bearer {there}"), ("forwarded", "for=192.0.2.7")], 403, [JSON, NO_STORE, ACTIVE], IP_NOT_ALLOWED),
    };
    hold(&world, layer, rows).await;
}

#[tokio::test]
async fn scopes_are_asked_for_by_layer_and_by_route() {
    let world = World::new().await;
    let lacks_write = |says| {
        row(
            says,
            [("authorization", "ApiKey {active}")],
            403,
            [
                JSON,
                NO_STORE,
                ACTIVE,
                (
                    "www-authenticate",
                    r#"Bearer realm="api", error="insufficient_scope", error_description="The API key lacks a scope that this request needs.", scope="reports:write""#,
                ),
            ],
            LACKS_WRITE,
        )
    };
    let rows = table! {
        lacks_write("the layer asks for what the key lacks"),
        row("and for what another holds", [("authorization", "ApiKey {admin}")], 200, [ACTIVE], "acme /v1"),
    };
    hold(&world, world.keys.layer().require(WRITE), rows).await;

    let route = |require: RequireScope| {
        let layer = world.keys.layer();
        async move {
            let axum = Router::new()
                .route_service("/{*path}", require.layer(EchoService))
                .layer(layer.clone());
            let hyper = layer.layer(require.layer(EchoService));
            [
                ("axum", serve_axum(axum).await),
                ("hyper", serve_hyper(hyper).await),
            ]
        }
    };
    let rows = table! {
        lacks_write("the route asks, and the layer renders"),
        row("admin", [("authorization", "ApiKey {admin}")], 200, [ACTIVE], "acme /v1"),
        row("no key", [], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
    };
    hold_on(&world, &route(RequireScope::new(WRITE)).await, rows).await;

    let rows = table! {
        row("each call of require adds", [("authorization", "ApiKey {active}")], 403, [
            JSON, NO_STORE, ACTIVE,
            ("www-authenticate", r#"Bearer realm="api", error="insufficient_scope", error_description="The API key lacks a scope that this request needs.", scope="reports:write""#),
        ], LACKS_WRITE),
    };
    hold(
        &world,
        world.keys.layer().require(WRITE).require(READ),
        rows,
    )
    .await;

    let rows = table! {
        row("one of several is held", [("authorization", "ApiKey {active}")], 200, [ACTIVE], "acme /v1"),
        row("none is held: no list of what all would be needed", [("authorization", "ApiKey {yearling}")], 403, [
            JSON, NO_STORE, ACTIVE, ("x-key-expires-at", "2027-01-01T00:00:00Z"),
            ("www-authenticate", r#"Bearer realm="api", error="insufficient_scope", error_description="The API key lacks a scope that this request needs.""#),
        ], r#"{"error":{"code":"insufficient_scope","message":"The API key lacks a scope that this request needs.","details":{"required":"any","required_scopes":["reports:read","reports:write"]}}}"#),
    };
    hold_on(
        &world,
        &route(RequireScope::any_of([READ, WRITE])).await,
        rows,
    )
    .await;

    let rows = table! {
        row("all of several", [("authorization", "ApiKey {admin}")], 200, [ACTIVE], "acme /v1"),
        row("one is not all", [("authorization", "ApiKey {active}")], 403, [
            JSON, NO_STORE, ACTIVE,
            ("www-authenticate", r#"Bearer realm="api", error="insufficient_scope", error_description="The API key lacks a scope that this request needs.", scope="reports:read reports:write""#),
        ], r#"{"error":{"code":"insufficient_scope","message":"The API key lacks a scope that this request needs.","details":{"required":"all","required_scopes":["reports:read","reports:write"]}}}"#),
    };
    hold_on(
        &world,
        &route(RequireScope::all_of([READ, WRITE])).await,
        rows,
    )
    .await;
}

#[tokio::test]
async fn the_application_chooses_where_keys_stand() {
    let world = World::new().await;
    let layer = world.keys.layer().sources([
        KeySource::basic(),
        KeySource::header("X-Acme-Api-Key").unwrap(),
        KeySource::dangerous_query("api_key"),
    ]);
    // Basic would open a dialog, and is not the only way in.
    const BY_HEADER: (&str, &str) = (
        "www-authenticate",
        r#"ApiKey realm="api", in="header", name="X-Acme-Api-Key""#,
    );
    const BY_QUERY: (&str, &str) = (
        "www-authenticate",
        r#"ApiKey realm="api", in="query", name="api_key""#,
    );
    let rows = table! {
        row("Basic, as curl -u KEY: sends it", [("authorization", "Basic {basic:active}")], 200, [ACTIVE], "acme /v1"),
        row("basic", [("authorization", "basic {basic:active}")], 200, [ACTIVE], "acme /v1"),
        row("the password must be empty", [("authorization", "Basic {basic-with-password:active}")], 401, [JSON, NO_STORE, BY_HEADER, BY_QUERY], NOT_FOUND),
        row("something before a key of ours", [("authorization", "Basic eCBza19saXZlXzAxMjM0NTY3ODlhYmNkZWY6")], 401, [JSON, NO_STORE, BY_HEADER, BY_QUERY], NOT_FOUND),
        row("something before what is too short for one", [("authorization", "Basic eCBza19saXZlX2FiYzo=")], 401, [JSON, NO_STORE, BY_HEADER, BY_QUERY], missing!("Authorization: Basic base64(KEY:) or X-Acme-Api-Key: KEY", r#""Authorization: Basic base64(KEY:)","X-Acme-Api-Key: KEY","?api_key=KEY""#)),
        row("Basic of somebody else", [("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")], 401, [JSON, NO_STORE, BY_HEADER, BY_QUERY], missing!("Authorization: Basic base64(KEY:) or X-Acme-Api-Key: KEY", r#""Authorization: Basic base64(KEY:)","X-Acme-Api-Key: KEY","?api_key=KEY""#)),
        row("and beside a key", [("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), ("x-acme-api-key", "{active}")], 200,
            [ACTIVE, PRIVATE, ("vary", "X-Acme-Api-Key")], "acme /v1 authorization=Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        row("a header of the company's own", [("x-acme-api-key", "{active}")], 200, [ACTIVE, PRIVATE, ("vary", "X-Acme-Api-Key")], "acme /v1"),
        row("the query, without which the inner service gets it", [(":path", "/v1?a=1&api_key={active}&b=2")], 200, [ACTIVE, PRIVATE], "acme /v1?a=1&b=2"),
        row("nothing but the query", [(":path", "/v1?api_key={active}")], 200, [ACTIVE, PRIVATE], "acme /v1"),
        row("another parameter", [(":path", "/v1?api_Key={active}")], 401, [JSON, NO_STORE, BY_HEADER, BY_QUERY], missing!("Authorization: Basic base64(KEY:) or X-Acme-Api-Key: KEY", r#""Authorization: Basic base64(KEY:)","X-Acme-Api-Key: KEY","?api_key=KEY""#)),
        row("a bad key in the query", [(":path", "/v1?api_key={typo}")], 401, [JSON, NO_STORE, BY_HEADER, BY_QUERY], NOT_FOUND),
        row("the query twice", [(":path", "/v1?api_key={active}&api_key={active}")], 400, [JSON, NO_STORE], AMBIGUOUS),
        row("the query twice, hidden by encoding", [(":path", "/v1?api_key={active}&api%5Fkey={active}")], 400, [JSON, NO_STORE], AMBIGUOUS),
        row("the query and a header", [(":path", "/v1?api_key={active}"), ("x-acme-api-key", "{admin}")], 400, [JSON, NO_STORE], AMBIGUOUS),
        row("the same key in three places", [(":path", "/v1?api_key={active}&b=2"), ("x-acme-api-key", "{active}"), ("authorization", "Basic {basic:active}")], 200, [ACTIVE, PRIVATE, ("vary", "X-Acme-Api-Key")], "acme /v1?b=2"),
        row("what was not chosen is not read", [("x-api-key", "{active}")], 401, [JSON, NO_STORE, BY_HEADER, BY_QUERY], missing!("Authorization: Basic base64(KEY:) or X-Acme-Api-Key: KEY", r#""Authorization: Basic base64(KEY:)","X-Acme-Api-Key: KEY","?api_key=KEY""#)),
        row("our key in Authorization, under a scheme that is not chosen, is bad", [("authorization", "Bearer {active}")], 401, [JSON, NO_STORE, BY_HEADER, BY_QUERY], NOT_FOUND),
    };
    hold(&world, layer, rows).await;
}

#[tokio::test]
async fn in_optional_mode_no_key_is_fine_and_a_bad_one_is_not() {
    let world = World::new().await;
    let rows = table! {
        row("nobody; the answer depends on the header", [], 200, [VARY, VARY_TOO], "nobody /v1"),
        row("a user's token is not ours to judge", [("authorization", "Bearer {jwt}")], 200, [VARY, VARY_TOO], "nobody /v1 authorization=Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"),
        row("a good key", [("authorization", "Bearer {active}")], 200, [ACTIVE, VARY, VARY_TOO], "acme /v1"),
        row("a bad key is refused", [("authorization", "Bearer {unknown}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE, VARY, VARY_TOO], NOT_FOUND),
        row("also if it is only meant as one", [("x-api-key", "x")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE, VARY, VARY_TOO], NOT_FOUND),
        row("a key with a slip of the pen is not passed on", [("authorization", "Bearer: {active}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE, VARY, VARY_TOO], NOT_FOUND),
        row("nor one in quotes", [("authorization", "Bearer \"{active}\"")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE, VARY, VARY_TOO], NOT_FOUND),
        row("nor one whose scheme was said twice", [("authorization", "Bearer Bearer {active}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE, VARY, VARY_TOO], NOT_FOUND),
        row("two keys are refused", [("x-api-key", "{active}"), ("authorization", "Bearer {admin}")], 400, [JSON, NO_STORE, BEARER_REQUEST, VARY, VARY_TOO], AMBIGUOUS),
    };
    hold(&world, world.keys.layer().optional(), rows).await;

    let layer = world.keys.layer().optional();
    let scoped = layer.layer(RequireScope::new(READ).layer(EchoService));
    let rows = table! {
        row("what needs a scope needs a key", [], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE, VARY, VARY_TOO], MISSING),
        row("which opens it", [("authorization", "Bearer {active}")], 200, [ACTIVE, VARY, VARY_TOO], "acme /v1"),
    };
    hold_on(&world, &[("hyper", serve_hyper(scoped).await)], rows).await;
}

#[tokio::test]
async fn only_a_true_preflight_is_let_through_and_only_if_asked_for() {
    let world = World::new().await;
    const ORIGIN: (&str, &str) = ("origin", "https://app.example");
    const METHOD: (&str, &str) = ("access-control-request-method", "POST");
    const OPTIONS: (&str, &str) = (":method", "OPTIONS");
    let rows = table! {
        row("a preflight", [OPTIONS, ORIGIN, METHOD], 200, [], "nobody /v1"),
        row("OPTIONS alone", [OPTIONS], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("without an origin", [OPTIONS, METHOD], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("without a method", [OPTIONS, ORIGIN], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("not OPTIONS", [ORIGIN, METHOD], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("a preflight never carries credentials", [OPTIONS, ORIGIN, METHOD, ("authorization", "Bearer {jwt}")], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("nor cookies", [OPTIONS, ORIGIN, METHOD, ("cookie", "a=b")], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("nor a header that is made for keys, even an empty one", [OPTIONS, ORIGIN, METHOD, ("x-api-key", "")], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("with a key in such a header it is judged by that", [OPTIONS, ORIGIN, METHOD, ("x-api-key", "{active}")], 200, [ACTIVE, PRIVATE, VARY], "acme /v1"),
        row("with a bad key it is no preflight", [OPTIONS, ORIGIN, METHOD, ("authorization", "Bearer {typo}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE], NOT_FOUND),
    };
    hold(&world, world.keys.layer().dangerous_allow_preflight(), rows).await;

    let layer = world
        .keys
        .layer()
        .add_source(KeySource::dangerous_query("api_key"));
    let rows = table! {
        row("a key in the URL is taken out", [OPTIONS, ORIGIN, METHOD, (":path", "/v1?a=1&api_key={active}&b=2")], 200, [], "nobody /v1?a=1&b=2"),
        row("also one that is over", [OPTIONS, ORIGIN, METHOD, (":path", "/v1?api_key={revoked}")], 200, [], "nobody /v1"),
    };
    hold(&world, layer.clone().dangerous_allow_preflight(), rows).await;
    let rows = table! {
        row("unless preflights are let through, it is a request with a key", [OPTIONS, ORIGIN, METHOD, (":path", "/v1?api_key={active}")], 200, [ACTIVE, PRIVATE], "acme /v1"),
    };
    hold(&world, layer, rows).await;
}

#[tokio::test]
async fn the_key_may_stay_in_the_request_but_is_marked() {
    let world = World::new().await;
    let key = world.fill("{active}");
    let leak = |text: String| -> &'static str { text.leak() };
    let rows = table! {
        row("Bearer", [("authorization", "Bearer {active}")], 200, [ACTIVE], leak(format!("acme /v1 sensitive authorization=Bearer {key}"))),
        row("X-API-Key", [("x-api-key", "{active}")], 200, [ACTIVE, PRIVATE, VARY], leak(format!("acme /v1 sensitive x-api-key={key}"))),
        row("the query", [(":path", "/v1?key={active}")], 200, [ACTIVE, PRIVATE], leak(format!("acme /v1?key={key}"))),
        row("two places", [("authorization", "Bearer {active}"), ("x-api-key", "{active}")], 200, [ACTIVE, PRIVATE, VARY], leak(format!("acme /v1 sensitive authorization=Bearer {key} sensitive x-api-key={key}"))),
    };
    let sources = [
        KeySource::bearer(),
        KeySource::x_api_key(),
        KeySource::dangerous_query("key"),
    ];
    hold(
        &world,
        world
            .keys
            .layer()
            .sources(sources)
            .dangerous_keep_credential(),
        rows,
    )
    .await;
}

#[tokio::test]
async fn challenges_follow_the_sources() {
    let world = World::new().await;
    const BASIC: (&str, &str) = ("www-authenticate", r#"Basic realm="api", charset="UTF-8""#);
    let layer = world
        .keys
        .layer()
        .sources([KeySource::x_api_key()])
        .realm("Acme API")
        .unwrap();
    let rows = table! {
        row("a 401 has a challenge, also without a scheme", [], 401, [JSON, NO_STORE, ("www-authenticate", r#"ApiKey realm="Acme API", in="header", name="X-API-Key""#)], missing!("X-API-Key: KEY", r#""X-API-Key: KEY""#)),
        row("no scheme is named that is not accepted", [("x-api-key", "{active}"), ("x-api-key", "{admin}")], 400, [JSON, NO_STORE], AMBIGUOUS),
    };
    hold(&world, layer, rows).await;

    let layer = world.keys.layer().sources([KeySource::basic()]);
    let rows = table! {
        row("Basic, because there is no other way in", [], 401, [JSON, NO_STORE, BASIC], missing!("Authorization: Basic base64(KEY:)", r#""Authorization: Basic base64(KEY:)""#)),
        row("also after a bad key", [("authorization", "Basic {basic:typo}")], 401, [JSON, NO_STORE, BASIC], NOT_FOUND),
    };
    hold(&world, layer, rows).await;

    let layer = world.keys.layer();
    let layer = layer.sources([KeySource::dangerous_query("a \"key\"\\ü")]);
    let rows = table! {
        row("the query, its name as it is written there", [], 401, [JSON, NO_STORE, ("www-authenticate", r#"ApiKey realm="api", in="query", name="a%20%22key%22%5C%C3%BC""#)], missing!("?a%20%22key%22%5C%C3%BC=KEY", r#""?a%20%22key%22%5C%C3%BC=KEY""#)),
    };
    hold(&world, layer, rows).await;

    let layer = world
        .keys
        .layer()
        .sources([KeySource::basic(), KeySource::bearer()]);
    let rows = table! {
        row("no Basic beside another scheme", [], 401, [JSON, NO_STORE, BEARER_CHALLENGE], missing!("Authorization: Basic base64(KEY:) or Authorization: Bearer KEY", r#""Authorization: Basic base64(KEY:)","Authorization: Bearer KEY""#)),
    };
    hold(&world, layer.clone(), rows).await;
    let rows = table! {
        row("Basic, because it was asked for", [], 401, [JSON, NO_STORE, BEARER_CHALLENGE, BASIC], missing!("Authorization: Basic base64(KEY:) or Authorization: Bearer KEY", r#""Authorization: Basic base64(KEY:)","Authorization: Bearer KEY""#)),
    };
    hold(&world, layer.challenge_basic(), rows).await;

    let layer = world.keys.layer().sources([KeySource::x_api_key()]);
    let rows = table! {
        row("insufficient scope is said in Bearer's terms, and Bearer is not accepted", [("x-api-key", "{active}")], 403, [JSON, NO_STORE, ACTIVE, VARY], LACKS_WRITE),
    };
    hold(&world, layer.require(WRITE), rows).await;

    assert!(world.keys.layer().realm("a\"b").is_err());
}

#[tokio::test]
async fn a_scheme_of_its_own_and_the_password_of_basic_carry_a_key() {
    let world = World::new().await;
    let layer = world.keys.layer().sources([
        KeySource::scheme("Api-Key").unwrap(),
        KeySource::basic_password(),
    ]);
    const CHALLENGE: (&str, &str) = ("www-authenticate", r#"Api-Key realm="api""#);
    const NONE: &str = missing!(
        "Authorization: Api-Key KEY or Authorization: Basic base64(USER:KEY)",
        r#""Authorization: Api-Key KEY","Authorization: Basic base64(USER:KEY)""#
    );
    let rows = table! {
        row("the scheme", [("authorization", "Api-Key {active}")], 200, [ACTIVE], "acme /v1"),
        row("in any case", [("authorization", "aPI-kEY {active}")], 200, [ACTIVE], "acme /v1"),
        row("under it, junk is ours", [("authorization", "Api-Key {jwt}")], 401, [JSON, NO_STORE, CHALLENGE], NOT_FOUND),
        row("a key under another scheme is ours and bad", [("authorization", "ApiKey {active}")], 401, [JSON, NO_STORE, CHALLENGE], NOT_FOUND),
        row("the password, as pip and git send it", [("authorization", "Basic {basic-as-password:active}")], 200, [ACTIVE], "acme /v1"),
        row("alone, as the user name, it is not looked at", [("authorization", "Basic {basic:active}")], 401, [JSON, NO_STORE, CHALLENGE], NOT_FOUND),
        row("in both", [("authorization", "Basic {basic-in-both:active}")], 401, [JSON, NO_STORE, CHALLENGE], NOT_FOUND),
        row("a password with a typo", [("authorization", "Basic {basic-as-password:typo}")], 401, [JSON, NO_STORE, CHALLENGE], NOT_FOUND),
        row("a password of somebody else", [("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")], 401, [JSON, NO_STORE, CHALLENGE], NONE),
        row("no key", [], 401, [JSON, NO_STORE, CHALLENGE], NONE),
    };
    hold(&world, layer, rows).await;

    let both = [KeySource::basic(), KeySource::basic_password()];
    let layer = world.keys.layer().sources(both);
    const BASIC: (&str, &str) = ("www-authenticate", r#"Basic realm="api", charset="UTF-8""#);
    let rows = table! {
        row("the password", [("authorization", "Basic {basic-as-password:active}")], 200, [ACTIVE], "acme /v1"),
        row("the user name", [("authorization", "Basic {basic:active}")], 200, [ACTIVE], "acme /v1"),
        row("the same in both", [("authorization", "Basic {basic-in-both:active}")], 401, [JSON, NO_STORE, BASIC], NOT_FOUND),
    };
    hold(&world, layer, rows).await;

    for name in [
        "",
        "Api Key",
        "Digest",
        "dpop",
        "Schlüssel",
        "key:",
        &"k".repeat(65),
    ] {
        assert!(KeySource::scheme(name).is_err(), "{name:?}");
    }
    assert_eq!(KeySource::scheme("bearer").unwrap(), KeySource::bearer());
    assert_eq!(
        KeySource::scheme("APIKEY").unwrap(),
        KeySource::api_key_scheme()
    );
    assert_eq!(KeySource::scheme("Basic").unwrap(), KeySource::basic());
}

#[tokio::test]
async fn the_challenge_names_the_metadata_and_unknown_keys_are_forbidden_if_asked_for() {
    let world = World::new().await;
    let layer = world.keys.layer().sources([KeySource::bearer()]);
    let url = "https://api.example.com/.well-known/oauth-protected-resource";
    let described = layer.clone().resource_metadata(url).unwrap();
    const NONE: &str = missing!(
        "Authorization: Bearer KEY",
        r#""Authorization: Bearer KEY""#
    );
    let rows = table! {
        row("no key", [], 401, [JSON, NO_STORE, ("www-authenticate", r#"Bearer realm="api", resource_metadata="https://api.example.com/.well-known/oauth-protected-resource""#)], NONE),
    };
    hold(&world, described, rows).await;
    for url in [
        "",
        "http://api.example.com",
        "https://",
        "https://a.example/\"",
        "https://ä",
    ] {
        assert!(layer.clone().resource_metadata(url).is_err(), "{url:?}");
    }
    let rows = table! {
        row("a key that is not found", [("authorization", "Bearer {unknown}")], 403, [JSON, NO_STORE], NOT_FOUND),
        row("a typo", [("authorization", "Bearer {typo}")], 403, [JSON, NO_STORE], NOT_FOUND),
        row("no key", [], 401, [JSON, NO_STORE, BEARER_CHALLENGE], NONE),
        row("in gRPC's way", [(":method", "POST"), ("content-type", "application/grpc"), ("authorization", "Bearer {typo}")], 200,
            [NO_STORE, ("content-type", "application/grpc"), ("grpc-status", "7"), ("grpc-message", "The API key is not valid.")], ""),
    };
    hold(&world, layer.forbid_unknown_keys(), rows).await;
}

/// What errors are written from holds no credential, also on the way back and after a wait.
#[tokio::test]
async fn the_application_writes_errors_from_the_request_without_its_credentials() {
    let world = World::new().await;
    let format = ErrorFormat::custom(|error, request| {
        let mut names: Vec<_> = request
            .headers
            .keys()
            .map(http::HeaderName::as_str)
            .collect();
        names.sort_unstable();
        let uri = request.uri;
        let message = error.message().len();
        http::Response::new(format!("{} {uri} {names:?} {}", error.code(), message > 0))
    });
    let layer = world
        .keys
        .layer()
        .add_source(KeySource::dangerous_query("api_key"))
        .errors(format);
    let rows = table! {
        row("denied by the layer", [("authorization", "Bearer {suspended}"), ("cookie", "a=b"), ("x-trace", "7")], 403,
            [NO_STORE, ("x-key-status", "suspended")], r#"api_key_suspended /v1 ["host", "x-trace"] true"#),
        row("a key in the URL", [(":path", "/v1?api_key={typo}&a=b")], 401,
            [NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE], r#"api_key_not_found /v1?a=b ["host"] true"#),
        row("a key where none is looked for", [(":path", "/v1/{active}?a=b"), ("x-other", "{active}"), ("authorization", "Bearer {jwt}")], 401,
            [NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], r#"missing_api_key / ["host"] true"#),
        row("somebody else's token", [("authorization", "Bearer {jwt}"), ("proxy-authorization", "Basic abc")], 401,
            [NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], r#"missing_api_key /v1 ["host"] true"#),
    };
    hold(&world, layer, rows).await;
}

#[tokio::test]
async fn an_error_of_the_application_is_written_as_the_layer_writes_its_own() {
    let world = World::new().await;
    let service = tower::service_fn(async |_: Request<hyper::body::Incoming>| {
        let error = ApiError::new(
            http::StatusCode::NOT_FOUND,
            "report_not_found",
            "There is \"none\".",
        )
        .add_detail("report", "r-17");
        let mut response = error.to_response::<Full<bytes::Bytes>>();
        response
            .headers_mut()
            .insert("x-trace", "7".parse().unwrap());
        Ok::<_, std::convert::Infallible>(response)
    });
    const TRACE: (&str, &str) = ("x-trace", "7");
    let key = ("x-api-key", "{active}");
    let ask = async |layer: ApiKeyLayer, rows: Vec<Row>| {
        let address = serve_hyper(layer.layer(service)).await;
        hold_on(&world, &[("hyper", address)], rows).await;
    };
    let rows = table! {
        row("JSON", [key], 404, [JSON, ACTIVE, PRIVATE, VARY, TRACE], r#"{"error":{"code":"report_not_found","message":"There is \"none\".","details":{"report":"r-17"}}}"#),
        row("gRPC", [key, (":method", "POST"), ("content-type", "application/grpc")], 200,
            [ACTIVE, PRIVATE, VARY, TRACE, ("content-type", "application/grpc"), ("grpc-status", "5"), ("grpc-message", "There is \"none\".")], ""),
    };
    ask(world.keys.layer(), rows).await;
    let rows = table! {
        row("problem details", [key], 404, [("content-type", "application/problem+json"), ACTIVE, PRIVATE, VARY, TRACE],
            r#"{"title":"Not Found","status":404,"detail":"There is \"none\".","code":"report_not_found","details":{"report":"r-17"}}"#),
    };
    ask(
        world.keys.layer().errors(ErrorFormat::problem_details()),
        rows,
    )
    .await;
    // From a copy of the request as it was before the service had it, without its credentials.
    let format = ErrorFormat::custom(|error, request| {
        let names: Vec<_> = request
            .headers
            .keys()
            .map(http::HeaderName::as_str)
            .collect();
        let (code, uri) = (error.code(), request.uri);
        http::Response::new(format!("{code} {:?} {uri} {names:?}", error.rejection()))
    });
    let rows = table! {
        row("its own way", [key, ("cookie", "a=b")], 404, [ACTIVE, PRIVATE, VARY, TRACE], r#"report_not_found None /v1 ["host"]"#),
    };
    ask(world.keys.layer().errors(format), rows).await;
}

#[tokio::test]
async fn the_headers_of_limits_can_be_chosen_one_by_one() {
    let world = World::new().await;
    let limits = Limits::new().per_key(Quota::per_day(1_000).smooth());
    world.keys.set_limits(limits).unwrap();
    const LIMIT: (&str, &str) = ("x-ratelimit-limit", "1000");
    let all = RateLimitHeaders::delta;
    for (headers, told) in [
        (all(), vec!["limit", "remaining", "reset"]),
        (all().without_limit(), vec!["remaining", "reset"]),
        (all().without_remaining(), vec!["limit", "reset"]),
        (all().without_reset(), vec!["limit", "remaining"]),
        (
            all().without_limit().without_remaining().without_reset(),
            vec![],
        ),
    ] {
        let layer = world.keys.layer().rate_limit_headers(headers);
        let address = serve_hyper(layer.layer(EchoService)).await;
        let row = row("a key", [("authorization", "Bearer {active}")], 200, [], "");
        let answer = send(address, request(&world, &row)).await;
        let names = answer.headers.iter().filter_map(|(name, value)| {
            assert!(name != LIMIT.0 || value == LIMIT.1);
            name.strip_prefix("x-ratelimit-")
        });
        assert_eq!(names.collect::<Vec<_>>(), told);
    }
}

#[tokio::test]
async fn what_is_told_of_a_key_can_be_chosen() {
    let world = World::new().await;
    let layer = world
        .keys
        .layer()
        .deprecation_link("https://docs.example.com/keys")
        .unwrap()
        .sunset_link("https://docs.example.com/sunset")
        .unwrap()
        .status_headers(false);
    let rows = table! {
        row("links, for a key on its way out", [("authorization", "Bearer {expiring}")], 200, [
            ("deprecation", "@1765497600"),
            ("sunset", "Sun, 11 Jan 2026 00:00:00 GMT"),
            ("link", r#"<https://docs.example.com/keys>; rel="deprecation"; type="text/html""#),
            ("link", r#"<https://docs.example.com/sunset>; rel="sunset"; type="text/html""#),
        ], "globex /v1"),
        row("nothing for any other", [("authorization", "Bearer {active}")], 200, [], "acme /v1"),
    };
    hold(&world, layer, rows).await;

    let rows = table! {
        row("no dates of deprecation", [("authorization", "Bearer {expiring}")], 200, [
        ("x-key-status", "deprecated"),
        ("x-key-expires-at", "2026-01-11T00:00:00Z"),
    ], "globex /v1"),
    };
    hold(&world, world.keys.layer().deprecation_headers(false), rows).await;
}

#[tokio::test]
async fn refusals_are_written_as_the_application_wishes() {
    let world = World::new().await;
    const PROBLEM: (&str, &str) = ("content-type", "application/problem+json");
    let rows = table! {
        row("a problem without a type", [("x-api-key", "{suspended}")], 403, [PROBLEM, NO_STORE, VARY, ("x-key-status", "suspended")],
            r#"{"title":"Forbidden","status":403,"detail":"The API key is suspended.","code":"api_key_suspended","details":{}}"#),
        row("no key", [], 401, [PROBLEM, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE],
            r#"{"title":"Unauthorized","status":401,"detail":"This request needs an API key. Send it as Authorization: Bearer KEY, Authorization: ApiKey KEY or X-API-Key: KEY.","code":"missing_api_key","details":{"accepted":["Authorization: Bearer KEY","Authorization: ApiKey KEY","X-API-Key: KEY"]}}"#),
    };
    hold(
        &world,
        world.keys.layer().errors(ErrorFormat::problem_details()),
        rows,
    )
    .await;

    let rows = table! {
        row("a problem with a type", [("x-api-key", "{suspended}")], 403, [PROBLEM, NO_STORE, VARY, ("x-key-status", "suspended")],
            r#"{"type":"https://docs.example.com/errors/api_key_suspended","title":"api key suspended","status":403,"detail":"The API key is suspended.","code":"api_key_suspended","details":{}}"#),
    };
    let format = ErrorFormat::problem_details_at("https://docs.example.com/errors/");
    hold(&world, world.keys.layer().errors(format), rows).await;

    // An application's own function that forgets everything it can.
    let format = ErrorFormat::custom(|rejection, _| {
        http::Response::builder()
            .header("cache-control", "public, max-age=3600")
            .header("x-acme", "1")
            .body(format!("no: {}", rejection.code()))
            .unwrap()
    });
    let rows = table! {
        row("the status, the challenge and no-store are put back", [], 401,
            [NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE, ("x-acme", "1")], "no: missing_api_key"),
    };
    hold(&world, world.keys.layer().errors(format.clone()), rows).await;

    let down = ApiKeys::read_only(Down)
        .build()
        .unwrap()
        .layer()
        .errors(format);
    let rows = table! {
        row("Retry-After is put back", [("authorization", "Bearer {active}")], 503,
        [NO_STORE, ("retry-after", "5"), ("x-acme", "1")], "no: service_unavailable"),
    };
    hold(&world, down, rows).await;
}

#[tokio::test]
async fn an_outage_is_503_and_says_when_to_come_back() {
    let world = World::new().await;
    let down = ApiKeys::read_only(Down).build().unwrap().layer();
    const UNAVAILABLE: &str = r#"{"error":{"code":"service_unavailable","message":"API keys cannot be verified at the moment. Try again later.","details":{"retry_after":5}}}"#;
    let rows = table! {
        row("a good key cannot be judged", [("authorization", "Bearer {active}")], 503, [JSON, NO_STORE, ("retry-after", "5")], UNAVAILABLE),
        row("nor can an unknown one", [("x-api-key", "{unknown}")], 503, [JSON, NO_STORE, VARY, ("retry-after", "5")], UNAVAILABLE),
        row("what is no key needs no store", [("authorization", "Bearer {typo}")], 401, [JSON, NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE], NOT_FOUND),
        row("nor does no key", [], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
    };
    hold(&world, down.clone(), rows).await;

    let rows = table! {
        row("in optional mode, too: never a silent yes", [("authorization", "Bearer {active}")], 503,
        [JSON, NO_STORE, VARY, VARY_TOO, ("retry-after", "5")], UNAVAILABLE),
    };
    hold(&world, down.optional(), rows).await;
}

#[tokio::test]
async fn grpc_is_answered_in_its_own_way() {
    let world = World::new().await;
    const GRPC: (&str, &str) = ("content-type", "application/grpc");
    const POST: (&str, &str) = (":method", "POST");
    const GRPC_MISSING: [(&str, &str); 4] = [
        GRPC,
        NO_STORE,
        ("grpc-status", "16"),
        (
            "grpc-message",
            "This request needs an API key. Send it as Authorization: Bearer KEY, Authorization: ApiKey KEY or X-API-Key: KEY.",
        ),
    ];
    let rows = table! {
        row("no key", [POST, GRPC], 200, GRPC_MISSING, ""),
        row("suspended", [POST, ("content-type", "application/grpc+proto"), ("authorization", "Bearer {suspended}")], 200,
            [GRPC, NO_STORE, ("grpc-status", "7"), ("grpc-message", "The API key is suspended."), ("x-key-status", "suspended")], ""),
        row("gRPC-Web is another protocol", [POST, ("content-type", "application/grpc-web")], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
        row("gRPC is always a POST: who asks by status is not fooled", [GRPC], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
    };
    hold(&world, world.keys.layer(), rows).await;

    let rows = table! {
        row("any method, if asked for", [GRPC], 200, GRPC_MISSING, ""),
    };
    hold(
        &world,
        world.keys.layer().grpc(GrpcRequests::AnyMethod),
        rows,
    )
    .await;

    let rows = table! {
        row("never, if asked for", [POST, GRPC], 401, [JSON, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING),
    };
    hold(&world, world.keys.layer().grpc(GrpcRequests::Never), rows).await;

    let down = ApiKeys::read_only(Down).build().unwrap().layer();
    let rows = table! {
        row("an outage", [POST, GRPC, ("authorization", "Bearer {active}")], 200, [
            GRPC, NO_STORE, ("grpc-status", "14"), ("retry-after", "5"), ("grpc-retry-pushback-ms", "5000"),
            ("grpc-message", "API keys cannot be verified at the moment. Try again later."),
        ], ""),
    };
    hold(&world, down, rows).await;
}

#[tokio::test]
async fn a_change_holds_from_the_next_request_on() {
    let world = World::new().await;
    let address = serve_hyper(world.keys.layer().layer(EchoService)).await;
    let key = world.plaintexts["active"].clone();
    let id = tower_api_key::key::KeyDigest::of(&key).id();
    let status = async || {
        let request = Request::builder()
            .header("x-api-key", &key)
            .body(())
            .unwrap();
        send(address, request).await.status
    };
    assert_eq!(status().await, 200);
    world.keys.suspend(id).await.unwrap();
    assert_eq!(status().await, 403);
    world.keys.resume(id).await.unwrap();
    assert_eq!(status().await, 200);
    world.keys.revoke(id).await.unwrap();
    assert_eq!(status().await, 401);
    world.keys.resume(id).await.unwrap();
    assert_eq!(status().await, 401, "revoked stays revoked");
}

#[tokio::test]
async fn expiry_is_judged_at_each_request() {
    let world = World::new().await;
    let address = serve_hyper(world.keys.layer().layer(EchoService)).await;
    let status = async || {
        let key = world.fill("{expiring}");
        let request = Request::builder()
            .header("x-api-key", key)
            .body(())
            .unwrap();
        send(address, request).await.status
    };
    let nanosecond = std::time::Duration::from_nanos(1);
    world
        .clock
        .set(support::today() + 10 * support::DAY - nanosecond);
    assert_eq!(status().await, 200);
    world.clock.advance(nanosecond);
    assert_eq!(status().await, 401);
}
