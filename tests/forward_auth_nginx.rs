//! The example `forward_auth` behind a real nginx, with the configuration that the example ships.
//!
//! It needs nginx, which `tests/run.sh` installs. Each test starts an nginx of its own in a
//! temporary folder, on a free port, and stops it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../examples/forward_auth/answer.rs"]
mod answer;
#[path = "../examples/forward_auth/introspect.rs"]
mod introspect;
#[path = "support/nginx.rs"]
mod nginx;
#[path = "../examples/forward_auth/original.rs"]
mod original;
#[path = "../examples/forward_auth/service.rs"]
mod service;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use axum::middleware::{self, Next};
use base64::prelude::{BASE64_STANDARD, Engine};
use nginx::{Answer, Application, Nginx};
use serde_json::Value;
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_api_key::key::AllowedNetworks;
use tower_api_key::testing::TroubledStore;
use tower_api_key::{ApiKeys, Environment, MemoryStore};

use service::{REPORTS_READ, REPORTS_WRITE, limits};

const DAY: Duration = Duration::from_secs(86_400);

/// The heads of what nginx asked, and the sizes of the bodies.
type Questions = Arc<Mutex<Vec<(HeaderMap, usize)>>>;

/// The service of the example, an application, and nginx in front of both.
struct World {
    keys: ApiKeys,
    store: TroubledStore<MemoryStore>,
    service: axum::Router,
    application: Application,
    nginx: Nginx,
    questions: Questions,
    /// Serves while it is there.
    asked: Option<tokio::runtime::Runtime>,
}

impl World {
    fn new() -> Self {
        let store = TroubledStore::new(MemoryStore::new());
        let keys = ApiKeys::builder(store.clone()).limits(limits());
        let keys = keys.build().unwrap();
        let service = service::service(&keys.to_read_only());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let questions = Questions::default();
        let noted = Arc::clone(&questions);
        let note = move |request: Request<Body>, next: Next| {
            let noted = Arc::clone(&noted);
            async move {
                let (head, body) = request.into_parts();
                let size = to_bytes(body, 65_536).await.unwrap().len();
                noted.lock().unwrap().push((head.headers.clone(), size));
                next.run(Request::from_parts(head, Body::empty())).await
            }
        };
        let serving = service.clone().layer(middleware::from_fn(note));
        let serving = serving.into_make_service_with_connect_info::<SocketAddr>();
        runtime.spawn(async move { axum::serve(listener, serving).await });
        let application = Application::start();
        let nginx = Nginx::start(address, application.address);
        Self {
            keys,
            store,
            service,
            application,
            nginx,
            questions,
            asked: Some(runtime),
        }
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.asked.as_ref().unwrap().block_on(future)
    }

    /// Issues a key that may read and write.
    fn key(&self) -> String {
        let key = self
            .keys
            .issue("acme")
            .scopes([REPORTS_READ, REPORTS_WRITE]);
        self.wait(key.into_future())
            .unwrap()
            .expose_secret()
            .to_owned()
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.nginx.ask("GET", path, headers, b"")
    }

    /// Asserts that the client gets what the layer says, byte by byte.
    fn assert_told_as_is(&self, method: &str, path: &str, headers: &[(&str, &str)], status: u16) {
        let mut question = Request::get("/traefik")
            .header("x-forwarded-method", method)
            .header("x-forwarded-uri", path)
            .header("x-forwarded-for", "127.0.0.1");
        for (name, value) in headers {
            question = question.header(*name, *value);
        }
        let question = question.body(Body::empty()).unwrap();
        let (head, body) = self.wait(async {
            let (head, body) = self
                .service
                .clone()
                .oneshot(question)
                .await
                .unwrap()
                .into_parts();
            (head, to_bytes(body, 65_536).await.unwrap())
        });
        let told = self.nginx.ask(method, path, headers, b"");
        assert_eq!([told.status, head.status.as_u16()], [status; 2], "{told:?}");
        assert_eq!(
            String::from_utf8_lossy(&told.body),
            String::from_utf8_lossy(&body)
        );
        assert_eq!(told.header("content-type"), Some("application/json"));
        let names = [
            "www-authenticate",
            "cache-control",
            "retry-after",
            "vary",
            "x-key-status",
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
        ];
        for name in names {
            assert_eq!(
                told.header(name),
                joined(&head.headers, name).as_deref(),
                "{name}"
            );
        }
        let internals = [
            "x-refusal-status",
            "x-refusal-body",
            "x-key-id",
            "x-key-account",
        ];
        for name in internals {
            assert_eq!(told.header(name), None);
        }
        assert!(
            self.application.requests().is_empty(),
            "nothing is forwarded"
        );
    }
}

fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(name).iter();
    let lines: Vec<_> = lines.map(|line| line.to_str().unwrap()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

#[test]
fn the_application_gets_the_facts_and_never_the_key() {
    let world = World::new();
    let key = world.key();
    let bearer = format!("Bearer {key}");
    for (name, value) in [("authorization", &bearer), ("X-API-Key", &key)] {
        let told = world
            .nginx
            .ask("POST", "/v1/reports?a=b", &[(name, value)], b"the body");
        assert_eq!(
            (told.status, &told.body[..]),
            (200, &b"made"[..]),
            "{told:?}"
        );
        let received = world.application.requests().pop().unwrap();
        assert_eq!(received.line, "POST /v1/reports?a=b HTTP/1.1");
        assert_eq!(received.body, b"the body");
        let (question, size) = world.questions.lock().unwrap().pop().unwrap();
        assert_eq!(size, 0, "a body is not asked about");
        for name in ["content-length", "transfer-encoding"] {
            assert!(!question.contains_key(name), "{question:?}");
        }
        assert!(!received.text().contains(&key), "{received:?}");
        assert_eq!(received.header("authorization"), None);
        assert_eq!(received.header("x-key-account"), Some("acme"));
        assert_eq!(
            received.header("x-key-scopes"),
            Some("reports:read reports:write")
        );
        assert_eq!(received.header("x-key-status"), Some("active"));
        assert_eq!(received.header("x-key-environment"), Some("live"));
        assert_eq!(received.header("x-key-plan"), None);
        assert_eq!(received.header("x-key-id").unwrap().len(), 32);
        assert_eq!(told.header("x-key-status"), Some("active"));
        assert_eq!(told.header("x-ratelimit-limit"), Some("60"));
        assert_eq!(
            told.header("x-key-account"),
            None,
            "it is for the application"
        );
        let private = (name == "X-API-Key").then_some("private");
        assert_eq!(told.header("cache-control"), private);
    }
}

#[test]
fn a_client_cannot_forge_a_fact_in_any_spelling() {
    let world = World::new();
    let key = world.key();
    for forge in [
        str::to_owned,
        str::to_uppercase,
        |name: &str| name.replace('-', "_"),
        |name: &str| name.to_uppercase().replace('-', "_"),
        |name: &str| name.replacen('-', "_", 1),
    ] as [fn(&str) -> String; 5]
    {
        let facts = tower_api_key::http::CallerFact::ALL;
        let forged: Vec<_> = facts.iter().map(|fact| forge(fact.header())).collect();
        let mut headers = vec![("X-API-Key", key.as_str())];
        headers.extend(forged.iter().map(|name| (name.as_str(), "root")));
        headers.extend(forged.iter().map(|name| (name.as_str(), "")));
        let told = world.get("/v1/whoami", &headers);
        assert_eq!(told.status, 200, "{told:?}");
        let received = world.application.requests().pop().unwrap();
        assert!(!received.text().contains("root"), "{}", received.text());
        assert_eq!(received.header("x-key-account"), Some("acme"));
        assert_eq!(received.header("x-key-plan"), None, "the key has none");
    }
}

#[test]
fn an_account_beyond_ascii_arrives_percent_encoded() {
    let world = World::new();
    let key = world.keys.issue("Müller & Söhne\u{2003}").into_future();
    let key = world.wait(key).unwrap();
    let told = world.get("/v1/whoami", &[("X-API-Key", key.expose_secret())]);
    assert_eq!(told.status, 200);
    let received = world.application.requests().pop().unwrap();
    let account = received.header("x-key-account").unwrap();
    assert_eq!(account, "M%C3%BCller%20&%20S%C3%B6hne%E2%80%83");
}

#[test]
fn a_token_of_a_user_passes_beside_the_key() {
    let world = World::new();
    let key = world.key();
    let token = "Bearer e30.e30.c2ln";
    let told = world.get(
        "/v1/whoami",
        &[("X-API-Key", &key), ("Authorization", token)],
    );
    assert_eq!(told.status, 200);
    let received = world.application.requests().pop().unwrap();
    assert_eq!(received.header("authorization"), Some(token));
    assert_eq!(received.header("x-api-key"), None);
    assert_eq!(told.header("authorization"), None);
}

#[test]
fn a_refusal_arrives_as_the_layer_wrote_it() {
    let world = World::new();
    let key = world.key();
    let reader = world.keys.issue("globex").scopes([REPORTS_READ]);
    let reader = world.wait(reader.into_future()).unwrap();
    let unknown = ApiKeys::in_memory().issue("nobody").into_future();
    let unknown = world.wait(unknown).unwrap();
    let revoked = world.wait(world.keys.issue("acme").into_future()).unwrap();
    world
        .wait(world.keys.revoke(revoked.id()).into_future())
        .unwrap();
    let test = world.keys.issue("acme").environment(Environment::TEST);
    let test = world.wait(test.into_future()).unwrap();

    world.assert_told_as_is("GET", "/v1/whoami", &[], 401);
    world.assert_told_as_is("HEAD", "/v1/whoami", &[], 401);
    for key in [&unknown, &revoked] {
        let key = format!("Bearer {}", key.expose_secret());
        world.assert_told_as_is("GET", "/v1/whoami", &[("authorization", &key)], 401);
    }
    let test = [("x-api-key", test.expose_secret())];
    world.assert_told_as_is("GET", "/v1/whoami", &test, 403);
    let two = [
        ("x-api-key", key.as_str()),
        ("authorization", "ApiKey sk_live_other"),
    ];
    world.assert_told_as_is("GET", "/v1/whoami", &two, 400);
    let told = world.nginx.ask(
        "POST",
        "/v1/reports",
        &[("x-api-key", reader.expose_secret())],
        b"",
    );
    assert_eq!(told.status, 403);
    let challenge = told.header("www-authenticate").unwrap();
    assert!(challenge.contains("scope=\"reports:write\""), "{challenge}");
    let told = world.get("/v1/nothing.html", &[("x-api-key", &key)]);
    assert_eq!((told.status, told.error().as_str()), (404, "no_such_route"));
    assert_eq!(told.header("content-type"), Some("application/json"));
    assert!(
        world.application.requests().is_empty(),
        "nothing is forwarded"
    );
}

#[test]
fn a_request_is_charged_once_and_a_limit_is_told_in_full() {
    let world = World::new();
    let key = world.key();
    let headers = [("authorization", &*format!("Bearer {key}"))];
    let mut left = Vec::new();
    for (method, path) in [
        ("GET", "/v1/whoami"),
        ("POST", "/v1/reports"),
        ("POST", "/v1/reports"),
    ] {
        let told = world.nginx.ask(method, path, &headers, b"");
        assert_eq!(told.status, 200);
        left.push(told.header("x-ratelimit-remaining").unwrap().to_owned());
    }
    assert_eq!(left, ["59", "34", "9"]);
    world.application.requests();
    for _ in 0..2 {
        let told = world.nginx.ask("POST", "/v1/reports", &headers, b"");
        assert_eq!(
            (told.status, told.error().as_str()),
            (429, "rate_limit_exceeded")
        );
        let wait: u64 = told.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait));
        assert_eq!(
            told.header("x-ratelimit-remaining"),
            Some("9"),
            "a denial is free"
        );
        assert!(told.header("x-ratelimit-reset").is_some());
        assert_eq!(told.header("cache-control"), Some("no-store"));
    }
    assert!(world.application.requests().is_empty());
}

