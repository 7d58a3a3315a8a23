//! Invariant 2: no plaintext key in any log at any level, `Debug`, error, response or store.
//!
//! A canary key is used in every way, good and bad, and then searched for in everything that was
//! said meanwhile.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/canary.rs"]
mod canary;
mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use canary::{Canary, Heard};
use http::{Request, Response};
use http_body_util::BodyExt;
use support::{DAY, Down, EchoService, READ, World};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_api_key::http::ErrorFormat;
use tower_api_key::key::{AllowedNetworks, Alphabet, KeyDigest, KeyFormat, PepperRing, Verifier};
use tower_api_key::store::{KeyQuery, Paging, StoreError, TrailQuery};
use tower_api_key::{
    ApiKeyLayer, ApiKeys, Caller, Environment, KeyId, KeyRecord, KeySource, KeyStore,
    ManagedKeyStore, MemoryStore, PlaintextKey, RequireScope,
};
use tower_http::trace::{DefaultMakeSpan, DefaultOnRequest, DefaultOnResponse, TraceLayer};
use tracing::Level;

type Body = http_body_util::Empty<bytes::Bytes>;

/// Sends the key in every way, and notes all that comes back.
async fn sing<A>(keys: &ApiKeys<A>, key: &str, heard: &Heard) {
    let layers: Vec<(&str, ApiKeyLayer)> = vec![
        ("default", keys.layer()),
        ("optional", keys.layer().optional()),
        ("test", keys.layer().environments([Environment::TEST])),
        ("scope", keys.layer().require(support::WRITE)),
        ("kept", keys.layer().dangerous_keep_credential()),
        (
            "problem",
            keys.layer().errors(ErrorFormat::problem_details()),
        ),
    ];
    for (name, layer) in layers {
        let layer = layer.sources([
            KeySource::bearer(),
            KeySource::api_key_scheme(),
            KeySource::basic(),
            KeySource::x_api_key(),
            KeySource::dangerous_query("api_key"),
        ]);
        heard.debug(&layer);
        let kept = name == "kept";
        // An application's own layers inside of ours log all that they see.
        let inner = ServiceBuilder::new()
            .layer(
                TraceLayer::new_for_http()
                    .make_span_with(
                        DefaultMakeSpan::new()
                            .level(Level::TRACE)
                            .include_headers(true),
                    )
                    .on_request(DefaultOnRequest::new().level(Level::TRACE))
                    .on_response(
                        DefaultOnResponse::new()
                            .level(Level::TRACE)
                            .include_headers(true),
                    ),
            )
            .layer(RequireScope::all_of([]))
            .map_request({
                let heard = heard.clone();
                move |request: Request<Body>| {
                    heard.debug(&request);
                    if let Ok(caller) = Caller::of(request.extensions()) {
                        heard.debug(&caller);
                        heard.debug(&caller.require(&support::WRITE));
                    }
                    request
                }
            })
            .service(tower::service_fn(async |_: Request<Body>| {
                Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Empty::<
                    bytes::Bytes,
                >::new()))
            }));
        let mut service = layer.layer(inner);
        heard.debug(&layer.layer(EchoService));
        for request in requests(key, kept) {
            let future = ServiceExt::<Request<Body>>::ready(&mut service)
                .await
                .unwrap()
                .call(request);
            heard.debug(&future);
            let (parts, body) = future.await.unwrap().into_parts();
            heard.debug(&parts);
            heard.note(body.collect().await.unwrap().to_bytes());
        }
    }
}

fn requests(key: &str, only_headers: bool) -> Vec<Request<Body>> {
    let with = |name: &str, value: String| {
        let request = Request::builder().header(name, value);
        request.body(Body::new()).unwrap()
    };
    let mut requests = vec![
        with("authorization", format!("Bearer {key}")),
        with("authorization", format!("ApiKey {key}")),
        with(
            "authorization",
            format!("Basic {}", STANDARD.encode(format!("{key}:"))),
        ),
        with("x-api-key", key.to_owned()),
    ];
    if !only_headers {
        // A URL has no sensitive mark; kept, it is the application's to hide.
        for uri in [
            format!("/?api_key={key}"),
            format!("/?a=1&api%5Fkey={key}&b=2"),
        ] {
            requests.push(Request::builder().uri(uri).body(Body::new()).unwrap());
        }
        // Refused before anything is taken out.
        for name in ["x-api-key", "authorization"] {
            let mut request = with("x-api-key", key.to_owned());
            request
                .headers_mut()
                .append(name, format!("Bearer {key}").parse().unwrap());
            requests.push(request);
        }
    }
    requests
}

