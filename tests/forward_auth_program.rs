//! The example `forward_auth`, asked as Traefik and Envoy ask by their documentation, and without
//! a proxy. `tests/forward_auth_nginx.rs` has a real nginx in front of it.
//!
//! `cargo test` builds the examples, too. With `--test forward_auth_program`, build them before:
//! `cargo build --examples`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../examples/forward_auth/answer.rs"]
mod answer;
#[path = "../examples/forward_auth/introspect.rs"]
mod introspect;
#[path = "../examples/forward_auth/original.rs"]
mod original;
#[path = "../examples/forward_auth/service.rs"]
mod service;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_api_key::http::CallerFact;
use tower_api_key::key::{AllowedNetworks, KeyFormat};
use tower_api_key::store::StoreError;
use tower_api_key::{ApiKeys, Environment, KeyId, KeyRecord, KeyStore, MemoryStore};

use introspect::INTROSPECT;
use service::{REPORTS_READ, REPORTS_WRITE, limits};

const TRAEFIK: &str = include_str!("../examples/forward_auth/traefik.yml");
const ENVOY: &str = include_str!("../examples/forward_auth/envoy.yaml");

struct World {
    keys: ApiKeys,
    service: Router,
}

impl World {
    fn new() -> Self {
        let keys = ApiKeys::builder(MemoryStore::new()).limits(limits());
        let keys = keys.build().unwrap();
        let service = service::service(&keys.to_read_only());
        Self { keys, service }
    }

    async fn key(&self) -> String {
        let key = self
            .keys
            .issue("acme")
            .scopes([REPORTS_READ, REPORTS_WRITE]);
        key.await.unwrap().expose_secret().to_owned()
    }