#[test]
fn an_outage_closes_the_door() {
    let mut world = World::new();
    let key = world.key();
    let headers = [("x-api-key", key.as_str())];
    world.store.fails();
    world.assert_told_as_is("GET", "/v1/whoami", &headers, 503);
    world.store.recovers();
    assert_eq!(world.get("/v1/whoami", &headers).status, 200);
    world.application.requests();

    world
        .asked
        .take()
        .unwrap()
        .shutdown_timeout(Duration::from_secs(5));
    for headers in [&headers[..], &[]] {
        let told = world.get("/v1/whoami", headers);
        assert_eq!(
            (told.status, told.error().as_str()),
            (503, "service_unavailable")
        );
        assert_eq!(told.header("retry-after"), Some("5"));
        assert_eq!(told.header("cache-control"), Some("no-store"));
    }
    assert!(world.application.requests().is_empty());
}

#[test]
fn no_location_is_open() {
    let world = World::new();
    // The first is for nginx itself. The second is a location that the operator added.
    for (path, status) in [
        ("/forward-auth", 404),
        ("/v1/reports/7", 401),
        ("/new", 401),
    ] {
        let told = world.get(path, &[("x-key-account", "root")]);
        assert_eq!(told.status, status, "{path}");
    }
    assert!(world.application.requests().is_empty());
}

