//! A fault on our side is never taken for a fault of the caller, and never admits a request; and a
//! request that needs no store asks none.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use support::{World, answer, serve, text, with_key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower_api_key::key::{KeyDigest, PepperRing, Verifier};
use tower_api_key::store::StoreError;
use tower_api_key::{ApiKeys, KeyId, KeyRecord, KeyStore, MemoryStore};

type Answer = dyn Fn(&KeyId) -> Result<Option<KeyRecord>, StoreError> + Send + Sync;

/// A store that answers as it is told to, and counts how often it is asked.
#[derive(Clone)]
struct Scripted {
    answer: Arc<Answer>,
    asked: Arc<AtomicUsize>,
}

impl Scripted {
    fn new(
        answer: impl Fn(&KeyId) -> Result<Option<KeyRecord>, StoreError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            answer: Arc::new(answer),
            asked: Arc::default(),
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl KeyStore for Scripted {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        (self.answer)(id)
    }
}

#[tokio::test]
async fn invariant_5_a_server_side_fault_is_a_503_and_never_a_401_or_a_200() {
    let world = World::with_named_keys();
    let key = world.plaintexts["active"].clone();
    let digest = KeyDigest::of(&key);
    let peppered = move |pepper: &str| {
        let hmac = Verifier::peppered([0; 32], pepper.into());
        KeyRecord::new(digest.id(), hmac, "acme")
    };
    let ring = || PepperRing::new("known", &[7; 32]).unwrap();
    let unknown = peppered("unknown");
    let troubles: [(&str, Scripted, PepperRing); 6] = [
        (
            "down",
            Scripted::new(|_| Err(StoreError::unavailable("down"))),
            PepperRing::default(),
        ),
        (
            "corrupt",
            Scripted::new(|_| Err(StoreError::corrupt("row"))),
            PepperRing::default(),
        ),
        (
            "odd",
            Scripted::new(|_| Err(StoreError::conflict())),
            PepperRing::default(),
        ),
        (
            "a pepper that is not in the ring",
            Scripted::new(move |_| Ok(Some(unknown.clone()))),
            ring(),
        ),
        (
            "a record without a pepper",
            Scripted::new(move |_| Ok(Some(KeyRecord::imported(digest, "acme")))),
            ring(),
        ),
        (
            "a pepper where there is no ring",
            Scripted::new(move |_| Ok(Some(peppered("any")))),
            PepperRing::default(),
        ),
    ];
    for (trouble, store, ring) in troubles {
        let keys = ApiKeys::read_only(store).peppers(ring).build().unwrap();
        for layer in [
            keys.layer(),
            keys.layer().optional(),
            keys.layer().dangerous_allow_preflight(),
        ] {
            let answer = answer(&layer, with_key(&key));
            assert_eq!(
                answer.status(),
                StatusCode::SERVICE_UNAVAILABLE,
                "{trouble}"
            );
            assert_eq!(answer.headers()["retry-after"], "5", "{trouble}");
            let body = text(answer).await;
            assert!(!body.contains("pepper"), "{trouble} is told");
        }
    }
}

#[tokio::test]
async fn retry_after_is_rounded_up_and_never_zero() {
    use std::time::Duration;
    let world = World::with_named_keys();
    let key = &world.plaintexts["active"];
    let down = ApiKeys::read_only(support::Down).build().unwrap();
    for (after, told) in [
        (Duration::ZERO, "1"),
        (Duration::from_millis(1), "1"),
        (Duration::from_millis(1001), "2"),
        (Duration::from_secs(30), "30"),
        (Duration::MAX, "18446744073709551615"),
    ] {
        let answer = answer(&down.layer().outage_retry_after(after), with_key(key));
        assert_eq!(answer.headers()["retry-after"], told);
    }
}

#[tokio::test]
async fn a_malformed_key_is_not_looked_up_in_the_store() {
    let world = World::with_named_keys();
    let store = Scripted::new(|_| Ok(None));
    let layer = ApiKeys::read_only(store.clone()).build().unwrap().layer();
    for name in ["typo", "truncated", "junk", "jwt"] {
        let answer = answer(&layer, with_key(&world.plaintexts[name]));
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(store.asked(), 0, "{name}");
    }
    answer(&layer, with_key(&world.plaintexts["unknown"]));
    assert_eq!(store.asked(), 1);
}

#[tokio::test]
async fn a_record_of_another_key_from_the_store_is_a_503() {
    let world = World::with_named_keys();
    let [active, admin] = ["active", "admin"].map(|name| world.plaintexts[name].clone());
    let id = KeyDigest::of(&active).id();
    let other = KeyDigest::of(&admin);
    let answer_of = |wrong: KeyRecord| {
        let store = Scripted::new(move |_| Ok(Some(wrong.clone())));
        let layer = ApiKeys::read_only(store).build().unwrap().layer();
        answer(&layer, with_key(&active))
    };
    for wrong in [
        KeyRecord::imported(other, "acme"),
        KeyRecord::new(other.id(), Verifier::sha256(KeyDigest::of(&active)), "acme"),
    ] {
        let answer = answer_of(wrong);
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    // The right id and another secret: the caller holds 128 bits of the key, so the fault is ours.
    let changed = KeyRecord::new(id, Verifier::sha256(other), "acme");
    let answer = answer_of(changed);
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

/// Unknown and malformed keys: to the byte, the same answer on the wire.
#[tokio::test]
async fn the_caller_cannot_tell_why_a_key_is_not_found() {
    let world = World::with_named_keys();
    let empty = ApiKeys::builder(MemoryStore::new())
        .build()
        .unwrap()
        .layer();
    let mut answers = Vec::new();
    for name in ["unknown", "typo", "truncated"] {
        let address = serve(empty.clone()).await;
        let key = &world.plaintexts[name];
        let request = format!(
            "GET / HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n"
        );
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let lines: Vec<_> = answer
            .lines()
            .filter(|line| !line.starts_with("date:"))
            .collect();
        answers.push(lines.join("\n"));
    }
    assert!(answers[0].starts_with("HTTP/1.1 401 Unauthorized"));
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:#?}"
    );
}
