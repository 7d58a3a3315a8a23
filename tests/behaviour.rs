//! What the library does, over real sockets: each row is a request and the exact answer to it, on
//! axum and on hyper without axum. `{name}` stands for the key of that name
//! in `World::with_named_keys`.
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
use support::{
    Answer, Down, EchoService, READ, WRITE, World, send, serve, serve_axum, serve_hyper,
    sorted_headers,
};
use tower::Layer;
use tower_api_key::http::{
    ApiError, ClientAddress, ErrorFormat, GrpcRequests, RateLimitHeaders, TrustedProxies,
};
use tower_api_key::{ApiKeyLayer, ApiKeys, Environment, KeySource, Limits, Quota, RequireScope};

type Header = (&'static str, &'static str);

/// A request, and what must come back.
struct Row {
    says: &'static str,
    request: Vec<Header>,
    expected: Expected,
}

struct Expected {
    status: u16,
    headers: Vec<Header>,
    body: &'static str,
}

/// `request` holds headers, and `:method` and `:path` where they are not `GET` and `/v1`.
fn row<const N: usize>(says: &'static str, request: [Header; N], expected: Expected) -> Row {
    let request = request.to_vec();
    Row {
        says,
        request,
        expected,
    }
}

/// The inner service answered, and the layer has nothing to add.
fn passed_on(body: &'static str) -> Expected {
    Expected {
        status: 200,
        headers: Vec::new(),
        body,
    }
}

/// The inner service answered a key that is good, and was sent in `Authorization`.
fn admitted(body: &'static str) -> Expected {
    passed_on(body).and([ACTIVE])
}

fn unauthorized<const N: usize>(challenges: [Header; N], body: &'static str) -> Expected {
    let headers = vec![JSON, NO_STORE];
    let refused = Expected {
        status: 401,
        headers,
        body,
    };
    refused.and(challenges)
}

fn forbidden<const N: usize>(headers: [Header; N], body: &'static str) -> Expected {
    Expected {
        status: 403,
        ..unauthorized(headers, body)
    }
}

/// There is no key.
fn missing() -> Expected {
    unauthorized([BEARER_CHALLENGE, APIKEY_CHALLENGE], MISSING)
}

/// There is a key, and it is no good.
fn not_found() -> Expected {
    unauthorized([BEARER_INVALID, APIKEY_CHALLENGE], NOT_FOUND)
}

/// There is more than one.
fn ambiguous<const N: usize>(challenges: [Header; N]) -> Expected {
    Expected {
        status: 400,
        ..unauthorized(challenges, AMBIGUOUS)
    }
}

impl Expected {
    /// With these headers, too.
    fn and<const N: usize>(mut self, headers: [Header; N]) -> Self {
        self.headers.extend(headers);
        self
    }
}

/// Rows, which rustfmt leaves alone in braces.
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

/// The challenge of a refusal for want of a scope.
macro_rules! insufficient_scope {
    ($scope:literal) => {
        (
            "www-authenticate",
            concat!(
                r#"Bearer realm="api", error="insufficient_scope", "#,
                r#"error_description="The API key lacks a scope that this request needs.""#,
                $scope
            ),
        )
    };
}