/// A question that is not answered may have been charged.
#[test]
fn a_question_is_not_asked_twice() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::<Mutex<usize>>::default();
    let counted = Arc::clone(&asked);
    // Answers the first question on a connection, and closes it at the second one.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let lines = BufReader::new(connection.try_clone().unwrap()).lines();
            let ends = lines.map_while(Result::ok).filter(String::is_empty);
            for (question, _) in ends.take(2).enumerate() {
                *counted.lock().unwrap() += 1;
                if question == 0 {
                    let answer = b"HTTP/1.1 200 OK\r\nx-key-id: 7\r\ncontent-length: 0\r\n\r\n";
                    connection.write_all(answer).unwrap();
                }
            }
        }
    });
    let application = Application::start();
    let nginx = Nginx::start(address, application.address);
    let statuses = [(); 2].map(|()| nginx.ask("GET", "/v1/whoami", &[], b"").status);
    assert_eq!(statuses, [200, 503]);
    assert_eq!(*asked.lock().unwrap(), 2);
    assert_eq!(application.requests().len(), 1);
}

/// The upload could be large. nginx says `100 Continue` to a client that waits for that, but
/// answers before the body comes.
#[test]
fn a_refusal_does_not_wait_for_the_body() {
    let world = World::new();
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut client = world.nginx.connect();
        let head = "POST /v1/reports HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n";
        client
            .write_all(format!("{head}{expect}\r\n").as_bytes())
            .unwrap();
        let mut lines = BufReader::new(client).lines().map(Result::unwrap);
        let is_final = |line: &String| line.starts_with("HTTP/1.1 ") && !line.contains(" 100 ");
        let line = lines.find(is_final);
        assert_eq!(line.as_deref(), Some("HTTP/1.1 401 Unauthorized"));
    }
}

/// What is decided about one path must not be served for another one.
#[test]
fn a_path_with_two_readings_is_refused_and_any_other_arrives_as_it_was_asked_about() {
    let world = World::new();
    let key = world.key();
    let headers = [("x-api-key", key.as_str())];
    for path in [
        "/v1/x/../reports/7",
        "/v1/x/%2e%2e/reports/7",
        "/v1/x/.%2E/reports/7",
        "/v1/./reports/7",
        "//v1/reports/7",
        "/v1//reports/7",
        "/v1/%72eports/7",
        "/v1/reports%2f7",
        "/v1/reports/7%5c..",
        "/v1/reports/7\\..",
        "/v1/reports/7;x",
        "/v1/reports/7%3Bx",
        "/v1/reports/%252e",
        "/v1/reports/%c0%ae",
        "/v1/reports/7%0d%0a",
        "/v1/reports/é",
        "/v1/reports/7#fragment",
    ] {
        let told = world.get(path, &headers);
        assert_eq!(told.status, 400, "{path}: {told:?}");
    }
    assert!(world.application.requests().is_empty());
    for path in [
        "/v1/reports/a%20b",
        "/v1/reports/caf%c3%a9",
        "/v1/reports/7?up=/../%2e%2e//&key=;%00",
        "/v1/reports/a:b@c,d=e~(f)!",
    ] {
        let told = world.get(path, &headers);
        assert_eq!(told.status, 200, "{path}: {told:?}");
        let received = world.application.requests().pop().unwrap();
        assert_eq!(received.line, format!("GET {path} HTTP/1.1"));
    }
}

#[test]
fn no_header_makes_the_application_serve_another_request() {
    let world = World::new();
    let key = world
        .keys
        .issue("acme")
        .scopes([REPORTS_READ])
        .into_future();
    let key = world.wait(key).unwrap();
    let names = [
        "X-HTTP-Method",
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "X-Original-Method",
        "X-Original-URI",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Forwarded-Method",
        "X-Forwarded-Uri",
        "X-Forwarded-Prefix",
        "X-Forwarded-Host",
        "Forwarded",
    ];
    let mut headers = vec![("x-api-key", key.expose_secret())];
    headers.extend(names.map(|name| (name, "/v1/whoami")));
    assert_eq!(world.get("/v1/reports", &headers).status, 200);
    let received = world.application.requests().pop().unwrap();
    assert!(
        !received.text().contains("/v1/whoami"),
        "{}",
        received.text()
    );
    // The decision is about the true request.
    let told = world.nginx.ask("POST", "/v1/reports", &headers, b"");
    assert_eq!(
        (told.status, told.error().as_str()),
        (403, "insufficient_scope")
    );
}