/// What the library can be asked to print that has met a key.
async fn inspect(key: &str, issued: &tower_api_key::IssuedKey, heard: &Heard) {
    heard.debug(&PlaintextKey::from(key.to_owned()));
    heard.debug(issued);
    let digest = KeyDigest::of(key);
    heard.debug(&digest);
    heard.debug(&digest.id());
    heard.note(digest.id().to_string());
    heard.debug(&Verifier::sha256(digest));
    heard.debug(&KeyRecord::imported(digest, "acme"));
    heard.debug(&support::creates(KeyRecord::imported(digest, "acme")));
    let ring = PepperRing::new("p", &[7; 32]).unwrap();
    heard.debug(&ring);
    heard.debug(&ring.verifier(&digest));
    heard.debug(&ring.verify(&Verifier::sha256(digest), &digest));
    // A key in the wrong place is not repeated by the error.
    heard.debug(&key.parse::<KeyId>());
    heard.note(key.parse::<KeyId>().unwrap_err().to_string());
    heard.debug(&KeyDigest::from_hex(key));
    heard.debug(&KeyFormat::new("sk_live", Environment::LIVE));

    let store = MemoryStore::new();
    let record = KeyRecord::imported(digest, "acme");
    store
        .commit(&support::creates(record.clone()))
        .await
        .unwrap();
    let twice = store.commit(&support::creates(record)).await.unwrap_err();
    heard.note(twice.to_string());
    heard.debug(&twice);
    heard.debug(&store);
    heard.debug(&store.find(&digest.id()).await.unwrap());
    let all = Paging::first(100);
    heard.debug(&store.trail(&TrailQuery::new(), &all).await.unwrap());
    heard.debug(&store.list(&KeyQuery::new(), &all).await.unwrap());
}

/// A store that answers with the record of another key.
struct WrongRow;

impl KeyStore for WrongRow {
    async fn find(&self, _: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Ok(Some(KeyRecord::imported(KeyDigest::of("another"), "acme")))
    }
}

#[tokio::test]
async fn invariant_2_no_plaintext_key_in_any_log_debug_error_response_or_store() {
    let heard = Heard::default();
    let writer = heard.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let world = World::with_named_keys();
    heard.debug(&world.keys);
    heard.debug(&world.store.kept);
    let here = AllowedNetworks::only(["192.0.2.0/24"]).unwrap();
    let issue = world
        .keys
        .issue("acme")
        .scopes([READ])
        .networks(here)
        .expires_in(20 * DAY);
    heard.debug(&issue);
    let issued = issue.await.unwrap();
    let plain = world.keys.issue("acme").await.unwrap();
    let mut canaries = vec![
        plain.expose_secret().to_owned(),
        issued.expose_secret().to_owned(),
    ];
    canaries.extend(
        [
            "active",
            "expiring",
            "expired",
            "suspended",
            "early",
            "test",
            "unknown",
            "typo",
            "truncated",
        ]
        .map(|name| world.plaintexts[name].clone()),
    );

    let bare = KeyFormat::imported("", Alphabet::BASE64URL, 30..=90, Environment::LIVE).unwrap();
    let bare = bare.dangerous_in_authorization();
    let bare = ApiKeys::read_only(world.store.clone())
        .formats([bare])
        .build()
        .unwrap();
    let down = ApiKeys::read_only(Down).build().unwrap();
    let wrong = ApiKeys::read_only(WrongRow).build().unwrap();
    let peppered = ApiKeys::builder(world.store.clone())
        .peppers(PepperRing::new("p", &[7; 32]).unwrap())
        .build()
        .unwrap();
    for key in &canaries {
        sing(&world.keys, key, &heard).await;
        sing(&bare, key, &heard).await;
        sing(&down, key, &heard).await;
        sing(&wrong, key, &heard).await;
        sing(&peppered, key, &heard).await;
        inspect(key, &issued, &heard).await;
    }
    let suspend = world.keys.suspend(plain.id());
    heard.debug(&suspend);
    heard.debug(&suspend.await);
    let revoke = world.keys.revoke(plain.id());
    heard.debug(&revoke);
    heard.debug(&revoke.await);
    sing(&world.keys, plain.expose_secret(), &heard).await;

    let text = heard.text();
    // The search would find something: what should be in the logs is in the logs.
    for expected in [
        "API key accepted",
        "was sent in the URL",
        "deprecated API key is in use",
        "the key store failed",
        "cannot be verified",
        "record of another key",
        "request refused",
        &plain.id().to_string(),
    ] {
        assert!(text.contains(expected), "not heard: {expected}");
    }
    for key in &canaries {
        let canary = Canary::of(key);
        let line = text.lines().find(|line| canary.sings_in(line));
        assert_eq!(line, None, "a key was heard");
    }
    // And it does find a canary that sings.
    tracing::trace!(key = canaries[0], "singing");
    assert!(Canary::of(&canaries[0]).sings_in(&heard.text()));
}