    async fn asker(&self) -> String {
        let key = self
            .keys
            .issue("billing")
            .scopes([INTROSPECT])
            .await
            .unwrap();
        key.expose_secret().to_owned()
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Told {
        ask(&self.service, method, path, headers, String::new()).await
    }

    async fn introspect(&self, asker: &str, form: &str) -> Told {
        introspect_by(&self.service, asker, form).await
    }
}

async fn introspect_by(service: &Router, asker: &str, form: &str) -> Told {
    let headers = [
        ("x-api-key", asker),
        (
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        ),
    ];
    ask(service, "POST", "/introspect", &headers, form.to_owned()).await
}

async fn ask(
    service: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Told {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).unwrap();
    let (head, body) = service.clone().oneshot(request).await.unwrap().into_parts();
    let body = to_bytes(body, 65_536).await.unwrap();
    Told {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

#[derive(Debug)]
struct Told {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Told {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }
}

fn program() -> Command {
    let test = std::env::current_exe().unwrap(); // target/debug/deps/…
    let built = test.parent().and_then(Path::parent).unwrap();
    let program = built.join("examples").join("forward_auth");
    assert!(program.is_file(), "build it with cargo build --examples");
    let mut command = Command::new(program);
    command.env_remove("RUST_LOG").env_remove("API_KEYS");
    command.stdin(Stdio::null());
    command
}

#[test]
fn the_program_shows_what_it_does_and_no_key() {
    let output = program().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    for line in [
        "    > x-original-uri: /v1/whoami\n",
        "    < x-key-account: M%C3%BCller%20&%20Co\n",
        "    < x-refusal-status: 401\n",
        "    < x-refusal-status: 400\n",
        "    < 429 Too Many Requests\n",
        "    < x-envoy-auth-headers-to-remove: x-api-key\n",
        "    < {\"active\":false}\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(!shown.contains("sk_live_"), "{shown}");
}

#[test]
fn the_program_refuses_arguments_that_it_does_not_know() {
    for arguments in [&["serve"][..], &["serve", "nowhere"], &["help"]] {
        let output = program().args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_program_takes_keys_from_its_environment_and_prints_none() {
    let key = "0123456789abcdef".repeat(4);
    let mut program = program();
    program.args(["serve", "127.0.0.1:0"]);
    program.env("API_KEYS", format!("reader acme reports:read = {key}"));
    let mut program = program.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut printed = BufReader::new(program.stdout.take().unwrap());
    printed.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    let head = format!("GET /envoy/v1/reports HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n");
    connection
        .write_all(format!("{head}connection: close\r\n\r\n").as_bytes())
        .unwrap();
    let answer = std::io::read_to_string(connection).unwrap();
    program.kill().unwrap();
    program.wait().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("x-key-account: acme\r\n"), "{answer}");
    assert_eq!(std::io::read_to_string(printed).unwrap(), "");

    let mut program = self::program();
    program.args(["serve", "127.0.0.1:0"]);
    let output = program
        .env("API_KEYS", format!("reader {key}"))
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(!String::from_utf8(output.stderr).unwrap().contains(&key));
}

/// nginx sets its two headers; a client sets others, which nginx passes on.
#[tokio::test]
async fn a_form_reads_no_header_of_another_one() {
    let world = World::new();
    let key = world.key().await;
    let key = ("x-api-key", key.as_str());
    let nginx = [
        ("x-original-method", "POST"),
        ("x-original-uri", "/v1/nothing"),
    ];
    let traefik = [
        ("x-forwarded-method", "GET"),
        ("x-forwarded-uri", "/v1/whoami"),
    ];
    let both = [nginx[0], nginx[1], traefik[0], traefik[1], key];
    let told = world.ask("GET", "/nginx", &both).await;
    assert_eq!(
        told.header("x-refusal-status"),
        Some("404"),
        "nginx's is asked about"
    );
    let told = world.ask("GET", "/traefik", &both).await;
    assert_eq!(told.status, 200, "Traefik's is asked about");
    for (path, headers) in [("/nginx", traefik), ("/traefik", nginx)] {
        let told = world.ask("GET", path, &[headers[0], headers[1], key]).await;
        assert_ne!(told.status, 200, "{path}");
    }
    let told = world.ask("POST", "/envoy/v1/nothing", &both).await;
    assert_eq!(told.status, 404, "Envoy's is asked about");
}

#[tokio::test]
async fn a_question_that_is_missing_malformed_or_repeated_is_refused() {
    let world = World::new();
    let key = world.key().await;
    for (form, method_header, uri_header) in [
        ("/nginx", "x-original-method", "x-original-uri"),
        ("/traefik", "x-forwarded-method", "x-forwarded-uri"),
    ] {
        let method = (method_header, "GET");
        let uri = (uri_header, "/v1/whoami");
        for question in [
            &[][..],
            &[method],
            &[uri],
            &[method, uri, uri],
            &[method, method, uri],
            &[method, uri, (uri_header, "/v1/nothing")],
            &[(method_header, ""), uri],
            &[(method_header, "G/T"), uri],
            &[method, (uri_header, "")],
            &[method, (uri_header, "*")],
            &[method, (uri_header, "v1/whoami")],
            &[method, (uri_header, "https://api.example/v1/whoami")],
            &[method, (uri_header, "/v1/who ami")],
            &[method, (uri_header, "/v1/whoami%")],
            &[method, (uri_header, "/v1/whoami%4")],
            &[method, (uri_header, "/v1/whoami%zz")],
            &[method, uri, ("x_key_account", "root")],
            &[method, uri, ("X-Key_Plan", "")],
            &[method, uri, ("X.Key.Account", "root")],
            &[method, uri, ("X_HTTP_Method_Override", "PUT")],
            &[method, uri, ("X-Original_URL", "/v1/reports")],
            &[method, uri, ("X!Rewrite-URL", "/v1/reports")],
            &[method, uri, ("connection", "close, X-Key-Plan")],
        ] {
            let mut headers = question.to_vec();
            headers.push(("x-api-key", &key));
            let told = world.ask("GET", form, &headers).await;
            let status = told.header("x-refusal-status").unwrap_or("400");
            assert_ne!(told.status, 200, "{form}: {question:?}");
            assert_eq!(status, "400", "{form}: {question:?}");
        }
    }
    for path in ["/envoy", "/envoyer/v1/whoami", "/v1/whoami", "/"] {
        let told = world.ask("GET", path, &[("x-api-key", &key)]).await;
        assert_eq!(told.status, 404, "{path}");
    }
    for path in ["/envoy//v1/whoami", "/envoy/v1/x/%2E%2e/whoami"] {
        let told = world.ask("GET", path, &[("x-api-key", &key)]).await;
        assert_eq!(
            (told.status, told.code().as_str()),
            (400, "unclear_request"),
            "{path}"
        );
    }
}

/// The layer sees the client's request: one spelling of its path, and nothing of the proxy.
#[test]
fn the_original_request_is_rebuilt() {
    let asking = Request::get("/nginx")
        .header("x-original-method", "PATCH")
        .header("x-original-uri", "/caf%c3%A9/?q=%c3#")
        .header("x-forwarded-for", "192.0.2.7")
        .header("forwarded", "for=192.0.2.9")
        .header("x-client-address", "192.0.2.8")
        .header("x-api-key", "a key")
        .header("accept", "text/plain");
    let unclear = asking.body(Body::empty()).unwrap();
    let mut asking = Request::new(Body::empty());
    *asking.headers_mut() = unclear.headers().clone();
    assert!(
        original::Proxy::Nginx.original(unclear).is_err(),
        "it has a fragment"
    );
    let uri = HeaderValue::from_static("/caf%c3%A9/?q=%c3");
    asking.headers_mut().insert("x-original-uri", uri);
    let original = original::Proxy::Nginx.original(asking).unwrap();
    assert_eq!(original.method(), Method::PATCH);
    assert_eq!(original.uri(), "/caf%C3%A9/?q=%c3");
    let names = original.headers().keys().map(HeaderName::as_str);
    let names: BTreeSet<_> = names.collect();
    assert_eq!(names, BTreeSet::from(["accept", "x-api-key"]));
    let peer = original.extensions().get::<tower_api_key::http::PeerAddr>();
    assert_eq!(peer.unwrap().0.to_string(), "192.0.2.7:0");
}

/// The values of a list in YAML, after the line with its name.
fn list<'y>(yaml: &'y str, name: &str, item: &str) -> Vec<&'y str> {
    let (_, rest) = yaml.split_once(name).unwrap();
    let lines = rest.lines().skip(1).map(str::trim);
    let lines = lines.filter(|line| *line != "patterns:" && !line.starts_with('#'));
    let listed: Vec<_> = lines.map_while(|line| line.strip_prefix(item)).collect();
    assert!(!listed.is_empty(), "{name}");
    listed
}

/// Does what a current Traefik does with the shipped configuration: removes what `Connection` names,
/// copies the headers of the client, sets its own, and takes those of `authResponseHeaders` from the
/// answer, or removes them. Returns what the application gets, or else what the client is told.
async fn by_traefik(
    world: &World,
    request_line: (&str, &str),
    client: &[(&str, &str)],
) -> Result<HeaderMap, Told> {
    let mut headers = map(client);
    assert!(TRAEFIK.contains("rule: PathPrefix(`/`) && !HeaderRegexp(`Upgrade`, `(?i)h2c`)"));
    let mut upgrades = headers.get_all("upgrade").iter();
    if upgrades.any(|it| it.to_str().unwrap().to_lowercase().contains("h2c")) {
        return Err(Told {
            status: 404, // no router has it
            headers: HeaderMap::new(),
            body: String::new(),
        });
    }
    let of_traefik = [
        "for", "host", "method", "port", "prefix", "proto", "server", "uri",
    ];
    for name in of_traefik {
        headers.remove(format!("x-forwarded-{name}"));
    }
    headers.insert("x-real-ip", HeaderValue::from_static("192.0.2.7"));
    by_connection(&mut headers);
    for removed in TRAEFIK
        .lines()
        .filter_map(|line| line.trim().strip_suffix(": \"\""))
    {
        headers.remove(removed);
    }
    let mut asking = headers.clone();
    for hop in ["connection", "upgrade", "te"] {
        asking.remove(hop);
    }
    let (method, uri) = request_line;
    let own = [
        ("x-forwarded-method", method),
        ("x-forwarded-uri", uri),
        ("x-forwarded-host", "api.example"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "192.0.2.7"),
    ];
    for (name, value) in own {
        asking.insert(HeaderName::from_static(name), value.parse().unwrap());
    }
    let told = world.ask("GET", "/traefik", &pairs(&asking)).await;
    if !(200..300).contains(&told.status) {
        return Err(told);
    }
    for name in list(TRAEFIK, "authResponseHeaders:", "- ") {
        headers.remove(name);
        if let Some(value) = told.headers.get(name) {
            headers.insert(name.parse::<HeaderName>().unwrap(), value.clone());
        }
    }
    by_connection(&mut headers);
    headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
    Ok(headers)
}

/// Removes what `Connection` names, and leaves the upgrade.
fn by_connection(headers: &mut HeaderMap) {
    let named: Vec<_> = headers.get_all("connection").iter().cloned().collect();
    headers.remove("connection");
    for name in named.iter().flat_map(|it| it.to_str().unwrap().split(',')) {
        match name.trim().to_lowercase().as_str() {
            "upgrade" => {
                let upgrade = HeaderValue::from_static("upgrade");
                headers.insert("connection", upgrade);
            }
            name => drop(headers.remove(name)),
        }
    }
}

/// Does what Envoy does with the shipped configuration: removes headers, asks with the method, the
/// path after the prefix, and some headers, and overwrites and removes what the answer says.
async fn by_envoy(
    world: &World,
    request_line: (&str, &str),
    client: &[(&str, &str)],
) -> Result<HeaderMap, Told> {
    let mut headers = map(client);
    headers.append("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
    for removed in list(ENVOY, "request_mutations:", "- remove: ") {
        headers.remove(removed);
    }
    let overwritten = ENVOY.lines();
    for overwritten in overwritten.filter_map(|line| line.trim().strip_prefix("key: ")) {
        headers.insert(overwritten, HeaderValue::from_static("192.0.2.7"));
    }
    let mut asking = headers.clone();
    let allowed = list(ENVOY, "allowed_headers:", "- exact: ");
    let kept = |name: &HeaderName| name == "authorization" || allowed.contains(&name.as_str());
    let dropped: Vec<_> = headers.keys().filter(|name| !kept(name)).collect();
    for name in dropped {
        asking.remove(name);
    }
    let prefix = list(ENVOY, "http_service:", "path_prefix: ")[0];
    let (method, uri) = request_line;
    let told = world
        .ask(method, &format!("{prefix}{uri}"), &pairs(&asking))
        .await;
    if told.status != 200 {
        return Err(told);
    }
    for name in list(ENVOY, "allowed_upstream_headers:", "- exact: ") {
        if let Some(value) = told.headers.get(name) {
            headers.insert(name.parse::<HeaderName>().unwrap(), value.clone());
        }
    }
    let removed = told.header("x-envoy-auth-headers-to-remove").unwrap();
    for name in removed.split(", ") {
        headers.remove(name);
    }
    Ok(headers)
}

fn map(headers: &[(&str, &str)]) -> HeaderMap {
    let headers = headers.iter().map(|(name, value)| {
        let name: HeaderName = name.parse().unwrap();
        (name, value.parse().unwrap())
    });
    headers.collect()
}

fn pairs(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let headers = headers.iter();
    headers
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn traefik_and_envoy_pass_on_the_facts_and_never_the_key() {
    let world = World::new();
    let key = world.key().await;
    let bearer = format!("Bearer {key}");
    let token = "Bearer e30.e30.c2ln";
    for (carrier, left) in [
        (vec![("authorization", bearer.as_str())], None),
        (vec![("x-api-key", key.as_str())], None),
        (
            vec![("x-api-key", &key), ("authorization", token)],
            Some(token),
        ),
        (vec![("x-api-key", &key), ("authorization", &bearer)], None),
    ] {
        let forged = CallerFact::ALL.map(|fact| (fact.header(), "root"));
        let overrides = [
            "forwarded",
            "x-forwarded-method",
            "x-forwarded-prefix",
            "x-forwarded-uri",
            "x-http-method",
            "x-http-method-override",
            "x-method-override",
            "x-original-method",
            "x-original-uri",
            "x-original-url",
            "x-rewrite-url",
        ];
        let overrides = overrides.map(|name| (name, "root"));
        let addresses = [
            "cf-connecting-ip",
            "true-client-ip",
            "x-client-address",
            "x-client-ip",
            "x-cluster-client-ip",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-real-ip",
        ];
        let addresses = addresses.map(|name| (name, "root"));
        let connection = [
            ("connection", "Upgrade, X-Key-Id, X-Key-Account"),
            ("upgrade", "websocket"),
            ("http2-settings", "root"),
        ];
        let client = [&carrier[..], &forged, &overrides, &addresses, &connection].concat();
        let request = ("GET", "/v1/reports/7?a=b");
        let client_of_envoy = [&carrier[..], &forged, &overrides, &addresses].concat();
        for received in [
            by_traefik(&world, request, &client).await.unwrap(),
            by_envoy(&world, request, &client_of_envoy).await.unwrap(),
        ] {
            let text = format!("{:?}", pairs(&received));
            assert!(!text.contains(&key) && !text.contains("root"), "{text}");
            assert_eq!(received["x-key-account"], "acme");
            assert_eq!(received["x-key-scopes"], "reports:read reports:write");
            assert_eq!(received["x-key-id"].len(), 32);
            assert_eq!(received["x-key-plan"], "", "the key has none");
            assert_eq!(received["x-forwarded-for"], "192.0.2.7");
            let authorization = received.get("authorization");
            assert_eq!(authorization.map(|it| it.to_str().unwrap()), left);
        }
    }
}

/// By h2c, more requests would pass on the connection, and none would be decided on.
#[tokio::test]
async fn traefik_upgrades_to_websockets_only() {
    let world = World::new();
    let key = world.key().await;
    let upgraded = async |upgrade| {
        let connection = ("connection", "Upgrade, HTTP2-Settings");
        let client = [("x-api-key", &*key), connection, ("upgrade", upgrade)];
        by_traefik(&world, ("GET", "/v1/live"), &client).await
    };
    assert_eq!(upgraded("websocket").await.unwrap()["upgrade"], "websocket");
    for upgrade in ["h2c", "H2C", "websocket, h2c"] {
        assert_eq!(upgraded(upgrade).await.unwrap_err().status, 404);
    }
}

/// What the application answers under the names of the layer does not reach the client: Envoy
/// would add the layer's beside it.
#[test]
fn envoy_tells_of_the_key_what_the_layer_says() {
    let removed = list(ENVOY, "response_mutations:", "- remove: ");
    let told = list(ENVOY, "allowed_client_headers_on_success:", "- exact: ");
    let of_keys = told
        .iter()
        .filter(|name| name.starts_with("x-key-") || name.starts_with("x-ratelimit-"));
    let mut expected = vec!["x-key-expired-at"]; // of refusals, which are passed on whole
    expected.extend(of_keys);
    assert_eq!(removed, expected);
    // Responses pass the filters from the last to the first one.
    let at = |text| ENVOY.find(text).unwrap();
    assert!(at("filters.http.ext_authz") < at("response_mutations:"));
    assert!(at("request_mutations:") < at("filters.http.ext_authz"));
}

/// nginx finds the body and its type in headers, which have one line.
#[tokio::test]
async fn a_refusal_that_is_no_line_stays_a_refusal() {
    for (body, carried) in [
        (r#"{"title":"No"}"#.to_owned(), true),
        ("{\n}".to_owned(), false),
        ("a".repeat(5_000), false),
    ] {
        let refusal = http::Response::builder()
            .status(422)
            .header("content-type", "application/problem+json")
            .body(Body::from(body.clone()))
            .unwrap();
        let told = answer::answer(original::Proxy::Nginx, refusal).await;
        assert_eq!(told.status(), 403);
        assert_eq!(told.headers()["x-refusal-status"], "422");
        let carries = |name| told.headers().get(name).map(HeaderValue::as_bytes);
        assert_eq!(
            carries("x-refusal-body"),
            carried.then_some(body.as_bytes())
        );
        let of_type = carried.then_some(&b"application/problem+json"[..]);
        assert_eq!(carries("x-refusal-type"), of_type);
    }
}

#[tokio::test]
async fn traefik_and_envoy_pass_on_refusals_as_they_are() {
    let world = World::new();
    let reader = world
        .keys
        .issue("globex")
        .scopes([REPORTS_READ])
        .await
        .unwrap();
    let elsewhere = AllowedNetworks::only(["198.51.100.0/24"]).unwrap();
    let elsewhere = world.keys.issue("acme").networks(elsewhere).await.unwrap();
    let keys = [
        None,
        Some(reader.expose_secret()),
        Some(elsewhere.expose_secret()),
    ];
    let codes = ["missing_api_key", "insufficient_scope", "ip_not_allowed"];
    for ((key, code), status) in keys.into_iter().zip(codes).zip([401, 403, 403]) {
        let client: Vec<_> = key.map(|key| ("x-api-key", key)).into_iter().collect();
        let client = [&client[..], &[("content-type", "application/grpc")]].concat();
        for told in [
            by_traefik(&world, ("POST", "/v1/reports"), &client)
                .await
                .unwrap_err(),
            by_envoy(&world, ("POST", "/v1/reports"), &client)
                .await
                .unwrap_err(),
        ] {
            assert_eq!((told.status, told.code().as_str()), (status, code));
            let is_challenged = told.headers.contains_key("www-authenticate");
            assert_eq!(is_challenged, code != "ip_not_allowed", "{code}");
        }
    }
}

/// The client's address is what each proxy tells, and is used for allow-lists.
#[tokio::test]
async fn the_address_of_a_client_is_the_one_that_the_proxy_saw() {
    let world = World::new();
    let networks = AllowedNetworks::only(["192.0.2.7"]).unwrap();
    let key = world.keys.issue("acme").networks(networks).await.unwrap();
    let client = [("x-api-key", key.expose_secret())];
    let request = ("GET", "/v1/whoami");
    assert!(by_traefik(&world, request, &client).await.is_ok());
    assert!(by_envoy(&world, request, &client).await.is_ok());
    // If a proxy tells none, a key with an allow-list is refused.
    let whoami = [
        ("x-original-method", "GET"),
        ("x-original-uri", "/v1/whoami"),
        client[0],
    ];
    let told = world.ask("GET", "/nginx", &whoami).await;
    assert_eq!(told.header("x-refusal-status"), Some("403"));
    for address in ["192.0.2.7, 198.51.100.1", "unix:", "198.51.100.1"] {
        let asking = [&whoami[..], &[("x-forwarded-for", address)]].concat();
        let told = world.ask("GET", "/nginx", &asking).await;
        assert_eq!(told.header("x-refusal-status"), Some("403"), "{address}");
    }
    // Only Envoy's form reads it.
    let asking = [&whoami[..], &[("x-client-address", "192.0.2.7")]].concat();
    let told = world.ask("GET", "/nginx", &asking).await;
    assert_eq!(told.header("x-refusal-status"), Some("403"));
}

/// Spellings of one path are one endpoint, so they have one cost.
#[tokio::test]
async fn a_route_has_its_cost_and_scope_whatever_is_appended() {
    let world = World::new();
    let key = world.key().await;
    let client = [("x-api-key", key.as_str())];
    let told = world
        .ask(
            "GET",
            "/traefik",
            &[
                ("x-forwarded-method", "POST"),
                ("x-forwarded-uri", "/v1/reports?x=/v1/whoami"),
                client[0],
            ],
        )
        .await;
    assert_eq!(told.header("x-ratelimit-remaining"), Some("35"));
    let told = world.ask("GET", "/envoy/v1/reports/7", &client).await;
    assert_eq!(
        told.header("x-ratelimit-remaining"),
        Some("33"),
        "any id is one route"
    );
    assert_eq!(
        told.header("x-key-plan"),
        Some(""),
        "a fact that is missing is told, too"
    );
    for (method, uri) in [
        ("POST", "/v1/reports/"),
        ("POST", "/V1/reports"),
        ("PUT", "/v1/reports"),
        ("post", "/v1/reports"),
        ("GET", "/introspect"),
        ("GET", "/nginx"),
    ] {
        let key = world.key().await;
        let client = [("x-api-key", key.as_str())];
        let told = by_traefik(&world, (method, uri), &client)
            .await
            .unwrap_err();
        assert_eq!(
            (told.status, told.code().as_str()),
            (404, "no_such_route"),
            "{method} {uri}"
        );
    }
}

#[tokio::test]
async fn a_good_key_is_introspected() {
    let world = World::new();
    let asker = world.asker().await;
    let key = world
        .keys
        .issue("Müller & Co")
        .scopes([REPORTS_READ, REPORTS_WRITE]);
    let key = key
        .expires_in(Duration::from_secs(90 * 86_400))
        .await
        .unwrap();
    let form = format!(
        "token_type_hint=access_token&token={}&x=%zz",
        key.expose_secret()
    );
    let told = world.introspect(&asker, &form).await;
    assert_eq!(told.status, 200);
    assert_eq!(told.header("content-type"), Some("application/json"));
    assert_eq!(told.header("cache-control"), Some("no-store"));
    let seconds = |at: Option<std::time::SystemTime>| {
        let since = at
            .unwrap()
            .duration_since(std::time::SystemTime::UNIX_EPOCH);
        since.unwrap().as_secs()
    };
    let claims = json!({
        "active": true,
        "client_id": key.id().to_string(),
        "sub": "Müller & Co",
        "scope": "reports:read reports:write",
        "iss": introspect::ISSUER,
        "iat": seconds(key.record().created_at()),
        "exp": seconds(key.record().expires_at()),
    });
    assert_eq!(told.json(), claims);
}

#[tokio::test]
async fn of_any_other_token_nothing_is_told() {
    let world = World::new();
    let asker = world.asker().await;
    let revoked = world.keys.issue("acme").await.unwrap();
    world.keys.revoke(revoked.id()).await.unwrap();
    let suspended = world.keys.issue("acme").await.unwrap();
    world.keys.suspend(suspended.id()).await.unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(86_400);
    let later = world.keys.issue("acme").not_before(later).await.unwrap();
    let test = world
        .keys
        .issue("acme")
        .environment(Environment::TEST)
        .await
        .unwrap();
    let unknown = ApiKeys::in_memory().issue("acme").await.unwrap();
    let networks = AllowedNetworks::only(["192.0.2.0/24"]).unwrap();
    let listed = world.keys.issue("acme").networks(networks).await.unwrap();
    let there = format!("{}&client_ip=198.51.100.1", listed.expose_secret());
    for token in [
        revoked.expose_secret(),
        suspended.expose_secret(),
        later.expose_secret(),
        test.expose_secret(),
        unknown.expose_secret(),
        listed.expose_secret(),
        &there,
        "sk_live_short",
        "e30.e30.c2ln",
        "%E7%B3%BB%00",
    ] {
        let told = world.introspect(&asker, &format!("token={token}")).await;
        assert_eq!(
            (told.status, told.body.as_str()),
            (200, r#"{"active":false}"#),
            "{token}"
        );
        assert_eq!(told.header("cache-control"), Some("no-store"));
    }
    let here = format!("client_ip=192.0.2.7&token={}", listed.expose_secret());
    let told = world.introspect(&asker, &here).await;
    assert_eq!(told.json()["active"], true, "its client is where it may be");
}

/// Publishable keys are public, so holding one proves nothing.
#[tokio::test]
async fn a_publishable_key_is_not_active() {
    let public = KeyFormat::new("pk_live", Environment::LIVE).unwrap();
    let public = public.publishable();
    let secret = KeyFormat::new("sk_live", Environment::LIVE).unwrap();
    let keys = ApiKeys::builder(MemoryStore::new()).formats([secret, public]);
    let keys = keys.limits(limits()).build().unwrap();
    let service = service::service(&keys.to_read_only());
    let asker = keys.issue("billing").scopes([INTROSPECT]).await.unwrap();
    let key = keys.issue("acme").publishable().await.unwrap();
    let form = format!("token={}", key.expose_secret());
    let told = introspect_by(&service, asker.expose_secret(), &form).await;
    assert_eq!(
        (told.status, told.body.as_str()),
        (200, r#"{"active":false}"#)
    );
}

#[tokio::test]
async fn only_keys_with_the_scope_introspect() {
    let world = World::new();
    let key = world.key().await;
    let form = format!("token={key}");
    let told = world.introspect(&key, &form).await;
    assert_eq!(
        (told.status, told.code().as_str()),
        (403, "insufficient_scope")
    );
    let told = world.introspect("sk_live_nothing", &form).await;
    assert_eq!(
        (told.status, told.code().as_str()),
        (401, "api_key_not_found")
    );
    assert!(told.headers.contains_key("www-authenticate"));
    let asker = world.asker().await;
    let told = world
        .ask("GET", "/introspect", &[("x-api-key", &asker)])
        .await;
    assert_eq!(told.status, 405, "a token is never in a URL");
}

#[tokio::test]
async fn a_malformed_question_about_a_token_is_an_oauth_error() {
    let world = World::new();
    let asker = world.asker().await;
    let long = format!("token={}", "a".repeat(9_000));
    for (form, status) in [
        ("", 400),
        ("token=", 400),
        ("token", 400),
        ("Token=a", 400),
        ("token=a&token=a", 400),
        ("token=a&%74oken=b", 400),
        ("token=%ff", 400),
        ("token=a&client_ip=nowhere", 400),
        (&long, 413),
    ] {
        let told = world.introspect(&asker, form).await;
        assert_eq!(
            (told.status, &told.json()["error"]),
            (status, &json!("invalid_request"))
        );
        assert_eq!(told.header("cache-control"), Some("no-store"));
    }
    for content_type in [None, Some("application/json"), Some("multipart/form-data")] {
        let asker = [("x-api-key", asker.as_str())];
        let content_type = content_type.map(|it| ("content-type", it));
        let headers: Vec<_> = asker.into_iter().chain(content_type).collect();
        let body = "token=a".to_owned();
        let told = ask(&world.service, "POST", "/introspect", &headers, body).await;
        assert_eq!(
            (told.status, &told.json()["error"]),
            (400, &json!("invalid_request"))
        );
    }
}

/// The guesses of one asker are used up, and it is denied; others go on. A text that is no key by
/// its form was not looked up, and is free.
#[tokio::test]
async fn guesses_are_limited_for_each_asker() {
    let world = World::new();
    let (asker, other) = (world.asker().await, world.asker().await);
    let key = world.key().await;
    let good = format!("token={key}");
    let inactive = (200, r#"{"active":false}"#);
    let most = service::MOST_UNKNOWN_TOKENS.limit();
    for text in 0..=most {
        let form = format!("token=sk_live_text{text}");
        let told = world.introspect(&asker, &form).await;
        assert_eq!((told.status, told.body.as_str()), inactive, "{text}");
    }
    let strangers = ApiKeys::in_memory();
    for guess in 1..=most {
        let told = world.introspect(&asker, &good).await;
        assert_eq!(told.json()["active"], true, "a good key is no guess");
        let unknown = strangers.issue("nobody").await.unwrap();
        let form = format!("token={}", unknown.expose_secret());
        let told = world.introspect(&asker, &form).await;
        assert_eq!((told.status, told.body.as_str()), inactive, "{guess}");
    }
    let unknown = strangers.issue("nobody").await.unwrap();
    for form in [&format!("token={}", unknown.expose_secret()), &good] {
        let told = world.introspect(&asker, form).await;
        assert_eq!(
            (told.status, told.code().as_str()),
            (429, "rate_limit_exceeded")
        );
        assert!(told.headers.contains_key("retry-after"));
    }
    let told = world.introspect(&other, &good).await;
    assert_eq!(told.json()["active"], true);
}

/// A store that fails when it is told to. A key that was found before is in the cache.
#[derive(Clone)]
struct Failing {
    inner: MemoryStore,
    fails: Arc<AtomicBool>,
}

impl KeyStore for Failing {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::unavailable("it is down"));
        }
        self.inner.find(id).await
    }
}

/// Another process revoked the key, and this one has the old record in its cache.
#[tokio::test]
async fn a_key_that_was_just_revoked_is_not_active() {
    let store = Failing {
        inner: MemoryStore::new(),
        fails: Arc::default(),
    };
    let issuer = ApiKeys::builder(store.inner.clone()).build().unwrap();
    let asker = issuer.issue("billing").scopes([INTROSPECT]).await.unwrap();
    let key = issuer.issue("acme").await.unwrap();
    let keys = ApiKeys::read_only(store).limits(limits()).build().unwrap();
    let service = service::service(&keys);
    let form = format!("token={}", key.expose_secret());
    let told = introspect_by(&service, asker.expose_secret(), &form).await;
    assert_eq!(told.json()["active"], true);
    issuer.revoke(key.id()).await.unwrap();
    let cached = keys.verify(key.expose_secret()).await;
    assert!(cached.is_ok(), "the cached record is older: {cached:?}");
    let told = introspect_by(&service, asker.expose_secret(), &form).await;
    assert_eq!(told.body, r#"{"active":false}"#);
}

#[tokio::test]
async fn an_outage_is_told_as_one_and_never_as_inactive() {
    let store = Failing {
        inner: MemoryStore::new(),
        fails: Arc::default(),
    };
    let issuer = ApiKeys::builder(store.inner.clone()).build().unwrap();
    let asker = issuer.issue("billing").scopes([INTROSPECT]).await.unwrap();
    let (cached, new) = (
        issuer.issue("acme").await.unwrap(),
        issuer.issue("acme").await.unwrap(),
    );
    let keys = ApiKeys::read_only(store.clone()).limits(limits());
    let service = service::service(&keys.build().unwrap());
    let ask = async |key: &tower_api_key::IssuedKey| {
        let form = format!("token={}", key.expose_secret());
        introspect_by(&service, asker.expose_secret(), &form).await
    };
    assert_eq!(ask(&cached).await.json()["active"], true);
    store.fails.store(true, Ordering::Relaxed);
    for key in [&new, &cached] {
        let told = ask(key).await;
        assert_eq!(
            (told.status, told.code().as_str()),
            (503, "service_unavailable")
        );
        assert!(told.headers.contains_key("retry-after"));
    }
    let question = Request::builder()
        .method(Method::GET)
        .uri("/envoy/v1/whoami")
        .header("x-api-key", new.expose_secret());
    let question = question.body(Body::empty()).unwrap();
    let told = service.clone().oneshot(question).await.unwrap();
    assert_eq!(told.status(), StatusCode::SERVICE_UNAVAILABLE);
}

/// The program logs at `TRACE`, and is asked in every way.
#[test]
fn no_key_and_no_token_is_logged() {
    let mut program = program();
    program
        .args(["serve", "127.0.0.1:0"])
        .env("RUST_LOG", "trace");
    program.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = program.spawn().unwrap();
    let lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let lines: Vec<String> = lines.take(4).map(Result::unwrap).collect();
    let printed = |before: &str| {
        let word = lines.iter().find_map(|line| line.strip_prefix(before));
        word.unwrap().trim().to_owned()
    };
    let address = printed("listening on http://");
    let log = program.stderr.take().unwrap();
    let log = thread::spawn(move || std::io::read_to_string(log).unwrap()); // so that no pipe fills
    let send = |head: &str, body: &str| {
        let mut connection = TcpStream::connect(&address).unwrap();
        let length = body.len();
        let head = format!("{head}connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        connection.write_all(head.as_bytes()).unwrap();
        std::io::read_to_string(connection).unwrap()
    };
    let (writer, asker) = (printed("writer"), printed("asker"));
    let unknown = writer.replace("sk_live_", "sk_live_0");
    let mut answers = Vec::new();
    for token in [&writer, &unknown] {
        for uri in [
            "/v1/whoami",
            "/v1/nothing",
            &format!("//{token}"),
            &format!("/v1/{token}"),
        ] {
            let question = format!("x-original-method: GET\r\nx-original-uri: {uri}\r\n");
            let head =
                format!("GET /nginx HTTP/1.1\r\nhost: a\r\n{question}x-api-key: {token}\r\n");
            answers.push(send(&head, ""));
        }
        for form in [
            format!("token={token}"),
            format!("token={token}&token={token}"),
        ] {
            let head = "POST /introspect HTTP/1.1\r\nhost: a\r\n\
                        content-type: application/x-www-form-urlencoded\r\n";
            answers.push(send(&format!("{head}x-api-key: {asker}\r\n"), &form));
        }
    }
    program.kill().unwrap();
    program.wait().unwrap();
    let log = log.join().unwrap();
    assert!(log.contains("request refused"), "{log}");
    for text in answers.iter().chain([&log]) {
        for secret in [&writer, &asker, &unknown] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