/// A client has the address that nginx sees.
#[test]
fn a_client_cannot_choose_its_address() {
    let world = World::new();
    let issue = |network: &str| {
        let networks = AllowedNetworks::only([network]).unwrap();
        let key = world.keys.issue("acme").networks(networks);
        world
            .wait(key.into_future())
            .unwrap()
            .expose_secret()
            .to_owned()
    };
    let (here, elsewhere) = (issue("127.0.0.1"), issue("192.0.2.7"));
    for name in [
        "x-forwarded-for",
        "x-client-address",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-real-ip",
        "cf-connecting-ip",
        "true-client-ip",
        "forwarded",
    ] {
        let forged = [("x-api-key", elsewhere.as_str()), (name, "192.0.2.7")];
        let told = world.get("/v1/whoami", &forged);
        assert_eq!(
            (told.status, told.error().as_str()),
            (403, "ip_not_allowed"),
            "{name}"
        );
        let forged = [("x-api-key", here.as_str()), (name, "192.0.2.7")];
        assert_eq!(world.get("/v1/whoami", &forged).status, 200, "{name}");
        let received = world.application.requests().pop().unwrap();
        assert_eq!(received.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(received.header("x-real-ip"), Some("127.0.0.1"));
        assert!(!received.text().contains("192.0.2.7"), "{received:?}");
    }
}

#[test]
fn heads_pass_and_preflights_need_a_key() {
    let world = World::new();
    let key = world.key();
    let told = world
        .nginx
        .ask("HEAD", "/v1/whoami", &[("x-api-key", &key)], b"");
    assert_eq!(
        (told.status, told.header("x-key-status")),
        (200, Some("active"))
    );
    let received = world.application.requests().pop().unwrap();
    assert_eq!(received.line, "HEAD /v1/whoami HTTP/1.1");
    let preflight = [
        ("origin", "https://page.example"),
        ("access-control-request-method", "GET"),
        ("x-key-account", "root"),
    ];
    let told = world.nginx.ask("OPTIONS", "/v1/whoami", &preflight, b"");
    assert_eq!(told.status, 401);
    assert!(world.application.requests().is_empty());
}

#[test]
fn a_websocket_is_upgraded() {
    let world = World::new();
    let key = world.key();
    let mut client = world.nginx.connect();
    let head = "GET /v1/live HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n";
    let head = format!("{head}x-api-key: {key}\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 101 Switching Protocols\r\n");
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    client.write_all(b"ping").unwrap();
    let mut echo = [0; 4];
    reader.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"ping");
    let received = world.application.requests().pop().unwrap();
    assert_eq!(received.header("upgrade"), Some("websocket"));
}

/// By h2c, more requests would pass on the connection, and none would be decided on.
#[test]
fn only_a_websocket_is_upgraded() {
    let world = World::new();
    let key = world.key();
    for upgrade in ["h2c", "H2C", "websocket, h2c", "websockets", "TLS/1.2"] {
        let headers = [
            ("x-api-key", key.as_str()),
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", upgrade),
            ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
        ];
        let told = world.get("/v1/whoami", &headers);
        assert_eq!(told.status, 200, "{upgrade}: {told:?}");
        let received = world.application.requests().pop().unwrap();
        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(received.header(name), None, "{upgrade}");
        }
    }
}

/// The question has the length of the body, but not the body.
#[test]
fn an_upload_has_the_limit_of_its_own_location() {
    let world = World::new();
    let key = world.key();
    let headers = [("x-api-key", key.as_str())];
    let body = vec![b'a'; 2_000_000];
    let told = world.nginx.ask("POST", "/v1/reports", &headers, &body);
    assert_eq!(told.status, 200, "{told:?}");
    let received = world.application.requests().pop().unwrap();
    assert_eq!(received.body.len(), body.len());
}