// Headers that come in bunches.
const JSON: Header = ("content-type", "application/json");
const NO_STORE: Header = ("cache-control", "no-store");
const PRIVATE: Header = ("cache-control", "private");
const VARY: Header = ("vary", "X-API-Key");
const VARY_TOO: Header = ("vary", "Authorization"); // in optional mode
const ACTIVE: Header = ("x-key-status", "active");
const APIKEY_CHALLENGE: Header = ("www-authenticate", r#"ApiKey realm="api""#);
const BEARER_CHALLENGE: Header = ("www-authenticate", r#"Bearer realm="api""#);
const BEARER_INVALID: Header = (
    "www-authenticate",
    r#"Bearer realm="api", error="invalid_token", error_description="The API key is not valid.""#,
);
const BEARER_REQUEST: Header = (
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
            status: row.expected.status,
            headers: sorted_headers(&row.expected.headers),
            body: row.expected.body.to_owned(),
        };
        for (stack, address) in stacks {
            let answer = send(*address, request(world, &row.request)).await;
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

fn request(world: &World, headers: &[Header]) -> Request<()> {
    let mut request = Request::builder().uri("/v1");
    for (name, value) in headers {
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
async fn by_default_a_key_is_read_from_three_places() {
    let world = World::with_named_keys();
    let rows = table! {
        row("Bearer", [("authorization", "Bearer {active}")], admitted("acme /v1")),
        row("schemes are case-insensitive", [("authorization", "bEARER {active}")],
            admitted("acme /v1")),
        row("one or more spaces", [("authorization", "Bearer    {active}")], admitted("acme /v1")),
        row("ApiKey", [("authorization", "ApiKey {active}")], admitted("acme /v1")),
        row("apikey", [("authorization", "apikey {active}")], admitted("acme /v1")),
        row("X-API-Key, kept out of shared caches", [("x-api-key", "{active}")],
            admitted("acme /v1").and([PRIVATE, VARY])),
        row("white space around a header is none of it", [("x-api-key", " \t{active}\t ")],
            admitted("acme /v1").and([PRIVATE, VARY])),
        row("the path and the query are untouched",
            [("x-api-key", "{active}"), (":path", "/v1/x?a=%20&b=+")],
            admitted("acme /v1/x?a=%20&b=+").and([PRIVATE, VARY])),
        row("no key", [], missing()),
        row("an empty header is no key", [("x-api-key", " ")], missing()),
        row("a scheme without credentials is no key", [("authorization", "Bearer ")], missing()),
        row("Basic is no way in unless asked for, and our key under it is ours, and bad",
            [("authorization", "Basic {basic:active}")], not_found()),
        row("nor is the query", [(":path", "/v1?api_key={active}")], missing()),
        row("a tab does not end a scheme", [("authorization", "Bearer\t{active}")], not_found()),
        row("our key under another scheme is ours, and bad", [("authorization", "Token {active}")],
            not_found()),
        row("without a scheme, too", [("authorization", "{active}")], not_found()),
        row("another scheme is somebody else's", [("authorization", "Token abc")], missing()),
        row("OPTIONS needs a key like any other", [(":method", "OPTIONS")], missing()),
        row("also a preflight",
            [(":method", "OPTIONS"), ("origin", "https://a.example"),
             ("access-control-request-method", "GET")],
            missing()),
    };
    hold(&world, world.keys.layer(), rows).await;
}

#[tokio::test]
async fn a_users_token_is_passed_on_beside_the_api_key() {
    let world = World::with_named_keys();
    let rows = table! {
        row("a JWT is passed on", [("authorization", "Bearer {jwt}"), ("x-api-key", "{active}")],
            admitted("acme /v1 authorization=Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln")
                .and([PRIVATE, VARY])),
        row("Basic, too", [("authorization", "Basic dGVzdDoxMjPCow=="), ("x-api-key", "{active}")],
            admitted("acme /v1 authorization=Basic dGVzdDoxMjPCow==").and([PRIVATE, VARY])),
        row("alone, it is no key", [("authorization", "Bearer {jwt}")], missing()),
        row("in our place, it is a bad key", [("x-api-key", "{jwt}")], not_found().and([VARY])),
        row("under our scheme, it is a bad key", [("authorization", "ApiKey {jwt}")], not_found()),
    };
    hold(&world, world.keys.layer(), rows).await;
}

#[tokio::test]
async fn more_than_one_credential_is_refused_as_ambiguous() {
    let world = World::with_named_keys();
    let rows = table! {
        row("in two places", [("authorization", "Bearer {active}"), ("x-api-key", "{admin}")],
            ambiguous([BEARER_REQUEST])),
        row("the same key in two places is one",
            [("authorization", "Bearer {active}"), ("x-api-key", "{active}")],
            admitted("acme /v1").and([PRIVATE, VARY])),
        row("also if it is bad", [("authorization", "Bearer {typo}"), ("x-api-key", "{typo}")],
            not_found().and([VARY])),
        row("but not if one is nearly the other",
            [("authorization", "Bearer {active}"), ("x-api-key", "{active}x")],
            ambiguous([BEARER_REQUEST])),
        row("one of them bad", [("authorization", "Bearer {active}"), ("x-api-key", "{junk}")],
            ambiguous([BEARER_REQUEST])),
        row("two lines of a header", [("x-api-key", "{active}"), ("x-api-key", "{active}")],
            ambiguous([BEARER_REQUEST])),
        row("one of them empty", [("x-api-key", "{active}"), ("x-api-key", "")],
            ambiguous([BEARER_REQUEST])),
        row("two lines of Authorization",
            [("authorization", "Bearer {jwt}"), ("authorization", "Bearer {active}")],
            ambiguous([BEARER_REQUEST])),
        row("even if neither is ours",
            [("authorization", "Bearer {jwt}"), ("authorization", "Bearer {jwt}"),
             ("x-api-key", "{active}")],
            ambiguous([BEARER_REQUEST])),
        row("two in one line are no key", [("x-api-key", "{active}, {active}")],
            not_found().and([VARY])),
    };
    hold(&world, world.keys.layer(), rows).await;
}

#[tokio::test]
async fn the_holder_of_a_key_is_told_its_status() {
    let world = World::with_named_keys();
    let rows = table! {
        row("active", [("authorization", "Bearer {active}")], admitted("acme /v1")),
        row("active, and will end", [("authorization", "Bearer {yearling}")],
            admitted("acme /v1").and([("x-key-expires-at", "2027-01-01T00:00:00Z")])),
        row("deprecated, 30 days before the end",
            [("authorization", "Bearer {expiring}")],
            passed_on("globex /v1").and([
                ("x-key-status", "deprecated"),
                ("x-key-expires-at", "2026-01-11T00:00:00Z"),
                ("deprecation", "@1765497600"), // 2025-12-12T00:00:00Z
                ("sunset", "Sun, 11 Jan 2026 00:00:00 GMT"),
            ])),
        row("expired", [("authorization", "Bearer {expired}")],
            unauthorized([
                APIKEY_CHALLENGE,
                ("www-authenticate", r#"Bearer realm="api", error="invalid_token", error_description="The API key has expired.""#),
                ("x-key-status", "expired"),
                ("x-key-expired-at", "2025-04-11T00:00:00Z"),
            ], r#"{"error":{"code":"api_key_expired","message":"The API key has expired.","details":{"expired_at":"2025-04-11T00:00:00Z"}}}"#)),
        row("revoked", [("authorization", "Bearer {revoked}")],
            unauthorized([
                APIKEY_CHALLENGE,
                ("www-authenticate", r#"Bearer realm="api", error="invalid_token", error_description="The API key has been revoked.""#),
                ("x-key-status", "revoked"),
            ], r#"{"error":{"code":"api_key_revoked","message":"The API key has been revoked.","details":{}}}"#)),
        row("suspended", [("x-api-key", "{suspended}")],
            forbidden([VARY, ("x-key-status", "suspended")],
                r#"{"error":{"code":"api_key_suspended","message":"The API key is suspended.","details":{}}}"#)),
        row("not yet active", [("authorization", "Bearer {early}")],
            forbidden([("x-key-status", "not_yet_active")],
                r#"{"error":{"code":"api_key_not_yet_active","message":"The API key is not active yet.","details":{"not_before":"2026-01-02T00:00:00Z"}}}"#)),
    };
    hold(&world, world.keys.layer(), rows).await;
}

#[tokio::test]
async fn a_caller_without_a_valid_key_learns_nothing() {
    let world = World::with_named_keys();
    let bad = |says, key| row(says, [("authorization", key)], not_found());
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
async fn a_key_is_accepted_only_in_its_environment() {
    let world = World::with_named_keys();
    let refused = |says, key, status, body| {
        row(
            says,
            [("authorization", key)],
            forbidden([("x-key-status", status)], body),
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
        row("a test key at a test door", [("authorization", "Bearer {test}")],
            admitted("acme /v1")),
    };
    hold(
        &world,
        world.keys.layer().environments([Environment::TEST]),
        rows,
    )
    .await;

    let rows = table! {
        row("live", [("authorization", "Bearer {active}")], admitted("acme /v1")),
        row("test", [("authorization", "Bearer {test}")], admitted("acme /v1")),
    };
    hold(&world, world.keys.layer().dangerous_any_environment(), rows).await;

    let rows = table! {
        row("live, of a list", [("authorization", "Bearer {active}")], admitted("acme /v1")),
        row("test, of a list", [("authorization", "Bearer {test}")], admitted("acme /v1")),
    };
    let both = [Environment::LIVE, Environment::TEST];
    hold(&world, world.keys.layer().environments(both), rows).await;
}

const IP_NOT_ALLOWED: &str = r#"{"error":{"code":"ip_not_allowed","message":"The API key may not be used from this network address.","details":{}}}"#;

#[tokio::test]
async fn an_allow_list_restricts_a_key_to_its_networks() {
    let world = World::with_named_keys();
    let refused = |says, header, value| {
        row(
            says,
            [("authorization", "Bearer {there}"), (header, value)],
            forbidden([ACTIVE], IP_NOT_ALLOWED),
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
            row("from here", [("authorization", "Bearer {here}")], admitted("acme /v1")),
        }
    };
    hold_on(&world, &[hyper], here()).await;
    if cfg!(feature = "axum") {
        hold_on(&world, &[axum], here()).await;
    } else {
        let unknown = row(
            "an address that is not known",
            [("authorization", "Bearer {here}")],
            forbidden([ACTIVE], IP_NOT_ALLOWED),
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
async fn the_client_address_is_taken_from_a_trusted_proxy() {
    let world = World::with_named_keys();
    let proxies = TrustedProxies::count(std::num::NonZeroU8::MIN);
    let layer = world
        .keys
        .layer()
        .client_address(ClientAddress::x_forwarded_for(proxies));
    let rows = table! {
        row("an address that the proxy wrote",
            [("authorization", "Bearer {there}"), ("x-forwarded-for", "192.0.2.7")],
            admitted("acme /v1")),
        row("mapped IPv6 is IPv4",
            [("authorization", "Bearer {there}"), ("x-forwarded-for", "::ffff:192.0.2.7")],
            admitted("acme /v1")),
        row("the last line counts",
            [("authorization", "Bearer {there}"), ("x-forwarded-for", "10.0.0.1"),
             ("x-forwarded-for", "192.0.2.7")],
            admitted("acme /v1")),
        row("an address that the client made up",
            [("authorization", "Bearer {there}"), ("x-forwarded-for", "192.0.2.7, 198.51.100.1")],
            forbidden([ACTIVE], IP_NOT_ALLOWED)),
        row("around the proxy", [("authorization", "Bearer {there}")],
            forbidden([ACTIVE], IP_NOT_ALLOWED)),
    };
    hold(&world, layer, rows).await;

    let networks = TrustedProxies::networks(["10.0.0.0/8"]).unwrap();
    let layer = world
        .keys
        .layer()
        .client_address(ClientAddress::forwarded(networks));
    let rows = table! {
        row("a peer that is no proxy is itself the client",
            [("authorization", "Bearer {there}"), ("forwarded", "for=192.0.2.7")],
            forbidden([ACTIVE], IP_NOT_ALLOWED)),
    };
    hold(&world, layer, rows).await;
}

#[tokio::test]
async fn scopes_can_be_required_by_the_layer_and_by_a_route() {
    let world = World::with_named_keys();
    let lacks_write = |says| {
        row(
            says,
            [("authorization", "ApiKey {active}")],
            forbidden(
                [ACTIVE, insufficient_scope!(r#", scope="reports:write""#)],
                LACKS_WRITE,
            ),
        )
    };
    let rows = table! {
        lacks_write("the layer asks for what the key lacks"),
        row("and for what another holds", [("authorization", "ApiKey {admin}")],
            admitted("acme /v1")),
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
        row("admin", [("authorization", "ApiKey {admin}")], admitted("acme /v1")),
        row("no key", [], missing()),
    };
    hold_on(&world, &route(RequireScope::new(WRITE)).await, rows).await;

    let rows = table! {
        row("each call of require adds", [("authorization", "ApiKey {active}")],
            forbidden([
                ACTIVE,
                insufficient_scope!(r#", scope="reports:write""#),
            ], LACKS_WRITE)),
    };
    hold(
        &world,
        world.keys.layer().require(WRITE).require(READ),
        rows,
    )
    .await;

    let rows = table! {
        row("one of several is held", [("authorization", "ApiKey {active}")], admitted("acme /v1")),
        row("none is held: no list of what all would be needed",
            [("authorization", "ApiKey {yearling}")],
            forbidden([
                ACTIVE,
                ("x-key-expires-at", "2027-01-01T00:00:00Z"),
                insufficient_scope!(""),
            ], r#"{"error":{"code":"insufficient_scope","message":"The API key lacks a scope that this request needs.","details":{"required":"any","required_scopes":["reports:read","reports:write"]}}}"#)),
    };
    hold_on(
        &world,
        &route(RequireScope::any_of([READ, WRITE])).await,
        rows,
    )
    .await;

    let rows = table! {
        row("all of several", [("authorization", "ApiKey {admin}")], admitted("acme /v1")),
        row("one is not all", [("authorization", "ApiKey {active}")],
            forbidden([
                ACTIVE,
                insufficient_scope!(r#", scope="reports:read reports:write""#),
            ], r#"{"error":{"code":"insufficient_scope","message":"The API key lacks a scope that this request needs.","details":{"required":"all","required_scopes":["reports:read","reports:write"]}}}"#)),
    };
    hold_on(
        &world,
        &route(RequireScope::all_of([READ, WRITE])).await,
        rows,
    )
    .await;
}

#[tokio::test]
async fn the_application_chooses_the_key_sources() {
    let world = World::with_named_keys();
    let layer = world.keys.layer().sources([
        KeySource::basic(),
        KeySource::header("X-Acme-Api-Key").unwrap(),
        KeySource::dangerous_query("api_key"),
    ]);
    // Basic would open a dialog, and is not the only way in.
    const BY_HEADER: Header = (
        "www-authenticate",
        r#"ApiKey realm="api", in="header", name="X-Acme-Api-Key""#,
    );
    const BY_QUERY: Header = (
        "www-authenticate",
        r#"ApiKey realm="api", in="query", name="api_key""#,
    );
    const NONE: &str = missing!(
        "Authorization: Basic base64(KEY:) or X-Acme-Api-Key: KEY",
        r#""Authorization: Basic base64(KEY:)","X-Acme-Api-Key: KEY","?api_key=KEY""#
    );
    let rows = table! {
        row("Basic, as curl -u KEY: sends it", [("authorization", "Basic {basic:active}")],
            admitted("acme /v1")),
        row("basic", [("authorization", "basic {basic:active}")], admitted("acme /v1")),
        row("the password must be empty", [("authorization", "Basic {basic-with-password:active}")],
            unauthorized([BY_HEADER, BY_QUERY], NOT_FOUND)),
        row("something before a key of ours",
            [("authorization", "Basic eCBza19saXZlXzAxMjM0NTY3ODlhYmNkZWY6")],
            unauthorized([BY_HEADER, BY_QUERY], NOT_FOUND)),
        row("something before what is too short for one",
            [("authorization", "Basic eCBza19saXZlX2FiYzo=")],
            unauthorized([BY_HEADER, BY_QUERY], NONE)),
        row("Basic of somebody else", [("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")],
            unauthorized([BY_HEADER, BY_QUERY], NONE)),
        row("and beside a key",
            [("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
             ("x-acme-api-key", "{active}")],
            admitted("acme /v1 authorization=Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
                .and([PRIVATE, ("vary", "X-Acme-Api-Key")])),
        row("a header of the company's own", [("x-acme-api-key", "{active}")],
            admitted("acme /v1").and([PRIVATE, ("vary", "X-Acme-Api-Key")])),
        row("the query, without which the inner service gets it",
            [(":path", "/v1?a=1&api_key={active}&b=2")],
            admitted("acme /v1?a=1&b=2").and([PRIVATE])),
        row("nothing but the query", [(":path", "/v1?api_key={active}")],
            admitted("acme /v1").and([PRIVATE])),
        row("another parameter", [(":path", "/v1?api_Key={active}")],
            unauthorized([BY_HEADER, BY_QUERY], NONE)),
        row("a bad key in the query", [(":path", "/v1?api_key={typo}")],
            unauthorized([BY_HEADER, BY_QUERY], NOT_FOUND)),
        row("the query twice", [(":path", "/v1?api_key={active}&api_key={active}")], ambiguous([])),
        row("the query twice, hidden by encoding",
            [(":path", "/v1?api_key={active}&api%5Fkey={active}")], ambiguous([])),
        row("the query and a header",
            [(":path", "/v1?api_key={active}"), ("x-acme-api-key", "{admin}")], ambiguous([])),
        row("the same key in three places",
            [(":path", "/v1?api_key={active}&b=2"), ("x-acme-api-key", "{active}"),
             ("authorization", "Basic {basic:active}")],
            admitted("acme /v1?b=2").and([PRIVATE, ("vary", "X-Acme-Api-Key")])),
        row("a source that was not chosen is not read", [("x-api-key", "{active}")],
            unauthorized([BY_HEADER, BY_QUERY], NONE)),
        row("our key in Authorization, under a scheme that is not chosen, is bad",
            [("authorization", "Bearer {active}")],
            unauthorized([BY_HEADER, BY_QUERY], NOT_FOUND)),
    };
    hold(&world, layer, rows).await;
}

#[tokio::test]
async fn in_optional_mode_a_missing_key_passes_and_a_bad_key_is_refused() {
    let world = World::with_named_keys();
    let rows = table! {
        row("nobody; the answer depends on the header", [],
            passed_on("nobody /v1").and([VARY, VARY_TOO])),
        row("a user's token is not ours to judge", [("authorization", "Bearer {jwt}")],
            passed_on("nobody /v1 authorization=Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln")
                .and([VARY, VARY_TOO])),
        row("a good key", [("authorization", "Bearer {active}")],
            admitted("acme /v1").and([VARY, VARY_TOO])),
        row("a bad key is refused", [("authorization", "Bearer {unknown}")],
            not_found().and([VARY, VARY_TOO])),
        row("also if it is only meant as one", [("x-api-key", "x")],
            not_found().and([VARY, VARY_TOO])),
        row("a key with a slip of the pen is not passed on",
            [("authorization", "Bearer: {active}")], not_found().and([VARY, VARY_TOO])),
        row("nor one in quotes", [("authorization", "Bearer \"{active}\"")],
            not_found().and([VARY, VARY_TOO])),
        row("nor one whose scheme was said twice", [("authorization", "Bearer Bearer {active}")],
            not_found().and([VARY, VARY_TOO])),
        row("two keys are refused",
            [("x-api-key", "{active}"), ("authorization", "Bearer {admin}")],
            ambiguous([BEARER_REQUEST]).and([VARY, VARY_TOO])),
    };
    hold(&world, world.keys.layer().optional(), rows).await;

    let layer = world.keys.layer().optional();
    let scoped = layer.layer(RequireScope::new(READ).layer(EchoService));
    let rows = table! {
        row("a route that needs a scope needs a key", [], missing().and([VARY, VARY_TOO])),
        row("a key with the scope opens it", [("authorization", "Bearer {active}")],
            admitted("acme /v1").and([VARY, VARY_TOO])),
    };
    hold_on(&world, &[("hyper", serve_hyper(scoped).await)], rows).await;
}

#[tokio::test]
async fn only_a_genuine_preflight_passes_and_only_if_enabled() {
    let world = World::with_named_keys();
    const ORIGIN: Header = ("origin", "https://app.example");
    const METHOD: Header = ("access-control-request-method", "POST");
    const OPTIONS: Header = (":method", "OPTIONS");
    let rows = table! {
        row("a preflight", [OPTIONS, ORIGIN, METHOD], passed_on("nobody /v1")),
        row("OPTIONS alone", [OPTIONS], missing()),
        row("without an origin", [OPTIONS, METHOD], missing()),
        row("without a method", [OPTIONS, ORIGIN], missing()),
        row("not OPTIONS", [ORIGIN, METHOD], missing()),
        row("a preflight never carries credentials",
            [OPTIONS, ORIGIN, METHOD, ("authorization", "Bearer {jwt}")], missing()),
        row("nor cookies", [OPTIONS, ORIGIN, METHOD, ("cookie", "a=b")], missing()),
        row("nor a header that is made for keys, even an empty one",
            [OPTIONS, ORIGIN, METHOD, ("x-api-key", "")], missing()),
        row("with a key in such a header it is judged by that",
            [OPTIONS, ORIGIN, METHOD, ("x-api-key", "{active}")],
            admitted("acme /v1").and([PRIVATE, VARY])),
        row("with a bad key it is no preflight",
            [OPTIONS, ORIGIN, METHOD, ("authorization", "Bearer {typo}")], not_found()),
    };
    hold(&world, world.keys.layer().dangerous_allow_preflight(), rows).await;

    let layer = world
        .keys
        .layer()
        .add_source(KeySource::dangerous_query("api_key"));
    let rows = table! {
        row("a key in the URL is taken out",
            [OPTIONS, ORIGIN, METHOD, (":path", "/v1?a=1&api_key={active}&b=2")],
            passed_on("nobody /v1?a=1&b=2")),
        row("also one that is over",
            [OPTIONS, ORIGIN, METHOD, (":path", "/v1?api_key={revoked}")], passed_on("nobody /v1")),
    };
    hold(&world, layer.clone().dangerous_allow_preflight(), rows).await;
    let rows = table! {
        row("unless preflights are let through, it is a request with a key",
            [OPTIONS, ORIGIN, METHOD, (":path", "/v1?api_key={active}")],
            admitted("acme /v1").and([PRIVATE])),
    };
    hold(&world, layer, rows).await;
}

#[tokio::test]
async fn a_kept_credential_is_marked_sensitive() {
    let world = World::with_named_keys();
    let key = world.fill("{active}");
    let leak = |text: String| -> &'static str { text.leak() };
    let rows = table! {
        row("Bearer", [("authorization", "Bearer {active}")],
            admitted(leak(format!("acme /v1 sensitive authorization=Bearer {key}")))),
        row("X-API-Key", [("x-api-key", "{active}")],
            admitted(leak(format!("acme /v1 sensitive x-api-key={key}"))).and([PRIVATE, VARY])),
        row("the query", [(":path", "/v1?key={active}")],
            admitted(leak(format!("acme /v1?key={key}"))).and([PRIVATE])),
        row("two places",
            [("authorization", "Bearer {active}"), ("x-api-key", "{active}")],
            admitted(leak(format!(
                "acme /v1 sensitive authorization=Bearer {key} sensitive x-api-key={key}"
            ))).and([PRIVATE, VARY])),
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
    let world = World::with_named_keys();
    const BASIC: Header = ("www-authenticate", r#"Basic realm="api", charset="UTF-8""#);
    let layer = world
        .keys
        .layer()
        .sources([KeySource::x_api_key()])
        .realm("Acme API")
        .unwrap();
    let rows = table! {
        row("a 401 has a challenge, also without a scheme", [],
            unauthorized([
                ("www-authenticate", r#"ApiKey realm="Acme API", in="header", name="X-API-Key""#),
            ], missing!("X-API-Key: KEY", r#""X-API-Key: KEY""#))),
        row("no scheme is named that is not accepted",
            [("x-api-key", "{active}"), ("x-api-key", "{admin}")], ambiguous([])),
    };
    hold(&world, layer, rows).await;

    let layer = world.keys.layer().sources([KeySource::basic()]);
    let rows = table! {
        row("Basic, because there is no other way in", [],
            unauthorized([BASIC],
                missing!("Authorization: Basic base64(KEY:)", r#""Authorization: Basic base64(KEY:)""#))),
        row("also after a bad key", [("authorization", "Basic {basic:typo}")],
            unauthorized([BASIC], NOT_FOUND)),
    };
    hold(&world, layer, rows).await;

    let layer = world.keys.layer();
    let layer = layer.sources([KeySource::dangerous_query("a \"key\"\\ü")]);
    let rows = table! {
        row("the query, its name as it is written there", [],
            unauthorized([
                ("www-authenticate", r#"ApiKey realm="api", in="query", name="a%20%22key%22%5C%C3%BC""#),
            ], missing!("?a%20%22key%22%5C%C3%BC=KEY", r#""?a%20%22key%22%5C%C3%BC=KEY""#))),
    };
    hold(&world, layer, rows).await;

    let layer = world
        .keys
        .layer()
        .sources([KeySource::basic(), KeySource::bearer()]);
    const BOTH: &str = missing!(
        "Authorization: Basic base64(KEY:) or Authorization: Bearer KEY",
        r#""Authorization: Basic base64(KEY:)","Authorization: Bearer KEY""#
    );
    let rows = table! {
        row("no Basic beside another scheme", [], unauthorized([BEARER_CHALLENGE], BOTH)),
    };
    hold(&world, layer.clone(), rows).await;
    let rows = table! {
        row("Basic, because it was asked for", [], unauthorized([BEARER_CHALLENGE, BASIC], BOTH)),
    };
    hold(&world, layer.challenge_basic(), rows).await;

    let layer = world.keys.layer().sources([KeySource::x_api_key()]);
    let rows = table! {
        row("insufficient scope is said in Bearer's terms, and Bearer is not accepted",
            [("x-api-key", "{active}")],
            forbidden([ACTIVE, VARY], LACKS_WRITE)),
    };
    hold(&world, layer.require(WRITE), rows).await;

    assert!(world.keys.layer().realm("a\"b").is_err());
}

#[tokio::test]
async fn a_custom_scheme_and_the_basic_password_can_carry_a_key() {
    let world = World::with_named_keys();
    let layer = world.keys.layer().sources([
        KeySource::scheme("Api-Key").unwrap(),
        KeySource::basic_password(),
    ]);
    const CHALLENGE: Header = ("www-authenticate", r#"Api-Key realm="api""#);
    const NONE: &str = missing!(
        "Authorization: Api-Key KEY or Authorization: Basic base64(USER:KEY)",
        r#""Authorization: Api-Key KEY","Authorization: Basic base64(USER:KEY)""#
    );
    let rows = table! {
        row("the scheme", [("authorization", "Api-Key {active}")], admitted("acme /v1")),
        row("in any case", [("authorization", "aPI-kEY {active}")], admitted("acme /v1")),
        row("under it, junk is ours", [("authorization", "Api-Key {jwt}")],
            unauthorized([CHALLENGE], NOT_FOUND)),
        row("a key under another scheme is ours and bad", [("authorization", "ApiKey {active}")],
            unauthorized([CHALLENGE], NOT_FOUND)),
        row("the password, as pip and git send it",
            [("authorization", "Basic {basic-as-password:active}")], admitted("acme /v1")),
        row("alone, as the user name, it is not looked at",
            [("authorization", "Basic {basic:active}")],
            unauthorized([CHALLENGE], NOT_FOUND)),
        row("in both", [("authorization", "Basic {basic-in-both:active}")],
            unauthorized([CHALLENGE], NOT_FOUND)),
        row("a password with a typo", [("authorization", "Basic {basic-as-password:typo}")],
            unauthorized([CHALLENGE], NOT_FOUND)),
        row("a password of somebody else",
            [("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")],
            unauthorized([CHALLENGE], NONE)), row("no key", [], unauthorized([CHALLENGE], NONE)),
    };
    hold(&world, layer, rows).await;

    let both = [KeySource::basic(), KeySource::basic_password()];
    let layer = world.keys.layer().sources(both);
    const BASIC: Header = ("www-authenticate", r#"Basic realm="api", charset="UTF-8""#);
    let rows = table! {
        row("the password", [("authorization", "Basic {basic-as-password:active}")],
            admitted("acme /v1")),
        row("the user name", [("authorization", "Basic {basic:active}")], admitted("acme /v1")),
        row("the same in both", [("authorization", "Basic {basic-in-both:active}")],
            unauthorized([BASIC], NOT_FOUND)),
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
async fn resource_metadata_and_a_403_for_unknown_keys_are_opt_in() {
    let world = World::with_named_keys();
    let layer = world.keys.layer().sources([KeySource::bearer()]);
    let url = "https://api.example.com/.well-known/oauth-protected-resource";
    let described = layer.clone().resource_metadata(url).unwrap();
    const NONE: &str = missing!(
        "Authorization: Bearer KEY",
        r#""Authorization: Bearer KEY""#
    );
    let rows = table! {
        row("no key", [],
            unauthorized([
                ("www-authenticate", r#"Bearer realm="api", resource_metadata="https://api.example.com/.well-known/oauth-protected-resource""#),
            ], NONE)),
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
        row("a key that is not found", [("authorization", "Bearer {unknown}")],
            forbidden([], NOT_FOUND)),
        row("a typo", [("authorization", "Bearer {typo}")], forbidden([], NOT_FOUND)),
        row("no key", [], unauthorized([BEARER_CHALLENGE], NONE)),
        row("in gRPC's way",
            [(":method", "POST"), ("content-type", "application/grpc"),
             ("authorization", "Bearer {typo}")],
            Expected {
                status: 200,
                headers: vec![
                    NO_STORE,
                    ("content-type", "application/grpc"),
                    ("grpc-status", "7"),
                    ("grpc-message", "The API key is not valid."),
                ],
                body: "",
            }),
    };
    hold(&world, layer.forbid_unknown_keys(), rows).await;
}

/// The request that errors are written from holds no credential, also on the way back and after a
/// wait.
#[tokio::test]
async fn a_custom_error_format_sees_the_request_without_credentials() {
    let world = World::with_named_keys();
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
        row("denied by the layer",
            [("authorization", "Bearer {suspended}"), ("cookie", "a=b"), ("x-trace", "7")],
            Expected {
                status: 403,
                headers: vec![NO_STORE, ("x-key-status", "suspended")],
                body: r#"api_key_suspended /v1 ["host", "x-trace"] true"#,
            }),
        row("a key in the URL", [(":path", "/v1?api_key={typo}&a=b")], Expected {
            status: 401,
            headers: vec![NO_STORE, BEARER_INVALID, APIKEY_CHALLENGE],
            body: r#"api_key_not_found /v1?a=b ["host"] true"#,
        }),
        row("a key where none is looked for",
            [(":path", "/v1/{active}?a=b"), ("x-other", "{active}"),
             ("authorization", "Bearer {jwt}")],
            Expected {
                status: 401,
                headers: vec![NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE],
                body: r#"missing_api_key / ["host"] true"#,
            }),
        row("somebody else's token",
            [("authorization", "Bearer {jwt}"), ("proxy-authorization", "Basic abc")],
            Expected {
                status: 401,
                headers: vec![NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE],
                body: r#"missing_api_key /v1 ["host"] true"#,
            }),
    };
    hold(&world, layer, rows).await;
}

#[tokio::test]
async fn an_application_error_is_written_in_the_layers_format() {
    let world = World::with_named_keys();
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
    const TRACE: Header = ("x-trace", "7");
    let key = ("x-api-key", "{active}");
    let ask = async |layer: ApiKeyLayer, rows: Vec<Row>| {
        let address = serve_hyper(layer.layer(service)).await;
        hold_on(&world, &[("hyper", address)], rows).await;
    };
    let rows = table! {
        row("JSON", [key], Expected {
            status: 404,
            headers: vec![JSON, ACTIVE, PRIVATE, VARY, TRACE],
            body: r#"{"error":{"code":"report_not_found","message":"There is \"none\".","details":{"report":"r-17"}}}"#,
        }),
        row("gRPC", [key, (":method", "POST"), ("content-type", "application/grpc")], Expected {
            status: 200,
            headers: vec![
                ACTIVE,
                PRIVATE,
                VARY,
                TRACE,
                ("content-type", "application/grpc"),
                ("grpc-status", "5"),
                ("grpc-message", "There is \"none\"."),
            ],
            body: "",
        }),
    };
    ask(world.keys.layer(), rows).await;
    let rows = table! {
        row("problem details", [key], Expected {
            status: 404,
            headers: vec![
                ("content-type", "application/problem+json"),
                ACTIVE,
                PRIVATE,
                VARY,
                TRACE,
            ],
            body: r#"{"title":"Not Found","status":404,"detail":"There is \"none\".","code":"report_not_found","details":{"report":"r-17"}}"#,
        }),
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
        row("its own way", [key, ("cookie", "a=b")], Expected {
            status: 404,
            headers: vec![ACTIVE, PRIVATE, VARY, TRACE],
            body: r#"report_not_found None /v1 ["host"]"#,
        }),
    };
    ask(world.keys.layer().errors(format), rows).await;
}

#[tokio::test]
async fn rate_limit_headers_can_be_disabled_individually() {
    let world = World::with_named_keys();
    let limits = Limits::new().per_key(Quota::per_day(1_000).smooth());
    world.keys.set_limits(limits).unwrap();
    const LIMIT: Header = ("x-ratelimit-limit", "1000");
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
        let request = request(&world, &[("authorization", "Bearer {active}")]);
        let answer = send(address, request).await;
        let names = answer.headers.iter().filter_map(|(name, value)| {
            assert!(name != LIMIT.0 || value == LIMIT.1);
            name.strip_prefix("x-ratelimit-")
        });
        assert_eq!(names.collect::<Vec<_>>(), told);
    }
}

#[tokio::test]
async fn status_and_deprecation_headers_are_configurable() {
    let world = World::with_named_keys();
    let layer = world
        .keys
        .layer()
        .deprecation_link("https://docs.example.com/keys")
        .unwrap()
        .sunset_link("https://docs.example.com/sunset")
        .unwrap()
        .status_headers(false);
    let rows = table! {
        row("links, for a key on its way out", [("authorization", "Bearer {expiring}")], Expected {
            status: 200,
            headers: vec![
                ("deprecation", "@1765497600"),
                ("sunset", "Sun, 11 Jan 2026 00:00:00 GMT"),
                ("link", r#"<https://docs.example.com/keys>; rel="deprecation"; type="text/html""#),
                ("link", r#"<https://docs.example.com/sunset>; rel="sunset"; type="text/html""#),
            ],
            body: "globex /v1",
        }),
        row("nothing for any other", [("authorization", "Bearer {active}")], passed_on("acme /v1")),
    };
    hold(&world, layer, rows).await;

    let rows = table! {
        row("no dates of deprecation", [("authorization", "Bearer {expiring}")], Expected {
            status: 200,
            headers: vec![
                ("x-key-status", "deprecated"),
                ("x-key-expires-at", "2026-01-11T00:00:00Z"),
            ],
            body: "globex /v1",
        }),
    };
    hold(&world, world.keys.layer().deprecation_headers(false), rows).await;
}

#[tokio::test]
async fn refusals_are_written_in_the_configured_error_format() {
    let world = World::with_named_keys();
    const PROBLEM: Header = ("content-type", "application/problem+json");
    let rows = table! {
        row("a problem without a type", [("x-api-key", "{suspended}")], Expected {
            status: 403,
            headers: vec![PROBLEM, NO_STORE, VARY, ("x-key-status", "suspended")],
            body: r#"{"title":"Forbidden","status":403,"detail":"The API key is suspended.","code":"api_key_suspended","details":{}}"#,
        }),
        row("no key", [], Expected {
            status: 401,
            headers: vec![PROBLEM, NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE],
            body: r#"{"title":"Unauthorized","status":401,"detail":"This request needs an API key. Send it as Authorization: Bearer KEY, Authorization: ApiKey KEY or X-API-Key: KEY.","code":"missing_api_key","details":{"accepted":["Authorization: Bearer KEY","Authorization: ApiKey KEY","X-API-Key: KEY"]}}"#,
        }),
    };
    hold(
        &world,
        world.keys.layer().errors(ErrorFormat::problem_details()),
        rows,
    )
    .await;

    let rows = table! {
        row("a problem with a type", [("x-api-key", "{suspended}")], Expected {
            status: 403,
            headers: vec![PROBLEM, NO_STORE, VARY, ("x-key-status", "suspended")],
            body: r#"{"type":"https://docs.example.com/errors/api_key_suspended","title":"api key suspended","status":403,"detail":"The API key is suspended.","code":"api_key_suspended","details":{}}"#,
        }),
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
        row("the status, the challenge and no-store are put back", [], Expected {
            status: 401,
            headers: vec![NO_STORE, BEARER_CHALLENGE, APIKEY_CHALLENGE, ("x-acme", "1")],
            body: "no: missing_api_key",
        }),
    };
    hold(&world, world.keys.layer().errors(format.clone()), rows).await;

    let down = ApiKeys::read_only(Down)
        .build()
        .unwrap()
        .layer()
        .errors(format);
    let rows = table! {
        row("Retry-After is put back", [("authorization", "Bearer {active}")], Expected {
            status: 503,
            headers: vec![NO_STORE, ("retry-after", "5"), ("x-acme", "1")],
            body: "no: service_unavailable",
        }),
    };
    hold(&world, down, rows).await;
}

#[tokio::test]
async fn an_outage_is_a_503_with_retry_after() {
    let world = World::with_named_keys();
    let down = ApiKeys::read_only(Down).build().unwrap().layer();
    const UNAVAILABLE: &str = r#"{"error":{"code":"service_unavailable","message":"API keys cannot be verified at the moment. Try again later.","details":{"retry_after":5}}}"#;
    let rows = table! {
        row("a good key cannot be judged", [("authorization", "Bearer {active}")], Expected {
            status: 503,
            headers: vec![JSON, NO_STORE, ("retry-after", "5")],
            body: UNAVAILABLE,
        }),
        row("nor can an unknown one", [("x-api-key", "{unknown}")], Expected {
            status: 503,
            headers: vec![JSON, NO_STORE, VARY, ("retry-after", "5")],
            body: UNAVAILABLE,
        }),
        row("a malformed key needs no store", [("authorization", "Bearer {typo}")], not_found()),
        row("nor does no key", [], missing()),
    };
    hold(&world, down.clone(), rows).await;

    let rows = table! {
        row("in optional mode, too: never a silent yes",
            [("authorization", "Bearer {active}")],
            Expected {
                status: 503,
                headers: vec![JSON, NO_STORE, VARY, VARY_TOO, ("retry-after", "5")],
                body: UNAVAILABLE,
            }),
    };
    hold(&world, down.optional(), rows).await;
}

#[tokio::test]
async fn a_grpc_request_is_refused_with_a_grpc_status() {
    let world = World::with_named_keys();
    const GRPC: Header = ("content-type", "application/grpc");
    const POST: Header = (":method", "POST");
    const GRPC_MISSING: [Header; 4] = [
        GRPC,
        NO_STORE,
        ("grpc-status", "16"),
        (
            "grpc-message",
            "This request needs an API key. Send it as Authorization: Bearer KEY, Authorization: ApiKey KEY or X-API-Key: KEY.",
        ),
    ];
    let rows = table! {
        row("no key", [POST, GRPC], Expected {
            status: 200,
            headers: GRPC_MISSING.to_vec(),
            body: "",
        }),
        row("suspended",
            [POST, ("content-type", "application/grpc+proto"),
             ("authorization", "Bearer {suspended}")],
            Expected {
                status: 200,
                headers: vec![
                    GRPC,
                    NO_STORE,
                    ("grpc-status", "7"),
                    ("grpc-message", "The API key is suspended."),
                    ("x-key-status", "suspended"),
                ],
                body: "",
            }),
        row("gRPC-Web is another protocol", [POST, ("content-type", "application/grpc-web")],
            missing()),
        row("gRPC is always a POST: a client that goes by the status is not fooled", [GRPC],
            missing()),
    };
    hold(&world, world.keys.layer(), rows).await;

    let rows = table! {
        row("any method, if asked for", [GRPC], Expected {
            status: 200,
            headers: GRPC_MISSING.to_vec(),
            body: "",
        }),
    };
    hold(
        &world,
        world.keys.layer().grpc(GrpcRequests::AnyMethod),
        rows,
    )
    .await;

    let rows = table! {
        row("never, if asked for", [POST, GRPC], missing()),
    };
    hold(&world, world.keys.layer().grpc(GrpcRequests::Never), rows).await;

    let down = ApiKeys::read_only(Down).build().unwrap().layer();
    let rows = table! {
        row("an outage", [POST, GRPC, ("authorization", "Bearer {active}")], Expected {
            status: 200,
            headers: vec![
                GRPC,
                NO_STORE,
                ("grpc-status", "14"),
                ("retry-after", "5"),
                ("grpc-retry-pushback-ms", "5000"),
                ("grpc-message", "API keys cannot be verified at the moment. Try again later."),
            ],
            body: "",
        }),
    };
    hold(&world, down, rows).await;
}

#[tokio::test]
async fn a_change_applies_from_the_next_request_on() {
    let world = World::with_named_keys();
    let address = serve(world.keys.layer()).await;
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
async fn expiry_is_checked_on_every_request() {
    let world = World::with_named_keys();
    let address = serve(world.keys.layer()).await;
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