/// Listens in place of the service. Says this to each question, and keeps the connection open.
fn says(answer: &'static str) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let lines = BufReader::new(connection.try_clone().unwrap()).lines();
            let ends = lines.map_while(Result::ok).filter(String::is_empty);
            for _ in ends {
                let _ = connection.write_all(answer.as_bytes());
                if !answer.is_empty() && !answer.ends_with("\r\n\r\n") {
                    break; // in the midst of it
                }
            }
        }
    });
    address
}

/// Another program may listen in place of the service, or it may be out of order.
#[test]
fn only_an_answer_that_knows_the_caller_is_an_admission() {
    for (answer, status) in [
        (
            "HTTP/1.1 200 OK\r\nx-key-id: 7\r\ncontent-length: 0\r\n\r\n",
            200,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 502),
        (
            "HTTP/1.1 200 OK\r\nx-key-id:\r\ncontent-length: 0\r\n\r\n",
            502,
        ),
        (
            "HTTP/1.1 204 No Content\r\nx-key-account: root\r\n\r\n",
            502,
        ),
        ("SSH-2.0-OpenSSH_9.2", 503),
        ("HTTP/1.1 200 OK\r\nx-key-id: 7\r\nx-key-acc", 503),
        (
            "HTTP/1.1 302 Found\r\nx-key-id: 7\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            503,
        ),
        (
            "HTTP/1.1 404 Not Found\r\nx-key-id: 7\r\ncontent-length: 0\r\n\r\n",
            503,
        ),
        (
            "HTTP/1.1 500 Oh\r\nx-key-id: 7\r\ncontent-length: 0\r\n\r\n",
            503,
        ),
        ("", 503), // silent
    ] {
        let application = Application::start();
        let patience = [("proxy_read_timeout 10s;", "proxy_read_timeout 300ms;")];
        let patience = if answer.is_empty() {
            &patience[..]
        } else {
            &[]
        };
        let nginx = Nginx::start_with(says(answer), application.address, patience);
        for path in ["/v1/whoami", "/v1/reports"] {
            let told = nginx.ask("GET", path, &[("x-key-id", "7")], b"");
            assert_eq!(told.status, status, "{answer}: {told:?}");
        }
        let is_admitted = !application.requests().is_empty();
        assert_eq!(is_admitted, status == 200, "{answer}");
    }
}

/// A layer may answer with problem details, or with a status of its own.
#[test]
fn a_refusal_keeps_its_status_and_type() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nx-refusal-status: 422\r\n\
                   x-refusal-type: application/problem+json\r\n\
                   x-refusal-body: {\"title\":\"No $way \\\\ \"}\r\ncontent-length: 0\r\n\r\n";
    let application = Application::start();
    let nginx = Nginx::start(says(refusal), application.address);
    let told = nginx.ask("GET", "/v1/whoami", &[], b"");
    assert_eq!(told.status, 422, "{told:?}");
    assert_eq!(
        told.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(told.body, br#"{"title":"No $way \\ "}"#);
    let bare = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
    let nginx = Nginx::start(says(bare), application.address);
    let told = nginx.ask("GET", "/v1/whoami", &[], b"");
    assert_eq!((told.status, told.body.len()), (403, 0), "{told:?}");
    assert!(application.requests().is_empty());
}

/// A client must not make the service seem to be down.
#[test]
fn a_head_that_cannot_be_read_is_an_error_of_the_client() {
    let world = World::new();
    let key = world.key();
    let key = [("x-api-key", key.as_str())];
    let names: Vec<_> = (0..110).map(|it| format!("x-{it}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    for headers in [&many[..], &[("x-note", "a\u{1}b")]] {
        let told = world.get("/v1/whoami", &[&key, headers].concat());
        assert_eq!(told.status, 400, "{told:?}");
        assert_eq!(told.error(), "unclear_request");
        assert_eq!(told.header("retry-after"), None);
        assert_eq!(told.header("cache-control"), Some("no-store"));
    }
    assert!(world.application.requests().is_empty());
    assert_eq!(world.get("/v1/whoami", &key).status, 200);
}

/// By Basic, the key may be the user, which nginx logs by default.
#[test]
fn no_key_is_in_the_access_log() {
    let world = World::new();
    let basic = format!("Basic {}", BASE64_STANDARD.encode("sk_live_secret:"));
    world.get(
        "/v1/whoami?api_key=sk_live_secret",
        &[("authorization", &basic)],
    );
    let log = world.nginx.log(1);
    assert!(log.contains("\"GET /v1/whoami\" 40"), "{log}");
    assert!(!log.contains("sk_live_secret"), "{log}");
}

#[test]
fn large_requests_and_keys_with_many_scopes_pass() {
    let world = World::new();
    let many: Vec<_> = (0..200)
        .map(|it| format!("scope-number-{it}:read").parse())
        .collect();
    let many = many.into_iter().map(Result::unwrap);
    let key = world.keys.issue("acme").scopes(many.chain([REPORTS_READ]));
    let key = world.wait(key.into_future()).unwrap();
    let query = "q".repeat(7_000);
    let cookie = "c".repeat(7_000);
    let headers = [("x-api-key", key.expose_secret()), ("cookie", &cookie)];
    let told = world.get(&format!("/v1/reports?{query}"), &headers);
    assert_eq!(told.status, 200, "{told:?}");
    let received = world.application.requests().pop().unwrap();
    let scopes = received.header("x-key-scopes").unwrap();
    assert_eq!(scopes.split(' ').count(), 201);
    assert_eq!(received.header("cookie"), Some(&*cookie));
}

#[test]
fn a_key_that_ends_soon_is_told_unless_the_application_tells_of_itself() {
    let world = World::new();
    let ends = SystemTime::now() + 3 * DAY;
    let begun = ends - 300 * DAY;
    let clock = tower_api_key::clock::ManualClock::at(begun);
    let before = ApiKeys::builder(world.store.clone()).clock(clock).build();
    let key = before
        .unwrap()
        .issue("acme")
        .scopes([REPORTS_READ])
        .expires_at(ends);
    let key = world.wait(key.into_future()).unwrap();
    let headers = [("x-api-key", key.expose_secret())];
    let told = world.get("/v1/whoami", &headers);
    assert_eq!(
        (told.status, told.header("x-key-status")),
        (200, Some("deprecated"))
    );
    let deprecation = told.header("deprecation").unwrap();
    assert!(deprecation.starts_with('@'), "{deprecation}");
    assert!(told.header("sunset").unwrap().ends_with(" GMT"));
    assert!(told.header("x-key-expires-at").unwrap().ends_with('Z'));
    // The application answers this one with headers of its own.
    let told = world.get("/v1/reports/deprecated", &headers);
    assert_eq!(told.header("deprecation"), Some("@1688169599"));
    assert_eq!(told.header("sunset"), None);
    assert_eq!(told.header("cache-control"), Some("max-age=60"));
    assert_eq!(
        told.header("x-key-status"),
        Some("deprecated"),
        "not the application's"
    );
}

/// The program itself, as an operator starts it.
#[test]
fn the_program_serves_nginx() {
    let test = std::env::current_exe().unwrap(); // target/debug/deps/…
    let built = test.parent().and_then(Path::parent).unwrap();
    let mut program = Command::new(built.join("examples").join("forward_auth"));
    program
        .args(["serve", "127.0.0.1:0"])
        .env_remove("API_KEYS");
    program.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut program = program
        .spawn()
        .expect("build it with cargo build --examples");
    let lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let lines: Vec<String> = lines.take(4).map(Result::unwrap).collect();
    let printed = |before: &str| {
        let word = lines.iter().find_map(|line| line.strip_prefix(before));
        word.unwrap().trim().to_owned()
    };
    let address = printed("listening on http://").parse().unwrap();
    let application = Application::start();
    let nginx = Nginx::start(address, application.address);
    let reader = printed("reader");
    let told = nginx.ask("GET", "/v1/reports", &[("x-api-key", &reader)], b"");
    let refused = nginx.ask("POST", "/v1/reports", &[("x-api-key", &reader)], b"");
    let pid = program.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(sent.success(), "the program still serves");
    let ended = program.wait().unwrap();
    assert!(
        ended.success(),
        "it stops as service managers ask: {ended:?}"
    );
    assert_eq!(
        [told.status, refused.status],
        [200, 403],
        "{told:?} {refused:?}"
    );
    let received = application.requests();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].header("x-key-account"), Some("globex"));
    let down = nginx.ask("GET", "/v1/reports", &[("x-api-key", &reader)], b"");
    assert_eq!(down.status, 503);
    let body: Value = serde_json::from_slice(&down.body).unwrap();
    assert_eq!(body["error"]["code"], "service_unavailable");
}
